"""SpeakerRecognition: the model's threshold, and files told apart by their paths."""

import math
import shutil
import subprocess
import sys
import urllib

import huggingface_hub
import pytest
import soundfile
import speechbrain.inference.speaker as stock
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from hyperpyyaml import load_hyperpyyaml
from speechbrain.dataio import audio_io
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.inference.classifiers import EncoderClassifier
from speechbrain.utils.fetching import FetchConfig

from hamsb.inference import SpeakerRecognition, speaker
from hamsb.inference.speaker import load_encoder, trained_ball
from hamsb.training.export import export_model
from hamsb.verification.calibration import Calibration
from hamsb.verification.decision import fingerprint, read_decision, write_decision
from runs import EXPERIMENT

THRESHOLDS = {"eer": 0.5, "min_dcf_0.01": 0.75}
CALIBRATION = Calibration(scale=10.0, offset=-4.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An exported model with a decision."""
    torch.manual_seed(0)
    hparams = load_hyperpyyaml(EXPERIMENT)
    labels = CategoricalEncoder()
    labels.update_from_iterable(["a", "b"], sequence_input=False)
    return export_model(
        tmp_path_factory.mktemp("model") / "export",
        EXPERIMENT,
        {name: hparams[name] for name in ("embedding_model", "classifier")},
        labels,
        "# card\n",
        {"thresholds": THRESHOLDS, "calibration": CALIBRATION.to_dict()},
    )


@pytest.fixture
def files(tmp_path):
    """Two recordings of one name, as VoxCeleb has them, and one of another length."""
    paths = [
        tmp_path / "wav" / name for name in ("id1/00001.wav", "id2/00001.wav", "id2/2.wav")
    ]
    for seed, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        generator = torch.Generator().manual_seed(seed)
        wav = 0.3 * torch.sin(
            torch.arange(9000 + 4000 * (seed // 2)) * 0.08 * (2 * seed + 1)
        )
        audio_io.save(
            str(path), wav + 0.01 * torch.randn(1, len(wav), generator=generator), 16000
        )
    return paths


def load(folder, cls=SpeakerRecognition, **options):
    return cls.from_hparams(source=str(folder), run_opts={"device": "cpu"}, **options)


def test_shapes_are_those_of_the_documents_also_where_a_network_has_others(
    folder, files, monkeypatch
):
    """SpeechBrain's ResNet embeds as [B, D]."""
    ours, stock_encode = load(folder), EncoderClassifier.encode_batch
    expected = ours.verify_files(*files[:2])
    monkeypatch.setattr(
        EncoderClassifier, "encode_batch", lambda *a, **k: stock_encode(*a, **k).squeeze(1)
    )
    flat, wavs = load(folder), torch.randn(3, 9000, generator=torch.Generator())
    assert flat.encode_batch(wavs).shape == (3, 1, 16)
    assert [each.shape for each in flat.verify_batch(wavs, wavs)] == [(3, 1), (3, 1)]
    found = flat.verify_files(*files[:2])
    assert all(torch.equal(*pair) for pair in zip(found, expected))


def test_scores_are_speechbrains_and_decisions_are_the_models(folder, files, tmp_path):
    copy = tmp_path / "model"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    stock_model = load(folder, stock.SpeakerRecognition)
    for one, other in ((0, 1), (0, 2), (1, 1)):
        pair = str(files[one]), files[other]
        expected, _ = stock_model.verify_files(*map(str, pair))
        for threshold in (expected.item() - 0.01, expected.item() + 0.01):
            write_decision(copy, {"thresholds": {"eer": threshold}})
            score, same = load(copy).verify_files(*pair)
            assert torch.equal(score, expected) and score.shape == (1,)
            assert same.shape == (1,) and same.dtype == torch.bool
            assert same.item() == (threshold < expected.item())


def test_at_the_threshold_a_pair_is_accepted(folder, files):
    """As hamsb.verification.metrics counts it."""
    model = load(folder)
    score, _ = model.verify_files(*files[:2])
    assert model.verify_files(*files[:2], threshold=score.item())[1].item()


def test_thresholds_by_name_and_by_number(folder, files):
    model = load(folder)
    wavs = torch.stack([model.load_audio(path) for path in files[:2]])
    score, _ = model.verify_batch(wavs[:1].expand(2, -1), wavs)  # itself, and another
    assert score.shape == (2, 1) and score[0] == pytest.approx(1)
    for given, threshold in (
        ({}, 0.5),
        ({"threshold": None}, 0.5),
        ({"threshold": "eer"}, 0.5),
        ({"threshold": "min_dcf_0.01"}, 0.75),
        ({"threshold": 0.0}, 0.0),
        ({"threshold": 2.0}, 2.0),
    ):
        same = model.verify_batch(wavs[:1].expand(2, -1), wavs, **given)[1]
        assert torch.equal(same, score >= threshold)
        pair = model.verify_files(files[0], files[1], **given)[1]
        assert pair.item() == (score[1].item() >= threshold)
    assert model.threshold() == 0.5
    with pytest.raises(
        ValueError, match=r"threshold='dcf': the model has \['eer', 'min_dcf_0.01'\]"
    ):
        model.verify_files(*files[:2], threshold="dcf")
    for threshold in (math.nan, math.inf):
        with pytest.raises(ValueError, match="threshold=.*: must be a finite number"):
            model.verify_batch(wavs[:1].expand(2, -1), wavs, threshold=threshold)
    model.decision = {"thresholds": {"eer": 2.0}}
    assert not model.verify_files(files[0], files[0])[1].item()
    assert model.verify_files(files[0], files[0], threshold=0.0)[1].item()


def test_without_a_stored_threshold_one_must_be_given(folder, files, tmp_path):
    copy = tmp_path / "model"
    copy.mkdir()
    for path in folder.iterdir():
        if path.name != "decision.json":
            (copy / path.name).write_bytes(path.read_bytes())
    model = load(copy)
    with pytest.raises(ValueError, match="no decision.json beside the model.*threshold="):
        model.verify_files(*files[:2])
    with pytest.raises(ValueError, match="without a calibration"):
        model.log_likelihood_ratio(torch.tensor([0.5]))
    assert model.verify_files(*files[:2], threshold=-1.0)[1].item()
    given = {"thresholds": {"eer": -1.0}}
    for own in (given, {**given, "model": fingerprint(copy)}):
        assert load(copy, decision=own).verify_files(*files[:2])[1].item()
    for wrong, said in (
        ({**given, "model": "0a" * 32}, "decision: of another model .0a0a0a0a0a0a"),
        ({}, "no decision .no thresholds"),
        ({"thresholds": {"eer": "high"}}, "no decision .threshold 'eer'"),
    ):
        with pytest.raises(ValueError, match=said):
            load(copy, decision=wrong)


def test_log_likelihood_ratios(folder):
    ratios = load(folder).log_likelihood_ratio(torch.tensor([[0.5], [0.25]]))
    assert ratios.tolist() == [[1.0], [-1.5]]


def test_files_of_one_name_in_two_folders(folder, files, tmp_path):
    """SpeechBrain issue 1025: with a savedir, the second file is the first again."""
    pair = str(files[0]), str(files[1])
    known, _ = load(folder, stock.SpeakerRecognition).verify_files(*pair)
    assert known.item() < 0.99
    wrong, _ = load(folder, stock.SpeakerRecognition).verify_files(
        *pair, savedir=str(tmp_path / "stock")
    )
    assert wrong.item() == pytest.approx(1)  # it still is so; else this class is simpler
    before = sorted(tmp_path.rglob("*"))
    for options in ({}, {"savedir": str(tmp_path / "ours")}):
        score, _ = load(folder).verify_files(*pair, **options)
        assert torch.equal(score, known)
    assert sorted(tmp_path.rglob("*")) == before  # nothing is linked or copied


def test_a_link_left_in_the_working_folder_is_not_taken_for_the_file(
    folder, files, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "00001.wav").symlink_to(files[0])
    model = load(folder)
    assert torch.equal(model.load_audio(files[1]), model.load_audio(str(files[1])))
    assert not torch.equal(model.load_audio(files[1]), model.load_audio("00001.wav"))


def test_files_that_are_not_there(folder, files, tmp_path):
    model = load(folder)
    with pytest.raises(FileNotFoundError, match="none.wav: no such audio file"):
        model.verify_files(files[0], tmp_path / "none.wav")
    (tmp_path / "text.wav").write_text("no audio")
    with pytest.raises(ValueError, match="text.wav: cannot be read as audio"):
        model.verify_files(tmp_path / "text.wav", files[0])


def test_it_classifies_and_loads_the_embedding_yaml_as_the_stock_class(folder, files):
    path = str(files[0])
    ours, theirs = load(folder), load(folder, stock.SpeakerRecognition)
    for mine, other in zip(ours.classify_file(path), theirs.classify_file(path)):
        assert mine == other if isinstance(mine, list) else torch.equal(mine, other)
    alone = load(folder, hparams_file="embedding.yaml")
    assert alone.decision == read_decision(folder)
    score, _ = alone.verify_files(*files[:2])
    assert torch.equal(score, ours.verify_files(*files[:2])[0])


@pytest.fixture
def hub(folder, tmp_path):
    """A function: Hugging Face's cache with the exported model as ``owner/name``, without
    some of its files, and no network. Returns what from_hparams takes."""

    def hub(without=()):
        place = tmp_path / "cache" / "models--owner--name"
        (place / "refs").mkdir(parents=True)
        (place / "refs" / "main").write_text("0123abc")
        ignored = shutil.ignore_patterns(*without)
        shutil.copytree(folder, place / "snapshots" / "0123abc", ignore=ignored)
        config = FetchConfig(allow_network=False, huggingface_cache_dir=place.parent)
        return {"source": "owner/name", "fetch_config": config}

    return hub


def test_a_model_of_a_hub_has_its_decision(hub, folder, files, tmp_path):
    ours = load(folder).verify_files(*files[:2])
    asked = hub()
    for options in (asked, {**asked, "savedir": tmp_path / "savedir"}):
        model = SpeakerRecognition.from_hparams(**options)
        assert model.decision == read_decision(folder)
        assert model.verify_files(*files[:2]) == ours
    assert {path.name for path in (tmp_path / "savedir").iterdir()} >= {"decision.json"}
    other = {"thresholds": {"eer": 2.0}}
    assert SpeakerRecognition.from_hparams(**asked, decision=other).decision == other


@pytest.mark.parametrize("reached", [True, False])
def test_a_model_of_a_hub_without_a_decision(
    hub, folder, files, caplog, monkeypatch, reached
):
    def download(filename, **_):
        if filename in ("decision.json", "training.json"):
            raise EntryNotFoundError("404: no such file")
        return folder / filename

    if reached:
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    model = SpeakerRecognition.from_hparams(**hub(["decision.json"]))
    assert model.decision is None
    with pytest.raises(ValueError, match="no decision.json beside the model"):
        model.verify_files(*files[:2])
    said = "decision.json of owner/name is not in the cache, and the hub was not reached"
    assert (said in caplog.text) is not reached


def test_a_hub_that_is_not_reached_is_waited_for_once(folder, monkeypatch):
    """Apart from what SpeechBrain's own loading asks for."""
    asked = []

    def download(filename, local_files_only, **_):
        if not local_files_only:
            asked.append(filename)
        if filename in ("decision.json", "training.json", "README.md"):
            raise LocalEntryNotFoundError("no network")
        return folder / filename

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    beside = ("decision.json", "training.json", "embedding.yaml", "README.md")
    for load in (SpeakerRecognition.from_hparams, speaker.fetch_texts):
        asked.clear()
        load("owner/name")
        assert [name for name in asked if name in beside] == ["decision.json"]
    asked.clear()
    assert speaker.source_folder("owner/name") == folder and asked == []


def test_a_model_of_the_web_has_its_decision(folder, files, tmp_path, monkeypatch):
    def urlretrieve(address, path):
        file = folder / address.removeprefix("https://example.org/model/")
        if not file.is_file():
            raise urllib.error.URLError("404")
        shutil.copy(file, path)

    monkeypatch.setattr(urllib.request, "urlretrieve", urlretrieve)
    web = {"source": "https://example.org/model", "savedir": tmp_path / "savedir"}
    model = SpeakerRecognition.from_hparams(**web)
    assert model.decision == read_decision(folder)
    assert torch.equal(
        model.verify_files(*files[:2])[0], load(folder).verify_files(*files[:2])[0]
    )


def test_the_ball_that_a_model_was_trained_with(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}: no exported model here"):
        load_encoder(tmp_path)
    encoder = load_encoder(folder, {"device": "cpu"})
    own, ball = encoder.mods["classifier"].ball, trained_ball(encoder)
    assert repr(ball) == repr(own) and ball is not own
    points = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ball.project(points), own.project(points))
    alone = load(folder, EncoderClassifier, hparams_file="embedding.yaml")
    assert trained_ball(alone) is None  # there is no classifier
    encoder.mods["classifier"] = torch.nn.Linear(16, 2)
    assert trained_ball(encoder) is None


