"""Who is where: what trial lists share with a model's training, and with each other.

Error rates and thresholds are for people whom a model has not seen. Speakers are told
apart by their names, as everywhere: nobody can know whether one name is two people.
"""

import ast
import filecmp
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from hamsb.dataio.annotations import Utterance
from hamsb.verification.data import VerificationData
from hamsb.verification.embeddings import recordings
from hamsb.verification.lookup import Enrolment
from hamsb.verification.training_data import read_training
from hamsb.verification.trials import Trials

LABELS = ("label_encoder.ckpt", "label_encoder.txt")  # SpeechBrain's names of the file


class ModelSpeakers(NamedTuple):
    """Who is known to have made a model what it is, by name.

    Attributes
    ----------
    trained : frozenset of str
        Whose speech its parameters were trained on.
    chose : frozenset of str, optional
        The development speakers, whose trials chose epochs and threshold; None where
        they are not known.
    """

    trained: frozenset[str]
    chose: frozenset[str] | None


def model_speakers(folder: str | os.PathLike) -> ModelSpeakers | None:
    """The speakers of an exported model, from its folder; nothing there is executed.

    Arguments
    ---------
    folder : str or Path
        The exported model's. Without ``training.json``, the classes of its label encoder
        are taken; those that speed perturbation made are one speaker.

    Returns
    -------
    ModelSpeakers or None
        None where the folder does not tell.

    Raises
    ------
    ValueError
        ``training.json`` is damaged.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     labels = "'id1' => 0\\n'id1 at 90 %' => 1\\n================\\n"
    ...     _ = Path(folder, "label_encoder.ckpt").write_text(labels)
    ...     model_speakers(folder).trained
    frozenset({'id1'})
    """
    training = read_training(folder)
    if training is not None:
        return ModelSpeakers(
            frozenset(training["speakers"]), frozenset(training["development_speakers"])
        )
    for name in LABELS:
        if (path := Path(folder, name)).is_file():
            classes = _classes(path)
            return ModelSpeakers(classes, None) if classes else None
    return None


def find_overlaps(
    data: VerificationData,
    model: ModelSpeakers | None,
    decision: Mapping | None = None,
) -> dict:
    """What the lists share with the model and with the calibration list, ready for JSON.

    Arguments
    ---------
    data : VerificationData
    model : ModelSpeakers, optional
        None where it is not known.
    decision : dict, optional
        What is stored with the model, as `hamsb.verification.decision.read_decision`
        returns it. Its ``speakers`` chose the thresholds.

    Returns
    -------
    dict
        ``training_speakers`` and ``development_speakers`` of the model, their numbers,
        None where they are not known. ``lists``: name
        -> ``speakers``, their number (None where the list names none), and the names of
        those who ``trained_the_model``, ``chose_the_model``, ``chose_the_threshold`` and
        are ``in_calibration``, and ``trials_in_calibration``, a number. ``calibration``:
        the first two of it for that list, or None.
    """
    trained = frozenset() if model is None else model.trained
    chose = None if model is None else model.chose
    thresholds = frozenset((decision or {}).get("speakers", ()))
    found: dict = {
        "training_speakers": None if model is None else len(trained),
        "development_speakers": None if chose is None else len(chose),
        "lists": {},
        "calibration": None,
    }
    calibrating: frozenset[str] = frozenset()
    if data.calibration is not None:
        calibrating = _speakers(data.calibration) or frozenset()
        found["calibration"] = {
            "list": data.calibration.name,
            "speakers": len(calibrating),
            "trained_the_model": _shared(calibrating, trained),
        }
    shared = trials_in_calibration(data)
    for trials in data.lists:
        speakers = _speakers(trials)
        own = speakers or frozenset()
        found["lists"][trials.name] = {
            "speakers": None if speakers is None else len(speakers),
            "trained_the_model": _shared(own, trained),
            "chose_the_model": _shared(own, chose or ()),
            "chose_the_threshold": _shared(own, thresholds),
            "in_calibration": _shared(own, calibrating),
            "trials": len(trials),
            "trials_in_calibration": shared.get(trials.name, 0),
        }
    return found


def trials_in_calibration(data: VerificationData) -> dict[str, int]:
    """Name of the list -> how many of its trials compare two recordings that a trial of
    the calibration list compares too, in either order.

    A recording is the same where it is one file, or files of one name and one content.
    """
    if data.calibration is None:
        return {}
    own, other = (
        {name: _identity(path) for name, path in files.items()}
        for files in (data.files, data.calibration_files)
    )
    for name in own.keys() & other.keys():
        if own[name] != other[name] and _is_copy(own[name], other[name]):
            other[name] = own[name]
    calibrating = {frozenset(pair) for pair in _recordings(data.calibration, other)}
    return {
        trials.name: sum(
            frozenset(pair) in calibrating for pair in _recordings(trials, own)
        )
        for trials in data.lists
    }


