"""The runs of a study: training scripts as processes, in folders that remember them.

A run's folder holds ``starts.json`` (its settings, and software and machine of every
start), ``output.txt`` (what it prints) and what its script leaves: of these
``scores_<list>.txt``, ``metrics.json`` and ``epochs.json`` are read here.
"""

import functools
import json
import os
import platform
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from hamsb.utils.command_line import parse_arguments
from hamsb.utils.conditions import versions
from hamsb.utils.files import read_json, replacing
from hamsb.utils.hparams import resolve
from hamsb.utils.keys import Key
from hamsb.utils.yaml_tree import bracketed
from hamsb.verification.metrics import eer
from hamsb.verification.scoring import read_scores

STARTS = "starts.json"

# ------------------------------------------------------------------------ a run


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes
    ----------
    experiment : str
    role : str
        ``seed <seed>``, or ``point <number>`` of the search.
    folder : Path
        Its ``output_folder``.
    script : Path
        train.py, or another one beside it.
    arguments : tuple of str
        What the script gets.
    """

    experiment: str
    role: str
    folder: Path
    script: Path
    arguments: tuple[str, ...]

    @property
    def name(self) -> str:
        """For the screen and the report."""
        return f"{self.experiment}, {self.role}"

    @property
    def output(self) -> Path:
        """The file of what it prints."""
        return self.folder / "output.txt"

    @property
    def finished(self) -> bool:
        """The export appears whole, and the numbers after it."""
        last = (STARTS, "metrics.json", "export/hyperparams.yaml")
        return all((self.folder / name).is_file() for name in last)

    def settings(self) -> dict[str, str]:
        """Key -> yaml text of all that train.py is given, options resolved.

        A ValueError or FileNotFoundError tells of options that it would refuse.
        """
        arguments = parse_arguments(self.arguments, declared_keys(self.script))
        hparams_file, run_opts, overrides = arguments
        root = yaml.compose(resolve(hparams_file, overrides))
        keys = root.value if root else []
        given = {name: str(run_opts[name]) for name in run_opts.overridden_args}
        return given | {key.value: _text_of(value) for key, value in keys}

    def changed(self) -> list[str]:
        """How the settings differ from those of an earlier start in the folder: texts.

        What follows from another setting, in the resolved yaml, is not told, nor that the
        folder has moved. Errors as those of `settings`.
        """
        new = self.settings()
        if not (self.folder / STARTS).is_file():
            if (self.folder / "save").exists():
                return [f"they are not known (no {STARTS})"]
            return []
        old = self._memory()["settings"]
        if before := old.get("output_folder"):
            here = new["output_folder"]
            old = {key: text.replace(before, here) for key, text in old.items()}
        told: list[str] = []
        known: set[tuple] = set()
        for path, was, now in sorted(_differences(old, new), key=lambda each: len(each[0])):
            if len(path) > 1 and {(was, now), (path[-1], was, now)} & known:
                continue
            known |= {(was, now)} if len(path) == 1 else {(path[-1], was, now)}
            told.append(f"{bracketed(path)} was {_short(was)}, is {_short(now)}")
        return sorted(told)

    def remember(self, threads: int) -> None:
        """Write settings and software of a start to ``starts.json``."""
        path = self.folder / STARTS
        starts = self.starts() if path.is_file() else []
        now = {"time": time.strftime("%F %T"), **software(self.script, threads)}
        memory = {
            "arguments": list(self.arguments),
            "settings": self.settings(),
            "starts": [*starts, now],
        }
        with replacing(path) as partial:
            partial.write_text(json.dumps(memory, indent=1), encoding="utf-8")

    def starts(self) -> list[dict]:
        """Time, software and machine of every start of this run."""
        return self._memory()["starts"]

    def _memory(self) -> dict:
        return read_json(self.folder / STARTS)


@functools.cache
def declared_keys(script: Path) -> Sequence[Key]:
    """What a script declares to read, which tells the options that it takes."""
    sys.path.insert(0, str(script.parent))  # as Python does for a script
    try:
        return runpy.run_path(str(script), run_name=script.stem).get("KEYS", ())
    finally:
        sys.path.remove(str(script.parent))


def _text_of(node: yaml.Node) -> str:
    """A yaml node's text, without its comments."""
    return yaml.serialize(node).removesuffix("...\n").strip()


