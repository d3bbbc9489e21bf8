"""What augmentations read in a loader's workers."""

import csv

import numpy as np
import pytest
import soundfile
import torch
from speechbrain.augment.augmenter import Augmenter

from hamsb.augment.corpora import prepare_audio_csv
from hamsb.augment.reads import Reads, Speeds, augment, readers
from hamsb.augment.time_domain import AddNoise, AddReverb, SpeedPerturb
from hamsb.dataio.draws import Draw
from hamsb.dataio.packing import PackedBatch
from hamsb.dataio.pipelines import RandomCrop, add_steps
from hamsb.dataio.rows import RowDataset
from stand_ins import Echo

LENGTH, SEED = 2000, 5


@pytest.fixture
def folder(tmp_path):
    """Six noises, six rooms and eight utterances."""
    random = np.random.default_rng(0)
    for kind, count, samples in (("noise", 6, 5000), ("rir", 6, 900), ("wav", 8, 4000)):
        (tmp_path / kind).mkdir()
        for k in range(count):
            data = 0.1 * random.standard_normal(samples + 50 * k)
            data[20 * k] = 0.9  # a response's loudest sample is not its first
            soundfile.write(tmp_path / kind / f"{k}.wav", data, 16000, subtype="FLOAT")
    for kind in ("noise", "rir"):
        prepare_audio_csv(tmp_path / kind, tmp_path / f"{kind}.csv", key=kind)
    with open(tmp_path / "train.csv", "w", newline="") as stream:
        rows = [(k, tmp_path / "wav" / f"{k}.wav", 0, 4000) for k in range(8)]
        csv.writer(stream).writerows([("ID", "wav", "start", "stop"), *rows])
    return tmp_path


def chain(folder, **options):
    return Augmenter(
        min_augmentations=3,
        max_augmentations=3,
        augmentations=[
            AddReverb(folder / "rir.csv"),
            Echo(),
            AddNoise(folder / "noise.csv", [0, 15]),
        ],
        **options,
    )


def examples(folder, augmenter, views=(0,), epoch=1):
    """Of the utterances 3, 1, 3 at the places 0, 1, 2."""
    dataset = RowDataset.from_csv(folder / "train.csv")
    steps = [RandomCrop(LENGTH, SEED)]
    steps += [Reads(augmenter, LENGTH, SEED, view) for view in views]
    add_steps(dataset, *steps)
    dataset.set_output_keys(["id", *(key for step in steps for key in step.provides)])
    torch.manual_seed(np.random.randint(1000))  # does not matter
    return [dataset[Draw(row, epoch, place)] for place, row in enumerate((3, 1, 3))]


def test_mixed_is_what_was_read(folder):
    """Of each utterance what its draw gives, whatever else is in the batch; as if the
    augmentations had read it themselves."""
    augmenter = chain(folder, concat_original=True)
    batch = PackedBatch(examples(folder, augmenter))
    state = torch.get_rng_state()
    mixed, lengths = augment(augmenter, *batch.sig, batch, 0)
    assert mixed.shape == (6, LENGTH) and lengths.tolist() == [1.0] * 6
    assert torch.equal(mixed[:3], batch.sig.data)
    alone = PackedBatch(examples(folder, augmenter)[1:2])
    other, _ = augment(augmenter, *alone.sig, alone, 0)
    torch.testing.assert_close(other[1], mixed[4], rtol=0, atol=1e-6)

    reverb, echo, noise = augmenter.augmentations.values()
    for place, row in enumerate((3, 1, 3)):
        uses = [Draw(row, 1, place).generator(SEED, 0, use) for use in (2, 3)]
        for each, random in zip((reverb, noise), uses):
            read = {name: value[None] for name, value in each.read(LENGTH, random).items()}
            each.given.append(read)
        wav = batch.sig.data[place : place + 1]
        plain = noise(echo(reverb(wav)), torch.ones(1))[0]
        torch.testing.assert_close(mixed[3 + place], plain, rtol=0, atol=1e-6)
    differ = [mixed[3] - mixed[5], batch.sig.data[0] - batch.sig.data[2]]  # one utterance
    assert all(each.abs().max() > 0.01 for each in differ)
    augmenter(*batch.sig)
    assert not torch.equal(torch.get_rng_state(), state)  # without, it reads and draws


def test_nothing_is_read_while_it_mixes(folder, monkeypatch):
    augmenter = chain(folder, repeat_augment=2)
    batch = PackedBatch(examples(folder, augmenter))
    for name in ("AddNoise", "AddReverb"):
        monkeypatch.setattr(f"hamsb.augment.time_domain.{name}.read", None)
    mixed, _ = augment(augmenter, *batch.sig, batch, 0)
    assert mixed.shape == (6, LENGTH) and not torch.equal(mixed[:3], mixed[3:])


def test_views_and_epochs_are_drawn_by_themselves(folder):
    augmenter = chain(folder)
    batch = PackedBatch(examples(folder, augmenter, views=(0, 1)))
    found = [augment(augmenter, *batch.sig, batch, view)[0] for view in (0, 1)]
    again = PackedBatch(examples(folder, augmenter, epoch=2))
    found += [augment(augmenter, *batch.sig, again, 0)[0]]
    for one, other in ((0, 1), (0, 2)):
        assert (found[one] - found[other]).abs().amax(1).min() > 0.01
    assert not torch.equal(batch.sig.data, again.sig.data)


def test_an_augmenter_that_hands_on_a_part_reads_for_itself(folder):
    whole = chain(folder)
    assert len(readers(whole)) == 2 and len(readers(chain(folder, repeat_augment=3))) == 6
    for nothing in (None, Echo(), Augmenter(max_augmentations=1, min_augmentations=0)):
        assert readers(nothing) == [] == list(Reads(nothing, LENGTH, SEED, 0).provides)
    nested = Augmenter(min_augmentations=1, max_augmentations=1, augmentations=[whole])
    assert readers(nested) == readers(whole)
    for part in (
        {"augment_start_index": 1},
        {"augment_end_index": 2},
        {"parallel_augment": True, "parallel_augment_fixed_bs": True},
    ):
        augmenter = chain(folder, **part)
        batch = PackedBatch(examples(folder, augmenter))
        mixed, _ = augment(augmenter, *batch.sig, batch, 0)
        assert mixed.isfinite().all(), part


def test_what_is_wrong_with_the_files_is_told_before_the_training(folder):
    (folder / "noise.csv").unlink()
    with pytest.raises(FileNotFoundError, match="noise.csv: no such csv file"):
        Reads(chain(folder), LENGTH, SEED, 0)


def test_speeds_are_drawn_by_place():
    speeds = SpeedPerturb([100, 90, 110], out_neurons=30)
    step = Speeds(speeds.draw, SEED)
    drawn = [step(Draw(0, 1, place)) for place in range(60)]
    torch.manual_seed(1)
    assert drawn == [step(Draw(7, 1, place)) for place in range(60)]
    assert min(drawn.count(k) for k in range(3)) > 8
    wavs, labels = torch.randn(60, speeds.read_length(100)), torch.zeros(60, 1).long()
    _, perturbed = speeds(wavs, labels, drawn)
    assert [label // 10 for label in perturbed[:, 0].tolist()] == drawn
    assert step(None) in (0, 1, 2)
