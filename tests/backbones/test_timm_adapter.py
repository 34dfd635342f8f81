"""Models of timm as backbones."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from mnvision.backbones import create_backbone
from mnvision.backbones.folding import fold_batchnorm
from mnvision.backbones.weights import read_weights, resolve_weights
from mnvision.checkpoint import load_model, save_model
from mnvision.config import find_problems
from mnvision.errors import UserError
from mnvision.inference import for_inference
from mnvision.models.create import create_model
from tests.runs import batch

timm = pytest.importorskip("timm", reason="the adapter needs timm, which is not installed")
NAME = "mobilenetv4_conv_small_035"


def detector(**options):
    torch.manual_seed(0)
    return create_model(
        "ssd",
        backbone=NAME,
        image_size=96,
        num_classes=3,
        task_options={"form": "lite"},
        backbone_options={"library": "timm"},
        **options,
    )


@pytest.mark.parametrize("name", [NAME, "mobilenetv3_small_050", "mobilenetv2_035", "resnet18", "convnext_atto"])
def test_maps_are_those_of_timm(name):
    backbone = create_backbone(name, library="timm").eval()
    reference = timm.create_model(name, features_only=True, pretrained=False).eval()
    reference.load_state_dict(backbone.network.state_dict())
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        maps = backbone(images)
        for one, other in zip(maps, reference(images), strict=True):
            assert torch.equal(one, other)
    for level, features in zip(backbone.levels, maps, strict=True):
        assert features.shape == (1, level.channels, 64 // level.stride, 96 // level.stride)


@pytest.mark.parametrize("name", [NAME, "resnet18", "convnext_atto"])
def test_stages_hold_every_parameter_once_and_freeze_from_the_image_on(name):
    backbone = create_backbone(name, library="timm")
    parts = [parameter for stage in backbone.stages for part in stage for parameter in part.parameters()]
    assert len(parts) == len(set(parts)) == len(list(backbone.parameters()))
    assert len(backbone.stages) == len(backbone.levels)
    backbone.freeze(1)
    first, *others = backbone(torch.randn(2, 3, 64, 64))
    assert not first.requires_grad
    assert all(features.requires_grad for features in others)


@pytest.mark.parametrize("norm", ["freeze_statistics", "freeze"])
def test_norm_policies(norm):
    backbone = create_backbone(NAME, library="timm", norm=norm).train()
    norms = [part for part in backbone.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    before = [part.running_mean.clone() for part in norms]
    backbone(torch.randn(2, 3, 64, 64) + 3)
    assert all(torch.equal(part.running_mean, mean) for part, mean in zip(norms, before, strict=True))
    assert all(part.weight.requires_grad == (norm == "freeze_statistics") for part in norms)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0.5}, r"alpha=0\.5 cannot be chosen"),
        ({"padding": "same", "activation": "relu"}, "padding=same, activation=relu cannot be chosen"),
        ({"variant": "shallow"}, "variant=shallow cannot be chosen"),
        ({"name": "mobilenetv4_conv_smal"}, "did you mean mobilenetv4_conv_small"),
        ({"name": "vit_tiny_patch16_224"}, r"strides \[16, 16, 16\], expected rising ones"),
        ({"library": "keras"}, "must be timm"),
        ({"freeze": 6}, "0 to 5"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        create_backbone(**{"name": NAME, "library": "timm", **options})


def test_without_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match="pip install timm"):
        create_backbone(NAME, library="timm")


def test_a_detector_trains_saves_loads_and_predicts(tmp_path):
    model = detector()
    made = batch(counts=(2, 1), size=96, seed=0)
    sum(model.losses(made.images, made.targets).values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert model.spec.backbone_options == {"name": NAME, "alpha": 1.0, "library": "timm"}
    save_model(model, tmp_path / "model.ckpt")
    again = load_model(tmp_path / "model.ckpt")
    for one, other in zip(model.eval().predict(made.images), again.eval().predict(made.images), strict=True):
        assert torch.equal(one.boxes, other.boxes)


def test_folding_and_packing_leave_the_network_of_timm_alone():
    model = detector().eval()
    images = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    with torch.no_grad():
        for fast in (fold_batchnorm(model), for_inference(model)):
            for one, other in zip(fast(images), model(images), strict=True):
                torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
            assert str(fast.backbone) == str(model.backbone)
            assert "BatchNorm" not in str(fast.heads)


@pytest.mark.parametrize("name", [NAME, "resnet18", "convnext_atto"])
def test_a_state_dict_of_timm_goes_into_the_backbone(name, tmp_path):
    torch.manual_seed(1)
    source = timm.create_model(name, pretrained=False, num_classes=5)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    model = create_model(
        "ssd" if name != "convnext_atto" else "classify",
        backbone=name,
        num_classes=2,
        image_size=96,
        backbone_weights=str(tmp_path / "w.pth"),
        backbone_options={"library": "timm"},
    ).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model.backbone(images)[-1], source.eval().forward_intermediates(images)[1][-1])
    assert model.preprocessing.mean == pytest.approx([255 * value for value in source.default_cfg["mean"]])
    with pytest.raises(UserError, match="lacks backbone"):
        create_model(
            "classify",
            backbone="mobilenetv2_035",
            num_classes=2,
            backbone_weights=str(tmp_path / "w.pth"),
            backbone_options={"library": "timm"},
        )


def test_configuration_knows_the_schema_by_its_library():
    values = {"library": "timm", "name": NAME, "alpha": 1.0, "rho": 1.0, "weights": None, "freeze": 0, "norm": "train"}

    def problems(**changes):
        found = find_problems({"backbone": values | changes}, command="train")
        return [problem for problem in found if problem[0].startswith("backbone")]

    assert problems() == []
    assert problems(padding="same")[0][0] == "backbone.padding"
    assert problems(name=None) == [("backbone.name", "expected the name of a timm model, got null")]
    assert problems(library="keras") == [("backbone.library", "expected timm, got 'keras'")]


def test_known_names_have_folders_of_their_own(tmp_path, monkeypatch):
    """All files are named alike where they come from."""
    name = "timm_mobilenetv4_conv_small_050.e3000_r224_in1k"
    monkeypatch.setenv("MNVISION_CACHE", str(tmp_path))
    folder = tmp_path / "weights" / name.removeprefix("timm_")
    folder.mkdir(parents=True)
    source = timm.create_model("mobilenetv4_conv_small_050", pretrained=False)
    torch.save(source.state_dict(), folder / "pytorch_model.bin")
    assert resolve_weights(name).source.url.endswith(f"/{name.removeprefix('timm_')}/resolve/main/pytorch_model.bin")
    weights = read_weights(name)
    assert (weights.settings["name"], weights.settings["alpha"]) == ("mobilenet_v4_conv_small", 0.5)
    assert weights.settings["mean"] == weights.settings["std"] == (127.5,) * 3
