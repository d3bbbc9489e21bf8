"""What trained a model: its speakers and data, stored beside it."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from hamsb.utils.files import read_json, replacing

TRAINING = "training.json"
_SPEAKERS = ("speakers", "development_speakers")


def write_training(folder: str | os.PathLike, training: Mapping) -> None:
    """Store with an exported model what it was trained on; an earlier one is replaced.

    Arguments
    ---------
    folder : str or Path
        The exported model's.
    training : mapping
        Ready for JSON. ``speakers``: the names of those that trained the model;
        ``development_speakers``: of those that chose its weights and its threshold;
        ``data``: name of a csv file -> its SHA-256, 64 hexadecimal digits. Other keys
        are stored too, as ``loss``: what it was trained with.

    Raises
    ------
    ValueError
        One of the three is missing or of another kind.

    Example
    -------
    >>> import tempfile
    >>> training = {"speakers": ["id1"], "development_speakers": [], "data": {}}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_training(folder, training)
    ...     read_training(folder) == training
    True
    """
    if problem := _problem(training):
        raise ValueError(f"training: {problem}.")
    with replacing(Path(folder) / TRAINING) as partial:
        text = json.dumps(training, indent=1, ensure_ascii=False, allow_nan=False)
        partial.write_text(f"{text}\n", encoding="utf-8")


def read_training(folder: str | os.PathLike) -> dict | None:
    """What `write_training` stored with an exported model; None where it did not.

    ValueError where the file is damaged.
    """
    path = Path(folder) / TRAINING
    if not path.is_file():
        return None
    try:
        training = read_json(path)
        problem = _problem(training)
    except ValueError as error:
        problem = str(error)
    if problem:
        raise ValueError(f"{path}: damaged ({problem}); export the model again.")
    return training


def _problem(training):
    """What is wrong with the mapping, as words; None where nothing is."""
    if not isinstance(training, Mapping):
        return "no mapping"
    for key in (*_SPEAKERS, "data"):
        if key not in training:
            return f"no {key}"
    for key in _SPEAKERS:
        names = training[key]
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            return f"{key} is no list of names"
    data = training["data"]
    if not isinstance(data, Mapping) or not all(
        isinstance(name, str) and _is_digest(value) for name, value in data.items()
    ):
        return "data is no mapping of names to SHA-256 digests"
    return None


def _is_digest(value):
    return (
        isinstance(value, str)
        and len(value) == 64
        and set(value) <= set("0123456789abcdef")
    )
