from __future__ import annotations

import pytest
import torch
import torchvision
from torch.nn import functional as F

from mnvision.ops.losses import class_cross_entropy, focal_loss, hardest_negatives, mined_class_loss
from mnvision.ops.matching import IGNORED


def problem(seed=0, batch=3, anchors=60, columns=5):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, anchors, columns, generator=generator) * 2
    labels = torch.zeros(batch, anchors, dtype=torch.int64)
    labels[0, :4] = torch.tensor([1, 2, 4, 3])
    labels[1, 7] = 2
    labels[1, 8] = IGNORED  # picture 2 has no object
    return logits, labels


def one_hot_bce(logits, labels):
    return F.binary_cross_entropy_with_logits(
        logits, F.one_hot(labels, logits.shape[-1]).float(), reduction="none"
    ).sum(-1)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("seed", range(4))
def test_mining_equals_the_definition_with_its_gradient(kind, seed):
    logits, labels = problem(seed)
    single = {"softmax": lambda x, y: F.cross_entropy(x, y, reduction="none"), "sigmoid": one_hot_bce}[kind]

    def plain(logits):
        total = logits.new_zeros(())
        for row, answer in zip(logits, labels, strict=True):
            loss = single(row, answer.clamp(min=0))
            positives = answer > 0
            negatives = loss[answer == 0].sort(descending=True).values[: 3 * int(positives.sum())]
            total = total + loss[positives].sum() + negatives.sum()
        return total

    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    found, expected = mined_class_loss(ours, labels, ratio=3.0, kind=kind), plain(theirs)
    torch.testing.assert_close(found, expected)
    found.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_no_object_in_the_whole_batch_gives_zero_with_a_gradient():
    logits, labels = problem()
    logits.requires_grad_()
    loss = mined_class_loss(logits, torch.zeros_like(labels), ratio=3.0, kind="softmax")
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().sum() == 0


def test_more_negatives_wanted_than_there_are():
    logits = torch.randn(1, 6, 3)
    labels = torch.tensor([[1, 2, 1, 2, 0, IGNORED]])
    loss = mined_class_loss(logits, labels, ratio=3.0, kind="softmax")
    torch.testing.assert_close(loss, F.cross_entropy(logits[0, :5], labels[0, :5], reduction="sum"))


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_huge_logits_stay_finite(kind):
    logits, labels = problem()
    assert torch.isfinite(mined_class_loss(logits * 1e4, labels, ratio=3.0, kind=kind))


def test_sigmoid_form_by_definition():
    logits = torch.randn(9, 4)
    labels = torch.arange(9) % 4
    torch.testing.assert_close(class_cross_entropy(logits, labels, kind="sigmoid"), one_hot_bce(logits, labels))


def test_focal_loss_equals_torchvision():
    logits, labels = problem()
    used = labels != IGNORED
    goal = F.one_hot(labels.clamp(min=0), logits.shape[-1])[..., 1:].float()
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    expected = torchvision.ops.sigmoid_focal_loss(
        theirs[..., 1:][used], goal[used], alpha=0.25, gamma=2, reduction="sum"
    )
    found = focal_loss(ours, labels, alpha=0.25, gamma=2.0)
    torch.testing.assert_close(found, expected)
    found.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_the_negatives_of_a_picture_do_not_depend_on_the_others():
    logits, labels = problem()
    together = hardest_negatives(logits, labels, ratio=1.5, kind="softmax")
    alone = [hardest_negatives(logits[i : i + 1], labels[i : i + 1], ratio=1.5, kind="softmax") for i in range(3)]
    assert together.tolist() == [int(index) + 60 * i for i, found in enumerate(alone) for index in found]
    assert [len(found) for found in alone] == [6, 1, 0]


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_loss_of_sure_answers_has_a_gradient(gamma):
    logits = torch.full((1, 2, 3), -200.0, requires_grad=True)
    focal_loss(logits, torch.tensor([[0, 1]]), alpha=0.25, gamma=gamma).backward()
    assert torch.isfinite(logits.grad).all()
