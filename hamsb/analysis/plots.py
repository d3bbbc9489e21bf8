"""Figures of learning curves, clusterings, points in a ball and their lengths."""

import math
import os
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from hamsb.analysis.planes import in_unit_ball, nearest_in_plane, plane_of_classes
from hamsb.utils.checks import check_choice, check_positive
from hamsb.utils.packages import optional
from hamsb.verification.plots import (
    BLUE,
    COLORS,
    COLUMN,
    PAGE,
    SMALL,
    STYLE,
    VERMILLION,
    legend_below,
    line_styles,
    save_figure,
)

with optional("plots"):
    import matplotlib
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import (
        FuncFormatter,
        LogLocator,
        MaxNLocator,
        NullFormatter,
        NullLocator,
    )

_MOST = 8  # systems in a panel, and speakers with a color of their own
_MARKERS = "osD^vP*X"
# Steps between circles of the disk.
_STEPS = [mantissa * 10.0**power for power in range(-4, 4) for mantissa in (1, 2, 5)]


def plot_curves(
    panels: Mapping[str, Mapping[str, ArrayLike]], path: str | os.PathLike
) -> None:
    """Save learning curves, one panel above the other, as a PNG.

    A system is a line, the mean over its seeds, and a band from the lowest to the
    highest seed. More than eight systems are shared out, in their order, over groups of
    panels with equal axes; in the panels of a group, the means of all other systems are
    thin and gray. The vertical axes are logarithmic, unless a value is not positive.

    Arguments
    ---------
    panels : mapping of str to mapping of str to array of float
        Label of the vertical axis -> name of the system -> values [S, E] of its S seeds
        after each of E epochs; the systems may differ in S and E.
    path : str or Path
        PNG file to write, whole or not at all; its folder is made if need be.

    Raises
    ------
    ValueError
        No panels, a panel without systems, or values that are not [S, E], S and E at
        least 1; names the panel and the system.

    Example
    -------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     losses = {"AM": [[9.0, 4.0, 2.0], [8.0, 3.0, 1.0]], "HAM": [[8.0, 2.0, 0.5]]}
    ...     plot_curves({"training loss": losses}, f"{folder}/curves.png")
    ...     Path(folder, "curves.png").read_bytes()[1:4]
    b'PNG'
    """
    save_figure(_curves_figure(panels), path)


def plot_disk(
    points: ArrayLike,
    labels: Sequence[str] | Sequence[int],
    path: str | os.PathLike,
    curvature: float = 1.0,
    centers: ArrayLike | None = None,
    points_name: str = "test points",
    centers_name: str = "training centers",
) -> None:
    """Save points of a ball of any dimension, drawn in the Poincare disk, as a PNG.

    The disk is the plane through the origin in which the mean points of the speakers
    shown vary most. Each point is drawn where the plane is nearest to it: no two points
    are closer together than drawn, and what is perpendicular to the plane falls on the
    origin. The figure says what share of the variance between these speakers the plane
    carries, and how far from the origin the points truly are, which a projection
    shortens. Circles measure the hyperbolic distance from the origin; the figure ends
    where the points do, before the rim of the disk if they do.

    The eight speakers with the most points, of equal ones the first, are those shown:
    they have a color and a marker each. All other points are gray.

    Arguments
    ---------
    points : array of float
        [N, D], N >= 1, D >= 2: inside the ball, ``sqrt(c) |x| <= 1``.
    labels : sequence of str or int
        [N], the speaker of each point.
    path : str or Path
        PNG file to write, whole or not at all; its folder is made if need be.
    curvature : float
        c > 0 of the ball's metric, whose curvature is ``-c``: 1 for
        ``hamsb.nnet.balls.ClippedUnitBall``, whatever its clip.
    centers : array of float, optional
        [C, D], speaker centers in the same ball, drawn as small crosses.
    points_name, centers_name : str
        What the legend calls them.

    Raises
    ------
    ValueError
        Arrays of other shapes, points that are not finite or outside the ball, a
        curvature that is not positive and finite.

    Example
    -------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     points = [[0.5, 0.1, 0.0], [0.6, 0.0, 0.1], [-0.2, 0.3, 0.7]]
    ...     plot_disk(points, ["id1", "id1", "id2"], f"{folder}/disk.png")
    ...     Path(folder, "disk.png").read_bytes()[1:4]
    b'PNG'
    """
    figure = _disk_figure(points, labels, curvature, centers, points_name, centers_name)
    save_figure(figure, path)


