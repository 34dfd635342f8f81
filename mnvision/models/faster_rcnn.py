"""Faster R-CNN (Ren et al. 2015, arXiv:1506.01497) on any backbone: as in the MobileNet paper, and with a pyramid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mnvision.backbones.base import Backbone, map_sizes
from mnvision.models.detector import Detector
from mnvision.models.faster_rcnn_forms import FORMS, Form
from mnvision.models.faster_rcnn_heads import BoxHead, FasterRCNNOutput, RPNHead
from mnvision.models.fpn import FPN
from mnvision.ops.anchors import grid_anchors
from mnvision.ops.matching import IGNORED, match_regions, sample
from mnvision.ops.postprocess import Candidates, best_class_candidates, best_proposals, suppress
from mnvision.ops.region_losses import proposal_losses, region_losses
from mnvision.ops.regions import crop_regions
from mnvision.types import Preprocessing, Targets, UserError

FPN_DEPTH = 256
FPN_STRIDES = (16, 32)
CROPS_AT_ONCE = 512  # 200 MB of c4's crops of 512 channels; those of 24 pictures together would take 2.9 GB


class FasterRCNN(Detector):
    """A two-stage detector: a network proposes regions, a second one names and refines each.

    ``c4`` proposes on the map of stride 16, crops it, and runs the backbone's last stage on every crop, as the
    MobileNet paper's Table 13 has it. ``fpn`` merges the maps of strides 16 and 32 into a pyramid and crops from it.

    Args:
        backbone: Any backbone with levels at strides 16 and 32.
        num_classes: Classes without background.
        preprocessing: Input size, mean and standard deviation.
        form: ``c4`` or ``fpn``.
        anchor_sizes: Square roots of the anchors' areas in input pixels, rising; three shapes each. None, wherever it
            is allowed, is the form's own (``faster_rcnn_forms.FORMS``).
        proposals: Proposals a picture in prediction.
        train_proposals: Proposals a picture that are sampled from in training.
        rpn_pre_nms_top_k: Anchors of each level that go into their suppression, in prediction.
        rpn_nms_iou: Overlap above which the weaker of two proposals is dropped.
        rpn_score_threshold: Proposals of a smaller probability are dropped.
        rpn_batch: Anchors a picture that the region proposal network learns from; up to half are positive.
        rpn_high: Smallest overlap of an anchor that is an object.
        rpn_low: Overlap below which an anchor is background.
        roi_batch: Proposals a picture that the box head learns from.
        roi_positive: Share of them that may be objects.
        roi_iou: Smallest overlap of a proposal that is an object.
        box_weight: Weight of the box losses of both stages.
        score_threshold: Detections that score no more are dropped.
        nms_iou: Overlap above which the weaker of two boxes of a class is dropped.
        pre_nms_top_k: (proposal, class) pairs a picture that go into the suppression.
        max_detections: Detections a picture at most.

    Raises:
        UserError: If the backbone lacks a level, or has no stages that ``c4`` can run one by one; or a value is out
            of range.
    """

    anchors: Tensor

    def __init__(
        self,
        backbone: Backbone,
        *,
        num_classes: int,
        preprocessing: Preprocessing,
        form: Form = "fpn",
        anchor_sizes: Sequence[float] | None = None,
        proposals: int | None = None,
        train_proposals: int | None = None,
        rpn_pre_nms_top_k: int | None = None,
        rpn_nms_iou: float = 0.7,
        rpn_score_threshold: float | None = None,
        rpn_batch: int = 256,
        rpn_high: float = 0.7,
        rpn_low: float = 0.3,
        roi_batch: int | None = None,
        roi_positive: float = 0.25,
        roi_iou: float = 0.5,
        box_weight: float | None = None,
        score_threshold: float | None = None,
        nms_iou: float | None = None,
        pre_nms_top_k: int = 1000,
        max_detections: int = 100,
    ) -> None:
        if form not in FORMS:
            raise UserError(f"task.form of faster_rcnn must be one of {', '.join(FORMS)}; got {form!r}")
        if not rpn_low <= rpn_high:
            raise UserError(f"task.rpn_low {rpn_low} must not be above task.rpn_high {rpn_high}")
        settings = FORMS[form]
        sizes = settings.sizes if anchor_sizes is None else tuple(anchor_sizes)
        if not sizes or list(sizes) != sorted({size for size in sizes if size > 0}):
            raise UserError(f"task.anchor_sizes must be rising numbers of pixels, at least one; got {list(sizes)}")

        def own(value: float | None, name: str) -> float:
            return getattr(settings, name) if value is None else value

        super().__init__(
            backbone,
            num_classes=num_classes,
            preprocessing=preprocessing,
            score_threshold=own(score_threshold, "score_threshold"),
            nms_iou=own(nms_iou, "nms_iou"),
            pre_nms_top_k=pre_nms_top_k,
            max_detections=max_detections,
        )
        self.settings, self.form = settings, form
        self.proposals = int(own(proposals, "proposals"))
        self.train_proposals = int(own(train_proposals, "train_proposals"))
        self.rpn_pre_nms_top_k = int(own(rpn_pre_nms_top_k, "pre_nms_top_k"))
        self.rpn_nms_iou, self.rpn_score_threshold = rpn_nms_iou, own(rpn_score_threshold, "rpn_threshold")
        self.rpn_batch, self.rpn_high, self.rpn_low = rpn_batch, rpn_high, rpn_low
        self.roi_batch, self.roi_positive, self.roi_iou = int(own(roi_batch, "roi_batch")), roi_positive, roi_iou
        self.box_weight = own(box_weight, "box_weight")

        strides = [level.stride for level in backbone.levels]
        if not set(FPN_STRIDES) <= set(strides):
            raise UserError(f"Faster R-CNN needs maps at strides {FPN_STRIDES}; {backbone.name} has {strides}")
        last = backbone.levels[-1].channels
        if form == "c4":
            if not backbone.sequential:
                other = "a backbone of list_backbones()" if backbone.opaque else "backbone.taps=stages"
                raise UserError(
                    f"task.form=c4 runs the backbone's stages one by one, and those of {backbone.name} do not give its "
                    f"maps that way; take {other}, or task.form=fpn"
                )
            self.levels = [backbone.levels[-2]]
            self.box_head = BoxHead(last, hidden=0, num_classes=num_classes)
        else:
            self.pyramid = FPN(backbone.levels[-2:], depth=FPN_DEPTH)
            self.levels = self.pyramid.levels
            self.box_head = BoxHead(FPN_DEPTH * settings.crop**2, hidden=1024, num_classes=num_classes)
        self.rpn = RPNHead(
            self.levels[0].channels,
            settings.rpn_depth,
            anchors=3 * len(sizes),
            columns=2 if form == "c4" else 1,
        )
        grids = map_sizes(preprocessing.size, self.levels)
        self.anchor_counts = [3 * len(sizes) * grid**2 for grid in grids]
        anchors = grid_anchors(grids, [level.stride for level in self.levels], sizes=sizes, rounded=settings.rounded)
        self.register_buffer("anchors", anchors, persistent=False)

    def forward(self, images: Tensor) -> FasterRCNNOutput:
        """Map images [B, 3, S, S], uint8 or float in 0..255, to the tensors of ``FasterRCNNOutput``."""
        maps = self._features(images)
        objectness, offsets = self.rpn(maps)
        found = self._propose(objectness, offsets, count=self.proposals, top_k=self.rpn_pre_nms_top_k)
        logits, boxes = self._classify_found(maps, found)
        return FasterRCNNOutput(objectness, offsets, found.boxes, found.scores, logits, boxes)

    def losses(self, images: Tensor, targets: Targets, *, output: FasterRCNNOutput | None = None) -> dict[str, Tensor]:
        """Objectness and box loss of the anchors, class and box loss of the proposals, over samples of both.

        Args:
            images: [B, 3, S, S], uint8 or float in 0..255.
            targets: The ground truth, padded; pictures may be empty, even all of them.
            output: What ``forward`` gave for these images: the second stage is then judged on the proposals of
                prediction, and the samples are the same every time. Without it, as in training, it learns from those
                of training and from the true boxes.
        """
        generator = None if output is None else torch.Generator(images.device).manual_seed(0)
        if output is None:
            maps = self._features(images)
            objectness, anchor_offsets = self.rpn(maps)
            with torch.no_grad():
                found = self._propose(
                    objectness, anchor_offsets, count=self.train_proposals, top_k=self.settings.train_pre_nms_top_k
                )
            proposals, usable = torch.cat((found.boxes, targets.boxes), dim=1), found.scores > 0
            usable = torch.cat((usable, (targets.labels > 0) & ~targets.crowd), dim=1)
        else:
            objectness, anchor_offsets = output.objectness, output.anchor_offsets
            proposals, usable = output.proposals, output.proposal_scores > 0
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            labels, index = match_regions(proposals, targets, high=self.roi_iou, low=self.roi_iou, best=False)
            labels = torch.where(usable, labels, IGNORED)
            chosen = sample(labels, count=self.roi_batch, positive_share=self.roi_positive, generator=generator)
            batch, rows = chosen.nonzero(as_tuple=True)
        if output is None:
            logits, offsets = self._classify(maps, proposals[batch, rows], batch)
        else:
            logits, offsets = output.logits[batch, rows], output.offsets[batch, rows]
        with torch.autocast(images.device.type, enabled=False):
            boxes = targets.boxes[batch, index[batch, rows]] if targets.boxes.shape[1] else proposals[batch, rows]
            objects, moved = proposal_losses(
                objectness.float(),
                anchor_offsets.float(),
                targets,
                anchors=self.anchors,
                weights=self.settings.rpn_weights,
                high=self.rpn_high,
                low=self.rpn_low,
                count=self.rpn_batch,
                beta=self.settings.smooth_l1,
                generator=generator,
            )
            named, refined = region_losses(
                logits.float(),
                offsets.float(),
                labels[batch, rows],
                proposals[batch, rows],
                boxes=boxes,
                beta=self.settings.smooth_l1,
            )
        return {
            "objectness_loss": objects,
            "proposal_loss": self.box_weight * moved,
            "class_loss": named,
            "box_loss": self.box_weight * refined,
        }

    def candidates(self, output: FasterRCNNOutput, *, threshold: float) -> Candidates:
        """The best (proposal, class) pairs of what ``forward`` gave, before suppression."""
        scores = output.logits.float().softmax(-1)[..., 1:]
        scores = scores.masked_fill((output.proposal_scores <= 0).unsqueeze(-1), -1.0)
        return best_class_candidates(
            scores,
            output.offsets.float(),
            output.proposals,
            image_size=self.preprocessing.size,
            threshold=threshold,
            top_k=self.pre_nms_top_k,
        )

    def _features(self, images: Tensor) -> list[Tensor]:
        """The maps of ``self.levels``."""
        features = self.normalise(images)
        if self.form == "fpn":
            return self.pyramid(self.backbone(features)[-2:])
        for stage in self.backbone.stages[:-1]:
            for part in stage:
                features = part(features)
        return [features]

    def _propose(self, objectness: Tensor, offsets: Tensor, *, count: int, top_k: int) -> Candidates:
        found = best_proposals(
            objectness.float(),
            offsets.float(),
            self.anchors,
            counts=self.anchor_counts,
            weights=self.settings.rpn_weights,
            image_size=self.preprocessing.size,
            threshold=self.rpn_score_threshold,
            top_k=top_k,
        )
        return suppress(
            found, iou=self.rpn_nms_iou, max_detections=count, image_size=self.preprocessing.size, few_labels=True
        )

    def _classify_found(self, maps: list[Tensor], found: Candidates) -> tuple[Tensor, Tensor]:
        """Logits [B, P, K+1] and offsets [B, P, K, 4] of proposals; zeros where there are fewer."""
        pictures, room = found.scores.shape
        # Most pictures have fewer proposals than there is room for, and the second stage is most of the work.
        rows = (
            torch.arange(pictures * room, device="meta")  # the profiler counts as many as there may be
            if found.scores.is_meta
            else (found.scores.flatten() > 0).nonzero().squeeze(1)
        )
        logits, offsets = self._classify(maps, found.boxes.flatten(0, 1)[rows], rows // room)
        spread = (
            values.new_zeros(pictures * room, *values.shape[1:]).index_copy(0, rows, values)
            for values in (logits, offsets)
        )
        logits, offsets = (values.unflatten(0, (pictures, room)) for values in spread)
        return logits, offsets

    def _classify(self, maps: list[Tensor], boxes: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [R, K+1] and offsets [R, K, 4] of boxes [R, 4] xyxy, each in the picture that ``batch`` [R] names."""
        # A gradient needs all crops kept, BatchNorm in training sees all of them, and the profiler counts layers once.
        if self.training or torch.is_grad_enabled() or boxes.is_meta:
            return self._classify_crops(maps, boxes, batch)
        chunks = zip(boxes.split(CROPS_AT_ONCE), batch.split(CROPS_AT_ONCE), strict=True)
        logits, offsets = zip(*(self._classify_crops(maps, *chunk) for chunk in chunks), strict=True)
        return torch.cat(logits), torch.cat(offsets)

    def _classify_crops(self, maps: list[Tensor], boxes: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
        crops = crop_regions(maps, self.levels, boxes, batch, side=self.settings.crop)
        if self.form == "fpn":
            return self.box_head(crops.flatten(1))
        for part in self.backbone.stages[-1]:
            crops = part(crops)
        return self.box_head(crops.mean(dim=(2, 3)))
