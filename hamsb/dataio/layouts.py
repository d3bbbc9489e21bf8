"""How folders of audio files are laid out, and what may be meant where they are laid
out otherwise than ``<speaker>/<session>/<utterance>`` or ``<speaker>/<utterance>``."""

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

TREE = "<speaker>/<session>/<utterance>"
FLAT = "<speaker>/<utterance>"
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
        A folder in which few or no audio files are where they are looked for, or whose
        speakers are parts of a corpus by name.
    extensions : collection of str
        Of audio files, in lower case with the dot.

    Returns
    -------
    str
        For an error: without the folder's name in front and a full stop at the end.

    Example
    -------
    >>> root = getfixture("tmp_path")
    >>> for name in "abc":
    ...     (root / f"{name}.wav").touch()
    >>> explain_layout(root, [".wav"]).partition(",")[0]
    '3 of 3 audio files are at neither <speaker>/<session>/<utterance> nor \
<speaker>/<utterance>'
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
        return f"no audio file at {TREE} or {FLAT}" + f"; it holds files of {found}" * bool(
            found
        )
    files.sort()
    wrong = [parts for parts in files if not _is_placed(parts)] or files
    first = "" if left[0] else "the first "
    return (
        f"{len(wrong):,} of {first}{len(files):,} audio files are at neither {TREE} nor "
        f"{FLAT}, for example {'/'.join(wrong[0])}: {_meaning(Path(root), wrong)}"
    )


def _is_placed(parts: tuple[str, ...]) -> bool:
    inside = parts[1:] if parts[0] == "wav" else parts
    return len(inside) in (2, 3) and not names_part(inside[0])


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
    in_wav = sorted(
        {
            parts[:above]
            for parts in files
            for above in (len(parts) - 4, len(parts) - 3)
            if above > 0 and parts[above] == "wav"
        }
    )
    if in_wav and len(in_wav) <= 4:
        return f"did you mean data_folder={_listed(root, in_wav)}?"
    inside = [parts[1:] if parts[0] == "wav" else parts for parts in files]
    ((depth, _),) = Counter(len(parts) - 1 for parts in inside).most_common(1)
    usual = [parts for parts in inside if len(parts) == depth + 1]
    example = usual[0]
    if depth == 0:
        return f"give each speaker a folder (SPEAKER/{example[-1]})"
    part = f"{example[0]} is the name of a part of a corpus, not of a speaker; "
    if depth == 1:
        return f"{part}give each speaker a folder in it"
    place = ("wav",) if files[0][0] == "wav" else ()
    speakers = -3 if depth > 2 else -2
    bases = sorted({(*place, *parts[:speakers]) for parts in usual})
    if len(bases) == 1 or all(names_part(base[-1]) for base in bases):
        meant = f"did you mean data_folder={_listed(root, bases)}?"
        return part + meant if depth == 2 else meant
    return "there are folders between; move the files up"


def _listed(root: Path, below: Sequence[tuple[str, ...]]) -> str:
    """A folder, or several as a yaml's list."""
    paths = [str(root.joinpath(*parts)) for parts in below]
    return paths[0] if len(paths) == 1 else f"[{', '.join(paths)}]"
