"""The preparation of VoxCeleb: every rule for files, speakers, trials and reuse."""

import csv
import dataclasses
import json
import logging
import os
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import soundfile
from speechbrain.dataio.dataset import DynamicItemDataset

import voxceleb_prepare
from hamsb.dataio import inspection
from hamsb.utils.files import digest
from hamsb.verification.lookup import find_utterances, read_lists
from hamsb.verification.trials import read_trials
from voxceleb_prepare import REASONS, prepare_voxceleb

RATE = 16000


def noise(seconds, seed=0, channels=1):
    """Noise [T] or [T, channels], 0.1 relative to full scale."""
    shape = (round(seconds * RATE), channels)
    return np.random.default_rng(seed).normal(0, 0.1, shape)


def put(root, name, samples=None, rate=RATE, **options):
    """Writes wav/<name>; half a second of noise by default."""
    path = root / "wav" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, noise(0.5) if samples is None else samples, rate, **options)
    return path


def tree(root, speakers=4, sessions=2, utterances=2, first=0):
    """A good tree, wav and flac by turns; returns root."""
    for number in range(first, first + speakers):
        for session in range(sessions):
            for utterance in range(utterances):
                suffix = "flac" if (number + utterance) % 2 else "wav"
                put(root, f"id{number:02}/s{session}/{utterance:05}.{suffix}")
    return root


def prepare(root, save=None, **options):
    """prepare_voxceleb with defaults for tiny trees."""
    roots = root if isinstance(root, list) else [root]
    save = save or roots[0] / "save"
    defaults = {"dev_speakers": 0, "min_duration": 0.1, "num_workers": 1}
    return prepare_voxceleb(roots, save, **{**defaults, **options})


def rows(path):
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def left_out(prepared):
    return {
        (row["path"], row["reason"])
        for row in rows(prepared.train_csv.parent / "left_out.csv")
    }


def contents(save):
    """All files but prepare.json, and prepare.json's numbers."""
    files = {p.name: p.read_bytes() for p in save.iterdir() if p.name != "prepare.json"}
    return files, json.loads((save / "prepare.json").read_text())["numbers"]


def trials(prepared):
    return [line.split(" ") for line in prepared.dev_trials.read_text().splitlines()]


@pytest.fixture
def no_audio(monkeypatch):
    """After calling it, opening an audio file fails."""

    def refuse(*_args, **_options):
        raise AssertionError("an audio file was opened")

    def arm():
        for name in ("SoundFile", "info", "read", "open"):
            monkeypatch.setattr(soundfile, name, refuse, raising=False)
        monkeypatch.setattr(voxceleb_prepare, "look_at_all", refuse)

    return arm


# ------------------------------------------------------------------ csv files


