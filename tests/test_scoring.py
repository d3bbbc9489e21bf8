"""Trial lists, embeddings, cosine scores and score files."""

import json
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from speechbrain.dataio import audio_io
from speechbrain.dataio.preprocess import AudioNormalizer
from speechbrain.lobes.features import Fbank

from hamsb.metrics import eer, min_dcf
from hamsb.scoring import (
    Embeddings,
    Trials,
    cosine_scores,
    embed_utterances,
    evaluate_trials,
    find_utterances,
    read_trials,
    results_table,
    write_scores,
)

LIST = """\
1 id1/x/1.wav id1/y/1.wav
0 id1/x/1.wav id2/x/1.wav
1 id2/x/1.wav id2/x/2.wav
0 id2/x/2.wav id1/y/1.wav
"""
UTTERANCES = ("id1/x/1.wav", "id1/y/1.wav", "id2/x/1.wav", "id2/x/2.wav")


@pytest.fixture
def trials(tmp_path):
    (tmp_path / "vox1_O.txt").write_text(LIST)
    return read_trials(tmp_path / "vox1_O.txt")


def write_wav(path, samples, rate=16000, channels=1, seed=0):
    """Noise whose spectrum depends on the seed; a lossless float file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(channels, samples, generator=generator)
    tone = torch.sin(torch.arange(samples) * 0.05 * (seed + 1))
    audio_io.save(str(path), 0.02 * noise + 0.3 * tone, rate)


@pytest.fixture
def corpus(tmp_path):
    """The list's utterances, of different lengths, two of the same basename."""
    for seed, utterance in enumerate(UTTERANCES):
        write_wav(
            tmp_path / "corpus" / "wav" / utterance, 8000 + 3001 * seed, seed=seed
        )
    return tmp_path / "corpus"


class FbankMean:
    """Mean and maximum of log Mel energies, with a record of what was embedded."""

    def __init__(self):
        self.features = Fbank(n_mels=20)
        self.seen = []

    def __call__(self, wav):
        assert not torch.is_grad_enabled()
        self.seen.append(wav.clone())
        features = self.features(wav)
        return torch.cat([features.mean(1), features.amax(1)], dim=1).unsqueeze(
            1
        )  # [1, 1, 40]


# Reading lists


def test_read_trials(trials, tmp_path):
    assert trials.labels.tolist() == [1, 0, 1, 0] and trials.labels.dtype == np.int64
    assert trials.enrol == ("id1/x/1.wav", "id1/x/1.wav", "id2/x/1.wav", "id2/x/2.wav")
    assert trials.test == ("id1/y/1.wav", "id2/x/1.wav", "id2/x/2.wav", "id1/y/1.wav")
    assert (
        trials.path == tmp_path / "vox1_O.txt"
        and trials.name == "vox1_O"
        and len(trials) == 4
    )
    assert trials.utterances == UTTERANCES
    assert trials.speakers == ("id1", "id2")


@pytest.mark.parametrize(
    "text",
    [
        LIST.replace(" ", "\t"),
        LIST.replace(" ", "   "),
        LIST.replace("\n", "\r\n"),
        LIST[:-1],
    ],
)
def test_read_trials_of_other_writers(tmp_path, text, trials):
    (tmp_path / "other.txt").write_bytes(text.encode())
    other = read_trials(str(tmp_path / "other.txt"))
    assert (other.enrol, other.test, other.labels.tolist()) == (
        trials.enrol,
        trials.test,
        trials.labels.tolist(),
    )


def test_repeated_trials_and_one_class_are_kept(tmp_path):
    (tmp_path / "list.txt").write_text("1 id1/a id1/b\n" * 3)
    assert read_trials(tmp_path / "list.txt").labels.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    "line, message",
    [
        (
            "1 id1/a.wav",
            r"expected the 3 fields 'label enrol test', got 2, found '1 id1/a.wav'",
        ),
        (
            "1 id1/a.wav id1/b.wav 0.5",
            "expected the 3 fields 'label enrol test', got 4",
        ),
        (
            "2 id1/a.wav id1/b.wav",
            "label must be 0 or 1, not '2', found '2 id1/a.wav id1/b.wav'",
        ),
        ("1.0 id1/a.wav id1/b.wav", "label must be 0 or 1, not '1.0'"),
        ("id1/a.wav id1/b.wav 1", "label must be 0 or 1, not 'id1/a.wav'"),
        ("", "empty line"),
        ("  \t", "empty line"),
        ("1 id1/a.wav id1/a.wav", "compared with itself"),
    ],
)
@pytest.mark.parametrize("number", [1, 3, 5])
def test_read_trials_names_file_and_line(tmp_path, line, message, number):
    lines = LIST.splitlines()
    lines.insert(number - 1, line)
    path = tmp_path / "list.txt"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=rf"{path}:{number}: .*{message}"):
        read_trials(path)


