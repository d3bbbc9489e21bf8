"""Figures of a hierarchy: a dendrogram, a tree in the Poincare disk, distances by level,
and how much of a tree systems hold, against their error rates."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.cluster.hierarchy import dendrogram

from hamsb.analysis.disk import edges, geodesic
from hamsb.analysis.distance_tree import DistanceTree, level_codes
from hamsb.utils.packages import optional
from hamsb.verification.plots import (
    BLUE,
    BRIGHT,
    COLUMN,
    PAGE,
    SMALL,
    STYLE,
    legend_below,
    save_figure,
)

with optional("plots"):
    import matplotlib
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

_MARKERS = "osD^vP*X"
_GRAYS = ["0.90", "0.15", "0.62", "0.40", "0.76"]  # neighbors in a legend differ most
_OTHER, _LACKING = "0.8", "white"
_LEGEND: dict[str, Any] = {"most": 6, "handlelength": 1.0}


def plot_tree(
    distances: ArrayLike,
    paths: ArrayLike,
    names: Sequence[str],
    path: str | os.PathLike,
    label: str = "distance",
) -> None:
    """Save the dendrogram of speakers as a PNG, with the groups that they are of below.

    Branches have the color of the first level where all below them are of one group, and
    else are gray. A first band has the first level in the same colors, a second one the
    second level in grays. Of a level with more groups than colors the largest have one.

    Arguments
    ---------
    distances : array
        [S, S], of the speakers.
    paths : array
        [S, levels], of str, root first; the first two are drawn.
    names : sequence of str
        Of the levels.
    path : str or Path
        PNG file to write, whole or not at all; its folder is made if need be.
    label : str
        Of the distances.

    Example
    -------
    >>> import tempfile
    >>> from pathlib import Path
    >>> points = np.array([0.0, 1.0, 5.0, 7.0])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     groups = [["f"], ["f"], ["m"], ["m"]]
    ...     distances = abs(points[:, None] - points)
    ...     plot_tree(distances, groups, ["gender"], f"{folder}/tree.png")
    ...     Path(folder, "tree.png").read_bytes()[1:4]
    b'PNG'
    """
    save_figure(_tree_figure(distances, np.asarray(paths), names, label), path)


def plot_disk_tree(
    points: ArrayLike,
    distortion: float,
    paths: ArrayLike,
    names: Sequence[str],
    path: str | os.PathLike,
) -> None:
    """Save speakers in the Poincare disk as a PNG, the edges of the true tree behind them.

    A speaker has the color and the marker of its group of the first level. The edges are
    geodesics; a group lies at the midpoint of its speakers, the root at that of all.

    Arguments
    ---------
    points : array
        [S, 2], of `hamsb.analysis.disk.embed_in_disk`.
    distortion : float
        Its second result.
    paths : array
        [S, levels], of str, root first, without the speaker.
    names : sequence of str
        Of the levels.
    path : str or Path
        PNG file to write, whole or not at all; its folder is made if need be.

    Example
    -------
    >>> import tempfile
    >>> from pathlib import Path
    >>> points = [[0.5, 0.0], [0.4, 0.1], [-0.5, 0.0], [-0.4, 0.2]]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     groups = [["f"], ["f"], ["m"], ["m"]]
    ...     plot_disk_tree(points, 0.1, groups, ["gender"], f"{folder}/disk.png")
    ...     Path(folder, "disk.png").read_bytes()[1:4]
    b'PNG'
    """
    points = np.asarray(points, dtype=np.float64)
    figure = _disk_tree_figure(points, distortion, np.asarray(paths), names)
    save_figure(figure, path)


def plot_levels(
    systems: Mapping[str, Mapping[str, ArrayLike]],
    labels: Mapping[str, str],
    path: str | os.PathLike,
) -> None:
    """Save the distances of pairs, by the level at which the two part, as a PNG.

    A panel for each system. A bar reaches from quartile to quartile, its line from 5 to
    95 %, the stroke is the median. In a space that holds the tree each bar lies to the
    left of the one above it.

    Arguments
    ---------
    systems : mapping of str to mapping of str to array
        System -> where two points part, the root first -> the distances of such pairs.
    labels : mapping of str to str
        System -> what its distance is.
    path : str or Path
        PNG file to write, whole or not at all; its folder is made if need be.

    Example
    -------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pairs = {"accent differs": [3.0, 4.0], "speaker differs": [1.0, 2.0]}
    ...     plot_levels({"HAM": pairs}, {"HAM": "angle"}, f"{folder}/levels.png")
    ...     Path(folder, "levels.png").read_bytes()[1:4]
    b'PNG'
    """
    save_figure(_levels_figure(systems, labels), path)


def plot_rates(
    rates: Mapping[str, Sequence[float]],
    measured: Mapping[str, Mapping[str, float | None]],
    path: str | os.PathLike,
    rate: str = "EER (%)",
    measure: str = "tree agreement",
) -> None:
    """Save what systems hold of a tree against their error rates as a PNG.

    Arguments
    ---------
    rates : mapping of str to sequence of float
        System -> error rate of each of its models. A line reaches from the least to the
        largest, the marker is their mean.
    measured : mapping of str to mapping
        System -> ``value``, ``low`` and ``high`` of a measure, None without an interval,
        as `hamsb.analysis.tree_tables.summarize` has them.
    path : str or Path
        PNG file to write, whole or not at all; its folder is made if need be.
    rate, measure : str
        What they are.

    Example
    -------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     rates = {"HAM": [5.0, 5.4], "AM": [6.1]}
    ...     measured = {
    ...         "HAM": {"value": 0.5, "low": 0.4, "high": 0.6},
    ...         "AM": {"value": 0.4, "low": None, "high": None},
    ...     }
    ...     plot_rates(rates, measured, f"{folder}/rates.png")
    ...     Path(folder, "rates.png").read_bytes()[1:4]
    b'PNG'
    """
    save_figure(_rates_figure(rates, measured, rate, measure), path)


# ----------------------------------------------------------------------- the dendrogram


@matplotlib.rc_context(STYLE)
def _tree_figure(distances, paths, names, label):
    """The figure that ``plot_tree`` saves."""
    tree = DistanceTree(distances)
    bands = min(2, paths.shape[1])
    drawn = dendrogram(tree.linkage, no_plot=True)
    order = drawn["leaves"]
    palettes = [
        _palette(column, colors)
        for column, colors in zip(paths.T[:bands], (BRIGHT, _GRAYS))
    ]
    legends = [
        (_patches(palette, column), name)
        for palette, column, name in zip(palettes, paths.T, names)
    ]
    sizes = [2.5, *(_legend_height(*legend) for legend in legends)]
    figure = Figure(figsize=(COLUMN, sum(sizes)), layout="constrained")
    above, *below = figure.subfigures(1 + bands, 1, height_ratios=sizes, squeeze=False).flat
    for part, (handles, name) in zip(below, legends):
        legend_below(part, [*handles.values()], [*handles], title=name, **_LEGEND)
    places = above.subplots(
        1 + bands,
        1,
        sharex=True,
        squeeze=False,
        gridspec_kw={"height_ratios": [1.0, *([0.055] * bands)], "hspace": 0.0},
    )[:, 0]
    axes = places[0]
    x, y = np.array(drawn["icoord"]), np.array(drawn["dcoord"])
    width = 0.8 if len(order) <= 150 else 0.5
    lines = LineCollection(
        list(np.stack([x, y], axis=2)),
        colors=_branch_colors(tree, drawn, paths[:, 0], palettes[0]),
        linewidths=width,
        capstyle="projecting",
    )
    axes.add_collection(lines)
    axes.set(xlim=(0, 10 * len(order)), ylim=(0, 1.03 * y.max()), ylabel=label)
    axes.tick_params(labelbottom=False, bottom=False)
    axes.spines["bottom"].set_visible(False)
    axes.grid(False, axis="x")
    for band, palette, column, name in zip(places[1:], palettes, paths.T, names):
        colors = [palette.get(value, _OTHER) for value in column[order]]
        middles = 10 * np.arange(len(order)) + 5
        band.bar(middles, 1, width=10, color=colors, linewidth=0)
        band.set(ylim=(0, 1), yticks=[], xticks=[])
        band.set_ylabel(
            name, rotation=0, ha="right", va="center", fontsize=SMALL, labelpad=3
        )
        band.spines[:].set_visible(False)
        band.grid(False)
    above.suptitle(
        f"{len(order)} speakers, average linkage\n"
        f"colored branches: all below are of one {names[0]}",
        fontsize=SMALL,
    )
    return figure


def _legend_height(handles, name):
    """What a legend below takes, in inches."""
    figure = Figure(figsize=(COLUMN, 2.5), layout="constrained")
    legend = legend_below(figure, [*handles.values()], [*handles], title=name, **_LEGEND)
    return legend.get_window_extent().height / figure.dpi + 0.06


def _branch_colors(tree, drawn, labels, palette):
    """Of each drawn branch, in scipy's order, the color of the one group below it."""
    n, merged = len(labels), tree.linkage
    only = [*labels, *([""] * (n - 1))]
    for node, (left, right) in enumerate(merged[:, :2].astype(int), start=n):
        only[node] = only[left] if only[left] == only[right] else ""
    # scipy draws in an order of its own: a branch is found by its height and its leaves.
    found = []
    place = {leaf: 10 * k + 5.0 for k, leaf in enumerate(drawn["leaves"])}
    middle = [place[k] for k in range(n)] + [0.0] * (n - 1)
    by_place = {}
    for node, (left, right) in enumerate(merged[:, :2].astype(int), start=n):
        middle[node] = (middle[left] + middle[right]) / 2
        by_place[round(middle[node], 6), round(merged[node - n, 2], 9)] = only[node]
    for x, y in zip(drawn["icoord"], drawn["dcoord"], strict=True):
        group = by_place[round((x[1] + x[2]) / 2, 6), round(y[1], 9)]
        found.append(palette.get(group, "0.45") if group else "0.45")
    return found


