"""Embeddings: each utterance once, whole, in batches or not."""

from pathlib import Path

import numpy as np
import pytest
import torch
from speechbrain.dataio import audio_io
from speechbrain.dataio.preprocess import AudioNormalizer
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
from speechbrain.processing.features import InputNormalization

from hamsb.dataio.annotations import Utterance
from hamsb.dataio.audio import check_files, load_audio
from hamsb.verification import embeddings as module
from hamsb.verification.cache import EmbeddingCache, file_key
from hamsb.verification.embeddings import (
    Embeddings,
    embed_sets,
    embed_utterances,
    speaker_means,
)
from hamsb.verification.trials import Trials
from runs import UTTERANCES, FbankMean, in_processes, write_wav


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


def test_audio_is_loaded_as_speechbrain_loads_it(tmp_path):
    for rate, channels in [(16000, 1), (16000, 2), (8000, 1), (44100, 2)]:
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


def test_progress_bar(paths, terminal):
    embed(paths)
    assert terminal.getvalue() == ""
    embed_utterances(paths, FbankMean())
    assert "embed:" in terminal.getvalue() and "/4" in terminal.getvalue()


def test_embeddings_are_copies_in_float32(paths):
    """An encoder may reuse its buffer, and answer in another type and shape."""
    for buffer in (torch.zeros(1, 3, dtype=torch.bfloat16), torch.zeros(1, 1, 3)):
        values = iter([1.0, 2.0, 3.0, 4.0])
        matrix = embed(paths, lambda _, b=buffer, v=values: b.fill_(next(v))).matrix
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
        refused(ValueError, "silent.wav: no samples", tmp_path / "silent.wav", **options)
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
    message = rf"^{good}: the embedding is not finite \(1 of 2 values\)"
    refused(ValueError, message, good, lambda wavs: torch.tensor([[1.0, float("nan")]]))
    for shape in [(3,), (2, 3), (1, 2, 3), (1, 1, 1, 3)]:
        message = rf"^{good}: encode must return \[1, D\]"
        refused(ValueError, message, good, lambda wavs, shape=shape: torch.zeros(shape))
    with pytest.raises(ValueError, match="no utterances"):
        embed({})
    for key, least in (("batch_size", 1), ("num_workers", 0)):
        message = rf"^{key}={least - 1}: must be a whole number, at least {least}"
        refused(ValueError, message, good, **{key: least - 1})


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


def test_batches_are_of_equal_lengths_and_change_nothing(tmp_path):
    for batch_size in [2, 3, 100]:
        lengths = [9000, 12000, 9000, 9001, 12000, 9000, 9000, 12000]
        paths = {f"id{i}/a.wav": tmp_path / f"id{i}" / "a.wav" for i in range(8)}
        for seed, (path, length) in enumerate(zip(paths.values(), lengths)):
            write_wav(path, length, seed=seed)
        encode = Ecapa()
        alone, together = embed(paths, encode), embed(paths, encode, batch_size=batch_size)
        sizes = {2: [2, 1, 1, 2, 2], 3: [3, 1, 3, 1], 100: [3, 1, 4]}[batch_size]
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
    monkeypatch.setattr(module._Files, "length", lambda self, path: (8000, "8000 16000"))
    assert torch.equal(embed(paths, batch_size=4).matrix, embed(paths).matrix)


# In several processes


