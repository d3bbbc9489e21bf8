"""Recordings on their way to embeddings: read by workers, embedded many at a time.

Only recordings of exactly one length are embedded together, so that nothing is padded:
padding changes an embedding by some percent, equal lengths by rounding alone.
"""

import multiprocessing
import os
import traceback
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from hamsb.utils.checks import check_whole
from hamsb.utils.sharing import as_user_error
from hamsb.utils.workers import outlive_sigterm, start_server
from hamsb.verification.encoding import Encoder

# Together on an accelerator, at most: 32 utterances of 8 s at 16 kHz.
_SAMPLES = 2**22
_FEW = 100  # recordings that are not worth starting workers for unasked
_LOOKED_AT = 256  # recordings whose lengths a worker tells at a time


class Reader(Protocol):
    """Reads recordings of one kind. It is pickled on its way to the workers."""

    def name(self, recording: Any) -> object:
        """What an error calls a recording."""

    def length(self, recording: Any) -> tuple[int, str]:
        """About how many samples it will have, without reading it; and what is the same
        for recordings of one length."""

    def read(self, recording: Any) -> Tensor | None:
        """Its samples [T], float32 on the CPU; None leaves it out. Errors are ValueError
        or FileNotFoundError."""


class Batch(NamedTuple):
    """Recordings of one length.

    Attributes
    ----------
    numbers : list of int
        B places in the sequence of recordings.
    samples : int
        The length of each.
    values : torch.Tensor
        Their audio [B, T], or their embeddings [B, D], float32 on the CPU.
    """

    numbers: list[int]
    samples: int
    values: Tensor


def embed_recordings(
    recordings: Sequence[Any],
    reader: Reader,
    encoder: Encoder,
    batch_size: int | None = None,
    num_workers: int | None = 0,
    device: torch.device | str | None = None,
    multiprocessing_context: str | None = None,
) -> Iterator[Batch]:
    """Embed recordings: one after the other, or those of one length together.

    Arguments
    ---------
    recordings : sequence
        N of them, as the reader takes them.
    reader : Reader
    encoder : Encoder
    batch_size : int, optional
        B, at most. By default 1 on a CPU or an unknown device, and up to 262 s of audio
        (at 16 kHz) on an accelerator.
    num_workers : int, optional
        Processes that read; 0 reads in this one. None takes 0 on a CPU, and on an
        accelerator as many as the machine has cores, up to 8. On a CPU workers embed too,
        each with one thread, where they are at least two, no fewer than torch's threads
        here, and forked; else there are none, since they would take the network's time.
    device : torch.device or str, optional
        Where the encoder computes; audio is handed to it there.
    multiprocessing_context : str, optional
        How workers are started: fork, forkserver or spawn; by default as Python does.

    Yields
    ------
    Batch
        Of embeddings. Recordings come in their order where each is alone, and else from
        the longest to the shortest; the number of workers changes nothing in it.

    Raises
    ------
    ValueError, FileNotFoundError
        As the reader and the encoder raise them; a number out of range.
    """
    check_numbers(batch_size, num_workers)
    device = None if device is None else torch.device(device)
    accelerated = device is not None and device.type != "cpu"
    if num_workers is None:
        cores = min(8, os.cpu_count() or 1) if accelerated else 0
        num_workers = cores if len(recordings) > _FEW else 0
    workers = min(num_workers, len(recordings))
    embedding = (
        device is not None
        and not accelerated
        and workers >= max(2, torch.get_num_threads())
        and (multiprocessing_context or multiprocessing.get_start_method()) == "fork"
    )
    if device is not None and not accelerated and not embedding:
        workers = 0
    pool = _Pool(
        _Work(reader, encoder if embedding else None),
        workers,
        device is not None and device.type == "cuda",
        multiprocessing_context,
    )
    alone = batch_size == 1 or (batch_size is None and not accelerated)
    try:
        if alone:
            plan = [[number] for number in range(len(recordings))]
        else:
            plan = _equal_lengths(pool, recordings, batch_size)
        batches = pool.run(
            [("batches", numbers, [recordings[i] for i in numbers]) for numbers in plan]
        )
        if embedding:  # rows that stay in shared memory would each keep a file open
            yield from (each._replace(values=each.values.clone()) for each in batches)
        else:
            unasked = batch_size is None
            yield from _embed(batches, recordings, reader, encoder, device, unasked)
    finally:
        pool.close()


def _embed(
    batches: Iterable[Batch],
    recordings: Sequence[Any],
    reader: Reader,
    encoder: Encoder,
    device: torch.device | None,
    unasked: bool,
) -> Iterator[Batch]:
    """Embeddings from audio, in this process; an accelerator computes those of a batch
    while the next is fetched. A model that mixes what is in a batch, as one with
    ``norm_type: batch`` does, is given no batches unless they were asked for."""
    before: _Started | None = None
    mixes: bool | None = None if unasked else False
    for batch in batches:
        wavs = (
            batch.values if device is None else batch.values.to(device, non_blocking=True)
        )
        names = [reader.name(recordings[i]) for i in batch.numbers]
        if mixes is None and len(wavs) > 1:
            mixes = _mixes(encoder, wavs, names)
        if mixes:
            for number, name, wav in zip(batch.numbers, names, wavs):
                one = Batch([number], batch.samples, wav.unsqueeze(0))
                yield _Started(encoder, [name], one, one.values).finish()
            continue
        started = _Started(encoder, names, batch, wavs)
        if started.event is None:
            yield started.finish()
            continue
        if before is not None:
            yield before.finish()
        before = started
    if before is not None:
        yield before.finish()


