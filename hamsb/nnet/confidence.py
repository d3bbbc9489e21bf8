"""The norm of an embedding as its confidence: a head that scales the logits of the softmax
by a bounded, increasing function of it.

Short embeddings get a flat softmax, so a network can tell by an embedding's length how
sure it is. Embeddings are compared by their cosine, as after any head; the length serves
scoring as a quality measure (``quality_measures: [norm]`` of verify.yaml).
"""

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from hamsb.nnet._batches import vectors
from hamsb.nnet._closed_forms import MarginCrossEntropy, through_target
from hamsb.nnet._fused import LazySimilarities
from hamsb.nnet.classifiers import CosineClassifier
from hamsb.utils.checks import check_positive, is_number


class ConfidentClassifier(CosineClassifier):
    r"""`CosineClassifier` whose loss has the scale ``s f(|x|)`` in place of s.

    .. math:: f(n) = 1 + r \frac{n - n_0}{n + n_0}

    lies between 1 - r and 1 + r and is 1 at the length ``n_0``, which is learned. The
    logits of a loss of hamsb become ``f(|x|)`` times what they are without, margin
    included. To everything else the head gives cosines.

    Arguments
    ---------
    input_size, out_neurons, initial_scale :
        As in `CosineClassifier`.
    spread : float
        r in (0, 1).
    initial_norm : float, optional
        Where ``n_0`` starts; ``sqrt(D)`` by default, as networks' outputs grow with it.

    Example
    -------
    >>> classifier = ConfidentClassifier(192, 5, initial_scale=1e-3)
    >>> classifier(torch.randn(8, 1, 192)).shape
    torch.Size([8, 1, 5])
    """

    def __init__(
        self,
        input_size: int,
        out_neurons: int,
        initial_scale: float | None = None,
        spread: float = 0.5,
        initial_norm: float | None = None,
    ):
        super().__init__(input_size, out_neurons, initial_scale)
        if not is_number(spread) or not 0 < spread < 1:
            raise ValueError(f"spread={spread!r}: must lie in (0, 1).")
        if initial_norm is None:
            initial_norm = math.sqrt(input_size)
        check_positive("initial_norm", initial_norm)
        self.spread = spread
        self.log_norm = nn.Parameter(torch.tensor(math.log(initial_norm)))

    def forward(self, x: Tensor) -> LazySimilarities:
        """Of embeddings [B, 1, D] or [B, D]: what a loss takes cosines and confidence from.
        To everything else it is the tensor of cosines, [B, 1, C]."""
        x = vectors("embeddings", x, self.weight.shape[1])
        similarities = ConfidentSimilarities.cosines(normalize(x), self.weight)
        confident = cast(ConfidentSimilarities, similarities)
        confident.confidence = self.confidence(x)
        return confident

    def confidence(self, x: Tensor) -> Tensor:
        """f of embeddings [B, D]: [B, 1]."""
        norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        middle = self.log_norm.exp()
        return 1 + self.spread * (norm - middle) / (norm + middle)

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        return f"{super().extra_repr()}, spread={self.spread:g}"


@dataclass(eq=False)
class ConfidentSimilarities(LazySimilarities):
    """Cosines, and what the logits of each row are multiplied by.

    Attributes
    ----------
    confidence : torch.Tensor
        [B, 1].
    """

    confidence: Tensor | None = None

    def numbers(self) -> Tensor:
        """A ValueError: a loss that asks for them would leave the confidence out."""
        raise ValueError(
            "ConfidentClassifier: its confidence is for a softmax without top_k, such as "
            "hamsb.AAMSoftmax; with another loss take hamsb.CosineClassifier."
        )

    def cross_entropy(
        self, targets: Tensor, value: Tensor, slope: Tensor, scale: float, zero: bool
    ) -> Tensor:
        """As of `LazySimilarities`, of logits that are multiplied; all are computed at
        once."""
        cosines, confidence = self.tensor().squeeze(1), cast(Tensor, self.confidence)
        of_target = cosines.gather(1, targets)
        target = value + slope * (of_target - of_target.detach())
        target = confidence * target
        losses = MarginCrossEntropy.apply(
            confidence * cosines,
            targets,
            target.detach(),
            torch.zeros_like(value),
            scale,
            zero,
        )
        return through_target(losses, target, scale)
