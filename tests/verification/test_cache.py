"""The cache of embeddings: what counts as known, damage, several runs."""

import hashlib
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from hamsb.verification import cache as cache_module
from hamsb.verification.cache import EmbeddingCache, file_key
from hamsb.verification.embeddings import embed_utterances
from runs import FbankMean, write_wav


def embed(paths, encode=None, **options):
    return embed_utterances(paths, encode or FbankMean(), progress=False, **options)


@pytest.fixture
def cached(tmp_path, paths):
    """A function: embed with a cache of its own object; returns what was encoded."""

    def cached(paths=paths, model="model", folder=tmp_path / "cache", **options):
        encode = FbankMean()
        cache = EmbeddingCache(folder, model)
        cached.embeddings = embed(paths, encode, cache=cache, **options)
        return [wavs.shape[1] for wavs in encode.seen]

    return cached


def test_a_second_run_encodes_nothing_and_gives_the_same_bits(cached, paths):
    plain = embed(paths)
    for expected in (4, 0):
        assert len(cached()) == expected
        assert cached.embeddings.utterances == plain.utterances
        assert torch.equal(cached.embeddings.matrix, plain.matrix)
        assert torch.equal(cached.embeddings.seconds, plain.seconds)


def test_files_of_one_name_and_size_are_not_mistaken_in_the_cache(cached, tmp_path):
    """VoxCeleb's 00001.wav, even written at the same time."""
    paths = {f"id{i}": tmp_path / f"id{i}" / "00001.wav" for i in range(3)}
    for seed, path in enumerate(paths.values()):
        write_wav(path, 8000, seed=seed)
        os.utime(path, ns=(1, 1))
    assert len(cached({"one": paths["id0"]})) == 1
    assert len(cached(paths)) == 2
    assert torch.equal(cached.embeddings.matrix, embed(paths).matrix)
    assert len(torch.unique(cached.embeddings.matrix, dim=0)) == 3


def test_a_changed_file_another_rate_and_another_model_are_embedded_anew(cached, paths):
    cached()
    assert len(cached(sample_rate=8000)) == 4
    assert len(cached(model="another")) == 4
    path = paths["id1/y/1.wav"]
    before = path.stat()
    write_wav(path, 11001, seed=9)  # of the same size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert path.stat().st_size == before.st_size
    assert cached() == [11001]
    assert torch.equal(cached.embeddings.matrix, embed(paths).matrix)


def test_a_file_has_one_embedding_under_all_its_names(cached, paths, tmp_path, monkeypatch):
    cached()
    (tmp_path / "link").symlink_to(tmp_path / "wav")
    monkeypatch.chdir(tmp_path)
    links = {name: Path("link") / name for name in paths}
    assert cached(links) == []
    assert torch.equal(cached.embeddings.matrix, embed(paths).matrix)
    key = file_key(links["id1/x/1.wav"], 16000)
    assert key == file_key(str(paths["id1/x/1.wav"]), 16000) and len(key) == 32


def test_the_order_is_the_callers(cached, paths):
    """Whatever was known and whatever was read first."""
    plain = embed(paths)
    cached(dict(list(paths.items())[2:3]))
    shuffled = {name: paths[name] for name in reversed(paths)}
    assert len(cached(shuffled, batch_size=2)) == 3
    assert cached.embeddings.utterances == tuple(shuffled)
    assert torch.equal(cached.embeddings.matrix, plain.matrix.flip(0))
    assert torch.equal(cached.embeddings.seconds, plain.seconds.flip(0))


def test_other_versions_of_torch_count_as_another_model(cached, monkeypatch):
    cached()
    monkeypatch.setattr(torch, "__version__", "0.0")
    assert len(cached()) == 4


def parts(tmp_path):
    return sorted((tmp_path / "cache").rglob("*.npz"))


