"""What the lengths of embeddings and centers, and their radii in a ball, are related to.

The norm of an embedding before the ball's projection and its hyperbolic distance from
the origin after it, the radius, are summarized (`summaries`, `by_condition`) and
related, by Spearman's rank `correlation`, to the duration, the noise and how easily an
utterance is confused with those of others (`relate_embeddings`); the radii of the
speaker centers to their distances from each other (`relate_centers`).
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.stats import spearmanr
from torch import Tensor

from hamsb.analysis.lengths import Condition, Lengths
from hamsb.nnet.balls import Ball
from hamsb.nnet.similarities import CosineSimilarity, HyperbolicSimilarity, Similarity
from hamsb.utils.tables import markdown_table
from hamsb.verification.bootstrap import interval

# What is measured, of `Lengths`, and how it is called.
MEASURES = {"norm": "norm", "centered": "norm about the mean", "radius": "radius"}
# How the conditions of a kind are called: unit, without change, and all of them.
CALLED = {
    "crop": ("s", "whole", "duration"),
    "noise": ("dB", "clean", "signal-to-noise ratio"),
}
_DIGITS = 9  # distances that differ by less differ by rounding: they are one
_ROWS = 1024  # centers compared with all others at once

# ---------------------------------------------------------------------- summaries


def summary(values: np.ndarray) -> dict[str, float]:
    """Number, mean, standard deviation, least, median and largest of values [N]."""
    return {
        "number": len(values),
        "mean": float(np.mean(values)),
        "std": float(np.std(values - values[0])),  # exactly 0 of equal ones
        "min": float(np.min(values)),
        "median": float(np.median(values)),
        "max": float(np.max(values)),
    }


def summaries(embeddings: Lengths, centers: Lengths | None = None) -> list[dict]:
    """A `summary` of each measure of embeddings and, with a ball, of centers.

    Returns
    -------
    list of dict
        ``of``, what `summary` returns, and the share ``clipped`` by the ball, or None.
    """
    lines = [
        ("embeddings: norm", embeddings.norm, embeddings.clipped),
        ("embeddings: norm about the mean", embeddings.centered, None),
    ]
    if centers is not None:
        lines += [
            ("embeddings: radius", embeddings.radius, embeddings.clipped),
            ("centers: norm", centers.norm, centers.clipped),
            ("centers: radius", centers.radius, centers.clipped),
        ]
    return [
        {
            "of": name,
            **summary(values),
            "clipped": None if clipped is None else float(clipped.mean()),
        }
        for name, values, clipped in lines
        if values is not None
    ]


def by_condition(conditions: Sequence[Condition]) -> list[dict]:
    """What the lengths are under each condition.

    Arguments
    ---------
    conditions : sequence of Condition
        The whole utterances first.

    Returns
    -------
    list of dict
        ``kind``, ``value``, for each of MEASURES its `summary` with the mean ``share`` of
        what it is for the same utterance whole and clean, and the share ``clipped``.
    """
    whole, lines = conditions[0], []
    for condition in conditions:
        line: dict = {
            "kind": condition.kind,
            "value": condition.value if math.isfinite(condition.value) else None,
        }
        same = whole.embeddings.rows(condition.embeddings.utterances).numpy()
        for key in MEASURES:
            values = getattr(condition.lengths, key)
            if values is not None:
                before = np.maximum(getattr(whole.lengths, key)[same], 1e-12)
                share = float(np.mean(values / before))
                line[key] = {**summary(values), "share": share}
        if condition.lengths.clipped is not None:
            line["clipped"] = float(condition.lengths.clipped.mean())
        lines.append(line)
    return lines


# ------------------------------------------------------------------- correlations


def correlation(
    x: ArrayLike, y: ArrayLike, speakers: ArrayLike, draws: int, seed: int
) -> dict | None:
    """Spearman's rank correlation, with an interval from a bootstrap over speakers.

    Arguments
    ---------
    x, y : array
        [N]; infinite values have their rank.
    speakers : array
        [N], whose pair it is: pairs of one speaker are drawn together.
    draws : int
        As many as there are speakers are drawn with replacement, so often; a draw
        without a correlation is replaced by the next. 0: no interval.
    seed : int

    Returns
    -------
    dict or None
        ``rho`` and ``interval``, 95 %, low and high, or None. None where there is no
        correlation: fewer than 3 pairs, or one side is constant.

    Example
    -------
    >>> found = correlation([1, 2, 3, 5], [0.1, 0.2, 0.4, 0.3], list("aabb"), 0, seed=0)
    >>> round(found["rho"], 6), found["interval"]
    (0.8, None)
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if len(x) < 3 or not _varies(x) or not _varies(y):
        return None
    ranks = np.unique(x, return_inverse=True)[1], np.unique(y, return_inverse=True)[1]
    names, owner = np.unique(speakers, return_inverse=True)
    rows = [np.flatnonzero(owner == k) for k in range(len(names))]
    random = np.random.default_rng(seed)
    values: list[float] = []
    while len(values) < draws:
        drawn = random.integers(len(rows), size=len(rows))
        pairs = np.concatenate([rows[k] for k in drawn])
        a, b = (side[pairs] for side in ranks)
        if _varies(a) and _varies(b):
            values.append(spearmanr(a, b).statistic)
    return {
        "rho": float(spearmanr(*ranks).statistic),
        "interval": interval(values) if draws else None,
    }


