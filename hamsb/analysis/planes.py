"""Planes through the origin of the Poincare ball, to draw points of many dimensions in.

Points are those of the unit ball: of a ball of curvature ``-c``, times ``sqrt(c)``.
"""

import math

import numpy as np
from numpy.typing import ArrayLike


def _klein(points):
    """Points [N, D] of the Poincare ball in Klein's, where planes are flat."""
    return 2 * points / (1 + (points**2).sum(1, keepdims=True))


def in_unit_ball(points: ArrayLike, curvature: float, name: str = "points") -> np.ndarray:
    """Points of a ball of curvature ``-c`` as those of the unit ball.

    Arguments
    ---------
    points : array of float
        [N, D], N >= 1, D >= 2: inside the ball, ``sqrt(c) |x| <= 1``.
    curvature : float
        c > 0.
    name : str
        Of the points, in errors.

    Returns
    -------
    array of float64
        [N, D]

    Raises
    ------
    ValueError
        Another shape, points that are not finite or lie outside the ball.

    Example
    -------
    >>> in_unit_ball([[0.1, 0.2]], curvature=4.0).tolist()
    [[0.2, 0.4]]
    """
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or len(points) < 1 or points.shape[1] < 2:
        raise ValueError(f"{name}: expected [N, D] with D >= 2, got shape {points.shape}")
    if not np.isfinite(points).all():
        raise ValueError(f"{name}: not finite")
    points = math.sqrt(curvature) * points
    reach = np.linalg.norm(points, axis=1)
    if reach.max() > 1 + 1e-6:  # float32 rounds points onto the rim and over it
        raise ValueError(
            f"{name}: number {reach.argmax()} lies outside the ball of curvature "
            f"{-curvature:g}, at {reach.max():g} of its radius; project it first"
        )
    return points


def plane_of_classes(points: np.ndarray, labels: ArrayLike) -> tuple[np.ndarray, float]:
    """The plane through the origin in which the mean points of classes vary most.

    The means are those of Klein's model. One or two classes vary in no plane: what is
    then left open is chosen as that in which single points vary most.

    Arguments
    ---------
    points : array of float
        [N, D] in the unit ball, N >= 1, D >= 2.
    labels : array
        [N], the class of each.

    Returns
    -------
    plane : array of float
        [D, 2], orthonormal.
    share : float
        That the plane carries of the variance between the classes; 1 where they do
        not vary.

    Example
    -------
    >>> points = np.array([[0.0, 0.5, 0.0], [0.0, -0.5, 0.0], [0.0, 0.0, 0.5]])
    >>> plane, share = plane_of_classes(points, ["a", "b", "c"])
    >>> np.abs(plane).round(6).tolist(), round(share, 6)
    ([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], 1.0)
    """
    points = _klein(points)
    _, which = np.unique(labels, return_inverse=True)
    means = np.stack([points[which == k].mean(0) for k in range(which.max() + 1)])
    means -= means.mean(0)
    within = points - points.mean(0)
    between = means.T @ means
    tiny = np.finfo(float).tiny
    mixed = between / max(np.trace(between), tiny)
    mixed += 1e-6 * (within.T @ within) / max((within**2).sum(), tiny)
    plane = np.linalg.eigh(mixed)[1][:, :-3:-1]
    total = np.trace(between)
    share = np.trace(plane.T @ between @ plane) / total if total > 0 else 1.0
    return plane, float(share)


def nearest_in_plane(points: np.ndarray, plane: np.ndarray) -> np.ndarray:
    """Where a plane through the origin is nearest to points, by hyperbolic distance.

    In Klein's model that is the orthogonal projection: on the hyperboloid, whose points
    it divides by their first coordinate, the nearest point drops the coordinates that
    are perpendicular to the plane and scales all others alike. Distances do not grow.

    Arguments
    ---------
    points : array of float
        [N, D] in the unit ball.
    plane : array of float
        [D, 2], orthonormal.

    Returns
    -------
    array of float
        [N, 2], in the Poincare disk of the plane.

    Example
    -------
    >>> points = np.array([[0.5, 0.0, 0.0], [0.0, 0.0, 0.5]])
    >>> nearest_in_plane(points, np.eye(3)[:, :2]).round(6).tolist()
    [[0.5, 0.0], [0.0, 0.0]]
    """
    flat = _klein(points) @ plane
    height = np.sqrt(np.maximum(1 - (flat**2).sum(1, keepdims=True), 0))
    return flat / (1 + height)
