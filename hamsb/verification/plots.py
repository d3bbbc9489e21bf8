"""Figures of trials, and the style of all figures.

This module, ``hamsb.analysis.plots`` and ``hamsb.inference.plots`` are the only ones that
import matplotlib. A figure is as wide as a column of a paper, or as two, with text of 7
and 8 points. Its colors are told apart by color-blind readers [1]_, its lines by their
dashes too.

References
----------
.. [1] M. Okabe and K. Ito, "Color universal design", 2008,
   https://jfly.uni-koeln.de/color/
"""

import math
import os
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri

from hamsb.utils.files import replacing
from hamsb.utils.packages import optional
from hamsb.verification.arrays import checked_trials
from hamsb.verification.evaluation import decision_errors
from hamsb.verification.metrics import det_curve

with optional("plots"):
    import matplotlib
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.legend import Legend

Trials = tuple[ArrayLike, ArrayLike]  # scores and labels, as det_curve takes them

COLUMN, PAGE = 3.35, 7.0  # widths of figures, in inches
SMALL = 7.0  # size of legends, titles and numbers, in points
STYLE: dict[Any, Any] = {  # matplotlib's own names
    "font.size": 8.0,
    "text.parse_math": False,  # a name may have two $
    "axes.labelsize": 8.0,
    "axes.titlesize": SMALL,
    "axes.titlelocation": "left",
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "legend.title_fontsize": SMALL,
    "legend.frameon": False,
    "legend.framealpha": 0.95,
    "legend.handlelength": 3.0,
    "legend.columnspacing": 1.2,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "0.9",
    "grid.linewidth": 0.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.2,
    "lines.dashed_pattern": (4.5, 1.5),
    "lines.dotted_pattern": (1.2, 1.2),
    "lines.dashdot_pattern": (5.0, 1.4, 1.2, 1.4),
    "hatch.linewidth": 0.4,
    "savefig.dpi": 300.0,
}
BLUE, VERMILLION = "#0072B2", "#D55E00"
# The colors of Okabe and Ito; for their yellow, too light for a line, a dark red.
COLORS = [
    BLUE, VERMILLION, "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00", "#882255"
]  # fmt: skip
BRIGHT = [color for color in COLORS if color != "#000000"]  # beside black or grays
_DASHES = ["-", "--", ":", "-."]
# Rates that an axis may be marked at and end at.
_RATES = (
    np.array([0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 40, 60, 80, 90, 95, 98, 99])
    / 100
)
_OFF_AXES = 1e-9  # a rate of 0 or 1 is drawn here, beyond every axis


def plot_det(
    curves: Mapping[str, Trials],
    path: str | os.PathLike,
    baselines: Collection[str] = (),
    thresholds: Mapping[str, float] | None = None,
) -> None:
    """Save the detection error tradeoff of one or more systems as a PNG.

    The axes are normal deviates [1]_: Gaussian scores give straight lines. The legend
    names each system and its EER, marked on its curve; it stands below the axes where
    it would cover a curve. A threshold is a second mark, a square: where it decides on
    the curve.

    Arguments
    ---------
    curves : mapping of str to (scores, labels)
        For each system, in drawing order, what ``hamsb.verification.metrics.det_curve``
        takes.
    path : str or Path
        PNG file to write, whole or not at all; its folder is made if need be.
    baselines : collection of str
        Names in ``curves``, such as an untrained network: drawn thin and gray. The axes
        fit the other systems, so that a baseline may lie beyond them; the legend then
        says so. Where all are baselines, the axes fit them.
    thresholds : mapping of str to float, optional
        For names in ``curves`` the decision threshold, such as one stored with a model:
        scores at or above it are accepted. Where its errors lie beyond the axes, it is
        marked at their edge, and the legend says so.

    Raises
    ------
    ValueError
        No curves, a baseline or a threshold without a curve, a threshold that is not
        finite, or trials that ``det_curve`` refuses; names the system.

    References
    ----------
    .. [1] A. Martin et al., "The DET curve in assessment of detection task
       performance", Eurospeech 1997.

    Example
    -------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     trials = [0.1, 0.5, 0.4, 0.9], [0, 0, 1, 1]
    ...     plot_det({"cosine": trials}, f"{folder}/det.png")
    ...     Path(folder, "det.png").read_bytes()[1:4]
    b'PNG'
    """
    save_figure(_det_figure(curves, baselines, thresholds or {}), path)


