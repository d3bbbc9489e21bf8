#!/usr/bin/env python3
"""The memory and time of a step on two views: a backward pass after each, or one.

    python tests/benchmarks/bench_views.py [--device cuda] [--channels 1024] [--batch 256]

Steps of train.py's Brain with ECAPA-TDNN and a head on batches of 2 s, the clean view and
an augmented one, each way in a process of its own. Memory is what the steps take beyond
what is there before the first: on CUDA of allocated memory, on a CPU of the process's
resident memory.
"""

import argparse
import functools
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import speechbrain
import torch
from bench_head import cpu
from speechbrain.augment.augmenter import Augmenter
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
from speechbrain.processing.features import InputNormalization

import hamsb

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "recipes" / "VoxCeleb"))
import train  # noqa: E402

WAYS = {
    "after each view": train.SpeakerBrain.fit_batch,
    "once": speechbrain.Brain.fit_batch,
}


class Noise(torch.nn.Module):
    """The augmentation."""

    def forward(self, wavs):
        return wavs + 0.1 * torch.randn_like(wavs)


def make_brain(options):
    """train.py's, with two views."""
    torch.manual_seed(0)
    widths = [options.channels] * 4 + [3 * options.channels]
    ball = hamsb.ClippedUnitBall(3.0)
    modules = {
        "compute_features": Fbank(n_mels=80),
        "mean_var_norm": InputNormalization("sentence", False),
        "embedding_model": ECAPA_TDNN(80, channels=widths, lin_neurons=192),
        "classifier": hamsb.HyperbolicClassifier(192, options.speakers, ball),
    }
    hparams = {
        "compute_cost": hamsb.HAMSoftmax(),
        "wav_augment": Augmenter(concat_original=True, augmentations=[Noise()]),
        "lr_annealing": None,
        "separate_views": True,
    }
    make = functools.partial(torch.optim.Adam, lr=1e-3)
    run_opts = {"device": options.device, "precision": options.precision}
    brain = train.SpeakerBrain(modules, make, hparams, run_opts)
    brain.init_optimizers()
    brain.nonfinite_count = 0
    brain.modules.train()
    return brain


def make_batch(options):
    """Noise of random speakers."""
    return PaddedBatch(
        [
            {
                "id": str(number),
                "sig": torch.randn(32000) / 10,
                "spk_id_encoded": torch.randint(options.speakers, (1,)),
            }
            for number in range(options.batch)
        ]
    )


def measure(options):
    """MB of memory, the median of the steps' milliseconds, and the last loss."""
    on_cuda = options.device.startswith("cuda")
    torch.set_num_threads(options.threads)
    brain, batch = make_brain(options), make_batch(options)
    if on_cuda:
        before = torch.cuda.memory_allocated()
    else:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        before = pages * resource.getpagesize()
    times = []
    for _ in range(options.steps):
        brain.step += 1
        begun = time.perf_counter()
        loss = WAYS[options.way](brain, batch)
        times.append(1e3 * (time.perf_counter() - begun))
    if on_cuda:
        most = torch.cuda.max_memory_allocated()
    else:
        most = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (most - before) / 1e6, median(times[1:]), loss.item()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--speakers", type=int, default=5994)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way is not None:
        print(json.dumps(measure(options)))
        return
    where = f"{options.threads} threads of {cpu()}"
    if options.device.startswith("cuda"):
        where = torch.cuda.get_device_name(options.device)
    print(
        f"{where}; torch {torch.__version__}; {options.precision}; 2 x {options.batch}, "
        f"{options.channels} channels, {options.speakers} speakers\n"
    )
    print("| backward pass | MB | ms a step | loss after the steps |")
    print("| --- | ---: | ---: | ---: |")
    found = {}
    for way in WAYS:
        command = [sys.executable, __file__, *sys.argv[1:], f"--way={way}"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found[way] = json.loads(done.stdout.splitlines()[-1])
        memory, milliseconds, loss = found[way]
        print(f"| {way} | {memory:.0f} | {milliseconds:.0f} | {loss:.6f} |", flush=True)
    ours, joined = found.values()
    print(f"| ratio | {ours[0] / joined[0]:.2f} | {ours[1] / joined[1]:.2f} | |")


if __name__ == "__main__":
    main()
