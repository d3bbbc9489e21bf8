"""Enrolled speakers: one readable file, and who of them speaks."""

import json
import math
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch.nn.functional import normalize

from hamsb.dataio.annotations import Utterance
from hamsb.inference.extraction import EmbeddingExtractor
from hamsb.inference.tracking import NONE
from hamsb.utils.checks import check_whole
from hamsb.utils.files import digest, fcntl, lock, read_json, replacing
from hamsb.verification.calibration import Calibration
from hamsb.verification.decision import false_alarm_threshold

_KIND = "speakers enrolled with hamsb"
FALSE_ALARMS = 0.1  # of strangers' recordings, where nothing is asked for
_LARGEST = 1e18  # whose square float32 holds
_PATIENCE = 60.0  # seconds that another process may have the file
_ONE_THREAD = threading.Lock()  # changes a store; the file's lock keeps out processes


class EnrolledUtterance(NamedTuple):
    """A recording that a speaker was enrolled with.

    Attributes
    ----------
    file : str
        Its path when it was enrolled.
    sha256 : str
        Of the file's contents; of a stretch with ``[<start>:<stop>]`` behind, in samples.
    seconds : float
    embedding : tuple of float
        [D], float32.
    """

    file: str
    sha256: str
    seconds: float
    embedding: tuple[float, ...]


class Candidate(NamedTuple):
    """An enrolled speaker beside a recording.

    Attributes
    ----------
    name : str
    score : float
        Cosine of the recording and the mean of the speaker's utterances.
    ratio : float or None
        Its natural-log likelihood ratio, where the model has a calibration.
    accepted : bool or None
        Whether it reaches the threshold; None where there is none.
    """

    name: str
    score: float
    ratio: float | None
    accepted: bool | None


