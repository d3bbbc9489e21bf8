"""corpora.py: which runs are compared, the mean over corpora, and what it refuses."""

import csv
import json
import sys
from pathlib import Path

import corpora
import numpy as np
import pytest
import yaml

from hamsb.utils.run_folder import write_run
from hamsb.verification.bootstrap import bootstrap_eer

sys.path.insert(0, str(Path(__file__).parent))
from stand_in_train import LABELS, TRIALS, leave_a_run, scores_with  # noqa: E402

# Wrong targets of the 40 by seed: an EER of 2.5 % each
WRONG = {
    "one/aam": {1: 4, 2: 6}, "one/ham": {1: 3, 2: 3, 3: 20}, "one/new": {2: 3},
    "two/aam": {1: 10}, "two/ham": {1: 5},
}  # fmt: skip
EXPERIMENTS = {
    "aam": {"small": "one/aam", "large": "two/aam"},
    "ham": {"small": "one/ham", "large": "two/ham"},
    "new": {"small": "one/new"},
}


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A function that runs corpora.py, its yaml changed by keywords, in a folder with
    the runs of WRONG, and returns the output folder."""
    monkeypatch.chdir(tmp_path)
    for name, seeds in WRONG.items():
        for seed, wrong in seeds.items():
            leave_a_run(f"{name}/{seed}", wrong)
    Path("one/ham/search_1").mkdir()  # no run of a seed

    def run(*options, **changes):
        content = {
            "output_folder": "out",
            "verification_list": "test",
            "seeds": None,
            "bootstrap_draws": 50,
            "baseline": "aam",
            "experiments": EXPERIMENTS,
            **changes,
        }
        Path("study.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        corpora.main(["study.yaml", *options])
        return tmp_path / "out"

    return run


def rows(folder):
    with open(folder / "corpora.csv", newline="", encoding="utf-8") as file:
        return {(row["experiment"], row["corpus"]): row for row in csv.DictReader(file)}


def test_changes_are_over_common_seeds_and_their_mean_over_corpora(study, capsys):
    out = study()
    found = rows(out)
    assert [*found] == [
        ("aam", "small"), ("aam", "large"),
        ("ham", "small"), ("ham", "large"), ("ham", "mean"), ("new", "small"),
    ]  # fmt: skip
    rates = {key: float(row["EER %"] or "nan") for key, row in found.items()}
    assert rates["aam", "small"] == pytest.approx(12.5)
    assert rates["ham", "small"] == pytest.approx(2.5 * 26 / 3, rel=1e-5)
    assert found["ham", "small"]["seeds"] == "3"
    deviation = np.std([7.5, 7.5, 50], ddof=1)
    assert float(found["ham", "small"]["EER % deviation"]) == pytest.approx(deviation, 1e-5)
    assert found["ham", "large"]["EER % deviation"] == ""
    changes = {key: row["change %"] for key, row in found.items()}
    assert changes == {
        ("aam", "small"): "", ("aam", "large"): "",
        ("ham", "small"): "-40", ("ham", "large"): "-50", ("ham", "mean"): "-45",
        ("new", "small"): "-50",
    }  # fmt: skip
    row = found["ham", "mean"]
    assert float(row["change low %"]) < -45 < float(row["change high %"])
    report = (out / "report.md").read_text()
    table, _, below = report.partition("\n\nEER: ")
    assert "| ham | mean |  |  | -45.0 | -" in table
    assert "| aam | large | 1 | 25.00 |  |  |" in table
    assert "| new | one/new |  |\n" in below
    assert "`corpora.py study.yaml`" in below
    assert table.removeprefix("# out\n\n") in capsys.readouterr().out


def test_speakers_of_each_corpus_are_drawn_on_their_own(study):
    """With one run of either side a corpus has the interval of its speakers' draws, the
    first with seed 0, the second with seed 1."""
    out = study("--seeds=[1]", experiments={n: EXPERIMENTS[n] for n in ("aam", "ham")})
    enrol, test = ([trial[k].split("/")[0] for trial in TRIALS] for k in (0, 1))
    draws = []
    for seed, (own, baseline) in enumerate([(3, 4), (5, 10)]):
        scores = np.stack([scores_with(own), scores_with(baseline)])
        ours, theirs = bootstrap_eer(scores, LABELS, enrol, test, 50, seed)
        draws.append(100 * (ours / theirs - 1))
    found = rows(out)
    for values, corpus in ((draws[0], "small"), (draws[1], "large")):
        assert_interval(found["ham", corpus], values)
    assert_interval(found["ham", "mean"], np.mean(draws, 0))
    assert found["ham", "small"]["seeds"] == "1"


def assert_interval(row, values):
    ends = [float(row[f"change {end} %"]) for end in ("low", "high")]
    assert ends == pytest.approx(np.quantile(values, [0.025, 0.975]), rel=1e-4)


def test_speakers_are_those_that_the_runs_tell(study):
    """Paths without speakers: metrics.json has those, here of one run alone."""
    spoken = {"a.wav": "anna", "b.wav": "anna", "c.wav": "bert", "d.wav": "bert"}
    lines = "a.wav b.wav 1 0.9\nc.wav d.wav 1 0.3\na.wav c.wav 0 0.4\nb.wav d.wav 0 0.1\n"
    for run in ("one/aam/1", "one/ham/1"):
        Path(run, "scores_test.txt").write_text(lines)
    experiments = {name: {"small": f"one/{name}"} for name in ("aam", "ham")}
    with pytest.raises(ValueError, match="labels contradict its speakers"):
        study("--seeds=[1]", experiments=experiments)
    path = Path("one/aam/1/metrics.json")
    told = {"told_speakers": {"test": spoken}}
    path.write_text(json.dumps(json.loads(path.read_text()) | told))
    found = rows(study("--seeds=[1]", experiments=experiments))
    assert [*found] == [("aam", "small"), ("ham", "small")]  # one corpus has no mean
    assert found["ham", "small"]["change %"] == "0"


def test_refused(study, tmp_path):
    two = {"aam": {"small": "one/aam"}, "ham": {"small": "one/ham"}}
    for changes, message in [
        ({"baseline": "am"}, "baseline=am: one of aam, ham, new"),
        ({"experiments": {"aam": {}}}, r"experiments\[aam\]={}: {corpus: folder"),
        ({"experiments": {"aam": "one/aam"}}, r"experiments\[aam\]=one/aam: {corpus: "),
        ({"experiments": two | {"ham": {"big": "x"}}}, "baseline aam has no runs on big"),
        ({"experiments": {"aam": {"mean": "one/aam"}}}, "a corpus cannot be called mean"),
        ({"verification_list": {"small": "test"}}, "one for each of small, large"),
        ({"verification_list": 3}, "verification_list=3: the name of a list"),
        ({"verification_list": "other"}, "one/aam/1 has no scores of it, but of test"),
        ({"seeds": [1, 1]}, r"seeds=\[1, 1\]: a list of different whole"),
        ({"bootstrap_draws": 0}, "bootstrap_draws=0"),
    ]:
        with pytest.raises(ValueError, match=message):
            study(**changes)
    for changes, message in [
        ({"seeds": [7]}, "one/aam/7: holds no finished run"),
        ({"experiments": {"aam": {"small": "nowhere"}}}, "nowhere: holds no runs, which"),
    ]:
        with pytest.raises(FileNotFoundError, match=message):
            study(**changes)
    apart = {"aam": {"small": "one/new"}, "ham": {"small": "two/ham"}}
    with pytest.raises(ValueError, match="ham and aam: no common seed on small"):
        study(experiments=apart)
    path = Path("one/ham/1/scores_test.txt")
    path.write_text(path.read_text().replace("s1/a/1.wav", "s1/a/other.wav"))
    with pytest.raises(ValueError, match="one/ham/1: scored another list test"):
        study(experiments=two)
    path = Path("one/new/2/scores_test.txt")
    path.write_text(path.read_text().replace("s1/b/1.wav 1", "s1/b/1.wav 0"))
    with pytest.raises(ValueError, match="labels contradict its speakers"):
        study(experiments={"aam": {"small": "one/new"}})
    write_run(tmp_path / "out", {"script": "train.py"})
    with pytest.raises(ValueError, match="holds a run of train.py"):
        study()
