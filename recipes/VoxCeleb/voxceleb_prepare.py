"""Prepares VoxCeleb, or any folder laid out like it, for SpeechBrain.

A root is a folder that holds ``wav/<speaker>/<session>/<utterance>.wav`` (or
``.flac``); there may be several, as VoxCeleb1 and VoxCeleb2 are. What comes
out, in ``save_folder``:

``train.csv``, ``dev.csv``
    SpeechBrain csv files, ``ID,duration,wav,start,stop,spk_id``, one row a
    whole file: duration in seconds, start and stop in samples, the ID
    ``<speaker>/<session>/<utterance>`` without the extension. Rows are sorted
    by ID. Two files with one ID (in two roots, or ``.wav`` beside ``.flac``)
    are an error: they are nearly always one recording listed twice.
``veri_dev.txt``
    Trials between the held-out development speakers, ``label enrol test`` with
    label 1 for the same speaker and paths below ``wav/``, as VoxCeleb's lists.
``left_out.csv``
    ``path,reason,detail`` of every file that is in neither csv file.
``prepare.json``
    What the above was made from; it is what a later run compares.

Speakers
--------
A speaker that occurs in a trial list never trains. Of the others that have two
usable files, ``dev_speakers`` are held out: those with the smallest SHA-256 of
seed and name, so that other options or more data move few of them. Target
trials pair two sessions of a speaker; a speaker with a single session is
paired within it. They are shared out evenly over the speakers. Impostor trials
are drawn uniformly from all pairs of utterances of two development speakers.
No pair occurs twice, in either order.

Files
-----
The first rule that fits a file decides, and the summary counts it.

==================  ==========================================================
reason              what happens
==================  ==========================================================
``misplaced``       below ``wav/`` but not at ``speaker/session/``: left out
``not_wav_or_flac`` m4a, mp3 and the like: left out; convert m4a with
                    ``convert_m4a.py``, others with ffmpeg
``trial_speaker``   the speaker is in a trial list: left out, not opened
``unusable_name``   the name has white space, ``$`` (SpeechBrain replaces it in
                    csv files) or is not UTF-8: left out
``unreadable``      no audio header, no samples, or infinite or NaN samples at
                    its end: left out
``unknown_length``  a streamed FLAC whose header names no length: left out
``other_rate``      not ``sample_rate``: left out, since training reads crops by
                    sample offset; convert it (``ffmpeg -i in -ar 16000 out``)
``truncated``       a WAV whose header promises more bytes than the file has,
                    or a file whose last samples cannot be read: left out
``too_short``       shorter than ``min_duration`` seconds: left out
``silent``          no sample above -80 dBFS in the whole file: left out
``stereo``          several channels: used; training averages the channels
==================  ==========================================================

A file is opened once and its last 1,024 samples are read; a file that ends in
silence is also read from its start until a sample is loud enough. Damage in
the middle of a file is therefore not found. A WAV written to a pipe (its
header says 0xFFFFFFFF, "until the end") has the length it has. Measured on
2,000 files of 0.5 s on one core: 0.08 ms a WAV and 0.15 ms a FLAC, twice the
cost of the header alone.
"""

import csv
import functools
import hashlib
import json
import multiprocessing
import os
import random
import struct
import sys
from bisect import bisect_right
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import accumulate, combinations
from pathlib import Path
from typing import NamedTuple

from hamsb.dataio.annotations import read_columns
from hamsb.utils.files import digest, replacing
from hamsb.utils.progress import progress_bar
from hamsb.verification.trials import read_trials

import numpy as np
import soundfile
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)

AUDIO = (".wav", ".flac")
OTHER_AUDIO = (".m4a", ".aac", ".mp4", ".mp3", ".ogg", ".opus", ".sph", ".wma")
REASONS = {
    "misplaced": "not at wav/<speaker>/<session>/: left out",
    "not_wav_or_flac": "neither wav nor flac: left out (for m4a: convert_m4a.py)",
    "trial_speaker": "of a speaker of the trial lists: left out",
    "unusable_name": "white space, $ or no UTF-8 in the name: left out",
    "unreadable": "no readable audio: left out",
    "unknown_length": "header without a length: left out",
    "other_rate": "at another sampling rate: left out",
    "truncated": "truncated: left out",
    "too_short": "too short: left out",
    "silent": "silent: left out",
    "stereo": "several channels: used, to be averaged when loaded",
}

