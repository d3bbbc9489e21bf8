"""Whether the space of a model holds the tree that its speakers are known to form.

`measure_model` takes the measures of `hamsb.analysis.tree_measures` on one model's
embeddings, with nulls and a bootstrap over speakers. `hamsb.analysis.levels` tells where
the utterances are in the tree, `hamsb.analysis.tree_tables` compares models.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata
from torch import Tensor

from hamsb.analysis.distance_tree import (
    DistanceTree,
    Draws,
    level_codes,
    shared_levels,
)
from hamsb.analysis.levels import Levels
from hamsb.analysis.spaces import Space
from hamsb.analysis.tree_measures import (
    Measure,
    measure_cophenetic,
    measure_labels,
    relative_delta,
)
from hamsb.verification.embeddings import Embeddings

_EXACT = 1500  # points up to which delta is computed over all of them
_SUBSETS, _SUBSET = 20, 500  # random parts for its spread, and their most points
_GAUSSIANS = 5  # draws of a null of delta
_PERMUTATIONS = 10  # of the labels


@dataclass(frozen=True)
class Judged:
    """What was measured of one model.

    Attributes
    ----------
    measures : list of Measure
    nulls : dict of (str, int or None) to array
        Measure and level -> its values under the null.
    points : torch.Tensor
        [N, D], what was measured: speakers or utterances.
    pairs : dict of str to array
        Where two points part -> the distances of such pairs, the root first.
    speakers : array
        [S, S], distances of the speakers, sorted by name.
    """

    measures: list[Measure]
    nulls: dict[tuple[str, int | None], np.ndarray]
    points: Tensor
    pairs: dict[str, np.ndarray]
    speakers: np.ndarray


def measure_model(
    space: Space,
    embeddings: Embeddings,
    levels: Levels,
    nearest: int,
    draws: int,
    seed: int,
    noise: Sequence[float] | None = None,
) -> Judged:
    """Every measure of one model's embeddings.

    Arguments
    ---------
    space : Space
    embeddings : Embeddings
        Of the utterances of ``levels``, in their order.
    levels : Levels
    nearest : int
        Of `hamsb.analysis.tree_measures.sibling_recall`.
    draws : int
        Of the bootstrap over speakers; 0: none. Equal seeds and speakers have equal
        draws, so that models can be compared draw by draw.
    seed : int
    noise : sequence of float, optional
        [U], a number about each utterance, such as its signal-to-noise ratio; NaN where
        it is not known.
    """
    owner = np.unique(levels.speakers, return_inverse=True)[1]
    utterances = space.points(embeddings.matrix)
    speakers = space.midpoints(utterances, owner)
    if levels.below:
        points, paths, owners = utterances, levels.paths, owner
    else:
        points, paths = speakers, levels.of_speakers()[1]
        owners = np.arange(len(speakers))
    distances = space.distances(points)
    tree, codes = DistanceTree(distances), level_codes(paths)
    drawn = Draws.make(owners, draws, seed) if draws else None
    measures = measure_labels(tree, codes, nearest, drawn)
    nulls = _permuted(tree, paths, owners, levels.speaker, nearest, seed)
    one = measure_cophenetic(tree, drawn)
    deltas, delta_nulls = _hyperbolicity(space, points, distances, seed)
    radii, depth_null = _radii(
        space, utterances, speakers, levels, embeddings, noise, draws, seed
    )
    nulls |= delta_nulls | {("depth", None): depth_null}
    names = [*(f"{name} differs" for name in levels.names), f"same {levels.names[-1]}"]
    parted = dict(zip(names, _parted(tree, codes), strict=True))
    return Judged(
        [*deltas, one, *measures, *radii],
        nulls,
        points,
        {name: rows for name, rows in parted.items() if len(rows)},
        distances if not levels.below else space.distances(speakers),
    )


def _parted(tree: DistanceTree, codes: np.ndarray) -> list[np.ndarray]:
    """Distances of the pairs that share 0, 1, ... levels."""
    shared = tree.above_diagonal(shared_levels(codes))
    return [tree.condensed[shared == level] for level in range(codes.shape[1] + 1)]


def _permuted(
    tree: DistanceTree,
    paths: np.ndarray,
    owners: np.ndarray,
    speaker: int,
    nearest: int,
    seed: int,
) -> dict[tuple[str, int | None], np.ndarray]:
    """Values where labels mean nothing. Of levels above the speaker, each speaker has
    the labels of another one, or utterances of one speaker, which are near each other
    whatever he is, would make a group of anything; of all else, each point those of
    another one."""
    random = np.random.default_rng(seed)
    first = np.unique(owners, return_index=True)[1]
    found: dict[tuple[str, int | None], list[float]] = {}
    for _ in range(_PERMUTATIONS):
        moved = paths.copy()
        moved[:, :speaker] = paths[first[random.permutation(len(first))[owners]], :speaker]
        shuffled = paths[random.permutation(len(paths))]
        by_point = measure_labels(tree, level_codes(shuffled), nearest)
        by_speaker = by_point
        if len(first) < len(paths):
            by_speaker = measure_labels(tree, level_codes(moved), nearest)
        for one, other in zip(by_point, by_speaker, strict=True):
            upper = one.level is not None and one.level < speaker
            value = other.value if upper else one.value
            found.setdefault((one.name, one.level), []).append(value)
    return {key: np.array(values) for key, values in found.items()}


def _hyperbolicity(
    space: Space, points: Tensor, distances: np.ndarray, seed: int
) -> tuple[list[Measure], dict[tuple[str, int | None], np.ndarray]]:
    """Delta, that of its nulls, and where it lies; and the cophenetic correlation of
    the Gaussian. The draws are those of random parts of the points."""
    random = np.random.default_rng(seed)
    n = len(points)
    size = min(_SUBSET, max(n // 2, min(n, 4)))
    parts, cophenetic = [], []
    for _ in range(_SUBSETS):
        chosen = random.choice(n, size, replace=False)
        normal = space.distances(space.gaussian(points, size, random))
        radial = space.distances(space.same_radii(points[chosen], random))
        own = distances[np.ix_(chosen, chosen)]
        parts.append([relative_delta(each) for each in (own, normal, radial)])
    drawn = np.array(parts).T
    values = drawn.mean(1)
    whole = []
    for _ in range(_GAUSSIANS):
        normal = space.distances(space.gaussian(points, n, random))
        cophenetic.append(measure_cophenetic(DistanceTree(normal)).value)
        if n <= _EXACT:
            radial = space.distances(space.same_radii(points, random))
            whole.append([relative_delta(normal), relative_delta(radial)])
    if whole:
        values = np.array([relative_delta(distances), *np.mean(whole, axis=0)])
        drawn_nulls = np.array(whole).T
    else:
        drawn_nulls = drawn[1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        place, places = 1 - values[0] / values[1], 1 - drawn[0] / drawn[1].mean()
    measures = [
        Measure("delta", None, float(values[0]), drawn[0]),
        Measure("gaussian", None, float(values[1]), drawn_nulls[0]),
        Measure("same_radii", None, float(values[2]), drawn_nulls[1]),
        Measure("place", None, float(place), places),
    ]
    gaussian = 1 - drawn_nulls[0] / values[1]
    return measures, {
        ("place", None): gaussian,
        ("cophenetic", None): np.array(cophenetic),
    }


def _radii(
    space: Space,
    utterances: Tensor,
    speakers: Tensor,
    levels: Levels,
    embeddings: Embeddings,
    noise: Sequence[float] | None,
    draws: int,
    seed: int,
) -> tuple[list[Measure], np.ndarray]:
    """Rank correlations of the distance from the origin; and the null of that with the
    depth."""
    owner = np.unique(levels.speakers, return_inverse=True)[1]
    of_utterances, of_speakers = space.radii(utterances), space.radii(speakers)
    paths = levels.of_speakers()[1][:, : levels.speaker]
    means = np.bincount(owner, of_utterances) / np.bincount(owner)

    def chains(paths: np.ndarray) -> list[np.ndarray]:
        """The radii on the way from the root's groups to the utterances, by speaker."""
        rows = []
        if paths.shape[1]:
            for codes in level_codes(paths).T:
                row, known = np.full(len(codes), np.nan), codes >= 0
                if known.any():
                    middles = space.midpoints(speakers[known], codes[known])
                    row[known] = space.radii(middles)[codes[known]]
                rows.append(row)
        return [*rows, of_speakers, means]

    def with_depth(paths: np.ndarray, drawn: Draws | None) -> Measure:
        rows = chains(paths)
        depths = np.repeat(np.arange(len(rows)), len(speakers))
        return rank_correlation("depth", np.concatenate(rows), depths, drawn)

    def drawn(owners: np.ndarray) -> Draws | None:
        return Draws.make(owners, draws, seed) if draws else None

    everyone = np.arange(len(speakers))
    found = [with_depth(paths, drawn(np.tile(everyone, paths.shape[1] + 2)))]
    random = np.random.default_rng(seed)
    null = [
        with_depth(paths[random.permutation(len(paths))], None).value
        for _ in range(_PERMUTATIONS)
    ]
    seconds = embeddings.seconds
    for name, others in (
        ("duration", None if seconds is None else seconds.numpy()),
        ("noise", None if noise is None else np.asarray(noise, dtype=float)),
    ):
        if others is not None:
            found.append(rank_correlation(name, of_utterances, others, drawn(owner)))
    return found, np.array(null)


