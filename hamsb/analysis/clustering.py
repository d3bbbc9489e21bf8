"""Clusters of speakers, and measures of how good they are.

A speaker is its mean embedding (`speaker_means`). `kmeans` clusters the directions of
these, `ball_kmeans` points of a hyperbolic ball; both return labels and centers. A
`Clusters` is what is kept of them: each speaker's cluster and, where it is known, which
clusters are nearest to each other. `write_clusters` and `read_clusters` keep it in a
text file. `relative_margin`, `additive_margin` and `weakest_link` judge a clustering by
distances alone, so they serve any distance, cosine or hyperbolic; silhouette and the
like are scikit-learn's.

This module knows no ball: a distance is a function from x [N, D] and y [M, D] to
[N, M], as `cosine_distance` here, ``torch.cdist``, or a ball's ``pairwise_distance``.

Sources
-------
Masztalski et al., "Clustering-based hard negative sampling for supervised contrastive
speaker verification", Interspeech 2025, arXiv 2507.17540, for the clusters' use.
Ackerman & Ben-David, "Measures of Clustering Quality: A Working Set of Axioms for
Clustering", NIPS 2008, for the measures.
"""

import math

import numpy as np
import torch
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform
from sklearn.cluster import KMeans

_ROWS = 1024  # rows of a distance matrix worked on at once: 49 MB at 6,000 speakers


# ------------------------------------------------------------ points and distances


def speaker_means(embeddings, speakers):
    """The mean embedding of each speaker.

    Arguments
    ---------
    embeddings : torch.Tensor
        [U, D], one an utterance.
    speakers : sequence of str
        U names: whose utterance each is.

    Returns
    -------
    names : tuple of str
        The S speakers, sorted.
    means : torch.Tensor
        [S, D], float32 or wider, on the embeddings' device; not normalised.

    Raises
    ------
    ValueError
        No utterances, or unequal numbers of them.

    Example
    -------
    >>> embeddings = torch.tensor([[1.0, 0.0], [5.0, 5.0], [3.0, 2.0]])
    >>> speaker_means(embeddings, ["id2", "id1", "id2"])
    (('id1', 'id2'), tensor([[5., 5.],
            [2., 1.]]))
    """
    if len(embeddings) != len(speakers) or not len(speakers):
        raise ValueError(
            f"{len(embeddings)} embeddings and {len(speakers)} names: need a name each, "
            "and at least one."
        )
    names, rows = np.unique(np.asarray(speakers, dtype=str), return_inverse=True)
    rows = torch.as_tensor(rows, device=embeddings.device)
    values = _widened(embeddings)
    sums = values.new_zeros(len(names), values.shape[1]).index_add_(0, rows, values)
    means = sums / rows.bincount().unsqueeze(1)
    return tuple(names.tolist()), means


def cosine_distance(x, y):
    """``1 - cos`` of all pairs.

    Arguments
    ---------
    x : torch.Tensor
        [N, D].
    y : torch.Tensor
        [M, D].

    Returns
    -------
    torch.Tensor
        [N, M], float32 or wider, in [0, 2] up to rounding, never negative.

    Example
    -------
    >>> cosine_distance(torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
    tensor([[0., 1.]])
    """
    unit_x, unit_y = (torch.nn.functional.normalize(_widened(z), dim=-1) for z in (x, y))
    return (1 - unit_x @ unit_y.T).clamp_min(0)


def distance_matrix(points, distance):
    """All distances among points, as the measures want them.

    Exactly symmetric with a zero diagonal, which a distance computed through matrix
    products is not. It is filled a block of rows at a time: beside the result (288 MB
    for 6,000 points) no temporary grows with the square of N.

    Arguments
    ---------
    points : torch.Tensor
        [N, D]; computed in float64.
    distance : callable
        From x [N, D] and y [M, D] to [N, M].

    Returns
    -------
    numpy.ndarray
        [N, N], float64.

    Example
    -------
    >>> distance_matrix(torch.tensor([[0.0], [3.0], [1.0]]), torch.cdist)
    array([[0., 3., 1.],
           [3., 0., 2.],
           [1., 2., 0.]])
    """
    points = points.detach().double()
    matrix = np.empty((len(points), len(points)))
    with torch.no_grad():
        for start in range(0, len(points), _ROWS):
            rows = slice(start, start + _ROWS)
            block = distance(points[rows], points[start:]).cpu().numpy()
            matrix[rows, start:] = block
            matrix[start:, rows] = block.T
            square = block[:, : len(block)]
            matrix[rows, rows] = (square + square.T) / 2
    np.fill_diagonal(matrix, 0)
    return matrix


