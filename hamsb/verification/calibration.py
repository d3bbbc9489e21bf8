"""Calibration: from scores to natural-log likelihood ratios.

A score orders the trials; a log-likelihood ratio also says how sure it is, so that one
threshold, `hamsb.verification.metrics.bayes_threshold`, serves every prior and cost.
Train a calibration on a list of its own: the list that it is trained on makes it look
better than it is.
"""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from scipy.special import expit

from hamsb.verification.arrays import checked_trials, finite_array
from hamsb.verification.metrics import bayes_threshold

_RIDGE = 1e-8  # on the weights of standardized features
_CONSTANT = 1e-9  # a feature of smaller relative spread is rounding noise


@dataclasses.dataclass(frozen=True)
class Calibration:
    r"""An affine map from scores (and quality measures) to log-likelihood ratios.

    .. math:: l = a\, s + b + w^\top q

    Attributes
    ----------
    scale : float
        a, in nats a score. Positive where the scores rank the calibration trials better
        than chance; without quality measures the ratios then rank trials as they do.
    offset : float
        b, in nats.
    quality_weights : tuple of float
        w, one for each of the Q quality measures.
    p_target : float
        The effective prior that it was trained for. It is no part of the ratios.

    ValueError where a number is not finite or the prior is not in (0, 1).

    Example
    -------
    >>> scores, labels = [0.1, 0.3, 0.6, 0.4, 0.7, 0.8], [0, 0, 0, 1, 1, 1]
    >>> calibration = Calibration.fit(scores, labels)
    >>> calibration([0.2, 0.9]).round(1)
    array([-2.1,  2.9])
    >>> Calibration.from_dict(calibration.to_dict()) == calibration
    True
    """

    scale: float
    offset: float
    quality_weights: tuple[float, ...] = ()
    p_target: float = 0.5

    def __post_init__(self) -> None:
        numbers = (self.scale, self.offset, *self.quality_weights)
        if not all(math.isfinite(number) for number in numbers):
            raise ValueError(f"a calibration of finite numbers is needed, got {self}")
        bayes_threshold(self.p_target)  # refuses what is no prior

    @classmethod
    def fit(
        cls,
        scores: ArrayLike,
        labels: ArrayLike,
        qualities: ArrayLike | None = None,
        p_target: float = 0.5,
    ) -> "Calibration":
        r"""Train by prior-weighted logistic regression [1]_.

        .. math:: \min_{a, b, w}\; \frac{p}{N_t} \sum_{targets} \ln(1 + e^{-l - \theta})
            + \frac{1 - p}{N_i} \sum_{impostors} \ln(1 + e^{l + \theta})
            + \frac{\lambda}{2} \lVert (a', w') \rVert^2,
            \quad \theta = \ln \frac{p}{1 - p}

        A class weighs as its prior says, however many trials it has; at p = 0.5 the
        first two terms are ln 2 times Cllr. The ridge is there for scores that separate
        the classes perfectly, whose best ratios would be infinite: lambda = 1e-8, on the
        weights a', w' of the features scaled to unit standard deviation, leaves them
        finite (a list that easy calibrates nothing) and others as they are. A feature
        that is the same in all trials gets the weight 0.

        Arguments
        ---------
        scores : array, tensor or list of float
            [N], higher means more similar.
        labels : array, tensor or list of bool or int
            [N], 1 for the same speaker, 0 for different speakers.
        qualities : array, tensor or list of float, optional
            [N, Q], what else is known of each trial, as ``symmetric_qualities`` gives
            it. A measure adds its share to the ratio, which helps where the scores
            shift with it.
        p_target : float
            Effective prior p in (0, 1): what happens near the Bayes threshold of this
            prior counts most.

        Returns
        -------
        Calibration

        Raises
        ------
        ValueError
            Trials that `det_curve` refuses, such as those of one class; qualities not
            [N, Q] or not finite; p_target outside (0, 1).

        References
        ----------
        .. [1] N. Brümmer et al., "Fusion of heterogeneous speaker recognition systems
           in the STBU submission for the NIST Speaker Recognition Evaluation 2006",
           IEEE Trans. Audio, Speech and Language Processing 15(7), 2007.
        """
        values, is_target = checked_trials(scores, labels)
        features = np.column_stack([values, _checked_qualities(qualities, len(values))])
        mean, spread = features.mean(axis=0), features.std(axis=0)
        spread[spread <= _CONSTANT * np.abs(features).max(axis=0)] = np.inf
        offset, weights = _logistic_regression(
            (features - mean) / spread, is_target, p_target
        )
        weights = weights / spread
        scale, *quality_weights = weights.tolist()
        offset = float(offset - weights @ mean)
        return cls(scale, offset, tuple(quality_weights), float(p_target))

    def __call__(self, scores: ArrayLike, qualities: ArrayLike | None = None) -> np.ndarray:
        """Log-likelihood ratios of trials.

        Arguments
        ---------
        scores : array, tensor or list of float
            [N], of the system that the calibration was trained for.
        qualities : array, tensor or list of float, optional
            [N, Q], the measures that it was trained with, in that order.

        Returns
        -------
        numpy.ndarray
            [N], float64, natural logarithm, without the prior.

        Raises
        ------
        ValueError
            Scores or qualities not finite or of another shape; other than the Q
            measures of the training.
        """
        values = finite_array(scores, "scores")
        measures = _checked_qualities(qualities, len(values))
        if measures.shape[1] != len(self.quality_weights):
            raise ValueError(
                f"trained with {len(self.quality_weights)} quality measures, "
                f"got {measures.shape[1]}"
            )
        return self.scale * values + self.offset + measures @ self.quality_weights

    def to_dict(self) -> dict:
        """Its numbers, for JSON; ``from_dict`` takes them back unchanged."""
        return {**dataclasses.asdict(self), "quality_weights": [*self.quality_weights]}

    @classmethod
    def from_dict(cls, numbers: Mapping) -> "Calibration":
        """The calibration of which ``to_dict`` gave the numbers.

        Arguments
        ---------
        numbers : dict

        Returns
        -------
        Calibration

        Raises
        ------
        ValueError
            A key is missing or unknown; a value is not a finite number.
        """
        keys = [field.name for field in dataclasses.fields(cls)]
        if sorted(numbers) != sorted(keys):
            raise ValueError(f"a calibration has the keys {keys}, got {[*numbers]}")
        weights = finite_array(numbers["quality_weights"], "quality_weights")
        others = {
            key: float(finite_array(numbers[key], key, dimensions=(0,)))
            for key in keys
            if key != "quality_weights"
        }
        return cls(quality_weights=tuple(weights.tolist()), **others)


