"""A threshold and a calibration of one's own domain, kept beside a model."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hamsb.utils.checks import check_whole
from hamsb.utils.tables import markdown_table
from hamsb.verification.data import VerificationData
from hamsb.verification.decision import make_decision, write_own_decision
from hamsb.verification.embeddings import embed_sets
from hamsb.verification.evaluation import (
    P_TARGETS,
    decision_errors,
    eer_intervals,
    why_no_intervals,
)
from hamsb.verification.lookup import read_lists
from hamsb.verification.overlaps import find_overlaps, model_speakers, overlap_warnings
from hamsb.verification.results import results_warnings
from hamsb.verification.scoring import score_trials
from hamsb.verification.trials import Trials

if TYPE_CHECKING:
    from hamsb.inference.extraction import EmbeddingExtractor

# A threshold of fewer is that of a few voices, or of a few errors.
LEAST_TRIALS = 30
LEAST_SPEAKERS = 5
_FEW_ERRORS = 30  # at the EER; of fewer, the true rate may be half or twice as high


@dataclasses.dataclass(frozen=True, eq=False)
class OwnThreshold:
    """What `find_threshold` found.

    Attributes
    ----------
    decision : dict
        As `hamsb.verification.decision.make_decision` returns it.
    model : str
        The fingerprint of the model that it is for.
    speakers : int or None
        Of the trials; None where their paths do not name them.
    interval : tuple of float or None
        Of the EER, 95 %, from a bootstrap over speakers; None where they are not known.
    errors : dict of str to dict
        Name of a threshold -> what `hamsb.verification.evaluation.decision_errors` returns
        for these trials.
    warnings : list of str
    """

    decision: dict
    model: str
    speakers: int | None
    interval: tuple[float, float] | None
    errors: dict[str, dict]
    warnings: list[str]

    def write(self, path: str | os.PathLike) -> None:
        """Write the decision into a file of its own, which ``hamsb verify``, ``identify``
        and ``track`` and `SpeakerRecognition` take as ``decision``."""
        write_own_decision(path, self.decision, self.model)

    def __str__(self) -> str:
        found = self.decision
        speakers = "unknown" if self.speakers is None else self.speakers
        eer = f"EER {100 * found['eer']:.2f} %"
        if self.interval is not None:
            low, high = self.interval
            eer += f" (95 % interval over speakers {100 * low:.2f} to {100 * high:.2f})"
        rows = [
            [
                name,
                f"{each['threshold']:.4f}",
                f"{100 * each['miss_rate']:.2f} ({each['misses']})",
                f"{100 * each['false_alarm_rate']:.2f} ({each['false_alarms']})",
            ]
            for name, each in self.errors.items()
        ]
        table = markdown_table(
            ["threshold", "cosine", "misses %", "false alarms %"], rows, left=1
        )
        return (
            f"{found['list']}: {found['target_trials']} target and "
            f"{found['impostor_trials']} impostor trials, speakers: {speakers}\n"
            f"{eer}\n\n{table}\n"
            "The thresholds were chosen on these very trials: expect more errors on others."
        )


def find_threshold(
    extractor: "EmbeddingExtractor",
    trials: str | os.PathLike,
    data: str | os.PathLike | Sequence[str | os.PathLike],
    p_targets: Sequence[float] = P_TARGETS,
    draws: int = 1000,
    num_workers: int | None = None,
    progress: bool = True,
) -> OwnThreshold:
    """Find where a model should decide on recordings like one's own.

    Arguments
    ---------
    extractor : EmbeddingExtractor
        The model, which is not changed.
    trials : str or Path
        The trial list, of speakers who neither trained the model nor are to be recognized.
    data : str or Path, or a list of them
        Of the trials, in any layout of `hamsb.dataio.sources.open_source`.
    p_targets : sequence of float
        Priors, for the thresholds of least detection cost.
    draws : int
        Of the bootstrap for the EER's interval; 0: none.
    num_workers : int, optional
        As for `EmbeddingExtractor.embed_files`.
    progress : bool
        Show a progress bar.

    Raises
    ------
    FileNotFoundError
        The list or audio is missing.
    ValueError
        The list is damaged or of one class, there are fewer than 30 trials of a class or 5
        speakers, or audio cannot be embedded.
    """
    check_whole("draws", draws, least=0)
    (found,), files = read_lists(trials, data, key="data")
    speakers = _check_enough(found)
    lists = VerificationData([found], files)
    lists.check_files(extractor.recognition.encode_batch, extractor.sample_rate)
    (embeddings,) = embed_sets(
        extractor.recognition.encoder.encode,
        [files],
        [found],
        extractor.sample_rate,
        num_workers=num_workers,
        progress=progress,
        device=extractor.device,
    )
    scores = score_trials(embeddings, found)
    decision = make_decision(found, scores, p_targets)
    interval = None
    unclear = why_no_intervals(found)
    if draws and not unclear:
        interval = eer_intervals(found, scores[np.newaxis], draws)[0]
    overlaps = find_overlaps(lists, model_speakers(extractor.folder))
    errors = {
        name: decision_errors(scores, found.labels, threshold)
        for name, threshold in decision["thresholds"].items()
    }
    warnings = overlap_warnings(overlaps) + results_warnings(
        [{**decision, **({"eer_interval": interval} if interval else {})}]
    )
    warnings += filter(None, [unclear, _few_errors(decision)])
    return OwnThreshold(
        decision, extractor.fingerprint, speakers, interval, errors, warnings
    )


def _check_enough(trials: Trials) -> int | None:
    """The number of speakers, where the paths tell; ValueError where a threshold of these
    trials would be one of chance."""
    targets = int(trials.labels.sum())
    for what, count in (("target", targets), ("impostor", len(trials) - targets)):
        if count < LEAST_TRIALS:
            raise ValueError(
                f"{trials.path}: {count} {what} trials are too few for a threshold; give "
                f"at least {LEAST_TRIALS} of each kind, and better some thousands."
            )
    try:
        speakers = len(trials.speakers)
    except ValueError:  # none in the paths
        return None
    if speakers < LEAST_SPEAKERS:
        raise ValueError(
            f"{trials.path}: {speakers} speakers are too few for a threshold, which would "
            f"be that of their voices; give at least {LEAST_SPEAKERS}, and better some "
            "dozens."
        )
    return speakers


def _few_errors(decision: dict) -> str:
    """A sentence where the error rate hangs on a few trials, or ""."""
    misses = decision["eer"] * decision["target_trials"]
    if misses >= _FEW_ERRORS:
        return ""
    return (
        f"{decision['list']}: at the EER about {misses:.0f} target trials are missed, and "
        f"with fewer than {_FEW_ERRORS} errors the rate and the threshold are uncertain. "
        "Give more trials, of more speakers."
    )


def decision_path(
    output: str | os.PathLike | None, trials: str | os.PathLike, model: str | os.PathLike
) -> Path:
    """Where a decision goes: by default in the working folder, called as the list.

    Arguments
    ---------
    output : str or Path, optional
        Where the user said.
    trials : str or Path
        The list.
    model : str or Path
        The model's folder.

    Raises
    ------
    ValueError
        In the model's folder, or a folder.

    Example
    -------
    >>> print(decision_path(None, "lists/veri_dev.txt", "export"))
    veri_dev_decision.json
    """
    path = Path(output or f"{Path(trials).stem}_decision.json")
    if path.is_dir():
        raise ValueError(f"output={path}: a folder; give a file, calls.json.")
    if path.resolve().parent == Path(model).resolve():
        raise ValueError(
            f"output={path}: in the model's folder, whose own decision is to stay; give a "
            "path beside it. (verify.py's store_decision replaces the model's own.)"
        )
    return path