# Audio that no model can tell apart


def bad_recordings(folder):
    """Name -> file and the error's beginning."""
    noise = 0.1 * torch.randn(1, 16000, generator=torch.Generator().manual_seed(0))
    broken = noise.clone()
    broken[0, 5] = torch.nan
    made = {
        "silent": (torch.zeros(1, 16000), "silent, no sample above -80 dBFS in 1.000 s"),
        "broken": (broken, r"1 of the 16000 samples \(1.000 s\) are not finite"),
        "short": (noise[:, :320], "lasts 0.0200 s, and the model needs at least 0.0400 s"),
        "tiny": (noise[:, :1], "lasts 0.0001 s, and the model needs at least 0.0400 s"),
    }
    for name, (audio, _) in made.items():
        soundfile.write(folder / f"{name}.wav", audio[0].numpy(), 16000, subtype="FLOAT")
    return {name: (audio[0], message) for name, (audio, message) in made.items()}


def test_no_decision_about_recordings_without_a_voice(folder, files, tmp_path):
    model = load(folder)
    for name, (audio, message) in bad_recordings(tmp_path).items():
        path = tmp_path / f"{name}.wav"
        for method, arguments in (
            (model.verify_files, (path, files[0])),
            (model.verify_files, (files[0], path)),
            (model.verify_files, (path, path)),
            (model.classify_file, (str(path),)),
            (model.load_audio, (path,)),
        ):
            with pytest.raises(ValueError, match=f"^{path}: {message}"):
                method(*arguments)
        other = 0.1 * torch.randn(2, len(audio))
        both = torch.stack([other[0], audio])
        row = int(name not in ("short", "tiny"))  # else every row is
        for method, arguments, named in (
            (model.encode_batch, (both,), f"wavs[{row}]"),
            (model.classify_batch, (both,), f"wavs[{row}]"),
            (model, (both,), f"wavs[{row}]"),
            (model.encode_batch, (audio,), "wavs[0]"),
            (model.verify_batch, (both, other), f"wavs1[{row}]"),
        ):
            with pytest.raises(ValueError) as told:
                method(*arguments)
            assert str(told.value).startswith(f"{named}: ")
    quiet = torch.randint(-1, 2, (1, 16000), dtype=torch.int16)  # 2 of 32768
    with pytest.raises(ValueError, match=r"^wavs\[0\]: torch.int16, but floats"):
        model.encode_batch(quiet)
    with pytest.raises(ValueError, match=r"^wavs2\[1\]: silent"):
        speech = torch.randn(2, 16000)
        model.verify_batch(speech, torch.stack([speech[0], torch.zeros(16000)]))


