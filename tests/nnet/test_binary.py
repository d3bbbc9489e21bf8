"""SphereFace2 against a loop over its formula."""

import math

import pytest
import torch

from cases import looped
from hamsb import CosineClassifier, SphereFace2
from hamsb.nnet import _fused

CASES = [
    {},
    {"margin": 0.4, "scale": 5.0, "balance": 0.3, "exponent": 2.0},
    {"margin": 0.15, "margin_type": "A"},
    {"margin": 1.5, "scale": 4.0, "margin_type": "A", "exponent": 1.0},
]


def batch(seed, rows=6, classes=7, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    cosines = 2 * torch.rand(rows, 1, classes, generator=generator, dtype=dtype) - 1
    return cosines, torch.randint(classes, (rows, 1), generator=generator)


def naive(cosines, targets, bias, margin=0.2, scale=32.0, margin_type="C", balance=0.7,
          exponent=3.0):  # fmt: skip
    def g(z):
        half = (z + 1) / 2
        return 2 * math.copysign(abs(half) ** exponent, half) - 1

    total = 0.0
    for row, y in zip(cosines[:, 0].tolist(), targets[:, 0].tolist(), strict=True):
        for j, cosine in enumerate(row):
            theta = math.acos(cosine)
            if margin_type == "C":
                p, n = g(cosine) - margin, g(cosine) + margin
            else:
                far = theta + margin > math.pi
                p = g(
                    cosine - margin * math.sin(margin) if far else math.cos(theta + margin)
                )
                n = g(math.cos(theta - margin))
            if j == y:
                total += balance * math.log1p(math.exp(-scale * p - bias))
            else:
                total += (1 - balance) * math.log1p(math.exp(scale * n + bias))
    return total / len(cosines)


@looped(seed=range(3), options=CASES)
def test_equals_a_loop(seed, options):
    """Values and, by differences, the gradients of cosines and bias."""
    cosines, targets = batch(seed)
    loss = SphereFace2(**options).double()
    with torch.no_grad():
        loss.bias.fill_(0.3)
    given = cosines.clone().requires_grad_()
    value = loss(given, targets)
    assert value.item() == pytest.approx(naive(cosines, targets, 0.3, **options), rel=1e-9)
    value.backward()
    step = 1e-6 * torch.randn(cosines.shape, generator=torch.Generator().manual_seed(seed))
    step = step.to(cosines.dtype)
    for turn, rise, slope in ((step, 0, (given.grad * step).sum()),
                              (0 * step, 1e-6, loss.bias.grad * 1e-6)):  # fmt: skip
        change = naive(cosines + turn, targets, 0.3 + rise, **options) - naive(
            cosines - turn, targets, 0.3 - rise, **options
        )
        assert 2 * slope.item() == pytest.approx(change, rel=1e-3, abs=1e-9)


@looped(options=CASES)
def test_an_own_speaker_s_loss_falls_with_the_cosine(options):
    """Past the angle of pi too."""
    loss = SphereFace2(**options).double()
    cosines = torch.linspace(-0.999, 0.999, 201).double().reshape(-1, 1, 1)
    values = [loss(c[None], torch.zeros(1, 1).long()).item() for c in cosines]
    assert all(a > b for a, b in zip(values, values[1:]))


def test_it_compiles_to_one_graph_and_takes_a_fused_head(monkeypatch):
    torch._dynamo.reset()
    torch.manual_seed(0)
    head, loss = CosineClassifier(6, 11, 0.1, fused=True), SphereFace2(0.15, 8.0, "A")
    x, targets = torch.randn(8, 1, 6), torch.randint(11, (8, 1))

    def step(x, targets):
        return loss(head(x), targets)

    found = []
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for few, function in ((1000, step), (0, step), (1000, compiled)):
        monkeypatch.setattr(_fused, "FEW", few)
        a = x.clone().requires_grad_()
        value = function(a, targets)
        found.append([value, *torch.autograd.grad(value, [a, head.weight, loss.bias])])
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])


def test_what_does_not_fit_is_a_value_error():
    for options, message in (
        ({"margin": 3.2, "margin_type": "A"}, "angle"),
        ({"margin_type": "M"}, "margin_type='M': must be one of"),
        ({"balance": 1.0}, r"balance=1\.0: must lie in \(0, 1\)"),
        ({"exponent": 0}, "exponent"),
        ({"margin": 40.0}, "are the two in each other's place"),
    ):
        with pytest.raises(ValueError, match=message):
            SphereFace2(**options)
    loss, (cosines, targets) = SphereFace2(), batch(0, dtype=torch.float32)
    with pytest.raises(ValueError, match="SphereFace2: expects cosines"):
        loss(cosines - 40, targets)
    loss(cosines, targets)
    with pytest.raises(ValueError, match="between 7 and 7"):
        loss(cosines, 0 * targets + 7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert loss(cosines.bfloat16(), targets).dtype == torch.float32
    before = loss(cosines, targets)
    loss.margin = 0.4
    assert loss(cosines, targets) > before
    assert list(loss.state_dict()) == ["bias"]
