"""Augmentation as published for speaker verification, from local folders.

`prepare_audio_csv` lists MUSAN's noises or RIRS_NOISES' room responses in a csv
file that SpeechBrain's ``AddNoise`` and ``AddReverb`` read as well as the classes
of those names here, which differ where such data need it:

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
===========  ================================  ==================================

Both draw from torch's CPU generator alone, whatever the device. Source of the
settings: MUSAN noise, speech and music at SNRs of 0-15, 13-20 and 5-15 dB and
simulated RIRs, as in "Additive Margin in Contrastive Self-Supervised Frameworks
to Learn Discriminative Speaker Representations" (arXiv 2404.14913).
"""

import csv
import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import soundfile
import torch
from speechbrain.augment.time_domain import Resample
from speechbrain.utils.logger import get_logger

from hamsb.dataio.annotations import read_columns
from hamsb.dataio.audio import crop_at
from hamsb.utils.files import replacing

logger = get_logger(__name__)

AUDIO = (".wav", ".flac")
COLUMNS = ("ID", "duration", "wav", "wav_format", "wav_opts")  # SpeechBrain's

_FORMAT_VERSION = 1  # of the csv file's meaning
_TINY = 1e-14  # a power below which a signal counts as silence


# ------------------------------------------------------------- the csv files


def prepare_audio_csv(folder, csv_file, key, kinds=None, sample_rate=16000):
    """List the wav and flac files below a folder in a csv file for augmentation.

    One row a file, of any length: no audio is decoded or written. Files of
    another sampling rate or with several channels, without samples or a readable
    header, or with a path that is not UTF-8 or has ``$`` (SpeechBrain replaces it)
    are left out with a warning. The csv file appears whole or not at all. It is
    reused as long as the arguments and the files' names, sizes and modification
    times are those that ``<csv_file>.json`` beside it records.

    Arguments
    ---------
    folder : str or Path
        E.g. ``/path/musan`` or ``/path/RIRS_NOISES/simulated_rirs``.
    csv_file : str or Path
        What to write: columns ID (path below ``folder``), duration (seconds),
        wav (absolute path), wav_format, wav_opts; sorted by ID.
    key : str
        The folder's key in the yaml, which errors name.
    kinds : list of str, optional
        Folders directly below ``folder``, e.g. ``[noise, music]`` of MUSAN; the
        others are left out.
    sample_rate : int
        Hz.

    Returns
    -------
    Path
        ``csv_file``.

    Raises
    ------
    FileNotFoundError
        If the folder or that of a kind is missing, or holds no usable audio.

    Example
    -------
    >>> root = getfixture("tmp_path")
    >>> (root / "musan" / "noise").mkdir(parents=True)
    >>> soundfile.write(root / "musan" / "noise" / "hum.wav", np.zeros(8000), 16000)
    >>> csv_file = prepare_audio_csv(
    ...     root / "musan", root / "noise.csv", key="data_folder_noise")
    >>> print(csv_file.read_text().replace(str(root), "...").strip())
    ID,duration,wav,wav_format,wav_opts
    noise/hum.wav,0.5,.../musan/noise/hum.wav,wav,
    """
    if not folder or not os.path.isdir(folder):
        raise FileNotFoundError(
            f"{key}: {folder} is not a folder. Nothing is downloaded: set {key} to a "
            "folder of wav or flac files, as MUSAN or RIRS_NOISES unpack to."
        )
    folder, csv_file = os.path.abspath(folder), Path(csv_file)
    found = _find(folder, key, kinds)
    made_from = {
        "version": _FORMAT_VERSION,
        "folder": folder,
        "sample_rate": sample_rate,
        "files": hashlib.sha256(repr(found).encode()).hexdigest(),
    }
    record = csv_file.with_name(f"{csv_file.name}.json")
    if _is_made_from(made_from, csv_file, record):
        return csv_file

    rows = list(_usable_rows(folder, found, sample_rate))
    if not rows:
        raise FileNotFoundError(
            f"{key}: none of the {len(found)} audio files in {folder} can be used; "
            "see the warnings above."
        )
    with (
        replacing(csv_file) as partial,
        open(partial, "w", newline="", encoding="utf-8") as stream,
    ):
        csv.writer(stream, lineterminator="\n").writerows([COLUMNS, *rows])
    with replacing(record) as partial:
        made_from["csv"] = _digest(csv_file)
        partial.write_text(json.dumps(made_from, indent=2) + "\n", encoding="utf-8")
    logger.info("%s: %d files of %s", csv_file, len(rows), folder)
    return csv_file


