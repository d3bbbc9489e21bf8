#!/usr/bin/env python3
"""Convert VoxCeleb2's m4a files with the program ffmpeg. Stop and restart freely.

    python recipes/VoxCeleb/convert_m4a.py /path/vox2 /path/VoxCeleb2 --jobs 16

``<source>/**/<speaker>/<session>/<utterance>.m4a`` (VoxCeleb2 ships as
``dev/aac/id00012/...``) becomes ``<target>/wav/<speaker>/<session>/
<utterance>.flac``: 16 kHz, mono, 16 bit, the layout that train.py reads.
``--format wav`` writes wav files instead, about twice as large.

A file has its name only when it is complete, and one that is there is not made
again: after an interruption the same command goes on where it was. A file that
ffmpeg cannot decode to its end is not converted; it is listed in
``<target>/failed.csv`` (path and reason), the others go on, and the exit status
is 1. The next run tries the failed ones again.
"""

import argparse
import csv
import os
import shutil
import subprocess
import sys
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from hamsb.utils.files import replacing

import soundfile
from tqdm import tqdm

SAMPLE_RATE = 16000  # Hz
CODECS = {"flac": ["-c:a", "flac", "-sample_fmt", "s16"], "wav": ["-c:a", "pcm_s16le"]}
FAILED = "failed.csv"


@dataclass
class Conversion:
    """What `convert` did.

    Attributes
    ----------
    found : int
        m4a files below the source.
    present : int
        Files that were there before.
    converted : int
        Files made now.
    failed : list of (str, str)
        Path and reason of the files that could not be converted, by path.
    """

    found: int = 0
    present: int = 0
    converted: int = 0
    failed: list = field(default_factory=list)

    def __str__(self):
        return (
            f"{self.found} m4a files: {self.converted} converted, "
            f"{self.present} were there before, {len(self.failed)} failed"
        )


def convert(source, target, suffix="flac", jobs=None, ffmpeg="ffmpeg"):
    """Convert all m4a files below ``source`` that ``target`` lacks.

    Interrupted, it lets the running conversions finish, writes ``failed.csv``
    and raises the KeyboardInterrupt.

    Arguments
    ---------
    source : str or Path
        Holds ``<speaker>/<session>/<utterance>.m4a`` at any depth.
    target : str or Path
        Gets ``wav/<speaker>/<session>/<utterance>.<suffix>`` and, if a file
        fails, ``failed.csv``, which lists the failures of the last run only.
    suffix : str
        ``flac`` or ``wav``.
    jobs : int, optional
        Conversions at a time; as many as there are cores by default.
    ffmpeg : str
        The program: a name to be found on PATH, or a path.

    Returns
    -------
    Conversion

    Raises
    ------
    FileNotFoundError
        If the program or the source is missing, or the source has no m4a file.
    ValueError
        If ``suffix`` or ``jobs`` is wrong.
    """
    if suffix not in CODECS:
        raise ValueError(f"format {suffix!r}: it must be one of {', '.join(CODECS)}.")
    jobs = (os.cpu_count() or 1) if jobs is None else jobs
    if jobs < 1:
        raise ValueError(f"jobs is {jobs}; at least 1 is needed.")
    program = find_program(ffmpeg)
    target = Path(os.path.abspath(target))
    paths = find_m4a(source)
    done = Conversion(found=len(paths))
    outputs, misplaced = plan(paths, source, target / "wav", suffix)
    done.failed += misplaced
    todo = {path: output for path, output in outputs.items() if not output.exists()}
    done.present = len(outputs) - len(todo)

    def work(task):
        path, output = task
        reason = convert_file(program, path, output, suffix)
        if reason is not None:
            done.failed.append((path, reason))
        return reason is None

    try:
        with (
            tqdm(total=len(todo), unit="file", mininterval=1.0) as bar,
            closing(run_parallel(work, todo.items(), jobs)) as results,
        ):
            for good in results:
                done.converted += good
                bar.set_postfix(failed=len(done.failed), refresh=False)
                bar.update()
    finally:
        done.failed.sort()
        write_failed(target / FAILED, done.failed)
    return done


def find_program(name):
    """The program's path; FileNotFoundError says how to get it."""
    program = shutil.which(name)
    if program is None:
        raise FileNotFoundError(
            f"the program {name!r} was not found. Install ffmpeg (apt install ffmpeg, "
            "brew install ffmpeg, conda install -c conda-forge ffmpeg), or say where "
            "it is with --ffmpeg=/path/ffmpeg."
        )
    return os.path.abspath(program)


def find_m4a(source):
    """The m4a files below a folder, sorted: a list of absolute paths (str)."""
    source = os.path.abspath(source)
    if not os.path.isdir(source):
        raise FileNotFoundError(f"source {source} is not a folder.")
    paths = [
        os.path.join(folder, name)
        for folder, _, names in os.walk(source, followlinks=True)
        for name in names
        if name.lower().endswith(".m4a")
    ]
    if not paths:
        raise FileNotFoundError(
            f"source {source} holds no m4a file; VoxCeleb2's lie at "
            "dev/aac/<speaker>/<session>/<utterance>.m4a."
        )
    return sorted(paths)


