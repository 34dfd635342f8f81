"""What a teacher says of every training picture, kept on disk: asked once, used in every epoch and every later run."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mnvision.annotations import LabelledPictures
from mnvision.cache import cache_dir
from mnvision.models.distillation import Distillation, Teacher
from mnvision.types import Batch, Preprocessing

logger = logging.getLogger(__name__)


class TeacherCache:
    """Logits [I, K] and embeddings [I, C] of the pictures of a split, in a file that is read as needed.

    Args:
        file: What ``keep_outputs`` wrote.
        classes: K.
    """

    def __init__(self, file: Path, *, classes: int) -> None:
        self.values = np.load(file, mmap_mode="r")
        self.classes = classes

    def __deepcopy__(self, memo: dict[int, Any]) -> TeacherCache:
        """Itself: a running mean of a model copies what the model holds, and this may be larger than the memory."""
        return self

    def __call__(self, image_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, K] and embeddings [B, C] of pictures int64 [B]."""
        rows = torch.from_numpy(self.values[image_ids.cpu().numpy()])
        return rows[:, : self.classes], rows[:, self.classes :]


@torch.no_grad()
def keep_outputs(
    objective: Distillation, batches: Iterable[Batch], *, count: int, file: Path, device: torch.device | str
) -> Path:
    """Ask the teacher for all pictures of a split and write the file, if it is not there yet.

    Args:
        objective: Holds the teacher.
        batches: The split in order, as the student will see it.
        count: Pictures in it.
        file: Where to keep the outputs, float32 [I, K + C].
        device: Where to ask.
    """
    if file.is_file():
        logger.info("teacher: its outputs for %d pictures are in %s", count, file)
        return file
    objective.to(device)
    values: np.ndarray | None = None
    for batch in batches:
        logits, embeddings, _ = objective.ask(batch.images.to(device))
        rows = torch.cat((logits, embeddings), dim=1).float().cpu().numpy()
        if values is None:
            values = np.full((count, rows.shape[1]), np.nan, np.float32)
        values[batch.targets.image_ids.numpy()] = rows
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}.part.npy")
    np.save(part, values if values is not None else np.zeros((0, 0), np.float32))
    part.replace(file)
    logger.info("teacher: asked for %d pictures once, kept in %s", count, file)
    return file


def outputs_file(
    teacher: Teacher, pictures: LabelledPictures, *, folder: Path, seen: Preprocessing, margin: float | None
) -> Path:
    """Where a teacher's outputs for a split belong: a name that changes with all that they depend on.

    Args:
        teacher: The network with its weights.
        pictures: The split; size and time of its files count.
        folder: Of the pictures.
        seen: How pictures are fitted to the student's input.
        margin: What is shown around the boxes; None where the whole pictures are.
    """
    digest = hashlib.sha256(repr((str(folder), seen, margin, teacher.spec, teacher.preprocessing)).encode())
    for array in (pictures.file_names, None if margin is None else pictures.boxes, pictures.pixels):
        digest.update(b"none" if array is None else np.ascontiguousarray(array).tobytes())
    if pictures.pixels is None:
        for index in range(len(pictures)):
            with contextlib.suppress(OSError):  # reading it will tell
                stat = (folder / pictures.file_name(index)).stat()
                digest.update(repr((stat.st_size, stat.st_mtime_ns)).encode())
    for name, tensor in teacher.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return cache_dir() / "teachers" / f"{digest.hexdigest()[:24]}.npy"
