"""Checks of arguments: what passes, and what the error says."""

import math

import numpy as np
import pytest

from hamsb.utils.checks import check_choice, check_not_negative, check_positive, check_whole


def test_what_fits_passes():
    check_choice("limit", "soft", ("soft", "hard"))
    for value in (1, 0.5, np.float32(3)):
        check_positive("scale", value)
        check_not_negative("margin", value)
    check_not_negative("margin", 0)
    for value in (1, 7, np.int64(3)):
        check_whole("seed", value, 1)


@pytest.mark.parametrize(
    "check, values, message",
    [
        (check_positive, [0, -1.0, math.nan, math.inf, "3", None], "positive and finite"),
        (check_not_negative, [-1e-9, math.nan, math.inf, "3", None], "finite and not neg"),
        (lambda n, v: check_whole(n, v, 1), [0, 2.0, True, "3", None], "whole.* least 1"),
        (lambda n, v: check_choice(n, v, ("a", "b")), ["c", None], r"one of \['a', 'b'\]"),
    ],
)
def test_what_does_not_is_a_value_error_that_names_the_argument(check, values, message):
    for value in values:
        with pytest.raises(ValueError, match=f"^thing={value!r}: must be .*{message}"):
            check("thing", value)
