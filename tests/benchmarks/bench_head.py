#!/usr/bin/env python3
"""Time, memory and precision of the hyperbolic head and loss beside others.

    python tests/benchmarks/bench_head.py [--device cuda] [--sizes 256x5994 ...]
    python tests/benchmarks/bench_head.py --launches

For every size (batch B x speakers C, 192 dimensions) each system does its forward
and backward pass in turn, round after round; a figure is the median over the rounds
of its time over the reference's in the same round, so that a busy machine slows both.
Memory is the most that one forward and backward pass adds to what is there before
it, parameters' gradients included: resident size on a CPU, allocated on CUDA. The
errors, of the loss, of the embeddings' gradient and of the centers', are against the
same function in float64: the largest difference over the largest value, and the root
mean square of the differences over that of the values, each the mean over ``--draws``
of the data. Systems that would need more than ``--room`` are left out, with the size
they would have.

``--launches`` counts, without a GPU and without computing anything, the operations that
a GPU would be given: those of torch that are neither a view nor memory alone, each some
one kernel.
"""

import argparse
import ctypes
import gc
import platform
import re
import time
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import torch
from speechbrain.nnet.losses import AdditiveAngularMargin, LogSoftmaxWrapper
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import cross_entropy, linear, normalize, one_hot
from torch.utils._python_dispatch import TorchDispatchMode

import hamsb
from hamsb.nnet import _closed_forms, _fused

DIMENSION, CURVATURE, MARGIN, SCALE = 192, 3.0, 0.2, 30.0
SIZES = ["32x1211", "256x5994", "160x17982", "512x100000"]
REFERENCE = "AM, cross_entropy"
# [B, C] buffers that a pass needs, as measured at (256, 5994); others some 10.
BUFFERS = {"hamsb, reference": 32, "SpeechBrain AAM": 32, "naive broadcast": 5 * DIMENSION}


# ------------------------------------------------------------------ the systems


class Hyperbolic(nn.Module):
    """Our head and loss."""

    fused = False

    def __init__(self, centers):
        super().__init__()
        ball = hamsb.ClippedUnitBall(CURVATURE)
        self.head = hamsb.HyperbolicClassifier(
            DIMENSION, len(centers), ball, fused=self.fused
        )
        self.head.centers = nn.Parameter(centers.clone())
        self.loss = hamsb.HAMSoftmax(MARGIN, SCALE)

    def forward(self, x, y):
        return self.loss(self.head(x), y)


class Fused(Hyperbolic):
    """The same, no [B, C] at once."""

    fused = True


class Reference(Hyperbolic):
    """Ours as the formulas read, with autograd's gradients."""

    def forward(self, x, y):
        ball, y = self.head.ball, y.squeeze(1)
        centers = ball.project(self.head.centers)
        distances = ball.reference_pairwise_distance(ball.project(x.squeeze(1)), centers)
        return cross_entropy(self.loss.logits(-distances, y), y)


class Naive(Hyperbolic):
    """The released form: everything expanded to [B, C, D], arcosh, one-hot."""

    def forward(self, x, y):
        ball, y = self.head.ball, y.squeeze(1)
        shape = len(x), len(self.head.centers), DIMENSION
        x = ball.project(x).expand(shape)
        w = ball.project(self.head.centers).unsqueeze(0).expand(shape)
        xx, ww, gap = x.pow(2).sum(-1), w.pow(2).sum(-1), (x - w).pow(2).sum(-1)
        ratio = 2 * gap / ((1 - xx) * (1 - ww)).clamp_min(1e-5)
        distances = torch.acosh((1 + ratio).clamp_min(1 + torch.finfo(x.dtype).eps))
        hit = one_hot(y, shape[1]).to(x.dtype)
        return cross_entropy(-SCALE * (distances + MARGIN * hit), y)


class SpeechBrainAAM(nn.Module):
    """SpeechBrain's cosine head, AAM and LogSoftmaxWrapper."""

    def __init__(self, centers):
        super().__init__()
        from speechbrain.lobes.models.ECAPA_TDNN import Classifier

        self.head = Classifier(DIMENSION, lin_blocks=0, out_neurons=len(centers))
        self.head.weight = nn.Parameter(centers.clone())
        self.loss = LogSoftmaxWrapper(AdditiveAngularMargin(MARGIN, SCALE))

    def forward(self, x, y):
        return self.loss(self.head(x), y)


class CosineAM(nn.Module):
    """AM-softmax with nothing but torch's functions: what a cosine head needs."""

    def __init__(self, centers):
        super().__init__()
        self.centers = nn.Parameter(centers.clone())

    def forward(self, x, y):
        y = y.squeeze(1)
        cosines = linear(normalize(x.squeeze(1)), normalize(self.centers))
        cosines = cosines.scatter_add(1, y[:, None], cosines.new_full((len(y), 1), -MARGIN))
        return cross_entropy(SCALE * cosines, y)


