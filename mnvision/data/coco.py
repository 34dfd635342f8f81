"""Reads a COCO instances file into flat arrays.

The format: https://cocodataset.org/#format-data. Of each annotation ``image_id``, ``category_id``, ``bbox`` (x, y,
width, height), ``area`` and ``iscrowd`` are used; polygons and masks are not.
"""

from __future__ import annotations

import gc
import json
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mnvision.annotations import Annotations
from mnvision.data.classes import choose_classes
from mnvision.errors import UserError, file_error

log = logging.getLogger(__name__)


def read_coco(
    annotation_file: str | Path, *, image_folder: str | Path | None, classes: Sequence[str] | None = None
) -> Annotations:
    """Read a COCO instances file.

    Pictures keep the file's order, those without boxes included; the boxes of a picture keep their order too. Classes
    are sorted by category id, as the reference evaluation sorts them; ids may have gaps. A degenerate box (no width
    or height, not finite, or wholly outside its picture) stays as a row with ``usable=False``. Where ``area`` is
    missing it is width x height.

    Args:
        annotation_file: The JSON file.
        image_folder: The folder that the file names are relative to; it and the first picture must exist. None
            leaves the pictures alone.
        classes: Names of the classes to use, in the order of their labels; the boxes of other classes vanish and
            their pictures stay. None uses all.

    Raises:
        UserError: The file is missing, no JSON, or laid out otherwise; an id is used twice or used but not listed; a
            chosen class is unknown; the picture folder or the first picture is missing.
    """
    file = Path(annotation_file)
    content = _load(file)
    category_ids, names = _read_categories(content["categories"], file=file)
    if classes is not None:
        chosen = choose_classes(names, classes=classes, file=file)
        category_ids, names = category_ids[chosen], [names[i] for i in chosen]

    images, rows = content["images"], content["annotations"]
    image_ids = _integers(images, "id", section="images", file=file)
    _refuse_duplicates(image_ids, section="images", file=file)
    sizes = np.stack([_integers(images, key, section="images", file=file) for key in ("height", "width")], axis=1)
    if (sizes <= 0).any():
        i = int(np.argmax((sizes <= 0).any(axis=1)))
        raise file_error(
            file, f"image {image_ids[i]} is {sizes[i, 1]} x {sizes[i, 0]} pixels. Correct its width and height"
        )
    file_names = _file_names(images, file=file)
    if image_folder is not None:
        _check_folder(Path(image_folder), file_names=file_names, file=file)

    image_index = _find(image_ids, rows, key="image_id", section="images", file=file)
    labels = 1 + _find(category_ids, rows, key="category_id", section="categories", file=file, strict=classes is None)
    order = np.argsort(image_index, kind="stable")
    order = order[labels[order] > 0]
    boxes = _boxes(rows, file=file)
    extent = boxes[:, 2] * boxes[:, 3]
    areas = _areas(rows, file=file)
    areas = np.where(np.isnan(areas), extent, areas)
    crowd = np.array([bool(row.get("iscrowd", 0)) for row in rows], dtype=bool)
    boxes[:, 2:] += boxes[:, :2]  # xywh -> xyxy

    boxes, image_index = boxes[order], image_index[order]
    usable = _usable(boxes, sizes=sizes[image_index])
    if not usable.all():
        i = int(order[np.argmin(usable)])
        log.warning(
            "%s: %d of %d boxes are degenerate (no width or height, not finite, or outside their picture);"
            " they count in evaluation and are not trained on. The first: bbox %s of annotation %s, image %s",
            file,
            (~usable).sum(),
            len(usable),
            rows[i]["bbox"],
            rows[i].get("id", f"number {i}"),
            rows[i]["image_id"],
        )
    return Annotations(
        image_ids=image_ids,
        file_names=file_names,
        sizes=sizes.astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(np.bincount(image_index, minlength=len(images)))]).astype(np.int64),
        boxes=boxes,
        labels=labels[order],
        areas=areas[order],
        crowd=crowd[order],
        usable=usable,
        classes=tuple(names),
        category_ids=tuple(category_ids.tolist()),
    )


