"""Data in folders: one for each speaker, with sessions in it or without; CN-Celeb."""

import functools
import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from speechbrain.utils.logger import get_logger

from hamsb.dataio.layouts import FLAT, TREE, explain_layout, names_part
from hamsb.dataio.utterances import (
    AUDIO,
    EXTENSIONS,
    Found,
    Row,
    Source,
    fault_of,
    is_utf8,
    size_and_time,
    without_extension,
)
from hamsb.utils.checks import some

logger = get_logger(__name__)

_CN_CELEB = re.compile(r"[^-]+-\d+-\d+")  # a file's name
_LOOKED_AT = 100  # folders of speakers that tell a layout


class Folders(Source):
    """A folder for each speaker, with one for each session or without."""

    tells_speakers = False

    def __init__(self, path: str, prefix: str, inside: str):
        super().__init__(path, prefix)
        self.inside = inside
        self.base = os.path.join(path, inside) if inside else path

    @functools.cached_property
    def depth(self) -> int:
        """How many folders an utterance lies in: 2, or 1 where there are no sessions.
        The first speakers tell."""
        found = [0, 0, 0]
        for number, folder in enumerate(_subfolders(self.base)):
            if number >= _LOOKED_AT and any(found):
                break
            found[1] += _count_audio(folder)
            found[2] += sum(map(_count_audio, _subfolders(folder)))
        return 1 if found[1] > found[2] else 2

    @functools.cached_property
    def layout(self) -> str:  # type: ignore[override]
        """The folders that an utterance lies in."""
        return "Folders " + f"{self.inside}/{FLAT if self.depth == 1 else TREE}".lstrip("/")

    def rows(self, sample_rate: int | None) -> Iterator[Row]:
        """As `Source.rows`."""
        yield from self._walk(self.base, "", 0)

    def _walk(self, folder: str, below: str, depth: int) -> Iterator[Row]:
        """The files of a folder, and the folders that lie too deep."""
        names = below.split("/")
        speaker = self.prefix + names[0]
        with os.scandir(folder) as entries:
            for entry in entries:
                name = below + entry.name
                is_folder = entry.is_dir()
                if is_folder and depth < self.depth:
                    yield from self._walk(entry.path, name + "/", depth + 1)
                    continue
                stem, extension = os.path.splitext(entry.name)
                if not is_folder and extension.lower() not in EXTENSIONS:
                    continue
                reason = "misplaced"
                if depth == self.depth and not is_folder:
                    reason = fault_of(name, entry.name)
                size, mtime = size_and_time(entry)
                if depth == 0:
                    speaker = self.prefix + name
                yield Row(
                    self.prefix + below + stem,
                    extension,
                    entry.path,
                    speaker,
                    self._session(below, stem),
                    0,
                    0,
                    size,
                    mtime,
                    reason,
                    self,
                )

    def _session(self, below: str, stem: str) -> str:
        return below[:-1] if self.depth == 2 else ""

    def find(self, names: Collection[str]) -> dict[str, list[Found]]:
        """As `Source.find`."""
        found = {}
        for name in names:
            speaker, *inside = name.split("/")
            session = f"{speaker}/{inside[0]}" if len(inside) > 1 else ""
            files = _files_of(self.base, name)
            if files:
                found[name] = [Found(file, 0, 0, "", session) for file in files]
        return found

    def place(self, names: Collection[str]) -> str:
        """As `Source.place`."""
        return self.base

    def check(self) -> None:
        """ValueError where SpeechBrain's csv files cannot carry the folder, or where it
        seems to be one speaker's."""
        root = self.path
        if "$" in root or not is_utf8(root):
            raise ValueError(
                f"data_folder {root!r} holds '$' or is not UTF-8, which "
                "SpeechBrain csv files cannot carry; use another name or a link"
            )
        above = Path(root).parent
        inside_wav = above.name == "wav" and not names_part(Path(root).name)
        if not self.inside and inside_wav and self.depth == 1:
            raise ValueError(
                f"data_folder={root}: lies in a folder wav/, as a speaker's does; give the "
                f"folder above it, {above.parent}. If it is a corpus whose folders are "
                "speakers, give a link to it from elsewhere."
            )

    def check_rows(self, rows: Sequence[Row]) -> None:
        """Refuse folders that hardly are those of speakers; warn of what may be wrong.

        Arguments
        ---------
        rows : sequence of Row
            All rows, some of them in their place.
        """
        root = self.path
        sessions = defaultdict(set)
        for row in rows:
            if row.reason != "misplaced":
                sessions[row.folder].add(row.session or row.path)
        named = some(sorted(sessions))
        if all(map(names_part, sessions)):
            raise ValueError(
                f"data_folder={root}: its speakers would be {named}: "
                f"{explain_layout(root, AUDIO)}."
            )
        if not self.inside and len(sessions) == 1:
            raise ValueError(
                f"data_folder={root}: its only speaker would be {named}; did you mean "
                f"data_folder={root}/{named}?"
            )
        astray = [row.path for row in rows if row.reason == "misplaced"]
        if 2 * len(astray) >= len(rows):
            logger.warning(
                "%s: %d of %d audio files are not in %s, for example %s",
                root,
                len(astray),
                len(rows),
                self.layout.partition(" ")[2],
                min(astray),
            )
        parts = sorted(filter(names_part, sessions))
        if parts:
            logger.warning(
                "%s: %s taken for a speaker, though that is the name of a part of a "
                "corpus; files are looked for in %s",
                root,
                ", ".join(parts),
                self.layout,
            )
        elif (
            self.depth == 2
            and len(sessions) <= 3
            and all(len(own) >= 10 for own in sessions.values())
        ):
            logger.warning(
                "%s: only %d speakers (%s) with %d sessions or more each; if the speakers "
                "are the folders in those, move them up",
                root,
                len(sessions),
                named,
                min(map(len, sessions.values())),
            )


