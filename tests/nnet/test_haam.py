"""HAAM-Softmax against its formula in float64."""

import math
from dataclasses import fields

import pytest
import torch
from speechbrain.nnet.losses import classification_error
from torch.nn.functional import cross_entropy

from cases import looped
from hamsb import (
    ClippedUnitBall,
    HAAMClassifier,
    HAAMSoftmax,
    HAMSoftmax,
    HSoftmax,
    HyperbolicClassifier,
    PoincareBall,
)
from hamsb.nnet._sharded import Shard, ShardedSimilarities
from hamsb.training.branches import check_branches

B, C, D = 6, 7, 4
BALLS = {
    "clipped": lambda: ClippedUnitBall(3.0),
    "learned": lambda: PoincareBall(2.0, gain=0.5, learnable=True),
}


def made(ball="clipped", dtype=torch.float64, scale=0.4):
    torch.manual_seed(0)
    head = HAAMClassifier(D, C, BALLS[ball](), scale).to(dtype)
    x = torch.randn(B, 1, D, dtype=torch.float64).to(dtype)
    return head, x, torch.randint(C, (B, 1))


def printed(head, x, targets, margin, scale):
    """The law of cosines as it is written, each row and class by itself."""
    c = head.ball.metric_curvature
    rows = []
    for row, y in zip(head.ball.project(x[:, 0]), targets[:, 0].tolist(), strict=True):
        logits = []
        for j, center in enumerate(head.ball.project(head.centers)):
            theta = torch.acos(torch.cosine_similarity(row, center, dim=0))
            cosine = theta.cos()
            if j == y and theta + margin <= math.pi:
                cosine = torch.cos(theta + margin)
            elif j == y:
                cosine = cosine - margin * math.sin(margin)
            a, b = (2 * torch.atanh(c**0.5 * v.norm()) for v in (row, center))
            cosh = a.cosh() * b.cosh() - a.sinh() * b.sinh() * cosine
            logits.append(-scale * torch.acosh(cosh) / c**0.5)
        rows.append(torch.stack(logits))
    return cross_entropy(torch.stack(rows), targets[:, 0])


def gradients(value, head, x):
    return value, *torch.autograd.grad(value, [x, *head.parameters()])


@looped(ball=BALLS, margin=[0.0, 0.3, 2.0])
def test_equals_the_law_of_cosines(ball, margin):
    """Values and gradients of embeddings, centers and ball; past pi too."""
    head, x, targets = made(ball)
    x.requires_grad_()
    ours = gradients(HAAMSoftmax(margin, 3.0)(head(x), targets), head, x)
    theirs = gradients(printed(head, x, targets, margin, 3.0), head, x)
    assert all(gradient.abs().sum() > 0 for gradient in ours[1:])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)
    if margin == 2.0:
        points, centers = head.ball.project(x[:, 0]), head.ball.project(head.centers)
        cosines = torch.cosine_similarity(points, centers[targets[:, 0]], dim=1)
        assert (cosines.acos() + margin > math.pi).any()


@looped(ball=BALLS)
def test_without_margin_it_is_h_softmax(ball):
    head, x, targets = made(ball)
    plain = HyperbolicClassifier(D, C, head.ball).double()
    plain.centers = head.centers
    x.requires_grad_()
    ours = gradients(HAAMSoftmax(0.0, 30.0)(head(x), targets), head, x)
    theirs = gradients(HSoftmax(30.0)(plain(x), targets), plain, x)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_float32_holds_next_to_the_origin_and_the_clip():
    for scale in (1e-3, 0.4):
        found = []
        for dtype in (torch.float32, torch.float64):
            head, x, targets = made(dtype=dtype, scale=scale)
            x.requires_grad_()
            found.append(gradients(HAAMSoftmax()(head(x), targets), head, x))
        for a, b in zip(*found, strict=True):
            assert (a - b).abs().max() < 2e-4 * b.abs().max()
    with torch.no_grad():
        head.centers[0] = 0
    value = HAAMSoftmax()(head(x), 0 * targets)
    assert all(each.isfinite().all() for each in gradients(value, head, x))


