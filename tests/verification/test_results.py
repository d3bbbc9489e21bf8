"""Tables, names and files of results."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from hamsb.verification import plots as plots_module
from hamsb.verification import results
from hamsb.verification.evaluation import evaluate_groups, evaluate_trials
from hamsb.verification.groups import trial_groups
from hamsb.verification.results import groups_table, results_table
from hamsb.verification.systems import System
from hamsb.verification.trials import Trials
from runs import random_trials


def test_results_table():
    counts = {"target_trials": 2, "impostor_trials": 3}
    rows = [
        {
            "list": "O",
            **counts,
            "eer": 0.0125,
            "min_dcf_0.01": 1.0,
            "min_dcf_threshold_0.01": 0.5,
        },
        {
            "list": "O, calibrated",
            **counts,
            "eer": 0.5,
            "eer_interval": (0.401, 0.5512),
            "min_dcf_0.01": 0.0,
            "act_dcf_0.01": 0.25,
            "cllr": 0.125,
            "min_cllr": 0.1,
        },
    ]
    assert results_table(rows).splitlines() == [
        "| list | target trials | impostor trials | EER % | 95 % interval | minDCF(p=0.01) "
        "| actDCF(p=0.01) | Cllr | min Cllr |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| O | 2 | 3 | 1.250 |  | 1.000 |  |  |  |",
        "| O, calibrated | 2 | 3 | 50.000 | 40.10 to 55.12 | 0.000 | 0.250 | 0.125 "
        "| 0.100 |",
    ]
    assert results_table(rows[:1]).splitlines()[0].endswith("| EER % | minDCF(p=0.01) |")


def test_table_of_real_numbers():
    trials, scores = random_trials()
    result = evaluate_trials(trials, scores, calibrated=True)
    header, _, line = results_table([result]).splitlines()
    names = [name.strip() for name in header.strip("|").split("|")]
    cells = dict(zip(names, (cell.strip() for cell in line.strip("|").split("|"))))
    assert len(cells) == 10 and cells["list"] == "random"
    assert float(cells["EER %"]) == pytest.approx(100 * result["eer"], abs=5e-4)
    for name in ("minDCF", "actDCF"):
        key = {"minDCF": "min_dcf", "actDCF": "act_dcf"}[name]
        for p in (0.01, 0.05):
            found = float(cells[f"{name}(p={p})"])
            assert found == pytest.approx(result[f"{key}_{p}"], abs=5e-4)


def test_groups_table(six_trials):
    scores = np.array([0.9, 0.2, 0.8, 0.4, 0.1, 0.3])
    results = evaluate_groups(six_trials, scores, trial_groups(six_trials), (0.05,))
    table = groups_table([{"list": "small", **result} for result in results]).splitlines()
    assert table[0] == (
        "| list | trials by | group | target trials | impostor trials | EER % "
        "| minDCF(p=0.05) |"
    )
    assert table[1] == "| --- | --- | --- | ---: | ---: | ---: | ---: |"
    assert table[2] == "| small | session | same | 1 | 3 | 0.000 | 0.000 |"
    assert table[3].startswith("| small | session | different | 2 | 3 | ")


# What is written


DECISION = {"list": "dev", "thresholds": {"eer": 0.5, "min_dcf_0.01": 2.5}}


def silent(table, groups, plots):
    return table + groups


@pytest.fixture
def plots(monkeypatch):
    """Stand-ins for the plots: what each was given."""
    given = {}
    for name in ("plot_det", "plot_scores"):
        monkeypatch.setattr(
            plots_module,
            name,
            lambda *a, name=name: (given.update({name: a}), a[1].touch()),
        )
    return given


def test_settings_that_json_does_not_have(six_trials, plots, tmp_path):
    """A training yaml's .inf, and a path."""
    settings = {"max_grad_norm": float("inf"), "folder": tmp_path, "seed": 1}
    results.write_verification(
        tmp_path,
        [six_trials],
        [System("s", {"small": six_trials.labels + 0.5})],
        silent,
        draws=0,
        about={"settings": settings},
        progress=False,
    )
    text = (tmp_path / "metrics.json").read_text()
    numbers = json.loads(text, parse_constant=pytest.fail)
    assert numbers["settings"] == {
        "max_grad_norm": "Infinity",
        "folder": str(tmp_path),
        "seed": 1,
    }


