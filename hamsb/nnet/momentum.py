"""What MoCo needs beside its loss: a queue of earlier embeddings, and an encoder that
follows the trained one slowly (He et al., arXiv 1911.05722).

Several processes: the queue takes the keys of all, and the encoder shuffles the batch
among them. Every process needs the same number of utterances.
"""

import copy

import torch
from torch import Tensor, distributed, nn

from hamsb.nnet._batches import gathered, processes, speaker_indices, vectors
from hamsb.utils.checks import check_whole, is_number


class MomentumQueue(nn.Module):
    """The last K embeddings, a ring that overwrites its oldest.

    Buffers: ``keys`` [K, D], ``labels`` [K] (-1 where unknown), ``enqueued``,
    the number of keys it ever took. An empty slot is no negative of anything.
    K need not be a multiple of the batch; of a batch larger than K the last K
    stay.

    Arguments
    ---------
    size : int
        K >= 1. From an epoch's number of utterances on, an utterance always meets
        itself among its negatives.
    dimension : int
        D >= 1.

    Example
    -------
    >>> queue = MomentumQueue(size=3, dimension=1)
    >>> queue.enqueue(torch.tensor([[1.0], [2.0]]))
    >>> queue.enqueue(torch.tensor([[3.0], [4.0]]))
    >>> queue.keys.flatten(), queue.pointer
    (tensor([4., 2., 3.]), tensor(1))
    """

    keys: Tensor
    labels: Tensor
    enqueued: Tensor

    def __init__(self, size: int, dimension: int):
        super().__init__()
        check_whole("size", size, 1)
        check_whole("dimension", dimension, 1)
        self.register_buffer("keys", torch.zeros(size, dimension))
        self.register_buffer("labels", torch.full((size,), -1))
        self.register_buffer("enqueued", torch.tensor(0))

    @property
    def pointer(self) -> Tensor:
        """The slot that is written next, a 0-dimensional tensor."""
        return self.enqueued % len(self.keys)

    @property
    def empty(self) -> Tensor:
        """Which slots were never written, bool [K]."""
        slots = torch.arange(len(self.keys), device=self.keys.device)
        return slots >= self.enqueued

    @torch.no_grad()
    def enqueue(self, keys: Tensor, labels: Tensor | None = None) -> None:
        """Take a batch, of all processes in the order of their ranks.

        Arguments
        ---------
        keys : torch.Tensor
            Embeddings [B, 1, D] or [B, D], as they come from the encoder.
        labels : torch.Tensor, optional
            Their speaker indices [B] or [B, 1], >= 0, for a study with masked
            collisions.
        """
        keys = vectors("keys", keys, self.keys.shape[1])
        if labels is None:
            labels = self.labels.new_full((len(keys),), -1)
        keys, labels = gathered(keys), gathered(speaker_indices("labels", labels, keys))
        total, size = len(keys), len(self.keys)
        stay = torch.arange(max(total - size, 0), total, device=keys.device)
        slots = (self.enqueued + stay) % size
        self.keys[slots] = keys[stay].to(self.keys)
        self.labels[slots] = labels[stay]
        self.enqueued += total

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        size, dimension = self.keys.shape
        return f"size={size}, dimension={dimension}"


class MomentumEncoder(nn.Module):
    """A copy of an encoder whose parameters follow it slowly.

    ``k <- m k + (1 - m) q`` for every parameter (arXiv 1911.05722), without
    gradients. Buffers are neither copied nor averaged: as in MoCo it runs in
    training mode on batches of its own, and keeps its own running statistics.

    Under several processes the utterances of all are shuffled among them before
    the forward pass and brought back after it (training mode only), so that no
    batch normalization can tell which keys and queries belong together.

    Arguments
    ---------
    encoder : nn.Module
        What is copied; it does not become part of this module.
    momentum : float
        m in [0, 1).

    Example
    -------
    >>> encoder = nn.Linear(3, 2)
    >>> momentum_encoder = MomentumEncoder(encoder, momentum=0.9)
    >>> with torch.no_grad():
    ...     _ = encoder.bias.add_(1.0)
    >>> momentum_encoder.update(encoder)
    >>> (encoder.bias - momentum_encoder.encoder.bias).detach()
    tensor([0.9000, 0.9000])
    """

    def __init__(self, encoder: nn.Module, momentum: float = 0.999):
        super().__init__()
        if not isinstance(encoder, nn.Module):
            raise ValueError(f"encoder={encoder!r}: must be a network, to be copied.")
        if not is_number(momentum) or not 0 <= momentum < 1:
            raise ValueError(f"momentum={momentum!r}: must lie in [0, 1).")
        self.momentum = momentum
        self.encoder = copy.deepcopy(encoder).requires_grad_(False)

    @torch.no_grad()
    def update(self, encoder: nn.Module) -> None:
        """Follow the encoder, after its optimizer step.

        Arguments
        ---------
        encoder : nn.Module
            The one that was copied (inside DistributedDataParallel, or not); one
            with other parameters is a ValueError.
        """
        ours, theirs = list(self.encoder.parameters()), list(encoder.parameters())
        if [p.shape for p in ours] != [p.shape for p in theirs]:
            raise ValueError(
                f"the encoder's {len(theirs)} parameters do not have the shapes of the "
                f"{len(ours)} that were copied: give the encoder that was copied."
            )
        for slow, fast in zip(ours, theirs, strict=True):
            slow.lerp_(fast, 1 - self.momentum)

    @torch.no_grad()
    def forward(self, *inputs: Tensor) -> Tensor:
        """What the encoder returns for the inputs (tensors [B, ...]), without
        gradient. Every process needs the same shapes."""
        rank, number = processes()
        if number == 1 or not self.training:
            return self.encoder(*inputs)
        share = len(inputs[0])
        own = slice(rank * share, (rank + 1) * share)
        order = torch.randperm(number * share, device=inputs[0].device)
        distributed.broadcast(order, 0)
        shuffled = self.encoder(*(gathered(x)[order[own]] for x in inputs))
        return gathered(shuffled)[order.argsort()[own]]

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        return f"momentum={self.momentum:g}"
