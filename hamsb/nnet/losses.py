"""Classification losses with and without margin, on any similarities.

Each loss takes (predictions [B, 1, C], targets [B, 1], length=None) and
returns the mean over the batch of a cross-entropy, so it stands where
SpeechBrain's ``compute_cost`` stands. Predictions are similarities, higher is
more similar: cosines, minus hyperbolic distances, or the outputs of a linear layer.
No loss knows which head it serves. It says in ``expects`` of which kinds its
predictions may be (`hamsb.nnet.kinds`):

==========================  =======  ===============  ======
                            cosines  minus distances  logits
==========================  =======  ===============  ======
`Softmax`, `AMSoftmax`      yes      yes              yes
`AAMSoftmax`, `RAMSoftmax`  yes      no               no
`SphereFace2`               yes      no               no
`HSoftmax`, `HAMSoftmax`    no       yes              no
==========================  =======  ===============  ======

AAM-Softmax turns angles, and RAM-Softmax's zero lies in the middle of the cosines: on
minus distances both would train, to nothing. H- and HAM-Softmax are the names of
`Softmax` and `AMSoftmax` on minus distances alone. `hamsb.nnet.binary.SphereFace2` is no
softmax.

With ``top_k=5`` in AM-, AAM-, RAM- or HAM-Softmax the 5 other speakers that are most
similar to an utterance count as more similar by ``top_k_margin``: the inter-top-k penalty
(Zhao et al., arXiv 2110.05042).

The first call outside of torch.compile looks at the values of the predictions and
targets, for which a GPU is waited for once. Later calls do not.

``margin`` and ``scale`` may be set during training (a margin schedule does);
nothing derived from them is kept. Targets stay sparse: no one-hot matrix.

A loss is defined by what it makes of the target's similarity (``penalize``), of those
of its nearest others (``raised``), and by whether logits below the target's become 0
(``zero_below_target``). From these come both the reference form (``logits``, then
cross-entropy) and the closed form that ``forward`` uses.
"""

import math
from collections.abc import Callable, Collection
from functools import partial

import torch
from torch import Tensor, nn

from hamsb.nnet._batches import speaker_indices
from hamsb.nnet._closed_forms import MarginCrossEntropy
from hamsb.nnet._fused import LazySimilarities
from hamsb.nnet.kinds import SIMILARITIES, check_values
from hamsb.nnet.precision import widened
from hamsb.utils.checks import check_not_negative, check_positive, check_whole


class SpeakerLoss(nn.Module):
    """What every loss of predictions and speaker indices does: checks of what it is
    given, and the mean over the batch. A subclass defines ``losses`` and ``expects``.

    Arguments
    ---------
    scale : float
        s > 0.
    """

    expects: Collection[str] = SIMILARITIES
    _looked = False  # at the first predictions and targets

    def __init__(self, scale: float):
        super().__init__()
        self.scale = scale

    @property
    def scale(self) -> float:
        """s, the inverse temperature."""
        return self._scale

    @scale.setter
    def scale(self, value: float) -> None:
        check_positive("scale", value)
        _check_order(getattr(self, "_margin", 0), value)
        self._scale = value

    def forward(
        self, predictions: Tensor, targets: Tensor, length: Tensor | None = None
    ) -> Tensor:
        """The mean loss of a batch.

        Arguments
        ---------
        predictions : torch.Tensor
            Similarities [B, 1, C] (or [B, C]); computed on in float32 or wider.
        targets : torch.Tensor
            Speaker indices [B, 1] (or [B]), integers in [0, C).
        length : torch.Tensor, optional
            Taken for SpeechBrain's sake; an utterance has one prediction, so
            there is nothing to mask.

        Returns
        -------
        torch.Tensor
            A scalar. A ValueError tells of shapes or dtypes that do not fit, of
            predictions that the loss does not expect and of targets outside of [0, C):
            both in the first call, and targets on the CPU in every call.
        """
        rows, classes = predictions.shape[0], predictions.shape[-1]
        if predictions.numel() != rows * classes or predictions.dim() not in (2, 3):
            raise ValueError(
                f"predictions of shape {list(predictions.shape)}: expected [B, 1, C]."
            )
        targets = speaker_indices("targets", targets, predictions).unsqueeze(1)
        if isinstance(predictions, LazySimilarities) and torch.compiler.is_compiling():
            predictions = predictions.compiled()
        if isinstance(predictions, LazySimilarities):
            self._look_once(predictions.first, targets, classes)
            return self.losses(predictions, targets).mean()
        similarities = widened(predictions).reshape(rows, classes)
        self._look_once(similarities.detach, targets, classes)
        return self.losses(similarities, targets).mean()

    def losses(self, similarities: Tensor | LazySimilarities, targets: Tensor) -> Tensor:
        """The loss of each row, [B].

        Arguments
        ---------
        similarities : torch.Tensor or LazySimilarities
            [B, C], float32 or wider; of a head with ``fused=True`` what stands for them.
        targets : torch.Tensor
            [B, 1], int64.
        """
        raise NotImplementedError

    def _look_once(
        self, similarities: Callable[[], Tensor], targets: Tensor, classes: int
    ) -> None:
        """Check what waits for the device, once; not tensors without values."""
        if torch.compiler.is_compiling() or self._looked or type(targets) is not Tensor:
            return
        check_values(type(self).__name__, self.expects, similarities())
        _check_range(targets, classes)
        self._looked = True

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        return f"scale={self.scale:g}"


