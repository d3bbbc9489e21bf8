"""Figures of what embeddings hold and of how they were learned."""

import math

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from hamsb.verification.plots import COLORS, WIDTH, line_styles, save_figure

_BEST = "#d55e00"  # the ring around the best
# Of single speakers, without gray; and steps between circles of the disk.
_SPEAKER_STYLES = list(zip([f"C{k}" for k in (0, 1, 2, 3, 4, 5, 6, 9)], "osD^vP*X"))
_STEPS = [mantissa * 10.0**power for power in range(-3, 4) for mantissa in (1, 2, 5)]


def plot_curves(panels, path):
    """Save learning curves, one panel beside the other, as a PNG.

    Each system has one color in all panels: a line for the mean over its seeds and,
    where it has several, a thin one for each seed. From the eleventh system on lines are
    broken. The vertical axes are logarithmic, unless a value is not positive.

    Arguments
    ---------
    panels : mapping of str to mapping of str to array of float
        Label of the vertical axis -> name of the system -> values [S, E] of its S seeds
        after each of E epochs; the systems may differ in S and E.
    path : str or Path
        PNG file to write; it appears under its name only when it is complete, and its
        folder is made if need be.

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


def plot_disk(points, labels, path, curvature=1.0, centers=None):
    """Save points of a ball of any dimension, drawn in the Poincare disk, as a PNG.

    Radii are true: every point keeps its distance from the origin, which circles of
    constant hyperbolic radius measure. Angles are a projection: a point's direction is
    that of its shadow on the plane through the origin in which the directions of all
    points vary most, and the figure says what share of their variance that plane
    carries. Two points that are drawn close together may be far apart.

    The eight speakers with the most points, of equal ones the first, have a color and a
    marker each; all other points are gray.

    Arguments
    ---------
    points : array of float
        [N, D], N >= 1, D >= 2: inside the ball, ``sqrt(c) |x| <= 1``.
    labels : sequence of str or int
        [N], the speaker of each point.
    path : str or Path
        PNG file to write; it appears under its name only when it is complete, and its
        folder is made if need be.
    curvature : float
        c > 0 of the ball's metric, whose curvature is ``-c``: 1 for
        ``hamsb.nnet.balls.ClippedUnitBall``, whatever its clip.
    centers : array of float, optional
        [C, D], speaker centers in the same ball, drawn as small crosses.

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
    save_figure(_disk_figure(points, labels, curvature, centers), path)


def plot_cluster_quality(k, measures, path):
    """Save measures of clusterings over their numbers of clusters as a PNG.

    A small panel a measure, which tells where its better end is; the best number of
    clusters by it is ringed. The axis of the numbers is logarithmic. What is not finite
    is left out.

    Arguments
    ---------
    k : sequence of int
        [K] different numbers of clusters, in any order.
    measures : mapping of str to (str, array of float)
        Name -> ("lower" or "higher", which is better; values [K]).
    path : str or Path
        PNG file to write; it appears under its name only when it is complete, and its
        folder is made if need be.

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


def plot_boxes(panels, label, path):
    """Save the distributions of values under several conditions as a PNG: a panel for
    each kind of condition, in it boxes from quartile to quartile with the median, and
    whiskers from 5 to 95 %.

    Arguments
    ---------
    panels : mapping of str to mapping of str to mapping of str to array of float
        What varies -> the condition -> the series -> values [N]. The series, told apart
        by color, are the same everywhere.
    label : str
        Of the vertical axis, which the panels share and which begins at 0.
    path : str or Path
        PNG file to write; it appears under its name only when it is complete, and its
        folder is made if need be.

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


