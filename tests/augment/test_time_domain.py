"""Noise, reverberation and speed: levels, labels, random numbers."""

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from hyperpyyaml import load_hyperpyyaml
from speechbrain.augment import time_domain
from speechbrain.augment.augmenter import Augmenter

from hamsb.augment import time_domain as augment
from hamsb.augment.corpora import prepare_audio_csv
from hamsb.augment.time_domain import AddNoise, AddReverb, SpeedPerturb
from hamsb.dataio import audio

RATE = 16000
# A tone a kind, in Hz: a noise tells its kind by its frequency.
TONES = {"music": 500, "noise": 1000, "speech": 2000}
SNR = {"noise": [0, 15], "speech": [13, 20], "music": [5, 15]}


def write(path, samples, rate=RATE, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, **options)


def tone(frequency, seconds=1.0, rate=RATE):
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


@pytest.fixture
def musan(tmp_path):
    """Two files of each kind, of 1 and 1.5 s."""
    for kind, frequency in TONES.items():
        for name, seconds in (("a/1", 1.0), ("b/2", 1.5)):
            write(tmp_path / "musan" / kind / f"{name}.wav", tone(frequency, seconds))
    return tmp_path / "musan"


@pytest.fixture
def prepare(musan, tmp_path):
    """A function: list the noises; returns the csv file."""

    def prepare():
        return prepare_audio_csv(musan, tmp_path / "save" / "noise.csv", key="noises")

    return prepare


def batch(utterances=4, samples=8000, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(utterances, samples, generator=generator)


def power(waveforms):
    return waveforms.square().mean(-1)


# ------------------------------------------------------------------ noise


def test_from_yaml_with_speechbrains_classes_and_with_ours(musan, tmp_path):
    """Built before the csv files exist, as the upstream script does it."""
    write(tmp_path / "rirs" / "r.wav", np.array([0.0, 1.0, 0.5, 0.25]))
    hparams = load_hyperpyyaml(f"""
noise_annotation: {tmp_path}/save/noise.csv
rir_annotation: {tmp_path}/save/rir.csv
prepare_noise_data: !name:hamsb.augment.corpora.prepare_audio_csv
    folder: {musan}
    csv_file: !ref <noise_annotation>
    key: data_folder_noise
prepare_rir_data: !name:hamsb.augment.corpora.prepare_audio_csv
    folder: {tmp_path}/rirs
    csv_file: !ref <rir_annotation>
    key: data_folder_rir
theirs:
    - !new:speechbrain.augment.time_domain.AddReverb
        csv_file: !ref <rir_annotation>
    - !new:speechbrain.augment.time_domain.AddNoise
        csv_file: !ref <noise_annotation>
        snr_low: 20
        snr_high: 20
ours:
    - !new:hamsb.AddReverb
        csv_file: !ref <rir_annotation>
    - !new:hamsb.AddNoise
        csv_file: !ref <noise_annotation>
        snr: {{noise: [20, 20], speech: [20, 20], music: [20, 20]}}
""")
    hparams["prepare_noise_data"]()
    hparams["prepare_rir_data"]()
    for name in ("theirs", "ours"):
        chain = Augmenter(min_augmentations=2, augmentations=hparams[name])
        output, lengths = chain(batch(), torch.ones(4))
        assert output.shape == (4, 8000) and lengths.tolist() == [1] * 4
        assert not torch.allclose(output, batch(), atol=1e-3), name


def test_each_kind_has_its_range_of_snr(prepare):
    torch.manual_seed(0)
    wavs = batch(300, 3200)
    noise = AddNoise(prepare(), SNR)(wavs, torch.ones(300)) - wavs
    ratios = 10 * torch.log10(power(wavs) / power(noise))
    peaks = torch.fft.rfft(noise).abs().argmax(1) * RATE / 3200
    for kind, frequency in TONES.items():
        mine = ratios[peaks == frequency]
        low, high = SNR[kind]
        assert 70 < len(mine) < 130  # of 300, evenly
        assert low - 0.01 < mine.min() < low + 1 and high - 1 < mine.max() < high + 0.01


def test_the_power_is_that_of_the_speech_without_its_padding(prepare):
    wavs = batch(2)
    wavs[1, 2000:] = 0
    noise = AddNoise(prepare(), [10, 10])(wavs, torch.tensor([1, 0.25])) - wavs
    ratio = torch.stack([power(wavs[0]), power(wavs[1, :2000])]) / power(noise)
    torch.testing.assert_close(ratio, torch.full((2,), 10.0), rtol=1e-4, atol=0)


def test_noise_keeps_the_dtype_of_the_speech(prepare):
    lengths = torch.ones(4, dtype=torch.float64)
    assert AddNoise(prepare(), [5, 5])(batch(), lengths).dtype == torch.float32


def test_crops_come_from_the_whole_of_a_long_file(tmp_path, monkeypatch):
    ramp = np.arange(1, 30001) / 32768  # a sample tells its place
    write(tmp_path / "ramp" / "long.wav", ramp)
    read = []

    class Spy(soundfile.SoundFile):
        def read(self, frames=-1, **options):
            read.append(frames)
            return super().read(frames, **options)

    monkeypatch.setattr(audio.soundfile, "SoundFile", Spy)
    path = str(tmp_path / "ramp" / "long.wav")
    starts = [0, 29000]
    for position, start in zip((0.0, 1 - 2**-53), starts):
        crop = audio.crop_at(path, 1000, position)
        np.testing.assert_allclose(crop, ramp[start : start + 1000], atol=1e-6)
    assert read == [1000, 1000]

    made = prepare_audio_csv(tmp_path / "ramp", tmp_path / "n.csv", key="k")
    torch.manual_seed(0)
    wavs = batch(50, 1000)
    noise = AddNoise(made, [0, 0])(wavs, torch.ones(50)) - wavs
    slope = noise[:, -1] / noise[:, 0]  # the later, the closer to 1
    places = 1000 / (slope - 1)
    assert places.min() < 5000 and places.max() > 24000


def test_silence_stays_finite(tmp_path):
    for silent in ("speech", "noise"):
        write(tmp_path / silent / "n.wav", tone(100) * (silent != "noise"))
        wavs = batch() * (silent != "speech")
        made = prepare_audio_csv(tmp_path / silent, tmp_path / f"{silent}.csv", key="k")
        assert torch.equal(AddNoise(made, [0, 15])(wavs, torch.ones(4)), wavs), silent


def test_the_same_after_a_restart_from_the_same_seed(prepare):
    """A first call and a later one draw alike: no state but the generator's."""
    for make, arguments in (
        (lambda: AddNoise(prepare(), SNR), (batch(), torch.ones(4))),
        (lambda: AddReverb(prepare()), (batch(),)),
    ):
        continued = make()
        continued(*arguments)
        torch.manual_seed(7)
        expected = continued(*arguments)
        torch.manual_seed(7)
        assert torch.equal(make()(*arguments), expected)
        assert not torch.equal(make()(*arguments), expected)


def test_wrong_snr(prepare):
    for wrong in (3, [3], [5, 1], [0, float("nan")], None):
        with pytest.raises(ValueError, match="lowest, highest"):
            AddNoise("noise.csv", wrong)
    with pytest.raises(ValueError, match=r"snr of 'noise' is \[5, 1\]"):
        AddNoise("noise.csv", {"noise": [5, 1]})
    made = prepare()
    for wrong in ({"noise": [0, 15]}, {**SNR, "hum": [0, 15]}):
        message = r"noise.csv has \['music', 'noise', 'speech'\]"
        with pytest.raises(ValueError, match=message):
            AddNoise(made, wrong)(batch(), torch.ones(4))


def test_a_missing_csv_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="rir.csv: no such csv file; prepare_noise"):
        AddReverb(tmp_path / "rir.csv")(batch())


