"""What the processes of one training share; the whole runs are in
recipes/test_distributed.py."""

import pytest
import torch

from hamsb.training import processes
from hamsb.training.processes import (
    average_statistics,
    leave_together,
    means,
    share_batch,
    synchronizes,
    wrap,
)
from hamsb.utils.hparams import plain_keys, resolve
from runs import in_processes

YAML = """
batch_size: 256
dataloader_options: {batch_size: !ref <batch_size>, drop_last: True}
"""


@pytest.fixture
def batch_of(tmp_path, monkeypatch):
    """A function: the loader's batch of each of so many processes."""

    def batch_of(overrides, number, text=YAML):
        path = tmp_path / "x.yaml"
        path.write_text(text)
        monkeypatch.setattr(processes, "share", lambda: (0, number))
        plain = plain_keys(resolve(path, share_batch(path, overrides)))
        assert plain["batch_size"] == plain["dataloader_options"]["batch_size"]
        return plain["batch_size"]

    return batch_of


def test_a_batch_of_all_processes(batch_of):
    assert batch_of("", 4) == 256
    assert batch_of("batch_size: 8", 4) == 8
    assert batch_of("global_batch_size: 12", 1) == 12
    assert batch_of("seed: 1\nglobal_batch_size: 12", 3) == 4
    assert batch_of("", 2, YAML + "global_batch_size: 512") == 256
    assert batch_of("global_batch_size: null", 2, YAML + "global_batch_size: 8") == 256


@pytest.mark.parametrize(
    "overrides, number, message",
    [
        (
            "global_batch_size: 12",
            5,
            "=12: 5 processes .* equal parts of it; give 10 or 15",
        ),
        ("global_batch_size: 2", 3, "=2: 3 processes .* equal parts of it; give 3 or 3"),
        ("global_batch_size: 1.5", 1, "=1.5"),
        ("global_batch_size: 8\nbatch_size: 4", 2, "=8, batch_size=4: .* Give one of them"),
        (
            "global_batch_size: 8\ndataloader_options: {batch_size: 6}",
            2,
            r"=8: is 4 for each process, but dataloader_options\[batch_size\] is 6",
        ),
    ],
)
def test_a_batch_that_processes_cannot_share(batch_of, overrides, number, message):
    with pytest.raises(ValueError, match=f"^global_batch_size{message}"):
        batch_of(overrides, number)


def test_which_batches_are_normalized_together(monkeypatch):
    synchronizes(True, "cpu")  # one process: nothing to refuse
    with pytest.raises(ValueError, match="sync_batch_norm='no'"):
        synchronizes("no", "cuda")
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    assert not synchronizes(None, "cpu") and not synchronizes(False, "cuda")
    with pytest.raises(ValueError, match="^sync_batch_norm=True: .* accelerators alone"):
        synchronizes(True, "cpu")


def test_alone_a_process_changes_nothing():
    norm = torch.nn.BatchNorm1d(2)
    norm.running_mean.fill_(0.1)
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    average_statistics(norm)
    assert all(torch.equal(norm.state_dict()[name], before[name]) for name in before)
    assert means({"loss": 0.1}) == {"loss": 0.1}
    leave_together()


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))


@pytest.mark.parametrize(
    "sync, kind", [(True, torch.nn.SyncBatchNorm), (False, torch.nn.BatchNorm1d)]
)
def test_normalization_of_joined_batches(sync, kind, monkeypatch):
    """torch refuses it on a CPU."""
    monkeypatch.setattr(processes, "DistributedDataParallel", lambda module, **_: module)
    assert type(wrap(network(), sync)[1]) is kind


def test_two_processes(tmp_path):
    """Two forward passes go before the backward pass; statistics and means of both."""

    def work(rank):
        model = wrap(network(), sync=False)
        torch.manual_seed(rank)
        for _ in range(2):
            (model(torch.randn(4, 3)) + model(torch.randn(4, 3))).square().sum().backward()
        norm, gradient = model.module[1], model.module[0].weight.grad
        own = norm.running_mean.clone(), norm.running_var.clone()
        average_statistics(torch.nn.ModuleList([model, torch.nn.Linear(1, 1)]))
        both = norm.running_mean, norm.running_var, norm.num_batches_tracked
        return own, both, gradient, means({"loss": 1.0 + rank, "x": 2.0})

    (one, *ours), (other, *theirs) = in_processes(work, 2, tmp_path)
    assert not torch.equal(one[0], other[0])
    for (mean, variance, count), gradient, found in (ours, theirs):
        torch.testing.assert_close(mean, (one[0] + other[0]) / 2)
        torch.testing.assert_close(variance, (one[1] + other[1]) / 2)
        assert count == 4
        assert torch.equal(gradient, ours[1])  # averaged
        assert found == {"loss": 1.5, "x": 2.0}
