"""Trial lists: read, checked, and their audio found.

A trial list is a text file of lines ``label enrol test``, VoxCeleb style: label 1 for
the same speaker and 0 for different speakers, then two paths below the corpus folder's
``wav``.
"""

import dataclasses
import os
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

_LABELS = {"0": 0, "1": 1}


def speaker_of(utterance: str) -> str:
    """The speaker of an utterance: its path's first folder.

    Example
    -------
    >>> speaker_of("id10270/5r0dWxy17C8/00001.wav")
    'id10270'
    """
    return utterance.partition("/")[0]


@dataclasses.dataclass(frozen=True, eq=False)
class Trials:
    """A trial list; trial ``i`` is line ``i + 1`` of its file.

    Attributes
    ----------
    labels : numpy.ndarray
        [N], int64; 1 for the same speaker, 0 for different speakers.
    enrol, test : tuple of str
        N utterances each, as the list names them: paths below ``<root>/wav/``.
    path : Path
        The file that the list was read from.

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

    @cached_property
    def speakers(self) -> tuple[str, ...]:
        """Every speaker of the list once, sorted: each path's first folder.

        ValueError where an utterance lies in no folder, so that nobody excludes a file
        name from training in place of a speaker.
        """
        speakers = set()
        for utterance in self.utterances:
            speaker = speaker_of(utterance)
            if "/" not in utterance or speaker in ("", ".", ".."):
                line, _ = self.first_line({utterance})
                raise ValueError(
                    f"{self.path}:{line}: no speaker in {utterance!r}: a path begins "
                    "with its speaker's folder, as in id10270/5r0dWxy17C8/00001.wav"
                )
            speakers.add(speaker)
        return tuple(sorted(speakers))

    def first_line(self, utterances: Collection[str]) -> tuple[int, str]:
        """Number of the first line that names one of some utterances, and which.

        ValueError where no line does.
        """
        for number, pair in enumerate(zip(self.enrol, self.test), start=1):
            for utterance in pair:
                if utterance in utterances:
                    return number, utterance
        raise ValueError(f"{self.path}: no line names one of {sorted(utterances)}")


def read_lists(
    files: str | os.PathLike | Sequence[str | os.PathLike] | None,
    roots: str | os.PathLike | Sequence[str | os.PathLike],
    none_allowed: bool = False,
) -> tuple[list[Trials], dict[str, Path]]:
    """Read the trial lists and find their audio, before anything takes long.

    Arguments
    ---------
    files : str or list of str
        The trial lists; None or an empty list for none.
    roots : str or list of str
        The folders that hold ``wav/``.
    none_allowed : bool
        Whether the caller can do without a list.

    Returns
    -------
    list of Trials
    dict of str to Path
        Every utterance of the lists and its file.

    Raises
    ------
    ValueError
        No list where one is needed, or something that is no path; two lists have one
        name, since their results would overwrite each other; a list has trials of one
        class only.
    FileNotFoundError
        A list or an utterance is missing.
    """
    given = files
    if files is None or files == "":
        files = []
    elif isinstance(files, (str, os.PathLike)):
        files = [files]
    if not isinstance(files, (list, tuple)) or not all(
        isinstance(file, os.PathLike) or (isinstance(file, str) and file) for file in files
    ):
        raise ValueError(
            f"verification_file={given!r}: must be a trial list's path, or a list of them."
        )
    if not files and not none_allowed:
        raise ValueError(
            f"verification_file={given!r}: at least one trial list is needed, a file of "
            "lines 'label enrol test'."
        )
    lists = [read_trials(file) for file in files]
    names = [trials.name for trials in lists]
    utterances: dict[str, Path] = {}
    for trials in lists:
        if names.count(trials.name) > 1:
            raise ValueError(f"verification_file: two lists are named {trials.name!r}.")
        if len(set(trials.labels.tolist())) < 2:
            raise ValueError(
                f"{trials.path}: all {len(trials)} trials have the label "
                f"{trials.labels[0]}; an error rate needs both."
            )
        utterances.update(find_utterances(trials, roots))
    return lists, utterances


def read_trials(path: str | os.PathLike) -> Trials:
    r"""Read a trial list of lines ``label enrol test``.

    A repeated trial counts as often as the list has it. An utterance compared with
    itself is refused: its score says nothing about the model. A list of one class can
    be read; the metrics refuse it.

    Arguments
    ---------
    path : str or Path
        Text file in UTF-8, fields separated by spaces or tabs.

    Returns
    -------
    Trials
        The N trials in the file's order.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        Wrong number of fields, a label other than 0 or 1, an empty line, an utterance
        compared with itself (each with file, line and text), an empty file, a file that
        is not UTF-8.

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
        with open(path, encoding="utf-8-sig") as lines:  # some editors add a mark
            for number, line in enumerate(lines, start=1):
                fields = line.split()
                if len(fields) != 3 or fields[0] not in _LABELS or fields[1] == fields[2]:
                    raise ValueError(
                        f"{path}:{number}: {_fault(fields)}, found {line.rstrip()!r}"
                    )
                labels.append(_LABELS[fields[0]])
                enrol.append(fields[1])
                test.append(fields[2])
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not a text file in UTF-8 ({error}); is this the trial list?"
        ) from error
    if not labels:
        raise ValueError(
            f"{path}: empty file; a trial list has a line 'label enrol test' a trial"
        )
    return Trials(np.array(labels, dtype=np.int64), tuple(enrol), tuple(test), path)


