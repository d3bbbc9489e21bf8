"""From audio files to embeddings: each utterance once, never padded, kept on disk.

An utterance is known by a name, as trial lists have it, and its file by its whole path:
files of one name in two folders (VoxCeleb has thousands called ``00001.wav``) are two
files everywhere here.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from speechbrain.dataio.preprocess import AudioNormalizer

from hamsb.dataio.annotations import Utterance
from hamsb.dataio.audio import load_audio
from hamsb.utils.progress import progress_bar
from hamsb.utils.sharing import gathered, own_part, share
from hamsb.verification.batches import check_numbers, embed_recordings
from hamsb.verification.cache import EmbeddingCache, file_key
from hamsb.verification.encoding import Encoder
from hamsb.verification.lookup import Enrolment
from hamsb.verification.trials import Trials, place_in, speaker_of


@dataclasses.dataclass(frozen=True, eq=False)
class Embeddings:
    """One embedding for each utterance.

    Attributes
    ----------
    utterances : tuple of str
        N distinct names, as the trial lists name them.
    matrix : torch.Tensor
        [N, D], float32 on the CPU; row ``i`` belongs to ``utterances[i]``.
    seconds : torch.Tensor, optional
        [N], float64: the length of each utterance's audio.

    Example
    -------
    >>> embeddings = Embeddings(("id1/a.wav", "id2/a.wav"), torch.eye(2))
    >>> embeddings.matrix[embeddings.rows(["id2/a.wav"])]
    tensor([[0., 1.]])
    """

    utterances: tuple[str, ...]
    matrix: torch.Tensor
    seconds: torch.Tensor | None = None

    def __post_init__(self) -> None:
        n = len(self.utterances)
        if self.matrix.ndim != 2 or len(self.matrix) != n:
            raise ValueError(
                f"{n} utterances need a matrix [{n}, D], "
                f"got shape {tuple(self.matrix.shape)}"
            )
        if self.seconds is not None and self.seconds.shape != (n,):
            raise ValueError(
                f"{n} utterances need {n} lengths in seconds, "
                f"got shape {tuple(self.seconds.shape)}"
            )
        if len(self._row) != n:
            raise ValueError(f"{n - len(self._row)} of the utterances are named twice")

    def __len__(self) -> int:
        return len(self.utterances)

    @cached_property
    def _row(self) -> dict[str, int]:
        return {utterance: row for row, utterance in enumerate(self.utterances)}

    def rows(self, utterances: Iterable[str]) -> torch.Tensor:
        """The matrix row of each of M utterances, int64 [M]; ValueError if unknown."""
        try:
            return torch.tensor(
                [self._row[utterance] for utterance in utterances], dtype=torch.int64
            )
        except KeyError as error:
            raise ValueError(
                f"no embedding of {error.args[0]!r}; "
                "embed every utterance of the list first"
            ) from None

    def lengths(self) -> torch.Tensor:
        """The utterances' seconds, [N]; a ValueError where they are not known."""
        if self.seconds is None:
            raise ValueError("these embeddings were made without lengths in seconds")
        return self.seconds

    def select(self, names: Mapping[str, str]) -> "Embeddings":
        """Some of the utterances, under other names.

        Arguments
        ---------
        names : mapping of str to str
            New name -> name here. Several new names may share one.

        Returns
        -------
        Embeddings
            In the order of ``names``.

        Example
        -------
        >>> embeddings = Embeddings(("/corpus/a.wav", "/corpus/b.wav"), torch.eye(2))
        >>> embeddings.select({"id1/b": "/corpus/b.wav"}).matrix
        tensor([[0., 1.]])
        """
        rows = self.rows(names.values())
        seconds = None if self.seconds is None else self.seconds[rows]
        return Embeddings(tuple(names), self.matrix[rows], seconds)

    def with_models(self, models: Mapping[str, Sequence[str]]) -> "Embeddings":
        """The same utterances, and models of several of them.

        A model is the mean of its utterances' normalized embeddings, times their mean
        length, so that a length means the same for it as for an utterance. It has the
        seconds of all of them.

        Arguments
        ---------
        models : mapping of str to sequence of str
            A new name -> names here.

        Example
        -------
        >>> embeddings = Embeddings(("a", "b"), torch.tensor([[2.0, 0.0], [0.0, 4.0]]))
        >>> embeddings.with_models({"id1": ["a", "b"]}).matrix[2]
        tensor([1.5000, 1.5000])
        """
        if not models:
            return self
        rows, seconds = [], []
        for names in models.values():
            chosen = self.rows(names)
            own = self.matrix[chosen].double()
            lengths = torch.linalg.vector_norm(own, dim=1, keepdim=True)
            units = own / lengths.clamp_min(torch.finfo(torch.float64).tiny)
            rows.append((units.mean(0) * lengths.mean()).float())
            seconds.append(0.0 if self.seconds is None else self.seconds[chosen].sum())
        together = None
        if self.seconds is not None:
            together = torch.cat([self.seconds, torch.tensor(seconds, dtype=torch.float64)])
        return Embeddings(
            (*self.utterances, *models),
            torch.cat([self.matrix, torch.stack(rows)]),
            together,
        )

    def minus(self, mean: torch.Tensor) -> "Embeddings":
        """The same utterances with a vector [D] subtracted from each embedding."""
        return dataclasses.replace(self, matrix=self.matrix - mean)

    def mean(self) -> torch.Tensor:
        """The mean embedding, [D], float32."""
        return self.matrix.double().mean(0).float()

    def speaker_means(self) -> "Embeddings":
        """The mean embedding of each speaker, who is an utterance's first folder.

        Returns
        -------
        Embeddings
            Named by the speakers, sorted; without lengths in seconds.

        Example
        -------
        >>> matrix = torch.tensor([[1.0, 0.0], [0.0, 4.0], [3.0, 0.0]])
        >>> means = Embeddings(("id1/a", "id2/a", "id1/b"), matrix).speaker_means()
        >>> means.utterances, means.matrix
        (('id1', 'id2'), tensor([[2., 0.],
                [0., 4.]]))
        """
        speakers = [speaker_of(utterance) for utterance in self.utterances]
        names, means = speaker_means(self.matrix.double(), speakers)
        return Embeddings(names, means.float())


