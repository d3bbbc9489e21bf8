"""Embeddings: each utterance once, whole, in batches or not, from the cache or not."""

import hashlib
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from speechbrain.dataio import audio_io
from speechbrain.dataio.preprocess import AudioNormalizer
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
from speechbrain.processing.features import InputNormalization

from hamsb.verification import cache as cache_module
from hamsb.verification import embeddings as module
from hamsb.verification.cache import EmbeddingCache, file_key
from hamsb.verification.embeddings import Embeddings, embed_utterances

UTTERANCES = ("id1/x/1.wav", "id1/y/1.wav", "id2/x/1.wav", "id2/x/2.wav")


def write_wav(path, samples, rate=16000, channels=1, seed=0):
    """Noise whose spectrum depends on the seed; a lossless float file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(channels, samples, generator=generator)
    tone = torch.sin(torch.arange(samples) * 0.05 * (seed + 1))
    audio_io.save(str(path), 0.02 * noise + 0.3 * tone, rate)


@pytest.fixture
def paths(tmp_path):
    """Utterances of different lengths, three of the same file name."""
    paths = {utterance: tmp_path / "wav" / utterance for utterance in UTTERANCES}
    for seed, path in enumerate(paths.values()):
        write_wav(path, 8000 + 3001 * seed, seed=seed)
    return paths


class FbankMean:
    """Mean and maximum of log Mel energies, with a record of what was embedded."""

    def __init__(self):
        self.features = Fbank(n_mels=20)
        self.seen = []

    def __call__(self, wavs):
        assert not torch.is_grad_enabled()
        self.seen.append(wavs.clone())
        features = self.features(wavs)
        return torch.cat([features.mean(1), features.amax(1)], dim=1).unsqueeze(1)


def embed(paths, encode=None, **options):
    return embed_utterances(paths, encode or FbankMean(), progress=False, **options)


# One at a time


def test_each_utterance_is_embedded_once_and_whole(paths):
    encode = FbankMean()
    embeddings = embed(paths, encode)
    assert embeddings.utterances == UTTERANCES
    assert embeddings.matrix.shape == (4, 40)
    assert embeddings.matrix.dtype == torch.float32
    assert not embeddings.matrix.requires_grad
    shapes = [tuple(wavs.shape) for wavs in encode.seen]
    assert shapes == [(1, 8000 + 3001 * i) for i in range(4)]
    assert embeddings.seconds.tolist() == [shape[1] / 16000 for shape in shapes]


def test_an_embedding_does_not_depend_on_the_others(paths):
    together = embed(paths)
    for utterance, path in paths.items():
        alone = embed({utterance: path}).matrix
        assert torch.equal(alone, together.matrix[together.rows([utterance])])


def test_files_of_one_name_are_not_mistaken_for_each_other(paths):
    assert len({path.name for path in paths.values()}) == 2
    assert len(torch.unique(embed(paths).matrix, dim=0)) == 4


@pytest.mark.parametrize(
    "rate, channels", [(16000, 1), (16000, 2), (8000, 1), (44100, 2)]
)
def test_audio_is_loaded_as_speechbrain_loads_it(tmp_path, rate, channels):
    path = tmp_path / "a.wav"
    write_wav(path, rate // 2, rate=rate, channels=channels)
    encode = FbankMean()
    assert embed({"id1/a.wav": path}, encode).seconds.tolist() == [0.5]
    signal, sample_rate = audio_io.load(str(path), channels_first=False)
    assert sample_rate == rate and signal.shape == (rate // 2, channels)
    expected = AudioNormalizer(16000)(signal, rate).unsqueeze(0)
    assert torch.equal(encode.seen[0], expected) and expected.shape == (1, 8000)


def test_sample_rate_is_the_models(paths):
    encode = FbankMean()
    embed({"u": paths["id1/x/1.wav"]}, encode, sample_rate=8000)
    assert encode.seen[0].shape == (1, 4000)


def test_progress_bar(paths, capsys):
    embed(paths)
    assert capsys.readouterr().err == ""
    embed_utterances(paths, FbankMean())
    assert "4/4" in capsys.readouterr().err


def test_embeddings_are_copies_in_float32(paths):
    """An encoder may reuse its buffer, and answer in another type and shape."""
    for buffer in (torch.zeros(1, 3, dtype=torch.bfloat16), torch.zeros(1, 1, 3)):
        values = iter([1.0, 2.0, 3.0, 4.0])
        matrix = embed(
            paths, lambda wavs, buffer=buffer: buffer.fill_(next(values))
        ).matrix
        assert matrix.dtype == torch.float32 and matrix[:, 0].tolist() == [1, 2, 3, 4]


def test_files_that_cannot_be_embedded(paths, tmp_path):
    def refused(error, message, path, encode=None, **options):
        with pytest.raises(error, match=message):
            embed({"id9/bad.wav": path}, encode, **options)

    good = paths["id1/x/1.wav"]
    (tmp_path / "text.wav").write_text("no audio")
    audio_io.save(str(tmp_path / "silent.wav"), torch.zeros(1, 0), 16000)
    for size in (1, 4):
        options = {"batch_size": size}
        refused(
            ValueError,
            "text.wav: cannot be read as audio",
            tmp_path / "text.wav",
            **options,
        )
        refused(
            ValueError, "silent.wav: no samples", tmp_path / "silent.wav", **options
        )
        refused(
            FileNotFoundError,
            "gone.wav: no such audio",
            tmp_path / "gone.wav",
            **options,
        )
    cache = EmbeddingCache(tmp_path / "cache", "model")
    refused(
        FileNotFoundError, "gone.wav: no such audio", tmp_path / "gone.wav", cache=cache
    )
    message = r"id9/bad.wav: the embedding is not finite \(1 of 2 values\)"
    refused(ValueError, message, good, lambda wavs: torch.tensor([[1.0, float("nan")]]))
    for shape in [(3,), (2, 3), (1, 2, 3), (1, 1, 1, 3)]:
        message = r"id9/bad.wav: encode must return \[1, D\]"
        refused(ValueError, message, good, lambda wavs, shape=shape: torch.zeros(shape))
    with pytest.raises(ValueError, match="no utterances"):
        embed({})
    refused(ValueError, "batch_size=0: at least 1", good, batch_size=0)


def test_embeddings_of_changing_size(paths):
    sizes = iter([3, 4])
    message = "id1/y/1.wav: embedding of 4 dimensions after ones of 3"
    with pytest.raises(ValueError, match=message):
        embed(paths, lambda wavs: torch.ones(1, next(sizes)))


# In batches


class Ecapa:
    """A small ECAPA-TDNN, as EncoderClassifier runs one, and its batches' shapes."""

    def __init__(self):
        torch.manual_seed(0)
        self.features = Fbank(n_mels=20)
        self.norm = InputNormalization(norm_type="sentence", std_norm=False)
        sizes = {"channels": [8, 8, 8, 8, 24], "attention_channels": 8}
        self.model = ECAPA_TDNN(20, lin_neurons=16, **sizes).eval()
        self.shapes = []

    def __call__(self, wavs):
        self.shapes.append(tuple(wavs.shape))
        lengths = torch.ones(len(wavs))
        return self.model(self.norm(self.features(wavs), lengths), lengths)


