"""MobileNet for every vision task of its paper: train, evaluate and ship small fast models."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnvision.backbones import create_backbone as create_backbone
    from mnvision.backbones import list_backbones as list_backbones
    from mnvision.checkpoint import load_model as load_model
    from mnvision.checkpoint import save_model as save_model
    from mnvision.inference import for_inference as for_inference
    from mnvision.models.create import create_model as create_model
    from mnvision.profiler import profile as profile

__version__ = "0.1.0"

# Loaded when first asked for: the command line answers a typo before torch is imported.
_HOMES = {
    "create_backbone": "mnvision.backbones",
    "list_backbones": "mnvision.backbones",
    "for_inference": "mnvision.inference",
    "create_model": "mnvision.models.create",
    "load_model": "mnvision.checkpoint",
    "save_model": "mnvision.checkpoint",
    "profile": "mnvision.profiler",
}
__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
