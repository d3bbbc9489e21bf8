"""Float32 or wider, whatever autocast and TensorFloat-32 are set to outside.

Hyperbolic distances and losses do not survive less: the relative error of 1e-3 of a
TensorFloat-32 product is larger than the distance of close points.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def widened(x: Tensor) -> Tensor:
    """The tensor in float64 where it is, else in float32.

    Example
    -------
    >>> widened(torch.zeros(2, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    return x if x.dtype == torch.float64 else x.float()


def widest(x: Tensor) -> torch.dtype:
    """float64, where the tensor's device has it; else the tensor's own dtype.

    Example
    -------
    >>> widest(torch.zeros(2))
    torch.float64
    """
    return x.dtype if x.device.type == "mps" else torch.float64


def no_autocast(x: Tensor) -> torch.autocast:
    """A context without autocast on the tensor's device."""
    return torch.autocast(x.device.type, enabled=False)


@contextmanager
def full_matmul() -> Iterator[None]:
    """A context in which float32 products are of full precision: SpeechBrain switches
    TensorFloat-32 on. torch.compile cannot trace it; see `product`."""
    # The older of torch's two switches sets both, and they must agree; torch 2.8 has
    # the older one alone.
    matmul = torch.backends.cuda.matmul
    both = hasattr(matmul, "fp32_precision")
    before = matmul.fp32_precision if both else matmul.allow_tf32
    word = _matmul_precision()
    matmul.allow_tf32 = False
    try:
        yield
    finally:
        if word == "medium":  # which neither of the two switches tells
            torch.set_float32_matmul_precision(word)
        else:
            matmul.allow_tf32 = before in (True, "tf32")
        if both:
            matmul.fp32_precision = before


def _matmul_precision() -> str | None:
    """The word of ``torch.set_float32_matmul_precision``; None where the switches were set
    one by one and say no word together."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


def product(left: Tensor, right: Tensor) -> Tensor:
    """``left @ right`` of matrices [N, K] and [K, M] in full precision: [N, M]. So are the
    products of its gradients, of any order, and all of them under torch.compile too."""
    if torch.compiler.is_compiling():
        return torch.ops.hamsb.ieee_product(left, right)
    if torch.is_grad_enabled() and (left.requires_grad or right.requires_grad):
        return _Product.apply(left, right)
    return _full_product(left, right)


def _full_product(left: Tensor, right: Tensor) -> Tensor:
    with full_matmul():
        return left @ right


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    left, right = ctx.saved_tensors
    of_left, of_right = ctx.needs_input_grad
    return (
        product(grad, right.t()) if of_left else None,
        product(left.t(), grad) if of_right else None,
    )


class _Product(torch.autograd.Function):
    """The backward pass of torch's own product asks the switch again, when the block of
    `full_matmul` has long been left."""

    forward = staticmethod(_full_product)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    backward = staticmethod(_gradients)


@torch.library.custom_op("hamsb::ieee_product", mutates_args=())
def _ieee_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    return _full_product(left, right)


@_ieee_product.register_fake
def _(left: Tensor, right: Tensor) -> Tensor:
    return left.new_empty(left.shape[0], right.shape[1])


_ieee_product.register_autograd(_gradients, setup_context=_Product.setup_context)
