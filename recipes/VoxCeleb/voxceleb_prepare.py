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

A speaker's name that occurs in two roots is an error, unless
``merge_speakers`` says that it is one person (a corpus spread over two disks)
or ``prefix_speakers`` that names are to be told apart by root. A speaker
``id1`` of the root ``/data/calls`` is then ``calls-id1``, in IDs and in
``veri_dev.txt`` too, whose paths are then no longer those below ``wav/``;
`hamsb.dataio.annotations.utterance_files` finds their files. A trial list names
speakers as their folders are called: it keeps all of that name from training.

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
from hamsb.dataio.layouts import explain_layout, names_part
from hamsb.utils.files import digest, read_json, replacing
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

_WRITTEN = ("train.csv", "dev.csv", "veri_dev.txt", "left_out.csv")
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
    name: str  # below wav/, behind the root's prefix
    root: str
    folder: str  # the speaker's, without a prefix
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
    merge_speakers=False,
    prefix_speakers=False,
    least_utterances=0,
):
    """Writes train.csv, dev.csv and veri_dev.txt, or reuses them.

    The result depends on the data, the options and the seed alone. If
    ``save_folder`` holds a complete preparation of the same data (paths,
    sizes, modification times), options and trial lists, it is reused and no
    audio file is opened. Otherwise everything is made anew. See the top of this
    file for the rules.

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
    merge_speakers : bool
        Speakers of one name in several roots are one person.
    prefix_speakers : bool
        They are different persons: all names begin with their root's.
    least_utterances : int
        So many must be left to train: a batch of all processes.

    Returns
    -------
    Preparation

    Raises
    ------
    FileNotFoundError
        If a root, its ``wav/`` or a trial list is missing, or a root has no
        wav or flac file in its place.
    ValueError
        If an option or a trial line is wrong, the speakers of a root are parts
        of a corpus by name (``wav/train/``), two roots have speakers of one
        name, two files have one ID, too few speakers or utterances remain, or
        other files than the ``expected`` ones would come out. ``save_folder``
        then keeps what it held.

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
        "merge_speakers": _boolean("merge_speakers", merge_speakers),
        "prefix_speakers": _boolean("prefix_speakers", prefix_speakers),
    }
    if merge_speakers and prefix_speakers:
        raise ValueError(
            "merge_speakers=True, prefix_speakers=True: speakers of one name are either "
            "one person or several; give one of the two."
        )
    if dev_speakers == 1:
        raise ValueError(
            "dev_speakers is 1, but impostor trials need two speakers: "
            "give 0 (no development list) or at least 2"
        )
    if num_workers is None:
        num_workers = os.cpu_count() or 1
    workers = _integer("num_workers", num_workers, 1)
    lists = _check_lists(verification_file)
    least = _integer("least_utterances", least_utterances, 0)
    save_folder = Path(save_folder)

    found = _scan(options["roots"], prefix_speakers)
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
        checks = expected, least
        return _prepare_anew(save_folder, found, excluded, made_from, workers, checks)
    _check_expected(save_folder, digests, expected, {})
    logger.info(
        "%s: same data and options, reusing its csv files (%d speakers, %d utterances)",
        save_folder,
        earlier.speakers,
        earlier.utterances,
    )
    return earlier


def _prepare_anew(save_folder, found, excluded, made_from, workers, checks):
    """Opens the files, divides the speakers and writes everything."""
    options = made_from["options"]
    rate = options["sample_rate"]
    expected, least = checks
    _check_shared(found, excluded, options)
    _check_ids(found)
    _warn_of_layout(found, options["roots"])
    usable, left_out, counts = _sort_out(found, excluded, options, workers)
    _check_size(usable, options, least, _why_left_out(usable, left_out, counts))
    held_out = _hold_out(usable, options["dev_speakers"], options["seed"])
    development = [u for u in usable if u.file.speaker in held_out]
    training = [u for u in usable if u.file.speaker not in held_out]

    trials = _draw_trials(development, options)
    rows = {"train.csv": _csv_rows(training, rate)}
    if held_out:
        rows["dev.csv"] = _csv_rows(development, rate)
        rows["veri_dev.txt"] = trials
    rows["left_out.csv"] = [_LeftOut._fields, *left_out]
    numbers = {
        "speakers": len({u.file.speaker for u in training}),
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


def _boolean(name, value):
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}; it must be True or False")
    return value


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
    above = [path for path in (Path(root), *Path(root).parents) if path.name == "wav"]
    if above:
        return f"give the folder above it, {above[-1].parent}"
    for part in ("aac", "dev/aac", "test/aac"):
        if os.path.isdir(os.path.join(root, part)):
            return (
                f"{part}/ is VoxCeleb2 as downloaded: "
                f"{_convert_m4a(os.path.join(root, part))}"
            )
    return explain_layout(root, AUDIO + OTHER_AUDIO)


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
        if all(map(names_part, here)):
            raise ValueError(
                f"{path} has paths that begin with {', '.join(here)}, which are parts of "
                "a corpus and not speakers; remove that: a path begins with its speaker, "
                "as in id10270/5r0dWxy17C8/00001.wav"
            )
        speakers.update(here)
    return speakers


# ---------------------------------------------------------------- folders


def _scan(roots, prefix_speakers):
    """All audio files below the roots' wav/, sorted by name and path."""
    prefixes = _prefixes(roots) if prefix_speakers else [""] * len(roots)
    found = []
    for root, prefix in zip(roots, prefixes):
        here = list(_walk(os.path.join(root, "wav"), "", 0, root, prefix))
        speakers = {f.folder for f in here if f.reason in ("", "unusable_name")}
        if not speakers:
            raise FileNotFoundError(_no_audio(root, here))
        if all(map(names_part, speakers)):
            raise ValueError(
                f"data_folder={root}: its speakers would be {_some(sorted(speakers))}: "
                f"{explain_layout(root, AUDIO)}."
            )
        found.extend(here)
    return sorted(found, key=lambda f: (f.id, f.path))


