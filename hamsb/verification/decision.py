"""Where a model decides: thresholds and calibration, stored beside it."""

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hamsb.utils.files import digest, read_json, replacing
from hamsb.verification.arrays import finite_array
from hamsb.verification.calibration import Calibration
from hamsb.verification.evaluation import P_TARGETS, evaluate_trials
from hamsb.verification.metrics import det_curve
from hamsb.verification.trials import Trials

DECISION = "decision.json"
_BY = "stored_by"  # in a decision that is not the training's
_WEIGHTS = (".ckpt", ".pt", ".pth", ".bin", ".safetensors")
FALSE_ALARM = "false_alarm_"  # and a share of the impostor trials, in a threshold's name
FALSE_ALARM_RATES = 0.1, 0.01, 0.001
LEAST_FALSE_ALARMS = 2  # among the trials, of a threshold that is stored


def make_decision(
    trials: Trials, scores: ArrayLike, p_targets: Sequence[float] = P_TARGETS
) -> dict:
    """What is stored with an exported model: where to accept, and the calibration.

    Arguments
    ---------
    trials : Trials
        Of speakers who neither trained the model nor are in a test list.
    scores : array
        [N], the cosines of the model's embeddings as they are.
    p_targets : sequence of float
        Priors of the least detection costs.

    Returns
    -------
    dict
        For `write_decision`: a threshold for the EER; one for each prior, but where
        nothing is better than to reject every trial; those that a tenth, a hundredth and a
        thousandth of the impostor trials reach, where these are two trials at least and
        not more of them have the highest score; the list's speakers, where its paths name
        them.

    Example
    -------
    >>> import numpy as np
    >>> enrol, test = ("1/a", "1/b", "1/a", "1/b"), ("1/c", "1/d", "2/a", "2/b")
    >>> trials = Trials(np.array([1, 1, 0, 0]), enrol, test, Path("veri_dev.txt"))
    >>> make_decision(trials, [0.75, 0.5, 0.25, 0.0], [0.01])["thresholds"]
    {'eer': 0.375, 'min_dcf_0.01': 0.375}
    """
    result = evaluate_trials(trials, scores, p_targets)
    try:
        speakers = {"speakers": [*trials.speakers]}
    except ValueError:  # none in the paths
        speakers = {}
    thresholds = {
        "eer": result["eer_threshold"],
        **{f"min_dcf_{p}": result[f"min_dcf_threshold_{p}"] for p in p_targets},
    }
    curve = det_curve(scores, trials.labels)
    for rate in FALSE_ALARM_RATES:
        if rate * result["impostor_trials"] >= LEAST_FALSE_ALARMS:
            thresholds[f"{FALSE_ALARM}{rate}"] = curve.at_false_alarms(rate)
    return {
        "scores": "cosine of two embeddings; a pair is accepted at or above a threshold",
        "list": trials.name,
        "target_trials": result["target_trials"],
        "impostor_trials": result["impostor_trials"],
        **speakers,
        "eer": result["eer"],
        "thresholds": {
            name: value
            for name, value in thresholds.items()
            if value is not None and math.isfinite(value)
        },
        "calibration": Calibration.fit(scores, trials.labels).to_dict(),
    }


def stored_elsewhere(folder: str | os.PathLike) -> dict | None:
    """The decision with an exported model that is not its training's: `write_decision` was
    told by which script it is. None where there is none.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_decision(folder, {"thresholds": {"eer": 0.31}}, by="verify.py")
    ...     stored_elsewhere(folder)["thresholds"]
    {'eer': 0.31}
    """
    try:
        decision = read_decision(folder)
    except ValueError:  # damaged: to be written anew
        return None
    return decision if decision is not None and _BY in decision else None


def false_alarm_threshold(decision: Mapping, rate: float) -> float | None:
    """The cosine that a share of the impostor trials reaches.

    Between the stored rates the rate's logarithm is taken as linear in the cosine, and
    beyond them as going on like that.

    Arguments
    ---------
    decision : dict
        As `make_decision` returns it.
    rate : float
        > 0.

    Returns
    -------
    float or None
        None where fewer than two rates are stored.

    Example
    -------
    >>> stored = {"thresholds": {"false_alarm_0.1": 0.4, "false_alarm_0.01": 0.6}}
    >>> [round(false_alarm_threshold(stored, rate), 6) for rate in (0.1, 0.01, 0.001)]
    [0.4, 0.6, 0.8]
    """
    stored = sorted(
        (math.log(float(name.removeprefix(FALSE_ALARM))), value)
        for name, value in decision["thresholds"].items()
        if name.startswith(FALSE_ALARM)
    )
    if len(stored) < 2:
        return None
    rates, cosines = zip(*stored)
    right = int(np.clip(np.searchsorted(rates, math.log(rate)), 1, len(rates) - 1))
    slope = (cosines[right] - cosines[right - 1]) / (rates[right] - rates[right - 1])
    return cosines[right] + slope * (math.log(rate) - rates[right])


def write_decision(
    folder: str | os.PathLike, decision: Mapping, by: str | None = None
) -> None:
    """Store with an exported model where to decide; an earlier one is replaced.

    Arguments
    ---------
    folder : str or Path
        The exported model's.
    decision : dict
        Ready for JSON. ``thresholds``: name -> the least cosine that is accepted, ``eer``
        among them; ``calibration``: `Calibration.to_dict` of the cosines, or None;
        whatever else tells where they come from.
    by : str, optional
        The script, where it is not the model's training: see `stored_elsewhere`.

    Raises
    ------
    ValueError
        No thresholds, or a number that is not finite.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_decision(folder, {"thresholds": {"eer": 0.31}, "list": "veri_dev"})
    ...     read_decision(folder)
    {'thresholds': {'eer': 0.31}, 'list': 'veri_dev'}
    """
    _write(Path(folder) / DECISION, decision if by is None else {**decision, _BY: by})


