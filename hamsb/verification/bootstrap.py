"""Intervals of error rates: a bootstrap over speakers."""

from bisect import bisect_left
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hamsb.verification.arrays import as_array, checked_trials, finite_array
from hamsb.verification.metrics import counts_below, crossing


def bootstrap_eer(
    scores: ArrayLike,
    labels: ArrayLike,
    enrol_speakers: ArrayLike,
    test_speakers: ArrayLike,
    draws: int = 1000,
    seed: int = 0,
) -> np.ndarray:
    """EERs of a list whose speakers are drawn anew, for confidence intervals.

    Trials of one speaker are not independent, so speakers are drawn, not trials: as many
    as the list has, with replacement. With speaker s drawn n_s times, a target trial
    counts n_s times and an impostor trial n_e * n_t times. A draw that leaves no target
    or no impostor trial has no EER and is replaced by the next one, so that every value
    is finite. Compared systems share the draws: their differences, draw by draw, are the
    paired comparison (see ``interval``).

    The scores are sorted once; a draw is O(N) for each system, without a sort.

    Arguments
    ---------
    scores : array, tensor or list of float
        [N], or [S, N] for S systems that scored the same trials.
    labels : array, tensor or list of bool or int
        [N], as for ``det_curve``.
    enrol_speakers, test_speakers : array, tensor or list of str or int
        [N], the speaker of either side of each trial.
    draws : int
        Number of draws B, at least 1.
    seed : int
        Seeds the draws: equal seeds and speakers give equal draws, whatever the order
        of the trials.

    Returns
    -------
    numpy.ndarray
        [B], or [S, B] where scores are [S, N]; float64 fractions.

    Raises
    ------
    ValueError
        As for ``det_curve``; speakers that are not str or int or contradict a label;
        draws that are no integer of at least 1.

    Example
    -------
    >>> scores = [0.9, 0.2, 0.7, 0.6, 0.4, 0.5]
    >>> labels = [1, 0, 1, 1, 0, 0]
    >>> enrol, test = ["a", "a", "b", "c", "a", "b"], ["a", "b", "b", "c", "c", "c"]
    >>> values = bootstrap_eer(scores, labels, enrol, test, draws=50)
    >>> values.shape, float(values.max())
    ((50,), 0.0)
    """
    if not isinstance(draws, Integral) or draws < 1:
        raise ValueError(f"draws must be an integer of at least 1, got {draws!r}")
    given = as_array(scores, "scores", dimensions=(1, 2))
    rows = np.atleast_2d(given)
    if not len(rows):
        raise ValueError(f"no systems: scores have shape {given.shape}")
    systems = []
    for k, row in enumerate(rows):
        name = f"scores[{k}]" if given.ndim == 2 else "scores"
        systems.append(checked_trials(row, labels, name))
    enrol, test, speakers = _speaker_codes(enrol_speakers, test_speakers, systems[0][1])
    ranked = [_ranked_speakers(*system, enrol, test) for system in systems]
    random = np.random.default_rng(seed)
    values = np.empty((len(systems), draws))
    draw = 0
    while draw < draws:
        count = np.bincount(random.integers(speakers, size=speakers), minlength=speakers)
        values[:, draw] = [_weighted_eer(count, *system) for system in ranked]
        if not np.isnan(values[0, draw]):  # it is NaN for all systems or for none
            draw += 1
    return values if given.ndim == 2 else values[0]


