"""Two processes on a CPU (gloo): one result, and the gradients of one process."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import train

# Prints nothing; rank 0 saves the gradients of the first batch.
GRADIENTS = """
import sys

sys.path.insert(0, sys.argv[1])
import speechbrain as sb
import torch
from speechbrain.lobes.features import Fbank
from speechbrain.processing.features import InputNormalization
from train import SpeakerBrain, unwrapped

import hamsb


class MeanLinear(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(10, 6)

    def forward(self, features):
        return self.linear(features).mean(1, keepdim=True)


class Batch:
    def __init__(self, wavs, targets):
        self.id = [str(i) for i in range(len(wavs))]
        self.sig = wavs, torch.ones(len(wavs))
        self.spk_id_encoded = targets, None

    def __len__(self):
        return len(self.id)

    def to(self, device):
        return self


torch.set_num_threads(1)
run_opts = {"device": "cpu", "distributed_backend": "gloo"}
sb.utils.distributed.ddp_init_group(run_opts)
torch.manual_seed(0)
wavs, targets = torch.randn(8, 4000), torch.randint(5, (8, 1))
modules = {
    "compute_features": Fbank(n_mels=10),
    "mean_var_norm": InputNormalization(norm_type="sentence"),
    "embedding_model": MeanLinear(),
    "classifier": hamsb.HyperbolicClassifier(6, 5, hamsb.PoincareBall(1.0, learnable=True)),
}
brain = SpeakerBrain(modules, hparams={"compute_cost": hamsb.HAMSoftmax()}, run_opts=run_opts)
processes = int(sys.argv[3])
if processes > 1:
    share = slice(brain.rank, None, processes)
    wavs, targets = wavs[share], targets[share]
brain._wrap_distributed()
brain.limited = []
batch = Batch(wavs, targets)
loss = brain.compute_objectives(brain.compute_forward(batch, sb.Stage.TRAIN), batch, sb.Stage.TRAIN)
loss.backward()
if processes == 1 or brain.rank == 0:
    torch.save(
        {
            f"{name}.{key}": parameter.grad
            for name in ("embedding_model", "classifier")
            for key, parameter in unwrapped(brain.modules[name]).named_parameters()
        },
        sys.argv[2],
    )
"""


def launch(processes, *arguments):
    """Run a script in one process, or in several under torchrun."""
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    done = subprocess.run(
        [*launcher, *map(str, arguments)],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_gradients_of_two_processes_are_those_of_the_joined_batch(repository, tmp_path):
    script = tmp_path / "gradients.py"
    script.write_text(GRADIENTS)
    recipe = repository / "recipes" / "VoxCeleb"
    found = {}
    for processes in (1, 2):
        launch(processes, script, recipe, tmp_path / f"{processes}.pt", processes)
        found[processes] = torch.load(tmp_path / f"{processes}.pt")
    assert len(found[1]) == 5
    for name, gradient in found[1].items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(found[2][name], gradient, rtol=1e-4, atol=1e-6)


def test_two_processes_train_verify_and_export_once(repository, tiny_options, tmp_path):
    screen = launch(
        2,
        repository / "recipes" / "VoxCeleb" / "train.py",
        repository / "hparams" / "small_ham.yaml",
        *tiny_options(),
        "--device=cpu",
        "--distributed_backend=gloo",
    )
    assert screen.count("| veri_test: trained |") == 1
    assert len((tmp_path / "run" / "train_log.txt").read_text().splitlines()) == 1
    assert (tmp_path / "run" / "export" / "hyperparams.yaml").is_file()


@pytest.mark.parametrize("processes, steps", [(1, 6), (2, 3)])
def test_steps_per_epoch_are_those_of_one_process(processes, steps, monkeypatch):
    monkeypatch.setattr(train, "is_initialized", lambda: True)
    monkeypatch.setattr(train, "get_world_size", lambda: processes)
    preparation = SimpleNamespace(speakers=6, utterances=27)
    plain = {"batch_size": 4, "steps_per_epoch": 0}
    assert train.count_overrides("", plain, preparation) == f"steps_per_epoch: {steps}"
