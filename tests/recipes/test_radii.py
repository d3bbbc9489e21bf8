"""radii.py on tones: what is measured, against naive loops, and what it refuses."""

import json
import math
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import radii
import torch
from matplotlib.figure import Figure
from runs import EXPERIMENT, call, export_untrained, write_list, write_speakers
from scipy.stats import spearmanr
from speechbrain.inference.classifiers import EncoderClassifier

from hamsb import ClippedUnitBall, PoincareBall
from hamsb.verification.embeddings import Embeddings

FILES = ["disk.png", "metrics.json", "radii.png", "report.md"]
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
    norm, centred, radius, center_norm, center = found["summaries"]
    assert norm["number"] == found["utterances"] == 16
    assert norm["mean"] == pytest.approx(norms.mean(), rel=1e-5)
    assert norm["median"] == pytest.approx(np.median(norms), rel=1e-5)
    assert (norms > r).all() and norm["limited"] == radius["limited"] == 1.0
    assert (radius["std"], radius["max"]) == (0, pytest.approx(2 * math.atanh(r)))
    lengths = encoder.mods["classifier"].centers.detach().double().norm(dim=1).numpy()
    assert center["mean"] == pytest.approx(np.mean(2 * np.arctanh(lengths)), rel=1e-6)
    assert center["limited"] == 0.0 and center_norm["max"] == pytest.approx(lengths.max())
    mean = torch.cat(vectors).squeeze(1).double().mean(0)
    about = torch.cat(vectors).squeeze(1).double().sub(mean).norm(dim=1)
    assert centred["mean"] == pytest.approx(about.mean().item(), rel=1e-4)

    # No utterance lasts a minute, and the shorter ones are not cut to 1.2 s.
    lines = {(line["kind"], line["value"]): line for line in found["conditions"]}
    assert list(lines) == [("whole", None), ("crop", 0.5), ("crop", 1.2),
                           ("noise", 10), ("noise", 0)]
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
    for text in ("16 of 4 speakers", "5 draws", "hamsb 0.", "Noise, pink"):
        assert text in report
    assert "| embeddings: radius | 16 | 0.6549 | 0 |" in screen
    assert found["settings"]["model"] == str(corpus / "clipped")


def test_a_monotone_radius_has_the_rank_correlations_of_the_norm(run, corpus):
    found = numbers(run(model=corpus / "poincare"))
    for line in found["embeddings"]:
        assert line["norm"]["rho"] == pytest.approx(line["radius"]["rho"], abs=1e-12)
        assert line["norm"]["interval"] == pytest.approx(line["radius"]["interval"])
        assert line["norm"]["rho"] != line["centred"]["rho"]
    assert [line["pairs"] for line in found["centers"]] == [2, 2]


