"""BatchNorm folded away, unfolded again, and what training then does."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mnvision.backbones import create_backbone
from mnvision.backbones.folding import fold_batchnorm, is_folded, unfold_batchnorm
from mnvision.backbones.layers import ConvNormAct, LayerOptions
from mnvision.backbones.weights import load_weights, read_weights
from mnvision.models.ssd import SSD
from mnvision.ops.image import read_image, resize_image
from mnvision.types import Preprocessing


def network(*, seed: int = 0, eps: float = 1e-3) -> nn.Sequential:
    """Three layers, one of them depthwise, and a convolution without a norm."""
    torch.manual_seed(seed)
    options = LayerOptions(padding="same", activation="relu6", norm_eps=eps)
    return nn.Sequential(
        ConvNormAct(3, 8, kernel=3, stride=2, options=options),
        ConvNormAct(8, 8, kernel=3, groups=8, options=options),
        ConvNormAct(8, 16, kernel=1, options=options),
        nn.Conv2d(16, 5, 1),
    ).eval()


def norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def randomise(model: nn.Module) -> nn.Module:
    """Statistics and affine parameters as training leaves them."""
    for norm in norms(model):
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.1, 4.0)
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return model


def make_identities(model: nn.Module) -> nn.Module:
    """Norms as loading folded weights leaves them."""
    for norm in norms(model):
        norm.running_mean.zero_()
        norm.running_var.copy_(torch.ones_like(norm.running_var) - norm.eps)
        nn.init.ones_(norm.weight)
        nn.init.normal_(norm.bias)
    return model


@pytest.fixture
def pictures() -> torch.Tensor:
    return torch.rand(6, 3, 17, 17, generator=torch.Generator().manual_seed(1)) * 2 - 1


@torch.no_grad()
def test_identities_are_detected():
    assert not is_folded(network())  # fresh norms divide by sqrt(1 + eps)
    assert not is_folded(network(eps=1e-5))
    assert not is_folded(randomise(network()))
    assert not is_folded(nn.Conv2d(3, 3, 1))
    scaled = make_identities(network())
    for norm in norms(scaled):
        norm.weight.fill_(2)
    assert not is_folded(scaled)
    assert is_folded(make_identities(network()))
    assert is_folded(nn.Sequential(make_identities(network()), network()))  # a folded backbone in a fresh detector


@pytest.mark.parametrize("eps", [1e-2, 1e-3, 1e-5])
@torch.no_grad()
def test_identities_are_exact(eps):
    model = make_identities(network(eps=eps))
    values = torch.randn(2, 8, 9, 9) * 10
    norms(model)[0].bias.zero_()
    assert torch.equal(norms(model)[0](values), values)


@torch.no_grad()
def test_unfolding_keeps_the_function_and_takes_exact_statistics(pictures):
    model = make_identities(network())
    model.train()
    model[1].eval()  # a frozen layer
    before = copy.deepcopy(model).eval()(pictures)
    first = model[0].conv(pictures).double()
    deep = model[2].conv(copy.deepcopy(model[:2]).eval()(pictures)).double()
    bias = model[0].norm.bias.clone()

    assert unfold_batchnorm(model, [pictures[:4], pictures[4:]]) == 3  # batches of different sizes count by picture

    norm = model[0].norm
    variance, mean = torch.var_mean(first, dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(norm.running_mean.double(), mean, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(norm.running_var.double(), variance, rtol=1e-6, atol=0)
    torch.testing.assert_close(norm.weight.double(), (variance + norm.eps).sqrt(), rtol=1e-6, atol=0)
    torch.testing.assert_close(norm.bias.double(), bias.double() + mean, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(model[2].norm.running_mean.double(), deep.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
    assert not is_folded(model)
    assert (model.training, model[0].training, model[1].training) == (True, True, False)
    assert not any(module._forward_pre_hooks for module in model.modules())
    torch.testing.assert_close(model.eval()(pictures), before, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_training_mode_computes_the_same_after_unfolding_and_not_before(pictures):
    model = make_identities(network())
    expected = model(pictures)
    folded = copy.deepcopy(model).train()(pictures)
    unfold_batchnorm(model, [pictures])
    unfolded = model.train()(pictures)
    assert (folded - expected).abs().mean() > 0.1 * expected.abs().mean()
    torch.testing.assert_close(unfolded, expected, rtol=1e-4, atol=1e-5)


def test_dead_channels_neither_blow_up_nor_block(pictures):
    model = make_identities(network())
    with torch.no_grad():
        model[0].conv.weight[3] = 0
    unfold_batchnorm(model, [pictures])
    norm = model[0].norm
    assert norm.running_var[3] == 0
    torch.testing.assert_close(norm.weight[3].item(), norm.eps**0.5)

    model.train()
    values = torch.zeros(6, 8, 9, 9, requires_grad=True)
    norm(values).sum(dim=(0, 2, 3))[3].backward()
    assert values.grad is not None
    assert values.grad.abs().max() <= 1.0 + 1e-4  # what the folded network had: 1

    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(20):
        optimizer.zero_grad()
        loss = model(pictures).square().mean()
        loss.backward()
        optimizer.step()
    assert torch.isfinite(loss)
    assert loss < 1.0


@torch.no_grad()
def test_unfolding_leaves_other_norms_alone_and_counts_batches(pictures):
    fresh, seen = network(seed=3), []
    model = nn.Sequential(make_identities(network()), nn.Conv2d(5, 3, 1), fresh).eval()
    state = copy.deepcopy(fresh.state_dict())

    def batches():
        for index in range(100):
            seen.append(index)
            yield pictures

    assert unfold_batchnorm(model, batches(), max_batches=3) == 3
    assert len(seen) == 3
    assert all(torch.equal(tensor, state[name]) for name, tensor in fresh.state_dict().items())
    assert unfold_batchnorm(model, batches(), max_batches=3) == 0  # nothing left to do
    assert len(seen) == 3


def test_unfolding_needs_pictures(pictures):
    model = make_identities(network())
    with pytest.raises(ValueError, match="no batch"):
        unfold_batchnorm(model, [])
    assert is_folded(model)


@pytest.mark.parametrize("bias", [False, True])
@torch.no_grad()
def test_folding_for_inference_keeps_the_function(pictures, bias):
    model = randomise(network())
    if bias:
        model[1].conv.bias = nn.Parameter(torch.randn(8))
    state = copy.deepcopy(model.state_dict())
    expected = model(pictures)
    folded = fold_batchnorm(model.train())
    assert not norms(folded)
    assert not folded.training
    torch.testing.assert_close(folded(pictures), expected, rtol=1e-5, atol=1e-5)
    assert model.training
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_folding_reaches_every_layer_of_a_backbone():
    backbone = randomise(create_backbone("mobilenet_v1", alpha=0.25)).eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected, got = backbone(images), fold_batchnorm(backbone)(images)
    for left, right in zip(expected, got, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-5 * float(left.abs().max()))


@pytest.fixture(scope="module")
def detector(shared_weights) -> SSD:
    """The real SSD, its BatchNorm folded, with all 90 slots."""
    weights = read_weights(shared_weights / "ssd_mobilenet_v1_0.75_300_coco.npz")
    model = SSD(
        create_backbone("mobilenet_v1", alpha=0.75, padding="same", activation="relu6"),
        num_classes=90,
        preprocessing=Preprocessing(300, weights.settings["mean"], weights.settings["std"]),
        loss="sigmoid",
    )
    load_weights(model, weights)
    return model.eval()


@pytest.fixture(scope="module")
def photos(shared_data) -> torch.Tensor:
    paths = sorted((shared_data / "coco128" / "val2017").iterdir())[:8]
    pictures = [torch.from_numpy(resize_image(read_image(path), 300)) for path in paths]
    return torch.stack(pictures).permute(0, 3, 1, 2)


@torch.no_grad()
def test_the_real_detector_unfolds_without_a_change(detector, photos):
    model = copy.deepcopy(detector)
    before = model(photos)
    assert is_folded(model)
    assert unfold_batchnorm(model, photos.split(4)) == 35
    assert not is_folded(model)
    after = model(photos)
    training = copy.deepcopy(model).train()(photos)
    folded_training = copy.deepcopy(detector).train()(photos)
    merged = fold_batchnorm(model)(photos)
    for left, right, same, wrong, fused in zip(before, after, training, folded_training, merged, strict=True):
        scale = left.abs().max()
        assert (left - right).abs().max() < 1e-5 * scale
        assert (left - same).abs().max() < 1e-3 * scale  # the same pictures: batch and running statistics agree
        assert (left - wrong).abs().max() > 0.1 * scale  # what unfolding is for
        assert (left - fused).abs().max() < 1e-5 * scale
