"""Where utterances are in a tree of groups: what their paths and metadata tell."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hamsb.analysis.distance_tree import level_codes
from hamsb.verification.groups import Metadata
from hamsb.verification.trials import Trials, place_in, speaker_of

#: Levels that an utterance's path tells; all others are columns of the metadata.
FROM_PATH = ("speaker", "session", "utterance")


@dataclass(frozen=True)
class Levels:
    """Where utterances are in a tree.

    Attributes
    ----------
    names : tuple of str
        Of L levels, the root's first.
    utterances : tuple of str
        U of them, ``<speaker>/...``.
    paths : array
        [U, L], of str; "" where an utterance lacks the level.

    Example
    -------
    >>> levels = find_levels(["speaker", "session"], ["id1/x/a.wav", "id1/y/b.wav"])
    >>> levels.paths.tolist(), levels.speaker
    ([['id1', 'x'], ['id1', 'y']], 0)
    """

    names: tuple[str, ...]
    utterances: tuple[str, ...]
    paths: np.ndarray

    @property
    def speaker(self) -> int:
        """So many levels lie above the speaker."""
        return self.names.index("speaker") if "speaker" in self.names else len(self.names)

    @property
    def below(self) -> bool:
        """Whether there is a level below the speaker: points are then utterances, and
        else speakers."""
        return self.speaker + 1 < len(self.names)

    @property
    def speakers(self) -> np.ndarray:
        """Of each utterance, [U] of str."""
        return np.array([speaker_of(name) for name in self.utterances])

    def of_speakers(self) -> tuple[list[str], np.ndarray]:
        """The S speakers, sorted, and their paths down to the speaker, [S, levels]."""
        names, first = np.unique(self.speakers, return_index=True)
        return names.tolist(), self.paths[first, : self.speaker + 1]

    def describe(self) -> list[dict]:
        """Of each level ``name``, ``groups`` and ``missing``: how many points lack it."""
        paths = self.paths if self.below else self.of_speakers()[1]
        codes = level_codes(paths)
        return [
            {
                "name": name,
                "groups": int(column.max()) + 1,
                "missing": int((column < 0).sum()),
            }
            for name, column in zip(self.names, codes.T, strict=True)
        ]


def find_levels(
    names: Sequence[str],
    utterances: Sequence[str],
    metadata: Metadata | None = None,
    lists: Sequence[Trials] = (),
) -> Levels:
    """The levels of utterances.

    Arguments
    ---------
    names : sequence of str
        Root first: columns of the metadata, and ``speaker`` (an utterance's first
        folder), ``session`` (its second) and ``utterance``.
    utterances : sequence of str
        ``<speaker>/...``.
    metadata : Metadata, optional
    lists : sequence of Trials
        That have the utterances; an error names the line.

    Raises
    ------
    ValueError
        No levels, one twice, ``utterance`` not the last; a level that no utterance has;
        one above the speaker in which a speaker has two values.
    """
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"levels={list(names)}: {name} is there twice.")
    if "utterance" in names[:-1]:
        raise ValueError(f"levels={list(names)}: utterance can only be the last.")
    columns = []
    for name in names:
        if name == "speaker":
            column = [speaker_of(utterance) for utterance in utterances]
        elif name == "session":
            parts = [utterance.split("/") for utterance in utterances]
            column = [part[1] if len(part) > 2 else "" for part in parts]
        elif name == "utterance":
            column = list(utterances)
        elif metadata is not None:
            column = metadata.of_utterances(name, utterances)
        else:
            raise ValueError(
                f"levels={list(names)}: {name} is none of {', '.join(FROM_PATH)}, which "
                "paths tell; give the metadata that have it."
            )
        if not any(column):
            where = f"{metadata.path} has none" if metadata is not None else "there is none"
            raise ValueError(
                f"levels={list(names)}: {where} in {name} for any of the "
                f"{len(utterances)} utterances, such as {_placed(utterances[0], lists)}."
            )
        columns.append(column)
    levels = Levels(tuple(names), tuple(utterances), np.array(columns).T)
    _, owner = np.unique(levels.speakers, return_inverse=True)
    for level, name in enumerate(levels.names[: levels.speaker]):
        pairs = {*zip(owner.tolist(), columns[level])}
        if len(pairs) > int(owner.max()) + 1:
            twice = next(
                speaker for speaker in owner if sum(o == speaker for o, _ in pairs) > 1
            )
            speaker = levels.speakers[owner == twice][0]
            first: dict[str, str] = {}  # utterance of each value
            for whose, value, utterance in zip(owner, columns[level], utterances):
                if whose == twice:
                    first.setdefault(value, utterance)
            values = sorted(first)
            where = " and ".join(_placed(first[value], lists) for value in values[:2])
            raise ValueError(
                f"levels={list(names)}: {speaker} has more than one {name}, {values}, of "
                f"{where}; a level of the session belongs behind speaker."
            )
    return levels


def _placed(utterance: str, lists: Sequence[Trials]) -> str:
    """An utterance, and where it is named, for an error."""
    place = place_in(lists, {utterance})
    return f"{utterance} ({place})" if place else utterance


def choose_utterances(
    names: Sequence[str], each: int | None, most: int, below: bool, seed: int
) -> list[str]:
    """Some of the utterances of some of the speakers at random, sorted.

    Arguments
    ---------
    names : sequence of str
        ``<speaker>/...``.
    each : int or None
        Of a speaker, at most; None: all.
    most : int
        Points: utterances where ``below``, else speakers. Speakers are left out where
        there are more.
    below : bool
    seed : int

    Raises
    ------
    ValueError
        No two speakers fit.

    Example
    -------
    >>> choose_utterances(["a/1", "a/2", "a/3", "b/1"], 1, 10, False, seed=0)
    ['a/3', 'b/1']
    """
    own: dict[str, list[str]] = {}
    for name in sorted(names):
        own.setdefault(speaker_of(name), []).append(name)
    random, chosen = np.random.default_rng(seed), {}
    for speaker, utterances in own.items():
        count = min(each or len(utterances), len(utterances))
        places = random.choice(len(utterances), count, replace=False)
        chosen[speaker] = [utterances[place] for place in np.sort(places)]
    taken: list[str] = []
    points = sum(map(len, chosen.values())) if below else len(chosen)
    order = random.permutation(len(chosen)) if points > most else range(len(chosen))
    speakers, points = list(chosen), 0
    for place in order:
        utterances = chosen[speakers[place]]
        size = len(utterances) if below else 1
        if points + size <= most:
            taken += utterances
            points += size
    if len(chosen) > 1 and len({speaker_of(name) for name in taken}) < 2:
        raise ValueError(
            f"points={most}: fewer than two speakers fit; give more, or fewer utterances "
            "of each."
        )
    return sorted(taken)


def numbers_of(
    column: str,
    utterances: Sequence[str],
    metadata: Metadata | None,
    lists: Sequence[Trials] = (),
) -> list[float]:
    """A column of numbers about each utterance; NaN where it has none.

    ValueError without metadata, or where a field is no number; names the line of the
    lists.
    """
    if metadata is None:
        raise ValueError(f"noise={column}: is a column of the metadata; give these.")
    found = []
    for name, value in zip(
        utterances, metadata.of_utterances(column, utterances), strict=True
    ):
        try:
            found.append(float(value or "nan"))
        except ValueError:
            raise ValueError(
                f"noise={column}: must be a column of numbers, but {metadata.path} has "
                f"{value!r} for {_placed(name, lists)}."
            ) from None
    return found
