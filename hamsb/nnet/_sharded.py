"""Centers that the processes of a training share out, a block of rows to each.

A head with ``sharded=True``, made after the processes have met, holds the centers of its
own block of classes, and so do its gradients and the optimizer. For the loss the
processes put their embeddings and targets together, each compares all of them with its
own centers, block by block, and numbers a row are exchanged: the similarity of the
target, the largest logit and the sum of the exponentials. So the loss is that of the
joined batch, the same in every process. A loss that needs all similarities at once (with
``top_k``, or SphereFace2) gets those of the process's own batch, [B, C], exchanged, and is
its mean; the mean over the processes is that of the joined batch.

What a process has after ``backward()``:

- its centers' gradient: that of the joined batch's mean loss;
- its embeddings' gradient: that times the number of processes, since
  DistributedDataParallel, around what comes before the head, takes the mean over them;
- the gradient of what the ball learns: the mean over the processes, taken here.

The head itself stays out of DistributedDataParallel, which would give all processes the
centers of the first. An optimizer that treats every weight by itself, as Adam or SGD,
does what it would do with all centers; a norm of the gradient is to be summed over the
processes (`hamsb.training.shards`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_to_all_single

from hamsb.nnet._batches import gathered, processes
from hamsb.nnet._fused import FusedCrossEntropy, LazySimilarities, drawn
from hamsb.nnet.precision import no_autocast

#: Rows of centers drawn at once. A multiple of 16: torch draws normal numbers by so many.
DRAWN = 4096


class Shard:
    """Which classes this process holds the centers of, and what all must agree on.

    Arguments
    ---------
    classes : int
        C, of all processes.
    sub_centers : int
        K, the rows of a class, which stand one after another.

    Attributes
    ----------
    rank, processes : int
        This process, and how many share the classes out.
    """

    def __init__(self, classes: int, sub_centers: int = 1):
        self.classes, self.sub_centers = classes, sub_centers
        self.rank, self.processes = processes()
        if classes < self.processes:
            raise ValueError(
                f"out_neurons={classes}: sharded=True gives each of the {self.processes} "
                "processes one class at least; leave sharded out."
            )
        self._batch: int | None = None  # utterances, once the processes have agreed

    def edge(self, rank: int) -> int:
        """The first class of a process; of one behind the last, C."""
        return self.classes * rank // self.processes

    @property
    def first(self) -> int:
        """The first class of this process."""
        return self.edge(self.rank)

    @property
    def end(self) -> int:
        """The class behind the last of this process."""
        return self.edge(self.rank + 1)

    @property
    def rows(self) -> slice:
        """The rows of this process among those of all classes."""
        return slice(self.first * self.sub_centers, self.end * self.sub_centers)

    @property
    def sizes(self) -> list[int]:
        """How many classes each process has."""
        edges = [self.edge(rank) for rank in range(self.processes + 1)]
        return [end - first for first, end in zip(edges, edges[1:])]

    def agree(self, x: Tensor, centers: Tensor, always: bool) -> None:
        """ValueError where the processes cannot work together. The first call, and every
        one with ``always``, exchanges sizes and waits for the device; later ones look at
        this process alone.

        Arguments
        ---------
        x, centers : torch.Tensor
            This process's embeddings [B, D] and centers, [c, D] or [c, K, D].
        always : bool
        """
        if processes() != (self.rank, self.processes):
            raise ValueError(
                f"sharded=True: the head was made in process {self.rank} of "
                f"{self.processes}, and this is process {processes()[0]} of "
                f"{processes()[1]}. Make it after torch.distributed.init_process_group."
            )
        if self._batch not in (None, len(x)) and not always:
            raise ValueError(
                f"a batch of {len(x)} utterances after batches of {self._batch}: with "
                "sharded=True all are of one size, in every process and step. Give "
                "dataloader_options drop_last: True."
            )
        if self._batch is not None and not always:
            return
        own = torch.stack([centers.new_tensor(len(x)), centers[0].detach().sum()])
        told = torch.stack(self.exchanged(own)).double().cpu()
        sizes = [round(size) for size in told[:, 0].tolist()]
        if len(set(sizes)) > 1:
            raise ValueError(
                f"batches of {', '.join(map(str, sizes))} utterances in the "
                f"{self.processes} processes: sharded=True needs equal ones. Give "
                "dataloader_options drop_last: True."
            )
        if len(told[:, 1].unique()) == 1:
            raise ValueError(
                "sharded=True: all processes have the same centers. Leave the head out of "
                "DistributedDataParallel, which has given them those of the first."
            )
        self._batch = None if always else len(x)

    def exchanged(self, own: Tensor) -> list[Tensor]:
        """A tensor of each process, all of one shape, without gradient."""
        found = [torch.empty_like(own) for _ in range(self.processes)]
        distributed.all_gather(found, own.contiguous())
        return found


def start(
    shard: Shard | None, number: int, size: int, draw: Callable[[Tensor], Any]
) -> Tensor:
    """The centers that a head starts with: of C K, drawn at once, [C K, D], the rows of
    this process, [c K, D]. All are drawn, a few thousand at a time, and the others
    dropped; so the start, and what is drawn after it, is that of any number of processes.

    Arguments
    ---------
    shard : Shard, optional
        None: all.
    number, size : int
        C K and D.
    draw : callable
        Fills a tensor [m, D] with random numbers.
    """
    if shard is None or shard.processes == 1:
        centers = torch.empty(number, size)
        draw(centers)
        return centers
    own = shard.rows
    centers = torch.empty(own.stop - own.start, size)
    edges = [*range(0, max(number - DRAWN, 0) + 1, DRAWN), number]
    for first, end in zip(edges, edges[1:]):
        block = torch.empty(end - first, size)
        draw(block)
        start, stop = max(first, own.start), min(end, own.stop)
        if start < stop:
            centers[start - own.start : stop - own.start] = block[
                start - first : stop - first
            ]
    return centers


def is_parted(shard: Shard | None) -> bool:
    """Whether a head's centers are in several processes."""
    return shard is not None and shard.processes > 1


