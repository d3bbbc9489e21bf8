"""The figure of a long recording: what is drawn where."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hamsb.inference.plots import _track_figure, plot_track
from hamsb.inference.tracking import Stretch, Track
from hamsb.verification.segments import Segment


def made(seconds, speakers):
    """Each speaker in turn for a second, then a stranger, then a pause."""
    stretches, at = [], 0.0
    while at < seconds:
        for name in [*speakers, None]:
            stretches.append(Stretch(at, at + 1, True, name, 0.7 if name else 0.2))
            at += 1
        stretches.append(Stretch(at, at + 1, False, None, None))
        at += 1
    stretches = tuple(each for each in stretches if each.end <= seconds)
    centers = np.array([each.start + 0.5 for each in stretches if each.speech])
    decisions = np.array(
        [
            -1 if each.speaker is None else speakers.index(each.speaker)
            for each in stretches
            if each.speech
        ]
    )
    scores = np.full((len(centers), len(speakers)), 0.2)
    scores[np.flatnonzero(decisions >= 0), decisions[decisions >= 0]] = 0.7
    return Track(
        Path("a.wav"), float(seconds), tuple(speakers), 0.5, centers, scores, decisions,
        stretches,
    )  # fmt: skip


def test_lanes_scores_and_threshold(tmp_path):
    figure = _track_figure(made(24, ["Bo", "Ann"]))
    lanes, scores = figure.axes
    assert [label.get_text() for label in lanes.get_yticklabels()] == ["Bo", "Ann", "none"]
    bars = lanes.collections
    assert [len(bar.get_paths()) for bar in bars] == [6, 6, 6]
    colors = [tuple(bar.get_facecolor()[0][:3]) for bar in bars]
    assert len(set(colors)) == 3 and len(set(colors[2])) == 1  # none is gray
    dots = {line.get_color(): len(line.get_xdata()) for line in scores.lines[:-1]}
    assert [*dots.values()] == [6, 6, 6]
    assert scores.lines[-1].get_ydata() == pytest.approx([0.5, 0.5])
    assert lanes.get_xlim() == scores.get_xlim() == (0, 24)
    plot_track(made(24, ["Bo", "Ann"]), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes()[1:4] == b"PNG"


def test_who_truly_speaks_is_in_the_lanes_also_where_nothing_was_found():
    reference = [Segment(0, 2, "Bo_C"), Segment(5, 7, "Ann"), Segment(8, 9, "stranger")]
    found = made(24, ["Bo C"])
    found = replace(found, speakers=("Bo C", "Ann"), scores=np.full((16, 2), 0.2))
    lanes = _track_figure(found, reference).axes[0]
    names = [label.get_text() for label in lanes.get_yticklabels()]
    assert names == ["Bo C", "Ann", "none"]
    black = [bar for bar in lanes.collections if not bar.get_facecolor()[0][:3].any()]
    assert [len(bar.get_paths()) for bar in black] == [1, 1, 1]


def test_long_recordings_go_on_in_rows_and_many_speakers_share_a_lane():
    for seconds, rows in ((300, 1), (301, 2), (600, 2), (3000, 4)):
        axes = _track_figure(made(seconds, ["Ann"])).axes
        assert len(axes) == 2 * rows
        limits = [each.get_xlim() for each in axes[1::2]]
        assert limits[0][0] == 0 and limits[-1][1] == pytest.approx(seconds)
    many = [f"s{number:02d}" for number in range(20)]
    lanes = _track_figure(made(66, many)).axes[0]
    names = [label.get_text() for label in lanes.get_yticklabels()]
    assert len(names) == 17 and names[-2:] == ["others", "none"]


def test_nobody_is_found():
    empty = Track(
        Path("a.wav"), 0.4, ("Ann",), 0.5, np.empty(0), np.empty((0, 1)),
        np.empty(0, dtype=np.int64), (Stretch(0.0, 0.4, False, None, None),),
    )  # fmt: skip
    figure = _track_figure(empty)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["none"]
