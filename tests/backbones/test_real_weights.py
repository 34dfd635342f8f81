"""The real weight files in the real networks, against forwards that know nothing of them."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mnvision.backbones import create_backbone
from mnvision.backbones.layers import same_padding
from mnvision.backbones.weights import (
    load_weights,
    read_weights,
)
from mnvision.models.classifier import Classifier
from mnvision.ops.image import decode_image, read_image, resize_image
from mnvision.types import Preprocessing
from tests.backbones.networks import TENSORFLOW, detector

KERAS = "mobilenet_v1_0.75_224_keras.npz"
COCO = "ssd_mobilenet_v1_0.75_300_coco.npz"


def plain_conv(images: Tensor, weight: np.ndarray, *, stride: int = 1, bias: np.ndarray | None = None) -> Tensor:
    """TensorFlow's SAME convolution [O, I, kH, kW], depthwise where I is 1 and the input has more channels."""
    kernel = weight.shape[-1]
    rows, cols = (same_padding(size, kernel=kernel, stride=stride) for size in images.shape[-2:])
    groups = images.shape[1] if weight.shape[1] == 1 else 1
    shift = None if bias is None else torch.from_numpy(bias)
    return F.conv2d(F.pad(images, (*cols, *rows)), torch.from_numpy(weight.copy()), shift, stride, groups=groups)


@torch.no_grad()
def test_real_ssd_against_a_forward_of_its_own(shared_weights, shared_data):
    """Every array of the file is used, and the 80 classes and boxes come out where they should."""
    given = read_weights(shared_weights / COCO)
    assert given.folded
    assert given.classes is not None
    assert given.category_ids is not None
    names = [name for name in given.classes if name is not None]
    ids = [number for number in given.category_ids if number is not None]
    assert (len(given.classes), len(names), names[:2], ids[-1]) == (90, 80, ["person", "bicycle"], 90)
    model = detector(alpha=0.75, classes=80, seed=1)
    report = load_weights(model, given, classes=names)
    assert str(report).endswith(
        "(TensorFlow SSD, alpha 0.75, 80 classes, BatchNorm folded); "
        "class head: 80 of 80 classes taken by name, 10 of the file's 90 slots not used"
    )
    assert (report.used, report.total, report.initialised, report.dropped) == (94, 94, (), ())

    picture = sorted((shared_data / "coco128" / "val2017").iterdir())[0]
    images = torch.from_numpy(resize_image(read_image(picture), 300)).permute(2, 0, 1)[None]
    with np.load(shared_weights / COCO) as archive:
        arrays = dict(archive)
    used = set()

    def layer(name: str, features: Tensor, *, stride: int = 1) -> Tensor:
        used.update((f"{name}/weight", f"{name}/bias"))
        return plain_conv(features, arrays[f"{name}/weight"], stride=stride, bias=arrays[f"{name}/bias"])

    features, taps = layer("conv0", (images - 128.0) / 128.0, stride=2).clamp(0, 6), []
    for block in range(1, 14):
        features = layer(f"block{block}/depthwise", features, stride=2 if block in (2, 4, 6, 12) else 1).clamp(0, 6)
        features = layer(f"block{block}/pointwise", features).clamp(0, 6)
        taps += [features] if block in (11, 13) else []
    for extra in range(1, 5):
        features = layer(f"extra{extra}/reduce", features).clamp(0, 6)
        features = layer(f"extra{extra}/expand", features, stride=2).clamp(0, 6)
        taps.append(features)
    outputs = {
        kind: torch.cat(
            [layer(f"head{i}/{kind}", tap).permute(0, 2, 3, 1).reshape(1, -1, size) for i, tap in enumerate(taps)], 1
        )
        for kind, size in (("box", 4), ("class", 91))
    }
    assert used == set(arrays) - {"anchors", "anchors_tflite", "meta"}
    logits, offsets = model(images)
    torch.testing.assert_close(logits, outputs["class"][..., [0, *ids]], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(offsets, outputs["box"][..., [1, 0, 3, 2]], rtol=1e-4, atol=1e-4)
    anchors = torch.from_numpy(arrays["anchors"])[:, [1, 0, 3, 2]] * 300  # cxcywh in pixels
    torch.testing.assert_close(model.anchors, anchors, rtol=1e-5, atol=1e-4)


def test_real_ssd_loads_slot_by_slot_and_into_a_backbone(shared_weights):
    given = read_weights(shared_weights / COCO)
    report = load_weights(detector(alpha=0.75, classes=90), given)
    assert (report.used, report.initialised) == (94, ())
    backbone = detector(alpha=0.75).backbone
    report = load_weights(backbone, given)
    assert (report.used, report.total, len(report.dropped)) == (54, 94, 40)
    assert backbone.stem.norm.running_mean.abs().max() == 0


def imagenet(model: Classifier, data: Path, *, every: int) -> tuple[int, int, int]:
    """Top-1 hits, top-5 hits and pictures: centre 224x224 of every so many pictures of the sample."""
    top1 = top5 = count = 0
    with tarfile.open(data / "imagenet_sample.tar") as archive, torch.inference_mode():
        members = archive.getmembers()[::every]
        for start in range(0, len(members), 25):
            chosen = members[start : start + 25]
            crops = [decode_image(archive.extractfile(member).read())[16:240, 16:240] for member in chosen]
            images = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)  # channels_last in memory
            labels = torch.tensor([int(member.name[:4]) for member in chosen])[:, None]
            hits = model(images).topk(5).indices == labels
            top1, top5, count = top1 + int(hits[:, 0].sum()), top5 + int(hits.sum()), count + len(chosen)
    return top1, top5, count


