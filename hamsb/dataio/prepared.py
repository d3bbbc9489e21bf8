"""A folder of csv files and trials that were made from data, once for many runs.

``prepare.json`` says what they were made from, and how their contents are: by that they
are found good again, and no audio has to be read twice.
"""

import csv
import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechbrain.utils.logger import get_logger

from hamsb.dataio.annotations import read_columns
from hamsb.utils.checks import some
from hamsb.utils.files import digest, read_json, replacing

logger = get_logger(__name__)

TRAIN, DEV, TRIALS, LEFT_OUT = "train.csv", "dev.csv", "veri_dev.txt", "left_out.csv"
_RECORD = "prepare.json"


@dataclass(frozen=True)
class Prepared:
    """What is in such a folder.

    Attributes
    ----------
    train_csv : pathlib.Path
        The training files.
    dev_csv : pathlib.Path or None
        The development speakers' files; None without development speakers.
    dev_trials : pathlib.Path or None
        The trials between them; None without development speakers.
    speakers : int
        Number of training speakers.
    utterances : int
        Number of training files.
    hours : float
        Their duration, in hours.
    counts : dict
        Number of files left out or treated, by reason.
    reused : bool
        True if an earlier preparation was found good and no file was opened.
    prefixes : list of str
        What speakers' names begin with, of ``prefix_speakers``.
    """

    train_csv: Path
    dev_csv: Path | None
    dev_trials: Path | None
    speakers: int
    utterances: int
    hours: float
    counts: dict
    reused: bool
    prefixes: list


def write_prepared(
    folder: Path,
    files: Mapping[str, Iterable[Sequence]],
    made_from: Mapping[str, Any],
    numbers: Mapping[str, Any],
    expected: Mapping[str, str],
) -> Prepared:
    """Replace the files of an earlier preparation; prepare.json comes last.

    Arguments
    ---------
    folder : Path
        Made if need be.
    files : mapping
        The rows of each file, by its name: `TRAIN`, `LEFT_OUT`, and with development
        speakers `DEV` and `TRIALS`.
    made_from : mapping
        What they were made from, for json.
    numbers : mapping
        The attributes of `Prepared` that are no paths, but for ``reused``.
    expected : mapping of str to str
        As for `check_expected`, before anything is replaced.

    Raises
    ------
    ValueError
        Other files than the expected ones; ``folder`` keeps what it held.
    """
    folder.mkdir(parents=True, exist_ok=True)
    partial = {name: folder / f"{name}.tmp" for name in files}
    try:
        for name, path in partial.items():
            _write_rows(path, files[name])
        digests = {name: digest(path) for name, path in partial.items()}
        check_expected(folder, digests, expected, partial)
        for name in (_RECORD, *({DEV, TRIALS} - files.keys())):
            if (folder / name).exists():
                logger.info("Deleting %s, which is stale", folder / name)
                (folder / name).unlink()
        for name, path in partial.items():
            os.replace(path, folder / name)
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)
    record = {**made_from, "files": digests, "numbers": numbers}
    with replacing(folder / _RECORD) as path:
        path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return _prepared(folder, digests, numbers, reused=False)


def read_prepared(
    folder: Path, made_from: Mapping[str, Any]
) -> tuple[Prepared, dict[str, str]] | None:
    """The preparation in a folder and its files' SHA-256 by name, if it is whole and was
    made from the same; else None."""
    try:
        record = read_json(folder / _RECORD)
        digests = record["files"]
        if any(record[key] != value for key, value in made_from.items()):
            return None
        if any(digest(folder / name) != known for name, known in digests.items()):
            return None
        return _prepared(folder, digests, record["numbers"], reused=True), digests
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None  # missing, or not what write_prepared writes


def _prepared(
    folder: Path, names: Collection[str], numbers: Mapping[str, Any], reused: bool
) -> Prepared:
    return Prepared(
        train_csv=folder / TRAIN,
        dev_csv=folder / DEV if DEV in names else None,
        dev_trials=folder / TRIALS if DEV in names else None,
        reused=reused,
        **numbers,
    )


def check_expected(
    folder: Path,
    digests: Mapping[str, str],
    expected: Mapping[str, str],
    partial: Mapping[str, Path],
) -> None:
    """ValueError that says what changed, where files are not those that a run began with.

    Arguments
    ---------
    folder : Path
        The preparation's.
    digests : mapping of str to str
        SHA-256 of the files that come out, by name.
    expected : mapping of str to str
        Those that some of them must have.
    partial : mapping of str to Path
        Where files are that are not in the folder yet.
    """
    others = [name for name in expected if digests.get(name) != expected[name]]
    if others:
        after = {name: partial.get(name, folder / name) for name in digests}
        raise ValueError(
            f"data_folder: {_what_changed(folder, expected, after)} since the run "
            f"in {folder} began ({', '.join(others)}). Restore the data, or give "
            "another output_folder."
        )


def _what_changed(folder, expected, after):
    """What became of the utterances: "3 are new and 1 is gone, for example x"."""
    before = {name: folder / name for name in (TRAIN, DEV, TRIALS, LEFT_OUT)}
    before = {name: path for name, path in before.items() if path.is_file()}
    if any(
        name not in before or digest(before[name]) != expected[name] for name in expected
    ):
        return "the utterances or their division into training and development changed"
    old, new = _rows_by_id(before), _rows_by_id(after)
    both = old.keys() & new.keys()
    groups = {
        "new": sorted(new.keys() - old.keys()),
        "gone": sorted(old.keys() - new.keys()),
        "of another place or length": sorted(i for i in both if old[i][1] != new[i][1]),
        "held out or no longer": sorted(i for i in both if old[i][0] != new[i][0]),
    }
    parts = [f"{len(ids):,} {what} ({some(ids)})" for what, ids in groups.items() if ids]
    if not parts:
        return "the utterances are the same, but their trials changed"
    return f"of {len(old):,} utterances: {', '.join(parts)}"


def _rows_by_id(files):
    """File and row of each utterance in train.csv and dev.csv, as far as named."""
    return {
        row[0]: (name, row)
        for name in (TRAIN, DEV)
        if name in files
        for _, row in read_columns(files[name], ("ID", "wav", "stop", "spk_id"))
    }


def _write_rows(path, rows):
    """Write x.csv.tmp with commas, x.txt.tmp with spaces and no quotes."""
    # Names that are not UTF-8 occur in left_out.csv only.
    with open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as stream:
        if path.stem.endswith(".csv"):
            csv.writer(stream, lineterminator="\n").writerows(rows)
        else:
            stream.writelines(" ".join(map(str, row)) + "\n" for row in rows)
