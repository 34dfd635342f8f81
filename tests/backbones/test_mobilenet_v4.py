"""MobileNet V4 against timm's, on shared weights, and what the rest of the package needs of it."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn

from mnvision.backbones import create_backbone
from mnvision.backbones.folding import fold_batchnorm
from mnvision.backbones.layers import parameters_without_decay
from mnvision.backbones.layouts_timm import from_timm
from mnvision.backbones.loading import load_weights
from mnvision.backbones.mobilenet_v4_plans import PLANS, weight_shapes
from mnvision.errors import UserError
from mnvision.inference import for_inference
from mnvision.models.base import ModelSpec
from mnvision.models.classifier import Classifier
from mnvision.models.create import build_model, create_model
from mnvision.profiler import profile
from mnvision.types import Preprocessing
from tests.runs import batch

NAMES = sorted(PLANS)
CONV_SMALL = "mobilenet_v4_conv_small"
HYBRID = "mobilenet_v4_hybrid_medium"
WIDTHS = [("mobilenetv4_conv_small_050", CONV_SMALL, 0.5), ("mobilenetv4_conv_small_035", CONV_SMALL, 0.35)]
WIDTHS += [(name.replace("_v4", "v4"), name, 1.0) for name in NAMES]


def randomise(model: nn.Module) -> nn.Module:
    """Statistics and factors of its own in every norm and layer scale: at their defaults, mistakes would not show."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith(("running_var", "gamma", "factor")):
                tensor.uniform_(0.5, 1.5)
            elif name.endswith("running_mean") or (name.endswith("bias") and tensor.ndim == 1):
                tensor.normal_(std=0.1)
    return model.eval()


@functools.cache
def theirs(name: str) -> nn.Module:
    timm = pytest.importorskip("timm", reason="timm is the reference, and not installed")
    torch.manual_seed(0)
    return randomise(timm.create_model(name, pretrained=False, num_classes=7))


def classifier(name: str, *, alpha: float = 1.0, classes: int = 7, **options: str) -> Classifier:
    backbone = create_backbone(name, alpha=alpha, **options)
    return Classifier(backbone, num_classes=classes, preprocessing=Preprocessing(64)).eval()


def close(one: Tensor, other: Tensor, tolerance: float = 1e-5) -> None:
    """Equal up to a share of the largest value."""
    assert one.shape == other.shape
    assert (one - other).abs().max() <= tolerance * other.abs().max()
    assert other.abs().max() > 1e-3


@pytest.mark.parametrize(("reference", "name", "alpha"), WIDTHS)
def test_same_function_as_timm(reference, name, alpha):
    model, source = classifier(name, alpha=alpha), theirs(reference)
    report = load_weights(model, from_timm(source.state_dict()))
    assert report.used == report.total == len(load_names(source))
    assert all("trained with mean" in note or "trained with std" in note for note in report.notes)
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        close(model.backbone(images)[-1], source.forward_features(images))
        close(model(images * model.std + model.mean), source(images))


def load_names(model: nn.Module) -> list[str]:
    return [name for name in model.state_dict() if not name.endswith("num_batches_tracked")]


@pytest.mark.parametrize("name", [CONV_SMALL, HYBRID])
def test_every_level_is_timms(name):
    timm = pytest.importorskip("timm", reason="timm is the reference, and not installed")
    source = theirs(name.replace("_v4", "v4"))
    features = timm.create_model(name.replace("_v4", "v4"), features_only=True, pretrained=False).eval()
    features.load_state_dict(source.state_dict(), strict=False)
    backbone = classifier(name)
    load_weights(backbone, from_timm(source.state_dict()))
    images = torch.randn(1, 3, 75, 64)
    with torch.no_grad():
        for one, other in zip(backbone.backbone(images), features(images), strict=True):
            close(one, other)
    info = features.feature_info
    levels = [(level.channels, level.stride) for level in backbone.backbone.levels]
    assert levels == list(zip(info.channels(), info.reduction(), strict=True))


@pytest.mark.parametrize(
    ("name", "count"),
    [
        (CONV_SMALL, 3_774_024),
        ("mobilenet_v4_conv_medium", 9_715_512),
        ("mobilenet_v4_conv_large", 32_590_864),
        (HYBRID, 11_074_648),
        ("mobilenet_v4_hybrid_large", 37_764_624),
    ],
)
def test_parameters_of_the_classifier(name, count):
    """timm's counts."""
    with torch.device("meta"):
        model = classifier(name, classes=1000)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("alpha", [1.0, 0.5, 1.25])
