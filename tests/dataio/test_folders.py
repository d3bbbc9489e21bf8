"""Speakers in folders, and CN-Celeb."""

import pytest

from hamsb.dataio.sources import open_source


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def rows(source):
    """Name -> speaker, session and reason."""
    return {row.name: (row.speaker, row.session, row.reason) for row in source.rows(16000)}


def test_most_files_tell_whether_there_are_sessions(tmp_path):
    flat = touch(
        tmp_path / "f", "wav/id1/a.wav", "wav/id2/a.wav", "wav/id2/s/b.wav", "x.wav"
    )
    assert rows(open_source(flat)) == {
        "id1/a.wav": ("id1", "", ""),
        "id2/a.wav": ("id2", "", ""),
        "id2/s": ("id2", "", "misplaced"),
    }
    tree = touch(tmp_path / "t", "id1/a.wav", "id1/s/a.wav", "id1/s/b.m4a", "id2/s/$.wav")
    touch(tree, "id2/notes.txt", "c.wav")
    assert rows(open_source(tree, prefix="t-")) == {
        "t-id1/a.wav": ("t-id1", "id1", "misplaced"),
        "t-id1/s/a.wav": ("t-id1", "id1/s", ""),
        "t-id1/s/b.m4a": ("t-id1", "id1/s", "not_wav_or_flac"),
        "t-id2/s/$.wav": ("t-id2", "id2/s", "unusable_name"),
        "t-c.wav": ("t-c.wav", "", "misplaced"),
    }
    assert {row.folder for row in open_source(tree, prefix="t-").rows(1)} >= {"id1", "id2"}


def test_names_of_trials_may_lack_the_extension(tmp_path):
    tree = touch(tmp_path, "wav/id1/s/a.flac", "wav/id1/s/b.wav", "wav/id1/s/b.flac")
    source = open_source(tree)
    names = ["id1/s/a", "id1/s/a.wav", "id1/s/a.flac", "id1/s/b.wav", "id1/s/b", "id1/s/c"]
    found = source.find(names)
    files = {name: [each.path for each in found[name]] for name in found}
    base = f"{tmp_path}/wav/id1/s"
    assert files == {
        **dict.fromkeys(names[:3], [f"{base}/a.flac"]),
        "id1/s/b.wav": [f"{base}/b.wav"],
        "id1/s/b": [f"{base}/b.wav", f"{base}/b.flac"],
    }
    assert found["id1/s/a"][0].session == "id1/s"


def test_cn_celeb(tmp_path):
    touch(tmp_path, "data/id1/singing-01-002.flac", "data/id2/live-01-001.flac")
    touch(tmp_path, "eval/test/id3-drama-02-001.flac", "eval/enroll/id3-enroll.flac")
    source = open_source(tmp_path)
    assert source.tells_speakers and rows(source) == {
        "id1/singing-01-002.flac": ("id1", "singing", ""),
        "id2/live-01-001.flac": ("id2", "live", ""),
    }
    names = [
        "test/id3-drama-02-001.wav",
        "eval/test/id3-drama-02-001.flac",
        "id3-enroll",
        "id1/singing-01-002.wav",
        "test/id9-x-01-001.wav",
    ]
    found = source.find(names)
    assert [found[name][0][3:] for name in names[:4]] == [
        ("id3", "id3/drama"),
        ("id3", "id3/drama"),
        ("id3", ""),
        ("id1", "id1/singing"),
    ]
    assert found[names[0]][0].path == f"{tmp_path}/eval/test/id3-drama-02-001.flac"
    assert names[4] not in found


def test_a_speakers_folder_is_refused(tmp_path):
    source = open_source(touch(tmp_path, "wav/id1/s/a.wav") / "wav" / "id1")
    with pytest.raises(ValueError, match=f"give the folder above it, {tmp_path}. If it is"):
        source.check()
    source = open_source(touch(tmp_path / "x", "corpus/id1/a.wav", "corpus/id2/a.wav"))
    with pytest.raises(ValueError, match="only speaker would be corpus; .*/x/corpus.$"):
        source.check_rows(list(source.rows(16000)))
