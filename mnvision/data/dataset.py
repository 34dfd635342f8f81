"""The pictures of a split as a PyTorch data set, and what happens to those that cannot be used.

Every random choice is drawn from (seed, epoch, index), so the pixels do not depend on how many workers there are, on
the batch that a picture falls into, or on what happened before.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mnvision.annotations import Annotations
from mnvision.data.transforms import Augment, Transform
from mnvision.data.windows import Truth
from mnvision.errors import UserError
from mnvision.ops.image import read_image
from mnvision.types import Preprocessing, Target

log = logging.getLogger(__name__)

BadImages = Literal["error", "skip"]

_SUBSTITUTES = 20  # bad pictures in a row before we give up
_FINE, _BAD, _BAD_THIS_EPOCH = 0, 1, 2


class PictureDataset(Dataset):
    """Pictures and their targets, where some of the files may be bad.

    Args:
        count: How many there are.
        bad_images: What to do with a picture that cannot be used: ``error`` raises; ``skip`` logs it, counts it, and
            goes on.
        substitute: What ``skip`` puts in its place. True, for training: another picture, drawn at random. False, for
            evaluation: what ``blank`` gives.
        seed: Of the augmentation.

    Attributes:
        blank_means: How an evaluation counts what ``blank`` gives.
        views: So many epochs have pixels of their own, and then they come again; None: every epoch has. With views
            repeats in an epoch have the same pixels.
    """

    blank_means: str

    def __init__(self, count: int, *, bad_images: BadImages, substitute: bool, seed: int) -> None:
        if bad_images not in get_args(BadImages):
            raise UserError(f"data.bad_images is {bad_images!r}. Expected one of {', '.join(get_args(BadImages))}")
        self.bad_images = bad_images
        self.substitute = substitute
        self.seed = seed
        self.views: int | None = None
        # One flag a picture in memory that the workers share, so that the main process can count.
        self._bad = torch.zeros(count, dtype=torch.uint8).share_memory_()

    @abstractmethod
    def load(self, index: int, *, rng: np.random.Generator) -> Any:
        """The item of a picture; raises UserError if the picture cannot be used."""

    @abstractmethod
    def blank(self, index: int) -> Any:
        """The item that stands for a bad picture in an evaluation."""

    @abstractmethod
    def name(self, index: int) -> str:
        """What to call a picture."""

    def __len__(self) -> int:
        return len(self._bad)

    def __getitem__(self, key: int | tuple[int, ...]) -> Any:
        """The item of ``(epoch, index)``, as `EpochSampler` asks for; of a plain index, that of epoch 0.

        A third number tells repeats in an epoch apart, which are augmented differently unless there are ``views``.
        """
        epoch, index, *repeats = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < len(self):
            raise IndexError(f"picture {index} of {len(self)}")
        draw = (self.seed, epoch, *filter(None, repeats))
        if self.views is not None:
            draw = (self.seed, epoch % self.views)
        rng = np.random.default_rng((*draw, index))
        try:
            return self.load(index, rng=rng)
        except UserError as error:
            if self.bad_images == "error":
                raise
            self._mark(index, error=error)
        if not self.substitute:
            return self.blank(index)
        for _ in range(_SUBSTITUTES):
            other = int(rng.integers(len(self)))
            try:
                return self.load(other, rng=np.random.default_rng((*draw, other)))
            except UserError as error:
                self._mark(other, error=error)
        raise UserError(
            f"{_SUBSTITUTES + 1} pictures in a row could not be used, the last one {self.name(other)}."
            " Is the picture folder right? data.bad_images=error shows what is wrong with the first"
        )

    def report_bad_images(self) -> int:
        """Log how many pictures were skipped since the last call, and return the number."""
        found = torch.nonzero(self._bad == _BAD_THIS_EPOCH).flatten().tolist()
        if found:
            self._bad[found] = _BAD
            names = ", ".join(self.name(i) for i in found[:5])
            more = f" and {len(found) - 5} more" if len(found) > 5 else ""
            what = "replaced by others" if self.substitute else self.blank_means
            log.warning("%d of %d pictures skipped (%s): %s%s", len(found), len(self), what, names, more)
        return len(found)

    def _mark(self, index: int, *, error: UserError) -> None:
        if self._bad[index] == _FINE:
            log.warning("skipped: %s", error)
        self._bad[index] = _BAD_THIS_EPOCH


class DetectionDataset(PictureDataset):
    """The pictures of a split and their boxes, decoded and transformed.

    An item is ``(image, target)``: the image uint8 [3, S, S] RGB, and a `mnvision.types.Target` whose boxes are in
    pixels of that image and clipped to it. Degenerate boxes are left out; crowd regions are kept and marked.

    The image is a view of [S, S, 3] memory, the layout in which pictures are decoded and CPUs and GPUs convolve best.

    Args:
        annotations: The split.
        image_folder: The folder that its file names are relative to.
        preprocessing: The side of the input and the mean colour.
        augment: Policy of `mnvision.data.transforms.Transform`.
        vertical_flip: Turn every second picture upside down as well.
        bad_images: What to do with a picture that is missing, unreadable, or of another size than its annotations
            say, see `PictureDataset`.
        substitute: Likewise. In an evaluation a bad picture is one of the mean colour, without boxes to learn from:
            the evaluator, whose truth is the annotations, then counts its objects as not found, as it would any
            picture without detections, and the numbers stay comparable.
        seed: Of the augmentation.
    """

    blank_means = "left blank: their objects count as not found"

    def __init__(
        self,
        annotations: Annotations,
        *,
        image_folder: str | Path,
        preprocessing: Preprocessing,
        augment: Augment = "none",
        vertical_flip: bool = False,
        bad_images: BadImages = "error",
        substitute: bool = False,
        seed: int = 0,
    ):
        super().__init__(len(annotations), bad_images=bad_images, substitute=substitute, seed=seed)
        self.annotations = annotations
        self.image_folder = Path(image_folder)
        self.preprocessing = preprocessing
        self.transform = Transform(augment, preprocessing=preprocessing, vertical_flip=vertical_flip)

    def name(self, index: int) -> str:
        """As the annotations call its file."""
        return self.annotations.file_name(index)

    def load(self, index: int, *, rng: np.random.Generator) -> tuple[Tensor, Target]:
        """Read, check and transform a picture and its boxes."""
        path = self.image_folder / self.annotations.file_name(index)
        image = read_image(path)
        height, width = self.annotations.sizes[index].tolist()
        if image.shape[:2] != (height, width):
            self._explain_size(path, got=image.shape[:2], stated=(height, width))
        rows = self.annotations.rows(index)
        truth = Truth(self.annotations.boxes[rows], self.annotations.labels[rows], self.annotations.crowd[rows])
        pixels, truth = self.transform(image, truth.keep(self.annotations.usable[rows]), rng=rng)
        target = Target(
            boxes=torch.from_numpy(truth.boxes.astype(np.float32)),
            labels=torch.from_numpy(truth.labels),
            crowd=torch.from_numpy(truth.crowd),
            image_id=int(self.annotations.image_ids[index]),
            original_size=(height, width),
        )
        return torch.from_numpy(pixels).permute(2, 0, 1), target

    def blank(self, index: int) -> tuple[Tensor, Target]:
        """The mean colour under the picture's id, and no boxes."""
        size = self.preprocessing.size
        height, width = self.annotations.sizes[index].tolist()
        target = Target(
            boxes=torch.zeros(0, 4),
            labels=torch.zeros(0, dtype=torch.int64),
            crowd=torch.zeros(0, dtype=torch.bool),
            image_id=int(self.annotations.image_ids[index]),
            original_size=(height, width),
        )
        return torch.tensor(self.transform.fill, dtype=torch.uint8).expand(size, size, 3).permute(2, 0, 1), target

    def _explain_size(self, path: Path, *, got: tuple[int, ...], stated: tuple[int, int]) -> None:
        message = f"{path} is {got[1]} x {got[0]} pixels, but its annotations say {stated[1]} x {stated[0]}"
        if read_image(path, apply_exif=False).shape[:2] == stated:
            raise UserError(
                f"{message}: its EXIF orientation turns it, and the annotations were made without turning it."
                " Its boxes are in the wrong place. Remove the EXIF orientation from the file, or annotate it upright"
            )
        raise UserError(
            f"{message}, and no EXIF orientation explains it. Is it another picture, or was it resized after"
            " annotation? Put the original in place, or correct width, height and boxes"
        )
