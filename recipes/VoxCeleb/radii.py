#!/usr/bin/env python3
"""Where embeddings and centers end up in the ball, and whether that means anything.

    python recipes/VoxCeleb/radii.py hparams/radii.yaml --model=<export folder>

A random part of the trial lists' utterances is embedded whole, as crops and with noise.
The length of an embedding before the ball's projection and its hyperbolic distance from
the origin after it are summarised and related, by Spearman's rank correlation, to the
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

import copy
import json
import math
import shlex
import zlib
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from mini_corpus import NOISES, draw_noise
from scipy.stats import spearmanr

from hamsb.analysis.plots import plot_boxes, plot_disk
from hamsb.dataio.annotations import read_speakers
from hamsb.inference.speaker import load_encoder
from hamsb.nnet.similarities import CosineSimilarity
from hamsb.utils.command_line import main_or_exit, parse_arguments
from hamsb.utils.conditions import versions
from hamsb.utils.files import replacing_files
from hamsb.utils.hparams import load_hparams
from hamsb.verification.bootstrap import interval
from hamsb.verification.embeddings import Embeddings, embed_sets
from hamsb.verification.trials import read_lists

DIGITS = 9  # radii and distances that differ by less differ by rounding: they are one
MEASURES = {"norm": "norm", "centred": "norm about the mean", "radius": "radius"}
BLOCK = 1024  # centers compared with all others at once


# ------------------------------------------------------------- utterances, changed


def choose(files, count, seed):
    """``count`` of the utterances at random, or all: dict of str to Path, sorted."""
    names = sorted(files)
    if count is not None and count < len(names):
        drawn = np.random.default_rng(seed).choice(len(names), count, replace=False)
        names = [names[i] for i in sorted(drawn)]
    return {name: files[name] for name in names}


def own_random(wav, seed):
    """A generator that an utterance's samples and the seed decide, and nothing else:
    neither which others are there nor in what order."""
    content = zlib.crc32(wav.numpy().tobytes())
    return np.random.default_rng([seed, content])


def cut(wav, samples, seed):
    """A crop of an utterance [T], [samples]; shorter ones lie within longer ones."""
    start = int(own_random(wav, seed).random() * (len(wav) - samples + 1))
    return wav[start : start + samples]


def add_noise(wav, kind, snr, seed):
    """An utterance [T] with noise, the same at every signal-to-noise ratio, in dB of
    their mean powers."""
    noise = torch.from_numpy(draw_noise(own_random(wav, seed), kind, len(wav)))
    return wav + (noise * wav.double().square().mean().sqrt() * 10 ** (-snr / 20)).float()


# ---------------------------------------------------------------- what is measured


@dataclass
class Lengths:
    """Lengths of vectors, and where a ball puts them.

    Attributes
    ----------
    norm : array
        [N], before the projection.
    centred : array or None
        [N], the same after a mean vector was subtracted.
    radius : array or None
        [N], the hyperbolic distance from the origin after it; None without a ball.
    limited : array or None
        [N], bool: the projection cuts the vector short.
    points : torch.Tensor or None
        [N, D] in the ball.
    """

    norm: np.ndarray
    centred: np.ndarray | None = None
    radius: np.ndarray | None = None
    limited: np.ndarray | None = None
    points: torch.Tensor | None = None


@torch.no_grad()
def measure(ball, vectors, mean=None):
    """Lengths of vectors [N, D], of those minus a mean [D], and in a ball.

    All on the CPU in float64; without a mean, or a ball, there is none of the latter.
    """
    found = Lengths(torch.linalg.vector_norm(vectors, dim=1).numpy())
    if mean is not None:
        found.centred = torch.linalg.vector_norm(vectors - mean, dim=1).numpy()
    if ball is not None:
        found.points = ball.project(vectors)
        origin = torch.zeros_like(found.points)
        found.radius = ball.distance(found.points, origin).numpy().round(DIGITS)
        found.limited = ball.limited(vectors).numpy()
    return found


@dataclass
class Condition:
    """Utterances that were all changed in one way.

    Attributes
    ----------
    kind : {"whole", "crop", "noise"}
    value : float
        Of crops their seconds, of noise the signal-to-noise ratio in dB; else infinite:
        nothing was cut and nothing added.
    embeddings : Embeddings
        Their ``seconds`` are those of the whole utterances.
    lengths : Lengths
    """

    kind: str
    value: float
    embeddings: Embeddings
    lengths: Lengths

    @property
    def speakers(self):
        """Of each utterance, its first folder: array [N] of str."""
        return np.array([name.partition("/")[0] for name in self.embeddings.utterances])


def embed_conditions(encode, ball, files, lists, sample_rate, hparams, progress):
    """Embed every utterance whole, cut (where it is longer than the crop) and with noise.

    Arguments
    ---------
    encode : callable
        Audio [B, T] -> embeddings [B, 1, D].
    ball : hamsb.nnet.balls.Ball or None
    files : dict of str to Path
    lists : list of Trials
        What an error about a file names.
    sample_rate : int
        Hz.
    hparams : dict
        With ``crop_seconds``, ``snrs``, ``noise`` and ``seed``.
    progress : bool

    Returns
    -------
    list of Condition
        The whole utterances first; their mean is what all are centred by. A crop that
        no utterance is longer than is not there.
    """
    seed = hparams["seed"]

    def embedded(change, chosen):
        def changed(wavs):
            return encode(torch.stack([change(wav) for wav in wavs]))

        return embed_sets(changed, [chosen], lists, sample_rate, progress=progress)[0]

    def condition(kind, value, embeddings):
        lengths = measure(ball, embeddings.matrix.double(), mean)
        return Condition(kind, value, embeddings, lengths)

    whole = embedded(lambda wav: wav, files)
    mean = whole.matrix.double().mean(0)
    conditions = [condition("whole", math.inf, whole)]
    for seconds in hparams["crop_seconds"]:
        samples = round(seconds * sample_rate)
        longer = {
            name: files[name]
            for name, length in zip(whole.utterances, whole.seconds.tolist())
            if round(length * sample_rate) > samples
        }
        if longer:
            change = partial(cut, samples=samples, seed=seed)
            conditions.append(condition("crop", seconds, embedded(change, longer)))
    for snr in hparams["snrs"]:
        change = partial(add_noise, kind=hparams["noise"], snr=snr, seed=seed)
        conditions.append(condition("noise", snr, embedded(change, files)))
    return conditions


# ------------------------------------------------------------------- correlations


def summary(values):
    """Number, mean, standard deviation, least, median and largest of values [N]."""
    return {
        "number": len(values),
        "mean": float(np.mean(values)),
        "std": float(np.std(values - values[0])),  # exactly 0 of equal ones
        "min": float(np.min(values)),
        "median": float(np.median(values)),
        "max": float(np.max(values)),
    }


def confusabilities(condition, nearest):
    """Mean cosine of each utterance to its ``nearest`` utterances of other speakers, [N].

    ValueError where there is one speaker only.
    """
    owner = condition.speakers
    if len(set(owner)) < 2:
        raise ValueError(
            f"all utterances are of speaker {owner[0]}: nobody to confuse them with; "
            "take more utterances, or lists of more speakers."
        )
    similarity = CosineSimilarity()
    points = similarity.project(condition.embeddings.matrix.double())
    cosines = similarity.pairwise(points, points).numpy()
    cosines[owner[:, None] == owner] = -np.inf
    found = np.sort(cosines, axis=1)[:, -nearest:]
    return np.nanmean(np.where(np.isfinite(found), found, np.nan), axis=1)


def correlation(x, y, speakers, draws, seed):
    """Spearman's rank correlation, with an interval from a bootstrap over speakers.

    Arguments
    ---------
    x, y : array
        [N]; infinite values have their rank.
    speakers : array
        [N], whose pair it is: pairs of one speaker are drawn together.
    draws : int
        As many as there are speakers are drawn with replacement, so often; a draw
        without a correlation is replaced by the next. 0: no interval.
    seed : int

    Returns
    -------
    dict or None
        ``rho`` and ``interval``, 95 %, low and high, or None. None where there is no
        correlation: fewer than 3 pairs, or one side is constant.

    Example
    -------
    >>> found = correlation([1, 2, 3, 5], [0.1, 0.2, 0.4, 0.3], list("aabb"), 0, seed=0)
    >>> round(found["rho"], 6), found["interval"]
    (0.8, None)
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if len(x) < 3 or not varies(x) or not varies(y):
        return None
    ranks = np.unique(x, return_inverse=True)[1], np.unique(y, return_inverse=True)[1]
    names, owner = np.unique(speakers, return_inverse=True)
    rows = [np.flatnonzero(owner == k) for k in range(len(names))]
    random, values = np.random.default_rng(seed), []
    while len(values) < draws:
        speakers = random.integers(len(rows), size=len(rows))
        drawn = np.concatenate([rows[k] for k in speakers])
        a, b = (side[drawn] for side in ranks)
        if varies(a) and varies(b):
            values.append(spearmanr(a, b).statistic)
    return {
        "rho": float(spearmanr(*ranks).statistic),
        "interval": interval(values) if draws else None,
    }


