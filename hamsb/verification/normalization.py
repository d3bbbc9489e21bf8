"""Score normalization: z-, t-, s- and AS-norm against a cohort of other speakers."""

import dataclasses
import os
from collections.abc import Iterable

import numpy as np
import torch

from hamsb.dataio.annotations import Recording, read_utterances
from hamsb.dataio.utterances import recording
from hamsb.nnet.similarities import CosineSimilarity, Similarity
from hamsb.utils.checks import check_choice
from hamsb.utils.progress import progress_bar
from hamsb.verification.embeddings import Embeddings
from hamsb.verification.trials import Trials

_BLOCK = 2**21  # scores against a cohort held at once: 16 MB
_CONSTANT = 1e-7  # a deviation that float32's rounding alone can make
# The normalizations by name: the formula of `normalize_scores`, and whether with the
# statistics of each side's nearest alone.
NORMALIZATIONS: dict[str, tuple[str, bool] | None] = {
    "none": None,
    "z-norm": ("z", False),
    "t-norm": ("t", False),
    "s-norm": ("s", False),
    "as-norm": ("s", True),
}


def find_cohort(
    annotation: str | os.PathLike,
    lists: Iterable[Trials],
    per_speaker: int | None = None,
) -> dict[str, Recording]:
    r"""The utterances that scores are normalized with, none of a trial's speaker.

    Arguments
    ---------
    annotation : str or Path
        A preparation's train.csv. In a preparation no two persons have one name.
    lists : list of Trials
        Their speakers are left out.
    per_speaker : int, optional
        At most so many utterances of a speaker, spread evenly over the sorted paths.

    Returns
    -------
    dict of str to Path or Utterance
        ``<speaker>/<path>`` -> file, or the stretch of it.

    Raises
    ------
    FileNotFoundError, ValueError
        As `read_utterances`; nobody is left.

    Example
    -------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "train.csv")
    ...     rows = "/a.wav,0,9,c1\n/b.wav,0,9,c1\n/c.wav,0,9,c2\n"
    ...     _ = path.write_text("wav,start,stop,spk_id\n" + rows)
    ...     sorted(find_cohort(path, [], per_speaker=1))
    ['c1//a.wav', 'c2//c.wav']
    """
    in_trials = {speaker for trials in lists for speaker in trials.speakers}
    cohort: dict[str, Recording] = {}
    for speaker, utterances in read_utterances(annotation).items():
        if speaker in in_trials:
            continue
        own = sorted(set(utterances))
        if per_speaker is not None and len(own) > per_speaker:
            own = [own[i * len(own) // per_speaker] for i in range(per_speaker)]
        for utterance in own:
            found = recording(*utterance)
            cohort[f"{speaker}/{found}"] = found
    if not cohort:
        raise ValueError(
            f"cohort={annotation}: no utterance of a speaker who is in none of the trial "
            "lists."
        )
    return cohort


@dataclasses.dataclass(frozen=True, eq=False)
class CohortStatistics:
    """How utterances score against a cohort of other speakers.

    Attributes
    ----------
    mean, deviation : dict of str to float
        For each utterance, mean and standard deviation (with k - 1) of its k scores.
    """

    mean: dict[str, float]
    deviation: dict[str, float]


@torch.no_grad()
def cohort_statistics(
    embeddings: Embeddings,
    cohort: Embeddings,
    similarity: Similarity | None = None,
    k: int | None = None,
    progress: bool = False,
) -> CohortStatistics:
    """Mean and deviation of each utterance's scores against a cohort.

    Computed once an utterance, in chunks: memory does not grow with the product of
    utterances and cohort.

    Arguments
    ---------
    embeddings : Embeddings
        N utterances.
    cohort : Embeddings
        M utterances, or speaker means, of speakers who occur in no trial.
    similarity : hamsb.nnet.similarities.Similarity, optional
        Compares in float64; by default the cosine.
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
    >>> from hamsb import ClippedUnitBall, HyperbolicSimilarity
    >>> embeddings = Embeddings(("id1/a",), torch.tensor([[1.0, 0.0]]))
    >>> matrix = torch.tensor([[0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
    >>> cohort = Embeddings(("c1/a", "c2/a", "c3/a"), matrix)
    >>> for similarity in (CosineSimilarity(), HyperbolicSimilarity(ClippedUnitBall(3.0))):
    ...     statistics = cohort_statistics(embeddings, cohort, similarity, k=2)
    ...     mean, deviation = statistics.mean["id1/a"], statistics.deviation["id1/a"]
    ...     print(f"{similarity.name} {mean:.4f} {deviation:.4f}")
    cosine 0.7000 0.1414
    hyperbolic -1.2362 0.2676
    """
    similarity = CosineSimilarity() if similarity is None else similarity
    k = len(cohort) if k is None else k
    if len(cohort) < 2:
        raise ValueError(
            f"cohort: {len(cohort)} in it, of which there is no deviation; give at least 2."
        )
    if not 2 <= k <= len(cohort):
        raise ValueError(
            f"cohort_size={k}: at least 2, and at most the {len(cohort)} of the cohort"
        )
    others = similarity.project(cohort.matrix.double())
    mean = torch.empty(len(embeddings), dtype=torch.float64)
    deviation = torch.empty_like(mean)
    rows = max(1, _BLOCK // len(cohort))
    for first in progress_bar(
        range(0, len(embeddings), rows), desc="cohort", shown=progress
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


def normalize_scores(
    scores: np.ndarray, trials: Trials, statistics: CohortStatistics, method: str
) -> np.ndarray:
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
    >>> from pathlib import Path
    >>> trials = Trials(np.array([1]), ("1/a",), ("1/b",), Path("O.txt"))
    >>> statistics = CohortStatistics({"1/a": 0.5, "1/b": 0.25}, {"1/a": 1, "1/b": 0.5})
    >>> normalize_scores(np.array([0.75]), trials, statistics, "s")
    array([0.625])
    """
    check_choice("method", method, ("z", "t", "s"))
    relative = []
    for side, utterances in (("z", trials.enrol), ("t", trials.test)):
        if method in (side, "s"):
            mean = np.array([statistics.mean[name] for name in utterances])
            deviation = np.array([statistics.deviation[name] for name in utterances])
            relative.append((scores - mean) / deviation)
    return sum(relative[1:], relative[0]) / len(relative)
