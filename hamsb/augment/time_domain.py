"""Augmentation as published for speaker verification, from local folders.

The classes read csv files of `hamsb.augment.corpora.prepare_audio_csv`, as
SpeechBrain's ``AddNoise`` and ``AddReverb`` do as well. They differ from these where
such data need it:

===========  ================================  ==================================
             SpeechBrain                       here
===========  ================================  ==================================
noise        whole files (MUSAN's last         a crop of each file is read
             minutes), a batch padded to its
             longest; one start for a batch,
             bounded by its shortest file
SNR          one range for all noises          a range for each kind
reverb       one response for a batch; its     one for each utterance; linear
             tail wraps round to the start     convolution
random       an order of files drawn once for  each call draws anew: seeded alike,
numbers      the passes through a list: not    it gives the same, after a restart
             restored after a restart          too
reading      in the main process, while the    in the loader's workers, before
             device waits
===========  ================================  ==================================

Both draw for each utterance by itself, on the CPU: from the utterance's own generator
where a loader's worker reads for it (`hamsb.augment.reads`), and else from torch's. Source
of the settings: MUSAN noise, speech and music at SNRs of 0-15, 13-20 and 5-15 dB and
simulated RIRs, as in "Additive Margin in Contrastive Self-Supervised Frameworks
to Learn Discriminative Speaker Representations" (arXiv 2404.14913).
"""

import math
import os
from collections.abc import Mapping, Sequence

import soundfile
import torch
from speechbrain.augment.time_domain import Resample
from torch import Tensor

from hamsb.augment.corpora import read_audio_csv
from hamsb.augment.reads import ReadsFiles
from hamsb.dataio.audio import crop_at, mono
from hamsb.dataio.packing import sent

_TINY = 1e-14  # a power below which a signal counts as silence


# ------------------------------------------------------------- noise, reverberation