def test_processes_share_the_utterances(paths, tmp_path):
    alone = embed(paths)
    gone = paths | {"id9/gone.wav": tmp_path / "gone.wav"}

    def work(rank):
        cache, encode = EmbeddingCache(tmp_path / "cache", "model"), FbankMean()
        if rank == 0:  # has found more than the others, as another run writes it
            embed(dict([*paths.items()][:2]), cache=cache)
        own = embed(paths, encode, cache=cache, shared=True)
        assert len(embed(paths, encode)) == 4  # not shared unless asked for
        few = embed({UTTERANCES[2]: paths[UTTERANCES[2]]}, shared=True)  # one has nothing
        with pytest.raises(FileNotFoundError, match=r"gone.wav: no such audio"):
            embed(gone, shared=True)
        with pytest.raises(ValueError, match="embedding of 3 dimensions after ones of 2"):
            embed(paths, lambda wavs: torch.ones(1, 2 + rank), shared=True)
        return own, len(encode.seen) - 4, few

    parts = in_processes(work, 2, tmp_path)
    for own, _, few in parts:
        assert own.utterances == alone.utterances
        assert torch.equal(own.matrix, alone.matrix)
        assert torch.equal(own.seconds, alone.seconds)
        assert torch.equal(few.matrix, alone.matrix[2:3])
    assert all(embedded <= 2 for _, embedded, _ in parts)


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


def test_speaker_means_are_those_of_a_loop():
    for seed in range(3):
        rng = np.random.default_rng(seed)
        speakers = [f"id{rng.integers(5)}" for _ in range(40)]
        matrix = torch.randn(40, 6, generator=torch.Generator().manual_seed(seed))
        names, means = speaker_means(matrix, speakers)
        assert names == tuple(sorted(set(speakers))) and means.dtype == torch.float32
        for name, mean in zip(names, means):
            own = [row for speaker, row in zip(speakers, matrix) if speaker == name]
            torch.testing.assert_close(mean, torch.stack(own).mean(0))
        # Of a list's embeddings they are summed in float64, then rounded once.
        utterances = tuple(f"{speaker}/{i}" for i, speaker in enumerate(speakers))
        rounded = Embeddings(utterances, matrix).speaker_means()
        wide = speaker_means(matrix.double(), speakers)[1]
        assert wide.dtype == torch.float64 and rounded.utterances == names
        assert torch.equal(rounded.matrix, wide.float())
    assert speaker_means(matrix.half(), speakers)[1].dtype == torch.float32


def test_speaker_means_need_a_name_for_each_embedding():
    for embeddings, speakers in ((torch.eye(3), ["a", "b"]), (torch.zeros(0, 3), [])):
        with pytest.raises(ValueError, match="need a name each, and at least one"):
            speaker_means(embeddings, speakers)


def test_sets_are_embedded_together_and_errors_name_the_line(paths):
    first, second = dict(list(paths.items())[:3]), dict(list(paths.items())[2:])
    lines = (UTTERANCES[0],) * 2, UTTERANCES[1:3]
    trials = Trials(np.array([1, 0]), *lines, Path("lists/O.txt"))
    encode = FbankMean()
    sets = [first, {f"again/{name}": path for name, path in second.items()}]
    one, other = embed_sets(encode, sets, [trials], 16000, progress=False)
    assert len(encode.seen) == 4 and one.utterances == tuple(first)
    assert other.utterances == tuple(f"again/{name}" for name in second)
    assert torch.equal(one.matrix[2], other.matrix[0])
    assert other.seconds.tolist() == [one.seconds[2], (8000 + 3 * 3001) / 16000]
    paths[UTTERANCES[3]].unlink()  # in no list
    with pytest.raises(FileNotFoundError, match=f"^{paths[UTTERANCES[3]]}: no such audio"):
        embed_sets(encode, sets, [trials], 16000, progress=False)
    paths[UTTERANCES[2]].write_text("no audio")
    with pytest.raises(ValueError, match=f"^lists/O.txt:2: {paths[UTTERANCES[2]]}: cannot"):
        embed_sets(encode, sets, [trials], 16000, progress=False)


