"""Clusters and their measures: naive loops, analytic identities, the axioms, files."""

import itertools
import math
from types import SimpleNamespace

import geoopt
import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score
from sklearn.metrics.pairwise import cosine_distances

from hamsb.analysis import clustering
from hamsb.nnet.balls import ClippedUnitBall, PoincareBall, expmap0, mobius_add
from hamsb.analysis.clustering import (
    additive_margin,
    ball_kmeans,
    cluster_quality,
    cosine_distance,
    distance_matrix,
    gyromidpoints,
    kmeans,
    medoids,
    relative_margin,
    speaker_means,
    weakest_link,
)

SEEDS = range(6)
CURVATURES = [1e-6, 0.5, 1.0, 5.0]
over_seeds = pytest.mark.parametrize("seed", SEEDS)
over_curvatures = pytest.mark.parametrize("curvature", CURVATURES)


def normal(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def ball_points(seed, n, curvature, reach=2.0, dimension=4):
    """Points of the ball, ``sqrt(c)|v|`` up to about ``reach``."""
    v = reach / 2 * normal(seed, n, dimension) / math.sqrt(dimension * curvature)
    return expmap0(v, curvature)


def pairwise(curvature):
    return PoincareBall(curvature).pairwise_distance


# ------------------------------------------------------------ points and distances


def test_speaker_means_are_those_of_a_loop():
    embeddings, speakers = normal(0, 7, 3), ["b", "a", "b", "c", "a", "b", "b"]
    names, means = speaker_means(embeddings, speakers)
    assert names == ("a", "b", "c")
    for name, mean in zip(names, means):
        own = [e for e, s in zip(embeddings, speakers) if s == name]
        torch.testing.assert_close(mean, sum(own) / len(own))
    assert speaker_means(embeddings.half(), speakers)[1].dtype == torch.float32
    with pytest.raises(ValueError, match="7 embeddings and 6 names"):
        speaker_means(embeddings, speakers[:6])
    with pytest.raises(ValueError, match="at least one"):
        speaker_means(embeddings[:0], [])


def test_cosine_distance_is_scikit_learns():
    x, y = normal(0, 5, 3), normal(1, 4, 3)
    expected = cosine_distances(x.numpy(), y.numpy())
    np.testing.assert_allclose(cosine_distance(x, y), expected, atol=1e-12)
    x = normal(2, 500, 3).float()
    assert (cosine_distance(x, 3 * x).diagonal() >= 0).all()


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_distance_matrix_is_symmetric_with_the_direct_distances(rows, monkeypatch):
    monkeypatch.setattr(clustering, "_ROWS", rows)
    ball, points = PoincareBall(1.0), ball_points(0, 10, 1.0).float()
    points[3] = points[7]
    matrix = distance_matrix(points, ball.pairwise_distance)
    assert matrix.dtype == np.float64
    assert (matrix == matrix.T).all() and not matrix.diagonal().any()
    points = points.double()
    direct = ball.distance(points[:, None], points[None])
    np.testing.assert_allclose(matrix, direct, atol=1e-7)


# ------------------------------------------------------------------------- k-means


def blobs(seed, k, each, dimension=8, spread=0.05):
    """Points around k orthogonal directions, and whose they are."""
    truth = torch.arange(k).repeat_interleave(each)
    truth = truth[torch.randperm(len(truth), generator=torch.Generator().manual_seed(seed))]
    points = torch.eye(dimension, dtype=torch.float64)[truth]
    return points + spread * normal(seed, len(truth), dimension), truth


@over_seeds
def test_kmeans_finds_directions_whatever_their_lengths(seed):
    points, truth = blobs(seed, k=5, each=8)
    points = points * (1 + 9 * torch.rand(len(points), 1, dtype=torch.float64))
    labels, centers = kmeans(points.float(), k=5, seed=seed)
    assert adjusted_rand_score(truth, labels) == 1
    assert labels.dtype == torch.int64 and centers.dtype == torch.float64
    unit = torch.nn.functional.normalize(points)
    for label in range(5):  # a fixed point of Lloyd's two steps
        torch.testing.assert_close(
            centers[label], unit[labels == label].mean(0), rtol=1e-5, atol=1e-6
        )
    assert torch.equal(torch.cdist(unit, centers).argmin(1), labels)


def test_kmeans_is_a_function_of_the_seed():
    points = normal(0, 300, 4)  # no structure: every start ends elsewhere
    labels, _ = kmeans(points, 20, seed=3, n_init=1)
    again, _ = kmeans(points, 20, seed=3, n_init=1)
    other, _ = kmeans(points, 20, seed=4, n_init=1)
    assert torch.equal(labels, again) and not torch.equal(labels, other)

    def inertia(n_init):
        labels, centers = kmeans(points, 20, seed=3, n_init=n_init)
        unit = torch.nn.functional.normalize(points)
        return (unit - centers[labels]).square().sum()

    assert inertia(n_init=10) < inertia(n_init=1)


@pytest.mark.parametrize("cluster", [
    kmeans,
    lambda points, k: ball_kmeans(0.1 * points, k, 1.0),
], ids=["directions", "ball"])
def test_kmeans_refuses_what_it_cannot_cluster(cluster):
    points = normal(0, 6, 3).clamp(-2, 2)
    points[3:] = points[:3]
    labels, _ = cluster(points, 3)
    assert sorted(labels.bincount().tolist()) == [2, 2, 2]
    for k in (0, 4):
        with pytest.raises(ValueError, match=rf"k={k}.*is 3 \(of 6\)"):
            cluster(points, k)
    with pytest.raises(ValueError, match=r"shape \(6,\)"):
        cluster(points[:, 0], 2)
    points[2, 1] = math.nan
    with pytest.raises(ValueError, match=r"\[2\] holds values that are not finite"):
        cluster(points, 2)


def test_kmeans_refuses_an_embedding_without_direction():
    with pytest.raises(ValueError, match=r"\[1\] has length zero"):
        kmeans(torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]), 2)


