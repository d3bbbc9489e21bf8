"""Head and loss in one against the two one after the other."""

import math
from collections import defaultdict

import pytest
import torch
from speechbrain.nnet.losses import AdditiveAngularMargin, LogSoftmaxWrapper
from torch.nn.functional import cross_entropy
from torch.nn.parallel.distributed import _find_tensors
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hamsb import (
    AAMSoftmax,
    AMSoftmax,
    ClippedUnitBall,
    CosineClassifier,
    HAMSoftmax,
    HSoftmax,
    HyperbolicClassifier,
    PoincareBall,
    RAMSoftmax,
    Softmax,
    SphereFace2,
)
from hamsb.nnet import _closed_forms, _fused

B, C, D = 12, 101, 16
HEADS = {
    "cosine": lambda **o: CosineClassifier(D, C, 0.1, **o),
    "clipped": lambda **o: HyperbolicClassifier(D, C, ClippedUnitBall(3.0), 1.0, **o),
    "clipped at 1": lambda **o: HyperbolicClassifier(D, C, ClippedUnitBall(1.0), 1.0, **o),
    "one length": lambda **o: HyperbolicClassifier(
        D, C, ClippedUnitBall(3.0), center_norm=0.3, **o
    ),
    "learned ball": lambda **o: HyperbolicClassifier(
        D, C, PoincareBall(1.0, learnable=True), 0.1, batch_norm=True, **o
    ),
    "cosine of 3": lambda **o: CosineClassifier(D, C, 0.1, sub_centers=3, **o),
    "clipped at 1 of 2": lambda **o: HyperbolicClassifier(
        D, C, ClippedUnitBall(1.0), 1.0, sub_centers=2, **o
    ),
    "learned ball of 3": lambda **o: HyperbolicClassifier(
        D, C, PoincareBall(1.0, learnable=True), 0.1, True, sub_centers=3, **o
    ),
}
COSINE_LOSSES = [Softmax(5.0), AMSoftmax(0.2, 30.0), AAMSoftmax(0.3, 30.0), RAMSoftmax()]
COSINE_LOSSES += [AAMSoftmax(0.3, 30.0, top_k=5)]
DISTANCE_LOSSES = [HSoftmax(3.0), HAMSoftmax(0.3, 10.0)]
PAIRS = [
    (name, loss)
    for name in HEADS
    for loss in (
        COSINE_LOSSES[-2:]
        if name == "cosine of 3"
        else COSINE_LOSSES
        if name == "cosine"
        else DISTANCE_LOSSES
    )
]
NAMES = [f"{name}, {type(loss).__name__}" for name, loss in PAIRS]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of 17 classes, the last one of 16; however few there are."""
    monkeypatch.setattr(_closed_forms, "CPU_BLOCK", 17 * B)
    monkeypatch.setattr(_fused, "FEW", 0)


def head_of(name, fused, dtype):
    torch.manual_seed(1)
    return HEADS[name](fused=fused).to(dtype)


def batch(dtype=torch.float64, seed=2):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(B, 1, D, generator=generator, dtype=torch.float64).to(dtype)
    return x, torch.randint(C, (B, 1), generator=generator)


def results(head, loss, dtype, seed=2):
    """The loss and all gradients."""
    x, targets = batch(dtype, seed)
    value = loss(head(x.requires_grad_()), targets)
    value.backward()
    found = {name: each.grad for name, each in head.named_parameters()}
    return {"loss": value.detach(), "x": x.grad, **found}


def gap(ours, truth):
    return ((ours.double() - truth).abs().max() / truth.abs().max()).item()


@pytest.mark.parametrize("name, loss", PAIRS, ids=NAMES)
def test_equals_head_and_loss_apart(name, loss):
    plain = results(head_of(name, False, torch.float64), loss, torch.float64)
    fused = results(head_of(name, True, torch.float64), loss, torch.float64)
    assert plain.keys() == fused.keys()
    for key, value in plain.items():
        assert gap(fused[key], value) < 1e-12, key


@pytest.mark.parametrize("name, loss", PAIRS, ids=NAMES)
def test_float32_is_as_near_to_float64(name, loss):
    """Over several batches, since what a ball learns is a small difference of sums."""
    errors = defaultdict(lambda: torch.zeros(2))
    for seed in range(8):
        truth = results(head_of(name, False, torch.float64), loss, torch.float64, seed)
        for fused in (False, True):
            ours = results(head_of(name, fused, torch.float32), loss, torch.float32, seed)
            for key, value in truth.items():
                errors[key][int(fused)] += gap(ours[key], value)
    for key, (plain, fused) in errors.items():
        assert fused < 2.5 * plain + 1e-6, key


def test_a_loss_near_zero_keeps_its_digits():
    """Where the target's logit is far above the others': float32's 1 + 1e-9 is 1."""
    head = CosineClassifier(2, 2, fused=True)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    loss = Softmax(20.0)(head(torch.tensor([[1.0, 0.0]])), torch.tensor([0]))
    assert loss.item() == pytest.approx(2.0611536e-9, rel=1e-5)


