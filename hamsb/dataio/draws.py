"""Random numbers of an utterance that depend on nothing but its place in the training.

A crop that is drawn from the random numbers of a process depends on what that process
drew before: on the number of workers and of processes. Here an epoch's order is a
function of (seed, epoch), and what is drawn for an utterance one of (seed, epoch,
position in the epoch, view, use).

Where it goes: `SeededSampler` and `Placed` are the samplers of the training's data loader
(`hamsb.training.brain`), a dataset of `hamsb.dataio.rows` hands the `Draw` to its steps
(`hamsb.dataio.pipelines`, `hamsb.augment.reads`), and these draw from its generators, in
whichever process they run.
"""

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from itertools import chain, count, cycle, islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Sampler, SequentialSampler

from hamsb.utils.checks import check_whole

#: What is drawn for a view of an utterance; augmentations count on from the last.
CROP, SPEED, AUGMENTATION = 0, 1, 2


class Draw(NamedTuple):
    """An utterance at a place of the training. As an index it is the row."""

    row: int
    """Of the dataset."""
    epoch: int
    """The epoch that draws it."""
    position: int
    """Its place in the order of the epoch, that of all processes."""

    def __index__(self) -> int:
        return self.row

    def generator(self, seed: int, view: int = 0, use: int = CROP) -> torch.Generator:
        """Random numbers of its own, on the CPU.

        Arguments
        ---------
        seed : int
            Of the training.
        view : int
            Which of the views of the utterance.
        use : int
            What is drawn: `CROP`, `SPEED`, or the k-th augmentation from `AUGMENTATION`
            on.

        Example
        -------
        >>> torch.rand(1, generator=Draw(7, 1, 0).generator(seed=5))
        tensor([0.9475])
        """
        key = f"{seed} {self.epoch} {self.position} {view} {use}"
        digest = blake2b(key.encode(), digest_size=8).digest()  # of numpy: ten times slower
        return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


class SeededSampler(Sampler[Draw]):
    """Each row once an epoch, in random order, with its place in it.

    The order is the same in every process. Dealt out as ``DistributedSampler`` deals, to
    each of W processes every W-th, the batches of all processes that belong to one step
    hold together the rows of one batch of W times their size on a single process.

    Arguments
    ---------
    rows : int
        Of the dataset.
    seed : int
        Of all epochs.

    Raises
    ------
    ValueError
        ``rows`` below 1, ``seed`` below 0, or another type.

    Example
    -------
    >>> sampler = SeededSampler(rows=3, seed=1)
    >>> sampler.set_epoch(2)
    >>> [tuple(draw) for draw in sampler]
    [(1, 2, 0), (0, 2, 1), (2, 2, 2)]
    """

    def __init__(self, rows: int, seed: int):
        check_whole("rows", rows, 1)
        check_whole("seed", seed, 0)
        self.rows = rows
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """The epoch of the next iteration, a number of at least 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[Draw]:
        """The epoch's draws. What is set after this call acts on the next."""
        epoch = self.epoch
        sequence = np.random.SeedSequence(self.seed, spawn_key=(epoch,))
        order = np.random.default_rng(sequence).permutation(self.rows)
        return (Draw(int(row), epoch, place) for place, row in enumerate(order))


class Placed(Sampler):
    """What a sampler yields, each row with its place in the epoch; of several processes
    one's part.

    Each process has every W-th row, or every W-th batch of a batch sampler.

    Arguments
    ---------
    sampler : Sampler or sequence
        Of rows, or of batches, sequences of rows. What are `Draw` already stay it.
    rank, processes : int
        Which process this is, from 0, and of how many.
    drop_last : bool
        The processes leave out what does not go round. Without, as torch's
        ``DistributedSampler``, it begins again with the first rows until it does.

    Example
    -------
    >>> [tuple(draw) for draw in Placed([5, 9, 7], rank=1, processes=2, drop_last=True)]
    [(9, 0, 1)]
    >>> [[tuple(draw) for draw in batch] for batch in Placed([[4, 2], [3, 1]])]
    [[(4, 0, 0), (2, 0, 1)], [(3, 0, 2), (1, 0, 3)]]
    """

    def __init__(
        self,
        sampler: Any,
        rank: int = 0,
        processes: int = 1,
        drop_last: bool = False,
    ):
        self.sampler = sampler
        self.rank = rank
        self.processes = processes
        self.drop_last = drop_last
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """The epoch of the next iteration, the sampler's too, a number of at least 0."""
        self.epoch = epoch
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        whole, left = divmod(len(self.sampler), self.processes)
        return whole + (left > 0 and not self.drop_last)

    def __iter__(self) -> Iterator:
        """The epoch's draws, or batches of them. What is set after this call acts on the
        next."""
        total, length = len(self) * self.processes, len(self.sampler)
        placed = self._place(iter(self.sampler), self.epoch)
        if total > length:
            first = list(islice(placed, total - length))
            placed = chain(first, placed, cycle(first))
        return islice(placed, self.rank, total, self.processes)

    @staticmethod
    def _place(items: Iterable, epoch: int) -> Iterator:
        positions = count()
        for item in items:
            if isinstance(item, Draw):
                yield item
            elif hasattr(item, "__index__") and not getattr(item, "ndim", 0):
                yield Draw(int(item), epoch, next(positions))
            else:
                yield [Draw(int(row), epoch, next(positions)) for row in item]


def place(
    rows: int, options: dict[str, Any], seed: int, rank: int, processes: int
) -> tuple[Placed, dict[str, Any]]:
    """A data loader's options with draws in the place of rows.

    Arguments
    ---------
    rows : int
        Of the dataset.
    options : dict
        The loader's; ``shuffle``, ``sampler``, ``batch_sampler`` and ``drop_last`` mean
        what torch says.
    seed : int
        Of the order of a ``shuffle``.
    rank, processes : int
        As for `Placed`.

    Returns
    -------
    Placed
        What is to be told each epoch (``set_epoch``).
    dict
        The options.

    Example
    -------
    >>> sampler, options = place(4, {"shuffle": True, "batch_size": 2}, 0, 0, 1)
    >>> sampler.set_epoch(1)
    >>> [draw.row for draw in options["sampler"]], options["batch_size"]
    ([2, 0, 3, 1], 2)
    """
    options = dict(options)
    if options.get("batch_sampler") is not None:
        placed = Placed(options["batch_sampler"], rank, processes)
        options["batch_sampler"] = placed
        return placed, options
    sampler = options.get("sampler")
    if sampler is None:
        shuffle = options.pop("shuffle", False)
        sampler = SeededSampler(rows, seed) if shuffle else SequentialSampler(range(rows))
    drop_last = options.get("drop_last", False)
    options["sampler"] = Placed(sampler, rank, processes, drop_last)
    return options["sampler"], options