# ------------------------------------------------------------- k-means in the ball


@over_seeds
@over_curvatures
def test_gyromidpoints_are_geoopts(seed, curvature):
    points = ball_points(seed, 12, curvature)
    labels = torch.arange(12) % 3
    ours = gyromidpoints(points, labels, 3, curvature)
    ball = geoopt.PoincareBall(c=torch.tensor(curvature, dtype=torch.float64))
    for label, midpoint in enumerate(ours):
        theirs = ball.weighted_midpoint(points[labels == label], reducedim=[0])
        torch.testing.assert_close(midpoint, theirs, rtol=1e-7, atol=1e-9)


@over_seeds
@over_curvatures
def test_gyromidpoints_move_with_the_ball(seed, curvature):
    points = ball_points(seed, 6, curvature)
    shift = ball_points(seed + 100, 1, curvature)
    one = torch.zeros(6, dtype=torch.int64)
    moved = gyromidpoints(mobius_add(shift, points, curvature), one, 1, curvature)
    torch.testing.assert_close(
        moved,
        mobius_add(shift, gyromidpoints(points, one, 1, curvature), curvature),
        rtol=1e-7,
        atol=1e-9,
    )


@over_curvatures
def test_gyromidpoint_of_two_points_halves_their_distance(curvature):
    x, y = ball_points(0, 2, curvature)
    m = gyromidpoints(torch.stack([x, y]), torch.tensor([0, 0]), 1, curvature)[0]
    distance = PoincareBall(curvature).distance
    half = distance(x, y) / 2
    torch.testing.assert_close(distance(x, m), half, rtol=1e-6, atol=0)
    torch.testing.assert_close(distance(y, m), half, rtol=1e-6, atol=0)


@over_curvatures
def test_gyromidpoint_has_the_least_inertia(curvature):
    points = ball_points(1, 9, curvature)
    m = gyromidpoints(points, torch.zeros(9, dtype=torch.int64), 1, curvature)[0]
    m.requires_grad_()
    angles = math.sqrt(curvature) / 2 * PoincareBall(curvature).distance(points, m)
    inertia = angles.sinh().square().sum() / curvature
    (gradient,) = torch.autograd.grad(inertia, m)
    scale = (points - m).norm(dim=1).sum()  # what the terms' gradients are like
    assert gradient.norm() < 1e-6 * scale


def test_gyromidpoints_of_one_point_are_that_point_even_near_the_rim():
    for reach in (0, 1e-8, 1, 4, 8):
        v = reach * torch.nn.functional.normalize(normal(0, 1, 8))
        points = expmap0(v, 1.0).repeat(50, 1)
        m = gyromidpoints(points, torch.zeros(50, dtype=torch.int64), 2, 1.0)
        assert PoincareBall(1.0).distance(points[0], m[0]) < 1e-8
        assert not m[1].any()  # an empty cluster


def test_gyromidpoints_on_the_rim_are_finite():
    points = torch.nn.functional.normalize(normal(0, 50, 8))
    for norm in (1 - 1e-7, 1 - 1e-12, 1.0):
        m = gyromidpoints(points * norm, torch.zeros(50, dtype=torch.int64), 1, 1.0)
        assert m.isfinite().all() and m.norm() < 1
        assert pairwise(1.0)(points * norm, m).isfinite().all()