def test_read_trials_refuses_empty_missing_and_binary(tmp_path):
    (tmp_path / "empty.txt").touch()
    with pytest.raises(ValueError, match=r"empty.txt: empty file"):
        read_trials(tmp_path / "empty.txt")
    for missing in (tmp_path / "nowhere.txt", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"{missing}: no such trial list"):
            read_trials(missing)
    (tmp_path / "audio.wav").write_bytes(b"RIFF\xff\xfe\n")
    with pytest.raises(ValueError, match="audio.wav: not a text file"):
        read_trials(tmp_path / "audio.wav")


@pytest.mark.parametrize(
    "utterance", ["a.wav", "/id1/a.wav", "./id1/a.wav", "../id1/a.wav"]
)
def test_speakers_need_a_folder(tmp_path, utterance):
    (tmp_path / "list.txt").write_text(
        f"1 id1/a.wav id1/b.wav\n0 id1/a.wav {utterance}\n"
    )
    trials = read_trials(tmp_path / "list.txt")
    with pytest.raises(ValueError, match=rf"list.txt:2: no speaker in '{utterance}'"):
        _ = trials.speakers


# Finding files


def test_find_utterances(trials, corpus):
    expected = {utterance: corpus / "wav" / utterance for utterance in UTTERANCES}
    assert find_utterances(trials, [corpus]) == expected
    assert find_utterances(trials, str(corpus)) == expected
    assert list(find_utterances(trials, [corpus])) == list(UTTERANCES)


def test_find_utterances_in_several_roots(trials, corpus, tmp_path):
    (tmp_path / "more" / "wav").mkdir(parents=True)
    shutil.move(corpus / "wav" / "id2", tmp_path / "more" / "wav" / "id2")
    found = find_utterances(trials, [corpus, tmp_path / "more"])
    assert found["id1/x/1.wav"] == corpus / "wav" / "id1/x/1.wav"
    assert found["id2/x/1.wav"] == tmp_path / "more" / "wav" / "id2/x/1.wav"


def test_missing_utterances(trials, corpus, tmp_path):
    shutil.rmtree(corpus / "wav" / "id2")
    (corpus / "wav" / "id1/x/1.wav").rename(
        corpus / "id1_x_1.wav"
    )  # beside wav is not below it
    with pytest.raises(FileNotFoundError) as error:
        find_utterances(trials, [corpus, tmp_path / "nowhere"])
    assert f"{trials.path}:1: no file for id1/x/1.wav; 3 of 4 utterances" in str(
        error.value
    )
    assert f"{corpus}/wav, {tmp_path}/nowhere/wav (no such folder)" in str(error.value)


def test_missing_utterance_names_its_first_line(trials, corpus):
    (corpus / "wav" / "id2/x/2.wav").unlink()
    with pytest.raises(
        FileNotFoundError, match="vox1_O.txt:3: no file for id2/x/2.wav; 1 of 4"
    ):
        find_utterances(trials, [corpus])


def test_an_utterance_in_two_roots(trials, corpus, tmp_path):
    other = tmp_path / "other" / "wav" / "id2" / "x"
    other.mkdir(parents=True)
    (other / "1.wav").symlink_to(
        corpus / "wav" / "id2/x/1.wav"
    )  # the same file twice is no doubt
    assert (
        find_utterances(trials, [corpus, tmp_path / "other"])["id2/x/1.wav"]
        == corpus / "wav" / "id2/x/1.wav"
    )
    write_wav(other / "2.wav", 8000)
    with pytest.raises(
        ValueError,
        match=rf"vox1_O.txt:3: id2/x/2.wav is in two roots, .* and {other}/2.wav",
    ):
        find_utterances(trials, [corpus, tmp_path / "other"])


def test_no_roots(trials):
    with pytest.raises(ValueError, match="no roots"):
        find_utterances(trials, [])


# Embedding


def test_each_utterance_is_embedded_once_and_whole(trials, corpus):
    encode = FbankMean()
    embeddings = embed_utterances(
        find_utterances(trials, [corpus]), encode, progress=False
    )
    assert embeddings.utterances == UTTERANCES
    assert (
        embeddings.matrix.shape == (4, 40) and embeddings.matrix.dtype == torch.float32
    )
    assert not embeddings.matrix.requires_grad
    assert [tuple(wav.shape) for wav in encode.seen] == [
        (1, 8000 + 3001 * i) for i in range(4)
    ]
    assert (
        len(torch.unique(embeddings.matrix, dim=0)) == 4
    )  # the same basename is not the same file


