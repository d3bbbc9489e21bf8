"""What an augmentation needs of files, read where there is time for it.

An augmentation that reads files has two halves. `ReadsFiles.read` draws and reads for one
utterance, on the CPU; ``forward`` mixes for a batch, on its device. What is in between:

====================  ============================================================
a dataset             has a step `Reads`, which calls ``read`` in a loader's worker,
                      with random numbers of the utterance's `Draw`
the batch             carries what was read: ``reads_<view>_<number>_<name>``
`augment`             calls a yaml's ``wav_augment`` with it: each augmentation finds
                      its part in `ReadsFiles.given`
====================  ============================================================

An augmentation that was given nothing reads when it is called, in the main process, with
torch's random numbers: in SpeechBrain's own script, and in a notebook.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hamsb.dataio.draws import AUGMENTATION, SPEED, Draw
from hamsb.dataio.packing import PackedBatch


class ReadsFiles(torch.nn.Module):
    """An augmentation that reads files.

    Attributes
    ----------
    names : tuple of str
        Of what `read` returns.
    given : deque of dict
        What was read for its next calls, as `read` returns it, stacked: [B, ...]. Empty
        but inside of `augment`.
    """

    names: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.given: deque[dict[str, Tensor]] = deque()

    def open(self) -> object:
        """The list of files, read once; what is wrong with it is an error here."""
        raise NotImplementedError

    def read(self, length: int, random: torch.Generator | None = None) -> dict[str, Tensor]:
        """Draw and read for one utterance.

        Arguments
        ---------
        length : int
            Of the utterance, in samples.
        random : torch.Generator, optional
            By default torch's own.

        Returns
        -------
        dict of str to torch.Tensor
            1-dimensional, float32 on the CPU.
        """
        raise NotImplementedError

    def of_batch(self, waveforms: Tensor) -> dict[str, Tensor]:
        """What was read for the utterances of a batch [B, T], or is read now; on their
        device, zero where one has less than another."""
        if self.given:
            found = self.given.popleft()
        else:
            batch = PackedBatch([self.read(waveforms.shape[1]) for _ in waveforms])
            found = _part(batch.to(waveforms.device), "", self.names)
        return {name: value.to(waveforms.dtype) for name, value in found.items()}


def readers(augmenter: object) -> list[ReadsFiles]:
    """The augmentations of an ``Augmenter`` that can be read for before, in the order of
    their calls.

    None where it hands them part of a batch (``augment_start_index``,
    ``augment_end_index``, ``parallel_augment_fixed_bs``): which part, they cannot tell.
    """
    if isinstance(augmenter, ReadsFiles):
        return [augmenter]
    chain = getattr(augmenter, "augmentations", None)
    in_part = (
        getattr(augmenter, "augment_start_index", 0)
        or getattr(augmenter, "augment_end_index", None) is not None
        or getattr(augmenter, "parallel_augment_fixed_bs", False)
    )
    if in_part or not isinstance(chain, dict):
        return []
    found = [reader for each in chain.values() for reader in readers(each)]
    return found * getattr(augmenter, "repeat_augment", 1)


class Reads:
    """A dataset's step that reads for a view of an utterance what its augmentations need.

    Arguments
    ---------
    augmenter : Augmenter
        With `readers`.
    length : int
        Of the view, in samples.
    seed : int
        Of the training, see `Draw`.
    view : int
        Number of the view.

    Raises
    ------
    FileNotFoundError, ValueError
        What `ReadsFiles.open` says.
    """

    takes = ("draw",)

    def __init__(self, augmenter: object, length: int, seed: int, view: int):
        self.readers = readers(augmenter)
        for reader in self.readers:
            reader.open()
        self.length = length
        self.seed = seed
        self.view = view
        self.provides = tuple(
            _prefix(view, number) + name
            for number, reader in enumerate(self.readers)
            for name in reader.names
        )

    def __call__(self, draw: Draw | None) -> tuple[Tensor, ...]:
        """[...] each, float32."""
        found: list[Tensor] = []
        for use, reader in enumerate(self.readers, AUGMENTATION):
            random = None if draw is None else draw.generator(self.seed, self.view, use)
            found += reader.read(self.length, random).values()
        return tuple(found)


class Speeds:
    """A dataset's step that draws the speed of an utterance, ``speed``.

    Arguments
    ---------
    draw_speed : callable
        `SpeedPerturb.draw`.
    seed : int
        Of the training, see `Draw`.
    """

    takes = ("draw",)
    provides = ("speed",)

    def __init__(self, draw_speed: Callable[[torch.Generator | None], int], seed: int):
        self.draw_speed = draw_speed
        self.seed = seed

    def __call__(self, draw: Draw | None) -> int:
        """Its number."""
        return self.draw_speed(draw and draw.generator(self.seed, use=SPEED))


def augment(
    augmenter: Callable, wavs: Tensor, lengths: Tensor, batch: Any, view: int
) -> tuple[Tensor, Tensor]:
    """``augmenter(wavs, lengths)``, with what a batch carries for it.

    Arguments
    ---------
    augmenter : Augmenter
        A yaml's ``wav_augment``.
    wavs : torch.Tensor
        [B, T].
    lengths : torch.Tensor
        [B], relative to T.
    batch : PackedBatch
        On the device of the waveforms; of a dataset with, or without, `Reads`.
    view : int
        Which view the waveforms are, as for `Reads`.

    Returns
    -------
    torch.Tensor
        [N, T].
    torch.Tensor
        [N], relative to T.
    """
    called = readers(augmenter)
    try:
        for number, reader in enumerate(called):
            prefix = _prefix(view, number)
            if hasattr(batch, prefix + reader.names[0]):
                reader.given.append(_part(batch, prefix, reader.names))
        return augmenter(wavs, lengths)
    finally:
        for reader in called:
            reader.given.clear()


def _prefix(view: int, number: int) -> str:
    return f"reads_{view}_{number}_"


def _part(batch: Any, prefix: str, names: tuple[str, ...]) -> dict[str, Tensor]:
    return {name: batch[prefix + name].data for name in names}
