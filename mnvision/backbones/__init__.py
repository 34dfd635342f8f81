"""Backbones, and the registry that every task draws from."""

from mnvision.backbones import mobilenet_cifar as _mobilenet_cifar  # noqa: F401  (fills the registry)
from mnvision.backbones import mobilenet_v1 as _mobilenet_v1  # noqa: F401
from mnvision.backbones import mobilenet_v2 as _mobilenet_v2  # noqa: F401
from mnvision.backbones import mobilenet_v3 as _mobilenet_v3  # noqa: F401
from mnvision.backbones import mobilenet_v4 as _mobilenet_v4  # noqa: F401
from mnvision.backbones import squeezenet as _squeezenet  # noqa: F401
from mnvision.backbones.base import Backbone, create_backbone, list_backbones, register_backbone

__all__ = ["Backbone", "create_backbone", "list_backbones", "register_backbone"]
