from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mnvision.ops.anchors import pyramid_anchors, ssd_anchors

GRIDS = [19, 10, 5, 3, 2, 1]


def test_first_and_last_cells_by_hand():
    anchors = ssd_anchors(300, GRIDS)
    assert anchors.shape == (1917, 4)
    center = 300 * 0.5 / 19
    root2 = math.sqrt(2)
    expected = [
        [center, center, 30, 30],  # scale .1, ratio 1
        [center, center, 60 * root2, 60 / root2],  # scale .2, ratio 2: wide
        [center, center, 60 / root2, 60 * root2],  # ratio 1/2: tall
    ]
    torch.testing.assert_close(anchors[:3], torch.tensor(expected))
    assert anchors[3, 0] > anchors[0, 0]  # the column runs before the row
    assert anchors[3, 1] == anchors[0, 1]
    root3 = math.sqrt(3)
    last = torch.tensor([[150.0, 150, 285 * root3, 285 / root3], [150, 150, 285 / root3, 285 * root3]])
    torch.testing.assert_close(anchors[-3:-1], last, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(anchors[-1, 2:], torch.full((2,), 300 * math.sqrt(0.95)))


def test_equal_to_the_anchors_of_the_coco_weights(shared_weights):
    with np.load(shared_weights / "ssd_mobilenet_v1_0.75_300_coco.npz") as arrays:
        theirs = torch.from_numpy(arrays["anchors"]) * 300  # yc, xc, h, w
    torch.testing.assert_close(ssd_anchors(300, GRIDS), theirs[:, [1, 0, 3, 2]], rtol=0, atol=1e-3)


@pytest.mark.parametrize(("size", "grids", "count"), [(320, [20, 10, 5, 3, 2, 1], 2034), (96, [6, 3, 2, 1, 1, 1], 204)])
def test_anchors_follow_the_size(size, grids, count):
    anchors = ssd_anchors(size, grids)
    assert len(anchors) == count
    torch.testing.assert_close(anchors[0, 2], torch.tensor(size * 0.1))


def test_a_pyramid_by_hand():
    anchors = pyramid_anchors(640, [80, 40, 20, 10, 5], [8, 16, 32, 64, 128])
    assert anchors.shape == (6 * (6400 + 1600 + 400 + 100 + 25), 4)
    root2 = math.sqrt(2)
    expected = [  # of the first cell: 4 strides of 8 pixels, then half an octave more; square, wide, tall
        [4, 4, 32, 32],
        [4, 4, 32 * root2, 32 / root2],
        [4, 4, 32 / root2, 32 * root2],
        [4, 4, 32 * root2, 32 * root2],
        [4, 4, 64, 32],
        [4, 4, 32, 64],
    ]
    torch.testing.assert_close(anchors[:6], torch.tensor(expected))
    torch.testing.assert_close(anchors[6, :2], torch.tensor([12.0, 4]))  # the column runs before the row
    torch.testing.assert_close(anchors[-1], torch.tensor([576.0, 576, 512, 1024]))


def test_the_cells_of_a_pyramid_divide_the_input():
    anchors = pyramid_anchors(100, [13, 7, 4, 2, 1], [8, 16, 32, 64, 128])
    torch.testing.assert_close(anchors[0, :2], torch.full((2,), 100 / 13 / 2))
    torch.testing.assert_close(anchors[-1], torch.tensor([50.0, 50, 512, 1024]))
