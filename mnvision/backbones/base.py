"""What a backbone is, and the registry of backbones: the only registry, because their names are user input."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from mnvision.backbones.layers import Activation, LayerOptions, Padding
from mnvision.errors import UserError, did_you_mean
from mnvision.types import FeatureLevel

NormPolicy = Literal["train", "freeze_statistics", "freeze"]
NORM_POLICIES = ("train", "freeze_statistics", "freeze")


class Backbone(nn.Module):
    """A network that turns normalised images [B, 3, H, W] into a list of feature maps, finest first.

    A subclass fills, while it builds, what heads read instead of hard-coding or probing:

    Attributes:
        name: The name in the registry.
        alpha: The width multiplier.
        levels: Channels and stride of each map that ``forward`` returns.
        stages: The modules between two levels, in order; freezing counts in these.
        options: Padding, activation and norm settings: heads build their own layers alike.
        head_width: Channels of the layer that the family's classifier has before its last one; None where it has none.
        head_norm: Whether that layer is a 1x1 convolution with BatchNorm and activation, as V4's; else it is fully
            connected, with hard swish behind it, as V3's.
        head_dropout: Share of the features that the family's classifier zeroes in training.
        frozen_stages: How many stages do not train, see ``freeze``.
        norm_policy: What BatchNorm does in the others.
        scores_cells: Whether the family's classifier scores every cell of the last map and averages what is above 0,
            as SqueezeNet's; else it averages the map and scores that.
        rounds_up: Whether a map has ``ceil(S / stride)`` cells along a side, as ``map_sizes`` and so every detector
            expects; False for a network that is for classification alone.
        sequential: Whether its stages, run one after the other, give the levels' maps.
        opaque: Whether its modules are not of our kinds: folding of BatchNorm and packing of weights leave it alone.
    """

    head_width: int | None = None
    head_norm: bool = False
    head_dropout: float = 0.001
    scores_cells: bool = False
    rounds_up: bool = True
    sequential: bool = True
    opaque: bool = False

    def __init__(self, *, name: str, alpha: float, options: LayerOptions) -> None:
        super().__init__()
        if not alpha > 0:
            raise UserError(f"backbone.alpha must be above 0, got {alpha}")
        self.name = name
        self.alpha = alpha
        self.options = options
        self.levels: list[FeatureLevel] = []
        self.stages: list[list[nn.Module]] = []
        self._always_eval: list[nn.Module] = []
        self.frozen_stages = 0
        self.norm_policy: NormPolicy = "train"

    def scale(self, channels: int, *, minimum: int = 8) -> int:
        """The width multiplier applied to a channel count: ``max(int(channels * alpha), minimum)``."""
        return max(int(channels * self.alpha), minimum)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map normalised float images [B, 3, H, W] to one [B, C_i, ceil(H/s_i), ceil(W/s_i)] per level.

        Where ``rounds_up`` is False a map may have fewer cells.
        """
        raise NotImplementedError

    def freeze(self, stages: int = 0, *, norm: NormPolicy = "train") -> None:
        """Stop the first stages from training, and choose what BatchNorm does in the others.

        Args:
            stages: How many stages to freeze, from the image on; their norms are frozen whole.
            norm: ``train``; ``freeze_statistics`` (running statistics are used and kept, gamma and beta train); or
                ``freeze`` (gamma and beta are kept too).

        Raises:
            UserError: If there are fewer stages, or the policy is unknown.
        """
        if not 0 <= stages <= len(self.stages):
            raise UserError(f"backbone.freeze must be 0 to {len(self.stages)} for {self.name}, got {stages}")
        if norm not in NORM_POLICIES:
            raise UserError(f"backbone.norm must be one of {', '.join(NORM_POLICIES)}; got {norm!r}")
        self.frozen_stages, self.norm_policy = stages, norm
        frozen = [part for stage in self.stages[:stages] for part in stage]
        self.requires_grad_(True)
        for part in frozen:
            part.requires_grad_(False)
        self._always_eval = [m for part in frozen for m in part.modules() if _is_norm(m)]
        if norm != "train":
            self._always_eval = [m for m in self.modules() if _is_norm(m)]
        if norm == "freeze":
            for part in self._always_eval:
                part.requires_grad_(False)
        self.train(self.training)

    def depths(self) -> dict[nn.Parameter, int]:
        """How far from the head each parameter lies, in stages: 1 in the last one."""
        places = {
            parameter: len(self.stages) - number
            for number, stage in enumerate(self.stages)
            for part in stage
            for parameter in part.parameters()
        }
        return {parameter: places.get(parameter, len(self.stages)) for parameter in self.parameters()}

    def train(self, mode: bool = True) -> Backbone:
        """Switch to training, but leave frozen norms in evaluation: a trainer calls this before every epoch."""
        super().train(mode)
        for part in self._always_eval:
            part.eval()
        return self


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


