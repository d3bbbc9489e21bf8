"""Two gloo processes under DistributedDataParallel against one process on the
joined batch: losses, gradients, queues."""

from datetime import timedelta

import pytest
import torch
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from cases import looped
from hamsb import (
    HSCL,
    AAMSoftmax,
    AMSoftmax,
    HyperbolicSimilarity,
    MoCo,
    MomentumEncoder,
    NTXent,
    PoincareBall,
    Softmax,
    SupCon,
)

PROCESSES, SHARE, STEPS = 2, 4, 3
# Positives within and across processes, and not as many on each.
SPEAKERS = torch.tensor([[0, 0, 1, 1], [1, 2, 0, 5]])


def learned_ball():
    return HyperbolicSimilarity(PoincareBall(0.7, learnable=True))


COSTS = {
    "nt-xent": lambda: NTXent(Softmax(10.0)),
    "nt-xent, am": lambda: NTXent(AMSoftmax(0.2, 10.0)),
    "symmetric, aam": lambda: NTXent(AAMSoftmax(0.2, 10.0), True),
    "symmetric, am, hyperbolic": lambda: NTXent(AMSoftmax(0.2, 5.0), True, learned_ball()),
    "symmetric, collisions": lambda: NTXent(AMSoftmax(0.2, 10.0), True),
    "moco": lambda: MoCo(AMSoftmax(0.2, 10.0), 11, 3),
    "moco, symmetric, hyperbolic": lambda: MoCo(
        AMSoftmax(0.2, 5.0), 11, 3, True, learned_ball()
    ),
    "moco, collisions": lambda: MoCo(Softmax(10.0), 11, 3),
    "moco, batch larger than the queue": lambda: MoCo(Softmax(10.0), 5, 3),
    "supcon": lambda: SupCon(0.3),
    "supcon, hyperbolic": lambda: SupCon(0.3, similarity=learned_ball()),
    "h-scl": lambda: HSCL(0.5, 0.3),
}


def unwrapped(module):
    return getattr(module, "module", module)


def wrapped(module):
    """As Brain wraps what has parameters to learn."""
    learns = any(p.requires_grad for p in module.parameters())
    return DistributedDataParallel(module) if learns else module


def train(name, rank=None):
    """Some steps; what came of them. Without a rank, on the joined batches."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    slow = MomentumEncoder(encoder, 0.9)
    cost = COSTS[name]().double()
    if rank is not None:
        encoder, cost = wrapped(encoder), wrapped(cost)
    parameters = [*encoder.parameters(), *cost.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    found = {"loss": [], "gradients": []}
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        batch = torch.randn(PROCESSES, 2, SHARE, 6, generator=generator)
        shares = range(PROCESSES) if rank is None else [rank]
        views = torch.cat([batch[share] for share in shares], 1).double()
        speakers = torch.cat([SPEAKERS[share] for share in shares])
        first, second = encoder(views.flatten(0, 1)).chunk(2)
        if name.startswith("moco"):
            number = len(unwrapped(cost).queues)
            labels = speakers if "collisions" in name else None
            keys = [slow(x) for x in views.flip(0)][:number]
            loss = cost([first, second][:number], keys, labels)
        elif name.startswith(("supcon", "h-scl")):
            loss = cost(first, speakers)
        elif "collisions" in name:
            loss = cost(first, second, speakers)
        else:
            loss = cost(first, second)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if name.startswith("moco"):
            slow.update(encoder)
            unwrapped(cost).update(keys, labels)
        found["loss"].append(loss.detach())
        found["gradients"] += [p.grad.clone() for p in parameters]
    found["buffers"] = dict(unwrapped(cost).named_buffers())
    found["slow"] = slow.state_dict()
    return found


class Recorder(nn.Module):
    """Batch normalization that keeps what it was given."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(6).double()

    def forward(self, x, lengths):
        self.seen = x.clone()
        return self.norm(x) * lengths.unsqueeze(1)


def shuffle(rank):
    """A momentum encoder on x, [SHARE, 6] of this process: with and without."""
    torch.manual_seed(rank)  # even so, all agree on one order
    slow = MomentumEncoder(Recorder())
    x = torch.randn(SHARE, 6, dtype=torch.float64) + 100 * rank
    lengths = torch.arange(SHARE, dtype=torch.float64) + rank * SHARE + 1
    trained = slow(x, lengths)
    seen = slow.encoder.seen
    slow.eval()
    if rank == 0:  # no process waits for another
        slow(x, lengths)
    return {"x": x, "lengths": lengths, "seen": seen, "trained": trained}


def work(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", f"file://{folder}/store", timedelta(seconds=60), PROCESSES, rank
    )
    found = {name: train(name, rank) for name in COSTS}
    found["shuffle"] = shuffle(rank)
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each process found."""
    folder = tmp_path_factory.mktemp("processes")
    multiprocessing.spawn(work, (str(folder),), PROCESSES)
    return [torch.load(folder / f"{rank}.pt") for rank in range(PROCESSES)]


@pytest.mark.parametrize("name", COSTS)
def test_two_processes_are_one_on_the_joined_batch(found, name):
    one, several = train(name), [process[name] for process in found]
    close = {"rtol": 1e-9, "atol": 1e-12}
    for step in range(STEPS):
        losses = torch.stack([process["loss"][step] for process in several])
        torch.testing.assert_close(losses.mean(), one["loss"][step], **close)
        if one["loss"][step] > 0:
            assert losses[0] != losses[1]
    learned = 4 + 2 * ("hyperbolic" in name) + name.startswith(("supcon", "h-scl"))
    assert len(one["gradients"]) == STEPS * learned
    assert all((g != 0).any() for g in one["gradients"][-learned:])
    for process in several:
        for ours, theirs in zip(process["gradients"], one["gradients"], strict=True):
            torch.testing.assert_close(ours, theirs, **close)


@looped(name=[name for name in COSTS if name.startswith("moco")])
def test_queues_are_the_same_on_all_processes(found, name):
    one, several = train(name), [process[name] for process in found]
    queues = 2 if "symmetric" in name else 1
    assert len(one["buffers"]) == 3 * queues
    for buffer, expected in one["buffers"].items():
        assert torch.equal(several[0]["buffers"][buffer], several[1]["buffers"][buffer])
        torch.testing.assert_close(several[0]["buffers"][buffer], expected)
        if buffer.endswith("enqueued"):
            assert expected == STEPS * PROCESSES * SHARE
        if buffer.endswith("labels"):
            assert ((expected >= 0).all()) == ("collisions" in name)
    for key, expected in one["slow"].items():
        torch.testing.assert_close(several[0]["slow"][key], expected)


def test_shuffled_batch_normalization_brings_every_utterance_back(found):
    runs = [process["shuffle"] for process in found]
    joined = torch.cat([run["x"] for run in runs])
    seen = torch.cat([run["seen"] for run in runs])
    assert torch.equal(seen.sort(0).values, joined.sort(0).values)
    for rank, run in enumerate(runs):
        assert any((x[0] > 50) != rank for x in run["seen"])  # mixed over processes
    for run in runs:  # each row by the statistics of the batch that it was in
        for x, length, ours in zip(run["x"], run["lengths"], run["trained"], strict=True):
            batch = next(r["seen"] for r in runs if (r["seen"] == x).all(1).any())
            normed = (x - batch.mean(0)) / (batch.var(0, unbiased=False) + 1e-5).sqrt()
            torch.testing.assert_close(ours, length * normed)
