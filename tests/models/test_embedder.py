"""The embedder and what its training minimises."""

from __future__ import annotations

import functools

import pytest
import torch
from torch.nn import functional as F

from mnvision import create_model, list_backbones, load_model, profile
from mnvision.checkpoint import save_model
from mnvision.errors import UserError
from mnvision.inference import for_inference
from mnvision.models.embedding_objective import EmbeddingObjective
from mnvision.ops.embedding_losses import triplet_loss
from mnvision.types import Labels


def embedder(size: int = 64, **options):
    torch.manual_seed(0)
    names = {"alpha", "backbone", "backbone_options"} & set(options)
    others = {name: options.pop(name) for name in names}
    return create_model("embed", num_classes=3, image_size=size, **{"alpha": 0.25, **others}, task_options=options)


@pytest.fixture
def images():
    return torch.randint(0, 256, (6, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


LABELS = Labels(torch.tensor([0, 0, 1, 1, 2, 2]), torch.arange(6))


@pytest.mark.parametrize("pooling", ["mean", "depthwise"])
@pytest.mark.parametrize("size", [64, 112])
def test_embeddings_have_length_one(pooling, size):
    model = embedder(size, pooling=pooling, embedding_size=32).eval()
    found = model(torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8))
    assert found.shape == (2, 32)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2))


def test_without_a_layer_the_embedding_is_the_mean_of_the_map(images):
    model = embedder(embedding_size=0).eval()
    expected = model.backbone(model.normalise(images))[-1].mean(dim=(2, 3))
    torch.testing.assert_close(model(images), F.normalize(expected, dim=1))
    assert model.embedding_size == 256
    assert not [name for name, _ in model.named_parameters() if not name.startswith("backbone.")]


def test_costs_by_hand():
    # The layer works once, not on each of the 5x5 cells.
    plain, model = embedder(160, alpha=1.0, embedding_size=0), embedder(160, alpha=1.0)
    assert profile(model).mult_adds - profile(plain).mult_adds == 1024 * 128
    assert profile(plain).mult_adds == 290_675_200 - 1_024_000
    depthwise = embedder(160, alpha=1.0, pooling="depthwise")
    assert profile(depthwise).mult_adds - profile(model).mult_adds == 25 * 1024
    # GAP and a layer of 128, as FACTS counts for Table 14: 3,185,088 + 131,072 weights.
    weights = sum(p.numel() for name, p in model.named_parameters() if name.endswith("conv.weight"))
    assert weights == 3_316_160


def test_the_depthwise_pooling_starts_as_the_mean(images):
    model = embedder(pooling="depthwise").eval()
    features = model.backbone(model.normalise(images))[-1]
    torch.testing.assert_close(model.pooling.conv(features), features.mean(dim=(2, 3), keepdim=True))


def test_flip_averages_the_mirror_image(images):
    plain, both = embedder().eval(), embedder(flip=True).eval()
    expected = F.normalize(plain.predict(images) + plain.predict(images.flip(-1)), dim=1)
    torch.testing.assert_close(both.predict(images), expected)
    torch.testing.assert_close(both.predict(images, output=both(images)), expected)
    torch.testing.assert_close(both.predict(images.flip(-1)), expected)
    assert not torch.allclose(plain.predict(images), expected, atol=1e-4)


def test_prediction_made_fast_is_the_same(images):
    model = embedder(pooling="depthwise").eval()
    torch.testing.assert_close(for_inference(model).predict(images), model.predict(images), rtol=1e-4, atol=1e-5)


def test_own_loss_is_that_of_semi_hard_triplets(images):
    model = embedder().eval()
    loss = model.losses(images, LABELS)["triplet_loss"]
    torch.testing.assert_close(loss, triplet_loss(model(images), LABELS.labels, margin=0.2))