def _prefixes(roots):
    """What tells the speakers of each root from those of the others, ``calls-``: as
    much of the ends of their paths as that takes."""
    parts = [Path(root).parts[1:] for root in roots]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["-".join(path[-depth:]) for path in parts]
        if len(set(names)) == len(roots):
            break
    if not all(map(_is_plain, names)):
        raise ValueError(
            f"prefix_speakers: white space in a folder's name ({_some(names)}) would be "
            "in the names of its speakers; give a link with another name as data_folder"
        )
    return [f"{name}-" for name in names]


def _no_audio(root, here):
    wav = os.path.join(root, "wav")
    placed = [f.path for f in here if f.reason == "not_wav_or_flac"]
    kinds = Counter(os.path.splitext(path)[1].lower().lstrip(".") for path in placed)
    if not kinds:
        return f"data_folder={root}: {explain_layout(root, AUDIO + OTHER_AUDIO)}."
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


def _walk(folder, below, depth, root, prefix):
    """Yields the files of a folder; depth 2 is where utterances lie."""
    with os.scandir(folder) as entries:
        for entry in entries:
            name = below + entry.name
            is_folder = entry.is_dir()
            if is_folder and depth < 2:
                yield from _walk(entry.path, name + "/", depth + 1, root, prefix)
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
            speaker = name.partition("/")[0]
            yield _Found(entry.path, prefix + name, root, speaker, size, mtime, reason)


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


def _check_shared(found, excluded, options):
    """Refuses speakers of one name in two roots, unless an option tells who they are."""
    roots, people = defaultdict(set), defaultdict(set)
    for file in found:
        if not file.reason and file.folder not in excluded:
            roots[file.folder].add(file.root)
            people[file.speaker].add((file.root, file.folder))
    shared = sorted(name for name in roots if len(roots[name]) > 1)
    if options["prefix_speakers"]:  # "a" + "b-c" and "a-b" + "c"
        if any(len(same) > 1 for same in people.values()):
            raise ValueError(
                "prefix_speakers: speakers of two roots get one name; give links with "
                "other names as data_folder"
            )
    elif shared and not options["merge_speakers"]:
        one, other = sorted(roots[shared[0]])[:2]
        names = set(shared)
        files = [file for file in found if file.folder in names]
        twice = sum(a.id == b.id and a.root != b.root for a, b in zip(files, files[1:]))
        copy = (
            f" {twice:,} utterances have one name in both, too: if one folder repeats "
            "the other, leave that out."
        )
        raise ValueError(
            f"data_folder: {len(shared):,} speakers occur both in {one} and in {other} "
            f"({_some(shared)}). Give merge_speakers=True if they are the same persons, "
            f"or prefix_speakers=True if they are others of the same name."
            + copy
            * bool(twice)
        )


