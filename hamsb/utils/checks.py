"""Checks of arguments: a ValueError that names the argument and the rule."""

import math
from collections.abc import Collection, Mapping, Sequence
from numbers import Integral, Real
from typing import Any


def check_choice(name: str, value: object, choices: Collection) -> None:
    """ValueError where a value is none of the choices.

    Example
    -------
    >>> check_choice("limit", "soft", ("soft", "hard"))
    """
    if not any(type(value) is type(each) and value == each for each in choices):
        raise ValueError(f"{name}={value!r}: must be one of {list(choices)}.")


def is_number(value: object) -> bool:
    """Whether a value is a real number: no text, no bool, no tensor.

    Example
    -------
    >>> [is_number(value) for value in (0.2, 3, "0.2", True, None)]
    [True, True, False, False, False]
    """
    return isinstance(value, Real) and not isinstance(value, bool)


def check_positive(name: str, value: Any) -> None:
    """ValueError where a value is no number, or not positive and finite.

    Example
    -------
    >>> check_positive("curvature", 3.0)
    """
    _check_number(name, value, "positive and finite")
    if not 0 < value < math.inf:
        raise ValueError(f"{name}={value!r}: must be positive and finite.")


def check_not_negative(name: str, value: Any) -> None:
    """ValueError where a value is no number, or negative or not finite.

    Example
    -------
    >>> check_not_negative("margin", 0.0)
    """
    _check_number(name, value, "finite and not negative")
    if not 0 <= value < math.inf:
        raise ValueError(f"{name}={value!r}: must be finite and not negative.")


def _check_number(name: str, value: object, rule: str) -> None:
    if not is_number(value):
        raise ValueError(f"{name}={value!r}: must be a number, {rule}.")


def check_flag(name: str, value: object) -> None:
    """ValueError where a value is neither True nor False: a yaml's ``no`` is a text,
    which would count as true.

    Example
    -------
    >>> check_flag("learnable", False)
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name}={value!r}: must be True or False.")


def check_mapping(name: str, value: Any, kind: str = "mapping") -> None:
    """ValueError where a value is no mapping, or no such ``kind`` of one.

    Example
    -------
    >>> check_mapping("options", {"seed": 1})
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"{name}={value}: must be a {kind}.")


def check_list(name: str, value: Any, kind: str = "list") -> None:
    """ValueError where a value is no list, or no such ``kind`` of one; of a kind that
    begins with "list of", but for names, the items are numbers.

    Example
    -------
    >>> check_list("seeds", [1, 2, 3], "list of numbers")
    """
    numbers = kind.startswith("list of") and not kind.startswith("list of names")
    if not isinstance(value, list) or (numbers and not all(map(is_number, value))):
        raise ValueError(f"{name}={value}: must be a {kind}.")


def check_whole(name: str, value: Any, least: int) -> None:
    """ValueError where a value is no whole number (a bool is none), or below the least.

    Example
    -------
    >>> check_whole("utterances", 10, least=1)
    """
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or value < least:
        raise ValueError(f"{name}={value!r}: must be a whole number, at least {least}.")


def some(names: Sequence[str], most: int = 3) -> str:
    """The first of some names, separated by commas.

    Example
    -------
    >>> some(["anna", "ben", "cleo"], most=2)
    'anna, ben, ...'
    """
    return ", ".join(names[:most]) + ", ..." * (len(names) > most)