_FORMAT_VERSION = 1  # of prepare.json and of the files' meaning
_SILENCE = 1e-4  # -80 dB relative to full scale
_END = 1024  # samples read of every file
_BLOCK = 65536  # samples read at a time of a file that ends in silence
_UNKNOWN_BYTES = 0x7FFFF000  # data sizes from here on mean "until the end"
_UNKNOWN_FRAMES = 2**63 - 1  # libsndfile's SF_COUNT_MAX
_FILES_PER_TASK = 256  # handed to a worker process at a time


@dataclass(frozen=True)
class Preparation:
    """What `prepare_voxceleb` made.

    Attributes
    ----------
    train_csv : pathlib.Path
        The training files.
    dev_csv : pathlib.Path or None
        The development speakers' files; None without development speakers.
    dev_trials : pathlib.Path or None
        The trials between them; None without development speakers.
    speakers : int
        Number of training speakers.
    utterances : int
        Number of training files.
    hours : float
        Their duration, in hours.
    counts : dict
        Number of files left out or treated, by reason (see `REASONS`).
    reused : bool
        True if an earlier preparation was found good and no file was opened.
    """

    train_csv: Path
    dev_csv: Path | None
    dev_trials: Path | None
    speakers: int
    utterances: int
    hours: float
    counts: dict
    reused: bool


class _Found(NamedTuple):
    """A file below wav/, as the folders tell it."""

    path: str  # absolute
    name: str  # below wav/
    size: int  # bytes; 0 also for what is not a file
    mtime: int  # nanoseconds
    reason: str  # why it cannot be used, or ""

    @property
    def id(self):
        return os.path.splitext(self.name)[0]

    @property
    def speaker(self):
        return self.name.split("/", 1)[0]

    @property
    def session(self):
        return self.name.rsplit("/", 1)[0]


class _Utterance(NamedTuple):
    """A usable file."""

    file: _Found
    frames: int


class _LeftOut(NamedTuple):
    """A file that is not used, and why."""

    path: str
    reason: str
    detail: str


