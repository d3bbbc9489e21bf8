#!/usr/bin/env python3
"""Copies of a corpus as a telephone line leaves it, to test models on.

    python tests/benchmarks/telephone_copies.py /path/corpus/test /path/copies
        [--line scipy | hamsb] [--law mu | a]

writes /path/copies/wav/... with the paths, lengths and rates of /path/corpus/test/wav,
so that the corpus's trial lists fit, as 16-bit FLAC or WAV. `scipy` is a line that shares
nothing with hamsb.Telephone, for a test channel that no training has seen: a causal
Butterworth band-pass, whose phase is not linear, other resampling, and G.711 by a search
in its table. `hamsb` is hamsb.Telephone itself. Both have 8000 samples a second, a band of
300 to 3400 Hz and mu- or A-law.
"""

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import torch
from scipy import signal

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from hamsb import Telephone  # noqa: E402

# Full scale, and the ends and steps of G.711's segments (its tables 1a and 2a).
FULL = {"a": 4096, "mu": 8192}
SEGMENTS = {
    "a": [(2 ** (6 + k), 2 ** (k + 1)) for k in range(7)],
    "mu": [(1, 1), *((2 ** (k + 5) - 33, 2**k) for k in range(1, 9))],
}


def table(law):
    """Positive decision values, and the levels above them."""
    decisions = [0]
    for end, step in SEGMENTS[law]:
        decisions += range(decisions[-1] + step, end + 1, step)
    ends = np.array(decisions)
    levels = (ends[1:] + ends[:-1]) / 2
    levels[0] *= law == "a"  # mu: the interval around zero
    return ends[:-1], levels


def by_scipy(samples, rate, law):
    """[T] -> [T], through filters of scipy."""
    band = signal.butter(6, [300, 3400], "bandpass", fs=rate, output="sos")
    line = signal.resample_poly(signal.sosfilt(band, samples), 8000, rate)
    decisions, levels = table(law)
    magnitudes = np.abs(line) * FULL[law]
    steps = np.searchsorted(decisions, magnitudes, side="right") - 1
    line = np.sign(line) * levels[steps] / FULL[law]
    return signal.resample_poly(line, rate, 8000)[: len(samples)]


def by_hamsb(samples, rate, law):
    """[T] -> [T], through hamsb.Telephone."""
    heard = Telephone(rate, law=law)(torch.from_numpy(samples)[None].float(), torch.ones(1))
    return heard[0].numpy()


LINES = {"hamsb": by_hamsb, "scipy": by_scipy}


def copy(path, corpus, copies, line, law):
    samples, rate = soundfile.read(path, always_2d=True)
    heard = np.clip(LINES[line](samples.mean(1), rate, law), -1, 1)
    target = copies / path.relative_to(corpus)
    target.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(target, heard, rate, subtype="PCM_16")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("copies", type=Path)
    parser.add_argument("--line", choices=LINES, default="scipy")
    parser.add_argument("--law", choices=FULL, default="mu")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    found = sorted((options.corpus / "wav").rglob("*"))
    files = [path for path in found if path.suffix in (".flac", ".wav")]
    if not files:
        raise SystemExit(f"{options.corpus / 'wav'}: no .flac or .wav files")
    given = vars(options)
    one = partial(
        copy, **{name: given[name] for name in ("corpus", "copies", "line", "law")}
    )
    with ProcessPoolExecutor(options.processes) as pool:
        list(pool.map(one, files, chunksize=16))
    print(f"{options.copies}: {len(files)} files, {options.line}, {options.law}-law")


if __name__ == "__main__":
    main()