def _palette(values, colors):
    """Group -> color, the largest first; those that get none are drawn as others."""
    groups, counts = np.unique(values[values != ""], return_counts=True)
    most = len(colors) if len(groups) <= len(colors) else len(colors) - 1
    largest = groups[np.argsort(-counts, kind="stable")][:most]
    found = dict(zip((group for group in groups if group in largest), colors))
    return found | ({"": _LACKING} if (values == "").any() else {})


def _patches(palette, values):
    """Legend entries by name."""
    named = {
        group or "not known": Patch(facecolor=color, edgecolor="0.5", linewidth=0.4)
        for group, color in palette.items()
    }
    left = len({*values} - {*palette})
    if left:
        named[f"{left} others"] = Patch(facecolor=_OTHER, edgecolor="0.5", linewidth=0.4)
    return named


# ----------------------------------------------------------------------------- the disk


@matplotlib.rc_context(STYLE)
def _disk_tree_figure(points, distortion, paths, names):
    """The figure that ``plot_disk_tree`` saves."""
    figure = Figure(figsize=(COLUMN, COLUMN), layout="constrained")
    axes = figure.add_subplot(aspect="equal")
    axes.set_axis_off()
    axes.set(xlim=(-1.02, 1.02), ylim=(-1.02, 1.02))
    angles = np.linspace(0, 2 * np.pi, 361)
    axes.plot(np.cos(angles), np.sin(angles), color="0.3", linewidth=0.8, zorder=1)
    nodes, links = edges(points, level_codes(paths))
    deepest = max(level for *_, level in links)
    lines = [geodesic(nodes[one], nodes[other]) for one, other, _ in links]
    thin = 0.4 if len(points) <= 80 else 0.25
    widths = [thin + 0.35 * (deepest - level) for *_, level in links]
    axes.add_collection(LineCollection(lines, colors="0.74", linewidths=widths, zorder=2))
    inner = nodes[len(points) :]
    axes.plot(*inner.T, ".", color="0.6", markersize=2.5, zorder=2.5)
    axes.plot(*nodes[-1], "o", color="0.35", markersize=3.5, zorder=2.6)
    palette = _palette(paths[:, 0], BRIGHT)
    handles = {}
    size = 4.0 if len(points) <= 200 else 2.5
    for place, (group, color) in enumerate(palette.items()):
        chosen = paths[:, 0] == group
        (handles[group or "not known"],) = axes.plot(
            *points[chosen].T,
            _MARKERS[place % len(_MARKERS)],
            color=color,
            markersize=size,
            markeredgecolor="0.4" if group == "" else "white",
            markeredgewidth=0.3,
            zorder=4,
        )
    others = ~np.isin(paths[:, 0], list(palette))
    if others.any():
        (handles["others"],) = axes.plot(
            *points[others].T, ".", color=_OTHER, markersize=3, zorder=3
        )
    way = " - ".join(["all (large dot)", *names, "speaker"])
    figure.suptitle(
        f"{len(points)} speakers by their distances, mean distortion "
        f"{100 * distortion:.0f} %\ngray: the true tree, {way}",
        fontsize=SMALL,
    )
    legend = legend_below(
        figure, list(handles.values()), list(handles), title=names[0], handlelength=1.0
    )
    height = legend.get_window_extent().height / figure.dpi
    figure.set_size_inches(COLUMN, COLUMN + 0.3 + height)
    return figure


