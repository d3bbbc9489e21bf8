"""Locks between processes, and a file's digest."""

import hashlib
import os
import signal

import pytest

from hamsb.utils import files
from hamsb.utils.files import digest, lock, only_run
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


def test_digest_of_a_long_file(tmp_path):
    data = bytes(range(256)) * 10_000
    (tmp_path / "long").write_bytes(data)
    assert digest(tmp_path / "long") == hashlib.sha256(data).hexdigest()
