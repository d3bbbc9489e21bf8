"""Utterances cut and with noise, and the lengths of their embeddings."""

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from hamsb import ClippedUnitBall, PoincareBall
from hamsb.analysis.lengths import add_noise, choose, cut, embed_conditions, measure
from hamsb.augment.simulation import NOISES

RATE = 16000


def test_shorter_crops_lie_within_longer_ones():
    for seed in range(3):
        wav = torch.randn(1000, generator=torch.Generator().manual_seed(seed))
        ends = []
        for samples in (1, 10, 500, 999, 1000):
            crop = cut(wav, samples, seed=5)
            places = (wav.unfold(0, samples, 1) == crop).all(1).nonzero().ravel()
            (start,) = places.tolist()
            ends.append((start, start + samples))
        pairs = zip(ends, ends[1:], strict=False)
        assert all(a >= c and b <= d for (a, b), (c, d) in pairs)
        assert ends[-1] == (0, 1000)
        starts = {torch.equal(cut(wav, 10, s), cut(wav, 10, 5)) for s in range(20)}
        assert False in starts
    wav = torch.arange(4.0)
    assert {cut(wav, 2, seed)[0].item() for seed in range(30)} == {0, 1, 2}


def test_noise_has_the_power_that_is_asked_for():
    wav = 0.1 * torch.randn(8000, generator=torch.Generator().manual_seed(0))
    for kind in NOISES:
        added = {s: add_noise(wav, kind, s, seed=0) - wav for s in (20, 10, 0)}
        for snr, noise in added.items():
            power = (wav.square().mean() / noise.square().mean()).item()
            assert 10 * math.log10(power) == pytest.approx(snr, abs=1e-3)
        torch.testing.assert_close(added[0], 10 * added[20], atol=1e-6, rtol=1e-4)
        assert add_noise(wav, kind, 0, 0).dtype == torch.float32
        silence = torch.zeros(100)
        assert torch.equal(add_noise(silence, kind, 0, seed=0), silence)


def test_an_utterance_is_changed_in_the_same_way_whatever_is_beside_it():
    files = {f"id{i}/{i}": Path(f"{i}") for i in range(50)}
    chosen = choose(files, 20, 0)
    assert len(chosen) == 20 and chosen.items() <= files.items()
    assert list(chosen) == sorted(chosen)
    assert choose(dict(reversed(files.items())), 20, 0) == chosen
    assert choose(files, 20, 1) != chosen
    assert choose(files, None, 0) == choose(files, 99, 0) == files


def test_lengths_are_measured_before_and_after_the_projection():
    vectors = torch.randn(9, 4, generator=torch.Generator().manual_seed(0)).double()
    mean = vectors.mean(0)
    norms = vectors.norm(dim=1).numpy()
    for ball in (ClippedUnitBall(1.0), PoincareBall(2.0, gain=1.0), None):
        found = measure(ball, vectors, mean)
        np.testing.assert_allclose(found.norm, norms)
        np.testing.assert_allclose(found.centered, (vectors - mean).norm(dim=1))
        if ball is None:
            assert found.radius is found.clipped is found.points is None
            continue
        assert torch.equal(found.points, ball.project(vectors))
        radii = [ball.distance(x, torch.zeros_like(x)).item() for x in found.points]
        np.testing.assert_allclose(found.radius, radii, atol=1e-8)
        assert (found.clipped == ball.clipped(vectors).numpy()).all()
    assert measure(None, vectors).centered is None
    assert measure(ClippedUnitBall(1.0), vectors).clipped.any()


def test_conditions_are_the_whole_then_crops_then_noise(tmp_path):
    files = {}
    for number, frames in enumerate((8000, 16000, 24000)):
        random = np.random.default_rng(number)
        files[f"id{number}/a.wav"] = tmp_path / f"{number}.wav"
        soundfile.write(
            tmp_path / f"{number}.wav", 0.1 * random.standard_normal(frames), RATE, "FLOAT"
        )

    def encode(wavs):  # the number of samples, and the loudness
        length = torch.full((len(wavs),), float(wavs.shape[1]))
        return torch.stack([length, 1e4 * wavs.square().mean(1)], dim=1).unsqueeze(1)

    def embed(seed=0):
        return embed_conditions(
            encode, None, files, [], RATE, [0.5, 1.0, 60], [0], "white", seed, False
        )

    conditions = embed()
    assert [(c.kind, c.value) for c in conditions] == [
        ("whole", math.inf), ("crop", 0.5), ("crop", 1.0), ("noise", 0),
    ]  # fmt: skip
    whole, short, longer, noisy = conditions
    assert whole.speakers.tolist() == ["id0", "id1", "id2"]
    np.testing.assert_allclose(whole.seconds, [0.5, 1.0, 1.5])
    # A crop is taken of those that are longer; what is longer than all is not there.
    assert short.speakers.tolist() == ["id1", "id2"] and len(longer.embeddings) == 1
    assert short.embeddings.matrix[:, 0].tolist() == [8000, 8000]
    ratio = noisy.embeddings.matrix[:, 1] / whole.embeddings.matrix[:, 1]
    torch.testing.assert_close(ratio, torch.full((3,), 2.0), rtol=0.1, atol=0)
    mean = whole.embeddings.matrix.double().mean(0)
    for condition in conditions:  # all about the mean of the whole ones
        about = (condition.embeddings.matrix - mean).norm(dim=1)
        np.testing.assert_allclose(condition.lengths.centered, about, rtol=1e-6)
    again, other = embed(), embed(seed=1)
    assert torch.equal(again[3].embeddings.matrix, noisy.embeddings.matrix)
    assert not torch.equal(other[3].embeddings.matrix, noisy.embeddings.matrix)
