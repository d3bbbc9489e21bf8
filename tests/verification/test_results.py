"""Tables, names and files of results."""

from pathlib import Path

import numpy as np
import pytest

from hamsb.verification.evaluation import evaluate_groups, evaluate_trials
from hamsb.verification.groups import trial_groups
from hamsb.verification.results import groups_table, results_table
from hamsb.verification.trials import Trials

LIST = [
    (1, "id1/x/1.wav", "id1/x/2.wav"),  # same session
    (1, "id1/x/1.wav", "id1/y/1.wav"),
    (1, "id2/x/1.wav", "id2/z/1.wav"),
    (0, "id1/x/1.wav", "id2/x/1.wav"),  # sessions of one name, of two speakers
    (0, "id2/x/1.wav", "id3/x/1.wav"),
    (0, "id1/y/1.wav", "id3/x/1.wav"),
]


@pytest.fixture
def trials():
    labels, enrol, test = zip(*LIST)
    return Trials(np.array(labels), enrol, test, Path("lists/small.txt"))


def random_trials(n=400, speakers=9, seed=0):
    rng = np.random.default_rng(seed)
    enrol, test = rng.integers(0, speakers, (2, n))
    labels = (enrol == test).astype(int)
    enrol, test = (
        tuple(f"id{s}/v/{i}" for i, s in enumerate(side)) for side in (enrol, test)
    )
    scores = rng.standard_normal(n) + 2 * labels
    return Trials(labels, enrol, tuple(f"{t}t" for t in test), Path("random.txt")), scores


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


def test_groups_table(trials):
    scores = np.array([0.9, 0.2, 0.8, 0.4, 0.1, 0.3])
    results = evaluate_groups(trials, scores, trial_groups(trials), (0.05,))
    table = groups_table([{"list": "small", **result} for result in results]).splitlines()
    assert table[0] == (
        "| list | trials by | group | target trials | impostor trials | EER % "
        "| minDCF(p=0.05) |"
    )
    assert table[1] == "| --- | --- | --- | ---: | ---: | ---: | ---: |"
    assert table[2] == "| small | session | same | 1 | 3 | 0.000 | 0.000 |"
    assert table[3].startswith("| small | session | different | 2 | 3 | ")
