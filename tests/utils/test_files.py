"""Locks between processes, and a file's digest."""

import errno
import hashlib
import os
import signal

import pytest
import torch

from hamsb.utils import files
from hamsb.utils.files import digest, disk_errors, lock, only_run, replacing_folder
from runs import fork, status_of


@pytest.fixture
def holding(tmp_path):
    """A function: start a process that holds a file in one way or another; returns a
    function that kills it."""
    living = []

    def kill(process):
        living.remove(process)
        os.kill(process, signal.SIGKILL)
        status_of(process)

    def holding(path, shared):
        read, write = os.pipe()

        def other():
            with open(path, "a+") as file:
                assert lock(file, shared)
                os.write(write, b"held")
                signal.pause()

        living.append(fork(other, tmp_path / "screen"))
        assert os.read(read, 4) == b"held"
        return lambda process=living[-1]: kill(process)

    yield holding
    for process in [*living]:
        kill(process)


def test_shared_locks_exclude_the_exclusive_one_alone(holding, tmp_path):
    path = tmp_path / "file"
    for shared in (True, False):
        with open(path, "a+") as file:
            assert lock(file) and lock(file, shared=True)  # nobody else yet
        kill = holding(path, shared)
        with open(path, "a+") as file:
            assert not lock(file)
            assert lock(file, shared=True) == shared
        kill()
        with open(path, "a+") as file:
            assert lock(file)


def test_a_lock_that_is_changed_lets_others_in(holding, tmp_path):
    with open(tmp_path / "file", "a+") as file:
        assert lock(file) and lock(file, shared=True)
        holding(tmp_path / "file", shared=True)
        assert not lock(file)


def test_where_there_are_no_locks_runs_are_not_kept_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "fcntl", None)
    with open(tmp_path / "file", "w") as file:
        assert not lock(file)
    with only_run(tmp_path / "run"), only_run(str(tmp_path / "run")):
        assert (tmp_path / "run").is_dir()


def test_a_failed_run_leaves_no_folder_behind_that_it_made(tmp_path):
    def fail(folder, leave=False):
        with pytest.raises(KeyboardInterrupt), only_run(folder):
            if leave:
                (folder / "log.txt").touch()
            raise KeyboardInterrupt

    fail(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    fail(tmp_path / "run", leave=True)
    assert (tmp_path / "run" / "log.txt").is_file()
    (tmp_path / "mine").mkdir()
    fail(tmp_path / "mine")
    assert (tmp_path / "mine").is_dir()


def test_what_a_killed_run_left_is_removed(tmp_path, monkeypatch):
    run, save = tmp_path / "run", tmp_path / "run" / "save"
    for left in (run / ".export.0a1b2c3d.partial", run / ".0a1b2c3d.partial"):
        left.mkdir(parents=True)
        (left / "README.md").touch()
    save.mkdir()
    (save / ".prepare.json.123.partial").touch()
    kept = [save / "CKPT+1", run / "export", tmp_path / ".other.0a1b2c3d.partial"]
    for folder in kept:
        folder.mkdir()
    with monkeypatch.context() as other:
        other.setattr(files, "lock", lambda file: False)  # another run is at work there
        with pytest.raises(ValueError, match="another run"), only_run(run):
            pass
    assert len(list(run.rglob("*.partial"))) == 3
    with only_run(run):
        assert not list(run.rglob("*.partial"))
        assert all(folder.is_dir() for folder in kept)


def test_a_replaced_folder_is_never_half_there(tmp_path, monkeypatch):
    """Nor lost, where the new one cannot take its place."""
    folder, removed = tmp_path / "export", []
    folder.mkdir()
    (folder / "old").touch()
    rmtree, rename = files.shutil.rmtree, files.Path.rename

    def watched(path, **options):
        removed.append(path)
        assert path != folder
        rmtree(path, **options)

    monkeypatch.setattr(files.shutil, "rmtree", watched)
    with replacing_folder(folder) as partial:
        (partial / "new").touch()
    assert [path.name for path in folder.iterdir()] == ["new"] and removed

    def full(path, target):
        if target == folder and "new" not in os.listdir(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(files.Path, "rename", full)
    with pytest.raises(OSError, match="No space left"), replacing_folder(folder):
        pass
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [folder]


def test_a_full_disk_is_told_as_the_system_tells_it(tmp_path, monkeypatch):
    """And other errors of torch as they are, with nothing left behind."""
    with pytest.raises(RuntimeError, match="bug"), disk_errors(tmp_path):
        raise RuntimeError("a bug")
    assert not list(tmp_path.iterdir())
    write = files.Path.write_bytes

    def full(path, data):
        write(path, data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left") as raised, disk_errors(tmp_path):
        torch.save(torch.ones(10_000), "/dev/full")
    assert raised.value.errno == errno.ENOSPC
    assert isinstance(raised.value.__cause__, RuntimeError)
    assert not list(tmp_path.iterdir())


def test_digest_of_a_long_file(tmp_path):
    data = bytes(range(256)) * 10_000
    (tmp_path / "long").write_bytes(data)
    assert digest(tmp_path / "long") == hashlib.sha256(data).hexdigest()
