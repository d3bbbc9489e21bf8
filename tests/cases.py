"""Many cases inside one test."""

import functools
import inspect
import itertools


def looped(**cases):
    """Run a test for every combination of the named cases, one after another; an error
    tells of the combination.

    Example
    -------
    >>> @looped(seed=range(3), dtype=["float32", "float64"])
    ... def test_something(seed, dtype):
    ...     assert seed < 2
    >>> test_something()
    Traceback (most recent call last):
    AssertionError: with seed=2, dtype='float32'
    """

    def decorate(test):
        @functools.wraps(test)
        def loop(**fixtures):
            for values in itertools.product(*cases.values()):
                case = dict(zip(cases, values, strict=True))
                try:
                    test(**fixtures, **case)
                except Exception as error:
                    text = ", ".join(f"{name}={value!r}" for name, value in case.items())
                    raise AssertionError(f"with {text}") from error

        parameters = inspect.signature(test).parameters.values()
        left = [parameter for parameter in parameters if parameter.name not in cases]
        loop.__signature__ = inspect.Signature(left)
        return loop

    return decorate