def speaker_means(
    embeddings: torch.Tensor, speakers: Sequence[str]
) -> tuple[tuple[str, ...], torch.Tensor]:
    """The mean embedding of each speaker.

    Arguments
    ---------
    embeddings : torch.Tensor
        [U, D], one an utterance.
    speakers : sequence of str
        U names: whose utterance each is.

    Returns
    -------
    names : tuple of str
        The S speakers, sorted.
    means : torch.Tensor
        [S, D], summed and returned in the type of the embeddings (float32 where that is
        narrower), on their device; not normalized.

    Raises
    ------
    ValueError
        No utterances, or unequal numbers of them.

    Example
    -------
    >>> embeddings = torch.tensor([[1.0, 0.0], [5.0, 5.0], [3.0, 2.0]])
    >>> speaker_means(embeddings, ["id2", "id1", "id2"])
    (('id1', 'id2'), tensor([[5., 5.],
            [2., 1.]]))
    """
    if len(embeddings) != len(speakers) or not len(speakers):
        raise ValueError(
            f"{len(embeddings)} embeddings and {len(speakers)} names: need a name each, "
            "and at least one."
        )
    names, found = np.unique(np.asarray(speakers, dtype=str), return_inverse=True)
    rows = torch.as_tensor(found, device=embeddings.device)
    values = embeddings if embeddings.dtype == torch.float64 else embeddings.float()
    sums = values.new_zeros(len(names), values.shape[1]).index_add_(0, rows, values)
    return tuple(names.tolist()), sums / rows.bincount().unsqueeze(1)


