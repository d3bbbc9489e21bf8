"""The recordings that trial lists name, found in the data; and what the data tell of them.

Names are those of `hamsb.dataio.sources`, with or without the extension of an audio file.
Where a file ``enroll.map`` lies beside a list, with lines ``model utterance utterance
...``, enrol may be one of these models.
"""

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence

from speechbrain.utils.logger import get_logger

from hamsb.dataio.annotations import Recording, Utterance, read_keyed
from hamsb.dataio.sources import open_source
from hamsb.dataio.utterances import Found, Source
from hamsb.verification.trials import Trials, read_trials, speaker_of

logger = get_logger(__name__)

#: What a name of a trial list stands for: a recording, or those of a model.
Enrolment = Recording | tuple[Recording, ...]

_MODELS = "enroll.map"


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
            paths = [str(each.path) for each in lists if each.name == trials.name]
            raise ValueError(
                f"verification_file: two lists are named {trials.name!r}, and results go "
                f"by that name: {', '.join(paths)}. Give a copy of one, or a link to it, "
                "under another name."
            )
        if len(set(trials.labels.tolist())) < 2:
            raise ValueError(
                f"{trials.path}: all {len(trials)} trials have the label "
                f"{trials.labels[0]}; an error rate needs both."
            )
    if not lists:
        return [], {}
    return find_recordings(lists, roots, key, logger.info)


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
    >>> from pathlib import Path
    >>> import numpy as np
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
        _check_missing(trials, parts, everywhere, key)
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
    trials: Trials,
    parts: Mapping[str, tuple[str, ...]],
    everywhere: _Everywhere,
    key: str,
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
            f"{len(parts)} utterances of the list are missing; searched {key}: {places}"
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