# --------------------------------------------------------------------------- the levels


@matplotlib.rc_context(STYLE)
def _levels_figure(systems, labels):
    """The figure that ``plot_levels`` saves."""
    if not systems:
        raise ValueError("no systems to plot: give a mapping of name to distances.")
    levels = list(dict.fromkeys(name for pairs in systems.values() for name in pairs))
    columns = 1 if len(systems) <= 3 else 2
    rows = math.ceil(len(systems) / columns)
    tall = 0.34 + 0.19 * len(levels)
    figure = Figure(
        figsize=(COLUMN if columns == 1 else PAGE, rows * (tall + 0.22) + 0.35),
        layout="constrained",
    )
    places = figure.subplots(rows, columns, squeeze=False)
    for axes in places.flat[len(systems) :]:
        axes.set_axis_off()
    for k, (name, pairs) in enumerate(systems.items()):
        axes = places.flat[k]
        for place, level in enumerate(levels):
            if level not in pairs:
                continue
            marks = np.quantile(np.asarray(pairs[level]), [0.05, 0.25, 0.5, 0.75, 0.95])
            shade = 0.25 + 0.6 * place / max(len(levels) - 1, 1)
            axes.hlines(place, marks[0], marks[4], color=BLUE, linewidth=0.9)
            axes.barh(
                place,
                marks[3] - marks[1],
                left=marks[1],
                height=0.62,
                facecolor=(BLUE, shade),
                edgecolor=BLUE,
                linewidth=0.7,
            )
            axes.vlines(marks[2], place - 0.31, place + 0.31, color="black", linewidth=1.4)
        axes.set_yticks(range(len(levels)), levels)
        axes.set_ylim(len(levels) - 0.45, -0.55)
        axes.grid(False, axis="y")
        axes.tick_params(axis="y", length=0, labelleft=k % columns == 0)
        axes.set_xlabel(labels[name])
        if len(systems) > 1:
            axes.set_title(name)
    figure.suptitle(
        "pairs by the first level in which the two differ\n"
        "bar: quartiles; stroke: median; line: 5 to 95 %",
        fontsize=SMALL,
    )
    return figure


@matplotlib.rc_context(STYLE)
def _rates_figure(rates, measured, rate, measure):
    """The figure that ``plot_rates`` saves."""
    figure = Figure(figsize=(COLUMN, 3.2), layout="constrained")
    axes = figure.subplots()
    drawn, names = [], []
    for k, (name, values) in enumerate(rates.items()):
        one, color = measured[name], BRIGHT[k % len(BRIGHT)]
        x, y = np.mean(values), one["value"]
        if y is None:
            continue
        if one["low"] is not None:
            axes.vlines(x, one["low"], one["high"], color=color, linewidth=0.9)
        axes.hlines(y, min(values), max(values), color=color, linewidth=0.9)
        marker = _MARKERS[k % len(_MARKERS)]
        drawn += axes.plot(x, y, marker, color=color, mec="white", mew=0.4, ms=6, zorder=3)
        names.append(name)
    axes.set_xlabel(rate)
    axes.set_ylabel(measure)
    axes.set_title(
        "marker: mean over seeds; across: least to largest\nup and down: 95 % interval",
        fontsize=SMALL,
    )
    legend_below(figure, drawn, names)
    return figure