def _warn_of_layout(found, roots):
    """Says what may be wrong with a layout that can be used."""
    for root in roots:
        here = [file for file in found if file.root == root]
        placed = [file for file in here if file.reason != "misplaced"]
        if 2 * len(placed) <= len(here):
            logger.warning("%s: %s.", root, explain_layout(root, AUDIO + OTHER_AUDIO))
        sessions = defaultdict(set)
        for file in placed:
            sessions[file.folder].add(file.session)
        parts = sorted(filter(names_part, sessions))
        if parts:
            logger.warning(
                "%s: %s taken for a speaker, though that is the name of a part of a "
                "corpus; files are looked for at wav/<speaker>/<session>/<utterance>",
                root,
                ", ".join(parts),
            )
        elif len(sessions) <= 3 and all(len(s) >= 10 for s in sessions.values()):
            logger.warning(
                "%s: only %d speakers (%s) with %d sessions or more each; if the speakers "
                "are the folders in those, move them up into wav/",
                root,
                len(sessions),
                ", ".join(sorted(sessions)),
                min(map(len, sessions.values())),
            )


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
        elif file.folder in excluded:
            left_out.append(_LeftOut(file.path, "trial_speaker", file.folder))
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


def _why_left_out(usable, left_out, counts):
    """Why there are no more files, for an error: what precedes it and what follows."""
    if not left_out:
        return "", " No file was left out."
    parts = [
        f"{counts[reason]:,} {text.partition(': left')[0]}"
        for reason, text in REASONS.items()
        if counts[reason] and reason != "stereo"
    ]
    path, _, detail = left_out[0]
    number = len(usable) + len(left_out)
    why = (
        f"{len(left_out):,} of {number:,} files are left out: {', '.join(parts)}; for "
        f"example {path}{f' ({detail})' if detail else ''}."
    )
    return (f" {why}", "") if 2 * len(left_out) >= number else ("", f" {why}")


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


def _check_size(usable, options, least_utterances, why):
    """Refuses data that are too few; names all options that they cannot meet."""
    wanted = options["dev_speakers"]
    files = Counter(utterance.file.speaker for utterance in usable)
    able = sum(count >= 2 for count in files.values())
    most = min(able, len(files) - 2)
    faults, held_out, after = [], wanted, ""
    if len(files) < 2:
        faults.append(f"Speakers that may train: {len(files)}, at least 2 are needed.")
    elif wanted > most:
        held_out = most if most >= 2 else 0
        after = f" with dev_speakers={held_out}"
        faults.append(
            f"dev_speakers={wanted}: of the {len(files)} speakers that may train {able} "
            f"have two usable files, and 2 speakers must be left to train; give {held_out}"
            f"{' or fewer' if held_out else ' (then there are no development trials)'}."
        )
    held_out = _hold_out(usable, held_out, options["seed"])
    left = sum(utterance.file.speaker not in held_out for utterance in usable)
    if left < least_utterances and len(files) >= 2:
        faults.append(
            f"batch_size: a batch of all processes takes {least_utterances:,} utterances, "
            f"and {left:,} are left to train{after}; make it smaller."
        )
    if faults:
        cause, rest = why
        cause = cause or " too few data."
        raise ValueError(f"data_folder:{cause} {' '.join(faults)}{rest}")


def _hold_out(usable, number, seed):
    """The development speakers: a set of names."""
    files = Counter(utterance.file.speaker for utterance in usable)
    able = [speaker for speaker, count in files.items() if count >= 2]

    def lot(speaker):
        return hashlib.sha256(f"{seed} {speaker}".encode()).digest()

    return set(sorted(able, key=lot)[:number])


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
        stale = ["prepare.json"]
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
    before = {name: save_folder / name for name in _WRITTEN}
    before = {name: path for name, path in before.items() if path.is_file()}
    if any(
        name not in before or digest(before[name]) != expected[name] for name in expected
    ):
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
        record = read_json(save_folder / "prepare.json")
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
    present = len(excluded & {file.folder for file in found})
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
