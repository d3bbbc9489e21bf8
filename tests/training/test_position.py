"""Where a training stands within an epoch."""

import random
import time

import numpy as np
import pytest
import torch

from hamsb.training import position
from hamsb.training.checkpoints import Checkpointer
from hamsb.training.position import (
    Feed,
    Position,
    own_share,
    random_state,
    set_random_state,
)


def draws():
    return random.random(), np.random.normal(), np.random.rand(), torch.rand(()).item()


def test_generators_go_on_as_they_would_have():
    np.random.normal()  # of a pair, the second is kept
    state = random_state()
    first = draws()
    assert draws() != first
    set_random_state(state)
    assert draws() == first


def test_a_checkpoint_within_an_epoch_holds_it_and_one_at_the_end_does_not(tmp_path):
    def restored(folder):
        position = Position()
        Checkpointer(folder, {"position": position}).recover_if_possible()
        return position

    position = Position()
    checkpointer = Checkpointer(tmp_path / "within", {"position": position})
    position.note(seconds=1.5, watched={"clipped": torch.arange(3)})
    expected = draws()
    checkpointer.save_checkpoint(end_of_epoch=False)
    found = restored(tmp_path / "within")
    draws()
    noted = found.take()
    assert draws() == expected
    assert noted["seconds"] == 1.5 and noted["watched"]["clipped"].tolist() == [0, 1, 2]
    before = random_state()
    assert found.take() == {}  # the next epoch begins afresh
    assert torch.equal(random_state()["torch"], before["torch"])

    checkpointer = Checkpointer(tmp_path / "end", {"position": position})
    checkpointer.save_checkpoint(end_of_epoch=True)
    assert restored(tmp_path / "end").take() == {}


def test_what_processes_noted_is_that_of_each_or_the_mean(monkeypatch):
    noted = [
        {"statistics": [torch.tensor([k]), torch.tensor(3)], "loss": k, "watched": {"a": k}}
        for k in (1.0, 2.0)
    ]
    monkeypatch.setattr(position, "share", lambda: (1, 2))
    assert own_share(noted) == noted[1]
    monkeypatch.setattr(position, "share", lambda: (2, 3))
    mean = own_share(noted)
    assert mean["loss"] == 1.5 and mean["watched"] == {"a": 1.5}
    assert mean["statistics"] == [torch.tensor([1.5]), torch.tensor(3)]


def test_the_wait_for_batches_is_measured():
    def loader():
        for _ in range(3):
            time.sleep(0.05)
            yield "abcd"

    feed, begun = Feed(loader(), lambda: begun.append(True)), []
    for _ in feed:
        assert begun == [True]
        time.sleep(0.1)
    facts = feed.facts(batches=6)
    assert 0.15 <= facts["loader_wait"] < 0.25
    assert facts["loader_wait_share"] == pytest.approx(1 / 3, abs=0.1)
    assert facts["global_batch"] == 24
    feed.go_on(1.0, 2.0, 5)
    facts = feed.facts(batches=1)
    assert 1.15 <= facts["loader_wait"] < 1.25 and facts["global_batch"] == 5
    assert facts["loader_wait_share"] == pytest.approx(1.15 / 2.45, abs=0.05)