def _load(file: Path) -> dict[str, list[dict[str, Any]]]:
    """Parse the file and check its outline."""
    expected = 'expected {"images": [...], "annotations": [...], "categories": [...]}'
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "not found"
        raise UserError(f"annotation file {what}: {file}. Expected a COCO instances JSON file; check data.root")
    # Millions of small objects: the cycle collector would walk them again and again and find nothing.
    collecting = gc.isenabled()
    gc.disable()
    try:
        content = json.loads(file.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise file_error(file, f"is not JSON ({error}); {expected}. Was it copied in full?") from error
    finally:
        if collecting:
            gc.enable()
    if not isinstance(content, dict):
        raise file_error(file, f"got a JSON {type(content).__name__}, {expected}. Is it a results file?")
    for section in ("images", "annotations", "categories"):
        entries = content.get(section)
        if not isinstance(entries, list):
            got = "it is missing" if entries is None else f"it is a {type(entries).__name__}"
            raise file_error(file, f"needs a list {section!r}, but {got}; {expected}. Give an instances file")
        for i, entry in enumerate(entries):
            if not isinstance(entry, dict):
                raise file_error(file, f"{section}[{i}] is {entry!r}, expected an object. Give an instances file")
    return content


def _values(rows: list[dict[str, Any]], key: str, *, section: str, file: Path) -> list[Any]:
    try:
        return [row[key] for row in rows]
    except KeyError as error:
        i = next(i for i, row in enumerate(rows) if key not in row)
        has = ", ".join(sorted(map(str, rows[i])))
        message = f"{section}[{i}] has no {key!r} (it has: {has}). COCO files need it in every entry"
        raise file_error(file, message) from error


def _integers(rows: list[dict[str, Any]], key: str, *, section: str, file: Path) -> np.ndarray:
    values = _values(rows, key, section=section, file=file)
    try:
        exact = np.array(values, dtype=np.float64 if not values else None)
        if exact.ndim == 1 and exact.dtype.kind in "iuf" and (exact == np.floor(exact)).all():
            return exact.astype(np.int64)
    except ValueError:  # ragged: some values are lists
        pass
    i = next((i for i, value in enumerate(values) if not isinstance(value, int)), 0)
    raise file_error(file, f"{key!r} of {section}[{i}] is {values[i]!r}, expected a whole number. Renumber the file")


def _refuse_duplicates(ids: np.ndarray, *, section: str, file: Path) -> None:
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        i = int(np.argmax(counts))
        raise file_error(
            file, f"id {values[i]} is used {counts[i]} times in {section!r}. Ids must be unique: renumber the file"
        )


def _read_categories(categories: list[dict[str, Any]], *, file: Path) -> tuple[np.ndarray, list[str]]:
    """Category ids int64 [K] in ascending order, and their names."""
    if not categories:
        raise file_error(file, "lists no categories. Expected one entry with 'id' and 'name' for each class")
    ids = _integers(categories, "id", section="categories", file=file)
    _refuse_duplicates(ids, section="categories", file=file)
    names = [str(name) for name in _values(categories, "name", section="categories", file=file)]
    # Some exporters add a super-category under the name of its only class: both stay, told apart by their ids.
    count = Counter(names)
    unique = [f"{name} (id {i})" if count[name] > 1 else name for name, i in zip(names, ids.tolist(), strict=True)]
    if unique != names:
        log.warning("%s: categories share a name; their ids are added to tell them apart: %s", file, unique)
    order = np.argsort(ids)
    return ids[order], [unique[i] for i in order]


def _file_names(images: list[dict[str, Any]], *, file: Path) -> np.ndarray:
    """Fixed-width bytes [I]: one block of memory instead of a Python string for every picture."""
    names = _values(images, "file_name", section="images", file=file)
    for i, name in enumerate(names):
        if not isinstance(name, str) or not name:
            raise file_error(
                file, f"'file_name' of images[{i}] is {name!r}, expected the name of a picture file. Correct it"
            )
    return np.array([name.encode("utf-8") for name in names], dtype=np.bytes_)


def _check_folder(folder: Path, *, file_names: np.ndarray, file: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"picture folder not found: {folder}. Expected the pictures of {file} there; check data.root")
    if len(file_names):
        first = folder / bytes(file_names[0]).decode("utf-8")
        if not first.is_file():
            raise UserError(
                f"picture not found: {first}, the first one that {file} names. Is {folder} the right folder?"
                " File names are relative to it"
            )


def _find(
    ids: np.ndarray, rows: list[dict[str, Any]], *, key: str, section: str, file: Path, strict: bool = True
) -> np.ndarray:
    """The position in ``ids`` of every row's ``key``, int64 [N]; -1 for an unknown one, or an error if strict."""
    wanted = _integers(rows, key, section="annotations", file=file)
    if not len(wanted):
        return np.zeros(0, dtype=np.int64)
    if len(ids):
        order = np.argsort(ids, kind="stable")
        place = order[np.minimum(np.searchsorted(ids, wanted, sorter=order), len(ids) - 1)]
        known = ids[place] == wanted
    else:
        place, known = np.zeros(len(wanted), dtype=np.int64), np.zeros(len(wanted), dtype=bool)
    if strict and not known.all():
        i = int(np.argmin(known))
        raise file_error(
            file,
            f"annotation {rows[i].get('id', f'number {i}')} has {key} {wanted[i]}, which {section!r} does not list"
            f" ({(~known).sum()} such annotations). Take them out or complete {section!r}",
        )
    return np.where(known, place, -1)


def _boxes(rows: list[dict[str, Any]], *, file: Path) -> np.ndarray:
    """float64 [N, 4] xywh."""
    values = _values(rows, "bbox", section="annotations", file=file)
    try:
        boxes = np.array(values, dtype=np.float64)
        if boxes.shape == (len(values), 4):
            return boxes
    except (TypeError, ValueError):
        pass
    if not values:
        return np.zeros((0, 4))
    i = next((i for i, box in enumerate(values) if not _is_box(box)), 0)
    which = rows[i].get("id", f"number {i}")
    raise file_error(
        file, f"bbox of annotation {which} is {values[i]!r}, expected [x, y, width, height]. Correct or remove it"
    )


def _is_box(value: object) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(isinstance(v, int | float) for v in value)


def _areas(rows: list[dict[str, Any]], *, file: Path) -> np.ndarray:
    """float64 [N]; NaN where missing."""
    values = [row.get("area") for row in rows]
    try:
        return np.array(values, dtype=np.float64).reshape(len(values))
    except (TypeError, ValueError) as error:
        i = next((i for i, value in enumerate(values) if not isinstance(value, int | float | None)), 0)
        message = f"area of annotations[{i}] is {values[i]!r}, expected a number. Correct it or leave it out"
        raise file_error(file, message) from error


def _usable(boxes: np.ndarray, *, sizes: np.ndarray) -> np.ndarray:
    """Which xyxy boxes have an extent, are finite, and touch their picture: bool [N]."""
    height, width = sizes[:, 0], sizes[:, 1]
    extent = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    inside = (boxes[:, 0] < width) & (boxes[:, 1] < height) & (boxes[:, 2] > 0) & (boxes[:, 3] > 0)
    return np.isfinite(boxes).all(axis=1) & extent & inside