def prepare_voxceleb(
    data_folder,
    save_folder,
    verification_file=(),
    dev_speakers=50,
    dev_trials=5000,
    min_duration=1.0,
    sample_rate=16000,
    seed=1234,
    num_workers=None,
    expected=None,
):
    """Writes train.csv, dev.csv and veri_dev.txt, or reuses them.

    The result depends on the data, the options and the seed alone. If
    ``save_folder`` holds a complete preparation of the same data (paths,
    sizes, modification times), options and trial lists, it is reused and no
    audio file is opened. Otherwise everything is made anew, and a
    ``label_encoder.txt`` in ``save_folder`` is deleted, since it may number
    speakers that no longer train. See the top of this file for the rules.

    Arguments
    ---------
    data_folder : str, Path or list of them
        The roots; each holds ``wav/<speaker>/<session>/<utterance>``.
    save_folder : str or Path
        Where the files go; created.
    verification_file : str, Path or list of them
        Trial lists, whose speakers must not train. They need not be in the
        roots.
    dev_speakers : int
        Number of training speakers to hold out; 0 for none, otherwise 2 or
        more.
    dev_trials : int
        How many target trials, and how many impostor trials, at most.
    min_duration : float
        Shorter files are left out, in seconds.
    sample_rate : int
        In Hz; files at another rate are left out.
    seed : int
        Draws development speakers and trials.
    num_workers : int or None
        Processes that read the files; None for ``os.cpu_count()``.
    expected : mapping of str to str, optional
        SHA-256 that files in ``save_folder`` must have afterwards, by name, as
        ``{"train.csv": "9f86..."}``: those that a run began with.

    Returns
    -------
    Preparation

    Raises
    ------
    FileNotFoundError
        If a root, its ``wav/`` or a trial list is missing, or a root has no
        wav or flac file.
    ValueError
        If an option or a trial line is wrong, two files have one ID, too few
        speakers remain, or other files than the ``expected`` ones would come
        out. ``save_folder`` then keeps what it held.

    Example
    -------
    >>> import numpy, soundfile
    >>> root = getfixture("tmp_path")
    >>> noise = numpy.random.default_rng(0).normal(0, 0.1, (6, 16000))
    >>> for i, samples in enumerate(noise):
    ...     folder = root / "wav" / f"id{i // 2}" / "session"
    ...     folder.mkdir(parents=True, exist_ok=True)
    ...     soundfile.write(folder / f"{i}.wav", samples, 16000)
    >>> prepared = prepare_voxceleb(root, root / "save", dev_speakers=0)
    >>> prepared.speakers, prepared.utterances
    (3, 6)
    """
    options = {
        "roots": _check_roots(data_folder),
        "dev_speakers": _integer("dev_speakers", dev_speakers, 0),
        "dev_trials": _integer("dev_trials", dev_trials, 1),
        "min_duration": _seconds("min_duration", min_duration),
        "sample_rate": _integer("sample_rate", sample_rate, 1),
        "seed": _integer("seed", seed, None),
    }
    if dev_speakers == 1:
        raise ValueError(
            "dev_speakers is 1, but impostor trials need two speakers: "
            "give 0 (no development list) or at least 2"
        )
    if num_workers is None:
        num_workers = os.cpu_count() or 1
    workers = _integer("num_workers", num_workers, 1)
    lists = _check_lists(verification_file)
    save_folder = Path(save_folder)

    found = _scan(options["roots"])
    made_from = {
        "version": _FORMAT_VERSION,
        "options": options,
        "data": _fingerprint(found),
        "trial_lists": sorted(digest(path) for path in lists),
    }
    expected = expected or {}
    earlier, digests = _earlier(save_folder, made_from)
    if earlier is None:
        excluded = _trial_speakers(lists)
        return _prepare_anew(save_folder, found, excluded, made_from, workers, expected)
    _check_expected(save_folder, digests, expected, {})
    logger.info(
        "%s: same data and options, reusing its csv files (%d speakers, %d utterances)",
        save_folder,
        earlier.speakers,
        earlier.utterances,
    )
    return earlier


def _prepare_anew(save_folder, found, excluded, made_from, workers, expected):
    """Opens the files, divides the speakers and writes everything."""
    options = made_from["options"]
    rate = options["sample_rate"]
    _check_ids(found)
    usable, left_out, counts = _sort_out(found, excluded, options, workers)
    why = _why_left_out(left_out, counts)
    held_out = _hold_out(usable, options, why)
    development = [u for u in usable if u.file.speaker in held_out]
    training = [u for u in usable if u.file.speaker not in held_out]
    speakers = len({u.file.speaker for u in training})
    if speakers < 2:
        raise ValueError(
            f"{speakers} training speakers remain, at least 2 are needed; "
            f"{len(held_out)} are held out (dev_speakers). {why}"
        )

    trials = _draw_trials(development, options)
    rows = {"train.csv": _csv_rows(training, rate)}
    if held_out:
        rows["dev.csv"] = _csv_rows(development, rate)
        rows["veri_dev.txt"] = trials
    rows["left_out.csv"] = [_LeftOut._fields, *left_out]
    numbers = {
        "speakers": speakers,
        "utterances": len(training),
        "hours": sum(u.frames for u in training) / rate / 3600,
        "counts": counts,
    }
    _write(save_folder, rows, made_from, numbers, expected)
    prepared = _preparation(save_folder, numbers, bool(held_out), False)
    _log_summary(prepared, found, held_out, development, trials, excluded)
    return prepared


# ---------------------------------------------------------------- options


def _paths(value):
    """A path, a list of paths or None -> a list of absolute paths (str)."""
    if value is None:
        return []
    if isinstance(value, (str, os.PathLike)):
        value = [value]
    return [os.path.abspath(path) for path in value]


