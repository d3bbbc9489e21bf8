"""The exported folder: its yaml, and that it appears whole or not at all."""

import errno
import json
import shutil
from pathlib import Path

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.inference.classifiers import EncoderClassifier

from hamsb import CosineClassifier
from hamsb.training.export import (
    export_model,
    inference_yaml,
    write_card,
)
from hamsb.verification.decision import fingerprint, read_decision, write_decision
from hamsb.verification.training_data import read_training

EXPERIMENT = """
sample_rate: 8000
n_mels: &mels 40
ball: &ball !new:hamsb.PoincareBall
  curvature: 1.0
compute_features: !new:speechbrain.lobes.features.Fbank
  n_mels: *mels
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
  norm_type: sentence
embedding_model: !new:torch.nn.Linear [*mels, 8]
classifier: !new:hamsb.HyperbolicClassifier
  input_size: 8
  out_neurons: 3
  ball: *ball
optimizer: !name:torch.optim.Adam
"""


@pytest.fixture
def model():
    from hamsb import HyperbolicClassifier, PoincareBall

    labels = CategoricalEncoder()
    labels.update_from_iterable(["a", "b", "c"], sequence_input=False)
    return {
        "hparams_yaml": EXPERIMENT,
        "modules": {
            "embedding_model": torch.nn.Linear(40, 8),
            "classifier": HyperbolicClassifier(8, 3, PoincareBall(1.0)),
        },
        "label_encoder": labels,
        "card": "# card\n",
    }


def test_yaml_writes_out_what_it_refers_to_and_nothing_else():
    whole = inference_yaml(EXPERIMENT, ("embedding_model", "classifier"), labels=True)
    assert "curvature: 1.0" in whole and "out_neurons: 3" in whole
    assert "optimizer" not in whole and "paths" not in whole
    loaded = load_hyperpyyaml(whole)
    assert loaded["embedding_model"].in_features == 40
    assert loaded["audio_normalizer"].sample_rate == 8000
    assert sorted(loaded["pretrainer"].loadables) == [
        "classifier",
        "embedding_model",
        "label_encoder",
    ]
    encoder = inference_yaml(EXPERIMENT, ("embedding_model",), labels=False)
    assert "hamsb" not in encoder and "label_encoder" not in encoder


def test_yamls_and_card_say_what_they_need(tmp_path, model):
    folder = export_model(tmp_path / "export", **model)
    first = [
        (folder / f"{name}.yaml").read_text().split("\n")[0]
        for name in ("hyperparams", "embedding")
    ]
    assert first == [
        "# Needs hamsb beside SpeechBrain, for hamsb.HyperbolicClassifier, "
        "hamsb.PoincareBall. Embeddings and decisions need less, with "
        'hparams_file="embedding.yaml".',
        "# Needs SpeechBrain alone.",
    ]
    card = (folder / "README.md").read_text()
    assert all(line.removeprefix("# ") in card for line in first)
    write_card(folder, "# card\n")
    assert (folder / "README.md").read_text() == card
    # It is read from the yaml, not assumed.
    own = EXPERIMENT.replace("!new:torch.nn.Linear [*mels, 8]", "!new:my.Net {ball: *ball}")
    folder = export_model(folder, **{**model, "hparams_yaml": own})
    needs = "# Needs hamsb, my beside SpeechBrain, for hamsb.PoincareBall, my.Net."
    assert (folder / "embedding.yaml").read_text().startswith(f"{needs}\n")


def test_a_missing_key_is_named():
    with pytest.raises(ValueError, match="classifier"):
        inference_yaml(EXPERIMENT.replace("classifier:", "head:"), ("classifier",), True)


def test_folder_holds_the_default_names(tmp_path, model):
    folder = export_model(tmp_path / "export", **model)
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "classifier.ckpt",
        "embedding.yaml",
        "embedding_model.ckpt",
        "hyperparams.yaml",
        "label_encoder.ckpt",
    ]
    weights = torch.load(folder / "embedding_model.ckpt")
    assert torch.equal(weights["weight"], model["modules"]["embedding_model"].weight)


