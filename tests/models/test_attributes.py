from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from mnvision import create_model
from mnvision.errors import UserError
from mnvision.models.attribute_objective import AttributeObjective, positive_weights
from mnvision.models.attributes import AttributeNetwork
from mnvision.module import VisionModule
from mnvision.ops.attribute_losses import attribute_distillation_loss, attribute_loss
from mnvision.ops.image import fit_batch
from mnvision.types import Labels

NAMES = ["hat", "beard", "scar"]
LABELS = Labels(torch.tensor([[1.0, 0, math.nan], [0, math.nan, math.nan], [0, 1, 0], [1, 1, 0]]), torch.arange(4))


def network(*, alpha: float = 0.25, seed: int = 0, size: int = 64, names: list[str] = NAMES, **options):
    torch.manual_seed(seed)
    return create_model("attributes", alpha=alpha, image_size=size, classes=names, **options)


@pytest.fixture
def images():
    return torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_cross_entropy_of_what_is_known_by_hand():
    logits = torch.tensor([[0.0, 2.0, 9.0], [-1.0, 5.0, 7.0]])
    labels = torch.tensor([[1.0, 0.0, math.nan], [0.0, math.nan, math.nan]])

    def entropy(logit: float, label: int) -> float:
        p = 1 / (1 + math.exp(-logit))
        return -math.log(p if label else 1 - p)

    by_hand = [entropy(0, 1), entropy(2, 0), entropy(-1, 0)]
    assert attribute_loss(logits, labels).item() == pytest.approx(sum(by_hand) / 3)
    weights = torch.tensor([4.0, 1.0, 1.0])  # counts where an attribute is present alone
    expected = (4 * by_hand[0] + by_hand[1] + by_hand[2]) / 3
    assert attribute_loss(logits, labels, positive_weights=weights).item() == pytest.approx(expected)


def test_what_is_not_known_gets_no_gradient_and_nothing_known_is_no_loss():
    logits = torch.zeros(2, 2, requires_grad=True)
    attribute_loss(logits, torch.tensor([[1.0, math.nan], [math.nan, 0.0]])).backward()
    assert logits.grad.tolist() == [[-0.25, 0.0], [0.0, 0.25]]
    nothing = attribute_loss(logits, torch.full((2, 2), math.nan))
    assert nothing.item() == 0
    nothing.backward()
    assert logits.grad.isfinite().all()


def test_emulating_a_teacher_by_hand():
    student, teacher = torch.tensor([[0.5, -1.0]]), torch.tensor([[2.0, 0.0]])
    q, p = teacher.sigmoid(), student.sigmoid()
    by_hand = -(q * p.log() + (1 - q) * (1 - p).log()).mean()  # the paper's second footnote
    assert attribute_distillation_loss(student, teacher).item() == pytest.approx(by_hand.item(), rel=1e-6)
    student.requires_grad_(True)
    attribute_distillation_loss(student, student.detach()).backward()
    assert student.grad.abs().max() < 1e-7  # least where the student says what the teacher says


def test_the_verbs(images):
    model = network().eval()
    assert isinstance(model, AttributeNetwork)
    assert (model.preprocessing.fit, model.preprocessing.crop_share) == ("crop", 1.0)
    logits = model(images)
    assert logits.shape == (4, 3)
    assert torch.equal(model.predict(images), logits.sigmoid())
    assert torch.equal(model.predict(images, output=logits), logits.sigmoid())
    pictures = [image.permute(1, 2, 0).numpy() for image in images]
    torch.testing.assert_close(model.predict(pictures), logits.sigmoid(), rtol=1e-4, atol=1e-5)
    [(name, loss)] = model.losses(images, LABELS).items()
    assert name == "attribute_loss"
    assert loss.item() == pytest.approx(attribute_loss(logits, LABELS.labels).item(), rel=1e-6)
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_parameters_are_those_of_a_classifier():
    """40 attributes as CelebA has: the body's 3,206,976 trainable parameters and a column of 1,024 weights each."""
    model = create_model("attributes", num_classes=40)
    assert sum(parameter.numel() for parameter in model.parameters()) == 3_185_088 + 2 * 10_944 + 40 * 1024 + 40
    assert model.preprocessing.size == 224


