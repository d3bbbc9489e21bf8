"""Experiments on several corpora: what each changes against a baseline, on their mean."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hamsb.training.comparison import (
    change_columns,
    check_same_list,
    draw_speakers,
)
from hamsb.training.study import read_all_scores, read_told_speakers
from hamsb.verification.bootstrap import mean_relative_change
from hamsb.verification.metrics import eer

MEAN = "mean"  # in the place of a corpus


@dataclass(frozen=True)
class Corpus:
    """The finished runs of experiments on one corpus, all of one list.

    Attributes
    ----------
    rates : dict
        (experiment, seed) -> EER in percent.
    draws : dict
        (experiment, seed) -> EERs of a bootstrap over the speakers [B].
    """

    rates: Mapping[tuple[str, int], float]
    draws: Mapping[tuple[str, int], np.ndarray]

    def seeds(self, experiment: str) -> list[int]:
        """The seeds that an experiment has, in order."""
        return sorted(seed for name, seed in self.rates if name == experiment)

    def pairs(self, experiment: str, baseline: str) -> tuple:
        """What `mean_relative_change` is given, of the seeds that both have."""
        seeds = [s for s in self.seeds(experiment) if (baseline, s) in self.rates]
        return tuple(
            [values[name, seed] for seed in seeds]
            for values in (self.rates, self.draws)
            for name in (experiment, baseline)
        )


def read_corpus(
    folders: Mapping[str, str | Path],
    verification_list: str,
    seeds: Sequence[int] | None,
    draws: int,
    seed: int = 0,
) -> Corpus:
    """Read the finished runs of experiments on one corpus.

    Arguments
    ---------
    folders : dict
        Experiment -> the folder that holds its runs, a seed each.
    verification_list : str
        The name of the list.
    seeds : list of int or None
        Those to read; None: all that are there.
    draws, seed : int
        Of the bootstrap; corpora with different seeds are drawn independently.

    Raises
    ------
    FileNotFoundError
        An experiment's folder without runs, or without that of one of the seeds.
    ValueError
        A run that is not finished or has no such list; one that scored other trials than
        the first; labels that contradict the speakers.
    """
    scores: dict[tuple[str, int], np.ndarray] = {}
    told: dict[str, str] = {}
    first = None
    for name, folder in folders.items():
        for number, run in run_folders(Path(folder), seeds):
            found = read_all_scores(run)
            if verification_list not in found:
                raise ValueError(
                    f"verification_list={verification_list}: {run} has no scores of it, "
                    f"but of {', '.join(found) or 'no list'}."
                )
            trials, labels, scores[name, number] = found[verification_list]
            first = (trials, labels) if first is None else first
            check_same_list(run, verification_list, first, trials, labels)
            told |= read_told_speakers(run).get(verification_list, {})
    trials, labels = first or ([], np.array([]))
    stacked = np.stack([*scores.values()])
    drawn = draw_speakers(stacked, trials, labels, told, draws, seed)
    if drawn is None:
        raise ValueError(
            f"verification_list={verification_list}: its labels contradict its speakers, "
            "who cannot be drawn."
        )
    rates = {run: 100 * eer(values, labels)[0] for run, values in scores.items()}
    return Corpus(rates, dict(zip(scores, drawn)))


def run_folders(
    folder: Path, seeds: Sequence[int] | None = None
) -> Iterator[tuple[int, Path]]:
    """Seed and folder of an experiment's finished runs; errors as of `read_corpus`."""
    if seeds is None:
        seeds = sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal())
    if not seeds:
        raise FileNotFoundError(f"{folder}: holds no runs, which are folders <seed>/.")
    for seed in seeds:
        run = folder / str(seed)
        if not (run / "metrics.json").is_file():
            raise FileNotFoundError(f"{run}: holds no finished run.")
        yield seed, run


def changes(corpora: Mapping[str, Corpus], baseline: str) -> list[dict]:
    """A line for each experiment and corpus, and one for their mean; rates in percent.

    Raises
    ------
    ValueError
        An experiment that has no seed in common with the baseline.
    """
    lines = []
    names = dict.fromkeys(name for each in corpora.values() for name, _ in each.rates)
    for name in names:
        parts = {}
        for key, corpus in corpora.items():
            if not (seeds := corpus.seeds(name)):
                continue
            rates = [corpus.rates[name, seed] for seed in seeds]
            deviation = float(np.std(rates, ddof=1)) if len(rates) > 1 else None
            line = {"experiment": name, "corpus": key, "seeds": len(seeds)}
            line |= {"EER %": float(np.mean(rates)), "EER % deviation": deviation}
            if name != baseline:
                parts[key] = corpus.pairs(name, baseline)
                if not parts[key][0]:
                    raise ValueError(f"{name} and {baseline}: no common seed on {key}.")
                line |= change_columns(mean_relative_change([parts[key]]))
            lines.append(line)
        if len(parts) == len(corpora) > 1:
            line = {"experiment": name, "corpus": MEAN, "seeds": None, "EER %": None}
            change = mean_relative_change(list(parts.values()))
            lines.append(line | change_columns(change))
    columns = {key: None for line in lines for key in line}
    return [columns | line for line in lines]
