"""The figure of a long recording: who speaks when, and how sure that is."""

import math
import os
from collections.abc import Sequence

import numpy as np

from hamsb.inference.tracking import NONE, Track
from hamsb.utils.packages import optional
from hamsb.verification.plots import BRIGHT, PAGE, STYLE, save_figure
from hamsb.verification.segments import Segment, rttm_name

with optional("plots"):
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MultipleLocator

_MOST_LANES = 16  # speakers with a lane of their own
_OTHERS = "others"
_STRIP = 300.0  # seconds in a row
_MOST_STRIPS = 4
_LANE, _SCORES = 0.13, 0.95  # heights in inches
_GRAY = "0.6"
_STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400]


def plot_track(
    found: Track,
    path: str | os.PathLike,
    reference: Sequence[Segment] = (),
    score_name: str = "cosine",
) -> None:
    """Save who speaks when in a recording, and the scores of its windows, as a PNG.

    Each speaker who was found has a lane, in the order of their first words; the lane below
    them is speech of nobody enrolled, in gray; pauses are empty. Beneath are the scores: a
    dot a window, of the speaker who was decided for in this one's color, or in gray of the
    speaker who comes nearest, and the threshold. More than five minutes go on in a row
    below, up to four rows; then rows get longer. Of more than sixteen speakers, those who
    speak least share a lane. Where it is known who speaks, a thin black line in the lanes
    tells.

    Arguments
    ---------
    found : Track
    path : str or Path
        PNG file to write, whole or not at all; its folder is made if need be.
    reference : sequence of Segment
        Who truly speaks, where that is known; others than the enrolled count as nobody.
    score_name : str
        What the scores are.
    """
    save_figure(_track_figure(found, reference, score_name), path)


@matplotlib.rc_context(STYLE)
def _track_figure(
    found: Track, reference: Sequence[Segment] = (), score_name: str = "cosine"
) -> Figure:
    names_of = {rttm_name(name): name for name in found.speakers}
    reference = [
        each._replace(speaker=names_of.get(each.speaker, NONE)) for each in reference
    ]
    lanes = _lanes(found, reference)
    strips = min(_MOST_STRIPS, math.ceil(found.seconds / _STRIP - 1e-9)) or 1
    span = found.seconds / strips if strips > 1 else found.seconds
    names = [*dict.fromkeys(lanes.values())]
    height = _LANE * (len(names) + 2)
    figure = Figure(
        figsize=(PAGE, strips * (height + _SCORES + 0.25) + 0.3), layout="constrained"
    )
    axes = figure.subplots(
        2 * strips, 1, squeeze=False, height_ratios=[height, _SCORES] * strips
    )[:, 0]
    for strip in range(strips):
        limits = strip * span, (strip + 1) * span
        upper, lower = axes[2 * strip], axes[2 * strip + 1]
        upper.sharex(lower)
        _draw_lanes(upper, found, reference, lanes, names, limits)
        _draw_scores(lower, found, lanes, names, limits, score_name)
        lower.set_xlim(limits)
    for lower in axes[1::2]:
        lower.sharey(axes[1])
    titles = ["who speaks" + ", and a line: who truly does" * bool(reference)]
    titles.append("windows: the speaker decided for in color, or the nearest in gray")
    for upper, title in zip(axes, titles):
        upper.set_title(title)
    axes[-1].set_xlabel("time (h:min:s)" if found.seconds >= 3600 else "time (min:s)")
    return figure


def _lanes(found: Track, reference: Sequence[Segment]) -> dict[str, str]:
    """Speaker -> lane, in the order of the lanes, `NONE` last."""
    speaking = sorted([*found.segments, *reference])
    first = dict.fromkeys(each.speaker for each in speaking if each.speaker != NONE)
    shares = {**found.shares(), NONE: 0.0}
    most = sorted(first, key=lambda name: -shares.get(name, 0.0))
    most = most if len(most) <= _MOST_LANES else most[: _MOST_LANES - 1]
    own = {name: name for name in first if name in most}
    others = {name: _OTHERS for name in first if name not in most}
    return {**own, **others, NONE: NONE}


