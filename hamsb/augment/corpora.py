"""Corpora of noises and room responses, as MUSAN and RIRS_NOISES, in csv files."""

import csv
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import soundfile
from speechbrain.utils.logger import get_logger

from hamsb.dataio.annotations import read_columns
from hamsb.dataio.utterances import AUDIO
from hamsb.utils.files import digest, read_json, replacing

logger = get_logger(__name__)

COLUMNS = ("ID", "duration", "wav", "wav_format", "wav_opts")  # SpeechBrain's

_FORMAT_VERSION = 1  # of the csv file's meaning


def prepare_audio_csv(
    folder: str | os.PathLike,
    csv_file: str | os.PathLike,
    key: str,
    kinds: Sequence[str] | None = None,
    sample_rate: int = 16000,
) -> Path:
    """List the wav and flac files below a folder in a csv file for augmentation.

    One row a file, of any length: no audio is decoded or written. Files of
    another sampling rate or with several channels, without samples or a readable
    header, or with a path that is not UTF-8 or has ``$`` (SpeechBrain replaces it)
    are left out with a warning. The csv file appears whole or not at all. It is
    reused as long as the arguments and the files' names, sizes and modification
    times are those that ``<csv_file>.json`` beside it records.

    Arguments
    ---------
    folder : str or Path
        E.g. ``/path/musan`` or ``/path/RIRS_NOISES/simulated_rirs``.
    csv_file : str or Path
        What to write: columns ID (path below ``folder``), duration (seconds),
        wav (absolute path), wav_format, wav_opts; sorted by ID.
    key : str
        The folder's key in the yaml, which errors name.
    kinds : list of str, optional
        Folders directly below ``folder``, e.g. ``[noise, music]`` of MUSAN; the
        others are left out.
    sample_rate : int
        Hz.

    Returns
    -------
    Path
        ``csv_file``.

    Raises
    ------
    FileNotFoundError
        If the folder or that of a kind is missing, or holds no usable audio.

    Example
    -------
    >>> import numpy as np
    >>> root = getfixture("tmp_path")
    >>> (root / "musan" / "noise").mkdir(parents=True)
    >>> soundfile.write(root / "musan" / "noise" / "hum.wav", np.zeros(8000), 16000)
    >>> csv_file = prepare_audio_csv(
    ...     root / "musan", root / "noise.csv", key="data_folder_noise")
    >>> print(csv_file.read_text().replace(str(root), "...").strip())
    ID,duration,wav,wav_format,wav_opts
    noise/hum.wav,0.5,.../musan/noise/hum.wav,wav,
    """
    if not folder or not os.path.isdir(folder):
        raise FileNotFoundError(
            f"{key}: {folder} is not a folder. Nothing is downloaded: set {key} to a "
            "folder of wav or flac files, as MUSAN or RIRS_NOISES unpack to."
        )
    folder, csv_file = os.path.abspath(folder), Path(csv_file)
    found = _find(folder, key, kinds)
    made_from = {
        "version": _FORMAT_VERSION,
        "folder": folder,
        "sample_rate": sample_rate,
        "files": hashlib.sha256(repr(found).encode()).hexdigest(),
    }
    record = csv_file.with_name(f"{csv_file.name}.json")
    if _is_made_from(made_from, csv_file, record):
        return csv_file

    rows = list(_usable_rows(folder, found, sample_rate))
    if not rows:
        raise FileNotFoundError(
            f"{key}: none of the {len(found)} audio files in {folder} can be used; "
            "see the warnings above."
        )
    with (
        replacing(csv_file) as partial,
        open(partial, "w", newline="", encoding="utf-8") as stream,
    ):
        csv.writer(stream, lineterminator="\n").writerows([COLUMNS, *rows])
    with replacing(record) as partial:
        made_from["csv"] = digest(csv_file)
        partial.write_text(json.dumps(made_from, indent=2) + "\n", encoding="utf-8")
    logger.info("%s: %d files of %s", csv_file, len(rows), folder)
    return csv_file


def _find(folder, key, kinds):
    """The audio files: sorted (path below the folder, size, time) tuples."""
    found = []
    for top in [folder] if kinds is None else [os.path.join(folder, k) for k in kinds]:
        here = list(_walk(folder, top))
        if not here:
            lacks = "holds no wav or flac file" if os.path.isdir(top) else "is missing"
            raise FileNotFoundError(f"{key}: {top} {lacks}. Nothing is downloaded.")
        found += here
    return sorted(found)


def _walk(folder, top):
    for parent, _, names in os.walk(top, followlinks=True):
        for name in names:
            path = os.path.join(parent, name)
            if name.lower().endswith(AUDIO) and os.path.isfile(path):
                status = os.stat(path)
                below = os.path.relpath(path, folder).replace(os.sep, "/")
                yield below, status.st_size, status.st_mtime_ns


def _is_made_from(made_from, csv_file, record):
    """Whether the csv file is whole, and what ``made_from`` gives."""
    try:
        earlier = read_json(record)
        return earlier == {**made_from, "csv": digest(csv_file)}
    except (OSError, ValueError):
        return False


def _usable_rows(folder, found, sample_rate):
    """Yield the csv file's rows; warn of what is left out, a line a reason."""
    left_out: dict[str, list[str]] = {}
    for name, _, _ in found:
        path = os.path.join(folder, name)
        frames, reason = _look(path, sample_rate)
        if reason:
            left_out.setdefault(reason, []).append(path)
        else:
            kind = os.path.splitext(name)[1][1:].lower()
            yield name, frames / sample_rate, path, kind, ""
    for reason, paths in left_out.items():
        first = paths[0].encode("utf-8", "backslashreplace").decode()
        logger.warning("%d files left out, %s: %s ...", len(paths), reason, first)


def _look(path, sample_rate):
    """The number of samples, and why the file cannot be used, or ''."""
    try:
        path.encode("utf-8")
        info = soundfile.info(path)
    except UnicodeEncodeError:
        return 0, "with a path that is not UTF-8"
    except soundfile.LibsndfileError:
        return 0, "unreadable"
    if "$" in path:
        return 0, "with $ in the path"
    if info.samplerate != sample_rate:
        return 0, f"not at {sample_rate} Hz"
    if info.channels != 1:
        return 0, "with several channels"
    return info.frames, "" if info.frames else "without samples"


def read_audio_csv(csv_file: str | os.PathLike) -> dict[str, list[str]]:
    """The files that `prepare_audio_csv` listed, by kind.

    Arguments
    ---------
    csv_file : str or Path
        A missing one is a FileNotFoundError.

    Returns
    -------
    dict of str to list of str
        Kind -> paths. A file's kind is the first folder of its ID, so ``noise``,
        ``speech`` or ``music`` in MUSAN; "" for a file without.
    """
    files: dict[str, list[str]] = {}
    advice = "prepare_noise_data and prepare_rir_data write it before the training begins"
    for _, (name, wav) in read_columns(csv_file, ("ID", "wav"), advice):
        kind, slash, _ = name.partition("/")
        files.setdefault(kind if slash else "", []).append(wav)
    return files
