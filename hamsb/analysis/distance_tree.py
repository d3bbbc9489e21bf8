"""A distance matrix with what the measures of trees need of it, found once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike
from scipy.cluster.hierarchy import cophenet, linkage
from scipy.spatial.distance import squareform

from hamsb.analysis.cluster_quality import checked_distances
from hamsb.utils.checks import check_whole

_EQUAL = 2.0**40  # steps of a distance between 0 and the largest
_BINS = 2000  # of distances, in the draws of a bootstrap

# ------------------------------------------------------------------------------ paths


def level_codes(paths: ArrayLike) -> np.ndarray:
    """Groups as numbers: those of equal beginnings of the paths.

    Arguments
    ---------
    paths : array
        [N, levels], of int or str; negative or "" where a point lacks the level.

    Returns
    -------
    numpy.ndarray
        [N, levels], int64, from 0 in each column; -1 where the point lacks this level or
        one above it.

    Example
    -------
    >>> level_codes([["f", "a"], ["m", "a"], ["f", "a"], ["m", ""]]).tolist()
    [[0, 0], [1, 1], [0, 0], [1, -1]]
    """
    paths = np.asarray(paths)
    if paths.ndim != 2 or not paths.size or paths.dtype.kind not in "iuU":
        raise ValueError(
            f"paths must be [N, levels] of int or str, got shape {paths.shape}, "
            f"{paths.dtype}."
        )
    codes = np.full(paths.shape, -1, dtype=np.int64)
    above = np.zeros(len(paths), dtype=np.int64)
    for level, column in enumerate(paths.T):
        lacking = column == "" if paths.dtype.kind == "U" else column < 0
        known = ~lacking & (above >= 0)
        _, own = np.unique(column[known], return_inverse=True)
        groups = above[known] * (own.max(initial=0) + 1) + own
        codes[known, level] = np.unique(groups, return_inverse=True)[1]
        above = codes[:, level]
    return codes


def shared_levels(codes: np.ndarray) -> np.ndarray:
    """How many levels each pair shares, [N, N], int8, of `level_codes` [N, levels]; -1
    where that is not known.

    Example
    -------
    >>> shared_levels(level_codes([["f", "a"], ["f", "b"], ["m", ""]])).tolist()
    [[2, 1, 0], [1, 2, 0], [0, 0, -1]]
    """
    shared = np.zeros((len(codes), len(codes)), dtype=np.int8)
    lacking = np.zeros(shared.shape, dtype=bool)
    for level, column in enumerate(codes.T):
        reached = shared == level
        unknown = column < 0
        lacking |= reached & (unknown[:, None] | unknown)
        shared += reached & (column[:, None] == column) & ~lacking
    shared[lacking] = -1
    return shared


# ----------------------------------------------------------- speakers drawn, and a tree


@dataclass(frozen=True)
class Draws:
    """Speakers drawn anew, so often, with replacement.

    Attributes
    ----------
    owner : array
        [N], int: the speaker of each point, from 0.
    weights : array
        [S, B], float64: how often each of S speakers is in each of B draws.
    """

    owner: np.ndarray
    weights: np.ndarray

    @classmethod
    def make(cls, owner: ArrayLike, draws: int, seed: int) -> "Draws":
        """Draw; equal seeds and numbers of speakers give equal draws."""
        _, owner = np.unique(owner, return_inverse=True)
        speakers = int(owner.max()) + 1
        random = np.random.default_rng(seed)
        drawn = [
            np.bincount(random.integers(speakers, size=speakers), minlength=speakers)
            for _ in range(draws)
        ]
        return cls(owner, np.array(drawn, dtype=np.float64).reshape(draws, -1).T)

    def means(self, values: np.ndarray) -> np.ndarray:
        """The mean of values [N] in each draw, [B]; NaN values are left out."""
        known = np.isfinite(values)
        rows = self.weights[self.owner[known]]
        with np.errstate(invalid="ignore"):
            return values[known] @ rows / rows.sum(0)

    def sums(self, *matrices: np.ndarray) -> list[np.ndarray]:
        """Of each symmetric matrix [N, N], the sum over pairs of different points in
        each draw, [B]: a pair of two speakers counts as often as both are drawn, one of
        one speaker as often as that is; nobody is paired with a copy."""
        speakers, found = len(self.weights), []
        for matrix in matrices:
            if speakers < len(matrix):
                by_owner = np.zeros((speakers, len(matrix)))
                np.add.at(by_owner, self.owner, matrix - np.diag(np.diagonal(matrix)))
                summed = np.zeros((speakers, speakers))
                np.add.at(summed, self.owner, by_owner.T)
            else:
                summed = np.empty_like(matrix)
                summed[np.ix_(self.owner, self.owner)] = matrix
                np.fill_diagonal(summed, 0)
            own = np.diagonal(summed).copy()
            np.fill_diagonal(summed, 0)
            between = np.einsum("sb,sb->b", summed @ self.weights, self.weights)
            found.append((between + own @ self.weights) / 2)
        return found


class DistanceTree:
    """A distance matrix with what the measures need of it, found once: its dendrogram of
    average linkage and the order of the distances. The labels may then change, as in a
    null, or the weights, as in a bootstrap.

    Arguments
    ---------
    distances : array or tensor
        [N, N].
    """

    def __init__(self, distances: ArrayLike):
        self.distances = np.asarray(checked_distances(distances), dtype=np.float64)

    def __len__(self) -> int:
        return len(self.distances)

    def codes(self, paths: ArrayLike) -> np.ndarray:
        """`level_codes` of the points' paths [N, levels]."""
        codes = level_codes(paths)
        if len(codes) != len(self):
            raise ValueError(f"{len(self)} points, but {len(codes)} paths.")
        return codes

    @cached_property
    def condensed(self) -> np.ndarray:
        """The distances above the diagonal, [N (N - 1) / 2]."""
        return squareform(self.distances, checks=False)

    @cached_property
    def linkage(self) -> np.ndarray:
        """scipy's, [N - 1, 4]."""
        return linkage(self.condensed, "average")

    @cached_property
    def heights(self) -> np.ndarray:
        """Where pairs are merged, as `condensed`."""
        if len(self) < 2:
            return np.empty(0)
        return cophenet(self.linkage)

    @cached_property
    def ranks(self) -> np.ndarray:
        """The order of the distances, as `condensed`: int from 0, equal ones alike."""
        scaled = np.rint(self.condensed * (_EQUAL / max(self.distances.max(), 1e-300)))
        return np.unique(scaled, return_inverse=True)[1]

    @cached_property
    def order(self) -> np.ndarray:
        """The points by their distance from each, [N, N], int."""
        others = self.distances.copy()
        np.fill_diagonal(others, np.inf)
        return np.argsort(others, axis=1, kind="stable")

    def above_diagonal(self, matrix: np.ndarray) -> np.ndarray:
        """Entries of a matrix [N, N], as `condensed`."""
        return matrix[np.triu(np.ones(matrix.shape, dtype=bool), 1)]

    # ------------------------------------------------------------------------ purity

    def pair_purity(self, labels: np.ndarray) -> np.ndarray:
        """Of each pair of one group, the share of that group below their lowest common
        ancestor, [N, N]; 0 of other pairs. Labels [N], int, negative: left out."""
        n, merged, known = len(self), self.linkage, labels >= 0
        groups = int(labels.max()) + 1
        found = np.zeros((n, n))
        if groups == 0:
            return found
        places, members = _leaf_order(merged, n)
        labels_there = labels[places]
        counted = np.zeros((2 * n - 1, groups))
        counted[np.flatnonzero(known), labels[known]] = 1
        one = _same_height(merged, n, self.distances.max())
        for node, (left, right) in enumerate(merged[:, :2].astype(int), start=n):
            counted[node] = counted[left] + counted[right]
        for node in range(n, 2 * n - 1):
            left, right = merged[node - n, :2].astype(int)
            start, middle, stop = members[left][0], members[left][1], members[right][1]
            ancestor = counted[one[node]]
            share = ancestor / max(ancestor.sum(), 1)
            ours, theirs = labels_there[start:middle], labels_there[middle:stop]
            same = (ours[:, None] == theirs) & (ours >= 0)[:, None]
            found[start:middle, middle:stop] = same * share[ours][:, None]
        found += found.T
        back = np.empty(n, dtype=int)
        back[places] = np.arange(n)
        return found[np.ix_(back, back)]

    def purity(self, labels: np.ndarray) -> float:
        """`dendrogram_purity` of labels [N], int."""
        pairs = same_group(labels)
        total = pairs.sum()
        return float(self.pair_purity(labels).sum() / total) if total else math.nan

    # ------------------------------------------------------------- pairs by their level

    def counts(self, codes: np.ndarray) -> np.ndarray:
        """How many pairs share so many levels and have a distance of each rank,
        [levels + 1, ranks], float64."""
        shared = self.above_diagonal(shared_levels(codes))
        known = shared >= 0
        ranks, levels = self.ranks, codes.shape[1] + 1
        size = int(ranks.max(initial=0)) + 1
        places = shared[known].astype(np.int64) * size + ranks[known]
        return np.bincount(places, minlength=levels * size).reshape(levels, size) * 1.0

    def drawn_counts(self, codes: np.ndarray, draws: Draws) -> np.ndarray:
        """`counts` in each draw, of distances in bins of equal numbers of pairs:
        [levels + 1, bins, B], float32."""
        owner, n = draws.owner, len(self)
        speakers, repeats = draws.weights.shape
        shared = self.above_diagonal(shared_levels(codes))
        first, second = np.triu_indices(n, 1)
        one, other = owner[first], owner[second]
        other = np.where(one == other, speakers, other)  # counts once
        bins = _binned(self.ranks)
        size = int(bins.max(initial=0)) + 1
        found = np.zeros(((codes.shape[1] + 1) * size, repeats), dtype=np.float32)
        weights = np.ones((speakers + 1, repeats), dtype=np.float32)
        weights[:-1] = draws.weights
        places = np.where(shared < 0, -1, shared.astype(np.int64) * size + bins)
        order = np.argsort(places, kind="stable")
        order = order[np.searchsorted(places[order], 0) :]
        one, other, places = one[order], other[order], places[order]
        ends = np.flatnonzero(np.diff(places, append=-1)) + 1
        starts = np.concatenate([[0], ends[:-1]])
        for start, end in zip(starts, ends, strict=True):
            for part in range(start, end, 256):  # of it, what stays in the cache
                rows = slice(part, min(part + 256, end))
                product = weights[one[rows]]
                product *= weights[other[rows]]
                found[places[start]] += product.sum(0)
        return found.reshape(-1, size, repeats)

    # ---------------------------------------------------------------- point by point

    def sibling_hits(self, codes: np.ndarray, nearest: int) -> np.ndarray:
        """Of each point at each level, what `sibling_recall` is the mean of: [levels, N],
        NaN where there is none."""
        check_whole("nearest", nearest, least=1)
        shared = shared_levels(codes)
        np.fill_diagonal(shared, -1)
        levels = codes.shape[1]
        found = np.full((levels, len(self)), np.nan)
        step = max(self.distances.max(), 1e-300) / _EQUAL
        place = min(nearest, len(self)) - 1
        for level in range(levels):
            siblings = shared == level + 1
            others = (shared >= 0) & (shared <= level)
            asked = siblings.any(1) & others.any(1)
            if not asked.any():
                continue
            siblings, others = siblings[asked], others[asked]
            distances = np.where(siblings | others, self.distances[asked], np.inf)
            last = np.partition(distances, place, axis=1)[:, place, None]
            last = np.minimum(last, np.finfo(float).max)  # fewer candidates: all
            inside = distances < last - step
            tied = (distances <= last + step) & ~inside
            left = nearest - inside.sum(1)
            share = np.minimum(1, left / np.maximum(tied.sum(1), 1))
            hits = (inside & siblings).sum(1) + share * (tied & siblings).sum(1)
            found[level, asked] = hits / np.minimum(nearest, siblings.sum(1))
        return found

    def average_precisions(self, codes: np.ndarray) -> np.ndarray:
        """Of each point, what `hierarchical_precision` is the mean of: [N], NaN of those
        that share no level with any other."""
        shared = shared_levels(codes)
        np.fill_diagonal(shared, -1)
        order = self.order
        gains = np.take_along_axis(shared, order, axis=1)
        if (gains[:, :-1] < 0).any():  # the point itself is the last
            known_first = np.argsort(gains < 0, axis=1, kind="stable")
            order = np.take_along_axis(order, known_first, axis=1)
            gains = np.take_along_axis(gains, known_first, axis=1)
        known, gains = gains >= 0, np.maximum(gains, 0).astype(np.float32)
        best = np.cumsum(-np.sort(-gains, axis=1), axis=1, dtype=np.float64)
        self._average_equal(gains, known, order)
        precisions = np.cumsum(gains, axis=1, dtype=np.float64)
        precisions /= np.maximum(best, 1e-300)
        precisions[~known] = 0
        asked = best[:, -1] > 0
        with np.errstate(invalid="ignore"):
            return np.where(asked, precisions.sum(1) / known.sum(1), np.nan)

    def _average_equal(
        self, gains: np.ndarray, known: np.ndarray, order: np.ndarray
    ) -> None:
        """Give neighbors at equal distances the mean of their gains, [N, N], in place."""
        near = np.take_along_axis(self.distances, order, axis=1)
        step = max(self.distances.max(), 1e-300) / _EQUAL
        equal = (np.diff(near, axis=1) <= step) & known[:, 1:]
        for row in np.flatnonzero(equal.any(1)):
            group = np.concatenate([[0], np.cumsum(~equal[row])])
            sums = np.bincount(group, gains[row])
            gains[row] = (sums / np.bincount(group))[group]


