#!/usr/bin/env python3
"""Verify speakers with an exported model: scores, error rates and plots of trial lists.

    python recipes/VoxCeleb/verify.py hparams/verify.yaml \\
        --model=results/mini/1234/export

Every utterance is embedded once, without padding. Each list is scored with every
similarity (``backends``) and every normalization of the yaml and, where a calibration
list is given, calibrated on that. What comes out, in ``output_folder``, appears when all
of it is complete:

``report.md``, ``metrics.json``
    for people and for programs: error rates with their intervals, detection costs,
    groups of trials, and what it was all made with.
``scores_<list>.txt``
    lines ``enrol test label score`` of the first similarity and normalization.
``det.png``, ``scores.png``
    the error tradeoff, and the distributions of those scores.
"""

from hamsb.utils.help import help_if_asked
from hamsb.utils.keys import Key
from hamsb.utils.run_options import ANALYSIS

KEYS = [
    Key("model", "folder", "the export folder of a training run"),
    Key("test_data_folder", "data or list", "of the trials, in any layout"),
    Key("verification_file", "file", "the trial list; or a list of them"),
    Key("output_folder", "folder", "scores, tables and plots"),
    Key("backends", "list", "similarities: cosine, hyperbolic"),
    Key("normalizations", "list", "of the scores: none, z-norm, t-norm, s-norm, as-norm"),
    Key("cohort", "data", "or a list: what scores are normalized with; null: none"),
    Key("merge_speakers", "boolean", "of one name in two folders", optional=True),
    Key("prefix_speakers", "boolean", "names begin with their folder's", optional=True),
    Key("cohort_per_speaker", "count", "of utterances, at most; null: all"),
    Key("cohort_speaker_means", "boolean", "each speaker's mean, not each utterance"),
    Key("cohort_size", "whole number", "of as-norm: the nearest to each side of a trial"),
    Key("subtract_mean", "boolean", "the cohort's mean embedding, from all embeddings"),
    Key("calibration_file", "file", "a trial list of other speakers, or null"),
    Key("calibration_data_folder", "data", "of that list"),
    Key("quality_measures", "list", "that calibration takes into account: duration, norm"),
    Key("store_decision", "boolean", "store thresholds of the cosine with the model"),
    Key("p_targets", "list of numbers", "priors of the detection costs"),
    Key("bootstrap_draws", "whole number", "for the interval of the EER; 0: none"),
    Key("duration_bins", "list of numbers", "limits of groups of trials, in seconds"),
    Key("metadata", "file", "csv file that tells of speakers or utterances, or null"),
    Key("metadata_columns", "list", "its columns that group trials"),
    Key("batch_size", "count", "utterances embedded together; null: as the device likes"),
    Key("num_workers", "whole number", "processes that read the files", optional=True),
    Key("cache_folder", "folder", "embeddings of all runs; null: embed anew"),
]

if __name__ == "__main__":
    help_if_asked(__doc__, KEYS, ANALYSIS)  # before what takes seconds to import

import logging
import sys
from dataclasses import replace
from pathlib import Path

from hamsb.inference.speaker import load_encoder, trained_ball
from hamsb.nnet.similarities import CosineSimilarity, HyperbolicSimilarity
from hamsb.utils.command_line import main_or_exit, parse_arguments
from hamsb.utils.conditions import conditions, versions
from hamsb.utils.files import only_run
from hamsb.utils.hparams import load_hparams
from hamsb.utils.run_folder import check_script, write_run
from hamsb.verification.cache import EmbeddingCache
from hamsb.verification.data import VerificationData
from hamsb.verification.decision import (
    fingerprint,
    make_decision,
    read_decision,
    write_decision,
)
from hamsb.verification.groups import read_metadata
from hamsb.verification.lookup import read_lists
from hamsb.verification.metrics import bayes_threshold
from hamsb.verification.normalization import NORMALIZATIONS, find_cohort
from hamsb.verification.overlaps import (
    find_overlaps,
    model_speakers,
    overlap_facts,
    overlap_warnings,
)
from hamsb.verification.results import write_verification
from hamsb.verification.scoring import QUALITIES, score_trials
from hamsb.verification.systems import score_systems
from voxceleb_prepare import prepare_voxceleb

BACKENDS = ("cosine", "hyperbolic")
SCRIPT = "verify.py"


