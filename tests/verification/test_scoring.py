"""Scores of trials, against one trial at a time, and score files."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from hamsb import ClippedUnitBall, CosineSimilarity, HyperbolicSimilarity, PoincareBall
from hamsb.verification.embeddings import Embeddings
from hamsb.verification.normalization import cohort_statistics, normalize_scores
from hamsb.verification.scoring import (
    list_qualities,
    read_scores,
    score_all,
    score_lists,
    score_trials,
    trial_seconds,
    write_scores,
)
from hamsb.verification.trials import Trials
from runs import random_embeddings_and_trials, similarities


def naive_scores(embeddings, four_trials, score):
    """One trial at a time."""
    of = dict(zip(embeddings.utterances, embeddings.matrix))
    return np.array(
        [score(of[e], of[t]) for e, t in zip(four_trials.enrol, four_trials.test)]
    )


def test_scores_are_the_naive_ones():
    for (similarity, score), n in product(similarities(), [1, 1024, 1500]):
        embeddings, trials = random_embeddings_and_trials(n)
        scores = score_trials(embeddings, trials, similarity)
        assert scores.shape == (n,) and scores.dtype == np.float64
        np.testing.assert_allclose(
            scores, naive_scores(embeddings, trials, score), rtol=0, atol=1e-12
        )


def test_cosine_at_every_scale():
    for scale in [1e-20, 1e20]:
        embeddings, trials = random_embeddings_and_trials(500)
        large = Embeddings(embeddings.utterances, embeddings.matrix * scale)
        np.testing.assert_allclose(
            score_trials(large, trials), score_trials(embeddings, trials), atol=1e-6
        )


def test_all_pairs_score_as_they_do_one_by_one():
    """What trials and what cohorts are compared by is one similarity."""
    for similarity, _ in similarities():
        points = similarity.project(random_embeddings_and_trials(1)[0].matrix.double())
        all_pairs = similarity.pairwise(points[:20], points)
        one_by_one = [
            similarity.paired(points[i].expand_as(points), points) for i in range(20)
        ]
        assert all_pairs.shape == (20, 50) and all_pairs.dtype == torch.float64
        off_diagonal = ~torch.eye(20, 50, dtype=torch.bool)
        torch.testing.assert_close(
            all_pairs[off_diagonal],
            torch.stack(one_by_one)[off_diagonal],
            rtol=0,
            atol=1e-9,
        )


def test_scores_are_symmetric_and_highest_with_itself():
    for similarity, _ in similarities():
        embeddings, trials = random_embeddings_and_trials()
        scores = score_trials(embeddings, trials, similarity)
        back = Trials(trials.labels, trials.test, trials.enrol, trials.path)
        np.testing.assert_array_equal(scores, score_trials(embeddings, back, similarity))
        same = Trials(trials.labels, trials.enrol, trials.enrol, trials.path)
        itself = score_trials(embeddings, same, similarity)
        best = 1.0 if similarity.name == "cosine" else 0.0
        np.testing.assert_allclose(itself, best, atol=1e-12)
        assert np.all(scores <= best + 1e-12)


def test_on_one_sphere_both_similarities_rank_alike():
    """Longer than the clip, embeddings lie on its sphere."""
    embeddings, trials = random_embeddings_and_trials(scale=100.0)
    order = np.argsort(score_trials(embeddings, trials), kind="stable")
    distances = score_trials(
        embeddings, trials, HyperbolicSimilarity(ClippedUnitBall(3.0))
    )[order]
    assert np.all(np.diff(distances) > -1e-12)


def test_a_learned_ball_gives_plain_numbers():
    embeddings, trials = random_embeddings_and_trials()
    learned = PoincareBall(1.0, gain=0.5, learnable=True)
    scores = score_trials(embeddings, trials, HyperbolicSimilarity(learned))
    plain = score_trials(
        embeddings, trials, HyperbolicSimilarity(PoincareBall(1.0, gain=0.5))
    )
    np.testing.assert_allclose(scores, plain, rtol=1e-6)


def test_cosine_of_a_zero_embedding_is_zero():
    embeddings, trials = random_embeddings_and_trials()
    embeddings.matrix[0] = 0.0
    zero = embeddings.utterances[0]
    touched = np.array([zero in pair for pair in zip(trials.enrol, trials.test)])
    scores = score_trials(embeddings, trials)
    assert touched.any()
    assert np.all(scores[touched] == 0) and np.all(scores[~touched] != 0)


def test_scores_need_every_utterance(four_trials):
    with pytest.raises(ValueError, match="no embedding of 'id2/x/1.wav'"):
        score_trials(Embeddings(("id1/x/1.wav", "id1/y/1.wav"), torch.eye(2)), four_trials)


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


# Files


def test_score_files_lose_nothing(tmp_path):
    embeddings, trials = random_embeddings_and_trials()
    scores = score_trials(embeddings, trials)
    path = tmp_path / "new" / "scores_random.txt"
    write_scores(path, trials, scores)
    lines = [line.split(" ") for line in path.read_text().splitlines()]
    assert [line[0] for line in lines] == list(trials.enrol)
    assert [line[1] for line in lines] == list(trials.test)
    assert [line[2] for line in lines] == [str(label) for label in trials.labels]
    assert [float(line[3]) for line in lines] == scores.tolist()


def test_scores_of_every_kind(tmp_path):
    for scores in [
        [0.5, 0.25],
        torch.tensor([0.5, 0.25], requires_grad=True),
        np.float32([0.5, 0.25]),
    ]:
        trials = Trials(np.array([1, 0]), ("a", "a"), ("b", "c"), Path("list.txt"))
        write_scores(tmp_path / "s.txt", trials, scores)
        assert (tmp_path / "s.txt").read_text() == "a b 1 0.5\na c 0 0.25\n"


def test_names_with_spaces_are_read_back(tmp_path):
    enrol, test = ("Anna Berg/a.wav", "id1/a.wav"), ("id1/b.wav", "id1/b c.wav")
    trials = Trials(np.array([0, 1]), enrol, test, Path("list.txt"))
    write_scores(tmp_path / "s.txt", trials, [0.25, -0.5])
    found, labels, scores = read_scores(tmp_path / "s.txt")
    assert found == list(zip(enrol, test))
    assert labels.tolist() == [0, 1] and scores.tolist() == [0.25, -0.5]
    (tmp_path / "s.txt").write_text("a b 1 0.5\na b c 1 0.5\n")
    with pytest.raises(ValueError, match="s.txt:2: must be enrol, test, label and score"):
        read_scores(tmp_path / "s.txt")
    (tmp_path / "s.txt").write_text("")
    assert read_scores(tmp_path / "s.txt")[0] == []


def test_score_file_appears_whole_or_not_at_all(tmp_path, four_trials):
    path = tmp_path / "out" / "scores.txt"
    write_scores(path, four_trials, [4.0, 3.0, 2.0, 1.0])
    with open(path) as reader:  # a reader of the old file is not disturbed
        write_scores(path, four_trials, [1.0, 2.0, 3.0, 4.0])
        assert reader.readline() == "id1/x/1.wav id1/y/1.wav 1 4.0\n"
    before = path.read_text()

    class Broken(tuple):
        def __iter__(self):
            yield "id1/x/1.wav"
            assert path.read_text() == before  # half-way, the old file is still there
            raise OSError("disk full")

    broken = Trials(
        four_trials.labels, Broken(four_trials.enrol), four_trials.test, four_trials.path
    )
    with pytest.raises(OSError, match="disk full"):
        write_scores(path, broken, [5.0, 6.0, 7.0, 8.0])
    assert path.read_text() == before
    assert list(path.parent.iterdir()) == [path]


def test_write_scores_refuses_another_number(tmp_path, four_trials):
    for scores in [[0.1], [[0.1, 0.2, 0.3, 0.4]], [0.1] * 5]:
        with pytest.raises(
            ValueError, match="vox1_O.txt has 4 trials, got scores of shape"
        ):
            write_scores(tmp_path / "s.txt", four_trials, scores)


# What else is known of a trial


def test_a_trial_is_as_long_as_its_shorter_utterance():
    embeddings, trials = random_embeddings_and_trials(40, utterances=9)
    with pytest.raises(ValueError, match="without lengths in seconds"):
        trial_seconds(embeddings, trials)
    seconds = torch.arange(9, dtype=torch.float64) + 1
    embeddings = Embeddings(embeddings.utterances, embeddings.matrix, seconds)
    length = dict(zip(embeddings.utterances, seconds.tolist()))
    expected = [min(length[e], length[t]) for e, t in zip(trials.enrol, trials.test)]
    assert trial_seconds(embeddings, trials).tolist() == expected
    # The sums and differences of both measures.
    assert list_qualities(embeddings, trials, []) is None
    found = list_qualities(embeddings, trials, ["duration", "norm"])
    norm = dict(zip(embeddings.utterances, embeddings.matrix.double().norm(dim=1).tolist()))
    for row, one, other in zip(found, trials.enrol, trials.test):
        logs = np.log([length[one], length[other]])
        norms = [norm[one], norm[other]]
        expected = [logs.sum(), sum(norms), abs(np.diff(logs))[0], abs(np.diff(norms))[0]]
        np.testing.assert_allclose(row, expected, rtol=1e-12, atol=1e-12)


def test_all_similarities_and_normalizations_are_scored_by_name():
    embeddings, trials = random_embeddings_and_trials(30, utterances=9)
    cohort = Embeddings(
        tuple("abcde"), torch.randn(5, 16, generator=torch.Generator().manual_seed(1))
    )
    pair = [CosineSimilarity(), HyperbolicSimilarity(ClippedUnitBall(3.0))]
    scored = score_all(
        embeddings, [trials], pair, ["as-norm", "none", "z-norm"], cohort, cohort_size=3
    )
    assert list(scored) == list(
        product(["cosine", "hyperbolic"], ["as-norm", "none", "z-norm"])
    )
    for similarity in pair:
        raw = score_trials(embeddings, trials, similarity)
        for name, k, method in (("as-norm", 3, "s"), ("z-norm", None, "z")):
            statistics = cohort_statistics(embeddings, cohort, similarity, k)
            expected = normalize_scores(raw, trials, statistics, method)
            np.testing.assert_array_equal(scored[similarity.name, name]["random"], expected)
        np.testing.assert_array_equal(scored[similarity.name, "none"]["random"], raw)
    with pytest.raises(ValueError, match=r"=\['s-norm'\]: s-norm needs a cohort"):
        score_all(embeddings, [trials], pair, ["s-norm"])


def test_no_list_has_no_scores():
    assert score_lists(lambda wavs: pytest.fail("embedded"), [], {}, 16000) == {}