def _integer(name, value, least):
    """An int option; bools and floats with a fraction are refused."""
    good = not isinstance(value, bool) and isinstance(value, (int, float, np.integer))
    if not good or value != value // 1 or (least is not None and value < least):
        wanted = "an integer" if least is None else f"an integer >= {least}"
        raise ValueError(f"{name} is {value!r}; it must be {wanted}")
    return int(value)


def _seconds(name, value):
    """A duration option, finite and not negative."""
    good = not isinstance(value, bool) and isinstance(value, (int, float, np.number))
    if not good or not 0 <= value < float("inf"):
        raise ValueError(f"{name} is {value!r}; it must be seconds, 0 or more")
    return float(value)


def _check_roots(data_folder):
    """The roots as absolute paths; each must hold wav/."""
    roots = _paths(data_folder)
    if not roots:
        raise ValueError("data_folder is empty; name a folder that holds wav/")
    seen = {}
    for root in roots:
        if "$" in root or not _is_utf8(root):
            raise ValueError(
                f"data_folder {root!r} holds '$' or is not UTF-8, which "
                "SpeechBrain csv files cannot carry; use another name or a link"
            )
        if not os.path.isdir(root):
            raise FileNotFoundError(f"data_folder {root} is not a folder")
        if not os.path.isdir(os.path.join(root, "wav")):
            raise FileNotFoundError(f"{root} has no wav/ folder; {_hint(root)}")
        real = os.path.realpath(root)
        if real in seen:
            raise ValueError(f"data_folder names one folder twice: {seen[real]} and {root}")
        seen[real] = root
    return roots


def _hint(root):
    """What to do about a root without wav/."""
    if os.path.basename(root) == "wav":
        return f"give the folder above it, {os.path.dirname(root)}"
    for part in ("aac", "dev/aac", "test/aac"):
        if os.path.isdir(os.path.join(root, part)):
            return (
                f"{part}/ is VoxCeleb2 as downloaded: "
                f"{_convert_m4a(os.path.join(root, part))}"
            )
    for part in ("dev", "test"):
        if os.path.isdir(os.path.join(root, part, "wav")):
            return f"{part}/ has one: give {os.path.join(root, part)}"
    return "files are looked for at wav/<speaker>/<session>/<utterance>.wav"


def _is_utf8(text):
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _check_lists(verification_file):
    """The trial lists as absolute paths; each must be a file."""
    lists = _paths(verification_file)
    for path in lists:
        if not os.path.isfile(path):
            raise FileNotFoundError(
                f"verification_file {path} is not a file; give the trial lists "
                "whose speakers must not train, or none"
            )
    return lists


def _trial_speakers(lists):
    """The speakers of the trial lists: first folders of their paths."""
    speakers = set()
    for path in lists:
        here = read_trials(path).speakers
        if "wav" in here:  # else its speakers would silently train
            raise ValueError(
                f"{path} has paths that begin with wav/; remove that: a path "
                "begins with its speaker, as in id10270/5r0dWxy17C8/00001.wav"
            )
        speakers.update(here)
    return speakers


# ---------------------------------------------------------------- folders


def _scan(roots):
    """All audio files below the roots' wav/, sorted by name and path."""
    found = []
    for root in roots:
        here = list(_walk(os.path.join(root, "wav"), "", 0))
        if not any(os.path.splitext(f.path)[1].lower() in AUDIO for f in here):
            raise FileNotFoundError(_no_audio(root, here))
        found.extend(here)
    return sorted(found, key=lambda f: (f.id, f.path))


def _no_audio(root, here):
    wav = os.path.join(root, "wav")
    extensions = [os.path.splitext(f.path)[1].lower() for f in here]
    kinds = Counter(e.lstrip(".") for e in extensions if e in OTHER_AUDIO)
    if not kinds:
        return f"{wav} holds no wav or flac file at <speaker>/<session>/<utterance>"
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    how = "convert them: ffmpeg -i IN -ac 1 -ar 16000 OUT.flac"
    if "m4a" in kinds:
        how = _convert_m4a(wav)
    return f"{wav} holds {counts} files, but no wav or flac; {how}"


