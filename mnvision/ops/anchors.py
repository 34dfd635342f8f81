"""Default boxes: SSD's, RetinaNet's, and those of a region proposal network."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def ssd_scales(levels: int, *, minimum: float = 0.2, maximum: float = 0.95) -> list[float]:
    """Anchor sizes of each level as fractions of the image, evenly spaced, and 1.0 behind the last.

    >>> ssd_scales(6)
    [0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0]
    """
    if levels == 1:
        return [minimum, 1.0]
    return [round(minimum + (maximum - minimum) * k / (levels - 1), 10) for k in range(levels)] + [1.0]


def ssd_shapes(levels: int, *, minimum: float = 0.2, maximum: float = 0.95) -> list[list[tuple[float, float]]]:
    """The (scale, aspect ratio) of each anchor of a cell, per level: three on the first level, six on the others.

    The first level has a box of half the smallest scale and two elongated ones; the others have ratios 1, 2, 1/2, 3
    and 1/3 of their scale, and a square between their scale and the next (SSD, arXiv:1512.02325, section 2.2, as
    TensorFlow's MobileNet configuration has it; its 1/3 is written 0.3333).
    """
    scales = ssd_scales(levels, minimum=minimum, maximum=maximum)
    first = [(scales[0] / 2, 1.0), (scales[0], 2.0), (scales[0], 0.5)]
    others = [
        [(scale, ratio) for ratio in (1.0, 2.0, 0.5, 3.0, 0.3333)] + [(math.sqrt(scale * after), 1.0)]
        for scale, after in zip(scales[1:], scales[2:], strict=False)
    ]
    return [first, *others]


def ssd_anchors(image_size: int, grids: Sequence[int], *, minimum: float = 0.2, maximum: float = 0.95) -> Tensor:
    """Default boxes of all levels: [A, 4] cxcywh in input pixels, not clipped.

    Order: level, then row, then column, then the anchors of a cell.

    Args:
        image_size: Side of the square input in pixels.
        grids: Cells along one side of each level's map.
        minimum: Scale of the first level, as a fraction of the image.
        maximum: Scale of the last level.
    """
    levels = []
    for grid, shapes in zip(grids, ssd_shapes(len(grids), minimum=minimum, maximum=maximum), strict=True):
        levels.append(_tile(_middles(grid), _sides(shapes)))
    return (torch.cat(levels) * image_size).float()


def pyramid_shapes() -> list[tuple[float, float]]:
    """The (scale in strides, aspect ratio) of each anchor of a cell of any level of a pyramid.

    Two scales an octave, from 4 strides on, and ratios 1, 2 and 1/2: RetinaNet (arXiv:1708.02002, section 4) as
    TensorFlow's MobileNet configuration has it; the paper has three scales.
    """
    return [(4.0 * 2 ** (step / 2), ratio) for step in range(2) for ratio in (1.0, 2.0, 0.5)]


def pyramid_anchors(image_size: int, grids: Sequence[int], strides: Sequence[int]) -> Tensor:
    """Default boxes of all levels of a pyramid: [A, 4] cxcywh in input pixels, not clipped.

    Their centres divide the input evenly. Where its side is a multiple of the stride they are half a stride from the
    cell's corner, as TensorFlow's are. Order: level, then row, then column, then the anchors of a cell.

    Args:
        image_size: Side of the square input in pixels.
        grids: Cells along one side of each level's map.
        strides: Pixels from one cell to the next, of each level.
    """
    sides = _sides(pyramid_shapes())
    levels = [_tile(_middles(grid) * image_size, sides * stride) for grid, stride in zip(grids, strides, strict=True)]
    return torch.cat(levels).float()


def grid_anchors(
    grids: Sequence[int],
    strides: Sequence[int],
    *,
    sizes: Sequence[float],
    ratios: Sequence[float] = (0.5, 1.0, 2.0),
    rounded: bool = False,
) -> Tensor:
    """The anchors of a region proposal network (Faster R-CNN, arXiv:1506.01497, section 3.1.1): [A, 4] cxcywh, pixels.

    Every cell of every level has the same ones, centred on the cell's first corner. Order: level, row, column, ratio,
    size.

    Args:
        grids: Cells along one side of each level's map.
        strides: Pixels from one cell to the next, of each level.
        sizes: Square roots of the areas, in pixels.
        ratios: Heights over widths.
        rounded: Round the corners, relative to the centre, to whole pixels, as torchvision does.
    """
    shapes = torch.tensor([(s / math.sqrt(r), s * math.sqrt(r)) for r in ratios for s in sizes], dtype=torch.float64)
    if rounded:
        shapes = 2 * (shapes / 2).round()
    levels = []
    for grid, stride in zip(grids, strides, strict=True):
        levels.append(_tile(torch.arange(grid, dtype=torch.float64) * stride, shapes))
    return torch.cat(levels).float()


def _middles(grid: int) -> Tensor:
    """Where the middles of so many equal cells lie, float64 [G] in 0..1."""
    return (torch.arange(grid, dtype=torch.float64) + 0.5) / grid


def _sides(shapes: Sequence[tuple[float, float]]) -> Tensor:
    """Widths and heights, float64 [n, 2], of (scale, aspect ratio) pairs: the ratio is width over height."""
    return torch.tensor([(s * math.sqrt(r), s / math.sqrt(r)) for s, r in shapes], dtype=torch.float64)


def _tile(places: Tensor, sides: Tensor) -> Tensor:
    """Boxes [G*G*n, 4] cxcywh: all of ``sides`` [n, 2] around each cell; ``places`` [G] are those along one side."""
    y, x = torch.meshgrid(places, places, indexing="ij")
    centers = torch.stack((x, y), dim=-1).reshape(-1, 1, 2).expand(-1, len(sides), 2)  # [G*G, n, 2]
    return torch.cat((centers, sides.expand(len(centers), -1, 2)), dim=-1).reshape(-1, 4)
