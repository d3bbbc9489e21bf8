#!/usr/bin/env python3
"""Where embeddings and centers end up in the ball, and whether that means anything.

    python recipes/VoxCeleb/studies/radii.py hparams/studies/radii.yaml \\
        --model=results/mini/1234/export

A random part of the trial lists' utterances is embedded whole, as crops and with noise.
The length of an embedding before the ball's projection and its hyperbolic distance from
the origin after it are summarized and related, by Spearman's rank correlation, to the
duration, the noise and how easily the utterance is confused with those of others; the
centers' distances from the origin to those from each other. A model without a ball, as
one of a Euclidean head, has lengths only. What comes out, in ``output_folder``:

``report.md``, ``metrics.json``
    for people and for programs.
``radii.png``
    the norms against duration and noise.
``disk.png``
    whole utterances and centers in the Poincare disk, where there is a ball.
"""

from hamsb.utils.help import help_if_asked
from hamsb.utils.keys import Key
from hamsb.utils.run_options import ANALYSIS

KEYS = [
    Key("model", "folder", "the export of a training run"),
    Key("test_data_folder", "data or list", "of the trials, in any layout"),
    Key("verification_file", "file or list", "trial lists, whose utterances are taken"),
    Key("train_annotation", "file", "a run's save/train.csv, to be counted, or null"),
    Key("output_folder", "folder", "report and plots"),
    Key("seed", "whole number", "of utterances, crops, noise and bootstrap"),
    Key("num_workers", "whole number", "processes that read the files", optional=True),
    Key("utterances", "count", "so many at random; null: all"),
    Key("crop_seconds", "list of seconds", "each utterance is cut to each, too"),
    Key("snrs", "list of dB", "signal-to-noise ratios: each with noise, too"),
    Key("noise", "name", "its kind: white, pink, brown or hum"),
    Key("nearest", "count", "of the cosines that make an utterance's confusability"),
    Key("bootstrap_draws", "whole number", "for the intervals; 0: none"),
]

if __name__ == "__main__":
    help_if_asked(__doc__, KEYS, ANALYSIS)  # before what takes seconds to import

import json
import math
from collections import Counter
from pathlib import Path

from hamsb.analysis.lengths import choose, embed_conditions, measure
from hamsb.analysis.plots import plot_boxes, plot_disk
from hamsb.analysis.radii import (
    boxes,
    by_condition,
    condition_table,
    relate_centers,
    relate_embeddings,
    relation_table,
    summaries,
    summary_table,
)
from hamsb.augment.simulation import NOISES
from hamsb.dataio.annotations import read_speakers
from hamsb.inference.speaker import load_encoder, trained_ball
from hamsb.utils.checks import check_choice, check_whole
from hamsb.utils.command_line import main_or_exit, parse_arguments
from hamsb.utils.conditions import conditions, versions
from hamsb.utils.files import only_run, replacing_files
from hamsb.utils.hparams import load_hparams
from hamsb.utils.run_folder import check_script, write_run
from hamsb.verification.data import VerificationData, by_speaker
from hamsb.verification.lookup import read_lists
from hamsb.verification.overlaps import find_overlaps, model_speakers, overlap_facts
from hamsb.verification.trials import speaker_of

import torch

SCRIPT = "radii.py"

# ----------------------------------------------------------------- what is asked for


def check(hparams):
    """ValueError where a key's value is none of those that the yaml names."""
    if hparams["utterances"] is not None:
        check_whole("utterances", hparams["utterances"], 2)
    for key, least in (("crop_seconds", 0.0), ("snrs", -math.inf)):
        values = hparams[key]
        for value in values:
            good = type(value) in (int, float) and least < value < math.inf
            if not good or values.count(value) > 1:
                raise ValueError(
                    f"{key}={values}: {value} must be a number, given once"
                    f"{' and positive' * (key == 'crop_seconds')}."
                )
    check_choice("noise", hparams["noise"], NOISES)


def class_names(encoder, classes, counts, path):
    """The speaker of each class, or None; ValueError where none is in the counts."""
    labels = getattr(encoder.hparams, "label_encoder", None)
    known = {} if labels is None else labels.ind2lab
    names = [known.get(i) for i in range(classes)]
    if counts and not counts.keys() & set(names):
        raise ValueError(
            f"train_annotation={path}: none of its {len(counts)} speakers is a class of "
            "the model; give the save/train.csv of the run that trained it."
        )
    return names


# --------------------------------------------------------------------- the report

REPORT = """# Radii of {model}

{summaries}
{explanation}

Embeddings, Spearman's rank correlation:

{embeddings}
None: one of the two is the same for all, or there are fewer than three pairs.

{centers}Duration, random crops:

{durations}
Noise, {noise}, over the whole utterance:

{noises}
![Lengths](radii.png)

Boxes: quartiles and median; whiskers: 5 and 95 % of the utterances.

{disk}{conditions}
"""
WITH_BALL = (
    "Norm: an embedding's length before the ball's projection; about the mean: with the "
    "mean of the whole clean utterances' embeddings subtracted. Radius: the hyperbolic "
    "distance from the origin after the projection. It grows with the norm as far as the "
    "ball's limit lets it; where a clip limits every embedding, all radii are equal."
)
WITHOUT_BALL = (
    "Norm: an embedding's length; about the mean: with the mean of the whole clean "
    "utterances' embeddings subtracted. The model has no ball, and so no radii."
)
CENTERS = """Centers, Spearman's rank correlation:

{}
The further out two centers are, the further are they from each other at the same angle;
the cosine tells of the angle alone.

"""
DISK = """Whole utterances, clean, and the centers of the training speakers:

![Poincare disk](disk.png)

"""


