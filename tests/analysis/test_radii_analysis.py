"""What lengths and radii are related to, against naive loops; and the tables."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from hamsb import ClippedUnitBall, PoincareBall
from hamsb.analysis import radii
from hamsb.analysis.lengths import Condition, Lengths, measure
from hamsb.verification.embeddings import Embeddings


def conditions(ball=None):
    """Ten utterances of three speakers whole, of six of them a crop, and noise."""
    names = tuple(f"id{i // 4}/{i}" for i in range(10))
    x = torch.randn(10, 6, generator=torch.Generator().manual_seed(0))
    seconds = torch.arange(10).double() + 1
    mean = x.double().mean(0)

    def condition(kind, value, rows, factor):
        own = tuple(names[i] for i in rows)
        matrix = factor * x[rows]
        embeddings = Embeddings(own, matrix, seconds[rows])
        return Condition(kind, value, embeddings, measure(ball, matrix.double(), mean))

    everyone = list(range(10))
    return [
        condition("whole", math.inf, everyone, 1.0),
        condition("crop", 3.0, everyone[4:], 0.5),
        condition("noise", 0, everyone, 0.25),
    ]


# -------------------------------------------------------------------- correlations


def test_correlation_is_scipys_with_infinity_the_highest_rank():
    for seed in range(3):
        random = np.random.default_rng(seed)
        x = random.integers(5, size=40).astype(float)
        y = x + 3 * random.standard_normal(40)
        expected = spearmanr(x, y).statistic
        infinite = np.where(x == 4, np.inf, x)
        owner = np.arange(40) // 4
        found = radii.correlation(y, infinite, owner, 200, 0)
        assert found["rho"] == pytest.approx(expected, abs=1e-12)
        low, high = found["interval"]
        assert low < expected < high
        reverse = radii.correlation(-y, x, owner, 0, 0)
        assert reverse == {"rho": pytest.approx(-expected), "interval": None}


def test_speakers_are_drawn_and_not_pairs():
    """So pairs that are there ten times make an interval no narrower."""
    random = np.random.default_rng(0)
    x, y = random.standard_normal((2, 15))
    one = radii.correlation(x, y, np.arange(15), 100, 0)
    ten = radii.correlation(*(np.repeat(v, 10) for v in (x, y, np.arange(15))), 100, 0)
    assert one["interval"] == pytest.approx(ten["interval"])
    assert one["interval"][1] - one["interval"][0] > 0.5


@pytest.mark.filterwarnings("error")
def test_no_correlation_of_what_does_not_vary():
    for x, y in (
        ([1, 1, 1, 1], [1, 2, 3, 4]),
        ([1, 2, 3, 4], [2, 2, 2, 2]),
        ([1, 2], [2, 1]),
        ([], []),
    ):
        assert radii.correlation(x, y, range(len(x)), 10, 0) is None


def test_a_draw_without_a_correlation_is_replaced():
    found = radii.correlation([1, 1, 2], [1, 2, 3], ["a", "b", "c"], 50, 0)
    assert np.isfinite(found["interval"]).all()


def test_confusability_against_a_loop():
    whole = conditions()[0]
    names, x = whole.embeddings.utterances, whole.embeddings.matrix.double()
    for nearest in (1, 3, 100):
        expected = []
        for i, name in enumerate(names):
            others = sorted(
                torch.cosine_similarity(x[i], x[j], dim=0).item()
                for j, other in enumerate(names)
                if other[:3] != name[:3]
            )
            expected.append(np.mean(others[-nearest:]))
        found = radii.confusabilities(whole, nearest)
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_nobody_to_be_confused_with():
    embeddings = Embeddings(tuple(f"id00/{k}" for k in range(3)), torch.eye(3))
    condition = Condition("whole", math.inf, embeddings, Lengths(np.ones(3)))
    with pytest.raises(ValueError, match="all utterances are of speaker id00: nobody"):
        radii.confusabilities(condition, 3)
    with pytest.raises(ValueError, match="without lengths in seconds"):
        radii.relate_embeddings([condition], 3, 0, 0)


def test_lengths_are_related_to_duration_noise_and_confusability():
    ball = PoincareBall(1.0)
    whole, crop, noise = changed = conditions(ball)
    seconds = np.arange(10) + 1.0
    expected = [
        ([whole], seconds),
        ([whole, crop], [*seconds, *[3.0] * 6]),
        ([whole, noise], [*[math.inf] * 10, *[0.0] * 10]),
        ([whole], radii.confusabilities(whole, 3)),
    ]
    lines = radii.relate_embeddings(changed, nearest=3, draws=20, seed=0)
    for line, (chosen, y) in zip(lines, expected, strict=True):
        assert line["pairs"] == len(y)
        ranks = np.where(np.isinf(y), 1e9, y)
        for key in ("norm", "centered"):
            x = np.concatenate([getattr(c.lengths, key) for c in chosen])
            assert line[key]["rho"] == pytest.approx(spearmanr(x, ranks).statistic)
            low, high = line[key]["interval"]
            assert -1 <= low <= high <= 1
        # A ball that limits nothing keeps the order.
        assert line["radius"]["rho"] == pytest.approx(line["norm"]["rho"])
    (first, last) = radii.relate_embeddings([whole], 3, 0, 0)
    assert first["norm"]["interval"] is None and "confusability" in last["related_to"]
    assert "radius" not in radii.relate_embeddings(conditions(), 3, 0, 0)[0]


# ----------------------------------------------------------------------- summaries


def test_conditions_are_summarized_with_their_share_of_the_whole():
    lines = radii.by_condition(conditions(ClippedUnitBall(100.0)))
    assert [(line["kind"], line["value"]) for line in lines] == [
        ("whole", None), ("crop", 3.0), ("noise", 0),
    ]  # fmt: skip
    assert [line["norm"]["share"] for line in lines] == pytest.approx([1, 0.5, 0.25])
    assert [line["norm"]["number"] for line in lines] == [10, 6, 10]
    # Where all are clipped, no radius tells one from another.
    assert all(line["clipped"] == 1.0 and line["radius"]["std"] == 0 for line in lines)
    assert "clipped" not in radii.by_condition(conditions())[0]


def test_summaries_are_numpys():
    ball = ClippedUnitBall(1.0)
    vectors = torch.randn(11, 3, generator=torch.Generator().manual_seed(0)).double()
    embeddings = measure(ball, vectors, vectors.mean(0))
    lines = radii.summaries(embeddings, measure(ball, vectors / 9))
    assert [line["of"] for line in lines] == [
        "embeddings: norm", "embeddings: norm about the mean", "embeddings: radius",
        "centers: norm", "centers: radius",
    ]  # fmt: skip
    norm = vectors.norm(dim=1).numpy()
    assert lines[0] == {
        "of": "embeddings: norm", "number": 11, "mean": pytest.approx(norm.mean()),
        "std": pytest.approx(norm.std()), "min": norm.min(), "max": norm.max(),
        "median": np.median(norm), "clipped": pytest.approx((norm > 1).mean()),
    }  # fmt: skip
    assert lines[1]["clipped"] is None and lines[3]["clipped"] == 0
    assert len(radii.summaries(measure(None, vectors, vectors[0]))) == 2


# --------------------------------------------------------------------- the centers


@pytest.mark.parametrize(
    "ball", [ClippedUnitBall(3.0), PoincareBall(2.0, gain=1.0)], ids=str
)
def test_centers_against_a_loop(ball, monkeypatch):
    monkeypatch.setattr(radii, "_ROWS", 4)
    generator = torch.Generator().manual_seed(0)
    vectors = 0.3 * torch.randn(11, 3, generator=generator, dtype=torch.float64)
    lengths = measure(ball, vectors)
    points = lengths.points
    nearest, cosines = [], []
    for i, x in enumerate(points):
        others = [y for j, y in enumerate(points) if j != i]
        nearest.append(min(ball.distance(x, y).item() for y in others))
        cosines.append(max(torch.cosine_similarity(x, y, dim=0).item() for y in others))
    found = radii.nearest_centers(ball, points)
    np.testing.assert_allclose(found[0], nearest, rtol=1e-6)
    np.testing.assert_allclose(found[1], cosines, atol=1e-9)
    # Each other's nearest are equally far.
    assert len(set(found[0])) < len(nearest) > len(set(found[1]))
    nearest, cosines = np.round(nearest, 8), np.round(cosines, 8)
    # With changed speeds, classes are no speakers of the annotation.
    names = [f"s{i}" for i in range(5)] + [f"s{i} at 90 %" for i in range(5)] + [None]
    counts = Counter({f"s{i}": i * i for i in range(5)})
    lines = radii.relate_centers(ball, lengths, names, counts, 0, 0)
    radius = [round(ball.distance(x, torch.zeros_like(x)).item(), 8) for x in points]
    for line, other in zip(lines, (nearest, cosines, [0, 1, 4, 9, 16]), strict=True):
        assert line["pairs"] == len(other)
        expected = spearmanr(radius[: len(other)], other).statistic
        assert line["radius"]["rho"] == pytest.approx(expected, abs=1e-12)

    # Sub-centers of one speaker are none of another's.
    apart = torch.tensor([0.01, 0.0, 0.0]).double()
    pairs = torch.stack([vectors[:5], vectors[:5] + apart], 1)
    lengths = measure(ball, pairs.flatten(0, 1))
    points, speakers = lengths.points, np.arange(10) // 2
    for i, distance in enumerate(radii.nearest_centers(ball, points, 2)[0]):
        others = [y for y, speaker in zip(points, speakers) if speaker != speakers[i]]
        expected = min(ball.distance(points[i], y).item() for y in others)
        assert distance == pytest.approx(expected, rel=1e-6)
    lines = radii.relate_centers(ball, lengths, names[:5], counts, 0, 0, 2)
    assert [line["pairs"] for line in lines] == [10, 10, 10]
    expected = spearmanr(lengths.radius, [i * i for i in speakers]).statistic
    assert lines[2]["radius"]["rho"] == pytest.approx(expected, abs=1e-12)
    with pytest.raises(ValueError, match="measured without a ball"):
        radii.relate_centers(ball, measure(None, points), names, counts, 0, 0)


# ---------------------------------------------------------------- tables and plots


def test_boxes_are_panels_of_conditions_from_short_and_noisy_to_whole_and_clean():
    whole, crop, noise = conditions()
    panels = radii.boxes([whole, crop, noise])
    assert {label: list(panel) for label, panel in panels.items()} == {
        "duration": ["3 s", "whole"], "signal-to-noise ratio": ["0 dB", "clean"],
    }  # fmt: skip
    shown = panels["duration"]["3 s"]
    assert shown["norm"] is crop.lengths.norm
    assert shown["norm about the mean"] is crop.lengths.centered


def test_tables_say_what_was_found():
    ball = ClippedUnitBall(10.0)
    changed = conditions(ball)
    text = radii.summary_table(radii.summaries(changed[0].lengths, changed[0].lengths))
    row = "| embeddings: radius | 10 | 0.6549 | 0 | 0.6549 | 0.6549 | 0.6549 | 100.0 |"
    assert row in text
    text = radii.relation_table(radii.relate_embeddings(changed, 3, 0, 0))
    assert text.splitlines()[0].endswith("| radius | 95 % interval |")
    assert "| none |  |" in text
    lines = radii.by_condition(changed)
    durations = radii.condition_table(lines, "crop").splitlines()
    assert durations[0].startswith("| duration | utterances | mean norm | % of whole |")
    assert durations[2].startswith("| 3 s | 6 |")
    assert durations[3].startswith("| whole | 10 |")
    assert radii.condition_table(lines, "noise").splitlines()[2].startswith("| 0 dB | 10 |")