# ------------------------------------------------------------------ reverberation


def test_convolution_with_the_direct_sound_in_place(tmp_path):
    """Responses shorter and longer than the utterance, against the plain sum."""
    generator = np.random.default_rng(0)
    for name, length, direct in (("a", 40, 7), ("b", 900, 130)):
        response = 0.1 * generator.normal(size=length)
        response[direct] = -0.9  # loudest, and negative
        write(tmp_path / "rirs" / f"{name}.wav", response, subtype="FLOAT")
    made = prepare_audio_csv(tmp_path / "rirs", tmp_path / "rir.csv", key="k")
    wavs = batch(12, 600).double()
    torch.manual_seed(0)
    output = AddReverb(made)(wavs)
    candidates = []
    for name in "ab":
        response, _ = soundfile.read(tmp_path / "rirs" / f"{name}.wav")
        direct = np.abs(response).argmax()
        plain = [np.convolve(w, response)[direct : direct + 600] for w in wavs.numpy()]
        plain = torch.from_numpy(np.stack(plain))
        candidates.append(plain * (power(wavs) / power(plain)).sqrt().unsqueeze(1))
    errors = torch.stack([(output - c).abs().amax(1) for c in candidates])
    assert errors.amin(0).max() < 1e-6
    assert errors.argmin(0).unique().tolist() == [0, 1]  # one for each utterance
    torch.testing.assert_close(power(output), power(wavs))


def test_files_that_hold_nothing_are_named(tmp_path):
    """Where utterances would become zeros, or no numbers, and train with their labels."""
    broken = tone(100)
    broken[5000] = np.nan
    for name, samples, kind in (
        ("silent", 0 * tone(100), AddReverb),
        ("broken", broken, AddReverb),
        ("broken", broken, lambda made: AddNoise(made, [0, 15])),
    ):
        folder = tmp_path / name
        write(folder / "a.wav", samples, subtype="FLOAT")
        made = prepare_audio_csv(folder, tmp_path / f"{name}.csv", key="k")
        with pytest.raises(ValueError, match=f"{folder}/a.wav: a .* no finite numbers"):
            kind(made).read(16000)


