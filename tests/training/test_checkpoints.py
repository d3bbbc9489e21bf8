"""Checkpoints that are whole or not there, whatever happens to a save."""

import errno
import inspect
import os
import re
import resource
import signal
import sys
import time
from datetime import timedelta

import numpy as np
import pytest
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain import Brain
from speechbrain.utils import checkpoints as speechbrain
from speechbrain.utils.epoch_loop import EpochCounter

from hamsb.training.checkpoints import LOCK, Checkpointer

# The events by which a process reads or changes the file system.
STEPS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "half-written"}


@speechbrain.register_checkpoint_hooks
class Note:
    """A number, written in two halves; ``middle`` is called between them."""

    def __init__(self, number=0, middle=lambda: None):
        self.number = number
        self.middle = middle

    @speechbrain.mark_as_saver
    def save(self, path):
        with open(path, "w", encoding="utf-8") as file:
            file.write("number ")
            file.flush()
            sys.audit("half-written")
            self.middle()
            file.write(str(self.number))

    @speechbrain.mark_as_loader
    def load(self, path, end_of_epoch):
        word, number = path.read_text(encoding="utf-8").split()
        self.number = int(number)


def make(folder, number=0, middle=lambda: None):
    """A checkpointer of a module and two notes, all three bearing a number."""
    module = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(module.weight, number)
    notes = {"first": Note(number, middle), "second": Note(number)}
    return Checkpointer(folder, {"module": module, **notes})


def resume(folder):
    """The number that a new start finds; None without a checkpoint."""
    checkpointer = make(folder, number=-1)
    if checkpointer.recover_if_possible() is None:
        return None
    loaded = checkpointer.recoverables
    number = loaded["first"].number
    assert loaded["second"].number == number == loaded["module"].weight.item()
    return number


def numbers(checkpointer):
    return [checkpoint.meta["number"] for checkpoint in checkpointer.find_checkpoints()]


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def hidden(folder):
    return [path for path in folder.glob(".*") if path.name != LOCK]


def fork(function, *arguments):
    """Start a process, which lives a minute at most; returns its id."""
    process = os.fork()
    if process == 0:
        signal.alarm(60)
        status = 1
        try:
            function(*arguments)
            status = 0
        finally:
            os._exit(status)
    return process


def end(process):
    """Wait for a process; its exit status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def kill_self():
    os.kill(os.getpid(), signal.SIGKILL)


def fail(error):
    raise error


# ------------------------------------------------------------------- it drops in


def test_arguments_are_speechbrains():
    methods = "__init__", "save_checkpoint", "save_and_keep_only", "delete_checkpoints"
    for name in methods:
        ours = inspect.signature(getattr(Checkpointer, name)).parameters
        theirs = inspect.signature(getattr(speechbrain.Checkpointer, name)).parameters
        own = ["pretrained_model"] if name == "__init__" else []
        assert list(ours) == [*theirs, *own]
        assert {p.kind for p in ours.values()} == {p.kind for p in theirs.values()}


def test_a_yaml_names_it_and_speechbrain_reads_what_it_writes(tmp_path):
    text = f"""
counter: !new:speechbrain.utils.epoch_loop.EpochCounter
    limit: 3
checkpointer: !new:hamsb.Checkpointer
    checkpoints_dir: {tmp_path}/save
    recoverables:
        counter: !ref <counter>
