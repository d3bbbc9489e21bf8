"""Recordings that are named on a command line: files, folders of them, lists."""

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from hamsb.dataio.annotations import Recording
from hamsb.dataio.sources import is_kaldi
from hamsb.dataio.tables import KaldiDirectory, Table
from hamsb.dataio.utterances import AUDIO, OTHER_AUDIO, recording

LISTS = (".txt", ".lst")
TABLES = (".csv", ".tsv", ".json", ".jsonl")


def find_recordings(sources: Iterable[str | os.PathLike]) -> dict[str, Recording]:
    """The audio files that some sources name.

    Arguments
    ---------
    sources : iterable of str or Path
        Each an audio file; a folder, for all audio files below it; a list (.txt or .lst)
        of a path a line, relative to the working folder; ``-``, for such a list on
        standard input; a Kaldi directory, or a csv file or JSON lines with ``wav`` and
        ``spk_id``, as training takes them.

    Returns
    -------
    dict of str to Path or Utterance
        Name -> file, or stretch of one: the path as it was given, or of a folder's file,
        the folder and the path below it, or the name in a table. Folders are sorted; each
        file is there once.

    Raises
    ------
    FileNotFoundError
        No such file or folder.
    ValueError
        No sources; a folder or list without recordings; two recordings of one name.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / "b").mkdir()
    >>> (folder / "b" / "1.wav").touch()
    >>> [name.removeprefix(str(folder)) for name in find_recordings([folder])]
    ['/b/1.wav']
    """
    found: dict[str, Recording] = {}
    for source in sources:
        own = list(_of(os.fspath(source)))
        for name, place in own:
            if found.setdefault(name, place) != place:
                raise ValueError(
                    f"{source}: two recordings are called {name}, {found[name]} and "
                    f"{place}; take one source at a time."
                )
        if not own:
            kinds = ", ".join(AUDIO + OTHER_AUDIO)
            raise ValueError(f"{source}: no recordings in it ({kinds}).")
    if not found:
        raise ValueError("no recordings: name audio files, folders or lists.")
    return found


def _of(source: str) -> Iterator[tuple[str, Recording]]:
    """Names and recordings of a source."""
    table: KaldiDirectory | Table | None = None
    if is_kaldi(source):
        table = KaldiDirectory(os.path.abspath(source))
    elif os.path.isfile(source) and source.lower().endswith(TABLES):
        table = Table(os.path.abspath(source))
    if table is not None:
        for record in table.records(None):
            place = recording(record.path, record.start, record.stop)
            yield record.id + record.suffix, place
    else:
        yield from ((path, Path(path)) for path in _paths(source))


def _paths(source: str) -> Iterator[str]:
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
                if name.lower().endswith(AUDIO + OTHER_AUDIO) and not name.startswith("."):
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
