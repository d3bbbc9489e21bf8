#!/usr/bin/env python3
"""Cluster the training speakers with an exported model, for hard negative sampling.

    python recipes/VoxCeleb/cluster.py hparams/cluster.yaml --model=<export folder>

A speaker is the mean embedding of random crops of its utterances. For each number of
clusters k of the yaml the speakers are clustered, by cosine or in a hyperbolic ball,
and the clusters judged. What comes out, in ``output_folder``, appears when all of it is
complete:

``clusters_<k>.csv``
    each speaker's cluster, and which clusters are nearest to each other: what a batch
    sampler's ``read_clusters`` takes.
``report.md``, ``metrics.json``
    for people and for programs: sizes and quality of the clusters of each k, and what
    it was all made with.
``quality.png``
    the measures of quality over k.

``embed_speakers`` and ``cluster_speakers`` are what train.py makes new clusters with.
"""

import copy
import json
import shlex
from itertools import groupby
from pathlib import Path

import numpy as np
import sklearn
import torch
from sklearn.metrics import silhouette_score
from tqdm import tqdm

from hamsb.analysis.clustering import (
    ball_kmeans,
    cluster_quality,
    cosine_distance,
    distance_matrix,
    kmeans,
    speaker_means,
)
from hamsb.dataio.annotations import Utterance, read_utterances
from hamsb.dataio.audio import read_crop
from hamsb.dataio.clusters import make_clusters, write_clusters
from hamsb.inference.speaker import load_encoder
from hamsb.nnet.balls import Ball
from hamsb.utils.command_line import main_or_exit, parse_arguments
from hamsb.utils.conditions import versions
from hamsb.utils.files import replacing_files
from hamsb.utils.hparams import load_hparams
from hamsb.analysis.plots import plot_cluster_quality

# Measures of quality, and where their better end is.
MEASURES = {
    "relative_margin": "lower",
    "additive_margin": "higher",
    "weakest_link": "lower",
    "silhouette": "higher",
}

# -------------------------------------------------------------- speakers' embeddings


def draw_crops(utterances, most, length, random):
    """Random crops of random utterances of each speaker.

    Arguments
    ---------
    utterances : dict of str to list of Utterance
        By speaker.
    most : int
        Utterances of a speaker; all of one who has no more.
    length : int
        Of a crop, in samples; of a shorter utterance all.
    random : numpy.random.Generator

    Returns
    -------
    list of (str, Utterance)
        Speaker and crop.
    """
    crops = []
    for speaker, own in utterances.items():
        chosen = random.choice(len(own), min(most, len(own)), replace=False)
        for wav, start, stop in (own[i] for i in np.sort(chosen)):
            frames = min(length, stop - start)
            start += int(random.integers(stop - start - frames + 1))
            crops.append((speaker, Utterance(wav, start, start + frames)))
    return crops


def embed_speakers(
    encode,
    annotation,
    sample_rate,
    utterances=10,
    seconds=3.0,
    seed=0,
    progress=True,
    batch_size=1,
):
    """The mean embedding of each training speaker, over crops of random utterances.

    Which crops is a function of the csv file and the seed; no other random state is
    read or changed. Nothing is padded or repeated.

    Arguments
    ---------
    encode : callable
        Audio [B, T] -> embeddings [B, 1, D] or [B, D] on any device, without gradients.
    annotation : str or Path
        As `read_utterances` takes it.
    sample_rate : int
        Of the files, as ``encode`` expects it, in Hz.
    utterances : int
        Of a speaker; all of one who has no more.
    seconds : float
        Length of a crop; a shorter utterance is taken whole.
    seed : int
        At least 0.
    progress : bool
        Show a progress bar.
    batch_size : int
        B, at most: crops of equal length are embedded together. More is faster on a GPU.

    Returns
    -------
    names : list of str
        The S speakers, sorted.
    means : torch.Tensor
        [S, D], float32 on the CPU, not normalised: `cluster_speakers` does that where
        it clusters by cosine.

    Raises
    ------
    FileNotFoundError, ValueError
        As `read_utterances` and `read_crop`; a number out of range; an embedding that
        is not finite (names the file).
    """
    length = int(seconds * sample_rate) if seconds > 0 else 0
    for name, value, least in (
        ("utterances", utterances, 1),
        ("seed", seed, 0),
        ("batch_size", batch_size, 1),
    ):
        if type(value) is not int or value < least:
            raise ValueError(f"{name}={value}: must be a whole number, at least {least}.")
    if length < 1:
        raise ValueError(f"seconds={seconds}: must be positive, and at least a sample.")
    found = read_utterances(annotation)
    crops = draw_crops(found, utterances, length, np.random.default_rng(seed))
    crops.sort(key=lambda crop: crop[1].frames)
    rows = []
    bar = tqdm(total=len(crops), desc="embed speakers", disable=not progress)
    with torch.no_grad(), bar:
        for batch in equal_lengths(crops, batch_size):
            wavs = torch.stack([
                read_crop(crop.wav, crop.start, crop.frames, sample_rate=sample_rate)
                for _, crop in batch
            ])
            rows.append(encode(wavs).reshape(len(batch), -1).float().cpu())
            check_finite(rows[-1], batch)
            bar.update(len(batch))
    names, means = speaker_means(torch.cat(rows), [speaker for speaker, _ in crops])
    return list(names), means


def equal_lengths(crops, batch_size):
    """At most ``batch_size`` crops of one length at a time, of those sorted by it."""
    for _, equal in groupby(crops, key=lambda crop: crop[1].frames):
        equal = list(equal)
        for start in range(0, len(equal), batch_size):
            yield equal[start : start + batch_size]


def check_finite(embeddings, crops):
    """ValueError that names the file of an embedding that is not finite."""
    for row, (speaker, crop) in zip(embeddings, crops):
        if not row.isfinite().all():
            raise ValueError(
                f"{crop.wav}: the embedding of speaker {speaker} is not finite; look at "
                "the audio file and at the model's parameters."
            )


# ------------------------------------------------------------------------- clusters


def place_speakers(means, ball=None):
    """Where speakers lie, and how far they are from each other.

    Arguments
    ---------
    means : torch.Tensor
        [S, D], mean embeddings, not normalised.
    ball : hamsb.nnet.balls.Ball, optional
        Given, a speaker lies where an utterance with its mean embedding would: at the
        mean's projection into the ball.

    Returns
    -------
    points : torch.Tensor
        [S, D], float64.
    distance : callable
        From [N, D] and [M, D] to [N, M].
    """
    points = means.detach().double()
    if ball is None:
        return points, cosine_distance
    ball = copy.deepcopy(ball).to(points.device)
    with torch.no_grad():
        return ball.project(points), ball.pairwise_distance


def cluster_speakers(names, means, k, ball=None, seed=0):
    """k-means of speakers, by direction or in a ball.

    Arguments
    ---------
    names : sequence of str
        S speakers.
    means : torch.Tensor
        [S, D], their mean embeddings, not normalised: without a ball their length has
        no part in it, with one it has.
    k : int
        Clusters.
    ball : hamsb.nnet.balls.Ball, optional
        Cluster the means' projections into it by its distance.
    seed : int
        The same seed gives the same clusters.

    Returns
    -------
    hamsb.dataio.clusters.Clusters
        With the nearest clusters of each, by the distance of the centers.

    Raises
    ------
    ValueError
        As `hamsb.analysis.clustering.kmeans`: fewer different speakers than k, a mean that is
        not finite.
    """
    points, distance = place_speakers(means, ball)
    if ball is None:
        labels, centers = kmeans(points, k, seed)
    else:
        labels, centers = ball_kmeans(points, k, ball.metric_curvature, seed)
    return make_clusters(names, labels, distance_matrix(centers, distance))


def judge(clusters, names, distances):
    """Sizes and quality of clusters, as metrics.json has them.

    Arguments
    ---------
    clusters : hamsb.dataio.clusters.Clusters
    names : sequence of str
        S speakers.
    distances : numpy.ndarray
        [S, S], among the speakers: ``distance_matrix``.

    Returns
    -------
    dict
        ``k``, ``smallest``, ``median`` and ``largest`` (speakers of a cluster) and the
        measures of MEASURES, with the clusters' medoids for centers.
    """
    labels = clusters.labels(names)
    sizes = np.bincount(labels)
    return {
        "k": len(sizes),
        "smallest": int(sizes.min()),
        "median": float(np.median(sizes)),
        "largest": int(sizes.max()),
        **cluster_quality(distances, labels),
        "silhouette": float(silhouette_score(distances, labels, metric="precomputed")),
    }


# ---------------------------------------------------------------------- the results


