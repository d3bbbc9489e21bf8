"""Clusters of speakers: which audio is embedded, by what distance, and how good."""

import random

import numpy as np
import pytest
import soundfile
import torch
from sklearn.metrics import adjusted_rand_score, silhouette_score

from hamsb import ClippedUnitBall, PoincareBall
from hamsb.analysis.cluster_quality import cluster_quality
from hamsb.analysis.clustering import (
    MEASURES,
    cluster_speakers,
    draw_crops,
    embed_speakers,
    judge,
    speaker_distances,
)
from hamsb.analysis.kmeans import ball_kmeans, kmeans
from hamsb.dataio.annotations import Utterance, read_utterances
from hamsb.dataio.clusters import make_clusters
from runs import in_processes

RATE = 16000
SPEAKERS = [f"id{i}" for i in range(6)]
BALLS = [
    ClippedUnitBall(3.0),
    PoincareBall(0.5, gain=1.0),
    PoincareBall(2.0, learnable=True),
]


@pytest.fixture(scope="module")
def annotation(tmp_path_factory):
    """The csv file of six speakers of 2 to 7 utterances, each a part of its file. The
    n-th utterance is 100 n samples longer than 1 s, and one lasts 0.5 s."""
    folder = tmp_path_factory.mktemp("speakers")
    lines = ["ID,duration,wav,start,stop,spk_id"]
    for number, name in enumerate(SPEAKERS):
        noise = np.random.default_rng(number)
        for n in range(2 + number):
            frames = RATE // 2 if (number, n) == (5, 0) else RATE + 100 * n
            path = folder / f"{name}_{n}.wav"
            soundfile.write(path, 0.1 * noise.standard_normal(frames + 50), RATE)
            lines.append(f"{name}_{n},1,{path},20,{20 + frames},{name}")
    path = folder / "train.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def rms(wavs):
    """Stands for a network: [B, T] -> [B, 1, 2], length in seconds and loudness."""
    seconds = torch.full((len(wavs),), wavs.shape[1] / RATE)
    return torch.stack([seconds, wavs.square().mean(1).sqrt()], dim=1).unsqueeze(1)


# ------------------------------------------------------------ speakers' embeddings


def test_crops_are_of_different_utterances_and_inside_them(annotation):
    found = read_utterances(annotation)
    assert list(found) == SPEAKERS
    for seed in range(4):
        crops = draw_crops(found, 3, RATE, np.random.default_rng(seed))
        for number, name in enumerate(SPEAKERS):
            own = [crop for speaker, crop in crops if speaker == name]
            assert len({crop.wav for crop in own}) == len(own) == min(3, 2 + number)
            whole = {utterance.wav: utterance for utterance in found[name]}
            for crop in own:
                utterance = whole[crop.wav]
                assert utterance.start <= crop.start <= crop.stop <= utterance.stop
                assert crop.frames == min(RATE, utterance.frames)


def test_every_place_and_every_utterance_is_drawn():
    """Uniformly: of 3 utterances, and of the 3 places of a crop in each."""
    found = {"a": [Utterance(name, 5, 9) for name in "xyz"]}
    generator = np.random.default_rng(0)
    counts = {}
    for _ in range(900):
        ((_, crop),) = draw_crops(found, 1, 2, generator)
        counts[crop.wav, crop.start] = counts.get((crop.wav, crop.start), 0) + 1
    assert sorted(counts) == [(name, start) for name in "xyz" for start in (5, 6, 7)]
    assert min(counts.values()) > 70 and max(counts.values()) < 130


def test_means_are_those_of_the_crops_alone(annotation):
    """Against the drawn crops cut from whole files, one at a time."""
    for seconds in (0.25, 3.0):
        names, means = embed_speakers(rms, annotation, RATE, 2, seconds, 7, progress=False)
        generator = np.random.default_rng(7)
        crops = draw_crops(read_utterances(annotation), 2, int(seconds * RATE), generator)
        assert names == SPEAKERS and means.dtype == torch.float32
        for name, mean in zip(names, means, strict=True):
            rows = []
            for speaker, crop in crops:
                if speaker == name:
                    audio = soundfile.read(crop.wav, dtype="float32")[0]
                    rows.append(rms(torch.tensor(audio[None, crop.start : crop.stop])))
            torch.testing.assert_close(mean, torch.cat(rows).mean((0, 1)))


def test_short_utterances_are_neither_padded_nor_repeated(annotation):
    lengths = []
    embed_speakers(
        lambda wavs: lengths.append(wavs.shape[1]) or rms(wavs),
        annotation, RATE, seconds=0.75, progress=False,
    )  # fmt: skip
    assert sorted(set(lengths)) == [RATE // 2, 3 * RATE // 4]
    assert len(lengths) == sum(range(2, 8))


def test_only_the_seed_decides(annotation):
    def embed(seed):
        return embed_speakers(rms, annotation, RATE, 2, 0.5, seed, progress=False)[1]

    first = embed(1)
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    assert torch.equal(embed(1), first) and not torch.equal(embed(2), first)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2][1]).all()


