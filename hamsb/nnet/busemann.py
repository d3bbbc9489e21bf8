"""A head whose centers lie infinitely far away: Busemann functions of a ball.

The radius of an embedding counts here: the farther out it lies, the more its similarities
with the speakers differ.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from hamsb.nnet._batches import vectors
from hamsb.nnet.balls import Ball, check_ball, pairwise_squared
from hamsb.nnet.precision import no_autocast, widened, widest
from hamsb.utils.checks import check_flag, check_positive, check_whole


class BusemannClassifier(nn.Module):
    r"""Minus the Busemann functions of embeddings at the speakers' ideal points, with a
    gain and a bias for each (arXiv 2602.18858; ideal prototypes: arXiv 2106.14472).

    .. math:: s_k = -g_k B_k(x) + b_k, \quad
        B_k(x) = \frac{1}{\sqrt c} \log \frac{|v_k - \sqrt c \, x|^2}{1 - c |x|^2}

    ``B_k`` is the distance of x to a point at infinity in the direction ``v_k``, less that
    of the origin. With `AMSoftmax` it is Busemann-AM, its margin a similarity. The gains
    stay positive; without them the ``1 - c |x|^2`` of an embedding would cancel in a
    softmax. Embeddings are scored by their cosine, as after any head.

    Arguments
    ---------
    input_size : int
        D, the dimension of the embeddings.
    out_neurons : int
        C, the number of speakers.
    ball : hamsb.nnet.balls.Ball
        Where embeddings are projected to. In a `ClippedUnitBall` long embeddings have no
        radius of their own; a `PoincareBall` leaves it.
    initial_scale : float
        Vectors in the directions ``v_k`` start as N(0, 1) times this, since they turn the
        faster, the shorter they are.
    learn_gain : bool
        False: every gain is 1.
    learn_bias : bool
        False: every bias is 0.

    Example
    -------
    >>> from hamsb import PoincareBall
    >>> classifier = BusemannClassifier(192, 5, PoincareBall(curvature=1.0))
    >>> classifier(torch.randn(8, 1, 192)).shape
    torch.Size([8, 1, 5])
    """

    gives = "logits"

    def __init__(
        self,
        input_size: int,
        out_neurons: int,
        ball: Ball,
        initial_scale: float = 1e-3,
        learn_gain: bool = True,
        learn_bias: bool = True,
    ):
        super().__init__()
        check_whole("input_size", input_size, 1)
        check_whole("out_neurons", out_neurons, 1)
        check_ball(ball)
        check_positive("initial_scale", initial_scale)
        check_flag("learn_gain", learn_gain)
        check_flag("learn_bias", learn_bias)
        self.ball = ball
        self.weight = nn.Parameter(torch.randn(out_neurons, input_size) * initial_scale)
        if learn_gain:
            self.log_gain = nn.Parameter(torch.zeros(out_neurons))
        if learn_bias:
            self.bias = nn.Parameter(torch.zeros(out_neurons))

    def forward(self, x: Tensor) -> Tensor:
        """The similarity of each embedding with each speaker.

        Arguments
        ---------
        x : torch.Tensor
            Embeddings [B, 1, D] or [B, D], any floating dtype; another shape is a
            ValueError.

        Returns
        -------
        torch.Tensor
            [B, 1, C], float32 or wider.
        """
        points = self.ball.project(vectors("embeddings", x, self.weight.shape[1]))
        with no_autocast(points):
            similarities = -busemann(
                points, normalize(widened(self.weight)), self.ball.metric_curvature
            )
            if hasattr(self, "log_gain"):
                similarities = similarities * self.log_gain.exp()
            if hasattr(self, "bias"):
                similarities = similarities + self.bias
        return similarities.unsqueeze(1)

    @property
    def out_neurons(self) -> int:
        """C, the number of speakers."""
        return len(self.weight)

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        return f"input_size={self.weight.shape[1]}, out_neurons={self.out_neurons}"


def busemann(points: Tensor, ideal: Tensor, curvature: float | Tensor) -> Tensor:
    """Busemann functions of points [B, D] at ideal points [C, D], of length 1: [B, C].

    By one matrix product, in float64 where the device has it, since near an ideal point
    little is left of its terms.

    Example
    -------
    >>> points = torch.tensor([[0.0, 0.0], [0.5, 0.0]])
    >>> busemann(points, torch.tensor([[1.0, 0.0]]), 1.0) + 0.0
    tensor([[ 0.0000],
            [-1.0986]])
    """
    x = points.to(widest(points)) * curvature**0.5
    tiny = torch.finfo(points.dtype).eps ** 2
    squared = pairwise_squared(x, ideal.to(x.dtype)).clamp_min(tiny)
    conformal = (1 - x.square().sum(1, keepdim=True)).clamp_min(math.sqrt(tiny))
    return ((squared.log() - conformal.log()) / curvature**0.5).to(points.dtype)
