"""Checks of arguments: a ValueError that names the argument and the rule."""

import math
from collections.abc import Collection


def check_choice(name: str, value: object, choices: Collection) -> None:
    """ValueError where a value is none of the choices.

    Example
    -------
    >>> check_choice("limit", "soft", ("soft", "hard"))
    """
    if value not in choices:
        raise ValueError(f"{name}={value!r}: must be one of {list(choices)}.")


def check_positive(name: str, value: float) -> None:
    """ValueError where a number is not positive and finite.

    Example
    -------
    >>> check_positive("curvature", 3.0)
    """
    if not 0 < value < math.inf:
        raise ValueError(f"{name}={value}: must be positive and finite.")


def check_whole(name: str, value: object, least: int) -> None:
    """ValueError where a value is no int, or below the least.

    Example
    -------
    >>> check_whole("utterances", 10, least=1)
    """
    if type(value) is not int or value < least:
        raise ValueError(f"{name}={value}: must be a whole number, at least {least}.")
