"""Clusters of speakers: from their audio to embeddings, clusters and their quality.

A speaker is the mean embedding of random crops of its utterances (`embed_speakers`).
`cluster_speakers` clusters these by direction or in a hyperbolic ball, into what
`hamsb.dataio.clusters` keeps in a file; `judge` tells sizes and quality.

Source
------
Masztalski et al., "Clustering-based hard negative sampling for supervised contrastive
speaker verification", Interspeech 2025, arXiv 2507.17540, for the clusters' use.
"""

import copy
import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from hamsb.analysis.cluster_quality import cluster_quality, distance_matrix
from hamsb.analysis.kmeans import ball_kmeans, kmeans
from hamsb.dataio.annotations import Utterance, read_utterances
from hamsb.dataio.audio import SILENCE, read_crop
from hamsb.dataio.clusters import Clusters, make_clusters
from hamsb.nnet.balls import Ball
from hamsb.nnet.similarities import CosineSimilarity, HyperbolicSimilarity, Similarity
from hamsb.utils.checks import check_positive, check_whole
from hamsb.utils.packages import optional
from hamsb.utils.progress import progress_bar
from hamsb.utils.sharing import gathered, own_part, share
from hamsb.verification.batches import check_numbers, embed_recordings
from hamsb.verification.embeddings import speaker_means
from hamsb.verification.encoding import Encoder

# Measures of quality, and where their better end is.
MEASURES = {
    "relative_margin": "lower",
    "additive_margin": "higher",
    "weakest_link": "lower",
    "silhouette": "higher",
}

# -------------------------------------------------------------- speakers' embeddings


def draw_crops(
    utterances: Mapping[str, Sequence[Utterance]],
    most: int,
    length: int,
    random: np.random.Generator,
) -> list[tuple[str, Utterance]]:
    """Random crops of random utterances of each speaker.

    Arguments
    ---------
    utterances : mapping of str to sequence of Utterance
        By speaker.
    most : int
        Utterances of a speaker; all of one who has no more.
    length : int
        Of a crop, in samples; of a shorter utterance all.
    random : numpy.random.Generator

    Returns
    -------
    list of (str, Utterance)
        Speaker and crop.
    """
    crops = []
    for speaker, own in utterances.items():
        chosen = random.choice(len(own), min(most, len(own)), replace=False)
        for wav, start, stop in (own[i] for i in np.sort(chosen)):
            frames = min(length, stop - start)
            start += int(random.integers(stop - start - frames + 1))
            crops.append((speaker, Utterance(wav, start, start + frames)))
    return crops


