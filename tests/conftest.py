"""What the tests share: the recipe's scripts, a tiny corpus, tiny experiments."""

import functools
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from speechbrain.utils.importutils import LazyModule

import runs
from hamsb.utils import progress as bars
from hamsb.verification.calibration import Calibration
from hamsb.verification.decision import write_decision
from hamsb.verification.trials import Trials, read_trials
from stand_ins import Terminal

REPOSITORY = Path(__file__).resolve().parent.parent
for folder in ("recipes/VoxCeleb", "recipes/VoxCeleb/studies"):
    sys.path.insert(0, str(REPOSITORY / folder))
# What a test starts runs this checkout too, also beside an installed copy.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])
)

# hypothesis asks every module for its file, and SpeechBrain's lazy ones would import what
# is not installed.
LazyModule.__file__ = None

# Two processes on two cores, each with threads of its own, wait for each other.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def repository():
    """The repository's root."""
    return REPOSITORY


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory):
    """The synthetic corpus with 8 training and 4 test speakers."""
    pytest.importorskip("espeakng_loader", reason="the extra [mini] is not installed")
    from mini.mini_corpus import make_mini_corpus

    return make_mini_corpus(
        tmp_path_factory.mktemp("corpus") / "tiny",
        train_speakers=8,
        test_speakers=4,
        sessions=2,
        utterances=2,
        duration=1.2,
        trials=40,
        workers=1,
    )


@pytest.fixture(scope="session")
def tiny_distortions(tmp_path_factory):
    """Folders of noises, as MUSAN, and of room responses."""
    folder, random = tmp_path_factory.mktemp("distortions"), np.random.default_rng(0)
    for kind in ("noise", "speech", "music"):
        path = folder / "musan" / kind / "a.wav"
        path.parent.mkdir(parents=True)
        soundfile.write(path, 0.1 * random.standard_normal(20000), 16000)
    (folder / "rirs").mkdir()
    decay = np.exp(-np.arange(800) / 100)
    soundfile.write(folder / "rirs" / "a.wav", 0.5 * decay, 16000)
    return {
        "data_folder_noise": folder / "musan",
        "data_folder_rir": folder / "rirs",
    }


