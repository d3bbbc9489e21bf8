"""SpeakerRecognition: the model's threshold, and files told apart by their paths."""

import pytest
import speechbrain.inference.speaker as stock
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.dataio import audio_io
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.inference.classifiers import EncoderClassifier

from hamsb.inference import SpeakerRecognition
from hamsb.inference.speaker import load_encoder, trained_ball
from hamsb.training.export import export_model
from hamsb.verification.calibration import Calibration
from hamsb.verification.decision import read_decision, write_decision
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
    assert load(copy, decision=given).verify_files(*files[:2])[1].item()


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


def test_a_source_that_is_no_local_folder_has_no_decision(monkeypatch, tmp_path):
    """A name on a hub is left to SpeechBrain."""
    seen = {}
    monkeypatch.setattr(
        stock.SpeakerRecognition,
        "from_hparams",
        classmethod(lambda cls, source, **k: seen.update(k, source=source)),
    )
    SpeakerRecognition.from_hparams("someone/some-model", savedir=tmp_path)
    file = "hyperparams.yaml"
    assert seen == {"source": "someone/some-model", "savedir": tmp_path} | {
        "hparams_file": file
    }


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
