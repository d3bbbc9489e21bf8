"""The conversion of VoxCeleb2: with a stand-in for ffmpeg, and with the real one."""

import csv
import os
import re
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

import convert_m4a
from convert_m4a import convert, main

# Does what the input file's text says: the stand-in's inputs are text files.
STAND_IN = """\
#!/bin/sh
echo x >> '{log}'
arguments="$*"
while [ $# -gt 1 ]; do [ "$1" = -i ] && input=$2; shift; done
case $(cat "$input") in
bad) head -c 100 '{audio}' > "$1"
     echo 'Error while decoding' >&2; echo 'moov atom not found' >&2; exit 1 ;;
mute) exit 1 ;;
empty) : > "$1" ;;
arguments) echo "$arguments" >&2; exit 1 ;;
interrupt) head -c 100 '{audio}' > "$1"; kill -INT $PPID; sleep 0.3
           cp '{audio}' "$1" ;;
*) cp '{audio}' "$1" ;;
esac
"""


@pytest.fixture
def stand_in(tmp_path):
    """The stand-in's path; its calls are counted by `calls`."""
    audio = tmp_path / "audio.flac"
    soundfile.write(audio, np.sin(np.arange(800) / 10), 16000)
    program = tmp_path / "bin" / "ffmpeg"
    program.parent.mkdir()
    program.write_text(STAND_IN.format(log=tmp_path / "log", audio=audio))
    program.chmod(0o755)
    return program


@pytest.fixture
def vox2(tmp_path):
    """A function that writes m4a files: names below dev/aac/ -> their text."""

    def write(**texts):
        for name, text in texts.items():
            path = tmp_path / "vox2" / "dev" / "aac" / "id1" / "s" / f"{name}.m4a"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path / "vox2"

    return write


def calls(stand_in):
    """How often the stand-in was run."""
    log = stand_in.parent.parent / "log"
    return len(log.read_text().splitlines()) if log.exists() else 0


def files(folder):
    """All files below a folder, hidden ones too, by their relative names."""
    return sorted(
        str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file()
    )


def failed(folder):
    with open(folder / "failed.csv", newline="", encoding="utf-8") as stream:
        header, *rows = csv.reader(stream)
    assert header == ["path", "reason"]
    return {Path(path).stem: reason for path, reason in rows}


def test_layout_progress_and_summary(vox2, stand_in, tmp_path, capsys):
    source, out = vox2(a="good"), tmp_path / "out"
    upper = source / "test" / "aac" / "id2" / "t" / "b.c.M4A"
    upper.parent.mkdir(parents=True)
    upper.write_text("good")
    main([str(source), str(out), f"--ffmpeg={stand_in}", "--jobs=2"])
    assert files(out) == ["wav/id1/s/a.flac", "wav/id2/t/b.c.flac"]
    screen = capsys.readouterr()
    assert screen.out == ("2 m4a files: 2 converted, 0 were there before, 0 failed\n")
    assert "2/2" in screen.err


def test_ffmpeg_is_found_on_the_path(vox2, stand_in, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(stand_in.parent), prepend=os.pathsep)
    assert convert(vox2(a="good"), tmp_path / "out").converted == 1
    assert calls(stand_in) == 1


def test_the_command(vox2, stand_in, tmp_path):
    source = vox2(a="arguments")
    convert(source, tmp_path / "out", "wav", ffmpeg=stand_in)
    command = failed(tmp_path / "out")["a"]
    assert f"-i {source}/dev/aac/id1/s/a.m4a " in command
    assert "-ac 1 -ar 16000 -c:a pcm_s16le" in command and "-xerror" in command
    # What is written has not yet the output's name.
    partial = rf" -f wav {tmp_path}/out/wav/id1/s/\.a\.wav\.\w+\.partial$"
    assert re.search(partial, command)


def test_failures_are_listed_and_the_rest_goes_on(vox2, stand_in, tmp_path, capsys):
    source = vox2(a="bad", b="good", c="mute", d="empty", e="good")
    out = tmp_path / "out"
    (source / "dev" / "stray.m4a").write_text("good")
    twin = source / "test" / "id1" / "s" / "e.m4a"
    twin.parent.mkdir(parents=True)
    twin.write_text("good")
    with pytest.raises(SystemExit) as status:
        main([str(source), str(out), f"--ffmpeg={stand_in}", "--jobs=3"])
    assert str(out / "failed.csv") in str(status.value)  # printed, and the status 1
    assert "2 converted, 0 were there before, 5 failed" in capsys.readouterr().out
    assert files(out) == ["failed.csv", "wav/id1/s/b.flac", "wav/id1/s/e.flac"]
    assert failed(out) == {
        "a": "moov atom not found",
        "c": "ffmpeg's exit status 1",
        "d": "ffmpeg reported success, but wrote no audio",
        "e": f"has the output of {source}/dev/aac/id1/s/e.m4a: {out}/wav/id1/s/e.flac",
        "stray": "not at <speaker>/<session>/ below the source",
    }


