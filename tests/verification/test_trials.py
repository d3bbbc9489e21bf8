"""Trial lists: read, refused with file and line, and their audio found."""

import shutil
from itertools import product

import numpy as np
import pytest

from hamsb.verification.lookup import find_utterances, listed_speakers, read_lists
from hamsb.verification.trials import read_trials
from runs import FOUR_TRIALS, UTTERANCES


@pytest.fixture
def corpus(tmp_path):
    """The list's utterances; what is in the files does not matter here."""
    for utterance in UTTERANCES:
        path = tmp_path / "corpus" / "wav" / utterance
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(utterance)
    return tmp_path / "corpus"


# Reading lists


def test_read_trials(four_trials, tmp_path):
    assert (
        four_trials.labels.tolist() == [1, 0, 1, 0] and four_trials.labels.dtype == np.int64
    )
    assert four_trials.enrol == ("id1/x/1.wav", "id1/x/1.wav", "id2/x/1.wav", "id2/x/2.wav")
    assert four_trials.test == ("id1/y/1.wav", "id2/x/1.wav", "id2/x/2.wav", "id1/y/1.wav")
    assert (
        four_trials.path == tmp_path / "vox1_O.txt"
        and four_trials.name == "vox1_O"
        and len(four_trials) == 4
    )
    assert four_trials.utterances == UTTERANCES
    assert four_trials.speakers == ("id1", "id2")


def test_read_trials_of_other_writers(tmp_path, four_trials):
    for text in [
        FOUR_TRIALS.replace(" ", "\t"),
        FOUR_TRIALS.replace(" ", "   "),
        FOUR_TRIALS.replace("\n", "\r\n"),
        FOUR_TRIALS[:-1],
    ]:
        (tmp_path / "other.txt").write_bytes(text.encode())
        other = read_trials(str(tmp_path / "other.txt"))
        assert (other.enrol, other.test, other.labels.tolist()) == (
            four_trials.enrol,
            four_trials.test,
            four_trials.labels.tolist(),
        )


def test_repeated_trials_and_one_class_are_kept(tmp_path):
    (tmp_path / "list.txt").write_text("1 id1/a id1/b\n" * 3)
    assert read_trials(tmp_path / "list.txt").labels.tolist() == [1, 1, 1]


def test_read_trials_names_file_and_line(tmp_path):
    for (line, message), number in product(
        [
            (
                "1 id1/a.wav",
                r"expected the 3 fields 'label enrol test', got 2, found '1 id1/a.wav'",
            ),
            (
                "1 id1/a.wav id1/b.wav 0.5",
                "expected the 3 fields 'label enrol test', got 4",
            ),
            (
                "2 id1/a.wav id1/b.wav",
                "label must be 0 or 1, .* not '2', found '2 id1/a.wav id1/b.wav'",
            ),
            ("1.0 id1/a.wav id1/b.wav", "label must be 0 or 1, .* not '1.0'"),
            ("", "empty line"),
            ("  \t", "empty line"),
            ("1 id1/a.wav id1/a.wav", "compared with itself"),
        ],
        [1, 3, 5],
    ):
        lines = FOUR_TRIALS.splitlines()
        lines.insert(number - 1, line)
        path = tmp_path / "list.txt"
        path.write_text("\n".join(lines) + "\n")
        with pytest.raises(ValueError, match=rf"{path}:{number}: .*{message}"):
            read_trials(path)


def test_read_trials_refuses_empty_missing_and_binary(tmp_path):
    (tmp_path / "empty.txt").touch()
    with pytest.raises(ValueError, match=r"empty.txt: empty file"):
        read_trials(tmp_path / "empty.txt")
    for missing in (tmp_path / "nowhere.txt", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"{missing}: no such trial list"):
            read_trials(missing)
    (tmp_path / "audio.wav").write_bytes(b"RIFF\xff\xfe\n")
    with pytest.raises(ValueError, match="audio.wav: not a text file"):
        read_trials(tmp_path / "audio.wav")


def test_speakers_need_a_folder(tmp_path):
    for utterance in ["a.wav", "/id1/a.wav", "./id1/a.wav", "../id1/a.wav"]:
        (tmp_path / "list.txt").write_text(
            f"1 id1/a.wav id1/b.wav\n0 id1/a.wav {utterance}\n"
        )
        trials = read_trials(tmp_path / "list.txt")
        with pytest.raises(ValueError, match=rf"list.txt:2: no speaker in '{utterance}'"):
            _ = trials.speakers


# Finding files


def test_find_utterances(four_trials, corpus):
    expected = {utterance: corpus / "wav" / utterance for utterance in UTTERANCES}
    assert find_utterances(four_trials, [corpus]) == expected
    assert find_utterances(four_trials, str(corpus)) == expected
    assert list(find_utterances(four_trials, [corpus])) == list(UTTERANCES)