def test_a_damaged_file_is_rebuilt(cached, paths, tmp_path, caplog):
    for damage in ["truncated", "empty", "bits", "pickle", "strangers", "nan", "packed"]:
        cached()
        (part,) = parts(tmp_path)
        good = part.read_bytes()
        executed = tmp_path / "executed"
        if damage == "truncated":
            part.write_bytes(good[: len(good) // 2])
        elif damage == "empty":
            part.write_bytes(b"")
        elif damage == "bits":  # one, in the middle of an embedding
            middle = good.index(cached.embeddings.matrix[1].numpy().tobytes()) + 50
            part.write_bytes(good[:middle] + bytes([good[middle] ^ 4]) + good[middle + 1 :])
        elif damage == "pickle":
            evil = np.array([Evil(executed)], dtype=object)
            np.savez(part, keys=evil, embeddings=evil, seconds=evil)
        elif damage == "strangers":
            np.savez(part, keys=np.zeros((4, 31), np.uint8), embeddings=np.zeros((4, 40)))
        elif damage == "nan":
            with np.load(part) as file:
                arrays = dict(file)
            arrays["embeddings"][2, 3] = np.nan
            np.savez(part, **arrays)
        elif damage == "packed":  # as what fills the memory would be
            with np.load(part) as file:
                arrays = dict(file)
            arrays["embeddings"][:] = 1
            np.savez_compressed(part, **arrays)
        assert len(cached()) == 4
        assert "damaged" in caplog.text and str(part) in caplog.text
        assert torch.equal(cached.embeddings.matrix, embed(paths).matrix)
        assert parts(tmp_path) == [part] and part.read_bytes() == good
        assert not executed.exists()
        assert cached() == []


def test_a_damaged_file_is_removed(cached, paths, tmp_path):
    """Also where what is written next has another name."""
    cached()
    (part,) = parts(tmp_path)
    part.write_bytes(b"")
    assert len(cached({"id1/x/1.wav": paths["id1/x/1.wav"]})) == 1
    assert len(parts(tmp_path)) == 1 and not part.exists()


class Evil:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_evil_is_evil(tmp_path):
    pickle.loads(pickle.dumps(Evil(tmp_path / "executed")))
    assert (tmp_path / "executed").exists()


def test_every_bit_of_a_file_counts(tmp_path):
    """A flipped bit is noticed, or stands where nothing is read."""
    cache = EmbeddingCache(tmp_path, "model")
    keys = [hashlib.sha256(bytes([i])).digest() for i in range(2)]
    rows = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    for key, row in zip(keys, rows):
        cache.put(key, row, 1.5)
    cache.flush()
    (part,) = tmp_path.rglob("*.npz")
    good = part.read_bytes()
    noticed = 0
    for position in range(len(good)):
        damaged = bytearray(good)
        damaged[position] ^= 1 << position % 8
        try:
            found, matrix, seconds = cache_module._parse(bytes(damaged))
        except cache_module._Damaged:
            noticed += 1
        else:
            assert found == keys and torch.equal(matrix, rows)
            assert seconds.tolist() == [1.5, 1.5]
    assert noticed > len(good) / 2


def test_what_was_embedded_before_an_interruption_is_kept(paths, tmp_path):
    class Interrupted(FbankMean):
        def __call__(self, wavs):
            if len(self.seen) == 3:
                raise KeyboardInterrupt
            return super().__call__(wavs)

    with pytest.raises(KeyboardInterrupt):
        embed(paths, Interrupted(), cache=EmbeddingCache(tmp_path / "cache", "model"))
    encode = FbankMean()
    embeddings = embed(paths, encode, cache=EmbeddingCache(tmp_path / "cache", "model"))
    assert len(encode.seen) == 1
    assert torch.equal(embeddings.matrix, embed(paths).matrix)


def test_a_file_of_the_cache_appears_whole_or_not_at_all(cached, tmp_path, monkeypatch):
    def full(file, **arrays):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="disk full"):
        cached()
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_long_runs_write_as_they_go_and_runs_share(cached, paths, tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "_PART", 2)
    some = dict(list(paths.items())[:3])
    first, second = (EmbeddingCache(tmp_path / "cache", "model") for _ in range(2))
    embed(some, cache=first)
    assert len(parts(tmp_path)) == 2  # two and one
    embed(paths, cache=second)  # had looked at nothing before
    assert len(parts(tmp_path)) == 3
    embed(paths, cache=first)  # of the fourth it knows nothing yet, and finds the same
    assert len(parts(tmp_path)) == 3
    shutil.rmtree(tmp_path / "cache")
    assert len(cached()) == 4


def test_a_killed_run_loses_seconds_of_work(paths, tmp_path, monkeypatch):
    time = [0.0]
    monkeypatch.setattr(cache_module.time, "monotonic", lambda: time[0])
    cache = EmbeddingCache(tmp_path / "cache", "model")
    for number, now, expected in [(0, 5, 0), (1, 11, 1), (2, 20, 1), (3, 22, 2)]:
        time[0] = float(now)
        cache.put(bytes([number]) * 32, torch.ones(2), 1.0)
        assert len(parts(tmp_path)) == expected, now
    known = EmbeddingCache(tmp_path / "cache", "model")
    assert all(known.get(bytes([number]) * 32) for number in range(4))


def test_two_runs_at_once_and_a_removed_file(cached, paths, tmp_path, monkeypatch):
    """A file that another run removes between the listing and the reading is absent."""
    cached()
    (part,) = parts(tmp_path)
    read_bytes = Path.read_bytes

    def gone(path):
        part.unlink(missing_ok=True)
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", gone)
    assert len(cached()) == 4
