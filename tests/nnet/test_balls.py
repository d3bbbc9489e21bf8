"""The balls: published values, analytic identities, precision, gradients."""

import math
from pathlib import Path

import geoopt
import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

import hamsb.nnet._closed_forms
from cases import looped
from hamsb.nnet.balls import (
    ClippedUnitBall,
    PoincareBall,
    clip_norm,
    expmap0,
    logmap0,
    mobius_add,
    soften_norm,
)

RELEASED = Path(__file__).parents[1] / "data" / "released_ham_softmax.npz"
CURVATURES = [1e-6, 0.1, 1.0, 3.0, 25.0]
DTYPES = [torch.float32, torch.float64]
SEEDS = [0, 1, 2]
BALLS = {
    "clipped": ClippedUnitBall(3.0),
    "clipped_c1": ClippedUnitBall(1.0),
    "soft": PoincareBall(1.0),
    "soft_c5": PoincareBall(5.0, gain=1.0),
    "hard": PoincareBall(1.0, limit="hard"),
    "clip": PoincareBall(3.0, projection="clip"),
    "learnable": PoincareBall(0.7, learnable=True),
}


def points(curvature, dtype, seed, n=16, dimension=5, spread=1.0):
    """Random points of the ball, up to sqrt(c)|v| = 3 from the origin."""
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(n, dimension, generator=generator, dtype=torch.float64)
    length = 3 * spread * torch.rand(n, 1, generator=generator, dtype=torch.float64)
    v = v / v.norm(dim=-1, keepdim=True) * length / math.sqrt(curvature)
    return expmap0(v, curvature).to(dtype)


def tolerance(dtype):
    return (
        {"rtol": 1e-9, "atol": 1e-9}
        if dtype == torch.float64
        else {"rtol": 3e-4, "atol": 3e-5}
    )


# ---------------------------------------------------------------- published


@looped(dtype=DTYPES, setting=["c1.0_m0.2_s30", "c3.0_m0.2_s30", "c5.0_m0.0_s30"])
def test_clipped_unit_ball_reproduces_the_released_loss(setting, dtype):
    if setting.startswith("c1.0") and dtype == torch.float32:
        return  # at c = 1 the rim is ill-conditioned in float32
    curvature, margin = (float(part[1:]) for part in setting.split("_")[:2])
    rtol = 1e-6 if dtype == torch.float64 else 5e-4
    released = np.load(RELEASED)
    ball = ClippedUnitBall(curvature)
    x = torch.tensor(released["embeddings"], dtype=dtype, requires_grad=True)
    w = torch.tensor(released["centres"], dtype=dtype, requires_grad=True)
    y = torch.tensor(released["targets"])
    for form in ("direct", "pairwise"):
        if form == "direct":
            d = ball.distance(ball.project(x).unsqueeze(1), ball.project(w))
        else:
            d = ball.pairwise_distance(ball.project(x), ball.project(w))
        assert d.dtype == dtype
        hit = torch.nn.functional.one_hot(y, len(w)).to(dtype)
        losses = cross_entropy(-30 * (d + margin * hit), y, reduction="none")
        grads = torch.autograd.grad(losses.mean(), [x, w])
        for ours, name in zip(
            [d, losses, *grads],
            ["distance", "loss", "grad_embeddings", "grad_centres"],
            strict=True,
        ):
            theirs = released[f"{setting}_{name}"]
            np.testing.assert_allclose(
                ours.detach(),
                theirs,
                rtol=rtol,
                atol=rtol * np.abs(theirs).max(),
                err_msg=f"{form} {name}",
            )


def test_clipped_unit_ball_is_the_formula_as_printed():
    ball = ClippedUnitBall(3.0)
    generator = torch.Generator().manual_seed(5)
    x, y = torch.randn(2, 50, 6, generator=generator, dtype=torch.float64)
    y = 0.1 * y
    radius = (1 - 1e-5) / math.sqrt(3)
    x, y = ball.project(x), ball.project(y)
    assert x.norm(dim=-1).max() <= radius * (1 + 1e-12)
    conformal = (1 - x.square().sum(-1)) * (1 - y.square().sum(-1))
    printed = torch.acosh(1 + 2 * (x - y).square().sum(-1) / conformal.clamp_min(1e-5))
    torch.testing.assert_close(ball.distance(x, y), printed)


