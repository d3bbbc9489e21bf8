"""Rooms, noises and channels from nothing, where there is no MUSAN and no RIRS_NOISES.

A `Session` is what one recording day adds to a voice, drawn independent of the
speaker. `record` plays speech through it, as the synthetic corpus does; and
`make_distortions` writes noises and responses of further sessions as audio files, for
augmentation. Without distortions that differ between two views of an utterance,
self-supervised training learns the microphone and not the voice.
"""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from scipy.fft import irfft, next_fast_len, rfft, rfftfreq
from scipy.signal import fftconvolve

from hamsb.utils.files import read_json, replacing_folder

#: Of all signals here, Hz.
SAMPLE_RATE = 16000

#: Kinds of noise.
NOISES = ("white", "pink", "brown", "hum")

#: Name of the file that marks a folder of `make_distortions`.
MARKER = "distortions.json"

# Control frequencies of a channel's equalizer, Hz.
_EQ_HZ = np.geomspace(80.0, 7500.0, 9)
_BEYOND = 10_000  # a synthetic corpus has fewer training speakers
_LEAD = 400  # samples that the channel, without phase, answers before the sound


@dataclass(frozen=True)
class Session:
    """What one recording day adds to a voice.

    ``pitch`` is a factor of the speaker's fundamental, ``rate_wpm`` words a minute,
    ``channel_db`` the equalizer's gains in dB at 80 to 7500 Hz; ``noise`` is one of
    `NOISES`.
    """

    pitch: float
    rate_wpm: int
    noise: str
    snr_db: float
    rt60_s: float
    drr_db: float
    low_cut_hz: float
    high_cut_hz: float
    channel_db: tuple[float, ...]
    level_dbfs: float


def draw_session(rng: np.random.Generator) -> Session:
    """Draw a session."""
    return Session(
        pitch=round(2.0 ** rng.uniform(-0.3, 0.3), 4),
        rate_wpm=int(rng.integers(140, 211)),
        noise=str(rng.choice(NOISES)),
        snr_db=round(float(rng.uniform(8.0, 30.0)), 2),
        rt60_s=round(float(rng.uniform(0.1, 0.6)), 3),
        drr_db=round(float(rng.uniform(0.0, 15.0)), 2),
        low_cut_hz=round(float(np.exp(rng.uniform(*np.log([50, 300])))), 1),
        high_cut_hz=round(float(rng.uniform(3500.0, 8000.0)), 1),
        channel_db=tuple(
            round(float(g), 2) for g in 5.0 * rng.standard_normal(_EQ_HZ.size)
        ),
        level_dbfs=round(float(rng.uniform(-36.0, -20.0)), 2),
    )


def room_response(rng: np.random.Generator, rt60_s: float, drr_db: float) -> np.ndarray:
    """A room's impulse response [T]: a direct sound of 1 and a noise tail.

    The tail begins 3 ms later, decays by 60 dB in ``rt60_s`` seconds and has an
    energy ``drr_db`` dB below the direct sound's.
    """
    time = np.arange(int(rt60_s * SAMPLE_RATE)) / SAMPLE_RATE
    tail = rng.standard_normal(time.size) * 10.0 ** (-3.0 * time / rt60_s)
    tail[: int(0.003 * SAMPLE_RATE)] = 0.0
    tail *= math.sqrt(10.0 ** (-drr_db / 10.0) / np.sum(tail**2))
    tail[0] = 1.0
    return tail


