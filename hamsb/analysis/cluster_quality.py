"""How good a clustering is, judged by distances alone.

`relative_margin`, `additive_margin` and `weakest_link` serve any distance, cosine or
hyperbolic; silhouette and the like are scikit-learn's. `distance_matrix` makes what
they take.

Source
------
Ackerman & Ben-David, "Measures of Clustering Quality: A Working Set of Axioms for
Clustering", NIPS 2008.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform
from torch import Tensor

_ROWS = 1024  # rows of a distance matrix worked on at once: 49 MB at 6,000 speakers


def distance_matrix(
    points: Tensor, distances: Callable[[Tensor, Tensor], Tensor]
) -> np.ndarray:
    """All distances among points, as the measures want them.

    Exactly symmetric with a zero diagonal, which a distance computed through matrix
    products is not. It is filled a block of rows at a time: beside the result (288 MB
    for 6,000 points) no temporary grows with the square of N.

    Arguments
    ---------
    points : torch.Tensor
        [N, D]; computed in float64.
    distances : callable
        From x [N, D] and y [M, D] to [N, M]: the ``distances`` of a
        `hamsb.nnet.similarities.Similarity` that projected the points, or another, as
        ``torch.cdist``.

    Returns
    -------
    numpy.ndarray
        [N, N], float64.

    Example
    -------
    >>> distance_matrix(torch.tensor([[0.0], [3.0], [1.0]]), torch.cdist)
    array([[0., 3., 1.],
           [3., 0., 2.],
           [1., 2., 0.]])
    """
    points = points.detach().double()
    matrix = np.empty((len(points), len(points)))
    with torch.no_grad():
        for start in range(0, len(points), _ROWS):
            rows = slice(start, start + _ROWS)
            block = distances(points[rows], points[start:]).cpu().numpy()
            matrix[rows, start:] = block
            matrix[start:, rows] = block.T
            square = block[:, : len(block)]
            matrix[rows, rows] = (square + square.T) / 2
    np.fill_diagonal(matrix, 0)
    return matrix


# ----------------------------------------------------------- measures of quality


def cluster_quality(
    distances: ArrayLike, labels: ArrayLike, to_centers: ArrayLike | None = None
) -> dict[str, float]:
    """The three measures of a clustering.

    All three are unchanged by scaling the distances and by renumbering points or
    clusters. With medoids held fixed, smaller distances within clusters and larger
    ones between them never make `relative_margin` or `weakest_link` worse, nor an
    `additive_margin` that is not negative. With mean centers, which move with their
    points, that is not claimed.

    Trivial clusterings, a single cluster or nothing but singletons, have no quality:
    every measure of them is NaN.

    Arguments
    ---------
    distances : array or tensor
        [N, N], >= 0, symmetric, zero diagonal: `distance_matrix`.
    labels : array or tensor
        [N], int, in [0, k).
    to_centers : array or tensor, optional
        [N, k], distances from points to centers; by default the centers are the
        clusters' `medoids`.

    Returns
    -------
    dict of str to float
        ``relative_margin`` (lower is better), ``additive_margin`` (higher),
        ``weakest_link`` (lower).

    Raises
    ------
    ValueError
        Shapes that do not fit, a distance that is negative or not finite, a matrix
        that is not symmetric or has a diagonal that is not zero, a label out of range.

    Example
    -------
    >>> points = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0]])
    >>> cluster_quality(distance_matrix(points, torch.cdist), [0, 0, 0, 1, 1])
    {'relative_margin': 0.10833333333333334, 'additive_margin': 6.88, 'weakest_link': 0.125}
    """
    distances, labels = _checked(distances, labels)
    chosen = None
    if to_centers is None:
        chosen = _medoids(distances, labels)
        to_centers = distances[:, chosen]
    to_centers = _checked_to_centers(to_centers, labels)
    return {
        "relative_margin": _relative_margin(to_centers, labels, chosen),
        "additive_margin": _additive_margin(distances, labels, to_centers),
        "weakest_link": _weakest_link(distances, labels),
    }


def medoids(distances: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """The member of each cluster with the least sum of distances to the others.

    Arguments
    ---------
    distances, labels :
        As for `cluster_quality`.

    Returns
    -------
    numpy.ndarray
        [k], int64, the first one where several have the least; column j of
        ``distances[:, medoids]`` belongs to cluster j.

    Raises
    ------
    ValueError
        As for `cluster_quality`; a cluster below the largest label that is empty.

    Example
    -------
    >>> points = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0]])
    >>> medoids(distance_matrix(points, torch.cdist), [0, 0, 0, 1, 1])
    array([1, 3])
    """
    return _medoids(*_checked(distances, labels))


def relative_margin(
    to_centers: ArrayLike, labels: ArrayLike, medoids: ArrayLike | None = None
) -> float:
    r"""Mean of :math:`d_1 / d_2` over the points that are not centers themselves;
    lower is better.

    :math:`d_1` is a point's distance to its own center, :math:`d_2` the one to the
    nearest other. Medoids are not counted, and members of singletons, which are their
    own center, are not either. Where both distances are 0, as between coincident
    centers, the ratio counts 1. Trivial clusterings give NaN.

    Arguments
    ---------
    to_centers : array or tensor
        [N, k], distances from points to centers, >= 0.
    labels : array or tensor
        [N], int, in [0, k).
    medoids : array or tensor, optional
        [k], int: the points that are the centers. Left out, centers are means.

    Returns
    -------
    float
        In [0, 1] where every point is in the cluster of its nearest center; infinite
        where a point lies on another center than its own.

    Raises
    ------
    ValueError
        As for `cluster_quality`.

    Example
    -------
    >>> relative_margin([[1.0, 4.0], [1.0, 2.0], [3.0, 3.0], [6.0, 3.0]], [0, 0, 1, 1])
    0.5625
    """
    to_centers = _as_array(to_centers)
    labels = _checked_labels(labels, len(to_centers))
    to_centers = _checked_to_centers(to_centers, labels)
    if medoids is not None:
        medoids = _as_array(medoids)
        if not np.array_equal(labels[medoids], np.arange(to_centers.shape[1])):
            raise ValueError(
                f"medoids {medoids[:5]} are in clusters {labels[medoids][:5]}; each "
                "cluster's medoid must be one of its points, in the clusters' order."
            )
    return _relative_margin(to_centers, labels, medoids)


def additive_margin(
    distances: ArrayLike, labels: ArrayLike, to_centers: ArrayLike
) -> float:
    r"""Mean of :math:`d_2 - d_1` over all points, over the mean distance of two points
    of a cluster; higher is better.

    :math:`d_1` and :math:`d_2` as for `relative_margin`. Singletons have no pair of
    points. Where all points of each cluster coincide it is infinite, or 0 where the
    centers coincide as well. Trivial clusterings give NaN.

    Arguments
    ---------
    distances, labels, to_centers :
        As for `cluster_quality`.

    Returns
    -------
    float
        Not negative where every point is in the cluster of its nearest center.

    Raises
    ------
    ValueError
        As for `cluster_quality`.

    Example
    -------
    >>> distances = distance_matrix(torch.tensor([[0.0], [2.0], [9.0]]), torch.cdist)
    >>> additive_margin(distances, [0, 0, 1], [[1.0, 9.0], [1.0, 7.0], [8.0, 0.0]])
    3.6666666666666665
    """
    distances, labels = _checked(distances, labels)
    return _additive_margin(distances, labels, _checked_to_centers(to_centers, labels))


def weakest_link(distances: ArrayLike, labels: ArrayLike) -> float:
    """The longest link within a cluster over the smallest distance between points of
    different clusters; lower is better.

    The links of a cluster are the edges of its minimum spanning tree. Singletons have
    none. Where points of different clusters coincide it is infinite, or 1 where the
    longest link is 0 too. Trivial clusterings give NaN.

    Arguments
    ---------
    distances, labels :
        As for `cluster_quality`.

    Returns
    -------
    float
        Below 1, and only then, joining ever more distant points arrives at exactly
        these clusters.

    Raises
    ------
    ValueError
        As for `cluster_quality`.

    Example
    -------
    >>> points = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    >>> weakest_link(distance_matrix(points, torch.cdist), [0, 0, 0, 1])
    0.5
    """
    return _weakest_link(*_checked(distances, labels))


def _medoids(distances: np.ndarray, labels: np.ndarray) -> np.ndarray:
    sizes = np.bincount(labels)
    if not sizes.all():
        raise ValueError(
            f"no point has label {sizes.argmin()}, but some have {len(sizes) - 1}: an "
            "empty cluster has no medoid."
        )
    return np.array(
        [
            rows[block.sum(1, dtype=np.float64).argmin()]
            for rows, block in _blocks(distances, labels)
        ]
    )


def _relative_margin(
    to_centers: np.ndarray, labels: np.ndarray, medoids: np.ndarray | None
) -> float:
    if _is_trivial(labels):
        return math.nan
    own, other = _own_and_other(to_centers, labels)
    counted = np.bincount(labels)[labels] > 1
    if medoids is not None:
        counted[medoids] = False
    return float(np.mean(_ratio(own[counted], other[counted])))


def _additive_margin(
    distances: np.ndarray, labels: np.ndarray, to_centers: np.ndarray
) -> float:
    if _is_trivial(labels):
        return math.nan
    own, other = _own_and_other(to_centers, labels)
    margin = float(np.mean(other - own))
    total, pairs = 0.0, 0
    for rows, block in _blocks(distances, labels):
        total += block.sum(dtype=np.float64)
        pairs += len(rows) * (len(rows) - 1)
    if total == 0:
        return math.copysign(math.inf, margin) if margin else 0.0
    return margin / float(total / pairs)


def _weakest_link(distances: np.ndarray, labels: np.ndarray) -> float:
    if _is_trivial(labels):
        return math.nan
    link, gap = 0.0, math.inf
    for rows, block in _blocks(distances, labels):
        others = np.flatnonzero(labels != labels[rows[0]])
        for part in np.array_split(rows, -(-len(rows) // _ROWS)):
            gap = min(gap, distances[np.ix_(part, others)].min())
        if len(rows) > 1:
            # The last merger of single linkage is the spanning tree's longest edge.
            merged = linkage(squareform(block, checks=False), "single")
            link = max(link, merged[-1, 2])
    return float(_ratio(link, gap))


def _blocks(
    distances: np.ndarray, labels: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each cluster's rows and their distances from each other."""
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        yield rows, distances[np.ix_(rows, rows)]


