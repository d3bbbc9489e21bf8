"""Do two checkouts of hamsb train, verify and export the same, bit for bit?

    git worktree add /tmp/base <commit>
    python tests/benchmarks/compare_checkouts.py /tmp/base [this checkout]

Both run, each in a folder of its own and in processes of their own (CPU, one thread,
fixed seeds): two epochs of `mini`, `small`, `mini_ssl` and `mini_chns` on
tiny networks and a tiny synthetic corpus, then one verify.py with every backend,
normalization, calibration and group. Exported weights are compared by
``torch.equal``, everything else (scores, csv files, logs, thresholds, error rates)
as it stands. No number is stored: what is right is what the other checkout does.

Prints a line for each file that differs; the exit status is 1 if any does.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
SMALL = "--embedding_model={channels: [8, 8, 8, 8, 24], attention_channels: 8}"
CORPUS = "--mini_corpus={train_speakers: 14, test_speakers: 6, sessions: 2, utterances: 3}"
COMMON = [
    SMALL, "--lin_neurons=16", "--number_of_epochs=2", "--avg_checkpoints=2",
    "--dev_speakers=4", "--sentence_len=0.8", "--batch_size=8", "--device=cpu",
    "--noprogressbar",
]  # fmt: skip
DATA = [
    "--data_folder=results/mini_corpus/train",
    "--test_data_folder=results/mini_corpus/test",
    "--verification_file=results/mini_corpus/veri_test.txt",
]
# What a run is called: the script, where its yaml may be, options.
HAM = [
    "--classifier=!new:hamsb.HyperbolicClassifier {input_size: !ref <lin_neurons>, "
    "out_neurons: !ref <out_n_neurons>, ball: !new:hamsb.ClippedUnitBall {curvature: 3.0}}",
    "--compute_cost=!new:hamsb.HAMSoftmax {margin: 0.2, scale: 30.0}",
]
RUNS = {
    "mini": ("train.py", ["mini_ham.yaml", "mini.yaml"], [*COMMON, *HAM, CORPUS]),
    "small": (
        "train.py",
        ["small_ham.yaml", "small.yaml"],
        [*COMMON, *HAM, *DATA, "--num_workers=1"],
    ),
    "mini_ssl": (
        "train_ssl.py",
        ["mini_ssl.yaml", "mini/ssl.yaml"],
        [*COMMON, CORPUS, "--distortions={noises: 1, responses: 4}"],
    ),
    "mini_chns": (
        "train.py",
        ["mini_chns.yaml", "mini/chns.yaml"],
        [
            *COMMON,
            CORPUS,
            "--cluster_refresh={every: 1, k: 3, utterances: 2, seconds: 0.7}",
        ],
    ),
}
VERIFY = [
    "--model=results/mini/1234/export",
    "--cohort=results/mini_corpus/train",
    "--cohort_size=10",
    "--backends=[cosine, hyperbolic]",
    "--calibration_file=results/mini/1234/save/veri_dev.txt",
    "--calibration_data_folder=results/mini_corpus/train",
    "--quality_measures=[duration, norm]",
    "--bootstrap_draws=50",
    "--duration_bins=[2.4]",
    "--metadata=results/speakers.csv",
    "--metadata_columns=[family]",
    "--store_decision=True",
    "--device=cpu",
    "--noprogressbar",
]
ALL_NORMS = "[none, z-norm, t-norm, s-norm, as-norm]"
PARTS = ("*.ckpt", "*.txt", "*.csv", "*.json", "*.wav")
# Times, paths, digests, and what the base did not write.
SKIPPED = {"env.log", "log.txt", "prepare.json", "run.json", "starts.json", "epochs.json"}
SKIPPED_KEYS = {
    "experiment", "versions", "arguments", "settings", "seconds", "minutes", "software",
    "run", "training", "development", "data",
}  # fmt: skip


def run_all(checkout, folder):
    """Every run of one checkout, its results below ``folder``."""
    env = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    recipe, hparams = checkout / "recipes" / "VoxCeleb", checkout / "hparams"

    def call(name, script, yamls, options):
        (found,) = (hparams / path for path in yamls if (hparams / path).is_file())
        print(f"{checkout.name}: {name}", flush=True)
        done = subprocess.run(
            [sys.executable, recipe / script, found, *options],
            cwd=folder, env=env, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            sys.exit(f"{checkout}: {name} failed:\n{done.stdout}{done.stderr}")

    for name, (script, yamls, options) in RUNS.items():
        folder_of_run = f"--output_folder=results/{name}/1234"
        call(name, script, yamls, [*options, "--seed=1234", folder_of_run])
    write_speakers(folder / "results")
    # The key is spelled as the checkout's yaml spells it.
    text = (hparams / "verify.yaml").read_text(encoding="utf-8")
    key = "normalizations" if "\nnormalizations:" in text else "normalisations"
    call("verify", "verify.py", ["verify.yaml"], [*VERIFY, f"--{key}={ALL_NORMS}"])


def write_speakers(folder):
    """The synthetic corpus's speakers and their families, for groups of trials."""
    lines = (folder / "mini_corpus" / "metadata.csv").read_text().splitlines()
    header = lines[0].split(",")
    columns = [header.index(name) for name in ("speaker", "family")]
    rows = sorted({tuple(line.split(",")[i] for i in columns) for line in lines[1:]})
    text = "".join(f"{','.join(row)}\n" for row in [("speaker", "family"), *rows])
    (folder / "speakers.csv").write_text(text)