def write_report(hparams, results, footer):
    """The text of report.md."""
    with_ball, lines = "centers" in results, results["conditions"]
    return REPORT.format(
        model=hparams["model"],
        summaries=summary_table(results["summaries"]),
        explanation=WITH_BALL if with_ball else WITHOUT_BALL,
        embeddings=relation_table(results["embeddings"]),
        centers=CENTERS.format(relation_table(results["centers"])) if with_ball else "",
        durations=condition_table(lines, "crop"),
        noise=hparams["noise"],
        noises=condition_table(lines, "noise"),
        disk=DISK * with_ball,
        conditions=footer,
    )


def write_radii(folder, text, numbers, measured, ball, centers):
    """All files of the output folder, which appear when all of them are complete."""
    numbers = json.dumps(numbers, indent=2, default=str, allow_nan=False)
    with replacing_files(folder) as made:
        plot_boxes(boxes(measured), "length of the embedding", made / "radii.png")
        if ball is not None:
            plot_disk(
                measured[0].lengths.points.numpy(),
                measured[0].speakers,
                made / "disk.png",
                torch.as_tensor(ball.metric_curvature).item(),
                centers.points.numpy(),
            )
        else:
            (folder / "disk.png").unlink(missing_ok=True)  # of another model
        (made / "metrics.json").write_text(f"{numbers}\n", encoding="utf-8")
        (made / "report.md").write_text(text, encoding="utf-8")


# --------------------------------------------------------------------------- main


def main(arguments):
    hparams_file, run_opts, overrides = parse_arguments(arguments, KEYS, SCRIPT, ANALYSIS)
    hparams = load_hparams(hparams_file, overrides)
    check(hparams)
    folder = Path(str(hparams["output_folder"]))
    check_script(folder, SCRIPT)
    encoder = load_encoder(Path(str(hparams["model"])), run_opts)
    with only_run(folder):
        relate(arguments, hparams, encoder, folder, not run_opts.noprogressbar)


def relate(arguments, hparams, encoder, folder, progress):
    """Measure, relate, and write the results into a folder that is this run's alone."""
    annotation, centers, names = hparams["train_annotation"], None, []
    counts = Counter([] if annotation is None else read_speakers(annotation))
    ball, sub_centers = trained_ball(encoder), 1
    if ball is not None:
        ball, head = ball.double(), encoder.mods["classifier"]
        if not hasattr(head, "euclidean_centers"):
            raise ValueError(
                f"model={hparams['model']}: its head, {type(head).__name__}, has no "
                "centers within the ball; give a model with hamsb.HyperbolicClassifier."
            )
        vectors, sub_centers = head.euclidean_centers(), head.sub_centers
        centers = measure(ball, vectors.detach().cpu().double())
        names = class_names(encoder, head.out_neurons, counts, annotation)
    lists, files = read_lists(hparams["verification_file"], hparams["test_data_folder"])
    for trials in lists:
        _ = trials.speakers  # every path begins with one
    known = model_speakers(hparams["model"])
    overlaps = find_overlaps(VerificationData(lists, files), known)
    lists, files = by_speaker(lists, files)
    files = choose(files, hparams["utterances"], hparams["seed"])
    measured = embed_conditions(
        encoder.encode_batch,
        ball,
        files,
        lists,
        encoder.audio_normalizer.sample_rate,
        hparams["crop_seconds"],
        hparams["snrs"],
        hparams["noise"],
        hparams["seed"],
        progress,
        num_workers=hparams.get("num_workers"),
        device=encoder.device,
    )
    draws, seed = hparams["bootstrap_draws"], hparams["seed"]
    results = {
        "summaries": summaries(measured[0].lengths, centers),
        "embeddings": relate_embeddings(measured, hparams["nearest"], draws, seed),
        "conditions": by_condition(measured),
    }
    if ball is not None:
        results["centers"] = relate_centers(
            ball, centers, names, counts, draws, seed, sub_centers
        )
    speakers = {speaker_of(name) for name in files}
    facts = [
        f"Utterances: {len(files)} of {len(speakers)} speakers, at random, seed {seed}; "
        "each embedded without padding",
        overlap_facts(overlaps),
    ]
    if draws:
        facts.append(f"Intervals: 95 %, bootstrap over speakers, {draws} draws")
    software = versions(encoder.device)
    footer = conditions(SCRIPT, arguments, facts, software)
    text = write_report(hparams, results, footer)
    about = {"settings": hparams, "versions": software, "utterances": len(files)}
    about["speakers"] = overlaps
    write_radii(folder, text, {**about, **results}, measured, ball, centers)
    write_run(folder, {"script": SCRIPT})
    print(
        f"{summary_table(results['summaries'])}\n{relation_table(results['embeddings'])}"
        f"Report and plots: {folder}"
    )


if __name__ == "__main__":
    main_or_exit(main)
