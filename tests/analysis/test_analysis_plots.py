"""The figures of learning curves, clusters, disk and boxes."""

import numpy as np
import pytest
import torch

from hamsb import PoincareBall
from hamsb.analysis import plots


def test_curves_show_seeds_and_their_mean():
    seeds = [[8.0, 4.0, 2.0], [6.0, 2.0, 1.0]]
    panels = {"EER": {"AM": seeds, "HAM": [[9.0, 3.0]]}, "loss": {"HAM": [[1.0, 0.0]]}}
    figure = plots._curves_figure(panels)
    first, second = figure.axes
    drawn = [line.get_ydata().tolist() for line in first.lines]
    assert drawn == [*seeds, [7.0, 3.0, 1.5], [9.0, 3.0]]
    assert [line.get_xdata().tolist() for line in first.lines[-2:]] == [[1, 2, 3], [1, 2]]
    colors = [line.get_color() for line in first.lines]
    assert colors[0] == colors[2] != colors[3] == second.lines[0].get_color()
    assert (first.get_yscale(), second.get_yscale()) == ("log", "linear")  # a loss of 0
    assert (first.get_ylabel(), second.get_ylabel()) == ("EER", "loss")
    assert [text.get_text() for text in figure.legends[0].texts] == ["AM", "HAM"]


@pytest.mark.parametrize("count", [1, 3, 12, 35])
def test_legend_of_many_curves_is_whole_and_tells_them_apart(count):
    names = [f"a_rather_long_experiment_{k}" for k in range(count)]
    figure = plots._curves_figure({
        label: {name: [[2.0, 1.0]] for name in names} for label in ("EER", "loss")
    })
    figure.draw_without_rendering()
    box, whole = figure.legends[0].get_window_extent(), figure.bbox
    assert whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0
    for axes in figure.axes:
        styles = {(line.get_color(), line.get_linestyle()) for line in axes.lines}
        assert len(styles) == count
        assert axes.get_window_extent().height > 2.8 * figure.dpi  # inches


@pytest.mark.parametrize("rates", [[17, 5.3], [9.9, 5.1], [90, 11], [11, 0.02], [5.6, 5.1]])
def test_axes_of_curves_have_enough_labels_in_sight(rates):
    figure = plots._curves_figure({"EER": {"HAM": [rates]}})
    figure.canvas.draw()
    (axes,) = figure.axes
    low, high = axes.get_ylim()
    labels = [text.get_text() for text in axes.get_yticklabels()]
    in_sight = [float(label) for label in labels if label and low <= float(label) <= high]
    assert 3 <= len(set(in_sight)) <= 12


@pytest.mark.parametrize("panels, message", [
    ({}, "no panels"),
    ({"loss": {}}, "'loss': no systems"),
    ({"loss": {"AM": [1.0, 2.0]}}, r"'loss' of 'AM': expected \[seeds, epochs\]"),
    ({"loss": {"AM": [[1.0, 2.0], [1.0]]}}, "'loss' of 'AM'"),
    ({"loss": {"AM": np.empty((1, 0))}}, "'loss' of 'AM'"),
])
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
        assert axes.get_title(loc="left") == f"{name} ({better} is better {arrow})"
        assert axes.get_xscale() == "log"
        assert [text.get_text() for text in axes.get_xticklabels()] == ["10", "20", "50"]


@pytest.mark.parametrize("k", [[7], range(2, 60), [2, 3, 4, 5000]])
@pytest.mark.filterwarnings("error")
def test_labels_of_k_do_not_touch(k):
    figure = plots._quality_figure(k, {"silhouette": ("higher", np.linspace(0, 1, len(k)))})
    figure.draw_without_rendering()
    (axes,) = figure.axes
    boxes = [text.get_window_extent() for text in axes.get_xticklabels()]
    assert axes.get_xticks()[0] == k[0] and len(boxes) >= min(2, len(k))
    assert all(left.x1 < right.x0 for left, right in zip(boxes, boxes[1:]))


