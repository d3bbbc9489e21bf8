"""Centers shared out over processes against one process on the joined batch."""

import math
import re
from dataclasses import fields

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

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
from hamsb.nnet import _closed_forms, _sharded
from runs import in_processes

B, C, D = 6, 50, 5  # of all processes; neither 2 nor 3 divides C into equal blocks
needs_forks = pytest.mark.skipif(
    torch.accelerator.is_available(), reason="autograd does not outlive a fork there"
)
pytestmark = needs_forks


def in_ball(ball, scale=1.0, **settings):
    return lambda **o: HyperbolicClassifier(D, C, ball(), scale, **settings, **o)


def learned():
    return PoincareBall(1.0, learnable=True, gain=1.0)


HEADS = {
    "cosine": lambda **o: CosineClassifier(D, C, **o),
    "cosine at the origin": lambda **o: CosineClassifier(D, C, 0.1, **o),
    "cosine of 3": lambda **o: CosineClassifier(D, C, sub_centers=3, **o),
    "clipped": in_ball(lambda: ClippedUnitBall(3.0)),
    "clipped at 1": in_ball(lambda: ClippedUnitBall(1.0)),
    "one length": in_ball(lambda: ClippedUnitBall(3.0), center_norm=0.3),
    "learned": in_ball(learned, batch_norm=True),
    "learned of 2": in_ball(learned, sub_centers=2),
    "learned clip": in_ball(lambda: PoincareBall(0.7, "clip", learnable="curvature")),
}
LOSSES = {
    "cosine": [Softmax(5.0), AMSoftmax(0.2, 30.0), AAMSoftmax(0.3, 30.0), RAMSoftmax()],
    "cosine at the origin": [RAMSoftmax(0.1, 10.0)],
    "cosine of 3": [AAMSoftmax(0.3, 30.0)],
    "clipped": [HSoftmax(3.0), HAMSoftmax(0.3, 10.0)],
}
PAIRS = [
    (name, loss) for name in HEADS for loss in LOSSES.get(name, [HAMSoftmax(0.2, 5.0)])
]


def batch():
    """Embeddings and targets of all processes; some speakers in more than one."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(B, 1, D, generator=generator, dtype=torch.float64)
    return x, torch.tensor([[0], [49], [17], [16], [49], [24]])


def own(rank, processes):
    x, targets = (each.chunk(processes)[rank] for each in batch())
    return x.clone().requires_grad_(), targets


def head_of(name, sharded=True):
    torch.manual_seed(1)
    return HEADS[name](sharded=sharded).double()


def gradients(head, x):
    return {"x": x.grad, **{name: p.grad for name, p in head.named_parameters()}}


def plainly(predictions, targets):
    """Some loss that knows nothing of heads in several processes."""
    return cross_entropy(10 * predictions.squeeze(1), targets.squeeze(1))


def alone(name, loss, processes):
    """Loss and gradients of one process; embeddings are normalized by each one's batch."""
    head, (x, targets) = head_of(name, sharded=False), batch()
    x = x.requires_grad_()
    value = loss(torch.cat([head(share) for share in x.chunk(processes)]), targets)
    value.backward()
    return value.detach(), gradients(head, x)


