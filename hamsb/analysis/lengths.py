"""Utterances whole, cut and with noise: the lengths of their embeddings.

`embed_conditions` embeds utterances under several conditions; the `Lengths` of their
embeddings are measured before a ball's projection and after it.
"""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hamsb.augment.simulation import draw_noise
from hamsb.nnet.balls import Ball
from hamsb.verification.embeddings import Embeddings, embed_sets
from hamsb.verification.trials import Trials, speaker_of

_DIGITS = 9  # radii that differ by less differ by rounding: they are one


# ------------------------------------------------------------- utterances, changed


def choose(files: Mapping[str, Path], count: int | None, seed: int) -> dict[str, Path]:
    """``count`` of the utterances at random, or all, sorted by name."""
    names = sorted(files)
    if count is not None and count < len(names):
        drawn = np.random.default_rng(seed).choice(len(names), count, replace=False)
        names = [names[i] for i in sorted(drawn)]
    return {name: files[name] for name in names}


def cut(wav: Tensor, samples: int, seed: int) -> Tensor:
    """A random crop of an utterance [T], [samples]; shorter ones lie within longer
    ones."""
    start = int(_own_random(wav, seed).random() * (len(wav) - samples + 1))
    return wav[start : start + samples]


def add_noise(wav: Tensor, kind: str, snr: float, seed: int) -> Tensor:
    """An utterance with noise, the same at every signal-to-noise ratio.

    Arguments
    ---------
    wav : torch.Tensor
        [T], float32.
    kind : str
        One of `hamsb.augment.simulation.NOISES`.
    snr : float
        Ratio of the mean powers in dB.
    seed : int
        It and the utterance's samples decide the noise.
    """
    noise = torch.from_numpy(draw_noise(_own_random(wav, seed), kind, len(wav)))
    return wav + (noise * wav.double().square().mean().sqrt() * 10 ** (-snr / 20)).float()


def _own_random(wav: Tensor, seed: int) -> np.random.Generator:
    """A generator that an utterance's samples and the seed decide, and nothing else:
    neither which others are there nor in what order."""
    content = zlib.crc32(wav.numpy().tobytes())
    return np.random.default_rng([seed, content])


# ---------------------------------------------------------------- what is measured


@dataclass
class Lengths:
    """Lengths of vectors, and where a ball puts them.

    Attributes
    ----------
    norm : array
        [N], before the projection.
    centered : array or None
        [N], the same after a mean vector was subtracted.
    radius : array or None
        [N], the hyperbolic distance from the origin after it; None without a ball.
    clipped : array or None
        [N], bool: the projection cuts the vector short.
    points : torch.Tensor or None
        [N, D] in the ball.
    """

    norm: np.ndarray
    centered: np.ndarray | None = None
    radius: np.ndarray | None = None
    clipped: np.ndarray | None = None
    points: Tensor | None = None


@torch.no_grad()
def measure(ball: Ball | None, vectors: Tensor, mean: Tensor | None = None) -> Lengths:
    """Lengths of vectors [N, D], of those minus a mean [D], and in a ball.

    All on the CPU in float64; without a mean, or a ball, there is none of the latter.

    Example
    -------
    >>> from hamsb import PoincareBall
    >>> ball = PoincareBall(1.0, projection="clip")
    >>> found = measure(ball, torch.tensor([[0.3, 0.4], [3.0, 4.0]]).double())
    >>> found.norm.round(6), found.clipped
    (array([0.5, 5. ]), array([False,  True]))
    """
    found = Lengths(torch.linalg.vector_norm(vectors, dim=1).numpy())
    if mean is not None:
        found.centered = torch.linalg.vector_norm(vectors - mean, dim=1).numpy()
    if ball is not None:
        found.points = ball.project(vectors)
        origin = torch.zeros_like(found.points)
        found.radius = ball.distance(found.points, origin).numpy().round(_DIGITS)
        found.clipped = ball.clipped(vectors).numpy()
    return found


@dataclass
class Condition:
    """Utterances that were all changed in one way.

    Attributes
    ----------
    kind : {"whole", "crop", "noise"}
    value : float
        Of crops their seconds, of noise the signal-to-noise ratio in dB; else infinite:
        nothing was cut and nothing added.
    embeddings : Embeddings
        Their ``seconds`` are those of the whole utterances.
    lengths : Lengths
    """

    kind: str
    value: float
    embeddings: Embeddings
    lengths: Lengths

    @property
    def speakers(self) -> np.ndarray:
        """Of each utterance, its first folder: array [N] of str."""
        return np.array([speaker_of(name) for name in self.embeddings.utterances])

    @property
    def seconds(self) -> np.ndarray:
        """Of each whole utterance: array [N]."""
        if self.embeddings.seconds is None:
            raise ValueError("the embeddings come without lengths in seconds.")
        return self.embeddings.seconds.numpy()


def embed_conditions(
    encode: Callable[[Tensor], Tensor],
    ball: Ball | None,
    files: Mapping[str, Path],
    lists: Sequence[Trials],
    sample_rate: int,
    crop_seconds: Sequence[float],
    snrs: Sequence[float],
    noise: str,
    seed: int,
    progress: bool = True,
    **options: Any,
) -> list[Condition]:
    """Embed every utterance whole, cut (where it is longer than the crop) and with noise.

    Arguments
    ---------
    encode : callable
        Audio [B, T] -> embeddings [B, 1, D].
    ball : hamsb.nnet.balls.Ball or None
        On the CPU in float64.
    files : mapping of str to Path
        The utterances, ``<speaker>/...``, and their files.
    lists : sequence of Trials
        What an error about a file names.
    sample_rate : int
        Hz.
    crop_seconds : sequence of float
        Lengths of the crops; each is a condition.
    snrs : sequence of float
        Signal-to-noise ratios, dB; each is a condition.
    noise : str
        Its kind, as for `add_noise`.
    seed : int
        Of crops and noise.
    progress : bool
        Show progress bars.
    **options
        Of `hamsb.verification.embeddings.embed_utterances`.

    Returns
    -------
    list of Condition
        The whole utterances first; their mean is what all are centered by. A crop that
        no utterance is longer than is not there.
    """

    def embedded(change: Callable[[Tensor], Tensor], chosen: Mapping) -> Embeddings:
        def changed(wavs):
            return encode(torch.stack([change(wav) for wav in wavs.cpu()]))

        shown = {"progress": progress, **options}
        return embed_sets(changed, [chosen], lists, sample_rate, **shown)[0]

    def condition(kind: str, value: float, embeddings: Embeddings) -> Condition:
        lengths = measure(ball, embeddings.matrix.double(), mean)
        return Condition(kind, value, embeddings, lengths)

    whole = embedded(lambda wav: wav, files)
    mean = whole.matrix.double().mean(0)
    conditions = [condition("whole", math.inf, whole)]
    for seconds in crop_seconds:
        samples = round(seconds * sample_rate)
        longer = {
            name: files[name]
            for name, length in zip(whole.utterances, conditions[0].seconds, strict=True)
            if round(length * sample_rate) > samples
        }
        if longer:
            change = partial(cut, samples=samples, seed=seed)
            conditions.append(condition("crop", seconds, embedded(change, longer)))
    for snr in snrs:
        change = partial(add_noise, kind=noise, snr=snr, seed=seed)
        conditions.append(condition("noise", snr, embedded(change, files)))
    return conditions