def test_labels_and_teacher_by_their_weights(images):
    student, teacher = network().eval(), network(alpha=0.5, seed=1, names=["scar", "ring", "hat", "beard"]).eval()
    objective = AttributeObjective(student, teacher=teacher, weight=0.3)
    found = objective(images, LABELS)
    hard = attribute_loss(student(images), LABELS.labels).item()
    soft = attribute_distillation_loss(student(images), teacher(images)[:, [2, 3, 0]]).item()  # by name
    assert found["attribute_loss"].item() == pytest.approx(0.7 * hard, rel=1e-5)
    assert found["teacher_loss"].item() == pytest.approx(0.3 * soft, rel=1e-5)
    assert list(AttributeObjective(student, teacher=teacher, weight=1.0)(images, LABELS)) == ["teacher_loss"]
    assert list(AttributeObjective(student, teacher=teacher, weight=0.3, use_labels=False)(images, LABELS)) == [
        "teacher_loss"
    ]
    alone = AttributeObjective(student, weight=0.3)(images, LABELS)
    assert {name: loss.item() for name, loss in alone.items()} == {"attribute_loss": pytest.approx(hard, rel=1e-6)}
    with pytest.raises(UserError, match="does not know 1 of the 3 attributes, such as 'beard'; it knows hat, scar"):
        AttributeObjective(student, teacher=network(names=["hat", "scar"]))
    with pytest.raises(UserError, match="nothing to learn from; give task.teacher"):
        AttributeObjective(student, use_labels=False)
    for words in ({"weight": 1.0}, {"weight": 0.5, "use_labels": False}):
        with pytest.raises(UserError, match="task.positive_weights=balanced weights the labels"):
            AttributeObjective(student, teacher=teacher, positive_weights=torch.ones(3), **words)


def test_a_teacher_sees_its_own_size_and_normalises_for_itself(images):
    student = network().eval()
    teacher = network(seed=1, size=96, mean=(10, 20, 30), std=(90, 80, 70)).eval()
    seen = fit_batch(images, 96)
    by_hand = (seen.float() - torch.tensor([10.0, 20, 30]).view(3, 1, 1)) / torch.tensor([90.0, 80, 70]).view(3, 1, 1)
    expected = teacher.classify(teacher.backbone(by_hand)[-1])
    torch.testing.assert_close(AttributeObjective(student, teacher=teacher).ask(images), expected, rtol=1e-4, atol=1e-4)


def test_the_teacher_is_neither_trained_nor_saved_and_goes_along():
    student, teacher = network(), network(alpha=0.5, seed=1)
    module = VisionModule(student, objective=AttributeObjective(student, teacher=teacher))
    module.train()
    assert not teacher.training
    assert {name.split(".")[0] for name in module.state_dict()} == {"model"}
    trained = {id(parameter) for group in module.parameter_groups() for parameter in group["params"]}
    assert trained == {id(parameter) for parameter in student.parameters()}
    assert copy.deepcopy(module).objective.teacher is teacher  # as a running mean of the weights copies the module
    assert copy.deepcopy(module).objective.model is not student
    module.to("meta")
    assert {tensor.device.type for tensor in (*teacher.parameters(), *teacher.buffers())} == {"meta"}


def test_balanced_weights_make_up_for_rare_attributes():
    weights = positive_weights(np.array([[1, 2, 0, 4], [3, 2, 4, 0]]))
    assert weights.tolist() == [3, 1, 1, 1]
    labels = torch.tensor([[1.0], [0], [0], [0]])
    logits = torch.zeros(4, 1, requires_grad=True)
    attribute_loss(logits, labels, positive_weights=weights[:1]).backward()
    assert logits.grad.sum().item() == pytest.approx(0)  # half of the pull comes from either side
