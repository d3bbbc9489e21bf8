"""Data that text files name: tables of utterances, and Kaldi directories."""

import functools
import os
import re
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

import soundfile

from hamsb.dataio.annotations import begins_with_json, is_whole, read_fields, read_keyed
from hamsb.dataio.utterances import (
    Found,
    Row,
    Source,
    fault_of,
    size_and_time,
    without_extension,
)
from hamsb.utils.files import read_json

_ADVICE = (
    "data are a folder of audio files, a Kaldi directory, or a csv file or a list of JSON "
    "lines with wav"
)


def advice(speakers: bool) -> str:
    """What data may be, for an error; with the speakers or without."""
    return _ADVICE + " and spk_id" * speakers


class _Record(NamedTuple):
    """What a table says of an utterance; names as in `Row`."""

    id: str
    suffix: str
    path: str
    speaker: str
    session: str
    start: int
    stop: int


class _Listed(Source):
    """A source of which text files name the utterances.

    Where speakers are not needed, a record whose file tells none has "".
    """

    def __init__(self, path: str, prefix: str = "", speakers: bool = True):
        super().__init__(path, prefix)
        self.speakers = speakers  # needed
        self.advice = advice(speakers)

    def records(self, sample_rate: int | None) -> Iterator[_Record]:
        """All utterances, without the prefix; without a rate, the file's own counts."""
        raise NotImplementedError

    def rows(self, sample_rate: int | None) -> Iterator[Row]:
        """As `Source.rows`."""
        before, size, mtime = "", 0, 0
        names: dict[str, str] = {}  # one text a speaker or session
        for record in self.records(sample_rate):
            if record.path != before:
                before = record.path
                size, mtime = size_and_time(before)
            speaker = self.prefix + record.speaker
            reason = fault_of(record.id, record.path)
            if "$" in record.path + record.speaker:
                reason = reason or "unusable_name"
            yield Row(
                self.prefix + record.id,
                record.suffix,
                before,
                names.setdefault(speaker, speaker),
                names.setdefault(record.session, record.session),
                record.start,
                record.stop,
                size,
                mtime,
                reason,
                self,
            )

    def find(self, names: Collection[str]) -> dict[str, list[Found]]:
        """As `Source.find`."""
        stems: dict[str, list[str]] = {}
        for name in names:
            stems.setdefault(without_extension(name), []).append(name)
        exact: dict[str, list[Found]] = {}
        near: dict[str, list[Found]] = {}
        for record in self.records(None):
            own = record.id + record.suffix
            asked = stems.get(without_extension(own))
            if asked is None:
                continue
            session = ""
            if record.speaker and record.session:
                session = f"{record.speaker}/{record.session}"
            where = record.path, record.start, record.stop
            found = Found(*where, record.speaker, session)
            for name in asked:
                (exact if name == own else near).setdefault(name, []).append(found)
        return near | exact


