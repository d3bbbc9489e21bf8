"""The numbers of scored trial lists, whole and by groups of trials."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from hamsb.verification.arrays import checked_trials
from hamsb.verification.bootstrap import bootstrap_eer, interval
from hamsb.verification.metrics import act_dcf, cllr, det_curve, min_cllr
from hamsb.verification.trials import Trials

P_TARGETS = (0.01, 0.05)  # the priors at which detection costs are reported


def evaluate_trials(
    trials: Trials,
    scores: ArrayLike,
    p_targets: Sequence[float] = P_TARGETS,
    calibrated: bool = False,
) -> dict:
    """The numbers that a table shows of one scored list, ready for JSON.

    Arguments
    ---------
    trials : Trials
        N trials.
    scores : array, tensor or list of float
        [N], in the order of the trials; higher means more similar.
    p_targets : sequence of float
        Priors of a target trial, for the detection costs.
    calibrated : bool
        The scores are natural-log likelihood ratios.

    Returns
    -------
    dict
        ``list`` (the list's name), ``target_trials``, ``impostor_trials``, ``eer`` (a
        fraction), ``eer_threshold`` (accept ``score >= eer_threshold``), for each prior
        p ``min_dcf_<p>`` (normalized) and ``min_dcf_threshold_<p>`` (None where nothing
        is better than to reject every trial). For calibrated scores also
        ``act_dcf_<p>``, ``cllr`` and ``min_cllr``, in bits.

    Raises
    ------
    ValueError
        The list has one class only, or a score is NaN or infinite; names the list.

    Example
    -------
    >>> from pathlib import Path
    >>> trials = Trials(np.array([1, 0]), ("1/a", "1/a"), ("1/b", "2/a"), Path("O.txt"))
    >>> for key, value in evaluate_trials(trials, [0.75, 0.25], [0.01]).items():
    ...     print(key, value)
    list O
    target_trials 1
    impostor_trials 1
    eer 0.0
    eer_threshold 0.5
    min_dcf_0.01 0.0
    min_dcf_threshold_0.01 0.5
    """
    try:
        numbers = _numbers(scores, trials.labels, p_targets, calibrated)
    except ValueError as error:
        raise ValueError(f"{trials.path}: {error}") from error
    return {"list": trials.name, **_counts(trials.labels), **numbers}


def decision_errors(scores: ArrayLike, labels: ArrayLike, threshold: float) -> dict:
    """What a given threshold does on a list, ready for JSON.

    Arguments
    ---------
    scores : array, tensor or list of float
        [N]; a trial is accepted where its score is at or above the threshold.
    labels : array, tensor or list of bool or int
        [N], 1 for the same speaker, 0 for different speakers.
    threshold : float

    Returns
    -------
    dict
        ``threshold``; ``misses`` and ``miss_rate``: rejected target trials and their
        share of all target trials; ``false_alarms`` and ``false_alarm_rate``: accepted
        impostor trials and their share of all impostor trials.

    Raises
    ------
    ValueError
        As for `hamsb.verification.metrics.det_curve`.

    Example
    -------
    >>> for key, value in decision_errors([0.9, 0.4, 0.5, 0.1], [1, 1, 0, 0], 0.6).items():
    ...     print(key, value)
    threshold 0.6
    misses 1
    miss_rate 0.5
    false_alarms 0
    false_alarm_rate 0.0
    """
    values, is_target = checked_trials(scores, labels)
    accepted = values >= threshold
    targets = int(is_target.sum())
    misses = targets - int(accepted[is_target].sum())
    false_alarms = int(accepted[~is_target].sum())
    return {
        "threshold": float(threshold),
        "misses": misses,
        "miss_rate": misses / targets,
        "false_alarms": false_alarms,
        "false_alarm_rate": false_alarms / (len(values) - targets),
    }


def eer_intervals(
    trials: Trials, scores: ArrayLike, draws: int = 1000, seed: int = 0
) -> list[tuple[float, float]]:
    """95 % intervals of the EER from a bootstrap over the list's speakers.

    Arguments
    ---------
    trials : Trials
        N trials.
    scores : array
        [S, N], of S systems, which share the draws.
    draws, seed : int
        As for `hamsb.verification.bootstrap.bootstrap_eer`.

    Returns
    -------
    list of tuple of float
        S times low and high, fractions.

    Raises
    ------
    ValueError
        A path without a speaker's folder, or a speaker that contradicts a label; names
        the list, and how to go without.

    Example
    -------
    >>> from pathlib import Path
    >>> enrol, test = ("1/a", "1/a", "2/b"), ("1/b", "2/a", "2/a")
    >>> trials = Trials(np.array([1, 0, 1]), enrol, test, Path("O.txt"))
    >>> eer_intervals(trials, [[0.75, 0.25, 0.5]], draws=10)
    [(0.0, 0.0)]
    """
    try:
        _ = trials.speakers  # each utterance has one
        enrol, test = (
            [trials.speaker_of(utterance) for utterance in side]
            for side in (trials.enrol, trials.test)
        )
        values = bootstrap_eer(scores, trials.labels, enrol, test, draws, seed)
    except ValueError as error:
        raise ValueError(
            f"{trials.path}: no interval from these speakers ({error}); "
            "set bootstrap_draws: 0 to go without"
        ) from error
    low, high = interval(values)
    return list(zip(low.tolist(), high.tolist()))


def why_no_intervals(trials: Trials) -> str:
    """Why there are no intervals over a list's speakers, a sentence; "" where there are.

    Example
    -------
    >>> from pathlib import Path
    >>> trials = Trials(np.array([1, 0]), ("1/a", "1/a"), ("2/a", "1/b"), Path("O.txt"))
    >>> why_no_intervals(trials)
    'O: 2 of its 2 labels contradict the speakers that its paths name, so there is no \
interval over speakers.'
    """
    try:
        _ = trials.speakers
    except ValueError:
        return f"{trials.name}: its paths name no speakers, so there is no interval."
    wrong = sum(
        (trials.speaker_of(one) == trials.speaker_of(other)) != label
        for label, one, other in zip(trials.labels.tolist(), trials.enrol, trials.test)
    )
    if not wrong:
        return ""
    return (
        f"{trials.name}: {wrong:,} of its {len(trials):,} labels contradict the speakers "
        "that its paths name, so there is no interval over speakers."
    )


def evaluate_groups(
    trials: Trials,
    scores: np.ndarray,
    groups: Mapping[tuple[str, str], np.ndarray],
    p_targets: Sequence[float] = P_TARGETS,
) -> list[dict]:
    """The numbers of each group of a scored list, ready for JSON.

    Arguments
    ---------
    trials : Trials
        N trials.
    scores : numpy.ndarray
        [N].
    groups : dict
        As `hamsb.verification.groups.trial_groups` returns it.
    p_targets : sequence of float

    Returns
    -------
    list of dict
        ``what`` and ``group``, ``target_trials``, ``impostor_trials``, ``eer`` and
        ``min_dcf_<p>``; the last are missing where a group lacks one class.

    Example
    -------
    >>> from pathlib import Path
    >>> trials = Trials(np.array([1, 0]), ("1/a", "1/a"), ("1/b", "2/a"), Path("O.txt"))
    >>> groups = {("session", "same"): np.array([True, True])}
    >>> evaluate_groups(trials, np.array([0.75, 0.25]), groups, [])
    [{'what': 'session', 'group': 'same', 'target_trials': 1, 'impostor_trials': 1, \
'eer': 0.0}]
    """
    results = []
    for (what, name), members in groups.items():
        labels = trials.labels[members]
        result = {"what": what, "group": name, **_counts(labels)}
        if len(set(labels.tolist())) == 2:
            numbers = _numbers(scores[members], labels, p_targets, calibrated=False)
            result |= {key: n for key, n in numbers.items() if "threshold" not in key}
        results.append(result)
    return results


def _counts(labels: np.ndarray) -> dict:
    targets = int(labels.sum())
    return {"target_trials": targets, "impostor_trials": len(labels) - targets}


def _numbers(
    scores: ArrayLike, labels: np.ndarray, p_targets: Sequence[float], calibrated: bool
) -> dict:
    curve = det_curve(scores, labels)
    numbers: dict = dict(zip(("eer", "eer_threshold"), curve.eer()))
    for p in p_targets:
        cost, threshold = curve.min_dcf(p)
        numbers[f"min_dcf_{p}"] = cost
        numbers[f"min_dcf_threshold_{p}"] = threshold if np.isfinite(threshold) else None
    if calibrated:
        numbers |= {f"act_dcf_{p}": act_dcf(scores, labels, p) for p in p_targets}
        numbers |= {"cllr": cllr(scores, labels), "min_cllr": min_cllr(scores, labels)}
    return numbers
