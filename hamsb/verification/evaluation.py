"""The numbers of scored trial lists, whole and by groups of trials, and their tables."""

import csv
import dataclasses
import io
from pathlib import Path

import numpy as np

from hamsb.verification.bootstrap import bootstrap_eer, interval
from hamsb.verification.metrics import act_dcf, cllr, det_curve, min_cllr

P_TARGETS = (0.01, 0.05)  # the priors at which detection costs are reported
# Columns of a metadata file that name the speaker: ours, and those of VoxCeleb's files.
_SPEAKER_COLUMNS = ("speaker", "voxceleb1 id", "voxceleb2 id")


# --------------------------------------------------------------------- the numbers


def evaluate_trials(trials, scores, p_targets=P_TARGETS, calibrated=False):
    """The numbers that a table shows of one scored list, ready for JSON.

    Arguments
    ---------
    trials : Trials
        N trials.
    scores : array, tensor or list of float
        [N], in the order of the trials; higher means more similar.
    p_targets : sequence of float
        Priors of a target trial, for the detection costs.
    calibrated : bool
        The scores are natural-log likelihood ratios.

    Returns
    -------
    dict
        ``list`` (the list's name), ``target_trials``, ``impostor_trials``, ``eer`` (a
        fraction), ``eer_threshold`` (accept ``score >= eer_threshold``), for each prior
        p ``min_dcf_<p>`` (normalised) and ``min_dcf_threshold_<p>`` (None where nothing
        is better than to reject every trial). For calibrated scores also
        ``act_dcf_<p>``, ``cllr`` and ``min_cllr``, in bits.

    Raises
    ------
    ValueError
        The list has one class only, or a score is NaN or infinite; names the list.

    Example
    -------
    >>> from hamsb.verification.trials import Trials
    >>> trials = Trials(np.array([1, 0]), ("1/a", "1/a"), ("1/b", "2/a"), Path("O.txt"))
    >>> for key, value in evaluate_trials(trials, [0.75, 0.25], [0.01]).items():
    ...     print(key, value)
    list O
    target_trials 1
    impostor_trials 1
    eer 0.0
    eer_threshold 0.5
    min_dcf_0.01 0.0
    min_dcf_threshold_0.01 0.5
    """
    try:
        numbers = _numbers(scores, trials.labels, p_targets, calibrated)
    except ValueError as error:
        raise ValueError(f"{trials.path}: {error}") from error
    return {"list": trials.name, **_counts(trials.labels), **numbers}


def _counts(labels):
    targets = int(labels.sum())
    return {"target_trials": targets, "impostor_trials": len(labels) - targets}


def _numbers(scores, labels, p_targets, calibrated):
    curve = det_curve(scores, labels)
    numbers = dict(zip(("eer", "eer_threshold"), curve.eer()))
    for p in p_targets:
        cost, threshold = curve.min_dcf(p)
        numbers[f"min_dcf_{p}"] = cost
        numbers[f"min_dcf_threshold_{p}"] = (
            threshold if np.isfinite(threshold) else None
        )
    if calibrated:
        numbers |= {f"act_dcf_{p}": act_dcf(scores, labels, p) for p in p_targets}
        numbers |= {"cllr": cllr(scores, labels), "min_cllr": min_cllr(scores, labels)}
    return numbers


def eer_intervals(trials, scores, draws=1000, seed=0):
    """95 % intervals of the EER from a bootstrap over the list's speakers.

    Arguments
    ---------
    trials : Trials
        N trials.
    scores : array
        [S, N], of S systems, which share the draws.
    draws, seed : int
        As for ``hamsb.verification.metrics.bootstrap_eer``.

    Returns
    -------
    list of tuple of float
        S times low and high, fractions.

    Raises
    ------
    ValueError
        A path without a speaker's folder, or a speaker that contradicts a label; names
        the list, and how to go without.

    Example
    -------
    >>> from hamsb.verification.trials import Trials
    >>> enrol, test = ("1/a", "1/a", "2/b"), ("1/b", "2/a", "2/a")
    >>> trials = Trials(np.array([1, 0, 1]), enrol, test, Path("O.txt"))
    >>> eer_intervals(trials, [[0.75, 0.25, 0.5]], draws=10)
    [(0.0, 0.0)]
    """
    try:
        _ = trials.speakers  # every path begins with one
        sides = (
            [utterance.partition("/")[0] for utterance in side]
            for side in (trials.enrol, trials.test)
        )
        values = bootstrap_eer(scores, trials.labels, *sides, draws=draws, seed=seed)
    except ValueError as error:
        raise ValueError(
            f"{trials.path}: no interval from these speakers ({error}); "
            "set bootstrap_draws: 0 to go without"
        ) from error
    low, high = interval(values)
    return list(zip(low.tolist(), high.tolist()))


