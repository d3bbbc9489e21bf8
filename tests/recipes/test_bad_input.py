"""What a user can get wrong, at the command line: one message that says what, an exit
status other than 0, and an earlier run's results as they were."""

import ctypes
import os
import re
import runpy
import shutil
import signal
import struct
import sys
import time
from pathlib import Path

import pytest
import soundfile
import torch
from speechbrain.lobes.features import Fbank

import train
from hamsb.utils.command_line import main_or_exit
from hamsb.utils.files import only_run
from runs import HAM, contents, fork, quick, status_of  # noqa: F401

SMALL = str(Path(train.__file__).parents[2] / "hparams" / "small.yaml")


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory):
    """The place of the run that `finished` copies, and of its audio, as FLAC."""
    return tmp_path_factory.mktemp("finished")


@pytest.fixture
def options(tiny_options, tiny_corpus, finished_once):
    """Like `tiny_options`, with the audio of `finished`; a value of None leaves the
    option out."""

    def options(**changes):
        changes = {"data_folder": finished_once / "audio", "baselines": False, **changes}
        return [o for o in tiny_options(**changes) if not o.endswith("=None")]

    return options


@pytest.fixture
def finished(options, tiny_corpus, finished_once, tmp_path):
    """The folder of a finished run of an epoch, with a checkpoint in it as well."""
    audio, folder = finished_once / "audio", finished_once / "run"
    if not folder.exists():  # trained once, by the first test
        wav = tiny_corpus / "train" / "wav"
        for path in wav.rglob("*.wav"):
            target = (audio / "wav" / path.relative_to(wav)).with_suffix(".flac")
            target.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(target, *soundfile.read(path))
        train.main([SMALL, *options(output_folder=folder)])
    shutil.copytree(folder, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def refused(options, finished, tmp_path, monkeypatch, capsys):
    """A function that gives the command line of `finished`, changed, to train.py and
    looks at how that ends. ``begun``: after the training began, which writes down
    its settings, and an epoch that it could not save. ``anew``: in a folder of its own,
    since `finished` continues only as what it began as."""

    def refused(message, *more, yaml=SMALL, begun=False, anew=False, **changes):
        log = finished / "train_log.txt"
        notes = ["hyperparams.yaml", log.name, "epochs.json", "run.json"]
        changed = notes if begun else []
        if anew:
            changes["output_folder"] = tmp_path / "anew"
        before, lines = contents(finished, changed), log.read_text()
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["train.py", yaml, *options(**changes), *more])
        with pytest.raises(SystemExit) as end:
            main_or_exit(train.main)
        screen = capsys.readouterr().err
        assert end.value.code == 2
        (line,) = re.findall("^train.py: error: .*$", screen, re.MULTILINE)
        assert re.search(message, line), line
        assert screen.endswith(f"{line}\n") and "Traceback" not in screen
        after = contents(finished, changed)
        assert after.keys() == before.keys() and log.read_text().startswith(lines)
        assert [name for name in after if after[name] != before[name]] == []
        assert not list((tmp_path / "anew").rglob("CKPT*"))

    return refused


# ----------------------------------------------------------------- wrong options


def test_wrong_options(refused, finished_once, tmp_path, monkeypatch):
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "wav").symlink_to(finished_once / "audio" / "wav")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    for changes, message in (
        # A missing data folder, and whole values: SpeechBrain makes "/a/b c.txt" of it.
        ({"data_folder": "/a/b=c.txt"}, "data_folder=/a/b=c.txt: no such file or folder"),
        ({"test_data_folder": "/a"}, "test_data_folder=/a: no such file or folder"),
        # too few speakers
        ({"dev_speakers": 7}, "dev_speakers=7: of the 8 speakers .* give 6 or fewer"),
        (
            {"dev_speakers": 9, "batch_size": 400},
            "dev_speakers=9: .* batch_size: a batch .* 400 utterances, and 8 are left",
        ),
        ({"out_n_neurons": 5}, "out_n_neurons=5, but the training data have 6 speakers"),
        ({"batch_size": 400}, "batch_size=400 .* only 24 utterances"),
        ({"batch_size": 0}, "batch_size=0: must be a whole number, at least 1"),
        (
            {"data_folder": f"[{finished_once}/audio, {tmp_path}/copy]"},
            "data_folder: 8 speakers occur both in .* 32 utterances have one name in both",
        ),
        # margin, scale, curvature
        (
            {"compute_cost": "{margin: -0.1}"},
            r"small\.yaml: compute_cost: margin=-0\.1",
        ),
        ({"compute_cost": "{margin: .inf}"}, "compute_cost: margin=inf"),
        ({"compute_cost": "{scale: 0}"}, "compute_cost: scale=0"),
        (
            {"classifier": HAM["classifier"].replace("3.0", "0.9")},
            r"classifier\[ball\]: curvature=0\.9",
        ),
        # the command line itself
        (
            {"data_folder": None},
            r"leaves data_folder to you \(!PLACEHOLDER\); add --data_f",
        ),
        ({"numbr_of_epochs": 3}, "numbr_of_epochs: no such key.*mean number_of_epochs"),
        ({"noprogress": True}, "noprogress: .*not to be abbreviated.*mean --noprogressbar"),
        ({"precision": "fp16"}, "precision=fp16: there is no fp16 on a CPU"),
        ({"average_by": "bset"}, "average_by='bset'"),
    ):
        refused(message, anew=True, **changes)