def rank_correlation(
    name: str, x: np.ndarray, y: np.ndarray, draws: Draws | None = None
) -> Measure:
    """Spearman's rank correlation, in draws with the ranks that all have.

    Arguments
    ---------
    name : str
        Of the measure.
    x, y : array
        [N]; pairs of which one is not finite are left out.
    draws : Draws, optional
        Whose pairs they are.

    Example
    -------
    >>> x, y = np.array([1.0, 2.0, 3.0, 5.0]), np.array([0.1, 0.2, 0.4, 0.3])
    >>> round(rank_correlation("depth", x, y).value, 6)
    0.8
    """
    known = np.isfinite(x) & np.isfinite(y)
    if known.sum() < 3 or np.ptp(x[known]) == 0 or np.ptp(y[known]) == 0:
        return Measure(name, None, math.nan)
    ranks = [rankdata(side[known]) for side in (x, y)]
    a, b = (side - side.mean() for side in ranks)
    value = float(a @ b / math.sqrt((a @ a) * (b @ b)))
    if draws is None:
        return Measure(name, None, value)
    weights = draws.weights[draws.owner[known]]
    n = weights.sum(0)
    sa, sb, saa, sbb, sab = (side @ weights for side in (a, b, a * a, b * b, a * b))
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = np.sqrt((saa - sa * sa / n) * (sbb - sb * sb / n))
        drawn = np.where(spread > 0, (sab - sa * sb / n) / spread, np.nan)
    return Measure(name, None, value, drawn)
