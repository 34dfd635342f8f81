"""SSD (Liu et al. 2016, arXiv:1512.02325) on any backbone: as in the MobileNet paper, as SSDLite, and on a pyramid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from mnvision.backbones.base import Backbone, map_sizes
from mnvision.backbones.layers import ConvNormAct, LayerOptions, SeparableConv, initialise
from mnvision.models.detector import Detector
from mnvision.models.fpn import FPN
from mnvision.models.ssd_pyramid import SharedHeads
from mnvision.ops import losses
from mnvision.ops.anchors import pyramid_anchors, pyramid_shapes, ssd_anchors, ssd_shapes
from mnvision.ops.boxes import encode
from mnvision.ops.matching import match
from mnvision.ops.postprocess import Candidates, best_candidates
from mnvision.types import FeatureLevel, Preprocessing, Targets, UserError

EXTRA_DEPTHS = (512, 256, 256, 128)
TAPPED_STRIDES = (16, 32)
PYRAMID_STRIDES = (8, 16, 32)
PYRAMID_DEPTH = 256
PYRAMID_ADDED = 2
# With focal loss every class starts at a probability of 0.01 (arXiv:1708.02002, section 3.3).
FOCAL_PRIOR = -4.6

Form = Literal["paper", "lite", "fpn"]
# The class loss of each form, where the user does not say.
LOSSES: dict[str, losses.ClassLoss] = {"paper": "softmax", "lite": "softmax", "fpn": "focal"}


class SSDOutput(NamedTuple):
    """What ``SSD.forward`` returns: logits [B, A, K+1] with background in column 0, and offsets [B, A, 4]."""

    logits: Tensor
    offsets: Tensor


class Extra(nn.Module):
    """One more feature map of half the side: 1x1 to half the depth, then 3x3 at stride 2 (separable in SSDLite)."""

    def __init__(self, in_channels: int, out_channels: int, *, form: Form, options: LayerOptions) -> None:
        super().__init__()
        half = out_channels // 2
        self.reduce = ConvNormAct(in_channels, half, kernel=1, options=options)
        self.expand: nn.Module = (
            ConvNormAct(half, out_channels, kernel=3, stride=2, options=options)
            if form == "paper"
            else SeparableConv(half, out_channels, stride=2, options=options)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, O, ceil(H/2), ceil(W/2)]."""
        return self.expand(self.reduce(features))


