#!/usr/bin/env python3
"""A training run that is killed again and again against one that is not.

    python tests/benchmarks/kill_and_resume.py FOLDER --kills 3 -- hparams/small_ham.yaml \
        --data_folder=... --test_data_folder=... --verification_file=... [--key=value ...]

trains into FOLDER/whole; then into FOLDER/killed, where the process is sent
SIGKILL at random moments and started again; then compares the logs and the
scores of the trial lists, to the last bit. Exits with 1 where they differ.
"""

import argparse
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

TRAIN = Path(__file__).resolve().parents[2] / "recipes" / "VoxCeleb" / "train.py"


def start(options, folder):
    """Start a training; its output is appended to ``<folder>.log``."""
    with open(f"{folder}.log", "ab") as log:
        return subprocess.Popen(
            [sys.executable, str(TRAIN), *options, f"--output_folder={folder}"],
            stdout=log,
            stderr=log,
        )


def numbers(folder):
    """The log's lines by epoch (the last of each) and the score files."""
    lines = (folder / "train_log.txt").read_text().splitlines()
    scores = {path.name: path.read_text() for path in folder.glob("scores_*.txt")}
    return {line.split(",")[0]: line for line in lines}, scores


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("options", nargs="+")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True)
    whole, killed = arguments.folder / "whole", arguments.folder / "killed"
    begun = time.time()
    if start(arguments.options, whole).wait() != 0:
        sys.exit(f"the uninterrupted run failed: see {whole}.log")
    duration = time.time() - begun
    moments, kills = random.Random(arguments.seed), 0
    while kills < arguments.kills:
        process = start(arguments.options, killed)
        try:
            # A share of the whole, so that the kills fall all over the run.
            if process.wait(timeout=duration * moments.uniform(0.15, 0.4)) != 0:
                sys.exit(f"a resumed run failed: see {killed}.log")
            break  # it was done before its moment came
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            done = killed / "train_log.txt"
            epochs = len(done.read_text().splitlines()) if done.exists() else 0
            print(f"killed after {epochs} logged epochs", flush=True)
    if start(arguments.options, killed).wait() != 0:
        sys.exit(f"the resumed run failed: see {killed}.log")
    (log, scores), (expected, expected_scores) = numbers(killed), numbers(whole)
    same = log == expected and scores == expected_scores
    print("\n".join(log.values()))
    print(
        f"{kills} kills, {len(log)} epochs, {len(scores)} score files: "
        + ("equal to the uninterrupted run" if same else "DIFFERENT")
    )
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
