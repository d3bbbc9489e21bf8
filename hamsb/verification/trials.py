"""Trial lists: read, checked, and their audio found.

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
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from speechbrain.utils.logger import get_logger

from hamsb.dataio.annotations import Recording, Utterance, read_columns, read_keyed
from hamsb.dataio.sources import open_source
from hamsb.dataio.utterances import Found, Source

logger = get_logger(__name__)

#: What a name of a trial list stands for: a recording, or those of a model.
Enrolment = Recording | tuple[Recording, ...]

_LABELS = {"0": 0, "1": 1, "nontarget": 0, "target": 1}
_FORMS = {  # the places of label, enrol and test
    "label enrol test": (0, 1, 2),
    "enrol test label": (2, 0, 1),
}
_MODELS = "enroll.map"


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


def read_lists(
    files: str | os.PathLike | Sequence[str | os.PathLike] | None,
    roots: str | os.PathLike | Sequence[str | os.PathLike],
    none_allowed: bool = False,
    key: str = "test_data_folder",
) -> tuple[list[Trials], dict[str, Enrolment]]:
    """Read the trial lists and find their audio, before anything takes long.

    What the data are is logged, a line each.

    Arguments
    ---------
    files : str or list of str
        The trial lists; None or an empty list for none.
    roots : str or list of str
        The data, as `hamsb.dataio.sources.open_source` takes them.
    none_allowed : bool
        Whether the caller can do without a list.
    key : str
        What errors call the data.

    Returns
    -------
    list of Trials
    dict of str to Path, Utterance or tuple of these
        Every utterance of the lists and its file, or the stretch of it; of a model all of
        them.

    Raises
    ------
    ValueError
        No list where one is needed, or something that is no path; two lists have one
        name, since their results would overwrite each other; a list has trials of one
        class only, or a label that contradicts the speakers that the data tell; an
        utterance in two roots; a model that means different utterances in two lists.
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
    for trials in lists:
        if names.count(trials.name) > 1:
            raise ValueError(f"verification_file: two lists are named {trials.name!r}.")
        if len(set(trials.labels.tolist())) < 2:
            raise ValueError(
                f"{trials.path}: all {len(trials)} trials have the label "
                f"{trials.labels[0]}; an error rate needs both."
            )
    if not lists:
        return [], {}
    return find_recordings(lists, roots, key, logger.info)


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
    columns = [name.strip() for name in first.replace("\t", ",").split(",")]
    if {"label", "enrol", "test"} <= set(columns):
        return 1, _read_csv(path)
    words = first.split()
    last = len(words) == 3 and words[0] not in _LABELS and words[2] in _LABELS
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