def find_utterances(
    trials: Trials, roots: str | os.PathLike | Iterable[str | os.PathLike]
) -> dict[str, Path]:
    """The audio file of every utterance of a list.

    Arguments
    ---------
    trials : Trials
        The list; its utterances are paths below ``<root>/wav/``.
    roots : list of str or Path
        Folders that hold a ``wav`` folder each, such as the VoxCeleb1 folder; or one of
        them.

    Returns
    -------
    dict of str to Path
        Each utterance of the list, sorted, and its file.

    Raises
    ------
    FileNotFoundError
        Utterances without a file: names the list, line and path of the first, the
        number of them and the roots.
    ValueError
        No roots, or an utterance found in two roots in different files: which one is
        meant cannot be known, and the wrong one would give a wrong result in silence.

    Example
    -------
    >>> import tempfile
    >>> trials = Trials(np.array([1]), ("id1/a.wav",), ("id1/b.wav",), Path("O.txt"))
    >>> with tempfile.TemporaryDirectory() as root:
    ...     Path(root, "wav", "id1").mkdir(parents=True)
    ...     Path(root, "wav", "id1", "a.wav").touch()
    ...     Path(root, "wav", "id1", "b.wav").touch()
    ...     sorted(find_utterances(trials, [root]))
    ['id1/a.wav', 'id1/b.wav']
    """
    roots = [roots] if isinstance(roots, (str, os.PathLike)) else list(roots)
    if not roots:
        raise ValueError(
            f"{trials.path}: no roots to search; give the folders that hold 'wav'"
        )
    found: dict[str, Path] = {}
    missing = set()
    for utterance in trials.utterances:
        files = [
            Path(file)
            for root in roots
            if os.path.isfile(file := f"{root}/wav/{utterance}")  # False for any text
        ]
        if not files:
            missing.add(utterance)
            continue
        for other in files[1:]:
            if not files[0].samefile(other):
                line, _ = trials.first_line({utterance})
                raise ValueError(
                    f"{trials.path}:{line}: {utterance} is in two roots, "
                    f"{files[0]} and {other}; give the roots of one copy of the corpus"
                )
        found[utterance] = files[0]
    if missing:
        line, utterance = trials.first_line(missing)
        folders = ", ".join(
            f"{root}/wav" + ("" if Path(root, "wav").is_dir() else " (no such folder)")
            for root in roots
        )
        raise FileNotFoundError(
            f"{trials.path}:{line}: no file for {utterance}; {len(missing)} of "
            f"{len(trials.utterances)} utterances of the list are missing; "
            f"searched {folders}"
        )
    return found


def _fault(fields: list[str]) -> str:
    """What is wrong with the fields of a line that ``read_trials`` refused."""
    if not fields:
        return "empty line; remove it"
    if len(fields) != 3:
        return f"expected the 3 fields 'label enrol test', got {len(fields)}"
    if fields[0] not in _LABELS:
        return f"label must be 0 or 1, not {fields[0]!r}"
    return "an utterance is compared with itself; remove the trial"