def varies(values):
    return bool((values != values[0]).any())


def relate_embeddings(conditions, nearest, draws, seed):
    """What lengths and radii are related to.

    Arguments
    ---------
    conditions : list of Condition
        The whole utterances first.
    nearest, draws, seed : int
        As for `confusabilities` and `correlation`.

    Returns
    -------
    list of dict
        ``related_to``, ``pairs``, and for each of MEASURES what `correlation` returns;
        without a ball there is no ``radius``.
    """
    whole = conditions[0]
    seconds = whole.embeddings.seconds.numpy()
    crops = [condition for condition in conditions if condition.kind == "crop"]
    noises = [condition for condition in conditions if condition.kind == "noise"]
    found = []

    def relate(name, chosen, others):
        others = np.concatenate(others)
        owner = np.concatenate([condition.speakers for condition in chosen])
        line = {"related_to": name, "pairs": len(others)}
        for key in MEASURES:
            values = [getattr(condition.lengths, key) for condition in chosen]
            if values[0] is not None:
                values = np.concatenate(values)
                line[key] = correlation(values, others, owner, draws, seed)
        found.append(line)

    def value(condition):
        return np.full(len(condition.embeddings), condition.value)

    relate("duration, whole utterances", [whole], [seconds])
    if crops:
        others = [seconds, *map(value, crops)]
        relate("duration, whole utterances and crops", [whole, *crops], others)
    if noises:
        chosen = [whole, *noises]
        relate("signal-to-noise ratio, clean the highest", chosen, [*map(value, chosen)])
    name = f"confusability: mean of the {nearest} highest cosines to other speakers"
    relate(name, [whole], [confusabilities(whole, nearest)])
    return found