def plot_scores(
    systems: Mapping[str, Trials],
    path: str | os.PathLike,
    threshold: float | None = None,
    score_name: str = "score",
) -> None:
    """Save the distributions of target and impostor scores as a PNG.

    A panel for each system (or list): histograms of the scores of either class, each of
    unit area, the threshold of its EER and, where one is given, the threshold that
    decides, with what it costs. The panels share the axis of scores where they share
    that threshold; two systems' scores need not have one scale.

    Arguments
    ---------
    systems : mapping of str to (scores, labels)
        For each system, in drawing order, what ``hamsb.verification.metrics.det_curve``
        takes.
    path : str or Path
        PNG file to write, whole or not at all; its folder is made if need be.
    threshold : float, optional
        The decision threshold, such as one stored with a model: scores at or above it
        are accepted. Drawn in every panel, with its rates of misses and false alarms.
    score_name : str
        What the scores are, for their axis, such as "cosine", "minus hyperbolic
        distance" or "log-likelihood ratio".

    Raises
    ------
    ValueError
        No systems, or trials that ``det_curve`` refuses (names the system); a threshold
        that is not finite.

    Example
    -------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     trials = [0.1, 0.5, 0.4, 0.9], [0, 0, 1, 1]
    ...     plot_scores({"veri_test": trials}, f"{folder}/scores.png", 0.45, "cosine")
    ...     Path(folder, "scores.png").read_bytes()[1:4]
    b'PNG'
    """
    save_figure(_scores_figure(systems, threshold, score_name), path)


# ----------------------------------------------------------- shared by all figures


@matplotlib.rc_context(STYLE)
def save_figure(figure: Figure, path: str | os.PathLike) -> None:
    """Write a figure as a PNG, whole or not at all; its folder is made if need be."""
    with replacing(path) as partial:
        figure.savefig(partial, format="png")