class MarginLoss(SpeakerLoss):
    """A loss with a margin, which a schedule may set."""

    @property
    def margin(self) -> float:
        """m, by which the target's similarity must exceed the others'."""
        return self._margin

    @margin.setter
    def margin(self, value: float) -> None:
        check_not_negative("margin", value)
        _check_order(value, self.scale)
        self._check_margin(value)
        self._margin = value

    def _check_margin(self, value: float) -> None:
        """A subclass's further rule."""

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        return f"margin={self.margin:g}, {super().extra_repr()}"


class Softmax(SpeakerLoss):
    """Cross-entropy of scaled similarities, ``z_j = s * similarity_j``.

    With ``scale=1`` on a linear head it is the plain softmax, with ``scale=30``
    the scaled one, on cosines the normalized softmax.

    Arguments
    ---------
    scale : float
        s > 0.

    Example
    -------
    >>> loss = Softmax()
    >>> loss(torch.zeros(2, 1, 4), torch.tensor([[0], [3]]))
    tensor(1.3863)
    """

    zero_below_target = False
    top_k = 0

    def __init__(self, scale: float = 1.0):
        super().__init__(scale)

    def losses(self, similarities: Tensor | LazySimilarities, targets: Tensor) -> Tensor:
        """The cross-entropy of each row, [B], in closed form."""
        if self.top_k:
            similarities = self.raised(whole(similarities), targets)
        classes = similarities.shape[-1]
        if isinstance(similarities, LazySimilarities):
            of_targets = at_targets(similarities.of_targets, targets, classes)
            cross_entropy: Callable[..., Tensor] = similarities.cross_entropy
        else:
            gather = partial(similarities.detach().gather, 1)
            of_targets = at_targets(gather, targets, classes)
            cross_entropy = partial(MarginCrossEntropy.apply, similarities)
        value, slope = self.penalize(of_targets)
        return cross_entropy(targets, value, slope, self.scale, self.zero_below_target)

    def logits(self, similarities: Tensor, targets: Tensor) -> Tensor:
        """What the cross-entropy is of: [B, C] from similarities [B, C] and
        targets [B], by plain differentiable operations. With torch's
        ``cross_entropy`` it is the loss that ``forward`` computes in closed form."""
        targets = targets.unsqueeze(1)
        similarities = self.raised(similarities, targets)
        target = self.scale * self.penalize(similarities.gather(1, targets))[0]
        logits = self.scale * similarities
        if self.zero_below_target:
            logits = logits.masked_fill(logits < target, 0)
        return logits.scatter(1, targets, target)

    def penalize(self, similarity: Tensor) -> tuple[Tensor, Tensor]:
        """What stands for the target's similarity, and its derivative: both
        elementwise, of any shape. Subclasses put their margin here."""
        return similarity, torch.ones_like(similarity)

    def raised(self, similarities: Tensor, targets: Tensor) -> Tensor:
        """Similarities [B, C] with those of the ``top_k`` highest others raised, if any."""
        number = min(self.top_k, similarities.shape[1] - 1)
        if not number:
            return similarities
        values, columns = similarities.topk(number + 1)  # among which the target may be
        others = columns != targets
        raised = others & (others.cumsum(1) <= number) & (values > -math.inf)
        values = torch.where(raised, self.raise_other(values), values)
        return similarities.scatter(1, columns, values)

    def raise_other(self, similarity: Tensor) -> Tensor:
        """What stands for the similarity of one of the ``top_k`` nearest others:
        elementwise, of any shape."""
        return similarity


