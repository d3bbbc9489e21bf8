"""Lists that share speakers or trials with what made the model, or with each other."""

import json
from pathlib import Path

import numpy as np
import pytest

from hamsb.verification.data import VerificationData
from hamsb.verification.overlaps import (
    ModelSpeakers,
    find_overlaps,
    model_speakers,
    overlap_facts,
    overlap_warnings,
    trials_in_calibration,
)
from hamsb.verification.training_data import write_training
from hamsb.verification.trials import Trials


def make_list(name, *pairs):
    """Trials of utterances as "a1": the speaker's letter, and a number."""
    sides = [[f"{path[0]}/x/{path[1:]}.wav" for path in side] for side in zip(*pairs)]
    labels = np.array([one[0] == other[0] for one, other in zip(*sides)], dtype=int)
    return Trials(labels, tuple(sides[0]), tuple(sides[1]), Path(f"{name}.txt"))


def files_of(trials, root):
    return {name: Path(root, name) for name in trials.utterances}


TEST = make_list("O", ("a1", "a2"), ("a1", "b1"), ("c1", "d1"), ("c1", "c2"))
NOBODY = ModelSpeakers(frozenset({"x", "y"}), frozenset({"z"}))


def told(model=NOBODY, calibration=None, decision=None, trials=TEST):
    data = VerificationData([trials], files_of(trials, "t"))
    if calibration is not None:
        files = files_of(calibration, "t")
        data = VerificationData([trials], files_of(trials, "t"), calibration, files)
    found = find_overlaps(data, model, decision)
    json.dumps(found)
    return found, overlap_warnings(found)


# Who made the model


def test_what_a_model_says_of_its_training(tmp_path):
    assert model_speakers(tmp_path) is None
    labels = tmp_path / "label_encoder.ckpt"
    labels.write_text(
        "'id1' => 0\n'id1 at 90 %' => 1\n'it\\'s => me' => 2\n('a', 1) => 3\n"
        "__import__('os').mkdir('ran') => 4\nno line of it\n================\n"
        "'starting_index' => 0\n",
    )
    assert model_speakers(tmp_path) == ({"id1", "it's => me"}, None)
    assert not Path("ran").exists()
    labels.write_bytes(b"\xff\x00")
    assert model_speakers(tmp_path) is None
    written = {"speakers": ["id2"], "development_speakers": ["id3"], "data": {}}
    write_training(tmp_path, written)
    assert model_speakers(tmp_path) == ({"id2"}, {"id3"})
    (tmp_path / "training.json").write_text("[]")
    with pytest.raises(ValueError, match="training.json: damaged"):
        model_speakers(tmp_path)


# What is found and said


def test_new_speakers_give_no_warning():
    calibration = make_list("dev", ("e1", "e2"), ("e1", "f1"))
    decision = {"speakers": ["x", "e"]}
    found, warnings = told(calibration=calibration, decision=decision)
    assert warnings == []
    assert overlap_facts(found) == (
        "Speakers who trained the model, of the 2 that it names: 0 of 4 in O"
    )


def test_speakers_who_made_the_model_are_counted_and_named():
    found, (warning,) = told(ModelSpeakers(frozenset("abcdx"), frozenset()))
    assert warning.startswith(
        "O: 4 of its 4 speakers trained this model (a, b, c and 1 more"
    )
    assert found["lists"]["O"]["trained_the_model"] == ["a", "b", "c", "d"]
    assert "of the 5 that it names: 4 of 4 in O" in overlap_facts(found)
    _, (warning,) = told(ModelSpeakers(frozenset("x"), frozenset("ab")))
    assert "O: 2 of its 4 speakers served as development speakers" in warning
    # As they did for the stored thresholds, which is said once.
    _, (again,) = told(ModelSpeakers(frozenset("x"), frozenset("ab")), None, TEST_DECISION)
    assert again == warning
    _, (warning,) = told(decision=TEST_DECISION)
    assert "O: 1 of its 4 speakers served to choose the stored thresholds (b)" in warning


TEST_DECISION = {"speakers": ["b", "q"]}


def test_what_is_not_known_is_said():
    found, warnings = told(None)
    assert warnings == [] and found["training_speakers"] is None
    assert "trained the model is not known" in overlap_facts(found)
    found, warnings = told(ModelSpeakers(frozenset("a"), None))
    assert len(warnings) == 1 and found["development_speakers"] is None
    assert overlap_facts(found).endswith("; its development speakers are not known")
    flat = Trials(np.array([1, 0]), ("1.wav",) * 2, ("2.wav", "3.wav"), Path("flat.txt"))
    found, warnings = told(trials=flat)
    assert warnings == [] and found["lists"]["flat"]["speakers"] is None
    assert "not known of flat, whose paths name no speakers" in overlap_facts(found)


def test_a_calibration_list_of_training_or_test_speakers():
    calibration = make_list("dev", ("x1", "x2"), ("x1", "f1"))
    _, (warning,) = told(calibration=calibration)
    assert "calibration list dev: 1 of its 2 speakers trained this model (x)" in warning
    # Development speakers are what a calibration list is to be of.
    assert told(calibration=make_list("dev", ("z1", "z2"), ("z1", "f1")))[1] == []
    calibration = make_list("dev", ("a3", "a4"), ("a3", "f1"))
    _, (warning,) = told(calibration=calibration)
    assert "O: 1 of its 4 speakers took part in the calibration list dev too (a)" in warning


def test_trials_of_the_calibration_list_are_counted_in_either_order():
    for pairs, count in (
        ([("a1", "a2"), ("a1", "b1"), ("c1", "d1"), ("c1", "c2")], 4),
        ([("b1", "a1"), ("a2", "a1"), ("a2", "b1")], 2),
        ([("a1", "a2"), ("e1", "f1")], 1),
    ):
        found, (warning,) = told(calibration=make_list("dev", *pairs))
        assert found["lists"]["O"]["trials_in_calibration"] == count
        assert f"O: {count} of its 4 trials are in the calibration list dev too" in warning


def test_a_trial_is_known_by_its_recordings_not_by_its_names(tmp_path):
    """Copies and links of a corpus are it; other corpora may have its names."""
    for root in ("one", "copy", "other"):
        for number, name in enumerate(TEST.utterances):
            path = tmp_path / root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes([number, root == "other"]) * 50)
    (tmp_path / "link").symlink_to(tmp_path / "one")
    for root, count in (("one", 4), ("copy", 4), ("link", 4), ("other", 0)):
        data = VerificationData(
            [TEST],
            files_of(TEST, tmp_path / "one"),
            TEST,
            files_of(TEST, tmp_path / root),
        )
        assert trials_in_calibration(data) == {"O": count}
    assert trials_in_calibration(VerificationData([TEST], {})) == {}