def test_clipped_unit_ball_floor_acts_at_curvature_one_only():
    rim = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    at_one, above = ClippedUnitBall(1.0), ClippedUnitBall(1.0033)
    floored = 2 * math.asinh(math.sqrt(4 * (1 - 1e-5) ** 2 / 1e-5))
    x, y = at_one.project(rim)
    assert at_one.distance(x, y).item() == pytest.approx(floored, rel=1e-12)
    x, y = above.project(rim)
    square = x.square().sum().item()
    exact = 2 * math.asinh(2 * math.sqrt(square) / (1 - square))
    assert above.distance(x, y).item() == pytest.approx(exact, rel=1e-9)


# ---------------------------------------------------- identities of the ball


@looped(dtype=DTYPES, curvature=CURVATURES, seed=SEEDS)
def test_distance_is_the_moebius_form(dtype, curvature, seed):
    ball = PoincareBall(curvature)
    x = points(curvature, torch.float64, seed)
    y = points(curvature, torch.float64, seed + 100)
    root = math.sqrt(curvature)
    gap = mobius_add(-x, y, curvature).norm(dim=-1)
    moebius = 2 / root * torch.atanh(root * gap)
    ours = ball.distance(x.to(dtype), y.to(dtype))
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.double(), moebius, **tolerance(dtype))


