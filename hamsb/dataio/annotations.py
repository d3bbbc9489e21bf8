"""The text files that describe utterances and speakers: one reader for each kind.

csv files, JSON lines of the same keys, and the files of a Kaldi directory. What a whole
data source is, `hamsb.dataio.sources` tells.
"""

import csv
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ADVICE = "give the csv file of the training data, a run's save/train.csv"
_HEADER = 1 << 16  # bytes that the first line of a table has, at most


class Utterance(NamedTuple):
    """A stretch of an audio file, in samples of that file."""

    wav: str
    start: int
    stop: int

    @property
    def frames(self) -> int:
        """Its length in samples."""
        return self.stop - self.start

    def __str__(self) -> str:
        return f"{self.wav} from sample {self.start} to {self.stop}"


#: What is embedded at once: a whole file, or a stretch of one.
Recording = Path | Utterance


def read_rows(
    path: str | os.PathLike,
    what: str = "csv file",
    advice: str = ADVICE,
    skipinitialspace: bool = False,
) -> Iterator[tuple[int, list[str]]]:
    r"""The rows of a csv file, the header among them: what the other readers read with.

    Arguments
    ---------
    path : str or Path
        UTF-8, with a byte-order mark or without. Separated by commas, or by tabs where
        the first line has one.
    what : str
        What kind of file it is, for the error where it is missing.
    advice : str
        What an error tells the user to do.
    skipinitialspace : bool
        A space behind a separator does not count.

    Yields
    ------
    int
        The row's line in the file, its last where a field has several.
    list of str
        Its fields; none of an empty line.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        Not a csv file in UTF-8.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "meta.csv")
    ...     _ = path.write_text("speaker\tgender\nid1\tf\n")
    ...     list(read_rows(path))
    [(1, ['speaker', 'gender']), (2, ['id1', 'f'])]
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such {what}; {advice}.")
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            delimiter = "\t" if "\t" in stream.readline() else ","
            stream.seek(0)
            rows = csv.reader(
                stream, delimiter=delimiter, skipinitialspace=skipinitialspace
            )
            for row in rows:
                yield rows.line_num, row
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a csv file in UTF-8 ({error}); {advice}.") from error


def read_columns(
    path: str | os.PathLike,
    columns: Sequence[str],
    advice: str = ADVICE,
    optional: Sequence[str] = (),
) -> Iterator[tuple[int, tuple[str, ...]]]:
    r"""Some columns of a csv file with a header, row by row.

    Arguments
    ---------
    path : str or Path
        As `read_rows` takes it; a space behind a comma does not count, as SpeechBrain
        has it.
    columns : sequence of str
        Their names in the header.
    advice : str
        What an error about the file tells the user to do.
    optional : sequence of str
        Further columns, which need not be there.

    Yields
    ------
    int
        The row's line in the file.
    tuple of str
        The fields of all columns named, "" where the row is too short, or where there is
        no such column.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        A column is missing; no rows; not a csv file in UTF-8. Names file and line.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "train.csv")
    ...     _ = path.write_text("ID,wav,spk_id\nid1/a,a.wav,id1\nid2/a,b.wav,id2\n")
    ...     list(read_columns(path, ["spk_id", "wav"]))
    [(2, ('id1', 'a.wav')), (3, ('id2', 'b.wav'))]
    """
    rows = read_rows(path, advice=advice, skipinitialspace=True)
    _, header = next(rows, (1, []))
    missing = [name for name in columns if name not in header]
    if missing:
        raise ValueError(
            f"{path}:1: no column {', '.join(missing)}, only "
            f"{', '.join(header) or 'an empty line'}; {advice}."
        )
    named = (*columns, *optional)
    places = [header.index(name) if name in header else len(header) for name in named]
    empty = True
    for line, row in rows:
        if row:
            empty = False
            row += [""] * (len(header) + 1 - len(row))
            row[len(header)] = ""  # beyond the columns
            yield line, tuple([row[place] for place in places])
    if empty:
        raise ValueError(f"{path}: no rows; {advice}.")


def read_fields(
    path: str | os.PathLike,
    needed: Sequence[str],
    optional: Sequence[str] = (),
    advice: str = ADVICE,
) -> Iterator[tuple[int, tuple[str, ...]]]:
    r"""Some fields of each row of a csv file, or of a list of JSON lines.

    Arguments
    ---------
    path : str or Path
        A csv file, as `read_columns` takes it; or, where it begins with ``{``, a file of
        lines that are a JSON object each.
    needed, optional : sequence of str
        Columns of the csv file, or keys of the objects.
    advice : str
        What an error about the file tells the user to do.

    Yields
    ------
    int, tuple of str
        As `read_columns`; numbers as they would stand in a csv file.

    Raises
    ------
    FileNotFoundError, ValueError
        As `read_columns`, for a list of JSON lines too.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "train.jsonl")
    ...     _ = path.write_text('{"wav": "a.wav", "spk_id": "id1", "stop": 16000}\n')
    ...     list(read_fields(path, ["spk_id"], ["start", "stop"]))
    [(1, ('id1', '', '16000'))]
    """
    if not begins_with_json(path):
        yield from read_columns(path, needed, advice, optional)
        return
    empty = True
    for line, text in read_lines(path, advice):
        if not text:
            continue
        empty = False
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{path}:{line}: not a JSON object on a line of its own ({error}); "
                f"{advice}."
            ) from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}:{line}: not a JSON object; {advice}.")
        missing = [name for name in needed if name not in row]
        if missing:
            raise ValueError(
                f"{path}:{line}: no key {', '.join(missing)}, only "
                f"{', '.join(row) or 'an empty object'}; {advice}."
            )
        fields = (row.get(name) for name in (*needed, *optional))
        yield line, tuple(["" if field is None else str(field) for field in fields])
    if empty:
        raise ValueError(f"{path}: no rows; {advice}.")


def begins_with_json(path: str | os.PathLike) -> bool:
    """Whether a file's first character that is no space is a ``{``; False for none."""
    if not Path(path).is_file():
        return False
    with open(path, "rb") as stream:
        return stream.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{"


def has_column(path: str | os.PathLike, column: str) -> bool:
    """Whether a file's first line is the header of a csv file with a column of this name;
    False for none.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "recordings.txt")
    ...     _ = path.write_text("ID, wav\\nu1,a.wav\\n")
    ...     has_column(path, "wav"), has_column(path, "spk_id")
    (True, False)
    """
    if not Path(path).is_file():
        return False
    with open(path, "rb") as stream:
        line = stream.readline(_HEADER)
    try:
        text = line.decode("utf-8-sig")
        delimiter = "\t" if "\t" in text else ","
        header = next(csv.reader([text], delimiter=delimiter, skipinitialspace=True))
    except (UnicodeDecodeError, csv.Error, StopIteration):
        return False
    return column in header


def read_lines(path: str | os.PathLike, advice: str = ADVICE) -> Iterator[tuple[int, str]]:
    """The number and text of each line, without the space around it.

    FileNotFoundError where there is no such file, ValueError where it is not in UTF-8.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file; {advice}.")
    try:
        with open(path, encoding="utf-8-sig") as stream:
            for number, line in enumerate(stream, start=1):
                yield number, line.strip()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not a text file in UTF-8 ({error}); {advice}."
        ) from error


def read_keyed(
    path: str | os.PathLike, advice: str = ADVICE
) -> Iterator[tuple[int, str, str]]:
    r"""The lines of a Kaldi file: a key, and what belongs to it.

    Arguments
    ---------
    path : str or Path
        Text in UTF-8; empty lines do not count.
    advice : str
        What an error about the file tells the user to do.

    Yields
    ------
    int, str, str
        The line's number, its first word, and the rest.

    Raises
    ------
    FileNotFoundError, ValueError
        As `read_lines`; a line of one word (with its number); no lines.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "wav.scp")
    ...     _ = path.write_text("id1-a  /my data/a.wav\n")
    ...     list(read_keyed(path))
    [(1, 'id1-a', '/my data/a.wav')]
    """
    empty = True
    for number, line in read_lines(path, advice):
        if not line:
            continue
        empty = False
        key, *rest = line.split(maxsplit=1)
        if not rest:
            raise ValueError(f"{path}:{number}: nothing behind {key!r}; {advice}.")
        yield number, key, rest[0]
    if empty:
        raise ValueError(f"{path}: no lines; {advice}.")


def is_whole(text: str) -> bool:
    """Whether a field is a whole number of at least 0 that 64 bits hold."""
    return text.isdecimal() and len(text) <= 18


def read_speakers(annotation: str | os.PathLike, key: str = "spk_id") -> list[str]:
    r"""The speaker of each row of a SpeechBrain csv file.

    Row i is entry i of ``DynamicItemDataset.from_csv``, as long as that is neither
    sorted nor filtered.

    Arguments
    ---------
    annotation : str or Path
        The csv file.
    key : str
        Its column of speakers.

    Raises
    ------
    FileNotFoundError, ValueError
        As `read_columns`; a row without a speaker (with file and line).

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "train.csv")
    ...     _ = path.write_text("ID,wav,spk_id\nid1/a,a.wav,id1\nid2/a,b.wav,id2\n")
    ...     read_speakers(path)
    ['id1', 'id2']
    """
    speakers = []
    names: dict[str, str] = {}
    for line, (speaker,) in read_columns(annotation, [key]):
        if not speaker:
            raise ValueError(f"{annotation}:{line}: no {key}; {ADVICE}.")
        speakers.append(names.setdefault(speaker, speaker))  # one text a speaker
    return speakers


def read_utterances(annotation: str | os.PathLike) -> dict[str, list[Utterance]]:
    """The utterances of each speaker of a SpeechBrain csv file.

    Arguments
    ---------
    annotation : str or Path
        With the columns ``wav``, ``start``, ``stop`` (in samples) and ``spk_id``, as a
        preparation's train.csv.

    Returns
    -------
    dict of str to list of Utterance
        Sorted by speaker; each speaker's in the order of the file.

    Raises
    ------
    FileNotFoundError, ValueError
        As `read_columns`; a row without a file, a speaker or a stretch of at least a
        sample (with file and line).
    """
    found: dict[str, list[Utterance]] = defaultdict(list)
    columns = ("wav", "start", "stop", "spk_id")
    for line, (wav, start, stop, speaker) in read_columns(annotation, columns):
        whole = is_whole(start) and is_whole(stop) and int(start) < int(stop)
        if not (wav and speaker and whole):
            raise ValueError(
                f"{annotation}:{line}: needs a file, a speaker, and whole numbers start < "
                f"stop, found wav={wav!r}, spk_id={speaker!r}, start={start!r}, "
                f"stop={stop!r}."
            )
        found[speaker].append(Utterance(wav, int(start), int(stop)))
    return dict(sorted(found.items()))
