"""Prepares VoxCeleb, or any other speech of known speakers, for SpeechBrain.

Data come from folders, tables and Kaldi directories, one or several: the layouts of
`hamsb.dataio.sources`, which are recognized by what they hold. What comes out, in
``save_folder``:

``train.csv``, ``dev.csv``
    SpeechBrain csv files, ``ID,duration,wav,start,stop,spk_id``, one row an
    utterance, a whole file or a stretch of one: duration in seconds, start and
    stop in samples, the ID that of the source, in folders the path
    ``<speaker>/<session>/<utterance>`` without the extension. Rows are sorted
    by ID. Two files with one ID (in two roots, or ``.wav`` beside ``.flac``)
    are an error: they are nearly always one recording listed twice.
``veri_dev.txt``
    Trials between the held-out development speakers, ``label enrol test`` with
    label 1 for the same speaker; the names are the IDs, for folders with the
    extension, as in VoxCeleb's lists.
``left_out.csv``
    ``path,reason,detail`` of every file that is in neither csv file.
``prepare.json``
    What the above was made from; it is what a later run compares.

Speakers
--------
A speaker that occurs in a trial list never trains. Of the others that have two
usable utterances, ``dev_speakers`` are held out: those with the smallest
SHA-256 of seed and name, so that other options or more data move few of them.
Target trials pair two sessions of a speaker; a speaker with a single session is
paired within it. Where a source tells no sessions, each file is one. Target
trials are shared out evenly over the speakers. Impostor trials are drawn
uniformly from all pairs of utterances of two development speakers. No pair
occurs twice, in either order.

A speaker's name that occurs in two roots is an error, unless
``merge_speakers`` says that it is one person (a corpus spread over two disks)
or ``prefix_speakers`` that names are to be told apart by root. A speaker
``id1`` of the root ``/data/calls`` is then ``calls-id1``, in IDs and in
``veri_dev.txt`` too, whose utterances are then those of ``dev.csv`` alone. The
speakers of a trial list are looked for in ``test_data_folder``; a path's first
folder is one. All of that name are kept from training.

Files
-----
The first rule that fits a file decides, and the summary counts it.

==================  ==========================================================
reason              what happens
==================  ==========================================================
``misplaced``       in folders, but not where the others are: left out
``not_wav_or_flac`` m4a, mp3 and the like: left out; convert m4a with
                    ``convert_m4a.py``, others with ffmpeg
``trial_speaker``   the speaker is in a trial list: left out, not opened
``unusable_name``   the name has white space, ``$`` (SpeechBrain replaces it in
                    csv files) or is not UTF-8: left out
``unreadable``      no such file, no audio header, no samples, or infinite or
                    NaN samples at its end: left out
``unknown_length``  a streamed FLAC whose header names no length: left out
``other_rate``      not ``sample_rate``: left out, since training reads crops by
                    sample offset; convert it (``ffmpeg -i in -ar 16000 out``)
``truncated``       a WAV whose header promises more bytes than the file has,
                    a file whose last samples cannot be read, or an utterance
                    that ends more than 20 ms behind its file: left out
``too_short``       shorter than ``min_duration`` seconds: left out
``silent``          no sample above -80 dBFS in the whole utterance: left out
``stereo``          several channels: used; training averages the channels
==================  ==========================================================

A file is opened once an utterance, and that one's last 1,024 samples are read;
one that ends in silence is also read from its start until a sample is loud
enough. Damage in the middle of a file is therefore not found. A WAV written to a pipe (its
header says 0xFFFFFFFF, "until the end") has the length it has. Measured on
2,000 files of 0.5 s on one core: 0.08 ms a WAV and 0.15 ms a FLAC, twice the
cost of the header alone.
"""

import hashlib
import json
import os
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

from hamsb.dataio.folders import Folders
from hamsb.dataio.held_out import draw_trials, hold_out
from hamsb.dataio.inspection import look_at_all
from hamsb.dataio.layouts import explain_layout, names_part
from hamsb.dataio.prepared import (
    DEV,
    LEFT_OUT,
    TRAIN,
    TRIALS,
    check_expected,
    read_prepared,
    write_prepared,
)
from hamsb.dataio.sources import open_source
from hamsb.dataio.utterances import AUDIO, OTHER_AUDIO, Row, Source, is_plain
from hamsb.utils.checks import check_flag, check_not_negative, check_whole, some
from hamsb.verification.lookup import listed_speakers