# ------------------------------------------------------------------------ k-means


def kmeans(embeddings, k, seed=0, n_init=10):
    """k-means of the embeddings' directions, by scikit-learn.

    Embeddings are normalised to length 1 and clustered by Euclidean distance, which
    orders pairs of them as the cosine does.

    Arguments
    ---------
    embeddings : torch.Tensor
        [N, D], one a speaker. Computed in float64 on the CPU.
    k : int
        Clusters.
    seed : int
        The same seed gives the same clusters.
    n_init : int
        Runs from different k-means++ starts; the one of lowest inertia is kept.

    Returns
    -------
    labels : torch.Tensor
        [N], int64, in [0, k), on the embeddings' device.
    centers : torch.Tensor
        [k, D], float64, there too: means of unit vectors, shorter than 1.

    Raises
    ------
    ValueError
        Not [N, D], an embedding of length zero or not finite, fewer different
        directions than k; names the row.

    Example
    -------
    >>> embeddings = torch.tensor([[1.0, 0.1], [0.1, 1.0], [9.0, 0.0], [0.0, 5.0]])
    >>> labels, centers = kmeans(embeddings, k=2)
    >>> bool(labels[0] == labels[2]), bool(labels[0] == labels[1])
    (True, False)
    """
    points = _checked_points(embeddings)
    lengths = torch.linalg.vector_norm(points, dim=1)
    if not lengths.all():
        row = int((lengths == 0).nonzero()[0])
        raise ValueError(f"embeddings[{row}] has length zero: it has no direction.")
    points = points / lengths.unsqueeze(1)
    _check_k(k, points)
    model = KMeans(n_clusters=k, n_init=n_init, random_state=seed)
    labels = torch.as_tensor(model.fit_predict(points.cpu().numpy()))
    centers = torch.as_tensor(model.cluster_centers_)
    return labels.long().to(points.device), centers.to(points.device)


def gyromidpoints(points, labels, k, curvature):
    r"""The gyromidpoint of each cluster of points in the Poincare ball.

    .. math::

        m = \tfrac12 \otimes_c v,\qquad
        v = \frac{\sum_i \lambda_i x_i}{\sum_i (\lambda_i - 1)},\qquad
        \lambda_i = \frac{2}{1 - c |x_i|^2}

    (Ungar, "A Gyrovector Space Approach to Hyperbolic Geometry", 2009; Shimizu et al.,
    "Hyperbolic Neural Networks++", ICLR 2021.) It is the Einstein midpoint, and the
    point of least :math:`\sum_i \sinh^2(\sqrt c\, d(x_i, m) / 2)` (Law et al.,
    "Lorentzian Distance Learning for Hyperbolic Representations", ICML 2019). For c
    towards 0 it is the mean.

    Arguments
    ---------
    points : torch.Tensor
        [N, D], with ``sqrt(c) |x| < 1``.
    labels : torch.Tensor
        [N], int64, in [0, k).
    k : int
        Clusters.
    curvature : float or torch.Tensor
        c > 0, where the ball has curvature -c.

    Returns
    -------
    torch.Tensor
        [k, D], the points' dtype and device. The origin where a cluster is empty.

    Example
    -------
    >>> points = torch.tensor([[0.5, 0.0], [-0.5, 0.0], [0.0, 0.8]])
    >>> gyromidpoints(points, torch.tensor([0, 0, 1]), 2, curvature=1.0)
    tensor([[0.0000, 0.0000],
            [0.0000, 0.8000]])
    """
    c = _number(curvature)
    tiny, inside = torch.finfo(points.dtype).tiny, torch.finfo(points.dtype).eps
    weights = 2 / (1 - c * points.square().sum(1, keepdim=True)).clamp_min(inside)

    def summed(values):
        return values.new_zeros(k, values.shape[1]).index_add_(0, labels, values)

    sizes, weight, total = (
        summed(z) for z in (torch.ones_like(weights), weights, weights * points)
    )
    # (1/2) (x)_c v = v / (1 + sqrt(1 - c |v|^2)), with v's fraction multiplied out. The
    # root is that of (weight - sizes)^2 - c |total|^2, without its cancellation.
    center = total / weight.clamp_min(tiny)
    spread = weights * (points - center[labels]).square().sum(1, keepdim=True)
    root = (sizes.square() + c * weight * summed(spread)).sqrt()
    return total / (weight - sizes + root).clamp_min(tiny)


