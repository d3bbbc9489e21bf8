"""The losses against SpeechBrain's, the authors' numbers and naive loops."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from speechbrain.nnet.losses import (
    AdditiveAngularMargin,
    AngularMargin,
    LogSoftmaxWrapper,
)
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

import hamsb.nnet._closed_forms
from cases import looped
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
)

LOSSES = {
    "softmax": Softmax(scale=7.0),
    "am": AMSoftmax(0.2, 30.0),
    "aam": AAMSoftmax(0.2, 30.0),
    "aam_wide": AAMSoftmax(2.0, 5.0),
    "ram": RAMSoftmax(0.2, 10.0),
    "ham": HAMSoftmax(0.35, 15.0),
    "aam_top": AAMSoftmax(0.2, 10.0, top_k=3),
    "ram_top": RAMSoftmax(0.2, 10.0, top_k=2, top_k_margin=0.3),
    "ham_top": HAMSoftmax(0.2, 5.0, top_k=1, top_k_margin=0.5),
}
RELEASED = Path(__file__).parents[1] / "data" / "released_ram_softmax.npz"


def batch(seed, rows=12, classes=7, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    cosines = 2 * torch.rand(rows, 1, classes, generator=generator, dtype=dtype) - 1
    targets = torch.randint(classes, (rows, 1), generator=generator)
    return cosines.requires_grad_(), targets


def batch_for(loss, seed, **options):
    """Cosines, or minus distances where the loss takes these alone."""
    similarities, targets = batch(seed, **options)
    if loss.expects == ("distance",):
        similarities = (similarities.detach() - 1).requires_grad_()
    return similarities, targets


def value_and_gradient(loss, similarities, targets):
    value = loss(similarities, targets)
    return value, torch.autograd.grad(value, similarities)[0]


def assert_same(ours, theirs, similarities, targets, **close):
    for a, b in zip(
        value_and_gradient(ours, similarities, targets),
        value_and_gradient(theirs, similarities, targets),
        strict=True,
    ):
        torch.testing.assert_close(a, b, **close)


def naive(name, margin, scale, top_k=0, top_k_margin=0.0):
    """Each loss as a loop over its printed formula."""

    def other_logit(s):
        if name == "aam":
            return scale * math.cos(math.acos(s) - top_k_margin)
        return scale * (s + top_k_margin)

    def target_logit(s):
        if name == "aam":
            theta = math.acos(s)
            if theta + margin < math.pi:
                return scale * math.cos(theta + margin)
            return scale * (s - margin * math.sin(math.pi - margin))
        return scale * (s - margin)

    def loss(similarities, targets):
        total = 0.0
        for row, y in zip(similarities[:, 0].tolist(), targets[:, 0].tolist(), strict=True):
            z = [scale * s for s in row]
            others = sorted((j for j in range(len(row)) if j != y), key=lambda j: -row[j])
            for j in others[:top_k]:
                z[j] = other_logit(row[j])
            z[y] = target_logit(row[y])
            if name == "ram":
                z = [0.0 if j != y and z[j] < z[y] else z[j] for j in range(len(z))]
            highest = max(z)
            total += highest + math.log(sum(math.exp(v - highest) for v in z)) - z[y]
        return total / len(similarities)

    return loss


@looped(
    seed=range(5),
    case=[
        ("softmax", Softmax(), 0.0, 1.0),
        ("softmax", Softmax(scale=30.0), 0.0, 30.0),
        ("softmax", HSoftmax(), 0.0, 30.0),
        ("am", AMSoftmax(0.2, 30.0), 0.2, 30.0),
        ("am", HAMSoftmax(0.35, 15.0), 0.35, 15.0),
        ("aam", AAMSoftmax(0.2, 30.0), 0.2, 30.0),
        ("aam", AAMSoftmax(2.0, 5.0), 2.0, 5.0),
        ("ram", RAMSoftmax(0.2, 30.0), 0.2, 30.0),
        ("ram", RAMSoftmax(0.0, 10.0), 0.0, 10.0),
        ("am", AMSoftmax(0.2, 30.0, top_k=5), 0.2, 30.0, 5, 0.06),
        ("aam", AAMSoftmax(0.2, 30.0, 3, 0.1), 0.2, 30.0, 3, 0.1),
        ("am", HAMSoftmax(0.2, 3.0, 9, 0.5), 0.2, 3.0, 9, 0.5),  # more than there are
        ("ram", RAMSoftmax(0.2, 9.0, 2, 0.3), 0.2, 9.0, 2, 0.3),
    ],
)
def test_equals_the_naive_loop(case, seed):
    """Values and, by differences, gradients."""
    name, ours, *settings = case
    cosines, targets = batch_for(ours, seed, rows=5)
    value, gradient = value_and_gradient(ours, cosines, targets)
    theirs = naive(name, *settings)
    assert value.item() == pytest.approx(theirs(cosines, targets), rel=1e-9)
    turn = torch.randn(cosines.shape, generator=torch.Generator().manual_seed(seed)) * 1e-6
    turn = turn.to(cosines.dtype)
    change = theirs(cosines + turn, targets) - theirs(cosines - turn, targets)
    assert (2 * gradient * turn).sum().item() == pytest.approx(change, rel=1e-3, abs=1e-9)


@looped(kind=[AMSoftmax, AAMSoftmax])
def test_the_nearest_others_are_none_that_are_masked(kind):
    """As NT-Xent masks candidates, fewer than top_k of which may be left."""
    cosines, targets = batch(3, classes=4)
    loss = kind(0.2, 10.0, top_k=5)
    masked = torch.cat([cosines, torch.full((len(targets), 1, 3), -torch.inf)], 2)
    torch.testing.assert_close(loss(masked, targets), loss(cosines, targets))
    (gradient,) = torch.autograd.grad(loss(masked, targets), cosines)
    assert gradient.isfinite().all()


@looped(block=[1, 30, 2**19], dtype=[torch.float32, torch.float64], name=LOSSES)
def test_closed_form_is_cross_entropy_of_the_logits(name, dtype, block, monkeypatch):
    """In one block of rows or several."""
    monkeypatch.setattr(hamsb.nnet._closed_forms, "CPU_BLOCK", block)
    loss = LOSSES[name]
    cosines, targets = batch_for(loss, 7, dtype=dtype)

    def reference(similarities, targets):
        rows, y = similarities.squeeze(1), targets.squeeze(1)
        return cross_entropy(loss.logits(rows, y), y)

    close = (
        {"rtol": 1e-10, "atol": 1e-12}
        if dtype == torch.float64
        else {"rtol": 1e-4, "atol": 1e-6}
    )
    assert_same(loss, reference, cosines, targets, **close)


@looped(name=LOSSES)
def test_gradcheck(name):
    cosines, targets = batch_for(LOSSES[name], 8, rows=5, classes=4)
    assert torch.autograd.gradcheck(lambda s: LOSSES[name](s, targets), cosines)


@looped(name=LOSSES)
def test_penalize_gives_the_derivative_of_its_value(name):
    similarity = torch.linspace(-1.2, 1.2, 41, dtype=torch.float64, requires_grad=True)
    value, slope = LOSSES[name].penalize(similarity)
    (derivative,) = torch.autograd.grad(value.sum(), similarity)
    torch.testing.assert_close(slope, derivative)


def test_head_and_loss_keep_one_buffer_of_predictions():
    kept = set()
    x, targets = torch.randn(32, 1, 4, requires_grad=True), torch.randint(64, (32, 1))
    head, loss = HyperbolicClassifier(4, 64, ClippedUnitBall(3.0)), HAMSoftmax()
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: t.numel() >= 32 * 64 and kept.add(t.data_ptr()) or t, lambda t: t
    ):
        loss(head(x), targets)
    assert len(kept) == 1


def test_differentiating_twice_is_refused():
    cosines, targets = batch(9)
    value = AMSoftmax()(cosines, targets)
    with pytest.raises(RuntimeError, match="twice.*logits"):
        torch.autograd.grad(value, cosines, create_graph=True)


@pytest.mark.parametrize("name", LOSSES)
def test_head_and_loss_compile_to_one_graph(name):
    """Values and gradients of the compiled ones are those of the eager ones."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    head, centers = CosineClassifier(6, 11), "weight"
    if "cosine" not in LOSSES[name].expects:
        head, centers = HyperbolicClassifier(6, 11, ClippedUnitBall(3.0)), "centers"
    x, targets = torch.randn(8, 1, 6), torch.randint(11, (8, 1))

    def step(x, targets):
        return LOSSES[name](head(x), targets)

    found = []
    for function in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        a = x.clone().requires_grad_()
        value = function(a, targets)
        found.append([value, *torch.autograd.grad(value, [a, getattr(head, centers)])])
    assert found[0][1].abs().max() > 0
    for eager, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, eager)


