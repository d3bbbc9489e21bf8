"""From a trial list to scores: read the list, compare, normalise.

A trial list is a text file of lines ``label enrol test``, VoxCeleb style: label 1 for
the same speaker and 0 for different speakers, then two paths below the corpus folder's
``wav``. Scores are similarities: higher means more similar.
"""

import dataclasses
import os
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from hamsb.nnet.similarities import CosineSimilarity
from hamsb.utils.files import replacing

_LABELS = {"0": 0, "1": 1}
_CHUNK = 1024  # trials worked on at once: two float64 copies are 3 MB at 192 dimensions
_BLOCK = 2**21  # scores against a cohort held at once: 16 MB
_CONSTANT = 1e-7  # a deviation that float32's rounding alone can make


# ----------------------------------------------------------------- trial lists


@dataclasses.dataclass(frozen=True, eq=False)
class Trials:
    """A trial list; trial ``i`` is line ``i + 1`` of its file.

    Attributes
    ----------
    labels : numpy.ndarray
        [N], int64; 1 for the same speaker, 0 for different speakers.
    enrol, test : tuple of str
        N utterances each, as the list names them: paths below ``<root>/wav/``.
    path : Path
        The file that the list was read from.

    Example
    -------
    >>> enrol, test = ("id1/a.wav", "id1/a.wav"), ("id1/b.wav", "id2/a.wav")
    >>> trials = Trials(np.array([1, 0]), enrol, test, Path("vox1_O.txt"))
    >>> trials.name, trials.utterances, trials.speakers
    ('vox1_O', ('id1/a.wav', 'id1/b.wav', 'id2/a.wav'), ('id1', 'id2'))
    """

    labels: np.ndarray
    enrol: tuple
    test: tuple
    path: Path

    def __len__(self):
        return len(self.labels)

    @property
    def name(self):
        """The file's name without its last suffix, for tables and score files."""
        return self.path.stem

    @cached_property
    def utterances(self):
        """Every utterance of the list once, sorted."""
        return tuple(sorted({*self.enrol, *self.test}))

    @cached_property
    def speakers(self):
        """Every speaker of the list once, sorted: each path's first folder.

        ValueError where an utterance lies in no folder, so that nobody excludes a file
        name from training in place of a speaker.
        """
        speakers = set()
        for utterance in self.utterances:
            speaker, slash, _ = utterance.partition("/")
            if not slash or speaker in ("", ".", ".."):
                line, _ = self.first_line({utterance})
                raise ValueError(
                    f"{self.path}:{line}: no speaker in {utterance!r}: a path begins "
                    "with its speaker's folder, as in id10270/5r0dWxy17C8/00001.wav"
                )
            speakers.add(speaker)
        return tuple(sorted(speakers))

    def first_line(self, utterances):
        """Number of the first line that names one of a set of utterances, and which."""
        for number, pair in enumerate(zip(self.enrol, self.test), start=1):
            for utterance in pair:
                if utterance in utterances:
                    return number, utterance