def check(hparams):
    """ValueError where a list's value is none of those that the yaml names, or a key does
    nothing without another."""
    for key, known in (
        ("backends", BACKENDS),
        ("normalizations", NORMALIZATIONS),
        ("quality_measures", QUALITIES),
    ):
        values = hparams[key]
        for value in values:
            if value not in known or values.count(value) > 1:
                raise ValueError(f"{key}={values}: each once, of {', '.join(known)}.")
        if not values and key != "quality_measures":
            raise ValueError(f"{key}=[]: at least one of {', '.join(known)}.")
    for p in hparams["p_targets"]:
        bayes_threshold(p)  # refuses what is no prior
    if hparams["cohort"] is None:
        for key, without in (("normalizations", ["none"]), ("subtract_mean", False)):
            if hparams[key] != without:
                raise ValueError(
                    f"{key}={hparams[key]}: needs a cohort; give the training data, or "
                    "a run's save/train.csv."
                )
    if hparams["calibration_file"] is None:
        for key in ("quality_measures", "store_decision"):
            if hparams[key]:
                raise ValueError(f"{key}={hparams[key]}: needs a calibration_file.")


def make_similarities(names, ball):
    """The similarities of these names; scores are computed on the CPU."""
    if "hyperbolic" in names and ball is None:
        raise ValueError(
            f"backends={names}: hyperbolic needs the ball of a hyperbolic classifier, "
            "which this model does not have; give [cosine]."
        )
    made = {"cosine": CosineSimilarity, "hyperbolic": lambda: HyperbolicSimilarity(ball)}
    return [made[name]() for name in names]


def read_data(hparams):
    """Read the lists, and find the files of their utterances."""
    lists, files = read_lists(hparams["verification_file"], hparams["test_data_folder"])
    data = VerificationData(lists, files)
    if hparams["calibration_file"] is not None:
        (calibration,), files = read_lists(
            str(hparams["calibration_file"]),
            hparams["calibration_data_folder"],
            key="calibration_data_folder",
        )
        data = replace(data, calibration=calibration, calibration_files=files)
    if hparams["metadata"] is not None:
        metadata = read_metadata(hparams["metadata"], hparams["metadata_columns"])
        data = replace(data, metadata=metadata)
    data.groups(duration_bins=hparams["duration_bins"])  # refuses what does not fit
    return data


def with_cohort(data, hparams, folder, sample_rate):
    """The data and the files of the cohort, which is prepared as training data are, into
    another folder."""
    if hparams["cohort"] is None:
        return data
    folders = [hparams["test_data_folder"]]
    if data.calibration is not None:
        folders.append(hparams["calibration_data_folder"])
    names = ("merge_speakers", "prefix_speakers")
    try:
        prepared = prepare_voxceleb(
            hparams["cohort"],
            folder / "cohort",
            [trials.path for trials in data.all_lists],
            dev_speakers=0,
            sample_rate=sample_rate,
            test_data_folder=[
                path
                for each in folders
                for path in ([each] if isinstance(each, str) else each)
            ],
            **{name: hparams[name] for name in names if name in hparams},
        )
    except (ValueError, FileNotFoundError) as error:
        why = str(error).removeprefix("data_folder:").strip()
        raise type(error)(f"cohort: {why}") from error
    cohort = find_cohort(prepared.train_csv, data.all_lists, hparams["cohort_per_speaker"])
    data = replace(data, cohort_files=cohort)
    means = hparams["cohort_speaker_means"]
    size = len(data.cohort_speakers if means else data.cohort_files)
    if "as-norm" in hparams["normalizations"] and not 2 <= hparams["cohort_size"] <= size:
        raise ValueError(
            f"cohort_size={hparams['cohort_size']}: as-norm takes at least 2, and at "
            f"most the {size} of the cohort."
        )
    return data