@pytest.mark.parametrize("batch_size", [2, 3, 100])
def test_batches_are_of_equal_lengths_and_change_nothing(tmp_path, batch_size):
    lengths = [9000, 12000, 9000, 9001, 12000, 9000, 9000, 12000]
    paths = {f"id{i}/a.wav": tmp_path / f"id{i}" / "a.wav" for i in range(8)}
    for seed, (path, length) in enumerate(zip(paths.values(), lengths)):
        write_wav(path, length, seed=seed)
    encode = Ecapa()
    alone, together = embed(paths, encode), embed(paths, encode, batch_size=batch_size)
    sizes = {2: [2, 2, 1, 2, 1], 3: [3, 1, 1, 3], 100: [4, 1, 3]}[batch_size]
    assert [shape[0] for shape in encode.shapes[8:]] == sizes
    assert together.utterances == alone.utterances == tuple(paths)
    assert torch.equal(together.seconds, alone.seconds)
    scale = alone.matrix.norm(dim=1).min()
    torch.testing.assert_close(together.matrix, alone.matrix, rtol=0, atol=1e-5 * scale)
    # While padding would have changed much.
    wavs = torch.zeros(2, 12000)
    wavs[0, :9000] = module.load_audio(paths["id0/a.wav"], AudioNormalizer())
    padded = encode(wavs)[0, 0]
    assert (padded - alone.matrix[0]).norm() > 0.01 * scale