def _curves_figure(panels):
    """The figure that ``plot_curves`` saves: panels side by side, one legend below."""
    if not panels:
        raise ValueError("no panels to plot: give a mapping of label to systems")
    names = list(dict.fromkeys(name for systems in panels.values() for name in systems))
    styles = line_styles(names)
    width = 4.6 * len(panels)
    longest = max(map(len, names), default=0)
    columns = max(1, min(len(names), int(width / (0.6 + 0.08 * longest))))  # inches
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(width, 3.8 + 0.2 * rows), layout="constrained")
    places = figure.subplots(1, len(panels), squeeze=False)[0]
    lines = {}
    for axes, (label, systems) in zip(places, panels.items()):
        if not systems:
            raise ValueError(f"cannot plot {label!r}: no systems")
        positive = True
        for name, values in systems.items():
            values = _seeds_and_epochs(label, name, values)
            positive &= bool((values > 0).all())
            epochs = np.arange(1, values.shape[1] + 1)
            marker = "." if len(epochs) == 1 else None
            if len(values) > 1:
                axes.plot(epochs, values.T, linewidth=0.6, alpha=0.35, **styles[name])
            (lines[name],) = axes.plot(
                epochs, values.mean(0), linewidth=1.4, marker=marker, **styles[name]
            )
        if positive:
            axes.set_yscale("log")
            low, high = axes.get_ylim()
            axes.yaxis.set_major_locator(  # within a decade evenly, for enough labels
                LogLocator(subs=(1, 2, 5)) if high > 10 * low else MaxNLocator(6)
            )
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="epoch", ylabel=label)
        axes.tick_params(labelsize="small")
        axes.grid(color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
    figure.legend(
        list(lines.values()), list(lines), loc="outside lower center",
        ncols=columns, fontsize="small", frameon=False,
    )
    return figure


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


def _disk_figure(points, labels, curvature, centers):
    """The figure that ``plot_disk`` saves."""
    if not 0 < curvature < math.inf:
        raise ValueError(f"curvature={curvature}: must be positive and finite")
    points = _inside(points, "points", curvature)
    labels = np.asarray(labels)
    if labels.shape != points.shape[:1]:
        raise ValueError(f"{len(points)} points need as many labels, got {labels.shape}")
    if centers is not None:
        centers = _inside(centers, "centers", curvature)
        if centers.shape[1] != points.shape[1]:
            raise ValueError(
                f"centers of {centers.shape[1]} dimensions, points of {points.shape[1]}"
            )
    plane, share = _widest_plane(_directions(points))
    figure = Figure(figsize=(WIDTH, WIDTH + 0.9), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.08)  # or the title would touch the edge
    axes = figure.add_subplot(aspect="equal")
    axes.set_axis_off()
    axes.set(xlim=(-1.02, 1.02), ylim=(-1.02, 1.02))
    _draw_circles(axes, curvature)
    names, first, counts = np.unique(labels, return_index=True, return_counts=True)
    chosen = names[np.lexsort((first, -counts))][: len(_SPEAKER_STYLES)]
    others = ~np.isin(labels, chosen)
    drawn = math.sqrt(curvature) * _in_plane(points, plane)
    if others.any():
        name = f"{len(names) - len(chosen)} other speakers"
        axes.plot(*drawn[others].T, ".", color="0.75", markersize=4, label=name, zorder=2)
    if centers is not None:
        axes.plot(
            *(math.sqrt(curvature) * _in_plane(centers, plane)).T,
            "x",
            color="0.45",
            markersize=3,
            markeredgewidth=0.5,
            label=f"{len(centers)} centers",
            zorder=3,
        )
    for name, (color, marker) in zip(chosen, _SPEAKER_STYLES):
        axes.plot(
            *drawn[labels == name].T,
            marker,
            color=color,
            markersize=5,
            markeredgecolor="white",
            markeredgewidth=0.4,
            label=str(name),
            zorder=4,
        )
    axes.set_title(
        "radii: true, circles at hyperbolic distances from the origin\n"
        f"angles: on a plane with {100 * share:.0f} % of the directions' variance",
        fontsize="small",
    )
    longest = max(map(len, axes.get_legend_handles_labels()[1]))
    columns = next((n for n, most in ((3, 18), (2, 30)) if longest <= most), 1)
    figure.legend(
        loc="outside lower center", ncols=columns, fontsize="small", frameon=False
    )
    return figure


def _draw_circles(axes, curvature):
    """The rim, and circles at up to four round hyperbolic radii."""
    root = math.sqrt(curvature)
    step = min(_STEPS, key=lambda step: abs(math.log(step * root)))
    angles = np.linspace(0, 2 * np.pi, 361)
    circle = np.stack([np.cos(angles), np.sin(angles)])
    axes.plot(*circle, color="0.2", linewidth=1.0, zorder=1)
    for radius in step * np.arange(1, 5):
        drawn = math.tanh(root * radius / 2)
        if drawn > 0.97:  # its label would lie on the rim
            break
        axes.plot(*(drawn * circle), color="0.85", linewidth=0.6, zorder=1)
        axes.annotate(
            f"{radius:g}",
            (0, -drawn),
            ha="center",
            va="center",
            color="0.4",
            fontsize="x-small",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
            zorder=5,
        )


def _inside(points, name, curvature):
    """Points as float64 [N, D] in the ball; errors name them."""
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or len(points) < 1 or points.shape[1] < 2:
        raise ValueError(f"{name}: expected [N, D] with D >= 2, got shape {points.shape}")
    if not np.isfinite(points).all():
        raise ValueError(f"{name}: not finite")
    reach = math.sqrt(curvature) * np.linalg.norm(points, axis=1)
    if reach.max() > 1 + 1e-6:  # float32 rounds points onto the rim and over it
        raise ValueError(
            f"{name}: number {reach.argmax()} lies outside the ball of curvature "
            f"{-curvature:g}, at {reach.max():g} of its radius; project it first"
        )
    return points


def _directions(points):
    """Each point divided by its length; the origin stays where it is."""
    length = np.linalg.norm(points, axis=1, keepdims=True)
    return points / np.where(length > 0, length, 1.0)


def _widest_plane(directions):
    """Orthonormal axes [D, 2] of the plane in which directions [N, D] vary most, and
    its share of their variance (1 where they do not vary)."""
    centered = directions - directions.mean(0)
    variances, axes = np.linalg.eigh(centered.T @ centered)
    total = variances.sum()
    share = variances[-2:].sum() / total if total > 0 else 1.0
    return axes[:, :-3:-1], share


def _in_plane(points, plane):
    """Points [N, D] at their own distance from the origin, in the direction of their
    projection: [N, 2]. What is perpendicular to the plane is drawn to the right."""
    x, y = (_directions(points) @ plane).T
    angle = np.arctan2(y, x)
    return np.linalg.norm(points, axis=1)[:, None] * np.stack(
        [np.cos(angle), np.sin(angle)], axis=1
    )


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
    figure = Figure(figsize=(3.5 * columns, 2.3 * rows + 0.4), layout="constrained")
    for place, (name, (better, values)) in enumerate(measures.items(), start=1):
        axes = figure.add_subplot(rows, columns, place)
        if better not in ("lower", "higher"):
            raise ValueError(
                f"cannot plot {name!r}: better is lower or higher, not {better!r}"
            )
        values = np.asarray(values, dtype=np.float64)
        if values.shape != k.shape:
            raise ValueError(
                f"cannot plot {name!r}: expected {len(k)} values, got shape {values.shape}"
            )
        _draw_quality(axes, k[order], values[order], better)
        arrow = {"lower": "↓", "higher": "↑"}[better]
        axes.set_title(f"{name} ({better} is better {arrow})", fontsize="small", loc="left")
    figure.supxlabel("number of clusters; ringed: the best", fontsize="small")
    return figure


def _draw_quality(axes, k, values, better):
    """The panel of one measure."""
    values = np.where(np.isfinite(values), values, np.nan)
    axes.plot(k, values, marker="o", markersize=3.5, linewidth=1.4)
    if np.isfinite(values).any():
        best = (np.nanargmin if better == "lower" else np.nanargmax)(values)
        ring = {"marker": "o", "markersize": 10, "markerfacecolor": "none"}
        axes.plot(k[best], values[best], color=_BEST, clip_on=False, **ring)
    axes.set_xscale("log")
    kept = k[:1].tolist()
    for number in k[1:].tolist():  # labels that would touch are left out
        if math.log(number / kept[-1]) >= 0.12 * math.log(k[-1] / k[0]):
            kept.append(number)
    axes.xaxis.set_ticks(kept, list(map(str, kept)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.margins(x=0.08, y=0.15)
    axes.tick_params(labelsize="small")
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)


def _boxes_figure(panels, label):
    """The figure that ``plot_boxes`` saves."""
    if not panels:
        raise ValueError("no panels to draw.")
    figure = Figure(figsize=(3.5 * len(panels), 3.4), layout="constrained")
    axes_of = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (varies, conditions) in zip(axes_of, panels.items()):
        if not conditions:
            raise ValueError(f"{varies}: no conditions to draw.")
        _draw_boxes(axes, varies, conditions)
        axes.set_xlabel(varies)
    axes_of[0].set_ylabel(label)
    axes_of[0].set_ylim(bottom=0)
    handles = axes_of[0].get_legend_handles_labels()[0]
    figure.legend(
        handles=handles, loc="outside upper center", ncols=len(handles), frameon=False,
        fontsize="small",
    )
    return figure


def _draw_boxes(axes, varies, conditions):
    places = np.arange(len(conditions))
    names = list(next(iter(conditions.values())))
    for number, name in enumerate(names):
        columns = [np.asarray(series[name], dtype=float) for series in conditions.values()]
        for condition, values in zip(conditions, columns):
            if values.size == 0 or not np.isfinite(values).all():
                raise ValueError(f"{varies}, {condition}, {name}: no or no finite values.")
        color = COLORS[number % len(COLORS)]
        drawn = axes.boxplot(
            columns,
            positions=places + 0.8 * ((number + 0.5) / len(names) - 0.5),
            widths=0.64 / len(names),
            whis=(5, 95),
            showfliers=False,
            patch_artist=True,
            boxprops={"facecolor": "white", "edgecolor": color},
            whiskerprops={"color": color},
            capprops={"color": color},
            medianprops={"color": color, "linewidth": 2.0},
        )
        drawn["boxes"][0].set_label(name)
    axes.set_xticks(places, list(conditions))
    axes.tick_params(labelsize="small")
    axes.grid(axis="y", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
