"""Metrics against their definitions, SpeechBrain, closed forms and bad input."""

import numpy as np
import pytest
import torch
from scipy.stats import norm
from speechbrain.utils.metric_stats import EER, minDCF

from hamsb.metrics import det_curve, eer, min_dcf


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


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("n_target, n_impostor", [(40, 60), (7, 90), (90, 7)])
def test_agrees_with_speechbrain(seed, n_target, n_impostor):
    generator = torch.Generator().manual_seed(seed)
    positive = torch.randn(n_target, generator=generator) + 1.5
    negative = torch.randn(n_impostor, generator=generator)
    scores = torch.cat([positive, negative])
    labels = torch.cat([torch.ones(n_target), torch.zeros(n_impostor)]).int()
    bound = max(1 / (2 * n_target), 1 / (2 * n_impostor))
    assert abs(eer(scores, labels)[0] - EER(positive, negative)[0]) <= bound + 1e-6
    for p in (0.01, 0.05, 0.5):
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


NAN, INF = float("nan"), float("inf")
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


@pytest.mark.parametrize("metric", [det_curve, eer, min_dcf])
@pytest.mark.parametrize("case", BAD)
def test_refuses(metric, case):
    scores, labels, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        metric(scores, labels)


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
def test_min_dcf_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        min_dcf([0.1, 0.2], [0, 1], **arguments)
