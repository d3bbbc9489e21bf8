"""Batches of speakers: what each holds, seeds and epochs, processes, SpeechBrain."""

import itertools
from collections import Counter
from itertools import product

import numpy as np
import pytest
import speechbrain as sb
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.dataio.sampler import DistributedSamplerWrapper
from speechbrain.utils.checkpoints import Checkpointer

from hamsb.dataio.clusters import Clusters, make_clusters, write_clusters
from hamsb.dataio.sampling import SpeakerBatchSampler

SEEDS = range(5)


def corpus(seed, speakers=24, most=6, least=1):
    """The speaker of each entry, in random order: ``least`` to ``most`` utterances."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(least, most + 1, speakers)
    names = [f"id{i:02d}" for i in range(speakers)]
    return rng.permutation(np.repeat(names, counts)).tolist()


def clusters_of(speakers, k, seed=0, distances=True):
    """Random clusters numbered 10, 11, ..., each with a speaker, and their order."""
    rng = np.random.default_rng(seed)
    names = sorted(set(speakers))
    labels = np.concatenate([np.arange(k), rng.integers(0, k, len(names) - k)])
    found = make_clusters(names, labels, rng.random((k, k)) if distances else None)
    return Clusters(
        {name: 10 + label for name, label in found.of_speaker.items()},
        found.nearest
        and {10 + c: tuple(10 + o for o in others) for c, others in found.nearest.items()},
        None,
    )


def equal_clusters(k=5, each=6, utterances=3):
    """k clusters of as many speakers each, in a line: cluster 0 is nearest to 1."""
    names = [f"id{i:02d}" for i in range(k * each)]
    line = np.abs(np.arange(k)[:, None] - np.arange(k) - 0.1)  # of two, the higher one
    clusters = make_clusters(names, np.arange(k * each) % k, line)
    return names * utterances, clusters


def speakers_in(batch, speakers):
    return [speakers[entry] for entry in batch]


# ----------------------------------------------------------------- what a batch is


def test_a_batch_holds_each_speaker_once_with_two_utterances():
    for seed, ratio, further, single, size in product(
        SEEDS,
        [0.0, 0.3, 0.75, 1.0],
        ["random", "nearest"],
        ["repeat", "drop"],
        [2, 7, "all"],
    ):
        speakers = corpus(seed)
        counts = Counter(speakers)
        usable = {s for s, n in counts.items() if single == "repeat" or n > 1}
        assert len(usable) < len(counts) or single == "repeat"
        size = len(usable) if size == "all" else size
        clusters = clusters_of(speakers, k=5, seed=seed)
        sampler = SpeakerBatchSampler(
            speakers, size, 6, seed, clusters, ratio, further, single
        )
        sampler.set_epoch(seed)
        batches = list(sampler)
        assert len(batches) == len(sampler) == 6
        for batch in batches:
            assert all(type(entry) is int for entry in batch)
            first = speakers_in(batch[::2], speakers)
            assert first == speakers_in(batch[1::2], speakers)
            assert len(set(first)) == len(first) == size
            assert set(first) <= usable
            for one, two in zip(batch[::2], batch[1::2]):
                assert (one == two) == (counts[speakers[one]] == 1)


def test_hard_speakers_fill_whole_clusters_where_these_fit():
    for seed, (size, ratio) in product(SEEDS, [(6, 1.0), (12, 1.0), (12, 0.5), (20, 0.6)]):
        speakers, clusters = equal_clusters()
        sampler = SpeakerBatchSampler(speakers, size, 200, seed, clusters, ratio)
        full = sampler.num_hard // 6
        whole = []
        for batch in sampler:
            held = Counter(
                clusters.of_speaker[s] for s in speakers_in(batch[::2], speakers)
            )
            whole.append(sorted(c for c, n in held.items() if n == 6))
            assert len(whole[-1]) >= full
        drawn = Counter(map(tuple, whole))
        # All choices of clusters occur, none much more often than another.
        choices = [drawn[c] for c in itertools.combinations(range(5), full)]
        expected = sum(choices) / len(choices)
        assert sum(choices) > 180  # few batches complete a further cluster by chance
        assert max(abs(n - expected) for n in choices) < 4.5 * expected**0.5


def test_the_pool_is_no_larger_than_needed():
    for further in ["random", "nearest"]:
        speakers, clusters = equal_clusters()
        sampler = SpeakerBatchSampler(speakers, 8, 300, 0, clusters, 1.0, further)
        shares = Counter()
        for batch in sampler:
            held = Counter(
                clusters.of_speaker[s] for s in speakers_in(batch[::2], speakers)
            )
            assert len(held) == 2
            shares.update(held.values())
        # Drawn from all 12 of the pool: most batches halve the two clusters.
        assert shares.keys() == {2, 3, 4, 5, 6} and shares[4] > shares[6] * 3


def test_the_nearest_clusters_join_the_pool_first():
    for hard, pools in [
        (6, [{0}, {1}, {2}, {3}, {4}]),
        (12, [{0, 1}, {1, 2}, {2, 3}, {3, 4}, {4, 3}]),
        (18, [{0, 1, 2}, {1, 2, 0}, {2, 3, 1}, {3, 4, 2}, {4, 3, 2}]),
        (30, [{0, 1, 2, 3, 4}]),
    ]:
        speakers, clusters = equal_clusters()
        sampler = SpeakerBatchSampler(speakers, hard, 100, 0, clusters, 1.0, "nearest")
        found = {
            frozenset(clusters.of_speaker[s] for s in speakers_in(batch, speakers))
            for batch in sampler
        }
        assert found == set(map(frozenset, pools))


def test_the_number_of_hard_speakers_is_rounded():
    speakers, clusters = equal_clusters()
    for ratio, hard in ((0, 0), (0.24, 2), (0.25, 2), (0.26, 3), (0.999, 10), (1, 10)):
        assert SpeakerBatchSampler(speakers, 10, 1, 0, clusters, ratio).num_hard == hard


def test_no_speaker_and_no_place_in_the_batch_is_preferred():
    for ratio in [0.0, 0.5, 1.0]:
        speakers, clusters = equal_clusters()
        sampler = SpeakerBatchSampler(speakers, 10, 4000, 1, clusters, ratio)
        drawn = np.array(speakers)[sampler.plan()[:, ::2]]
        expected = 4000 / 3  # 10 of 30 speakers
        for name in set(speakers):
            assert abs((drawn == name).sum() - expected) < 5 * expected**0.5
            assert (
                abs((drawn[:, 0] == name).sum() - expected / 10)
                < 5 * (expected / 10) ** 0.5
            )


def test_other_speakers_are_uniform_in_choice_and_place():
    # A whole cluster of 6, and 2 of the 24 other speakers.
    speakers, clusters = equal_clusters()
    sampler = SpeakerBatchSampler(speakers, 8, 4000, 1, clusters, 0.75)
    others, places = Counter(), Counter()
    for batch in sampler:
        names = speakers_in(batch[::2], speakers)
        held = Counter(clusters.of_speaker[s] for s in names)
        (full,) = [c for c, n in held.items() if n == 6]
        outside = [i for i, s in enumerate(names) if clusters.of_speaker[s] != full]
        others.update(names[i] for i in outside)
        places.update(outside)
    assert len(others) == 30 and len(places) == 8 and others.total() == 8000
    assert max(abs(n - 8000 / 30) for n in others.values()) < 5 * (8000 / 30) ** 0.5
    assert max(abs(n - 1000) for n in places.values()) < 5 * 1000**0.5


def test_every_pair_of_utterances_is_as_likely():
    speakers = ["a", "b", "a", "b", "a", "a"]
    sampler = SpeakerBatchSampler(speakers, 2, 6000, 0)
    pairs = Counter(tuple(pair) for pair in sampler.plan().reshape(-1, 2).tolist())
    for entries in ([0, 2, 4, 5], [1, 3]):
        expected = 6000 / (len(entries) * (len(entries) - 1))
        for pair in itertools.permutations(entries, 2):
            assert abs(pairs.pop(pair) - expected) < 5 * expected**0.5
    assert not pairs


def test_every_utterance_is_reached_in_time():
    for ratio, single in product([0.0, 1.0], ["repeat", "drop"]):
        speakers = corpus(3)
        counts = Counter(speakers)
        sampler = SpeakerBatchSampler(
            speakers, 5, 40, 0, clusters_of(speakers, 4), ratio, single_utterance=single
        )
        reached = set()
        for epoch in range(1, 11):
            sampler.set_epoch(epoch)
            reached |= {entry for batch in sampler for entry in batch}
        usable = {e for e, s in enumerate(speakers) if single == "repeat" or counts[s] > 1}
        assert reached == usable


# --------------------------------------------------------- seeds, epochs, processes


def test_an_epoch_is_a_function_of_seed_and_epoch():
    speakers = corpus(0)

    def sampler(seed, ratio):
        clusters = clusters_of(speakers, 4)
        return SpeakerBatchSampler(speakers, 6, 5, seed, clusters, ratio)

    for ratio in (0.0, 0.6, 1.0):
        one, plans = sampler(1, ratio), {}
        for epoch in (1, 2, 3):
            one.set_epoch(epoch)
            plans[epoch] = list(one)
        assert list(one) == plans[3]
        one.set_epoch(1)  # going back, as a resumed run does
        torch.manual_seed(7), np.random.seed(7)
        assert list(one) == plans[1]
        again, other = sampler(1, ratio), sampler(2, ratio)
        again.set_epoch(2), other.set_epoch(2)
        assert list(again) == plans[2] == again.plan().tolist()
        different = [plans[1], plans[2], plans[3], list(other)]
        assert all(a != b for a, b in itertools.combinations(different, 2))


def test_processes_share_the_batches_of_one_plan():
    for processes in [2, 3]:
        speakers = corpus(0)
        dealt = []
        for rank in range(processes):
            sampler = SpeakerBatchSampler(speakers, 4, 12, 5, clusters_of(speakers, 4), 1.0)
            wrapper = DistributedSamplerWrapper(
                sampler, num_replicas=processes, rank=rank, shuffle=True
            )
            wrapper.set_epoch(3)  # as Brain does
            dealt += [list(wrapper)]
            assert len(dealt[-1]) == len(wrapper) == 12 // processes
        plan = SpeakerBatchSampler(speakers, 4, 12, 5, clusters_of(speakers, 4), 1.0)
        plan.set_epoch(3)
        assert sorted(itertools.chain(*dealt)) == sorted(plan)


def test_new_clusters_act_from_the_next_epoch_on():
    speakers, old = equal_clusters(k=5, each=6)
    names = sorted(set(speakers))
    new = make_clusters(names, [i // 10 for i in range(30)])
    sampler = SpeakerBatchSampler(speakers, 6, 20, 0, old, 1.0)

    def clusters_held(batch, clusters):
        return len({clusters.of_speaker[s] for s in speakers_in(batch, speakers)})

    running = iter(sampler)
    sampler.set_clusters(new)
    sampler.set_epoch(9)
    assert all(clusters_held(batch, old) == 1 for batch in running)
    assert all(clusters_held(batch, new) == 1 for batch in sampler)
    sampler.set_clusters(old)
    assert all(clusters_held(batch, old) == 1 for batch in sampler)
    with pytest.raises(ValueError, match="no cluster for id00"):
        sampler.set_clusters(Clusters(dict.fromkeys(names[1:], 0), None, None))
    assert sampler.clusters is old
    assert all(clusters_held(batch, old) == 1 for batch in sampler)


def test_clusters_may_know_more_speakers_than_are_trained_on():
    speakers, clusters = equal_clusters()
    some = [s for s in speakers if clusters.of_speaker[s] in (0, 2, 3)]
    sampler = SpeakerBatchSampler(some, 12, 50, 0, clusters, 1.0, "nearest")
    found = {
        frozenset(clusters.of_speaker[s] for s in speakers_in(batch, some))
        for batch in sampler
    }
    assert found == {frozenset({0, 2}), frozenset({2, 3})}


def test_a_dropped_speaker_needs_no_cluster():
    speakers = ["a", "a", "b", "b", "c"]
    clusters = Clusters({"a": 0, "b": 0}, None, None)
    sampler = SpeakerBatchSampler(speakers, 2, 1, 0, clusters, 1.0, single_utterance="drop")
    assert set(speakers_in(*sampler, speakers)) == {"a", "b"}
    with pytest.raises(ValueError, match="no cluster for c: 1 speaker"):
        SpeakerBatchSampler(speakers, 2, 1, 0, clusters, 1.0)


# -------------------------------------------------------------------------- errors


def test_options_out_of_their_range_are_refused():
    for options, message in [
        ({"speakers_per_batch": 1}, "speakers_per_batch=1: .* at least 2"),
        ({"speakers_per_batch": 4.0}, "speakers_per_batch=4.0: must be a whole number"),
        ({"speakers_per_batch": 31}, "speakers_per_batch=31: only 30 speakers"),
        ({"steps_per_epoch": 0}, "steps_per_epoch=0"),
        ({"seed": -1}, "seed=-1"),
        ({"hard_ratio": 1.01}, r"hard_ratio=1.01: must lie in \[0, 1\]"),
        ({"hard_ratio": -0.1}, "hard_ratio=-0.1"),
        ({"hard_ratio": "0.5"}, "hard_ratio='0.5': must lie in"),
        (
            {"hard_ratio": 0.1, "clusters": None},
            "hard_ratio=0.1: hard speakers need clusters",
        ),
        ({"further_clusters": "far"}, r"further_clusters='far'.*'random', 'nearest'"),
        ({"single_utterance": "keep"}, "single_utterance='keep'"),
    ]:
        speakers, clusters = equal_clusters()
        values = {
            "speakers_per_batch": 4, "steps_per_epoch": 2, "seed": 0, "clusters": clusters,
            **options,
        }  # fmt: skip
        with pytest.raises(ValueError, match=message):
            SpeakerBatchSampler(speakers, **values)


def test_nearest_clusters_must_be_known():
    speakers = corpus(0)
    clusters = clusters_of(speakers, 4, distances=False)
    with pytest.raises(ValueError, match="which clusters are nearest is not given"):
        SpeakerBatchSampler(speakers, 4, 2, 0, clusters, 1.0, "nearest")


# --------------------------------------------------------------- with SpeechBrain

YAML = """
seed: 7
steps_per_epoch: 5
batch_size: 8
batch_sampler: !new:hamsb.SpeakerBatchSampler
    speakers: !apply:hamsb.dataio.annotations.read_speakers
        annotation: {folder}/train.csv
    speakers_per_batch: !ref <batch_size> // 2
    steps_per_epoch: !ref <steps_per_epoch>
    seed: !ref <seed>
    clusters: {folder}/clusters.csv
    hard_ratio: 0.5
