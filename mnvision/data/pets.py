"""Reads Oxford-IIIT Pet in the layout of its authors: 37 breeds of cats and dogs.

Parkhi, Vedaldi, Zisserman, Jawahar, "Cats and Dogs", CVPR 2012.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mnvision.annotations import LabelledPictures
from mnvision.data.labelled import encode_names, finish_split, refuse_shared
from mnvision.data.object_boxes import union_boxes
from mnvision.data.splits import VAL_SHARE, Split
from mnvision.errors import UserError, file_error


def read_pets(
    root: str | Path,
    split: Split,
    *,
    classes: Sequence[str] | None = None,
    boxes: bool = True,
    val_share: float = VAL_SHARE,
    seed: int = 0,
) -> LabelledPictures:
    """Read a split of Oxford-IIIT Pet.

    The root holds ``images/NAME.jpg`` and, in ``annotations/``, ``trainval.txt``, ``test.txt`` and where it is there
    ``list.txt`` (all pictures), with ``NAME CLASS-ID SPECIES BREED-ID`` in each line. Classes have the order of the
    class ids, 1..K; their names are those of their pictures without the number (``Abyssinian`` of ``Abyssinian_1``).

    Args:
        root: Folder of the data set; the file names are relative to it.
        split: ``test`` is test.txt; ``val`` a share of each breed of trainval.txt, see
            `mnvision.data.splits.split_rows`; ``train`` the rest of it.
        classes: Names of the classes to use, in the order of their labels; the pictures of the others are left out.
        boxes: Read the boxes around the heads from ``annotations/xmls/``, which only some pictures have, none of the
            test's: NaN for a picture without, and no boxes at all where no picture has one.
        val_share: Part of trainval.txt that is for validation.
        seed: Of that split.

    Raises:
        UserError: A list, the picture folder, or one of three pictures that are looked for is missing; a list or an
            annotation is broken; the lists share a picture or disagree about a class.
    """
    root = Path(root)
    source = root / "annotations" / ("test.txt" if split == "test" else "trainval.txt")
    lists = {name: _read_list(root / "annotations" / name) for name in ("trainval.txt", "test.txt")}
    whole = root / "annotations" / "list.txt"
    table = _class_names([*lists.values(), *([_read_list(whole)] if whole.is_file() else [])], root=root)
    both = {
        name: LabelledPictures(
            file_names=encode_names([f"images/{picture}.jpg" for picture in labels], source=source),
            labels=np.array(list(labels.values()), dtype=np.int64) - 1,
            classes=table,
        )
        for name, labels in lists.items()
    }
    refuse_shared(both, name=str(root))
    pictures = finish_split(
        both[source.name], split, folder=root, source=source, classes=classes, val_share=val_share, seed=seed
    )
    return replace(pictures, boxes=_boxes(pictures, root=root)) if boxes else pictures


def _read_list(file: Path) -> dict[str, int]:
    """The class id of each picture's name, in the order of the list."""
    if not file.is_file():
        raise UserError(
            f"list of pictures not found: {file}. Expected images/ and annotations/ of Oxford-IIIT Pet; check data.root"
        )
    ids: dict[str, int] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) < 2 or not words[1].isascii() or not words[1].isdigit() or int(words[1]) < 1:
            raise file_error(file, f"line {number} is {line!r}. Expected NAME CLASS-ID SPECIES BREED-ID, ids from 1 on")
        if words[0] in ids:
            raise file_error(file, f"line {number} lists {words[0]} again. Expected every picture once: take it out")
        ids[words[0]] = int(words[1])
    return ids


def _class_names(lists: Sequence[dict[str, int]], *, root: Path) -> tuple[str, ...]:
    """The breed of each id, 1..K, in all lists."""
    breed_of: dict[int, str] = {}
    for ids in lists:
        for picture, number in ids.items():
            breed = picture.rpartition("_")[0] or picture
            if breed_of.setdefault(number, breed) != breed:
                raise UserError(
                    f"{root / 'annotations'}: {picture} has the class id {number}, which is {breed_of[number]}."
                    " Expected one breed an id in all lists; get the lists again"
                )
    count = max(breed_of, default=0)
    if len(breed_of) < count or len(set(breed_of.values())) < count:
        raise UserError(
            f"{root / 'annotations'}: the lists use {len(breed_of)} ids up to {count} for"
            f" {len(set(breed_of.values()))} breeds. Expected every id from 1 on, and a breed for each"
        )
    return tuple(breed_of[number] for number in range(1, count + 1))


def _boxes(pictures: LabelledPictures, *, root: Path) -> np.ndarray | None:
    folder = root / "annotations" / "xmls"
    names = [Path(pictures.file_name(i)).stem for i in range(len(pictures))]
    boxes = union_boxes([folder / f"{name}.xml" for name in names], first_pixel=1, required=False)
    return None if np.isnan(boxes).all() else boxes
