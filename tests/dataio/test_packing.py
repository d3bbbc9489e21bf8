"""Batches in one piece of memory."""

import pickle

import pytest
import torch
from speechbrain.dataio.batch import PaddedBatch
from torch.utils.data import DataLoader

from hamsb.dataio.packing import PackedBatch

EXAMPLES = [
    {
        "id": f"id{k}",
        "sig": torch.arange(4.0) + k,
        "response": torch.arange(1.0, k + 1),  # of the first, nothing
        "index": torch.tensor([k]),
        "map": torch.full((k + 1, 2), k, dtype=torch.float64),
        "speed": k,
    }
    for k in range(3)
]


def test_it_holds_what_speechbrains_batch_holds():
    ours, theirs = PackedBatch(EXAMPLES), PaddedBatch(EXAMPLES)
    for batch in (ours, pickle.loads(pickle.dumps(ours)), ours.to("cpu")):
        for key in ("sig", "response", "index", "map"):
            assert batch[key].data.dtype == theirs[key].data.dtype
            assert torch.equal(batch[key].data, theirs[key].data), key
            assert torch.equal(batch[key].lengths, theirs[key].lengths), key
        assert batch.id == theirs.id and batch.speed == [0, 1, 2] and len(batch) == 3
        assert len(list(batch)) == 6
    with pytest.raises(KeyError):
        ours["noise"]
    assert not hasattr(ours, "noise")
    nothing = PackedBatch([{"early": torch.empty(0)}] * 2).early
    assert nothing.data.shape == (2, 0) and nothing.lengths.tolist() == [0, 0]


def test_a_worker_hands_it_over_as_one_tensor(monkeypatch):
    loader = DataLoader(
        EXAMPLES, batch_size=3, collate_fn=PackedBatch, num_workers=1,
        multiprocessing_context="fork",
    )  # fmt: skip
    (batch,) = loader
    tensors = [value for value in vars(batch).values() if torch.is_tensor(value)]
    assert len(tensors) == 1 and tensors[0].is_shared()
    assert torch.equal(batch.sig.data, PackedBatch(EXAMPLES).sig.data)


def test_it_moves_as_a_whole():
    batch = PackedBatch(EXAMPLES).to("meta", non_blocking=True)
    assert batch.sig.data.device.type == batch.sig.lengths.device.type == "meta"
    assert batch.index.data.dtype == torch.int64 and batch.id == ["id0", "id1", "id2"]
