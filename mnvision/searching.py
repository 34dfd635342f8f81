"""The commands ``search`` and ``verify``: which pictures of an index are nearest, and whether two show the same."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from mnvision import faiss_search, index
from mnvision.checkpoint import load_model
from mnvision.class_pictures import NEUTRAL, Caption
from mnvision.config import to_yaml
from mnvision.console import print_result
from mnvision.data.pictures import find_pictures
from mnvision.errors import UserError
from mnvision.files import write_text
from mnvision.hardware import choose_device
from mnvision.inference import for_inference
from mnvision.models.base import TaskModel, check_finite
from mnvision.models.embedder import Embedder
from mnvision.ops.image import read_image
from mnvision.outputs import annotated_names, check_run_folder, run_folder, write_origin, write_picture
from mnvision.pair_pictures import neighbours_sheet
from mnvision.wording import counted

logger = logging.getLogger(__name__)

BACKENDS = {"numpy": index, "faiss": faiss_search}
_TOLD, _TOLD_NEAREST = 5, 3  # on the terminal: pictures, and how many of what was found for each


class Verdict(NamedTuple):
    """What ``verify`` found: the squared distance of two pictures, and whether they show the same.

    Without a threshold nobody knows the latter, and both are None.
    """

    distance: float
    threshold: float | None
    same: bool | None


def search(cfg: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Find the nearest pictures of an index for each picture; draw a sheet of each, and write ``results.json``.

    A picture that is in the index itself, by its path, is not among those found for it.

    Returns:
        What the JSON file holds: one entry a picture.

    Raises:
        UserError: The index was made by another model; or pictures could not be read, and the others are done.
    """
    pictures = find_pictures(cfg["source"])
    check_run_folder(cfg, sources={path.parent for path in pictures})
    model = load_model(cfg["ckpt"], task="embed")
    known = index.read_index(cfg["index"])
    if isinstance(model, Embedder):  # the queries have to be embedded as the index was
        model.flip = known.flip
        model.crop_share = known.crop_share
    index.check_model(known, model)
    backend = BACKENDS[cfg["backend"]]
    prepared = backend.prepare(known.embeddings)
    fast = for_inference(model, device=choose_device(cfg["accelerator"]), batch_size=cfg["batch_size"])
    folder = run_folder({**cfg, "task": {"name": "search"}})
    write_text(folder / "config.yaml", to_yaml(cfg))
    write_origin(folder, command="search", words=cfg.get("override_words", []))
    place_of = {os.path.abspath(path): place for place, path in enumerate(known.paths)}
    names = dict(zip(pictures, annotated_names(pictures), strict=True))
    entries: list[dict[str, Any]] = []
    failures: list[str] = []
    for start in range(0, len(pictures), cfg["batch_size"]):
        batch = _read(pictures[start : start + cfg["batch_size"]], failures=failures)
        if not batch:
            continue
        vectors = embed(fast, [image for _, image in batch])
        # One more than is wanted: the picture itself may be among them.
        found = backend.nearest(prepared, vectors, count=cfg["top_k"] + 1)
        for (path, image), similar, places in zip(batch, *found, strict=True):
            own = place_of.get(os.path.abspath(path), -1)
            rows = [row for row in range(len(places)) if places[row] != own][: cfg["top_k"]]
            near = [_neighbour(known.paths[places[row]], float(similar[row])) for row in rows]
            write_picture(folder / "pictures" / names[path], _sheet(path, image, near))
            entries.append({"file": str(path), "sheet": names[path], "nearest": near})
    write_text(folder / "results.json", json.dumps(entries, indent=1), errors="surrogateescape")
    logger.info("%s looked for among %s", counted(len(entries), "picture"), f"{len(known.paths):,}")
    if entries:
        print_result(_told(entries))
    logger.info("written: %s", folder)
    if failures:
        reasons = "\n".join(f"  {reason}" for reason in failures)
        raise UserError(f"{len(failures)} of {counted(len(pictures), 'picture')} left out:\n{reasons}")
    return entries


def verify(cfg: Mapping[str, Any]) -> Verdict:
    """Print how far two pictures are apart, and whether that is near enough to show the same.

    The threshold is ``threshold``, else the one that the run of the checkpoint found on its validation pairs.
    """
    model = load_model(cfg["ckpt"], task="embed")
    images = [read_image(Path(cfg[key])) for key in ("first", "second")]
    vectors = embed(model.to(choose_device(cfg["accelerator"])), images).astype(np.float64)
    distance = float(np.square(vectors[0] - vectors[1]).sum())
    threshold, whose = cfg["threshold"], "as given"
    if threshold is None:
        threshold, whose = _threshold_of_run(Path(cfg["ckpt"])), "of the validation of the run's best.ckpt"
    same = None if threshold is None else distance < threshold
    lines = [f"{cfg['first']}\n{cfg['second']}", f"squared distance {distance:.4f}, of 0 to 4"]
    if threshold is None:
        lines.append("no threshold is known of this checkpoint: give threshold=..., which mnvision eval measures")
    else:
        lines += [f"threshold {threshold:.4f}, {whose}", "same" if same else "different"]
    print_result("\n".join(lines))
    return Verdict(distance, threshold, same)


def embed(model: TaskModel, images: Sequence[np.ndarray]) -> np.ndarray:
    """The embeddings of pictures uint8 [H, W, 3]: float32 [B, D] of unit length.

    Raises:
        UserError: The model gives an embedding that is not finite.
    """
    with torch.no_grad():
        vectors = model.predict(images).float()
    check_finite(vectors, what="embeddings")
    return vectors.cpu().numpy()


def _read(paths: Sequence[Path], *, failures: list[str]) -> list[tuple[Path, np.ndarray]]:
    batch = []
    for path in paths:
        try:
            batch.append((path, read_image(path)))
        except UserError as error:
            failures.append(str(error))
    return batch


def _neighbour(path: str, similarity: float) -> dict[str, Any]:
    # Of unit vectors the squared distance is 2 - 2 cos.
    distance = max(0.0, 2 - 2 * similarity)
    return {"file": path, "similarity": round(similarity, 6), "distance": round(distance, 6)}


def _told(entries: Sequence[Mapping[str, Any]]) -> str:
    """The nearest of the first pictures as lines: squared distance and file."""
    lines = []
    for entry in entries[:_TOLD]:
        near = [f"  {one['distance']:.4f}  {one['file']}" for one in entry["nearest"][:_TOLD_NEAREST]]
        lines += [entry["file"], *(near or ["  nothing: the index holds this picture alone"])]
    if len(entries) > _TOLD:
        lines.append(f"{counted(len(entries) - _TOLD, 'more picture')} in results.json")
    return "\n".join(lines)


def _sheet(path: Path, image: np.ndarray, near: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """The picture and its neighbours; those that can no longer be read are grey."""
    images: list[np.ndarray | None] = []
    for one in near:
        try:
            images.append(read_image(Path(one["file"])))
        except UserError as error:
            logger.warning("not drawn: %s", error)
            images.append(None)
    lines = [[Caption("looked for", "", NEUTRAL), Caption(path.name)]]
    lines += [[Caption("distance", f"{one['distance']:.3f}"), Caption(Path(one["file"]).name)] for one in near]
    return neighbours_sheet(image, images, lines)


def _threshold_of_run(ckpt: Path) -> float | None:
    """What the run of a checkpoint measured, from the ``metrics.json`` of its folder; None where there is none."""
    try:
        value = json.loads((ckpt.parent.parent / "metrics.json").read_text(encoding="utf-8"))["val/threshold"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return float(value) if isinstance(value, int | float) and value >= 0 else None