def embed_utterances(
    paths: Mapping[str, str | Path | Utterance],
    encode: Callable[[torch.Tensor], torch.Tensor],
    sample_rate: int = 16000,
    progress: bool = True,
    batch_size: int | None = None,
    cache: EmbeddingCache | None = None,
    shared: bool = False,
    num_workers: int | None = 0,
    device: torch.device | str | None = None,
    multiprocessing_context: str | None = None,
    faults: dict[str, str] | None = None,
) -> Embeddings:
    """Embed every utterance once: nothing is padded or cut.

    Files are read as SpeechBrain's ``EncoderClassifier.load_audio`` reads them:
    channels averaged to mono, resampled to ``sample_rate``.

    Arguments
    ---------
    paths : mapping of str to Path or Utterance
        The utterances and their files, or the stretches of them.
    encode : callable
        From audio [B, T], float32, to embeddings [B, D] or [B, 1, D] on any device.
        Runs without gradients; the caller sets its modules to ``eval()`` and moves the
        audio to their device.
    sample_rate : int
        Rate that ``encode`` expects, in Hz.
    progress : bool
        Show a progress bar.
    batch_size : int, optional
        B, at most: utterances of exactly equal numbers of samples are encoded together,
        which changes an embedding by rounding alone. It helps on a GPU where many
        utterances have one length, as VoxCeleb's do. By default 1, and on an accelerator
        up to 262 s of audio (at 16 kHz), the longest utterances first, unless the model
        mixes what is in a batch.
    cache : EmbeddingCache, optional
        Embeddings of earlier runs; gets those of this one, also where it is interrupted.
    shared : bool
        Where the run has several processes (torch.distributed), each embeds a part of
        the utterances, and all get all of them. Every process must call it, with the
        same utterances. The first shows the progress of its part.
    num_workers : int, optional
        Processes that read files while others are encoded; 0: all in this one; None: 0 on
        a CPU, and on an accelerator one a core, up to 8. On a CPU they encode as well,
        each with one thread, where they are at least two, no fewer than torch's threads,
        and forked.
    device : torch.device or str, optional
        Where ``encode`` computes. The audio is on it; without it, on the CPU.
    multiprocessing_context : str, optional
        How the processes are started: fork, forkserver or spawn; by default as Python
        does.
    faults : dict of str to str, optional
        Gets the utterances that cannot be embedded, and why: those are left out then.
        Without it the first of them is an error.

    Returns
    -------
    Embeddings
        In the order of ``paths``, with the lengths in seconds.

    Raises
    ------
    FileNotFoundError
        A file is missing.
    ValueError
        No utterances; a batch size below 1, workers below 0; a file that `load_audio`
        refuses or that is too short for the model; embeddings that are not [B, D] or
        [B, 1, D], have another D than those before, or are not finite. The message names
        the file. A shared call raises it in all processes. With ``faults``: none of the
        utterances can be embedded.

    Example
    -------
    >>> import tempfile
    >>> from speechbrain.dataio import audio_io
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     audio_io.save(f"{folder}/a.wav", torch.tensor([[0.25, 0.5] * 4000]), 16000)
    ...     embeddings = embed_utterances(
    ...         {"id1/a.wav": Path(folder, "a.wav")},
    ...         lambda wavs: torch.stack([wavs.mean(1), wavs.abs().amax(1)], dim=1),
    ...         progress=False,
    ...     )
    >>> embeddings.matrix, embeddings.seconds
    (tensor([[0.3750, 0.5000]]), tensor([0.5000], dtype=torch.float64))
    """
    if not paths:
        raise ValueError("no utterances to embed: paths is empty")
    check_numbers(batch_size, num_workers)
    names = list(paths)

    def embed_own() -> tuple[list[int], torch.Tensor, list[float], dict[str, str]]:
        """Places in ``paths``, embeddings and seconds; and faults."""
        own = {names[i]: i for i in own_part(len(names), shared)}
        kind = Encoder if faults is None else _Lenient
        wrong: dict[str, str] = {}
        known = _embed(
            {name: paths[name] for name in own},
            kind(encode, sample_rate),
            progress and share(shared)[0] == 0,
            cache,
            None if faults is None else wrong,
            batch_size=batch_size,
            num_workers=num_workers,
            device=device,
            multiprocessing_context=multiprocessing_context,
        )
        rows = [row for row, _ in known.values()]
        matrix = torch.stack(rows) if rows else torch.empty(0, 0)
        places = [own[name] for name in known]
        return places, matrix, [each for _, each in known.values()], wrong

    known: dict[str, tuple[torch.Tensor, float]] = {}
    for numbers, matrix, lengths, wrong in gathered(embed_own, shared):
        for number, row, seconds in zip(numbers, matrix, lengths):
            _check_size(names[number], row, known)
            known[names[number]] = row, seconds
        if faults is not None:
            faults |= wrong
    if faults is not None:
        if not known:
            raise ValueError(
                f"none of {len(names)} recordings can be embedded: {faults[names[0]]}"
            )
        names = [name for name in names if name in known]
    rows = [known[name][0] for name in names]
    lengths = [known[name][1] for name in names]
    return Embeddings(
        tuple(names), torch.stack(rows), torch.tensor(lengths, dtype=torch.float64)
    )


