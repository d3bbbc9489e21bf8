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
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby

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
from hamsb.utils.checks import check_whole
from hamsb.utils.packages import optional
from hamsb.utils.progress import progress_bar
from hamsb.utils.sharing import gathered, own_part, share
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
    batch_size: int = 1,
    shared: bool = False,
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
    batch_size : int
        B, at most: crops of equal length are embedded together. More is faster on a GPU.
    shared : bool
        Each process of the run embeds a part, and all get all, as in
        `hamsb.verification.embeddings.embed_utterances`.

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
    check_whole("utterances", utterances, least=1)
    check_whole("seed", seed, least=0)
    check_whole("batch_size", batch_size, least=1)
    length = int(seconds * sample_rate) if seconds > 0 else 0
    if length < 1:
        raise ValueError(f"seconds={seconds}: must be positive, and at least a sample.")
    found = read_utterances(annotation)
    crops = draw_crops(found, utterances, length, np.random.default_rng(seed))
    crops.sort(key=lambda crop: crop[1].frames)
    own = {i: crops[i] for i in own_part(len(crops), shared)}
    progress = progress and share(shared)[0] == 0
    parts = gathered(lambda: _embed(own, encode, sample_rate, progress, batch_size), shared)
    rows = {i: row for part in parts for i, row in part.items()}
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


def _embed(
    crops: Mapping[int, tuple[str, Utterance]],
    encode: Callable[[Tensor], Tensor],
    sample_rate: int,
    progress: bool,
    batch_size: int,
) -> dict[int, Tensor]:
    """Number of a crop -> its embedding [D], of each that is not silent: what one
    process does."""
    encoder = Encoder(encode, sample_rate)
    rows: dict[int, Tensor] = {}
    bar = progress_bar(total=len(crops), desc="embed speakers", shown=progress)
    with torch.no_grad(), bar:
        for batch in _equal_lengths(crops, batch_size):
            wavs = {
                i: read_crop(crop.wav, crop.start, crop.frames, sample_rate=sample_rate)
                for i, crop in batch.items()
            }
            heard = [i for i, wav in wavs.items() if wav.abs().amax() > SILENCE]
            if heard:
                files = [batch[i].wav for i in heard]
                embeddings = encoder(torch.stack([wavs[i] for i in heard]), files)
                found = embeddings.reshape(len(heard), -1).to(
                    "cpu", torch.float32, copy=True
                )
                rows |= dict(zip(heard, found))
            bar.update(len(batch))
    return rows


def _equal_lengths(
    crops: Mapping[int, tuple[str, Utterance]], batch_size: int
) -> Iterator[dict[int, Utterance]]:
    """At most ``batch_size`` crops of one length at a time, of those sorted by it."""
    for _, group in groupby(crops, key=lambda i: crops[i][1].frames):
        equal = list(group)
        for start in range(0, len(equal), batch_size):
            yield {i: crops[i][1] for i in equal[start : start + batch_size]}


# ------------------------------------------------------------------------- clusters


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
