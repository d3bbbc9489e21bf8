"""The dataset of rows: SpeechBrain's, item by item, shared by processes."""

import csv
import io
import multiprocessing
import os
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.dataio.sampler import DynamicBatchSampler

from hamsb.dataio import rows as rows_module
from hamsb.dataio.rows import RowDataset, Rows

COLUMNS = ["ID", "duration", "wav", "start", "stop", "spk_id"]
NEEDED = ["wav", "start", "stop", "spk_id"]


def table(count=50, path="/data/{}.wav"):
    """Rows as a preparation writes them, the header among them."""
    made = [COLUMNS]
    for number in range(count):
        name = f"id{number * 7 % 5}/s/{number:05}"
        stop = 16000 + number
        made.append([name, stop / 16000, path.format(name), 0, stop, name[:3]])
    return made


def write(path, rows, **form):
    with open(path, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, **form).writerows(rows)
    return path


def both(path):
    """Our dataset and SpeechBrain's, with all of their keys."""
    datasets = RowDataset.from_csv(path), DynamicItemDataset.from_csv(path)
    for dataset in datasets:
        dataset.add_dynamic_item(lambda start, stop: int(stop) - int(start),
                                 ["start", "stop"], "frames")  # fmt: skip
        keys = [key for key in COLUMNS if key != "ID"]
        dataset.set_output_keys(["id", *keys, "frames"])
    return datasets


FORMS = {
    "as the preparation writes": {},
    "with line feeds alone": {"lineterminator": "\n"},
    "quoted": {"quoting": csv.QUOTE_ALL},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "wav", ["/data/{}.wav", "/a b/é/{}.wav", "/a,b/{}.wav", '/"a"\n/{}.wav'],
    ids=["plain", "accents", "comma", "quotes"],
)  # fmt: skip
def test_items_are_those_of_speechbrain(tmp_path, form, wav):
    ours, theirs = both(write(tmp_path / "train.csv", table(path=wav), **FORMS[form]))
    assert len(ours) == len(theirs) == 50
    assert list(ours) == list(theirs) == [ours[k] for k in range(50)]
    assert list(ours.data_ids) == theirs.data_ids == list(ours.data)
    assert {name: dict(row) for name, row in ours.data.items()} == theirs.data
    assert list(ours.data["id2/s/00001"]) == list(theirs.data["id2/s/00001"])  # order
    assert ours.data_ids[3:40:7] == theirs.data_ids[3:40:7]
    assert ours[-1] == theirs[-1] and ours.data_ids[-50] == theirs.data_ids[-50]
    assert "id2/s/00001" in ours.data and "id2" not in ours.data and 3 not in ours.data
    assert list(ours.data.column("spk_id")) == [
        theirs.data[i]["spk_id"] for i in theirs.data
    ]
    for index in (50, -51):
        with pytest.raises(IndexError):
            ours[index]


def test_what_speechbrain_does_with_a_dataset(tmp_path):
    """Filter and sort, repeat, shuffle, map keys, and make batches by length."""
    ours, theirs = both(write(tmp_path / "train.csv", table()))
    results = []
    for dataset in (ours, theirs):
        short = dataset.filtered_sorted(
            key_max_value={"duration": 1.002}, sort_key="frames", reverse=True
        )
        torch.manual_seed(0)
        shuffled = dataset.batch_shuffle(4)
        sampler = DynamicBatchSampler(
            dataset, 60000, num_buckets=3, length_func=lambda row: int(row["stop"])
        )
        with dataset.output_keys_as({"name": "id", "length": "frames"}):
            mapped = dataset[7]
        results.append((
            short.data_ids, list(short), list(shuffled), mapped, list(sampler),
            list(dataset.overfit_test(3, 8)),
        ))  # fmt: skip
    assert results[0] == results[1]
    assert 0 < len(results[0][0]) < 50


field = st.text(st.sampled_from('a é,"\t\r\n;0.'), max_size=6)


@given(
    rows=st.lists(st.lists(field, min_size=2, max_size=2), min_size=1, max_size=8),
    end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONE]),
    block=st.sampled_from([1, 10, 2**22]),
)
def test_a_plain_file_is_read_as_the_csv_reader_reads_it(
    tmp_path_factory, rows, end, quoting, block
):
    """Whatever is in the file: the same rows, or the same error."""
    stream = io.StringIO()
    form = {"lineterminator": end, "quoting": quoting, "escapechar": "\\"}
    if quoting == csv.QUOTE_NONE:
        text = end.join(",".join(row) for row in [["ID", "b"], *rows])
    else:
        csv.writer(stream, **form).writerows([["ID", "b"], *rows])
        text = stream.getvalue()
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(text.encode())

    def found():
        try:
            return [Rows(path).row(k) for k in range(len(Rows(path)))]
        except ValueError as error:
            return str(error)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "_BLOCK", block)
        fast = found()
        patch.setattr(rows_module, "_read_plain", lambda *_: None)
        assert fast == found()
    if isinstance(fast, list):
        expected = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)
        _, *expected = (row for row in expected if row)
        assert [list(row.values()) for row in fast] == expected