def test_rows_are_looked_at_up_to_their_lengths(folder):
    """What is behind is padding, and partial silence is no fault."""
    model, plain = load(folder), load(folder, EncoderClassifier)
    wavs = 0.1 * torch.randn(3, 16000, generator=torch.Generator().manual_seed(0))
    wavs[1, 8000:] = 0
    wavs[2, 4000:12000] = 0
    lengths = torch.tensor([1.0, 0.5, 1.0])
    expected = plain.encode_batch(wavs, lengths)
    assert torch.equal(model.encode_batch(wavs, lengths), expected)
    assert torch.equal(model.encode_batch(wavs), plain.encode_batch(wavs))
    for length, message in [
        (0.02, "lasts 0.0200 s, and the model needs at least 0.0400 s"),
        (0.0, "no samples"),
    ]:
        with pytest.raises(ValueError, match=rf"^wavs\[1\]: {message}"):
            model.encode_batch(wavs, torch.tensor([1.0, length, 1.0]))
    wavs[1, :8000], wavs[1, 8000:] = 0, 1
    with pytest.raises(ValueError, match=r"^wavs\[1\]: silent, .* in 0.500 s"):
        model.encode_batch(wavs, lengths)


# Which model


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory):
    """Another model of the same shape, with another threshold."""
    torch.manual_seed(1)
    hparams = load_hyperpyyaml(EXPERIMENT)
    text = EXPERIMENT[: EXPERIMENT.index("classifier")]
    modules = {"embedding_model": hparams["embedding_model"]}
    decision = {"thresholds": {"eer": -0.5}, "calibration": None}
    parent = tmp_path_factory.mktemp("other")
    return export_model(parent / "export", text, modules, None, "# card\n", decision)


