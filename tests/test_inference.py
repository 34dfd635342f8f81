"""A model made fast for prediction computes what the model computes."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from mnvision import create_model, inference
from mnvision.inference import PackedConv, PackedLinear, for_inference
from mnvision.models.base import TaskModel

SETTINGS = [{}, {"padding": "same", "activation": "relu6"}, {"variant": "full_conv"}]


def make(form: str = "paper", **backbone_options: str) -> TaskModel:
    torch.manual_seed(0)
    model = create_model(
        "ssd",
        alpha=0.25,
        image_size=106,  # odd maps as well as even ones: SAME padding has both its forms
        num_classes=3,
        task_options={"form": form},
        backbone_options=backbone_options,
    )
    for norm in (part for part in model.modules() if isinstance(part, torch.nn.BatchNorm2d)):
        norm.running_mean.normal_(std=0.1)
        norm.running_var.uniform_(0.5, 2)
        torch.nn.init.uniform_(norm.weight, 0.5, 2)
        torch.nn.init.normal_(norm.bias)
    return model


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("form", ["paper", "lite", "fpn"])
def test_same_output(form, settings, batch):
    model = make(form, **settings)
    images = torch.randint(0, 256, (batch, 3, 106, 106), dtype=torch.uint8)
    expected = model.eval()(images)
    found = for_inference(model)(images)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
        assert other.abs().max() > 0.1


def test_every_convolution_is_packed():
    fast = for_inference(make())
    packed = {part.conv for part in fast.modules() if isinstance(part, PackedConv)}
    assert packed == {part for part in fast.modules() if isinstance(part, torch.nn.Conv2d)}
    assert not any(isinstance(part, torch.nn.BatchNorm2d | torch.nn.ReLU) for part in fast.modules())


def make_two_stages(form: str, **backbone_options: str) -> TaskModel:
    """With proposals that lie apart: where scores are nearly equal, rounding alone decides on their order."""
    torch.manual_seed(0)
    model = create_model(
        "faster_rcnn",
        alpha=0.25,
        image_size=96,
        num_classes=3,
        task_options={"form": form, "rpn_score_threshold": 0.0, "proposals": 20},
        backbone_options=backbone_options,
    )
    for part in (model.rpn.objectness, model.box_head.classes):
        torch.nn.init.normal_(part.weight, std=0.3)
    for norm in (part for part in model.modules() if isinstance(part, torch.nn.BatchNorm2d)):
        torch.nn.init.uniform_(norm.weight, 0.5, 2)
        torch.nn.init.normal_(norm.bias, std=0.2)
        norm.momentum = 1.0
    model.train()(torch.randint(0, 256, (4, 3, 96, 96), dtype=torch.uint8))  # statistics that fit
    return model


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("form", ["c4", "fpn"])
@torch.no_grad()
def test_both_stages_of_faster_rcnn(form, settings):
    model = make_two_stages(form, **settings)
    images = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    expected, fast = model.eval()(images), for_inference(model)
    plain: list[torch.nn.Module] = []
    packed = {part.conv for part in fast.modules() if isinstance(part, PackedConv)}
    stages = [part for stage in fast.backbone.stages for root in stage for part in root.modules()]
    for part in {*fast.modules(), *stages}:
        if isinstance(part, torch.nn.Conv2d | torch.nn.BatchNorm2d):
            part.register_forward_hook(lambda part, *_: plain.append(part))
    found = fast(images)
    assert plain == []
    assert {part for part in stages if isinstance(part, torch.nn.Conv2d)} <= packed
    assert expected.logits.std() > 0.1
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-3)


def test_large_fully_connected_layers_are_packed():
    model = make_two_stages("fpn")
    fast = for_inference(model)
    assert [part for part in fast.modules() if isinstance(part, PackedLinear)] == [*fast.box_head.hidden]
    inputs = torch.randn(7, 256 * 7 * 7)
    found, expected = fast.box_head.hidden[0](inputs), model.box_head.hidden[0](inputs)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


FAMILIES = ("mobilenet_v1", "mobilenet_v3_large", "mobilenet_v3_small", "mobilenet_v4_conv_small")


@pytest.mark.parametrize("backbone", FAMILIES)
def test_classifiers(backbone):
    torch.manual_seed(0)
    model = create_model("classify", backbone=backbone, image_size=64, num_classes=1000).eval()
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    fast = for_inference(model)
    assert any(isinstance(part, PackedLinear) for part in fast.modules()) == (backbone in FAMILIES[1::2])
    torch.testing.assert_close(fast(images), model(images), rtol=1e-3, atol=1e-4)


def test_convolutions_that_levels_share_are_packed_for_the_finest():
    model = make("fpn").eval()
    shapes = inference._input_shapes(model, torch.zeros(1, 3, 106, 106))
    assert {tuple(shapes[layer.conv][-2:]) for layer in model.heads.classes.layers} == {(14, 14)}
    fast = for_inference(model)
    packed = {part.conv: part for part in fast.modules() if isinstance(part, PackedConv)}
    assert packed.keys() == {part for part in fast.modules() if isinstance(part, torch.nn.Conv2d)}
    # Of BatchNorm, that of the shared convolutions is left: 5 levels, 4 convolutions, 2 towers.
    assert sum(isinstance(part, torch.nn.BatchNorm2d) for part in fast.modules()) == 5 * 4 * 2


def test_the_model_is_left_alone():
    model = make().train()
    before = copy.deepcopy(model.state_dict())
    for_inference(model)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_without_the_private_operations(monkeypatch):
    model = make()
    images = torch.randint(0, 256, (1, 3, 106, 106), dtype=torch.uint8)
    monkeypatch.setattr(inference, "can_pack", lambda: False)
    fast = for_inference(model)
    assert not any(isinstance(part, PackedConv) for part in fast.modules())
    torch.testing.assert_close(fast(images).logits, model.eval()(images).logits, rtol=1e-3, atol=1e-3)


def test_predictions_in_pixels_of_the_picture():
    model = make().eval()
    picture = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    (expected,), (found,) = model.predict([picture]), for_inference(model).predict([picture])
    assert len(expected.scores) > 0
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.boxes[:5], expected.boxes[:5], rtol=1e-3, atol=1e-2)
