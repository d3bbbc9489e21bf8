"""A training step: the backward pass after each view, one norm for all gradients, rates of
their own for some parameters, and an optimizer that a GPU runs as one kernel."""

import functools
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from speechbrain import Stage
from torch import Tensor, distributed
from torch.nn.utils import clip_grad_norm_, clip_grads_with_norm_, get_total_norm
from torch.optim import Adam, AdamW, Optimizer

if TYPE_CHECKING:
    from hamsb.training.brain import EmbeddingBrain

#: An optimizer has one implementation at a time; who gives one of these has chosen.
IMPLEMENTATIONS = ("fused", "foreach", "capturable", "differentiable")


def fit_by_view(brain: "EmbeddingBrain", batch: Any) -> torch.Tensor:
    """A step in which the activations of one view at a time are in memory.

    The loss is a sum over views, so each view's forward and backward pass can be done
    before the next one's. Gradients are those of the sum; with two views on one process,
    without accumulation over batches, to the last bit, since the addition of two numbers
    does not depend on their order. The loss is brought to the host once, before the
    optimizer's step.

    Arguments
    ---------
    brain : EmbeddingBrain
        Its ``views`` and ``forward_view`` are used, and what SpeechBrain's ``fit_batch``
        uses, but for ``compute_forward``.
    batch : PaddedBatch

    Returns
    -------
    torch.Tensor
        The loss, on the CPU.
    """
    should_step = brain.step % brain.grad_accumulation_factor == 0
    brain.on_fit_batch_start(batch, should_step)
    with brain.training_ctx:
        views = brain.views(batch)
    losses = []
    while views:
        view = views.pop(0)
        with brain.no_sync(not should_step or bool(views)):
            with brain.training_ctx:
                outputs = brain.forward_view(*view)
                loss = brain.compute_objectives([outputs], batch, Stage.TRAIN)
            brain.scaler.scale(loss / brain.grad_accumulation_factor).backward()
        losses.append(loss.detach())
        del view, outputs, loss  # before the next view's pass
    total = sum(losses[1:], losses[0]).cpu()
    brain.check_loss_isfinite(total)
    if should_step:
        brain.optimizers_step()
    brain.on_fit_batch_end(batch, None, total, should_step)
    return total


def fused_on_cuda(make: Callable[..., Optimizer], device_type: str) -> Callable:
    """Adam or AdamW in one kernel on CUDA; what else is given is returned as it is.

    Arguments
    ---------
    make : callable
        Parameters -> optimizer: the class, or, from a yaml's ``!name:``, a
        ``functools.partial`` of it. One that names an implementation keeps that.
    device_type : str
        Of the parameters.

    Example
    -------
    >>> make = functools.partial(Adam, lr=0.1)
    >>> fused_on_cuda(make, "cuda").keywords
    {'lr': 0.1, 'fused': True}
    >>> fused_on_cuda(make, "cpu") is make
    True
    """
    made, given = make, {}
    if isinstance(make, functools.partial):
        made, given = make.func, make.keywords
    if device_type != "cuda" or made not in (Adam, AdamW):
        return make
    if any(given.get(name) is not None for name in IMPLEMENTATIONS):
        return make
    return functools.partial(make, fused=True)


def split_groups(parameters: Iterable, chosen: set[int], **options: Any) -> list[dict]:
    """An optimizer's groups: parameters with its options, and the chosen with others.

    Arguments
    ---------
    parameters : iterable
        Of parameters; or of groups, as ``remove_vector_weight_decay`` makes them, of
        which each is split.
    chosen : set of int
        The ids of some parameters.
    **options
        Theirs, as ``weight_decay=0.0``.
    """
    given = list(parameters)
    groups = given if given and isinstance(given[0], dict) else [{"params": given}]
    return [
        {**group, "params": [p for p in group["params"] if (id(p) in chosen) == is_chosen]}
        | (options if is_chosen else {})
        for group in groups
        for is_chosen in (False, True)
    ]


@contextmanager
def own_rates(optimizer: Optimizer) -> Iterator[None]:
    """A block in which a group that has an ``lr_factor`` has that part of its rate.

    Outside it all groups have the rate of the schedule, which reads that of the first and
    sets that of all; so a factor goes with every schedule.

    Example
    -------
    >>> one, other = (torch.nn.Parameter(torch.ones(1)) for _ in range(2))
    >>> groups = [{"params": [one], "lr_factor": 0.5}, {"params": [other]}]
    >>> optimizer = torch.optim.SGD(groups, lr=0.2)
    >>> with own_rates(optimizer):
    ...     [group["lr"] for group in optimizer.param_groups]
    [0.1, 0.2]
    >>> [group["lr"] for group in optimizer.param_groups]
    [0.2, 0.2]
    """
    groups = [group for group in optimizer.param_groups if "lr_factor" in group]
    rates = [group["lr"] for group in groups]
    for group, rate in zip(groups, rates):
        group["lr"] = rate * group["lr_factor"]
    try:
        yield
    finally:
        for group, rate in zip(groups, rates):
            group["lr"] = rate


def clip_gradients(
    optimizer: Optimizer, max_norm: float, parted: Collection[int] = ()
) -> None:
    """Shorten an optimizer's gradient, as one vector over all of its groups.

    SpeechBrain looks at the first group alone, which is all parameters only where no
    option of weight decay makes further groups.

    Arguments
    ---------
    optimizer : torch.optim.Optimizer
    max_norm : float
    parted : collection of int
        The ids of parameters whose rows the processes share out: the vector has those of
        all processes, which must all call it.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    own = _gradients(p for p in parameters if id(p) in parted)
    if not own:
        clip_grad_norm_(parameters, max_norm)
        return
    squared = get_total_norm(own).square()
    distributed.all_reduce(squared)
    alike = get_total_norm(_gradients(p for p in parameters if id(p) not in parted))
    total = (alike.to(squared.device).square() + squared).sqrt()
    clip_grads_with_norm_(parameters, max_norm, total)


def share_nonfinite(parameters: Iterable[Tensor]) -> None:
    """Where a gradient is not finite in one process, have one not be in any, so that all
    of them leave out the step. All must call it.

    Arguments
    ---------
    parameters : iterable of torch.Tensor
        Whose rows the processes share out.
    """
    own = _gradients(parameters)
    if not own:
        return
    largest = torch.stack([torch.linalg.vector_norm(each, float("inf")) for each in own])
    broken = (~largest.isfinite()).any().float()
    distributed.all_reduce(broken, distributed.ReduceOp.MAX)
    for each in own:
        each[:1] += torch.where(broken > 0, float("nan"), 0.0)


def _gradients(parameters: Iterable[Tensor]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]


def optimizers_step(brain: "EmbeddingBrain", optimizers: Iterable[Optimizer]) -> None:
    """Unscale, clip, step and clear: SpeechBrain's ``optimizers_step``, but with
    `clip_gradients`, and `share_nonfinite` where such steps are left out."""
    optimizers = list(optimizers)
    if brain.scaler.is_enabled() or brain.skip_nonfinite_grads:
        share_nonfinite(p for p in brain.modules.parameters() if id(p) in brain.parted)
    for optimizer in optimizers:
        brain.scaler.unscale_(optimizer)
        clip_gradients(optimizer, brain.max_grad_norm, brain.parted)
    if brain.skip_nonfinite_grads and not brain.scaler.is_enabled():
        brain.check_gradients()
    for optimizer in optimizers:
        with own_rates(optimizer):
            brain.scaler.step(optimizer)
    brain.scaler.update()
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    brain.optimizer_step += 1