def ball_kmeans(points, k, curvature, seed=0, n_init=10, max_iter=300):
    r"""k-means in the Poincare ball: nearest center by hyperbolic distance, centers by
    `gyromidpoints`.

    Both steps lower the inertia, the sum over points x and their centers m of

    .. math::

        \frac1c \sinh^2 \frac{\sqrt c\, d(x, m)}2
        = \frac{|x - m|^2}{(1 - c |x|^2)(1 - c |m|^2)},

    so it settles; for c towards 0 this is Euclidean k-means. Starts are k-means++'s
    (Arthur & Vassilvitskii, SODA 2007) with this cost in place of the squared distance.
    A cluster that loses all its points is given the point farthest from its center.

    Arguments
    ---------
    points : torch.Tensor
        [N, D], in the ball (``ball.project``). Computed in float64 on their device.
    k : int
        Clusters.
    curvature : float or torch.Tensor
        c > 0: ``PoincareBall.curvature``, but 1.0 for ``ClippedUnitBall``, which has the
        unit ball's distance whatever its curvature.
    seed : int
        The same seed gives the same clusters.
    n_init : int
        Runs from different starts; the one of lowest inertia is kept.
    max_iter : int
        A run ends here where it has not settled.

    Returns
    -------
    labels : torch.Tensor
        [N], int64, in [0, k); no cluster is empty.
    centers : torch.Tensor
        [k, D], float64, in the ball.

    Raises
    ------
    ValueError
        A curvature that is not positive, not [N, D], a point that is not finite or
        outside the ball (names the row), fewer different points than k.

    Example
    -------
    >>> from hamsb.nnet.balls import PoincareBall
    >>> ball = PoincareBall(curvature=1.0, gain=1.0)
    >>> points = ball.project(torch.tensor([[2.0, 0], [-2.0, 0], [2.1, 0], [-1.9, 0]]))
    >>> labels, centers = ball_kmeans(points, 2, ball.curvature)
    >>> bool(labels[0] == labels[2]), bool(labels[0] == labels[1])
    (True, False)
    """
    c = _number(curvature)
    if not 0 < c < math.inf:
        raise ValueError(f"curvature={c:g}: must be positive and finite.")
    points = _checked_points(points)
    squares = points.square().sum(1, keepdim=True)
    if not (c * squares < 1).all():
        row = int((~(c * squares < 1)).nonzero()[0, 0])
        raise ValueError(
            f"points[{row}] lies outside the ball of curvature -{c:g}; bring embeddings "
            "into it with ball.project first."
        )
    _check_k(k, points)
    random = np.random.default_rng(seed)

    def costs(centers):
        center_squares = centers.square().sum(1)
        squared = (squares + center_squares - 2 * (points @ centers.T)).clamp_min(0)
        inside = torch.finfo(points.dtype).eps
        return squared / ((1 - c * squares) * (1 - c * center_squares).clamp_min(inside))

    runs = (_lloyd(points, k, costs, c, random, max_iter) for _ in range(n_init))
    _, labels, centers = min(runs, key=lambda run: run[0])
    return labels, centers


def _lloyd(points, k, costs, curvature, random, max_iter):
    """One run of k-means: (inertia, labels, centers)."""
    centers = _spread_start(points, k, costs, random)
    labels = None
    for _ in range(max_iter):
        cost, nearest = costs(centers).min(1)
        nearest = _without_empty(nearest, cost, k)
        if labels is not None and torch.equal(nearest, labels):
            break
        labels = nearest
        centers = gyromidpoints(points, labels, k, curvature)
    inertia = costs(centers).gather(1, labels.unsqueeze(1)).sum().item()
    return inertia, labels, centers


