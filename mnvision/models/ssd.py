"""SSD (Liu et al. 2016, arXiv:1512.02325) on any backbone, in the MobileNet paper's form and as SSDLite."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from mnvision.backbones.base import Backbone, map_sizes
from mnvision.backbones.layers import ConvNormAct, LayerOptions, SeparableConv, initialise
from mnvision.models.detector import Detector
from mnvision.ops import losses
from mnvision.ops.anchors import ssd_anchors, ssd_shapes
from mnvision.ops.boxes import encode
from mnvision.ops.matching import match
from mnvision.ops.postprocess import Candidates, best_candidates
from mnvision.types import FeatureLevel, Preprocessing, Targets, UserError

EXTRA_DEPTHS = (512, 256, 256, 128)
TAPPED_STRIDES = (16, 32)
# With focal loss every class starts at a probability of 0.01 (arXiv:1708.02002, section 3.3).
FOCAL_PRIOR = -4.6

Form = Literal["paper", "lite"]


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


class SSD(Detector):
    """A single-shot detector with six feature maps: two of the backbone (strides 16 and 32) and four extra ones.

    Anchors follow the input size and the taps. The width multiplier of the backbone reaches the extra maps and the
    predictors.

    Args:
        backbone: Any backbone with levels at strides 16 and 32.
        num_classes: Classes without background.
        preprocessing: Input size, mean and standard deviation.
        form: ``paper``: 1x1 predictors and full 3x3 extra layers; ``lite``: depthwise separable ones.
        loss: ``softmax``, ``sigmoid`` (TensorFlow's) or ``focal``; scores follow it.
        negative_ratio: Hard negatives per positive; focal loss uses all anchors.
        matching_iou: Smallest overlap of an anchor and the box that it learns.
        box_weight: Weight of the localisation loss.
        focal_alpha: See ``losses.focal_loss``.
        focal_gamma: See ``losses.focal_loss``.
        min_scale: Anchor scale of the first map, as a fraction of the image.
        max_scale: Anchor scale of the last map.
        score_threshold: Detections that score no more are dropped.
        nms_iou: Overlap above which the weaker of two boxes of a class is dropped.
        pre_nms_top_k: (anchor, class) pairs a picture that go into the suppression.
        max_detections: Detections a picture at most.

    Raises:
        UserError: If the backbone lacks a level, or a value is out of range.
    """

    anchors: Tensor

    def __init__(
        self,
        backbone: Backbone,
        *,
        num_classes: int,
        preprocessing: Preprocessing,
        form: Form = "paper",
        loss: losses.ClassLoss = "softmax",
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
        super().__init__(
            backbone,
            num_classes=num_classes,
            preprocessing=preprocessing,
            score_threshold=score_threshold,
            nms_iou=nms_iou,
            pre_nms_top_k=pre_nms_top_k,
            max_detections=max_detections,
        )
        strides = [level.stride for level in backbone.levels]
        if not set(TAPPED_STRIDES) <= set(strides):
            raise UserError(
                f"SSD taps maps at strides {TAPPED_STRIDES}; backbone {backbone.name} has levels at {strides}"
            )
        if not min_scale < max_scale:
            raise UserError(f"min_scale {min_scale} of the anchors must be less than max_scale {max_scale}")
        self.form, self.loss = form, loss
        self.negative_ratio, self.matching_iou, self.box_weight = negative_ratio, matching_iou, box_weight
        self.focal_alpha, self.focal_gamma = focal_alpha, focal_gamma

        self.taps = [strides.index(stride) for stride in TAPPED_STRIDES]
        levels = [backbone.levels[tap] for tap in self.taps]
        self.extras = nn.ModuleList()
        for depth in EXTRA_DEPTHS:
            previous = levels[-1]
            channels = backbone.scale(depth, minimum=16)
            self.extras.append(Extra(previous.channels, channels, form=form, options=backbone.options))
            levels.append(FeatureLevel(channels, previous.stride * 2))
        self.levels = levels
        shapes = ssd_shapes(len(levels), minimum=min_scale, maximum=max_scale)
        self.heads = nn.ModuleList(
            Head(level.channels, anchors=len(cell), columns=num_classes + 1, form=form, options=backbone.options)
            for level, cell in zip(levels, shapes, strict=True)
        )
        initialise(self.extras)
        self._initialise_heads()

        size = preprocessing.size
        anchors = ssd_anchors(size, map_sizes(size, levels), minimum=min_scale, maximum=max_scale)
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
        features = [maps[tap] for tap in self.taps]
        for extra in self.extras:
            features.append(extra(features[-1]))
        outputs = [head(level) for head, level in zip(self.heads, features, strict=True)]
        return SSDOutput(
            torch.cat([output.logits for output in outputs], dim=1),
            torch.cat([output.offsets for output in outputs], dim=1),
        )

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
