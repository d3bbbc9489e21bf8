"""The figures of learning curves, clusters, disk and boxes."""

import matplotlib
import numpy as np
import pytest

from hamsb.analysis import plots
from hamsb.analysis.planes import in_unit_ball, nearest_in_plane, plane_of_classes
from hamsb.verification.plots import COLUMN, PAGE, STYLE


@pytest.fixture(autouse=True)
def style():
    """Of the figures, for what is drawn here."""
    with matplotlib.rc_context(STYLE):
        yield


def test_curves_show_the_mean_and_the_range_of_seeds():
    seeds = [[8.0, 4.0, 2.0], [6.0, 2.0, 1.0], [7.0, 9.0, 6.0]]
    panels = {"EER": {"AM": seeds, "HAM": [[9.0, 3.0]]}, "loss": {"HAM": [[1.0, 0.0]]}}
    figure = plots._curves_figure(panels)
    first, second = figure.axes
    drawn = [line.get_ydata().tolist() for line in first.lines]
    assert drawn == [[7.0, 5.0, 3.0], [9.0, 3.0]]
    assert [line.get_xdata().tolist() for line in first.lines] == [[1, 2, 3], [1, 2]]
    (band,) = first.collections  # one seed has none
    corners = {tuple(corner) for corner in band.get_paths()[0].vertices}
    assert corners == {(1, 6), (2, 2), (3, 1), (1, 8), (2, 9), (3, 6)}
    assert tuple(band.get_facecolor()[0][:3]) == matplotlib.colors.to_rgb(
        first.lines[0].get_color()
    )
    colors = [line.get_color() for line in first.lines]
    assert colors[0] != colors[1] == second.lines[0].get_color()
    assert (first.get_yscale(), second.get_yscale()) == ("log", "linear")  # a loss of 0
    assert (first.get_ylabel(), second.get_ylabel()) == ("EER", "loss")
    assert first.get_xlim() == second.get_xlim() and second.get_xlabel() == "epoch"
    (block,) = figure.subfigs
    assert [text.get_text() for text in block.legends[0].texts] == ["AM", "HAM"]
    assert "band: lowest to highest" in figure.get_suptitle()
    assert not plots._curves_figure({"EER": {"HAM": [[9.0, 3.0]]}}).get_suptitle()


@pytest.mark.parametrize("count, groups", [(1, 1), (8, 1), (9, 2), (13, 2), (25, 4)])
def test_no_panel_has_more_than_eight_systems_and_none_is_lost(count, groups):
    names = [f"a_rather_long_experiment_{k}" for k in range(count)]
    figure = plots._curves_figure(
        {
            label: {
                name: [[2 + k / 2, 1 + k / 2], [2 + 3 * k / 2, 1 + 3 * k / 2]]
                for k, name in enumerate(names)
            }
            for label in ("EER", "loss")
        }
    )
    figure.draw_without_rendering()
    assert len([block for block in figure.subfigs if block.axes]) == groups
    assert figure.get_figwidth() == (COLUMN if groups == 1 else PAGE)
    assert ("gray: the other systems" in figure.get_suptitle()) == (groups > 1)
    shown, limits, heights = [], set(), []
    for block in figure.subfigs[:groups]:
        texts = [text.get_text().replace("\n", "") for text in block.legends[0].texts]
        texts = [text for text in texts if text.strip()]
        shown += texts
        assert len(texts) <= 8
        box, whole = block.legends[0].get_window_extent(), block.bbox
        assert whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0
        for axes in block.axes:
            assert box.y1 <= axes.get_window_extent().y0
            lines = {line.get_ydata()[1] - 1: line for line in axes.lines}
            assert sorted(lines) == list(range(count))  # all of them
            own = [lines.pop(names.index(text)) for text in texts]
            styles = {(line.get_color(), line.get_linestyle()) for line in own}
            assert len(styles) == len(texts)
            assert all(line.get_color() == "0.8" for line in lines.values())
            limits.add(axes.get_ylim())
            heights.append(axes.get_window_extent().height / figure.dpi)
    assert shown == names and len(limits) == 1
    assert min(heights) > 1.1 and max(heights) - min(heights) < 0.05  # inches


