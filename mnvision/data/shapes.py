"""The data set that mnvision makes for itself: scenes of coloured shapes, in COCO format.

It needs no download and is learned in minutes, so everything can be tried before real data are at hand. Like real COCO
files it has category ids with gaps, image ids that start somewhere, pictures without objects, and hidden parts.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mnvision.data.scenes import CLASSES, draw_scene
from mnvision.errors import UserError

log = logging.getLogger(__name__)

CATEGORY_IDS = (2, 3, 5, 7, 11, 13, 17, 19)  # of CLASSES
STAMP = "shapes.json"

_FORMAT = 2  # raise it when the same parameters give other pictures
_SPLITS = {"train": 100_001, "val": 900_001}  # and their first image ids
_JPEG_QUALITY = 92


def shapes_folder_name(*, seed: int, train_images: int, val_images: int, image_size: int) -> str:
    """A folder name that tells sets of different parameters apart, such as ``v2-seed0-1000+200-320px``."""
    return f"v{_FORMAT}-seed{seed}-{train_images}+{val_images}-{image_size}px"


def make_shapes(root: str | Path, *, seed: int, train_images: int, val_images: int, image_size: int) -> Path:
    """Make the data set in a folder, unless it is there already.

    The folder appears whole or not at all: it is filled under another name and then renamed, so an interrupted maker
    leaves nothing behind that looks finished, and of several makers at once one wins and the others use its work.
    The same parameters give the same bytes. Picture ``i`` of a split depends on the seed, the split and ``i`` alone, so
    no validation scene occurs in training, and a smaller set is the beginning of a larger one.

    Args:
        root: The folder: gets ``train/``, ``val/``, ``annotations/{train,val}.json`` and ``shapes.json``, which records
            the parameters.
        seed: Of the scenes.
        train_images: Number of training pictures.
        val_images: Number of validation pictures.
        image_size: Side of the pictures in pixels.

    Returns:
        ``root``.

    Raises:
        UserError: The folder holds something else, or shapes made with other parameters; it cannot be written.
    """
    root = Path(root)
    parameters = {
        "format": _FORMAT,
        "seed": seed,
        "train_images": train_images,
        "val_images": val_images,
        "image_size": image_size,
    }
    if _is_made(root, parameters):
        return root
    if min(train_images, val_images) < 1 or image_size < 32:
        raise UserError(
            f"cannot make {train_images} + {val_images} shapes pictures of {image_size} pixels: expected at least one"
            " picture in each split (data.train_count, data.val_count) and a side of at least 32 (data.canvas)"
        )
    log.info("making the shapes data set, %d + %d pictures, once, in %s", train_images, val_images, root)
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        workshop = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    except OSError as error:
        raise UserError(
            f"cannot write the shapes data set to {root.parent}: {error.strerror}. Choose another folder with"
            " data.root, or another cache with the environment variable MNVISION_CACHE"
        ) from None
    try:
        for split, count in (("train", train_images), ("val", val_images)):
            _make_split(workshop, split, count=count, seed=seed, size=image_size)
        (workshop / STAMP).write_text(json.dumps(parameters, indent=1) + "\n")
        workshop.chmod(0o755)  # mkdtemp keeps other users out
        try:
            os.rename(workshop, root)
        except OSError:
            if not _is_made(root, parameters):  # else another maker was faster
                raise
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
    return root


def _is_made(root: Path, parameters: dict[str, int]) -> bool:
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = json.loads((root / STAMP).read_text())
    except (OSError, ValueError):
        found = "something else"
    if found != parameters:
        raise UserError(
            f"{root} holds {found}, expected shapes made with {parameters}, or nothing."
            " Choose another folder with data.root, or remove this one"
        )
    return True


def _make_split(folder: Path, split: str, *, count: int, seed: int, size: int) -> None:
    """Draw the pictures of a split and write its annotations."""
    (folder / split).mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i in range(count):
        scene = draw_scene(np.random.default_rng((seed, _SPLITS[split], i)), size=size)
        image_id = _SPLITS[split] + i
        name = f"{image_id:06d}.jpg"
        quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
        data = cv2.imencode(".jpg", cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR), quality)[1]
        (folder / split / name).write_bytes(data.tobytes())
        images.append({"id": image_id, "file_name": name, "width": size, "height": size})
        for box, label, area in zip(scene.boxes.tolist(), scene.labels.tolist(), scene.areas.tolist(), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": CATEGORY_IDS[label],
                    "bbox": box,
                    "area": area,
                    "iscrowd": 0,
                }
            )
    content = {
        "info": {"description": f"mnvision shapes, {split}"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": n} for i, n in zip(CATEGORY_IDS, CLASSES, strict=True)],
    }
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "annotations" / f"{split}.json").write_text(json.dumps(content))
