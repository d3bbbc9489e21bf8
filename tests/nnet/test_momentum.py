"""MoCo's queue and momentum encoder; its loss is tested in test_contrastive.py."""

import pytest
import torch
from torch import nn

from cases import looped
from hamsb import MomentumEncoder, MomentumQueue


@looped(
    size=[4, 7],
    batches=[[3, 3, 3, 3], [1] * 9, [4, 5, 2], [7], [3, 9], [2, 7, 7, 1]],
)
def test_queue_is_a_ring_that_overwrites_its_oldest(size, batches):
    queue = MomentumQueue(size, 1)
    ring, taken = [(0.0, -1)] * size, 0
    for number in batches:
        values = torch.arange(taken, taken + number)
        queue.enqueue(values.float().unsqueeze(1), values if number != 3 else None)
        for value in values.tolist():
            ring[taken % size] = (float(value), value if number != 3 else -1)
            taken += 1
        assert (
            list(zip(queue.keys.flatten().tolist(), queue.labels.tolist(), strict=True))
            == ring
        )
        assert queue.pointer.item() == taken % size
        assert queue.empty.tolist() == [slot >= taken for slot in range(size)]


def test_queue_takes_what_the_encoder_gives():
    queue = MomentumQueue(4, 3)
    x = torch.randn(2, 1, 3, requires_grad=True)
    queue.enqueue(x.bfloat16(), torch.tensor([[5], [6]]))
    assert torch.equal(queue.keys[:2], x.detach().bfloat16().float().squeeze(1))
    assert queue.labels.tolist() == [5, 6, -1, -1]
    assert queue.keys.dtype == torch.float32 and not queue.keys.requires_grad


def batch_norm_encoder():
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 4))


def test_momentum_encoder_averages_parameters_and_keeps_its_own_buffers():
    torch.manual_seed(0)
    encoder = batch_norm_encoder()
    slow = MomentumEncoder(encoder, 0.9)
    start = [p.clone() for p in encoder.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(slow.parameters(), start, strict=True))
    assert not any(p.requires_grad for p in slow.parameters())
    assert all(p.requires_grad for p in encoder.parameters())
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(1.0)
    encoder(torch.randn(8, 6))
    for _ in range(3):
        slow.update(encoder)
    for ours, first in zip(slow.parameters(), start, strict=True):
        torch.testing.assert_close(ours, first + 1 - 0.9**3)
    assert torch.equal(slow.encoder[1].running_mean, torch.zeros(5))
    x = torch.randn(8, 6, requires_grad=True)
    assert not slow(x).requires_grad
    assert slow.encoder[1].num_batches_tracked == 1
    assert (slow.encoder[1].running_mean != 0).any()


def test_momentum_encoder_does_not_hold_the_encoder_itself():
    encoder = batch_norm_encoder()
    slow = MomentumEncoder(encoder)
    ours = {p.data_ptr() for p in slow.parameters()}
    assert not ours & {p.data_ptr() for p in encoder.parameters()}
    assert len(ours) == len(list(encoder.parameters()))


@looped(
    case=[
        (lambda: MomentumQueue(0, 3), "size=0"),
        (lambda: MomentumQueue(3, 0), "dimension=0"),
        (lambda: MomentumQueue(3, 4).enqueue(torch.zeros(2, 5)), r"\[2, 5\].*\[B, 1, 4\]"),
        (lambda: MomentumEncoder(nn.Linear(2, 2), 1.0), r"momentum=1.0.*\[0, 1\)"),
        (lambda: MomentumEncoder(nn.Linear(2, 2), "0.9"), "momentum='0.9': must lie in"),
        (lambda: MomentumEncoder("encoder"), "encoder='encoder': must be a network"),
        (lambda: MomentumEncoder(nn.Linear(2, 2)).update(nn.Linear(2, 3)), "shapes"),
    ]
)
def test_mistakes_are_value_errors_that_tell(case):
    action, message = case
    with pytest.raises(ValueError, match=message):
        action()