dataloader_options:
    batch_sampler: !ref <batch_sampler>
    num_workers: {workers}
"""


@pytest.fixture
def training(tmp_path):
    """A function: the yaml's objects and the dataset of its csv file."""

    def make(workers=0):
        speakers = corpus(0)
        rows = "".join(f"{i},{s}\n" for i, s in enumerate(speakers))
        (tmp_path / "train.csv").write_text("ID,spk_id\n" + rows)
        write_clusters(clusters_of(speakers, 4), tmp_path / "clusters.csv")
        hparams = load_hyperpyyaml(YAML.format(folder=tmp_path, workers=workers))
        dataset = DynamicItemDataset.from_csv(csv_path=tmp_path / "train.csv")
        dataset.set_output_keys(["id"])
        return hparams, dataset

    return make


class Recorder(sb.Brain):
    """Trains nothing; keeps the utterances of each batch of each epoch."""

    def on_fit_start(self):
        self.seen = {}
        super().on_fit_start()

    def init_optimizers(self):
        pass

    def on_stage_start(self, stage, epoch=None):
        self.hparams.batch_sampler.set_epoch(epoch)
        self.epoch = epoch

    def fit_batch(self, batch):
        self.seen.setdefault(self.epoch, []).append([int(i) for i in batch.id])
        return torch.zeros(())