def test_what_does_not_fit_together(options, tiny_corpus, tmp_path):
    """A loss and its head, the head and the speakers; and a yaml's no, which is a text."""
    for changes, message in (
        (
            {"compute_cost": HAM["compute_cost"]},
            "HAMSoftmax.*: expects minus distances, but classifier gives cosines",
        ),
        ({"classifier": "{out_neurons: 5}"}, "a head of 5 classes for 6 training speakers"),
        ({"separate_views": "no"}, "separate_views='no': must be True or False"),
        ({"baselines": "no"}, "baselines='no': must be True or False"),
    ):
        changes |= {"output_folder": tmp_path / "refused"}
        changes |= {"data_folder": tiny_corpus / "train"}
        with pytest.raises(ValueError, match=message):
            train.main([SMALL, *options(**changes)])
        assert not (tmp_path / "refused" / "train_log.txt").exists()


def test_a_repeated_key(refused):
    refused("seed: given twice, 1 and 2", "--seed=1", "--seed=2")


def test_a_yaml_with_a_repeated_key(refused, tmp_path):
    yaml = tmp_path / "twice.yaml"
    yaml.write_text(Path(SMALL).read_text() + "seed: 3\n")
    refused(r'twice\.yaml, line \d+, .*duplicate key "seed"', yaml=str(yaml))


def test_a_recoverable_that_the_checkpoints_lack(refused, tmp_path):
    """A margin schedule added to the yaml of a run that had none: the run is not that."""
    yaml, text = tmp_path / "scheduled.yaml", Path(SMALL).read_text()
    schedule = "margin_schedule: !new:hamsb.LinearMargin [0.2, 10]\n\n"
    text = text.replace("checkpointer: !new", f"{schedule}checkpointer: !new")
    yaml.write_text(f"{text}        margin_schedule: !ref <margin_schedule>\n")
    message = r"margin_schedule\]?=nothing, and now it is "
    refused(message, yaml=str(yaml), number_of_epochs=2)


def test_the_script_itself(finished, options, tmp_path, monkeypatch):
    """Run as a script, and what else is on the screen: nothing."""
    before = contents(finished)
    arguments = [SMALL, *options(), "--seed=1", "--seed=2"]
    monkeypatch.setattr(sys, "argv", [train.__file__, *arguments])
    process = fork(
        lambda: runpy.run_path(train.__file__, run_name="__main__"), tmp_path / "screen"
    )
    assert status_of(process) == 2
    assert (tmp_path / "screen").read_text() == (
        "train.py: error: seed: given twice, 1 and 2; give it once.\n"
    )
    assert contents(finished) == before


# ----------------------------------------------------------------- trial lists


def test_bad_trial_lists(refused, tiny_corpus, tmp_path):
    text = (tiny_corpus / "veri_test.txt").read_text().splitlines()
    good = [line for line in text if line.startswith("1 ")]
    bad = tmp_path / "bad.txt"
    for lines, message in (
        ([], "bad.txt: empty file"),
        ([None, "1 id20001/a.wav"], "bad.txt:2: expected the 3 fields"),
        ([None, "", None], "bad.txt:2: empty line"),
        ([None, None, "2 id20001/a.wav id20002/a.wav"], "bad.txt:3: label must be 0 or 1"),
        (
            [None, None, "0 id20001/no/1.wav id20002/no/1.wav"],
            "bad.txt:3: no file for id20",
        ),
        ([None, None], "bad.txt: all 2 trials have the label 1"),
        ([None, "0 x.wav y.wav"], "bad.txt:2: no speaker in 'x.wav'|bad.txt:2: no file"),
    ):
        bad.write_text("".join(f"{good[0] if x is None else x}\n" for x in lines))
        refused(message, verification_file=bad, anew=True)


