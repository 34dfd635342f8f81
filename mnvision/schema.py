"""Which keys a configuration has and which values they may take; the YAML files of ``conf/`` explain the keys."""

from __future__ import annotations

import dataclasses
import typing
from typing import Annotated, Any, Literal

from mnvision.schema_data import DATA
from mnvision.schema_tasks import TASKS
from mnvision.value_types import (
    Count,
    Fraction,
    Limits,
    Natural,
    NotNegative,
    Positive,
    Share,
    Weights,
)


@dataclasses.dataclass
class Backbone:
    """Keys of ``backbone`` that every family has."""

    name: str
    alpha: Positive
    rho: Positive
    padding: Literal["symmetric", "same"] | None
    activation: Literal["relu", "relu6", "hardswish"] | None
    norm_eps: Positive | None
    norm_momentum: Share
    weights: Weights | None
    narrow_weights: bool
    freeze: Annotated[int, Limits(low=0, high=5)]
    norm: Literal["train", "freeze_statistics", "freeze"]


@dataclasses.dataclass
class MobileNetV1(Backbone):
    """Keys of ``backbone`` where its name is ``mobilenet_v1``."""

    variant: Literal["standard", "shallow", "full_conv", "flattened"]


@dataclasses.dataclass
class MobileNetCifar(Backbone):
    """Keys of ``backbone`` where its name is ``mobilenet_cifar``."""

    blocks: Literal[11, 10] | None
    freeze: Annotated[int, Limits(low=0, high=2)]


@dataclasses.dataclass
class MobileNetV2(Backbone):
    """Keys of ``backbone`` where its name is ``mobilenet_v2``."""

    taps: Literal["stages", "expansions", "strided"] | None


@dataclasses.dataclass
class MobileNetV3(MobileNetV2):
    """Keys of ``backbone`` where its name is ``mobilenet_v3_large`` or ``mobilenet_v3_small``."""

    reduced_tail: bool | None


@dataclasses.dataclass
class MobileNetV4(Backbone):
    """Keys of ``backbone`` where its name is one of MobileNet V4's."""

    activation: Literal["relu", "relu6", "hardswish", "gelu"] | None  # type: ignore[assignment]


@dataclasses.dataclass
class SqueezeNet:
    """Keys of ``backbone`` where its name is ``squeezenet``, which has no BatchNorm and one padding alone."""

    name: str
    alpha: Positive
    rho: Positive
    version: Literal[1.0, 1.1] | None  # type: ignore[valid-type]
    activation: Literal["relu", "relu6", "hardswish"] | None
    weights: Weights | None
    narrow_weights: bool
    freeze: Annotated[int, Limits(low=0, high=4)]


@dataclasses.dataclass
class Timm:
    """Keys of ``backbone`` where its library is ``timm``."""

    library: Literal["timm"]
    name: Annotated[str, "the name of a timm model"]
    alpha: Positive
    rho: Positive
    weights: Weights | None
    freeze: Natural
    norm: Literal["train", "freeze_statistics", "freeze"]


@dataclasses.dataclass
class Constant:
    """Keys of ``scheduler`` where its name is ``constant``; the others have them too."""

    name: str
    warmup_epochs: NotNegative


@dataclasses.dataclass
class Cosine(Constant):
    """Keys of ``scheduler`` where its name is ``cosine``."""

    final_factor: Fraction


@dataclasses.dataclass
class Exponential(Constant):
    """Keys of ``scheduler`` where its name is ``exponential``."""

    gamma: Share
    every_epochs: Positive


@dataclasses.dataclass
class MultiStep(Constant):
    """Keys of ``scheduler`` where its name is ``multistep``."""

    gamma: Share
    milestones: list[Count]


@dataclasses.dataclass
class Trainer:
    """Keys of ``trainer``."""

    max_epochs: Count
    precision: Literal["auto", 32, "bf16", 16]
    accelerator: Literal["auto", "cpu", "gpu", "mps"]
    devices: Literal["auto"] | Count | list[Natural]
    channels_last: bool
    fused: bool
    keep_memory: bool
    selective_weight_decay: bool
    pretrained_lr_factor: Share
    layer_decay: Share
    unfreeze_every_epochs: Count | None
    progressive_rho: list[Positive] | None
    ema_decay: Fraction | None
    gradient_clip: Positive | None
    limit_train_batches: Count | Share | None
    limit_val_batches: Count | Share | None
    check_every_epochs: Count
    progress_bar: bool
    log_every_steps: Count
    tensorboard: bool
    unfold_batches: Count
    pictures: Natural
    deterministic: bool
    compile: bool


# The schema of a section by its `name`, or by its `library`, whose names are its own; without both there is one schema.
SECTIONS: dict[str, dict[str, type]] = {
    "task": TASKS,
    "backbone": {
        "mobilenet_v1": MobileNetV1,
        "mobilenet_v2": MobileNetV2,
        "mobilenet_v3_large": MobileNetV3,
        "mobilenet_v3_small": MobileNetV3,
        "mobilenet_v4_conv_small": MobileNetV4,
        "mobilenet_v4_conv_medium": MobileNetV4,
        "mobilenet_v4_conv_large": MobileNetV4,
        "mobilenet_v4_hybrid_medium": MobileNetV4,
        "mobilenet_v4_hybrid_large": MobileNetV4,
        "mobilenet_cifar": MobileNetCifar,
        "squeezenet": SqueezeNet,
        "timm": Timm,
    },
    "scheduler": {"cosine": Cosine, "exponential": Exponential, "multistep": MultiStep, "constant": Constant},
    "trainer": {"": Trainer},
    "data": DATA,
}
# An optimizer's class decides which further keys it has. It needs the first two; these are checked where given.
OPTIMIZER: dict[str, Any] = {
    "_target_": Annotated[str, "a class of torch.optim"],
    "lr": Positive,
    "momentum": Fraction,
    "weight_decay": NotNegative,
    "nesterov": bool,
    "alpha": Fraction,
    "betas": list[Fraction],
    "eps": Positive | list[float | None],
    "dampening": NotNegative,
}


def fields(schema: type) -> dict[str, Any]:
    """The keys of a schema class and the type of each."""
    return typing.get_type_hints(schema, include_extras=True)