def facts(hparams, data, overlaps):
    """What the numbers were measured under, line by line."""
    if hparams["bootstrap_draws"]:
        draws = hparams["bootstrap_draws"]
        yield f"Intervals: 95 %, bootstrap over speakers, {draws} draws"
    yield "Each utterance embedded once, whole, without padding"
    if data.cohort_files:
        kind = "their means" if hparams["cohort_speaker_means"] else "each an utterance"
        subtracted = "; their mean subtracted from all embeddings"
        nearest = f"; as-norm: the nearest {hparams['cohort_size']}"
        yield (
            f"Cohort: {len(data.cohort_files)} utterances of {len(data.cohort_speakers)} "
            f"speakers who are in no trial, {kind}"
            + nearest * ("as-norm" in hparams["normalizations"])
            + subtracted * hparams["subtract_mean"]
        )
    if data.calibration is not None:
        measures = hparams["quality_measures"]
        yield (
            f"Calibration: {data.calibration.path}, {len(data.calibration)} trials"
            + f", with {', '.join(measures)}" * bool(measures)
        )
    yield overlap_facts(overlaps)


def show_data():
    """Have the screen show what the data are."""
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    for name in (read_lists.__module__, prepare_voxceleb.__module__):
        logging.getLogger(name).setLevel(logging.INFO)


REPORT = """# Verification of {model}

{results}
{plots}
{groups}{conditions}
"""


def main(arguments):
    hparams_file, run_opts, overrides = parse_arguments(arguments, KEYS, SCRIPT, ANALYSIS)
    hparams = load_hparams(hparams_file, overrides)
    check(hparams)
    folder = Path(str(hparams["output_folder"]))
    check_script(folder, SCRIPT)
    encoder = load_encoder(Path(str(hparams["model"])), run_opts)
    show_data()
    similarities = make_similarities(hparams["backends"], trained_ball(encoder))
    data = read_data(hparams)
    progress = not run_opts.noprogressbar
    with only_run(folder):
        verify(arguments, hparams, encoder, similarities, data, folder, progress)


def verify(arguments, hparams, encoder, similarities, data, folder, progress):
    """Score the lists and write the results into a folder that is this run's alone."""
    model = Path(str(hparams["model"]))
    sample_rate = encoder.audio_normalizer.sample_rate
    data = with_cohort(data, hparams, folder, sample_rate)
    data.check_files(encoder.encode_batch, sample_rate)
    stored = read_decision(model)
    # What is to be stored is not that of an earlier calibration list.
    overlaps = find_overlaps(
        data, model_speakers(model), None if hparams["store_decision"] else stored
    )
    warnings = overlap_warnings(overlaps)
    for warning in warnings:  # now, since it may be a reason to stop
        print(f"Warning: {warning}", flush=True)
    cache = None
    if hparams["cache_folder"] is not None:
        identity = f"{fingerprint(model)} on {encoder.device_type}"
        cache = EmbeddingCache(hparams["cache_folder"], identity)
    embedded = data.embed(
        encoder.encode_batch,
        sample_rate,
        progress=progress,
        batch_size=hparams["batch_size"],
        cache=cache,
        num_workers=hparams.get("num_workers"),
        device=encoder.device,
    )
    systems = score_systems(
        data,
        embedded,
        similarities,
        hparams["normalizations"],
        hparams["cohort_size"],
        hparams["cohort_speaker_means"],
        hparams["subtract_mean"],
        hparams["quality_measures"],
        progress,
    )
    decision = stored
    if hparams["store_decision"]:
        scores = score_trials(embedded.calibration, data.calibration)
        decision = make_decision(data.calibration, scores, hparams["p_targets"])
    software = versions(encoder.device)

    def report(results, groups, plots):
        if groups:
            groups = f"Groups of trials, {systems[0].name}:\n\n{groups}\n"
        footer = facts(hparams, data, overlaps)
        return REPORT.format(
            model=model,
            results=results,
            plots=plots,
            groups=groups,
            conditions=conditions(SCRIPT, arguments, footer, software),
        )

    results = write_verification(
        folder,
        data.lists,
        systems,
        report,
        data.groups(embedded.test, hparams["duration_bins"]),
        hparams["p_targets"],
        hparams["bootstrap_draws"],
        {"settings": hparams, "versions": software, "speakers": overlaps},
        progress,
        decision,
        warnings,
    )
    write_run(folder, {"script": SCRIPT})
    print(f"{results}Report, scores and plots: {folder}")
    if hparams["store_decision"]:
        write_decision(model, decision, by=SCRIPT)
        print(f"Thresholds for SpeakerRecognition: {model / 'decision.json'}")
        if (model / "README.md").is_file():
            print(
                f"{model / 'README.md'}, the model card, still has the threshold that the "
                "model was exported with: change that line."
            )


if __name__ == "__main__":
    main_or_exit(main)
