"""What heads give and losses expect, as words, so that the two can be compared.

A head or a similarity has an attribute ``gives``, of `KINDS`; a loss has an attribute
``expects``, a tuple of them:

    class MyHead(nn.Module):
        gives = "cosine"

    class MyLoss(nn.Module):
        expects = ("cosine", "distance")

What declares nothing is not compared. `hamsb.training.branches` compares at the start of
a run; the losses of `hamsb.nnet.losses` look at their first predictions as well, which
serves a script that does not compare.
"""

import math
from collections.abc import Collection

from torch import Tensor

#: Each kind, in words.
KINDS = {
    "cosine": "cosines",
    "distance": "minus distances",
    "logits": "logits",
    "embedding": "embeddings",
    "views": "two views of each utterance",
}

#: What a cross-entropy is taken of.
SIMILARITIES = ("cosine", "distance", "logits")

#: A head of each kind, for messages.
HEADS = {
    "cosine": "hamsb.CosineClassifier",
    "distance": "hamsb.HyperbolicClassifier",
    "logits": "torch.nn.Linear",
    "embedding": "torch.nn.Identity",
}

_ROUNDING = 0.05  # of cosines in bfloat16 and more
_BOTH_SIGNS = 64  # cosines with so many speakers are of both signs


def in_words(kinds: Collection[str]) -> str:
    """Kinds in a sentence.

    Example
    -------
    >>> in_words(("cosine", "distance"))
    'cosines or minus distances'
    """
    return " or ".join(KINDS[kind] for kind in kinds)


def check_values(what: str, expects: Collection[str], similarities: Tensor) -> None:
    """ValueError where similarities are of no kind that a loss expects, as far as values
    tell: a cosine lies in [-1, 1], and with many speakers some are positive; minus a
    distance is at most 0. It waits for the device.

    Arguments
    ---------
    what : str
        The loss, for the message.
    expects : collection of str
        Of `KINDS`.
    similarities : torch.Tensor
        [B, C], float32 or wider; ``-inf`` where a candidate is masked.

    Example
    -------
    >>> import torch
    >>> check_values("AAMSoftmax", ("cosine",), torch.tensor([[0.9, -0.2]]))
    """
    if similarities.numel() == 0 or not {"cosine", "distance"}.issuperset(expects):
        return
    similarities = similarities.detach()
    masked = similarities == -math.inf
    high = similarities.max().item()
    low = similarities.masked_fill(masked, 0).min().item()
    many = similarities.shape[1] >= _BOTH_SIGNS and not masked.any().item()
    wrong = {  # a NaN is neither; it shows in the loss
        "cosine": low < -1 - _ROUNDING or high > 1 + _ROUNDING or (many and high < 0),
        "distance": high > _ROUNDING,
    }
    if all(wrong[kind] for kind in expects):
        heads = " or ".join(HEADS[kind] for kind in expects)
        raise ValueError(
            f"{what}: expects {in_words(expects)}, but the first predictions lie between "
            f"{low:.3g} and {high:.3g}. Give it a head such as {heads}, or take "
            "hamsb.AMSoftmax, which takes cosines, minus distances and logits."
        )