# ---------------------------------------------------------------------------- formulas


def _nearer(near: np.ndarray, far: np.ndarray) -> np.ndarray:
    """Probability that one of ``near`` has a lower rank than one of ``far``, ties half,
    of counts [ranks, ...]; NaN where one of them is empty."""
    above = far.sum(0, dtype=np.float64) - np.cumsum(far, axis=0, dtype=np.float64)
    found = (near * (above + far / 2)).sum(0)
    return over(found, near.sum(0, dtype=np.float64) * far.sum(0, dtype=np.float64))


def retrieval_of(counts: np.ndarray) -> np.ndarray:
    """[levels, ...] of counts [levels + 1, ranks, ...]."""
    return np.stack([_nearer(near, far) for far, near in zip(counts, counts[1:])])


def agreement_of(counts: np.ndarray) -> np.ndarray:
    """Somers' D of counts [levels + 1, ranks, ...]."""
    upper, lower = np.zeros(counts.shape[2:]), np.zeros(counts.shape[2:])
    near = np.zeros(counts.shape[1:])
    for far, nearer in zip(counts[-2::-1], counts[:0:-1], strict=True):
        near = near + nearer
        pairs = near.sum(0) * far.sum(0, dtype=np.float64)
        upper += np.where(pairs > 0, (2 * _nearer(near, far) - 1) * pairs, 0)
        lower += pairs
    return over(upper, lower)


