"""What numbers were measured under: the footer of every report."""

import platform
import shlex
from collections.abc import Iterable, Sequence

import numpy
import speechbrain
import torch

import hamsb


def versions(device: object) -> dict:
    """What numbers depend on besides model and data: ready for JSON.

    Arguments
    ---------
    device : torch.device or str
        Where the model ran.
    """
    return {
        "hamsb": hamsb.__version__,
        "speechbrain": speechbrain.__version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "device": str(device),
        "threads": torch.get_num_threads(),
    }


def conditions(
    script: str, arguments: Sequence[str] | None, facts: Iterable[str], software: dict
) -> str:
    """The conditions of a report, lines of markdown.

    Arguments
    ---------
    script : str
        The script's name, as ``verify.py``.
    arguments : sequence of str or None
        Those that followed it. None leaves the command out.
    facts : iterable of str
        What else decides the numbers, a line each.
    software : dict
        As `versions` returns it.

    Example
    -------
    >>> facts, software = ["no padding"], {"torch": "2.11"}
    >>> print(conditions("verify.py", ["verify.yaml", "--seed=1"], facts, software))
    - Command: `verify.py verify.yaml --seed=1`
    - no padding
    - Software: torch 2.11
    """
    named = ", ".join(f"{name} {version}" for name, version in software.items())
    lines = [*facts, f"Software: {named}"]
    if arguments is not None:
        lines.insert(0, f"Command: `{script} {shlex.join(arguments)}`")
    return "\n".join(f"- {line}" for line in lines)
