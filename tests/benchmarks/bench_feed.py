#!/usr/bin/env python3
"""What the main process does for a training step beside the device, and what its loader's
workers do.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_feed.py [--base /tmp/base]
        [--recipes /path/speechbrain] [--workers 0 1 2] [--channels 16 128]

prints two tables; all data are made on the spot. Without --base and --recipes it has
columns of this checkout alone. Times are CPU seconds where nothing else is said, which
other programs on the machine hardly change; every row is measured in one run.

The first table: the published setting, 256 crops of 2 s from flac files of 8 s, each as
it is and with a room and a noise. --base is another checkout (``git worktree add``). The
device is torch's "meta", which computes nothing, and host work what a GPU would wait for:
taking a batch from the loader, moving it, drawing, reading. (Of an older checkout, whose
functions are not apart, the stacking of what was read is left out.) A worker's crops a
second are augmented ones: crop, noise and room, by whichever process.

The second table: hparams/train_ecapa_ham.yaml with a small network, trained for two epochs
by SpeechBrain's own script (--recipes is a checkout of SpeechBrain's repository, or
SPEECHBRAIN_RECIPES) and by train.py, on the same number of crops; the second epoch counts.
"One batch" makes SpeechBrain's passes, both views as one batch; train.py without that
option makes one pass after the other. Host work is that of the main process in loading,
moving and reading; CPU is that of all processes. Linux alone, for /proc. Source of no
assertion: it measures.
"""

import argparse
import csv
import json
import os
import platform
import resource
import runpy
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

ROOT = Path(__file__).resolve().parents[2]
RATE = 16000
TICKS = os.sysconf("SC_CLK_TCK")


# ----------------------------------------------------------------------- data


