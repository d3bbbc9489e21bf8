"""Speakers that are held out of a training, and trials between them."""

import hashlib
import random
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

from hamsb.dataio.utterances import Row


def hold_out(speakers: Iterable[str], number: int, seed: int) -> set[str]:
    """Draw speakers, so that other data move few of them: those with the smallest SHA-256
    of seed and name.

    Arguments
    ---------
    speakers : iterable of str
        The speaker of each utterance. Those with a single one make no trial, and are not
        drawn.
    number : int
        How many to draw; all that can be, where they are fewer.
    seed : int
        Of the draw.

    Returns
    -------
    set of str

    Example
    -------
    >>> sorted(hold_out(["anna", "anna", "ben", "ben", "cleo"], 1, seed=1234))
    ['ben']
    """
    able = [speaker for speaker, count in Counter(speakers).items() if count >= 2]

    def lot(speaker):
        return hashlib.sha256(f"{seed} {speaker}".encode()).digest()

    return set(sorted(able, key=lot)[:number])


def draw_trials(rows: Iterable[Row], most: int, seed: int) -> list[tuple[int, str, str]]:
    """Draw trials between utterances, none twice, in neither order.

    Target trials pair two sessions of a speaker; one of a single session is paired within
    it. They are shared out evenly over the speakers. Impostor trials are drawn uniformly
    from all pairs of utterances of two speakers.

    Arguments
    ---------
    rows : iterable of Row
        Utterances, in an order that decides what is drawn. A row without a session is one
        of its file.
    most : int
        How many target trials, and how many impostor trials, at most.
    seed : int
        Of the draw.

    Returns
    -------
    list of tuple
        Label (1 for one speaker, else 0) and the names of both utterances, sorted.
    """
    generator = random.Random(seed)
    by_speaker = defaultdict(list)
    for row in rows:
        by_speaker[row.speaker].append(row)
    groups = [by_speaker[speaker] for speaker in sorted(by_speaker)]
    targets = _draw_targets(groups, most, generator)
    impostors = draw_impostor_pairs(groups, most, generator)
    return sorted(
        (label, enrol.name, test.name)
        for label, pairs in ((1, targets), (0, impostors))
        for enrol, test in pairs
    )


def _draw_targets(
    groups: Iterable[Sequence[Row]], most: int, generator: random.Random
) -> list[tuple[Row, Row]]:
    """Up to ``most`` pairs of one speaker, shared out evenly."""
    pools = [draw_target_pairs(files, most, generator) for files in groups]
    drawn: list[tuple[Row, Row]] = []
    while pools and len(drawn) < most:  # a pair from each speaker in turn
        generator.shuffle(pools)
        drawn.extend(pool.pop() for pool in pools)
        pools = [pool for pool in pools if pool]
    return drawn[:most]


def draw_target_pairs(
    rows: Sequence, most: int, generator: random.Random
) -> list[tuple[Any, Any]]:
    """Up to ``most`` pairs of a speaker's utterances, of two sessions where there are two,
    uniformly and without repeats.

    All pairs are numbered: an utterance makes a pair with each later one, of another
    session. So nothing grows with their number.
    """
    sessions = [row.session or row.path for row in rows]
    if len({*sessions}) < 2:
        sessions = list(range(len(rows)))  # each pair counts
    own = defaultdict(list)  # the places of a session
    for place, session in enumerate(sessions):
        own[session].append(place)
    later = Counter(sessions)  # of a session, behind a place
    partners = []
    for place, session in enumerate(sessions):
        later[session] -= 1
        partners.append(len(rows) - 1 - place - later[session])
    before = [0, *accumulate(partners)]
    pairs = []
    for number in generator.sample(range(before[-1]), min(most, before[-1])):
        first = bisect_right(before, number) - 1
        second = first + 1 + number - before[first]
        same = own[sessions[first]]
        for place in same[bisect_right(same, first) :]:  # which it skips
            if place > second:
                break
            second += 1
        pairs.append((rows[first], rows[second]))
    return pairs


def draw_impostor_pairs(
    groups: Sequence[Sequence], most: int, generator: random.Random
) -> list[tuple[Any, Any]]:
    """Up to ``most`` pairs of utterances of two speakers, uniformly and without repeats.

    All pairs are numbered: with the utterances in a row, speaker by speaker, each makes a
    pair with each after its own speaker's.

    Example
    -------
    >>> draw_impostor_pairs([["a1"], ["b1", "b2"]], 9, random.Random(0))
    [('a1', 'b2'), ('a1', 'b1')]
    """
    files = [file for group in groups for file in group]
    ends = list(accumulate(len(group) for group in groups))
    partners = [len(files) - end for end, group in zip(ends, groups) for _ in group]
    before = [0, *accumulate(partners)]
    pairs = []
    for number in generator.sample(range(before[-1]), min(most, before[-1])):
        first = bisect_right(before, number) - 1
        offset = number - before[first]
        second = len(files) - partners[first] + offset
        pairs.append((files[first], files[second]))
    return pairs