def naive_inertia(points, labels, curvature):
    """The cost of a partition, cluster by cluster, by the formulas as printed."""
    total, c = 0.0, curvature
    for label in set(labels):
        own = points[[x == label for x in labels]]
        conformal = 2 / (1 - c * own.square().sum(1))
        v = (conformal[:, None] * own).sum(0) / (conformal - 1).sum()
        length = math.sqrt(c) * v.norm()
        midpoint = torch.tanh(torch.atanh(length) / 2) * v / length
        angles = math.sqrt(c) / 2 * PoincareBall(c).distance(own, midpoint)
        total += (angles.sinh().square() / c).sum().item()
    return total


@pytest.mark.parametrize("curvature", [0.1, 3.0])
@pytest.mark.parametrize("seed", range(3))
def test_ball_kmeans_finds_the_best_of_all_partitions(seed, curvature):
    points = ball_points(seed, 7, curvature)
    partitions = [(0, *rest) for rest in itertools.product((0, 1), repeat=6)][1:]
    best = min(partitions, key=lambda labels: naive_inertia(points, labels, curvature))
    labels, centers = ball_kmeans(points, 2, curvature, n_init=100)
    assert adjusted_rand_score(best, labels) == 1
    torch.testing.assert_close(centers, gyromidpoints(points, labels, 2, curvature))