def test_axes_of_curves_have_enough_labels_in_sight():
    for rates in ([17, 5.3], [9.9, 5.1], [90, 11], [11, 0.02], [5.6, 5.1]):
        figure = plots._curves_figure({"EER": {"HAM": [rates]}})
        figure.canvas.draw()
        (axes,) = figure.axes
        low, high = axes.get_ylim()
        labels = [float(text.get_text() or "nan") for text in axes.get_yticklabels()]
        in_sight = {label for label in labels if low <= label <= high}
        assert 3 <= len(in_sight) <= 12


@pytest.mark.parametrize(
    "panels, message",
    [
        ({}, "no panels"),
        ({"loss": {}}, "'loss': no systems"),
        ({"loss": {"AM": [1.0, 2.0]}}, r"'loss' of 'AM': expected \[seeds, epochs\]"),
        ({"loss": {"AM": [[1.0, 2.0], [1.0]]}}, "'loss' of 'AM'"),
        ({"loss": {"AM": np.empty((1, 0))}}, "'loss' of 'AM'"),
    ],
)
def test_curves_that_cannot_be_drawn_are_named(panels, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        plots.plot_curves(panels, tmp_path / "curves.png")
    assert not list(tmp_path.iterdir())


# ----------------------------------------------------------- quality of clusters

QUALITY = {
    "relative margin": ("lower", [0.8, 0.7, 0.9]),
    "silhouette": ("higher", [0.1, 0.3, np.nan]),
    "weakest link": ("lower", [np.inf, 3.0, 2.0]),
}


def test_quality_is_over_k_and_the_best_is_ringed():
    figure = plots._quality_figure([50, 10, 20], QUALITY)
    expected = {  # in the order of k, and where the best is
        "relative margin": ([0.7, 0.9, 0.8], 10),
        "silhouette": ([0.3, np.nan, 0.1], 10),
        "weakest link": ([3.0, 2.0, np.nan], 20),
    }
    for axes, (name, (values, best)) in zip(figure.axes, expected.items(), strict=True):
        line, ring = axes.lines
        assert line.get_xdata().tolist() == [10, 20, 50]
        np.testing.assert_array_equal(line.get_ydata(), values)
        assert ring.get_xdata().tolist() == [best]
        assert ring.get_ydata().tolist() == [values[[10, 20, 50].index(best)]]
        better = QUALITY[name][0]
        arrow = "↓" if better == "lower" else "↑"
        assert axes.get_title(loc="left") == f"{name} {arrow}"
        assert axes.get_xscale() == "log"
        labels = {text.get_text() for text in axes.get_xticklabels()}
        assert labels == {"10", "20", "50"} == set(map(str, axes.get_xticks()))
    assert "↓ lower is better, ↑ higher is better" in figure.get_supxlabel()


@pytest.mark.filterwarnings("error")
def test_labels_of_k_do_not_touch_and_name_the_best():
    for k in ([7], range(2, 60), [2, 3, 4, 5000], [10, 20, 50, 100, 200, 500]):
        values = -np.abs(np.arange(len(k)) - len(k) // 2)
        figure = plots._quality_figure(k, dict.fromkeys("abcd", ("higher", values)))
        figure.draw_without_rendering()
        for axes in figure.axes:
            boxes = [text.get_window_extent() for text in axes.get_xticklabels()]
            boxes.sort(key=lambda box: box.x0)
            assert k[len(k) // 2] in axes.get_xticks() and len(boxes) >= min(2, len(k))
            assert all(a.x1 < b.x0 for a, b in zip(boxes, boxes[1:], strict=False))
            assert figure.get_figwidth() == COLUMN


@pytest.mark.filterwarnings("error")
def test_quality_is_saved_also_where_nothing_is_finite(tmp_path):
    path = tmp_path / "new" / "quality.png"
    plots.plot_cluster_quality([2, 3], {"relative margin": ("lower", [np.nan] * 2)}, path)
    assert path.read_bytes().startswith(b"\x89PNG") and [*path.parent.iterdir()] == [path]


@pytest.mark.parametrize(
    "k, measures, message",
    [
        ([2], {}, "no measures"),
        ([], QUALITY, r"positive, each once, got \[\]"),
        ([2, 2, 3], QUALITY, r"each once, got \[2, 2, 3\]"),
        ([0, 2, 3], QUALITY, "positive"),
        ([2, 3], QUALITY, r"'relative margin': expected 2 values, got shape \(3,\)"),
        ([2], {"a": ("up", [1.0])}, "better end of 'a'='up': must be one of"),
    ],
)
def test_quality_that_cannot_be_drawn_is_named(k, measures, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        plots.plot_cluster_quality(k, measures, tmp_path / "quality.png")
    assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------- the disk


def ball_points(n, dimension, curvature, seed=0):
    """Points all over the ball."""
    random = np.random.default_rng(seed)
    directions = random.standard_normal((n, dimension))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return directions * random.uniform(0, 0.999, (n, 1)) / np.sqrt(curvature)


def speakers(n, utterances, dimension, noise=0.5, seed=0):
    """Directions of speakers with noise about them [N, D], of length about 1, labels."""
    random = np.random.default_rng(seed)
    means = random.standard_normal((n, dimension)) / np.sqrt(dimension)
    shape = n * utterances, dimension
    noises = noise * random.standard_normal(shape) / np.sqrt(dimension)
    labels = [f"id{k}" for k in range(n) for _ in range(utterances)]
    return np.repeat(means, utterances, axis=0) + noises, labels


def drawn_points(figure):
    """What the legend names: label -> [N, 2] as drawn, and the line."""
    (axes,) = figure.axes
    named = [line for line in axes.lines if not line.get_label().startswith("_")]
    return {line.get_label(): (line.get_xydata(), line) for line in named}


def test_points_and_centers_are_drawn_in_the_plane_of_the_speakers_shown():
    for curvature, dimension in ((0.01, 3), (1.0, 192), (3.0, 20)):
        points, labels = speakers(10, 4, dimension)
        points = 0.3 * points / np.linalg.norm(points, axis=1).max() / np.sqrt(curvature)
        centers = ball_points(40, dimension, curvature, seed=1)
        found = drawn_points(plots._disk_figure(points, labels, curvature, centers))
        own = in_unit_ball(points, curvature)
        plane, _ = plane_of_classes(own[:32], labels[:32])  # of the first eight
        expected = nearest_in_plane(own, plane)
        for k in range(8):
            at = expected[4 * k : 4 * k + 4]
            np.testing.assert_allclose(found[f"id{k}"][0], at, atol=1e-12)
        others = found["2 other speakers"][0]
        np.testing.assert_allclose(others, expected[32:], atol=1e-12)
        at = nearest_in_plane(in_unit_ball(centers, curvature), plane)
        np.testing.assert_allclose(found["40 training centers"][0], at, atol=1e-12)


def test_two_dimensions_are_drawn_as_they_are_up_to_a_turn():
    points, centers = ball_points(30, 2, 1.0), ball_points(5, 2, 1.0, seed=1)
    found = drawn_points(plots._disk_figure(points, [1] * 30, 1.0, centers))
    drawn = np.concatenate([found["1"][0], found["5 training centers"][0]])
    together = np.concatenate([points, centers])
    np.testing.assert_allclose(drawn @ drawn.T, together @ together.T, atol=1e-12)


def test_speakers_on_one_sphere_fill_the_figure():
    """Clipped, all points have one radius: they are told apart all the same."""
    points, labels = speakers(10, 20, 192, noise=1.0)
    points *= 0.577 / np.linalg.norm(points, axis=1, keepdims=True)
    figure = plots._disk_figure(points, labels, 1.0, ball_points(9, 192, 1.0))
    (axes,) = figure.axes
    limit, found = axes.get_xlim()[1], drawn_points(figure)
    shown = np.stack([found[f"id{k}"][0] for k in range(8)])
    assert np.abs(shown).max() > 0.5 * limit  # zoomed in
    centers = shown.mean(1, keepdims=True)
    within = np.linalg.norm(shown - centers, axis=2).mean()
    between = np.linalg.norm(centers - centers.mean(0), axis=2).mean()
    assert between > 3 * within
    assert "from the origin: 1.32" in figure.get_suptitle().replace("\n", " ")


def test_the_figure_says_what_the_plane_keeps_and_how_far_the_points_are():
    points, labels = speakers(3, 5, 30)
    points *= np.linspace(0.1, 0.5, 15)[:, None] / np.linalg.norm(
        points, axis=1, keepdims=True
    )
    words = plots._disk_figure(points / 2, labels, 4.0, None).get_suptitle()
    _, share = plane_of_classes(points, labels)
    assert f"plane with {100 * share:.0f} % of the variance" in words
    radii = np.arctanh(np.quantile(np.linspace(0.1, 0.5, 15), [0.05, 0.95]))
    assert "{:.3g} to {:.3g} (5 to 95 %)".format(*radii) in words


def test_circles_are_at_the_radii_they_name():
    for curvature in (1e-3, 0.1, 1.0, 3.0, 100.0):
        for scale in (1.0, 0.5, 0.01):
            points = scale * ball_points(30, 2, curvature)
            (axes,) = plots._disk_figure(points, [0] * 30, curvature, None).axes
            limit = axes.get_xlim()[1]
            texts = {float(text.get_text()): -text.xy[1] for text in axes.texts}
            assert 2 <= len(texts) <= 6 and max(texts.values()) <= min(limit, 0.97)
            for radius, drawn in texts.items():
                assert drawn == pytest.approx(np.tanh(np.sqrt(curvature) * radius / 2))
            circles = [line for line in axes.lines if len(line.get_xydata()) == 361]
            drawn = [np.linalg.norm(line.get_xydata(), axis=1) for line in circles]
            rim = [1.0] if limit > 1 else []
            assert bool(rim) == (scale == 1)
            expected = pytest.approx([*sorted(texts.values()), *rim])
            assert sorted(d.mean() for d in drawn) == expected
            assert max(np.ptp(d) for d in drawn) < 1e-12
            reach = np.sqrt(curvature) * np.linalg.norm(points, axis=1).max()
            assert reach < limit < 1.2 * reach


def test_speakers_with_the_most_points_are_told_apart():
    counts = [3, 1, 5, 2, 3, 2, 2, 2, 4, 2, 1]  # of a, b, ..., k
    labels = [*np.repeat(list("abcdefghijk"), counts)]
    points = ball_points(len(labels), 6, 1.0)
    found = drawn_points(plots._disk_figure(points, labels, 1.0, None))
    assert {name: len(xy) for name, (xy, _) in found.items()} == {
        "3 other speakers": 4,
        "c": 5,
        "i": 4,
        "a": 3,
        "e": 3,
        "d": 2,
        "f": 2,
        "g": 2,
        "h": 2,
    }
    styles = {(line.get_color(), line.get_marker()) for _, line in found.values()}
    assert len(styles) == 9
    few = drawn_points(plots._disk_figure(points[:4], ["a", "b", "a", "b"], 1.0, None))
    assert sorted(few) == ["a", "b"]


@pytest.mark.filterwarnings("error")
def test_the_legend_of_the_disk_tells_centers_from_points_and_is_on_the_page():
    for name in ("id1{:04d}", "a rather long name {}", 7 * "long, " + "{}"):
        labels = [name.format(i % 12) for i in range(24)]
        points, centers = ball_points(24, 4, 1.0), np.zeros((9, 4))
        figure = plots._disk_figure(points, labels, 1.0, centers, "pairs", "prototypes")
        figure.draw_without_rendering()
        (legend,) = figure.legends
        box, page = legend.get_window_extent(), figure.bbox
        assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0
        assert box.y1 <= figure.axes[0].get_window_extent().y0 + 1
        assert figure._suptitle.get_window_extent().y1 <= page.y1
        assert figure.axes[0].get_window_extent().width > 0.9 * COLUMN * figure.dpi
        assert legend.get_title().get_text() == "pairs, by speaker"
        texts = [text.get_text() for text in legend.get_texts()]
        assert texts[-2:] == ["4 other speakers", "9 prototypes"]
        markers = {line.get_marker() for _, line in drawn_points(figure).values()}
        assert len(markers) == 10


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"points": [[0.5, 1.0], [0, 0]]},
            "points: number 0 lies outside the ball .* 1.118",
        ),
        ({"points": [[0.5, np.nan], [0, 0]]}, "points: not finite"),
        ({"points": [0.5, 0.1]}, "points: expected .* got shape \\(2,\\)"),
        ({"points": np.zeros((2, 1))}, "points: expected .* D >= 2"),
        ({"points": np.zeros((0, 2)), "labels": []}, "points: expected"),
        ({"labels": ["a"]}, "2 points need as many labels"),
        ({"centers": [[2.0, 0.0]]}, "centers: number 0 lies outside"),
        ({"centers": [[0.2, 0.0, 0.0]]}, "centers of 3 dimensions, points of 2"),
        ({"curvature": 0.0}, "curvature=0.0: must be positive"),
        ({"curvature": 5.0}, "points: .* outside the ball of curvature -5"),
    ],
)
def test_what_is_in_no_disk_is_refused(changes, message, tmp_path):
    values = {"points": [[0.5, 0.1], [0.2, 0.0]], "labels": ["a", "b"], **changes}
    with pytest.raises(ValueError, match=message):
        plots.plot_disk(path=tmp_path / "disk.png", **values)
    assert not list(tmp_path.iterdir())


