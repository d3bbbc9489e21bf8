#!/usr/bin/env python3
"""How much of a known tree of speakers a model's space holds, with nulls and intervals.

    python recipes/VoxCeleb/hierarchy.py hparams/hierarchy.yaml \\
        --model=results/mini/1234/export

The levels of the tree, root first, are columns of a metadata file, such as gender or
accent, and the speaker and session that paths tell. Points are speakers, or utterances
where a level lies below the speaker. ``--model="[one, another]"`` compares models, and
``--model="{ham: [one, another], aam: [third]}"`` systems of several seeds. What comes
out, in ``output_folder``, appears when all of it is complete:

``report.md``, ``metrics.json``
    for people and for programs: hyperbolicity, agreement of the dendrogram and of the
    distances with the tree, retrieval by level, radii.
``tree.png``
    the dendrogram of the speakers, with their groups.
``disk.png``
    the speakers in the Poincare disk, with the edges of the true tree.
``levels.png``
    distances of pairs, by the level where they part.

With several systems there is a ``tree_<system>.png`` and a ``disk_<system>.png`` of the
first model of each, and, where the reports of their trainings lie beside the exports,
``rates.png``: tree agreement against EER.
"""

from hamsb.utils.help import help_if_asked
from hamsb.utils.keys import Key
from hamsb.utils.run_options import ANALYSIS

KEYS = [
    Key("model", "folder, list or mapping", "exports; a mapping: seeds by system"),
    Key("test_data_folder", "data or list", "of the trials, in any layout"),
    Key("verification_file", "file or list", "trial lists, whose utterances are taken"),
    Key("metadata", "file", "csv file that tells of speakers or utterances, or null"),
    Key(
        "levels",
        "list of names",
        "of the tree, root first: columns; speaker, session, utterance",
    ),
    Key("noise", "name", "a column that the radius is compared with, or null"),
    Key("output_folder", "folder", "report and plots"),
    Key("utterances", "count", "of each speaker, at most; null: all"),
    Key("points", "count", "at most, speakers or utterances"),
    Key("ball", "object", "null: angle; model: the one it was trained with; or a ball"),
    Key("nearest", "count", "points that sibling recall looks at"),
    Key("bootstrap_draws", "whole number", "for the intervals; 0: none"),
    Key("seed", "whole number", "of utterances, draws and nulls"),
    Key("num_workers", "whole number", "processes that read the files", optional=True),
    Key("cache_folder", "folder", "embeddings of all runs; null: embed anew"),
]

if __name__ == "__main__":
    help_if_asked(__doc__, KEYS, ANALYSIS)  # before what takes seconds to import

import json
from pathlib import Path

from hamsb.analysis.clustering import which_ball
from hamsb.analysis.disk import embed_in_disk
from hamsb.analysis.hierarchy import measure_model
from hamsb.analysis.hierarchy_plots import (
    plot_disk_tree,
    plot_levels,
    plot_rates,
    plot_tree,
)
from hamsb.analysis.levels import (
    FROM_PATH,
    choose_utterances,
    find_levels,
    numbers_of,
)
from hamsb.analysis.spaces import Space
from hamsb.analysis.tree_tables import (
    difference_table,
    level_table,
    name_systems,
    rate_rows,
    result_table,
    summarize,
    training_rates,
)
from hamsb.inference.folder import model_folder
from hamsb.inference.speaker import load_encoder, trained_ball
from hamsb.utils.checks import check_whole
from hamsb.utils.command_line import main_or_exit, parse_arguments
from hamsb.utils.conditions import conditions, versions
from hamsb.utils.files import only_run, replacing_files
from hamsb.utils.hparams import load_hparams
from hamsb.utils.run_folder import check_script, write_run
from hamsb.verification.cache import EmbeddingCache
from hamsb.verification.data import VerificationData, by_speaker, speaker_first
from hamsb.verification.decision import fingerprint
from hamsb.verification.embeddings import embed_sets
from hamsb.verification.groups import read_metadata
from hamsb.verification.lookup import read_lists
from hamsb.verification.overlaps import (
    find_overlaps,
    model_speakers,
    overlap_facts,
    overlap_warnings,
)
from hamsb.verification.trials import speaker_of

SCRIPT = "hierarchy.py"
PLOTS = ("rates.png", "levels.png", "tree*.png", "disk*.png")

# ----------------------------------------------------------------- what is asked for


def check(hparams):
    """ValueError where a key's value is none of those that the yaml names."""
    check_whole("points", hparams["points"], 4)
    levels = hparams["levels"]
    if not levels or not all(isinstance(name, str) for name in levels):
        raise ValueError(
            f"levels={levels}: must be a list of names, root first, as [gender, speaker]."
        )