@looped(seed=range(3), case=[(0.0, 1.0), (0.2, 30.0), (0.5, 64.0)])
def test_am_and_aam_equal_speechbrains(case, seed):
    margin, scale = case
    cosines, targets = batch(seed, dtype=torch.float32)
    close = {"rtol": 1e-5, "atol": 1e-6}
    theirs = LogSoftmaxWrapper(AngularMargin(margin, scale))
    assert_same(AMSoftmax(margin, scale), theirs, cosines, targets, **close)
    theirs = LogSoftmaxWrapper(AdditiveAngularMargin(margin, scale))
    assert_same(AAMSoftmax(margin, scale), theirs, cosines, targets, **close)


def test_aam_has_finite_gradients_at_the_ends_of_the_cosine():
    cosines = torch.tensor([[[1.0, -1.0]], [[-1.0, 1.0]], [[1.0000001, 0.0]]])
    cosines.requires_grad_()
    value, gradient = value_and_gradient(AAMSoftmax(), cosines, torch.zeros(3, 1).long())
    assert value.isfinite() and gradient.isfinite().all()


def test_speechbrains_wrapper_on_our_head_is_the_same_loss():
    head = HyperbolicClassifier(16, 7, ClippedUnitBall(3.0))
    x = torch.randn(9, 1, 16, requires_grad=True)
    targets = torch.randint(7, (9, 1))
    theirs = LogSoftmaxWrapper(AngularMargin(0.2, 30.0))
    for ours in (HAMSoftmax(0.2, 30.0), AMSoftmax(0.2, 30.0)):
        a, b = (
            torch.autograd.grad(loss(head(x), targets), x)[0] for loss in (ours, theirs)
        )
        torch.testing.assert_close(ours(head(x), targets), theirs(head(x), targets))
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_ram_reproduces_the_released_numbers():
    released = np.load(RELEASED)
    cosines = torch.tensor(released["cosines"], dtype=torch.float64).unsqueeze(1)
    cosines.requires_grad_()
    targets = torch.tensor(released["targets"]).unsqueeze(1)
    ours = RAMSoftmax(margin=0.2, scale=30.0)
    each = torch.stack(
        [
            ours(c.unsqueeze(0), y.unsqueeze(0))
            for c, y in zip(cosines, targets, strict=True)
        ]
    )
    np.testing.assert_allclose(each.detach(), released["loss"], rtol=1e-6, atol=1e-12)
    _, gradient = value_and_gradient(ours, cosines, targets)
    np.testing.assert_allclose(
        gradient.squeeze(1), released["grad_cosines"], rtol=1e-6, atol=1e-12
    )


