"""Who speaks when: segments of a recording, their files, and how much of them is wrong."""

import math
import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hamsb.utils.files import replacing

_KIND = "SPEAKER"  # the lines of an RTTM file that say who speaks
_FIELDS = 10


class Segment(NamedTuple):
    """A stretch of a recording in which one person speaks.

    Attributes
    ----------
    start, end : float
        Seconds.
    speaker : str
    """

    start: float
    end: float
    speaker: str


def write_rttm(
    path: str | os.PathLike, segments: Iterable[Segment], recording: str
) -> None:
    """Write segments as an RTTM file, whole or not at all.

    A line is ``SPEAKER <recording> 1 <start> <duration> <NA> <NA> <speaker> <NA> <NA>``,
    in seconds to the millisecond. Fields are separated by spaces, so one in a name becomes
    an underscore.

    Arguments
    ---------
    path : str or Path
        The file; its folder is made if need be.
    segments : iterable of Segment
    recording : str
        What the recording is called.

    Raises
    ------
    ValueError
        Two speakers would have one name.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_rttm(f"{folder}/a.rttm", [Segment(0.5, 2.0, "Ann Lee")], "a")
    ...     print(Path(folder, "a.rttm").read_text(), end="")
    ...     read_rttm(f"{folder}/a.rttm")
    SPEAKER a 1 0.500 1.500 <NA> <NA> Ann_Lee <NA> <NA>
    [Segment(start=0.5, end=2.0, speaker='Ann_Lee')]
    """
    segments = list(segments)
    check_rttm_names(speaker for _, _, speaker in segments)
    lines = [
        f"{_KIND} {rttm_name(recording)} 1 {start:.3f} {end - start:.3f} "
        f"<NA> <NA> {rttm_name(speaker)} <NA> <NA>\n"
        for start, end, speaker in segments
    ]
    with replacing(path) as partial:
        partial.write_text("".join(lines), encoding="utf-8")


def rttm_name(name: str) -> str:
    """A name as an RTTM file has it, without spaces.

    Example
    -------
    >>> rttm_name("Ann Lee")
    'Ann_Lee'
    """
    return "_".join(name.split()) or "_"


def check_rttm_names(speakers: Iterable[str]) -> None:
    """ValueError where two speakers would have one name in an RTTM file.

    Example
    -------
    >>> check_rttm_names(["Ann Lee", "Ann"])
    """
    spelled: dict[str, str] = {}
    for speaker in speakers:
        name = rttm_name(speaker)
        if spelled.setdefault(name, speaker) != speaker:
            raise ValueError(
                f"the speakers {spelled[name]!r} and {speaker!r} would both be called "
                f"{name} in an RTTM file; rename one of them."
            )