def test_the_disk_is_saved_whole(tmp_path, recwarn):
    path = tmp_path / "new" / "disk.png"
    plots.plot_disk(np.float32(ball_points(1, 192, 1.0)), ["a"], path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert list(path.parent.iterdir()) == [path]
    assert not [str(warning.message) for warning in recwarn]


# ------------------------------------------------------------------------ boxes


def test_boxes_stand_side_by_side_and_show_the_quartiles():
    values = np.arange(101.0)
    panels = {
        "duration": {"1 s": {"norm": values, "other": values + 50}},
        "noise": dict.fromkeys(["0 dB", "clean"], {"norm": values, "other": values}),
    }
    figure = plots._boxes_figure(panels, "length")
    first, second = figure.axes
    assert [axes.get_xlabel() for axes in figure.axes] == ["duration", "noise"]
    assert [text.get_text() for text in second.get_xticklabels()] == ["0 dB", "clean"]
    assert figure.get_supylabel() == "length" and first.get_ylim()[0] == 0
    assert first.get_ylim() == second.get_ylim() and figure.get_figwidth() == COLUMN
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["norm", "other"]
    boxes = [patch.get_path().vertices for patch in first.patches]
    assert len(boxes) == 2 and len(second.patches) == 4
    assert first.patches[0].get_hatch() != first.patches[1].get_hatch()
    for box, low in zip(boxes, (25, 75), strict=True):
        assert (box[:, 1].min(), box[:, 1].max()) == (low, low + 50)
    assert boxes[0][:, 0].max() < boxes[1][:, 0].min()
    assert boxes[0][:, 0].mean() < 0 < boxes[1][:, 0].mean()


@pytest.mark.parametrize(
    "panels, message",
    [
        ({}, "no panels"),
        ({"noise": {}}, "noise: no conditions"),
        ({"noise": {"0 dB": {"norm": []}}}, "noise, 0 dB, norm"),
        ({"noise": {"0 dB": {"norm": [1.0, np.nan]}}}, "noise, 0 dB, norm"),
    ],
)
def test_boxes_of_nothing_are_refused(panels, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        plots.plot_boxes(panels, "length", tmp_path / "boxes.png")
    assert not list(tmp_path.iterdir())