def read_tree(hparams):
    """The chosen utterances' files, their levels, the noise of each or None, the lists
    that have them by the same names, and which speakers are in which list."""
    names = [name for name in hparams["levels"] if name not in FROM_PATH]
    columns = [*names, *filter(None, [hparams["noise"]])]
    metadata = None
    if columns and hparams["metadata"] is not None:
        metadata = read_metadata(hparams["metadata"], columns)
    lists, files = read_lists(hparams["verification_file"], hparams["test_data_folder"])
    for trials in lists:
        _ = trials.speakers  # every path begins with one
    data = VerificationData(lists, files)
    if metadata is not None:
        metadata = metadata.renamed(speaker_first(lists))
    lists, named = by_speaker(lists, files)
    below = find_levels(hparams["levels"], sorted(named), metadata, lists).below
    chosen = choose_utterances(
        named, hparams["utterances"], hparams["points"], below, hparams["seed"]
    )
    levels = find_levels(hparams["levels"], chosen, metadata, lists)
    noise = None
    if hparams["noise"] is not None:
        noise = numbers_of(hparams["noise"], chosen, metadata, lists)
    return {name: named[name] for name in chosen}, levels, noise, lists, data


# --------------------------------------------------------------------------- one model


def measure(hparams, path, tree, run_opts):
    """What was measured of one model, its space, its overlaps with the speakers, and its
    device."""
    files, levels, noise, lists, data = tree
    encoder = load_encoder(path, run_opts)
    trained, ball = trained_ball(encoder), hparams["ball"]
    if ball == "model" and trained is None and several(hparams["model"]):
        ball = None
    space = Space(which_ball(ball, trained))
    cache = None
    if hparams["cache_folder"] is not None:
        identity = f"{fingerprint(path)} on {encoder.device_type}"
        cache = EmbeddingCache(hparams["cache_folder"], identity)
    (embeddings,) = embed_sets(
        encoder.encode_batch,
        [files],
        lists,
        encoder.hparams.audio_normalizer.sample_rate,
        progress=not run_opts.noprogressbar,
        cache=cache,
        num_workers=hparams.get("num_workers"),
        device=encoder.device,
    )
    draws, seed = hparams["bootstrap_draws"], hparams["seed"]
    judged = measure_model(
        space, embeddings, levels, hparams["nearest"], draws, seed, noise
    )
    return judged, space, find_overlaps(data, model_speakers(path)), encoder.device


def several(model):
    """Whether more than one model is named."""
    return sum(len(paths) for paths in name_systems(model).values()) > 1


# --------------------------------------------------------------------------- the report

REPORT = """# Hierarchy in {models}

{results}
{differences}{explanation}

The tree, root first:

{levels}
{plots}

{conditions}
"""
HOW = """- relative delta: Gromov's hyperbolicity from a fixed point, over half of the
  diameter; 0 for a tree, and by itself it says little. In brackets the least and the
  largest of 20 random parts of the points, each with a diameter of its own
- tree agreement: Somers' D of the distance given the number of levels not shared
- dendrogram purity: of two points of one group, its share below their lowest common
  ancestor, average linkage; cophenetic correlation: of its heights with the distances
- retrieval of a level: how often two points that share it, and no more, are nearer to each
  other than two that part at it; 0.5 is chance
- sibling recall: of a point's nearest that share no more than the level, how many share it
- hierarchical precision: of the k nearest, the levels that they share, over the most
  possible; mean over all k
- radius: rank correlation of the distance from the origin, with depth on the way from the
  root's groups to the utterance
- null: labels of the levels above the speaker moved to other speakers, all others to other
  points; for delta and the cophenetic correlation a Gaussian of the same covariance. Where
  it is one of a system's own points, several systems have theirs in a row of its own

Brackets: 95 % intervals over speakers; ±: standard deviation, of several seeds or of the
null. A level of one group, or of single points, has no measures; none stands where one
cannot be measured, as the radius where a clip makes all radii equal."""
DIFFERENCES = """Difference from {first}; bold where the 95 % interval does not hold 0:

{table}
"""


