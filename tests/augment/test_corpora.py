"""The csv files of noises and room responses."""

import csv
import os

import numpy as np
import pytest
import soundfile
from hyperpyyaml import load_hyperpyyaml

from hamsb.augment.corpora import prepare_audio_csv, read_audio_csv

RATE = 16000
KINDS = ("music", "noise", "speech")
SECOND = 0.1 * np.ones(RATE)


def write(path, samples, rate=RATE, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, **options)


@pytest.fixture
def musan(tmp_path):
    """Two files of each kind."""
    for kind in KINDS:
        for name in ("a/1", "b/2"):
            write(tmp_path / "musan" / kind / f"{name}.wav", SECOND)
    return tmp_path / "musan"


@pytest.fixture
def prepare(musan, tmp_path):
    """A function: `prepare_audio_csv` of the noises, changed by keywords."""

    def prepare(**changes):
        given = {"folder": musan, "csv_file": tmp_path / "save" / "noise.csv"}
        return prepare_audio_csv(**{**given, "key": "data_folder_noise", **changes})

    return prepare


def rows(csv_file):
    with open(csv_file, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def ids(csv_file):
    return [row["ID"] for row in rows(csv_file)]


def test_rows_and_what_is_left_out(tmp_path, caplog):
    folder = tmp_path / "noises"
    write(folder / "noise" / "b.wav", SECOND[:8000])
    write(folder / "noise" / "a, b.FLAC", SECOND[:4000], format="FLAC")
    write(folder / "top.wav", SECOND[:2000])
    write(folder / "x" / "rate.wav", SECOND, 8000)
    write(folder / "x" / "two.wav", np.zeros((100, 2)))
    write(folder / "x" / "none.wav", np.zeros(0))
    write(folder / "x" / "$HOME.wav", SECOND)
    (folder / "x" / "text.wav").write_text("not audio")
    (folder / "x" / os.fsdecode(b"latin\xe9.wav")).write_bytes(b"")
    (folder / "x" / "read.me").write_text("not audio")
    with caplog.at_level("WARNING"):
        made = prepare_audio_csv(folder, tmp_path / "n.csv", key="data_folder_noise")
    assert made.read_text().splitlines() == [
        "ID,duration,wav,wav_format,wav_opts",
        f'"noise/a, b.FLAC",0.25,"{folder}/noise/a, b.FLAC",flac,',
        f"noise/b.wav,0.5,{folder}/noise/b.wav,wav,",
        f"top.wav,0.125,{folder}/top.wav,wav,",
    ]
    for name, reason in {
        "rate": "not at 16000 Hz",
        "two": "several channels",
        "none": "without samples",
        "$HOME": "with $",
        "text": "unreadable",
        r"latin\udce9": "not UTF-8",
    }.items():
        lines = [line for line in caplog.messages if f"/x/{name}.wav" in line]
        assert len(lines) == 1 and lines[0].startswith("1 files left out")
        assert reason in lines[0]


def test_kinds(prepare):
    both = ("a/1.wav", "b/2.wav")
    assert ids(prepare()) == [f"{kind}/{file}" for kind in KINDS for file in both]
    some = prepare(kinds=["speech", "noise"])
    assert ids(some) == [f"{kind}/{f}" for kind in ("noise", "speech") for f in both]


def test_reused_while_nothing_changed(prepare, musan, monkeypatch):
    made = prepare()
    before = made.stat().st_mtime_ns
    with monkeypatch.context() as context:
        context.setattr(soundfile, "info", None)  # opening a file fails
        assert prepare() == made
        assert made.stat().st_mtime_ns == before
        write(musan / "noise" / "new.wav", SECOND)
        with pytest.raises(TypeError):
            prepare()
    assert "noise/new.wav" in ids(prepare())


def test_made_anew_when_something_changed(prepare, musan, tmp_path):
    folder, csv_file = musan, tmp_path / "save" / "noise.csv"

    def replace():  # by one of the same length
        write(musan / "noise" / "b" / "2.wav", np.zeros((RATE // 2, 2)))
        os.utime(musan / "noise" / "b" / "2.wav", ns=(0, 0))

    for change, number in (
        (lambda: write(musan / "noise" / "new.wav", SECOND), 7),
        ((musan / "noise" / "a" / "1.wav").unlink, 6),
        (replace, 5),
        (lambda: csv_file.write_text(csv_file.read_text()[:-50]), 5),
        (lambda: musan.rename(tmp_path / "elsewhere"), 5),
    ):
        assert prepare(folder=folder) == csv_file
        change()
        folder = musan if musan.exists() else tmp_path / "elsewhere"
        again = rows(prepare(folder=folder))
        assert len(again) == number
        assert all(os.path.isfile(row["wav"]) for row in again)


def test_the_csv_file_appears_whole_or_not_at_all(prepare, musan, monkeypatch):
    made = prepare()
    before = made.read_bytes()
    write(musan / "noise" / "new.wav", SECOND)

    class Full:
        def __init__(self, stream, **_):
            self.stream = stream

        def writerows(self, _):
            self.stream.write("ID,dur")
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr(csv, "writer", Full)
        with pytest.raises(OSError, match="No space"):
            prepare()
    assert made.read_bytes() == before
    left = sorted(path.name for path in made.parent.iterdir())
    assert left == ["noise.csv", "noise.csv.json"]
    assert len(rows(prepare())) == 7


def test_a_missing_folder(prepare, tmp_path):
    for folder in (None, "", tmp_path / "missing"):
        message = f"data_folder_rir: {folder} is not a folder"
        with pytest.raises(FileNotFoundError, match=message):
            prepare(folder=folder, key="data_folder_rir")
        assert not (tmp_path / "save").exists()


def test_a_folder_without_audio(prepare, tmp_path):
    (tmp_path / "empty").mkdir()
    for changes, message in (
        ({"folder": tmp_path / "empty"}, "empty holds no wav or flac file"),
        ({"kinds": ["noise", "hum"]}, "musan/hum is missing"),
        ({"sample_rate": 8000}, "none of the 6 audio files"),
    ):
        with pytest.raises(FileNotFoundError, match=f"data_folder_noise: .*{message}"):
            prepare(**changes)
    assert not (tmp_path / "save").exists()


def test_files_are_read_by_kind(prepare, musan):
    assert read_audio_csv(prepare()) == {
        kind: [str(musan / kind / name) for name in ("a/1.wav", "b/2.wav")]
        for kind in KINDS
    }
    flat = prepare(folder=musan / "noise" / "a")
    assert read_audio_csv(flat) == {"": [str(musan / "noise" / "a" / "1.wav")]}


def test_a_yaml_that_names_an_old_place_is_told_the_new_one():
    for name, new in (
        ("AddNoise", "hamsb.AddNoise"), ("AddReverb", "hamsb.AddReverb"),
        ("SpeedPerturb", "hamsb.SpeedPerturb"),
        ("prepare_audio_csv", "hamsb.augment.corpora.prepare_audio_csv"),
    ):  # fmt: skip
        for tag in ("new", "name"):
            with pytest.raises(ImportError, match=f"hamsb.augment.{name} is now {new}"):
                load_hyperpyyaml(f"thing: !{tag}:hamsb.augment.{name}")
    with pytest.raises(ImportError):  # hyperpyyaml's own
        load_hyperpyyaml("thing: !new:hamsb.augment.AddNosie")