def test_one_class_is_no_loss():
    head = CosineClassifier(D, 1, fused=True)
    loss = AMSoftmax()(head(torch.randn(3, 1, D)), torch.zeros(3, 1, dtype=torch.long))
    loss.backward()
    assert loss == 0 and not head.weight.grad.any()


def test_margin_and_scale_are_those_of_the_call():
    head, loss = head_of("clipped", True, torch.float64), HAMSoftmax(0.1, 10.0)
    x, targets = batch()
    lazy = head(x)
    before = loss(lazy, targets)
    loss.margin, loss.scale = 0.5, 5.0
    after = loss(lazy, targets)
    plain = HAMSoftmax(0.5, 5.0)(head_of("clipped", False, torch.float64)(x), targets)
    assert before != after
    torch.testing.assert_close(after, plain, rtol=1e-12, atol=0)


class Largest(TorchDispatchMode):
    """The size of the largest tensor that is made."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        sizes = [each.numel() for each in tree_leaves(out) if torch.is_tensor(each)]
        self.numel = max(self.numel, *sizes, 0)
        return out


@pytest.mark.parametrize("name", ["cosine", "cosine of 2", "clipped"])
def test_no_tensor_has_all_similarities(name):
    rows, classes = 64, 1000
    make = {
        "cosine": lambda fused: CosineClassifier(4, classes, fused=fused),
        "cosine of 2": lambda fused: CosineClassifier(
            4, classes // 2, sub_centers=2, fused=fused
        ),
        "clipped": lambda fused: HyperbolicClassifier(
            4, classes, ClippedUnitBall(3.0), fused=fused
        ),
    }[name]
    targets = torch.arange(rows)
    for fused, most in ((False, rows * classes), (True, 4 * (classes + rows))):
        head = make(fused)
        x = torch.randn(rows, 1, 4, requires_grad=True)
        loss = AMSoftmax()
        loss(head(x), targets)  # the first call looks at values
        with Largest() as largest:
            loss(head(x), targets).backward()
        assert largest.numel <= most
        assert fused or largest.numel == most


# ------------------------------------------------------------------ some classes


@pytest.mark.parametrize(
    "name, loss", [("cosine", RAMSoftmax()), ("learned ball", HAMSoftmax())]
)
def test_some_classes_are_those_alone(name, loss, monkeypatch):
    """Loss and gradients are those of a head that has the drawn speakers alone; the
    batch's own are always among them."""
    monkeypatch.setattr(_fused, "FEW", 2**22)
    heads = {fraction: head_of(name, True, torch.float64) for fraction in (0.2, 1.0)}
    x, targets = batch()
    for fraction, head in heads.items():
        head.class_fraction = fraction
    few = heads[0.2]
    centers = getattr(few, few.of_classes)
    torch.manual_seed(5)
    chosen, rows = _fused.drawn(torch.arange(C).unsqueeze(1), targets, 0.2)
    assert len(chosen.unique()) == 21 and torch.equal(chosen[rows.squeeze(1)], targets)
    torch.manual_seed(5)
    value = loss(few(x), targets)
    value.backward()
    whole = heads[1.0]
    alone = torch.nn.Parameter(centers.detach()[chosen.squeeze(1)])
    setattr(whole, whole.of_classes, alone)
    expected = loss(whole(x), rows)
    expected.backward()
    assert gap(value, expected) < 1e-12
    assert gap(centers.grad[chosen.squeeze(1)], alone.grad) < 1e-12
    assert (centers.grad != 0).any(1).sum() <= len(chosen)
    assert torch.is_tensor(few.eval()(x))


def test_targets_that_are_no_rows_stay_so():
    chosen, rows = _fused.drawn(
        torch.arange(C).unsqueeze(1), torch.tensor([[-3], [C], [7], [C - 1]]), 0.1
    )
    assert rows[0] == rows[1] == -1
    assert chosen[rows[2:].squeeze(1)].flatten().tolist() == [7, C - 1]


