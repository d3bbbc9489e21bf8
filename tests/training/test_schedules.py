"""Margin warm-up: its values, whom it serves, and that a resumed run has them."""

import math
from itertools import product

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain import Brain
from speechbrain.nnet.losses import AdditiveAngularMargin, LogSoftmaxWrapper
from speechbrain.utils.epoch_loop import EpochCounter

import hamsb
from hamsb.training.checkpoints import Checkpointer
from hamsb.training.schedules import CosineMargin, LinearMargin

SCHEDULES = [LinearMargin, CosineMargin]


def test_cosine_is_the_papers():
    """m(e) = m [1 - (1 + cos(pi e / (E/2))) / 2] for the first half, then m."""
    for epochs in (7, 40):
        m, half = 0.3, epochs / 2
        schedule = CosineMargin(m, warmup_steps=half)
        for e in range(epochs):
            paper = m * (1 - (1 + math.cos(math.pi * e / half)) / 2) if e < half else m
            assert schedule.at(e) == pytest.approx(paper, abs=1e-15)


def test_linear_by_hand():
    schedule = LinearMargin(0.5, warmup_steps=4, initial_margin=0.1, delay_steps=2)
    values = [schedule.at(step) for step in range(8)]
    assert values == pytest.approx([0.1, 0.1, 0.1, 0.2, 0.3, 0.4, 0.5, 0.5])


def test_it_begins_and_ends_exactly_and_never_turns():
    for kind, (initial, margin) in product(
        SCHEDULES, [(0.0, 0.2), (0.1, 0.3), (0.2, 0.05), (0.3, 0.3)]
    ):
        schedule = kind(margin, 50, initial_margin=initial, delay_steps=10)
        values = [schedule.at(step) for step in range(100)]
        assert set(values[:11]) == {initial} and set(values[60:]) == {margin}
        rises = {(b > a) - (b < a) for a, b in zip(values[10:60], values[11:61])}
        assert rises == {(margin > initial) - (margin < initial)}


def test_no_warm_up_is_a_jump():
    for kind in SCHEDULES:
        schedule = kind(0.2, 0, delay_steps=2)
        assert [schedule.at(step) for step in range(4)] == [0, 0, 0.2, 0.2]


def test_every_margin_loss_computes_with_the_margin_set():
    names = ["AMSoftmax", "AAMSoftmax", "RAMSoftmax", "HAMSoftmax"]
    for kind, name in product(SCHEDULES, names):
        cost, schedule = getattr(hamsb, name)(margin=0.2, scale=10.0), kind(0.2, 10)
        predictions = torch.tensor([[[0.6, 0.5, 0.1]]])
        if name == "HAMSoftmax":
            predictions = predictions - 1
        targets = torch.tensor([[0]])
        schedule.apply(cost)
        for step in range(12):
            assert cost.margin == schedule.at(step)
            fresh = getattr(hamsb, name)(margin=schedule.at(step), scale=10.0)
            assert cost(predictions, targets) == fresh(predictions, targets)
            schedule.step(cost)
        assert cost.margin == 0.2


def test_a_loss_without_margin_is_a_value_error():
    for cost in (
        hamsb.Softmax(),
        hamsb.HSoftmax(),
        LogSoftmaxWrapper(AdditiveAngularMargin()),
        torch.nn.functional.cross_entropy,
    ):
        for call in (LinearMargin(0.2, 10).apply, CosineMargin(0.2, 10).step):
            with pytest.raises(ValueError, match="no margin"):
                call(cost)
        assert not hasattr(cost, "margin")


def test_a_final_margin_that_the_loss_does_not_take_shows_at_once():
    with pytest.raises(ValueError, match="margin=3.2"):
        LinearMargin(3.2, 1000).apply(hamsb.AAMSoftmax())
    with pytest.raises(ValueError, match="margin=1000: must not be larger than scale=30"):
        LinearMargin(1000, 0.2).apply(hamsb.HAMSoftmax())


