"""Checks of arguments: what passes, and what the error says."""

import math
import re

import numpy as np
import pytest
import torch

from hamsb.utils.checks import (
    check_choice,
    check_flag,
    check_not_negative,
    check_positive,
    check_whole,
    is_number,
)

NO_NUMBERS = ["3", None, True, [3.0], torch.tensor(3.0), np.ones(2), 1j]


def test_what_fits_passes():
    check_choice("limit", "soft", ("soft", "hard"))
    check_choice("learnable", False, (False, True))
    check_flag("learnable", False)
    assert not any(map(is_number, NO_NUMBERS))
    for value in (1, 0.5, np.float32(3)):
        assert is_number(value)
        check_positive("scale", value)
        check_not_negative("margin", value)
    check_not_negative("margin", 0)
    for value in (1, 7, np.int64(3)):
        check_whole("seed", value, 1)


@pytest.mark.parametrize(
    "check, values, message",
    [
        (check_positive, [0, -1.0, math.nan, math.inf], "positive and finite"),
        (check_not_negative, [-1e-9, math.nan, math.inf], "finite and not neg"),
        (check_positive, NO_NUMBERS, "a number, positive and finite"),
        (check_not_negative, NO_NUMBERS, "a number, finite and not negative"),
        (check_flag, ["no", "True", 1, None, np.True_], "True or False"),
        (lambda n, v: check_whole(n, v, 1), [0, 2.0, True, "3", None], "whole.* least 1"),
        (lambda n, v: check_choice(n, v, ("a", "b")), ["c", None], r"one of \['a', 'b'\]"),
        (lambda n, v: check_choice(n, v, (False, "b")), [0, True], r"one of \[False"),
    ],
)
def test_what_does_not_is_a_value_error_that_names_the_argument(check, values, message):
    for value in values:
        with pytest.raises(
            ValueError, match=f"^thing={re.escape(repr(value))}: must be .*{message}"
        ):
            check("thing", value)
