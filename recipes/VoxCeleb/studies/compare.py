#!/usr/bin/env python3
"""Train several experiments with several seeds and compare them in one table.

    python recipes/VoxCeleb/studies/compare.py hparams/studies/compare_<name>.yaml \\
        [--key=value ...]
    python recipes/VoxCeleb/studies/compare.py hparams/studies/compare_mini.yaml

The study's yaml names the experiments (their yamls, options of their own, the
experiment each is measured against), the options that all of them get, and the
seeds. Every run is one ``train.py``, or the ``script`` beside it that the experiment
names (``train_ssl.py``), in ``output_folder/<experiment>/<seed>``, or in
``folder/<seed>`` where it names another study's folder of runs, which then serve
both; an experiment may have ``seeds`` of its own. One that needs the models of others
names these in ``after``, and waits for them. ``processes`` runs go side by side and
share the cores, or have ``OMP_NUM_THREADS`` threads each where that is set. A run option
on the command line (``--device=cuda:0``) goes to every run.

An experiment's yaml is looked for beside the study's and in ``hparams/``, and so is the
``loss_file``, of which an experiment may name a ``loss``: a head and a loss in the place of
its yaml's. Options are merged as on a command line
(`hamsb.utils.yaml_tree.override`): those of all, of the loss, of the experiment. What has
a tag is not built here; a text that begins
with ``!`` is yaml, whose ``!ref`` is to the run's keys.

An experiment with a ``search`` is first trained once for each of its points
(options again), with ``search_options``, in ``<experiment>/search_<point>``. The
point with the lowest development EER of the finished, averaged model is the one
its seeds are trained with; of equal points the first. That is the figure of merit
of the test lists, on speakers of the training data, and, unlike the lowest EER of
all epochs, is not itself chosen among noisy numbers. The test lists choose nothing.
With ``finalists: 4`` only four of the searched experiments are trained with the seeds,
the best by that figure, once all searches are finished. ``--finalists=0`` searches, and
no more. ``--only="[am, ham]"`` trains and tells of these experiments alone; one whose
baseline is left out has none.

Run by run it goes on where it was: what is finished is not repeated, what was
interrupted continues. Each folder remembers its settings in ``starts.json``, and a run
with other settings is refused. ``--processes=0`` trains nothing and writes the
table of what is finished, also while another process trains.

In ``output_folder``: ``report.md``, ``results.csv`` (an experiment and list a line),
``runs.csv`` (a run and list), ``search.csv``, ``curves.csv`` and ``curves.png`` (of
the epochs), ``det_<list>.png``.
"""

from hamsb.utils.help import help_if_asked
from hamsb.utils.keys import Key

KEYS = [
    Key("output_folder", "folder", "tables, plots and the runs' folders"),
    Key("processes", "whole number", "runs side by side; 0: only the table"),
    Key("keep_checkpoints", "boolean", "of finished runs; their exports stay"),
    Key("seeds", "list of numbers", "each experiment is trained with each of them"),
    Key("options", "mapping", "options of every run"),
    Key("experiments", "mapping", "name: hparams, and what is its own"),
    Key("only", "list", "of experiments: the others are left out", optional=True),
    Key("loss_file", "file", "of the losses that experiments name", optional=True),
    Key("finalists", "whole number", "so many of those searched get seeds", optional=True),
    Key("search_options", "mapping", "options of the runs of a search", optional=True),
]

if __name__ == "__main__":
    help_if_asked(__doc__, KEYS)  # before what takes seconds to import

import shlex
import signal
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

from hamsb.analysis.plots import plot_curves
from hamsb.training.comparison import (
    DRAWS,
    ENDS,
    RATES,
    Comparison,
    Results,
    read_results,
    search_table,
    summarize,
    train_comparison,
)
from hamsb.training.study import Run, minutes, read_curves
from hamsb.utils.command_line import main_or_exit, parse_arguments
from hamsb.utils.files import only_run, replacing
from hamsb.utils.hparams import read_resolved
from hamsb.utils.run_folder import check_script, write_run
from hamsb.utils.tables import markdown_table, write_csv
from hamsb.utils.yaml_tree import merged, option_text
from hamsb.verification.plots import plot_det

SCRIPT = "compare.py"
TRAIN = Path(__file__).resolve().parents[1] / "train.py"
HPARAMS = TRAIN.parents[2] / "hparams"


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
- Command: `compare.py {command}`; that of each run is in its `starts.json`.
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
        differing = "".join(f"- {each}\n" for each in results.differing)
        missing += f"With other settings:\n\n{differing}\n"
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
            options = merged(comparison.own_options(name), point)
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
            epochs = zip_longest(*read_curves(run.folder))
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
        losses, rates = zip(*(read_curves(run.folder) for run in seeds.values()))
        panels["training loss"][name] = losses
        if rates[0]:
            panels["development EER (%)"][name] = rates
    panels = {label: systems for label, systems in panels.items() if systems}
    plot_curves(panels, folder / "curves.png")
    plots = ["![Learning curves](curves.png)"]
    for key, (_, labels) in results.lists.items():
        curves = {}
        for name, seeds in finished.items():
            scored = [seed for seed in seeds if (key, name, seed) in results.scores]
            for seed in scored[:1]:
                curves[f"{name}, seed {seed}"] = results.scores[key, name, seed], labels
        plot_det(curves, folder / f"det_{key}.png")
        plots.append(f"![DET of {key}](det_{key}.png)")
    return plots


# ------------------------------------------------------------------------- main


def main(arguments: Sequence[str]) -> None:
    hparams_file, run_opts, overrides = parse_arguments(arguments, KEYS, "compare.py")
    hparams = read_resolved(hparams_file, overrides)
    given = {name: run_opts[name] for name in run_opts.overridden_args}
    comparison = Comparison(hparams_file, hparams, TRAIN, HPARAMS, given)
    processes = hparams["processes"]
    if not isinstance(processes, int) or processes < 0:
        raise ValueError(f"processes={processes}: a number of runs side by side; or 0.")
    check_script(comparison.folder, SCRIPT)
    failed = []
    if processes:
        comparison.check_runs()
        with only_run(comparison.folder):
            failed = train_comparison(comparison, processes, hparams["keep_checkpoints"])
    write_run(comparison.folder, {"script": SCRIPT})
    command = [text for text in arguments if not text.startswith("--processes")]
    print(write_results(comparison, command))
    print(f"\nTables and plots: {comparison.folder / 'report.md'}")
    if failed:
        raise ValueError(
            f"{len(failed)} runs failed: {'; '.join(run.name for run in failed)}. The "
            "same command tries them again."
        )


def interrupt(*_):
    raise KeyboardInterrupt


if __name__ == "__main__":
    for sign in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(sign) is signal.SIG_DFL:  # nohup ignores SIGHUP
            signal.signal(sign, interrupt)
    main_or_exit(main)