@looped(curvature=[c for c in CURVATURES if c >= 0.1], seed=SEEDS)
def test_geoopt_agrees(curvature, seed):
    """From c = 0.1: geoopt replaces small curvatures by their series at 0."""
    theirs = geoopt.PoincareBall(c=torch.tensor(curvature, dtype=torch.float64))
    ours = PoincareBall(curvature)
    x = points(curvature, torch.float64, seed, spread=0.5)
    y = points(curvature, torch.float64, seed + 100, spread=0.5)
    v = torch.randn(
        16, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    v = v / math.sqrt(curvature)
    close = {"rtol": 1e-6, "atol": 1e-9}
    torch.testing.assert_close(ours.distance(x, y), theirs.dist(x, y), **close)
    torch.testing.assert_close(ours.expmap0(v), theirs.expmap0(v), **close)
    torch.testing.assert_close(ours.logmap0(x), theirs.logmap0(x), **close)
    torch.testing.assert_close(ours.mobius_add(x, y), theirs.mobius_add(x, y), **close)


@looped(dtype=DTYPES, curvature=CURVATURES, seed=SEEDS)
def test_expmap0_and_logmap0_are_inverse(dtype, curvature, seed):
    ball = PoincareBall(curvature)
    x = points(curvature, dtype, seed)
    torch.testing.assert_close(ball.expmap0(ball.logmap0(x)), x, **tolerance(dtype))
    origin = torch.zeros_like(x)
    radial = ball.distance(origin, x)
    torch.testing.assert_close(radial, 2 * ball.logmap0(x).norm(dim=-1), **tolerance(dtype))


@looped(dtype=DTYPES, curvature=CURVATURES, seed=SEEDS)
def test_moebius_addition_has_identity_inverse_and_left_cancellation(
    dtype, curvature, seed
):
    ball = PoincareBall(curvature)
    x = points(curvature, dtype, seed, spread=0.5)
    y = points(curvature, dtype, seed + 100, spread=0.5)
    zero = torch.zeros_like(x)
    close = tolerance(dtype)
    torch.testing.assert_close(ball.mobius_add(zero, x), x, **close)
    torch.testing.assert_close(ball.mobius_add(x, zero), x, **close)
    scale = math.sqrt(curvature)
    torch.testing.assert_close(scale * ball.mobius_add(-x, x), zero, **close)
    torch.testing.assert_close(ball.mobius_add(-x, ball.mobius_add(x, y)), y, **close)


@looped(dtype=DTYPES, curvature=CURVATURES, seed=SEEDS)
def test_distance_is_a_metric_that_translations_keep(dtype, curvature, seed):
    ball = PoincareBall(curvature)
    x, y, z = (points(curvature, dtype, seed + s, spread=0.5) for s in (0, 100, 200))
    close = tolerance(dtype)
    d = ball.distance
    torch.testing.assert_close(d(x, y), d(y, x), **close)
    assert (d(x, x) == 0).all()
    slack = 1e-4 / math.sqrt(curvature)
    assert (d(x, z) <= d(x, y) + d(y, z) + slack).all()
    moved = d(ball.mobius_add(z, x), ball.mobius_add(z, y))
    torch.testing.assert_close(
        moved, d(x, y), rtol=2e-3 if dtype == torch.float32 else 1e-9, atol=close["atol"]
    )


@looped(dtype=DTYPES, seed=SEEDS)
def test_vanishing_curvature_gives_twice_the_euclidean_distance(dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(2, 16, 5, generator=generator, dtype=torch.float64).to(dtype)
    d = PoincareBall(1e-10).distance(x, y)
    torch.testing.assert_close(d, 2 * (x - y).norm(dim=-1), rtol=1e-5, atol=0)


@looped(curvature=[0.5, 1.0, 3.0])
def test_unit_ball_is_the_poincare_ball_of_curvature_one(curvature):
    """The published distance is that of curvature 1, whatever its own c."""
    clipped = ClippedUnitBall(max(1.5, curvature))
    x, y = (0.5 * points(1.0, torch.float64, s) for s in (0, 1))
    torch.testing.assert_close(clipped.distance(x, y), PoincareBall(1.0).distance(x, y))


# -------------------------------------------------------------- projections


@looped(limit=["soft", "hard"])
def test_projection_stays_within_the_tangent_limit(limit):
    ball = PoincareBall(2.0, gain=1.0, limit=limit, max_tangent_norm=3.0)
    v = torch.randn(64, 8, dtype=torch.float64) * torch.logspace(-6, 6, 64).unsqueeze(1)
    length = math.sqrt(2.0) * ball.logmap0(ball.project(v)).norm(dim=-1)
    assert (length <= 3.0 + 1e-9).all()
    short = math.sqrt(2.0) * v.norm(dim=-1) < 0.03
    assert short.any()
    torch.testing.assert_close(
        ball.project(v)[short], ball.expmap0(v)[short], rtol=1e-3, atol=0
    )


def test_soft_limit_keeps_a_radial_slope_where_the_hard_one_has_none():
    """d/dt |shorten(t v)| far beyond the limit."""
    t = torch.tensor(100.0, dtype=torch.float64, requires_grad=True)
    v = torch.tensor([0.6, 0.8], dtype=torch.float64)
    soft = torch.autograd.grad(soften_norm(t * v, 4.0).norm(), t)[0]
    hard = torch.autograd.grad(clip_norm(t * v, 4.0).norm(), t)[0]
    assert soft.item() == pytest.approx((1 + (100 / 4) ** 2) ** -1.5)
    assert abs(hard.item()) < 1e-12


def test_default_gain_is_one_over_the_root_of_the_dimension():
    v = torch.randn(4, 25, dtype=torch.float64)
    torch.testing.assert_close(
        PoincareBall(1.0).project(v), PoincareBall(1.0, gain=0.2).project(v)
    )


def test_clip_projection_keeps_short_vectors_and_shortens_long_ones():
    ball = PoincareBall(4.0, projection="clip", max_radius=0.8)
    x = torch.tensor([[3.0, 4.0], [0.1, 0.0]])
    torch.testing.assert_close(ball.project(x), torch.tensor([[0.24, 0.32], [0.1, 0.0]]))
    assert ball.clipped(x).tolist() == [True, False]


@looped(limit=["soft", "hard"])
def test_limited_counts_vectors_beyond_the_limit(limit):
    ball = PoincareBall(4.0, gain=0.5, max_tangent_norm=2.0, limit=limit)
    # sqrt(c) * gain * |v| = |v|
    v = torch.tensor([[1.9, 0.0], [0.0, 2.1]])
    assert ball.clipped(v).tolist() == [False, True]
    assert ClippedUnitBall(1.0).clipped(v / 2).tolist() == [False, True]


# ---------------------------------------------------------------- precision


def relative_error(ours, truth):
    return ((ours.double() - truth) / truth).abs().max().item()


@looped(gap=[1e-1, 1e-2, 1e-3])
def test_float32_distance_of_close_pairs_holds_1e_5(gap):
    """192 dimensions, close pairs, up to near the rim: where the Moebius form
    errs by 1e-1 and arcosh(1 + .) loses everything."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 192, generator=generator)
    x = x / x.norm(dim=-1, keepdim=True) * torch.linspace(0.05, 0.9, 500).unsqueeze(1)
    step = torch.randn(500, 192, generator=generator)
    y = (
        x
        + gap * step / step.norm(dim=-1, keepdim=True) * (1 - x.norm(dim=-1, keepdim=True))
    ).float()
    for ball in (ClippedUnitBall(1.1), PoincareBall(1.0)):
        truth = ball.distance(x.double(), y.double())
        assert relative_error(ball.distance(x, y), truth) < 1e-5


def test_float32_pairwise_distance_at_and_near_coincidence():
    """In s*d: measured 6e-2 at coincidence and 1e-3 at d = 0.03."""
    ball, scale = ClippedUnitBall(3.0), 30.0
    generator = torch.Generator().manual_seed(0)
    x = ball.project(torch.randn(256, 192, generator=generator))
    same = ball.pairwise_distance(x, x).diagonal()
    assert scale * same.max() <= 8e-2
    step = torch.randn(256, 192, generator=generator)
    y = x + 0.01 * step / step.norm(dim=-1, keepdim=True)
    truth = ball.distance(x.double(), y.double())
    assert 0.02 < truth.mean() < 0.04
    near = ball.pairwise_distance(x, y).diagonal().double()
    assert scale * (near - truth).abs().max() <= 3e-3


@looped(length=[0.5, 2.0, 4.0], form=["pairwise_distance", "reference_pairwise_distance"])
def test_float32_pairwise_distance_of_the_true_ball_holds_near_the_rim(form, length):
    """sqrt(c)|v| = length: a float32 product would miss by 1.5 at 4."""
    ball = PoincareBall(3.0, gain=1.0, max_tangent_norm=8.0)
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(64, 192, generator=generator)
    x = expmap0(v / v.norm(dim=-1, keepdim=True) * length / 3**0.5, 3.0)
    distance = getattr(ball, form)
    assert distance(x, x).diagonal().max() <= 1e-4
    for gap in (1e-5, 1e-3):
        y = x + gap * torch.randn(64, 192, generator=generator) / 192**0.5 / length**4
        truth = ball.distance(x.double(), y.double())
        near = distance(x, y).diagonal()
        assert near.dtype == torch.float32
        torch.testing.assert_close(near.double(), truth, rtol=1e-4, atol=1e-4)
    z = torch.nn.Parameter(y.clone())
    distance(x, z).diagonal().sum().backward()
    w = torch.nn.Parameter(y.double())
    ball.distance(x.double(), w).sum().backward()
    assert (z.grad - w.grad).norm() < 1e-2 * w.grad.norm()


@looped(dtype=DTYPES, name=BALLS)
def test_pairwise_distance_equals_the_direct_one(name, dtype):
    ball = BALLS[name]
    x = ball.project(
        torch.randn(7, 12, dtype=dtype, generator=torch.Generator().manual_seed(1))
    )
    y = ball.project(
        torch.randn(5, 12, dtype=dtype, generator=torch.Generator().manual_seed(2))
    )
    pairwise = ball.pairwise_distance(x, y)
    assert pairwise.shape == (7, 5)
    torch.testing.assert_close(
        pairwise, ball.distance(x.unsqueeze(1), y), **tolerance(dtype)
    )


@looped(dtype=[torch.bfloat16, torch.float16], name=BALLS)
def test_half_precision_is_widened_even_under_autocast(name, dtype):
    ball = BALLS[name]
    x = torch.randn(6, 32).to(dtype)
    y = torch.randn(9, 32).to(dtype)
    truth = ball.pairwise_distance(ball.project(x.float()), ball.project(y.float()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = ball.pairwise_distance(ball.project(x), ball.project(y))
    assert ours.dtype == torch.float32
    assert torch.equal(ours, truth)


class Operations(TorchDispatchMode):
    """Records the name of every operation."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


@looped(name=BALLS)
def test_nothing_waits_for_a_value(name):
    """No operation that makes a GPU wait: what reads a value or counts."""
    x, y = (torch.randn(n, 8).requires_grad_() for n in (3, 5))
    ball = BALLS[name]
    with Operations() as operations:
        d = ball.pairwise_distance(ball.project(x), ball.project(y))
        d.backward(torch.rand(3, 5))
    waiting = {"_local_scalar_dense", "item", "nonzero", "equal", "is_nonzero", "unique"}
    assert not waiting & {*operations.seen}


# --------------------------------------------------------- the closed form


def gradients(form, ball, x, y, weights):
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    d = form(ball.project(x), ball.project(y))
    wanted = [x, y, *ball.parameters()]
    return [d.detach(), *torch.autograd.grad((weights * d).sum(), wanted)]


@looped(block=[1, 40, 2**19], dtype=DTYPES, name=BALLS)
def test_closed_form_is_the_reference_form(name, dtype, block, monkeypatch):
    """Values and gradients, with embeddings of many lengths, some of them at a
    center, in one block of columns or several."""
    monkeypatch.setattr(hamsb.nnet._closed_forms, "CPU_BLOCK", block)
    ball = BALLS[name].to(dtype)
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(12, 9, generator=generator, dtype=dtype)
    x *= torch.logspace(-2, 1, 12, dtype=dtype).unsqueeze(1)
    y = torch.cat([torch.randn(20, 9, generator=generator, dtype=dtype), x[:3]])
    weights = torch.randn(12, 23, generator=generator, dtype=dtype)
    # At a center it is rounding that decides on value and gradient.
    weights[torch.arange(3), 20 + torch.arange(3)] = 0
    closed = gradients(ball.pairwise_distance, ball, x, y, weights)
    reference = gradients(ball.reference_pairwise_distance, ball, x, y, weights)
    truth = reference
    if dtype == torch.float32:
        truth = gradients(
            ball.double().reference_pairwise_distance,
            ball,
            x.double(),
            y.double(),
            weights.double(),
        )
        ball.float()
    assert len(closed) == 3 + len(list(ball.parameters())) and closed[0].shape == (12, 23)
    for d in (closed[0], reference[0], truth[0]):
        d[weights == 0] = 0
    for a, b, exact in zip(closed, reference, truth, strict=True):
        largest = exact.abs().max()
        assert largest > 0
        allowed = (
            3 * (b - exact).abs().max()
            + (1e-6 if dtype == torch.float32 else 1e-10) * largest
        )
        assert (a - exact).abs().max() <= allowed


@looped(name=BALLS)
def test_pairwise_similarity_is_minus_the_distance(name):
    ball = BALLS[name]
    x, y = torch.randn(4, 6), torch.randn(5, 6)
    weights = torch.randn(4, 5)
    minus = gradients(ball.pairwise_similarity, ball, x, y, -weights)
    plus = gradients(ball.pairwise_distance, ball, x, y, weights)
    torch.testing.assert_close(-minus[0], plus[0])
    for a, b in zip(minus[1:], plus[1:], strict=True):
        torch.testing.assert_close(a, b)


def test_float32_gradients_are_as_precise_as_those_of_the_direct_difference():
    """Root mean square error against float64, over draws of speakers whose centers
    lie, for every other embedding, close to it."""
    ball = ClippedUnitBall(3.0)

    def gradients(distances, x, w, dtype):
        x, w = (v.to(dtype, copy=True).requires_grad_() for v in (x, w))
        d = distances(ball.project(x), ball.project(w))
        torch.nn.functional.cross_entropy(-30 * d, torch.arange(len(x))).backward()
        return x.grad, w.grad

    def direct(x, w):
        return ball.distance(x.unsqueeze(1), w)

    errors = {ball.pairwise_distance: [], direct: []}
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(64, 192, generator=generator)
        w = 0.03 * torch.randn(400, 192, generator=generator)
        near = x[::2] + 0.1 * torch.randn(32, 192, generator=generator)
        w[:64:2] = 0.57 * torch.nn.functional.normalize(near)
        truth = gradients(direct, x, w, torch.float64)
        for form, found in errors.items():
            pairs = zip(gradients(form, x, w, torch.float32), truth, strict=True)
            found.append([((a - b).norm() / b.norm()).item() for a, b in pairs])
    ours, theirs = (torch.tensor(found).mean(0) for found in errors.values())
    assert (ours < 1.1 * theirs).all(), (ours, theirs)


def test_closed_form_gradient_at_coincident_points_is_zero():
    """Axis points, whose squared distance the product gives as exactly 0."""
    x = torch.tensor([[0.5, 0.0], [0.0, 0.25]], dtype=torch.float64, requires_grad=True)
    d = PoincareBall(1.0).pairwise_distance(x, x.detach()).diagonal()
    assert (d == 0).all()
    assert (torch.autograd.grad(d.sum(), x)[0] == 0).all()


def test_closed_form_keeps_one_buffer_of_pairs():
    kept = []
    x, y = torch.randn(32, 4, requires_grad=True), torch.randn(64, 4, requires_grad=True)
    ball = ClippedUnitBall(3.0)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t.numel()) or t, lambda t: t
    ):
        ball.pairwise_similarity(ball.project(x), ball.project(y))
    assert sum(n >= 32 * 64 for n in kept) == 1