class Table(_Listed):
    """A csv file, or a list of JSON lines."""

    def __init__(self, path: str, prefix: str = "", speakers: bool = True):
        super().__init__(path, prefix, speakers)
        _, (_, speaker, *_) = next(self._rows())  # is it one?
        self.prefixes = _prefixes_of(path)
        self.layout = "JSON lines" if begins_with_json(path) else "csv file"
        self.layout += " without speakers" * (not speakers and not speaker)

    def _rows(self) -> Iterator[tuple[int, tuple[str, ...]]]:
        """Line, and file, speaker, name, session, start and stop of each."""
        needed = ["wav", *["spk_id"] * self.speakers]
        others = [*["spk_id"] * (not self.speakers), "ID", "session", "start", "stop"]
        return read_fields(self.path, needed, others, self.advice)

    def records(self, sample_rate: int | None) -> Iterator[_Record]:
        """One a row."""
        folder = os.path.dirname(self.path)
        for line, (wav, speaker, name, session, start, stop) in self._rows():
            if not (wav and (speaker or not self.speakers)):
                raise ValueError(
                    f"{self.path}:{line}: needs a file{' and a speaker' * self.speakers}, "
                    f"found wav={wav!r}, spk_id={speaker!r}."
                )
            _check_speaker(speaker, f"{self.path}:{line}")
            if wav[0] in "{$":
                self._refuse_placeholder(line, wav)
            path = wav if wav[0] == "/" else os.path.abspath(os.path.join(folder, wav))
            first, last = self._sample("start", start, line), 0
            if stop:
                last = self._sample("stop", stop, line)
                if last <= first:
                    raise ValueError(
                        f"{self.path}:{line}: start={start}, stop={stop}: must be samples "
                        "(not seconds), start before stop."
                    )
            suffix = ""
            if not name:
                stem, suffix = os.path.splitext(wav)
                name, suffix = (f"{stem}-{first}-{last}", "") if first else (stem, suffix)
            elif speaker and not session and name.startswith(f"{speaker}/"):
                session = name.split("/")[1] if name.count("/") > 1 else ""
            yield _Record(name, suffix, path, speaker, session, first, last)

    def _sample(self, name: str, text: str, line: int) -> int:
        """A number of samples; 0 where none is given."""
        number = text.removesuffix(".0")  # as pandas writes whole numbers
        if number and not is_whole(number):
            raise ValueError(
                f"{self.path}:{line}: {name}={text!r}: must be a whole number of samples "
                "(not seconds)."
            )
        return int(number or 0)

    def _refuse_placeholder(self, line: int, wav: str) -> None:
        """ValueError where a path begins as ``{data_root}`` or ``$data_root``."""
        found = re.match(r"\{\w+\}|\$\w+", wav)
        if found:
            raise ValueError(
                f"{self.path}:{line}: wav={wav!r}: {found[0]} stands for a folder that "
                f"nothing here names. Write it out: sed 's|{found[0]}|/that/folder|' "
                f"{self.path} > NEW"
            )


def _prefixes_of(path: str) -> list[str]:
    """What speakers' names begin with in a csv file of a preparation with
    ``prefix_speakers``; the names in trial lists do not."""
    beside = os.path.join(os.path.dirname(path), "prepare.json")
    if not os.path.isfile(beside):
        return []
    try:
        prepared = read_json(beside)
        own = os.path.basename(path) in prepared["files"]
        return prepared["numbers"]["prefixes"] if own else []
    except (ValueError, LookupError, TypeError):  # damaged, or not of a preparation
        return []


def _check_speaker(speaker: str, where: str) -> None:
    """ValueError where a speaker's name would end too early in the names of utterances,
    ``<speaker>/<...>``."""
    if "/" in speaker:
        raise ValueError(
            f"{where}: speaker {speaker!r}: no / in a speaker's name, as what follows it "
            "in the names of utterances is a session or a file; write "
            f"{speaker.replace('/', '-')}."
        )