def over(upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """Their ratio, NaN where the lower is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(lower > 0, upper / lower, np.nan)


def mean_of(values: np.ndarray) -> float:
    """Of what is finite; NaN of nothing."""
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else math.nan


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's correlation of values [P] >= 0; NaN where one side is constant."""
    if not len(x) or np.ptp(x) <= 1e-12 * x.max() or np.ptp(y) <= 1e-12 * y.max():
        return math.nan
    return float(np.corrcoef(x, y)[0, 1])


def same_group(labels: np.ndarray) -> np.ndarray:
    """Pairs of different points of one group, [N, N], bool."""
    same = (labels[:, None] == labels) & (labels >= 0)
    np.fill_diagonal(same, False)
    return same


def _binned(ranks: np.ndarray) -> np.ndarray:
    """Ranks [P] in at most so many bins, equal ones in one."""
    if ranks.max(initial=0) < _BINS:
        return ranks
    edges = np.quantile(ranks, np.linspace(0, 1, _BINS + 1)[1:-1])
    return np.searchsorted(edges, ranks)


def _leaf_order(merged: np.ndarray, n: int) -> tuple[np.ndarray, Sequence[tuple[int, int]]]:
    """The points in an order in which each node's lie together; and where those of each
    of the 2 N - 1 nodes begin and end in it."""
    sizes = np.concatenate([np.ones(n, dtype=int), merged[:, 3].astype(int)])
    members = [(0, 0)] * (2 * n - 1)
    members[-1] = (0, n)
    for node in range(2 * n - 2, n - 1, -1):
        left, right = merged[node - n, :2].astype(int)
        start, stop = members[node]
        members[left] = start, start + sizes[left]
        members[right] = start + sizes[left], stop
    places = np.empty(n, dtype=int)
    for point in range(n):
        places[members[point][0]] = point
    return places, members


def _same_height(merged: np.ndarray, n: int, largest: float) -> np.ndarray:
    """Of each node [2 N - 1], the highest one above it, or it, at its height."""
    one = np.arange(2 * n - 1)
    for node in range(2 * n - 2, n - 1, -1):
        for child in merged[node - n, :2].astype(int):
            if child >= n:
                gap = merged[node - n, 2] - merged[child - n, 2]
                if gap <= largest / _EQUAL:
                    one[child] = one[node]
    return one