class AddNoise(ReadsFiles):
    r"""Add a noise to each utterance, at a random signal-to-noise ratio.

    For each: a kind, a file of the kind, a place in the file and an SNR within the
    kind's range, each uniformly. Only the crop is read; a shorter file is repeated.
    The utterance's level stays as it is:

    .. math:: y = x + n \sqrt{P_x / (P_n 10^{SNR/10})}

    Arguments
    ---------
    csv_file : str
        From `prepare_audio_csv`; read at the first call.
    snr : pair of float, or mapping of str to pair of float
        Lowest and highest SNR, in dB. One pair: all files are of one kind. A
        mapping: a pair for each kind, ``{noise: [0, 15], speech: [13, 20]}``;
        its kinds must be those of the csv file, else ValueError.

    Example
    -------
    >>> from hamsb.augment.corpora import prepare_audio_csv
    >>> root = getfixture("tmp_path")
    >>> hum = torch.sin(torch.arange(8000) / 9)
    >>> soundfile.write(root / "hum.wav", hum, 16000)
    >>> csv_file = prepare_audio_csv(root, root / "noise.csv", key="data_folder_noise")
    >>> add_noise = AddNoise(csv_file, snr=[10, 10])
    >>> speech = torch.randn(4, 32000, generator=torch.Generator().manual_seed(0))
    >>> noise = add_noise(speech, torch.ones(4)) - speech
    >>> snr = 10 * torch.log10(speech.square().mean(1) / noise.square().mean(1))
    >>> [round(each, 3) for each in snr.tolist()]
    [10.0, 10.0, 10.0, 10.0]
    """

    names = ("noise", "ratio")

    def __init__(
        self,
        csv_file: str | os.PathLike,
        snr: Sequence[float] | Mapping[str, Sequence[float]],
    ):
        super().__init__()
        self.csv_file = csv_file
        pairs = dict(snr) if isinstance(snr, Mapping) else {"": snr}
        self.by_kind = isinstance(snr, Mapping)
        self.ranges = {kind: _range(pair, kind) for kind, pair in pairs.items()}
        self.files: dict[str, list[str]] | None = None

    def forward(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """Add noise.

        Arguments
        ---------
        waveforms : torch.Tensor
            [B, T], float, zero where padded.
        lengths : torch.Tensor
            [B], relative to T.

        Returns
        -------
        torch.Tensor
            [B, T]. Padding gets noise, too.
        """
        noise, ratio = self.of_batch(waveforms).values()
        noise = _as_long(noise, waveforms.shape[1])
        shares = lengths.to(waveforms).unsqueeze(1)
        power = _power(waveforms) / shares  # without the padding
        gain = (power / (ratio * _power(noise).clamp_min(_TINY))).sqrt()
        return waveforms + gain * noise

    def read(self, length: int, random: torch.Generator | None = None) -> dict[str, Tensor]:
        """A noise [length], and the ratio of the powers of speech and noise [1]."""
        kinds = list(self.open())
        draws = torch.rand(4, dtype=torch.float64, generator=random).tolist()
        kind = _pick(kinds, draws[0])
        path = _pick(self.open()[kind], draws[1])
        low, high = self.ranges[kind]
        ratio = 10 ** ((low + (high - low) * draws[3]) / 10)
        noise = crop_at(path, length, draws[2])
        if not noise.isfinite().all():
            raise ValueError(f"{path}: a noise with samples that are no finite numbers.")
        return {"noise": noise, "ratio": torch.tensor([ratio])}

    def open(self) -> dict[str, list[str]]:
        """The files by kind, from the csv file."""
        if self.files is None:
            self.files = self._read_files()
        return self.files

    def _read_files(self):
        """The csv file's paths by kind, the same kinds as those of the SNRs."""
        files = read_audio_csv(self.csv_file)
        if not self.by_kind:
            return {"": sum(files.values(), [])}
        if files.keys() != self.ranges.keys():
            raise ValueError(
                f"snr has the kinds {sorted(self.ranges)}, but {self.csv_file} has "
                f"{sorted(files)}, the folders directly below that of the noises: give "
                "each an SNR, or name those to be used as kinds of prepare_audio_csv."
            )
        return files


class AddReverb(ReadsFiles):
    """Convolve each utterance with a random room impulse response.

    The response's loudest sample is the direct sound: it neither delays nor, since
    the utterance's power is kept, amplifies. The convolution is linear, by FFT, and
    the reverberation beyond the utterance's end is cut off.

    Arguments
    ---------
    csv_file : str
        From `prepare_audio_csv`; read at the first call.

    Example
    -------
    >>> from hamsb.augment.corpora import prepare_audio_csv
    >>> root = getfixture("tmp_path")
    >>> taps = torch.zeros(801)
    >>> taps[0], taps[800] = 1.0, 0.5
    >>> soundfile.write(root / "echo.wav", taps, 16000)
    >>> csv_file = prepare_audio_csv(root, root / "rir.csv", key="data_folder_rir")
    >>> click = torch.eye(1, 16000)
    >>> echo = AddReverb(csv_file)(click)[0]
    >>> (echo > 0.01).nonzero().flatten()
    tensor([  0, 800])
    """

    names = ("late", "early")

    def __init__(self, csv_file: str | os.PathLike):
        super().__init__()
        self.csv_file = csv_file
        self.files: list[str] | None = None

    def forward(self, waveforms: Tensor) -> Tensor:
        """Reverberate.

        Arguments
        ---------
        waveforms : torch.Tensor
            [B, T], float32.

        Returns
        -------
        torch.Tensor
            [B, T].
        """
        late, early = self.of_batch(waveforms).values()
        length = waveforms.shape[1]
        late, early = late[:, :length], early[:, :length]  # what else reaches no sample
        # No tail reaches the start, and nothing from before the start the end.
        size = length + max(late.shape[1] - 1, early.shape[1])
        size = 1 << (size - 1).bit_length()  # fast
        kernels = waveforms.new_zeros(len(waveforms), size)
        kernels[:, : late.shape[1]] = late
        kernels[:, size - early.shape[1] :] = early.flip(1)
        kernels = torch.fft.rfft(kernels)
        output = torch.fft.irfft(torch.fft.rfft(waveforms, size) * kernels, size)
        output = output[:, :length]
        return output * (_power(waveforms) / _power(output).clamp_min(_TINY)).sqrt()

    def read(self, length: int, random: torch.Generator | None = None) -> dict[str, Tensor]:
        """A response from its loudest sample on, and what precedes that, backwards; of
        each as much as reaches an utterance of that length."""
        draw = torch.rand(1, dtype=torch.float64, generator=random).item()
        path = _pick(self.open(), draw)
        response = _read(path)
        loudest = response.abs().max(0)
        if not 0 < loudest.values.item() < math.inf:
            raise ValueError(
                f"{path}: a room response that is silent, or whose samples are no finite "
                "numbers."
            )
        direct = int(loudest.indices)
        early = response[max(direct - length, 0) : direct].flip(0)
        return {"late": response[direct : direct + length], "early": early}

    def open(self) -> list[str]:
        """The files, from the csv file."""
        if self.files is None:
            self.files = sum(read_audio_csv(self.csv_file).values(), [])
        return self.files


def _read(path):
    samples, _ = soundfile.read(path, dtype="float32", always_2d=True)
    return mono(samples)


def _as_long(noise, length):
    """Repeat or cut noises to [B, length], if another augmentation changed that."""
    if noise.shape[1] < length:
        noise = noise.repeat(1, -(-length // noise.shape[1]))
    return noise[:, :length]


def _pick(items, draw):
    """An item by a number in [0, 1)."""
    return items[int(draw * len(items))]


def _power(waveforms):
    """Mean square, [B, T] -> [B, 1]."""
    return waveforms.square().mean(1, keepdim=True)


def _range(pair, kind):
    """Lowest and highest SNR, checked."""
    try:
        low, high = map(float, pair)
    except (TypeError, ValueError):
        low = high = math.nan
    if not -math.inf < low <= high < math.inf:
        name = f"snr of {kind!r}" if kind else "snr"
        raise ValueError(f"{name} is {pair!r}; it must be [lowest, highest], in dB.")
    return low, high


# ------------------------------------------------------------------ speed


class SpeedPerturb(torch.nn.Module):
    """Play each utterance at a random one of several speeds, as another speaker.

    An utterance of speaker c at the k-th speed has the label c + k C, with C
    speakers: pitch and formants change with the speed. So the classifier has
    ``len(speeds) * C`` classes, the first C of which are the speakers themselves.
    Speeds are equally probable; each utterance occurs once, as in "Speaker
    augmentation" of Yamamoto et al. (Interspeech 2019) and its successors.

    At 1.1 times the speed, T samples are made from 1.1 T. So the crops are read
    longer, `read_length`, and all are cut to T: none is padded or repeated, and
    utterances of all speeds are equally long.

    Arguments
    ---------
    speeds : list of int
        In percent, as SpeechBrain's: ``[100, 90, 110]``. 100 comes first; with it
        alone nothing is changed and no random number is drawn.
    out_neurons : int
        Classes, ``len(speeds) * C``; else ValueError.

    Example
    -------
    >>> _ = torch.manual_seed(0)
    >>> speed_perturb = SpeedPerturb([100, 90, 110], out_neurons=30)
    >>> length = speed_perturb.read_length(32000)
    >>> length
    35200
    >>> wavs, labels = torch.randn(4, length), torch.tensor([[0], [1], [2], [3]])
    >>> wavs, labels = speed_perturb(wavs, labels)
    >>> wavs.shape, labels.flatten()
    (torch.Size([4, 32000]), tensor([20, 21, 12, 23]))
    """

    def __init__(self, speeds: Sequence[int], out_neurons: int):
        super().__init__()
        speeds = list(speeds)
        good = all(isinstance(speed, int) and speed > 0 for speed in speeds)
        if not good or speeds[:1] != [100] or len(set(speeds)) < len(speeds):
            raise ValueError(
                f"speeds is {speeds}; it must hold different whole percents, of which "
                "100 is the first, as in [100, 90, 110]."
            )
        if out_neurons % len(speeds):
            raise ValueError(
                f"{out_neurons} classes are not the speakers times the {len(speeds)} "
                f"speeds {speeds}."
            )
        self.speeds = speeds
        self.speakers = out_neurons // len(speeds)
        # Read as if recorded at `speed` Hz and wanted at 100 Hz.
        self.resamplers = [Resample(orig_freq=speed, new_freq=100) for speed in speeds]

    def read_length(self, length: int) -> int:
        """How many samples to read for ``length`` samples of any speed."""
        return -(-length * max(self.speeds) // 100)

    def draw(self, random: torch.Generator | None = None) -> int:
        """The number of a speed, from 0, drawn from torch's generator or the one given."""
        return int(torch.randint(len(self.speeds), (), generator=random))

    def forward(
        self, waveforms: Tensor, labels: Tensor, drawn: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Change speeds.

        Arguments
        ---------
        waveforms : torch.Tensor
            [B, R], with R of `read_length` (T).
        labels : torch.Tensor
            [B, 1], int64, in [0, C).
        drawn : sequence of int, optional
            The numbers of their speeds, from `draw`, which is called where it is left out.

        Returns
        -------
        torch.Tensor
            [B, T].
        torch.Tensor
            [B, 1], int64, in [0, len(speeds) * C).
        """
        if len(self.speeds) == 1:
            return waveforms, labels
        length = waveforms.shape[1] * 100 // max(self.speeds)
        chosen = torch.tensor([self.draw() for _ in waveforms] if drawn is None else drawn)
        perturbed = waveforms.new_empty(len(waveforms), length)
        sizes = chosen.bincount(minlength=len(self.resamplers)).tolist()
        placed = torch.stack([chosen.argsort(stable=True), chosen])
        order, speeds = sent(placed, waveforms.device)
        for resample, rows in zip(self.resamplers, order.split(sizes), strict=True):
            if len(rows):
                perturbed[rows] = resample(waveforms[rows])[:, :length]
        return perturbed, labels + self.speakers * speeds.to(labels).unsqueeze(1)
