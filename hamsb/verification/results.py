"""The results of a verification: from systems to tables and files."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from hamsb.utils.files import read_json, replacing_files
from hamsb.utils.packages import missing
from hamsb.utils.progress import progress_bar
from hamsb.utils.tables import markdown_table
from hamsb.verification.decision import FALSE_ALARM
from hamsb.verification.evaluation import (
    P_TARGETS,
    decision_errors,
    eer_intervals,
    evaluate_groups,
    evaluate_trials,
    why_no_intervals,
)
from hamsb.verification.scoring import write_scores
from hamsb.verification.systems import System
from hamsb.verification.trials import Trials, speaker_of

PICTURES = """![DET](det.png)

Scores of the system `{first}`:

![Scores](scores.png)
"""
NO_LISTS = "No trial list was given, so none was scored.\n"
MOST_CURVES = 10  # in one plot
DRAWS = 1000  # of the bootstrap
PLOTS = ("det.png", "scores.png")


def write_verification(
    folder: str | os.PathLike,
    lists: Sequence[Trials],
    systems: Sequence[System],
    report: Callable[[str, str, str], str],
    groups: Mapping[str, Mapping[tuple[str, str], np.ndarray]] | None = None,
    p_targets: Sequence[float] = P_TARGETS,
    draws: int = DRAWS,
    about: dict | None = None,
    progress: bool = True,
    decision: Mapping | None = None,
    warnings: Sequence[str] = (),
) -> str:
    """Write scores, numbers, plots and report of one or more systems, all or nothing.

    Scores and plots that an earlier verification left in the folder, and that this one
    does not make, are removed.

    Arguments
    ---------
    folder : str or Path
    lists : list of Trials
        May be empty; then there are neither scores nor plots, and nothing is evaluated.
    systems : list of System
        The first one's scores are written, plotted and broken down by groups.
    report : callable
        From the results, the table of the groups or "", and the plots or "", all
        markdown, to the text of report.md.
    groups : dict, optional
        Name of the list -> what `hamsb.verification.groups.trial_groups` returned for it.
    p_targets : sequence of float
        Priors of the detection costs.
    draws : int
        Of the bootstrap that the intervals come from; 0 for none. A list whose paths name
        no speakers, or others than its labels, has none, and a warning.
    about : dict, optional
        What metrics.json says of all results: settings, versions.
    progress : bool
    decision : dict, optional
        What is stored with the model, as `hamsb.verification.decision.read_decision`
        returns it: its thresholds are applied to the systems that are ``plain``.
    warnings : sequence of str
        What a reader of the results must know; the report, metrics.json and the returned
        text have it beside the warnings that the numbers themselves give cause for.

    Returns
    -------
    str
        The results, markdown: a table with a line for each list and system, the
        warnings, and the errors at the stored thresholds.
    """
    records: list[dict] = []
    thresholds = (decision or {}).get("thresholds", {})
    for trials in progress_bar(lists, desc="evaluate", shown=progress):
        records += evaluate_systems(
            trials, systems, (groups or {}).get(trials.name, {}), p_targets, thresholds
        )
        why = why_no_intervals(trials) if draws else ""
        warnings = [*warnings, why] if why else warnings
        if draws and not why:
            scores = np.stack([system.scores[trials.name] for system in systems])
            intervals = eer_intervals(trials, scores, draws)
            for record, ends in zip(records[-len(systems) :], intervals):
                record["eer_interval"] = ends
    titled = [{**record, "list": title(record, systems)} for record in records]
    warnings = [*warnings, *results_warnings(titled)]
    parts = [results_table(titled) if lists else NO_LISTS]
    if warnings:
        parts.append("".join(f"- Warning: {warning}\n" for warning in warnings))
    if any("stored_thresholds" in record for record in records):
        parts.append(decisions_section(titled, (decision or {}).get("list")))
    results = "\n".join(parts)
    grouped = [
        {"list": record["list"], **group}
        for record in records
        if record["system"] == systems[0].name
        for group in record["groups"]
    ]
    why = missing("plots")
    plots = ""
    if lists:
        plots = f"No plots: {why}\n" if why else PICTURES.format(first=systems[0].name)
    text = report(results, groups_table(grouped) if grouped else "", plots)
    known = json.dumps(about or {}, default=str)
    known = json.loads(known, parse_constant=str)  # JSON has no .inf
    told = {trials.name: told_speakers(trials) for trials in lists}
    known |= {"told_speakers": told} if any(told.values()) else {}
    numbers = json.dumps(
        {**known, "warnings": warnings, "results": records}, indent=2, allow_nan=False
    )
    earlier = _scored_before(Path(folder))
    with replacing_files(folder) as partial:
        for trials in lists:
            scores = systems[0].scores[trials.name]
            write_scores(partial / score_file(trials.name), trials, scores)
        if lists and not why:
            draw(partial, lists, systems, thresholds.get("eer"))
        (partial / "metrics.json").write_text(f"{numbers}\n", encoding="utf-8")
        (partial / "report.md").write_text(text, encoding="utf-8")
        made = {path.name for path in partial.iterdir()}
    for name in earlier - made:
        (Path(folder) / name).unlink(missing_ok=True)
    return results


def _scored_before(folder: Path) -> set[str]:
    """The files of scores and plots that an earlier verification made in a folder; others
    of such names are somebody's."""
    try:
        results = read_json(folder / "metrics.json")["results"]
        return {*PLOTS, *(score_file(Path(each["list"]).name) for each in results)}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return set()


