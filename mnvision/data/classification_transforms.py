"""From a picture to a classifier's input, with or without augmentation."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np
import torch

from mnvision.data import views
from mnvision.data.transforms import distort, photometric_distortion
from mnvision.data.windows import Window
from mnvision.errors import UserError, did_you_mean
from mnvision.ops.picture import Picture, shown_window
from mnvision.types import Preprocessing

ClassAugment = Literal["none", "flip", "crop", "jitter", "light", "strong"]

JITTER = 0.1  # of the sides: how far the policy of that name moves a window, and how much larger or smaller it gets
RANDAUGMENT_OPERATIONS = 2  # in a row on each picture


class Parts(NamedTuple):
    """What a policy is made of; each can be set by itself."""

    min_area: float = 1.0
    randaugment: float = 0
    erasing: float = 0.0
    color: float = 0.0


POLICIES: dict[str, Parts] = {
    "none": Parts(),
    "flip": Parts(),
    "crop": Parts(),
    "jitter": Parts(color=0.4),
    # The MobileNet paper, section 3, limits the size of small crops and distorts less, but prints no number. 0.35 and
    # 0.4 are ours.
    "light": Parts(min_area=0.35, color=0.4),
    "strong": Parts(min_area=0.08, randaugment=3, erasing=0.25),
}
LIMITS = {"min_area": (0.0, 1.0), "randaugment": (0, 10), "erasing": (0.0, 1.0), "color": (0.0, 2.0)}


class ClassTransform:
    """One of the policies of ``ClassAugment``; every random choice comes from the generator it is given.

    - ``none``: the centre of the picture, as ``preprocessing`` says, for evaluation. A JPEG is decoded at full scale,
      so that a file and its pixels give the same input.
    - ``flip``: the same, and mirror every second picture.
    - ``crop``: for small pictures: resize to ``size / crop_share`` where they have another size, cut a random part of
      ``size`` pixels out, with a border of the mean colour around the picture where all of it is the input; mirror.
    - ``jitter``: for pictures that are cut alike, such as faces: what evaluation shows, moved and scaled by up to a
      tenth with its aspect kept, mirror, slightly other colours.
    - ``light``: a random resized crop of at least 0.35 of the area, mirror, slightly other colours.
    - ``strong``: a random resized crop of at least 0.08 of the area, mirror, RandAugment, random erasing.

    Args:
        policy: The name of the policy.
        preprocessing: Side and fit of the input, and the mean colour, which fills what a picture does not cover.
        min_area: Smallest area of a random resized crop, as a share of the picture's; ``light`` and ``strong`` only.
        randaugment: Magnitude of RandAugment (arXiv 1909.13719), a whole number of 0..10; 0 is none of it. 3 is about
            torchvision's default, 9 of 30.
        erasing: Probability that a rectangle is erased, 0..1.
        color: Strength of `mnvision.data.transforms.photometric_distortion`, 0..2.
        pad: Border of ``crop`` in pixels; None is an eighth of the size where ``crop_share`` is 1, and otherwise 0.

    Of the parts, None is the policy's own value.

    Raises:
        UserError: There is no such policy, a part is out of its range, or the policy has no use for it.
    """

    def __init__(
        self,
        policy: ClassAugment,
        *,
        preprocessing: Preprocessing,
        min_area: float | None = None,
        randaugment: int | None = None,
        erasing: float | None = None,
        color: float | None = None,
        pad: int | None = None,
    ):
        if policy not in get_args(ClassAugment):
            hint = did_you_mean(policy, get_args(ClassAugment), known=True)
            raise UserError(f"data.augment is {policy!r}, which is no policy of classification{hint}")
        given = {"min_area": min_area, "randaugment": randaugment, "erasing": erasing, "color": color}
        self.policy, self.preprocessing, self.size = policy, preprocessing, preprocessing.size
        self.parts = _parts(policy, {name: value for name, value in given.items() if value is not None})
        if pad is not None and (policy != "crop" or pad < 0):
            raise UserError(f"pad is {pad} with data.augment={policy}. Expected 0 or more, and data.augment=crop")
        self.pad = (self.size // 8 if preprocessing.crop_share == 1 else 0) if pad is None else pad
        self.fill = tuple(round(channel) for channel in preprocessing.mean)
        self._colors = photometric_distortion(self.parts.color) if self.parts.color > 0 else None
        self._randaugment = _randaugment(int(self.parts.randaugment), self.fill) if self.parts.randaugment else None

    def __call__(self, picture: Picture, rng: np.random.Generator) -> np.ndarray:
        """Transform a picture.

        Args:
            picture: Where the pixels come from; decoded only as far as needed.
            rng: The source of every random choice.

        Returns:
            uint8 [size, size, 3] RGB, contiguous.
        """
        image = self._view(picture, rng)
        if self.policy != "none":
            image = views.mirror(image, rng=rng)
        if self._randaugment is not None:
            image = _change(image, self._randaugment, seed=int(rng.integers(2**63)))
        if self._colors is not None:
            image = distort(image, self._colors, rng=rng)
        if self.parts.erasing > 0 and rng.random() < self.parts.erasing:
            image = views.erase(image, fill=self.fill, rng=rng)
        return np.ascontiguousarray(image)

    def _view(self, picture: Picture, rng: np.random.Generator) -> np.ndarray:
        if self.policy == "crop":
            return self._random_part(picture, rng)
        if self.policy in ("none", "flip"):
            return picture.fit(self.preprocessing)
        if self.policy == "jitter":
            window = Window(*shown_window(picture.size, self.preprocessing))
            window = views.jitter(window, size=picture.size, share=JITTER, rng=rng)
            return picture.cut(window, width=self.size, height=self.size, reduced=True)
        window = views.random_resized_crop(picture.size, area=(self.parts.min_area, 1.0), rng=rng)
        return picture.cut(window, width=self.size, height=self.size, reduced=True)

    def _random_part(self, picture: Picture, rng: np.random.Generator) -> np.ndarray:
        height, width = picture.size
        side = max(round(self.size / self.preprocessing.crop_share), self.size)
        if self.preprocessing.fit == "crop":
            down, across = (max(round(length * side / min(height, width)), side) for length in (height, width))
        else:
            down = across = side
        image = picture.cut(Window(0, 0, width, height), width=across, height=down, reduced=True)
        return views.pad_and_crop(image, size=self.size, pad=self.pad, fill=self.fill, rng=rng)


def _parts(policy: str, given: dict[str, float]) -> Parts:
    """The parts of a policy with those that are given by themselves."""
    for name, value in given.items():
        low, high = LIMITS[name]
        whole = name != "randaugment" or value == int(value)
        if not (low <= value <= high and whole) or (name == "min_area" and value == 0):
            what = "a whole number of" if name == "randaugment" else "above" if name == "min_area" else "a number of"
            raise UserError(f"{name} is {value}. Expected {what} {low}{' up to ' if what == 'above' else '..'}{high}")
    if policy == "none" and any(given.values()):
        raise UserError(f"data.augment=none changes nothing, but {', '.join(given)} is set. Choose another policy")
    if "min_area" in given and policy not in ("light", "strong"):
        raise UserError(
            f"min_area is set, but data.augment={policy} cuts no part of random area: use light or strong, or give "
            "data.min_area=null"
        )
    return POLICIES[policy]._replace(**given)


def _change(image: np.ndarray, change: torch.nn.Module, *, seed: int) -> np.ndarray:
    # torchvision draws from torch's global generator: seeded here, and put back as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        changed = change(torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1))
    return changed.permute(1, 2, 0).numpy()


def _randaugment(magnitude: int, fill: tuple[int, ...]) -> torch.nn.Module:
    from torchvision.transforms import InterpolationMode, v2

    return v2.RandAugment(
        num_ops=RANDAUGMENT_OPERATIONS,
        magnitude=magnitude,
        num_magnitude_bins=11,
        interpolation=InterpolationMode.BILINEAR,
        fill=list(fill),
    )
