#!/usr/bin/env python3
"""Small runs that are killed, or whose disk is full, against one that is left alone.

    python tests/benchmarks/interruptions.py [--kills 20] [--seed 0] [--folder FOLDER]
        [--script train.py|train_ssl.py|verify.py] [--full-disk]

makes a tiny corpus of noise and runs the script on it once. Then, for each
interruption, it starts the same run in a folder of its own and sends SIGKILL to all
of its processes, those of the data loader included, at a random moment; some of the
restarts are killed as well. The last restart is left alone. It must end with the
results of the uninterrupted run, bit for bit but for times, or with one message and
exit status 2.

With ``--full-disk`` the folder is a small tmpfs, and what happens at the moment is
that another file fills it, up to the last byte. The run must end with one message and
exit status 2. When that file is gone, the same command must end with the results of
the uninterrupted run.

Every other moment is drawn from the time that the run takes from its first file on.
The others are drawn from one phase after another, among them those that last
milliseconds: the script looks every millisecond at which files there are, and a moment
follows a change that the uninterrupted run went through as well.

Prints a table in markdown; the exit status is 1 if anything was not as it must be.
Linux only. ``--full-disk`` needs util-linux's ``unshare`` and a kernel that lets the
user mount a tmpfs in a namespace of their own.
"""

import argparse
import filecmp
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "VoxCeleb"
HPARAMS = ROOT / "hparams"
EPOCHS = 3
DISK = 64  # MiB of the small disk
LONGEST = 600  # seconds a run may take
COMMON = ["--device=cpu", "--noprogressbar"]
TRAIN = [
    *COMMON,
    "--output_folder=run",
    "--dev_speakers=3",
    "--embedding_model={channels: [16, 16, 16, 16, 48], attention_channels: 8}",
    "--lin_neurons=16",
    f"--number_of_epochs={EPOCHS}",
    "--avg_checkpoints=2",
    "--batch_size=8",
    "--sentence_len=0.8",
    "--num_workers=1",
    "--baselines=False",
]
# What is told of a half-written file or folder, by its path below the folder.
HALF_WRITTEN = {
    r"run/\.export\..*|(run/export|model/export)/\..*": "exporting",
    r".*\.CKPT\.[0-9a-f]+\.partial.*": "saving a checkpoint",
    r"run/\.[0-9a-f]{8}\.partial.*": "writing the results",
    r"embeddings/.*\.partial": "writing the cache",
    r".*(\.tmp|\.partial)": "preparing",
}

# ------------------------------------------------------------------- the runs


def make_corpus(folder):
    """12 training and 4 test speakers, each a color of noise, and a trial list."""
    for part, speakers in (("train", 12), ("test", 4)):
        for speaker, session, number in itertools.product(range(speakers), "ab", range(2)):
            drawn = np.random.default_rng([part == "test", speaker])
            color = drawn.standard_normal(16)
            drawn = np.random.default_rng([part == "test", speaker, ord(session), number])
            sound = np.convolve(drawn.standard_normal(17600), color, "same")
            path = (
                folder / part / "wav" / f"{part}{speaker:02d}" / session / f"{number}.wav"
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, 0.5 * sound / np.abs(sound).max(), 16000)
    wav = folder / "test" / "wav"
    files = sorted(str(path.relative_to(wav)) for path in wav.rglob("*.wav"))
    (folder / "trials.txt").write_text(
        "".join(
            f"{int(one.split('/')[0] == other.split('/')[0])} {one} {other}\n"
            for one, other in itertools.combinations(files, 2)
        )
    )
    for kind in ("noise", "rir"):
        sound = 0.1 * np.random.default_rng(0).standard_normal(16000)
        path = folder / kind / "a.wav"
        path.parent.mkdir()
        soundfile.write(path, sound if kind == "noise" else sound[:800], 16000)


