"""Losses that do not fit their heads are refused before a run trains."""

import itertools

import pytest
from speechbrain.lobes.models import ECAPA_TDNN, Xvector
from speechbrain.nnet.linear import Linear
from speechbrain.nnet.losses import (
    AdditiveAngularMargin,
    AngularMargin,
    LogSoftmaxWrapper,
)
from torch import nn

import hamsb
from hamsb.training.branches import check_branches, classes, expects, gives

HEADS = {
    "cosine": [hamsb.CosineClassifier(4, 5), ECAPA_TDNN.Classifier(4, out_neurons=5)],
    "distance": [
        hamsb.HyperbolicClassifier(4, 5, hamsb.ClippedUnitBall(3.0)),
        nn.Sequential(nn.ReLU(), hamsb.HyperbolicClassifier(4, 5, hamsb.PoincareBall(1.0))),
    ],
    "logits": [Xvector.Classifier((2, 3, 4), lin_blocks=1, lin_neurons=4, out_neurons=5)],
    "logits or embedding": [nn.Linear(4, 5), Linear(5, input_size=4)],
    "embedding": [nn.Identity()],
    "": [nn.LSTM(4, 5)],
}  # fmt: skip
LOSSES = {
    "cosine": [
        hamsb.AAMSoftmax(),
        hamsb.RAMSoftmax(),
        hamsb.SphereFace2(),
        LogSoftmaxWrapper(AdditiveAngularMargin(0.2, 30.0)),
    ],
    "distance": [hamsb.HAMSoftmax(), hamsb.HSoftmax()],
    "cosine distance logits": [
        hamsb.Softmax(),
        hamsb.AMSoftmax(),
        LogSoftmaxWrapper(AngularMargin(0.2, 30.0)),
        LogSoftmaxWrapper(nn.Identity()),
    ],
    "embedding": [hamsb.SupCon(), hamsb.HSCL()],
    "views": [hamsb.NTXent(hamsb.Softmax()), hamsb.MoCo(hamsb.Softmax(), 5, 4)],
    "": [nn.CrossEntropyLoss(), nn.functional.nll_loss],
}


def test_every_head_with_every_loss():
    for (given, heads), (expected, losses) in itertools.product(
        HEADS.items(), LOSSES.items()
    ):
        fits = not given or not expected or set(given.split()) & set(expected.split())
        if expected == "views":
            fits = False  # of which train.py has none
        for head, cost in itertools.product(heads, losses):
            if fits:
                check_branches(None, cost, {"classifier": head, "compute_cost": cost}, 5)
                continue
            with pytest.raises(ValueError) as error:
                check_branches(None, cost, {"classifier": head}, 5)
            assert str(error.value).startswith("compute_cost=")
            assert ("train_ssl.py" if expected == "views" else "or a head") in str(error)


def test_the_error_says_what_to_do():
    modules = {"classifier": HEADS["distance"][0]}
    with pytest.raises(ValueError) as error:
        check_branches(None, hamsb.AAMSoftmax(), modules, 5)
    assert str(error.value) == (
        "compute_cost=AAMSoftmax(margin=0.2, scale=30): expects cosines, but classifier "
        "gives minus distances (HyperbolicClassifier). Give a loss for them, of hamsb's "
        "HAMSoftmax, HSoftmax, AMSoftmax or Softmax, or a head such as "
        "hamsb.CosineClassifier."
    )


def test_each_branch_is_compared():
    modules = {"classifier": HEADS["distance"][0], "other": HEADS["cosine"][0]}
    ham, ram = (
        {"cost": c, "weight": 0.5} for c in (hamsb.HAMSoftmax(), hamsb.RAMSoftmax())
    )
    # What compute_cost is does not count beside branches.
    check_branches({"classifier": ham, "other": ram}, hamsb.SupCon(), modules, 5)
    for branches, message in (
        (
            {"classifier": ham, "other": ham},
            r"branches\[other\]\[cost\]=HAM.*other gives cos",
        ),
        ({"classifier": ram}, r"branches\[classifier\]\[cost\]=RAM.*gives minus dist"),
        ({"more": ham}, r"branches\[more\]: no such head among .*'classifier', 'other'"),
        ({"other": {"cost": ham}}, r"branches\[other\]=.*keys are cost and weight"),
        ({"other": None}, r"branches\[other\]=None: its keys"),
        (
            {"other": {**ram, "weight": "1"}},
            r"branches\[other\]\[weight\]='1': must be a nu",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            check_branches(branches, None, modules, 5)


def test_a_head_of_fewer_classes_than_speakers():
    for head in itertools.chain(*(HEADS[kind] for kind in ("cosine", "distance"))):
        for cost in (hamsb.AMSoftmax(), print):
            with pytest.raises(ValueError, match="classifier: a head of 5 classes for 6"):
                check_branches(None, cost, {"classifier": head}, 6)
            check_branches(None, cost, {"classifier": head}, 4)
    assert [classes(head) for head in HEADS["logits or embedding"]] == [5, 5]
    assert classes(nn.LSTM(4, 5)) is None
    # A layer that projects embeddings has no classes.
    cost = hamsb.SupCon(learnable=False)
    check_branches(None, cost, {"classifier": nn.Linear(4, 5)}, 6)


def test_heads_and_losses_of_ones_own_declare():
    class Head(nn.Module):
        gives = "cosine"

    class Loss(nn.Module):
        expects = "distance"

    assert gives(Head()) == ("cosine",) and expects(Loss()) == ("distance",)
    with pytest.raises(ValueError, match="expects minus distances"):
        check_branches(None, Loss(), {"classifier": Head()}, 5)
    Head.gives = "cosines"
    with pytest.raises(ValueError, match="gives='cosines': must be one of"):
        check_branches(None, Loss(), {"classifier": Head()}, 5)
