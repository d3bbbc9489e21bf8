"""Where a model decides: made, stored, read, and told from another model's."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from hamsb.verification.calibration import Calibration
from hamsb.verification.decision import (
    false_alarm_threshold,
    fingerprint,
    make_decision,
    read_decision,
    read_own_decision,
    write_decision,
    write_own_decision,
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
    assert decision["speakers"] == ["1", "2"]
    fitted = Calibration.fit(scores, TRIALS.labels)
    assert Calibration.from_dict(decision["calibration"]) == fitted
    write_decision(tmp_path, decision)
    assert read_decision(tmp_path) == decision
    assert [path.name for path in tmp_path.iterdir()] == ["decision.json"]


def test_false_alarm_rates_of_the_impostor_trials():
    """Those that the trials are enough for, and what lies between and beyond."""
    generator = np.random.default_rng(0)
    labels = np.r_[np.ones(50, int), np.zeros(300, int)]
    scores = np.r_[generator.normal(2, 1, 50), -np.log(generator.uniform(size=300)) / 5]
    paths = ("a/1",) * 350, ("a/2",) * 350
    decision = make_decision(Trials(labels, *paths, Path("list.txt")), scores)
    found = {n: t for n, t in decision["thresholds"].items() if n.startswith("false")}
    assert list(found) == ["false_alarm_0.1", "false_alarm_0.01"]  # 0.3 trials at 0.001
    for name, threshold in found.items():
        share = (scores[50:] >= threshold).mean()
        assert share == pytest.approx(float(name.rpartition("_")[2]), abs=1e-9)
    high, low = found.values()
    for rate, expected in (
        (0.1, high),
        (0.01, low),
        (0.01**0.5 * 0.1**0.5, (high + low) / 2),
        (0.001, 2 * low - high),
        (0.9999, high + (low - high) * np.log10(0.9999 / 0.1) * -1),
    ):
        assert false_alarm_threshold(decision, rate) == pytest.approx(expected)
    del decision["thresholds"]["false_alarm_0.1"]
    assert false_alarm_threshold(decision, 0.1) is None


def test_a_share_that_no_threshold_tells_is_left_out(tmp_path):
    """Where more impostor trials than it share the highest score, as of a collapsed
    model."""
    labels = np.array([1] * 100 + [0] * 300)
    names = tuple(f"{i}/a" for i in range(400))
    trials = Trials(labels, names, names, Path("dev.txt"))
    tied = np.linspace(-1, 0.9, 400)
    tied[-5:] = 1.0
    for scores, stored in (
        (np.ones(400), {"eer"}),
        (tied, {"eer", "false_alarm_0.1"}),
    ):
        decision = make_decision(trials, scores, [])
        assert decision["thresholds"].keys() == stored
        write_decision(tmp_path, decision)


def test_no_threshold_where_rejecting_all_is_best():
    stored = make_decision(TRIALS, 1.0 - TRIALS.labels)
    assert list(stored["thresholds"]) == ["eer"]


def test_a_list_whose_paths_name_no_speakers_decides_too():
    flat = Trials(TRIALS.labels, ("a",) * 6, ("b", "c") * 3, Path("flat.txt"))
    decision = make_decision(flat, TRIALS.labels + 0.5)
    assert "speakers" not in decision and decision["thresholds"]["eer"] == 1.0


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


@pytest.mark.parametrize("text", [
    b'{"thresholds": ', b"[]", b"{}", b"7", b"\xff\xfe", b"[" * 100_000,
    b'{"thresholds": [0.5]}', b'{"thresholds": {"min_dcf_0.01": 0.5}}',
    b'{"thresholds": {"eer": NaN}}', b'{"thresholds": {"eer": "0.5"}}',
    b'{"thresholds": {"eer": null}}', b'{"thresholds": {"eer": true}}',
    b'{"thresholds": {"eer": 1e999}}', b'{"thresholds": {"eer": [0.5]}}',
    b'{"thresholds": {"eer": 0.5, "false_alarm_1e": 0.5}}',
    b'{"thresholds": {"eer": 0.5, "false_alarm_0": 0.5}}',
    b'{"thresholds": {"eer": 0.5}, "calibration": 3}',
    b'{"thresholds": {"eer": 0.5}, "calibration": {"scale": 1}}',
    b'{"thresholds": {"eer": 0.5}, "speakers": "a"}',
    b'{"thresholds": {"eer": 0.5}, "speakers": [1]}',
    b'{"thresholds": {"eer": 0.5}, "eer": null}',
    b'{"thresholds": {"eer": 0.5}, "eer": "x", "target_trials": 9}',
    b'{"thresholds": {"eer": 0.5}, "target_trials": "many"}',
])  # fmt: skip
def test_a_damaged_decision_is_refused(text, tmp_path):
    (tmp_path / "decision.json").write_bytes(text)
    with pytest.raises(ValueError, match="decision.json: damaged .*export the model again"):
        read_decision(tmp_path)


def test_a_fingerprint_tells_models_apart(tmp_path):
    (tmp_path / "hyperparams.yaml").write_text("a: 1")
    (tmp_path / "embedding_model.ckpt").write_bytes(b"0")
    first = fingerprint(tmp_path)
    assert len(first) == 64
    (tmp_path / "decision.json").write_text(json.dumps({}))
    assert fingerprint(tmp_path) == first  # where it decides is no part of a model
    copy = tmp_path.with_name("copy")
    shutil.copytree(tmp_path, copy)
    assert fingerprint(copy) == first
    (copy / "embedding_model.ckpt").rename(copy / "embedding_net.ckpt")
    assert fingerprint(copy) != first
    (tmp_path / "embedding_model.ckpt").write_bytes(b"1")
    assert fingerprint(tmp_path) != first
    seen = {first, fingerprint(tmp_path)}
    (tmp_path / "below").mkdir()
    for name in ("weights.pt", "below/weights.safetensors"):  # as ``paths`` may name them
        for content in (b"0", b"1"):
            (tmp_path / name).write_bytes(content)
            seen.add(fingerprint(tmp_path))
    assert len(seen) == 6


def test_the_fingerprint_of_an_export_stays(tmp_path):
    """By which stores of speakers and decisions of one's own know their model."""
    for name in ("b.yaml", "a.ckpt"):
        (tmp_path / name).write_text(name)
    expected = "".join(
        f"{name} {hashlib.sha256(name.encode()).hexdigest()}\n"
        for name in ("a.ckpt", "b.yaml")
    )
    assert fingerprint(tmp_path) == hashlib.sha256(expected.encode()).hexdigest()