@pytest.mark.filterwarnings("error")
def test_quality_is_saved_also_where_nothing_is_finite(tmp_path):
    path = tmp_path / "new" / "quality.png"
    plots.plot_cluster_quality([2, 3], {"relative margin": ("lower", [np.nan] * 2)}, path)
    assert path.read_bytes().startswith(b"\x89PNG") and [*path.parent.iterdir()] == [path]


@pytest.mark.parametrize("k, measures, message", [
    ([2], {}, "no measures"),
    ([], QUALITY, r"positive, each once, got \[\]"),
    ([2, 2, 3], QUALITY, r"each once, got \[2, 2, 3\]"),
    ([0, 2, 3], QUALITY, "positive"),
    ([2, 3], QUALITY, r"'relative margin': expected 2 values, got shape \(3,\)"),
    ([2], {"a": ("up", [1.0])}, "'a': better is lower or higher, not 'up'"),
])
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


def drawn_points(figure):
    """What the legend names: label -> [N, 2] as drawn, and the line."""
    (axes,) = figure.axes
    named = [line for line in axes.lines if not line.get_label().startswith("_")]
    return {line.get_label(): (line.get_xydata(), line) for line in named}


@pytest.mark.parametrize("curvature", [0.01, 1.0, 3.0])
@pytest.mark.parametrize("dimension", [2, 3, 192])
def test_the_disk_keeps_every_distance_from_the_origin(dimension, curvature):
    points, centers = (ball_points(40, dimension, curvature, seed) for seed in (0, 1))
    points[0] = 0
    figure = plots._disk_figure(points, ["a"] * 40, curvature, centers)
    found = drawn_points(figure)
    ball = PoincareBall(curvature)
    for name, own in (("a", points), ("40 centers", centers)):
        own = torch.from_numpy(own)
        distance = ball.distance(own, torch.zeros_like(own)).numpy()
        expected = np.tanh(np.sqrt(curvature) * distance / 2)
        drawn = np.linalg.norm(found[name][0], axis=1)
        np.testing.assert_allclose(drawn, expected, atol=1e-9)


def test_two_dimensions_are_drawn_as_they_are_up_to_a_turn():
    points, centers = ball_points(30, 2, 1.0), ball_points(5, 2, 1.0, seed=1)
    found = drawn_points(plots._disk_figure(points, [1] * 30, 1.0, centers))
    drawn = np.concatenate([found["1"][0], found["5 centers"][0]])
    together = np.concatenate([points, centers])
    np.testing.assert_allclose(drawn @ drawn.T, together @ together.T, atol=1e-12)


def test_the_plane_is_that_in_which_directions_vary_most():
    """Whatever direction they have in common, and however long the vectors are."""
    random = np.random.default_rng(0)
    spread = random.standard_normal((200, 5)) * [0.01, 1.0, 0.01, 1.0, 0.01]
    spread = np.concatenate([spread, -spread])  # varies about the common direction
    directions = spread * [0, 1, 1, 1, 1] + [3.0, 0, 0, 0, 0]
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    points = directions * random.uniform(0.1, 0.9, (400, 1))
    figure = plots._disk_figure(points, [0] * 400, 1.0, None)
    ((drawn, _),) = drawn_points(figure).values()
    drawn = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    expected = directions[:, [1, 3]]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    error = np.abs(drawn @ drawn.T - expected @ expected.T)
    assert error.max() < 0.05
    variances = np.linalg.svd(directions - directions.mean(0), compute_uv=False) ** 2
    share = 100 * variances[:2].sum() / variances.sum()
    assert f"{share:.0f} %" in figure.axes[0].get_title()


