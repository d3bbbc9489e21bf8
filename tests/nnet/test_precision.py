"""Products in full precision, and switches that stay as they were."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import hamsb
from hamsb.nnet.contrastive import uniformity
from hamsb.nnet.precision import full_matmul, product


@pytest.fixture
def switches():
    """What torch's switches say, each for itself; they are put back."""
    matmul = torch.backends.cuda.matmul

    def read():
        said = []
        for switch in (
            torch.get_float32_matmul_precision,
            lambda: matmul.allow_tf32,
            lambda: getattr(matmul, "fp32_precision", None),
        ):
            try:
                said.append(switch())
            except RuntimeError:  # the older switches, where the newer were set alone
                said.append(None)
        return said

    yield read
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("word", ["highest", "high", "medium"])
def test_the_word_of_torch_comes_back(switches, word):
    torch.set_float32_matmul_precision(word)
    before = switches()
    with full_matmul():
        assert not torch.backends.cuda.matmul.allow_tf32
    assert switches() == before and before[0] == word


def test_a_switch_of_its_own_comes_back(switches):
    torch.backends.cuda.matmul.allow_tf32 = True
    before = switches()
    with full_matmul():
        assert not torch.backends.cuda.matmul.allow_tf32
    assert switches() == before and before[1]


class Products(TorchDispatchMode):
    """Whether TensorFloat-32 was on in each product of matrices in float32."""

    names = {"mm", "bmm", "addmm", "baddbmm", "mv", "addmv", "dot"}

    def __init__(self):
        super().__init__()
        self.allowed = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket.__name__ in self.names:
            if args[-1].dtype == torch.float32:
                self.allowed.append(torch.backends.cuda.matmul.allow_tf32)
        return function(*args, **(kwargs or {}))


BALLS = {
    "clipped": lambda: hamsb.ClippedUnitBall(3.0),
    "clipped, c=1": lambda: hamsb.ClippedUnitBall(1.0),
    "learned": lambda: hamsb.PoincareBall(1.0, learnable=True),
    "clip": lambda: hamsb.PoincareBall(2.0, projection="clip"),
}


def head_and_loss(ball, x, targets, **options):
    head = hamsb.HyperbolicClassifier(8, 5, ball(), **options)
    return hamsb.HAMSoftmax(0.2, 30.0)(head(x), targets)


def of_reference(ball, x, targets):
    """Differentiated twice."""
    points = ball().project(x.squeeze(1))
    distances = ball().reference_pairwise_distance(points, points.flip(0))
    (gradient,) = torch.autograd.grad(distances.sum(), x, create_graph=True)
    return gradient.square().sum()


def of_pairs(ball, x, targets):
    margin, similarity = hamsb.AMSoftmax(0.1, 5.0), hamsb.HyperbolicSimilarity(ball())
    return hamsb.NTXent(margin, similarity=similarity)(x, x.flip(0))


def of_several(ball, x, targets):
    cost = hamsb.SupCon(similarity=hamsb.HyperbolicSimilarity(ball()))
    return cost(x, targets)


USES = {
    "head": head_and_loss,
    "fused head": lambda *given: head_and_loss(*given, fused=True),
    "sub-centers": lambda *given: head_and_loss(*given, sub_centers=2),
    "reference": of_reference,
    "NT-Xent": of_pairs,
    "SupCon": of_several,
}


@pytest.fixture
def tensorfloat32(switches):
    """On, as SpeechBrain has it as soon as it is imported; and still on afterwards."""
    torch.backends.cuda.matmul.allow_tf32 = True
    yield
    assert torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize("ball", BALLS)
@pytest.mark.parametrize("use", USES)
def test_hyperbolic_products_are_of_full_float32(use, ball, tensorfloat32):
    """Forward and backward, in whatever an embedding is compared by distance."""
    x = torch.randn(6, 1, 8, requires_grad=True)
    targets = torch.tensor([[0], [1], [2], [0], [1], [2]])
    with Products() as products:
        USES[use](BALLS[ball], x, targets).backward()
    assert products.allowed or ball in ("learned", "clip")  # which take float64
    assert not any(products.allowed)


def test_so_is_that_of_uniformity(tensorfloat32):
    with Products() as products:
        uniformity(torch.randn(12, 8))
    assert products.allowed == [False]


def test_cosines_obey_the_switch(tensorfloat32):
    """What `Products` sees where nothing is kept from it."""
    x = torch.randn(6, 1, 8, requires_grad=True)
    with Products() as products:
        hamsb.CosineClassifier(8, 5)(x).sum().backward()
    assert len(products.allowed) == 3 and all(products.allowed)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_product_and_its_gradients_of_any_order(compiled):
    call = torch.compile(product, backend="aot_eager") if compiled else product
    sizes = (4, 3), (3, 5)
    left, right = (torch.randn(n, dtype=torch.float64).requires_grad_() for n in sizes)
    torch.testing.assert_close(call(left, right), left @ right)
    assert torch.autograd.gradcheck(call, (left, right))
    if not compiled:
        assert torch.autograd.gradgradcheck(call, (left, right))
