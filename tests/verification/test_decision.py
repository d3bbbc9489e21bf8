"""Where a model decides: made, stored, read, and told from another model's."""

import json
from pathlib import Path

import numpy as np
import pytest

from hamsb.verification.calibration import Calibration
from hamsb.verification.decision import (
    fingerprint,
    make_decision,
    read_decision,
    write_decision,
)
from hamsb.verification.metrics import eer, min_dcf
from hamsb.verification.trials import Trials

TRIALS = Trials(
    np.array([1, 0, 1, 0, 1, 0]), ("1/a",) * 6, ("1/b", "2/a") * 3, Path("dev.txt")
)


def test_thresholds_and_calibration_are_those_of_the_list(tmp_path):
    scores = np.array([0.9, 0.1, 0.4, 0.5, 0.7, 0.2])
    decision = make_decision(TRIALS, scores, (0.3, 0.5))
    assert decision["thresholds"] == {
        "eer": eer(scores, TRIALS.labels)[1],
        "min_dcf_0.3": min_dcf(scores, TRIALS.labels, 0.3)[1],
        "min_dcf_0.5": min_dcf(scores, TRIALS.labels, 0.5)[1],
    }
    assert decision["eer"] == eer(scores, TRIALS.labels)[0]
    assert (decision["list"], decision["target_trials"]) == ("dev", 3)
    fitted = Calibration.fit(scores, TRIALS.labels)
    assert Calibration.from_dict(decision["calibration"]) == fitted
    write_decision(tmp_path, decision)
    assert read_decision(tmp_path) == decision
    assert [path.name for path in tmp_path.iterdir()] == ["decision.json"]


def test_no_threshold_where_rejecting_all_is_best():
    stored = make_decision(TRIALS, 1.0 - TRIALS.labels)
    assert list(stored["thresholds"]) == ["eer"]


def test_what_cannot_decide_is_not_stored(tmp_path):
    assert read_decision(tmp_path) is None
    for decision, message in (
        ({}, "needs thresholds, 'eer' among them"),
        ({"thresholds": {"min_dcf_0.01": 0.5}}, "needs thresholds"),
        ({"thresholds": {"eer": float("inf")}}, "inf"),
        ({"thresholds": {"eer": 0.5}, "eer": float("nan")}, "nan"),
    ):
        with pytest.raises(ValueError, match=message):
            write_decision(tmp_path, decision)
        assert list(tmp_path.iterdir()) == []
    (tmp_path / "decision.json").write_text('{"thresholds": ')
    with pytest.raises(ValueError, match="decision.json: damaged .*export the model again"):
        read_decision(tmp_path)


def test_a_fingerprint_tells_models_apart(tmp_path):
    (tmp_path / "hyperparams.yaml").write_text("a: 1")
    (tmp_path / "embedding_model.ckpt").write_bytes(b"0")
    first = fingerprint(tmp_path)
    assert len(first) == 64
    (tmp_path / "decision.json").write_text(json.dumps({}))
    assert fingerprint(tmp_path) == first  # where it decides is no part of a model
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in list(tmp_path.glob("*.*")):
        (copy / path.name).write_bytes(path.read_bytes())
    assert fingerprint(copy) == first
    (copy / "embedding_model.ckpt").rename(copy / "embedding_net.ckpt")
    assert fingerprint(copy) != first
    (tmp_path / "embedding_model.ckpt").write_bytes(b"1")
    assert fingerprint(tmp_path) != first
