"""EmbeddingExtractor: the model's embeddings of files, batches and arrays."""

import shutil

import numpy as np
import pytest
import soundfile
import torch
from huggingface_hub.errors import EntryNotFoundError
from speechbrain.inference.classifiers import EncoderClassifier
from speechbrain.utils import fetching

from hamsb import EmbeddingExtractor, Speakers
from hamsb.inference import SpeakerRecognition, cli
from hamsb.inference.speaker import load_encoder
from hamsb.utils.lean import skip_empty_padding
from hamsb.verification.decision import fingerprint
from runs import same


@pytest.fixture(scope="module")
def extractor(model):
    return EmbeddingExtractor(model)


def test_files_batches_and_arrays_have_the_models_embeddings(extractor, model, speech):
    files = sorted(speech.rglob("*.*"))
    found = extractor.embed_files(files, progress=False)
    assert found.utterances == tuple(map(str, files))
    named = extractor.embed_files({"x": files[1]}, progress=False)
    assert named.utterances == ("x",) and torch.equal(named.matrix[0], found.matrix[1])
    plain = EncoderClassifier.from_hparams(str(model), run_opts={"device": "cpu"})
    for path, row in zip(files, found.matrix):
        wav = plain.load_audio(str(path))
        assert torch.equal(row, plain.encode_batch(wav[None]).flatten())
        assert torch.equal(extractor.embed_batch(wav[None])[0], row)
        for each in (wav, wav.numpy(), wav.double().numpy(), wav[:, None].expand(-1, 2)):
            assert torch.equal(extractor.embed_array(each, 16000), row)
    assert extractor.dimension == 16 and extractor.sample_rate == 16000
    assert extractor.least_samples == 640
    assert extractor.fingerprint == fingerprint(model)
    loaded = SpeakerRecognition.from_hparams(model, run_opts={"device": "cpu"})
    again = EmbeddingExtractor(loaded)
    assert (again.folder, again.fingerprint) == (model, extractor.fingerprint)
    assert skip_empty_padding(plain.mods) > 0  # of what is below nothing is left to skip
    assert skip_empty_padding(loaded.mods) == 0
    assert skip_empty_padding(load_encoder(model).mods) == 0


def test_a_relative_path_means_the_folder_that_it_meant(model, tmp_path, monkeypatch):
    monkeypatch.chdir(model.parent)
    found = EmbeddingExtractor(model.name)
    again = EmbeddingExtractor(SpeakerRecognition.from_hparams(model.name))
    store = Speakers("speakers.json", found)
    monkeypatch.chdir(tmp_path)
    assert found.fingerprint == again.fingerprint == fingerprint(model)
    assert store.path.parent == model.parent


def test_an_array_at_another_rate_is_a_files(extractor, speech, tmp_path):
    audio, _ = soundfile.read(speech / "a" / "1.wav", dtype="float32")
    both = np.stack([audio, -0.5 * audio], axis=1)
    soundfile.write(tmp_path / "a.wav", both, 44100, subtype="FLOAT")
    row = extractor.embed_files([tmp_path / "a.wav"], progress=False).matrix[0]
    assert torch.equal(extractor.embed_array(both, 44100), row)


def test_arrays_that_are_no_speech_are_refused(extractor):
    noise = 0.1 * np.random.default_rng(0).standard_normal(16000)
    whole = (noise * 32768).astype(np.int16)
    for wav, said in [
        (whole, "who: torch.int16, but floats are needed .* 32768 for 16 bit"),
        (noise[None, None], r"who: must be \[T\] or \[T, C\], got \(1, 1, 16000\)"),
        (0 * noise, "who: silent"),
        (noise * np.nan, "who: 16000 of the 16000 samples .* are not finite"),
        (noise[:320], "who: lasts 0.0200 s, and the model needs at least 0.0400 s"),
        (noise[:0], "who: no samples"),
    ]:
        with pytest.raises(ValueError, match=f"^{said}"):
            extractor.embed_array(wav, 16000, "who")
    with pytest.raises(ValueError, match="sample_rate=0"):
        extractor.embed_array(noise, 0)
    wavs = torch.stack([torch.from_numpy(noise).float(), torch.zeros(16000)])
    with pytest.raises(ValueError, match=r"^wavs\[1\]: silent"):
        extractor.embed_batch(wavs)
    with pytest.raises(ValueError, match="^1.5 s: silent"):
        extractor.embed_batch(wavs, ["0 s", "1.5 s"])
    with pytest.raises(ValueError, match=r"must be \[B, T\]"):
        extractor.embed_batch(wavs[0])


