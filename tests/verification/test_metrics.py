"""Metrics against their definitions, SpeechBrain, closed forms and bad input."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid
from scipy.stats import norm
from speechbrain.utils.metric_stats import EER, minDCF

from hamsb.verification.bootstrap import bootstrap_eer, interval
from hamsb.verification.metrics import (
    act_dcf,
    bayes_threshold,
    cllr,
    det_curve,
    eer,
    min_cllr,
    min_dcf,
)


def naive_points(scores, labels):
    """The definition, a threshold and a trial at a time: (threshold, miss, fa)."""
    targets = [s for s, label in zip(scores, labels) if label == 1]
    impostors = [s for s, label in zip(scores, labels) if label == 0]
    return [
        (
            threshold,
            sum(not s >= threshold for s in targets) / len(targets),
            sum(s >= threshold for s in impostors) / len(impostors),
        )
        for threshold in [*sorted(set(scores)), float("inf")]
    ]


def naive_eer(scores, labels):
    """Walk until miss reaches false alarm; cut the last segment with miss = fa."""
    points = naive_points(scores, labels)
    for (_, m0, f0), (_, m1, f1) in zip(points, points[1:]):
        if m1 >= f1:
            part = (f0 - m0) / ((f0 - m0) + (m1 - f1))
            return m0 + part * (m1 - m0)


def naive_min_dcf(scores, labels, p, c_miss, c_fa):
    return min(
        c_miss * p * miss + c_fa * (1 - p) * fa
        for _, miss, fa in naive_points(scores, labels)
    )


def rates_at(threshold, scores, labels):
    """Miss and false-alarm rate of deciding with a threshold."""
    accept = np.asarray(scores) >= threshold
    is_target = np.asarray(labels) == 1
    return np.mean(~accept[is_target]), np.mean(accept[~is_target])


def random_trials(seed, n=60, shift=1.0, decimals=None):
    """Two overlapping Gaussians; rounding to few decimals makes ties."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    labels[:2] = 0, 1
    scores = rng.normal(size=n) + shift * labels
    return (scores if decimals is None else scores.round(decimals)), labels


NAN, INF = float("nan"), float("inf")
SEEDS = range(8)
TIES = pytest.mark.parametrize("decimals", [None, 1, 0])


@TIES
@pytest.mark.parametrize("seed", SEEDS)
def test_det_curve_is_the_definition(seed, decimals):
    scores, labels = random_trials(seed, decimals=decimals)
    expected = np.array(naive_points(scores.tolist(), labels.tolist())).T
    for got, want in zip(det_curve(scores, labels), expected, strict=True):
        np.testing.assert_array_equal(got, want)
        assert got.dtype == np.float64


@TIES
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shift", [-1.0, 0.0, 2.0, 10.0])
def test_eer_is_the_naive_one(seed, decimals, shift):
    scores, labels = random_trials(seed, shift=shift, decimals=decimals)
    value, threshold = eer(scores, labels)
    assert value == pytest.approx(
        naive_eer(scores.tolist(), labels.tolist()), abs=1e-12
    )
    gaps = [
        abs(miss - fa) for _, miss, fa in naive_points(scores.tolist(), labels.tolist())
    ]
    miss, fa = rates_at(threshold, scores, labels)
    assert np.isfinite(threshold)
    assert abs(miss - fa) == pytest.approx(min(gaps), abs=1e-12)
    assert min(miss, fa) - 1e-12 <= value <= max(miss, fa) + 1e-12


@TIES
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "p, c_miss, c_fa",
    [(0.01, 1, 1), (0.05, 1, 1), (0.5, 1, 1), (0.9, 1, 1), (0.01, 10, 1), (0.5, 1, 5)],
)
def test_min_dcf_is_the_naive_one(seed, decimals, p, c_miss, c_fa):
    scores, labels = random_trials(seed, shift=2.0, decimals=decimals)
    cost, threshold = min_dcf(scores, labels, p, c_miss, c_fa, normalize=False)
    assert cost == pytest.approx(
        naive_min_dcf(scores.tolist(), labels.tolist(), p, c_miss, c_fa), abs=1e-12
    )
    miss, fa = rates_at(threshold, scores, labels)
    assert c_miss * p * miss + c_fa * (1 - p) * fa == pytest.approx(cost, abs=1e-12)
    normalised, same_threshold = min_dcf(scores, labels, p, c_miss, c_fa)
    assert normalised == pytest.approx(
        cost / min(c_miss * p, c_fa * (1 - p)), abs=1e-12
    )
    assert normalised <= 1 and same_threshold == threshold


