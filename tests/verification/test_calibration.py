"""Calibration against known maps, its own optimum, and bad input."""

import dataclasses
import json
import math
from itertools import product

import numpy as np
import pytest
import torch

from hamsb.verification.calibration import Calibration, symmetric_qualities
from hamsb.verification.metrics import act_dcf, cllr, eer, min_cllr, min_dcf

SEEDS = range(4)
PRIORS = (0.01, 0.05, 0.5, 0.9)


def gaussian_ratios(seed, n=40_000, distance=2.5, share=0.5):
    """Log-likelihood ratios that are their own: N(+-d^2/2, d^2)."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) < share * n).astype(int)
    mean = np.where(labels == 1, 1, -1) * distance**2 / 2
    return rng.normal(mean, distance), labels


def naive_objective(calibration, scores, labels, qualities=None):
    """The sum of the docstring without its ridge, a trial at a time."""
    p = calibration.p_target
    theta = math.log(p / (1 - p))
    if qualities is None:
        qualities = [[]] * len(scores)
    loss = {0: 0.0, 1: 0.0}
    for score, label, quality in zip(scores, labels, qualities):
        ratio = calibration.scale * score + calibration.offset
        ratio += sum(w * q for w, q in zip(calibration.quality_weights, quality))
        loss[label] += math.log1p(math.exp(-(ratio + theta) * (1 if label else -1)))
    count = {label: sum(labels == label) for label in loss}
    return p * loss[1] / count[1] + (1 - p) * loss[0] / count[0]


def test_recovers_a_known_affine_map():
    """Neither the effective prior nor the share of the targets is in the ratios."""
    for seed, (p, share) in product(
        SEEDS, [(0.5, 0.5), (0.5, 0.05), (0.1, 0.5), (0.1, 0.2)]
    ):
        ratios, labels = gaussian_ratios(seed, share=share)
        scores = 0.3 + 0.05 * ratios
        calibration = Calibration.fit(scores, labels, p_target=p)
        assert calibration.p_target == p and calibration.quality_weights == ()
        assert calibration.scale == pytest.approx(20, rel=0.06)
        assert calibration.offset == pytest.approx(-6, abs=0.3)
        np.testing.assert_allclose(calibration([0.3, 0.4]), [0, 2], atol=0.15)


def test_no_other_map_costs_less():
    for seed, p in product(SEEDS, PRIORS):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 2, 60)
        qualities = rng.normal(5, 2, (60, 2))
        scores = rng.normal(labels, 1) + 0.3 * qualities[:, 0]
        fitted = Calibration.fit(scores, labels, qualities, p_target=p)
        least = naive_objective(fitted, scores, labels, qualities)
        for step in rng.normal(0, 0.05, (20, 4)):
            other = dataclasses.replace(
                fitted,
                scale=fitted.scale + step[0],
                offset=fitted.offset + step[1],
                quality_weights=tuple(fitted.quality_weights + step[2:]),
            )
            assert naive_objective(other, scores, labels, qualities) > least
        # Where the slope is zero: the error that each class makes weighs the same.
        odds = fitted(scores, qualities) + math.log(p / (1 - p))
        wrong = 1 / (1 + np.exp(np.where(labels == 1, odds, -odds)))
        target, impostor = wrong[labels == 1].mean(), wrong[labels == 0].mean()
        assert p * target == pytest.approx((1 - p) * impostor, abs=1e-6)


def test_another_list_of_the_same_system_is_calibrated_too():
    """Held out: what is lost by calibration is little, and much with raw scores."""
    for seed in SEEDS:
        ratios, labels = gaussian_ratios(seed)
        calibration = Calibration.fit(0.3 + 0.05 * ratios, labels)
        held_out, labels = gaussian_ratios(100 + seed, share=0.3)
        raw = 0.3 + 0.05 * held_out
        llrs = calibration(raw)
        assert cllr(llrs, labels) - min_cllr(llrs, labels) < 0.006
        assert cllr(raw, labels) - min_cllr(raw, labels) > 0.3
        for p in PRIORS:
            assert act_dcf(llrs, labels, p) - min_dcf(llrs, labels, p)[0] < 0.06
        assert act_dcf(raw, labels, 0.05) - min_dcf(raw, labels, 0.05)[0] > 0.3


def test_the_ranking_stays_and_with_it_the_error_rates():
    for seed in SEEDS:
        ratios, labels = gaussian_ratios(seed, n=500, distance=1.5)
        scores = ratios.round(1)
        llrs = Calibration.fit(scores, labels)(scores)
        assert llrs.shape == scores.shape and llrs.dtype == np.float64
        assert eer(llrs, labels)[0] == pytest.approx(eer(scores, labels)[0], abs=1e-12)
        for p in PRIORS:
            assert min_dcf(llrs, labels, p)[0] == min_dcf(scores, labels, p)[0]
        assert min_cllr(llrs, labels) == pytest.approx(min_cllr(scores, labels), abs=1e-12)


def test_the_ratios_do_not_depend_on_the_scale_of_the_scores():
    """Nor on that of the measures, and scores that are distances change the sign."""
    for seed, (scale, offset) in product(
        SEEDS, [(1e6, 0.0), (1e-6, 0.0), (1.0, 1e5), (-3, 2)]
    ):
        rng = np.random.default_rng(seed)
        ratios, labels = gaussian_ratios(seed, n=500, distance=1.5)
        qualities = rng.normal(size=(500, 2))
        expected = Calibration.fit(ratios, labels, qualities)(ratios, qualities)
        scores, measures = scale * ratios + offset, scale * qualities + offset
        calibration = Calibration.fit(scores, labels, measures)
        assert np.sign(calibration.scale) == np.sign(scale)
        np.testing.assert_allclose(calibration(scores, measures), expected, atol=1e-4)


def test_quality_measures_help_where_scores_shift_with_them():
    """Short utterances score lower: one threshold for all is wrong for most."""
    for seed in SEEDS:

        def trials(seed):
            ratios, labels = gaussian_ratios(seed, n=20_000)
            durations = np.random.default_rng(seed + 50).uniform(1, 10, (2, len(ratios)))
            logs = np.log(durations)
            scores = 0.1 * ratios + 0.4 * np.minimum(*logs)
            return scores, labels, symmetric_qualities(*logs)

        scores, labels, qualities = trials(seed)
        plain = Calibration.fit(scores, labels)
        aware = Calibration.fit(scores, labels, qualities)
        # 0.4 min is 0.2 of the sum less 0.2 of the difference: ten times that in nats.
        np.testing.assert_allclose(aware.quality_weights, [-2, 2], rtol=0.1)
        scores, labels, qualities = trials(seed + 10)  # held out
        without, with_them = plain(scores), aware(scores, qualities)
        assert cllr(with_them, labels) < 0.9 * cllr(without, labels)
        assert eer(with_them, labels)[0] < 0.9 * eer(without, labels)[0]
        assert cllr(with_them, labels) - min_cllr(with_them, labels) < 0.01


def test_separated_scores_stay_finite():
    for p, (scores, labels) in product(
        PRIORS,
        [
            ([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1]),
            ([-1e6, 1e6], [0, 1]),
            ([0.999999, 1.0, 1.0], [0, 1, 1]),
        ],
    ):
        calibration = Calibration.fit(scores, labels, p_target=p)
        llrs = calibration(scores)
        assert calibration.scale > 0 and np.isfinite(llrs).all() and abs(llrs).max() < 50
        assert act_dcf(llrs, labels, p) == 0 and cllr(llrs, labels) < 0.01


def test_the_ridge_is_as_small_as_the_docstring_says():
    """Two trials at -1 and 1 once standardised: sigma(-w) = lambda w at the optimum."""
    (llr,) = Calibration.fit([-3.0, 3.0], [0, 1])([3.0])
    assert 1 / (1 + math.exp(llr)) / llr == pytest.approx(1e-8, rel=0.01)


def test_reversed_scores_have_a_negative_scale():
    scores, labels = [0.1, 0.2, 0.4, 0.3, 0.5, 0.9], [1, 1, 1, 0, 0, 0]
    calibration = Calibration.fit(scores, labels)
    assert calibration.scale < 0
    assert eer(calibration(scores), labels)[0] == pytest.approx(1 / 3)


def test_a_collapsed_model_knows_nothing():
    """All scores equal: every ratio is 0, whatever the prior and the class sizes."""
    for p, value in product(PRIORS, [0.3, 0.0, -1e9]):
        calibration = Calibration.fit([value] * 5, [1, 0, 0, 0, 0], p_target=p)
        np.testing.assert_allclose(calibration([value, value + 1]), 0, atol=1e-5)


def test_a_constant_measure_has_no_say():
    ratios, labels = gaussian_ratios(0, n=500)
    measures = np.column_stack([np.full(500, 0.1), ratios**2])
    calibration = Calibration.fit(ratios, labels, measures)
    assert calibration.quality_weights[0] == 0 != calibration.quality_weights[1]
    again = Calibration.fit(ratios, labels, measures[:, 1:])
    np.testing.assert_allclose(
        calibration(ratios, measures), again(ratios, measures[:, 1:]), atol=1e-9
    )


def test_measures_that_repeat_one_another_share_the_weight():
    ratios, labels = gaussian_ratios(1, n=500)
    measure = np.random.default_rng(0).normal(size=(500, 1))
    once = Calibration.fit(ratios, labels, measure)
    twice = Calibration.fit(ratios, labels, np.repeat(measure, 2, axis=1))
    assert sum(twice.quality_weights) == pytest.approx(once.quality_weights[0], abs=1e-4)


def test_saved_and_restored_exactly():
    for qualities in [None, [[1.0, 2.0], [2.0, 2.5], [0.5, 1.0]]]:
        calibration = Calibration.fit([0.1, 0.35, 0.2], [0, 1, 1], qualities, p_target=0.05)
        text = json.dumps(calibration.to_dict())
        assert Calibration.from_dict(json.loads(text)) == calibration
        numbers = [calibration.scale, calibration.offset, *calibration.quality_weights]
        assert all(type(number) is float for number in numbers)


def test_inputs_of_every_kind():
    ratios, labels = gaussian_ratios(2, n=100)
    qualities = np.random.default_rng(0).normal(size=(100, 1))
    expected = Calibration.fit(ratios, labels, qualities)
    tensors = torch.tensor(ratios).requires_grad_(), torch.tensor(qualities)
    assert Calibration.fit(tensors[0], torch.tensor(labels), tensors[1]) == expected
    assert Calibration.fit(ratios.tolist(), labels == 1, qualities.tolist()) == expected
    np.testing.assert_array_equal(expected(*tensors), expected(ratios, qualities))
    assert expected(ratios[:1], qualities[:1]) == expected(ratios, qualities)[:1]
    assert expected([], np.empty((0, 1))).shape == (0,)


def test_symmetric_qualities():
    for seed in SEEDS:
        enrol, test = np.random.default_rng(seed).normal(size=(2, 7, 3))
        got = symmetric_qualities(enrol, test)
        np.testing.assert_array_equal(got, symmetric_qualities(test, enrol))
        np.testing.assert_allclose((got[:, :3] - got[:, 3:]) / 2, np.minimum(enrol, test))
        np.testing.assert_allclose((got[:, :3] + got[:, 3:]) / 2, np.maximum(enrol, test))
        one = symmetric_qualities(enrol[:, 0], torch.tensor(test[:, 0]))
        np.testing.assert_array_equal(one, got[:, [0, 3]])


NAN = float("nan")


def test_fit_refuses():
    for changed, message in [
        ({"scores": [0.1, NAN, 0.3]}, "scores must be finite, got nan at index 1"),
        ({"labels": [1, 1, 1]}, "both classes are needed, but all 3 labels are 1"),
        ({"labels": [0, 1]}, "3 scores, 2 labels"),
        ({"scores": [], "labels": []}, "no trials"),
        ({"qualities": [1.0, 2.0, 3.0]}, r"qualities must be 2-D, got shape \(3,\)"),
        ({"qualities": [[1.0], [2.0]]}, r"need qualities \[3, Q\], got shape \(2, 1\)"),
        ({"qualities": [[1.0], [NAN], [2.0]]}, "qualities must be finite.*index 1, 0"),
        ({"qualities": [["a"], ["b"], ["c"]]}, "qualities must be real numbers"),
        ({"p_target": 0.0}, r"p_target must be in \(0, 1\), got 0.0"),
        ({"p_target": 1.0}, "p_target must be in"),
        ({"p_target": NAN}, "p_target must be in"),
    ]:
        arguments = {"scores": [0.1, 0.2, 0.3], "labels": [0, 1, 1], **changed}
        with pytest.raises(ValueError, match=message):
            Calibration.fit(**arguments)


def test_calibrating_refuses():
    for scores, qualities, message in [
        ([0.1, NAN], [[1.0], [2.0]], "scores must be finite"),
        ([[0.1]], [[1.0]], "scores must be 1-D"),
        ([0.1, 0.2], None, "trained with 1 quality measures, got 0"),
        ([0.1, 0.2], [[1.0, 2.0]] * 2, "trained with 1 quality measures, got 2"),
        ([0.1, 0.2], [[1.0]], r"2 trials need qualities \[2, Q\]"),
        ([0.1], [[NAN]], "qualities must be finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            Calibration(2.0, -1.0, (0.5,))(scores, qualities)


def test_from_dict_refuses():
    for changed, message in [
        ({"scale": NAN}, "scale must be finite, got nan"),
        ({"scale": None}, "scale must be real numbers"),
        ({"offset": [1.0, 2.0]}, "offset must be 0-D"),
        ({"quality_weights": [float("inf")]}, "quality_weights must be finite"),
        ({"quality_weights": 2.0}, "quality_weights must be 1-D"),
        ({"p_target": 1.5}, "p_target must be in"),
        ({"bias": 1.0}, "a calibration has the keys .*'quality_weights'.* got .*'bias'"),
    ]:
        with pytest.raises(ValueError, match=message):
            Calibration.from_dict({**Calibration(1.0, 0.0).to_dict(), **changed})
        with pytest.raises(ValueError, match="has the keys"):
            Calibration.from_dict({"scale": 1.0})


def test_constructor_refuses():
    with pytest.raises(ValueError, match="finite numbers.*scale=nan"):
        Calibration(NAN, 0.0)
    with pytest.raises(ValueError, match="finite numbers"):
        Calibration(1.0, 0.0, (float("inf"),))
    with pytest.raises(ValueError, match="p_target must be in"):
        Calibration(1.0, 0.0, p_target=0.0)


def test_symmetric_qualities_refuses():
    for enrol, test, message in [
        ([1.0, 2.0], [1.0], r"differ in shape: enrol \(2,\), test \(1,\)"),
        ([1.0, NAN], [1.0, 1.0], "enrol must be finite, got nan at index 1"),
        ([1.0], [float("inf")], "test must be finite, got inf at index 0"),
        (1.0, 2.0, "enrol must be 1-D or 2-D"),
    ]:
        with pytest.raises(ValueError, match=message):
            symmetric_qualities(enrol, test)
