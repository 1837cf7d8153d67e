"""Curves over environment steps."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Num


def area(values: Num[np.ndarray, "*rest marks"], marks: Num[np.ndarray, " marks"]) -> Float[np.ndarray, "*rest"]:
    """The area under each curve divided by the steps it covers: the mean height, in the values' own unit.

    Trapezoids between marks; the value itself where there is one mark only.
    """
    if len(marks) == 1:
        return np.asarray(values[..., 0], dtype=np.float64)
    return np.asarray(np.trapezoid(values, marks, axis=-1) / (marks[-1] - marks[0]))


def ending(values: Num[np.ndarray, "*rest marks"], last: int) -> Float[np.ndarray, "*rest"]:
    """The mean over the ``last`` marks, or over all where there are fewer."""
    return np.asarray(values[..., -last:].mean(-1))


def first_reaching(
    values: Num[np.ndarray, "*rest marks"], marks: Num[np.ndarray, " marks"], level: float
) -> Float[np.ndarray, "*rest"]:
    """The first mark at which each curve is at ``level`` or above; NaN where it never is."""
    reached = values >= level
    return np.where(reached.any(-1), marks[reached.argmax(-1)], np.nan).astype(np.float64)
