from __future__ import annotations

import pytest
import torch
from torchvision.ops import roi_align as reference

from mnvision.ops import regions as module
from mnvision.ops.regions import roi_align

SIDE, STRIDE = 5, 8


def problem(seed: int = 0):
    """A map, and regions in no order of the pictures: small, large, empty, and beyond the picture on every side."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(3, 4, 7, 9, generator=generator).contiguous(memory_format=torch.channels_last)
    low = torch.rand(30, 2, generator=generator) * 90 - 20
    boxes = torch.cat((low, low + torch.rand(30, 2, generator=generator) * 60), dim=1)
    odd = [[5, 5, 5, 5], [0, 0, 72, 56], [-200, -200, -100, -100], [60, 40, 300, 200], [3, 50, 4, 51], [-9, -9, 90, 70]]
    boxes = torch.cat((boxes, torch.tensor(odd)))
    pictures = torch.randint(0, 3, (len(boxes), 1), generator=generator)
    return features, torch.cat((pictures, boxes), dim=1)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("samples", [1, 2, 3])
def test_values_and_gradients_are_torchvisions(samples, aligned):
    features, regions = problem()
    weight = torch.randn(len(regions), 4, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    crops, gradients = [], []
    for align in (
        lambda x: roi_align(x, regions, side=SIDE, stride=STRIDE, samples=samples, aligned=aligned),
        lambda x: reference(x, regions, SIDE, 1 / STRIDE, samples, aligned),
    ):
        leaf = features.clone().requires_grad_()
        crops.append(align(leaf))
        (crops[-1] * weight).sum().backward()
        gradients.append(leaf.grad)
    assert crops[0].grad_fn.name() != crops[1].grad_fn.name()  # two ways, not one
    torch.testing.assert_close(crops[0], crops[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pictures", [1, 3])
@pytest.mark.parametrize("samples", [1, 2])
@torch.no_grad()
def test_values_without_a_gradient(samples, pictures, monkeypatch):
    features, regions = problem()
    features, regions = features[:pictures], regions[regions[:, 0] < pictures]
    calls = []
    compiled = module.compiled_roi_align
    monkeypatch.setattr(module, "compiled_roi_align", lambda *arguments: calls.append(0) or compiled(*arguments))
    crops = roi_align(features, regions, side=SIDE, stride=STRIDE, samples=samples, aligned=False)
    expected = reference(features, regions, SIDE, 1 / STRIDE, samples, False)
    torch.testing.assert_close(crops, expected, rtol=1e-4, atol=1e-5)
    assert len(calls) == (1 if samples == 1 else 0)


def test_a_picture_without_regions_and_no_regions_at_all():
    features, regions = problem()
    features.requires_grad_()
    some = regions[regions[:, 0] != 1]
    crops = roi_align(features, some, side=SIDE, stride=STRIDE, samples=2, aligned=False)
    crops.sum().backward()
    assert not features.grad[1].any()
    assert features.grad[0].any()
    none = roi_align(features, regions[:0], side=SIDE, stride=STRIDE, samples=2, aligned=False)
    assert none.shape == (0, 4, SIDE, SIDE)
    none.sum().backward()