def test_find_utterances_in_several_roots(four_trials, corpus, tmp_path):
    (tmp_path / "more" / "wav").mkdir(parents=True)
    shutil.move(corpus / "wav" / "id2", tmp_path / "more" / "wav" / "id2")
    found = find_utterances(four_trials, [corpus, tmp_path / "more"])
    assert found["id1/x/1.wav"] == corpus / "wav" / "id1/x/1.wav"
    assert found["id2/x/1.wav"] == tmp_path / "more" / "wav" / "id2/x/1.wav"


def test_missing_utterances(four_trials, corpus, tmp_path):
    shutil.rmtree(corpus / "wav" / "id2")
    (corpus / "wav" / "id1/x/1.wav").rename(
        corpus / "id1_x_1.wav"
    )  # beside wav is not below it
    with pytest.raises(FileNotFoundError) as error:
        find_utterances(four_trials, [corpus, tmp_path])
    assert f"{four_trials.path}:1: no file for id1/x/1.wav; 3 of 4 utterances" in str(
        error.value
    )
    assert f"searched roots: {corpus}/wav, {tmp_path}" in str(error.value)
    with pytest.raises(FileNotFoundError, match="nowhere: no such file or folder; data"):
        find_utterances(four_trials, [corpus, tmp_path / "nowhere"])


def test_missing_utterance_names_its_first_line(four_trials, corpus):
    (corpus / "wav" / "id2/x/2.wav").unlink()
    with pytest.raises(
        FileNotFoundError, match="vox1_O.txt:3: no file for id2/x/2.wav; 1 of 4"
    ):
        find_utterances(four_trials, [corpus])


def test_an_utterance_in_two_roots(four_trials, corpus, tmp_path):
    other = tmp_path / "other" / "wav" / "id2" / "x"
    other.mkdir(parents=True)
    (other / "1.wav").symlink_to(
        corpus / "wav" / "id2/x/1.wav"
    )  # the same file twice is no doubt
    assert (
        find_utterances(four_trials, [corpus, tmp_path / "other"])["id2/x/1.wav"]
        == corpus / "wav" / "id2/x/1.wav"
    )
    (other / "2.wav").touch()
    with pytest.raises(
        ValueError,
        match=rf"vox1_O.txt:3: id2/x/2.wav is in two roots, .* and {other}/2.wav",
    ):
        find_utterances(four_trials, [corpus, tmp_path / "other"])


def test_no_roots(four_trials):
    with pytest.raises(ValueError, match="no roots"):
        find_utterances(four_trials, [])


# Several lists


def test_lists_are_read_together(four_trials, corpus, tmp_path):
    lines = FOUR_TRIALS.splitlines(keepends=True)
    (tmp_path / "short.txt").write_text("".join(lines[2:]))
    lists, files = read_lists([four_trials.path, tmp_path / "short.txt"], corpus)
    assert [one.name for one in lists] == ["vox1_O", "short"] and len(lists[1]) == 2
    assert files == {name: corpus / "wav" / name for name in UTTERANCES}
    for one_list in (four_trials.path, str(four_trials.path)):
        (alone,), _ = read_lists(one_list, [str(corpus)])
        assert alone.enrol == four_trials.enrol
    (tmp_path / "targets.txt").write_text(lines[0] + lines[2])
    with pytest.raises(ValueError, match="targets.txt: all 2 trials have the label 1; an"):
        read_lists([tmp_path / "targets.txt"], corpus)
    again = tmp_path / "again" / "vox1_O.txt"
    again.parent.mkdir()
    again.write_text(FOUR_TRIALS)
    with pytest.raises(ValueError, match="two lists are named 'vox1_O'"):
        read_lists([four_trials.path, again], corpus)


def test_no_list_where_the_caller_can_do_without():
    for none in (None, [], "", ()):
        assert read_lists(none, "anywhere", none_allowed=True) == ([], {})
        with pytest.raises(ValueError, match="verification_file=.*: at least one trial"):
            read_lists(none, "anywhere")
    for wrong in (5, [None], [[]], {"a": 1}, [""], ["a.txt", 3]):
        with pytest.raises(ValueError, match="verification_file=.*must be a trial list's"):
            read_lists(wrong, "anywhere", none_allowed=True)


def test_a_mark_at_the_beginning_is_no_label(four_trials, tmp_path):
    """Some editors write a byte order mark."""
    path = tmp_path / "marked.txt"
    path.write_text(FOUR_TRIALS, encoding="utf-8-sig")
    assert read_trials(path).labels.tolist() == four_trials.labels.tolist()