class Speakers:
    """A store of enrolled speakers: a text file (JSON) that may be read by anyone.

    Any number of utterances belongs to a speaker; a recording counts once. The file is
    written whole or not at all, and several processes may write to it. It holds
    embeddings, which tell people apart: keep it as you keep the recordings.

    Arguments
    ---------
    path : str or Path
        The file; the first `enroll` makes it.
    extractor : EmbeddingExtractor, optional
        The model, which must be the one that made the store. Without it the store can
        be listed, and speakers removed.

    Raises
    ------
    ValueError
        Another model made the store; the file is none, or damaged.

    Example
    -------
    >>> extractor = EmbeddingExtractor("results/mini/1234/export")  # doctest: +SKIP
    >>> speakers = Speakers("speakers.json", extractor)  # doctest: +SKIP
    >>> speakers.enroll("anna", ["anna1.wav", "anna2.wav"])  # doctest: +SKIP
    2
    >>> found = extractor.embed_files(["who.wav"])  # doctest: +SKIP
    >>> speakers.identify(found.matrix)[0][0].name  # doctest: +SKIP
    'anna'
    """

    def __init__(
        self, path: str | os.PathLike, extractor: EmbeddingExtractor | None = None
    ):
        self.path = Path(path).absolute()  # also after a change of the working folder
        self.extractor = extractor
        self._read()

    def _read(self) -> None:
        """What the file holds now."""
        model: dict[str, Any] = {}
        speakers: dict[str, list[EnrolledUtterance]] = {}
        if self.path.is_dir():
            raise ValueError(f"store={self.path}: a folder; give a file, speakers.json.")
        if self.path.exists():
            try:
                model, speakers = _parse(read_json(self.path))
            except (ValueError, KeyError, TypeError, OverflowError) as error:
                raise ValueError(
                    f"store={self.path}: no store of speakers, or damaged "
                    f"({type(error).__name__}: {error}); restore it, or give another path."
                ) from error
        if self.extractor is not None and model:
            theirs, ours = model["fingerprint"], self.extractor.fingerprint
            if theirs != ours:
                raise ValueError(
                    f"store={self.path}: made with the model {model['source']} "
                    f"({theirs[:12]}), whose embeddings mean nothing to "
                    f"{self.extractor.source} ({ours[:12]}). Give that model, or another "
                    "store."
                )
        self.model, self._speakers = model, speakers

    def __len__(self) -> int:
        return len(self._speakers)

    def __contains__(self, name: object) -> bool:
        return name in self._speakers

    @property
    def names(self) -> tuple[str, ...]:
        """The S speakers, sorted."""
        return tuple(sorted(self._speakers))

    def utterances(self, name: str) -> list[EnrolledUtterance]:
        """What a speaker was enrolled with, oldest first; ValueError without the name."""
        if name not in self._speakers:
            raise ValueError(
                f"name={name}: not in {self.path}, which has "
                f"{', '.join(self.names[:10]) or 'nobody'}{', ...' * (len(self) > 10)}."
            )
        return list(self._speakers[name])

    # ------------------------------------------------------------------- writing

    def enroll(self, name: str, files: Iterable[str | os.PathLike | Utterance]) -> int:
        """Add recordings to a speaker, who may be new. As `enroll_many`."""
        return self.enroll_many({name: files})

    def enroll_many(
        self,
        speakers: Mapping[str, Iterable[str | os.PathLike | Utterance]],
        **options: Any,
    ) -> int:
        """Add recordings of several speakers; all of them or, where one is bad, none.

        Arguments
        ---------
        speakers : mapping of str to iterable of path or Utterance
            Name -> audio files of that speaker, or stretches of files.
        **options
            Of `EmbeddingExtractor.embed_files`. With ``faults`` all bad recordings are
            named, not the first alone.

        Returns
        -------
        int
            How many recordings were added: those that the speaker has are not added
            again.

        Raises
        ------
        FileNotFoundError, ValueError
            A recording is missing or bad (names it), or is another speaker's; no
            recordings; a name that is empty or has line breaks or tabs; another process
            keeps the file.
        """
        extractor = self._needed()
        new: dict[str, tuple[str, str | Utterance]] = {}  # `_key` -> name, recording
        for name, files in speakers.items():
            _check_name(name)
            if isinstance(files, (str, os.PathLike)):
                raise ValueError(f"files={files}: one path; give a list of recordings.")
            if name == NONE:
                raise ValueError(
                    f"name={NONE}: is what tables say where it is nobody enrolled; give "
                    "another."
                )
            paths = [p if isinstance(p, Utterance) else os.fspath(p) for p in files]
            if not paths:
                raise ValueError(f"name={name}: no recordings to enroll.")
            for path in paths:
                key = _key(path)
                if key in new and new[key][0] != name:
                    raise ValueError(_shared(path, name, new[key][0]))
                new.setdefault(key, (name, path))
        absent = self._absent(new)
        new = {key: each for key, each in new.items() if key in absent}
        if not new:
            return 0
        embedded = extractor.embed_files(
            {k: path for k, (_, path) in new.items()}, **options
        )
        if faults := options.get("faults"):
            raise ValueError(
                f"{len(faults)} of {len(new)} recordings are bad, and none was enrolled."
            )
        seconds = embedded.lengths().tolist()
        rows = [tuple(map(_short, row)) for row in embedded.matrix.tolist()]
        with self._changing():
            absent = self._absent(new)
            for key, row, length in zip(embedded.utterances, rows, seconds):
                if key in absent:
                    name, path = new[key]
                    found = EnrolledUtterance(str(path), key, round(length, 3), row)
                    self._speakers.setdefault(name, []).append(found)
            self.model = self.model or {
                "fingerprint": extractor.fingerprint,
                "source": extractor.source,
                "sample_rate": extractor.sample_rate,
                "dimension": embedded.matrix.shape[1],
            }
        return len(absent)

    def _absent(self, new):
        """Those of some recordings that are not in the store; ValueError where one is
        there as another speaker's."""
        known = {
            utterance.sha256: name
            for name, utterances in self._speakers.items()
            for utterance in utterances
        }
        for key, (name, path) in new.items():
            if known.get(key, name) != name:
                raise ValueError(_shared(path, name, known[key]))
        return new.keys() - known.keys()

    def remove(self, name: str) -> None:
        """Take a speaker, with all utterances, out of the store."""
        with self._changing():
            self.utterances(name)  # refuses a name that is not there
            del self._speakers[name]

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """A block that changes what the file holds by now, and then the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock_file = self.path.with_name(f".{self.path.name}.lock")
        with _ONE_THREAD, open(lock_file, "w") as file:
            until = time.monotonic() + _PATIENCE
            while fcntl is not None and not lock(file):
                if time.monotonic() > until:
                    raise ValueError(
                        f"store={self.path}: another process has been writing to it for "
                        f"{_PATIENCE:.0f} s; end it, or try again."
                    )
                time.sleep(0.05)
            if fcntl is not None:  # what a killed process was writing
                for path in self.path.parent.glob(f".{self.path.name}.*.partial"):
                    path.unlink(missing_ok=True)
            self._read()
            try:
                yield
                with replacing(self.path) as partial:
                    partial.write_text(_text(self.model, self._speakers), encoding="utf-8")
            except BaseException:
                self._read()
                raise

    # ------------------------------------------------------------------- scoring

    def means(self) -> tuple[tuple[str, ...], torch.Tensor]:
        """The mean of each speaker's embeddings, normalized before and after.

        Returns
        -------
        names : tuple of str
            The S speakers, sorted.
        means : torch.Tensor
            [S, D], float32, of length 1.

        Raises
        ------
        ValueError
            Nobody is enrolled.
        """
        if not self._speakers:
            raise ValueError(f"store={self.path}: nobody is enrolled; see hamsb enroll.")
        rows = [
            normalize(torch.tensor([u.embedding for u in self._speakers[name]]), dim=1)
            for name in self.names
        ]
        return self.names, normalize(torch.stack([each.mean(0) for each in rows]), dim=1)

    def scores(self, embeddings: torch.Tensor) -> torch.Tensor:
        """How similar recordings are to the speakers.

        Arguments
        ---------
        embeddings : torch.Tensor
            [B, D], of the model that made the store.

        Returns
        -------
        torch.Tensor
            [B, S], a column for each of `names`: cosines with `means`. With the mean of
            several recordings they are larger than with one, and tell speakers apart
            better.
        """
        _, means = self.means()
        if embeddings.ndim != 2 or embeddings.shape[1] != means.shape[1]:
            raise ValueError(
                f"embeddings: must be [B, {means.shape[1]}], got {tuple(embeddings.shape)}."
            )
        return normalize(embeddings.float().cpu(), dim=1) @ means.T

    @property
    def false_alarms_by(self) -> str | None:
        """What a threshold for a share of false alarms is found by: "impostor trials",
        whose rates the model stores; else the model's "calibration"; or None."""
        recognition = self._needed().recognition
        decision = recognition.decision
        if decision and false_alarm_threshold(decision, 0.1) is not None:
            return "impostor trials"
        calibration = recognition.calibration
        calibrated = calibration is not None and calibration.scale > 0
        return "calibration" if calibrated else None

    def threshold(
        self, threshold: str | float | None = None, false_alarms: float | None = None
    ) -> float:
        r"""The least score at which a speaker of the store is accepted.

        Arguments
        ---------
        threshold : str, float or None
            The name of one that is stored with the model, or a cosine. It is that of one
            comparison: a stranger is compared with S speakers, and so is taken for one of
            them up to S times as often as the threshold's false alarm rate says.
        false_alarms : float, optional
            Instead: about this share of strangers' recordings is taken for any of the S
            speakers. The least score is the cosine that a share ``false_alarms / S`` of
            impostor trials reaches, of those that the model's thresholds were found on
            (`hamsb.verification.decision.false_alarm_threshold`). More recordings are
            taken where strangers are more alike than those speakers were, or several
            recordings a speaker are enrolled. Of a model with a calibration alone it is
            that of the log-likelihood ratio :math:`\ln(S / false\_alarms)`, which a
            stranger reaches at most so often, and mostly less. Without either argument:
            0.1 where the model has one of these, and else its "eer".

        Returns
        -------
        float

        Raises
        ------
        ValueError
            Both; no such threshold, or nothing to tell false alarms by, with the model; a
            share outside (0, 1).
        """
        recognition = self._needed().recognition
        if false_alarms is None:
            if threshold is not None or self.false_alarms_by is None:
                return recognition.limit(threshold)
            false_alarms = FALSE_ALARMS
        elif threshold is not None:
            raise ValueError(
                f"threshold={threshold}, false_alarms={false_alarms}: give one of them."
            )
        if not 0 < false_alarms < 1:
            raise ValueError(f"false_alarms={false_alarms}: must be between 0 and 1.")
        if not self._speakers:
            raise ValueError(f"store={self.path}: nobody is enrolled; see hamsb enroll.")
        by, rate = self.false_alarms_by, false_alarms / len(self)
        if by == "impostor trials":
            stored = cast(dict, recognition.decision)
            return cast(float, false_alarm_threshold(stored, rate))
        if by == "calibration":
            calibration = cast(Calibration, recognition.calibration)
            return (-math.log(rate) - calibration.offset) / calibration.scale
        raise ValueError(
            f"false_alarms={false_alarms}: {self._needed().source} stores nothing that "
            "tells how frequent they are; see hamsb threshold."
        )

    def identify(
        self,
        embeddings: torch.Tensor,
        best: int = 1,
        threshold: str | float | None = None,
        false_alarms: float | None = None,
    ) -> list[list[Candidate]]:
        """The speakers that recordings are most similar to.

        Arguments
        ---------
        embeddings : torch.Tensor
            [B, D], of the model that made the store.
        best : int
            How many a recording, at most.
        threshold, false_alarms :
            As for `threshold`. Without either, and without one stored with the model, no
            decision.

        Returns
        -------
        list of list of Candidate
            B lists, the most similar speaker first. A recording whose first candidate is
            not accepted is of none of the speakers.
        """
        recognition = self._needed().recognition
        check_whole("best", best, 1)
        limit = None
        if not (
            threshold is None and false_alarms is None and recognition.decision is None
        ):
            limit = self.threshold(threshold, false_alarms)
        top = self.scores(embeddings).topk(min(best, len(self)), dim=1)
        ratios: list[list[float | None]] = [[None] * top.values.shape[1]] * len(embeddings)
        if recognition.calibration is not None:
            ratios = recognition.log_likelihood_ratio(top.values).tolist()
        names = self.names
        return [
            [
                Candidate(names[i], score, ratio, None if limit is None else score >= limit)
                for i, score, ratio in zip(*row)
            ]
            for row in zip(top.indices.tolist(), top.values.tolist(), ratios)
        ]

    def _needed(self) -> EmbeddingExtractor:
        if self.extractor is None:
            raise ValueError(f"store={self.path}: opened without a model; give extractor=.")
        return self.extractor


