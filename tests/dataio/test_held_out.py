"""The numbering of trials against lists of all pairs. What trials there are is tested with
the preparation, tests/recipes/test_voxceleb_prepare.py."""

import random
from collections import namedtuple
from itertools import combinations

import pytest

from hamsb.dataio.held_out import draw_impostor_pairs, draw_target_pairs


@pytest.mark.parametrize("sessions", [1, 2, 9])
def test_target_pairs_are_numbered_as_they_would_be_listed(sessions):
    """The same draws as of the list of all pairs, which grows with the square."""
    Row, numbers = namedtuple("Row", "session path"), random.Random(sessions)
    for seed in range(20):
        files = [Row(str(numbers.randrange(sessions)), str(i)) for i in range(seed)]
        pairs = list(combinations(files, 2))
        across = [(a, b) for a, b in pairs if a.session != b.session]
        listed = random.Random(seed).sample(across or pairs, min(len(across or pairs), 25))
        drawn = draw_target_pairs(files, 25, random.Random(seed))
        assert drawn == listed


def test_impostor_pairs_are_numbered_completely():
    groups = [["a1"], ["b1", "b2", "b3"], ["c1", "c2"]]
    expected = {(x, y) for x, y in combinations(sum(groups, []), 2) if x[0] != y[0]}
    assert set(draw_impostor_pairs(groups, 100, random.Random(0))) == expected
    drawn = draw_impostor_pairs(groups, 5, random.Random(0))
    assert len(set(drawn)) == 5 and set(drawn) <= expected
