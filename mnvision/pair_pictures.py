"""Pictures for people: pairs side by side with their distance, and what a search found for a picture."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from mnvision.class_pictures import NEUTRAL, RIGHT, WRONG, Caption, draw_label, mistakes_sheet
from mnvision.types import UserError
from mnvision.visualize import Image, check_image

_SIDE = 256  # pixels: both pictures of a pair get this height
_GAP = 6


def side_by_side(first: Image, second: Image) -> Image:
    """Two pictures uint8 [H, W, 3] RGB of any sizes in frames of equal size beside each other."""
    frames = []
    for image in (first, second):
        check_image(image)
        scale = _SIDE / max(image.shape[:2])
        height, width = (max(1, round(side * scale)) for side in image.shape[:2])
        frame = np.full((_SIDE, _SIDE, 3), 24, np.uint8)
        top, left = (_SIDE - height) // 2, (_SIDE - width) // 2
        resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        frame[top : top + height, left : left + width] = resized
        frames.append(frame)
    return np.hstack([frames[0], np.full((_SIDE, _GAP, 3), 24, np.uint8), frames[1]])


def pair_captions(
    names: tuple[str, str], distance: float, threshold: float | None, *, same: bool | None = None
) -> list[Caption]:
    """The lines under a pair: what it was told to be, its distance, and the names of its pictures.

    Args:
        names: Of the two pictures, or of who is on them.
        distance: Squared L2 distance; NaN where there is none.
        threshold: Below it a pair is told to be the same; None where none is known.
        same: What it is; None where nobody knows.
    """
    lines = []
    if threshold is not None:
        told = "no answer" if np.isnan(distance) else "told same" if distance < threshold else "told different"
        right = None if same is None else not np.isnan(distance) and (distance < threshold) == same
        color = NEUTRAL if right is None else RIGHT if right else WRONG
        lines.append(Caption(told, f"{distance:.3f} at {threshold:.3f}", color))
    else:
        lines.append(Caption("distance", f"{distance:.3f}", NEUTRAL))
    return lines + [Caption(name) for name in dict.fromkeys(names)]


def pairs_sheet(
    pairs: Sequence[tuple[Image, Image]], captions: Sequence[Sequence[Caption]], *, columns: int = 3
) -> Image:
    """Pairs of pictures with their captions on one sheet, in the order given.

    Args:
        pairs: Two pictures uint8 [H, W, 3] RGB each.
        captions: What stands under each pair, as :func:`pair_captions` gives it.
        columns: How many pairs to a row.

    Returns:
        uint8 RGB.

    Raises:
        UserError: If there are no pairs, or not one list of captions for each.
    """
    if not pairs or len(pairs) != len(captions):
        raise UserError(
            f"Pairs: got {len(pairs)} pairs and captions of {len(captions)}; expected as many, and one pair."
        )
    most = max(map(len, captions))
    cells = []
    for pair, lines in zip(pairs, captions, strict=True):
        cell = draw_label(side_by_side(*pair), [*lines, *[Caption("")] * (most - len(lines))])
        cells.append(np.pad(cell, ((_GAP, _GAP), (_GAP, _GAP), (0, 0)), constant_values=24))
    columns = min(columns, len(cells))
    cells += [np.full_like(cells[0], 24)] * (-len(cells) % columns)
    return np.vstack([np.hstack(cells[start : start + columns]) for start in range(0, len(cells), columns)])


def neighbours_sheet(
    query: Image, neighbours: Sequence[Image | None], captions: Sequence[Sequence[Caption]], *, columns: int = 5
) -> Image:
    """A picture, first on the sheet, and those found for it, nearest first; a grey field for one that is gone.

    Args:
        query: uint8 [H, W, 3] RGB.
        neighbours: Likewise, or None.
        captions: What stands under the query and under each neighbour.
        columns: How many pictures to a row.
    """
    grey = np.full((64, 64, 3), 90, np.uint8)
    return mistakes_sheet([query, *(grey if one is None else one for one in neighbours)], captions, columns=columns)
