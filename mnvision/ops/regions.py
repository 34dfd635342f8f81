"""Features of regions, cut out of feature maps."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import roi_align as compiled_roi_align

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
        return roi_align(maps[0], regions, side=side, stride=levels[0].stride, samples=1, aligned=True)
    maps, levels = maps[:-1], levels[:-1]
    finest, coarsest = (levels[at].stride.bit_length() - 1 for at in (0, -1))
    # A region of 224 pixels a side belongs to stride 16.
    wanted = torch.floor(4 + torch.log2(area(boxes).sqrt() / 224) + 1e-6).clamp(finest, coarsest)
    if finest == coarsest or boxes.is_meta:  # the profiler asks for shapes only
        return roi_align(maps[0], regions, side=side, stride=levels[0].stride, samples=2, aligned=False)
    crops = maps[0].new_zeros(len(boxes), maps[0].shape[1], side, side)
    for features, level in zip(maps, levels, strict=True):
        rows = (wanted == level.stride.bit_length() - 1).nonzero().squeeze(1)
        found = roi_align(features, regions[rows], side=side, stride=level.stride, samples=2, aligned=False)
        crops = crops.index_put((rows,), found)
    return crops


def roi_align(features: Tensor, regions: Tensor, *, side: int, stride: int, samples: int, aligned: bool) -> Tensor:
    """Average bilinear samples in each cell of each region (RoIAlign, arXiv:1703.06870, section 3).

    The same as torchvision's, which on a CPU goes from sample to sample on one thread, forward and back. There the
    samples are two matrix products a picture instead, one along each axis: for the gradient always, and without one
    where a cell has several samples in a row (four times as fast for 7x7 cells of 2x2; with 14x14 of one, no gain).

    Args:
        features: float32 [B, C, H, W].
        regions: [R, 5]: picture, then xyxy in input pixels.
        side: Cells along one side of a crop.
        stride: Input pixels of a cell of the map.
        samples: Along one side of a cell.
        aligned: Whether pixel centres lie half a pixel in, and regions may be smaller than a cell of the map.

    Returns:
        [R, C, side, side].
    """
    trains = features.requires_grad and torch.is_grad_enabled()
    if features.device.type != "cpu" or not (trains or samples > 1):
        return compiled_roi_align(features, regions, side, 1 / stride, samples, aligned)
    with torch.autocast("cpu", enabled=False):
        return _sampled(features, regions, side=side, stride=stride, samples=samples, aligned=aligned)


def _sampled(features: Tensor, regions: Tensor, *, side: int, stride: int, samples: int, aligned: bool) -> Tensor:
    """RoIAlign by matrix products."""
    corners = regions[:, 1:] / stride - (0.5 if aligned else 0.0)
    height, width = features.shape[-2:]
    columns = _sampling(corners[:, 0], corners[:, 2], width, side=side, samples=samples, shrinks=aligned)  # [R, s, W]
    rows = _sampling(corners[:, 1], corners[:, 3], height, side=side, samples=samples, shrinks=aligned)  # [R, s, H]
    crops, places = [], []
    for picture, plane in enumerate(features.permute(0, 2, 3, 1)):  # [H, W, C]
        place = (regions[:, 0] == picture).nonzero().squeeze(1)
        lines = rows[place].flatten(0, 1) @ plane.flatten(1)  # [n * s, W * C]
        lines = lines.view(len(place), side, width, features.shape[1])
        crops.append(columns[place].unsqueeze(1) @ lines)  # [n, s, s, C]
        places.append(place)
    if len(crops) == 1:
        return crops[0].permute(0, 3, 1, 2)
    found, order = torch.cat(crops).permute(0, 3, 1, 2), torch.cat(places)
    if bool((order.diff() > 0).all()):  # picture by picture, as regions come
        return found
    return found.index_select(0, order.argsort())


def _sampling(low: Tensor, high: Tensor, size: int, *, side: int, samples: int, shrinks: bool) -> Tensor:
    """What each point of a line adds to each cell of spans [R] ``low..high`` of it: [R, side, size]."""
    extent = high - low if shrinks else (high - low).clamp(min=1.0)
    at = (torch.arange(side * samples, device=low.device) + 0.5) / samples  # in cells
    places = low.unsqueeze(1) + at * (extent / side).unsqueeze(1)  # [R, side * samples]
    inside = (places >= -1) & (places <= size)  # further out there is nothing
    distance = places.clamp(0, size - 1).unsqueeze(-1) - torch.arange(size, device=low.device)
    weights = (1 - distance.abs()).clamp(min=0) * inside.unsqueeze(-1)
    return weights.unflatten(1, (side, samples)).mean(2)
