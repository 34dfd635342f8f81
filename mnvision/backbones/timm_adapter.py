"""Any convolutional model of timm as a backbone; timm is imported here alone, and only when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mnvision.backbones.base import Backbone
from mnvision.backbones.layers import LayerOptions
from mnvision.backbones.layouts import Weights, finite
from mnvision.errors import UserError, did_you_mean
from mnvision.types import FeatureLevel, Preprocessing

NETWORK = "backbone.network."
COUNTER = "num_batches_tracked"


class TimmBackbone(Backbone):
    """The maps that timm's ``features_only`` gives, one for each stride.

    Folding of BatchNorm and packing of weights leave the network as it is: its modules are of timm's own kinds. What
    its attention multiplies is not among the profiler's mult-adds. Give input sizes that are multiples of the largest
    stride: not all of its models round up where a map's side is odd.

    Args:
        name: A name of ``timm.list_models()``.

    Raises:
        UserError: If timm is missing, has no such model, or the model gives no maps at rising strides.
    """

    sequential = False  # its forward may do more than run its modules in order
    opaque = True

    def __init__(self, name: str) -> None:
        super().__init__(name=name, alpha=1.0, options=LayerOptions(norm_eps=1e-5))
        timm = _timm()
        if not timm.is_model(name.split(".")[0]):
            hint = did_you_mean(name, timm.list_models(), most=3) or "; timm.list_models() lists its models"
            raise UserError(f"unknown timm model {name!r}{hint}")
        try:
            self.network: nn.Module = timm.create_model(name, features_only=True, pretrained=False)
        except (AttributeError, RuntimeError, TypeError, AssertionError, KeyError) as error:
            raise UserError(f"timm gives no feature maps of {name} ({error}); choose a convolutional model") from error
        info = self.network.feature_info
        self.levels = [FeatureLevel(*pair) for pair in zip(info.channels(), info.reduction(), strict=True)]
        strides = [level.stride for level in self.levels]
        if any(fine >= coarse for fine, coarse in zip(strides, strides[1:], strict=False)):
            raise UserError(f"timm model {name} has maps at strides {strides}, expected rising ones; choose another")
        self.channels_last = str(getattr(self.network, "output_fmt", "NCHW")).endswith("NHWC")
        self.stages = _stages(self.network, ends=info.module_name())

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map normalised images [B, 3, H, W] to one map [B, C_i, H/s_i, W/s_i] per level."""
        maps: list[Tensor] = self.network(images)
        return [features.permute(0, 3, 1, 2) for features in maps] if self.channels_last else maps


class TimmClassifier(nn.Module):
    """A whole classifier of timm with its own head, as a teacher.

    Args:
        name: A name of ``timm.list_models()``.
        tensors: Its weights, by timm's names.

    Attributes:
        preprocessing: The size, mean and standard deviation that timm publishes for it.
        num_classes: Of its last layer.
        width: Channels of its last map.
        spec: Its class names among others, as of our models; set by who makes it.

    Raises:
        UserError: If timm is missing, has no such model, the weights do not fit, or it has no map.
    """

    spec: Any
    mean: Tensor
    std: Tensor

    def __init__(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        timm = _timm()
        if not timm.is_model(name.split(".")[0]):
            hint = did_you_mean(name, timm.list_models(), most=3) or "; timm.list_models() lists its models"
            raise UserError(f"unknown timm model {name!r}{hint}")
        head = timm.get_pretrained_cfg(name).classifier
        rows = tensors.get(f"{head}.weight")
        if rows is None:
            raise UserError(
                f"weights of timm's {name} have an array {head}.weight; these have {list(tensors)[:3]}, ..."
            )
        self.num_classes = len(rows)
        self.network: Any = timm.create_model(name, pretrained=False, num_classes=self.num_classes)
        try:
            self.network.load_state_dict(dict(tensors))
        except RuntimeError as error:
            raise UserError(f"the weights do not fit timm's {name}: {str(error).splitlines()[-1].strip()}") from error
        config = self.network.pretrained_cfg
        mean, std = (tuple(255 * value for value in config[key]) for key in ("mean", "std"))
        self.preprocessing = Preprocessing(config["input_size"][-1], mean=mean, std=std)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.width = int(self.network.num_features)

    def features(self, images: Tensor) -> Tensor:
        """Map images [B, 3, H, W], uint8 or float in 0..255, to the last map [B, C, h, w]."""
        found: Tensor = self.network.forward_features((images - self.mean) / self.std)
        if found.ndim != 4 or found.shape[1] != self.width:
            raise UserError("task.teacher: this timm model gives no maps [B, C, h, w]; choose a convolutional one")
        return found

    def classify(self, features: Tensor) -> Tensor:
        """Map the last map [B, C, h, w] to logits [B, K]."""
        return self.network.forward_head(features)


def create_timm_backbone(name: str, *, alpha: float, options: Mapping[str, Any]) -> TimmBackbone:
    """Build a timm model as a backbone, with fresh weights.

    Args:
        name: A name of ``timm.list_models()``.
        alpha: 1: the width of a timm model is part of its name.
        options: What else was asked for; only None is possible.

    Raises:
        UserError: For options that timm's models do not have, and as ``TimmBackbone`` does.
    """
    given = [f"{key}={value}" for key, value in options.items() if value is not None]
    given += [f"alpha={alpha}"] if alpha != 1 else []
    if given:
        raise UserError(
            f"timm model {name}: {', '.join(given)} cannot be chosen: the model is as timm defines it; leave it out or "
            "take a backbone of list_backbones()"
        )
    return TimmBackbone(name)


def timm_weights(tensors: Mapping[str, Tensor], *, name: str) -> Weights:
    """A state dict of the timm model itself as weights of ``TimmBackbone``; what is behind the last map keeps its name.

    Args:
        tensors: By timm's names.
        name: The model. timm's published settings of it tell mean and standard deviation.

    Raises:
        UserError: If timm is missing.
    """
    config = _timm().get_pretrained_cfg(name)
    settings: dict[str, Any] = {"name": name}
    if config is not None:
        settings |= {key: tuple(255 * value for value in getattr(config, key)) for key in ("mean", "std")}
    with torch.device("meta"):
        network = TimmBackbone(name).network
    # timm's feature extractors rename modules: stages.0 is stages_0 there.
    places = {_flat(key).removeprefix("model_"): key for key in network.state_dict()}
    kept = {key: finite(tensor.float(), name=key) for key, tensor in tensors.items() if not key.endswith(COUNTER)}
    named = {NETWORK + places[_flat(key)] if _flat(key) in places else key: tensor for key, tensor in kept.items()}
    return Weights(named, settings, description=f"timm's own arrays of {name}")


def _flat(name: str) -> str:
    return name.replace(".", "_")


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise UserError("backbone=timm needs timm: pip install timm") from error
    return timm


def _stages(network: nn.Module, *, ends: list[str]) -> list[list[nn.Module]]:
    """The modules up to each level, by the names of those that the levels come from."""
    names = [_flat(end) for end in ends]
    stages: list[list[nn.Module]] = [[]]
    for name, module in _units(network, "", names):
        stages[-1].append(module)
        if name in names and len(stages) < len(names):
            stages.append([])
    return stages


def _units(module: nn.Module, prefix: str, ends: list[str]) -> Iterator[tuple[str, nn.Module]]:
    """The modules in order, those that hold an end replaced by their own ones."""
    for name, child in module.named_children():
        path = _flat(f"{prefix}{name}")
        if path not in ends and any(end.startswith(f"{path}_") for end in ends):
            yield from _units(child, f"{path}_", ends)
        else:
            yield path, child
