"""What the training datasets compute, in this process and in others."""

import csv
import pickle

import numpy as np
import pytest
import soundfile
import torch
from speechbrain.dataio.encoder import CategoricalEncoder
from torch.utils.data import DataLoader

from hamsb.dataio.audio import random_crop
from hamsb.dataio.pipelines import (
    RandomCrop,
    SpeakerIndex,
    TwoCrops,
    add_steps,
    number_speakers,
)
from hamsb.dataio.rows import RowDataset


@pytest.fixture
def dataset(tmp_path):
    """Six utterances, each a ramp of its own, of three speakers."""
    rows, labels = [["ID", "wav", "start", "stop", "spk_id"]], CategoricalEncoder()
    for number in range(6):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, np.arange(4000) / 8000 + number, 16000, subtype="FLOAT")
        rows.append([number, path, 0, 4000, f"id{number % 3}"])
    with open(tmp_path / "train.csv", "w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    made = RowDataset.from_csv(tmp_path / "train.csv")
    labels.update_from_iterable(["id0", "id1", "id2"], sequence_input=False)
    add_steps(made, RandomCrop(400), TwoCrops(300), SpeakerIndex(labels))
    made.set_output_keys(["id", "sig", "first", "second", "spk_id_encoded"])
    return made


def test_each_step_gives_what_it_says(dataset):
    torch.manual_seed(0)
    found = dataset[4]
    torch.manual_seed(0)
    path = dataset.data["4"]["wav"]
    assert torch.equal(found["sig"], random_crop(path, 0, 4000, 400))
    assert torch.equal(found["first"], random_crop(path, 0, 4000, 300))
    assert torch.equal(found["second"], random_crop(path, 0, 4000, 300))
    assert torch.equal(found["spk_id_encoded"], torch.tensor([1]))
    for length in (0, 1.5, "400"):
        with pytest.raises(ValueError, match="length="):
            TwoCrops(length)


def test_a_dataset_can_be_sent_to_another_process(dataset):
    sent = pickle.loads(pickle.dumps(dataset))
    found = []
    for each in (dataset, sent):
        torch.manual_seed(1)
        found.append(each[3])
    ours, theirs = found
    assert ours.keys() == theirs.keys() and ours["id"] == theirs["id"] == "3"
    assert all(torch.equal(ours[k], theirs[k]) for k in ours if k != "id")


def test_a_seed_draws_the_same_whatever_starts_the_workers(dataset):
    def crops(start):
        torch.manual_seed(5)
        loader = DataLoader(
            dataset,
            batch_size=2,
            shuffle=True,
            num_workers=2,
            multiprocessing_context=start,
        )
        return [batch["sig"] for batch in loader]

    forked, served = crops("fork"), crops("forkserver")
    assert len(forked) == 3 and torch.equal(torch.cat(forked), torch.cat(served))


def test_speakers_have_the_numbers_that_speechbrain_gives(tmp_path):
    speakers = [f"id{number * 7 % 31 * 5 % 31}" for number in range(200)]
    theirs, ours = CategoricalEncoder(), number_speakers(iter(speakers))
    theirs.update_from_iterable(speakers, sequence_input=False)
    saved = []
    for labels in (theirs, ours):
        labels.expect_len(31)
        labels.save(tmp_path / "labels.txt")
        saved.append((tmp_path / "labels.txt").read_bytes())
    assert saved[0] == saved[1] and len(ours) == 31