def _embed(
    paths: Mapping[str, str | Path | Utterance],
    encoder: Encoder,
    progress: bool,
    cache: EmbeddingCache | None,
    faults: dict[str, str] | None,
    **options: Any,
) -> dict[str, tuple[torch.Tensor, float]]:
    """Name -> embedding [D] and seconds, of each utterance: what one process does."""
    rate = encoder.sample_rate
    known: dict[str, tuple[torch.Tensor, float]] = {}
    keys: dict[str, bytes] = {}  # of the cache
    if faults is not None:
        for utterance, path in paths.items():
            file = path.wav if isinstance(path, Utterance) else path
            if not Path(file).is_file():
                faults[utterance] = f"{file}: no such audio file"
        paths = {name: path for name, path in paths.items() if name not in faults}
    if cache is not None:
        for utterance, path in paths.items():
            keys[utterance] = file_key(path, rate)
            if (found := cache.get(keys[utterance])) is not None:
                known[utterance] = found
    missing = [name for name in paths if name not in known]
    least = None if faults is None or not missing else encoder.least_samples
    bar = progress_bar(total=len(paths), initial=len(known), desc="embed", shown=progress)
    try:
        with torch.no_grad(), bar:
            files = [paths[name] for name in missing]
            reader = _Files(rate) if faults is None else _Readable(rate, least)
            for numbers, samples, matrix in embed_recordings(
                files, reader, encoder, **options
            ):
                for number, row in zip(numbers, matrix):
                    name = missing[number]
                    if faults is not None and not row.isfinite().all():
                        continue
                    _check_size(name, row, known)
                    known[name] = row, samples / rate
                    if cache is not None:
                        cache.put(keys[name], row, samples / rate)
                bar.update(len(numbers))
    finally:
        if cache is not None:
            cache.flush()
    if faults is not None:
        for name in missing:
            if name not in known:
                faults[name] = _why(paths[name], encoder)
    return known


class _Lenient(Encoder):
    """Leaves it to the caller to see which embeddings are not finite."""

    def check(self, embeddings, names, samples):
        pass


def _why(path, encoder):
    """What is wrong with a file that has no embedding: found by trying it alone."""
    alone = Encoder(encoder.encode, encoder.sample_rate)
    try:
        wav = load_audio(path, AudioNormalizer(encoder.sample_rate))
        alone.check_length(path, len(wav))
        with torch.no_grad():
            alone(wav.unsqueeze(0), [path])
    except (ValueError, FileNotFoundError) as error:
        return str(error)
    return f"{path}: the embedding is not finite beside others; embed it alone."


