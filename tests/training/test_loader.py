"""The batches of a training: equal for any number of workers and processes, and after a
resumption."""

import csv

import numpy as np
import pytest
import soundfile
import torch
from speechbrain import Stage
from speechbrain.augment.augmenter import Augmenter
from speechbrain.utils.epoch_loop import EpochCounter

from hamsb import AddNoise, AddReverb, SpeakerBatchSampler, SpeedPerturb
from hamsb.augment.corpora import prepare_audio_csv
from hamsb.augment.reads import Reads, Speeds
from hamsb.dataio.pipelines import RandomCrop, TwoCrops, add_steps
from hamsb.dataio.rows import RowDataset
from hamsb.training import brain as module
from hamsb.training.brain import EmbeddingBrain

LENGTH, SEED, ROWS = 400, 5, 26
RANDOM = {"shuffle": True, "drop_last": True}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Crops, two views of them, speeds, and what a room and a noise are read for."""
    folder, random = tmp_path_factory.mktemp("loader"), np.random.default_rng(0)
    for kind, count in (("noise", 5), ("rir", 5), ("wav", ROWS)):
        (folder / kind).mkdir()
        for k in range(count):
            data = 0.1 * random.standard_normal(1000 + 10 * k)
            soundfile.write(folder / kind / f"{k}.wav", data, 16000, subtype="FLOAT")
    for kind in ("noise", "rir"):
        prepare_audio_csv(folder / kind, folder / f"{kind}.csv", key=kind)
    with open(folder / "train.csv", "w", newline="") as stream:
        rows = [(k, folder / "wav" / f"{k}.wav", 0, 1000) for k in range(ROWS)]
        csv.writer(stream).writerows([("ID", "wav", "start", "stop"), *rows])
    augmenter = Augmenter(
        min_augmentations=2,
        max_augmentations=2,
        augmentations=[
            AddReverb(folder / "rir.csv"),
            AddNoise(folder / "noise.csv", [0, 15]),
        ],
    )
    steps = [RandomCrop(LENGTH, SEED), TwoCrops(LENGTH, SEED)]
    steps += [Speeds(SpeedPerturb([100, 90, 110], out_neurons=30).draw, SEED)]
    steps += [Reads(augmenter, LENGTH, SEED, view) for view in (0, 1)]
    made = RowDataset.from_csv(folder / "train.csv")
    add_steps(made, *steps)
    made.set_output_keys(["id", *(key for step in steps for key in step.provides)])
    return made


@pytest.fixture
def batches(dataset, monkeypatch):
    """A function: of each epoch the batches, each a dict of the places of its utterances
    -> all that was read for it, but for padding."""

    def batches(rank=0, processes=1, epochs=(1, 2), after=0, seed=SEED, **options):
        modules = {"embedding_model": torch.nn.Linear(2, 2)}
        hparams = {"seed": seed, "epoch_counter": EpochCounter(9)}
        brain = EmbeddingBrain(modules, hparams=hparams, run_opts={"device": "cpu"})
        brain.step = after
        monkeypatch.setattr(module, "share", lambda: (rank, processes))
        loader = brain.make_dataloader(dataset, Stage.TRAIN, ckpt_prefix=None, **options)
        loader._speechbrain_recovery_skip_to = after or None
        state, found = torch.get_rng_state(), []
        for epoch in epochs:
            brain.train_sampler.set_epoch(epoch)
            found.append([content(batch) for batch in loader])
        assert torch.equal(torch.get_rng_state(), state)  # of masks, on the device
        return found

    return batches


def content(batch):
    tensors = [key for key in vars(batch)["_values"] if key not in ("id", "speed")]
    return [
        (
            name,
            batch.speed[row],
            *(tuple(batch[key].data[row].tolist()) for key in tensors if "_1_0" not in key),
        )
        for row, name in enumerate(batch.id)
    ]


def unpadded(batch):
    """What was read for each utterance, but for the padding."""
    return [
        tuple(np.trim_zeros(v, "b") if isinstance(v, tuple) else v for v in each)
        for each in batch
    ]


def test_workers_read_what_the_main_process_reads(batches):
    alone = batches(batch_size=6, **RANDOM)
    assert len(alone[0]) == 4 and alone[0] != alone[1]
    ways = {"num_workers": 2, "batch_size": 6, **RANDOM}
    assert batches(**ways) == alone
    assert batches(**ways, persistent_workers=False, prefetch_factor=1) == alone
    assert batches(num_workers=1, batch_size=6, **RANDOM) == alone
    others = batches(batch_size=6, seed=SEED + 1, **RANDOM)
    assert [name for name, *_ in others[0][0]] != [name for name, *_ in alone[0][0]]


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_read_what_one_reads(batches, processes):
    (alone,) = batches(batch_size=6, epochs=[2], **RANDOM)
    ways = {"batch_size": 6 // processes, "epochs": [2], **RANDOM}
    parts = [batches(rank, processes, **ways)[0] for rank in range(processes)]
    assert len(alone) == 4
    for single, *shared in zip(alone, *parts, strict=True):
        together = [each for row in zip(*shared) for each in row]
        assert unpadded(together) == unpadded(single)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_epoch_goes_on_with_what_would_have_come(batches, workers):
    (whole,) = batches(batch_size=6, epochs=[2], **RANDOM)
    ways = {"num_workers": workers, "batch_size": 6, **RANDOM}
    assert batches(epochs=[2, 3], after=2, **ways)[0] == whole[2:]


def test_batches_of_a_sampler_have_draws_of_their_own(batches):
    """A pair of one utterance is of two crops; whole batches are shared by processes."""

    def sampler():
        speakers = ["a"] + [f"s{k // 5}" for k in range(1, ROWS)]
        return SpeakerBatchSampler(speakers, 5, steps_per_epoch=4, seed=0)

    alone = batches(batch_sampler=sampler(), epochs=[1, 2])
    assert batches(batch_sampler=sampler(), num_workers=2) == alone
    assert alone[0] != alone[1]
    parts = [batches(rank, 2, batch_sampler=sampler(), epochs=[1])[0] for rank in (0, 1)]
    assert [batch for pair in zip(*parts) for batch in pair] == alone[0]
    twice = [b for b in alone[0] for one in b for other in b if one[0] == other[0] == "0"]
    assert len(twice) > 1
    crops = {each[2] for batch in alone[0] for each in batch if each[0] == "0"}
    assert len(crops) > 1


def test_an_order_of_ones_own(batches):
    (found,) = batches(sampler=[4, 4, 7], batch_size=2, epochs=[1])
    assert [name for batch in found for name, *_ in batch] == ["4", "4", "7"]
    assert found[0][0] != found[0][1]
    (found,) = batches(batch_size=9, epochs=[1])  # without shuffle, that of the file
    assert [name for batch in found for name, *_ in batch] == [str(k) for k in range(ROWS)]
    (part,) = batches(1, 2, batch_size=9, epochs=[1])
    assert [name for batch in part for name, *_ in batch] == [
        str(k) for k in range(1, ROWS, 2)
    ]
    for wrong in (
        {"shuffle": True, "sampler": [1]},
        {"shuffle": True, "batch_sampler": []},
    ):
        with pytest.raises(ValueError):
            batches(**wrong)