def test_csv_rows(tmp_path):
    put(tmp_path, "id1/s1/b.wav", noise(0.5))
    put(tmp_path, "id1/s1/a.FLAC", noise(0.75), format="FLAC")
    put(tmp_path, "id0/s9/c.wav", noise(0.25))
    prepared = prepare(tmp_path)
    wav = tmp_path / "wav"
    assert prepared.train_csv.read_text().splitlines() == [
        "ID,duration,wav,start,stop,spk_id",
        f"id0/s9/c,0.25,{wav}/id0/s9/c.wav,0,4000,id0",
        f"id1/s1/a,0.75,{wav}/id1/s1/a.FLAC,0,12000,id1",
        f"id1/s1/b,0.5,{wav}/id1/s1/b.wav,0,8000,id1",
    ]
    assert (prepared.speakers, prepared.utterances) == (2, 3)
    assert prepared.hours == pytest.approx(1.5 / 3600)
    assert prepared.dev_csv is None and prepared.dev_trials is None
    assert not prepared.reused
    assert prepared.counts == dict.fromkeys(REASONS, 0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        prepared.hours = 0


def test_speechbrain_reads_the_csv(tmp_path):
    prepared = prepare(tree(tmp_path))
    data = DynamicItemDataset.from_csv(
        prepared.train_csv, output_keys=["wav", "duration", "spk_id"]
    )
    assert len(data) == 16
    assert data[0]["duration"] == 0.5 and data[0]["spk_id"] == "id00"
    assert os.path.isabs(data[0]["wav"]) and os.path.exists(data[0]["wav"])


def test_relative_root_gives_absolute_paths(tmp_path, monkeypatch):
    tree(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    prepared = prepare_voxceleb("data", "save", dev_speakers=0, min_duration=0)
    assert rows(prepared.train_csv)[0]["wav"].startswith(f"{tmp_path}/data/wav/id00/")


def test_several_roots_are_one_corpus(tmp_path):
    one, two = tree(tmp_path / "one", 2), tree(tmp_path / "two", 3, first=2)
    put(two, "id00/other/00000.wav")
    prepared = prepare([two, one], tmp_path / "save", merge_speakers=True)
    found = rows(prepared.train_csv)
    assert (prepared.speakers, prepared.utterances) == (5, 21)
    assert [row["ID"] for row in found] == sorted(row["ID"] for row in found)
    assert sum(row["spk_id"] == "id00" for row in found) == 5


def test_one_id_twice_names_both_files(tmp_path):
    one, two = tree(tmp_path / "one", 2), tree(tmp_path / "two", 2, first=2)
    clash = put(two, "id00/s0/00000.flac")
    with pytest.raises(ValueError, match="two files have the ID 'id00/s0/00000'") as error:
        prepare([one, two], merge_speakers=True)
    assert str(clash) in str(error.value)
    assert str(one / "wav/id00/s0/00000.wav") in str(error.value)


def test_wav_beside_flac_is_one_id_twice(tmp_path):
    put(tree(tmp_path), "id00/s0/00000.flac")
    with pytest.raises(ValueError, match="two files have the ID"):
        prepare(tmp_path)


# ------------------------------------------------------------------ names in two roots


@pytest.fixture
def namesakes(tmp_path):
    """Two roots with speakers id00 to id03, in sessions of their own but for one
    utterance, and id04 in the second alone."""
    one = tree(tmp_path / "one", sessions=1)
    for number in range(5):
        for utterance in range(2):
            put(tmp_path / "two", f"id{number:02}/other/{utterance:05}.flac")
    return [one, tmp_path / "two"]


def test_a_name_in_two_roots_is_refused(namesakes, tmp_path):
    one, two = namesakes
    message = (
        f"data_folder: 4 speakers occur both in {one} and in {two} .id00, id01, id02, "
        "....*Give merge_speakers=True if .*, or prefix_speakers=True if .*name.$"
    )
    with pytest.raises(ValueError, match=message):
        prepare([two, one], tmp_path / "save")
    assert not (tmp_path / "save").exists()
    put(two, "id02/s0/00000.flac")
    with pytest.raises(ValueError, match="1 utterances have one name in both, too: if"):
        prepare([one, two])


def test_a_name_in_two_roots_that_does_not_train_is_no_fault(namesakes, tmp_path):
    """Of a speaker who is in a trial list."""
    for number in range(4):
        (tmp_path / f"{number}.txt").write_text(f"1 id0{number}/a id0{number}/b\n")
    lists = [tmp_path / f"{number}.txt" for number in range(4)]
    with pytest.raises(ValueError, match="data_folder: 1 speakers occur both .*id03"):
        prepare(namesakes, verification_file=lists[:3])
    put(namesakes[0], "id05/s0/0.wav")
    prepared = prepare(namesakes, verification_file=lists)
    assert {row["spk_id"] for row in rows(prepared.train_csv)} == {"id04", "id05"}


def test_merged_speakers_are_one_person_each(namesakes, tmp_path):
    options = {"merge_speakers": True, "dev_speakers": 2}
    prepared = prepare(namesakes, tmp_path / "save", **options)
    assert prepared.speakers == 3 and len(rows(prepared.dev_csv)) == 8
    assert prepare(namesakes, tmp_path / "save", **options).reused
    with pytest.raises(ValueError, match="4 speakers occur both"):  # not reused
        prepare(namesakes, tmp_path / "save", dev_speakers=2)


def test_prefixed_speakers_are_told_apart(namesakes, tmp_path):
    """In the csv files and in the trials, where they have files of one name, too."""
    put(namesakes[1], "id02/s0/00000.wav")
    one, two = (
        prepare(roots, tmp_path / str(i), dev_speakers=4, prefix_speakers=True)
        for i, roots in enumerate((namesakes, namesakes[::-1]))
    )
    assert one.dev_csv.read_text() == two.dev_csv.read_text()
    found = rows(one.train_csv) + rows(one.dev_csv)
    assert {row["spk_id"] for row in found} == {
        *(f"one-id0{number}" for number in range(4)),
        *(f"two-id0{number}" for number in range(5)),
    }
    assert len({row["ID"] for row in found}) == 8 + 11
    for row in found:
        root, _, folder = row["spk_id"].partition("-")
        assert row["wav"].startswith(f"{tmp_path}/{root}/wav/{folder}/")
    (listed,), files = read_lists(one.dev_trials, one.dev_csv)
    assert set(listed.utterances) == set(files)
    assert set(listed.speakers) == {row["spk_id"] for row in rows(one.dev_csv)}
    for label, a, b in zip(listed.labels, listed.enrol, listed.test):
        assert label == (listed.speaker_of(a) == listed.speaker_of(b))
    for name, file in files.items():
        assert str(file) == f"{tmp_path}/{name[:3]}/wav/{name[4:]}" and file.is_file()


def test_prefixed_speakers_of_trial_lists_never_train(namesakes, tmp_path):
    """By their folder's name, in each root."""
    (tmp_path / "list.txt").write_text("1 id01/a id01/b\n")
    options = {"prefix_speakers": True, "verification_file": tmp_path / "list.txt"}
    prepared = prepare(namesakes, **options)
    names = {row["spk_id"] for row in rows(prepared.train_csv)}
    assert len(names) == 7 and not any("id01" in name for name in names)


def test_a_csv_of_prefixed_speakers_is_read_by_their_own_names(namesakes, tmp_path):
    """As training data and as a cohort; and as a source with a prefix of its own."""
    first = prepare(namesakes, tmp_path / "1", prefix_speakers=True, dev_speakers=0)
    (tmp_path / "list.txt").write_text("1 id01/a id01/b\n")
    options = {"verification_file": tmp_path / "list.txt", "dev_speakers": 0}
    again = prepare(first.train_csv, tmp_path / "2", **options)
    names = {row["spk_id"] for row in rows(again.train_csv)}
    assert len(names) == 7 and not any("id01" in name for name in names)
    assert again.prefixes == first.prefixes == ["one-", "two-"]
    both = [first.train_csv, tree(tmp_path / "more", 2)]
    third = prepare(both, tmp_path / "3", prefix_speakers=True, **options)
    names = {row["spk_id"] for row in rows(third.train_csv)}
    assert len(names) == 8 and not any("id01" in name for name in names)
    assert "train.csv-one-" in third.prefixes


def test_prefixes_are_as_long_as_it_takes(tmp_path):
    roots = [tree(tmp_path / name, 2) for name in ("a/dev", "b/dev", "c/test")]
    prepared = prepare(roots, prefix_speakers=True)
    names = {row["spk_id"].rpartition("-")[0] for row in rows(prepared.train_csv)}
    assert names == {"a-dev", "b-dev", "c-test"}


def test_prefixes_that_tell_nobody_apart(tmp_path):
    put(tmp_path / "a", "b-c/s/0.wav")
    put(tmp_path / "a-b", "c/s/0.wav")
    with pytest.raises(ValueError, match="prefix_speakers: speakers of two roots get one"):
        prepare([tmp_path / "a", tmp_path / "a-b"], prefix_speakers=True)
    with pytest.raises(ValueError, match="prefix_speakers: white space .*my calls"):
        prepare([tree(tmp_path / "my calls"), tmp_path / "a"], prefix_speakers=True)


# ------------------------------------------------------------------ other layouts


def test_files_elsewhere_are_named_first(tmp_path):
    """Not that dev_speakers are too many."""
    for number in range(4):
        put(tmp_path, f"id{number}.wav")
    message = (
        f"^data_folder={tmp_path}: 4 of 4 audio files are at neither <speaker>/<session>/"
        r"<utterance> nor <speaker>/<utterance>, for example wav/id0\.wav: give each sp"
    )
    with pytest.raises(FileNotFoundError, match=message):
        prepare(tmp_path, dev_speakers=2)


def test_parts_of_a_corpus_are_no_speakers(tmp_path):
    for part in ("train", "dev", "test-clean"):
        for speaker in ("S1", "S2"):
            put(tmp_path, f"{part}/{speaker}/0.wav")
    message = (
        f"^data_folder={tmp_path}: its speakers would be dev, test-clean, train: "
        f"6 of 6 .* dev is the name of a part of a corpus.*=.{tmp_path}/wav/dev, "
    )
    with pytest.raises(ValueError, match=message):
        prepare(tmp_path)


def test_what_may_be_another_layout_is_warned_of(tmp_path, caplog):
    part, few, astray, good = (
        tmp_path / name for name in ("part", "few", "astray", "good")
    )
    put(tree(part), "test/id09/0.wav")
    for number in range(10):
        put(few, f"one/s{number}/0.wav")
        put(few, f"other/s{number}/0.wav")
    tree(astray, 2, sessions=1, utterances=1)
    put(astray, "id09/0.wav")
    put(astray, "id09/1.wav")
    put(tree(good, 2, sessions=9), "id01/0.wav")  # two speakers, and one file astray
    for root, message in (
        (part, "test taken for a speaker, though that is the name of a part"),
        (few, "only 2 speakers (one, other) with 10 sessions or more each"),
        (astray, "2 of 4 audio files are not in wav/<speaker>/<session>/<utterance>, for"),
        (good, None),
    ):
        caplog.clear()
        prepare(root)
        warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
        assert len(warnings) == (message is not None)
        assert message is None or message in warnings[0]


# ------------------------------------------------------------------ rules for files


def empty(path):
    path.write_bytes(b"")


def text(path):
    path.write_text("not audio at all")


def header_only(path):
    soundfile.write(path, np.zeros(0), RATE)


def rate_8k(path):
    soundfile.write(path, noise(0.5), 8000)


def short(path):
    soundfile.write(path, noise(0.05), RATE)


def digital_silence(path):
    soundfile.write(path, np.zeros(RATE), RATE)


def below_80_db(path):
    soundfile.write(path, np.full(RATE, 0.9e-4), RATE, subtype="PCM_24")


def not_a_number(path):
    soundfile.write(path, np.full(RATE, np.nan), RATE, subtype="FLOAT", format="WAV")


def cut(path, keep=0.9):
    soundfile.write(path, noise(0.5), RATE)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])


