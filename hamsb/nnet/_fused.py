"""Head and loss in one: similarities that are never all there at once.

A head with ``fused=True`` hands on `LazySimilarities` in training: what it would
compare, not yet compared. A loss of `hamsb.nnet.losses` takes its cross-entropy from
them block by block of the centers, forward and again backward, and keeps a number a
row: memory grows as (B + C) D, not as B C. To everything else, losses that need all of
them included (`LazySimilarities.numbers`: ``top_k``, SphereFace2), they are the tensor [B,
1, C] that the head would have returned, made when it is asked for.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, normalize
from torch.utils import _pytree

from hamsb.nnet._closed_forms import (
    MarginCrossEntropy,
    blocks,
    refuse_second_derivative,
)
from hamsb.nnet.precision import no_autocast, widened

# Entries of a block on a GPU, of which some three are there at once. A block is computed
# in some hundred kernel launches, in both passes together.
GPU_BLOCK = 2**24

# So many entries, 16 MB in float32, are computed at once all the same: keeping them is
# faster than computing them twice.
FEW = 2**22


class Cosines:
    """Products of x [N, D] and block after block of y, all of length 1, in the interface
    of `hamsb.nnet._closed_forms.Distances`.

    Arguments
    ---------
    x : torch.Tensor
        [N, D].
    c : None
        There is no curvature.
    dtype : torch.dtype
        Of the products, autocast's.
    """

    def __init__(self, x: Tensor, c: None, dtype: torch.dtype):
        self.x, self.cast_x, self.dtype = x, x.to(dtype), dtype
        self.grad_x = torch.zeros_like(x)

    def values(self, y: Tensor) -> Tensor:
        """For y [m, D]: [N, m]."""
        return (self.cast_x @ y.to(self.dtype).t()).to(y.dtype)

    def again(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The values for y [m, D], [N, m], twice; `gradient` needs nothing of them."""
        values = self.values(y)
        return values, values

    def of_rows(self, y: Tensor) -> Tensor:
        """Of x and y [N, D], row by row: [N, 1]."""
        return (self.x * y).sum(1, keepdim=True)

    def gradient(self, y: Tensor, values: Tensor, _: Tensor, g: Tensor) -> Tensor:
        """Of y [m, D], from the gradient g [N, m] of the values; that of x is taken in."""
        g = g.to(self.dtype)
        self.grad_x += g @ y.to(self.dtype)
        return (g.t() @ self.cast_x).to(y.dtype)

    def x_gradient(self) -> Tensor:
        """Of x [N, D], from what was taken in."""
        return self.grad_x

    def c_gradient(self) -> None:
        """There is no curvature."""


