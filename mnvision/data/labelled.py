"""What all readers of classification data share: tables of classes, checks, and one line about a split."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mnvision.annotations import LabelledPictures
from mnvision.data.classes import choose_classes
from mnvision.data.splits import Split, part_of
from mnvision.errors import UserError, did_you_mean
from mnvision.wording import counted

log = logging.getLogger(__name__)

_SHOWN = 10  # names in a message


def keep_classes(pictures: LabelledPictures, *, classes: Sequence[str], file: Path) -> LabelledPictures:
    """The pictures of some classes alone, numbered in the order given; those without a class stay.

    Args:
        pictures: A split with all of its classes.
        classes: The names to keep.
        file: What to call the split in an error.

    Raises:
        UserError: None is chosen, one is chosen twice, or there is none of that name (with the nearest ones).
    """
    chosen = choose_classes(pictures.classes, classes=classes, file=file)
    table = np.full(len(pictures.classes) + 1, -2, dtype=np.int64)  # the last place is that of label -1
    table[chosen], table[-1] = np.arange(len(chosen)), -1
    labels = table[pictures.labels]
    kept = replace(pictures, labels=labels, classes=tuple(classes))
    return kept if (labels > -2).all() else kept.take(labels > -2)


def adopt_labels(pictures: LabelledPictures, *, classes: Sequence[str], name: str) -> LabelledPictures:
    """The same pictures under another table of classes, the training set's or a checkpoint's.

    Args:
        pictures: A split whose classes are among those of the table; it may lack some.
        classes: The K names of the table.
        name: What to call the split in an error, usually its folder or file.

    Raises:
        UserError: The split has a class that the table lacks.
    """
    refuse_strange(pictures.classes, classes=classes, name=name)
    label_of = {class_name: label for label, class_name in enumerate(classes)}
    table = np.array([*(label_of[class_name] for class_name in pictures.classes), -1], dtype=np.int64)
    return replace(pictures, labels=table[pictures.labels], classes=tuple(classes))


def forget_strange(pictures: LabelledPictures, *, classes: Sequence[str]) -> LabelledPictures:
    """The pictures of classes that are not in a table lose theirs: their labels are -1, and the classes go."""
    known = [label for label, name in enumerate(pictures.classes) if name in set(classes)]
    place = np.full(len(pictures.classes) + 1, -1)  # the last one for -1
    place[known] = np.arange(len(known))
    names = tuple(pictures.classes[label] for label in known)
    return replace(pictures, labels=place[pictures.labels], classes=names)


def refuse_strange(names: Sequence[str], *, classes: Sequence[str], name: str) -> None:
    """Refuse class names that are not among those to learn or recognise, see `adopt_labels`."""
    known = set(classes)
    strange = [class_name for class_name in names if class_name not in known]
    if strange:
        near = did_you_mean(strange[0], classes)
        raise UserError(
            f"{name}: the class {strange[0]!r}{_and_more(strange)} is not among the {len(classes)} classes to learn or"
            f" recognise ({shorten(classes)}){near or '.'} Name the classes alike in every split, or pick common ones"
            " with data.classes"
        )


def check_pictures(pictures: LabelledPictures, *, folder: Path, source: Path) -> LabelledPictures:
    """Refuse a split without pictures, without three of them that are looked for, or with a label out of range.

    Only the first, the middle and the last file are looked for: asking for a million would take minutes on a network
    drive. The loader names any other that is missing.

    Args:
        pictures: A split.
        folder: What its file names are relative to.
        source: The list or folder that names the pictures, for the message.

    Returns:
        The split itself.

    Raises:
        UserError: As said.
    """
    wrong = (pictures.labels < -1) | (pictures.labels >= len(pictures.classes))
    if wrong.any():
        i = int(np.argmax(wrong))
        raise UserError(
            f"{source}: the label of {pictures.file_name(i)} is {pictures.labels[i]}. Expected 0 to"
            f" {len(pictures.classes) - 1}, one of {len(pictures.classes)} classes; correct it or name all classes"
        )
    return check_files(pictures, folder=folder, source=source)


def check_files(pictures: LabelledPictures, *, folder: Path, source: Path) -> LabelledPictures:
    """Refuse a split without pictures, or without three of them that are looked for: see `check_pictures`."""
    count = len(pictures)
    if not count:
        raise UserError(
            f"{source}: there is no picture. Expected at least one (JPEG, PNG, WebP, BMP, TIFF, PGM or PPM) in the"
            " folder of each class; check data.root and data.classes"
        )
    if pictures.pixels is None:
        for i in sorted({0, count // 2, count - 1}):
            if not (folder / pictures.file_name(i)).is_file():
                raise UserError(
                    f"picture not found: {folder / pictures.file_name(i)}, which {source} names. Is {folder} the right"
                    " folder? File names are relative to it"
                )
    return pictures


def warn_of_empty_classes(pictures: LabelledPictures, *, name: str, noun: str = "class") -> None:
    """Say which classes have no picture in a split; they stay in the table."""
    empty = [pictures.classes[i] for i in np.flatnonzero(class_counts(pictures) == 0)]
    if empty and (pictures.labels >= 0).any():
        log.warning(
            "%s: no picture of %d of %s: %s", name, len(empty), counted(len(pictures.classes), noun), shorten(empty)
        )


def refuse_shared(splits: dict[str, LabelledPictures], *, name: str) -> None:
    """Refuse a picture that is in two splits: what was trained on cannot be measured on.

    Args:
        splits: Splits by name, with file names that are relative to the same folder.
        name: What to call the data set in the error.

    Raises:
        UserError: Two splits share a file; names the first one.
    """
    names = list(splits)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            shared = np.intersect1d(splits[first].file_names, splits[second].file_names)
            if len(shared):
                raise UserError(
                    f"{name}: {len(shared)} pictures are in both splits {first!r} and {second!r}, the first is"
                    f" {bytes(shared[0]).decode('utf-8', 'replace')}. Expected every picture in one split:"
                    " take them out of one"
                )


def finish_split(
    pictures: LabelledPictures,
    split: Split,
    *,
    folder: Path,
    source: Path,
    classes: Sequence[str] | None,
    val_share: float,
    seed: int,
) -> LabelledPictures:
    """What every data set with a training and a test list does once a list is read.

    Args:
        pictures: Of the test list for ``test``, else of the training list.
        split: Which split; ``val`` and ``train`` share the training list.
        folder: What the file names are relative to.
        source: The list, for the messages.
        classes: Names of the classes to use, in the order of their labels; None uses all.
        val_share: Part of the training list that is for validation.
        seed: Of that split.

    Raises:
        UserError: A chosen class is unknown, or the pictures are not there.
    """
    if split != "test":
        pictures = part_of(pictures, split, share=val_share, seed=seed, name=str(source))
    if classes is not None:
        pictures = keep_classes(pictures, classes=classes, file=source)
    check_pictures(pictures, folder=folder, source=source)
    warn_of_empty_classes(pictures, name=str(source))
    return pictures


def class_counts(pictures: LabelledPictures) -> np.ndarray:
    """Number of pictures of each class: int64 [K]."""
    return np.bincount(pictures.labels[pictures.labels >= 0], minlength=len(pictures.classes))


def describe_labelled(pictures: LabelledPictures, *, noun: str = "class") -> str:
    """One line about a split, such as ``70 pictures, 2 classes, from 30 (cat) to 40 (dog) pictures``.

    Pictures whose class is not known and those with a box are counted where there are any.
    """
    parts = [f"{counted(len(pictures), 'picture')}, {counted(len(pictures.classes), noun)}"]
    counts = class_counts(pictures)
    if counts.any():
        least, most = int(np.argmin(counts)), int(np.argmax(counts))
        ends = (f"{counts[i]:,} ({pictures.classes[i]})" for i in (least, most))
        same = counts[least] == counts[most]
        parts.append(f"{counts[most]:,} of each" if same else f"from {' to '.join(ends)} pictures")
    if unknown := int((pictures.labels < 0).sum()):
        parts.append(f"{unknown:,} without {'an' if noun[0] in 'aeio' else 'a'} {noun}")
    if pictures.boxes is not None:
        parts.append(f"{int(np.isfinite(pictures.boxes).all(axis=1).sum()):,} with a box")
    return ", ".join(parts)


def shorten(names: Sequence[str]) -> str:
    """The first ten names, for a message."""
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def encode_names(names: Sequence[str], *, source: Path) -> np.ndarray:
    """File names as fixed-width bytes [I]: one block of memory instead of a Python string for every picture.

    Raises:
        UserError: A name is not UTF-8.
    """
    try:
        return np.array([name.encode("utf-8") for name in names], dtype=np.bytes_).reshape(len(names))
    except UnicodeEncodeError as error:
        message = f"{source}: the file name {error.object!r} is not UTF-8. Expected names in UTF-8: rename the file"
        raise UserError(message) from error


def _and_more(names: Sequence[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