def find_utterances(
    trials: Trials, roots: str | os.PathLike | Iterable[str | os.PathLike]
) -> dict[str, Enrolment]:
    """The audio file of every utterance of a list.

    Arguments
    ---------
    trials : Trials
        The list.
    roots : list of str or Path
        The data, as `hamsb.dataio.sources.open_source` takes them; or one of them.

    Returns
    -------
    dict of str to Path, Utterance or tuple of these
        Each utterance of the list, sorted, and its file, or the stretch of it; of a model
        all of them.

    Raises
    ------
    FileNotFoundError
        Utterances without a file: names the list, line and path of the first, the
        number of them and the roots.
    ValueError
        No roots, or an utterance found in two roots in different files: which one is
        meant cannot be known, and the wrong one would give a wrong result in silence. A
        label that contradicts the speakers that the data tell.

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
    return find_recordings([trials], roots, "roots")[1]


def listed_speakers(
    path: str | os.PathLike, roots: str | os.PathLike | Iterable[str | os.PathLike]
) -> set[str]:
    """The speakers of a trial list, whether or not there is audio of them.

    Arguments
    ---------
    path : str or Path
        The trial list.
    roots : str, Path or list of them
        Where its utterances may be, as `hamsb.dataio.sources.open_source` takes them.

    Raises
    ------
    FileNotFoundError, ValueError
        As `read_trials`; an utterance of which neither these data nor its path tell the
        speaker, with file and line.
    """
    trials = read_trials(path)
    models = _models(trials)
    members = {name for files in models.values() for name in files}
    told: dict[str, set[str]] = {}
    for source in _open(roots, "test_data_folder"):
        if source.tells_speakers:
            for name, found in source.find({*trials.utterances, *members}).items():
                if theirs := {each.speaker for each in found} - {""}:
                    told.setdefault(name, set()).update(theirs)
    speakers: set[str] = set()
    known: dict[str, tuple[str, str]] = {}
    for name in trials.utterances:
        for utterance in models.get(name, (name,)):
            if utterance in told:
                speakers |= told[utterance]
            elif "/" in utterance:
                speakers.add(speaker_of(utterance))
            else:
                break
        else:
            if name in models or name in told:
                known[name] = "-", ""
    _ = dataclasses.replace(trials, told=known).speakers  # refuses the others
    return speakers


# ---------------------------------------------------------------------- finding


def _open(roots: str | os.PathLike | Iterable[str | os.PathLike], key: str) -> list[Source]:
    roots = [roots] if isinstance(roots, (str, os.PathLike)) else list(roots)
    return [open_source(root, key, speakers=False) for root in roots]


def _models(trials: Trials) -> dict[str, tuple[str, ...]]:
    """The utterances of each model that the list enrols."""
    path = trials.path.with_name(_MODELS)
    if not path.is_file():
        return {}
    enrolled = set(trials.enrol)
    advice = "give lines 'model utterance utterance ...'"
    return {
        model: tuple(names.split())
        for _, model, names in read_keyed(path, advice)
        if model in enrolled
    }


def find_recordings(
    lists: Sequence[Trials],
    roots: str | os.PathLike | Iterable[str | os.PathLike],
    key: str = "data_folder",
    say: Callable[[str], None] | None = None,
) -> tuple[list[Trials], dict[str, Enrolment]]:
    """The lists with what the data tell of their utterances, and the recordings.

    Arguments
    ---------
    lists : sequence of Trials
        At least one, as they were read.
    roots : str, Path or list of them
        The data, as `hamsb.dataio.sources.open_source` takes them.
    key : str
        What errors call the data.
    say : callable, optional
        Is told in a line what each of the data is.

    Returns
    -------
    list of Trials
    dict of str to Path, Utterance or tuple of these
        As `read_lists`.

    Raises
    ------
    FileNotFoundError, ValueError
        As `find_utterances`; a model that means different utterances in two lists.
    """
    sources = _open(roots, key)
    if not sources:
        raise ValueError(f"{lists[0].path}: no roots to search; give the trials' data")
    models: dict[str, tuple[str, ...]] = {}
    for trials in lists:
        for model, utterances in _models(trials).items():
            if models.setdefault(model, utterances) != utterances:
                raise ValueError(
                    f"{trials.path.with_name(_MODELS)}: {model} has other utterances than "
                    "in another list's; give the lists one after the other."
                )
    named = {name for trials in lists for name in trials.utterances}
    wanted = (named - models.keys()).union(*models.values())
    everywhere = [(source, source.find(wanted)) for source in sources]
    if say is not None:
        for source, here in everywhere:
            number = f"{len(here):,} utterances of the trial lists"
            say(f"{source.path}: {source.layout}: {number}")
    found: dict[str, tuple[Source, Found]] = {}
    files: dict[str, Enrolment] = {}
    given: list[Trials] = []
    for trials in lists:
        parts = {name: models.get(name, (name,)) for name in trials.utterances}
        _check_missing(trials, parts, everywhere)
        for name, utterances in parts.items():
            for utterance in utterances:
                if utterance not in found:
                    found[utterance] = _only_one(trials, name, utterance, everywhere)
            if name not in files:
                own = tuple(found[utterance][1].recording for utterance in utterances)
                files[name] = own if name in models else own[0]
        told = _told(parts, models, found)
        given.append(dataclasses.replace(trials, told=told))
        _check_trials(given[-1], files, sources)
    return given, files


_Everywhere = Sequence[tuple[Source, Mapping[str, list[Found]]]]


def _check_missing(
    trials: Trials, parts: Mapping[str, tuple[str, ...]], everywhere: _Everywhere
) -> None:
    """FileNotFoundError where an utterance is in no source."""
    lost: dict[str, str] = {}
    for name, utterances in parts.items():
        for utterance in utterances:
            if not any(utterance in here for _, here in everywhere):
                lost.setdefault(name, utterance)
    if lost:
        line, name = trials.first_line(lost)
        places = ", ".join(source.place([lost[name]]) for source, _ in everywhere)
        of_model = f", an utterance of the model {name}" * (name != lost[name])
        raise FileNotFoundError(
            f"{trials.path}:{line}: no file for {lost[name]}{of_model}; {len(lost)} of "
            f"{len(parts)} utterances of the list are missing; searched {places}"
        )


def _only_one(
    trials: Trials, name: str, utterance: str, everywhere: _Everywhere
) -> tuple[Source, Found]:
    """The one utterance of a name; ValueError where there are several."""
    found = [
        (source, each) for source, here in everywhere for each in here.get(utterance, ())
    ]
    first = found[0][1]
    for _, other in found[1:]:
        if first[1:3] != other[1:3] or not _same_file(first.path, other.path):
            line, _ = trials.first_line({name})
            what = "in two roots" if found[0][0] is not found[-1][0] else "two utterances"
            raise ValueError(
                f"{trials.path}:{line}: {utterance} is {what}, {first.path} and "
                f"{other.path}; give the roots of one copy of the corpus, and names with "
                "their extension"
            )
    return found[0]


def _same_file(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return one == other


def _told(
    parts: Mapping[str, tuple[str, ...]],
    models: Mapping[str, tuple[str, ...]],
    found: Mapping[str, tuple[Source, Found]],
) -> dict[str, tuple[str, str]]:
    """Speaker and session of each name of which its source tells more than the name."""
    told = {}
    for name, utterances in parts.items():
        source, first = found[utterances[0]]
        if source.tells_speakers and first.speaker:
            told[name] = first.speaker, first.session
        if name in models:
            speakers = {
                found[each][1].speaker or ("/" in each and speaker_of(each)) or ""
                for each in utterances
            }
            if speakers == {""}:
                continue
            if len(speakers) > 1:
                raise ValueError(
                    f"{_MODELS}: the model {name} has utterances of "
                    f"{' and '.join(sorted(speakers)[:2])}; a model is one speaker."
                )
            sessions = {found[each][1].session for each in utterances}
            told[name] = speakers.pop(), sessions.pop() if len(sessions) == 1 else ""
    return told


def _check_trials(
    trials: Trials, files: Mapping[str, Enrolment], sources: Sequence[Source]
) -> None:
    """Refuses a recording compared with itself, or with a model that it is part of, and
    labels that the data contradict; warns of those that only the names of folders
    contradict."""
    models = {
        name: set(each)
        for name in trials.utterances
        for each in [files[name]]
        if isinstance(each, tuple) and not isinstance(each, Utterance)
    }
    wrong: list[tuple] = []
    doubtful: list[tuple] = []
    for line, (label, one, other) in enumerate(
        zip(trials.labels.tolist(), trials.enrol, trials.test), start=trials.header + 1
    ):
        if files[one] == files[other]:
            raise ValueError(
                f"{trials.path}:{line}: {one} and {other} are one recording, {files[one]}; "
                "remove the trial"
            )
        if one in models and files[other] in models[one]:
            raise ValueError(
                f"{trials.path}:{line}: {other} is a recording of the model {one}, "
                f"{files[other]}; remove the trial, or the recording from the model"
            )
        sure = one in trials.told and other in trials.told
        speakers = trials.speaker_of(one), trials.speaker_of(other)
        if (speakers[0] == speakers[1]) == label or not (
            sure or ("/" in one and "/" in other)
        ):
            continue
        (wrong if sure else doubtful).append((line, label, one, other, *speakers))
    for cases in (wrong, doubtful):
        if not cases:
            continue
        line, label, one, other, first, second = cases[0]
        meant = "the same speaker" if label else "different speakers"
        swapped = len(cases) > len(trials) // 2
        message = (
            f"{trials.path}:{line}: the label says {meant}, but {one} is of "
            f"{first} and {other} of {second}; {len(cases):,} of "
            f"{len(trials):,} trials are so"
            + ". Are the labels swapped? 1 or target is the same speaker"
            * swapped
        )
        if cases is wrong:
            raise ValueError(f"{message}; correct the list, or the speakers in the data")
        logger.warning("%s", message)