def test_a_device_that_is_none(model):
    with pytest.raises(ValueError, match="^device=cud: no device"):
        EmbeddingExtractor(model, device="cud")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="^device=cuda:0: not on this machine"):
            EmbeddingExtractor(model, device="cuda:0")


# ------------------------------------------------------------------ stock models, hubs


@pytest.fixture
def stock_folder(model, tmp_path):
    """As speechbrain/spkrec-ecapa-voxceleb: a yaml that names its place on the hub, no
    audio_normalizer, no decision; weights and labels by SpeechBrain's names."""
    folder = tmp_path / "stock"
    folder.mkdir()
    text = (model / "embedding.yaml").read_text()
    text = text[: text.index("audio_normalizer")]
    (folder / "hyperparams.yaml").write_text(
        "pretrained_path: owner/spkrec\n" + text + "modules:\n"
        "  compute_features: !ref <compute_features>\n"
        "  mean_var_norm: !ref <mean_var_norm>\n"
        "  embedding_model: !ref <embedding_model>\n"
        "pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer\n"
        "  loadables:\n"
        "    embedding_model: !ref <embedding_model>\n"
        "  paths:\n"
        "    embedding_model: !ref <pretrained_path>/embedding_model.ckpt\n"
    )
    shutil.copy(model / "embedding_model.ckpt", folder)
    return folder


def no_hub(monkeypatch):
    def refuse(**options):
        raise OSError("no network")

    monkeypatch.setattr(fetching.huggingface_hub, "hf_hub_download", refuse)


def test_a_copy_of_a_stock_model_has_its_own_weights(
    extractor, stock_folder, speech, monkeypatch
):
    no_hub(monkeypatch)
    stock = EmbeddingExtractor(stock_folder)
    weights = [each.recognition.mods["embedding_model"] for each in (stock, extractor)]
    assert same(*(each.state_dict() for each in weights))
    path = speech / "a" / "1.wav"
    expected = extractor.embed_files([path], progress=False).matrix
    assert torch.equal(stock.embed_files([path], progress=False).matrix, expected)
    assert stock.sample_rate == 16000 and stock.recognition.decision is None
    encoder = load_encoder(stock_folder, {"device": "cpu"})
    assert same(encoder.mods["embedding_model"].state_dict(), weights[0].state_dict())


def test_a_name_on_a_hub(extractor, stock_folder, speech, tmp_path, monkeypatch, capsys):
    """The hub is a folder here; SpeechBrain's fetching is as it is."""
    fetched = []

    def download(repo_id, filename, **options):
        assert repo_id == "owner/spkrec"
        if not (stock_folder / filename).is_file():
            raise EntryNotFoundError("404: no such file")
        fetched.append(filename)
        path = tmp_path / "cache" / "models--owner--spkrec" / "snapshots" / "1" / filename
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(stock_folder / filename, path)
        return str(path)

    monkeypatch.setattr(fetching.huggingface_hub, "hf_hub_download", download)
    monkeypatch.chdir(tmp_path)
    hub = EmbeddingExtractor("owner/spkrec")
    assert "embedding_model.ckpt" in fetched
    path = speech / "a" / "1.wav"
    expected = extractor.embed_files([path], progress=False).matrix
    assert torch.equal(hub.embed_files([path], progress=False).matrix, expected)
    assert hub.source == "owner/spkrec" and hub.fingerprint == fingerprint(stock_folder)
    kept = EmbeddingExtractor("owner/spkrec", savedir=tmp_path / "kept")
    assert kept.fingerprint == hub.fingerprint
    with pytest.raises(ValueError, match="holds the files of owner/spkrec, and the source"):
        EmbeddingExtractor("owner/other", savedir=tmp_path / "kept")

    fetched.clear()  # what it is can be told without its weights
    (stock_folder / "decision.json").write_text('{"thresholds": {"eer": 0.25}}')
    assert cli.main(["info", "owner/spkrec"]) == 0
    out, messages = capsys.readouterr()
    assert "thresholds:       eer 0.2500" in out and "weights were not looked" in messages
    assert not any(name.endswith(".ckpt") for name in fetched)
    no_hub(monkeypatch)
    assert cli.main(["info", "owner/spkrec"]) == cli.EXPECTED
    assert (
        "as the name of a model on Hugging Face's hub it failed" in capsys.readouterr()[1]
    )