def test_closed_form_refuses_to_be_differentiated_twice():
    x = (0.1 * torch.randn(3, 4)).requires_grad_()
    ball, y = PoincareBall(1.0), 0.1 * torch.randn(5, 4)
    with pytest.raises(RuntimeError, match="twice.*reference_pairwise_distance"):
        torch.autograd.grad(ball.pairwise_distance(x, y).sum(), x, create_graph=True)
    (first,) = torch.autograd.grad(
        ball.reference_pairwise_distance(x, y).sum(), x, create_graph=True
    )
    first.sum().backward()


def test_backward_under_autocast_is_that_outside_of_it():
    ball = ClippedUnitBall(3.0)
    x, y = torch.randn(6, 32), torch.randn(9, 32)
    found = []
    for enabled in (False, True):
        a = x.clone().requires_grad_()
        d = ball.pairwise_distance(ball.project(a), ball.project(y))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            d.sum().backward()
        found.append(a.grad)
    assert torch.equal(*found)


# ---------------------------------------------------------------- gradients


@looped(name=BALLS)
def test_gradcheck(name):
    ball = BALLS[name]
    ball = PoincareBall(0.7, learnable=True).double() if name == "learnable" else ball
    generator = torch.Generator().manual_seed(3)
    x, w = (
        (
            scale * torch.randn(4, 6, generator=generator, dtype=torch.float64)
        ).requires_grad_()
        for scale in (1.0, 0.1)
    )
    parameters = tuple(ball.parameters())

    def pairwise(x, w, *_):
        return ball.pairwise_distance(ball.project(x), ball.project(w))

    def direct(x, w, *_):
        return ball.distance(ball.project(x), ball.project(w))

    assert torch.autograd.gradcheck(pairwise, (x, w, *parameters))
    assert torch.autograd.gradcheck(direct, (x, w, *parameters))


