"""Tables of classes, whatever the format of the annotations: choosing among them, and adopting another's."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mnvision.annotations import Annotations
from mnvision.errors import UserError, file_error


def choose_classes(names: Sequence[str], *, classes: Sequence[str], file: Path) -> list[int]:
    """The positions of the classes to use.

    Args:
        names: All that there are.
        classes: Those to use, in the order of their labels.
        file: The annotations that name them, for the message.

    Raises:
        UserError: None is chosen, one is chosen twice, or there is none of that name (with the nearest ones).
    """
    if not classes or len(set(classes)) < len(classes):
        raise UserError(f"data.classes is {list(classes)}. Expected at least one name, and none twice; null means all")
    for name in classes:
        if name not in names:
            near = difflib.get_close_matches(str(name), names, n=3) or names[:10]
            raise file_error(
                file, f"there is no class {name!r}, which data.classes asks for. The nearest: {', '.join(near)}"
            )
    return [names.index(name) for name in classes]


def adopt_classes(
    annotations: Annotations, *, classes: Sequence[str], category_ids: Sequence[int], name: str
) -> Annotations:
    """The same annotations under another table of classes, the training set's or a checkpoint's.

    Args:
        annotations: A split whose classes are among those of the table; it may lack some.
        classes: The K names of the table.
        category_ids: Its K category ids.
        name: What to call the split in an error, usually its file.

    Raises:
        UserError: The split has a category that the table lacks, or that has another name there.
    """
    label_of = {category: label for label, category in enumerate(category_ids, start=1)}
    known = dict(zip(category_ids, classes, strict=True))
    for category, class_name in zip(annotations.category_ids, annotations.classes, strict=True):
        if known.get(category) != class_name:
            there = f"is called {known[category]!r}" if category in known else "does not exist"
            raise UserError(
                f"{name}: category {category} ({class_name!r}) {there} among the classes to learn or detect"
                f" ({', '.join(classes[:10])}{', ...' if len(classes) > 10 else ''}). Use annotation files with the"
                " same categories, or pick the common ones by name with data.classes"
            )
    table = np.array([0] + [label_of[category] for category in annotations.category_ids], dtype=np.int64)
    return replace(
        annotations, labels=table[annotations.labels], classes=tuple(classes), category_ids=tuple(category_ids)
    )


def describe(annotations: Annotations) -> str:
    """One line about a split, such as ``128 images, 929 boxes, 80 classes, 2 empty images, 0 crowd, 1 degenerate``."""
    empty = int((np.diff(annotations.offsets) == 0).sum())
    return (
        f"{len(annotations):,} images, {len(annotations.boxes):,} boxes, {len(annotations.classes)} classes,"
        f" {empty:,} empty images, {int(annotations.crowd.sum()):,} crowd,"
        f" {int((~annotations.usable).sum()):,} degenerate"
    )