def test_published_names_are_the_same_mathematics():
    cosines, targets = batch_for(HSoftmax(), 1)
    assert_same(HSoftmax(20.0), Softmax(20.0), cosines, targets)
    assert_same(HAMSoftmax(0.2, 20.0), AMSoftmax(0.2, 20.0), cosines, targets)
    assert_same(HAMSoftmax(0.0, 20.0), HSoftmax(20.0), cosines, targets)


def test_softmax_on_a_linear_head_is_cross_entropy():
    cosines, targets = batch(2)
    theirs = nn.functional.cross_entropy(cosines.squeeze(1), targets.squeeze(1))
    torch.testing.assert_close(Softmax()(cosines, targets), theirs)


@looped(kind=[AMSoftmax, AAMSoftmax, RAMSoftmax, HAMSoftmax])
def test_margin_may_change_during_training(kind):
    cosines, targets = batch_for(kind(), 3)
    scheduled = kind(margin=0.0, scale=30.0)
    before = scheduled(cosines, targets)
    scheduled.margin = 0.3
    after = scheduled(cosines, targets)
    assert after > before
    torch.testing.assert_close(after, kind(margin=0.3, scale=30.0)(cosines, targets))


@looped(kind=[Softmax, HSoftmax, AMSoftmax, AAMSoftmax, RAMSoftmax])
def test_length_shape_and_dtype_are_as_speechbrain_gives_them(kind):
    loss = kind()
    cosines, targets = batch_for(loss, 4, dtype=torch.float32)
    expected = loss(cosines, targets)
    assert expected.dim() == 0
    assert loss(cosines, targets, length=torch.ones(len(targets))) == expected
    assert loss(cosines.squeeze(1), targets.squeeze(1)) == expected
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = loss(cosines.bfloat16(), targets.int())
    assert low.dtype == torch.float32
    assert low.item() == pytest.approx(expected.item(), rel=0.05)


@looped(
    case=[
        (torch.zeros(4, 2, 5), torch.zeros(4, 1).long(), r"\[4, 2, 5\].*\[B, 1, C\]"),
        (torch.zeros(5), torch.zeros(1, 1).long(), r"\[5\].*\[B, 1, C\]"),
        (torch.zeros(4, 1, 5), torch.zeros(3, 1).long(), r"\[3, 1\].*\[4, 1\]"),
        (torch.zeros(4, 1, 5), torch.zeros(4, 5).long(), r"\[4, 5\].*\[4, 1\]"),
        (torch.zeros(4, 1, 5), torch.zeros(4, 1), "float32.*indices"),
    ]
)
def test_shapes_that_do_not_fit_are_value_errors(case):
    predictions, targets, message = case
    for loss in (Softmax(), AMSoftmax(), RAMSoftmax()):
        with pytest.raises(ValueError, match=message):
            loss(predictions, targets)


