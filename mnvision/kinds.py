"""Kinds of tasks: what the commands do differently for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mnvision import attributes, classification, detection, embedding, geolocation
from mnvision.data.splits import Split
from mnvision.errors import UserError
from mnvision.models.base import ModelSpec, TaskModel
from mnvision.report_parts import ReportPlan


class Kind(Protocol):
    """What a module such as ``detection`` offers. A metric is one that ``make_metric`` made.

    Attributes:
        CHOSEN_BY: The key that says how much ``predict`` tells of a picture.
        COLUMNS: What the line of an epoch tells: title and name of the number.
        PLAN: What the report page shows.
    """

    CHOSEN_BY: str
    COLUMNS: Mapping[str, str]
    PLAN: ReportPlan

    def make_metric(self, truth: Any) -> Any:
        """What judges the predictions for a split, from what the data module knows of it."""

    def summary(self, metric: Any, numbers: Mapping[str, float]) -> str:
        """The numbers as text for the terminal."""

    def by_class(self, metric: Any) -> tuple[dict[str, float], dict[str, float]]:
        """The bars of the report page and the ticks on them, by class name."""

    def write_results(self, metric: Any, folder: Path) -> None:
        """Write what was predicted, and what explains the numbers."""

    def write_pictures(
        self, model: TaskModel, data: Any, split: Split, *, metric: Any, folder: Path, count: int
    ) -> list[Path]:
        """Draw predictions and truth of some pictures of a split into ``pictures/``."""

    def predict(self, model: Any, images: Sequence[np.ndarray], *, cfg: Mapping[str, Any]) -> Sequence[Any]:
        """What is found in pictures uint8 [H, W, 3]: one result each."""

    def draw(self, image: np.ndarray, found: Any, *, spec: ModelSpec) -> np.ndarray | None:
        """A picture with its result on it; None where it cannot be seen."""

    def entry(self, found: Any, *, spec: ModelSpec) -> dict[str, Any]:
        """A result as plain values."""

    def write_entries(
        self,
        entries: Sequence[dict[str, Any]],
        found: Sequence[Any],
        folder: Path,
        *,
        model: TaskModel,
        cfg: Mapping[str, Any],
    ) -> str:
        """Write other forms than ``predictions.json``, whose entries may be completed; returns what was found."""


# By the task of the model.
KINDS: dict[str, Kind] = {
    "ssd": detection,
    "faster_rcnn": detection,
    "classify": classification,
    "embed": embedding,
    "attributes": attributes,
    "geolocate": geolocation,
}


def kind_of(model: TaskModel, *, command: str) -> Kind:
    """The kind of a model's task.

    Raises:
        UserError: If the command cannot handle it.
    """
    if model.spec.task not in KINDS:
        raise UserError(f"{command} cannot handle a model of task {model.spec.task}; it knows {', '.join(KINDS)}")
    return KINDS[model.spec.task]
