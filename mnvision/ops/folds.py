"""Pairs of pictures in folds, where nobody says which pair belongs to which."""

from __future__ import annotations

import numpy as np


def folds_in_order(same: np.ndarray, count: int = 10) -> np.ndarray:
    """Cut the same and the different pairs, each in their order, into folds of equal size as nearly as can be.

    Args:
        same: bool [P].
        count: Of folds; fewer where there are fewer pairs of a kind.

    Returns:
        int64 [P], 0..count-1.

    >>> folds_in_order(np.array([True, True, True, False, False]), 2)
    array([0, 0, 1, 0, 1])
    """
    folds = np.zeros(len(same), dtype=np.int64)
    kinds = [rows for rows in (np.flatnonzero(same), np.flatnonzero(~same)) if len(rows)]
    count = min([count, *(len(rows) for rows in kinds)])  # each fold has some of every kind that there is
    for rows in kinds:
        folds[rows] = np.arange(len(rows)) * count // len(rows)
    return folds
