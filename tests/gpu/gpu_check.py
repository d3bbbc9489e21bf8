#!/usr/bin/env python3
"""One run on a GPU: is hamsb right there, how fast is it, and what does it wait for?

    python tests/gpu/gpu_check.py [--out FOLDER] [--device cuda] [--stages parity,head]

From a checkout. Stages come one after the other, and none stops the next; none starts
after ``--limit`` seconds. Every finding is a line on the screen and a line of JSON in
``<out>/gpu.jsonl``; at the end they are tables, for RESULTS.md, also in ``<out>/gpu.md``.
The exit status is 1 where a stage failed or a result was wrong; a goal that is missed is
in the first table alone. ``--device=cpu --tiny`` tries the script itself in a few minutes.
"""

import argparse
import csv
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np
import soundfile
import torch

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "VoxCeleb"
sys.path[:0] = [str(ROOT), str(RECIPE), str(ROOT / "tests" / "benchmarks")]

import speechbrain as sb  # noqa: E402
from speechbrain.lobes.features import Fbank  # noqa: E402
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN  # noqa: E402
from speechbrain.processing.features import InputNormalization  # noqa: E402
from speechbrain.utils.run_opts import RunOptions  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

import hamsb  # noqa: E402
from hamsb.augment.corpora import prepare_audio_csv  # noqa: E402
from hamsb.nnet import _closed_forms  # noqa: E402
from hamsb.utils.lean import skip_empty_padding  # noqa: E402
from hamsb.verification.embeddings import embed_utterances  # noqa: E402

COMPILED = ["--compile", "--compile_module_keys=embedding_model"]
SMALL = "{channels: [64, 64, 64, 64, 192], attention_channels: 32}"
BALLS = {
    "clipped": lambda: hamsb.ClippedUnitBall(3.0),
    "clipped, c=1": lambda: hamsb.ClippedUnitBall(1.0),
    "poincare, learned": lambda: hamsb.PoincareBall(1.0, learnable=True),
    "poincare, clip": lambda: hamsb.PoincareBall(2.0, projection="clip"),
}


class HeadAndLoss(torch.nn.Module):
    """A head and its loss as one module."""

    def __init__(self, head, loss):
        super().__init__()
        self.head, self.loss = head, loss

    def forward(self, x, targets):
        return self.loss(self.head(x), targets)


def relative(found, truth):
    """Norm of the error over that of the truth."""
    found, truth = (x.detach().double().cpu() for x in (found, truth))
    return float((found - truth).norm() / truth.norm().clamp_min(1e-30))


def gradients(module, x, targets, dtype=None):
    """Loss and all gradients, under autocast to a dtype if one is given."""
    x = x.detach().requires_grad_()
    module.zero_grad()
    with torch.autocast(x.device.type, dtype=dtype, enabled=dtype is not None):
        loss = module(x, targets)
    loss.backward()
    return [loss.detach(), x.grad, *(p.grad for p in module.parameters())]


