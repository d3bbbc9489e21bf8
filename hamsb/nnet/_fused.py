"""Head and loss in one: similarities that are never all there at once.

A head with ``fused=True`` hands on `LazySimilarities` in training: what it would
compare, not yet compared. A loss of `hamsb.nnet.losses` takes its cross-entropy from
them block by block, forward and again backward, and keeps embeddings, centers and a
number a row: memory grows as (B + C) D, not as B C. To everything else they are the
tensor [B, 1, C] that the head would have returned, made when it is asked for.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from hamsb.nnet._closed_forms import (
    DistanceBlocks,
    PairwiseDistance,
    blocks,
    refuse_second_derivative,
)
from hamsb.nnet.precision import no_autocast

# Entries of a block on a GPU, of which some three are there at once. A block is computed
# in some 60 kernel launches, in both passes together.
GPU_BLOCK = 2**24


class CosineBlocks:
    """Products of x [N, D] and blocks of y [M, D], both of length 1, in the interface of
    `DistanceBlocks`.

    Arguments
    ---------
    x, y : torch.Tensor
        [N, D] and [M, D].
    dtype : torch.dtype
        Of the products, autocast's.
    """

    def __init__(self, x: Tensor, y: Tensor, dtype: torch.dtype):
        self.x, self.y, self.dtype = x, y, dtype

    def prepare_values(self) -> None:
        """Before the first of `values`."""
        self.cast_x = self.x.to(self.dtype)

    def values(self, part: slice) -> Tensor:
        """Of a block, [N, m]."""
        return (self.cast_x @ self.y[part].to(self.dtype).t()).to(self.x.dtype)

    def of_rows(self, rows: Tensor) -> Tensor:
        """Of each x and the y of its row, [N, 1]."""
        return (self.x * self.y.index_select(0, rows)).sum(1, keepdim=True)

    def prepare_gradients(self) -> None:
        """Before the first of `add_gradient`."""
        self.cast_x = self.x.to(self.dtype)
        self.grad_x, self.grad_y = torch.zeros_like(self.x), torch.empty_like(self.y)

    def add_gradient(self, part: slice, values: Tensor, g: Tensor) -> None:
        """Take in a block's gradient g [N, m]. Every y must be in one block."""
        g = g.to(self.dtype)
        self.grad_x += g @ self.y[part].to(self.dtype)
        self.grad_y[part] = g.t() @ self.cast_x

    def gradients(self) -> tuple[Tensor, Tensor]:
        """Of x and of y, when all blocks are taken in."""
        return self.grad_x, self.grad_y


def _cosines(x: Tensor, y: Tensor, _: None, dtype: torch.dtype) -> CosineBlocks:
    return CosineBlocks(x, y, dtype)


