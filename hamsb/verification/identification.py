"""Error rates of identification: who of the enrolled speakers speaks, or none of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hamsb.utils.checks import check_whole
from hamsb.verification.arrays import as_array
from hamsb.verification.bootstrap import interval


def identification_rates(
    scores: ArrayLike,
    speakers: Sequence[str],
    enrolled: Sequence[str],
    false_alarms: float = 0.01,
    threshold: float | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """How often the right speaker is found, among those who are enrolled and strangers.

    Recordings of enrolled speakers give the **identification rate** (closed set): the
    share whose best score is the right speaker's. Recordings of strangers give a
    threshold: the least at which no more than a share ``false_alarms`` of them has a best
    score at or above it. The **detection and identification rate** (open set) is the
    share of enrolled speakers' recordings whose best score is the right speaker's and
    reaches that threshold. Both fall with the number of enrolled speakers, so compare
    them for one number.

    Arguments
    ---------
    scores : array, tensor or list of list of float
        [B, S], of B recordings with S enrolled speakers; higher is more similar.
    speakers : sequence of str
        B names: who speaks. Who is not enrolled is a stranger.
    enrolled : sequence of str
        S distinct names.
    false_alarms : float
        In (0, 1).
    threshold : float, optional
        Decide at this one, not at that of the strangers.
    draws : int
        Of a bootstrap over the speakers of the recordings, strangers too; who is
        enrolled stays. 0: none.
    seed : int
        Of the draws: equal seeds and speakers give equal draws.

    Returns
    -------
    dict
        ``identification_rate``, ``detection_identification_rate``, ``false_alarm_rate``
        (as it is at the threshold), ``threshold``; ``draws``: those of the first three,
        each [draws]; ``intervals``: name -> (low, high), 95 %, empty without draws.

    Raises
    ------
    ValueError
        Shapes that do not fit; scores that are not finite; no recording of an enrolled
        speaker, or none of a stranger; a share outside (0, 1).

    Example
    -------
    >>> scores = [[0.9, 0.1], [0.3, 0.4], [0.5, 0.2], [0.1, 0.2]]
    >>> found = identification_rates(
    ...     scores, ["ann", "bob", "eve", "eve"], ["ann", "bob"], 0.5, draws=0
    ... )
    >>> found["identification_rate"], found["detection_identification_rate"]
    (1.0, 1.0)
    """
    values = as_array(scores, "scores", dimensions=(2,)).astype(np.float64)
    if values.shape != (len(speakers), len(enrolled)) or not values.size:
        raise ValueError(
            f"scores: {len(speakers)} recordings and {len(enrolled)} enrolled speakers "
            f"need [{len(speakers)}, {len(enrolled)}], got {values.shape}."
        )
    if not np.isfinite(values).all():
        raise ValueError("scores: must be finite.")
    if len(set(enrolled)) < len(enrolled):
        raise ValueError("enrolled: a name is there twice.")
    if not 0 < false_alarms < 1:
        raise ValueError(f"false_alarms={false_alarms}: must be between 0 and 1.")
    check_whole("draws", draws, least=0)
    column = {name: i for i, name in enumerate(enrolled)}
    true = np.array([column.get(name, -1) for name in speakers])
    if (true < 0).all() or (true >= 0).all():
        raise ValueError(
            "speakers: recordings of enrolled speakers and of strangers are needed, and "
            f"{int((true >= 0).sum())} of {len(true)} are of enrolled ones."
        )
    best = values.max(axis=1)
    order = np.argsort(-best, kind="stable")
    ranked = _Ranked(
        best[order],
        (true < 0)[order],
        (values.argmax(axis=1) == true)[order],
        false_alarms,
        threshold,
    )
    names = ("identification_rate", "detection_identification_rate", "false_alarm_rate")
    *rates, found = ranked.rates(np.ones(len(order)))
    code = {name: i for i, name in enumerate(sorted(set(speakers)))}
    codes = np.array([code[name] for name in speakers])[order]
    random, rows = np.random.default_rng(seed), list[tuple]()
    while len(rows) < draws:
        count = np.bincount(random.integers(len(code), size=len(code)), minlength=len(code))
        drawn = ranked.rates(count[codes].astype(np.float64))
        if np.isfinite(drawn[:3]).all():  # both kinds of speakers were drawn
            rows.append(drawn[:3])
    columns = dict(zip(names, np.array(rows).reshape(draws, 3).T))
    return {
        **{name: float(rate) for name, rate in zip(names, rates)},
        "threshold": float(found),
        "draws": columns,
        "intervals": {name: interval(each) for name, each in columns.items() if draws},
    }


class _Ranked:
    """Recordings by descending best score, and their rates where each weighs so much."""

    def __init__(self, best, stranger, right, false_alarms, threshold):
        self.best, self.stranger, self.right = best, stranger, right
        self.false_alarms, self.threshold = false_alarms, threshold
        # Recordings of one score are accepted together.
        self.last = np.append(np.flatnonzero(np.diff(best)), len(best) - 1)

    def rates(self, weights):
        """Identification rate, detection and identification rate, false alarm rate, and
        the threshold; NaN without recordings of either kind."""
        strangers = np.where(self.stranger, weights, 0.0)
        known = np.where(self.stranger, 0.0, weights)
        if not (strangers.any() and known.any()):
            return np.nan, np.nan, np.nan, np.nan
        if self.threshold is None:
            alarms = np.cumsum(strangers)[self.last]
            allowed = alarms <= self.false_alarms * strangers.sum() * (1 + 1e-12)
            groups = int(np.argmin(allowed)) if not allowed.all() else len(allowed)
            # Between the last score that is accepted and the next.
            at = self.last[groups - 1] + 1 if groups else 0
            above = self.best[at - 1] if at else np.inf
            threshold = above if at else np.nextafter(self.best[0], np.inf)
        else:
            threshold = self.threshold
            at = int(np.searchsorted(-self.best, -threshold, side="right"))
        right = known * self.right
        return (
            right.sum() / known.sum(),
            right[:at].sum() / known.sum(),
            strangers[:at].sum() / strangers.sum(),
            threshold,
        )