def test_the_first_system_is_written_and_drawn(plots, tmp_path):
    trials, scores = random_trials()
    systems = [
        System(
            "trained",
            {"random": scores},
            score_name="cosine",
            plain=True,
            facts={"loss": "HAM"},
        ),
        System("untrained", {"random": -scores}, baseline=True),
    ]
    table = results.write_verification(
        tmp_path, [trials], systems, silent, draws=5, progress=False, decision=DECISION
    )
    assert (tmp_path / "report.md").read_text() == table
    assert table.splitlines()[2].startswith("| random: trained | ")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "det.png", "metrics.json", "report.md", "scores.png", "scores_random.txt",
    ]  # fmt: skip
    written = np.loadtxt(tmp_path / "scores_random.txt", usecols=3)
    assert written.tolist() == scores.tolist()
    first, second = json.loads((tmp_path / "metrics.json").read_text())["results"]
    assert first["system"] == "trained" and first["loss"] == "HAM"
    assert second["eer"] > 0.5 > first["eer"]
    assert first["eer_interval"][0] < first["eer"] < first["eer_interval"][1]
    curves, _, baselines, thresholds = plots["plot_det"]
    assert list(curves) == ["trained", "untrained"] and baselines == ["untrained"]
    assert thresholds == {"trained": 0.5}
    distributions, _, threshold, score_name = plots["plot_scores"]
    assert list(distributions) == ["random"] and distributions["random"][0] is scores
    assert (threshold, score_name) == (0.5, "cosine")


def earlier(folder, *names):
    """Files of an earlier verification of a list "random"."""
    (folder / "metrics.json").write_text('{"results": [{"list": "random"}]}')
    for name in names:
        (folder / name).touch()


def test_without_matplotlib_there_are_no_plots_and_the_report_says_so(
    six_trials, monkeypatch, tmp_path
):
    earlier(tmp_path, "det.png")
    why = "matplotlib is not installed."
    monkeypatch.setattr(results, "missing", lambda extra: why if extra == "plots" else "")
    results.write_verification(
        tmp_path,
        [six_trials],
        [System("s", {"small": six_trials.labels + 0.5})],
        lambda table, groups, plots: plots,
        draws=0,
        progress=False,
    )
    assert (tmp_path / "report.md").read_text() == f"No plots: {why}\n"
    assert not list(tmp_path.glob("*.png")) and (tmp_path / "metrics.json").is_file()


def test_results_are_named_by_list_and_system():
    """By the list alone where one system is compared with nothing."""
    plain = System("cosine", {})
    other = System("cosine, z-norm", {})
    calibrated = System("cosine, calibrated", {}, calibrated=True)

    def titles(*systems):
        return [
            results.title(
                {"list": "O", "system": s.name, "calibrated": s.calibrated}, systems
            )
            for s in systems
        ]

    assert titles(plain) == ["O"]
    assert titles(plain, calibrated) == ["O", "O, calibrated"]
    assert titles(plain, other, calibrated) == [
        "O: cosine",
        "O: cosine, z-norm",
        "O: cosine, calibrated",
    ]


def test_a_plot_has_at_most_ten_curves():
    def curves(lists, systems):
        trials = [Trials(np.array([1, 0]), ("a",), ("b",), Path(name)) for name in lists]
        made = [
            System(
                f"s{i}",
                dict.fromkeys(lists, np.zeros(2)),
                drawn=i != 1,
                baseline=i == 2,
                plain=i == 0,
            )
            for i in range(systems)
        ]
        found, baselines, plain = results.det_curves(trials, made)
        first = [name for name in found if name.endswith("s0")]
        assert plain == (first or list(found))
        assert baselines == [name for name in found if name.endswith("s2")]
        return list(found)

    assert curves(["O"], 1) == ["O"]
    assert curves(["O"], 3) == ["s0", "s2"]
    assert curves(["O", "H"], 1) == ["O", "H"]
    assert curves(["O", "H"], 3) == ["O: s0", "O: s2", "H: s0", "H: s2"]
    assert len(curves(["O"], 12)) == 10 and len(curves(["O", "H", "dev"], 12)) == 9


# The stored thresholds, and warnings


def test_the_stored_thresholds_errors_are_of_plain_scores(plots, tmp_path):
    trials, scores = random_trials()
    target = trials.labels == 1
    systems = [
        System("hyperbolic", {"random": -scores}),
        System("cosine", {"random": scores}, plain=True),
        System("cosine, calibrated", {"random": scores}, calibrated=True),
    ]
    told = []
    text = results.write_verification(
        tmp_path,
        [trials],
        systems,
        lambda found, groups, plots: told.append(found) or found,
        draws=0,
        progress=False,
        decision=DECISION,
    )
    assert told == [text]
    records = json.loads((tmp_path / "metrics.json").read_text())["results"]
    assert ["stored_thresholds" in record for record in records] == [False, True, False]
    for name, threshold in DECISION["thresholds"].items():
        found = records[1]["stored_thresholds"][name]
        misses = int((scores[target] < threshold).sum())
        false_alarms = int((scores[~target] >= threshold).sum())
        assert found == {
            "threshold": threshold,
            "misses": misses,
            "miss_rate": misses / target.sum(),
            "false_alarms": false_alarms,
            "false_alarm_rate": false_alarms / (~target).sum(),
        }
        assert (
            f"| random: cosine | `{name}` | {threshold:.3f} "
            f"| {100 * misses / target.sum():.2f} ({misses} of {target.sum()}) "
            f"| {100 * false_alarms / (~target).sum():.2f} "
            f"({false_alarms} of {(~target).sum()}) |"
        ) in text
    assert "stored with the model, chosen on the list `dev`:" in text
    # Marked where the curve is that of the cosines, not among other scores.
    assert plots["plot_det"][3] == {"cosine": 0.5}
    assert plots["plot_scores"][2] is None