def shards(module: nn.Module) -> dict[str, Shard]:
    """The name of each parameter in a module that heads made with ``sharded=True`` share
    out, and its shard.

    Example
    -------
    >>> from hamsb import CosineClassifier
    >>> head = CosineClassifier(192, 5, sharded=True)
    >>> [(name, shard.classes) for name, shard in shards(nn.Sequential(head)).items()]
    [('0.weight', 5)]
    """
    found = {}
    for prefix, part in module.named_modules():
        shard = getattr(part, "shard", None)
        if isinstance(shard, Shard):
            found[".".join(filter(None, [prefix, part.of_classes]))] = shard
    return found


def average_gradients(module: nn.Module) -> None:
    """Give the gradients of a module's parameters, which all processes hold alike, the
    mean over the processes at the end of each backward pass."""
    for parameter in module.parameters():
        parameter.register_post_accumulate_grad_hook(_average_gradient)


def _average_gradient(parameter: Tensor) -> None:
    if parameter.grad is not None:
        distributed.all_reduce(parameter.grad)
        parameter.grad /= processes()[1]


class _Scaled(torch.autograd.Function):
    """The same tensor, with a multiple of its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.factor, None


@dataclass(eq=False)
class ShardedSimilarities(LazySimilarities):
    """`LazySimilarities` whose centers are one process's part of all.

    A loss of `hamsb.nnet.losses` is the mean of the joined batch. For everything else the
    tensor is made, [B, 1, C] of this process's utterances, in which all processes must
    take part.

    Attributes
    ----------
    shard : Shard
    """

    shard: Shard = field(kw_only=True)
    _joined: Tensor | None = field(default=None, init=False)
    _placed: tuple[Tensor, Tensor] | None = field(default=None, init=False)

    @classmethod
    def of(cls, lazy: LazySimilarities, shard: Shard, training: bool) -> Any:
        """Of similarities with the centers of this process: in training, where the loss
        takes them, lazy ones; else the tensor."""
        given = {each.name: getattr(lazy, each.name) for each in fields(lazy)}
        given.pop("_tensor")
        found = cls(**given, shard=shard)
        lasting = training and torch.is_grad_enabled()
        shard.agree(lazy.x, lazy.centers, always=not lasting)
        return found if lasting else found.tensor()

    @property
    def shape(self) -> torch.Size:
        """[B, 1, C]."""
        return torch.Size([len(self.x), 1, self.shard.classes])

    @property
    def joined(self) -> Tensor:
        """The embeddings of all processes, [n B, D]; n is their number."""
        if self._joined is None:
            self._joined = gathered(self.x)
        return self._joined

    def tensor(self) -> Tensor:
        """The similarities [B, 1, C] themselves, of this process's utterances. All
        processes must ask for them; gradients are those of each process's own loss, as
        DistributedDataParallel has it."""
        if self._tensor is None:
            sizes, rows = self.shard.sizes, len(self.x)
            centers = _Scaled.apply(self.centers, 1 / self.shard.processes)
            own = self.whole(self.joined, self.project(centers))
            parts = [rows * size for size in sizes]
            found = own.new_empty(sum(parts))
            equal = [rows * own.shape[1]] * len(sizes)
            found = all_to_all_single(found, own.reshape(-1), parts, equal)
            split = [each.view(rows, -1) for each in found.split(parts)]
            self._tensor = torch.cat(split, 1).unsqueeze(1)
        return self._tensor

    def compiled(self) -> Tensor:
        """The tensor: the exchange of numbers a row is not to be compiled. A ValueError
        where a loss should take some of it."""
        if self.fraction < 1:
            raise ValueError(
                f"class_fraction={self.fraction}: not with sharded=True under "
                "torch.compile; leave the loss uncompiled."
            )
        return self.tensor()

    def of_targets(self, targets: Tensor) -> Tensor:
        """Those with the centers ``targets`` [B, 1] of the joined batch: [n B, 1]."""
        if targets.device.type == "cpu":  # as an index of a tensor
            low, high = targets.aminmax()
            if low < 0 or high >= self.shard.classes:
                raise IndexError("a target is no class")
        place = self._places(targets)
        inside = (place >= 0) & (place < len(self.centers))
        joined = self.joined  # with gradient
        with torch.no_grad(), no_autocast(self.x):
            rows = self.centers[place.clamp(0, len(self.centers) - 1).squeeze(1)]
            found = self.pairs(joined, self.c).of_rows(self.project(rows))
            found = found.masked_fill(~inside, -math.inf)
            distributed.all_reduce(found, distributed.ReduceOp.MAX)
        return found

    def cross_entropy(
        self, targets: Tensor, value: Tensor, slope: Tensor, scale: float, zero: bool
    ) -> Tensor:
        """The cross-entropy of each row of the joined batch, [n B].

        Arguments
        ---------
        targets : torch.Tensor
            [B, 1], of this process's utterances.
        value, slope : torch.Tensor
            What stands for the target's similarity, and its derivative: [n B, 1], of all.
        scale, zero
            As for `LazySimilarities.cross_entropy`.
        """
        form = (self.project, self.pairs, scale, zero, _join, self.shard.processes)
        centers, places = drawn(self.centers, self._places(targets), self.fraction)
        losses, _, _ = FusedCrossEntropy.apply(
            self.joined, centers, self.c, places, value, slope, form, *self.learned
        )
        return losses

    def _places(self, targets: Tensor) -> Tensor:
        """The targets [B, 1] of all processes as rows of this one's centers, [n B, 1]."""
        if self._placed is None or self._placed[0] is not targets:
            joined = torch.cat(self.shard.exchanged(targets))
            self._placed = targets, joined - self.shard.first
        return self._placed[1]


def _join(highest: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """The largest logit of each row and the sum of the exponentials less it, [N, 1] each,
    over the classes of all processes."""
    top = highest.clone()
    distributed.all_reduce(top, distributed.ReduceOp.MAX)
    finite = top.clamp_min(torch.finfo(top.dtype).min)
    total = total * (highest - finite).exp_()
    distributed.all_reduce(total)
    return top, total
