"""What values tell of the kind of similarities."""

import math

import pytest
import torch

from cases import looped
from hamsb.nnet.kinds import KINDS, check_values, in_words

INF, NAN = math.inf, math.nan


@looped(
    case=[
        (("cosine",), [1.0, -1.0]),
        (("cosine",), [1.03, -1.03]),  # rounded in bfloat16
        (("cosine",), [-0.5, -0.1]),  # of few speakers
        (("cosine",), [0.5] + 99 * [-0.1]),
        (("cosine",), [-0.5, *99 * [-INF]]),  # masked candidates
        (("cosine",), [NAN, 0.5]),  # which the loss shows
        (("cosine",), []),
        (("distance",), [0.0, -40.0, -INF]),
        (("cosine", "distance"), [-40.0, -3.0]),
        (("cosine", "logits"), [-40.0, 40.0]),
        (("embedding",), [40.0]),
    ]
)
def test_what_may_be_of_a_kind_passes(case):
    expects, values = case
    check_values("loss", expects, torch.tensor([values]))


@looped(
    case=[
        (("cosine",), [-1.31, -1.32], "cosines, .*between -1.32 and -1.31"),
        (("cosine",), [0.2, 1.2], "between 0.2 and 1.2.*CosineClassifier"),
        (("cosine",), 100 * [-0.2], "between -0.2 and -0.2"),
        (("distance",), [-1.0, 0.2], "minus distances, .*HyperbolicClassifier"),
        (("cosine", "distance"), [0.0, 2.0], "cosines or minus distances"),
    ]
)
def test_what_cannot_be_is_a_value_error(case):
    expects, values, message = case
    with pytest.raises(ValueError, match=f"^loss: expects .*{message}"):
        check_values("loss", expects, torch.tensor([values]))


def test_every_kind_has_words():
    assert in_words(KINDS).count(" or ") == len(KINDS) - 1