def test_a_preparation_s_file_is_read_fast(tmp_path, monkeypatch):
    """By arrays: the reader of rows is asked for the header alone."""
    path = write(tmp_path / "train.csv", table(path="/a b/é/{}.wav"))
    monkeypatch.setattr(rows_module, "_read_any", None)
    monkeypatch.setattr(rows_module, "_BLOCK", 100)
    assert len(Rows(path, NEEDED)) == 50


HEADER = ",".join(COLUMNS) + "\n"


@pytest.mark.parametrize(
    "text, message",
    [
        ("", r"train.csv:1: no column ID, wav, start, stop, spk_id, only an empty line"),
        ("ID,wav,start\na,b,0\n", r"train.csv:1: no column stop, spk_id, only ID, wav"),
        (HEADER, "train.csv: no rows; give"),
        (HEADER + "\r\n\n", "train.csv: no rows; give"),
        (HEADER + "\na,1,b,0,9,id1\nb,1,c\n", "csv:4: 3 fields, where the header has 6;"),
        (HEADER + "a,1,b,0,9,id1,x\n", "train.csv:2: 7 fields, where the header has 6;"),
        (HEADER + "a,1,b,0,9,id1\n,1,b,0,9,id1\n", "train.csv:3: no ID; give"),
        (HEADER + "a,1,b,0,9,id1\nb,1,b,0,9,\n", "train.csv:3: no spk_id; give"),
        (HEADER + "a,1 s,b,0,9,id1\n", r"train.csv:2: duration='1 s': must be a number"),
        (
            HEADER + "a,1,b,0,9,id1\n\nb,1,b,0,9,id1\na,1,b,0,9,id1\n",
            "train.csv:5: ID=a: is in line 2 too; give each row an ID of its own.",
        ),
        (HEADER.replace("ID", "ID,id"), "csv:1: a column id, which means something else"),
        (HEADER.replace("ID", "ID,wav"), "csv:1: column wav is there twice; keep one"),
        (HEADER + "a,1,\0,0,9,id1\n", "train.csv(:2)?: .*(null character|NUL)"),
        (HEADER + f"a,1,{'b' * 9999}\xff,0,9,id1\n", "train.csv: not a csv file in UTF-8"),
        (HEADER + f"a,1,{'b' * 140000},0,9,id1\n", r"not a csv file .*\(field larger"),
    ],
)
def test_a_wrong_file_is_named_with_the_line(tmp_path, text, message):
    path = tmp_path / "train.csv"
    with pytest.raises(FileNotFoundError, match="train.csv: no such csv file; give"):
        Rows(path)
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=message):
        Rows(path, NEEDED)


def test_a_column_that_is_not_there(tmp_path):
    rows = Rows(write(tmp_path / "train.csv", table()))
    with pytest.raises(ValueError, match="train.csv:1: no column speaker, only ID"):
        rows.column("speaker")
    with pytest.raises(KeyError, match="id9"):
        rows["id9"]


def test_ids_whose_checksums_agree_are_told_apart(tmp_path):
    """crc32 of both is 0x4ddb0c25."""
    path = write(tmp_path / "a.csv", [["ID", "wav"], ["plumless", "a"], ["buckeroo", "b"]])
    rows = Rows(path)
    assert rows["plumless"] == {"wav": "a"} and rows["buckeroo"] == {"wav": "b"}


def test_the_file_may_change_after_it_was_read(tmp_path):
    path = write(tmp_path / "train.csv", table())
    rows = Rows(path)
    before = dict(rows)
    path.write_text("")
    assert dict(rows) == before and len(before) == 50


def dumped(dataset, sender):
    """In a process of its own: what it was sent, and in which file that lies."""
    shared = dataset.data._shared
    sender.send((list(dataset), os.fstat(shared._file.fileno()).st_ino))


@pytest.mark.parametrize("start", ["fork", "spawn"])  # test_pipelines.py: forkserver
def test_processes_have_the_same_rows_and_not_a_copy(tmp_path, start):
    path = write(tmp_path / "train.csv", table())
    dataset = RowDataset.from_csv(path, output_keys=["id", "wav", "stop"])
    context = multiprocessing.get_context(start)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=dumped, args=(dataset, sender))
    process.start()
    sender.close()
    items, file = receiver.recv()
    process.join()
    assert items == list(dataset)
    assert file == os.fstat(dataset.data._shared._file.fileno()).st_ino


def test_a_pickle_is_a_copy(tmp_path):
    path = write(tmp_path / "train.csv", table())
    dataset = RowDataset.from_csv(path, output_keys=["id", "wav", "stop"])
    pickled = pickle.dumps(dataset)
    expected = list(dataset)
    del dataset
    assert list(pickle.loads(pickled)) == expected
