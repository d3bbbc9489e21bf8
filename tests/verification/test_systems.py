"""Systems: every similarity and normalization, then calibrated."""

from pathlib import Path

import numpy as np
import torch

from hamsb import CosineSimilarity, HyperbolicSimilarity, PoincareBall
from hamsb.verification.calibration import Calibration
from hamsb.verification.data import EmbeddedData, VerificationData
from hamsb.verification.embeddings import Embeddings
from hamsb.verification.normalization import cohort_statistics, normalize_scores
from hamsb.verification.scoring import list_qualities, score_trials
from hamsb.verification.systems import System, score_systems
from hamsb.verification.trials import Trials
from runs import random_embeddings_and_trials


def case(calibrated=True):
    """Two lists, one to calibrate on, and a cohort of 12 utterances of 4 speakers."""
    test, trials = random_embeddings_and_trials(60, utterances=12)
    other = Trials(trials.labels[:20], trials.enrol[:20], trials.test[:20], Path("b.txt"))
    dev, dev_trials = random_embeddings_and_trials(70, utterances=10, seed=5)
    dev_trials = Trials(dev_trials.labels, dev_trials.enrol, dev_trials.test, Path("d.txt"))
    generator = torch.Generator().manual_seed(9)
    names = tuple(f"c{i % 4}/{i}" for i in range(12))
    seconds = [
        1 + torch.rand(len(part), generator=generator, dtype=torch.float64)
        for part in (test, dev)
    ]
    test = Embeddings(test.utterances, test.matrix, seconds[0])
    dev = Embeddings(dev.utterances, dev.matrix, seconds[1])
    cohort = Embeddings(names, 0.5 + torch.randn(12, 16, generator=generator))
    data = VerificationData([trials, other], {}, dev_trials if calibrated else None)
    return data, EmbeddedData(test, dev, cohort)


def test_systems_are_scored_and_calibrated_as_one_by_one():
    data, embedded = case()
    similarities = [CosineSimilarity(), HyperbolicSimilarity(PoincareBall(1.0, gain=0.5))]
    for means in (False, True):
        for subtract in (False, True):
            systems = score_systems(
                data,
                embedded,
                similarities,
                ["none", "as-norm"],
                cohort_size=3,
                speaker_means=means,
                subtract_mean=subtract,
                quality_measures=["duration", "norm"],
            )
            names = ["cosine", "cosine, as-norm", "hyperbolic", "hyperbolic, as-norm"]
            assert [s.name for s in systems] == [
                *names, *(f"{name}, calibrated" for name in names)
            ]  # fmt: skip
            assert [s.score_name for s in systems[1:3]] == [
                "cosine, as-norm",
                "minus hyperbolic distance",
            ]
            test, dev, cohort = embedded
            if subtract:
                mean = cohort.mean()
                test, dev, cohort = test.minus(mean), dev.minus(mean), cohort.minus(mean)
            cohort = cohort.speaker_means() if means else cohort
            (trials, other), similarity = data.lists, similarities[1]

            def normalized(embeddings, trials, cohort=cohort, similarity=similarity):
                return normalize_scores(
                    score_trials(embeddings, trials, similarity),
                    trials,
                    cohort_statistics(embeddings, cohort, similarity, 3),
                    "s",
                )

            expected = normalized(test, trials)
            np.testing.assert_array_equal(systems[3].scores["random"], expected)
            assert list(systems[3].scores) == ["random", "b"]
            assert systems[3].facts == {"backend": "hyperbolic", "normalization": "as-norm"}
            # The measures are of the embeddings as they are, whatever is subtracted.
            measures = ["duration", "norm"]
            fitted = Calibration.fit(
                normalized(dev, data.calibration),
                data.calibration.labels,
                list_qualities(embedded.calibration, data.calibration, measures),
            )
            llrs = fitted(
                normalized(test, other), list_qualities(embedded.test, other, measures)
            )
            np.testing.assert_allclose(systems[7].scores["b"], llrs, rtol=1e-12)
            assert systems[7].calibrated and systems[7].drawn
            assert systems[7].facts["calibration"] == fitted.to_dict()


def test_without_a_calibration_list_nothing_is_calibrated():
    data, embedded = case(calibrated=False)
    (system,) = score_systems(data, embedded, [CosineSimilarity()])
    assert (system.name, system.calibrated, system.baseline) == ("cosine", False, False)


def test_a_calibrated_system_of_equal_ranks_is_not_drawn_again():
    system = System("cosine", {"O": np.array([0.5])}, baseline=True, facts={"loss": "AM"})
    calibration = Calibration(2.0, 1.0)
    made = system.calibrated_by(calibration)
    assert made.scores["O"].tolist() == [2.0] and not made.drawn and made.calibrated
    assert made.baseline and made.score_name == "log-likelihood ratio"
    assert made.facts == {"loss": "AM", "calibration": calibration.to_dict()}
    aware = system.calibrated_by(Calibration(2.0, 1.0, (3.0,)), {"O": np.array([[1.0]])})
    assert aware.scores["O"].tolist() == [5.0] and aware.drawn