def test_brain_trains_on_the_plan_of_each_epoch(training):
    options = {"device": "cpu", "noprogressbar": True}
    for workers in (0, 1):
        hparams, dataset = training(workers)
        brain = Recorder(hparams=hparams, run_opts=options)
        brain.fit([1, 2], dataset, train_loader_kwargs=hparams["dataloader_options"])
        sampler = hparams["batch_sampler"]
        for epoch in (1, 2):
            sampler.set_epoch(epoch)
            assert brain.seen[epoch] == sampler.plan().tolist()
        assert brain.seen[1] != brain.seen[2]


def test_an_interrupted_epoch_goes_on_where_it_was(training, tmp_path):
    def start():
        hparams, dataset = training()
        brain = sb.Brain(hparams=hparams, run_opts={"device": "cpu"})
        brain.checkpointer = Checkpointer(tmp_path / "save")
        loader = brain.make_dataloader(
            dataset, sb.Stage.TRAIN, **hparams["dataloader_options"]
        )
        hparams["batch_sampler"].set_epoch(4)
        return brain, loader, hparams["batch_sampler"]

    brain, loader, sampler = start()
    for _ in zip(range(2), loader):
        pass
    brain.checkpointer.save_checkpoint(end_of_epoch=False)

    brain, loader, sampler = start()
    brain.checkpointer.recover_if_possible()
    rest = [[int(i) for i in batch.id] for batch in loader]
    # `zip` had fetched two batches and asked for no third.
    assert rest == sampler.plan().tolist()[2:]