def embed_speakers(
    encode: Callable[[Tensor], Tensor],
    annotation: str | os.PathLike,
    sample_rate: int,
    utterances: int = 10,
    seconds: float = 3.0,
    seed: int = 0,
    progress: bool = True,
    batch_size: int | None = None,
    shared: bool = False,
    num_workers: int | None = 0,
    device: torch.device | str | None = None,
    multiprocessing_context: str | None = None,
) -> tuple[list[str], Tensor]:
    """The mean embedding of each training speaker, over crops of random utterances.

    Which crops is a function of the csv file and the seed; no other random state is
    read or changed. Nothing is padded or repeated. A silent crop, which there may be in a
    recording that is not silent, is left out.

    Arguments
    ---------
    encode : callable
        Audio [B, T] -> embeddings [B, 1, D] or [B, D] on any device, without gradients.
    annotation : str or Path
        As `read_utterances` takes it.
    sample_rate : int
        Of the files, as ``encode`` expects it, in Hz.
    utterances : int
        Of a speaker; all of one who has no more.
    seconds : float
        Length of a crop; a shorter utterance is taken whole.
    seed : int
        At least 0.
    progress : bool
        Show a progress bar.
    batch_size, shared, num_workers, device, multiprocessing_context
        As for `hamsb.verification.embeddings.embed_utterances`, of crops.

    Returns
    -------
    names : list of str
        The S speakers, sorted.
    means : torch.Tensor
        [S, D], float32 on the CPU, not normalized.

    Raises
    ------
    FileNotFoundError, ValueError
        As `read_utterances` and `read_crop`; a number out of range; a crop that is too
        short for the model, or whose embedding is not finite (names the file); a speaker
        all of whose crops are silent.
    """
    check_whole("seed", seed, least=0)
    length = crop_length(utterances, seconds, sample_rate)
    check_numbers(batch_size, num_workers)
    found = read_utterances(annotation)
    crops = draw_crops(found, utterances, length, np.random.default_rng(seed))
    crops.sort(key=lambda crop: crop[1].frames)

    def embed_own() -> tuple[list[int], Tensor]:
        """Places in ``crops``, and embeddings."""
        own = own_part(len(crops), shared)
        shown = progress and share(shared)[0] == 0
        batches = embed_recordings(
            [crops[i][1] for i in own],
            _Crops(sample_rate),
            Encoder(encode, sample_rate),
            batch_size,
            num_workers,
            device,
            multiprocessing_context,
        )
        numbers, rows = [], []
        bar = progress_bar(total=len(own), desc="embed speakers", shown=shown)
        with torch.no_grad(), bar:
            for batch in batches:
                numbers += [own[i] for i in batch.numbers]
                rows.append(batch.values)
                bar.update(len(batch.numbers))
        return numbers, torch.cat(rows) if rows else torch.empty(0, 0)

    rows: dict[int, Tensor] = {}
    for numbers, matrix in gathered(embed_own, shared):
        rows |= dict(zip(numbers, matrix))
    heard = sorted(rows)  # in an order that no number of processes changes
    speakers = [crops[i][0] for i in heard]
    if silent := sorted(found.keys() - set(speakers)):
        crop = next(crop for speaker, crop in crops if speaker == silent[0])
        raise ValueError(
            f"{crop.wav}: silent, as are all crops of speaker {silent[0]}, of "
            f"{len(silent)} speaker(s) in all; take their lines out of {annotation}, or "
            "longer crops."
        )
    names, means = speaker_means(torch.stack([rows[i] for i in heard]), speakers)
    return list(names), means


def crop_length(utterances: int, seconds: float, sample_rate: int) -> int:
    """The samples of a crop of `embed_speakers`; ValueError where its ``utterances`` or
    ``seconds`` are out of range.

    Example
    -------
    >>> crop_length(10, 0.5, 16000)
    8000
    """
    check_whole("utterances", utterances, least=1)
    check_positive("seconds", seconds)
    length = int(seconds * sample_rate)
    if length < 1:
        raise ValueError(f"seconds={seconds}: must be positive, and at least a sample.")
    return length


class _Crops:
    """Reads crops of files at one rate; leaves out those that are silent."""

    def __init__(self, sample_rate: int):
        self.sample_rate = sample_rate

    def name(self, crop: Utterance) -> object:
        return crop.wav

    def length(self, crop: Utterance) -> tuple[int, str]:
        return crop.frames, f"{crop.frames}"

    def read(self, crop: Utterance) -> Tensor | None:
        wav = read_crop(crop.wav, crop.start, crop.frames, sample_rate=self.sample_rate)
        return wav if wav.abs().amax() > SILENCE else None


# ------------------------------------------------------------------------- clusters


def check_k(k: object, speakers: int) -> None:
    """ValueError where so many speakers cannot be clustered into k.

    Example
    -------
    >>> check_k(10, speakers=11)
    """
    check_whole("k", k, least=2)
    if k >= speakers:  # type: ignore[operator]
        raise ValueError(f"k={k}: of {speakers} speakers; give a number below that.")


def which_ball(ball: object, trained: Ball | None) -> Ball | None:
    """The ball that a yaml's ``ball`` means, or None for cosine.

    Arguments
    ---------
    ball : None, "model" or hamsb.nnet.balls.Ball
    trained : hamsb.nnet.balls.Ball or None
        The one that the model was trained with.

    Raises
    ------
    ValueError
        Neither of these; "model" where the model has none.
    """
    if ball != "model":
        if ball is None or isinstance(ball, Ball):
            return ball
        raise ValueError(
            f"ball={ball}: null for cosine, model for the ball that the model was "
            "trained with, or one of hamsb's, '!new:hamsb.ClippedUnitBall [3.0]'."
        )
    if trained is None:
        raise ValueError(
            "ball=model: needs a model with a hyperbolic classifier, which this is not; "
            "give null for cosine, or a ball."
        )
    return trained