class Runs:
    """Runs of one script, all with the same command, each in a folder of its own."""

    def __init__(self, script, work):
        self.script, self.work = script, work
        corpus, self.model = work / "corpus", None
        data = [
            f"--test_data_folder={corpus}/test",
            f"--verification_file={corpus}/trials.txt",
        ]
        train = [*data, f"--data_folder={corpus}/train", *TRAIN]
        self.options = {
            "train.py": [HPARAMS / "small.yaml", *train],
            "train_ssl.py": [
                *(HPARAMS / "small" / "simclr.yaml", *train),
                f"--data_folder_noise={corpus}/noise",
                f"--data_folder_rir={corpus}/rir",
                "--distortions=null",
            ],
            "verify.py": [
                *(HPARAMS / "verify.yaml", *COMMON, *data),
                "--model=model/export",
                "--output_folder=run",
                "--cache_folder=embeddings",
                f"--cohort={corpus}/train",
                "--cohort_size=10",
                "--normalizations=[none, as-norm]",
                f"--calibration_file={corpus}/trials.txt",
                "--store_decision=True",
                "--bootstrap_draws=20",
            ],
        }
        make_corpus(corpus)
        if script == "verify.py":
            folder = work / "model"
            folder.mkdir()
            process = self.start(folder, "train.py")
            if process.wait():
                sys.exit(f"the training failed: see {folder}/screen1.txt")
            self.model = folder / "run" / "export"

    def fill(self, folder):
        """Put what a run needs into its folder."""
        folder.mkdir(exist_ok=True)
        if self.model is not None:
            shutil.copytree(self.model, folder / "model" / "export")

    def start(self, folder, script=None, screen="screen1.txt"):
        """Start a run in a folder, the first process of a group of its own."""
        env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        script = script or self.script
        where = self.work / "screens" / folder.name
        where.mkdir(parents=True, exist_ok=True)
        with open(where / screen, "wb") as file:
            return subprocess.Popen(
                [sys.executable, RECIPE / script, *self.options[script]],
                cwd=folder, env=env, stdout=file, stderr=file, start_new_session=True,
            )  # fmt: skip

    def screen(self, folder, screen):
        return (self.work / "screens" / folder.name / screen).read_text(errors="replace")


# ----------------------------------------------------- what is in a run's folder


def paths(folder, below=""):
    """Every path below a folder that may be written to meanwhile: path -> entry."""
    found = {}
    try:
        with os.scandir(os.path.join(folder, below)) as entries:
            for entry in entries:
                name = f"{below}{entry.name}"
                found[name] = entry
                if entry.is_dir(follow_symlinks=False):
                    found |= paths(folder, f"{name}/")
    except OSError:  # it is gone by now
        pass
    return found


def state(folder):
    """Path below the folder -> what changes when the file is written anew."""
    found = {}
    for name in paths(folder):
        try:
            status = os.stat(os.path.join(folder, name))
        except OSError:
            continue
        found[name] = status.st_ino, status.st_size, status.st_mtime_ns
    return found


def phase(folder, before, now):
    """Where a process is, by what it has written: ``before`` and ``now`` are states."""
    new = {name for name in now if now[name] != before.get(name)}
    for pattern, name in HALF_WRITTEN.items():
        if any(re.fullmatch(pattern, path) and path not in before for path in new):
            return name
    if "run/metrics.json" in new and ("run/export" in now or "model/export" in now):
        return "done"
    if any(path.startswith("embeddings/") for path in new):
        return "scoring"
    if "run/log.txt" not in new and not any(path.startswith("run/cohort") for path in new):
        return "starting"
    if any(path.startswith("run/cohort") for path in new):
        return "embedding"
    if "run/hyperparams.yaml" not in new:
        return "preparing"
    epochs = logged_epochs(folder)
    whole = sum(bool(re.fullmatch(r"run/save/CKPT\+[^/]*", name)) for name in now)
    if epochs < EPOCHS or not whole:
        return "training"
    return "scoring"


def logged_epochs(folder):
    try:
        return len(json.loads((folder / "run" / "epochs.json").read_text()))
    except (OSError, ValueError):
        return 0


