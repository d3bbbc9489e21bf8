"""Changes of error rates and their intervals."""

import numpy as np
import pytest

from hamsb.verification.bootstrap import relative_change


def test_change_is_of_the_means_and_its_interval_of_the_paired_draws():
    random = np.random.default_rng(0)
    ours, theirs = random.uniform(1, 2, (2, 3, 500))  # three runs
    own, baseline = [1.0, 2.0, 3.0], [2.0, 3.0, 3.0]
    change, low, high = relative_change(own, baseline, ours, theirs)
    assert change == pytest.approx(6 / 8 - 1)
    changes = ours.mean(0) / theirs.mean(0) - 1
    assert (low, high) == pytest.approx(np.quantile(changes, [0.025, 0.975]))
    assert relative_change(own, baseline, ours, theirs, 0.5)[1] > low


def test_a_baseline_without_errors_has_no_relative_change():
    assert relative_change([1.0], [0.0], [[1.0, 1.0]], [[0.0, 0.0]]) == (None, None, None)
    assert relative_change([1.0], [1.0], [[1.0, 1.0]], [[0.0, 1.0]]) == (0.0, None, None)
