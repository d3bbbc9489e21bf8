#!/usr/bin/env python3
"""Train several experiments with several seeds and compare them in one table.

    python recipes/VoxCeleb/studies/compare.py hparams/studies/compare_<name>.yaml \\
        [--key=value ...]

The study's yaml names the experiments (their yamls, options of their own, the
experiment each is measured against), the options that all of them get, and the
seeds. Every run is one ``train.py``, or the ``script`` beside it that the experiment
names (``train_ssl.py``), in ``output_folder/<experiment>/<seed>``, or in
``folder/<seed>`` where it names another study's folder of runs, which then serve
both; an experiment may have ``seeds`` of its own. ``processes`` runs go side by side and
share the cores. A run option on the command line (``--device=cuda:0``) goes to every run.

An experiment's yaml is looked for beside the study's and in ``hparams/``. Options are
merged as on a command line (`hamsb.utils.hparams.override`). What has a tag is not built
here; a text that begins with ``!`` is yaml, whose ``!ref`` is to the run's keys.

An experiment with a ``search`` is first trained once for each of its points
(options again), with ``search_options``, in ``<experiment>/search_<point>``. The
point with the lowest development EER of the finished, averaged model is the one
its seeds are trained with; of equal points the first. That is the figure of merit
of the test lists, on speakers of the training data, and, unlike the lowest EER of
all epochs, is not itself chosen among noisy numbers. The test lists choose nothing.

Run by run it goes on where it was: what is finished is not repeated, what was
interrupted continues. Each folder remembers its settings in ``run.json``, and a run
with other settings is refused. ``--processes=0`` trains nothing and writes the
table of what is finished, also while another process trains.

In ``output_folder``: ``report.md``, ``results.csv`` (an experiment and list a line),
``runs.csv`` (a run and list), ``search.csv``, ``curves.csv`` and ``curves.png`` (of
the epochs), ``det_<list>.png``.
"""

import re
import shlex
import signal
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from hamsb.analysis.plots import plot_curves
from hamsb.training.study import (
    Run,
    development_eer,
    minutes,
    read_epochs,
    read_scores,
    refuse_changed,
    train_all,
)
from hamsb.utils.command_line import main_or_exit, parse_arguments
from hamsb.utils.files import only_run, replacing
from hamsb.utils.hparams import Key, merged, option_text, read_resolved
from hamsb.utils.tables import markdown_table, write_csv
from hamsb.verification.bootstrap import bootstrap_eer, relative_change
from hamsb.verification.metrics import eer, min_dcf
from hamsb.verification.plots import plot_det

import numpy as np

KEYS = [
    Key("output_folder", "folder", "tables, plots and the runs' folders"),
    Key("processes", "number", "runs side by side, sharing the cores; 0: only the table"),
    Key("keep_checkpoints", "boolean", "of finished runs; their exports stay"),
    Key("seeds", "list of numbers", "each experiment is trained with each of them"),
    Key("options", "mapping", "options of every run"),
    Key("experiments", "mapping", "name: hparams, and what is its own"),
    Key("search_options", "mapping", "options of the runs of a search", optional=True),
]
TRAIN = Path(__file__).resolve().parents[1] / "train.py"
HPARAMS = TRAIN.parents[2] / "hparams"
OF_A_RUN = ("seed", "output_folder")  # not among the options, but those of the search
OF_AN_EXPERIMENT = {
    "hparams", "script", "folder", "seeds", "options", "baseline", "search",
}  # fmt: skip
DRAWS = 1000  # of the bootstrap
RATES = {"EER %": ".2f", "minDCF(p=0.01)": ".3f", "minDCF(p=0.05)": ".3f"}
ENDS = ("change low %", "change high %")  # of the interval


# --------------------------------------------------------------- the planned runs


