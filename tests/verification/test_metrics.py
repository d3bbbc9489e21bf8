"""Metrics against their definitions, SpeechBrain, closed forms and bad input."""

import itertools
import math
from itertools import product

import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid
from scipy.stats import norm
from speechbrain.utils.metric_stats import EER, minDCF

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
DECIMALS = [None, 1, 0]


def test_det_curve_is_the_definition():
    for decimals, seed in product(DECIMALS, SEEDS):
        scores, labels = random_trials(seed, decimals=decimals)
        expected = np.array(naive_points(scores.tolist(), labels.tolist())).T
        for got, want in zip(det_curve(scores, labels), expected, strict=True):
            np.testing.assert_array_equal(got, want)
            assert got.dtype == np.float64


def test_eer_is_the_naive_one():
    for decimals, seed, shift in product(DECIMALS, SEEDS, [-1.0, 0.0, 2.0, 10.0]):
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


def test_min_dcf_is_the_naive_one():
    for decimals, seed, (p, c_miss, c_fa) in product(
        DECIMALS,
        SEEDS,
        [(0.01, 1, 1), (0.05, 1, 1), (0.5, 1, 1), (0.9, 1, 1), (0.01, 10, 1), (0.5, 1, 5)],
    ):
        scores, labels = random_trials(seed, shift=2.0, decimals=decimals)
        cost, threshold = min_dcf(scores, labels, p, c_miss, c_fa, normalize=False)
        assert cost == pytest.approx(
            naive_min_dcf(scores.tolist(), labels.tolist(), p, c_miss, c_fa), abs=1e-12
        )
        miss, fa = rates_at(threshold, scores, labels)
        assert c_miss * p * miss + c_fa * (1 - p) * fa == pytest.approx(cost, abs=1e-12)
        normalized, same_threshold = min_dcf(scores, labels, p, c_miss, c_fa)
        assert normalized == pytest.approx(
            cost / min(c_miss * p, c_fa * (1 - p)), abs=1e-12
        )
        assert normalized <= 1 and same_threshold == threshold


def test_one_curve_gives_every_number():
    for decimals, seed in product(DECIMALS, SEEDS):
        scores, labels = random_trials(seed, decimals=decimals)
        curve = det_curve(scores, labels)
        assert curve.eer() == eer(scores, labels)
        for arguments in ({}, {"p_target": 0.05}, {"c_miss": 10.0, "c_fa": 3.0}):
            assert curve.min_dcf(**arguments) == min_dcf(scores, labels, **arguments)
        assert curve.min_dcf(0.3, 2.0, 1.0, False) == min_dcf(
            scores, labels, 0.3, 2, 1, False
        )


def test_agrees_with_speechbrain():
    """Without ties EER to half a trial; ties make the steps of both curves larger."""
    for decimals, seed, (n_target, n_impostor) in product(
        DECIMALS, SEEDS, [(40, 60), (7, 90), (90, 7)]
    ):
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
    assert min_dcf(scores, labels, p_target=0.9, normalize=False)[0] == pytest.approx(0.1)


def test_reject_all_has_an_infinite_threshold():
    value, threshold = min_dcf([0.9, 0.1, 0.5], [0, 1, 1], p_target=0.01)
    assert (value, threshold) == (1.0, float("inf"))


def test_two_gaussians():
    """Unit Gaussians a distance d apart: EER = Phi(-d/2), at the middle."""
    for distance in [1.0, 2.0, 4.0]:
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


def test_only_the_order_of_scores_counts():
    for seed in SEEDS:
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


def test_negated_scores_and_swapped_classes():
    for seed in SEEDS:
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


def test_collapsed_model():
    """All scores equal: 50 %, whatever the order and the share of the classes."""
    for n_target, n_impostor in [(1, 1), (2, 50), (50, 2)]:
        labels = [1] * n_target + [0] * n_impostor
        scores = [0.3] * len(labels)
        assert eer(scores, labels) == (0.5, 0.3)
        assert eer(scores, labels[::-1])[0] == 0.5
        assert min_dcf(scores, labels, p_target=0.01) == (1.0, float("inf"))
        assert min_dcf(scores, labels, p_target=0.9)[0] == pytest.approx(1.0)


def test_thresholds_separate_neighboring_floats():
    """Between adjacent floats there is no middle; between huge ones no overflow."""
    low = 0.5
    high = np.nextafter(low, 1)
    assert eer([low, high], [0, 1]) == (0.0, high)
    largest = np.finfo(np.float64).max
    assert eer([0.9 * largest, largest], [0, 1])[1] == pytest.approx(0.95 * largest)
    assert eer([-largest, largest], [0, 1]) == (0.0, 0.0)