def _convert_m4a(folder):
    """What to do about a folder of m4a files."""
    script = Path(__file__).resolve().with_name("convert_m4a.py")
    return (
        f"convert m4a files with python {script} {folder} TARGET and give TARGET as "
        "data_folder"
    )


def _walk(folder, below, depth):
    """Yields the files of a folder; depth 2 is where utterances lie."""
    with os.scandir(folder) as entries:
        for entry in entries:
            name = below + entry.name
            is_folder = entry.is_dir()
            if is_folder and depth < 2:
                yield from _walk(entry.path, name + "/", depth + 1)
                continue
            extension = os.path.splitext(entry.name)[1].lower()
            if not is_folder and extension not in AUDIO + OTHER_AUDIO:
                continue
            size, mtime = _size_and_time(entry)
            if depth != 2 or is_folder:
                reason = "misplaced"
            elif extension in OTHER_AUDIO:
                reason = "not_wav_or_flac"
            elif _is_plain(name):
                reason = ""
            else:
                reason = "unusable_name"
            yield _Found(entry.path, name, size, mtime, reason)


def _is_plain(name):
    """Whether a name fits into a csv file and a trial list."""
    return name.split() == [name] and "$" not in name and _is_utf8(name)


def _size_and_time(entry):
    """Size (bytes) and modification time (ns); zeros for a link to nowhere."""
    try:
        status = entry.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _fingerprint(found):
    """SHA-256 over paths, sizes and modification times."""
    hashed = hashlib.sha256()
    for file in found:
        hashed.update(os.fsencode(file.path))
        hashed.update(f"\0{file.size} {file.mtime}\n".encode())
    return hashed.hexdigest()


def _check_ids(found):
    """Refuses two files with one ID; ``found`` is sorted by ID."""
    files = [f for f in found if f.reason in ("", "unusable_name")]
    clashes = [(a, b) for a, b in zip(files, files[1:]) if a.id == b.id]
    if clashes:
        one, other = clashes[0]
        raise ValueError(
            f"two files have the ID {one.id!r}: {one.path} and {other.path} "
            f"({len(clashes)} such pairs); remove one of each, or the root "
            "that repeats the other"
        )


# ---------------------------------------------------------------- audio files


def _sort_out(found, excluded, options, workers):
    """Splits the files into usable and left out, opening those in doubt.

    Returns the `_Utterance` list, the `_LeftOut` list, and the number of files
    for each of `REASONS`.
    """
    usable, left_out, candidates, stereo = [], [], [], 0
    for file in found:
        if file.reason in ("misplaced", "not_wav_or_flac"):
            left_out.append(_LeftOut(file.path, file.reason, ""))
        elif file.speaker in excluded:
            left_out.append(_LeftOut(file.path, "trial_speaker", file.speaker))
        elif file.reason:
            left_out.append(_LeftOut(file.path, file.reason, ""))
        else:
            candidates.append(file)
    looks = _look_at_all(candidates, options, workers)
    for file, (reason, detail, frames) in zip(candidates, looks):
        if reason not in ("", "stereo"):
            left_out.append(_LeftOut(file.path, reason, detail))
            continue
        stereo += reason == "stereo"
        usable.append(_Utterance(file, frames))
    counts = dict.fromkeys(REASONS, 0)
    counts.update(Counter(item.reason for item in left_out), stereo=stereo)
    return usable, sorted(left_out), counts


def _why_left_out(left_out, counts):
    """A sentence for the errors that too few speakers cause."""
    if not left_out:
        return "No file was left out."
    parts = [f"{counts[r]} {r}" for r in REASONS if counts[r] and r != "stereo"]
    path, reason, detail = left_out[0]
    return (
        f"Files left out: {', '.join(parts)}, for example {path} ({reason}"
        f"{': ' if detail else ''}{detail})."
    )


