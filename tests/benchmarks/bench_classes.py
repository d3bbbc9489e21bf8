#!/usr/bin/env python3
"""Memory and time of a training as the number of speakers grows, in two processes.

    python tests/benchmarks/bench_classes.py [--sizes 10000 ... 1000000] [--out=folder]

A small encoder on random features, HAM-Softmax's head of 192 dimensions, Adam, clipping:
what a training step does but for audio. Each system trains in new gloo processes on this
machine, one thread each:

whole
    each process has all centers, and DistributedDataParallel takes the mean of their
    gradients; the loss is fused
sharded
    the processes share the centers out
a tenth
    sharded, and a tenth of the speakers in each step (``class_fraction``)

Memory is the most that a process has at once (VmHWM), less what it has after a training of
1,000 speakers. Seconds are of CPU time, which other programs disturb least: the least of
``--steps`` steps after a first one, the highest of the processes. ``--whole`` is the most
speakers for which the first system is run. Results go into ``classes.csv`` and
``classes.png`` of ``--out``.
"""

import argparse
import csv
import multiprocessing
import os
import platform
import socket
import time
from pathlib import Path

import torch
from torch import distributed, nn

import hamsb
from hamsb.nnet import _fused
from hamsb.training.processes import wrap
from hamsb.training.shards import parted_parameters
from hamsb.training.step import clip_gradients
from hamsb.utils.tables import markdown_table

FEATURES, DIMENSION = 80, 192
SIZES = [10_000, 30_000, 100_000, 300_000, 1_000_000]
SYSTEMS = {
    "whole": {"fused": True},
    "sharded": {"sharded": True},
    "a tenth": {"sharded": True, "class_fraction": 0.1},
}
MEMORY, TIME = "MB a process", "CPU seconds a step"
HEADER = ["speakers", "system", MEMORY, TIME, "loss"]


def resident(key):
    """VmRSS or VmHWM of this process, MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def train(system, classes, arguments):
    """Memory in MB, seconds of a step, and the last loss, of this process."""
    torch.manual_seed(0)
    rank, processes = distributed.get_rank(), distributed.get_world_size()
    encoder = nn.Sequential(nn.Linear(FEATURES, 256), nn.ReLU(), nn.Linear(256, DIMENSION))
    before = resident("VmRSS")
    ball = hamsb.ClippedUnitBall(3.0)
    head = hamsb.HyperbolicClassifier(DIMENSION, classes, ball, **SYSTEMS[system])
    modules = nn.ModuleList([wrap(encoder, sync=False), wrap(head, sync=False)])
    parted = parted_parameters(modules)
    optimizer = torch.optim.Adam(modules.parameters(), lr=0.001)
    cost = hamsb.HAMSoftmax(0.2, 30.0)
    seconds = []
    share = arguments.batch // processes
    for step in range(arguments.steps + 1):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(arguments.batch, FEATURES, generator=generator)
        targets = torch.randint(classes, (arguments.batch, 1), generator=generator)
        x, targets = (each[rank * share :][:share] for each in (x, targets))
        distributed.barrier()
        start = time.process_time()
        loss = cost(modules[1](modules[0](x)), targets)
        loss.backward()
        clip_gradients(optimizer, 5.0, parted)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.process_time() - start)
    return resident("VmHWM") - before, min(seconds[1:]), loss.item()


def process(rank, port, system, classes, arguments, queue):
    """One process of a training."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    _fused.FEW = 0
    distributed.init_process_group("gloo", rank=rank, world_size=arguments.processes)
    train(system, 1000, arguments)  # what torch and gloo take once
    queue.put(train(system, classes, arguments))
    distributed.barrier()
    distributed.destroy_process_group()


def measure(system, classes, arguments):
    """The most memory and time of the processes, and their mean loss."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    given = port, system, classes, arguments, queue
    started = [
        context.Process(target=process, args=(rank, *given))
        for rank in range(arguments.processes)
    ]
    for each in started:
        each.start()
    memory, seconds, losses = zip(*(queue.get() for _ in started))
    for each in started:
        each.join()
    return max(memory), max(seconds), sum(losses) / len(losses)


def plot(rows, path):
    """Memory and time over the number of speakers."""
    import matplotlib
    from matplotlib.figure import Figure

    from hamsb.verification.plots import (
        COLUMN,
        STYLE,
        legend_below,
        line_styles,
        save_figure,
    )

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(COLUMN, 3.6), layout="constrained")
        panels = figure.subplots(2, 1, sharex=True)
        styles = line_styles(SYSTEMS)
        for axes, name in zip(panels, (MEMORY, TIME)):
            for system, style in styles.items():
                points = [row for row in rows if row["system"] == system]
                x = [int(row["speakers"]) for row in points]
                y = [float(row[name]) for row in points]
                axes.plot(x, y, label=system, **style)
                axes.plot(x, y, ".", color=style["color"])
            axes.set(xscale="log", yscale="log", ylabel=name)
        panels[1].set_xlabel("speakers")
        legend_below(figure, *panels[0].get_legend_handles_labels())
        save_figure(figure, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--whole", type=int, default=300_000)
    parser.add_argument("--batch", type=int, default=32, help="of all processes")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("bench_classes"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    print(f"{platform.machine()}, torch {torch.__version__}, batch {arguments.batch}")
    rows = []
    for classes in arguments.sizes:
        for system in arguments.systems:
            if system == "whole" and classes > arguments.whole:
                continue
            load = os.getloadavg()[0]
            memory, seconds, loss = measure(system, classes, arguments)
            values = classes, system, round(memory), f"{seconds:.3f}", f"{loss:.4f}"
            rows.append(dict(zip(HEADER, values)))
            print(*values, f"load {load:.1f}", sep="  ", flush=True)
            with open(arguments.out / "classes.csv", "w", newline="") as file:
                writer = csv.DictWriter(file, HEADER)
                writer.writeheader()
                writer.writerows(rows)
    print(markdown_table(HEADER, [list(row.values()) for row in rows]))
    plot(rows, arguments.out / "classes.png")


if __name__ == "__main__":
    main()
