"""A csv file of very many utterances as a dataset that takes little memory.

SpeechBrain's ``DynamicItemDataset.from_csv`` makes a dict of each row. A million of them
take more than a gigabyte, and every worker of a data loader comes to hold half of it: to
read an object is to count a reference in it, so its page is copied. `RowDataset` keeps
the text of the file and where each row begins, which all processes share, and makes the
dict of a row when it is asked for.
"""

import csv
import mmap
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import context, reduction
from typing import IO, Any, SupportsIndex, overload
from zlib import crc32

import numpy as np
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.utils.data_pipeline import DataPipeline

from hamsb.dataio.annotations import ADVICE, read_columns, read_rows
from hamsb.dataio.draws import Draw

_BLOCK = 2**22  # bytes of a file that are looked at together


class RowDataset(DynamicItemDataset):
    """A dataset of the rows of a csv file, which workers share instead of copying.

    Items, IDs and methods are ``DynamicItemDataset``'s; only ``data`` and ``data_ids``
    cannot be changed. A loader's workers map the rows of the main process, whichever of
    ``fork``, ``forkserver`` and ``spawn`` starts them.

    Arguments
    ---------
    data : Rows
        The rows.
    dynamic_items, output_keys
        ``DynamicItemDataset``'s.

    Raises
    ------
    ValueError
        A column is called ``id``, which is what SpeechBrain calls the ID, or ``draw``.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "train.csv")
    ...     with open(path, "w") as stream:
    ...         _ = stream.write("ID,wav,spk_id\\nid1/a,a.wav,id1\\nid2/b,b.wav,id2\\n")
    ...     dataset = RowDataset.from_csv(path, output_keys=["id", "wav"])
    >>> dataset[1]
    {'id': 'id2/b', 'wav': 'b.wav'}
    >>> dataset.data["id1/a"]
    {'wav': 'a.wav', 'spk_id': 'id1'}
    """

    def __init__(
        self, data: "Rows", dynamic_items: Sequence = (), output_keys: Sequence[str] = ()
    ):
        self.data = data
        self.data_ids = Ids(data)
        self.pipeline = DataPipeline([*data.names, "id", "draw"], dynamic_items)
        self.set_output_keys(output_keys)

    @classmethod
    def from_csv(
        cls,
        csv_path: str | os.PathLike,
        needed: Sequence[str] = (),
        dynamic_items: Sequence = (),
        output_keys: Sequence[str] = (),
    ) -> "RowDataset":
        """The rows of a csv file.

        Arguments
        ---------
        csv_path, needed
            `Rows` takes them.
        dynamic_items, output_keys
            ``DynamicItemDataset``'s.

        Raises
        ------
        FileNotFoundError, ValueError
            As `Rows`.
        """
        return cls(Rows(csv_path, needed), dynamic_items, output_keys)

    def __getitem__(self, index: int | Draw) -> dict[str, Any]:
        """The output keys of an utterance. Its steps may take ``draw``: the index, where
        it is a `Draw`, or else None."""
        row = self.data.row(index)
        row["draw"] = index if isinstance(index, Draw) else None
        return self.pipeline.compute_outputs(row)