@pytest.fixture(scope="session")
def tiny_wavlm(tmp_path_factory):
    """A folder with a WavLM of two layers of 16 values, its weights random."""
    transformers = pytest.importorskip(
        "transformers", reason="the extra [wavlm] is not installed"
    )
    folder = tmp_path_factory.mktemp("wavlm")
    torch.manual_seed(0)
    config = transformers.WavLMConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        conv_dim=(8,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
    )
    transformers.WavLMModel(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_options(tiny_corpus, tmp_path, monkeypatch):
    """A function: command-line options that make any training yaml a matter of
    seconds, changed or extended by keywords."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # SpeechBrain's logger

    def options(**changes):
        values = {
            "output_folder": tmp_path / "run",
            "data_folder": tiny_corpus / "train",
            "test_data_folder": tiny_corpus / "test",
            "verification_file": tiny_corpus / "veri_test.txt",
            "embedding_model": "{channels: [8, 8, 8, 8, 24], attention_channels: 8}",
            "lin_neurons": 16,
            "number_of_epochs": 1,
            "batch_size": 4,
            "num_workers": 0,
            "dev_speakers": 2,
            "sentence_len": 0.5,
            "min_duration": 0.5,
            **changes,
        }
        return [*(f"--{key}={value}" for key, value in values.items()), "--noprogressbar"]

    return options


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A tiny exported model, untrained, with a threshold and a calibration."""
    folder = tmp_path_factory.mktemp("model") / "export"
    runs.export_untrained(folder, runs.EXPERIMENT)
    thresholds = {"eer": 0.5, "min_dcf_0.01": 0.999}
    calibration = Calibration(scale=10.0, offset=-4.0).to_dict()
    write_decision(folder, {"thresholds": thresholds, "calibration": calibration})
    return folder


@pytest.fixture(scope="session")
def speech(tmp_path_factory):
    """Four recordings of different lengths, two of one name."""
    folder = tmp_path_factory.mktemp("speech")
    names = ("a/1.wav", "a/2.wav", "b/1.wav", "b/3.flac")
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(exist_ok=True)
        runs.write_wav(folder / "noise.wav", 8000 + 3001 * seed, seed=5 * seed)
        audio, rate = soundfile.read(folder / "noise.wav")
        soundfile.write(folder / name, audio, rate)
    (folder / "noise.wav").unlink()
    return folder


@pytest.fixture(scope="session")
def bad_recordings(tmp_path_factory):
    """Files that no model can tell apart, and what is said of each."""
    folder = tmp_path_factory.mktemp("bad")
    noise = 0.1 * np.random.default_rng(0).standard_normal(16000)
    broken = noise.copy()
    broken[5] = np.nan
    made = {
        "silent.wav": (0 * noise, "silent, no sample above -80 dBFS in 1.000 s"),
        "broken.wav": (broken, "1 of the 16000 samples (1.000 s) are not finite"),
        "short.wav": (noise[:320], "lasts 0.0200 s, and the model needs at least 0.0400 s"),
        "empty.wav": (noise[:0], "no samples"),
    }
    for name, (audio, _) in made.items():
        soundfile.write(folder / name, audio, 16000, subtype="FLOAT")
    (folder / "text.wav").write_text("no audio")
    said = {name: text for name, (_, text) in made.items()}
    said["text.wav"] = "cannot be read as audio"
    return {folder / name: text for name, text in said.items()}


@pytest.fixture
def terminal(monkeypatch):
    """The terminal that progress bars are shown on, also after a run without them in
    the same process."""
    terminal = Terminal()
    monkeypatch.delenv(bars.OFF, raising=False)
    monkeypatch.setattr(bars, "tqdm", functools.partial(bars.tqdm, file=terminal))
    return terminal


@pytest.fixture(scope="session")
def bad_trials():
    """Scores and labels that are no trials, and what is said about them."""
    nan, inf = float("nan"), float("inf")
    return [
        (
            [0.1, nan, 0.3],
            [0, 1, 1],
            r"scores must be finite, got nan at index 1 \(1 of 3",
        ),
        ([0.1, 0.2, -inf], [0, 1, 1], "scores must be finite, got -inf at index 2"),
        (
            torch.tensor([nan, 0.2, nan]),
            [0, 1, 1],
            r"got nan at index 0 \(2 of 3",
        ),
        ([0.1, 0.2], [0, 1, 1], "2 scores, 3 labels"),
        ([[0.1], [0.2]], [0, 1], r"scores must be 1-D.*\(2, 1\)"),
        ([0.1, 0.2], [[0, 1]], r"labels must be 1-D.*\(1, 2\)"),
        (0.1, [0], "scores must be 1-D"),
        ([[0.1], [0.2, 0.3]], [0, 1], "scores must be a 1-D list"),
        (
            [0.1, 0.2],
            [1, 1],
            "both classes are needed, but all 2 labels are 1",
        ),
        (
            [0.1, 0.2],
            [False, False],
            "both classes are needed, but all 2 labels are 0",
        ),
        ([], [], "no trials"),
        (
            [0.1, 0.2, 0.3],
            [0, 1, 2],
            r"labels must be 0 or 1, got 2 at index 2 \(1 of 3",
        ),
        ([0.1, 0.2], [-1, 1], "labels must be 0 or 1, got -1 at index 0"),
        ([0.1, 0.2], [0.0, 1.0], "labels must be bool or int.*float64"),
        ([0.1, 0.2], ["0", "1"], "labels must be bool or int"),
        (["0.1", "0.2"], [0, 1], "scores must be real numbers"),
        (
            [0.1j, 0.2],
            [0, 1],
            "scores must be real numbers, got dtype complex128",
        ),
    ]


@pytest.fixture
def six_trials():
    """Trials within and across sessions, of three speakers."""
    labels, enrol, test = zip(*runs.SIX_TRIALS)
    return Trials(np.array(labels), enrol, test, Path("lists/small.txt"))


@pytest.fixture
def four_trials(tmp_path):
    """A trial list, read from its file."""
    (tmp_path / "vox1_O.txt").write_text(runs.FOUR_TRIALS)
    return read_trials(tmp_path / "vox1_O.txt")


@pytest.fixture
def paths(tmp_path):
    """Utterances of different lengths, three of the same file name."""
    paths = {utterance: tmp_path / "wav" / utterance for utterance in runs.UTTERANCES}
    for seed, path in enumerate(paths.values()):
        runs.write_wav(path, 8000 + 3001 * seed, seed=seed)
    return paths
