"""Who of some enrolled speakers speaks when in a long recording.

The recording is read twice, a block at a time: for its level, which tells speech from
pauses, and for its windows, each of which is scored against all speakers. So memory grows
with the number of windows, not with the audio.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from speechbrain.dataio.preprocess import AudioNormalizer

from hamsb.dataio.audio import SILENCE, stream_audio
from hamsb.utils.checks import check_positive, check_whole
from hamsb.utils.progress import progress_bar
from hamsb.utils.tables import write_csv
from hamsb.verification.segments import (
    Segment,
    check_rttm_names,
    rttm_name,
    segment_errors,
    write_rttm,
)

NONE = "none"  # what tables call it when nobody enrolled speaks
WINDOW, HOP = 2.0, 0.5  # seconds
PENALTY = 0.2  # of a change of the speaker, in cosines times seconds
PAUSE_LEVEL = 30.0  # dB below the recording's loud level, where pauses begin
_FRAME = 0.02  # seconds, of the levels
_LOUD = 95.0  # percentile of the levels
_SHORTEST_PAUSE = 0.3  # seconds
_SHORTEST_SPEECH = 0.1
_LEAST_SPEECH = 0.25  # share of a window that is worth embedding
_NOBODY = -1


@dataclass(frozen=True)
class Stretch:
    """A part of a recording, of one label.

    Attributes
    ----------
    start, end : float
        Seconds.
    speech : bool
        Whether there is speech.
    speaker : str or None
        Who of the enrolled; None: nobody of them, or no speech.
    score : float or None
        Mean cosine of its windows with that speaker, or, where it is nobody, with the
        speaker who comes nearest. None without speech.
    """

    start: float
    end: float
    speech: bool
    speaker: str | None
    score: float | None


@dataclass(frozen=True, eq=False)
class Track:
    """What `track` found.

    Attributes
    ----------
    path : Path
        The recording.
    seconds : float
        Its length.
    speakers : tuple of str
        S names.
    threshold : float
        The cosine from which a window speaks for a speaker.
    centers : numpy.ndarray
        [W], float64, ascending: the middles of the windows that were embedded, in seconds.
    scores : numpy.ndarray
        [W, S], float32: cosines of the windows with the speakers.
    decisions : numpy.ndarray
        [W], int64: rows of ``speakers``, -1 for nobody.
    stretches : tuple of Stretch
        They follow one another and cover the recording.
    """

    path: Path
    seconds: float
    speakers: tuple[str, ...]
    threshold: float
    centers: np.ndarray
    scores: np.ndarray
    decisions: np.ndarray
    stretches: tuple[Stretch, ...]

    @property
    def segments(self) -> list[Segment]:
        """When the enrolled speakers speak."""
        return [
            Segment(each.start, each.end, each.speaker)
            for each in self.stretches
            if each.speaker is not None
        ]

    def shares(self) -> dict[str, float]:
        """Seconds of each speaker who was found, most first; then `NONE` for speech of
        nobody enrolled, where there is some."""
        found: dict[str, float] = {}
        nobody = 0.0
        for each in self.stretches:
            if each.speaker is not None:
                found[each.speaker] = found.get(each.speaker, 0.0) + each.end - each.start
            elif each.speech:
                nobody += each.end - each.start
        ordered = dict(sorted(found.items(), key=lambda item: -item[1]))
        return {**ordered, NONE: nobody} if nobody else ordered

    def errors(self, reference: Sequence[Segment]) -> dict:
        """How much of it is wrong, where it is known who speaks.

        Arguments
        ---------
        reference : sequence of Segment
            As `hamsb.verification.segments.read_rttm` reads them; those who are not
            enrolled count as nobody.

        Returns
        -------
        dict
            As `hamsb.verification.segments.segment_errors`.
        """
        found = [each._replace(speaker=rttm_name(each.speaker)) for each in self.segments]
        known = [rttm_name(name) for name in self.speakers]
        return segment_errors(reference, found, self.seconds, known)

    def write_table(
        self,
        path: str | os.PathLike,
        log_likelihood_ratio: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        """Write the stretches as csv, whole or not at all.

        The columns are ``start`` and ``end`` in seconds, ``speech`` (yes, no), ``speaker``
        (a name or none), ``cosine`` and ``log_likelihood_ratio``.

        Arguments
        ---------
        path : str or Path
        log_likelihood_ratio : callable, optional
            From cosines [N] to natural-log likelihood ratios [N], as
            `SpeakerRecognition.log_likelihood_ratio`. Without it that column is empty.
        """
        scores = torch.tensor(
            [0.0 if each.score is None else each.score for each in self.stretches],
            dtype=torch.float64,
        )
        ratios = None if log_likelihood_ratio is None else log_likelihood_ratio(scores)
        rows = []
        for number, each in enumerate(self.stretches):
            known = each.score is not None
            rows.append(
                {
                    "start": f"{each.start:.2f}",
                    "end": f"{each.end:.2f}",
                    "speech": "yes" if each.speech else "no",
                    "speaker": NONE if each.speaker is None else each.speaker,
                    "cosine": f"{each.score:.4f}" if known else None,
                    "log_likelihood_ratio": (
                        f"{ratios[number].item():.3f}"
                        if known and ratios is not None
                        else None
                    ),
                }
            )
        write_csv(path, rows)

    def write_rttm(self, path: str | os.PathLike) -> None:
        """Write when the enrolled speakers speak, as `hamsb.verification.segments` does;
        the recording is called by its file's name without the last suffix."""
        write_rttm(path, self.segments, self.path.stem)


