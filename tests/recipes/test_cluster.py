"""cluster.py on tones: a csv file to clusters, their measures, and what it refuses."""

import json
import random
import shutil
from pathlib import Path

import cluster
import numpy as np
import pytest
import soundfile
import torch
from cluster import cluster_speakers, draw_crops, embed_speakers
from runs import EXPERIMENT, call, export_untrained
from sklearn.metrics import adjusted_rand_score, silhouette_score
from speechbrain.inference.classifiers import EncoderClassifier
from voxceleb_prepare import prepare_voxceleb

from hamsb import ClippedUnitBall, PoincareBall
from hamsb.dataio.annotations import Utterance, read_utterances
from hamsb.dataio.clusters import read_clusters
from hamsb.analysis.clustering import (
    ball_kmeans,
    cluster_quality,
    cosine_distance,
    distance_matrix,
    kmeans,
)
from hamsb.analysis.plots import plot_cluster_quality
from hamsb.dataio.sampling import SpeakerBatchSampler

RATE = 16000
SPEAKERS = [f"id{i}" for i in range(6)]
FILES = ["metrics.json", "quality.png", "report.md"]
BALLS = [
    ClippedUnitBall(3.0),
    PoincareBall(0.5, gain=1.0),
    PoincareBall(2.0, learnable=True),
]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Speakers of low and of high tones, whose utterance n is n samples louder and
    longer than 1 s, and one of 0.5 s; the csv file of them; a model."""
    root = tmp_path_factory.mktemp("clustering")
    for number, name in enumerate(SPEAKERS):
        noise = np.random.default_rng(number)
        for n in range(2 + number):
            samples = RATE // 2 if (number, n) == (5, 0) else RATE + 100 * n
            pitch = (150 if number < 3 else 3000) * noise.uniform(0.95, 1.05)
            tone = np.sin(2 * np.pi * pitch * np.arange(samples) / RATE)
            path = root / "data" / "wav" / name / "x" / f"{n:05d}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            audio = 0.3 * tone + 0.01 * noise.standard_normal(samples)
            soundfile.write(path, audio, RATE)
    prepare_voxceleb(root / "data", root / "save", dev_speakers=0, min_duration=0.2)
    export_untrained(root / "export", EXPERIMENT)
    return root


@pytest.fixture
def annotation(corpus):
    return corpus / "save" / "train.csv"


@pytest.fixture(scope="session")
def encoder(corpus):
    return EncoderClassifier.from_hparams(
        source=str(corpus / "export"), run_opts={"device": "cpu"}
    )


@pytest.fixture
def real_plot():
    """Asked for where the plot is to be real; it takes most of the time."""


@pytest.fixture
def run(request, corpus, repository, tmp_path, monkeypatch):
    """A function that clusters and returns the output folder."""
    monkeypatch.chdir(repository)
    if "real_plot" not in request.fixturenames:
        stand_in = lambda k, measures, path: Path(path).touch()  # noqa: E731
        monkeypatch.setattr(cluster, "plot_cluster_quality", stand_in)

    def run(**changes):
        values = {
            "model": corpus / "export",
            "output_folder": tmp_path / "out",
            "k": "[2, 3]",
            "utterances": 2,
            "seconds": 0.5,
            "device": "cpu",
            **changes,
        }
        return call(cluster.main, "hparams/cluster.yaml", values)

    return run


def rms(wavs):
    """Stands for a network: [B, T] -> [B, 1, 2], length in seconds and loudness."""
    seconds = torch.full((len(wavs),), wavs.shape[1] / RATE)
    return torch.stack([seconds, wavs.square().mean(1).sqrt()], dim=1).unsqueeze(1)


# ------------------------------------------------------------ speakers' embeddings


@pytest.mark.parametrize("seed", range(4))
def test_crops_are_of_different_utterances_and_inside_them(annotation, seed):
    found = read_utterances(annotation)
    assert list(found) == SPEAKERS
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


@pytest.mark.parametrize("seconds", [0.25, 3.0])
def test_means_are_those_of_the_crops_alone(annotation, seconds):
    """Against the drawn crops cut from whole files, one at a time."""
    names, means = embed_speakers(rms, annotation, RATE, 2, seconds, 7, progress=False)
    generator = np.random.default_rng(7)
    crops = draw_crops(read_utterances(annotation), 2, int(seconds * RATE), generator)
    assert names == SPEAKERS and means.dtype == torch.float32
    for name, mean in zip(names, means):
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
    )
    assert sorted(set(lengths)) == [RATE // 2, 3 * RATE // 4]
    assert len(lengths) == sum(range(2, 8))


def test_only_the_seed_decides(annotation, encoder):
    def embed(seed, **options):
        return embed_speakers(
            encoder.encode_batch, annotation, RATE, 2, 0.5, seed, False, **options
        )[1]

    first = embed(1)
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    assert torch.equal(embed(1), first) and not torch.equal(embed(2), first)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2][1]).all()
    torch.testing.assert_close(embed(1, batch_size=4), first, rtol=1e-4, atol=1e-5)


def test_batches_hold_crops_of_one_length(annotation):
    def embed(batch_size):
        sizes = []
        encode = lambda wavs: sizes.append(wavs.shape) or rms(wavs)  # noqa: E731
        embedded = embed_speakers(
            encode, annotation, RATE, seconds=1.0, progress=False, batch_size=batch_size
        )
        return sizes, embedded[1]

    sizes, means = embed(20)
    assert sizes == [(1, RATE // 2), (20, RATE), (6, RATE)]
    torch.testing.assert_close(means, embed(1)[1])


def test_gradients_and_a_learned_ball_are_left_alone(annotation):
    weight = torch.ones((), requires_grad=True)
    encode = lambda wavs: (rms(wavs) * weight).half()  # noqa: E731
    names, means = embed_speakers(encode, annotation, RATE, seconds=0.2, progress=False)
    assert means.dtype == torch.float32 and not means.requires_grad
    ball = PoincareBall(1.0, learnable=True)
    cluster_speakers(names, means, 2, ball)
    assert all(parameter.grad is None for parameter in ball.parameters())


@pytest.mark.parametrize("options, message", [
    ({"utterances": 0}, "utterances=0: must be a whole number, at least 1"),
    ({"utterances": 2.5}, "utterances=2.5: must be a whole number"),
    ({"seconds": 0.0}, "seconds=0.0: must be positive"),
    ({"seconds": 1e-5}, "seconds=1e-05: must be positive, and at least a sample"),
    ({"seed": -1}, "seed=-1: must be a whole number, at least 0"),
    ({"batch_size": 0}, "batch_size=0: must be a whole number"),
])
def test_wrong_numbers_are_named(annotation, options, message):
    with pytest.raises(ValueError, match=message):
        embed_speakers(pytest.fail, annotation, RATE, progress=False, **options)


def test_wrong_audio_is_named(annotation, tmp_path):
    def embed(wav, encode=rms):
        row = f"a,1,{wav},0,{RATE},id1"
        path = tmp_path / "train.csv"
        path.write_text(f"ID,duration,wav,start,stop,spk_id\n{row}\n")
        embed_speakers(encode, path, RATE, progress=False)

    soundfile.write(tmp_path / "slow.wav", np.zeros(RATE), 8000)
    soundfile.write(tmp_path / "short.wav", np.zeros(RATE - 1), RATE)
    soundfile.write(tmp_path / "good.wav", np.zeros(RATE), RATE)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    with pytest.raises(ValueError, match="slow.wav: at 8000 Hz, but the model takes 16000"):
        embed(tmp_path / "slow.wav")
    with pytest.raises(ValueError, match="short.wav: ends 1 samples too early"):
        embed(tmp_path / "short.wav")
    for name in ("broken.wav", "gone.wav"):
        with pytest.raises(ValueError, match=f"{name}: cannot be read"):
            embed(tmp_path / name)
    with pytest.raises(ValueError, match="good.wav: the embedding of speaker id1 is not"):
        embed(tmp_path / "good.wav", lambda wavs: rms(wavs) * float("nan"))


# ------------------------------------------------------------------------ clusters


def grouped_means(seed, groups=4, dimension=6):
    """Means of 40 speakers in well separated groups, which those are."""
    generator = torch.Generator().manual_seed(seed)
    centers = 4 * torch.randn(groups, dimension, generator=generator)
    of = torch.arange(40) % groups
    noise = 0.1 * torch.randn(40, dimension, generator=generator)
    return [f"s{i:02d}" for i in range(40)], centers[of] + noise, of


@pytest.mark.parametrize("ball", [None, *BALLS], ids=str)
@pytest.mark.parametrize("seed", range(2))
def test_speakers_are_clustered_and_the_nearest_known(ball, seed):
    names, means, of = grouped_means(seed)
    clusters = cluster_speakers(names, means, 4, ball, seed)
    labels = clusters.labels(names)
    assert adjusted_rand_score(of, labels) == 1
    # The order of the nearest clusters, by a center of each of its own.
    if ball is None:
        _, centers = kmeans(means, 4, seed)
        far = cosine_distance(centers, centers)
    else:
        points = ball.project(means.double()).detach()
        c = 1.0 if isinstance(ball, ClippedUnitBall) else ball.curvature
        _, centers = ball_kmeans(points, 4, c, seed)
        far = torch.stack([ball.distance(centers, y) for y in centers]).detach()
    expected = far.fill_diagonal_(-1).argsort(1)[:, 1:].tolist()
    assert clusters.nearest == {i: tuple(row) for i, row in enumerate(expected)}
    again = cluster_speakers(names, means, 4, ball, seed)
    assert again.of_speaker == clusters.of_speaker and again.nearest == clusters.nearest


def test_length_counts_in_a_ball_alone():
    """Two lengths along each of two directions."""
    names, means = list("abcd"), torch.tensor([[0.1, 0], [2, 0], [0, 0.1], [0, 2.0]])
    by_direction = cluster_speakers(names, means, 2).labels(names)
    assert by_direction[0] == by_direction[1] != by_direction[2] == by_direction[3]
    in_ball = cluster_speakers(names, means, 3, PoincareBall(1.0, gain=1.0)).labels(names)
    assert in_ball[0] == in_ball[2] and len({*in_ball[[0, 1, 3]].tolist()}) == 3


@pytest.mark.parametrize("ball, c", [(ClippedUnitBall(3.0), 1.0), (PoincareBall(3.0), 3.0)])
def test_the_curvature_is_that_of_the_distance(ball, c):
    """Speakers without groups, inside the clip, whose clusters differ with c."""
    names = [f"s{i:02d}" for i in range(60)]
    means = 0.25 * torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    means *= 1 if c == 1 else 4
    labels, other = (
        ball_kmeans(ball.project(means.double()), 8, curvature)[0].tolist()
        for curvature in (c, {1.0: 3.0, 3.0: 1.0}[c])
    )
    clusters = cluster_speakers(names, means, 8, ball)
    assert clusters.labels(names).tolist() == labels != other


@pytest.mark.parametrize("ball", [None, *BALLS], ids=str)
def test_more_clusters_than_speakers_are_refused(ball):
    names, means, _ = grouped_means(0)
    with pytest.raises(ValueError, match="k=41: .* different points, which is 40"):
        cluster_speakers(names, means, 41, ball)


# ---------------------------------------------------------------------- the command


def records(folder):
    return json.loads((folder / "metrics.json").read_text())


@pytest.mark.parametrize("option, ball", [
    ("null", None),
    ("!new:hamsb.ClippedUnitBall [3.0]", ClippedUnitBall(3.0)),
    ("!new:hamsb.PoincareBall [1.0]", PoincareBall(1.0)),
])
def test_what_is_written(run, annotation, encoder, capsys, option, ball):
    out = run(ball=option, seed=3, k="[3, 2]")
    written = sorted(path.name for path in out.iterdir())
    assert written == ["clusters_2.csv", "clusters_3.csv", *FILES]

    names, means = embed_speakers(
        encoder.encode_batch, annotation, RATE, 2, 0.5, 3, progress=False
    )
    points, distance = means.double(), cosine_distance
    if ball is not None:
        points, distance = ball.project(points), ball.pairwise_distance
    distances = distance_matrix(points, distance)
    numbers = records(out)
    for k, record in zip((2, 3), numbers["results"], strict=True):
        clusters = read_clusters(out / f"clusters_{k}.csv")
        expected = cluster_speakers(names, means, k, ball, 3)
        assert clusters.of_speaker == expected.of_speaker
        assert clusters.nearest == expected.nearest
        labels = clusters.labels(SPEAKERS)
        sizes = sorted(np.bincount(labels))
        assert [record[key] for key in ("k", "smallest", "median", "largest")] == [
            k, sizes[0], np.median(sizes), sizes[-1]
        ]
        for name, value in cluster_quality(distances, labels).items():
            assert record[name] == pytest.approx(value)
        silhouette = silhouette_score(distances, labels, metric="precomputed")
        assert record["silhouette"] == pytest.approx(silhouette)
        sampler = SpeakerBatchSampler(
            [row.split(",")[-1] for row in annotation.read_text().split()[1:]],
            2, 3, 0, clusters, hard_ratio=1.0, further_clusters="nearest",
        )
        assert len(list(sampler)) == 3
    assert numbers["settings"]["k"] == [3, 2]
    assert set(numbers["versions"]) >= {"hamsb", "torch", "scikit-learn"}

    report, screen = (out / "report.md").read_text(), capsys.readouterr().out
    first = numbers["results"][0]
    row = f"| 2 | {first['smallest']} | 3 | {first['largest']} | "
    row += f"{first['relative_margin']:.3f} | {first['additive_margin']:.3f} | "
    assert row in report and row in screen and str(out) in screen
    for part in ("seed 3", "hamsb 0.", "(quality.png)", "--seed=3", "6, each the mean"):
        assert part in report
    assert ("Distance: cosine" if ball is None else f"in {ball}") in report


def test_the_plot_is_over_k(real_plot, run, monkeypatch):
    drawn = {}

    def watched(k, measures, path):
        drawn.update(measures, k=k)
        plot_cluster_quality(k, measures, path)

    monkeypatch.setattr(cluster, "plot_cluster_quality", watched)
    out = run(k="[3, 2]")
    assert (out / "quality.png").read_bytes()[1:4] == b"PNG"
    results = records(out)["results"]
    assert drawn.pop("k") == [2, 3] and len(drawn) == 4
    ends = {"relative": "lower", "additive": "higher", "weakest": "lower"}
    for name, (end, values) in drawn.items():
        assert values == [record[name.replace(" ", "_")] for record in results]
        assert end == ends.get(name.split()[0], "higher")


def test_a_second_run_gives_the_same_and_the_model_has_a_ball(run, tmp_path):
    def files(folder):
        return {p.name: p.read_bytes() for p in folder.glob("clusters_*.csv")}

    first = files(run(output_folder=tmp_path / "a"))
    assert files(run(output_folder=tmp_path / "b")) == first
    theirs = run(output_folder=tmp_path / "c", ball="model")
    given = run(output_folder=tmp_path / "d", ball="!new:hamsb.ClippedUnitBall [3.0]")
    assert files(theirs) == files(given)
    assert records(theirs)["results"] == records(given)["results"]
    assert "in ClippedUnitBall(curvature=3)" in (theirs / "report.md").read_text()


@pytest.mark.parametrize("changes, message", [
    ({"k": 2}, "k=2: must be a list of numbers"),
    ({"k": "[]"}, "k=.*must be a list of numbers"),
    ({"k": "[1, 2]"}, r"k=\[1, 2\]: whole numbers, at least 2"),
    ({"k": "[2, 2]"}, "k=.*each once"),
    ({"k": "[2.5]"}, "k=.*whole numbers"),
    ({"k": "[2, 6]"}, r"k=6: .*train.csv has 6 speakers; give numbers below"),
    ({"ball": "poincare"}, "ball=poincare: null for cosine, model for"),
    ({"seconds": -1}, "seconds=-1: must be positive"),
    ({"batch_size": 1.5}, "batch_size=1.5: must be a whole number"),
])
def test_wrong_options_are_refused_at_once(run, tmp_path, monkeypatch, changes, message):
    monkeypatch.setattr(EncoderClassifier, "encode_batch", lambda *_: pytest.fail("began"))
    with pytest.raises(ValueError, match=message):
        run(**changes)
    assert not (tmp_path / "out").exists()


def test_missing_files_and_a_missing_ball(run, corpus, tmp_path):
    with pytest.raises(FileNotFoundError, match="gone.csv: no such csv file"):
        run(annotation=tmp_path / "gone.csv")
    with pytest.raises(FileNotFoundError, match="no exported model here"):
        run(model=tmp_path, annotation=corpus / "save" / "train.csv")
    model = tmp_path / "export"
    shutil.copytree(corpus / "export", model)
    shutil.copy(model / "embedding.yaml", model / "hyperparams.yaml")
    with pytest.raises(ValueError, match="ball=model: needs .* classifier is NoneType"):
        run(model=model, annotation=corpus / "save" / "train.csv", ball="model")


def test_results_appear_whole_or_not_at_all(run, tmp_path, monkeypatch):
    out = run()
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(cluster, "plot_cluster_quality", fail)
    with pytest.raises(OSError, match="disk full"):
        run(seed=8, k="[4]")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_an_infinite_measure_is_written(tmp_path, monkeypatch):
    """Speakers of different clusters that coincide have no gap."""
    distances = 1.0 - np.kron(np.eye(3), np.ones((2, 2)))
    clusters = cluster.make_clusters("abcdef", [0, 1, 0, 1, 0, 1])
    record = cluster.judge(clusters, "abcdef", distances)
    assert record["weakest_link"] == float("inf")
    monkeypatch.setattr(cluster, "plot_cluster_quality", lambda *_: None)
    cluster.write_results(tmp_path, [clusters], [record], "", {"seed": 1})
    assert records(tmp_path)["results"][0]["weakest_link"] == "Infinity"
    assert "| inf |" in cluster.quality_table([record])