def speaker_distances(means: Tensor, ball: Ball | None = None) -> np.ndarray:
    """Distances among speakers, as `cluster_speakers` has them.

    Arguments
    ---------
    means : torch.Tensor
        [S, D], mean embeddings, not normalized.
    ball : hamsb.nnet.balls.Ball, optional
        Given, a speaker lies where an utterance with its mean embedding would: at the
        mean's projection into the ball. By default distances are ``1 - cos``.

    Returns
    -------
    numpy.ndarray
        [S, S], float64: a `distance_matrix`.

    Example
    -------
    >>> speaker_distances(torch.tensor([[1.0, 0.0], [5.0, 0.0], [0.0, 2.0]]))
    array([[0., 0., 1.],
           [0., 0., 1.],
           [1., 1., 0.]])
    """
    similarity = _similarity(ball, means.device)
    with torch.no_grad():
        points = similarity.project(means.double())
    return distance_matrix(points, similarity.distances)


@torch.no_grad()
def cluster_speakers(
    names: Sequence[str], means: Tensor, k: int, ball: Ball | None = None, seed: int = 0
) -> Clusters:
    """k-means of speakers, by direction or in a ball.

    Arguments
    ---------
    names : sequence of str
        S speakers.
    means : torch.Tensor
        [S, D], their mean embeddings, not normalized: without a ball their length has
        no part in it, with one it has.
    k : int
        Clusters.
    ball : hamsb.nnet.balls.Ball, optional
        Cluster the means' projections into it by its distance.
    seed : int
        The same seed gives the same clusters.

    Returns
    -------
    hamsb.dataio.clusters.Clusters
        With the nearest clusters of each, by the distance of the centers.

    Raises
    ------
    ValueError
        As `hamsb.analysis.kmeans.kmeans`: fewer different speakers than k, a mean that
        is not finite.

    Example
    -------
    >>> means = torch.tensor([[1.0, 0.1], [0.1, 1.0], [9.0, 0.0], [0.0, 5.0]])
    >>> a, b, c, d = cluster_speakers("abcd", means, k=2).labels("abcd")
    >>> bool(a == c != b == d)
    True
    """
    similarity, means = _similarity(ball, means.device), means.double()
    if ball is None:
        labels, centers = kmeans(means, k, seed)
        centers = similarity.project(centers)
    else:
        points = similarity.project(means)
        labels, centers = ball_kmeans(points, k, ball.metric_curvature, seed)
    return make_clusters(names, labels, distance_matrix(centers, similarity.distances))


def _similarity(ball: Ball | None, device: torch.device) -> Similarity:
    if ball is None:
        return CosineSimilarity()
    return HyperbolicSimilarity(copy.deepcopy(ball).to(device))


def judge(clusters: Clusters, names: Sequence[str], distances: np.ndarray) -> dict:
    """Sizes and quality of clusters, ready for JSON but for infinite values.

    Arguments
    ---------
    clusters : hamsb.dataio.clusters.Clusters
    names : sequence of str
        S speakers.
    distances : numpy.ndarray
        [S, S], among them: `speaker_distances`.

    Returns
    -------
    dict
        ``k``, ``smallest``, ``median`` and ``largest`` (speakers of a cluster) and the
        measures of MEASURES, with the clusters' medoids for centers.
    """
    with optional("clustering"):
        from sklearn.metrics import silhouette_score

    labels = clusters.labels(names)
    sizes = np.bincount(labels)
    return {
        "k": len(sizes),
        "smallest": int(sizes.min()),
        "median": float(np.median(sizes)),
        "largest": int(sizes.max()),
        **cluster_quality(distances, labels),
        "silhouette": float(silhouette_score(distances, labels, metric="precomputed")),
    }
