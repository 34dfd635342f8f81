"""Small networks for the tests of weight files, and what the tests compare."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mnvision.backbones import create_backbone
from mnvision.models.classifier import Classifier
from mnvision.models.ssd import SSD
from mnvision.types import Preprocessing

TENSORFLOW = {"padding": "same", "activation": "relu6", "norm_eps": 1e-3}


def classifier(*, alpha: float = 0.25, classes: int = 10, seed: int = 0, **options) -> Classifier:
    torch.manual_seed(seed)
    backbone = create_backbone("mobilenet_v1", alpha=alpha, **(TENSORFLOW | options))
    return Classifier(backbone, num_classes=classes, preprocessing=Preprocessing(224)).eval()


def detector(*, alpha: float = 0.25, classes: int = 3, seed: int = 0, norm_eps: float = 1e-3, **options: str) -> SSD:
    """An SSD as TensorFlow's; ``options`` go to the head."""
    torch.manual_seed(seed)
    backbone = create_backbone("mobilenet_v1", alpha=alpha, **(TENSORFLOW | {"norm_eps": norm_eps}))
    preprocessing = Preprocessing(300, (128.0,) * 3, (128.0,) * 3)
    head = {"loss": "focal", "focal_alpha": 0.75} | options
    return SSD(backbone, num_classes=classes, preprocessing=preprocessing, **head).eval()


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(left: nn.Module, right: nn.Module, *, but: Callable[[str], bool] = lambda name: False) -> bool:
    other = right.state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in left.state_dict().items() if not but(name))
