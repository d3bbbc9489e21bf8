#!/usr/bin/env python3
"""What `skip_empty_padding` saves: time with it over time without, round after round.

    python tests/benchmarks/bench_lean.py [--device cuda] [--rounds 7]

ECAPA-TDNN of several widths, in float32 and under autocast to bfloat16: a forward and
backward pass of crops of 2 s, and a forward pass without gradients.
"""

import argparse
import copy
import time
from statistics import median

import torch
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN

from hamsb.utils.lean import skip_empty_padding


def training_step(network, x):
    network.zero_grad()
    network(x).float().square().sum().backward()


@torch.no_grad()
def forward(network, x):
    network(x)


def seconds(function, network, x, dtype):
    start = time.perf_counter()
    with torch.autocast(x.device.type, dtype=dtype, enabled=dtype is not None):
        function(network, x)
    if x.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("| channels | batch | precision | pass | ms | over that with empty padding |")
    print("| ---: | ---: | --- | --- | ---: | ---: |")
    for width, batch in ((128, 64), (256, 32), (1024, 8)):
        torch.manual_seed(0)
        channels = [width] * 4 + [3 * width]
        before = ECAPA_TDNN(80, channels=channels, lin_neurons=192).to(options.device)
        after = copy.deepcopy(before)
        skip_empty_padding(after)
        x = torch.randn(batch, 201, 80, device=options.device)
        for precision, dtype in (("float32", None), ("bfloat16", torch.bfloat16)):
            for name, function in (("training", training_step), ("forward", forward)):
                taken = [
                    [seconds(function, network, x, dtype) for network in (before, after)]
                    for _ in range(options.rounds + 1)
                ][1:]
                ms = 1e3 * median(new for _, new in taken)
                ratio = median(new / old for old, new in taken)
                print(
                    f"| {width} | {batch} | {precision} | {name} | {ms:.0f} | {ratio:.2f} |"
                )


if __name__ == "__main__":
    main()