def by_condition(conditions):
    """A line for each condition: each of MEASURES summarised, with the mean ``share`` of
    what it is for the same utterance whole and clean; and the share ``limited``."""
    whole, lines = conditions[0], []
    for condition in conditions:
        line = {
            "kind": condition.kind,
            "value": condition.value if math.isfinite(condition.value) else None,
        }
        same = whole.embeddings.rows(condition.embeddings.utterances).numpy()
        for key in MEASURES:
            values = getattr(condition.lengths, key)
            if values is not None:
                before = np.maximum(getattr(whole.lengths, key)[same], 1e-12)
                share = float(np.mean(values / before))
                line[key] = {**summary(values), "share": share}
        if condition.lengths.limited is not None:
            line["limited"] = float(condition.lengths.limited.mean())
        lines.append(line)
    return lines


# --------------------------------------------------------------------- the centers


@torch.no_grad()
def nearest_centers(ball, points):
    """Each center's distance to the nearest other one, and its highest cosine to
    another one, which is not always the same one: two arrays [C]."""
    directions = CosineSimilarity().project(points.double())
    distances, cosines = [], []
    for start in range(0, len(points), BLOCK):
        part = slice(start, start + BLOCK)
        rows = torch.arange(len(points[part]))
        distance = ball.pairwise_distance(points[part], points)
        distance[rows, start + rows] = math.inf
        distances.append(distance.amin(1))
        cosine = directions[part] @ directions.T
        cosine[rows, start + rows] = -math.inf
        cosines.append(cosine.amax(1))
    found = (torch.cat(distances), torch.cat(cosines))
    return tuple(values.numpy().round(DIGITS) for values in found)


