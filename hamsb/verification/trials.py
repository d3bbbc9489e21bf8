"""Trial lists: read and checked; their recordings are found by `hamsb.verification.lookup`.

A trial list is a text file with a trial a line, in one of three forms that the first
line tells:

- VoxCeleb's, ``label enrol test``, with the label 1 for the same speaker and 0 for
  different speakers;
- Kaldi's and CN-Celeb's, ``enrol test label``, with the label ``target`` or
  ``nontarget``, or 1 or 0;
- a csv file with the columns ``label``, ``enrol`` and ``test``.

Enrol and test are utterances as their data source names them
(`hamsb.dataio.sources`): in folders paths below ``wav/``, else IDs; with or without the
extension of an audio file. Where a file ``enroll.map`` lies beside the list, with lines
``model utterance utterance ...``, enrol may be one of these models.
"""

import dataclasses
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np

from hamsb.dataio.annotations import read_columns

_LABELS = {"0": 0, "1": 1, "nontarget": 0, "target": 1}
_FORMS = {  # the places of label, enrol and test
    "label enrol test": (0, 1, 2),
    "enrol test label": (2, 0, 1),
}


def speaker_of(utterance: str) -> str:
    """The speaker that an utterance's name tells: its path's first folder.

    Example
    -------
    >>> speaker_of("id10270/5r0dWxy17C8/00001.wav")
    'id10270'
    """
    return utterance.partition("/")[0]


@dataclasses.dataclass(frozen=True, eq=False)
class Trials:
    """A trial list; trial ``i`` is line ``header + i + 1`` of its file.

    Attributes
    ----------
    labels : numpy.ndarray
        [N], int64; 1 for the same speaker, 0 for different speakers.
    enrol, test : tuple of str
        N utterances each, as the list names them.
    path : Path
        The file that the list was read from.
    told : mapping of str to (str, str)
        Speaker and session of the utterances of which the data told them; "" for no
        session. Of the others the name tells.
    header : int
        Lines of the file before the first trial.

    Example
    -------
    >>> enrol, test = ("id1/a.wav", "id1/a.wav"), ("id1/b.wav", "id2/a.wav")
    >>> trials = Trials(np.array([1, 0]), enrol, test, Path("vox1_O.txt"))
    >>> trials.name, trials.utterances, trials.speakers
    ('vox1_O', ('id1/a.wav', 'id1/b.wav', 'id2/a.wav'), ('id1', 'id2'))
    """

    labels: np.ndarray
    enrol: tuple[str, ...]
    test: tuple[str, ...]
    path: Path
    told: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    header: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def name(self) -> str:
        """The file's name without its last suffix, for tables and score files."""
        return self.path.stem

    @cached_property
    def utterances(self) -> tuple[str, ...]:
        """Every utterance of the list once, sorted."""
        return tuple(sorted({*self.enrol, *self.test}))

    def speaker_of(self, utterance: str) -> str:
        """Whose an utterance of the list is: what the data told, or else its path's
        first folder."""
        told = self.told.get(utterance)
        return speaker_of(utterance) if told is None else told[0]

    def session_of(self, utterance: str) -> str:
        """Its session, with the speaker's name: what the data told, or else the path's
        first two folders; "" where there are none."""
        told = self.told.get(utterance)
        if told is not None:
            return told[1]
        parts = utterance.split("/")
        return "/".join(parts[:2]) if len(parts) > 2 else ""

    @cached_property
    def speakers(self) -> tuple[str, ...]:
        """Every speaker of the list once, sorted.

        ValueError where neither the data nor a folder of its path tell whose an utterance
        is, so that nobody excludes a file name from training in place of a speaker.
        """
        speakers = set()
        for utterance in self.utterances:
            speaker = self.speaker_of(utterance)
            in_folder = utterance in self.told or "/" in utterance
            if not in_folder or speaker in ("", ".", ".."):
                line, _ = self.first_line({utterance})
                raise ValueError(
                    f"{self.path}:{line}: no speaker in {utterance!r}: a path begins "
                    "with its speaker's folder, as in id10270/5r0dWxy17C8/00001.wav, and "
                    "other names must be in the test data"
                )
            speakers.add(speaker)
        return tuple(sorted(speakers))

    def first_line(self, utterances: Collection[str]) -> tuple[int, str]:
        """Number of the first line that names one of some utterances, and which.

        ValueError where no line does.
        """
        pairs = zip(self.enrol, self.test)
        for number, pair in enumerate(pairs, start=self.header + 1):
            for utterance in pair:
                if utterance in utterances:
                    return number, utterance
        raise ValueError(f"{self.path}: no line names one of {sorted(utterances)}")