def test_a_mistake_is_never_a_type_error_that_speechbrain_would_swallow():
    """LogSoftmaxWrapper retries without targets on a TypeError, which would
    silently drop the margin."""
    for options in (
        {"margin": -0.1},
        {"scale": 0.0},
        {"scale": math.nan},
        {"margin": math.inf},
        {"margin": "abc"},
        {"margin": None},
        {"margin": True},
        {"margin": torch.tensor(0.2)},
        {"scale": "30"},
        {"scale": [30.0]},
    ):
        with pytest.raises(ValueError, match="margin|scale"):
            HAMSoftmax(**options)
    with pytest.raises(ValueError, match="angle"):
        AAMSoftmax(margin=3.2)
    with pytest.raises(ValueError, match=r"margin=2\.34: must be an angle in \[0, 2\.33\]"):
        AAMSoftmax(margin=2.34)
    for options in ({"top_k": -1}, {"top_k": 1.5}, {"top_k_margin": -0.1}):
        with pytest.raises(ValueError, match=next(iter(options))):
            AAMSoftmax(**options)


# ----------------------------------------------------- what is seen in the first call


class Operations(TorchDispatchMode):
    """The names of all operations."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.add(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


def predictions_of(head, classes=100):
    torch.manual_seed(0)
    heads = {
        "cosines": lambda: CosineClassifier(16, classes),
        "clipped": lambda: HyperbolicClassifier(16, classes, ClippedUnitBall(3.0)),
        "poincare": lambda: HyperbolicClassifier(16, classes, PoincareBall(1.0)),
        "logits": lambda: nn.Linear(16, classes),
    }
    x = torch.randn(8, 1, 16) * (0.5 if head == "poincare" else 5)
    return heads[head]()(x).detach()


@looped(
    kind=[Softmax, HSoftmax, AMSoftmax, AAMSoftmax, RAMSoftmax, HAMSoftmax],
    head=["cosines", "clipped", "poincare", "logits"],
)
def test_a_loss_refuses_a_head_that_gives_something_else(kind, head):
    predictions, targets = predictions_of(head), torch.zeros(8, 1).long()
    gives = {"cosines": "cosine", "logits": "logits"}.get(head, "distance")
    if gives in kind.expects:
        assert kind()(predictions, targets).isfinite()
        return
    loss = kind()
    for _ in range(2):  # a call that was refused was not the first
        with pytest.raises(ValueError, match=f"{kind.__name__}: expects .* head such as"):
            loss(predictions, targets)


@looped(kind=[HSoftmax, AAMSoftmax, RAMSoftmax, HAMSoftmax])
def test_later_calls_read_no_value(kind):
    loss, (fitting, targets) = kind(), batch_for(kind(), 5, dtype=torch.float32)
    with Operations() as first:
        loss(fitting, targets)
    reading = {"_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero"}
    assert first.seen & reading
    with Operations() as later:
        loss(fitting, targets).backward()
        value = loss(fitting + 7, targets)
    assert value.isfinite()
    assert not later.seen & reading and "mul" in later.seen
    assert loss.state_dict() == {}


def test_no_value_is_read_under_compile():
    """Nor is a graph broken where the first call is of the compiled one."""
    torch._dynamo.reset()
    loss, targets = AAMSoftmax(), torch.zeros(8, 1).long()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert compiled(predictions_of("clipped"), targets).isfinite()
    with pytest.raises(ValueError, match="expects cosines"):
        loss(predictions_of("clipped"), targets)


@looped(case=[([0, 5], "between 0 and 5.*5 classes"), ([-1, 4], "between -1 and 4")])
def test_targets_beyond_the_classes_are_named(case):
    targets, message = torch.tensor(case[0]).unsqueeze(1), case[1]
    loss, predictions = AMSoftmax(), torch.zeros(2, 1, 5)
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            loss(predictions, targets)
    loss(predictions, torch.tensor([[0], [4]]))
    with pytest.raises(ValueError, match=message):
        loss(predictions, targets)


def test_margin_and_scale_in_each_others_place():
    for kind in (AMSoftmax, RAMSoftmax, HAMSoftmax):
        with pytest.raises(ValueError, match=r"margin=30: .* scale=0\.2; are the two"):
            kind(30, 0.2)
    loss = HAMSoftmax(0.2, 30.0)
    with pytest.raises(ValueError, match="margin=31: .*scale=30"):
        loss.margin = 31
    with pytest.raises(ValueError, match=r"margin=0\.2: .*scale=0\.1"):
        loss.scale = 0.1
    assert (loss.margin, loss.scale) == (0.2, 30.0)
    AMSoftmax(1.0, 1.0)
