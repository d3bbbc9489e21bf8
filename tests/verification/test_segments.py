"""Who speaks when: against loops over moments, and files of others."""

import numpy as np
import pytest

from cases import looped
from hamsb.verification.segments import Segment, read_rttm, segment_errors, write_rttm

STEP = 0.25  # seconds; exact in binary


def draw(generator, names, segments):
    """Random segments whose ends are on the grid, some of them over one another."""
    found = []
    for _ in range(segments):
        start, length = generator.integers(0, 40), generator.integers(0, 8)
        name = str(generator.choice(names))
        found.append(Segment(start * STEP, (start + length) * STEP, name))
    return found


def naive(reference, found, seconds, known):
    """NIST's definition, moment by moment: what everybody says in the middle of a step."""
    sums = dict.fromkeys(
        ("speech", "missed", "false_alarm", "false_alarm_unknown", "confused", "unknown"),
        0.0,
    )
    wrong = 0.0
    for step in range(round(seconds / STEP)):
        now = (step + 0.5) * STEP
        everyone = {name for start, end, name in reference if start <= now < end}
        true, others = everyone & known, everyone - known
        hit = {name for start, end, name in found if start <= now < end}
        sums["speech"] += len(true) * STEP
        sums["unknown"] += len(others) * STEP
        sums["missed"] += max(0, len(true) - len(hit)) * STEP
        alarms = max(0, len(hit) - len(true)) * STEP
        sums["false_alarm"] += alarms
        sums["false_alarm_unknown"] += alarms if others and not true else 0
        sums["confused"] += (min(len(true), len(hit)) - len(true & hit)) * STEP
        wrong += STEP * (true != hit)
    return {**sums, "frame_error": wrong / seconds}


@looped(seed=range(30), segments=[0, 1, 5, 12])
def test_errors_are_those_of_a_loop_over_moments(seed, segments):
    generator = np.random.default_rng(seed)
    reference = draw(generator, ["a", "b", "c", "d"], segments)
    found = draw(generator, ["a", "b", "c"], 6)
    seconds = 9.0  # some segments end after it
    errors = segment_errors(reference, found, seconds, known={"a", "b", "c"})
    for name, value in naive(reference, found, seconds, {"a", "b", "c"}).items():
        assert errors[name] == pytest.approx(value, abs=1e-9), name
    total = errors["missed"] + errors["false_alarm"] + errors["confused"]
    if errors["speech"]:
        assert errors["error_rate"] == pytest.approx(total / errors["speech"])
    else:
        assert errors["error_rate"] is None


def test_the_example_of_the_diarization_error():
    """Worked by hand: 10 s of speech, 2 s missed, 1 s false alarm, 3 s of another."""
    reference = [Segment(0, 5, "a"), Segment(6, 11, "b")]
    found = [Segment(2, 5.5, "a"), Segment(6, 9, "a"), Segment(9, 11.5, "b")]
    errors = segment_errors(reference, found, 20.0)
    assert errors["error_rate"] == pytest.approx((2 + 1 + 3) / 10)
    assert errors["frame_error"] == pytest.approx(6 / 20)
    assert segment_errors(reference, reference, 20.0)["error_rate"] == 0
    with pytest.raises(ValueError, match="seconds=0"):
        segment_errors(reference, found, 0.0)


def test_files_are_read_back(tmp_path):
    segments = [Segment(0.5, 2.0, "Ann"), Segment(61.25, 62.0, "Bo")]
    write_rttm(tmp_path / "a.rttm", segments, "my call")
    assert read_rttm(tmp_path / "a.rttm") == segments
    text = (tmp_path / "a.rttm").read_text()
    assert text.startswith("SPEAKER my_call 1 0.500 1.500 <NA> <NA> Ann <NA> <NA>\n")
    both = text + "SPEAKER other 1 0 1 <NA> <NA> Cy <NA> <NA>\nSPKR-INFO my_call 1 x\n"
    (tmp_path / "b.rttm").write_text(both)
    assert read_rttm(tmp_path / "b.rttm", "my call") == segments
    with pytest.raises(ValueError, match="of 2 recordings, such as my_call, .* third"):
        read_rttm(tmp_path / "b.rttm", "third")


def test_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.rttm: no such RTTM file"):
        read_rttm(tmp_path / "none.rttm")
    for text, why in (
        ("", "no line begins with SPEAKER"),
        ("SPEAKER a 1 0.5\n", ":1: a line 'SPEAKER recording 1 start"),
        ("\nSPEAKER a 1 0.5 -1 <NA> <NA> b <NA> <NA>\n", ":2: start and duration must"),
        ("SPEAKER a 1 x 1 <NA> <NA> b <NA> <NA>\n", "not 'x' and '1'"),
        ("SPEAKER a 1 nan 1 <NA> <NA> b <NA> <NA>\n", "not 'nan' and '1'"),
    ):
        (tmp_path / "a.rttm").write_text(text)
        with pytest.raises(ValueError, match=why):
            read_rttm(tmp_path / "a.rttm")
    (tmp_path / "a.rttm").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="not a text file in UTF-8"):
        read_rttm(tmp_path / "a.rttm")
    with pytest.raises(ValueError, match="'A b' and 'A_b' would both be called A_b"):
        write_rttm(tmp_path / "c.rttm", [Segment(0, 1, "A b"), Segment(1, 2, "A_b")], "r")
    assert not (tmp_path / "c.rttm").exists()
