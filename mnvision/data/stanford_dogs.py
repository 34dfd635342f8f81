"""Reads Stanford Dogs in the layout of its authors: pictures, XML annotations and two MATLAB lists.

Khosla, Jayadevaprakash, Yao, Li, "Novel Dataset for Fine-Grained Image Categorization", 2011: 120 breeds, 12,000
pictures to train on and 8,580 to test on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mnvision.annotations import LabelledPictures
from mnvision.data.labelled import encode_names, finish_split, refuse_shared
from mnvision.data.object_boxes import union_boxes
from mnvision.data.splits import VAL_SHARE, Split
from mnvision.errors import UserError, file_error

_IMAGES, _ANNOTATIONS = "Images", "Annotation"


def read_stanford_dogs(
    root: str | Path,
    split: Split,
    *,
    classes: Sequence[str] | None = None,
    boxes: bool = True,
    val_share: float = VAL_SHARE,
    seed: int = 0,
) -> LabelledPictures:
    """Read a split of Stanford Dogs.

    The root holds ``Images/``, ``Annotation/`` (needed for boxes alone) and ``train_list.mat`` and ``test_list.mat``,
    these two also in ``lists/``. Classes have the order of the lists' labels; their names are those of their folders
    without the WordNet id (``Chihuahua`` of ``n02085620-Chihuahua``), unless two would be called the same.

    Args:
        root: Folder of the data set; the file names are relative to it.
        split: ``test`` is the test list; ``val`` a share of each breed of the training list, see
            `mnvision.data.splits.split_rows`; ``train`` the rest of it.
        classes: Names of the classes to use, in the order of their labels; the pictures of the others are left out.
        boxes: Read the boxes: the union of the dogs in each picture.
        val_share: Part of the training list that is for validation.
        seed: Of that split.

    Raises:
        UserError: A list, the picture folder, an annotation, or one of three pictures that are looked for is missing; a
            list or annotation is broken; the lists share a picture or disagree about a class.
    """
    root = Path(root)
    train, test = ("train_list.mat", "test_list.mat")
    lists = {name: _read_list(_find(root, name)) for name in (train, test)}
    folders = _folders_of_labels(lists, root=root)
    table = _readable(folders)
    both = {
        name: LabelledPictures(
            file_names=encode_names([f"{_IMAGES}/{file}" for file in files], source=root / name),
            labels=labels - 1,
            classes=table,
        )
        for name, (files, labels) in lists.items()
    }
    refuse_shared(both, name=str(root))
    source = _find(root, test if split == "test" else train)
    if not (root / _IMAGES).is_dir():
        raise UserError(f"folder not found: {root / _IMAGES}. Expected the pictures of {source}; check data.root")
    pictures = finish_split(
        both[source.name], split, folder=root, source=source, classes=classes, val_share=val_share, seed=seed
    )
    return replace(pictures, boxes=_boxes(pictures, root=root, source=source)) if boxes else pictures


def _find(root: Path, name: str) -> Path:
    for file in (root / name, root / "lists" / name):
        if file.is_file():
            return file
    raise UserError(
        f"list of pictures not found: {root / name}. Expected Images/, Annotation/, train_list.mat and test_list.mat of"
        " Stanford Dogs there; check data.root"
    )


def _read_list(file: Path) -> tuple[list[str], np.ndarray]:
    """The pictures, as ``FOLDER/NAME.jpg``, and their labels from 1 on: int64 [I]."""
    from scipy.io import loadmat  # type: ignore[import-untyped]

    try:
        content: dict[str, Any] = loadmat(file, variable_names=["file_list", "labels"])
        names = [str(cell.item()) for cell in content["file_list"].ravel()]
        labels = np.asarray(content["labels"]).ravel().astype(np.int64)
    except Exception as error:  # scipy raises whatever the damage leads to
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        message = f"is not a list of Stanford Dogs ({reason}). Expected a MATLAB file with file_list and labels"
        raise file_error(file, f"{message}; was it copied in full?") from error
    if not names or len(names) != len(labels) or labels.min() < 1 or any(name.count("/") != 1 for name in names):
        raise file_error(
            file,
            f"has {len(names)} files and {len(labels)} labels. Expected a label from 1 on for each file, named"
            " FOLDER/NAME.jpg; get the list again",
        )
    return names, labels


def _folders_of_labels(lists: dict[str, tuple[list[str], np.ndarray]], *, root: Path) -> list[str]:
    """The folder of each label, 1..K, in both lists."""
    folder_of: dict[int, str] = {}
    for name, (files, labels) in lists.items():
        for file, label in zip(files, labels.tolist(), strict=True):
            folder = file.partition("/")[0]
            if folder_of.setdefault(label, folder) != folder:
                raise UserError(
                    f"{root / name}: {file} has the label {label}, which is {folder_of[label]}. Expected one folder a"
                    " label in both lists; get the lists again"
                )
    count = max(folder_of)
    if len(set(folder_of.values())) < len(folder_of) or len(folder_of) < count:
        raise UserError(
            f"{root}: the lists use {len(folder_of)} labels up to {count} for {len(set(folder_of.values()))} folders."
            " Expected every label from 1 on, and a folder for each; get the lists again"
        )
    return [folder_of[label] for label in range(1, count + 1)]


def _readable(folders: Sequence[str]) -> tuple[str, ...]:
    """Folder names without what stands before the first dash; those that would be alike stay whole."""
    short = [folder.partition("-")[2] or folder for folder in folders]
    count = Counter(short)
    return tuple(name if count[name] == 1 else folder for name, folder in zip(short, folders, strict=True))


def _boxes(pictures: LabelledPictures, *, root: Path, source: Path) -> np.ndarray:
    """float64 [I, 4]; the annotations count pixels from 0."""
    if not (root / _ANNOTATIONS).is_dir():
        raise UserError(
            f"folder not found: {root / _ANNOTATIONS}. Expected the annotations of {source}; unpack annotation.tar"
            " there, or do without boxes"
        )
    names = (pictures.file_name(i).removeprefix(f"{_IMAGES}/") for i in range(len(pictures)))
    return union_boxes([root / _ANNOTATIONS / name.rsplit(".", 1)[0] for name in names], first_pixel=0)
