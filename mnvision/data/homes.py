"""Where public data sets are had from, and getting them: downloaded, checked and unpacked once."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from mnvision.data.archives import unpack
from mnvision.download import fetch
from mnvision.errors import UserError, did_you_mean

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Archive:
    """A file to download, and what it unpacks to.

    Attributes:
        url: Its address.
        sha256: Its SHA-256; None where nobody vouches for one, so that the first one seen is recorded beside the file.
        gives: Paths below the root that are there once it is unpacked.
    """

    url: str
    sha256: str | None
    gives: tuple[str, ...]


_DOGS = "http://vision.stanford.edu/aditya86/ImageNetDogs"
_CIFAR = "https://www.cs.toronto.edu/~kriz"
_PETS = "https://thor.robots.ox.ac.uk/~vgg/data/pets"

# The checksums are those that TensorFlow Datasets checks its own downloads against.
HOMES: dict[str, tuple[Archive, ...]] = {
    "stanford_dogs": (
        Archive(
            f"{_DOGS}/lists.tar",
            "34b47cacd9a98b5d150e084f24d29391c084c55272295ec65c85651bc35f4d6c",
            ("train_list.mat", "test_list.mat"),
        ),
        Archive(
            f"{_DOGS}/annotation.tar",
            "662ed36f707be6b195c2fda392d8e153e83af28cedc8e2134a649f198def30fd",
            ("Annotation",),
        ),
        Archive(
            f"{_DOGS}/images.tar",
            "a443fc2f9a851aa1a7b8e4fa4af94b8459fce2c9f5a2f4dd4669cf9673a4ec58",
            ("Images",),
        ),
    ),
    "cifar10": (
        Archive(
            f"{_CIFAR}/cifar-10-binary.tar.gz",
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            ("cifar-10-batches-bin",),
        ),
    ),
    "cifar100": (
        Archive(
            f"{_CIFAR}/cifar-100-binary.tar.gz",
            "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
            ("cifar-100-binary",),
        ),
    ),
    "pets": (
        Archive(f"{_PETS}/annotations.tar.gz", None, ("annotations",)),
        Archive(f"{_PETS}/images.tar.gz", None, ("images",)),
    ),
}


def obtain(name: str, root: str | Path) -> Path:
    """Get a public data set: what is not there yet is downloaded into its folder and unpacked there.

    An archive whose contents are there is neither asked for nor looked at; one that was brought by hand is checked and
    unpacked. The archives stay beside their contents and may be removed.

    Args:
        name: One of `HOMES`.
        root: The folder of the data set; made if need be.

    Returns:
        The root.

    Raises:
        UserError: There is no data set of that name, or an archive cannot be had (says what to put where), is not the
            right one, or cannot be unpacked.
    """
    if name not in HOMES:
        near = did_you_mean(name, HOMES, known=True)
        raise UserError(f"cannot download the data set {name!r}: it has no public home that is known here{near}")
    root = Path(root).expanduser()
    for archive in HOMES[name]:
        if all((root / path).exists() for path in archive.gives):
            continue
        file = fetch(archive.url, sha256=archive.sha256, folder=root)
        unpacked = unpack(file, beside=root / file.stem)
        try:
            _move_in(unpacked, root=root)
        finally:
            shutil.rmtree(unpacked, ignore_errors=True)
        missing = [path for path in archive.gives if not (root / path).exists()]
        if missing:
            raise UserError(f"{file}: holds no {missing[0]}. Expected the archive of {archive.url}; get it again")
        log.info("%s: %s is there; %s may be removed", root, ", ".join(archive.gives), file.name)
    return root


def _move_in(unpacked: Path, *, root: Path) -> None:
    """Move what was unpacked to its place, each entry in one step; folders that are there already stay as they are."""
    for entry in sorted(unpacked.iterdir()):
        target = root / entry.name
        if not target.is_dir():
            try:
                os.replace(entry, target)
            except OSError:
                if not target.is_dir():  # another process was not faster either
                    raise
