"""Files and command lines that nobody wrote, and written ones with damage: what reads
them returns something valid, or raises one error that names the file."""

import io
import json
import re
import shutil
import signal
import string
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from speechbrain.dataio.preprocess import AudioNormalizer

import hamsb
import voxceleb_prepare
from hamsb.augment.corpora import prepare_audio_csv
from hamsb.dataio.annotations import read_columns, read_speakers, read_utterances
from hamsb.dataio.audio import crop_at, load_audio, random_crop, read_crop
from hamsb.dataio.clusters import Clusters, read_clusters
from hamsb.dataio.inspection import look
from hamsb.inference import SpeakerRecognition, Speakers
from hamsb.training.brain import EmbeddingBrain
from hamsb.training.identity import begun, check_data, identity
from hamsb.utils.command_line import parse_arguments
from hamsb.utils.keys import Key
from hamsb.verification.cache import EmbeddingCache
from hamsb.verification.calibration import Calibration
from hamsb.verification.decision import read_decision
from hamsb.verification.groups import read_metadata
from hamsb.verification.lookup import read_lists
from hamsb.verification.training_data import read_training
from hamsb.verification.trials import read_trials
from runs import FOUR_TRIALS, write_speakers
from voxceleb_prepare import prepare_voxceleb

LONGEST = 20  # seconds of one example, on a busy machine
OURS = [Path(hamsb.__file__).parent, Path(voxceleb_prepare.__file__).parent]