def write_hierarchy(folder, judged, spaces, levels, rates, text, numbers):
    """All files of the output folder, which appear when all of them are complete; those
    of plots of other systems, from an earlier run, are removed."""
    _, paths = levels.of_speakers()
    groups, names = paths[:, : levels.speaker], levels.names[: levels.speaker]
    (agreement,) = [m for m in numbers["measures"] if m["name"] == "agreement"]
    numbers = json.dumps(numbers, indent=2, default=str, allow_nan=False)
    with replacing_files(folder) as made:
        for name, each in judged.items():
            end = "" if len(judged) == 1 else f"_{name.replace('/', '_')}"
            if names:
                label = spaces[name].label
                plot_tree(each[0].speakers, groups, names, made / f"tree{end}.png", label)
                points, distortion = embed_in_disk(each[0].speakers)
                plot_disk_tree(points, distortion, groups, names, made / f"disk{end}.png")
        pairs = {name: each[0].pairs for name, each in judged.items()}
        labels = {name: space.label for name, space in spaces.items()}
        plot_levels(pairs, labels, made / "levels.png")
        name, each = next(iter(rates.items()), ("", {}))
        if len(each) > 1:
            measured = agreement["systems"]
            plot_rates(each, measured, made / "rates.png", f"EER on {name} (%)")
        (made / "metrics.json").write_text(f"{numbers}\n", encoding="utf-8")
        (made / "report.md").write_text(text(made), encoding="utf-8")
        for older in (path for name in PLOTS for path in folder.glob(name)):
            if not (made / older.name).exists():
                older.unlink()


def pictures(made):
    """The plots of a folder in markdown."""
    return "\n\n".join(
        f"![{path.stem.replace('_', ', ')}]({path.name})"
        for name in PLOTS
        for path in sorted(made.glob(name))
    )


# --------------------------------------------------------------------------------- main


def main(arguments):
    hparams_file, run_opts, overrides = parse_arguments(arguments, KEYS, SCRIPT, ANALYSIS)
    hparams = load_hparams(hparams_file, overrides)
    check(hparams)
    systems = name_systems(hparams["model"])
    systems = {
        name: [model_folder(path) for path in paths] for name, paths in systems.items()
    }
    folder = Path(str(hparams["output_folder"]))
    check_script(folder, SCRIPT)
    tree = read_tree(hparams)
    with only_run(folder):
        judge(arguments, hparams, systems, tree, folder, run_opts)


def judge(arguments, hparams, systems, tree, folder, run_opts):
    """Measure all models, and write the results into a folder that is this run's alone."""
    files, levels, *_ = tree
    judged, spaces, overlaps = {}, {}, {}
    for name, paths in systems.items():
        judged[name] = []
        for path in paths:
            one, space, found, device = measure(hparams, path, tree, run_opts)
            judged[name].append(one)
            spaces[name], overlaps[str(path)] = space, found
            for warning in overlap_warnings(found):
                print(f"Warning: {path}: {warning}", flush=True)
    summary, nearest = summarize(judged), hparams["nearest"]
    rates = training_rates(systems)
    table = result_table(summary, levels.names, nearest, rate_rows(rates))
    differences = ""
    if len(systems) > 1:
        differences = DIFFERENCES.format(
            first=next(iter(systems)),
            table=difference_table(summary, levels.names, nearest),
        )
    points = "utterances" if levels.below else "speakers"
    software = versions(device)
    footer = conditions(
        SCRIPT,
        arguments,
        facts(hparams, levels, spaces, systems, overlaps),
        software,
    )

    def text(made):
        return REPORT.format(
            models=", ".join(systems),
            results=table,
            differences=differences,
            explanation=HOW,
            levels=level_table(levels.describe(), points),
            plots=pictures(made),
            conditions=footer,
        )

    numbers = {
        "settings": hparams,
        "arguments": arguments,
        "versions": software,
        "levels": levels.describe(),
        "utterances": len(files),
        "models": {name: [str(path) for path in paths] for name, paths in systems.items()},
        "distances": {name: space.name for name, space in spaces.items()},
        "overlaps": overlaps,
        **summary,
    }
    write_hierarchy(folder, judged, spaces, levels, rates, text, numbers)
    write_run(folder, {"script": SCRIPT})
    print(f"{table}\n{differences}Report and plots: {folder}")


def facts(hparams, levels, spaces, systems, overlaps):
    """What the numbers were measured under, line by line."""
    speakers = len({speaker_of(name) for name in levels.utterances})
    points = "each utterance a point" if levels.below else "each speaker a point"
    each = "all" if hparams["utterances"] is None else f"at most {hparams['utterances']}"
    yield (
        f"Utterances: {len(levels.utterances)} of {speakers} speakers, at random, {each} "
        f"of each, seed {hparams['seed']}, embedded without padding; {points}; at most "
        f"{hparams['points']} points"
    )
    for name, paths in systems.items():
        yield f"{name}: {spaces[name].name}, of {', '.join(str(path) for path in paths)}"
    if hparams["bootstrap_draws"]:
        yield (
            f"Intervals: 95 %, bootstrap over speakers, {hparams['bootstrap_draws']} "
            "draws, the same of all models"
        )
    yield from dict.fromkeys(map(overlap_facts, overlaps.values()))


if __name__ == "__main__":
    main_or_exit(main)
