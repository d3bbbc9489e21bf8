"""Exported models: loaded, and deciding where they should."""

import copy
import os
from pathlib import Path
from typing import Any

import speechbrain.inference.speaker
import torch
from speechbrain.inference.classifiers import EncoderClassifier
from speechbrain.utils.fetching import FetchFrom, guess_source

from hamsb.dataio.audio import load_audio
from hamsb.nnet.balls import Ball
from hamsb.verification.calibration import Calibration
from hamsb.verification.decision import DECISION, read_decision


class SpeakerRecognition(speechbrain.inference.speaker.SpeakerRecognition):
    """SpeechBrain's ``SpeakerRecognition`` with two differences.

    - It accepts a pair of utterances at the threshold stored with the model
      (``decision.json``, from trials of development speakers or a calibration list),
      not above 0.25.
    - It reads a file by its own path. SpeechBrain's, given a ``savedir``, links each
      file into it by name and takes what is there already: VoxCeleb's
      ``id1/x/00001.wav`` and ``id2/y/00001.wav`` become one recording [1]_.

    Arguments and folders are the same; SpeechBrain's class loads the folders too.

    Arguments
    ---------
    *args, **kwargs
        As for SpeechBrain's. ``from_hparams`` gives them.
    decision : dict, optional
        As `hamsb.verification.decision.read_decision` returns it. ``from_hparams`` reads
        it from a local folder.

    References
    ----------
    .. [1] https://github.com/speechbrain/speechbrain/issues/1025

    Example
    -------
    >>> verification = SpeakerRecognition.from_hparams(  # doctest: +SKIP
    ...     source="results/mini_ham/1234/export"
    ... )
    >>> score, same = verification.verify_files(  # doctest: +SKIP
    ...     "id1/x/00001.wav", "id2/y/00001.wav"
    ... )
    """

    def __init__(self, *args: Any, decision: dict | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.decision = decision

    @classmethod
    def from_hparams(cls, source: str, *args: Any, **kwargs: Any) -> "SpeakerRecognition":
        """As SpeechBrain's, with the same arguments; reads the decision too, where the
        source is a local folder."""
        kind, folder = guess_source(source)
        if kind == FetchFrom.LOCAL:
            kwargs.setdefault("decision", read_decision(folder))
        return super().from_hparams(source, *args, **kwargs)

    def threshold(self, name: str = "eer") -> float:
        """A threshold on cosines that is stored with the model.

        Arguments
        ---------
        name : str
            "eer": equal rates of misses and false alarms. "min_dcf_0.01",
            "min_dcf_0.05": the least detection cost where one pair in a hundred, or in
            twenty, is of one speaker.

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
                "Give threshold=<cosine>, or store one with verify.py's "
                "calibration_file and store_decision."
            )
        thresholds = self.decision["thresholds"]
        if name not in thresholds:
            raise ValueError(f"threshold={name!r}: the model has {sorted(thresholds)}")
        return thresholds[name]

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
        numbers = (self.decision or {}).get("calibration")
        if numbers is None:
            raise ValueError("the model was exported without a calibration")
        ratios = Calibration.from_dict(numbers)(score.flatten())
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
        return load_audio(path, self.audio_normalizer).to(self.device)

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
        """
        if threshold is None or isinstance(threshold, str):
            threshold = self.threshold(threshold or "eer")
        score, _ = super().verify_batch(wavs1, wavs2, wav1_lens, wav2_lens)
        return score, score >= threshold

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
        """
        x, y = (self.load_audio(path, **kwargs) for path in (path_x, path_y))
        score, prediction = self.verify_batch(
            x.unsqueeze(0), y.unsqueeze(0), threshold=threshold
        )
        return score[0], prediction[0]


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
    """
    if not Path(model, "hyperparams.yaml").is_file():
        raise FileNotFoundError(
            f"{model}: no exported model here (no hyperparams.yaml); give the export "
            "folder of a training run, --model=results/<name>/<seed>/export."
        )
    return EncoderClassifier.from_hparams(source=str(model), run_opts=run_opts)


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