def test_without_a_list_there_are_neither_scores_nor_plots(plots, tmp_path):
    earlier(tmp_path, "scores_random.txt", "det.png", "scores.png")
    (tmp_path / "other.txt").touch()
    about = {"development": {"eer": 0.25}}
    told = []
    text = results.write_verification(
        tmp_path,
        [],
        [System("trained", {}, plain=True)],
        lambda *parts: told.append(parts) or "report",
        about=about,
        progress=False,
        decision=DECISION,
    )
    assert text == "No trial list was given, so none was scored.\n"
    assert told == [(text, "", "")] and not plots
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "metrics.json", "other.txt", "report.md",
    ]  # fmt: skip
    numbers = json.loads((tmp_path / "metrics.json").read_text())
    assert numbers == {**about, "warnings": [], "results": []}


def test_scores_of_another_list_do_not_stay_in_the_folder(six_trials, plots, tmp_path):
    """What no verification made does."""
    other = dataclasses.replace(six_trials, path=Path("other.txt"))
    for trials in (other, six_trials):
        systems = [System("s", {trials.name: trials.labels + 0.5})]
        results.write_verification(
            tmp_path, [trials], systems, silent, draws=0, progress=False
        )
        found = {path.name for path in tmp_path.glob("scores_*.txt")}
        assert found - {"scores_fusion.txt"} == {f"scores_{trials.name}.txt"}
        (tmp_path / "scores_fusion.txt").touch()
    assert found == {"scores_small.txt", "scores_fusion.txt"}


def test_warnings_are_in_text_report_and_numbers(six_trials, plots, tmp_path):
    systems = [System("s", {"small": six_trials.labels + 0.5})]
    text = results.write_verification(
        tmp_path,
        [six_trials],
        systems,
        silent,
        draws=0,
        progress=False,
        warnings=["small: 2 of its 3 speakers trained this model."],
    )
    assert "- Warning: small: 2 of its 3 speakers trained this model.\n" in text
    assert "Warning: small" in (tmp_path / "report.md").read_text()
    numbers = json.loads((tmp_path / "metrics.json").read_text())
    assert numbers["warnings"] == ["small: 2 of its 3 speakers trained this model."]


def test_numbers_that_call_for_a_warning():
    good = {
        "list": "O", "eer": 0.02, "act_dcf_0.01": 1.0, "cllr": 1.0, "min_cllr": 0.9,
        "min_dcf_0.01": 1.0, "calibration": {"scale": 2.0},
    }  # fmt: skip
    assert results.results_warnings([good]) == []
    for changes, text in (
        ({"act_dcf_0.01": 1.01}, "actDCF(p=0.01) is 1.010. Above 1, deciding by these"),
        ({"act_dcf_0.01": 2, "cllr": 1.5}, "actDCF(p=0.01) is 2.000 and Cllr is 1.500."),
        ({"eer": 0.51}, "the EER is above 50 %, which is worse than guessing"),
        ({"calibration": {"scale": -0.1}}, "says nothing or turns the scores around"),
    ):
        (warning,) = results.results_warnings([{**good, **changes}])
        assert warning.startswith("O: ") and text in warning
        assert results.results_warnings([{**good, **changes, "baseline": True}]) == []
    # As little above 50 % as by chance.
    assert not results.results_warnings(
        [{**good, "eer": 0.51, "eer_interval": (0.45, 0.6)}]
    )
    at = {"threshold": 0.9, "miss_rate": 0.5, "false_alarm_rate": 0.5}
    for changes, text in (
        ({}, None),
        ({"miss_rate": 1.0}, "threshold `eer` (0.900) rejects every target trial of this"),
        ({"false_alarm_rate": 1.0}, "`eer` (0.900) accepts every impostor trial of this"),
    ):
        stored = {"stored_thresholds": {"eer": {**at, **changes}}}
        warnings = results.results_warnings([{**good, **stored}])
        assert [text in warning for warning in warnings] == [True] * (text is not None)
    # One warning for all thresholds; few false alarms may well cost every target trial.
    useless = {**at, "miss_rate": 1.0}
    strict = {"stored_thresholds": {"false_alarm_0.001": useless}}
    assert results.results_warnings([{**good, **strict}]) == []
    both = {"stored_thresholds": {"eer": useless, "min_dcf_0.01": useless}}
    (warning,) = results.results_warnings([{**good, **both}])
    assert "thresholds `eer` (0.900), `min_dcf_0.01` (0.900) reject every" in warning


def test_speakers_that_the_paths_do_not_tell():
    told = {"u1": ("id1", ""), "id1/b": ("id1", ""), "id2/c": ("id3", "")}
    sides = ("u1", "u1"), ("id1/b", "id2/c")
    trials = Trials(np.array([1, 0]), *sides, Path("O.txt"), told)
    assert results.told_speakers(trials) == {"u1": "id1", "id2/c": "id3"}