def test_names_that_no_file_can_have(tmp_path):
    path = tmp_path / "odd.txt"
    for name in ("x" * 5000, "a\0b"):
        path.write_text(f"1 a/1.wav {name}\n")
        with pytest.raises(FileNotFoundError, match="odd.txt:1: no file for"):
            find_utterances(read_trials(path), [tmp_path])
    with pytest.raises(FileNotFoundError, match="no such trial list"):
        read_trials(tmp_path / ("x" * 5000))


# Other forms, names and layouts


def kaldi(folder, rows):
    """A Kaldi directory of (utterance, file, speaker)."""
    folder.mkdir()
    (folder / "wav.scp").write_text("".join(f"{name} {file}\n" for name, file, _ in rows))
    (folder / "utt2spk").write_text("".join(f"{name} {who}\n" for name, _, who in rows))
    return folder


def test_an_utterance_may_be_called_as_a_label(tmp_path):
    for text, labels, enrol in (
        ("1 utt7 target\n1 utt9 nontarget\n", [1, 0], ("1", "1")),
        ("target 0 1\nnontarget 0 2\n", [1, 0], ("0", "0")),
        ("1 0 2\n0 0 1\n", [1, 0], ("0", "0")),
        ("0 7 1\n1 7 8\n", [0, 1], ("7", "7")),
    ):
        (tmp_path / "list").write_text(text)
        trials = read_trials(tmp_path / "list")
        assert (trials.labels.tolist(), trials.enrol) == (labels, enrol)


def test_lists_of_each_form_are_one(four_trials, tmp_path):
    rows = [line.split() for line in FOUR_TRIALS.splitlines()]
    words = {"0": "nontarget", "1": "target"}
    for number, text in enumerate(
        [
            "".join(f"{a} {b} {words[label]}\n" for label, a, b in rows),
            "".join(f"{a}\t{b}\t{label}\n" for label, a, b in rows),
            "test,label, enrol\n" + "".join(f"{b},{label},{a}\n" for label, a, b in rows),
            '"enrol","test","label"\n' + "".join(f'"{a}","{b}",{x}\n' for x, a, b in rows),
            "enrol\tlabel\ttest\n" + "".join(f"{a}\t{words[x]}\t{b}\n" for x, a, b in rows),
        ]
    ):
        (tmp_path / "list").write_text(text)
        trials = read_trials(tmp_path / "list")
        assert trials.labels.tolist() == four_trials.labels.tolist()
        assert (trials.enrol, trials.test) == (four_trials.enrol, four_trials.test)
        line = 3 + (number > 1)
        assert trials.first_line({"id2/x/2.wav"}) == (line, "id2/x/2.wav")
    for text, message in [
        ("a b target\n1 a b\n", "list:2: label must be 0 or 1, .* not 'b'"),
        ("a b target\na b\n", "list:2: expected the 3 fields 'enrol test label', got 2"),
        ("a a target\n", "list:1: an utterance is compared with itself"),
        ("enrol,test,label\na,b,1\na,b,yes\n", "list:3: label must be .*, found yes,a,b"),
        ("enrol,test,label\na,,1\n", "list:2: expected the 3 fields"),
    ]:
        (tmp_path / "list").write_text(text)
        with pytest.raises(ValueError, match=message):
            read_trials(tmp_path / "list")


def test_the_data_tell_the_speakers(tmp_path):
    rows = [(f"u{i}", tmp_path / f"{i}.wav", f"id{i % 2}") for i in range(4)]
    data = kaldi(tmp_path / "k", rows)
    path = tmp_path / "trials"
    path.write_text("u0 u2.wav target\nu1 u2 nontarget\n")
    (trials,), files = read_lists(path, data)
    assert trials.speakers == ("id0", "id1") and trials.session_of("u0") == ""
    assert files["u2.wav"] == files["u2"] == tmp_path / "2.wav"
    assert listed_speakers(path, data) == {"id0", "id1"}
    with pytest.raises(ValueError, match="trials:1: no speaker in 'u0'.* in the test data"):
        _ = read_trials(path).speakers
    csv = tmp_path / "x.csv"
    csv.write_text("ID,wav,spk_id,session\nu0,0.wav,a,s\nu2,2.wav,a,s\nu1,1.wav,b,s\n")
    (trials,), _ = read_lists(path, csv)
    assert [trials.session_of(name) for name in ("u0", "u1")] == ["a/s", "b/s"]


def test_data_that_tell_no_speakers(tmp_path):
    """The names tell, where they begin with a folder, as of folders."""
    data = tmp_path / "x.csv"
    data.write_text(
        "ID,wav,session\nu1,1.wav,s\nu2,2.wav,s\nid1/a,3.wav,s\nid2/a,4.wav,s\n"
    )
    path = tmp_path / "trials.txt"
    path.write_text("1 m id1/a\n0 m id2/a\n")
    (tmp_path / "enroll.map").write_text("m u1 u2\n")
    (trials,), files = read_lists(path, data)
    assert trials.told == {} and [file.name for file in files["m"]] == ["1.wav", "2.wav"]
    with pytest.raises(ValueError, match="trials.txt:1: no speaker in 'm'"):
        _ = trials.speakers
    with pytest.raises(ValueError, match="trials.txt:1: no speaker in 'm'"):
        listed_speakers(path, data)
    (tmp_path / "enroll.map").write_text("m id1/b id1/c\n")
    assert listed_speakers(path, data) == {"id1", "id2"}


