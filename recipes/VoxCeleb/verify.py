#!/usr/bin/env python3
"""Verify speakers with an exported model: scores, error rates and plots of trial lists.

    python recipes/VoxCeleb/verify.py hparams/verify.yaml --model=<export folder>

Every utterance is embedded once, without padding. Each list is scored with every
backend and every normalisation of the yaml and, where a calibration list is given,
calibrated on that. What comes out, in ``output_folder``, appears when all of it is
complete:

``report.md``, ``metrics.json``
    for people and for programs: error rates with their intervals, detection costs,
    groups of trials, and what it was all made with.
``scores_<list>.txt``
    lines ``enrol test label score`` of the first backend and normalisation.
``det.png``, ``scores.png``
    the error tradeoff, and the distributions of those scores.
"""

import copy
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from voxceleb_prepare import prepare_voxceleb

from hamsb.inference.speaker import load_encoder
from hamsb.nnet.similarities import CosineSimilarity, HyperbolicSimilarity
from hamsb.utils.command_line import main_or_exit, parse_arguments
from hamsb.utils.conditions import versions
from hamsb.utils.hparams import load_hparams
from hamsb.verification.cache import EmbeddingCache
from hamsb.verification.calibration import Calibration
from hamsb.verification.decision import fingerprint, make_decision, write_decision
from hamsb.verification.embeddings import embed_sets
from hamsb.verification.evaluation import Metadata, read_metadata, trial_groups
from hamsb.verification.metrics import bayes_threshold
from hamsb.verification.normalization import NORMALISATIONS, find_cohort
from hamsb.verification.results import System, write_verification
from hamsb.verification.scoring import (
    QUALITIES,
    list_qualities,
    score_all,
    score_trials,
    trial_seconds,
)
from hamsb.verification.trials import read_lists

BACKENDS = ("cosine", "hyperbolic")


# ------------------------------------------------------------------------- main


def check(hparams):
    """ValueError where a key's value is none of those that the yaml names."""
    for key, known in (
        ("backends", BACKENDS),
        ("normalizations", NORMALISATIONS),
        ("quality_measures", QUALITIES),
    ):
        values = hparams[key]
        if not isinstance(values, list):
            raise ValueError(f"{key}={values}: must be a list, as [{', '.join(known)}].")
        for value in values:
            if value not in known or values.count(value) > 1:
                raise ValueError(f"{key}={values}: each once, of {', '.join(known)}.")
        if not values and key != "quality_measures":
            raise ValueError(f"{key}=[]: at least one of {', '.join(known)}.")
    for key in ("cohort_size", "bootstrap_draws", "batch_size"):
        if type(hparams[key]) is not int or hparams[key] < 0:
            raise ValueError(f"{key}={hparams[key]}: must be a number, not negative.")
    for p in hparams["p_targets"]:
        bayes_threshold(p)  # refuses what is no prior
    if hparams["cohort"] is None:
        for key, without in (("normalizations", ["none"]), ("subtract_mean", False)):
            if hparams[key] != without:
                raise ValueError(
                    f"{key}={hparams[key]}: needs a cohort; give the folder of the "
                    "training data, which holds wav/, or a run's save/train.csv."
                )
    if hparams["calibration_file"] is None:
        for key in ("quality_measures", "store_decision"):
            if hparams[key]:
                raise ValueError(f"{key}={hparams[key]}: needs a calibration_file.")


def make_backends(names, encoder):
    """The backends of these names; scores are computed on the CPU."""
    made = []
    for name in names:
        if name == "cosine":
            made.append(CosineSimilarity())
            continue
        classifier = encoder.mods["classifier"] if "classifier" in encoder.mods else None
        if not hasattr(classifier, "ball"):
            raise ValueError(
                f"backends: {name} needs the ball of a hyperbolic classifier; this "
                f"model's classifier is {type(classifier).__name__}."
            )
        made.append(HyperbolicSimilarity(copy.deepcopy(classifier.ball).cpu()))
    return made