def line_styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Name -> color and dashes of its line, all different up to 32 names.

    Example
    -------
    >>> line_styles(["AM", "HAM"])["HAM"]
    {'color': '#D55E00', 'linestyle': '--'}
    """
    return {
        name: {
            "color": COLORS[k % len(COLORS)],
            "linestyle": _DASHES[(k + k // len(COLORS)) % len(_DASHES)],
        }
        for k, name in enumerate(names)
    }


def legend_below(
    figure: Figure | SubFigure,
    handles: Sequence[Artist],
    labels: Sequence[str],
    most: int = 4,
    **options: Any,
) -> Legend:
    """A legend below the axes of a constrained layout, in as many columns as fit in but
    at most ``most``; long labels are wrapped. Options go to ``Figure.legend``."""
    labels = [textwrap.fill(label, 50) for label in labels]
    for columns in range(min(most, len(labels)), 0, -1):
        legend = figure.legend(
            handles, labels, loc="outside lower center", ncols=columns, **options
        )
        if columns == 1 or legend.get_window_extent().width < 0.98 * figure.bbox.width:
            break
        legend.remove()
    return legend


# ------------------------------------------------------------------- tradeoffs


@matplotlib.rc_context(STYLE)
def _det_figure(curves, baselines=(), thresholds=None):
    """The figure that ``plot_det`` saves: one line and one EER marker a system, and a
    square where a threshold of it is given."""
    if not curves:
        raise ValueError(
            "no curves to plot: give a mapping of system name to (scores, labels)"
        )
    thresholds = thresholds or {}
    for what, names in (("baselines", baselines), ("thresholds", thresholds)):
        for name in names:
            if name not in curves:
                raise ValueError(
                    f"{what}={name!r}: must be one of the curves {list(curves)}."
                )
    for threshold in thresholds.values():
        _check_threshold(threshold)
    points = {name: _points(name, *trials) for name, trials in curves.items()}
    framed = {name: found for name, found in points.items() if name not in baselines}
    low, high = _limits((framed or points).values())
    figure = Figure(figsize=(COLUMN, COLUMN), layout="constrained")
    axes = figure.add_subplot(aspect="equal")
    axes.spines[["top", "right"]].set_visible(True)
    axes.axline((0, 0), slope=1, color="0.8", linewidth=0.6, zorder=0)
    ticks = _ticks(low, high)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(_deviate(ticks), [f"{100 * tick:g}" for tick in ticks])
    axes.set(
        xlim=_deviate([low, high]),
        ylim=_deviate([low, high]),
        xlabel="false-alarm rate (%)",
        ylabel="miss rate (%)",
    )
    figure.draw_without_rendering()  # now it is known what lies inside the axes
    styles = line_styles(framed)
    for dashes, name in zip(line_styles(baselines).values(), baselines, strict=True):
        styles[name] = {**dashes, "color": "0.55", "linewidth": 0.8}
    lines, handles = [], []
    for name, (miss, false_alarm, error_rate) in points.items():
        (line,) = axes.plot(_deviate(false_alarm), _deviate(miss), **styles[name])
        lines.append(line)
        seen = name in framed or _crosses(line, axes.get_window_extent())
        beyond = "" if seen else ", beyond the axes"
        handles += axes.plot(
            *[_deviate(np.clip(error_rate, low, high))] * 2,
            marker="o" if name in framed or low <= error_rate <= high else "",
            markersize=4 if name in framed else 2.5,
            label=f"{name} (EER {100 * error_rate:.2f} %{beyond})",
            clip_on=False,  # an EER of 0 lies in the corner
            zorder=3,
            **styles[name],  # for the legend entry: line and marker
        )
    at_edge = False
    for name, threshold in thresholds.items():
        scores, labels = curves[name]
        errors = decision_errors(scores, labels, threshold)
        rates = np.array([errors["false_alarm_rate"], errors["miss_rate"]])
        within = np.clip(rates, low, high)
        at_edge = at_edge or bool((within != rates).any())
        axes.plot(
            *_deviate(within),
            marker="s",
            markersize=5,
            markerfacecolor="white",
            markeredgecolor=styles[name]["color"],
            clip_on=False,
            zorder=4,
        )
    if thresholds:
        where = " (at the edge: beyond the axes)" * at_edge
        handles += axes.plot(
            [],
            [],
            marker="s",
            markersize=5,
            markerfacecolor="white",
            markeredgecolor="black",
            linestyle="",
            label=f"decision threshold{where}",
        )
    _add_legend(figure, axes, handles, lines)
    return figure


def _check_threshold(threshold):
    """ValueError where a threshold is not finite."""
    if not math.isfinite(threshold):
        raise ValueError(f"the threshold must be finite, got {threshold!r}")


def _crosses(line, box):
    """Whether a line as drawn crosses a box."""
    path = line.get_transform().transform_path(line.get_path())
    return path.intersects_bbox(box, False)


def _add_legend(figure, axes, handles, lines):
    """A legend in the upper right corner, or below the axes if it would cover a line."""
    legend = axes.legend(handles=handles, loc="upper right", frameon=True)
    legend.set_in_layout(False)  # however wide it is, the axes stay as they are
    box = legend.get_window_extent()
    if any(_crosses(line, box) for line in lines) or box.x0 < axes.get_window_extent().x0:
        legend.remove()
        labels = [handle.get_label() for handle in handles]
        box = legend_below(figure, handles, labels).get_window_extent()
        figure.set_size_inches(COLUMN, COLUMN + box.height / figure.dpi)


def _points(name, scores, labels):
    """Miss and false-alarm rates and the EER of one system; errors name it."""
    try:
        curve = det_curve(scores, labels)
    except ValueError as error:
        raise ValueError(f"cannot plot {name!r}: {error}") from error
    return curve.miss, curve.false_alarm, curve.eer()[0]


def _deviate(rate):
    """Normal deviate of a rate; 0 and 1 lie beyond every axis, not at infinity."""
    return ndtri(np.clip(rate, _OFF_AXES, 1 - _OFF_AXES))


def _limits(points):
    """Lowest and highest rate of both axes.

    The lowest is the smallest rate that the lists resolve, or a twentieth of the best
    EER if that is more, and at most 5 %. The highest, at least 40 %, is where the last
    curve leaves the axes, or as far above the worst EER as the lowest is below it if
    that is less: the axes are not stretched by where a curve is steep.
    """
    best, worst = (
        choice(error_rate for _, _, error_rate in points) for choice in (min, max)
    )
    resolved = min(min(miss[miss > 0].min(), fa[fa > 0].min()) for miss, fa, _ in points)
    low = _RATES[_RATES <= np.clip(max(resolved, best / 20), _RATES[0], 0.05)][-1]
    reach = max(max(fa[miss <= low].min(), miss[fa <= low].min()) for miss, fa, _ in points)
    reach = min(reach, ndtr(2 * _deviate(worst) - _deviate(low)))
    high = _RATES[_RATES >= np.clip(reach, 0.4, _RATES[-1])][0]
    return low, high


def _ticks(low, high):
    """The rates to mark from low to high, thinned where their labels would touch."""
    room = 0.08 * (_deviate(high) - _deviate(low))
    kept = [low]
    for rate in _RATES[(_RATES > low) & (_RATES <= high)]:
        if _deviate(rate) - _deviate(kept[-1]) >= room:
            kept.append(rate)
    return np.array(kept)


# ---------------------------------------------------------------------- scores


@matplotlib.rc_context(STYLE)
def _scores_figure(systems, threshold=None, score_name="score"):
    """The figure that ``plot_scores`` saves: a panel a system."""
    if not systems:
        raise ValueError(
            "no scores to plot: give a mapping of system name to (scores, labels)"
        )
    if threshold is not None:
        _check_threshold(threshold)
    columns = 1 if len(systems) <= 3 else 2
    rows = math.ceil(len(systems) / columns)
    width = COLUMN if columns == 1 else PAGE
    figure = Figure(figsize=(width, 1.6 * rows + 0.8), layout="constrained")
    panels: list[Axes] = []
    for k, (name, trials) in enumerate(systems.items()):
        shared = panels[0] if panels and threshold is not None else None
        axes = figure.add_subplot(rows, columns, k + 1, sharex=shared)
        panels.append(axes)
        _draw_scores(axes, name, trials, threshold)
        if k % columns == 0:
            axes.set_ylabel("density")
        if k + columns >= len(systems):
            axes.set_xlabel(score_name)
    legend_below(figure, *panels[0].get_legend_handles_labels())
    return figure


def _draw_scores(axes, name, trials, threshold):
    """The panel of one system."""
    try:
        scores, is_target = checked_trials(*trials)
    except ValueError as error:
        raise ValueError(f"cannot plot {name!r}: {error}") from error
    for label, chosen, color, dashes in (
        ("impostor trials", scores[~is_target], VERMILLION, "--"),
        ("target trials", scores[is_target], BLUE, "-"),
    ):
        axes.hist(
            chosen,
            _bin_edges(chosen, np.ptp(scores) or 1.0),
            density=True,
            histtype="stepfilled",
            facecolor=(color, 0.25),
            edgecolor=color,
            linestyle=dashes,
            linewidth=0.9,
            label=label,
        )
    error_rate, equal = det_curve(scores, is_target).eer()
    axes.axvline(equal, color="0.4", linestyle=":", label="threshold of the EER")
    title = [textwrap.fill(name, 55), f"EER {100 * error_rate:.2f} % at {equal:.3g}"]
    if threshold is not None:
        errors = decision_errors(scores, is_target, threshold)
        axes.axvline(threshold, color="black", linewidth=1.0, label="decision threshold")
        title.append(
            f"decision at {threshold:.3g}: {100 * errors['miss_rate']:.2f} % misses, "
            f"{100 * errors['false_alarm_rate']:.2f} % false alarms"
        )
    axes.set_title("\n".join(title))
    axes.set_yticks([])
    axes.grid(False)
    axes.spines["left"].set_visible(False)


def _bin_edges(scores, scale):
    """Edges of 2 N^(1/3) bins (Rice's rule), no narrower than 0.5 % of the scale."""
    spread = np.ptp(scores)
    width = max(spread / (2 * len(scores) ** (1 / 3)), 0.005 * scale)
    bins = int(spread / width) + 1
    return (scores.min() + scores.max()) / 2 + width * (np.arange(bins + 1) - bins / 2)
