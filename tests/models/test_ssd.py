from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision

from mnvision.backbones import create_backbone
from mnvision.models.ssd import SSD, SSDOutput
from mnvision.ops.boxes import decode
from mnvision.types import Preprocessing, UserError
from tests.runs import batch


def make_ssd(*, alpha=0.25, size=96, num_classes=3, **options):
    torch.manual_seed(0)
    backbone = create_backbone("mobilenet_v1", alpha=alpha)
    return SSD(backbone, num_classes=num_classes, preprocessing=Preprocessing(size), **options)


def make_batch(size=96, *, counts=(2, 0, 1), seed=0):
    made = batch(counts=counts, size=size, seed=seed)
    return made.images, made.targets


@pytest.mark.parametrize("form", ["paper", "lite"])
@pytest.mark.parametrize(("alpha", "size"), [(1.0, 300), (0.75, 300), (0.5, 97), (0.25, 64), (0.25, 33)])
def test_maps_and_anchors_agree_at_any_size(form, alpha, size):
    model = make_ssd(alpha=alpha, size=size, form=form).eval()
    logits, offsets = model(torch.zeros(1, 3, size, size, dtype=torch.uint8))
    assert logits.shape == (1, len(model.anchors), 4)
    assert offsets.shape == (1, len(model.anchors), 4)


def test_the_width_multiplier_reaches_extras_and_heads():
    model = make_ssd(alpha=0.75, size=300)
    assert [level.channels for level in model.levels] == [384, 768, 384, 192, 192, 96]
    assert [head.boxes.pointwise.in_channels for head in model.heads] == [384, 768, 384, 192, 192, 96]


@pytest.mark.parametrize("loss", ["softmax", "sigmoid", "focal"])
@pytest.mark.parametrize("form", ["paper", "lite", "fpn"])
def test_losses_are_finite_and_reach_every_parameter(loss, form):
    model = make_ssd(loss=loss, form=form)
    images, targets = make_batch()
    losses = model.losses(images, targets)
    assert set(losses) == {"class_loss", "box_loss"}
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("form", ["paper", "fpn"])
@pytest.mark.parametrize("loss", ["softmax", "sigmoid", "focal"])
def test_a_batch_in_which_every_picture_is_empty(loss, form):
    model = make_ssd(loss=loss, form=form)
    images, targets = make_batch(counts=(0, 0))
    total = sum(model.losses(images, targets).values())
    total.backward()
    assert torch.isfinite(total)


def test_losses_are_divided_by_the_matched_anchors_of_the_batch():
    model = make_ssd().eval()
    images, targets = make_batch(counts=(2,))
    twice_images = images.repeat(2, 1, 1, 1)
    twice = type(targets)(*(tensor.repeat(2, *[1] * (tensor.ndim - 1)) for tensor in vars(targets).values()))
    once, both = model.losses(images, targets), model.losses(twice_images, twice)
    for name in once:
        torch.testing.assert_close(once[name], both[name])


@pytest.mark.parametrize("form", ["paper", "fpn"])
def test_losses_stay_in_float32_under_bfloat16(form):
    model = make_ssd(form=form)
    images, targets = make_batch()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(images)
        losses = model.losses(images, targets, output=output)
    assert output.logits.dtype == torch.bfloat16
    assert all(value.dtype == torch.float32 for value in losses.values())
    exact = model.losses(images, targets, output=SSDOutput(output.logits.float(), output.offsets.float()))
    torch.testing.assert_close(losses, exact)


@pytest.mark.parametrize("form", ["paper", "fpn"])
def test_one_batch_is_learnt(form):
    model = make_ssd(size=96, form=form)
    images, targets = make_batch()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(60):
        loss = sum(model.losses(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = model.predict(images)  # in training mode: on the statistics it was fitted to
    assert loss.item() < 0.5
    for row, count in enumerate((2, 0, 1)):
        confident = found[row].scores > 0.5
        assert int(confident.sum()) == count
        overlap = torchvision.ops.box_iou(found[row].boxes[confident], targets.boxes[row, :count])
        assert count == 0 or (overlap.amax(0) > 0.7).all()


def test_a_form_that_does_not_exist():
    with pytest.raises(UserError, match="task.form of ssd must be one of paper, lite, fpn; got 'fnp'"):
        make_ssd(form="fnp")


def exhaustive(model, output, sizes):
    """The definition: every pair above the threshold, suppression class by class, then the best of the picture."""
    results = []
    for logits, offsets, size in zip(*output, sizes, strict=True):
        scores = model.scores(logits.unsqueeze(0))[0]
        boxes = decode(offsets, model.anchors).clamp(0, model.preprocessing.size)
        found = []
        for column in range(scores.shape[1]):
            rows = (scores[:, column] > model.score_threshold).nonzero().squeeze(1)
            kept = rows[torchvision.ops.nms(boxes[rows], scores[rows, column], model.nms_iou)]
            found += [(float(scores[row, column]), column + 1, boxes[row]) for row in kept]
        found.sort(key=lambda item: -item[0])
        scale = torch.tensor([size[1], size[0], size[1], size[0]]) / model.preprocessing.size
        results.append([(score, label, box * scale) for score, label, box in found[: model.max_detections]])
    return results


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_predictions_equal_the_exhaustive_form(loss):
    model = make_ssd(size=96, num_classes=5, loss=loss, pre_nms_top_k=10_000, score_threshold=0.05).eval()
    generator = torch.Generator().manual_seed(1)
    anchors = len(model.anchors)
    output = SSDOutput(
        torch.randn(3, anchors, 6, generator=generator) * 3, torch.randn(3, anchors, 4, generator=generator)
    )
    sizes = torch.tensor([[480, 640], [96, 96], [33, 500]])
    found = model.predict(torch.zeros(3, 3, 96, 96), output=output, original_sizes=sizes)
    for ours, theirs in zip(found, exhaustive(model, output, sizes.tolist()), strict=True):
        torch.testing.assert_close(ours.scores, torch.tensor([score for score, _, _ in theirs]))
        assert ours.labels.tolist() == [label for _, label, _ in theirs]
        torch.testing.assert_close(ours.boxes, torch.stack([box for _, _, box in theirs]), rtol=1e-4, atol=1e-3)


def test_no_detection_at_all():
    model = make_ssd(score_threshold=1.0).eval()
    found = model.predict(torch.zeros(2, 3, 96, 96))
    assert [len(detections.boxes) for detections in found] == [0, 0]


def test_pictures_of_any_size_come_back_in_their_own_pixels():
    model = make_ssd(score_threshold=0.0).eval()
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((50, 200), (300, 100))]
    for picture, found in zip(pictures, model.predict(pictures), strict=True):
        assert len(found.boxes) > 0
        height, width = picture.shape[:2]
        assert found.boxes[:, 0::2].max() <= width + 1e-3
        assert found.boxes[:, 1::2].max() <= height + 1e-3
        assert found.boxes[:, 0::2].max() > 0.5 * width