def interval(values: ArrayLike, level: float = 0.95) -> tuple[Any, Any]:
    """Percentile interval of bootstrap draws.

    Of one system's EERs it is their confidence interval; of the difference (or relative
    change) of two systems' EERs from the same draws it is that of the difference.

    Arguments
    ---------
    values : array or list of float
        [B], one value a draw, or [S, B].
    level : float
        Share of the draws within the interval, in (0, 1).

    Returns
    -------
    low, high : float or numpy.ndarray
        [S], or floats where values are [B].

    Raises
    ------
    ValueError
        No draws; a value that is not finite, as a change relative to an EER of 0 is
        (take the difference there); level outside (0, 1).

    Example
    -------
    >>> interval([0.05, 0.01, 0.02, 0.03, 0.04], level=0.5)
    (0.02, 0.04)
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level!r}")
    draws = finite_array(values, "draws", dimensions=(1, 2))
    if draws.size == 0:
        raise ValueError(f"no draws: got shape {draws.shape}")
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=-1)
    return (low, high) if draws.ndim > 1 else (float(low), float(high))


def relative_change(
    own: ArrayLike,
    baseline: ArrayLike,
    own_draws: ArrayLike,
    baseline_draws: ArrayLike,
    level: float = 0.95,
) -> tuple[float | None, float | None, float | None]:
    """Relative change of a mean error rate against a baseline's, with its interval.

    The interval is paired: both sides come from the same draws of the speakers, and
    their means over the runs are compared draw by draw. It does not hold what other
    seeds would add.

    Arguments
    ---------
    own, baseline : array or list of float
        [S], the error rate of each of S runs (seeds), in any unit.
    own_draws, baseline_draws : array or list of float
        [S, B], their error rates in each draw, of `bootstrap_eer`.
    level : float
        Share of the draws within the interval, in (0, 1).

    Returns
    -------
    change, low, high : float or None
        Fractions: -0.5 is half the errors. The change is None where the baseline has
        none, and so are the ends where it has none in one of the draws.

    Example
    -------
    >>> relative_change([1.0, 2.0], [2.0, 4.0], [[1.0], [2.0]], [[2.0], [2.0]])
    (-0.5, -0.25, -0.25)
    """
    ours, theirs = (float(np.asarray(rates).mean()) for rates in (own, baseline))
    our_draws, their_draws = (
        np.asarray(draws).mean(axis=0) for draws in (own_draws, baseline_draws)
    )
    change = ours / theirs - 1 if theirs > 0 else None
    if not np.all(their_draws > 0):
        return change, None, None
    return change, *interval(our_draws / their_draws - 1, level)


def mean_relative_change(
    corpora: Sequence[tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike]],
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float | None, float | None, float | None]:
    """Mean over corpora of the relative change of a mean error rate against a baseline's.

    Its interval holds what other test speakers and other seeds of the training would
    add: in each draw the speakers are those of `bootstrap_eer`, and of every corpus as
    many pairs of runs as there are, one of either side, are drawn with replacement. Of
    few seeds that is too narrow: of three it sees two thirds of their variance.

    Arguments
    ---------
    corpora : list of (own, baseline, own_draws, baseline_draws)
        Of each corpus what `relative_change` is given: [S], [S], [S, B], [S, B], with
        an S of its own and the same B. Run k of both sides is a pair.
    level : float
        Share of the draws within the interval, in (0, 1).
    seed : int
        Seeds the draws of the pairs.

    Returns
    -------
    change, low, high : float or None
        Fractions, as of `relative_change`; None where a corpus has none.

    Example
    -------
    >>> one = [1.0], [2.0], [[1.0, 1.0]], [[2.0, 2.0]]
    >>> other = [3.0], [4.0], [[3.0, 3.0]], [[4.0, 4.0]]
    >>> mean_relative_change([one, other])
    (-0.375, -0.375, -0.375)
    """
    random = np.random.default_rng(seed)
    changes, draws = [], []
    for own, baseline, own_draws, baseline_draws in corpora:
        change, *_ = relative_change(own, baseline, own_draws, baseline_draws, level)
        if change is None:
            return None, None, None
        changes.append(change)
        sides = np.asarray(own_draws), np.asarray(baseline_draws)
        pairs = random.integers(len(sides[0]), size=sides[0].shape)
        ours, theirs = (np.take_along_axis(side, pairs, 0).mean(axis=0) for side in sides)
        draws.append((ours, theirs))
    mean = float(np.mean(changes))
    if not all(np.all(theirs > 0) for _, theirs in draws):
        return mean, None, None
    return mean, *interval(np.mean([ours / theirs - 1 for ours, theirs in draws], 0), level)


def _ranked_speakers(scores, is_target, enrol, test):
    """What ``_weighted_eer`` needs of a system: the speakers of the targets and of both
    sides of the impostors by ascending score, and how many lie below each threshold."""
    _, targets_below, impostors_below = counts_below(scores, is_target)
    order = np.argsort(scores)
    targets, impostors = order[is_target[order]], order[~is_target[order]]
    return enrol[targets], enrol[impostors], test[impostors], targets_below, impostors_below


def _weighted_eer(count, target, enrol, test, targets_below, impostors_below):
    """EER where each speaker counts count times; NaN without a target or an impostor."""
    missed = np.concatenate(([0], np.cumsum(count[target])))
    rejected = np.concatenate(([0], np.cumsum(count[enrol] * count[test])))
    if not (missed[-1] and rejected[-1]):
        return np.nan

    def miss(k):
        return missed[targets_below[k]] / missed[-1]

    def gap(k):
        return miss(k) - (rejected[-1] - rejected[impostors_below[k]]) / rejected[-1]

    right = bisect_left(range(len(targets_below)), 0.0, key=gap)
    left = right - 1
    return crossing(miss(left), gap(left), miss(right), gap(right))


def _speaker_codes(enrol, test, is_target):
    """Speakers of both sides as integers [N], and their number; or a ValueError."""
    sides = []
    for name, side in (("enrol_speakers", enrol), ("test_speakers", test)):
        side = as_array(side, name)
        if side.dtype.kind not in "iuU":
            raise ValueError(f"{name} must be str or int, got dtype {side.dtype}")
        if len(side) != len(is_target):
            raise ValueError(f"{len(is_target)} trials, but {len(side)} {name}")
        sides.append(side.tolist())
    code = {s: k for k, s in enumerate(sorted({*sides[0], *sides[1]}, key=str))}
    enrol, test = (np.array([code[s] for s in side]) for side in sides)
    bad = (enrol == test) != is_target
    if bad.any():
        k = int(np.argmax(bad))
        raise ValueError(
            f"label {int(is_target[k])} at index {k}, but its speakers are "
            f"{sides[0][k]!r} and {sides[1][k]!r} ({int(bad.sum())} such trials)"
        )
    return enrol, test, len(code)