@TIES
@pytest.mark.parametrize("seed", SEEDS)
def test_one_curve_gives_every_number(seed, decimals):
    scores, labels = random_trials(seed, decimals=decimals)
    curve = det_curve(scores, labels)
    assert curve.eer() == eer(scores, labels)
    for arguments in ({}, {"p_target": 0.05}, {"c_miss": 10.0, "c_fa": 3.0}):
        assert curve.min_dcf(**arguments) == min_dcf(scores, labels, **arguments)
    assert curve.min_dcf(0.3, 2.0, 1.0, False) == min_dcf(scores, labels, 0.3, 2, 1, False)


@TIES
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("n_target, n_impostor", [(40, 60), (7, 90), (90, 7)])
def test_agrees_with_speechbrain(seed, n_target, n_impostor, decimals):
    """Without ties EER to half a trial; ties make the steps of both curves larger."""
    generator = torch.Generator().manual_seed(seed)
    positive = torch.randn(n_target, generator=generator) + 1.5
    negative = torch.randn(n_impostor, generator=generator)
    if decimals is not None:
        positive = positive.round(decimals=decimals)
        negative = negative.round(decimals=decimals)
    scores = torch.cat([positive, negative])
    labels = torch.cat([torch.ones(n_target), torch.zeros(n_impostor)]).int()
    bound = max(
        np.unique(side, return_counts=True)[1].max() / (2 * len(side))
        for side in (positive, negative)
    )
    if decimals is None:
        assert bound == max(1 / (2 * n_target), 1 / (2 * n_impostor))
    assert abs(eer(scores, labels)[0] - EER(positive, negative)[0]) <= bound + 1e-6
    for p in (0.01, 0.05, 0.5, 0.9):
        ours, threshold = min_dcf(scores, labels, p, normalize=False)
        if threshold > scores.min():  # SpeechBrain has no accept-all
            assert ours == pytest.approx(
                minDCF(positive, negative, p_target=p)[0], abs=1e-6
            )
        else:
            assert ours <= minDCF(positive, negative, p_target=p)[0] + 1e-6


def test_accept_all_is_an_operating_point():
    """At p = 0.9 a useless system accepts everybody: SpeechBrain's minDCF cannot."""
    scores, labels = [0.1, 0.2, 0.3, 0.4], [1, 0, 1, 0]
    assert min_dcf(scores, labels, p_target=0.9) == (1.0, 0.1)
    assert min_dcf(scores, labels, p_target=0.9, normalize=False)[0] == pytest.approx(
        0.1
    )


def test_reject_all_has_an_infinite_threshold():
    value, threshold = min_dcf([0.9, 0.1, 0.5], [0, 1, 1], p_target=0.01)
    assert (value, threshold) == (1.0, float("inf"))


@pytest.mark.parametrize("distance", [1.0, 2.0, 4.0])
def test_two_gaussians(distance):
    """Unit Gaussians a distance d apart: EER = Phi(-d/2), at the middle."""
    n = 100_000
    rng = np.random.default_rng(7)
    scores = np.concatenate([rng.normal(distance, 1, n), rng.normal(0, 1, n)])
    labels = np.repeat([1, 0], n)
    value, threshold = eer(scores, labels)
    expected = norm.cdf(-distance / 2)
    assert value == pytest.approx(
        expected, abs=4 * np.sqrt(expected * (1 - expected) / (2 * n))
    )
    assert threshold == pytest.approx(distance / 2, abs=0.05)
    grid = np.linspace(-5, 5 + distance, 10_001)
    for p in (0.01, 0.5):
        cost = (p * norm.cdf(grid - distance) + (1 - p) * norm.sf(grid)).min()
        assert min_dcf(scores, labels, p, normalize=False)[0] == pytest.approx(
            cost, rel=0.05
        )
    thresholds, miss, false_alarm = det_curve(scores, labels)
    np.testing.assert_allclose(miss, norm.cdf(thresholds - distance), atol=0.01)
    np.testing.assert_allclose(false_alarm, norm.sf(thresholds), atol=0.01)


