"""Embeddings of recordings by a finished model: files, many files, arrays."""

import csv
import functools
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from hamsb.dataio.annotations import Utterance
from hamsb.dataio.audio import check_audio
from hamsb.inference.speaker import SpeakerRecognition, source_folder
from hamsb.utils.checks import check_whole
from hamsb.utils.command_line import check_accelerator, named_device
from hamsb.utils.files import replacing
from hamsb.utils.packages import optional
from hamsb.verification.cache import EmbeddingCache
from hamsb.verification.decision import fingerprint
from hamsb.verification.embeddings import Embeddings, embed_utterances


class EmbeddingExtractor:
    """Embeddings of recordings, as the command ``hamsb`` and a notebook need them.

    Arguments
    ---------
    model : str, Path or SpeakerRecognition
        The export folder of a training run, another folder that SpeechBrain's
        ``EncoderClassifier`` loads, or a name on Hugging Face's hub; or a model that is
        loaded.
    device : str
        Where it computes: cpu, cuda:0, ... That of a loaded model stays.
    savedir : str or Path, optional
        Where files of a hub are kept, beside its cache.
    decision : str, Path or dict, optional
        Where to decide in place of the model's own decision: the file that ``hamsb
        threshold`` wrote for this model. That of a loaded model stays.

    Attributes
    ----------
    recognition : SpeakerRecognition
        The model, with its thresholds and calibration.
    source : str
        Where it was said to be.

    Raises
    ------
    FileNotFoundError
        No model is there.
    ValueError
        No such device on this machine; ``savedir`` holds another model's files; the
        decision is another model's.

    Example
    -------
    >>> extractor = EmbeddingExtractor("results/mini/1234/export")  # doctest: +SKIP
    >>> embeddings = extractor.embed_files(["a.wav", "b.flac"])  # doctest: +SKIP
    >>> embeddings.matrix.shape  # doctest: +SKIP
    torch.Size([2, 192])
    """

    def __init__(
        self,
        model: str | os.PathLike | SpeakerRecognition,
        device: str = "cpu",
        savedir: str | os.PathLike | None = None,
        decision: str | os.PathLike | dict | None = None,
    ):
        if isinstance(model, SpeakerRecognition):
            self.recognition = model
            self.source = str(model.source)
            self._keep_place()
            return
        self.source = os.fspath(model)
        self._keep_place()
        if (there := named_device(device)).type != "cpu":
            check_accelerator(there)
        self.recognition = SpeakerRecognition.from_hparams(
            self.source, savedir=savedir, decision=decision, run_opts={"device": device}
        )

    def _keep_place(self) -> None:
        """A relative path means the folder that it means now."""
        if Path(self.source).is_dir():
            self.folder = Path(self.source).absolute()

    @property
    def sample_rate(self) -> int:
        """The model's, in Hz; recordings at other rates are resampled."""
        return self.recognition.audio_normalizer.sample_rate

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return torch.device(self.recognition.device)

    @property
    def least_samples(self) -> int | None:
        """The fewest samples that the model embeds, found by trying; None where one
        second is not enough."""
        return self.recognition.encoder.least_samples

    @functools.cached_property
    def dimension(self) -> int:
        """D, the size of an embedding."""
        generator = torch.Generator().manual_seed(0)
        noise = 0.1 * torch.randn(1, self.sample_rate, generator=generator)
        return self.embed_batch(noise).shape[1]

    @functools.cached_property
    def folder(self) -> Path:
        """Where the model's files are on this machine; those of a hub in its cache."""
        return source_folder(self.source)

    @functools.cached_property
    def fingerprint(self) -> str:
        """What tells the model from any other, wherever it lies: 64 hexadecimal digits of
        `hamsb.verification.decision.fingerprint`."""
        return fingerprint(self.folder)

    def cache(self, folder: str | os.PathLike) -> EmbeddingCache:
        """The part of a cache of embeddings that is this model's; ``verify.py`` shares
        it."""
        kind = self.device.type
        return EmbeddingCache(folder, f"{self.fingerprint} on {kind}")

    def load_audio(self, path: str | os.PathLike) -> torch.Tensor:
        """The samples [T] of a file, float32 at the model's rate, channels averaged.

        FileNotFoundError or ValueError, with the file's name, where there is nothing to
        embed: no audio, silence, samples that are not finite, fewer than the model takes.
        """
        return self.recognition.load_audio(path)

    def embed_files(
        self,
        files: Iterable[str | os.PathLike | Utterance]
        | Mapping[str, str | os.PathLike | Utterance],
        batch_size: int | None = None,
        num_workers: int | None = None,
        progress: bool = True,
        cache: EmbeddingCache | None = None,
        faults: dict[str, str] | None = None,
    ) -> Embeddings:
        """Embed files, each whole and without padding.

        Arguments
        ---------
        files : iterable of path or Utterance, or mapping of str to these
            N files, or stretches of files, named by their paths, or by the mapping.
        batch_size, num_workers : int, optional
            As for `hamsb.verification.embeddings.embed_utterances`, which also tells what
            is taken by default.
        progress : bool
            Show a progress bar, on a terminal.
        cache : EmbeddingCache, optional
            As `cache` gives it: what a killed run had embedded is taken from there.
        faults : dict of str to str, optional
            Gets the name of each file that cannot be embedded, and why; those are left
            out. Without it the first is an error.

        Returns
        -------
        Embeddings
            ``utterances``, ``matrix`` [N, D] on the CPU, ``seconds`` [N].

        Raises
        ------
        FileNotFoundError, ValueError
            A file is missing, or nothing in it can be embedded: names it. No files.
        """
        if isinstance(files, Mapping):
            named = [*files.items()]
        else:
            named = [(str(path), path) for path in files]
        return embed_utterances(
            {
                name: path if isinstance(path, Utterance) else Path(path)
                for name, path in named
            },
            self.recognition.encoder.encode,
            self.sample_rate,
            progress,
            batch_size,
            cache,
            num_workers=num_workers,
            device=self.device,
            faults=faults,
        )

    def embed_batch(
        self, wavs: torch.Tensor, names: Sequence[object] | None = None
    ) -> torch.Tensor:
        """Embed recordings of one length, such as windows of a long one.

        Arguments
        ---------
        wavs : torch.Tensor
            Audio [B, T] at the model's rate.
        names : sequence, optional
            What an error calls the B rows; by default ``wavs[0]``, ``wavs[1]``, ...

        Returns
        -------
        torch.Tensor
            [B, D], float32 on the CPU.

        Raises
        ------
        ValueError
            A row is silent, not finite or too short.
        """
        if wavs.ndim != 2:
            raise ValueError(f"wavs: must be [B, T], got shape {tuple(wavs.shape)}.")
        names = [f"wavs[{row}]" for row in range(len(wavs))] if names is None else names
        for name, wav in zip(names, wavs, strict=True):
            check_audio(wav, name, self.sample_rate)
        with torch.no_grad():
            found = self.recognition.encoder(wavs, names)
        return found.reshape(len(wavs), -1).float().cpu()

    def embed_array(
        self, wav: ArrayLike | torch.Tensor, sample_rate: int, name: object = "wav"
    ) -> torch.Tensor:
        """Embed a recording that is in memory.

        Arguments
        ---------
        wav : array or tensor of float
            [T], or [T, C] with channels, which are averaged; full scale is 1.
        sample_rate : int
            Its rate in Hz.
        name : object
            What an error calls it.

        Returns
        -------
        torch.Tensor
            [D], float32 on the CPU.

        Raises
        ------
        ValueError
            Whole numbers, or another shape; as `embed_batch`.
        """
        check_whole("sample_rate", sample_rate, least=1)
        audio = torch.as_tensor(wav)
        if audio.ndim not in (1, 2):
            raise ValueError(f"{name}: must be [T] or [T, C], got {tuple(audio.shape)}.")
        check_audio(audio, name, sample_rate)
        audio = audio.float().reshape(len(audio), -1)
        mono = self.recognition.audio_normalizer(audio, sample_rate)
        return self.embed_batch(mono.unsqueeze(0), [name])[0]