def _differences(
    old: Mapping[str, str], new: Mapping[str, str]
) -> Iterator[tuple[tuple[str, ...], str | None, str | None]]:
    """The path of each value that differs, and both, None where there is none; style and
    order of keys are no difference."""
    for key in {**old, **new}:
        sides = [
            {} if text is None else dict(_values(_tree_of(text), (key,)))
            for text in (old.get(key), new.get(key))
        ]
        if not all(sides):  # a key that is new, or gone
            yield (key,), old.get(key), new.get(key)
            continue
        for path in sides[0] | sides[1]:
            was, now = (side.get(path) for side in sides)
            if was != now:
                yield path, was, now


def _tree_of(text: str) -> yaml.Node:
    tree = yaml.compose(text or "null")
    assert tree is not None
    return tree


def _values(node: yaml.Node, path: tuple[str, ...]) -> Iterator[tuple[tuple, str]]:
    """The path of each value of a yaml, lists of plain values whole, and its text; of
    what has a tag of its own also that."""
    if node.tag.startswith("!") and not isinstance(node, yaml.ScalarNode):
        yield path, node.tag
    if isinstance(node, yaml.MappingNode):
        if not node.value:
            yield (*path, "{}"), "{}"
        for key, value in node.value:
            yield from _values(value, (*path, key.value))
    elif isinstance(node, yaml.SequenceNode) and not all(
        isinstance(value, yaml.ScalarNode) for value in node.value
    ):
        for index, value in enumerate(node.value):
            yield from _values(value, (*path, str(index)))
    elif isinstance(node, yaml.SequenceNode):
        yield path, f"[{', '.join(map(_plain, node.value))}]"
    else:
        yield path, _plain(node)


def _plain(node: Any) -> str:
    """A value, however it is quoted; null in one spelling."""
    kind = node.tag.rpartition(":")[2]
    if node.tag.startswith("!"):
        return f"{node.tag} {node.value}".strip()
    bare = yaml.SafeLoader("").resolve(yaml.ScalarNode, node.value, (True, False))
    if kind == "str" and bare != node.tag:
        return repr(node.value)  # a text that would be a number, or null
    return "null" if kind == "null" else node.value