def track(
    path: str | os.PathLike,
    speakers: Sequence[str],
    score: Callable[[torch.Tensor, list[str]], torch.Tensor],
    sample_rate: int,
    threshold: float,
    window: float = WINDOW,
    hop: float = HOP,
    penalty: float = PENALTY,
    pause_level: float = PAUSE_LEVEL,
    batch_size: int = 16,
    progress: bool = True,
    check_length: Callable[[object, int], None] | None = None,
) -> Track:
    """Find who of some enrolled speakers speaks when.

    1. **Pauses.** A frame of 20 ms is speech where its level is within ``pause_level`` of
       the loud level (the 95th percentile of the recording's frames) and above -80 dBFS.
       Pauses of less than 0.3 s belong to the speech around them, and speech of less than
       0.1 s to the pause. A pause has no speaker.
    2. **Scores.** Every ``hop`` seconds a window is compared with each speaker, unless less
       than a quarter of it is speech.
    3. **Decisions.** Those for which the sum over the windows of the speaker's score minus
       the threshold, 0 for nobody, times ``hop``, minus ``penalty`` for each change is
       greatest: the Viterbi algorithm finds them.
    4. **Changes** lie in the middle between the middles of two windows, or in the pause.

    One person at a time is found: where two speak at once, one of them is missed.

    Arguments
    ---------
    path : str or Path
        Audio of any length, at any rate; channels are averaged.
    speakers : sequence of str
        S names.
    score : callable
        From windows [B, T] at ``sample_rate`` and their B names, for errors, to scores
        [B, S], such as cosines.
    sample_rate : int
        Hz.
    threshold : float
        The score from which a recording is a speaker's.
    window, hop : float
        Seconds. A shorter recording is one window.
    penalty : float
        In units of the scores times seconds: at 0.2 a speaker must be better than another
        by 0.1 for two seconds to be worth a change.
    pause_level : float
        In dB.
    batch_size : int
        B, windows at a time; they have one length, so that it changes nothing.
    progress : bool
        Show a progress bar.
    check_length : callable, optional
        (path, samples) -> a ValueError where so few are too short for the model, as
        `hamsb.verification.encoding.Encoder.check_length`. Without it a recording of less
        than 0.1 s has no speech.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        A number out of range; no speakers, or one called none; the recording cannot be
        read, is silent, not finite or too short for the model.
    """
    _check(speakers, threshold, window, hop, penalty, pause_level, batch_size)
    path = Path(path)
    normalizer = AudioNormalizer(sample_rate)
    frame = round(_FRAME * sample_rate)
    samples, levels = _levels(path, normalizer, frame)
    if check_length is not None:
        check_length(path, samples)
    speech = find_speech(levels, pause_level, frame / sample_rate)
    length = min(round(window * sample_rate), samples)
    starts = _starts(samples, length, max(1, round(hop * sample_rate)))
    starts = starts[_speech_share(starts, length, speech, frame) >= _LEAST_SPEECH]
    # One array: small ones, kept between large ones that go, would keep the memory of all.
    scores = np.empty((len(starts), len(speakers)), dtype=np.float32)
    done = 0
    bar = progress_bar(total=len(starts), desc="track", shown=progress)
    with torch.no_grad(), bar:
        for at, wavs in _windows(path, normalizer, starts, length, batch_size):
            names = [
                f"{path} at {each / sample_rate:.2f} s, window={length / sample_rate:g}"
                for each in at
            ]
            scores[done : done + len(wavs)] = score(wavs, names).float().cpu().numpy()
            done += len(wavs)
            bar.update(len(wavs))
    centers = (starts + length / 2) / sample_rate
    decisions = smooth((scores - threshold) * hop, penalty)
    seconds, period = samples / sample_rate, frame / sample_rate
    labels = _frame_labels(decisions, centers, length / sample_rate, speech, period)
    stretches = _stretches(labels, speech, period, seconds, centers, scores, speakers)
    return Track(
        path, seconds, tuple(speakers), threshold, centers, scores, decisions, stretches
    )