class Comparison:
    """The experiments of a study's yaml and their runs.

    Arguments
    ---------
    hparams_file : str or Path
        The yaml; the experiments' yamls are looked for beside it and in ``hparams/``.
    hparams : mapping
        Its keys, references resolved and nothing built: `read_resolved`.
    given : dict
        Run options of the command line, for every run.
    """

    def __init__(
        self, hparams_file: str | Path, hparams: Mapping, given: Mapping | None = None
    ) -> None:
        self.yamls = Path(hparams_file).parent
        self.folder = Path(str(hparams["output_folder"]))
        self._seeds = hparams["seeds"]
        self.options = merged(hparams["options"], given or {})
        self.search_options = hparams.get("search_options", {})
        self.experiments = hparams["experiments"]
        self._check(hparams_file)

    def _check(self, hparams_file: str | Path) -> None:
        check_seeds(self._seeds, hparams_file)
        for name, experiment in self.experiments.items():
            where = f"{hparams_file}: experiments[{name}]"
            if not re.fullmatch(r"[\w.+-]+", str(name)):
                raise ValueError(f"{where}: the name is a folder's; letters, digits, _.+-")
            if "hparams" not in experiment or not experiment.keys() <= OF_AN_EXPERIMENT:
                raise ValueError(
                    f"{where} has {', '.join(experiment)}; it needs hparams, and may have "
                    f"{', '.join(sorted(OF_AN_EXPERIMENT - {'hparams'}))}."
                )
            check_seeds(self.seeds(name), where)
            script = experiment.get("script", TRAIN.name)
            if not TRAIN.with_name(script).is_file():
                raise ValueError(f"{where}: script={script}: not beside {TRAIN}.")
            baseline = experiment.get("baseline", "")
            if baseline == name or baseline not in {"", *self.experiments}:
                raise ValueError(
                    f"{where}: baseline={baseline}: one of the other experiments."
                )
            parts = [experiment.get("options", {}), *experiment.get("search", [])]
            for key in OF_A_RUN:
                if any(key in part for part in (self.options, *parts)):
                    raise ValueError(f"{where}: {key} is no option; every run has its own.")

    def check_runs(self) -> None:
        """ValueError or FileNotFoundError for options that train.py would refuse, and
        for a folder that holds a run with other settings."""
        for name in self.experiments:
            for run in self.search(name) or self.finals(name):
                refuse_changed(run)

    def seeds(self, name: str) -> list[int]:
        """The seeds an experiment is trained with."""
        return self.experiments[name].get("seeds", self._seeds)

    def points(self, name: str) -> list[Mapping]:
        """The options to choose from."""
        return self.experiments[name].get("search") or [{}]

    def search(self, name: str) -> list[Run]:
        """The runs of an experiment's search; none where nothing is to be chosen."""
        points = self.points(name)
        if len(points) == 1:
            return []
        return [
            self._run(name, f"point {n}", f"search_{n}", point, self.search_options)
            for n, point in enumerate(points, start=1)
        ]

    def chosen(self, name: str) -> int | None:
        """Which point the search chose, counted from 0; None while it is not finished."""
        runs = self.search(name)
        if not all(run.finished for run in runs):
            return None
        if not runs:
            return 0
        rates = [development_eer(run.folder) for run in runs]
        if None in rates:
            raise ValueError(f"{runs[0].folder}: no development EER; a search needs one.")
        return int(np.argmin(np.array(rates, float)))

    def finals(self, name: str) -> list[Run]:
        """The run of each seed; none while the search is not finished."""
        chosen = self.chosen(name)
        if chosen is None:
            return []
        point = self.points(name)[chosen]
        return [
            self._run(name, f"seed {seed}", str(seed), point, {"seed": seed})
            for seed in self.seeds(name)
        ]

    def _run(
        self, name: str, role: str, folder: str, point: Mapping, options: Mapping
    ) -> Run:
        experiment = self.experiments[name]
        place = Path(experiment.get("folder", self.folder / name)) / folder
        own = experiment.get("options", {})
        of_all = {"output_folder": str(place), "noprogressbar": True}
        options = merged(self.options, own, options, point, of_all)
        arguments = (f"--{key}={option_text(value)}" for key, value in options.items())
        hparams_file = str(self._find(experiment["hparams"]))
        script = TRAIN.with_name(experiment.get("script", TRAIN.name))
        return Run(name, role, place, script, (hparams_file, *arguments))

    def _find(self, hparams_file: str) -> Path:
        """An experiment's yaml: beside the study's, or in hparams/."""
        beside = self.yamls / hparams_file
        return beside if beside.is_file() else HPARAMS / hparams_file


def check_seeds(seeds: object, where: str | Path) -> None:
    if not isinstance(seeds, list) or not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"{where}: seeds={seeds}: a list of different seeds.")


# --------------------------------------------------------------------- the results


@dataclass
class Results:
    """The finished runs of each experiment.

    Attributes
    ----------
    finished : dict
        Experiment -> {seed: Run}.
    missing : list of str
        Names of the runs that are not finished.
    differing : list of str
        Runs whose settings are not those of the yaml any more, and how they differ.
    lists : dict
        Name of the list -> (trials, labels [N]).
    scores : dict
        (list, experiment, seed) -> [N].
    """

    finished: dict[str, dict[int, Run]]
    missing: list[str]
    differing: list[str]
    lists: dict[str, tuple]
    scores: dict[tuple, np.ndarray]


