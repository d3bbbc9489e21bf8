"""What SpeechBrain's own recipe scripts need of our yamls is there and works.

The scripts are not in its package, and none of their code is here: the tables hold
the keys that ``recipes/VoxCeleb/SpeakerRec/train_speaker_embeddings.py`` and
``speaker_verification_cosine.py`` read (as of SpeechBrain 1.1), the tests what they
do with them.
"""

import csv
from pathlib import Path

import pytest
import torch
import yaml
from conftest import REPOSITORY
from hyperpyyaml import load_hyperpyyaml, resolve_references
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.inference.speaker import EncoderClassifier

from hamsb.training.export import export_model

# Key -> kind of its value; None: called, or handed to Brain.
TRAINING = {
    "data_folder": str,
    "save_folder": str,
    "output_folder": str,
    "verification_file": str,
    "split_ratio": list,
    "sentence_len": float,
    "skip_prep": bool,
    "prepare_noise_data": None,
    "prepare_rir_data": None,
    "train_annotation": str,
    "valid_annotation": str,
    "sample_rate": int,
    "random_chunk": bool,
    "wav_augment": None,
    "compute_cost": None,
    "lr_annealing": None,
    "error_stats": None,
    "train_logger": None,
    "modules": dict,
    "opt_class": None,
    "checkpointer": None,
    "epoch_counter": None,
    "dataloader_options": dict,
}
MODULES = {"compute_features", "mean_var_norm", "embedding_model", "classifier"}
VERIFICATION = {
    "data_folder": str,
    "save_folder": str,
    "output_folder": str,
    "verification_file": str,
    "split_ratio": list,
    "skip_prep": bool,
    "train_data": str,
    "enrol_data": str,
    "test_data": str,
    "n_train_snts": int,
    "train_dataloader_opts": dict,
    "enrol_dataloader_opts": dict,
    "test_dataloader_opts": dict,
    "compute_features": None,
    "mean_var_norm": None,
    "embedding_model": None,
    "mean_var_norm_emb": None,  # versions before 1.0 alone
    "pretrainer": None,
}

HPARAMS = REPOSITORY / "hparams"
EXPERIMENTS = sorted(HPARAMS.glob("train_ecapa_*.yaml"))
SMALL = {"channels": [8, 8, 8, 8, 24], "attention_channels": 8, "lin_neurons": 16}


def load(path, how=load_hyperpyyaml, **changes):
    """A yaml with the changes whose keys it has, and every PLACEHOLDER filled."""
    root = yaml.compose(path.read_text(encoding="utf-8"))
    values = {key.value: value for key, value in root.value}
    blank = [key for key, value in values.items() if value.tag == "!PLACEHOLDER"]
    changes = {
        key: str(value) if isinstance(value, Path) else value
        for key, value in (dict.fromkeys(blank, "/nowhere") | changes).items()
        if key in values
    }
    with open(path, encoding="utf-8") as file:
        return how(file, yaml.safe_dump(changes))


def train_hparams(path, tmp_path, **changes):
    small = {"embedding_model": SMALL, "lin_neurons": 16, "out_n_neurons": 3}
    (tmp_path / "save").mkdir(parents=True)
    return load(path, output_folder=tmp_path, **small, **changes)


def check(hparams, table):
    for key, kind in table.items():
        assert isinstance(hparams[key], kind or object), key
        assert hparams[key] is not None, key


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_training_script_finds_every_key_and_makes_a_step(path, tiny_distortions, tmp_path):
    hparams = train_hparams(path, tmp_path, **tiny_distortions)
    check(hparams, TRAINING)
    assert sum(hparams["split_ratio"]) == 100
    assert hparams["train_annotation"] != hparams["valid_annotation"]
    # The script's preparation writes to these names.
    assert hparams["train_annotation"] == f"{tmp_path}/save/train.csv"
    assert hparams["valid_annotation"] == f"{tmp_path}/save/dev.csv"
    assert hparams["modules"].keys() >= MODULES

    hparams["prepare_noise_data"]()
    hparams["prepare_rir_data"]()
    modules = torch.nn.ModuleDict(hparams["modules"])
    optimizer = hparams["opt_class"](modules.parameters())
    generator = torch.Generator().manual_seed(0)
    wavs, targets = torch.randn(2, 8000, generator=generator), torch.tensor([[0], [2]])

    def predict(wavs, lengths):
        features = modules["mean_var_norm"](modules["compute_features"](wavs), lengths)
        return modules["classifier"](modules["embedding_model"](features))

    # Training: clean and augmented in one batch, the labels as often.
    augmented, lengths = hparams["wav_augment"](wavs, torch.ones(2))
    labels = hparams["wav_augment"].replicate_labels(targets)
    assert augmented.shape == (4, 8000) and labels.flatten().tolist() == [0, 2, 0, 2]
    loss = hparams["compute_cost"](predict(augmented, lengths), labels, lengths)
    loss.backward()
    head = hparams["classifier"]
    assert loss.isfinite() and all(p.grad.abs().sum() > 0 for p in head.parameters())
    optimizer.step()
    assert not hasattr(hparams["lr_annealing"], "on_batch_end")

    # Validation, and the end of an epoch.
    modules.eval()
    with torch.no_grad():
        predictions = predict(wavs, torch.ones(2))
    wrong = (predictions.squeeze(1).argmax(-1) != targets.squeeze(1)).float().mean()
    metrics = hparams["error_stats"]()
    metrics.append(["a", "b"], predictions, targets, torch.ones(2))
    error = metrics.summarize("average")
    assert error == pytest.approx(wrong.item())
    old, new = hparams["lr_annealing"](1)
    assert old == pytest.approx(hparams["lr"]) and new < old
    hparams["train_logger"].log_stats(
        {"epoch": 1, "lr": old}, {"loss": 1.0}, {"loss": 1.0, "ErrorRate": error}
    )
    hparams["checkpointer"].save_and_keep_only(
        meta={"ErrorRate": error}, min_keys=["ErrorRate"]
    )
    saved = hparams["checkpointer"].find_checkpoint(min_key="ErrorRate")
    assert saved.meta["ErrorRate"] == error
    assert {"embedding_model", "classifier", "counter"} <= saved.paramfiles.keys()


