#!/usr/bin/env python3
"""Train as train.py does, and tell how much of the time the GPU worked.

    python tests/gpu/profile_training.py OUT.json WARM STEPS hparams.yaml [options]

After WARM steps, STEPS are watched by torch's profiler, from the end of the step before
them to the end of the last, waits for the data loader included; then the training is left.
OUT.json holds the milliseconds a step and, on a GPU, ``idle_share``: the share of the time
in which no kernel and no copy ran; ``launches`` of these a step; ``kernels``, those that
take longest together; and ``gaps``, before which of them nothing ran for longest.
"""

import json
import sys
import time
from collections import Counter
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


def longest(spans, steps, most=15):
    """Of spans (name, microseconds), the names with the largest sums: rows with the
    milliseconds and the number in a step.

    Example
    -------
    >>> longest([("add", 3000), ("mul", 5000), ("add", 4000)], steps=2, most=1)
    [{'kernel': 'add', 'ms_a_step': 3.5, 'times_a_step': 1.0}]
    """
    summed, number = Counter(), Counter()
    for name, microseconds in spans:
        summed[name] += microseconds
        number[name] += 1
    return [
        {
            "kernel": name[:100],
            "ms_a_step": round(total / steps / 1e3, 2),
            "times_a_step": round(number[name] / steps, 1),
        }
        for name, total in summed.most_common(most)
    ]


def gaps(ran):
    """The spans in which nothing ran, by the name of what ran next.

    Example
    -------
    >>> list(gaps([(0, 3, "add"), (1, 2, "mul"), (5, 6, "add")]))
    [('add', 2)]
    """
    reached = None
    for start, end, name in sorted(ran):
        if reached is not None and start > reached:
            yield name, start - reached
        reached = max(end, reached or end)


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
                (event.time_range.start, event.time_range.end, event.name)
                for event in self.profiler.events()
                if event.device_type == DeviceType.CUDA and not event.is_user_annotation
            ]
            busy = busy_seconds((start, end) for start, end, _ in ran)
            spans = [(name, end - start) for start, end, name in ran]
            found |= {
                "idle_share": round(1 - busy / wall, 3),
                "launches": round(len(ran) / self.steps),
                "peak_MB": round(torch.cuda.max_memory_allocated() / 1e6),
                "kernels": longest(spans, self.steps),
                "gaps": longest(gaps(ran), self.steps, most=8),
            }
        self.out.write_text(json.dumps(found))
        raise SystemExit(0)


def main():
    out, warm, steps, *arguments = sys.argv[1:]
    watch = Watch(out, int(warm), int(steps))
    EmbeddingBrain.fit_batch = watch(EmbeddingBrain.fit_batch)
    train.main(arguments)


if __name__ == "__main__":
    main()
