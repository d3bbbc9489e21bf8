"""Bootstrap over speakers: against a naive one, and intervals of rates and changes."""

from itertools import product

import numpy as np
import pytest
import torch

from hamsb.verification.bootstrap import (
    bootstrap_eer,
    interval,
    mean_relative_change,
    relative_change,
)
from hamsb.verification.metrics import eer

NAN, INF = float("nan"), float("inf")
DECIMALS = [None, 1, 0]


def speaker_trials(seed, n=80, speakers=6, decimals=None):
    """Trials between speakers, each with an offset of its own, and both sides."""
    rng = np.random.default_rng(seed)
    enrol = rng.integers(0, speakers, n)
    other = (enrol + rng.integers(1, speakers, n)) % speakers
    labels = rng.integers(0, 2, n)
    labels[:2] = 0, 1
    test = np.where(labels == 1, enrol, other)
    scores = rng.normal(size=n) + 1.5 * labels + rng.normal(size=speakers)[enrol]
    return scores if decimals is None else scores.round(decimals), labels, enrol, test


def naive_bootstrap(scores, labels, enrol, test, draws, seed):
    """A list for each draw in which the trials are repeated, and its EER."""
    speakers = sorted({*enrol.tolist(), *test.tolist()})
    rng, values = np.random.default_rng(seed), []
    while len(values) < draws:
        drawn = [speakers[k] for k in rng.integers(len(speakers), size=len(speakers))]
        trials = []
        for score, label, e, t in zip(scores, labels, enrol, test):
            times = drawn.count(e) * (1 if label else drawn.count(t))
            trials += [(score, label)] * times
        if {label for _, label in trials} == {0, 1}:
            values.append(eer(*map(list, zip(*trials)))[0])
    return values


@pytest.mark.filterwarnings("error")
def test_bootstrap_is_the_eer_of_repeated_trials():
    """With two speakers every second draw has no impostor trial and is replaced."""
    for decimals, seed, speakers in product(DECIMALS, range(4), [2, 3, 6]):
        trials = speaker_trials(seed, speakers=speakers, decimals=decimals)
        got = bootstrap_eer(*trials, draws=12, seed=seed)
        assert got.shape == (12,) and got.dtype == np.float64
        np.testing.assert_allclose(
            got, naive_bootstrap(*trials, draws=12, seed=seed), atol=1e-12
        )


def test_compared_systems_share_the_draws():
    scores, *rest = speaker_trials(1)
    other = -scores
    both = bootstrap_eer([scores, other, np.exp(scores)], *rest, draws=20)
    assert both.shape == (3, 20)
    np.testing.assert_array_equal(both[0], bootstrap_eer(scores, *rest, draws=20))
    np.testing.assert_array_equal(both[1], bootstrap_eer(other, *rest, draws=20))
    np.testing.assert_array_equal(both[2], both[0])  # the same order, the same EER
    assert interval(both[0] - both[2]) == (0.0, 0.0)
    one = bootstrap_eer(torch.tensor(scores)[None], *rest, draws=20)
    np.testing.assert_array_equal(one, both[:1])


def test_the_draws_depend_on_seed_and_speakers_only():
    scores, labels, enrol, test = speaker_trials(2)
    expected = bootstrap_eer(scores, labels, enrol, test, draws=10, seed=3)
    order = np.random.default_rng(0).permutation(len(scores))
    names = np.array(["id0", "id1", "id2", "id3", "id4", "id5"])
    for same in (
        (scores[order], labels[order], enrol[order], test[order]),
        (scores, labels, names[enrol].tolist(), names[test]),
        (scores.tolist(), labels.astype(bool), torch.tensor(enrol), test.tolist()),
    ):
        np.testing.assert_array_equal(bootstrap_eer(*same, draws=10, seed=3), expected)
    first = bootstrap_eer(scores, labels, enrol, test, draws=5, seed=3)
    np.testing.assert_array_equal(first, expected[:5])
    other = bootstrap_eer(scores, labels, enrol, test, draws=10, seed=4)
    assert (other != expected).any()