def cut_in_the_last_frame(path):
    cut(path, keep=0.999)


def cut_with_odd_chunk(path):
    """A truncated WAV whose data follow a chunk of odd length (padded)."""
    soundfile.write(path, noise(0.5), RATE)
    whole = path.read_bytes()
    assert whole[36:40] == b"data"
    path.write_bytes(whole[:36] + b"LIST\x05\0\0\0hello\0" + whole[36:-100])


def zeroed_tail(path):
    cut(path)
    path.write_bytes(path.read_bytes() + bytes(4000))


def unknown_length(path):
    soundfile.write(path, noise(0.5), RATE)
    whole = bytearray(path.read_bytes())
    whole[21] &= 0xF0  # STREAMINFO's 36 bits of total samples
    whole[22:26] = bytes(4)
    path.write_bytes(whole)


def dangling_link(path):
    path.symlink_to(path.parent / "nowhere")


def fifo(path):
    os.mkfifo(path)


def test_bad_file_is_left_out_and_counted(tmp_path):
    for number, (make, suffix, reason) in enumerate(
        [
            (empty, "wav", "unreadable"),
            (empty, "flac", "unreadable"),
            (text, "wav", "unreadable"),
            (text, "flac", "unreadable"),
            (header_only, "wav", "unreadable"),
            (header_only, "flac", "unreadable"),
            (not_a_number, "wav", "unreadable"),
            (dangling_link, "wav", "unreadable"),
            (fifo, "wav", "unreadable"),
            (unknown_length, "flac", "unknown_length"),
            (rate_8k, "wav", "other_rate"),
            (rate_8k, "flac", "other_rate"),
            (cut, "wav", "truncated"),
            (cut, "flac", "truncated"),
            (cut_in_the_last_frame, "wav", "truncated"),
            (cut_in_the_last_frame, "flac", "truncated"),
            (cut_with_odd_chunk, "wav", "truncated"),
            (zeroed_tail, "flac", "truncated"),
            (short, "wav", "too_short"),
            (short, "flac", "too_short"),
            (digital_silence, "wav", "silent"),
            (digital_silence, "flac", "silent"),
            (below_80_db, "wav", "silent"),
            (below_80_db, "flac", "silent"),
        ]
    ):
        root = tmp_path / str(number)
        tree(root)
        bad = root / f"wav/id00/s0/bad.{suffix}"
        make(bad)
        prepared = prepare(root)
        assert prepared.counts == {**dict.fromkeys(REASONS, 0), reason: 1}
        assert left_out(prepared) == {(str(bad), reason)}
        assert prepared.utterances == 16
        assert str(bad) not in prepared.train_csv.read_text()


def loud_in_the_middle(path):
    samples = np.zeros(10 * RATE)
    samples[5 * RATE] = 1.2e-4
    soundfile.write(path, samples, RATE, subtype="PCM_24")


def above_80_db(path):
    soundfile.write(path, np.full(RATE, -1.1e-4), RATE, subtype="PCM_24")


def just_long_enough(path):
    soundfile.write(path, noise(0.1), RATE)


def streamed(path):
    """As ffmpeg writes to a pipe: sizes of 0xFFFFFFFF."""
    soundfile.write(path, noise(0.5), RATE)
    whole = bytearray(path.read_bytes())
    whole[4:8] = whole[40:44] = b"\xff" * 4
    path.write_bytes(whole)


def trailing_chunk(path):
    soundfile.write(path, noise(0.5), RATE)
    path.write_bytes(path.read_bytes() + b"LIST\x04\0\0\0abcd")


