"""Whether the losses of a run fit their heads, and the heads the speakers, before it
trains: a loss on what it does not expect trains to nothing, and says nothing."""

from collections.abc import Mapping
from typing import Any

from speechbrain.lobes.models import ECAPA_TDNN, Xvector
from speechbrain.nnet.linear import Linear
from speechbrain.nnet.losses import (
    AdditiveAngularMargin,
    AngularMargin,
    LogSoftmaxWrapper,
)
from torch import nn

from hamsb.nnet.kinds import HEADS, KINDS, SIMILARITIES, in_words
from hamsb.training.report import one_line
from hamsb.utils.checks import check_choice, check_not_negative

# What declares nothing itself. A linear layer may project embeddings, too.
_GIVE: list[tuple[type, tuple[str, ...]]] = [
    (nn.Identity, ("embedding",)),
    (nn.Linear, ("logits", "embedding")),
    (Linear, ("logits", "embedding")),
    (ECAPA_TDNN.Classifier, ("cosine",)),
    (Xvector.Classifier, ("logits",)),
]
_EXPECT: list[tuple[type, tuple[str, ...]]] = [
    (AdditiveAngularMargin, ("cosine",)),
    (AngularMargin, SIMILARITIES),
    (nn.Identity, SIMILARITIES),  # in LogSoftmaxWrapper
]
_LOSSES = {
    "cosine": "AMSoftmax, AAMSoftmax, RAMSoftmax, SphereFace2 or Softmax",
    "distance": "HAMSoftmax, HSoftmax, AMSoftmax or Softmax",
    "logits": "Softmax or AMSoftmax",
    "embedding": "SupCon or HSCL",
}


def gives(head: object) -> tuple[str, ...]:
    """The kinds of which a head's output may be; none where that is not known.

    Example
    -------
    >>> gives(nn.Linear(2, 3)), gives(nn.LSTM(2, 3))
    (('logits', 'embedding'), ())
    """
    if hasattr(head, "gives"):
        return _declared("gives", head.gives)
    if type(head) is nn.Sequential and len(head):
        return gives(head[-1])
    return _known(head, _GIVE)


def expects(cost: object) -> tuple[str, ...]:
    """The kinds that a loss takes; none where that is not known.

    Example
    -------
    >>> expects(LogSoftmaxWrapper(AdditiveAngularMargin(0.2, 30.0)))
    ('cosine',)
    """
    if hasattr(cost, "expects"):
        return _declared("expects", cost.expects)
    return _known(cost.loss_fn if isinstance(cost, LogSoftmaxWrapper) else cost, _EXPECT)


def classes(head: object) -> int | None:
    """Of how many speakers a head's output is; None where that is not known."""
    if type(head) is nn.Sequential and len(head):
        return classes(head[-1])
    if hasattr(head, "out_neurons"):
        return head.out_neurons
    if isinstance(head, Linear):
        head = head.w
    if isinstance(head, (nn.Linear, ECAPA_TDNN.Classifier)):
        return len(head.weight)
    return None


def check_branches(
    branches: Mapping[str, Mapping[str, Any]] | None,
    cost: object,
    modules: Mapping[str, object],
    speakers: int,
) -> None:
    """Compare losses with heads, and heads with the speakers of the training.

    Arguments
    ---------
    branches : mapping, optional
        The yaml's: head -> its ``cost`` and ``weight``.
    cost : callable
        The yaml's ``compute_cost``, of the head ``classifier`` where there are no
        branches.
    modules : mapping of str to nn.Module
        The yaml's.
    speakers : int
        How many classes the training data have.

    Raises
    ------
    ValueError
        A loss that does not expect what its head gives; a head with fewer classes than
        there are speakers; a branch without such a head, a loss or a weight.

    Example
    -------
    >>> import hamsb
    >>> modules = {"classifier": hamsb.CosineClassifier(192, 5)}
    >>> check_branches(None, hamsb.AAMSoftmax(), modules, speakers=5)
    """
    if not branches:
        _check("compute_cost", cost, "classifier", modules["classifier"], speakers)
        return
    check_form(branches)
    for name, branch in branches.items():
        if name not in modules:
            raise ValueError(
                f"branches[{name}]: no such head among the modules {sorted(modules)}."
            )
        where = f"branches[{name}][cost]"
        _check(where, branch["cost"], name, modules[name], speakers)


