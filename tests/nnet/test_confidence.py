"""The head whose embeddings' norms scale the logits."""

import pytest
import torch
from speechbrain.nnet.losses import classification_error
from torch.nn.functional import cross_entropy, normalize

from cases import looped
from hamsb import (
    AAMSoftmax,
    AMSoftmax,
    ConfidentClassifier,
    CosineClassifier,
    RAMSoftmax,
    Softmax,
    SphereFace2,
)

LOSSES = [
    Softmax(5.0), AMSoftmax(0.2, 10.0), AAMSoftmax(0.3, 10.0), RAMSoftmax(0.2, 10.0)
]  # fmt: skip


def made(dtype=torch.float64, **options):
    torch.manual_seed(0)
    head = ConfidentClassifier(6, 7, 0.1, **options).to(dtype)
    x = (3 * torch.randn(5, 1, 6)).to(dtype).requires_grad_()
    return head, x, torch.randint(7, (5, 1))


def gradients(value, head, x):
    return value, *torch.autograd.grad(value, [x, *head.parameters()])


@looped(loss=LOSSES, spread=[0.2, 0.9])
def test_the_logits_are_multiplied_margin_included(loss, spread):
    """Values and gradients of embeddings, centers and n_0, against plain operations."""
    head, x, targets = made(spread=spread)
    cosines = normalize(x[:, 0]) @ normalize(head.weight).t()
    norm, middle = x.norm(dim=-1), head.log_norm.exp()
    scale = 1 + spread * (norm - middle) / (norm + middle)
    logits = scale * loss.logits(cosines, targets[:, 0])
    expected = gradients(cross_entropy(logits, targets[:, 0]), head, x)
    found = gradients(loss(head(x), targets), head, x)
    for ours, theirs in zip(found, expected, strict=True):
        assert theirs.abs().sum() > 0
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_confidence_grows_with_the_norm_within_its_bounds():
    head, x, _ = made(spread=0.4, initial_norm=2.0)
    lengths = torch.tensor([0.0, 1.0, 2.0, 50.0, 1e9]).double()
    found = head.confidence(lengths.unsqueeze(1) * normalize(x[:, 0]))[:, 0]
    assert (found.diff() > 0).all()
    torch.testing.assert_close(found[[0, 2, 4]], torch.tensor([0.6, 1.0, 1.4]).double())


def test_to_all_else_it_gives_cosines():
    head, x, targets = made(torch.float32)
    plain = CosineClassifier(6, 7, 0.1)
    plain.weight = head.weight
    for mode in (True, False):
        head.train(mode)
        with torch.set_grad_enabled(mode):
            torch.testing.assert_close(head(x).squeeze(1), plain(x).squeeze(1))
            error = classification_error(head(x), targets)
            assert error == classification_error(plain(x), targets)
            assert AAMSoftmax()(head(x), targets, torch.ones(5)).isfinite()


def test_head_and_loss_compile_to_one_graph():
    torch._dynamo.reset()
    head, x, targets = made()

    def step(x):
        return AAMSoftmax()(head(x), targets)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(gradients(compiled(x), head, x), gradients(step(x), head, x))


def test_what_does_not_fit_is_a_value_error():
    for options, message in (
        ({"spread": 1.0}, "spread=1.0: must lie in"),
        ({"spread": "0.5"}, "spread='0.5'"),
        ({"initial_norm": 0.0}, "initial_norm"),
    ):
        with pytest.raises(ValueError, match=message):
            ConfidentClassifier(6, 7, **options)
    head, x, targets = made(torch.float32)
    for loss in (AAMSoftmax(top_k=5), SphereFace2()):
        with pytest.raises(ValueError, match="softmax without top_k"):
            loss(head(x), targets)
