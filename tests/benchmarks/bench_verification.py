#!/usr/bin/env python3
"""Verification of a list of VoxCeleb1-E's size: time and memory, beside SpeechBrain's.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_verification.py \
        [--trials 580000] [--only metrics bootstrap]

prints one table. A line is measured in a process of its own: the median time of its
repetitions, and by how much its resident memory grew at the most. What cannot be run
whole is run in part and extrapolated, and marked so. Trials are synthetic and seeded.
Source of no assertion: it measures.
"""

import argparse
import ctypes
import multiprocessing
import platform
import resource
import statistics
import time
from pathlib import Path

import numpy as np
import scipy
import speechbrain
import torch
from speechbrain.utils.metric_stats import EER, minDCF

from hamsb import ClippedUnitBall
from hamsb.nnet.similarities import CosineSimilarity, HyperbolicSimilarity
from hamsb.verification.bootstrap import bootstrap_eer
from hamsb.verification.calibration import Calibration
from hamsb.verification.embeddings import Embeddings
from hamsb.verification.metrics import act_dcf, cllr, det_curve, min_cllr
from hamsb.verification.normalization import cohort_statistics, normalize_scores
from hamsb.verification.scoring import score_trials
from hamsb.verification.trials import Trials


def measured(function, *arguments, repeats=5):
    """Median seconds of a call, and the MB (10^6 bytes) that it needs at its peak."""
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    process = fork.Process(target=_measured, args=(sender, function, arguments, repeats))
    process.start()
    sender.close()
    figures = receiver.recv()
    process.join()
    return figures


def _measured(sender, function, arguments, repeats):
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what is free already would not count
    before, seconds = _peak(), []
    for _ in range(repeats):
        start = time.perf_counter()
        function(*arguments)
        seconds.append(time.perf_counter() - start)
    sender.send((statistics.median(seconds), _peak() - before))