def _varies(values: np.ndarray) -> bool:
    return bool((values != values[0]).any())


def confusabilities(condition: Condition, nearest: int) -> np.ndarray:
    """Mean cosine of each utterance to its ``nearest`` utterances of other speakers, [N].

    ValueError where there is one speaker only.
    """
    owner = condition.speakers
    if len(set(owner)) < 2:
        raise ValueError(
            f"all utterances are of speaker {owner[0]}: nobody to confuse them with; "
            "take more utterances, or lists of more speakers."
        )
    similarity = CosineSimilarity()
    points = similarity.project(condition.embeddings.matrix.double())
    cosines = similarity.pairwise(points, points).numpy()
    cosines[owner[:, None] == owner] = -np.inf
    found = np.sort(cosines, axis=1)[:, -nearest:]
    return np.nanmean(np.where(np.isfinite(found), found, np.nan), axis=1)


def relate_embeddings(
    conditions: Sequence[Condition], nearest: int, draws: int, seed: int
) -> list[dict]:
    """What lengths and radii are related to.

    Arguments
    ---------
    conditions : sequence of Condition
        The whole utterances first.
    nearest, draws, seed : int
        As for `confusabilities` and `correlation`.

    Returns
    -------
    list of dict
        ``related_to``, ``pairs``, and for each of MEASURES what `correlation` returns;
        without a ball there is no ``radius``.
    """
    whole = conditions[0]
    seconds = whole.seconds
    crops = [condition for condition in conditions if condition.kind == "crop"]
    noises = [condition for condition in conditions if condition.kind == "noise"]
    found = []

    def relate(name: str, chosen: list[Condition], others: list[np.ndarray]) -> None:
        other = np.concatenate(others)
        owner = np.concatenate([condition.speakers for condition in chosen])
        line: dict = {"related_to": name, "pairs": len(other)}
        for key in MEASURES:
            values = [getattr(condition.lengths, key) for condition in chosen]
            if values[0] is not None:
                line[key] = correlation(np.concatenate(values), other, owner, draws, seed)
        found.append(line)

    def value(condition: Condition) -> np.ndarray:
        return np.full(len(condition.embeddings), condition.value)

    relate("duration, whole utterances", [whole], [seconds])
    if crops:
        others = [seconds, *map(value, crops)]
        relate("duration, whole utterances and crops", [whole, *crops], others)
    if noises:
        chosen = [whole, *noises]
        relate("signal-to-noise ratio, clean the highest", chosen, [*map(value, chosen)])
    name = f"confusability: mean of the {nearest} highest cosines to other speakers"
    relate(name, [whole], [confusabilities(whole, nearest)])
    return found


# --------------------------------------------------------------------- the centers


