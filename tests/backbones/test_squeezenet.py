"""SqueezeNet against torchvision's: parameters, mult-adds, outputs, and weights in its layout."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mnvision import create_model, load_model
from mnvision.backbones import create_backbone
from mnvision.backbones.sources import SOURCES
from mnvision.backbones.weights import load_weights, read_weights
from mnvision.checkpoint import save_model
from mnvision.errors import UserError
from mnvision.models.classifier import Classifier
from mnvision.profiler import profile
from mnvision.types import Preprocessing

torchvision = pytest.importorskip("torchvision", reason="torchvision is the reference")
from torchvision.models import squeezenet  # noqa: E402

VERSIONS = {"1.0": squeezenet.squeezenet1_0, "1.1": squeezenet.squeezenet1_1}
versions = pytest.mark.parametrize("version", VERSIONS)


@torch.no_grad()
def reference(version: str, *, classes: int = 10) -> nn.Module:
    """Its convolutions start without biases, and its last layer near zero: neither would show a mistake."""
    torch.manual_seed(0)
    network = VERSIONS[version](weights=None, num_classes=classes).eval()
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.2)
    nn.init.normal_(network.classifier[1].weight, std=0.1)
    return network


def plain(version: str, *, classes: int = 10, alpha: float = 1.0) -> Classifier:
    """A classifier whose input is normalised already."""
    backbone = create_backbone("squeezenet", version=version, alpha=alpha)
    return Classifier(backbone, num_classes=classes, preprocessing=Preprocessing(224, (0.0,) * 3, (1.0,) * 3)).eval()


def save(network: nn.Module, folder) -> str:
    torch.save(network.state_dict(), folder / "theirs.pth")
    return str(folder / "theirs.pth")


def images(size: int, *, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("version", "parameters"), [("1.0", 1_248_424), ("1.1", 1_235_496)])
def test_costs_are_torchvisions(version, parameters):
    with torch.device("meta"):
        model = create_model("classify", backbone="squeezenet", num_classes=1000, backbone_options={"version": version})
        found, theirs = profile(model), profile(VERSIONS[version](), image_size=224)
    assert found.trainable == found.total == parameters  # no BatchNorm, no statistics
    assert (found.mult_adds, found.parameters) == (theirs.mult_adds, theirs.parameters)
    assert [layer.mult_adds for layer in found.layers] == [layer.mult_adds for layer in theirs.layers]
    assert found.layers[-1].mult_adds == 13 * 13 * 512 * 1000  # every cell of the last map is scored
    assert model.dropout.p == 0.5


@pytest.mark.parametrize("size", [64, 97])
@versions
@torch.no_grad()
def test_outputs_equal_those_of_torchvision(version, size, tmp_path):
    theirs = reference(version)
    given = read_weights(save(theirs, tmp_path))
    ours = plain(version)
    report = load_weights(ours, given)
    assert report.used == report.total == len(theirs.state_dict()) == len(ours.state_dict())
    batch = images(size)
    expected = theirs(batch)
    assert expected.std() > 0.05
    torch.testing.assert_close(ours.backbone(batch)[-1], theirs.features(batch), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours(batch), expected, rtol=1e-5, atol=1e-5)


@versions
def test_settings_come_with_the_weights(version, tmp_path):
    path = save(reference(version), tmp_path)
    given = read_weights(path)
    assert given.settings == {
        "name": "squeezenet",
        "alpha": 1.0,
        "version": float(version),
        "activation": "relu",
        "mean": (123.675, 116.28, 103.53),
        "std": (58.395, 57.12, 57.375),
        "image_size": 224,
    }
    assert given.description == "torchvision layout, squeezenet, alpha 1, 10 classes"
    whole = create_model("classify", backbone="squeezenet", weights=path, num_classes=10)
    assert (whole.backbone.version, whole.preprocessing.std) == (float(version), given.settings["std"])
    part = create_model("classify", backbone="squeezenet", backbone_weights=path, num_classes=3, image_size=64)
    assert torch.equal(
        part.backbone.blocks[7].squeeze.conv.weight, given.tensors["backbone.blocks.7.squeeze.conv.weight"]
    )


def test_what_does_not_fit_is_refused(tmp_path):
    theirs = reference("1.1")
    given = read_weights(save(theirs, tmp_path))
    with pytest.raises(UserError, match=r"of version 1\.1, the model has version 1\.0: set backbone\.version=1\.1"):
        load_weights(plain("1.0"), given)
    with pytest.raises(UserError, match="weights are of squeezenet, the model's backbone is mobilenet_v1"):
        load_weights(create_backbone("mobilenet_v1"), given)
    state = theirs.state_dict()
    torch.save(state | {"features.3.norm.weight": torch.ones(1)}, tmp_path / "more.pth")
    with pytest.raises(UserError, match=r"torchvision's SqueezeNet: unexpected features\.3\.norm\.weight"):
        read_weights(tmp_path / "more.pth")
    torch.save(state | {"features.0.weight": torch.ones(65, 3, 3, 3)}, tmp_path / "wide.pth")
    with pytest.raises(UserError, match="torchvision's SqueezeNet for no width multiplier"):
        read_weights(tmp_path / "wide.pth")


@pytest.mark.parametrize("version", ["1.2", 2, None])
def test_versions(version):
    if version is None:  # the family's own
        assert create_backbone("squeezenet", version=version).version == 1.0
        return
    with pytest.raises(UserError, match=r"backbone.version of squeezenet must be one of 1\.0, 1\.1; got"):
        create_backbone("squeezenet", version=version)


@versions
def test_a_map_has_fewer_cells_than_its_stride_says(version):
    with torch.device("meta"):
        backbone = create_backbone("squeezenet", version=version)
        sides = [features.shape[-1] for features in backbone(torch.zeros(1, 3, 224, 224))]
    assert not backbone.rounds_up
    assert [level.stride for level in backbone.levels] == [2, 4, 8, 16]
    assert sides == [109 if version == "1.0" else 111, 54 if version == "1.0" else 55, 27, 13]  # not 112, 56, 28, 14


@versions
def test_a_step_of_training_and_a_checkpoint(version, tmp_path):
    torch.manual_seed(0)
    model = create_model(
        "classify",
        backbone="squeezenet",
        alpha=0.5,
        image_size=64,
        num_classes=3,
        backbone_options={"version": version},
    ).train()
    batch = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    before = {key: value.clone() for key, value in model.named_parameters()}
    nn.functional.cross_entropy(model(batch), torch.arange(4) % 3).backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    moved = sum(not torch.equal(value, before[key]) for key, value in model.named_parameters())
    assert moved >= 0.9 * len(before)
    save_model(model, tmp_path / "small.ckpt")
    again = load_model(tmp_path / "small.ckpt")
    assert again.backbone.version == float(version)
    assert torch.equal(again.eval()(batch), model.eval()(batch))


@versions
def test_the_known_names(version):
    """URLs and digits are those of torchvision's own enumerations."""
    name = f"squeezenet{version.replace('.', '_')}"
    weights = torchvision.models.get_model_weights(name).DEFAULT
    source = SOURCES[f"torchvision_{name}"]
    assert (source.url, source.backbone, source.image_size) == (weights.url, "squeezenet", 224)
    assert source.sha256 == weights.url.rpartition("-")[2].removesuffix(".pth")
