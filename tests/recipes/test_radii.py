"""radii.py on tones: lists to lengths, radii and correlations, and what it refuses."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import radii
import torch
from matplotlib.figure import Figure
from speechbrain.inference.classifiers import EncoderClassifier

from hamsb.utils.run_folder import write_run
from runs import EXPERIMENT, call, export_untrained, write_list, write_speakers

FILES = [".lock", "disk.png", "metrics.json", "radii.png", "report.md", "run.json"]
PUBLISHED = "ball: !new:hamsb.ClippedUnitBall\n    curvature: 3.0"
CLIPPED = PUBLISHED.replace("3.0", "10.0")  # so small that it limits these embeddings
POINCARE = "ball: !new:hamsb.PoincareBall\n    curvature: 2.0\n    learnable: True"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """test/ of 4 speakers, its list, and models: clipped/, poincare/ and plain/."""
    root = tmp_path_factory.mktemp("radii")
    write_speakers(root / "test", 4, 0)
    write_list(root / "test", root / "O.txt", [f"id{i:02d}" for i in range(4)])
    for name, ball in (("clipped", CLIPPED), ("poincare", POINCARE)):
        export_untrained(root / name, EXPERIMENT.replace(PUBLISHED, ball))
    shutil.copytree(root / "clipped", root / "plain")
    shutil.copy(root / "plain" / "embedding.yaml", root / "plain" / "hyperparams.yaml")
    return root


@pytest.fixture
def run(request, corpus, repository, tmp_path, monkeypatch):
    """A function that measures and returns the output folder; plots are empty files,
    but where a test asks for ``real_plots``."""
    monkeypatch.chdir(repository)
    if "real_plots" not in request.fixturenames:
        empty = lambda figure, path, **options: Path(path).touch()  # noqa: E731
        monkeypatch.setattr(Figure, "savefig", empty)

    def run(**changes):
        values = {
            "model": corpus / "clipped",
            "test_data_folder": corpus / "test",
            "verification_file": corpus / "O.txt",
            "output_folder": tmp_path / "out",
            "crop_seconds": "[0.5, 1.2, 60]",
            "snrs": "[10, 0]",
            "nearest": 3,
            "bootstrap_draws": 5,
            "device": "cpu",
            **changes,
        }
        return call(radii.main, "hparams/studies/radii.yaml", values)

    return run


@pytest.fixture
def real_plots():
    """Asked for where the plots are to be real."""


def numbers(folder):
    return json.loads((folder / "metrics.json").read_text(), parse_constant=pytest.fail)


def of_related(results, text):
    (line,) = [line for line in results if text in line["related_to"]]
    return line


# ------------------------------------------------------------------- the whole path


def test_whole_path(real_plots, run, corpus, capsys):
    out = run()
    assert sorted(path.name for path in out.iterdir()) == FILES
    for name in ("disk.png", "radii.png"):
        assert (out / name).read_bytes()[1:4] == b"PNG"
    encoder = EncoderClassifier.from_hparams(
        source=str(corpus / "clipped"), run_opts={"device": "cpu"}
    )
    files = sorted((corpus / "test" / "wav").rglob("*.wav"))
    with torch.no_grad():
        vectors = [encoder.encode_batch(encoder.load_audio(str(f))[None]) for f in files]
    norms = torch.stack([v.squeeze().double().norm() for v in vectors]).numpy()
    r = (1 - 1e-5) / math.sqrt(10)
    found = numbers(out)
    norm, centered, radius, center_norm, center = found["summaries"]
    assert norm["number"] == found["utterances"] == 16
    assert norm["mean"] == pytest.approx(norms.mean(), rel=1e-5)
    assert norm["median"] == pytest.approx(np.median(norms), rel=1e-5)
    assert (norms > r).all() and norm["clipped"] == radius["clipped"] == 1.0
    assert (radius["std"], radius["max"]) == (0, pytest.approx(2 * math.atanh(r)))
    lengths = encoder.mods["classifier"].centers.detach().double().norm(dim=1).numpy()
    assert center["mean"] == pytest.approx(np.mean(2 * np.arctanh(lengths)), rel=1e-6)
    assert center["clipped"] == 0.0 and center_norm["max"] == pytest.approx(lengths.max())
    mean = torch.cat(vectors).squeeze(1).double().mean(0)
    about = torch.cat(vectors).squeeze(1).double().sub(mean).norm(dim=1)
    assert centered["mean"] == pytest.approx(about.mean().item(), rel=1e-4)

    # No utterance lasts a minute, and the shorter ones are not cut to 1.2 s.
    lines = {(line["kind"], line["value"]): line for line in found["conditions"]}
    assert list(lines) == [
        ("whole", None),
        ("crop", 0.5),
        ("crop", 1.2),
        ("noise", 10),
        ("noise", 0),
    ]
    assert lines["whole", None]["norm"]["share"] == 1.0
    assert lines["crop", 0.5]["norm"]["number"] == 16
    assert 0 < lines["crop", 1.2]["norm"]["number"] < 16
    pairs = of_related(found["embeddings"], "utterances and crops")["pairs"]
    assert pairs == 32 + lines["crop", 1.2]["norm"]["number"]
    assert all(line["radius"] is None for line in found["embeddings"])
    low, high = of_related(found["embeddings"], "signal-to-noise")["norm"]["interval"]
    assert -1 <= low <= high <= 1

    report, screen = (out / "report.md").read_text(), capsys.readouterr().out
    for text in ("| embeddings: radius | 16 | 0.6549 | 0 |", "(disk.png)", "(radii.png)"):
        assert text in report
    assert "Speakers who trained the model, of the 2 that it names: 0 of 4 in O" in report
    for text in ("16 of 4 speakers", "5 draws", "hamsb 0.", "Noise, pink"):
        assert text in report
    assert "| embeddings: radius | 16 | 0.6549 | 0 |" in screen
    assert found["settings"]["model"] == str(corpus / "clipped")


def test_a_monotone_radius_has_the_rank_correlations_of_the_norm(run, corpus):
    found = numbers(run(model=corpus / "poincare"))
    for line in found["embeddings"]:
        assert line["norm"]["rho"] == pytest.approx(line["radius"]["rho"], abs=1e-12)
        assert line["norm"]["interval"] == pytest.approx(line["radius"]["interval"])
        assert line["norm"]["rho"] != line["centered"]["rho"]
    assert [line["pairs"] for line in found["centers"]] == [2, 2]


def test_a_model_without_a_ball_has_norms_alone(run, corpus):
    out = run()
    assert (out / "disk.png").exists()
    found = numbers(run(model=corpus / "plain"))
    assert sorted(path.name for path in out.iterdir()) == [
        name for name in FILES if name != "disk.png"
    ]  # that disk is gone
    assert [line["of"] for line in found["summaries"]] == [
        "embeddings: norm",
        "embeddings: norm about the mean",
    ]
    assert "centers" not in found and "radius" not in found["embeddings"][0]
    report = (out / "report.md").read_text()
    assert "no ball" in report and "disk.png" not in report and "Centers" not in report


def test_the_same_seed_gives_the_same_and_the_count_is_a_cap(run):
    one, two, other = (
        numbers(run(utterances=6, bootstrap_draws=0, seed=seed)) for seed in (1, 1, 2)
    )
    assert one == two and one["conditions"] != other["conditions"]
    assert one["utterances"] == 6 and one["embeddings"][1]["norm"]["interval"] is None


# ------------------------------------------------------------------ the annotation


def test_training_utterances_are_counted_in_the_annotation(run, tmp_path, monkeypatch):
    path = tmp_path / "train.csv"
    path.write_text("ID,spk_id\n1,a\n2,b\n3,a\n")
    given, relate = [], radii.relate_centers
    monkeypatch.setattr(
        radii, "relate_centers", lambda *options: given.append(options) or relate(*options)
    )
    found = numbers(run(train_annotation=path))
    assert given[0][2:4] == (["a", "b"], {"a": 2, "b": 1})
    assert of_related(found["centers"], "training utterances")["pairs"] == 2
    path.write_text("ID,spk_id\n1,c\n")
    with pytest.raises(ValueError, match="none of its 1 speakers is a class"):
        run(train_annotation=path)
    path.write_text("ID,speaker\n1,c\n")
    with pytest.raises(ValueError, match="train.csv:1: no column spk_id"):
        run(train_annotation=path)
    with pytest.raises(FileNotFoundError, match="gone.csv: no such csv file"):
        run(train_annotation=tmp_path / "gone.csv")


# ------------------------------------------------------------------- what is refused


def test_refuses(run, tmp_path, monkeypatch):
    monkeypatch.setattr(radii, "embed_conditions", lambda *_, **__: pytest.fail("embedded"))
    for key, value, message in (
        ("utterances", 1, "utterances=1: must be a whole number, at least 2"),
        ("utterances", 2.5, "utterances=2.5"),
        ("nearest", 0, "nearest=0"),
        ("bootstrap_draws", -1, "bootstrap_draws=-1"),
        ("num_workers", -1, "num_workers=-1: must be a whole number, at least 0"),
        ("seed", "null", "seed=None"),
        ("crop_seconds", 2, "crop_seconds=2: must be a list"),
        ("crop_seconds", "[1, 0]", "0 must be a number, given once and positive"),
        ("snrs", "[5, 5]", "5 must be a number, given once"),
        ("snrs", "[.inf]", "inf must be a number"),
        ("noise", "babble", "noise='babble': must be one of .*'white', 'pink'"),
        ("model", "/nowhere", "no exported model here"),
        ("verification_file", "[]", "at least one trial list"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            run(**{key: value})
        assert not (tmp_path / "out").exists()
    write_run(tmp_path / "out", {"script": "verify.py"})
    with pytest.raises(ValueError, match="output_folder=.*holds a run of verify.py"):
        run()


def test_bad_audio_names_list_and_line(run, corpus, tmp_path):
    shutil.copytree(corpus / "test", tmp_path / "test")
    first = (corpus / "O.txt").read_text().split()[1]
    (tmp_path / "test" / "wav" / first).write_bytes(b"RIFF, but no audio")
    with pytest.raises(ValueError, match=f"O.txt:1: .*{first}: cannot be read"):
        run(test_data_folder=tmp_path / "test", utterances="null")
    text, rows = (corpus / "O.txt").read_text(), ["ID,wav,spk_id"]  # speakers are told
    for number, wav in enumerate(sorted((tmp_path / "test" / "wav").glob("*/*/*.wav"))):
        name = "/".join(wav.parts[-3:])
        text = text.replace(name, f"u{number:02d}")
        rows.append(f"u{number:02d},{wav},{wav.parts[-3]}")
    (tmp_path / "O.txt").write_text(text)
    (tmp_path / "data.csv").write_text("\n".join(rows))
    with pytest.raises(ValueError, match=f"O.txt:1: .*{first}: cannot be read"):
        run(
            test_data_folder=tmp_path / "data.csv",
            verification_file=tmp_path / "O.txt",
            utterances="null",
        )


def test_results_appear_whole_or_not_at_all(run, monkeypatch):
    out = run()
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(radii, "plot_disk", fail)
    with pytest.raises(OSError, match="disk full"):
        run(seed=5)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