def test_file_at_the_border_of_a_rule_is_used(tmp_path):
    for number, (make, suffix, frames) in enumerate(
        [
            (loud_in_the_middle, "wav", 160000),
            (loud_in_the_middle, "flac", 160000),
            (above_80_db, "wav", 16000),
            (just_long_enough, "flac", 1600),
            (streamed, "wav", 8000),
            (trailing_chunk, "wav", 8000),
        ]
    ):
        root = tmp_path / str(number)
        tree(root)
        good = root / f"wav/id00/s0/good.{suffix}"
        make(good)
        prepared = prepare(root)
        assert prepared.counts == dict.fromkeys(REASONS, 0)
        (row,) = [row for row in rows(prepared.train_csv) if row["wav"] == str(good)]
        assert row["stop"] == str(frames)


def test_stereo_is_used_and_counted(tmp_path):
    for number, suffix in enumerate(("wav", "flac")):
        root = tmp_path / str(number)
        put(tree(root), f"id00/s0/two.{suffix}", noise(0.5, channels=2))
        prepared = prepare(root)
        assert prepared.counts == {**dict.fromkeys(REASONS, 0), "stereo": 1}
        assert prepared.utterances == 17 and not left_out(prepared)
        (row,) = [row for row in rows(prepared.train_csv) if row["ID"] == "id00/s0/two"]
        assert row["stop"] == "8000"  # frames, not samples of both channels


def test_name_that_csv_or_trials_cannot_carry(tmp_path):
    for number, name in enumerate(("id00/s0/a b.wav", "id00/s0/$x.wav", "id 9/s0/x.wav")):
        root = tmp_path / str(number)
        bad = put(tree(root), name)
        prepared = prepare(root)
        assert left_out(prepared) == {(str(bad), "unusable_name")}
        assert prepared.counts["unusable_name"] == 1 and prepared.utterances == 16


def test_name_that_is_not_utf8(tmp_path):
    good = tree(tmp_path) / "wav/id00/s0"
    try:
        os.link(good / "00000.wav", os.fsencode(good) + b"/\xff.wav")
    except OSError:
        pytest.skip("the file system refuses such names")
    prepared = prepare(tmp_path)
    assert left_out(prepared) == {(f"{good}/\\udcff.wav", "unusable_name")}


def test_file_at_another_depth_is_misplaced(tmp_path):
    for number, name in enumerate(("stray.wav", "id00/stray.flac", "id00/s0/deep/x.wav")):
        root = tmp_path / str(number)
        path = put(tree(root), name)
        prepared = prepare(root)
        assert prepared.counts["misplaced"] == 1 and prepared.utterances == 16
        # of a folder that is too deep, the folder is listed
        named = path.parent if "deep" in name else path
        assert left_out(prepared) == {(str(named), "misplaced")}


def test_other_formats_are_counted_and_other_files_ignored(tmp_path):
    folder = tree(tmp_path) / "wav/id00/s0"
    (folder / "x.m4a").write_bytes(b"x")
    (folder / "notes.txt").write_text("x")
    prepared = prepare(tmp_path)
    assert left_out(prepared) == {(str(folder / "x.m4a"), "not_wav_or_flac")}


def test_linked_folders_are_followed_and_loops_end(tmp_path):
    tree(tmp_path / "real", 3)
    (tmp_path / "wav").mkdir()
    for number in range(3):
        (tmp_path / f"wav/id0{number}").symlink_to(tmp_path / f"real/wav/id0{number}")
    (tmp_path / "real/wav/id00/s0/loop").symlink_to(tmp_path / "real/wav")
    prepared = prepare(tmp_path)
    assert prepared.utterances == 12 and prepared.counts["misplaced"] == 1


def test_progress_bar_counts_files(tmp_path, terminal):
    prepare(tree(tmp_path))
    assert "/16" in terminal.getvalue()


def test_summary_is_one_block(tmp_path, caplog):
    short(put(tree(tmp_path), "id00/s0/short.wav"))
    with caplog.at_level(logging.INFO):
        prepare(tmp_path, dev_speakers=2)
    (block,) = [r.getMessage() for r in caplog.records if "Prepared" in r.getMessage()]
    words = [" ".join(line.split()) for line in block.splitlines()]
    assert "17 audio files found" in words
    assert "8 for training: 2 speakers, 0.00 hours" in words
    assert "8 for development: 2 speakers, 8 target and 16 impostor trials" in words
    assert "1 too short: left out" in words
    assert not any("silent" in word for word in words)


# ------------------------------------------------------------------ speakers and trials


def test_speakers_of_trial_lists_never_train(tmp_path):
    tree(tmp_path, 7)
    text(tmp_path / "wav/id03/s0/unread.wav")
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_text("0 id01/s0/00000.wav id03/s0/00000.wav\n")
    two.write_text("1 id04/s0/00000.wav id04/s1/00000.wav\n0 id99/x/1.wav id04/x/1.wav\n")
    prepared = prepare(tmp_path, verification_file=[one, str(two)], dev_speakers=2)
    used = {
        row["spk_id"] for p in (prepared.train_csv, prepared.dev_csv) for row in rows(p)
    }
    assert used == {"id00", "id02", "id05", "id06"} and prepared.speakers == 2
    # the file that is no audio counts here too: it is not opened
    assert prepared.counts == {**dict.fromkeys(REASONS, 0), "trial_speaker": 13}
    assert {reason for _, reason in left_out(prepared)} == {"trial_speaker"}


def test_speakers_elsewhere_exclude_nobody(tmp_path, caplog):
    trial_list = tmp_path / "list.txt"
    trial_list.write_text("0 id91/s0/0.wav id92/s0/0.wav\n")
    with caplog.at_level(logging.INFO):
        prepared = prepare(tree(tmp_path), verification_file=trial_list)
    assert prepared.speakers == 4 and prepared.counts["trial_speaker"] == 0
    assert "none of the 2 speakers of the trial lists is in these data" in caplog.text


def test_development_speakers_do_not_train(tmp_path):
    prepared = prepare(tree(tmp_path, 7), dev_speakers=3)
    train = {row["spk_id"] for row in rows(prepared.train_csv)}
    dev = {row["spk_id"] for row in rows(prepared.dev_csv)}
    assert (len(train), len(dev), train & dev) == (4, 3, set())
    assert prepared.speakers == 4 and prepared.utterances == 16
    assert len(rows(prepared.dev_csv)) == 12


