"""The formats of classification data by name: where their files are, and what reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnvision.annotations import LabelledPictures
from mnvision.cache import cache_dir
from mnvision.data.archives import extract_once, is_archive
from mnvision.data.cifar import read_cifar10, read_cifar100
from mnvision.data.coco import read_coco
from mnvision.data.drawn_faces import faces_folder_name, make_faces
from mnvision.data.drawn_places import make_places, places_folder_name
from mnvision.data.folders import SplitFolders, class_names, read_classes, read_folders, read_unlabelled
from mnvision.data.homes import obtain
from mnvision.data.labelled import refuse_shared
from mnvision.data.lists import Columns, read_list
from mnvision.data.pets import read_pets
from mnvision.data.shapes import make_shapes, shapes_folder_name
from mnvision.data.splits import Split
from mnvision.data.stanford_dogs import read_stanford_dogs
from mnvision.errors import UserError

Options = Mapping[str, Any]
LISTS = ("picture_list", "identity_list", "attribute_list", "place_list")  # whose pictures have a folder of their own
GENERATED = ("shape_crops", "drawn_faces", "drawn_attributes", "drawn_places")  # data sets that need no folder


class Request(NamedTuple):
    """What a reader is asked for.

    Attributes:
        root: Folder of the data set.
        split: ``train``, ``val`` or ``test``.
        classes: Names of the classes to use; None uses all.
        val_share: Share of the training pictures that is held out where there is no validation split.
        seed: Of that split.
        options: The format's own keys of the data section; and whether ``boxes`` are wanted, and training pictures may
            be ``unlabelled``.
    """

    root: Path
    split: Split
    classes: Sequence[str] | None
    val_share: float
    seed: int
    options: Options


def find_root(name: str, root: Path | None, *, options: Options) -> Path:
    """The folder of a data set: made, fetched or unpacked where need be, at once where it is there.

    Args:
        name: A key of ``READERS``, or that of a data module of its own.
        root: The folder or archive that the user gave.
        options: The format's own keys of the data section.
    """
    if name == "shape_crops":
        shapes = _shapes(options)
        folder = (root or cache_dir() / "shapes") / shapes_folder_name(**shapes)
        make_shapes(folder, **shapes)
        return folder
    if name in ("drawn_faces", "drawn_attributes"):
        faces = {key: options[key] for key in ("seed", "train_identities", "val_identities", "pictures")}
        return make_faces((root or cache_dir() / "drawn_faces") / faces_folder_name(**faces), **faces)
    if name == "drawn_places":
        drawn = _shapes(options)
        return make_places((root or cache_dir() / "places") / places_folder_name(**drawn), **drawn)
    assert root is not None  # the data module checks it
    if options.get("download"):
        return obtain("pets" if name == "oxford_pets" else name, root)
    return extract_once(root) if root.is_file() and is_archive(root) else root


def picture_folder(name: str, root: Path, *, options: Options) -> Path:
    """The folder that the file names of a data set are relative to.

    Args:
        name: A key of ``READERS``.
        root: What ``find_root`` gave.
        options: The format's own keys of the data section.
    """
    return root / options["images"] if name in LISTS else root


def read_labelled(
    name: str,
    root: Path,
    split: Split,
    *,
    classes: Sequence[str] | None,
    val_share: float,
    seed: int,
    options: Options,
) -> LabelledPictures:
    """Read a split; file names are relative to ``picture_folder``.

    Args:
        name: A key of ``READERS``.
        root: What ``find_root`` gave.
        split: See ``Request``.
        classes: See ``Request``.
        val_share: See ``Request``.
        seed: See ``Request``.
        options: See ``Request``.
    """
    return READERS[name](Request(root, split, classes, val_share, seed, options))


def _read_folders(asked: Request) -> LabelledPictures:
    folders = SplitFolders(*(asked.options[split] for split in ("train", "val", "test")))
    root, split, classes, share, seed, options = asked
    train = root / folders.train
    if options["unlabelled"] and train.is_dir() and not class_names(train):
        if split == "train":
            return read_unlabelled(root, part=folders.train, classes=classes or ())
        return read_classes(root, part=getattr(folders, split), classes=classes)
    return read_folders(root, split, classes=classes, folders=folders, val_share=share, seed=seed)


def _read_lists(asked: Request) -> LabelledPictures:
    options = asked.options
    columns = Columns(file=options["file_column"], label=options["label_column"], split=options["split_column"])
    if columns.split is not None and (options["val"] or options["test"]):
        raise UserError(
            f"data.split_column={columns.split} says what is measured on, and so do data.val and data.test; give one"
        )
    folder, own = asked.root / options["images"], options[asked.split]
    train = asked.root / options["train"]
    if asked.split != "train" and own is not None:
        learnt = read_list(train, folder=folder, columns=columns)
        known = learnt.classes or None  # a student of unlabelled pictures has its teacher's classes
        found = read_list(asked.root / own, folder=folder, columns=columns, known=known, classes=asked.classes)
        refuse_shared({"train": learnt, asked.split: found}, name=str(asked.root))
        return found
    return read_list(
        train,
        split=None if asked.split == "train" and options["val"] is not None else asked.split,
        folder=folder,
        columns=columns,
        classes=asked.classes,
        val_share=asked.val_share,
        seed=asked.seed,
    )


def _animals(read: Callable[..., LabelledPictures]) -> Callable[[Request], LabelledPictures]:
    def reader(asked: Request) -> LabelledPictures:
        root, split, classes, share, seed, options = asked
        return read(root, split, classes=classes, boxes=options["boxes"], val_share=share, seed=seed)

    return reader


def _cifar(read: Callable[..., LabelledPictures]) -> Callable[[Request], LabelledPictures]:
    def reader(asked: Request) -> LabelledPictures:
        root, split, classes, share, seed, _ = asked
        if any((root / folder).is_dir() for folder in ("train", "test")):
            return read_folders(root, split, classes=classes, val_share=share, seed=seed)
        return read(root, split, classes=classes, val_share=share, seed=seed)

    return reader


def _read_shape_crops(asked: Request) -> LabelledPictures:
    """Every box of the generated scenes, made square, as a picture of its own."""
    if asked.split == "test":
        raise UserError("split=test: the generated data set has the splits train, val")
    folder = asked.root / asked.split
    scenes = read_coco(asked.root / "annotations" / f"{asked.split}.json", image_folder=folder, classes=asked.classes)
    rows = np.flatnonzero(scenes.usable)
    pictures = np.repeat(np.arange(len(scenes)), np.diff(scenes.offsets))[rows]
    names = [f"{asked.split}/{scenes.file_name(picture)}".encode() for picture in pictures.tolist()]
    return LabelledPictures(np.array(names), scenes.labels[rows] - 1, scenes.classes, _squares(scenes.boxes[rows]))


def _squares(boxes: np.ndarray) -> np.ndarray:
    """The smallest squares around boxes [N, 4] xyxy, with the same centres."""
    centers, sizes = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True)
    return np.concatenate((centers - sizes / 2, centers + sizes / 2), axis=1)


def _shapes(options: Options) -> dict[str, int]:
    names = {"seed": "seed", "train_count": "train_images", "val_count": "val_images", "canvas": "image_size"}
    return {argument: options[key] for key, argument in names.items()}


READERS: dict[str, Callable[[Request], LabelledPictures]] = {
    "image_folder": _read_folders,
    "picture_list": _read_lists,
    "stanford_dogs": _animals(read_stanford_dogs),
    "oxford_pets": _animals(read_pets),
    "cifar10": _cifar(read_cifar10),
    "cifar100": _cifar(read_cifar100),
    "shape_crops": _read_shape_crops,
}
