"""The DET and score figures: what is drawn, where, and how it is saved."""

import functools
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from scipy.stats import norm

from hamsb.verification.metrics import det_curve, eer
from hamsb.verification.plots import (
    COLUMN,
    STYLE,
    _det_figure,
    _scores_figure,
    line_styles,
    plot_det,
    plot_scores,
)


@pytest.fixture(autouse=True)
def style():
    """Of the figures, for what is drawn here."""
    with matplotlib.rc_context(STYLE):
        yield


def gaussians(n_target, n_impostor, distance, seed=0):
    rng = np.random.default_rng(seed)
    scores = np.concatenate(
        [rng.normal(distance, 1, n_target), rng.normal(0, 1, n_impostor)]
    )
    return scores, np.repeat([1, 0], [n_target, n_impostor])


CASES = {
    "large": {"A": gaussians(3000, 3000, 3.0), "B": gaussians(3000, 3000, 2.0, seed=1)},
    "tiny": {"tiny": gaussians(5, 8, 1.0)},
    "one pair": {"pair": ([0.1, 0.2], [0, 1])},
    "perfect": {"perfect": gaussians(50, 50, 100.0), "other": gaussians(50, 50, 2.0)},
    "reversed": {"reversed": gaussians(50, 50, -100.0)},
    "worse than chance": {"worse": gaussians(500, 500, -1.0)},
    "collapsed": {"collapsed": (np.ones(20), np.repeat([1, 0], 10))},
}


@functools.cache
def det_figure(case):
    """Drawn once, looked at by several tests."""
    return _det_figure(CASES[case])


def parts(figure):
    """The axes, and of each system the curve and the EER marker, after the diagonal."""
    (axes,) = figure.axes
    return axes, axes.lines[1::2], axes.lines[2::2]


def legend(figure):
    """The figure's only legend, in the axes or below them."""
    (found,) = [*figure.legends, *filter(None, [figure.axes[0].get_legend()])]
    return found


def test_the_lines_are_det_curves_through_probit():
    for case in CASES:
        axes, lines, _ = parts(det_figure(case))
        low, high = axes.get_xlim()
        for line, (scores, labels) in zip(lines, CASES[case].values(), strict=True):
            _, miss, false_alarm = det_curve(scores, labels)
            for drawn, rate in ((line.get_xdata(), false_alarm), (line.get_ydata(), miss)):
                assert np.isfinite(drawn).all()
                inside = (rate > 0) & (rate < 1)
                np.testing.assert_allclose(
                    drawn[inside], norm.ppf(rate[inside]), atol=1e-12
                )
                assert np.all(drawn[rate == 0] < low) and np.all(drawn[rate == 1] > high)


def test_eer_is_marked_and_named():
    for case in CASES:
        figure = det_figure(case)
        axes, _, markers = parts(figure)
        texts = [text.get_text() for text in legend(figure).get_texts()]
        low, high = axes.get_xlim()
        for marker, text, (name, trials) in zip(
            markers, texts, CASES[case].items(), strict=True
        ):
            value = eer(*trials)[0]
            assert text == f"{name} (EER {100 * value:.2f} %)"
            expected = np.clip(norm.ppf(value), low, high)
            assert marker.get_xdata() == pytest.approx(
                [expected]
            ) and marker.get_ydata() == pytest.approx([expected])


def test_axes_are_in_percent_and_finite():
    for case in CASES:
        axes, _, _ = parts(det_figure(case))
        assert axes.get_xlim() == axes.get_ylim()
        low, high = 100 * norm.cdf(axes.get_xlim())
        assert 0.0099 < low <= 5.001 and 39.99 < high < 99.1
        for axis in (axes.xaxis, axes.yaxis):
            labels = [float(label.get_text()) for label in axis.get_ticklabels()]
            np.testing.assert_allclose(
                axis.get_ticklocs(), norm.ppf(np.array(labels) / 100), atol=1e-12
            )
            assert len(labels) >= 3 and labels[0] == pytest.approx(low)
        assert "%" in axes.get_xlabel() and "%" in axes.get_ylabel()