def overlap_warnings(found: Mapping) -> list[str]:
    """What a reader of the results must know of the overlaps.

    Arguments
    ---------
    found : dict
        From `find_overlaps`.

    Returns
    -------
    list of str
        A sentence or two each.

    Example
    -------
    >>> one = {
    ...     "speakers": 4, "trained_the_model": ["s0", "s1"], "chose_the_model": [],
    ...     "chose_the_threshold": [], "in_calibration": [], "trials_in_calibration": 0,
    ... }
    >>> for warning in overlap_warnings({"lists": {"O": one}, "calibration": None}):
    ...     print(warning)
    O: 2 of its 4 speakers trained this model (s0, s1). These error rates say nothing \
of new speakers. Give a list of speakers who are not in the training data.
    """
    warnings = []
    for name, one in found["lists"].items():
        if one["trained_the_model"]:
            warnings.append(
                f"{name}: {_count(one, 'trained_the_model')} trained this model "
                f"({_few(one['trained_the_model'])}). These error rates say nothing of new "
                "speakers. Give a list of speakers who are not in the training data."
            )
        if one["chose_the_model"]:
            warnings.append(
                f"{name}: {_count(one, 'chose_the_model')} served as development speakers, "
                "who chose the model's epochs and threshold "
                f"({_few(one['chose_the_model'])}). New speakers have more errors."
            )
        elif one["chose_the_threshold"]:
            warnings.append(
                f"{name}: {_count(one, 'chose_the_threshold')} served to choose the stored "
                f"thresholds ({_few(one['chose_the_threshold'])}), which have more errors "
                "on new speakers."
            )
        if one["trials_in_calibration"]:
            warnings.append(
                f"{name}: {one['trials_in_calibration']} of its {one['trials']} trials are "
                f"in the calibration list {found['calibration']['list']} too. Calibrated "
                "on what it is scored on, the list looks better than it is: actDCF, Cllr "
                "and thresholds do not hold for new trials. Calibrate on other speakers."
            )
        elif one["in_calibration"]:
            warnings.append(
                f"{name}: {_count(one, 'in_calibration')} took part in the calibration "
                f"list {found['calibration']['list']} too ({_few(one['in_calibration'])}). "
                "actDCF and Cllr look better than they are. Calibrate on other speakers."
            )
    calibration = found["calibration"]
    if calibration and calibration["trained_the_model"]:
        warnings.append(
            f"calibration list {calibration['list']}: "
            f"{_count(calibration, 'trained_the_model')} trained this model "
            f"({_few(calibration['trained_the_model'])}). Its scores are better than those "
            "of new speakers, so that the calibration and its thresholds do not fit them. "
            "Calibrate on other speakers, as those of a run's save/veri_dev.txt."
        )
    return warnings


def overlap_facts(found: Mapping) -> str:
    """What was looked at, a line of a report's conditions.

    Arguments
    ---------
    found : dict
        From `find_overlaps`.

    Example
    -------
    >>> overlap_facts({"training_speakers": None, "lists": {}})
    'Whether speakers of the lists trained the model is not known: it does not name its \
training speakers'
    """
    if found["training_speakers"] is None:
        return (
            "Whether speakers of the lists trained the model is not known: it does not "
            "name its training speakers"
        )
    parts = []
    for name, one in found["lists"].items():
        if one["speakers"] is None:
            parts.append(f"not known of {name}, whose paths name no speakers")
        else:
            parts.append(f"{len(one['trained_the_model'])} of {one['speakers']} in {name}")
    unknown = "; its development speakers are not known"
    return (
        f"Speakers who trained the model, of the {found['training_speakers']} that it "
        f"names: {'; '.join(parts)}" + unknown * (found["development_speakers"] is None)
    )


def _classes(path: Path) -> frozenset[str]:
    """The speakers among the classes of a label encoder's file of lines
    ``'name' => number``."""
    names = set()
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("===="):
            break
        name, arrow, _ = line.rpartition(" => ")
        try:
            value = ast.literal_eval(name) if arrow else None
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(value, str):
            names.add(re.sub(r" at \d+ %$", "", value))
    return frozenset(names)


def _speakers(trials: Trials) -> frozenset[str] | None:
    """A list's speakers; None where its paths do not name them."""
    try:
        return frozenset(trials.speakers)
    except ValueError:
        return None


def _shared(speakers: Collection[str], others: Collection[str]) -> list[str]:
    return sorted(set(speakers) & set(others))


def _recordings(trials, files):
    """The two files of each trial."""
    return ((files[one], files[other]) for one, other in zip(trials.enrol, trials.test))


def _identity(files: Enrolment) -> tuple:
    """The real files that a name stands for, and which part of each: () for all."""
    return tuple(
        (os.path.realpath(each.wav), each[1:])
        if isinstance(each, Utterance)
        else (os.path.realpath(each), ())
        for each in recordings({"": files})
    )


def _is_copy(one: tuple, other: tuple) -> bool:
    """Whether two names stand for the same parts of files of one content."""
    return [part for _, part in one] == [part for _, part in other] and all(
        filecmp.cmp(a, b, shallow=False) for (a, _), (b, _) in zip(one, other)
    )


def _count(one, key):
    return f"{len(one[key])} of its {one['speakers']} speakers"


def _few(names, most=3):
    """The first of some names, and how many more there are."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
