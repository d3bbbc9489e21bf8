"""Scores and labels as arrays: what is taken, and how the rest is refused."""

import numpy as np
import pytest
import torch

from hamsb.verification.arrays import as_array, checked_trials, finite_array


def test_every_kind_becomes_the_same_array():
    for scores in (
        [0.5, 0.25],
        np.float32([0.5, 0.25]),
        torch.tensor([0.5, 0.25], dtype=torch.bfloat16),
        torch.tensor([0.5, 0.25], requires_grad=True),
    ):
        for labels in ([1, 0], [True, False], np.uint8([1, 0]), torch.tensor([1, 0])):
            found, is_target = checked_trials(scores, labels)
            assert found.dtype == np.float64 and found.tolist() == [0.5, 0.25]
            assert is_target.dtype == bool and is_target.tolist() == [True, False]
    assert as_array(torch.tensor([1, 2]), "labels").dtype == np.int64
    assert finite_array([], "draws").shape == (0,)
    assert finite_array(3, "scale", dimensions=(0,)) == 3.0
    scores = np.array([0.5, 0.25])
    checked_trials(scores, [1, 0])[0][0] = 9.0
    assert scores.tolist() == [0.5, 0.25]  # the caller's array is left alone


def test_what_is_wrong_is_named(bad_trials):
    for scores, labels, message in bad_trials:
        with pytest.raises(ValueError, match=message):
            checked_trials(scores, labels)
        with pytest.raises(ValueError, match=message.replace("scores must", "llrs must")):
            checked_trials(scores, labels, "llrs")
    with pytest.raises(
        ValueError, match=r"x must be finite, got nan at index 1, 0 \(1 of 2"
    ):
        finite_array([[0.0], [np.nan]], "x", dimensions=(2,))
    with pytest.raises(ValueError, match="x must be 1-D or 2-D, got shape"):
        as_array(np.zeros((1, 1, 1)), "x", dimensions=(1, 2))
