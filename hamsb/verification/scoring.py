"""From embeddings and a trial list to scores. Higher means more similar."""

import torch

from hamsb.nnet.similarities import CosineSimilarity
from hamsb.utils.files import replacing
from hamsb.verification.calibration import symmetric_qualities
from hamsb.verification.embeddings import embed_sets
from hamsb.verification.normalization import (
    NORMALISATIONS,
    cohort_statistics,
    normalise_scores,
)

QUALITIES = {
    "duration": lambda embeddings: embeddings.seconds.log(),
    "norm": lambda embeddings: torch.linalg.vector_norm(embeddings.matrix.double(), dim=1),
}
_CHUNK = 1024  # trials worked on at once: two float64 copies are 3 MB at 192 dimensions


@torch.no_grad()
def score_trials(embeddings, trials, similarity=CosineSimilarity()):
    """Score of every trial, from gathered rows.

    Arguments
    ---------
    embeddings : hamsb.verification.embeddings.Embeddings
        Holds every utterance of the list.
    trials : Trials
        N trials.
    similarity : hamsb.nnet.similarities.Similarity
        Compares in float64.

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
    >>> from hamsb.verification.embeddings import Embeddings
    >>> matrix = torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, 0.0]])
    >>> embeddings = Embeddings(("1/a", "1/b", "2/a"), matrix)
    >>> trials = Trials(np.array([1, 0]), ("1/a", "1/a"), ("1/b", "2/a"), Path("O.txt"))
    >>> score_trials(embeddings, trials)
    array([0.6, 0. ])
    """
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


def write_scores(path, trials, scores):
    """Write lines ``enrol test label score``; read back, the scores are the same.

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
    >>> trials = Trials(np.array([1]), ("id1/a.wav",), ("id1/b.wav",), Path("O.txt"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_scores(f"{folder}/scores_O.txt", trials, [0.25])
    ...     Path(folder, "scores_O.txt").read_text()
    'id1/a.wav id1/b.wav 1 0.25\\n'
    """
    scores = torch.as_tensor(scores).detach().double()
    if scores.shape != (len(trials),):
        raise ValueError(
            f"{trials.path} has {len(trials)} trials, "
            f"got scores of shape {tuple(scores.shape)}"
        )
    with replacing(path) as partial, open(partial, "w", encoding="utf-8") as file:
        for enrol, test, label, score in zip(
            trials.enrol, trials.test, trials.labels.tolist(), scores.tolist()
        ):
            file.write(f"{enrol} {test} {label} {score!r}\n")


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
