"""What a folder of results began as: its ``run.json``.

A training notes in its folder which script it is of, and with which settings, data and
versions it began (`hamsb.training.identity`). Any script asks here before it writes.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from hamsb.utils.files import read_json, replacing

RUN = "run.json"


def read_run(folder: str | os.PathLike) -> dict | None:
    """What the training in a folder began as; None where none has noted it.

    Raises
    ------
    ValueError
        The file is not one that `write_run` wrote.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_run(folder, {"script": "train.py"})
    ...     read_run(folder)
    {'script': 'train.py'}
    """
    path = Path(folder, RUN)
    if not path.is_file():
        return None
    try:
        run = read_json(path)
    except ValueError:
        run = None
    if not isinstance(run, dict) or not isinstance(run.get("script"), str):
        raise ValueError(
            f"{path}: does not say what the run in this folder began as. Restore the "
            "file, or give another output_folder."
        )
    return run


def write_run(folder: str | os.PathLike, run: Mapping) -> None:
    """Note what the training in a folder begins as; what was noted before is replaced.

    Arguments
    ---------
    folder : str or Path
        Made if need be.
    run : mapping
        ``script``, the script's file name, and whatever json takes.
    """
    with replacing(Path(folder, RUN)) as partial:
        partial.write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")


def check_script(folder: str | os.PathLike, script: str) -> None:
    """ValueError where a folder holds the training of another script, whose results
    would be replaced.

    Arguments
    ---------
    folder : str or Path
        The ``output_folder``; need not exist.
    script : str
        The file name of the script that is about to write there.
    """
    run = read_run(folder)
    if run is not None and run["script"] != script:
        raise ValueError(
            f"output_folder={folder}: holds a run of {run['script']}, whose results "
            f"{script} would replace. Give another output_folder."
        )
