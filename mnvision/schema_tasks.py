"""Which keys ``task`` has for each task, and which values they may take."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from mnvision.value_types import (
    Count,
    Fraction,
    Limits,
    Natural,
    NotNegative,
    Pixels,
    Positive,
    Share,
    SmallPixels,
    Weights,
)

Level = Annotated[int, Limits(low=0, high=30)]  # of an S2 cell


@dataclasses.dataclass
class SSD:
    """Keys of ``task`` where its name is ``ssd``."""

    name: str  # membership is checked by schema.SECTIONS
    image_size: Pixels | None
    form: Literal["paper", "lite", "fpn"] | None
    weights: Weights | None
    loss: Literal["softmax", "sigmoid", "focal"] | None
    negative_ratio: Positive
    matching_iou: Share
    box_weight: NotNegative
    focal_alpha: Fraction | None
    focal_gamma: NotNegative | None
    score_threshold: Fraction
    nms_iou: Fraction
    pre_nms_top_k: Count
    max_detections: Count
    min_scale: Share | None
    max_scale: Share | None


@dataclasses.dataclass
class FasterRCNN:
    """Keys of ``task`` where its name is ``faster_rcnn``."""

    name: str
    image_size: Pixels | None
    form: Literal["c4", "fpn"] | None
    weights: Weights | None
    anchor_sizes: list[Positive] | None
    proposals: Count | None
    train_proposals: Count | None
    rpn_pre_nms_top_k: Count | None
    rpn_nms_iou: Fraction
    rpn_score_threshold: Fraction | None
    rpn_batch: Count
    rpn_high: Share
    rpn_low: Fraction
    roi_batch: Count | None
    roi_positive: Share
    roi_iou: Share
    box_weight: NotNegative | None
    score_threshold: Fraction | None
    nms_iou: Fraction | None
    pre_nms_top_k: Count
    max_detections: Count


@dataclasses.dataclass
class Classify:
    """Keys of ``task`` where its name is ``classify``."""

    name: str
    image_size: SmallPixels | None
    fit: Literal["crop", "stretch"] | None
    crop_share: Share | None
    weights: Weights | None
    dropout: Fraction | None
    label_smoothing: Fraction
    class_weights: Literal["none", "balanced"]
    noise: Literal["none", "soft_bootstrap", "hard_bootstrap", "filter"]
    trust: Share


@dataclasses.dataclass
class Distill(Classify):
    """Keys of ``task`` where its name is ``distill``."""

    teacher: Annotated[str, "a checkpoint of task=classify, or a name or a path of weights"]
    teacher_backbone: Annotated[str, "the name of a network"] | None
    teacher_alpha: Positive
    teacher_image_size: SmallPixels | None
    teacher_library: Literal["timm"] | None
    teacher_classes: list[str] | None
    temperature: Positive
    weight: Fraction
    feature_weight: NotNegative
    embedding_weight: NotNegative
    use_labels: bool
    cache_teacher: bool
    teacher_views: Count | None


@dataclasses.dataclass
class Embed:
    """Keys of ``task`` where its name is ``embed``."""

    name: str
    image_size: SmallPixels | None
    fit: Literal["crop", "stretch"] | None
    crop_share: Share | None
    weights: Weights | None
    embedding_size: Annotated[int, Limits(low=0)]
    pooling: Literal["mean", "depthwise"]
    dropout: Fraction
    flip: bool
    loss: Literal["arcface", "cosface", "triplet", "batch_hard", "contrastive", "none"]
    scale: Positive
    margin: Positive | None
    teacher: Annotated[str, "a checkpoint of task=embed"] | None
    teacher_weight: NotNegative
    relation_weight: NotNegative
    teacher_views: Count | None


@dataclasses.dataclass
class Attributes:
    """Keys of ``task`` where its name is ``attributes``."""

    name: str
    image_size: SmallPixels | None
    fit: Literal["crop", "stretch"] | None
    crop_share: Share | None
    weights: Weights | None
    dropout: Fraction | None
    positive_weights: Literal["none", "balanced"]
    teacher: Annotated[str, "a checkpoint of task=attributes"] | None
    weight: Share
    use_labels: bool
    teacher_views: Count | None


@dataclasses.dataclass
class Geolocate:
    """Keys of ``task`` where its name is ``geolocate``."""

    name: str
    image_size: SmallPixels | None
    fit: Literal["crop", "stretch"] | None
    crop_share: Share | None
    weights: Weights | None
    dropout: Fraction | None
    max_photos: Count
    min_photos: Natural
    min_level: Level
    max_level: Level
    answer: Literal["mean", "center"]
    parent_level: Level | None
    soft_labels_km: Positive | None


TASKS: dict[str, type] = {
    "ssd": SSD,
    "faster_rcnn": FasterRCNN,
    "classify": Classify,
    "distill": Distill,
    "embed": Embed,
    "attributes": Attributes,
    "geolocate": Geolocate,
}
# Of each task the number that is largest for the best checkpoint.
MONITOR = {
    "ssd": "val/map",
    "faster_rcnn": "val/map",
    "classify": "val/top1",
    "distill": "val/top1",
    "embed": "val/auc",
    "attributes": "val/mean_ap",
    "geolocate": "val/within_750km",
}
