"""The same speech in each layout: the same training, the same scores."""

import csv
import os
from pathlib import Path

import pytest
import torch

from hamsb.dataio.draws import Draw
from hamsb.dataio.pipelines import RandomCrop
from hamsb.dataio.rows import RowDataset
from hamsb.training.outcome import _own_names
from hamsb.training.run import _development
from hamsb.verification.lookup import read_lists
from hamsb.verification.scoring import score_lists
from runs import FbankMean, write_layouts, write_list, write_speakers
from voxceleb_prepare import prepare_voxceleb

TOLD = ("tree", "bare", "list.csv", "list.jsonl", "segments")  # have the same sessions


@pytest.fixture(scope="module")
def layouts(tmp_path_factory):
    """Layout -> data source, and how it names an utterance of the tree."""
    folder = tmp_path_factory.mktemp("layouts")
    write_speakers(folder / "tree", 8, first=0)
    return write_layouts(folder / "tree", folder)


def read_rows(path):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def prepare(source, folder, **options):
    defaults = {"dev_speakers": 3, "dev_trials": 9, "num_workers": 1}
    return prepare_voxceleb(source, folder, **{**defaults, **options})


def test_the_same_rows_and_development_speakers(layouts, tmp_path):
    """Stretches of long files hold the same samples; a train.csv is a layout too."""
    found = {}
    for name, (source, _) in layouts.items():
        prepared = prepare(source, tmp_path / name)
        assert prepare(source, tmp_path / name).reused
        parts = [read_rows(path) for path in (prepared.train_csv, prepared.dev_csv)]
        rows = [[(row["duration"], row["spk_id"]) for row in part] for part in parts]
        if name != "segments":
            for part, own in zip(parts, rows):
                files = [Path(row["wav"]).resolve() for row in part]
                own[:] = zip(own, files, [(row["start"], row["stop"]) for row in part])
        trials = [line.split() for line in prepared.dev_trials.open()]
        found[name] = rows, trials
    rows, trials = found["tree"]
    for name, (_, how) in layouts.items():
        if name == "segments":
            assert found[name][0] == [[row[0] for row in part] for part in rows]
        else:
            assert found[name][0] == rows, name
        if name in TOLD:
            assert found[name][1] == [[label, how(a), how(b)] for label, a, b in trials]
    again = prepare(tmp_path / "segments" / "train.csv", tmp_path / "x", dev_speakers=0)
    mine = read_rows(again.train_csv)
    assert mine == read_rows(tmp_path / "segments" / "train.csv")


def test_the_same_scores(layouts, tmp_path):
    """With lists of each form; with and without extensions."""
    root, _ = layouts["tree"]
    write_list(root, tmp_path / "tree.txt", [f"id{number:02d}" for number in range(4)])
    lines = [line.split() for line in (tmp_path / "tree.txt").open()]
    expected = None
    for name, (source, how) in reversed(layouts.items()):
        path = tmp_path / f"{name}.trials"
        rows = [(label, how(one), how(other)) for label, one, other in lines]
        if name in ("kaldi", "segments"):
            words = {"0": "nontarget", "1": "target"}
            text = "".join(f"{one} {other} {words[label]}\n" for label, one, other in rows)
        elif name == "list.csv":
            rows = [(label, f"{one}.flac", other) for label, one, other in rows]
            text = "label,enrol,test\n" + "".join(",".join(row) + "\n" for row in rows)
        else:
            text = "".join(" ".join(row).replace(".wav", "") + "\n" for row in rows)
        path.write_text(text)
        lists, files = read_lists(path, source)
        scores = score_lists(FbankMean(), lists, files, 16000, progress=False)[name]
        expected = scores.tolist() if expected is None else expected
        assert scores.tolist() == expected, name
        assert lists[0].speakers == tuple(f"id{number:02d}" for number in range(4))


def test_speakers_of_a_list_never_train(layouts, tmp_path):
    """Whatever the layouts of list and training data."""
    root, _ = layouts["tree"]
    for name, (source, how) in layouts.items():
        path = tmp_path / f"{name}.txt"
        path.write_text(f"0 {how('id01/x/00000.wav')} {how('id02/x/00000.wav')}\n")
        for data in (source, root):
            options = {"verification_file": path, "test_data_folder": source}
            prepared = prepare(data, tmp_path / "save", dev_speakers=0, **options)
            used = {row["spk_id"] for row in read_rows(prepared.train_csv)}
            assert used == {f"id0{i}" for i in (0, 3, 4, 5, 6, 7)}, name
    path.write_text("0 id01-x-00000 id02-x-00000\n")
    with pytest.raises(ValueError, match="no speaker in 'id01-x-00000'.*in the test data"):
        prepare(root, tmp_path / "save", verification_file=path)


