"""A step of train.py view by view, against one backward pass for all views."""

import functools

import pytest
import speechbrain
import torch
from speechbrain.augment.augmenter import Augmenter
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
from speechbrain.processing.features import InputNormalization
from torch.autograd.graph import saved_tensors_hooks

import hamsb
import train
from stand_ins import Framed


class Louder(torch.nn.Module):
    """Stands for an augmentation."""

    def forward(self, wavs):
        return 3 * wavs + 0.1 * torch.randn_like(wavs)


@pytest.fixture
def brain():
    """A function: a small SpeakerBrain with batch normalization and two views."""

    def brain(run_opts=(), **hparams):
        torch.manual_seed(0)
        network = ECAPA_TDNN(
            10, channels=[8] * 4 + [24], attention_channels=8, lin_neurons=6
        )
        modules = {
            "compute_features": Framed(),
            "mean_var_norm": InputNormalization(norm_type="sentence", std_norm=False),
            "embedding_model": network,
            "classifier": hamsb.HyperbolicClassifier(6, 5, hamsb.ClippedUnitBall(1.0)),
        }
        given = {
            "compute_cost": hamsb.HAMSoftmax(),
            "wav_augment": Augmenter(concat_original=True, augmentations=[Louder()]),
            "lr_annealing": None,
            "separate_views": True,
            **hparams,
        }
        made = train.SpeakerBrain(
            modules,
            functools.partial(torch.optim.SGD, lr=0.1),
            given,
            {"device": "cpu", **dict(run_opts)},
        )
        made.init_optimizers()
        made.nonfinite_count = 0
        made.modules.train()
        return made

    return brain


def batches(count):
    generator = torch.Generator().manual_seed(1)
    return [
        PaddedBatch(
            [
                {
                    "id": str(number),
                    "sig": torch.randn(400, generator=generator),
                    "spk_id_encoded": torch.tensor([number % 5]),
                }
                for number in range(10)
            ]
        )
        for _ in range(count)
    ]


def course(brain, fit_batch, steps=3):
    """Losses of the steps, and all that they leave."""
    torch.manual_seed(2)
    losses = []
    for batch in batches(steps):
        brain.step += 1
        losses.append(fit_batch(brain, batch))
    return losses, brain.modules.state_dict()


def test_steps_are_those_of_one_backward_pass(brain):
    """Losses, weights and running statistics, to the last bit."""
    losses, left = course(brain(), train.SpeakerBrain.fit_batch)
    expected, kept = course(brain(), speechbrain.Brain.fit_batch)
    assert losses == expected and losses[0] != losses[2]
    assert left.keys() == kept.keys()
    assert all(torch.equal(left[name], kept[name]) for name in kept)


@pytest.mark.parametrize(
    "options, steps, error",
    [
        # More than two numbers are added, in another order.
        ({"grad_accumulation_factor": 2}, 4, 1e-5),
        # Of each view's gradient, rounded to bf16, the sum is now in float32.
        ({"precision": "bf16"}, 1, 1e-2),
    ],
)
def test_where_steps_are_those_of_one_backward_pass_but_for_rounding(
    brain, options, steps, error
):
    losses, left = course(brain(options), train.SpeakerBrain.fit_batch, steps)
    expected, kept = course(brain(options), speechbrain.Brain.fit_batch, steps)
    torch.testing.assert_close(losses, expected)
    begun, distance, moved = brain().modules.state_dict(), 0.0, 0.0
    for name, value in kept.items():
        distance += (left[name] - value).float().square().sum().item()
        moved += (value - begun[name]).float().square().sum().item()
    assert distance < error**2 * moved and moved > 0


def test_gradients_are_shared_among_processes_once_a_step(brain):
    made, seen = brain(run_opts={"grad_accumulation_factor": 2}), []
    no_sync = made.no_sync
    made.no_sync = lambda use: (seen.append(use), no_sync(use))[1]
    course(made, train.SpeakerBrain.fit_batch, 2)
    assert seen == [True, True, True, False]


def kept_bytes(brain, fit_batch):
    """The most that a step keeps for its backward passes, in bytes."""
    alive, most = {}, 0

    class Kept:
        def __init__(self, tensor):
            nonlocal most
            self.tensor = tensor
            alive[id(self)] = tensor.numel() * tensor.element_size()
            most = max(most, sum(alive.values()))

        def __del__(self):
            del alive[id(self)]

    with saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        course(brain, fit_batch, 1)
    return most


def test_activations_of_one_view_at_a_time_are_kept(brain):
    ours = kept_bytes(brain(), train.SpeakerBrain.fit_batch)
    joined = kept_bytes(brain(), speechbrain.Brain.fit_batch)
    assert 0 < ours < 0.55 * joined


def test_a_view_without_a_finite_loss_changes_no_weight(brain):
    class Once(hamsb.HAMSoftmax):
        """Not finite in the first view."""

        def forward(self, *inputs):
            self.calls = getattr(self, "calls", 0) + 1
            loss = super().forward(*inputs)
            return loss * float("nan") if self.calls == 1 else loss

    made, checked = brain(compute_cost=Once()), []
    made.nonfinite_patience = 0
    check = made.check_loss_isfinite
    made.check_loss_isfinite = lambda loss: (checked.append(loss), check(loss))
    before = [p.detach().clone() for p in made.modules.parameters()]
    with pytest.raises(ValueError, match=r"the loss is nan in step 1.* 0, 1, 2"):
        course(made, train.SpeakerBrain.fit_batch, 1)
    assert len(checked) == 1
    assert all(torch.equal(a, b) for a, b in zip(before, made.modules.parameters()))
