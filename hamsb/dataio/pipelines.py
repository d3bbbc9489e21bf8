"""What a training dataset computes for an utterance: crops, and the speaker's index.

Each is a callable with ``takes`` and ``provides``, for SpeechBrain's
``add_dynamic_item``. Unlike a function that ``takes`` decorates inside of another one, it
can be sent to another process: a data loader's ``multiprocessing_context`` may be
``fork``, ``forkserver`` or ``spawn``. What is random in it comes from the utterance's
`Draw`, the item ``draw`` of a `RowDataset`.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.dataio.encoder import CategoricalEncoder
from torch import Tensor

from hamsb.dataio.audio import random_crop
from hamsb.dataio.draws import Draw
from hamsb.utils.checks import check_whole


class Step(Protocol):
    """A callable that knows the keys of its arguments and results."""

    takes: Sequence[str]
    provides: Sequence[str]
    __call__: Callable[..., Any]


class RandomCrop:
    """A random crop of an utterance, ``sig``, as `random_crop` draws it.

    Arguments
    ---------
    length : int
        Of the crop, in samples.
    seed : int
        Of the training, see `Draw`.
    """

    columns = ("wav", "start", "stop")
    takes = (*columns, "draw")
    provides = ("sig",)

    def __init__(self, length: int, seed: int = 0):
        check_whole("length", length, 1)
        self.length = length
        self.seed = seed

    def __call__(
        self, wav: str, start: str, stop: str, draw: Draw | None, view: int = 0
    ) -> Tensor:
        """[length], float32. Without a draw, from torch's generator."""
        random = None if draw is None else draw.generator(self.seed, view)
        return random_crop(wav, int(start), int(stop), self.length, random)


class TwoCrops:
    """Two random crops of an utterance, ``first`` and ``second``, drawn independently.

    Arguments are `RandomCrop`'s.
    """

    columns = RandomCrop.columns
    takes = RandomCrop.takes
    provides = ("first", "second")

    def __init__(self, length: int, seed: int = 0):
        self.crop = RandomCrop(length, seed)

    def __call__(
        self, wav: str, start: str, stop: str, draw: Draw | None
    ) -> tuple[Tensor, Tensor]:
        """[length] each, float32, of the views 0 and 1."""
        first, second = (self.crop(wav, start, stop, draw, view) for view in (0, 1))
        return first, second


class SpeakerIndex:
    """A speaker's index, ``spk_id_encoded``.

    Arguments
    ---------
    labels : CategoricalEncoder
        Speaker <-> index. It may be filled later.

    Example
    -------
    >>> labels = CategoricalEncoder()
    >>> labels.update_from_iterable(["id1", "id2"], sequence_input=False)
    >>> SpeakerIndex(labels)("id2")
    tensor([1])
    """

    takes = ("spk_id",)
    provides = ("spk_id_encoded",)

    def __init__(self, labels: CategoricalEncoder):
        self.labels = labels

    def __call__(self, speaker: str) -> Tensor:
        """[1], int64; an unknown speaker is a KeyError."""
        return self.labels.encode_sequence_torch([speaker])


def number_speakers(speakers: Iterable[str]) -> CategoricalEncoder:
    """Speaker <-> index, from 0 in the order in which they first occur.

    The same as ``CategoricalEncoder.update_from_iterable``, which looks through all
    indices that are taken for each new speaker: minutes for 100,000 of them.

    Arguments
    ---------
    speakers : iterable of str
        Of each utterance.

    Example
    -------
    >>> number_speakers(["id2", "id1", "id2"]).lab2ind
    {'id2': 0, 'id1': 1}
    """
    labels = CategoricalEncoder()
    for index, speaker in enumerate(dict.fromkeys(speakers)):
        labels.insert_label(speaker, index)
    return labels


def add_steps(dataset: DynamicItemDataset, *steps: Step) -> None:
    """Have a dataset compute what steps provide.

    Arguments
    ---------
    dataset : DynamicItemDataset
        Has the keys that they take.
    *steps : callable
        With attributes ``takes`` and ``provides``; one that provides nothing is left out.

    Example
    -------
    >>> row = {"wav": "a.wav", "start": "0", "stop": "16000", "spk_id": "id1"}
    >>> dataset = DynamicItemDataset({"a": row}, output_keys=["id"])
    >>> add_steps(dataset, RandomCrop(8000))
    """
    for step in steps:
        if step.provides:
            dataset.add_dynamic_item(step, list(step.takes), list(step.provides))
