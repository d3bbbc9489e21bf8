"""Random numbers of an utterance that depend on nothing but its place in the training.

A crop that is drawn from the random numbers of a process depends on what that process
drew before: on the number of workers and of processes. Here an epoch's order is a
function of (seed, epoch), and what is drawn for an utterance one of (seed, epoch,
position in the epoch).
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Sampler

from hamsb.utils.checks import check_whole


class Draw(NamedTuple):
    """An utterance at a place of the training."""

    row: int
    """Of the dataset."""
    epoch: int
    """The epoch that draws it."""
    position: int
    """Its place in the order of the epoch, that of all processes."""

    def generator(self, seed: int, view: int = 0) -> torch.Generator:
        """Random numbers of its own, on the CPU.

        Arguments
        ---------
        seed : int
            Of the training.
        view : int
            Which of the views of the utterance.

        Example
        -------
        >>> torch.rand(1, generator=Draw(7, 1, 0).generator(seed=5))
        tensor([0.5290])
        """
        key = (self.epoch, self.position, view)
        state = np.random.SeedSequence(seed, spawn_key=key).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(state[0]))


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
