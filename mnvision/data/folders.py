"""Reads pictures that lie in one folder a class, ImageNet's layout, and folders of pictures without classes.

File names are relative to the root of the data set, so that all splits have the same picture folder.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mnvision.annotations import LabelledPictures
from mnvision.data.classes import choose_classes
from mnvision.data.labelled import check_pictures, encode_names, refuse_strange, warn_of_empty_classes
from mnvision.data.pictures import SUFFIXES
from mnvision.data.splits import VAL_SHARE, Split, part_of
from mnvision.errors import UserError

log = logging.getLogger(__name__)

_NO_NAMES = np.zeros(0, dtype=np.bytes_)


@dataclass(frozen=True)
class SplitFolders:
    """The folders of the splits, relative to the root of the data set."""

    train: str = "train"
    val: str = "val"
    test: str = "test"


def read_folders(
    root: str | Path,
    split: Split,
    *,
    classes: Sequence[str] | None = None,
    folders: SplitFolders | None = None,
    val_share: float = VAL_SHARE,
    seed: int = 0,
) -> LabelledPictures:
    """Read a split of a data set with one folder a class.

    Either ``root/train`` (and ``val``, ``test``) hold a folder for each class, or the root itself does; it counts as
    the first kind where there is a folder ``train`` with folders in it, or none but ``val`` or ``test``. Where there is
    no folder for validation, a share of the training pictures is held out, see `mnvision.data.splits.split_rows`.
    A test folder may hold pictures alone, without classes, as ImageNet's does: their labels are -1.

    Pictures are those of the usual suffixes, at any depth below their class's folder, sorted by class and name; names
    that begin with a dot are passed over, links are followed. The classes are the sorted names of the training folders,
    for every split; a class without pictures stays, with a warning.

    Args:
        root: Folder of the data set; the file names are relative to it.
        split: ``train``, ``val`` or ``test``.
        classes: Names of the classes to use, in the order of their labels; the pictures of the others are left out.
            None uses all.
        folders: The names of the splits' folders.
        val_share: Part of the training pictures to hold out where there is no folder for validation.
        seed: Of that split.

    Raises:
        UserError: A folder is missing or holds no class or no picture; a split has a class that training lacks; a
            chosen class is unknown; a file name is not UTF-8.
    """
    root, folders = Path(root), folders or SplitFolders()
    _require_folder(root)
    if not _has_splits(root, folders):
        return part_of(read_classes(root, classes=classes), split, share=val_share, seed=seed, name=str(root))
    train, wanted = root / folders.train, root / getattr(folders, split)
    held_out = train.is_dir() and not (root / folders.val).is_dir()
    if held_out and split != "test":
        whole = read_classes(root, part=folders.train, classes=classes)
        return part_of(whole, split, share=val_share, seed=seed, name=str(train))
    _require_folder(wanted)
    known = class_names(train) if train.is_dir() else []
    if split == "test" and not class_names(wanted):
        return read_unlabelled(root, part=folders.test, classes=known if classes is None else classes)
    return read_classes(root, part=getattr(folders, split), known=known or None, classes=classes)


def read_classes(
    root: str | Path,
    *,
    part: str = "",
    known: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    noun: str = "class",
    example: str = "cat",
) -> LabelledPictures:
    """Read one folder that holds a folder for each class.

    Args:
        root: What the file names are relative to.
        part: The folder below it that holds the classes; the root itself where it is empty.
        known: The names of all classes that may occur, in the order of their labels; the folder may lack some. None
            takes the sorted names of the folders.
        classes: Names of the classes to use, out of the known ones, in the order of their labels. None uses all.
        noun: What to call a class in a message.
        example: The name of one.

    Raises:
        UserError: As `read_folders`.
    """
    root = Path(root)
    folder = root / part
    _require_folder(folder)
    names = class_names(folder)
    if not names:
        raise UserError(
            f"{folder}: there is no folder in it. Expected one for each {noun}, with its pictures, such as"
            f" {folder / example}; check data.root, or name pictures and labels in a list"
        )
    table = tuple(_table(names, known=known, classes=classes, folder=folder))
    found = [_scan(root, f"{part}/{name}" if part else name) if name in names else _NO_NAMES for name in table]
    if _pictures_beside(folder):
        log.warning("%s: pictures that lie beside the folders, one for each %s, are left out", folder, noun)
    pictures = LabelledPictures(
        file_names=np.concatenate(found),
        labels=np.repeat(np.arange(len(table), dtype=np.int64), [len(files) for files in found]),
        classes=table,
    )
    check_pictures(pictures, folder=root, source=folder)
    warn_of_empty_classes(pictures, name=str(folder), noun=noun)
    return pictures


def read_unlabelled(root: str | Path, *, part: str = "", classes: Sequence[str] = ()) -> LabelledPictures:
    """Read a folder of pictures whose classes nobody knows, with all below it, sorted by name; the labels are -1.

    Args:
        root: What the file names are relative to.
        part: The folder below it to read; the root itself where it is empty.
        classes: The table of classes that the pictures are to be told apart by.

    Raises:
        UserError: The folder is missing or holds no picture; a file name is not UTF-8.
    """
    root = Path(root)
    _require_folder(root / part)
    names = _scan(root, part)
    pictures = LabelledPictures(names, np.full(len(names), -1, dtype=np.int64), tuple(classes))
    return check_pictures(pictures, folder=root, source=root / part)


def _table(
    names: Sequence[str], *, known: Sequence[str] | None, classes: Sequence[str] | None, folder: Path
) -> Sequence[str]:
    """The table of classes of a folder that holds those of ``names``."""
    if classes is not None:
        choose_classes(names if known is None else known, classes=classes, file=folder)
        return classes
    if known is None:
        return names
    refuse_strange(names, classes=known, name=str(folder))
    return known


def _has_splits(root: Path, folders: SplitFolders) -> bool:
    """Whether the splits have folders; ``train`` with pictures alone is a class of that name."""
    if (root / folders.train).is_dir():
        return bool(class_names(root / folders.train))
    return any((root / name).is_dir() for name in (folders.val, folders.test))


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        there = folder.parent.is_dir() and sorted(entry.name for entry in os.scandir(folder.parent) if entry.is_dir())
        have = f"; the folders there: {', '.join(there[:10])}" if there else ""
        raise UserError(f"folder not found: {folder}. Expected pictures in it; check data.root{have}")


def class_names(folder: Path) -> list[str]:
    """The folders in a folder, sorted."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())