def test_some_classes_make_the_loss_too_small():
    """By some log(1 / fraction) where negatives weigh more than the target; the mean of
    the gradients points where that of the whole loss does."""
    head, loss = head_of("clipped", True, torch.float64), HAMSoftmax(0.3, 3.0)
    whole = results(head, loss, torch.float64)
    for fraction in (0.5, 0.2):
        head.class_fraction, found = fraction, []
        torch.manual_seed(0)
        for _ in range(60):
            head.zero_grad()
            found.append(results(head, loss, torch.float64))
        losses = torch.stack([each["loss"] for each in found])
        less = (whole["loss"] - losses.mean()) / -math.log(fraction)
        assert (losses < whole["loss"]).all() and 0.7 < less < 1.1
        mean = torch.stack([each["x"] for each in found]).mean(0).flatten()
        assert torch.cosine_similarity(mean, whole["x"].flatten(), 0) > 0.98


# ------------------------------------------------------------------ as a tensor


@pytest.mark.parametrize("name", ["cosine", "learned ball", "learned ball of 3"])
def test_to_everything_else_it_is_the_tensor(name):
    x, targets = batch()
    plain = head_of(name, False, torch.float64)(x)
    lazy = head_of(name, True, torch.float64)(x)
    assert isinstance(lazy, _fused.LazySimilarities)
    assert (lazy.shape, lazy.device) == (plain.shape, plain.device)
    assert (lazy.dim(), lazy.numel(), len(lazy)) == (3, B * C, B)
    for function in (
        lambda s: s.squeeze(1).argmax(1),
        lambda s: torch.max(s, dim=-1)[0],
        lambda s: s[:, 0],
        lambda s: cross_entropy(s.squeeze(1), targets.squeeze(1)),
    ):
        torch.testing.assert_close(function(lazy), function(plain))


def test_speechbrains_losses_take_it():
    loss = LogSoftmaxWrapper(AdditiveAngularMargin(0.2, 30.0))
    plain = results(head_of("cosine", False, torch.float32), loss, torch.float32)
    fused = results(head_of("cosine", True, torch.float32), loss, torch.float32)
    torch.testing.assert_close(fused, plain)


def test_compiled_it_is_the_tensor():
    """One graph with the loss, and its gradients."""
    torch._dynamo.reset()
    head, (x, targets) = head_of("clipped", True, torch.float64), batch()
    loss, found = HAMSoftmax(0.3, 10.0), []

    def step(x, targets):
        return loss(head(x), targets)

    for function in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        a = x.clone().requires_grad_()
        value = function(a, targets)
        found.append([value, *torch.autograd.grad(value, [a, head.centers])])
    torch.testing.assert_close(*found)


def test_it_is_handed_on_in_training_alone(monkeypatch):
    head, (x, _) = head_of("clipped", True, torch.float64), batch()
    with torch.no_grad():
        assert torch.is_tensor(head(x))
    assert torch.is_tensor(head.eval()(x))
    monkeypatch.setattr(_fused, "FEW", B * C)
    assert torch.is_tensor(head.train()(x))
    monkeypatch.setattr(_fused, "FEW", B * C - 1)
    assert not torch.is_tensor(head(x))


def test_several_processes_find_its_tensors():
    """What DistributedDataParallel takes for used, with find_unused_parameters."""
    for name in ("clipped", "learned ball of 3"):
        head, (x, _) = head_of(name, True, torch.float64), batch()
        found = _find_tensors(head(x))
        assert any(each is head.centers or each._base is head.centers for each in found)


def test_autocast_has_the_products_of_cosines_alone():
    x, targets = batch(torch.float32)
    for name, loss in (("cosine", AMSoftmax()), ("clipped", HAMSoftmax())):
        heads = [head_of(name, fused, torch.float32) for fused in (False, True)]
        full = loss(heads[1](x), targets)
        with torch.autocast("cpu", torch.bfloat16):
            plain, fused = (loss(head(x), targets) for head in heads)
        assert fused.dtype == torch.float32
        assert (fused == full) == (name == "clipped")
        torch.testing.assert_close(fused, plain, rtol=2e-3, atol=0)
        fused.backward()
        plain.backward()
        for ours, theirs in zip(heads[1].parameters(), heads[0].parameters(), strict=True):
            assert gap(ours.grad, theirs.grad.double()) < 0.02


@pytest.mark.parametrize(
    "loss",
    [AMSoftmax(top_k=5), AAMSoftmax(top_k=5), RAMSoftmax(top_k=5), SphereFace2()],
    ids=lambda loss: type(loss).__name__,
)
def test_losses_of_all_similarities_are_float32_under_autocast(loss):
    x, targets = batch(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        plain, fused = (
            loss(head_of("cosine", fused, torch.float32)(x), targets)
            for fused in (False, True)
        )
    assert fused.dtype == torch.float32
    torch.testing.assert_close(fused, plain)


@pytest.mark.parametrize("name", ["cosine", "cosine of 3"])
def test_autocast_under_torch_compile(name):
    x, targets = batch(torch.float32)
    for make in (AMSoftmax, lambda: AAMSoftmax(top_k=5)):
        head, loss = head_of(name, True, torch.float32), make()
        compiled = torch.compile(loss, backend="eager")
        with torch.autocast("cpu", torch.bfloat16):
            value = compiled(head(x), targets)
            eager = loss(head(x), targets)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, eager, rtol=2e-3, atol=0)
        value.backward()
        assert head.weight.grad.isfinite().all()


