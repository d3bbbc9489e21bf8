"""What autograd functions with gradients in closed form share."""

import torch

BLOCK = 2**19  # entries worked on at once: what is needed for them fits a CPU's cache


def blocks(number, size):
    """Slices of ``number`` rows of ``size`` entries each, BLOCK entries or a row at a
    time; one slice where a compiler joins the operations anyway.

    Example
    -------
    >>> blocks(5, BLOCK // 2)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    if torch.compiler.is_compiling():
        return [slice(0, number)]
    step = max(BLOCK // max(size, 1), 1)
    return [slice(i, min(i + step, number)) for i in range(0, max(number, 1), step)]


def refuse_second_derivative(what, instead):
    """RuntimeError in a backward pass that is to be differentiated itself: for
    ``create_graph=True`` gradients are recorded, and by a compiler, which may."""
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        raise RuntimeError(
            f"the closed form of {what} cannot be differentiated twice "
            f"(create_graph=True); use {instead}."
        )