def plot_cluster_quality(
    k: Sequence[int],
    measures: Mapping[str, tuple[str, ArrayLike]],
    path: str | os.PathLike,
) -> None:
    """Save measures of clusterings over their numbers of clusters as a PNG.

    A small panel a measure, with an arrow to its better end; the best number of
    clusters by it is ringed. The axis of the numbers is logarithmic. What is not finite
    is left out.

    Arguments
    ---------
    k : sequence of int
        [K] different numbers of clusters, in any order.
    measures : mapping of str to (str, array of float)
        Name -> ("lower" or "higher", which is better; values [K]).
    path : str or Path
        PNG file to write, whole or not at all; its folder is made if need be.

    Raises
    ------
    ValueError
        No measures, numbers of clusters that are not positive and different, another
        better end, or values that are not [K] (names the measure).

    Example
    -------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     measures = {"silhouette": ("higher", [0.1, 0.3, 0.2])}
    ...     plot_cluster_quality([10, 20, 50], measures, f"{folder}/quality.png")
    ...     Path(folder, "quality.png").read_bytes()[1:4]
    b'PNG'
    """
    save_figure(_quality_figure(k, measures), path)


def plot_boxes(
    panels: Mapping[str, Mapping[str, Mapping[str, ArrayLike]]],
    label: str,
    path: str | os.PathLike,
) -> None:
    """Save the distributions of values under several conditions as a PNG: a panel for
    each kind of condition, in it boxes from quartile to quartile with the median, and
    whiskers from 5 to 95 %.

    Arguments
    ---------
    panels : mapping of str to mapping of str to mapping of str to array of float
        What varies -> the condition -> the series -> values [N]. The series, told apart
        by color and hatching, are the same everywhere.
    label : str
        Of the vertical axis, which the panels share and which begins at 0.
    path : str or Path
        PNG file to write, whole or not at all; its folder is made if need be.

    Raises
    ------
    ValueError
        No panels, a panel without conditions, a series that is empty or not finite;
        names them.

    Example
    -------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     norms = {"1 s": {"norm": [1.0, 2.0]}, "2 s": {"norm": [3.0, 4.0]}}
    ...     plot_boxes({"duration": norms}, "length", f"{folder}/boxes.png")
    ...     Path(folder, "boxes.png").read_bytes()[1:4]
    b'PNG'
    """
    save_figure(_boxes_figure(panels, label), path)


# --------------------------------------------------------------- learning curves


