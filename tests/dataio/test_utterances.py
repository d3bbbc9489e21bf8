"""Files, stretches of files, and names."""

from pathlib import Path

import soundfile

from hamsb.dataio.annotations import Utterance
from hamsb.dataio.utterances import is_plain, recording


def test_a_stretch_of_all_is_the_file(tmp_path):
    path = str(tmp_path / "a.wav")
    soundfile.write(path, [0.5] * 16000, 16000)
    for start, stop in [(0, 0), (0, 16000), (0, 16320)]:
        assert recording(path, start, stop) == Path(path)
    assert recording(path, 0, 15999) == Utterance(path, 0, 15999)
    assert recording(path, 5, 0) == recording(path, 5, 16320) == Utterance(path, 5, 16000)
    assert recording(path, 0, 16321) == Utterance(path, 0, 16321)  # embedding refuses it
    assert str(recording(path, 5, 9)) == f"{path} from sample 5 to 9"
    gone = str(tmp_path / "gone.wav")
    assert recording(gone, 0, 9) == Path(gone)


def test_names_that_lists_can_carry():
    assert is_plain("id1/a,b") and not is_plain("a\tb") and not is_plain("")
    assert not is_plain("\udcff")
