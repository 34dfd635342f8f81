"""Small weight files in the layouts of other programs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mnvision.backbones.weights import to_keras_arrays
from tests.backbones.networks import classifier


@pytest.fixture
def keras_file(tmp_path) -> Path:
    """A small classifier with statistics of its own, in Keras' layout."""
    model = classifier()
    with torch.no_grad():
        for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2)
    np.savez(tmp_path / "small.npz", **to_keras_arrays(model.state_dict()))
    return tmp_path / "small.npz"


@pytest.fixture
def ssd_file(tmp_path) -> Path:
    """A small SSD in the layout of TensorFlow's, with a slot that has no class, as in COCO: cat, -, dog, bird."""
    generator, arrays = np.random.default_rng(0), {}

    def layer(name: str, *shape: int) -> None:
        arrays[f"{name}/weight"] = generator.normal(size=shape).astype(np.float32)
        arrays[f"{name}/bias"] = generator.normal(size=shape[0]).astype(np.float32)

    widths = [8, 16, 32, 32, 64, 64, *[128] * 6, 256, 256]
    layer("conv0", 8, 3, 3, 3)
    for block, (before, after) in enumerate(zip(widths, widths[1:], strict=False), start=1):
        layer(f"block{block}/depthwise", before, 1, 3, 3)
        layer(f"block{block}/pointwise", after, before, 1, 1)
    taps = [128, 256]
    for extra, depth in enumerate((128, 64, 64, 32), start=1):
        layer(f"extra{extra}/reduce", depth // 2, taps[-1], 1, 1)
        layer(f"extra{extra}/expand", depth, depth // 2, 3, 3)
        taps.append(depth)
    for head, (width, anchors) in enumerate(zip(taps, (3, 6, 6, 6, 6, 6), strict=True)):
        layer(f"head{head}/box", anchors * 4, width, 1, 1)
        layer(f"head{head}/class", anchors * 5, width, 1, 1)
    meta = {
        "class_names": ["background", "cat", None, "dog", "bird"],
        "class_index_to_coco_id": {"0": None, "1": 17, "2": None, "3": 18, "4": 16},
    }
    np.savez(tmp_path / "ssd.npz", meta=json.dumps(meta), anchors=np.zeros((1917, 4)), **arrays)
    return tmp_path / "ssd.npz"