def _own_and_other(
    to_centers: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Distances [N] to the own center and to the nearest other one."""
    points = np.arange(len(labels))
    own = to_centers[points, labels]
    others = to_centers.copy()
    others[points, labels] = np.inf
    return own, others.min(1)


def _ratio(upper: ArrayLike, lower: ArrayLike) -> np.ndarray:
    """upper / lower, where 0 / 0 is 1: a distance is as long as its equal."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(upper == lower, 1.0, np.divide(upper, lower))


def _is_trivial(labels: np.ndarray) -> bool:
    return len(np.unique(labels)) in (1, len(labels))


def _as_array(x: ArrayLike) -> np.ndarray:
    return x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)


def checked_distances(distances: ArrayLike) -> np.ndarray:
    """Distances [N, N] as an array, or a ValueError where they are none: of another
    shape, negative, not finite, not symmetric, or not zero on the diagonal.

    Example
    -------
    >>> checked_distances([[0.0, 2.0], [1.0, 0.0]])
    Traceback (most recent call last):
    ValueError: distances[0, 1] is 2, but the other way round 1; distance_matrix gives \
a symmetric matrix.
    """
    distances = _as_array(distances)
    n = len(distances)
    if distances.shape != (n, n) or not n:
        raise ValueError(f"distances must be [N, N], got shape {distances.shape}.")
    if np.diagonal(distances).any():
        point = int(np.flatnonzero(np.diagonal(distances))[0])
        raise ValueError(
            f"distances[{point}, {point}] is {distances[point, point]:g}, not 0; "
            "distance_matrix gives a matrix as it must be."
        )
    largest = distances.max()
    for start in range(0, n, _ROWS):
        block = distances[start : start + _ROWS]
        _check_distances("distances", block, start)
        skew = np.abs(block - distances[:, start : start + _ROWS].T)
        if skew.max() > 1e-5 * largest:
            row, column = np.unravel_index(skew.argmax(), skew.shape)
            raise ValueError(
                f"distances[{start + row}, {column}] is {block[row, column]:g}, but the "
                f"other way round {distances[column, start + row]:g}; distance_matrix "
                "gives a symmetric matrix."
            )
    return distances


