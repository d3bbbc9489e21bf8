"""Autograd functions with gradients in closed form: the pairwise distance of the balls
and the cross-entropy of the margin losses.

Each keeps one [N, M] buffer for its backward pass and makes no other but its result:
both passes go through blocks. The reference forms are ``reference_pairwise_distance``
of a ball and ``logits`` of a loss.
"""

import math
from typing import Any

import torch
from torch import Tensor

from hamsb.nnet.precision import no_autocast, product, widest

# Entries worked on at once. On a CPU what is needed for them fits the cache. On a GPU a
# block costs some 60 kernel launches, so that it should be large; three of 0.3 GB each are
# then needed at once, in float32.
CPU_BLOCK, GPU_BLOCK = 2**19, 2**26


def blocks(
    number: int, size: int, device: torch.device, gpu_block: int | None = None
) -> list[slice]:
    """Slices of ``number`` rows of ``size`` entries each, as many rows at a time as suit
    the device, at least one; one slice where a compiler joins the operations anyway.

    Example
    -------
    >>> blocks(5, CPU_BLOCK // 2, torch.device("cpu"))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    >>> blocks(5, CPU_BLOCK // 2, torch.device("cuda"))
    [slice(0, 5, None)]
    """
    if torch.compiler.is_compiling():
        return [slice(0, number)]
    block = CPU_BLOCK if device.type == "cpu" else gpu_block or GPU_BLOCK
    step = max(block // max(size, 1), 1)
    return [slice(i, min(i + step, number)) for i in range(0, max(number, 1), step)]


def refuse_second_derivative(what: str, instead: str) -> None:
    """RuntimeError in a backward pass that is to be differentiated itself: for
    ``create_graph=True`` gradients are recorded, and by a compiler, which may."""
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        raise RuntimeError(
            f"the closed form of {what} cannot be differentiated twice "
            f"(create_graph=True); use {instead}."
        )


class DistanceBlocks:
    """``sign * d(x_n, y_m)`` by blocks of y: the values, and the gradients given those of
    the values.

    With ``a = max(1 - c |x|^2, floor)``, b the same of y, and ``u = c |x - y|^2 /
    (a b)``, the distance is ``log1p(2 (u + sqrt(u + u^2))) / sqrt(c)``, which is
    ``arsinh_distance`` of ``hamsb.nnet.balls`` in operations that are fast everywhere;
    one product of [N, D + 2] and [D + 2, M] gives ``|x - y|^2``. With ``t = tanh(sqrt(c)
    d / 2)``

        dd / d|x - y|^2 = sqrt(c) (1/t - t) / (a b)
        dd / da         = -t / (sqrt(c) a)
        dd / dc         = t / c^1.5 - d / (2 c)    at fixed a and b,

    so that the gradients need the values alone. The products take x and y as they are,
    and a and b come from float64: both are what keeps the rounding of float32 below that
    of a direct difference.

    Arguments
    ---------
    x, y : torch.Tensor
        Points [N, D] and [M, D].
    c : float or torch.Tensor
        The curvature; 0-dimensional where it is learned.
    floor : float
        The least ``1 - c |x|^2`` of a point.
    sign : int
        1 or -1.
    dtype : torch.dtype
        Of the product for ``|x - y|^2``.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        c: float | Tensor,
        floor: float,
        sign: int,
        dtype: torch.dtype,
    ):
        self.x, self.y, self.c = x, y, c
        self.floor, self.sign, self.dtype = floor, sign, dtype

    def prepare_values(self) -> None:
        """Before the first of `values`."""
        xx, self.a, _ = _conformal(self.x, self.c, self.floor, self.dtype)
        self.yy, self.b, _ = _conformal(self.y, self.c, self.floor, self.dtype)
        self.left = torch.cat([-2 * self.x, xx, torch.ones_like(self.a)], 1)
        # Only points far outside exceed it.
        self.largest = torch.finfo(self.x.dtype).max ** 0.5 / 2

    def rooted(self, part: slice) -> Tensor:
        """sqrt(c) d of a block, [N, m], from v = 2 u."""
        b = self.b[part]
        right = torch.cat([self.y[part], torch.ones_like(b), self.yy[part]], 1)
        v = product(self.left, right.t()).mul_(2 * self.c / self.a).div_(b.t())
        v = v.clamp_(0, self.largest).to(self.x.dtype)
        half = torch.addcmul(v, v, v, value=0.5).sqrt_()
        return v.add_(half, alpha=2**0.5).log1p_()

    def values(self, part: slice, out: Tensor | None = None) -> Tensor:
        """``sign * d`` of a block, [N, m], in ``out`` where one is given."""
        factor = self.sign / self.c**0.5
        if out is None:  # not in place: torch.compile would lose the result's gradient
            return self.rooted(part) * factor
        return torch.mul(self.rooted(part), factor, out=out)

    def of_rows(self, rows: Tensor) -> Tensor:
        """``sign * d`` of each x and the y of its row, by direct difference: [N, 1]."""
        y = self.y.index_select(0, rows)  # which refuses negative ones
        gap = torch.linalg.vector_norm(self.x - y, dim=1, keepdim=True, dtype=widest(y))
        a = _conformal(self.x, self.c, self.floor, gap.dtype)[1]
        b = _conformal(y, self.c, self.floor, gap.dtype)[1]
        root = self.c**0.5
        return (torch.asinh(root * gap / (a * b).sqrt()) * (2 * self.sign / root)).to(
            y.dtype
        )

    def prepare_gradients(self) -> None:
        """Before the first of `add_gradient`."""
        x, y = self.x, self.y
        self.xx, self.a, self.inside_x = _conformal(x, self.c, self.floor, x.dtype)
        self.yy, self.b, self.inside_y = _conformal(y, self.c, self.floor, y.dtype)
        # Sums over the other side of g t (turn) and g (1/t - t) (pull).
        self.turn_x, self.turn_y = torch.zeros_like(self.a), torch.empty_like(self.b)
        self.pull_x, self.weight_x = torch.zeros_like(x), torch.zeros_like(self.a)
        self.grad_y = torch.empty_like(y)

    def add_gradient(self, part: slice, values: Tensor, g: Tensor) -> None:
        """Take in a block's gradient g [N, m], given its values [N, m]. Every y must be in
        one block."""
        x, y, a, b = self.x, self.y[part], self.a, self.b[part]
        # With e = exp(sqrt(c) d) - 1: t = e / (e + 2), 1/t - t = (4 - 4 / (e + 2)) / e.
        e = values.mul(self.sign * self.c**0.5).expm1_()
        pull = (e + 2).reciprocal_()
        turn = torch.mul(e, pull).mul_(g)
        # At coincident points, where e is 0, there is no pull.
        pull.mul_(-4).add_(4).div_(e).nan_to_num_(math.nan, 0.0, 0.0).mul_(g)
        self.turn_x += turn.sum(1, keepdim=True)
        self.turn_y[part] = turn.sum(0).unsqueeze(1)
        pull.div_(b.t())
        self.pull_x += product(pull, y)
        self.weight_x += pull.sum(1, keepdim=True)
        pull.div_(a)
        weight = pull.sum(0).unsqueeze(1) + self.turn_y[part] * self.inside_y[part] / b
        pull_y = product(pull.t(), x)
        self.grad_y[part] = torch.addcmul(pull_y, weight, y, value=-1)

    def gradients(self) -> tuple[Tensor, Tensor]:
        """Of x and of y, when all blocks are taken in."""
        factor = -2 * self.sign * self.c**0.5
        weight_x = self.weight_x + self.turn_x * self.inside_x
        grad_x = torch.addcmul(self.pull_x, weight_x, self.x, value=-1)
        return grad_x.mul_(factor / self.a), self.grad_y.mul_(factor)

    def curvature_gradient(self, weighted: Tensor) -> Tensor:
        """Of c, when all blocks are taken in; ``weighted`` is the sum of gradient times
        value over all pairs."""
        c = self.c
        through_x = (self.turn_x * (1 / c + self.inside_x * self.xx / self.a)).sum()
        through_y = (self.turn_y * self.inside_y * self.yy / self.b).sum()
        return self.sign * (through_x + through_y) / c**0.5 - weighted / (2 * c)


class PairwiseDistance(torch.autograd.Function):
    """``sign * d(x_n, y_m)`` for all pairs, by `DistanceBlocks`; the result is the one
    [N, M] buffer kept for the backward pass.

    Arguments of ``apply``: those of `DistanceBlocks`. Returns [N, M].
    """

    @staticmethod
    def forward(
        x: Tensor, y: Tensor, c: float | Tensor, floor: float, sign: int, dtype: torch.dtype
    ) -> Tensor:
        pairs = DistanceBlocks(x, y, c, floor, sign, dtype)
        pairs.prepare_values()
        parts = blocks(len(y), len(x), x.device)
        if len(parts) == 1:
            return pairs.values(parts[0])
        out = x.new_empty(x.shape[0], y.shape[0])
        for part in parts:
            pairs.values(part, out[:, part])
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        x, y, c, *ctx.settings = inputs
        learned = isinstance(c, Tensor)
        ctx.fixed = None if learned else c
        ctx.save_for_backward(x, y, output, c if learned else None)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative(
            "the pairwise distance", "reference_pairwise_distance of the ball"
        )
        x, y, out, learned = ctx.saved_tensors
        c = ctx.fixed if learned is None else learned
        with no_autocast(grad):
            pairs = DistanceBlocks(x, y, c, *ctx.settings)
            pairs.prepare_gradients()
            for part in blocks(len(y), len(x), x.device):
                pairs.add_gradient(part, out[:, part], grad[:, part])
            grad_x, grad_y = pairs.gradients()
            grad_c = None
            if learned is not None:
                grad_c = pairs.curvature_gradient((grad * out).sum())
        return grad_x, grad_y, grad_c, None, None, None


def _conformal(
    x: Tensor, curvature: float | Tensor, floor: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """|x|^2, max(1 - c |x|^2, floor), and whether the floor leaves it: [N, 1],
    computed in the widest dtype, given in ``dtype``."""
    norms = [
        torch.linalg.vector_norm(x[part], dim=-1, keepdim=True, dtype=widest(x))
        for part in blocks(len(x), x.shape[1], x.device)
    ]
    xx = torch.cat(norms).square()
    factor = 1 - curvature * xx
    return xx.to(dtype), factor.clamp_min(floor).to(dtype), factor >= floor


class MarginCrossEntropy(torch.autograd.Function):
    """The cross-entropy of each row, [B].

    With p the softmax of the logits (`_penalized_logits`), the gradient is ``scale
    * p`` for the other classes that are not zeroed, and ``scale * (p - 1) * slope`` for
    the target. The similarities are the one [B, C] buffer kept for the backward pass.

    Arguments of ``apply``: similarities [B, C], targets [B, 1], value and slope
    of the target's penalized similarity [B, 1], scale, zero_below_target.
    """

    @staticmethod
    def forward(
        similarities: Tensor,
        targets: Tensor,
        value: Tensor,
        slope: Tensor,
        scale: float,
        zero_below_target: bool,
    ) -> Tensor:
        losses = similarities.new_empty(similarities.shape[0])
        rows, classes = similarities.shape
        for part in blocks(rows, classes, similarities.device):
            y = targets[part]
            logits, _ = _penalized_logits(
                similarities[part], y, value[part], scale, zero_below_target
            )
            losses[part] = -torch.log_softmax(logits, 1).gather(1, y).squeeze(1)
        return losses

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        *tensors, ctx.scale, ctx.zero_below_target = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("the loss", "torch's cross_entropy of its logits()")
        similarities, targets, value, slope = ctx.saved_tensors

        def block(part: slice) -> Tensor:
            y = targets[part]
            logits, zeroed = _penalized_logits(
                similarities[part], y, value[part], ctx.scale, ctx.zero_below_target
            )
            p = torch.softmax(logits, 1)
            p.scatter_(1, y, (p.gather(1, y) - 1) * slope[part])
            p.mul_(ctx.scale * grad[part, None])
            return p if zeroed is None else p.masked_fill_(zeroed, 0)

        rows, classes = similarities.shape
        parts = blocks(rows, classes, similarities.device)
        if len(parts) == 1:
            gradient = block(parts[0])
        else:
            gradient = torch.empty_like(similarities)
            for part in parts:
                gradient[part] = block(part)
        return gradient, None, None, None, None, None


def _penalized_logits(
    similarities: Tensor,
    targets: Tensor,
    value: Tensor,
    scale: float,
    zero_below_target: bool,
) -> tuple[Tensor, Tensor | None]:
    """The logits of some rows [b, C], and which of them were set to zero (bool [b, C],
    or None): ``scale * similarities`` with ``scale * value`` in place of the target's,
    and where ``zero_below_target``, 0 in place of those below it."""
    logits, target = similarities * scale, value * scale
    below = None
    if zero_below_target:
        # The target is not compared with itself: a compiler may compute it twice, and
        # round the two differently.
        below = (logits < target).scatter_(1, targets, False)
        logits.masked_fill_(below, 0)
    return logits.scatter_(1, targets, target), below
