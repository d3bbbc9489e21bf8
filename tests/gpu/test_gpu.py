"""What only a GPU tells: the stages of gpu_check.py as tests, and the script itself."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("gpu_check.py")


def check(folder, device, stages):
    """The exit status, what was found, and the tables."""
    done = subprocess.run(
        [sys.executable, SCRIPT, f"--out={folder}", f"--device={device}", "--tiny"]
        + [f"--stages={stages}"],
        capture_output=True,
        text=True,
    )
    found = [json.loads(line) for line in (folder / "gpu.jsonl").read_text().splitlines()]
    return done, found, (folder / "gpu.md").read_text()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(
    "stages", ["ceilings,step", "parity", "syncs", "head", "idle", "embed", "run", "ddp"]
)
def test_on_a_gpu(stages, tmp_path):
    """Right on the device, with tiny sizes; the speeds are gpu_check.py's to tell."""
    done, found, _ = check(tmp_path, "cuda", stages)
    wrong = [finding for finding in found if finding.get("WRONG")]
    assert not wrong and done.returncode == 0, done.stdout + done.stderr


def test_the_script_finds_and_prints(tmp_path):
    """On a CPU: the stages that take no seconds, their goals and their tables."""
    done, found, tables = check(tmp_path, "cpu", "ceilings,syncs,pipeline,absent")
    assert done.returncode == 1  # a stage that fails stops none and is told
    assert [finding["stage"] for finding in found if finding.get("WRONG")] == ["absent"]
    assert "| product | TFLOP_a_second |" in tables and "copy_TB_a_second" in tables
    assert "| kind | workers | crops_a_second |" in tables
    assert tables in done.stdout