def _look_at_all(files, options, workers):
    """`_look` for every file, in order, on up to ``workers`` processes.

    Processes, because a file takes some 0.1 ms, mostly in Python: two threads
    were slower than one, two processes nearly twice as fast.
    """
    look = functools.partial(
        _look,
        sample_rate=options["sample_rate"],
        min_duration=options["min_duration"],
    )
    paths = [(file.path, file.size) for file in files]
    bar = functools.partial(
        progress_bar, total=len(paths), desc="Reading audio headers", unit="file"
    )
    workers = min(workers, -(-len(paths) // _FILES_PER_TASK))
    if workers <= 1:
        return list(bar(map(look, paths)))
    # fork, as PyTorch's DataLoader does: a fresh interpreter a worker would
    # spend longer on imports than most corpora take.
    method = "fork" if sys.platform == "linux" else None
    with ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context(method)
    ) as pool:
        return list(bar(pool.map(look, paths, chunksize=_FILES_PER_TASK)))


def _look(path_and_size, sample_rate, min_duration):
    """Decides about one file; never raises.

    Returns (reason, detail, frames); reason is "" or "stereo" for a file to
    use.
    """
    path, size = path_and_size
    if size == 0:  # a pipe would block
        return "unreadable", "empty, or not a file", 0
    try:
        with soundfile.SoundFile(path) as audio:
            return _judge(audio, path, size, sample_rate, min_duration)
    except Exception as error:  # one bad file of a million must not end the run
        return "unreadable", str(error), 0


def _judge(audio, path, size, sample_rate, min_duration):
    """`_look` for a file that opens."""
    frames = audio.frames
    if frames == 0:
        return "unreadable", "no samples", 0
    if frames >= _UNKNOWN_FRAMES:
        return "unknown_length", "encode it again", 0
    if audio.samplerate != sample_rate:
        return "other_rate", f"{audio.samplerate} Hz", 0
    missing = _missing_bytes(path, size) if "WAV" in audio.format else 0
    if missing:
        return "truncated", f"{missing} bytes are missing", 0
    try:
        audio.seek(max(0, frames - _END))
        end = audio.read(_END, dtype="float32")
    except soundfile.LibsndfileError:
        end = ()
    if len(end) < min(_END, frames):
        return "truncated", "the last samples cannot be read", 0
    if not np.isfinite(end).all():
        return "unreadable", "infinite or NaN samples", 0
    if frames < min_duration * sample_rate:
        return "too_short", f"{frames / sample_rate:.3f} s", 0
    if not _is_loud(end) and _is_silent(audio):
        return "silent", "no sample above -80 dBFS", 0
    return ("stereo" if audio.channels > 1 else ""), "", frames


def _is_loud(samples):
    """Whether a sample lies above -80 dBFS (both signs, all channels)."""
    return bool((np.abs(samples) > _SILENCE).any())


def _is_silent(audio):
    """Reads a file from its start until a sample is above -80 dBFS."""
    audio.seek(0)
    blocks = audio.blocks(blocksize=_BLOCK, dtype="float32")
    return not any(_is_loud(block) for block in blocks)


def _missing_bytes(path, size):
    """Bytes that a WAV header promises beyond the file's end; 0 if none.

    libsndfile quietly shortens such a file to what there is. Other formats, and
    sizes that mean "until the end" (written to a pipe), give 0.
    """
    with open(path, "rb") as stream:
        head = stream.read(12)
        if head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return 0
        while len(head := stream.read(8)) == 8:
            kind, length = struct.unpack("<4sI", head)
            if kind == b"data":
                if length >= _UNKNOWN_BYTES:
                    return 0
                return max(0, stream.tell() + length - size)
            stream.seek(length + length % 2, os.SEEK_CUR)
    return 0


# ---------------------------------------------------------------- speakers


def _hold_out(usable, options, why):
    """The development speakers: a set of names."""
    wanted = options["dev_speakers"]
    files = Counter(utterance.file.speaker for utterance in usable)
    able = [speaker for speaker, count in files.items() if count >= 2]
    if wanted > len(able):
        raise ValueError(
            f"dev_speakers is {wanted}, but of the {len(files)} speakers that "
            f"may train {len(able)} have two usable files; ask for fewer. {why}"
        )

    def lot(speaker):
        text = f"{options['seed']} {speaker}"
        return hashlib.sha256(text.encode()).digest()

    return set(sorted(able, key=lot)[:wanted])


def _draw_trials(development, options):
    """Target and impostor trials: a list of (label, enrol, test), sorted."""
    generator = random.Random(options["seed"])
    most = options["dev_trials"]
    groups = defaultdict(list)
    for utterance in development:  # sorted by ID
        groups[utterance.file.speaker].append(utterance.file)
    groups = [groups[speaker] for speaker in sorted(groups)]
    targets = _draw_targets(groups, most, generator)
    impostors = _draw_impostors(groups, most, generator)
    return sorted(
        (label, enrol.name, test.name)
        for label, pairs in ((1, targets), (0, impostors))
        for enrol, test in pairs
    )


def _draw_targets(groups, most, generator):
    """Up to ``most`` pairs of one speaker, shared out evenly."""
    pools = []
    for files in groups:
        pairs = list(combinations(files, 2))
        across = [(a, b) for a, b in pairs if a.session != b.session]
        pool = across or pairs
        pools.append(generator.sample(pool, min(len(pool), most)))
    drawn = []
    while pools and len(drawn) < most:  # a pair from each speaker in turn
        generator.shuffle(pools)
        drawn.extend(pool.pop() for pool in pools)
        pools = [pool for pool in pools if pool]
    return drawn[:most]


def _draw_impostors(groups, most, generator):
    """Up to ``most`` pairs of two speakers, uniformly and without repeats.

    All pairs are numbered: with the files in a row, speaker by speaker, a file
    makes a pair with each file after its own speaker's.
    """
    files = [file for group in groups for file in group]
    ends = list(accumulate(len(group) for group in groups))
    partners = [len(files) - end for end, group in zip(ends, groups) for _ in group]
    before = [0, *accumulate(partners)]
    numbers = generator.sample(range(before[-1]), min(most, before[-1]))
    pairs = []
    for number in numbers:
        first = bisect_right(before, number) - 1
        offset = number - before[first]
        second = len(files) - partners[first] + offset
        pairs.append((files[first], files[second]))
    return pairs


# ---------------------------------------------------------------- writing


def _csv_rows(utterances, sample_rate):
    """The rows of a SpeechBrain csv file, header included."""
    rows = [("ID", "duration", "wav", "start", "stop", "spk_id")]
    for file, frames in utterances:
        duration = frames / sample_rate
        rows.append((file.id, duration, file.path, 0, frames, file.speaker))
    return rows


def _write(save_folder, rows, made_from, numbers, expected):
    """Replaces the files of an earlier preparation; prepare.json comes last.

    ``rows`` are the rows of each file, by its name.
    """
    save_folder.mkdir(parents=True, exist_ok=True)
    partial = {name: save_folder / f"{name}.tmp" for name in rows}
    try:
        for name, path in partial.items():
            _write_rows(path, rows[name])
        digests = {name: digest(path) for name, path in partial.items()}
        _check_expected(save_folder, digests, expected, partial)
        stale = ["prepare.json", "label_encoder.txt"]
        stale += [n for n in ("dev.csv", "veri_dev.txt") if n not in rows]
        for name in stale:
            if (save_folder / name).exists():
                logger.info("Deleting %s, which is stale", save_folder / name)
                (save_folder / name).unlink()
        for name, path in partial.items():
            os.replace(path, save_folder / name)
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)
    record = {**made_from, "files": digests, "numbers": numbers}
    with replacing(save_folder / "prepare.json") as path:
        path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _check_expected(save_folder, digests, expected, partial):
    """Refuses other files than those that a run began with.

    ``digests`` are those of the files that come out, by name; ``partial`` says
    where these are, unless they are in ``save_folder`` already.
    """
    others = [name for name in expected if digests.get(name) != expected[name]]
    if others:
        after = {name: partial.get(name, save_folder / name) for name in digests}
        raise ValueError(
            f"data_folder: {_what_changed(save_folder, expected, after)} since the run "
            f"in {save_folder} began ({', '.join(others)}). Restore the data, or give "
            "another output_folder."
        )


