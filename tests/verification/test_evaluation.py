"""The numbers of scored lists, of groups of their trials, and the tables."""

import json
from pathlib import Path

import numpy as np
import pytest

from hamsb.verification.evaluation import (
    eer_intervals,
    evaluate_groups,
    evaluate_trials,
    read_metadata,
    trial_groups,
)
from hamsb.verification.results import groups_table, results_table
from hamsb.verification.bootstrap import bootstrap_eer, interval
from hamsb.verification.metrics import act_dcf, cllr, eer, min_cllr, min_dcf
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
    return Trials(
        labels, enrol, tuple(f"{t}t" for t in test), Path("random.txt")
    ), scores


# A list


@pytest.mark.parametrize("p_targets", [(0.01, 0.05), (0.3,)])
def test_evaluate_trials(p_targets):
    trials, scores = random_trials()
    result = evaluate_trials(trials, scores, p_targets)
    value, threshold = eer(scores, trials.labels)
    expected = {
        "list": "random",
        "target_trials": int((trials.labels == 1).sum()),
        "impostor_trials": int((trials.labels == 0).sum()),
        "eer": value,
        "eer_threshold": threshold,
    }
    for p in p_targets:
        cost, threshold = min_dcf(scores, trials.labels, p)
        expected |= {f"min_dcf_{p}": cost, f"min_dcf_threshold_{p}": threshold}
    assert result == expected
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_calibrated_scores_have_more_numbers():
    trials, scores = random_trials()
    result = evaluate_trials(trials, scores, (0.1,), calibrated=True)
    plain = evaluate_trials(trials, scores, (0.1,))
    assert {**result, **plain} == result
    assert {key: result[key] for key in result.keys() - plain.keys()} == {
        "act_dcf_0.1": act_dcf(scores, trials.labels, 0.1),
        "cllr": cllr(scores, trials.labels),
        "min_cllr": min_cllr(scores, trials.labels),
    }


def test_rejecting_every_trial_is_no_threshold(trials):
    """JSON has no infinity."""
    reversed_scores = 1.0 - trials.labels
    result = evaluate_trials(trials, reversed_scores, (0.01,))
    assert result["min_dcf_0.01"] == 1.0 and result["min_dcf_threshold_0.01"] is None
    json.dumps(result, allow_nan=False)


def test_errors_name_the_list(trials):
    with pytest.raises(ValueError, match=r"small.txt: .*finite, got nan at index 2"):
        evaluate_trials(trials, [0.1, 0.2, float("nan"), 0.4, 0.5, 0.6])
    one_class = Trials(np.ones(2, int), ("a", "b"), ("c", "d"), Path("one.txt"))
    with pytest.raises(ValueError, match=r"one.txt: trials of both classes are needed"):
        evaluate_trials(one_class, [0.1, 0.2])


def test_intervals_are_those_of_a_bootstrap_over_speakers():
    trials, scores = random_trials()
    systems = np.stack([scores, -scores])
    found = eer_intervals(trials, systems, draws=50, seed=3)
    sides = (
        [name.split("/")[0] for name in side] for side in (trials.enrol, trials.test)
    )
    values = bootstrap_eer(systems, trials.labels, *sides, draws=50, seed=3)
    assert found == [interval(row) for row in values]
    assert found[0][0] < eer(scores, trials.labels)[0] < found[0][1] < 0.5 < found[1][0]
    assert found == eer_intervals(trials, systems, draws=50, seed=3)
    json.dumps(found, allow_nan=False)


def test_intervals_need_speakers(trials):
    flat = Trials(
        np.array([1, 0]), ("a.wav", "a.wav"), ("b.wav", "c.wav"), Path("flat.txt")
    )
    with pytest.raises(
        ValueError, match="flat.txt: no interval.*flat.txt:1: no speaker.*: 0 to"
    ):
        eer_intervals(flat, [[0.5, 0.25]])
    wrong = Trials(trials.labels[::-1], trials.enrol, trials.test, trials.path)
    with pytest.raises(ValueError, match="small.txt: no interval.*label 0 at index 0"):
        eer_intervals(wrong, [[0.5] * 6])


# Groups


def members(groups):
    return {key: np.flatnonzero(value).tolist() for key, value in groups.items()}


def test_groups_by_session(trials):
    assert members(trial_groups(trials)) == {
        ("session", "same"): [0, 3, 4, 5],  # a target trial and all impostors
        ("session", "different"): [1, 2, 3, 4, 5],
    }


def test_no_sessions_no_groups(trials):
    def without(text):
        sides = (
            tuple(n.replace(text, "") for n in side)
            for side in (trials.enrol, trials.test)
        )
        return trial_groups(Trials(trials.labels, *sides, trials.path))

    assert without("/x") == {}  # these paths lie in their speaker's folder
    assert without("/z") == {}  # one does
    assert without("/x/2.wav") == {}
    one_session = Trials(
        trials.labels[[0, 3]],
        *(s[::3][:2] for s in (trials.enrol, trials.test)),
        trials.path,
    )
    assert trial_groups(one_session) == {}


def test_groups_by_duration(trials):
    seconds = np.array([1.0, 2.0, 2.5, 3.0, 9.0, 9.0])
    groups = members(trial_groups(trials, seconds, [2, 4.5]))
    assert {key: value for key, value in groups.items() if key[0] == "duration"} == {
        ("duration", "below 2 s"): [0],
        ("duration", "2 to 4.5 s"): [1, 2, 3],
        ("duration", "from 4.5 s"): [4, 5],
    }
    for bins in ([20], [0.5], []):
        assert "duration" not in [
            what for what, _ in trial_groups(trials, seconds, bins)
        ]
    with pytest.raises(ValueError, match=r"duration_bins=\[4, 2\]: must ascend"):
        trial_groups(trials, seconds, [4, 2])
    with pytest.raises(ValueError, match="must ascend"):
        trial_groups(trials, seconds, [2, 2])


