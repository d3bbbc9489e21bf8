"""Simulated noises and room responses, where there is no MUSAN and no RIRS_NOISES.

Without distortions that differ between two views of an utterance, self-supervised
training learns the microphone and not the voice. The folder is laid out as
``hamsb.augment.time_domain.prepare_audio_csv`` reads it:

    noise/<white, pink, brown, hum>/<number>.wav    10 s each
    rir/<number>.wav                                a room and the channel behind it

The draws are those of the embedded corpus's sessions (mini_corpus.py), but of
other sessions, whatever the seeds: no utterance was recorded through any of them.
"""

import json
from pathlib import Path

import numpy as np
import soundfile
from mini_corpus import (
    NOISES,
    SAMPLE_RATE,
    channel_gain,
    draw_noise,
    draw_session,
    room_response,
)
from scipy.fft import irfft, next_fast_len, rfft, rfftfreq

from hamsb.utils.files import replacing_folder

MARKER = "distortions.json"
_BEYOND = 10_000  # the corpus has fewer speakers
_LEAD = 400  # samples that the channel, without phase, answers before the sound


def make_distortions(folder, seed=1234, noises=5, responses=200):
    """Write the folder, or find it where it was made before.

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
        if type(value) is not int or value < (name != "seed"):
            raise ValueError(f"distortions: {name}={value!r}: a whole number, at least "
                f"{int(name != 'seed')}, is needed.")
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


def _is_made(folder, options):
    """Whether the folder holds what the options give; ValueError where it may not be
    replaced."""
    if not folder.exists():
        return False
    if not (folder / MARKER).is_file():
        raise ValueError(
            f"{folder} exists and holds no {MARKER}; name another folder or remove it."
        )
    return json.loads((folder / MARKER).read_text(encoding="utf-8")) == options


def draw_response(seed, number):
    """A room and a channel as one impulse response [T]."""
    session = draw_session(seed, "train", _BEYOND + number, 0)
    rng = np.random.default_rng([seed, len(NOISES), number])
    room = room_response(rng, session.rt60_s, session.drr_db)
    size = next_fast_len(room.size + 4 * _LEAD, real=True)
    hertz = rfftfreq(size, 1 / SAMPLE_RATE)
    response = irfft(rfft(room, size) * channel_gain(session, hertz), size)
    return np.roll(response, _LEAD)[: room.size + 2 * _LEAD]


def _write(path, samples):
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = 0.9 * samples / np.abs(samples).max()
    soundfile.write(path, samples, SAMPLE_RATE, subtype="PCM_16")