class Traffic(TorchDispatchMode):
    """Counts the bytes that the operations read and write, each by itself."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        if not function.is_view and "empty" not in function.overloadpacket.__name__:
            for tensor in torch.utils._pytree.tree_leaves((args, kwargs, found)):
                if isinstance(tensor, torch.Tensor):
                    self.bytes += tensor.numel() * tensor.element_size()
        return found


def ram():
    """RAM-Softmax, for its formula alone: on minus distances, which it refuses."""
    loss = hamsb.RAMSoftmax(0.2, 30.0)
    loss.expects = hamsb.HAMSoftmax.expects
    return loss


class Check:
    """The stages, and what they share.

    Arguments
    ---------
    out : Path
        Where logs and findings go.
    device : str
    tiny : bool
        Sizes that try the script, not the device.
    """

    def __init__(self, out, device, tiny):
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.tiny, self.failed = out, tiny, False
        self.device = torch.device(device)
        self.cuda = self.device.type == "cuda"
        shared = Path("/dev/shm")  # in memory: the disk is not asked about
        data = shared if shared.is_dir() else Path(tempfile.gettempdir())
        self.data = data / f"gpu_check_{'tiny' if tiny else 'full'}"
        self.log = open(out / "gpu.jsonl", "a", encoding="utf-8")
        self.began = time.time()
        self.findings, self.goals = {}, []
        torch.backends.cuda.matmul.allow_tf32 = True  # as SpeechBrain sets it

    def say(self, stage, wrong=False, **facts):
        """Print and log a finding."""
        if wrong:
            self.failed, facts = True, {"WRONG": True, **facts}
        self.findings.setdefault((stage, tuple(facts)), []).append(facts)
        print(f"{time.time() - self.began:6.1f}s {stage}: {facts}", flush=True)
        self.log.write(json.dumps({"stage": stage, **facts}, default=str) + "\n")
        self.log.flush()

    def goal(self, what, found, most=None, least=None):
        """A number that is to be at most or at least so much."""
        met = found <= most if least is None else found >= least
        text = f"at most {most:g}" if least is None else f"at least {least:g}"
        row = {"goal": what, "found": found, "wanted": text, "met": "yes" if met else "no"}
        self.goals.append(row)
        self.log.write(json.dumps(row) + "\n")

    def tables(self):
        """All findings as tables of Markdown: one for the goals, one for each kind."""
        card = torch.cuda.get_device_name() if self.cuda else "CPU"
        lines = [f"{card}, torch {torch.__version__}{', tiny' if self.tiny else ''}"]
        groups = [*([("goals", self.goals)] if self.goals else [])]
        groups += [(stage, rows) for (stage, _), rows in self.findings.items()]
        for title, rows in groups:
            lines += ["", f"**{title}**", "", f"| {' | '.join(rows[0])} |"]
            lines.append("| --- " * len(rows[0]) + "|")
            lines += [f"| {' | '.join(map(cell, row.values()))} |" for row in rows]
        return "\n".join(lines) + "\n"

    def sync(self):
        if self.cuda:
            torch.cuda.synchronize()

    def ms(self, function, rounds=20, warm=3, queued=False):
        """Median milliseconds, by events on the device. Where an idle device waits for the
        host to launch small kernels, that is the host's time; ``queued`` behind other
        work, as in a training step, it is the device's."""
        for _ in range(warm):
            function()
        self.sync()
        found = []
        other = (
            torch.randn(8192, 8192, device=self.device) if queued and self.cuda else None
        )
        for _ in range(3 if self.tiny else rounds):
            if self.cuda:
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                for _ in range(10 if queued else 0):  # some 25 ms
                    other @ other
                start.record()
                function()
                end.record()
                end.synchronize()
                found.append(start.elapsed_time(end))
            else:
                start = time.perf_counter()
                function()
                found.append(1e3 * (time.perf_counter() - start))
        return round(sorted(found)[len(found) // 2], 3)

    def peak_mb(self, function):
        """Memory on the device beyond what is held before, in MB; 0 on a CPU."""
        if not self.cuda:
            function()
            return 0
        self.sync()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        self.sync()
        return round((torch.cuda.max_memory_allocated() - before) / 1e6)

    # what the card can do

    def ceilings(self):
        """Bandwidth of a copy and speed of matrix products."""
        n = 256 if self.tiny else 8192
        x = torch.randn(n, n, device=self.device)
        long = torch.empty(2 ** (20 if self.tiny else 29), device=self.device)
        other = torch.empty_like(long)
        copy = 8 * long.numel() / self.ms(lambda: other.copy_(long)) / 1e9
        self.copy_bytes_a_ms = 1e9 * copy
        name = torch.cuda.get_device_name() if self.cuda else "cpu"
        self.say(
            "ceilings", card=name, torch=torch.__version__, copy_TB_a_second=round(copy, 2)
        )
        for kind, tf32, y in (
            ("fp32", False, x),
            ("tf32", True, x),
            ("bf16", True, x.bfloat16()),
        ):
            torch.backends.cuda.matmul.allow_tf32 = tf32
            speed = 2 * n**3 / self.ms(lambda y=y: y @ y) / 1e9
            self.say("ceilings", product=kind, TFLOP_a_second=round(speed))
        torch.backends.cuda.matmul.allow_tf32 = True

    # right on the device: against float64 on the CPU

    def parity(self):
        """Losses and gradients against float64 on the CPU; compiled against eager."""
        worst = 0.0
        losses = hamsb.HAMSoftmax(), hamsb.HSoftmax(), ram()
        for name, ball in BALLS.items():
            for loss in losses:
                if name == "clipped, c=1" and isinstance(loss, hamsb.RAMSoftmax):
                    continue  # its threshold is ill-conditioned at the rim
                for seed in range(3):
                    worst = max(worst, self.head_parity(name, ball(), loss, seed))
        self.say("parity", heads="done", largest_float32_error=worst)
        self.contrastive_parity()
        self.compiled_parity()

    def head_parity(self, name, ball, loss, seed):
        """The largest relative error of loss and embeddings' gradient in float32."""
        torch.manual_seed(seed)
        module = HeadAndLoss(hamsb.HyperbolicClassifier(192, 1211, ball), loss)
        with torch.no_grad():
            module.head.centers.mul_(30)  # inside the ball, not at its origin
        x, targets = 3 * torch.randn(64, 1, 192), torch.randint(1211, (64, 1))
        worst = 0.0
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            truth = gradients(module.double(), x.to(dtype).double(), targets)
            moved = module.float().to(self.device)
            amp = None if dtype == torch.float32 else dtype
            given = x.to(self.device, dtype), targets.to(self.device)
            errors = [relative(*pair) for pair in zip(gradients(moved, *given, amp), truth)]
            limit = 3e-5 if dtype == torch.float32 else 5e-3
            if dtype == torch.float32:
                worst = max(errors[:2])
            if not all(error < limit for error in errors[:3]):
                what = f"{name}, {loss}, {dtype}, seed {seed}"
                self.say("parity", wrong=True, head=what, errors=errors)
            module.cpu()
        return worst

    def contrastive_parity(self):
        ball = hamsb.HyperbolicSimilarity(hamsb.ClippedUnitBall(3.0))
        costs = {
            "SupCon": hamsb.SupCon(),
            "HSCL": hamsb.HSCL(),
            "NT-Xent-AM": hamsb.NTXent(hamsb.AMSoftmax(0.1, 30.0), True),
            "NT-Xent-AM, hyperbolic": hamsb.NTXent(
                hamsb.AMSoftmax(0.1, 5.0), similarity=ball
            ),
        }
        for name, cost in costs.items():
            torch.manual_seed(0)
            x, labels = torch.randn(64, 1, 192), torch.arange(64)[:, None] // 2

            def run(cost, x, labels):
                x = x.detach().requires_grad_()
                views = (
                    (x, labels)
                    if isinstance(cost, hamsb.SupCon)
                    else (x, x.roll(1, 0) / 2 + x)
                )
                loss = cost(*views)
                loss.backward()
                return loss.detach(), x.grad

            found = run(cost.to(self.device), x.to(self.device), labels.to(self.device))
            truth = run(cost.double().cpu(), x.double(), labels)
            errors = [relative(*pair) for pair in zip(found, truth)]
            self.say("parity", wrong=max(errors) > 1e-3, cost=name, errors=errors)

    def compiled_parity(self):
        for loss in (hamsb.HAMSoftmax(), ram()):
            head = hamsb.HyperbolicClassifier(192, 364, hamsb.ClippedUnitBall(3.0))
            module = HeadAndLoss(head, loss).to(self.device)
            compiled, differing = torch.compile(module, fullgraph=True), 0
            for seed in range(3 if self.tiny else 20):
                torch.manual_seed(seed)
                x = torch.randn(64, 1, 192, device=self.device, requires_grad=True)
                targets = torch.randint(364, (64, 1), device=self.device)
                one, other = compiled(x, targets).item(), module(x, targets).item()
                differing += abs(one - other) > 1e-4 * abs(other)
            self.say(
                "parity",
                wrong=differing > 0,
                compiled=str(loss),
                batches_that_differ=int(differing),
            )

    # what waits for the GPU

    def syncs(self):
        """Head and loss bring no value to the host after the first step, in which they
        look at targets and predictions; and are deterministic."""
        ball = hamsb.ClippedUnitBall(3.0)
        cosine = hamsb.CosineClassifier(192, 5994)
        x = torch.randn(256, 1, 192, device=self.device, requires_grad=True)
        targets = torch.randint(5994, (256, 1), device=self.device)
        for loss in (
            hamsb.AAMSoftmax(), hamsb.RAMSoftmax(), hamsb.HSoftmax(), hamsb.HAMSoftmax(),
        ):  # fmt: skip
            hyperbolic = "distance" in loss.expects
            head = hamsb.HyperbolicClassifier(192, 5994, ball) if hyperbolic else cosine
            module = HeadAndLoss(head, loss).to(self.device)
            beyond = "taken"  # on CUDA such an index kills the process
            try:
                module(x, targets + 5994)
            except ValueError:
                beyond = "refused"
            module(x, targets).backward()
            self.sync()
            waiting = torch.cuda.set_sync_debug_mode if self.cuda else str
            waiting("error")
            try:
                module(x, targets).backward()
                ball.clipped(x.detach())
                waits = "none"
            except RuntimeError as error:
                waits = str(error)[:120]
            finally:
                waiting("default")
            self.say(
                "syncs", wrong=waits != "none" or beyond != "refused", loss=str(loss),
                waits=waits, first_targets_beyond_the_classes=beyond,
            )  # fmt: skip
        torch.use_deterministic_algorithms(True)
        try:
            module(x, targets).backward()
            self.say("syncs", deterministic="yes")
        except RuntimeError as error:
            self.say("syncs", deterministic=str(error)[:120])
        finally:
            torch.use_deterministic_algorithms(False)

    # head and loss

    def head(self):
        """Milliseconds, alone and behind other work, and MB of head and loss."""
        from bench_head import CosineAM, Fused, Hyperbolic, Naive, compiled, data, step

        sizes = (256, 5994), (256, 17982), (512, 100_000), (512, 1_000_000)
        block = _closed_forms.GPU_BLOCK
        for batch, classes in ((32, 500),) if self.tiny else sizes:
            x, targets, centers = data(batch, classes, self.device)
            row = {}
            for name, make, size, most in (
                ("AM, cross_entropy", CosineAM, block, None),
                ("hamsb", Hyperbolic, block, None),
                ("hamsb, blocks of 2^19", Hyperbolic, 2**19, 200_000),
                ("hamsb, blocks of 2^23", Hyperbolic, 2**23, None),
                ("hamsb, fused", Fused, block, None),
                ("hamsb, compiled", compiled, block, None),
                ("naive", Naive, block, 6_000),
            ):
                if most is not None and classes > most:
                    continue
                _closed_forms.GPU_BLOCK = size
                try:
                    module = make(centers).to(self.device)

                    def once(module=module, x=x, targets=targets):
                        step(module, x, targets)

                    alone, queued = self.ms(once, 10), self.ms(once, 10, queued=True)
                    row[name] = alone, queued, self.peak_mb(once)
                    del module
                except torch.OutOfMemoryError:
                    row[name] = "out of memory", "", ""
                finally:
                    _closed_forms.GPU_BLOCK = block
                if self.cuda:
                    torch.cuda.empty_cache()
            for name, (alone, queued, megabytes) in row.items():
                self.say(
                    "head", batch=batch, classes=classes, system=name, ms=alone,
                    ms_behind_other_work=queued, MB=megabytes,
                )  # fmt: skip
            if (batch, classes) in (sizes[0], (32, 500)):
                ratio = row["hamsb"][1] / row["AM, cross_entropy"][1]
                what = (
                    "head and loss over AM with cross_entropy, behind other work, "
                    f"{batch} x {classes}"
                )
                self.goal(what, round(ratio, 2), most=1.2)

    # network, forward and backward, two views

    def step(self):
        """A training step of two views, in several precisions; of 200 frames too, since
        odd numbers of them leave products without the alignment that fast kernels take."""
        width, batch = (16, 8) if self.tiny else (1024, 256)
        targets = torch.randint(5994, (batch, 1), device=self.device)
        bf16, fp16 = torch.bfloat16, torch.float16
        for name, dtype, compiled, apart, frames in (
            ("tf32", None, False, False, 201),
            ("bf16", bf16, False, False, 201),
            ("bf16, empty padding, as SpeechBrain's", bf16, False, False, 201),
            ("bf16, backward after each view", bf16, False, True, 201),
            ("bf16, 200 frames", bf16, False, True, 200),
            ("fp16", fp16, False, False, 201),
            ("bf16, compiled", bf16, True, False, 201),
        ):
            torch.manual_seed(0)
            views = [torch.randn(batch, frames, 80, device=self.device) for _ in range(2)]
            network = ECAPA_TDNN(80, channels=[width] * 4 + [3 * width], lin_neurons=192)
            if "empty padding" not in name:
                skip_empty_padding(network)
            head = hamsb.HyperbolicClassifier(192, 5994, hamsb.ClippedUnitBall(3.0))
            network, head = network.to(self.device), head.to(self.device)
            forward = torch.compile(network) if compiled else network
            parameters = [*network.parameters(), *head.parameters()]
            optimizer = torch.optim.Adam(parameters, 1e-3, fused=self.cuda)
            scaler = torch.GradScaler(self.device.type, enabled=dtype == fp16)
            cost, losses = hamsb.HAMSoftmax(), []

            def once(
                forward=forward, head=head, optimizer=optimizer, scaler=scaler, cost=cost,
                losses=losses, dtype=dtype, apart=apart, views=views,
            ):  # fmt: skip
                total = 0
                for view in views:
                    with torch.autocast(
                        self.device.type, dtype=dtype, enabled=dtype is not None
                    ):
                        loss = cost(head(forward(view)), targets)
                    if apart:
                        scaler.scale(loss).backward()
                    total = total + (loss.detach() if apart else loss)
                if not apart:
                    scaler.scale(total).backward()
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad(set_to_none=True)
                losses.append(total.detach())

            time_of_step = self.ms(once, 8, 4)
            self.say(
                "step", what=name, ms=time_of_step, peak_MB=self.peak_mb(once),
                losses=[round(float(loss), 3) for loss in losses[:3]],
                crops_a_second=round(2e3 * batch / time_of_step),
            )  # fmt: skip
            if name.startswith("bf16, backward") and hasattr(self, "copy_bytes_a_ms"):
                with Traffic() as moved:
                    once()
                limit = moved.bytes / self.copy_bytes_a_ms
                self.say(
                    "step", what=name, GB_moved=round(moved.bytes / 1e9, 1),
                    ms_at_the_speed_of_a_copy=round(limit, 1),
                )  # fmt: skip
                ratio = round(time_of_step / limit, 2)
                self.goal("bf16 step over the limit of copying", ratio, most=1.3)
            del network, head, forward, optimizer
            if self.cuda:
                torch.cuda.empty_cache()

    # the input, as train.py reads and distorts it

    def make_data(self):
        """Corpora of noise with an echo, noises and room responses, once."""
        if (self.data / "done").exists():
            return
        random = np.random.default_rng(0)
        speakers = 4 if self.tiny else 64
        for kind in ("wav", "flac"):
            self.make_corpus(kind, speakers, 8, 8, kind, random)
        self.make_corpus("train", 24, 8, 3, "wav", random)
        self.make_corpus("test", 8, 6, 3, "wav", random)
        for kind, seconds in (("noise", 20), ("speech", 120), ("music", 120)):
            for number in range(2 if self.tiny else 12):
                samples = 0.1 * random.standard_normal(seconds * 16000)
                write(self.data / "musan" / kind / f"{number}.wav", samples)
        for number in range(8 if self.tiny else 200):
            response = random.standard_normal(random.integers(8000, 24000))
            response *= np.exp(-np.arange(len(response)) / 2000) / 4
            write(self.data / "rirs" / f"{number}.wav", response)
        root = self.data / "test" / "wav"
        names = [str(path.relative_to(root)) for path in sorted(root.rglob("*.wav"))]
        lines = [
            f"{int(one[:7] == other[:7])} {one} {other}\n"
            for i, one in enumerate(names)
            for other in names[i + 1 :]
        ]
        (self.data / "veri.txt").write_text("".join(lines))
        (self.data / "done").touch()

    def make_corpus(self, name, speakers, each, seconds, kind, random):
        for speaker in range(speakers):
            lag = 60 + 3 * speaker
            for number in range(each):
                frames = int(seconds * 16000) + 640 * int(random.integers(5)) + 1
                samples = 0.1 * random.standard_normal(frames)
                samples[lag:] += 0.9 * samples[:-lag]
                session = self.data / name / "wav" / f"id{speaker:05d}" / f"s{number % 3}"
                write(session / f"{number:05d}.{kind}", np.clip(samples, -1, 1))

    def pipeline(self):
        """Crops read a second by the loader; host time of augmentation and copies."""
        import train

        self.make_data()
        batch = 16 if self.tiny else 256
        for kind in ("wav", "flac"):
            files = sorted((self.data / kind / "wav").rglob(f"*.{kind}"))
            table = self.out / f"{kind}.csv"
            with open(table, "w", newline="", encoding="utf-8") as stream:
                rows = csv.writer(stream)
                rows.writerow(["ID", "duration", "wav", "start", "stop", "spk_id"])
                for i in range(64 if self.tiny else 24 * batch):
                    rows.writerow(
                        [f"u{i}", 8.0, files[i % len(files)], 0, 128000, f"id{i % 64}"]
                    )
            for workers in (0, 1) if self.tiny else (0, 1, 4, 8, 15):
                rate = self.crops_a_second(train, table, batch, workers)
                self.say("pipeline", kind=kind, workers=workers, crops_a_second=rate)
        self.augmentation(batch)

    def crops_a_second(self, train, table, batch, workers):
        (self.out / "label_encoder.txt").unlink(missing_ok=True)
        data, _ = train.dataio_prep(
            {
                "seed": 1,
                "sentence_len": 2.0,
                "sample_rate": 16000,
                "train_annotation": str(table),
                "save_folder": str(self.out),
            }
        )
        device = "cuda:0" if self.cuda else "cpu"
        options = RunOptions(device=device, overridden_args={"device"})
        brain = sb.Brain({"a": torch.nn.Linear(1, 1)}, run_opts=options)
        os.environ["SB_GLOBAL_SEED"] = "1"
        how = {
            "batch_size": batch,
            "shuffle": True,
            "drop_last": True,
            "num_workers": workers,
        }
        batches = iter(brain.make_dataloader(data, sb.Stage.TRAIN, **how))
        next(batches)
        start = time.time()
        number = sum(len(each.id) for each in batches)
        return round(number / (time.time() - start))

    def augmentation(self, batch):
        kinds = {"noise": [0, 15], "speech": [13, 20], "music": [5, 15]}
        noises = prepare_audio_csv(
            self.data / "musan", self.out / "noise.csv", "n", list(kinds)
        )
        rooms = prepare_audio_csv(self.data / "rirs", self.out / "rir.csv", "r")
        add_noise, add_reverb = (
            hamsb.AddNoise(str(noises), kinds),
            hamsb.AddReverb(str(rooms)),
        )
        wavs = torch.randn(batch, 32000, device=self.device)
        lengths = torch.ones(batch, device=self.device)
        for name, call in (
            ("AddNoise", lambda: add_noise(wavs, lengths)),
            ("AddReverb", lambda: add_reverb(wavs)),
        ):
            call()
            start = time.perf_counter()
            for _ in range(5):
                call()
            self.sync()
            self.say(
                "pipeline", what=name, ms=round(200 * (time.perf_counter() - start), 1)
            )
        pageable = torch.randn(batch, 32000)
        pinned = pageable.pin_memory() if self.cuda else pageable
        self.say(
            "pipeline",
            copy_ms_pageable=self.ms(lambda: pageable.to(self.device)),
            copy_ms_pinned=self.ms(lambda: pinned.to(self.device, non_blocking=True)),
        )

    # embedding whole utterances

    def embed(self):
        """Milliseconds an utterance, with readers and without; and those of the network
        alone, which nothing can be faster than."""
        self.make_data()
        width, copies = (16, 1) if self.tiny else (1024, 8)
        torch.manual_seed(0)
        network = ECAPA_TDNN(80, channels=[width] * 4 + [3 * width], lin_neurons=192)
        skip_empty_padding(network)
        network, features = network.to(self.device).eval(), Fbank(n_mels=80).to(self.device)
        normalize = InputNormalization(norm_type="sentence", std_norm=False)

        def encode(wavs):
            lengths = torch.ones(len(wavs), device=self.device)
            return network(normalize(features(wavs.to(self.device)), lengths), lengths)

        together = torch.randn(4 if self.tiny else 32, 128000, device=self.device)
        with torch.no_grad():
            alone = self.ms(lambda: encode(together), 10) / len(together)
        self.say("embed", network_alone_ms_an_utterance=round(alone, 3))
        best = 0.0
        for kind in ("wav", "flac"):
            files = sorted((self.data / kind / "wav").rglob(f"*.{kind}"))
            few = {str(file): file for file in files[:64]}
            single = embed_utterances(few, encode, progress=False, batch_size=1).matrix
            many = {f"{i} {file}": file for i in range(copies) for file in files}
            for workers in (0, 2) if self.tiny else (0, 4, None):
                self.sync()
                start = time.time()
                found = embed_utterances(
                    many, encode, progress=False, num_workers=workers, device=self.device
                ).matrix
                taken = 1e3 * (time.time() - start) / len(many)
                error = relative(found[: len(single)], single)
                best = max(best, 1e3 / taken)
                self.say(
                    "embed", wrong=error > 1e-2, kind=kind, utterances=len(many),
                    workers="default" if workers is None else workers,
                    ms_an_utterance=round(taken, 3), error_against_one_by_one=error,
                )  # fmt: skip
        self.goal("utterances embedded a second", round(best), least=2500)

    # a training that waits for its data

    def idle(self):
        """The share of a training in which the GPU does nothing, loader included."""
        self.make_data()
        source, many = self.data / "wav", self.data / "many"
        if not many.exists():
            for file in sorted((source / "wav").rglob("*.wav")):
                for copy in range(1 if self.tiny else 20):
                    # The trials' speakers have names that begin otherwise.
                    speaker, session = file.parts[-3:-1]
                    link = many / "wav" / f"m{speaker}" / session / f"{copy}_{file.name}"
                    link.parent.mkdir(parents=True, exist_ok=True)
                    link.symlink_to(file)
        yaml = "train_ecapa_ham.yaml"
        sizes = {"batch_size": 4, "dev_speakers": 2}
        if not self.tiny:  # as published
            sizes = {"batch_size": 256, "embedding_model": None}
            sizes["num_workers"] = min(os.cpu_count(), 14)
        options = self.options("idle", yaml, data_folder=many, **sizes)
        options += ["--number_of_epochs=1", "--precision=bf16"]
        steps = ("1", "2") if self.tiny else ("10", "20")
        device = f"--device={'cuda:0' if self.cuda else 'cpu'}"
        ways = ("idle", []), ("idle_compiled", COMPILED)
        for name, compiled in ways if self.cuda else ways[:1]:
            out = self.out / f"{name}.json"
            out.unlink(missing_ok=True)
            script = [str(ROOT / "tests" / "gpu" / "profile_training.py"), str(out), *steps]
            self.call(name, [], script, yaml, *options, *compiled, device)
            found = json.loads(out.read_text())
            rows = {kind: found.pop(kind, []) for kind in ("kernels", "gaps")}
            self.say("idle", what=name, **found)
            for kind, each in rows.items():
                for row in each:
                    self.say(kind, what=name, **row)
            if "idle_share" in found and not compiled:
                self.goal("idle share of a training", found["idle_share"], most=0.05)

    # whole runs

    def run(self):
        """train.py, train_ssl.py and verify.py as a user calls them."""
        self.make_data()
        device = f"--device={'cuda:0' if self.cuda else 'cpu'}"
        ham = "train_ecapa_ham.yaml"
        moco = "contrastive/moco_am.yaml"
        for name, yaml, script, more in (
            ("ham_bf16", ham, "train.py", ["--precision=bf16"]),
            ("ham_fp16", ham, "train.py", ["--precision=fp16"]),
            ("moco", moco, "train_ssl.py", ["--queue_size=32"]),
        ):
            if name != "ham_fp16" or self.cuda:
                options = [*self.options(name, yaml), device, "--number_of_epochs=2", *more]
                self.call(name, [], script, yaml, *options)
        longer = [
            *self.options("ham_bf16", ham),
            device,
            "--number_of_epochs=3",
            "--precision=bf16",
        ]
        self.call("ham_goes_on", [], "train.py", ham, *longer)
        self.call(
            "verify", [], "verify.py", "verify.yaml",
            f"--model={self.out}/runs/ham_bf16/export",
            f"--test_data_folder={self.data}/test",
            f"--verification_file={self.data}/veri.txt",
            f"--output_folder={self.out}/runs/verify",
            "--cache_folder=null", "--batch_size=8", device,
        )  # fmt: skip

    def ddp(self):
        """The same under torchrun: on all cards; or two processes on the CPU."""
        self.make_data()
        launcher = ["-m", "torch.distributed.run", "--standalone"]
        one_epoch = "--number_of_epochs=1"
        if self.cuda:
            name, yaml = "nccl", "train_ecapa_ham.yaml"
            all_cards = [*launcher, f"--nproc_per_node={torch.cuda.device_count()}"]
            options = [*self.options(name, yaml), one_epoch]
            self.call(name, all_cards, "train.py", yaml, *options)
            return
        two = [*launcher, "--nproc_per_node=2"]
        gloo = ["--distributed_backend=gloo", "--device=cpu", one_epoch]
        for name, yaml in (
            ("gloo_2", "train_ecapa_ham.yaml"),
            ("gloo_2_pairs", "contrastive/supcon.yaml"),
        ):
            self.call(name, two, "train.py", yaml, *self.options(name, yaml), *gloo)

    def options(self, name, yaml, **changes):
        """What makes a published yaml a matter of seconds; None leaves an option out."""
        augmented = "data_folder_noise" in (ROOT / "hparams" / yaml).read_text()
        values = {
            "data_folder": self.data / "train",
            "test_data_folder": self.data / "test",
            "verification_file": self.data / "veri.txt",
            "output_folder": self.out / "runs" / name,
            "dev_speakers": 4,
            "min_duration": 1.0,
            "batch_size": 16,
            "avg_checkpoints": 2,
            "num_workers": 2 if self.tiny else 4,
            "embedding_model": SMALL,
            "data_folder_noise": self.data / "musan" if augmented else None,
            "data_folder_rir": self.data / "rirs" if augmented else None,
            **changes,
        }
        return [f"--{key}={value}" for key, value in values.items() if value is not None]

    def call(self, name, launcher, script, yaml, *options):
        """Run a script of the recipe, or one with arguments of its own; what it printed
        is in ``<out>/<name>.log``."""
        script = [str(RECIPE / script)] if isinstance(script, str) else script
        python_path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        start = time.time()
        done = subprocess.run(
            [
                sys.executable, *launcher, *script,
                str(ROOT / "hparams" / yaml), *options, "--noprogressbar",
            ],
            env={**os.environ, "PYTHONPATH": python_path, "OMP_NUM_THREADS": "1"},
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        printed = done.stdout + done.stderr
        (self.out / f"{name}.log").write_text(printed, encoding="utf-8")
        telling = r"Error|error:|epoch: \d|Report:|Duplicate GPU"
        last = [line for line in printed.splitlines() if re.search(telling, line)][-3:]
        seconds = round(time.time() - start, 1)
        self.say(
            "run", wrong=bool(done.returncode), what=name,
            status=done.returncode, seconds=seconds, last=last,
        )  # fmt: skip


STAGES = (
    "ceilings", "parity", "syncs", "head", "step", "idle", "embed", "run", "ddp",
    "pipeline",
)  # fmt: skip


def cell(value):
    """A fact in a table."""
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text.replace("|", "/")


def write(path, samples):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, 16000, subtype="PCM_16")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    default = Path(tempfile.gettempdir()) / "gpu_check"
    parser.add_argument("--out", type=Path, default=default)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--limit", type=float, default=450)
    options = parser.parse_args()
    check = Check(options.out.resolve(), options.device, options.tiny)
    for stage in options.stages.split(","):
        start = time.time()
        if start - check.began > options.limit:
            check.say(stage, left_out=f"after {options.limit:g} s")
            continue
        try:
            getattr(check, stage)()
        except Exception as error:
            traceback.print_exc()
            check.say(stage, wrong=True, error=repr(error)[:300])
        check.say("time", stage_of=stage, seconds=round(time.time() - start, 1))
    tables = check.tables()
    (check.out / "gpu.md").write_text(tables, encoding="utf-8")
    print("\n" + tables)
    sys.exit(check.failed)


if __name__ == "__main__":
    main()
