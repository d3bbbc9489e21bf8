"""Heads and losses under torch.compile: one graph, for batches of any size, that gives what
the eager ones give however the compiler rounds; and how many operations a GPU is given."""

import pytest
import torch
from torch import fx
from torch._dynamo.backends.common import aot_autograd
from torch._functorch._aot_autograd.utils import make_boxed_func
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from hamsb import (
    HSCL,
    AAMSoftmax,
    AMSoftmax,
    ClippedUnitBall,
    CosineClassifier,
    HAMSoftmax,
    HyperbolicClassifier,
    HyperbolicSimilarity,
    MoCo,
    NTXent,
    PoincareBall,
    RAMSoftmax,
    Softmax,
    SupCon,
)
from hamsb.nnet import _closed_forms

DIMENSION, CLASSES, BATCHES = 16, 11, (8, 13, 5)
HEADS = {
    "cosine": lambda: CosineClassifier(DIMENSION, CLASSES),
    "clipped": lambda: HyperbolicClassifier(DIMENSION, CLASSES, ClippedUnitBall(3.0)),
    "normalized": lambda: HyperbolicClassifier(
        DIMENSION, CLASSES, ClippedUnitBall(3.0), batch_norm=True, center_norm=0.3
    ),
    "poincare": lambda: HyperbolicClassifier(
        DIMENSION, CLASSES, PoincareBall(1.0, learnable=True)
    ),
    "sub-centers": lambda: CosineClassifier(DIMENSION, CLASSES, sub_centers=3),
    "linear": lambda: torch.nn.Linear(DIMENSION, CLASSES),
}
PAIRS = [
    *(("cosine", loss) for loss in (AAMSoftmax, RAMSoftmax)),
    ("sub-centers", AAMSoftmax),
    ("clipped", HAMSoftmax),
    ("normalized", HAMSoftmax),
    ("poincare", HAMSoftmax),
    ("linear", Softmax),
]


class Rounding(fx.Interpreter):
    """Comparisons of two tensors in which the second came out one step of float32 higher
    and lower, as where a compiler computes a value twice, in two kernels."""

    def __init__(self, graph, up):
        super().__init__(graph)
        self.towards = float("inf") if up else -float("inf")

    def call_function(self, target, args, kwargs):
        compares = getattr(target, "overloadpacket", None) in COMPARISONS
        if compares and isinstance(args[1], torch.Tensor) and args[1].is_floating_point():
            args = args[0], torch.nextafter(args[1], torch.full_like(args[1], self.towards))
        return super().call_function(target, args, kwargs)


COMPARISONS = {
    getattr(torch.ops.aten, name) for name in ("lt", "le", "gt", "ge", "eq", "ne")
}


def rounding(up):
    """A backend of torch.compile that runs the graphs with `Rounding`."""
    return aot_autograd(
        fw_compiler=lambda graph, _: make_boxed_func(Rounding(graph, up).run)
    )


def similarities_and_targets(expects):
    generator = torch.Generator().manual_seed(0)
    x = 2 * torch.rand(12, CLASSES, generator=generator) - 1
    x = x if "cosine" in expects else x - 1
    return x, torch.randint(CLASSES, (12, 1), generator=generator)


@pytest.mark.parametrize("up", [True, False])
@pytest.mark.parametrize("kind", [AAMSoftmax, RAMSoftmax])
def test_no_value_is_compared_with_itself(kind, up):
    """A compiler that computes the target's similarity twice does not make it one of
    those below itself, nor one that was clamped."""
    torch._dynamo.reset()
    loss = kind()

    def closed(x, targets):
        return loss(x, targets)

    def plain(x, targets):
        logits = loss.logits(x, targets.squeeze(1))
        return torch.nn.functional.cross_entropy(logits, targets.squeeze(1))

    x, targets = similarities_and_targets(loss.expects)
    for function in (closed, plain):
        found = []
        for call in (function, torch.compile(function, backend=rounding(up))):
            given = x.clone().requires_grad_()
            value = call(given, targets)
            found.append([value.detach(), *torch.autograd.grad(value, given)])
        for eager, compiled in zip(*found, strict=True):
            torch.testing.assert_close(compiled, eager)


def assert_one_graph(function, batch, backend="eager"):
    """For batches of several sizes."""
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=backend)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for size in BATCHES:
            assert compiled(*batch(size)).isfinite()


@pytest.mark.parametrize("head, kind", PAIRS)
def test_a_new_batch_size_compiles_nothing(head, kind):
    module, loss = HEADS[head](), kind()
    assert_one_graph(
        lambda x, targets: loss(module(x), targets),
        lambda size: (
            torch.randn(size, 1, DIMENSION, requires_grad=True),
            torch.randint(CLASSES, (size, 1)),
        ),
        backend="aot_eager" if kind is HAMSoftmax and head == "clipped" else "eager",
    )


CONTRASTIVE = {
    "SupCon": SupCon,
    "HSCL": lambda: HSCL(similarity=HyperbolicSimilarity(ClippedUnitBall(3.0))),
    "NT-Xent": lambda: NTXent(AMSoftmax(0.1), symmetric=True),
    "MoCo": lambda: MoCo(AMSoftmax(0.1), size=24, dimension=DIMENSION),
}


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_nor_do_contrastive_losses(name):
    cost = CONTRASTIVE[name]()

    def function(x, other):
        if name == "MoCo":
            return cost([x], [other])
        if name == "NT-Xent":
            return cost(x, other)
        return cost(x, torch.arange(x.shape[0], device=x.device) // 2)

    assert_one_graph(
        function,
        lambda size: torch.randn(2, size, 1, DIMENSION, requires_grad=True).unbind(),
    )


class Operations(TorchDispatchMode):
    """Counts the operations of torch, views included."""

    def __init__(self):
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.number += function.namespace == "aten"
        return function(*args, **(kwargs or {}))


def operations(batch, classes):
    """Of one forward and backward pass, computing nothing."""
    with FakeTensorMode():
        head = HyperbolicClassifier(192, classes, ClippedUnitBall(3.0))
        x = torch.randn(batch, 1, 192, requires_grad=True)
        with Operations() as counted:
            HAMSoftmax()(head(x), torch.zeros(batch, 1, dtype=torch.long)).backward()
    return counted.number


def test_a_gpu_is_given_few_operations(monkeypatch):
    """As many at 512 x 100,000 as in one block; on a CPU, blocks that fit its cache."""
    assert operations(256, 5994) > 1.5 * operations(32, 1211)
    monkeypatch.setattr(_closed_forms, "CPU_BLOCK", _closed_forms.GPU_BLOCK)
    assert operations(512, 100_000) == operations(32, 1211)
    # A million speakers' buffers do not all have to fit at once.
    assert 3 * operations(32, 1211) < operations(512, 1_000_000) < 20 * operations(32, 1211)


def test_blocks_by_device():
    rows, size = 64, _closed_forms.CPU_BLOCK // 16
    for device, expected in (("cpu", 4), ("cuda", 1), ("mps", 1), ("xpu", 1)):
        assert len(_closed_forms.blocks(rows, size, torch.device(device))) == expected
    parts = _closed_forms.blocks(5, 2 * _closed_forms.GPU_BLOCK, torch.device("cuda"))
    assert [part.stop - part.start for part in parts] == [1] * 5