def relate_centers(ball, lengths, names, counts, draws, seed):
    """What the centers' radii are related to, lines as of `relate_embeddings`.

    Arguments
    ---------
    ball : hamsb.nnet.balls.Ball
    lengths : Lengths
        Of the C centers.
    names : list
        The speaker of each center, or None.
    counts : Counter
        Training utterances of speakers; empty where unknown. Classes that are no
        speaker of it, as those of changed speed, are left out there.
    draws, seed : int
        As for `correlation`; each center is a speaker.
    """
    found = []

    def relate(name, which, others):
        rho = correlation(lengths.radius[which], others, which, draws, seed)
        found.append({"related_to": name, "pairs": len(which), "radius": rho})

    everyone = np.arange(len(lengths.radius))
    if len(everyone) > 1:
        distances, cosines = nearest_centers(ball, lengths.points)
        relate("distance to the nearest other center", everyone, distances)
        relate("highest cosine to another center", everyone, cosines)
    if counts:
        known = np.array([i for i in everyone if names[i] in counts])
        numbers = [counts[names[i]] for i in known]
        relate("number of training utterances", known, numbers)
    return found


def count_utterances(path):
    """Speaker -> number of rows in a run's train.csv; empty without one."""
    if path is None:
        return Counter()
    return Counter(read_speakers(path))


def class_names(encoder, head, counts, path):
    """The speaker of each center, or None; ValueError where none is in the counts."""
    if head is None:
        return []
    labels = getattr(encoder.hparams, "label_encoder", None)
    known = {} if labels is None else labels.ind2lab
    names = [known.get(i) for i in range(len(head.lengths.norm))]
    if counts and not counts.keys() & set(names):
        raise ValueError(
            f"train_annotation={path}: none of its {len(counts)} speakers is a class of "
            "the model; give the save/train.csv of the run that trained it."
        )
    return names


# ------------------------------------------------------------------------ results


def table(header, rows):
    """Markdown; the first column is text, the others are numbers."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def number(value):
    return f"{value:.4g}"


def summary_table(lines):
    """Of what `summaries` returned."""
    keys = ("mean", "std", "min", "median", "max")
    rows = []
    for line in lines:
        limited = line["limited"]
        row = [line["of"], line["number"], *(number(line[key]) for key in keys)]
        rows.append([*row, "" if limited is None else f"{100 * limited:.1f}"])
    return table(["of", "number", *keys, "limited by the ball %"], rows)


def relation_table(lines):
    """Of what `relate_embeddings` or `relate_centers` returned."""
    measures = [key for key in MEASURES if key in lines[0]]
    header = ["related to", "pairs"]
    for key in measures:
        header += [MEASURES[key], "95 % interval"]
    rows = [
        [line["related_to"], line["pairs"], *(c for k in measures for c in cells(line[k]))]
        for line in lines
    ]
    return table(header, rows)


def cells(found):
    """A correlation and its interval as text."""
    if found is None:
        return "none", ""
    ends = found["interval"]
    return f"{found['rho']:.2f}", f"{ends[0]:.2f} to {ends[1]:.2f}" if ends else ""


# How the conditions of a kind are called: unit, without change, and all of them.
CALLED = {
    "crop": ("s", "whole", "duration"),
    "noise": ("dB", "clean", "signal-to-noise ratio"),
}


def condition_name(kind, value):
    """For tables and plots; without a value, or with an infinite one, unchanged."""
    unit, unchanged, _ = CALLED[kind]
    return unchanged if value in (None, math.inf) else f"{value:g} {unit}"


def condition_table(lines, kind):
    """Of what `by_condition` returned: one kind, and the whole utterances."""
    lines = [line for line in lines if line["kind"] in (kind, "whole")]
    lines.sort(key=lambda line: math.inf if line["value"] is None else line["value"])
    measures = [key for key in MEASURES if key in lines[0]]
    header = [CALLED[kind][2], "utterances"]
    for key in measures:
        header += [f"mean {MEASURES[key]}", f"% of {CALLED[kind][1]}"]
    rows = []
    for line in lines:
        row = [condition_name(kind, line["value"]), line["norm"]["number"]]
        for key in measures:
            row += [number(line[key]["mean"]), f"{100 * line[key]['share']:.1f}"]
        if "limited" in line:
            row.append(f"{100 * line['limited']:.1f}")
        rows.append(row)
    return table(header + ["limited %"] * ("limited" in lines[0]), rows)


def boxes(conditions):
    """The lengths, as they are and about the mean, at each duration and each
    signal-to-noise ratio, as ``plot_boxes`` takes them."""
    panels = {}
    for kind, (_, _, label) in CALLED.items():
        chosen = [c for c in conditions if c.kind in (kind, "whole")]
        chosen.sort(key=lambda condition: condition.value)
        panels[label] = {
            condition_name(kind, c.value): {
                MEASURES[key]: getattr(c.lengths, key) for key in ("norm", "centred")
            }
            for c in chosen
        }
    return panels


REPORT = """# Radii of {model}