class KaldiDirectory(_Listed):
    """``wav.scp`` and ``utt2spk``, and ``segments`` where files hold several utterances."""

    def __init__(self, path: str, prefix: str = "", speakers: bool = True):
        super().__init__(path, prefix, speakers)
        told = os.path.isfile(self._file("utt2spk"))
        self.layout = "Kaldi directory" + " without speakers" * (not told)
        if speakers and not told:
            how = ""
            if os.path.isfile(self._file("spk2utt")):
                how = "; utils/spk2utt_to_utt2spk.pl makes it of spk2utt"
            raise FileNotFoundError(
                f"{self._file('utt2spk')}: no such file; a Kaldi directory has it beside "
                f"wav.scp{how}."
            )

    def _file(self, name: str) -> str:
        return os.path.join(self.path, name)

    def records(self, sample_rate: int | None) -> Iterator[_Record]:
        """One a line of ``segments``, or else of ``wav.scp``."""
        segments = self._file("segments")
        if not os.path.isfile(segments):
            for _, name, path, speaker in self._with_speakers("wav.scp", self._paths()):
                yield _Record(name, "", path, speaker, "", 0, 0)
            return
        paths = {name: path for _, name, path in self._paths()}
        rate_of = functools.lru_cache(_rate)
        keyed = read_keyed(segments, self.advice)
        for line, name, rest, speaker in self._with_speakers("segments", keyed):
            fields = rest.split()
            if len(fields) != 3:
                raise ValueError(
                    f"{segments}:{line}: expected 'utterance recording start end', found "
                    f"{name} {rest}; a channel must be a file of its own."
                )
            path = paths.get(fields[0], "")
            if not path:
                raise ValueError(f"{segments}:{line}: no recording {fields[0]} in wav.scp.")
            rate = rate_of(path) if sample_rate is None else sample_rate
            start, stop = self._samples(fields[1:], rate, f"{segments}:{line}")
            yield _Record(name, "", path, speaker, "", start, stop)

    def _samples(self, seconds: list[str], rate: int, where: str) -> tuple[int, int]:
        """Start and stop in samples; the end -1 is that of the file."""
        try:
            start, stop = map(float, seconds)
            good = 0 <= start < stop < 1e9 or (start >= 0 and stop == -1)
        except ValueError:
            good = False
        if not good:
            raise ValueError(
                f"{where}: start={seconds[0]}, end={seconds[1]}: must be seconds, start "
                "before end."
            )
        first = round(start * rate)
        return first, 0 if stop == -1 else max(round(stop * rate), first + 1)

    def _paths(self) -> Iterator[tuple[int, str, str]]:
        """Line, name and audio file of each recording."""
        scp, base = self._file("wav.scp"), ""
        for line, name, path in read_keyed(scp, self.advice):
            if path.endswith("|"):
                raise ValueError(
                    f"{scp}:{line}: {path!r} is a command, and only files are read. Have "
                    "each command write a file, mkdir wavs; while read -r id pipe; do "
                    f'bash -c "${{pipe%|}}" </dev/null >wavs/$id.wav; done <{scp}, and '
                    "name these files in a wav.scp."
                )
            if re.search(r"\.ark:\d+$", path):
                raise ValueError(
                    f"{scp}:{line}: {path} is in an archive, and only files are read; "
                    "copy the audio out with Kaldi's wav-copy, and name these files."
                )
            if path[0] != "/":
                if not base:  # Kaldi's are below the folder where it was run
                    base = self.path if os.path.exists(self._file(path)) else os.getcwd()
                path = os.path.abspath(os.path.join(base, path))
            yield line, name, path

    def _with_speakers(
        self, first: str, rows: Iterable[tuple[int, str, str]]
    ) -> Iterator[tuple[int, str, str, str]]:
        """The rows of a file with their speakers. Both files are read side by side: in
        Kaldi they have one order, and another one takes memory alone."""
        utt2spk = self._file("utt2spk")
        if not os.path.isfile(utt2spk):
            yield from ((line, name, rest, "") for line, name, rest in rows)
            return
        others = iter(read_keyed(utt2spk, self.advice))
        ahead: dict[str, tuple[int, str]] = {}
        for line, name, rest in rows:
            while name not in ahead:
                other = next(others, None)
                if other is None:
                    raise ValueError(f"{self._file(first)}:{line}: no {name} in {utt2spk}.")
                ahead[other[1]] = other[0], other[2]
            where, speaker = ahead.pop(name)
            _check_speaker(speaker, f"{utt2spk}:{where}")
            yield line, name, rest, speaker
        ahead |= {name: (line, speaker) for line, name, speaker in others}
        if ahead:
            name, (line, _) = next(iter(ahead.items()))
            raise ValueError(
                f"{utt2spk}:{line}: no {name} in {self._file(first)}; {len(ahead):,} "
                "utterances are missing there. utils/fix_data_dir.sh makes them agree."
            )


def _rate(path: str) -> int:
    """The sample rate of a file; that of one that cannot be read does not matter."""
    try:
        return soundfile.info(path).samplerate
    except (RuntimeError, OSError):
        return 16000