def _what_changed(save_folder, expected, after):
    """What became of the utterances: "3 are new and 1 is gone, for example x"."""
    before = {name: save_folder / name for name in expected}
    whole = all(
        path.is_file() and digest(path) == expected[name] for name, path in before.items()
    )
    if not whole:
        return "the utterances or their division into training and development changed"
    old, new = _rows_by_id(before), _rows_by_id(after)
    both = old.keys() & new.keys()
    groups = {
        "new": sorted(new.keys() - old.keys()),
        "gone": sorted(old.keys() - new.keys()),
        "of another place or length": sorted(i for i in both if old[i][1] != new[i][1]),
        "held out or no longer": sorted(i for i in both if old[i][0] != new[i][0]),
    }
    parts = [f"{len(ids):,} {what} ({_some(ids)})" for what, ids in groups.items() if ids]
    if not parts:
        return "the utterances are the same, but their trials changed"
    return f"of {len(old):,} utterances: {', '.join(parts)}"


def _some(names, most=3):
    """The first of some names, separated by commas."""
    return ", ".join(names[:most]) + ", ..." * (len(names) > most)


def _rows_by_id(files):
    """File and row of each utterance in train.csv and dev.csv, as far as named."""
    return {
        row[0]: (name, row)
        for name in ("train.csv", "dev.csv")
        if name in files
        for _, row in read_columns(files[name], ("ID", "wav", "stop", "spk_id"))
    }


