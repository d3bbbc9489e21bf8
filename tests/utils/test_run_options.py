"""Our table of run options and SpeechBrain's."""

from speechbrain.utils.run_opts import RunOptions

from hamsb.utils.run_options import ANALYSIS, LEAST, NEEDS, REFUSED, TRAINING


def test_each_of_speechbrains_is_explained_or_refused():
    actions = RunOptions._create_parser()._actions
    theirs = {a.dest for a in actions if a.option_strings} - {"help"}
    assert {*TRAINING, *REFUSED} == theirs
    assert not TRAINING.keys() & REFUSED.keys()
    assert ANALYSIS.keys() <= TRAINING.keys()
    assert NEEDS.keys() | LEAST.keys() <= TRAINING.keys()
    assert {name for names in NEEDS.values() for name in names} <= TRAINING.keys()
