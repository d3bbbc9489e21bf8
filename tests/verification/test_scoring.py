"""Trial lists, backends, score normalisation and score files."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from hamsb import ClippedUnitBall, PoincareBall
from hamsb.verification import normalization, scoring
from hamsb.verification.embeddings import Embeddings
from hamsb.nnet.similarities import CosineSimilarity, HyperbolicSimilarity
from hamsb.verification.normalization import cohort_statistics, normalise_scores
from hamsb.verification.scoring import score_trials, write_scores
from hamsb.verification.trials import Trials, find_utterances, read_trials

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


@pytest.fixture
def corpus(tmp_path):
    """The list's utterances; what is in the files does not matter here."""
    for utterance in UTTERANCES:
        path = tmp_path / "corpus" / "wav" / utterance
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(utterance)
    return tmp_path / "corpus"


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
    (other / "2.wav").touch()
    with pytest.raises(
        ValueError,
        match=rf"vox1_O.txt:3: id2/x/2.wav is in two roots, .* and {other}/2.wav",
    ):
        find_utterances(trials, [corpus, tmp_path / "other"])


def test_no_roots(trials):
    with pytest.raises(ValueError, match="no roots"):
        find_utterances(trials, [])


# Backends


def random_case(n=3000, utterances=50, dim=16, seed=0, scale=1.0):
    """Embeddings of 7 speakers in a random order, and trials between them."""
    rng = np.random.default_rng(seed)
    names = tuple(f"id{i % 7}/{i}.wav" for i in range(utterances))
    pairs = rng.integers(0, utterances, (2, n))
    enrol, test = (tuple(names[i] for i in side) for side in pairs)
    trials = Trials(rng.integers(0, 2, n), enrol, test, Path("random.txt"))
    order = rng.permutation(utterances)
    matrix = torch.randn(utterances, dim, generator=torch.Generator().manual_seed(seed))
    return Embeddings(tuple(names[i] for i in order), matrix * scale), trials


def naive_cosine(x, y):
    x, y = x.double(), y.double()
    return (x @ y / (x.norm() * y.norm())).item()


def naive_distance(ball):
    def score(x, y):
        x, y = (ball.project(v.double()) for v in (x, y))
        return -ball.distance(x, y).item()

    return score


CLIPPED, TRUE = ClippedUnitBall(3.0), PoincareBall(1.0, gain=0.5)
BACKENDS = {
    "cosine": (CosineSimilarity(), naive_cosine),
    "clipped": (HyperbolicSimilarity(CLIPPED), naive_distance(CLIPPED)),
    "true": (HyperbolicSimilarity(TRUE), naive_distance(TRUE)),
}


def naive_scores(embeddings, trials, score):
    """One trial at a time."""
    of = dict(zip(embeddings.utterances, embeddings.matrix))
    return np.array([score(of[e], of[t]) for e, t in zip(trials.enrol, trials.test)])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("n", [1, 1024, 1500])