def test_operators_act_on_the_tensor():
    """Python looks for these in the class: a loss of one's own would work on few speakers
    and fail on many."""
    x, targets = batch()
    lazy, plain = (
        head_of("cosine", True, torch.float64)(x),
        head_of("cosine", False, torch.float64)(x),
    )
    for use in (
        lambda p: 30 * p - 1,
        lambda p: (1 - p) / 2 + p * p,
        lambda p: abs(-p) ** 2,
        lambda p: (p > 0) | (p <= -0.1),
        lambda p: (p == p) & (p != 0),
        lambda p: p @ torch.ones(C, 1, dtype=p.dtype),
    ):
        assert torch.equal(use(lazy), use(plain))
    scaled = 30 * lazy
    cross_entropy(scaled.squeeze(1), targets.squeeze(1)).backward()
    assert hash(lazy) is not None and lazy in {lazy}


# ------------------------------------------------------------------ mistakes


@pytest.mark.parametrize("target", [-1, C])
def test_targets_beyond_the_classes_are_named(target):
    loss, head = AMSoftmax(), head_of("cosine", True, torch.float64)
    x, targets = batch()
    loss(head(x), targets)
    targets[3] = target
    with pytest.raises(ValueError, match=rf"speaker indices lie in \[0, {C}\)"):
        loss(head(x), targets)


def test_a_loss_refuses_a_head_that_gives_something_else():
    x, targets = batch()
    with pytest.raises(ValueError, match="AAMSoftmax: expects cosines"):
        AAMSoftmax()(head_of("clipped", True, torch.float64)(100 * x), targets)


def test_differentiating_twice_is_refused():
    x, targets = batch()
    value = AMSoftmax()(head_of("cosine", True, torch.float64)(x.requires_grad_()), targets)
    with pytest.raises(RuntimeError, match="a head with fused=False"):
        torch.autograd.grad(value, x, create_graph=True)


@pytest.mark.parametrize("make", [CosineClassifier, HyperbolicClassifier])
def test_bad_settings_are_refused(make):
    ball = {"ball": ClippedUnitBall(3.0)} if make is HyperbolicClassifier else {}
    with pytest.raises(ValueError, match="fused=1"):
        make(D, C, fused=1, **ball)
    for value in (0, 1.5, True, "0.1"):
        with pytest.raises(ValueError, match=f"class_fraction={value}: must lie in"):
            make(D, C, class_fraction=value, **ball)


def test_a_compiled_loss_takes_a_fraction_too():
    """By itself, and together with its head; without generated code, which is slow."""
    head = CosineClassifier(8, 60, initial_scale=1.0, class_fraction=0.2)
    loss = AMSoftmax()
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(1))
    targets = torch.arange(16).unsqueeze(1)

    def of(function):
        torch.manual_seed(1)  # of the draw
        value = function()
        (gradient,) = torch.autograd.grad(value, head.weight)
        return torch.cat([value.reshape(1), gradient.flatten()])

    expected = of(lambda: loss(head(x), targets))
    alone = torch.compile(loss, backend="eager")
    together = torch.compile(lambda x: loss(head(x), targets), backend="eager")
    for compiled in (lambda: alone(head(x), targets), lambda: together(x)):
        torch.testing.assert_close(of(compiled), expected)


def test_a_loss_that_is_not_of_hamsb_takes_no_fraction_silently():
    head = CosineClassifier(8, 60, class_fraction=0.1)
    x, targets = torch.randn(4, 1, 8), torch.arange(4).unsqueeze(1)
    margin = LogSoftmaxWrapper(AdditiveAngularMargin(0.2, 30.0))
    for loss in (
        lambda: margin(head(x), targets),
        lambda: cross_entropy(head(x).squeeze(1), targets.squeeze(1)),
        lambda: head(x)[:, 0].sum(),
        lambda: torch.logsumexp(head(x), 2),
    ):
        with pytest.raises(ValueError, match="class_fraction=0.1: such a loss takes all"):
            loss()
    predictions = head(x)
    with torch.no_grad():  # an accuracy
        assert predictions.argmax(2).shape == (4, 1)
    assert margin(head.eval()(x), targets).isfinite()
