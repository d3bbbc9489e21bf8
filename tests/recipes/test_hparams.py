"""Every experiment runs as it stands, and every key in it is used."""

import re

import pytest
import train
import yaml
from conftest import REPOSITORY
from speechbrain.utils.run_opts import RunOptions
from test_upstream import TRAINING, VERIFICATION

HPARAMS = REPOSITORY / "hparams"
EXPERIMENTS = sorted(
    path for path in HPARAMS.glob("*.yaml") if not path.stem.startswith("veri")
)
# Read by our scripts, and by SpeechBrain's own.
SCRIPTS = [
    (REPOSITORY / "recipes" / "VoxCeleb" / name).read_text(encoding="utf-8")
    for name in ("train.py", "verify.py")
]
UPSTREAM = {"train_ecapa": TRAINING, "verification_ecapa": VERIFICATION}


def keys(path):
    return [key.value for key, _ in yaml.compose(path.read_text(encoding="utf-8")).value]


def uses(text):
    """Names between quotes, as attributes of hparams, and in !ref <...>."""
    return set(re.findall(r'"(\w+)"|hparams\.(\w+)|<(\w+)[\[>]', text))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiment_trains_and_exports(
    path, tiny_options, tiny_distortions, tmp_path, capsys
):
    if path.stem.startswith("mini"):
        pytest.skip("makes the whole corpus; small_ham.yaml is the same but for it")
    changes = dict(tiny_distortions) if "data_folder_noise" in keys(path) else {}
    if "pretrained_model" in keys(path):
        finished = tmp_path / "finished"
        train.main([str(HPARAMS / "small_ham.yaml"), *tiny_options(output_folder=finished)])
        changes["pretrained_model"] = finished / "export"
    train.main([str(path), *tiny_options(**changes)])
    assert (tmp_path / "run" / "export" / "hyperparams.yaml").is_file()
    assert "veri_test" in capsys.readouterr().out


@pytest.mark.parametrize("path", sorted(HPARAMS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_key_is_used(path):
    text = path.read_text(encoding="utf-8")
    used = {name for text in (*SCRIPTS, text) for names in uses(text) for name in names}
    used |= set(RunOptions().keys())
    for stem, table in UPSTREAM.items():
        used |= set(table) if path.stem.startswith(stem) else set()
    unused = [key for key in keys(path) if key not in used and not key.startswith("__")]
    assert unused == []


def test_published_experiments_differ_only_in_head_and_loss():
    head = {"classifier", "compute_cost", "output_folder"}
    further = {
        "train_ecapa_blend": {
            "branches", "euclidean_classifier", "euclidean_cost", "modules", "checkpointer",
        },
        "train_ecapa_ham_lmft": {
            "pretrained_model", "number_of_epochs", "batch_size", "sentence_len", "lr",
            "lr_decay", "steps_per_epoch", "margin_schedule", "checkpointer",
        },
    }
    family = sorted(HPARAMS.glob("train_ecapa_*.yaml"))
    assert len(family) == 8
    for path in family:
        found = differing(HPARAMS / "train_ecapa_ham.yaml", path)
        assert found <= head | further.get(path.stem, set())


def test_small_experiments_differ_only_in_head_and_loss():
    found = differing(HPARAMS / "small_ham.yaml", HPARAMS / "small_am.yaml")
    assert found == {"classifier", "compute_cost", "output_folder"}


def differing(path, other):
    """The top-level keys whose text differs."""
    a, b = top_level(path), top_level(other)
    return {key for key in a | b if a.get(key) != b.get(key)}


def top_level(path):
    """Key -> its yaml text."""
    root = yaml.compose(path.read_text(encoding="utf-8"))
    return {key.value: yaml.serialize(value) for key, value in root.value}
