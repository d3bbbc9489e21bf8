"""The parts of a step; steps of whole networks are in tests/recipes/test_train_views.py."""

import functools

import pytest
import torch
from torch.optim import SGD, Adam, AdamW

from hamsb.training.brain import EmbeddingBrain
from hamsb.training.step import fused_on_cuda
from stand_ins import Embedding


@pytest.mark.parametrize("kind", [Adam, AdamW])
def test_adam_is_fused_on_cuda_unless_the_yaml_says_how(kind):
    make = functools.partial(kind, lr=0.1)
    assert fused_on_cuda(make, "cpu") is make
    assert fused_on_cuda(make, "mps") is make
    parameter = torch.nn.Parameter(torch.zeros(1))
    for given in (make, kind):
        (group,) = fused_on_cuda(given, "cuda")([parameter]).param_groups
        assert group["fused"] is True
        assert not given([parameter]).param_groups[0]["fused"]
    for name in ("fused", "foreach", "capturable"):
        chosen = functools.partial(kind, **{name: False})
        assert fused_on_cuda(chosen, "cuda") is chosen
    sgd = functools.partial(SGD, lr=0.1)
    assert fused_on_cuda(sgd, "cuda") is sgd
    mine = lambda parameters: Adam(parameters)  # noqa: E731
    assert fused_on_cuda(mine, "cuda") is mine


@pytest.fixture
def brain():
    """A function: a Brain with a tiny model and a head, on a device that is pretended."""

    def brain(opt_class, device_type="cpu", run_opts=(), **hparams):
        torch.manual_seed(0)
        modules = {"embedding_model": Embedding(10, 6), "classifier": torch.nn.Linear(6, 5)}
        options = {"device": "cpu", **dict(run_opts)}
        made = EmbeddingBrain(modules, opt_class, hparams, options)
        made.device_type = device_type
        made.init_optimizers()
        return made

    return brain


def test_the_brain_asks_for_the_fused_optimizer(brain):
    for spared in ([], ["classifier"]):
        for device, fused in (("cuda", True), ("cpu", None)):
            made = brain(functools.partial(Adam, lr=0.1), device, no_weight_decay=spared)
            groups = made.optimizer.param_groups
            assert [group["fused"] for group in groups] == [fused] * (1 + len(spared))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"no_weight_decay": ["classifier"]},
        {"run_opts": {"remove_vector_weight_decay": True}},
    ],
)
def test_the_norm_is_that_of_all_groups(brain, options):
    made = brain(functools.partial(SGD, lr=1.0, weight_decay=0.0), **options)
    assert len(made.optimizer.param_groups) == (2 if options else 1)
    made.max_grad_norm = 2.0
    before = [p.detach().clone() for p in made.modules.parameters()]
    generator = torch.Generator().manual_seed(1)
    for parameter in made.modules.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    given = torch.cat([p.grad.flatten() for p in made.modules.parameters()])
    made.optimizers_step()
    pairs = zip(before, made.modules.parameters())
    moved = torch.cat([(old - new).flatten() for old, new in pairs])
    torch.testing.assert_close(moved, 2 * given / given.norm(), rtol=1e-4, atol=1e-5)
    assert made.optimizer_step == 1
    assert all(p.grad is None for p in made.modules.parameters())