class ByAutograd:
    """What compares x [N, D] with block after block of y by a plain function and its
    gradient, in the interface of `hamsb.nnet._closed_forms.Distances`.

    Arguments
    ---------
    x : torch.Tensor
        [N, D].
    c : object
        Nothing that is learned.
    of_all, of_each : callable
        (x, y) -> values, of all pairs [N, m], and row by row [N].
    """

    def __init__(
        self,
        x: Tensor,
        c: object,
        of_all: Callable[[Tensor, Tensor], Tensor],
        of_each: Callable[[Tensor, Tensor], Tensor],
    ):
        self.x, self.of_all, self.of_each = x, of_all, of_each
        self.grad_x = torch.zeros_like(x)

    def values(self, y: Tensor) -> Tensor:
        """For y [m, D]: [N, m]."""
        with torch.no_grad():
            return self.of_all(self.x, y)

    def again(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The values for y [m, D], [N, m], twice; `gradient` needs nothing of them."""
        values = self.values(y)
        return values, values

    def of_rows(self, y: Tensor) -> Tensor:
        """Of x and y [N, D], row by row: [N, 1]."""
        return self.of_each(self.x, y).unsqueeze(1)

    def gradient(self, y: Tensor, values: Tensor, _: Tensor, g: Tensor) -> Tensor:
        """Of y [m, D], from the gradient g [N, m] of the values; that of x is taken in."""
        ends = self.x.detach().requires_grad_(), y.detach().requires_grad_()
        with torch.enable_grad():
            of_x, of_y = torch.autograd.grad(self.of_all(*ends), ends, g)
        self.grad_x += of_x
        return of_y

    def x_gradient(self) -> Tensor:
        """Of x [N, D], from what was taken in."""
        return self.grad_x

    def c_gradient(self) -> None:
        """It is not learned."""


@dataclass(eq=False)  # whose fields DistributedDataParallel searches for tensors
class LazySimilarities:
    """Similarities [B, 1, C] that are not computed yet.

    A function of torch, a method or attribute of a tensor and an index act on the tensor
    that they stand for, differentiably.

    Attributes
    ----------
    x : torch.Tensor
        Embeddings as they are compared, [B, D].
    centers : torch.Tensor
        What is learned for the speakers, [C, D]; of several each, [C, K, D].
    project : callable
        Centers [m, D] -> as they are compared, [m, D]; each of its own. Or [m, K, D] ->
        [m K, D].
    learned : sequence of torch.Tensor
        What else ``project`` may learn.
    whole : callable
        (x, projected centers) -> the similarities [B, C].
    c : float, torch.Tensor or None
        The curvature of distances.
    pairs : callable
        (x, c) -> what compares x with blocks of projected centers, as `Cosines`.
    fraction : float
        What part of the centers a loss takes, by `drawn`.
    """

    x: Tensor
    centers: Tensor
    project: Callable[[Tensor], Tensor]
    learned: Sequence[Tensor]
    whole: Callable[[Tensor, Tensor], Tensor]
    c: float | Tensor | None
    pairs: Callable[..., Any]
    fraction: float = 1.0
    _tensor: Tensor | None = None

    @classmethod
    def cosines(
        cls, x: Tensor, centers: Tensor, fraction: float = 1.0
    ) -> "LazySimilarities":
        """Of x [B, D], of length 1, and centers of any; products in autocast's
        precision."""
        device, dtype = x.device.type, x.dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        pairs = partial(Cosines, dtype=dtype)
        return cls(x, centers, normalize, (), linear, None, pairs, fraction)

    def maximum(self, sub_centers: int) -> "LazySimilarities":
        """Of classes with so many centers each, one after another: the highest."""
        if sub_centers == 1:
            return self
        return replace(
            self,
            centers=self.centers.unflatten(0, (-1, sub_centers)),
            project=lambda centers: self.project(centers.flatten(0, 1)),
            whole=lambda x, y: maximum(self.whole(x, y), sub_centers),
            pairs=lambda x, c: Maximum(self.pairs(x, c), sub_centers),
        )

    # ------------------------------------------------------------ as a tensor

    @property
    def shape(self) -> torch.Size:
        """[B, 1, C]."""
        return torch.Size([len(self.x), 1, len(self.centers)])

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
            self._tensor = self.whole(self.x, self.project(self.centers)).unsqueeze(1)
        return self._tensor

    def compiled(self) -> "Tensor | LazySimilarities":
        """What a loss takes of these under torch.compile."""
        return self

    def all(self) -> Tensor:
        """The similarities [B, 1, C], for a loss that computes with all of them itself; a
        ValueError where it should take some."""
        if self.fraction < 1 and torch.is_grad_enabled():
            raise ValueError(
                f"class_fraction={self.fraction}: such a loss takes all speakers; give one "
                "of hamsb's softmaxes, without top_k, or leave class_fraction out."
            )
        return self.tensor()

    def numbers(self) -> Tensor:
        """The same as [B, C], float32 or wider, as every loss of hamsb computes on."""
        return widened(self.all()).squeeze(1)

    @classmethod
    def __torch_function__(
        cls, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """A function of torch acts on the tensor."""
        args, kwargs = _pytree.tree_map_only(cls, cls.all, (args, kwargs or {}))
        return function(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.all(), name)

    def __getitem__(self, index: Any) -> Tensor:
        return self.all()[index]

    __hash__ = object.__hash__  # which a class with == of its own would lose

    # ------------------------------------------------------------ the loss

    def first(self, most: int = 4096) -> Tensor:
        """Those with the first centers, at most so many: [B, m], without gradient."""
        with torch.no_grad(), no_autocast(self.x):
            return self.pairs(self.x, self.c).values(self.project(self.centers[:most]))

    def of_targets(self, targets: Tensor) -> Tensor:
        """Those with the centers ``targets`` [B, 1]: [B, 1], without gradient."""
        with torch.no_grad(), no_autocast(self.x):
            rows = self.centers.index_select(0, targets.squeeze(1))  # refuses negatives
            return self.pairs(self.x, self.c).of_rows(self.project(rows))

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
        if torch.compiler.is_compiling() and self.fraction == 1:
            return MarginCrossEntropy.apply(
                self.numbers(), targets, value, slope, scale, zero
            )
        return self._by_blocks(targets, value, slope, scale, zero)

    @torch.compiler.disable
    def _by_blocks(
        self, targets: Tensor, value: Tensor, slope: Tensor, scale: float, zero: bool
    ) -> Tensor:
        form = (self.project, self.pairs, scale, zero, None, 1)
        centers, targets = drawn(self.centers, targets, self.fraction)
        losses, _, _ = FusedCrossEntropy.apply(
            self.x, centers, self.c, targets, value, slope, form, *self.learned
        )
        return losses


def _operator(name: str) -> Callable[..., Tensor]:
    """An operator of the tensor. Python looks for it in the class alone."""

    def act(self: LazySimilarities, *others: Any) -> Tensor:
        return getattr(self.all(), name)(*others)

    return act


for _name in (
    *("neg", "abs", "pos", "lt", "le", "gt", "ge", "eq", "ne"),
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"),
    *("radd", "rsub", "rmul", "rtruediv", "rfloordiv", "rmod", "rpow", "rmatmul"),
):
    setattr(LazySimilarities, f"__{_name}__", _operator(f"__{_name}__"))


def maximum(similarities: Tensor, sub_centers: int) -> Tensor:
    """The highest similarity to a class's centers, which stand one after another: [..., C]
    of [..., C K]."""
    if sub_centers == 1:
        return similarities
    return similarities.unflatten(-1, (-1, sub_centers)).max(-1).values


class Maximum:
    """The highest similarity to the K centers of a class, in the interface of
    `Distances`: y is [m K, D], values are [N, m]. Its gradient is that of one center,
    where several are as similar.

    Arguments
    ---------
    pairs : Cosines, or another in that interface
    sub_centers : int
        K.
    """

    def __init__(self, pairs: Any, sub_centers: int):
        self.pairs, self.sub_centers = pairs, sub_centers
        self.x_gradient, self.c_gradient = pairs.x_gradient, pairs.c_gradient

    def values(self, y: Tensor) -> Tensor:
        """For y [m K, D]: [N, m]."""
        return maximum(self.pairs.values(y), self.sub_centers)

    def again(self, y: Tensor) -> tuple[Tensor, Any]:
        """The values, [N, m], and what `gradient` needs of them."""
        values, state = self.pairs.again(y)
        highest = values.unflatten(1, (-1, self.sub_centers)).max(2)
        return highest.values, (values, state, highest.indices)

    def of_rows(self, y: Tensor) -> Tensor:
        """Of x [N, D] and y [N K, D], K rows for one: [N, 1]."""
        rows = y.unflatten(0, (-1, self.sub_centers)).unbind(1)
        return torch.cat([self.pairs.of_rows(each) for each in rows], 1).amax(1, True)

    def gradient(self, y: Tensor, values: Tensor, state: Any, g: Tensor) -> Tensor:
        """Of y [m K, D], from the gradient g [N, m]; that of x and c is taken in."""
        values, state, which = state
        g_of_each = torch.zeros_like(values).unflatten(1, (-1, self.sub_centers))
        g_of_each.scatter_(2, which.unsqueeze(2), g.to(values.dtype).unsqueeze(2))
        return self.pairs.gradient(y, values, state, g_of_each.flatten(1))


class FusedCrossEntropy(torch.autograd.Function):
    """`MarginCrossEntropy` of similarities that are computed block by block.

    With l the logarithm of the sum of the others' exponentials and t the target's logit,
    the loss is ``softplus(l - t)``, and the others' share of the softmax its sigmoid. Kept
    for the backward pass are embeddings, centers and some numbers a row. The gradient goes
    through the projection within each block.

    Arguments of ``apply``: x [B, D], centers [C, D] or [C, K, D], c, targets [B, 1], of
    which one that is no row of the centers is in none of the blocks, value and slope of the
    target's penalized similarity [B, 1], (project, pairs, scale, zero_below_target, join,
    times), and what the projection learns. Where the centers are some of all, ``join``
    makes of the largest logit and the sum of exponentials of these those of all. All
    gradients but that of the centers are taken ``times`` what they are. Returns the losses
    [B], and for the backward pass the others' largest logit and the sum of their
    exponentials less it.
    """

    @staticmethod
    def forward(
        x: Tensor,
        centers: Tensor,
        c: float | Tensor | None,
        targets: Tensor,
        value: Tensor,
        slope: Tensor,
        form: tuple,
        *learned: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        project, make_pairs, scale, zero, join, _ = form
        target = value * scale
        highest = torch.full_like(target, -math.inf)
        total = torch.zeros_like(target)
        with no_autocast(x):
            pairs = make_pairs(x, c)
            for part in _class_blocks(centers, x):
                logits = pairs.values(project(centers[part])).mul_(scale)
                if zero:
                    logits.masked_fill_(logits < target, 0)
                _put(logits, part, targets, -math.inf)
                top = torch.maximum(highest, logits.amax(1, keepdim=True))
                # A row that has met no class but its target: -inf less itself is NaN.
                finite = top.clamp_min(torch.finfo(top.dtype).min)
                total.mul_((highest - finite).exp_())
                total += logits.sub_(finite).exp_().sum(1, keepdim=True)
                highest = top
        if join is not None:
            highest, total = join(highest, total)
        excess = highest + total.log() - target
        # softplus; torch's is exact to 2e-9 alone.
        losses = excess.clamp_min(0) + excess.abs().neg_().exp_().log1p_()
        return losses.squeeze(1), highest, total

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        x, centers, c, *rows, ctx.form = inputs[:7]
        curved = isinstance(c, Tensor)
        ctx.fixed = None if curved else c
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(
            x, centers, c if curved else None, *rows, *output[1:], *inputs[7:]
        )

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: None) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("the fused loss", "a head with fused=False")
        x, centers, c, *rows = ctx.saved_tensors
        targets, value, slope, highest, total, *learned = rows
        project, make_pairs, scale, zero, _, times = ctx.form
        pairs = make_pairs(x, ctx.fixed if c is None else c)
        target = value * scale
        others = torch.sigmoid(highest + total.log() - target) * scale * grad.unsqueeze(1)
        of_target = -slope * others
        weight = torch.where(total > 0, others / total, 0)
        low = -highest.clamp_min(torch.finfo(highest.dtype).min)
        grad_centers = torch.empty_like(centers)
        grads_learned = [torch.zeros_like(each) for each in learned]
        with no_autocast(x):
            for part in _class_blocks(centers, x):
                block = centers[part].detach().requires_grad_()
                with torch.enable_grad():
                    projected = project(block)
                y = projected.detach()
                values, state = pairs.again(y)
                p = torch.add(low, values, alpha=scale).exp_().mul_(weight)
                if zero:
                    p.masked_fill_(values * scale < target, 0)
                _put(p, part, targets, of_target)
                grad_y = pairs.gradient(y, values, state, p)
                through = torch.autograd.grad(
                    projected, [block, *learned], grad_y, allow_unused=True
                )
                grad_centers[part] = through[0]
                for whole, each in zip(grads_learned, through[1:], strict=True):
                    if each is not None:
                        whole += each
            grad_x, grad_c = pairs.x_gradient(), pairs.c_gradient()
        if times != 1:
            grad_x = grad_x * times
            grad_c = None if grad_c is None else grad_c * times
            grads_learned = [each * times for each in grads_learned]
        return grad_x, grad_centers, grad_c, *[None] * 4, *grads_learned


def _class_blocks(centers: Tensor, x: Tensor) -> list[slice]:
    """Slices of the classes of centers [C, D] or [C, K, D]."""
    size = len(x) * centers[0].numel() // centers.shape[-1]
    return blocks(len(centers), size, x.device, GPU_BLOCK)


def drawn(centers: Tensor, targets: Tensor, fraction: float) -> tuple[Tensor, Tensor]:
    """Some of the centers, drawn from torch's generator of their device, those of the
    targets always among them; and the targets' rows in these.

    Arguments
    ---------
    centers : torch.Tensor
        [C, D]; of several each, [C, K, D].
    targets : torch.Tensor
        Rows of them, [N, 1]; one that is none stays so.
    fraction : float
        In (0, 1]: so many of C, but at least N.
    """
    number = len(centers)
    few = max(math.ceil(fraction * number), len(targets))
    if few >= number:
        return centers, targets
    inside = (targets >= 0) & (targets < number)
    order = torch.rand(number + 1, device=centers.device)
    order.scatter_(0, torch.where(inside, targets, number).squeeze(1), 2)
    chosen = order[:-1].topk(few).indices.sort().values
    rows = torch.searchsorted(chosen, targets)
    return centers.index_select(0, chosen), torch.where(inside, rows, -1)


def _put(block: Tensor, part: slice, targets: Tensor, value: Tensor | float) -> None:
    """Write ``value`` [B, 1] into the columns ``targets`` [B, 1] of a block [B, m] of the
    columns ``part``, where they are in it."""
    columns = block.shape[1]
    place = targets - part.start
    inside = (place >= 0) & (place < columns)
    place = place.clamp(0, columns - 1)
    block.scatter_(1, place, torch.where(inside, value, block.gather(1, place)))
