"""Reading audio: whole files, and crops of which nothing else is read."""

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
import torch
from speechbrain.dataio import audio_io
from speechbrain.dataio.preprocess import AudioNormalizer

from hamsb.dataio.annotations import Recording, Utterance

SILENCE = 1e-4  # of full scale, -80 dBFS: no sample is above


def load_audio(
    path: str | os.PathLike | Utterance, normalizer: AudioNormalizer
) -> torch.Tensor:
    """The samples of a file, mono and at the normalizer's rate, read by its own path.

    Arguments
    ---------
    path : str, Path or Utterance
        Audio file, or a stretch of one, of which alone is read. It is opened where it is;
        nothing is linked, copied or fetched.
    normalizer : speechbrain.dataio.preprocess.AudioNormalizer
        Holds the rate and averages the channels.

    Returns
    -------
    torch.Tensor
        [T], float32 on the CPU.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        It cannot be read as audio, it ends before the stretch does, or `check_audio`
        refuses its samples.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     audio_io.save(f"{folder}/a.wav", torch.rand(2, 400), 8000)
    ...     load_audio(f"{folder}/a.wav", AudioNormalizer(16000)).shape
    torch.Size([800])
    """
    file, start, frames = str(path), 0, -1
    if isinstance(path, Utterance):
        file, start, frames = path.wav, path.start, path.frames
    if not Path(file).is_file():
        raise FileNotFoundError(f"{path}: no such audio file")
    try:
        audio, rate = audio_io.load(
            file, channels_first=False, frame_offset=start, num_frames=frames
        )
    except RuntimeError as error:
        raise ValueError(
            f"{path}: cannot be read as audio; fetch or convert it again ({error})"
        ) from error
    if len(audio) == 0:
        raise ValueError(f"{path}: no samples; fetch or convert it again")
    if len(audio) < frames:
        raise ValueError(f"{path}: the file ends {frames - len(audio)} samples before it.")
    wav = normalizer(audio, rate)
    try:
        check_audio(wav, path, normalizer.sample_rate)
    except ValueError as error:
        if audio.shape[1] == 1:
            raise
        raise ValueError(f"{error} Its {audio.shape[1]} channels were averaged.") from None
    return wav


def stream_audio(
    path: str | os.PathLike, normalizer: AudioNormalizer, seconds: float = 30.0
) -> Iterator[torch.Tensor]:
    """The samples that `load_audio` gives, one part after the other, so that a recording of
    hours takes no more memory than a short one.

    Another rate is resampled with the samples around each part, so that no seam is heard:
    the parts together are the whole file's to within rounding.

    Arguments
    ---------
    path : str or Path
        Audio file. It is opened where it is.
    normalizer : speechbrain.dataio.preprocess.AudioNormalizer
        Holds the rate.
    seconds : float
        How much is read at a time.

    Yields
    ------
    torch.Tensor
        [T], float32 on the CPU, mono and at the normalizer's rate; T > 0.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        It cannot be read as audio, or holds samples that are not finite. Silence is for the
        caller to find.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     soundfile.write(f"{folder}/a.wav", [0.25] * 2500, 8000)
    ...     parts = [*stream_audio(f"{folder}/a.wav", AudioNormalizer(16000), 0.25)]
    >>> len(parts), sum(len(part) for part in parts)
    (2, 5000)
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such audio file")
    at = 0  # samples of the file that were read
    try:
        with soundfile.SoundFile(path) as file:
            rate, new = file.samplerate, normalizer.sample_rate
            unit = rate // math.gcd(rate, new)  # input samples between two on both grids
            # A resampled value depends on some six periods of the lower rate, either side.
            context = (
                0 if rate == new else unit * math.ceil(1 + 12 * max(1, rate / new) / unit)
            )
            frames = unit * max(1, round(seconds * rate / unit))
            audio, before = torch.empty(0), 0
            while True:
                block = torch.from_numpy(file.read(frames, dtype="float32", always_2d=True))
                block = block.mean(1)
                if not block.isfinite().all():
                    wrong = at + int((~block.isfinite()).nonzero()[0])
                    raise ValueError(
                        f"{path}: a sample at {wrong / rate:.3f} s is not a finite number; "
                        "fetch or convert it again."
                    )
                at += len(block)
                ended = len(block) < frames
                audio = torch.cat([audio, block])
                upto = len(audio) if ended else max(before, len(audio) - context)
                if upto > before:
                    wav = normalizer(audio, rate)
                    first, last = (part * new // rate for part in (before, upto))
                    yield wav[first:] if ended else wav[first:last]
                if ended:
                    return
                kept = max(0, upto - context)
                audio, before = audio[kept:], upto - kept
    except (RuntimeError, OSError) as error:
        where = f" beyond {at / rate:.1f} s" if at else ""
        raise ValueError(
            f"{path}: cannot be read as audio{where}; fetch or convert it again ({error})"
        ) from error


def check_audio(wav: torch.Tensor, name: object, sample_rate: int) -> None:
    """ValueError where there is nothing in a recording that a model could tell apart.

    Its embedding would be a number like any other, and two silent recordings one speaker.

    Arguments
    ---------
    wav : torch.Tensor
        [T], or [T, C], of floats whose full scale is 1.
    name : str or Path
        What the message begins with: the file, or the row of a batch.
    sample_rate : int
        Hz.

    Raises
    ------
    ValueError
        Whole numbers, of which the full scale is not known; no samples; samples that are
        not finite; no sample above -80 dBFS, which is silence for the preparation of
        training data too; nothing but a constant.

    Example
    -------
    >>> check_audio(torch.zeros(8000), "a.wav", 16000)
    Traceback (most recent call last):
    ValueError: a.wav: silent, no sample above -80 dBFS in 0.500 s; give a recording of \