def _check(speakers, threshold, window, hop, penalty, pause_level, batch_size):
    if not speakers:
        raise ValueError("the store has no speakers; enroll some first.")
    if NONE in speakers:
        raise ValueError(
            f"a speaker is called {NONE}, which is what the table says where nobody "
            "enrolled speaks; enroll this one under another name."
        )
    check_rttm_names(speakers)
    if not math.isfinite(threshold):
        raise ValueError(f"threshold={threshold}: must be a finite number.")
    for name, value in (("window", window), ("hop", hop), ("pause_level", pause_level)):
        check_positive(name, value)
    if hop > window:
        raise ValueError(
            f"hop={hop:g}: must be at most the window of {window:g} s, or some of the "
            "recording is never looked at."
        )
    if not (math.isfinite(penalty) and penalty >= 0):
        raise ValueError(f"penalty={penalty}: must be 0 or more.")
    check_whole("batch_size", batch_size, least=1)


# -------------------------------------------------------------------------- pauses


def _levels(path: Path, normalizer: AudioNormalizer, frame: int) -> tuple[int, np.ndarray]:
    """How many samples a recording has, and the level of each of its frames in dBFS: the
    root mean square about the mean, so that a constant offset is silence."""
    samples, parts, rest = 0, [], np.empty(0, dtype=np.float32)
    for wav in stream_audio(path, normalizer):
        samples += len(wav)
        audio = np.concatenate([rest, wav.numpy()])
        whole = len(audio) // frame * frame
        parts.append(_decibels(audio[:whole].reshape(-1, frame)))
        rest = audio[whole:]
    if len(rest):
        parts.append(_decibels(rest[np.newaxis]))
    if not samples:
        raise ValueError(f"{path}: no samples; give a recording of speech.")
    levels = np.concatenate(parts)
    if levels.max() <= 20 * math.log10(SILENCE):
        raise ValueError(
            f"{path}: silent, no part of it is above -80 dBFS in "
            f"{samples / normalizer.sample_rate:.3f} s; give a recording of speech."
        )
    return samples, levels


def _decibels(frames: np.ndarray) -> np.ndarray:
    """Levels [F] of frames [F, T], float32."""
    power = frames.astype(np.float64).var(axis=1)
    return (10 * np.log10(np.maximum(power, 1e-20))).astype(np.float32)