# ------------------------------------------------------------------ groups of trials


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
    columns: dict

    def of_trials(self, column, trials):
        """A column's values of both sides, two arrays [N] of str.

        ValueError with the list's file and line where the file lacks an utterance.
        """
        values = self.columns[column]
        known = {
            utterance: values.get(self._key(utterance))
            for utterance in trials.utterances
        }
        missing = {utterance for utterance, value in known.items() if value is None}
        if missing:
            line, utterance = trials.first_line(missing)
            raise ValueError(
                f"{trials.path}:{line}: {self.path} has no {self.by} "
                f"{self._key(utterance)!r}; {len(missing)} of {len(known)} utterances "
                "of the list are not in it"
            )
        sides = trials.enrol, trials.test
        return tuple(np.array([known[name] for name in side]) for side in sides)

    def _key(self, utterance):
        return utterance if self.by == "utterance" else utterance.partition("/")[0]


def read_metadata(path, columns):
    """Read a csv file about speakers or utterances.

    Arguments
    ---------
    path : str or Path
        UTF-8, separated by commas or tabs, with a header. One column names what a row
        is about: ``utterance`` (as the trial lists do) or else ``speaker`` (an
        utterance's first folder; ``VoxCeleb1 ID`` and ``VoxCeleb2 ID`` too, so that
        VoxCeleb's own files can be given). Upper and lower case are the same.
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
    ...     _ = path.write_text("VoxCeleb1 ID\\tGender\\nid10001\\tm\\nid10003\\tf\\n")
    ...     read_metadata(path, ["gender"]).columns
    {'gender': {'id10001': 'm', 'id10003': 'f'}}
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such metadata file")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file in UTF-8 ({error})") from error
    rows = csv.reader(
        io.StringIO(text), delimiter="\t" if "\t" in text.partition("\n")[0] else ","
    )
    header = [name.strip().lower() for name in next(rows, [])]
    keys = [name for name in ("utterance", *_SPEAKER_COLUMNS) if name in header]
    if not keys:
        raise ValueError(
            f"{path}:1: no column 'utterance' or 'speaker'; the columns are {header}"
        )
    for column in columns:
        if column.lower() not in header:
            raise ValueError(
                f"{path}:1: no column {column!r}; the columns are {header}"
            )
    found = {column: {} for column in columns}
    for row in rows:
        where = f"{path}:{rows.line_num}"
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
    return Metadata(path, "utterance" if keys[0] == "utterance" else "speaker", found)


def trial_groups(trials, seconds=None, duration_bins=(), metadata=None):
    """The groups that a list's trials fall into.

    By duration, of a trial's shorter utterance. By session, a path's second folder, and
    by each column of the metadata: whether both sides have the same one. In the same
    session there are target trials alone, of different gender impostor trials alone;
    since an error rate needs both, such a group has all trials of the other class.

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
    >>> from hamsb.verification.trials import Trials
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
    pairs = {"session": [_sessions(side) for side in (trials.enrol, trials.test)]}
    if any((side == "").any() for side in pairs["session"]):
        del pairs["session"]
    for column in metadata.columns if metadata is not None else ():
        pairs[column] = metadata.of_trials(column, trials)
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


def _sessions(utterances):
    """The speaker and session folders of each path, [N] of str; "" without them."""
    parts = [name.split("/") for name in utterances]
    return np.array(["/".join(part[:2]) if len(part) > 2 else "" for part in parts])


def _bin_names(limits):
    limits = [f"{limit:g}" for limit in limits]
    inner = [f"{low} to {high} s" for low, high in zip(limits, limits[1:])]
    return [f"below {limits[0]} s", *inner, f"from {limits[-1]} s"]


def evaluate_groups(trials, scores, groups, p_targets=P_TARGETS):
    """The numbers of each group of a scored list, ready for JSON.

    Arguments
    ---------
    trials : Trials
        N trials.
    scores : numpy.ndarray
        [N].
    groups : dict
        As ``trial_groups`` returns it.
    p_targets : sequence of float

    Returns
    -------
    list of dict
        ``what`` and ``group``, ``target_trials``, ``impostor_trials``, ``eer`` and
        ``min_dcf_<p>``; the last are missing where a group lacks one class.

    Example
    -------
    >>> from hamsb.verification.trials import Trials
    >>> trials = Trials(np.array([1, 0]), ("1/a", "1/a"), ("1/b", "2/a"), Path("O.txt"))
    >>> groups = {("session", "same"): np.array([True, True])}
    >>> evaluate_groups(trials, np.array([0.75, 0.25]), groups, [])
    [{'what': 'session', 'group': 'same', 'target_trials': 1, 'impostor_trials': 1, \
'eer': 0.0}]
    """
    results = []
    for (what, name), members in groups.items():
        labels = trials.labels[members]
        result = {"what": what, "group": name, **_counts(labels)}
        if len(set(labels.tolist())) == 2:
            numbers = _numbers(scores[members], labels, p_targets, calibrated=False)
            result |= {key: n for key, n in numbers.items() if "threshold" not in key}
        results.append(result)
    return results


# ----------------------------------------------------------------------- the tables


