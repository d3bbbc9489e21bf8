"""Result files and folders that appear whole or not at all, and locks."""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import IO, Any

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
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
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def replacing_folder(
    folder: str | os.PathLike, keep: Callable[[], bool] | None = None
) -> Iterator[Path]:
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
            older = partial.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.partial")
            if folder.exists():  # never half of it is there
                folder.rename(older)
            try:
                partial.rename(folder)
            except OSError:
                if older.exists():
                    older.rename(folder)
                raise
            shutil.rmtree(older, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def replacing_files(folder: str | os.PathLike) -> Iterator[Path]:
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


@contextmanager
def disk_errors(folder: str | os.PathLike) -> Iterator[None]:
    """A block that writes with torch, whose error about a full disk is the system's.

    torch says ``RuntimeError: unexpected pos 64 vs 0`` where the system has no space left,
    or a quota is reached.

    Arguments
    ---------
    folder : str or Path
        Where the block writes. After a RuntimeError it is tried whether a megabyte can be
        written there; an OSError of that takes the error's place.

    Example
    -------
    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder, disk_errors(folder):
    ...     torch.save(torch.ones(2), f"{folder}/ones.ckpt")
    """
    try:
        yield
    except RuntimeError as error:
        probe = Path(folder) / f".{uuid.uuid4().hex[:8]}.partial"
        try:
            probe.write_bytes(bytes(1 << 20))
        except OSError as why:
            raise why from error
        finally:
            probe.unlink(missing_ok=True)
        raise


def check_not_input(output: str | os.PathLike, inputs: Iterable) -> None:
    """ValueError where a file that is to be written is one that is read.

    Arguments
    ---------
    output : str or Path
    inputs : iterable of str or Path
        Those that are not there are no matter.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     check_not_input(f"{file.name}.csv", [file.name])
    """
    if not os.path.exists(output):
        return
    for each in inputs:
        if os.path.exists(each) and os.path.samefile(output, each):
            raise ValueError(
                f"output={output}: would be written over what is read; give another path."
            )


def read_json(path: str | os.PathLike) -> Any:
    """What a json file holds; a ValueError where that is no json, or nested too deep.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
    ...     _ = file.write('{"eer": 0.05}')
    ...     file.flush()
    ...     read_json(file.name)
    {'eer': 0.05}
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(str(error)) from error


def digest(path: str | os.PathLike) -> str:
    """SHA-256 of a file's contents, 64 hexadecimal digits."""
    found = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            found.update(block)
    return found.hexdigest()


# ------------------------------------------------------------------------- locks


def lock(file: IO, shared: bool = False) -> bool:
    """Lock an open file against other processes, without waiting for them.

    A lock is its process's: the system frees it when the process ends, however it
    does, and also when the process closes the file, in any place where it had opened
    it. It does not keep out other threads, and child processes do not have it. (One of
    ``flock`` would live on in the data loader's workers of a killed run.)

    Arguments
    ---------
    file : file object
        Open for writing; for a shared lock, for reading. Locked anew, it has the new
        kind of lock.
    shared : bool
        Others may have shared locks at the same time.

    Returns
    -------
    bool
        Whether the lock is there. Not where another process has one that excludes it,
        nor on a system without such locks, as Windows.

    Raises
    ------
    OSError
        The file system has no locks.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryFile() as file:
    ...     lock(file)
    True
    """
    if fcntl is None:
        return False
    try:
        fcntl.lockf(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


@contextmanager
def only_run(folder: str | os.PathLike) -> Iterator[None]:
    """Hold a folder for one run; a ValueError where another one holds it.

    What runs that were killed left half-written there, or in its ``save``, is removed.
    On a system without locks, as Windows, runs are not told from each other, and nothing
    is removed.

    Arguments
    ---------
    folder : str or Path
        The run's ``output_folder``; made if need be, and then removed where the block
        raises and has left nothing in it.
    """
    folder = Path(folder)
    made, lock_file = not folder.exists(), folder / ".lock"
    folder.mkdir(parents=True, exist_ok=True)
    with open(lock_file, "w") as file:
        if fcntl is not None and not lock(file):
            raise ValueError(
                f"output_folder={folder}: another run is at work there. Wait for it, "
                "or give another output_folder or seed."
            )
        if fcntl is not None:
            _remove_left_over(folder)
        try:
            yield
        except BaseException:
            with suppress(OSError):
                if made and [*folder.iterdir()] == [lock_file]:
                    lock_file.unlink()
                    folder.rmdir()
            raise


def _remove_left_over(folder: Path) -> None:
    """Remove what `replacing` and its kin were writing when their process was killed."""
    for path in (*folder.glob(".*.partial"), *folder.glob("save/.*.partial")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