def _color(lane: str, names: list[str]) -> str:
    return _GRAY if lane in (NONE, _OTHERS) else BRIGHT[names.index(lane) % len(BRIGHT)]


def _draw_lanes(
    axes: Axes,
    found: Track,
    reference: Sequence[Segment],
    lanes: dict[str, str],
    names: list[str],
    limits: tuple[float, float],
) -> None:
    bars: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for each in found.stretches:
        if each.speech and each.end > limits[0] and each.start < limits[1]:
            lane = lanes[NONE if each.speaker is None else each.speaker]
            bars[lane].append((each.start, each.end - each.start))
    for row, name in enumerate(names):
        color = _color(name, names)
        axes.broken_barh(bars[name], (row - 0.44, 0.72), facecolors=color, linewidth=0)
        true = [
            (start, end - start)
            for start, end, speaker in reference
            if lanes[speaker] == name and end > limits[0] and start < limits[1]
        ]
        if true:
            axes.broken_barh(true, (row + 0.33, 0.13), facecolors="black", linewidth=0)
    axes.set_yticks(range(len(names)), [_short(name) for name in names])
    for label, name in zip(axes.get_yticklabels(), names, strict=True):
        label.set_color("0.35" if name in (NONE, _OTHERS) else "black")
        if name in (NONE, _OTHERS):
            label.set_fontstyle("italic")
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="x", labelbottom=False, length=0)
    axes.tick_params(axis="y", which="both", length=0)
    axes.set_yticks(np.arange(len(names) - 1) + 0.5, minor=True)
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="y", which="minor")
    axes.spines["bottom"].set_visible(False)


def _draw_scores(
    axes: Axes,
    found: Track,
    lanes: dict[str, str],
    names: list[str],
    limits: tuple[float, float],
    score_name: str,
) -> None:
    # Of nobody the nearest speaker's.
    decisions = found.decisions
    inside = (found.centers >= limits[0]) & (found.centers <= limits[1])
    rows = np.arange(len(decisions))
    nobody = decisions < 0
    nearest = found.scores.argmax(axis=1) if len(rows) else decisions
    scores = found.scores[rows, np.where(nobody, nearest, decisions)]
    axes.plot(
        found.centers[inside & nobody],
        scores[inside & nobody],
        linestyle="",
        marker="o",
        markersize=1.4,
        markeredgewidth=0,
        color=_GRAY,
    )
    for number in np.unique(decisions[inside & ~nobody]):
        own = inside & (decisions == number)
        axes.plot(
            found.centers[own],
            scores[own],
            linestyle="",
            marker="o",
            markersize=2.0,
            markeredgewidth=0,
            color=_color(lanes[found.speakers[number]], names),
        )
    axes.axhline(found.threshold, color="black", linewidth=0.7, linestyle="--")
    axes.annotate(
        f"threshold {found.threshold:.2f}",
        (1.0, found.threshold),
        xycoords=("axes fraction", "data"),
        xytext=(2, 0),
        textcoords="offset points",
        va="center",
        fontsize=6,
    )
    axes.set_ylabel(score_name)
    ticks = next((step for step in _STEPS if (limits[1] - limits[0]) / step <= 11), 36000)
    axes.xaxis.set_major_locator(MultipleLocator(ticks))
    long = found.seconds >= 3600
    axes.xaxis.set_major_formatter(FuncFormatter(lambda time, _: _clock(time, long)))


def _clock(time: float, hours: bool) -> str:
    """Seconds as minutes and seconds, or hours, minutes and seconds."""
    minutes, seconds = divmod(round(time), 60)
    if not hours:
        return f"{minutes}:{seconds:02d}"
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def _short(name: str) -> str:
    return name if len(name) <= 20 else f"{name[:18]}..."
