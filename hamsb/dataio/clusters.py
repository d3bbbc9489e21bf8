"""Clusters of speakers, as they are kept in a file and drawn from by a batch sampler."""

import csv
import dataclasses
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike

from hamsb.dataio.annotations import is_whole, read_rows
from hamsb.utils.checks import some
from hamsb.utils.files import replacing

_ADVICE = "make it with recipes/VoxCeleb/cluster.py"
_NEAREST = re.compile(r"## nearest to (\d{1,18}):((?: \d{1,18})*)")


@dataclasses.dataclass(frozen=True, eq=False)
class Clusters:
    """Which cluster each speaker is in.

    Attributes
    ----------
    of_speaker : dict of str to int
        Each speaker's cluster, a number of at least 0.
    nearest : dict of int to tuple of int, or None
        For each cluster all others, nearest first; None where that is not known.
    path : Path or None
        The file they were read from.

    Example
    -------
    >>> clusters = Clusters({"id1": 0, "id2": 1, "id3": 0})
    >>> clusters.labels(["id3", "id2"])
    array([0, 1])
    """

    of_speaker: dict[str, int]
    nearest: dict[int, tuple[int, ...]] | None = None
    path: Path | None = None

    def labels(self, speakers: Iterable[str]) -> np.ndarray:
        """The cluster of each of N speakers, int64 [N]; a ValueError names a speaker
        that is in none."""
        speakers = list(speakers)
        missing = sorted({s for s in speakers if s not in self.of_speaker})
        if missing:
            raise ValueError(
                f"{self.path or 'the clusters'}: no cluster for {some(missing, 5)}: "
                f"{len(missing)} speaker(s) to be trained on are missing; cluster this "
                "training set."
            )
        return np.array([self.of_speaker[s] for s in speakers], dtype=np.int64)


def make_clusters(
    speakers: Sequence[str],
    labels: ArrayLike,
    center_distances: ArrayLike | None = None,
) -> Clusters:
    """The `Clusters` of a k-means result.

    Arguments
    ---------
    speakers : sequence of str
        N different names.
    labels : tensor or array
        [N], int, in [0, k).
    center_distances : tensor or array, optional
        [k, k], the distances among the centers, for the order of the nearest clusters.

    Returns
    -------
    Clusters

    Raises
    ------
    ValueError
        Unequal numbers, a speaker named twice, or centers that are not the labels'.

    Example
    -------
    >>> centers = torch.tensor([[0.0], [5.0], [1.0]])
    >>> clusters = make_clusters(["a", "b", "c"], [0, 1, 2], torch.cdist(centers, centers))
    >>> clusters.nearest
    {0: (2, 1), 1: (2, 0), 2: (0, 1)}
    """
    own = _array(labels).tolist()
    of_speaker = dict(zip(speakers, own))
    if not len(of_speaker) == len(speakers) == len(own):
        raise ValueError(
            f"{len(speakers)} speakers, {len(of_speaker)} of them different, and "
            f"{len(own)} labels: need a label for each speaker, once."
        )
    nearest = None
    if center_distances is not None:
        distances = _array(center_distances).astype(float)
        np.fill_diagonal(distances, -1)  # itself comes first, whatever coincides with it
        order = np.argsort(distances, axis=1, kind="stable").tolist()
        nearest = {cluster: tuple(others[1:]) for cluster, others in enumerate(order)}
        if nearest.keys() != set(own):
            raise ValueError(
                f"{len(order)} centers, but labels of {len(set(own))} clusters; "
                "every center needs a speaker."
            )
    return Clusters(of_speaker, nearest)


def write_clusters(clusters: Clusters, path: str | os.PathLike) -> None:
    """Write a cluster file, which appears whole or not at all.

    A csv file, ``speaker,cluster``, sorted by speaker. Where the nearest clusters are
    known, a line ``## nearest to 0: 4 2 ...`` for each cluster stands above it.

    Arguments
    ---------
    clusters : Clusters
    path : str or Path
        The file; its folder is made if need be.

    Example
    -------
    >>> import tempfile
    >>> clusters = make_clusters(["id2", "id1"], [0, 1], [[0.0, 0.4], [0.4, 0.0]])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_clusters(clusters, f"{folder}/clusters.csv")
    ...     print(Path(folder, "clusters.csv").read_text(), end="")
    ## nearest to 0: 1
    ## nearest to 1: 0
    speaker,cluster
    id1,1
    id2,0
    """
    with (
        replacing(path) as partial,
        open(partial, "w", newline="", encoding="utf-8") as stream,
    ):
        for cluster, others in sorted((clusters.nearest or {}).items()):
            stream.write(" ".join([f"## nearest to {cluster}:", *map(str, others)]) + "\n")
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(["speaker", "cluster"])
        rows.writerows(sorted(clusters.of_speaker.items()))


def read_clusters(path: str | os.PathLike) -> Clusters:
    r"""Read what `write_clusters` wrote.

    Arguments
    ---------
    path : str or Path
        The cluster file.

    Returns
    -------
    Clusters

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        Another header, a row that is not a speaker and a whole number, a speaker named
        twice, lines of nearest clusters that do not name all others once (each with
        file and line), no speakers, not UTF-8.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "clusters.csv")
    ...     _ = path.write_text("speaker,cluster\nid1,0\nid2,3\n")
    ...     clusters = read_clusters(path)
    >>> clusters.of_speaker, clusters.nearest
    ({'id1': 0, 'id2': 3}, None)
    """
    nearest: dict[int, tuple[int, ...]] = {}
    lines: dict[int, str] = {}  # where each cluster's nearest are
    of_speaker: dict[str, int] = {}
    header = False
    for line, row in read_rows(path, "cluster file", _ADVICE):
        where = f"{path}:{line}"
        comment = _NEAREST.fullmatch(row[0]) if len(row) == 1 else None
        if comment and not header:
            cluster, others = int(comment[1]), tuple(map(int, comment[2].split()))
            if cluster in nearest:
                raise ValueError(f"{where}: a second line for cluster {cluster}")
            nearest[cluster], lines[cluster] = others, where
        elif not header:
            if row != ["speaker", "cluster"]:
                raise ValueError(
                    f"{where}: expected the header 'speaker,cluster', found "
                    f"{','.join(row)!r}"
                )
            header = True
        else:
            if len(row) != 2 or not row[0] or not is_whole(row[1]):
                raise ValueError(
                    f"{where}: expected a speaker and the number of its cluster, as in "
                    f"'id00012,3', found {','.join(row)!r}"
                )
            if row[0] in of_speaker:
                raise ValueError(f"{where}: speaker {row[0]} for the second time")
            of_speaker[row[0]] = int(row[1])
    if not of_speaker:
        raise ValueError(f"{path}: no speakers; a cluster file has a line for each")
    _check_nearest(path, nearest, lines, set(of_speaker.values()))
    return Clusters(of_speaker, nearest or None, Path(path))


def _check_nearest(path, nearest, lines, clusters):
    """ValueError where the nearest of each cluster are not all the others, once."""
    for cluster, others in nearest.items():
        if sorted([cluster, *others]) != sorted(clusters):
            raise ValueError(
                f"{lines[cluster]}: must name every cluster with a speaker, except "
                f"{cluster} itself, once"
            )
    missing = sorted(clusters - nearest.keys())
    if nearest and missing:
        raise ValueError(f"{path}: no line '## nearest to {missing[0]}:'")


def _array(x):
    return x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)