def write_own_decision(path: str | os.PathLike, decision: Mapping, model: str) -> None:
    """Store where to decide in a file of its own, beside a model and not in it.

    Arguments
    ---------
    path : str or Path
        The file; an earlier one is replaced.
    decision : dict
        As for `write_decision`.
    model : str
        The `fingerprint` of the model that the decision is for.

    Raises
    ------
    ValueError
        As `write_decision`.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_own_decision(f"{folder}/calls.json", {"thresholds": {"eer": 0.31}}, "0a")
    ...     read_own_decision(f"{folder}/calls.json", "0a")["thresholds"]
    {'eer': 0.31}
    """
    _write(Path(path), {"model": model, **decision})


def read_own_decision(path: str | os.PathLike, model: str) -> dict:
    """What `write_own_decision` stored.

    Arguments
    ---------
    path : str or Path
    model : str
        The `fingerprint` of the model that is to decide with it.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        It is damaged or another kind of file, or of another model.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"decision={path}: no such file; hamsb threshold MODEL TRIALS DATA makes one."
        )
    try:
        decision = read_json(path)
        _check_decision(decision)
    except ValueError as error:
        raise ValueError(
            f"decision={path}: no decision, or damaged ({error}); make it again with hamsb "
            "threshold."
        ) from error
    theirs = decision.get("model")
    if not isinstance(theirs, str):
        raise ValueError(
            f"decision={path}: does not say of which model it is; make one with hamsb "
            "threshold."
        )
    _check_model(f"decision={path}", theirs, model)
    return decision


def check_own_decision(decision: Any, model: str) -> None:
    """ValueError where what is in memory is no decision, or another model's.

    Arguments
    ---------
    decision : dict
        What `read_own_decision` returns, or, where it does not say whose it is, this
        model's.
    model : str
        The `fingerprint` of the model that is to decide with it.

    Example
    -------
    >>> check_own_decision({"thresholds": {"eer": 0.31}}, "0a")
    """
    try:
        _check_decision(decision)
    except ValueError as error:
        raise ValueError(f"decision={decision}: no decision ({error}).") from error
    _check_model("decision", decision.get("model", model), model)


def _check_model(name: str, theirs: object, model: str) -> None:
    if theirs != model:
        raise ValueError(
            f"{name}: of another model ({str(theirs)[:12]}), and thresholds mean "
            f"nothing to this one ({model[:12]}). Give that model, or make a decision for "
            "this one with hamsb threshold."
        )


def _write(path: Path, decision: Mapping) -> None:
    if "eer" not in decision.get("thresholds", {}):
        raise ValueError(f"{decision}: a decision needs thresholds, 'eer' among them")
    try:
        text = json.dumps(decision, indent=2, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"{error}: {decision}") from error
    with replacing(path) as partial:
        partial.write_text(f"{text}\n", encoding="utf-8")


def read_decision(folder: str | os.PathLike) -> dict | None:
    """What `write_decision` stored with an exported model; None where it did not.

    ValueError where the file is damaged.
    """
    path = Path(folder) / DECISION
    if not path.is_file():
        return None
    try:
        decision = read_json(path)
        _check_decision(decision)
    except ValueError as error:
        raise ValueError(
            f"{path}: damaged ({error}); export the model again, or store a decision with "
            "verify.py's calibration_file and store_decision."
        ) from error
    return decision


def _check_decision(decision: object) -> None:
    """ValueError where it is not what `write_decision` writes."""
    if not isinstance(decision, dict):
        raise ValueError("no mapping")
    thresholds = decision.get("thresholds")
    if not isinstance(thresholds, dict) or "eer" not in thresholds:
        raise ValueError("no thresholds, 'eer' among them")
    for name, value in thresholds.items():
        finite_array(value, f"threshold {name!r}", dimensions=(0,))
        if name.startswith(FALSE_ALARM) and not _is_rate(name.removeprefix(FALSE_ALARM)):
            raise ValueError(f"threshold {name!r} names no rate")
    if (calibration := decision.get("calibration")) is not None:
        if not isinstance(calibration, dict):
            raise ValueError("calibration is no mapping")
        Calibration.from_dict(calibration)
    for key in ("eer", "target_trials", "impostor_trials"):
        if key in decision:
            finite_array(decision[key], key, dimensions=(0,))
    speakers = decision.get("speakers", [])
    if not isinstance(speakers, list) or not all(isinstance(s, str) for s in speakers):
        raise ValueError("speakers is no list of names")


def _is_rate(text: str) -> bool:
    try:
        return 0 < float(text) < 1
    except ValueError:
        return False


def fingerprint(folder: str | os.PathLike) -> str:
    """What tells an exported model from any other: a digest of its yamls and parameters.

    Arguments
    ---------
    folder : str or Path
        Its ``*.yaml`` count, and all parameters in it and below: ``*.ckpt``, and the
        endings of other libraries that a yaml's ``paths`` may name. Other files do not,
        nor does where it is.

    Returns
    -------
    str
        64 hexadecimal digits.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "embedding.yaml").write_text("{}")
    ...     before = fingerprint(folder)
    ...     _ = Path(folder, "embedding_model.ckpt").write_bytes(b"0")
    ...     fingerprint(folder) == before
    False
    """
    found = [*Path(folder).glob("*.yaml")]
    found += [path for path in Path(folder).rglob("*") if path.suffix in _WEIGHTS]
    names = {path.relative_to(folder).as_posix(): path for path in found if path.is_file()}
    whole = hashlib.sha256()
    for name, path in sorted(names.items()):
        whole.update(f"{name} {digest(path)}\n".encode())
    return whole.hexdigest()
