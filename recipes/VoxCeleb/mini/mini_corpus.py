"""A synthetic speaker verification corpus in VoxCeleb layout, made in seconds.

The recipes run on it when no VoxCeleb is at hand. eSpeak NG (Python package
``espeakng-loader``, extra ``[mini]``) speaks random English sentences;
``hamsb.augment.simulation`` adds the room, the noise and the channel of a
session. Nothing is downloaded.

What a speaker is
    A set of eSpeak voice parameters drawn once per speaker and written as an
    eSpeak *voice variant* of the corpus' own: the fundamental frequency and
    its span, the center frequencies, strengths and bandwidths of the formants
    (a common vocal tract factor times one deviation a formant), the strength
    of voicing and of consonants, and breath noise. The variants that ship with
    eSpeak are not used: of those, many differ only in an echo or an equalizer,
    which is a channel and not a voice (``echo`` and ``tone`` are not used
    here), or in the synthesizer (klatt, robosoft), or whisper. Every speaker,
    training or test, therefore has a voice that no other speaker has; training
    and test speakers are different draws from the same population.

The hierarchy
    voice family -> accent -> speaker -> session, in ``metadata.csv``. A
    *family* (`FAMILIES`) is a range of fundamental frequencies and a
    vocal tract factor about which its speakers scatter; an *accent*
    (`ACCENTS`) is one of eSpeak's English voices, with its own phonemes,
    and is nested in the family. Training and test speakers share families and
    accents, as people do.

What a session is
    Fundamental frequency and rate about the speaker's, a noise and its
    signal-to-noise ratio, a room (reverberation time, direct-to-reverberant
    ratio, impulse response), a channel (a random equalizer and two cut-off
    frequencies) and a level, all drawn per session and independent of the
    speaker. So a channel says nothing about who speaks, and the pitch little.

Determinism
    Every random number comes from a generator keyed by (seed, part, speaker,
    session, utterance), and eSpeak, which carries state from one utterance
    to the next (in flutter, roughness, trills, and now and then in a single
    pitch period), is loaded afresh for each speaker. So neither the number of
    workers nor the number of other speakers changes an utterance. The bytes
    are equal on one machine with one set of library versions; elsewhere a
    sample may be rounded to its neighbor.

How hard it is
    Default options, EER of the test list, cosine: mean log-mel vector 43.0 %;
    an ECAPA-TDNN with 128 channels on mean-normalized log-mel features,
    untrained 29.2, 30.2, 29.9 % and after 200 steps with AM-softmax 6.4, 7.2,
    7.6 % (its seeds 1, 2, 3; 64 crops of 2 s a step, Adam, one cycle up to
    0.002). The fundamental of the session alone, read from the metadata:
    41.0 %; its noise, channel, level or rate: 48 to 52 %.

Run it as ``python recipes/VoxCeleb/mini/mini_corpus.py FOLDER [--seed N]``;
there is an option for each argument of `make_mini_corpus`.

Facts about voice variants and parameters: eSpeak NG, ``docs/voices.md`` and
``src/include/espeak-ng/speak_lib.h``.
"""

import _ctypes
import argparse
import csv
import ctypes
import inspect
import json
import math
import multiprocessing
import os
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from hamsb.augment.simulation import SAMPLE_RATE, draw_session, record, room_response
from hamsb.utils.files import read_json, replacing_folder
from hamsb.utils.progress import progress_bar

import numpy as np
import soundfile
from scipy.signal import resample_poly

#: Raise it with every change that alters the files; older corpora are rebuilt.
FORMAT_VERSION = 2

#: Name of the file that is written last and marks a complete corpus.
MARKER = "mini_corpus.json"

#: Voice family -> (lowest, highest fundamental in Hz, vocal tract factor of
#: the formants relative to eSpeak's default adult male).
FAMILIES = {
    "bass": (72.0, 98.0, 0.91),
    "baritone": (88.0, 122.0, 0.97),
    "tenor": (110.0, 150.0, 1.03),
    "alto": (145.0, 190.0, 1.11),
    "soprano": (180.0, 235.0, 1.19),
    "child": (205.0, 260.0, 1.31),
}

#: Accents: names of eSpeak voices in its folder ``lang/gmw``.
ACCENTS = (
    "en-US",
    "en-GB-x-rp",
    "en-029",
    "en-GB-x-gbclan",
    "en-GB-x-gbcwmd",
)

# Offsets that keep the random generators of the two parts apart.
_PARTS = {"train": 0, "test": 1, "trials": 2}
_FIRST_ID = {"train": 10001, "test": 20001}

