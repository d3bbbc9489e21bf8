"""ONNX files: the model's embeddings and decisions, without torch."""

import ast
import itertools
import json
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.inference.classifiers import EncoderClassifier
from speechbrain.lobes.models.ResNet import ResNet

import hamsb
from hamsb.inference import EmbeddingExtractor, SpeakerRecognition
from hamsb.inference import onnx as exporting
from hamsb.inference.cli import main
from hamsb.inference.onnx import compare, export_onnx, read_metadata
from hamsb.training.export import export_model
from hamsb.utils import packages
from hamsb.verification.calibration import Calibration
from hamsb.verification.decision import (
    fingerprint,
    write_decision,
    write_own_decision,
)
from runs import code_blocks, write_wav

onnx = pytest.importorskip("onnx", reason="the extra [onnx] is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")
pytest.importorskip("onnxscript", reason="the extra [onnx] is not installed")

MODELS = {
    "ecapa": """
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
  norm_type: sentence
  std_norm: False
embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
  input_size: 20
  channels: [8, 8, 24]
  kernel_sizes: [5, 3, 1]
  dilations: [1, 2, 1]
  groups: [1, 1, 1]
  res2net_scale: 2
  attention_channels: 8
  lin_neurons: 16
""",
    "xvector": """
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
  norm_type: global
embedding_model: !new:speechbrain.lobes.models.Xvector.Xvector
  in_channels: 20
  tdnn_channels: [8, 8, 8, 8, 24]
  lin_neurons: 16
""",
}
FEATURES = """
sample_rate: 16000
compute_features: !new:speechbrain.lobes.features.Fbank
  n_mels: 20
"""
LOSS = "HAMSoftmax(margin=0.2, scale=30)"
FILES = [f"{name}.wav" for name in "abcd"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder: of each model its export and ONNX file; and four recordings, about half of
    whose pairs are accepted."""
    root = tmp_path_factory.mktemp("the models")
    for seed, name in enumerate(FILES):
        write_wav(root / name, 12000 + 3000 * seed, seed=seed)
    for name, text in MODELS.items():
        torch.manual_seed(0)
        text = FEATURES + text
        hparams = load_hyperpyyaml(text)
        norm, network = hparams["mean_var_norm"], hparams["embedding_model"]
        modules = {"embedding_model": network}
        if norm.norm_type == "global":
            modules["mean_var_norm"] = norm
        with torch.no_grad():  # statistics of batch and global normalization
            for _ in range(3):
                features = hparams["compute_features"](0.1 * torch.randn(4, 24000))
                network(norm(features, torch.ones(4)), torch.ones(4))
        training = {"speakers": [], "development_speakers": [], "data": {}, "loss": LOSS}
        folder = root / name / "export"
        export_model(folder, text, modules, None, "# card\n", None, training)
        scores = [score.item() for score, _ in decisions(folder, threshold=0.0)]
        thresholds = {"eer": float(np.mean(scores)), "min_dcf_0.01": 2.0}
        calibration = Calibration(scale=10.0, offset=-4.0).to_dict()
        write_decision(folder, {"thresholds": thresholds, "calibration": calibration})
        file = root / name / "model.onnx"
        assert main(["export", str(folder), "--onnx", str(file)]) == 0
    return root


def decisions(folder, **options):
    """Score and decision of each pair of the recordings."""
    model = SpeakerRecognition.from_hparams(folder)
    files = [folder.parent.parent / name for name in FILES]
    return [
        model.verify_files(*pair, **options) for pair in itertools.combinations(files, 2)
    ]


@pytest.mark.parametrize("name", MODELS)
def test_embeddings_are_the_models_at_any_length(models, name):
    """Recordings with silence, rows of unlike loudness, half a second to a minute."""
    model = EncoderClassifier.from_hparams(source=str(models / name / "export"))
    session = onnxruntime.InferenceSession(models / name / "model.onnx")
    generator = torch.Generator().manual_seed(1)
    for seconds, rows in ((0.5, 1), (0.731, 4), (3.3, 2), (12, 1), (60, 1)):
        wavs = torch.randn(rows, int(16000 * seconds), generator=generator)
        wavs *= torch.logspace(-2, 0, rows)[:, None]
        wavs[:, : wavs.shape[1] // 4] = 0
        with torch.no_grad():
            ours = model.encode_batch(wavs).squeeze(1).double().numpy()
        (theirs,) = session.run(["embedding"], {"wav": wavs.numpy()})
        assert theirs.dtype == np.float32 and theirs.shape == (rows, 16)
        assert np.abs(theirs - ours).max() < 1e-3 * np.abs(ours).max(), (seconds, rows)
        lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
        assert ((ours * theirs).sum(1) / lengths).min() > 0.99999, (seconds, rows)


@pytest.mark.parametrize("name", MODELS)
def test_what_a_program_must_know_is_in_the_file(models, name):
    folder, file = models / name / "export", models / name / "model.onnx"
    session = onnxruntime.InferenceSession(file)
    found = session.get_modelmeta().custom_metadata_map
    decision = json.loads((folder / "decision.json").read_text())
    extractor = EmbeddingExtractor(folder)
    assert json.loads(found.pop("thresholds")) == decision["thresholds"]
    assert json.loads(found.pop("calibration")) == decision["calibration"]
    assert found == {
        "sample_rate": "16000",
        "dimension": "16",
        "least_samples": str(extractor.least_samples),
        "threshold": str(decision["thresholds"]["eer"]),
        "loss": LOSS,
        "hamsb": hamsb.__version__,
        "fingerprint": fingerprint(folder),
    }
    (given,), (got,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape, got.name) == ("wav", ["batch", "samples"], "embedding")
    proto = onnx.load(file)
    assert [each.version for each in proto.opset_import] == [exporting.OPSET]
    onnx.checker.check_model(proto, full_check=True)
    assert b"speechbrain" not in file.read_bytes()  # no paths of who exported it
    least = np.ones((1, extractor.least_samples), np.float32)
    assert np.isfinite(session.run(None, {"wav": least})[0]).all()


@pytest.fixture(scope="module")
def example(repository):
    """The program of the recipe's README."""
    text = (repository / "recipes" / "VoxCeleb" / "README.md").read_text(encoding="utf-8")
    (code,) = (block for block in code_blocks(text, "python") if "onnxruntime" in block)
    return code


def call(code, *arguments):
    """Run it as a script; returns what it defines."""
    names = {"__name__": "__main__"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["verify.py", *map(str, arguments)])
        exec(code, names)
    return names


def test_the_example_decides_as_the_model_does(models, example, monkeypatch, capsys):
    assert len([line for line in example.splitlines() if line.strip()]) <= 15
    imported = {
        alias.name
        for node in ast.walk(ast.parse(example))
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert imported == {"sys", "numpy", "onnxruntime", "soundfile"}
    for name in MODELS:
        monkeypatch.chdir(models / name)
        pairs = itertools.combinations([models / file for file in FILES], 2)
        expected = decisions(models / name / "export")
        assert {same.item() for _, same in expected} == {True, False}
        for pair, (score, same) in zip(pairs, expected):
            found = call(example, *pair)
            assert found["score"] == pytest.approx(score.item(), abs=1e-4)
            said = "the same speaker" if same else "another speaker"
            assert said in capsys.readouterr().out


def test_the_example_refuses_what_the_model_would(models, example, monkeypatch, tmp_path):
    monkeypatch.chdir(models / "ecapa")
    write_wav(tmp_path / "short.wav", 100)
    write_wav(tmp_path / "slow.wav", 16000, rate=8000)
    soundfile.write(tmp_path / "silent.wav", np.zeros(16000), 16000)
    for name, value in (("nan", np.nan), ("infinite", np.inf)):
        broken = np.where(np.arange(16000) == 5, value, 0.1)
        soundfile.write(tmp_path / f"{name}.wav", broken, 16000, subtype="FLOAT")
    for name in ("short", "slow", "silent", "nan", "infinite"):
        with pytest.raises(ValueError, match=name):
            call(example, models / FILES[0], tmp_path / f"{name}.wav")


# --------------------------------------------------------------------- what is refused


@pytest.fixture
def written(models, monkeypatch):
    """Without torch's exporter: the ECAPA's graph is what it would write; and without
    long recordings."""
    proto = onnx.load(models / "ecapa" / "model.onnx")
    monkeypatch.setattr(exporting, "SECONDS", (0.5,))
    monkeypatch.setattr(exporting, "_graph", lambda extractor: proto)
    return proto


def test_a_file_that_gives_other_embeddings_is_not_written(models, written, tmp_path):
    names = {each.name: each for each in written.graph.initializer}
    weights = names["embedding_model.fc.conv.weight"]
    changed = np.frombuffer(weights.raw_data, np.float32) * 1.01
    weights.raw_data = changed.astype(np.float32).tobytes()
    path = tmp_path / "model.onnx"
    path.write_bytes(b"an earlier one")
    message = r"model.onnx: not written. Of 0.\d\d s onnxruntime gives other embeddings"
    with pytest.raises(ValueError, match=message):
        export_onnx(models / "ecapa" / "export", path)
    assert path.read_bytes() == b"an earlier one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_onnxruntime_cannot_run_is_not_written(models, written, tmp_path):
    written.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(ValueError, match="model.onnx: not written. onnxruntime fails"):
        export_onnx(models / "ecapa" / "export", tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_decision_of_ones_own_is_in_the_file(models, written, tmp_path, capsys):
    """In place of the model's; the program of the README decides by it."""
    folder, file, own = (
        models / "ecapa" / "export",
        tmp_path / "m.onnx",
        tmp_path / "d.json",
    )
    other = {"thresholds": {"eer": -0.75, "min_dcf_0.05": 0.5}}
    write_own_decision(own, other, fingerprint(folder))
    command = ["export", str(folder), "--onnx", str(file), "--decision", str(own)]
    assert main(command) == 0
    assert (
        "\nthresholds in it: eer -0.7500, min_dcf_0.05 0.5000\n" in capsys.readouterr().out
    )
    found = read_metadata(file)
    assert (found["threshold"], "calibration" in found) == ("-0.75", False)
    assert found["fingerprint"] == fingerprint(folder)
    write_own_decision(own, other, "0a")
    assert main(command) == 2 and "of another model (0a)" in capsys.readouterr().err
    plain = tmp_path / "plain"
    shutil.copytree(folder, plain)
    (plain / "decision.json").unlink()
    assert main(["export", str(plain), "--onnx", str(file)]) == 0
    assert "no threshold is in it" in capsys.readouterr().err
    assert "threshold" not in read_metadata(file)


def test_the_comparison_begins_at_the_models_least_length(models, monkeypatch):
    assert (exporting.SECONDS[0], exporting.SECONDS[-1]) == (0.5, 60.0)
    monkeypatch.setattr(exporting, "SECONDS", (0.001, 0.5, 1.3))
    extractor = EmbeddingExtractor(models / "ecapa" / "export")
    found = compare(models / "ecapa" / "model.onnx", extractor)
    assert found[0].seconds * 16000 == extractor.least_samples
    assert [each.seconds for each in found[1:]] == [0.5, 1.3]
    assert [each.rows for each in found] == [3, 3, 1]


def test_a_network_that_torch_cannot_follow_is_named(models, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("\n\nFailed to export the model.\nNext steps:") from TypeError(
            "x"
        )

    monkeypatch.setattr(torch.onnx, "export", fails)
    folder = models / "ecapa" / "export"
    message = f"^model={folder}: torch cannot write this network as ONNX .ECAPA_TDNN: "
    with pytest.raises(ValueError, match=f"{message}TypeError, Failed to export the model"):
        export_onnx(folder, tmp_path / "model.onnx")


def test_without_the_extra_its_packages_are_named(models, tmp_path, monkeypatch, capsys):
    real = packages.find_spec
    without = {"onnxscript", "onnxruntime"}
    monkeypatch.setattr(
        packages, "find_spec", lambda name: None if name in without else real(name)
    )
    folder, file = str(models / "ecapa" / "export"), str(tmp_path / "model.onnx")
    assert main(["export", folder, "--onnx", file]) == 2
    assert capsys.readouterr().err == (
        "hamsb: error: onnxscript, onnxruntime are not installed, run `python -m pip "
        "install onnxscript onnxruntime` (hamsb's extra [onnx]).\n"
    )
    assert main(["export", folder, "--onnx", str(tmp_path)]) == 2
    assert f"onnx={tmp_path}: a folder; give the file" in capsys.readouterr().err


def test_speechbrains_own_parts_are_what_they_were_afterwards():
    places = [
        (exporting.ECAPA_TDNN, "length_to_mask"),
        (exporting.Xvector, "forward"),
        (exporting.StatisticsPooling, "_get_gauss_noise"),
    ]
    before = [getattr(*place) for place in places]
    with pytest.raises(KeyError), exporting._followable():
        assert all(getattr(*p) is not own for p, own in zip(places, before))
        raise KeyError
    assert [getattr(*place) for place in places] == before


def test_masks_and_noise_are_speechbrains(monkeypatch):
    lengths = torch.tensor([1.0, 3.0, 4.0])
    for dtype in (None, torch.bool):
        ours = exporting._length_to_mask(lengths, max_len=4, dtype=dtype)
        theirs = exporting.ECAPA_TDNN.length_to_mask(lengths, max_len=4, dtype=dtype)
        assert torch.equal(ours, theirs) and ours.dtype == theirs.dtype
    pooling = exporting.StatisticsPooling()
    torch.manual_seed(0)
    drawn = pooling._get_gauss_noise((100, 100))
    mean = exporting._mean_noise(SimpleNamespace(eps=pooling.eps), (2, 2))
    assert mean.mean().item() == pytest.approx(drawn.mean().item(), rel=0.1)


class Placed(torch.nn.Module):
    """Has a value that the exporter calls ``embedding``, as WavLM has."""

    def __init__(self):
        super().__init__()
        self.places = torch.nn.Embedding(3, 4)

    def forward(self, features, lengths=None):
        return self.places((features.mean(1) > 0).long()[:, :1]) + features[:, :1]


class Frames(torch.nn.Module):
    """Features without SpeechBrain's: samples, cut."""

    def __init__(self, size):
        super().__init__()
        self.size = size

    def forward(self, wav):
        return wav.unfold(1, self.size, self.size)


class Twice(torch.nn.Module):
    def forward(self, features, lengths):
        return features * 2


def embedded(modules, wavs):
    """What the graph of a model with these modules gives."""
    recognition = SimpleNamespace(mods=modules)
    extractor = SimpleNamespace(recognition=recognition, sample_rate=400, source="model")
    proto = exporting._graph(extractor)
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    return session.run(["embedding"], {"wav": wavs.numpy()})[0]


def test_a_network_with_an_embedding_layer():
    modules = {
        "compute_features": Frames(4),
        "mean_var_norm": Twice(),
        "embedding_model": Placed(),
    }
    wavs = torch.randn(3, 560)
    found = embedded(modules, wavs)
    expected = modules["embedding_model"](modules["compute_features"](wavs) * 2)
    assert np.allclose(found, expected.detach().flatten(1), atol=1e-6)


def test_a_resnet():
    """Other rows and another length than it was traced with; with few channels, and
    without the features, which are in every model's file."""
    torch.manual_seed(0)
    network = ResNet(8, channels=[2, 2, 4, 4], block_sizes=[1, 1, 1, 1], lin_neurons=16)
    for buffer in network.buffers():  # statistics of batches
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    modules = {
        "compute_features": Frames(8),
        "mean_var_norm": Twice(),
        "embedding_model": network.eval(),
    }
    wavs = torch.randn(3, 560)
    expected = network(modules["compute_features"](wavs) * 2).detach()
    found = embedded(modules, wavs)
    assert np.abs(found - expected.numpy()).max() < 1e-3 * expected.abs().max()