def test_bootstrap_of_perfect_and_collapsed_scores():
    scores, labels, enrol, test = speaker_trials(3)
    for value, constant in [(0.0, labels), (1.0, -labels), (0.5, 0 * labels)]:
        got = bootstrap_eer(constant, labels, enrol, test, draws=20)
        np.testing.assert_array_equal(got, np.full(20, value))


def test_speakers_are_the_unit_that_varies():
    """Many trials of few, different speakers: as if trials were independent, the
    interval would be several times too narrow."""
    scores, labels, enrol, test = speaker_trials(4, n=20_000, speakers=20)
    low, high = interval(bootstrap_eer(scores, labels, enrol, test, draws=200))
    assert low < eer(scores, labels)[0] < high
    as_if_independent = 2 * 1.96 * np.sqrt(0.3 * 0.7 / 10_000)
    assert high - low > 3 * as_if_independent


def test_bootstrap_refuses():
    for changed, message in [
        ({"labels": [1, 0, 1, 1]}, r"label 1 at index 3.*'b' and 'c' \(1 such"),
        ({"labels": [1, 0, 0, 0]}, "label 0 at index 2, but its speakers are 'b' and"),
        ({"enrol_speakers": ["a", "a", "b"]}, "4 trials, but 3 enrol_speakers"),
        ({"test_speakers": [0.0, 1.0, 1.0, 2.0]}, "test_speakers must be str or int"),
        ({"test_speakers": [["a"]] * 4}, "test_speakers must be 1-D"),
        ({"draws": 0}, "draws must be an integer of at least 1, got 0"),
        ({"draws": 1.5}, "draws must be an integer of at least 1, got 1.5"),
        ({"scores": [[0.1, 0.2, 0.3, 0.4], [0.1, 0.2, NAN, 0.4]]}, r"scores\[1\].*index 2"),
        ({"scores": np.empty((0, 4))}, r"no systems: scores have shape \(0, 4\)"),
        ({"scores": np.empty((1, 1, 4))}, "scores must be 1-D or 2-D"),
    ]:
        arguments = {
            "scores": [0.4, 0.3, 0.2, 0.1],
            "labels": [1, 0, 1, 0],
            "enrol_speakers": ["a", "a", "b", "b"],
            "test_speakers": ["a", "b", "b", "c"],
        }
        with pytest.raises(ValueError, match=message):
            bootstrap_eer(**{**arguments, **changed})


def test_interval_is_the_central_share_of_the_draws():
    values = np.random.default_rng(0).permutation(np.arange(1001.0))
    assert interval(values) == pytest.approx((25, 975))
    assert interval(values, level=0.8) == pytest.approx((100, 900))
    assert all(type(end) is float for end in interval(values))
    low, high = interval([values, 2 * values])
    np.testing.assert_allclose([low, high], [[25, 50], [975, 1950]])
    assert interval([0.3]) == (0.3, 0.3)


def test_interval_refuses():
    for values, level, message in [
        ([], 0.95, "no draws"),
        (0.5, 0.95, "draws must be 1-D or 2-D"),
        ([0.1, INF, NAN], 0.95, r"draws must be finite, got inf at index 1 \(2 of 3\)"),
        ([[0.1], [NAN]], 0.95, "got nan at index 1, 0"),
        ([0.1], 1.0, r"level must be in \(0, 1\), got 1.0"),
        ([0.1], 0.0, "level must be"),
    ]:
        with pytest.raises(ValueError, match=message):
            interval(values, level)


def test_change_is_of_the_means_and_its_interval_of_the_paired_draws():
    random = np.random.default_rng(0)
    ours, theirs = random.uniform(1, 2, (2, 3, 500))  # three runs
    own, baseline = [1.0, 2.0, 3.0], [2.0, 3.0, 3.0]
    change, low, high = relative_change(own, baseline, ours, theirs)
    assert change == pytest.approx(6 / 8 - 1)
    changes = ours.mean(0) / theirs.mean(0) - 1
    assert (low, high) == pytest.approx(np.quantile(changes, [0.025, 0.975]))
    assert relative_change(own, baseline, ours, theirs, 0.5)[1] > low