{summaries}
{explanation}

Embeddings, Spearman's rank correlation:

{embeddings}
{none}

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
NONE = "None: one of the two is the same for all, or there are fewer than three pairs."
CENTERS = """Centers, Spearman's rank correlation:

{}
The further out two centers are, the further are they from each other at the same angle;
the cosine tells of the angle alone.

"""
DISK = """Whole utterances, clean, and the centers of the training speakers:

![Poincare disk](disk.png)

"""


def write_report(hparams, arguments, files, results, device):
    """The text of report.md."""
    with_ball = "centers" in results
    lines = results["conditions"]
    return REPORT.format(
        model=hparams["model"],
        summaries=summary_table(results["summaries"]),
        explanation=WITH_BALL if with_ball else WITHOUT_BALL,
        none=NONE,
        embeddings=relation_table(results["embeddings"]),
        centers=CENTERS.format(relation_table(results["centers"])) if with_ball else "",
        durations=condition_table(lines, "crop"),
        noise=hparams["noise"],
        noises=condition_table(lines, "noise"),
        disk=DISK * with_ball,
        conditions=conditions_text(hparams, arguments, files, device),
    )


def conditions_text(hparams, arguments, files, device):
    """What the numbers were measured under, lines of markdown."""
    speakers = {name.partition("/")[0] for name in files}
    lines = [
        f"Command: `radii.py {shlex.join(arguments)}`",
        f"Utterances: {len(files)} of {len(speakers)} speakers, at random, seed "
        f"{hparams['seed']}; each embedded alone, without padding",
    ]
    if hparams["bootstrap_draws"]:
        lines.append(
            f"Intervals: 95 %, bootstrap over speakers, {hparams['bootstrap_draws']} draws"
        )
    software = ", ".join(f"{name} {value}" for name, value in versions(device).items())
    return "\n".join(f"- {line}" for line in [*lines, f"Software: {software}"])


def write_radii(folder, text, numbers, conditions, head):
    """All files of the output folder, which appear when all of them are complete.

    Arguments
    ---------
    folder : Path
    text : str
        Of report.md.
    numbers : dict
        Of metrics.json.
    conditions : list of Condition
    head : Head or None
    """
    numbers = json.dumps(numbers, indent=2, default=str, allow_nan=False)
    with replacing_files(folder) as made:
        plot_boxes(boxes(conditions), "length of the embedding", made / "radii.png")
        if head is not None:
            whole = conditions[0]
            plot_disk(
                whole.lengths.points.numpy(),
                whole.speakers,
                made / "disk.png",
                head.metric_curvature,
                head.lengths.points.numpy(),
            )
        else:
            (folder / "disk.png").unlink(missing_ok=True)  # of another model
        (made / "metrics.json").write_text(f"{numbers}\n", encoding="utf-8")
        (made / "report.md").write_text(text, encoding="utf-8")


# --------------------------------------------------------------------------- main


