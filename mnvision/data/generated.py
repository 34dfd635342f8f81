"""Data sets that mnvision makes for itself: each is made once, whole or not at all, and known by its parameters."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np

from mnvision.errors import UserError

log = logging.getLogger(__name__)


def make_once(
    root: Path, *, name: str, parameters: Mapping[str, int], stamp: str, count: str, fill: Callable[[Path], None]
) -> Path:
    """Make a data set in a folder, unless it is there already.

    The folder appears whole or not at all: it is filled under another name and then renamed, so an interrupted maker
    leaves nothing behind that looks finished, and of several makers at once one wins and the others use its work.

    Args:
        root: The folder.
        name: Of the data set, for the messages.
        parameters: All that its files depend on.
        stamp: The file in the folder that records them.
        count: How many pictures it has, in words.
        fill: Writes the files into the folder that it is given.

    Returns:
        ``root``.

    Raises:
        UserError: The folder holds something else, or was made with other parameters; it cannot be written.
    """
    if _is_made(root, name=name, parameters=parameters, stamp=stamp):
        return root
    log.info("making the %s data set, %s pictures, once, in %s", name, count, root)
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        workshop = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    except OSError as error:
        raise UserError(
            f"cannot write the {name} data set to {root.parent}: {error.strerror}. Choose another folder with"
            " data.root, or another cache with the environment variable MNVISION_CACHE"
        ) from None
    try:
        fill(workshop)
        (workshop / stamp).write_text(json.dumps(parameters, indent=1) + "\n")
        workshop.chmod(0o755)  # mkdtemp keeps other users out
        try:
            os.rename(workshop, root)
        except OSError:
            if not _is_made(root, name=name, parameters=parameters, stamp=stamp):  # else another maker was faster
                raise
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
    return root


def picture_parameters(
    *, version: int, seed: int, train_images: int, val_images: int, image_size: int
) -> dict[str, int]:
    """The parameters of two splits of square drawn pictures, to be recorded.

    Raises:
        UserError: One of them is too small.
    """
    if min(train_images, val_images) < 1 or image_size < 32 or seed < 0:
        raise UserError(
            f"cannot draw {train_images} + {val_images} pictures of {image_size} pixels from seed {seed}: expected at"
            " least one in each split (data.train_count, data.val_count), a side of at least 32 (data.canvas) and a"
            " seed of at least 0 (data.seed)"
        )
    sizes = {"train_images": train_images, "val_images": val_images, "image_size": image_size}
    return {"format": version, "seed": seed, **sizes}


def write_jpeg(file: Path, image: np.ndarray) -> None:
    """Write a drawn picture, uint8 [H, W, 3] RGB."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, 92]  # another one would be another data set: raise the formats
    file.write_bytes(cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)[1].tobytes())


def _is_made(root: Path, *, name: str, parameters: Mapping[str, int], stamp: str) -> bool:
    """Whether a folder holds the data set of these parameters; see ``make_once``."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = json.loads((root / stamp).read_text())
    except (OSError, ValueError):
        found = "something else"
    if found != parameters:
        raise UserError(
            f"{root} holds {found}, expected {name} made with {parameters}, or nothing."
            " Choose another folder with data.root, or remove this one"
        )
    return True