def test_axes_follow_the_data():
    """At 2 % EER the axes begin near a twentieth of it and end with the curve."""
    axes, _, _ = parts(_det_figure({"A": gaussians(20_000, 20_000, -2 * norm.ppf(0.02))}))
    low, high = 100 * norm.cdf(axes.get_xlim())
    assert low == pytest.approx(0.05) or low == pytest.approx(0.1)  # as the draw falls
    assert high == pytest.approx(40)


def systems(n, name="HAM-Softmax with a margin of {}"):
    return {name.format(k): gaussians(200, 200, 2.5 + k / 10, seed=k) for k in range(n)}


@pytest.mark.parametrize(
    "curves, below",
    [
        (CASES["large"], False),
        (systems(2, name="{}"), False),
        (systems(12), True),  # so many lines would cover curves
        ({"worse than chance": gaussians(200, 200, -2.5)}, True),  # so would any
        (systems(2, name="a name that is " + "very " * 20 + "long {}"), True),
        ({"a name that is " + "very " * 20 + "long": gaussians(9, 9, 50.0)}, True),
    ],
)
@pytest.mark.filterwarnings("error")
def test_the_legend_covers_no_curve_and_is_whole(curves, below):
    figure = _det_figure(curves)
    figure.draw_without_rendering()
    axes, lines, _ = parts(figure)
    assert bool(figure.legends) == below
    box, page = legend(figure).get_window_extent(), figure.bbox
    assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 <= page.y1
    if below:
        first = legend(figure).get_texts()[0].get_window_extent()
        assert first.y1 <= axes.xaxis.label.get_window_extent().y0
    for line in lines:
        points = line.get_transform().transform(line.get_xydata())
        assert not any(box.contains(x, y) for x, y in points)
    # A column wide, and the axes as large with the legend below as without.
    assert figure.get_figwidth() == COLUMN
    assert axes.get_window_extent().width > 0.8 * COLUMN * figure.dpi


def test_every_system_has_a_style_of_its_own():
    _, lines, markers = parts(_det_figure(systems(25)))
    styles = [(line.get_color(), line.get_linestyle()) for line in lines]
    assert len(set(styles)) == 25
    assert styles == [(m.get_color(), m.get_linestyle()) for m in markers]


BASELINES = {
    "untrained network": gaussians(3000, 3000, 0.8, seed=2),
    "mean log-mel vector": gaussians(3000, 3000, 2.1, seed=3),
    "noise": gaussians(3000, 3000, -3.0, seed=4),
}


def test_baselines_are_gray_and_do_not_frame_the_axes():
    alone, *_ = parts(_det_figure({"A": gaussians(3000, 3000, 4.5)}))
    curves = {"noise": BASELINES["noise"], "A": gaussians(3000, 3000, 4.5), **BASELINES}
    figure = _det_figure(curves, baselines=set(BASELINES))
    axes, lines, markers = parts(figure)
    assert axes.get_xlim() == axes.get_ylim() == alone.get_xlim()
    drawn = dict(zip(curves, zip(lines, markers, strict=True), strict=True))
    assert drawn["A"][0].get_color() == line_styles("A")["A"]["color"]
    for name in BASELINES:
        for line in drawn[name]:
            assert line.get_color() == "0.55" and line.get_linewidth() < 1
    assert len({drawn[name][0].get_linestyle() for name in BASELINES}) == 3
    seen = [name for name in curves if drawn[name][1].get_marker() == "o"]
    assert seen == ["A", "untrained network", "mean log-mel vector"]
    texts = [text.get_text() for text in legend(figure).get_texts()]
    beyond = [text.endswith(" %, beyond the axes)") for text in texts]
    assert beyond == [True, False, False, False]
    wide, *_ = parts(_det_figure(curves))
    assert wide.get_xlim()[1] > alone.get_xlim()[1]  # as trained systems they do
    only, *_ = parts(_det_figure(BASELINES, baselines=BASELINES))
    assert only.get_xlim() == parts(_det_figure(BASELINES))[0].get_xlim()


