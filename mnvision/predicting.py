"""What the command predict does: a model is used on picture files."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mnvision import build
from mnvision.checkpoint import SECTION, model_from_checkpoint, read_checkpoint
from mnvision.data.pictures import find_pictures
from mnvision.errors import UserError
from mnvision.files import write_text
from mnvision.hardware import choose_device, keep_freed_memory
from mnvision.inference import for_inference
from mnvision.kinds import KINDS, kind_of
from mnvision.ops.image import read_image
from mnvision.outputs import annotated_names, check_run_folder, describe_run, model_line, run_folder, write_picture
from mnvision.recall import settle_model
from mnvision.wording import counted

logger = logging.getLogger(__name__)


def predict(cfg: dict[str, Any]) -> list[dict[str, Any]]:
    """Use a model on picture files; write annotated copies and one JSON file, in original pixels.

    Returns:
        What the JSON file holds: one entry a picture.

    Raises:
        UserError: If pictures could not be read; the others are written all the same.
    """
    device = choose_device(cfg["trainer"]["accelerator"])
    pictures = find_pictures(cfg["source"])
    check_run_folder(cfg, sources={path.parent for path in pictures})
    if cfg["ckpt"]:
        saved = read_checkpoint(cfg["ckpt"])
        model = model_from_checkpoint(saved, path=cfg["ckpt"])
        settle_model(model, cfg, saved[SECTION]["config"])
    elif cfg["task"]["weights"]:
        model = build.build_model(cfg, classes=None, category_ids=None).eval()
    else:
        raise UserError(
            "there is no model to predict with: give ckpt=PATH, or task.weights=PATH for pretrained weights"
        )
    kind = kind_of(model, command="predict")
    for key in {other.CHOSEN_BY for other in KINDS.values()} & set(cfg["overrides"]) - {kind.CHOSEN_BY}:
        logger.warning("%s has no effect: it is not for models of task %s", key, model.spec.task)
    if cfg["trainer"]["keep_memory"]:
        keep_freed_memory()
    fast = for_inference(model, device=device, batch_size=cfg["batch_size"])
    folder = run_folder({**cfg, "task": {"name": model.spec.task}})
    describe_run(model, cfg=cfg, folder=folder, command="predict")
    logger.info("%s", model_line(model, precision="32"))
    names = dict(zip(pictures, annotated_names(pictures), strict=True))
    entries: list[dict[str, Any]] = []
    found: list[Any] = []
    failures: list[str] = []
    started = time.perf_counter()
    for batch in _batches(pictures, size=cfg["batch_size"], failures=failures):
        results = kind.predict(fast, [image for _, image in batch], cfg=cfg)
        for (path, image), result in zip(batch, results, strict=True):
            entry: dict[str, Any] = {"file": str(path)}
            drawn = kind.draw(image, result, spec=model.spec)
            if drawn is not None:
                write_picture(folder / "pictures" / names[path], drawn)
                entry["annotated"] = names[path]
            entry |= {"height": image.shape[0], "width": image.shape[1]}
            entries.append(entry | kind.entry(result, spec=model.spec))
            found.append(result)
    seconds = time.perf_counter() - started
    said = kind.write_entries(entries, found, folder, model=model, cfg=cfg)
    write_text(folder / "predictions.json", json.dumps(entries, indent=1))
    logger.info("%s, %.1f pictures a second", said, len(entries) / seconds)
    logger.info("written: %s", folder)
    if failures:
        reasons = "\n".join(f"  {reason}" for reason in failures)
        raise UserError(f"{len(failures)} of {counted(len(pictures), 'picture')} left out:\n{reasons}")
    return entries


def _batches(pictures: Sequence[Path], *, size: int, failures: list[str]) -> Iterator[list[tuple[Path, np.ndarray]]]:
    batch: list[tuple[Path, np.ndarray]] = []
    for path in pictures:
        try:
            batch.append((path, read_image(path)))
        except UserError as error:
            failures.append(str(error))
            continue
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
