"""The keys that a script reads, and what a yaml says of itself: its comments."""

import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML


@dataclass(frozen=True)
class Key:
    """A key of a yaml that a script reads.

    Attributes
    ----------
    name : str
    kind : str
        What its value is, for people: "folder", "number of epochs", "object".
    help : str
        What it does, in a line.
    optional : bool
        Whether the yaml may lack it; it may be given as an option even so.
    """

    name: str
    kind: str
    help: str
    optional: bool = False


def header(hparams_file: str | os.PathLike) -> str:
    """The comment that a yaml begins with: what it is, and indented how it is run."""
    with open(hparams_file, encoding="utf-8") as file:
        lines = file.read().split("\n")
    first = [line for line in lines if line.strip()][:1]
    if first and not first[0].startswith("#"):
        return ""
    end = next((i for i, line in enumerate(lines) if line[:1] != "#"), len(lines))
    return "\n".join(line[1:].removeprefix(" ") for line in lines[:end]).strip()


def remarks(
    hparams_file: str | os.PathLike,
) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The comments above a yaml's keys, line by line, and those behind them, of the
    outermost keys alone and without the `header`."""
    with open(hparams_file, encoding="utf-8") as file:
        lines = file.read().split("\n")
    last = next((i for i, line in enumerate(lines) if line[:1] != "#"), len(lines))
    above, behind = {}, {}
    for key, value in YAML().compose("\n".join(lines)).value:
        start = key.start_mark.line
        above[key.value] = [text for text in lines[last:start] if text[:1] == "#"]
        last = start
        end = value.end_mark if value.end_mark.line == start else key.end_mark
        found = re.search(r"(?:^|\s)#\s*(.*)$", lines[start][end.column :])
        if found:
            behind[key.value] = found[1]
    return above, behind


def check_owner(
    hparams_file: str | os.PathLike,
    document: Mapping,
    keys: Iterable[Key],
    script: str = "",
) -> None:
    """ValueError where a yaml is another script's.

    The command in a yaml's `header` names its script. Without one the keys tell.

    Arguments
    ---------
    hparams_file : str or Path
    document : mapping
        From `read_yaml`.
    keys : iterable of Key
        What the script reads.
    script : str
        The script's name, as ``train.py``; by default the keys alone tell.
    """
    needed = {key.name for key in keys if not key.optional}
    absent = ", ".join(sorted(needed - document.keys()))
    here = script or Path(sys.argv[0]).name
    text = re.sub(r"\s*\\\n\s*", " ", header(hparams_file))
    command = re.search(r"^\s*(python3? (?:\S*/)?(\w+\.py) )\S+\.yaml(.*)$", text, re.M)
    if command and command[2] != here and (script or absent):
        message = (
            f"{hparams_file}: by its first lines this is a yaml of {command[2]}, not of "
            f"{here}: {command[1]}{hparams_file}{command[3]}"
        )
        if not absent:
            message += f" (If it is for {here}, name that script there.)"
        raise ValueError(message)
    if absent:
        raise ValueError(
            f"{hparams_file}: no {absent}; {here} needs them. Is it the yaml of another "
            "script?"
        )