def test_development_speakers_have_two_usable_files(tmp_path):
    tree(tmp_path, 3)
    for number in range(10, 16):
        put(tmp_path, f"id{number}/s0/0.wav")
        short(tmp_path / f"wav/id{number}/s0/1.wav")
    prepared = prepare(tmp_path, dev_speakers=3)
    assert {row["spk_id"] for row in rows(prepared.dev_csv)} == {"id00", "id01", "id02"}
    message = (
        "dev_speakers=4: of the 9 .* 3 have two .* 6 of 24 files .*: 6 too short .min_d"
    )
    with pytest.raises(ValueError, match=message):
        prepare(tmp_path, dev_speakers=4)


def test_more_data_keeps_the_development_speakers(tmp_path):
    before = prepare(tree(tmp_path, 8), tmp_path / "a", dev_speakers=4)
    tree(tmp_path, 1, first=50)
    after = prepare(tmp_path, tmp_path / "b", dev_speakers=4)
    names = [{row["spk_id"] for row in rows(p.dev_csv)} for p in (before, after)]
    assert len(names[0] & names[1]) >= 3


def test_all_trials_when_they_are_few(tmp_path):
    prepared = prepare(tree(tmp_path, 5), dev_speakers=3)
    files = [row["wav"].split("/wav/")[1] for row in rows(prepared.dev_csv)]
    expected = set()
    for a, b in combinations(files, 2):
        same, session = a[:4] == b[:4], a[:7] == b[:7]
        if not (same and session):
            expected.add((str(int(same)), frozenset((a, b))))
    found = [(label, frozenset(pair)) for label, *pair in trials(prepared)]
    assert len(found) == len(set(found)) == 3 * 4 + 3 * 16
    assert set(found) == expected


def test_trials_within_the_session_if_there_is_one(tmp_path):
    tree(tmp_path, 4, sessions=1, utterances=3)
    prepared = prepare(tmp_path, dev_speakers=2)
    assert Counter(label for label, *_ in trials(prepared)) == {"1": 2 * 3, "0": 9}
    assert all(a != b for _, a, b in trials(prepared))


def test_most_trials_of_each_kind_and_even_shares(tmp_path):
    tree(tmp_path, 2, sessions=1, utterances=2)  # one target pair each
    tree(tmp_path, 2, sessions=2, utterances=6, first=2)  # 36 each
    tree(tmp_path, 2, first=4, sessions=1, utterances=1)  # cannot be held out
    prepared = prepare(tmp_path, dev_speakers=4, dev_trials=20)
    found = trials(prepared)
    assert Counter(label for label, *_ in found) == {"1": 20, "0": 20}
    assert len({frozenset(pair) for _, *pair in found}) == 40
    assert all((a[:4] == b[:4]) == (label == "1") for label, a, b in found)
    shares = Counter(a[:4] for label, a, _ in found if label == "1")
    assert shares == {"id00": 1, "id01": 1, "id02": 9, "id03": 9}


def test_fewer_target_trials_than_speakers_take_any_of_them(tmp_path):
    tree(tmp_path, 6, utterances=1)
    drawn = set()
    for seed in range(8):
        prepared = prepare(
            tmp_path, tmp_path / str(seed), dev_speakers=4, dev_trials=1, seed=seed
        )
        speakers = sorted({row["spk_id"] for row in rows(prepared.dev_csv)})
        drawn |= {speakers.index(a[:4]) for label, a, _ in trials(prepared) if label == "1"}
    assert len(drawn) >= 2


def test_hamsb_reads_and_finds_the_trials(tmp_path):
    one, two = tree(tmp_path / "one", 3), tree(tmp_path / "two", 3, first=3)
    prepared = prepare([one, two], dev_speakers=4, dev_trials=5)
    listed = read_trials(prepared.dev_trials)
    assert set(listed.labels) == {0, 1} and len(listed) == 10
    files = {str(path) for path in find_utterances(listed, [one, two]).values()}
    assert files <= {row["wav"] for row in rows(prepared.dev_csv)}


def test_names_with_quotes_and_commas_survive(tmp_path):
    for speaker in ("plain", "q", "r", "s"):
        for name in ('say "a",b', "it's"):
            put(tmp_path, f"{speaker}/s0/{name.replace(' ', '_')}.wav")
    prepared = prepare(tmp_path, dev_speakers=2)
    listed = read_trials(prepared.dev_trials)
    assert {path.split("/")[2] for path in listed.enrol} >= {"it's.wav", 'say_"a",b.wav'}
    assert len(find_utterances(listed, tmp_path)) == 4
    assert all(os.path.exists(row["wav"]) for row in rows(prepared.train_csv))


# ------------------------------------------------------------------ determinism


def test_seed_draws_speakers_and_trials(tmp_path):
    tree(tmp_path, 12)
    made = [
        contents(
            prepare(
                tmp_path, tmp_path / str(i), dev_speakers=5, dev_trials=4, seed=s
            ).train_csv.parent
        )
        for i, s in enumerate((1, 1, 2))
    ]
    assert made[0] == made[1]
    for name in ("train.csv", "dev.csv", "veri_dev.txt"):
        assert made[0][0][name] != made[2][0][name]


def test_seed_draws_trials_of_the_same_speakers(tmp_path):
    """Two of two able speakers: only the trials can differ."""
    tree(tmp_path, 2, sessions=3, utterances=4)
    tree(tmp_path, 2, sessions=1, utterances=1, first=5)
    one, two = (
        prepare(tmp_path, tmp_path / str(seed), dev_speakers=2, dev_trials=8, seed=seed)
        for seed in (1, 2)
    )
    assert one.dev_csv.read_text() == two.dev_csv.read_text()
    for label in "10":
        drawn = [[t for t in trials(p) if t[0] == label] for p in (one, two)]
        assert len(drawn[0]) == len(drawn[1]) == 8 and drawn[0] != drawn[1]


