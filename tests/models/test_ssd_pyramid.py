"""SSD's form on a feature pyramid: what all levels share, what each has of its own, and weights of it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

from mnvision import create_backbone, create_model
from mnvision.backbones.weights import load_weights, read_weights
from mnvision.checkpoint import load_model, save_model
from mnvision.models.ssd import SSD
from mnvision.types import Preprocessing, UserError
from tests.runs import batch, state


def make(*, alpha=0.25, size=96, num_classes=3, backbone="mobilenet_v1", seed=0, **options):
    torch.manual_seed(seed)
    network = create_backbone(backbone, alpha=alpha)
    return SSD(network, num_classes=num_classes, preprocessing=Preprocessing(size), form="fpn", **options)


@pytest.mark.parametrize(
    ("backbone", "alpha", "size"),
    [
        ("mobilenet_v1", 1.0, 640),
        ("mobilenet_v1", 0.75, 300),
        ("mobilenet_v1", 0.25, 97),
        ("mobilenet_v1", 0.25, 33),
        ("mobilenet_v2", 0.5, 160),
        ("mobilenet_v3_small", 0.5, 97),
        ("mobilenet_v4_conv_small", 0.5, 96),
    ],
)
def test_maps_and_anchors_agree_at_any_size_on_any_backbone(backbone, alpha, size):
    model = make(backbone=backbone, alpha=alpha, size=size)
    anchors = len(model.anchors)
    logits, offsets = model.to("meta").eval()(torch.zeros(2, 3, size, size, device="meta"))
    assert logits.shape == (2, anchors, 4)
    assert offsets.shape == (2, anchors, 4)


@pytest.mark.parametrize(("alpha", "depth"), [(1.0, 256), (0.75, 192), (0.05, 16)])
def test_the_width_multiplier_reaches_pyramid_and_heads(alpha, depth):
    model = make(alpha=alpha)
    assert [(level.channels, level.stride) for level in model.levels] == [(depth, 2**k) for k in (3, 4, 5, 6, 7)]
    assert {layer.conv.out_channels for layer in model.heads.boxes.layers} == {depth}
    assert (model.heads.classes.predictor.in_channels, model.heads.classes.predictor.out_channels) == (depth, 6 * 4)


def test_levels_share_the_convolutions_and_have_norms_of_their_own():
    """The heads again, from their arrays, in the order of the anchors."""
    model = make().eval()
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_(std=0.1)
            part.running_var.uniform_(0.01, 0.02)
            torch.nn.init.normal_(part.bias)
    arrays = state(model.heads)
    maps = [torch.randn(2, 64, side, side) for side in (12, 6, 3, 2, 1)]
    logits, offsets = [], []
    for level, features in enumerate(maps):
        for tower, found, columns in (("classes", logits, 4), ("boxes", offsets, 4)):
            hidden = features
            for layer in range(4):
                name = f"{tower}.layers.{layer}"
                hidden = F.conv2d(hidden, arrays[f"{name}.conv.weight"], padding=1)
                mean, variance, gamma, beta = (
                    arrays[f"{name}.norms.{level}.{part}"][:, None, None]
                    for part in ("running_mean", "running_var", "weight", "bias")
                )
                hidden = ((hidden - mean) / (variance + 1e-3).sqrt() * gamma + beta).relu()
            bias = arrays[f"{tower}.predictor.bias"]
            hidden = F.conv2d(hidden, arrays[f"{tower}.predictor.weight"], bias, padding=1)
            found += [
                hidden[:, anchor * columns : (anchor + 1) * columns, row, column]
                for row in range(hidden.shape[2])
                for column in range(hidden.shape[3])
                for anchor in range(6)
            ]
    found = model.heads(maps)
    assert found[0].std() > 0.05
    torch.testing.assert_close(found[0], torch.stack(logits, dim=1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[1], torch.stack(offsets, dim=1), rtol=1e-4, atol=1e-4)


def test_every_norm_counts_its_own_level():
    model = make().train()
    model(batch().images)
    norms = [norm for layer in model.heads.boxes.layers for norm in layer.norms]
    assert len(norms) == 4 * 5
    assert all(norm.num_batches_tracked == 1 for norm in norms)


def test_the_loss_is_focal_and_every_class_starts_rare():
    model = make(size=64)
    assert model.loss == "focal"
    scores = model.scores(model(batch().images).logits)
    torch.testing.assert_close(scores.mean(), torch.tensor(0.01), rtol=0, atol=2e-3)
    assert make(loss="sigmoid").loss == "sigmoid"


def test_channels_last_changes_nothing():
    model = make().eval()
    images = batch(size=96).images
    expected = model(images)
    found = copy.deepcopy(model).to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_a_backbone_without_a_level_at_stride_8():
    network = create_backbone("mobilenet_v1", alpha=0.25)
    network.levels = network.levels[-2:]
    message = r"SSD \(fpn\) taps maps at strides \(8, 16, 32\); mobilenet_v1 has levels at \[16, 32\]"
    with pytest.raises(UserError, match=message):
        SSD(network, num_classes=3, preprocessing=Preprocessing(96), form="fpn")


def test_create_model_takes_the_forms_own_size_and_loss(tmp_path):
    model = create_model("ssd", alpha=0.25, num_classes=2, task_options={"form": "fpn", "loss": None})
    assert (model.preprocessing.size, model.loss, model.spec.task_options["loss"]) == (640, "focal", "focal")
    torch.save(model.state_dict(), tmp_path / "bare.pt")  # says its form, but not its size
    again = create_model("ssd", alpha=0.25, num_classes=2, weights=str(tmp_path / "bare.pt"))
    assert (again.form, again.preprocessing.size, again.loss) == ("fpn", 640, "focal")
    torch.testing.assert_close(state(again), state(model))


def test_a_checkpoint_holds_the_form(tmp_path):
    path = tmp_path / "ssd.ckpt"
    model = create_model("ssd", alpha=0.25, num_classes=2, image_size=64, task_options={"form": "fpn"}).eval()
    save_model(model, path)
    images = batch().images
    torch.testing.assert_close(load_model(path)(images), model(images))
    with pytest.raises(UserError, match="weights are of form fpn, the model has form lite: set task.form=fpn"):
        create_model("ssd", alpha=0.25, weights=str(path), task_options={"form": "lite"})


def test_other_classes_take_their_columns_by_name(tmp_path, caplog):
    path = tmp_path / "ssd.ckpt"
    torch.manual_seed(0)
    options = {"alpha": 0.25, "image_size": 64, "task_options": {"form": "fpn"}}
    full = create_model("ssd", classes=["cat", "dog", "bird"], **options)
    with torch.no_grad():
        full.heads.classes.predictor.bias.normal_()
    save_model(full, path)
    part = create_model("ssd", classes=["bird", "fish", "Cat"], **options)
    fresh = state(part)
    report = load_weights(part, read_weights(path), classes=part.spec.classes)
    names = ("heads.classes.predictor.weight", "heads.classes.predictor.bias")
    assert report.initialised == names
    assert "class head: 2 of 3 classes taken by name, 1 re-initialised (fish)" in str(report)
    for name, tensor in state(part).items():
        if name not in names:
            assert torch.equal(tensor, full.state_dict()[name]), name
            continue
        mixed, whole, before = (t.unflatten(0, (6, 4)) for t in (tensor, full.state_dict()[name], fresh[name]))
        assert torch.equal(mixed[:, [0, 1, 3]], whole[:, [0, 3, 1]])  # background, bird, cat
        assert torch.equal(mixed[:, 2], before[:, 2])