def test_inputs_of_every_kind():
    for dtype in [torch.float64, torch.float32, torch.bfloat16, torch.float16]:
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


def test_the_bayes_threshold_costs_least():
    """At it, accepting and rejecting a trial of that ratio cost the same."""
    for p, (c_miss, c_fa) in product([0.01, 0.5, 0.9], [(1, 1), (10, 1), (1, 5)]):
        odds = math.exp(bayes_threshold(p, c_miss, c_fa)) * p / (1 - p)
        assert c_miss * odds == pytest.approx(c_fa, rel=1e-12)
        assert bayes_threshold(p) == pytest.approx(-math.log(p / (1 - p)), abs=1e-12)


def test_act_dcf_is_the_naive_one():
    for decimals, seed, (p, c_miss, c_fa) in product(
        DECIMALS, SEEDS, [*((p, 1, 1) for p in PRIORS), (0.01, 10, 1), (0.5, 1, 5)]
    ):
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


def test_ratios_of_0_cost_what_the_prior_alone_does():
    for p in PRIORS:
        llrs, labels = [0.0] * 7, [1, 0, 0, 0, 1, 0, 0]
        assert act_dcf(llrs, labels, p) == pytest.approx(1.0, abs=1e-12)
        assert cllr(llrs, labels) == pytest.approx(1.0, abs=1e-12)


def test_cllr_is_the_naive_one():
    for decimals, seed in product(DECIMALS, SEEDS):
        llrs, labels = random_trials(seed, shift=2.0, decimals=decimals)
        value = cllr(3 * llrs, labels)
        assert type(value) is float
        assert value == pytest.approx(naive_cllr(3 * llrs, labels), abs=1e-12)


def test_cllr_of_extreme_ratios():
    """No overflow, no underflow: a ratio of e^1000 on the wrong side is 1000 nats."""
    assert cllr([-1000.0, 1000.0], [1, 0]) == pytest.approx(1000 / np.log(2))
    assert cllr([1000.0, -1000.0], [1, 0]) == 0.0


def test_min_cllr_is_the_best_of_all_monotone_maps():
    for seed, (decimals, n) in product(SEEDS, [(None, 9), (0, 40), (-1, 20)]):
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


def test_cllr_is_the_integral_of_the_detection_cost():
    """Over all prior log-odds: of the actual cost, and of the minimum for minCllr."""
    for decimals, seed in product(DECIMALS, range(3)):
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


def test_min_cllr_is_under_every_increasing_map():
    for seed in SEEDS:
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


# ------------------------------------------------------------------- bad input


def test_refuses(bad_trials):
    metrics = [det_curve, eer, min_dcf, min_cllr]
    for metric, (scores, labels, message) in product(metrics, bad_trials):
        with pytest.raises(ValueError, match=message):
            metric(scores, labels)


def test_ratios_are_refused(bad_trials):
    for llrs, labels, message in bad_trials:
        message = message.replace("scores must", "llrs must")
        with pytest.raises(ValueError, match=message):
            cllr(llrs, labels)
        with pytest.raises(ValueError, match=message):
            act_dcf(llrs, labels, p_target=0.9)


def test_costs_and_priors_are_refused():
    for arguments, message in [
        ({"p_target": 0.0}, r"p_target must be in \(0, 1\), got 0.0"),
        ({"p_target": 1.0}, "p_target must be in"),
        ({"p_target": NAN}, "p_target must be in"),
        ({"c_miss": 0.0}, "c_miss must be positive and finite, got 0.0"),
        ({"c_miss": INF}, "c_miss must be positive"),
        ({"c_fa": -1.0}, "c_fa must be positive and finite, got -1.0"),
        ({"c_fa": NAN}, "c_fa must be positive"),
    ]:
        trials, arguments = ([0.1, 0.2], [0, 1]), {"p_target": 0.5, **arguments}
        with pytest.raises(ValueError, match=message):
            min_dcf(*trials, **arguments)
        with pytest.raises(ValueError, match=message):
            det_curve(*trials).min_dcf(**arguments)
        with pytest.raises(ValueError, match=message):
            act_dcf(*trials, **arguments)
        with pytest.raises(ValueError, match=message):
            bayes_threshold(**arguments)
