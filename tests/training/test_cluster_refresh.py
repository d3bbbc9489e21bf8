"""New clusters in the course of training; whole runs are in tests/recipes."""

import numpy as np
import pytest
import soundfile
import torch

from hamsb.dataio.clusters import read_clusters
from hamsb.dataio.sampling import SpeakerBatchSampler
from hamsb.training.cluster_refresh import ClusterRefresh

GIVEN = {"every": 1, "hard_ratio": 1.0, "k": 2, "utterances": 2, "seconds": 0.5}


@pytest.fixture
def sampler():
    speakers = [f"id{index // 2}" for index in range(8)]
    return SpeakerBatchSampler(speakers, 2, 3, seed=0)


@pytest.fixture
def annotation(tmp_path):
    """A csv file of four speakers: two loud ones, two with an offset."""
    lines, random = ["ID,duration,wav,start,stop,spk_id"], np.random.default_rng(0)
    for index in range(8):
        wav = tmp_path / f"{index}.wav"
        samples = 0.01 * random.standard_normal(16000) + (0.5 if index < 4 else -0.5)
        soundfile.write(wav, samples, 16000)
        lines.append(f"{index},1.0,{wav},0,16000,id{index // 2}")
    path = tmp_path / "train.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_clusters_come_when_they_are_due_and_stay_in_their_files(
    sampler, annotation, tmp_path, caplog
):
    caplog.set_level("INFO")
    calls = []

    def encode(wavs):
        calls.append(len(wavs))
        return torch.stack([wavs.mean(1), torch.ones(len(wavs))], 1).unsqueeze(1)

    given = {**GIVEN, "every": 2, "batch_size": 3}
    refresh = ClusterRefresh(given, sampler, tmp_path, annotation, 16000, seed=1, epochs=9)
    for epoch in (1, 2, 3, 4):
        files = ["clusters_after_epoch_2.csv"] if epoch > 2 else []
        refresh.before_epoch(epoch, encode, progress=False)
        assert sorted(path.name for path in tmp_path.glob("clusters*")) == files
        assert sampler.num_hard == (2 if files else 0)
    assert sum(calls) == 8 and max(calls) == 3  # once
    (told,) = (each for each in caplog.messages if "new cluster" in each)
    assert told.startswith("epoch 3 begins with 2 new clusters of 4 speakers, hard_ratio=")
    found = read_clusters(tmp_path / "clusters_after_epoch_2.csv").of_speaker
    assert found["id0"] == found["id1"] != found["id2"] == found["id3"]
    assert sampler.clusters.of_speaker == found
    (tmp_path / "other.csv").touch()
    refresh.remove_files()
    assert not list(tmp_path.glob("clusters*")) and (tmp_path / "other.csv").exists()
    refresh.before_epoch(5, encode, progress=False)
    assert (
        refresh.file(4).name == "clusters_after_epoch_4.csv" and refresh.file(4).is_file()
    )


def test_senseless_options_are_refused(sampler):
    for change, message in (
        ({"every": 0}, "every=0"),
        ({"every": 1.5}, "every=1.5"),
        ({"every": 9}, "every=9: in 9 epochs there would never be clusters"),
        ({"hard_ratio": 1.5}, "hard_ratio=1.5"),
        ({"hard_ratio": "all"}, "hard_ratio=all: must lie in"),
        ({"k": 0}, "cluster_refresh: k=0: must be a whole number, at least 2"),
        ({"k": "many"}, "k='many': must be a whole number"),
        ({"k": 4}, "k=4: of 4 speakers; give a number below that"),
        ({"utterances": 0}, "utterances=0: must be a whole number"),
        ({"seconds": -1.0}, "seconds=-1.0: must be positive"),
        ({"seconds": 1e-9}, "seconds=1e-09: must be positive, and at least a sample"),
        ({"batch_size": 0}, "batch_size=0: must be a whole number"),
        ({"ball": "model"}, "ball='model': must be a ball, such as"),
        ({"clusters": 5}, "cluster_refresh: clusters; its keys are every"),
        ({"k": None}, "cluster_refresh: k; its keys"),
    ):
        given = {k: v for k, v in (GIVEN | change).items() if v is not None}
        with pytest.raises(ValueError, match=message):
            ClusterRefresh(given, sampler, "save", "train.csv", 16000, 1, 9)
    with pytest.raises(ValueError, match="needs a batch_sampler"):
        ClusterRefresh(GIVEN, None, "save", "train.csv", 16000, 1, 9)
