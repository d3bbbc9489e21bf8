"""A batch whose tensors are one piece of memory.

A loader's worker hands each tensor of a batch to the main process by itself, some 0.4 ms
of the main process, and a device is sent each by itself. `PackedBatch` is handed over,
pinned and sent as one.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from speechbrain.dataio.batch import PaddedData
from torch import Tensor
from torch.utils.data import get_worker_info

_ALIGNED = 64  # bytes; where a tensor begins

# A worker's last batches. Who lets go of shared memory last has to free its pages, 0.1 ms
# a MB: so that is the worker. Two may wait for the main process, and it works with one.
_HANDED_OVER: deque[Tensor] = deque(maxlen=3)


class _Place(NamedTuple):
    """Where a tensor is in the memory."""

    start: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def stop(self) -> int:
        return self.start + torch.Size(self.shape).numel() * self.dtype.itemsize


class PackedBatch:
    """A batch as SpeechBrain's ``PaddedBatch``, in one piece of memory.

    What is a tensor in the examples is an attribute with ``data``, [B, ...], zero where an
    example has less of the first dimension, and ``lengths``, [B], relative to the longest.
    What else there is are lists.

    Arguments
    ---------
    examples : sequence of mapping
        All with the same keys, and tensors of one dtype and number of dimensions for each.

    Example
    -------
    >>> examples = [{"id": "a", "sig": torch.ones(2)}, {"id": "b", "sig": torch.ones(4)}]
    >>> batch = PackedBatch(examples).to("cpu")
    >>> batch.id, batch.sig.data.tolist(), batch.sig.lengths.tolist()
    (['a', 'b'], [[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]], [0.5, 1.0])
    """

    def __init__(self, examples: Sequence[Mapping[str, Any]]):
        self._length = len(examples)
        self._values: dict[str, list | tuple[_Place, _Place]] = {}
        end, tensors = 0, {}
        for key in examples[0]:
            values = [example[key] for example in examples]
            if not isinstance(values[0], Tensor):
                self._values[key] = values
                continue
            longest = max(len(value) for value in values)
            shape = (len(values), longest, *values[0].shape[1:])
            data = _Place(end, values[0].dtype, shape)
            lengths = _Place(_after(data.stop), torch.float32, (len(values),))
            end = _after(lengths.stop)
            self._values[key] = data, lengths
            tensors[key] = values
        if get_worker_info() is None:
            self._memory = torch.empty(end, dtype=torch.uint8)
        else:  # in shared memory from the first, as torch's default_collate does
            storage = torch.UntypedStorage._new_shared(end)
            self._memory = torch.empty(0, dtype=torch.uint8).set_(storage)
            _HANDED_OVER.append(self._memory)
        for key, values in tensors.items():
            self._fill(self[key], values)

    @staticmethod
    def _fill(place: PaddedData, values: list[Tensor]) -> None:
        longest = place.data.shape[1]
        for row, value in zip(place.data, values):
            row[: len(value)] = value
            row[len(value) :] = 0
        lengths = [len(value) / max(longest, 1) for value in values]
        place.lengths.copy_(torch.tensor(lengths))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._values:
            raise AttributeError(f"the batch has no {name}")
        value = self._values[name]
        return value if isinstance(value, list) else PaddedData(*map(self._tensor, value))

    def _tensor(self, place: _Place) -> Tensor:
        return self._memory[place.start : place.stop].view(place.dtype).view(place.shape)

    def __getitem__(self, name: str) -> Any:
        if name not in self._values:
            raise KeyError(name)
        return getattr(self, name)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator:
        """The values, in the order of the keys."""
        return map(self.__getitem__, self._values)

    def to(self, device: str | torch.device, non_blocking: bool = False) -> "PackedBatch":
        """Move it to a device."""
        self._memory = self._memory.to(device, non_blocking=non_blocking)
        return self

    def pin_memory(self) -> "PackedBatch":
        """Move it to pinned memory."""
        self._memory = self._memory.pin_memory()
        return self


def sent(values: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device; to a GPU from pinned memory, so that the host does
    not wait for what the GPU has yet to do.

    Example
    -------
    >>> sent(torch.tensor([1, 2]), torch.device("cpu"))
    tensor([1, 2])
    """
    if device.type == "cuda":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


def _after(place: int) -> int:
    return -(-place // _ALIGNED) * _ALIGNED
