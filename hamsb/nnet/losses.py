"""Classification losses with and without margin, on any similarities.

Each loss takes (predictions [B, 1, C], targets [B, 1], length=None) and
returns the mean over the batch of a cross-entropy, so it stands where
SpeechBrain's ``compute_cost`` stands. Predictions are similarities, higher is
more similar: cosines for the Euclidean losses, the outputs of a linear layer
for softmax, minus hyperbolic distances for H- and HAM-Softmax. The mathematics
is the same; no loss knows which head it serves.

``margin`` and ``scale`` may be set during training (a margin schedule does);
nothing derived from them is kept. Targets stay sparse: no one-hot matrix.

A loss is defined by what it makes of the target's similarity (``penalise``) and
by whether it drops the classes below the target (``drops_easy``). From these
come both the plain form (``logits``, then cross-entropy) and the closed form
that ``forward`` uses.
"""

import math

import torch
from torch import nn

from hamsb.nnet._closed_forms import blocks, refuse_second_derivative


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

    drops_easy = False  # whether logits below the target's are taken as 0

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
        value, slope = self.penalise(similarities.detach().gather(1, targets))
        return _MarginCrossEntropy.apply(
            similarities, targets, value, slope, self.scale, self.drops_easy
        ).mean()

    def logits(self, similarities, targets):
        """What the cross-entropy is of: [B, C] from similarities [B, C] and
        targets [B], by plain differentiable operations. With torch's
        ``cross_entropy`` it is the loss that ``forward`` computes in closed form."""
        targets = targets.unsqueeze(1)
        target = self.scale * self.penalise(similarities.gather(1, targets))[0]
        logits = (self.scale * similarities).scatter(1, targets, target)
        return torch.where(logits < target, 0, logits) if self.drops_easy else logits

    def penalise(self, similarity):
        """What stands for the target's similarity, and its derivative: both
        elementwise, of any shape. Subclasses put their margin here."""
        return similarity, torch.ones_like(similarity)

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

    def penalise(self, similarity):
        return similarity - self.margin, torch.ones_like(similarity)

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
        slope = math.cos(m) + cosine / sine * math.sin(m)
        far = cosine <= -math.cos(m)
        clamped = cosine != similarity
        return (
            torch.where(far, cosine - m * math.sin(m), turned),
            torch.where(far, 1, slope).masked_fill(clamped, 0),
        )


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

    drops_easy = True


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


class _MarginCrossEntropy(torch.autograd.Function):
    """The cross-entropy of each row, [B], in closed form.

    Logits are ``scale * similarities``, with ``scale * value`` in place of the
    target's, and 0 where they are below it if ``drops_easy``. With p their
    softmax, the gradient is ``scale * p`` for the other classes that are not
    dropped, and ``scale * (p - 1) * slope`` for the target. The similarities are
    the one [B, C] buffer kept for the backward pass, whose only other one is the
    gradient itself: both passes make the logits block by block.

    Arguments of ``apply``: similarities [B, C], targets [B, 1], value and slope
    of the target's penalised similarity [B, 1], scale, drops_easy.
    """

    @staticmethod
    def forward(similarities, targets, value, slope, scale, drops_easy):
        losses = similarities.new_empty(len(similarities))
        for part in blocks(*similarities.shape):
            logits, y = similarities[part] * scale, targets[part]
            logits.scatter_(1, y, value[part] * scale)
            if drops_easy:
                logits.masked_fill_(logits < value[part] * scale, 0)
            losses[part] = -torch.log_softmax(logits, 1).gather(1, y).squeeze(1)
        return losses

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.scale, ctx.drops_easy = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, grad):
        refuse_second_derivative("the loss", "torch's cross_entropy of its logits()")
        similarities, targets, value, slope = ctx.saved_tensors

        def block(part):
            logits, y = similarities[part] * ctx.scale, targets[part]
            logits.scatter_(1, y, value[part] * ctx.scale)
            if ctx.drops_easy:
                dropped = logits < value[part] * ctx.scale
                logits.masked_fill_(dropped, 0)
            p = torch.softmax(logits, 1)
            p.scatter_(1, y, (p.gather(1, y) - 1) * slope[part])
            p.mul_(ctx.scale * grad[part, None])
            if ctx.drops_easy:
                p.masked_fill_(dropped, 0)
            return p

        parts = blocks(*similarities.shape)
        if len(parts) == 1:
            gradient = block(parts[0])
        else:
            gradient = torch.empty_like(similarities)
            for part in parts:
                gradient[part] = block(part)
        return gradient, None, None, None, None, None


def _flatten(predictions, targets):
    """Predictions [B, C] in float32 or wider and targets [B, 1] as indices."""
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
    return predictions.reshape(rows, classes), targets.reshape(rows, 1).long()
