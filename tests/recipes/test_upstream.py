"""What SpeechBrain's own recipe scripts need of our yamls is there and works.

The scripts are not in its package, and none of their code is here: the tables hold
the keys that ``recipes/VoxCeleb/SpeakerRec/train_speaker_embeddings.py`` and
``speaker_verification_cosine.py`` read (as of SpeechBrain 1.1), the tests what they
do with them. Where the environment variable SPEECHBRAIN_RECIPES names a checkout of
SpeechBrain's repository, the scripts themselves run too.
"""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from hyperpyyaml import load_hyperpyyaml, resolve_references
from ruamel.yaml import YAML
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.inference.speaker import EncoderClassifier

from conftest import REPOSITORY
from hamsb.training.export import export_model
from hamsb.utils.yaml_tree import override, read_yaml

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
EXPERIMENTS = sorted(HPARAMS.glob("train_ecapa_*.yaml")) + [HPARAMS / "finetune_ham.yaml"]
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
    return load(path, output_folder=tmp_path, **small | changes)


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


def export(folder, seed, lin_neurons=16):
    """A small untrained model, as train.py exports it."""
    path = HPARAMS / "train_ecapa_ham.yaml"
    small = {"seed": seed, "lin_neurons": lin_neurons, "out_n_neurons": 3}
    small["embedding_model"] = {**SMALL, "lin_neurons": lin_neurons}
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


# ------------------------------------------------------- SpeechBrain's encoders and scripts

# Encoders of the stock yamls, made tiny, and the size of their embeddings.
ENCODERS = {
    "train_ecapa_tdnn": (
        "ECAPA_TDNN.ECAPA_TDNN",
        {"channels": [8, 8, 8, 8, 24], "attention_channels": 8},
        192,
    ),
    "train_x_vectors": ("Xvector.Xvector", {"tdnn_channels": [8, 8, 8, 8, 24]}, 512),
    "train_resnet": (
        "ResNet.ResNet", {"channels": [8, 8, 8, 8], "block_sizes": [1, 1, 1, 1]}, 256
    ),
}  # fmt: skip
SWAP = """
classifier: !new:hamsb.HyperbolicClassifier
    input_size: {size}
    out_neurons: !ref <out_n_neurons>
    ball: !new:hamsb.ClippedUnitBall
        curvature: 3.0
compute_cost: !new:hamsb.HAMSoftmax
    margin: 0.2
    scale: 30.0
"""


@pytest.mark.parametrize("stock", ENCODERS)
def test_head_and_loss_stand_behind_speechbrains_encoders(stock):
    encoder, sizes, size = ENCODERS[stock]
    inputs = "in_channels" if stock == "train_x_vectors" else "input_size"
    sizes = yaml.safe_dump(
        {inputs: 24, "lin_neurons": size, **sizes}, default_flow_style=True
    )
    hparams = load_hyperpyyaml(
        f"out_n_neurons: 5\nencoder: !new:speechbrain.lobes.models.{encoder} {sizes}"
        + SWAP.format(size=size)
    )
    features = torch.randn(4, 60, 24, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[0], [4], [2], [0]])
    predictions = hparams["classifier"](hparams["encoder"](features))
    assert predictions.shape == (4, 1, 5)
    loss = hparams["compute_cost"](predictions, targets, torch.ones(4))
    loss.backward()
    for module in (hparams["encoder"], hparams["classifier"]):
        assert all(
            p.grad.isfinite().all() for p in module.parameters() if p.grad is not None
        )
        assert any(p.grad.abs().sum() > 0 for p in module.parameters())