def test_an_embedding_does_not_depend_on_the_list(trials, corpus):
    paths = find_utterances(trials, [corpus])
    together = embed_utterances(paths, FbankMean(), progress=False)
    for utterance, path in paths.items():
        alone = embed_utterances({utterance: path}, FbankMean(), progress=False)
        assert torch.equal(alone.matrix, together.matrix[together.rows([utterance])])


@pytest.mark.parametrize(
    "rate, channels", [(16000, 1), (16000, 2), (8000, 1), (44100, 2)]
)
def test_audio_is_loaded_as_speechbrain_loads_it(tmp_path, rate, channels):
    path = tmp_path / "a.wav"
    write_wav(path, rate // 2, rate=rate, channels=channels)
    encode = FbankMean()
    embed_utterances({"id1/a.wav": path}, encode, progress=False)
    signal, sample_rate = audio_io.load(str(path), channels_first=False)
    assert sample_rate == rate and signal.shape == (rate // 2, channels)
    assert torch.equal(
        encode.seen[0], AudioNormalizer(16000)(signal, rate).unsqueeze(0)
    )
    assert encode.seen[0].shape == (1, 8000)


def test_sample_rate_is_the_models(corpus):
    encode = FbankMean()
    embed_utterances(
        {"u": corpus / "wav" / "id1/x/1.wav"}, encode, sample_rate=8000, progress=False
    )
    assert encode.seen[0].shape == (1, 4000)


def test_progress_bar(corpus, capsys):
    paths = {"u": corpus / "wav" / "id1/x/1.wav"}
    embed_utterances(paths, FbankMean(), progress=False)
    assert capsys.readouterr().err == ""
    embed_utterances(paths, FbankMean())
    assert "1/1" in capsys.readouterr().err


def test_embeddings_are_copies_in_float32(corpus):
    """An encoder may reuse its buffer, and answer in another type and shape."""
    buffer = torch.zeros(1, 3, dtype=torch.bfloat16)
    values = iter([1.0, 2.0, 3.0, 4.0])
    paths = {utterance: corpus / "wav" / utterance for utterance in UTTERANCES}
    matrix = embed_utterances(
        paths, lambda wav: buffer.fill_(next(values)), progress=False
    ).matrix
    assert matrix.dtype == torch.float32 and matrix[:, 0].tolist() == [1, 2, 3, 4]
    buffer, values = torch.zeros(1, 1, 3), iter([1.0, 2.0, 3.0, 4.0])
    assert torch.equal(
        embed_utterances(
            paths, lambda wav: buffer.fill_(next(values)), progress=False
        ).matrix,
        matrix,
    )


def test_files_that_cannot_be_embedded(corpus, tmp_path):
    def embed(path, encode=None):
        embed_utterances({"id9/bad.wav": path}, encode or FbankMean(), progress=False)

    good = corpus / "wav" / "id1/x/1.wav"
    (tmp_path / "text.wav").write_text("no audio")
    with pytest.raises(ValueError, match=r"text.wav: cannot be read as audio"):
        embed(tmp_path / "text.wav")
    audio_io.save(str(tmp_path / "silent.wav"), torch.zeros(1, 0), 16000)
    with pytest.raises(ValueError, match="silent.wav: no samples"):
        embed(tmp_path / "silent.wav")
    with pytest.raises(FileNotFoundError, match="gone.wav: no such audio file"):
        embed(tmp_path / "gone.wav")
    with pytest.raises(
        ValueError, match=r"id9/bad.wav: the embedding is not finite \(1 of 2 values\)"
    ):
        embed(good, lambda wav: torch.tensor([[1.0, float("nan")]]))
    for shape in [(3,), (2, 3), (1, 2, 3), (1, 1, 1, 3)]:
        wrong = torch.zeros(shape)
        with pytest.raises(
            ValueError, match=r"id9/bad.wav: encode must return \[1, D\]"
        ):
            embed(good, lambda wav, wrong=wrong: wrong)
    with pytest.raises(ValueError, match="no utterances"):
        embed_utterances({}, FbankMean())


def test_embeddings_of_changing_size(corpus):
    sizes = iter([3, 4])
    paths = {utterance: corpus / "wav" / utterance for utterance in UTTERANCES}
    with pytest.raises(
        ValueError, match="id1/y/1.wav: embedding of 4 dimensions after ones of 3"
    ):
        embed_utterances(paths, lambda wav: torch.ones(1, next(sizes)), progress=False)


def test_embeddings_refuse_what_does_not_fit():
    with pytest.raises(
        ValueError, match=r"2 utterances need a matrix \[2, D\], got shape \(3, 4\)"
    ):
        Embeddings(("a", "b"), torch.zeros(3, 4))
    with pytest.raises(ValueError, match="got shape"):
        Embeddings(("a", "b"), torch.zeros(2, 1, 4))
    with pytest.raises(ValueError, match="1 of the utterances are named twice"):
        Embeddings(("a", "b", "a"), torch.zeros(3, 4))
    with pytest.raises(ValueError, match="no embedding of 'c'"):
        Embeddings(("a", "b"), torch.zeros(2, 4)).rows(["a", "c"])


# Scores


def random_case(n=3000, utterances=50, dim=16, seed=0):
    rng = np.random.default_rng(seed)
    names = tuple(f"id{i % 7}/{i}.wav" for i in range(utterances))
    pairs = rng.integers(0, utterances, (2, n))
    enrol, test = (tuple(names[i] for i in side) for side in pairs)
    trials = Trials(rng.integers(0, 2, n), enrol, test, Path("random.txt"))
    order = rng.permutation(utterances)
    matrix = torch.randn(utterances, dim, generator=torch.Generator().manual_seed(seed))
    return Embeddings(tuple(names[i] for i in order), matrix), trials


def naive_cosine(embeddings, trials):
    """One trial at a time."""
    embedding = dict(zip(embeddings.utterances, embeddings.matrix.double()))
    return [
        torch.nn.functional.cosine_similarity(embedding[e], embedding[t], dim=0).item()
        for e, t in zip(trials.enrol, trials.test)
    ]


@pytest.mark.parametrize("n", [1, 1024, 3000])
@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e20])
def test_cosine_scores_are_the_naive_ones(n, scale):
    embeddings, trials = random_case(n)
    scores = cosine_scores(
        Embeddings(embeddings.utterances, embeddings.matrix * scale), trials
    )
    assert scores.shape == (n,) and scores.dtype == np.float64
    np.testing.assert_allclose(scores, naive_cosine(embeddings, trials), atol=1e-6)