def test_the_distance_grows_with_the_angle_past_pi():
    head = HAAMClassifier(2, 1, ClippedUnitBall(3.0)).double()
    loss = HAAMSoftmax(1.0, 30.0)
    with torch.no_grad():
        head.centers.copy_(torch.tensor([[0.3, 0.0]]))
    angles = torch.linspace(0.001, math.pi - 0.001, 300).double()
    x = torch.stack([angles.cos(), angles.sin()], 1)
    targets = torch.zeros(len(x), 1).long()
    similarities = loss.turned_similarity(head(x), targets)[:, 0]
    assert (similarities.diff() < 0).all()


def test_to_all_else_the_head_gives_minus_distances():
    head, x, targets = made(dtype=torch.float32)
    plain = HyperbolicClassifier(D, C, head.ball)
    plain.centers = head.centers
    for mode in (True, False):
        for module in (head, plain):
            module.train(mode)
        with torch.set_grad_enabled(mode):
            torch.testing.assert_close(head(x).squeeze(1), plain(x).squeeze(1))
            assert classification_error(head(x), targets) == classification_error(
                plain(x), targets
            )
            assert HAAMSoftmax()(head(x), targets, torch.ones(B)).isfinite()
            torch.testing.assert_close(
                HAMSoftmax()(head(x), targets), HAMSoftmax()(plain(x), targets)
            )


def test_head_and_loss_compile_to_one_graph():
    torch._dynamo.reset()
    head, x, targets = made(dtype=torch.float32)
    loss, found = HAAMSoftmax(), []

    def step(x, targets):
        return loss(head(x), targets)

    for function in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        a = x.clone().requires_grad_()
        found.append(gradients(function(a, targets), head, a))
    torch.testing.assert_close(*found)


def test_what_does_not_fit_is_a_value_error():
    head, x, targets = made(dtype=torch.float32)
    plain = HyperbolicClassifier(D, C, head.ball)
    with pytest.raises(ValueError, match=r"give it the head hamsb\.HAAMClassifier"):
        HAAMSoftmax()(plain(x), targets)
    # Nor what a loss takes block by block, where it is not one center of each speaker.
    lazy = head(x)
    given = {each.name: getattr(lazy, each.name) for each in fields(lazy)}
    given.pop("_tensor")
    several = HyperbolicClassifier(D, C, head.ball, sub_centers=2, class_fraction=0.9)
    rim = HyperbolicClassifier(D, C, ClippedUnitBall(1.0), class_fraction=0.9)
    for other in (ShardedSimilarities(**given, shard=Shard(C)), several(x), rim(x)):
        with pytest.raises(ValueError, match=r"give it the head hamsb\.HAAMClassifier"):
            HAAMSoftmax()(other, targets)
    with pytest.raises(ValueError, match=r"expects points of a ball.*HAAMClassifier"):
        check_branches(None, HAAMSoftmax(), {"classifier": plain}, C)
    for cost in (HAAMSoftmax(), HAMSoftmax()):
        check_branches(None, cost, {"classifier": head}, C)
    with pytest.raises(ValueError, match="1.0032"):
        HAAMClassifier(D, C, ClippedUnitBall(1.0))
    with pytest.raises(ValueError, match="angle"):
        HAAMSoftmax(3.2)
    loss = HAAMSoftmax()
    for bad in (-1, C):
        with pytest.raises(ValueError, match="speaker indices lie in"):
            loss(head(x), torch.full_like(targets, bad))
    loss(head(x), targets)
    before = loss(head(x), targets)
    loss.margin = 0.9
    assert loss(head(x), targets) > before
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(loss(head(x.bfloat16().float()), targets),
                                   loss(head(x.bfloat16()), targets))  # fmt: skip
