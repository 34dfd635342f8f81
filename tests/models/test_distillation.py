from __future__ import annotations

import pytest
import torch

from mnvision import create_model
from mnvision.errors import UserError
from mnvision.models.class_objective import ClassObjective
from mnvision.models.classifier import Classifier
from mnvision.models.distillation import Distillation, embedding_loss, feature_loss
from mnvision.module import VisionModule
from mnvision.objectives import build_teacher
from mnvision.ops.class_losses import class_loss, distillation_loss
from mnvision.ops.image import fit_batch
from mnvision.types import Labels

CLASSES = ["ant", "bee", "cow"]


def classifier(*, alpha: float = 0.25, seed: int = 0, size: int = 64, classes: list[str] = CLASSES) -> Classifier:
    torch.manual_seed(seed)
    return create_model("classify", alpha=alpha, image_size=size, classes=classes)


@pytest.fixture
def images():
    return torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


LABELS = Labels(torch.tensor([0, 2, 1, 1]), torch.arange(4))


def test_labels_and_teacher_by_their_weights(images):
    student, teacher = classifier().eval(), classifier(alpha=0.5, seed=1).eval()
    objective = Distillation(student, teacher, hard=ClassObjective(student), temperature=2.0, weight=0.3)
    found = objective(images, LABELS)
    assert found["class_loss"].item() == pytest.approx(0.7 * class_loss(student(images), LABELS).item(), rel=1e-5)
    loss = distillation_loss(student(images), teacher(images), temperature=2.0)
    assert found["teacher_loss"].item() == pytest.approx(0.3 * loss.item(), rel=1e-5)
    alone = Distillation(student, teacher, hard=None, temperature=2.0, weight=1.0)(images, LABELS)
    assert list(alone) == ["teacher_loss"]


