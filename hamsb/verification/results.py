"""The results of a verification: systems to tables and files."""

import json
from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from hamsb.utils.files import replacing_files
from hamsb.verification.evaluation import (
    P_TARGETS,
    eer_intervals,
    evaluate_groups,
    evaluate_trials,
)
from hamsb.verification.plots import plot_det, plot_scores
from hamsb.verification.scoring import write_scores

MOST_CURVES = 10  # in one plot


@dataclass
class System:
    """One way to score, and its scores.

    Attributes
    ----------
    name : str
        For tables and plots.
    scores : dict
        Name of the list -> [N].
    calibrated : bool
        The scores are log-likelihood ratios.
    drawn : bool
        False where its error tradeoff is that of another system.
    facts : dict
        What metrics.json says of it besides.
    """

    name: str
    scores: dict
    calibrated: bool = False
    drawn: bool = True
    facts: dict = field(default_factory=dict)

    def calibrated_by(self, calibration, qualities=None):
        """The log-likelihood ratios of its scores, a System.

        Arguments
        ---------
        calibration : hamsb.verification.calibration.Calibration
            Trained on scores of the same kind.
        qualities : dict, optional
            Name of the list -> quality measures [N, Q], or None.
        """
        return System(
            f"{self.name}, calibrated",
            {
                name: calibration(scores, (qualities or {}).get(name))
                for name, scores in self.scores.items()
            },
            calibrated=True,
            drawn=bool(calibration.quality_weights),  # else the ranks are the same
            facts={**self.facts, "calibration": calibration.to_dict()},
        )


def write_verification(
    folder,
    lists,
    systems,
    report,
    groups=None,
    p_targets=P_TARGETS,
    draws=1000,
    about=None,
    progress=True,
):
    """Write scores, numbers, plots and report of one or more systems, all or nothing.

    Arguments
    ---------
    folder : str or Path
    lists : list of Trials
    systems : list of System
        The first one's scores are written, plotted and broken down by groups.
    report : callable
        From the table, and that of the groups or "", both markdown, to the text of
        report.md.
    groups : dict, optional
        Name of the list -> what ``trial_groups`` returned for it.
    p_targets : sequence of float
        Priors of the detection costs.
    draws : int
        Of the bootstrap that the intervals come from; 0 for none.
    about : dict, optional
        What metrics.json says of all results: settings, versions.
    progress : bool

    Returns
    -------
    str
        The table, one line a list and system.
    """
    records = []
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
    text = report(table, groups_table(grouped) if grouped else "")
    about = json.dumps(about or {}, default=str)
    about = json.loads(about, parse_constant=str)  # JSON has no .inf
    numbers = json.dumps({**about, "results": records}, indent=2, allow_nan=False)
    with replacing_files(folder) as partial:
        distributions = {}
        for trials in lists:
            scores = systems[0].scores[trials.name]
            write_scores(partial / f"scores_{trials.name}.txt", trials, scores)
            distributions[trials.name] = scores, trials.labels
        plot_scores(distributions, partial / "scores.png")
        plot_det(det_curves(lists, systems), partial / "det.png")
        (partial / "metrics.json").write_text(f"{numbers}\n", encoding="utf-8")
        (partial / "report.md").write_text(text, encoding="utf-8")
    return table


def evaluate_systems(trials, systems, groups, p_targets):
    """The numbers of each system on one list, as metrics.json has them."""
    records = []
    for system in systems:
        scores = system.scores[trials.name]
        record = evaluate_trials(trials, scores, p_targets, system.calibrated)
        who = {"system": system.name, **system.facts, "calibrated": system.calibrated}
        parts = evaluate_groups(trials, scores, groups, p_targets)
        records.append({"list": trials.name, **who, **record, "groups": parts})
    return records


def title(record, systems):
    """How a table names a result: its list and, of several, the system."""
    if sum(not system.calibrated for system in systems) > 1:
        return f"{record['list']}: {record['system']}"
    return record["list"] + ", calibrated" * record["calibrated"]


def det_curves(lists, systems):
    """What plot_det draws: the first systems, as many as a plot can have curves."""
    drawn = [system for system in systems if system.drawn]
    drawn = drawn[: max(1, MOST_CURVES // len(lists))]
    curves = {}
    for trials in lists:
        for system in drawn:
            parts = [trials.name] * (len(lists) > 1) + [system.name] * (len(drawn) > 1)
            label = ": ".join(parts) or trials.name
            curves[label] = system.scores[trials.name], trials.labels
    return curves


def results_table(results):
    """A table in GitHub's markdown, one line a result.

    Arguments
    ---------
    results : list of dict
        As ``evaluate_trials`` returns them; all were given the same priors. ``list`` is
        the first cell. With ``eer_interval``, low and high, where the interval is known.

    Returns
    -------
    str
        Ends in a newline. EER in percent, detection costs normalised. A column that no
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
    return _table(results, {"list": ("list", str), **_COUNTS, **_columns(results)})


def groups_table(results):
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
    names = {"list": "list", "what": "trials by", "group": "group"}
    texts = {key: (name, str) for key, name in names.items()}
    return _table(results, {**texts, **_COUNTS, **_columns(results)})


def _percent(digits):
    return lambda rate: f"{100 * rate:.{digits}f}"


_COUNTS = {
    "target_trials": ("target trials", str),
    "impostor_trials": ("impostor trials", str),
}


_RATES = {
    "eer": ("EER %", _percent(3)),
    "eer_interval": ("95 % interval", lambda ends: " to ".join(map(_percent(2), ends))),
    "min_dcf_": ("minDCF(p={})", "{:.3f}".format),
    "act_dcf_": ("actDCF(p={})", "{:.3f}".format),
    "cllr": ("Cllr", "{:.3f}".format),
    "min_cllr": ("min Cllr", "{:.3f}".format),
}


def _columns(results):
    """The columns of numbers that some result has: key -> (name, format)."""
    found = dict.fromkeys(key for result in results for key in result)
    columns = {}
    for stem, (name, form) in _RATES.items():
        for key in found:
            prior = key.removeprefix(stem)
            if key == stem or (stem.endswith("_") and _is_number(prior)):
                columns[key] = name.format(prior), form
    return columns


def _is_number(text):
    try:
        return float(text) > 0
    except ValueError:
        return False


def _table(results, columns):
    left = [form is str and key not in _COUNTS for key, (_, form) in columns.items()]
    lines = [
        [name for name, _ in columns.values()],
        ["---" if is_left else "---:" for is_left in left],
    ]
    for result in results:
        lines.append(
            [
                form(result[key]) if result.get(key) is not None else ""
                for key, (_, form) in columns.items()
            ]
        )
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