def check_trained(
    branches: Mapping[str, Mapping[str, Any]] | None,
    cost: object,
    modules: Mapping[str, object],
    margin_schedule: object = None,
) -> None:
    """ValueError where branches leave out the head that is exported, or the loss whose
    margin a schedule moves.

    Arguments
    ---------
    branches, cost, modules
        As of `check_branches`.
    margin_schedule : object, optional
        The yaml's, which moves the margin of ``cost``.

    Example
    -------
    >>> check_trained(None, None, {})
    """
    if not branches:
        return
    head = modules.get("classifier")
    learns = isinstance(head, nn.Module) and any(True for _ in head.parameters())
    if learns and "classifier" not in branches:
        raise ValueError(
            f"branches: {', '.join(branches)}, but not classifier, which would be exported "
            "as it was made; give it a branch, or let it be torch.nn.Identity."
        )
    if margin_schedule is not None and all(
        branch["cost"] is not cost for branch in branches.values()
    ):
        raise ValueError(
            "margin_schedule: moves the margin of compute_cost, which no branch has; write "
            "cost: !ref <compute_cost> in one."
        )


def loss_text(hparams: Mapping[str, Any]) -> str:
    """The loss of a run's keys in a line: the ``compute_cost``, or each branch's with its
    weight.

    Example
    -------
    >>> import hamsb
    >>> loss_text({"compute_cost": hamsb.Softmax()})
    'Softmax(scale=1)'
    """
    branches = hparams.get("branches")
    if not branches:
        return one_line(hparams["compute_cost"])
    return " + ".join(
        f"{branch['weight']:g} {one_line(branch['cost'])}" for branch in branches.values()
    )


def check_form(branches: object, where: str = "branches") -> None:
    """ValueError where branches are not heads with a loss and a weight each.

    Arguments
    ---------
    branches : mapping
        As of `check_branches`.
    where : str
        What the message calls them.

    Example
    -------
    >>> check_form({"classifier": {"cost": None, "weight": 0.5}})
    """
    if not isinstance(branches, Mapping):
        raise ValueError(f"{where}={branches!r}: {{head: {{cost: ..., weight: ...}}}}.")
    for name, branch in branches.items():
        here = f"{where}[{name}]"
        if not isinstance(branch, Mapping) or branch.keys() != {"cost", "weight"}:
            raise ValueError(f"{here}={branch!r}: its keys are cost and weight.")
        check_not_negative(f"{here}[weight]", branch["weight"])


def check_loss(where: str, cost: object) -> None:
    """ValueError where a loss is none.

    Example
    -------
    >>> check_loss("compute_cost", nn.CrossEntropyLoss())
    """
    if not callable(cost):
        raise ValueError(
            f"{where}={cost!r}: must be a loss, such as !new:hamsb.AAMSoftmax."
        )


def _check(where: str, cost: object, name: str, head: object, speakers: int) -> None:
    check_loss(where, cost)
    given, expected = gives(head), expects(cost)
    if expected == ("views",):
        raise ValueError(
            f"{where}={one_line(cost)}: compares two views of each utterance; train "
            "with train_ssl.py, or give hamsb.SupCon."
        )
    if given and expected and not set(given) & set(expected):
        losses = " or ".join(_LOSSES[kind] for kind in given)
        raise ValueError(
            f"{where}={one_line(cost)}: expects {in_words(expected)}, but {name} gives "
            f"{in_words(given)} ({type(head).__name__}). Give a loss for them, of "
            f"hamsb's {losses}, or a head such as "
            f"{' or '.join(HEADS[kind] for kind in expected)}."
        )
    known = None if expected == ("embedding",) else classes(head)
    if known is not None and known < speakers:
        raise ValueError(
            f"{name}: a head of {known} classes for {speakers} training speakers; give "
            "it out_neurons: !ref <out_n_neurons>, which is counted."
        )


def _declared(name: str, kinds: object) -> tuple[str, ...]:
    """What an attribute declares, as a tuple; ValueError where there is no such kind."""
    found = (kinds,) if isinstance(kinds, str) else tuple(kinds)  # type: ignore[arg-type]
    for kind in found:
        check_choice(name, kind, KINDS)
    return found


def _known(thing: object, table: list[tuple[type, tuple[str, ...]]]) -> tuple[str, ...]:
    for kind, words in table:
        if isinstance(thing, kind):
            return words
    return ()