def test_arguments_of_training_and_parts_of_a_state_are_not_exported(tmp_path, model):
    head = CosineClassifier(4, 2, sharded=True, class_fraction=0.5)
    model["modules"]["classifier"] = head
    text = EXPERIMENT[: EXPERIMENT.index("classifier")]
    model["hparams_yaml"] = text + (
        "classifier: !new:hamsb.CosineClassifier\n  input_size: 4\n  out_neurons: 2\n"
        "  sharded: True\n  class_fraction: 0.5\n"
    )
    whole = {"weight": torch.ones(2, 4)}
    folder = export_model(tmp_path / "export", **model, states={"classifier": whole})
    assert torch.equal(torch.load(folder / "classifier.ckpt")["weight"], whole["weight"])
    text = (folder / "hyperparams.yaml").read_text()
    assert "out_neurons" in text
    assert "sharded" not in text and "class_fraction" not in text


def test_an_encoder_alone_is_exported_without_classes(tmp_path, model):
    del model["modules"]["classifier"]
    text = EXPERIMENT[: EXPERIMENT.index("classifier")]
    model |= {"label_encoder": None, "hparams_yaml": text}
    folder = export_model(tmp_path / "export", **model)
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "embedding.yaml",
        "embedding_model.ckpt",
        "hyperparams.yaml",
    ]
    whole, encoder = (folder / f"{n}.yaml" for n in ("hyperparams", "embedding"))
    assert whole.read_text() == encoder.read_text()
    assert list(load_hyperpyyaml(whole.read_text())["pretrainer"].loadables) == [
        "embedding_model"
    ]


def test_a_failed_export_leaves_the_earlier_one(tmp_path, model, monkeypatch):
    folder = export_model(tmp_path / "export", **model)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(
        model["label_encoder"], "save", lambda path: (_ for _ in ()).throw(OSError("full"))
    )
    with pytest.raises(OSError, match="full"):
        export_model(folder, **model)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert list(tmp_path.iterdir()) == [folder]


