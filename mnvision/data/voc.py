"""Reads a data set in Pascal VOC's layout into flat arrays.

The layout (Everingham et al., "The PASCAL Visual Object Classes Challenge 2007 development kit"): a list of picture
names for each split, one XML file a picture, and a folder of pictures. Of an object ``name``, ``bndbox`` and
``difficult`` are used; parts, poses and segments are not.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from mnvision.annotations import Annotations
from mnvision.data.classes import choose_classes
from mnvision.errors import UserError, file_error

log = logging.getLogger(__name__)

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class VocFolders:
    """Where the parts of a data set lie, relative to its root."""

    images: str = "JPEGImages"
    annotations: str = "Annotations"
    lists: str = "ImageSets/Main"

    def list_file(self, split: str) -> str:
        """The file that names the pictures of a split."""
        return f"{self.lists}/{split}.txt"


def read_voc(
    root: str | Path,
    split: str,
    *,
    known: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    ignore_difficult: bool = True,
    folders: VocFolders | None = None,
) -> Annotations:
    """Read a split of a data set in Pascal VOC's layout.

    VOC counts pixels from 1 and its corners belong to the box; here a box is (xmin - 1, ymin - 1, xmax, ymax), so that
    its width is xmax - xmin + 1 and the first pixel's left edge is 0. Pictures keep the order of the list and get the
    ids 1..I, those without boxes included; category ids are 1..K. A box whose xmax is not above its xmin (a click
    without a drag), likewise in y, that is not finite, or that lies outside its picture, stays as a row with
    ``usable=False``. Areas are width x height.

    Args:
        root: Folder of the data set.
        split: Name of the list, such as ``train``.
        known: Names of all classes that may occur, in the order of their labels, see `voc_classes`. None takes the
            sorted names of this split.
        classes: Names of the classes to use, out of the known ones, in the order of their labels; the boxes of other
            classes vanish and their pictures stay. None uses all that are known.
        ignore_difficult: Mark objects that VOC calls difficult as ``crowd``: neither trained on nor counted.
        folders: Where the parts lie; None means VOC's own names.

    Raises:
        UserError: The list, an XML file, the picture folder or the first picture is missing; an XML file is broken,
            lacks the size, a name or a corner; a class is unknown.
    """
    root, folders = Path(root), folders or VocFolders()
    list_file = root / folders.list_file(split)
    names = _read_list(list_file)
    pictures = [_read_picture(root / folders.annotations / f"{name}.xml", list_file=list_file) for name in names]
    if known is None:
        known = _class_names(pictures)
    table = known if classes is None else [known[i] for i in choose_classes(known, classes=classes, file=list_file)]
    label_of = {name: label for label, name in enumerate(table, start=1)}

    kept: list[_Object] = []
    counts = []
    for picture in pictures:
        if classes is None:
            _refuse_unknown(picture, known=label_of)
        objects = [item for item in picture.objects if item.name in label_of]
        counts.append(len(objects))
        kept += objects
    sizes = np.array([picture.size for picture in pictures], dtype=np.int32).reshape(-1, 2)
    index = np.repeat(np.arange(len(pictures)), counts)
    corners = np.array([item.corners for item in kept], dtype=np.float64).reshape(-1, 4)
    usable = _usable(corners, sizes=sizes[index])
    _warn_of_degenerate(usable, corners=corners, files=[pictures[i].file for i in index[~usable]], where=list_file)
    boxes = corners - np.array([1, 1, 0, 0])
    return Annotations(
        image_ids=np.arange(1, len(pictures) + 1, dtype=np.int64),
        file_names=_file_names(names, pictures, folder=root / folders.images, list_file=list_file),
        sizes=sizes,
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes=boxes,
        labels=np.array([label_of[item.name] for item in kept], dtype=np.int64),
        areas=(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
        crowd=np.array([item.difficult and ignore_difficult for item in kept], dtype=bool),
        usable=usable,
        classes=tuple(table),
        category_ids=tuple(range(1, len(table) + 1)),
    )


def voc_classes(root: str | Path, split: str, *, folders: VocFolders | None = None) -> tuple[str, ...]:
    """The sorted names of the classes that occur in a split, usually the training split.

    Raises:
        UserError: As `read_voc`.
    """
    root, folders = Path(root), folders or VocFolders()
    list_file = root / folders.list_file(split)
    files = (root / folders.annotations / f"{name}.xml" for name in _read_list(list_file))
    return _class_names([_read_picture(file, list_file=list_file) for file in files])


@dataclass(frozen=True)
class _Object:
    name: str
    corners: tuple[float, ...]  # as in the file: from 1, inclusive
    difficult: bool


@dataclass(frozen=True)
class _Picture:
    file: Path  # the XML file
    size: tuple[int, int]  # height, width
    suffix: str  # of the picture's file as the XML names it
    objects: list[_Object]


def _read_list(file: Path) -> list[str]:
    """The first word of every line: the lists of single classes have a flag beside it."""
    if not file.is_file():
        there = sorted(path.stem for path in file.parent.glob("*.txt"))
        have = f"; the lists there: {', '.join(there[:10])}" if there else ""
        raise UserError(
            f"list of pictures not found: {file}. Expected a text file with one picture name a line; check data.root,"
            f" data.train_split and data.val_split{have}"
        )
    try:
        names = [line.split()[0] for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        message = f"is not UTF-8 text ({error}). Expected one picture name a line; save it as UTF-8"
        raise file_error(file, message) from error
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise file_error(file, f"names {name} twice. Expected every picture once: take the second out")
        seen.add(name)
    return names


def _read_picture(file: Path, *, list_file: Path) -> _Picture:
    try:
        top = ElementTree.fromstring(file.read_bytes())
    except FileNotFoundError:
        raise UserError(
            f"annotation file not found: {file}, of a picture that {list_file} names. Add it (without <object> if the"
            " picture is empty) or take the name out of the list"
        ) from None
    except OSError as error:
        message = f"cannot be read ({error.strerror}). Expected a VOC annotation; check its permissions"
        raise file_error(file, message) from error
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise file_error(file, f"is not XML ({error}). Expected a VOC annotation; was it copied in full?") from error
    return _Picture(
        file=file,
        size=_size(top, file=file),
        suffix=Path((top.findtext("filename") or "").strip()).suffix,
        objects=[_object(item, i, file=file) for i, item in enumerate(top.iterfind("object"), start=1)],
    )


def _size(top: ElementTree.Element, *, file: Path) -> tuple[int, int]:
    height, width = (_number(top.findtext(f"size/{key}")) for key in ("height", "width"))
    if not (height >= 1 and width >= 1 and height % 1 == 0 and width % 1 == 0):
        got = ", ".join(f"{key} {(top.findtext(f'size/{key}') or 'missing').strip()}" for key in ("width", "height"))
        raise file_error(
            file,
            f"<size> has {got}. Expected the picture's width and height in whole pixels, at least 1; some labelling"
            " tools leave them at 0: write the picture's real size there",
        )
    return int(height), int(width)


def _object(item: ElementTree.Element, number: int, *, file: Path) -> _Object:
    name = (item.findtext("name") or "").strip()
    if not name:
        raise file_error(
            file, f"object {number} has no <name>. Expected the name of its class; add it or remove the object"
        )
    texts = [item.findtext(f"bndbox/{key}") for key in _CORNERS]
    for key, text in zip(_CORNERS, texts, strict=True):
        if text is None or not _is_number(text):
            got = "is missing" if text is None else f"is {text.strip()!r}"
            raise file_error(
                file, f"<{key}> of object {number} ({name!r}) {got}, expected a number. Correct or remove the object"
            )
    difficult = (item.findtext("difficult") or "0").strip()
    return _Object(name, tuple(_number(text) for text in texts), difficult not in ("", "0"))


def _number(text: str | None) -> float:
    """NaN where there is none."""
    return float(text) if text is not None and _is_number(text) else math.nan


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _class_names(pictures: Sequence[_Picture]) -> tuple[str, ...]:
    return tuple(sorted({item.name for picture in pictures for item in picture.objects}))


def _refuse_unknown(picture: _Picture, *, known: dict[str, int]) -> None:
    for item in picture.objects:
        if item.name not in known:
            names = ", ".join(list(known)[:10]) + (", ..." if len(known) > 10 else "")
            raise file_error(
                picture.file,
                f"has an object of class {item.name!r}; expected one of those to learn or detect ({names}). Correct"
                " the name, or pick the common classes with data.classes",
            )


def _usable(corners: np.ndarray, *, sizes: np.ndarray) -> np.ndarray:
    """Which boxes, as the file states them, have two distinct corners, are finite, and touch their picture: [N]."""
    height, width = sizes[:, 0], sizes[:, 1]
    extent = (corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])
    inside = (corners[:, 0] <= width) & (corners[:, 1] <= height) & (corners[:, 2] > 0) & (corners[:, 3] > 0)
    return np.isfinite(corners).all(axis=1) & extent & inside


def _warn_of_degenerate(usable: np.ndarray, *, corners: np.ndarray, files: list[Path], where: Path) -> None:
    if not files:
        return
    log.warning(
        "%s: %d of %d boxes are degenerate (no width or height, not finite, or outside their picture); they count in"
        " evaluation and are not trained on. The first: %s in %s",
        where,
        len(files),
        len(usable),
        dict(zip(_CORNERS, corners[~usable][0].tolist(), strict=True)),
        files[0],
    )


def _file_names(names: list[str], pictures: list[_Picture], *, folder: Path, list_file: Path) -> np.ndarray:
    """Fixed-width bytes [I]: NAME.jpg, or with the suffix that the XML states where only that is there."""
    if not folder.is_dir():
        raise UserError(f"picture folder not found: {folder}. Expected the pictures of {list_file}; check data.root")
    there = set(os.listdir(folder))
    chosen = []
    for name, picture in zip(names, pictures, strict=True):
        other = f"{name}{picture.suffix}"
        chosen.append(other if f"{name}.jpg" not in there and other in there else f"{name}.jpg")
    if chosen and not (folder / chosen[0]).is_file():
        raise UserError(
            f"picture not found: {folder / chosen[0]}, the first one that {list_file} names. Is {folder} the right"
            " folder? A picture is called like its XML file"
        )
    return np.array([name.encode("utf-8") for name in chosen], dtype=np.bytes_)