def test_one_savedir_for_two_models_holds_neither(folder, other_folder, files, tmp_path):
    """SpeechBrain issue 1055: the first one's weights, with the second one's threshold."""
    wavs = load(folder).load_audio(files[0])[None]
    expected = [load(each).encode_batch(wavs) for each in (folder, other_folder)]
    assert not torch.equal(*expected)
    stock_dir, own_dir = str(tmp_path / "stock"), tmp_path / "own"
    found = [
        load(each, stock.SpeakerRecognition, savedir=stock_dir).encode_batch(wavs)
        for each in (folder, other_folder)
    ]
    assert torch.equal(*found)  # it still is so; else this class is simpler
    for savedir in (own_dir, stock_dir):  # a new one, and one with links of the first
        for each, embedding in zip(
            (folder, other_folder, folder), (*expected, expected[0])
        ):
            model = load(each, savedir=savedir)
            assert torch.equal(model.encode_batch(wavs), embedding)
            assert model.threshold() == read_decision(each)["thresholds"]["eer"]
    assert not own_dir.exists()


def test_a_savedir_with_another_models_files_is_refused(folder, tmp_path, monkeypatch):
    """From the hub, whose files are kept there."""
    loaded = []
    monkeypatch.setattr(
        stock.SpeakerRecognition,
        "from_hparams",
        classmethod(lambda cls, source, **k: loaded.append((source, k["savedir"]))),
    )
    monkeypatch.setattr(speaker, "fetch", lambda name, *_, **__: tmp_path / name)
    savedir = tmp_path / "a"
    for _ in range(2):
        SpeakerRecognition.from_hparams("owner/one", savedir=savedir)
    message = (
        f"^savedir={savedir}: holds the files of owner/one, and the source is owner/two"
    )
    with pytest.raises(ValueError, match=message):
        SpeakerRecognition.from_hparams("owner/two", savedir=savedir)
    assert loaded == [("owner/one", savedir)] * 2
    # What SpeechBrain's own class left is known by its links.
    for target, source in [
        ("/cache/models--owner--one/snapshots/1/embedding_model.ckpt", "owner/one"),
        ("/models/one/embedding_model.ckpt", "/models/one"),
    ]:
        savedir = tmp_path / source.replace("/", "_")
        savedir.mkdir()
        (savedir / "embedding_model.ckpt").symlink_to(target)
        message = f"holds the files of {source}, and the source is owner/two"
        with pytest.raises(ValueError, match=message):
            SpeakerRecognition.from_hparams("owner/two", savedir=savedir)
    SpeakerRecognition.from_hparams("owner/one", savedir=tmp_path / "owner_one")
    with pytest.raises(ValueError, match="holds the files of owner/one, and the source is"):
        load(folder, savedir=tmp_path / "owner_one", download_only=True)


