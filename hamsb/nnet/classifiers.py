"""Classifier heads: from speaker embeddings to similarities with the speakers.

They stand where SpeechBrain's ``Classifier`` stands: embeddings [B, 1, D] to
similarities [B, 1, C], unscaled. Scale and margin belong to the loss
(``hamsb.nnet.losses``). What is learned for a speaker is called its center (class
weight, prototype). With ``sub_centers=K`` a speaker has K of them, and is as similar as
the most similar of these (Deng et al., ECCV 2020; for speakers arXiv 2110.05042):
recordings of one speaker need not lie around one point.

With ``fused=True`` a head in training hands on what it would compare, and the loss
compares it block by block: [B, C] is never held, which otherwise limits the number of
speakers. In ``eval()`` mode, without gradients, for few speakers and to any other loss
the head gives the tensor. A loss with ``top_k`` and `hamsb.nnet.binary.SphereFace2` take
it in training, too.

With ``sharded=True`` the processes of a training share the centers out, a block of rows
to each (`hamsb.nnet._sharded`), and the loss, computed block by block, is that of the
joined batch; of those two losses, whose similarities are exchanged, each process has its
own batch's. In one process it changes nothing.

With ``class_fraction=0.1`` the loss compares a batch with a tenth of the speakers, drawn
anew each time, the batch's own among them (Partial FC, arXiv 2010.05222, 2203.15565). It
takes hardly more than a tenth of the time; the optimizer still steps over all centers. It
is another loss. It lacks most negatives, so it is smaller, by some ``log(1 /
class_fraction)`` where they weigh more than the target, and its gradient depends on the
speakers that were drawn. In a run of hamsb the draw is a function of seed, epoch, step and
the number of processes, each of which draws from its own speakers.

A head says in ``gives`` what its similarities are (`hamsb.nnet.kinds`) and in
``out_neurons`` of how many speakers, so that a run can compare it with its loss and data.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from hamsb.nnet import _fused
from hamsb.nnet._batches import vectors
from hamsb.nnet._fused import LazySimilarities, maximum
from hamsb.nnet._sharded import (
    Shard,
    ShardedSimilarities,
    average_gradients,
    is_parted,
    start,
)
from hamsb.nnet.balls import Ball, check_ball
from hamsb.nnet.precision import no_autocast, widened
from hamsb.utils.checks import check_flag, check_positive, check_whole, is_number


class CosineClassifier(nn.Module):
    r"""Cosines of embeddings and speaker centers.

    .. math:: s_j = \frac{x^\top w_j}{\lVert x \rVert \lVert w_j \rVert}

    By default it starts and computes bit for bit as SpeechBrain's
    ``speechbrain.lobes.models.ECAPA_TDNN.Classifier`` does by default, under autocast
    too: there the product is one of autocast's precision.

    Only the centers' directions count, but a step of Adam, whose size hardly depends on
    the gradient's, turns a center the further, the nearer to the origin it lies. So
    ``initial_scale`` sets how fast they turn at first.

    Arguments
    ---------
    input_size : int
        D, the dimension of the embeddings.
    out_neurons : int
        C, the number of speakers.
    initial_scale : float, optional
        The centers start as N(0, 1) times this, ``1e-3`` in HAM-Softmax's head; None:
        Xavier-uniform, as in SpeechBrain.
    sub_centers : int
        K, the number of centers of a speaker. The weight is [C K, D], those of a speaker
        one after another.
    fused : bool
        Leave more than 4 million similarities to the loss (`hamsb.nnet._fused`).
    sharded : bool
        Share the centers out over the processes (`hamsb.nnet._sharded`).
    class_fraction : float
        What part of the speakers the loss takes in training, in (0, 1]; at least as many
        as the batch has utterances.

    Example
    -------
    >>> classifier = CosineClassifier(192, 5, initial_scale=1e-3)
    >>> classifier(torch.randn(8, 1, 192)).shape
    torch.Size([8, 1, 5])
    """

    gives = "cosine"
    of_classes = "weight"  # the parameter that has a row for each
    training_arguments = ("sharded", "class_fraction")  # which an export does without

    def __init__(
        self,
        input_size: int,
        out_neurons: int,
        initial_scale: float | None = None,
        sub_centers: int = 1,
        fused: bool = False,
        sharded: bool = False,
        class_fraction: float = 1.0,
    ):
        super().__init__()
        check_whole("input_size", input_size, 1)
        check_whole("out_neurons", out_neurons, 1)
        check_whole("sub_centers", sub_centers, 1)
        check_flag("fused", fused)
        check_flag("sharded", sharded)
        _check_fraction(class_fraction)
        self.class_fraction = class_fraction
        self.fused = fused
        self.sub_centers = sub_centers
        self.shard = Shard(out_neurons, sub_centers) if sharded else None
        rows = out_neurons * sub_centers
        bound = math.sqrt(3) * math.sqrt(2 / (input_size + rows))

        def draw(part: Tensor) -> None:
            if initial_scale is None:  # Xavier's, of all rows
                part.uniform_(-bound, bound)
            else:
                part.normal_().mul_(initial_scale)

        if initial_scale is not None:
            check_positive("initial_scale", initial_scale)
        self.weight = nn.Parameter(start(self.shard, rows, input_size, draw))

    def forward(self, x: Tensor) -> Tensor | LazySimilarities:
        """The cosine of each embedding with each speaker's center, or its most similar one.

        Arguments
        ---------
        x : torch.Tensor
            Embeddings [B, 1, D] or [B, D], any floating dtype; another shape is a
            ValueError.

        Returns
        -------
        torch.Tensor
            [B, 1, C], in [-1, 1]. With ``fused`` or ``sharded``, in training, what stands
            for it.
        """
        x = vectors("embeddings", x, self.weight.shape[1])
        x, weight = _of_one_dtype(x, self.weight)
        x = normalize(x)
        if self.shard is not None and is_parted(self.shard):
            return ShardedSimilarities.of(self._lazy(x, weight), self.shard, self.training)
        if _hands_on(self, x, weight):
            return self._lazy(x, weight)
        return maximum(linear(x, normalize(weight)), self.sub_centers).unsqueeze(1)

    def _lazy(self, x: Tensor, weight: Tensor) -> LazySimilarities:
        lazy = LazySimilarities.cosines(x, weight, self.class_fraction)
        return lazy.maximum(self.sub_centers)

    @property
    def out_neurons(self) -> int:
        """C, the number of speakers."""
        rows = len(self.weight) // self.sub_centers
        return rows if self.shard is None else self.shard.classes

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        return _sizes(self, self.weight)


class HyperbolicClassifier(nn.Module):
    """Minus the hyperbolic distances of embeddings and speaker centers in a ball.

    Like SpeechBrain's head it returns something that grows with similarity: ``argmax``,
    ``classification_error`` and ``EncoderClassifier.classify_batch`` work unchanged.

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
        Normalize each dimension of the embeddings over the batch (without weights)
        before the projection. The embeddings that are scored stay as they are.
    center_norm : float or None
        Scale every center to this length before the projection, so that training
        moves its direction alone; None, as published: its length is learned too.
    sub_centers : int
        K, the number of centers of a speaker. The centers are [C K, D], those of a
        speaker one after another.
    fused : bool
        Leave more than 4 million similarities to the loss (`hamsb.nnet._fused`).
    sharded : bool
        Share the centers out over the processes (`hamsb.nnet._sharded`).
    class_fraction : float
        What part of the speakers the loss takes in training, in (0, 1]; at least as many
        as the batch has utterances.

    Example
    -------
    >>> from hamsb import ClippedUnitBall
    >>> classifier = HyperbolicClassifier(192, 5, ClippedUnitBall(curvature=3.0))
    >>> classifier(torch.randn(8, 1, 192)).shape
    torch.Size([8, 1, 5])
    """

    gives: str | tuple[str, ...] = "distance"
    of_classes = "centers"  # the parameter that has a row for each
    training_arguments = ("sharded", "class_fraction")  # which an export does without
    batch_norm: nn.BatchNorm1d  # where it is asked for alone

    def __init__(
        self,
        input_size: int,
        out_neurons: int,
        ball: Ball,
        initial_scale: float = 1e-3,
        batch_norm: bool = False,
        center_norm: float | None = None,
        sub_centers: int = 1,
        fused: bool = False,
        sharded: bool = False,
        class_fraction: float = 1.0,
    ):
        super().__init__()
        check_whole("input_size", input_size, 1)
        check_whole("out_neurons", out_neurons, 1)
        check_whole("sub_centers", sub_centers, 1)
        check_ball(ball)
        check_positive("initial_scale", initial_scale)
        check_flag("batch_norm", batch_norm)
        check_flag("fused", fused)
        check_flag("sharded", sharded)
        _check_fraction(class_fraction)
        self.class_fraction = class_fraction
        if center_norm is not None:
            check_positive("center_norm", center_norm)
        self.fused = fused
        self.ball = ball
        self.center_norm = center_norm
        self.sub_centers = sub_centers
        self.shard = Shard(out_neurons, sub_centers) if sharded else None

        def draw(rows: Tensor) -> None:
            rows.normal_().mul_(initial_scale)

        self.centers = nn.Parameter(
            start(self.shard, out_neurons * sub_centers, input_size, draw)
        )
        if is_parted(self.shard):
            average_gradients(ball)
        if batch_norm:
            self.batch_norm = nn.BatchNorm1d(input_size, affine=False)

    def forward(self, x: Tensor) -> Tensor | LazySimilarities:
        """Minus the distance of each embedding to each speaker's center, or nearest one.

        Arguments
        ---------
        x : torch.Tensor
            Embeddings [B, 1, D] or [B, D], any floating dtype; another shape is a
            ValueError.

        Returns
        -------
        torch.Tensor
            [B, 1, C], float32 or wider, <= 0. With ``fused`` or ``sharded``, in training,
            what stands for it.
        """
        x = vectors("embeddings", x, self.centers.shape[1])
        if hasattr(self, "batch_norm"):
            with no_autocast(x):
                x = self.batch_norm(x.to(self.centers.dtype))
        x, centers = _of_one_dtype(x, self.centers)
        points = self.ball.project(x)
        if self.shard is not None and is_parted(self.shard):
            lazy = self._lazy(points, centers)
            return ShardedSimilarities.of(lazy, self.shard, self.training)
        if _hands_on(self, x, centers):
            return self._lazy(points, centers)
        similarities = self.ball.pairwise_similarity(points, self._project(centers))
        return maximum(similarities, self.sub_centers).unsqueeze(1)

    def euclidean_centers(self) -> Tensor:
        """The centers as they enter the ball's projection: [C K, D], those of a speaker
        one after another; where processes share them out, this one's."""
        return self._of_one_length(self.centers)

    def _of_one_length(self, centers: Tensor) -> Tensor:
        if self.center_norm is None:
            return centers
        return self.center_norm * normalize(centers, dim=1)

    def _lazy(self, points: Tensor, centers: Tensor) -> LazySimilarities:
        lazy = self.ball.lazy_similarity(points, centers, self._project)
        lazy.fraction = self.class_fraction
        return lazy.maximum(self.sub_centers)

    def _project(self, centers: Tensor) -> Tensor:
        """Some centers [m, D] as points of the ball, [m, D]."""
        return self.ball.project(self._of_one_length(centers))

    @property
    def out_neurons(self) -> int:
        """C, the number of speakers."""
        rows = len(self.centers) // self.sub_centers
        return rows if self.shard is None else self.shard.classes

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        return _sizes(self, self.centers)


def _of_one_dtype(x: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings and centers in the wider of their dtypes, float32 at least."""
    dtype = torch.promote_types(widened(x).dtype, centers.dtype)
    return x.to(dtype), centers.to(dtype)


def _hands_on(
    head: CosineClassifier | HyperbolicClassifier, x: Tensor, centers: Tensor
) -> bool:
    """Whether a head leaves the similarities of embeddings [B, D] to the loss."""
    many = head.fused and len(x) * len(centers) > _fused.FEW
    some = head.class_fraction < 1
    return (many or some) and head.training and torch.is_grad_enabled()


def _check_fraction(value: float) -> None:
    if not (is_number(value) and 0 < value <= 1):
        raise ValueError(
            f"class_fraction={value}: must lie in (0, 1], as 0.1 for a tenth of the "
            "speakers in each step."
        )


def _sizes(head: CosineClassifier | HyperbolicClassifier, centers: Tensor) -> str:
    text = f"input_size={centers.shape[1]}, out_neurons={head.out_neurons}"
    return text if head.sub_centers == 1 else f"{text}, sub_centers={head.sub_centers}"
