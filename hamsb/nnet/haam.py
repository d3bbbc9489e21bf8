"""HAAM-Softmax: an additive angular margin in a hyperbolic ball.

Its margin turns the target's center about the origin, so its loss needs more than the
similarities: the points. The head `HAAMClassifier` hands them on, and acts as the tensor
of minus distances for everything else.
"""

from functools import partial
from typing import cast

import torch
from torch import Tensor

from hamsb.nnet._closed_forms import through_target
from hamsb.nnet._fused import LazySimilarities
from hamsb.nnet.balls import Ball, arsinh_distance
from hamsb.nnet.classifiers import HyperbolicClassifier
from hamsb.nnet.losses import AAMSoftmax, at_targets, turned
from hamsb.nnet.precision import no_autocast, widest


class HAAMSoftmax(AAMSoftmax):
    r"""HAAM-Softmax: ``z_y = -s d_m(x, w_y)``, others ``-s d(x, w_j)``.

    ``d_m`` is the distance with the angle theta at the origin between the two points
    replaced by ``theta + m``. By the hyperbolic law of cosines, with ``a`` and ``b`` the
    distances of x and w from the origin, times ``sqrt(c)``,

    .. math:: d_m = \frac{2}{\sqrt c} \operatorname{arsinh} \sqrt{\sinh^2 \frac{a - b}{2} +
        \sinh a \sinh b \, \frac{1 - \cos(\theta + m)}{2}}

    Where ``theta + m`` would pass pi, ``cos theta - m sin m`` stands for its cosine, as in
    `AAMSoftmax`, and ``d_m`` keeps growing with theta. With m = 0 it is `HSoftmax`.

    Centers that start next to the origin have a ``b`` of some 0.03, and there the margin
    adds no more than about ``b (cos theta - cos(theta + m))``: other margins than those of
    `AAMSoftmax` and `HAMSoftmax` suit it.

    Arguments
    ---------
    margin : float
        m in [0, pi), radians.
    scale : float
        s > 0.

    Example
    -------
    >>> from hamsb import ClippedUnitBall
    >>> head = HAAMClassifier(8, 5, ClippedUnitBall(3.0))
    >>> loss = HAAMSoftmax(margin=0.5, scale=30.0)
    >>> loss(head(torch.randn(2, 1, 8)), torch.tensor([[0], [3]])).shape
    torch.Size([])
    """

    expects = ("points",)

    def __init__(self, margin: float = 0.2, scale: float = 30.0):
        super().__init__(margin, scale)

    def losses(self, similarities: Tensor | LazySimilarities, targets: Tensor) -> Tensor:
        """The cross-entropy of each row, [B]; of other predictions than a
        `HAAMClassifier` hands on, a ValueError."""
        if _floor(similarities) is None:
            raise ValueError(
                "HAAMSoftmax: expects the points of a ball, not their similarities alone; "
                "give it the head hamsb.HAAMClassifier."
            )
        similarities = cast(LazySimilarities, similarities)
        turned_similarity = partial(self.turned_similarity, similarities)
        value = at_targets(turned_similarity, targets, similarities.shape[-1])
        losses = similarities.cross_entropy(
            targets, value.detach(), torch.zeros_like(value), self.scale, False
        )
        return through_target(losses, value, self.scale)

    def turned_similarity(self, points: LazySimilarities, targets: Tensor) -> Tensor:
        """Minus ``d_m`` of each row and its target, [B, 1], differentiable."""
        centers = points.centers.index_select(0, targets.squeeze(1))
        c = cast(float | Tensor, points.c)
        floor = cast(float, _floor(points))
        with no_autocast(points.x):
            x = points.x.to(widest(points.x))
            w = points.project(centers).to(x.dtype)
            lengths = [torch.linalg.vector_norm(v, dim=1, keepdim=True) for v in (x, w)]
            product = lengths[0] * lengths[1]
            tiny = torch.finfo(x.dtype).tiny
            cosine = (x * w).sum(1, keepdim=True) / product.clamp_min(tiny)
            turn = 1 - turned(cosine, self.margin)[0]
            # sinh((a - b) / 2) and sinh a sinh b, in the lengths of the points
            squared = (lengths[0] - lengths[1]).square() + 2 * product * turn
            conformal = [(1 - c * v.square()).clamp_min(floor) for v in lengths]
            distance = arsinh_distance(squared, conformal[0] * conformal[1], c)
        return -distance.to(points.x.dtype)


def _floor(similarities: object) -> float | None:
    """The floor of ``1 - c |x|^2`` where similarities are those of points of a ball, with
    the one center of each of all speakers; else None."""
    if type(similarities) is not LazySimilarities:  # some of the centers, or more to it
        return None
    return getattr(similarities.pairs, "keywords", {}).get("floor")


class HAAMClassifier(HyperbolicClassifier):
    """`HyperbolicClassifier` for `HAAMSoftmax`: it hands embeddings and centers on to it.

    To everything else what it returns is the tensor of minus distances.

    Arguments
    ---------
    input_size, out_neurons, ball, initial_scale, batch_norm, center_norm :
        As in `HyperbolicClassifier`. A `ClippedUnitBall` needs a curvature of at least
        1.0032: below that its distance has another form.

    Example
    -------
    >>> from hamsb import ClippedUnitBall
    >>> classifier = HAAMClassifier(192, 5, ClippedUnitBall(curvature=3.0))
    >>> classifier(torch.randn(8, 1, 192)).shape
    torch.Size([8, 1, 5])
    """

    gives = ("distance", "points")

    def __init__(
        self,
        input_size: int,
        out_neurons: int,
        ball: Ball,
        initial_scale: float = 1e-3,
        batch_norm: bool = False,
        center_norm: float | None = None,
    ):
        super().__init__(
            input_size, out_neurons, ball, initial_scale, batch_norm, center_norm
        )
        if ball._pair_floor:
            raise ValueError(
                f"ball={ball}: HAAMSoftmax has no formula of its distance so near the rim; "
                "give it a curvature of 1.0032 or more."
            )

    def _hands_on(self, x: Tensor) -> bool:
        return True