@pytest.mark.parametrize("loss", ["arcface", "cosface", "triplet", "batch_hard", "contrastive"])
def test_every_loss_falls(loss, images):
    model = embedder(embedding_size=16).train()
    objective = EmbeddingObjective(model, loss=loss, identities=3, scale=16.0)
    optimizer = torch.optim.AdamW([*model.parameters(), *objective.parameters()], lr=2e-3)
    values = []
    for _ in range(12):
        total = sum(objective(images, LABELS).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        values.append(total.item())
    assert values[-1] < 0.5 * max(values)
    assert (objective.directions is not None) == (loss in ("arcface", "cosface"))


@pytest.mark.parametrize("loss", ["arcface", "cosface", "triplet", "contrastive"])
def test_one_identity_is_told_apart_from_nobody(loss):
    """The loss would be 0 from the first step on."""
    with pytest.raises(UserError, match=f"task.loss={loss} tells identities apart, and the training pictures have 1"):
        EmbeddingObjective(embedder(), loss=loss, identities=1)
    EmbeddingObjective(embedder(), loss="none", identities=0, teacher=embedder())


def test_unknown_identities_do_not_count(images):
    model = embedder(embedding_size=16).eval()
    objective = EmbeddingObjective(model, loss="arcface", identities=3)
    known = objective.identity_loss(model(images[:4]), LABELS.labels[:4])
    some = torch.tensor([0, 0, 1, 1, -1, -1])
    torch.testing.assert_close(objective.identity_loss(model(images), some), known)
    assert objective.identity_loss(model(images), torch.full((6,), -1)) == 0


def test_a_teacher_by_squared_difference(images):
    """The sentence of the MobileNet paper, section 4.7; the teacher sees its own size and stays as it is."""
    student, teacher = embedder(embedding_size=16), embedder(96, alpha=0.5, embedding_size=16)
    objective = EmbeddingObjective(student.eval(), loss="none", identities=3, teacher=teacher, teacher_weight=2.0)
    found = objective(images, LABELS)
    assert list(found) == ["teacher_loss"]
    larger = F.interpolate(images.float(), (96, 96), mode="bilinear", align_corners=False, antialias=True)
    wanted = teacher(larger.round())
    expected = 2 * (student(images) - wanted).square().sum(1).mean()
    assert found["teacher_loss"].item() == pytest.approx(expected.item(), rel=0.05)
    assert not list(objective.parameters())
    assert not objective.state_dict()
    found["teacher_loss"].backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not objective.train().ask(images).requires_grad
    assert not teacher.training


def test_relations_of_a_teacher_of_another_width(images):
    student, teacher = embedder(embedding_size=16), embedder(embedding_size=24)
    with pytest.raises(UserError, match=r"task.embedding_size=24, or task.teacher_weight=0"):
        EmbeddingObjective(student, loss="none", identities=3, teacher=teacher)
    objective = EmbeddingObjective(
        student, loss="arcface", identities=3, teacher=teacher, teacher_weight=0.0, relation_weight=1.0
    )
    assert list(objective(images, LABELS)) == ["arcface_loss", "relation_loss"]


def test_weights_of_a_teacher_that_is_not_there_or_not_used():
    with pytest.raises(UserError, match="task.relation_weight needs a teacher"):
        EmbeddingObjective(embedder(), loss="arcface", identities=3, relation_weight=1.0)
    with pytest.raises(UserError, match="nothing of the teacher is used"):
        EmbeddingObjective(embedder(), loss="arcface", identities=3, teacher=embedder(), teacher_weight=0.0)


def test_alignment_comes_with_the_weights(tmp_path):
    model = create_model("embed", alpha=0.25, image_size=64, num_classes=2, aligned=True)
    save_model(model, tmp_path / "m.ckpt")
    again = create_model("embed", alpha=0.25, num_classes=2, weights=str(tmp_path / "m.ckpt"))
    assert again.preprocessing.aligned
    assert load_model(tmp_path / "m.ckpt").preprocessing.aligned


def test_nothing_to_learn_from():
    with pytest.raises(UserError, match="give task.teacher=CKPT"):
        EmbeddingObjective(embedder(), loss="none", identities=3)
    with pytest.raises(UserError, match="2 or more, or 0 for the pooled features; got 1"):
        embedder(embedding_size=1)


@pytest.mark.parametrize("pooling", ["mean", "depthwise"])
@pytest.mark.parametrize("backbone", [*list_backbones(), "timm"])
def test_every_backbone_gives_embeddings(backbone, pooling, images, tmp_path):
    """At odd and even sizes of the last map; every parameter gets a gradient, and a saved model says the same."""
    others = {"alpha": 0.5}
    if backbone == "timm":
        pytest.importorskip("timm")
        others = {"alpha": 1.0, "backbone_options": {"library": "timm"}}
    name = "mobilenetv3_small_050" if backbone == "timm" else backbone
    make = functools.partial(embedder, backbone=name, pooling=pooling, embedding_size=8)
    if (backbone, pooling) == ("squeezenet", "depthwise"):
        with pytest.raises(UserError, match="give task.pooling=mean"):
            make(**others)
        return
    model = make(**others)
    objective = EmbeddingObjective(model, loss="arcface", identities=3)
    objective(images, LABELS)["arcface_loss"].backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    assert torch.isfinite(model(images)).all()
    save_model(model, tmp_path / "m.ckpt")
    again = load_model(tmp_path / "m.ckpt")
    torch.testing.assert_close(again.predict(images), model.eval().predict(images), rtol=0, atol=0)
    assert make(70, **others).eval()(images[:1, :, :, :].repeat(1, 1, 2, 2)[..., :70, :70]).shape == (1, 8)
