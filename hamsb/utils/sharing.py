"""Work that the processes of a run share: each does a part, and all have the whole."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import distributed

T = TypeVar("T")


def share(shared: bool = True) -> tuple[int, int]:
    """Which process this is, from 0, and of how many the work is shared by.

    Arguments
    ---------
    shared : bool
        Without, or without a process group of torch.distributed, one process does all.

    Example
    -------
    >>> share()
    (0, 1)
    """
    if not (shared and distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def own_part(count: int, shared: bool = True) -> list[int]:
    """Which of ``count`` things this process works on: drawn once and for all, so that
    no order of theirs gives one process the long ones.

    Arguments
    ---------
    count : int
    shared : bool
        As for `share`.

    Returns
    -------
    list of int
        Ascending; of all processes together each once, and numbers that differ by one
        at most.

    Example
    -------
    >>> own_part(3)
    [0, 1, 2]
    """
    rank, processes = share(shared)
    if processes == 1:
        return list(range(count))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return sorted(order[rank::processes].tolist())


def gathered(work: Callable[[], T], shared: bool = True) -> list[T]:
    """What a function returns in each process, in their order; every process has all.

    Every process must call it, also one that has nothing to do. Where the function fails
    in one of them, none waits for it: all raise.

    Arguments
    ---------
    work : callable
        Without arguments; what it returns can be pickled.
    shared : bool
        As for `share`.

    Returns
    -------
    list
        One a process.

    Raises
    ------
    ValueError, FileNotFoundError
        As the function raised it in any process.
    RuntimeError
        It raised something else in another process.

    Example
    -------
    >>> gathered(lambda: "all of it")
    ['all of it']
    """
    rank, processes = share(shared)
    if processes == 1:
        return [work()]
    mine: tuple[Any, type[Exception] | None, str]  # result, or kind of error and message
    error = None
    try:
        mine = work(), None, ""
    except Exception as failed:  # of any kind: the others must not wait
        error, mine = failed, (None, _kind(failed), f"{failed}")
    found: list[Any] = [None] * processes
    distributed.all_gather_object(found, mine)
    if error is not None:
        raise error
    for other, (_, kind, message) in enumerate(found):
        if kind is RuntimeError:
            raise RuntimeError(f"process {other}: {message}")
        if kind is not None:
            raise kind(message)
    return [each for each, *_ in found]


def _kind(error: Exception) -> type[Exception]:
    """What another process raises in the place of an error."""
    for kind in (FileNotFoundError, ValueError):
        if isinstance(error, kind):
            return kind
    return RuntimeError