def test_order_of_the_file_system_does_not_matter(tmp_path, monkeypatch):
    tree(tmp_path, 6)
    short(tmp_path / "wav/id00/s0/short.wav")
    forth = prepare(tmp_path, tmp_path / "a", dev_speakers=3, dev_trials=6)
    scandir = os.scandir

    class Backwards:
        def __init__(self, folder):
            with scandir(folder) as entries:
                self.entries = sorted(entries, key=lambda e: e.name, reverse=True)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(os, "scandir", Backwards)
    back = prepare(tmp_path, tmp_path / "b", dev_speakers=3, dev_trials=6)
    assert not back.reused
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert dataclasses.replace(forth, train_csv=0, dev_csv=0, dev_trials=0) == (
        dataclasses.replace(back, train_csv=0, dev_csv=0, dev_trials=0)
    )


def test_processes_change_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(inspection, "_FILES_PER_TASK", 3)
    pools = []
    pool = inspection.ProcessPoolExecutor
    monkeypatch.setattr(
        inspection,
        "ProcessPoolExecutor",
        lambda *a, **k: pools.append(a) or pool(*a, **k),
    )
    tree(tmp_path, 5)
    for make in (short, text, cut, rate_8k):
        make(tmp_path / f"wav/id00/s0/{make.__name__}.wav")
    prepare(tmp_path, tmp_path / "a", dev_speakers=2, num_workers=1)
    assert not pools
    prepare(tmp_path, tmp_path / "b", dev_speakers=2, num_workers=2)
    assert pools == [(2,)]
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert prepare(tmp_path, tmp_path / "a", dev_speakers=2, num_workers=2).reused


# ------------------------------------------------------------------ reuse


def test_second_run_opens_no_audio_file(tmp_path, no_audio, caplog):
    tree(tmp_path)
    text(tmp_path / "wav/id00/s0/bad.wav")
    first = prepare(tmp_path, dev_speakers=2)
    no_audio()
    with caplog.at_level(logging.INFO):
        second = prepare(tmp_path, dev_speakers=2)
    assert second == dataclasses.replace(first, reused=True)
    assert "reusing" in caplog.text
    with pytest.raises(AssertionError, match="opened"):  # the fixture works
        prepare(tmp_path, dev_speakers=2, seed=5)


def rebuilds(tmp_path, **options):
    """Whether a run rebuilds, and leaves a good result."""
    prepared = prepare(tmp_path, **{"dev_speakers": 2, **options})
    assert prepare(tmp_path, **{"dev_speakers": 2, **options}).reused
    assert not list((tmp_path / "save").glob("*.tmp"))
    return not prepared.reused


def test_another_option_rebuilds(tmp_path):
    for number, option in enumerate(
        [
            {"dev_speakers": 0},
            {"dev_speakers": 3},
            {"dev_trials": 2},
            {"min_duration": 0.2},
            {"seed": 1},
        ]
    ):
        root = tmp_path / str(number)
        prepare(tree(root, 5), dev_speakers=2)
        assert not rebuilds(root)
        assert rebuilds(root, **option)


def test_another_rate_rebuilds(tmp_path):
    tree(tmp_path)
    for number in range(2):
        put(tmp_path, f"id8{number}/s0/0.wav", rate=8000)
    assert prepare(tmp_path).utterances == 16
    assert prepare(tmp_path, sample_rate=8000).utterances == 2


def test_another_root_rebuilds(tmp_path):
    one, two = tree(tmp_path / "one"), tree(tmp_path / "two", first=10)
    assert prepare([one], tmp_path / "save").speakers == 4
    assert prepare([one, two], tmp_path / "save").speakers == 8


def add(root):
    put(root, "id00/s0/new.wav")


def remove(root):
    (root / "wav/id00/s0/00000.wav").unlink()


def rename(root):
    (root / "wav/id03").rename(root / "wav/id03x")  # stays the last of the tree


def resize(root):
    path = root / "wav/id00/s0/00000.wav"
    before = path.stat()
    soundfile.write(path, noise(0.75), RATE)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def touch(root):
    os.utime(root / "wav/id00/s0/00000.wav", ns=(1, 1))


def edit_train(root):
    with open(root / "save/train.csv", "a") as stream:
        stream.write("id99/s0/0,1.0,/x.wav,0,16000,id99\n")


def edit_trials(root):
    path = root / "save/veri_dev.txt"
    path.write_text(path.read_text().replace("1 ", "0 "))


def delete_train(root):
    (root / "save/train.csv").unlink()


def delete_dev(root):
    (root / "save/dev.csv").unlink()


def delete_record(root):
    (root / "save/prepare.json").unlink()


def break_record(root):
    path = root / "save/prepare.json"
    path.write_text(path.read_text()[:100])


def foreign_record(root):
    (root / "save/prepare.json").write_text("[1, 2]")


def older_record(root):
    path = root / "save/prepare.json"
    path.write_text(path.read_text().replace('"version": 2', '"version": 0'))


def test_a_change_rebuilds(tmp_path):
    for number, change in enumerate(
        [
            add,
            remove,
            rename,
            resize,
            touch,
            edit_train,
            edit_trials,
            delete_train,
            delete_dev,
            delete_record,
            break_record,
            foreign_record,
            older_record,
        ]
    ):
        root = tmp_path / str(number)
        prepare(tree(root), dev_speakers=2)
        good = contents(root / "save")[0]
        change(root)
        assert rebuilds(root)
        if change.__name__.partition("_")[0] in (
            "edit",
            "delete",
            "break",
            "foreign",
            "older",
            "touch",
        ):
            assert contents(root / "save")[0] == good


def test_a_changed_trial_list_rebuilds_a_moved_one_does_not(tmp_path):
    tree(tmp_path, 7)
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_text("0 id00/s0/0.wav id01/s0/0.wav\n")
    two.write_text("1 id01/s0/0.wav id01/s1/0.wav\n")
    prepare(tmp_path, dev_speakers=2, verification_file=[one, two])
    assert not rebuilds(tmp_path, verification_file=[two, one])
    one = one.rename(tmp_path / "moved.txt")
    assert not rebuilds(tmp_path, verification_file=[one, two])
    one.write_text("0 id00/s0/0.wav id02/s0/0.wav\n")
    assert rebuilds(tmp_path, verification_file=[one, two])
    assert rebuilds(tmp_path, verification_file=two)