class AMSoftmax(MarginLoss, Softmax):
    """Additive margin softmax: ``z_y = s (similarity_y - m)``, others
    ``s * similarity_j`` (Wang et al., 2018, arXiv 1801.05599).

    With ``top_k`` those of the others that are highest are ``s (similarity_j + m')``
    (Zhao et al., arXiv 2110.05042). A head with ``fused=True`` then computes all
    similarities at once.

    Arguments
    ---------
    margin : float
        m >= 0, in units of the similarity; at most the scale.
    scale : float
        s > 0.
    top_k : int
        How many of the others are penalized; 0: none. Published: 5.
    top_k_margin : float
        m' >= 0, in units of the similarity. A margin schedule leaves it as it is.

    Example
    -------
    >>> cosines = torch.tensor([[[0.9, 0.1]]])
    >>> AMSoftmax(margin=0.2, scale=1.0).logits(cosines[:, 0], torch.tensor([0]))
    tensor([[0.7000, 0.1000]])
    """

    def __init__(
        self,
        margin: float = 0.2,
        scale: float = 30.0,
        top_k: int = 0,
        top_k_margin: float = 0.06,
    ):
        super().__init__(scale)
        self.margin = margin
        check_whole("top_k", top_k, 0)
        check_not_negative("top_k_margin", top_k_margin)
        self.top_k, self.top_k_margin = top_k, top_k_margin

    def penalize(self, similarity: Tensor) -> tuple[Tensor, Tensor]:
        """The similarity less the margin, and 1."""
        return similarity - self.margin, torch.ones_like(similarity)

    def raise_other(self, similarity: Tensor) -> Tensor:
        """The similarity plus m'."""
        return similarity + self.top_k_margin

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        text = super().extra_repr()
        if not self.top_k:
            return text
        return f"{text}, top_k={self.top_k}, top_k_margin={self.top_k_margin:g}"


class AAMSoftmax(AMSoftmax):
    """Additive angular margin softmax: ``z_y = s cos(theta_y + m)`` (Deng et
    al., 2019, arXiv 1801.07698).

    Where ``theta_y + m`` would pass pi, the target's cosine becomes ``cos - m
    sin(m)`` instead, so that it keeps falling with the angle. Predictions must
    be cosines. The highest others, with ``top_k``, are ``s cos(theta_j - m')``.

    Arguments
    ---------
    margin : float
        m in [0, 2.33], radians.
    scale : float
        s > 0.
    top_k, top_k_margin :
        As in `AMSoftmax`; m' in radians.

    Example
    -------
    >>> cosines = torch.tensor([[0.0, 0.1]])
    >>> AAMSoftmax(margin=math.pi / 6, scale=1.0).logits(cosines, torch.tensor([0]))
    tensor([[-0.5000,  0.1000]])
    """

    expects: Collection[str] = ("cosine",)

    def _check_margin(self, value: float) -> None:
        check_angle(value)

    def penalize(self, similarity: Tensor) -> tuple[Tensor, Tensor]:
        """The cosine of the angle plus the margin, and its derivative by the cosine."""
        return turned(similarity, self.margin)

    def raise_other(self, similarity: Tensor) -> Tensor:
        """The cosine of the angle less m'."""
        return turned_back(similarity, self.top_k_margin)


class RAMSoftmax(AMSoftmax):
    """Real additive margin softmax: only classes that violate the margin push.

    ``z_y = s (cos_y - m)``; ``z_j = s cos_j`` where that reaches z_y, else 0;
    cross-entropy over z (the authors' released form; a max(0, .) inside the
    exponent, as printed elsewhere, would leave a floor of log C and hardly a
    gradient).

    Arguments
    ---------
    margin : float
        m >= 0.
    scale : float
        s > 0.
    top_k, top_k_margin :
        As in `AMSoftmax`; then those below the target's become 0.

    Example
    -------
    >>> cosines = torch.tensor([[0.5, 0.4, 0.2]])
    >>> RAMSoftmax(margin=0.2, scale=10.0).logits(cosines, torch.tensor([0]))
    tensor([[3., 4., 0.]])
    """

    expects = ("cosine",)
    zero_below_target = True