def test_a_second_run_makes_what_is_missing(vox2, stand_in, tmp_path):
    out = tmp_path / "out"
    convert(vox2(a="bad", b="good"), out, ffmpeg=stand_in)
    before = (out / "wav/id1/s/b.flac").stat().st_mtime_ns
    assert calls(stand_in) == 2 and failed(out).keys() == {"a"}
    done = convert(vox2(a="good"), out, ffmpeg=stand_in)
    assert (done.found, done.present, done.converted, done.failed) == (2, 1, 1, [])
    assert calls(stand_in) == 3
    assert (out / "wav/id1/s/b.flac").stat().st_mtime_ns == before
    assert files(out) == ["wav/id1/s/a.flac", "wav/id1/s/b.flac"]


@pytest.mark.parametrize("jobs", [1, 3])
def test_interruption_leaves_whole_files_only(vox2, stand_in, tmp_path, capsys, jobs):
    texts = {f"u{i:02}": "good" for i in range(30)} | {"a": "bad", "b": "interrupt"}
    source, out = vox2(**texts), tmp_path / "out"
    options = [str(source), str(out), f"--ffmpeg={stand_in}", f"--jobs={jobs}"]
    with pytest.raises(SystemExit) as status:
        main(options)
    assert status.value.code == 130
    assert "goes on" in capsys.readouterr().err
    made = [name for name in files(out) if name != "failed.csv"]
    assert made and len(made) < 31
    assert all(name.endswith(".flac") for name in made)
    assert all(soundfile.info(out / name).frames == 800 for name in made)
    assert failed(out) == {"a": "moov atom not found"}

    vox2(a="good", b="good")
    main(options)
    assert len(files(out)) == 32
    summary = f"{32 - len(made)} converted, {len(made)} were there before, 0 failed"
    assert summary in capsys.readouterr().out


def test_tasks_run_in_parallel_and_are_taken_as_needed():
    taken, meeting = [], threading.Barrier(3, timeout=10)

    def tasks():
        for i in range(12):
            taken.append(i)
            yield i

    def work(task):  # ends only when three run at a time
        meeting.wait()
        return task

    results = convert_m4a.run_parallel(work, tasks(), jobs=3)
    first = next(results)
    assert len(taken) <= 6
    assert sorted([first, *results]) == list(range(12))


def test_nothing_is_begun_after_the_caller_stops():
    begun, go_on = [], threading.Event()

    def work(task):
        begun.append(task)
        if task > 0:
            go_on.wait()
        return task

    results = convert_m4a.run_parallel(work, range(12), jobs=2)
    assert next(results) == 0
    threading.Timer(0.5, go_on.set).start()
    results.close()  # waits for 1 and 2, which run; 3 was taken, but not begun
    assert sorted(begun) in ([0, 1], [0, 1, 2])


def test_bad_requests(vox2, stand_in, tmp_path, monkeypatch):
    source, out = vox2(a="good"), tmp_path / "out"
    with pytest.raises(FileNotFoundError, match="nowhere' was not found. Install"):
        convert(source, out, ffmpeg="nowhere")
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    with pytest.raises(SystemExit) as status:  # a message, not a traceback
        main([str(source), str(out)])
    assert "the program 'ffmpeg' was not found" in str(status.value)
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}/bin holds no m4a"):
        convert(stand_in.parent, out, ffmpeg=stand_in)
    with pytest.raises(FileNotFoundError, match="missing is not a folder"):
        convert(tmp_path / "missing", out, ffmpeg=stand_in)
    with pytest.raises(ValueError, match="'mp3'"):
        convert(source, out, suffix="mp3", ffmpeg=stand_in)
    with pytest.raises(ValueError, match="jobs is 0"):
        convert(source, out, jobs=0, ffmpeg=stand_in)
    assert not out.exists() and calls(stand_in) == 0


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
@pytest.mark.parametrize("suffix", ["flac", "wav"])
def test_the_real_program(tmp_path, suffix):
    session = tmp_path / "vox2" / "id1" / "s"
    session.mkdir(parents=True)
    tone = np.sin(2 * np.pi * 440 * np.arange(3 * 44100) / 44100)
    soundfile.write(tmp_path / "tone.wav", 0.5 * np.stack([tone, tone], 1), 44100)
    encode = ["ffmpeg", "-v", "error", "-i", tmp_path / "tone.wav", "-c:a", "aac"]
    subprocess.run([*encode, "-movflags", "+faststart", session / "a.m4a"], check=True)
    whole = (session / "a.m4a").read_bytes()
    (session / "b.m4a").write_bytes(whole[: len(whole) // 2])  # ffmpeg: success
    (session / "c.m4a").write_bytes(b"")
    done = convert(tmp_path / "vox2", tmp_path / "out", suffix, jobs=1)
    assert (done.converted, len(done.failed)) == (1, 2)
    out = tmp_path / "out" / "wav" / "id1" / "s" / f"a.{suffix}"
    assert files(tmp_path / "out") == ["failed.csv", f"wav/id1/s/a.{suffix}"]
    info = soundfile.info(out)
    assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
    samples, _ = soundfile.read(out)
    assert abs(len(samples) - 48000) < 1100  # an AAC frame, at 44.1 kHz, or two
    spectrum = np.abs(np.fft.rfft(samples[8000:40000]))
    assert np.argmax(spectrum) == 880  # 440 Hz, in steps of half a Hz
    assert samples[8000:40000].std() == pytest.approx(0.5 / 2**0.5, rel=0.05)
    assert "Invalid data" in failed(tmp_path / "out")["c"]
