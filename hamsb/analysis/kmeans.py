"""k-means of directions, and of points in a hyperbolic ball.

`kmeans` clusters the directions of embeddings, `ball_kmeans` points of the Poincare
ball; both return labels and centers.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from hamsb.utils.checks import check_positive
from hamsb.utils.packages import optional


def kmeans(
    embeddings: Tensor, k: int, seed: int = 0, n_init: int = 10
) -> tuple[Tensor, Tensor]:
    """k-means of the embeddings' directions, by scikit-learn.

    Embeddings are normalized to length 1 and clustered by Euclidean distance, which
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
    with optional("clustering"):
        from sklearn.cluster import KMeans

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


def gyromidpoints(
    points: Tensor, labels: Tensor, k: int, curvature: float | Tensor
) -> Tensor:
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

    def summed(values: Tensor) -> Tensor:
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


def ball_kmeans(
    points: Tensor,
    k: int,
    curvature: float | Tensor,
    seed: int = 0,
    n_init: int = 10,
    max_iter: int = 300,
) -> tuple[Tensor, Tensor]:
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
        c > 0 of the distance: the ball's ``metric_curvature``, which is 1.0 in a
        ``ClippedUnitBall`` whatever its curvature.
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
    >>> from hamsb import PoincareBall
    >>> ball = PoincareBall(curvature=1.0, gain=1.0)
    >>> points = ball.project(torch.tensor([[2.0, 0], [-2.0, 0], [2.1, 0], [-1.9, 0]]))
    >>> labels, centers = ball_kmeans(points, 2, ball.metric_curvature)
    >>> bool(labels[0] == labels[2]), bool(labels[0] == labels[1])
    (True, False)
    """
    c = _number(curvature)
    check_positive("curvature", c)
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

    def costs(centers: Tensor) -> Tensor:
        center_squares = centers.square().sum(1)
        squared = (squares + center_squares - 2 * (points @ centers.T)).clamp_min(0)
        inside = torch.finfo(points.dtype).eps
        return squared / ((1 - c * squares) * (1 - c * center_squares).clamp_min(inside))

    runs = (_lloyd(points, k, costs, c, random, max_iter) for _ in range(n_init))
    _, labels, centers = min(runs, key=lambda run: run[0])
    return labels, centers


def _lloyd(
    points: Tensor,
    k: int,
    costs: Callable[[Tensor], Tensor],
    curvature: float,
    random: np.random.Generator,
    max_iter: int,
) -> tuple[float, Tensor, Tensor]:
    """One run of k-means: (inertia, labels, centers)."""
    centers = _spread_start(points, k, costs, random)
    labels = torch.full((len(points),), -1, device=points.device)
    for _ in range(max_iter):
        cost, nearest = costs(centers).min(1)
        nearest = _without_empty(nearest, cost, k)
        if torch.equal(nearest, labels):
            break
        labels = nearest
        centers = gyromidpoints(points, labels, k, curvature)
    inertia = costs(centers).gather(1, labels.unsqueeze(1)).sum().item()
    return inertia, labels, centers


def _spread_start(
    points: Tensor,
    k: int,
    costs: Callable[[Tensor], Tensor],
    random: np.random.Generator,
) -> Tensor:
    """k points, each drawn with probability proportional to its cost so far."""
    chosen = [int(random.integers(len(points)))]
    cost = costs(points[chosen])[:, 0]
    while len(chosen) < k:
        summed = cost.cumsum(0)
        drawn = torch.searchsorted(summed, summed[-1] * random.random(), right=True)
        chosen.append(min(int(drawn), len(points) - 1))
        cost = torch.minimum(cost, costs(points[chosen[-1:]])[:, 0])
    return points[chosen]


def _without_empty(labels: Tensor, cost: Tensor, k: int) -> Tensor:
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


def _checked_points(points: Tensor) -> Tensor:
    """[N, D] in float64, finite."""
    if points.ndim != 2 or not len(points):
        raise ValueError(f"expected embeddings [N, D], got shape {tuple(points.shape)}.")
    finite = points.isfinite().all(1)
    if not finite.all():
        row = int((~finite).nonzero()[0])
        raise ValueError(f"embeddings[{row}] holds values that are not finite.")
    return points.detach().double()


def _check_k(k: int, points: Tensor) -> None:
    different = len(points.unique(dim=0))
    if not 1 <= k <= different:
        raise ValueError(
            f"k={k}: must be at least 1, and at most the number of different points, "
            f"which is {different} (of {len(points)})."
        )


def _number(x: float | Tensor) -> float:
    """A float, also of a parameter."""
    return x.item() if isinstance(x, torch.Tensor) else float(x)