def draw_noise(rng: np.random.Generator, kind: str, samples: int) -> np.ndarray:
    """Noise [samples] of unit power; ``kind`` is one of `NOISES`.

    White, pink and brown fall by 0, 3 and 6 dB an octave; hum is a mains hum with
    harmonics over pink noise.
    """
    slope = {"white": 0.0, "pink": 0.5, "brown": 1.0, "hum": 0.5}[kind]
    white = rng.standard_normal(next_fast_len(samples, real=True))
    hertz = rfftfreq(white.size, 1.0 / SAMPLE_RATE)
    spectrum = rfft(white) * np.maximum(hertz, 40.0) ** -slope
    noise = irfft(spectrum, white.size)[:samples]
    noise /= np.sqrt(np.mean(noise**2))
    if kind == "hum":
        order = np.arange(1, 13)[:, None]
        cycle = np.arange(SAMPLE_RATE // 50) / (SAMPLE_RATE // 50)
        phase = rng.uniform(0.0, 2.0 * np.pi, order.shape)
        waves = 2.0 / order * np.sin(2.0 * np.pi * order * cycle + phase)
        noise += np.resize(waves.sum(0), samples)
        noise /= np.sqrt(np.mean(noise**2))
    return noise


def channel_gain(session: Session, hertz: np.ndarray) -> np.ndarray:
    """Magnitude response of a session's channel at ``hertz`` [F].

    The equalizer is linear in dB over log frequency; both cut-offs fall by 24 dB an
    octave. No phase is added.
    """
    hertz = np.maximum(hertz, 1.0)
    gain_db = np.interp(np.log(hertz), np.log(_EQ_HZ), session.channel_db)
    low = 1.0 / np.sqrt(1.0 + (session.low_cut_hz / hertz) ** 8)
    high = 1.0 / np.sqrt(1.0 + (hertz / session.high_cut_hz) ** 8)
    return 10.0 ** (gain_db / 20.0) * low * high


def record(
    speech: np.ndarray, session: Session, room: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """What the session's microphone hears of clean ``speech`` [T].

    Room, then noise, then channel, then level; peaks are held below full scale.
    Returns float64 [T'] with a little more than the speech at both ends.
    """
    ends = (rng.uniform(0.05, 0.2, 2) * SAMPLE_RATE).astype(int)
    wave = fftconvolve(np.pad(speech, ends), room)[: speech.size + ends.sum()]
    power = np.mean(speech**2) * 10.0 ** (-session.snr_db / 10.0)
    wave += math.sqrt(power) * draw_noise(rng, session.noise, wave.size)
    size = next_fast_len(wave.size + SAMPLE_RATE // 20, real=True)
    hertz = rfftfreq(size, 1.0 / SAMPLE_RATE)
    spectrum = rfft(wave, size) * channel_gain(session, hertz)
    wave = irfft(spectrum, size)[: wave.size]
    wave *= 10.0 ** (session.level_dbfs / 20.0) / np.sqrt(np.mean(wave**2))
    return wave * min(1.0, 0.95 / np.max(np.abs(wave)))


# ------------------------------------------------------------- as audio files


def make_distortions(
    folder: str | os.PathLike, seed: int = 1234, noises: int = 5, responses: int = 200
) -> Path:
    """Write a folder of noises and responses, or find it where it was made before.

    It is laid out as ``hamsb.augment.corpora.prepare_audio_csv`` reads it::

        noise/<white, pink, brown, hum>/<number>.wav    10 s each
        rir/<number>.wav                                a room and the channel behind it

    No utterance of a synthetic corpus was recorded through any of them, whatever the
    seeds.

    Arguments
    ---------
    folder : str or Path
        One of other options is replaced; what is no such folder is a ValueError.
    seed : int
        >= 0.
    noises : int
        Files of each kind, >= 1.
    responses : int
        Rooms, >= 1.

    Returns
    -------
    Path
        ``folder``.

    Example
    -------
    >>> folder = getfixture("tmp_path") / "distortions"
    >>> _ = make_distortions(folder, noises=1, responses=2)
    >>> sorted(path.name for path in (folder / "noise").iterdir())
    ['brown', 'hum', 'pink', 'white']
    """
    options = {"seed": seed, "noises": noises, "responses": responses}
    for name, value in options.items():
        least = 0 if name == "seed" else 1
        if type(value) is not int or value < least:
            raise ValueError(
                f"distortions: {name}={value!r}: a whole number, at least {least}, is "
                "needed."
            )
    folder = Path(folder)
    if _is_made(folder, options):
        return folder
    with replacing_folder(folder, keep=lambda: _is_made(folder, options)) as partial:
        for kind in NOISES:
            for number in range(noises):
                rng = np.random.default_rng([seed, NOISES.index(kind), number])
                noise = draw_noise(rng, kind, 10 * SAMPLE_RATE)
                _write(partial / "noise" / kind / f"{number:05d}.wav", noise)
        for number in range(responses):
            _write(partial / "rir" / f"{number:05d}.wav", draw_response(seed, number))
        (partial / MARKER).write_text(json.dumps(options), encoding="utf-8")
    return folder


def draw_response(seed: int, number: int) -> np.ndarray:
    """The room and the channel of a session as one impulse response [T]."""
    # As a synthetic corpus draws the first session of a training speaker.
    sequence = np.random.SeedSequence(seed, spawn_key=(0, _BEYOND + number, 0))
    session = draw_session(np.random.default_rng(sequence))
    rng = np.random.default_rng([seed, len(NOISES), number])
    room = room_response(rng, session.rt60_s, session.drr_db)
    size = next_fast_len(room.size + 4 * _LEAD, real=True)
    hertz = rfftfreq(size, 1 / SAMPLE_RATE)
    response = irfft(rfft(room, size) * channel_gain(session, hertz), size)
    return np.roll(response, _LEAD)[: room.size + 2 * _LEAD]


def _is_made(folder: Path, options: dict) -> bool:
    """Whether the folder holds what the options give; ValueError where it may not be
    replaced."""
    if not folder.exists():
        return False
    if not (folder / MARKER).is_file():
        raise ValueError(
            f"{folder} exists and holds no {MARKER}; name another folder or remove it."
        )
    try:
        return read_json(folder / MARKER) == options
    except ValueError:
        return False  # damaged


def _write(path: Path, samples: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = 0.9 * samples / np.abs(samples).max()
    soundfile.write(path, samples, SAMPLE_RATE, subtype="PCM_16")