def told_speakers(trials: Trials) -> dict[str, str]:
    """Utterance -> speaker, of those whose path does not begin with it: so who reads the
    scores knows whose they are."""
    speakers = {name: trials.speaker_of(name) for name in trials.utterances}
    return {name: who for name, who in speakers.items() if who != speaker_of(name)}


def score_file(name: str) -> str:
    """The name of the file with a list's scores."""
    return f"scores_{name}.txt"


def draw(
    folder: Path,
    lists: Sequence[Trials],
    systems: Sequence[System],
    threshold: float | None,
) -> None:
    """Draw PLOTS into a folder; needs the extra ``[plots]``. The threshold is that of
    the systems that are ``plain``."""
    from hamsb.verification import plots

    first = systems[0]
    distributions = {
        trials.name: (first.scores[trials.name], trials.labels) for trials in lists
    }
    own = threshold if first.plain else None
    plots.plot_scores(distributions, folder / "scores.png", own, first.score_name)
    curves, baselines, marked = det_curves(lists, systems)
    marks = {} if threshold is None else dict.fromkeys(marked, threshold)
    plots.plot_det(curves, folder / "det.png", baselines, marks)


def evaluate_systems(
    trials: Trials,
    systems: Sequence[System],
    groups: Mapping[tuple[str, str], np.ndarray],
    p_targets: Sequence[float],
    thresholds: Mapping[str, float],
) -> list[dict]:
    """The numbers of each system on one list, as metrics.json has them."""
    records = []
    for system in systems:
        scores = system.scores[trials.name]
        record = evaluate_trials(trials, scores, p_targets, system.calibrated)
        who = {
            "system": system.name,
            **system.facts,
            "calibrated": system.calibrated,
            "baseline": system.baseline,
        }
        if system.plain and thresholds:
            record["stored_thresholds"] = {
                name: decision_errors(scores, trials.labels, threshold)
                for name, threshold in thresholds.items()
            }
        parts = evaluate_groups(trials, scores, groups, p_targets)
        records.append({"list": trials.name, **who, **record, "groups": parts})
    return records


def title(record: Mapping, systems: Sequence[System]) -> str:
    """How a table names a result: its list and, of several, the system."""
    if sum(not system.calibrated for system in systems) > 1:
        return f"{record['list']}: {record['system']}"
    return record["list"] + ", calibrated" * record["calibrated"]