def _checked(distances: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    distances = checked_distances(distances)
    return distances, _checked_labels(labels, len(distances))


def _checked_labels(labels: ArrayLike, n: int) -> np.ndarray:
    labels = _as_array(labels)
    if labels.shape != (n,) or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise ValueError(
            f"labels must be {n} whole numbers from 0, one a point; got shape "
            f"{labels.shape}, {labels.dtype}, {labels[:5]}."
        )
    return labels.astype(np.int64)


def _checked_to_centers(to_centers: ArrayLike, labels: np.ndarray) -> np.ndarray:
    to_centers = _as_array(to_centers)
    if to_centers.ndim != 2 or len(to_centers) != len(labels):
        raise ValueError(
            f"to_centers must be [{len(labels)}, k], got shape {to_centers.shape}."
        )
    if labels.max() >= to_centers.shape[1]:
        raise ValueError(
            f"label {labels.max()}, but to_centers has {to_centers.shape[1]} centers."
        )
    _check_distances("to_centers", to_centers)
    return to_centers


def _check_distances(name: str, block: np.ndarray, first_row: int = 0) -> None:
    wrong = ~(np.isfinite(block) & (block >= 0))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise ValueError(
            f"{name}[{first_row + row}, {column}] is {block[row, column]:g}; a distance "
            "is finite and not negative."
        )
