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


class Distances:
    """``sign * d(x_n, y_m)`` of x and block after block of y: the values, and the
    gradients given those of the values.

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
    x : torch.Tensor
        Points [N, D].
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
        self, x: Tensor, c: float | Tensor, floor: float, sign: int, dtype: torch.dtype
    ):
        self.x, self.c = x, c
        self.floor, self.sign, self.dtype = floor, sign, dtype
        self._left: tuple[Tensor, Tensor] | None = None
        self._sums: _Sums | None = None

    def _conformal(self, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        return _conformal(x, self.c, self.floor, dtype)

    def grown(self, y: Tensor) -> Tensor:
        """exp(sqrt(c) d) - 1 for y [m, D]: [N, m], from v = 2 u."""
        if self._left is None:
            xx, a, _ = self._conformal(self.x, self.dtype)
            self._left = torch.cat([-2 * self.x, xx, torch.ones_like(a)], 1), a
        left, a = self._left
        yy, b, _ = self._conformal(y, self.dtype)
        largest = torch.finfo(y.dtype).max ** 0.5 / 2  # only points far outside exceed it
        right = torch.cat([y, torch.ones_like(b), yy], 1)
        v = product(left, right.t()).mul_(2 * self.c / a).div_(b.t())
        v = v.clamp_(0, largest).to(y.dtype)
        half = torch.addcmul(v, v, v, value=0.5).sqrt_()
        return v.add_(half, alpha=2**0.5)

    def values(self, y: Tensor, out: Tensor | None = None) -> Tensor:
        """``sign * d`` for y [m, D]: [N, m], in ``out`` where one is given."""
        factor = self.sign / self.c**0.5
        rooted = self.grown(y).log1p_()
        if out is None:  # not in place: torch.compile would lose the result's gradient
            return rooted * factor
        return torch.mul(rooted, factor, out=out)

    def again(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The values for y [m, D], and what `gradient` needs of them: [N, m] each."""
        grown = self.grown(y)
        return grown.log1p().mul_(self.sign / self.c**0.5), grown

    def from_values(self, values: Tensor) -> Tensor:
        """What `gradient` needs of values [N, m]."""
        return values.mul(self.sign * self.c**0.5).expm1_()

    def of_rows(self, y: Tensor) -> Tensor:
        """``sign * d`` of x and y [N, D], row by row and by direct difference: [N, 1]."""
        gap = torch.linalg.vector_norm(
            self.x - y, dim=1, keepdim=True, dtype=widest(self.x)
        )
        _, a, _ = self._conformal(self.x, gap.dtype)
        _, b, _ = self._conformal(y, gap.dtype)
        root = self.c**0.5
        distance = torch.asinh(root * gap / (a * b).sqrt()) * (2 * self.sign / root)
        return distance.to(y.dtype)

    @property
    def sums(self) -> "_Sums":
        """What was taken in."""
        if self._sums is None:
            self._sums = _Sums(self.x, *self._conformal(self.x, self.x.dtype))
        return self._sums

    def gradient(self, y: Tensor, values: Tensor, e: Tensor, g: Tensor) -> Tensor:
        """Of y [m, D]; that of x and c is taken in.

        Arguments
        ---------
        y : torch.Tensor
        values : torch.Tensor
            Those for y, [N, m].
        e : torch.Tensor
            [N, m], as `again` or `from_values` gives it.
        g : torch.Tensor
            The values' gradient, [N, m].
        """
        sums, (yy, b, inside) = self.sums, self._conformal(y, y.dtype)
        # With e = exp(sqrt(c) d) - 1: t = e / (e + 2), 1/t - t = (4 - 4 / (e + 2)) / e.
        pull = (e + 2).reciprocal_()
        turn = torch.mul(e, pull).mul_(g)
        # At coincident points, where e is 0, there is no pull.
        pull.mul_(-4).add_(4).div_(e).nan_to_num_(math.nan, 0.0, 0.0).mul_(g)
        sums.turn += turn.sum(1, keepdim=True)
        turn_y = turn.sum(0).unsqueeze(1)
        pull.div_(b.t())
        sums.pull += product(pull, y)
        sums.weight += pull.sum(1, keepdim=True)
        pull.div_(sums.a)
        weight = pull.sum(0).unsqueeze(1) + turn_y * inside / b
        if isinstance(self.c, Tensor):
            sums.through_y += (turn_y * inside * yy / b).sum()
            sums.weighted += (g * values).sum(dtype=sums.weighted.dtype)
        grad_y = torch.addcmul(product(pull.t(), self.x), weight, y, value=-1)
        return grad_y.mul_(-2 * self.sign * self.c**0.5)

    def x_gradient(self) -> Tensor:
        """Of x [N, D], from what was taken in."""
        sums = self.sums
        weight = sums.weight + sums.turn * sums.inside
        grad_x = torch.addcmul(sums.pull, weight, self.x, value=-1)
        return grad_x.mul_(-2 * self.sign * self.c**0.5 / sums.a)

    def c_gradient(self) -> Tensor | None:
        """Of c, from what was taken in; None where c is a number."""
        sums, c = self.sums, self.c
        if not isinstance(c, Tensor):
            return None
        through_x = (sums.turn * (1 / c + sums.inside * sums.xx / sums.a)).sum()
        through = self.sign * (through_x + sums.through_y) / c**0.5
        return through - (sums.weighted / (2 * c)).to(through.dtype)


class _Sums:
    """Over the other side, of g t (turn) and g (1/t - t) (pull), for each x."""

    def __init__(self, x: Tensor, xx: Tensor, a: Tensor, inside: Tensor):
        self.xx, self.a, self.inside = xx, a, inside
        self.turn, self.weight = torch.zeros_like(a), torch.zeros_like(a)
        self.pull = torch.zeros_like(x)
        self.through_y = x.new_zeros(())
        self.weighted = x.new_zeros((), dtype=widest(x))


class PairwiseDistance(torch.autograd.Function):
    """``sign * d(x_n, y_m)`` for all pairs, by `Distances`; the result is the one [N, M]
    buffer kept for the backward pass.

    Arguments of ``apply``: x [N, D], y [M, D], and c, floor, sign and dtype of
    `Distances`. Returns [N, M].
    """

    @staticmethod
    def forward(
        x: Tensor, y: Tensor, c: float | Tensor, floor: float, sign: int, dtype: torch.dtype
    ) -> Tensor:
        distances = Distances(x, c, floor, sign, dtype)
        parts = blocks(len(y), len(x), x.device)
        if len(parts) == 1:
            return distances.values(y)
        out = x.new_empty(x.shape[0], y.shape[0])
        for part in parts:
            distances.values(y[part], out[:, part])
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
        grad_y = torch.empty_like(y)
        with no_autocast(grad):
            distances = Distances(x, c, *ctx.settings)
            for part in blocks(len(y), len(x), x.device):
                values = out[:, part]
                e = distances.from_values(values)
                grad_y[part] = distances.gradient(y[part], values, e, grad[:, part])
            grad_x, grad_c = distances.x_gradient(), distances.c_gradient()
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
