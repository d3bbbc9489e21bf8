"""Recordings that are named on a command line: files, folders of them, lists."""

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

AUDIO = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aac", ".aiff", ".aif")
LISTS = (".txt", ".lst")


def find_recordings(sources: Iterable[str | os.PathLike]) -> dict[str, Path]:
    """The audio files that some sources name.

    Arguments
    ---------
    sources : iterable of str or Path
        Each an audio file; a folder, for all audio files below it; a list (.txt or .lst)
        of a path a line, relative to the working folder; or ``-``, for such a list on
        standard input.

    Returns
    -------
    dict of str to Path
        Name -> file: the path as it was given, or of a folder's file, the folder and the
        path below it. Folders are sorted; each file is there once.

    Raises
    ------
    FileNotFoundError
        No such file or folder.
    ValueError
        No sources; a folder or list without recordings.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / "b").mkdir()
    >>> (folder / "b" / "1.wav").touch()
    >>> [name.removeprefix(str(folder)) for name in find_recordings([folder])]
    ['/b/1.wav']
    """
    found: dict[str, Path] = {}
    for source in sources:
        before = len(found)
        paths = list(_of(os.fspath(source)))
        found |= {name: Path(name) for name in paths}
        if not paths and len(found) == before:
            raise ValueError(f"{source}: no recordings in it ({', '.join(AUDIO)}).")
    if not found:
        raise ValueError("no recordings: name audio files, folders or lists.")
    return found


def _of(source: str) -> Iterator[str]:
    if source == "-":
        yield from filter(None, map(str.strip, sys.stdin))
    elif os.path.isdir(source):
        seen: set[str] = set()
        for folder, folders, files in os.walk(source, followlinks=True):
            real = os.path.realpath(folder)
            if real in seen:  # a link that leads back
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(files):
                if name.lower().endswith(AUDIO) and not name.startswith("."):
                    yield os.path.join(folder, name)
    elif not os.path.exists(source):
        raise FileNotFoundError(f"{source}: no such audio file, folder or list.")
    elif source.lower().endswith(LISTS):
        try:
            lines = Path(source).read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"{source}: not a list in UTF-8 ({error}).") from error
        yield from filter(None, map(str.strip, lines))
    else:
        yield source
