"""Stands in train.py's place: leaves at once the files that a training run leaves.

How a run goes is told by ``told.json`` in the folder of the environment variable
STAND_IN: name of the run (``am/1``) -> {"wrong": k, "dev": %, "status": n, "sleep": s,
"after": name}; the last waits for another run, a minute at most. What it was called with
is a line of ``calls.txt`` there.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

# 40 target trials and 40 impostor trials of eight speakers.
TRIALS = [(f"s{i % 8}/a/{i}.wav", f"s{i % 8}/b/{i}.wav", 1) for i in range(40)]
TRIALS += [
    (f"s{i % 8}/a/{i}.wav", f"s{(i + 1 + i // 20) % 8}/b/{i}.wav", 0) for i in range(40)
]
LABELS = np.array([label for *_, label in TRIALS])


def scores_with(wrong):
    """Scores of TRIALS with an EER of wrong / 40: that many targets are below all
    impostors, and as many impostors above all targets."""
    ranks = np.arange(40)
    targets = np.where(ranks < wrong, -200, 100) + ranks
    impostors = np.where(ranks < wrong, 200, -100) + ranks
    return np.concatenate([targets, impostors]).astype(float)


def leave_a_run(folder, wrong=4, dev=5.0, minutes=6.0):
    """The files of a finished run of two epochs."""
    folder = Path(folder)
    (folder / "export").mkdir(parents=True)
    (folder / "export" / "hyperparams.yaml").touch()
    (folder / "save" / "CKPT+1").mkdir(parents=True)
    (folder / "save" / "train.csv").touch()
    (folder / "scores_test.txt").write_text(
        "".join(
            f"{enrol} {test} {label} {score}\n"
            for (enrol, test, label), score in zip(TRIALS, scores_with(wrong))
        )
    )
    epochs = [
        {"epoch": 1, "loss": 8.0, "EER": 0.125}, {"epoch": 2, "loss": 0.4, "EER": 0.0625},
    ]  # fmt: skip
    (folder / "epochs.json").write_text(json.dumps(epochs))
    metrics = {"training": {"minutes": minutes}, "development": {"eer": dev / 100}}
    (folder / "metrics.json").write_text(json.dumps(metrics))


def main(arguments):
    options = dict(argument[2:].split("=", 1) for argument in arguments[1:])
    home, folder = Path(os.environ["STAND_IN"]), Path(options["output_folder"])
    name = f"{folder.parent.name}/{folder.name}"
    told = json.loads((home / "told.json").read_text()).get(name, {})
    with open(home / "calls.txt", "a") as calls:
        call = {"name": name, "pid": os.getpid(), "threads": os.environ["OMP_NUM_THREADS"]}
        calls.write(json.dumps({**call, **options}) + "\n")
    time.sleep(told.pop("sleep", 0))
    if "after" in told:
        other, end = folder.parent.parent / told.pop("after"), time.monotonic() + 60
        while not (other / "metrics.json").is_file():
            if time.monotonic() > end:
                return 1
            time.sleep(0.05)
    if "status" in told:
        print("it went wrong")
        return told["status"]
    leave_a_run(folder, **told)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
