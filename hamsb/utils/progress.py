"""Progress bars: on a terminal alone, and gone when they are full."""

import os
from typing import Any

from tqdm import tqdm

OFF = "TQDM_DISABLE"  # tqdm's own variable, also for its other users in a process


def progress_bar(*args: Any, shown: bool = True, **options: Any) -> tqdm:
    """tqdm's bar, where it can be seen: not in a file that the screen is written to.

    Arguments
    ---------
    *args, **options
        As for ``tqdm``.
    shown : bool
        Whether one is wanted at all.

    Example
    -------
    >>> for path in progress_bar(["a.wav", "b.wav"], desc="embed", shown=False):
    ...     print(path)
    a.wav
    b.wav
    """
    hidden = not shown or bool(os.environ.get(OFF))
    options.setdefault("leave", False)
    options.setdefault("dynamic_ncols", True)
    options["disable"] = True if hidden else None
    return tqdm(*args, **options)