def test_crops_stay_within_their_stretch(layouts, tmp_path):
    """The utterances before and behind it are others."""
    prepared = prepare(layouts["segments"][0], tmp_path, dev_speakers=0)
    data = RowDataset.from_csv(prepared.train_csv, RandomCrop.columns)
    crop = RandomCrop(15000)
    whole = prepare(layouts["tree"][0], tmp_path / "tree", dev_speakers=0)
    files = RowDataset.from_csv(whole.train_csv, RandomCrop.columns)
    starts = []
    for row, file in zip(data.data.values(), files.data.values(), strict=True):
        starts.append(int(row["start"]))
        for epoch in range(3):
            draw = Draw(0, epoch, len(starts))
            mine, theirs = (
                crop(each["wav"], each["start"], each["stop"], draw) for each in (row, file)
            )
            assert torch.equal(mine, theirs)
    assert max(starts) >= 16000


def test_the_evaluation_of_cn_celeb_does_not_train(layouts, tmp_path):
    root, _ = layouts["tree"]
    for number in range(4):
        for k, genre in enumerate(("singing", "live")):
            file = tmp_path / "data" / f"id{number}" / f"{genre}-01-00{k}.wav"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.symlink_to(root / "wav" / f"id0{number}" / "x" / f"0000{k}.wav")
    file = tmp_path / "eval" / "test" / "id3-drama-01-001.wav"
    file.parent.mkdir(parents=True)
    file.symlink_to(root / "wav" / "id03" / "y" / "00000.wav")
    lists = tmp_path / "eval" / "lists"
    lists.mkdir()
    (lists / "enroll.map").write_text("id3-enroll id3/singing-01-000.wav\n")
    (lists / "trials.lst").write_text("id3-enroll test/id3-drama-01-001.flac 1\n")
    options = {"dev_speakers": 0, "verification_file": lists / "trials.lst"}
    prepared = prepare(tmp_path, tmp_path / "save", **options)
    found = read_rows(prepared.train_csv)
    assert {row["spk_id"] for row in found} == {"id0", "id1", "id2"}
    assert found[0]["ID"] == "id0/live-01-001"


def test_namesakes_of_two_tables(layouts, tmp_path):
    """Refused, told apart, or merged, as those of two folders."""
    kaldi, same = (layouts[name][0] for name in ("kaldi", "list.csv"))
    write_speakers(tmp_path / "tree", 8, first=0)
    table = write_layouts(tmp_path / "tree", tmp_path)["list.csv"][0]
    with pytest.raises(ValueError, match="00000.wav is in both .*kaldi and .*list.csv, as"):
        prepare([kaldi, same], tmp_path / "save", prefix_speakers=True)
    first, *_, one = sorted((tmp_path / "tree").rglob("*.wav"))
    one.write_bytes(first.read_bytes())  # behind another of its size and time
    for path in (tmp_path / "tree").rglob("*.wav"):
        os.utime(path, ns=(0, 0))
    (tmp_path / "again.csv").write_text(f"ID,wav,spk_id\nlast,{one},zoe\n")
    with pytest.raises(ValueError, match=f"{one} is in both"):
        prepare([tmp_path / "tree", tmp_path / "again.csv"], tmp_path / "save")
    with pytest.raises(ValueError, match="8 speakers occur both .* 32 utterances have one"):
        prepare([kaldi, table], tmp_path / "save")
    with pytest.raises(ValueError, match="two files have the ID 'id00-x-00000'"):
        prepare([kaldi, table], tmp_path / "save", merge_speakers=True)
    options = {"dev_speakers": 4, "prefix_speakers": True}
    prepared = prepare([kaldi, table], tmp_path / "save", **options)
    assert prepared.prefixes == ["kaldi-", "list.csv-"] and prepared.utterances == 48
    lists, files = read_lists(prepared.dev_trials, prepared.dev_csv)
    assert set(lists[0].speakers) == {row["spk_id"] for row in read_rows(prepared.dev_csv)}
    names = _own_names(prepared.train_csv, prepared.prefixes)
    assert names <= {f"id0{number}" for number in range(8)}
    trials, _ = _development(prepared)
    assert set(trials.speakers) <= {f"id0{number}" for number in range(8)}


@pytest.mark.parametrize(
    ("prefixes", "speaker", "wav", "name"),
    [
        # Kaldi's recipe for LibriSpeech: speaker and chapter.
        ([], "19-198", "/corpus/19/198/19-198-0000.flac", "19-198"),
        (["calls-"], "calls-id1", "/corpus/calls/id1/a.wav", "id1"),
        (["a-", "a-b-"], "a-b-c", "/a/wav/b-c/x/1.wav", "b-c"),
        (["a-", "a-b-"], "a-b-c", "/a/b/wav/c/x/1.wav", "c"),
    ],
)
def test_a_speakers_own_name(tmp_path, prefixes, speaker, wav, name):
    (tmp_path / "train.csv").write_text(f"wav,spk_id\n{wav},{speaker}\n")
    assert _own_names(tmp_path / "train.csv", prefixes) == {name}
