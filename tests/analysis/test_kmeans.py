"""k-means of directions and in the ball: geoopt, exhaustive search, fixed points."""

import itertools
import math

import geoopt
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from hamsb import ClippedUnitBall, PoincareBall
from hamsb.analysis import kmeans as module
from hamsb.analysis.kmeans import ball_kmeans, gyromidpoints, kmeans
from hamsb.nnet.balls import expmap0, mobius_add

SEEDS = range(6)
CURVATURES = [1e-6, 0.5, 1.0, 5.0]


def normal(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def ball_points(seed, n, curvature, reach=2.0, dimension=4):
    """Points of the ball, ``sqrt(c)|v|`` up to about ``reach``."""
    v = reach / 2 * normal(seed, n, dimension) / math.sqrt(dimension * curvature)
    return expmap0(v, curvature)


def pairwise(curvature):
    return PoincareBall(curvature).pairwise_distance


def blobs(seed, k, each, dimension=8, spread=0.05):
    """Points around k orthogonal directions, and whose they are."""
    truth = torch.arange(k).repeat_interleave(each)
    truth = truth[torch.randperm(len(truth), generator=torch.Generator().manual_seed(seed))]
    points = torch.eye(dimension, dtype=torch.float64)[truth]
    return points + spread * normal(seed, len(truth), dimension), truth


# ------------------------------------------------------------------- by direction


def test_kmeans_finds_directions_whatever_their_lengths():
    for seed in SEEDS:
        points, truth = blobs(seed, k=5, each=8)
        points = points * (1 + 9 * normal(seed, len(points), 1).sigmoid())
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
], ids=["directions", "ball"])  # fmt: skip
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


# ------------------------------------------------------------------ gyromidpoints


def test_gyromidpoints_are_geoopts_and_move_with_the_ball():
    labels = torch.arange(12) % 3
    for curvature, seed in itertools.product(CURVATURES, SEEDS):
        points = ball_points(seed, 12, curvature)
        ours = gyromidpoints(points, labels, 3, curvature)
        ball = geoopt.PoincareBall(c=torch.tensor(curvature, dtype=torch.float64))
        for label, midpoint in enumerate(ours):
            theirs = ball.weighted_midpoint(points[labels == label], reducedim=[0])
            torch.testing.assert_close(midpoint, theirs, rtol=1e-7, atol=1e-9)
        shift = ball_points(seed + 100, 1, curvature)
        moved = gyromidpoints(mobius_add(shift, points, curvature), labels, 3, curvature)
        expected = mobius_add(shift, ours, curvature)
        torch.testing.assert_close(moved, expected, rtol=1e-7, atol=1e-9)


def test_gyromidpoint_halves_a_distance_and_has_the_least_inertia():
    for curvature in CURVATURES:
        distance = PoincareBall(curvature).distance
        x, y = ball_points(0, 2, curvature)
        m = gyromidpoints(torch.stack([x, y]), torch.tensor([0, 0]), 1, curvature)[0]
        half = distance(x, y) / 2
        torch.testing.assert_close(distance(x, m), half, rtol=1e-6, atol=0)
        torch.testing.assert_close(distance(y, m), half, rtol=1e-6, atol=0)

        points = ball_points(1, 9, curvature)
        m = gyromidpoints(points, torch.zeros(9, dtype=torch.int64), 1, curvature)[0]
        m.requires_grad_()
        angles = math.sqrt(curvature) / 2 * distance(points, m)
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


# --------------------------------------------------------------------- in the ball


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


def test_ball_kmeans_finds_the_best_of_all_partitions():
    partitions = [(0, *rest) for rest in itertools.product((0, 1), repeat=6)][1:]
    for curvature, seed in itertools.product((0.1, 3.0), range(3)):
        points = ball_points(seed, 7, curvature)
        costs = [naive_inertia(points, labels, curvature) for labels in partitions]
        best = partitions[min(range(len(costs)), key=costs.__getitem__)]
        labels, centers = ball_kmeans(points, 2, curvature, n_init=100)
        assert adjusted_rand_score(best, labels) == 1
        torch.testing.assert_close(centers, gyromidpoints(points, labels, 2, curvature))


def test_ball_kmeans_ends_at_a_fixed_point():
    for curvature in (0.1, 1.0, 4.0):
        for dtype in (torch.float32, torch.float64):
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


def test_ball_kmeans_takes_the_clipped_ball_and_a_learnable_one():
    vectors, truth = blobs(0, k=3, each=5)
    learnable = PoincareBall(2.0, learnable=True)
    for ball, curvature in ((ClippedUnitBall(3.0), 1.0), (learnable, 2.0)):
        assert torch.as_tensor(ball.metric_curvature).item() == pytest.approx(curvature)
        points = ball.project(10 * vectors)
        labels, centers = ball_kmeans(points, 3, ball.metric_curvature)
        assert not centers.requires_grad
        assert adjusted_rand_score(truth, labels) == 1
        assert torch.equal(ball.pairwise_distance(points, centers).argmin(1), labels)


def test_ball_kmeans_refuses_points_outside():
    points = torch.tensor([[0.1, 0.2], [0.6, 0.8], [2.0, 0.0]])
    with pytest.raises(ValueError, match=r"points\[1\] lies outside .*-1; .*ball.project"):
        ball_kmeans(points, 2, 1.0)
    with pytest.raises(ValueError, match=r"curvature=-1.0: must be positive"):
        ball_kmeans(points, 2, -1.0)
    labels, _ = ball_kmeans(points, 3, 0.2)
    assert sorted(labels.tolist()) == [0, 1, 2]


def test_an_empty_cluster_gets_the_costliest_point_that_can_be_spared():
    labels = torch.tensor([0, 0, 0, 2, 2, 4])
    cost = torch.tensor([1.0, 3.0, 2.0, 5.0, 4.0, 9.0])
    mended = module._without_empty(labels, cost, 5)
    # 9.0 is alone in its cluster, and so is the 4.0 that 5.0 leaves behind.
    assert mended.tolist() == [0, 3, 0, 1, 2, 4]
    assert labels.tolist() == [0, 0, 0, 2, 2, 4]


def test_ball_kmeans_starts_far_apart():
    for seed in SEEDS:
        points, truth = blobs(seed, k=8, each=6, spread=1e-3)
        labels, _ = ball_kmeans(0.5 * points, 8, 1.0, seed=seed, n_init=1, max_iter=1)
        assert adjusted_rand_score(truth, labels) == 1


def test_ball_kmeans_recovers_from_a_start_in_one_point(monkeypatch):
    def in_one_point(points, k, costs, random):
        return points[:1].repeat(k, 1)

    monkeypatch.setattr(module, "_spread_start", in_one_point)
    points, truth = blobs(0, k=4, each=6)
    points = 0.5 * points
    labels, centers = ball_kmeans(points, 4, 1.0)
    assert labels.bincount(minlength=4).all()
    assert torch.equal(pairwise(1.0)(points, centers).argmin(1), labels)
