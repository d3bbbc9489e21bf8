"""Embeddings kept on disk, from one run to the next."""

import hashlib
import io
import os
import time
from functools import cached_property
from pathlib import Path

import numpy as np
import speechbrain
import torch
from speechbrain.utils.logger import get_logger

from hamsb.dataio.annotations import Utterance
from hamsb.utils.files import replacing

logger = get_logger(__name__)

# What a file of the cache holds at most, and so what a killed run may lose.
_PART = 1000  # embeddings
_SECONDS = 10.0  # of work


class EmbeddingCache:
    """Embeddings on disk, shared by all runs with one model.

    The folder holds a folder for each model, and that files of up to 1,000 embeddings,
    which are added and never changed: a run may be killed, which loses the work of ten
    seconds at most, and several may run at once.
    They hold plain numbers; nothing in them is executed. A damaged file is removed with
    a warning, and what it held is embedded again. The whole folder may be deleted at
    any time.

    Arguments
    ---------
    folder : str or Path
        Made if need be.
    model : str
        Tells the model from any other, such as `hamsb.verification.decision.fingerprint`
        of its folder. Another version of torch or SpeechBrain counts as another model.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cache = EmbeddingCache(folder, model="3f2a")
    ...     cache.put(bytes(32), torch.tensor([0.5, 2.0]), seconds=3.25)
    ...     cache.flush()
    ...     EmbeddingCache(folder, model="3f2a").get(bytes(32))
    (tensor([0.5000, 2.0000]), 3.25)
    """

    def __init__(self, folder: str | os.PathLike, model: str):
        # Since 2, of audio that is not silent.
        versions = f"2 torch {torch.__version__} speechbrain {speechbrain.__version__}"
        name = hashlib.sha256(f"{model} {versions}".encode()).hexdigest()[:24]
        self.folder = Path(folder) / name
        self._waiting: dict[bytes, tuple[torch.Tensor, float]] = {}  # not yet written
        self._written = time.monotonic()

    @cached_property
    def _known(self):
        """All that the folder holds: key -> (part, row in it); parts as `_parse`."""
        known = {}
        for path in sorted(self.folder.glob("*.npz")):
            try:
                keys, *part = _parse(path.read_bytes())
            except FileNotFoundError:  # another run found it damaged just now
                continue
            except _Damaged as error:
                logger.warning(
                    "%s: damaged (%s); removed, its utterances are embedded again",
                    path,
                    error,
                )
                path.unlink(missing_ok=True)
            else:
                known.update({key: (part, row) for row, key in enumerate(keys)})
        return known

    def get(self, key: bytes) -> tuple[torch.Tensor, float] | None:
        """The embedding [D] and seconds kept under a `file_key`, or None."""
        if key in self._waiting:
            return self._waiting[key]
        if key not in self._known:
            return None
        (matrix, seconds), row = self._known[key]
        return matrix[row], seconds[row].item()

    def put(self, key: bytes, row: torch.Tensor, seconds: float) -> None:
        """Keep an embedding [D], float32, and its seconds under a `file_key`."""
        self._waiting[key] = row, seconds
        if len(self._waiting) >= _PART or time.monotonic() - self._written > _SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what was put since the last time, as one file that appears whole."""
        self._written = time.monotonic()
        if not self._waiting:
            return
        keys = b"".join(self._waiting)
        rows, seconds = zip(*self._waiting.values())
        name = hashlib.sha256(keys).hexdigest()[:24]
        with (
            replacing(self.folder / f"{name}.npz") as partial,
            open(partial, "wb") as file,
        ):
            np.savez(
                file,
                keys=np.frombuffer(keys, dtype=np.uint8).reshape(-1, 32),
                embeddings=torch.stack(rows).numpy(),
                seconds=np.array(seconds, dtype=np.float64),
            )
        part = torch.stack(rows), torch.tensor(seconds, dtype=torch.float64)
        self._known.update({key: (part, i) for i, key in enumerate(self._waiting)})
        self._waiting = {}


def file_key(path: str | os.PathLike | Utterance, sample_rate: int) -> bytes:
    """What tells one audio file, or stretch of one, read at one rate, from every other:
    32 bytes.

    A digest of the real path (links resolved), the size, the time of the last change in
    nanoseconds, the rate, and of a stretch where it is. FileNotFoundError where there is
    no such file.
    """
    stretch = path[1:] if isinstance(path, Utterance) else ()
    try:
        real = os.path.realpath(
            path[0] if isinstance(path, Utterance) else path, strict=True
        )
        status = os.stat(real)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such audio file") from None
    identity = (real, status.st_size, status.st_mtime_ns, sample_rate, *stretch)
    return hashlib.sha256(repr(identity).encode()).digest()


class _Damaged(Exception):
    """A file of the cache that is not as it was written."""


def _parse(data):
    """Keys, list of 32 bytes, embeddings [n, D] and seconds [n] from a file's bytes."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            if sum(part.file_size for part in file.zip.infolist()) > len(data):
                raise _Damaged("packed, as no run writes it")  # may fill the memory
            keys, matrix, seconds = file["keys"], file["embeddings"], file["seconds"]
    except _Damaged:
        raise
    except Exception as error:  # zip and numpy raise some eight kinds, by the damage
        raise _Damaged(f"{type(error).__name__}: {error}") from error
    n = len(keys)
    if (
        (keys.dtype, keys.shape) != (np.uint8, (n, 32))
        or (matrix.dtype, matrix.shape[:1], matrix.ndim) != (np.float32, (n,), 2)
        or (seconds.dtype, seconds.shape) != (np.float64, (n,))
        or not np.isfinite(matrix).all()
    ):
        raise _Damaged("other arrays than were written")
    keys = [key.tobytes() for key in keys]
    return keys, torch.from_numpy(matrix), torch.from_numpy(seconds)