def sweep():
    """Rows x, w from 1e-15 to 1e+6: apart, coincident, against the origin, at
    it, on and off the rim."""
    generator = torch.Generator().manual_seed(4)
    x, w = torch.randn(2, 2, 192, generator=generator, dtype=torch.float64)
    origin, rows = torch.zeros_like(x), []
    for magnitude in (10.0**e for e in (-15, -10, -5, -2, 0, 2, 4, 6)):
        far = magnitude * x
        rows += [(far, 1e-3 * w), (far, magnitude * w), (far, far), (far, origin)]
    rows.append((origin, origin))
    unit = x / x.norm(dim=-1, keepdim=True)
    for radius in (1 - 1e-5, 1.0, 1 + 1e-5, 10.0):
        rows += [(radius * unit, -radius * unit), (radius * unit, radius * unit)]
    return torch.cat([a for a, _ in rows]), torch.cat([b for _, b in rows])


@looped(
    projected=[True, False],
    dtype=[torch.float32, torch.float64, torch.bfloat16],
    name=BALLS,
)
def test_values_and_gradients_are_finite(name, dtype, projected):
    ball = BALLS[name]
    x, w = (rows.to(dtype).requires_grad_() for rows in sweep())
    a, b = (ball.project(x), ball.project(w)) if projected else (x, w)
    for d in (ball.pairwise_distance(a, b), ball.distance(a, b)):
        assert d.isfinite().all() and (d >= 0).all()
        for gradient in torch.autograd.grad(d.sum(), (x, w), retain_graph=True):
            assert gradient.isfinite().all()


