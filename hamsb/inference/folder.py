"""The folder of a model: found by what a user says, and told from what is none."""

import difflib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from hamsb.inference.inspection import HPARAMS, top_keys
from hamsb.utils.yaml_tree import did_you_mean

_MODEL_KEYS = ("modules", "pretrainer")


def model_folder(
    model: str | os.PathLike, option: str = "model", file: str = HPARAMS
) -> Path:
    """The folder of an exported model, as a path.

    Arguments
    ---------
    model : str or Path
        Where it is said to be.
    option : str
        What the user gave it as, for the error.
    file : str
        The yaml in it that is to be loaded.

    Raises
    ------
    FileNotFoundError
        No model was exported there. Names the exports that may be meant: in the folder,
        or of a path that is spelled alike.
    """
    folder = Path(model)
    if _is_export(folder, file):
        return folder
    begin = f"{option}={model}: no exported model here"
    if folder.is_file():
        raise FileNotFoundError(f"{begin}, it is a file; give the folder that it is in.")
    if not folder.is_dir():
        begin += ", no such folder"
    elif not (folder / file).is_file():
        begin += f" (no {file})"
    else:
        begin += f" ({file} is not of an export, which has {' and '.join(_MODEL_KEYS)})"
    if near := exports_near(folder, file):
        raise FileNotFoundError(begin + did_you_mean(near))
    raise FileNotFoundError(
        f"{begin}; give the export folder of a training run, results/<name>/<seed>/export."
    )


def exports_near(folder: Path, file: str = HPARAMS) -> list[Path]:
    """At most three exports in a folder, or of a missing path that is spelled alike."""
    if folder.is_dir():
        return list(_exports_in(folder, file))[:3]
    parent, missing = folder.parent, [folder.name]
    while not parent.is_dir() and parent != parent.parent:
        missing.insert(0, parent.name)
        parent = parent.parent
    if not parent.is_dir():
        return []
    names = [path.name for path in parent.iterdir() if path.is_dir()]
    found: dict[Path, None] = {}
    for name in difflib.get_close_matches(missing[0], names, cutoff=0.6):
        alike = parent.joinpath(name, *missing[1:])
        if _is_export(alike, file):
            found[alike] = None
        elif alike.is_dir():
            found |= dict.fromkeys(_exports_in(alike, file))
    return list(found)[:3]


def _exports_in(folder: Path, file: str) -> Iterator[Path]:
    for pattern in ("export", "*/export"):
        for path in sorted(folder.glob(pattern)):
            if _is_export(path, file):
                yield path


def _is_export(folder: Path, file: str) -> bool:
    """Whether a folder holds a yaml with what SpeechBrain's ``Pretrained`` loads; one
    that cannot be read counts, and loading it tells why."""
    path = folder / file
    if not path.is_file():
        return False
    try:
        return set(_MODEL_KEYS) <= top_keys(path)
    except ValueError:
        return True


def is_hub_name(source: str) -> bool:
    """Whether what is no folder here may be a model's name, ``owner/name``; not
    ``results/exprot`` beside ``results/export``."""
    path = Path(source)
    misspelt = difflib.get_close_matches(path.name, ["export"], cutoff=0.7)
    if misspelt and path.with_name("export") in exports_near(path):
        return False
    return re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", source) is not None
