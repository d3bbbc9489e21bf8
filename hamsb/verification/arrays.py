"""Scores and labels as arrays, checked.

What every measure of verification takes: a numpy array, a list, or a tensor on any
device. What does not fit is a ValueError that names the place.
"""

import numpy as np
import torch
from numpy.typing import ArrayLike


def checked_trials(
    scores: ArrayLike, labels: ArrayLike, name: str = "scores"
) -> tuple[np.ndarray, np.ndarray]:
    """Scores as float64 [N] and labels as bool [N].

    Arguments
    ---------
    scores : array, tensor or list of float
        [N]; a tensor may be on any device, of any float type and require grad.
    labels : array, tensor or list of bool or int
        [N], 1 for the same speaker, 0 for different speakers.
    name : str
        What the scores are called in messages.

    Returns
    -------
    scores, is_target : numpy.ndarray
        [N], float64, and [N], bool.

    Raises
    ------
    ValueError
        Not 1-D, unequal lengths, no trials, one class only, a score that is NaN or
        infinite, a label that is not an integer or bool 0 or 1; the message says what
        and at which index.

    Example
    -------
    >>> checked_trials([1, 2], [0, 1])
    (array([1., 2.]), array([False,  True]))
    """
    scores, labels = as_array(scores, name), as_array(labels, "labels")
    if len(scores) != len(labels):
        raise ValueError(
            f"{name} and labels differ in length: "
            f"{len(scores)} scores, {len(labels)} labels"
        )
    if len(scores) == 0:
        raise ValueError(f"no trials: {name} and labels are empty")
    scores = finite_array(scores, name)
    if labels.dtype.kind not in "biu":
        raise ValueError(
            f"labels must be bool or int, 1 for the same speaker, got dtype {labels.dtype}"
        )
    _refuse_at("labels must be 0 or 1", labels, (labels != 0) & (labels != 1))
    is_target = labels.astype(bool)
    if is_target.all() or not is_target.any():
        raise ValueError(
            "trials of both classes are needed, "
            f"but all {len(labels)} labels are {int(labels[0])}"
        )
    return scores, is_target


def finite_array(
    values: ArrayLike, name: str, dimensions: tuple[int, ...] = (1,)
) -> np.ndarray:
    """Finite real numbers as a float64 array, or a ValueError naming the first other.

    Arguments
    ---------
    values : array, tensor or list of float or int
        A tensor may be on any device, of any float type and require grad.
    name : str
        What they are called in messages.
    dimensions : tuple of int
        How many dimensions they may have.

    Returns
    -------
    numpy.ndarray
        float64, of the shape of values.

    Example
    -------
    >>> finite_array([1, 2], "scores")
    array([1., 2.])
    """
    array = as_array(values, name, dimensions)
    if array.size and array.dtype.kind not in "fiu":
        raise ValueError(f"{name} must be real numbers, got dtype {array.dtype}")
    array = array.astype(np.float64)
    _refuse_at(f"{name} must be finite", array, ~np.isfinite(array))
    return array


def as_array(
    values: ArrayLike, name: str, dimensions: tuple[int, ...] = (1,)
) -> np.ndarray:
    """A list, array or tensor as a numpy array, or a ValueError about its dimensions.

    Arguments
    ---------
    values : array, tensor or list
        Float tensors become float64.
    name : str
        What they are called in messages.
    dimensions : tuple of int
        How many dimensions they may have.

    Example
    -------
    >>> as_array(torch.tensor([1, 2], dtype=torch.bfloat16), "scores").dtype
    dtype('float64')
    """
    if isinstance(values, torch.Tensor):
        tensor = values.detach().cpu()
        values = (tensor.double() if tensor.is_floating_point() else tensor).numpy()
    allowed = " or ".join(f"{n}-D" for n in dimensions)
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"{name} must be a {allowed} list, array or tensor: {error}"
        ) from error
    if array.ndim not in dimensions:
        raise ValueError(f"{name} must be {allowed}, got shape {array.shape}")
    return array


def _refuse_at(rule, values, bad):
    """ValueError naming the first bad value and how many there are."""
    if bad.any():
        first = tuple(np.argwhere(bad)[0].tolist())
        raise ValueError(
            f"{rule}, got {values[first]} at index {', '.join(map(str, first))} "
            f"({int(bad.sum())} of {bad.size})"
        )
