"""SIGTERM in a training; a whole run that gets it is in tests/recipes/test_sigterm.py."""

import os
import signal
import threading
import time
from datetime import timedelta
from functools import partial

import torch

from hamsb.training.stopping import Stopping
from hamsb.utils.command_line import Terminated
from runs import fork, status_of


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def test_it_is_noted_and_ends_the_process_unless_the_run_has_ended_by_it(tmp_path):
    def without_checkpoint():
        with Stopping("cpu"):
            terminate()
            terminate()
            print("went on")

    def failing():
        with Stopping("cpu"):
            terminate()
            raise RuntimeError("lost the other process")

    def with_checkpoint():
        stopping = Stopping("cpu")
        try:
            with stopping:
                assert not stopping.agreed()
                terminate()
                assert stopping.agreed()
                raise Terminated
        except Terminated:
            terminate()  # torchrun's, after the scheduler's
            raise SystemExit(143) from None

    def before_and_after(function, status, said):
        screen = tmp_path / "screen"
        assert status_of(fork(function, screen)) == status, screen.read_text()
        assert screen.read_text() == said

    before_and_after(without_checkpoint, -signal.SIGTERM, "went on\n")
    before_and_after(failing, -signal.SIGTERM, "")
    before_and_after(with_checkpoint, 143, "")


def test_other_handlers_and_threads_are_left_alone(monkeypatch):
    seen = []
    older = signal.signal(signal.SIGTERM, lambda *_: seen.append("mine"))
    try:
        with Stopping("cpu") as stopping:
            terminate()
            assert seen == ["mine"] and not stopping.agreed()
    finally:
        signal.signal(signal.SIGTERM, older)
    with Stopping("cpu"):
        assert signal.getsignal(signal.SIGTERM) != older
    assert signal.getsignal(signal.SIGTERM) == older

    def elsewhere():
        with Stopping("cpu") as stopping:
            seen.append(stopping.watching)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == ["mine", False]


def test_processes_stop_at_the_same_step(tmp_path):
    """Whichever of them is sent the signal, and whenever."""

    def run(rank):
        torch.distributed.init_process_group(
            "gloo", f"file://{tmp_path}/store", timedelta(seconds=30), 2, rank
        )
        with Stopping("cpu") as stopping:
            for step in range(9):
                time.sleep(0.01 * rank)
                if rank == 1 and step == 3:
                    terminate()
                if stopping.agreed():
                    print(step)
                    stopping.asked = False
                    return

    screens = [tmp_path / f"screen{rank}" for rank in range(2)]
    processes = [fork(partial(run, rank), screens[rank]) for rank in range(2)]
    assert [status_of(process) for process in processes] == [0, 0]
    assert [screen.read_text() for screen in screens] == ["4\n", "4\n"]
