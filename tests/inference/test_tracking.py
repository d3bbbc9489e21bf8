"""Who speaks when in a long recording, where that is known."""

import csv
import itertools
import re

import numpy as np
import pytest
import soundfile
import torch

from cases import looped
from hamsb.inference import cli, tracking
from hamsb.inference.tracking import NONE, find_speech, smooth, track
from hamsb.verification.calibration import Calibration
from hamsb.verification.decision import write_decision
from hamsb.verification.segments import Segment, read_rttm, write_rttm
from runs import EXPERIMENT, export_untrained

RATE = 8000
TONES = {"ann": 300.0, "bo": 900.0, "cy": 2000.0}  # cy is a stranger
ENROLLED = ("ann", "bo")
TURNS = [
    ("ann", 5.0), (None, 1.0), ("bo", 4.0), ("ann", 4.0), (None, 2.0), ("cy", 5.0),
    (None, 0.6), ("bo", 3.0),
]  # fmt: skip
ERROR = 0.25  # seconds: of a change, half a hop


def tone(name, seconds, rate=RATE, offset=0.0):
    time = np.arange(round(seconds * rate)) / rate
    return 0.3 * np.sin(2 * np.pi * TONES[name] * time) + offset


def write_turns(path, turns, rate=RATE, channels=1, offset=0.0):
    """A recording, and who speaks when in it."""
    parts, segments, at = [], [], 0.0
    noise = np.random.default_rng(0)
    for name, seconds in turns:
        samples = round(seconds * rate)
        part = offset + noise.normal(0, 1e-4, samples)
        if name is not None:
            part = part + tone(name, seconds, rate)
            segments.append(Segment(at, at + seconds, name))
        parts.append(part)
        at += seconds
    audio = np.concatenate(parts)
    soundfile.write(path, np.repeat(audio[:, None], channels, 1), rate, subtype="FLOAT")
    return segments


def score(wavs, names):
    """Share of a window's power at the enrolled speakers' tones, [B, S]."""
    assert len(names) == len(wavs) and all(" at " in name for name in names)
    power = torch.fft.rfft(wavs, norm="ortho").abs().square()
    places = torch.fft.rfftfreq(wavs.shape[1], 1 / RATE)
    near = [(places - TONES[name]).abs() < 20 for name in ENROLLED]
    return torch.stack([power[:, each].sum(1) for each in near], 1) / power.sum(1)[:, None]


def run(path, **options):
    given = {"window": 1.0, "hop": 0.5, "penalty": 0.2, "progress": False, **options}
    return track(path, ENROLLED, score, RATE, 0.5, **given)


def test_turns_are_found_pauses_and_strangers_are_nobodys(tmp_path):
    segments = write_turns(tmp_path / "long.wav", TURNS)
    found = run(tmp_path / "long.wav")
    assert found.seconds == 24.6
    assert [each.speaker for each in found.segments] == ["ann", "bo", "ann", "bo"]
    known = [each for each in segments if each.speaker in ENROLLED]
    for ours, true in zip(found.segments, known, strict=True):
        assert abs(ours.start - true.start) <= ERROR and abs(ours.end - true.end) <= ERROR
    pauses = [each for each in found.stretches if not each.speech]
    for ours, (start, end) in zip(pauses, ((5, 6), (14, 16), (21, 21.6)), strict=True):
        assert ours.start == pytest.approx(start, abs=0.03)
        assert ours.end == pytest.approx(end, abs=0.03)
        assert ours.speaker is None and ours.score is None
    stranger = [each for each in found.stretches if each.speech and each.speaker is None]
    assert len(stranger) == 1 and stranger[0].score < 0.5
    edges = [(each.start, each.end) for each in found.stretches]
    assert edges[0][0] == 0 and edges[-1][1] == found.seconds
    assert all(one[1] == other[0] for one, other in itertools.pairwise(edges))
    assert found.errors(segments)["frame_error"] < 0.02
    shares = found.shares()
    assert [*shares] == ["ann", "bo", NONE] and shares["ann"] == pytest.approx(9, abs=0.3)


