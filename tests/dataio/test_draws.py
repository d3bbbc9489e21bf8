"""Draws that depend on (seed, epoch, position) alone."""

import numpy as np
import pytest
import torch
from speechbrain.dataio.sampler import DistributedSamplerWrapper
from torch.utils.data import BatchSampler, DataLoader, Dataset

from hamsb.dataio.draws import Draw, Placed, SeededSampler


class Noises(Dataset):
    """Of each draw, its row and two numbers of its own."""

    def __getitem__(self, draw):
        torch.rand(3)  # what a process draws otherwise does not matter
        return draw.row, torch.rand(2, generator=draw.generator(seed=5))


def batches(size, processes=1, epoch=1, workers=0, rows=24):
    """The batches of each process."""
    found = []
    for rank in range(processes):
        sampler = SeededSampler(rows, seed=3)
        sampler.set_epoch(epoch)
        if processes > 1:
            sampler = DistributedSamplerWrapper(
                sampler, num_replicas=processes, rank=rank, shuffle=False, drop_last=True
            )
        loader = DataLoader(
            Noises(),
            batch_sampler=BatchSampler(sampler, size, drop_last=True),
            num_workers=workers,
            multiprocessing_context="fork" if workers else None,
        )
        found.append([
            {row: tuple(noise.tolist()) for row, noise in zip(rows.tolist(), noises)}
            for rows, noises in loader
        ])  # fmt: skip
    return found


def test_an_epoch_has_each_row_once_in_an_order_of_its_own():
    sampler = SeededSampler(rows=50, seed=3)
    orders = []
    for epoch in (1, 2, 1):
        sampler.set_epoch(epoch)
        draws = list(sampler)
        assert sorted(draw.row for draw in draws) == list(range(50)) and len(sampler) == 50
        assert [draw[1:] for draw in draws] == [(epoch, place) for place in range(50)]
        orders.append([draw.row for draw in draws])
    other = [draw.row for draw in SeededSampler(rows=50, seed=4)]
    assert orders[0] == orders[2] != orders[1] and orders[0] != list(range(50)) != other
    draws = iter(sampler)
    sampler.set_epoch(9)  # of the next iteration
    assert [draw.epoch for draw in draws] == [1] * 50


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_make_the_batches_of_one(processes):
    (alone,) = batches(12)
    shared = batches(12 // processes, processes)
    together = [{k: v for part in step for k, v in part.items()} for step in zip(*shared)]
    assert together == alone and len(alone) == 2
    assert not any(ours.keys() & theirs.keys() for ours, theirs in zip(*shared[:2]))


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor, iter])
def test_rows_of_any_kind_and_batches_of_them(kind):
    rows = [3, 1, 2]
    found = [draw.row for draw in Placed(list(torch.tensor(rows)), 0, 1)]
    assert found == [draw.row for draw in Placed(list(np.array(rows)), 0, 1)] == rows
    batches = [kind(rows[:2]), kind(rows[2:])]
    found = [[draw.row for draw in batch] for batch in Placed(batches, 0, 1)]
    assert found == [rows[:2], rows[2:]]


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_draw_what_the_main_process_draws(workers):
    assert batches(4, workers=workers) == batches(4)


def test_places_epochs_views_and_seeds_have_numbers_of_their_own():
    places = [
        Draw(0, 1, 2).generator(3),
        Draw(0, 1, 3).generator(3),
        Draw(0, 2, 2).generator(3),
        Draw(0, 2, 1).generator(3),
        Draw(0, 1, 2).generator(3, view=1),
        Draw(0, 1, 2).generator(4),
    ]
    assert len({torch.rand(1, generator=each).item() for each in places}) == 6


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"rows": 0, "seed": 1}, "rows=0"),
        ({"rows": 1.5, "seed": 1}, "rows=1.5"),
        ({"rows": 3, "seed": -1}, "seed=-1"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        SeededSampler(**arguments)
