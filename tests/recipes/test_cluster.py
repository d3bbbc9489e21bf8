"""cluster.py on tones: a csv file to clusters, their measures, and what it refuses."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from speechbrain.inference.classifiers import EncoderClassifier

import cluster
from hamsb import ClippedUnitBall, PoincareBall, SpeakerBatchSampler
from hamsb.analysis.clustering import (
    cluster_speakers,
    embed_speakers,
    judge,
    speaker_distances,
)
from hamsb.dataio.annotations import read_utterances
from hamsb.dataio.clusters import make_clusters, read_clusters
from hamsb.utils.run_folder import write_run
from runs import EXPERIMENT, call, export_untrained
from voxceleb_prepare import prepare_voxceleb

RATE = 16000
SPEAKERS = [f"id{i}" for i in range(6)]
FILES = [".lock", "metrics.json", "quality.png", "report.md", "run.json"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """The csv file of six speakers, three of low and three of high tones; a model."""
    root = tmp_path_factory.mktemp("clustering")
    for number, name in enumerate(SPEAKERS):
        noise = np.random.default_rng(number)
        for n in range(3):
            pitch = (150 if number < 3 else 3000) * noise.uniform(0.95, 1.05)
            tone = np.sin(2 * np.pi * pitch * np.arange(RATE) / RATE)
            path = root / "data" / "wav" / name / "x" / f"{n:05d}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, 0.3 * tone + 0.01 * noise.standard_normal(RATE), RATE)
    prepare_voxceleb(root / "data", root / "save", dev_speakers=0, min_duration=0.2)
    export_untrained(root / "export", EXPERIMENT)
    return root


@pytest.fixture
def annotation(corpus):
    return corpus / "save" / "train.csv"


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


def records(folder):
    return json.loads((folder / "metrics.json").read_text())


@pytest.mark.parametrize("option, ball", [
    ("null", None),
    ("!new:hamsb.ClippedUnitBall [3.0]", ClippedUnitBall(3.0)),
    ("!new:hamsb.PoincareBall [1.0]", PoincareBall(1.0)),
])  # fmt: skip
def test_what_is_written(run, corpus, annotation, capsys, option, ball):
    out = run(ball=option, seed=3, k="[3, 2]")
    written = {path.name for path in out.iterdir()}
    assert written == {"clusters_2.csv", "clusters_3.csv", *FILES}

    encoder = EncoderClassifier.from_hparams(
        source=str(corpus / "export"), run_opts={"device": "cpu"}
    )
    names, means = embed_speakers(
        encoder.encode_batch, annotation, RATE, 2, 0.5, 3, progress=False
    )
    assert names == SPEAKERS == list(read_utterances(annotation))
    distances, numbers = speaker_distances(means, ball), records(out)
    for k, record in zip((2, 3), numbers["results"], strict=True):
        clusters = read_clusters(out / f"clusters_{k}.csv")
        expected = cluster_speakers(names, means, k, ball, 3)
        assert clusters.of_speaker == expected.of_speaker
        assert clusters.nearest == expected.nearest
        assert record == judge(expected, names, distances)
        sampler = SpeakerBatchSampler(
            [row.split(",")[-1] for row in annotation.read_text().split()[1:]],
            2, 3, 0, clusters, hard_ratio=1.0, further_clusters="nearest",
        )  # fmt: skip
        assert len(list(sampler)) == 3
    assert numbers["settings"]["k"] == [3, 2]
    assert set(numbers["versions"]) >= {"hamsb", "torch", "scikit-learn"}

    report, screen = (out / "report.md").read_text(), capsys.readouterr().out
    first = numbers["results"][0]
    row = f"| 2 | {first['smallest']} | 3 | {first['largest']} | "
    row += f"{first['relative_margin']:.3f} | {first['additive_margin']:.3f} | "
    assert row in report and row in screen and str(out) in screen
    for part in ("| relative margin ↓ | additive margin ↑ |", "| silhouette ↑ |"):
        assert part in report
    for part in ("seed 3", "hamsb 0.", "(quality.png)", "--seed=3", "6, each the mean"):
        assert part in report
    assert ("Distance: cosine" if ball is None else f"in {ball}") in report


def test_the_plot_is_over_k(real_plot, run, monkeypatch):
    drawn, draw = {}, cluster.plot_cluster_quality

    def watched(k, measures, path):
        drawn.update(measures, k=k)
        draw(k, measures, path)

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


def test_wrong_options_are_refused_at_once(run, tmp_path, monkeypatch):
    monkeypatch.setattr(EncoderClassifier, "encode_batch", lambda *_: pytest.fail("began"))
    for changes, message in (
        ({"k": 2}, "k=2: must be a list of numbers"),
        ({"k": "[]"}, "k=.*must be a list of numbers"),
        ({"k": "[1, 2]"}, r"k=\[1, 2\]: whole numbers, at least 2"),
        ({"k": "[2, 2]"}, "k=.*each once"),
        ({"k": "[2.5]"}, "k=.*whole numbers"),
        ({"k": "[2, 6]"}, r"k=6: .*train.csv has 6 speakers; give numbers below"),
        ({"ball": "poincare"}, "ball=poincare: null for cosine, model for"),
        ({"seconds": -1}, "seconds=-1: must be positive"),
        ({"batch_size": 1.5}, "batch_size=1.5: must be a whole number"),
    ):
        with pytest.raises(ValueError, match=message):
            run(**changes)
        assert not (tmp_path / "out").exists()


def test_a_folder_of_another_script_is_left_as_it_is(run, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "embed_speakers", lambda *_, **__: pytest.fail("embedded"))
    write_run(tmp_path / "out", {"script": "train.py"})
    (tmp_path / "out" / "report.md").write_text("of the training")
    with pytest.raises(ValueError, match="output_folder=.*holds a run of train.py"):
        run()
    assert (tmp_path / "out" / "report.md").read_text() == "of the training"


def test_a_missing_package_is_named_at_once(run, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "missing", lambda extra: f"{extra} is not installed")
    with pytest.raises(ValueError, match="clustering is not installed"):
        run()
    assert not (tmp_path / "out").exists()


def test_missing_files_and_a_missing_ball(run, annotation, corpus, tmp_path):
    with pytest.raises(FileNotFoundError, match="gone.csv: no such csv file"):
        run(annotation=tmp_path / "gone.csv")
    with pytest.raises(FileNotFoundError, match="no exported model here"):
        run(model=tmp_path, annotation=annotation)
    model = tmp_path / "export"
    shutil.copytree(corpus / "export", model)
    shutil.copy(model / "embedding.yaml", model / "hyperparams.yaml")
    with pytest.raises(ValueError, match="ball=model: needs a model with a hyperbolic"):
        run(model=model, annotation=annotation, ball="model")


def test_results_appear_whole_or_not_at_all(run, monkeypatch):
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
    clusters = make_clusters("abcdef", [0, 1, 0, 1, 0, 1])
    record = judge(clusters, "abcdef", distances)
    assert record["weakest_link"] == float("inf")
    monkeypatch.setattr(cluster, "plot_cluster_quality", lambda *_: None)
    cluster.write_results(tmp_path, [clusters], [record], "", {"seed": 1})
    assert records(tmp_path)["results"][0]["weakest_link"] == "Infinity"
    assert "| inf |" in cluster.quality_table([record])