def _write_rows(path, rows):
    """Writes x.csv.tmp with commas, x.txt.tmp with spaces and no quotes."""
    # Names that are not UTF-8 occur in left_out.csv only.
    with open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as stream:
        if path.stem.endswith(".csv"):
            csv.writer(stream, lineterminator="\n").writerows(rows)
        else:
            stream.writelines(" ".join(map(str, row)) + "\n" for row in rows)


def _earlier(save_folder, made_from):
    """The preparation in ``save_folder`` and its files' digests, if it is whole and
    the same; else None twice."""
    try:
        record = json.loads((save_folder / "prepare.json").read_text("utf-8"))
        files = record["files"]
        if any(record[key] != value for key, value in made_from.items()):
            return None, None
        if any(digest(save_folder / n) != d for n, d in files.items()):
            return None, None
        return _preparation(save_folder, record["numbers"], "dev.csv" in files, True), files
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None, None  # missing, or not what this function writes


def _preparation(save_folder, numbers, has_dev, reused):
    return Preparation(
        train_csv=save_folder / "train.csv",
        dev_csv=save_folder / "dev.csv" if has_dev else None,
        dev_trials=save_folder / "veri_dev.txt" if has_dev else None,
        reused=reused,
        **numbers,
    )


def _log_summary(prepared, found, held_out, development, trials, excluded):
    """One block: what was found, what it is used for, what is left out."""
    present = len(excluded & {file.speaker for file in found})
    targets = sum(label for label, _, _ in trials)
    unused = len(found) - prepared.utterances - len(development)
    lines = [
        f"Prepared {prepared.train_csv.parent}",
        f"{len(found):>9,} audio files found",
        f"{prepared.utterances:>9,} for training: {prepared.speakers:,} "
        f"speakers, {prepared.hours:.2f} hours",
        f"{len(development):>9,} for development: {len(held_out):,} speakers, "
        f"{targets:,} target and {len(trials) - targets:,} impostor trials",
        f"{unused:>9,} left out, listed in left_out.csv",
    ]
    for reason, text in REASONS.items():
        if prepared.counts[reason]:
            lines.append(f"{prepared.counts[reason]:>9,} {text}")
    if excluded:
        lines.append(
            f"{present:,} of the trial lists' {len(excluded):,} speakers are in the data"
        )
    logger.info("%s", "\n".join(lines))
