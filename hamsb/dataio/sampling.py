"""Batches of speakers: pairs of utterances, with hard negatives from clusters (CHNS).

A batch holds S speakers and two utterances of each, as contrastive losses need it.
With clusters of similar speakers (`hamsb.dataio.clusters`), a share of the speakers comes
from few of these, so that the negatives are hard: clustering-based hard negative
sampling, Masztalski et al., Interspeech 2025, arXiv 2507.17540.
"""

import os
from collections.abc import Iterator, Sequence
from itertools import compress

import numpy as np
from torch.utils.data import Sampler

from hamsb.dataio.clusters import Clusters, read_clusters
from hamsb.utils.checks import check_choice, check_whole, is_number


class SpeakerBatchSampler(Sampler):
    """Batches of S speakers x 2 utterances, a share of the speakers from few clusters.

    Of the S speakers, ``round(hard_ratio * S)`` are hard. A random cluster, all equally
    probable, and further ones until they suffice make a pool; the hard speakers are
    drawn from it without replacement. The others are drawn uniformly from all speakers
    not yet in the batch. The speakers' order is random. Of each speaker two different
    utterances are drawn, which stand side by side: entries 2i and 2i + 1 of a batch are
    of one speaker.

    An epoch is a function of (seed, epoch) and of the clusters, the same in every
    process. It is handed to a data loader as its ``batch_sampler``; under several
    processes Brain deals the whole batches out, so ``steps_per_epoch`` counts those of
    all processes and must be a multiple of their number. Call `set_epoch` before each
    epoch: on one process SpeechBrain's Brain does not, that of hamsb does.

    Arguments
    ---------
    speakers : sequence of str
        The speaker of each entry of the dataset: `read_speakers`.
    speakers_per_batch : int
        S, at least 2 and at most the number of speakers.
    steps_per_epoch : int
        Batches an epoch.
    seed : int
        Seed of all epochs.
    clusters : str, Path or Clusters, optional
        A cluster file or what it holds (`hamsb.dataio.clusters`); must have every
        speaker. Left out, ``hard_ratio`` is 0.
    hard_ratio : float
        In [0, 1]; 0 draws all speakers uniformly.
    further_clusters : {"random", "nearest"}
        How clusters join the pool after the first: in random order, or those nearest
        to the first one first, for which the clusters must know which are.
    single_utterance : {"repeat", "drop"}
        A speaker with one utterance: twice in the batch, of which a dataset of random
        crops makes two crops, or never in a batch.

    Raises
    ------
    ValueError
        An argument out of its range, fewer speakers than S, a speaker that is in no
        cluster (named), "nearest" where that is not known.

    Example
    -------
    >>> from hamsb.dataio.clusters import make_clusters
    >>> speakers = ["a", "a", "a", "b", "b", "c", "c", "d", "d"]
    >>> sampler = SpeakerBatchSampler(
    ...     speakers, speakers_per_batch=2, steps_per_epoch=3, seed=0,
    ...     clusters=make_clusters("abcd", [0, 0, 1, 1]), hard_ratio=1.0,
    ... )
    >>> sampler.set_epoch(1)
    >>> [[speakers[entry] for entry in batch] for batch in sampler]
    [['b', 'b', 'a', 'a'], ['b', 'b', 'a', 'a'], ['c', 'c', 'd', 'd']]
    """

    def __init__(
        self,
        speakers: Sequence[str],
        speakers_per_batch: int,
        steps_per_epoch: int,
        seed: int,
        clusters: str | os.PathLike | Clusters | None = None,
        hard_ratio: float = 0.0,
        further_clusters: str = "random",
        single_utterance: str = "repeat",
    ):
        check_choice("further_clusters", further_clusters, ("random", "nearest"))
        check_choice("single_utterance", single_utterance, ("repeat", "drop"))
        if not is_number(hard_ratio) or not 0 <= hard_ratio <= 1:
            raise ValueError(f"hard_ratio={hard_ratio!r}: must lie in [0, 1].")
        if hard_ratio > 0 and clusters is None:
            raise ValueError(
                f"hard_ratio={hard_ratio}: hard speakers need clusters; give a cluster "
                "file, or hard_ratio 0."
            )
        check_whole("speakers_per_batch", speakers_per_batch, 2)
        check_whole("steps_per_epoch", steps_per_epoch, 1)
        check_whole("seed", seed, 0)
        self.speakers_per_batch = speakers_per_batch
        self.steps_per_epoch = steps_per_epoch
        self.seed = seed
        self.hard_ratio = hard_ratio
        self.further_clusters = further_clusters
        self.single_utterance = single_utterance
        self.epoch = 0
        self._index(speakers)
        if speakers_per_batch > len(self.speakers):
            raise ValueError(
                f"speakers_per_batch={speakers_per_batch}: only {len(self.speakers)} "
                "speakers to draw from; give a smaller one, which in hamsb's yamls is half "
                "of batch_size, or fewer dev_speakers."
            )
        self.clusters: Clusters | None = None
        if isinstance(clusters, (str, os.PathLike)):
            clusters = read_clusters(clusters)
        if clusters is not None:
            self.set_clusters(clusters)

    @property
    def num_hard(self) -> int:
        """How many speakers of a batch come from the pool of clusters."""
        return round(self.hard_ratio * self.speakers_per_batch)

    def __len__(self) -> int:
        return self.steps_per_epoch

    def __iter__(self) -> Iterator[list[int]]:
        """The batches of the epoch, each a list of 2 S dataset entries. What is set
        after this call acts on the next."""
        return iter(self.plan().tolist())

    def set_epoch(self, epoch: int) -> None:
        """The epoch of the next iteration, a number of at least 0."""
        self.epoch = epoch

    def set_clusters(self, clusters: Clusters) -> None:
        """The clusters from the next iteration on; a ValueError as in construction."""
        labels = clusters.labels(self.speakers)
        present, rows, sizes = np.unique(labels, return_inverse=True, return_counts=True)
        if self.further_clusters == "nearest":
            self._nearest = _nearest_rows(clusters, present)
        self._members = np.split(np.argsort(rows, kind="stable"), sizes.cumsum()[:-1])
        self._sizes = sizes
        self.clusters = clusters

    def plan(self) -> np.ndarray:
        """The batches of the epoch: dataset entries, int64 [steps_per_epoch, 2 S]."""
        sequence = np.random.SeedSequence(self.seed, spawn_key=(self.epoch,))
        random = np.random.default_rng(sequence)
        hard = self.num_hard
        chosen = np.empty((self.steps_per_epoch, self.speakers_per_batch), dtype=np.int64)
        if hard:
            for batch, pool in zip(chosen, self._draw_pools(random)):
                batch[:hard] = random.choice(pool, hard, replace=False)
        if hard < self.speakers_per_batch:
            self._fill(chosen, random)
        chosen = random.permuted(chosen, axis=1)
        return self._draw_utterances(chosen, random).reshape(len(chosen), -1)

    def _index(self, speakers):
        """Sort the dataset's entries by speaker."""
        names = sorted(set(map(str, speakers)))
        row = {name: index for index, name in enumerate(names)}
        rows = np.fromiter((row[str(name)] for name in speakers), np.int64, len(speakers))
        counts = np.bincount(rows, minlength=len(names))
        first = counts.cumsum() - counts
        used = counts >= (2 if self.single_utterance == "drop" else 1)
        self.speakers = list(compress(names, used))
        self._entries = np.argsort(rows, kind="stable")
        self._first, self._counts = first[used], counts[used]

    def _draw_pools(self, random):
        """For each batch the speakers of as many clusters as hold ``num_hard``."""
        clusters = len(self._sizes)
        if self.further_clusters == "nearest":
            orders = self._nearest[random.integers(clusters, size=self.steps_per_epoch)]
        else:
            orders = np.tile(np.arange(clusters), (self.steps_per_epoch, 1))
            orders = random.permuted(orders, axis=1)
        short = self._sizes[orders].cumsum(1) < self.num_hard
        for order, further in zip(orders, short.sum(1)):
            yield np.concatenate([self._members[row] for row in order[: further + 1]])

    def _fill(self, chosen, random):
        """Add to the ``num_hard`` speakers of each batch others, uniformly drawn."""
        hard, size = self.num_hard, self.speakers_per_batch
        taken = np.zeros(len(self.speakers), dtype=bool)
        for batch in chosen:
            taken[batch[:hard]] = True
            # Of S different speakers, at least S - hard are not taken.
            drawn = random.choice(len(taken), size, replace=False)
            batch[hard:] = drawn[~taken[drawn]][: size - hard]
            taken[batch[:hard]] = False

    def _draw_utterances(self, chosen, random):
        """Two different utterances of each speaker, the same one twice where there is
        no other: dataset entries [..., 2]."""
        counts = self._counts[chosen]
        one = random.integers(counts)
        step = random.integers(1, np.maximum(counts, 2))
        pair = np.stack([one, (one + step) % counts], axis=-1)
        return self._entries[self._first[chosen][..., None] + pair]


def _nearest_rows(clusters, present):
    """The clusters that have a speaker, by rows of ``present``: for each one itself,
    then the others, nearest first."""
    if clusters.nearest is None:
        raise ValueError(
            f"{clusters.path or 'the clusters'}: further_clusters is 'nearest', but "
            "which clusters are nearest is not given; make them with the distances "
            "among their centers."
        )
    row = {cluster: index for index, cluster in enumerate(present.tolist())}
    return np.array(
        [
            [row[other] for other in (cluster, *clusters.nearest[cluster]) if other in row]
            for cluster in row
        ]
    )