def test_a_model_without_a_ball_has_norms_alone(run, corpus):
    out = run()
    assert (out / "disk.png").exists()
    found = numbers(run(model=corpus / "plain"))
    assert sorted(path.name for path in out.iterdir()) == FILES[1:]  # that disk is gone
    assert [line["of"] for line in found["summaries"]] == [
        "embeddings: norm", "embeddings: norm about the mean",
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


# ------------------------------------------------------------- utterances, changed


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_shorter_crops_lie_within_longer_ones(seed):
    wav = torch.randn(1000, generator=torch.Generator().manual_seed(seed))
    ends = []
    for samples in (1, 10, 500, 999, 1000):
        crop = radii.cut(wav, samples, seed=5)
        (start,) = (wav.unfold(0, samples, 1) == crop).all(1).nonzero().ravel().tolist()
        ends.append((start, start + samples))
    assert all(a >= c and b <= d for (a, b), (c, d) in zip(ends, ends[1:]))
    assert ends[-1] == (0, 1000)
    starts = {torch.equal(radii.cut(wav, 10, s), radii.cut(wav, 10, 5)) for s in range(20)}
    assert False in starts


@pytest.mark.parametrize("kind", radii.NOISES)
def test_noise_has_the_power_that_is_asked_for(kind):
    wav = 0.1 * torch.randn(8000, generator=torch.Generator().manual_seed(0))
    added = {s: radii.add_noise(wav, kind, s, seed=0) - wav for s in (20, 10, 0)}
    for snr, noise in added.items():
        power = (wav.square().mean() / noise.square().mean()).item()
        assert 10 * math.log10(power) == pytest.approx(snr, abs=1e-3)
    torch.testing.assert_close(added[0], 10 * added[20], atol=1e-6, rtol=1e-4)
    assert radii.add_noise(wav, kind, 0, 0).dtype == torch.float32
    silence = torch.zeros(100)
    assert torch.equal(radii.add_noise(silence, kind, 0, seed=0), silence)


def test_an_utterance_is_changed_in_the_same_way_whatever_is_beside_it():
    files = {f"id{i}/{i}": Path(f"{i}") for i in range(50)}
    chosen = radii.choose(files, 20, 0)
    assert len(chosen) == 20 and chosen.items() <= files.items()
    assert list(chosen) == sorted(chosen)
    assert radii.choose(dict(reversed(files.items())), 20, 0) == chosen
    assert radii.choose(files, 20, 1) != chosen
    assert radii.choose(files, None, 0) == radii.choose(files, 99, 0) == files


# -------------------------------------------------------------------- correlations


@pytest.mark.parametrize("seed", range(3))
def test_correlation_is_scipys_with_infinity_the_highest_rank(seed):
    random = np.random.default_rng(seed)
    x = random.integers(5, size=40).astype(float)
    y = x + 3 * random.standard_normal(40)
    expected = spearmanr(x, y).statistic
    infinite = np.where(x == 4, np.inf, x)
    owner = np.arange(40) // 4
    found = radii.correlation(y, infinite, owner, 200, 0)
    assert found["rho"] == pytest.approx(expected, abs=1e-12)
    low, high = found["interval"]
    assert low < expected < high
    assert radii.correlation(-y, x, owner, 0, 0)["rho"] == pytest.approx(-expected)


def test_speakers_are_drawn_and_not_pairs():
    """So pairs that are there ten times make an interval no narrower."""
    random = np.random.default_rng(0)
    x, y = random.standard_normal((2, 15))
    one = radii.correlation(x, y, np.arange(15), 100, 0)
    ten = radii.correlation(*(np.repeat(v, 10) for v in (x, y, np.arange(15))), 100, 0)
    assert one["interval"] == pytest.approx(ten["interval"])
    assert one["interval"][1] - one["interval"][0] > 0.5


@pytest.mark.parametrize("x, y", [
    ([1, 1, 1, 1], [1, 2, 3, 4]), ([1, 2, 3, 4], [2, 2, 2, 2]), ([1, 2], [2, 1]), ([], []),
])
@pytest.mark.filterwarnings("error")
def test_no_correlation_of_what_does_not_vary(x, y):
    assert radii.correlation(x, y, range(len(x)), 10, 0) is None


def test_a_draw_without_a_correlation_is_replaced():
    found = radii.correlation([1, 1, 2], [1, 2, 3], ["a", "b", "c"], 50, 0)
    assert np.isfinite(found["interval"]).all()


@pytest.mark.parametrize("nearest", [1, 3, 100])
def test_confusability_against_a_loop(nearest):
    names = tuple(f"id{i // 4}/{i}" for i in range(10))
    x = torch.randn(10, 6, generator=torch.Generator().manual_seed(0))
    condition = radii.Condition("whole", math.inf, Embeddings(names, x), None)
    expected = []
    for i, name in enumerate(names):
        others = sorted(
            torch.cosine_similarity(x[i].double(), x[j].double(), dim=0).item()
            for j, other in enumerate(names)
            if other[:3] != name[:3]
        )
        expected.append(np.mean(others[-nearest:]))
    found = radii.confusabilities(condition, nearest)
    np.testing.assert_allclose(found, expected, atol=1e-12)


# --------------------------------------------------------------------- the centers


@pytest.mark.parametrize("ball", [ClippedUnitBall(3.0), PoincareBall(2.0, gain=1.0)])
def test_centers_against_a_loop(ball, monkeypatch):
    monkeypatch.setattr(radii, "BLOCK", 4)
    generator = torch.Generator().manual_seed(0)
    lengths = radii.measure(
        ball, 0.3 * torch.randn(11, 3, generator=generator, dtype=torch.float64)
    )
    points = lengths.points
    nearest, cosines = [], []
    for i, x in enumerate(points):
        others = [y for j, y in enumerate(points) if j != i]
        nearest.append(min(ball.distance(x, y).item() for y in others))
        cosines.append(max(torch.cosine_similarity(x, y, dim=0).item() for y in others))
    found = radii.nearest_centers(ball, points)
    np.testing.assert_allclose(found[0], nearest, rtol=1e-6)
    np.testing.assert_allclose(found[1], cosines, atol=1e-9)
    # Each other's nearest are equally far.
    assert len(set(found[0])) < len(nearest) > len(set(found[1]))
    nearest, cosines = np.round(nearest, 8), np.round(cosines, 8)
    # With changed speeds, classes are no speakers of the annotation.
    names = [f"s{i}" for i in range(5)] + [f"s{i} at 90 %" for i in range(5)] + [None]
    counts = Counter({f"s{i}": i * i for i in range(5)})
    lines = radii.relate_centers(ball, lengths, names, counts, 0, 0)
    radius = [round(ball.distance(x, torch.zeros_like(x)).item(), 8) for x in points]
    for line, other in zip(lines, (nearest, cosines, [0, 1, 4, 9, 16]), strict=True):
        assert line["pairs"] == len(other)
        expected = spearmanr(radius[: len(other)], other).statistic
        assert line["radius"]["rho"] == pytest.approx(expected, abs=1e-12)


def test_training_utterances_are_counted_in_the_annotation(run, tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("ID,spk_id\n1,a\n2,b\n3,a\n")
    assert radii.count_utterances(path) == {"a": 2, "b": 1}
    found = numbers(run(train_annotation=path))
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


@pytest.mark.parametrize("key, value, message", [
    ("utterances", 1, "utterances=1: must be a whole number, at least 2"),
    ("utterances", 2.5, "utterances=2.5"),
    ("nearest", 0, "nearest=0"),
    ("bootstrap_draws", -1, "bootstrap_draws=-1"),
    ("seed", "null", "seed=None"),
    ("crop_seconds", 2, "crop_seconds=2: must be a list"),
    ("crop_seconds", "[1, 0]", "0 must be a number, given once and positive"),
    ("snrs", "[5, 5]", "5 must be a number, given once"),
    ("snrs", "[.inf]", "inf must be a number"),
    ("noise", "babble", "noise=babble: must be one of white, pink"),
    ("model", "/nowhere", "no exported model here"),
])
def test_refuses(run, tmp_path, monkeypatch, key, value, message):
    monkeypatch.setattr(radii, "embed_sets", lambda *_, **__: pytest.fail("embedded"))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(**{key: value})
    assert not (tmp_path / "out").exists()


def test_nobody_to_be_confused_with(run, corpus, tmp_path, monkeypatch):
    own = {f"id00/{k}": k for k in range(3)}
    embeddings = Embeddings(tuple(own), torch.eye(3), torch.ones(3, dtype=torch.float64))
    condition = radii.Condition("whole", math.inf, embeddings, None)
    with pytest.raises(ValueError, match="all utterances are of speaker id00: nobody"):
        radii.confusabilities(condition, 3)


def test_bad_audio_names_list_and_line(run, corpus, tmp_path):
    shutil.copytree(corpus / "test", tmp_path / "test")
    first = (corpus / "O.txt").read_text().split()[1]
    (tmp_path / "test" / "wav" / first).write_bytes(b"RIFF, but no audio")
    with pytest.raises(ValueError, match=f"O.txt:1: .*{first}: cannot be read"):
        run(test_data_folder=tmp_path / "test", utterances="null")


def test_results_appear_whole_or_not_at_all(run, monkeypatch):
    out = run()
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(radii, "plot_disk", fail)
    with pytest.raises(OSError, match="disk full"):
        run(seed=5)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
