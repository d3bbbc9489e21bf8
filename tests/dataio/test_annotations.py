"""The csv reader: what it reads, and how it names what is wrong."""

import pytest
from speechbrain.dataio.dataset import DynamicItemDataset

from hamsb.dataio.annotations import (
    Utterance,
    read_columns,
    read_rows,
    read_speakers,
    read_utterances,
)

SPEAKERS = [f"id{index % 7}" for index in range(40)]


def test_speakers_are_read_in_the_order_of_the_dataset(tmp_path):
    path = tmp_path / "train.csv"
    rows = [f"{s}/{i},x.wav, {s}\n" for i, s in enumerate(SPEAKERS)]
    path.write_text("ID,wav,spk_id\n" + "".join(rows))
    dataset = DynamicItemDataset.from_csv(csv_path=path)
    dataset.set_output_keys(["spk_id"])
    assert read_speakers(path) == [item["spk_id"] for item in dataset] == SPEAKERS


def test_a_csv_file_without_speakers_is_refused(tmp_path):
    for text, message in [
        ("", "train.csv:1: no column spk_id"),
        ("ID,wav\n1,2\n", "train.csv:1: no column spk_id, only ID, wav"),
        ("ID,spk_id\na,id1\nb\n", "train.csv:3: no spk_id"),
        ("ID,spk_id\na,\n", "train.csv:2: no spk_id"),
        ("ID,spk_id\n", "train.csv: no rows"),
    ]:
        path = tmp_path / "train.csv"
        path.unlink(missing_ok=True)
        with pytest.raises(FileNotFoundError, match="train.csv: no such csv file"):
            read_speakers(path)
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_speakers(path)


def test_a_wrong_csv_file_is_named_with_the_line(tmp_path):
    for text, message in [
        (
            "ID,wav,start,spk_id\na,a.wav,0,id1\n",
            r"train.csv:1: no column stop, only ID, wav, start, spk_id; give",
        ),
        ("", "train.csv:1: no column wav, start, stop, spk_id"),
        ("ID,wav,start,stop,spk_id\n", "train.csv: no rows"),
        ("wav,start,stop,spk_id\na.wav,0,9,id1\n,0,9,id1\n", r"csv:3: needs a .* wav=''"),
        ("wav,start,stop,spk_id\na.wav,0,9,\n", r"csv:2: .* spk_id=''"),
        ("wav,start,stop,spk_id\na.wav,9,9,id1\n", r"csv:2: .* start='9', stop='9'"),
        ("wav,start,stop,spk_id\na.wav,0,1.5,id1\n", r"csv:2: .* stop='1.5'"),
        ("wav,start,stop,spk_id\na.wav,0\n", r"csv:2: .* spk_id='', start='0', stop=''"),
    ]:
        path = tmp_path / "train.csv"
        path.unlink(missing_ok=True)
        with pytest.raises(FileNotFoundError, match="train.csv: no such csv file; give"):
            read_utterances(path)
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_utterances(path)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "train.csv"
    path.write_bytes(b"wav,spk_id\n\xff\xfe,a\n")
    with pytest.raises(ValueError, match="train.csv: not a csv file in UTF-8"):
        read_speakers(path)
    path.write_text("wav,spk_id\n\na.wav,id1\n\n")  # empty lines are no rows
    assert list(read_columns(path, ["spk_id"])) == [(3, ("id1",))]


def test_rows_of_every_writer_are_the_same(tmp_path):
    path = tmp_path / "meta.csv"
    expected = [(1, ["speaker", "gender"]), (2, ["id,1", "f"]), (4, ["id2", "m"])]
    for text in (
        'speaker,gender\n"id,1",f\n\nid2,m\n',
        "speaker\tgender\nid,1\tf\n\nid2\tm\n",
        '\ufeffspeaker,gender\r\n"id,1",f\r\n\r\nid2,m',
    ):
        path.write_bytes(text.encode())
        assert [row for row in read_rows(path) if row[1]] == expected
    path.write_text("a, b\n")
    assert list(read_rows(path)) == [(1, ["a", " b"])]
    assert list(read_rows(path, skipinitialspace=True)) == [(1, ["a", "b"])]
    path.write_text("")
    assert list(read_rows(path)) == []
    with pytest.raises(
        FileNotFoundError, match="gone.csv: no such list of noises; make it."
    ):
        list(read_rows(tmp_path / "gone.csv", "list of noises", "make it"))
    path.write_bytes(b"a,b\n" * 5000 + b"\xff")  # far from the first line
    with pytest.raises(ValueError, match="meta.csv: not a csv file in UTF-8 .*; make it."):
        list(read_rows(path, advice="make it"))


def test_columns_are_found_by_their_names(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("a, b,c\n1, 2,3\n4,5\n")
    assert list(read_columns(path, ["c", "a"])) == [(2, ("3", "1")), (3, ("", "4"))]
    with pytest.raises(
        ValueError, match="train.csv:1: no column d, e, only a, b, c; help."
    ):
        list(read_columns(path, ["a", "d", "e"], advice="help"))


def test_utterances_are_sorted_by_speaker_and_keep_the_order_of_the_file(tmp_path):
    path = tmp_path / "train.csv"
    rows = "b.wav,0,9,id2\nz.wav,3,8,id1\na.wav,1,2,id1\n"
    path.write_text("wav,start,stop,spk_id\n" + rows)
    found = read_utterances(path)
    assert list(found.items()) == [
        ("id1", [Utterance("z.wav", 3, 8), Utterance("a.wav", 1, 2)]),
        ("id2", [Utterance("b.wav", 0, 9)]),
    ]
    assert [utterance.frames for utterance in found["id1"]] == [5, 1]


def test_a_speaker_s_name_is_held_once(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("ID,spk_id\n" + "".join(f"{i},{s}\n" for i, s in enumerate(SPEAKERS)))
    assert len({id(speaker) for speaker in read_speakers(path)}) == 7
