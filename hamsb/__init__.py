"""hamsb: hyperbolic and margin losses for speaker verification with SpeechBrain."""

from hamsb.ball import ClippedUnitBall, PoincareBall
from hamsb.classifiers import HyperbolicClassifier
from hamsb.losses import (
    AAMSoftmax,
    AMSoftmax,
    HAMSoftmax,
    HSoftmax,
    RAMSoftmax,
    Softmax,
)

__version__ = "0.1.0"

__all__ = [
    "AAMSoftmax",
    "AMSoftmax",
    "ClippedUnitBall",
    "HAMSoftmax",
    "HSoftmax",
    "HyperbolicClassifier",
    "PoincareBall",
    "RAMSoftmax",
    "Softmax",
]
