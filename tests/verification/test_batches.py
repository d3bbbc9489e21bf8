"""Recordings read by workers and embedded together: what comes out, and where."""

import multiprocessing
import os
import pickle
import random

import numpy as np
import pytest
import soundfile
import torch

from hamsb.analysis.clustering import _Crops
from hamsb.dataio.annotations import Utterance
from hamsb.utils.sharing import as_user_error
from hamsb.verification import batches as module
from hamsb.verification.batches import _Work, embed_recordings
from hamsb.verification.cache import EmbeddingCache
from hamsb.verification.embeddings import _Files, embed_utterances
from hamsb.verification.encoding import Encoder
from runs import FbankMean, write_wav


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Nine files of three lengths, mixed, one of them at another rate."""
    folder, files = tmp_path_factory.mktemp("files"), {}
    for i in range(9):
        files[f"u{i}"] = folder / f"{i}.wav"
        rate = 8000 if i == 4 else 16000
        write_wav(files[f"u{i}"], (4000 + 500 * (i % 3)) * rate // 16000, rate, seed=i)
    return files


def embed(files, encode=None, **options):
    return embed_utterances(files, encode or FbankMean(), progress=False, **options)


def where(wavs):
    """The process that embeds, and how many recordings at a time."""
    return torch.tensor([[float(os.getpid()), float(len(wavs))]] * len(wavs))


def states():
    """Of the random generators."""
    return torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # fewer cores
def test_workers_change_nothing(files):
    alone, before = embed(files), states()
    for workers, device, size in (
        (1, None, None),
        (2, None, 2),
        (1, "cpu", 2),
        (2, "cpu", None),
        (4, "cpu", 1),
        (2, "cpu", 2),
    ):
        found = embed(files, num_workers=workers, device=device, batch_size=size)
        assert found.utterances == alone.utterances
        assert torch.equal(found.seconds, alone.seconds)
        if size == 2:
            torch.testing.assert_close(found.matrix, alone.matrix, rtol=1e-6, atol=1e-6)
        else:
            assert torch.equal(found.matrix, alone.matrix)
    assert states() == before
    assert not multiprocessing.active_children()


def test_who_embeds(files, monkeypatch):
    def processes(**options):
        return set(embed(files, where, **options).matrix[:, 0].tolist())

    own = {float(os.getpid())}
    assert processes() == processes(num_workers=2) == own  # unknown device: only read
    assert processes(num_workers=1, device="cpu") == own
    others = processes(num_workers=2, device="cpu")
    assert len(others) == 2 and not others & own
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert processes(num_workers=2, device="cpu") == own
    monkeypatch.undo()
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda: "spawn")
    assert processes(num_workers=2, device="cpu") == own
    monkeypatch.undo()
    monkeypatch.setattr(module, "DataLoader", _refuse)
    spawned = {"num_workers": 2, "multiprocessing_context": "spawn"}
    with pytest.raises(LookupError, match="spawn"):
        processes(**spawned)
    # On a CPU there are no workers that only read.
    assert (
        processes(**spawned, device="cpu") == processes(num_workers=1, device="cpu") == own
    )


def _refuse(work, **options):
    """In the place of a DataLoader."""
    assert work.encoder is None
    raise LookupError(options["multiprocessing_context"])


def test_workers_by_default(files, monkeypatch):
    """On an accelerator, where they are worth their start."""
    started = []
    monkeypatch.setattr(
        module._Pool, "__init__", lambda self, work, workers, *_: started.append(workers)
    )
    for few, cores, device in (
        (8, 3, "meta"),
        (9, 3, "meta"),
        (8, 99, "cuda"),
        (8, 3, "cpu"),
    ):
        monkeypatch.setattr(module, "_FEW", few)
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        with pytest.raises(AttributeError):
            embed(files, device=device, num_workers=None)
    assert started == [3, 0, 8, 0]


def test_work_travels_to_spawned_workers(files, tmp_path):
    for reader, recording in (
        (_Files(16000), files["u4"]),
        (_Crops(16000), Utterance(str(files["u1"]), 100, 4100)),
    ):
        work = pickle.loads(pickle.dumps(_Work(reader, None)))
        (batch,) = work["batches", [7], [recording]]
        assert batch.numbers == [7] and batch.samples in (4500, 4000)
        assert torch.equal(batch.values[0], reader.read(recording))
        assert work["lengths", [], [recording]][0][0] == batch.samples
    error = as_user_error(UnicodeDecodeError("utf-8", b"x", 0, 1, "broken"))
    assert type(pickle.loads(pickle.dumps(error))) is ValueError


def test_an_accelerator_gets_batches_of_one_length(files, monkeypatch):
    """On a pretended one, which has shapes and no numbers."""
    for most, sizes in (
        (2**22, [3, 2, 1, 3]),
        (10000, [2, 1, 2, 1, 2, 1]),
        (3, [1] * 9),
    ):
        monkeypatch.setattr(module, "_SAMPLES", most)
        for workers in (0, 2):
            shapes, pids = [], set()

            def encode(wavs, shapes=shapes, pids=pids):
                assert wavs.device.type == "meta"
                shapes.append(tuple(wavs.shape))
                pids.add(os.getpid())
                return torch.ones(len(wavs), 2)

            embed(files, encode, device="meta", num_workers=workers)
            if sizes[0] > 1:  # whether the model mixes a batch is tried with the first
                assert [size for size, _ in shapes[:2]] == [sizes[0], 1]
                shapes = shapes[2:]
            assert [size for size, _ in shapes] == sizes and pids == {os.getpid()}
            lengths = [length for _, length in shapes]
            assert lengths == sorted(lengths, reverse=True)
    sizes = []
    count = lambda wavs: torch.ones(sizes.append(len(wavs)) or len(wavs), 2)  # noqa: E731
    embed(files, count, device="meta", batch_size=1)
    assert sizes == [1] * 9


def test_a_model_that_mixes_a_batch_gets_none(files):
    """As one with norm_type batch does; asked for, it gets them."""

    def encode(wavs):
        return torch.full((len(wavs), 2), float(len(wavs)))

    assert embed(files, encode, device="meta").matrix.tolist() == [[1.0, 1.0]] * 9
    found = embed(files, encode, device="meta", batch_size=2).matrix
    assert found.max() == 2


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_faults_name_the_file(files, tmp_path, workers):
    bad = {name: tmp_path / f"{name}.wav" for name in ("silent", "short", "text", "gone")}
    write_wav(bad["short"], 200)
    soundfile.write(bad["silent"], np.zeros(4500), 16000)
    bad["text"].write_text("no audio")
    kinds = {"gone": FileNotFoundError}
    told = {
        "silent": "silent, no sample above -80 dBFS",
        "short": "lasts 0.0125 s, and the model needs at least 0.0250 s",
        "text": "cannot be read as audio",
        "gone": "no such audio file",
    }
    network = torch.nn.Conv1d(1, 4, kernel_size=400)
    encode = lambda wavs: network(wavs.unsqueeze(1)).amax(-1)  # noqa: E731
    for name, message in told.items():
        for size in (1, 3):
            with pytest.raises(kinds.get(name, ValueError)) as error:
                embed(
                    {**files, name: bad[name]},
                    encode,
                    num_workers=workers,
                    batch_size=size,
                    device="cpu",
                )
            assert str(error.value).startswith(f"{bad[name]}: {message}")
            assert type(error.value) is kinds.get(name, ValueError)
    infinite = lambda wavs: encode(wavs) / (wavs.shape[1] != 5000)  # noqa: E731
    message = rf"^{files['u2']}: the embedding is not finite \(4 of 4 values\)"
    with pytest.raises(ValueError, match=message):
        embed(files, infinite, num_workers=workers, device="cpu")
    with pytest.raises(RuntimeError, match="layers"):
        embed(files, lambda wavs: _raise("layers"), num_workers=workers, device="cpu")
    del error
    assert not multiprocessing.active_children()


def _raise(message):
    raise RuntimeError(message)


def test_what_was_embedded_before_a_fault_is_kept(files, tmp_path):
    (tmp_path / "text.wav").write_text("no audio")
    for workers, size in ((0, 1), (2, 1), (1, 2)):
        folder = tmp_path / f"{workers}{size}"
        options = {"num_workers": workers, "batch_size": size, "device": "cpu"}
        with pytest.raises(ValueError, match=r"text.wav: cannot be read"):
            embed(
                {**files, "last": tmp_path / "text.wav"},
                cache=EmbeddingCache(folder, "model"),
                **options,
            )
        again = FbankMean()
        found = embed(files, again, cache=EmbeddingCache(folder, "model"), **options)
        assert again.seen == []
        assert torch.equal(found.seconds, embed(files).seconds)


def test_rows_hold_no_shared_memory(files):
    """Each would keep a file open, and a process may have a thousand."""
    recordings = list(files.values())
    for device in (None, "cpu"):
        with torch.no_grad():
            found = list(
                embed_recordings(
                    recordings,
                    _Files(16000),
                    Encoder(FbankMean(), 16000),
                    num_workers=2,
                    device=device,
                )
            )
        assert [batch.numbers for batch in found] == [[i] for i in range(9)]
        assert not any(batch.values.is_shared() for batch in found)
