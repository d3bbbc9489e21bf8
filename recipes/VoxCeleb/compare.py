#!/usr/bin/env python3
"""Train several experiments with several seeds and compare them in one table.

    python recipes/VoxCeleb/compare.py hparams/compare_<name>.yaml [--key=value ...]

The comparison's yaml names the experiments (their yamls, options of their own, the
experiment each is measured against), the options that all of them get, and the
seeds. Every run is one ``train.py``, or the ``script`` beside it that the experiment
names (``train_ssl.py``), in ``output_folder/<experiment>/<seed>``, or in
``folder/<seed>`` where it names another comparison's folder of runs, which then serve
both; an experiment may have ``seeds`` of its own. ``processes`` runs go side by side and
share the cores. A run option on the
command line (``--device=cuda:0``) goes to every run.

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

import csv
import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
import speechbrain
import torch
import yaml
from experiment import only_run, resolve

import hamsb
from hamsb.analysis.plots import plot_curves
from hamsb.utils.command_line import load_hparams, main_or_exit, parse_arguments
from hamsb.utils.files import replacing
from hamsb.verification.bootstrap import bootstrap_eer, interval
from hamsb.verification.metrics import eer, min_dcf
from hamsb.verification.plots import plot_det

TRAIN = Path(__file__).resolve().with_name("train.py")
NEEDED = {
    "output_folder", "processes", "keep_checkpoints", "seeds", "options", "experiments"
}
OF_A_RUN = ("seed", "output_folder")  # not among the options, but those of the search
KEYS = {  # of an experiment
    "hparams", "script", "folder", "seeds", "options", "baseline", "search"
}
DRAWS = 1000  # of the bootstrap
RATES = {"EER %": ".2f", "minDCF(p=0.01)": ".3f", "minDCF(p=0.05)": ".3f"}
ENDS = ("change low %", "change high %")  # of the interval


# --------------------------------------------------------------- the planned runs


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes
    ----------
    experiment : str
    role : str
        ``seed <seed>``, or ``point <number>`` of the search.
    folder : Path
        Its ``output_folder``.
    script : Path
        train.py, or another one beside it.
    arguments : tuple of str
        What the script gets.
    """

    experiment: str
    role: str
    folder: Path
    script: Path
    arguments: tuple

    @property
    def name(self):
        return f"{self.experiment}, {self.role}"

    @property
    def output(self):
        """The file of what it prints."""
        return self.folder / "output.txt"

    @property
    def finished(self):
        """The export is the last thing that a script makes, and appears whole."""
        last = ("run.json", "report.md", "export/hyperparams.yaml")
        return all((self.folder / name).is_file() for name in last)

    def settings(self):
        """Key -> yaml text of all that train.py is given, options resolved.

        A ValueError or FileNotFoundError tells of options that it would refuse.
        """
        hparams_file, run_opts, overrides = parse_arguments(list(self.arguments))
        root = yaml.compose(resolve(hparams_file, overrides))
        given = {name: str(run_opts[name]) for name in run_opts.overridden_args}
        return given | {key.value: _text_of(value) for key, value in root.value}

    def changed(self):
        """How the settings differ from those of an earlier start in the folder: texts.

        Errors as those of `settings`.
        """
        new = self.settings()
        if not (self.folder / "run.json").is_file():
            if (self.folder / "save").exists():
                return ["they are not known (no run.json)"]
            return []
        old = self._memory()["settings"]
        return [
            f"{key} was {_short(old.get(key))}, is {_short(new.get(key))}"
            for key in sorted(old | new)
            if old.get(key) != new.get(key)
        ]

    def remember(self, threads):
        """Write settings and software of a start to ``run.json``."""
        path = self.folder / "run.json"
        starts = self.starts() if path.is_file() else []
        memory = {
            "arguments": list(self.arguments),
            "settings": self.settings(),
            "starts": [*starts, {"time": time.strftime("%F %T"), **software(threads)}],
        }
        with replacing(path) as partial:
            partial.write_text(json.dumps(memory, indent=1), encoding="utf-8")

    def starts(self):
        """Time, software and machine of every start of this run."""
        return self._memory()["starts"]

    def _memory(self):
        return json.loads((self.folder / "run.json").read_text(encoding="utf-8"))