def test_no_development_files_are_left_behind(tmp_path):
    prepare(tree(tmp_path), dev_speakers=2)
    prepare(tmp_path)
    assert {p.name for p in (tmp_path / "save").iterdir()} == {
        "train.csv",
        "left_out.csv",
        "prepare.json",
    }


def test_interrupted_preparation_does_not_pass_for_complete(tmp_path, monkeypatch):
    replace, calls, stop_at = os.replace, [], 0

    def interrupt(source, target):
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        calls.append(target)
        replace(source, target)

    for stop_at in range(5):
        root = tree(tmp_path / str(stop_at))
        prepare(root, dev_speakers=2)
        prepare(root, root / "wanted", dev_speakers=2, seed=7)
        calls.clear()
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, "replace", interrupt)
            prepare(root, dev_speakers=2, seed=7)
        assert len(calls) == stop_at
        assert not (root / "save/prepare.json").exists()
        assert not prepare(root, dev_speakers=2, seed=7).reused
        assert contents(root / "save") == contents(root / "wanted")


# ------------------------------------------------------------------ a run that has begun


def begun(save):
    """The digests of the files that a run begins with."""
    names = ("train.csv", "veri_dev.txt")
    return {name: digest(save / name) for name in names}


def test_a_run_that_has_begun_refuses_other_data(tmp_path):
    gone = "1 gone (id00/s0/00000)"
    for number, (change, what) in enumerate(
        [
            (add, "of 16 utterances: 1 new (id00/s0/new) since the run in"),
            (remove, f"of 16 utterances: {gone} since"),
            (rename, "4 new (id03x/s0/00000, id03x/s0/00001, id03x/s1/00000, ...), 4 gone"),
            (resize, "1 of another place or length (id00/s0/00000) since"),
            (lambda root: add(root) or remove(root), f"1 new (id00/s0/new), {gone} since"),
        ]
    ):
        root = tmp_path / str(number)
        prepare(tree(root), dev_speakers=2)
        before, expected = contents(root / "save"), begun(root / "save")
        change(root)
        with pytest.raises(ValueError, match=r"^data_folder: .*Restore the data") as error:
            prepare(root, dev_speakers=2, expected=expected)
        assert what in str(error.value)
        assert contents(root / "save") == before
        assert not prepare(root, dev_speakers=2).reused


def test_a_run_that_has_begun_refuses_another_division(tmp_path):
    """Of the speakers, of the trials, and without development speakers."""
    for number, (option, what) in enumerate(
        [
            ({"seed": 7}, "held out or no longer (id0"),
            ({"dev_trials": 2}, "the utterances are the same, but their trials changed"),
            ({"dev_speakers": 0}, "8 held out or no longer"),
        ]
    ):
        root = tree(tmp_path / str(number))
        prepare(root, dev_speakers=2)
        before, expected = contents(root / "save"), begun(root / "save")
        options = {"dev_speakers": 2, **option}
        with pytest.raises(ValueError) as error:
            prepare(root, expected=expected, **options)
        assert what in str(error.value) and "veri_dev.txt)" in str(error.value)
        assert contents(root / "save") == before


def test_a_run_that_has_begun_refuses_what_another_one_prepared(tmp_path):
    """Reused or made anew: the files of before are not there to compare with."""
    prepare(tree(tmp_path), dev_speakers=2)
    expected = begun(tmp_path / "save")
    add(tmp_path)
    prepare(tmp_path, dev_speakers=2)
    before = contents(tmp_path / "save")
    for change in (lambda: None, lambda: touch(tmp_path)):
        change()
        with pytest.raises(ValueError, match=r"training and development changed since"):
            prepare(tmp_path, dev_speakers=2, expected=expected)
        assert contents(tmp_path / "save") == before


def test_a_run_that_has_begun_takes_the_same_files(tmp_path):
    """Reused, or made anew where times, files or the record are lost."""
    prepare(tree(tmp_path), dev_speakers=2)
    before, expected = contents(tmp_path / "save"), begun(tmp_path / "save")
    assert prepare(tmp_path, dev_speakers=2, expected=expected).reused
    for change in (touch, delete_train, delete_record, edit_trials):
        change(tmp_path)
        assert not prepare(tmp_path, dev_speakers=2, expected=expected).reused
        assert contents(tmp_path / "save") == before


# ------------------------------------------------------------------ errors


def test_too_few_speakers(tmp_path):
    tree(tmp_path, 3)
    with pytest.raises(ValueError, match="2 speakers must be left to train; give 0 .then"):
        prepare(tmp_path, dev_speakers=2)
    assert not (tmp_path / "save").exists()


def test_all_that_a_small_corpus_cannot_meet_is_told_at_once(tmp_path):
    tree(tmp_path, 5)
    message = (
        "data_folder: too few data. dev_speakers=9: of the 5 speakers .* give 3 or fewer. "
        "batch_size: a batch of all processes takes 9 utterances, and 8 are left to train "
        "with dev_speakers=3; make it smaller. No file was left out."
    )
    with pytest.raises(ValueError, match=message):
        prepare(tmp_path, dev_speakers=9, least_utterances=9)
    message = "few data. batch_size: .* 8 are left to train, with dev_speakers=3 of 5 .*; m"
    with pytest.raises(ValueError, match=message):
        prepare(tmp_path, dev_speakers=3, least_utterances=9)
    with pytest.raises(ValueError, match=r"few data. dev_speakers=4: .*fewer. No file"):
        prepare(tmp_path, dev_speakers=4, least_utterances=8)
    assert not (tmp_path / "save").exists()
    assert prepare(tmp_path, dev_speakers=3, least_utterances=8).utterances == 8


def test_most_files_left_out_are_the_cause(tmp_path):
    tree(tmp_path, 3, sessions=1)
    for number in range(6):
        put(tmp_path, f"id00/s0/x{number}.wav", rate=8000)
    message = (
        r"^data_folder: 6 of 12 files are left out: 6 at another sampling rate; for "
        r"example .*x0.wav \(8000 Hz\). dev_speakers=2: of the 3 .*trials\).$"
    )
    with pytest.raises(ValueError, match=message):
        prepare(tmp_path, dev_speakers=2)


