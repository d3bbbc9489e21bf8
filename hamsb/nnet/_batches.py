"""What the heads and losses take in: embeddings and speaker indices of a batch, of this
process or gathered from all."""

import torch
from torch import Tensor, distributed
from torch.distributed.nn.functional import all_gather

from hamsb.nnet.precision import widened


def vectors(name: str, x: Tensor, size: int | str = "D") -> Tensor:
    """Embeddings [B, 1, D] or [B, D] as [B, D], float32 or wider. Another shape, or
    another D where a size is given, is a ValueError."""
    fits = x.dim() in (2, 3) and x.shape[1:-1].numel() == 1
    if not fits or (size != "D" and size != x.shape[-1]):
        raise ValueError(
            f"{name} of shape {list(x.shape)}: expected [B, 1, {size}] or [B, {size}]."
        )
    return widened(x.reshape(len(x), x.shape[-1]))


def two_views(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Two views of the same utterances, [B, D] each, float32 or wider."""
    first, second = vectors("first views", first), vectors("second views", second)
    if first.shape != second.shape:
        raise ValueError(
            f"views of shapes {list(first.shape)} and {list(second.shape)}: the two "
            "views of the same utterances are needed."
        )
    return first, second


def speaker_indices(name: str, indices: Tensor, of: Tensor) -> Tensor:
    """Speaker indices [B] or [B, 1] of a batch ``of`` [B, ...], as int64 [B]."""
    number = len(of)
    if indices.numel() != number or indices.dim() > 2:
        raise ValueError(
            f"{name} of shape {list(indices.shape)} for a batch of shape "
            f"{list(of.shape)}: expected [{number}, 1] or [{number}]."
        )
    if indices.is_floating_point() or indices.is_complex():
        raise ValueError(f"{name} are {indices.dtype}: speaker indices are needed.")
    return indices.reshape(number).long()


def processes() -> tuple[int, int]:
    """The rank of this process and how many there are."""
    if distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def gathered(x: Tensor) -> Tensor:
    """x [B, ...] of all processes in the order of their ranks, with gradient:
    what the losses of the other processes owe to x comes back to it."""
    return torch.cat(all_gather(x)) if processes()[1] > 1 else x