def test_scores_are_the_naive_ones(backend, n):
    embeddings, trials = random_case(n)
    backend, score = BACKENDS[backend]
    scores = score_trials(embeddings, trials, backend)
    assert scores.shape == (n,) and scores.dtype == np.float64
    np.testing.assert_allclose(
        scores, naive_scores(embeddings, trials, score), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_cosine_at_every_scale(scale):
    embeddings, trials = random_case(500)
    large = Embeddings(embeddings.utterances, embeddings.matrix * scale)
    np.testing.assert_allclose(
        score_trials(large, trials), score_trials(embeddings, trials), atol=1e-6
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_pairs_score_as_they_do_one_by_one(backend):
    """What trials and what cohorts are compared by is one backend."""
    backend, _ = BACKENDS[backend]
    points = backend.project(random_case(1)[0].matrix.double())
    all_pairs = backend.pairwise(points[:20], points)
    one_by_one = [
        backend.paired(points[i].expand_as(points), points) for i in range(20)
    ]
    assert all_pairs.shape == (20, 50) and all_pairs.dtype == torch.float64
    off_diagonal = ~torch.eye(20, 50, dtype=torch.bool)
    torch.testing.assert_close(
        all_pairs[off_diagonal],
        torch.stack(one_by_one)[off_diagonal],
        rtol=0,
        atol=1e-9,
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_scores_are_symmetric_and_highest_with_itself(backend):
    backend, _ = BACKENDS[backend]
    embeddings, trials = random_case()
    scores = score_trials(embeddings, trials, backend)
    back = Trials(trials.labels, trials.test, trials.enrol, trials.path)
    np.testing.assert_array_equal(scores, score_trials(embeddings, back, backend))
    same = Trials(trials.labels, trials.enrol, trials.enrol, trials.path)
    itself = score_trials(embeddings, same, backend)
    best = 1.0 if backend.name == "cosine" else 0.0
    np.testing.assert_allclose(itself, best, atol=1e-12)
    assert np.all(scores <= best + 1e-12)


def test_on_one_sphere_both_backends_rank_alike():
    """Longer than the clip, embeddings lie on its sphere."""
    embeddings, trials = random_case(scale=100.0)
    order = np.argsort(score_trials(embeddings, trials), kind="stable")
    distances = score_trials(embeddings, trials, HyperbolicSimilarity(CLIPPED))[order]
    assert np.all(np.diff(distances) > -1e-12)


def test_a_learned_ball_gives_plain_numbers():
    embeddings, trials = random_case()
    learned = PoincareBall(1.0, gain=0.5, learnable=True)
    scores = score_trials(embeddings, trials, HyperbolicSimilarity(learned))
    plain = score_trials(embeddings, trials, HyperbolicSimilarity(TRUE))
    np.testing.assert_allclose(scores, plain, rtol=1e-6)


def test_cosine_of_a_zero_embedding_is_zero():
    embeddings, trials = random_case()
    embeddings.matrix[0] = 0.0
    zero = embeddings.utterances[0]
    touched = np.array([zero in pair for pair in zip(trials.enrol, trials.test)])
    scores = score_trials(embeddings, trials)
    assert touched.any()
    assert np.all(scores[touched] == 0) and np.all(scores[~touched] != 0)


def test_scores_need_every_utterance(trials):
    with pytest.raises(ValueError, match="no embedding of 'id2/x/1.wav'"):
        score_trials(Embeddings(("id1/x/1.wav", "id1/y/1.wav"), torch.eye(2)), trials)


def test_files_of_one_name_are_not_mistaken_in_scoring():
    """All test files are called 00001.wav; each has its own embedding."""
    names = tuple(f"id{i}/v{j}/00001.wav" for i in range(2) for j in range(2))
    angles = torch.tensor([0.0, 0.1, 1.0, 1.3])
    embeddings = Embeddings(names, torch.stack([angles.cos(), angles.sin()], dim=1))
    pairs = [(0, 1), (2, 3), (0, 2), (1, 3), (0, 3)]
    enrol, test = (tuple(names[i] for i in side) for side in zip(*pairs))
    trials = Trials(np.array([1, 1, 0, 0, 0]), enrol, test, Path("list.txt"))
    expected = [np.cos(float(angles[i] - angles[j])) for i, j in pairs]
    np.testing.assert_allclose(score_trials(embeddings, trials), expected, atol=1e-6)


# Score normalisation


def random_cohort(size=90, dim=16, seed=1):
    generator = torch.Generator().manual_seed(seed)
    names = tuple(f"c{i % 30:02d}/{i}" for i in range(size))
    return Embeddings(names, torch.randn(size, dim, generator=generator))


def naive_normalised(embeddings, trials, cohort, score, norm, k):
    """The formulas, for one trial after the other."""
    of = dict(zip(embeddings.utterances, embeddings.matrix))

    def relative(raw, side):
        against = sorted(
            (score(of[side], other) for other in cohort.matrix), reverse=True
        )
        nearest = np.array(against[:k])
        mean = nearest.sum() / len(nearest)
        variance = ((nearest - mean) ** 2).sum() / (len(nearest) - 1)
        return (raw - mean) / np.sqrt(variance)

    normalised = []
    for enrol, test in zip(trials.enrol, trials.test):
        raw = score(of[enrol], of[test])
        z, t = relative(raw, enrol), relative(raw, test)
        normalised.append({"z": z, "t": t, "s": (z + t) / 2}[norm])
    return np.array(normalised)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("means", [False, True], ids=["utterances", "speakers"])
@pytest.mark.parametrize("norm, k", [("z", None), ("t", None), ("s", None), ("s", 7)])
def test_normalisation_is_the_naive_one(backend, means, norm, k, monkeypatch):
    monkeypatch.setattr(normalization, "_BLOCK", 80)  # two utterances at a time
    embeddings, trials = random_case(6, utterances=9)
    cohort = random_cohort(size=36)
    cohort = cohort.speaker_means() if means else cohort
    assert len(cohort) == (30 if means else 36)
    backend, score = BACKENDS[backend]
    raw = score_trials(embeddings, trials, backend)
    statistics = cohort_statistics(embeddings, cohort, backend, k)
    fast = normalise_scores(raw, trials, statistics, norm)
    slow = naive_normalised(embeddings, trials, cohort, score, norm, k)
    assert fast.dtype == np.float64
    np.testing.assert_allclose(fast, slow, rtol=0, atol=1e-9)
    other = {"z": "t", "t": "z", "s": "z"}[norm]
    assert not np.allclose(fast, normalise_scores(raw, trials, statistics, other))


def test_the_whole_cohort_as_the_nearest_is_the_s_norm():
    embeddings, cohort = random_case(1)[0], random_cohort()
    whole = cohort_statistics(embeddings, cohort)
    nearest = cohort_statistics(embeddings, cohort, k=len(cohort))
    assert (whole.mean, whole.deviation) == (nearest.mean, nearest.deviation)
    higher = cohort_statistics(embeddings, cohort, k=len(cohort) - 1)
    assert all(higher.mean[name] > whole.mean[name] for name in whole.mean)


@pytest.mark.parametrize("block", [1, 90, 271, 10**9])
def test_chunks_change_nothing(block, monkeypatch):
    embeddings, cohort = random_case(1)[0], random_cohort()
    expected = cohort_statistics(embeddings, cohort, k=9)
    monkeypatch.setattr(normalization, "_BLOCK", block)
    found = cohort_statistics(embeddings, cohort, k=9)
    for numbers, others in (
        (found.mean, expected.mean),
        (found.deviation, expected.deviation),
    ):
        assert list(numbers) == list(embeddings.utterances)
        assert list(numbers.values()) == pytest.approx(list(others.values()), rel=1e-12)


def test_an_affine_change_of_all_scores_is_taken_back():
    """What normalisation is for: shift and scale of a side's scores do not matter."""

    class Shifted(CosineSimilarity):
        def paired(self, x, y):
            return 5 + 3 * super().paired(x, y)

        def pairwise(self, x, y):
            return 5 + 3 * super().pairwise(x, y)

    embeddings, trials = random_case(200)
    results = []
    for backend in (CosineSimilarity(), Shifted()):
        statistics = cohort_statistics(embeddings, random_cohort(), backend, k=20)
        raw = score_trials(embeddings, trials, backend)
        results.append(normalise_scores(raw, trials, statistics, "s"))
    np.testing.assert_allclose(results[0], results[1], atol=1e-10)


@pytest.mark.parametrize("k", [91, 1, 0, -1])
def test_a_cohort_size_that_is_not_there(k):
    with pytest.raises(ValueError, match=f"cohort_size={k}: .*at most the 90 of the"):
        cohort_statistics(random_case(1)[0], random_cohort(), k=k)
    with pytest.raises(ValueError, match="cohort_size=1: at least 2"):
        cohort_statistics(random_case(1)[0], random_cohort(size=1))


def test_constant_cohort_scores_are_refused():
    """A zero embedding; a cohort of one point, but for rounding; a collapsed model."""
    embeddings, cohort = random_case(1, utterances=20)[0], random_cohort()
    embeddings.matrix[3] = 0
    message = (
        rf"{embeddings.utterances[3]}: its 90 scores against the cohort are all equal.*"
        r"\(1 of 20 utterances\)"
    )
    with pytest.raises(ValueError, match=message):
        cohort_statistics(embeddings, cohort)
    embeddings = random_case(1, utterances=20)[0]
    point = torch.randn(16, generator=torch.Generator().manual_seed(5))
    lengths = torch.linspace(1, 100, 90).unsqueeze(1)
    rounded = Embeddings(cohort.utterances, lengths * point)
    with pytest.raises(ValueError, match=r"\(20 of 20 utterances\)"):
        cohort_statistics(embeddings, rounded)
    embeddings.matrix[:] = point
    for backend, _ in BACKENDS.values():
        with pytest.raises(ValueError, match="20 of 20"):
            cohort_statistics(
                embeddings, Embeddings(("c1", "c2"), point.repeat(2, 1)), backend
            )
    # Only the nearest k are equal.
    matrix = torch.cat([point.repeat(5, 1), cohort.matrix])
    twins = Embeddings(tuple(map(str, range(95))), matrix)
    cohort_statistics(embeddings, twins)
    with pytest.raises(ValueError, match="its 5 scores"):
        cohort_statistics(embeddings, twins, k=5)


def test_unknown_normalisation():
    trials = Trials(np.array([1]), ("a",), ("b",), Path("list.txt"))
    with pytest.raises(ValueError, match="method='as'"):
        normalise_scores(np.ones(1), trials, normalization.CohortStatistics({}, {}), "as")


def test_progress_of_the_cohort(capsys):
    embeddings, cohort = random_case(1)[0], random_cohort()
    cohort_statistics(embeddings, cohort)
    assert capsys.readouterr().err == ""
    cohort_statistics(embeddings, cohort, progress=True)
    assert "cohort" in capsys.readouterr().err


# Files


def test_score_files_lose_nothing(tmp_path):
    embeddings, trials = random_case()
    scores = score_trials(embeddings, trials)
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
