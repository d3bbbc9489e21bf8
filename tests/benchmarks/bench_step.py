#!/usr/bin/env python3
"""Where the time of a training step goes, by torch's profiler.

    python tests/benchmarks/bench_step.py [--device cuda] [--precision bf16] [--keep-memory]

One step of ECAPA-TDNN on batches of 2 s from FLAC files: read the crops as train.py
does, features, network, head and loss, both ways, and Adam. The table gives each
part's share of the median step, per head. ``--keep-memory`` keeps freed memory in the
process as train.py does on a CPU.
"""

import argparse
import tempfile
from statistics import median

import numpy as np
import soundfile
import torch
from bench_head import SpeechBrainAAM, cpu
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
from speechbrain.processing.features import InputNormalization
from torch.profiler import profile, record_function

import hamsb
from hamsb.dataio.audio import random_crop
from hamsb.training.run import keep_memory

RATE, SECONDS, DIMENSION = 16000, 2.0, 192
PARTS = [
    "data",
    "features",
    "network",
    "head and loss",
    "head and loss, backward",
    "network, backward",
    "optimizer",
]


class Ours(torch.nn.Module):
    """HAM-Softmax as published."""

    def __init__(self, centers):
        super().__init__()
        ball = hamsb.ClippedUnitBall(3.0)
        self.head = hamsb.HyperbolicClassifier(DIMENSION, len(centers), ball)
        self.loss = hamsb.HAMSoftmax()

    def forward(self, x, y):
        return self.loss(self.head(x), y)


HEADS = {"HAM, hamsb": Ours, "AAM, SpeechBrain": SpeechBrainAAM}


def write_files(folder, count):
    """FLAC files of 8 s of noise, the length of a VoxCeleb utterance."""
    random, files = np.random.default_rng(0), []
    for i in range(count):
        files.append(f"{folder}/{i}.flac")
        noise = 0.1 * random.standard_normal(8 * RATE)
        soundfile.write(files[-1], np.cumsum(noise) / 40 % 1 - 0.5, RATE)
    return files


def shares(head, channels, options, files):
    """Milliseconds of each part: the medians over the steps."""
    torch.manual_seed(0)
    device = torch.device(options.device)
    widths = [channels] * 4 + [3 * channels]
    network = ECAPA_TDNN(80, channels=widths, lin_neurons=DIMENSION).to(device)
    head = HEADS[head](torch.randn(options.speakers, DIMENSION)).to(device)
    fbank, normal = Fbank(n_mels=80).to(device), InputNormalization("sentence", False)
    adam = torch.optim.Adam([*network.parameters(), *head.parameters()])
    targets = torch.randint(options.speakers, (options.batch, 1), device=device)
    lengths = torch.ones(options.batch, device=device)
    autocast = torch.autocast(
        device.type, dtype=torch.bfloat16, enabled=options.precision == "bf16"
    )

    def part(name):
        if device.type == "cuda":
            torch.cuda.synchronize()
        return record_function(f"part: {name}")

    def step():
        with part("data"):
            length = int(SECONDS * RATE)
            crops = [random_crop(file, 0, 8 * RATE, length) for file in files]
            wavs = torch.stack(crops).to(device)
        with part("features"), torch.no_grad():
            features = normal(fbank(wavs), lengths)
        with part("network"), autocast:
            embeddings = network(features)
        with part("head and loss"), autocast:
            apart = embeddings.detach().requires_grad_()
            loss = head(apart, targets)
        with part("head and loss, backward"):
            loss.backward()
        with part("network, backward"):
            embeddings.backward(apart.grad)
        with part("optimizer"):
            adam.step()
            adam.zero_grad()

    for _ in range(2):
        step()
    found = {name: [] for name in PARTS}
    for _ in range(options.steps):
        with profile() as profiler:
            step()
        for event in profiler.events():
            if event.name.startswith("part: ") and event.device_type.name == "CPU":
                found[event.name[6:]].append(event.cpu_time_total / 1e3)
    return {name: median(times) for name, times in found.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--channels", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--speakers", type=int, default=5994)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep-memory", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.keep_memory:
        keep_memory()
    where = f"{options.threads} threads of {cpu()}"
    if options.device.startswith("cuda"):
        where = torch.cuda.get_device_name(options.device)
    memory = ", freed memory kept" if options.keep_memory else ""
    print(
        f"{where}; torch {torch.__version__}; {options.precision}{memory}; batch of "
        f"{options.batch}, {options.speakers} speakers\n"
    )
    print(f"| channels | head | ms a step | {' | '.join(f'{p} %' for p in PARTS)} |")
    print(f"| ---: | --- | ---: | {' | '.join(['---:'] * len(PARTS))} |")
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(folder, options.batch)
        for channels in options.channels:
            for head in HEADS:
                times = shares(head, channels, options, files)
                total = sum(times.values())
                cells = [f"{100 * times[name] / total:.1f}" for name in PARTS]
                row = [str(channels), head, f"{total:.0f}", *cells]
                print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
