"""What the tests of whole runs share: fewer seconds a run, processes, contents."""

import csv
import json
import os
import pickle
import re
import signal
import socket
import sys
import time
import traceback
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import soundfile
import speechbrain
import torch
from hyperpyyaml import load_hyperpyyaml
from matplotlib.figure import Figure
from speechbrain.dataio import audio_io
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.lobes.features import Fbank

from hamsb import ClippedUnitBall, CosineSimilarity, HyperbolicSimilarity, PoincareBall
from hamsb.training.export import export_model
from hamsb.verification.embeddings import Embeddings
from hamsb.verification.trials import Trials

# A tiny model, as an experiment's yaml has it.
EXPERIMENT = """
sample_rate: 16000
compute_features: !new:speechbrain.lobes.features.Fbank
  n_mels: 20
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
  norm_type: sentence
  std_norm: False
embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
  input_size: 20
  channels: [8, 8, 8, 8, 24]
  attention_channels: 8
  lin_neurons: 16
classifier: !new:hamsb.HyperbolicClassifier
  input_size: 16
  out_neurons: 2
  ball: !new:hamsb.ClippedUnitBall
    curvature: 3.0
"""

# Options of HAM-Softmax in the place of a yaml's loss.
HAM = {
    "classifier": "!new:hamsb.HyperbolicClassifier {input_size: !ref <lin_neurons>, "
    "out_neurons: !ref <out_n_neurons>, ball: !new:hamsb.ClippedUnitBall {curvature: 3.0}}",
    "compute_cost": "!new:hamsb.HAMSoftmax {margin: 0.2, scale: 30.0}",
}


@pytest.fixture(autouse=True)
def quick(monkeypatch, request):
    """Without what costs half of a tiny run: SpeechBrain's list of the installed
    packages and, but for the test of the whole path, drawing the plots."""
    monkeypatch.setattr(
        speechbrain.utils.logger, "get_environment_description", lambda: "not listed"
    )
    if request.node.name != "test_whole_path":
        empty = lambda figure, path, **options: Path(path).touch()  # noqa: E731
        monkeypatch.setattr(Figure, "savefig", empty)


def contents(folder, without=()):
    """Path below a folder -> bytes, of everything but logs and locks."""
    without = {"log.txt", "env.log", "train.py", ".lock", ".CKPT.lock", *without}
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in without
    }


def untimed(path):
    """The lines of a run's log or epochs.json without how long was waited for batches."""
    text = path.read_text(encoding="utf-8")
    text = re.sub(r', waited: .*?\)|, "loader_wait[^}]*', "", text)
    return text.splitlines()


def weights(folder):
    """The exported network's."""
    return torch.load(folder / "export" / "embedding_model.ckpt")


def code_blocks(text, language):
    """The blocks of code in a markdown text."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def same(ours, theirs):
    """Whether two dicts hold equal tensors under the same names."""
    return ours.keys() == theirs.keys() and all(
        torch.equal(ours[key], theirs[key]) for key in theirs
    )


def export_untrained(folder, text):
    """Export the untrained model of an experiment's yaml, with two speakers."""
    torch.manual_seed(0)
    hparams, labels = load_hyperpyyaml(text), CategoricalEncoder()
    labels.update_from_iterable(["a", "b"], sequence_input=False)
    modules = {name: hparams[name] for name in ("embedding_model", "classifier")}
    export_model(folder, text, modules, labels, "# card\n")


def call(main, hparams_file, values):
    """Call a script's main with values for options; returns its output folder."""
    options = [f"--{key}={value}" for key, value in values.items()]
    main([hparams_file, *options, "--noprogressbar"])
    return Path(values["output_folder"])


def fork(function, screen):
    """Start a process, which lives two minutes at most; returns its id.

    Its exit status is a script's: SystemExit's, 1 after a traceback, or 0. What it
    and its children print is in the file ``screen``.
    """
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        signal.alarm(120)
        with open(screen, "w", buffering=1, encoding="utf-8") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            sys.stdout = sys.stderr = file
            try:
                function()
                status = 0
            except SystemExit as end:
                status = end.code or 0
            except BaseException:
                traceback.print_exc()
    finally:
        os._exit(status)