@looped(name=BALLS)
def test_gradient_at_coincident_points_is_zero(name):
    ball = BALLS[name]
    x = ball.project(torch.randn(3, 8, dtype=torch.float64)).detach().requires_grad_()
    d = ball.distance(x, x.detach())
    assert (d == 0).all()
    assert (torch.autograd.grad(d.sum(), x)[0] == 0).all()


@looped(name=BALLS)
def test_a_nan_is_not_hidden(name):
    ball = BALLS[name]
    x = torch.tensor([[math.nan, 0.1], [0.2, 0.3]])
    points, centers = ball.project(x), ball.project(torch.zeros(3, 2))
    assert ball.pairwise_distance(points, centers).isnan().tolist() == [
        [True] * 3,
        [False] * 3,
    ]
    assert ball.distance(points, centers[:2]).isnan().tolist() == [True, False]


@looped(exponent=[-30, -15, -5, 0, 3], function=[expmap0, logmap0])
def test_maps_at_the_origin_have_finite_gradients(function, exponent):
    v = (torch.ones(3) * 10.0**exponent).requires_grad_()
    out = function(v, 1.0)
    assert out.isfinite().all()
    assert torch.autograd.grad(out.sum(), v)[0].isfinite().all()


# ------------------------------------------------------ learning and options


