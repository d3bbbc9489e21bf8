"""The plane that a disk shows, and where it is nearest to points of the ball."""

import numpy as np
import torch

from hamsb import PoincareBall
from hamsb.analysis.planes import nearest_in_plane, plane_of_classes


def ball_points(n, dimension, seed=0):
    """Points all over the unit ball."""
    random = np.random.default_rng(seed)
    directions = random.standard_normal((n, dimension))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return directions * random.uniform(0, 0.99, (n, 1))


def distance(x, y):
    return PoincareBall(1.0).distance(torch.from_numpy(x), torch.from_numpy(y)).numpy()


def test_no_other_point_of_the_plane_is_nearer():
    for dimension in (3, 10, 192):
        points = ball_points(50, dimension)
        plane = np.linalg.qr(ball_points(dimension, dimension, seed=1))[0][:, :2]
        drawn = nearest_in_plane(points, plane)
        best = distance(points, drawn @ plane.T)
        for seed in range(20):
            step = 0.01 * np.random.default_rng(seed).standard_normal(drawn.shape)
            assert np.all(distance(points, (drawn + step) @ plane.T) > best)


def test_points_of_the_plane_stay_and_distances_do_not_grow():
    plane = np.linalg.qr(ball_points(8, 8))[0][:, :2]
    flat = ball_points(30, 2, seed=1)
    np.testing.assert_allclose(nearest_in_plane(flat @ plane.T, plane), flat, atol=1e-12)
    points = ball_points(60, 8, seed=2)
    drawn = nearest_in_plane(points, plane)
    pairs = np.triu_indices(60, k=1)
    true = distance(*(points[side] for side in pairs))
    assert np.all(distance(*(drawn[side] for side in pairs)) <= true + 1e-9)


def test_rim_and_origin_are_drawn():
    points = np.array([[1.0, 0, 0], [0, 0, 1.0], [0, 0, 0]])
    drawn = nearest_in_plane(points, np.eye(3)[:, :2])
    np.testing.assert_allclose(drawn, [[1, 0], [0, 0], [0, 0]])


def test_the_plane_is_that_of_the_classes_not_the_widest():
    random = np.random.default_rng(0)
    for seed in range(5):
        turn = np.linalg.qr(ball_points(12, 12, seed))[0]
        means = np.zeros((4, 12))
        means[:, :2] = [[0.2, 0], [-0.2, 0], [0, 0.2], [0, -0.2]]
        noise = np.zeros((800, 12))
        noise[:, 2:5] = random.uniform(-0.4, 0.4, (800, 3))  # wider than the means
        points = (np.repeat(means, 200, axis=0) + noise) @ turn.T
        plane, share = plane_of_classes(points, np.repeat(list("abcd"), 200))
        np.testing.assert_allclose(plane.T @ plane, np.eye(2), atol=1e-12)
        assert np.linalg.norm(turn[:, :2].T @ plane) > 0.97 * np.sqrt(2)
        assert share > 0.9


def test_share_is_that_of_the_variance_between_means():
    means = np.eye(5)[:4] * [0.5, 0.4, 0.3, 0.2, 0.1]
    plane, share = plane_of_classes(means, range(4))
    klein = 2 * means / (1 + (means**2).sum(1, keepdims=True))
    klein -= klein.mean(0)
    variances = np.linalg.svd(klein, compute_uv=False) ** 2
    np.testing.assert_allclose(share, variances[:2].sum() / variances.sum(), atol=1e-5)
    assert plane.shape == (5, 2)


def test_one_or_two_classes_are_shown_where_their_points_vary_most():
    spread = np.random.default_rng(0).standard_normal((200, 6)) * 0.01
    spread[:, 3] *= 10
    for offsets in ([0.0, 0.0], [0.3, -0.3]):
        points = spread.copy()
        points[:, 0] += np.repeat(offsets, 100)
        labels = np.repeat(["a", "b" if offsets[0] else "a"], 100)
        plane, share = plane_of_classes(points, labels)
        assert np.linalg.norm(plane[3]) > 0.99
        assert share == 1 if not offsets[0] else share > 0.99
    plane, share = plane_of_classes(np.full((3, 4), 0.1), [0, 0, 0])  # no variance at all
    np.testing.assert_allclose(plane.T @ plane, np.eye(2), atol=1e-12)
    assert share == 1