def status_of(process):
    """Wait for a process; its exit status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def launch(functions, folder):
    """Run a process for each function as torchrun does: with the variables of its
    rank; and when one fails, the others are sent SIGTERM.

    Returns exit statuses (negative: the signal) and screens, by rank.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def ranked(rank):
        def run():
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            os.environ["WORLD_SIZE"] = str(len(functions))
            functions[rank]()

        return run

    screens = [folder / f"screen{rank}" for rank in range(len(functions))]
    living = {fork(ranked(rank), screens[rank]): rank for rank in range(len(functions))}
    statuses = [None] * len(functions)
    while living:
        time.sleep(0.05)  # torchrun looks ten times a second
        for process in list(living):
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                statuses[living.pop(process)] = os.waitstatus_to_exitcode(status)
        if any(status is not None and status > 0 for status in statuses):
            for process in living:
                os.kill(process, signal.SIGTERM)
    return statuses, [screen.read_text(encoding="utf-8") for screen in screens]


def in_processes(function, processes, folder):
    """What a function of the rank returns in each of so many processes of one gloo
    group, by rank; or, where it raises one, its ValueError or FileNotFoundError."""

    def ranked(rank):
        def run():
            torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=60))
            try:
                found = function(rank)
            except (ValueError, FileNotFoundError) as error:
                found = error
            with open(folder / f"found{rank}", "wb") as file:
                pickle.dump(found, file)
            torch.distributed.barrier()
            torch.distributed.destroy_process_group()

        return run

    statuses, screens = launch([ranked(rank) for rank in range(processes)], folder)
    assert statuses == [0] * processes, screens
    files = [folder / f"found{rank}" for rank in range(processes)]
    return [pickle.loads(file.read_bytes()) for file in files]


# ------------------------------------------------- utterances, embeddings, trials


