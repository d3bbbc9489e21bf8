"""Processes that read for a data loader, when a scheduler ends the job: SIGTERM is sent to
all processes of a job, and these have to go on until the one that trains has finished its
step.
"""

import multiprocessing
import os
import signal
import threading
from typing import Any


def outlive_sigterm(worker: int) -> None:
    """A data loader's ``worker_init_fn``: SIGTERM ends the process only when it is sent by
    the process of the data loader. Linux alone tells who does; elsewhere nothing is
    changed.

    Arguments
    ---------
    worker : int
        Its number, which does not matter.
    """
    if not hasattr(signal, "sigwaitinfo"):
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    parent = multiprocessing.parent_process()
    sender = os.getppid() if parent is None else parent.pid

    def wait():
        while signal.sigwaitinfo([signal.SIGTERM]).si_pid != sender:
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def start_server(context: Any = None) -> None:
    """Start Python's fork server, where workers are started by it, with SIGTERM blocked,
    as it is then in its children: it ends with this process, and they see to the signal by
    `outlive_sigterm`. A server that runs already stays as it is.

    Arguments
    ---------
    context : str or multiprocessing context, optional
        How workers are started; by default as Python does.
    """
    method = context or multiprocessing.get_start_method()
    if getattr(method, "get_start_method", lambda: method)() != "forkserver":
        return
    from multiprocessing import forkserver, resource_tracker  # not everywhere

    resource_tracker.ensure_running()  # its start unblocks the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        forkserver.ensure_running()  # which inherits what is blocked
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