def _spread_start(points, k, costs, random):
    """k points, each drawn with probability proportional to its cost so far."""
    chosen = [int(random.integers(len(points)))]
    cost = costs(points[chosen])[:, 0]
    while len(chosen) < k:
        summed = cost.cumsum(0)
        drawn = torch.searchsorted(summed, summed[-1] * random.random(), right=True)
        chosen.append(min(int(drawn), len(points) - 1))
        cost = torch.minimum(cost, costs(points[chosen[-1:]])[:, 0])
    return points[chosen]


def _without_empty(labels, cost, k):
    """Give each empty cluster the costliest point of one that keeps another."""
    sizes = labels.bincount(minlength=k)
    if sizes.all():
        return labels
    labels = labels.clone()
    for empty in (sizes == 0).nonzero().flatten().tolist():
        farthest = cost.masked_fill(sizes[labels] == 1, -1).argmax()
        sizes[labels[farthest]] -= 1
        sizes[empty] = 1
        labels[farthest] = empty
    return labels


def _checked_points(points):
    """[N, D] in float64, finite."""
    if points.ndim != 2 or not len(points):
        raise ValueError(f"expected embeddings [N, D], got shape {tuple(points.shape)}.")
    finite = points.isfinite().all(1)
    if not finite.all():
        row = int((~finite).nonzero()[0])
        raise ValueError(f"embeddings[{row}] holds values that are not finite.")
    return points.detach().double()


def _check_k(k, points):
    different = len(points.unique(dim=0))
    if not 1 <= k <= different:
        raise ValueError(
            f"k={k}: must be at least 1, and at most the number of different points, "
            f"which is {different} (of {len(points)})."
        )


def _number(x):
    """A float, also of a parameter."""
    return x.item() if isinstance(x, torch.Tensor) else float(x)


def _widened(x):
    """Float32 or wider."""
    return x if x.dtype == torch.float64 else x.float()


# ----------------------------------------------------------- measures of quality


def cluster_quality(distances, labels, to_centers=None):
    """The three measures of a clustering.

    All three are unchanged by scaling the distances and by renumbering points or
    clusters. With medoids held fixed, smaller distances within clusters and larger
    ones between them never make `relative_margin` or `weakest_link` worse, nor an
    `additive_margin` that is not negative. With mean centers, which move with their
    points, that is not claimed.

    Trivial clusterings, a single cluster or nothing but singletons, have no quality:
    every measure of them is NaN.

    Arguments
    ---------
    distances : array or tensor
        [N, N], >= 0, symmetric, zero diagonal: `distance_matrix`.
    labels : array or tensor
        [N], int, in [0, k).
    to_centers : array or tensor, optional
        [N, k], distances from points to centers; by default the centers are the
        clusters' `medoids`.

    Returns
    -------
    dict of str to float
        ``relative_margin`` (lower is better), ``additive_margin`` (higher),
        ``weakest_link`` (lower).

    Raises
    ------
    ValueError
        Shapes that do not fit, a distance that is negative or not finite, a matrix
        that is not symmetric or has a diagonal that is not zero, a label out of range.

    Example
    -------
    >>> points = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0]])
    >>> cluster_quality(distance_matrix(points, torch.cdist), [0, 0, 0, 1, 1])
    {'relative_margin': 0.10833333333333334, 'additive_margin': 6.88, 'weakest_link': 0.125}
    """
    distances, labels = _checked(distances, labels)
    chosen = None
    if to_centers is None:
        chosen = _medoids(distances, labels)
        to_centers = distances[:, chosen]
    to_centers = _checked_to_centers(to_centers, labels)
    return {
        "relative_margin": _relative_margin(to_centers, labels, chosen),
        "additive_margin": _additive_margin(distances, labels, to_centers),
        "weakest_link": _weakest_link(distances, labels),
    }


def medoids(distances, labels):
    """The member of each cluster with the least sum of distances to the others.

    Arguments
    ---------
    distances, labels :
        As for `cluster_quality`.

    Returns
    -------
    numpy.ndarray
        [k], int64, the first one where several have the least; column j of
        ``distances[:, medoids]`` belongs to cluster j.

    Raises
    ------
    ValueError
        As for `cluster_quality`; a cluster below the largest label that is empty.

    Example
    -------
    >>> points = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0]])
    >>> medoids(distance_matrix(points, torch.cdist), [0, 0, 0, 1, 1])
    array([1, 3])
    """
    return _medoids(*_checked(distances, labels))