def test_a_full_disk_is_an_error_of_the_system(tmp_path, model, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def torchs(*_):
        raise RuntimeError("unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", torchs)
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        export_model(tmp_path / "export", **model)
    assert not list(tmp_path.iterdir())


def test_an_export_replaces_an_earlier_one(tmp_path, model):
    folder = export_model(tmp_path / "export", **model)
    export_model(folder, **{**model, "card": "# newer\n"})
    assert (folder / "README.md").read_text().startswith("# newer\n")
    assert list(tmp_path.iterdir()) == [folder]


# Where to decide

DECISION = {"list": "veri_dev", "thresholds": {"eer": 0.1 + 0.2, "min_dcf_0.01": 0.5}}


def test_a_decision_is_exported_with_the_model(tmp_path, model):
    folder = export_model(tmp_path / "export", **model, decision=DECISION)
    assert read_decision(folder) == DECISION
    assert json.loads((folder / "decision.json").read_text()) == DECISION
    folder = export_model(tmp_path / "export", **model)
    assert read_decision(folder) is None and not (folder / "decision.json").exists()


def test_a_decision_replaces_an_earlier_one_whole_or_not_at_all(tmp_path, monkeypatch):
    write_decision(tmp_path, DECISION)
    newer = {**DECISION, "thresholds": {"eer": -1.5}}
    write_decision(tmp_path, newer)
    for bad in (
        {"thresholds": {"eer": float("nan")}},
        {"thresholds": {"eer": 0.3, "min_dcf_0.01": float("inf")}},
        {"thresholds": {}},
        {"list": "veri_dev"},
    ):
        with pytest.raises(ValueError):
            write_decision(tmp_path, bad)

    def full(path, text, encoding):
        path.write_bytes(text[:9].encode(encoding))
        raise OSError("disk full")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk full"):
        patch.setattr(Path, "write_text", full)
        write_decision(tmp_path, DECISION)
    assert read_decision(tmp_path) == newer
    assert [path.name for path in tmp_path.iterdir()] == ["decision.json"]


def test_a_damaged_decision_is_named(tmp_path):
    (tmp_path / "decision.json").write_text('{"thresholds": {"eer"')
    with pytest.raises(ValueError, match="decision.json: damaged"):
        read_decision(tmp_path)


def test_fingerprint_is_of_yamls_and_parameters_alone(tmp_path, model):
    folder = export_model(tmp_path / "export", **model)
    found = fingerprint(folder)
    shutil.copytree(folder, tmp_path / "elsewhere")
    write_decision(tmp_path / "elsewhere", DECISION)
    (tmp_path / "elsewhere" / "README.md").write_text("newer")
    assert fingerprint(str(tmp_path / "elsewhere")) == found and len(found) == 64
    export_model(folder, **model)  # the same again
    assert fingerprint(folder) == found

    with torch.no_grad():
        model["modules"]["embedding_model"].bias[0] += 1e-3
    others = {found, fingerprint(export_model(folder, **model))}
    for name in ("embedding.yaml", "hyperparams.yaml", "label_encoder.ckpt"):
        with open(folder / name, "a") as file:
            file.write(" ")
        others.add(fingerprint(folder))
    (folder / "a.ckpt").write_bytes(b"")
    others.add(fingerprint(folder))
    (folder / "a.ckpt").rename(folder / "b.ckpt")
    others.add(fingerprint(folder))
    assert len(others) == 7


# Features and normalizers that learn or count

LEARNED = """
sample_rate: 16000
compute_features: !new:speechbrain.lobes.features.Fbank
  n_mels: 20
  requires_grad: True
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
  norm_type: global
embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
  input_size: 20
  channels: [8, 8, 8, 8, 24]
  attention_channels: 8
  lin_neurons: 16
classifier: !new:hamsb.CosineClassifier
  input_size: 16
  out_neurons: 2
"""


def test_learned_features_and_statistics_are_the_models(tmp_path):
    """What EncoderClassifier gives is what the trained modules give, with either yaml."""
    torch.manual_seed(0)
    hparams, labels = load_hyperpyyaml(LEARNED), CategoricalEncoder()
    labels.update_from_iterable(["a", "b"], sequence_input=False)
    names = "compute_features", "mean_var_norm", "embedding_model", "classifier"
    modules = {name: hparams[name] for name in names}
    features, norm, encoder, _ = modules.values()
    with torch.no_grad():
        for parameter in features.parameters():
            parameter.mul_(1.1)
    for _ in range(3):
        norm(features(torch.randn(4, 16000)), torch.ones(4))
    folder = export_model(tmp_path / "export", LEARNED, modules, labels, "# card\n")
    assert {f"{name}.ckpt" for name in names} <= {path.name for path in folder.iterdir()}
    assert list(torch.load(folder / "mean_var_norm.ckpt")) == [
        "count",
        "glob_mean",
        "glob_std",
    ]

    wavs, lengths = torch.randn(2, 12000), torch.ones(2)
    for module in modules.values():
        module.eval()
    with torch.no_grad():
        expected = encoder(norm(features(wavs), lengths), lengths)
    for file in ("hyperparams.yaml", "embedding.yaml"):
        loaded = EncoderClassifier.from_hparams(source=str(folder), hparams_file=file)
        assert torch.equal(loaded.encode_batch(wavs), expected)


def test_whose_speech_trained_a_model_is_exported_with_it(tmp_path, model):
    training = {"speakers": ["a"], "development_speakers": ["d"], "data": {}}
    folder = export_model(tmp_path / "export", **model, training=training)
    assert read_training(folder) == training
    assert read_training(export_model(folder, **model)) is None