@pytest.fixture
def speechbrains(tmp_path):
    """A function that runs one of SpeechBrain's scripts; the path of its yamls."""
    root = os.environ.get("SPEECHBRAIN_RECIPES")
    if not root:
        pytest.skip("SPEECHBRAIN_RECIPES names no checkout of SpeechBrain's repository")
    folder = Path(root) / "recipes" / "VoxCeleb" / "SpeakerRec"

    def run(script, hparams_file, **options):
        options = [f"--{key}={value}" for key, value in options.items()]
        done = subprocess.run(
            [sys.executable, folder / script, hparams_file, *options, "--device=cpu"],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    run.yamls = folder / "hparams"
    return run


@pytest.fixture
def tiny(tiny_corpus, tiny_distortions, tmp_path):
    """Options that make their training a matter of seconds."""
    return {
        "data_folder": tiny_corpus / "train",
        "verification_file": tiny_corpus / "veri_test.txt",
        **tiny_distortions,
        "output_folder": tmp_path / "run",
        "number_of_epochs": 1,
        "batch_size": 8,
        "sentence_len": 0.5,
        "num_workers": 0,
        "out_n_neurons": 8,
    }


def check_trained(folder):
    log = (folder / "train_log.txt").read_text()
    assert log.startswith("epoch: 1, ") and "nan" not in log
    assert list(folder.glob("save/CKPT*/embedding_model.ckpt"))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_their_script_trains_with_our_yaml(path, speechbrains, tiny, tmp_path):
    small = yaml.safe_dump({**SMALL, "lin_neurons": 192}, default_flow_style=True).strip()
    if "\npretrained_model:" in path.read_text():
        tiny["pretrained_model"] = export(tmp_path / "export", 1, lin_neurons=192)
        began = tmp_path / "export" / "embedding_model.ckpt"
        tiny["lr"] = 1e-9  # the encoder stays what it began as
    speechbrains("train_speaker_embeddings.py", path, embedding_model=small, **tiny)
    check_trained(tmp_path / "run")
    if "pretrained_model" in tiny:
        (file,) = (tmp_path / "run").glob("save/CKPT*/embedding_model.ckpt")
        ours, theirs = (torch.load(f)["fc.conv.weight"] for f in (file, began))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("stock", ENCODERS)
def test_their_yaml_trains_with_our_head_and_loss(stock, speechbrains, tiny, tmp_path):
    document = read_yaml(speechbrains.yamls / f"{stock}.yaml")
    _, sizes, size = ENCODERS[stock]
    override(document, YAML().load(SWAP.format(size=size)))
    ours = read_yaml(HPARAMS / "train_ecapa_ham.yaml")
    lists = {key: ours[key] for key in ("prepare_noise_data", "prepare_rir_data")}
    override(document, {**lists, "embedding_model": sizes})  # and no download
    with open(tmp_path / "swapped.yaml", "w", encoding="utf-8") as file:
        YAML().dump(document, file)
    speechbrains("train_speaker_embeddings.py", tmp_path / "swapped.yaml", **tiny)
    check_trained(tmp_path / "run")


def test_their_verification_scores_our_export(speechbrains, tiny_corpus, tmp_path):
    folder = export(tmp_path / "export", seed=1)
    wav = tmp_path / "both" / "wav"
    wav.mkdir(parents=True)
    for speaker in tiny_corpus.glob("*/wav/*"):
        (wav / speaker.name).symlink_to(speaker)
    # For train_data, of which that script takes chunks of three seconds.
    (wav / "other").mkdir()
    noise = np.random.default_rng(0).normal(0, 0.1, (4, 16000 * 4))
    for index, audio in enumerate(noise):
        soundfile.write(wav / "other" / f"{index}.wav", audio, 16000)
    speechbrains(
        "speaker_verification_cosine.py",
        HPARAMS / "verification_ecapa.yaml",
        pretrain_path=folder,
        data_folder=wav.parent,
        verification_file=tiny_corpus / "veri_test.txt",
        output_folder=tmp_path / "out",
        embedding_model=yaml.safe_dump(SMALL, default_flow_style=True).strip(),
    )
    lines = (tmp_path / "out" / "scores.txt").read_text().splitlines()
    assert len(lines) == len((tiny_corpus / "veri_test.txt").read_text().splitlines())
    encoder = EncoderClassifier.from_hparams(source=str(folder))

    def embedding(name):
        audio = encoder.load_audio(str(wav / f"{name.removesuffix('.wav')}.wav"))
        return encoder.encode_batch(audio.unsqueeze(0)).flatten()

    for line in lines[:5]:
        enrol, test, _, score = line.split()
        expected = torch.cosine_similarity(embedding(enrol), embedding(test), 0)
        assert float(score) == pytest.approx(expected.item(), abs=1e-4)
