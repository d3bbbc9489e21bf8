"""The Brain of the training scripts, in parts; whole runs are in tests/recipes."""

import functools
import json
import random
import time
from types import SimpleNamespace

import numpy as np
import pytest
import speechbrain
import torch
from speechbrain import Stage
from speechbrain.nnet.CNN import Conv1d

from hamsb import CosineClassifier, LinearMargin
from hamsb.training.brain import EmbeddingBrain, unwrapped
from hamsb.training.checkpoints import Checkpointer
from hamsb.training.kept import fingerprint
from hamsb.training.shards import parted_parameters
from hamsb.utils.workers import outlive_sigterm
from stand_ins import Embedding


@pytest.fixture
def brain():
    """A function: a Brain with a tiny model and a head, changed by hparams."""

    def brain(**hparams):
        torch.manual_seed(0)
        modules = {"embedding_model": Embedding(10, 6), "classifier": torch.nn.Linear(6, 5)}
        return EmbeddingBrain(modules, hparams=hparams, run_opts={"device": "cpu"})

    return brain


def test_an_epoch_draws_from_seed_and_epoch(brain):
    def draws(seed, epoch):
        brain(seed=seed).on_stage_start(Stage.TRAIN, epoch)
        return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()

    first = draws(1, 1)
    for other in (draws(1, 2), draws(2, 1)):
        assert all(one != two for one, two in zip(first, other))
    assert draws(1, 1) == first


def test_the_module_inside_torch_compile_is_found():
    """It is what is averaged, and exported under its own names."""
    module = torch.nn.Linear(2, 2)
    assert unwrapped(torch.compile(module)) is module
    assert unwrapped(module) is module


def test_its_modules_pad_nothing_for_nothing():
    convolution = Conv1d(out_channels=4, kernel_size=1, in_channels=2)
    modules = {"embedding_model": torch.nn.Sequential(convolution)}
    EmbeddingBrain(modules, hparams={}, run_opts={"device": "cpu"})
    assert convolution.padding == "valid"


def test_features_with_parameters_are_exported_whether_or_not_they_changed(brain):
    """They may come from elsewhere, as a pretrained front end does."""
    made = brain()
    made.modules["compute_features"] = torch.nn.Linear(2, 2).requires_grad_(False)
    made.modules["mean_var_norm"] = torch.nn.BatchNorm1d(2, affine=False)
    made.fresh = {
        name: fingerprint(made.modules[name])
        for name in ("compute_features", "mean_var_norm")
    }
    assert made.exported() == ["compute_features", "embedding_model"]
    made.modules["mean_var_norm"](torch.randn(3, 2))
    assert made.exported() == ["compute_features", "mean_var_norm", "embedding_model"]


def test_modules_may_be_spared_weight_decay(brain):
    def groups(**hparams):
        made = brain(**hparams)
        made.opt_class = functools.partial(torch.optim.SGD, lr=0.1, weight_decay=0.5)
        made.init_optimizers()
        return made, made.optimizer.param_groups

    spared, (decayed, free) = groups(no_weight_decay=["classifier"])
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.5, 0.0)
    head = {id(parameter) for parameter in spared.modules.classifier.parameters()}
    assert {id(parameter) for parameter in free["params"]} == head
    both = [id(p) for group in (decayed, free) for p in group["params"]]
    assert sorted(both) == sorted(id(p) for p in spared.modules.parameters())
    assert len(groups()[1]) == 1


def test_a_sharded_head_takes_whole_batches_and_is_not_compiled(brain, monkeypatch):
    made = brain(output_folder=None, seed=0)
    head = CosineClassifier(6, 5, sharded=True)
    head.shard.processes = 2
    made.modules["classifier"] = head
    made.parted = parted_parameters(made.modules)
    data = [{"a": torch.ones(1)}] * 3
    with pytest.raises(ValueError, match="dataloader_options: a head .* drop_last: True"):
        made.make_dataloader(data, Stage.TRAIN, batch_size=2)
    made.compile, made.compile_module_keys = True, None
    monkeypatch.setattr(torch, "compile", lambda module, **_: module)
    made._compile()
    assert made.compile_module_keys == ["embedding_model"]