def embed_to_file(
    extractor: EmbeddingExtractor,
    files: Mapping[str, str | os.PathLike | Utterance],
    path: str | os.PathLike,
    faults: dict[str, str] | None = None,
    **options: Any,
) -> Embeddings:
    """Embed files into one file, going on where a killed run was.

    What is done is kept in the hidden folder ``.<name>.parts`` beside the file, every ten
    seconds, until the file is there.

    Arguments
    ---------
    extractor : EmbeddingExtractor
    files : mapping of str to path or Utterance
        Name -> audio file, or stretch of one.
    path : str or Path
        As for `write_embeddings`.
    faults : dict of str to str, optional
        As for `EmbeddingExtractor.embed_files`, as are the errors.
    **options
        Of `EmbeddingExtractor.embed_files`.

    Returns
    -------
    Embeddings
        What was written.
    """
    path = Path(path)
    check_embeddings_file(path, files)
    parts = path.with_name(f".{path.name}.parts")
    cache = extractor.cache(parts)
    found = extractor.embed_files(files, cache=cache, faults=faults, **options)
    write_embeddings(path, found, extractor.fingerprint)
    shutil.rmtree(parts, ignore_errors=True)
    return found


def check_embeddings_file(path: str | os.PathLike, names: Iterable[str] = ()) -> None:
    """ValueError where `write_embeddings` cannot write to a path of this name, or
    ImportError where that needs what is not installed."""
    path = Path(path)
    if path.suffix not in (".npz", ".csv", ".ark"):
        raise ValueError(
            f"output={path}: its end says what it is: .npz, .csv, or .ark for Kaldi's ark "
            "and scp."
        )
    if path.is_dir():
        raise ValueError(f"output={path}: a folder; give a file.")
    if path.suffix == ".ark":
        with optional("kaldi"):
            pass
        spaced = [name for name in names if re.search(r"\s", name)]
        if spaced:
            raise ValueError(
                f"output={path}: {spaced[0]!r} has a space in it, as no name of Kaldi's "
                "has; write .npz or .csv."
            )