def test_arguments_out_of_range_are_named():
    names = ["margin", "warmup_steps", "initial_margin", "delay_steps"]
    for kind, name, value in product(
        SCHEDULES, names, [-1, math.nan, math.inf, "0.2", None, True]
    ):
        arguments = {"margin": 0.2, "warmup_steps": 10, name: value}
        with pytest.raises(ValueError, match=f"{name}={value!r}"):
            kind(**arguments)


def test_a_yaml_builds_one_and_the_loss_keeps_its_margin():
    text = """
number_of_epochs: 5
steps_per_epoch: 3
compute_cost: !new:hamsb.HAMSoftmax
    margin: 0.2
margin_schedule: !new:hamsb.CosineMargin
    margin: 0.2
    warmup_steps: !ref <number_of_epochs> * <steps_per_epoch> / 2
"""
    loaded = load_hyperpyyaml(text)
    assert loaded["margin_schedule"].warmup_steps == 7.5
    assert loaded["compute_cost"].margin == 0.2


# ------------------------------------------------------------------------- resuming


class Fit(Brain):
    """Uses a schedule as train.py does; notes the margin of every batch."""

    def compute_forward(self, batch, stage):
        return self.modules.model(batch).unsqueeze(1)

    def compute_objectives(self, predictions, batch, stage):
        if len(self.hparams.margins) == self.hparams.stop_after:
            raise InterruptedError
        self.hparams.margins.append(self.hparams.compute_cost.margin)
        return self.hparams.compute_cost(predictions, torch.zeros(len(batch), 1).long())

    def on_fit_start(self):
        super().on_fit_start()
        self.hparams.margin_schedule.apply(self.hparams.compute_cost)

    def on_fit_batch_end(self, batch, outputs, loss, should_step):
        if should_step:
            self.hparams.margin_schedule.step(self.hparams.compute_cost)

    def on_stage_end(self, stage, stage_loss, epoch=None):
        self.checkpointer.save_and_keep_only({"epoch": epoch})


def margins(folder, kind, stop_after=None, **options):
    """The margins of the batches of three epochs of four batches, until stopped."""
    model, counter, schedule = torch.nn.Linear(2, 3), EpochCounter(3), kind(0.2, 8)
    objects = {"model": model, "counter": counter, "margin_schedule": schedule}
    hparams = {
        "margin_schedule": schedule,
        "compute_cost": hamsb.AMSoftmax(margin=0.2),
        "margins": [],
        "stop_after": stop_after,
    }
    brain = Fit(
        {"model": model},
        lambda parameters: torch.optim.SGD(parameters, 0.1),
        hparams,
        {"noprogressbar": True, **options},
        Checkpointer(folder, objects),
    )
    try:
        brain.fit(counter, torch.ones(4, 2), train_loader_kwargs={"batch_size": 1})
    except InterruptedError:
        pass
    return hparams["margins"]


@pytest.mark.parametrize("kind", SCHEDULES)
def test_a_resumed_run_has_the_margins_of_an_uninterrupted_one(tmp_path, kind):
    schedule = kind(0.2, 8)
    whole = margins(tmp_path / "whole", kind)
    assert whole == [schedule.at(step) for step in range(12)]
    # Stopped within the second epoch: from the end of the first one,
    assert margins(tmp_path / "cut", kind, stop_after=6) == whole[:6]
    assert margins(tmp_path / "cut", kind) == whole[4:]
    # and from a checkpoint within the epoch.
    options = {"ckpt_interval_steps": 3}
    assert margins(tmp_path / "within", kind, stop_after=7, **options) == whole[:7]
    assert margins(tmp_path / "within", kind, **options) == whole[7:]


def test_accumulated_batches_share_a_margin(tmp_path):
    seen = margins(tmp_path, LinearMargin, grad_accumulation_factor=2)
    schedule = LinearMargin(0.2, 8)
    assert seen == [schedule.at(batch // 2) for batch in range(12)]
