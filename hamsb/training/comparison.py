"""A comparison of experiments: which runs it has, and what came out of them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
from ruamel.yaml.comments import CommentedMap

from hamsb.training.study import (
    Run,
    development_eer,
    minutes,
    read_all_scores,
    read_told_speakers,
    refuse_changed,
    train_all,
)
from hamsb.utils.checks import check_list, check_mapping, check_whole
from hamsb.utils.yaml_tree import merged, option_text, read_yaml
from hamsb.verification.bootstrap import bootstrap_eer, relative_change
from hamsb.verification.metrics import eer, min_dcf
from hamsb.verification.trials import speaker_of

OF_A_RUN = ("seed", "output_folder")  # not among the options, but those of the search
OF_AN_EXPERIMENT = {
    "hparams", "script", "folder", "seeds", "loss", "options", "baseline", "search",
    "after",
}  # fmt: skip
DRAWS = 1000  # of the bootstrap
RATES = {"EER %": ".2f", "minDCF(p=0.01)": ".3f", "minDCF(p=0.05)": ".3f"}
ENDS = ("change low %", "change high %")  # of the interval


class Comparison:
    """The experiments of a study's yaml and their runs.

    Arguments
    ---------
    hparams_file : str or Path
        The yaml; the experiments' yamls are looked for beside it and in ``yamls``.
    hparams : mapping
        Its keys, references resolved and nothing built: `read_resolved`.
    train : Path
        The training script; an experiment's own is beside it.
    yamls : Path
        The folder of the yamls.
    given : dict
        Run options of the command line, for every run.
    """

    def __init__(
        self,
        hparams_file: str | Path,
        hparams: Mapping,
        train: Path,
        yamls: Path,
        given: Mapping | None = None,
    ) -> None:
        self.beside, self.yamls, self.train = Path(hparams_file).parent, yamls, train
        self.folder = Path(str(hparams["output_folder"]))
        self._seeds = hparams["seeds"]
        self.finalists = hparams.get("finalists")
        self.options = merged(hparams["options"], given or {})
        self.search_options = hparams.get("search_options") or {}
        self.experiments = _those_of(hparams["experiments"], hparams.get("only"))
        file = hparams.get("loss_file")
        self.losses = {} if file is None else read_yaml(self._find(str(file)))
        self._check(hparams_file)

    def _check(self, hparams_file: str | Path) -> None:
        check_seeds(self._seeds, hparams_file)
        if self.finalists is not None:
            check_whole("finalists", self.finalists, 0)
        for name, experiment in self.experiments.items():
            where = f"{hparams_file}: experiments[{name}]"
            if not isinstance(name, str) or not re.fullmatch(r"[\w.+-]+", name):
                raise ValueError(
                    f"{where}: the name is a folder's, a text of letters, digits, _.+-"
                )
            check_mapping(where, experiment)
            if "hparams" not in experiment or not experiment.keys() <= OF_AN_EXPERIMENT:
                raise ValueError(
                    f"{where} has {', '.join(experiment)}; it needs hparams, and may have "
                    f"{', '.join(sorted(OF_AN_EXPERIMENT - {'hparams'}))}."
                )
            check_seeds(self.seeds(name), where)
            script = experiment.get("script", self.train.name)
            if not self.train.with_name(script).is_file():
                raise ValueError(f"{where}: script={script}: not beside {self.train}.")
            baseline = experiment.get("baseline", "")
            if baseline == name or baseline not in ["", *self.experiments]:
                raise ValueError(
                    f"{where}: baseline={baseline}: one of the other experiments."
                )
            after = experiment.get("after", [])
            others = [*self.experiments]
            if not isinstance(after, list) or any(each not in others for each in after):
                raise ValueError(f"{where}: after={after}: a list of other experiments.")
            if (loss := experiment.get("loss")) is not None and loss not in self.losses:
                raise ValueError(
                    f"{where}: loss={loss}: must be one of the loss_file's, "
                    f"{', '.join(self.losses) or 'of which there is none'}."
                )
            search = experiment.get("search", [])
            check_list(f"{where}: search", search, "list, of options to choose from")
            parts = [experiment.get("options", {}), *search]
            for part in parts:
                check_mapping(f"{where}: options", part)
            for key in OF_A_RUN:
                if any(key in part for part in (self.options, *parts)):
                    raise ValueError(f"{where}: {key} is no option; every run has its own.")
        if left := {*self.experiments} - set(sum(self.waves(), [])):
            raise ValueError(
                f"{hparams_file}: experiments: {', '.join(sorted(left))} wait for one "
                "another; see their after."
            )
        if self.finalists is not None:
            self._check_searches_first(hparams_file)

    def _check_searches_first(self, hparams_file: str | Path) -> None:
        """ValueError where a search would wait for the seeds of another experiment, which
        with ``finalists`` wait for all searches."""
        waves = self.waves()
        for name in sum(waves[1:], []):
            if len(self.points(name)) > 1:
                raise ValueError(
                    f"{hparams_file}: experiments[{name}]: search and after: with "
                    f"finalists={self.finalists} the seeds it waits for come after all "
                    "searches; give finalists null, or search it in a study of its own."
                )

    def waves(self) -> list[list[str]]:
        """The experiments in the order of training: a wave of those that wait for nothing,
        then one of those that are ``after`` experiments of it, and so on."""
        waves: list[list[str]] = []
        left = list(self.experiments)
        while left:
            wave = [name for name in left if not {*self.after(name)} & {*left}]
            if not wave:
                break
            waves.append(wave)
            left = [name for name in left if name not in wave]
        return waves

    def after(self, name: str) -> list[str]:
        """The experiments whose finished models an experiment needs."""
        return self.experiments[name].get("after", [])

    def is_finished(self, name: str) -> bool:
        """Whether the runs of all of an experiment's seeds are."""
        runs = self.finals(name)
        return bool(runs) and all(run.finished for run in runs)

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

    def own_options(self, name: str) -> CommentedMap:
        """What an experiment has beside the options of all and its points: those of its
        loss, and its own."""
        experiment = self.experiments[name]
        loss = self.losses.get(experiment.get("loss"), {})
        return merged(loss, experiment.get("options", {}))

    def search(self, name: str) -> list[Run]:
        """The runs of an experiment's search; none where nothing is to be chosen."""
        points = self.points(name)
        if len(points) == 1:
            return []
        return [
            self._run(name, f"point {n + 1}", f"search_{n + 1}", n, self.search_options)
            for n in range(len(points))
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

    def goes_on(self, name: str) -> bool:
        """Whether an experiment is trained with its seeds: with ``finalists``, of those
        with a search so many that have the lowest development EER, once all searches are
        finished. 0: none is, and no other experiment either."""
        if self.finalists is None:
            return True
        searches = {each: self.search(each) for each in self.experiments}
        if not self.finalists or not searches[name]:
            return self.finalists > 0
        rates: dict[str, float] = {}
        for each, runs in searches.items():
            chosen = self.chosen(each)
            if chosen is None:
                return False
            if runs:
                rates[each] = float(development_eer(runs[chosen].folder) or 0)
        return name in sorted(rates, key=lambda each: rates[each])[: self.finalists]

    def finals(self, name: str) -> list[Run]:
        """The run of each seed; none while the search is not finished, nor where the
        experiment is no finalist."""
        chosen = self.chosen(name)
        if chosen is None or not self.goes_on(name):
            return []
        return [
            self._run(name, f"seed {seed}", str(seed), chosen, {"seed": seed})
            for seed in self.seeds(name)
        ]

    def _run(self, name: str, role: str, folder: str, point: int, options: Mapping) -> Run:
        experiment = self.experiments[name]
        place = Path(experiment.get("folder", self.folder / name)) / folder
        own, chosen = self.own_options(name), self.points(name)[point]
        of_all = {"output_folder": str(place), "noprogressbar": True}
        options = merged(self.options, own, options, chosen, of_all)
        arguments = (f"--{key}={option_text(value)}" for key, value in options.items())
        hparams_file = str(self._find(experiment["hparams"]))
        script = self.train.with_name(experiment.get("script", self.train.name))
        return Run(name, role, place, script, (hparams_file, *arguments))

    def _find(self, hparams_file: str) -> Path:
        """An experiment's yaml: beside the study's, or in the folder of the yamls."""
        beside = self.beside / hparams_file
        return beside if beside.is_file() else self.yamls / hparams_file


def _those_of(experiments: Mapping, only: Sequence[str] | None) -> Mapping:
    """The experiments that ``only`` names, or all; one whose baseline is not among them
    has none."""
    if only is None:
        return experiments
    unknown = [str(name) for name in only if name not in [*experiments]]
    if unknown or not only:
        raise ValueError(
            f"only={only}: must be some of the experiments, which are "
            f"{', '.join(map(str, experiments))}."
        )
    kept = {name: each for name, each in experiments.items() if name in only}
    left_out = [name for name in experiments if name not in kept]
    for name, each in kept.items():
        if isinstance(each, Mapping) and each.get("baseline") in left_out:
            kept[name] = {k: v for k, v in each.items() if k != "baseline"}
    return kept


def check_seeds(seeds: object, where: str | Path) -> None:
    """ValueError where they are no list of different seeds."""
    good = isinstance(seeds, list) and all(
        isinstance(seed, int) and not isinstance(seed, bool) for seed in seeds
    )
    if not good or not seeds or len(set(seeds)) < len(seeds):  # type: ignore
        raise ValueError(f"{where}: seeds={seeds}: a list of different whole numbers.")


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
    speakers : dict
        Name of the list -> utterance -> speaker, where its path does not begin with that.
    """

    finished: dict[str, dict[int, Run]]
    missing: list[str]
    differing: list[str]
    lists: dict[str, tuple]
    scores: dict[tuple, np.ndarray]
    speakers: dict[str, dict[str, str]]


def read_results(comparison: Comparison) -> Results:
    """Read what the finished runs scored; all of them must have scored one list."""
    results = Results({}, [], [], {}, {}, {})
    for name in comparison.experiments:
        search, runs = comparison.search(name), comparison.finals(name)
        results.missing += [run.name for run in (*search, *runs) if not run.finished]
        if not runs and comparison.goes_on(name):
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
            results.speakers |= read_told_speakers(run.folder)
            for key, (trials, labels, scores) in read_all_scores(run.folder).items():
                first = results.lists.setdefault(key, (trials, labels))
                check_same_list(run.folder, key, first, trials, labels)
                results.scores[key, name, seed] = scores
    return results


def summarize(comparison: Comparison, results: Results) -> tuple[list, list]:
    """The lines of results.csv and of runs.csv; rates are in percent.

    The change of the EER is that of its mean over the seeds that both experiments
    have. Its interval is a bootstrap over the test speakers: each draw of speakers
    gives every run an EER, and the mean over seeds is compared draw by draw. There is none
    where labels contradict the speakers.
    """
    table: list[dict] = []
    lines: list[dict] = []
    for key, (trials, labels) in results.lists.items():
        runs = [run for run in results.scores if run[0] == key]
        scores = np.stack([results.scores[run] for run in runs])
        told = results.speakers.get(key, {})
        drawn = draw_speakers(scores, trials, labels, told, DRAWS)
        draws = dict(zip(runs, np.zeros((len(runs), 1)) if drawn is None else drawn))
        rates = {run: rates_of(results.scores[run], labels) for run in runs}
        for name, experiment in comparison.experiments.items():
            own = [run for run in runs if run[1] == name]
            finished = results.finished[name]
            lines += [run_line(run, rates[run], finished[run[2]]) for run in own]
            if own:
                baseline = experiment.get("baseline", "")
                table.append(table_line(own, baseline, rates, draws, finished))
    return table, lines


def draw_speakers(
    scores: np.ndarray,
    trials: Sequence[tuple[str, str]],
    labels: np.ndarray,
    told: Mapping[str, str],
    draws: int,
    seed: int = 0,
) -> np.ndarray | None:
    """EERs of a list in draws of its speakers.

    Arguments
    ---------
    scores : numpy.ndarray
        [S, N], of S runs.
    trials : list of (enrol, test)
    labels : numpy.ndarray
        [N].
    told : dict
        Utterance -> speaker, of those whose path does not begin with the speaker.
    draws, seed : int
        As of `bootstrap_eer`.

    Returns
    -------
    numpy.ndarray or None
        [S, B], fractions; None where the labels contradict the speakers.
    """
    enrol, test = (
        [told.get(name) or speaker_of(name) for name in side] for side in zip(*trials)
    )
    if any((np.array(enrol) == np.array(test)) != labels):
        return None
    return bootstrap_eer(scores, labels, enrol, test, draws, seed)


def run_line(key: tuple, rates: Mapping, run: Run) -> dict:
    """A line of runs.csv."""
    return {
        "experiment": run.experiment,
        "list": key[0],
        "seed": key[2],
        **rates,
        "development EER %": development_eer(run.folder),
        "minutes": minutes(run.folder),
    }


def table_line(
    own: Sequence[tuple],
    baseline: str,
    rates: Mapping,
    draws: Mapping,
    finished: Mapping[int, Run],
) -> dict:
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
    changes: tuple = None, None, None
    if pairs:
        mine, theirs = zip(*pairs)
        changes = relative_change(
            [rates[run]["EER %"] for run in mine],
            [rates[run]["EER %"] for run in theirs],
            [draws[run] for run in mine],
            [draws[run] for run in theirs],
        )
    row |= change_columns(changes)
    row["hours"] = sum(minutes(run.folder) for run in finished.values()) / 60
    return row


def change_columns(changes: Sequence[float | None]) -> dict[str, float | None]:
    """A change and the ends of its interval, fractions, as columns in percent."""
    columns = "change %", *ENDS
    values = (None if change is None else 100 * change for change in changes)
    return dict(zip(columns, values))


def check_same_list(
    folder: Path, name: str, first: tuple, trials: list, labels: np.ndarray
) -> None:
    """ValueError where a run scored other trials than the first, (trials, labels)."""
    if first[0] != trials or any(first[1] != labels):
        raise ValueError(f"{folder}: scored another list {name} than the others.")


def rates_of(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The columns of RATES, of one scored list."""
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


def train_comparison(
    comparison: Comparison, processes: int, keep_checkpoints: bool
) -> list[Run]:
    """Wave by wave the searches, then the seeds, all experiments with one seed before the
    next; returns the runs that failed. An experiment waits whose search failed, or an
    experiment that it is after."""
    failed: list[Run] = []
    for wave in comparison.waves():
        names = [
            name
            for name in wave
            if all(map(comparison.is_finished, comparison.after(name)))
        ]
        how = processes, keep_checkpoints
        failed += train_all(sum(map(comparison.search, names), []), *how)
        finals = list(map(comparison.finals, names))
        for name, runs in zip(names, finals):
            for run in runs if comparison.search(name) else []:
                refuse_changed(run)
        by_seed = [run for runs in zip_longest(*finals) for run in runs if run]
        failed += train_all(by_seed, *how)
    return failed
