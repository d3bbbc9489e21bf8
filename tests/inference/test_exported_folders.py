"""Folders that commit f77749f exported load, and score as they did there."""

import json
import math

import pytest
import torch
from speechbrain.inference.speaker import EncoderClassifier

from hamsb.inference import SpeakerRecognition


def voice(k):
    """A buzz of eight harmonics, a little longer for every k, [T]."""
    time = torch.arange(16000 + 800 * k, dtype=torch.float64) / 16000
    harmonics = sum(
        math.sin(1.7 * k * h + 1) / h * torch.sin(2 * math.pi * (90 + 23 * k) * h * time)
        for h in range(1, 9)
    )
    tremolo = 1 + 0.3 * torch.sin(2 * math.pi * (2 + k) * time)
    return 0.1 * (harmonics * tremolo).float()


def test_exported_folder_gives_what_it_gave(repository):
    for ball in ["clipped", "poincare"]:
        folder = repository / "tests" / "data" / "exported"
        expected = json.loads((folder / "expected.json").read_text())[ball]
        voices = [voice(k).unsqueeze(0) for k in range(3)]

        encoder = EncoderClassifier.from_hparams(source=str(folder / ball))
        embeddings = [encoder.encode_batch(wav).flatten() for wav in voices]
        for found, then in zip(embeddings, expected["embeddings"]):
            torch.testing.assert_close(found, torch.tensor(then), rtol=1e-4, atol=1e-4)
        for found, then in zip(embeddings, expected["predictions"]):
            predictions = encoder.mods["classifier"](found.reshape(1, 1, -1)).flatten()
            torch.testing.assert_close(
                predictions, torch.tensor(then), rtol=1e-4, atol=1e-4
            )
        _, _, _, (name,) = encoder.classify_batch(voices[0])
        best = max(range(3), key=lambda k: expected["predictions"][0][k])
        assert name == ["ann", "bob", "cat"][best]

        verification = SpeakerRecognition.from_hparams(source=str(folder / ball))
        score, same = verification.verify_batch(*voices[:2])
        assert score.item() == pytest.approx(expected["score"], abs=1e-5)
        assert same.item() is expected["same"]
        ratio = verification.log_likelihood_ratio(score).item()
        assert ratio == pytest.approx(expected["ratio"], rel=1e-4)
