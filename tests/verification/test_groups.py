"""Groups of trials, and the metadata that they are made from."""

import numpy as np
import pytest

from hamsb.verification.groups import read_metadata, trial_groups
from hamsb.verification.trials import Trials

# Groups


def members(groups):
    return {key: np.flatnonzero(value).tolist() for key, value in groups.items()}


def test_groups_by_session(six_trials):
    assert members(trial_groups(six_trials)) == {
        ("session", "same"): [0, 3, 4, 5],  # a target trial and all impostors
        ("session", "different"): [1, 2, 3, 4, 5],
    }


def test_no_sessions_no_groups(six_trials):
    def without(text):
        sides = (
            tuple(n.replace(text, "") for n in side)
            for side in (six_trials.enrol, six_trials.test)
        )
        return trial_groups(Trials(six_trials.labels, *sides, six_trials.path))

    assert without("/x") == {}  # these paths lie in their speaker's folder
    assert without("/z") == {}  # one does
    assert without("/x/2.wav") == {}
    one_session = Trials(
        six_trials.labels[[0, 3]],
        *(s[::3][:2] for s in (six_trials.enrol, six_trials.test)),
        six_trials.path,
    )
    assert trial_groups(one_session) == {}


def test_groups_by_duration(six_trials):
    seconds = np.array([1.0, 2.0, 2.5, 3.0, 9.0, 9.0])
    groups = members(trial_groups(six_trials, seconds, [2, 4.5]))
    assert {key: value for key, value in groups.items() if key[0] == "duration"} == {
        ("duration", "below 2 s"): [0],
        ("duration", "2 to 4.5 s"): [1, 2, 3],
        ("duration", "from 4.5 s"): [4, 5],
    }
    for bins in ([20], [0.5], []):
        assert "duration" not in [
            what for what, _ in trial_groups(six_trials, seconds, bins)
        ]
    with pytest.raises(ValueError, match=r"duration_bins=\[4, 2\]: must ascend"):
        trial_groups(six_trials, seconds, [4, 2])
    with pytest.raises(ValueError, match="must ascend"):
        trial_groups(six_trials, seconds, [2, 2])


GENDER = "speaker,gender\nid1,f\nid2,f\nid3,m\n"


def test_groups_by_gender(six_trials, tmp_path):
    (tmp_path / "meta.csv").write_text(GENDER)
    metadata = read_metadata(tmp_path / "meta.csv", ["gender"])
    groups = members(trial_groups(six_trials, metadata=metadata))
    assert groups["gender", "same"] == [0, 1, 2, 3]
    assert groups["gender", "different"] == [0, 1, 2, 4, 5]  # all target trials
    (tmp_path / "meta.csv").write_text(GENDER.replace("m", "f"))
    metadata = read_metadata(tmp_path / "meta.csv", ["gender"])
    assert "gender" not in [what for what, _ in trial_groups(six_trials, metadata=metadata)]


def test_groups_by_what_utterances_have(six_trials, tmp_path):
    """Target trials may differ too, as in the microphone."""
    rows = "".join(f"{name},{'ab'['y/' in name]}\n" for name in six_trials.utterances)
    (tmp_path / "meta.csv").write_text(f"utterance,microphone\n{rows}")
    metadata = read_metadata(tmp_path / "meta.csv", ["microphone"])
    groups = members(trial_groups(six_trials, metadata=metadata))
    assert groups["microphone", "same"] == [0, 2, 3, 4]
    assert groups["microphone", "different"] == [1, 5]


# Metadata


def test_metadata_of_many_writers(tmp_path):
    for text in [
        GENDER,
        GENDER.replace(",", "\t")
        .replace("speaker", "VoxCeleb1 ID")
        .replace("gender", "Gender"),
        "VoxCeleb2 ID ,VGG ID ,Gender ,Set \nid1 ,1 ,f ,a \nid2 ,2 ,f ,a \nid3 ,3 ,m ,t \n",
        "part,speaker,gender\na,id1,f\nb,id1,f\na,id2,f\nb,id3,m\n",
        "\ufeff" + GENDER.replace("\n", "\r\n"),
    ]:
        (tmp_path / "meta.csv").write_bytes(text.encode())
        metadata = read_metadata(str(tmp_path / "meta.csv"), ["gender"])
        assert metadata.by == "speaker"
        assert metadata.columns == {"gender": {"id1": "f", "id2": "f", "id3": "m"}}


def test_metadata_errors_name_file_and_line(tmp_path):
    for text, message in [
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
    ]:
        (tmp_path / "meta.csv").write_text(text)
        with pytest.raises(ValueError, match=message):
            read_metadata(tmp_path / "meta.csv", ["gender"])


def test_metadata_that_lack_a_speaker_or_are_missing(six_trials, tmp_path):
    (tmp_path / "meta.csv").write_text(GENDER.replace("id3,m\n", ""))
    metadata = read_metadata(tmp_path / "meta.csv", ["gender"])
    message = "small.txt:5: .*meta.csv has no speaker 'id3'; 1 of 6 utterances"
    with pytest.raises(ValueError, match=message):
        trial_groups(six_trials, metadata=metadata)
    with pytest.raises(FileNotFoundError, match="none.csv: no such metadata file"):
        read_metadata(tmp_path / "none.csv", ["gender"])
    (tmp_path / "audio.wav").write_bytes(b"RIFF\xff\xfe\n")
    with pytest.raises(ValueError, match="audio.wav: not a csv file in UTF-8"):
        read_metadata(tmp_path / "audio.wav", ["gender"])
