"""Verification metrics: scores and labels in, numbers out.

Scores are similarities (higher means more similar), label 1 means the same speaker. A
trial is accepted when ``score >= threshold``; rates are fractions, not percent.
Everything is computed in float64 on the CPU from one sort, O(N log N) in the number of
trials N, and equal scores are one operating point: no order of the trials changes a
result.

``eer`` and ``min_dcf`` sort each time they are called; where several numbers of one list
are wanted, ``det_curve`` sorts once and its result gives them all.

``act_dcf`` and ``cllr`` take natural-log likelihood ratios, that is calibrated scores;
cosines and distances are none (see ``hamsb.verification.calibration``).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import isotonic_regression
from scipy.special import rel_entr

from hamsb.verification.arrays import checked_trials


class DetCurve(NamedTuple):
    """Every operating point of a scored list, and what follows from them.

    Attributes
    ----------
    thresholds : numpy.ndarray
        [K + 1], float64, ascending: the K distinct scores, then +inf. The first accepts
        every trial, the last rejects every trial.
    miss : numpy.ndarray
        [K + 1], float64, ascending from 0 to 1: fraction of target trials below each
        threshold.
    false_alarm : numpy.ndarray
        [K + 1], float64, descending from 1 to 0: fraction of impostor trials at or
        above it.

    Example
    -------
    >>> curve = det_curve([0.1, 0.3, 0.6, 0.4, 0.7, 0.8], [0, 0, 0, 1, 1, 1])
    >>> error_rate, threshold = curve.eer()
    >>> [round(curve.min_dcf(p_target=p)[0], 3) for p in (0.01, 0.05)]
    [0.333, 0.333]
    """

    thresholds: np.ndarray
    miss: np.ndarray
    false_alarm: np.ndarray

    def eer(self) -> tuple[float, float]:
        """As the function ``eer``, without another sort."""
        gap = self.miss - self.false_alarm  # -1 to 1, every threshold adds a trial
        right = int(np.searchsorted(gap, 0.0))
        left = right - 1
        value = crossing(self.miss[left], gap[left], self.miss[right], gap[right])
        # Never reject-all, whose gap is 1.
        nearer = right if gap[right] < -gap[left] else left
        return float(value), self._threshold_at(nearer)

    def min_dcf(
        self,
        p_target: float = 0.01,
        c_miss: float = 1.0,
        c_fa: float = 1.0,
        normalize: bool = True,
    ) -> tuple[float, float]:
        """As the function ``min_dcf``, without another sort."""
        weight_miss, weight_fa = _cost_weights(p_target, c_miss, c_fa)
        cost = weight_miss * self.miss + weight_fa * self.false_alarm
        best = int(np.argmin(cost))
        scale = min(weight_miss, weight_fa) if normalize else 1.0
        return float(cost[best] / scale), self._threshold_at(best)

    def at_false_alarms(self, rate: float) -> float:
        """The least threshold at which at most a share ``rate`` of the impostor trials is
        accepted."""
        return self._threshold_at(int(np.argmax(self.false_alarm <= rate)))

    def _threshold_at(self, k: int) -> float:
        """A threshold of operating point k, between scores where that is possible."""
        high = self.thresholds[k]
        if k == 0 or np.isinf(high):
            return float(high)
        low = self.thresholds[k - 1]
        middle = low / 2 + high / 2
        return float(middle if low < middle < high else high)


def det_curve(scores: ArrayLike, labels: ArrayLike) -> DetCurve:
    """Miss and false-alarm rates at every threshold that tells trials apart.

    Arguments
    ---------
    scores : array, tensor or list of float
        [N], higher means more similar; a tensor may be on any device, of any float type
        and require grad.
    labels : array, tensor or list of bool or int
        [N], 1 for the same speaker, 0 for different speakers.

    Returns
    -------
    DetCurve
        The named tuple ``(thresholds, miss, false_alarm)``, [K + 1] each; its methods
        ``eer`` and ``min_dcf`` give the functions' results from this one sort.

    Raises
    ------
    ValueError
        Not 1-D, unequal lengths, no trials, one class only, a score that is NaN or
        infinite, a label that is not an integer or bool 0 or 1; the message says what
        and at which index.

    Example
    -------
    >>> thresholds, miss, false_alarm = det_curve([0.1, 0.4, 0.4, 0.8], [0, 0, 1, 1])
    >>> thresholds
    array([0.1, 0.4, 0.8, inf])
    >>> miss
    array([0. , 0. , 0.5, 1. ])
    >>> false_alarm
    array([1. , 0.5, 0. , 0. ])
    """
    thresholds, targets_below, impostors_below = counts_below(
        *checked_trials(scores, labels)
    )
    miss = targets_below / targets_below[-1]
    false_alarm = (impostors_below[-1] - impostors_below) / impostors_below[-1]
    return DetCurve(thresholds, miss, false_alarm)


def eer(scores: ArrayLike, labels: ArrayLike) -> tuple[float, float]:
    """Equal error rate: where the miss and false-alarm rates cross.

    Neighboring operating points are joined by a straight line, and accepting or
    rejecting every trial are operating points too. All scores equal give 0.5, perfect
    separation 0, reversed 1.

    Arguments
    ---------
    scores, labels :
        As for ``det_curve``.

    Returns
    -------
    eer : float
        A fraction in [0, 1].
    threshold : float
        Always finite. Accepting ``score >= threshold`` gives whichever of the two
        operating points beside the crossing has the nearer rates; the threshold lies
        halfway between the scores that it separates.

    Raises
    ------
    ValueError
        As for ``det_curve``.

    Example
    -------
    >>> eer([0.1, 0.3, 0.6, 0.4, 0.7, 0.8], [0, 0, 0, 1, 1, 1])
    (0.3333333333333333, 0.5)
    """
    return det_curve(scores, labels).eer()


def min_dcf(
    scores: ArrayLike,
    labels: ArrayLike,
    p_target: float = 0.01,
    c_miss: float = 1.0,
    c_fa: float = 1.0,
    normalize: bool = True,
) -> tuple[float, float]:
    r"""Minimum over all thresholds of NIST's detection cost function.

    .. math:: C = c_{miss}\, p\, P_{miss} + c_{fa}\, (1 - p)\, P_{fa}

    Normalized, it is divided by the cost of the better system that does not look at the
    scores, :math:`\min(c_{miss}\, p, c_{fa}\, (1 - p))`, and so at most 1.

    Arguments
    ---------
    scores, labels :
        As for ``det_curve``.
    p_target : float
        Prior probability p of a target trial, in (0, 1). Name it wherever the value is
        shown.
    c_miss, c_fa : float
        Costs of a miss and of a false alarm, positive.
    normalize : bool
        Divide by the cost of the better constant decision.

    Returns
    -------
    value : float
        The minimum cost.
    threshold : float
        Accepting ``score >= threshold`` costs the minimum: the lowest such operating
        point, halfway between the scores that it separates. The lowest score where
        accepting every trial is best; +inf where nothing is better than rejecting every
        trial.

    Raises
    ------
    ValueError
        As for ``det_curve``; p_target outside (0, 1); a cost that is not positive and
        finite.

    Example
    -------
    >>> min_dcf([0.1, 0.3, 0.6, 0.4, 0.7, 0.8], [0, 0, 0, 1, 1, 1], p_target=0.01)
    (0.3333333333333333, 0.6499999999999999)
    """
    return det_curve(scores, labels).min_dcf(p_target, c_miss, c_fa, normalize)


def bayes_threshold(p_target: float, c_miss: float = 1.0, c_fa: float = 1.0) -> float:
    r"""The threshold on log-likelihood ratios of least expected cost.

    .. math:: \theta = \ln \frac{c_{fa}\, (1 - p)}{c_{miss}\, p}

    With equal costs it is minus the prior log-odds.

    Arguments
    ---------
    p_target : float
        Prior probability p of a target trial, in (0, 1).
    c_miss, c_fa : float
        Costs of a miss and of a false alarm, positive.

    Returns
    -------
    float
        Accept natural-log likelihood ratios at or above it.

    Raises
    ------
    ValueError
        p_target outside (0, 1); a cost that is not positive and finite.

    Example
    -------
    >>> round(bayes_threshold(0.01), 4)
    4.5951
    """
    weight_miss, weight_fa = _cost_weights(p_target, c_miss, c_fa)
    return float(np.log(weight_fa) - np.log(weight_miss))


def act_dcf(
    llrs: ArrayLike,
    labels: ArrayLike,
    p_target: float,
    c_miss: float = 1.0,
    c_fa: float = 1.0,
) -> float:
    """Actual detection cost: that of deciding at the Bayes threshold.

    The cost of ``min_dcf``, normalized as there, but at ``bayes_threshold`` instead of
    the list's own best threshold. What it has above ``min_dcf`` is lost by calibration;
    it exceeds 1 where deciding without the scores would be better.

    Arguments
    ---------
    llrs : array, tensor or list of float
        [N], natural-log likelihood ratios, without the prior.
    labels :
        As for ``det_curve``.
    p_target : float
        Prior probability of a target trial, in (0, 1). Name it wherever the value is
        shown.
    c_miss, c_fa : float
        Costs of a miss and of a false alarm, positive.

    Returns
    -------
    float
        The normalized cost, >= 0.

    Raises
    ------
    ValueError
        As for ``min_dcf``.

    Example
    -------
    >>> llrs, labels = [-6.0, -2.0, 1.0, 5.0], [0, 0, 1, 1]
    >>> act_dcf(llrs, labels, p_target=0.01)  # threshold 4.6: one of two missed
    0.5
    >>> act_dcf(llrs, labels, p_target=0.5)
    0.0
    """
    weight_miss, weight_fa = _cost_weights(p_target, c_miss, c_fa)
    llrs, is_target = checked_trials(llrs, labels, "llrs")
    accept = llrs >= bayes_threshold(p_target, c_miss, c_fa)
    cost = weight_miss * np.mean(~accept[is_target])
    cost += weight_fa * np.mean(accept[~is_target])
    return float(cost / min(weight_miss, weight_fa))


def cllr(llrs: ArrayLike, labels: ArrayLike) -> float:
    r"""Cost of log-likelihood ratios: their mean log loss at even prior, in bits [1]_.

    .. math:: C_{llr} = \frac{1}{2 \ln 2} \left(
        \frac{1}{N_t} \sum_{targets} \ln(1 + e^{-l})
        + \frac{1}{N_i} \sum_{impostors} \ln(1 + e^{l}) \right)

    0 is perfect; 1 is what knowing nothing (every l = 0) costs; more is misleading.

    Arguments
    ---------
    llrs, labels :
        As for ``act_dcf``.

    Returns
    -------
    float
        Bits, >= 0.

    Raises
    ------
    ValueError
        As for ``det_curve``.

    References
    ----------
    .. [1] N. Brümmer and J. du Preez, "Application-independent evaluation of speaker
       detection", Computer Speech & Language 20, 2006.

    Example
    -------
    >>> cllr([0.0, 0.0, 0.0], [0, 0, 1])
    1.0
    """
    llrs, is_target = checked_trials(llrs, labels, "llrs")
    loss = np.logaddexp(0.0, np.where(is_target, -llrs, llrs)) / np.log(2)
    return float((loss[is_target].mean() + loss[~is_target].mean()) / 2)


def min_cllr(scores: ArrayLike, labels: ArrayLike) -> float:
    """Cllr after the best monotone map of the scores to log-likelihood ratios.

    The map is found by pooling adjacent violators (isotonic regression of the labels on
    the scores). Equal scores get equal ratios. Where one class lies alone at an end of
    the scale the ratio is infinite there and those trials cost nothing. No score scale
    is assumed: any increasing transformation gives the same value, and it is a lower
    bound of ``cllr`` after any of them.

    Arguments
    ---------
    scores, labels :
        As for ``det_curve``.

    Returns
    -------
    float
        Bits, in [0, 1] up to rounding: 0 for perfect separation, 1 where the scores
        say nothing or are reversed.

    Raises
    ------
    ValueError
        As for ``det_curve``.

    Example
    -------
    >>> round(min_cllr([0.1, 0.3, 0.6, 0.4, 0.7, 0.8], [0, 0, 0, 1, 1, 1]), 4)
    0.3333
    >>> min_cllr([0.1, 0.3, 0.7, 0.8], [0, 0, 1, 1])
    0.0
    """
    _, targets_below, impostors_below = counts_below(*checked_trials(scores, labels))
    targets, impostors = np.diff(targets_below), np.diff(impostors_below)  # by score
    trials = targets + impostors
    blocks = isotonic_regression(targets / trials, weights=trials).blocks[:-1]
    targets = np.add.reduceat(targets, blocks) / targets_below[-1]
    impostors = np.add.reduceat(impostors, blocks) / impostors_below[-1]
    # A block's ratio is targets / impostors, so that ln(1 + e^-l) is
    # -ln(targets / both): x ln x at an infinite l is 0.
    both = targets + impostors
    gain = rel_entr(targets, both).sum() + rel_entr(impostors, both).sum()
    return float((0.0 - gain) / (2 * np.log(2)))


def counts_below(
    scores: np.ndarray, is_target: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct scores and +inf [K + 1], and how many targets and impostors lie below
    each, of what `checked_trials` returns."""
    order = np.argsort(scores)
    scores = scores[order]
    first = np.flatnonzero(np.concatenate(([True], scores[1:] != scores[:-1])))
    below = np.append(first, len(scores))  # trials below each threshold
    targets_below = np.concatenate(([0], np.cumsum(is_target[order])))[below]
    return np.append(scores[first], np.inf), targets_below, below - targets_below


def crossing(
    miss_left: float, gap_left: float, miss_right: float, gap_right: float
) -> float:
    """The miss rate where gap = miss - false alarm passes 0 between two points."""
    return (miss_left * gap_right - miss_right * gap_left) / (gap_right - gap_left)


def _cost_weights(p_target, c_miss, c_fa):
    """Weights of the miss and false-alarm rates in the cost, or a ValueError."""
    if not 0 < p_target < 1:
        raise ValueError(f"p_target must be in (0, 1), got {p_target!r}")
    for name, cost in (("c_miss", c_miss), ("c_fa", c_fa)):
        if not 0 < cost < np.inf:
            raise ValueError(f"{name} must be positive and finite, got {cost!r}")
    return c_miss * p_target, c_fa * (1 - p_target)
