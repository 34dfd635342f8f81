"""Flattened convolutions, and what each kind of convolution costs beside the full one."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mnvision import create_model, load_model
from mnvision.backbones import create_backbone
from mnvision.backbones.folding import fold_batchnorm
from mnvision.backbones.layers import FlattenedConv, LayerOptions
from mnvision.backbones.weights import load_weights, read_weights
from mnvision.checkpoint import save_model
from mnvision.errors import UserError
from mnvision.inference import for_inference
from mnvision.profiler import profile


def costs(variant: str, *, alpha: float = 1.0) -> list[tuple[int, int, int, int]]:
    """Channels in and out, mult-adds and weights of each block of MobileNet V1 at 224."""
    with torch.device("meta"):
        backbone = create_backbone("mobilenet_v1", variant=variant, alpha=alpha)
        found = profile(backbone, image_size=224)
    rows, channels = [], backbone.levels[0].channels // 2
    for number in range(13):
        part = found.part(f"blocks.{number}")
        out = part.layers[-1].output[0]
        rows.append((channels, out, part.mult_adds, part.parameters))
        channels = out
    return rows


@pytest.mark.parametrize("alpha", [1.0, 0.75])
def test_a_separable_block_costs_one_nth_and_one_ninth_of_a_full_convolution(alpha):
    """Section 3.1: 1/N + 1/Dk^2 of the mult-adds, which are integers: s/f = (9 + N) / 9N is 9N s = (9 + N) f."""
    for separable, full in zip(costs("standard", alpha=alpha), costs("full_conv", alpha=alpha), strict=True):
        assert separable[:2] == full[:2]
        outputs = full[1]
        for own, other in zip(separable[2:], full[2:], strict=True):  # of the weights it is the same share
            assert 9 * outputs * own == (9 + outputs) * other


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_a_flattened_filter_has_the_sum_of_its_sides(alpha):
    for inputs, outputs, _, weights in costs("flattened", alpha=alpha):
        assert weights == outputs * (inputs + 3 + 3)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("side", [8, 9])
@torch.no_grad()
def test_the_three_lines_are_a_full_convolution_with_filters_of_rank_one(stride, padding, side):
    torch.manual_seed(0)
    layer = FlattenedConv(4, 5, stride=stride, options=LayerOptions(padding=padding)).eval()
    names = [name for name, part in layer.named_modules() if isinstance(part, nn.Conv2d)]
    assert names == ["lateral.conv", "vertical.conv", "horizontal.conv"]
    kinds = {type(part) for name, part in layer.named_modules() if name.endswith(("norm", "activation"))}
    assert kinds == {nn.Identity, nn.BatchNorm2d, nn.ReLU}
    across, down, along = (layer.get_submodule(name).weight for name in names)
    filters = across[:, :, 0, 0, None, None] * down[:, :, :, 0, None] * along[:, :, None, 0]  # [5, 4, 3, 3]
    images = torch.randn(2, 4, side, side)
    zeros = (0, 1, 0, 1) if padding == "same" and stride == 2 and side == 8 else (1, 1, 1, 1)
    expected = F.conv2d(F.pad(images, zeros), filters, stride=stride)
    expected = layer.horizontal.activation(layer.horizontal.norm(expected))
    assert expected.shape == (2, 5, -(-side // stride), -(-side // stride))
    torch.testing.assert_close(layer(images), expected, rtol=1e-5, atol=1e-5)


def small() -> nn.Module:
    torch.manual_seed(0)
    return create_model("classify", alpha=0.25, image_size=64, num_classes=3, backbone_options={"variant": "flattened"})


def test_a_step_of_training_a_checkpoint_and_a_fast_copy(tmp_path):
    model = small().train()
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    before = {key: value.clone() for key, value in model.named_parameters()}
    F.cross_entropy(model(images), torch.arange(4) % 3).backward()
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    assert not any(torch.equal(value, before[key]) for key, value in model.named_parameters())
    model.eval()
    save_model(model, tmp_path / "flat.ckpt")
    again = load_model(tmp_path / "flat.ckpt").eval()
    assert again.backbone.variant == "flattened"
    with torch.no_grad():
        expected = model(images)
        assert torch.equal(again(images), expected)
        for network in (fold_batchnorm(model), for_inference(model)):
            assert not any(isinstance(part, nn.BatchNorm2d) for part in network.modules())
            torch.testing.assert_close(network(images), expected, rtol=1e-3, atol=1e-3)


def test_weights_tell_the_variant(tmp_path):
    torch.save(small().state_dict(), tmp_path / "flat.pt")
    given = read_weights(tmp_path / "flat.pt")
    assert given.settings == {"name": "mobilenet_v1", "alpha": 0.25, "variant": "flattened"}
    with pytest.raises(
        UserError, match=r"of variant flattened, the model has variant full_conv: set backbone\.variant"
    ):
        load_weights(create_backbone("mobilenet_v1", alpha=0.25, variant="full_conv"), given)


def test_it_plugs_into_a_detector():
    model = create_model(
        "ssd", alpha=0.25, image_size=64, num_classes=2, backbone_options={"variant": "flattened"}
    ).eval()
    assert torch.isfinite(model(torch.zeros(1, 3, 64, 64)).logits).all()
