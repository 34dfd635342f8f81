"""How pictures are fitted to a model's input: as the user asks, or the weights, or the data, or the task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mnvision.backbones.weights import Weights, read_weights
from mnvision.errors import UserError
from mnvision.ops.resolution import input_size, stride_of
from mnvision.types import Fit, Preprocessing

# How a picture is fitted to the input, and how much of it is shown, where it is not stretched whole.
FITS: dict[str, tuple[Fit, float]] = {
    "classify": ("crop", 0.875),
    "embed": ("crop", 1.0),
    "attributes": ("crop", 1.0),
    "geolocate": ("crop", 0.875),
}
IMAGE_SIZES = {"ssd": 300, "faster_rcnn": 320, "classify": 224, "embed": 160, "attributes": 224, "geolocate": 224}
FORM_SIZES = {("ssd", "fpn"): 640}  # of forms that have another one than their task


def resolve_preprocessing(
    task: str,
    *,
    image_size: int | None,
    rho: float,
    weights: Weights | str | None,
    preferred_size: int | None,
    preferred_share: float | None = None,
    form: str | None = None,
    fit: Fit | None = None,
    crop_share: float | None = None,
    backbone: str = "",
) -> Preprocessing:
    """How pictures are fitted to a model's input; mean and standard deviation are left open.

    Of the side of the input in pixels, the first of these that is known decides: ``image_size`` times ``rho``; the side
    that the weights were trained at, in which their rho is contained; ``preferred_size`` times ``rho``; the side of the
    task's form, or else of the task, times ``rho``.

    Args:
        task: A key of ``TASKS``.
        image_size: What the user asks for.
        rho: Resolution multiplier.
        weights: Of the whole model: those of a backbone alone leave everything open.
        preferred_size: What suits the data.
        preferred_share: Of ``crop_share``, likewise.
        form: The task's form that the user asks for; by default that of the weights.
        fit: What the user asks for; by default as the weights, else the task's own.
        crop_share: Likewise.
        backbone: Its name, which tells the stride that the side is rounded to; 32 without it.

    Raises:
        UserError: If the weights cannot be read, the side is less than a stride of the network, or ``rho`` would have
            no effect.
    """
    settings: Mapping[str, Any] = {}
    if weights:
        settings = (read_weights(weights) if isinstance(weights, str) else weights).settings
    own_fit, own_share = FITS.get(task, (Preprocessing.fit, Preprocessing.crop_share))
    fit = fit or settings.get("fit", own_fit)
    crop_share = crop_share or settings.get("crop_share", preferred_share or own_share)
    if image_size is None and "image_size" in settings:
        size = int(settings["image_size"])
        if rho != 1:
            raise UserError(
                f"backbone.rho={rho:g} would change nothing: the input of {size} pixels comes with the weights, "
                "and holds their own rho; give task.image_size=PIXELS as well, or leave backbone.rho out"
            )
    else:
        form = form or settings.get("form")
        own = FORM_SIZES.get((task, form or ""), IMAGE_SIZES.get(task, 224))
        size = input_size(image_size or preferred_size or own, rho, stride=stride_of(backbone))
    return Preprocessing(size, fit=fit, crop_share=crop_share)