def files(folder):
    """The results that are compared: path below the folder -> Path."""
    return {
        str(path.relative_to(folder)): path
        for pattern in PARTS
        for path in sorted(folder.rglob(pattern))
        if path.name not in SKIPPED
        and not path.name.endswith(".csv.json")
        and not {"embeddings"} & set(path.parts)
        and "CKPT" not in str(path)
    }


def content(path, folder):
    """What is compared of a file below a folder, whose own place does not count."""
    if path.suffix == ".ckpt" and path.name != "label_encoder.ckpt":
        return torch.load(path, map_location="cpu")
    if path.suffix == ".json":
        return without(json.loads(path.read_text(encoding="utf-8")))
    made_at = folder / "done"  # of a base that was made elsewhere
    place = made_at.read_bytes() if made_at.is_file() else os.fsencode(folder)
    found = path.read_bytes().replace(place, b"")
    # The log's word for the share of embeddings that a ball cuts short was another once,
    # and it did not tell of batches and of waiting for them.
    found = found.replace(b"train limited", b"train clipped")
    return re.sub(rb", batch: \d+, waited: .*?\)", b"", found)


def without(value):
    """JSON without what a checkout may word differently."""
    if isinstance(value, dict):
        return {
            key.replace("normalis", "normaliz"): without(kept)
            for key, kept in value.items()
            if key not in SKIPPED_KEYS
        }
    return [without(v) for v in value] if isinstance(value, list) else value


def equal(one, other):
    if isinstance(one, dict) and any(isinstance(v, torch.Tensor) for v in one.values()):
        return one.keys() == other.keys() and all(
            torch.equal(one[key], other[key]) for key in one
        )
    return one == other


def compare(one, other):
    """How the results below two folders differ, a line each."""
    ours, theirs = files(one), files(other)
    for name in sorted(ours.keys() | theirs.keys()):
        if name not in theirs or name not in ours:
            yield f"{name}: only in the {'first' if name in ours else 'second'}"
        elif not equal(content(ours[name], one), content(theirs[name], other)):
            yield f"{name}: differs"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("base", type=Path)
    parser.add_argument("new", type=Path, nargs="?", default=ROOT)
    parser.add_argument(
        "--keep", type=Path, help="a folder for the results; else temporary"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = (options.keep or Path(temporary)).resolve()
        folders = []
        for name, checkout in (("base", options.base), ("new", options.new)):
            folders.append(root / name)
            if not (folders[-1] / "done").is_file():  # a kept base serves again
                folders[-1].mkdir(parents=True, exist_ok=True)
                run_all(checkout.resolve(), folders[-1])
                if name == "base":
                    (folders[-1] / "done").write_text(str(folders[-1]), encoding="utf-8")
        found = list(compare(*folders))
        number = len(files(folders[0]))
    print("\n".join(found) or f"equal: {number} files")
    if not number:
        sys.exit("nothing was compared")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
