"""Score normalization: z-, t-, s- and AS-norm against a cohort of other speakers."""

import dataclasses
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from hamsb.dataio.annotations import read_columns
from hamsb.nnet.similarities import CosineSimilarity

_BLOCK = 2**21  # scores against a cohort held at once: 16 MB
_CONSTANT = 1e-7  # a deviation that float32's rounding alone can make
# How scores are normalised: the formula, and whether with each side's nearest alone.
NORMALISATIONS = {
    "none": None,
    "z-norm": ("z", False),
    "t-norm": ("t", False),
    "s-norm": ("s", False),
    "as-norm": ("s", True),
}


@dataclasses.dataclass(frozen=True, eq=False)
class CohortStatistics:
    """How utterances score against a cohort of other speakers.

    Attributes
    ----------
    mean, deviation : dict of str to float
        For each utterance, mean and standard deviation (with k - 1) of its k scores.
    """

    mean: dict
    deviation: dict


@torch.no_grad()
def cohort_statistics(
    embeddings, cohort, similarity=CosineSimilarity(), k=None, progress=False
):
    """Mean and deviation of each utterance's scores against a cohort.

    Computed once an utterance, in chunks: memory does not grow with the product of
    utterances and cohort.

    Arguments
    ---------
    embeddings : hamsb.verification.embeddings.Embeddings
        N utterances.
    cohort : hamsb.verification.embeddings.Embeddings
        M utterances, or speaker means, of speakers who occur in no trial.
    similarity : hamsb.nnet.similarities.Similarity
        Compares in float64.
    k : int, optional
        Of each utterance's M scores the k highest are taken, its own nearest cohort;
        all M by default.
    progress : bool
        Show a progress bar.

    Returns
    -------
    CohortStatistics

    Raises
    ------
    ValueError
        k below 2, of which there is no deviation, or above M; an utterance whose k
        scores are all equal (a deviation of up to 1e-7 times max(1, |mean|)), by which no
        score can be divided: its embedding is zero, or the model has collapsed.

    Example
    -------
    >>> from hamsb.verification.embeddings import Embeddings
    >>> embeddings = Embeddings(("id1/a",), torch.tensor([[1.0, 0.0]]))
    >>> matrix = torch.tensor([[0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
    >>> cohort = Embeddings(("c1/a", "c2/a", "c3/a"), matrix)
    >>> statistics = cohort_statistics(embeddings, cohort, k=2)
    >>> f"{statistics.mean['id1/a']:.4f} {statistics.deviation['id1/a']:.4f}"
    '0.7000 0.1414'
    """
    k = len(cohort) if k is None else k
    if not 2 <= k <= len(cohort):
        raise ValueError(
            f"cohort_size={k}: at least 2, and at most the {len(cohort)} of the cohort"
        )
    others = similarity.project(cohort.matrix.double())
    mean = torch.empty(len(embeddings), dtype=torch.float64)
    deviation = torch.empty_like(mean)
    rows = max(1, _BLOCK // len(cohort))
    for first in tqdm(
        range(0, len(embeddings), rows), desc="cohort", disable=not progress
    ):
        part = slice(first, first + rows)
        rows_here = similarity.project(embeddings.matrix[part].double())
        scores = similarity.pairwise(rows_here, others)
        if k < len(cohort):
            scores = scores.topk(k, dim=1, sorted=False).values
        deviation[part], mean[part] = torch.std_mean(scores, dim=1)
    constant = ~(deviation > _CONSTANT * mean.abs().clamp_min(1))
    if constant.any():
        raise ValueError(
            f"{embeddings.utterances[int(constant.int().argmax())]}: its {k} scores "
            "against the cohort are all equal, so that nothing can be divided by their "
            f"deviation ({int(constant.sum())} of {len(embeddings)} utterances); look "
            "at the audio file, the cohort and the model"
        )
    return CohortStatistics(
        dict(zip(embeddings.utterances, mean.tolist())),
        dict(zip(embeddings.utterances, deviation.tolist())),
    )


def normalise_scores(scores, trials, statistics, method):
    r"""Scores relative to those of a cohort.

    With the mean :math:`\mu` and deviation :math:`\sigma` of the enrolment utterance e
    and of the test utterance t against the cohort:

    .. math::
        z = \frac{s - \mu_e}{\sigma_e}, \quad
        t = \frac{s - \mu_t}{\sigma_t}, \quad
        s' = \frac{z + t}{2}

    s' is the s-norm with statistics over the whole cohort, and the adaptive s-norm
    (AS-norm [1]_) with statistics over each side's own k nearest.

    Arguments
    ---------
    scores : numpy.ndarray
        [N], of the similarity that the statistics are of.
    trials : Trials
        N trials.
    statistics : CohortStatistics
        Of every utterance of the list.
    method : {"z", "t", "s"}

    Returns
    -------
    numpy.ndarray
        [N], float64; higher means more similar.

    Raises
    ------
    ValueError
        Another method.

    References
    ----------
    .. [1] P. Matejka et al., "Analysis of score normalization in multilingual speaker
       recognition", Interspeech 2017.

    Example
    -------
    >>> trials = Trials(np.array([1]), ("1/a",), ("1/b",), Path("O.txt"))
    >>> statistics = CohortStatistics({"1/a": 0.5, "1/b": 0.25}, {"1/a": 1, "1/b": 0.5})
    >>> normalise_scores(np.array([0.75]), trials, statistics, "s")
    array([0.625])
    """
    if method not in ("z", "t", "s"):
        raise ValueError(f"method={method!r}: one of 'z', 't' and 's'")
    relative = []
    for side, utterances in (("z", trials.enrol), ("t", trials.test)):
        if method in (side, "s"):
            mean = np.array([statistics.mean[name] for name in utterances])
            deviation = np.array([statistics.deviation[name] for name in utterances])
            relative.append((scores - mean) / deviation)
    return sum(relative) / len(relative)


def find_cohort(data, lists, per_speaker=None):
    """The utterances that scores are normalised with, none of a trial's speaker.

    Arguments
    ---------
    data : str or list of str
        csv files with the columns ``wav`` and ``spk_id``, as a preparation's train.csv.
    lists : list of Trials
        Their speakers are left out.
    per_speaker : int, optional
        At most so many utterances of a speaker, spread evenly over the sorted paths.

    Returns
    -------
    dict of str to Path
        ``<speaker>/<path>`` -> file.
    """
    data = [data] if isinstance(data, str) else data
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