def _short(text: str | None) -> str:
    text = "absent" if text is None else " ".join(text.split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def refuse_changed(run: Run) -> None:
    """ValueError where a folder holds a run with other settings."""
    changed = run.changed()
    if changed:
        raise ValueError(
            f"{run.folder} holds a run with other settings: {'; '.join(changed)}. Give "
            "those settings or another output_folder, or remove the folder."
        )


def software(script: Path, threads: int) -> dict[str, object]:
    """What the numbers depend on besides the settings."""
    git = ["git", "-C", str(script.parent)]
    commit = _said([*git, "rev-parse", "HEAD"])
    if commit and _said([*git, "status", "--porcelain", "--untracked-files=no"]):
        commit += " with changes"
    cpuinfo = Path("/proc/cpuinfo")
    cpu = cpuinfo.read_text(encoding="utf-8") if cpuinfo.exists() else ""
    model = re.search(r"model name\s*: (.+)", cpu)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    packages = versions("")
    return {
        "commit": commit or "not a git checkout",
        **{name: packages[name] for name in ("hamsb", "speechbrain", "torch", "python")},
        "CPU": model[1] if model else platform.processor(),
        "threads of a run": threads,
        **({"GPU": gpu} if gpu else {}),
    }


def _said(command: list[str]) -> str:
    """What a program prints; nothing where it fails or is not there."""
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


# -------------------------------------------------------------------- the training


def train_all(
    runs: Iterable[Run], processes: int, keep_checkpoints: bool = True
) -> list[Run]:
    """Train what is not finished, several at a time.

    Arguments
    ---------
    runs : list of Run
    processes : int
        How many at a time; each gets the threads of `threads_each`.
    keep_checkpoints : bool
        If not, a finished run's checkpoints are removed; its export stays.

    Returns
    -------
    list of Run
        Those that failed; the end of what they printed has been printed.
    """
    waiting = [run for run in runs if not run.finished]
    threads = threads_each(processes)
    total = len(waiting)
    failed: list[Run] = []
    running: dict[Run, subprocess.Popen] = {}
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                run = waiting.pop(0)
                running[run] = start(run, threads)
                print(f"{run.name}: started; what it prints is in {run.output}", flush=True)
            time.sleep(0.2)
            for run in list(running):
                status = running[run].poll()
                if status is None:
                    continue
                del running[run]
                if status == 0 and not keep_checkpoints:
                    drop_checkpoints(run)
                failed += [run] if status else []
                done = total - len(waiting) - len(running)
                print(f"[{done}/{total}] {run.name}: {outcome(run, status)}", flush=True)
    finally:
        stop(running.values())
    return failed


def threads_each(processes: int) -> int:
    """How many threads each of several runs has: ``OMP_NUM_THREADS`` where that is set,
    else an equal share of the cores."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdecimal() and int(given):
        return int(given)
    return max(1, len(os.sched_getaffinity(0)) // processes)


def drop_checkpoints(run: Run) -> None:
    """Remove a finished run's checkpoints; its export stays."""
    for checkpoint in (run.folder / "save").glob("CKPT*"):
        shutil.rmtree(checkpoint)


def start(run: Run, threads: int) -> subprocess.Popen:
    """Start a run's script, its output appended to its file."""
    run.folder.mkdir(parents=True, exist_ok=True)
    run.remember(threads)
    with open(run.output, "ab") as output:
        return subprocess.Popen(
            [sys.executable, str(run.script), *run.arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"},
            start_new_session=True,  # its data loader's processes are stopped with it
        )


def stop(processes: Iterable[subprocess.Popen], patience: float = 20.0) -> None:
    """End processes and their children: politely, then not."""
    processes = list(processes)
    for sign in (signal.SIGTERM, signal.SIGKILL):
        alive = [process for process in processes if process.poll() is None]
        for process in alive:
            os.killpg(process.pid, sign)
        end = time.monotonic() + patience
        while any(process.poll() is None for process in alive) and time.monotonic() < end:
            time.sleep(0.05)


def outcome(run: Run, status: int) -> str:
    """How a run ended, in a few words, or in those of a failed one."""
    if status:
        output = run.output.read_text(encoding="utf-8", errors="replace").splitlines()
        end = "".join(f"    {line}\n" for line in output[-15:])
        return f"failed with status {status}.\n{end}All of it: {run.output}"
    try:
        words = [
            f"{name} EER {100 * eer(scores, labels)[0]:.2f} %"
            for name, (_, labels, scores) in read_all_scores(run.folder).items()
        ]
        rate = development_eer(run.folder)
        words += [f"development EER {rate:.2f} %"] if rate is not None else []
        return ", ".join([*words, f"{minutes(run.folder):.1f} minutes"])
    except (OSError, ValueError, LookupError) as error:  # the others go on
        return f"finished, and what it left cannot be read: {error}"


# ------------------------------------------------------------- what a run left behind


def read_all_scores(folder: Path) -> dict[str, tuple[list, np.ndarray, np.ndarray]]:
    """The scores of a run's lists.

    Returns
    -------
    dict
        Name of the list -> trials (list of (enrol, test)), labels [N] and scores [N].
    """
    return {
        path.stem.removeprefix("scores_"): read_scores(path)
        for path in sorted(folder.glob("scores_*.txt"))
    }


def read_told_speakers(folder: Path) -> dict[str, dict[str, str]]:
    """Name of a run's list -> utterance -> speaker, of those whose path does not begin with
    the speaker."""
    return read_json(folder / "metrics.json").get("told_speakers", {})


def development_eer(folder: Path) -> float | None:
    """Percent, of the averaged model; None without development speakers."""
    development = read_json(folder / "metrics.json")["development"]
    return development and 100 * development["eer"]


def minutes(folder: Path) -> float:
    """Of training, without the verification."""
    return read_json(folder / "metrics.json")["training"]["minutes"]


def read_curves(folder: Path) -> tuple[list[float], list[float]]:
    """Train loss of each epoch [E], and development EER in percent, [E] or empty."""
    epochs = read_json(folder / "epochs.json")
    rates = [100 * epoch["EER"] for epoch in epochs if "EER" in epoch]
    return [epoch["loss"] for epoch in epochs], rates