@pytest.mark.parametrize("seed", SEEDS)
def test_only_the_order_of_scores_counts(seed):
    scores, labels = random_trials(seed, decimals=1)
    shuffle = np.random.default_rng(seed).permutation(len(scores))
    for other, other_labels in [
        (np.exp(scores), labels),
        (scores**3 * 1e-200, labels),
        (scores[shuffle], labels[shuffle]),
    ]:
        assert eer(other, other_labels)[0] == pytest.approx(
            eer(scores, labels)[0], abs=1e-12
        )
        assert min_dcf(other, other_labels)[0] == pytest.approx(
            min_dcf(scores, labels)[0], abs=1e-12
        )


@pytest.mark.parametrize("seed", SEEDS)
def test_negated_scores_and_swapped_classes(seed):
    scores, labels = random_trials(seed, decimals=1)
    assert eer(-scores, 1 - labels)[0] == pytest.approx(
        eer(scores, labels)[0], abs=1e-12
    )
    assert eer(-scores, labels)[0] == pytest.approx(
        1 - eer(scores, labels)[0], abs=1e-12
    )
    swapped = min_dcf(-scores, 1 - labels, p_target=0.9, c_miss=2.0, c_fa=3.0)[0]
    assert swapped == pytest.approx(
        min_dcf(scores, labels, p_target=0.1, c_miss=3.0, c_fa=2.0)[0], abs=1e-12
    )


def test_perfect_and_reversed():
    assert eer([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1]) == (0.0, 0.5)
    assert min_dcf([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], p_target=0.9) == (0.0, 0.5)
    assert eer([0.1, 0.2, 0.8, 0.9], [1, 1, 0, 0])[0] == 1.0


@pytest.mark.parametrize("n_target, n_impostor", [(1, 1), (2, 50), (50, 2)])
def test_collapsed_model(n_target, n_impostor):
    """All scores equal: 50 %, whatever the order and the share of the classes."""
    labels = [1] * n_target + [0] * n_impostor
    scores = [0.3] * len(labels)
    assert eer(scores, labels) == (0.5, 0.3)
    assert eer(scores, labels[::-1])[0] == 0.5
    assert min_dcf(scores, labels, p_target=0.01) == (1.0, float("inf"))
    assert min_dcf(scores, labels, p_target=0.9)[0] == pytest.approx(1.0)