@dataclass
class Data:
    """What a verification reads, found before anything takes long.

    Attributes
    ----------
    lists : list of Trials
    calibration : list of Trials
        One, or none.
    test_files, calibration_files, cohort_files : dict of str to Path
        The utterances of each and their files.
    metadata : Metadata or None
    shared : int
        How many speakers of the calibration list are in the lists too.
    """

    lists: list
    test_files: dict
    calibration: list = field(default_factory=list)
    calibration_files: dict = field(default_factory=dict)
    cohort_files: dict = field(default_factory=dict)
    metadata: Metadata | None = None
    shared: int = 0


def cohort_tables(data, lists, folder, sample_rate):
    """The csv files of a cohort; folders that hold ``wav/`` are prepared as training
    data are, into another folder."""
    data = [data] if isinstance(data, str) else data
    if all(str(path).endswith(".csv") for path in data):
        return data
    files = [trials.path for trials in lists]
    prepare_voxceleb(data, folder, files, dev_speakers=0, sample_rate=sample_rate)
    return [str(folder / "train.csv")]


def read_data(hparams, folder, sample_rate):
    """Read the lists, and find the files of their utterances and of the cohort."""
    lists, files = read_lists(hparams["verification_file"], hparams["test_data_folder"])
    data = Data(lists, files)
    if hparams["calibration_file"] is not None:
        data.calibration, data.calibration_files = read_lists(
            str(hparams["calibration_file"]), hparams["calibration_data_folder"]
        )
        tested = {speaker for trials in lists for speaker in trials.speakers}
        data.shared = len(tested.intersection(data.calibration[0].speakers))
    if hparams["metadata"] is not None:
        data.metadata = read_metadata(hparams["metadata"], hparams["metadata_columns"])
    for trials in lists:  # refuses limits that do not ascend, and what the file lacks
        trial_groups(trials, None, hparams["duration_bins"], data.metadata)
    if hparams["cohort"] is not None:
        everything = [*lists, *data.calibration]
        data.cohort_files = find_cohort(
            cohort_tables(hparams["cohort"], everything, folder / "cohort", sample_rate),
            everything,
            hparams["cohort_per_speaker"],
        )
        names = {name.partition("/")[0] for name in data.cohort_files}
        size = len(names if hparams["cohort_speaker_means"] else data.cohort_files)
        if (
            "as-norm" in hparams["normalizations"]
            and not 2 <= hparams["cohort_size"] <= size
        ):
            raise ValueError(
                f"cohort_size={hparams['cohort_size']}: as-norm takes at least 2, and at "
                f"most the {size} of the cohort."
            )
    return data


def score_systems(hparams, backends, data, test, calibration, cohort, progress):
    """Every backend with every normalisation; then each calibrated, where asked for.

    Arguments
    ---------
    hparams : dict
    backends : list
    data : Data
    test, calibration, cohort : Embeddings
        As the network gives them.
    progress : bool

    Returns
    -------
    list of System
    """
    measures = hparams["quality_measures"]
    qualities = {
        trials.name: list_qualities(test, trials, measures) for trials in data.lists
    }
    held_out = [
        list_qualities(calibration, trials, measures) for trials in data.calibration
    ]
    if hparams["subtract_mean"]:
        mean = cohort.mean()
        test, calibration, cohort = (e.minus(mean) for e in (test, calibration, cohort))
    if hparams["cohort_speaker_means"]:
        cohort = cohort.speaker_means()
    how = hparams["normalizations"], cohort, hparams["cohort_size"], progress
    scored = score_all(test, data.lists, backends, *how)
    systems = [
        System(
            backend if name == "none" else f"{backend}, {name}",
            scores,
            facts={"backend": backend, "normalisation": name},
        )
        for (backend, name), scores in scored.items()
    ]
    for trials, measured in zip(data.calibration, held_out):
        theirs = score_all(calibration, [trials], backends, *how).values()
        systems += [
            system.calibrated_by(
                Calibration.fit(scores[trials.name], trials.labels, measured), qualities
            )
            for system, scores in zip(systems, theirs)
        ]
    return systems