def _pictures_beside(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(_is_picture(entry.name) and entry.is_file() for entry in entries)


def _scan(root: Path, part: str) -> np.ndarray:
    """The pictures below ``root/part``, relative to the root, sorted: bytes [I]."""
    prefix = f"{part}/" if part else ""
    try:
        names = list(_walk(str(root / part), prefix=prefix, above=()))
    except OSError as error:
        raise UserError(f"cannot list {error.filename}: {error.strerror}. Check its permissions") from error
    return np.sort(encode_names(names, source=root / part))


def _walk(folder: str, *, prefix: str, above: tuple[str, ...]) -> Iterator[str]:
    """Names of pictures; the entries of a folder know what they are, so that no file is asked for.

    Args:
        folder: Where to look.
        prefix: What to put before the names.
        above: The real paths of the folders that links led through, so that a link back ends the walk.
    """
    below = []
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if name.startswith("."):
                continue
            if entry.is_dir():
                below.append((name, entry.is_symlink()))
            elif _is_picture(name) and entry.is_file():
                yield prefix + name
    for name, linked in below:
        path = f"{folder}/{name}"
        trail = above
        if linked:
            real = os.path.realpath(path)
            here = os.path.realpath(folder)
            if real in above or here == real or here.startswith(f"{real}/"):
                log.warning("%s: a link to a folder above it is not followed", path)
                continue
            trail = (*above, real)
        yield from _walk(path, prefix=f"{prefix}{name}/", above=trail)


def _is_picture(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES
