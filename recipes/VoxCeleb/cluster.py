#!/usr/bin/env python3
"""Cluster the training speakers with an exported model, for hard negative sampling.

    python recipes/VoxCeleb/cluster.py hparams/cluster.yaml \\
        --model=results/mini/1234/export

A speaker is the mean embedding of random crops of its utterances. For each number of
clusters k of the yaml the speakers are clustered, by cosine or in a hyperbolic ball,
and the clusters judged. What comes out, in ``output_folder``, appears when all of it is
complete:

``clusters_<k>.csv``
    each speaker's cluster, and which clusters are nearest to each other: what a batch
    sampler's ``clusters`` takes.
``report.md``, ``metrics.json``
    for people and for programs: sizes and quality of the clusters of each k, and what
    it was all made with.
``quality.png``
    the measures of quality over k.
"""

from hamsb.utils.help import help_if_asked
from hamsb.utils.keys import Key
from hamsb.utils.run_options import ANALYSIS

KEYS = [
    Key("model", "folder", "the export of a training run"),
    Key("annotation", "file", "csv of the speakers: that run's save/train.csv"),
    Key("output_folder", "folder", "clusters, report and plot"),
    Key("utterances", "count", "of each speaker, at most"),
    Key("seconds", "seconds", "of a random crop; a shorter utterance is taken whole"),
    Key("seed", "whole number", "of the crops and of k-means"),
    Key("batch_size", "count", "crops embedded together; null: as the device likes"),
    Key("num_workers", "whole number", "processes that read the files", optional=True),
    Key("k", "list of numbers", "of clusters: a file for each"),
    Key("ball", "object", "null: cosine; model: the one it was trained with; or a ball"),
]

if __name__ == "__main__":
    help_if_asked(__doc__, KEYS, ANALYSIS)  # before what takes seconds to import

import json
from importlib.metadata import version
from pathlib import Path

from hamsb.analysis.clustering import (
    MEASURES,
    cluster_speakers,
    embed_speakers,
    judge,
    speaker_distances,
    which_ball,
)
from hamsb.analysis.plots import plot_cluster_quality
from hamsb.dataio.annotations import read_utterances
from hamsb.dataio.clusters import write_clusters
from hamsb.inference.speaker import load_encoder, trained_ball
from hamsb.utils.command_line import main_or_exit, parse_arguments
from hamsb.utils.conditions import conditions, versions
from hamsb.utils.files import only_run, replacing_files
from hamsb.utils.hparams import load_hparams
from hamsb.utils.packages import missing
from hamsb.utils.run_folder import check_script, write_run
from hamsb.utils.tables import markdown_table

SCRIPT = "cluster.py"

# ----------------------------------------------------------------- what is asked for


def check_numbers(numbers, annotation):
    """ValueError where the speakers cannot be clustered into each k of a list."""
    if not numbers:
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


# ---------------------------------------------------------------------- the results

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


def quality_table(records):
    """What `judge` found for each k, in markdown."""
    arrows = {"lower": "↓", "higher": "↑"}
    sizes = ("k", "smallest", "median", "largest")
    header = [*sizes, *(f"{words(name)} {arrows[end]}" for name, end in MEASURES.items())]
    rows = [
        [*(f"{record[key]:g}" for key in sizes), *(f"{record[n]:.3f}" for n in MEASURES)]
        for record in records
    ]
    return markdown_table(header, rows, left=0)


def words(name):
    return name.replace("_", " ")


def write_results(folder, clusterings, records, text, about):
    """Write clusters, their records (of `judge`), the plot and the report's text, all or
    nothing; ``about`` is what metrics.json says besides: settings, versions."""
    numbers = json.dumps({**about, "results": records}, default=str)
    numbers = json.loads(numbers, parse_constant=str)  # JSON has no infinity
    measures = {
        words(name): (end, [record[name] for record in records])
        for name, end in MEASURES.items()
    }
    with replacing_files(folder) as made:
        for clusters, record in zip(clusterings, records, strict=True):
            write_clusters(clusters, made / f"clusters_{record['k']}.csv")
        plot_cluster_quality(
            [record["k"] for record in records], measures, made / "quality.png"
        )
        json_text = json.dumps(numbers, indent=2, allow_nan=False)
        (made / "metrics.json").write_text(f"{json_text}\n", encoding="utf-8")
        (made / "report.md").write_text(text, encoding="utf-8")


# ------------------------------------------------------------------------- main


def main(arguments):
    hparams_file, run_opts, overrides = parse_arguments(arguments, KEYS, SCRIPT, ANALYSIS)
    hparams = load_hparams(hparams_file, overrides)
    if why := missing("clustering"):
        raise ValueError(why)
    check_numbers(hparams["k"], hparams["annotation"])
    folder = Path(str(hparams["output_folder"]))
    check_script(folder, SCRIPT)
    encoder = load_encoder(Path(str(hparams["model"])), run_opts)
    ball = which_ball(hparams["ball"], trained_ball(encoder))
    with only_run(folder):
        cluster(arguments, hparams, encoder, ball, folder, not run_opts.noprogressbar)


def cluster(arguments, hparams, encoder, ball, folder, progress):
    """Cluster, and write the results into a folder that is this run's alone."""
    annotation, seed = hparams["annotation"], hparams["seed"]
    names, means = embed_speakers(
        encoder.encode_batch,
        annotation,
        encoder.audio_normalizer.sample_rate,
        utterances=hparams["utterances"],
        seconds=hparams["seconds"],
        seed=seed,
        progress=progress,
        batch_size=hparams["batch_size"],
        num_workers=hparams.get("num_workers"),
        device=encoder.device,
    )
    distances = speaker_distances(means, ball)
    clusterings = [
        cluster_speakers(names, means, k, ball, seed) for k in sorted(hparams["k"])
    ]
    records = [judge(clusters, names, distances) for clusters in clusterings]
    table = quality_table(records)
    software = {**versions(encoder.device), "scikit-learn": version("scikit-learn")}
    space = "cosine" if ball is None else f"in {ball}, of the projected mean embeddings"
    facts = [
        f"Model: {hparams['model']}",
        f"Speakers: {len(names)}, each the mean embedding of at most "
        f"{hparams['utterances']} random utterances, crops of {hparams['seconds']:g} s; "
        f"seed {seed}",
        f"Distance: {space}",
    ]
    text = REPORT.format(
        annotation=annotation,
        table=table,
        conditions=conditions(SCRIPT, arguments, facts, software),
    )
    about = {"settings": hparams, "arguments": arguments, "versions": software}
    write_results(folder, clusterings, records, text, about)
    write_run(folder, {"script": SCRIPT})
    print(f"{table}Clusters, report and plot: {folder}")


if __name__ == "__main__":
    main_or_exit(main)
