"""What commands take over from a checkpoint."""

from __future__ import annotations

import pytest

from mnvision.models.create import create_model
from mnvision.recall import SELECTION, settle_model


@pytest.fixture(scope="module")
def model():
    options = {"form": "c4", "score_threshold": 0.2, "nms_iou": 0.4, "pre_nms_top_k": 50, "max_detections": 7}
    return create_model("faster_rcnn", alpha=0.25, image_size=64, num_classes=2, task_options=options)


@pytest.mark.parametrize("name", SELECTION)
def test_null_leaves_the_models_own_selection(model, name):
    own = getattr(model, name)
    settle_model(model, {"overrides": [f"task.{name}"], "task": {name: None}}, {"task": {name: own}})
    assert getattr(model, name) == own
    settle_model(model, {"overrides": [f"task.{name}"], "task": {name: 1}}, {"task": {name: own}})
    assert getattr(model, name) == 1
