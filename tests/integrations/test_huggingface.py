"""Features of a tiny WavLM with random weights, as its library saves it in a folder."""

import shutil

import pytest
import torch
import yaml
from hyperpyyaml import load_hyperpyyaml
from speechbrain.inference.speaker import EncoderClassifier

from hamsb.training.export import export_model
from hamsb.training.kept import fingerprint
from hamsb.utils.packages import missing

if why := missing("wavlm"):
    pytest.skip(why, allow_module_level=True)

from transformers import AutoFeatureExtractor, WavLMModel  # noqa: E402

from hamsb import SSLFeatures  # noqa: E402

EXPERIMENT = """
sample_rate: 16000
compute_features: !new:hamsb.SSLFeatures
  source: {source}
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
  norm_type: sentence
embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
  input_size: 16
  channels: [8, 8, 8, 8, 24]
  attention_channels: 8
  lin_neurons: 16
"""


def noise(samples=8000):
    generator = torch.Generator().manual_seed(0)
    return 0.1 * torch.randn(2, samples, generator=generator) + 0.05


def test_the_layers_are_weighed_and_waveforms_scaled(tiny_wavlm):
    features, wavs = SSLFeatures(tiny_wavlm), noise()
    features.weights.data = torch.tensor([0.0, 1.0, -1.0])
    plain = WavLMModel.from_pretrained(tiny_wavlm).eval()
    scaled = (wavs - wavs.mean(1, keepdim=True)) / wavs.std(1, keepdim=True)
    for normalize, inputs in ((None, scaled), (True, scaled), (False, wavs)):
        features.normalize = SSLFeatures(tiny_wavlm, normalize=normalize).normalize
        layers = plain(inputs, output_hidden_states=True).hidden_states
        expected = sum(w * x for w, x in zip(features.weights.softmax(0), layers))
        assert expected.shape == (2, 24, 16)
        torch.testing.assert_close(features(wavs), expected, atol=1e-4, rtol=1e-4)


def test_frozen_only_the_weights_of_the_sum_learn(tiny_wavlm):
    features = SSLFeatures(tiny_wavlm).train()
    assert torch.equal(features(noise()), features(noise()))  # no dropout
    features(noise()).square().sum().backward()
    learned = [name for name, p in features.named_parameters() if p.requires_grad]
    assert learned == ["weights"] and features.weights.grad.abs().sum() > 0


def test_fine_tuned_every_parameter_that_learns_has_a_gradient(tiny_wavlm):
    """Several processes would wait for one without, for ever."""
    features = SSLFeatures(tiny_wavlm, freeze=False).train()
    torch.manual_seed(0)
    assert not torch.equal(features(noise()), features(noise()))  # dropout
    for _ in range(20):  # layers may be skipped at random, and frames masked
        features.zero_grad()
        features(noise()).square().sum().backward()
        learned = [p for p in features.parameters() if p.requires_grad]
        assert len(learned) > 50 and all(p.grad is not None for p in learned)
    features.eval()
    assert torch.equal(features(noise()), features(noise()))


def test_an_exported_model_needs_no_source(tiny_wavlm, tmp_path):
    source = tmp_path / "wavlm"
    shutil.copytree(tiny_wavlm, source)
    text = EXPERIMENT.format(source=source)
    hparams = load_hyperpyyaml(text)
    modules = {name: hparams[name] for name in ("compute_features", "embedding_model")}
    modules["compute_features"].weights.data[1] = 2.0
    export = export_model(tmp_path / "export", text, modules, None, "# card\n")
    shutil.rmtree(source)
    for name in ("hyperparams.yaml", "embedding.yaml"):
        assert str(source) not in (export / name).read_text()
    assert "Needs hamsb[wavlm] beside SpeechBrain" in (export / "README.md").read_text()
    encoder = EncoderClassifier.from_hparams(source=str(export))
    loaded = encoder.mods["compute_features"]
    assert fingerprint(loaded) == fingerprint(modules["compute_features"])
    assert loaded.normalize and loaded.freeze
    features = modules["compute_features"].eval()(noise())
    features = hparams["mean_var_norm"](features, torch.ones(2))
    expected = modules["embedding_model"].eval()(features)
    torch.testing.assert_close(encoder.encode_batch(noise()), expected)


def offline(*arguments, **options):
    raise OSError("no network")


def test_what_is_no_front_end_is_refused(tiny_wavlm, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="source or architecture must be given, and not"):
        SSLFeatures()
    with pytest.raises(ValueError, match="source or architecture must be given, and not"):
        SSLFeatures(tiny_wavlm, architecture={})
    with pytest.raises(ValueError, match="sample_rate=8000: .* was trained at 16000 Hz"):
        SSLFeatures(tiny_wavlm, sample_rate=8000)
    bare = tmp_path / "bare"
    shutil.copytree(tiny_wavlm, bare)
    (bare / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match="give normalize: True or False"):
        SSLFeatures(bare)
    (bare / "config.json").rename(bare / "other.json")
    with pytest.raises(ValueError, match="bare: no model is there: "):
        SSLFeatures(bare, normalize=False)
    (bare / "other.json").rename(bare / "config.json")
    monkeypatch.setattr(AutoFeatureExtractor, "from_pretrained", offline)
    with pytest.raises(ValueError, match="=a/b: no such folder, and as the name .* failed"):
        SSLFeatures("a/b")
    assert SSLFeatures(bare, normalize=False)(noise()).shape == (2, 24, 16)
    monkeypatch.undo()
    arguments = yaml.safe_load(yaml.safe_dump(SSLFeatures(tiny_wavlm).exported_arguments))
    assert SSLFeatures(**arguments)(noise(400)).shape == (2, 1, 16)
