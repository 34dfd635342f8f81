"""Reads CelebA in the layout of its authors: 202,599 pictures of faces with 40 attributes each.

Liu, Luo, Wang, Tang, "Deep Learning Face Attributes in the Wild", ICCV 2015.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import numpy as np

from mnvision.annotations import LabelledPictures
from mnvision.data.attribute_values import NO, YES, check_attributes, codes_of, decode_values
from mnvision.data.csv_rows import open_list
from mnvision.data.labelled import encode_names
from mnvision.data.splits import Split
from mnvision.errors import UserError, file_error

TABLE, PARTITION = "list_attr_celeba.txt", "list_eval_partition.txt"
PARTS: dict[Split, str] = {"train": "0", "val": "1", "test": "2"}

_IMAGES = "img_align_celeba"
_EXPECTED = f"{_IMAGES}/, {TABLE} and {PARTITION} of CelebA"
_MEANINGS = {"-1": NO, "1": YES}


def read_celeba(root: str | Path, split: Split) -> LabelledPictures:
    """Read a split of CelebA; file names are relative to the root.

    The root holds the folder ``img_align_celeba`` with its pictures, ``list_attr_celeba.txt`` (the number of pictures,
    the names of the attributes, then a line a picture: its name, and 1 or -1 for each attribute) and
    ``list_eval_partition.txt`` (a line a picture: its name, and 0, 1 or 2 for training, validation, test); or these
    are in the folders ``Img``, ``Anno`` and ``Eval``, as they are published.

    Raises:
        UserError: A file or folder is missing or broken, a list names a picture twice, or the two lists do not name the
            same pictures.
    """
    root = Path(root)
    table, partition = _find(root, "Anno", TABLE), _find(root, "Eval", PARTITION)
    images = _find(root, "Img", _IMAGES)
    part_of = _read_partition(partition)
    with open_list(table, of="attributes", expected=_EXPECTED, check="data.root") as text:
        names, attributes, labels = _read_table(text, part_of, part=PARTS[split], file=table)
    if not names:
        raise file_error(
            partition, f"there is no picture of the part {PARTS[split]}, which is {split}. Get the list again"
        )
    prefix = images.relative_to(root).as_posix()
    pictures = LabelledPictures(
        file_names=encode_names([f"{prefix}/{name}" for name in names], source=table),
        labels=labels,
        classes=tuple(attributes),
    )
    return check_attributes(pictures, folder=root, source=table)


def _find(root: Path, folder: str, name: str) -> Path:
    for path in (root / name, root / folder / name):
        if path.exists():
            return path
    raise UserError(f"not found: {root / name}, nor in {folder}/. Expected {_EXPECTED}; check data.root")


def _read_partition(file: Path) -> dict[str, str]:
    """The part of each picture, ``0``, ``1`` or ``2``."""
    parts: dict[str, str] = {}
    with open_list(file, of="parts", expected=_EXPECTED, check="data.root") as text:
        for number, words in _lines(text, start=1):
            if len(words) != 2 or words[1] not in PARTS.values():
                raise file_error(file, f"line {number} is {' '.join(words)!r}. Expected NAME and 0, 1 or 2")
            if words[0] in parts:
                raise file_error(file, f"line {number} lists {words[0]} again. Expected every picture once")
            parts[words[0]] = words[1]
    return parts


def _read_table(
    text: TextIO, part_of: dict[str, str], *, part: str, file: Path
) -> tuple[list[str], list[str], np.ndarray]:
    """Names of the pictures of a part, names of the attributes, labels float32 [I, A]."""
    count, attributes = text.readline().strip(), text.readline().split()
    if not count.isdecimal() or not attributes or len(set(attributes)) < len(attributes):
        raise file_error(
            file,
            f"begins with {count[:40]!r} and {len(attributes)} words. Expected the number of pictures, then the names"
            " of the attributes, none twice",
        )
    names, codes, seen = list[str](), bytearray(), set[str]()
    for number, (name, *cells) in _lines(text, start=3):
        row = codes_of(cells, meanings=_MEANINGS)
        if len(cells) != len(attributes):
            raise file_error(file, f"line {number} has {len(cells)} values, expected {len(attributes)}, one each")
        if isinstance(row, int):
            raise file_error(file, f"line {number} has {cells[row]!r} for {attributes[row]}. Expected 1 or -1")
        if name not in part_of:
            raise file_error(file, f"line {number} names {name}, which {PARTITION} lacks. Get both lists again")
        if name in seen:
            raise file_error(file, f"line {number} lists {name} again. Expected every picture once")
        seen.add(name)
        if part_of[name] == part:
            names.append(name)
            codes += row
    if len(seen) != int(count):
        raise file_error(file, f"says that it has {count} pictures, and has {len(seen)}. Was it copied in full?")
    if missing := part_of.keys() - seen:
        raise file_error(
            file, f"lacks {len(missing)} pictures that {PARTITION} names, such as {min(missing)}. Get both lists again"
        )
    return names, attributes, decode_values(codes, attributes=len(attributes))


def _lines(text: TextIO, *, start: int) -> Iterator[tuple[int, list[str]]]:
    """Number and words of the lines that are not empty."""
    for number, line in enumerate(text, start=start):
        if words := line.split():
            yield number, words