"""
    loaded = load_hyperpyyaml(text)
    next(loaded["counter"])
    saved = loaded["checkpointer"].save_checkpoint({"number": 1})
    counter = EpochCounter(3)
    theirs = speechbrain.Checkpointer(tmp_path / "save", {"counter": counter})
    assert theirs.recover_if_possible() == saved
    assert counter.current == 1


def test_a_checkpoint_tells_its_final_paths(tmp_path):
    saved = make(tmp_path).save_checkpoint({"number": 5}, end_of_epoch=False)
    assert [saved] == make(tmp_path).list_checkpoints()
    assert saved.path.parent == tmp_path and saved.path.name.startswith("CKPT+")
    assert all(path.is_file() for path in saved.paramfiles.values())
    assert saved.meta["number"] == 5 and not saved.meta["end-of-epoch"]
    assert {path.name for path in tmp_path.iterdir()} == {LOCK, saved.path.name}


def test_checkpoints_of_one_second_have_different_names(tmp_path):
    paths = [make(tmp_path, n).save_checkpoint({"number": n}).path for n in range(3)]
    assert len(set(paths)) == 3
    assert numbers(make(tmp_path)) == [2, 1, 0]


def test_a_named_checkpoint_is_replaced(tmp_path):
    older = make(tmp_path, 1)
    older.add_recoverable("dropped", Note(1))
    older.save_checkpoint({"number": 1}, name="v1.0")
    saved = make(tmp_path, 2).save_checkpoint({"number": 2}, name="v1.0")
    assert saved.path == tmp_path / "CKPT+v1.0"
    assert sorted(saved.path.iterdir()) == sorted(
        [saved.path / "CKPT.yaml", *saved.paramfiles.values()]
    )
    assert [saved] == make(tmp_path).list_checkpoints() and not hidden(tmp_path)


def test_a_saver_may_write_a_folder(tmp_path):
    def save(note, path):
        (path / "within").mkdir(parents=True)
        (path / "within" / "file").write_text(str(note.number))

    hooks = {"note": save}
    saved = Checkpointer(tmp_path, {"note": Note(3)}, None, hooks).save_checkpoint()
    assert (saved.paramfiles["note"] / "within" / "file").read_text() == "3"


# ------------------------------------------------------- checkpoints that lack something


def test_a_checkpoint_that_lacks_a_recoverable_is_refused_before_loading(tmp_path):
    saved = make(tmp_path, 1).save_checkpoint({"number": 1})
    later = make(tmp_path, 2)
    later.add_recoverables({"schedule": Note(2), "third": Note(2)})
    before = contents(tmp_path)
    message = rf"^{re.escape(str(saved.path))} has no schedule, third, .*output_folder"
    for load in (later.recover_if_possible, lambda: later.load_checkpoint(saved)):
        with pytest.raises(ValueError, match=message):
            load()
    assert later.recoverables["first"].number == 2 and contents(tmp_path) == before


def test_what_speechbrain_lets_a_checkpoint_lack(tmp_path):
    make(tmp_path, 1).save_checkpoint({"number": 1})
    later = make(tmp_path, 2)
    later.add_recoverable("optional", Note(2), optional_load=True)
    later.add_recoverable("dataloader-TRAIN", Note(2))
    with pytest.warns(UserWarning, match="missing a load path"):
        later.recover_if_possible()
    partial = make(tmp_path, 2)
    partial.allow_partial_load = True
    partial.add_recoverables({"schedule": Note(2)})
    partial.recover_if_possible()
    for checkpointer in (later, partial):
        assert checkpointer.recoverables["first"].number == 1


# ------------------------------------------------------------------ saves that fail


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()]
)
def test_a_failed_save_leaves_the_earlier_ones(tmp_path, error):
    make(tmp_path, 1).save_checkpoint({"number": 1})
    before = contents(tmp_path)
    with pytest.raises(type(error)):
        make(tmp_path, 2, lambda: fail(error)).save_and_keep_only({"number": 2})
    assert contents(tmp_path) == before and not hidden(tmp_path)
    assert resume(tmp_path) == 1
    make(tmp_path, 3).save_and_keep_only({"number": 3})
    assert resume(tmp_path) == 3


def test_a_disk_that_takes_no_more_leaves_the_earlier_ones(tmp_path):
    def save():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        module = torch.nn.Linear(100, 100)
        with pytest.raises((OSError, RuntimeError)):  # of torch.save
            Checkpointer(tmp_path, {"module": module}).save_checkpoint()

    make(tmp_path, 1).save_checkpoint({"number": 1})
    before = contents(tmp_path)
    assert end(fork(save)) == 0
    assert contents(tmp_path) == before and not hidden(tmp_path)


def test_a_flush_that_fails_is_a_failed_save(tmp_path, monkeypatch):
    make(tmp_path, 1).save_checkpoint({"number": 1})
    flush = OSError(errno.EIO, "Input/output error")
    monkeypatch.setattr(os, "fsync", lambda descriptor: fail(flush))
    with pytest.raises(OSError, match="Input/output"):
        make(tmp_path, 2).save_checkpoint({"number": 2})
    assert numbers(make(tmp_path)) == [1]
    refused = OSError(errno.EINVAL, "this file system cannot flush folders")
    monkeypatch.setattr(os, "fsync", lambda descriptor: fail(refused))
    make(tmp_path, 3).save_checkpoint({"number": 3})
    assert resume(tmp_path) == 3


def test_all_of_a_checkpoint_is_flushed_before_it_bears_its_name(tmp_path, monkeypatch):
    flushed = []

    def record(descriptor):
        flushed.append(os.stat(descriptor).st_ino)
        named.append(list(tmp_path.glob("CKPT*")))

    named = []
    monkeypatch.setattr(os, "fsync", record)
    saved = make(tmp_path).save_checkpoint()
    within = [*saved.path.iterdir(), saved.path]
    assert sorted(flushed[:-1]) == sorted(path.stat().st_ino for path in within)
    assert not any(named[:-1])
    assert flushed[-1] == tmp_path.stat().st_ino and named[-1] == [saved.path]


@pytest.mark.parametrize("value", [np.float64(0.5), (1, 2), torch.tensor(1.0)])
def test_meta_that_cannot_be_read_back_is_a_value_error(tmp_path, value):
    with pytest.raises(ValueError, match="EER"):
        make(tmp_path).save_checkpoint({"EER": value})
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------- processes that die


def save_and_die(folder, name, at):
    """Replace checkpoint 1 by 2, and be killed at a step of that."""
    checkpointer, steps = make(folder, 2), 0

    def count(event, arguments):
        nonlocal steps
        if event in STEPS:
            steps += 1
            if steps == at:
                kill_self()

    sys.addaudithook(count)
    checkpointer.save_and_keep_only({"number": 2}, name=name)


@pytest.mark.parametrize("name", [None, "best"])
def test_a_process_may_be_killed_at_any_step(tmp_path, name):
    """Saving, replacing and deleting, killed before each thing it does."""
    found = []
    for step in range(1, 200):
        folder = tmp_path / str(step)
        make(folder, 1).save_checkpoint({"number": 1}, name=name)
        status = end(fork(save_and_die, folder, name, step))
        assert status in (0, -signal.SIGKILL)
        found.append(resume(folder))
        make(folder, 3).save_and_keep_only({"number": 3})
        assert resume(folder) == 3 and not hidden(folder)
        assert len(list(folder.glob("CKPT*"))) == 1
        if status == 0:
            break
    first = found.index(2)
    assert found == [1] * first + [2] * (len(found) - first)
    assert first > 10 and len(found) - first > 5  # killed in the save, in the deletion


def test_what_a_dead_process_left_goes_at_the_next_save(tmp_path):
    make(tmp_path, 1).save_checkpoint({"number": 1})
    save = make(tmp_path, 2, kill_self).save_checkpoint
    assert end(fork(save, {"number": 2})) == -signal.SIGKILL
    (left,) = hidden(tmp_path)
    assert (left / "CKPT.yaml").exists() and (left / "first.ckpt").exists()
    assert numbers(make(tmp_path)) == [1] and resume(tmp_path) == 1
    make(tmp_path, 3).save_checkpoint({"number": 3})
    assert not hidden(tmp_path) and numbers(make(tmp_path)) == [3, 1]


def test_what_a_live_process_writes_stays(tmp_path):
    begun, go_on = os.pipe(), os.pipe()

    def wait():
        os.write(begun[1], b".")
        os.read(go_on[0], 1)

    saver = fork(make(tmp_path, 2, wait).save_checkpoint, {"number": 2})
    os.read(begun[0], 1)
    assert len(hidden(tmp_path)) == 1
    make(tmp_path, 3).save_checkpoint({"number": 3})
    with pytest.raises(OSError, match="full"):
        make(tmp_path, 4, lambda: fail(OSError("full"))).save_checkpoint({"number": 4})
    assert numbers(make(tmp_path)) == [3]
    os.write(go_on[1], b".")
    assert end(saver) == 0
    assert sorted(numbers(make(tmp_path))) == [2, 3]
    make(tmp_path, 5).save_checkpoint({"number": 5})
    assert not hidden(tmp_path)  # what 4 left while 2 was being written


# --------------------------------------------------------------------- what is kept


def test_orders_keep_their_first_and_leave_others_alone(tmp_path):
    checkpointer = make(tmp_path)
    for number, eer in enumerate([3.0, 1.0, 2.0, 5.0, 4.0]):
        checkpointer.save_checkpoint({"number": number, "EER": eer})
    checkpointer.save_checkpoint({"number": 5})
    checkpointer.delete_checkpoints(num_to_keep=2, min_keys=["EER"], importance_keys=[])
    assert numbers(checkpointer) == [5, 2, 1]
    checkpointer.delete_checkpoints(
        max_keys=["EER"], importance_keys=[lambda c: -c.meta["number"]]
    )
    assert numbers(checkpointer) == [2, 1]
    checkpointer.delete_checkpoints(
        num_to_keep=0, ckpt_predicate=lambda c: c.meta["number"] == 1
    )
    assert numbers(checkpointer) == [2]
    with pytest.raises(ValueError, match="num_to_keep=-1"):
        checkpointer.delete_checkpoints(num_to_keep=-1)


def test_no_call_changes_what_a_later_one_keeps(tmp_path):
    checkpointer, own = make(tmp_path), []
    checkpointer.save_and_keep_only({"number": 1}, num_to_keep=9)
    checkpointer.save_and_keep_only({"number": 2}, num_to_keep=9, importance_keys=own)
    assert own == []
    checkpointer.save_and_keep_only({"number": 3}, keep_recent=False)
    assert numbers(checkpointer) == [3, 2, 1]
    default = inspect.signature(speechbrain.Checkpointer.save_and_keep_only)
    assert default.parameters["importance_keys"].default == []


# ------------------------------------------------------------- Brain, several processes


class Fit(Brain):
    """Learns a weight; notes the weights it goes through."""

    def compute_forward(self, batch, stage):
        return self.modules.model(batch)

    def compute_objectives(self, predictions, batch, stage):
        return (predictions - 1).square().mean()

    def on_fit_batch_end(self, batch, outputs, loss, should_step):
        self.hparams.weights.append(self.modules.model.weight.item())

    def on_stage_end(self, stage, stage_loss, epoch=None):
        self.checkpointer.save_and_keep_only({"epoch": epoch})


def train(folder, middle=lambda: None):
    """Two epochs of four batches, with a checkpoint every second batch; the
    weights after each batch of this start."""
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    counter, note = EpochCounter(2), Note(0, middle)
    brain = Fit(
        {"model": model},
        lambda parameters: torch.optim.SGD(parameters, 0.1, momentum=0.5),
        {"weights": []},
        {"ckpt_interval_steps": 2, "noprogressbar": True},
        Checkpointer(folder, {"model": model, "counter": counter, "note": note}),
    )
    brain.hparams.weights.clear()
    try:
        data = torch.linspace(0.5, 1.0, 4).unsqueeze(1)
        brain.fit(counter, data, train_loader_kwargs={"batch_size": 1})
    except OSError:
        pass
    return brain.hparams.weights


def test_training_goes_on_from_the_last_whole_checkpoint(tmp_path):
    """Four batches an epoch; saves after the second and fourth, and at its end."""
    whole = train(tmp_path / "whole")
    assert len(whole) == 8
    # The save that fails, the batches trained until then, and those saved.
    for save, trained, saved in [(1, 2, 0), (4, 6, 4), (6, 8, 8)]:
        saves = iter(range(1, 99))

        def middle(failing=save, saves=saves):
            if next(saves) == failing:
                raise OSError(errno.ENOSPC, "No space left on device")

        folder = tmp_path / str(save)
        assert train(folder, middle) == whole[:trained]
        assert train(folder) == whole[saved:]


def test_processes_save_and_delete_together(tmp_path):
    def run(rank):
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
        torch.distributed.init_process_group(
            "gloo", f"file://{tmp_path}/store", timedelta(seconds=30), 2, rank
        )
        checkpointer = make(tmp_path / "save", rank)
        checkpointer.add_recoverable("shards", Note(), custom_save_hook=shard)
        if rank == 0:  # slow to rename; the other is slow to write
            os.fsync = lambda descriptor: time.sleep(0.005)
        for number in range(3):
            saved = checkpointer.save_checkpoint({"number": number})
            assert (saved is None) == (rank == 1)
            found = checkpointer.find_checkpoint()
            assert found.meta["number"] == number
            files = [found.path / f"shard{part}" for part in range(2)]
            assert all(file.exists() for file in files)
            checkpointer.delete_checkpoints(num_to_keep=2, importance_keys=[recency])
            assert numbers(checkpointer) == [number, number - 1][: number + 1]

    def recency(checkpoint):
        assert os.environ["RANK"] == "0"  # one process chooses
        return checkpoint.meta["number"]

    def shard(note, path):
        rank = os.environ["RANK"]
        time.sleep(0.2 * int(rank))
        path.with_name(f"shard{rank}").write_text(rank)

    processes = [fork(run, rank) for rank in range(2)]
    assert [end(process) for process in processes] == [0, 0]
    assert len(list((tmp_path / "save").glob("CKPT*"))) == 2
    assert not hidden(tmp_path / "save")