def write_wav(path, samples, rate=16000, channels=1, seed=0):
    """Noise whose spectrum depends on the seed; a lossless float file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(channels, samples, generator=generator)
    tone = torch.sin(torch.arange(samples) * 0.05 * (seed + 1))
    audio_io.save(str(path), 0.02 * noise + 0.3 * tone, rate)


def write_speakers(root, speakers, first):
    """Two sessions of two utterances each, all called 00000 and 00001.wav; those of
    the first session are of one length."""
    for number in range(first, first + speakers):
        random = np.random.default_rng(number)
        pitch = random.uniform(100, 1000)
        for session in ("x", "y"):
            for k in range(2):
                samples = 16000 + random.integers(8000) * (session == "y")
                time = np.arange(samples) / 16000
                tone = np.sin(2 * np.pi * pitch * random.uniform(0.9, 1.1) * time)
                noise = 0.03 * random.standard_normal(len(time))
                path = Path(root, "wav", f"id{number:02d}", session, f"{k:05d}.wav")
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, 0.3 * tone + noise, 16000)


def write_list(root, path, speakers, seed=0):
    """Every target pair of the speakers and as many impostor pairs."""
    random = np.random.default_rng(seed)
    files = {
        name: sorted(
            str(f.relative_to(root / "wav")) for f in (root / "wav" / name).rglob("*.wav")
        )
        for name in speakers
    }
    lines = []
    for name, own in files.items():
        for i, one in enumerate(own):
            for other in own[i + 1 :]:
                lines.append(f"1 {one} {other}")
                stranger = random.choice([s for s in speakers if s != name])
                lines.append(f"0 {one} {random.choice(files[stranger])}")
    path.write_text("\n".join(lines) + "\n")


def write_layouts(root, folder):
    """A tree ``wav/<speaker>/<session>/<utterance>.wav`` in the other layouts: links or
    lists of the same files, and the speakers' recordings cut out of long ones.

    Returns a dict: layout -> data source, and how it names ``id1/s/a.wav``.
    """
    folder = Path(folder)
    files = sorted((root / "wav").rglob("*.wav"))
    rows = []
    for file in files:
        speaker, session, name = file.relative_to(root / "wav").parts
        rows.append((f"{speaker}-{session}-{file.stem}", file, speaker, session))
        link = folder / "flat" / speaker / f"{session}-{name}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file)
    (folder / "bare").symlink_to(root / "wav")
    with open(folder / "list.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["ID", "wav", "spk_id", "session"])
        for name, file, speaker, session in rows:
            writer.writerow([name, os.path.relpath(file, folder), speaker, session])
    keys = ("ID", "wav", "spk_id", "session")
    lines = (json.dumps(dict(zip(keys, map(str, row)))) + "\n" for row in rows)
    (folder / "list.jsonl").write_text("".join(lines))
    for kind in ("kaldi", "segments"):
        (folder / kind).mkdir()
        (folder / kind / "utt2spk").write_text("".join(f"{r[0]} {r[2]}\n" for r in rows))
    scp = "".join(f"{name} {file}\n" for name, file, *_ in rows)
    (folder / "kaldi" / "wav.scp").write_text(scp)
    segments = {}
    for name, file, speaker, session in rows:
        segments.setdefault(f"{speaker}-{session}", []).append((name, file))
    scp, cuts = [], []
    for recording, own in segments.items():
        audio = [soundfile.read(file, dtype="int16")[0] for _, file in own]
        ends = np.cumsum([len(each) for each in audio]) / 16000
        for (name, _), start, stop in zip(own, [0, *ends], ends):
            cuts.append(f"{name} {recording} {start:.7f} {stop:.7f}\n")
        soundfile.write(
            folder / "segments" / f"{recording}.flac", np.concatenate(audio), 16000
        )
        scp.append(f"{recording} {recording}.flac\n")
    (folder / "segments" / "wav.scp").write_text("".join(scp))
    (folder / "segments" / "segments").write_text("".join(cuts))

    def dashed(name):
        return name.replace("/", "-").removesuffix(".wav")

    def flat(name):
        return name.replace("/", "-").replace("-", "/", 1)

    named = dict.fromkeys(("list.csv", "list.jsonl", "kaldi", "segments"), dashed)
    named |= {"bare": str, "flat": flat}
    return {name: (folder / name, how) for name, how in named.items()} | {
        "tree": (root, str)
    }


class FbankMean:
    """Mean and maximum of log Mel energies, with a record of what was embedded."""

    def __init__(self):
        self.features = Fbank(n_mels=20)
        self.seen = []

    def __call__(self, wavs):
        assert not torch.is_grad_enabled()
        self.seen.append(wavs.clone())
        features = self.features(wavs)
        return torch.cat([features.mean(1), features.amax(1)], dim=1).unsqueeze(1)


# A trial list of four lines, its utterances, and one with sessions.
FOUR_TRIALS = """\
1 id1/x/1.wav id1/y/1.wav
0 id1/x/1.wav id2/x/1.wav
1 id2/x/1.wav id2/x/2.wav
0 id2/x/2.wav id1/y/1.wav
"""
UTTERANCES = ("id1/x/1.wav", "id1/y/1.wav", "id2/x/1.wav", "id2/x/2.wav")
SIX_TRIALS = [
    (1, "id1/x/1.wav", "id1/x/2.wav"),  # same session
    (1, "id1/x/1.wav", "id1/y/1.wav"),
    (1, "id2/x/1.wav", "id2/z/1.wav"),
    (0, "id1/x/1.wav", "id2/x/1.wav"),  # sessions of one name, of two speakers
    (0, "id2/x/1.wav", "id3/x/1.wav"),
    (0, "id1/y/1.wav", "id3/x/1.wav"),
]


def random_trials(n=400, speakers=9, seed=0):
    """Trials of several speakers, and scores that tell them apart."""
    rng = np.random.default_rng(seed)
    enrol, test = rng.integers(0, speakers, (2, n))
    labels = (enrol == test).astype(int)
    enrol, test = (
        tuple(f"id{s}/v/{i}" for i, s in enumerate(side)) for side in (enrol, test)
    )
    scores = rng.standard_normal(n) + 2 * labels
    return Trials(labels, enrol, tuple(f"{t}t" for t in test), Path("random.txt")), scores


def random_embeddings_and_trials(n=3000, utterances=50, dim=16, seed=0, scale=1.0):
    """Embeddings of 7 speakers in a random order, and trials between them."""
    rng = np.random.default_rng(seed)
    names = tuple(f"id{i % 7}/{i}.wav" for i in range(utterances))
    pairs = rng.integers(0, utterances, (2, n))
    enrol, test = (tuple(names[i] for i in side) for side in pairs)
    trials = Trials(rng.integers(0, 2, n), enrol, test, Path("random.txt"))
    order = rng.permutation(utterances)
    matrix = torch.randn(utterances, dim, generator=torch.Generator().manual_seed(seed))
    return Embeddings(tuple(names[i] for i in order), matrix * scale), trials


def naive_cosine(x, y):
    x, y = x.double(), y.double()
    return (x @ y / (x.norm() * y.norm())).item()


def naive_distance(ball):
    def score(x, y):
        x, y = (ball.project(v.double()) for v in (x, y))
        return -ball.distance(x, y).item()

    return score


def similarities():
    """Similarities for scoring, and the score of a pair by its formula."""
    clipped, true = ClippedUnitBall(3.0), PoincareBall(1.0, gain=0.5)
    return [
        (CosineSimilarity(), naive_cosine),
        (HyperbolicSimilarity(clipped), naive_distance(clipped)),
        (HyperbolicSimilarity(true), naive_distance(true)),
    ]
