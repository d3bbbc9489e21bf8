"""Data sources are recognized by what they hold."""

import pytest

from hamsb.dataio.folders import CnCeleb
from hamsb.dataio.sources import open_source


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_each_layout_is_known(tmp_path):
    kaldi = write(tmp_path / "k/wav.scp", "a /a.wav\n").parent
    write(kaldi / "utt2spk", "a id1\n")
    touch(kaldi, "wav/id1/a.wav")
    tree = touch(tmp_path / "t", "wav/id1/s/a.wav", "wav/id1/b.wav", "wav/id2/s/a.flac")
    nameless = write(tmp_path / "y/wav.scp", "a /a.wav\n").parent
    for path, layout in [
        (write(tmp_path / "y.csv", "ID,wav,spk_id\na,a.wav,\n"), "csv file without"),
        (write(tmp_path / "y.list", '{"wav": "a.wav"}\n'), "JSON lines without speakers"),
        (nameless, "Kaldi directory without speakers"),
    ]:
        source = open_source(path, speakers=False)
        assert source.layout.startswith(layout)
        assert [row.speaker for row in source.rows(16000)] == [""]
        with pytest.raises((ValueError, FileNotFoundError), match="speaker|spk_id|utt2spk"):
            list(open_source(path).rows(16000))
    for source, layout in [
        (tree, "Folders wav/<speaker>/<session>/<utterance>"),
        (tree / "wav", "Folders <speaker>/<session>/<utterance>"),
        (touch(tmp_path / "f", "wav/id1/a.wav"), "Folders wav/<speaker>/<utterance>"),
        (touch(tmp_path / "g", "id1/a.FLAC", "id2/a.mp3"), "Folders <speaker>/<utterance>"),
        (
            touch(tmp_path / "c", "data/id1/singing-01-002.flac", "data/id2/a.lst"),
            "CN-Celeb, data/<speaker>/<genre>-<number>-<number>",
        ),
        (touch(tmp_path / "d", "data/id1/a.flac"), "Folders <speaker>/<session>/<utt"),
        (kaldi, "Kaldi directory"),
        (write(tmp_path / "x.txt", "spk_id,ID, wav\nid1,a,a.wav\n"), "csv file"),
        (write(tmp_path / "x.tsv", "wav\tspk_id\na.wav\tid1\n"), "csv file"),
        (write(tmp_path / "x.list", ' {"wav": "a.wav", "spk_id": 7}\n'), "JSON lines"),
    ]:
        found = open_source(source)
        assert found.layout.startswith(layout), source
        assert found.path == str(source)
    assert not isinstance(open_source(tmp_path / "d"), CnCeleb)


def test_what_is_none_is_refused(tmp_path):
    scp = write(tmp_path / "k/wav.scp", "a /a.wav\n")
    spk = write(tmp_path / "s/wav.scp", "a /a.wav\n")
    write(tmp_path / "s/spk2utt", "id1 a\n")
    for source, error, message in [
        (tmp_path / "gone", FileNotFoundError, "test=.*gone: no such file or folder; data"),
        (scp, ValueError, "test=.*: give the Kaldi directory, .*/k$"),
        (scp.parent, FileNotFoundError, "k/utt2spk: no such file; .* beside wav.scp.$"),
        (spk.parent, FileNotFoundError, "s/utt2spk: .*spk2utt_to_utt2spk.pl makes it"),
        (
            write(tmp_path / "a.csv", "wav,name\na,b\n"),
            ValueError,
            "a.csv:1: no column spk_",
        ),
        (
            write(tmp_path / "b.csv", "wav,spk_id\n"),
            ValueError,
            "b.csv: no rows; data are a",
        ),
        (
            write(tmp_path / "c.wav", "\0"),
            ValueError,
            "c.wav:.* data are a folder of audio",
        ),
        (write(tmp_path / "d", '{"wav": 1}\n'), ValueError, "d:1: no key spk_id, only wav"),
        (
            write(tmp_path / "e", '{"wav": \n'),
            ValueError,
            "e:1: not a JSON object on a line",
        ),
    ]:
        with pytest.raises(error, match=message):
            open_source(source, "test")
