"""Result files and folders that appear whole or not at all."""

import os
import shutil
import uuid
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path):
    """A temporary path that takes the place of ``path`` when the block succeeds.

    An older file stays as it is until then, and for good where the block
    raises. The folder is made if need be.

    Arguments
    ---------
    path : str or Path
        The file to be written.

    Yields
    ------
    Path
        A hidden file in the same folder, to be written in its place.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(f"{folder}/results/report.md") as partial:
    ...         _ = partial.write_text("EER 1 %")
    ...     Path(folder, "results", "report.md").read_text()
    'EER 1 %'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def replacing_folder(folder, keep=None):
    """A temporary folder that takes the place of ``folder`` when the block succeeds.

    An older folder stays as it is until then, and for good where the block raises; a
    process that is killed leaves ``.<name>.<number>.partial`` beside it.

    Arguments
    ---------
    folder : str or Path
        The folder to be written; its parents are made if need be.
    keep : callable, optional
        Asked at the end whether the folder that is there by then stays after all: another
        process may have been faster.

    Yields
    ------
    Path
        An empty folder beside it, to be filled in its place.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as parent:
    ...     with replacing_folder(f"{parent}/model") as partial:
    ...         _ = (partial / "README.md").write_text("A model")
    ...     Path(parent, "model", "README.md").read_text()
    'A model'
    """
    folder = Path(folder).resolve()
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.partial")
    partial.mkdir(parents=True)
    try:
        yield partial
        if keep is None or not keep():
            if folder.exists():
                shutil.rmtree(folder)
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def replacing_files(folder):
    """A temporary folder whose files take their places in ``folder`` when the block
    succeeds; other files there stay.

    Arguments
    ---------
    folder : str or Path
        Where the files go; made if need be.

    Yields
    ------
    Path
        An empty hidden folder inside, to be filled with files.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing_files(f"{folder}/results") as partial:
    ...         _ = (partial / "report.md").write_text("EER 1 %")
    ...     [path.name for path in Path(folder, "results").iterdir()]
    ['report.md']
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{uuid.uuid4().hex[:8]}.partial"
    partial.mkdir()
    try:
        yield partial
        for path in sorted(partial.iterdir()):
            os.replace(path, folder / path.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