def test_thresholds_separate_neighbouring_floats():
    """Between adjacent floats there is no middle; between huge ones no overflow."""
    low = 0.5
    high = np.nextafter(low, 1)
    assert eer([low, high], [0, 1]) == (0.0, high)
    largest = np.finfo(np.float64).max
    assert eer([0.9 * largest, largest], [0, 1])[1] == pytest.approx(0.95 * largest)
    assert eer([-largest, largest], [0, 1]) == (0.0, 0.0)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16]
)
def test_inputs_of_every_kind(dtype):
    scores, labels = random_trials(3, decimals=1)
    tensor = torch.tensor(scores, dtype=dtype)
    expected = eer(tensor.double().tolist(), labels.tolist())
    for other in (tensor, tensor.clone().requires_grad_(), tensor.double().numpy()):
        for same in (
            labels,
            labels.astype(bool),
            torch.tensor(labels),
            torch.tensor(labels).bool(),
            labels.astype(np.uint8),
        ):
            assert eer(other, same) == expected
    assert all(type(number) is float for number in expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_tensors_on_the_gpu():
    scores, labels = random_trials(3)
    assert eer(torch.tensor(scores).cuda(), torch.tensor(labels).cuda()) == eer(
        scores, labels
    )


def test_the_input_is_left_alone():
    scores, labels = random_trials(0)
    before = scores.copy(), labels.copy()
    eer(scores, labels)
    np.testing.assert_array_equal((scores, labels), before)


# ------------------------------------------------------- log-likelihood ratios

PRIORS = (0.01, 0.05, 0.5, 0.9)


def naive_cllr(llrs, labels):
    losses = {0: [], 1: []}
    for llr, label in zip(llrs, labels):
        losses[label].append(math.log2(1 + math.exp(-llr if label else llr)))
    return sum(sum(part) / len(part) for part in losses.values()) / 2


def naive_min_cllr(scores, labels):
    """The best of all non-decreasing maps: every cut of the scale into blocks."""
    values = sorted(set(scores))
    n = labels.count(1), labels.count(0)
    best = float("inf")
    for cuts in itertools.product([False, True], repeat=len(values) - 1):
        block = dict(zip(values, np.cumsum([0, *cuts])))
        counts = np.zeros((2, sum(cuts) + 1))
        for score, label in zip(scores, labels):
            counts[0 if label else 1, block[score]] += 1
        cost, ratios = 0.0, []
        for targets, impostors in counts.T:
            t, i = targets / n[0], impostors / n[1]
            ratios.append(math.log(t / i) if t and i else INF if t else -INF)
            cost += t * math.log2((t + i) / t) if t else 0
            cost += i * math.log2((t + i) / i) if i else 0
        if ratios == sorted(ratios):
            best = min(best, cost / 2)
    return best


@pytest.mark.parametrize("p", [0.01, 0.5, 0.9])
@pytest.mark.parametrize("c_miss, c_fa", [(1, 1), (10, 1), (1, 5)])
def test_the_bayes_threshold_costs_least(p, c_miss, c_fa):
    """At it, accepting and rejecting a trial of that ratio cost the same."""
    odds = math.exp(bayes_threshold(p, c_miss, c_fa)) * p / (1 - p)
    assert c_miss * odds == pytest.approx(c_fa, rel=1e-12)
    assert bayes_threshold(p) == pytest.approx(-math.log(p / (1 - p)), abs=1e-12)


@TIES
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "p, c_miss, c_fa", [*((p, 1, 1) for p in PRIORS), (0.01, 10, 1), (0.5, 1, 5)]
)
def test_act_dcf_is_the_naive_one(seed, decimals, p, c_miss, c_fa):
    llrs, labels = random_trials(seed, shift=2.0, decimals=decimals)
    llrs = 4 * (llrs - 1)
    threshold = math.log(c_fa * (1 - p) / (c_miss * p))
    miss, fa = rates_at(threshold, llrs, labels)
    cost = c_miss * p * miss + c_fa * (1 - p) * fa
    value = act_dcf(llrs, labels, p, c_miss, c_fa)
    assert type(value) is float
    assert value == pytest.approx(cost / min(c_miss * p, c_fa * (1 - p)), abs=1e-12)
    assert value >= min_dcf(llrs, labels, p, c_miss, c_fa)[0] - 1e-12


def test_act_dcf_accepts_at_the_threshold():
    """Even prior: the threshold is 0, and ties with it are accepted."""
    assert act_dcf([0.0, 0.0, -1e-300], [1, 0, 0], 0.5) == 0.5
    assert act_dcf([-5.0, 5.0], [1, 0], 0.01) == pytest.approx(1 + 0.99 / 0.01)


@pytest.mark.parametrize("p", PRIORS)
def test_ratios_of_0_cost_what_the_prior_alone_does(p):
    llrs, labels = [0.0] * 7, [1, 0, 0, 0, 1, 0, 0]
    assert act_dcf(llrs, labels, p) == pytest.approx(1.0, abs=1e-12)
    assert cllr(llrs, labels) == pytest.approx(1.0, abs=1e-12)


@TIES
@pytest.mark.parametrize("seed", SEEDS)
def test_cllr_is_the_naive_one(seed, decimals):
    llrs, labels = random_trials(seed, shift=2.0, decimals=decimals)
    value = cllr(3 * llrs, labels)
    assert type(value) is float
    assert value == pytest.approx(naive_cllr(3 * llrs, labels), abs=1e-12)


def test_cllr_of_extreme_ratios():
    """No overflow, no underflow: a ratio of e^1000 on the wrong side is 1000 nats."""
    assert cllr([-1000.0, 1000.0], [1, 0]) == pytest.approx(1000 / np.log(2))
    assert cllr([1000.0, -1000.0], [1, 0]) == 0.0


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("decimals, n", [(None, 9), (0, 40), (-1, 20)])
def test_min_cllr_is_the_best_of_all_monotone_maps(seed, decimals, n):
    scores, labels = random_trials(seed, n=n, shift=0.7, decimals=decimals)
    value = min_cllr(scores, labels)
    assert type(value) is float
    assert value == pytest.approx(
        naive_min_cllr(scores.tolist(), labels.tolist()), abs=1e-12
    )


def test_tied_scores_weigh_as_many_as_they_are():
    """Pooling 1 of 2 with 0 of 10 gives 1 of 12, below the 1 of 5 that follows."""
    scores = [1.0] * 2 + [2.0] * 10 + [3.0] * 5
    labels = [1, 0] + [0] * 10 + [1, 0, 0, 0, 0]
    assert min_cllr(scores, labels) == pytest.approx(naive_min_cllr(scores, labels))


