"""From a decoded picture and its boxes to the network's input, with or without augmentation."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from mnvision.data import windows
from mnvision.data.windows import Truth
from mnvision.errors import UserError
from mnvision.types import Preprocessing

if TYPE_CHECKING:
    import albumentations

Augment = Literal["none", "flip", "light", "ssd"]


class Transform:
    """One of the policies of ``Augment``; every random choice comes from the generator it is given.

    - ``none``: resize, for evaluation; exactly `mnvision.ops.image.resize_image`.
    - ``flip``: resize, and mirror every second picture.
    - ``light``: show a little less or more than the picture, slightly stretched, resize, distort the colours, mirror:
      for fine-tuning, where the strong policy would undo what a model knows of sizes.
    - ``ssd``: zoom out (every second picture), crop under an overlap constraint, resize, distort the colours, mirror:
      the augmentation of SSD, arXiv 1512.02325, sections 2.2 and 3.6. Where the picture is chosen before it is
      resized, and coloured after, because a small picture costs less.

    Boxes are clipped to what is shown; one without extent goes, and its label and crowd flag go with it.

    Args:
        policy: The name of the policy.
        preprocessing: Gives the side of the input, and the mean colour, which fills what a picture does not cover.
        vertical_flip: Turn every second picture upside down as well, whatever the policy.
    """

    def __init__(self, policy: Augment, *, preprocessing: Preprocessing, vertical_flip: bool = False):
        if policy not in get_args(Augment):
            raise UserError(f"data.augment is {policy!r}. Expected one of {', '.join(get_args(Augment))}")
        self.policy, self.vertical_flip = policy, vertical_flip
        self.size = preprocessing.size
        self.fill = tuple(round(channel) for channel in preprocessing.mean)
        self._distort = photometric_distortion() if policy in ("light", "ssd") else None

    def __call__(self, image: np.ndarray, truth: Truth, *, rng: np.random.Generator) -> tuple[np.ndarray, Truth]:
        """Transform a picture.

        Args:
            image: uint8 [H, W, 3] RGB.
            truth: Its boxes, in its own pixels.
            rng: The source of every random choice.

        Returns:
            uint8 [size, size, 3], and the boxes left, in pixels of it.
        """
        picture_size = (image.shape[0], image.shape[1])
        window = windows.whole_picture(picture_size)
        # Boxes that reach beyond the picture would otherwise draw a crop to where nothing is.
        truth = windows.follow(truth, source=window, target=window)
        if self.policy == "ssd":
            if rng.random() < 0.5:
                window = windows.zoom_out(window, truth, rng=rng)
            window = windows.random_crop(window, truth, picture_size=picture_size, rng=rng)
        elif self.policy == "light":
            window = windows.jitter(window, rng=rng)
        if self.policy in ("light", "ssd"):
            truth = windows.truth_in(window, truth)
        image, source, target = windows.cut(image, window, size=self.size)
        truth = windows.follow(truth, source=source, target=target)
        if self._distort is not None:
            image = distort(image, self._distort, rng=rng)
        image = windows.paste(image, target, size=self.size, fill=self.fill)
        if self.policy != "none" and rng.random() < 0.5:
            image, truth = windows.flip(image, truth, axis="x")
        if self.vertical_flip and rng.random() < 0.5:
            image, truth = windows.flip(image, truth, axis="y")
        return image, truth


def distort(image: np.ndarray, distortion: albumentations.Compose, *, rng: np.random.Generator) -> np.ndarray:
    """Change the colours of a picture, uint8 [H, W, 3] RGB; every random choice comes from the generator."""
    # One generator for all: set_random_seed would give each step the same draws, and all would act or none.
    distortion.set_random_state(rng, random.Random(int(rng.integers(2**63))))
    return distortion(image=image)["image"]


def photometric_distortion(strength: float = 1.0) -> albumentations.Compose:
    """Brightness, contrast, saturation and hue, each in every second picture.

    Args:
        strength: Width of the factors, 0..2: at 0 nothing changes, at 1 they are as wide as SSD's.
    """
    # albumentations asks the network for a newer version of itself when it is imported, unless told not to.
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import albumentations

    same = (1.0, 1.0)
    widths = {"brightness": 0.125, "contrast": 0.5, "saturation": 0.5}
    changes = [{name: (1 - strength * width, 1 + strength * width)} for name, width in widths.items()]
    changes.append({"hue": (-0.05 * strength, 0.05 * strength)})
    neutral = {"brightness": same, "contrast": same, "saturation": same, "hue": (0.0, 0.0)}
    return albumentations.Compose([albumentations.ColorJitter(**{**neutral, **change}, p=0.5) for change in changes])