class OurAM(nn.Module):
    """Our cosine head and AM-softmax."""

    fused = False

    def __init__(self, centers):
        super().__init__()
        self.head = hamsb.CosineClassifier(DIMENSION, len(centers), fused=self.fused)
        self.head.weight = nn.Parameter(centers.clone())
        self.loss = hamsb.AMSoftmax(MARGIN, SCALE)

    def forward(self, x, y):
        return self.loss(self.head(x), y)


class FusedAM(OurAM):
    """The same, no [B, C] at once."""

    fused = True


class Products(nn.Module):
    """The three matrix products that no head can do without."""

    def __init__(self, centers):
        super().__init__()
        self.centers = nn.Parameter(centers.clone())

    def forward(self, x, y):
        return _Floor.apply(x.squeeze(1), self.centers)


class _Floor(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w):
        product = x @ w.t()
        ctx.save_for_backward(x, w, product)
        return product[0, 0].clone()

    @staticmethod
    def backward(ctx, grad):
        x, w, product = ctx.saved_tensors
        return product @ w, product.t() @ x


def compiled(centers):
    module = Hyperbolic(centers)
    module.compile(fullgraph=True)
    return module


def compiled_fused(centers):
    module = Fused(centers)
    module.compile(fullgraph=True)
    return module


SYSTEMS = {
    "hamsb": Hyperbolic,
    "hamsb, fused": Fused,
    "hamsb, compiled": compiled,
    "hamsb, fused, compiled": compiled_fused,
    "hamsb, reference": Reference,
    "naive broadcast": Naive,
    "SpeechBrain AAM": SpeechBrainAAM,
    "AM, hamsb": OurAM,
    "AM, hamsb, fused": FusedAM,
    REFERENCE: CosineAM,
    "three products": Products,
}


# ---------------------------------------------------------------- the measuring