def place_in(lists: Iterable[Trials], utterances: Collection[str]) -> str:
    """Where the first of some lists that has one of some utterances names it first, as
    ``O.txt:3``; "" where none does.

    Example
    -------
    >>> trials = Trials(np.array([1, 0]), ("a", "a"), ("b", "c"), Path("O.txt"))
    >>> place_in([trials], {"c"}), place_in([trials], {"d"})
    ('O.txt:2', '')
    """
    for trials in lists:
        if not {*utterances}.isdisjoint(trials.utterances):
            return f"{trials.path}:{trials.first_line(utterances)[0]}"
    return ""


def read_trials(path: str | os.PathLike) -> Trials:
    r"""Read a trial list.

    A repeated trial counts as often as the list has it. An utterance compared with
    itself is refused: its score says nothing about the model. A list of one class can
    be read; the metrics refuse it.

    Arguments
    ---------
    path : str or Path
        Text file in UTF-8: fields separated by spaces or tabs, or a csv file.

    Returns
    -------
    Trials
        The N trials in the file's order. Whose utterances these are, their names tell.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        Wrong number of fields, an unknown label, an empty line, an utterance compared
        with itself (each with file, line and text), an empty file, a file that is not
        UTF-8.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "vox1_O.txt")
    ...     _ = path.write_text("1 id1/a.wav id1/b.wav\n0 id1/a.wav id2/a.wav\n")
    ...     trials = read_trials(path)
    >>> trials.labels, trials.enrol[1], trials.test[1]
    (array([1, 0]), 'id1/a.wav', 'id2/a.wav')
    """
    path = Path(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"{path}: no such trial list; give a file of lines 'label enrol test', for "
            "VoxCeleb1-O (cleaned) that is "
            "https://www.robots.ox.ac.uk/~vgg/data/voxceleb/meta/veri_test2.txt"
        )
    labels, enrol, test = [], [], []
    try:
        header, rows = _read_lines(path)
        for label, one, other in rows:
            labels.append(label)
            enrol.append(one)
            test.append(other)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not a text file in UTF-8 ({error}); is this the trial list?"
        ) from error
    if not labels:
        raise ValueError(
            f"{path}: empty file; a trial list has a line 'label enrol test' a trial"
        )
    sides = tuple(enrol), tuple(test)
    return Trials(np.array(labels, dtype=np.int64), *sides, path, header=header)


def _read_lines(path: Path) -> tuple[int, Iterator[tuple[int, str, str]]]:
    """How many lines precede the trials; and label, enrol and test of each."""
    with open(path, encoding="utf-8-sig") as lines:  # some editors add a mark
        first = next(lines, "")
    columns = [name.strip(' "\r\n') for name in first.replace("\t", ",").split(",")]
    if {"label", "enrol", "test"} <= set(columns):
        return 1, _read_csv(path)
    words = first.split()
    places = [place for place, word in enumerate(words) if word in _LABELS]
    if {0, 2} <= {*places}:  # a label and an utterance that is called 1, say
        places = [place for place in (0, 2) if not words[place].isdecimal()]
    last = len(words) == 3 and 0 not in places and 2 in places
    return 0, _read_text(path, "enrol test label" if last else "label enrol test")


def _read_text(path: Path, form: str) -> Iterator[tuple[int, str, str]]:
    places = _FORMS[form]
    with open(path, encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            fields = line.split()
            if len(fields) == 3:
                label, enrol, test = (fields[place] for place in places)
                if label in _LABELS and enrol != test:
                    yield _LABELS[label], enrol, test
                    continue
            raise ValueError(
                f"{path}:{number}: {_fault(fields, form)}, found {line.rstrip()!r}"
            )


def _read_csv(path: Path) -> Iterator[tuple[int, str, str]]:
    advice = "a trial list in csv has the columns label, enrol and test"
    rows = read_columns(path, ("label", "enrol", "test"), advice)
    for line, (label, enrol, test) in rows:
        if label not in _LABELS or not (enrol and test) or enrol == test:
            fault = _fault([label, enrol, test], "label enrol test")
            raise ValueError(f"{path}:{line}: {fault}, found {label},{enrol},{test}")
        yield _LABELS[label], enrol, test


def _fault(fields: list[str], form: str) -> str:
    """What is wrong with the fields of a line that ``read_trials`` refused."""
    if not fields:
        return "empty line; remove it"
    if len(fields) != 3 or not all(fields):
        return f"expected the 3 fields {form!r}, got {len(list(filter(None, fields)))}"
    label = fields[_FORMS[form][0]]
    if label not in _LABELS:
        return f"label must be 0 or 1, or nontarget or target, not {label!r}"
    return "an utterance is compared with itself; remove the trial"
