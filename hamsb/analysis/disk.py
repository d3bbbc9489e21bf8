"""Points of any space in the Poincare disk, drawn by their distances alone.

Sources
-------
Becigneul & Ganea, "Riemannian adaptive optimization methods", ICLR 2019; Sarkar,
"Low distortion Delaunay embedding of trees in hyperbolic plane", GD 2011.
"""

import math

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform
from torch import Tensor

from hamsb.analysis.cluster_quality import checked_distances
from hamsb.analysis.spaces import Space
from hamsb.nnet.balls import PoincareBall
from hamsb.utils.checks import check_whole

_BALL = PoincareBall(1.0, projection="clip", max_radius=1 - 1e-6)
_PAIRS = 20_000  # compared in a step
_WIDEST = 8.0  # the largest distance in the disk: two points at 96 % of its radius


def embed_in_disk(
    distances: ArrayLike, seed: int = 0, steps: int = 600
) -> tuple[np.ndarray, float]:
    r"""Place points in the Poincare disk so that their distances are these.

    Minimizes, over the places and one scale s of all distances,

    .. math::

        \operatorname{mean}_{i < j} \left(\frac{d_{\mathbb D}(x_i, x_j)}{s\, d_{ij}} - 1
        \right)^2

    by Riemannian Adam: gradient, momentum and step are those of the disk's metric. It
    starts with the points on a circle in the order of the dendrogram's leaves, where the
    branches of a tree do not cross.

    Arguments
    ---------
    distances : array or tensor
        [N, N].
    seed : int
        Of the pairs that a step compares, where there are more than 20,000.
    steps : int
        Of the optimizer.

    Returns
    -------
    points : numpy.ndarray
        [N, 2], inside the unit disk, float64; the midpoint of all lies near the origin.
    distortion : float
        Mean of :math:`|d_{\mathbb D} / (s\, d) - 1|` over all pairs that are not 0 apart.

    Example
    -------
    >>> line = np.arange(6.0)
    >>> points, distortion = embed_in_disk(abs(line[:, None] - line))
    >>> points.shape, distortion < 0.02
    ((6, 2), True)
    """
    check_whole("steps", steps, least=1)
    distances = np.asarray(checked_distances(distances), dtype=np.float64)
    n, largest = len(distances), distances.max()
    if n < 3 or largest == 0:
        return np.linspace(-0.5, 0.5, n)[:, None] * np.array([1.0, 0.0]), 0.0
    wanted = torch.from_numpy(distances / largest)
    first, second = (torch.from_numpy(side) for side in np.triu_indices(n, 1))
    apart = wanted[first, second] > 1e-9
    first, second = first[apart], second[apart]
    wanted = wanted[first, second]
    generator = torch.Generator().manual_seed(seed)
    points = _on_circle(distances).requires_grad_()
    log_scale = torch.tensor(math.log(6.0), dtype=torch.float64, requires_grad=True)
    adam = _RiemannianAdam(points)
    plain = torch.optim.Adam([log_scale], lr=0.02)
    for step in range(steps):
        chosen = torch.arange(len(wanted))
        if len(wanted) > _PAIRS:
            chosen = torch.randint(len(wanted), (_PAIRS,), generator=generator)
        found = _BALL.distance(points[first[chosen]], points[second[chosen]])
        loss = (found / (log_scale.exp() * wanted[chosen]) - 1).square().mean()
        gradient, log_scale.grad = torch.autograd.grad(loss, [points, log_scale])
        rate = 0.1 * 0.5 * (1 + math.cos(math.pi * step / steps))
        adam.step(gradient, rate)
        plain.step()
        log_scale.data.clamp_(max=math.log(_WIDEST))
    with torch.no_grad():
        found = _BALL.distance(points[first], points[second])
        ratio = found / wanted
        distortion = float((ratio / _median_scale(ratio) - 1).abs().mean())
    return points.detach().numpy(), distortion