def read_results(comparison: Comparison) -> Results:
    """Read what the finished runs scored; all of them must have scored one list."""
    results = Results({}, [], [], {}, {})
    for name in comparison.experiments:
        search, runs = comparison.search(name), comparison.finals(name)
        results.missing += [run.name for run in (*search, *runs) if not run.finished]
        if not runs:
            results.missing += [f"{name}, seed {seed}" for seed in comparison.seeds(name)]
        results.differing += [
            f"{run.name} ({'; '.join(changed)})"
            for run in (*search, *runs)
            if run.finished and (changed := run.changed())
        ]
        results.finished[name] = {
            seed: run for seed, run in zip(comparison.seeds(name), runs) if run.finished
        }
        for seed, run in results.finished[name].items():
            for key, (trials, labels, scores) in read_scores(run.folder).items():
                first = results.lists.setdefault(key, (trials, labels))
                if first[0] != trials or any(first[1] != labels):
                    raise ValueError(
                        f"{run.folder}: scored another list {key} than the others."
                    )
                results.scores[key, name, seed] = scores
    return results


def summarize(comparison: Comparison, results: Results) -> tuple[list, list]:
    """The lines of results.csv and of runs.csv; rates are in percent.

    The change of the EER is that of its mean over the seeds that both experiments
    have. Its interval is a bootstrap over the test speakers: each draw of speakers
    gives every run an EER, and the mean over seeds is compared draw by draw.
    """
    table: list[dict] = []
    lines: list[dict] = []
    for key, (trials, labels) in results.lists.items():
        runs = [run for run in results.scores if run[0] == key]
        scores = np.stack([results.scores[run] for run in runs])
        enrol, test = ([path.split("/")[0] for path in side] for side in zip(*trials))
        draws = dict(zip(runs, bootstrap_eer(scores, labels, enrol, test, DRAWS)))
        rates = {run: rates_of(results.scores[run], labels) for run in runs}
        for name, experiment in comparison.experiments.items():
            own = [run for run in runs if run[1] == name]
            finished = results.finished[name]
            lines += [run_line(run, rates[run], finished[run[2]]) for run in own]
            if own:
                baseline = experiment.get("baseline", "")
                table.append(table_line(own, baseline, rates, draws, finished))
    return table, lines


def run_line(key, rates, run):
    """A line of runs.csv."""
    return {
        "experiment": run.experiment,
        "list": key[0],
        "seed": key[2],
        **rates,
        "development EER %": development_eer(run.folder),
        "minutes": minutes(run.folder),
    }


def table_line(own, baseline, rates, draws, finished):
    """A line of results.csv.

    Arguments
    ---------
    own : list of (list, experiment, seed)
        The runs of one experiment.
    baseline : str
    rates, draws : dict
        Rates, and EER in each draw of the bootstrap, of every run of the list.
    finished : dict
        Seed -> Run of the experiment.
    """
    row = {"experiment": own[0][1], "list": own[0][0], "seeds": len(own)}
    for rate in RATES:
        values = [rates[run][rate] for run in own]
        row[rate] = np.mean(values)
        row[f"{rate} deviation"] = np.std(values, ddof=1) if len(own) > 1 else None
    row["baseline"] = baseline
    pairs = [(run, (run[0], baseline, run[2])) for run in own]
    pairs = [pair for pair in pairs if pair[1] in rates]
    row |= dict.fromkeys(("change %", *ENDS))
    if pairs:
        mine, theirs = zip(*pairs)
        changes = relative_change(
            [rates[run]["EER %"] for run in mine],
            [rates[run]["EER %"] for run in theirs],
            [draws[run] for run in mine],
            [draws[run] for run in theirs],
        )
        for column, change in zip(("change %", *ENDS), changes):
            row[column] = None if change is None else 100 * change
    row["hours"] = sum(minutes(run.folder) for run in finished.values()) / 60
    return row


