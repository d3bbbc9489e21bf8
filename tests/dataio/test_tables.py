"""csv files, JSON lines and Kaldi directories: what they say, and what is wrong."""

import pytest
import soundfile

from hamsb.dataio.sources import open_source
from hamsb.dataio.utterances import Found


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def rows(source, rate=16000):
    return [
        (r.name, r.path, r.speaker, r.session, r.start, r.stop) for r in source.rows(rate)
    ]


def test_rows_of_a_table(tmp_path):
    text = (
        "wav,spk_id,ID,session,start,stop\n"
        "a.wav,id1,u1,s,,\n../b.flac,id1,id1/t/x,,0,\n/c.wav,id 2,u3,,16000.0,32000.0\n"
        "d.wav,id2,,,,\nd.wav,id2,,,5,9\n"
    )
    path = write(tmp_path / "lists" / "x.csv", text)
    base = str(tmp_path / "lists")
    assert rows(open_source(path, prefix="p-")) == [
        ("p-u1", f"{base}/a.wav", "p-id1", "s", 0, 0),
        ("p-id1/t/x", f"{tmp_path}/b.flac", "p-id1", "t", 0, 0),
        ("p-u3", "/c.wav", "p-id 2", "", 16000, 32000),
        ("p-d.wav", f"{base}/d.wav", "p-id2", "", 0, 0),
        ("p-d-5-9", f"{base}/d.wav", "p-id2", "", 5, 9),
    ]
    path = write(tmp_path / "x.jsonl", '{"wav": "a.wav", "spk_id": 7, "stop": 9}\n\n')
    assert rows(open_source(path)) == [("a.wav", f"{tmp_path}/a.wav", "7", "", 0, 9)]


def test_reasons_of_a_table(tmp_path):
    text = (
        "wav,spk_id,ID\na.mp3,id1,a\n$b/b.wav,id1,b c\nc.wav,id$,d\nx$.wav,i,e\nf.wav,i,f\n"
    )
    path = write(tmp_path / "x.csv", text.replace("$b/", ""))
    (tmp_path / "f.wav").write_bytes(b"1234")
    found = [(row.id, row.reason, row.size) for row in open_source(path).rows(16000)]
    assert found == [
        ("a", "not_wav_or_flac", 0),
        ("b c", "unusable_name", 0),
        ("d", "unusable_name", 0),
        ("e", "unusable_name", 0),
        ("f", "", 4),
    ]


@pytest.mark.parametrize("text", ["[1]", "{", '{"files": 3}', '{"files": {"x.csv": ""}}'])
def test_a_prepare_json_that_is_none_of_ours_says_nothing(tmp_path, text):
    (tmp_path / "prepare.json").write_text(text)
    path = write(tmp_path / "x.csv", "wav,spk_id\na.wav,calls-id1\n")
    (row,) = open_source(path).rows(16000)
    assert row.folder == "calls-id1"


def test_a_wrong_table_is_named_with_the_line(tmp_path):
    path = write(tmp_path / "x.csv", "wav\n a.wav\n \n")
    with pytest.raises(ValueError, match="x.csv:3: needs a file, found wav=''"):
        rows(open_source(path, speakers=False))
    for row, message in [
        (",id1,0,1", "x.csv:3: needs a file and a speaker, found wav='', spk_id='id1'"),
        ("a.wav,team/1,,", "x.csv:3: speaker 'team/1': no / in a .* write team-1"),
        ("a.wav,id1,0.5,1.5", "x.csv:3: start='0.5': must be .*samples .not seconds"),
        ("a.wav,id1,9,9", "x.csv:3: start=9, stop=9: must be samples .* before stop"),
        (
            "{data_root}/a.wav,id1,,",
            r"x.csv:3: wav='{data_root}/a.wav': {data_root} .* sed 's|{data_root}|/that",
        ),
        ("$data_root/a.wav,id1,,", r"x.csv:3: .*\$data_root stands for a folder"),
    ]:
        path = write(tmp_path / "x.csv", f"wav,spk_id,start,stop\nb.wav,id1,,\n{row}\n")
        with pytest.raises(ValueError, match=message):
            rows(open_source(path))


def kaldi(root, **files):
    files = {"wav.scp": "a /a.wav\nb b.wav\n", "utt2spk": "a id1\nb id2\n", **files}
    for name, text in files.items():
        write(root / name, text)
    return open_source(root)


def test_a_kaldi_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = str(tmp_path)
    assert rows(kaldi(tmp_path / "k")) == [
        ("a", "/a.wav", "id1", "", 0, 0),
        ("b", f"{base}/b.wav", "id2", "", 0, 0),  # below where Kaldi was run
    ]
    (tmp_path / "k" / "b.wav").touch()
    segments = "u1 b 0.5 1.25\nu2 a 0 -1\n"
    source = kaldi(tmp_path / "k", segments=segments, utt2spk="u2 id2\nu1 id1\n")
    assert rows(source, 8000) == [
        ("u1", f"{base}/k/b.wav", "id1", "", 4000, 10000),
        ("u2", "/a.wav", "id2", "", 0, 0),
    ]
    soundfile.write(tmp_path / "k" / "b.wav", [0.5] * 40000, 32000)
    found = source.find(["u1", "u2.wav", "u3"])
    assert found == {
        "u1": [Found(f"{base}/k/b.wav", 16000, 40000, "id1", "")],
        "u2.wav": [Found("/a.wav", 0, 0, "id2", "")],
    }


def test_a_wrong_kaldi_directory_is_named_with_the_line(tmp_path):
    segments = {"utt2spk": "u id1\n"}
    for number, (files, message) in enumerate(
        [
            (
                {"wav.scp": "a sox x.sph -t wav - |\n"},
                r"wav.scp:1: 'sox .*is a command.*<.*scp, and name th",
            ),
            ({"wav.scp": "a /x/foo.ark:1234\n"}, "wav.scp:1: .*archive.*wav-copy"),
            ({"wav.scp": "a\n"}, "wav.scp:1: nothing behind 'a'"),
            ({"wav.scp": ""}, "wav.scp: no lines"),
            ({"utt2spk": "a id1\n"}, "wav.scp:2: no b in .*utt2spk"),
            ({"utt2spk": "c i\na i\nb i\nd i\n"}, "utt2spk:1: no c in .*scp; 2 utterances"),
            ({"segments": "u a 1\n", **segments}, "segments:1: expected 'utterance record"),
            (
                {"segments": "u a 1 2 1\n", **segments},
                "segments:1: .*a channel must be a file",
            ),
            (
                {"segments": "u c 1 2\n", **segments},
                "segments:1: no recording c in wav.scp",
            ),
            (
                {"segments": "u a 2 1\n", **segments},
                "segments:1: start=2, end=1: must be sec",
            ),
            ({"segments": "u a nan 1\n", **segments}, "segments:1: start=nan"),
        ]
    ):
        source = kaldi(tmp_path / str(number), **files)
        with pytest.raises(ValueError, match=message):
            rows(source)


def test_utterances_are_found_by_their_names(tmp_path):
    """With or without extensions; what is not the name itself may be several."""
    path = write(
        tmp_path / "x.csv", "ID,wav,spk_id\na,1.wav,i\nb.wav,2.wav,i\nb.flac,3.wav,j\n"
    )
    found = open_source(path).find(["a", "a.wav", "b.wav", "b", "c"])
    files = {name: [each.path[-5:] for each in found[name]] for name in found}
    assert files == {
        "a": ["1.wav"],
        "a.wav": ["1.wav"],
        "b.wav": ["2.wav"],
        "b": ["2.wav", "3.wav"],
    }
