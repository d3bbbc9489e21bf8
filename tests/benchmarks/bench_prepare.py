#!/usr/bin/env python3
"""Preparation of 20,000 files against decoding each of them.

    python tests/benchmarks/bench_prepare.py [--files 20000] [--seconds 1.5]

makes a tree of FLAC and WAV files of noise in a temporary folder, prepares it,
prepares it again (reuse), and decodes every file with the same number of
processes. Prints files per second and the ratio. Source of no assertion: it
measures.
"""

import argparse
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import soundfile

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "recipes" / "VoxCeleb"))
from voxceleb_prepare import prepare_voxceleb  # noqa: E402


def make_tree(root, files, seconds):
    """``files`` files, 100 a speaker, 10 a session; every other one FLAC."""
    noise = 0.1 * np.random.default_rng(0).standard_normal(int(16000 * seconds))
    contents = {}
    for suffix in ("wav", "flac"):
        soundfile.write(root / f"one.{suffix}", noise, 16000)
        contents[suffix] = (root / f"one.{suffix}").read_bytes()
    for number in range(files):
        suffix = ("wav", "flac")[number % 2]
        folder = root / "wav" / f"id{number // 100:05d}" / f"{number // 10 % 10:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number % 10:05d}.{suffix}").write_bytes(contents[suffix])


def decode(path):
    return len(soundfile.read(path)[0])


def timed(function, *arguments, **options):
    start = time.perf_counter()
    function(*arguments, **options)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=20000)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "corpus")
        root.mkdir()
        make_tree(root, options.files, options.seconds)
        arguments = {
            "data_folder": root,
            "save_folder": Path(folder, "save"),
            "num_workers": options.processes,
            "dev_speakers": 10,
        }
        paths = sorted(map(str, (root / "wav").rglob("*.*")))

        def decode_all():
            with ProcessPoolExecutor(options.processes) as pool:
                for _ in pool.map(decode, paths, chunksize=256):
                    pass

        decode_all()  # the page cache is warm for all that follow
        decoding = timed(decode_all)
        preparing = timed(prepare_voxceleb, **arguments)
        reusing = timed(prepare_voxceleb, **arguments)
    print(f"{options.files} files of {options.seconds} s, {options.processes} processes")
    print("| what | files per second | against decoding |")
    print("| --- | ---: | ---: |")
    for name, seconds in (
        ("decode every file", decoding),
        ("prepare", preparing),
        ("prepare again", reusing),
    ):
        print(f"| {name} | {options.files / seconds:,.0f} | {decoding / seconds:.1f} |")


if __name__ == "__main__":
    main()