def left_over(folder):
    """What a killed process left half-written."""
    names = [
        name
        for name in paths(folder)
        if re.search(r"\.(tmp|partial)$", name) and "partial/" not in name
    ]
    return sorted(re.sub(r"[0-9a-f]{8,}|\.\d+(?=\.partial)", "*", name) for name in names)


# -------------------------------------------------------------------- moments


class Watch:
    """Looks at a run's folder while the run is at work.

    Attributes
    ----------
    changes : list of tuple
        (seconds since the start, change, phase after it). A change is (sign, path), with
        a star for what differs between runs, and how often it has been there.
    """

    def __init__(self, folder):
        self.folder, self.begun = folder, time.perf_counter()
        self.before = state(folder)
        self.there = set(self.before)
        self.changes, self.times = [], {}

    def look(self, phases=False):
        """Note what has changed; returns the new changes."""
        now = set(paths(self.folder))
        if now == self.there:
            return []
        found = [("+", name) for name in sorted(now - self.there)]
        found += [("-", name) for name in sorted(self.there - now)]
        self.there, new = now, []
        name = phase(self.folder, self.before, state(self.folder)) if phases else None
        for sign, path in found:
            key = sign, re.sub(r"[0-9a-f]{8,}|\d+", "*", path)
            self.times[key] = self.times.get(key, 0) + 1
            new.append((*key, self.times[key]))
        seconds = time.perf_counter() - self.begun
        self.changes += [(seconds, change, name) for change in new]
        return new


class Moments:
    """Draws moments: (change, seconds after it).

    What is there for a moment alone may be missed, so no moment begins with it.
    """

    def __init__(self, changes, duration, seed):
        self.random = random.Random(seed)
        changes = [c for c in changes if not re.search(r"\.(partial|tmp)\b", c[1][1])]
        ends = [seconds for seconds, _, _ in changes[1:]] + [duration]
        self.parts = {}
        for (seconds, change, name), end in zip(changes, ends):
            self.parts.setdefault(name, []).append((change, max(end - seconds, 1e-4)))
        self.parts.pop("done", None)
        self.phases = itertools.cycle(self.parts)

    def anywhen(self):
        """From all of the run's time since its first change."""
        return self._of([part for parts in self.parts.values() for part in parts])

    def of_a_phase(self):
        """From the next phase."""
        return self._of(self.parts[next(self.phases)])

    def _of(self, parts):
        lengths = [length for _, length in parts]
        change, length = self.random.choices(parts, lengths)[0]
        return change, self.random.uniform(0, length)


def wait_for(process, watch, moment):
    """Wait until the moment, or until the process ends; True for the moment."""
    (change, delay), due = moment, None
    while process.poll() is None:
        if due is not None and time.perf_counter() >= due:
            return True
        if due is None and change in watch.look():
            due = time.perf_counter() + delay
        left = LONGEST if due is None else due - time.perf_counter()
        time.sleep(max(0.0, min(0.001, left)))
        stop_if_endless(process, watch)
    return False


def stop_if_endless(process, watch):
    if time.perf_counter() - watch.begun > LONGEST:
        kill(process)
        sys.exit(f"{watch.folder}: a run did not end")