def test_classes_go_by_name(images):
    student, teacher = classifier().eval(), classifier(seed=1, classes=["cow", "dog", "ant", "bee"]).eval()
    objective = Distillation(student, teacher, hard=None, weight=1.0, temperature=1.0)
    expected = distillation_loss(student(images), teacher(images)[:, [2, 3, 0]], temperature=1.0)
    assert objective(images, LABELS)["teacher_loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    with pytest.raises(UserError, match="does not know 1 of the 3 classes, such as 'bee'; it knows "):
        Distillation(student, classifier(classes=["cow", "ant"]), hard=None)
    with pytest.raises(UserError, match="nothing of the teacher is used"):
        Distillation(student, teacher, hard=None, weight=0.0)


def test_a_teacher_sees_its_own_size_and_normalises_for_itself(images):
    student = classifier().eval()
    torch.manual_seed(1)
    teacher = create_model("classify", alpha=0.25, image_size=96, classes=CLASSES, mean=(10, 20, 30), std=(90, 80, 70))
    objective = Distillation(student, teacher, hard=None, weight=1.0)
    larger = torch.nn.functional.interpolate(images.float(), (96, 96), mode="bilinear", antialias=True)
    by_hand = (larger - torch.tensor([10.0, 20, 30]).view(3, 1, 1)) / torch.tensor([90.0, 80, 70]).view(3, 1, 1)
    expected = teacher.classify(teacher.backbone(by_hand)[-1])
    torch.testing.assert_close(objective.ask(images)[0], expected, rtol=1e-4, atol=1e-4)
    assert fit_batch(images, 64) is images


def test_features_and_embeddings(images):
    student, teacher = classifier().eval(), classifier(alpha=0.5, seed=1).eval()
    objective = Distillation(student, teacher, hard=None, weight=0.0, feature_weight=2.0, embedding_weight=3.0)
    assert objective.feature_map.weight.shape == (512, 256, 1, 1)
    found = objective(images, LABELS)
    own, wanted = student.backbone(student.normalise(images))[-1], objective.ask(images)[2]
    assert found["feature_loss"].item() == pytest.approx(2 * feature_loss(objective.feature_map(own), wanted).item())
    same = Distillation(student, classifier(seed=0).eval(), hard=None, weight=0.0, feature_weight=1, embedding_weight=1)
    assert isinstance(same.feature_map, torch.nn.Identity)
    assert sum(loss.item() for loss in same(images, LABELS).values()) == pytest.approx(0, abs=1e-5)


def test_distances_by_hand():
    one = torch.tensor([[[[1.0, 3.0]], [[5.0, 7.0]]]])  # standardised: -3, -1, 1, 3 over sqrt(5)
    assert feature_loss(one, 10 * one + 4).item() == pytest.approx(0, abs=1e-6)
    flipped = feature_loss(one, -one).item()
    assert flipped == pytest.approx(4 * (9 + 1 + 1 + 9) / 4 / 5, rel=1e-4)
    assert feature_loss(one, one.repeat_interleave(2, 3)).item() == pytest.approx(0, abs=1e-5)
    rows = torch.tensor([[1.0, 0], [0, 2]])
    assert embedding_loss(rows, torch.tensor([[5.0, 0], [3, 3]])).item() == pytest.approx(1 - (1 + 0.5**0.5) / 2)


def test_the_teacher_is_neither_trained_nor_saved():
    student, teacher = classifier(), classifier(alpha=0.5, seed=1)
    objective = Distillation(student, teacher, hard=ClassObjective(student), embedding_weight=1.0)
    module = VisionModule(student, objective=objective)
    module.train()
    assert not teacher.training
    assert {name.split(".")[0] for name in module.state_dict()} == {"model", "objective"}
    assert {name for name in module.state_dict() if name.startswith("objective.")} == {
        "objective.embedding_map.weight",
        "objective.embedding_map.bias",
    }
    trained = {id(parameter) for group in module.parameter_groups() for parameter in group["params"]}
    assert trained == {id(parameter) for parameter in (*student.parameters(), *objective.parameters())}
    assert not trained & {id(parameter) for parameter in teacher.parameters()}


def test_the_teacher_goes_along_to_another_device():
    student, teacher = classifier(), classifier(seed=1)
    module = VisionModule(student, objective=Distillation(student, teacher, hard=None, weight=1.0))
    module.to("meta")
    assert {tensor.device.type for tensor in (*teacher.parameters(), *teacher.buffers())} == {"meta"}


def test_a_teacher_of_timm(images, tmp_path):
    timm = pytest.importorskip("timm")
    torch.manual_seed(1)
    network = timm.create_model("mobilenetv3_small_050", num_classes=3, pretrained=False).eval()
    torch.save(network.state_dict(), tmp_path / "teacher.pt")
    given = {"teacher": str(tmp_path / "teacher.pt"), "teacher_backbone": "mobilenetv3_small_050"}
    task = {
        "name": "distill",
        "teacher_library": "timm",
        "teacher_classes": ["cow", "ant", "bee"],
        "cache_teacher": False,
        "teacher_alpha": 1.0,
    }
    teacher = build_teacher({"task": {**task, **given}})
    assert teacher.preprocessing.size == 224
    student = classifier().eval()
    objective = Distillation(student, teacher, hard=None, weight=1.0, temperature=1.0, embedding_weight=1.0)
    mean, std = (torch.tensor(network.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    seen = (fit_batch(images, 224) / 255 - mean) / std
    torch.testing.assert_close(objective.ask(images)[0], network(seen), rtol=1e-3, atol=1e-4)
    losses = objective(images, LABELS)
    expected = distillation_loss(student(images), network(seen)[:, [1, 2, 0]], temperature=1.0)
    assert losses["teacher_loss"].item() == pytest.approx(expected.item(), rel=1e-3)
    assert losses["embedding_loss"].requires_grad
    with pytest.raises(UserError, match="got 2 names, and .* has 3 classes"):
        build_teacher({"task": {**task, **given, "teacher_classes": ["cow", "ant"]}})
    with pytest.raises(
        UserError, match="unknown timm model 'mobilnetv3_small_050'; did you mean mobilenetv3_small_050"
    ):
        build_teacher({"task": {**task, **given, "teacher_backbone": "mobilnetv3_small_050"}})