_WORDS = {
    "det": "the a my your our his her their this that every another".split(),
    "adj": (
        "old young green heavy quiet narrow yellow clever frozen gentle hollow"
        " famous purple rusty shallow thirsty bitter wooden curious empty"
        " foreign loud tiny vague smooth golden brave northern lazy public"
    ).split(),
    "noun": (
        "teacher river garden doctor window engine village sailor thunder"
        " pocket kitchen lawyer bridge mountain letter singer feather market"
        " farmer castle uncle judge voyage picture island shepherd bottle"
        " choir orange jacket theory zebra measure thief youth hour boy house"
    ).split(),
    "verb": (
        "bought found carried noticed followed measured painted answered"
        " opened watched borrowed described lifted collected finished hid"
        " repaired protected changed visited understood joined enjoyed"
        " washed refused imagined chose pushed"
    ).split(),
    "num": "two three four five six seven eight nine ten eleven forty".split(),
    "adv": (
        "yesterday slowly together again carefully abroad today sometimes"
        " nowhere tomorrow quickly outside early indoors later twice"
        " everywhere always finally perhaps usually suddenly"
    ).split(),
    "link": "and but because while although when so before".split(),
}

_CLAUSES = (
    "det adj noun verb det noun adv",
    "det noun verb num adj noun",
    "num adj noun verb det adj noun",
    "adv det noun verb det adj noun",
    "det adj noun verb num noun adv",
)


@dataclass(frozen=True)
class Options:
    """What determines the contents of a corpus (see make_mini_corpus)."""

    seed: int
    train_speakers: int
    test_speakers: int
    sessions: int
    utterances: int
    duration: float
    trials: int
    format_version: int = FORMAT_VERSION

    def __post_init__(self):
        smallest = {
            "seed": 0,
            "train_speakers": 2,
            "test_speakers": 2,
            "sessions": 2,
            "utterances": 1,
            "trials": 2,
        }
        for name, low in smallest.items():
            value = getattr(self, name)
            if type(value) is not int or value < low:
                raise ValueError(f"{name} must be a whole number >= {low}, got {value!r}")
        for name in ("train_speakers", "test_speakers", "sessions"):
            if getattr(self, name) > 9999:  # names would collide
                raise ValueError(f"{name} must be at most 9999, got {getattr(self, name)}")
        duration = self.duration
        if type(duration) not in (int, float) or not 1 <= duration <= 30:
            raise ValueError(
                f"duration must lie between 1 and 30 seconds, got {duration!r}"
            )


# --------------------------------------------------------------------------
# Draws: what a speaker, a session and an utterance are
# --------------------------------------------------------------------------


@dataclass(frozen=True)
class Speaker:
    """One person: the parameters of an eSpeak voice variant.

    ``f0_hz`` is the lower end of the intonation, ``span`` its upper end
    relative to it; ``formants``, ``strengths`` and ``widths`` are factors of
    eSpeak's formants 1 to 8 (center frequency, height, bandwidth);
    ``voicing`` and ``consonants`` are percentages, ``breath`` is the noise
    excitation of formants 1 to 8 (0: none).
    """

    name: str
    part: str
    index: int
    family: str
    accent: str
    f0_hz: float
    span: float
    tract: float
    formants: tuple
    strengths: tuple
    widths: tuple
    voicing: int
    consonants: int
    breath: int


