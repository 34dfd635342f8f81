"""The adaptive partition of PlaNet: small cells where many pictures are, large ones where few are.

T. Weyand et al., "PlaNet - Photo Geolocation with Convolutional Neural Networks", arXiv:1602.05314, section 3.
"""

from __future__ import annotations

import numpy as np

from mnvision.errors import UserError
from mnvision.ops.s2 import LEAF, parent_cells


def adaptive_cells(
    leaves: np.ndarray, *, max_photos: int, min_photos: int, min_level: int = 2, max_level: int = LEAF
) -> tuple[np.ndarray, np.ndarray]:
    """Divide the earth into cells with more than ``min_photos`` and at most ``max_photos`` points.

    From the cells of ``min_level`` on, every cell with more than ``max_photos`` points (PlaNet's t1) is replaced by its
    children, unless it is of ``max_level``. In the end cells with ``min_photos`` points (t2) or fewer are dropped: what
    lies there has no cell. Only a cell of ``max_level`` can hold more than ``max_photos``.

    Args:
        leaves: uint64 [N], the finest cells around the points.
        max_photos: At least 1 and more than ``min_photos``.
        min_photos: At least 0.
        min_level: 0 (the six faces of the cube) to 30.
        max_level: ``min_level`` to 30.

    Returns:
        The cells, uint64 [K] in rising order, and the number of points in each, int64 [K].

    Raises:
        UserError: A value is out of range, or every cell was dropped.
    """
    if not (0 <= min_photos < max_photos and 0 <= min_level <= max_level <= LEAF):
        raise UserError(
            f"cannot divide the earth with max_photos={max_photos}, min_photos={min_photos}, min_level={min_level}, "
            f"max_level={max_level}; expected 0 <= min_photos < max_photos and 0 <= min_level <= max_level <= {LEAF}"
        )
    rest = np.sort(leaves)
    cells, numbers = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    for level in range(min_level, max_level + 1):
        found, counts = np.unique(parent_cells(rest, level), return_counts=True)
        split = (counts > max_photos) & (level < max_level)
        kept = ~split & (counts > min_photos)
        cells.append(found[kept])
        numbers.append(counts[kept])
        rest = rest[np.repeat(split, counts)]  # the points are sorted, and so are their cells
        if not len(rest):
            break
    all_cells, all_numbers = np.concatenate(cells), np.concatenate(numbers)
    if not len(all_cells):
        raise UserError(
            f"none of the cells around {len(leaves):,} points has more than {min_photos} of them, from level "
            f"{min_level} to {max_level}; lower task.min_photos or task.min_level"
        )
    order = np.argsort(all_cells)
    return all_cells[order], all_numbers[order]