def _text_of(node):
    """A yaml node's text, without its comments."""
    return yaml.serialize(node).removesuffix("...\n").strip()


def _short(text):
    text = "absent" if text is None else " ".join(text.split())
    return text if len(text) <= 60 else f"{text[:57]}..."


class Comparison:
    """The experiments of a comparison's yaml and their runs.

    Arguments
    ---------
    hparams_file : str or Path
        The yaml; the experiments' yamls are looked for beside it.
    hparams : dict
        Its keys.
    given : dict
        Run options of the command line, for every run.
    """

    def __init__(self, hparams_file, hparams, given=None):
        absent = sorted(NEEDED - hparams.keys())
        if absent:
            raise ValueError(f"{hparams_file}: no {', '.join(absent)}: not a comparison.")
        self.yamls = Path(hparams_file).parent
        self.folder = Path(str(hparams["output_folder"]))
        self._seeds = hparams["seeds"]
        self.options = merged(hparams["options"], given or {})
        self.search_options = hparams.get("search_options", {})
        self.experiments = hparams["experiments"]
        self._check(hparams_file)

    def _check(self, hparams_file):
        check_seeds(self._seeds, hparams_file)
        for name, experiment in self.experiments.items():
            where = f"{hparams_file}: experiments[{name}]"
            if not re.fullmatch(r"[\w.+-]+", str(name)):
                raise ValueError(f"{where}: the name is a folder's; letters, digits, _.+-")
            if "hparams" not in experiment or not experiment.keys() <= KEYS:
                raise ValueError(
                    f"{where} has {', '.join(experiment)}; it needs hparams, and may have "
                    f"{', '.join(sorted(KEYS - {'hparams'}))}."
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

    def check_runs(self):
        """ValueError or FileNotFoundError for options that train.py would refuse, and
        for a folder that holds a run with other settings."""
        for name in self.experiments:
            for run in self.search(name) or self.finals(name):
                refuse_changed(run)

    def seeds(self, name):
        """The seeds an experiment is trained with."""
        return self.experiments[name].get("seeds", self._seeds)

    def points(self, name):
        """The options to choose from."""
        return self.experiments[name].get("search") or [{}]

    def search(self, name):
        """The runs of an experiment's search; none where nothing is to be chosen."""
        points = self.points(name)
        if len(points) == 1:
            return []
        return [
            self._run(name, f"point {n}", f"search_{n}", point, self.search_options)
            for n, point in enumerate(points, start=1)
        ]

    def chosen(self, name):
        """Which point the search chose, counted from 0; None while it is not finished."""
        runs = self.search(name)
        if not all(run.finished for run in runs):
            return None
        if not runs:
            return 0
        rates = [development_eer(run.folder) for run in runs]
        if None in rates:
            raise ValueError(f"{runs[0].folder}: no development EER; a search needs one.")
        return int(np.argmin(rates))

    def finals(self, name):
        """The run of each seed; none while the search is not finished."""
        chosen = self.chosen(name)
        if chosen is None:
            return []
        point = self.points(name)[chosen]
        return [
            self._run(name, f"seed {seed}", str(seed), point, {"seed": seed})
            for seed in self.seeds(name)
        ]

    def _run(self, name, role, folder, point, options):
        experiment = self.experiments[name]
        folder = Path(experiment.get("folder", self.folder / name)) / folder
        own = experiment.get("options", {})
        options = merged(self.options, own, options, point, {"output_folder": str(folder)})
        options["noprogressbar"] = True
        arguments = (f"--{key}={option_text(value)}" for key, value in options.items())
        hparams_file = str(self.yamls / experiment["hparams"])
        script = TRAIN.with_name(experiment.get("script", TRAIN.name))
        return Run(name, role, folder, script, (hparams_file, *arguments))


def check_seeds(seeds, where):
    if not isinstance(seeds, list) or not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"{where}: seeds={seeds}: a list of different seeds.")


