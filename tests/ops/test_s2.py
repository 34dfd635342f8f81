from __future__ import annotations

import time

import numpy as np
import pytest

from mnvision.errors import UserError
from mnvision.ops.geo import haversine, to_vectors
from mnvision.ops.partition import adaptive_cells
from mnvision.ops.s2 import (
    are_tokens,
    cell_centers,
    cell_levels,
    cell_outlines,
    cell_tokens,
    find_cells,
    group_cells,
    leaf_cells,
    parent_cells,
    read_tokens,
)

# FACTS, section 8: computed with s2sphere and with s2cell.
GOLDEN = {
    (48.8584, 2.2945): ("47", "47e4", "47e67", "47e66ff", "47e66fe1f36a36a5"),
    (40.6892, -74.0445): ("89", "89c4", "89c25", "89c2509", "89c25088d6fe3dd9"),
    (-33.8568, 151.2153): ("6b", "6b14", "6b12b", "6b12ae7", "6b12ae669072a21f"),
    (0.0, 0.0): ("11", "1004", "10001", "1000001", "1000000000000001"),
    (35.6586, 139.7454): ("61", "601c", "60189", "60188bb", "60188bbd9a7f993b"),
}
LEVELS = (2, 5, 8, 12, 30)


def anywhere(count: int, *, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack((np.degrees(np.arcsin(rng.uniform(-1, 1, count))), rng.uniform(-180, 180, count)), axis=-1)


@pytest.mark.parametrize("place", GOLDEN)
def test_golden_tokens(place):
    leaves = leaf_cells(np.array([place]))
    assert tuple(cell_tokens(parent_cells(leaves, level))[0] for level in LEVELS) == GOLDEN[place]
    assert tuple(cell_levels(read_tokens([token]))[0] for token in GOLDEN[place]) == LEVELS


def test_parents_are_those_of_the_library():
    s2cell = pytest.importorskip("s2cell")
    leaves = leaf_cells(anywhere(50))
    for level in range(31):
        expected = [s2cell.cell_id_to_parent_cell_id(int(leaf), level) for leaf in leaves]
        assert parent_cells(leaves, level).tolist() == expected
    mixed = parent_cells(leaves, np.arange(50) % 31)
    assert cell_levels(mixed).tolist() == (np.arange(50) % 31).tolist()
    assert parent_cells(mixed, 30).tolist() == mixed.tolist()  # a coarser cell stays


def test_the_cell_of_a_leaf_is_found_at_any_level():
    places = anywhere(400)
    leaves = leaf_cells(places)
    cells = np.unique(parent_cells(leaves[:60], 4))
    found = find_cells(leaves, cells[::-1])  # in any order
    slow = [next((i for i, cell in enumerate(cells[::-1]) if parent_cells(leaf, 4) == cell), -1) for leaf in leaves]
    assert found.tolist() == slow
    assert {-1} < set(slow)
    assert find_cells(leaves, np.zeros(0, np.uint64)).tolist() == [-1] * 400


def test_outlines_have_the_corners_of_the_library_and_hold_the_centre():
    """s2sphere 0.2.5: Cell(CellId.from_token(...)).get_vertex(0..3), in degrees."""
    expected = {
        "47e67": [(48.693312, 2.442937), (49.01493, 2.470787), (49.022072, 2.110119), (48.700305, 2.086326)],
        "89c25": [(40.827707, -74.217933), (40.510849, -74.217933), (40.45771, -73.841906), (40.774478, -73.841906)],
    }
    corners = cell_outlines(read_tokens(list(expected)), points=1)
    np.testing.assert_allclose(corners, np.array(list(expected.values())), atol=1e-6)
    for token in ("1", "3", "5", "7", "9", "b", "47e67", "6b14", "9f5c"):  # all six faces first
        cell = read_tokens([token])
        center = cell_centers(cell)[0]
        outline = cell_outlines(cell, points=4)[0]
        inside = (
            leaf_cells(center + 0.999 * (outline - center)) if cell_levels(cell)[0] > 4 else leaf_cells(center[None])
        )
        assert (find_cells(inside, cell) == 0).all()
        normal = to_vectors(outline).sum(axis=0)
        assert (
            haversine(center, np.degrees([np.arcsin(normal[2] / np.linalg.norm(normal)), np.arctan2(*normal[1::-1])]))
            < 200
        )


def test_tokens_are_checked():
    assert are_tokens(["47e67", "89c25"])
    assert not are_tokens(["class 1", "class 2"])
    for wrong in (["47e6x"], ["4"], ["0"], [""], ["47e66fe1f36a36a50"], ["-1"]):
        with pytest.raises(UserError, match="is no S2 cell; expected tokens such as 47e67"):
            read_tokens(wrong)
    with pytest.raises(UserError, match="the S2 cells 47e4 and 47e67 overlap"):
        read_tokens(["89c25", "47e67", "47e4"])
    with pytest.raises(UserError, match="overlap"):
        read_tokens(["47e67", "47e67"])


@pytest.mark.parametrize("token", ["0x47", "4_7", " 47", "+47", "47 ", "\u0664\u0667"])
def test_what_python_reads_as_a_number_is_no_token(token):
    with pytest.raises(UserError, match="is no S2 cell; expected tokens such as 47e67"):
        read_tokens(["89c25", token])


def test_cells_that_lie_together_are_grouped_and_coarser_ones_stay_alone():
    cells = np.concatenate((read_tokens(["47e67", "47e61", "89c25"]), read_tokens(["6b"])))
    groups, parents = group_cells(cells, 5)
    assert groups[0] == groups[1]
    assert len(set(groups.tolist())) == 3
    assert sorted(cell_tokens(parents)) == ["47e4", "6b", "89c4"]


def slow_partition(leaves, *, max_photos, min_photos, min_level, max_level):
    """FACTS, section 8, as it is written there: start, drop, descend one level where there are too many, drop."""
    cells = {}
    for leaf in leaves:
        cells.setdefault(int(parent_cells(leaf, min_level)), []).append(leaf)
    cells = {cell: inside for cell, inside in cells.items() if len(inside) > min_photos}
    level = min_level
    while any(len(inside) > max_photos for inside in cells.values()) and level < max_level:
        level += 1
        for cell in [cell for cell, inside in cells.items() if len(inside) > max_photos]:
            for leaf in cells.pop(cell):
                cells.setdefault(int(parent_cells(leaf, level)), []).append(leaf)
    return {cell: len(inside) for cell, inside in cells.items() if len(inside) > min_photos}


@pytest.mark.parametrize(
    ("limits", "expect_full"),
    [
        ({"max_photos": 40, "min_photos": 3, "min_level": 2, "max_level": 30}, False),
        ({"max_photos": 10, "min_photos": 0, "min_level": 0, "max_level": 30}, False),
        ({"max_photos": 10, "min_photos": 9, "min_level": 1, "max_level": 6}, True),
    ],
)
def test_the_partition_is_that_of_the_slow_reference(limits, expect_full):
    rng = np.random.default_rng(5)
    towns = np.array([[48.85, 2.3], [-33.86, 151.2]])[rng.integers(0, 2, 300)] + rng.normal(scale=0.3, size=(300, 2))
    leaves = leaf_cells(np.concatenate((towns, anywhere(300))))
    cells, counts = adaptive_cells(leaves, **limits)
    assert dict(zip(cells.tolist(), counts.tolist(), strict=True)) == slow_partition(leaves, **limits)
    assert (counts > limits["min_photos"]).all()
    assert (counts > limits["max_photos"]).any() == expect_full
    assert (np.bincount(find_cells(leaves, cells) + 1, minlength=len(cells) + 1)[1:] == counts).all()
    are = cell_levels(cells)
    assert are.min() >= limits["min_level"]
    assert are.max() <= limits["max_level"]
    assert are_tokens(cell_tokens(cells))  # none overlaps another


def test_the_limits_of_the_partition():
    """A cell of t2 points is dropped, one of t1 is not divided."""
    leaves = np.repeat(leaf_cells(np.array([[48.8584, 2.2945], [0.0, 0.0]])), [5, 2])
    cells, counts = adaptive_cells(leaves, max_photos=5, min_photos=2, min_level=3)
    assert cell_levels(cells).tolist() == [3]
    assert counts.tolist() == [5]
    cells, counts = adaptive_cells(leaves, max_photos=4, min_photos=1, min_level=3, max_level=7)
    assert (cell_levels(cells).tolist(), counts.tolist()) == ([3, 7], [2, 5])
    for wrong in (
        {"max_photos": 2, "min_photos": 2},
        {"max_photos": 9, "min_photos": 1, "min_level": 5, "max_level": 4},
    ):
        with pytest.raises(UserError, match=r"expected 0 <= min_photos < max_photos and 0 <= min_level <= max_level"):
            adaptive_cells(leaves, **wrong)
    with pytest.raises(
        UserError, match=r"none of the cells around 7 points has more than 5 of them.*lower task\.min_ph"
    ):
        adaptive_cells(leaves, max_photos=9, min_photos=5)


def test_a_hundred_thousand_real_places(shared_data):
    """Every point in exactly one cell or in a dropped one, counts within the limits, in seconds."""
    places = np.loadtxt(shared_data / "geo" / "coordinates_100k.csv", delimiter=",", skiprows=1)
    started = time.process_time()
    leaves = leaf_cells(places)
    cells, counts = adaptive_cells(leaves, max_photos=1000, min_photos=50)
    assert time.process_time() - started < 20  # 2 s on an idle core
    assert len(places) == 100_000
    assert len(cells) == 276
    assert (counts > 50).all()
    assert (counts <= 1000).all()
    found = find_cells(leaves, cells)
    assert (np.bincount(found[found >= 0], minlength=len(cells)) == counts).all()
    outside = leaves[found < 0]
    assert len(outside) == 100_000 - counts.sum()
    # What has no cell lies in dropped ones: cells of some level that hold at most 50 points and none of the kept cells.
    lost = np.ones(len(outside), dtype=bool)
    for level in range(2, 31):
        kinds, numbers = np.unique(parent_cells(leaves, level), return_counts=True)
        mine = parent_cells(outside, level)
        lost &= ~((numbers[np.searchsorted(kinds, mine)] <= 50) & (find_cells(mine, parent_cells(cells, level)) < 0))
    assert not lost.any()