class ExtraMaps(nn.ModuleList):
    """Adds the extra maps to those of the backbone.

    Args:
        inputs: The levels that the backbone gives, finest first.
        form: See ``Extra``.
        backbone: Whose width multiplier and layer options they follow.

    Attributes:
        levels: What comes out, finest first.
    """

    def __init__(self, inputs: Sequence[FeatureLevel], *, form: Form, backbone: Backbone) -> None:
        super().__init__()
        self.levels = [*inputs]
        for depth in EXTRA_DEPTHS:
            previous = self.levels[-1]
            channels = backbone.scale(depth, minimum=16)
            self.append(Extra(previous.channels, channels, form=form, options=backbone.options))
            self.levels.append(FeatureLevel(channels, previous.stride * 2))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Map one [B, C_i, H_i, W_i] per input level to one per level of ``levels``."""
        outputs = [*maps]
        for extra in self:
            outputs.append(extra(outputs[-1]))
        return outputs


class Predictor(nn.Sequential):
    """A convolution with bias that predicts from one map: 1x1, behind a 3x3 depthwise layer in SSDLite."""

    def __init__(self, in_channels: int, out_channels: int, *, form: Form, options: LayerOptions) -> None:
        super().__init__()
        if form == "lite":
            self.depthwise = ConvNormAct(in_channels, in_channels, kernel=3, groups=in_channels, options=options)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1)


class Head(nn.Module):
    """The predictors of one level: class logits and box offsets of each anchor of each cell."""

    def __init__(self, in_channels: int, *, anchors: int, columns: int, form: Form, options: LayerOptions) -> None:
        super().__init__()
        self.classes = Predictor(in_channels, anchors * columns, form=form, options=options)
        self.boxes = Predictor(in_channels, anchors * 4, form=form, options=options)
        self.columns = columns

    def forward(self, features: Tensor) -> SSDOutput:
        """Map [B, C, H, W] to logits [B, H*W*n, K+1] and offsets [B, H*W*n, 4]."""
        batch = len(features)
        # [B, n*(K+1), H, W] -> [B, H*W*n, K+1]: free where the map is channels_last already
        logits = self.classes(features).permute(0, 2, 3, 1).reshape(batch, -1, self.columns)
        offsets = self.boxes(features).permute(0, 2, 3, 1).reshape(batch, -1, 4)
        return SSDOutput(logits, offsets)


class LevelHeads(nn.ModuleList):
    """One ``Head`` a level."""

    def forward(self, maps: Sequence[Tensor]) -> SSDOutput:
        """Map one [B, C_i, H_i, W_i] per level to logits [B, A, K+1] and offsets [B, A, 4] over all levels."""
        outputs = [head(features) for head, features in zip(self, maps, strict=True)]
        return SSDOutput(
            torch.cat([output.logits for output in outputs], dim=1),
            torch.cat([output.offsets for output in outputs], dim=1),
        )


class SSD(Detector):
    """A single-shot detector.

    ``paper`` and ``lite`` predict from six feature maps, two of the backbone (strides 16 and 32) and four extra ones.
    ``fpn`` predicts from a feature pyramid of strides 8 to 128 with heads that all its levels share: RetinaNet
    (arXiv:1708.02002) with what TensorFlow's ssd_mobilenet_v1_fpn has otherwise, its anchors and its heads' norms. (The
    pyramid itself is RetinaNet's, without the norms and activations that TensorFlow adds to it.)

    Anchors follow the input size and the taps. The width multiplier of the backbone reaches the extra maps, the
    pyramid and the heads. (TensorFlow's multiplier leaves the depth of its pyramid and of its heads at 256.)

    Args:
        backbone: Any backbone with levels at strides 16 and 32; for ``fpn``, at 8 as well.
        num_classes: Classes without background.
        preprocessing: Input size, mean and standard deviation.
        form: ``paper``: 1x1 predictors and full 3x3 extra layers; ``lite``: depthwise separable ones; ``fpn``: see
            above.
        loss: ``softmax``, ``sigmoid`` (TensorFlow's) or ``focal``; scores follow it. None is the form's own
            (``LOSSES``).
        negative_ratio: Hard negatives per positive; focal loss uses all anchors.
        matching_iou: Smallest overlap of an anchor and the box that it learns.
        box_weight: Weight of the localisation loss.
        focal_alpha: See ``losses.focal_loss``.
        focal_gamma: See ``losses.focal_loss``.
        min_scale: Anchor scale of the first map, as a fraction of the image; ``fpn`` has anchors of 4 strides instead.
        max_scale: Anchor scale of the last map; likewise.
        score_threshold: Detections that score no more are dropped.
        nms_iou: Overlap above which the weaker of two boxes of a class is dropped.
        pre_nms_top_k: (anchor, class) pairs a picture that go into the suppression.
        max_detections: Detections a picture at most.

    Raises:
        UserError: If the backbone lacks a level, the form is unknown, or a value is out of range.
    """

    anchors: Tensor

    def __init__(
        self,
        backbone: Backbone,
        *,
        num_classes: int,
        preprocessing: Preprocessing,
        form: Form = "paper",
        loss: losses.ClassLoss | None = None,
        negative_ratio: float = 3.0,
        matching_iou: float = 0.5,
        box_weight: float = 1.0,
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
        min_scale: float = 0.2,
        max_scale: float = 0.95,
        score_threshold: float = 0.01,
        nms_iou: float = 0.6,
        pre_nms_top_k: int = 1000,
        max_detections: int = 100,
    ) -> None:
        if form not in LOSSES:
            raise UserError(f"task.form of ssd must be one of {', '.join(LOSSES)}; got {form!r}")
        if not min_scale < max_scale:
            raise UserError(f"min_scale {min_scale} of the anchors must be less than max_scale {max_scale}")
        super().__init__(
            backbone,
            num_classes=num_classes,
            preprocessing=preprocessing,
            score_threshold=score_threshold,
            nms_iou=nms_iou,
            pre_nms_top_k=pre_nms_top_k,
            max_detections=max_detections,
        )
        self.form, self.loss = form, LOSSES[form] if loss is None else loss
        self.negative_ratio, self.matching_iou, self.box_weight = negative_ratio, matching_iou, box_weight
        self.focal_alpha, self.focal_gamma = focal_alpha, focal_gamma

        strides = [level.stride for level in backbone.levels]
        tapped = PYRAMID_STRIDES if form == "fpn" else TAPPED_STRIDES
        if not set(tapped) <= set(strides):
            raise UserError(f"SSD ({form}) taps maps at strides {tapped}; {backbone.name} has levels at {strides}")
        self.taps = [strides.index(stride) for stride in tapped]
        levels = [backbone.levels[tap] for tap in self.taps]
        size, columns = preprocessing.size, num_classes + 1
        self.extras: ExtraMaps | FPN
        self.heads: LevelHeads | SharedHeads
        if form == "fpn":
            depth = backbone.scale(PYRAMID_DEPTH, minimum=16)
            self.extras = FPN(levels, depth=depth, coarser="conv", added=PYRAMID_ADDED)
            self.levels = self.extras.levels
            anchors = pyramid_anchors(size, map_sizes(size, self.levels), [level.stride for level in self.levels])
            self.heads = SharedHeads(
                depth,
                levels=len(self.levels),
                anchors=len(pyramid_shapes()),
                columns=columns,
                prior=FOCAL_PRIOR if self.loss == "focal" else 0.0,
                options=backbone.options,
            )
        else:
            self.extras = ExtraMaps(levels, form=form, backbone=backbone)
            self.levels = self.extras.levels
            shapes = ssd_shapes(len(self.levels), minimum=min_scale, maximum=max_scale)
            anchors = ssd_anchors(size, map_sizes(size, self.levels), minimum=min_scale, maximum=max_scale)
            self.heads = LevelHeads(
                Head(level.channels, anchors=len(cell), columns=columns, form=form, options=backbone.options)
                for level, cell in zip(self.levels, shapes, strict=True)
            )
            initialise(self.extras)
            self._initialise_heads()
        self.register_buffer("anchors", anchors, persistent=False)

    def _initialise_heads(self) -> None:
        initialise(self.heads)
        for name, part in self.heads.named_modules():
            if name.endswith("pointwise") and isinstance(part, nn.Conv2d):
                nn.init.normal_(part.weight, std=0.03)  # TensorFlow's SSD configuration
                if self.loss == "focal" and ".classes." in name and part.bias is not None:
                    nn.init.constant_(part.bias, FOCAL_PRIOR)

    def forward(self, images: Tensor) -> SSDOutput:
        """Map images [B, 3, S, S], uint8 or float in 0..255, to logits [B, A, K+1] and offsets [B, A, 4]."""
        maps = self.backbone(self.normalise(images))
        return SSDOutput(*self.heads(self.extras([maps[tap] for tap in self.taps])))

    def losses(self, images: Tensor, targets: Targets, *, output: SSDOutput | None = None) -> dict[str, Tensor]:
        """Class and box loss, each summed over the batch and divided by its number of matched anchors (SSD, eq. 1).

        Args:
            images: [B, 3, S, S], uint8 or float in 0..255.
            targets: The ground truth, padded; pictures may be empty, even all of them.
            output: What ``forward`` gave for these images, if that is known already.
        """
        logits, offsets = self(images) if output is None else output
        logits, offsets = logits.float(), offsets.float()  # box maths and sums in float32 whatever the network used
        with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
            labels, index = match(self.anchors, targets, threshold=self.matching_iou)
            batch, rows = (labels > 0).nonzero(as_tuple=True)
            wanted = encode(targets.boxes[batch, index[batch, rows]], self.anchors[rows])
        with torch.autocast(logits.device.type, enabled=False):
            count = max(1, len(rows))
            positive = offsets.flatten(0, 1).index_select(0, batch * offsets.shape[1] + rows)
            if self.loss == "focal":
                class_loss = losses.focal_loss(logits, labels, alpha=self.focal_alpha, gamma=self.focal_gamma)
            else:
                class_loss = losses.mined_class_loss(logits, labels, ratio=self.negative_ratio, kind=self.loss)
            return {
                "class_loss": class_loss / count,
                "box_loss": self.box_weight * losses.box_loss(positive, wanted) / count,
            }

    def scores(self, logits: Tensor) -> Tensor:
        """Class probabilities [B, A, K] of logits [B, A, K+1], without background."""
        logits = logits.float()
        return logits.softmax(-1)[..., 1:] if self.loss == "softmax" else logits[..., 1:].sigmoid()

    def candidates(self, output: SSDOutput, *, threshold: float) -> Candidates:
        """The best (anchor, class) pairs of what ``forward`` gave, before suppression."""
        return best_candidates(
            self.scores(output.logits),
            output.offsets.float(),
            self.anchors,
            image_size=self.preprocessing.size,
            threshold=threshold,
            top_k=self.pre_nms_top_k,
        )