def relative_margin(to_centers, labels, medoids=None):
    r"""Mean of :math:`d_1 / d_2` over the points that are not centers themselves;
    lower is better.

    :math:`d_1` is a point's distance to its own center, :math:`d_2` the one to the
    nearest other. Medoids are not counted, and members of singletons, which are their
    own center, are not either. Where both distances are 0, as between coincident
    centers, the ratio counts 1. Trivial clusterings give NaN.

    Arguments
    ---------
    to_centers : array or tensor
        [N, k], distances from points to centers, >= 0.
    labels : array or tensor
        [N], int, in [0, k).
    medoids : array or tensor, optional
        [k], int: the points that are the centers. Left out, centers are means.

    Returns
    -------
    float
        In [0, 1] where every point is in the cluster of its nearest center; infinite
        where a point lies on another center than its own.

    Raises
    ------
    ValueError
        As for `cluster_quality`.

    Example
    -------
    >>> relative_margin([[1.0, 4.0], [1.0, 2.0], [3.0, 3.0], [6.0, 3.0]], [0, 0, 1, 1])
    0.5625
    """
    labels = _checked_labels(labels, len(to_centers))
    to_centers = _checked_to_centers(to_centers, labels)
    if medoids is not None:
        medoids = _as_array(medoids)
        if not np.array_equal(labels[medoids], np.arange(to_centers.shape[1])):
            raise ValueError(
                f"medoids {medoids[:5]} are in clusters {labels[medoids][:5]}; each "
                "cluster's medoid must be one of its points, in the clusters' order."
            )
    return _relative_margin(to_centers, labels, medoids)


def additive_margin(distances, labels, to_centers):
    r"""Mean of :math:`d_2 - d_1` over all points, over the mean distance of two points
    of a cluster; higher is better.

    :math:`d_1` and :math:`d_2` as for `relative_margin`. Singletons have no pair of
    points. Where all points of each cluster coincide it is infinite, or 0 where the
    centers coincide as well. Trivial clusterings give NaN.

    Arguments
    ---------
    distances, labels, to_centers :
        As for `cluster_quality`.

    Returns
    -------
    float
        Not negative where every point is in the cluster of its nearest center.

    Raises
    ------
    ValueError
        As for `cluster_quality`.

    Example
    -------
    >>> distances = distance_matrix(torch.tensor([[0.0], [2.0], [9.0]]), torch.cdist)
    >>> additive_margin(distances, [0, 0, 1], [[1.0, 9.0], [1.0, 7.0], [8.0, 0.0]])
    3.6666666666666665
    """
    distances, labels = _checked(distances, labels)
    return _additive_margin(distances, labels, _checked_to_centers(to_centers, labels))


def weakest_link(distances, labels):
    """The longest link within a cluster over the smallest distance between points of
    different clusters; lower is better.

    The links of a cluster are the edges of its minimum spanning tree. Singletons have
    none. Where points of different clusters coincide it is infinite, or 1 where the
    longest link is 0 too. Trivial clusterings give NaN.

    Arguments
    ---------
    distances, labels :
        As for `cluster_quality`.

    Returns
    -------
    float
        Below 1, and only then, joining ever more distant points arrives at exactly
        these clusters.

    Raises
    ------
    ValueError
        As for `cluster_quality`.

    Example
    -------
    >>> points = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    >>> weakest_link(distance_matrix(points, torch.cdist), [0, 0, 0, 1])
    0.5
    """
    return _weakest_link(*_checked(distances, labels))


def _medoids(distances, labels):
    sizes = np.bincount(labels)
    if not sizes.all():
        raise ValueError(
            f"no point has label {sizes.argmin()}, but some have {len(sizes) - 1}: an "
            "empty cluster has no medoid."
        )
    return np.array(
        [
            rows[block.sum(1, dtype=np.float64).argmin()]
            for rows, block in _blocks(distances, labels)
        ]
    )


