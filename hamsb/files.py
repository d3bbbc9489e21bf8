"""Result files that appear whole or not at all."""

import os
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
