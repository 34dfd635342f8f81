"""Losses of embeddings against plain loops and numbers by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from mnvision.ops.embedding_losses import (
    batch_hard_triplets,
    contrastive_loss,
    margin_logits,
    relation_loss,
    semi_hard_triplets,
    squared_distances,
    triplet_loss,
)


def unit(*angles: float) -> torch.Tensor:
    """Points of the unit circle at these angles in degrees."""
    radians = torch.tensor(angles).deg2rad()
    return torch.stack((radians.cos(), radians.sin()), dim=1)


def random_batch(count: int, identities: int, *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    embeddings = F.normalize(torch.randn(count, 8, generator=generator), dim=1)
    return embeddings, torch.randint(-1, identities, (count,), generator=generator)


def loop_semi_hard(distances: torch.Tensor, labels: torch.Tensor, margin: float) -> list[tuple[int, int, int]]:
    """What the paper says, a triplet at a time; of all semi-hard negatives the nearest."""
    found = []
    count = len(labels)
    for a in range(count):
        for p in range(count):
            if a == p or labels[a] < 0 or labels[a] != labels[p]:
                continue
            negatives = [
                n
                for n in range(count)
                if labels[n] >= 0
                and labels[n] != labels[a]
                and distances[a, p] < distances[a, n] < distances[a, p] + margin
            ]
            if negatives:
                found.append((a, p, min(negatives, key=lambda n: (distances[a, n].item(), n))))
    return found


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("margin", [0.05, 0.2, 5.0])
def test_semi_hard_triplets_are_those_of_the_loop(seed, margin):
    embeddings, labels = random_batch(40, 6, seed=seed)
    distances = squared_distances(embeddings, embeddings)
    found = semi_hard_triplets(distances, labels, margin=margin)
    expected = loop_semi_hard(distances, labels, margin)
    assert expected
    assert list(zip(*(rows.tolist() for rows in found), strict=True)) == expected


def test_no_semi_hard_negative_no_triplet():
    # The positive is at 2 - 2 cos 60 = 1; one negative is nearer, the other a margin too far.
    embeddings, labels = unit(0, 60, -30, 180), torch.tensor([0, 0, 1, 2])
    distances = squared_distances(embeddings, embeddings)
    assert len(semi_hard_triplets(distances, labels, margin=0.2).anchors) == 0
    assert triplet_loss(embeddings, labels, margin=0.2) == 0
    assert len(semi_hard_triplets(distances, torch.full((4,), -1), margin=9.0).anchors) == 0
    assert len(semi_hard_triplets(distances, torch.zeros(4, dtype=torch.long), margin=9.0).anchors) == 0


def test_triplet_loss_by_hand():
    # Anchor 0 degrees, positive 60, negative 70: d = 1 and 2 - 2 cos 70 = 1.31596.
    embeddings = unit(0, 60, 70).requires_grad_()
    loss = triplet_loss(embeddings, torch.tensor([0, 0, 1]), margin=0.5)
    # From 0: 1 - 1.31596 + .5 = .18404; from 60: its negative is nearer than its positive.
    assert loss.item() == pytest.approx(0.18404, abs=1e-5)
    loss.backward()
    assert embeddings.grad.abs().sum() > 0


@pytest.mark.parametrize("seed", range(3))
def test_batch_hard_triplets_are_those_of_the_loop(seed):
    embeddings, labels = random_batch(30, 8, seed=seed)
    distances = squared_distances(embeddings, embeddings)
    expected = []
    for a in range(30):
        same = [p for p in range(30) if p != a and labels[a] >= 0 and labels[p] == labels[a]]
        other = [n for n in range(30) if labels[a] >= 0 and labels[n] >= 0 and labels[n] != labels[a]]
        if same and other:
            far = max(same, key=lambda p: distances[a, p].item())
            near = min(other, key=lambda n: distances[a, n].item())
            expected.append((a, far, near))
    found = batch_hard_triplets(distances, labels)
    assert list(zip(*(rows.tolist() for rows in found), strict=True)) == expected


def test_contrastive_loss_by_hand():
    # One pair of the same at d^2 = 1; two of others at 2 - 2 cos 90 = 2 and 2 - 2 cos 30 = .26795 (d = .51764).
    embeddings, labels = unit(0, 60, 90), torch.tensor([3, 3, 7])
    far = (max(0, 1 - math.sqrt(2)) ** 2 + (1 - 0.51764) ** 2) / 2
    assert contrastive_loss(embeddings, labels, margin=1.0).item() == pytest.approx((1 + far) / 2, abs=1e-4)
    same = unit(0, 0).requires_grad_()
    contrastive_loss(same, torch.tensor([0, 1]), margin=1.0).backward()
    assert torch.isfinite(same.grad).all()


def test_margins_by_hand():
    cosines = torch.tensor([[0.5, 0.2], [-0.95, 0.3], [0.1, 0.4]])
    labels = torch.tensor([0, 0, -1])
    arc = margin_logits(cosines, labels, kind="arcface", scale=10.0, margin=0.5)
    # cos(60 degrees + 0.5) = cos(1.5472) ; -0.95 is at 2.8240 rad, above pi - 0.5.
    expected = torch.tensor(
        [[10 * math.cos(math.pi / 3 + 0.5), 2.0], [10 * (-0.95 - 0.5 * math.sin(0.5)), 3.0], [1.0, 4.0]]
    )
    torch.testing.assert_close(arc, expected, rtol=1e-4, atol=1e-4)
    cosine = margin_logits(cosines, labels, kind="cosface", scale=10.0, margin=0.35)
    torch.testing.assert_close(cosine, torch.tensor([[1.5, 2.0], [-13.0, 3.0], [1.0, 4.0]]))


@pytest.mark.parametrize("kind", ["arcface", "cosface"])
def test_margins_have_slopes_everywhere(kind):
    cosines = torch.tensor([[1.0], [-1.0], [0.3]], requires_grad=True)
    logits = margin_logits(cosines, torch.zeros(3, dtype=torch.long), kind=kind, scale=64.0, margin=0.5)
    logits.sum().backward()
    assert torch.isfinite(cosines.grad).all()
    steps = torch.linspace(-1, 1, 2001)[:, None]
    rising = margin_logits(steps, torch.zeros(2001, dtype=torch.long), kind=kind, scale=1.0, margin=0.5)[:, 0]
    assert (rising.diff() > 0).all()  # a smaller angle is always better


def test_relations_by_hand():
    right, sharp = torch.tensor([[0.0, 0], [3, 0], [0, 4]]), torch.tensor([[0.0, 0], [1, 0], [0, 1]])
    # Distances 3, 4, 5 over their mean 4, against 1, 1, sqrt 2 over 1.13807.
    ratios = [3 / 4 - 0.87868, 1 - 0.87868, 5 / 4 - 1.24264]
    distance = sum(0.5 * x * x for x in ratios) / 3
    # Cosines at the corners: 0, 3/5, 4/5 against 0, 1/sqrt 2, 1/sqrt 2; each twice, of 27 entries.
    angles = [0.6 - math.sqrt(0.5), 0.8 - math.sqrt(0.5)]
    angle = sum(2 * 0.5 * x * x for x in angles) / 27
    assert relation_loss(right, sharp).item() == pytest.approx(distance + 2 * angle, rel=1e-3)


def test_relations_do_not_know_scale_turn_and_width():
    embeddings, _ = random_batch(12, 3)
    turned = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(1)))[0]
    wider = F.pad(3 * embeddings @ turned, (0, 5))
    assert relation_loss(embeddings, wider).item() == pytest.approx(0, abs=1e-6)
    same = torch.ones(4, 8, requires_grad=True)
    relation_loss(same, wider[:4]).backward()
    assert torch.isfinite(same.grad).all()


def test_broken_embeddings_do_not_look_perfect():
    """Mining finds no triplet among numbers that are none."""
    embeddings, labels = random_batch(12, 3)
    embeddings[3] = math.nan
    for mining in ("semi_hard", "batch_hard"):
        assert triplet_loss(embeddings, labels, margin=0.2, mining=mining).isnan()
        assert triplet_loss(torch.full_like(embeddings, math.nan), labels, margin=0.2, mining=mining).isnan()


def test_one_picture_is_related_to_none():
    one = torch.ones(1, 8, requires_grad=True)
    loss = relation_loss(one, torch.zeros(1, 4))
    loss.backward()
    assert loss.item() == 0
    assert one.grad.tolist() == [[0.0] * 8]


def test_mixed_precision_does_not_reach_the_distances():
    embeddings, labels = random_batch(40, 6)
    half = embeddings.to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = squared_distances(embeddings, embeddings)
        loss = relation_loss(embeddings, half)
        triplets = triplet_loss(embeddings, labels, margin=0.2)
    assert found.dtype == loss.dtype == triplets.dtype == torch.float32
    torch.testing.assert_close(found, squared_distances(embeddings, embeddings), rtol=0, atol=0)
    assert triplets == triplet_loss(embeddings, labels, margin=0.2)