def test_windows_in_batches_of_any_size_and_blocks_are_the_same(tmp_path, monkeypatch):
    """The windows are those that a whole file would be cut into."""
    write_turns(tmp_path / "long.wav", TURNS)
    audio, _ = soundfile.read(tmp_path / "long.wav", dtype="float32")
    stream, seen = tracking.stream_audio, {}
    for batch, seconds in ((1, 30.0), (7, 0.3), (16, 1.7)):
        monkeypatch.setattr(
            tracking, "stream_audio", lambda path, norm, s=seconds: stream(path, norm, s)
        )
        cut = []

        def keep(wavs, names, cut=cut):
            assert len(wavs) <= batch  # noqa: B023
            cut += [*zip(names, wavs.numpy())]
            return score(wavs, names)

        track(tmp_path / "long.wav", ENROLLED, keep, RATE, 0.5, 1.0, 0.35, batch_size=batch,
              progress=False)  # fmt: skip
        seen[batch] = cut
        for name, wav in cut:
            start = round(float(name.split(" at ")[1].split()[0]) * RATE)
            assert np.array_equal(wav, audio[start : start + RATE])
    names = [[name for name, _ in cut] for cut in seen.values()]
    assert names[0] == names[1] == names[2] and len(names[0]) > 40
    assert names[0][-1].endswith(
        "at 23.60 s, window=1"
    )  # the last window ends with the recording


@looped(rate=[8000, 11025, 16000], channels=[1, 2])
def test_other_rates_and_channels_are_found_alike(tmp_path, rate, channels):
    write_turns(tmp_path / "long.wav", TURNS[:4], rate, channels, offset=0.1)
    found = run(tmp_path / "long.wav")
    assert [each.speaker for each in found.segments] == ["ann", "bo", "ann"]
    assert found.seconds == pytest.approx(14.0)


def test_memory_does_not_grow_with_the_recording(tmp_path, monkeypatch):
    """What is held at a time is a block and a batch."""
    write_turns(tmp_path / "long.wav", TURNS * 4)
    largest = []
    whole = tracking.torch.cat
    monkeypatch.setattr(
        tracking.torch, "cat", lambda parts: largest.append(whole(parts)) or largest[-1]
    )
    stream = tracking.stream_audio
    monkeypatch.setattr(tracking, "stream_audio", lambda *a: stream(*a, 2.0))
    run(tmp_path / "long.wav", batch_size=4)
    assert max(len(each) for each in largest) <= (2 + 1 + 0.5) * RATE


def test_what_is_shorter_than_a_window_is_one(tmp_path):
    write_turns(tmp_path / "short.wav", [("bo", 0.7)])
    found = run(tmp_path / "short.wav", window=2.0)
    assert [tuple(each) for each in found.segments] == [(0.0, 0.7, "bo")]
    assert found.centers.tolist() == [0.35]


def test_silence_is_never_a_decision(tmp_path):
    for name, audio, why in (
        ("silent", np.zeros(RATE), "silent.wav: silent, no part of it is above -80 dBFS"),
        ("offset", np.full(RATE, 0.5), "offset.wav: silent"),
        ("empty", np.zeros(0), "empty.wav: no samples"),
        ("broken", np.array([0.1, np.nan]), "broken.wav: a sample at 0.000 s is not a fin"),
    ):
        soundfile.write(tmp_path / f"{name}.wav", audio, RATE, subtype="FLOAT")
        with pytest.raises(ValueError, match=why):
            run(tmp_path / f"{name}.wav")
    with pytest.raises(FileNotFoundError, match="none.wav: no such audio file"):
        run(tmp_path / "none.wav")


def test_numbers_out_of_range(tmp_path):
    write_turns(tmp_path / "long.wav", [("ann", 1.0)])
    for options, why in (
        ({"window": 0.0}, "window=0.0: must be positive"),
        ({"hop": 2.0}, "hop=2: must be at most the window of 1 s"),
        ({"penalty": -1.0}, "penalty=-1.0: must be"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"pause_level": float("nan")}, "pause_level=nan"),
    ):
        with pytest.raises(ValueError, match=why):
            run(tmp_path / "long.wav", **options)
    for names, why in (((), "no speakers"), (("ann", NONE), "a speaker is called none")):
        with pytest.raises(ValueError, match=why):
            track(tmp_path / "long.wav", names, score, RATE, 0.5)


def gain_of(decisions, gains, penalty):
    """What decisions gain, in a loop."""
    total = 0.0
    for number, decision in enumerate(decisions):
        total += 0.0 if decision < 0 else gains[number, decision]
        if number and decision != decisions[number - 1]:
            total -= penalty
    return total


@looped(seed=range(12), penalty=[0.0, 0.3, 1.0, 10.0])
def test_no_other_decisions_gain_more(seed, penalty):
    gains = np.random.default_rng(seed).normal(size=(5, 2))
    ours = smooth(gains, penalty)
    best = max(
        gain_of(each, gains, penalty) for each in itertools.product((-1, 0, 1), repeat=5)
    )
    assert gain_of(ours, gains, penalty) == pytest.approx(best)


