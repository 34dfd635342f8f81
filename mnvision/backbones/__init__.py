"""Backbones, and the registry that every task draws from."""

from mnvision.backbones import mobilenet_v1 as _mobilenet_v1  # noqa: F401  (fills the registry)
from mnvision.backbones.base import Backbone, create_backbone, list_backbones, register_backbone

__all__ = ["Backbone", "create_backbone", "list_backbones", "register_backbone"]