def plan(paths, source, wav, suffix):
    """Where each file goes, and the files that can go nowhere.

    Arguments
    ---------
    paths : list of str
        From `find_m4a`.
    source : str or Path
        The folder they were found in.
    wav : Path
        The folder of the speakers.
    suffix : str

    Returns
    -------
    dict of str to Path
        m4a file -> output.
    list of (str, str)
        Path and reason of a file that is not at ``<speaker>/<session>/``, or
        whose output is another file's.

    Example
    -------
    >>> paths = ["/vox2/dev/aac/id1/s/1.m4a", "/vox2/readme.m4a"]
    >>> plan(paths, "/vox2", Path("/out/wav"), "flac")[0]
    {'/vox2/dev/aac/id1/s/1.m4a': PosixPath('/out/wav/id1/s/1.flac')}
    """
    source = os.path.abspath(source)
    first, failed = {}, []
    for path in paths:
        parts = os.path.splitext(os.path.relpath(path, source))[0].split(os.sep)
        output = wav.joinpath(*parts[-3:-1], f"{parts[-1]}.{suffix}")
        if len(parts) < 3:
            failed.append((path, "not at <speaker>/<session>/ below the source"))
        elif output in first:
            failed.append((path, f"has the output of {first[output]}: {output}"))
        else:
            first[output] = path
    return {path: output for output, path in first.items()}, failed


def convert_file(program, path, output, suffix):
    """Convert a file: None, or the reason why it failed.

    ``-xerror`` makes damage within a file an error: without it, ffmpeg converts
    what it can of a truncated file and reports success. The session of its own
    keeps a terminal's Ctrl-C from the running program, which would end its file
    early, and well-formed.
    """
    command = [program, "-nostdin", "-v", "error", "-xerror", "-y", "-threads", "1"]
    command += ["-i", path, "-vn", "-ac", "1", "-ar", str(SAMPLE_RATE)]
    command += [*CODECS[suffix], "-map_metadata", "-1", "-bitexact", "-f", suffix]
    try:
        with replacing(output) as partial:
            run = subprocess.run(
                [*command, str(partial)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
            if run.returncode != 0:
                raise _Failed(_last_line(run))
            _check(partial)
    except _Failed as failure:
        return str(failure)
    return None


class _Failed(Exception):
    """A file could not be converted."""


def _last_line(run):
    lines = run.stderr.decode("utf-8", "replace").strip().splitlines()
    return lines[-1].strip() if lines else f"ffmpeg's exit status {run.returncode}"


def _check(path):
    """Whether ffmpeg wrote audio at all: it may succeed with an empty file."""
    try:
        frames = soundfile.info(str(path)).frames
    except soundfile.LibsndfileError:
        frames = 0
    if frames == 0:
        raise _Failed("ffmpeg reported success, but wrote no audio")


def run_parallel(function, tasks, jobs):
    """Yield ``function(task)`` of each task, in the order in which they end.

    At most ``2 * jobs`` tasks are taken in advance. When the caller stops, or
    an exception ends it, no further task starts and the running ones finish.

    Arguments
    ---------
    function : callable
    tasks : iterable
    jobs : int
        Threads.

    Yields
    ------
    object

    Example
    -------
    >>> sorted(run_parallel(abs, [-3, 1, -2], jobs=2))
    [1, 2, 3]
    """
    tasks, waiting = iter(tasks), set()
    pool = ThreadPoolExecutor(jobs)
    try:
        while True:
            for task in islice(tasks, 2 * jobs - len(waiting)):
                waiting.add(pool.submit(function, task))
            if not waiting:
                return
            ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in ended:
                yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def write_failed(path, failed):
    """Write the list of failures; without any, remove that of an earlier run."""
    if not failed:
        path.unlink(missing_ok=True)
        return
    with replacing(path) as partial:
        # Names that are not UTF-8 occur here.
        with open(
            partial, "w", newline="", encoding="utf-8", errors="backslashreplace"
        ) as stream:
            rows = csv.writer(stream, lineterminator="\n")
            rows.writerow(["path", "reason"])
            rows.writerows(failed)


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("source", help="folder with the m4a files, at any depth")
    parser.add_argument("target", help="folder that gets wav/<speaker>/<session>/")
    parser.add_argument("--format", choices=list(CODECS), default="flac")
    parser.add_argument("--jobs", type=int, help="conversions at a time (all cores)")
    parser.add_argument("--ffmpeg", default="ffmpeg", help="the program, or its path")
    given = parser.parse_args(arguments)
    try:
        done = convert(given.source, given.target, given.format, given.jobs, given.ffmpeg)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"convert_m4a.py: {error}")
    except KeyboardInterrupt:
        print("\nInterrupted; the same command goes on from here.", file=sys.stderr)
        sys.exit(130)
    print(done)
    if done.failed:
        sys.exit(f"Failed files and reasons: {os.path.join(given.target, FAILED)}")


if __name__ == "__main__":
    main()