GENDER = "speaker,gender\nid1,f\nid2,f\nid3,m\n"


def test_groups_by_gender(trials, tmp_path):
    (tmp_path / "meta.csv").write_text(GENDER)
    metadata = read_metadata(tmp_path / "meta.csv", ["gender"])
    groups = members(trial_groups(trials, metadata=metadata))
    assert groups["gender", "same"] == [0, 1, 2, 3]
    assert groups["gender", "different"] == [0, 1, 2, 4, 5]  # all target trials
    (tmp_path / "meta.csv").write_text(GENDER.replace("m", "f"))
    metadata = read_metadata(tmp_path / "meta.csv", ["gender"])
    assert "gender" not in [what for what, _ in trial_groups(trials, metadata=metadata)]


def test_groups_by_what_utterances_have(trials, tmp_path):
    """Target trials may differ too, as in the microphone."""
    rows = "".join(f"{name},{'ab'['y/' in name]}\n" for name in trials.utterances)
    (tmp_path / "meta.csv").write_text(f"utterance,microphone\n{rows}")
    metadata = read_metadata(tmp_path / "meta.csv", ["microphone"])
    groups = members(trial_groups(trials, metadata=metadata))
    assert groups["microphone", "same"] == [0, 2, 3, 4]
    assert groups["microphone", "different"] == [1, 5]


def test_evaluate_groups(trials):
    scores = np.array([0.9, 0.2, 0.8, 0.4, 0.1, 0.3])
    groups = trial_groups(trials, np.array([1.0, 1, 1, 5, 5, 5]), [3])
    results = evaluate_groups(trials, scores, groups, (0.05,))
    found = {(r["what"], r["group"]): r for r in results}
    assert list(found) == list(groups)
    short = found["duration", "below 3 s"]
    assert (short["target_trials"], short["impostor_trials"]) == (3, 0)
    assert "eer" not in short
    for name, own in (("same", [0, 3, 4, 5]), ("different", [1, 2, 3, 4, 5])):
        result, labels = found["session", name], trials.labels[own]
        assert (
            result["target_trials"] == labels.sum() and result["impostor_trials"] == 3
        )
        assert result["eer"] == eer(scores[own], labels)[0]
        assert result["min_dcf_0.05"] == min_dcf(scores[own], labels, 0.05)[0]
    json.dumps(results, allow_nan=False)


# Metadata


@pytest.mark.parametrize(
    "text",
    [
        GENDER,
        GENDER.replace(",", "\t")
        .replace("speaker", "VoxCeleb1 ID")
        .replace("gender", "Gender"),
        "VoxCeleb2 ID ,VGG ID ,Gender ,Set \nid1 ,1 ,f ,a \nid2 ,2 ,f ,a \nid3 ,3 ,m ,t \n",
        "part,speaker,gender\na,id1,f\nb,id1,f\na,id2,f\nb,id3,m\n",
        "\ufeff" + GENDER.replace("\n", "\r\n"),
    ],
)
def test_metadata_of_many_writers(tmp_path, text):
    (tmp_path / "meta.csv").write_bytes(text.encode())
    metadata = read_metadata(str(tmp_path / "meta.csv"), ["gender"])
    assert metadata.by == "speaker"
    assert metadata.columns == {"gender": {"id1": "f", "id2": "f", "id3": "m"}}


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "name,gender\nid1,f\n",
            r"meta.csv:1: no column 'utterance' or 'speaker'; .*'name'",
        ),
        ("", r"meta.csv:1: no column 'utterance' or 'speaker'"),
        (
            "speaker,sex\nid1,f\n",
            r"meta.csv:1: no column 'gender'; the columns are .*'sex'",
        ),
        ("speaker,gender\nid1,f\nid2\n", "meta.csv:3: 1 fields, but 2 columns"),
        (
            GENDER + "id1,f\nid1,m\n",
            "meta.csv:6: id1 has the gender 'm', and 'f' above",
        ),
    ],
)
def test_metadata_errors_name_file_and_line(tmp_path, text, message):
    (tmp_path / "meta.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_metadata(tmp_path / "meta.csv", ["gender"])


def test_metadata_that_lack_a_speaker_or_are_missing(trials, tmp_path):
    (tmp_path / "meta.csv").write_text(GENDER.replace("id3,m\n", ""))
    metadata = read_metadata(tmp_path / "meta.csv", ["gender"])
    message = "small.txt:5: .*meta.csv has no speaker 'id3'; 1 of 6 utterances"
    with pytest.raises(ValueError, match=message):
        trial_groups(trials, metadata=metadata)
    with pytest.raises(FileNotFoundError, match="none.csv: no such metadata file"):
        read_metadata(tmp_path / "none.csv", ["gender"])
    (tmp_path / "audio.wav").write_bytes(b"RIFF\xff\xfe\n")
    with pytest.raises(ValueError, match="audio.wav: not a text file"):
        read_metadata(tmp_path / "audio.wav", ["gender"])


# Tables


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
    assert (
        results_table(rows[:1]).splitlines()[0].endswith("| EER % | minDCF(p=0.01) |")
    )


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
    table = groups_table(
        [{"list": "small", **result} for result in results]
    ).splitlines()
    assert table[0] == (
        "| list | trials by | group | target trials | impostor trials | EER % "
        "| minDCF(p=0.05) |"
    )
    assert table[1] == "| --- | --- | --- | ---: | ---: | ---: | ---: |"
    assert table[2] == "| small | session | same | 1 | 3 | 0.000 | 0.000 |"
    assert table[3].startswith("| small | session | different | 2 | 3 | ")