def work(processes):
    def steps(rank):
        found = {}
        for i, (name, loss) in enumerate(PAIRS):
            head, (x, targets) = head_of(name), own(rank, processes)
            lazy = head(x)
            assert isinstance(lazy, _sharded.ShardedSimilarities)
            assert lazy.shape == (B // processes, 1, C) and head.out_neurons == C
            value = loss(lazy, targets)
            value.backward()
            found[i] = value.detach(), gradients(head, x)
            x.grad = None
            head.zero_grad()
            plainly(head(x), targets).backward()
            found[i, "plainly"] = gradients(head, x)
            head.eval()
            with torch.no_grad():
                found[i, "evaluated"] = head(x)
        head, (x, targets) = head_of("clipped"), own(rank, processes)
        head.class_fraction = 0.4
        value = HAMSoftmax(0.2, 5.0)(head(x), targets)
        value.backward()
        found["some"] = value.detach(), head.centers.grad, x.grad
        torch.manual_seed(3)
        start = [CosineClassifier(3, 65, sharded=True).weight.detach()]
        start += [CosineClassifier(3, 65, 0.1, sharded=True).weight.detach()]
        ball = ClippedUnitBall(1.0)
        start += [HyperbolicClassifier(3, 65, ball, sharded=True).centers.detach()]
        several = HyperbolicClassifier(3, 65, ball, sub_centers=2, sharded=True)
        start += [several.centers.detach()]
        found["start"] = [*start, torch.randn(3)]
        found["errors"] = list(errors(rank, processes))
        return found

    return steps


def errors(rank, processes):
    """What all processes are told."""
    head, (x, targets) = head_of("cosine"), own(rank, processes)
    loss = AMSoftmax()
    for call in (
        lambda: head(x[: len(x) - rank]),
        lambda: DistributedDataParallel(CosineClassifier(D, 12, sharded=True))(x.float()),
        lambda: (head(x), head(x[1:])),
        lambda: loss(head(x), targets - C),
        lambda: (loss(head(x), targets), loss(head(x), targets + C)),
        lambda: CosineClassifier(3, 1, sharded=True),
        lambda: AAMSoftmax()(head_of("clipped")(100 * x), targets),
    ):
        try:
            call()
        except ValueError as error:
            yield str(error)
        else:
            yield "nothing"


@pytest.fixture(scope="module", params=[2, 3])
def found(request, tmp_path_factory):
    """What each of two or three processes found."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_closed_forms, "CPU_BLOCK", 7 * B)  # blocks of 7 classes
        patch.setattr(_sharded, "DRAWN", 16)
        folder = tmp_path_factory.mktemp("processes")
        return in_processes(work(request.param), request.param, folder)


def joined(name, key, processes):
    """A gradient of all processes: what is shared out one after the other, what is not
    alike in all."""
    if key == "x" or key == HEADS[name]().of_classes:
        return torch.cat([process[key] for process in processes])
    assert all(torch.equal(process[key], processes[0][key]) for process in processes)
    return processes[0][key]


def close(ours, theirs):
    assert (ours - theirs).abs().max() <= 1e-12 * theirs.abs().max()


def test_loss_and_gradients_are_those_of_the_joined_batch(found):
    for i, (name, loss) in enumerate(PAIRS):
        expected, grads = alone(name, loss, len(found))
        for value, _ in (process[i] for process in found):
            close(value, expected)
        processes = [process[i][1] for process in found]
        assert grads.keys() == processes[0].keys()
        for key, grad in grads.items():
            scale = len(found) if key == "x" else 1
            close(joined(name, key, processes) / scale, grad)


def test_other_losses_take_the_tensor(found):
    """Each process has its own loss, of which DistributedDataParallel takes the mean."""
    for i, (name, _) in enumerate(PAIRS):
        _, grads = alone(name, plainly, len(found))
        processes = [process[i, "plainly"] for process in found]
        for key, grad in grads.items():
            scale = len(found) if key == "x" else 1
            close(joined(name, key, processes) / scale, grad)


def test_in_evaluation_each_has_the_similarities_of_its_batch(found):
    for i, (name, _) in enumerate(PAIRS):
        head, (x, _) = head_of(name, sharded=False), batch()
        for share in x.chunk(len(found)):  # the running statistics of its own
            head(share)
        if name == "learned":
            continue
        expected = head.eval()(x)
        ours = torch.cat([process[i, "evaluated"] for process in found])
        assert type(ours) is torch.Tensor
        close(ours, expected)
        assert torch.equal(ours.argmax(2), expected.argmax(2))


def test_some_classes_are_drawn_by_each(found):
    """Of its own; the targets' are among them."""
    whole, grads = alone("clipped", HAMSoftmax(0.2, 5.0), len(found))
    values = [process["some"][0] for process in found]
    assert all(value == values[0] and value < whole for value in values)
    given = torch.cat([process["some"][1] for process in found]) != 0
    for process in found:
        _, rows, of_x = process["some"]
        assert (rows != 0).any(1).sum() <= max(math.ceil(0.4 * len(rows)), B)
        assert of_x.any()
    _, targets = batch()
    assert given[targets.flatten()].any(1).all()


def test_the_start_is_that_of_one_process(found):
    torch.manual_seed(3)
    heads = CosineClassifier(3, 65), CosineClassifier(3, 65, 0.1)
    hyperbolic = HyperbolicClassifier(3, 65, ClippedUnitBall(1.0))
    several = HyperbolicClassifier(3, 65, ClippedUnitBall(1.0), sub_centers=2)
    expected = [*(head.weight for head in heads), hyperbolic.centers, several.centers]
    for ours, theirs in zip(zip(*(process["start"] for process in found)), expected):
        assert len({len(each) for each in ours}) > (len(found) == 3)
        assert torch.equal(torch.cat(ours), theirs)
    after = torch.randn(3)
    assert all(torch.equal(process["start"][4], after) for process in found)


def test_what_cannot_be_is_told_to_all(found):
    messages = [
        r"batches of .*, \d utterances in the \d processes: sharded=True needs equal",
        "all processes have the same centers. Leave the head out of Distributed",
        r"a batch of \d utterances after batches of \d: .* drop_last: True",
        rf"targets between -\d+ and .*speaker indices lie in \[0, {C}\)",
        rf"targets between \d+ and .*speaker indices lie in \[0, {C}\)",
        "out_neurons=1: sharded=True gives each of the",
        "AAMSoftmax: expects cosines",
    ]
    for process in found:
        for error, message in zip(process["errors"], messages, strict=True):
            assert re.search(message, error), error


def test_one_process_computes_as_ever():
    for name, loss in PAIRS:
        found = []
        for sharded in (True, False):
            head, (x, targets) = head_of(name, sharded), own(0, 1)
            predictions = head(x)
            assert torch.is_tensor(predictions)
            loss(predictions, targets).backward()
            found.append([*gradients(head, x).values()])
        assert all(map(torch.equal, *found))


@pytest.mark.parametrize("make", [HEADS["cosine"], HEADS["clipped"]])
def test_sharded_is_a_flag(make):
    with pytest.raises(ValueError, match="sharded=1"):
        make(sharded=1)


def test_a_head_made_before_the_processes_met_is_refused(monkeypatch):
    head = head_of("cosine")
    head.shard.processes = 2
    with pytest.raises(ValueError, match="Make it after torch.distributed.init_process"):
        head(own(0, 1)[0])


def test_shards_of_a_module():
    module = nn.ModuleDict({"a": head_of("clipped"), "b": head_of("cosine", False)})
    assert [*_sharded.shards(module)] == ["a.centers"]
    assert head_of("cosine of 3").shard.rows == slice(0, 3 * C)


def test_a_part_of_the_speakers_does_not_go_under_torch_compile():
    """It would take all of them, and say nothing."""
    lazy = CosineClassifier(D, C, class_fraction=0.1)(torch.ones(2, D))
    given = {each.name: getattr(lazy, each.name) for each in fields(lazy)}
    given.pop("_tensor")
    parted = _sharded.ShardedSimilarities(**given, shard=None)
    with pytest.raises(ValueError, match="class_fraction=0.1: not with sharded=True under"):
        parted.compiled()