def _key(path):
    """What tells a recording from any other, wherever it lies."""
    file = path.wav if isinstance(path, Utterance) else path
    if not Path(file).is_file():
        raise FileNotFoundError(f"{file}: no such audio file")
    stretch = f"[{path.start}:{path.stop}]" if isinstance(path, Utterance) else ""
    return digest(file) + stretch


def _shared(path, name, other):
    return (
        f"{path}: the same recording as one of {other}, so it is not of {name}; remove "
        "one of the two."
    )


def _check_name(name):
    if (
        not isinstance(name, str)
        or name != name.strip()
        or not name.isprintable()
        or not name
    ):
        raise ValueError(
            f"name={name!r}: must be a text without line breaks, tabs, or spaces around it."
        )


def _short(value):
    """The shortest number that is the same in float32."""
    return float(f"{value:.9g}")


def _text(model, speakers):
    """The file's text: JSON, a line an utterance."""
    lines = [f' "kind": {json.dumps(_KIND)},', f' "model": {json.dumps(model)},']
    lines.append(' "speakers": {')
    for i, (name, utterances) in enumerate(sorted(speakers.items())):
        lines.append(f"  {json.dumps(name, ensure_ascii=False)}: [")
        rows = [
            "   " + json.dumps(each._asdict(), ensure_ascii=False) for each in utterances
        ]
        lines += [",\n".join(rows), "  ]" + "," * (i < len(speakers) - 1)]
    return "\n".join(["{", *lines, " }", "}"]) + "\n"


def _parse(found):
    """Model and speakers of what `_text` wrote."""
    if not isinstance(found, dict) or found.get("kind") != _KIND:
        raise ValueError("another kind of file")
    model, speakers = found["model"], {}
    if not isinstance(model, dict) or not isinstance(found["speakers"], dict):
        raise ValueError("no mapping")
    if model or found["speakers"]:
        for key in ("fingerprint", "source"):
            if not isinstance(model[key], str):
                raise ValueError(key)
    for name, utterances in found["speakers"].items():
        _check_name(name)
        if not isinstance(utterances, list) or not utterances:
            raise ValueError(f"the utterances of {name}")
        speakers[name] = [
            EnrolledUtterance(
                u["file"],
                u["sha256"],
                float(u["seconds"]),
                tuple(map(float, u["embedding"])),
            )
            for u in utterances
        ]
        for each in speakers[name]:
            if not isinstance(each.file, str) or not isinstance(each.sha256, str):
                raise ValueError(f"a recording of {name}")
            numbers = (each.seconds, *each.embedding)
            whole = len(each.embedding) == model["dimension"]
            if not whole or not all(abs(number) < _LARGEST for number in numbers):
                raise ValueError(f"an embedding of {name}")
    return model, speakers