def test_augmentation_csv_files_are_written_without_arguments(tiny_distortions, tmp_path):
    path = HPARAMS / "train_ecapa_ham.yaml"
    hparams = train_hparams(path, tmp_path, **tiny_distortions)
    hparams["prepare_noise_data"]()
    hparams["prepare_rir_data"]()
    for name, rows in (("noise", 3), ("rir", 1)):
        with open(hparams[f"{name}_annotation"], encoding="utf-8") as file:
            assert len(list(csv.DictReader(file))) == rows


@pytest.mark.parametrize("kind", ["noise", "rir"])
def test_missing_augmentation_folder_names_its_key(kind, tmp_path):
    hparams = train_hparams(HPARAMS / "train_ecapa_ham.yaml", tmp_path)
    with pytest.raises(FileNotFoundError, match=f"data_folder_{kind}: /nowhere"):
        hparams[f"prepare_{kind}_data"]()


# ------------------------------------------------------------------ verification


def export(folder, seed):
    """A small untrained model, as train.py exports it."""
    path, small = HPARAMS / "train_ecapa_ham.yaml", {"embedding_model": SMALL}
    small |= {"seed": seed, "lin_neurons": 16, "out_n_neurons": 3}
    resolved = load(path, resolve_references, **small).getvalue()
    whole = load_hyperpyyaml(resolved)
    modules = {name: whole[name] for name in ("embedding_model", "classifier")}
    labels = CategoricalEncoder()
    labels.update_from_iterable(["a", "b", "c"], sequence_input=False)
    return export_model(folder, resolved, modules, labels, "# card\n")


def embed(hparams, wavs):
    """As the script does: collect, load, embed."""
    hparams["pretrainer"].collect_files()
    hparams["pretrainer"].load_collected()
    hparams["embedding_model"].eval()
    lengths = torch.ones(len(wavs))
    with torch.no_grad():
        features = hparams["mean_var_norm"](hparams["compute_features"](wavs), lengths)
        return hparams["embedding_model"](features, lengths)


def test_verification_script_embeds_as_the_export_does(tmp_path):
    wavs = torch.randn(1, 16000, generator=torch.Generator().manual_seed(1))
    output_folder, embeddings = tmp_path / "verification", []
    (output_folder / "save").mkdir(parents=True)
    for seed in (1, 2):  # the second model in the same output folder
        folder = export(tmp_path / f"export{seed}", seed)
        hparams = load(
            HPARAMS / "verification_ecapa.yaml",
            pretrain_path=folder,
            output_folder=output_folder,
            embedding_model=SMALL,
        )
        check(hparams, VERIFICATION)
        found = embed(hparams, wavs)
        expected = EncoderClassifier.from_hparams(source=str(folder)).encode_batch(wavs)
        torch.testing.assert_close(found, expected)
        assert torch.equal(hparams["mean_var_norm_emb"](found, torch.ones(1)), found)
        embeddings.append(found)
    assert not torch.allclose(*embeddings)


def test_verification_yaml_is_of_the_experiments_and_plain():
    theirs = load(HPARAMS / "verification_ecapa.yaml", resolve_references)
    ours = load(HPARAMS / "train_ecapa_ham.yaml", resolve_references)
    theirs, ours = (
        {key.value: yaml.serialize(value) for key, value in yaml.compose(text).value}
        for text in (theirs, ours)
    )
    for key in ("compute_features", "mean_var_norm", "embedding_model"):
        assert theirs[key] == ours[key]
    assert "score_norm" not in theirs  # its presence alone switches it on
    for name in ("train", "enrol", "test"):
        assert yaml.safe_load(theirs[f"{name}_dataloader_opts"]) == {"batch_size": 1}
        assert yaml.safe_load(theirs[f"{name}_data"]).endswith(f"/save/{name}.csv")
