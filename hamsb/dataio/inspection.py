"""What is wrong with an utterance for a training, as its header and its end tell."""

import functools
import multiprocessing
import os
import struct
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import soundfile

from hamsb.dataio.audio import SILENCE
from hamsb.dataio.utterances import stretch_end
from hamsb.utils.progress import progress_bar

_FILES_PER_TASK = 256  # handed to a worker process at a time
_END = 1024  # samples read of every utterance
_BLOCK = 65536  # samples read at a time of one that ends in silence
_UNKNOWN_BYTES = 0x7FFFF000  # data sizes from here on mean "until the end"
_UNKNOWN_FRAMES = 2**63 - 1  # libsndfile's SF_COUNT_MAX


def look(
    task: tuple[str, int, int, int], sample_rate: int, min_duration: float
) -> tuple[str, str, int]:
    """Decide about one utterance; never raises.

    Arguments
    ---------
    task : tuple
        The file, its size in bytes, and start and stop of the utterance in samples; a
        stop of 0 is the file's end.
    sample_rate : int
        That it must have, in Hz.
    min_duration : float
        In seconds.

    Returns
    -------
    reason : str
        Why it cannot be used; "" or "stereo" where it can.
    detail : str
        More of that.
    stop : int
        Where it ends, in samples; 0 where it cannot be used.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = f"{folder}/a.wav"
    ...     soundfile.write(path, [0.0, 0.5] * 4000, 16000)
    ...     size = os.path.getsize(path)
    ...     look((path, size, 0, 0), 16000, 0.1), look((path, size, 0, 99), 16000, 0.1)
    (('', '', 8000), ('too_short', '0.006 s', 0))
    """
    path, size, start, stop = task
    if size == 0:  # a pipe would block
        there = os.path.lexists(path)
        return "unreadable", "empty, or not a file" if there else "no such file", 0
    try:
        with soundfile.SoundFile(path) as audio:
            return _judge(audio, path, size, start, stop, sample_rate, min_duration)
    except Exception as error:  # one bad file of a million must not end the run
        return "unreadable", str(error), 0


def look_at_all(
    tasks: Sequence[tuple[str, int, int, int]],
    sample_rate: int,
    min_duration: float,
    workers: int,
) -> list[tuple[str, str, int]]:
    """`look` for every utterance, in order, on up to ``workers`` processes.

    Processes, because a file takes some 0.1 ms, mostly in Python: two threads were slower
    than one, two processes nearly twice as fast.
    """
    judge = functools.partial(look, sample_rate=sample_rate, min_duration=min_duration)
    bar = functools.partial(
        progress_bar, total=len(tasks), desc="Reading audio headers", unit="file"
    )
    workers = min(workers, -(-len(tasks) // _FILES_PER_TASK))
    if workers <= 1:
        return list(bar(map(judge, tasks)))
    # fork, as PyTorch's DataLoader does: a fresh interpreter a worker would
    # spend longer on imports than most corpora take.
    method = "fork" if sys.platform == "linux" else None
    with ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context(method)
    ) as pool:
        return list(bar(pool.map(judge, tasks, chunksize=_FILES_PER_TASK)))


def _judge(audio, path, size, start, stop, sample_rate, min_duration):
    """`look` for a file that opens."""
    if audio.frames == 0:
        return "unreadable", "no samples", 0
    if audio.frames >= _UNKNOWN_FRAMES:
        return "unknown_length", "encode it again", 0
    if audio.samplerate != sample_rate:
        return "other_rate", f"{audio.samplerate} Hz", 0
    missing = _missing_bytes(path, size) if "WAV" in audio.format else 0
    if missing:
        return "truncated", f"{missing} bytes are missing", 0
    stop = stretch_end(stop, audio.frames, sample_rate)
    if stop > audio.frames or start >= stop:
        behind = (max(start, stop) - audio.frames) / sample_rate
        return "truncated", f"the file ends {behind:.3f} s before it", 0
    frames = stop - start
    try:
        audio.seek(stop - min(_END, frames))
        end = audio.read(min(_END, frames), dtype="float32")
    except soundfile.LibsndfileError:
        end = ()
    if len(end) < min(_END, frames):
        return "truncated", "the last samples cannot be read", 0
    if not np.isfinite(end).all():
        return "unreadable", "infinite or NaN samples", 0
    if frames < min_duration * sample_rate:
        return "too_short", f"{frames / sample_rate:.3f} s", 0
    if not _is_loud(end) and _is_silent(audio, start, frames):
        return "silent", "no sample above -80 dBFS", 0
    return ("stereo" if audio.channels > 1 else ""), "", stop


def _is_loud(samples):
    """Whether a sample lies above -80 dBFS (both signs, all channels)."""
    return bool((np.abs(samples) > SILENCE).any())


def _is_silent(audio, start, frames):
    """Reads a stretch of a file from its start until a sample is above -80 dBFS."""
    audio.seek(start)
    blocks = audio.blocks(blocksize=_BLOCK, frames=frames, dtype="float32")
    return not any(_is_loud(block) for block in blocks)


def _missing_bytes(path, size):
    """Bytes that a WAV header promises beyond the file's end; 0 if none.

    libsndfile quietly shortens such a file to what there is. Other formats, and
    sizes that mean "until the end" (written to a pipe), give 0.
    """
    with open(path, "rb") as stream:
        head = stream.read(12)
        if head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return 0
        while len(head := stream.read(8)) == 8:
            kind, length = struct.unpack("<4sI", head)
            if kind == b"data":
                if length >= _UNKNOWN_BYTES:
                    return 0
                return max(0, stream.tell() + length - size)
            stream.seek(length + length % 2, os.SEEK_CUR)
    return 0
