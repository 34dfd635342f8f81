"""S2 cells: the faces of a cube around the earth, divided into four again and again, down to level 30.

A cell is an integer of 64 bits: its face, two bits a level along a Hilbert curve, a one, and zeros. All of its children
lie in one range of integers, so that parents and the search for the cell of a point are arithmetic on arrays. The
numbers of places come from the package s2cell (MIT), some 10 microseconds each. A cell's token is its number in
hexadecimal without the zeros at its end (s2geometry.io, "S2 Cells").
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from mnvision.errors import UserError
from mnvision.ops.geo import to_places

LEAF = 30  # the finest level: less than a square centimetre
_ONE = np.uint64(1)
_TOKEN = re.compile("[0-9a-fA-F]{1,16}")


def leaf_cells(places: np.ndarray) -> np.ndarray:
    """The cells of the finest level around places [N, 2]: uint64 [N].

    >>> cell_tokens(leaf_cells(np.array([[48.8584, 2.2945]])))
    ['47e66fe1f36a36a5']
    """
    from s2cell import lat_lon_to_cell_id

    cells = (lat_lon_to_cell_id(latitude, longitude, LEAF) for latitude, longitude in places.tolist())
    return np.fromiter(cells, dtype=np.uint64, count=len(places))


def cell_levels(cells: np.ndarray) -> np.ndarray:
    """The levels of cells uint64 [N]: int64 [N], from the number of zeros at their ends."""
    return LEAF - np.log2(_last_bit(cells)).astype(np.int64) // 2  # exact: powers of two


def parent_cells(cells: np.ndarray, level: int | np.ndarray) -> np.ndarray:
    """The cells of a level (one, or one for each) that cells uint64 [N] lie in; a cell that is coarser stays.

    >>> cell_tokens(parent_cells(leaf_cells(np.array([[0.0, 0.0]])), 5))
    ['1004']
    """
    levels = np.minimum(level, cell_levels(cells))
    bit = _ONE << (2 * (LEAF - levels)).astype(np.uint64)
    return (cells & ~(bit - _ONE)) | bit


def find_cells(leaves: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """The place in ``cells`` of the cell that each leaf lies in: int64 [N], -1 where it lies in none.

    Args:
        leaves: uint64 [N], cells of the finest level, or of any that is not coarser than the cells they lie in.
        cells: uint64 [K], none inside another, in any order.
    """
    if not len(cells):
        return np.full(len(leaves), -1)
    order = np.argsort(cells)
    middles, reach = cells[order], _last_bit(cells[order]) - _ONE
    place = np.searchsorted(middles - reach, leaves, side="right") - 1
    inside = (place >= 0) & (leaves <= (middles + reach)[place])
    return np.where(inside, order[place], -1)


def cell_tokens(cells: np.ndarray) -> list[str]:
    """The tokens of cells uint64 [N]."""
    return [f"{cell:016x}".rstrip("0") for cell in cells.tolist()]


def read_tokens(tokens: Sequence[str]) -> np.ndarray:
    """The cells of tokens: uint64 [K].

    Raises:
        UserError: One is no token, or two cells overlap.
    """
    from s2cell import cell_id_is_valid

    numbers = []
    for token in tokens:
        # int() alone reads -1, 0x47, 4_7 and blanks, too
        number = int(token.ljust(16, "0"), 16) if _TOKEN.fullmatch(token) else 0
        if not cell_id_is_valid(number):
            raise UserError(f"{token!r} is no S2 cell; expected tokens such as 47e67 (Paris, level 8)")
        numbers.append(number)
    cells = np.array(numbers, dtype=np.uint64)
    order = np.argsort(cells)
    reach = _last_bit(cells) - _ONE
    overlap = np.flatnonzero((cells - reach)[order[1:]] <= (cells + reach)[order[:-1]])
    if len(overlap):
        first, second = order[overlap[0]], order[overlap[0] + 1]
        raise UserError(f"the S2 cells {tokens[first]} and {tokens[second]} overlap; expected every place in one cell")
    return cells


def are_tokens(names: Sequence[str]) -> bool:
    """Whether names are tokens of cells that do not overlap."""
    try:
        read_tokens(names)
    except UserError:
        return False
    return True


def cell_centers(cells: np.ndarray) -> np.ndarray:
    """The places in the middle of cells uint64 [N]: float64 [N, 2]."""
    from s2cell import cell_id_to_lat_lon

    return np.array([cell_id_to_lat_lon(cell) for cell in cells.tolist()], dtype=np.float64).reshape(-1, 2)


def cell_outlines(cells: np.ndarray, *, points: int = 8) -> np.ndarray:
    """The borders of cells: float64 [N, 4 * points, 2], places along the four edges of each, once around.

    Args:
        cells: uint64 [N].
        points: Along an edge; with 1 they are the corners alone.
    """
    from s2cell import s2_cell_id_to_face_ij

    found = [s2_cell_id_to_face_ij(cell) for cell in cells.tolist()]
    face, i, j = np.array(found, dtype=np.int64).reshape(-1, 3).T
    size = 1 << (LEAF - cell_levels(cells))  # [N], of the 2 ** 30 leaves along an edge of a face
    low = np.stack((i, j), axis=-1) // size[:, None] * size[:, None]  # [N, 2], the first leaf of each cell
    along = np.arange(points) / points
    none, all_ = np.zeros(points), np.ones(points)
    steps = np.stack(  # [4 * points, 2], once around the unit square
        (np.concatenate((along, all_, 1 - along, none)), np.concatenate((none, along, all_, 1 - along))), axis=-1
    )
    shares = (low[:, None] + steps * size[:, None, None]) / 2**LEAF  # [N, 4 * points, 2], 0..1 on the face
    return to_places(_face_vectors(face[:, None], *np.moveaxis(_from_quadratic(shares), -1, 0)))


def group_cells(cells: np.ndarray, level: int) -> tuple[np.ndarray, np.ndarray]:
    """Which cells lie together at a coarser level; a cell that is coarser itself is a group of its own.

    Returns:
        The group of each cell, int64 [N], and the groups, uint64 [G].
    """
    groups, place = np.unique(parent_cells(cells, level), return_inverse=True)
    return place.astype(np.int64), groups


def _last_bit(cells: np.ndarray) -> np.ndarray:
    return cells & (~cells + _ONE)


def _from_quadratic(shares: np.ndarray) -> np.ndarray:
    """From 0..1 along a face to -1..1 on the cube: S2's quadratic projection, which makes cells of like size."""
    return np.where(shares >= 0.5, (4 * shares**2 - 1) / 3, (1 - 4 * (1 - shares) ** 2) / 3)


def _face_vectors(face: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Points of the cube [..., 3]; faces 0 to 5 are +x, +y, +z, -x, -y, -z."""
    one = np.ones_like(u)
    sides = ((one, u, v), (-u, one, v), (-u, -v, one), (-one, -v, -u), (v, -one, -u), (v, u, -one))
    face = np.broadcast_to(face, u.shape)
    return np.stack([np.choose(face, [side[axis] for side in sides]) for axis in range(3)], axis=-1)