def conditions(hparams, arguments, data, device):
    """What the numbers were measured under, lines of markdown."""
    lines = [f"Command: `verify.py {shlex.join(arguments)}`"]
    if hparams["bootstrap_draws"]:
        lines.append(
            f"Intervals: 95 %, bootstrap over speakers, {hparams['bootstrap_draws']} draws"
        )
    lines.append("Each utterance embedded once, whole, without padding")
    if data.cohort_files:
        speakers = {name.partition("/")[0] for name in data.cohort_files}
        kind = "their means" if hparams["cohort_speaker_means"] else "each an utterance"
        lines.append(
            f"Cohort: {len(data.cohort_files)} utterances of {len(speakers)} speakers who "
            f"are in no trial, {kind}; as-norm: the nearest {hparams['cohort_size']}"
            + ("; their mean subtracted from all embeddings" * hparams["subtract_mean"])
        )
    for trials in data.calibration:
        measures = ", ".join(hparams["quality_measures"])
        lines.append(
            f"Calibration: {trials.path}, {len(trials)} trials"
            + (f", with {measures}" * bool(measures))
            + (
                f"; {data.shared} of its speakers are in the test lists too"
                * bool(data.shared)
            )
        )
    software = ", ".join(f"{name} {value}" for name, value in versions(device).items())
    return "\n".join(f"- {line}" for line in [*lines, f"Software: {software}"])


REPORT = """# Verification of {model}

{table}
![DET](det.png)

Scores of {first}:

![Scores](scores.png)

{groups}{conditions}
"""


def main(arguments):
    hparams_file, run_opts, overrides = parse_arguments(arguments)
    hparams = load_hparams(hparams_file, overrides)
    check(hparams)
    model, folder = Path(str(hparams["model"])), Path(str(hparams["output_folder"]))
    encoder = load_encoder(model, run_opts)
    backends = make_backends(hparams["backends"], encoder)
    sample_rate = encoder.hparams.audio_normalizer.sample_rate
    data = read_data(hparams, folder, sample_rate)
    progress = not run_opts.noprogressbar
    cache = None
    if hparams["cache_folder"] is not None:
        identity = f"{fingerprint(model)} on {encoder.device_type}"
        cache = EmbeddingCache(hparams["cache_folder"], identity)
    test, calibration, cohort = embed_sets(
        encoder.encode_batch,
        [data.test_files, data.calibration_files, data.cohort_files],
        [*data.lists, *data.calibration],
        sample_rate,
        progress=progress,
        batch_size=hparams["batch_size"],
        cache=cache,
    )
    systems = score_systems(hparams, backends, data, test, calibration, cohort, progress)

    def report(table, groups):
        if groups:
            groups = f"Groups of trials, {systems[0].name}:\n\n{groups}\n"
        return REPORT.format(
            model=model,
            table=table,
            first=systems[0].name,
            groups=groups,
            conditions=conditions(hparams, arguments, data, encoder.device),
        )

    table = write_verification(
        folder,
        data.lists,
        systems,
        report,
        {
            trials.name: trial_groups(
                trials, trial_seconds(test, trials), hparams["duration_bins"], data.metadata
            )
            for trials in data.lists
        },
        hparams["p_targets"],
        hparams["bootstrap_draws"],
        {"settings": hparams, "versions": versions(encoder.device)},
        progress,
    )
    print(f"{table}Report, scores and plots: {folder}")
    if hparams["store_decision"]:
        (trials,) = data.calibration
        scores = score_trials(calibration, trials)
        write_decision(model, make_decision(trials, scores, hparams["p_targets"]))
        print(f"Thresholds for SpeakerRecognition: {model / 'decision.json'}")


if __name__ == "__main__":
    main_or_exit(main)
