"""A loss that asks of every speaker by itself whether an utterance is theirs.

A softmax lets the speakers compete; here each is a binary classification, and all share
one bias, a threshold such as verification has.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from hamsb.nnet._fused import LazySimilarities
from hamsb.nnet.losses import (
    MarginLoss,
    at_targets,
    check_angle,
    turned,
    turned_back,
    whole,
)
from hamsb.utils.checks import check_choice, check_positive


class SphereFace2(MarginLoss):
    r"""SphereFace2 (Wen et al., 2022, arXiv 2108.01513; for speakers Han et al., 2023,
    arXiv 2307.08205).

    .. math:: \lambda \log(1 + e^{-p_y}) + (1 - \lambda) \sum_{j \ne y} \log(1 + e^{n_j})

    With ``g(c) = 2 ((c + 1) / 2)^t - 1``, which spreads the high cosines, and a bias b,

        margin_type "C":  p = s (g(cos theta) - m) + b,  n = s (g(cos theta) + m) + b
        margin_type "A":  p = s g(cos(theta + m)) + b,   n = s g(cos(theta - m)) + b

    as in WeSpeaker, whose names are in parentheses below; the first paper divides the loss
    by s. Beyond pi ``cos(theta + m)`` goes on as in `AAMSoftmax`.

    The bias is learned, so the loss has to stand among a yaml's modules, and in its
    checkpoints: with train.py
    ``--modules='{compute_cost: !ref <compute_cost>}'
    --checkpointer='{recoverables: {compute_cost: !ref <compute_cost>}}'``.
    A head with ``fused=True`` computes all similarities at once for it.

    Arguments
    ---------
    margin : float
        m >= 0; of type "A" an angle below pi. Recommended for speakers: 0.2 for "C", 0.15
        for "A".
    scale : float
        s > 0.
    margin_type : {"C", "A"}
        As in CosFace or as in ArcFace.
    balance : float
        lambda in (0, 1), the weight of the utterance's own speaker (lanbuda).
    exponent : float
        t > 0 (t).

    Example
    -------
    >>> loss = SphereFace2(margin=0.2, scale=1.0)
    >>> loss(torch.tensor([[[1.0, -1.0]]]), torch.tensor([[0]])).detach()
    tensor(0.3711)
    """

    expects = ("cosine",)

    def __init__(
        self,
        margin: float = 0.2,
        scale: float = 32.0,
        margin_type: str = "C",
        balance: float = 0.7,
        exponent: float = 3.0,
    ):
        check_choice("margin_type", margin_type, ("C", "A"))
        check_positive("balance", balance)
        check_positive("exponent", exponent)
        if balance >= 1:
            raise ValueError(f"balance={balance!r}: must lie in (0, 1).")
        super().__init__(scale)
        self.margin_type, self.balance, self.exponent = margin_type, balance, exponent
        self.margin = margin
        self.bias = nn.Parameter(torch.zeros(()))

    def _check_margin(self, value: float) -> None:
        if self.margin_type == "A":
            check_angle(value)

    def losses(self, similarities: Tensor | LazySimilarities, targets: Tensor) -> Tensor:
        """The loss of each row, [B], by plain operations."""
        cosines = whole(similarities)
        of_target = at_targets(
            lambda columns: cosines.gather(1, columns), targets, cosines.shape[1]
        )
        own, others = self.logits(of_target, cosines)
        negative = -logsigmoid(-others).scatter(1, targets, 0).sum(1)
        positive = -logsigmoid(own).squeeze(1)
        return self.balance * positive + (1 - self.balance) * negative

    def logits(self, own: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
        """p and n of cosines, elementwise."""
        if self.margin_type == "A":
            own = self.spread(turned(own, self.margin)[0])
            others = self.spread(turned_back(others, self.margin))
        else:
            own = self.spread(own) - self.margin
            others = self.spread(others) + self.margin
        return self.scale * own + self.bias, self.scale * others + self.bias

    def spread(self, cosine: Tensor) -> Tensor:
        """g of a cosine, elementwise; below -1 it goes on falling."""
        half = (cosine + 1) / 2
        return 2 * half.sign() * half.abs().pow(self.exponent) - 1

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        return (
            f"{super().extra_repr()}, margin_type={self.margin_type}, "
            f"balance={self.balance:g}, exponent={self.exponent:g}"
        )