@dataclass(eq=False)  # so that DistributedDataParallel finds the tensors
class LazySimilarities:
    """Similarities [B, 1, C] that are not computed yet.

    Any function of torch, method or attribute of a tensor acts on the tensor that they
    stand for, differentiably.

    Attributes
    ----------
    x, y : torch.Tensor
        What is compared: [B, D] and [C, D].
    c : float, torch.Tensor or None
        The curvature of distances.
    pairs : callable
        (x, y, c, *settings) -> `DistanceBlocks` or `CosineBlocks`.
    settings : tuple
    compute : callable
        (x, y) -> the similarities [B, C].
    """

    x: Tensor
    y: Tensor
    c: float | Tensor | None
    pairs: Callable
    settings: tuple
    compute: Callable[[Tensor, Tensor], Tensor]
    _tensor: Tensor | None = None

    @classmethod
    def cosines(cls, x: Tensor, y: Tensor) -> "LazySimilarities":
        """Of x [B, D] and y [C, D], both of length 1; products in autocast's precision."""
        device, dtype = x.device.type, x.dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        return cls(x, y, None, _cosines, (dtype,), linear)

    @classmethod
    def distances(
        cls, x: Tensor, y: Tensor, c: float | Tensor, floor: float, dtype: torch.dtype
    ) -> "LazySimilarities":
        """Minus the distances of points x [B, D] and y [C, D], as `DistanceBlocks`."""
        settings = (floor, -1, dtype)

        def compute(x: Tensor, y: Tensor) -> Tensor:
            with no_autocast(x):
                return PairwiseDistance.apply(x, y, c, *settings)

        return cls(x, y, c, DistanceBlocks, settings, compute)

    # ------------------------------------------------------------ as a tensor

    @property
    def shape(self) -> torch.Size:
        """[B, 1, C]."""
        return torch.Size([len(self.x), 1, len(self.y)])

    @property
    def device(self) -> torch.device:
        """Of what is compared."""
        return self.x.device

    def dim(self) -> int:
        """3."""
        return len(self.shape)

    def numel(self) -> int:
        """B C."""
        return self.shape.numel()

    def __len__(self) -> int:
        return len(self.x)

    def tensor(self) -> Tensor:
        """The similarities [B, 1, C] themselves."""
        if self._tensor is None:
            self._tensor = self.compute(self.x, self.y).unsqueeze(1)
        return self._tensor

    @classmethod
    def __torch_function__(
        cls, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """A function of torch acts on the tensor."""
        args, kwargs = torch.utils._pytree.tree_map_only(
            cls, cls.tensor, (args, kwargs or {})
        )
        return function(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.tensor(), name)

    def __getitem__(self, index: Any) -> Tensor:
        return self.tensor()[index]

    # ------------------------------------------------------------ the loss

    def first(self, most: int = 4096) -> Tensor:
        """Those with the first centers, at most so many: [B, m], without gradient."""
        with torch.no_grad(), no_autocast(self.x):
            pairs = self.pairs(self.x, self.y[:most], self.c, *self.settings)
            pairs.prepare_values()
            return pairs.values(slice(0, most))

    def of_targets(self, targets: Tensor) -> Tensor:
        """Those with the centers ``targets`` [B, 1]: [B, 1], without gradient."""
        with torch.no_grad(), no_autocast(self.x):
            pairs = self.pairs(self.x, self.y, self.c, *self.settings)
            return pairs.of_rows(targets.squeeze(1))

    def cross_entropy(
        self, targets: Tensor, value: Tensor, slope: Tensor, scale: float, zero: bool
    ) -> Tensor:
        """The cross-entropy of each row, [B], as `MarginCrossEntropy` has it.

        Arguments
        ---------
        targets : torch.Tensor
            [B, 1].
        value, slope : torch.Tensor
            What stands for the target's similarity, and its derivative: [B, 1].
        scale : float
        zero : bool
            Whether logits below the target's become 0.
        """
        form = (self.pairs, self.settings)
        return FusedCrossEntropy.apply(
            self.x, self.y, self.c, targets, value, slope, scale, zero, form
        )


class FusedCrossEntropy(torch.autograd.Function):
    """`MarginCrossEntropy` of similarities that are computed by blocks.

    With l the logarithm of the sum of the others' exponentials and t the target's logit,
    the loss is ``softplus(l - t)``; a row's softmax follows from it and t. Kept for the
    backward pass are what is compared and four numbers a row.

    Arguments of ``apply``: x [B, D], y [C, D], c, targets [B, 1], value and slope of the
    target's penalized similarity [B, 1], scale, zero_below_target, (pairs, settings).
    """

    @staticmethod
    def forward(
        x: Tensor,
        y: Tensor,
        c: float | Tensor | None,
        targets: Tensor,
        value: Tensor,
        slope: Tensor,
        scale: float,
        zero: bool,
        form: tuple,
    ) -> Tensor:
        pairs, settings = form
        target = value * scale
        highest = torch.full_like(target, -math.inf)
        total = torch.zeros_like(target)
        with no_autocast(x):
            pairs = pairs(x, y, c, *settings)
            pairs.prepare_values()
            for part in blocks(len(y), len(x), x.device, GPU_BLOCK):
                logits = pairs.values(part).mul_(scale)
                if zero:
                    logits.masked_fill_(logits < target, 0)
                _put(logits, part, targets, -math.inf)
                # A row whose only class so far is its target has none: kept finite.
                top = torch.maximum(highest, logits.amax(1, keepdim=True))
                finite = top.clamp_min(torch.finfo(top.dtype).min)
                total.mul_((highest - finite).exp_())
                total += logits.sub_(finite).exp_().sum(1, keepdim=True)
                highest = top
        excess = highest + total.log_() - target
        # softplus; torch's is exact to 2e-9 alone.
        return (excess.clamp_min(0) + excess.abs().neg_().exp_().log1p_()).squeeze(1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        x, y, c, *rows, ctx.scale, ctx.zero, ctx.form = inputs
        learned = isinstance(c, Tensor)
        ctx.fixed = None if learned else c
        ctx.save_for_backward(x, y, c if learned else None, *rows, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("the fused loss", "a head with fused=False")
        x, y, learned, targets, value, slope, losses = ctx.saved_tensors
        c = ctx.fixed if learned is None else learned
        scale, (pairs, settings) = ctx.scale, ctx.form
        target, losses = value * scale, losses.unsqueeze(1)
        weight = scale * grad.unsqueeze(1)
        of_target = losses.neg().expm1_() * slope * weight
        weighted = torch.zeros_like(target)  # of each row, for the curvature
        with no_autocast(x):
            again, pairs = pairs(x, y, c, *settings), pairs(x, y, c, *settings)
            again.prepare_values()
            pairs.prepare_gradients()
            for part in blocks(len(y), len(x), x.device, GPU_BLOCK):
                values = again.values(part)
                logits = values * scale
                p = (logits - (target + losses)).exp_().mul_(weight)
                if ctx.zero:
                    p.masked_fill_(logits < target, 0)
                _put(p, part, targets, of_target)
                if learned is not None:
                    weighted += (p * values).sum(1, keepdim=True)
                pairs.add_gradient(part, values, p)
            grad_x, grad_y = pairs.gradients()
            grad_c = None
            if learned is not None:
                grad_c = pairs.curvature_gradient(weighted.sum())
        return grad_x, grad_y, grad_c, *[None] * 6


def _put(block: Tensor, part: slice, targets: Tensor, value: Tensor | float) -> None:
    """Write ``value`` [B, 1] into the columns ``targets`` [B, 1] of a block [B, m] of the
    columns ``part``, where they are in it."""
    columns = block.shape[1]
    place = targets - part.start
    inside = (place >= 0) & (place < columns)
    place = place.clamp(0, columns - 1)
    block.scatter_(1, place, torch.where(inside, value, block.gather(1, place)))
