"""The csv files that describe utterances and speakers: one reader for all of them."""

import csv
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ADVICE = "give the csv file of the training data, a run's save/train.csv"


class Utterance(NamedTuple):
    """A stretch of an audio file, in samples."""

    wav: str
    start: int
    stop: int

    @property
    def frames(self) -> int:
        """Its length in samples."""
        return self.stop - self.start


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
    path: str | os.PathLike, columns: Sequence[str], advice: str = ADVICE
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

    Yields
    ------
    int
        The row's line in the file.
    tuple of str
        The columns' fields, "" where the row is too short.

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
    places = [header.index(name) for name in columns]
    empty = True
    for line, row in rows:
        if row:
            empty = False
            row += [""] * (len(header) - len(row))
            yield line, tuple(row[place] for place in places)
    if empty:
        raise ValueError(f"{path}: no rows; {advice}.")


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


def utterance_files(annotation: str | os.PathLike) -> dict[str, Path]:
    r"""The file of each utterance as the trials of a preparation name it.

    Arguments
    ---------
    annotation : str or Path
        A preparation's csv file, as dev.csv: with the columns ``ID``, an utterance
        without its extension, and ``wav``.

    Returns
    -------
    dict of str to Path
        In the order of the file.

    Raises
    ------
    FileNotFoundError, ValueError
        As `read_columns`.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "dev.csv")
    ...     _ = path.write_text("ID,wav\ncalls-id1/s/a,/data/calls/wav/id1/s/a.flac\n")
    ...     list(utterance_files(path))
    ['calls-id1/s/a.flac']
    """
    return {
        name + os.path.splitext(wav)[1]: Path(wav)
        for _, (name, wav) in read_columns(annotation, ("ID", "wav"))
    }
