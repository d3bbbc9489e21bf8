"""From a trial list to scores: read the list, embed each utterance once, compare.

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
from speechbrain.dataio import audio_io
from speechbrain.dataio.preprocess import AudioNormalizer
from tqdm import tqdm

from hamsb.files import replacing
from hamsb.metrics import eer, min_dcf

_LABELS = {"0": 0, "1": 1}
_P_TARGETS = (0.01, 0.05)  # the priors at which minDCF is reported
_CHUNK = 1024  # rows worked on at once: two float64 copies are 3 MB at 192 dimensions


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
                line, _ = _first_line(self, {utterance})
                raise ValueError(
                    f"{self.path}:{line}: no speaker in {utterance!r}: a path begins "
                    "with its speaker's folder, as in id10270/5r0dWxy17C8/00001.wav"
                )
            speakers.add(speaker)
        return tuple(sorted(speakers))


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
                line, _ = _first_line(trials, {utterance})
                raise ValueError(
                    f"{trials.path}:{line}: {utterance} is in two roots, "
                    f"{files[0]} and {other}; give the roots of one copy of the corpus"
                )
        found[utterance] = files[0]
    if missing:
        line, utterance = _first_line(trials, missing)
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


@dataclasses.dataclass(frozen=True, eq=False)
class Embeddings:
    """One embedding for each utterance.

    Attributes
    ----------
    utterances : tuple of str
        N distinct names, as the trial lists name them.
    matrix : torch.Tensor
        [N, D], float32 on the CPU; row ``i`` belongs to ``utterances[i]``.

    Example
    -------
    >>> embeddings = Embeddings(("id1/a.wav", "id2/a.wav"), torch.eye(2))
    >>> embeddings.matrix[embeddings.rows(["id2/a.wav"])]
    tensor([[0., 1.]])
    """

    utterances: tuple
    matrix: torch.Tensor

    def __post_init__(self):
        n = len(self.utterances)
        if self.matrix.ndim != 2 or len(self.matrix) != n:
            raise ValueError(
                f"{n} utterances need a matrix [{n}, D], "
                f"got shape {tuple(self.matrix.shape)}"
            )
        if len(self._row) != n:
            raise ValueError(f"{n - len(self._row)} of the utterances are named twice")

    @cached_property
    def _row(self):
        return {utterance: row for row, utterance in enumerate(self.utterances)}

    def rows(self, utterances):
        """The matrix row of each of M utterances, int64 [M]; ValueError if unknown."""
        try:
            return torch.tensor(
                [self._row[utterance] for utterance in utterances], dtype=torch.int64
            )
        except KeyError as error:
            raise ValueError(
                f"no embedding of {error.args[0]!r}; "
                "embed every utterance of the list first"
            ) from None


def embed_utterances(paths, encode, sample_rate=16000, progress=True):
    """Embed every utterance once, one at a time: nothing is padded or cut.

    Files are read as SpeechBrain's ``EncoderClassifier.load_audio`` reads them:
    channels averaged to mono, resampled to ``sample_rate``.

    Arguments
    ---------
    paths : mapping of str to Path
        The utterances and their files, as ``find_utterances`` gives them.
    encode : callable
        From audio [1, T], float on the CPU, to an embedding [1, D] or [1, 1, D] on any
        device. Runs without gradients; the caller sets its modules to ``eval()`` and
        moves the audio to their device.
    sample_rate : int
        Rate that ``encode`` expects, in Hz.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Embeddings
        In the order of ``paths``.

    Raises
    ------
    FileNotFoundError
        A file is missing.
    ValueError
        No utterances; a file that cannot be read or holds no samples; an embedding that
        is not [1, D] or [1, 1, D], has another D than those before it, or is not
        finite. The message names the utterance or file.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     audio_io.save(f"{folder}/a.wav", torch.full((1, 400), 0.5), 16000)
    ...     embeddings = embed_utterances(
    ...         {"id1/a.wav": Path(folder, "a.wav")},
    ...         lambda wav: torch.stack([wav.mean(1), wav.abs().amax(1)], dim=1),
    ...         progress=False,
    ...     )
    >>> embeddings.matrix
    tensor([[0.5000, 0.5000]])
    """
    if not paths:
        raise ValueError("no utterances to embed: paths is empty")
    normalizer = AudioNormalizer(sample_rate)
    rows = []
    with torch.no_grad():
        for utterance, path in tqdm(paths.items(), desc="embed", disable=not progress):
            row = _as_row(encode(_load(path, normalizer).unsqueeze(0)), utterance)
            if rows and len(row) != len(rows[0]):
                raise ValueError(
                    f"{utterance}: embedding of {len(row)} dimensions "
                    f"after ones of {len(rows[0])}"
                )
            rows.append(row)
    return Embeddings(tuple(paths), torch.stack(rows))


def _load(path, normalizer):
    """Audio [T] of a file, mono and at the normalizer's rate."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such audio file")
    try:
        audio, rate = audio_io.load(str(path), channels_first=False)
    except RuntimeError as error:
        raise ValueError(
            f"{path}: cannot be read as audio; fetch or convert it again ({error})"
        ) from error
    if len(audio) == 0:
        raise ValueError(f"{path}: no samples; fetch or convert it again")
    return normalizer(audio, rate)