def rates_of(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    return {
        "EER %": 100 * eer(scores, labels)[0],
        "minDCF(p=0.01)": min_dcf(scores, labels, 0.01)[0],
        "minDCF(p=0.05)": min_dcf(scores, labels, 0.05)[0],
    }


def search_table(comparison: Comparison) -> list[dict]:
    """The lines of search.csv."""
    lines = []
    for name in comparison.experiments:
        points, chosen = comparison.points(name), comparison.chosen(name)
        for n, run in enumerate(comparison.search(name)):
            lines.append(
                {
                    "experiment": name,
                    "point": n + 1,
                    "options": option_text(points[n]),
                    "development EER %": development_eer(run.folder)
                    if run.finished
                    else None,
                    "minutes": minutes(run.folder) if run.finished else None,
                    "chosen": "yes" if n == chosen else "",
                }
            )
    return lines


# ---------------------------------------------------------------------- the report

SEARCH = """## Search

With the options of all, changed: {options}. The lowest development EER of the averaged
model is chosen, of equal ones the first; the test lists choose nothing.

{table}
"""
TEXT = """# {name}

{table}
Mean over seeds ± standard deviation over seeds. Change: of the mean EER against the
experiment named, over the seeds that both have; its 95 % interval is from {draws} draws
of the test speakers, the same draws for all runs, the mean over seeds taken within a
draw: it does not hold what other seeds would add. Hours: of training, of all seeds.

{missing}{search}## Curves

Lines: the mean over seeds; bands: from the lowest seed to the highest. DET: the first seed.

{plots}

## Settings

Equal for all: {options}

{experiments}
Hours of training: {hours:.2f}, {search_hours:.2f} of them the search.

{software}
- Command: `compare.py {command}`; that of each run is in its `run.json`.
"""


def write_results(comparison: Comparison, arguments: Sequence[str]) -> str:
    """Write tables and plots of the finished runs.

    Returns
    -------
    str
        The main table, and what is missing from it.
    """
    folder, results = comparison.folder, read_results(comparison)
    rows, lines = summarize(comparison, results)
    search = search_table(comparison)
    write_csv(folder / "results.csv", rows)
    write_csv(folder / "runs.csv", lines)
    write_csv(folder / "search.csv", search)
    write_csv(folder / "curves.csv", curve_lines(results))
    plots = write_plots(folder, results)
    table = main_table(rows)
    missing = f"Missing: {'; '.join(results.missing)}.\n\n" if results.missing else ""
    if results.differing:
        missing += f"With other settings: {'; '.join(results.differing)}.\n\n"
    runs = [run for name in comparison.experiments for run in comparison.search(name)]
    searching = sum(minutes(run.folder) for run in runs if run.finished) / 60
    runs += [run for seeds in results.finished.values() for run in seeds.values()]
    text = TEXT.format(
        name=folder.name,
        table=table,
        draws=DRAWS,
        missing=missing,
        search=search_report(comparison, search) if search else "",
        plots="\n\n".join(plots),
        options=f"`{option_text(comparison.options)}`",
        experiments=experiment_table(comparison),
        hours=sum(minutes(run.folder) for run in runs if run.finished) / 60,
        search_hours=searching,
        software=software_list([run for run in runs if run.finished]),
        command=shlex.join(arguments),
    )
    with replacing(folder / "report.md") as partial:
        partial.write_text(text, encoding="utf-8")
    return f"{table}\n{missing}".strip()


def main_table(rows: Iterable[Mapping]) -> str:
    """results.csv for people."""
    header = ["experiment", "list", "seeds", *RATES]
    header += ["against", "change of EER %", "95 % interval", "hours"]
    return markdown_table(
        header,
        (
            [
                row["experiment"],
                row["list"],
                row["seeds"],
                *(with_deviation(row, rate, digits) for rate, digits in RATES.items()),
                row["baseline"],
                number(row["change %"], "+.1f"),
                " to ".join(filter(None, (number(row[end], "+.1f") for end in ENDS))),
                number(row["hours"], ".2f"),
            ]
            for row in rows
        ),
    )


def with_deviation(row: Mapping, rate: str, digits: str) -> str:
    deviation = row[f"{rate} deviation"]
    mean = format(row[rate], digits)
    return mean if deviation is None else f"{mean} ± {format(deviation, digits)}"


def number(value: float | None, digits: str) -> str:
    return "" if value is None else format(value, digits)


def search_report(comparison: Comparison, lines: Iterable[Mapping]) -> str:
    """search.csv for people."""
    header = ["experiment", "options", "development EER %", "chosen"]
    rows = (
        [
            line["experiment"],
            f"`{line['options']}`",
            number(line["development EER %"], ".2f") or "missing",
            line["chosen"],
        ]
        for line in lines
    )
    options = f"`{option_text(comparison.search_options)}`"
    return SEARCH.format(options=options, table=markdown_table(header, rows))


def experiment_table(comparison: Comparison) -> str:
    """Each experiment's yaml and its options."""
    rows = []
    for name, experiment in comparison.experiments.items():
        chosen = comparison.chosen(name)
        cell = "not chosen yet"
        if chosen is not None:
            point = comparison.points(name)[chosen]
            options = merged(experiment.get("options", {}), point)
            cell = f"`{option_text(options)}`" if options else ""
        rows.append([name, experiment["hparams"], cell])
    return markdown_table(["experiment", "yaml", "options"], rows)


def software_list(runs: Iterable[Run]) -> str:
    """What the runs were made with: each value and, where they differ, how often."""
    found: dict[str, Counter] = {}
    for run in runs:
        for key in (start := run.starts()[-1]):
            found.setdefault(key, Counter())[start[key]] += 1
    found.pop("time", None)
    return "\n".join(
        f"- {key}: "
        + ", ".join(
            f"{value}" if len(counts) == 1 else f"{value} ({count} runs)"
            for value, count in counts.items()
        )
        for key, counts in found.items()
    )


def curve_lines(results: Results) -> list[dict]:
    """The lines of curves.csv."""
    lines = []
    for name, seeds in results.finished.items():
        for seed, run in seeds.items():
            epochs = zip_longest(*read_epochs(run.folder))
            for number_of_epoch, (loss, rate) in enumerate(epochs, start=1):
                lines.append(
                    {
                        "experiment": name,
                        "seed": seed,
                        "epoch": number_of_epoch,
                        "train loss": loss,
                        "development EER %": rate,
                    }
                )
    return lines


def write_plots(folder: Path, results: Results) -> list[str]:
    """Learning curves and DET plots; returns their markdown."""
    finished = {name: seeds for name, seeds in results.finished.items() if seeds}
    if not finished:
        return []
    panels: dict[str, dict] = {"development EER (%)": {}, "training loss": {}}
    for name, seeds in finished.items():
        losses, rates = zip(*(read_epochs(run.folder) for run in seeds.values()))
        panels["training loss"][name] = losses
        if rates[0]:
            panels["development EER (%)"][name] = rates
    panels = {label: systems for label, systems in panels.items() if systems}
    plot_curves(panels, folder / "curves.png")
    plots = ["![Learning curves](curves.png)"]
    for key, (_, labels) in results.lists.items():
        curves = {}
        for name, seeds in finished.items():
            seed = next(iter(seeds))
            curves[f"{name}, seed {seed}"] = results.scores[key, name, seed], labels
        plot_det(curves, folder / f"det_{key}.png")
        plots.append(f"![DET of {key}](det_{key}.png)")
    return plots


# ------------------------------------------------------------------------- main


def main(arguments: Sequence[str]) -> None:
    hparams_file, run_opts, overrides = parse_arguments(arguments, KEYS)
    hparams = read_resolved(hparams_file, overrides)
    given = {name: run_opts[name] for name in run_opts.overridden_args}
    comparison = Comparison(hparams_file, hparams, given)
    processes = hparams["processes"]
    if not isinstance(processes, int) or processes < 0:
        raise ValueError(f"processes={processes}: a number of runs side by side; or 0.")
    failed = []
    if processes:
        comparison.check_runs()
        with only_run(comparison.folder):
            failed = train_comparison(comparison, processes, hparams["keep_checkpoints"])
    command = [text for text in arguments if not text.startswith("--processes")]
    print(write_results(comparison, command))
    print(f"\nTables and plots: {comparison.folder / 'report.md'}")
    if failed:
        raise ValueError(
            f"{len(failed)} runs failed: {'; '.join(run.name for run in failed)}. The "
            "same command tries them again."
        )


def train_comparison(comparison: Comparison, *how) -> list[Run]:
    """The searches, then the seeds, all experiments with one seed before the next;
    returns the runs that failed. An experiment whose search failed waits."""
    names = comparison.experiments
    failed = train_all(sum(map(comparison.search, names), []), *how)
    finals = list(map(comparison.finals, names))
    for name, runs in zip(names, finals):
        for run in runs if comparison.search(name) else []:
            refuse_changed(run)
    by_seed = [run for runs in zip_longest(*finals) for run in runs if run]
    return failed + train_all(by_seed, *how)


def interrupt(*_):
    raise KeyboardInterrupt


if __name__ == "__main__":
    for sign in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(sign) is signal.SIG_DFL:  # nohup ignores SIGHUP
            signal.signal(sign, interrupt)
    main_or_exit(main)
