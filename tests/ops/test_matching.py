from __future__ import annotations

import pytest
import torch
import torchvision

from mnvision.ops.anchors import ssd_anchors
from mnvision.ops.boxes import to_corners
from mnvision.ops.matching import IGNORED, match
from mnvision.types import Target, pad_targets
from tests.ops.test_boxes import random_boxes


def target(boxes, labels, *, crowd=None):
    boxes = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    crowd = torch.zeros(len(boxes), dtype=torch.bool) if crowd is None else torch.as_tensor(crowd)
    return Target(boxes, torch.as_tensor(labels, dtype=torch.int64), crowd, 1, (100, 100))


def plain_match(anchors, boxes, labels, threshold=0.5):
    """The definition, with loops."""
    overlap = torchvision.ops.box_iou(boxes, to_corners(anchors))
    chosen = [-1] * len(anchors)
    for a in range(len(anchors)):
        if len(boxes) and overlap[:, a].max() >= threshold:
            chosen[a] = int(overlap[:, a].argmax())
    for b in range(len(boxes)):
        chosen[int(overlap[b].argmax())] = b
    return [int(labels[c]) if c >= 0 else 0 for c in chosen], chosen


@pytest.mark.parametrize("seed", range(8))
def test_equals_the_definition_on_batches_of_uneven_pictures(seed):
    anchors = ssd_anchors(300, [19, 10, 5, 3, 2, 1])
    pictures = []
    for row, count in enumerate((0, 1, 5, 12)):
        boxes = random_boxes(count, seed=10 * seed + row).clamp(0, 300)
        pictures.append(target(boxes, torch.arange(count) % 7 + 1))
    labels, index = match(anchors, pad_targets(pictures))
    for row, picture in enumerate(pictures):
        expected, chosen = plain_match(anchors, picture.boxes, picture.labels)
        assert labels[row].tolist() == expected
        for anchor, box in enumerate(chosen):
            if box >= 0:
                assert index[row, anchor] == box


def test_every_box_gets_an_anchor_however_small():
    anchors = ssd_anchors(300, [19, 10, 5, 3, 2, 1])
    labels, _ = match(anchors, pad_targets([target([[10, 10, 12, 12], [100, 100, 101, 103]], [3, 4])]))
    assert sorted(labels[labels > 0].tolist()) == [3, 4]


def test_anchors_in_a_crowd_are_ignored_unless_matched():
    anchors = torch.tensor([[10.0, 10, 10, 10], [50, 50, 10, 10], [80, 80, 10, 10]])
    picture = target([[0, 0, 60, 60], [45, 45, 55, 55]], [1, 2], crowd=[True, False])
    labels, _ = match(anchors, pad_targets([picture]))
    assert labels.tolist() == [[IGNORED, 2, 0]]


def test_a_batch_of_empty_pictures():
    anchors = ssd_anchors(64, [4, 2, 1])
    labels, index = match(anchors, pad_targets([target([], []), target([], [])]))
    assert labels.abs().sum() == 0
    assert index.shape == labels.shape == (2, len(anchors))