# ------------------------------------------------------------------ speed


def test_every_utterance_is_resampled_and_labelled_by_its_speed():
    torch.manual_seed(0)
    speed_perturb = SpeedPerturb([100, 90, 110], out_neurons=3 * 50)
    wavs, labels = batch(90, speed_perturb.read_length(1000)), torch.arange(90) % 50
    output, perturbed = speed_perturb(wavs, labels.unsqueeze(1))
    assert output.shape == (90, 1000) and perturbed.dtype == torch.int64
    assert torch.equal(perturbed[:, 0] % 50, labels)
    speeds = perturbed[:, 0] // 50
    assert all(15 < (speeds == k).sum() < 45 for k in range(3))
    for row, k in enumerate(speeds):
        speed = [100, 90, 110][k]
        plain = torchaudio.functional.resample(wavs[row], speed, 100)[:1000]
        torch.testing.assert_close(output[row], plain, rtol=0, atol=1e-6)


def test_speed_raises_the_pitch():
    torch.manual_seed(0)
    speed_perturb = SpeedPerturb([100, 50, 200], out_neurons=3)
    wave = torch.from_numpy(tone(1000, 2.0)).float().expand(20, -1)
    output, labels = speed_perturb(wave, torch.zeros(20, 1, dtype=torch.int64))
    peaks = torch.fft.rfft(output).abs().argmax(1)
    assert output.shape == (20, RATE)  # a second
    assert peaks.tolist() == [[1000, 500, 2000][k] for k in labels[:, 0]]
    assert output[:, -100:].abs().amax(1).min() > 0.4  # nothing is padded


def test_lengths_agree():
    label = torch.zeros(1, 1, dtype=torch.int64)
    for speeds in ([100], [100, 90], [100, 90, 110], [100, 133]):
        speed_perturb = SpeedPerturb(speeds, out_neurons=len(speeds))
        for length in (1, 2, 99, 100, 101, 997, 32000):
            read = speed_perturb.read_length(length)
            assert length <= read < length * max(speeds) / 100 + 1
            output, _ = speed_perturb(torch.zeros(1, read), label)
            assert output.shape == (1, length)


def test_one_speed_changes_nothing():
    torch.manual_seed(0)
    state, wavs, labels = torch.get_rng_state(), batch(), torch.arange(4).unsqueeze(1)
    output, same = SpeedPerturb([100], out_neurons=4)(wavs, labels)
    assert output is wavs and same is labels
    assert torch.equal(torch.get_rng_state(), state)


def test_speeds_follow_the_seed():
    speed_perturb = SpeedPerturb([100, 90, 110], out_neurons=30)
    labels = torch.zeros(20, 1, dtype=torch.int64)
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(speed_perturb(batch(20, 110), labels))
    assert torch.equal(runs[0][0], runs[1][0]) and torch.equal(runs[0][1], runs[1][1])
    assert not torch.equal(runs[0][1], runs[2][1])


def test_wrong_speeds():
    for wrong in ([], [90, 100], [100, 0.9], [100, 100], [100, 0], [100, -90]):
        with pytest.raises(ValueError, match="100 is the first"):
            SpeedPerturb(wrong, out_neurons=6)
    with pytest.raises(ValueError, match="31 classes are not the speakers times the 3"):
        SpeedPerturb([100, 90, 110], out_neurons=31)


# What `hamsb.augment.time_domain` says of SpeechBrain, and would not need without.


def test_speechbrain_reads_whole_noises(prepare, monkeypatch):
    theirs = time_domain.AddNoise(prepare(), snr_low=5, snr_high=5)
    loaded = []
    load = time_domain.AddNoise._load_noise_batch
    monkeypatch.setattr(
        time_domain.AddNoise,
        "_load_noise_batch",
        lambda self: loaded.append(load(self)) or loaded[-1],
    )
    theirs(batch(6, 100), torch.ones(6))
    assert loaded[0][0].shape == (6, 24000)  # for 100 samples each, the longest file


def test_speechbrain_draws_one_room_for_a_batch(tmp_path):
    for i in range(8):
        response = np.zeros(50)
        response[[0, 5 * i + 5]] = 0.9, 0.8
        write(tmp_path / "rirs" / f"{i}.wav", response)
    made = prepare_audio_csv(tmp_path / "rirs", tmp_path / "rir.csv", key="k")
    torch.manual_seed(0)
    clicks = torch.eye(1, 100).repeat(16, 1)
    rooms = {}
    for module in (time_domain, augment):
        output = module.AddReverb(made)(clicks)
        rooms[module] = len({tuple((row > 0.1).tolist()) for row in output})
    assert rooms[time_domain] == 1 < rooms[augment]
