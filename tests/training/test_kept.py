"""What training changes is in a checkpoint and in the export, or is refused."""

import pytest
import torch
from speechbrain.lobes.features import Fbank
from speechbrain.nnet.schedulers import CyclicLRScheduler
from speechbrain.processing.features import InputNormalization
from speechbrain.utils.epoch_loop import EpochCounter
from torch import nn

import hamsb
from hamsb.training.kept import check_kept, check_unchanged, fingerprint, unsaved

EXPORTED = ("compute_features", "mean_var_norm", "embedding_model", "classifier")


@pytest.fixture
def hparams():
    """The built keys of a yaml, and in "recoverables" what its checkpoints hold."""
    made = {
        "compute_features": Fbank(n_mels=10),
        "mean_var_norm": InputNormalization(norm_type="sentence"),
        "embedding_model": nn.Sequential(nn.Linear(10, 4), nn.BatchNorm1d(4)),
        "classifier": nn.Linear(4, 3),
        "compute_cost": hamsb.HAMSoftmax(),
        "epoch_counter": EpochCounter(3),
        "lr_annealing": CyclicLRScheduler(),
        "name": "text",
    }
    kept = "embedding_model", "classifier", "epoch_counter", "lr_annealing"
    made["recoverables"] = {name: made[name] for name in kept}
    return made


def check(hparams, **more):
    recoverables = hparams["recoverables"]
    named = {name: hparams[name] for name in (*EXPORTED, *more.pop("modules", ()))}
    keys = {k: v for k, v in hparams.items() if k != "recoverables"}
    check_kept(keys, named, recoverables, EXPORTED, ("compute_cost",))
    return named


def test_a_usual_yaml_passes(hparams):
    check(hparams)
    hparams["recoverables"] |= {"normalizer": hparams["mean_var_norm"]}
    check(hparams)


@pytest.mark.parametrize("name", ["embedding_model", "classifier"])
def test_a_module_that_learns_and_is_not_saved(hparams, name):
    del hparams["recoverables"][name]
    with pytest.raises(ValueError, match=rf"modules\[{name}\]: learns or keeps statistics"):
        check(hparams)


@pytest.mark.parametrize("name", ["epoch_counter", "lr_annealing"])
def test_a_counter_that_is_not_saved(hparams, name):
    del hparams["recoverables"][name]
    with pytest.raises(ValueError, match=rf"{name}: counts what a restart needs") as error:
        check(hparams)
    option = f"--checkpointer='{{recoverables: {{{name}: !ref <{name}>}}}}'"
    assert option in str(error.value)


def test_features_and_normalization_that_learn(hparams):
    hparams["compute_features"] = Fbank(n_mels=10, requires_grad=True)
    with pytest.raises(ValueError, match=r"modules\[compute_features\]: learns"):
        check(hparams)
    hparams["recoverables"]["features"] = hparams["compute_features"]
    check(hparams)
    hparams["mean_var_norm"] = InputNormalization(norm_type="global")
    with pytest.raises(ValueError, match=r"modules\[mean_var_norm\]: norm_type=global"):
        check(hparams)
    hparams["recoverables"]["normalizer"] = hparams["mean_var_norm"]
    check(hparams)


def test_running_statistics_alone(hparams):
    hparams["mean_var_norm"] = nn.BatchNorm1d(10, affine=False)
    with pytest.raises(ValueError, match=r"modules\[mean_var_norm\]: learns or keeps"):
        check(hparams)
    hparams["mean_var_norm"] = nn.BatchNorm1d(10, affine=False, track_running_stats=False)
    check(hparams)


def test_a_loss_that_learns(hparams):
    ball = hamsb.PoincareBall(1.0, learnable=True)
    cost = hamsb.NTXent(hamsb.HSoftmax(), similarity=hamsb.HyperbolicSimilarity(ball))
    hparams["compute_cost"] = cost
    message = (
        "compute_cost: learns similarity.ball.log_curvature and .*, and nothing trains"
    )
    with pytest.raises(ValueError, match=message) as error:
        check(hparams)
    assert (
        "--modules='{compute_cost: !ref <compute_cost>}' "
        "--checkpointer='{recoverables: {compute_cost: !ref <compute_cost>}}'"
    ) in str(error.value)
    with pytest.raises(ValueError, match=r"modules\[compute_cost\]: learns"):
        check(hparams, modules=["compute_cost"])
    hparams["recoverables"]["compute_cost"] = cost
    check(hparams, modules=["compute_cost"])


def test_a_network_that_nothing_trains_is_told_briefly(hparams):
    hparams["teacher"] = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with pytest.raises(ValueError, match="learns 0.weight and 0.bias and 2 more, and"):
        check(hparams)


def test_objects_in_lists_and_mappings(hparams):
    hparams["schedules"] = [{"margin": hamsb.LinearMargin(0.2, 10)}]
    with pytest.raises(ValueError, match=r"schedules\[0\]\[margin\]: counts what"):
        check(hparams)


def test_a_loss_of_a_branch_that_learns(hparams):
    cost = hamsb.SphereFace2()
    hparams["branches"] = {"classifier": {"cost": cost, "weight": 1.0}}
    message = r"branches\[classifier\]\[cost\]: learns bias, and nothing trains"
    with pytest.raises(ValueError, match=message) as error:
        check(hparams)
    reference = '{branches_classifier_cost: !ref "<branches[classifier][cost]>"}'
    assert f"--modules='{reference}' --checkpointer=" in str(error.value)
    cost.bias.requires_grad_(False)
    check(hparams)


def test_a_module_that_the_export_would_lack(hparams):
    hparams["adapter"] = hparams["recoverables"]["adapter"] = nn.Linear(4, 4)
    with pytest.raises(ValueError, match=r"modules\[adapter\]: would be trained, but the"):
        check(hparams, modules=["adapter"])
    hparams["adapter"].requires_grad_(False)
    check(hparams, modules=["adapter"])


class Counting(nn.Module):
    """Keeps a number that nothing tells of before the first batch."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen += 1
        return x


def test_what_shows_only_after_an_epoch(hparams):
    hparams["mean_var_norm"] = Counting()
    modules = check(hparams)
    left = unsaved(modules, hparams["recoverables"])
    assert set(left) == {"compute_features", "mean_var_norm"}
    before = {name: fingerprint(module) for name, module in left.items()}
    modules["compute_features"](torch.zeros(1, 400))
    check_unchanged(left, before)
    modules["mean_var_norm"](torch.zeros(1))
    with pytest.raises(ValueError, match=r"modules\[mean_var_norm\]: training changes"):
        check_unchanged(left, before)
    hparams["recoverables"]["normalizer"] = hparams["mean_var_norm"]
    assert set(unsaved(modules, hparams["recoverables"])) == {"compute_features"}


def test_a_fingerprint_is_of_all_that_is_kept():
    normalize = InputNormalization(norm_type="global")
    model = nn.Sequential(normalize, nn.Linear(3, 3))
    found = {fingerprint(model)}
    normalize(torch.randn(2, 5, 3), torch.ones(2))  # kept beside parameters and buffers
    found.add(fingerprint(model))
    model[1].weight.data[0, 0] += 1
    found.add(fingerprint(model))
    assert len(found) == 3 and fingerprint(model) in found
