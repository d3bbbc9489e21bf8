"""The command hamsb: what it prints and writes, and its exit statuses."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import kaldiio
import numpy as np
import pytest

from hamsb.inference import EmbeddingExtractor, SpeakerRecognition, cli, speakers
from hamsb.inference.speaker import load_encoder
from hamsb.utils import packages
from hamsb.verification import cache as cache_module
from hamsb.verification.batches import _Work
from runs import fork, status_of, write_wav

COMMANDS = (
    "info", "embed", "verify", "enroll", "speakers", "identify", "track", "threshold",
)  # fmt: skip


@pytest.fixture(scope="module")
def loaded():
    """The models that the commands of this module loaded."""
    return {}


@pytest.fixture
def hamsb(capsys, monkeypatch, loaded):
    """A function: run the command; its status, output and messages. Each model is loaded
    once."""
    load = cli._load

    def load_once(options):
        asked = options.model, options.device, options.savedir
        if asked not in loaded:
            loaded[asked] = load(options)
        return loaded[asked]

    monkeypatch.setattr(cli, "_load", load_once)

    def hamsb(*arguments):
        status = cli.main([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return hamsb


@pytest.fixture
def without_decision(model, tmp_path):
    copy = tmp_path / "plain"
    copy.mkdir()
    for path in model.iterdir():
        if path.name != "decision.json":
            (copy / path.name).write_bytes(path.read_bytes())
    return copy


@pytest.fixture(scope="module")
def recognition(model):
    return SpeakerRecognition.from_hparams(model, run_opts={"device": "cpu"})


def embedding(recognition, path):
    return recognition.encode_batch(recognition.load_audio(path)).flatten().numpy()


def test_help_is_there_without_what_takes_seconds(hamsb):
    status, out, _ = hamsb("--help")
    assert status == 0
    for name in COMMANDS:
        assert re.search(rf"^    {name} +\w", out, re.M), name
        status, own, _ = hamsb(name, "--help")
        assert status == 0 and f"usage: hamsb {name}" in own
    code = (
        "import sys\n"
        "from hamsb.inference.cli import main\n"
        f"for name in {COMMANDS}: main([name, '--help'])\n"
        "heavy = {'torch', 'speechbrain', 'numpy', 'scipy', 'ruamel', 'hyperpyyaml'}\n"
        "print('loaded', heavy & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.endswith("loaded set()\n"), done.stderr


def test_what_cannot_be_meant_is_status_2(hamsb, model, speech, tmp_path):
    for arguments, said in [
        ([], "the following arguments are required: <subcommand>"),
        (["embde"], "invalid choice: 'embde'"),
        (["embed", model, speech], "required: -o/--output"),
        (["embed", model, speech, "-o", "e.npz", "--batch-size", 0], "at least 1"),
        (["embed", model, speech, "-o", "e.npz", "--batch", 2], "unrecognized arguments"),
        (["embed", model, speech, "-o", "e.txt"], "output=e.txt: its end says what it is"),
        (["embed", model, tmp_path / "no", "-o", "e.npz"], "no such audio file, folder"),
        (["embed", tmp_path, speech, "-o", "e.npz"], "no exported model here"),
        (["embed", model, speech, "-o", "e.npz", "--device", "cud"], "device=cud: no dev"),
        (["verify", model, "a", "b", "--threshold", "nan"], "nan: must be finite"),
        (["verify", model, "a", "b", "--threshold", "dcf"], r"the model has \['eer'"),
        (["verify", model, "a", "b"], "a: no such audio file"),
        (["identify", model, tmp_path / "s.json", speech], "no such file; see hamsb enr"),
        (["speakers", tmp_path / "s.json"], "no such file; see hamsb enroll"),
        (["enroll", model, tmp_path / "s.json", model, speech], "the speaker's name comes"),
        (["enroll", model, tmp_path / "s.json"], "are required: NAME"),
        (["enroll", model, tmp_path / "s.json", "--speakers", "no"], "speakers=.*no: no s"),
        (["enroll", model, tmp_path / "s.json", "a"], "no recordings: name audio files"),
        (["info", tmp_path / "no"], "no such folder"),
    ]:  # fmt: skip
        status, out, messages = hamsb(*arguments)
        assert status == cli.EXPECTED and out == "", arguments
        assert re.search(said, messages), messages
        assert "Traceback" not in messages


def test_an_error_of_the_program_is_no_decision(hamsb, monkeypatch, model):
    for error, status, said in [
        (RuntimeError("out of luck"), 1, "Traceback"),
        (KeyboardInterrupt(), 130, "hamsb: interrupted; the same command goes on"),
        (BrokenPipeError(32, "Broken pipe"), 141, ""),
    ]:

        def load(options, error=error):
            raise error

        monkeypatch.setattr(cli, "_load", load)
        found, out, messages = hamsb("verify", model, "a", "b")
        assert (found, out) == (status, "") and said in messages


def test_info_tells_what_a_model_is(hamsb, model):
    status, out, _ = hamsb("info", model)
    assert status == 0
    for line in (
        r"encoder: +ECAPA_TDNN\(input_size=20, channels=\[8, 8, 8, 8, 24\], .*\)",
        r"features: +Fbank\(n_mels=20\)",
        r"embedding size: +16",
        r"sample rate: +16000 Hz",
        r"head: +HyperbolicClassifier\(.*ball=ClippedUnitBall\(curvature=3.0\)\)",
        r"thresholds: +eer 0.5000, min_dcf_0.01 0.9990",
        r"likelihood ratio: ln LR = 10.000 cosine -4.000",
        r"packages: +hamsb, speechbrain",
    ):
        assert re.search(f"^{line}$", out, re.M), line


# ------------------------------------------------------------------------- embed


def test_embeddings_are_the_models_whatever_the_file(
    hamsb, model, recognition, speech, tmp_path, monkeypatch
):
    files = sorted(str(path) for path in speech.rglob("*.*"))
    (tmp_path / "list.txt").write_text("\n".join(files[2:]) + "\n\n")
    monkeypatch.chdir(tmp_path)
    for name, sources in (
        ("e.npz", [speech]),
        ("e.csv", [speech / "a", "list.txt"]),
        ("e.ark", files),
        ("f.npz", ["-"]),
    ):
        monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(files)))
        status, out, messages = hamsb("embed", model, *sources, "-o", name)
        assert (status, messages) == (0, "")
        assert out == f"{name}: 4 embeddings of 16 numbers\n"
    assert sorted(os.listdir()) == ["e.ark", "e.csv", "e.npz", "e.scp", "f.npz", "list.txt"]
    found = np.load("e.npz")
    assert found["names"].tolist() == files and found["embeddings"].dtype == np.float32
    expected = np.stack([embedding(recognition, path) for path in files])
    np.testing.assert_allclose(found["embeddings"], expected, rtol=1e-5, atol=1e-6)
    samples = [len(recognition.load_audio(path)) for path in files]
    np.testing.assert_allclose(found["seconds"], np.array(samples) / 16000)
    assert np.array_equal(np.load("f.npz")["embeddings"], found["embeddings"])
    vectors = kaldiio.load_scp("e.scp")
    assert list(vectors) == files
    header, *lines = (line.split(",") for line in Path("e.csv").read_text().splitlines())
    assert header == ["name", "seconds", *(f"e{i}" for i in range(16))]
    for row, line in enumerate(lines):
        assert line[0] == files[row]
        assert np.array_equal(np.float32(line[2:]), found["embeddings"][row])
        assert np.array_equal(vectors[files[row]], found["embeddings"][row])


def test_bad_recordings_are_named_and_the_others_done(
    hamsb, model, speech, bad_recordings, tmp_path
):
    bad = {**bad_recordings, tmp_path / "none.wav": "no such audio file"}
    (tmp_path / "list.txt").write_text("\n".join(map(str, bad)))
    for options in ((), ("--batch-size", 8, "--workers", 2)):
        out = tmp_path / "e.npz"
        sources = [speech / "a", tmp_path / "list.txt", speech / "b"]
        status, _, messages = hamsb("embed", model, *sources, "-o", out, *options)
        assert status == cli.EXPECTED
        for path, said in bad.items():
            assert f"hamsb: {path}: {said}" in messages, messages
        assert "6 of 10 recordings are bad, and not in it." in messages
        names = np.load(out)["names"].tolist()
        assert names == sorted(str(path) for path in speech.rglob("*.*"))
        out.unlink()
    status, _, messages = hamsb("embed", model, tmp_path / "list.txt", "-o", out)
    assert status == cli.EXPECTED and "none of 6 recordings can be embedded" in messages
    assert all(f"hamsb: {path}: {said}" in messages for path, said in bad.items())
    assert not out.exists()


def test_what_kaldis_files_need(hamsb, model, tmp_path, monkeypatch):
    write_wav(tmp_path / "a b.wav", 8000)
    status, _, messages = hamsb("embed", model, tmp_path, "-o", tmp_path / "e.ark")
    assert status == cli.EXPECTED and "a b.wav' has a space in it" in messages
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    status, _, messages = hamsb("embed", model, tmp_path, "-o", tmp_path / "e.ark")
    assert status == cli.EXPECTED and "Traceback" not in messages
    assert messages.startswith("hamsb: error: kaldiio is not installed, run `python -m pip")


@pytest.mark.parametrize(
    "name, text", [("empty_heads", ""), ("broken_heads", "import nothing_of_this_name")]
)
def test_what_a_model_lacks_is_told(
    hamsb, without_decision, speech, tmp_path, monkeypatch, name, text
):
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    file = without_decision / "hyperparams.yaml"
    settings = file.read_text()
    assert "!new:hamsb.HyperbolicClassifier" in settings
    file.write_text(settings.replace("!new:hamsb.Hyperbolic", f"!new:{name}."))
    status, _, messages = hamsb("embed", without_decision, speech, "-o", tmp_path / "e.npz")
    assert status == cli.EXPECTED and "Traceback" not in messages
    assert messages.startswith(f"hamsb: error: {without_decision}: ")
    assert name in messages and "`hamsb info` names its packages" in messages
    with pytest.raises(ImportError, match=f"{name}.*The model needs it"):
        load_encoder(without_decision)


def test_nothing_is_written_over_what_is_read(hamsb, model, speech, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wav = tmp_path / "meeting.wav"
    shutil.copy(speech / "a" / "1.wav", wav)
    truth = "SPEAKER meeting 1 0.0 1.0 <NA> <NA> anna <NA> <NA>\n"
    Path("meeting.rttm").write_text(truth)
    Path("list.csv").write_text(f"ID,wav\nx,{wav}\n")
    Path("list.scp").write_text(f"ID,wav\nx,{wav}\n")
    Path("trials.txt").write_text("1 a/1.wav a/2.wav\n")
    assert hamsb("enroll", model, "store.csv", "anna", wav)[0] == 0
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for arguments, output in (
        (("embed", model, "list.csv", "-o", "list.csv"), "list.csv"),
        (("embed", model, "list.scp", "-o", "list.ark"), "list.scp"),
        (("track", model, "store.csv", wav, "--reference", "meeting.rttm"), "meeting.rttm"),
        (("track", model, "store.csv", wav, "-o", "store"), "store.csv"),
        (("threshold", model, "trials.txt", speech, "-o", "trials.txt"), "trials.txt"),
    ):
        status, _, messages = hamsb(*arguments)
        assert status == 2
        assert f"output={output}: would be written over what is read" in messages
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert hamsb("embed", model, "list.scp", "-o", "list.npz")[0] == 0  # no scp of its own
    status, _, messages = hamsb("enroll", model, "store.csv", "none", wav)
    assert status == 2 and "name=none: is what tables say" in messages


def test_a_speaker_may_be_called_as_a_folder_here(
    hamsb, model, speech, tmp_path, monkeypatch
):
    shutil.copytree(speech / "a", tmp_path / "anna")
    monkeypatch.chdir(tmp_path)
    status, said, _ = hamsb("enroll", model, "s.json", "anna", "anna")
    assert status == 0 and "anna has " in said
    for forgotten in (["anna/1.wav", "anna"], ["anna"], ["anna/"], [f"{tmp_path}/anna"]):
        status, _, messages = hamsb("enroll", model, "s.json", *forgotten)
        assert status == 2 and "the speaker's name comes before" in messages, forgotten


def test_a_killed_embed_goes_on_where_it_was(hamsb, model, speech, tmp_path, monkeypatch):
    """Nothing is lost, and nothing done twice."""
    whole, out = tmp_path / "whole.npz", tmp_path / "e.npz"
    assert hamsb("embed", model, speech, "-o", whole)[0] == 0
    monkeypatch.setattr(cache_module, "_SECONDS", -1.0)  # each is written at once
    read, before = [], _Work._batches

    def batches(self, numbers, recordings):
        read.extend(map(str, recordings))
        if len(read) > 2 and not out.exists() and os.getpid() != own:
            os.kill(os.getpid(), signal.SIGKILL)
        return before(self, numbers, recordings)

    own = os.getpid()
    monkeypatch.setattr(_Work, "_batches", batches)
    command = ["embed", str(model), str(speech), "-o", str(out)]
    killed = fork(lambda: cli.main(command), tmp_path / "screen")
    assert status_of(killed) == -signal.SIGKILL and not out.exists()
    assert [path.name for path in tmp_path.glob(".*")] == [".e.npz.parts"]
    assert hamsb(*command)[0] == 0
    assert read == sorted(str(path) for path in speech.rglob("*.*"))[2:]
    assert list(tmp_path.glob(".*")) == []
    found, expected = np.load(out), np.load(whole)
    for name in ("names", "embeddings", "seconds", "model"):
        assert np.array_equal(found[name], expected[name]), name


# ------------------------------------------------------------------------ verify


def test_verify_decides_by_its_status(hamsb, model, recognition, speech):
    pair = speech / "a" / "1.wav", speech / "b" / "1.wav"
    score = recognition.verify_files(*pair)[0].item()
    ratio = 10 * score - 4
    for options, status, threshold, said in [
        ((), 0, "0.5000 (eer)", "same speaker"),
        (("--threshold", "eer"), 0, "0.5000 (eer)", "same speaker"),
        (("--threshold", "min_dcf_0.01"), 3, "0.9990 (min_dcf_0.01)", "different speakers"),
        (("--threshold", "-0.5"), 0, "-0.5000", "same speaker"),
        (("--threshold", "1.5"), 3, "1.5000", "different speakers"),
    ]:
        found, out, messages = hamsb("verify", model, *pair, *options)
        assert (found, messages) == (status, "")
        cosine, *rest = out.splitlines()
        assert float(cosine.removeprefix("cosine ")) == pytest.approx(score, abs=6e-5)
        assert rest[0].startswith("log-likelihood ratio ")
        assert float(rest[0].split()[-1]) == pytest.approx(ratio, abs=1e-3)
        assert rest[1:] == [f"threshold {threshold}", said]


def test_verify_without_a_threshold_gives_the_cosine_alone(hamsb, without_decision, speech):
    pair = speech / "a" / "1.wav", speech / "b" / "1.wav"
    status, out, messages = hamsb("verify", without_decision, *pair)
    assert status == cli.UNDECIDED and re.fullmatch(r"cosine 0\.\d{4}\n", out)
    assert "has no threshold" in messages and "hamsb threshold" in messages
    status, out, _ = hamsb("verify", without_decision, *pair, "--threshold", 0.1)
    assert status == 0 and out.endswith("same speaker\n")


def test_a_bad_recording_is_never_a_decision(hamsb, model, speech, bad_recordings):
    good = speech / "a" / "1.wav"
    for path, said in bad_recordings.items():
        for pair in ((path, good), (good, path)):
            status, out, messages = hamsb("verify", model, *pair)
            assert (status, out) == (cli.EXPECTED, "")
            assert messages.startswith(f"hamsb: error: {path}: {said}")


def test_all_speakers_of_data_are_enrolled_at_once(
    hamsb, model, speech, tmp_path, bad_recordings, monkeypatch
):
    table, store = tmp_path / "data.txt", tmp_path / "s.json"
    whole = tmp_path / "alone.json"
    for name in ("a", "b"):
        assert hamsb("enroll", model, whole, name, speech / name)[0] == 0
    calls, embed = [], EmbeddingExtractor.embed_files
    monkeypatch.setattr(
        EmbeddingExtractor,
        "embed_files",
        lambda *given, **options: calls.append(options) or embed(*given, **options),
    )
    status, out, messages = hamsb(
        "enroll", model, store, "--speakers", speech, "--batch-size", 2
    )
    assert (status, out) == (0, f"{store}: 4 recordings added, 2 speakers are in it\n")
    assert messages == (
        f"hamsb: {speech}: Folders <speaker>/<utterance>: 2 speakers, 4 recordings\n"
    )
    assert store.read_bytes() == whole.read_bytes()
    assert [options["batch_size"] for options in calls] == [2]
    silent, short, *_ = bad_recordings
    rows = [("a", silent), ("c", short), ("d", speech / "b" / "1.wav")]
    table.write_text("spk_id,wav\n" + "".join(f"{name},{p}\n" for name, p in rows))
    status, out, messages = hamsb("enroll", model, store, "--speakers", table)
    assert (status, out) == (cli.EXPECTED, "") and "the same recording as one" in messages
    write_wav(tmp_path / "new.wav", 8000, seed=9)
    rows = [("a", silent), ("c", short), ("d", tmp_path / "new.wav")]
    table.write_text("spk_id,wav\n" + "".join(f"{name},{p}\n" for name, p in rows))
    status, out, messages = hamsb("enroll", model, store, "--speakers", table)
    assert (status, out) == (cli.EXPECTED, "")
    assert f"{silent}: silent" in messages and f"{short}: " in messages
    assert "error: 2 of 3 recordings are bad, and none was enrolled" in messages
    assert store.read_bytes() == whole.read_bytes()


def test_a_file_whose_name_is_no_text(hamsb, model, speech, tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.wav")
    shutil.copy(speech / "a" / "1.wav", path)
    for arguments in (
        ("embed", model, tmp_path, "-o", tmp_path / "e.csv"),
        ("enroll", model, tmp_path / "s.json", "anna", path),
    ):
        status, _, messages = hamsb(*arguments)
        assert status == cli.EXPECTED and "Traceback" not in messages
        assert "\\udcff.wav: cannot be read as audio" in messages


# --------------------------------------------------- enroll, speakers, identify


def test_speakers_are_enrolled_listed_identified_and_removed(
    hamsb, model, speech, tmp_path, bad_recordings
):
    store = tmp_path / "speakers.json"
    assert hamsb("enroll", model, store, "anna", speech / "a") == (
        0, f"{store}: 2 recordings added, anna has 2\n", "",
    )  # fmt: skip
    assert hamsb("enroll", model, store, "anna", speech / "a")[1].endswith(
        " 0 recordings added, anna has 2\n"
    )
    assert hamsb("enroll", model, store, "bob", speech / "b" / "1.wav")[0] == 0
    status, out, _ = hamsb("speakers", store)
    assert status == 0
    assert re.fullmatch(
        r"speaker\trecordings\tseconds\nanna\t2\t1.2\nbob\t1\t0.9\n", out
    ), out
    before = store.read_bytes()
    for path in bad_recordings:
        good = speech / "b" / "3.flac"
        status, out, messages = hamsb("enroll", model, store, "bob", good, path)
        assert (status, out) == (cli.EXPECTED, "") and f"hamsb: {path}: " in messages
        assert "error: 1 of 2 recordings are bad, and none was enrolled" in messages
    assert store.read_bytes() == before

    who, other = speech / "b" / "1.wav", speech / "b" / "3.flac"
    status, out, messages = hamsb("identify", model, store, who, other, "--best", 5)
    assert status == 0
    header, *lines = (line.split("\t") for line in out.splitlines())
    columns = ["recording", "identified", "speaker", "cosine", "log_likelihood_ratio"]
    assert header == columns
    assert [line[0] for line in lines] == [str(who)] * 2 + [str(other)] * 2
    assert lines[0][1:] == ["bob", "bob", "1.0000", "6.000"]
    assert lines[1][1:3] == ["bob", "anna"]  # less similar
    limit = (np.log(2 / speakers.FALSE_ALARMS) + 4) / 10
    assert f"threshold {limit:.4f}: at most 10 % of strangers' recordings" in messages
    for options, first, said in [
        (("--threshold", "1.5"), "none", "threshold 1.5000, of one comparison"),
        (("--threshold", "eer"), "bob", r"threshold 0.5000 \(eer\), of one comparison"),
        (("--false-alarms", "0.5"), "bob", "at most 50 %"),
        (("--false-alarms", "1e-9"), "none", "no recording can reach it"),
    ]:
        status, out, messages = hamsb("identify", model, store, who, *options)
        assert status == 0 and re.search(said, messages), messages
        assert out.splitlines()[1].split("\t")[1:3] == [first, "bob"]
    both = ("--threshold", "eer", "--false-alarms", "0.1")
    status, _, messages = hamsb("identify", model, store, who, *both)
    assert status == cli.EXPECTED and "give one of them" in messages
    silent, *_ = bad_recordings
    status, out, messages = hamsb("identify", model, store, silent, who)
    assert status == cli.EXPECTED and f"hamsb: {silent}: silent" in messages
    assert [line.split("\t")[0] for line in out.splitlines()[1:]] == [str(who)]

    status, out, _ = hamsb("speakers", store, "--remove", "bob")
    assert (status, out) == (0, f"{store}: bob removed, 1 left\n")
    status, _, messages = hamsb("speakers", store, "--remove", "bob")
    assert status == cli.EXPECTED and f"name=bob: not in {store}" in messages
    assert list(json.loads(store.read_text())["speakers"]) == ["anna"]


def test_identify_without_a_calibration(hamsb, without_decision, speech, tmp_path):
    store = tmp_path / "speakers.json"
    assert hamsb("enroll", without_decision, store, "anna", speech / "a")[0] == 0
    status, out, messages = hamsb("identify", without_decision, store, speech / "b")
    assert status == 0 and "no threshold" in messages
    assert [line.split("\t")[1:3] for line in out.splitlines()[1:]] == [["", "anna"]] * 2
    asked = ("--false-alarms", "0.1")
    status, _, messages = hamsb("identify", without_decision, store, speech, *asked)
    assert status == cli.EXPECTED and "stores nothing that tells how" in messages


def test_the_console_script_is_this_function(repository):
    settings = (repository / "setup.cfg").read_text(encoding="utf-8")
    assert "\n    hamsb = hamsb.inference.cli:main\n" in settings