def read_rttm(path: str | os.PathLike, recording: str | None = None) -> list[Segment]:
    """Read who speaks when from an RTTM file, in the file's order.

    Arguments
    ---------
    path : str or Path
        Lines of another kind than ``SPEAKER`` say other things and are passed over.
    recording : str, optional
        Only the segments of this one, where the file has several; a file of one recording
        is taken whole, whatever that is called.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        A line has too few fields or no times (with file and line); there is no segment;
        the file has several recordings, and not this one.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such RTTM file")
    found: dict[str, list[Segment]] = {}
    try:
        with open(path, encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                fields = line.split()
                if fields[:1] != [_KIND]:
                    continue
                place = f"{path}:{number}"
                if len(fields) < _FIELDS - 2:
                    raise ValueError(
                        f"{place}: a line '{_KIND} recording 1 start duration <NA> <NA> "
                        f"speaker <NA> <NA>' is needed, found {line.rstrip()!r}"
                    )
                found.setdefault(fields[1], []).append(_segment(fields, place))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file in UTF-8 ({error})") from error
    if not found:
        raise ValueError(f"{path}: no line begins with {_KIND}; is this an RTTM file?")
    if len(found) == 1:
        return next(iter(found.values()))
    name = None if recording is None else rttm_name(recording)
    if name not in found:
        raise ValueError(
            f"{path}: of {len(found)} recordings, such as {next(iter(found))}, and none is "
            f"called {name}."
        )
    return found[name]


def _segment(fields: list[str], place: str) -> Segment:
    try:
        start, duration = float(fields[3]), float(fields[4])
    except ValueError:
        start = duration = math.nan
    if not (math.isfinite(start + duration) and start >= 0 and duration >= 0):
        raise ValueError(
            f"{place}: start and duration must be seconds, not {fields[3]!r} and "
            f"{fields[4]!r}"
        )
    return Segment(start, start + duration, fields[7])


def segment_errors(
    reference: Sequence[Segment],
    found: Sequence[Segment],
    seconds: float,
    known: Collection[str] | None = None,
) -> dict:
    """How much time of a recording is labeled with the wrong speaker, ready for JSON.

    At every moment, of R speakers who speak and F who were found, C of them rightly,
    max(0, R - F) are missed, max(0, F - R) are false alarms and min(R, F) - C confused.
    This is NIST's diarization error [1]_ for names that are known: no speaker is mapped to
    another, and nothing around a change is forgiven (no collar).

    Arguments
    ---------
    reference, found : sequence of Segment
        Who speaks, and who was found to; segments may overlap, and of one speaker's the
        union counts.
    seconds : float
        Of the recording. Nothing beyond counts.
    known : collection of str, optional
        The speakers who could be found; that others speak is as if nobody did, and to
        find one of the known there is a false alarm.

    Returns
    -------
    dict
        In seconds: ``seconds`` of the recording; ``speech`` of known speakers;
        ``unknown`` others; ``missed``, ``false_alarm`` and of it ``false_alarm_unknown``,
        where only others speak, and ``confused``. Fractions: ``error_rate``, missed, false
        alarm and confused together, in ``speech`` (None without any); ``frame_error``, the
        time at which anything is wrong, in ``seconds``.

    Raises
    ------
    ValueError
        The recording has no length.

    References
    ----------
    .. [1] NIST, "The 2009 (RT-09) rich transcription meeting recognition evaluation plan",
       2009.

    Example
    -------
    >>> reference = [Segment(0, 4, "ann"), Segment(4, 8, "bob"), Segment(8, 9, "eve")]
    >>> found = [Segment(1, 5, "ann"), Segment(5, 9, "bob")]
    >>> errors = segment_errors(reference, found, 10.0, known=["ann", "bob"])
    >>> [errors[name] for name in ("missed", "confused", "false_alarm", "frame_error")]
    [1.0, 1.0, 1.0, 0.3]
    """
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"seconds={seconds}: a recording's length must be above 0.")
    edges = {0.0, float(seconds)}
    for start, end, _ in (*reference, *found):
        edges |= {min(max(time, 0.0), float(seconds)) for time in (start, end)}
    times = np.array(sorted(edges))
    spans = np.diff(times)
    names = sorted({segment.speaker for segment in (*reference, *found)})
    enrolled = set(names) if known is None else set(known)
    speaking, finding, others, right, wrong = (np.zeros(len(spans)) for _ in range(5))
    for name in names:
        true = _spoken(reference, name, times)
        hit = _spoken(found, name, times)
        if name not in enrolled:
            others += true
            true = np.zeros_like(true)
        speaking += true
        finding += hit
        right += true & hit
        wrong += true ^ hit
    missed = np.maximum(speaking - finding, 0)
    false = np.maximum(finding - speaking, 0)
    confused = np.minimum(speaking, finding) - right
    errors: dict[str, float | None] = {
        "seconds": float(seconds),
        "speech": float(spans @ speaking),
        "unknown": float(spans @ others),
        "missed": float(spans @ missed),
        "false_alarm": float(spans @ false),
        "false_alarm_unknown": float(spans @ (false * ((others > 0) & (speaking == 0)))),
        "confused": float(spans @ confused),
    }
    total = float(spans @ (missed + false + confused))
    errors["error_rate"] = total / errors["speech"] if errors["speech"] else None
    errors["frame_error"] = float(spans @ (wrong > 0)) / seconds
    return errors


def _spoken(segments: Sequence[Segment], name: str, times: np.ndarray) -> np.ndarray:
    """Between which of the times [T] a speaker speaks, bool [T - 1]."""
    depth = np.zeros(len(times), dtype=np.int64)
    for start, end, speaker in segments:
        if speaker == name and end > start:
            first, last = np.searchsorted(times, np.clip([start, end], 0.0, times[-1]))
            depth[first] += 1
            depth[last] -= 1
    return np.cumsum(depth)[:-1] > 0
