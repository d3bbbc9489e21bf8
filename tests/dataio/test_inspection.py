"""Stretches of files, of which the rest does not matter."""

import numpy as np
import soundfile

from hamsb.dataio.inspection import look


def test_each_rule_is_for_the_stretch_alone(tmp_path):
    samples = np.random.default_rng(0).normal(0, 0.1, 48000)
    samples[16000:32000] = 0
    path = tmp_path / "a.wav"
    soundfile.write(path, samples, 16000)
    for start, stop, found in [
        (0, 0, ("", "", 48000)),
        (0, 16000, ("", "", 16000)),
        (16000, 32000, ("silent", "no sample above -80 dBFS", 0)),
        (15000, 32000, ("", "", 32000)),
        (32000, 48320, ("", "", 48000)),
        (32000, 48321, ("truncated", "the file ends 0.020 s before it", 0)),
        (48000, 0, ("truncated", "the file ends 0.000 s before it", 0)),
        (64000, 64100, ("truncated", "the file ends 1.006 s before it", 0)),
        (0, 1599, ("too_short", "0.100 s", 0)),
    ]:
        task = (str(path), path.stat().st_size, start, stop)
        assert look(task, 16000, 0.1) == found, (start, stop)
    assert look((str(tmp_path / "b.wav"), 0, 0, 0), 16000, 0.1)[1] == "no such file"
