"""Recordings by files, folders and lists."""

import io
import sys

import pytest

from hamsb.dataio.recordings import find_recordings


@pytest.fixture
def tree(tmp_path, monkeypatch):
    for name in ("a/1.wav", "a/B/2.FLAC", "a/B/notes.txt", "a/.hidden/3.wav", "a/x.m4a",
                 "a/.4.wav", "c.wav", "empty/readme.md"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "B" / "loop").symlink_to(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_files_folders_and_lists(tree, monkeypatch):
    below = ["a/1.wav", "a/x.m4a", "a/B/2.FLAC"]
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
