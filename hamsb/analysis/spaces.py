"""Where embeddings are compared: by their angle, or in a ball; and points that have
nothing to tell, for a null."""

import copy
from functools import partial

import numpy as np
import torch
from torch import Tensor

from hamsb.analysis.cluster_quality import distance_matrix
from hamsb.analysis.kmeans import gyromidpoints
from hamsb.nnet.balls import Ball, expmap0, logmap0
from hamsb.nnet.similarities import CosineSimilarity, HyperbolicSimilarity

_DIGITS = 9  # radii that differ by less differ by rounding: they are one


class Space:
    """Points, their distances, midpoints and radii.

    Everything is in float64, on the CPU.

    Arguments
    ---------
    ball : hamsb.nnet.balls.Ball, optional
        Given, points are the embeddings' projections into it, distances are its, and a
        midpoint is the gyromidpoint. By default points are the embeddings, the distance
        is the angle between two in radians (which, other than ``1 - cos``, obeys the
        triangle inequality), a midpoint is the mean, and the radius the length.

    Attributes
    ----------
    name, label : str
        Of the distance, for tables, and shorter, with its unit, for plots.

    Example
    -------
    >>> space = Space()
    >>> space.distances(torch.tensor([[2.0, 0.0], [0.0, 1.0]])).round(4)
    array([[0.    , 1.5708],
           [1.5708, 0.    ]])
    """

    def __init__(self, ball: Ball | None = None):
        self.ball = None if ball is None else copy.deepcopy(ball).cpu().double()
        self.name = "angle" if ball is None else f"distance in {ball}"
        self.label = "angle (rad)" if ball is None else "hyperbolic distance"
        self._curvature = 0.0
        if self.ball is not None:
            self._curvature = float(torch.as_tensor(self.ball.metric_curvature))

    @torch.no_grad()
    def points(self, embeddings: Tensor) -> Tensor:
        """Embeddings [N, D] as points, [N, D]."""
        embeddings = embeddings.double()
        return embeddings if self.ball is None else self.ball.project(embeddings)

    @torch.no_grad()
    def midpoints(self, points: Tensor, labels: np.ndarray) -> Tensor:
        """The midpoint of each group, [K, D], of points [N, D] with labels [N] that are
        whole numbers from 0."""
        which, groups = torch.as_tensor(labels), int(labels.max()) + 1
        if self.ball is not None:
            return gyromidpoints(points, which, groups, self._curvature)
        sums = points.new_zeros(groups, points.shape[1]).index_add_(0, which, points)
        return sums / which.bincount().unsqueeze(1)

    @torch.no_grad()
    def distances(self, points: Tensor) -> np.ndarray:
        """All distances of points [N, D], [N, N]."""
        if self.ball is not None:
            return distance_matrix(points, HyperbolicSimilarity(self.ball).distances)
        similarity = CosineSimilarity()
        return distance_matrix(similarity.project(points), partial(_angles, similarity))

    @torch.no_grad()
    def radii(self, points: Tensor) -> np.ndarray:
        """How far points [N, D] lie from the origin, [N]."""
        if self.ball is None:
            radii = torch.linalg.vector_norm(points, dim=1)
        else:
            radii = self.ball.distance(points, torch.zeros_like(points))
        return radii.numpy().round(_DIGITS)

    def gaussian(self, points: Tensor, count: int, random: np.random.Generator) -> Tensor:
        """So many points [count, D] of a Gaussian that has the mean and the covariance of
        points [N, D]; in a ball, of their images under the logarithm at the origin."""
        vectors = self._tangent(points)
        mean = vectors.mean(0)
        noise = torch.from_numpy(random.standard_normal((count, len(vectors))))
        drawn = noise @ (vectors - mean) / max(len(vectors) - 1, 1) ** 0.5
        return self._inside(mean + drawn)

    def same_radii(self, points: Tensor, random: np.random.Generator) -> Tensor:
        """Points [N, D] as far from the origin as these, in random directions."""
        noise = torch.from_numpy(random.standard_normal(tuple(points.shape)))
        noise /= torch.linalg.vector_norm(noise, dim=1, keepdim=True)
        return noise * torch.linalg.vector_norm(points, dim=1, keepdim=True)

    def _tangent(self, points: Tensor) -> Tensor:
        return points if self.ball is None else logmap0(points, self._curvature)

    def _inside(self, vectors: Tensor) -> Tensor:
        return vectors if self.ball is None else expmap0(vectors, self._curvature)


def _angles(similarity: CosineSimilarity, x: Tensor, y: Tensor) -> Tensor:
    return similarity.pairwise(x, y).clamp(-1, 1).acos()
