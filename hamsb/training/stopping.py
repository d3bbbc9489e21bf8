"""SIGTERM, which a scheduler as SLURM sends before it kills: the step is finished, a
checkpoint is saved, and the run ends.

Each process of a run is sent the signal, at a moment of its own, and a checkpoint is the
work of all of them together. So they agree on the step, see `Stopping.agreed`. The
processes of a data loader are sent it as well and must go on until the step is done, see
`hamsb.utils.workers`.
"""

import os
import signal
import threading
from types import TracebackType

import torch
from torch.distributed import ReduceOp, all_reduce, is_initialized

from hamsb.utils.command_line import Terminated


class Stopping:
    """Inside the block SIGTERM is noted and does nothing else.

    A second one ends the process as it always does. So does the first when the block is
    left, unless with `Terminated`. Only in the main thread, and only where nobody else
    has a handler for the signal; elsewhere the block does nothing.

    Arguments
    ---------
    device : str
        Of the run's tensors.

    Example
    -------
    >>> stopping = Stopping("cpu")
    >>> with stopping:
    ...     os.kill(os.getpid(), signal.SIGTERM)
    ...     asked = stopping.agreed()
    ...     stopping.asked = False  # else this would be the end
    >>> asked
    True
    """

    def __init__(self, device: str):
        self.device = device
        self.asked = False
        self.decided = False
        self.watching = False
        self.answer: torch.Tensor | None = None

    def __enter__(self) -> "Stopping":
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, self._note)
            self.watching = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self.watching:
            return
        self.watching = False
        ending = isinstance(error, Terminated)
        signal.signal(signal.SIGTERM, signal.SIG_IGN if ending else signal.SIG_DFL)
        if self.asked and not ending:
            os.kill(os.getpid(), signal.SIGTERM)

    def agreed(self) -> bool:
        """Whether to stop here; the same in all processes, each of which calls it after
        the same steps.

        Of several processes it is the answer to what each had noted one call earlier, so
        that nobody waits for it on a GPU.
        """
        if not is_initialized():
            self.decided = self.asked
            return self.decided
        self.decided = self.answer is not None and bool(self.answer)
        noted = torch.full((), self.asked, dtype=torch.int32, device=self.device)
        all_reduce(noted, ReduceOp.MAX)
        if self.answer is None:
            pinned = noted.device.type == "cuda"
            self.answer = torch.zeros((), dtype=torch.int32, pin_memory=pinned)
        self.answer.copy_(noted, non_blocking=True)
        return self.decided

    def _note(self, number: int, frame: object) -> None:
        self.asked = True