def read_trials(path):
    """Read a trial list of lines ``label enrol test``.

    A repeated trial counts as often as the list has it. An utterance compared with
    itself is refused: its score says nothing about the model. A list of one class can
    be read; the metrics refuse it.

    Arguments
    ---------
    path : str or Path
        Text file in UTF-8, fields separated by spaces or tabs.

    Returns
    -------
    Trials
        The N trials in the file's order.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        Wrong number of fields, a label other than 0 or 1, an empty line, an utterance
        compared with itself (each with file, line and text), an empty file, a file that
        is not UTF-8.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "vox1_O.txt")
    ...     _ = path.write_text("1 id1/a.wav id1/b.wav\\n0 id1/a.wav id2/a.wav\\n")
    ...     trials = read_trials(path)
    >>> trials.labels, trials.enrol[1], trials.test[1]
    (array([1, 0]), 'id1/a.wav', 'id2/a.wav')
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such trial list; give a file of lines 'label enrol test', for "
            "VoxCeleb1-O (cleaned) that is "
            "https://www.robots.ox.ac.uk/~vgg/data/voxceleb/meta/veri_test2.txt"
        )
    labels, enrol, test = [], [], []
    try:
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                fields = line.split()
                if (
                    len(fields) != 3
                    or fields[0] not in _LABELS
                    or fields[1] == fields[2]
                ):
                    raise ValueError(
                        f"{path}:{number}: {_fault(fields)}, found {line.rstrip()!r}"
                    )
                labels.append(_LABELS[fields[0]])
                enrol.append(fields[1])
                test.append(fields[2])
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not a text file in UTF-8 ({error}); is this the trial list?"
        ) from error
    if not labels:
        raise ValueError(
            f"{path}: empty file; a trial list has a line 'label enrol test' a trial"
        )
    return Trials(np.array(labels, dtype=np.int64), tuple(enrol), tuple(test), path)


def _fault(fields):
    """What is wrong with the fields of a line that ``read_trials`` refused."""
    if not fields:
        return "empty line; remove it"
    if len(fields) != 3:
        return f"expected the 3 fields 'label enrol test', got {len(fields)}"
    if fields[0] not in _LABELS:
        return f"label must be 0 or 1, not {fields[0]!r}"
    return "an utterance is compared with itself; remove the trial"


def find_utterances(trials, roots):
    """The audio file of every utterance of a list.

    Arguments
    ---------
    trials : Trials
        The list; its utterances are paths below ``<root>/wav/``.
    roots : list of str or Path
        Folders that hold a ``wav`` folder each, such as the VoxCeleb1 folder; or one of
        them.

    Returns
    -------
    dict of str to Path
        Each utterance of the list, sorted, and its file.

    Raises
    ------
    FileNotFoundError
        Utterances without a file: names the list, line and path of the first, the
        number of them and the roots.
    ValueError
        No roots, or an utterance found in two roots in different files: which one is
        meant cannot be known, and the wrong one would give a wrong result in silence.

    Example
    -------
    >>> import tempfile
    >>> trials = Trials(np.array([1]), ("id1/a.wav",), ("id1/b.wav",), Path("O.txt"))
    >>> with tempfile.TemporaryDirectory() as root:
    ...     Path(root, "wav", "id1").mkdir(parents=True)
    ...     Path(root, "wav", "id1", "a.wav").touch()
    ...     Path(root, "wav", "id1", "b.wav").touch()
    ...     sorted(find_utterances(trials, [root]))
    ['id1/a.wav', 'id1/b.wav']
    """
    roots = [roots] if isinstance(roots, (str, os.PathLike)) else list(roots)
    if not roots:
        raise ValueError(
            f"{trials.path}: no roots to search; give the folders that hold 'wav'"
        )
    found, missing = {}, set()
    for utterance in trials.utterances:
        files = [
            file
            for root in roots
            if (file := Path(f"{root}/wav/{utterance}")).is_file()
        ]
        if not files:
            missing.add(utterance)
            continue
        for other in files[1:]:
            if not files[0].samefile(other):
                line, _ = trials.first_line({utterance})
                raise ValueError(
                    f"{trials.path}:{line}: {utterance} is in two roots, "
                    f"{files[0]} and {other}; give the roots of one copy of the corpus"
                )
        found[utterance] = files[0]
    if missing:
        line, utterance = trials.first_line(missing)
        folders = ", ".join(
            f"{root}/wav" + ("" if Path(root, "wav").is_dir() else " (no such folder)")
            for root in roots
        )
        raise FileNotFoundError(
            f"{trials.path}:{line}: no file for {utterance}; {len(missing)} of "
            f"{len(trials.utterances)} utterances of the list are missing; "
            f"searched {folders}"
        )
    return found


# ---------------------------------------------------------------------- scores


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


# --------------------------------------------------------- score normalisation


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


# ---------------------------------------------------------------- files of scores


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
