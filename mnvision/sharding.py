"""The command ``shards``: a data set's pictures in tar files that training can stream."""

from __future__ import annotations

import json
import logging
from typing import Any

from mnvision import build
from mnvision.annotations import LabelledPictures
from mnvision.data.datamodule import DetectionDataModule
from mnvision.data.place_datamodule import PlaceDataModule
from mnvision.data.shard_datamodule import ShardDataModule
from mnvision.data.shard_items import shards_from
from mnvision.errors import UserError

logger = logging.getLogger(__name__)


def write_shards(cfg: dict[str, Any]) -> dict[str, int]:
    """Write a split of the data section as shards, with the ``index.json`` that says what is in them.

    Returns:
        The number of shards of the split and of pictures in them.
    """
    data = build.build_data(cfg, preprocessing=build.build_preprocessing(cfg))
    data.prepare_data()
    # The cells of places follow from a training's own wishes: they are not written.
    pictures = data.listed(cfg["split"]) if isinstance(data, PlaceDataModule) else data.load_split(cfg["split"])
    if not isinstance(pictures, LabelledPictures) or isinstance(data, DetectionDataModule):
        raise UserError(
            f"data={cfg['data']['name']}: its pictures have boxes to be found; shards hold a class or a place each"
        )
    if pictures.labels.ndim > 1:
        raise UserError(f"data={data.format}: its pictures have attributes; shards hold a class or a place each")
    if data.margin is not None or isinstance(data, ShardDataModule):
        raise UserError(
            f"data={data.format}: shards hold whole pictures from files; give data of such, and no data.crop_to_box"
        )
    megabytes = cfg["max_megabytes"]
    index = shards_from(
        pictures,
        data.image_folder(cfg["split"]),
        cfg["output_dir"],
        name=cfg["split"],
        pictures_per_shard=cfg["pictures_per_shard"],
        max_bytes=None if megabytes is None else int(megabytes * 1e6),
        seed=cfg["seed"],
        bad_images=cfg["data"]["bad_images"],
    )
    entries = json.loads(index.read_text(encoding="utf-8"))["shards"]
    own = [entry for entry in entries if entry["name"].startswith(f"{cfg['split']}-")]
    count = sum(entry["samples"] for entry in own)
    logger.info("%d pictures in %d shards: %s", count, len(own), index.parent)
    return {"shards": len(own), "pictures": count}