speech.
    """
    if not wav.is_floating_point():
        raise ValueError(
            f"{name}: {wav.dtype}, but floats are needed whose full scale is 1; "
            "divide by that of your numbers, 32768 for 16 bit."
        )
    if wav.numel() == 0:
        raise ValueError(f"{name}: no samples; give a recording of speech.")
    low, high = torch.stack(wav.detach().float().aminmax()).tolist()  # nan is passed on
    seconds = f"{len(wav) / sample_rate:.3f} s"
    if not (math.isfinite(low) and math.isfinite(high)):
        wrong = int((~wav.isfinite()).sum())
        raise ValueError(
            f"{name}: {wrong} of the {wav.numel()} samples ({seconds}) are not finite "
            "numbers; fetch or convert it again."
        )
    if max(-low, high) <= SILENCE:
        raise ValueError(
            f"{name}: silent, no sample above -80 dBFS in {seconds}; give a recording of "
            "speech."
        )
    if high - low <= SILENCE and len(wav) > 1:
        raise ValueError(
            f"{name}: silent, nothing but a constant of {high:.3g} in {seconds}; give a "
            "recording of speech."
        )


def check_files(
    files: Iterable[str | Recording], sample_rate: int, least_samples: int = 1
) -> None:
    """Look at the headers of files that are to be embedded later, some 0.2 ms each.

    What a header cannot tell, as silence, is told when the file is read.

    Arguments
    ---------
    files : iterable of str, Path or Utterance
        Audio files, or stretches of them; each is looked at once.
    sample_rate : int
        Of the model, in Hz.
    least_samples : int
        Fewer at that rate are too few: `hamsb.verification.encoding.Encoder` knows.

    Raises
    ------
    ValueError
        Some cannot be embedded: missing, unreadable, empty or too short. The message
        has their number, and three of them with the reason.
    """
    distinct = {str(file): file for file in files}
    found = {
        name: _fault(file, sample_rate, least_samples) for name, file in distinct.items()
    }
    faults = [f"{path}: {fault}" for path, fault in found.items() if fault]
    if faults:
        rest = len(faults) - 3
        more = f"\n  and {rest} more" * (rest > 0)
        raise ValueError(
            f"{len(faults)} of {len(distinct)} audio files cannot be embedded; mend "
            "them, or remove their trials:\n  " + "\n  ".join(faults[:3]) + more
        )


def _fault(file, sample_rate, least_samples):
    """Why a file cannot be embedded, as far as its header tells; "" where it can."""
    path = file.wav if isinstance(file, Utterance) else str(file)
    try:
        header = soundfile.info(path)
    except (RuntimeError, OSError) as error:
        if not Path(path).is_file():
            return "no such audio file"
        return f"cannot be read as audio ({error})"
    if header.frames == 0:
        return "no samples"
    frames = header.frames
    if isinstance(file, Utterance):
        frames = file.frames
        if file.stop > header.frames:
            return f"the file ends {file.stop - header.frames} samples before it"
    if frames * sample_rate < least_samples * header.samplerate:
        least = f"{least_samples / sample_rate:.4f} s"
        seconds = frames / header.samplerate
        return f"lasts {seconds:.4f} s, and the model needs at least {least}"
    return ""


def read_crop(
    path: str | os.PathLike,
    start: int,
    frames: int,
    length: int | None = None,
    sample_rate: int | None = None,
) -> torch.Tensor:
    """A crop of a file, channels averaged; nothing else of the file is read.

    Arguments
    ---------
    path : str or Path
        Audio file.
    start, frames : int
        The first sample, and how many are read.
    length : int, optional
        Repeat what was read to so many samples; ``frames`` by default.
    sample_rate : int, optional
        The rate in Hz that the file must have.

    Returns
    -------
    torch.Tensor
        [length], float32 on the CPU.

    Raises
    ------
    ValueError
        The file cannot be read, ends too early, or has another rate.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     soundfile.write(f"{folder}/a.wav", [0.0, 0.25, 0.5], 16000)
    ...     read_crop(f"{folder}/a.wav", start=1, frames=2, length=3)
    tensor([0.2500, 0.5000, 0.2500])
    """
    with _opened(path, start) as file:
        if sample_rate not in (None, file.samplerate):
            raise ValueError(
                f"{path}: at {file.samplerate} Hz, but the model takes {sample_rate} Hz; "
                "give data at that rate."
            )
        return _read(file, start, frames, frames if length is None else length)


def crop_at(path: str | os.PathLike, length: int, position: float) -> torch.Tensor:
    """``length`` samples of a file, which is repeated where it is shorter.

    Errors as `read_crop`.

    Arguments
    ---------
    path : str or Path
        Audio file.
    length : int
        Of the crop.
    position : float
        In [0, 1): from the first crop of the file to its last.

    Returns
    -------
    torch.Tensor
        [length], float32 on the CPU.
    """
    with _opened(path) as file:
        if file.frames == 0:
            raise ValueError(f"{path}: no samples; fetch or convert it again")
        start = int(position * (max(file.frames - length, 0) + 1))
        return _read(file, start, min(length, file.frames), length)


def random_crop(
    path: str | os.PathLike,
    start: int,
    stop: int,
    length: int,
    random: torch.Generator | None = None,
) -> torch.Tensor:
    """``length`` samples from a random place of a stretch; a short one is repeated.

    Errors as `read_crop`.

    Arguments
    ---------
    path : str or Path
        Audio file.
    start, stop : int
        The stretch, in samples.
    length : int
        Of the crop.
    random : torch.Generator, optional
        Draws the place; by default torch's own.

    Returns
    -------
    torch.Tensor
        [length], float32 on the CPU.
    """
    spare = max(stop - start - length, 0)
    offset = start + int(torch.randint(spare + 1, (), generator=random))
    return read_crop(path, offset, min(length, stop - start), length)


@contextmanager
def _opened(path: str | os.PathLike, start: int = 0) -> Iterator[soundfile.SoundFile]:
    """An audio file to read from; what goes wrong there is a ValueError."""
    try:
        with soundfile.SoundFile(path) as file:
            yield file
    except (RuntimeError, OSError) as error:
        raise ValueError(f"{path}: cannot be read from sample {start}: {error}") from error


def _read(file: soundfile.SoundFile, start: int, frames: int, length: int) -> torch.Tensor:
    """``frames`` samples from ``start``, channels averaged, repeated to ``length``."""
    file.seek(start)
    audio = mono(file.read(frames, dtype="float32", always_2d=True))
    if len(audio) < frames:
        raise ValueError(
            f"{file.name}: ends {frames - len(audio)} samples too early; it was longer "
            "when it was prepared. Restore or remove it, and start again."
        )
    if length > frames:
        audio = audio.repeat(-(-length // frames))
    return audio[:length]


def mono(samples: np.ndarray) -> torch.Tensor:
    """Samples of channels [T, C], averaged to [T]."""
    audio = torch.from_numpy(samples)
    return audio[:, 0] if audio.shape[1] == 1 else audio.mean(-1)
