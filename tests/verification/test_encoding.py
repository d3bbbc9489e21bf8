"""Encoders: what is too short is told by the recording, whatever the network raises."""

import pytest
import torch
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
from speechbrain.processing.features import InputNormalization

from hamsb.verification.embeddings import embed_utterances
from hamsb.verification.encoding import Encoder
from runs import write_wav


class Frames:
    """Fbank and normalization, as in every recipe, and a network on them."""

    def __init__(self, network):
        self.features = Fbank(n_mels=20)
        self.norm = InputNormalization(norm_type="sentence", std_norm=False)
        self.network = network.eval()
        self.calls = 0

    def __call__(self, wavs):
        self.calls += 1
        frames = self.norm(self.features(wavs), torch.ones(len(wavs)))
        return self.network(frames)


@pytest.fixture(scope="module")
def ecapa():
    torch.manual_seed(0)
    sizes = {"channels": [8, 8, 8, 8, 24], "attention_channels": 8, "lin_neurons": 16}
    return ECAPA_TDNN(20, **sizes)


class Mean(torch.nn.Module):
    """Raises for no length: the mean of a linear layer over the frames."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(20, 4)

    def forward(self, frames):
        return self.linear(frames).relu().mean(1)


def test_the_least_length_is_found_by_trying(ecapa):
    """ECAPA-TDNN pads by reflection; one frame less its mean is zero for every voice."""
    padded, single = Encoder(Frames(ecapa), 16000), Encoder(Frames(Mean()), 16000)
    assert padded.least_samples == 640  # five frames
    assert single.least_samples == 160  # two
    with torch.no_grad():
        embedding = padded(torch.randn(1, 640), ["a.wav"])
        with pytest.raises(ValueError) as told:
            padded(torch.randn(2, 639), ["b.wav", "c.wav"])
        assert str(told.value) == (
            "b.wav: lasts 0.0399 s, and the model needs at least 0.0400 s (640 samples at "
            "16000 Hz); give a longer recording."
        )
        with pytest.raises(ValueError, match=r"^d.wav: lasts 0.0099 s.*at least 0.0100 s"):
            single(torch.randn(1, 159), ["d.wav"])
    assert embedding.shape == (1, 1, 16)


def test_ordinary_recordings_are_embedded_without_trying(ecapa):
    encode = Frames(ecapa)
    with torch.no_grad():
        Encoder(encode, 16000)(torch.randn(2, 1600), ["a.wav", "b.wav"])
    assert encode.calls == 1


def test_rows_that_are_padded_are_told_by_their_own_lengths():
    encoder = Encoder(Frames(Mean()), 16000)
    with pytest.raises(ValueError, match="^second: lasts 0.0063 s"):
        encoder(torch.randn(2, 16000), ["first", "second"], [16000, 100])


def test_errors_of_another_kind_are_passed_on():
    def broken(wavs):
        raise RuntimeError("no such weights")

    for samples in (100, 8000, 32000):
        with pytest.raises(RuntimeError, match="no such weights"):
            Encoder(broken, 16000)(torch.randn(1, samples), ["a.wav"])

    def needs(wavs):  # most of a second, and says it in its own way
        if wavs.shape[1] < 12000:
            raise AssertionError("mask")
        return wavs[:, :3]

    encoder = Encoder(needs, 16000)
    with pytest.raises(ValueError, match=r"^a.wav: lasts 0.5000 s.*at least 0.7500 s"):
        encoder(torch.randn(1, 8000), ["a.wav"])
    infinite = Encoder(lambda wavs: wavs[:, :3] / 0, 16000)
    with pytest.raises(ValueError, match=r"^b: the embedding is not finite \(3 of 3"):
        infinite(torch.ones(2, 8000), ["b", "c"])


def test_a_batch_names_the_row_that_is_not_finite():
    def encode(wavs):
        rows = wavs[:, :3].clone()
        rows[1:, 2] = torch.nan
        return rows

    with pytest.raises(ValueError, match=r"^b.wav: the embedding is not finite \(1 of 3"):
        Encoder(encode, 16000)(torch.randn(3, 8000), ["a.wav", "b.wav", "c.wav"])


def test_short_files_of_a_list_are_named(tmp_path, ecapa):
    paths = {}
    for number, samples in enumerate([20000, 320, 20000]):
        paths[f"id{number}/a"] = tmp_path / f"{number}.wav"
        write_wav(paths[f"id{number}/a"], samples, seed=number)
    for size in (1, 4):
        with pytest.raises(
            ValueError, match=f"^{tmp_path}/1.wav: lasts 0.0200 s.*0.0400 s"
        ):
            embed_utterances(paths, Frames(ecapa), progress=False, batch_size=size)
