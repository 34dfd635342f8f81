"""What all readers of attributes share: values of a table, choosing attributes, parts held out, a line on a split."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mnvision.annotations import LabelledPictures
from mnvision.data.classes import choose_classes
from mnvision.data.labelled import check_files, refuse_strange
from mnvision.data.splits import Split
from mnvision.errors import UserError
from mnvision.wording import counted

log = logging.getLogger(__name__)

NO, YES, UNKNOWN = 0, 1, 2
_VALUES = np.array([0.0, 1.0, np.nan], dtype=np.float32)


def decode_values(codes: bytes | bytearray, *, attributes: int) -> np.ndarray:
    """Rows of ``NO``, ``YES`` and ``UNKNOWN`` as float32 [I, A]: 0, 1, NaN.

    >>> decode_values(bytes([YES, NO, UNKNOWN, YES]), attributes=2)
    array([[ 1.,  0.],
           [nan,  1.]], dtype=float32)
    """
    return _VALUES[np.frombuffer(bytes(codes), dtype=np.uint8).reshape(-1, attributes)]


def keep_attributes(pictures: LabelledPictures, *, names: Sequence[str], file: Path) -> LabelledPictures:
    """The same pictures with some of the attributes alone, in the order given.

    Raises:
        UserError: None is chosen, one is chosen twice, or there is none of that name (with the nearest ones).
    """
    chosen = choose_classes(pictures.classes, classes=names, file=file)
    return replace(pictures, labels=np.ascontiguousarray(pictures.labels[:, chosen]), classes=tuple(names))


def adopt_attributes(
    pictures: LabelledPictures, *, names: Sequence[str], where: str, forget: bool = False
) -> LabelledPictures:
    """The same pictures with another table of attributes, a checkpoint's; what they do not say of it is not known.

    Args:
        pictures: A split whose attributes are among those of the table.
        names: Of the table's attributes.
        where: What to call the split in an error.
        forget: Leave out the attributes that the table lacks.

    Raises:
        UserError: The split has an attribute that the table lacks.
    """
    if not forget:
        refuse_strange(pictures.classes, classes=names, name=where)
    labels = np.full((len(pictures), len(names)), np.nan, dtype=np.float32)
    own = {name: column for column, name in enumerate(pictures.classes)}
    for column, name in enumerate(names):
        if name in own:
            labels[:, column] = pictures.labels[:, own[name]]
    return replace(pictures, labels=labels, classes=tuple(names))


def held_out(groups: np.ndarray, *, share: float, seed: int) -> np.ndarray:
    """Which pictures to hold out, group by group, the same on every machine.

    Groups are drawn one after the other until they hold at least ``share`` of the pictures; one at least is held out,
    and one is left. Which ones depends on their names and the seed alone, not on the order of the pictures.

    Args:
        groups: [I], to which group each picture belongs: names or numbers.
        share: Part to hold out, above 0 and below 1.
        seed: An integer from 0 on.

    Returns:
        bool [I], True for the pictures to hold out.

    Raises:
        UserError: Share or seed is out of range, or there is one group alone.
    """
    if not 0 < share < 1:
        raise UserError(f"data.val_share is {share}. Expected the part to hold out, above 0 and below 1, such as 0.1")
    if seed < 0:
        raise UserError(f"the seed of the split is {seed}. Expected 0 or more")
    names, group_of, counts = np.unique(groups, return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise UserError(
            f"{len(groups)} pictures in {len(names)} group: nothing can be held out for validation. Expected two at"
            " least; give a list or a column that says what is measured on"
        )
    order = np.random.default_rng(seed).permutation(len(names))
    before = np.cumsum(counts[order]) - counts[order]  # pictures in the groups drawn earlier
    taken = order[: max(1, min(len(names) - 1, int((before < share * len(groups) - 1e-9).sum())))]
    return np.isin(group_of, taken)


def part_of_groups(
    pictures: LabelledPictures, split: Split, *, groups: np.ndarray | None, share: float, seed: int, name: str
) -> LabelledPictures:
    """The training or validation part of pictures that come without a split, see ``held_out``.

    Args:
        pictures: All of them.
        split: Which part.
        groups: [I], what belongs together; each picture by itself where None.
        share: Part of the pictures that is for validation.
        seed: Of the split.
        name: What to call the pictures in an error.

    Raises:
        UserError: The test split is asked for: nothing is held out for it. Or as ``held_out``.
    """
    if split == "test":
        raise UserError(
            f"{name}: there is no test split. Expected pictures set apart for it; without them only train and val are"
            " made, so use split=val"
        )
    held = held_out(pictures.file_names if groups is None else groups, share=share, seed=seed)
    if split == "val":
        log.info("held out for validation: %d of %d (data.val_share=%g)", held.sum(), len(pictures), share)
    return pictures.take(held if split == "val" else ~held)


def check_attributes(pictures: LabelledPictures, *, folder: Path, source: Path) -> LabelledPictures:
    """Refuse a split without pictures or attributes, or without three of the files, which are looked for."""
    if not pictures.classes:
        raise UserError(f"{source}: there is no attribute. Expected a column for each; check the data keys")
    return check_files(pictures, folder=folder, source=source)


def describe_attributes(pictures: LabelledPictures) -> str:
    """One line about a split, such as ``30 pictures, 2 attributes, from 4 % (hat) to 50 % (smiling) positive``."""
    parts = [f"{counted(len(pictures), 'picture')}, {counted(len(pictures.classes), 'attribute')}"]
    known = np.isfinite(pictures.labels)
    counts = known.sum(axis=0)
    if counts.any():
        shares = np.nansum(pictures.labels, axis=0) / np.maximum(counts, 1)
        ends = (int(np.where(counts > 0, shares * sign, np.inf).argmin()) for sign in (1, -1))
        least, most = (f"{shares[place]:.0%} ({pictures.classes[place]})" for place in ends)
        parts.append(f"from {least} to {most} positive")
    if unknown := int((~known).sum()):
        parts.append(f"{unknown / known.size:.1%} of the values unknown")
    return ", ".join(parts)


def warn_of_constant(pictures: LabelledPictures, *, name: str) -> None:
    """Say of which attributes nothing can be learnt or measured, since no picture has or none lacks them."""
    constant = [
        attribute
        for attribute, values in zip(pictures.classes, pictures.labels.T, strict=True)
        if not {0.0, 1.0} <= set(np.unique(values).tolist())
    ]
    if constant and np.isfinite(pictures.labels).any():
        log.warning(
            "%s: %d of %d attributes are not both present and absent: %s",
            name,
            len(constant),
            len(pictures.classes),
            ", ".join(constant[:10]) + (", ..." if len(constant) > 10 else ""),
        )


def codes_of(cells: Sequence[str], *, meanings: Mapping[str, int]) -> bytes | int:
    """The codes of the cells of a row, or the place of the first one that has no meaning."""
    try:
        return bytes(meanings[cell] for cell in cells)
    except KeyError:
        return next(place for place, cell in enumerate(cells) if cell not in meanings)
