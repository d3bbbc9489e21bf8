"""Encoders whose faults are told by the recording that they meet."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch

# Every model embeds so much of noise, or fails for another reason.
_PLENTY = 1.0  # seconds
# Below, an embedding may not depend on the audio: one frame less its mean is zero.
_BRIEF = 0.1  # seconds


class Encoder:
    """An encoder that names the recording which it cannot embed.

    What is too short depends on the model, and what a model raises then, on its layers.
    So the least length is found by trying, with noise, when a recording fails or is
    shorter than 0.1 s.

    Arguments
    ---------
    encode : callable
        From audio [B, T] to embeddings [B, D] or [B, 1, D] on any device, without
        gradients and in ``eval()`` mode.
    sample_rate : int
        Rate that it expects, in Hz.

    Example
    -------
    >>> network = torch.nn.Conv1d(1, 4, kernel_size=400)
    >>> encode = lambda wavs: network(wavs.unsqueeze(1)).amax(-1)
    >>> encoder = Encoder(encode, sample_rate=16000)
    >>> encoder(torch.rand(1, 8000), ["a.wav"]).shape, encoder.least_samples
    (torch.Size([1, 4]), 400)
    >>> encoder(torch.rand(1, 320), ["b.wav"])
    Traceback (most recent call last):
    ValueError: b.wav: lasts 0.0200 s, and the model needs at least 0.0250 s (400 samples \
at 16000 Hz); give a longer recording.
    """

    def __init__(self, encode: Callable[..., torch.Tensor], sample_rate: int):
        self.encode = encode
        self.sample_rate = sample_rate

    @cached_property
    def least_samples(self) -> int | None:
        """The fewest samples whose embedding is finite and depends on them; None where
        that is not so of one second either."""
        generator = torch.Generator().manual_seed(0)
        noise = 0.1 * torch.randn(2, int(_PLENTY * self.sample_rate), generator=generator)
        few, enough = 0, noise.shape[1]
        if not self._tells_apart(noise):
            return None
        while enough - few > 1:
            middle = (few + enough) // 2
            if self._tells_apart(noise[:, :middle]):
                enough = middle
            else:
                few = middle
        return enough

    def _tells_apart(self, wavs):
        """Whether two recordings have finite embeddings that differ."""
        try:
            with torch.no_grad():
                one, other = self.encode(wavs).flatten(1).float()
        except Exception:  # of any kind, by the model's layers
            return False
        finite = bool(one.isfinite().all() and other.isfinite().all())
        return finite and not torch.allclose(one, other, rtol=1e-4, atol=1e-7)

    def check_length(self, name: object, samples: int) -> None:
        """ValueError where a recording of so many samples is too short to be embedded."""
        if samples >= _PLENTY * self.sample_rate:
            return
        least = self.least_samples
        if least is not None and samples < least:
            rate = self.sample_rate
            raise ValueError(
                f"{name}: lasts {samples / rate:.4f} s, and the model needs at least "
                f"{least / rate:.4f} s ({least} samples at {rate} Hz); give a longer "
                "recording."
            )

    def check_brief(self, name: object, samples: int) -> None:
        """`check_length` of what is shorter than 0.1 s; longer recordings show it when
        they are embedded."""
        if samples < _BRIEF * self.sample_rate:
            self.check_length(name, samples)

    def __call__(
        self,
        wavs: torch.Tensor,
        names: Sequence[object],
        samples: Sequence[int] | None = None,
        **options: Any,
    ) -> torch.Tensor:
        """Embed a batch.

        Arguments
        ---------
        wavs : torch.Tensor
            Audio [B, T], float, without silent or non-finite rows
            (`hamsb.dataio.audio.check_audio`).
        names : sequence
            B file names or paths, for errors.
        samples : sequence of int, optional
            The B lengths, where rows are padded.
        **options
            Handed on to ``encode``.

        Returns
        -------
        torch.Tensor
            As ``encode`` returns it.

        Raises
        ------
        ValueError
            A recording is too short; embeddings are not [B, D] or [B, 1, D], or not
            finite. The message names the recording.
        """
        samples = [wavs.shape[1]] * len(names) if samples is None else samples
        embeddings = self.start(wavs, names, samples, **options)
        self.check(embeddings, names, samples)
        return embeddings

    def start(
        self,
        wavs: torch.Tensor,
        names: Sequence[object],
        samples: Sequence[int] | None = None,
        **options: Any,
    ) -> torch.Tensor:
        """As a call, but an accelerator may still be computing what is returned, and
        whether it is finite is for `check`."""
        samples = [wavs.shape[1]] * len(names) if samples is None else samples
        for name, length in zip(names, samples, strict=True):
            self.check_brief(name, length)
        try:
            embeddings = self.encode(wavs, **options)
        except Exception as error:  # of any kind, by the model's layers
            try:
                for name, length in zip(names, samples):
                    self.check_length(name, length)
            except ValueError as short:
                raise short from error
            raise
        batch, shape = len(names), tuple(embeddings.shape)
        if shape[:-1] not in ((batch,), (batch, 1)):
            raise ValueError(
                f"{names[0]}: encode must return [{batch}, D] or [{batch}, 1, D], "
                f"got shape {shape}"
            )
        return embeddings

    def check(
        self, embeddings: torch.Tensor, names: Sequence[object], samples: Sequence[int]
    ) -> None:
        """ValueError where embeddings [B, D] or [B, 1, D] are not finite; the message
        names the recording."""
        batch, size = len(names), embeddings.shape[-1]
        finite = embeddings.detach().reshape(batch, -1).isfinite()
        if not finite.all():
            row = int((~finite).any(1).nonzero()[0])
            self.check_length(names[row], samples[row])
            raise ValueError(
                f"{names[row]}: the embedding is not finite "
                f"({int((~finite[row]).sum())} of {size} values); "
                "look at the audio file and at the model's parameters"
            )