def _rng(seed, part, *key):
    """The random generator of one thing in one part of one corpus.

    A spawn key, because as plain entropy (1, 2) and (1, 2, 0) are equal.
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(_PARTS[part], *key))
    return np.random.default_rng(sequence)


def _factors(rng, sigma, count):
    """``count`` log-normal factors about 1 with ``sigma``, cut at 2 sigma."""
    draws = np.clip(rng.standard_normal(count), -2.0, 2.0)
    return tuple(round(float(x), 4) for x in np.exp(sigma * draws))


def draw_speaker(seed, part, index):
    """Draw speaker ``index`` of a part ("train" or "test").

    The hierarchy's leaves are filled in turn: families first, then accents.
    """
    rng = _rng(seed, part, index)
    family = list(FAMILIES)[index % len(FAMILIES)]
    accent = ACCENTS[index // len(FAMILIES) % len(ACCENTS)]
    low, high, tract = FAMILIES[family]
    return Speaker(
        name=f"id{_FIRST_ID[part] + index}",
        part=part,
        index=index,
        family=family,
        accent=accent,
        f0_hz=round(float(rng.uniform(low, high)), 2),
        span=round(float(rng.uniform(1.2, 1.7)), 3),
        tract=round(tract * _factors(rng, 0.03, 1)[0], 4),
        formants=_factors(rng, 0.06, 8),
        strengths=_factors(rng, 0.25, 8),
        widths=_factors(rng, 0.25, 8),
        voicing=int(rng.integers(60, 141)),
        consonants=int(rng.integers(60, 141)),
        breath=int(rng.integers(0, 7)),
    )


def session_of(seed, part, speaker, number):
    """Session ``number`` of speaker number ``speaker`` of a part."""
    return draw_session(_rng(seed, part, speaker, number))


def draw_text(rng, words):
    """English of exactly ``words`` words; clauses from a combinatorial pool.

    The last clause ends where the count is reached, as an excerpt does.
    """
    text = []
    while len(text) < words:
        if text:
            text.append(str(rng.choice(_WORDS["link"])))
        for slot in str(rng.choice(_CLAUSES)).split():
            text.append(str(rng.choice(_WORDS[slot])))
    return " ".join(text[:words]).capitalize() + "."


def variant_text(speaker, pitch=1.0):
    """The eSpeak voice variant file of a speaker in a session, as text."""
    low = speaker.f0_hz * pitch
    lines = [
        "language variant",
        f"name {speaker.name}",
        f"pitch {low:.0f} {low * speaker.span:.0f}",
        "flutter 0",
        "roughness 0",
        f"voicing {speaker.voicing}",
        f"consonants {speaker.consonants} {speaker.consonants}",
        f"formant 0 {100 * speaker.tract:.0f} 100 100",
    ]
    rows = zip(speaker.formants, speaker.strengths, speaker.widths)
    for number, (center, strength, width) in enumerate(rows, start=1):
        lines.append(
            f"formant {number} {100 * speaker.tract * center:.0f}"
            f" {100 * strength:.0f} {100 * width:.0f}"
        )
    if speaker.breath:
        lines.append("breath " + " ".join(["0"] + [str(speaker.breath)] * 7))
        lines.append("breathw 150 150 200 200 400 400 600 600")
    return "\n".join(lines) + "\n"


# --------------------------------------------------------------------------
# eSpeak NG
# --------------------------------------------------------------------------


def _espeakng_loader():
    """The module espeakng_loader, or an ImportError that says what to do."""
    try:
        import espeakng_loader
    except ImportError as error:
        raise ImportError(
            "The mini corpus is spoken by eSpeak NG, and the package "
            "espeakng-loader is not installed. Run: "
            'pip install "hamsb[mini]"'
        ) from error
    return espeakng_loader


def copy_espeak_data(folder):
    """Copy eSpeak's English data (about 1 MB) to ``folder/espeak-ng-data``.

    A copy, because eSpeak reads voice variants from its data folder only and
    the installed one is not ours to write into.
    """
    source = Path(_espeakng_loader().get_data_path())
    target = Path(folder) / "espeak-ng-data"
    (target / "voices" / "!v").mkdir(parents=True)
    (target / "lang" / "gmw").mkdir(parents=True)
    for name in ("en_dict", "intonations", "phondata", "phonindex", "phontab"):
        shutil.copyfile(source / name, target / name)
    for accent in ACCENTS:
        path = Path("lang", "gmw", accent)
        shutil.copyfile(source / path, target / path)
    return target


class Espeak:
    """libespeak-ng by ctypes, loaded afresh: ``with Espeak(folder) as voice``.

    Its state is global to the process, survives ``espeak_Terminate`` and
    colors what is said next; only unloading the library clears it. So open
    one at a time, and close it.

    Arguments
    ---------
    folder : path
        A folder that `copy_espeak_data` filled.

    Attributes
    ----------
    sample_rate : int
        Rate of what `say` returns, Hz (22050).
    """

    # Names and values of speak_lib.h.
    _AUDIO_OUTPUT_SYNCHRONOUS = 2
    _INITIALIZE_DONT_EXIT = 0x8000
    _RATE, _VOLUME = 1, 2
    _CHARS_UTF8 = 1

    # eSpeak clips strong formants at its default volume of 100.
    _AMPLITUDE = 20

    def __init__(self, folder):
        library = _espeakng_loader().get_library_path()
        self._library = ctypes.CDLL(str(library))
        self._variant = Path(folder, "espeak-ng-data", "voices", "!v")
        self._variant /= f"w{os.getpid()}"
        self._chunks = []
        prototype = ctypes.CFUNCTYPE(
            ctypes.c_int,
            ctypes.POINTER(ctypes.c_short),
            ctypes.c_int,
            ctypes.c_void_p,
        )
        self._callback = prototype(self._keep)  # must outlive the library
        self.sample_rate = self._library.espeak_Initialize(
            self._AUDIO_OUTPUT_SYNCHRONOUS,
            0,
            os.fsencode(str(folder)),
            self._INITIALIZE_DONT_EXIT,
        )
        if self.sample_rate <= 0:
            raise RuntimeError(
                f"eSpeak NG did not start with its data in {folder}; it takes "
                "paths of some 150 characters, set TMPDIR to a shorter one"
            )
        self._library.espeak_SetSynthCallback(self._callback)

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self._library.espeak_Terminate()
        # ctypes itself never unloads; CPython's _ctypes has the system's call.
        unload = getattr(_ctypes, "dlclose", None) or _ctypes.FreeLibrary
        unload(self._library._handle)
        del self._library

    def _keep(self, samples, count, _events):
        if samples and count > 0:
            chunk = np.ctypeslib.as_array(samples, shape=(count,))
            self._chunks.append(chunk.copy())
        return 0

    def say(self, text, accent, variant, rate, seed=0):
        """Speak ``text`` and return float64 samples [T] at ``sample_rate``.

        Arguments
        ---------
        text : str
        accent : str
            One of `ACCENTS`.
        variant : str
            Contents of a voice variant file, see `variant_text`.
        rate : int
            Words a minute.
        seed : int
            Seed of eSpeak's random numbers (breath noise), below 2**31.
        """
        self._variant.write_text(variant, encoding="ascii")
        voice = f"{accent}+{self._variant.name}".encode("ascii")
        status = self._library.espeak_SetVoiceByName(voice)
        if status != 0:
            raise RuntimeError(f"eSpeak NG refuses voice {voice} ({status})")
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(seed))
        self._library.espeak_SetParameter(self._RATE, int(rate), 0)
        self._library.espeak_SetParameter(self._VOLUME, self._AMPLITUDE, 0)
        self._chunks.clear()
        data = text.encode("utf-8")
        status = self._library.espeak_Synth(
            data, len(data) + 1, 0, 0, 0, self._CHARS_UTF8, None, None
        )
        if status != 0 or not self._chunks:
            raise RuntimeError(f"eSpeak NG said nothing to {text!r} ({status})")
        return np.concatenate(self._chunks) / 32768.0


def trim_silence(wave, threshold=0.01):
    """Cut [T] before the first and after the last sample whose magnitude
    exceeds ``threshold`` times the largest."""
    magnitude = np.abs(wave)
    loud = np.flatnonzero(magnitude > threshold * np.max(magnitude))
    return wave[loud[0] : loud[-1] + 1]


# --------------------------------------------------------------------------
# Workers: one speaker a task
# --------------------------------------------------------------------------


def _make_speaker(task):
    """Write all utterances of a speaker and return their metadata rows."""
    options, part, index, folder, data_folder = task
    speaker = draw_speaker(options.seed, part, index)
    rows = []
    with Espeak(data_folder) as espeak:
        for number in range(options.sessions):
            target = Path(folder, part, "wav", speaker.name, f"s{number + 1:03d}")
            target.mkdir(parents=True)
            rows += _make_session(espeak, options, speaker, number, target)
    return rows


def _make_session(espeak, options, speaker, number, target):
    """Write the utterances of a session into the folder ``target``."""
    key = options.seed, speaker.part, speaker.index, number
    session = session_of(*key)
    room = room_response(_rng(*key, 0), session.rt60_s, session.drr_db)
    words = round(options.duration * session.rate_wpm / 60.0)
    variant = variant_text(speaker, session.pitch)
    common = math.gcd(SAMPLE_RATE, espeak.sample_rate)
    up, down = SAMPLE_RATE // common, espeak.sample_rate // common
    rows = []
    for utterance in range(1, options.utterances + 1):
        rng = _rng(*key, utterance)
        text = draw_text(rng, words)
        wave = espeak.say(
            text,
            speaker.accent,
            variant,
            session.rate_wpm,
            seed=int(rng.integers(2**31)),
        )
        wave = resample_poly(trim_silence(wave), up, down)
        wave = record(wave, session, room, rng)
        name = f"{utterance:05d}.wav"
        soundfile.write(target / name, wave, SAMPLE_RATE, subtype="PCM_16")
        duration_s = wave.size / SAMPLE_RATE
        path = Path(speaker.name, target.name, name)
        rows.append(_metadata_row(speaker, session, path, text, duration_s))
    return rows


def _metadata_row(speaker, session, path, text, duration_s):
    """One line of metadata.csv as a dictionary."""
    voice, day = asdict(speaker), asdict(session)
    row = {
        "part": voice.pop("part"),
        "path": path.as_posix(),
        "speaker": voice.pop("name"),
        "family": voice.pop("family"),
        "accent": voice.pop("accent"),
        "session": path.parts[1],
        "duration_s": duration_s,
        "text": text,
    }
    del voice["index"]
    for key, value in {**voice, **day}.items():
        joined = isinstance(value, tuple)
        row[key] = " ".join(map(str, value)) if joined else value
    return row


# --------------------------------------------------------------------------
# Trials
# --------------------------------------------------------------------------


def draw_trials(rows, trials, seed):
    """Draw verification trials among the utterances of the test part.

    Half are targets, always of two different sessions. A third each of the
    impostors shares family and accent, shares the family, is anyone. No pair
    occurs twice, in either order; where there are too few pairs of a kind,
    all of them are taken.

    Arguments
    ---------
    rows : list of dict
        Metadata rows of the test part.
    trials : int
        Number of trials wanted.
    seed : int

    Returns
    -------
    list of (int, str, str)
        Label (1: same speaker), enrolment path, test path.
    """
    rng = _rng(seed, "trials")
    speaker, session, family, accent = (
        np.unique([row[key] for row in rows], return_inverse=True)[1]
        for key in ("speaker", "session", "family", "accent")
    )
    first, second = np.triu_indices(len(rows), k=1)
    same = speaker[first] == speaker[second]
    kin = family[first] == family[second]
    close = kin & (accent[first] == accent[second])
    kinds = (
        (trials // 2, same & (session[first] != session[second])),
        (trials // 6, ~same & close),
        (trials // 6, ~same & kin & ~close),
        (trials - trials // 2 - 2 * (trials // 6), ~same & ~kin),
    )
    chosen = []
    for wanted, mask in kinds:
        pairs = np.flatnonzero(mask)
        chosen.append(rng.permutation(pairs)[:wanted])
    chosen = rng.permutation(np.concatenate(chosen))
    swap = rng.random(chosen.size) < 0.5
    return [
        (
            int(same[pair]),
            rows[second[pair] if turned else first[pair]]["path"],
            rows[first[pair] if turned else second[pair]]["path"],
        )
        for pair, turned in zip(chosen, swap)
    ]


# --------------------------------------------------------------------------
# The corpus
# --------------------------------------------------------------------------


def _write_corpus(folder, options, workers):
    """Write a whole corpus into the existing empty ``folder``."""
    counts = {"train": options.train_speakers, "test": options.test_speakers}
    rows = []
    with tempfile.TemporaryDirectory(prefix="espeak-") as data_folder:
        copy_espeak_data(data_folder)
        tasks = [
            (options, part, index, str(folder), data_folder)
            for part, count in counts.items()
            for index in range(count)
        ]
        with ProcessPoolExecutor(
            max_workers=min(workers, len(tasks)),
            mp_context=multiprocessing.get_context("spawn"),
        ) as pool:
            results = pool.map(_make_speaker, tasks)
            bar = progress_bar(results, "mini corpus", len(tasks), unit="speaker")
            for speaker_rows in bar:
                rows.extend(speaker_rows)
    with open(folder / "metadata.csv", "w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    test_rows = [row for row in rows if row["part"] == "test"]
    with open(folder / "veri_test.txt", "w", encoding="utf-8") as f:
        for trial in draw_trials(test_rows, options.trials, options.seed):
            f.write("{} {} {}\n".format(*trial))
    (folder / MARKER).write_text(
        json.dumps(asdict(options), indent=2) + "\n", encoding="utf-8"
    )


def _read_marker(folder):
    """The options of the corpus in ``folder``; None where there is none."""
    try:
        return read_json(folder / MARKER)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        return {}  # a mini corpus with a damaged marker: to be rebuilt


def make_mini_corpus(
    folder,
    seed=1234,
    train_speakers=150,
    test_speakers=60,
    sessions=4,
    utterances=4,
    duration=2.5,
    trials=6000,
    workers=None,
):
    """Synthesize the mini corpus, or find it where it was made before.

    It is spoken by spawned processes, so a script that calls this needs the
    usual ``if __name__ == "__main__":``.

    Arguments
    ---------
    folder : str or path
        Where the corpus goes. A mini corpus of other options found there is
        replaced. It is built in a hidden folder beside it, which only a killed
        process leaves behind.
    seed : int
        Seed of everything drawn, >= 0.
    train_speakers, test_speakers : int
        Numbers of speakers, each from 2 to 9999; no speaker is in both parts.
    sessions : int
        Sessions a speaker, 2 to 9999.
    utterances : int
        Utterances a session, >= 1.
    duration : float
        Seconds of speech an utterance is written for, 1 to 30; real
        durations scatter about it.
    trials : int
        Length of the trial list, >= 2 (see `draw_trials`).
    workers : int or None
        Processes; None for one a CPU. The result does not depend on it.

    Returns
    -------
    pathlib.Path
        ``folder``, which then holds ``train/wav`` and ``test/wav``
        (``<speaker>/<session>/<utterance>.wav``, 16 kHz, mono, 16 bit),
        ``veri_test.txt`` (lines ``label enrolment test``, label 1 for the
        same speaker, paths below ``test/wav``), ``metadata.csv`` (a line an
        utterance) and, written last, ``mini_corpus.json``.

    Raises
    ------
    ValueError
        For options out of range, or if ``folder`` holds something other than
        a mini corpus.
    ImportError
        If espeakng-loader is not installed.
    """
    options = Options(
        seed,
        train_speakers,
        test_speakers,
        sessions,
        utterances,
        duration,
        trials,
    )
    if workers is None:
        workers = os.cpu_count() or 1
    if type(workers) is not int or workers < 1:
        raise ValueError(f"workers must be a whole number >= 1, got {workers!r}")
    folder = Path(folder)
    if _is_made(folder, options):
        return folder
    _espeakng_loader()
    with replacing_folder(folder, keep=lambda: _is_made(folder, options)) as partial:
        _write_corpus(partial, options, workers)
    return folder


def _is_made(folder, options):
    """Whether ``folder`` holds the corpus of ``options``.

    If not, its contents may be replaced; a ValueError says where they may
    not.
    """
    found = _read_marker(folder)
    if found == asdict(options):
        return True
    if found is None and folder.exists():
        if not folder.is_dir() or any(folder.iterdir()):
            raise ValueError(
                f"{folder} exists and is not a mini corpus (it holds no "
                f"{MARKER}); name another folder or remove it"
            )
    strangers = _strangers(folder)
    if strangers:
        raise ValueError(
            f"{folder} holds a mini corpus of other options and would be "
            f"replaced, but it also holds {strangers}; move these away or "
            "name another folder"
        )
    return False


def _strangers(folder):
    """Names in ``folder`` that no mini corpus wrote there."""
    ours = {"train", "test", "veri_test.txt", "metadata.csv", MARKER}
    names = os.listdir(folder) if folder.is_dir() else []
    return sorted(set(names) - ours)


_OPTIONS = {
    "seed": "of everything drawn",
    "train_speakers": "speakers of the training part, from 2 to 9999",
    "test_speakers": "speakers of the test part, from 2 to 9999",
    "sessions": "of a speaker, from 2",
    "utterances": "of a session",
    "duration": "seconds of speech of an utterance, from 1 to 30",
    "trials": "lines of the trial list",
    "workers": "processes; None: one for each CPU",
}


def main(argv=None):
    """Command line: make a corpus and print what it holds."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        epilog="Example: python recipes/VoxCeleb/mini/mini_corpus.py /path/corpus --seed 1",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("folder", help="where the corpus goes")
    for name, item in inspect.signature(make_mini_corpus).parameters.items():
        if name != "folder":
            kind = int if item.default is None else type(item.default)
            option = "--" + name.replace("_", "-")
            about = _OPTIONS[name]
            parser.add_argument(option, type=kind, default=item.default, help=about)
    folder = make_mini_corpus(**vars(parser.parse_args(argv)))
    with open(folder / "metadata.csv", newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    for part in _FIRST_ID:
        mine = [row for row in rows if row["part"] == part]
        hours = sum(float(row["duration_s"]) for row in mine) / 3600.0
        speakers = len({row["speaker"] for row in mine})
        print(f"{part}: {speakers} speakers, {len(mine)} files, {hours:.2f} h")
    with open(folder / "veri_test.txt", encoding="utf-8") as f:
        print(f"trials: {sum(1 for _ in f)}, corpus: {folder}")


if __name__ == "__main__":
    main()
