"""Recordings by files, folders and lists."""

import io
import sys
from pathlib import Path

import pytest
import soundfile

from hamsb.dataio.annotations import Utterance
from hamsb.dataio.recordings import find_recordings


@pytest.fixture
def tree(tmp_path, monkeypatch):
    for name in ("a/1.wav", "a/B/2.FLAC", "a/B/notes.txt", "a/.hidden/3.wav", "a/x.m4a",
                 "a/y.SPH", "a/.4.wav", "c.wav", "empty/readme.md"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "B" / "loop").symlink_to(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_files_folders_and_lists(tree, monkeypatch):
    below = ["a/1.wav", "a/x.m4a", "a/y.SPH", "a/B/2.FLAC"]
    assert list(find_recordings(["a"])) == below
    absolute = [str(tree / name) for name in below]
    assert list(find_recordings([tree / "a"])) == absolute
    assert list(find_recordings(["c.wav", "a", "c.wav", "a/1.wav"])) == ["c.wav", *below]
    (tree / "list.txt").write_text("\ufeffc.wav\n\n  a/1.wav \nmissing.wav\n")
    found = find_recordings(["list.txt"])
    assert list(found) == ["c.wav", "a/1.wav", "missing.wav"]
    assert [str(path) for path in found.values()] == list(found)
    monkeypatch.setattr(sys, "stdin", io.StringIO("a/1.wav\nc.wav\n"))
    assert list(find_recordings(["-"])) == ["a/1.wav", "c.wav"]


def test_where_there_are_none(tree):
    with pytest.raises(FileNotFoundError, match="^b: no such audio file, folder or list"):
        find_recordings(["a", "b"])
    (tree / "empty.txt").touch()
    for source in ("empty", "empty.txt"):
        with pytest.raises(ValueError, match=f"^{source}: no recordings in it"):
            find_recordings([source])
    (tree / "bad.txt").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="^bad.txt: not a list in UTF-8"):
        find_recordings(["bad.txt"])
    with pytest.raises(ValueError, match="no recordings: name audio files"):
        find_recordings([])


def test_tables_and_kaldi_directories(tree):
    soundfile.write("a/1.wav", [0.5] * 800, 8000)
    (tree / "kaldi").mkdir()
    (tree / "kaldi" / "wav.scp").write_text("r1 a/1.wav\nr2 c.wav\n")
    (tree / "kaldi" / "utt2spk").write_text("r1 anna\nr2 bob\n")
    one, other = tree / "a" / "1.wav", tree / "c.wav"
    (tree / "a" / "wav").mkdir()
    (tree / "a" / "wav.scp").touch()  # of a corpus in folders, as for training
    assert list(find_recordings(["a"])) == ["a/1.wav", "a/x.m4a", "a/y.SPH", "a/B/2.FLAC"]
    found = find_recordings(["kaldi"])
    assert list(found) == ["r1", "r2"]
    assert [Path(path).samefile(own) for path, own in zip(found.values(), (one, other))]
    (tree / "kaldi" / "utt2spk").write_text("u1 anna\n")
    (tree / "kaldi" / "segments").write_text("u1 r1 0.01 0.05\n")
    (stretch,) = find_recordings(["kaldi"]).values()
    assert Path(stretch.wav).samefile(one) and stretch[1:] == (80, 400)
    (tree / "t.csv").write_text(f"ID,wav,spk_id,start,stop\nx,{one},anna,0,400\n")
    assert find_recordings(["t.csv"]) == {"x": Utterance(str(one), 0, 400)}
    for name, text in (
        ("u.txt", f"ID, wav\nx,{one}\n"),  # what it holds counts, not its name
        ("u", f'{{"wav": "{one}", "ID": "x"}}\n'),
        ("v.tsv", f"spk_id\twav\tID\n\t{one}\tx\n"),
    ):
        (tree / name).write_text(text)
        assert find_recordings([name]) == {"x": one}, name
    (tree / "kaldi" / "utt2spk").unlink()
    assert list(find_recordings(["kaldi"])) == ["u1"]
    with pytest.raises(
        ValueError, match="^audio=.*wav.scp: give the Kaldi directory, .*i$"
    ):
        find_recordings(["kaldi/wav.scp"])
    (tree / "u.csv").write_text("path\na.wav\n")
    with pytest.raises(
        ValueError, match="u.csv:1: no column wav, .* JSON lines with wav.$"
    ):
        find_recordings(["u.csv"])
    (tree / "u.csv").write_text(f"ID,wav\nc.wav,{other}\n")
    assert [*find_recordings(["c.wav", "u.csv"]).values()] == [Path("c.wav")]
    (tree / "u.csv").write_text(f"ID,wav,spk_id\nx,{other},anna\n")
    with pytest.raises(ValueError, match="^u.csv: two recordings are called x, .* one sou"):
        find_recordings(["t.csv", "u.csv"])
