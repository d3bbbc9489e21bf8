"""Similarities of embeddings: one protocol for losses, scoring and clusters.

A similarity brings embeddings into the form that it compares (``project``), and
compares such points row by row (``paired``), all with all (``pairwise``), or as
distances (``distances``). Higher is more similar, whatever it is. Everything is
float32 or wider: losses compare in float32, scoring and clusters hand in float64.
"""

import torch
from torch import nn
from torch.nn.functional import normalize

from hamsb.nnet.balls import Ball, check_ball
from hamsb.nnet.precision import widened


class Similarity(nn.Module):
    """What every similarity offers.

    Attributes
    ----------
    name : str
        For tables and files.
    gives : str
        What the similarity is, one of `hamsb.nnet.kinds.KINDS`; "" is not compared with
        what a loss expects.
    """

    name = ""
    gives = ""

    def project(self, x: torch.Tensor) -> torch.Tensor:
        """Embeddings [..., D] in the form that is compared, [..., D], float32 or wider."""
        raise NotImplementedError

    def paired(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Similarity of projected x and y [N, D], row by row: [N]."""
        raise NotImplementedError

    def pairwise(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Similarity of all pairs of projected x [N, D] and y [M, D]: [N, M]."""
        raise NotImplementedError

    def distances(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Distances >= 0 of all pairs of projected x [N, D] and y [M, D]: [N, M]; the
        smaller, the more similar."""
        raise NotImplementedError


class CosineSimilarity(Similarity):
    r"""The cosine of the angle between embeddings.

    .. math:: s = \frac{x^\top y}{\lVert x \rVert \lVert y \rVert}

    An embedding of length zero has cosine 0 to everything.

    Example
    -------
    >>> similarity = CosineSimilarity()
    >>> x = similarity.project(torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
    >>> similarity.pairwise(x, x)
    tensor([[1.0000, 0.8000],
            [0.8000, 1.0000]])
    """

    name = "cosine"
    gives = "cosine"

    def project(self, x: torch.Tensor) -> torch.Tensor:
        """Embeddings [..., D] at length 1, float32 or wider."""
        x = widened(x)
        return normalize(x, dim=-1, eps=torch.finfo(x.dtype).tiny ** 0.5)

    def paired(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Cosines of projected x and y [N, D], row by row: [N]."""
        return (x * y).sum(-1)

    def pairwise(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Cosines of all pairs of projected x [N, D] and y [M, D]: [N, M]. In float32
        the product obeys torch's TensorFloat-32 setting."""
        return x @ y.transpose(-1, -2)

    def distances(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """``1 - cos`` of all pairs of projected x [N, D] and y [M, D]: [N, M], never
        negative."""
        return (1 - self.pairwise(x, y)).clamp_min(0)


class HyperbolicSimilarity(Similarity):
    """Minus the hyperbolic distance in a ball.

    In a loss margins are then hyperbolic lengths, and what the ball learns are
    parameters of the loss that holds this.

    Arguments
    ---------
    ball : hamsb.nnet.balls.Ball
        Projects the embeddings and measures there. To score with a trained model, the
        one that it was trained with, its ``classifier.ball``.

    Example
    -------
    >>> from hamsb import PoincareBall
    >>> similarity = HyperbolicSimilarity(PoincareBall(1.0, projection="clip"))
    >>> x = similarity.project(torch.tensor([[0.0, 0.0], [0.0, 0.5]]))
    >>> similarity.pairwise(x, x)
    tensor([[-0.0000, -1.0986],
            [-1.0986, -0.0000]])
    """

    name = "hyperbolic"
    gives = "distance"

    def __init__(self, ball: Ball):
        super().__init__()
        check_ball(ball)
        self.ball = ball

    def project(self, x: torch.Tensor) -> torch.Tensor:
        """Points of the ball [..., D] from embeddings [..., D]."""
        return self.ball.project(x)

    def paired(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Minus the distance of points x and y [N, D], row by row and by direct
        difference: [N]."""
        return -self.ball.distance(x, y)

    def pairwise(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Minus the distances of all pairs of points x [N, D] and y [M, D], by one
        matrix product: [N, M]."""
        return self.ball.pairwise_similarity(x, y)

    def distances(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The distances of all pairs of points x [N, D] and y [M, D]: [N, M]."""
        return self.ball.pairwise_distance(x, y)