from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)

REASONS = {
    "misplaced": "not where the others are: left out",
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

_FORMAT_VERSION = 2  # of prepare.json and of the files' meaning


class _Utterance(NamedTuple):
    """A usable utterance."""

    row: Row
    stop: int  # samples; never 0

    @property
    def frames(self):
        return self.stop - self.row.start


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
    test_data_folder=None,
):
    """Writes train.csv, dev.csv and veri_dev.txt, or reuses them.

    The result depends on the data, the options and the seed alone. If
    ``save_folder`` holds a complete preparation of the same data (paths, sizes,
    modification times, and what tables say), options and speakers of trial lists,
    it is reused and no audio file is opened. Otherwise everything is made anew. See
    the top of this file for the rules.

    Arguments
    ---------
    data_folder : str, Path or list of them
        The roots, as `hamsb.dataio.sources.open_source` takes them.
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
    test_data_folder : str, Path or list of them, optional
        Where the trial lists' utterances are, if not in the roots.

    Returns
    -------
    hamsb.dataio.prepared.Prepared

    Raises
    ------
    FileNotFoundError
        If a root or a trial list is missing, or a root has no wav or flac file
        in its place.
    ValueError
        If an option or a trial line is wrong, the speakers of a root are parts
        of a corpus by name (``wav/train/``), two roots have speakers of one
        name, two files have one ID, two roots have one recording, too few speakers
        or utterances remain, or other files than the ``expected`` ones would come
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
    if num_workers is None:
        num_workers = os.cpu_count() or 1
    check_whole("dev_speakers", dev_speakers, 0)
    check_whole("dev_trials", dev_trials, 1)
    check_not_negative("min_duration", min_duration)
    check_whole("sample_rate", sample_rate, 1)
    check_whole("seed", seed, 0)
    check_whole("num_workers", num_workers, 1)
    check_whole("least_utterances", least_utterances, 0)
    check_flag("merge_speakers", merge_speakers)
    check_flag("prefix_speakers", prefix_speakers)
    options = {
        "roots": _check_roots(data_folder),
        "dev_speakers": int(dev_speakers),
        "dev_trials": int(dev_trials),
        "min_duration": float(min_duration),
        "sample_rate": int(sample_rate),
        "seed": int(seed),
        "merge_speakers": merge_speakers,
        "prefix_speakers": prefix_speakers,
    }
    if merge_speakers and prefix_speakers:
        raise ValueError(
            "merge_speakers=True, prefix_speakers=True: speakers of one name are either "
            "one person or several; give one of the two."
        )
    if dev_speakers == 1:
        raise ValueError(
            "dev_speakers=1: impostor trials need two speakers; give 0 (no development "
            "list) or at least 2."
        )
    lists = _check_lists(verification_file)
    save_folder = Path(save_folder)

    sources = _open(options["roots"], prefix_speakers)
    found = _scan(sources, sample_rate)
    excluded = _trial_speakers(lists, test_data_folder or options["roots"])
    made_from = {
        "version": _FORMAT_VERSION,
        "options": options,
        "data": _fingerprint(found),
        "trial_speakers": _digest_of(sorted(excluded)),
    }
    expected = expected or {}
    before = read_prepared(save_folder, made_from)
    if before is None:
        checks = expected, least_utterances
        return _prepare_anew(save_folder, found, excluded, made_from, num_workers, checks)
    earlier, digests = before
    check_expected(save_folder, digests, expected, {})
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
    _check_repeated(found)
    usable, left_out, counts = _sort_out(found, excluded, options, workers)
    why = _why_left_out(usable, left_out, counts, options["min_duration"])
    _check_size(usable, options, least, why)
    speakers = (utterance.row.speaker for utterance in usable)
    held_out = hold_out(speakers, options["dev_speakers"], options["seed"])
    development = [u for u in usable if u.row.speaker in held_out]
    training = [u for u in usable if u.row.speaker not in held_out]

    rows = (utterance.row for utterance in development)
    trials = draw_trials(rows, options["dev_trials"], options["seed"])
    files = {TRAIN: _csv_rows(training, rate)}
    if held_out:
        files[DEV] = _csv_rows(development, rate)
        files[TRIALS] = trials
    files[LEFT_OUT] = [_LeftOut._fields, *left_out]
    numbers = {
        "speakers": len({u.row.speaker for u in training}),
        "utterances": len(training),
        "hours": sum(u.frames for u in training) / rate / 3600,
        "counts": counts,
        "prefixes": _all_prefixes({row.source for row in found}),
    }
    prepared = write_prepared(save_folder, files, made_from, numbers, expected)
    _log_summary(prepared, found, held_out, development, trials, excluded)
    return prepared


def _all_prefixes(sources):
    """What speakers' names begin with: the sources' prefixes, and those within them."""
    return sorted(
        {source.prefix + inner for source in sources for inner in ("", *source.prefixes)}
        - {""}
    )


# ---------------------------------------------------------------- options


def _paths(value):
    """A path, a list of paths or None -> a list of absolute paths (str)."""
    if value is None:
        return []
    if isinstance(value, (str, os.PathLike)):
        value = [value]
    return [os.path.abspath(path) for path in value]


def _check_roots(data_folder):
    """The roots as absolute paths, each once."""
    roots = _paths(data_folder)
    if not roots:
        raise ValueError(
            "data_folder is empty; name a folder, a table or a Kaldi directory"
        )
    seen = {}
    for root in roots:
        real = os.path.realpath(root)
        if real in seen:
            raise ValueError(f"data_folder names one source twice: {seen[real]} and {root}")
        seen[real] = root
    return roots


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


def _trial_speakers(lists, sources):
    """The speakers of the trial lists."""
    speakers = set()
    for path in lists:
        here = sorted(listed_speakers(path, sources))
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


# ---------------------------------------------------------------- sources


def _open(roots: list[str], prefix_speakers: bool) -> list[Source]:
    prefixes = _prefixes(roots) if prefix_speakers else [""] * len(roots)
    sources = [open_source(root, prefix=prefix) for root, prefix in zip(roots, prefixes)]
    for source in sources:
        if isinstance(source, Folders):
            source.check()
    return sources


def _scan(sources: list[Source], sample_rate: int) -> list[Row]:
    """All utterances of the sources, sorted by ID and path; each source is told."""
    found: list[Row] = []
    for source in sources:
        here = list(source.rows(sample_rate))
        placed = [row for row in here if row.reason in ("", "unusable_name")]
        speakers = {row.folder for row in placed}
        if not speakers:
            raise FileNotFoundError(_no_audio(source, here))
        if isinstance(source, Folders):
            source.check_rows(here)
        logger.info(
            "%s: %s: %s speakers, %s utterances",
            source.path,
            source.layout,
            f"{len(speakers):,}",
            f"{len(placed):,}",
        )
        found.extend(here)
    return sorted(found, key=lambda row: (row.id, row.path))


def _prefixes(roots):
    """What tells the speakers of each root from those of the others, ``calls-``: as
    much of the ends of their paths as that takes."""
    parts = [Path(root).parts[1:] for root in roots]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["-".join(path[-depth:]) for path in parts]
        if len(set(names)) == len(roots):
            break
    if not all(map(is_plain, names)):
        raise ValueError(
            f"prefix_speakers: white space in a folder's name ({some(names)}) would be "
            "in the names of its speakers; give a link with another name as data_folder"
        )
    return [f"{name}-" for name in names]


def _no_audio(source, here):
    placed = [row.path for row in here if row.reason == "not_wav_or_flac"]
    kinds = Counter(os.path.splitext(path)[1].lower().lstrip(".") for path in placed)
    root = source.path
    base = source.base if isinstance(source, Folders) else root
    if not kinds:
        for part in ("aac", "dev/aac", "test/aac"):
            if os.path.isdir(folder := os.path.join(root, part)):
                return f"{folder} is VoxCeleb2 as downloaded: {_convert_m4a(folder)}"
        return f"data_folder={root}: {explain_layout(root, AUDIO + OTHER_AUDIO)}."
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    how = "convert them: ffmpeg -i IN -ac 1 -ar 16000 OUT.flac"
    if "m4a" in kinds:
        how = _convert_m4a(base)
    return f"{base} holds {counts} files, but no wav or flac; {how}"


def _convert_m4a(folder):
    """What to do about a folder of m4a files."""
    script = Path(__file__).resolve().with_name("convert_m4a.py")
    return (
        f"convert m4a files with python {script} {folder} TARGET and give TARGET as "
        "data_folder"
    )


def _fingerprint(found):
    """SHA-256 over paths, sizes and modification times, and what tables say."""
    hashed = hashlib.sha256()
    for row in found:
        hashed.update(os.fsencode(row.path))
        hashed.update(f"\0{row.size} {row.mtime}\n".encode())
        if not isinstance(row.source, Folders):
            told = row.id, row.speaker, row.session, row.start, row.stop
            hashed.update(repr(told).encode())
    return hashed.hexdigest()


def _digest_of(names):
    """SHA-256 of some names."""
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()


def _check_shared(found, excluded, options):
    """Refuses speakers of one name in two roots, unless an option tells who they are."""
    roots, people = defaultdict(set), defaultdict(set)
    for row in found:
        if not row.reason and row.folder not in excluded:
            roots[row.folder].add(row.source.path)
            people[row.speaker].add((row.source.path, row.folder))
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
        rows = [row for row in found if row.folder in names]
        twice = sum(
            a.id == b.id and a.source is not b.source for a, b in zip(rows, rows[1:])
        )
        copy = (
            f" {twice:,} utterances have one name in both, too: if one folder repeats "
            "the other, leave that out."
        )
        raise ValueError(
            f"data_folder: {len(shared):,} speakers occur both in {one} and in {other} "
            f"({some(shared)}). Give merge_speakers=True if they are the same persons, "
            f"or prefix_speakers=True if they are others of the same name."
            + copy
            * bool(twice)
        )


def _check_ids(found):
    """Refuses two files with one ID; ``found`` is sorted by ID."""
    rows = [row for row in found if row.reason in ("", "unusable_name")]
    clashes = [(a, b) for a, b in zip(rows, rows[1:]) if a.id == b.id]
    if clashes:
        one, other = clashes[0]
        raise ValueError(
            f"two files have the ID {one.id!r}: {one.path} and {other.path} "
            f"({len(clashes)} such pairs); remove one of each, or the root "
            "that repeats the other"
        )


def _check_repeated(found):
    """Refuses a recording that two roots have under two names: it would train twice, and
    be compared with itself."""
    rows = [row for row in found if not row.reason]
    shared = Counter((row.size, row.mtime, row.start, row.stop) for row in rows)
    known = {}
    for row in rows:
        if shared[row.size, row.mtime, row.start, row.stop] == 1:
            continue  # so that few paths are followed
        own = os.path.realpath(row.path), row.start, row.stop
        other = known.setdefault(own, row)
        if other.source is not row.source:
            raise ValueError(
                f"data_folder: {row.path} is in both {other.source.path} and "
                f"{row.source.path}, as {other.id} and {row.id}; leave one of the two out."
            )


# ---------------------------------------------------------------- audio files


def _sort_out(found, excluded, options, workers):
    """Splits the utterances into usable and left out, opening those in doubt.

    Returns the `_Utterance` list, the `_LeftOut` list, and the number of files
    for each of `REASONS`.
    """
    usable, left_out, candidates, stereo = [], [], [], 0
    for row in found:
        if row.reason in ("misplaced", "not_wav_or_flac"):
            left_out.append(_LeftOut(row.path, row.reason, ""))
        elif row.folder in excluded:
            left_out.append(_LeftOut(row.path, "trial_speaker", row.folder))
        elif row.reason:
            left_out.append(_LeftOut(row.path, row.reason, ""))
        else:
            candidates.append(row)
    tasks = [(row.path, row.size, row.start, row.stop) for row in candidates]
    looks = look_at_all(tasks, options["sample_rate"], options["min_duration"], workers)
    for row, (reason, detail, stop) in zip(candidates, looks):
        if reason not in ("", "stereo"):
            stretch = f"{row.id}: " if row.start or row.stop else ""
            left_out.append(_LeftOut(row.path, reason, stretch + detail))
            continue
        stereo += reason == "stereo"
        usable.append(_Utterance(row, stop))
    counts = dict.fromkeys(REASONS, 0)
    counts.update(Counter(item.reason for item in left_out), stereo=stereo)
    return usable, sorted(left_out), counts


def _why_left_out(usable, left_out, counts, shortest):
    """Why there are no more files, for an error: what precedes it and what follows."""
    if not left_out:
        return "", " No file was left out."
    parts = [
        f"{counts[reason]:,} {text.partition(': left')[0]}"
        + f" (min_duration={shortest})" * (reason == "too_short")
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


# ---------------------------------------------------------------- speakers


def _check_size(usable, options, least_utterances, why):
    """Refuses data that are too few; names all options that they cannot meet."""
    wanted = options["dev_speakers"]
    files = Counter(utterance.row.speaker for utterance in usable)
    able = sum(count >= 2 for count in files.values())
    most = min(able, len(files) - 2)
    faults, held_out = [], wanted
    after = f", with dev_speakers={wanted} of {len(files)} speakers" if wanted else ""
    if len(files) < 2:
        faults.append(f"Speakers left: {len(files)}, at least 2 are needed.")
    elif wanted > most:
        held_out = most if most >= 2 else 0
        after = f" with dev_speakers={held_out}"
        faults.append(
            f"dev_speakers={wanted}: of the {len(files)} speakers that may train {able} "
            f"have two usable files, and 2 speakers must be left to train; give {held_out}"
            f"{' or fewer' if held_out else ' (then there are no development trials)'}."
        )
    speakers = [utterance.row.speaker for utterance in usable]
    drawn = hold_out(speakers, held_out, options["seed"])
    left = sum(speaker not in drawn for speaker in speakers)
    if left < least_utterances and len(files) >= 2:
        faults.append(
            f"batch_size: a batch of all processes takes {least_utterances:,} utterances, "
            f"and {left:,} are left to train{after}; make it smaller."
        )
    if faults:
        cause, rest = why
        cause = cause or " too few data."
        raise ValueError(f"data_folder:{cause} {' '.join(faults)}{rest}")


# ---------------------------------------------------------------- writing


def _csv_rows(utterances, sample_rate):
    """The rows of a SpeechBrain csv file, header included."""
    rows = [("ID", "duration", "wav", "start", "stop", "spk_id")]
    for row, stop in utterances:
        duration = (stop - row.start) / sample_rate
        rows.append((row.id, duration, row.path, row.start, stop, row.speaker))
    return rows


def _log_summary(prepared, found, held_out, development, trials, excluded):
    """One block: what was found, what it is used for, what is left out."""
    present = len(excluded & {row.folder for row in found})
    targets = sum(label for label, _, _ in trials)
    unused = len(found) - prepared.utterances - len(development)
    lines = [
        f"Prepared {prepared.train_csv.parent}",
        f"{len(found):>9,} audio files found",
        f"{prepared.utterances:>9,} {'for training' if held_out else 'used'}: "
        f"{prepared.speakers:,} speakers, {prepared.hours:.2f} hours",
        f"{unused:>9,} left out, listed in left_out.csv",
    ]
    if held_out:
        lines.insert(
            3,
            f"{len(development):>9,} for development: {len(held_out):,} speakers, "
            f"{targets:,} target and {len(trials) - targets:,} impostor trials",
        )
    for reason, text in REASONS.items():
        if prepared.counts[reason]:
            lines.append(f"{prepared.counts[reason]:>9,} {text}")
    if excluded:
        lines.append(
            f"{present or 'none'} of the {len(excluded):,} speakers of the trial lists "
            f"{'are in these data, and left out' if present else 'is in these data'}"
        )
    logger.info("%s", "\n".join(lines))
