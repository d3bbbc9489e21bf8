#!/usr/bin/env python3
"""Piece together a long recording of known speakers, to try `hamsb track` on.

    python tests/benchmarks/piece_together.py /tmp/long /path/corpus/test

Takes recordings of one or more corpora that hold ``wav/<speaker>/...``, at one rate, and
writes into the folder:

``recording.flac``
    turns of one to three utterances, each used once. Between the utterances of a turn are
    pauses of 0.2 to 0.6 s; between two turns 0.5 to 2 s, or, one time in three, nothing.
    Faint noise, -65 dBFS, lies under everything.
``recording.rttm``
    who speaks when, strangers included: the parts of an utterance within 30 dB of its
    loudest 20 ms, where pauses of less than 0.3 s count as speech.
``enroll.txt``
    lines of an enrolled speaker and other utterances of this person, in quotes as a shell
    needs them. Strangers are not in it.

Then, with a model:

    while read -r line; do eval "hamsb enroll MODEL /tmp/long/speakers.json $line"
    done < /tmp/long/enroll.txt
    hamsb track MODEL /tmp/long/speakers.json /tmp/long/recording.flac \\
        --reference=/tmp/long/recording.rttm
"""

import argparse
import shlex
from pathlib import Path

import numpy as np
import soundfile

from hamsb.verification.segments import Segment, write_rttm
from hamsb.verification.trials import read_trials


def find_utterances(corpora, only):
    """Speaker -> files, of all corpora; speakers of one name are one."""
    found = {}
    for corpus in corpora:
        for path in sorted(Path(corpus, "wav").rglob("*.*")):
            speaker = path.relative_to(Path(corpus, "wav")).parts[0]
            if path.suffix in (".wav", ".flac") and (only is None or speaker in only):
                found.setdefault(speaker, []).append(path)
    return found


def choose(corpora, only, number, enrollment, draws):
    """At most so many speakers who have enough utterances, equally many of each corpus."""
    groups = []
    for corpus in corpora:
        found = find_utterances([corpus], only)
        enough = [name for name, files in found.items() if len(files) > enrollment + 1]
        groups.append([(name, found[name]) for name in draws.permutation(enough)])
    chosen = []
    while len(chosen) < number and any(groups):
        for group in groups:
            if group and len(chosen) < number:
                chosen.append(group.pop())
    if len(chosen) < number:
        raise SystemExit(
            f"{len(chosen)} speakers have {enrollment + 2} utterances, and {number} are "
            "needed; ask for fewer (--enrolled, --strangers, --enrollment)."
        )
    return [chosen[at] for at in draws.permutation(number)]


def spoken(audio, rate):
    """From where to where somebody speaks in an utterance, in seconds."""
    frame = rate // 50
    levels = np.square(audio[: len(audio) // frame * frame].reshape(-1, frame)).mean(1)
    loud = np.flatnonzero(levels > levels.max() / 1000)
    pauses = np.flatnonzero(np.diff(loud) > 0.3 * rate / frame)
    starts, ends = (
        loud[np.append(0, pauses + 1)],
        loud[np.append(pauses, len(loud) - 1)] + 1,
    )
    return zip(starts * frame / rate, ends * frame / rate)


def piece_together(speakers, seconds, draws):
    """Audio, rate and segments, until the recording is long enough or all is used."""
    waiting = {name: [*files] for name, files in speakers.items()}
    audio, segments, rate, last = [], [], None, None
    length = 0

    def add(part):
        nonlocal length
        audio.append(part.astype(np.float32))
        length += len(part)

    while rate is None or length < seconds * rate:
        names = [name for name, files in waiting.items() if files and name != last]
        if not names:
            raise SystemExit(
                f"the speakers' utterances make {length / rate:.0f} s; ask for more "
                "speakers, or for a shorter recording (--seconds)."
            )
        weights = np.array([len(waiting[name]) for name in names], dtype=float)
        last = draws.choice(names, p=weights / weights.sum())
        for number in range(min(draws.integers(1, 4), len(waiting[last]))):
            wav, rate = soundfile.read(waiting[last].pop(), dtype="float32")
            if number:
                add(np.zeros(round(draws.uniform(0.2, 0.6) * rate)))
            at = length / rate
            segments += [
                Segment(at + start, at + end, str(last)) for start, end in spoken(wav, rate)
            ]
            add(wav)
        if draws.random() > 1 / 3:
            add(np.zeros(round(draws.uniform(0.5, 2.0) * rate)))
    whole = np.concatenate(audio)[: round(seconds * rate)]
    noise = draws.normal(0, 10 ** (-65 / 20), len(whole)).astype(np.float32)
    segments = [
        each._replace(end=min(each.end, seconds))
        for each in segments
        if each.start < seconds
    ]
    return np.clip(whole + noise, -1, 1), rate, segments


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path)
    parser.add_argument("corpus", nargs="+", help="holds wav/<speaker>/...")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--enrolled", type=int, default=12, help="speakers")
    parser.add_argument("--strangers", type=int, default=12, help="speakers")
    parser.add_argument("--enrollment", type=int, default=3, help="utterances a speaker")
    parser.add_argument("--only", type=Path, help="a trial list: its speakers alone")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draws = np.random.default_rng(options.seed)
    only = None if options.only is None else {*read_trials(options.only).speakers}
    number = options.enrolled + options.strangers
    chosen = choose(options.corpus, only, number, options.enrollment, draws)
    speaking, lines = {}, []
    for place, (name, files) in enumerate(chosen):
        files = [files[at] for at in draws.permutation(len(files))]
        if place < options.enrolled:
            lines.append(shlex.join([name, *map(str, files[: options.enrollment])]))
            files = files[options.enrollment :]
        speaking[name] = files
    audio, rate, segments = piece_together(speaking, options.seconds, draws)
    options.output.mkdir(parents=True, exist_ok=True)
    soundfile.write(options.output / "recording.flac", audio, rate)
    write_rttm(options.output / "recording.rttm", segments, "recording")
    (options.output / "enroll.txt").write_text("".join(f"{line}\n" for line in lines))
    known = {shlex.split(line)[0] for line in lines}
    heard = dict.fromkeys(speaking, 0.0)
    for start, end, name in segments:
        heard[name] += end - start
    print(
        f"{len(audio) / rate:.0f} s: {sum(heard[name] for name in known):.0f} s of "
        f"{len(known)} enrolled speakers, "
        f"{sum(s for name, s in heard.items() if name not in known):.0f} s of "
        f"{len(heard) - len(known)} strangers, {len(segments)} segments"
    )


if __name__ == "__main__":
    main()