class Rows(Mapping[str, dict[str, Any]]):
    """The rows of a csv file by their IDs, each a dict of its other fields.

    A field is a text, ``duration`` a float, as SpeechBrain has them. Rows are in the
    order of the file.

    Arguments
    ---------
    path : str or Path
        A csv file as `read_columns` takes it, with a column ``ID``. It is read once;
        what becomes of it later does not matter.
    needed : sequence of str
        Columns of which no field may be empty; ``ID`` is always one.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        Not a csv file in UTF-8; no rows; a column is missing, is there twice, or is
        called ``id`` or ``draw``; a row has more or fewer fields than the header; a needed
        field is empty; a duration is no number; an ID is there twice. Names file and
        line.
    """

    def __init__(self, path: str | os.PathLike, needed: Sequence[str] = ()):
        self.path = os.fspath(path)
        _, header = next(read_rows(path, skipinitialspace=True), (1, []))
        needed = list(dict.fromkeys(["ID", *needed]))
        _check_header(self.path, header, needed)
        self._header = header
        self._id = header.index("ID")
        read = _read_plain(self.path, header, needed)
        self._ending = b"\r\n"
        if read is None:
            read, self._ending = _read_any(self.path, header, needed), b""
        file, self._separator, starts, checks = read
        order = np.argsort(checks, kind="stable").astype(np.uint32)
        checks = checks[order]
        self._count = len(checks)
        self._size = file.seek(0, os.SEEK_END)
        file.write(bytes(-self._size % 8))
        for array in (starts, checks, order):
            file.write(array.data)
        file.flush()
        self._shared = _Shared(file)
        self._place_arrays()
        self._check_unique()

    def _place_arrays(self) -> None:
        """Views of what lies behind the text: where each row begins, and, sorted, the
        checksums of the IDs with their rows."""
        count, memory = self._count, self._shared.memory
        place = self._size + -self._size % 8
        self._starts = np.frombuffer(memory, np.int64, count + 1, place)
        place += self._starts.nbytes
        self._checks = np.frombuffer(memory, np.uint32, count, place)
        place += self._checks.nbytes
        self._order = np.frombuffer(memory, np.uint32, count, place)

    def __getstate__(self) -> dict[str, Any]:
        views = ("_starts", "_checks", "_order")
        return {name: value for name, value in vars(self).items() if name not in views}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._place_arrays()

    @property
    def names(self) -> list[str]:
        """The columns other than ``ID``, in the order of the file."""
        return [name for name in self._header if name != "ID"]

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        return self.column("ID")

    def __getitem__(self, data_id: str) -> dict[str, Any]:
        """The fields of a row but its ID; an unknown ID is a KeyError."""
        row = self.row(self._find(data_id))
        del row["id"]
        return row

    def row(self, index: SupportsIndex) -> dict[str, Any]:
        """The fields of a row by its place, its ID first as ``id``; a place below 0
        counts from the end, and one beyond it is an IndexError."""
        fields = self._fields(index)
        found: dict[str, Any] = {"id": fields[self._id]}
        for name, field in zip(self._header, fields):
            if name != "ID":
                found[name] = float(field) if name == "duration" else field
        return found

    def column(self, name: str) -> Iterator[str]:
        """The texts of a column, row by row; one that is not there is a ValueError."""
        _check_header(self.path, self._header, [name])
        place = self._header.index(name)
        return self._texts(place)

    def _texts(self, place: int) -> Iterator[str]:
        memory, separator = self._shared.memory, self._separator.encode()
        for first in range(0, self._count, 4096):
            edges = self._starts[first : first + 4097].tolist()
            for start, stop in zip(edges, edges[1:]):
                row = memory[start:stop].rstrip(self._ending)
                yield row.split(separator)[place].decode()

    def _fields(self, index: SupportsIndex) -> list[str]:
        place = range(self._count)[index]
        start, stop = self._starts[place : place + 2]
        row = self._shared.memory[start:stop].rstrip(self._ending)
        return row.decode().split(self._separator)

    def _find(self, data_id: object) -> int:
        """The place of a row by its ID."""
        if isinstance(data_id, str):
            check = np.uint32(crc32(data_id.encode(errors="surrogatepass")))
            first = np.searchsorted(self._checks, check, "left")
            last = np.searchsorted(self._checks, check, "right")
            for index in self._order[first:last].tolist():
                if self._fields(index)[self._id] == data_id:
                    return index
        raise KeyError(data_id)

    def _check_unique(self) -> None:
        """ValueError where two rows have one ID."""
        same = np.flatnonzero(self._checks[1:] == self._checks[:-1])
        for check in dict.fromkeys(self._checks[same].tolist()):
            seen = set()
            for index in self._order[self._checks == check].tolist():
                data_id = self._fields(index)[self._id]
                if data_id in seen:
                    rows = read_columns(self.path, ["ID"])
                    lines = [line for line, (other,) in rows if other == data_id]
                    raise ValueError(
                        f"{self.path}:{lines[1]}: ID={data_id}: is in line {lines[0]} too; "
                        "give each row an ID of its own."
                    )
                seen.add(data_id)


class Ids(Sequence[str]):
    """The IDs of rows, by their places; a slice is a list.

    Arguments
    ---------
    rows : Rows
        Whose.
    """

    def __init__(self, rows: Rows):
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        """The ID at a place, or a list of those of a slice."""
        if isinstance(index, slice):
            return [self[place] for place in range(len(self))[index]]
        return self._rows.row(index)["id"]


# --------------------------------------------------------------------- reading


def _check_header(path: str, header: list[str], needed: Sequence[str]) -> None:
    """ValueError where a column is missing, is there twice, or cannot be named so."""
    missing = [name for name in needed if name not in header]
    if missing:
        raise ValueError(
            f"{path}:1: no column {', '.join(missing)}, only "
            f"{', '.join(header) or 'an empty line'}; {ADVICE}."
        )
    for name in ("id", "draw"):
        if name in header:
            raise ValueError(
                f"{path}:1: a column {name}, which means something else in a dataset; give "
                "it another name."
            )
    twice = [name for name in dict.fromkeys(header) if header.count(name) > 1]
    if twice:
        raise ValueError(f"{path}:1: column {', '.join(twice)} is there twice; keep one.")


_Read = tuple[IO[bytes], str, np.ndarray, np.ndarray]
"""A file with the text of rows, what stands between fields, where each row begins
(int64, one more for the end), the checksums of the IDs (uint32)."""


