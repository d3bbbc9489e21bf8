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
import json
import platform
import shlex
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import speechbrain as sb
import torch
from hamsb.utils.command_line import load_hparams, main_or_exit, parse_arguments
from speechbrain.inference.classifiers import EncoderClassifier
from tqdm import tqdm
from voxceleb_prepare import prepare_voxceleb

import hamsb
from hamsb.verification.calibration import Calibration, symmetric_qualities
from hamsb.verification.decision import fingerprint, make_decision, write_decision
from hamsb.verification.embeddings import EmbeddingCache, embed_utterances
from hamsb.verification.evaluation import (
    P_TARGETS,
    Metadata,
    eer_intervals,
    evaluate_groups,
    evaluate_trials,
    groups_table,
    read_metadata,
    results_table,
    trial_groups,
)
from hamsb.dataio.annotations import read_columns
from hamsb.utils.files import replacing_files
from hamsb.verification.metrics import bayes_threshold
from hamsb.verification.plots import plot_det, plot_scores
from hamsb.nnet.similarities import CosineSimilarity, HyperbolicSimilarity
from hamsb.verification.scoring import (
    cohort_statistics,
    find_utterances,
    normalise_scores,
    read_trials,
    score_trials,
    write_scores,
)

BACKENDS = ("cosine", "hyperbolic")
# How scores are normalised: the formula, and whether with each side's nearest alone.
NORMALISATIONS = {
    "none": None,
    "z-norm": ("z", False),
    "t-norm": ("t", False),
    "s-norm": ("s", False),
    "as-norm": ("s", True),
}
QUALITIES = {
    "duration": lambda embeddings: embeddings.seconds.log(),
    "norm": lambda embeddings: torch.linalg.vector_norm(embeddings.matrix.double(), dim=1),
}
MOST_CURVES = 10  # in one plot


# ------------------------------------------------------------------------ the data


def read_lists(files, roots):
    """Read the trial lists and find their audio, before anything takes long.

    Arguments
    ---------
    files : str or list of str
        The trial lists.
    roots : str or list of str
        The folders that hold ``wav/``.

    Returns
    -------
    list of Trials
    dict of str to Path
        Every utterance of the lists and its file.

    Raises
    ------
    ValueError
        Two lists have one name, since their results would overwrite each other;
        a list has trials of one class only.
    FileNotFoundError
        A list or an utterance is missing.
    """
    lists = [read_trials(file) for file in ([files] if isinstance(files, str) else files)]
    names, utterances = [trials.name for trials in lists], {}
    for trials in lists:
        if names.count(trials.name) > 1:
            raise ValueError(f"verification_file: two lists are named {trials.name!r}.")
        if len(set(trials.labels.tolist())) < 2:
            raise ValueError(
                f"{trials.path}: all {len(trials)} trials have the label "
                f"{trials.labels[0]}; an error rate needs both."
            )
        utterances.update(find_utterances(trials, roots))
    return lists, utterances


