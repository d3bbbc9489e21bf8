"""Groups of a list's trials: by duration, session, and what metadata tell."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from hamsb.dataio.annotations import read_rows
from hamsb.verification.trials import Trials, speaker_of

# Columns of a metadata file that name the utterance: ours, and the synthetic corpus'; and
# that name the speaker: ours, and those of VoxCeleb's files.
_UTTERANCE_COLUMNS = ("utterance", "path")
_SPEAKER_COLUMNS = ("speaker", "voxceleb1 id", "voxceleb2 id")
_ADVICE = "give one with a header, a row for each speaker or utterance"


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What a csv file tells about speakers or utterances.

    Attributes
    ----------
    path : Path
        The file.
    by : str
        "speaker" or "utterance": what the keys of the columns are.
    columns : dict of str to dict
        Column, such as "gender" -> {speaker or utterance: value}.
    """

    path: Path
    by: str
    columns: dict[str, dict[str, str]]

    def of_trials(self, column: str, trials: Trials) -> tuple[np.ndarray, np.ndarray]:
        """A column's values of both sides, two arrays [N] of str.

        ValueError with the list's file and line where the file lacks an utterance.
        """
        values = self.columns[column]
        known = {
            utterance: values.get(self._key(utterance, trials.speaker_of(utterance)))
            for utterance in trials.utterances
        }
        missing = {utterance for utterance, value in known.items() if value is None}
        if missing:
            line, utterance = trials.first_line(missing)
            key = self._key(utterance, trials.speaker_of(utterance))
            raise ValueError(
                f"{trials.path}:{line}: {self.path} has no {self.by} {key!r}; "
                f"{len(missing)} of {len(known)} utterances of the list are not in it"
            )
        enrol, test = (
            np.array([known[name] for name in side]) for side in (trials.enrol, trials.test)
        )
        return enrol, test

    def of_utterances(self, column: str, utterances: Sequence[str]) -> list[str]:
        """A column's value of each utterance, ``<speaker>/...``; "" where it has none."""
        values = self.columns[column]
        return [values.get(self._key(name, speaker_of(name)), "") for name in utterances]

    def renamed(self, names: Mapping[str, str]) -> "Metadata":
        """The same of utterances that have other names, where it is about utterances."""
        if self.by == "speaker":
            return self
        columns = {
            column: {names.get(name, name): value for name, value in values.items()}
            for column, values in self.columns.items()
        }
        return dataclasses.replace(self, columns=columns)

    def _key(self, utterance: str, speaker: str) -> str:
        return utterance if self.by == "utterance" else speaker


def read_metadata(path: str | os.PathLike, columns: Sequence[str]) -> Metadata:
    r"""Read a csv file about speakers or utterances.

    Arguments
    ---------
    path : str or Path
        UTF-8, separated by commas or tabs, with a header. One column names what a row
        is about: ``utterance`` or ``path`` (as the trial lists do) or else ``speaker`` (as
        the data tell it, or an utterance's first folder; ``VoxCeleb1 ID`` and ``VoxCeleb2
        ID`` too, so that VoxCeleb's own files can be given). Upper and lower case are the
        same.
    columns : sequence of str
        The other columns to read, such as ``gender``.

    Returns
    -------
    Metadata

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        A column is missing, a row has other fields than the header, or a speaker two
        values of a column: names the file and line.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "vox1_meta.csv")
    ...     _ = path.write_text("VoxCeleb1 ID\tGender\nid10001\tm\nid10003\tf\n")
    ...     read_metadata(path, ["gender"]).columns
    {'gender': {'id10001': 'm', 'id10003': 'f'}}
    """
    rows = read_rows(path, "metadata file", _ADVICE)
    _, names = next(rows, (1, []))
    header = [name.strip().lower() for name in names]
    keys = [name for name in (*_UTTERANCE_COLUMNS, *_SPEAKER_COLUMNS) if name in header]
    if not keys:
        raise ValueError(
            f"{path}:1: no column 'utterance' or 'speaker'; the columns are {header}"
        )
    for column in columns:
        if column.lower() not in header:
            raise ValueError(f"{path}:1: no column {column!r}; the columns are {header}")
    found: dict[str, dict[str, str]] = {column: {} for column in columns}
    for line, row in rows:
        where = f"{path}:{line}"
        if len(row) != len(header):
            raise ValueError(f"{where}: {len(row)} fields, but {len(header)} columns")
        fields = {name: field.strip() for name, field in zip(header, row)}
        key = fields[keys[0]]
        for column, values in found.items():
            value = fields[column.lower()]
            if values.setdefault(key, value) != value:
                raise ValueError(
                    f"{where}: {key} has the {column} {value!r}, and {values[key]!r} above"
                )
    by = "utterance" if keys[0] in _UTTERANCE_COLUMNS else "speaker"
    return Metadata(Path(path), by, found)


