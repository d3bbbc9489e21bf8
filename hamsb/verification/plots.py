"""Figures of trials, and what all figures share. With hamsb.analysis.plots, the only
modules that import matplotlib."""

import math
import textwrap
from itertools import cycle, product

import numpy as np
from matplotlib.figure import Figure
from scipy.special import ndtri

from hamsb.utils.files import replacing
from hamsb.verification.metrics import checked_trials, det_curve

WIDTH = 4.6  # of a figure of one column, in inches
COLORS = [f"C{k}" for k in range(10)]
_DASHES = ["-", "--", ":", "-."]  # the next for every ten systems
_TARGETS, _IMPOSTORS = "#0072b2", "#d55e00"  # told apart by everybody
# Rates that an axis may be marked at and end at.
_RATES = (
    np.array(
        [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 40, 60, 80, 90, 95, 98, 99]
    )
    / 100
)
_OFF_AXES = 1e-9  # a rate of 0 or 1 is drawn here, beyond every axis


def plot_det(curves, path):
    """Save the detection error tradeoff of one or more systems as a PNG.

    The axes are normal deviates [1]_: Gaussian scores give straight lines. The legend
    names each system and its EER, marked on its curve; it stands below the axes where
    it would cover a curve.

    Arguments
    ---------
    curves : mapping of str to (scores, labels)
        For each system, in drawing order, what ``hamsb.verification.metrics.det_curve`` takes.
    path : str or Path
        PNG file to write; it appears under its name only when it is complete, and its
        folder is made if need be.

    Raises
    ------
    ValueError
        No curves, or trials that ``det_curve`` refuses; names the system.

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
    save_figure(_det_figure(curves), path)


def plot_scores(systems, path, threshold=None):
    """Save the distributions of target and impostor scores as a PNG.

    A panel for each system (or list): histograms of the scores of either class, each of
    unit area, and a decision threshold with what it costs. The panels share the axis of
    scores where they share the threshold; two systems' scores need not have one scale.

    Arguments
    ---------
    systems : mapping of str to (scores, labels)
        For each system, in drawing order, what ``hamsb.verification.metrics.det_curve`` takes.
    path : str or Path
        PNG file to write; it appears under its name only when it is complete, and its
        folder is made if need be.
    threshold : float, optional
        The decision threshold that is marked in every panel, with its miss and
        false-alarm rates. Without, each panel marks the threshold of its EER.

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
    ...     plot_scores({"cosine": trials}, f"{folder}/scores.png", threshold=0.45)
    ...     Path(folder, "scores.png").read_bytes()[1:4]
    b'PNG'
    """
    save_figure(_scores_figure(systems, threshold), path)


def save_figure(figure, path):
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=200)


def line_styles(names):
    """Name -> color and dashes of its line."""
    return {
        name: {"color": color, "linestyle": dash}
        for name, (dash, color) in zip(names, cycle(product(_DASHES, COLORS)))
    }


def _det_figure(curves):
    """The figure that ``plot_det`` saves: one line and one EER marker a system."""
    if not curves:
        raise ValueError(
            "no curves to plot: give a mapping of system name to (scores, labels)"
        )
    points = {name: _points(name, *trials) for name, trials in curves.items()}
    low, high = _limits(points.values())
    figure = Figure(figsize=(WIDTH, WIDTH), layout="constrained")
    axes = figure.add_subplot(aspect="equal")
    axes.axline((0, 0), slope=1, color="0.8", linewidth=0.8, zorder=0)
    styles = line_styles(points)
    lines = []
    for name, (miss, false_alarm, error_rate) in points.items():
        style = {**styles[name], "linewidth": 1.4}
        lines += axes.plot(_deviate(false_alarm), _deviate(miss), **style)
        axes.plot(
            *[_deviate(np.clip(error_rate, low, high))] * 2,
            marker="o",
            markersize=5,
            label=f"{name}  (EER {100 * error_rate:.2f} %)",
            clip_on=False,  # an EER of 0 lies in the corner
            zorder=3,
            **style,  # for the legend entry: line and marker
        )
    ticks = _ticks(low, high)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(
            _deviate(ticks), [f"{100 * tick:g}" for tick in ticks], fontsize="small"
        )
    axes.set(
        xlim=_deviate([low, high]),
        ylim=_deviate([low, high]),
        xlabel="false-alarm rate (%)",
        ylabel="miss rate (%)",
    )
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    _add_legend(figure, axes, lines)
    return figure


def _add_legend(figure, axes, lines):
    """A legend in the upper right corner, or below the axes if it would cover a line."""
    legend = axes.legend(loc="upper right", fontsize="small", framealpha=0.95)
    legend.set_in_layout(False)  # however wide it is, the axes stay as they are
    figure.draw_without_rendering()
    box = legend.get_window_extent()
    covered = any(
        line.get_transform().transform_path(line.get_path()).intersects_bbox(box, False)
        for line in lines
    )
    if covered or box.x0 < axes.get_window_extent().x0:
        legend.remove()
        width, height = box.width / figure.dpi, box.height / figure.dpi
        figure.set_size_inches(max(WIDTH, width + 0.1), WIDTH + height)
        figure.legend(loc="outside lower center", fontsize="small", frameon=False)


def _scores_figure(systems, threshold):
    """The figure that ``plot_scores`` saves: a panel a system."""
    if not systems:
        raise ValueError(
            "no scores to plot: give a mapping of system name to (scores, labels)"
        )
    if threshold is not None and not math.isfinite(threshold):
        raise ValueError(f"the threshold must be finite, got {threshold!r}")
    columns = 1 if len(systems) <= 3 else 2
    rows = math.ceil(len(systems) / columns)
    width = WIDTH if columns == 1 else 7.0
    figure = Figure(figsize=(width, 1.7 * rows + 0.8), layout="constrained")
    first = None
    for k, (name, trials) in enumerate(systems.items()):
        axes = figure.add_subplot(
            rows, columns, k + 1, sharex=None if threshold is None else first
        )
        first = first or axes
        _draw_scores(axes, name, trials, threshold)
        if k % columns == 0:
            axes.set_ylabel("density")
    figure.supxlabel("score", fontsize="medium")
    figure.legend(
        handles=first.get_legend_handles_labels()[0],
        loc="outside upper center",
        ncols=3,
        fontsize="small",
        frameon=False,
    )
    return figure


def _draw_scores(axes, name, trials, threshold):
    """The panel of one system."""
    try:
        scores, is_target = checked_trials(*trials)
    except ValueError as error:
        raise ValueError(f"cannot plot {name!r}: {error}") from error
    if threshold is None:
        value, threshold = det_curve(scores, is_target).eer()
        marked, cost = "EER threshold", f"EER {100 * value:.2f} %"
    else:
        accept = scores >= threshold
        miss, false_alarm = np.mean(~accept[is_target]), np.mean(accept[~is_target])
        marked = "decision threshold"
        cost = f"miss {100 * miss:.2f} %, false alarm {100 * false_alarm:.2f} %"
    for label, chosen, color in (
        ("impostor trials", scores[~is_target], _IMPOSTORS),
        ("target trials", scores[is_target], _TARGETS),
    ):
        axes.hist(
            chosen,
            _bin_edges(chosen, np.ptp(scores) or 1.0),
            density=True,
            histtype="stepfilled",
            facecolor=(color, 0.3),
            edgecolor=color,
            linewidth=1.0,
            label=label,
        )
    axes.axvline(threshold, color="0.2", linewidth=1.0, linestyle="--", label=marked)
    title = f"{textwrap.fill(name, 48)}\n{cost} at {threshold:.3g}"
    axes.set_title(title, fontsize="small", loc="left")
    axes.tick_params(labelsize="small")
    axes.set_yticks([])
    axes.spines[["top", "right", "left"]].set_visible(False)


def _bin_edges(scores, scale):
    """Edges of 2 N^(1/3) bins (Rice's rule), no narrower than 0.5 % of the scale."""
    spread = np.ptp(scores)
    width = max(spread / (2 * len(scores) ** (1 / 3)), 0.005 * scale)
    bins = int(spread / width) + 1
    return (scores.min() + scores.max()) / 2 + width * (np.arange(bins + 1) - bins / 2)


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
    EER if that is more, and at most 5 %; the highest, at least 40 %, is where the last
    curve leaves the axes.
    """
    best = min(error_rate for _, _, error_rate in points)
    resolved = min(
        min(miss[miss > 0].min(), fa[fa > 0].min()) for miss, fa, _ in points
    )
    low = _RATES[_RATES <= np.clip(max(resolved, best / 20), _RATES[0], 0.05)][-1]
    reach = max(
        max(fa[miss <= low].min(), miss[fa <= low].min()) for miss, fa, _ in points
    )
    high = _RATES[_RATES >= np.clip(reach, 0.4, _RATES[-1])][0]
    return low, high


def _ticks(low, high):
    """The rates to mark from low to high, thinned where their labels would touch."""
    room = 0.065 * (_deviate(high) - _deviate(low))
    kept = [low]
    for rate in _RATES[(_RATES > low) & (_RATES <= high)]:
        if _deviate(rate) - _deviate(kept[-1]) >= room:
            kept.append(rate)
    return np.array(kept)
