"""Measures of clusterings: naive loops, the axioms, coincidences, what is refused."""

import itertools
import math

import numpy as np
import pytest
import torch

from hamsb import PoincareBall
from hamsb.analysis import cluster_quality as module
from hamsb.analysis.cluster_quality import (
    additive_margin,
    cluster_quality,
    distance_matrix,
    medoids,
    relative_margin,
    weakest_link,
)
from hamsb.nnet.similarities import CosineSimilarity, HyperbolicSimilarity

SEEDS = range(6)


def test_distance_matrix_is_symmetric_with_the_direct_distances(monkeypatch):
    x = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    x[3] = x[7]
    ball = PoincareBall(1.0)
    points = ball.project(x)
    cosine, hyperbolic = CosineSimilarity(), HyperbolicSimilarity(ball)
    for rows in (1, 3, 100):
        monkeypatch.setattr(module, "_ROWS", rows)
        matrix = distance_matrix(points, hyperbolic.distances)
        assert matrix.dtype == np.float64
        assert (matrix == matrix.T).all() and not matrix.diagonal().any()
        direct = ball.distance(points.double()[:, None], points.double()[None])
        np.testing.assert_allclose(matrix, direct, atol=1e-7)

        matrix = distance_matrix(cosine.project(x.double()), cosine.distances)
        assert (matrix == matrix.T).all() and not matrix.diagonal().any()
        direct = 1 - torch.cosine_similarity(x.double()[:, None], x.double()[None], dim=-1)
        np.testing.assert_allclose(matrix, direct, atol=1e-12)


# ---------------------------------------------------------- against naive loops