@pytest.fixture(scope="module")
def real_classifier(shared_weights) -> Classifier:
    given = read_weights(shared_weights / KERAS)
    settings = given.settings
    assert settings["alpha"] == 0.75
    model = Classifier(
        create_backbone("mobilenet_v1", alpha=0.75, **{key: settings[key] for key in TENSORFLOW}),
        num_classes=1000,
        preprocessing=Preprocessing(224, settings["mean"], settings["std"]),
    ).eval()
    report = load_weights(model, given)
    assert str(report).startswith("loaded 137 of 137 arrays from")
    assert report.notes == ()
    return model


@torch.no_grad()
def test_real_keras_weights_against_a_forward_of_their_own(real_classifier, shared_weights):
    images = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0)) * 255
    with np.load(shared_weights / KERAS) as archive:
        arrays = dict(archive)

    def layer(name: str, features: Tensor, *, stride: int = 1) -> Tensor:
        depthwise = "_dw_" in name
        kernel = arrays[f"{name}/depthwise_kernel" if depthwise else f"{name}/kernel"]
        axes = (2, 3, 0, 1) if depthwise else (3, 2, 0, 1)
        gamma, beta, mean, variance = (
            torch.from_numpy(arrays[f"{name}_bn/{part}"])[:, None, None]
            for part in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        features = plain_conv(features, kernel.transpose(axes), stride=stride)
        return ((features - mean) * gamma / (variance + 1e-3).sqrt() + beta).clamp(0, 6)

    features = layer("conv1", images / 127.5 - 1, stride=2)
    for block in range(1, 14):
        features = layer(f"conv_dw_{block}", features, stride=2 if block in (2, 4, 6, 12) else 1)
        features = layer(f"conv_pw_{block}", features)
    expected = features.mean((2, 3)) @ torch.from_numpy(arrays["conv_preds/kernel"][0, 0])
    expected += torch.from_numpy(arrays["conv_preds/bias"])
    torch.testing.assert_close(real_classifier(images), expected, rtol=1e-3, atol=1e-3)


def test_real_keras_weights_classify(real_classifier, shared_data):
    """A tenth of the sample; symmetric padding would give 66 and 89, ReLU 66 and 91."""
    top1, top5, count = imagenet(real_classifier, shared_data, every=10)
    assert count == 100
    assert (top1, top5) == pytest.approx((79, 95), abs=1)


@pytest.mark.slow
def test_real_keras_weights_classify_the_whole_sample(real_classifier, shared_data):
    top1, top5, count = imagenet(real_classifier, shared_data, every=1)
    assert count == 1000
    assert top1 / count == pytest.approx(0.823, abs=0.001)
    assert top5 / count == pytest.approx(0.954, abs=0.001)
