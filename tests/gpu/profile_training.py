#!/usr/bin/env python3
"""Train as train.py does, and tell how much of the time the GPU worked.

    python tests/gpu/profile_training.py OUT.json WARM STEPS hparams.yaml [options]

After WARM steps, STEPS are watched by torch's profiler, from the end of the step before
them to the end of the last, waits for the data loader included; then the training is left.
OUT.json holds the milliseconds a step and, on a GPU, ``idle_share``: the share of the time
in which no kernel and no copy ran.
"""

import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "recipes" / "VoxCeleb")]

import torch  # noqa: E402
from torch.autograd import DeviceType  # noqa: E402
from torch.profiler import ProfilerActivity, profile  # noqa: E402

import train  # noqa: E402
from hamsb.training.brain import EmbeddingBrain  # noqa: E402


def busy_seconds(intervals):
    """The length of the union of intervals (start, end) in microseconds, in seconds.

    Example
    -------
    >>> busy_seconds([(0, 2e6), (1e6, 3e6), (5e6, 6e6)])
    4.0
    """
    total, reached = 0.0, 0.0
    for start, end in sorted(intervals):
        total += max(end - max(start, reached), 0)
        reached = max(reached, end)
    return total / 1e6


class Watch:
    """What stands around ``fit_batch``."""

    def __init__(self, out, warm, steps):
        self.out, self.warm, self.steps = Path(out), warm, steps
        self.step, self.cuda = 0, torch.cuda.is_available()
        self.profiler = profile(activities=[ProfilerActivity.CUDA]) if self.cuda else None

    def __call__(self, fit_batch):
        def watched(brain, batch):
            loss = fit_batch(brain, batch)
            self.step += 1
            if self.step == self.warm:
                self.begin(brain)
            elif self.step == self.warm + self.steps:
                self.end(brain)
            return loss

        return watched

    def begin(self, brain):
        if "cuda" in str(brain.device):
            torch.cuda.synchronize()
            self.profiler.start()
        self.began = time.perf_counter()

    def end(self, brain):
        on_gpu = "cuda" in str(brain.device)
        if on_gpu:
            torch.cuda.synchronize()
        wall = time.perf_counter() - self.began
        found = {"ms_a_step": round(1e3 * wall / self.steps, 1)}
        if on_gpu:
            self.profiler.stop()
            ran = [
                (event.time_range.start, event.time_range.end)
                for event in self.profiler.events()
                if event.device_type == DeviceType.CUDA and not event.is_user_annotation
            ]
            found["idle_share"] = round(1 - busy_seconds(ran) / wall, 3)
        self.out.write_text(json.dumps(found))
        raise SystemExit(0)


def main():
    out, warm, steps, *arguments = sys.argv[1:]
    watch = Watch(out, int(warm), int(steps))
    EmbeddingBrain.fit_batch = watch(EmbeddingBrain.fit_batch)
    train.main(arguments)


if __name__ == "__main__":
    main()
