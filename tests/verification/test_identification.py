"""Identification rates against a loop over recordings."""

import numpy as np
import pytest

from hamsb.verification.identification import identification_rates


def naive(scores, speakers, enrolled, false_alarms, threshold=None):
    """The three rates and the threshold by trying every score as one."""
    strangers = [row for row, name in zip(scores, speakers) if name not in enrolled]
    own = [(row, name) for row, name in zip(scores, speakers) if name in enrolled]
    right = [enrolled[int(np.argmax(row))] == name for row, name in own]

    def alarms(t):
        return sum(max(row) >= t for row in strangers) / len(strangers)

    if threshold is None:
        tried = sorted({max(row) for row in scores} | {np.inf})
        threshold = next(t for t in tried if alarms(t) <= false_alarms)
    found = sum(ok and max(row) >= threshold for ok, (row, _) in zip(right, own))
    return sum(right) / len(own), found / len(own), alarms(threshold), threshold


def drawn(seed, recordings=60, enrolled=5, strangers=4):
    """Scores with ties, and who speaks."""
    random = np.random.default_rng(seed)
    names = [f"id{i}" for i in range(enrolled + strangers)]
    speakers = [names[i] for i in random.integers(len(names), size=recordings)]
    scores = random.standard_normal((recordings, enrolled)).round(1)
    for row, name in enumerate(speakers):
        if name in names[:enrolled]:
            scores[row, names.index(name)] += 1.5
    return scores, speakers, names[:enrolled]


def test_rates_are_those_of_a_loop():
    for seed in range(20):
        given = drawn(seed)
        for share in (0.001, 0.05, 0.2, 0.9):
            found = identification_rates(*given, share, draws=0)
            identified, detected, alarms, threshold = naive(*given, share)
            assert found["identification_rate"] == pytest.approx(identified)
            assert found["detection_identification_rate"] == pytest.approx(detected)
            assert found["false_alarm_rate"] == pytest.approx(alarms)
            if np.isfinite(threshold):
                assert found["threshold"] == pytest.approx(threshold)
        for threshold in (-9.0, 0.5, 0.55, 9.0):
            found = identification_rates(*given, threshold=threshold, draws=0)
            expected = naive(*given, 0.01, threshold)
            names = "identification_rate detection_identification_rate false_alarm_rate"
            assert [found[name] for name in names.split()] == pytest.approx(expected[:3])
            assert found["threshold"] == threshold and found["intervals"] == {}


def test_intervals_are_of_drawn_speakers():
    scores, speakers, enrolled = given = drawn(3)
    found = identification_rates(*given, 0.1, draws=300, seed=1)
    for name, values in found["draws"].items():
        assert values.shape == (300,)
        low, high = found["intervals"][name]
        assert low <= found[name] <= high and low < high
    again = identification_rates(scores, speakers, enrolled, 0.1, draws=300, seed=1)
    order = np.random.default_rng(0).permutation(len(speakers))
    moved = identification_rates(
        scores[order], [speakers[i] for i in order], enrolled, 0.1, draws=300, seed=1
    )
    for name, values in found["draws"].items():
        assert np.array_equal(values, again["draws"][name])
        np.testing.assert_allclose(values, moved["draws"][name])
    # A draw is what its speakers, as often as drawn, would have given.
    code = sorted(set(speakers))
    count = np.bincount(
        np.random.default_rng(1).integers(len(code), size=len(code)), minlength=len(code)
    )
    rows = [i for i, name in enumerate(speakers) for _ in range(count[code.index(name)])]
    expected = naive(scores[rows], [speakers[i] for i in rows], enrolled, 0.1)
    first = [values[0] for values in found["draws"].values()]
    assert first == pytest.approx(expected[:3])


@pytest.mark.parametrize("changes, said", [
    ({"scores": [[0.1, 0.2]]}, r"2 recordings and 2 enrolled speakers need \[2, 2\]"),
    ({"scores": [[0.1, np.nan], [0.1, 0.2]]}, "scores: must be finite"),
    ({"enrolled": ["ann", "ann"]}, "a name is there twice"),
    ({"speakers": ["ann", "ann"]}, "and of strangers are needed, and 2 of 2"),
    ({"speakers": ["eve", "eve"]}, "and of strangers are needed, and 0 of 2"),
    ({"false_alarms": 0.0}, "must be between 0 and 1"),
    ({"draws": -1}, "draws=-1"),
])  # fmt: skip
def test_what_gives_no_rates(changes, said):
    given = {
        "scores": [[0.1, 0.2], [0.3, 0.4]],
        "speakers": ["ann", "eve"],
        "enrolled": ["ann", "bob"],
    }
    with pytest.raises(ValueError, match=said):
        identification_rates(**{**given, **changes})