def test_batches_hold_crops_of_one_length(annotation):
    def embed(batch_size):
        sizes = []
        encode = lambda wavs: sizes.append(wavs.shape) or rms(wavs)  # noqa: E731
        embedded = embed_speakers(
            encode, annotation, RATE, seconds=1.0, progress=False, batch_size=batch_size
        )
        return sizes, embedded[1]

    sizes, means = embed(20)
    assert sizes == [(20, RATE), (6, RATE), (1, RATE // 2)]
    torch.testing.assert_close(means, embed(1)[1])


def test_processes_share_the_crops(annotation, tmp_path):
    def embed(shared, sizes):
        encode = lambda wavs: sizes.append(len(wavs)) or rms(wavs)  # noqa: E731
        return embed_speakers(
            encode, annotation, RATE, 5, 0.3, progress=False, shared=shared
        )

    def work(rank):
        return embed(True, sizes := []), sum(sizes)

    every = []
    names, means = embed(False, every)
    parts = in_processes(work, 2, tmp_path)
    for (theirs, own), _ in parts:
        assert theirs == names and torch.equal(own, means)
    shares = sorted(count for _, count in parts)
    assert sum(shares) == len(every) and shares[1] - shares[0] <= 1


def test_gradients_and_a_learned_ball_are_left_alone(annotation):
    weight = torch.ones((), requires_grad=True)
    encode = lambda wavs: (rms(wavs) * weight).half()  # noqa: E731
    names, means = embed_speakers(encode, annotation, RATE, seconds=0.2, progress=False)
    assert means.dtype == torch.float32 and not means.requires_grad
    ball = PoincareBall(1.0, learnable=True)
    before = {name: value.clone() for name, value in ball.state_dict().items()}
    cluster_speakers(names, means, 2, ball)
    speaker_distances(means, ball)
    assert all(parameter.grad is None for parameter in ball.parameters())
    after = ball.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(after[name].dtype == value.dtype for name, value in before.items())


def test_wrong_numbers_are_named(annotation):
    for options, message in (
        ({"utterances": 0}, "utterances=0: must be a whole number, at least 1"),
        ({"utterances": 2.5}, "utterances=2.5: must be a whole number"),
        ({"seconds": 0.0}, "seconds=0.0: must be positive"),
        ({"seconds": 1e-5}, "seconds=1e-05: must be positive, and at least a sample"),
        ({"seed": -1}, "seed=-1: must be a whole number, at least 0"),
        ({"batch_size": 0}, "batch_size=0: must be a whole number"),
    ):
        with pytest.raises(ValueError, match=message):
            embed_speakers(pytest.fail, annotation, RATE, progress=False, **options)


def test_wrong_audio_is_named(tmp_path):
    def embed(wav, encode=rms):
        row = f"a,1,{wav},0,{RATE},id1"
        path = tmp_path / "train.csv"
        path.write_text(f"ID,duration,wav,start,stop,spk_id\n{row}\n")
        embed_speakers(encode, path, RATE, progress=False)

    soundfile.write(tmp_path / "slow.wav", np.zeros(RATE), 8000)
    soundfile.write(tmp_path / "short.wav", np.zeros(RATE - 1), RATE)
    soundfile.write(tmp_path / "good.wav", np.linspace(-0.5, 0.5, RATE), RATE)
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    with pytest.raises(ValueError, match="slow.wav: at 8000 Hz, but the model takes 16000"):
        embed(tmp_path / "slow.wav")
    with pytest.raises(ValueError, match="short.wav: ends 1 samples too early"):
        embed(tmp_path / "short.wav")
    for name in ("broken.wav", "gone.wav"):
        with pytest.raises(ValueError, match=f"{name}: cannot be read"):
            embed(tmp_path / name)
    with pytest.raises(ValueError, match="good.wav: the embedding is not finite"):
        embed(tmp_path / "good.wav", lambda wavs: rms(wavs) * float("nan"))
    with pytest.raises(ValueError, match="silent.wav: silent, as are all crops of speaker"):
        embed(tmp_path / "silent.wav")


def test_silent_crops_are_left_out(tmp_path):
    """A recording may be silent in places; a speaker's mean is of what is heard."""
    noise = np.random.default_rng(0).normal(0, 0.1, (2, RATE))
    for name, audio in [("a", noise[0]), ("b", np.zeros(RATE)), ("c", noise[1])]:
        soundfile.write(tmp_path / f"{name}.wav", audio, RATE)

    def embed(rows):
        lines = [f"{n},1,{tmp_path / n}.wav,0,{RATE},{speaker}" for n, speaker in rows]
        path = tmp_path / "train.csv"
        path.write_text("\n".join(["ID,duration,wav,start,stop,spk_id", *lines, ""]))
        return embed_speakers(rms, path, RATE, batch_size=3, progress=False)

    names, means = embed([("a", "id1"), ("b", "id1"), ("c", "id2")])
    expected = embed([("a", "id1"), ("c", "id2")])
    assert names == expected[0] == ["id1", "id2"]
    assert torch.equal(means, expected[1])


# ------------------------------------------------------------------------ clusters


def grouped_means(seed, groups=4, dimension=6):
    """Means of 40 speakers in well separated groups, which those are."""
    generator = torch.Generator().manual_seed(seed)
    centers = 4 * torch.randn(groups, dimension, generator=generator)
    of = torch.arange(40) % groups
    noise = 0.1 * torch.randn(40, dimension, generator=generator)
    return [f"s{i:02d}" for i in range(40)], centers[of] + noise, of


@pytest.mark.parametrize("ball", [None, *BALLS], ids=str)
def test_speakers_are_clustered_and_the_nearest_known(ball):
    for seed in range(2):
        names, means, of = grouped_means(seed)
        clusters = cluster_speakers(names, means, 4, ball, seed)
        labels = clusters.labels(names)
        assert adjusted_rand_score(of, labels) == 1
        # The order of the nearest clusters, by a center of each of its own.
        if ball is None:
            _, centers = kmeans(means, 4, seed)
            far = 1 - torch.cosine_similarity(centers[:, None], centers, dim=-1)
        else:
            points = ball.project(means.double()).detach()
            c = 1.0 if isinstance(ball, ClippedUnitBall) else ball.curvature
            _, centers = ball_kmeans(points, 4, c, seed)
            far = torch.stack([ball.distance(centers, y) for y in centers]).detach()
        expected = far.fill_diagonal_(-1).argsort(1)[:, 1:].tolist()
        assert clusters.nearest == {i: tuple(row) for i, row in enumerate(expected)}
        again = cluster_speakers(names, means, 4, ball, seed)
        assert again.of_speaker == clusters.of_speaker
        assert again.nearest == clusters.nearest
    with pytest.raises(ValueError, match="k=41: .* different points, which is 40"):
        cluster_speakers(names, means, 41, ball)


@pytest.mark.parametrize("ball", [None, *BALLS], ids=str)
def test_distances_are_those_of_the_cosine_or_the_ball(ball):
    means = grouped_means(0)[1]
    x = means.double()
    if ball is None:
        expected = 1 - torch.cosine_similarity(x[:, None], x, dim=-1)
    else:
        points = ball.project(x).detach()
        expected = torch.stack([ball.distance(points, y) for y in points]).detach()
    found = speaker_distances(means, ball)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_the_nearest_clusters_are_those_of_the_smallest_angle():
    """Though the mean of directions far apart is short."""

    def direction(degrees, tilt):
        angle, tilt = np.deg2rad(degrees), np.deg2rad(tilt)
        return [np.cos(angle) * np.cos(tilt), np.sin(angle) * np.cos(tilt), np.sin(tilt)]

    ours = [direction(0, tilt / 10) for tilt in range(-5, 5)]
    wide = [direction(40, tilt) for tilt in (-20, 20)]
    narrow = [direction(-43, tilt) for tilt in (-1, 1)]
    names = [f"s{i:02d}" for i in range(14)]
    clusters = cluster_speakers(names, torch.tensor([*ours, *wide, *narrow]), k=3)
    a, b, c = clusters.labels(["s00", "s10", "s12"])
    assert clusters.nearest[a] == (b, c)


def test_length_counts_in_a_ball_alone():
    """Two lengths along each of two directions."""
    names, means = list("abcd"), torch.tensor([[0.1, 0], [2, 0], [0, 0.1], [0, 2.0]])
    by_direction = cluster_speakers(names, means, 2).labels(names)
    assert by_direction[0] == by_direction[1] != by_direction[2] == by_direction[3]
    in_ball = cluster_speakers(names, means, 3, PoincareBall(1.0, gain=1.0)).labels(names)
    assert in_ball[0] == in_ball[2] and len({*in_ball[[0, 1, 3]].tolist()}) == 3


def test_the_curvature_is_that_of_the_distance():
    """Speakers without groups, inside the clip, whose clusters differ with c."""
    names = [f"s{i:02d}" for i in range(60)]
    means = 0.25 * torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    for ball, c, factor in ((ClippedUnitBall(3.0), 1.0, 1), (PoincareBall(3.0), 3.0, 4)):
        points = ball.project(factor * means.double())
        labels, other = (
            ball_kmeans(points, 8, curvature)[0].tolist()
            for curvature in (c, {1.0: 3.0, 3.0: 1.0}[c])
        )
        clusters = cluster_speakers(names, factor * means, 8, ball)
        assert clusters.labels(names).tolist() == labels != other


def test_clusters_are_judged_by_sizes_and_every_measure():
    names, means, of = grouped_means(0)
    labels = np.where(of.numpy() == 3, 2, of.numpy())  # 10, 10 and 20 speakers
    distances = speaker_distances(means)
    found = judge(make_clusters(names, labels), names, distances)
    assert list(found) == ["k", "smallest", "median", "largest", *MEASURES]
    assert [found[key] for key in ("k", "smallest", "median", "largest")] == [3, 10, 10, 20]
    for name, value in cluster_quality(distances, labels).items():
        assert found[name] == value
    silhouette = silhouette_score(distances, labels, metric="precomputed")
    assert found["silhouette"] == pytest.approx(silhouette)