class HSoftmax(Softmax):
    """H-Softmax: ``z_j = -s d(x, w_j)`` (Fang & He, arXiv 2601.19709).

    `Softmax` on minus a distance, such as ``HyperbolicClassifier``
    returns, under its published name and scale.

    Arguments
    ---------
    scale : float
        s > 0.

    Example
    -------
    >>> loss = HSoftmax()
    >>> loss(-torch.tensor([[[0.0, 0.1]]]), torch.tensor([[0]]))
    tensor(0.0486)
    """

    expects = ("distance",)

    def __init__(self, scale: float = 30.0):
        super().__init__(scale)


class HAMSoftmax(AMSoftmax):
    """HAM-Softmax: ``z_y = -s (d(x, w_y) + m)``, others ``-s d(x, w_j)``
    (Fang & He, arXiv 2601.19709).

    `AMSoftmax` on minus a distance, such as ``HyperbolicClassifier``
    returns, under its published name; the margins are hyperbolic lengths.

    Example
    -------
    >>> loss = HAMSoftmax(margin=0.2, scale=30.0)
    >>> loss(-torch.tensor([[[0.0, 0.2]]]), torch.tensor([[0]]))
    tensor(0.6931)
    """

    expects = ("distance",)


def check_angle(margin: float) -> None:
    """ValueError where a margin is no angle, or so wide that `turned` would rise where the
    angle passes pi: 2.33 at most, where ``cos m + m sin m`` is still 1."""
    if math.cos(margin) + margin * math.sin(margin) < 1 or margin >= math.pi:
        raise ValueError(
            f"margin={margin}: must be an angle in [0, 2.33], in radians; 0.2 is usual."
        )


def turned(cosine: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """The cosine of an angle plus a margin, beyond pi ``cos - m sin(m)``, and its
    derivative by the cosine.

    Example
    -------
    >>> turned(torch.tensor(0.0), math.pi / 6)
    (tensor(-0.5000), tensor(0.8660))
    """
    most = 1 - 1e-7
    inside = cosine.clamp(-most, most)
    sine = torch.sqrt(1 - inside.square())
    value = inside * math.cos(margin) - sine * math.sin(margin)
    slope = math.cos(margin) + inside / sine * math.sin(margin)
    far = inside <= -math.cos(margin)
    clamped = cosine.abs() > most
    return (
        torch.where(far, inside - margin * math.sin(margin), value),
        torch.where(far, 1, slope).masked_fill(clamped, 0),
    )


def turned_back(cosine: Tensor, margin: float) -> Tensor:
    """The cosine of an angle less a margin.

    Example
    -------
    >>> turned_back(torch.tensor(0.0), math.pi / 6)
    tensor(0.5000)
    """
    most = 1 - 1e-7
    cosine = cosine.clamp(-most, most)
    sine = torch.sqrt(1 - cosine.square())
    return cosine * math.cos(margin) + sine * math.sin(margin)


def whole(similarities: Tensor | LazySimilarities) -> Tensor:
    """Similarities [B, C], computed if they are not yet."""
    if isinstance(similarities, LazySimilarities):
        return similarities.numbers()
    return similarities


def _check_order(margin: float, scale: float) -> None:
    """ValueError where a margin is larger than the scale."""
    if margin > scale:
        raise ValueError(
            f"margin={margin}: must not be larger than scale={scale}; are the two in each "
            "other's place?"
        )


def _check_range(targets: Tensor, classes: int) -> None:
    """ValueError where a target [B, 1] is no class."""
    low, high = (each.item() for each in targets.aminmax()) if len(targets) else (0, 0)
    if low < 0 or high >= classes:
        raise ValueError(
            f"targets between {low} and {high}, but the predictions are of {classes} "
            f"classes: speaker indices lie in [0, {classes}). Give the head as many "
            "out_neurons as there are speakers."
        )


def at_targets(
    compute: Callable[[Tensor], Tensor], targets: Tensor, classes: int
) -> Tensor:
    """The targets' similarities [B, 1], as ``compute`` has them of targets [B, 1]. Where
    the CPU refuses a target, a ValueError says which."""
    if torch.compiler.is_compiling():
        return compute(targets)
    try:
        return compute(targets)
    except (RuntimeError, IndexError):
        if targets.device.type == "cpu":
            _check_range(targets, classes)
        raise