def kill(process):
    """SIGKILL to the process and all that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


# ----------------------------------------------------------------- comparison


def results(folder):
    """Path -> content of what must not depend on an interruption."""
    run, found = folder / "run", {}
    for path in [
        *run.glob("scores_*.txt"),
        *run.glob("export/*"),
        *folder.glob("model/*/*"),
    ]:
        if path.name != "README.md":  # tells the minutes
            found[str(path.relative_to(folder))] = path
    found |= {f"run/{name}": run / name for name in ("metrics.json", "epochs.json")}
    found |= {f"run/{path.name}": path for path in run.glob("*.png")}
    return {name: path for name, path in found.items() if path.is_file()}


def content(path):
    if path.suffix == ".json":
        return without_times(json.loads(path.read_text()))
    if path.suffix == ".ckpt" and path.name != "label_encoder.ckpt":
        return torch.load(path, map_location="cpu")
    return path.read_bytes()


def without_times(value):
    if isinstance(value, dict):
        times = {"minutes", "seconds", "loader_wait", "loader_wait_share"}
        return {key: without_times(kept) for key, kept in value.items() if key not in times}
    return [without_times(kept) for kept in value] if isinstance(value, list) else value


def differences(ours, theirs):
    """Names of the results that differ between two folders."""
    ours, theirs = results(ours), results(theirs)
    found = sorted(ours.keys() ^ theirs.keys())
    for name in sorted(ours.keys() & theirs.keys()):
        if filecmp.cmp(ours[name], theirs[name], shallow=False):
            continue
        one, other = content(ours[name]), content(theirs[name])
        if isinstance(one, dict) and any(torch.is_tensor(kept) for kept in one.values()):
            equal = one.keys() == other.keys() and all(
                torch.equal(one[key], other[key]) for key in one
            )
        else:
            equal = one == other
        if not equal:
            found.append(name)
    return found


def what_it_did(folder, text):
    """What a run did, by what it printed and logged."""
    log = folder / "run" / "log.txt"
    if log.is_file():
        text += log.read_text(errors="replace").rpartition("Beginning experiment!")[2]
    epochs = re.findall(r"Going into epoch (\d+)", text)
    did = ["prepared"] if "\nPrepared " in text or " Prepared " in text else []
    if epochs:
        did.append(f"trained from epoch {epochs[0]}")
    return ", ".join(did) or "only the end"


def message(script, text):
    """The last words of a run, and whether they are one message."""
    lines = text.strip().splitlines()
    places = [i for i, line in enumerate(lines) if line.startswith(f"{script}: error: ")]
    if len(places) == 1 and "Traceback" not in text:
        return " ".join(lines[places[0] :]), True
    return (lines[-1] if lines else ""), False


# ----------------------------------------------------------------------- main


class Experiment:
    """All interruptions, and the table of what came of them."""

    def __init__(self, options):
        self.script, self.full_disk = options.script, options.full_disk
        self.work = options.folder.resolve()
        self.work.mkdir(parents=True, exist_ok=True)
        self.runs = Runs(options.script, self.work)
        self.whole = self.work / "whole"
        self.runs.fill(self.whole)
        process, watch = self.runs.start(self.whole), None
        watch = Watch(self.whole)
        while process.poll() is None:
            watch.look(phases=True)
            time.sleep(0.001)
            stop_if_endless(process, watch)
        duration = time.perf_counter() - watch.begun
        if process.returncode:
            sys.exit(f"the uninterrupted run failed: see {self.work}/screens")
        self.moments = Moments(watch.changes, duration, options.seed)
        self.bad = 0
        print(f"The run that was left alone: {duration:.1f} s", flush=True)

    def header(self):
        columns = ["", "at s", "phase", "left over", "restart", "equal?"]
        if self.full_disk:
            columns = ["", "full at s", "phase", "the run ended", "with room", "equal?"]
        print(f"\n| {' | '.join(columns)} |")
        print("| ---: | ---: | --- | --- | --- | --- |", flush=True)

    def row(self, *cells):
        print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)

    def verdict(self, folder, process, screen):
        """Wait for the last run in a folder; what it did, and whether that is right."""
        while process.poll() is None:
            time.sleep(0.05)
        text = self.runs.screen(folder, screen)
        if process.returncode == 0:
            found = differences(folder, self.whole)
            left = left_over(folder)
            did = what_it_did(folder, text) + f"; leaves {', '.join(left)}" * bool(left)
            good = not found
            equal = "yes" if good else f"NO: {', '.join(found)}"
        else:
            last, clear = message(self.script, text)
            good = process.returncode == 2 and clear and not self.full_disk
            did = f"refused: {last}"
            equal = "refused" if good else f"NO: exit status {process.returncode}"
        self.bad += not good
        if good:
            shutil.rmtree(folder)
        return did, equal

    def kill_one(self, number, again):
        """One folder: a kill, a second one of the restart maybe, and the last restart.
        Returns the number of kills."""
        folder = self.work / f"{number:02d}"
        self.runs.fill(folder)
        killed, ended = [], False
        for life in range(1, 2 + again):
            screen = f"screen{life}.txt"
            process = self.runs.start(folder, screen=screen)
            watch = Watch(folder)
            even = (number + life) % 2
            moment = self.moments.of_a_phase() if even else self.moments.anywhen()
            ended = not wait_for(process, watch, moment)
            if ended:  # before its moment
                break
            seconds = time.perf_counter() - watch.begun
            kill(process)
            where = phase(folder, watch.before, state(folder))
            left = ", ".join(left_over(folder)) or "-"
            killed.append((f"{seconds:.1f}", where, left))
        if not ended:
            screen = "last.txt"
            process = self.runs.start(folder, screen=screen)
        verdict = self.verdict(folder, process, screen)
        for cells in killed[:-1]:
            self.row(number, *cells, "killed as well, below", "")
        self.row(number, *(killed[-1] if killed else ("-", "not killed", "-")), *verdict)
        return len(killed)

    def kill_all(self, kills):
        self.header()
        done, number = 0, 0
        while done < kills:
            number += 1
            done += self.kill_one(number, again=number % 3 == 0 and kills - done > 1)
        return done

    def fill_disks(self, times):
        """The same with a disk that becomes full."""
        self.header()
        disk = self.work / "disk"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}m", "tmpfs", disk]
        subprocess.run(mount, check=True)
        for number in range(1, times + 1):
            folder = disk / f"{number:02d}"
            self.runs.fill(folder)
            even = number % 2
            moment = self.moments.of_a_phase() if even else self.moments.anywhen()
            process = self.runs.start(folder)
            watch = Watch(folder)
            where = at = ""
            with open(disk / "filler", "ab", buffering=0) as filler:
                if wait_for(process, watch, moment):
                    at = f"{time.perf_counter() - watch.begun:.1f}"
                    where = phase(folder, watch.before, state(folder))
                    while process.poll() is None:
                        fill(filler)  # again and again: what the run frees, too
                        time.sleep(0.001)
                        stop_if_endless(process, watch)
            (disk / "filler").unlink()
            ended = "well"
            if process.returncode:
                ended, clear = message(self.script, self.runs.screen(folder, "screen1.txt"))
                ended = ended.removeprefix(f"{self.script}: error: ").split(". Make")[0]
                if process.returncode != 2 or not clear:
                    ended = f"NO: exit status {process.returncode}: {ended}"
                    self.bad += 1
            process = self.runs.start(folder, screen="last.txt")
            did, equal = self.verdict(folder, process, "last.txt")
            self.row(number, at, where, ended, did, equal)
            shutil.rmtree(folder, ignore_errors=True)
        subprocess.run(["umount", "--lazy", disk], check=True)
        return times


def fill(file):
    """Write to an open file until the disk has no byte left."""
    for size in (1 << 20, 1 << 12, 1):
        try:
            while file.write(bytes(size)) == size:
                pass
        except OSError:
            pass


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="or full disks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="stays; by default a temporary one")
    parser.add_argument("--script", default="train.py", help="train_ssl.py, verify.py")
    parser.add_argument("--full-disk", action="store_true")
    options = parser.parse_args()
    if options.full_disk and "INTERRUPTIONS_MOUNT" not in os.environ:
        os.environ["INTERRUPTIONS_MOUNT"] = "own"  # the mount goes with the processes
        command = ["unshare", "--map-root-user", "--mount", sys.executable, *sys.argv]
        os.execvp(command[0], command)
    os.nice(10)
    with tempfile.TemporaryDirectory() as temporary:
        options.folder = options.folder or Path(temporary)
        experiment = Experiment(options)
        interrupt = experiment.fill_disks if options.full_disk else experiment.kill_all
        done = interrupt(options.kills)
        what = "full disks" if options.full_disk else "kills"
        print(f"\n{done} {what} of {options.script}: {experiment.bad} not as it must be")
    sys.exit(bool(experiment.bad))


if __name__ == "__main__":
    main()
