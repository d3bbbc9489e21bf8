"""Whole files and crops: what is read, and how a fault is named."""

import numpy as np
import pytest
import soundfile
import torch
from speechbrain.dataio.preprocess import AudioNormalizer

from cases import looped
from hamsb.dataio.audio import (
    check_audio,
    check_files,
    crop_at,
    load_audio,
    random_crop,
    read_crop,
    stream_audio,
)


def test_crops_lie_in_the_file_and_short_files_wrap(tmp_path):
    for suffix in ["wav", "flac"]:
        ramp = (np.arange(1000) / 2000).astype(np.float32)
        path = str(tmp_path / f"ramp.{suffix}")
        soundfile.write(path, np.stack([ramp, ramp / 2], 1), 16000, subtype="PCM_16")
        mono = torch.from_numpy(0.75 * ramp)
        torch.manual_seed(0)
        starts = set()
        for _ in range(200):
            crop = random_crop(path, 0, 1000, 990)
            assert crop.shape == (990,)
            start = int(torch.argmin((mono - crop[0]).abs()))
            torch.testing.assert_close(crop, mono[start : start + 990], atol=1e-4, rtol=0)
            starts.add(start)
        assert starts == set(range(11))
        wrapped = random_crop(path, 100, 400, 700)
        expected = torch.cat([mono[100:400], mono[100:400], mono[100:200]])
        torch.testing.assert_close(wrapped, expected, atol=1e-4, rtol=0)


def test_a_short_file_is_repeated(tmp_path):
    path = tmp_path / "short.wav"
    soundfile.write(path, np.array([0.5, 0.25, -0.5]), 16000, subtype="FLOAT")
    crop = crop_at(path, 8, 0.99)
    assert crop.tolist() == [0.5, 0.25, -0.5, 0.5, 0.25, -0.5, 0.5, 0.25]
    assert crop.dtype == torch.float32


def test_a_file_without_samples_has_no_crop(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(0), 16000)
    with pytest.raises(ValueError, match="a.wav: no samples"):
        crop_at(path, 8, 0.5)


def test_a_file_that_became_shorter(tmp_path):
    path = str(tmp_path / "short.wav")
    soundfile.write(path, [0.1] * 1000, 16000)
    with pytest.raises(ValueError, match=r"short\.wav: ends 500 samples too early"):
        random_crop(path, 0, 1500, 1500)


def test_a_file_at_another_rate_is_refused(tmp_path):
    path = tmp_path / "slow.wav"
    soundfile.write(path, np.zeros(1000), 8000)
    assert read_crop(path, 0, 10, sample_rate=8000).shape == (10,)
    with pytest.raises(ValueError, match="slow.wav: at 8000 Hz, but the model takes 16000"):
        read_crop(path, 0, 10, sample_rate=16000)
    with pytest.raises(ValueError, match="gone.wav: cannot be read"):
        read_crop(tmp_path / "gone.wav", 0, 10)


def test_a_whole_file_becomes_mono_at_the_rate_of_the_model(tmp_path):
    ramp = np.arange(1000, dtype=np.float32) / 2000
    for channels in (1, 2):
        path = tmp_path / f"{channels}.wav"
        sound = np.stack([ramp, ramp / 2], 1)[:, :channels]
        soundfile.write(path, sound, 8000, subtype="FLOAT")
        wav = load_audio(str(path), AudioNormalizer(8000))
        torch.testing.assert_close(wav, torch.from_numpy(sound.mean(1)))
        assert load_audio(path, AudioNormalizer(16000)).shape == (2000,)


def test_what_is_no_audio_is_named(tmp_path):
    path, normalizer = tmp_path / "a.wav", AudioNormalizer(16000)
    for missing in (path, tmp_path):
        with pytest.raises(FileNotFoundError, match=f"^{missing}: no such audio file"):
            load_audio(missing, normalizer)
    path.write_text("no audio")
    with pytest.raises(ValueError, match=f"^{path}: cannot be read as audio"):
        load_audio(path, normalizer)
    with pytest.raises(ValueError, match=f"^{path}: cannot be read from sample 5"):
        read_crop(path, 5, 10)
    soundfile.write(path, np.zeros(0), 16000)
    with pytest.raises(ValueError, match=f"^{path}: no samples"):
        load_audio(path, normalizer)


def test_a_crop_is_what_was_asked_for(tmp_path):
    path = tmp_path / "stereo.flac"
    ramp = np.arange(100) / 200
    soundfile.write(path, np.stack([ramp, -ramp / 2], 1), 16000)
    mono = torch.from_numpy(ramp / 4).float()
    close = {"atol": 1e-4, "rtol": 0}
    torch.testing.assert_close(read_crop(path, 40, 30), mono[40:70], **close)
    repeated = torch.cat([mono[40:70], mono[40:70], mono[40:45]])
    torch.testing.assert_close(read_crop(path, 40, 30, length=65), repeated, **close)
    torch.testing.assert_close(read_crop(path, 40, 30, length=7), mono[40:47], **close)
    # From the first crop of the file to its last, each as wide a share of positions.
    for position, start in ((0.0, 0), (0.0999, 0), (0.1001, 1), (0.5, 5), (0.999, 9)):
        found = crop_at(path, 91, position)
        torch.testing.assert_close(found, mono[start : start + 91], **close)


