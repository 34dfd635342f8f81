"""The data set that mnvision makes for itself: scenes of coloured shapes, in COCO format.

It needs no download and is learned in minutes, so everything can be tried before real data are at hand. Like real COCO
files it has category ids with gaps, image ids that start somewhere, pictures without objects, and hidden parts.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from mnvision.data.generated import make_once, picture_parameters, write_jpeg
from mnvision.data.scenes import CLASSES, draw_scene

CATEGORY_IDS = (2, 3, 5, 7, 11, 13, 17, 19)  # of CLASSES
STAMP = "shapes.json"

_FORMAT = 2  # raise it when the same parameters give other pictures
_SPLITS = {"train": 100_001, "val": 900_001}  # and their first image ids


def shapes_folder_name(*, seed: int, train_images: int, val_images: int, image_size: int) -> str:
    """A folder name that tells sets of different parameters apart, such as ``v2-seed0-1000+200-320px``."""
    return f"v{_FORMAT}-seed{seed}-{train_images}+{val_images}-{image_size}px"


def make_shapes(root: str | Path, *, seed: int, train_images: int, val_images: int, image_size: int) -> Path:
    """Make the data set in a folder, unless it is there already.

    The same parameters give the same bytes; see `mnvision.data.generated.make_once`. Picture ``i`` of a split depends
    on the seed, the split and ``i`` alone, so no validation scene occurs in training, and a smaller set is the
    beginning of a larger one.

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
        UserError: A number is too small, or as ``make_once``.
    """
    root = Path(root)
    parameters = picture_parameters(
        version=_FORMAT, seed=seed, train_images=train_images, val_images=val_images, image_size=image_size
    )

    def fill(folder: Path) -> None:
        for split, count in (("train", train_images), ("val", val_images)):
            _make_split(folder, split, count=count, seed=seed, size=image_size)

    count = f"{train_images} + {val_images}"
    return make_once(root, name="shapes", parameters=parameters, stamp=STAMP, count=count, fill=fill)


def _make_split(folder: Path, split: str, *, count: int, seed: int, size: int) -> None:
    """Draw the pictures of a split and write its annotations."""
    (folder / split).mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i in range(count):
        scene = draw_scene(np.random.default_rng((seed, _SPLITS[split], i)), size=size)
        image_id = _SPLITS[split] + i
        name = f"{image_id:06d}.jpg"
        write_jpeg(folder / split / name, scene.image)
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