def write_noise(path, seconds, random, tilt=0.9):
    """Coloured noise, which flac compresses about as much as speech."""
    path.parent.mkdir(parents=True, exist_ok=True)
    white = random.standard_normal(int(seconds * RATE))
    spectrum = np.fft.rfft(white) / (1 + np.arange(len(white) // 2 + 1)) ** (tilt / 2)
    wave = np.fft.irfft(spectrum, len(white))
    soundfile.write(path, 0.5 * wave / np.abs(wave).max(), RATE)


def write_distortions(folder):
    """As MUSAN and RIRS_NOISES lie: noises of a minute, responses of half to one second."""
    random = np.random.default_rng(1)
    for kind in ("noise", "speech", "music"):
        for k in range(6):
            write_noise(folder / "musan" / kind / f"{k}.wav", 60, random)
    for k in range(60):
        time_s = np.arange(int(random.uniform(0.5, 1.0) * RATE)) / RATE
        response = random.standard_normal(len(time_s)) * np.exp(-6 * time_s)
        response[40] = 5.0
        path = folder / "rirs" / "room" / f"{k}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.15 * response, RATE)


def write_rows(folder, rows, files=64):
    """A preparation's csv file, of utterances of 8 s."""
    random = np.random.default_rng(2)
    paths = [folder / "audio" / f"{k}.flac" for k in range(files)]
    for path in paths:
        write_noise(path, 8, random)
    with open(folder / "train.csv", "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["ID", "duration", "wav", "start", "stop", "spk_id"])
        for k in range(rows):
            speaker = f"id{k % 20:02}"
            row = f"{speaker}/{k}", 8.0, paths[k % files], 0, 8 * RATE, speaker
            writer.writerow(row)


def write_corpus(folder, speakers, utterances):
    """Speakers, and a list of trials of others, whom nobody looks for."""
    random = np.random.default_rng(3)
    for speaker in range(speakers):
        for k in range(utterances):
            path = folder / "train" / "wav" / f"id{speaker:02}" / f"{k % 3}" / f"{k}.wav"
            write_noise(path, 3, random, tilt=0.5 + speaker / speakers)
    (folder / "trials.txt").write_text("1 other/a/1.wav other/a/2.wav\n")


# ------------------------------------------------------------- CPU of processes


def cpu_of(process):
    """The CPU seconds of a living process."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def cpu_of_children():
    """The CPU seconds of this process's children, those that have ended included."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    living = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return ended.ru_utime + ended.ru_stime + sum(map(cpu_of, living))


# ---------------------------------------------------------- the published setting


def feed(folder, workers, batch, steps):
    """In a process of its own: of the checkout on the path, CPU milliseconds a step: the
    host work of the main process and its parts, and what the workers take."""
    import speechbrain
    import torch
    from speechbrain.augment.augmenter import Augmenter
    from speechbrain.dataio import batch as batches
    from torch.utils.data import dataloader

    import hamsb
    import train
    from hamsb.augment import time_domain
    from hamsb.augment.corpora import prepare_audio_csv

    class Whole(Augmenter):
        """Does not ask the device how many augmentations there are to be."""

        def forward(self, wavs, lengths):
            mixed, mixed_lengths = self.augment(wavs, lengths, list(self.augmentations))
            return torch.cat([wavs, mixed]), torch.cat([lengths, mixed_lengths])

        def replicate_labels(self, labels):
            return torch.cat([labels, labels])

    folder = Path(folder)
    for kind, name in (("noise", "musan"), ("rir", "rirs")):
        prepare_audio_csv(folder / name, folder / f"{kind}.csv", key=kind)
    snr = {"noise": [0, 15], "speech": [13, 20], "music": [5, 15]}
    augmentations = [
        hamsb.AddReverb(str(folder / "rir.csv")),
        hamsb.AddNoise(str(folder / "noise.csv"), snr),
    ]
    hparams = {
        "seed": 1,
        "sentence_len": 2.0,
        "sample_rate": RATE,
        "train_annotation": str(folder / "train.csv"),
        "save_folder": str(folder),
        "wav_augment": Whole(
            min_augmentations=2,
            max_augmentations=2,
            concat_original=True,
            augmentations=augmentations,
        ),
        "separate_views": True,
        "epoch_counter": speechbrain.utils.epoch_loop.EpochCounter(9),
    }
    data, _ = train.dataio_prep(hparams)
    modules = {"embedding_model": torch.nn.Linear(1, 1)}
    brain = train.SpeakerBrain(modules, hparams=hparams, run_opts={"device": "cpu"})
    options = {"batch_size": batch, "shuffle": True, "drop_last": True}
    options |= {"num_workers": workers, "persistent_workers": workers > 0}
    loader = brain.make_dataloader(
        data, speechbrain.Stage.TRAIN, ckpt_prefix=None, **options
    )
    brain.device = "meta"
    load, move, read = Meter(), Meter(), Meter()
    load.counted(dataloader._BaseDataLoaderIter, "__next__")
    move.counted(batches.PaddedBatch, "to")
    try:
        from hamsb.augment.reads import ReadsFiles
        from hamsb.dataio.packing import PackedBatch
    except ImportError:
        for name in ("read_audio_csv", "crop_at", "_read", "_align"):
            read.counted(time_domain, name)
    else:
        move.counted(PackedBatch, "to")
        read.counted(ReadsFiles, "of_batch")
    for epoch in (1, 2):  # the first starts the workers
        if brain.train_sampler is not None:
            brain.train_sampler.set_epoch(epoch)
        for meter in (load, move, read):
            meter.host, meter.training = 0.0, True
        children, made = cpu_of_children(), 0
        for each in loader:
            made += len(each.id)
            brain.views(each)
        assert made == steps * batch
    parts = {"load": load.host, "move": move.host, "read": read.host}
    parts["workers"] = cpu_of_children() - children
    return {name: 1e3 * seconds / steps for name, seconds in parts.items()}


# ---------------------------------------------------------------- whole trainings


class Meter:
    """Looks over a training: of the last epoch, by step."""

    def __init__(self):
        self.host, self.nested, self.training = 0.0, False, False

    def counted(self, owner, name):
        """Have a method's CPU time count as host work."""
        method = getattr(owner, name)

        def counting(*arguments, **options):
            if self.nested or not self.training:
                return method(*arguments, **options)
            self.nested, start = True, time.process_time()
            try:
                return method(*arguments, **options)
            finally:
                self.nested = False
                self.host += time.process_time() - start

        setattr(owner, name, counting)

    def watch(self, fitting):
        """Watch the Brain and what else works for it."""
        import speechbrain
        from speechbrain.dataio.batch import PaddedBatch
        from torch.utils.data import dataloader

        from hamsb.augment.reads import ReadsFiles
        from hamsb.dataio.packing import PackedBatch

        for owner, name in (
            (dataloader._BaseDataLoaderIter, "__next__"),
            (dataloader.DataLoader, "__iter__"),
            (PaddedBatch, "to"),
            (PackedBatch, "to"),
            (ReadsFiles, "of_batch"),
        ):
            self.counted(owner, name)
        fit_train, fit_batch = speechbrain.Brain._fit_train, fitting.fit_batch

        def epoch(brain, *arguments, **options):
            self.training, self.host, self.steps = True, 0.0, 0
            self.begin = self.now()
            try:
                return fit_train(brain, *arguments, **options)
            finally:
                self.training = False

        def step(brain, batch):
            loss = fit_batch(brain, batch)
            self.steps += 1
            self.end, self.end_host = self.now(), self.host
            return loss

        speechbrain.Brain._fit_train, fitting.fit_batch = epoch, step

    @staticmethod
    def now():
        return np.array([time.time(), time.process_time(), cpu_of_children()])

    def figures(self):
        wall, main, workers = ((self.end - self.begin) / self.steps).tolist()
        host = self.end_host / self.steps
        return {"wall": wall, "host": host, "cpu": main + workers, "steps": self.steps}


def training(script, arguments, own):
    """In a process of its own: a script under the eyes of a meter."""
    import speechbrain
    import torch

    torch.set_num_threads(1)
    meter = Meter()
    fitting = speechbrain.Brain
    if own:
        from hamsb.training.brain import EmbeddingBrain as fitting
    meter.watch(fitting)
    sys.argv = [script, *arguments]
    sys.path.insert(0, str(Path(script).parent))
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
    return meter.figures()


# --------------------------------------------------------------------- tables


def measured(checkout, part, *arguments):
    """A part of this script in a process of its own, on a checkout's library."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "figures.json")
        paths = [checkout, Path(checkout, "recipes", "VoxCeleb")]
        done = subprocess.run(
            [sys.executable, __file__, "--part", part, str(out), *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
            cwd=folder,
            capture_output=True,
            text=True,
        )
        if not out.exists():
            raise SystemExit(done.stdout + done.stderr)
        return json.loads(out.read_text())


def table(header, rows):
    print(f"| {' | '.join(header)} |\n|{' ---: |' * len(header)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)
    print()


def print_feed(folder, options):
    """The first table."""
    steps = options.steps
    write_rows(folder, rows=options.batch * steps)
    checkouts = {"here": ROOT}
    if options.base:
        checkouts = {"before": options.base, **checkouts}
    rows = []
    for workers in options.workers:
        for name, checkout in checkouts.items():
            given = folder, workers, options.batch, steps
            found = measured(checkout, "feed", *given)
            parts = [found[part] for part in ("load", "move", "read")]
            cells = [sum(parts), *parts, found["workers"]]
            crops = 1e3 * options.batch / (sum(parts) + found["workers"])
            cells = [*(f"{figure:.1f}" for figure in cells), f"{crops:.0f}"]
            rows.append([str(workers), name, *cells])
    print(f"One step of {options.batch} crops of 2 s, two views, {steps} steps.\n")
    table(
        [
            "workers",
            "checkout",
            "host work of the main process, ms",
            "taking, ms",
            "moving, ms",
            "reading, ms",
            "all workers, ms",
            "augmented crops a CPU second",
        ],
        rows,
    )


def print_trainings(folder, options):
    """The second table."""
    write_corpus(folder, speakers=20, utterances=12)
    yaml = ROOT / "hparams" / "train_ecapa_ham.yaml"
    own = ROOT / "recipes" / "VoxCeleb" / "train.py"
    scripts = {"train.py, one batch": (own, "joined"), "train.py": (own, "by_view")}
    if options.recipes:
        theirs = Path(options.recipes, "recipes", "VoxCeleb", "SpeakerRec")
        theirs /= "train_speaker_embeddings.py"
        scripts = {"SpeechBrain's": (theirs, "theirs"), **scripts}
    rows = []
    for channels in options.channels:
        first = None
        for name, (script, kind) in scripts.items():
            widths = [channels] * 4 + [3 * channels]
            given = {
                "data_folder": folder / "train",
                "verification_file": folder / "trials.txt",
                "data_folder_noise": folder / "musan",
                "data_folder_rir": folder / "rirs",
                "output_folder": folder / f"{kind}{channels}",
                "embedding_model": f"{{channels: {widths}, attention_channels: 16}}",
                "number_of_epochs": 2,
                "batch_size": options.training_batch,
                "num_workers": options.training_workers,
                "out_n_neurons": 20,
            }
            if kind != "theirs":
                given |= {"dev_speakers": 2, "verification_file": "null"}
                given |= {"separate_views": kind == "by_view"}
            arguments = [str(yaml), *(f"--{key}={value}" for key, value in given.items())]
            arguments += ["--device=cpu"] + ["--noprogressbar"] * (kind != "theirs")
            found = measured(ROOT, "training", script, kind, *arguments)
            first = first or found
            cells = [str(channels), name, str(found["steps"])]
            cells += [f"{1e3 * found[key]:.1f}" for key in ("host", "cpu", "wall")]
            cells += [f"{found[key] / first[key]:.2f}" for key in ("host", "cpu")]
            rows.append(cells)
    print(
        f"{yaml.name}, {options.training_batch} crops of 2 s, two views, "
        f"{options.training_workers} worker(s).\n"
    )
    table(
        [
            "channels",
            "script",
            "steps",
            "host work of the main process, ms",
            "CPU of all, ms",
            "clock, ms",
            "host work / first",
            "CPU / first",
        ],
        rows,
    )


def child(part, out, *arguments):
    if part == "feed":
        folder, *numbers = arguments
        found = feed(folder, *map(int, numbers))
    else:
        script, kind, *rest = arguments
        found = training(script, rest, kind != "theirs")
    Path(out).write_text(json.dumps(found))


def main():
    if sys.argv[1:2] == ["--part"]:
        return child(*sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--base", help="another checkout")
    parser.add_argument("--recipes", default=os.environ.get("SPEECHBRAIN_RECIPES"))
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--channels", type=int, nargs="*", default=[16, 128])
    parser.add_argument("--training-batch", type=int, default=16)
    parser.add_argument("--training-workers", type=int, default=1)
    options = parser.parse_args()
    print(f"{platform.machine()}, Python {platform.python_version()}\n")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        write_distortions(folder)
        if options.workers:
            print_feed(folder, options)
        if options.channels:
            print_trainings(folder, options)


if __name__ == "__main__":
    main()
