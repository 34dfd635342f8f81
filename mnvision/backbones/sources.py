"""Published weights by name: where they are, and under which licence."""

from __future__ import annotations

from dataclasses import dataclass

TORCHVISION_URL = "https://download.pytorch.org/models/"
TIMM_URL = "https://huggingface.co/timm/"
KERAS_URL = "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet/"
KERAS_WIDTHS = {1.0: "1_0", 0.75: "7_5", 0.5: "5_0", 0.25: "2_5"}


@dataclass(frozen=True)
class WeightSource:
    """Published weights that a name stands for.

    Attributes:
        name: What a user types.
        url: Where the file is.
        sha256: Its checksum, or the first digits of it; None where its publisher states none: then that of the first
            download is recorded beside the file, and later uses are checked against it.
        licence: The licence they are under.
        source: Where they come from.
        alpha: Its width multiplier.
        image_size: The side, in pixels, of the pictures it was trained on.
        backbone: Its family, a name of ``list_backbones()``.
        folder: Where it is kept below the folder of all weights: not all files have a name of their own.
        normalisation: Mean and standard deviation of every channel, in units of 0..255, where the layout's are not
            the file's.
    """

    name: str
    url: str
    sha256: str | None
    licence: str
    source: str
    alpha: float
    image_size: int
    backbone: str = "mobilenet_v1"
    folder: str = ""
    normalisation: tuple[float, float] | None = None


def _keras_source(alpha: float, size: int) -> WeightSource:
    return WeightSource(
        name=f"keras_mobilenet_v1_{alpha}_{size}",
        url=f"{KERAS_URL}mobilenet_{KERAS_WIDTHS[alpha]}_{size}_tf.h5",
        sha256=None,
        licence="Apache-2.0",
        source="keras.applications.MobileNet, from TensorFlow's slim checkpoints of 2018-02-22; ImageNet, 1000 classes",
        alpha=alpha,
        image_size=size,
    )


def _torchvision_source(
    model: str, digits: str, recipe: str, *, default: bool, backbone: str | None = None
) -> WeightSource:
    return WeightSource(
        name=f"torchvision_{model}" + f"_{recipe.lower()}" * (not default),
        url=f"{TORCHVISION_URL}{model}-{digits}.pth",
        sha256=digits,  # of which the file's name holds the first
        licence="BSD-3-Clause",
        source=f"torchvision.models.{model}, {recipe}; ImageNet, 1000 classes",
        alpha=1.0,
        image_size=224,
        backbone=backbone or model,
    )


def _timm_source(backbone: str, tag: str, size: int, *, alpha: float = 1.0, half: bool = False) -> WeightSource:
    width = {"mobilenet_v1": f"_{100 * alpha:03.0f}"}.get(backbone, "" if alpha == 1 else f"_{100 * alpha:03.0f}")
    model = f"{backbone.replace('_v', 'v')}{width}.{tag}"
    return WeightSource(
        name=f"timm_{model}",
        url=f"{TIMM_URL}{model}/resolve/main/pytorch_model.bin",
        sha256=None,
        licence="Apache-2.0",
        source=f"timm's {model}; ImageNet, 1000 classes",
        alpha=alpha,
        image_size=size,
        backbone=backbone,
        folder=model,
        normalisation=(127.5, 127.5) if half else None,
    )


SOURCES: dict[str, WeightSource] = {
    source.name: source
    for source in (
        *(_keras_source(alpha, size) for alpha in KERAS_WIDTHS for size in (224, 192, 160, 128)),
        _torchvision_source("mobilenet_v2", "7ebf99e0", "IMAGENET1K_V2", default=True),
        _torchvision_source("mobilenet_v2", "b0353104", "IMAGENET1K_V1", default=False),
        _torchvision_source("mobilenet_v3_large", "5c1a4163", "IMAGENET1K_V2", default=True),
        _torchvision_source("mobilenet_v3_large", "8738ca79", "IMAGENET1K_V1", default=False),
        _torchvision_source("mobilenet_v3_small", "047dcff4", "IMAGENET1K_V1", default=True),
        _torchvision_source("squeezenet1_0", "b66bff10", "IMAGENET1K_V1", default=True, backbone="squeezenet"),
        _torchvision_source("squeezenet1_1", "b8a52dc0", "IMAGENET1K_V1", default=True, backbone="squeezenet"),
        _timm_source("mobilenet_v1", "ra4_e3600_r224_in1k", 224),
        _timm_source("mobilenet_v1", "ra4_e3600_r224_in1k", 224, alpha=1.25),
        _timm_source("mobilenet_v4_conv_small", "e1200_r224_in1k", 224),
        _timm_source("mobilenet_v4_conv_small", "e2400_r224_in1k", 224),
        _timm_source("mobilenet_v4_conv_small", "e3600_r256_in1k", 256, half=True),
        _timm_source("mobilenet_v4_conv_small", "e3000_r224_in1k", 224, alpha=0.5, half=True),
        _timm_source("mobilenet_v4_conv_medium", "e500_r224_in1k", 224),
        _timm_source("mobilenet_v4_conv_medium", "e500_r256_in1k", 256),
        _timm_source("mobilenet_v4_conv_large", "e500_r256_in1k", 256),
        _timm_source("mobilenet_v4_conv_large", "e600_r384_in1k", 384),
        _timm_source("mobilenet_v4_hybrid_medium", "e500_r224_in1k", 224),
        _timm_source("mobilenet_v4_hybrid_medium", "ix_e550_r256_in1k", 256),
        _timm_source("mobilenet_v4_hybrid_medium", "ix_e550_r384_in1k", 384),
        _timm_source("mobilenet_v4_hybrid_large", "e600_r384_in1k", 384),
        _timm_source("mobilenet_v4_hybrid_large", "ix_e600_r384_in1k", 384),
    )
}