def write_embeddings(
    path: str | os.PathLike, embeddings: Embeddings, model: str = ""
) -> None:
    """Write embeddings, whole or not at all.

    Arguments
    ---------
    path : str or Path
        ``.npz``: arrays ``names`` [N], ``embeddings`` [N, D] float32, ``seconds`` [N], and
        ``model``. ``.csv``: a line a recording, name, seconds, and D columns. ``.ark``:
        Kaldi's vectors, with ``.scp`` beside it (extra ``[kaldi]``).
    embeddings : Embeddings
    model : str
        The fingerprint of the model, for ``.npz``.

    Raises
    ------
    ValueError, ImportError
        As `check_embeddings_file`.

    Example
    -------
    >>> import tempfile
    >>> embeddings = Embeddings(("a.wav",), torch.tensor([[0.5, 2.0]]), torch.ones(1))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_embeddings(f"{folder}/e.csv", embeddings)
    ...     print(Path(folder, "e.csv").read_text(), end="")
    name,seconds,e0,e1
    a.wav,1,0.5,2
    """
    path = Path(path)
    check_embeddings_file(path, embeddings.utterances)
    names, matrix = embeddings.utterances, embeddings.matrix.numpy()
    seconds = embeddings.lengths().numpy()
    with replacing(path) as partial:
        if path.suffix == ".npz":
            with open(partial, "wb") as file:
                np.savez(
                    file,
                    names=np.array(names),
                    embeddings=matrix,
                    seconds=seconds,
                    model=np.array(model),
                )
        elif path.suffix == ".csv":
            with open(partial, "w", newline="", encoding="utf-8") as stream:
                lines = csv.writer(stream, lineterminator="\n")
                columns = [f"e{column}" for column in range(matrix.shape[1])]
                lines.writerow(["name", "seconds", *columns])
                for name, length, row in zip(names, seconds, matrix):
                    numbers = [f"{value:.9g}" for value in row]
                    lines.writerow([name, f"{length:.6g}", *numbers])
        else:
            _write_ark(path, partial, dict(zip(names, matrix)))


def _write_ark(path, partial, vectors):
    """Kaldi's ark in the place of a partial file, and its scp beside the path."""
    with optional("kaldi"):
        import kaldiio
    with replacing(path.with_suffix(".scp")) as scp:
        kaldiio.save_ark(str(partial), vectors, scp=str(scp))
        lines = scp.read_text(encoding="utf-8").splitlines()
        places = [line.rpartition(f" {partial}:") for line in lines]
        text = "".join(f"{name} {path}:{at}\n" for name, _, at in places)
        scp.write_text(text, encoding="utf-8")