def test_the_table_of_shapes_is_what_is_built(name, alpha):
    with torch.device("meta"):
        backbone = create_backbone(name, alpha=alpha)
    built = {key: tuple(value.shape) for key, value in backbone.state_dict().items() if value.ndim == 4}
    assert built == weight_shapes(name, alpha)


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("name", [CONV_SMALL, HYBRID])
def test_levels_and_gradients(name, padding):
    backbone = create_backbone(name, alpha=0.25, padding=padding)
    maps = backbone(torch.randn(2, 3, 75, 64))
    assert [level.stride for level in backbone.levels] == [2, 4, 8, 16, 32]
    for level, features in zip(backbone.levels, maps, strict=True):
        assert features.shape == (2, level.channels, -(-75 // level.stride), -(-64 // level.stride))
    sum((features * torch.randn_like(features)).sum() for features in maps).backward()
    for key, parameter in backbone.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize("name", [CONV_SMALL, HYBRID, "mobilenet_v4_hybrid_large"])
def test_folded_and_packed_networks_compute_the_same(name):
    model = randomise(create_model("classify", backbone=name, alpha=0.25, num_classes=5, image_size=96))
    images = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    with torch.no_grad():
        expected = model(images)
        for fast in (fold_batchnorm(model), for_inference(model)):
            close(fast(images), expected, 1e-3)


def test_freezing_counts_in_stages_of_one_stride():
    backbone = create_backbone(HYBRID, alpha=0.25, freeze=3)
    trains = [any(p.requires_grad for part in stage for p in part.parameters()) for stage in backbone.stages]
    assert trains == [False, False, False, True, True]
    assert sum(len(stage) for stage in backbone.stages) == 1 + len(backbone.blocks)


def test_layer_scale_starts_near_zero_on_residuals_alone_and_never_decays():
    backbone = create_backbone(HYBRID, alpha=0.25)
    without = parameters_without_decay(backbone)
    for block in backbone.blocks[1:-1]:
        assert block.scale.factor in without
        assert block.scale.factor.unique().tolist() == pytest.approx([1e-5 if block.residual else 1.0])
    decayed = {name.split(".")[2] for name, p in backbone.named_parameters() if p not in without and "blocks" in name}
    assert decayed == {"conv", "expand", "project", "query", "key", "value", "output"}


def test_the_profiler_counts_the_attention_by_hand():
    found = profile(create_backbone(HYBRID), image_size=256)
    # 4 heads of depth 64: four blocks of 16x16 queries and 8x8 keys, four of 8x8 and 8x8
    products = 2 * 4 * 64 * (4 * 256 * 64 + 4 * 64 * 64)
    assert found.by_kind()["attention"] == (products, 0)
    assert "attention" in found.summary()
    assert "attention" not in profile(create_backbone(CONV_SMALL, alpha=0.25), image_size=64).summary()


@pytest.mark.parametrize("form", ["paper", "lite"])
def test_ssd_trains_a_step_and_predicts(form):
    torch.manual_seed(0)
    model = create_model(
        "ssd", backbone=CONV_SMALL, alpha=0.5, image_size=96, num_classes=3, task_options={"form": form}
    )
    made = batch(counts=(2, 1), size=96, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    before = sum(model.losses(made.images, made.targets).values())
    for _ in range(3):
        optimizer.zero_grad()
        loss = sum(model.losses(made.images, made.targets).values())
        loss.backward()
        optimizer.step()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert sum(model.losses(made.images, made.targets).values()) < before
    model.eval()
    again = build_model(ModelSpec(**vars(model.spec))).eval()
    again.load_state_dict(model.state_dict())
    for one, other in zip(model.predict(made.images), again.predict(made.images), strict=True):
        assert torch.equal(one.boxes, other.boxes)


def test_weights_of_another_network_are_refused():
    state = dict(theirs("mobilenetv4_conv_small_035").state_dict())
    with pytest.raises(UserError, match=r"unexpected blocks\.9\.0\.conv2\.weight"):
        from_timm(state | {"blocks.9.0.conv2.weight": torch.zeros(1)})
    with pytest.raises(UserError, match="at any width multiplier"):
        from_timm(state | {"blocks.4.0.conv.weight": torch.zeros(337, 48, 1, 1)})
    with pytest.raises(UserError, match=r"backbone\.alpha=0\.35"):
        load_weights(create_backbone(CONV_SMALL, alpha=0.5), from_timm(state))
    with pytest.raises(UserError, match=f"backbone={CONV_SMALL}"):
        load_weights(create_backbone("mobilenet_v1"), from_timm(state))


@pytest.mark.parametrize(("reference", "alpha"), [("mobilenetv1_100", 1.0), ("mobilenetv1_125", 1.25)])
def test_mobilenet_v1_of_timm(reference, alpha):
    source = theirs(reference)
    weights = from_timm(source.state_dict())
    assert weights.settings["name"] == "mobilenet_v1"
    assert weights.settings["mean"] == weights.settings["std"] == (127.5,) * 3
    keys = ("padding", "activation", "norm_eps")
    model = classifier("mobilenet_v1", alpha=alpha, **{key: weights.settings[key] for key in keys})
    report = load_weights(model, weights)
    assert (report.used, report.notes) == (len(load_names(source)), ())
    images = torch.randint(0, 256, (2, 3, 64, 96))
    with torch.no_grad():
        close(model(images), source(images / 127.5 - 1))