@pytest.mark.parametrize("curvature", [1e-3, 0.1, 1.0, 3.0, 100.0])
def test_circles_are_at_the_radii_they_name(curvature):
    points = ball_points(3, 4, curvature)
    (axes,) = plots._disk_figure(points, [0] * 3, curvature, None).axes
    texts = {float(text.get_text()): -text.xy[1] for text in axes.texts}
    assert 2 <= len(texts) <= 4 and max(texts.values()) <= 0.97
    for radius, drawn in texts.items():
        assert drawn == pytest.approx(np.tanh(np.sqrt(curvature) * radius / 2))
    circles = [line for line in axes.lines if len(line.get_xydata()) == 361]
    drawn = [np.linalg.norm(line.get_xydata(), axis=1) for line in circles]
    assert sorted(d.mean() for d in drawn) == pytest.approx([*sorted(texts.values()), 1.0])
    assert max(np.ptp(d) for d in drawn) < 1e-12


def test_speakers_with_the_most_points_are_told_apart():
    counts = [3, 1, 5, 2, 3, 2, 2, 2, 4, 2, 1]  # of a, b, ..., k
    labels = [name for name, n in zip("abcdefghijk", counts) for _ in range(n)]
    points = ball_points(len(labels), 6, 1.0)
    found = drawn_points(plots._disk_figure(points, labels, 1.0, None))
    assert {name: len(xy) for name, (xy, _) in found.items()} == {
        "3 other speakers": 4, "c": 5, "i": 4, "a": 3, "e": 3, "d": 2, "f": 2, "g": 2,
        "h": 2,
    }
    styles = {(line.get_color(), line.get_marker()) for _, line in found.values()}
    assert len(styles) == 9
    few = drawn_points(plots._disk_figure(points[:4], ["a", "b", "a", "b"], 1.0, None))
    assert sorted(few) == ["a", "b"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "name", ["id1{:04d}", "a rather long name {}", 7 * "long, " + "{}"]
)
def test_the_legend_of_the_disk_is_on_the_page(name):
    labels = [name.format(i % 12) for i in range(24)]
    figure = plots._disk_figure(ball_points(24, 4, 1.0), labels, 1.0, np.zeros((9, 4)))
    figure.draw_without_rendering()
    box, page = figure.legends[0].get_window_extent(), figure.bbox
    assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0
    assert box.y1 <= figure.axes[0].get_window_extent().y0 + 1


@pytest.mark.parametrize("changes, message", [
    ({"points": [[0.5, 1.0], [0, 0]]}, "points: number 0 lies outside the ball .* 1.118"),
    ({"points": [[0.5, np.nan], [0, 0]]}, "points: not finite"),
    ({"points": [0.5, 0.1]}, "points: expected .* got shape \\(2,\\)"),
    ({"points": np.zeros((2, 1))}, "points: expected .* D >= 2"),
    ({"points": np.zeros((0, 2)), "labels": []}, "points: expected"),
    ({"labels": ["a"]}, "2 points need as many labels"),
    ({"centers": [[2.0, 0.0]]}, "centers: number 0 lies outside"),
    ({"centers": [[0.2, 0.0, 0.0]]}, "centers of 3 dimensions, points of 2"),
    ({"curvature": 0.0}, "curvature=0.0: must be positive"),
    ({"curvature": 5.0}, "points: .* outside the ball of curvature -5"),
])
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
    assert first.get_ylabel() == "length" and first.get_ylim()[0] == 0
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["norm", "other"]
    boxes = [patch.get_path().vertices for patch in first.patches]
    assert len(boxes) == 2 and len(second.patches) == 4
    for box, low in zip(boxes, (25, 75)):
        assert (box[:, 1].min(), box[:, 1].max()) == (low, low + 50)
    assert boxes[0][:, 0].max() < boxes[1][:, 0].min()
    assert boxes[0][:, 0].mean() < 0 < boxes[1][:, 0].mean()


@pytest.mark.parametrize("panels, message", [
    ({}, "no panels"),
    ({"noise": {}}, "noise: no conditions"),
    ({"noise": {"0 dB": {"norm": []}}}, "noise, 0 dB, norm"),
    ({"noise": {"0 dB": {"norm": [1.0, np.nan]}}}, "noise, 0 dB, norm"),
])
def test_boxes_of_nothing_are_refused(panels, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        plots.plot_boxes(panels, "length", tmp_path / "boxes.png")
    assert not list(tmp_path.iterdir())