def symmetric_qualities(enrol: ArrayLike, test: ArrayLike) -> np.ndarray:
    """Quality measures of trials from those of their sides, whichever comes first.

    Sum and absolute difference together can also weigh the smaller or the greater of
    the two values, (sum -+ difference) / 2.

    Arguments
    ---------
    enrol, test : array, tensor or list of float
        [N] or [N, Q], such as the logarithm of the duration in seconds, or the length
        of the embedding.

    Returns
    -------
    numpy.ndarray
        [N, 2 Q], float64: the Q sums, then the Q absolute differences.

    Raises
    ------
    ValueError
        The sides differ in shape, or are not [N] or [N, Q], or not finite.

    Example
    -------
    >>> symmetric_qualities([1.0, 2.0], [3.0, 1.5])
    array([[4. , 2. ],
           [3.5, 0.5]])
    """
    one = finite_array(enrol, "enrol", dimensions=(1, 2))
    other = finite_array(test, "test", dimensions=(1, 2))
    if one.shape != other.shape:
        raise ValueError(
            f"the sides differ in shape: enrol {one.shape}, test {other.shape}"
        )
    return np.column_stack([one + other, np.abs(one - other)])


def _logistic_regression(features, is_target, p_target):
    """Offset, and weights [F], of standardized features [N, F] under the ridge."""
    sign = np.where(is_target, 1.0, -1.0)
    share = np.where(
        is_target,
        p_target / np.count_nonzero(is_target),
        (1 - p_target) / np.count_nonzero(~is_target),
    )
    design = sign[:, np.newaxis] * np.column_stack([np.ones(len(sign)), features])
    prior = -sign * bayes_threshold(p_target)
    ridge = np.append(0.0, np.full(features.shape[1], _RIDGE))

    def cost_and_gradient(weights):
        correct = design @ weights + prior  # log-odds of the right answer
        cost = share @ np.logaddexp(0.0, -correct) + ridge @ weights**2 / 2
        return cost, ridge * weights - (share * expit(-correct)) @ design

    found = minimize(
        cost_and_gradient,
        np.zeros(design.shape[1]),
        jac=True,
        method="L-BFGS-B",
        options={"gtol": 1e-11, "ftol": 1e-15, "maxiter": 1000},
    )
    return found.x[0], found.x[1:]


def _checked_qualities(qualities, trials):
    """Quality measures as float64 [N, Q], [N, 0] for None; or a ValueError."""
    if qualities is None:
        return np.empty((trials, 0))
    qualities = finite_array(qualities, "qualities", dimensions=(2,))
    if len(qualities) != trials:
        raise ValueError(
            f"{trials} trials need qualities [{trials}, Q], got shape {qualities.shape}"
        )
    return qualities
