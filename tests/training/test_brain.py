"""The Brain of the training scripts, in parts; whole runs are in tests/recipes."""

import functools
import json
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from speechbrain import Stage

from hamsb import LinearMargin
from hamsb.training.brain import EmbeddingBrain, unwrapped
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


def test_files_are_embedded_with_the_loaders_workers(brain):
    ways = {"num_workers": 2, "multiprocessing_context": "forkserver"}
    made = brain(dataloader_options={"batch_size": 4, **ways})
    assert made.embedding_options == {"device": made.device, "shared": True, **ways}
    made = brain(dataloader_options={"batch_size": 4})
    assert made.embedding_options == {"device": made.device, "shared": True}