def test_a_header_that_lies_mixes_no_lengths(paths, monkeypatch):
    """Sorting trusts the headers; batches do not."""
    monkeypatch.setattr(module, "_header", lambda path: (16000, 8000))
    assert torch.equal(embed(paths, batch_size=4).matrix, embed(paths).matrix)


# The cache


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


def test_a_file_has_one_embedding_under_all_its_names(
    cached, paths, tmp_path, monkeypatch
):
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


@pytest.mark.parametrize(
    "damage", ["truncated", "empty", "bits", "pickle", "strangers", "nan"]
)
def test_a_damaged_file_is_rebuilt(cached, paths, tmp_path, damage, caplog):
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


def test_long_runs_write_as_they_go_and_runs_share(
    cached, paths, tmp_path, monkeypatch
):
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


# The object


def test_embeddings_refuse_what_does_not_fit():
    message = r"2 utterances need a matrix \[2, D\], got shape \(3, 4\)"
    with pytest.raises(ValueError, match=message):
        Embeddings(("a", "b"), torch.zeros(3, 4))
    with pytest.raises(ValueError, match="got shape"):
        Embeddings(("a", "b"), torch.zeros(2, 1, 4))
    with pytest.raises(ValueError, match="1 of the utterances are named twice"):
        Embeddings(("a", "b", "a"), torch.zeros(3, 4))
    with pytest.raises(ValueError, match="2 utterances need 2 lengths"):
        Embeddings(("a", "b"), torch.zeros(2, 4), torch.zeros(3))
    with pytest.raises(ValueError, match="no embedding of 'c'"):
        Embeddings(("a", "b"), torch.zeros(2, 4)).rows(["a", "c"])


def test_select_minus_and_mean():
    matrix = torch.tensor([[1.0, 2.0], [3.0, 6.0], [5.0, 1.0]])
    embeddings = Embeddings(("a", "b", "c"), matrix, torch.tensor([1.0, 2.0, 3.0]))
    some = embeddings.select({"z": "c", "y": "a", "x": "c"})
    assert some.utterances == ("z", "y", "x") and some.seconds.tolist() == [3, 1, 3]
    assert some.matrix.tolist() == [[5, 1], [1, 2], [5, 1]]
    mean = embeddings.mean()
    assert mean.tolist() == [3, 3]
    less = embeddings.minus(mean)
    assert torch.equal(less.seconds, embeddings.seconds) and len(less) == 3
    assert less.matrix.tolist() == [[-2, -1], [0, 3], [2, -2]]
    assert Embeddings(("a",), torch.eye(1)).select({"b": "a"}).seconds is None


@pytest.mark.parametrize("seed", range(3))
def test_speaker_means_are_those_of_a_loop(seed):
    rng = np.random.default_rng(seed)
    names = tuple(f"id{rng.integers(5)}/{i}" for i in range(40))
    matrix = torch.randn(40, 6, generator=torch.Generator().manual_seed(seed))
    means = Embeddings(names, matrix).speaker_means()
    speakers = sorted({name.split("/")[0] for name in names})
    assert means.utterances == tuple(speakers)
    for speaker, mean in zip(speakers, means.matrix):
        own = [
            row for name, row in zip(names, matrix) if name.startswith(f"{speaker}/")
        ]
        torch.testing.assert_close(mean, torch.stack(own).mean(0))