class _Files:
    """Reads whole files, and stretches of them, at one rate."""

    def __init__(self, sample_rate: int):
        self.normalizer = AudioNormalizer(sample_rate)

    def name(self, path: str | Path | Utterance) -> object:
        return path

    def length(self, path: str | Path | Utterance) -> tuple[int, str]:
        try:
            header = soundfile.info(path.wav if isinstance(path, Utterance) else str(path))
        except (RuntimeError, OSError):  # reading it will tell
            return 0, ""
        rate = header.samplerate
        frames = path.frames if isinstance(path, Utterance) else header.frames
        return frames * self.normalizer.sample_rate // rate, f"{frames} {rate}"

    def read(self, path: str | Path | Utterance) -> torch.Tensor | None:
        """The recording; None, of a subclass, where it is left out."""
        return load_audio(path, self.normalizer)


class _Readable(_Files):
    """Leaves out what cannot be read or is too short."""

    def __init__(self, sample_rate: int, least_samples: int | None):
        super().__init__(sample_rate)
        self.least = least_samples or 1

    def read(self, path: str | Path | Utterance) -> torch.Tensor | None:
        try:
            wav = super().read(path)
        except (ValueError, FileNotFoundError):
            return None
        return wav if wav is not None and len(wav) >= self.least else None


def embed_sets(
    encode: Callable[[torch.Tensor], torch.Tensor],
    sets: Sequence[Mapping[str, str | Enrolment]],
    lists: Sequence[Trials],
    sample_rate: int,
    **options: Any,
) -> list[Embeddings]:
    """Embed each file of several sets of utterances once.

    Errors as `embed_utterances`, with the list and line of the utterance in front.

    Arguments
    ---------
    encode : callable
        As for `embed_utterances`.
    sets : list of dict of str to Path, Utterance or tuple of these
        Each set has names of its own; one file may be in several. The name of several
        recordings is that of a model: `Embeddings.with_models`.
    lists : list of Trials
        What an error about a file of the first sets names, with the line.
    sample_rate : int
        Hz.
    **options
        Of `embed_utterances`.

    Returns
    -------
    list of Embeddings
        One a set.
    """
    paths = {str(each): each for utterances in sets for each in recordings(utterances)}
    try:
        together = embed_utterances(paths, encode, sample_rate, **options)
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(f"{_place(str(error), sets, lists)}{error}") from error
    found = []
    for utterances in sets:
        models = {
            name: [*map(str, path)]
            for name, path in utterances.items()
            if isinstance(path, tuple) and not isinstance(path, Utterance)
        }
        known = together.with_models(models)
        own = {name: name if name in models else str(p) for name, p in utterances.items()}
        found.append(known.select(own))
    return found


def recordings(files: Mapping[str, str | Enrolment]) -> list[str | Path | Utterance]:
    """The recordings that some names stand for, those of models among them.

    Example
    -------
    >>> recordings({"id1": (Path("a.wav"), Path("b.wav"))})
    [PosixPath('a.wav'), PosixPath('b.wav')]
    """
    found: list[str | Path | Utterance] = []
    for each in files.values():
        if isinstance(each, tuple) and not isinstance(each, Utterance):
            found.extend(each)
        else:
            found.append(each)
    return found


def _check_size(name, row, known):
    """ValueError where an embedding is of another size than an earlier one."""
    size = len(next(iter(known.values()))[0]) if known else len(row)
    if len(row) != size:
        raise ValueError(f"{name}: embedding of {len(row)} dimensions after ones of {size}")


def _place(message, sets, lists):
    """``<list>:<line>: `` of the utterance whose file a message begins with, or ""."""
    for utterances in sets:
        named = {
            name
            for name in utterances
            for path in recordings({name: utterances[name]})
            if message.startswith(f"{path}:")
        }
        if place := place_in(lists, named):
            return f"{place}: "
    return ""
