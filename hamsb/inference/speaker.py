"""Speaker verification with an exported model, decided where that model should be."""


import speechbrain.inference.speaker
import torch
from speechbrain.inference.classifiers import EncoderClassifier
from speechbrain.utils.fetching import FetchFrom, guess_source

from hamsb.dataio.audio import load_audio
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
        As ``hamsb.verification.decision.read_decision`` returns it. ``from_hparams`` reads it from a
        local folder.

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

    def __init__(self, *args, decision=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.decision = decision

    @classmethod
    def from_hparams(cls, source, *args, **kwargs):
        """As SpeechBrain's, with the same arguments; reads the decision too, where the
        source is a local folder."""
        kind, folder = guess_source(source)
        if kind == FetchFrom.LOCAL:
            kwargs.setdefault("decision", read_decision(folder))
        return super().from_hparams(source, *args, **kwargs)

    def threshold(self, name="eer"):
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

    def log_likelihood_ratio(self, score):
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

    def load_audio(self, path, savedir=None):
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
        self, wavs1, wavs2, wav1_lens=None, wav2_lens=None, threshold=None
    ):
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

    def verify_files(self, path_x, path_y, threshold=None, **kwargs):
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
        wavs = (self.load_audio(path, **kwargs) for path in (path_x, path_y))
        score, prediction = self.verify_batch(
            *(wav.unsqueeze(0) for wav in wavs), threshold=threshold
        )
        return score[0], prediction[0]


def load_encoder(model, run_opts):
    """The exported model in a folder."""
    if not (model / "hyperparams.yaml").is_file():
        raise FileNotFoundError(
            f"{model}: no exported model here (no hyperparams.yaml); give the export "
            "folder of a training run, --model=results/<name>/<seed>/export."
        )
    return EncoderClassifier.from_hparams(source=str(model), run_opts=run_opts)