def _as_row(embedding, utterance):
    """The embedding of one utterance as a finite float32 [D] on the CPU."""
    if tuple(embedding.shape[:-1]) not in ((1,), (1, 1)):
        raise ValueError(
            f"{utterance}: encode must return [1, D] or [1, 1, D], "
            f"got shape {tuple(embedding.shape)}"
        )
    row = embedding.detach().reshape(-1).to("cpu", torch.float32, copy=True)
    finite = row.isfinite()
    if not finite.all():
        raise ValueError(
            f"{utterance}: the embedding is not finite "
            f"({int((~finite).sum())} of {len(row)} values); "
            "look at the audio file and at the model's parameters"
        )
    return row


def cosine_scores(embeddings, trials):
    r"""Cosine similarity of every trial, from gathered rows.

    .. math:: s = \frac{e^\top t}{\lVert e \rVert \lVert t \rVert}

    Arguments
    ---------
    embeddings : Embeddings
        Holds every utterance of the list.
    trials : Trials
        N trials.

    Returns
    -------
    numpy.ndarray
        [N], computed in float64, in [-1, 1] up to rounding; higher means more similar.
        An embedding of length zero has cosine 0 to everything.

    Raises
    ------
    ValueError
        An utterance of the list has no embedding.

    Example
    -------
    >>> matrix = torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, 0.0]])
    >>> embeddings = Embeddings(("1/a", "1/b", "2/a"), matrix)
    >>> trials = Trials(np.array([1, 0]), ("1/a", "1/a"), ("1/b", "2/a"), Path("O.txt"))
    >>> cosine_scores(embeddings, trials)
    array([0.6, 0. ])
    """
    matrix = embeddings.matrix.detach()
    length = torch.cat(
        [
            torch.linalg.vector_norm(rows.double(), dim=1)
            for rows in matrix.split(_CHUNK)
        ]
    )
    length = torch.where(length > 0, length, 1.0)  # the product below is 0 already
    scores = []
    for enrol, test in zip(
        embeddings.rows(trials.enrol).split(_CHUNK),
        embeddings.rows(trials.test).split(_CHUNK),
    ):
        product = torch.linalg.vecdot(
            matrix.index_select(0, enrol).double(),
            matrix.index_select(0, test).double(),
        )
        scores.append(product / (length[enrol] * length[test]))
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


def evaluate_trials(trials, scores):
    """The numbers that a table shows of one scored list, ready for JSON.

    Arguments
    ---------
    trials : Trials
        N trials.
    scores : array, tensor or list of float
        [N], in the order of the trials; higher means more similar.

    Returns
    -------
    dict
        ``list`` (the list's name), ``target_trials``, ``impostor_trials``, ``eer`` (a
        fraction), ``eer_threshold`` (accept ``score >= eer_threshold``),
        ``min_dcf_0.01`` and ``min_dcf_0.05`` (normalised; the prior p of a target is in
        the name).

    Raises
    ------
    ValueError
        The list has one class only, or a score is NaN or infinite; names the list.

    Example
    -------
    >>> trials = Trials(np.array([1, 0]), ("1/a", "1/a"), ("1/b", "2/a"), Path("O.txt"))
    >>> for key, value in evaluate_trials(trials, [0.75, 0.25]).items():
    ...     print(key, value)
    list O
    target_trials 1
    impostor_trials 1
    eer 0.0
    eer_threshold 0.5
    min_dcf_0.01 0.0
    min_dcf_0.05 0.0
    """
    try:
        value, threshold = eer(scores, trials.labels)
        costs = {
            f"min_dcf_{p}": min_dcf(scores, trials.labels, p_target=p)[0]
            for p in _P_TARGETS
        }
    except ValueError as error:
        raise ValueError(f"{trials.path}: {error}") from error
    targets = int(trials.labels.sum())
    return {
        "list": trials.name,
        "target_trials": targets,
        "impostor_trials": len(trials) - targets,
        "eer": value,
        "eer_threshold": threshold,
        **costs,
    }


def results_table(results):
    """A table in GitHub's markdown, one line a list.

    Arguments
    ---------
    results : list of dict
        As ``evaluate_trials`` returns them.

    Returns
    -------
    str
        Ends in a newline. EER in percent, minDCF normalised.

    Example
    -------
    >>> trials = {"list": "vox1_O", "target_trials": 18802, "impostor_trials": 18809}
    >>> numbers = {"eer": 0.0098, "min_dcf_0.01": 0.1234, "min_dcf_0.05": 0.061}
    >>> print(results_table([{**trials, **numbers}]), end="")
    | list | target trials | impostor trials | EER % | minDCF(p=0.01) | minDCF(p=0.05) |
    | --- | ---: | ---: | ---: | ---: | ---: |
    | vox1_O | 18802 | 18809 | 0.980 | 0.123 | 0.061 |
    """
    header = [
        "list",
        "target trials",
        "impostor trials",
        "EER %",
        *(f"minDCF(p={p})" for p in _P_TARGETS),
    ]
    lines = [header, ["---"] + ["---:"] * (len(header) - 1)]
    for result in results:
        costs = [f"{result[f'min_dcf_{p}']:.3f}" for p in _P_TARGETS]
        counts = [str(result["target_trials"]), str(result["impostor_trials"])]
        lines.append([result["list"], *counts, f"{100 * result['eer']:.3f}", *costs])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _first_line(trials, utterances):
    """Number of the first line that names one of the utterances, and that utterance."""
    for number, pair in enumerate(zip(trials.enrol, trials.test), start=1):
        for utterance in pair:
            if utterance in utterances:
                return number, utterance