def _relative_margin(to_centers, labels, medoids):
    if _is_trivial(labels):
        return math.nan
    own, other = _own_and_other(to_centers, labels)
    counted = np.bincount(labels)[labels] > 1
    if medoids is not None:
        counted[medoids] = False
    return float(np.mean(_ratio(own[counted], other[counted])))


def _additive_margin(distances, labels, to_centers):
    if _is_trivial(labels):
        return math.nan
    own, other = _own_and_other(to_centers, labels)
    margin = float(np.mean(other - own))
    total = pairs = 0
    for rows, block in _blocks(distances, labels):
        total += block.sum(dtype=np.float64)
        pairs += len(rows) * (len(rows) - 1)
    if total == 0:
        return math.copysign(math.inf, margin) if margin else 0.0
    return margin / float(total / pairs)


def _weakest_link(distances, labels):
    if _is_trivial(labels):
        return math.nan
    link, gap = 0.0, math.inf
    for rows, block in _blocks(distances, labels):
        others = np.flatnonzero(labels != labels[rows[0]])
        for part in np.array_split(rows, -(-len(rows) // _ROWS)):
            gap = min(gap, distances[np.ix_(part, others)].min())
        if len(rows) > 1:
            # The last merger of single linkage is the spanning tree's longest edge.
            merged = linkage(squareform(block, checks=False), "single")
            link = max(link, merged[-1, 2])
    return float(_ratio(np.float64(link), np.float64(gap)))


def _blocks(distances, labels):
    """Each cluster's rows and their distances from each other."""
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        yield rows, distances[np.ix_(rows, rows)]


def _own_and_other(to_centers, labels):
    """Distances [N] to the own center and to the nearest other one."""
    points = np.arange(len(labels))
    own = to_centers[points, labels]
    others = to_centers.copy()
    others[points, labels] = np.inf
    return own, others.min(1)


def _ratio(upper, lower):
    """upper / lower, where 0 / 0 is 1: a distance is as long as its equal."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(upper == lower, 1.0, upper / lower)


def _is_trivial(labels):
    return len(np.unique(labels)) in (1, len(labels))


def _as_array(x):
    return x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)


def _checked(distances, labels):
    distances = _as_array(distances)
    n = len(distances)
    if distances.shape != (n, n) or not n:
        raise ValueError(f"distances must be [N, N], got shape {distances.shape}.")
    labels = _checked_labels(labels, n)
    if np.diagonal(distances).any():
        point = int(np.flatnonzero(np.diagonal(distances))[0])
        raise ValueError(
            f"distances[{point}, {point}] is {distances[point, point]:g}, not 0; "
            "distance_matrix gives a matrix as it must be."
        )
    largest = distances.max()
    for start in range(0, n, _ROWS):
        block = distances[start : start + _ROWS]
        _check_distances("distances", block, start)
        skew = np.abs(block - distances[:, start : start + _ROWS].T)
        if skew.max() > 1e-5 * largest:
            row, column = np.unravel_index(skew.argmax(), skew.shape)
            raise ValueError(
                f"distances[{start + row}, {column}] is {block[row, column]:g}, but the "
                f"other way round {distances[column, start + row]:g}; distance_matrix "
                "gives a symmetric matrix."
            )
    return distances, labels


def _checked_labels(labels, n):
    labels = _as_array(labels)
    if labels.shape != (n,) or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise ValueError(
            f"labels must be {n} whole numbers from 0, one a point; got shape "
            f"{labels.shape}, {labels.dtype}, {labels[:5]}."
        )
    return labels.astype(np.int64)


def _checked_to_centers(to_centers, labels):
    to_centers = _as_array(to_centers)
    if to_centers.ndim != 2 or len(to_centers) != len(labels):
        raise ValueError(
            f"to_centers must be [{len(labels)}, k], got shape {to_centers.shape}."
        )
    if labels.max() >= to_centers.shape[1]:
        raise ValueError(
            f"label {labels.max()}, but to_centers has {to_centers.shape[1]} centers."
        )
    _check_distances("to_centers", to_centers)
    return to_centers


def _check_distances(name, block, first_row=0):
    wrong = ~(np.isfinite(block) & (block >= 0))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise ValueError(
            f"{name}[{first_row + row}, {column}] is {block[row, column]:g}; a distance "
            "is finite and not negative."
        )
