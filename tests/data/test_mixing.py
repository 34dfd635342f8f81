from __future__ import annotations

import numpy as np
import pytest
import torch

from mnvision.data.mixing import Mixing, cutmix, cutmix_rectangle, mix, mixup
from mnvision.errors import UserError
from mnvision.types import Labels


def batch(count: int = 4, size: int = 10) -> tuple[torch.Tensor, Labels]:
    """Picture k is all 50k; the last one's class is not known."""
    images = (torch.arange(count) * 50).to(torch.uint8)[:, None, None, None].repeat(1, size, size, 3)
    return images, Labels(torch.tensor([*range(count - 1), -1]), torch.arange(count))


def test_mixup_is_the_weighted_mean_rounded_to_the_nearest():
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8))
    got = mixup(images, share=0.3).numpy().astype(float)
    exact = 0.3 * images.numpy() + 0.7 * images.numpy()[[2, 0, 1]]
    assert np.abs(got - exact).max() <= 0.5 + 1e-4


def test_cutmix_pastes_the_rectangle_and_its_share_is_the_area_left():
    images, _ = batch()
    mixed, share = cutmix(images, (2, 3, 7, 9))
    assert share == 1 - 5 * 6 / 100
    assert (mixed[1] == 0).all(dim=-1).sum() == 30
    assert (mixed[1, 3:9, 2:7] == 0).all()
    assert (mixed[0, 3:9, 2:7] == 150).all()  # the first one gets the last
    assert (images[1] == 50).all()


def test_labels_follow_the_pixels():
    """Whatever is drawn: the mean grey of each picture is that of its own and its partner's, by the shares."""
    images, labels = batch()
    seen = set()
    for k in range(60):
        mixing = Mixing(mixup=0.4, cutmix=1.0)
        mixed, got = mix(images, labels, mixing=mixing, rng=np.random.default_rng(k))
        assert got.labels.tolist() == [0, 1, 2, -1]
        assert got.others.tolist() == [-1, 0, 1, 2]
        own, other = torch.tensor([0.0, 50, 100, 150]), torch.tensor([150.0, 0, 50, 100])
        means = mixed.float().mean(dim=(1, 2, 3))
        values = len(torch.unique(mixed[0]))
        pasted = values > 1 or bool(got.shares[0] == 0)
        seen.add(pasted)
        # CutMix is exact; mixup is rounded to the nearest level.
        torch.testing.assert_close(
            means, got.shares * own + (1 - got.shares) * other, atol=1e-3 if pasted else 0.51, rtol=0
        )
    assert seen == {True, False}


def test_probability_and_single_pictures_and_off():
    images, labels = batch()
    mixing = Mixing(mixup=0.2, probability=0.3)
    mixed = sum(
        mix(images, labels, mixing=mixing, rng=np.random.default_rng(k))[1].others is not None for k in range(300)
    )
    assert 60 < mixed < 120
    alone, of_one = images[:1], Labels(labels.labels[:1], labels.image_ids[:1])
    assert mix(alone, of_one, mixing=Mixing(mixup=1.0), rng=np.random.default_rng(0)) == (alone, of_one)
    assert mix(images, labels, mixing=Mixing(), rng=np.random.default_rng(0))[0] is images


@pytest.mark.parametrize("options", [{"mixup": 1.0}, {"cutmix": 1.0}, {"mixup": 1.0, "cutmix": 1.0, "switch": 0.0}])
def test_the_kind_that_is_asked_for(options):
    images, labels = batch()
    for k in range(20):
        mixed, _ = mix(images, labels, mixing=Mixing(**options), rng=np.random.default_rng(k))
        own = {0, 50, 100, 150}
        levels = set(torch.unique(mixed).tolist())
        assert (levels <= own) == (options == {"cutmix": 1.0})


def test_cutmix_rectangles_have_the_area_of_their_share_where_they_fit():
    random = np.random.default_rng(0)
    full = 0
    for _ in range(300):
        left, top, right, bottom = cutmix_rectangle((100, 200), share=0.84, rng=random)
        assert 0 <= left <= right <= 200
        assert 0 <= top <= bottom <= 100
        # The sides are sqrt(1 - 0.84) = 0.4 of the picture's, less what is cut off.
        assert right - left <= 80
        assert bottom - top <= 40
        full += (right - left, bottom - top) == (80, 40)
    assert 80 < full < 140  # 0.6 * 0.6 of the centres are far enough from the border: 108 of 300
    left, top, right, bottom = cutmix_rectangle((10, 10), share=1.0, rng=random)
    assert (left, top) == (right, bottom)


@pytest.mark.parametrize("options", [{"mixup": -1.0}, {"cutmix": float("nan")}, {"probability": 1.5}, {"switch": -0.1}])
def test_wrong_settings_are_refused(options):
    with pytest.raises(UserError, match=next(iter(options))):
        Mixing(**options)
