"""From embeddings and a trial list to scores. Higher means more similar."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from hamsb.nnet.similarities import CosineSimilarity, Similarity
from hamsb.utils.files import replacing
from hamsb.verification.calibration import symmetric_qualities
from hamsb.verification.embeddings import Embeddings, embed_sets
from hamsb.verification.lookup import Enrolment
from hamsb.verification.normalization import (
    NORMALIZATIONS,
    CohortStatistics,
    cohort_statistics,
    normalize_scores,
)
from hamsb.verification.trials import Trials

# What a calibration may take into account: embeddings -> a number an utterance, [N].
QUALITIES: dict[str, Callable[[Embeddings], torch.Tensor]] = {
    "duration": lambda embeddings: embeddings.lengths().log(),
    "norm": lambda embeddings: torch.linalg.vector_norm(embeddings.matrix.double(), dim=1),
}
_CHUNK = 1024  # trials worked on at once: two float64 copies are 3 MB at 192 dimensions


@torch.no_grad()
def score_trials(
    embeddings: Embeddings, trials: Trials, similarity: Similarity | None = None
) -> np.ndarray:
    """Score of every trial, from gathered rows.

    Arguments
    ---------
    embeddings : Embeddings
        Holds every utterance of the list.
    trials : Trials
        N trials.
    similarity : hamsb.nnet.similarities.Similarity, optional
        Compares in float64; by default the cosine.

    Returns
    -------
    numpy.ndarray
        [N], float64; higher means more similar.

    Raises
    ------
    ValueError
        An utterance of the list has no embedding.

    Example
    -------
    >>> from hamsb import ClippedUnitBall, HyperbolicSimilarity
    >>> from pathlib import Path
    >>> matrix = torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, 0.0]])
    >>> embeddings = Embeddings(("1/a", "1/b", "2/a"), matrix)
    >>> trials = Trials(np.array([1, 0]), ("1/a", "1/a"), ("1/b", "2/a"), Path("O.txt"))
    >>> score_trials(embeddings, trials)
    array([0.6, 0. ])
    >>> similarity = HyperbolicSimilarity(ClippedUnitBall(3.0))
    >>> score_trials(embeddings, trials, similarity).round(3)
    array([-1.425, -1.317])
    """
    similarity = CosineSimilarity() if similarity is None else similarity
    matrix = embeddings.matrix
    scores = [
        similarity.paired(
            similarity.project(matrix.index_select(0, enrol).double()),
            similarity.project(matrix.index_select(0, test).double()),
        )
        for enrol, test in zip(
            embeddings.rows(trials.enrol).split(_CHUNK),
            embeddings.rows(trials.test).split(_CHUNK),
        )
    ]
    return torch.cat(scores).numpy()


def write_scores(path: str | os.PathLike, trials: Trials, scores: ArrayLike) -> None:
    r"""Write lines ``enrol test label score``; read back, the scores are the same. Between
    the four are spaces, or tabs where a name has a space.

    The file appears under its name only when it is complete. Its folder is made if need
    be.

    Arguments
    ---------
    path : str or Path
        File to write; an older one is replaced.
    trials : Trials
        N trials.
    scores : array, tensor or list of float
        [N], in the order of the trials.

    Raises
    ------
    ValueError
        Other than one score a trial.

    Example
    -------
    >>> import tempfile
    >>> from pathlib import Path
    >>> trials = Trials(np.array([1]), ("id1/a.wav",), ("id1/b.wav",), Path("O.txt"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_scores(f"{folder}/scores_O.txt", trials, [0.25])
    ...     Path(folder, "scores_O.txt").read_text()
    'id1/a.wav id1/b.wav 1 0.25\n'
    """
    numbers = torch.as_tensor(scores).detach().double()
    if numbers.shape != (len(trials),):
        raise ValueError(
            f"{trials.path} has {len(trials)} trials, "
            f"got scores of shape {tuple(numbers.shape)}"
        )
    with replacing(path) as partial, open(partial, "w", encoding="utf-8") as file:
        for enrol, test, label, score in zip(
            trials.enrol, trials.test, trials.labels.tolist(), numbers.tolist()
        ):
            fields = enrol, test, str(label), repr(score)
            separator = "\t" if " " in enrol or " " in test else " "
            file.write(separator.join(fields) + "\n")


def read_scores(
    path: str | os.PathLike,
) -> tuple[list[tuple[str, str]], np.ndarray, np.ndarray]:
    """What `write_scores` wrote.

    Returns
    -------
    tuple
        Trials (a list of (enrol, test)), labels [N] and scores [N].

    Raises
    ------
    ValueError
        Another file: the first line that is not of four fields is named.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
    ...     _ = file.write("a b/1.wav\\tc/1.wav\\t0\\t-0.5\\n")
    ...     file.flush()
    ...     read_scores(file.name)
    ([('a b/1.wav', 'c/1.wav')], array([0]), array([-0.5]))
    """
    text = Path(path).read_text(encoding="utf-8")
    lines = [line for line in text.split("\n") if line]
    rows = [line.split("\t" if "\t" in line else " ") for line in lines]
    try:
        enrol, test, labels, scores = zip(*rows, strict=True) if rows else ((),) * 4
        numbers = np.array(labels, int), np.array(scores, float)
    except ValueError:
        number = next((n for n, row in enumerate(rows, 1) if len(row) != 4), 1)
        raise ValueError(
            f"{path}:{number}: must be enrol, test, label and score, as verify.py "
            f"writes it; got {lines[number - 1]!r}."
        ) from None
    return list(zip(enrol, test)), *numbers


def score_lists(
    encode: Callable[[torch.Tensor], torch.Tensor],
    lists: Sequence[Trials],
    utterances: Mapping[str, Enrolment],
    sample_rate: int,
    **options: Any,
) -> dict[str, np.ndarray]:
    """Embed each utterance once and score every trial of the lists by cosine.

    Arguments
    ---------
    encode : callable
        Audio [B, T] -> embeddings [B, 1, D].
    lists : list of Trials
        May be empty.
    utterances : dict of str to Path, Utterance or tuple of these
        As `hamsb.verification.lookup.read_lists` returns them.
    sample_rate : int
        Hz.
    **options
        Of `hamsb.verification.embeddings.embed_utterances`.

    Returns
    -------
    dict
        Name of the list -> cosine of each trial, [N].
    """
    if not lists:
        return {}
    (embeddings,) = embed_sets(encode, [utterances], lists, sample_rate, **options)
    return {trials.name: score_trials(embeddings, trials) for trials in lists}


def score_all(
    embeddings: Embeddings,
    lists: Sequence[Trials],
    similarities: Sequence[Similarity],
    normalizations: Sequence[str] = ("none",),
    cohort: Embeddings | None = None,
    cohort_size: int = 300,
    progress: bool = False,
) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    """Every list with every similarity and normalization.

    Arguments
    ---------
    embeddings : Embeddings
        Of every utterance of the lists.
    lists : sequence of Trials
    similarities : sequence of hamsb.nnet.similarities.Similarity
    normalizations : sequence of str
        Of `hamsb.verification.normalization.NORMALIZATIONS`.
    cohort : Embeddings, optional
        What scores are normalized with.
    cohort_size : int
        Of as-norm: how many of the cohort, the nearest to each side of a trial.
    progress : bool
        Show a progress bar.

    Returns
    -------
    dict
        (similarity, normalization), by name -> {name of the list: scores [N]}.
    """
    scored = {}
    for similarity in similarities:
        raw = {
            trials.name: score_trials(embeddings, trials, similarity) for trials in lists
        }
        known: dict[bool, CohortStatistics] = {}  # of the nearest, or of the whole cohort
        for name in normalizations:
            how = NORMALIZATIONS[name]
            if how is None:
                scored[similarity.name, name] = raw
                continue
            if cohort is None:
                raise ValueError(
                    f"normalizations={[*normalizations]}: {name} needs a cohort."
                )
            method, nearest = how
            if nearest not in known:
                size = cohort_size if nearest else None
                known[nearest] = cohort_statistics(
                    embeddings, cohort, similarity, size, progress
                )
            scored[similarity.name, name] = {
                trials.name: normalize_scores(
                    raw[trials.name], trials, known[nearest], method
                )
                for trials in lists
            }
    return scored


def list_qualities(
    embeddings: Embeddings, trials: Trials, measures: Sequence[str]
) -> np.ndarray | None:
    """Quality measures of each trial, [N, Q]; None without measures.

    Arguments
    ---------
    embeddings : Embeddings
        As the network gives them, with their lengths in seconds.
    trials : Trials
        N trials.
    measures : sequence of str
        Of `QUALITIES`; each gives two columns, as `symmetric_qualities` makes them.
    """
    if not measures:
        return None
    values = torch.stack([QUALITIES[name](embeddings) for name in measures], dim=1)
    enrol, test = (values[embeddings.rows(side)] for side in (trials.enrol, trials.test))
    return symmetric_qualities(enrol, test)


def trial_seconds(embeddings: Embeddings, trials: Trials) -> np.ndarray:
    """Length of each trial's shorter utterance in seconds, [N]."""
    enrol, test = (
        embeddings.lengths()[embeddings.rows(side)] for side in (trials.enrol, trials.test)
    )
    return torch.minimum(enrol, test).numpy()