def test_pauses_by_their_level():
    levels = np.full(200, -70.0)
    levels[50:150] = -20.0
    expected = np.zeros(200, dtype=bool)
    expected[50:150] = True
    assert np.array_equal(find_speech(levels), expected)
    levels[100:114] = -60.0  # 0.28 s
    levels[10:14] = -20.0  # 0.08 s
    assert np.array_equal(find_speech(levels), expected)
    levels[100:115] = -60.0
    levels[10:15] = -20.0
    expected[100:115] = False
    expected[10:15] = True
    assert np.array_equal(find_speech(levels), expected)
    levels[60:80] = -51.0  # below the loud level by more than 30 dB
    expected[60:80] = False
    assert np.array_equal(find_speech(levels), expected)
    expected[60:80] = True
    assert np.array_equal(find_speech(levels, pause_level=35.0), expected)
    assert not find_speech(np.array([-79.0] * 4 + [-85.0] * 96)).any()  # too short
    assert find_speech(np.array([-79.0] * 40 + [-85.0] * 60)).sum() == 40


def test_tables(tmp_path):
    segments = write_turns(tmp_path / "my call.wav", TURNS[:3])
    found = run(tmp_path / "my call.wav")
    found.write_table(tmp_path / "a.csv", lambda scores: 2 * scores)
    with open(tmp_path / "a.csv", newline="") as file:
        rows = [*csv.DictReader(file)]
    assert [row["speaker"] for row in rows] == ["ann", NONE, "bo"]
    assert [row["speech"] for row in rows] == ["yes", "no", "yes"]
    assert rows[0]["start"] == "0.00" and rows[-1]["end"] == "10.00"
    assert rows[1]["cosine"] == rows[1]["log_likelihood_ratio"] == ""
    assert float(rows[0]["log_likelihood_ratio"]) == pytest.approx(
        2 * float(rows[0]["cosine"]), abs=1e-3
    )
    found.write_table(tmp_path / "a.csv")
    with open(tmp_path / "a.csv", newline="") as file:
        assert {row["log_likelihood_ratio"] for row in csv.DictReader(file)} == {""}
    found.write_rttm(tmp_path / "a.rttm")
    assert read_rttm(tmp_path / "a.rttm", "my call") == found.segments
    assert found.errors(segments)["confused"] == 0


# ------------------------------------------------------------------------ the command


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An untrained model with a decision that accepts what is nearly the same."""
    folder = tmp_path_factory.mktemp("model") / "export"
    export_untrained(folder, EXPERIMENT)
    calibration = Calibration(scale=10.0, offset=-9.0).to_dict()
    write_decision(folder, {"thresholds": {"eer": 0.9}, "calibration": calibration})
    return folder


def test_the_command(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ENROLLED:
        soundfile.write(tmp_path / f"{name}.wav", tone(name, 3.0, 16000), 16000)
        given = ["enroll", str(model), "speakers.json", name, f"{name}.wav"]
        assert cli.main(given) == 0
    soundfile.write(tmp_path / "short.wav", tone(ENROLLED[0], 0.005, 16000), 16000)
    segments = write_turns(tmp_path / "long.wav", TURNS[:4], 16000)
    write_rttm(tmp_path / "true.rttm", segments, "long")
    capsys.readouterr()
    given = ["track", str(model), "speakers.json", "long.wav"]
    assert cli.main([*given, "--reference=true.rttm", "--threshold=0.97"]) == 0
    said = capsys.readouterr()
    assert "threshold 0.9700" in said.err and "written: long.csv, long.rttm" in said.err
    assert "diarization error: " in said.out and "wrong: " in said.out
    assert {path.name for path in tmp_path.glob("long.*")} >= {
        "long.wav", "long.csv", "long.rttm", "long.png",
    }  # fmt: skip
    for changed, why in (
        (["track", str(model), "none.json", "long.wav"], "store=none.json: no such file"),
        ([*given[:3], "none.wav"], "none.wav: no such audio file"),
        ([*given[:3], "short.wav"], "short.wav: lasts 0.0050 s, and the model needs"),
        ([*given, "--reference=none.rttm"], "none.rttm: no such RTTM file"),
        ([*given, f"--output={tmp_path}"], "output=.*: a folder"),
        ([*given, "--hop=5"], "hop=5: must be at most"),
        ([*given, "--decision=none.json"], "decision=none.json: no such file"),
    ):
        assert cli.main(changed) == 2
        error = capsys.readouterr().err
        assert re.search(why, error), error


def test_the_command_has_the_functions_defaults():
    options = cli._parser().parse_args(["track", "m", "s", "a"])
    for name, value in (
        ("window", tracking.WINDOW),
        ("hop", tracking.HOP),
        ("penalty", tracking.PENALTY),
        ("pause_level", tracking.PAUSE_LEVEL),
    ):
        assert getattr(options, name) == value, name
