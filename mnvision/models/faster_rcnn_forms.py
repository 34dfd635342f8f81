"""What the forms of Faster R-CNN differ in: the MobileNet paper's, and the one with a feature pyramid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mnvision.ops.boxes import OFFSET_WEIGHTS, OffsetWeights

Form = Literal["c4", "fpn"]


@dataclass(frozen=True)
class FormSettings:
    """What the two forms differ in, where the user does not say.

    Attributes:
        rpn_depth: Channels of the 3x3 convolution of the region proposal network.
        sizes: Square roots of the anchors' areas in pixels; three ratios each.
        rounded: Whether the anchors' corners are rounded to pixels.
        rpn_weights: Factors of the offsets of the region proposal network.
        rpn_threshold: Proposals of a smaller probability are dropped.
        proposals: Proposals a picture in prediction.
        train_proposals: Proposals a picture that are sampled from in training.
        pre_nms_top_k: Anchors of each level that go into their suppression, in prediction.
        train_pre_nms_top_k: The same in training.
        roi_batch: Proposals a picture that the box head learns from.
        crop: Cells along one side of a proposal's features.
        nms_iou: Overlap above which the weaker of two boxes of a class is dropped.
        score_threshold: Detections that score no more are dropped.
        smooth_l1: Where the box loss turns from a square into a line.
        box_weight: Weight of the box losses.
    """

    rpn_depth: int
    sizes: tuple[float, ...]
    rounded: bool
    rpn_weights: OffsetWeights
    rpn_threshold: float
    proposals: int
    train_proposals: int
    pre_nms_top_k: int
    train_pre_nms_top_k: int
    roi_batch: int
    crop: int
    nms_iou: float
    score_threshold: float
    smooth_l1: float
    box_weight: float


# c4: Huang et al. 2017 (arXiv:1611.10012, section 3) and TensorFlow's configurations of it, which the MobileNet paper
# follows. fpn: torchvision's fasterrcnn_mobilenet_v3_large_320_fpn.
FORMS: dict[str, FormSettings] = {
    "c4": FormSettings(
        rpn_depth=512,
        sizes=(64.0, 128.0, 256.0, 512.0),
        rounded=False,
        rpn_weights=OFFSET_WEIGHTS,
        rpn_threshold=0.0,
        proposals=300,
        train_proposals=300,
        pre_nms_top_k=2000,
        train_pre_nms_top_k=2000,
        roi_batch=64,
        crop=14,
        nms_iou=0.6,
        score_threshold=0.01,
        smooth_l1=1.0,
        box_weight=2.0,
    ),
    "fpn": FormSettings(
        rpn_depth=256,
        sizes=(32.0, 64.0, 128.0, 256.0, 512.0),
        rounded=True,
        rpn_weights=(1.0, 1.0, 1.0, 1.0),
        rpn_threshold=0.05,
        proposals=150,
        train_proposals=2000,
        pre_nms_top_k=150,
        train_pre_nms_top_k=2000,
        roi_batch=512,
        crop=7,
        nms_iou=0.5,
        score_threshold=0.05,
        smooth_l1=1 / 9,
        box_weight=1.0,
    ),
}