def find_speech(
    levels: np.ndarray, pause_level: float = PAUSE_LEVEL, frame: float = _FRAME
) -> np.ndarray:
    """Which frames of a recording are loud enough to be speech.

    Arguments
    ---------
    levels : numpy.ndarray
        [F], in dBFS; some above -80.
    pause_level : float
        A frame is speech within so many dB of the 95th percentile of the levels, and above
        -80 dBFS. Those that are not above -80 do not count for the percentile.
    frame : float
        Seconds of a frame. Pauses of less than 0.3 s are then filled, and after that speech
        of less than 0.1 s removed.

    Returns
    -------
    numpy.ndarray
        [F], bool.

    Example
    -------
    >>> levels = np.full(100, -70.0)
    >>> levels[20:60] = -20.0
    >>> levels[30:40] = -60.0  # 0.2 s
    >>> levels[80] = -20.0
    >>> np.flatnonzero(np.diff(find_speech(levels)))  # the last frames before a change
    array([19, 59])
    """
    least = 20 * math.log10(SILENCE)
    loud = np.percentile(levels[levels > least], _LOUD)
    speech = levels > max(least, loud - pause_level)
    _fill_short(speech, False, _SHORTEST_PAUSE / frame, ends=False)
    _fill_short(speech, True, _SHORTEST_SPEECH / frame, ends=True)
    return speech


def _fill_short(mask: np.ndarray, value: bool, least: float, ends: bool) -> None:
    """Turn runs of a value that are shorter into the other, in place; those at the ends of
    the recording too, or not."""
    edges = np.concatenate([[0], np.flatnonzero(np.diff(mask)) + 1, [len(mask)]])
    for start, stop in zip(edges[:-1], edges[1:]):
        inside = start > 0 and stop < len(mask)
        if mask[start] == value and stop - start < least - 1e-6 and (inside or ends):
            mask[start:stop] = not value


# -------------------------------------------------------------------------- windows


def _starts(samples: int, length: int, hop: int) -> np.ndarray:
    """Where windows begin, in samples; the last ends with the recording."""
    starts = np.arange(0, samples - length + 1, hop)
    if starts[-1] + length < samples:
        starts = np.append(starts, samples - length)
    return starts