def data(batch, classes, device, seed=0):
    """Embeddings as long as a network's, centers inside the ball; every other
    target center lies close to its embedding's direction."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, 1, DIMENSION, generator=generator)
    centers = 0.03 * torch.randn(classes, DIMENSION, generator=generator)
    y = torch.randperm(max(classes, batch), generator=generator)[:batch, None] % classes
    near = torch.arange(0, batch, 2)
    noise = torch.randn(len(near), DIMENSION, generator=generator)
    centers[y[near, 0]] = normalize(x[near, 0] + 0.1 * noise) / CURVATURE**0.5
    return x.to(device), y.to(device), centers.to(device)


def step(module, x, y):
    """One forward and backward pass."""
    x = x.detach().requires_grad_()
    module.zero_grad()
    loss = module(x, y)
    loss.backward()
    return [loss.detach(), x.grad, *(p.grad for p in module.parameters())]


def seconds(module, x, y):
    synchronize(x)
    start = time.perf_counter()
    step(module, x, y)
    synchronize(x)
    return time.perf_counter() - start


def synchronize(x):
    if x.is_cuda:
        torch.cuda.synchronize()


def resident(key):
    """VmRSS or VmHWM of this process, bytes."""
    text = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"{key}:\s+(\d+)", text)[1])


def peak_bytes(module, x, y):
    """What a pass adds to the memory in use before it, at most."""
    module.zero_grad(set_to_none=True)
    gc.collect()
    if x.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(module, x, y)
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL(None).malloc_trim(0)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    step(module, x, y)
    return resident("VmHWM") - before


def errors(name, size, draws, device):
    """Largest and root mean square error of loss and gradients: two lists of three."""
    # Four systems are one function; its closed form needs the least memory.
    kind = Hyperbolic if name.startswith(("hamsb", "naive")) else SYSTEMS[name]
    found = []
    for seed in range(draws):
        x, y, centers = data(*size, device, seed)
        truth = step(kind(centers.double()).double(), x.double(), y)
        ours = step(SYSTEMS[name](centers).to(device), x, y)
        gaps = [(a - b, b) for a, b in zip(ours, truth, strict=True)]
        found.append(
            [
                [(gap.abs().max() / value.abs().max()).item() for gap, value in gaps],
                [(gap.norm() / value.norm()).item() for gap, value in gaps],
            ]
        )
    return torch.tensor(found).mean(0).tolist()


def measure(size, rounds, draws, device, room):
    """A table of one size, as rows of cells."""
    batch, classes = size
    x, y, centers = data(batch, classes, device)
    needed = {name: 4 * batch * classes * BUFFERS.get(name, 10) for name in SYSTEMS}
    modules = {
        name: make(centers).to(device)
        for name, make in SYSTEMS.items()
        if needed[name] < room
    }
    times = {name: [] for name in modules}
    for module in modules.values():
        step(module, x, y)  # warm up, compile
    for _ in range(rounds):
        for name, module in modules.items():
            if name == "naive broadcast" and len(times[name]) >= max(rounds // 5, 3):
                continue
            times[name].append(seconds(module, x, y))

    def ratio(name, other):
        pairs = zip(times[name], times[other], strict=False)  # fewer rounds of the slowest
        return median(ours / theirs for ours, theirs in pairs)

    rows = []
    for name in SYSTEMS:
        if name not in modules:
            text = f"would be some {needed[name] / 1e6:.0f}"
            rows.append([name, "", "", "", text, "", "", ""])
            continue

        memory = peak_bytes(modules[name], x, y)
        error = [[], []]
        ours = name.startswith(("hamsb", "naive"))
        if ours or name != "three products" and 2 * needed[name] < room:
            error = errors(name, size, draws, device)
        rows.append(
            [
                name,
                f"{1e3 * median(times[name]):.1f}",
                f"{ratio(name, REFERENCE):.2f}",
                f"{ratio(name, 'hamsb'):.2f}",
                f"{memory / 1e6:.0f}",
                f"{memory / (4 * batch * classes):.1f}",
                *(", ".join(f"{e:.1e}" for e in kind) for kind in error),
            ]
        )
    return rows


class Launches(TorchDispatchMode):
    """Counts the operations that compute something."""

    def __init__(self):
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        memory = name.startswith(("empty", "new_empty", "detach", "_unsafe_view"))
        self.number += function.namespace == "aten" and not (function.is_view or memory)
        return found


@contextmanager
def blocks_of(size):
    """Blocks of so many entries on a CPU."""
    before = _closed_forms.CPU_BLOCK
    _closed_forms.CPU_BLOCK = size
    try:
        yield
    finally:
        _closed_forms.CPU_BLOCK = before


def launches(make, batch, classes, block):
    """Operations of one forward and backward pass in blocks of so many entries."""
    with FakeTensorMode(), blocks_of(block):
        module = make(torch.randn(classes, DIMENSION))
        x = torch.randn(batch, 1, DIMENSION, requires_grad=True)
        y = torch.zeros(batch, 1, dtype=torch.long)
        with Launches() as counted:
            module(x, y).backward()
    return counted.number


def print_launches(sizes):
    """The table of ``--launches``."""
    cpu_block, gpu_block = _closed_forms.CPU_BLOCK, _closed_forms.GPU_BLOCK
    fused_block = _fused.GPU_BLOCK
    systems = {
        f"hamsb, blocks of {cpu_block} as on a CPU": (Hyperbolic, cpu_block),
        f"hamsb, blocks of {gpu_block} as on a GPU": (Hyperbolic, gpu_block),
        f"hamsb, fused, blocks of {fused_block} as on a GPU": (Fused, fused_block),
        "SpeechBrain AAM": (SpeechBrainAAM, gpu_block),
        REFERENCE: (CosineAM, gpu_block),
    }
    rows = [["launches", *(f"B x C = {name}" for name in sizes)]]
    rows.append(["---", *["---:"] * len(sizes)])
    for system, (make, block) in systems.items():
        found = [launches(make, *map(int, name.split("x")), block) for name in sizes]
        rows.append([system, *map(str, found)])
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


HEADER = [
    "system",
    "ms",
    f"time over {REFERENCE}",
    "time over hamsb",
    "memory, MB",
    "in [B, C] buffers",
    "largest error of loss, embeddings' gradient, centers' gradient",
    "root mean square",
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sizes", nargs="+", default=SIZES)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--room", type=float, default=16e9, help="bytes to be used")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--launches", action="store_true", help="count them, time nothing")
    options = parser.parse_args()
    if options.launches:
        print_launches(options.sizes)
        return
    for name in SYSTEMS.keys() - {*options.systems, REFERENCE, "hamsb"}:  # of the ratios
        del SYSTEMS[name]
    torch.set_num_threads(options.threads)
    torch.backends.cuda.matmul.allow_tf32 = False
    device = torch.device(options.device)
    where = f"{options.threads} threads of {cpu()}"
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    print(f"{where}; torch {torch.__version__}, Python {platform.python_version()}")
    for name in options.sizes:
        size = tuple(map(int, name.split("x")))
        print(f"\n**B x C = {size[0]} x {size[1]}**\n")
        lines = [HEADER, ["---", *["---:"] * (len(HEADER) - 1)]]
        rounds = max(options.rounds // (5 if name == SIZES[-1] else 1), 5)
        for line in lines + measure(size, rounds, options.draws, device, options.room):
            print(f"| {' | '.join(line)} |", flush=True)


def cpu():
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.processor()


if __name__ == "__main__":
    main()
