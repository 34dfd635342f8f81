from __future__ import annotations

import pytest
import torch

from mnvision.ops.postprocess import Candidates, suppress


@pytest.mark.parametrize("usable", [0, 1, 37, 200])
def test_label_by_label_leaves_the_same_boxes(usable):
    generator = torch.Generator().manual_seed(usable)
    low = torch.rand(3, 200, 2, generator=generator) * 60
    boxes = torch.cat((low, low + 1 + torch.rand(3, 200, 2, generator=generator) * 40), dim=-1)
    scores = torch.rand(3, 200, generator=generator).sort(dim=1, descending=True).values
    scores[1, usable:] = -1.0
    labels = torch.randint(1, 4, (3, 200), generator=generator)
    found = Candidates(boxes, scores, labels)
    options = {"iou": 0.5, "max_detections": 150, "image_size": 100}
    one, other = suppress(found, **options), suppress(found, few_labels=True, **options)
    for left, right in zip(one, other, strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=0)
    assert 0 < int((one.scores[0] > 0).sum()) < 200
    assert int((one.scores[1] > 0).sum()) <= usable
