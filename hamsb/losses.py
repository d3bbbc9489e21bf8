"""Classification losses with and without margin, on any similarities.

Each loss takes (predictions [B, 1, C], targets [B, 1], length=None) and
returns the mean over the batch of a cross-entropy, so it stands where
SpeechBrain's ``compute_cost`` stands. Predictions are similarities, higher is
more similar: cosines for the Euclidean losses, the outputs of a linear layer
for softmax, minus hyperbolic distances for H- and HAM-Softmax. The mathematics
is the same; no loss knows which head it serves.

``margin`` and ``scale`` may be set during training (a margin schedule does);
nothing derived from them is kept. Targets stay sparse: no one-hot matrix.
"""

import math

import torch
from torch import nn
from torch.nn.functional import cross_entropy


class Softmax(nn.Module):
    """Cross-entropy of scaled similarities, ``z_j = s * similarity_j``.

    With ``scale=1`` on a linear head it is the plain softmax, with ``scale=30``
    the scaled one, on cosines the normalised softmax.

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

    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = scale

    @property
    def scale(self):
        """s, the inverse temperature."""
        return self._scale

    @scale.setter
    def scale(self, value):
        if not 0 < value < math.inf:
            raise ValueError(f"scale={value}: must be positive and finite.")
        self._scale = value

    def forward(self, predictions, targets, length=None):
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
            A scalar. A ValueError tells of shapes or dtypes that do not fit.
        """
        similarities, targets = _flatten(predictions, targets)
        return cross_entropy(self.logits(similarities, targets), targets)

    def logits(self, similarities, targets):
        """What goes into the cross-entropy: [B, C] from similarities [B, C]
        and targets [B]. Subclasses put their margin here."""
        return self.scale * similarities

    def extra_repr(self):
        return f"scale={self.scale:g}"


class AMSoftmax(Softmax):
    """Additive margin softmax: ``z_y = s (similarity_y - m)``, others
    ``s * similarity_j`` (Wang et al., 2018, arXiv 1801.05599).

    Arguments
    ---------
    margin : float
        m >= 0, in units of the similarity.
    scale : float
        s > 0.

    Example
    -------
    >>> cosines = torch.tensor([[[0.9, 0.1]]])
    >>> AMSoftmax(margin=0.2, scale=1.0).logits(cosines[:, 0], torch.tensor([0]))
    tensor([[0.7000, 0.1000]])
    """

    def __init__(self, margin=0.2, scale=30.0):
        super().__init__(scale)
        self.margin = margin

    @property
    def margin(self):
        """m, by which the target's similarity must exceed the others'."""
        return self._margin

    @margin.setter
    def margin(self, value):
        if not 0 <= value < math.inf:
            raise ValueError(f"margin={value}: must be finite and not negative.")
        self._margin = value

    def logits(self, similarities, targets):
        return self.scale * self._with_target(
            similarities, targets, self.penalise(_target(similarities, targets))
        )

    def penalise(self, similarity):
        """The target's similarity less its margin, any shape."""
        return similarity - self.margin

    @staticmethod
    def _with_target(similarities, targets, values):
        return similarities.scatter(1, targets.unsqueeze(1), values)

    def extra_repr(self):
        return f"margin={self.margin:g}, scale={self.scale:g}"


class AAMSoftmax(AMSoftmax):
    """Additive angular margin softmax: ``z_y = s cos(theta_y + m)`` (Deng et
    al., 2019, arXiv 1801.07698).

    Where ``theta_y + m`` would pass pi, the target's cosine becomes ``cos - m
    sin(m)`` instead, so that it keeps falling with the angle. Predictions must
    be cosines.

    Arguments
    ---------
    margin : float
        m in [0, pi), radians.
    scale : float
        s > 0.

    Example
    -------
    >>> cosines = torch.tensor([[0.0, 0.1]])
    >>> AAMSoftmax(margin=math.pi / 6, scale=1.0).logits(cosines, torch.tensor([0]))
    tensor([[-0.5000,  0.1000]])
    """

    @AMSoftmax.margin.setter
    def margin(self, value):
        if not 0 <= value < math.pi:
            raise ValueError(f"margin={value}: an angle in [0, pi) is needed.")
        self._margin = value

    def penalise(self, similarity):
        m = self.margin
        cosine = similarity.clamp(-1 + 1e-7, 1 - 1e-7)
        sine = torch.sqrt(1 - cosine.square())
        turned = cosine * math.cos(m) - sine * math.sin(m)
        return torch.where(cosine > -math.cos(m), turned, cosine - m * math.sin(m))


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

    Example
    -------
    >>> cosines = torch.tensor([[0.5, 0.4, 0.2]])
    >>> RAMSoftmax(margin=0.2, scale=10.0).logits(cosines, torch.tensor([0]))
    tensor([[3., 4., 0.]])
    """

    def logits(self, similarities, targets):
        logits = super().logits(similarities, targets)
        return torch.where(logits >= _target(logits, targets), logits, 0)


class HSoftmax(Softmax):
    """H-Softmax: ``z_j = -s d(x, w_j)`` (Fang & He, arXiv 2601.19709).

    :class:`Softmax` on minus a distance, such as ``HyperbolicClassifier``
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

    def __init__(self, scale=30.0):
        super().__init__(scale)


class HAMSoftmax(AMSoftmax):
    """HAM-Softmax: ``z_y = -s (d(x, w_y) + m)``, others ``-s d(x, w_j)``
    (Fang & He, arXiv 2601.19709).

    :class:`AMSoftmax` on minus a distance, such as ``HyperbolicClassifier``
    returns, under its published name; the margin is a hyperbolic length.

    Example
    -------
    >>> loss = HAMSoftmax(margin=0.2, scale=30.0)
    >>> loss(-torch.tensor([[[0.0, 0.2]]]), torch.tensor([[0]]))
    tensor(0.6931)
    """


def _target(similarities, targets):
    """The target's entry of each row, [B, 1]."""
    return similarities.gather(1, targets.unsqueeze(1))


def _flatten(predictions, targets):
    """Predictions [B, C] in float32 or wider and targets [B] as indices."""
    rows, classes = predictions.shape[0], predictions.shape[-1]
    if predictions.numel() != rows * classes or predictions.dim() not in (2, 3):
        raise ValueError(
            f"predictions of shape {list(predictions.shape)}: expected [B, 1, C]."
        )
    if targets.numel() != rows or targets.dim() > 2:
        raise ValueError(
            f"targets of shape {list(targets.shape)} for predictions of shape "
            f"{list(predictions.shape)}: expected [{rows}, 1]."
        )
    if targets.is_floating_point() or targets.is_complex():
        raise ValueError(f"targets are {targets.dtype}: speaker indices are needed.")
    if predictions.dtype != torch.float64:
        predictions = predictions.float()
    return predictions.reshape(rows, classes), targets.reshape(rows).long()
