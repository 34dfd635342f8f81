"""What every detector here has in common: pictures in, boxes in original pixels out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mnvision.backbones.base import Backbone
from mnvision.models.base import Pictures, TaskModel
from mnvision.ops.postprocess import Candidates, suppress
from mnvision.types import Detections, Preprocessing, UserError


class Detector(TaskModel):
    """A model whose results are boxes with classes.

    Args:
        backbone: Any backbone.
        num_classes: Classes without background.
        preprocessing: Input size, mean and standard deviation.
        score_threshold: Detections that score no more are dropped.
        nms_iou: Overlap above which the weaker of two boxes of a class is dropped.
        pre_nms_top_k: (box, class) pairs a picture that go into the suppression.
        max_detections: Detections a picture at most.

    Raises:
        UserError: If there is no class.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        num_classes: int,
        preprocessing: Preprocessing,
        score_threshold: float,
        nms_iou: float,
        pre_nms_top_k: int,
        max_detections: int,
    ) -> None:
        super().__init__(backbone, preprocessing=preprocessing)
        if num_classes < 1:
            raise UserError(f"a detector needs at least one class besides background, got num_classes={num_classes}")
        self.num_classes = num_classes
        self.score_threshold, self.nms_iou = score_threshold, nms_iou
        self.pre_nms_top_k, self.max_detections = pre_nms_top_k, max_detections

    def candidates(self, output: Any, *, threshold: float) -> Candidates:
        """The best (box, class) pairs of what ``forward`` gave, before suppression."""
        raise NotImplementedError

    @torch.no_grad()
    def predict(
        self,
        images: Pictures,
        *,
        original_sizes: Tensor | None = None,
        output: Any = None,
        score_threshold: float | None = None,
    ) -> list[Detections]:
        """Detect objects.

        Args:
            images: A batch [B, 3, S, S], uint8 or float in 0..255, or pictures uint8 [H, W, 3] RGB of any sizes.
            original_sizes: int64 [B, 2] (height, width) to which boxes are scaled back; by default that of the
                pictures given (of the input, for a batch).
            output: What ``forward`` gave for these images, if that is known already.
            score_threshold: Detections that score no more are dropped; by default the model's own.

        Returns:
            One ``Detections`` a picture, boxes in original pixels, best score first.
        """
        size = self.preprocessing.size
        if not isinstance(images, Tensor):
            original_sizes = torch.tensor([picture.shape[:2] for picture in images], dtype=torch.int64)
            images = self.stack(images)
        threshold = self.score_threshold if score_threshold is None else score_threshold
        found = self.candidates(self(images) if output is None else output, threshold=threshold)
        boxes, scores, labels = suppress(found, iou=self.nms_iou, max_detections=self.max_detections, image_size=size)
        if original_sizes is not None:
            height, width = original_sizes.to(boxes).unbind(1)
            boxes = boxes * (torch.stack((width, height, width, height), dim=1) / size).unsqueeze(1)
        counts = (scores > 0).sum(1).tolist()
        return [Detections(boxes[i, :n], scores[i, :n], labels[i, :n]) for i, n in enumerate(counts)]
