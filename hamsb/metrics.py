"""Verification metrics: scores and labels in, numbers out.

Scores are similarities (higher means more similar), label 1 means the same speaker. A
trial is accepted when ``score >= threshold``; rates are fractions, not percent.
Everything is computed in float64 on the CPU from one sort, O(N log N) in the number of
trials N, and equal scores are one operating point: no order of the trials changes a
result.
"""

import numpy as np
import torch


def det_curve(scores, labels):
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
    thresholds : numpy.ndarray
        [K + 1], float64, ascending: the K distinct scores, then +inf. The first accepts
        every trial, the last rejects every trial.
    miss : numpy.ndarray
        [K + 1], float64, ascending from 0 to 1: fraction of target trials below each
        threshold.
    false_alarm : numpy.ndarray
        [K + 1], float64, descending from 1 to 0: fraction of impostor trials at or
        above it.

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
    scores, is_target = _checked(scores, labels)
    order = np.argsort(scores)
    scores = scores[order]
    first = np.flatnonzero(np.concatenate(([True], scores[1:] != scores[:-1])))
    below = np.append(first, len(scores))  # trials below each threshold
    targets_below = np.concatenate(([0], np.cumsum(is_target[order])))[below]
    impostors_below = below - targets_below
    miss = targets_below / targets_below[-1]
    false_alarm = (impostors_below[-1] - impostors_below) / impostors_below[-1]
    return np.append(scores[first], np.inf), miss, false_alarm


def eer(scores, labels):
    """Equal error rate: where the miss and false-alarm rates cross.

    Neighbouring operating points are joined by a straight line, and accepting or
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
    thresholds, miss, false_alarm = det_curve(scores, labels)
    gap = (
        miss - false_alarm
    )  # strictly ascending from -1 to 1: every threshold adds a trial
    right = np.searchsorted(gap, 0.0)
    left = right - 1
    value = (miss[left] * gap[right] - miss[right] * gap[left]) / (
        gap[right] - gap[left]
    )
    nearer = (
        right if gap[right] < -gap[left] else left
    )  # never reject-all: its gap is 1
    return float(value), _threshold_at(thresholds, nearer)


def min_dcf(scores, labels, p_target=0.01, c_miss=1.0, c_fa=1.0, normalize=True):
    r"""Minimum over all thresholds of NIST's detection cost function.

    .. math:: C = c_{miss}\, p\, P_{miss} + c_{fa}\, (1 - p)\, P_{fa}

    Normalised, it is divided by the cost of the better system that does not look at the
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
    if not 0 < p_target < 1:
        raise ValueError(f"p_target must be in (0, 1), got {p_target!r}")
    for name, cost in (("c_miss", c_miss), ("c_fa", c_fa)):
        if not 0 < cost < np.inf:
            raise ValueError(f"{name} must be positive and finite, got {cost!r}")
    thresholds, miss, false_alarm = det_curve(scores, labels)
    weight_miss, weight_fa = c_miss * p_target, c_fa * (1 - p_target)
    cost = weight_miss * miss + weight_fa * false_alarm
    best = np.argmin(cost)
    scale = min(weight_miss, weight_fa) if normalize else 1.0
    return float(cost[best] / scale), _threshold_at(thresholds, best)


def _threshold_at(thresholds, k):
    """A threshold of operating point k, away from the scores where that is possible."""
    high = thresholds[k]
    if k == 0 or np.isinf(high):
        return float(high)
    low = thresholds[k - 1]
    middle = low / 2 + high / 2
    return float(middle if low < middle < high else high)


def _checked(scores, labels):
    """Scores as float64 [N] and labels as bool [N], or a ValueError."""
    scores, labels = _array(scores, "scores"), _array(labels, "labels")
    if len(scores) != len(labels):
        raise ValueError(
            "scores and labels differ in length: "
            f"{len(scores)} scores, {len(labels)} labels"
        )
    if len(scores) == 0:
        raise ValueError("no trials: scores and labels are empty")
    if scores.dtype.kind not in "fiu":
        raise ValueError(f"scores must be real numbers, got dtype {scores.dtype}")
    scores = scores.astype(np.float64)
    _refuse_at("scores must be finite", scores, ~np.isfinite(scores))
    if labels.dtype.kind not in "biu":
        raise ValueError(
            "labels must be bool or int, 1 for the same speaker, "
            f"got dtype {labels.dtype}"
        )
    _refuse_at("labels must be 0 or 1", labels, (labels != 0) & (labels != 1))
    is_target = labels.astype(bool)
    if is_target.all() or not is_target.any():
        raise ValueError(
            "trials of both classes are needed, "
            f"but all {len(labels)} labels are {int(labels[0])}"
        )
    return scores, is_target


def _array(values, name):
    """A 1-D numpy array of a list, array or tensor."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = (values.double() if values.is_floating_point() else values).numpy()
    try:
        values = np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"{name} must be a 1-D list, array or tensor of numbers: {error}"
        ) from error
    if values.ndim != 1:
        raise ValueError(f"{name} must be 1-D, one a trial, got shape {values.shape}")
    return values


def _refuse_at(rule, values, bad):
    """ValueError naming the first bad value and how many there are."""
    if bad.any():
        first = int(np.argmax(bad))
        raise ValueError(
            f"{rule}, got {values[first]} at index {first} "
            f"({int(bad.sum())} of {len(values)} trials)"
        )
