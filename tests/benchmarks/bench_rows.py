#!/usr/bin/env python3
"""A million rows as a dataset: time and memory, beside SpeechBrain's.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_rows.py \
        [--rows 1092009] [--speakers 7205] [--reads 100000] [--workers fork spawn]

writes a synthetic csv file like a preparation's to a temporary folder and prints one
table. Each dataset is opened in processes of its own, each dies after it was measured.
Seconds are given by the clock and of the CPU: those of the CPU can be compared where
other programs run too.

Opened is what a training script does before its first step: dataset and labels. Memory
is what that adds to a process: resident, and what of it no other process shares. A worker
reads random rows: its growth is the private memory that it has after them beyond what it
had before the first. Reads /proc, so Linux alone tells. Source of no assertion: it
measures.
"""

import argparse
import csv
import multiprocessing
import os
import platform
import random
import tempfile
import time
from pathlib import Path

import numpy
import speechbrain
import torch
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.dataio.encoder import CategoricalEncoder

from hamsb.dataio.pipelines import number_speakers
from hamsb.dataio.rows import RowDataset

KEYS = ["id", "wav", "start", "stop", "spk_id"]


def write_rows(path, rows, speakers):
    """A csv file like that of a preparation of VoxCeleb2, sorted by ID."""
    draw = random.Random(0)
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["ID", "duration", "wav", "start", "stop", "spk_id"])
        for number in range(rows):
            speaker = f"id{number * speakers // rows:05}"
            name = f"{speaker}/{number:011x}/{number % 150:05}"
            stop = draw.randint(4 * 25, 20 * 25) * 640
            wav = f"/data/voxceleb/wav/{name}.wav"
            writer.writerow([name, stop / 16000, wav, 0, stop, speaker])


# -------------------------------------------------------------- what is compared


def speechbrains(path):
    """Dataset and labels as SpeechBrain's own script makes them."""
    dataset = DynamicItemDataset.from_csv(csv_path=path)
    labels = CategoricalEncoder()
    labels.update_from_didataset(dataset, output_key="spk_id")
    dataset.set_output_keys(KEYS)
    return dataset, labels


def ours(path):
    """Dataset and labels as train.py makes them."""
    dataset = RowDataset.from_csv(path)
    labels = number_speakers(dataset.data.column("spk_id"))
    dataset.set_output_keys(KEYS)
    return dataset, labels


# --------------------------------------------------------------------- measures


def memory():
    """Resident memory of this process and what of it no other shares, in MB
    (10^6 bytes)."""
    found = dict.fromkeys(("Rss", "Private_Clean", "Private_Dirty"), 0.0)
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        name, size, *_ = line.split()
        if name[:-1] in found:
            found[name[:-1]] = int(size) * 1024 / 1e6
    private = found["Private_Clean"] + found["Private_Dirty"]
    return numpy.array([found["Rss"], private])


def opened(sender, make, path, start, reads):
    """Open a dataset, tell what that took, and what a worker does with it."""
    before, clock, cpu = memory(), time.perf_counter(), time.process_time()
    dataset, labels = make(path)
    clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
    resident, private = memory() - before
    figures = {
        "open, s": clock,
        "open, CPU s": cpu,
        "resident, MB": resident,
        "private, MB": private,
    }
    context = multiprocessing.get_context(start)
    receiver, theirs = context.Pipe(duplex=False)
    clock = time.perf_counter()
    worker = context.Process(target=read, args=(theirs, dataset, reads))
    worker.start()
    receiver.recv()
    figures["start a worker, s"] = time.perf_counter() - clock
    growth, private, microseconds, digest = receiver.recv()
    worker.join()
    figures["growth of a worker, MB"] = growth
    figures["private memory of a worker, MB"] = private
    figures["a read, CPU µs"] = microseconds
    sender.send((figures, (digest, list(labels.lab2ind.items())[-1])))


def read(sender, dataset, reads):
    """A worker: random reads."""
    before = memory()
    sender.send("here")
    places = numpy.random.default_rng(0).integers(len(dataset), size=reads)
    cpu, digest = time.process_time(), 0
    for place in places:
        digest ^= hash(tuple(dataset[place].values()))
    cpu = time.process_time() - cpu
    after = memory()
    sender.send((after[1] - before[1], after[1], cpu / reads * 1e6, digest))


def measured(*arguments):
    """The figures of `opened` in a process of its own."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=opened, args=(sender, *arguments))
    process.start()
    sender.close()
    figures = receiver.recv()
    process.join()
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_092_009)
    parser.add_argument("--speakers", type=int, default=7205)
    parser.add_argument("--reads", type=int, default=100_000)
    parser.add_argument("--workers", nargs="+", default=["fork", "spawn"])
    options = parser.parse_args()
    os.environ["PYTHONHASHSEED"] = "0"  # of the processes: their digests are compared
    print(
        f"{platform.machine()}, Python {platform.python_version()}, torch "
        f"{torch.__version__}, SpeechBrain {speechbrain.__version__}; {options.rows:,} "
        f"rows, {options.speakers:,} speakers, {options.reads:,} random reads\n"
    )
    print("| workers by | figure | DynamicItemDataset | RowDataset | ratio |")
    print("| --- | --- | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "train.csv")
        write_rows(path, options.rows, options.speakers)
        for start in options.workers:
            theirs, their_answer = measured(speechbrains, path, start, options.reads)
            mine, answer = measured(ours, path, start, options.reads)
            assert answer == their_answer, "the items differ"
            for name, figure in theirs.items():
                ratio = f"{figure / mine[name]:.1f}" if mine[name] > 0 else ""
                print(f"| {start} | {name} | {figure:,.2f} | {mine[name]:,.2f} | {ratio} |")


if __name__ == "__main__":
    main()