def check(hparams):
    """ValueError where a key's value is none of those that the yaml names."""
    leasts = {"utterances": 2, "nearest": 1, "bootstrap_draws": 0, "seed": 0}
    for key, least in leasts.items():
        value = hparams[key]
        if key == "utterances" and value is None:
            continue
        if type(value) is not int or value < least:
            raise ValueError(f"{key}={value}: must be a whole number, at least {least}.")
    for key, least in (("crop_seconds", 0.0), ("snrs", -math.inf)):
        values = hparams[key]
        if not isinstance(values, list):
            raise ValueError(f"{key}={values}: must be a list of numbers, or [].")
        for value in values:
            good = type(value) in (int, float) and least < value < math.inf
            if not good or values.count(value) > 1:
                raise ValueError(
                    f"{key}={values}: {value} must be a number, given once"
                    f"{' and positive' * (key == 'crop_seconds')}."
                )
    if hparams["noise"] not in NOISES:
        raise ValueError(f"noise={hparams['noise']}: must be one of {', '.join(NOISES)}.")


@dataclass
class Head:
    """The hyperbolic head of a model, on the CPU in float64.

    Attributes
    ----------
    ball : hamsb.nnet.balls.Ball
    lengths : Lengths
        Of the centers.
    """

    ball: torch.nn.Module
    lengths: Lengths

    @classmethod
    def of(cls, encoder):
        """That of an EncoderClassifier; None where it has another one, or none."""
        classifier = encoder.mods["classifier"] if "classifier" in encoder.mods else None
        if not hasattr(classifier, "ball"):
            return None
        ball = copy.deepcopy(classifier.ball).cpu().double()
        return cls(ball, measure(ball, classifier.euclidean_centers().detach().cpu().double()))

    @property
    def metric_curvature(self):
        """c of the distance: 1 in the clipped unit ball, whatever sets its clip."""
        return torch.as_tensor(self.ball.metric_curvature).item()


def summaries(conditions, head):
    """The lines of the report's first table."""
    whole = conditions[0].lengths
    lines = [
        ("embeddings: norm", whole.norm, whole.limited),
        ("embeddings: norm about the mean", whole.centred, None),
    ]
    if head is not None:
        centers = head.lengths
        lines += [
            ("embeddings: radius", whole.radius, whole.limited),
            ("centers: norm", centers.norm, centers.limited),
            ("centers: radius", centers.radius, centers.limited),
        ]
    return [
        {
            "of": name,
            **summary(values),
            "limited": None if limited is None else float(limited.mean()),
        }
        for name, values, limited in lines
    ]


def main(arguments):
    hparams_file, run_opts, overrides = parse_arguments(arguments)
    hparams = load_hparams(hparams_file, overrides)
    check(hparams)
    encoder = load_encoder(Path(str(hparams["model"])), run_opts)
    head, counts = Head.of(encoder), count_utterances(hparams["train_annotation"])
    names = class_names(encoder, head, counts, hparams["train_annotation"])
    lists, files = read_lists(hparams["verification_file"], hparams["test_data_folder"])
    for trials in lists:
        _ = trials.speakers  # every path begins with one
    files = choose(files, hparams["utterances"], hparams["seed"])
    conditions = embed_conditions(
        encoder.encode_batch,
        None if head is None else head.ball,
        files,
        lists,
        encoder.hparams.audio_normalizer.sample_rate,
        hparams,
        not run_opts.noprogressbar,
    )
    how = hparams["bootstrap_draws"], hparams["seed"]
    results = {
        "summaries": summaries(conditions, head),
        "embeddings": relate_embeddings(conditions, hparams["nearest"], *how),
        "conditions": by_condition(conditions),
    }
    if head is not None:
        results["centers"] = relate_centers(head.ball, head.lengths, names, counts, *how)
    device, folder = encoder.device, Path(str(hparams["output_folder"]))
    text = write_report(hparams, arguments, files, results, device)
    about = {"settings": hparams, "versions": versions(device), "utterances": len(files)}
    write_radii(folder, text, {**about, **results}, conditions, head)
    print(
        f"{summary_table(results['summaries'])}\n{relation_table(results['embeddings'])}"
        f"Report and plots: {folder}"
    )


if __name__ == "__main__":
    main_or_exit(main)
