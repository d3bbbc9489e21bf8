"""Processes of a data loader, and SIGTERM that a scheduler sends to all of a job."""

import os
import signal
import time
from multiprocessing import forkserver

import pytest
import torch
from torch.utils.data import DataLoader

from hamsb.utils.workers import outlive_sigterm, start_server
from hamsb.verification import batches
from runs import fork, status_of

pytestmark = pytest.mark.skipif(
    not hasattr(signal, "sigwaitinfo"), reason="Linux tells the sender"
)


class Slow(torch.utils.data.Dataset):
    """Tells its process."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return os.getpid()


class Reads:
    """Work of `hamsb.verification.batches`: one long recording after the other."""

    def __getitem__(self, request):
        return [os.getpid()]


@pytest.fixture
def server():
    """A function that stops Python's fork server, if there is one; it is then stopped
    after the test as well."""

    def stop():
        forkserver._forkserver._stop()

    stop()
    yield stop
    stop()


def sent_from_elsewhere(*processes):
    """SIGTERM, not sent by this process."""
    other = os.fork()
    if not other:
        for process in processes:
            os.kill(process, signal.SIGTERM)
        os._exit(0)
    os.waitpid(other, 0)
    time.sleep(0.2)


def read(init, context):
    """The processes that read a data set; after the second batch they, and what forks
    them, get SIGTERM."""
    pids = set()
    options = {"num_workers": 1, "prefetch_factor": 1, "multiprocessing_context": context}
    for number, batch in enumerate(DataLoader(Slow(), worker_init_fn=init, **options)):
        pids.add(int(batch))
        if number == 1:
            served = context == "forkserver"
            also = [forkserver._forkserver._forkserver_pid] * served
            sent_from_elsewhere(int(batch), *also)
    return pids


def gone(process):
    """Whether a process ends within some seconds."""
    for _ in range(100):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("context", ["fork", "forkserver"])
def test_workers_outlive_a_signal_that_is_not_their_loaders(context, server):
    start_server(context)
    (worker,) = read(outlive_sigterm, context)
    assert gone(worker)  # it ended when it was done
    with pytest.raises(RuntimeError, match="killed by signal: Terminated|exited unexp"):
        server()
        read(None, context)


def test_a_server_is_started_where_it_is_needed(server, monkeypatch):
    for context in (None, "fork", "spawn"):
        start_server(context)
        assert forkserver._forkserver._forkserver_pid is None
    monkeypatch.setattr("multiprocessing.get_start_method", lambda: "forkserver")
    start_server()
    assert forkserver._forkserver._forkserver_pid
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.parametrize("context", ["fork", "forkserver"])
def test_workers_that_read_for_embeddings_go_on(context, server):
    pool = batches._Pool(Reads(), 1, False, context)
    found = []
    for process in pool.run(range(9)):  # more than are read ahead
        found.append(process)
        if len(found) == 2:
            served = context == "forkserver"
            also = [forkserver._forkserver._forkserver_pid] * served
            sent_from_elsewhere(process, *also)
    assert len(found) == 9 and len({*found}) == 1
    pool.close()
    assert gone(found[0])


def test_workers_obey_their_parent(tmp_path):
    def obedient():
        outlive_sigterm(0)
        time.sleep(30)

    process = fork(obedient, tmp_path / "screen")
    time.sleep(0.5)
    os.kill(process, signal.SIGTERM)
    assert status_of(process) == 0