def test_too_few_speakers_says_why_files_are_left_out(tmp_path):
    tree(tmp_path, 1)
    for number in range(5, 8):
        put(tmp_path, f"id0{number}/s0/0.wav", rate=8000)
    message = (
        "data_folder: too few data. Speakers left: 1, at least 2 are needed. "
        "3 of 7 files are left out: 3 at another sampling rate; for example .*8000 Hz"
    )
    with pytest.raises(ValueError, match=message):
        prepare(tmp_path)


def test_no_wav_folder(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=f"data_folder={tmp_path}: no audio file at <speaker>/"
    ):
        prepare(tmp_path)
    tree(tmp_path / "dev")
    with pytest.raises(FileNotFoundError, match=f"did you mean data_folder={tmp_path}/dev"):
        prepare(tmp_path)
    with pytest.raises(ValueError, match=f"folder above it, {tmp_path}/dev. If it"):
        prepare(tmp_path / "dev/wav/id00")
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}/gone: no such file or fo"):
        prepare(tmp_path / "gone")


def test_second_root_is_checked_too(tmp_path):
    (tmp_path / "two").mkdir()
    with pytest.raises(FileNotFoundError, match=f"data_folder={tmp_path}/two: no audio"):
        prepare([tree(tmp_path / "one"), tmp_path / "two"])
    (tmp_path / "two/wav").mkdir()
    with pytest.raises(FileNotFoundError, match=f"={tmp_path}/two: no audio file at"):
        prepare([tmp_path / "one", tmp_path / "two"])


def test_voxceleb2_as_downloaded(tmp_path):
    m4a = tmp_path / "dev/aac/id00/s0/0.m4a"
    m4a.parent.mkdir(parents=True)
    m4a.write_bytes(b"x")
    script = Path(voxceleb_prepare.__file__).with_name("convert_m4a.py")
    assert script.is_file()
    command = f"convert m4a files with python {script} {tmp_path}"
    message = f"dev/aac is VoxCeleb2 as downloaded: {command}/dev/aac TARGET"
    with pytest.raises(FileNotFoundError, match=message):
        prepare(tmp_path)
    (tmp_path / "dev/aac").rename(tmp_path / "wav")
    (tmp_path / "wav/id00/s0/1.mp3").write_bytes(b"x")
    message = f"{tmp_path}/wav holds 1 m4a, 1 mp3 files, but no wav or flac; {command}/wav"
    with pytest.raises(FileNotFoundError, match=message):
        prepare(tmp_path)
    m4a = tmp_path / "wav/id00/s0/0.m4a"
    m4a.rename(m4a.with_suffix(".opus"))
    with pytest.raises(
        FileNotFoundError, match="1 mp3, 1 opus files, .*; convert them: ff"
    ):
        prepare(tmp_path)


def test_m4a_files_beside_others_name_the_script(tmp_path, caplog):
    (tree(tmp_path) / "wav/id00/s0/x.m4a").write_bytes(b"x")
    with caplog.at_level(logging.INFO):
        prepare(tmp_path)
    assert "1 neither wav nor flac: left out (for m4a: convert_m4a.py)" in caplog.text


def test_one_root_twice(tmp_path):
    tree(tmp_path / "one")
    (tmp_path / "link").symlink_to(tmp_path / "one")
    with pytest.raises(ValueError, match="names one source twice: .*one and .*link"):
        prepare([tmp_path / "one", tmp_path / "link"])


def test_root_that_speechbrain_cannot_carry(tmp_path):
    with pytest.raises(ValueError, match=r"a\$b' holds '\$'"):
        prepare(tree(tmp_path / "a$b"))


def test_malformed_trial_list(tmp_path):
    for number, (text, message) in enumerate(
        [
            ("1 id00/a/0.wav id00/b/0.wav\n1 id00/a/0.wav\n", "list.txt:2: "),
            ("2 id00/a/0.wav id00/b/0.wav\n", "list.txt:1: .*label"),
            ("0 id00/a/0.wav 0.wav\n", "list.txt:1: no speaker in '0.wav'"),
            (
                "0 wav/id00/a/0.wav wav/id01/a/0.wav\n",
                "list.txt has paths that begin with wav/",
            ),
            (
                "1 test/id01/0.wav test/id01/1.wav\n0 dev/id01/0.wav test/id02/0.wav\n",
                "list.txt has paths that begin with dev, test, which are parts",
            ),
        ]
    ):
        root = tmp_path / str(number)
        trial_list = tree(root) / "list.txt"
        trial_list.write_text(text)
        with pytest.raises(ValueError, match=message):
            prepare(root, verification_file=trial_list)


def test_missing_trial_list(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"verification_file {tmp_path}/gone.txt"):
        prepare(tree(tmp_path), verification_file=[tmp_path / "gone.txt"])


def test_wrong_option(tmp_path):
    for number, (option, message) in enumerate(
        [
            ({"dev_speakers": -1}, "dev_speakers=-1: must be a whole number, at least 0"),
            ({"dev_speakers": 1}, "dev_speakers=1: impostor trials need two"),
            ({"dev_speakers": True}, "dev_speakers=True"),
            ({"dev_trials": 0}, "dev_trials=0"),
            ({"dev_trials": 2.5}, "dev_trials=2.5"),
            ({"min_duration": -1}, "min_duration=-1"),
            ({"min_duration": float("nan")}, "min_duration=nan"),
            ({"min_duration": "1 s"}, "min_duration='1 s'"),
            ({"sample_rate": 0}, "sample_rate=0"),
            ({"seed": None}, "seed=None"),
            ({"merge_speakers": "yes"}, "merge_speakers='yes': must be True or"),
            ({"merge_speakers": True, "prefix_speakers": True}, "give one of the two"),
            ({"num_workers": 0}, "num_workers=0"),
        ]
    ):
        root = tmp_path / str(number)
        with pytest.raises(ValueError, match=message):
            prepare(tree(root), **option)


def test_no_root(tmp_path):
    with pytest.raises(ValueError, match="data_folder is empty"):
        prepare_voxceleb([], tmp_path)