def merged(*options):
    """Mappings as one; the later win, and nested ones are merged in turn."""
    result = {}
    for mapping in options:
        for key, value in mapping.items():
            both = isinstance(value, dict) and isinstance(result.get(key), dict)
            result[key] = merged(result[key], value) if both else value
    return result


def option_text(value):
    """A value as it stands on a command line: a text as it is, else yaml."""
    if isinstance(value, str):
        return value
    text = yaml.safe_dump(
        value, default_flow_style=True, width=float("inf"), sort_keys=False
    )
    return text.removesuffix("...\n").strip()


def refuse_changed(run):
    changed = run.changed()
    if changed:
        raise ValueError(
            f"{run.folder} holds a run with other settings: {'; '.join(changed)}. Give "
            "those settings or another output_folder, or remove the folder."
        )


def software(threads):
    """What the numbers depend on besides the settings."""
    git = ["git", "-C", str(TRAIN.parent)]
    commit = _said([*git, "rev-parse", "HEAD"])
    if commit and _said([*git, "status", "--porcelain", "--untracked-files=no"]):
        commit += " with changes"
    cpuinfo = Path("/proc/cpuinfo")
    cpu = cpuinfo.read_text(encoding="utf-8") if cpuinfo.exists() else ""
    model = re.search(r"model name\s*: (.+)", cpu)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "hamsb": hamsb.__version__,
        "commit": commit or "not a git checkout",
        "torch": torch.__version__,
        "speechbrain": speechbrain.__version__,
        "python": platform.python_version(),
        "CPU": model[1] if model else platform.processor(),
        "threads of a run": threads,
        **({"GPU": gpu} if gpu else {}),
    }


def _said(command):
    """What a program prints; nothing where it fails or is not there."""
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


# -------------------------------------------------------------------- the training


