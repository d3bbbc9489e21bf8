"""How folders of audio files are laid out, and what may be meant where they are laid
out otherwise than ``wav/<speaker>/<session>/<utterance>``."""

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

_LAYOUT = "wav/<speaker>/<session>/<utterance>"
_PART = re.compile(
    "(trn|train|training|dev|devel|development|val|valid|validation|tst|test|testing"
    "|eval|evaluation)([-_](clean|other)([-_]?[0-9]+)?)?",
    re.IGNORECASE,
)
_MOST_FOLDERS = 20_000  # looked into; enough to see what a folder is
_DEEPEST = 7  # folders within one another; a link may lead back up


def names_part(name: str) -> bool:
    """Whether a folder's name is that of a part of a corpus, hardly of a speaker.

    Example
    -------
    >>> [names_part(name) for name in ("train", "Dev", "test-clean", "id1", "test7")]
    [True, True, True, False, False]
    """
    return _PART.fullmatch(name) is not None


def explain_layout(root: str | os.PathLike, extensions: Collection[str]) -> str:
    """What is wrong with the layout of a data folder, and what may be meant.

    Arguments
    ---------
    root : str or Path
        A folder in which no audio file is at ``wav/<speaker>/<session>/<utterance>``,
        or whose speakers are parts of a corpus by name.
    extensions : collection of str
        Of audio files, in lower case with the dot.

    Returns
    -------
    str
        For an error: without the folder's name in front and a full stop at the end.

    Example
    -------
    >>> root = getfixture("tmp_path")
    >>> for speaker in "abc":
    ...     (root / "wav" / speaker).mkdir(parents=True)
    ...     (root / "wav" / speaker / "1.wav").touch()
    >>> explain_layout(root, [".wav"]).partition(",")[0]
    '3 of 3 audio files are not at wav/<speaker>/<session>/<utterance>'
    """
    files: list[tuple[str, ...]] = []
    others: Counter[str] = Counter()
    left = [_MOST_FOLDERS]
    for parts in _files(os.fspath(root), (), left):
        extension = os.path.splitext(parts[-1])[1].lower()
        if extension in extensions:
            files.append(parts)
        else:
            others[extension or "no extension"] += 1
    if not files:
        found = ", ".join(f"{count} {name}" for name, count in others.most_common(3))
        return f"no audio file at {_LAYOUT}" + f"; it holds files of {found}" * bool(found)
    files.sort()
    wrong = [parts for parts in files if len(parts) != 4 or parts[0] != "wav"]
    wrong = wrong or files
    first = "" if left[0] else "the first "
    return (
        f"{len(wrong):,} of {first}{len(files):,} audio files are not at {_LAYOUT}, for "
        f"example {'/'.join(wrong[0])}: {_meaning(Path(root), wrong)}"
    )


def _files(folder: str, above: tuple[str, ...], left: list[int]) -> Iterator[tuple]:
    """The path below the first folder, in parts, of the files in it."""
    if left[0] == 0 or len(above) > _DEEPEST:
        return
    left[0] -= 1
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _files(entry.path, (*above, entry.name), left)
        else:
            yield (*above, entry.name)


def _meaning(root: Path, files: Sequence[tuple[str, ...]]) -> str:
    """What the layout of some files may mean, and what to do."""
    in_wav = sorted({parts[:-4] for parts in files if parts[-4:-3] == ("wav",)} - {()})
    if in_wav and len(in_wav) <= 4:
        return f"did you mean data_folder={_listed(root, in_wav)}?"
    for parts in files:
        if parts[-4:-3] and parts[-4] != "wav" and parts[-4].lower() == "wav":
            return f"the folder must be called wav, not {parts[-4]}"
    inside = [parts[1:] if parts[0] == "wav" else parts for parts in files]
    ((depth, _),) = Counter(len(parts) - 1 for parts in inside).most_common(1)
    usual = [parts for parts in inside if len(parts) == depth + 1]
    example = usual[0]
    stem = os.path.splitext(example[-1])[0]
    if depth == 0:
        return (
            "give each speaker a folder, and each recording one in that "
            f"(wav/SPEAKER/{stem}/{example[-1]})"
        )
    if depth == 1:
        return (
            "they are at wav/<speaker>/<utterance>, without sessions; give each speaker "
            "folders of recordings, and one to each file where nothing else is known "
            f"(wav/{example[0]}/{stem}/{example[-1]})"
        )
    if all(names_part(parts[-3]) for parts in usual):
        return (
            f"{example[-3]} is the name of a part of a corpus, not of a speaker; move the "
            "speakers up into wav/, and give each of them folders of recordings "
            f"(wav/{example[-2]}/{stem}/{example[-1]})"
        )
    place = ("wav",) if files[0][0] == "wav" else ()
    bases = sorted({(*place, *parts[:-3]) for parts in usual})
    if len(bases) == 1 or all(names_part(base[-1]) for base in bases if base):
        folders = _listed(root, bases)
        first = root.joinpath(*bases[0])
        return (
            f"did you mean {folders}, where <speaker>/<session>/<utterance> are? A data "
            f"folder holds them in wav/: mkdir NEW && ln -s {first} NEW/wav, and give "
            "data_folder=NEW" + ", and so on" * (len(bases) > 1)
        )
    return "there are folders between; move the files up"


def _listed(root: Path, below: Sequence[tuple[str, ...]]) -> str:
    """A folder, or several as a yaml's list."""
    paths = [str(root.joinpath(*parts)) for parts in below]
    return paths[0] if len(paths) == 1 else f"[{', '.join(paths)}]"
