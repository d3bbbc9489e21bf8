"""Exported models: loaded, and deciding where they should."""

import contextlib
import copy
import dataclasses
import functools
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from pydoc import ErrorDuringImport
from typing import Any

import speechbrain.inference.speaker
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from speechbrain.inference.classifiers import EncoderClassifier
from speechbrain.utils.fetching import FetchConfig, FetchFrom, fetch, guess_source
from speechbrain.utils.logger import get_logger

from hamsb.dataio.audio import check_audio, load_audio
from hamsb.inference.folder import exports_near, is_hub_name, model_folder
from hamsb.inference.inspection import HPARAMS, top_keys
from hamsb.nnet.balls import Ball
from hamsb.utils.files import replacing
from hamsb.utils.lean import make_lean
from hamsb.verification.calibration import Calibration
from hamsb.verification.decision import (
    DECISION,
    check_own_decision,
    fingerprint,
    read_decision,
    read_own_decision,
)
from hamsb.verification.encoding import Encoder
from hamsb.verification.training_data import TRAINING

logger = get_logger(__name__)

_SOURCE = "source.txt"  # in a savedir: whose files it holds
_FETCH = FetchConfig()
_FETCHING = ("local_strategy", "fetch_config")  # how SpeechBrain fetches files


class SpeakerRecognition(speechbrain.inference.speaker.SpeakerRecognition):
    """SpeechBrain's ``SpeakerRecognition`` with four differences.

    - It accepts a pair of utterances at the threshold stored with the model
      (``decision.json``, from trials of development speakers or a calibration list),
      not above 0.25.
    - It reads a file by its own path. SpeechBrain's, given a ``savedir``, links each
      file into it by name and takes what is there already: VoxCeleb's
      ``id1/x/00001.wav`` and ``id2/y/00001.wav`` become one recording [1]_.
    - A recording that is silent, empty, not finite or too short for the model is a
      ValueError with its name, in every method, and never a score.
    - A ``savedir`` never gives one model's weights to another [2]_.

    Arguments and folders are the same; SpeechBrain's class loads the folders too.

    Arguments
    ---------
    *args, **kwargs
        As for SpeechBrain's. ``from_hparams`` gives them.
    decision : dict, optional
        As `hamsb.verification.decision.read_decision` returns it. ``from_hparams`` reads
        it beside the model, from a folder, a hub or the web.

    References
    ----------
    .. [1] https://github.com/speechbrain/speechbrain/issues/1025
    .. [2] https://github.com/speechbrain/speechbrain/issues/1055

    Example
    -------
    >>> verification = SpeakerRecognition.from_hparams(  # doctest: +SKIP
    ...     source="results/mini/1234/export"
    ... )
    >>> score, same = verification.verify_files(  # doctest: +SKIP
    ...     "id1/x/00001.wav", "id2/y/00001.wav"
    ... )
    """

    def __init__(self, *args: Any, decision: dict | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        make_lean(self.mods, self.device)
        self.decision = decision

    @classmethod
    def from_hparams(
        cls,
        source: str | os.PathLike,
        hparams_file: str = HPARAMS,
        savedir: str | os.PathLike | None = None,
        decision: str | os.PathLike | dict | None = None,
        **kwargs: Any,
    ) -> "SpeakerRecognition":
        """Load a model, as SpeechBrain's method of this name.

        Arguments
        ---------
        source : str or Path
            A folder, a name on Hugging Face's hub, ``owner/name``, or a web address. The
            decision that lies there is read too.
        hparams_file : str
            The yaml in it.
        savedir : str or Path, optional
            Where files of the hub or the web are kept. A folder's are read where they
            are.
        decision : str, Path or dict, optional
            Where to decide in place of the model's own decision: the file that ``hamsb
            threshold`` wrote for this model, or what such a file holds.
        **kwargs
            As for SpeechBrain's.

        Raises
        ------
        FileNotFoundError
            The source is a path, and no model is there; no such decision file.
        ValueError
            ``savedir`` holds the files of another model; the decision is another model's.
        ImportError
            The model's yaml names what is not installed here.
        """
        if isinstance(source, os.PathLike):
            source = os.fspath(source)
        kind, place = guess_source(source)
        on_hub = kind == FetchFrom.HUGGING_FACE and is_hub_name(place)
        elsewhere = on_hub or kind == FetchFrom.URI
        if not elsewhere:
            model_folder(place, "source", hparams_file)
            if decision is None:
                kwargs["decision"] = read_decision(place)
            kwargs.setdefault("overrides", own_weights(place, hparams_file))
            if not kwargs.get("download_only"):
                savedir = None
        load = functools.partial(
            super().from_hparams,
            source,
            hparams_file=hparams_file,
            savedir=savedir,
            **kwargs,
        )
        if savedir is not None:
            _check_savedir(savedir, place)
        try:
            with _saying_what_lacks(place):
                model = load()
        except (OSError, ValueError) as error:
            if not on_hub:
                raise
            raise _not_on_hub(place, error) from error
        if elsewhere:
            options = {key: kwargs[key] for key in _FETCHING if key in kwargs}
            # with all that a fingerprint is of, whatever was asked for before
            names = DECISION, TRAINING, "embedding.yaml"
            beside = _fetch_beside(str(source), names, savedir=savedir, **options)
            if model is not None and decision is None and DECISION in beside:
                model.decision = read_decision(beside[DECISION].parent)
        if savedir is not None:
            with replacing(Path(savedir, _SOURCE)) as partial:
                partial.write_text(f"{place}\n", encoding="utf-8")
        if model is not None:
            model.source = place if elsewhere else os.path.abspath(place)
            if decision is not None:
                folder = Path(place)
                if elsewhere:
                    options["savedir"] = savedir
                    folder = _fetch_first(str(source), hparams_file, **options).parent
                own = fingerprint(folder)
                if isinstance(decision, (str, os.PathLike)):
                    decision = read_own_decision(decision, own)
                else:
                    check_own_decision(decision, own)
                model.decision = decision
        return model

    def threshold(self, name: str = "eer") -> float:
        """A threshold on cosines that is stored with the model.

        Arguments
        ---------
        name : str
            "eer": equal rates of misses and false alarms. "min_dcf_0.01",
            "min_dcf_0.05": the least detection cost where one pair in a hundred, or in
            twenty, is of one speaker. "false_alarm_0.01" and the like: that share of
            the pairs of different speakers is accepted.

        Returns
        -------
        float
            A cosine at or above it is accepted.

        Raises
        ------
        ValueError
            None is stored, or none of this name.
        """
        if self.decision is None:
            raise ValueError(
                f"no {DECISION} beside the model: it was exported without a threshold. "
                "Give threshold=<cosine>, or find one on trials of your own: hamsb "
                "threshold."
            )
        thresholds = self.decision["thresholds"]
        if name not in thresholds:
            raise ValueError(f"threshold={name!r}: the model has {sorted(thresholds)}")
        return thresholds[name]

    @property
    def calibration(self) -> Calibration | None:
        """From cosines to log-likelihood ratios, where it is stored with the model."""
        numbers = (self.decision or {}).get("calibration")
        return None if numbers is None else Calibration.from_dict(numbers)

    def log_likelihood_ratio(self, score: torch.Tensor) -> torch.Tensor:
        """Natural-log likelihood ratios of cosines, by the model's calibration.

        Arguments
        ---------
        score : torch.Tensor
            Cosines, any shape.

        Returns
        -------
        torch.Tensor
            float64, the same shape and device. Above 0 speaks for the same speaker;
            add the prior log-odds to decide.

        Raises
        ------
        ValueError
            The model was exported without a calibration.
        """
        if self.calibration is None:
            raise ValueError("the model was exported without a calibration")
        ratios = self.calibration(score.flatten())
        return torch.from_numpy(ratios).reshape(score.shape).to(score.device)

    def load_audio(self, path: str | os.PathLike, savedir: object = None) -> torch.Tensor:
        """The samples of a local file, as the model needs them, [T].

        Arguments
        ---------
        path : str or Path
            The file, which is read where it is: nothing is linked or fetched.
        savedir :
            Is not used; SpeechBrain's method has it.
        """
        wav = load_audio(path, self.audio_normalizer)
        self.encoder.check_brief(path, len(wav))
        return wav.to(self.device)

    @functools.cached_property
    def encoder(self) -> Encoder:
        """SpeechBrain's ``encode_batch``, told apart by recording where it fails; of audio
        that was looked at."""
        encode = functools.partial(EncoderClassifier.encode_batch, self)
        return Encoder(encode, self.audio_normalizer.sample_rate)

    def encode_batch(
        self,
        wavs: torch.Tensor,
        wav_lens: torch.Tensor | None = None,
        normalize: bool = False,
    ) -> torch.Tensor:
        """Embeddings [B, 1, D] of a batch, as SpeechBrain's method gives them.

        Arguments
        ---------
        wavs : torch.Tensor
            Audio [B, T] at the model's rate, or one recording [T].
        wav_lens : torch.Tensor, optional
            Lengths relative to the longest, [B].
        normalize : bool
            As for SpeechBrain's.

        Raises
        ------
        ValueError
            A row is silent, empty, not finite or too short (names it, as ``wavs[3]``), or
            its embedding is not finite.
        """
        return self._encode(wavs, wav_lens, "wavs", normalize=normalize)

    def _encode(self, wavs, wav_lens, name, **options):
        """Embeddings of a batch all of whose rows are checked; ``name`` is what a row is
        called, or a sequence of names."""
        batch = wavs.unsqueeze(0) if wavs.ndim == 1 else wavs
        rows, longest = batch.shape[:2]
        lengths = [1.0] * rows if wav_lens is None else wav_lens.tolist()
        samples = [min(round(length * longest), longest) for length in lengths]
        names = [f"{name}[{row}]" for row in range(rows)] if isinstance(name, str) else name
        for row, wav in enumerate(batch):
            rate = self.audio_normalizer.sample_rate
            check_audio(wav[: samples[row]], names[row], rate)
        embeddings = self.encoder(batch, names, samples, wav_lens=wav_lens, **options)
        return embeddings.reshape(rows, 1, -1)  # a ResNet's are [B, D]

    def verify_batch(
        self,
        wavs1: torch.Tensor,
        wavs2: torch.Tensor,
        wav1_lens: torch.Tensor | None = None,
        wav2_lens: torch.Tensor | None = None,
        threshold: str | float | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compare the utterances of two batches, pair by pair.

        Arguments
        ---------
        wavs1, wavs2 : torch.Tensor
            Audio [B, T1] and [B, T2] at the model's rate. Padding changes a score: give
            utterances of one length, or one pair at a time.
        wav1_lens, wav2_lens : torch.Tensor, optional
            Lengths relative to the longest of each batch, [B].
        threshold : str, float or None
            The name of a stored threshold (None: "eer"), or a cosine.

        Returns
        -------
        score : torch.Tensor
            Cosines [B, 1].
        prediction : torch.Tensor
            bool [B, 1]: score >= threshold, the same speaker.

        Raises
        ------
        ValueError
            As for ``encode_batch``, with a name such as ``wavs2[3]``; no such threshold.
        """
        limit = self.limit(threshold)
        one = self._encode(wavs1, wav1_lens, "wavs1")
        other = self._encode(wavs2, wav2_lens, "wavs2")
        score = self.similarity(one, other)
        return score, score >= limit

    def limit(self, threshold: str | float | None = None) -> float:
        """The cosine that a name of a threshold, a cosine, or None ("eer") stands for; a
        ValueError where it is no finite number, which would decide nothing."""
        if threshold is None or isinstance(threshold, str):
            return self.threshold(threshold or "eer")
        if not math.isfinite(threshold):
            raise ValueError(f"threshold={threshold}: must be a finite number.")
        return threshold

    def verify_files(
        self,
        path_x: str | os.PathLike,
        path_y: str | os.PathLike,
        threshold: str | float | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compare two files, each whole.

        Arguments
        ---------
        path_x, path_y : str or Path
            Audio files, at any rate.
        threshold : str, float or None
            As for ``verify_batch``.
        **kwargs
            As for ``load_audio``.

        Returns
        -------
        score : torch.Tensor
            Cosine, [1].
        prediction : torch.Tensor
            bool [1]: score >= threshold, the same speaker.

        Raises
        ------
        FileNotFoundError
            No such file.
        ValueError
            A file cannot be read as audio, or is silent, empty, not finite or too short
            for the model; no such threshold.
        """
        limit = self.limit(threshold)
        one, other = (
            self._encode(self.load_audio(path, **kwargs), None, [path])
            for path in (path_x, path_y)
        )
        score = self.similarity(one, other)[0]
        return score, score >= limit


def source_folder(source: str | os.PathLike, hparams_file: str = HPARAMS) -> Path:
    """Where a model's files are on this machine; those of a hub in its cache.

    Arguments
    ---------
    source : str or Path
        A folder, or a model's name on a hub.
    hparams_file : str
        The yaml in it.
    """
    if Path(source).is_dir():
        return Path(source)
    return _fetch_first(os.fspath(source), hparams_file).parent


def fetch_texts(source: str) -> Path:
    """The texts of a model on a hub: yamls, card, decision and what trained it; no weights,
    and nothing of it is loaded.

    Arguments
    ---------
    source : str
        Its name, ``owner/name``.

    Returns
    -------
    Path
        A folder in the hub's cache, for `hamsb.inference.inspection.inspect_model`.

    Raises
    ------
    FileNotFoundError
        There is no such model, or no network.
    """
    try:
        folder = Path(fetch(HPARAMS, source=source)).parent
    except (OSError, ValueError) as error:
        raise _not_on_hub(source, error) from error
    _fetch_beside(source, ("embedding.yaml", DECISION, TRAINING, "README.md"))
    return folder


def _not_on_hub(source, error):
    near = "".join(f" Did you mean {path}?" for path in exports_near(Path(source)))
    return FileNotFoundError(
        f"source={source}: no such folder, and as the name of a model on Hugging "
        f"Face's hub it failed: {' '.join(str(error).split())}{near}"
    )


def _fetch_beside(source: str, names: Iterable[str], **options: Any) -> dict[str, Path]:
    """Those of some files that lie beside a model on a hub or the web, once that was
    loaded. A hub that is not reached is waited for once."""
    found = {}
    asked = options.pop("fetch_config", _FETCH)
    for name in names:
        try:
            found[name] = _fetch_first(source, name, fetch_config=asked, **options)
        except LocalEntryNotFoundError:
            asked = dataclasses.replace(asked, allow_network=False)
            if name == DECISION:
                logger.warning(
                    f"{DECISION} of {source} is not in the cache, and the hub was not "
                    "reached: the model is used without a threshold."
                )
        except (EntryNotFoundError, ValueError):  # a ValueError from another web address
            pass
    return found


def _fetch_first(
    source: str, name: str, fetch_config: FetchConfig = _FETCH, **options: Any
) -> Path:
    """A file as SpeechBrain fetches it, but from the hub's cache where it is there in the
    version that was fetched last; SpeechBrain asks the hub first, and may wait for it."""
    cached = dataclasses.replace(fetch_config, allow_network=False)
    if guess_source(source)[0] == FetchFrom.HUGGING_FACE and fetch_config.allow_network:
        with contextlib.suppress(LocalEntryNotFoundError):
            return Path(fetch(name, source, fetch_config=cached, **options))
    return Path(fetch(name, source, fetch_config=fetch_config, **options))


def _check_savedir(savedir: str | os.PathLike, source: str) -> None:
    """ValueError where a folder holds another model's files, as far as it can tell: by
    what this module noted in it, or by where SpeechBrain's links lead."""
    folder = Path(savedir)
    owners = set()
    if (folder / _SOURCE).is_file():
        owners.add((folder / _SOURCE).read_text(encoding="utf-8").strip())
    else:
        for path in (*folder.glob("*.ckpt"), *folder.glob("*.yaml")):
            if path.is_symlink():
                owners.add(_source_of(Path(os.readlink(path))))
    if others := sorted(owners - {str(source), str(Path(source).absolute())}):
        raise ValueError(
            f"savedir={savedir}: holds the files of {others[0]}, and the source is "
            f"{source}; give each model a savedir of its own, or none."
        )


def _source_of(file: Path) -> str:
    """The source of a file that a link leads to: a name on the hub, from the hub's
    cache, or a folder."""
    for part in file.parts:
        if part.startswith("models--"):
            return "/".join(part.split("--")[1:])
    return str(file.parent)


def own_weights(folder: str | os.PathLike, hparams_file: str = HPARAMS) -> dict[str, str]:
    """What of a yaml must be overridden so that the folder's own weights are loaded.

    The yamls of SpeechBrain's models name their place on the hub, ``pretrained_path``, and
    a copy of such a folder would be loaded from there.

    Arguments
    ---------
    folder : str or Path
        On this machine.
    hparams_file : str
        The yaml in it.
    """
    key = "pretrained_path"
    if key in top_keys(Path(folder) / hparams_file) and any(Path(folder).glob("*.ckpt")):
        return {key: str(Path(folder).absolute())}
    return {}


def load_encoder(model: str | os.PathLike, run_opts: Any = None) -> EncoderClassifier:
    """The exported model in a folder.

    Arguments
    ---------
    model : str or Path
        The export folder of a training run.
    run_opts : speechbrain.utils.run_opts.RunOptions or dict, optional
        Such as the device.

    Raises
    ------
    FileNotFoundError
        No model was exported there.
    ImportError
        The model's yaml names what is not installed here.
    """
    folder = model_folder(model)
    with _saying_what_lacks(folder):
        encoder = EncoderClassifier.from_hparams(
            source=str(folder), run_opts=run_opts, overrides=own_weights(folder)
        )
    make_lean(encoder.mods, encoder.device)
    return encoder


@contextlib.contextmanager
def _saying_what_lacks(model: str | os.PathLike) -> Iterator[None]:
    """An ImportError names the model."""
    try:
        yield
    except (ImportError, ErrorDuringImport) as error:
        raise ImportError(
            f"{model}: {error}. The model needs it; `hamsb info` names its packages."
        ) from error


def trained_ball(encoder: EncoderClassifier) -> Ball | None:
    """The ball that a model was trained with, a copy on the CPU.

    Arguments
    ---------
    encoder : speechbrain.inference.classifiers.EncoderClassifier
        As `load_encoder` gives it.

    Returns
    -------
    hamsb.nnet.balls.Ball or None
        None where the model's classifier is not hyperbolic, or is not there.
    """
    classifier = encoder.mods["classifier"] if "classifier" in encoder.mods else None
    ball = getattr(classifier, "ball", None)
    return None if ball is None else copy.deepcopy(ball).cpu()