def test_learnable_curvature_and_gain_start_as_given_and_stay_positive():
    ball = PoincareBall(2.0, gain=0.3, learnable=True)
    assert sorted(name for name, _ in ball.named_parameters()) == [
        "log_curvature",
        "log_gain",
    ]
    assert ball.curvature.item() == pytest.approx(2.0)
    assert ball.gain(7).item() == pytest.approx(0.3)
    x, y = torch.randn(2, 4, 7)
    fixed = PoincareBall(2.0, gain=0.3)
    torch.testing.assert_close(
        ball.distance(ball.project(x), ball.project(y)),
        fixed.distance(fixed.project(x), fixed.project(y)),
    )
    optimizer = torch.optim.Adam(ball.parameters(), lr=10.0)
    for sign in (1, -1):
        (sign * ball.distance(ball.project(x), ball.project(y)).sum()).backward()
        optimizer.step()
        assert ball.curvature > 0 and ball.gain(7) > 0


@looped(
    case=[
        (False, "expmap0", []),
        ("curvature", "expmap0", ["log_curvature"]),
        ("gain", "expmap0", ["log_gain"]),
        (True, "clip", ["log_curvature"]),
    ]
)
def test_learnable_names_what_is_learned(case):
    learnable, projection, names = case
    ball = PoincareBall(1.0, projection=projection, learnable=learnable)
    assert [name for name, _ in ball.named_parameters()] == names


@looped(curvature=[0.5, 0.0, -1.0, math.nan, math.inf])
def test_clipped_unit_ball_refuses_curvatures_below_one(curvature):
    with pytest.raises(ValueError, match=f"curvature={curvature}"):
        ClippedUnitBall(curvature)


@looped(
    case=[
        ({"curvature": 0.0}, "curvature=0.0"),
        ({"curvature": math.nan}, "curvature=nan"),
        ({"max_tangent_norm": -1.0}, "max_tangent_norm=-1.0"),
        ({"gain": 0.0}, "gain=0.0"),
        ({"max_radius": 1.0}, "max_radius=1.0"),
        ({"max_radius": "0.9"}, "max_radius='0.9': must lie in"),
        ({"curvature": "3"}, "curvature='3': must be a number"),
        ({"learnable": 1}, "learnable=1.*curvature"),
        ({"projection": "exp"}, "projection='exp'.*expmap0"),
        ({"limit": "none"}, "limit='none'.*soft"),
        ({"learnable": "scale"}, "learnable='scale'.*curvature"),
        ({"learnable": "gain", "projection": "clip"}, "has no gain"),
    ]
)
def test_poincare_ball_refuses_senseless_options(case):
    options, message = case
    with pytest.raises(ValueError, match=message):
        PoincareBall(**{"curvature": 1.0, **options})