def map_sizes(image_size: int, levels: Sequence[FeatureLevel]) -> list[int]:
    """Cells along one side of each level's map: ``ceil(image_size / stride)``."""
    return [math.ceil(image_size / level.stride) for level in levels]


Builder = Callable[..., Backbone]
# Options that a family has unless it is registered without them.
COMMON_OPTIONS = ("padding", "activation", "norm_eps", "norm_momentum", "freeze", "norm")


class Entry(NamedTuple):
    """A family of backbones in the registry: its builder, its layer options, and the common options it lacks."""

    builder: Builder
    options: LayerOptions
    without: frozenset[str]


_BUILDERS: dict[str, Entry] = {}


def register_backbone(
    name: str, *, options: LayerOptions, without: Collection[str] = ()
) -> Callable[[Builder], Builder]:
    """Add a builder to the registry; a name can be taken once.

    Args:
        name: What users type.
        options: The family's own layer options: they hold where the user gives none.
        without: Those of ``COMMON_OPTIONS`` that mean nothing to the family; to give one is an error.
    """

    def add(builder: Builder) -> Builder:
        if name in _BUILDERS:
            raise ValueError(f"a backbone named {name!r} is registered already")
        _BUILDERS[name] = Entry(builder, options, frozenset(without))
        return builder

    return add


def list_backbones() -> list[str]:
    """The names that ``create_backbone`` takes."""
    return sorted(_BUILDERS)


def family_options(name: str) -> set[str]:
    """The options that a family of backbones alone has, such as ``variant``; none for an unknown name."""
    if name not in _BUILDERS:
        return set()
    return {*inspect.signature(_BUILDERS[name].builder).parameters} - {"alpha", "options"}


def common_options(name: str) -> set[str]:
    """Those of ``COMMON_OPTIONS`` that a backbone has; all of them for an unknown name."""
    return {*COMMON_OPTIONS} - (_BUILDERS[name].without if name in _BUILDERS else set())


def create_backbone(
    name: str,
    *,
    alpha: float = 1.0,
    padding: Padding | None = None,
    activation: Activation | None = None,
    norm_eps: float | None = None,
    norm_momentum: float | None = None,
    freeze: int = 0,
    norm: NormPolicy = "train",
    library: Literal["timm"] | None = None,
    **family: Any,
) -> Backbone:
    """Build a backbone by name, with fresh weights.

    Args:
        name: One of ``list_backbones()``, or of the library's own names.
        alpha: Width multiplier.
        padding: ``symmetric`` or ``same`` (TensorFlow's).
        activation: ``relu``, ``relu6``, ``hardswish`` or ``gelu``.
        norm_eps: BatchNorm's epsilon.
        norm_momentum: Weight of a new batch in BatchNorm's running statistics.
        freeze: Stages to freeze, from the image on.
        norm: BatchNorm policy, see ``Backbone.freeze``.
        library: ``timm``: a model of timm, see ``timm_adapter``; it takes no option but ``freeze`` and ``norm``.
        family: What this family alone has, such as ``variant``; see its module. An option that is None is the
            family's own default.

    Raises:
        UserError: For an unknown name or option (with the nearest ones) or a value out of range.
    """
    if library not in (None, "timm"):
        raise UserError(f"backbone.library must be timm or left out, got {library!r}")
    given: dict[str, Any] = {
        "padding": padding,
        "activation": activation,
        "norm_eps": norm_eps,
        "norm_momentum": norm_momentum,
    }
    if library == "timm":
        from mnvision.backbones.timm_adapter import create_timm_backbone

        backbone: Backbone = create_timm_backbone(name, alpha=alpha, options=given | family)
        backbone.freeze(freeze, norm=norm)
        return backbone
    if name not in _BUILDERS:
        raise UserError(f"unknown backbone {name!r}{did_you_mean(name, _BUILDERS, most=3, known=True)}")
    builder, own, without = _BUILDERS[name]
    given = {key: value for key, value in given.items() if value is not None}
    known = family_options(name)
    lacking = without & ({*given} | ({"norm"} if norm != "train" else set()))
    for key in (*sorted(lacking), *(key for key in family if key not in known)):
        common = {*inspect.signature(create_backbone).parameters} - {"family", *without}
        raise UserError(f"backbone {name} has no option {key!r}{did_you_mean(key, known | common, most=3, known=True)}")
    options = replace(own, **given)
    family = {key: value for key, value in family.items() if value is not None}
    backbone = builder(alpha=alpha, options=options, **family)
    backbone.freeze(freeze, norm=norm)
    return backbone
