"""Busemann functions against the distance to a point far out, and their head."""

import pytest
import torch

from cases import looped
from hamsb import AMSoftmax, BusemannClassifier, ClippedUnitBall, PoincareBall
from hamsb.nnet.balls import logmap0
from hamsb.nnet.busemann import busemann
from hamsb.training.branches import check_branches

C, D = 7, 5


def made(ball=None, **options):
    torch.manual_seed(0)
    ball = ball or PoincareBall(2.0, gain=0.5, learnable=True)
    head = BusemannClassifier(D, C, ball, **options).double()
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            if name in ("log_gain", "bias"):
                parameter.copy_(torch.randn(C))
    return head, torch.randn(4, 1, D).double()


@looped(curvature=[0.5, 1.0, 3.0])
def test_it_is_the_distance_to_infinity_less_that_of_the_origin(curvature):
    ball = PoincareBall(curvature).double()
    points = ball.expmap0(torch.randn(4, D).double())
    ideal = torch.nn.functional.normalize(torch.randn(C, D).double())
    far = ideal * (1 - 1e-7) / curvature**0.5
    expected = ball.pairwise_distance(points, far) - ball.distance(0 * far, far)
    found = busemann(points, ideal, curvature)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    # Along the ray to the ideal point it falls as fast as one goes.
    ray = ball.expmap0(ideal * torch.tensor(0.7).double())
    length = 2 * logmap0(ray, curvature).norm(dim=1)
    torch.testing.assert_close(busemann(ray, ideal, curvature).diagonal(), -length)


@looped(ball=[None, ClippedUnitBall(3.0)])
def test_head_is_the_printed_formula(ball):
    """Of each embedding and speaker by itself, with gradients."""
    head, x = made(ball)
    x.requires_grad_()
    root, found = torch.as_tensor(head.ball.metric_curvature) ** 0.5, []
    for row in head.ball.project(x[:, 0]):
        for w, log_gain, bias in zip(head.weight, head.log_gain, head.bias, strict=True):
            gap = (w / w.norm() - root * row).square().sum()
            away = torch.log(gap / (1 - (root * row).square().sum())) / root
            found.append(bias - log_gain.exp() * away)
    expected = torch.stack(found).view(4, 1, C)
    torch.testing.assert_close(head(x), expected)
    weights = torch.randn(4, 1, C).double()
    of = [x, *head.parameters()]
    for ours, theirs in zip(
        torch.autograd.grad((weights * head(x)).sum(), of),
        torch.autograd.grad((weights * expected).sum(), of),
        strict=True,
    ):
        assert ours.abs().sum() > 0
        torch.testing.assert_close(ours, theirs)


def test_the_radius_sharpens():
    head, x = made(PoincareBall(1.0, gain=1.0), learn_gain=False, learn_bias=False)
    spread = [head(scale * x).std(-1) for scale in (0.1, 0.5, 1.0)]
    assert (spread[0] < spread[1]).all() and (spread[1] < spread[2]).all()
    assert list(head.state_dict()) == ["weight"]


def test_float32_holds_far_out():
    head, x = made(PoincareBall(1.0, gain=1.0))
    towards = head.weight.detach().unsqueeze(1) / head.weight.detach().norm()
    far = 100 * torch.cat([x, towards])  # near an ideal point little is left
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = head.float()(far.float())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, head.double()(far).float(), rtol=1e-3, atol=1e-3)
    out = head.float()(
        torch.cat([0 * far, 1e6 * far, 1e-15 * far]).float().requires_grad_()
    )
    gradients = torch.autograd.grad(out.sum(), list(head.parameters()))
    assert out.isfinite().all() and all(each.isfinite().all() for each in gradients)


def test_it_trains_with_am_softmax_in_one_graph():
    torch._dynamo.reset()
    head, x = made()
    targets = torch.tensor([[0], [6], [2], [2]])
    check_branches(None, AMSoftmax(), {"classifier": head}, C)
    assert repr(head).startswith("BusemannClassifier(\n  input_size=5, out_neurons=7")

    def step(x):
        return AMSoftmax(0.2, 5.0)(head(x), targets)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    found = [
        torch.autograd.grad(function(x), list(head.parameters()))
        for function in (step, compiled)
    ]
    torch.testing.assert_close(*found)


def test_what_does_not_fit_is_a_value_error():
    for options in ({"learn_gain": 1}, {"learn_bias": "no"}, {"initial_scale": 0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            BusemannClassifier(D, C, PoincareBall(1.0), **options)
    with pytest.raises(ValueError, match=r"expected \[B, 1, 5\]"):
        BusemannClassifier(D, C, PoincareBall(1.0))(torch.zeros(3, 6))
