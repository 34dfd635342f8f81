"""What flows between the parts of mnvision: shapes and units, written once.

Boxes are ``xyxy`` corners unless a name says otherwise. A detector's labels run from 1 to K in every tensor; 0 is
background or padding. ``category_ids[label - 1]`` is the id that the data set's own file uses. A classifier's labels
run from 0 to K-1; -1 is a picture whose class nobody knows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mnvision.errors import UserError as UserError


class FeatureLevel(NamedTuple):
    """One feature map of a backbone: its channels, and the stride of a cell in input pixels."""

    channels: int
    stride: int


Fit = Literal["stretch", "crop"]


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the network's input; saved in every checkpoint and used by every command.

    A part of the picture, its centre, becomes ``size`` x ``size`` pixels and stays uint8. The model itself computes
    ``(pixel - mean) / std``, per RGB channel, in units of 0..255.

    Attributes:
        size: Side of the input in pixels.
        mean: Of the pixels, per channel.
        std: Of the pixels, per channel.
        fit: ``stretch`` takes the same share of width and height and does not keep the aspect; ``crop`` takes a square.
        crop_share: Length of the part, relative to each side (``stretch``) or to the shorter one (``crop``); 1 is all.
        aligned: Faces were turned and scaled by five landmarks before that, see ``ops.alignment``.
    """

    size: int
    mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    std: tuple[float, float, float] = (127.5, 127.5, 127.5)
    fit: Fit = "stretch"
    crop_share: float = 1.0
    aligned: bool = False


@dataclass
class Target:
    """The ground truth of one picture.

    Attributes:
        boxes: float32 [N, 4] xyxy in input pixels; N may be 0.
        labels: int64 [N], 1..K.
        crowd: bool [N]; a crowd region is ignored in training.
        image_id: The data set's own id of the picture.
        original_size: (height, width) of the picture before resizing, in pixels.
    """

    boxes: Tensor
    labels: Tensor
    crowd: Tensor
    image_id: int
    original_size: tuple[int, int]


@dataclass
class Targets:
    """The ground truth of a batch, padded to the picture with the most boxes, so that a loss needs no Python loop.

    Attributes:
        boxes: float32 [B, M, 4] xyxy in input pixels; zeros where padded. M may be 0.
        labels: int64 [B, M], 1..K; 0 where padded.
        crowd: bool [B, M].
        image_ids: int64 [B].
        original_sizes: int64 [B, 2] (height, width) in pixels.
    """

    boxes: Tensor
    labels: Tensor
    crowd: Tensor
    image_ids: Tensor
    original_sizes: Tensor

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Targets:
        """Copy to a device; Lightning calls this when it moves a batch."""
        return Targets(*(tensor.to(device, non_blocking=non_blocking) for tensor in vars(self).values()))

    def rows(self, rows: slice) -> Targets:
        """Those of some pictures of the batch."""
        return Targets(*(tensor[rows] for tensor in vars(self).values()))

    def pin_memory(self) -> Targets:
        """Copy to page-locked memory; the data loader calls this."""
        return Targets(*(tensor.pin_memory() for tensor in vars(self).values()))


def pad_targets(targets: Sequence[Target]) -> Targets:
    """Stack the targets of B pictures into one padded batch."""
    count = max((len(target.boxes) for target in targets), default=0)
    boxes = torch.zeros(len(targets), count, 4)
    labels = torch.zeros(len(targets), count, dtype=torch.int64)
    crowd = torch.zeros(len(targets), count, dtype=torch.bool)
    for row, target in enumerate(targets):
        n = len(target.boxes)
        boxes[row, :n] = target.boxes
        labels[row, :n] = target.labels
        crowd[row, :n] = target.crowd
    return Targets(
        boxes=boxes,
        labels=labels,
        crowd=crowd,
        image_ids=torch.tensor([target.image_id for target in targets], dtype=torch.int64),
        original_sizes=torch.tensor([target.original_size for target in targets], dtype=torch.int64).reshape(-1, 2),
    )


@dataclass
class Labels:
    """The classes of a batch of pictures, or their attributes.

    Attributes:
        labels: int64 [B], 0..K-1; -1 where the class is not known. Of attributes float32 [B, A], 0 or 1; NaN likewise.
        image_ids: int64 [B], the place of each picture in its split; -1 where it has none, as in a stream.
        others: int64 [B], the class of the picture that was mixed into each one; None where nothing was mixed.
        shares: float32 [B], what is left of the picture itself where another one was mixed in, 0..1; None likewise.
        places: float32 [B, 2], where each picture was taken, latitude and longitude in degrees; None for other tasks.
    """

    labels: Tensor
    image_ids: Tensor
    others: Tensor | None = None
    shares: Tensor | None = None
    places: Tensor | None = None

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Labels:
        """Copy to a device; Lightning calls this when it moves a batch."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Labels:
        """Copy to page-locked memory; the data loader calls this."""
        return self._each(Tensor.pin_memory)

    def rows(self, rows: slice) -> Labels:
        """Those of some pictures of the batch."""
        return self._each(lambda tensor: tensor[rows])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Labels:
        further = (None if tensor is None else change(tensor) for tensor in (self.others, self.shares, self.places))
        return Labels(change(self.labels), change(self.image_ids), *further)


@dataclass
class Batch:
    """What a data loader yields: images uint8 [B, 3, S, S] RGB, and the targets of the same pictures."""

    images: Tensor
    targets: Targets | Labels

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """Copy to a device; Lightning calls this when it moves a batch."""
        return Batch(
            self.images.to(device, non_blocking=non_blocking), self.targets.to(device, non_blocking=non_blocking)
        )

    def pin_memory(self) -> Batch:
        """Copy to page-locked memory; the data loader calls this."""
        return Batch(self.images.pin_memory(), self.targets.pin_memory())


@dataclass
class Detections:
    """What a detector found in one picture, best score first.

    Attributes:
        boxes: float32 [M, 4] xyxy in original image pixels.
        scores: float32 [M], 0..1.
        labels: int64 [M], 1..K.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
