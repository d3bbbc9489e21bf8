#!/usr/bin/env python3
"""Utterances embedded a second: by workers, and in batches of equal length.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_embedding.py [--device cuda] \
        [--channels 1024] [--utterances 200] [--threads 1] [--format flac]

prints one table. ECAPA-TDNN embeds files of 4 to 8 s whose lengths are multiples of
0.04 s, as VoxCeleb's are. The ways take turns, so that another program on the machine
slows all of them: what counts is the ratio to the first line. CPU seconds are those of
all processes. The last column is the largest difference of an embedding from one that
was made alone, by its length.
"""

import argparse
import os
import resource
import statistics
import tempfile
import time

import numpy as np
import soundfile
import torch
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
from speechbrain.processing.features import InputNormalization

from hamsb.verification.embeddings import embed_utterances

RATE = 16000


class Model:
    """ECAPA-TDNN, as EncoderClassifier runs one."""

    def __init__(self, channels, device):
        torch.manual_seed(0)
        self.device = torch.device(device)
        self.features = Fbank(n_mels=80).to(self.device)
        self.norm = InputNormalization(norm_type="sentence", std_norm=False)
        widths = [channels] * 4 + [3 * channels]
        self.network = ECAPA_TDNN(80, channels=widths, lin_neurons=192)
        self.network.to(self.device).eval()

    def __call__(self, wavs):
        lengths = torch.ones(len(wavs), device=self.device)
        features = self.features(wavs.to(self.device))
        return self.network(self.norm(features, lengths), lengths)


def write_files(folder, count, kind):
    """Name -> file of noise, of 4 to 8 s."""
    random, files = np.random.default_rng(0), {}
    for i in range(count):
        samples = int(random.integers(100, 201)) * RATE // 25
        files[f"{i}"] = f"{folder}/{i}.{kind}"
        noise = np.cumsum(random.standard_normal(samples)) / 400 % 1 - 0.5
        soundfile.write(files[f"{i}"], noise, RATE)
    return files


def cpu_seconds():
    """Of this process and the children that have ended."""
    kinds = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    return sum(sum(resource.getrusage(kind)[:2]) for kind in kinds)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--utterances", type=int, default=200)
    parser.add_argument("--format", choices=("wav", "flac"), default="wav")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = Model(options.channels, options.device)
    ways = {
        f"{size}, {workers} workers": {"batch_size": batch, "num_workers": workers}
        for size, batch in (("one at a time", 1), ("by 32", 32), ("default", None))
        for workers in options.workers
    }
    found = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder:
        paths = write_files(folder, options.utterances, options.format)

        def embed(**way):
            way |= {"device": options.device, "progress": False}
            return embed_utterances(paths, model, **way).matrix

        alone = embed(batch_size=1)  # also warms up
        differences = dict.fromkeys(ways, 0.0)
        for _ in range(options.repeats):
            for name, way in ways.items():
                cpu, start = cpu_seconds(), time.perf_counter()
                matrix = embed(**way)
                seconds = time.perf_counter() - start
                found[name].append((seconds, cpu_seconds() - cpu))
                error = ((matrix - alone).norm(dim=1) / alone.norm(dim=1)).max().item()
                differences[name] = max(differences[name], error)
    device = model.device
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(
        f"{options.utterances} {options.format} files, ECAPA-TDNN of {options.channels} "
        f"channels on {card}, {options.threads} thread(s), {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f}; torch {torch.__version__}\n"
    )
    print("| way | utterances a second | ratio | CPU ms an utterance | difference |")
    print("| --- | ---: | ---: | ---: | ---: |")
    first = next(iter(found.values()))
    for name, figures in found.items():
        seconds, cpu = (statistics.median(column) for column in zip(*figures))
        ratio = statistics.median(a / b for (a, _), (b, _) in zip(first, figures))
        rate, each = options.utterances / seconds, 1000 * cpu / options.utterances
        print(
            f"| {name} | {rate:.1f} | {ratio:.2f} | {each:.1f} | {differences[name]:.0e} |"
        )


if __name__ == "__main__":
    main()