def test_an_epoch_repeated_replaces_its_entry_and_later_ones(brain, tmp_path):
    made = brain(output_folder=tmp_path)
    for epoch, loss in ((1, 3.0), (2, 2.5), (3, 2.0), (2, 1.5)):
        made.write_epoch({"epoch": epoch, "loss": loss})
    assert json.loads((tmp_path / "epochs.json").read_text()) == [
        {"epoch": 1, "loss": 3.0},
        {"epoch": 2, "loss": 1.5},
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["epochs.json"]
    made.write_epoch({"epoch": 1, "loss": 4.0})  # another run in the folder
    assert json.loads((tmp_path / "epochs.json").read_text()) == [{"epoch": 1, "loss": 4.0}]


def test_optional_keys_may_be_null(brain):
    made = brain(margin_schedule=None, no_weight_decay=None, lr_annealing=SimpleNamespace())
    made.opt_class = functools.partial(torch.optim.SGD, lr=0.1)
    made.init_optimizers()
    made.on_fit_batch_start(None, should_step=True)
    made.on_fit_batch_end(None, None, None, should_step=True)
    assert len(made.optimizer.param_groups) == 1
    schedule, cost = LinearMargin(0.2, 2), SimpleNamespace(margin=0.0)
    made = brain(
        margin_schedule=schedule, compute_cost=cost, lr_annealing=SimpleNamespace()
    )
    made.opt_class = functools.partial(torch.optim.SGD, lr=0.1)
    made.init_optimizers()
    made.on_fit_batch_end(None, None, None, should_step=True)
    assert cost.margin == pytest.approx(0.1)


def test_within_an_epoch_is_saved_only_what_an_optimizer_step_has_left(brain, tmp_path):
    """No checkpoint holds gradients of batches that make no step yet."""
    made = brain()
    made.checkpointer, made.grad_accumulation_factor = Checkpointer(tmp_path), 3
    made.ckpt_interval_steps = 2

    def asked(since):
        made.step = since
        return made._should_save_intra_epoch_ckpt(0.0, since)

    assert [asked(since) for since in range(1, 7)] == [False] * 2 + [True] + [False] * 2 + [
        True
    ]
    made.ckpt_interval_steps, made.stopping.asked = -1, True
    assert [asked(since) for since in range(1, 4)] == [False, False, True]


def test_time_and_values_before_a_checkpoint_within_an_epoch_count(brain, tmp_path):
    def begun(kind):
        made = brain(seed=1)
        checkpointer = Checkpointer(tmp_path / kind)
        checkpointer.add_recoverable("position", made.position)
        made.checkpointer = checkpointer
        return made

    made = begun("a")
    made.on_stage_start(Stage.TRAIN, 1)
    made.seconds, made.started = 50.0, time.time() - 100
    made.watch(clipped=torch.tensor(0.25))
    made._save_intra_epoch_ckpt()
    assert made.position.state == {}
    again = begun("a")
    again.checkpointer.recover_if_possible()
    assert again.position.state["seconds"] == pytest.approx(150, abs=5)
    again.go_on_within_epoch()
    again.watch(clipped=torch.tensor(0.75))
    assert [value.item() for value in again.watched["clipped"]] == [0.25, 0.75]


def test_batches_are_pinned_on_an_accelerator_and_workers_go_on(brain, monkeypatch):
    """The loader is not made: there is no accelerator here."""
    seen = {}

    class Made(Exception):
        pass

    def make(self, dataset, stage, *arguments, **options):
        seen.update(options)
        raise Made

    monkeypatch.setattr(speechbrain.Brain, "make_dataloader", make)
    for device, given, pinned in (
        ("cuda", {}, True),
        ("cpu", {}, False),
        ("mps", {}, False),  # torch pins no memory there
        ("cuda", {"pin_memory": False}, False),
    ):
        made = brain(seed=1)
        made.device_type = device
        with pytest.raises(Made):
            made.make_dataloader([1], Stage.TRAIN, **given)
        assert seen["pin_memory"] is pinned
    started = []
    monkeypatch.setattr("hamsb.training.brain.start_server", started.append)
    for workers, stage in ((0, Stage.TRAIN), (1, Stage.TRAIN), (2, Stage.VALID)):
        with pytest.raises(Made):
            made.make_dataloader(
                [1], stage, num_workers=workers, multiprocessing_context="forkserver"
            )
        assert seen["worker_init_fn"] is outlive_sigterm
    assert started == ["forkserver"] * 2


def test_files_are_embedded_with_the_loaders_workers(brain):
    ways = {"num_workers": 2, "multiprocessing_context": "forkserver"}
    made = brain(dataloader_options={"batch_size": 4, **ways})
    assert made.embedding_options == {"device": made.device, "shared": True, **ways}
    made = brain(dataloader_options={"batch_size": 4})
    assert made.embedding_options == {"device": made.device, "shared": True}
