"""What the maps check and normalise of their arguments."""

import math
import numbers
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor


def plain(value: Any) -> Any:
    """Numbers as Python's own, several of them as a tuple: of NumPy's scalars and arrays, and of anything with ``__index__``.

    What is no number stays what it is, for the checks to refuse.

    Example:
        >>> plain((np.int64(9), np.array([2.0, 3.0]), "same", None))
        (9, (2.0, 3.0), 'same', None)
    """
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return tuple(map(plain, value))
    if isinstance(value, bool | int | float | Tensor):
        return value
    if hasattr(value, "__index__"):
        return operator.index(value)
    return float(value) if isinstance(value, numbers.Real) else value


def odd_sides(value: int | Sequence[int], dims: int) -> tuple[int, ...]:
    """The sides of a window, as many as are given, or ``dims`` equal ones."""
    sides = tuple(value) if isinstance(value, Sequence) else (value,) * dims
    odd = all(isinstance(s, int) and not isinstance(s, bool) and s > 0 and s % 2 for s in sides)
    fits = len(sides) == 3 if dims == 3 else len(sides) in (1, 2)
    if not odd or not fits:
        several = " or three of them" if dims == 3 else "" if len(sides) == 1 else " or a pair of them"
        raise ValueError(
            f"kernel_size must be a positive odd number{several}, so that the window has a centre tap; got {value!r}"
        )
    return sides


def check_count(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1; got {value!r}")


def check_number(name: str, value: float, *, above: float | None = None, why: str = "") -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or (above is not None and value <= above):
        rule = "a finite number" if above is None else f"a finite number above {above:g}{why if above else ''}"
        raise ValueError(f"{name} must be {rule}; got {value!r}")


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}")