def test_cosine_of_real_audio(trials, corpus):
    embeddings = embed_utterances(
        find_utterances(trials, [corpus]), FbankMean(), progress=False
    )
    np.testing.assert_allclose(
        cosine_scores(embeddings, trials), naive_cosine(embeddings, trials), atol=1e-12
    )


def test_cosine_of_a_zero_embedding_is_zero():
    embeddings, trials = random_case()
    embeddings.matrix[0] = 0.0
    zero = embeddings.utterances[0]
    touched = np.array([zero in pair for pair in zip(trials.enrol, trials.test)])
    scores = cosine_scores(embeddings, trials)
    assert (
        touched.any() and np.all(scores[touched] == 0) and np.all(scores[~touched] != 0)
    )


def test_cosine_is_symmetric_and_one_with_itself():
    embeddings, trials = random_case()
    back = Trials(trials.labels, trials.test, trials.enrol, trials.path)
    np.testing.assert_array_equal(
        cosine_scores(embeddings, trials), cosine_scores(embeddings, back)
    )
    same = Trials(trials.labels, trials.enrol, trials.enrol, trials.path)
    np.testing.assert_allclose(cosine_scores(embeddings, same), 1, atol=1e-12)


def test_cosine_needs_every_utterance(trials):
    with pytest.raises(ValueError, match="no embedding of 'id2/x/1.wav'"):
        cosine_scores(Embeddings(("id1/x/1.wav", "id1/y/1.wav"), torch.eye(2)), trials)


# Files and tables


def test_score_files_lose_nothing(tmp_path):
    embeddings, trials = random_case()
    scores = cosine_scores(embeddings, trials)
    path = tmp_path / "new" / "scores_random.txt"
    write_scores(path, trials, scores)
    lines = [line.split(" ") for line in path.read_text().splitlines()]
    assert [line[0] for line in lines] == list(trials.enrol)
    assert [line[1] for line in lines] == list(trials.test)
    assert [line[2] for line in lines] == [str(label) for label in trials.labels]
    assert [float(line[3]) for line in lines] == scores.tolist()


