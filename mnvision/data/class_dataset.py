"""A classification split as a PyTorch data set, and its batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from mnvision.annotations import LabelledPictures
from mnvision.data.classification_transforms import ClassTransform
from mnvision.data.dataset import BadImages, PictureDataset
from mnvision.data.mixing import Mixing, mix
from mnvision.errors import UserError
from mnvision.ops.alignment import align
from mnvision.ops.image import read_image
from mnvision.ops.picture import Picture
from mnvision.types import Batch, Labels

# Pixels uint8 [S, S, 3], what is known of the picture (an integer, or a row of them), its place in the split, and a
# number from which a batch draws what it mixes.
Item = tuple[np.ndarray, np.ndarray, int, int]


class ClassDataset(PictureDataset):
    """The pictures of a split and their classes, decoded and transformed.

    Args:
        pictures: The split.
        folder: The folder that its file names are relative to.
        transform: From a picture to the network's input.
        crop_to_box: Show only the box of each picture that has one, and so much around it (a share of its size on each
            side); None: the whole picture.
        landmarks: float32 [I, 5, 2] (x, y) in pixels, by which faces are aligned before anything else, see
            `mnvision.ops.alignment`; a picture whose are NaN is taken as it is. None: all are.
        bad_images: See `PictureDataset`.
        substitute: Likewise. In an evaluation a bad picture is grey: it counts as whatever the model makes of that.
        seed: Of the augmentation.
    """

    blank_means = "left grey, and counted as whatever the model makes of that"

    def __init__(
        self,
        pictures: LabelledPictures,
        *,
        folder: str | Path,
        transform: ClassTransform,
        crop_to_box: float | None = None,
        landmarks: np.ndarray | None = None,
        bad_images: BadImages = "error",
        substitute: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(len(pictures), bad_images=bad_images, substitute=substitute, seed=seed)
        self.pictures = pictures
        self.folder = Path(folder)
        self.transform = transform
        self.crop_to_box = crop_to_box
        self.landmarks = landmarks

    def name(self, index: int) -> str:
        """The name of its file."""
        return self.pictures.file_name(index)

    def load(self, index: int, *, rng: np.random.Generator) -> Item:
        """Read and transform a picture."""
        pixels = self.transform(self.picture(index), rng)
        return pixels, self.pictures.labels[index], index, int(rng.integers(2**31))

    def blank(self, index: int) -> Item:
        """A grey picture."""
        size = self.transform.preprocessing.size
        return np.full((size, size, 3), 128, np.uint8), self.pictures.labels[index], index, 0

    def picture(self, index: int) -> Picture:
        """A picture, not decoded yet, or the part of it that counts."""
        box = None
        if self.crop_to_box is not None and self.pictures.boxes is not None:
            box = self.pictures.boxes[index]
            box = None if np.isnan(box).any() else box
        margin = self.crop_to_box or 0.0
        if self.pictures.pixels is not None:
            return Picture.from_array(self.pictures.pixels[index], box=box, margin=margin)
        path = self.folder / self.pictures.file_name(index)
        if self.landmarks is not None and np.isfinite(self.landmarks[index]).all():
            try:
                face = align(read_image(path), self.landmarks[index], size=self.transform.preprocessing.size)
            except UserError as error:
                raise UserError(f"{path}: {error}") from error
            return Picture.from_array(face)
        return Picture.from_path(path, box=box, margin=margin)


class ClassCollate:
    """Makes a batch of items: stacked in channels-last memory, and mixed where that is asked for.

    Args:
        mixing: How; None for not at all.
    """

    def __init__(self, mixing: Mixing | None = None) -> None:
        self.mixing = mixing

    def __call__(self, items: Sequence[Item]) -> Batch:
        """The batch of some items."""
        pixels, labels, places, numbers = zip(*items, strict=True)
        images = torch.from_numpy(np.stack(pixels))  # [B, S, S, 3]
        targets = Labels(torch.from_numpy(np.stack(labels)), torch.tensor(places))
        if self.mixing is not None:
            images, targets = mix(images, targets, mixing=self.mixing, rng=np.random.default_rng(numbers[0]))
        return Batch(images.permute(0, 3, 1, 2), targets)
