"""The formats of attribute data by name: where their files are, and what reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnvision.annotations import LabelledPictures
from mnvision.data.attribute_lists import AttributeColumns, read_attribute_list, refuse_shared_people
from mnvision.data.attribute_values import keep_attributes
from mnvision.data.celeba import read_celeba
from mnvision.data.drawn_faces import TABLE
from mnvision.data.labelled import refuse_shared
from mnvision.data.splits import Split
from mnvision.data.utkface import read_utkface
from mnvision.errors import UserError

Options = Mapping[str, Any]


class Request(NamedTuple):
    """What a reader is asked for.

    Attributes:
        root: Folder of the data set.
        split: ``train``, ``val`` or ``test``.
        names: Of the attributes to use; None uses all.
        val_share: Share of the training pictures that is held out where there is no validation split.
        seed: Of that split.
        options: The format's own keys of the data section.
        known: Names of the attributes that a checkpoint knows; None without one.
    """

    root: Path
    split: Split
    names: Sequence[str] | None
    val_share: float
    seed: int
    options: Options
    known: Sequence[str] | None = None


def read_attributes(name: str, asked: Request) -> LabelledPictures:
    """Read a split: labels float32 [I, A]; file names are relative to ``picture_folder``."""
    pictures = READERS[name](asked)
    if asked.names is None or tuple(asked.names) == pictures.classes:
        return pictures
    return keep_attributes(pictures, names=asked.names, file=asked.root)


def _read_drawn(asked: Request) -> LabelledPictures:
    if asked.split == "test":
        raise UserError("split=test: the generated data set has the splits train, val")
    pictures = read_attribute_list(asked.root / TABLE, attributes=asked.names)
    return pictures.take(np.char.startswith(pictures.file_names, f"{asked.split}/".encode()))


def _read_celeba(asked: Request) -> LabelledPictures:
    return read_celeba(asked.root, asked.split)


def _read_utkface(asked: Request) -> LabelledPictures:
    return read_utkface(asked.root, asked.split, val_share=asked.val_share, seed=asked.seed)


def _read_lists(asked: Request) -> LabelledPictures:
    options = asked.options
    columns = AttributeColumns(options["file_column"], options["split_column"], options["group_column"])
    if columns.split is not None and (options["val"] or options["test"]):
        raise UserError(
            f"data.split_column={columns.split} says what is measured on, and so do data.val and data.test; give one"
        )
    folder, own = asked.root / options["images"], options[asked.split]

    def read(file: str, *, names: Sequence[str] | None, split: Split | None) -> LabelledPictures:
        return read_attribute_list(
            asked.root / file,
            split=split,
            folder=folder,
            columns=columns,
            attributes=names,
            minus_one=options["minus_one"],
            val_share=asked.val_share,
            seed=asked.seed,
        )

    if asked.split != "train" and own is not None:
        train, names = asked.root / options["train"], asked.names or asked.known
        if not train.is_file():  # what is measured on may be there without what was trained on
            return read(own, names=names, split=None)
        learnt = read(options["train"], names=asked.names, split=None)
        found = read(own, names=learnt.classes, split=None)
        refuse_shared({"train": learnt, asked.split: found}, name=str(asked.root))
        refuse_shared_people(train, asked.root / own, columns=columns)
        return found
    whole = asked.split == "train" and options["val"] is not None
    return read(options["train"], names=asked.names, split=None if whole else asked.split)


READERS: dict[str, Callable[[Request], LabelledPictures]] = {
    "drawn_attributes": _read_drawn,
    "celeba": _read_celeba,
    "attribute_list": _read_lists,
    "utkface": _read_utkface,
}