def clustering_of(seed, n=24, k=4, dimension=3):
    """Distances (no metric: entries are scaled at random), labels, medoids."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n, dimension))
    labels = np.concatenate([np.arange(k), rng.integers(0, k, n - k)])
    points += 3 * rng.normal(size=(k, dimension))[labels]
    noise = rng.uniform(0.8, 1.2, (n, n))
    distances = np.linalg.norm(points[:, None] - points, axis=-1) * (noise + noise.T)
    chosen = [rng.choice(np.flatnonzero(labels == label)) for label in range(k)]
    return distances, labels, np.array(chosen)


def naive_relative_margin(to_centers, labels, centers):
    ratios = []
    for point, row in enumerate(to_centers):
        if point not in centers:
            others = [d for label, d in enumerate(row) if label != labels[point]]
            ratios.append(row[labels[point]] / min(others))
    return sum(ratios) / len(ratios)


def naive_additive_margin(distances, labels, to_centers):
    margins = [
        min(d for label, d in enumerate(row) if label != own) - row[own]
        for row, own in zip(to_centers, labels)
    ]
    pairs = [
        distances[x, y]
        for x, y in itertools.combinations(range(len(labels)), 2)
        if labels[x] == labels[y]
    ]
    return (sum(margins) / len(margins)) / (sum(pairs) / len(pairs))


def naive_weakest_link(distances, labels):
    """By the paper's definition: over all paths within the cluster, the least longest
    step, as Floyd & Warshall find it."""
    n = len(labels)
    same = labels[:, None] == labels
    link = np.where(same, distances, np.inf)
    for via in range(n):
        for x, y in itertools.product(range(n), repeat=2):
            link[x, y] = min(link[x, y], max(link[x, via], link[via, y]))
    pairs = list(itertools.product(range(n), repeat=2))
    longest = max(link[pair] for pair in pairs if same[pair])
    return longest / min(distances[pair] for pair in pairs if not same[pair])


def test_measures_are_those_of_naive_loops(monkeypatch):
    for rows, seed in itertools.product((2, 1024), SEEDS):
        monkeypatch.setattr(module, "_ROWS", rows)
        distances, labels, chosen = clustering_of(seed)
        to_centers = distances[:, chosen]
        expected = {
            "relative_margin": naive_relative_margin(to_centers, labels, chosen),
            "additive_margin": naive_additive_margin(distances, labels, to_centers),
            "weakest_link": naive_weakest_link(distances, labels),
        }
        measured = {
            "relative_margin": relative_margin(to_centers, labels, chosen),
            "additive_margin": additive_margin(distances, labels, to_centers),
            "weakest_link": weakest_link(distances, labels),
        }
        assert measured == pytest.approx(expected, rel=1e-12)
        # Centers that are no points: none is left out of the relative margin.
        expected["relative_margin"] = naive_relative_margin(to_centers, labels, [])
        assert cluster_quality(distances, labels, to_centers) == pytest.approx(expected)


def test_medoids_are_the_default_centers():
    for seed in SEEDS:
        distances, labels, _ = clustering_of(seed)
        found = medoids(distances, labels)
        for label, medoid in enumerate(found):
            members = np.flatnonzero(labels == label)
            sums = {m: sum(distances[m, x] for x in members) for m in members}
            assert medoid in members and sums[medoid] == pytest.approx(min(sums.values()))
        quality = cluster_quality(distances, labels)
        of_medoids = relative_margin(distances[:, found], labels, found)
        assert quality["relative_margin"] == of_medoids


# ------------------------------------------------------------------------- axioms


def measures(distances, labels, chosen):
    """All three with medoids held fixed, each with higher as better."""
    to_centers = distances[:, chosen]
    return np.array([
        -relative_margin(to_centers, labels, chosen),
        additive_margin(distances, labels, to_centers),
        -weakest_link(distances, labels),
    ])  # fmt: skip


def test_axiom_scale_invariance():
    for scale, seed in itertools.product((1e-6, 0.3, 1e5), SEEDS):
        distances, labels, chosen = clustering_of(seed)
        np.testing.assert_allclose(
            measures(scale * distances, labels, chosen), measures(distances, labels, chosen)
        )


def test_axiom_consistency():
    for seed in range(30):
        distances, labels, chosen = clustering_of(seed)
        rng = np.random.default_rng(seed)
        before = measures(distances, labels, chosen)
        for strength in (0.01, 0.5, 1.0):
            # Every distance within a cluster shrinks by its own factor, others grow.
            factor = 1 - strength * rng.random(distances.shape)
            factor = np.minimum(factor, factor.T)
            within, grown = labels[:, None] == labels, distances / np.maximum(factor, 1e-3)
            after = measures(np.where(within, distances * factor, grown), labels, chosen)
            claimed = [True, before[1] >= 0, True]
            assert (after >= before - 1e-12)[claimed].all(), (before, after)


def test_consistency_is_not_claimed_of_a_negative_additive_margin():
    # Point 1 is in the cluster of medoid 0 but beside medoid 2: d_2 - d_1 < 0.
    # Shrinking 0 to 3, which no margin looks at much, makes the quotient worse.
    labels, chosen = np.array([0, 0, 1, 0]), np.array([0, 2])
    distances = np.array([[0, 9, 1, 1], [9, 0, 1, 9], [1, 1, 0, 1], [1, 9, 1, 0]], float)
    before = additive_margin(distances, labels, distances[:, chosen])
    distances[1, 3] = distances[3, 1] = 1.0
    assert additive_margin(distances, labels, distances[:, chosen]) < before < 0


def test_axiom_isomorphism_invariance():
    for seed in SEEDS:
        distances, labels, chosen = clustering_of(seed)
        rng = np.random.default_rng(seed)
        points, names = rng.permutation(len(labels)), rng.permutation(4)
        moved = np.argsort(points)[chosen]  # where each medoid went
        np.testing.assert_allclose(
            measures(
                distances[np.ix_(points, points)],
                names[labels[points]],
                moved[np.argsort(names)],
            ),
            measures(distances, labels, chosen),
        )


def test_with_mean_centers_scale_and_numbering_change_nothing():
    def quality(points, labels):
        centers = torch.stack([points[labels == label].mean(0) for label in range(3)])
        return cluster_quality(
            distance_matrix(points, torch.cdist), labels, torch.cdist(points, centers)
        )

    truth = torch.arange(18) % 3
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(18, 8, generator=generator, dtype=torch.float64)
        points = torch.eye(8, dtype=torch.float64)[truth] + 0.4 * noise
        expected = quality(points, truth)
        assert quality(7 * points, truth) == pytest.approx(expected)
        order = torch.randperm(18, generator=generator)
        renamed = torch.tensor([1, 2, 0])[truth]
        assert quality(points[order], renamed[order]) == pytest.approx(expected)


# -------------------------------------------------------- what is at the edges


def line(*positions):
    points = torch.tensor(positions, dtype=torch.float64).unsqueeze(1)
    return torch.cdist(points, points).numpy()


def test_singletons_are_their_own_centers_and_have_no_links():
    distances, labels = line(0, 1, 10), [0, 0, 1]
    to_centers = np.array([[0.5, 10], [0.5, 9], [9.5, 0]])
    assert relative_margin(to_centers, labels) == pytest.approx((0.05 + 0.5 / 9) / 2)
    assert additive_margin(distances, labels, to_centers) == pytest.approx(27.5 / 3)
    assert weakest_link(distances, labels) == pytest.approx(1 / 9)


def test_trivial_clusterings_have_no_quality():
    for labels in ([0, 0, 0], [0, 1, 2]):
        quality = cluster_quality(line(0, 1, 3), labels)
        assert all(math.isnan(value) for value in quality.values())


def test_coincident_centers_and_points():
    # Two clusters, all points in one place: no better than chance.
    everywhere = {"relative_margin": 1.0, "additive_margin": 0.0, "weakest_link": 1.0}
    assert cluster_quality(line(0, 0, 0, 0), [0, 0, 1, 1]) == everywhere
    # Two places, a cluster each: as good as can be.
    apart = {"relative_margin": 0.0, "additive_margin": math.inf, "weakest_link": 0.0}
    assert cluster_quality(line(0, 0, 5, 5), [0, 0, 1, 1]) == apart
    # Two centers in one place: both ratios of the others are 1.
    mixed, labels = line(0, 2, 0, 3), [0, 0, 1, 1]
    chosen = [0, 2]
    assert relative_margin(mixed[:, chosen], labels, chosen) == 1
    assert additive_margin(mixed, labels, mixed[:, chosen]) == 0
    assert weakest_link(mixed, labels) == math.inf
    # A point on another center than its own.
    assert relative_margin(line(0, 5, 5)[:, [0, 2]], [0, 0, 1], [0, 2]) == math.inf


def test_measures_take_tensors_lists_and_float32():
    distances, labels, chosen = clustering_of(0)
    expected = cluster_quality(distances, labels)
    tensors = torch.tensor(distances).float(), torch.tensor(labels)
    assert cluster_quality(*tensors) == pytest.approx(expected, rel=1e-5)
    assert cluster_quality(distances.tolist(), labels.tolist()) == expected
    assert isinstance(expected["weakest_link"], float)


def changed(distances, entries):
    distances = distances.copy()
    for place, value in entries.items():
        distances[place] = value
    return distances


SOUND, LABELS = line(0, 1, 5, 7), [0, 0, 1, 1]


WRONG = [
    (SOUND[:3], LABELS, r"\[N, N\], got shape \(3, 4\)"),
    (SOUND[:0, :0], LABELS, r"\[N, N\], got shape \(0, 0\)"),
    (SOUND, [0, 0, 1], r"labels must be 4 whole numbers .* \(3,\)"),
    (SOUND, [0, 0, 1, -1], "labels must be 4"),
    (SOUND, [0.0, 0.0, 1.0, 1.0], "labels must be 4 .* float64"),
    (SOUND, [0, 0, 2, 2], "no point has label 1, but some have 2"),
    (changed(SOUND, {(2, 2): 0.1}), LABELS, r"distances\[2, 2\] is 0.1, not 0"),
    (changed(SOUND, {(1, 3): 4.0}), LABELS, r"distances\[1, 3\] is 4, .* round 6"),
    (changed(SOUND, {(1, 3): -1, (3, 1): -1}), LABELS, r"distances\[1, 3\] is -1"),
    (changed(SOUND, {(2, 3): math.nan}), LABELS, r"distances\[2, 3\] is nan"),
    (changed(SOUND, {(0, 1): math.inf}), LABELS, r"distances\[0, 1\] is inf"),
]


def test_what_is_no_clustering_is_refused():
    for distances, labels, message in WRONG:
        with pytest.raises(ValueError, match=message):
            cluster_quality(distances, labels)


def test_centers_that_are_not_the_clusters_are_refused():
    with pytest.raises(ValueError, match=r"to_centers must be \[4, k\], got .*\(3, 2\)"):
        cluster_quality(SOUND, LABELS, SOUND[:3, :2])
    with pytest.raises(ValueError, match="label 1, but to_centers has 1 centers"):
        cluster_quality(SOUND, LABELS, SOUND[:, :1])
    with pytest.raises(ValueError, match=r"to_centers\[0, 1\] is -1"):
        relative_margin([[0, -1], [1, 1], [1, 1], [1, 1]], LABELS)
    for wrong in ([0, 1], [2, 0], [0]):
        with pytest.raises(ValueError, match="each cluster's medoid"):
            relative_margin(SOUND[:, [0, 2]], LABELS, wrong)