class CnCeleb(Folders):
    """CN-Celeb as it comes: ``data/``, and ``eval/`` with lists."""

    layout = "CN-Celeb, data/<speaker>/<genre>-<number>-<number>"
    tells_speakers = True
    depth = 1

    def __init__(self, path: str, prefix: str):
        super().__init__(path, prefix, "data")

    def _session(self, below: str, stem: str) -> str:
        return stem.partition("-")[0]

    def find(self, names: Collection[str]) -> dict[str, list[Found]]:
        """As `Source.find`."""
        found = {}
        for name in names:
            bare = name.removeprefix("eval/").removeprefix("data/")
            folder, _, file = bare.rpartition("/")
            if folder in ("test", "enroll"):
                files = _files_of(os.path.join(self.path, "eval"), bare)
            elif not folder:  # a model
                files = _files_of(os.path.join(self.path, "eval", "enroll"), bare)
            else:
                files = _files_of(self.base, bare)
            if folder in ("test", "enroll", ""):
                speaker, _, file = file.partition("-")
            else:
                speaker = folder
            genre = file.partition("-")[0] if file.count("-") >= 2 else ""
            session = f"{speaker}/{genre}" if genre else ""
            if files:
                found[name] = [Found(each, 0, 0, speaker, session) for each in files]
        return found

    def place(self, names: Collection[str]) -> str:
        """As `Source.place`."""
        return f"{self.base}, {os.path.join(self.path, 'eval')}"


def is_cn_celeb(path: str) -> bool:
    """Whether a folder is CN-Celeb as it comes, by the name of a file in ``data/``."""
    for number, folder in enumerate(_subfolders(os.path.join(path, "data"))):
        for name in sorted(os.listdir(folder)):
            stem, extension = os.path.splitext(name)
            if extension.lower() in AUDIO:
                return _CN_CELEB.fullmatch(stem) is not None
        if number >= _LOOKED_AT:
            break
    return False


def _subfolders(folder: str) -> list[str]:
    """The paths of the folders in a folder, sorted; none of what cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.path for entry in entries if entry.is_dir())
    except OSError:
        return []


def _count_audio(folder: str) -> int:
    try:
        names = os.listdir(folder)
    except OSError:
        return 0
    return sum(os.path.splitext(name)[1].lower() in EXTENSIONS for name in names)


def _files_of(base: str, name: str) -> list[str]:
    """The audio files below a folder that a name means."""
    file = f"{base}/{name}"
    if os.path.isfile(file):  # False for any text
        return [file]
    stem = f"{base}/{without_extension(name)}"
    return [file for end in EXTENSIONS if os.path.isfile(file := stem + end)]
