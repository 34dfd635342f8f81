"""Reads the binary files of CIFAR-10 and CIFAR-100.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009; the layout is described at
https://www.cs.toronto.edu/~kriz/cifar.html. A record is a byte with the label (CIFAR-100: two, the coarse
label first) and 3 x 32 x 32 bytes: all red ones, then green, then blue, row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mnvision.annotations import LabelledPictures
from mnvision.data.labelled import check_pictures, finish_split
from mnvision.data.splits import VAL_SHARE, Split
from mnvision.errors import UserError, file_error

_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE


@dataclass(frozen=True)
class _Layout:
    archive: str
    folder: str  # what the archive unpacks to
    train: tuple[str, ...]
    test: tuple[str, ...]
    names: tuple[str, ...]  # the classes of each byte before the pixels
    pickles: tuple[str, ...]  # of the version that only Python can read

    @property
    def files(self) -> tuple[str, ...]:
        return (*self.train, *self.test, *self.names)


_CIFAR10 = _Layout(
    archive="cifar-10-binary.tar.gz",
    folder="cifar-10-batches-bin",
    train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    test=("test_batch.bin",),
    names=("batches.meta.txt",),
    pickles=("data_batch_1", "batches.meta", "cifar-10-batches-py", "cifar-10-python.tar.gz"),
)
_CIFAR100 = _Layout(
    archive="cifar-100-binary.tar.gz",
    folder="cifar-100-binary",
    train=("train.bin",),
    test=("test.bin",),
    names=("coarse_label_names.txt", "fine_label_names.txt"),
    pickles=("meta", "cifar-100-python", "cifar-100-python.tar.gz"),
)


def read_cifar10(
    root: str | Path,
    split: Split,
    *,
    classes: Sequence[str] | None = None,
    val_share: float = VAL_SHARE,
    seed: int = 0,
) -> LabelledPictures:
    """Read a split of CIFAR-10: ``data_batch_1.bin`` to ``_5``, ``test_batch.bin`` and ``batches.meta.txt``.

    The pixels are read once into one array, which data workers share as long as they are forked. The files of the
    Python version are pickles: opening one runs whatever it holds, so they are refused.

    Args:
        root: The folder with these files, or the one above it.
        split: ``test`` is the test batch; ``val`` a share of each class of the training batches, see
            `mnvision.data.splits.split_rows`; ``train`` the rest of them.
        classes: Names of the classes to use, in the order of their labels; the pictures of the others are left out.
        val_share: Part of the training pictures that is for validation.
        seed: Of that split.

    Raises:
        UserError: A file is missing, cut short or of the Python version; a label is out of range; a class is unknown.
    """
    folder = _find(Path(root), layout=_CIFAR10)
    pictures = _read(folder, layout=_CIFAR10, split=split, level=0)
    check_pictures(pictures, folder=folder, source=folder)  # labels first: classes are chosen by them
    return finish_split(pictures, split, folder=folder, source=folder, classes=classes, val_share=val_share, seed=seed)


def read_cifar100(
    root: str | Path,
    split: Split,
    *,
    classes: Sequence[str] | None = None,
    coarse: bool = False,
    val_share: float = VAL_SHARE,
    seed: int = 0,
) -> LabelledPictures:
    """Read a split of CIFAR-100: ``train.bin``, ``test.bin``, ``fine_label_names.txt``, ``coarse_label_names.txt``.

    See `read_cifar10` for the arguments.

    Args:
        root: The folder with these files, or the one above it.
        split: As of CIFAR-10.
        classes: As of CIFAR-10.
        coarse: The 20 groups are the classes, not the 100 kinds.
        val_share: As of CIFAR-10.
        seed: As of CIFAR-10.

    Raises:
        UserError: As of CIFAR-10.
    """
    folder = _find(Path(root), layout=_CIFAR100)
    pictures = _read(folder, layout=_CIFAR100, split=split, level=0 if coarse else 1)
    check_pictures(pictures, folder=folder, source=folder)  # labels first: classes are chosen by them
    return finish_split(pictures, split, folder=folder, source=folder, classes=classes, val_share=val_share, seed=seed)


def _find(root: Path, *, layout: _Layout) -> Path:
    """The folder with the binary files."""
    for folder in (root, root / layout.folder):
        if (folder / layout.train[0]).is_file():
            missing = [name for name in layout.files if not (folder / name).is_file()]
            if missing:
                raise UserError(
                    f"{folder}: {missing[0]} is missing. Expected {', '.join(layout.files)}; unpack {layout.archive}"
                    " in full"
                )
            return folder
    for found in (root / name for name in layout.pickles):
        if found.exists():
            raise UserError(
                f"{found}: this is CIFAR's Python version, whose files are pickles; opening one runs whatever code it"
                f" holds, so they are not read. Expected the binary version: get {layout.archive} and unpack it there"
            )
    raise UserError(
        f"{root}: {layout.train[0]} is not there, nor in {layout.folder}/. Expected what {layout.archive} unpacks to;"
        " check data.root"
    )


def _read(folder: Path, *, layout: _Layout, split: Split, level: int) -> LabelledPictures:
    """All pictures of the training or the test files, with the labels of one of the bytes."""
    heads = len(layout.names)
    classes = _class_names(folder / layout.names[level])
    files = [folder / name for name in (layout.test if split == "test" else layout.train)]
    counts = [_count(file, record=heads + _PIXELS) for file in files]
    pixels = np.empty((sum(counts), _SIDE, _SIDE, 3), dtype=np.uint8)
    labels = np.empty(sum(counts), dtype=np.int64)
    names: list[bytes] = []
    for file, count in zip(files, counts, strict=True):
        records = np.fromfile(file, dtype=np.uint8).reshape(count, heads + _PIXELS)
        rows = slice(len(names), len(names) + count)
        labels[rows] = records[:, level]
        pixels[rows] = records[:, heads:].reshape(count, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)
        names += [f"{file.stem}/{i:05d}".encode() for i in range(count)]
    return LabelledPictures(np.array(names, dtype=np.bytes_), labels, classes, pixels=pixels)


def _count(file: Path, *, record: int) -> int:
    size = file.stat().st_size
    if not size or size % record:
        raise file_error(
            file, f"has {size} bytes. Expected a multiple of {record}, the size of a picture; was it copied in full?"
        )
    return size // record


def _class_names(file: Path) -> tuple[str, ...]:
    names = tuple(line.strip() for line in file.read_text(encoding="utf-8", errors="replace").splitlines())
    names = tuple(name for name in names if name)
    if not names or len(set(names)) < len(names):
        raise file_error(file, f"has the classes {', '.join(names)}. Expected one name a line, each once")
    return names