def fuzzed(examples, found=(), **strategies):
    """As hypothesis's given, with the same examples at every run and no database; and
    with some that once were ``found``, values of the only strategy."""

    def decorate(test):
        for value in found:
            test = example(**dict.fromkeys(strategies, value))(test)
        bounded = settings(
            max_examples=examples,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        return bounded(given(**strategies)(test))

    return decorate


@contextmanager
def in_time():
    """A block that may not hang."""

    def late(*_):
        raise AssertionError(f"not done after {LONGEST} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(LONGEST)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def answer(read, *names):
    """What ``read`` returns, or None where it raises an error as it should be: one that
    a script prints as one message, which names one of the ``names``."""
    with in_time():
        try:
            return read()
        except (ValueError, FileNotFoundError) as error:
            assert type(error) in (ValueError, FileNotFoundError), repr(error)
            assert any(str(name) in str(error) for name in names), str(error)
            frame = error.__traceback__
            while frame.tb_next is not None:
                frame = frame.tb_next
            file = Path(frame.tb_frame.f_code.co_filename)
            assert any(folder in file.parents for folder in OURS), f"raised in {file}"
            return None


# Bytes that readers of text and of numbers stumble over.
TOKENS = [
    *(b"\n", b"\r", b"\r\n", b",", b"\t", b" ", b'"', b"'", b"\0", b"\xff", b"\x1c"),
    *(b"\xef\xbb\xbf", "²".encode(), "٣".encode(), "\u2028".encode(), b"-1", b"1e999"),
    *(b"NaN", b"Infinity", b"null", b"{}", b"[]", b"0", b"9" * 5000, b"[" * 10000, b"$"),
]
CHANGES = st.lists(
    st.tuples(
        st.sampled_from([*["field"] * 3, "put", "cut", "flip", "drop", "twice", "end"]),
        st.floats(0, 1, exclude_max=True),
        st.one_of(st.sampled_from(TOKENS), st.binary(min_size=1, max_size=8)),
    ),
    min_size=1,
    max_size=4,
)


def changed(valid, changes):
    """The bytes of a good file with some damage."""
    data = bytearray(valid)
    for what, where, token in changes:
        place = int(where * len(data))
        if what == "field":  # a word or number becomes another
            fields = list(re.finditer(rb"[\w.-]+", data))
            if fields:
                start, end = fields[int(where * len(fields))].span()
                data[start:end] = token
        elif what == "cut":
            del data[place : place + len(token)]
        elif what == "put":
            data[place:place] = token
        elif what == "flip" and data:
            data[place] ^= 1 << token[0] % 8
        elif what == "drop":  # a line, or what is between two line feeds
            end = data.find(b"\n", place)
            del data[data.rfind(b"\n", 0, place) + 1 : end + 1 or len(data)]
        elif what == "twice":
            data[place:place] = data[place : place + 40]
        elif what == "end":
            del data[place:]
    return bytes(data)


def damaged(*valid):
    """Arbitrary bytes, or one of some good files with damage."""
    good = st.sampled_from([v.encode() if isinstance(v, str) else v for v in valid])
    change = st.builds(changed, good, CHANGES)
    return st.one_of(change, change, change, st.binary(max_size=100))


@pytest.fixture
def put(tmp_path):
    """A function: write the bytes of an example under a name."""

    def put(data, name="given"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return put


# --------------------------------------------------------------------- text


@fuzzed(150, data=damaged(FOUR_TRIALS, FOUR_TRIALS.replace(" ", "\t")))
def test_trial_lists(put, data):
    path = put(data)
    trials = answer(lambda: read_trials(path), path)
    if trials is not None:
        lines = data.decode().split("\n")
        assert 0 < len(trials) <= data.decode().count("\n") + data.count(b"\r") + 1
        assert len(trials.labels) == len(trials.enrol) == len(trials.test), lines
        assert set(trials.labels.tolist()) <= {0, 1}
        answer(lambda: trials.speakers, path)
    answer(lambda: read_lists(path, path.parent), path)


TRAIN = """\
ID,duration,wav,start,stop,spk_id
id1/x/1,1.5,/corpus/id1/x/1.wav,0,24000,id1
id1/x/2,1.0,/corpus/id1/x/2.wav,0,16000,id1
id2/x/1,1.0,"/corpus/id2/x/1,b.wav",160,16000,id2
"""


MANY = "9" * 5000  # digits, more than Python's int takes


@fuzzed(
    150,
    found=[TRAIN.replace("16000", MANY).encode()],
    data=damaged(TRAIN, TRAIN.replace(",", "\t")),
)
def test_csv_files(put, data):
    path = put(data)
    for row in answer(lambda: list(read_columns(path, ["wav", "ID"])), path) or ():
        assert len(row[1]) == 2
    speakers = answer(lambda: read_speakers(path), path)
    assert speakers is None or all(speakers)
    utterances = answer(lambda: read_utterances(path), path) or {}
    for speaker, own in utterances.items():
        assert speaker and all(0 <= u.start < u.stop < 2**63 and u.wav for u in own)


METADATA = "VoxCeleb1 ID\tVGGFace1 ID\tGender\nid1\ta\tm\nid2\tb\tf\n"


@fuzzed(150, data=damaged(METADATA, METADATA.replace("\t", ",")))
def test_metadata(put, data):
    path = put(data)
    metadata = answer(lambda: read_metadata(path, ["gender"]), path)
    assert metadata is None or metadata.by in ("speaker", "utterance")


CLUSTERS = """\
## nearest to 0: 1 2
## nearest to 1: 0 2
## nearest to 2: 1 0
speaker,cluster
id1,0
id2,1
id3,2
id4,2
"""


@fuzzed(
    150,
    found=[
        f"## nearest to {MANY}: 0\n{CLUSTERS}".encode(),
        CLUSTERS.replace("2", MANY).encode(),
        f"speaker,cluster\nid1,{MANY}\n".encode(),
    ],
    data=damaged(CLUSTERS, CLUSTERS.partition("2: 1 0\n")[2]),
)
def test_cluster_files(put, data):
    path = put(data)
    clusters = answer(lambda: read_clusters(path), path)
    if clusters is not None:
        assert isinstance(clusters, Clusters) and min(clusters.of_speaker.values()) >= 0
        known = set(clusters.of_speaker.values())
        for cluster, others in (clusters.nearest or {}).items():
            assert {cluster, *others} == known and len(others) == len(known) - 1


# --------------------------------------------------------------------- json

DECISION = {
    "scores": "cosine",
    "eer": 0.25,
    "thresholds": {"eer": 0.31, "min_dcf_0.01": 0.5},
    "calibration": Calibration(8.0, -2.0).to_dict(),
}
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


def replaced(valid):
    """Json like a good one, of which one value is another."""

    def change(keys, value):
        data = json.loads(json.dumps(valid))
        inner = data
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        return json.dumps(data).encode()

    return st.one_of(
        damaged(json.dumps(valid, indent=2)),
        st.builds(lambda value: json.dumps(value).encode(), JSON),
        st.builds(change, st.sampled_from(list(key_paths(valid))), JSON),
    )


def key_paths(data, above=()):
    """The keys that lead to each value."""
    pairs = data.items() if isinstance(data, dict) else enumerate(data)
    for key, value in pairs:
        yield (*above, key)
        if isinstance(value, (dict, list)):
            yield from key_paths(value, (*above, key))


@fuzzed(200, found=[b"[" * 100000, b'{"thresholds": []}'], data=replaced(DECISION))
def test_decisions(put, data):
    path = put(data, "decision.json")
    decision = answer(lambda: read_decision(path.parent), path)
    if decision is None:
        return
    model = SpeakerRecognition.__new__(SpeakerRecognition)
    torch.nn.Module.__init__(model)
    model.decision = decision
    for name in decision["thresholds"]:
        assert np.isfinite(model.threshold(name))
    if decision.get("calibration") is not None:
        assert model.log_likelihood_ratio(torch.tensor([0.5, 0.25])).isfinite().all()


RUN_YAML = """\
seed: 1
output_folder: run
number_of_epochs: 2
compute_cost: !new:hamsb.HAMSoftmax
  margin: 0.2
"""
DIGESTS = {"train.csv": "0" * 64}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What a run is, its yaml, and a folder with what it trained."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "x.yaml").write_text(RUN_YAML)
    (folder / "export").mkdir()
    _, run_opts, _ = parse_arguments([str(folder / "x.yaml")])
    return identity("train.py", folder / "x.yaml", "", run_opts, 1, True), folder


NOTED = {
    "script": "train.py",
    "settings": RUN_YAML,
    "options": {"processes": 1, "max_grad_norm": 5.0},
    "versions": {"torch": "2.11.0"},
    "prepared": DIGESTS,
    "data": DIGESTS,
}


@fuzzed(
    100,
    found=[
        b"[" * 100000,
        json.dumps({**NOTED, "settings": None}).encode(),
        json.dumps({**NOTED, "options": []}).encode(),
        json.dumps(
            {**NOTED, "settings": RUN_YAML.replace("epochs: 2", "epochs: x")}
        ).encode(),
    ],
    data=replaced(NOTED),
)
def test_what_runs_began_as(run, data):
    now, folder = run
    (folder / "run.json").write_bytes(data)
    began = answer(lambda: begun(now, folder / "x.yaml", "", folder), folder)
    if began is not None:
        answer(lambda: check_data(began, DIGESTS, folder), folder)


@fuzzed(
    100, data=replaced({"speakers": ["id1"], "development_speakers": [], "data": DIGESTS})
)
def test_what_models_were_trained_on(put, data):
    path = put(data, "training.json")
    training = answer(lambda: read_training(path.parent), path)
    assert training is None or all(isinstance(name, str) for name in training["speakers"])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Four speakers, and their preparation."""
    folder = tmp_path_factory.mktemp("corpus")
    write_speakers(folder, 4, 1)
    prepare_voxceleb(folder, folder / "save", dev_speakers=2, num_workers=1)
    return folder


@fuzzed(40, changes=CHANGES, name=st.sampled_from(["prepare.json", "train.csv"]))
def test_preparations(corpus, tmp_path, changes, name):
    """Whatever became of an earlier preparation, a good one comes out."""
    good, save = corpus / "save", tmp_path / "save"
    shutil.rmtree(save, ignore_errors=True)
    shutil.copytree(good, save)
    (save / name).write_bytes(changed((good / name).read_bytes(), changes))
    with in_time():
        prepare_voxceleb(corpus, save, dev_speakers=2, num_workers=1)
    for path in good.iterdir():
        same = path.name == "prepare.json" or path.read_bytes()
        assert same is True or (save / path.name).read_bytes() == same
    assert {path.name for path in save.iterdir()} == {path.name for path in good.iterdir()}


# -------------------------------------------------------------------- audio


def audio(format, subtype, samples=2000, channels=1):
    noise = 0.1 * np.random.default_rng(0).standard_normal((samples, channels))
    file = io.BytesIO()
    soundfile.write(file, noise, 16000, format=format, subtype=subtype)
    return file.getvalue()


SOUNDS = [
    audio("WAV", "PCM_16"),
    audio("WAV", "FLOAT", channels=2),
    audio("WAVEX", "PCM_24"),
    audio("FLAC", "PCM_16"),
    audio("OGG", "VORBIS"),
]


def heads(valid, changes, head=64):
    """Damage in the first bytes, which tell rate, channels and lengths."""
    return changed(valid[:head], changes) + valid[head:]


@fuzzed(
    250,
    data=st.one_of(damaged(*SOUNDS), st.builds(heads, st.sampled_from(SOUNDS), CHANGES)),
)
def test_audio_files(put, data):
    path = put(data, "a.wav")
    options = {"sample_rate": 16000, "min_duration": 0.01}
    with in_time():
        reason, detail, frames = look((str(path), len(data), 0, 0), **options)
    assert reason in ("", *voxceleb_prepare.REASONS) and isinstance(detail, str)
    wav = answer(lambda: load_audio(path, AudioNormalizer(16000)), path)
    assert wav is None or (wav.ndim == 1 and len(wav))
    if reason in ("", "stereo"):
        assert random_crop(path, 0, frames, 400).shape == (400,)
    for read in (
        lambda: read_crop(path, 10, 300, sample_rate=16000),
        lambda: crop_at(path, 400, 0.5),
    ):
        crop = answer(read, path)
        if crop is not None and wav is not None:
            assert crop.isfinite().all() or not wav.isfinite().all()


@fuzzed(40, data=damaged(*SOUNDS))
def test_noise_files(tmp_path, data):
    folder = tmp_path / "noise"
    folder.mkdir(exist_ok=True)
    (folder / "a.wav").write_bytes(data)
    answer(lambda: prepare_audio_csv(folder, tmp_path / "noise.csv", key="n"), folder)


# -------------------------------------------------------------------- cache


def cache_file():
    file = io.BytesIO()
    np.savez(
        file,
        keys=np.zeros((2, 32), np.uint8),
        embeddings=np.ones((2, 3), np.float32),
        seconds=np.ones(2),
    )
    return file.getvalue()


@fuzzed(150, data=damaged(cache_file()))
def test_caches(tmp_path, data):
    """Damage is removed and never raised."""
    cache = EmbeddingCache(tmp_path, "model")
    cache.folder.mkdir(exist_ok=True)
    path = cache.folder / "0.npz"
    path.write_bytes(data)
    with in_time():
        found = cache.get(bytes(32))
    assert path.exists() or found is None
    if found is not None:
        row, seconds = found
        assert torch.equal(row, torch.ones(3)) and seconds == 1.0


# ------------------------------------------------------------ command lines

YAML = """\
seed: 1
output_folder: !ref results/<seed>
ball: !new:hamsb.PoincareBall
  curvature: 1.0
modules: {ball: !ref <ball>}
"""
WORDS = [
    *(
        "--seed=2",
        "--seed",
        "--output_folder=a",
        "--device=cpu",
        "--ball",
        "--noprogressbar",
    ),
    *(
        "--ball={curvature: 2.0}",
        "--ball=!new:torch.nn.ReLU",
        "--modules={}",
        "--",
        "-",
        "",
    ),
    *(
        "--precision=fp16",
        "--debug",
        "{",
        "!ref <seed>",
        "[1, 2",
        "--seed=!ref <",
        "é",
        "a b",
    ),
]
TEXT = st.text(st.sampled_from(string.printable + "é²\0\ud800"), max_size=12)


@fuzzed(
    60,
    words=st.lists(
        st.one_of(
            st.sampled_from(WORDS),
            TEXT,
            st.builds("--{}={}".format, st.sampled_from(["seed", "ball", "device"]), TEXT),
        ),
        max_size=3,
    ),
)
def test_command_lines(tmp_path, capsys, words):
    path = tmp_path / "x.yaml"
    path.write_text(YAML)
    keys = [Key("seed", "number", "of all"), Key("ball", "object", "the ball")]
    try:
        # An error begins with what is wrong, an option's name or word.
        found = answer(lambda: parse_arguments([str(path), *words], keys), "")
    except SystemExit as end:
        assert end.code == 0 and {"-h", "--help"} & set(words)
        return
    if found is not None:
        assert found[0] == str(path)


EPOCHS = [{"epoch": 1, "loss": 0.5, "EER": 0.25}, {"epoch": 2, "loss": 0.25, "EER": 0.1}]


@fuzzed(100, found=[b"{}", b'{"epoch": 1}', b"[" * 100000], data=replaced(EPOCHS))
def test_epochs(put, data):
    path = put(data, "epochs.json")
    brain = SimpleNamespace(hparams=SimpleNamespace(output_folder=path.parent))
    answer(lambda: EmbeddingBrain.write_epoch(brain, {"epoch": 2, "loss": 0.125}), path)
    if path.read_bytes() != data:
        assert json.loads(path.read_text())[-1] == {"epoch": 2, "loss": 0.125}


STORE = {
    "kind": "speakers enrolled with hamsb",
    "model": {"fingerprint": "0" * 64, "source": "m", "sample_rate": 8, "dimension": 2},
    "speakers": {
        "anna": [{"file": "a", "sha256": "1", "seconds": 1.5, "embedding": [0.5, -1.0]}],
        "bob": [{"file": "b", "sha256": "2", "seconds": 2, "embedding": [1, 2]}],
    },
}


@fuzzed(150, changes=CHANGES)
def test_damaged_stores_of_speakers(changes, tmp_path):
    path = tmp_path / "speakers.json"
    path.write_bytes(changed(json.dumps(STORE, indent=1).encode(), changes))
    found = answer(lambda: Speakers(path), path)
    if found is not None and len(found):
        names, means = found.means()
        assert names == found.names and means.shape == (len(names), 2)
        assert means.isfinite().all()
        assert sum(u.seconds for name in names for u in found.utterances(name)) > -1e300
