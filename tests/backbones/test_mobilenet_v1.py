from __future__ import annotations

import pytest
import torch
from torch import nn

from mnvision.backbones import create_backbone, list_backbones
from mnvision.backbones.base import register_backbone
from mnvision.backbones.layers import ConvNormAct, LayerOptions, parameters_without_decay, same_padding
from mnvision.errors import UserError


@pytest.mark.parametrize("alpha", [1.0, 0.75, 0.5, 0.25, 0.1])
@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("size", [96, 75])
def test_levels_are_what_forward_returns(alpha, padding, size):
    backbone = create_backbone("mobilenet_v1", alpha=alpha, padding=padding)
    maps = backbone(torch.randn(2, 3, size, size))
    assert [level.stride for level in backbone.levels] == [2, 4, 8, 16, 32]
    for level, features in zip(backbone.levels, maps, strict=True):
        side = -(-size // level.stride)
        assert features.shape == (2, level.channels, side, side)
        assert torch.isfinite(features).all()
    sum(features.mean() for features in maps).backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


def test_channels_are_scaled_with_a_floor_of_eight():
    assert [level.channels for level in create_backbone("mobilenet_v1", alpha=0.75).levels] == [48, 96, 192, 384, 768]
    assert create_backbone("mobilenet_v1", alpha=0.1).levels[0].channels == 8


def test_the_last_depthwise_has_stride_one():
    backbone = create_backbone("mobilenet_v1")
    strides = [block.depthwise.conv.stride[0] for block in backbone.blocks]
    assert strides == [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]


@pytest.mark.parametrize(
    ("size", "expected"), [(224, (0, 1)), (112, (0, 1)), (75, (1, 1)), (19, (1, 1)), (1, (1, 1)), (2, (0, 1))]
)
def test_same_padding_by_hand(size, expected):
    assert same_padding(size, kernel=3, stride=2) == expected


def test_same_padding_starts_its_windows_at_the_first_pixel():
    same = create_backbone("mobilenet_v1", alpha=0.25, padding="same").stem.conv
    nn.init.zeros_(same.weight)
    same.weight.data[0, 0, 0, 0] = 1  # picks the top left pixel of each window
    image = torch.arange(64.0).reshape(1, 1, 8, 8).expand(1, 3, 8, 8)
    assert torch.equal(same(image)[0, 0], image[0, 0, ::2, ::2])


@pytest.mark.parametrize("stages", range(6))
def test_frozen_stages_and_their_norms_survive_train(stages):
    backbone = create_backbone("mobilenet_v1", alpha=0.25, freeze=stages)
    backbone.train()
    backbone.train()
    for index, stage in enumerate(backbone.stages):
        for part in stage:
            assert all(parameter.requires_grad == (index >= stages) for parameter in part.parameters())
            norms = [module for module in part.modules() if isinstance(module, nn.BatchNorm2d)]
            assert all(norm.training == (index >= stages) for norm in norms)


@pytest.mark.parametrize(
    ("norm", "affine_trains", "moves"),
    [
        ("train", True, True),
        ("freeze_statistics", True, False),
        ("freeze", False, False),
    ],
)
def test_norm_policies(norm, affine_trains, moves):
    backbone = create_backbone("mobilenet_v1", alpha=0.25, norm=norm)
    backbone.train()
    before = backbone.stem.norm.running_mean.clone()
    backbone(torch.randn(4, 3, 32, 32) + 3)
    assert (not torch.equal(before, backbone.stem.norm.running_mean)) == moves
    assert backbone.stem.norm.weight.requires_grad == affine_trains
    assert backbone.stem.conv.weight.requires_grad


def test_freezing_can_be_undone():
    backbone = create_backbone("mobilenet_v1", alpha=0.25, freeze=5, norm="freeze")
    backbone.freeze()
    assert all(parameter.requires_grad for parameter in backbone.parameters())
    assert all(module.training for module in backbone.modules())


def test_no_decay_on_depthwise_filters_norms_and_biases():
    backbone = create_backbone("mobilenet_v1", alpha=0.25)
    without = parameters_without_decay(backbone)
    decayed = {name for name, parameter in backbone.named_parameters() if parameter not in without}
    assert decayed == {"stem.conv.weight"} | {f"blocks.{i}.pointwise.conv.weight" for i in range(13)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "mobilenet_v11"}, "did you mean mobilenet_v"),
        ({"alpha": 0.0}, "alpha must be above 0"),
        ({"variant": "deep"}, "standard, shallow, full_conv, flattened"),
        ({"padding": "valid"}, "symmetric, same"),
        ({"activation": "swish"}, "relu, relu6"),
        ({"freeze": 6}, "0 to 5"),
        ({"norm": "off"}, "freeze_statistics"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        create_backbone(**{"name": "mobilenet_v1", **options})


def test_a_name_can_be_registered_once():
    assert "mobilenet_v1" in list_backbones()
    with pytest.raises(ValueError, match="registered already"):
        register_backbone("mobilenet_v1", options=LayerOptions())(lambda **_: None)


@pytest.mark.parametrize("groups", [1, 8])
@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_strided_convolutions_keep_float32_within_bfloat16(padding, groups):
    """On a CPU, where bfloat16's gradients of them are slow (depthwise) or wrong (on one cell)."""
    torch.manual_seed(0)
    options = LayerOptions(padding=padding)
    layer = ConvNormAct(8, 8, kernel=3, stride=2, groups=groups, options=options, activation="none")
    layer.norm = nn.Identity()
    images = torch.randn(2, 8, 12, 12).bfloat16().requires_grad_()
    exact = layer.conv(images.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = layer(images)
        assert not torch.equal(layer.conv(images), exact.bfloat16())  # its weights are rounded, too
    torch.testing.assert_close(found, exact.bfloat16(), rtol=0, atol=0)
    found.float().sum().backward()
    assert images.grad is not None
    assert images.grad.dtype == torch.bfloat16


def test_the_gradient_of_one_cell_is_finite_in_bfloat16():
    layer = ConvNormAct(32, 64, kernel=3, stride=2, options=LayerOptions())
    images = torch.randn(4, 32, 1, 1)
    for _ in range(20):  # the memory that was read where none was written held anything
        waste = [torch.full((32 * 64 * 9,), torch.nan) for _ in range(4)]
        del waste
        layer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            layer(images).float().square().sum().backward()
        assert torch.isfinite(layer.conv.weight.grad).all()
