"""What a verification reads: trial lists and their audio, a cohort, metadata."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from hamsb.dataio.annotations import Recording, Utterance
from hamsb.dataio.audio import check_files
from hamsb.verification.embeddings import Embeddings, embed_sets, recordings
from hamsb.verification.encoding import Encoder
from hamsb.verification.groups import Metadata, trial_groups
from hamsb.verification.lookup import Enrolment
from hamsb.verification.scoring import trial_seconds
from hamsb.verification.trials import Trials, speaker_of


class EmbeddedData(NamedTuple):
    """The embeddings of what a verification reads; none where it has no such part."""

    test: Embeddings
    calibration: Embeddings
    cohort: Embeddings


@dataclasses.dataclass(frozen=True)
class VerificationData:
    """What a verification reads, all of it found before anything takes long.

    Attributes
    ----------
    lists : list of Trials
        What is reported.
    files : dict of str to Path, Utterance or tuple of these
        Their utterances and models, as `hamsb.verification.lookup.read_lists` finds them.
    calibration : Trials, optional
        The list that scores are calibrated on, of other speakers.
    calibration_files : dict of str to Path, Utterance or tuple of these
        Its utterances and models.
    cohort_files : dict of str to Path or Utterance
        What scores are normalized with, of speakers who are in no list:
        `hamsb.verification.normalization.find_cohort`.
    metadata : Metadata, optional
        What trials are grouped by besides their duration and session.
    """

    lists: Sequence[Trials]
    files: Mapping[str, Enrolment]
    calibration: Trials | None = None
    calibration_files: Mapping[str, Enrolment] = dataclasses.field(default_factory=dict)
    cohort_files: Mapping[str, Recording] = dataclasses.field(default_factory=dict)
    metadata: Metadata | None = None

    def __post_init__(self) -> None:
        for trials in self.all_lists if self.calibration is not None else ():
            _ = trials.speakers  # refuses names without a speaker, before embedding

    @property
    def all_lists(self) -> list[Trials]:
        """The lists, and the one of the calibration."""
        return [*self.lists, *([] if self.calibration is None else [self.calibration])]

    @property
    def cohort_speakers(self) -> set[str]:
        """Who is in the cohort."""
        return {speaker_of(name) for name in self.cohort_files}

    def groups(
        self, embeddings: Embeddings | None = None, duration_bins: Sequence[float] = ()
    ) -> dict[str, dict[tuple[str, str], np.ndarray]]:
        """Name of the list -> what `trial_groups` returns for it.

        Arguments
        ---------
        embeddings : Embeddings, optional
            Of the lists' utterances, with their lengths. Without them nothing is grouped
            by duration, but errors are found.
        duration_bins : sequence of float
            Limits between the duration groups, in seconds, ascending.
        """
        return {
            trials.name: trial_groups(
                trials,
                None if embeddings is None else trial_seconds(embeddings, trials),
                duration_bins,
                self.metadata,
            )
            for trials in self.lists
        }

    def check_files(
        self, encode: Callable[[torch.Tensor], torch.Tensor], sample_rate: int
    ) -> None:
        """Look at the headers of all files before any is embedded.

        Arguments
        ---------
        encode : callable
            Audio [B, T] -> embeddings [B, D] or [B, 1, D]. It is tried with noise where a
            file is shorter than a second.
        sample_rate : int
            Of the model, in Hz.

        Raises
        ------
        ValueError
            As `hamsb.dataio.audio.check_files`; the message begins with the list.
        """
        encoder = Encoder(encode, sample_rate)
        parts = [
            (str(trials.path), {name: self.files[name] for name in trials.utterances})
            for trials in self.lists
        ]
        if self.calibration is not None:
            parts.append((str(self.calibration.path), dict(self.calibration_files)))
        parts.append(("cohort", dict(self.cohort_files)))
        for name, named in parts:
            files = recordings(named)
            try:
                try:
                    check_files(files, sample_rate, sample_rate)  # a second is enough
                except ValueError:
                    check_files(files, sample_rate, encoder.least_samples or 1)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None

    def embed(
        self,
        encode: Callable[[torch.Tensor], torch.Tensor],
        sample_rate: int,
        **options: Any,
    ) -> EmbeddedData:
        """Embed each file once. Arguments and errors as `embed_sets`."""
        sets = [self.files, self.calibration_files, self.cohort_files]
        return EmbeddedData(
            *embed_sets(encode, sets, self.all_lists, sample_rate, **options)
        )


def by_speaker(
    lists: Sequence[Trials], files: Mapping[str, Enrolment]
) -> tuple[list[Trials], dict[str, Recording]]:
    """Some lists and their recordings by names whose first folder is the speaker.

    Arguments
    ---------
    lists : sequence of Trials
    files : dict of str to Path, Utterance or tuple of these
        As `hamsb.verification.lookup.read_lists` finds them; models are left out.

    Returns
    -------
    list of Trials
        With the names of `speaker_first`, so that errors about these find their lines.
    dict of str to Path or Utterance
        By those names.
    """
    named = speaker_first(lists)
    renamed = []
    for trials in lists:
        enrol, test = (
            tuple(named[name] for name in side) for side in (trials.enrol, trials.test)
        )
        renamed.append(dataclasses.replace(trials, enrol=enrol, test=test, told={}))
    return renamed, {
        named[name]: file
        for name, file in files.items()
        if not isinstance(file, tuple) or isinstance(file, Utterance)
    }


def speaker_first(lists: Sequence[Trials]) -> dict[str, str]:
    """The utterances of some lists -> names that begin with speaker and session.

    Example
    -------
    >>> from pathlib import Path
    >>> told = {"u1": ("id1", ""), "u2": ("id1", "id1/x"), "id1/x/c": ("id1", "id1/x")}
    >>> sides = ("u1", "u2"), ("id1/x/c", "id1/b")
    >>> trials = Trials(np.array([1, 1]), *sides, Path("O.txt"), told)
    >>> speaker_first([trials])
    {'id1/b': 'id1/b', 'id1/x/c': 'id1/x/c', 'u1': 'id1/u1', 'u2': 'id1/x/u2'}
    """
    return {
        name: _speaker_first(name, *trials.told[name]) if name in trials.told else name
        for trials in lists
        for name in trials.utterances
    }


def _speaker_first(name: str, speaker: str, session: str) -> str:
    """A name behind the speaker and the session that the data told; where they told no
    session, that is empty and not the name's first folder."""
    first = session or (f"{speaker}/" if "/" in name else speaker)
    return name if session and name.startswith(f"{session}/") else f"{first}/{name}"
