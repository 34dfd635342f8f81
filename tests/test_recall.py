"""What commands take over from a checkpoint."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from mnvision.models.create import create_model
from mnvision.recall import SELECTION, settle_model

# The tasks that have them, where it is not Faster R-CNN.
TASK_OF = {"flip": "embed", "parent_level": "geolocate", "crop_share": "embed"}


@pytest.fixture(scope="module")
def models():
    options = {"form": "c4", "score_threshold": 0.2, "nms_iou": 0.4, "pre_nms_top_k": 50, "max_detections": 7}
    makers = {"faster_rcnn": options, "embed": {"flip": True}, "geolocate": {"parent_level": 3}}
    small = {"alpha": 0.25, "image_size": 64, "num_classes": 2}
    return {task: create_model(task, **small, task_options=options) for task, options in makers.items()}


@pytest.mark.parametrize("name", SELECTION)
def test_null_leaves_the_models_own_selection(models, name):
    model = models[TASK_OF.get(name, "faster_rcnn")]
    own = getattr(model, name)
    assert own is not None
    settle_model(model, {"overrides": [f"task.{name}"], "task": {name: None}}, {"task": {name: own}})
    assert getattr(model, name) == own
    settle_model(model, {"overrides": [f"task.{name}"], "task": {name: 1}}, {"task": {name: own}})
    assert getattr(model, name) == 1


def test_a_user_may_show_another_share_of_a_picture(models):
    whole = models["embed"].eval()
    model = copy.deepcopy(whole)
    saved = {"task": {"crop_share": None}}
    settle_model(model, {"overrides": ["task.crop_share"], "task": {"crop_share": None}}, saved)
    assert model.preprocessing == whole.preprocessing
    settle_model(model, {"overrides": ["task.crop_share"], "task": {"crop_share": 0.5}}, saved)
    assert model.preprocessing == replace(whole.preprocessing, crop_share=0.5)
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    torch.testing.assert_close(model.predict([picture]), whole.predict([picture[16:48, 16:48]]))
