"""Systems: the ways to score trial lists that are compared with each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hamsb.nnet.similarities import Similarity
from hamsb.verification.calibration import Calibration
from hamsb.verification.data import EmbeddedData, VerificationData
from hamsb.verification.scoring import list_qualities, score_all

# What a similarity's scores are called on an axis, where its name is not enough.
_SCORE_NAMES = {"hyperbolic": "minus hyperbolic distance"}


@dataclass
class System:
    """One way to score, and its scores.

    Attributes
    ----------
    name : str
        For tables and plots.
    scores : dict of str to numpy.ndarray
        Name of the list -> [N].
    calibrated : bool
        The scores are log-likelihood ratios.
    drawn : bool
        False where its error tradeoff is that of another system.
    baseline : bool
        Something to compare with that nobody would use, such as an untrained network:
        the plots are framed by the others.
    score_name : str
        What its scores are, for the axis of a plot.
    plain : bool
        Its scores are the cosines of the model's embeddings as they are: those that the
        thresholds stored with a model are for.
    facts : dict
        What metrics.json says of it besides.

    Example
    -------
    >>> system = System("cosine", {"O": np.array([0.75, 0.25])})
    >>> llrs = system.calibrated_by(Calibration(scale=8.0, offset=-4.0))
    >>> llrs.name, llrs.scores["O"]
    ('cosine, calibrated', array([ 2., -2.]))
    """

    name: str
    scores: Mapping[str, np.ndarray]
    calibrated: bool = False
    drawn: bool = True
    baseline: bool = False
    score_name: str = "score"
    plain: bool = False
    facts: dict = field(default_factory=dict)

    def calibrated_by(
        self,
        calibration: Calibration,
        qualities: Mapping[str, np.ndarray | None] | None = None,
    ) -> "System":
        """The log-likelihood ratios of its scores, a System.

        Arguments
        ---------
        calibration : Calibration
            Trained on scores of the same kind.
        qualities : dict, optional
            Name of the list -> quality measures [N, Q], or None.
        """
        return System(
            f"{self.name}, calibrated",
            {
                name: calibration(scores, (qualities or {}).get(name))
                for name, scores in self.scores.items()
            },
            calibrated=True,
            drawn=bool(calibration.quality_weights),  # else the ranks are the same
            baseline=self.baseline,
            score_name="log-likelihood ratio",
            facts={**self.facts, "calibration": calibration.to_dict()},
        )


def score_systems(
    data: VerificationData,
    embedded: EmbeddedData,
    similarities: Sequence[Similarity],
    normalizations: Sequence[str] = ("none",),
    cohort_size: int = 300,
    speaker_means: bool = False,
    subtract_mean: bool = False,
    quality_measures: Sequence[str] = (),
    progress: bool = False,
) -> list[System]:
    """Every similarity with every normalization; then, where there is a calibration
    list, each of them calibrated.

    Arguments
    ---------
    data : VerificationData
    embedded : EmbeddedData
        As the network gives them: ``data.embed``.
    similarities : sequence of hamsb.nnet.similarities.Similarity
    normalizations : sequence of str
        Of `hamsb.verification.normalization.NORMALIZATIONS`.
    cohort_size : int
        Of as-norm: how many of the cohort, the nearest to each side of a trial.
    speaker_means : bool
        The cohort is the mean embedding of each speaker, not each utterance.
    subtract_mean : bool
        Subtract the cohort's mean embedding from all embeddings.
    quality_measures : sequence of str
        Of `hamsb.verification.scoring.QUALITIES`: what a calibration takes into account
        besides the score.
    progress : bool
        Show a progress bar.

    Returns
    -------
    list of System
        Named ``<similarity>``, ``<similarity>, <normalization>`` and these two with
        ``, calibrated``.
    """
    test, calibration, cohort = embedded
    qualities = {
        trials.name: list_qualities(test, trials, quality_measures) for trials in data.lists
    }
    held_out = None
    if data.calibration is not None:
        held_out = list_qualities(calibration, data.calibration, quality_measures)
    if subtract_mean:
        mean = cohort.mean()
        test, calibration, cohort = (part.minus(mean) for part in embedded)
    if speaker_means:
        cohort = cohort.speaker_means()
    how = similarities, normalizations, cohort, cohort_size, progress
    systems = []
    for (similarity, name), scores in score_all(test, data.lists, *how).items():
        normalized = "" if name == "none" else f", {name}"
        systems.append(
            System(
                f"{similarity}{normalized}",
                scores,
                score_name=f"{_SCORE_NAMES.get(similarity, similarity)}{normalized}",
                plain=similarity == "cosine" and name == "none" and not subtract_mean,
                facts={"backend": similarity, "normalization": name},
            )
        )
    if data.calibration is None:
        return systems
    trials = data.calibration
    fitted = [
        Calibration.fit(scores[trials.name], trials.labels, held_out)
        for scores in score_all(calibration, [trials], *how).values()
    ]
    return systems + [
        system.calibrated_by(calibration, qualities)
        for system, calibration in zip(systems, fitted)
    ]
