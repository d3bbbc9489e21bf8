"""Simulated rooms, noises and channels, and the folder of them."""

import numpy as np
import pytest

from hamsb.augment import simulation


def test_room_response():
    for rt60, drr in ((0.1, 12.0), (0.3, 5.0), (0.6, 0.0)):
        room = simulation.room_response(np.random.default_rng(0), rt60, drr)
        assert room[0] == 1.0 and not room[1:48].any()
        assert -10 * np.log10(np.sum(room[1:] ** 2)) == pytest.approx(drr)
        # Schroeder's backward integral falls by 60 dB in rt60 seconds.
        left = 10 * np.log10(np.cumsum(room[:0:-1] ** 2)[::-1])
        start, stop = int(0.1 * left.size), int(0.6 * left.size)
        slope = (left[stop] - left[start]) / ((stop - start) / 16000)
        assert slope == pytest.approx(-60 / rt60, rel=0.15)


def test_noise_colors():
    size = 16000 * 4
    power = {}
    for kind in simulation.NOISES:
        noise = simulation.draw_noise(np.random.default_rng(0), kind, size)
        assert noise.shape == (size,)
        assert np.mean(noise**2) == pytest.approx(1.0)
        power[kind] = np.abs(np.fft.rfft(noise)) ** 2
    hertz = np.fft.rfftfreq(size, 1 / 16000)

    def band(kind, center):
        near = (hertz > center / 1.1) & (hertz < center * 1.1)
        return power[kind][near].mean()

    for kind, octave_db in (("white", 0), ("pink", -3), ("brown", -6)):
        fall = 10 * np.log10(band(kind, 4000) / band(kind, 1000)) / 2
        assert fall == pytest.approx(octave_db, abs=0.4)
    mains = np.argmax(power["hum"]) / 4
    assert mains == pytest.approx(50, abs=0.3)


def test_channel_and_recording():
    session = simulation.draw_session(np.random.default_rng(1))
    gain = simulation.channel_gain(session, np.array([1000.0, 2000.0]))
    plain = simulation.Session(
        **{
            **vars(session),
            "channel_db": tuple(6.0 for _ in session.channel_db),
            "snr_db": 10.0,
            "noise": "white",
            "low_cut_hz": 1.0,
            "high_cut_hz": 1e6,
            "level_dbfs": -20.0,
        }
    )
    flat = simulation.channel_gain(plain, np.array([100.0, 1000.0, 7000.0]))
    np.testing.assert_allclose(20 * np.log10(flat), 6.0, atol=1e-3)
    assert not np.allclose(gain[0], gain[1])
    cut = simulation.Session(**{**vars(plain), "high_cut_hz": 2000.0})
    steep = simulation.channel_gain(cut, np.array([2000.0, 4000.0, 8000.0]))
    fall = 20 * np.log10(steep)
    assert fall[0] - 6.0 == pytest.approx(-3.0, abs=0.1)
    assert fall[1] - fall[2] == pytest.approx(24.0, abs=0.1)

    time = np.arange(32000) / 16000
    speech = 0.1 * np.sin(2 * np.pi * 440 * time)
    rng = np.random.default_rng(0)
    wave = simulation.record(speech, plain, np.array([1.0]), rng)
    assert 0.1 <= (wave.size - speech.size) / 16000 <= 0.4
    assert 10 * np.log10(np.mean(wave**2)) == pytest.approx(-20.0, abs=1e-6)
    middle = wave[3200 : 3200 + 16000]  # wholly inside the tone
    power = np.abs(np.fft.rfft(middle)) ** 2
    tone = power[439:442].sum()
    snr = 10 * np.log10(tone / (power.sum() - tone))
    assert snr == pytest.approx(10.0, abs=0.5)

    loud = simulation.Session(**{**vars(plain), "level_dbfs": 6.0})
    wave = simulation.record(speech, loud, np.array([1.0]), rng)
    assert np.abs(wave).max() == pytest.approx(0.95)


def test_one_folder_of_distortions_serves_many_runs(tmp_path, monkeypatch):
    folder = simulation.make_distortions(tmp_path / "d", noises=1, responses=2)
    names = sorted(str(p.relative_to(folder)) for p in folder.rglob("*.wav"))
    assert names == [
        *(f"noise/{kind}/00000.wav" for kind in ("brown", "hum", "pink", "white")),
        "rir/00000.wav",
        "rir/00001.wav",
    ]
    before = {name: (folder / name).read_bytes() for name in names}
    (folder / "mark").touch()
    simulation.make_distortions(folder, noises=1, responses=2)
    assert (folder / "mark").exists()  # nothing was made anew
    simulation.make_distortions(folder, noises=2, responses=2)
    assert not (folder / "mark").exists() and (folder / "noise/hum/00001.wav").exists()
    assert before == {name: (folder / name).read_bytes() for name in names}
    (folder / simulation.MARKER).write_text("{")  # damaged
    simulation.make_distortions(folder, noises=1, responses=2)
    assert before == {name: (folder / name).read_bytes() for name in names}
    simulation.make_distortions(folder, seed=1, noises=1, responses=2)
    assert all(before[name] != (folder / name).read_bytes() for name in names)
    assert len({(folder / name).read_bytes() for name in names}) == len(names)
    race, write = tmp_path / "race", simulation._write

    def outrun(path, samples):
        monkeypatch.setattr(simulation, "_write", write)
        (simulation.make_distortions(race, noises=1, responses=1) / "mark").touch()
        write(path, samples)

    monkeypatch.setattr(simulation, "_write", outrun)
    simulation.make_distortions(race, noises=1, responses=1)
    assert (race / "mark").exists() and len(list(tmp_path.iterdir())) == 2
    with pytest.raises(ValueError, match="responses=0"):
        simulation.make_distortions(folder, responses=0)
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match="other exists and holds no"):
        simulation.make_distortions(tmp_path / "other")
