"""Recordings that are named on a command line: files, folders of them, lists, speakers."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from speechbrain.utils.logger import get_logger

from hamsb.dataio.annotations import Recording
from hamsb.dataio.layouts import explain_layout, names_part
from hamsb.dataio.sources import is_listed, open_source
from hamsb.dataio.tables import KaldiDirectory, Table
from hamsb.dataio.utterances import AUDIO, OTHER_AUDIO, recording

LISTS = (".txt", ".lst")

logger = get_logger(__name__)


def find_recordings(sources: Iterable[str | os.PathLike]) -> dict[str, Recording]:
    """The audio files that some sources name.

    Arguments
    ---------
    sources : iterable of str or Path
        Each an audio file; a folder, for all audio files below it; a list (.txt or .lst)
        of a path a line, relative to the working folder; ``-``, for such a list on
        standard input; a Kaldi directory, or a csv file or JSON lines with ``wav``, as
        training takes them, but without speakers if need be.

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
            if not _same(found.setdefault(name, place), place):
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


def _same(one: Recording, other: Recording) -> bool:
    """Whether two are one recording, which a table may name by another path."""
    if isinstance(one, Path) and isinstance(other, Path):
        return os.path.realpath(one) == os.path.realpath(other)
    return one == other


def find_speakers(
    sources: Iterable[str | os.PathLike], say: Callable[[str], None] | None = None
) -> dict[str, list[Recording]]:
    """The recordings of the speakers that some data tell of.

    Arguments
    ---------
    sources : iterable of str or Path
        Data in any layout of `hamsb.dataio.sources.open_source`; audio in any format.
    say : callable, optional
        Is told in a line what each of them is.

    Returns
    -------
    dict of str to list of Path or Utterance
        By speaker, both sorted by name.

    Raises
    ------
    FileNotFoundError, ValueError
        As `open_source`; no recordings of speakers in a source; a speaker in two of them.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> for name in ("anna/1.mp3", "anna/2.wav", "bob/1.wav"):
    ...     (folder / name).parent.mkdir(exist_ok=True)
    ...     (folder / name).touch()
    >>> {name: len(own) for name, own in find_speakers([folder]).items()}
    {'anna': 2, 'bob': 1}
    """
    found: dict[str, list[Recording]] = {}
    for path in sources:
        source = open_source(path, "speakers")
        rows = sorted(source.rows(None), key=lambda row: (row.speaker, row.name))
        astray = [row.path for row in rows if row.reason == "misplaced"]
        own: dict[str, list[Recording]] = {}
        for row in rows:
            if row.reason != "misplaced":
                place = recording(row.path, row.start, row.stop)
                own.setdefault(row.speaker, []).append(place)
        if all(map(names_part, own)):
            why = explain_layout(source.path, AUDIO + OTHER_AUDIO)
            raise ValueError(f"speakers={path}: {why}.")
        if twice := found.keys() & own.keys():
            raise ValueError(
                f"speakers={path}: {min(twice)} is in another of the sources, too; where "
                "that is one person, enroll one source after the other."
            )
        if say is not None:
            count = sum(map(len, own.values()))
            say(f"{path}: {source.layout}: {len(own):,} speakers, {count:,} recordings")
        if astray:
            logger.warning(
                "%s: %d audio files are left out, which lie elsewhere, for example %s",
                path,
                len(astray),
                astray[0],
            )
        found |= own
    return found


def _of(source: str) -> Iterator[tuple[str, Recording]]:
    """Names and recordings of a source."""
    if not is_listed(source):
        yield from ((path, Path(path)) for path in _paths(source))
        return
    table = open_source(source, "audio", speakers=False)
    assert isinstance(table, (KaldiDirectory, Table))
    for record in table.records(None):
        yield record.id + record.suffix, recording(record.path, record.start, record.stop)


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