def test_a_threshold_is_marked_where_it_decides():
    curves = CASES["large"]
    scores, labels = curves["A"]
    figure = _det_figure(curves, thresholds={"A": 1.2, "B": 1.2})
    (axes,) = figure.axes
    squares = [
        line for line in axes.lines if line.get_marker() == "s" and len(line.get_xdata())
    ]
    for square, (scores, labels), style in zip(
        squares, curves.values(), line_styles(curves).values(), strict=True
    ):
        false_alarm, miss = norm.cdf(square.get_xydata()[0])
        assert false_alarm == pytest.approx(np.mean(scores[labels == 0] >= 1.2))
        assert miss == pytest.approx(np.mean(scores[labels == 1] < 1.2))
        assert square.get_markeredgecolor() == style["color"]
    texts = [text.get_text() for text in _legend(figure).get_texts()]
    assert texts[-1] == "decision threshold" and len(texts) == 3
    # Reject-all lies beyond any axes: at their edge, and said.
    figure = _det_figure(CASES["large"], thresholds={"A": 100.0})
    (axes,) = figure.axes
    x, y = axes.lines[-2].get_xydata()[0]
    assert x == axes.get_xlim()[0] and y == axes.get_ylim()[1]
    text = _legend(figure).get_texts()[-1].get_text()
    assert text == "decision threshold (at the edge: beyond the axes)"


def _legend(figure):
    return figure.axes[0].get_legend() or figure.legends[0]


def test_a_steep_curve_does_not_stretch_the_axes():
    scores, labels = gaussians(5000, 5000, 4.0)
    scores[-100:] += 20  # above all targets: below 2 % of false alarms all are missed
    error_rate = eer(scores, labels)[0]
    low, high = parts(_det_figure({"A": (scores, labels)}))[0].get_xlim()
    assert high == pytest.approx(norm.ppf(0.4))
    assert 2 * norm.ppf(error_rate) - low < high  # as far above the EER as below


# ------------------------------------------------------------------- the scores


@pytest.mark.parametrize("case", CASES)
def test_a_panel_a_system_with_unit_areas_and_thresholds(case):
    for threshold in (None, 0.4):
        figure = _scores_figure(CASES[case], threshold, "cosine")
        assert len(figure.axes) == len(CASES[case])
        assert figure.axes[-1].get_xlabel() == "cosine"
        for axes, (name, trials) in zip(figure.axes, CASES[case].items(), strict=True):
            scores, labels = map(np.asarray, trials)
            for polygon, label in zip(axes.patches, (0, 1), strict=True):
                x, y = polygon.get_path().vertices.T
                area = abs(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1])) / 2  # the shoelace
                assert area == pytest.approx(1, rel=1e-6)
                chosen = scores[labels == label]
                assert x.min() <= chosen.min() and chosen.max() <= x.max()
                slack = np.ptp(scores) / 3 + 1e-2
                assert x.mean() == pytest.approx(chosen.mean(), abs=slack)
                assert len(np.unique(x)) <= 202
            value, expected = eer(scores, labels)
            title, thresholds = f"{name}\nEER {100 * value:.2f} % at {expected:.3g}", {}
            thresholds["threshold of the EER"] = expected
            if threshold is not None:
                miss, false_alarm = (
                    100 * np.mean((scores >= threshold)[labels == label] != label)
                    for label in (1, 0)
                )
                title += f"\ndecision at 0.4: {miss:.2f} % misses, "
                title += f"{false_alarm:.2f} % false alarms"
                thresholds["decision threshold"] = threshold
            assert axes.get_title(loc="left") == title
            drawn = {line.get_label(): set(line.get_xdata()) for line in axes.lines}
            assert drawn == {name: {value} for name, value in thresholds.items()}
            styles = {(line.get_color(), line.get_linestyle()) for line in axes.lines}
            assert len(styles) == len(thresholds)  # told apart
        texts = [text.get_text() for text in figure.legends[0].get_texts()]
        assert texts == ["impostor trials", "target trials", *thresholds]