# What a model cannot embed


def test_audio_without_a_voice_is_named(tmp_path):
    noise = np.random.default_rng(0).normal(0, 0.1, 8000)
    broken = noise.copy()
    broken[[5, 7]] = np.nan, np.inf
    for name, audio, message in [
        ("zeros", np.zeros(8000), "silent, no sample above -80 dBFS in 0.500 s; give"),
        ("dither", np.sign(noise) * 3e-5, "silent, no sample above -80 dBFS in 0.500 s"),
        ("offset", np.full(8000, -0.25), "silent, nothing but a constant of -0.25 in 0.5"),
        ("broken", broken, r"2 of the 8000 samples \(0.500 s\) are not finite numbers"),
        (
            "opposite",
            np.stack([noise, -noise], 1),
            "silent, no sample .* Its 2 channels were averaged",
        ),
        ("empty", np.zeros(0), "no samples"),
    ]:
        path = tmp_path / f"{name}.wav"
        soundfile.write(path, audio, 16000, subtype="FLOAT")
        with pytest.raises(ValueError, match=f"^{path}: {message}"):
            load_audio(path, AudioNormalizer(16000))
    with pytest.raises(ValueError, match="^row: no samples"):
        check_audio(torch.zeros(0), "row", 16000)
    click = torch.zeros(8000)
    for value in (2e-4, -2e-4):
        click[4000] = value
        check_audio(click, "partly silent", 16000)
    check_audio(torch.tensor([0.5]), "short, which the model tells", 16000)


def test_headers_tell_in_one_message_what_cannot_be_embedded(tmp_path):
    noise = np.random.default_rng(0).normal(0, 0.1, 8000)
    good = [tmp_path / "a.wav", tmp_path / "b.flac", tmp_path / "slow.wav"]
    for path in good:
        rate = 8000 if path.stem == "slow" else 16000
        soundfile.write(path, noise[: 640 * rate // 16000], rate)
    check_files([*good, *map(str, good)], 16000, 640)

    (tmp_path / "text.wav").write_text("no audio")
    (tmp_path / "folder.wav").mkdir()
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16000)
    soundfile.write(tmp_path / "short.wav", noise[:639], 16000)
    names = ("gone", "text", "empty", "short", "folder")
    bad = [tmp_path / f"{name}.wav" for name in names]
    for number, reason in enumerate(
        [
            "no such audio file",
            "cannot be read as audio (",
            "no samples",
            "lasts 0.0399 s, and the model needs at least 0.0400 s",
            "no such audio file",
        ]
    ):
        with pytest.raises(ValueError) as told:
            check_files([good[0], bad[number]], 16000, 640)
        begin, line = str(told.value).split("\n")
        assert begin == (
            "1 of 2 audio files cannot be embedded; mend them, or remove their trials:"
        )
        assert line.startswith(f"  {bad[number]}: {reason}")
    with pytest.raises(ValueError, match="^5 of 8 audio files") as told:
        check_files([*good, *bad], 16000, 640)
    lines = str(told.value).split("\n")
    assert [line.split(":")[0].strip() for line in lines[1:4]] == list(map(str, bad[:3]))
    assert lines[4:] == ["  and 2 more"]


@looped(rate=[8000, 16000, 22050, 44100], seconds=[0.01, 0.3, 30.0], samples=[1, 99, 30001])
def test_parts_of_a_stream_are_the_whole_file(tmp_path, rate, seconds, samples):
    """Resampled without a seam."""
    path = tmp_path / "a.wav"
    noise = np.random.default_rng(samples).normal(0, 0.1, (samples, 2))
    soundfile.write(path, noise, rate, subtype="FLOAT")
    parts = [*stream_audio(path, AudioNormalizer(16000), seconds)]
    whole = load_audio(path, AudioNormalizer(16000))
    assert all(len(part) for part in parts)
    assert torch.cat(parts).shape == whole.shape
    assert torch.allclose(torch.cat(parts), whole, rtol=0, atol=1e-6)
    assert max(map(len, parts)) <= seconds * 16000 + 800


def test_what_cannot_be_streamed(tmp_path):
    audio = np.full(40000, 0.1)
    audio[24000] = np.inf
    soundfile.write(tmp_path / "broken.wav", audio, 16000, subtype="FLOAT")
    (tmp_path / "text.wav").write_text("no audio")
    noise = np.random.default_rng(0).normal(0, 0.1, 80000)
    soundfile.write(tmp_path / "whole.flac", noise, 16000)
    half = (tmp_path / "whole.flac").read_bytes()
    (tmp_path / "cut.wav").write_bytes(half[: len(half) // 2])  # is told by its contents
    for name, kind, why in (
        ("none", FileNotFoundError, "no such audio file"),
        ("text", ValueError, "cannot be read as audio; fetch"),
        ("broken", ValueError, "a sample at 1.500 s is not a finite number"),
        ("cut", ValueError, r"cannot be read as audio beyond \d+\.\d s; fetch"),
    ):
        with pytest.raises(kind, match=f"{name}.wav: {why}"):
            [*stream_audio(tmp_path / f"{name}.wav", AudioNormalizer(16000), 0.5)]