def test_trial_lists_of_one_name_or_missing(refused, tiny_corpus, tmp_path):
    one = tiny_corpus / "veri_test.txt"
    other = tmp_path / one.name
    shutil.copy(one, other)
    for lists, message in (
        (f"[{one}, {other}]", "two lists are named 'veri_test'"),
        (tmp_path / "gone.txt", "gone.txt: no such trial list"),
    ):
        refused(message, verification_file=lists, anew=True)


# ----------------------------------------------------------------- while training


@pytest.fixture
def poisoned(monkeypatch):
    """A function: from the n-th batch on, the features of training are NaN."""

    def poisoned(first):
        def poison(self, wavs):
            batches.append(self.training)
            features = forward(self, wavs)
            return features * float("nan") if sum(batches) >= first else features

        batches, forward = [], Fbank.forward
        monkeypatch.setattr(Fbank, "forward", poison)

    return poisoned


def test_a_loss_that_is_not_finite(refused, poisoned):
    poisoned(3)
    refused(
        "the loss is nan in step 3; nothing is saved after it. The batch: "
        r"(id1000\d/\S+, ){3}id1000\d/\S+$",
        number_of_epochs=2,
        begun=True,
    )


def test_what_is_saved_before_a_loss_that_is_not_finite_is_sound(
    options, poisoned, tmp_path
):
    poisoned(4)
    with pytest.raises(ValueError, match="in step 4"):
        train.main([SMALL, *options(ckpt_interval_steps=1)])
    checkpoints = list((tmp_path / "run" / "save").glob("CKPT*"))
    steps = [(path / "brain.ckpt").read_text() for path in checkpoints]
    assert checkpoints and not any("step: 4" in text for text in steps)
    for path in checkpoints:
        for name in ("embedding_model", "classifier"):
            weights = torch.load(path / f"{name}.ckpt")
            assert all(value.isfinite().all() for value in weights.values())


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_is_corrupt_in_the_middle(refused, finished_once, workers):
    """The preparation does not find that; same size and time."""
    files = {path: path.read_bytes() for path in finished_once.rglob("*.flac")}
    try:
        for path, data in files.items():
            time_ns = path.stat().st_mtime_ns
            third = len(data) // 3
            path.write_bytes(data[:third] + bytes(third) + data[2 * third :])
            os.utime(path, ns=(time_ns, time_ns))
        refused(
            rf"{finished_once}/audio/wav/id1000\S+\.flac: (cannot be read|ends \d+)",
            number_of_epochs=2,
            num_workers=workers,
            begun=True,
        )
    finally:
        for path, data in files.items():
            time_ns = path.stat().st_mtime_ns
            path.write_bytes(data)
            os.utime(path, ns=(time_ns, time_ns))


def test_a_full_disk(refused, monkeypatch):
    """At the checkpoint of the second epoch."""

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    refused("No space left on device", number_of_epochs=2, begun=True)


# ----------------------------------------------------------------- the folder


def without_privileges(function):
    """Drop what lets root write everywhere, and go on."""
    header = struct.pack("Ii", 0x20080522, 0)  # Linux's version 3, this process
    assert ctypes.CDLL(None, use_errno=True).capset(header, bytes(24)) == 0
    function()


def test_a_read_only_folder(options, finished, tmp_path, monkeypatch):
    everything = [finished, *finished.rglob("*")]
    before = contents(finished)
    monkeypatch.setattr(sys, "argv", ["train.py", SMALL, *options(number_of_epochs=2)])
    for path in everything:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        process = fork(
            lambda: without_privileges(lambda: main_or_exit(train.main)),
            tmp_path / "screen",
        )
        status = status_of(process)
    finally:
        for path in everything:
            path.chmod(0o755)
    screen = (tmp_path / "screen").read_text()
    assert re.fullmatch(f"train.py: error: {finished}.*Permission denied\n", screen)
    assert status == 2 and contents(finished) == before


def test_two_runs_on_one_folder(refused, finished, tmp_path):
    """The other run holds the folder until it is killed, and its child, as a data
    loader's worker, does not hold it longer."""
    read, write = os.pipe()

    def other():
        with only_run(finished):
            child = fork(lambda: time.sleep(60), tmp_path / "screen")
            os.write(write, str(child).encode())
            time.sleep(60)

    process = fork(other, tmp_path / "screen")
    try:
        child = int(os.read(read, 100))
        refused("another run is at work there. Wait for it", number_of_epochs=2)
    finally:
        os.kill(process, signal.SIGKILL)
        status_of(process)
    os.kill(child, 0)  # is still there
    with only_run(finished):
        os.kill(child, signal.SIGKILL)
