"""An utterance of a data source, before its audio is opened, and what a source is."""

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import soundfile

from hamsb.dataio.annotations import Recording, Utterance

AUDIO = (".wav", ".flac")
OTHER_AUDIO = (
    ".m4a", ".aac", ".mp4", ".mp3", ".ogg", ".opus", ".sph", ".wma", ".aiff", ".aif",
)  # fmt: skip
EXTENSIONS = (*AUDIO, *map(str.upper, AUDIO), *OTHER_AUDIO)

_ROUNDING = 0.02  # seconds that a stretch may end behind its file


class Row(NamedTuple):
    """An utterance of a data source, as far as that tells without opening the audio.

    Attributes
    ----------
    id : str
        Its name, behind the source's prefix.
    suffix : str
        What follows in the name that trial lists have: the file's extension, where that
        is named after its file.
    path : str
        Its audio file, absolute.
    speaker : str
        Whose it is, behind the source's prefix.
    session : str
        Of the speaker; "" where the source tells none: its file is one then.
    start, stop : int
        The stretch of the file, in samples; a stop of 0 is the file's end.
    size, mtime : int
        Of the file, in bytes and nanoseconds; zeros for what is not there.
    reason : str
        Why it cannot be used, or "": "misplaced", "not_wav_or_flac" or "unusable_name".
    source : Source
        Where it is from.
    """

    id: str
    suffix: str
    path: str
    speaker: str
    session: str
    start: int
    stop: int
    size: int
    mtime: int
    reason: str
    source: "Source"

    @property
    def name(self) -> str:
        """What a trial list calls it."""
        return self.id + self.suffix

    @property
    def folder(self) -> str:
        """The speaker's name in the source, or in those that it was made of, without a
        prefix."""
        name, prefixes = self.speaker.removeprefix(self.source.prefix), self.source.prefixes
        return own_name(name, self.path, prefixes) if prefixes else name


class Found(NamedTuple):
    """An utterance that a trial list names.

    Attributes
    ----------
    path : str
        Its audio file.
    start, stop : int
        The stretch of it, in samples; a stop of 0 is the file's end.
    speaker : str
        Whose it is; "" where the source does not tell.
    session : str
        Of the speaker, whose name is part of it; "" where the source tells none.
    """

    path: str
    start: int
    stop: int
    speaker: str
    session: str

    @property
    def recording(self) -> Recording:
        """The file, or the stretch of it."""
        return recording(self.path, self.start, self.stop)


def recording(path: str, start: int, stop: int) -> Recording:
    """A file, or the stretch of it where that is not all of it.

    Arguments
    ---------
    path : str
        Audio file. Its header is read where it has to tell how long the file is; one that
        cannot be read is told where it is embedded.
    start, stop : int
        In samples; a stop of 0 is the file's end, and so is one that lies up to 20 ms
        behind it, which is a rounded number of seconds.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     soundfile.write(f"{folder}/a.wav", [0.5] * 400, 16000)
    ...     recording(f"{folder}/a.wav", 0, 400) == Path(folder, "a.wav")
    ...     recording(f"{folder}/a.wav", 100, 402)[1:]
    True
    (100, 400)
    """
    if start == stop == 0:
        return Path(path)
    try:
        header = soundfile.info(path)
    except (RuntimeError, OSError):
        return Path(path)
    stop = stretch_end(stop, header.frames, header.samplerate)
    if start == 0 and stop == header.frames:
        return Path(path)
    return Utterance(path, start, stop)


def stretch_end(stop: int, frames: int, sample_rate: int) -> int:
    """Where a stretch ends in a file of so many samples: 0, and what lies up to 20 ms
    behind its end, is that end; what lies further behind stays what it is.

    Example
    -------
    >>> stretch_end(0, 8000, 16000), stretch_end(8320, 8000, 16000)
    (8000, 8000)
    >>> stretch_end(8321, 8000, 16000)
    8321
    """
    if stop == 0 or frames < stop <= frames + _ROUNDING * sample_rate:
        return frames
    return stop


class Source:
    """Where utterances are from. Made by `hamsb.dataio.sources.open_source`.

    Attributes
    ----------
    path : str
        The folder or file, absolute.
    layout : str
        What it is, for people.
    tells_speakers : bool
        Whether it says whose an utterance is; in folders the first one's name is taken
        for the speaker.
    prefix : str
        What its utterances' and speakers' names begin with.
    prefixes : sequence of str
        What some speakers' names begin with in the source itself, to tell those apart that
        it was made of.
    """

    layout = ""
    tells_speakers = True
    prefixes: Sequence[str] = ()

    def __init__(self, path: str, prefix: str = ""):
        self.path = path
        self.prefix = prefix

    def rows(self, sample_rate: int | None) -> Iterator[Row]:
        """All utterances, and audio files that are none. Nothing is opened.

        Arguments
        ---------
        sample_rate : int or None
            Of the audio, in Hz, where the source has seconds; None: each file's own.

        Raises
        ------
        FileNotFoundError, ValueError
            The source is not what it looks like; with file and line.
        """
        raise NotImplementedError

    def find(self, names: Collection[str]) -> dict[str, list[Found]]:
        """The utterances of these names, with or without the extension of an audio file
        or with another one; those that are not here are missing.

        One name may mean several where it has not the extension that one of them has.
        """
        raise NotImplementedError

    def place(self, names: Collection[str]) -> str:
        """Where `find` looks, for an error."""
        return self.path


# ------------------------------------------------------------------------- names


def own_name(speaker: str, wav: str | os.PathLike, prefixes: Sequence[str]) -> str:
    """A speaker's name without the prefix that tells data sources apart.

    Arguments
    ---------
    speaker : str
    wav : str or Path
        A file of that speaker.
    prefixes : sequence of str
        Those of the preparation.

    Example
    -------
    >>> own_name("calls-id1", "/corpus/calls/id1/a.wav", ["calls-"])
    'id1'
    """
    bare = [speaker.removeprefix(each) for each in prefixes if speaker.startswith(each)]
    if len(bare) > 1:  # all files of one lie in folders of one name, but a table's
        bare.sort(key=lambda name: (name not in Path(wav).parts, len(name)))
    return bare[0] if bare else speaker


def without_extension(name: str) -> str:
    """A name without the extension of an audio file; another one stays.

    Example
    -------
    >>> without_extension("id1/a.FLAC"), without_extension("id1/a.b")
    ('id1/a', 'id1/a.b')
    """
    stem, extension = os.path.splitext(name)
    return stem if extension.lower() in EXTENSIONS else name


def is_plain(name: str) -> bool:
    """Whether a name fits into SpeechBrain's csv files and a trial list.

    Example
    -------
    >>> [is_plain(name) for name in ("id1/s/a", "id 1/s/a", "$id1")]
    [True, False, False]
    """
    return name.split() == [name] and "$" not in name and is_utf8(name)


def is_utf8(text: str) -> bool:
    """Whether a text, as a file's name, can be written in UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def fault_of(name: str, file: str) -> str:
    """Why an utterance of this name and file cannot be used, or ""."""
    if os.path.splitext(file)[1].lower() not in AUDIO:
        return "not_wav_or_flac"
    return "" if is_plain(name) else "unusable_name"


def size_and_time(entry: os.DirEntry | str) -> tuple[int, int]:
    """Size (bytes) and modification time (ns); zeros for what is not there."""
    try:
        status = os.stat(entry) if isinstance(entry, str) else entry.stat()
    except (OSError, ValueError):
        return 0, 0
    return status.st_size, status.st_mtime_ns