def test_the_panels_share_an_axis_with_a_common_threshold_only():
    trials = {"one": gaussians(50, 50, 2.0), "two": gaussians(50, 50, 90.0)}
    one, two = _scores_figure(trials, None).axes
    assert one.get_xlim() != two.get_xlim()
    one, two = _scores_figure(trials, 1.0).axes
    assert one.get_xlim() == two.get_xlim()


@pytest.mark.parametrize("n", [1, 3, 7])
def test_no_text_overlaps_another_or_leaves_the_page(n):
    figure = _scores_figure(systems(n, name="name {} " + 12 * "a bit long "), 1.25)
    figure.draw_without_rendering()
    titles = [axes._left_title for axes in figure.axes]
    boxes = [text.get_window_extent() for text in titles]
    boxes += [axes.xaxis.label.get_window_extent() for axes in figure.axes[-2:]]
    boxes.append(figure.legends[0].get_window_extent())
    for k, box in enumerate(boxes):
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
        assert box.y0 >= 0
        assert not any(box.overlaps(other) for other in boxes[:k] if other.width)


# ------------------------------------------------------------------- the files

PLOTS = pytest.mark.parametrize("plot", [plot_det, plot_scores])


@PLOTS
def test_saved_as_png(plot, tmp_path):
    path = tmp_path / "new" / "det.png"
    plot(CASES["large"], path)
    image = matplotlib.image.imread(path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert all(900 <= side <= 1400 for side in image.shape[:2])
    assert image[..., :3].std() > 0.05  # not blank
    assert list(path.parent.iterdir()) == [path]
    assert (
        "matplotlib.pyplot" not in sys.modules
        or not sys.modules["matplotlib.pyplot"].get_fignums()
    )


@PLOTS
def test_every_case_is_drawn_without_a_warning(plot, tmp_path, recwarn):
    for case in CASES.values():
        plot(case, str(tmp_path / "det"))  # any name: the format is PNG all the same
        assert (tmp_path / "det").read_bytes().startswith(b"\x89PNG")
    assert not [str(warning.message) for warning in recwarn]


@PLOTS
def test_a_failure_leaves_the_old_picture(plot, tmp_path, monkeypatch):
    path = tmp_path / "det.png"
    plot(CASES["tiny"], path)
    before = path.read_bytes()

    def half(self, target, **_):
        Path(target).write_bytes(b"\x89PNG")
        raise OSError("disk full")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", half)
    with pytest.raises(OSError, match="disk full"):
        plot(CASES["large"], path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@PLOTS
def test_refuses(plot, tmp_path):
    path = tmp_path / "plot.png"
    with pytest.raises(ValueError, match="no (curves|scores) to plot: give a mapping"):
        plot({}, path)
    with pytest.raises(ValueError, match="cannot plot 'B': trials of both classes"):
        plot({"A": ([0.1, 0.2], [0, 1]), "B": ([0.1, 0.2], [1, 1])}, path)
    assert not list(tmp_path.iterdir())


def test_a_threshold_that_is_not_finite_is_refused(tmp_path):
    for threshold in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"must be finite, got {threshold}"):
            plot_scores(CASES["tiny"], tmp_path / "scores.png", threshold=threshold)
        with pytest.raises(ValueError, match=f"must be finite, got {threshold}"):
            plot_det(CASES["tiny"], tmp_path / "det.png", thresholds={"tiny": threshold})
    assert not list(tmp_path.iterdir())


def test_a_baseline_without_a_curve_is_refused(tmp_path):
    with pytest.raises(ValueError, match="baselines='untrained': must be one of"):
        plot_det(CASES["tiny"], tmp_path / "det.png", baselines=["untrained"])
    with pytest.raises(ValueError, match="thresholds='untrained': must be one of"):
        plot_det(CASES["tiny"], tmp_path / "det.png", thresholds={"untrained": 0.5})
    assert not list(tmp_path.iterdir())
