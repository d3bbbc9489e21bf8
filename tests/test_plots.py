"""The DET figure: what is drawn, where, and how it is saved."""

import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from scipy.stats import norm

from hamsb.metrics import det_curve, eer
from hamsb.plots import _det_figure, plot_det


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


def parts(figure):
    """The axes, and of each system the curve and the EER marker, after the diagonal."""
    (axes,) = figure.axes
    return axes, axes.lines[1::2], axes.lines[2::2]


@pytest.mark.parametrize("case", CASES)
def test_the_lines_are_det_curves_through_probit(case):
    axes, lines, _ = parts(_det_figure(CASES[case]))
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


@pytest.mark.parametrize("case", CASES)
def test_eer_is_marked_and_named(case):
    axes, _, markers = parts(_det_figure(CASES[case]))
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    low, high = axes.get_xlim()
    for marker, text, (name, trials) in zip(
        markers, texts, CASES[case].items(), strict=True
    ):
        value = eer(*trials)[0]
        assert text == f"{name}  (EER {100 * value:.2f} %)"
        expected = np.clip(norm.ppf(value), low, high)
        assert marker.get_xdata() == pytest.approx(
            [expected]
        ) and marker.get_ydata() == pytest.approx([expected])


@pytest.mark.parametrize("case", CASES)
def test_axes_are_in_percent_and_finite(case):
    axes, _, _ = parts(_det_figure(CASES[case]))
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
    axes, _, _ = parts(
        _det_figure({"A": gaussians(20_000, 20_000, -2 * norm.ppf(0.02))})
    )
    low, high = 100 * norm.cdf(axes.get_xlim())
    assert low == pytest.approx(0.05) or low == pytest.approx(0.1)  # as the draw falls
    assert high == pytest.approx(40)


def test_saved_as_png(tmp_path):
    path = tmp_path / "new" / "det.png"
    plot_det(CASES["large"], path)
    image = matplotlib.image.imread(path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert all(800 <= side <= 1200 for side in image.shape[:2])
    assert image[..., :3].std() > 0.05  # not blank
    assert list(path.parent.iterdir()) == [path]
    assert (
        "matplotlib.pyplot" not in sys.modules
        or not sys.modules["matplotlib.pyplot"].get_fignums()
    )


@pytest.mark.parametrize("case", CASES)
def test_every_case_is_drawn_without_a_warning(case, tmp_path, recwarn):
    plot_det(
        CASES[case], str(tmp_path / "det")
    )  # any name: the format is PNG all the same
    assert (tmp_path / "det").read_bytes().startswith(b"\x89PNG")
    assert not [str(warning.message) for warning in recwarn]


def test_a_failure_leaves_the_old_picture(tmp_path, monkeypatch):
    path = tmp_path / "det.png"
    plot_det(CASES["tiny"], path)
    before = path.read_bytes()

    def half(self, target, **_):
        Path(target).write_bytes(b"\x89PNG")
        raise OSError("disk full")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", half)
    with pytest.raises(OSError, match="disk full"):
        plot_det(CASES["large"], path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_refuses(tmp_path):
    with pytest.raises(ValueError, match="no curves"):
        plot_det({}, tmp_path / "det.png")
    with pytest.raises(ValueError, match="cannot plot 'B': trials of both classes"):
        plot_det(
            {"A": ([0.1, 0.2], [0, 1]), "B": ([0.1, 0.2], [1, 1])}, tmp_path / "det.png"
        )
    assert not list(tmp_path.iterdir())