def test_what_cannot_be_embedded_is_told_and_left_out(paths, bad_recordings, tmp_path):
    """With a cache or without, alone or in batches; the others are as ever."""
    plain = embed_utterances(paths, FbankMean(), progress=False)
    bad = {path.name: path for path in bad_recordings if path.name != "short.wav"}
    bad["none.wav"] = tmp_path / "none.wav"
    both = dict(sorted({**paths, **bad}.items()))

    class Failing(FbankMean):
        """Has no finite embedding of one of the files."""

        def __call__(self, wavs):
            found = super().__call__(wavs)
            return torch.where(wavs[:, :1, None] == first, torch.nan, found)

    for options in ({}, {"batch_size": 4}, {"cache": EmbeddingCache(tmp_path / "c", "m")}):
        for _ in range(2):
            faults = {}
            encode = FbankMean()
            found = embed_utterances(both, encode, progress=False, faults=faults, **options)
            assert faults.keys() == bad.keys()
            assert all(faults[name].startswith(f"{bad[name]}: ") for name in bad)
            assert found.utterances == tuple(name for name in both if name in paths)
            expected = plain.matrix[plain.rows(found.utterances)]
            torch.testing.assert_close(found.matrix, expected)
        with pytest.raises((ValueError, FileNotFoundError)):
            embed_utterances(both, encode, progress=False, **options)
    first = load_audio(paths["id1/y/1.wav"], AudioNormalizer(16000))[0]
    faults = {}
    found = embed_utterances(paths, Failing(), progress=False, faults=faults)
    assert len(found) == 3
    assert faults.keys() == {"id1/y/1.wav"}
    assert "the embedding is not finite (40 of 40 values)" in faults["id1/y/1.wav"]
    faults = {}
    with pytest.raises(ValueError, match="none of 4 recordings can be embedded: .*silent"):
        embed_utterances(
            {name: path for name, path in bad.items() if name != "none.wav"},
            FbankMean(),
            progress=False,
            faults=faults,
        )
    assert len(faults) == 4


def test_a_model_is_the_mean_of_its_normalized_utterances():
    matrix = torch.tensor([[3.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    seconds = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    found = Embeddings(("a", "b", "c"), matrix, seconds).with_models({"m": ["a", "b"]})
    assert found.utterances == ("a", "b", "c", "m")
    model = found.matrix[found.rows(["m"])][0]
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(model, torch.tensor([1.0, 1.0]), dim=0) == pytest.approx(1)
    assert model.tolist() == [1.0, 1.0]  # half of two axes, times the mean length
    assert found.seconds.tolist() == [1, 2, 3, 3]


def test_sets_of_files_stretches_and_models(tmp_path):
    """Each recording is embedded once; an error names the list's line."""
    path = tmp_path / "a.wav"
    write_wav(path, 48000, seed=1)
    whole, one, two = path, Utterance(str(path), 0, 16000), Utterance(str(path), 100, 30000)
    audio = load_audio(path, AudioNormalizer(16000))
    seen = []

    def encode(wavs):
        seen.append(wavs[0])
        return wavs[:, :3]

    sets = [{"x": whole, "m": (one, two)}, {"y": one}]
    test, other = embed_sets(encode, sets, [], 16000, progress=False)
    lengths = [len(wav) for wav in seen]
    assert sorted(lengths) == [16000, 29900, 48000]
    for wav in seen:
        start = 100 if len(wav) == 29900 else 0
        assert torch.equal(wav, audio[start : start + len(wav)])
    assert test.utterances == ("x", "m") and test.seconds.tolist()[1] == 45900 / 16000
    assert torch.equal(other.matrix[0], audio[:3])
    keys = {file_key(each, 16000) for each in (whole, one, two)}
    assert len(keys) == 3
    trials = Trials(np.array([1]), ("m",), ("x",), Path("O.txt"))
    bad = {"x": whole, "m": (one, Utterance(str(path), 40000, 48001))}
    with pytest.raises(
        ValueError, match="^O.txt:1: .*a.wav from sample 40000 to 48001: the"
    ):
        embed_sets(encode, [bad], [trials], 16000, progress=False)
    with pytest.raises(ValueError, match="48001: the file ends 1 samples before it"):
        check_files(bad["m"], 16000)