@TIES
@pytest.mark.parametrize("seed", range(3))
def test_cllr_is_the_integral_of_the_detection_cost(seed, decimals):
    """Over all prior log-odds: of the actual cost, and of the minimum for minCllr."""
    llrs, labels = random_trials(seed, n=40, shift=2.0, decimals=decimals)
    llrs = 2 * (llrs - 1)
    log_odds = np.linspace(-25, 25, 5001)
    priors = 1 / (1 + np.exp(-log_odds))
    curve = det_curve(llrs, labels)
    minimum = [curve.min_dcf(p, normalize=False)[0] for p in priors]
    miss, fa = np.array([rates_at(-t, llrs, labels) for t in log_odds]).T
    actual = priors * miss + (1 - priors) * fa
    bits = 2 * np.log(2)
    assert min_cllr(llrs, labels) == pytest.approx(
        trapezoid(minimum, log_odds) / bits, abs=1e-4
    )
    assert cllr(llrs, labels) == pytest.approx(
        trapezoid(actual, log_odds) / bits, abs=5e-3
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_min_cllr_is_under_every_increasing_map(seed):
    scores, labels = random_trials(seed, n=200, shift=2.0, decimals=1)
    value = min_cllr(scores, labels)
    shuffle = np.random.default_rng(seed).permutation(len(scores))
    assert min_cllr(np.exp(scores), labels) == pytest.approx(value, abs=1e-12)
    assert min_cllr(scores[shuffle], labels[shuffle]) == pytest.approx(value, abs=1e-12)
    for scale, offset in [(1, 0), (2, -2), (4, -4), (0.1, 0)]:
        assert value <= cllr(scale * scores + offset, labels) + 1e-12


def test_min_cllr_of_separated_and_useless_scores():
    """Infinite best ratios, at one end or at both, are neither NaN nor a warning."""
    assert str(min_cllr([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1])) == "0.0"
    assert min_cllr([0.1, 0.2, 0.8, 0.9], [1, 1, 0, 0]) == pytest.approx(1.0)
    assert min_cllr([0.3] * 5, [1, 0, 0, 0, 1]) == pytest.approx(1.0)
    # Impostors alone below, a tie of one in three against one in two above.
    value = min_cllr([0.0, 0.0, 1.0, 1.0], [0, 0, 1, 0])
    assert value == pytest.approx((math.log2(4 / 3) + math.log2(4) / 3) / 2)


def test_well_calibrated_gaussians():
    """Ratios of N(+-d^2/2, d^2) are their own: nothing is lost by calibration."""
    d, n = 2.0, 100_000
    rng = np.random.default_rng(5)
    labels = np.repeat([1, 0], n)
    llrs = rng.normal(np.where(labels == 1, 1, -1) * d**2 / 2, d)
    assert cllr(llrs, labels) - min_cllr(llrs, labels) == pytest.approx(0, abs=1e-3)
    for p in PRIORS:
        lost = act_dcf(llrs, labels, p) - min_dcf(llrs, labels, p)[0]
        assert 0 <= lost < 0.02
        theta = bayes_threshold(p)
        cost = p * norm.cdf(theta, d**2 / 2, d) + (1 - p) * norm.sf(theta, -(d**2) / 2, d)
        assert act_dcf(llrs, labels, p) == pytest.approx(cost / min(p, 1 - p), abs=0.02)


# ------------------------------------------------------- bootstrap over speakers


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


@TIES
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("speakers", [2, 3, 6])
@pytest.mark.filterwarnings("error")
def test_bootstrap_is_the_eer_of_repeated_trials(seed, decimals, speakers):
    """With two speakers every second draw has no impostor trial and is replaced."""
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


@pytest.mark.parametrize(
    "changed, message",
    [
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
    ],
)
def test_bootstrap_refuses(changed, message):
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


@pytest.mark.parametrize(
    "values, level, message",
    [
        ([], 0.95, "no draws"),
        (0.5, 0.95, "draws must be 1-D or 2-D"),
        ([0.1, INF, NAN], 0.95, r"draws must be finite, got inf at index 1 \(2 of 3\)"),
        ([[0.1], [NAN]], 0.95, "got nan at index 1, 0"),
        ([0.1], 1.0, r"level must be in \(0, 1\), got 1.0"),
        ([0.1], 0.0, "level must be"),
    ],
)
def test_interval_refuses(values, level, message):
    with pytest.raises(ValueError, match=message):
        interval(values, level)


# ------------------------------------------------------------------- bad input

BAD = {
    "nan": (
        [0.1, NAN, 0.3],
        [0, 1, 1],
        r"scores must be finite, got nan at index 1 \(1 of 3",
    ),
    "inf": ([0.1, 0.2, -INF], [0, 1, 1], "scores must be finite, got -inf at index 2"),
    "tensor with nan": (
        torch.tensor([NAN, 0.2, NAN]),
        [0, 1, 1],
        r"got nan at index 0 \(2 of 3",
    ),
    "lengths": ([0.1, 0.2], [0, 1, 1], "2 scores, 3 labels"),
    "2-D scores": ([[0.1], [0.2]], [0, 1], r"scores must be 1-D.*\(2, 1\)"),
    "2-D labels": ([0.1, 0.2], [[0, 1]], r"labels must be 1-D.*\(1, 2\)"),
    "scalar": (0.1, [0], "scores must be 1-D"),
    "ragged": ([[0.1], [0.2, 0.3]], [0, 1], "scores must be a 1-D list"),
    "only targets": (
        [0.1, 0.2],
        [1, 1],
        "both classes are needed, but all 2 labels are 1",
    ),
    "only impostors": (
        [0.1, 0.2],
        [False, False],
        "both classes are needed, but all 2 labels are 0",
    ),
    "empty": ([], [], "no trials"),
    "label 2": (
        [0.1, 0.2, 0.3],
        [0, 1, 2],
        r"labels must be 0 or 1, got 2 at index 2 \(1 of 3",
    ),
    "label -1": ([0.1, 0.2], [-1, 1], "labels must be 0 or 1, got -1 at index 0"),
    "float labels": ([0.1, 0.2], [0.0, 1.0], "labels must be bool or int.*float64"),
    "text labels": ([0.1, 0.2], ["0", "1"], "labels must be bool or int"),
    "text scores": (["0.1", "0.2"], [0, 1], "scores must be real numbers"),
    "complex scores": (
        [0.1j, 0.2],
        [0, 1],
        "scores must be real numbers, got dtype complex128",
    ),
}


@pytest.mark.parametrize("metric", [det_curve, eer, min_dcf, min_cllr])
@pytest.mark.parametrize("case", BAD)
def test_refuses(metric, case):
    scores, labels, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        metric(scores, labels)


@pytest.mark.parametrize("case", BAD)
def test_ratios_are_refused(case):
    llrs, labels, message = BAD[case]
    message = message.replace("scores must", "llrs must")
    with pytest.raises(ValueError, match=message):
        cllr(llrs, labels)
    with pytest.raises(ValueError, match=message):
        act_dcf(llrs, labels, p_target=0.9)


# It takes two dimensions, of several systems.
@pytest.mark.parametrize("case", [c for c in BAD if c not in ("2-D scores", "ragged")])
def test_bootstrap_refuses_what_the_metrics_do(case):
    scores, labels, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        bootstrap_eer(scores, labels, [0, 0, 0], [0, 1, 0])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"p_target": 0.0}, r"p_target must be in \(0, 1\), got 0.0"),
        ({"p_target": 1.0}, "p_target must be in"),
        ({"p_target": NAN}, "p_target must be in"),
        ({"c_miss": 0.0}, "c_miss must be positive and finite, got 0.0"),
        ({"c_miss": INF}, "c_miss must be positive"),
        ({"c_fa": -1.0}, "c_fa must be positive and finite, got -1.0"),
        ({"c_fa": NAN}, "c_fa must be positive"),
    ],
)
def test_costs_and_priors_are_refused(arguments, message):
    trials, arguments = ([0.1, 0.2], [0, 1]), {"p_target": 0.5, **arguments}
    with pytest.raises(ValueError, match=message):
        min_dcf(*trials, **arguments)
    with pytest.raises(ValueError, match=message):
        det_curve(*trials).min_dcf(**arguments)
    with pytest.raises(ValueError, match=message):
        act_dcf(*trials, **arguments)
    with pytest.raises(ValueError, match=message):
        bayes_threshold(**arguments)
