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
    result, own = None, None
    try:
        result = work()
    except Exception as failed:  # of any kind: the others must not wait
        own = failed
    if isinstance(own, (ValueError, FileNotFoundError)):
        told: Exception | None = as_user_error(own)
    else:
        told = own and RuntimeError(f"process {rank}: {own}")
    found: list[Any] = [None] * processes
    distributed.all_gather_object(found, (result, told))
    if own is not None:
        raise own
    for _, error in found:
        if error is not None:
            raise error
    return [each for each, _ in found]


def as_user_error(error: ValueError | FileNotFoundError) -> Exception:
    """The same error as another process can raise it: it can be pickled.

    Example
    -------
    >>> as_user_error(UnicodeDecodeError("utf-8", b"\\xff", 0, 1, "invalid start byte"))
    ValueError("'utf-8' codec can't decode byte 0xff in position 0: invalid start byte")
    """
    kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
    return error if type(error) is kind else kind(f"{error}")