def test_a_decision_of_ones_own(tmp_path):
    decision = {"thresholds": {"eer": 0.5}, "list": "calls"}
    write_own_decision(tmp_path / "mine.json", decision, "ab" * 32)
    found = read_own_decision(tmp_path / "mine.json", "ab" * 32)
    assert found == {"model": "ab" * 32, **decision}
    with pytest.raises(
        ValueError, match=r"of another model \(abababababab\).*\(cdcdcdcdcdcd\)"
    ):
        read_own_decision(tmp_path / "mine.json", "cd" * 32)
    with pytest.raises(FileNotFoundError, match="none.json: no such file; hamsb threshold"):
        read_own_decision(tmp_path / "none.json", "ab" * 32)
    for text, why in (
        ("{", "no decision, or damaged"),
        ("[]", "no mapping"),
        ('{"model": "a"}', "no thresholds, 'eer' among them"),
        ('{"thresholds": {"eer": 0.5}}', "does not say of which model it is"),
    ):
        (tmp_path / "mine.json").write_text(text)
        with pytest.raises(ValueError, match=why):
            read_own_decision(tmp_path / "mine.json", "ab" * 32)
    with pytest.raises(ValueError, match="a decision needs thresholds"):
        write_own_decision(tmp_path / "new.json", {"thresholds": {}}, "a")
    assert not (tmp_path / "new.json").exists()