def train_all(runs, processes, keep_checkpoints=True):
    """Train what is not finished, several at a time.

    Arguments
    ---------
    runs : list of Run
    processes : int
        How many at a time; each gets an equal share of the cores as threads.
    keep_checkpoints : bool
        If not, a finished run's checkpoints are removed; its export stays.

    Returns
    -------
    list of Run
        Those that failed; the end of what they printed has been printed.
    """
    waiting = [run for run in runs if not run.finished]
    threads = max(1, len(os.sched_getaffinity(0)) // processes)
    total, failed, running = len(waiting), [], {}
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                run = waiting.pop(0)
                running[run] = start(run, threads)
                print(f"{run.name}: started; what it prints is in {run.output}", flush=True)
            time.sleep(0.2)
            for run in list(running):
                status = running[run].poll()
                if status is None:
                    continue
                del running[run]
                if status == 0 and not keep_checkpoints:
                    drop_checkpoints(run)
                failed += [run] if status else []
                done = total - len(waiting) - len(running)
                print(f"[{done}/{total}] {run.name}: {outcome(run, status)}", flush=True)
    finally:
        stop(running.values())
    return failed


def drop_checkpoints(run):
    for checkpoint in (run.folder / "save").glob("CKPT*"):
        shutil.rmtree(checkpoint)


def start(run, threads):
    """Start a run's script, its output appended to its file."""
    run.folder.mkdir(parents=True, exist_ok=True)
    run.remember(threads)
    with open(run.output, "ab") as output:
        return subprocess.Popen(
            [sys.executable, str(run.script), *run.arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"},
            start_new_session=True,  # its data loader's processes are stopped with it
        )


def stop(processes, patience=20.0):
    """End processes and their children: politely, then not."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        alive = [process for process in processes if process.poll() is None]
        for process in alive:
            os.killpg(process.pid, sign)
        end = time.monotonic() + patience
        while any(process.poll() is None for process in alive) and time.monotonic() < end:
            time.sleep(0.05)


def outcome(run, status):
    """How a run ended, in a few words, or in those of a failed one."""
    if status:
        output = run.output.read_text(encoding="utf-8", errors="replace").splitlines()
        end = "".join(f"    {line}\n" for line in output[-15:])
        return f"failed with status {status}.\n{end}All of it: {run.output}"
    words = [
        f"{name} EER {100 * eer(scores, labels)[0]:.2f} %"
        for name, (_, labels, scores) in read_scores(run.folder).items()
    ]
    rate = development_eer(run.folder)
    words += [f"development EER {rate:.2f} %"] if rate is not None else []
    return ", ".join([*words, f"{minutes(run.folder):.1f} minutes"])


# ------------------------------------------------------------- what a run left behind


def read_scores(folder):
    """The scores of a run's lists.

    Returns
    -------
    dict
        Name of the list -> trials (list of (enrol, test)), labels [N] and scores [N].
    """
    found = {}
    for path in sorted(folder.glob("scores_*.txt")):
        fields = path.read_text(encoding="utf-8").split()
        trials = list(zip(fields[0::4], fields[1::4]))
        labels, scores = np.array(fields[2::4], int), np.array(fields[3::4], float)
        found[path.stem.removeprefix("scores_")] = trials, labels, scores
    return found


def development_eer(folder):
    """Percent, of the averaged model; None without development speakers."""
    report = (folder / "report.md").read_text(encoding="utf-8")
    found = re.search(r"Development EER: ([\d.]+) %", report)
    return float(found[1]) if found else None


def minutes(folder):
    """Of training, without the verification."""
    report = (folder / "report.md").read_text(encoding="utf-8")
    header, cells = re.search(r"^(\|.*\| minutes \|.*)\n.*\n(.*)$", report, re.M).groups()
    return float(cells.split("|")[header.split("|").index(" minutes ")])


def read_log(folder):
    """The epochs: (train loss [E], development EER in percent [E] or empty)."""
    text = (folder / "train_log.txt").read_text(encoding="utf-8")
    number = r"([-+.\w]+)"
    line = rf"^epoch: (\d+),.* train loss: {number}(?:.*valid EER: {number})?"
    epochs = {}  # one that was interrupted while it was saved is in the log twice
    for epoch, *values in re.findall(line, text, re.M):
        epochs[int(epoch)] = [float(value) for value in values if value]
    columns = list(zip(*(epochs[epoch] for epoch in sorted(epochs))))
    return columns[0], columns[1] if len(columns) > 1 else ()


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

    finished: dict
    missing: list
    differing: list
    lists: dict
    scores: dict


def read_results(comparison):
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


def summarise(comparison, results):
    """The lines of results.csv and of runs.csv; rates are in percent.

    The change of the EER is that of its mean over the seeds that both experiments
    have. Its interval is a bootstrap over the test speakers: each draw of speakers
    gives every run an EER, and the mean over seeds is compared draw by draw.
    """
    table, lines = [], []
    for key, (trials, labels) in results.lists.items():
        runs = [run for run in results.scores if run[0] == key]
        scores = np.stack([results.scores[run] for run in runs])
        sides = ([utterance.split("/")[0] for utterance in side] for side in zip(*trials))
        draws = dict(zip(runs, bootstrap_eer(scores, labels, *sides, DRAWS)))
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
        sides = list(zip(*pairs))
        row |= change(
            [[rates[run]["EER %"] for run in side] for side in sides],
            [[draws[run] for run in side] for side in sides],
        )
    row["hours"] = sum(minutes(run.folder) for run in finished.values()) / 60
    return row


def rates_of(scores, labels):
    return {
        "EER %": 100 * eer(scores, labels)[0],
        "minDCF(p=0.01)": min_dcf(scores, labels, 0.01)[0],
        "minDCF(p=0.05)": min_dcf(scores, labels, 0.05)[0],
    }


def change(rates, draws):
    """Relative change of the mean EER against a baseline, in percent.

    Arguments
    ---------
    rates : [2, S]
        EER of the experiment and of the baseline for each seed.
    draws : [2, S, draws]
        The same for each draw of the bootstrap.

    Returns
    -------
    dict
        The change, None where the baseline has an EER of 0, and the ends of its 95 %
        interval, None where one draw of the baseline has.

    Example
    -------
    >>> change([[1.0, 2.0], [2.0, 4.0]], [[[1.0], [2.0]], [[2.0], [2.0]]])
    {'change %': -50.0, 'change low %': -25.0, 'change high %': -25.0}
    """
    own, others = np.mean(rates, axis=1)
    own_draws, others_draws = np.mean(draws, axis=1)
    ends = (None, None)
    if all(others_draws > 0):
        ends = interval(100 * (own_draws / others_draws - 1))
    mean = float(100 * (own / others - 1)) if others > 0 else None
    return dict(zip(("change %", *ENDS), (mean, *ends)))


def search_table(comparison):
    """The lines of search.csv."""
    lines = []
    for name in comparison.experiments:
        points, chosen = comparison.points(name), comparison.chosen(name)
        for n, run in enumerate(comparison.search(name)):
            lines.append({
                "experiment": name,
                "point": n + 1,
                "options": option_text(points[n]),
                "development EER %": development_eer(run.folder) if run.finished else None,
                "minutes": minutes(run.folder) if run.finished else None,
                "chosen": "yes" if n == chosen else "",
            })
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

Thin: each seed; thick: their mean. DET: the first seed.

{plots}

## Settings

Equal for all: {options}

{experiments}
Hours of training: {hours:.2f}, {search_hours:.2f} of them the search.

{software}
- Command: `compare.py {command}`; that of each run is in its `run.json`.
"""


def write_results(comparison, arguments):
    """Write tables and plots of the finished runs.

    Returns
    -------
    str
        The main table, and what is missing from it.
    """
    folder, results = comparison.folder, read_results(comparison)
    rows, lines = summarise(comparison, results)
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


def main_table(rows):
    """results.csv for people."""
    header = ["experiment", "list", "seeds", *RATES]
    header += ["against", "change of EER %", "95 % interval", "hours"]
    return markdown(header, (
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
    ))


def with_deviation(row, rate, digits):
    deviation = row[f"{rate} deviation"]
    mean = format(row[rate], digits)
    return mean if deviation is None else f"{mean} ± {format(deviation, digits)}"


def number(value, digits):
    return "" if value is None else format(value, digits)


def search_report(comparison, lines):
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
    return SEARCH.format(options=options, table=markdown(header, rows))


def experiment_table(comparison):
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
    return markdown(["experiment", "yaml", "options"], rows)


def software_list(runs):
    """What the runs were made with: each value and, where they differ, how often."""
    found = {}
    for run in runs:
        for key in (start := run.starts()[-1]):
            found.setdefault(key, Counter())[start[key]] += 1
    found.pop("time", None)
    return "\n".join(
        f"- {key}: " + ", ".join(
            f"{value}" if len(counts) == 1 else f"{value} ({count} runs)"
            for value, count in counts.items()
        )
        for key, counts in found.items()
    )


def markdown(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def write_csv(path, rows):
    """Lines of equal keys as csv; a number with six digits."""
    with replacing(path) as partial:
        with open(partial, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0] if rows else [], lineterminator="\n")
            writer.writeheader()
            for row in rows:
                writer.writerow({
                    key: f"{value:.6g}" if isinstance(value, float) else value
                    for key, value in row.items()
                })


def curve_lines(results):
    """The lines of curves.csv."""
    lines = []
    for name, seeds in results.finished.items():
        for seed, run in seeds.items():
            losses, rates = read_log(run.folder)
            lines += [
                {
                    "experiment": name,
                    "seed": seed,
                    "epoch": epoch,
                    "train loss": loss,
                    "development EER %": rate,
                }
                for epoch, (loss, rate) in enumerate(
                    zip(losses, rates or [None] * len(losses)), start=1
                )
            ]
    return lines


def write_plots(folder, results):
    """Learning curves and DET plots; returns their markdown."""
    finished = {name: seeds for name, seeds in results.finished.items() if seeds}
    if not finished:
        return []
    panels = {"development EER (%)": {}, "training loss": {}}
    for name, seeds in finished.items():
        losses, rates = zip(*(read_log(run.folder) for run in seeds.values()))
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


def main(arguments):
    hparams_file, run_opts, overrides = parse_arguments(arguments)
    hparams = load_hparams(hparams_file, overrides)
    given = {name: run_opts[name] for name in run_opts.overridden_args}
    comparison = Comparison(hparams_file, hparams, given)
    processes = hparams["processes"]
    if type(processes) is not int or processes < 0:
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


def train_comparison(comparison, *how):
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