@torch.no_grad()
def nearest_centers(
    ball: Ball, points: Tensor, sub_centers: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Each center's distance to the nearest one of another speaker, and its highest
    cosine to one of another speaker, which is not always the same one: two arrays, as
    long as there are points. A speaker's ``sub_centers`` stand one after another."""
    hyperbolic, cosine = HyperbolicSimilarity(ball), CosineSimilarity()
    speakers = torch.arange(len(points)) // sub_centers
    distances = -_highest_to_another(hyperbolic, points, speakers)
    points = cosine.project(points.double())
    return distances, _highest_to_another(cosine, points, speakers)


def _highest_to_another(
    similarity: Similarity, points: Tensor, speakers: Tensor
) -> np.ndarray:
    """Of each point, the highest similarity to one of another speaker, [N]."""
    found = []
    for start in range(0, len(points), _ROWS):
        part = slice(start, start + _ROWS)
        block = similarity.pairwise(points[part], points)
        block.masked_fill_(speakers[part].unsqueeze(1) == speakers, -math.inf)
        found.append(block.amax(1))
    return torch.cat(found).numpy().round(_DIGITS)


def relate_centers(
    ball: Ball,
    centers: Lengths,
    names: Sequence[str | None],
    counts: Mapping[str, int],
    draws: int,
    seed: int,
    sub_centers: int = 1,
) -> list[dict]:
    """What the centers' radii are related to, lines as of `relate_embeddings`.

    Arguments
    ---------
    ball : hamsb.nnet.balls.Ball
    centers : Lengths
        Of the C centers, or C K sub-centers, in the ball.
    names : sequence of str or None
        The speaker of each class; None where that is not known.
    counts : mapping of str to int
        Training utterances of speakers; empty where unknown. Classes that are no
        speaker of it, as those of changed speed, are left out there.
    draws, seed : int
        As for `correlation`.
    sub_centers : int
        K, of a speaker, one after another.
    """
    if centers.radius is None or centers.points is None:
        raise ValueError("the centers were measured without a ball: they have no radius.")
    radius, found = centers.radius, []

    def relate(name: str, which: np.ndarray, others: ArrayLike) -> None:
        rho = correlation(radius[which], others, which // sub_centers, draws, seed)
        found.append({"related_to": name, "pairs": len(which), "radius": rho})

    everyone = np.arange(len(radius))
    if len(everyone) > sub_centers:
        distances, cosines = nearest_centers(ball, centers.points, sub_centers)
        relate("distance to the nearest other center", everyone, distances)
        relate("highest cosine to another center", everyone, cosines)
    if counts:
        of_each = [name for name in names for _ in range(sub_centers)]
        known = [i for i, name in enumerate(of_each) if name in counts]
        numbers = [counts[str(of_each[i])] for i in known]
        relate("number of training utterances", np.array(known, dtype=int), numbers)
    return found


# --------------------------------------------------------------- tables and plots


def condition_name(kind: str, value: float | None) -> str:
    """What a condition is called; without a value, or with an infinite one, unchanged.

    Example
    -------
    >>> condition_name("noise", 10), condition_name("crop", None)
    ('10 dB', 'whole')
    """
    unit, unchanged, _ = CALLED[kind]
    return unchanged if value is None or math.isinf(value) else f"{value:g} {unit}"


def summary_table(lines: Sequence[dict]) -> str:
    """Of what `summaries` returned, markdown."""
    keys = ("mean", "std", "min", "median", "max")
    rows = []
    for line in lines:
        numbers = (f"{line[key]:.4g}" for key in keys)
        rows.append([line["of"], line["number"], *numbers, _percent(line["clipped"])])
    return markdown_table(["of", "number", *keys, "clipped by the ball %"], rows, left=1)


def relation_table(lines: Sequence[dict]) -> str:
    """Of what `relate_embeddings` or `relate_centers` returned, markdown."""
    measures = [key for key in MEASURES if key in lines[0]]
    header = ["related to", "pairs"]
    for key in measures:
        header += [MEASURES[key], "95 % interval"]
    rows = [
        [line["related_to"], line["pairs"], *(c for k in measures for c in _cells(line[k]))]
        for line in lines
    ]
    return markdown_table(header, rows, left=1)


def condition_table(lines: Sequence[dict], kind: str) -> str:
    """Of what `by_condition` returned, one kind and the whole utterances, markdown."""
    lines = [line for line in lines if line["kind"] in (kind, "whole")]
    lines.sort(key=lambda line: math.inf if line["value"] is None else line["value"])
    measures = [key for key in MEASURES if key in lines[0]]
    with_ball = "clipped" in lines[0]
    header = [CALLED[kind][2], "utterances"]
    for key in measures:
        header += [f"mean {MEASURES[key]}", f"% of {CALLED[kind][1]}"]
    rows = []
    for line in lines:
        row = [condition_name(kind, line["value"]), line["norm"]["number"]]
        for key in measures:
            row += [f"{line[key]['mean']:.4g}", _percent(line[key]["share"])]
        rows.append([*row, _percent(line["clipped"])] if with_ball else row)
    return markdown_table([*header, "clipped %"] if with_ball else header, rows, left=1)


def boxes(conditions: Sequence[Condition]) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """The lengths, as they are and about the mean, at each duration and each
    signal-to-noise ratio, as `hamsb.analysis.plots.plot_boxes` takes them."""
    panels = {}
    for kind, (_, _, label) in CALLED.items():
        chosen = [c for c in conditions if c.kind in (kind, "whole")]
        chosen.sort(key=lambda condition: condition.value)
        panels[label] = {
            condition_name(kind, c.value): {
                MEASURES[key]: getattr(c.lengths, key) for key in ("norm", "centered")
            }
            for c in chosen
        }
    return panels


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def _cells(found: dict | None) -> tuple[str, str]:
    """A correlation and its interval."""
    if found is None:
        return "none", ""
    ends = found["interval"]
    return f"{found['rho']:.2f}", f"{ends[0]:.2f} to {ends[1]:.2f}" if ends else ""
