"""The results of a verification: from systems to tables and files."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from hamsb.utils.files import replacing_files
from hamsb.utils.packages import missing
from hamsb.utils.tables import markdown_table
from hamsb.verification.evaluation import (
    P_TARGETS,
    eer_intervals,
    evaluate_groups,
    evaluate_trials,
)
from hamsb.verification.scoring import write_scores
from hamsb.verification.systems import System
from hamsb.verification.trials import Trials

PICTURES = """![DET](det.png)

Scores of the system `{first}`:

![Scores](scores.png)
"""
MOST_CURVES = 10  # in one plot
PLOTS = ("det.png", "scores.png")


def write_verification(
    folder: str | os.PathLike,
    lists: Sequence[Trials],
    systems: Sequence[System],
    report: Callable[[str, str, str], str],
    groups: Mapping[str, Mapping[tuple[str, str], np.ndarray]] | None = None,
    p_targets: Sequence[float] = P_TARGETS,
    draws: int = 1000,
    about: dict | None = None,
    progress: bool = True,
    threshold: float | None = None,
) -> str:
    """Write scores, numbers, plots and report of one or more systems, all or nothing.

    Arguments
    ---------
    folder : str or Path
    lists : list of Trials
    systems : list of System
        The first one's scores are written, plotted and broken down by groups.
    report : callable
        From the table, that of the groups or "", and the plots, all markdown, to the
        text of report.md.
    groups : dict, optional
        Name of the list -> what `hamsb.verification.groups.trial_groups` returned for it.
    p_targets : sequence of float
        Priors of the detection costs.
    draws : int
        Of the bootstrap that the intervals come from; 0 for none.
    about : dict, optional
        What metrics.json says of all results: settings, versions.
    progress : bool
    threshold : float, optional
        The first system's decision threshold, such as the one that is stored with the
        model; drawn among its scores.

    Returns
    -------
    str
        The table, one line a list and system.
    """
    records: list[dict] = []
    for trials in tqdm(lists, desc="evaluate", disable=not progress):
        records += evaluate_systems(
            trials, systems, (groups or {}).get(trials.name, {}), p_targets
        )
        if draws:
            scores = np.stack([system.scores[trials.name] for system in systems])
            intervals = eer_intervals(trials, scores, draws)
            for record, ends in zip(records[-len(systems) :], intervals):
                record["eer_interval"] = ends
    table = results_table(
        [{**record, "list": title(record, systems)} for record in records]
    )
    grouped = [
        {"list": record["list"], **group}
        for record in records
        if record["system"] == systems[0].name
        for group in record["groups"]
    ]
    why = missing("plots")
    plots = f"No plots: {why}\n" if why else PICTURES.format(first=systems[0].name)
    text = report(table, groups_table(grouped) if grouped else "", plots)
    known = json.dumps(about or {}, default=str)
    known = json.loads(known, parse_constant=str)  # JSON has no .inf
    numbers = json.dumps({**known, "results": records}, indent=2, allow_nan=False)
    with replacing_files(folder) as partial:
        for trials in lists:
            scores = systems[0].scores[trials.name]
            write_scores(partial / f"scores_{trials.name}.txt", trials, scores)
        if not why:
            draw(partial, lists, systems, threshold)
        (partial / "metrics.json").write_text(f"{numbers}\n", encoding="utf-8")
        (partial / "report.md").write_text(text, encoding="utf-8")
    if why:
        for plot in PLOTS:  # of an earlier run
            (Path(folder) / plot).unlink(missing_ok=True)
    return table


def draw(
    folder: Path,
    lists: Sequence[Trials],
    systems: Sequence[System],
    threshold: float | None,
) -> None:
    """Draw PLOTS into a folder; needs the extra ``[plots]``."""
    from hamsb.verification import plots

    first = systems[0]
    distributions = {
        trials.name: (first.scores[trials.name], trials.labels) for trials in lists
    }
    plots.plot_scores(distributions, folder / "scores.png", threshold, first.score_name)
    curves, baselines = det_curves(lists, systems)
    plots.plot_det(curves, folder / "det.png", baselines)


def evaluate_systems(
    trials: Trials,
    systems: Sequence[System],
    groups: Mapping[tuple[str, str], np.ndarray],
    p_targets: Sequence[float],
) -> list[dict]:
    """The numbers of each system on one list, as metrics.json has them."""
    records = []
    for system in systems:
        scores = system.scores[trials.name]
        record = evaluate_trials(trials, scores, p_targets, system.calibrated)
        who = {"system": system.name, **system.facts, "calibrated": system.calibrated}
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
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], list[str]]:
    """What `plot_det` draws: the first systems, as many as a plot can have curves, and
    which of the curves are of baselines."""
    drawn = [system for system in systems if system.drawn]
    drawn = drawn[: max(1, MOST_CURVES // len(lists))]
    curves, baselines = {}, []
    for trials in lists:
        for system in drawn:
            parts = [trials.name] * (len(lists) > 1) + [system.name] * (len(drawn) > 1)
            label = ": ".join(parts) or trials.name
            curves[label] = system.scores[trials.name], trials.labels
            baselines += [label] * system.baseline
    return curves, baselines


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
            prior = key.removeprefix(stem)
            if key == stem or (stem.endswith("_") and _is_number(prior)):
                columns[key] = name.format(prior), form
    return columns


def _is_number(text: str) -> bool:
    try:
        return float(text) > 0
    except ValueError:
        return False
