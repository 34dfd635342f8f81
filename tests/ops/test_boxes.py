from __future__ import annotations

import torch
import torchvision

from mnvision.ops.boxes import decode, encode, intersection, iou, to_centers, to_corners


def random_boxes(*shape, seed=0, size=300.0):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(*shape, 2, 2, generator=generator) * size
    low, high = corners.amin(-2), corners.amax(-2)
    return torch.cat((low, high + 1), dim=-1)


def test_iou_equals_torchvision_and_broadcasts_over_a_batch():
    a, b = random_boxes(2, 7), random_boxes(2, 5, seed=1)
    found = iou(a, b)
    assert found.shape == (2, 7, 5)
    for row in range(2):
        torch.testing.assert_close(found[row], torchvision.ops.box_iou(a[row], b[row]))


def test_iou_of_empty_boxes_is_zero_not_nan():
    point = torch.tensor([[5.0, 5, 5, 5]])
    assert iou(point, point).item() == 0


def test_intersection_by_hand():
    a, b = torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([[2.0, 1, 9, 3], [4, 4, 5, 5]])
    assert intersection(a, b).tolist() == [[4.0, 0.0]]


def test_centers_and_corners_are_inverse():
    boxes = random_boxes(20)
    torch.testing.assert_close(to_corners(to_centers(boxes)), boxes)


def test_encode_by_hand():
    anchor = torch.tensor([[50.0, 50, 20, 40]])
    box = to_corners(torch.tensor([[54.0, 46, 40, 40]]))
    # dx = 10 * 4/20, dy = 10 * -4/40, dw = 5 * ln 2, dh = 0
    torch.testing.assert_close(encode(box, anchor), torch.tensor([[2.0, -1.0, 3.4657359, 0.0]]))


def test_decode_inverts_encode_and_stays_finite():
    boxes, anchors = random_boxes(50), to_centers(random_boxes(50, seed=1)).clamp(min=8)
    torch.testing.assert_close(decode(encode(boxes, anchors), anchors), boxes, rtol=1e-4, atol=1e-3)
    assert torch.isfinite(decode(torch.full((1, 4), 1e4), anchors[:1])).all()