def test_a_path_without_a_model_is_no_name_of_a_hub(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = []

    def failing(cls, source, **options):
        asked.append(source)
        raise OSError("We could not connect\nto the hub.")

    monkeypatch.setattr(stock.SpeakerRecognition, "from_hparams", classmethod(failing))
    run = tmp_path / "results" / "ham"
    run.mkdir(parents=True)
    (run / "hyperparams.yaml").write_text("seed: 1\n")  # a run has one too
    shutil.copytree(folder, run / "export")
    for source, message in [
        ("results/ham/exprot", "no such folder; did you mean results/ham/export?"),
        ("results/ahm/export", "no such folder; did you mean results/ham/export?"),
        ("results/ham", "is not of an export.*; did you mean results/ham/export?"),
        ("results", r"\(no hyperparams.yaml\); did you mean results/ham/export?"),
        (run, f"is not of an export.*; did you mean {run}/export?"),
        ("results/ham/export/README.md", "it is a file; give the folder that it is in"),
        ("/nowhere/at/all", "no such folder; give the export folder of a training run"),
        ("./nowhere", "no such folder; give the export folder"),
    ]:
        with pytest.raises(
            FileNotFoundError, match=f"^source={source}: no exported model here.*{message}"
        ):
            SpeakerRecognition.from_hparams(source)
    with pytest.raises(FileNotFoundError, match="no exported model here .no other.yaml"):
        SpeakerRecognition.from_hparams(run / "export", "other.yaml")
    monkeypatch.chdir(run)
    with pytest.raises(FileNotFoundError, match="^source=exprot.*did you mean export"):
        SpeakerRecognition.from_hparams("exprot")
    assert asked == []
    monkeypatch.chdir(tmp_path)
    message = "^source=resluts/ham: no such folder, and as the name of a model on Hugging "
    message += "Face's hub it failed: We could not connect to the hub. Did you mean results"
    with pytest.raises(FileNotFoundError, match=message):
        SpeakerRecognition.from_hparams("resluts/ham")
    assert asked == ["resluts/ham"]


BLOCKED = """
import json, sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hamsb":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refused())
from speechbrain.inference.speaker import SpeakerRecognition
model = SpeakerRecognition.from_hparams(
    source=sys.argv[1], hparams_file="embedding.yaml", run_opts={"device": "cpu"}
)
print(model.verify_files(*sys.argv[2:])[0].item())
try:
    SpeakerRecognition.from_hparams(source=sys.argv[1])
except ImportError as error:
    print("hyperparams.yaml:", error)
"""


def test_the_embedding_yaml_scores_without_hamsb(folder, files):
    arguments = [sys.executable, "-c", BLOCKED, folder, *files[:2]]
    done = subprocess.run(arguments, capture_output=True, text=True)
    score, whole = done.stdout.splitlines()
    assert "no such class as hamsb.HyperbolicClassifier" in whole, done.stderr
    ours, _ = load(folder).verify_files(*files[:2])
    assert float(score) == pytest.approx(ours.item(), abs=1e-6)
