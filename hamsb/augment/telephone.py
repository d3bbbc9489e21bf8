"""The telephone channel: speech as it comes out of a line of G.711.

What a fixed line and a voice-over-IP call with G.711 do to speech: a band of 300 to
3400 Hz (ITU-T G.712, "Transmission performance characteristics of pulse code modulation
channels"), 8000 samples a second, and each sample one of 256 levels by the mu- or the
A-law (ITU-T G.711, "Pulse code modulation of voice frequencies", tables 1a to 2b).

GSM's codecs are not here. They predict each sample from those that they have decoded
before: GSM 06.10 is some hundred lines, whose thousands of steps a second have to run one
after the other. Anything shorter would not be GSM.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from hamsb.dataio.packing import sent

#: Samples a second on the line.
LINE_RATE = 8000

_SKIRT = 200.0  # Hz between a band's edge, where nothing is lost, and silence


class Telephone(torch.nn.Module):
    """Send utterances through a telephone line, each with a probability of its own.

    The band is cut out and the rate reduced in one step, by FFT: without phase, without
    loss within the band, silent 200 Hz beyond its edges. Levels follow by the law, and
    the rate is that of before. Length, place and level of the speech stay as they are.
    No gradient goes through.

    It stands among the ``augmentations`` of SpeechBrain's Augmenter, which gives it
    ``lengths``. It draws from torch's CPU generator alone, whatever the device: a number
    for each utterance, always.

    Arguments
    ---------
    sample_rate : int
        Of the waveforms, in Hz, at least 8000.
    probability : float
        That an utterance goes through the line, 0 to 1.
    law : str
        "mu" (North America, Japan) or "a" (elsewhere).
    band : pair of float
        Lowest and highest frequency that pass whole, in Hz; the highest below 4000.

    Raises
    ------
    ValueError
        One of these is another.

    Example
    -------
    >>> telephone = Telephone(sample_rate=16000)
    >>> phase = 6.2832 * torch.arange(16000) / 16000
    >>> tones = torch.stack([torch.sin(hertz * phase) for hertz in (50, 997, 5000)])
    >>> heard = telephone(tones / 2, torch.ones(3))
    >>> heard.shape, [round(each, 2) for each in heard.square().mean(1).tolist()]
    (torch.Size([3, 16000]), [0.0, 0.13, 0.0])
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        probability: float = 1.0,
        law: str = "mu",
        band: Sequence[float] = (300.0, 3400.0),
    ):
        super().__init__()
        if sample_rate < LINE_RATE:
            raise ValueError(
                f"sample_rate={sample_rate}: a telephone has {LINE_RATE} Hz; give audio of "
                "at least that rate."
            )
        if not 0 <= probability <= 1:
            raise ValueError(f"probability={probability}: must be between 0 and 1.")
        if law not in _LAWS:
            raise ValueError(f"law={law!r}: must be one of {', '.join(_LAWS)}.")
        low, high = map(float, band)
        if not 0 <= low < high < LINE_RATE / 2:
            raise ValueError(
                f"band={list(band)}: must be [lowest, highest] in Hz, the highest below "
                f"{LINE_RATE // 2}."
            )
        self.sample_rate = sample_rate
        self.probability = probability
        self.law = law
        self.band = low, high

    def forward(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """Send through the line.

        Arguments
        ---------
        waveforms : torch.Tensor
            [B, T], float32, at full scale 1; what is beyond is clipped.
        lengths : torch.Tensor
            [B], relative to T. What follows is padding, and becomes zero.

        Returns
        -------
        torch.Tensor
            [B, T].
        """
        draws = torch.rand(len(waveforms), dtype=torch.float64)
        rows = sent((draws < self.probability).nonzero().flatten(), waveforms.device)
        if len(rows) == 0:
            return waveforms
        chosen = waveforms[rows].detach().float()
        heard = self._decode(_LAWS[self.law](self._encode(chosen)), chosen.shape[1])
        places = torch.arange(chosen.shape[1], device=chosen.device)
        ends = lengths[rows].to(chosen.device) * chosen.shape[1]
        heard = heard * (places < ends.round().unsqueeze(1))
        return waveforms.index_copy(0, rows, heard.to(waveforms.dtype))

    def _encode(self, waveforms):
        """[B, T] -> the band alone at 8 kHz."""
        seconds = -(-waveforms.shape[1] // self.sample_rate) + 1  # whole, at both rates
        size, line = seconds * self.sample_rate, seconds * LINE_RATE
        spectrum = torch.fft.rfft(waveforms, size)[:, : line // 2 + 1]
        hertz = torch.arange(line // 2 + 1, device=waveforms.device) / seconds
        low, high = self.band
        beyond = torch.maximum(low - hertz, hertz - high)
        skirt = min(_SKIRT, LINE_RATE / 2 - high)
        gain = torch.cos(beyond.clamp(0.0, skirt) * (torch.pi / 2 / skirt)).square()
        return torch.fft.irfft(spectrum * gain, line) * (LINE_RATE / self.sample_rate)

    def _decode(self, line, length):
        """8 kHz -> [B, T], T the length."""
        size = line.shape[1] * self.sample_rate // LINE_RATE
        spectrum = torch.fft.rfft(line)
        waveforms = torch.fft.irfft(spectrum, size) * (self.sample_rate / LINE_RATE)
        return waveforms[:, :length]


def mu_law(waveforms: Tensor) -> Tensor:
    """Encode samples by G.711's mu-law, and decode them.

    Levels are those of tables 2a and 2b over 8192: for step q of segment s, both from 0,
    ``(2 q + 33) 2^s - 33``. The largest is 8031.

    Arguments
    ---------
    waveforms : torch.Tensor
        Any shape, float32 or wider, at full scale 1; beyond is clipped.

    Returns
    -------
    torch.Tensor
        The same shape, of 255 values.

    Example
    -------
    >>> mu_law(torch.tensor([0.0, 1.0, -1.0, 0.5])).mul(8192).int()
    tensor([    0,  8031, -8031,  4191], dtype=torch.int32)
    """
    magnitude = (waveforms.abs() * 8192).clamp_max(8158) + 33
    return waveforms.sign() * (_middle(magnitude, 5) - 33) / 8192


def a_law(waveforms: Tensor) -> Tensor:
    """As `mu_law`, by the A-law: the levels of tables 1a and 1b over 4096.

    Zero is no level; it becomes 1.

    Example
    -------
    >>> a_law(torch.tensor([0.0, 1.0, -1.0, 0.5])).mul(4096).int()
    tensor([    1,  4032, -4032,  2112], dtype=torch.int32)
    """
    magnitude = (waveforms.abs() * 4096).clamp_max(4095)
    sign = torch.where(waveforms < 0, -1.0, 1.0).to(waveforms)
    return sign * _middle(magnitude, 5) / 4096


def _middle(magnitude, bits):
    """The middle of a magnitude's interval: 16 of them between powers of two, and below
    2^bits intervals of 2."""
    exponent = torch.frexp(magnitude).exponent
    step = torch.ldexp(torch.ones_like(magnitude), (exponent - bits).clamp_min(1))
    return ((magnitude / step).floor() + 0.5) * step


_LAWS = {"mu": mu_law, "a": a_law}
