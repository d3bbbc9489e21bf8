"""Batches of speakers: pairs of utterances, with hard negatives from clusters (CHNS).

A batch holds S speakers and two utterances of each, as contrastive losses need it.
With clusters of similar speakers (`hamsb.analysis.clustering`), a share of the speakers comes
from few of these, so that the negatives are hard: clustering-based hard negative
sampling, Masztalski et al., Interspeech 2025, arXiv 2507.17540.
"""

import csv
from pathlib import Path

import numpy as np
from torch.utils.data import Sampler


def read_speakers(annotation, key="spk_id"):
    """The speaker of each row of a SpeechBrain csv file.

    Row i is entry i of ``DynamicItemDataset.from_csv``, as long as that is neither
    sorted nor filtered.

    Arguments
    ---------
    annotation : str or Path
        The csv file.
    key : str
        Its column of speakers.

    Returns
    -------
    list of str

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        No such column, a row without a speaker (with file and line), no rows.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "train.csv")
    ...     _ = path.write_text("ID,wav,spk_id\\nid1/a,a.wav,id1\\nid2/a,b.wav,id2\\n")
    ...     read_speakers(path)
    ['id1', 'id2']
    """
    path = Path(annotation)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such csv file; prepare the data first.")
    speakers = []
    with open(path, newline="", encoding="utf-8") as stream:
        rows = csv.reader(stream, skipinitialspace=True)
        header = next(rows, [])
        if key not in header:
            raise ValueError(f"{path}:1: no column {key!r}, only {', '.join(header)}")
        column = header.index(key)
        for row in rows:
            if len(row) <= column or not row[column]:
                text = ",".join(row)
                raise ValueError(f"{path}:{rows.line_num}: no {key} in {text!r}")
            speakers.append(row[column])
    if not speakers:
        raise ValueError(f"{path}: no rows; prepare the data first.")
    return speakers


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
    epoch: on one process Brain does not.

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
    clusters : hamsb.analysis.clustering.Clusters, optional
        Must hold every speaker. Left out, ``hard_ratio`` is 0.
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
    >>> from hamsb.analysis.clustering import make_clusters
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
        speakers,
        speakers_per_batch,
        steps_per_epoch,
        seed,
        clusters=None,
        hard_ratio=0.0,
        further_clusters="random",
        single_utterance="repeat",
    ):
        _check_choice("further_clusters", further_clusters, ("random", "nearest"))
        _check_choice("single_utterance", single_utterance, ("repeat", "drop"))
        if not 0 <= hard_ratio <= 1:
            raise ValueError(f"hard_ratio={hard_ratio}: must lie in [0, 1].")
        if hard_ratio > 0 and clusters is None:
            raise ValueError(
                f"hard_ratio={hard_ratio}: hard speakers need clusters; give a cluster "
                "file, or hard_ratio 0."
            )
        _check_whole("speakers_per_batch", speakers_per_batch, 2)
        _check_whole("steps_per_epoch", steps_per_epoch, 1)
        _check_whole("seed", seed, 0)
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
                "speakers to draw from."
            )
        self.clusters = None
        if clusters is not None:
            self.set_clusters(clusters)

    @property
    def num_hard(self):
        """How many speakers of a batch come from the pool of clusters."""
        return round(self.hard_ratio * self.speakers_per_batch)

    def __len__(self):
        return self.steps_per_epoch

    def __iter__(self):
        """The batches of the epoch, each a list of 2 S dataset entries. What is set
        after this call acts on the next."""
        return iter(self.plan().tolist())

    def set_epoch(self, epoch):
        """The epoch of the next iteration, a number of at least 0."""
        self.epoch = epoch

    def set_clusters(self, clusters):
        """The clusters from the next iteration on; a ValueError as in construction."""
        labels = clusters.labels(self.speakers)
        present, rows, sizes = np.unique(labels, return_inverse=True, return_counts=True)
        if self.further_clusters == "nearest":
            self._nearest = _nearest_rows(clusters, present)
        self._members = np.split(np.argsort(rows, kind="stable"), sizes.cumsum()[:-1])
        self._sizes = sizes
        self.clusters = clusters

    def plan(self):
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
        names, rows, counts = np.unique(
            np.asarray(speakers, dtype=str), return_inverse=True, return_counts=True
        )
        first = counts.cumsum() - counts
        used = counts >= (2 if self.single_utterance == "drop" else 1)
        self.speakers = names[used].tolist()
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


def _check_whole(name, value, least):
    if not isinstance(value, int) or value < least:
        raise ValueError(f"{name}={value}: must be a whole number, at least {least}.")


def _check_choice(name, value, choices):
    if value not in choices:
        raise ValueError(f"{name}={value!r}: must be one of {list(choices)}.")