def quality_table(records):
    """What `judge` found for each k, in markdown."""
    arrows = {"lower": "↓", "higher": "↑"}
    measures = (f"{words(name)} {arrows[end]}" for name, end in MEASURES.items())
    header = ["k", "smallest", "median", "largest", *measures]
    lines = [header, ["---:"] * len(header)]
    for record in records:
        sizes = (f"{record[name]:g}" for name in ("k", "smallest", "median", "largest"))
        lines.append([*sizes, *(f"{record[name]:.3f}" for name in MEASURES)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def words(name):
    return name.replace("_", " ")


def write_results(folder, clusterings, records, text, about):
    """Write clusters, numbers, plot and report, all or nothing.

    Arguments
    ---------
    folder : Path
    clusterings : list of Clusters
    records : list of dict
        What `judge` found of each.
    text : str
        Of report.md.
    about : dict
        What metrics.json says of all: settings, versions.
    """
    numbers = json.dumps({**about, "results": records}, default=str)
    numbers = json.loads(numbers, parse_constant=str)  # JSON has no infinity
    with replacing_files(folder) as partial:
        for clusters, record in zip(clusterings, records):
            write_clusters(clusters, partial / f"clusters_{record['k']}.csv")
        plot_cluster_quality(
            [record["k"] for record in records],
            {
                words(name): (end, [record[name] for record in records])
                for name, end in MEASURES.items()
            },
            partial / "quality.png",
        )
        text_of_numbers = json.dumps(numbers, indent=2, allow_nan=False)
        (partial / "metrics.json").write_text(f"{text_of_numbers}\n", encoding="utf-8")
        (partial / "report.md").write_text(text, encoding="utf-8")


REPORT = """# Clusters of the speakers of {annotation}

{table}
Smallest, median, largest: speakers of a cluster. ↑: higher is better, ↓: lower.

- relative margin: distance to the own center over that to the nearest other, on average
- additive margin: their difference, over the mean distance within clusters
- weakest link: the longest link within a cluster over the smallest gap between two
- silhouette: from -1 to 1; near 0 clusters run into each other

Centers are medoids here: the speakers in the middle of the clusters.

![Quality over k](quality.png)

{conditions}
"""


def conditions(hparams, arguments, speakers, ball, software):
    """What the clusters were made with, lines of markdown."""
    space = "cosine" if ball is None else f"in {ball}, of the projected mean embeddings"
    lines = [
        f"Command: `cluster.py {shlex.join(arguments)}`",
        f"Model: {hparams['model']}",
        f"Speakers: {speakers}, each the mean embedding of at most "
        f"{hparams['utterances']} random utterances, crops of {hparams['seconds']:g} s; "
        f"seed {hparams['seed']}",
        f"Distance: {space}",
        f"Software: {', '.join(f'{name} {value}' for name, value in software.items())}",
    ]
    return "\n".join(f"- {line}" for line in lines)


# ------------------------------------------------------------------------- main


def check_numbers(numbers, annotation):
    """ValueError where the speakers cannot be clustered into each k of a list."""
    if not isinstance(numbers, list) or not numbers:
        raise ValueError(f"k={numbers}: must be a list of numbers, as [10, 20, 50].")
    for k in numbers:
        if type(k) is not int or k < 2 or numbers.count(k) > 1:
            raise ValueError(f"k={numbers}: whole numbers, at least 2, each once.")
    speakers = len(read_utterances(annotation))
    if max(numbers) >= speakers:
        raise ValueError(
            f"k={max(numbers)}: {annotation} has {speakers} speakers; give numbers below "
            "that, as --k='[2, 4]'."
        )


def find_ball(ball, encoder):
    """The ball that the yaml's ``ball`` means, or None for cosine."""
    if ball != "model":
        if ball is None or isinstance(ball, Ball):
            return ball
        raise ValueError(
            f"ball={ball}: null for cosine, model for the ball that the model was "
            "trained with, or one of hamsb's, '!new:hamsb.ClippedUnitBall [3.0]'."
        )
    classifier = encoder.mods["classifier"] if "classifier" in encoder.mods else None
    if not hasattr(classifier, "ball"):
        raise ValueError(
            "ball=model: needs the ball of a hyperbolic classifier; this model's "
            f"classifier is {type(classifier).__name__}."
        )
    return classifier.ball


def main(arguments):
    hparams_file, run_opts, overrides = parse_arguments(arguments)
    hparams = load_hparams(hparams_file, overrides)
    annotation, folder = hparams["annotation"], Path(str(hparams["output_folder"]))
    check_numbers(hparams["k"], annotation)
    encoder = load_encoder(Path(str(hparams["model"])), run_opts)
    ball, seed = find_ball(hparams["ball"], encoder), hparams["seed"]
    names, means = embed_speakers(
        encoder.encode_batch,
        annotation,
        encoder.hparams.audio_normalizer.sample_rate,
        utterances=hparams["utterances"],
        seconds=hparams["seconds"],
        seed=seed,
        progress=not run_opts.noprogressbar,
        batch_size=hparams["batch_size"],
    )
    distances = distance_matrix(*place_speakers(means, ball))
    clusterings = [
        cluster_speakers(names, means, k, ball, seed) for k in sorted(hparams["k"])
    ]
    records = [judge(clusters, names, distances) for clusters in clusterings]
    table = quality_table(records)
    software = {**versions(encoder.device), "scikit-learn": sklearn.__version__}
    text = REPORT.format(
        annotation=annotation,
        table=table,
        conditions=conditions(hparams, arguments, len(names), ball, software),
    )
    about = {"settings": hparams, "arguments": arguments, "versions": software}
    write_results(folder, clusterings, records, text, about)
    print(f"{table}Clusters, report and plot: {folder}")


if __name__ == "__main__":
    main_or_exit(main)
