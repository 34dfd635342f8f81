from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from mnvision.ops.class_losses import class_loss, distillation_loss, one_hot_targets
from mnvision.types import Labels


def targets(*labels: int, others: list[int] | None = None, shares: list[float] | None = None) -> Labels:
    return Labels(
        torch.tensor(labels),
        torch.arange(len(labels)),
        None if others is None else torch.tensor(others),
        None if shares is None else torch.tensor(shares),
    )


@pytest.fixture
def logits():
    return torch.randn(4, 5, generator=torch.Generator().manual_seed(0))


def test_plain_cross_entropy(logits):
    assert class_loss(logits, targets(0, 4, 2, 2)).item() == pytest.approx(
        F.cross_entropy(logits, torch.tensor([0, 4, 2, 2])).item(), rel=1e-6
    )


@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_smoothing_and_class_weights(logits, smoothing):
    labels, weights = torch.tensor([0, 4, 2, 2]), torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0])
    found = class_loss(logits, targets(0, 4, 2, 2), smoothing=smoothing)
    assert found.item() == pytest.approx(F.cross_entropy(logits, labels, label_smoothing=smoothing).item(), rel=1e-6)
    found = class_loss(logits, targets(0, 4, 2, 2), class_weights=weights)
    assert found.item() == pytest.approx(F.cross_entropy(logits, labels, weight=weights).item(), rel=1e-6)


def test_pictures_of_unknown_class_do_not_count(logits):
    known = class_loss(logits[:2], targets(0, 4))
    assert class_loss(logits, targets(0, 4, -1, -1)).item() == pytest.approx(known.item(), rel=1e-6)
    logits.requires_grad_()
    nothing = class_loss(logits, targets(-1, -1, -1, -1))
    nothing.backward()
    assert nothing.item() == 0
    assert not logits.grad.any()
    mixed = class_loss(logits, targets(0, 4, 1, 2, others=[1, 1, -1, 0], shares=[0.5] * 4))
    rest = class_loss(logits[[0, 1, 3]], targets(0, 4, 2, others=[1, 1, 0], shares=[0.5] * 3))
    assert mixed.item() == pytest.approx(rest.item(), rel=1e-6)


def test_mixed_pictures_have_two_classes(logits):
    mixed = targets(0, 1, 2, 3, others=[1, 2, 2, 0], shares=[0.25, 1.0, 0.5, 0.0])
    expected = [[0.25, 0.75, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [1, 0, 0, 0, 0]]
    assert one_hot_targets(mixed, classes=5).tolist() == expected
    found = class_loss(logits, mixed)
    assert found.item() == pytest.approx(F.cross_entropy(logits, torch.tensor(expected)).item(), rel=1e-6)


def test_bootstrapping_believes_the_model_in_part():
    logits = torch.log(torch.tensor([[0.7, 0.2, 0.1]]))  # the label says 1
    soft = class_loss(logits, targets(1), noise="soft_bootstrap", trust=0.9)
    own = 0.7 * math.log(0.7) + 0.2 * math.log(0.2) + 0.1 * math.log(0.1)
    assert soft.item() == pytest.approx(-0.9 * math.log(0.2) - 0.1 * own, rel=1e-5)
    hard = class_loss(logits, targets(1), noise="hard_bootstrap", trust=0.8)
    assert hard.item() == pytest.approx(-0.8 * math.log(0.2) - 0.2 * math.log(0.7), rel=1e-5)


def test_filter_leaves_out_what_the_model_is_sure_against():
    sure = torch.log(torch.tensor([[0.95, 0.04, 0.01], [0.6, 0.3, 0.1]]))
    found = class_loss(sure, targets(1, 1), noise="filter", trust=0.9)
    assert found.item() == pytest.approx(-math.log(0.3), rel=1e-5)
    right = class_loss(sure, targets(0, 1), noise="filter", trust=0.9)  # being sure of the label itself is no reason
    assert right.item() == pytest.approx(-(math.log(0.95) + math.log(0.3)) / 2, rel=1e-5)


def test_distillation_is_the_divergence_of_softened_outputs(logits):
    teacher = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    wanted, said = (teacher / 3).softmax(-1), (logits / 3).softmax(-1)
    divergence = (wanted * (wanted / said).log()).sum(-1).mean()
    found = distillation_loss(logits, teacher, temperature=3.0)
    assert found.item() == pytest.approx(9 * divergence.item(), rel=1e-5)
    assert distillation_loss(teacher, teacher, temperature=3.0).item() == pytest.approx(0, abs=1e-6)


def test_the_gradient_keeps_its_size_at_high_temperatures(logits):
    """For large T the gradient tends to (logits - teacher, both without their means) / (K * B), whatever T is."""
    teacher = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    centred = [values - values.mean(1, keepdim=True) for values in (logits, teacher)]
    for temperature in (100.0, 1000.0):
        leaf = logits.clone().requires_grad_()
        distillation_loss(leaf.double(), teacher.double(), temperature=temperature).backward()
        torch.testing.assert_close(leaf.grad, (centred[0] - centred[1]) / 5 / 4, rtol=0.05, atol=2e-3)