def _peak():
    """Highest resident memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def line(what, trials, seconds, memory, note=""):
    """A line of the table; a note says where a figure does not come from a whole run."""
    memory = f"{memory:,.0f}" if memory >= 1 else "< 1"
    seconds = f"{seconds:.2g}" if seconds < 100 else f"{seconds:,.0f}"
    return f"| {what} | {trials:,} | {seconds} | {memory} | {note} |"


def synthetic_trials(trials, speakers=1251, seed=0):
    """Scores with ties (float32), labels, and the speakers of both sides."""
    random = np.random.default_rng(seed)
    labels = np.arange(trials) % 2
    enrol = random.integers(speakers, size=trials)
    other = (enrol + random.integers(1, speakers, size=trials)) % speakers
    scores = random.normal(4 * labels, 1) + random.normal(0, 0.3, speakers)[enrol]
    return scores.astype(np.float32), labels, enrol, np.where(labels, enrol, other)


# --------------------------------------------------------------------- metrics


def ours(scores, labels):
    curve = det_curve(scores, labels)
    return curve.eer(), curve.min_dcf(0.01), curve.min_dcf(0.05)


def speechbrain_costs(positive, negative):
    return [minDCF(positive, negative, p_target=p) for p in (0.01, 0.05)]


def speechbrain_all(positive, negative):
    return EER(positive, negative), speechbrain_costs(positive, negative)


def calibrated(scores, labels):
    llrs = Calibration.fit(scores, labels)(scores)
    return act_dcf(llrs, labels, 0.01), cllr(llrs, labels), min_cllr(llrs, labels)


def few_levels(scores, levels):
    """The scores' ranks in so many levels: all trials, but few thresholds to try."""
    ranks = np.argsort(np.argsort(scores))
    return (ranks * levels // len(scores)).astype(np.float32)


def by_class(scores, labels):
    scores, labels = torch.from_numpy(scores), torch.from_numpy(labels).bool()
    return scores[labels], scores[~labels]


def metrics_section(trials):
    """EER and both minDCFs together, against SpeechBrain's, in part and whole.

    SpeechBrain tries 2 K - 1 thresholds for K distinct scores, each on all trials: its
    time, and the memory of minDCF, are in proportion to them. So it is run on all
    trials, but with few distinct scores.
    """
    together = "EER, minDCF(p=0.01), minDCF(p=0.05)"
    scores, labels, *_ = synthetic_trials(trials)
    lines = [line(f"{together}: hamsb", trials, *measured(ours, scores, labels))]
    thresholds = 2 * len(np.unique(scores)) - 1
    for what, function, levels, memory_grows in (
        ("EER: SpeechBrain", EER, 500, False),
        ("minDCF(p=0.01), minDCF(p=0.05): SpeechBrain", speechbrain_costs, 50, True),
    ):
        share = (2 * levels - 1) / thresholds
        part = by_class(few_levels(scores, levels), labels)
        seconds, memory = measured(function, *part, repeats=3)
        memory = memory / share if memory_grows else memory
        note = f"extrapolated from {2 * levels - 1:,} of {thresholds:,} thresholds"
        lines.append(line(what, trials, seconds / share, memory, note))
    few = 4000
    scores, labels, *_ = synthetic_trials(few, speakers=40)
    sides = by_class(scores, labels)
    return [
        *lines,
        line(f"{together}: hamsb", few, *measured(ours, scores, labels)),
        line(f"{together}: SpeechBrain", few, *measured(speechbrain_all, *sides)),
    ]


def calibration_section(trials):
    """Calibration and the metrics of calibrated scores."""
    scores, labels, *_ = synthetic_trials(trials)
    return [
        line(
            "calibration, actDCF, Cllr, minCllr",
            trials,
            *measured(calibrated, scores, labels, repeats=3),
        )
    ]


# ------------------------------------------------------------------- bootstrap


def bootstrap_section(trials):
    """1,000 draws of speakers: a small list, the list, and two compared systems."""
    lines = []
    for n, speakers in ((30_000, 40), (trials, 1251)):
        arguments = synthetic_trials(n, speakers)
        lines.append(
            line(
                "bootstrap of the EER, 1,000 draws",
                n,
                *measured(bootstrap_eer, *arguments, repeats=1),
            )
        )
    scores, *rest = arguments
    pair = np.stack([scores, synthetic_trials(trials, seed=1)[0]])
    lines.append(
        line(
            "the same of two systems",
            trials,
            *measured(bootstrap_eer, pair, *rest, repeats=1),
        )
    )
    return lines


# -------------------------------------------------------- score normalization


def synthetic_embeddings(utterances, dimension=192, seed=0):
    generator = torch.Generator().manual_seed(seed)
    names = tuple(f"id{i % 1251}/{i}" for i in range(utterances))
    return Embeddings(names, torch.randn(utterances, dimension, generator=generator))


def synthetic_list(embeddings, trials, seed=0):
    """Trials between two different utterances each."""
    random, n = np.random.default_rng(seed), len(embeddings)
    enrol = random.integers(n, size=trials)
    test = (enrol + random.integers(1, n, size=trials)) % n
    sides = (tuple(embeddings.utterances[i] for i in side) for side in (enrol, test))
    return Trials(np.arange(trials) % 2, *sides, Path("synthetic.txt"))


def as_norm(embeddings, trials, cohort, backend, k):
    scores = score_trials(embeddings, trials, backend)
    statistics = cohort_statistics(embeddings, cohort, backend, k)
    return normalize_scores(scores, trials, statistics, "s")


def each_trial(embeddings, trials, relative):
    """One trial after the other; relative: a side and the score -> the score relative
    to the side's cohort scores."""
    of = dict(zip(embeddings.utterances, embeddings.matrix))
    similarity = torch.nn.CosineSimilarity(dim=-1, eps=1e-6)
    normalized = []
    for enrol, test in zip(trials.enrol, trials.test):
        score = similarity(of[enrol], of[test])
        z, t = relative(of[enrol], score), relative(of[test], score)
        normalized.append(((z + t) / 2).item())
    return np.array(normalized)


def naive_as_norm(embeddings, trials, cohort, k):
    """The formula as it stands: a product with the cohort for each side of each trial."""

    def relative(side, score):
        against = (cohort.matrix @ side) / (cohort.matrix.norm(dim=1) * side.norm())
        deviation, mean = torch.std_mean(against.topk(k).values)
        return (score - mean) / deviation

    return each_trial(embeddings, trials, relative)


def speechbrain_as_norm(embeddings, trials, cohort, k):
    """As SpeechBrain's speaker_verification_cosine.py does it: the side repeated to the
    cohort's size, CosineSimilarity of the two, for each side of each trial."""
    similarity = torch.nn.CosineSimilarity(dim=-1, eps=1e-6)

    def relative(side, score):
        against = similarity(side.repeat(len(cohort), 1), cohort.matrix)
        nearest = torch.topk(against, k=k).values
        return (score - nearest.mean()) / nearest.std()

    return each_trial(embeddings, trials, relative)


def normalization_section(trials, utterances=4700, part=60, k=300):
    """AS-norm with cohorts of 6,000 and 20,000, against one trial after the other."""
    lines, embeddings = [], synthetic_embeddings(utterances)
    whole, few = (synthetic_list(embeddings, n) for n in (trials, part))
    note = f"extrapolated from {part:,} trials"
    hyperbolic = HyperbolicSimilarity(ClippedUnitBall(3.0))
    for size in (6000, 20_000):
        cohort, what = synthetic_embeddings(size, seed=1), f"AS-norm, cohort {size:,}"
        for backend in (CosineSimilarity(), hyperbolic):
            arguments = (embeddings, whole, cohort, backend, k)
            figures = measured(as_norm, *arguments, repeats=3)
            lines.append(line(f"{what}, {backend.name}: hamsb", trials, *figures))
        ours = as_norm(embeddings, few, cohort, CosineSimilarity(), k)
        for name, function in (
            ("one trial after the other", naive_as_norm),
            ("SpeechBrain's loop", speechbrain_as_norm),
        ):
            theirs = function(embeddings, few, cohort, k)
            difference = np.abs(theirs - ours).max()
            seconds, memory = measured(function, embeddings, few, cohort, k, repeats=3)
            told = f"{note}; largest difference of a score {difference:.0e}"
            figures = seconds * trials / part, memory, told
            lines.append(line(f"{what}, cosine: {name}", trials, *figures))
    return lines


SECTIONS = {
    "metrics": metrics_section,
    "calibration": calibration_section,
    "bootstrap": bootstrap_section,
    "normalization": normalization_section,
}


def machine():
    """What the figures were measured on."""
    models = [
        text.split(":")[1].strip()
        for text in Path("/proc/cpuinfo").read_text().splitlines()
        if text.startswith("model name")
    ]
    return (
        f"{len(models)} x {models[0]}, {torch.get_num_threads()} thread(s); "
        f"Python {platform.python_version()}, numpy {np.__version__}, "
        f"scipy {scipy.__version__}, torch {torch.__version__}, "
        f"speechbrain {speechbrain.__version__}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=580_000)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    options = parser.parse_args()
    lines = [text for name in options.only for text in SECTIONS[name](options.trials)]
    print(f"{machine()}\n")
    print("| what | trials | seconds | peak MB | note |")
    print("| --- | ---: | ---: | ---: | --- |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