def _find(folder, key, kinds):
    """The audio files: sorted (path below the folder, size, time) tuples."""
    found = []
    for top in [folder] if kinds is None else [os.path.join(folder, k) for k in kinds]:
        here = list(_walk(folder, top))
        if not here:
            lacks = "holds no wav or flac file" if os.path.isdir(top) else "is missing"
            raise FileNotFoundError(f"{key}: {top} {lacks}. Nothing is downloaded.")
        found += here
    return sorted(found)


def _walk(folder, top):
    for parent, _, names in os.walk(top, followlinks=True):
        for name in names:
            path = os.path.join(parent, name)
            if name.lower().endswith(AUDIO) and os.path.isfile(path):
                status = os.stat(path)
                below = os.path.relpath(path, folder).replace(os.sep, "/")
                yield below, status.st_size, status.st_mtime_ns


def _is_made_from(made_from, csv_file, record):
    """Whether the csv file is whole, and what ``made_from`` gives."""
    try:
        earlier = json.loads(record.read_text(encoding="utf-8"))
        return earlier == {**made_from, "csv": _digest(csv_file)}
    except (OSError, ValueError):
        return False


def _digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _usable_rows(folder, found, sample_rate):
    """Yield the csv file's rows; warn of what is left out, a line a reason."""
    left_out = {}
    for name, _, _ in found:
        path = os.path.join(folder, name)
        frames, reason = _look(path, sample_rate)
        if reason:
            left_out.setdefault(reason, []).append(path)
        else:
            kind = os.path.splitext(name)[1][1:].lower()
            yield name, frames / sample_rate, path, kind, ""
    for reason, paths in left_out.items():
        first = paths[0].encode("utf-8", "backslashreplace").decode()
        logger.warning("%d files left out, %s: %s ...", len(paths), reason, first)


def _look(path, sample_rate):
    """The number of samples, and why the file cannot be used, or ''."""
    try:
        path.encode("utf-8")
        info = soundfile.info(path)
    except UnicodeEncodeError:
        return 0, "with a path that is not UTF-8"
    except soundfile.LibsndfileError:
        return 0, "unreadable"
    if "$" in path:
        return 0, "with $ in the path"
    if info.samplerate != sample_rate:
        return 0, f"not at {sample_rate} Hz"
    if info.channels != 1:
        return 0, "with several channels"
    return info.frames, "" if info.frames else "without samples"


def read_audio_csv(csv_file):
    """The files that `prepare_audio_csv` listed, by kind.

    Arguments
    ---------
    csv_file : str or Path
        A missing one is a FileNotFoundError.

    Returns
    -------
    dict of str to list of str
        Kind -> paths. A file's kind is the first folder of its ID, so ``noise``,
        ``speech`` or ``music`` in MUSAN; "" for a file without.
    """
    files: dict[str, list[str]] = {}
    advice = "prepare_noise_data and prepare_rir_data write it before the training begins"
    for _, (name, wav) in read_columns(csv_file, ("ID", "wav"), advice):
        kind, slash, _ = name.partition("/")
        files.setdefault(kind if slash else "", []).append(wav)
    return files


# ------------------------------------------------------------- noise, reverberation


