"""The csv reader: what it reads, and how it names what is wrong."""

import pytest
from speechbrain.dataio.dataset import DynamicItemDataset

from hamsb.dataio.annotations import read_columns, read_speakers, read_utterances

SPEAKERS = [f"id{index % 7}" for index in range(40)]


def test_speakers_are_read_in_the_order_of_the_dataset(tmp_path):
    path = tmp_path / "train.csv"
    rows = [f"{s}/{i},x.wav, {s}\n" for i, s in enumerate(SPEAKERS)]
    path.write_text("ID,wav,spk_id\n" + "".join(rows))
    dataset = DynamicItemDataset.from_csv(csv_path=path)
    dataset.set_output_keys(["spk_id"])
    assert read_speakers(path) == [item["spk_id"] for item in dataset] == SPEAKERS


@pytest.mark.parametrize("text, message", [
    ("", "train.csv:1: no column spk_id"),
    ("ID,wav\n1,2\n", "train.csv:1: no column spk_id, only ID, wav"),
    ("ID,spk_id\na,id1\nb\n", "train.csv:3: no spk_id"),
    ("ID,spk_id\na,\n", "train.csv:2: no spk_id"),
    ("ID,spk_id\n", "train.csv: no rows"),
])  # fmt: skip
def test_a_csv_file_without_speakers_is_refused(text, message, tmp_path):
    path = tmp_path / "train.csv"
    with pytest.raises(FileNotFoundError, match="train.csv: no such csv file"):
        read_speakers(path)
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_speakers(path)


@pytest.mark.parametrize("text, message", [
    ("ID,wav,start,spk_id\na,a.wav,0,id1\n", r"train.csv:1: no column stop, only ID, wav, start, spk_id; give"),
    ("", "train.csv:1: no column wav, start, stop, spk_id"),
    ("ID,wav,start,stop,spk_id\n", "train.csv: no rows"),
    ("wav,start,stop,spk_id\na.wav,0,9,id1\n,0,9,id1\n", r"csv:3: needs a .* wav=''"),
    ("wav,start,stop,spk_id\na.wav,0,9,\n", r"csv:2: .* spk_id=''"),
    ("wav,start,stop,spk_id\na.wav,9,9,id1\n", r"csv:2: .* start='9', stop='9'"),
    ("wav,start,stop,spk_id\na.wav,0,1.5,id1\n", r"csv:2: .* stop='1.5'"),
    ("wav,start,stop,spk_id\na.wav,0\n", r"csv:2: .* spk_id='', start='0', stop=''"),
])
def test_a_wrong_csv_file_is_named_with_the_line(tmp_path, text, message):
    path = tmp_path / "train.csv"
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
