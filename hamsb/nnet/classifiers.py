"""Classifier heads: from speaker embeddings to similarities with the speakers."""

import math

import torch
from torch import nn


class HyperbolicClassifier(nn.Module):
    """Speaker centers in a ball: embeddings to minus hyperbolic distances.

    It stands where SpeechBrain's ``Classifier`` stands and, like that one,
    returns something that grows with similarity: ``argmax``,
    ``classification_error`` and ``EncoderClassifier.classify_batch`` work
    unchanged. Scale and margin belong to the loss (``hamsb.nnet.losses``).

    Embeddings and centers go through the ball's projection. Centers, and what
    the ball learns, are parameters here, since SpeechBrain moves, optimizes
    and checkpoints what stands in ``modules``.

    Arguments
    ---------
    input_size : int
        D, the dimension of the embeddings.
    out_neurons : int
        C, the number of speakers.
    ball : hamsb.nnet.balls.Ball
        Where the distance is measured.
    initial_scale : float
        Centers start as N(0, 1) times this, 1e-3 as published (arXiv 2601.19709).
    batch_norm : bool
        Normalise each dimension of the embeddings over the batch (without weights)
        before the projection. The embeddings that are scored stay as they are.
    center_norm : float or None
        Scale every center to this length before the projection, so that training
        moves its direction alone; None, as published: its length is learned too.

    Example
    -------
    >>> from hamsb import ClippedUnitBall
    >>> classifier = HyperbolicClassifier(192, 5, ClippedUnitBall(curvature=3.0))
    >>> classifier(torch.randn(8, 1, 192)).shape
    torch.Size([8, 1, 5])
    """

    def __init__(
        self,
        input_size,
        out_neurons,
        ball,
        initial_scale=1e-3,
        batch_norm=False,
        center_norm=None,
    ):
        super().__init__()
        for name, value in (("input_size", input_size), ("out_neurons", out_neurons)):
            if value < 1:
                raise ValueError(f"{name}={value}: must be at least 1.")
        lengths = {"initial_scale": initial_scale}
        if center_norm is not None:
            lengths["center_norm"] = center_norm
        for name, value in lengths.items():
            if not 0 < value < math.inf:
                raise ValueError(f"{name}={value}: must be positive and finite.")
        self.ball = ball
        self.center_norm = center_norm
        self.centers = nn.Parameter(torch.randn(out_neurons, input_size) * initial_scale)
        if batch_norm:
            self.batch_norm = nn.BatchNorm1d(input_size, affine=False)

    def forward(self, x):
        """Minus the distance of each embedding to each center.

        Arguments
        ---------
        x : torch.Tensor
            Embeddings [B, 1, D] or [B, D], any floating dtype.

        Returns
        -------
        torch.Tensor
            [B, 1, C], float32 or wider, <= 0, unscaled.
        """
        size = self.centers.shape[1]
        if x.shape[-1] != size or x.dim() not in (2, 3) or x.shape[1:-1].numel() != 1:
            raise ValueError(
                f"embeddings of shape {list(x.shape)}: expected [B, 1, {size}] "
                f"or [B, {size}]."
            )
        x = x.reshape(-1, size)
        if hasattr(self, "batch_norm"):
            with torch.autocast(x.device.type, enabled=False):
                x = self.batch_norm(x.to(self.batch_norm.running_mean.dtype))
        points = self.ball.project(x)
        centers = self.ball.project(self.euclidean_centers())
        return self.ball.pairwise_similarity(points, centers).unsqueeze(1)

    def euclidean_centers(self):
        """The centers as they enter the ball's projection: [C, D]."""
        if self.center_norm is None:
            return self.centers
        return self.center_norm * nn.functional.normalize(self.centers, dim=1)

    def extra_repr(self):
        out_neurons, input_size = self.centers.shape
        return f"input_size={input_size}, out_neurons={out_neurons}"