def _speech_share(
    starts: np.ndarray, length: int, speech: np.ndarray, frame: int
) -> np.ndarray:
    """How much of each window is speech, to within a frame."""
    before = np.concatenate([[0], np.cumsum(speech)])
    first = starts // frame
    last = np.minimum(-(-(starts + length) // frame), len(speech))
    return (before[last] - before[first]) / (last - first)


def _windows(
    path: Path, normalizer: AudioNormalizer, starts: np.ndarray, length: int, batch: int
) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """Starts [B] and samples [B, T] of the windows, while the file is read."""
    audio, at, done = torch.empty(0), 0, 0  # what is held of the file, and since where
    waiting: list[torch.Tensor] = []
    for wav in stream_audio(path, normalizer):
        audio = torch.cat([audio, wav])
        ready = int(np.searchsorted(starts, at + len(audio) - length, side="right"))
        for start in starts[done + len(waiting) : ready]:
            waiting.append(audio[start - at : start - at + length])
            if len(waiting) == batch:
                yield starts[done : done + batch], torch.stack(waiting)
                done, waiting = done + batch, []
        waiting = [each.clone() for each in waiting]  # or they would hold the block
        used = int(starts[ready]) if ready < len(starts) else at + len(audio)
        kept = min(max(0, used - at), len(audio))
        audio, at = audio[kept:].clone(), at + kept
    if waiting:
        yield starts[done:], torch.stack(waiting)
    if done + len(waiting) < len(starts):
        raise ValueError(f"{path}: became shorter while it was read; start again.")


# ------------------------------------------------------------------------ decisions


def smooth(gains: np.ndarray, penalty: float) -> np.ndarray:
    """The decisions of greatest gain, when each change costs something.

    The Viterbi algorithm over S speakers and nobody, whose gain is 0.

    Arguments
    ---------
    gains : numpy.ndarray
        [W, S]: what it gains to decide for a speaker in a window, such as the score minus
        the threshold.
    penalty : float
        What it costs that the decision differs from that of the window before. 0: every
        window for itself.

    Returns
    -------
    numpy.ndarray
        [W], int64: a speaker, or -1 for nobody. Of equal gains, without a change, and
        nobody before the first speaker.

    Example
    -------
    >>> gains = np.array([[0.3], [-0.1], [0.2], [-0.3], [-0.3]])
    >>> smooth(gains, 0.0)
    array([ 0, -1,  0, -1, -1])
    >>> smooth(gains, 0.25)
    array([ 0,  0,  0, -1, -1])
    """
    windows, speakers = gains.shape
    gains = np.column_stack([np.zeros(windows), gains.astype(np.float64)])
    came_from = np.empty((windows, speakers + 1), dtype=np.int32)
    stay = np.arange(speakers + 1)
    best = np.zeros(speakers + 1)
    for number, gain in enumerate(gains):
        leader = int(best.argmax())
        change = best[leader] - penalty > best
        came_from[number] = np.where(change, leader, stay)
        best = np.where(change, best[leader] - penalty, best) + gain
    decisions = np.empty(windows, dtype=np.int64)
    state = int(best.argmax())
    for number in range(windows - 1, -1, -1):
        decisions[number] = state - 1
        state = came_from[number, state]
    return decisions


def _frame_labels(
    decisions: np.ndarray,
    centers: np.ndarray,
    window: float,
    speech: np.ndarray,
    frame: float,
) -> np.ndarray:
    """The decision [F] of the window whose middle is nearest to each frame of speech; -1 in
    pauses, and where no window that was embedded holds the frame."""
    labels = np.full(len(speech), _NOBODY, dtype=np.int64)
    if not len(centers):
        return labels
    times = (np.flatnonzero(speech) + 0.5) * frame
    nearest = np.searchsorted((centers[:-1] + centers[1:]) / 2, times)
    held = np.abs(times - centers[nearest]) <= window / 2 + frame
    labels[speech] = np.where(held, decisions[nearest], _NOBODY)
    return labels


def _stretches(
    labels: np.ndarray,
    speech: np.ndarray,
    frame: float,
    seconds: float,
    centers: np.ndarray,
    scores: np.ndarray,
    speakers: Sequence[str],
) -> tuple[Stretch, ...]:
    """Runs of frames of one label."""
    changes = np.flatnonzero((np.diff(labels) != 0) | (np.diff(speech) != 0)) + 1
    edges = np.concatenate([[0], changes, [len(labels)]])
    found = []
    for first, last in zip(edges[:-1], edges[1:]):
        start, end = first * frame, min(last * frame, seconds)
        if last == len(labels):
            end = seconds
        label, spoken = int(labels[first]), bool(speech[first])
        score = None
        if spoken and len(centers):
            score = _score(label, start, end, centers, scores)
        speaker = None if label == _NOBODY else speakers[label]
        found.append(Stretch(float(start), float(end), spoken, speaker, score))
    return tuple(found)


def _score(label, start, end, centers, scores):
    """Mean score of the windows with their middle in a stretch, or of the nearest one, with
    a speaker, or with the one who comes nearest."""
    first, last = np.searchsorted(centers, [start, end])
    if first == last:
        first = int(np.abs(centers - (start + end) / 2).argmin())
        last = first + 1
    means = scores[first:last].mean(axis=0)
    return float(means.max() if label == _NOBODY else means[label])


# ---------------------------------------------------------------------------- words


def check_output(output: str | os.PathLike) -> str:
    """The path before the endings of the files; a ValueError where it is a folder, or its
    folder cannot be written, before anything takes long."""
    path = Path(output)
    if path.is_dir():
        raise ValueError(
            f"output={path}: a folder; give a path without ending, {path / 'meeting'}."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"output={path}: nothing can be written to {path.parent}.")
    return str(path)


def error_lines(errors: dict) -> str:
    """What `hamsb.verification.segments.segment_errors` returns, for people."""
    rate, strangers = errors["error_rate"], f"{errors['unknown']:.1f} s of strangers"
    second = f"no speech of the enrolled speakers, {strangers}"
    if rate is not None:
        second = (
            f"diarization error: {100 * rate:.1f} % of {errors['speech']:.1f} s of the "
            f"enrolled speakers; {strangers}"
        )
    return (
        f"wrong: {100 * errors['frame_error']:.1f} % of {errors['seconds']:.1f} s "
        f"({errors['missed']:.1f} s missed, {errors['false_alarm']:.1f} s false alarms, "
        f"{errors['false_alarm_unknown']:.1f} s of them where strangers speak, "
        f"{errors['confused']:.1f} s of another speaker)\n{second}"
    )
