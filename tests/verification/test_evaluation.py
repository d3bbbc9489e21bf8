"""The numbers of scored lists, and of groups of their trials."""

import json
from pathlib import Path

import numpy as np
import pytest

from hamsb.verification.bootstrap import bootstrap_eer, interval
from hamsb.verification.evaluation import eer_intervals, evaluate_groups, evaluate_trials
from hamsb.verification.groups import trial_groups
from hamsb.verification.metrics import act_dcf, cllr, eer, min_cllr, min_dcf
from hamsb.verification.trials import Trials
from runs import random_trials


def test_evaluate_trials():
    for p_targets in [(0.01, 0.05), (0.3,)]:
        trials, scores = random_trials()
        result = evaluate_trials(trials, scores, p_targets)
        value, threshold = eer(scores, trials.labels)
        expected = {
            "list": "random",
            "target_trials": int((trials.labels == 1).sum()),
            "impostor_trials": int((trials.labels == 0).sum()),
            "eer": value,
            "eer_threshold": threshold,
        }
        for p in p_targets:
            cost, threshold = min_dcf(scores, trials.labels, p)
            expected |= {f"min_dcf_{p}": cost, f"min_dcf_threshold_{p}": threshold}
        assert result == expected
        assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_calibrated_scores_have_more_numbers():
    trials, scores = random_trials()
    result = evaluate_trials(trials, scores, (0.1,), calibrated=True)
    plain = evaluate_trials(trials, scores, (0.1,))
    assert {**result, **plain} == result
    assert {key: result[key] for key in result.keys() - plain.keys()} == {
        "act_dcf_0.1": act_dcf(scores, trials.labels, 0.1),
        "cllr": cllr(scores, trials.labels),
        "min_cllr": min_cllr(scores, trials.labels),
    }


def test_rejecting_every_trial_is_no_threshold(six_trials):
    """JSON has no infinity."""
    reversed_scores = 1.0 - six_trials.labels
    result = evaluate_trials(six_trials, reversed_scores, (0.01,))
    assert result["min_dcf_0.01"] == 1.0 and result["min_dcf_threshold_0.01"] is None
    json.dumps(result, allow_nan=False)


def test_errors_name_the_list(six_trials):
    with pytest.raises(ValueError, match=r"small.txt: .*finite, got nan at index 2"):
        evaluate_trials(six_trials, [0.1, 0.2, float("nan"), 0.4, 0.5, 0.6])
    one_class = Trials(np.ones(2, int), ("a", "b"), ("c", "d"), Path("one.txt"))
    with pytest.raises(ValueError, match=r"one.txt: trials of both classes are needed"):
        evaluate_trials(one_class, [0.1, 0.2])


def test_intervals_are_those_of_a_bootstrap_over_speakers():
    trials, scores = random_trials()
    systems = np.stack([scores, -scores])
    found = eer_intervals(trials, systems, draws=50, seed=3)
    sides = ([name.split("/")[0] for name in side] for side in (trials.enrol, trials.test))
    values = bootstrap_eer(systems, trials.labels, *sides, draws=50, seed=3)
    assert found == [interval(row) for row in values]
    assert found[0][0] < eer(scores, trials.labels)[0] < found[0][1] < 0.5 < found[1][0]
    assert found == eer_intervals(trials, systems, draws=50, seed=3)
    json.dumps(found, allow_nan=False)


def test_intervals_need_speakers(six_trials):
    flat = Trials(
        np.array([1, 0]), ("a.wav", "a.wav"), ("b.wav", "c.wav"), Path("flat.txt")
    )
    with pytest.raises(
        ValueError, match="flat.txt: no interval.*flat.txt:1: no speaker.*: 0 to"
    ):
        eer_intervals(flat, [[0.5, 0.25]])
    wrong = Trials(
        six_trials.labels[::-1], six_trials.enrol, six_trials.test, six_trials.path
    )
    with pytest.raises(ValueError, match="small.txt: no interval.*label 0 at index 0"):
        eer_intervals(wrong, [[0.5] * 6])


def test_evaluate_groups(six_trials):
    scores = np.array([0.9, 0.2, 0.8, 0.4, 0.1, 0.3])
    groups = trial_groups(six_trials, np.array([1.0, 1, 1, 5, 5, 5]), [3])
    results = evaluate_groups(six_trials, scores, groups, (0.05,))
    found = {(r["what"], r["group"]): r for r in results}
    assert list(found) == list(groups)
    short = found["duration", "below 3 s"]
    assert (short["target_trials"], short["impostor_trials"]) == (3, 0)
    assert "eer" not in short
    for name, own in (("same", [0, 3, 4, 5]), ("different", [1, 2, 3, 4, 5])):
        result, labels = found["session", name], six_trials.labels[own]
        assert result["target_trials"] == labels.sum() and result["impostor_trials"] == 3
        assert result["eer"] == eer(scores[own], labels)[0]
        assert result["min_dcf_0.05"] == min_dcf(scores[own], labels, 0.05)[0]
    json.dumps(results, allow_nan=False)
