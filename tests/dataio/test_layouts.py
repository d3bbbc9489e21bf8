"""What other layouts of audio files are taken to mean."""

import re

import pytest

from hamsb.dataio.layouts import explain_layout, names_part

NOT_AT = (
    "6 of 6 audio files are at neither <speaker>/<session>/<utterance> nor "
    "<speaker>/<utterance>, for example "
)


def test_names_of_parts():
    parts = "train Training dev devel test TEST val valid validation eval test-clean"
    assert all(map(names_part, [*parts.split(), "train-other-500", "dev_other"]))
    speakers = "id1 testa test1 dev-3 Devi train_0007 a-test evaluation1 mr-train wav"
    assert not any(map(names_part, speakers.split()))


@pytest.mark.parametrize(
    "place, example, meaning",
    [
        ("wav/{s}-{n}.wav", "wav/s0-0.wav", r"speaker a folder \(SPEAKER/s0-0\.wav\)$"),
        ("{s}-{n}.wav", "s0-0.wav", "give each speaker a folder"),
        ("train/{s}-{n}.wav", "train/s0-0.wav", "train is .*give each speaker a folder in"),
        ("wav/train/{s}/{n}.wav", "wav/train/s0/0.wav", r"part .*={root}/wav/train\?$"),
        ("train/{s}/{n}.wav", "train/s0/0.wav", r"train is .* data_folder={root}/train\?$"),
        ("wav/dev/{s}/{n}/a.wav", "wav/dev/s0/0/a.wav", r"mean .*={root}/wav/dev\?$"),
        ("wav/p{s}/x/{n}/a.wav", "wav/ps0/x/0/a.wav", "folders between; move the files up"),
        ("x/y/{s}/{n}/a.WAV", "x/y/s0/0/a.WAV", r"did you mean .*={root}/x/y\?$"),
        (
            "x/wav/{s}/{n}/a.wav",
            "x/wav/s0/0/a.wav",
            r"mean data_folder={root}/x\?$",
        ),
        ("x/wav/{s}/{n}.wav", "x/wav/s0/0.wav", r"mean data_folder={root}/x\?$"),
        ("wav/wav/{s}/{n}/a.wav", "wav/wav/s0/0/a.wav", r"data_folder={root}/wav\?$"),
        ("Wav/{s}/{n}/a.wav", "Wav/s0/0/a.wav", r"did you mean data_folder={root}/Wav\?$"),
    ],
)
def test_meanings(tmp_path, place, example, meaning):
    for speaker in range(3):
        for number in range(2):
            path = tmp_path / place.format(s=f"s{speaker}", n=number)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            (path.parent / "notes.txt").touch()
            (path.parent / ".hidden.wav").touch()
    text = explain_layout(tmp_path, [".wav", ".flac"])
    assert text.startswith(f"{NOT_AT}{example}: ")
    pattern = meaning.replace("{root}", str(tmp_path))
    assert re.search(pattern, text), text


def test_several_folders_fit(tmp_path):
    for part in ("dev", "test"):
        for name in ("wav/a/b/c.wav", "wav/a/b/d.wav"):
            path = tmp_path / part / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    text = explain_layout(tmp_path, [".wav"])
    assert text.endswith(f"did you mean data_folder=[{tmp_path}/dev, {tmp_path}/test]?")


def test_no_audio_files(tmp_path):
    text = "no audio file at <speaker>/<session>/<utterance> or <speaker>/<utterance>"
    assert explain_layout(tmp_path, [".wav"]) == text
    for name in ("a.pcm", "b.PCM", "README"):
        (tmp_path / name).touch()
    found = "; it holds files of 2 .pcm, 1 no extension"
    assert explain_layout(tmp_path, [".wav"]) == text + found


def test_links_back_up_end(tmp_path):
    (tmp_path / "wav/a").mkdir(parents=True)
    (tmp_path / "wav/a/1.wav").touch()
    for name in ("x", "y"):
        (tmp_path / "wav/a" / name).symlink_to(tmp_path, target_is_directory=True)
    assert "audio files are at neither" in explain_layout(tmp_path, [".wav"])
