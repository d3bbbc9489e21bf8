"""Features of pretrained transformers, WavLM and its kin, by Hugging Face's library."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from hamsb.utils.packages import optional

with optional("wavlm"):
    from huggingface_hub.constants import HF_HUB_CACHE
    from speechbrain.integrations.huggingface.weighted_ssl import WeightedSSLModel
    from transformers import AutoFeatureExtractor


class SSLFeatures(WeightedSSLModel):
    """A weighted sum of the layers of WavLM, wav2vec 2.0 or HuBERT, its weights learned.

    SpeechBrain's ``WeightedSSLModel``, with what a front end of a speaker model takes: an
    exported model holds the architecture and loads without a network; the waveform is
    scaled as the pretrained model expects it; layers are not skipped and frames not masked
    at random; and a frozen model has no dropout. With n layers it gives a softmax of n + 1
    weights, that of the layers' input included, all equal at first.

    Arguments
    ---------
    source : str or Path, optional
        A folder that ``save_pretrained`` wrote, or a name on Hugging Face's hub, as
        ``microsoft/wavlm-base-plus``.
    freeze : bool
        Whether the weights of the sum alone are trained.
    sample_rate : int
        Of the audio, in Hz. It must be that of the model.
    normalize : bool, optional
        Whether each waveform is scaled to zero mean and unit variance; by default as the
        source's ``preprocessor_config.json`` says.
    architecture : mapping, optional
        In the place of a source, the model's configuration: its weights are drawn, to be
        loaded by a checkpoint or SpeechBrain's ``Pretrainer``.

    Raises
    ------
    ValueError
        Neither source nor architecture, or both; no model at the source; no ``normalize``
        where the source says nothing; another sample rate.
    """

    def __init__(
        self,
        source: str | os.PathLike | None = None,
        freeze: bool = True,
        sample_rate: int = 16000,
        normalize: bool | None = None,
        architecture: Mapping[str, Any] | None = None,
    ):
        if (source is None) == (architecture is None):
            raise ValueError("source or architecture must be given, and not both.")
        if source is not None and normalize is None:
            normalize = _normalizes(source, sample_rate)
        with TemporaryDirectory() as folder:
            if architecture is not None:
                config = json.dumps(dict(architecture))
                Path(folder, "config.json").write_text(config, encoding="utf-8")
            place, pretrained = os.fspath(source or folder), architecture is None
            try:
                super().__init__(place, HF_HUB_CACHE, freeze=freeze, pretrained=pretrained)
            except (OSError, ValueError) as error:
                raise ValueError(_no_model(source, error)) from error
        self.sample_rate = sample_rate
        self.normalize = bool(normalize)
        masked = getattr(self.model, "masked_spec_embed", None)
        if masked is not None:  # never used: nothing is masked
            masked.requires_grad_(False)

    # What SpeechBrain's constructor calls.

    def override_config(self, config: Any) -> Any:
        """Nothing is left out at random but by dropout."""
        config = super().override_config(config)
        config.apply_spec_augment, config.layerdrop = False, 0.0
        return config

    def _from_pretrained(self, source, save_path, cache_dir, device=None, pretrained=True):
        if pretrained:
            super()._from_pretrained(source, save_path, cache_dir, device)
        else:
            self.model = self.auto_class.from_config(self.config)
        self.model.float()

    def train(self, mode: bool = True) -> "SSLFeatures":
        """As a module's; a frozen model stays as it is in evaluation."""
        super().train(mode)
        if self.freeze:
            self.model.eval()
        return self

    def forward(self, wav: Tensor, wav_lens: Tensor | None = None) -> Tensor:
        """Features of audio.

        Arguments
        ---------
        wav : torch.Tensor
            [B, T], float, without padding; T at least 400 for the models named.
        wav_lens : torch.Tensor, optional
            Is not used; SpeechBrain's has it.

        Returns
        -------
        torch.Tensor
            [B, L, C], a frame each 320 samples for the models named.
        """
        if self.normalize:
            wav = torch.nn.functional.layer_norm(wav, wav.shape[1:])
        return super().forward(wav)

    @property
    def exported_arguments(self) -> dict[str, Any]:
        """What an exported model's yaml has for arguments, so that it names no place."""
        return {
            "freeze": self.freeze,
            "sample_rate": self.sample_rate,
            "normalize": self.normalize,
            "architecture": json.loads(self.config.to_json_string(use_diff=True)),
        }


def _normalizes(source, sample_rate):
    """Whether a pretrained model's waveforms are scaled, as it says itself."""
    try:
        said = AutoFeatureExtractor.from_pretrained(source)
    except OSError as error:
        if not Path(source).is_dir():
            raise ValueError(_no_model(source, error)) from error
        raise ValueError(
            f"source={source}: no preprocessor_config.json that says whether its waveforms "
            "are scaled; give normalize: True or False."
        ) from error
    if said.sampling_rate != sample_rate:
        raise ValueError(
            f"sample_rate={sample_rate}: {source} was trained at {said.sampling_rate} Hz; "
            "convert the audio."
        )
    return said.do_normalize


def _no_model(source, error):
    where = (
        "" if Path(source).is_dir() else "no such folder, and as the name of a model on "
    )
    where += "Hugging Face's hub it failed" if where else "no model is there"
    return f"source={source}: {where}: {' '.join(str(error).split())}"