def trial_groups(
    trials: Trials,
    seconds: ArrayLike | None = None,
    duration_bins: Sequence[float] = (),
    metadata: Metadata | None = None,
) -> dict[tuple[str, str], np.ndarray]:
    """The groups that a list's trials fall into.

    By duration, of a trial's shorter utterance. By session, as the data tell it, or a
    path's second folder, and by each column of the metadata: whether both sides have the
    same one. In the same session there are target trials alone, of different gender
    impostor trials alone; since an error rate needs both, such a group has all trials of
    the other class.

    Arguments
    ---------
    trials : Trials
        N trials.
    seconds : array of float, optional
        [N], of each trial's shorter utterance.
    duration_bins : sequence of float
        Limits between the duration groups, in seconds, ascending.
    metadata : Metadata, optional
        Each of its columns gives two groups.

    Returns
    -------
    dict of (str, str) to numpy.ndarray
        (what is grouped, group) -> bool [N]. A group of no or of all trials is left out.

    Raises
    ------
    ValueError
        Limits that do not ascend; an utterance that the metadata lack.

    Example
    -------
    >>> enrol, test = ("1/x/a", "1/x/a", "1/x/a"), ("1/x/b", "1/y/c", "2/z/d")
    >>> trials = Trials(np.array([1, 1, 0]), enrol, test, Path("O.txt"))
    >>> for group, members in trial_groups(trials, [2, 4, 5], [3]).items():
    ...     print(*group, members)
    duration below 3 s [ True False False]
    duration from 3 s [False  True  True]
    session same [ True False  True]
    session different [False  True  True]
    """
    if list(duration_bins) != sorted(set(duration_bins)):
        raise ValueError(f"duration_bins={list(duration_bins)}: must ascend")
    groups = {}
    if seconds is not None and len(duration_bins):
        number = np.searchsorted(duration_bins, seconds, side="right")
        for i, name in enumerate(_bin_names(duration_bins)):
            groups["duration", name] = number == i
    enrol, test = (
        np.array([trials.session_of(name) for name in side])
        for side in (trials.enrol, trials.test)
    )
    pairs = {"session": (enrol, test)}
    if any((side == "").any() for side in pairs["session"]):
        del pairs["session"]
    if metadata is not None:
        pairs |= {name: metadata.of_trials(name, trials) for name in metadata.columns}
    target = trials.labels == 1
    for what, (enrol, test) in pairs.items():
        for name, members in (("same", enrol == test), ("different", enrol != test)):
            for one_class in (target, ~target):
                if members.any() and not (members & one_class).any():
                    members = members | one_class
            groups[what, name] = members
    return {
        key: members
        for key, members in groups.items()
        if members.any() and not members.all()
    }


def _bin_names(limits: Sequence[float]) -> list[str]:
    numbers = [f"{limit:g}" for limit in limits]
    inner = [f"{low} to {high} s" for low, high in pairwise(numbers)]
    return [f"below {numbers[0]} s", *inner, f"from {numbers[-1]} s"]
