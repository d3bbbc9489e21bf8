"""Checks of arguments: a ValueError that names the argument and the rule."""

import math
from collections.abc import Collection
from numbers import Integral
from typing import Any


def check_choice(name: str, value: object, choices: Collection) -> None:
    """ValueError where a value is none of the choices.

    Example
    -------
    >>> check_choice("limit", "soft", ("soft", "hard"))
    """
    if value not in choices:
        raise ValueError(f"{name}={value!r}: must be one of {list(choices)}.")


def check_positive(name: str, value: Any) -> None:
    """ValueError where a value is no number, or not positive and finite.

    Example
    -------
    >>> check_positive("curvature", 3.0)
    """
    try:
        fits = 0 < value < math.inf
    except TypeError:
        fits = False
    if not fits:
        raise ValueError(f"{name}={value!r}: must be positive and finite.")


def check_not_negative(name: str, value: Any) -> None:
    """ValueError where a value is no number, or negative or not finite.

    Example
    -------
    >>> check_not_negative("margin", 0.0)
    """
    try:
        fits = 0 <= value < math.inf
    except TypeError:
        fits = False
    if not fits:
        raise ValueError(f"{name}={value!r}: must be finite and not negative.")


def check_whole(name: str, value: Any, least: int) -> None:
    """ValueError where a value is no whole number (a bool is none), or below the least.

    Example
    -------
    >>> check_whole("utterances", 10, least=1)
    """
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or value < least:
        raise ValueError(f"{name}={value!r}: must be a whole number, at least {least}.")