def _read_plain(path: str, header: list[str], needed: Sequence[str]) -> _Read | None:
    """The rows as they stand in the file, or None where a line is not simply a row:
    it is quoted, or wrong, which `_read_any` tells."""
    file = _nameless_file()
    with open(path, "rb") as source:
        shutil.copyfileobj(source, file, _BLOCK)
    size = file.tell()
    file.seek(0)
    separator = b"\t" if b"\t" in file.readline() else b","
    filled = [header.index(name) for name in needed]
    starts, checks = [], []
    place, past = 0, 1  # the header is no row
    file.seek(0)
    while block := file.read(_BLOCK):
        block += file.readline()
        lines = _plain_lines(block, separator, len(header))
        if lines is None:
            return None
        begins, stops, cuts = (array[past:] for array in lines)
        edges = np.column_stack([begins - 1, cuts, stops])
        if any((edges[:, k] + 1 == edges[:, k + 1]).any() for k in filled):
            return None

        def fields(name, block=block, edges=edges):
            place = header.index(name)
            begins, stops = edges[:, place] + 1, edges[:, place + 1]
            return map(block.__getitem__, map(slice, begins.tolist(), stops.tolist()))

        if "duration" in header:
            try:
                deque(map(float, fields("duration")), maxlen=0)
            except ValueError:
                return None
        starts.append(begins + place)
        checks.append(np.fromiter(map(crc32, fields("ID")), np.uint32, len(begins)))
        place, past = place + len(block), 0
    if sum(map(len, checks)) == 0:
        return None
    starts.append(np.array([size]))
    return file, separator.decode(), np.concatenate(starts), np.concatenate(checks)


def _plain_lines(
    block: bytes, separator: bytes, fields: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Of whole lines in UTF-8 that are rows, where each begins [N] and stops [N], and its
    separators [N, fields - 1]; None where a csv reader might read anything else."""
    if b'"' in block or b"\0" in block:
        return None
    try:
        block.isascii() or block.decode()
    except UnicodeDecodeError:
        return None
    view = np.frombuffer(block, np.uint8)
    stops = np.flatnonzero(view == ord("\n"))
    if not block.endswith(b"\n"):
        stops = np.append(stops, len(block))
    begins = np.concatenate([[0], stops[:-1] + 1])
    if b"\r" in block:
        before = stops - ((stops > begins) & (view[stops - 1] == ord("\r")))
        if np.count_nonzero(view == ord("\r")) != (stops - before).sum():
            return None
        stops = before
    full = stops > begins
    begins, stops = begins[full], stops[full]
    cuts = np.flatnonzero(view == ord(separator))
    counts = np.searchsorted(cuts, stops) - np.searchsorted(cuts, begins)
    fronts = np.concatenate([begins, cuts[cuts + 1 < len(view)] + 1])
    longest = (stops - begins).max(initial=0)
    if (
        (counts != fields - 1).any()
        or (view[fronts] == ord(" ")).any()  # does not count
        or longest > csv.field_size_limit()
    ):
        return None
    return begins, stops, cuts.reshape(len(begins), fields - 1)


def _read_any(path: str, header: list[str], needed: Sequence[str]) -> _Read:
    """The rows as `read_rows` reads them, with errors that name the line."""
    file, separator = _nameless_file(), "\0"
    places = [header.index(name) for name in needed]
    starts, checks = [0], []
    rows = read_rows(path, skipinitialspace=True)
    next(rows)
    for line, row in rows:
        if not row:
            continue
        if len(row) != len(header):
            raise ValueError(
                f"{path}:{line}: {len(row)} fields, where the header has {len(header)}; "
                f"{ADVICE}."
            )
        for place in places:
            if not row[place]:
                raise ValueError(f"{path}:{line}: no {header[place]}; {ADVICE}.")
        if "duration" in header:
            _check_duration(path, line, row[header.index("duration")])
        text = separator.join(row)
        if text.count(separator) != len(row) - 1:
            raise ValueError(f"{path}:{line}: a null character; {ADVICE}.")
        data = text.encode()
        file.write(data)
        starts.append(starts[-1] + len(data))
        checks.append(crc32(row[header.index("ID")].encode()))
    if not checks:
        raise ValueError(f"{path}: no rows; {ADVICE}.")
    return file, separator, np.array(starts), np.array(checks, np.uint32)


def _check_duration(path: str, line: int, duration: str) -> None:
    try:
        float(duration)
    except ValueError:
        raise ValueError(
            f"{path}:{line}: duration={duration!r}: must be a number of seconds; {ADVICE}."
        ) from None


# --------------------------------------------------------------------- sharing


def _nameless_file() -> IO[bytes]:
    """A file without a name, in memory where the system has such files."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("hamsb rows"), "w+b")
    return tempfile.TemporaryFile()


class _Shared:
    """The bytes of a nameless file, mapped for reading by each process that has them.

    Sent to a process that is being started, it is the same file; pickled otherwise, a
    copy.
    """

    def __init__(self, file: IO[bytes]):
        self._file = file
        self.memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __reduce__(self) -> tuple:
        if context.get_spawning_popen() is None:
            return _Shared._copied, (self.memory[:],)
        return _Shared._opened, (reduction.DupFd(self._file.fileno()),)

    @classmethod
    def _copied(cls, data: bytes) -> "_Shared":
        file = _nameless_file()
        file.write(data)
        file.flush()
        return cls(file)

    @classmethod
    def _opened(cls, handle: Any) -> "_Shared":
        return cls(open(handle.detach(), "rb"))