class AddNoise(torch.nn.Module):
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
    >>> root = getfixture("tmp_path")
    >>> hum = np.sin(np.arange(8000) / 9)
    >>> soundfile.write(root / "hum.wav", hum, 16000)
    >>> csv_file = prepare_audio_csv(root, root / "noise.csv", key="data_folder_noise")
    >>> add_noise = AddNoise(csv_file, snr=[10, 10])
    >>> speech = torch.randn(4, 32000, generator=torch.Generator().manual_seed(0))
    >>> noise = add_noise(speech, torch.ones(4)) - speech
    >>> snr = 10 * torch.log10(speech.square().mean(1) / noise.square().mean(1))
    >>> [round(each, 3) for each in snr.tolist()]
    [10.0, 10.0, 10.0, 10.0]
    """

    def __init__(self, csv_file, snr):
        super().__init__()
        self.csv_file = csv_file
        self.by_kind = isinstance(snr, Mapping)
        self.ranges = dict(snr) if self.by_kind else {"": snr}
        for kind, pair in self.ranges.items():
            self.ranges[kind] = _range(pair, kind)
        self.files = None

    def forward(self, waveforms, lengths):
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
        if self.files is None:
            self.files = self._read_files()
        kinds = list(self.files)
        noises, ratios = [], []
        for draws in torch.rand(len(waveforms), 4, dtype=torch.float64).tolist():
            kind = _pick(kinds, draws[0])
            path = _pick(self.files[kind], draws[1])
            low, high = self.ranges[kind]
            noises.append(crop_at(path, waveforms.shape[1], draws[2]))
            ratios.append(10 ** ((low + (high - low) * draws[3]) / 10))
        noise = torch.stack(noises).to(waveforms)
        ratio = torch.tensor(ratios).to(waveforms).unsqueeze(1)
        power = _power(waveforms) / lengths.unsqueeze(1)  # without the padding
        gain = (power / (ratio * _power(noise).clamp_min(_TINY))).sqrt()
        return waveforms + gain * noise

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


class AddReverb(torch.nn.Module):
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
    >>> root = getfixture("tmp_path")
    >>> taps = np.eye(1, 801, 0) + 0.5 * np.eye(1, 801, 800)
    >>> soundfile.write(root / "echo.wav", taps[0], 16000)
    >>> csv_file = prepare_audio_csv(root, root / "rir.csv", key="data_folder_rir")
    >>> click = torch.eye(1, 16000)
    >>> echo = AddReverb(csv_file)(click)[0]
    >>> (echo > 0.01).nonzero().flatten()
    tensor([  0, 800])
    """

    def __init__(self, csv_file):
        super().__init__()
        self.csv_file = csv_file
        self.files = None

    def forward(self, waveforms):
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
        if self.files is None:
            self.files = sum(read_audio_csv(self.csv_file).values(), [])
        draws = torch.rand(len(waveforms), dtype=torch.float64).tolist()
        responses = [_read(_pick(self.files, draw)) for draw in draws]
        length = waveforms.shape[1]
        size = length + max(map(len, responses)) - 1  # no tail reaches the start
        size = 1 << (size - 1).bit_length()  # fast
        kernels = torch.from_numpy(np.stack([_align(r, size) for r in responses]))
        kernels = torch.fft.rfft(kernels.to(waveforms))
        output = torch.fft.irfft(torch.fft.rfft(waveforms, size) * kernels, size)
        output = output[:, :length]
        return output * (_power(waveforms) / _power(output).clamp_min(_TINY)).sqrt()


def _read(path):
    samples, _ = soundfile.read(path, dtype="float32", always_2d=True)
    return samples.mean(1)


def _align(response, size):
    """Pad a response to [size], its loudest sample first and what precedes it last."""
    padded = np.zeros(size, dtype=np.float32)
    padded[: len(response)] = response
    return np.roll(padded, -np.abs(response).argmax())


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

    def __init__(self, speeds, out_neurons):
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

    def read_length(self, length):
        """How many samples to read for ``length`` samples of any speed."""
        return -(-length * max(self.speeds) // 100)

    def forward(self, waveforms, labels):
        """Change speeds.

        Arguments
        ---------
        waveforms : torch.Tensor
            [B, R], with R of `read_length` (T).
        labels : torch.Tensor
            [B, 1], int64, in [0, C).

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
        chosen = torch.randint(len(self.speeds), (len(waveforms),))
        perturbed = waveforms.new_empty(len(waveforms), length)
        for k, resample in enumerate(self.resamplers):
            rows = (chosen == k).nonzero().flatten().to(waveforms.device)
            if len(rows):
                perturbed[rows] = resample(waveforms[rows])[:, :length]
        return perturbed, labels + self.speakers * chosen.to(labels).unsqueeze(1)