@matplotlib.rc_context(STYLE)
def _curves_figure(panels):
    """The figure that ``plot_curves`` saves: a block of panels for each group."""
    if not panels:
        raise ValueError("no panels to plot: give a mapping of label to systems")
    panels = {
        label: {
            name: _seeds_and_epochs(label, name, values) for name, values in systems.items()
        }
        for label, systems in panels.items()
    }
    for label, systems in panels.items():
        if not systems:
            raise ValueError(f"cannot plot {label!r}: no systems")
    names = list(dict.fromkeys(name for systems in panels.values() for name in systems))
    groups = np.array_split(names, -(-len(names) // _MOST))
    columns = min(2, len(groups))
    rows = -(-len(groups) // columns)
    height = 1.75 * len(panels) + 0.3 + 0.16 * math.ceil(len(groups[0]) / 2)
    figure = Figure(
        figsize=(COLUMN if columns == 1 else PAGE, rows * height + 0.2),
        layout="constrained",
    )
    blocks = figure.subfigures(rows, columns, squeeze=False).flat
    first = None
    for block, group in zip(blocks, groups, strict=False):
        places = block.subplots(len(panels), 1, squeeze=False)[:, 0]
        first = places if first is None else first
        lines: dict[str, Artist] = {}
        for axes, above, (label, systems) in zip(
            places, first, panels.items(), strict=True
        ):
            if axes is not first[0]:
                axes.sharex(first[0])
            if axes is not above:
                axes.sharey(above)
            lines |= _draw_curves(axes, systems, line_styles(group))
            axes.set_ylabel(label)
            axes.tick_params(labelbottom=axes is places[-1])
        places[-1].set_xlabel("epoch")
        places[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        missing = len(groups[0]) - len(group)  # equal legends leave equal panels
        lines |= {" " * k: Line2D([], [], alpha=0) for k in range(1, missing + 1)}
        most = 4 if len(groups) == 1 else 2
        legend_below(block, list(lines.values()), list(lines), most=most)
    seeds = max(len(values) for systems in panels.values() for values in systems.values())
    notes = ["line: mean over seeds, band: lowest to highest"] * (seeds > 1)
    notes += ["gray: the other systems"] * (len(groups) > 1)
    if notes:
        figure.suptitle("; ".join(notes), fontsize=SMALL)
    return figure


def _draw_curves(axes, systems, styles):
    """The panel of one measure: the systems that have a style, the others in gray.
    Their lines by name."""
    lines = {}
    for name, values in systems.items():
        epochs = np.arange(1, values.shape[1] + 1)
        marker = "." if len(epochs) == 1 else None
        if name not in styles:
            axes.plot(epochs, values.mean(0), color="0.8", linewidth=0.5, zorder=1)
            continue
        if len(values) > 1:
            color = styles[name]["color"]
            ends = values.min(0), values.max(0)
            axes.fill_between(epochs, *ends, color=color, alpha=0.15, linewidth=0)
        (lines[name],) = axes.plot(
            epochs, values.mean(0), marker=marker, zorder=3, **styles[name]
        )
    if all((values > 0).all() for values in systems.values()):
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        axes.yaxis.set_major_locator(  # within a decade evenly, for enough labels
            LogLocator(subs=(1, 2, 5)) if high > 10 * low else MaxNLocator(6)
        )
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    return lines


def _seeds_and_epochs(label, name, values):
    """Values as [S, E], or a ValueError that names panel and system."""
    try:
        values = np.asarray(values, dtype=np.float64)
    except ValueError as error:  # seeds of different lengths
        raise ValueError(f"cannot plot {label!r} of {name!r}: {error}") from error
    if values.ndim != 2 or not values.size:
        raise ValueError(
            f"cannot plot {label!r} of {name!r}: expected [seeds, epochs], "
            f"got shape {values.shape}"
        )
    return values


# ---------------------------------------------------------------------- the disk


@matplotlib.rc_context(STYLE)
def _disk_figure(
    points,
    labels,
    curvature=1.0,
    centers=None,
    points_name="test points",
    centers_name="training centers",
):
    """The figure that ``plot_disk`` saves."""
    check_positive("curvature", curvature)
    points = in_unit_ball(points, curvature)
    labels = np.asarray(labels)
    if labels.shape != points.shape[:1]:
        raise ValueError(f"{len(points)} points need as many labels, got {labels.shape}")
    if centers is not None:
        centers = in_unit_ball(centers, curvature, "centers")
        if centers.shape[1] != points.shape[1]:
            raise ValueError(
                f"centers of {centers.shape[1]} dimensions, points of {points.shape[1]}"
            )
    names, first, counts = np.unique(labels, return_index=True, return_counts=True)
    chosen = names[np.lexsort((first, -counts))][:_MOST]
    others = ~np.isin(labels, chosen)
    plane, share = plane_of_classes(points[~others], labels[~others])
    drawn = nearest_in_plane(points, plane)
    figure = Figure(figsize=(COLUMN, COLUMN), layout="constrained")
    axes = figure.add_subplot(aspect="equal")
    axes.set_axis_off()
    for name, color, marker in zip(chosen, COLORS, _MARKERS, strict=False):
        axes.plot(
            *drawn[labels == name].T,
            marker,
            color=color,
            markersize=4,
            markeredgecolor="white",
            markeredgewidth=0.3,
            label=str(name),
            zorder=4,
        )
    if others.any():
        name = f"{len(names) - len(chosen)} other speakers"
        axes.plot(*drawn[others].T, ".", color="0.75", markersize=3, label=name, zorder=2)
    reach = np.linalg.norm(drawn, axis=1).max()
    if centers is not None:
        at = nearest_in_plane(centers, plane)
        reach = max(reach, np.linalg.norm(at, axis=1).max())
        axes.plot(
            *at.T,
            "x",
            color="0.45",
            markersize=3,
            markeredgewidth=0.5,
            label=f"{len(centers)} {centers_name}",
            zorder=1.5,
        )
    _draw_circles(axes, curvature, min(1.02, 1.06 * max(reach, 1e-3)))
    lengths = np.minimum(np.linalg.norm(points, axis=1), 1 - 1e-12)
    ends = 2 * np.arctanh(np.quantile(lengths, [0.05, 0.95])) / math.sqrt(curvature)
    low, high = (f"{end:.3g}" for end in ends)
    true = low if low == high else f"{low} to {high} (5 to 95 %)"
    figure.suptitle(
        f"plane with {100 * share:.0f} % of the variance between the speakers shown\n"
        "circles: hyperbolic distance from the origin in the plane\n"
        f"true distance from the origin: {true}",
        fontsize=SMALL,
    )
    handles, texts = axes.get_legend_handles_labels()
    title = f"{points_name}, by speaker"
    legend = legend_below(figure, handles, texts, title=title, handlelength=1.0)
    height = legend.get_window_extent().height / figure.dpi
    figure.set_size_inches(COLUMN, COLUMN + 0.4 + height)
    return figure


def _draw_circles(axes, curvature, limit):
    """The axes up to a limit, the rim, and circles at round hyperbolic radii."""
    root = math.sqrt(curvature)
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit))
    angles = np.linspace(0, 2 * np.pi, 361)
    circle = np.stack([np.cos(angles), np.sin(angles)])
    if limit > 1:
        axes.plot(*circle, color="0.2", linewidth=0.8, zorder=1)
    farthest = min(limit, 0.97)  # beyond it, a label would lie on the rim
    most = 2 * math.atanh(farthest) / root
    step = min(_STEPS, key=lambda step: abs(math.log(3.5 * step / most)))
    for radius in step * np.arange(1, math.floor(most / step) + 1):
        drawn = math.tanh(root * radius / 2)
        axes.plot(*(drawn * circle), color="0.85", linewidth=0.6, zorder=1)
        axes.annotate(
            f"{radius:g}",
            (0, -drawn),
            ha="center",
            va="center",
            color="0.4",
            fontsize=6,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
            zorder=5,
        )


# ---------------------------------------------------------------------- clusters


@matplotlib.rc_context(STYLE)
def _quality_figure(k, measures):
    """The figure that ``plot_cluster_quality`` saves: two panels a row."""
    if not measures:
        raise ValueError("no measures to plot: give a mapping of name to (end, values)")
    k = np.asarray(k)
    if k.ndim != 1 or not k.size or k.min() < 1 or len(np.unique(k)) < len(k):
        raise ValueError(f"numbers of clusters: positive, each once, got {k.tolist()}")
    order = np.argsort(k)
    columns = min(2, len(measures))
    rows = math.ceil(len(measures) / columns)
    figure = Figure(figsize=(COLUMN, 1.35 * rows + 0.45), layout="constrained")
    for place, (name, (better, values)) in enumerate(measures.items(), start=1):
        check_choice(f"better end of {name!r}", better, ("lower", "higher"))
        values = np.asarray(values, dtype=np.float64)
        if values.shape != k.shape:
            raise ValueError(
                f"cannot plot {name!r}: expected {len(k)} values, got shape {values.shape}"
            )
        axes = figure.add_subplot(rows, columns, place)
        _draw_quality(axes, k[order], values[order], better)
        axes.set_title(f"{name} {'↓' if better == 'lower' else '↑'}")
    figure.supxlabel(
        "number of clusters\n↓ lower is better, ↑ higher is better; ringed: the best",
        fontsize=SMALL,
    )
    return figure


def _draw_quality(axes, k, values, better):
    """The panel of one measure."""
    values = np.where(np.isfinite(values), values, np.nan)
    axes.plot(k, values, color=BLUE, marker="o", markersize=2.5)
    wanted = [k[0], k[-1], *k]
    if np.isfinite(values).any():
        best = (np.nanargmin if better == "lower" else np.nanargmax)(values)
        ring = {"marker": "o", "markersize": 7, "markerfacecolor": "none"}
        axes.plot(k[best], values[best], color=VERMILLION, clip_on=False, **ring)
        wanted.insert(0, k[best])
    axes.set_xscale("log")
    kept: list[int] = []  # labels that would touch are left out
    for number in map(int, wanted):
        room = 0.19 * math.log(k[-1] / k[0])
        if all(abs(math.log(number / other)) >= max(room, 1e-9) for other in kept):
            kept.append(number)
    axes.xaxis.set_ticks(kept, list(map(str, kept)))
    axes.xaxis.set_ticks(k, minor=True)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.margins(x=0.08, y=0.15)


# ------------------------------------------------------------------------ boxes


@matplotlib.rc_context(STYLE)
def _boxes_figure(panels, label):
    """The figure that ``plot_boxes`` saves: one panel above the other."""
    if not panels:
        raise ValueError("no panels to draw.")
    figure = Figure(figsize=(COLUMN, 1.7 * len(panels) + 0.4), layout="constrained")
    places = figure.subplots(len(panels), 1, sharey=True, squeeze=False)[:, 0]
    for axes, (varies, conditions) in zip(places, panels.items(), strict=True):
        if not conditions:
            raise ValueError(f"{varies}: no conditions to draw.")
        _draw_boxes(axes, varies, conditions)
        axes.set_xlabel(varies)
    figure.supylabel(label, fontsize="medium")
    figure.suptitle("box: quartiles; line: median; whiskers: 5 to 95 %", fontsize=SMALL)
    places[0].set_ylim(bottom=0)
    legend_below(figure, *places[0].get_legend_handles_labels())
    return figure


def _draw_boxes(axes, varies, conditions):
    """The boxes of one panel, the series of a condition side by side."""
    places = np.arange(len(conditions))
    names = list(next(iter(conditions.values())))
    for number, name in enumerate(names):
        columns = [np.asarray(series[name], dtype=float) for series in conditions.values()]
        for condition, values in zip(conditions, columns, strict=True):
            if values.size == 0 or not np.isfinite(values).all():
                raise ValueError(f"{varies}, {condition}, {name}: no or no finite values.")
        color = COLORS[number % len(COLORS)]
        line = {"color": color, "linewidth": 0.8}
        drawn = axes.boxplot(
            columns,
            positions=places + 0.8 * ((number + 0.5) / len(names) - 0.5),
            widths=0.64 / len(names),
            whis=(5, 95),
            showfliers=False,
            patch_artist=True,
            boxprops={
                "facecolor": (color, 0.15),
                "edgecolor": color,
                "linewidth": 0.8,
                "hatch": "////" * (number % 2),
            },
            whiskerprops=line,
            capprops=line,
            medianprops={"color": color, "linewidth": 1.8},
        )
        drawn["boxes"][0].set_label(name)
    axes.set_xticks(places, list(conditions))
    axes.grid(False, axis="x")
