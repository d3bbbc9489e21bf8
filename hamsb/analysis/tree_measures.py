"""How much of a tree distances hold: measures of a distance matrix.

Points are the leaves of a known tree, and ``paths`` [N, levels] tells where: each
point's group at every level, from the root down, as ``["child", "scottish", "id7"]``. A
group is an equal beginning of the path, so two families may both have an accent
``scottish``. A level that a point lacks is "" or a negative number. A pair whose first
unequal level one of the two lacks is left out, since nobody knows where it parts.

Distances that differ by less than 1e-12 of the largest are equal; where points come in
an order by distance, equal ones count as in every order, on average. What cannot be
measured (a level of one group, or of singletons) is NaN.

Sources
-------
Fournier, Ismail & Vigneron, "Computing the Gromov hyperbolicity of a discrete metric
space", 2015, and Khrulkov et al., "Hyperbolic Image Embeddings", CVPR 2020, for delta;
Heller & Ghahramani, "Bayesian hierarchical clustering", ICML 2005, for the purity; Barz &
Denzler, "Hierarchy-based image embeddings for semantic image retrieval", WACV 2019, for
the hierarchical precision.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.distance import squareform

from hamsb.analysis.cluster_quality import checked_distances
from hamsb.analysis.distance_tree import (
    DistanceTree,
    Draws,
    agreement_of,
    mean_of,
    over,
    pearson,
    retrieval_of,
    same_group,
)

_ROWS = 64  # of Gromov products worked on at once: they stay in the cache

# ------------------------------------------------------------------ the plain measures


def relative_delta(distances: ArrayLike, base: int = 0) -> float:
    r"""Gromov's hyperbolicity from one base point, over half of the diameter.

    .. math::

        \frac{2}{\max d} \max_{x, y, z}\, \min\{(x|z), (z|y)\} - (x|y),\qquad
        (x|y) = \tfrac12 (d_{bx} + d_{by} - d_{xy})

    by the (max, min) product of the matrix of Gromov products: O(N^3), some 2 s for
    1,500 points. 0 for the path metric of a tree. By itself it says little: noise of many
    dimensions has 0.3, and it grows with N; compare it with the
    null that `hamsb.analysis.hierarchy` gives.

    Arguments
    ---------
    distances : array or tensor
        [N, N], a `hamsb.analysis.cluster_quality.distance_matrix`.
    base : int
        The base point b. From another one delta is at most twice as large.

    Returns
    -------
    float
        In [0, 1] for a metric; NaN where all points are alike.

    Example
    -------
    >>> relative_delta([[0, 1, 1, 2], [1, 0, 2, 1], [1, 2, 0, 1], [2, 1, 1, 0]])
    1.0
    """
    distances = np.asarray(checked_distances(distances), dtype=np.float64)
    diameter = distances.max()
    if diameter == 0:
        return math.nan
    products = (distances[base][:, None] + distances[base] - distances) / 2
    delta = 0.0
    for start in range(0, len(products), _ROWS):
        rows = products[start : start + _ROWS]
        # Both sides are symmetric: what lies left of the block was looked at before.
        right = products[:, start:]
        best = np.full((len(rows), right.shape[1]), -np.inf)
        least = np.empty_like(best)
        for k in range(len(products)):
            np.minimum(rows[:, k, None], right[k], out=least)
            np.maximum(best, least, out=best)
        delta = max(delta, float((best - rows[:, start:]).max()))
    return 2 * delta / float(diameter)


def dendrogram_purity(distances: ArrayLike, labels: ArrayLike) -> float:
    """Expected purity of the dendrogram of average linkage.

    Of two random points of one group, the share of that group among all points below
    their lowest common ancestor. 1 where each group is a subtree. Groups of one point
    have no pair. Mergers of equal height are one: their points have one ancestor.

    Arguments
    ---------
    distances : array or tensor
        [N, N].
    labels : array
        [N], the groups, of int or str; a point whose label is negative or "" is left out.

    Returns
    -------
    float
        In (0, 1]; NaN where no group has two points.

    Example
    -------
    >>> points = np.array([0.0, 1.0, 5.0, 7.0])
    >>> dendrogram_purity(abs(points[:, None] - points), ["a", "a", "b", "a"])
    0.8333333333333334
    """
    tree = DistanceTree(distances)
    return tree.purity(tree.codes(np.reshape(labels, (-1, 1)))[:, 0])


def cophenetic_correlation(distances: ArrayLike) -> float:
    """Pearson's correlation of distances [N, N] with those in the dendrogram of average
    linkage: 1 for an ultrametric; NaN where all are equal.

    Example
    -------
    >>> points = np.array([0.0, 1.0, 5.0])
    >>> round(cophenetic_correlation(abs(points[:, None] - points)), 4)
    0.9707
    """
    tree = DistanceTree(distances)
    return pearson(tree.condensed, tree.heights)


def tree_agreement(distances: ArrayLike, paths: ArrayLike) -> float:
    """Somers' D of the distance given the number of levels that a pair does not share.

    Of two pairs of points that part at different levels: how much more often the one
    that parts nearer to the root is farther apart than nearer together.

    Arguments
    ---------
    distances : array or tensor
        [N, N].
    paths : array
        [N, levels], root first, of int or str.

    Returns
    -------
    float
        From -1 to 1: the order of a perfect tree, also where no two distances are
        equal. NaN where all pairs part at one level.

    Example
    -------
    >>> points = np.array([0.0, 1.0, 5.0, 7.0])
    >>> tree_agreement(abs(points[:, None] - points), [["a"], ["a"], ["b"], ["b"]])
    1.0
    """
    tree = DistanceTree(distances)
    return float(agreement_of(tree.counts(tree.codes(paths))))


def level_retrieval(distances: ArrayLike, paths: ArrayLike) -> list[float]:
    """For each level, the probability that two points which share it and no more are
    nearer to each other than two that share the level above and not this one.

    So neither a deeper level (the speaker, for the accent) nor a higher one (the
    family) can answer for it. Equal distances count half.

    Arguments
    ---------
    distances : array or tensor
        [N, N].
    paths : array
        [N, levels], root first, of int or str.

    Returns
    -------
    list of float
        One a level; 0.5 is chance. NaN where there are no such pairs: at a last level
        of singletons, or where the level above has one group below it everywhere.

    Example
    -------
    >>> points = np.array([0.0, 1.0, 5.0, 7.0])
    >>> paths = [["a", "1"], ["a", "2"], ["b", "3"], ["b", "4"]]
    >>> level_retrieval(abs(points[:, None] - points), paths)
    [1.0, nan]
    """
    tree = DistanceTree(distances)
    return retrieval_of(tree.counts(tree.codes(paths))).tolist()


def sibling_recall(distances: ArrayLike, paths: ArrayLike, nearest: int) -> list[float]:
    """For each level, the share of a point's nearest that are its siblings there.

    Siblings share the level and no more. Nearest of those that share no more than it:
    the points of deeper groups do not stand in the way. Where a point has fewer siblings
    than ``nearest``, their number counts.

    Arguments
    ---------
    distances : array or tensor
        [N, N].
    paths : array
        [N, levels], root first, of int or str.
    nearest : int
        So many, at least 1.

    Returns
    -------
    list of float
        One a level, the mean over the points that have a sibling and another point to
        take it for; NaN without one.

    Example
    -------
    >>> points = np.array([0.0, 1.0, 5.0, 7.0])
    >>> sibling_recall(abs(points[:, None] - points), [["a"], ["a"], ["b"], ["b"]], 1)
    [1.0]
    """
    tree = DistanceTree(distances)
    return [mean_of(row) for row in tree.sibling_hits(tree.codes(paths), nearest)]


def hierarchical_precision(distances: ArrayLike, paths: ArrayLike) -> float:
    """Mean average hierarchical precision.

    Of the k points nearest to a point, the levels that they share with it, over the most
    that any k points share; averaged over all k and all points.

    Arguments
    ---------
    distances : array or tensor
        [N, N].
    paths : array
        [N, levels], root first, of int or str.

    Returns
    -------
    float
        In [0, 1], 1 where points come in the order of the tree; NaN where no two share a
        level. Points that share none with any other are left out.

    Example
    -------
    >>> points = np.array([0.0, 1.0, 5.0, 7.0])
    >>> hierarchical_precision(abs(points[:, None] - points), [["a"], ["a"], ["b"], ["b"]])
    1.0
    """
    tree = DistanceTree(distances)
    return mean_of(tree.average_precisions(tree.codes(paths)))


# ------------------------------------------------------------------------- everything


@dataclass(frozen=True)
class Measure:
    """One number about a tree.

    Attributes
    ----------
    name : str
        Such as "retrieval".
    level : int or None
        Where there is one for each level: which one, from 0 at the root.
    value : float
        NaN where it cannot be measured.
    draws : array or None
        [B], of a bootstrap; NaN where a draw has none.
    """

    name: str
    level: int | None
    value: float
    draws: np.ndarray | None = None


def measure_labels(
    tree: DistanceTree, codes: np.ndarray, nearest: int, draws: Draws | None = None
) -> list[Measure]:
    """Every measure of how distances agree with labels.

    Arguments
    ---------
    tree : DistanceTree
    codes : array
        [N, levels], of `level_codes`.
    nearest : int
        Of `sibling_recall`.
    draws : Draws, optional
        Dendrogram, and the purity below each of its nodes, stay as they are in each draw;
        pairs are weighted, and so are the points of what is a mean over points. Distances
        are counted in 2,000 bins.

    Returns
    -------
    list of Measure
        ``purity``, ``retrieval`` and ``recall`` of each level, ``agreement``,
        ``precision``.
    """
    counts, drawn = tree.counts(codes), None
    if draws is not None:
        drawn = tree.drawn_counts(codes, draws)
    found = []
    for level, labels in enumerate(codes.T):
        same = same_group(labels)
        pure = tree.pair_purity(labels)
        total = same.sum()
        one = Measure("purity", level, float(pure.sum() / total) if total else math.nan)
        if draws is not None:
            upper, lower = draws.sums(pure, same.astype(np.float64))
            one = replace(one, draws=over(upper, lower))
        found.append(one)
    values = retrieval_of(counts)
    all_draws = None if drawn is None else retrieval_of(drawn)
    for level, value in enumerate(values):
        of_level = None if all_draws is None else all_draws[level]
        found.append(Measure("retrieval", level, float(value), of_level))
    hits = tree.sibling_hits(codes, nearest)
    for level, row in enumerate(hits):
        of_level = None if draws is None else draws.means(row)
        found.append(Measure("recall", level, mean_of(row), of_level))
    agreed = None if drawn is None else agreement_of(drawn)
    found.append(Measure("agreement", None, float(agreement_of(counts)), agreed))
    precisions = tree.average_precisions(codes)
    of_points = None if draws is None else draws.means(precisions)
    found.append(Measure("precision", None, mean_of(precisions), of_points))
    return found


def measure_cophenetic(tree: DistanceTree, draws: Draws | None = None) -> Measure:
    """`cophenetic_correlation` with its draws, the dendrogram as it is."""
    x, y = tree.condensed, tree.heights
    value = pearson(x, y)
    if draws is None or not math.isfinite(value):
        return Measure("cophenetic", None, value)
    x, y = (squareform(side - side.mean()) for side in (x, y))
    ones = np.ones_like(x)
    n, sx, sy, sxx, syy, sxy = draws.sums(ones, x, y, x * x, y * y, x * y)
    with np.errstate(invalid="ignore", divide="ignore"):
        shared = sxy - sx * sy / n
        drawn = shared / np.sqrt((sxx - sx * sx / n) * (syy - sy * sy / n))
    return Measure("cophenetic", None, value, drawn)