def det_curves(
    lists: Sequence[Trials], systems: Sequence[System]
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], list[str], list[str]]:
    """What `plot_det` draws: the first systems, as many as a plot can have curves;
    which of the curves are of baselines, and which of systems that are ``plain``."""
    drawn = [system for system in systems if system.drawn]
    drawn = drawn[: max(1, MOST_CURVES // len(lists))]
    curves, baselines, plain = {}, [], []
    for trials in lists:
        for system in drawn:
            parts = [trials.name] * (len(lists) > 1) + [system.name] * (len(drawn) > 1)
            label = ": ".join(parts) or trials.name
            curves[label] = system.scores[trials.name], trials.labels
            baselines += [label] * system.baseline
            plain += [label] * system.plain
    return curves, baselines, plain


def results_warnings(results: Sequence[Mapping]) -> list[str]:
    """What numbers say that a reader may overlook, a sentence or two each.

    Arguments
    ---------
    results : list of dict
        As metrics.json has them; ``list`` is what the result is called. Those of a
        baseline give no warnings.

    Example
    -------
    >>> result = {"list": "O", "eer": 0.1, "act_dcf_0.01": 2.5, "cllr": 0.4}
    >>> for warning in results_warnings([result]):
    ...     print(warning)
    O: actDCF(p=0.01) is 2.500. Above 1, deciding by these likelihood ratios costs more \
than giving every trial the same answer: the calibration does not fit this list. \
Calibrate on more trials, of recordings that are like the list's.
    """
    warnings = []
    for result in results:
        if result.get("baseline"):
            continue
        name = result["list"]
        low, _ = result.get("eer_interval", (result["eer"], 1.0))
        if low > 0.5:
            warnings.append(
                f"{name}: the EER is above 50 %, which is worse than guessing: impostor "
                "trials have the higher scores. Check that label 1 of the list means the "
                "same speaker."
            )
        high = [
            f"{_NUMBERS[stem][0].format(prior)} is {result[key]:.3f}"
            for key in result
            for stem, prior in [_stem(key)]
            if stem in ("act_dcf_", "cllr") and result[key] > 1
        ]
        if high:
            warnings.append(
                f"{name}: {' and '.join(high)}. Above 1, deciding by these likelihood "
                "ratios costs more than giving every trial the same answer: the "
                "calibration does not fit this list. Calibrate on more trials, of "
                "recordings that are like the list's."
            )
        if result.get("calibration", {"scale": 1})["scale"] <= 0:
            warnings.append(
                f"{name}: in the calibration list impostor trials have scores as high as "
                "target trials, so that the calibration says nothing or turns the scores "
                "around. Calibrate on another list."
            )
        if what := _useless(result.get("stored_thresholds", {})):
            warnings.append(
                f"{name}: the model's stored {' and '.join(what)} of this list. Store "
                "thresholds of trials that are like it: verify.py's calibration_file with "
                "store_decision."
            )
    return warnings


def _useless(stored: Mapping[str, Mapping]) -> list[str]:
    """Which of the stored thresholds decide nothing, for a sentence."""
    told = []
    for rate, ends in (
        ("miss_rate", ("rejects", "reject", "every target trial")),
        ("false_alarm_rate", ("accepts", "accept", "every impostor trial")),
    ):
        names = [
            f"`{key}` ({found['threshold']:.3f})"
            for key, found in stored.items()
            # A false alarm rate promises nothing of the target trials.
            if found[rate] == 1 and (rate != "miss_rate" or not key.startswith(FALSE_ALARM))
        ]
        one, more, what = ends
        if names:
            noun, verb = ("threshold", one) if len(names) == 1 else ("thresholds", more)
            told.append(f"{noun} {', '.join(names)} {verb} {what}")
    return told


DECISIONS = """Errors at the thresholds that are stored with the model{source}:

{table}
A trial is accepted where its cosine is at or above the threshold. Misses: target trials
that are rejected; false alarms: impostor trials that are accepted. `eer`, which
`SpeakerRecognition` decides with, was chosen for as many misses as false alarms in
percent; `min_dcf_<p>` for the least cost where a share p of the trials is of one speaker;
`false_alarm_<r>` for a share r of the impostor trials.
"""


def decisions_section(results: Sequence[Mapping], source: str | None = None) -> str:
    """The errors at the thresholds that are stored with a model, markdown.

    Arguments
    ---------
    results : list of dict
        ``list`` is the first cell; ``stored_thresholds``: name -> what
        `hamsb.verification.evaluation.decision_errors` returns. Others are left out.
    source : str, optional
        The name of the list that the thresholds were chosen on.
    """

    def cell(found, errors, rate, key):
        return f"{100 * found[rate]:.2f} ({found[errors]} of {key})"

    header = ["list", "threshold", "cosine", "misses %", "false alarms %"]
    rows = [
        [
            result["list"],
            f"`{name}`",
            f"{found['threshold']:.3f}",
            cell(found, "misses", "miss_rate", result["target_trials"]),
            cell(found, "false_alarms", "false_alarm_rate", result["impostor_trials"]),
        ]
        for result in results
        for name, found in result.get("stored_thresholds", {}).items()
    ]
    where = f", chosen on the list `{source}`" if source else ""
    if source in {result["list"] for result in results}:
        where += ", which is a list below or another of that name"
    return DECISIONS.format(source=where, table=markdown_table(header, rows, left=2))


def results_table(results: Sequence[Mapping]) -> str:
    """A table in GitHub's markdown, one line a result.

    Arguments
    ---------
    results : list of dict
        As ``evaluate_trials`` returns them; all were given the same priors. ``list`` is
        the first cell. With ``eer_interval``, low and high, where the interval is known.

    Returns
    -------
    str
        Ends in a newline. EER in percent, detection costs normalized. A column that no
        result has a number for is left out.

    Example
    -------
    >>> trials = {"list": "vox1_O", "target_trials": 18802, "impostor_trials": 18809}
    >>> numbers = {"eer": 0.0098, "eer_interval": (0.0085, 0.0112), "min_dcf_0.01": 0.1}
    >>> print(results_table([{**trials, **numbers}]), end="")
    | list | target trials | impostor trials | EER % | 95 % interval | minDCF(p=0.01) |
    | --- | ---: | ---: | ---: | ---: | ---: |
    | vox1_O | 18802 | 18809 | 0.980 | 0.85 to 1.12 | 0.100 |
    """
    return _table(results, {"list": "list"})


def groups_table(results: Sequence[Mapping]) -> str:
    """A table in GitHub's markdown, one line a group.

    Arguments
    ---------
    results : list of dict
        As ``evaluate_groups`` returns them, with ``list``.

    Returns
    -------
    str
        Ends in a newline.

    Example
    -------
    >>> group = {"list": "O", "what": "gender", "group": "same", "target_trials": 2}
    >>> print(groups_table([{**group, "impostor_trials": 0}]), end="")
    | list | trials by | group | target trials | impostor trials |
    | --- | --- | --- | ---: | ---: |
    | O | gender | same | 2 | 0 |
    """
    return _table(results, {"list": "list", "what": "trials by", "group": "group"})


# What a table may show of a result, in this order: key -> (name of the column, format).
# A key that ends in _ stands for one with each prior behind it.
_NUMBERS: dict[str, tuple[str, Callable]] = {
    "target_trials": ("target trials", str),
    "impostor_trials": ("impostor trials", str),
    "eer": ("EER %", lambda rate: f"{100 * rate:.3f}"),
    "eer_interval": (
        "95 % interval",
        lambda ends: " to ".join(f"{100 * rate:.2f}" for rate in ends),
    ),
    "min_dcf_": ("minDCF(p={})", "{:.3f}".format),
    "act_dcf_": ("actDCF(p={})", "{:.3f}".format),
    "cllr": ("Cllr", "{:.3f}".format),
    "min_cllr": ("min Cllr", "{:.3f}".format),
}


def _table(results, texts):
    """The columns of text (key -> name), then the numbers that some result has."""
    columns = {key: (name, str) for key, name in texts.items()} | _columns(results)
    rows = (
        [
            None if result.get(key) is None else form(result[key])
            for key, (_, form) in columns.items()
        ]
        for result in results
    )
    return markdown_table([name for name, _ in columns.values()], rows, left=len(texts))


def _columns(results):
    """The columns of numbers that some result has: key -> (name, format)."""
    found = dict.fromkeys(key for result in results for key in result)
    columns = {}
    for stem, (name, form) in _NUMBERS.items():
        for key in found:
            if (of := _stem(key))[0] == stem:
                columns[key] = name.format(of[1]), form
    return columns


def _stem(key):
    """The entry of _NUMBERS that a key belongs to, or None, and its prior."""
    for stem in _NUMBERS:
        prior = key.removeprefix(stem)
        if key == stem or (stem.endswith("_") and prior != key and _is_number(prior)):
            return stem, prior
    return None, ""


def _is_number(text: str) -> bool:
    try:
        return float(text) > 0
    except ValueError:
        return False