def test_a_baseline_without_errors_has_no_relative_change():
    assert relative_change([1.0], [0.0], [[1.0, 1.0]], [[0.0, 0.0]]) == (None, None, None)
    assert relative_change([1.0], [1.0], [[1.0, 1.0]], [[0.0, 1.0]]) == (0.0, None, None)


def changes_of(own, baseline, draws=400, spread=0.0, seed=0):
    """A corpus for `mean_relative_change`, whose speakers vary by a spread."""
    random = np.random.default_rng(seed)
    factors = random.uniform(1 - spread, 1 + spread, (2, len(own), draws))
    return own, baseline, np.c_[own] * factors[0], np.c_[baseline] * factors[1]


def test_mean_change_is_that_of_the_corpora():
    one, other = changes_of([1.0, 3.0], [2.0, 3.0]), changes_of([6.0], [4.0])
    change, low, high = mean_relative_change([one, other])
    assert change == pytest.approx((-0.2 + 0.5) / 2)
    # Without a spread of the speakers: one of three draws of two pairs, and the other's.
    assert (low, high) == pytest.approx(((-0.5 + 0.5) / 2, (0.0 + 0.5) / 2))
    assert mean_relative_change([other]) == pytest.approx((0.5, 0.5, 0.5))
    assert mean_relative_change([one, other], level=0.3)[1] > low
    swapped = [one[1], one[0], one[3], one[2]]
    assert mean_relative_change([swapped])[1] == pytest.approx(0.0)


def test_mean_change_draws_speakers_and_pairs_of_runs():
    """The variance of the mean is that of the speakers and that of the pairs, of two
    independent corpora; a pair's runs stay together."""
    own, baseline = [2.0, 3.0, 4.0], [4.0, 6.0, 8.0]  # pairs alike, seeds not
    _, low, high = mean_relative_change([changes_of(own, baseline)])
    assert (low, high) == pytest.approx((-0.5, -0.5))
    others = [4.0, 5.0, 6.0], [5.0] * 3
    widths = []
    for spread in (0.0, 0.3):
        parts = [changes_of(*others, 20_000, spread, seed) for seed in (1, 2)]
        for part in (parts[:1], parts):
            _, low, high = mean_relative_change(part)
            widths.append(high - low)
    seeds_alone, of_two_corpora, with_speakers, with_speakers_of_two = widths
    # Of changes -0.2, 0, 0.2 three are drawn: all are the lowest in one of 27 draws.
    assert seeds_alone == pytest.approx(0.4, abs=1e-9)
    assert of_two_corpora < 0.8 * seeds_alone
    assert with_speakers_of_two < 0.8 * with_speakers
    speakers_alone = [changes_of([5.0] * 3, [5.0] * 3, 20_000, 0.3, 1)]
    _, low, high = mean_relative_change(speakers_alone)
    assert high - low < with_speakers
    one_run = [changes_of([5.0], [5.0], 20_000, 0.3, 1)]
    assert mean_relative_change(one_run) == relative_change(*one_run[0])


def test_mean_change_lacks_what_a_corpus_lacks():
    fine, none = changes_of([1.0], [2.0], 2), ([1.0], [0.0], [[1.0] * 2], [[0.0] * 2])
    assert mean_relative_change([fine, none]) == (None, None, None)
    part = [1.0], [1.0], [[1.0, 1.0]], [[0.0, 1.0]]
    assert mean_relative_change([fine, part]) == (-0.25, None, None)


def test_bootstrap_refuses_what_the_metrics_do(bad_trials):
    for scores, labels, message in bad_trials:
        if message.startswith("scores must be") and "1-D" in message:
            continue  # two dimensions are several systems
        with pytest.raises(ValueError, match=message):
            bootstrap_eer(scores, labels, [0, 0, 0], [0, 1, 0])