def find_cohort(data, lists, folder, sample_rate, per_speaker=None):
    """The utterances that scores are normalised with, none of a trial's speaker.

    Arguments
    ---------
    data : str or list of str
        Folders that hold ``wav/``, prepared as training data are, or csv files with the
        columns ``wav`` and ``spk_id``, as a preparation's train.csv.
    lists : list of Trials
        Their speakers are left out.
    folder : Path
        Where the preparation of folders goes.
    sample_rate : int
        Files of a folder at another rate are left out, in Hz.
    per_speaker : int, optional
        At most so many utterances of a speaker, spread evenly over the sorted paths.

    Returns
    -------
    dict of str to Path
        ``<speaker>/<path>`` -> file.
    """
    data = [data] if isinstance(data, str) else data
    if not all(str(path).endswith(".csv") for path in data):
        files = [trials.path for trials in lists]
        prepare_voxceleb(data, folder, files, dev_speakers=0, sample_rate=sample_rate)
        data = [folder / "train.csv"]
    in_trials = {speaker for trials in lists for speaker in trials.speakers}
    files = defaultdict(set)
    for path in data:
        advice = "a cohort is a folder that holds wav/, or a csv file, as a run's train.csv"
        for line, (speaker, file) in read_columns(path, ("spk_id", "wav"), advice):
            if not (speaker and file):
                raise ValueError(f"{path}:{line}: no file or no speaker; {advice}.")
            if speaker not in in_trials:
                files[speaker].add(file)
    cohort = {}
    for speaker, own in sorted(files.items()):
        own = sorted(own)
        if per_speaker is not None and len(own) > per_speaker:
            own = [own[i * len(own) // per_speaker] for i in range(per_speaker)]
        cohort.update({f"{speaker}/{file}": Path(file) for file in own})
    if not cohort:
        raise ValueError(
            f"cohort={data}: no utterance of a speaker who is in none of the trial lists."
        )
    return cohort


def embed_sets(encode, sets, lists, sample_rate, **options):
    """Embed each file of several sets of utterances once.

    Arguments
    ---------
    encode : callable
        Audio [B, T] -> embeddings [B, 1, D].
    sets : list of dict of str to Path
        Each set has names of its own; one file may be in several.
    lists : list of Trials
        What an error about a file of the first sets names, with the line.
    sample_rate : int
        Hz.
    **options
        Of ``hamsb.verification.embeddings.embed_utterances``.

    Returns
    -------
    list of Embeddings
        One a set.
    """
    paths = {str(path): path for utterances in sets for path in utterances.values()}
    try:
        together = embed_utterances(paths, encode, sample_rate, **options)
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(f"{place(str(error), sets, lists)}{error}") from error
    return [
        together.select({name: str(path) for name, path in utterances.items()})
        for utterances in sets
    ]


def place(message, sets, lists):
    """``<list>:<line>: `` of the utterance whose file a message begins with, or ""."""
    for utterances in sets:
        named = {
            name for name, path in utterances.items() if message.startswith(f"{path}:")
        }
        for trials in lists:
            if named & set(trials.utterances):
                return f"{trials.path}:{trials.first_line(named)[0]}: "
    return ""


# --------------------------------------------------------------------- the scores


def score_lists(encode, lists, utterances, sample_rate, progress=True):
    """Embed each utterance once and score every trial of the lists by cosine.

    Arguments
    ---------
    encode : callable
        Audio [1, T] -> embedding [1, 1, D].
    lists : list of Trials
    utterances : dict of str to Path
        As `read_lists` returns them.
    sample_rate : int
        Hz.
    progress : bool

    Returns
    -------
    dict
        Name of the list -> cosine of each trial, [N].
    """
    (embeddings,) = embed_sets(encode, [utterances], lists, sample_rate, progress=progress)
    return {trials.name: score_trials(embeddings, trials) for trials in lists}


def score_all(embeddings, lists, backends, normalisations, cohort, k, progress):
    """Every list with every backend and normalisation.

    Arguments
    ---------
    embeddings : Embeddings
        Of every utterance of the lists.
    lists : list of Trials
    backends : list
        Of ``hamsb.verification.scoring``.
    normalisations : list of str
        Keys of NORMALISATIONS.
    cohort : Embeddings or None
    k : int
        The cohort size of as-norm.
    progress : bool

    Returns
    -------
    dict
        (backend, normalisation) -> {name of the list: scores [N]}.
    """
    scored = {}
    for backend in backends:
        raw = {trials.name: score_trials(embeddings, trials, backend) for trials in lists}
        known = {}  # whole cohort or nearest k -> CohortStatistics
        for name in normalisations:
            if NORMALISATIONS[name] is None:
                scored[backend.name, name] = raw
                continue
            method, nearest = NORMALISATIONS[name]
            if nearest not in known:
                size = k if nearest else None
                known[nearest] = cohort_statistics(
                    embeddings, cohort, backend, size, progress
                )
            scored[backend.name, name] = {
                trials.name: normalise_scores(
                    raw[trials.name], trials, known[nearest], method
                )
                for trials in lists
            }
    return scored


def list_qualities(embeddings, trials, measures):
    """Quality measures of each trial, [N, Q]; None without measures."""
    if not measures:
        return None
    values = torch.stack([QUALITIES[name](embeddings) for name in measures], dim=1)
    sides = (values[embeddings.rows(side)] for side in (trials.enrol, trials.test))
    return symmetric_qualities(*sides)


def trial_seconds(embeddings, trials):
    """Length of each trial's shorter utterance in seconds, [N]."""
    enrol, test = (
        embeddings.seconds[embeddings.rows(side)] for side in (trials.enrol, trials.test)
    )
    return torch.minimum(enrol, test).numpy()


# -------------------------------------------------------------------- the results


@dataclass
class System:
    """One way to score, and its scores.

    Attributes
    ----------
    name : str
        For tables and plots.
    scores : dict
        Name of the list -> [N].
    calibrated : bool
        The scores are log-likelihood ratios.
    drawn : bool
        False where its error tradeoff is that of another system.
    facts : dict
        What metrics.json says of it besides.
    """

    name: str
    scores: dict
    calibrated: bool = False
    drawn: bool = True
    facts: dict = field(default_factory=dict)

    def calibrated_by(self, calibration, qualities=None):
        """The log-likelihood ratios of its scores, a System.

        Arguments
        ---------
        calibration : hamsb.verification.calibration.Calibration
            Trained on scores of the same kind.
        qualities : dict, optional
            Name of the list -> quality measures [N, Q], or None.
        """
        return System(
            f"{self.name}, calibrated",
            {
                name: calibration(scores, (qualities or {}).get(name))
                for name, scores in self.scores.items()
            },
            calibrated=True,
            drawn=bool(calibration.quality_weights),  # else the ranks are the same
            facts={**self.facts, "calibration": calibration.to_dict()},
        )


def write_verification(
    folder,
    lists,
    systems,
    report,
    groups=None,
    p_targets=P_TARGETS,
    draws=1000,
    about=None,
    progress=True,
):
    """Write scores, numbers, plots and report of one or more systems, all or nothing.

    Arguments
    ---------
    folder : str or Path
    lists : list of Trials
    systems : list of System
        The first one's scores are written, plotted and broken down by groups.
    report : callable
        From the table, and that of the groups or "", both markdown, to the text of
        report.md.
    groups : dict, optional
        Name of the list -> what ``trial_groups`` returned for it.
    p_targets : sequence of float
        Priors of the detection costs.
    draws : int
        Of the bootstrap that the intervals come from; 0 for none.
    about : dict, optional
        What metrics.json says of all results: settings, versions.
    progress : bool

    Returns
    -------
    str
        The table, one line a list and system.
    """
    records = []
    for trials in tqdm(lists, desc="evaluate", disable=not progress):
        records += evaluate_systems(
            trials, systems, (groups or {}).get(trials.name, {}), p_targets
        )
        if draws:
            scores = np.stack([system.scores[trials.name] for system in systems])
            intervals = eer_intervals(trials, scores, draws)
            for record, ends in zip(records[-len(systems) :], intervals):
                record["eer_interval"] = ends
    table = results_table(
        [{**record, "list": title(record, systems)} for record in records]
    )
    grouped = [
        {"list": record["list"], **group}
        for record in records
        if record["system"] == systems[0].name
        for group in record["groups"]
    ]
    text = report(table, groups_table(grouped) if grouped else "")
    about = json.dumps(about or {}, default=str)
    about = json.loads(about, parse_constant=str)  # JSON has no .inf
    numbers = json.dumps({**about, "results": records}, indent=2, allow_nan=False)
    with replacing_files(folder) as partial:
        distributions = {}
        for trials in lists:
            scores = systems[0].scores[trials.name]
            write_scores(partial / f"scores_{trials.name}.txt", trials, scores)
            distributions[trials.name] = scores, trials.labels
        plot_scores(distributions, partial / "scores.png")
        plot_det(det_curves(lists, systems), partial / "det.png")
        (partial / "metrics.json").write_text(f"{numbers}\n", encoding="utf-8")
        (partial / "report.md").write_text(text, encoding="utf-8")
    return table


def evaluate_systems(trials, systems, groups, p_targets):
    """The numbers of each system on one list, as metrics.json has them."""
    records = []
    for system in systems:
        scores = system.scores[trials.name]
        record = evaluate_trials(trials, scores, p_targets, system.calibrated)
        who = {"system": system.name, **system.facts, "calibrated": system.calibrated}
        parts = evaluate_groups(trials, scores, groups, p_targets)
        records.append({"list": trials.name, **who, **record, "groups": parts})
    return records


def title(record, systems):
    """How a table names a result: its list and, of several, the system."""
    if sum(not system.calibrated for system in systems) > 1:
        return f"{record['list']}: {record['system']}"
    return record["list"] + ", calibrated" * record["calibrated"]


def det_curves(lists, systems):
    """What plot_det draws: the first systems, as many as a plot can have curves."""
    drawn = [system for system in systems if system.drawn]
    drawn = drawn[: max(1, MOST_CURVES // len(lists))]
    curves = {}
    for trials in lists:
        for system in drawn:
            parts = [trials.name] * (len(lists) > 1) + [system.name] * (len(drawn) > 1)
            label = ": ".join(parts) or trials.name
            curves[label] = system.scores[trials.name], trials.labels
    return curves


def versions(device):
    """What numbers depend on besides model and data."""
    return {
        "hamsb": hamsb.__version__,
        "speechbrain": sb.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "device": str(device),
        "threads": torch.get_num_threads(),
    }


# ------------------------------------------------------------------------- main


def check(hparams):
    """ValueError where a key's value is none of those that the yaml names."""
    for key, known in (
        ("backends", BACKENDS),
        ("normalisations", NORMALISATIONS),
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
        for key, without in (("normalisations", ["none"]), ("subtract_mean", False)):
            if hparams[key] != without:
                raise ValueError(
                    f"{key}={hparams[key]}: needs a cohort; give the folder of the "
                    "training data, which holds wav/, or a run's save/train.csv."
                )
    if hparams["calibration_file"] is None:
        for key in ("quality_measures", "store_decision"):
            if hparams[key]:
                raise ValueError(f"{key}={hparams[key]}: needs a calibration_file.")


def load_encoder(model, run_opts):
    """The exported model in a folder."""
    if not (model / "hyperparams.yaml").is_file():
        raise FileNotFoundError(
            f"{model}: no exported model here (no hyperparams.yaml); give the export "
            "folder of a training run, --model=results/<name>/<seed>/export."
        )
    return EncoderClassifier.from_hparams(source=str(model), run_opts=run_opts)


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
        data.cohort_files = find_cohort(
            hparams["cohort"],
            [*lists, *data.calibration],
            folder / "cohort",
            sample_rate,
            hparams["cohort_per_speaker"],
        )
        names = {name.partition("/")[0] for name in data.cohort_files}
        size = len(names if hparams["cohort_speaker_means"] else data.cohort_files)
        if (
            "as-norm" in hparams["normalisations"]
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
    how = hparams["normalisations"], cohort, hparams["cohort_size"], progress
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
