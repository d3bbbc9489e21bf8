"""What data may be: folders of audio files, tables of utterances, Kaldi directories.

`open_source` recognizes a data source by what it holds:

===================================  =================================================
layout                               what it holds
===================================  =================================================
folders with sessions                ``<speaker>/<session>/<utterance>.wav`` (or
                                     ``.flac``), in a folder ``wav/`` or without one
folders of speakers                  ``<speaker>/<utterance>.wav``, in ``wav/`` or
                                     without it; each file is a session of its own
CN-Celeb                             ``data/<speaker>/<genre>-<number>-<number>.flac``,
                                     with the genre for a session; ``eval/``
csv file                             the columns ``wav`` and ``spk_id``, maybe ``ID``,
                                     ``session``, ``start`` and ``stop`` (in samples)
JSON lines                           objects of the same keys
Kaldi directory                      ``wav.scp`` and ``utt2spk``, maybe ``segments``
===================================  =================================================

Where nobody asks for speakers, ``spk_id`` and ``utt2spk`` may be missing.

A source gives its utterances as a stream of `hamsb.dataio.utterances.Row`, and finds
those that a trial list names. It opens no audio, but for the rate of the files of which a
Kaldi directory's segments tell seconds.
"""

import functools
import os

from hamsb.dataio.annotations import begins_with_json, has_column
from hamsb.dataio.folders import CnCeleb, Folders, is_cn_celeb
from hamsb.dataio.tables import KaldiDirectory, Table, advice
from hamsb.dataio.utterances import Source

_TABLES = (".csv", ".tsv", ".json", ".jsonl")


def open_source(
    path: str | os.PathLike,
    key: str = "data_folder",
    prefix: str = "",
    speakers: bool = True,
) -> Source:
    """Recognize a data source by what it holds.

    Arguments
    ---------
    path : str or Path
        A folder or a file.
    key : str
        What an error calls it.
    prefix : str
        What its utterances' and speakers' names are to begin with.
    speakers : bool
        Whether it must tell whose the utterances are. Where it need not, a table may lack
        ``spk_id``, and a Kaldi directory ``utt2spk``.

    Raises
    ------
    FileNotFoundError
        Nothing is there.
    ValueError
        It is none of the layouts; says what may be meant.

    Example
    -------
    >>> root = getfixture("tmp_path")
    >>> (root / "id1").mkdir()
    >>> (root / "id1" / "a.wav").touch()
    >>> source = open_source(root)
    >>> source.layout, [(row.name, row.speaker) for row in source.rows(16000)]
    ('Folders <speaker>/<utterance>', [('id1/a.wav', 'id1')])
    """
    path = os.path.abspath(path)
    if os.path.isfile(path):
        if os.path.basename(path) == "wav.scp":
            raise ValueError(
                f"{key}={path}: give the Kaldi directory, {os.path.dirname(path)}"
            )
        return Table(path, prefix, speakers)
    if not os.path.isdir(path):
        raise FileNotFoundError(
            f"{key}={path}: no such file or folder; {advice(speakers)}."
        )
    if is_kaldi(path):
        return KaldiDirectory(path, prefix, speakers)
    if os.path.isdir(os.path.join(path, "wav")):
        return Folders(path, prefix, "wav")
    if is_cn_celeb(path):
        return CnCeleb(path, prefix)
    return Folders(path, prefix, "")


def is_listed(path: str | os.PathLike) -> bool:
    """Whether text files name the utterances of a data source: a Kaldi directory, or a
    table by what it holds, whatever it is called. What is called as a table, or as a file
    of a Kaldi directory, was meant to be one.

    Example
    -------
    >>> path = getfixture("tmp_path") / "recordings.txt"
    >>> _ = path.write_text('{"wav": "a.wav"}\\n')
    >>> is_listed(path)
    True
    """
    if os.path.isdir(path):
        return is_kaldi(path)
    name = os.path.basename(path)
    meant = name == "wav.scp" or os.fspath(name).lower().endswith(_TABLES)
    return os.path.isfile(path) and (
        meant or begins_with_json(path) or has_column(path, "wav")
    )


def is_kaldi(path: str | os.PathLike) -> bool:
    """Whether a folder is a Kaldi directory, or was meant to be one."""
    holds = functools.partial(os.path.join, path)
    return os.path.isfile(holds("wav.scp")) and (
        os.path.isfile(holds("utt2spk")) or not os.path.isdir(holds("wav"))
    )