def _mixes(encoder: Encoder, wavs: Tensor, names: list[object]) -> bool:
    """Whether an embedding depends on what else is in the batch by more than the
    rounding of bfloat16."""
    together = encoder.start(wavs, names)[0].flatten().float()
    alone = encoder.start(wavs[:1], names[:1])[0].flatten().float()
    return bool((together - alone).norm() > 0.1 * alone.norm())


def check_numbers(batch_size: int | None, num_workers: int | None) -> None:
    """ValueError where there can be no such batches or workers."""
    if batch_size is not None:
        check_whole("batch_size", batch_size, least=1)
    if num_workers is not None:
        check_whole("num_workers", num_workers, least=0)


def _equal_lengths(
    pool: "_Pool", recordings: Sequence[Any], batch_size: int | None
) -> list[list[int]]:
    """Numbers of recordings that are embedded together, the longest first, so that what
    does not fit into memory shows at once."""
    parts = range(0, len(recordings), _LOOKED_AT)
    looked: list[_Request] = [
        ("lengths", [], recordings[at : at + _LOOKED_AT]) for at in parts
    ]
    lengths: list[tuple[int, str]] = list(pool.run(looked))
    equal: dict[str, list[int]] = {}
    for number, (_, key) in enumerate(lengths):
        equal.setdefault(key, []).append(number)
    plan = []
    for numbers in sorted(equal.values(), key=lambda each: -lengths[each[0]][0]):
        samples = max(1, lengths[numbers[0]][0])
        most = batch_size or max(1, _SAMPLES // samples)
        plan += [numbers[at : at + most] for at in range(0, len(numbers), most)]
    return plan


_Request = tuple[str, list[int], Sequence[Any]]  # what for, numbers, and recordings


class _Started:
    """Embeddings that the device computes while the caller goes on."""

    def __init__(self, encoder: Encoder, names: list[object], batch: Batch, wavs: Tensor):
        self.encoder, self.names, self.batch = encoder, names, batch
        found = encoder.start(wavs, names).detach().reshape(len(names), -1).float()
        self.event = None
        if found.device.type == "cuda":
            self.values = found.to("cpu", non_blocking=True)
            self.event = torch.cuda.current_stream(found.device).record_event()
        else:
            self.values = found.to("cpu", copy=True)  # an encoder may reuse its buffer

    def finish(self) -> Batch:
        """Wait for them; ValueError where they are not finite."""
        if self.event is not None:
            self.event.synchronize()
            self.values = self.values.clone()  # out of pinned memory
        numbers, samples, _ = self.batch
        self.encoder.check(self.values, self.names, [samples] * len(numbers))
        return Batch(numbers, samples, self.values)


class _Work(Dataset):
    """What a worker does on request."""

    def __init__(self, reader: Reader, encoder: Encoder | None):
        self.reader = reader
        self.encoder = encoder  # None: the caller embeds

    def __getitem__(self, request):
        """What was requested, as a list; and the last of it is an error, if it is."""
        kind, numbers, recordings = request
        done: list[Any] = []
        try:
            if kind == "lengths":
                return [self.reader.length(recording) for recording in recordings]
            for batch in self._batches(numbers, recordings):
                if self.encoder is not None:
                    found = dict(zip(numbers, recordings))
                    names = [self.reader.name(found[i]) for i in batch.numbers]
                    with torch.no_grad():
                        batch = _Started(self.encoder, names, batch, batch.values).finish()
                done.append(batch)
        except (ValueError, FileNotFoundError) as error:
            done.append(as_user_error(error))
        except Exception:
            # DataLoader would raise it from within, where it keeps the workers.
            if get_worker_info() is None:
                raise
            done.append(RuntimeError(f"in a worker process:\n{traceback.format_exc()}"))
        return done

    def _batches(self, numbers, recordings):
        """Audio of one length together, whatever the headers told."""
        wavs: dict[int, dict[int, Tensor]] = {}
        for number, recording in zip(numbers, recordings):
            wav = self.reader.read(recording)
            if wav is not None:
                wavs.setdefault(len(wav), {})[number] = wav
        for samples, equal in wavs.items():
            yield Batch([*equal], samples, torch.stack([*equal.values()]))


class _Pool:
    """Workers that stay, and are given work more than once."""

    def __init__(self, work: _Work, workers: int, pinned: bool, context: str | None):
        self.work = work
        self.requests: list[_Request] = []
        self.loader: DataLoader | None = None
        if workers:
            start_server(context)
            # A generator of its own, or the run's random numbers would change.
            self.loader = DataLoader(
                work,
                batch_size=None,
                sampler=self.requests,
                num_workers=workers,
                collate_fn=_unchanged,
                pin_memory=pinned,
                worker_init_fn=outlive_sigterm,
                multiprocessing_context=context,
                persistent_workers=True,
                generator=torch.Generator(),
            )

    def run(self, requests: list[_Request]) -> Iterator[Any]:
        """What the requests give, one after the other, in their order."""
        for answer in self._answers(requests):
            for each in answer:
                if isinstance(each, Exception):
                    raise each
                yield each

    def _answers(self, requests: list[_Request]) -> Iterator[list[Any]]:
        if self.loader is None:
            return map(self.work.__getitem__, requests)
        self.requests[:] = requests
        return iter(self.loader)

    def close(self) -> None:
        """End the workers; an error's traceback would keep them."""
        self.loader = None


def _unchanged(answer):
    """In the place of a collate function."""
    return answer
