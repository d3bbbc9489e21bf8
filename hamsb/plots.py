"""Figures for papers and reports; the only module that imports matplotlib."""

import numpy as np
from matplotlib.figure import Figure
from scipy.special import ndtri

from hamsb.files import replacing
from hamsb.metrics import det_curve, eer

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
    names each system and its EER, marked on its curve.

    Arguments
    ---------
    curves : mapping of str to (scores, labels)
        For each system, in drawing order, what ``hamsb.metrics.det_curve`` takes.
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
    figure = _det_figure(curves)
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=200)


def _det_figure(curves):
    """The figure that ``plot_det`` saves: one line and one EER marker a system."""
    if not curves:
        raise ValueError(
            "no curves to plot: give a mapping of system name to (scores, labels)"
        )
    points = {name: _points(name, *trials) for name, trials in curves.items()}
    low, high = _limits(points.values())
    figure = Figure(figsize=(4.6, 4.6), layout="constrained")
    axes = figure.add_subplot(aspect="equal")
    axes.axline((0, 0), slope=1, color="0.8", linewidth=0.8, zorder=0)
    for name, (miss, false_alarm, error_rate) in points.items():
        (line,) = axes.plot(_deviate(false_alarm), _deviate(miss), linewidth=1.4)
        axes.plot(
            *[_deviate(np.clip(error_rate, low, high))] * 2,
            marker="o",
            markersize=5,
            linewidth=line.get_linewidth(),  # for the legend entry: line and marker
            color=line.get_color(),
            label=f"{name}  (EER {100 * error_rate:.2f} %)",
            clip_on=False,  # an EER of 0 lies in the corner
            zorder=3,
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
    axes.legend(loc="upper right", fontsize="small", framealpha=0.95)
    return figure


def _points(name, scores, labels):
    """Miss and false-alarm rates and the EER of one system; errors name it."""
    try:
        _, miss, false_alarm = det_curve(scores, labels)
        return miss, false_alarm, eer(scores, labels)[0]
    except ValueError as error:
        raise ValueError(f"cannot plot {name!r}: {error}") from error


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