def test_labels_that_contradict_the_speakers(tmp_path, corpus, caplog):
    """An error where the data tell the speakers; folders may be something else."""
    rows = [(f"u{i}", tmp_path / f"{i}.wav", f"id{i % 2}") for i in range(4)]
    data = kaldi(tmp_path / "k", rows)
    path = tmp_path / "trials"
    message = (
        "trials:2: the label says the same speaker, but u1 is of id1 and u2 of id0; "
        "1 of 3 trials are so; correct the list, or"
    )
    path.write_text("u0 u1 nontarget\nu1 u2 target\nu1 u3 target\n")
    with pytest.raises(ValueError, match=message):
        read_lists(path, data)
    path.write_text("u0 u1 target\nu1 u3 nontarget\n")
    with pytest.raises(ValueError, match="trials:1: .* 2 of 2 .*Are the labels swapped?"):
        read_lists(path, data)
    path.write_text(FOUR_TRIALS.replace("1 id1/x/1.wav", "0 id1/x/1.wav"))
    read_lists(path, corpus)
    assert "trials:1: the label says different speakers, but id1/x/1" in caplog.text
    path.write_text("u0 u0.wav target\nu0 u1 nontarget\n")
    with pytest.raises(
        ValueError, match="trials:1: u0 and u0.wav are one recording, .*0.w"
    ):
        read_lists(path, data)


def test_models_of_several_utterances(tmp_path):
    rows = [(f"u{i}", tmp_path / f"{i}.wav", f"id{i % 2}") for i in range(5)]
    data = kaldi(tmp_path / "k", rows)
    path = tmp_path / "trials"
    path.write_text("m u4 1\nm u1 0\nu0 u2 1\n")
    names = tmp_path / "enroll.map"
    names.write_text("m u0 u2\nother u9\n")
    (trials,), files = read_lists(path, data)
    assert files["m"] == (tmp_path / "0.wav", tmp_path / "2.wav")
    assert trials.speaker_of("m") == "id0" and trials.speakers == ("id0", "id1")
    assert listed_speakers(path, data) == {"id0", "id1"}
    names.write_text("m u0 u7\n")
    message = "trials:1: no file for u7, an utterance of the model m; 1 of 5 utterances"
    with pytest.raises(FileNotFoundError, match=message):
        read_lists(path, data)
    names.write_text("m u0 u1\n")
    with pytest.raises(ValueError, match="the model m has utterances of id0 and id1"):
        read_lists(path, data)
    names.write_text("m u0 u4\n")
    with pytest.raises(ValueError, match="trials:1: u4 is a recording of the model m"):
        read_lists(path, data)


def test_cn_celeb_is_read_as_it_comes(tmp_path):
    files = ["id1/singing-01-001", "id1/live-01-001", "id2/play-01-001"]
    for name in files:
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / f"{name}.flac").write_text(name)
    for name in ("test/id1-drama-01-001.flac", "test/id2-drama-01-001.flac"):
        (tmp_path / "eval" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "eval" / name).write_text(name)
    lists = tmp_path / "eval" / "lists"
    lists.mkdir()
    (lists / "enroll.map").write_text("id1-enroll id1/singing-01-001.wav id1/live-01-001\n")
    (lists / "trials.lst").write_text(
        "id1-enroll test/id1-drama-01-001.wav 1\nid1-enroll test/id2-drama-01-001.wav 0\n"
    )
    (trials,), found = read_lists(lists / "trials.lst", tmp_path)
    assert trials.speakers == ("id1", "id2")
    assert trials.session_of("test/id2-drama-01-001.wav") == "id2/drama"
    assert [path.name for path in found["id1-enroll"]] == [
        "singing-01-001.flac",
        "live-01-001.flac",
    ]
    assert listed_speakers(lists / "trials.lst", tmp_path) == {"id1", "id2"}


def test_a_name_that_means_several(tmp_path, corpus):
    copy = corpus / "wav" / "id1/x/1.flac"
    copy.write_text("other")
    path = tmp_path / "list.txt"
    path.write_text("1 id1/x/1 id1/y/1\n0 id1/x/1 id2/x/1\n")
    message = "list.txt:1: id1/x/1 is two utterances, .*1.wav and .*1.flac; give the roots"
    with pytest.raises(ValueError, match=message):
        read_lists(path, corpus)
