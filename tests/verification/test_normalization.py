"""Score normalization: against the formulas, one trial after the other."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from hamsb import CosineSimilarity
from hamsb.verification import normalization
from hamsb.verification.embeddings import Embeddings
from hamsb.verification.normalization import (
    cohort_statistics,
    normalize_scores,
)
from hamsb.verification.scoring import score_trials
from hamsb.verification.trials import Trials
from runs import random_embeddings_and_trials, similarities


def random_cohort(size=90, dim=16, seed=1):
    generator = torch.Generator().manual_seed(seed)
    names = tuple(f"c{i % 30:02d}/{i}" for i in range(size))
    return Embeddings(names, torch.randn(size, dim, generator=generator))


def naive_normalized(embeddings, trials, cohort, score, norm, k):
    """The formulas, for one trial after the other."""
    of = dict(zip(embeddings.utterances, embeddings.matrix))

    def relative(raw, side):
        against = sorted((score(of[side], other) for other in cohort.matrix), reverse=True)
        nearest = np.array(against[:k])
        mean = nearest.sum() / len(nearest)
        variance = ((nearest - mean) ** 2).sum() / (len(nearest) - 1)
        return (raw - mean) / np.sqrt(variance)

    normalized = []
    for enrol, test in zip(trials.enrol, trials.test):
        raw = score(of[enrol], of[test])
        z, t = relative(raw, enrol), relative(raw, test)
        normalized.append({"z": z, "t": t, "s": (z + t) / 2}[norm])
    return np.array(normalized)


def test_normalization_is_the_naive_one(monkeypatch):
    methods = [("z", None), ("t", None), ("s", None), ("s", 7)]
    for (similarity, score), means, (norm, k) in product(
        similarities(), [False, True], methods
    ):
        monkeypatch.setattr(normalization, "_BLOCK", 80)  # two utterances at a time
        embeddings, trials = random_embeddings_and_trials(6, utterances=9)
        cohort = random_cohort(size=36)
        cohort = cohort.speaker_means() if means else cohort
        assert len(cohort) == (30 if means else 36)
        raw = score_trials(embeddings, trials, similarity)
        statistics = cohort_statistics(embeddings, cohort, similarity, k)
        fast = normalize_scores(raw, trials, statistics, norm)
        slow = naive_normalized(embeddings, trials, cohort, score, norm, k)
        assert fast.dtype == np.float64
        np.testing.assert_allclose(fast, slow, rtol=0, atol=1e-9)
        other = {"z": "t", "t": "z", "s": "z"}[norm]
        assert not np.allclose(fast, normalize_scores(raw, trials, statistics, other))


def test_the_whole_cohort_as_the_nearest_is_the_s_norm():
    embeddings, cohort = random_embeddings_and_trials(1)[0], random_cohort()
    whole = cohort_statistics(embeddings, cohort)
    nearest = cohort_statistics(embeddings, cohort, k=len(cohort))
    assert (whole.mean, whole.deviation) == (nearest.mean, nearest.deviation)
    higher = cohort_statistics(embeddings, cohort, k=len(cohort) - 1)
    assert all(higher.mean[name] > whole.mean[name] for name in whole.mean)


def test_chunks_change_nothing(monkeypatch):
    for block in [1, 90, 271, 10**9]:
        embeddings, cohort = random_embeddings_and_trials(1)[0], random_cohort()
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
    """What normalization is for: shift and scale of a side's scores do not matter."""

    class Shifted(CosineSimilarity):
        def paired(self, x, y):
            return 5 + 3 * super().paired(x, y)

        def pairwise(self, x, y):
            return 5 + 3 * super().pairwise(x, y)

    embeddings, trials = random_embeddings_and_trials(200)
    results = []
    for similarity in (CosineSimilarity(), Shifted()):
        statistics = cohort_statistics(embeddings, random_cohort(), similarity, k=20)
        raw = score_trials(embeddings, trials, similarity)
        results.append(normalize_scores(raw, trials, statistics, "s"))
    np.testing.assert_allclose(results[0], results[1], atol=1e-10)


def test_a_cohort_size_that_is_not_there():
    for k in [91, 1, 0, -1]:
        with pytest.raises(ValueError, match=f"cohort_size={k}: .*at most the 90 of the"):
            cohort_statistics(random_embeddings_and_trials(1)[0], random_cohort(), k=k)
        with pytest.raises(ValueError, match="cohort: 1 in it, .* give at least 2"):
            cohort_statistics(random_embeddings_and_trials(1)[0], random_cohort(size=1))


def test_constant_cohort_scores_are_refused():
    """A zero embedding; a cohort of one point, but for rounding; a collapsed model."""
    embeddings, cohort = random_embeddings_and_trials(1, utterances=20)[0], random_cohort()
    embeddings.matrix[3] = 0
    message = (
        rf"{embeddings.utterances[3]}: its 90 scores against the cohort are all equal.*"
        r"\(1 of 20 utterances\)"
    )
    with pytest.raises(ValueError, match=message):
        cohort_statistics(embeddings, cohort)
    embeddings = random_embeddings_and_trials(1, utterances=20)[0]
    point = torch.randn(16, generator=torch.Generator().manual_seed(5))
    lengths = torch.linspace(1, 100, 90).unsqueeze(1)
    rounded = Embeddings(cohort.utterances, lengths * point)
    with pytest.raises(ValueError, match=r"\(20 of 20 utterances\)"):
        cohort_statistics(embeddings, rounded)
    embeddings.matrix[:] = point
    for similarity, _ in similarities():
        with pytest.raises(ValueError, match="20 of 20"):
            cohort_statistics(
                embeddings, Embeddings(("c1", "c2"), point.repeat(2, 1)), similarity
            )
    # Only the nearest k are equal.
    matrix = torch.cat([point.repeat(5, 1), cohort.matrix])
    twins = Embeddings(tuple(map(str, range(95))), matrix)
    cohort_statistics(embeddings, twins)
    with pytest.raises(ValueError, match="its 5 scores"):
        cohort_statistics(embeddings, twins, k=5)


def test_unknown_normalization():
    trials = Trials(np.array([1]), ("a",), ("b",), Path("list.txt"))
    with pytest.raises(ValueError, match="method='as'"):
        normalize_scores(np.ones(1), trials, normalization.CohortStatistics({}, {}), "as")


def test_progress_of_the_cohort(terminal):
    embeddings, cohort = random_embeddings_and_trials(1)[0], random_cohort()
    cohort_statistics(embeddings, cohort)
    assert terminal.getvalue() == ""
    cohort_statistics(embeddings, cohort, progress=True)
    assert "cohort" in terminal.getvalue()
