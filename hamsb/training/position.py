"""Where a training stands within an epoch, for a checkpoint there to go on exactly."""

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)

from hamsb.utils.sharing import gathered, share


@register_checkpoint_hooks
class Position:
    """What a checkpoint within an epoch holds beside SpeechBrain's: the random number
    generators of each process, and what the log has the means of.

    Attributes
    ----------
    state : dict
        Empty but from `note` to the save, and from a load to `take`.
    """

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    def note(self, **values: Any) -> None:
        """Set the state before it is saved; all processes do.

        Arguments
        ---------
        **values : plain numbers and tensors, or lists and dicts of them
            Kept as they are, for the main process.
        """
        self.state = {"random": gathered(random_state), **values}

    def take(self) -> dict[str, Any]:
        """Set the generators as they were, of as many processes, and return the other
        values, or {} where no checkpoint within an epoch was loaded, or where that has
        been asked before."""
        state, self.state = self.state, {}
        states = state.pop("random", [])
        rank, processes = share()
        if processes == len(states):  # others draw no masks, see `bound_to_processes`
            set_random_state(states[rank])
        return state

    @mark_as_saver
    def _save(self, path):
        torch.save(self.state, path)

    @mark_as_loader
    def _load(self, path, end_of_epoch):
        if not end_of_epoch:
            self.state = torch.load(path, map_location="cpu", weights_only=True)


def own_share(noted: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a process has of what all have noted: its own, or, where there are more or
    fewer now, the mean of all.

    Arguments
    ---------
    noted : sequence of mapping
        Of each process then: numbers, tensors, and lists and mappings of them, alike.

    Example
    -------
    >>> own_share([{"loss": 1.5}])
    {'loss': 1.5}
    """
    rank, processes = share()
    return dict(noted[rank]) if processes == len(noted) else _mean(noted)


def _mean(values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, Mapping):
        return {name: _mean([each[name] for each in values]) for name in first}
    if isinstance(first, list):
        return [_mean(each) for each in zip(*values)]
    if isinstance(first, torch.Tensor) and not first.is_floating_point():
        return first  # a count
    return sum(values) / len(values)


def random_state() -> dict[str, Any]:
    """The states of Python's, numpy's and torch's generators, for `set_random_state`."""
    name, keys, *rest = np.random.get_state(legacy=True)
    on_cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    return {
        "python": random.getstate(),
        "numpy": [str(name), torch.from_numpy(np.asarray(keys, np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if on_cuda else None,
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Have the generators go on as they would have after `random_state`."""
    name, keys, *rest = state["numpy"]
    random.setstate(state["python"])
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


class Feed:
    """The batches of an epoch, and how long they were waited for.

    Arguments
    ---------
    loader : iterable
        A data loader.
    begun : callable, optional
        Called when the loader has begun, before its first batch is asked for; it may
        draw random numbers where it begins.

    Attributes
    ----------
    waited : float
        Seconds in which the training waited for a batch, the loader's start included.
    largest : int
        Utterances of the largest batch.

    Example
    -------
    >>> feed = Feed([["a", "b"], ["c"]])
    >>> [*feed], feed.largest, feed.waited <= feed.seconds
    ([['a', 'b'], ['c']], 2, True)
    """

    def __init__(self, loader: Iterable, begun: Callable[[], object] = lambda: None):
        self.loader = loader
        self.begun = begun
        self.waited = 0.0
        self.earlier = 0.0
        self.largest = 0
        self.start = time.perf_counter()

    def __len__(self) -> int:
        return len(self.loader)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator:
        self.start = asked = time.perf_counter()
        batches = iter(self.loader)
        self.begun()
        for batch in batches:
            self.waited += time.perf_counter() - asked
            self.largest = max(self.largest, len(batch))
            yield batch
            asked = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Since the first batch was asked for, those before an interruption included."""
        return self.earlier + time.perf_counter() - self.start

    def go_on(self, waited: float, seconds: float, largest: int) -> None:
        """Add what an interrupted start has taken for its part of the epoch."""
        self.waited += waited
        self.earlier += seconds
        self.largest = max(self.largest, largest)

    def facts(self, batches: int) -> dict[str, float]:
        """What the log tells.

        Arguments
        ---------
        batches : int
            Of one step of the optimizer, those of all processes.

        Returns
        -------
        dict
            ``global_batch``, the utterances of one step of the optimizer;
            ``loader_wait``, ``waited``; ``loader_wait_share``, what part that is of the
            time since the first batch was asked for.
        """
        return {
            "global_batch": batches * self.largest,
            "loader_wait": round(self.waited, 3),
            "loader_wait_share": round(self.waited / self.seconds, 4),
        }
