"""Whole files and crops: what is read, and how a fault is named."""

import numpy as np
import pytest
import soundfile
import torch

from hamsb.dataio.audio import crop_at, random_crop, read_crop


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_crops_lie_in_the_file_and_short_files_wrap(tmp_path, suffix):
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