@pytest.mark.parametrize("curvature", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ball_kmeans_ends_at_a_fixed_point(curvature, dtype):
    points = ball_points(0, 300, curvature).to(dtype)
    labels, centers = ball_kmeans(points, 7, curvature, n_init=2)
    assert labels.dtype == torch.int64 and centers.dtype == torch.float64
    assert labels.bincount().all()
    points = points.double()
    assert torch.equal(pairwise(curvature)(points, centers).argmin(1), labels)
    torch.testing.assert_close(centers, gyromidpoints(points, labels, 7, curvature))


def test_ball_kmeans_is_euclidean_where_the_ball_is_flat():
    points, truth = blobs(0, k=4, each=10)
    flat, centers = ball_kmeans(points, 4, 1e-8)
    assert adjusted_rand_score(truth, flat) == 1
    for label in range(4):
        torch.testing.assert_close(
            centers[label], points[flat == label].mean(0), rtol=1e-5, atol=1e-6
        )


def test_ball_kmeans_is_a_function_of_the_seed():
    points = ball_points(0, 150, 1.0)

    def run(seed, n_init=1):
        return ball_kmeans(points, 9, 1.0, seed=seed, n_init=n_init)

    assert torch.equal(run(1)[0], run(1)[0])
    assert not torch.equal(run(1)[0], run(2)[0])
    several = [naive_inertia(points, run(5, n_init)[0].tolist(), 1.0) for n_init in (1, 8)]
    assert several[1] < several[0]


def test_ball_kmeans_clusters_the_clipped_ball_at_curvature_1():
    ball, (points, truth) = ClippedUnitBall(3.0), blobs(0, k=3, each=5)
    points = ball.project(points)
    labels, centers = ball_kmeans(points, 3, curvature=1.0)
    assert adjusted_rand_score(truth, labels) == 1
    assert torch.equal(ball.pairwise_distance(points, centers).argmin(1), labels)


def test_ball_kmeans_refuses_points_outside():
    points = torch.tensor([[0.1, 0.2], [0.6, 0.8], [2.0, 0.0]])
    with pytest.raises(ValueError, match=r"points\[1\] lies outside .*-1; .*ball.project"):
        ball_kmeans(points, 2, 1.0)
    with pytest.raises(ValueError, match="curvature=-1: must be positive"):
        ball_kmeans(points, 2, -1.0)
    labels, _ = ball_kmeans(points, 3, 0.2)
    assert sorted(labels.tolist()) == [0, 1, 2]


def test_ball_kmeans_takes_a_learnable_ball():
    ball = PoincareBall(2.0, learnable=True)
    points = ball.project(10 * blobs(0, k=3, each=5)[0])
    labels, centers = ball_kmeans(points, 3, ball.curvature)
    assert not centers.requires_grad
    assert adjusted_rand_score(blobs(0, k=3, each=5)[1], labels) == 1


def test_an_empty_cluster_gets_the_costliest_point_that_can_be_spared():
    labels = torch.tensor([0, 0, 0, 2, 2, 4])
    cost = torch.tensor([1.0, 3.0, 2.0, 5.0, 4.0, 9.0])
    mended = clustering._without_empty(labels, cost, 5)
    # 9.0 is alone in its cluster, and so is the 4.0 that 5.0 leaves behind.
    assert mended.tolist() == [0, 3, 0, 1, 2, 4]
    assert labels.tolist() == [0, 0, 0, 2, 2, 4]


@over_seeds
def test_ball_kmeans_starts_far_apart(seed):
    points, truth = blobs(seed, k=8, each=6, spread=1e-3)
    labels, _ = ball_kmeans(0.5 * points, 8, 1.0, seed=seed, n_init=1, max_iter=1)
    assert adjusted_rand_score(truth, labels) == 1


def test_ball_kmeans_recovers_from_a_start_in_one_point(monkeypatch):
    def in_one_point(points, k, costs, random):
        return points[:1].repeat(k, 1)

    monkeypatch.setattr(clustering, "_spread_start", in_one_point)
    points, truth = blobs(0, k=4, each=6)
    points = 0.5 * points
    labels, centers = ball_kmeans(points, 4, 1.0)
    assert labels.bincount(minlength=4).all()
    assert torch.equal(pairwise(1.0)(points, centers).argmin(1), labels)


# ------------------------------------------------------------ measures of quality


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


@over_seeds
@pytest.mark.parametrize("rows", [2, 1024])
def test_measures_are_those_of_naive_loops(seed, rows, monkeypatch):
    monkeypatch.setattr(clustering, "_ROWS", rows)
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


@over_seeds
def test_medoids_are_the_default_centers(seed):
    distances, labels, _ = clustering_of(seed)
    found = medoids(distances, labels)
    for label, medoid in enumerate(found):
        members = np.flatnonzero(labels == label)
        sums = {m: sum(distances[m, x] for x in members) for m in members}
        assert medoid in members and sums[medoid] == pytest.approx(min(sums.values()))
    quality = cluster_quality(distances, labels)
    assert quality["relative_margin"] == relative_margin(distances[:, found], labels, found)


def measures(distances, labels, chosen):
    """All three with medoids held fixed, each with higher as better."""
    to_centers = distances[:, chosen]
    return np.array([
        -relative_margin(to_centers, labels, chosen),
        additive_margin(distances, labels, to_centers),
        -weakest_link(distances, labels),
    ])  # fmt: skip


@over_seeds
@pytest.mark.parametrize("scale", [1e-6, 0.3, 1e5])
def test_axiom_scale_invariance(seed, scale):
    distances, labels, chosen = clustering_of(seed)
    np.testing.assert_allclose(
        measures(scale * distances, labels, chosen), measures(distances, labels, chosen)
    )


@pytest.mark.parametrize("seed", range(30))
def test_axiom_consistency(seed):
    distances, labels, chosen = clustering_of(seed)
    rng = np.random.default_rng(seed)
    before = measures(distances, labels, chosen)
    for strength in (0.01, 0.5, 1.0):
        # Every distance within a cluster shrinks by its own factor, others grow.
        factor = 1 - strength * rng.random(distances.shape)
        factor = np.minimum(factor, factor.T)
        within = labels[:, None] == labels
        changed = np.where(within, distances * factor, distances / np.maximum(factor, 1e-3))
        after = measures(changed, labels, chosen)
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


@over_seeds
def test_axiom_isomorphism_invariance(seed):
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


@over_seeds
def test_with_mean_centers_scale_and_numbering_change_nothing(seed):
    points, truth = blobs(seed, k=3, each=6, spread=0.4)

    def quality(points, labels):
        _, centers = speaker_means(points, [str(x) for x in labels.tolist()])
        return cluster_quality(
            distance_matrix(points, torch.cdist), labels, torch.cdist(points, centers)
        )

    expected = quality(points, truth)
    assert quality(7 * points, truth) == pytest.approx(expected)
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))
    renamed = torch.tensor([1, 2, 0])[truth]
    assert quality(points[order], renamed[order]) == pytest.approx(expected)


def line(*positions):
    points = torch.tensor(positions, dtype=torch.float64).unsqueeze(1)
    return torch.cdist(points, points).numpy()


def test_singletons_are_their_own_centers_and_have_no_links():
    distances, labels = line(0, 1, 10), [0, 0, 1]
    to_centers = np.array([[0.5, 10], [0.5, 9], [9.5, 0]])
    assert relative_margin(to_centers, labels) == pytest.approx((0.05 + 0.5 / 9) / 2)
    assert additive_margin(distances, labels, to_centers) == pytest.approx(27.5 / 3)
    assert weakest_link(distances, labels) == pytest.approx(1 / 9)


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2]])
def test_trivial_clusterings_have_no_quality(labels):
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


@pytest.mark.parametrize("distances, labels, message", [
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
])  # fmt: skip
def test_what_is_no_clustering_is_refused(distances, labels, message):
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
