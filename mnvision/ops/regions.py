"""Features of regions, cut out of feature maps."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import roi_align

from mnvision.ops.boxes import area
from mnvision.types import FeatureLevel


def crop_regions(maps: list[Tensor], levels: list[FeatureLevel], boxes: Tensor, batch: Tensor, *, side: int) -> Tensor:
    """Features [R, C, side, side] of regions, each from the level that suits its size (arXiv:1612.03144, equation 1).

    Args:
        maps: [B, C, H_i, W_i] per level. The coarsest of several was added for proposals and is not cropped from.
        levels: Of the maps, finest first.
        boxes: [R, 4] xyxy in input pixels.
        batch: int64 [R], the picture of each.
        side: Cells along one side of a crop.
    """
    regions = torch.cat((batch.unsqueeze(1).to(boxes), boxes), dim=1)  # [R, 5]
    maps = [features.float() for features in maps]  # bfloat16 could not place a box to the pixel
    if len(maps) == 1:
        return roi_align(maps[0], regions, side, 1 / levels[0].stride, sampling_ratio=1, aligned=True)
    maps, levels = maps[:-1], levels[:-1]
    finest, coarsest = (levels[at].stride.bit_length() - 1 for at in (0, -1))
    # A region of 224 pixels a side belongs to stride 16.
    wanted = torch.floor(4 + torch.log2(area(boxes).sqrt() / 224) + 1e-6).clamp(finest, coarsest)
    if finest == coarsest or boxes.is_meta:  # the profiler asks for shapes only
        return _align(maps[0], regions, side, levels[0].stride)
    crops = maps[0].new_zeros(len(boxes), maps[0].shape[1], side, side)
    for features, level in zip(maps, levels, strict=True):
        rows = (wanted == level.stride.bit_length() - 1).nonzero().squeeze(1)
        crops = crops.index_put((rows,), _align(features, regions[rows], side, level.stride))
    return crops


def _align(features: Tensor, regions: Tensor, side: int, stride: int) -> Tensor:
    return roi_align(features, regions, side, 1 / stride, sampling_ratio=2)