def edges(
    points: np.ndarray, paths: ArrayLike
) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    """The inner nodes of a tree among points of the disk, and its edges.

    Arguments
    ---------
    points : array
        [N, 2], in the disk: the leaves.
    paths : array
        [N, levels], root first, of `hamsb.analysis.distance_tree.level_codes`.

    Returns
    -------
    nodes : numpy.ndarray
        [N + K, 2]: the points, then each group at the midpoint of its leaves, the root
        last.
    edges : list of (int, int, int)
        Of a node, the one above it, and the level of that, from 0 at the root. A leaf that
        lacks a level hangs on the last group that it has.
    """
    space, codes = Space(_BALL), np.asarray(paths)
    nodes, found = [points], []
    leaves = torch.from_numpy(points)
    place, above = len(points), {}
    for level, column in enumerate(codes.T):
        for code in range(int(column.max(initial=-1)) + 1):
            members = np.flatnonzero(column == code)
            middle = space.midpoints(leaves[members], np.zeros(len(members), dtype=int))
            nodes.append(middle.numpy())
            above[level, code] = place
            place += 1
    nodes.append(space.midpoints(leaves, np.zeros(len(leaves), dtype=int)).numpy())
    for (level, code), node in above.items():
        if level == 0:
            found.append((node, place, 0))
        else:
            member = np.flatnonzero(codes[:, level] == code)[0]
            found.append((node, above[level - 1, codes[member, level - 1]], level))
    for leaf, path in enumerate(codes):
        known = int((path >= 0).sum())
        parent = above[known - 1, path[known - 1]] if known else place
        found.append((leaf, parent, known))
    return np.concatenate(nodes), found


def geodesic(one: np.ndarray, other: np.ndarray, places: int = 24) -> np.ndarray:
    """Points [places, 2] on the shortest way between two points of the disk.

    Example
    -------
    >>> geodesic(np.array([0.5, 0.0]), np.array([-0.5, 0.0]), 3).round(6).tolist()
    [[0.5, 0.0], [0.0, 0.0], [-0.5, 0.0]]
    """
    x, y = torch.from_numpy(one), torch.from_numpy(other)
    along = torch.linspace(0, 1, places, dtype=torch.float64)[:, None]
    way = _BALL.logmap0(_BALL.mobius_add(-x, y))
    return _BALL.mobius_add(x, _BALL.expmap0(along * way)).numpy()


def _on_circle(distances: np.ndarray) -> Tensor:
    """Points [N, 2] on a circle, in the order of the dendrogram's leaves."""
    merged = linkage(squareform(distances, checks=False), "average")
    place = np.empty(len(distances))
    place[leaves_list(merged)] = np.arange(len(distances))
    angles = 2 * np.pi * place / len(distances)
    return torch.from_numpy(0.7 * np.stack([np.cos(angles), np.sin(angles)], axis=1))


def _median_scale(ratio: Tensor) -> Tensor:
    """The scale s of least mean |ratio / s - 1|: a median weighted by the ratio."""
    ordered = ratio.sort().values
    weights = ordered.cumsum(0)
    return ordered[torch.searchsorted(weights, weights[-1] / 2)]


class _RiemannianAdam:
    """Adam in the disk: the second moment is a point's squared gradient in the metric,
    the step an exponential map, and the first moment is carried along it."""

    def __init__(self, points: Tensor, beta1: float = 0.9, beta2: float = 0.99):
        self.points, self.beta1, self.beta2 = points, beta1, beta2
        self.momentum = torch.zeros_like(points)
        self.square = torch.zeros(len(points), 1, dtype=points.dtype)
        self.count = 0

    @torch.no_grad()
    def step(self, gradient: Tensor, rate: float) -> None:
        """Move the points against the gradient [N, 2] as drawn, by about the rate."""
        x, self.count = self.points, self.count + 1
        factor = _conformal(x)
        gradient = gradient / factor**2
        length = factor**2 * gradient.square().sum(1, keepdim=True)
        self.momentum = self.beta1 * self.momentum + (1 - self.beta1) * gradient
        self.square = self.beta2 * self.square + (1 - self.beta2) * length
        size = (self.square / (1 - self.beta2**self.count)).sqrt() + 1e-12
        move = -rate * self.momentum / (1 - self.beta1**self.count) / size
        # exp_x(v) = x (+) tanh(factor |v| / 2) v / |v|: expmap0 of factor v / 2.
        new = _BALL.project(_BALL.mobius_add(x, _BALL.expmap0(factor * move / 2)))
        self.momentum = _carried(self.momentum, x, new)
        self.points.copy_(new)


def _conformal(x: Tensor) -> Tensor:
    """How much longer than drawn a short line at x is, [N, 1]."""
    return 2 / (1 - x.square().sum(1, keepdim=True))


def _carried(v: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Tangent vectors at x, carried in parallel to y: their length in the metric is kept,
    and gyr[y, -x], in the plane a rotation by (1 - y conj(x)) / (1 - conj(y) x), turns
    them."""
    vz, xz, yz = (torch.view_as_complex(t.contiguous()) for t in (v, x, y))
    turn = (1 - yz * xz.conj()) / (1 - yz.conj() * xz)
    return torch.view_as_real(vz * turn) * (_conformal(x) / _conformal(y))