@pytest.mark.parametrize(
    "scores",
    [
        [0.5, 0.25],
        torch.tensor([0.5, 0.25], requires_grad=True),
        np.float32([0.5, 0.25]),
    ],
)
def test_scores_of_every_kind(tmp_path, scores):
    trials = Trials(np.array([1, 0]), ("a", "a"), ("b", "c"), Path("list.txt"))
    write_scores(tmp_path / "s.txt", trials, scores)
    assert (tmp_path / "s.txt").read_text() == "a b 1 0.5\na c 0 0.25\n"


def test_score_file_appears_whole_or_not_at_all(tmp_path, trials):
    path = tmp_path / "out" / "scores.txt"
    write_scores(path, trials, [4.0, 3.0, 2.0, 1.0])
    with open(path) as reader:  # a reader of the old file is not disturbed
        write_scores(path, trials, [1.0, 2.0, 3.0, 4.0])
        assert reader.readline() == "id1/x/1.wav id1/y/1.wav 1 4.0\n"
    before = path.read_text()

    class Broken(tuple):
        def __iter__(self):
            yield "id1/x/1.wav"
            assert path.read_text() == before  # half-way, the old file is still there
            raise OSError("disk full")

    broken = Trials(trials.labels, Broken(trials.enrol), trials.test, trials.path)
    with pytest.raises(OSError, match="disk full"):
        write_scores(path, broken, [5.0, 6.0, 7.0, 8.0])
    assert path.read_text() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("scores", [[0.1], [[0.1, 0.2, 0.3, 0.4]], [0.1] * 5])
def test_write_scores_refuses_another_number(tmp_path, trials, scores):
    with pytest.raises(
        ValueError, match="vox1_O.txt has 4 trials, got scores of shape"
    ):
        write_scores(tmp_path / "s.txt", trials, scores)


def test_evaluate_trials():
    embeddings, trials = random_case()
    scores = cosine_scores(embeddings, trials)
    result = evaluate_trials(trials, scores)
    value, threshold = eer(scores, trials.labels)
    assert result == {
        "list": "random",
        "target_trials": int((trials.labels == 1).sum()),
        "impostor_trials": int((trials.labels == 0).sum()),
        "eer": value,
        "eer_threshold": threshold,
        "min_dcf_0.01": min_dcf(scores, trials.labels, p_target=0.01)[0],
        "min_dcf_0.05": min_dcf(scores, trials.labels, p_target=0.05)[0],
    }
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_evaluate_trials_names_the_list(trials):
    with pytest.raises(
        ValueError, match=r"vox1_O.txt: scores must be finite, got nan at index 2"
    ):
        evaluate_trials(trials, [0.1, 0.2, float("nan"), 0.4])
    one_class = Trials(
        np.ones(2, dtype=np.int64), ("a", "b"), ("c", "d"), Path("one.txt")
    )
    with pytest.raises(ValueError, match=r"one.txt: trials of both classes are needed"):
        evaluate_trials(one_class, [0.1, 0.2])


def test_results_table():
    rows = [
        {
            "list": "O",
            "target_trials": 2,
            "impostor_trials": 3,
            "eer": 0.0125,
            "min_dcf_0.01": 1.0,
            "min_dcf_0.05": 0.5,
        },
        {
            "list": "E",
            "target_trials": 4,
            "impostor_trials": 5,
            "eer": 0.5,
            "min_dcf_0.01": 0.0,
            "min_dcf_0.05": 0.25,
        },
    ]
    assert results_table(rows).splitlines()[2:] == [
        "| O | 2 | 3 | 1.250 | 1.000 | 0.500 |",
        "| E | 4 | 5 | 50.000 | 0.000 | 0.250 |",
    ]


def test_from_list_to_table(trials, corpus, tmp_path):
    """The whole way: speakers who hum at their own pitch are told apart."""
    for utterance in UTTERANCES:
        speaker = utterance.split("/")[0]
        seed = 3 if speaker == "id1" else 20
        write_wav(
            corpus / "wav" / utterance,
            8000 + zlib.crc32(utterance.encode()) % 4000,
            seed=seed,
        )
    embeddings = embed_utterances(
        find_utterances(trials, [corpus]), FbankMean(), progress=False
    )
    scores = cosine_scores(embeddings, trials)
    write_scores(tmp_path / "scores.txt", trials, scores)
    result = evaluate_trials(trials, scores)
    assert result["eer"] == 0.0 and result["min_dcf_0.01"] == 0.0
    np.testing.assert_array_equal(scores >= result["eer_threshold"], trials.labels == 1)
    assert "| vox1_O | 2 | 2 | 0.000 | 0.000 | 0.000 |" in results_table([result])
