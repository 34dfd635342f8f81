"""MobileNet V2 and V3 against torchvision's: parameters, outputs, maps, and weights in its layout."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mnvision import create_model
from mnvision.backbones import create_backbone
from mnvision.backbones.layers import parameters_without_decay
from mnvision.backbones.sources import SOURCES
from mnvision.backbones.weights import architecture_of, load_weights, read_weights
from mnvision.errors import UserError
from mnvision.models.classifier import Classifier
from mnvision.types import Preprocessing

torchvision = pytest.importorskip("torchvision", reason="torchvision is the reference")
from torchvision.models import mobilenet  # noqa: E402
from torchvision.models.detection import backbone_utils  # noqa: E402
from torchvision.models.detection.ssdlite import _mobilenet_extractor  # noqa: E402

NAMES = ("mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small")


def randomise(module: nn.Module) -> nn.Module:
    """Statistics of its own for each norm, close enough to the identity that signals neither die nor explode."""
    for norm in (part for part in module.modules() if isinstance(part, nn.BatchNorm2d)):
        nn.init.normal_(norm.running_mean, std=0.1)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
        nn.init.uniform_(norm.weight, 0.8, 1.5)
        nn.init.normal_(norm.bias, std=0.2)
    return module.eval()


def reference(name: str, *, alpha: float = 1.0, classes: int = 10, seed: int = 0, **options) -> nn.Module:
    torch.manual_seed(seed)
    return randomise(getattr(mobilenet, name)(weights=None, width_mult=alpha, num_classes=classes, **options))


def save(network: nn.Module, folder, **options) -> str:
    torch.save(network.state_dict(), folder / "theirs.pth", **options)
    return str(folder / "theirs.pth")


def images(size: int, *, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def plain(name: str, *, alpha: float = 1.0, classes: int = 10, **options) -> Classifier:
    """A classifier whose input is normalised already."""
    backbone = create_backbone(name, alpha=alpha, **options)
    return Classifier(backbone, num_classes=classes, preprocessing=Preprocessing(224, (0.0,) * 3, (1.0,) * 3)).eval()


@pytest.mark.parametrize(("name", "expected"), [*zip(NAMES, (3_504_872, 5_483_032, 2_542_856), strict=True)])
def test_parameters(name, expected):
    with torch.device("meta"):
        model = create_model("classify", backbone=name, num_classes=1000)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected
    assert model.dropout.p == 0.2


@pytest.mark.parametrize("alpha", [0.35, 0.5, 0.75, 1.0, 1.4])
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_outputs_equal_those_of_torchvision(name, alpha, tmp_path):
    theirs = reference(name, alpha=alpha)
    given = read_weights(save(theirs, tmp_path))
    counters = sum(key.endswith("num_batches_tracked") for key in theirs.state_dict())
    assert len(given.tensors) == len(theirs.state_dict()) - counters
    ours = plain(name, alpha=alpha)
    report = load_weights(ours, given)
    assert report.used == report.total == len(given.tensors)
    batch = images(65)
    features, expected = ours.backbone(batch)[-1], theirs.features(batch)
    assert expected.std() > 0.05
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours(batch), theirs(batch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES[1:])
@torch.no_grad()
def test_a_reduced_tail_equals_that_of_torchvision(name, tmp_path):
    theirs = reference(name, alpha=0.5, reduced_tail=True)
    given = read_weights(save(theirs, tmp_path))
    assert (given.settings["name"], given.settings["alpha"], given.settings["reduced_tail"]) == (name, 0.5, True)
    ours = plain(name, alpha=0.5, reduced_tail=True)
    load_weights(ours, given)
    torch.testing.assert_close(ours(images(64)), theirs(images(64)), rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match=r"of reduced_tail True.*the model has reduced_tail False.*\.reduced_tail=True"):
        load_weights(plain(name, alpha=0.5), given)


@pytest.mark.parametrize("reduced_tail", [False, True])
@torch.no_grad()
def test_expansions_are_what_torchvisions_ssdlite_taps(reduced_tail, tmp_path):
    theirs = reference("mobilenet_v3_large", reduced_tail=reduced_tail)
    ours = plain("mobilenet_v3_large", taps="expansions", reduced_tail=reduced_tail)
    load_weights(ours, read_weights(save(theirs, tmp_path)))
    extractor = _mobilenet_extractor(theirs, 6, nn.BatchNorm2d)
    expected = [part(images(97)) for part in (extractor.features[0], extractor.features)]
    maps = ours.backbone(images(97))
    for found, level, wanted in zip(maps[-2:], ours.backbone.levels[-2:], expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
        assert level.channels == wanted.shape[1]
    assert ours.backbone.levels[-2:] == ([(672, 16), (480, 32)] if reduced_tail else [(672, 16), (960, 32)])


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_strided_is_what_torchvisions_faster_rcnn_taps(name, tmp_path):
    theirs = reference(name, alpha=0.5)
    ours = plain(name, alpha=0.5, taps="strided")
    load_weights(ours, read_weights(save(theirs, tmp_path)))
    extractor = backbone_utils._mobilenet_extractor(theirs, True, 6, returned_layers=[0, 1, 2, 3, 4, 5])
    expected = [*extractor.body(images(97)).values()]
    assert [level.stride for level in ours.backbone.levels] == [2, 4, 8, 16, 32, 32]
    for found, level, wanted in zip(ours.backbone(images(97)), ours.backbone.levels, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
        assert level.channels == wanted.shape[1]


@pytest.mark.parametrize(
    ("name", "taps", "expected"),
    [
        ("mobilenet_v2", "stages", [16, 24, 32, 96, 1280]),
        ("mobilenet_v2", "expansions", [96, 144, 192, 576, 1280]),
        ("mobilenet_v3_large", "stages", [16, 24, 40, 112, 960]),
        ("mobilenet_v3_large", "expansions", [64, 72, 240, 672, 960]),
        ("mobilenet_v3_small", "stages", [16, 16, 24, 48, 576]),
        ("mobilenet_v3_small", "expansions", [16, 72, 96, 288, 576]),  # the first block has no expansion layer
    ],
)
def test_channels_from_the_papers_tables(name, taps, expected):
    with torch.device("meta"):
        backbone = create_backbone(name, taps=taps)
    assert [level.channels for level in backbone.levels] == expected
    assert [level.stride for level in backbone.levels] == [2, 4, 8, 16, 32]


@pytest.mark.parametrize("taps", ["stages", "expansions", "strided"])
@pytest.mark.parametrize("name", NAMES)
def test_stages_hold_every_module_once_whatever_the_taps(name, taps):
    with torch.device("meta"):
        backbone = create_backbone(name, alpha=0.35, taps=taps)
    parts = [part for stage in backbone.stages for part in stage]
    assert parts == [backbone.stem, *backbone.blocks, backbone.last]
    steps = [stage[0].depthwise.conv.stride[0] for stage in backbone.stages[1:]]
    assert (len(backbone.stages), steps) == (5, [2, 2, 2, 2])


def test_no_narrow_last_layer_in_v2():
    for alpha, expected in ((0.35, 1280), (1.4, 1792)):
        with torch.device("meta"):
            assert create_backbone("mobilenet_v2", alpha=alpha).levels[-1].channels == expected


def test_settings_of_the_layers():
    v2, v3 = create_backbone("mobilenet_v2", alpha=0.35), create_backbone("mobilenet_v3_small", alpha=0.35)
    for backbone, eps, momentum in ((v2, 1e-5, 0.1), (v3, 1e-3, 0.01)):
        norms = [part for part in backbone.modules() if isinstance(part, nn.BatchNorm2d)]
        assert {(norm.eps, norm.momentum) for norm in norms} == {(eps, momentum)}
        assert backbone.options.activation == "relu6"
        assert all(isinstance(block.project.activation, nn.Identity) for block in backbone.blocks)
    kinds = [type(part.activation) for part in v2.modules() if hasattr(part, "activation")]
    assert set(kinds) == {nn.ReLU6, nn.Identity}


def test_the_activation_of_v3_is_that_of_its_heads_alone():
    plain, other = create_backbone("mobilenet_v3_large"), create_backbone("mobilenet_v3_large", activation="hardswish")
    assert other.options.activation == "hardswish"
    assert str(plain) == str(other)
    v2 = create_backbone("mobilenet_v2", alpha=0.35, activation="hardswish")
    assert isinstance(v2.stem.activation, nn.Hardswish)


@torch.no_grad()
def test_same_padding_starts_the_windows_at_the_first_pixel():
    """On even sizes SAME and symmetric padding differ at stride 2: two pixels of shift give one the other's maps."""
    torch.manual_seed(0)
    symmetric = randomise(create_backbone("mobilenet_v2", alpha=0.35)).eval()
    same = create_backbone("mobilenet_v2", alpha=0.35, padding="same").eval()
    same.load_state_dict(symmetric.state_dict())
    batch = images(64)
    assert not torch.allclose(same(batch)[0], symmetric(batch)[0], atol=1e-2)
    found = same(batch)[0][..., 4:-4, 4:-4]
    shifted = symmetric(batch.roll((-1, -1), (2, 3)))[0][..., 4:-4, 4:-4]
    torch.testing.assert_close(found, shifted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_weight_decay_spares_depthwise_filters_norms_and_biases(name):
    backbone = create_backbone(name, alpha=0.35)
    without = parameters_without_decay(backbone)
    decayed = {key for key, parameter in backbone.named_parameters() if parameter not in without}
    parts = {key.split(".", 2)[-1] for key in decayed if key.startswith("blocks.")}
    squeeze = {"squeeze.reduce.weight", "squeeze.expand.weight"} if "v3" in name else set()
    assert parts == {"expand.conv.weight", "project.conv.weight"} | squeeze
    assert {key for key in decayed if not key.startswith("blocks.")} == {"stem.conv.weight", "last.conv.weight"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"taps": "stage"}, "taps of mobilenet_v3_large must be one of stages, expansions, strided; got 'stage'"),
        ({"alpha": 0.0}, "alpha must be above 0"),
        ({"variant": "shallow"}, "mobilenet_v3_large has no option 'variant'"),
        ({"name": "mobilenet_v2", "reduced_tail": True}, "mobilenet_v2 has no option 'reduced_tail'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        create_backbone(**{"name": "mobilenet_v3_large", **options})


# weights


@pytest.mark.parametrize("legacy", [False, True])
def test_settings_come_with_the_weights(tmp_path, legacy):
    """Older files of torchvision are in PyTorch's format before 1.6."""
    path = save(reference("mobilenet_v3_small", alpha=0.35), tmp_path, _use_new_zipfile_serialization=not legacy)
    given = read_weights(path)
    assert given.settings == {
        "name": "mobilenet_v3_small",
        "alpha": 0.35,
        "reduced_tail": False,
        "padding": "symmetric",
        "norm_eps": 1e-3,
        "mean": (123.675, 116.28, 103.53),
        "std": (58.395, 57.12, 57.375),
        "image_size": 224,
    }
    assert given.description == "torchvision layout, mobilenet_v3_small, alpha 0.35, 10 classes"
    model = create_model("classify", backbone="mobilenet_v3_small", alpha=0.35, weights=path, num_classes=10)
    assert model.preprocessing == Preprocessing(224, given.settings["mean"], given.settings["std"], "crop", 0.875)
    assert torch.equal(model.hidden.weight, given.tensors["hidden.weight"])


def test_a_detector_takes_the_body(tmp_path):
    path = save(reference("mobilenet_v2", alpha=0.35), tmp_path)
    model = create_model(
        "ssd", backbone="mobilenet_v2", alpha=0.35, image_size=64, num_classes=2, backbone_weights=path
    )
    assert torch.equal(model.backbone.last.conv.weight, read_weights(path).tensors["backbone.last.conv.weight"])
    assert model.preprocessing.std == (58.395, 57.12, 57.375)


def test_a_body_without_its_classifier(tmp_path):
    theirs = reference("mobilenet_v2", alpha=0.35)
    torch.save({f"features.{key}": value for key, value in theirs.features.state_dict().items()}, tmp_path / "body.pth")
    given = read_weights(tmp_path / "body.pth")
    backbone = create_backbone("mobilenet_v2", alpha=0.35)
    report = load_weights(backbone, given)
    assert (report.used, report.dropped) == (len(given.tensors), ())


@pytest.mark.parametrize("own", ["mobilenet_v1", "mobilenet_v3_large"])
def test_weights_of_another_family_are_refused_by_name(own, tmp_path):
    path = save(reference("mobilenet_v2", alpha=0.35), tmp_path)
    message = f"weights are of mobilenet_v2, the model's backbone is {own}: set backbone=mobilenet_v2 or choose other"
    with pytest.raises(UserError, match=message):
        create_model("ssd", backbone=own, alpha=0.25, image_size=64, num_classes=2, backbone_weights=path)


def test_v1_weights_in_a_v2_are_refused_by_name(keras_file):
    with pytest.raises(UserError, match="weights are of mobilenet_v1, the model's backbone is mobilenet_v2"):
        create_model("ssd", backbone="mobilenet_v2", alpha=0.25, num_classes=2, backbone_weights=str(keras_file))


def test_another_width_is_refused(tmp_path):
    path = save(reference("mobilenet_v3_large", alpha=0.5), tmp_path)
    with pytest.raises(UserError, match=r"weights are of alpha 0\.5.*the model has alpha 0\.75.*backbone\.alpha=0\.5"):
        create_model("ssd", backbone="mobilenet_v3_large", alpha=0.75, num_classes=2, backbone_weights=path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.update({"extra.0.weight": torch.ones(1)}), r"unexpected extra\.0\.weight"),
        (lambda state: state.pop("features.3.conv.1.0.weight"), r"unexpected features\.3\.conv\.1\.1\.weight"),
        (lambda state: state.pop("features.3.conv.3.bias"), r"lacks backbone\.blocks\.2\.project\.norm\.bias"),
        (lambda state: state["features.2.conv.0.0.weight"].fill_(torch.inf), "not finite"),
        (lambda state: state.update({"features.18.0.weight": torch.ones(1300, 112, 1, 1)}), "for no width multiplier"),
    ],
)
def test_damaged_files_are_refused(change, message, tmp_path):
    state = reference("mobilenet_v2", alpha=0.35).state_dict()
    change(state)
    torch.save(state, tmp_path / "bad.pth")
    with pytest.raises(UserError, match=message):
        load_weights(create_backbone("mobilenet_v2", alpha=0.35), read_weights(tmp_path / "bad.pth"))


@pytest.mark.parametrize("alpha", [0.1, 0.25, 0.35, 0.5, 0.75, 1.0, 1.25, 1.4])
@pytest.mark.parametrize("name", NAMES)
def test_the_width_is_read_off_the_shapes(name, alpha):
    with torch.device("meta"):
        backbone = create_backbone(name, alpha=alpha)
        found = architecture_of({f"backbone.{key}": value for key, value in backbone.state_dict().items()})
        assert found.pop("name") == name
        same = create_backbone(name, alpha=found.pop("alpha"))
    assert found == ({} if name == "mobilenet_v2" else {"reduced_tail": False})
    shapes = [{key: value.shape for key, value in net.state_dict().items()} for net in (backbone, same)]
    assert shapes[0] == shapes[1]


def test_the_known_names():
    """URLs and digits are those of torchvision's own enumerations."""
    enums = [mobilenet.MobileNet_V2_Weights, mobilenet.MobileNet_V3_Large_Weights, mobilenet.MobileNet_V3_Small_Weights]
    for name, enum in zip(NAMES, enums, strict=True):
        names = {
            f"torchvision_{name}" + f"_{member.name.lower()}" * (member != enum.DEFAULT): member for member in enum
        }
        assert {key for key in SOURCES if key.startswith(f"torchvision_{name}")} == set(names)
        for key, member in names.items():
            source = SOURCES[key]
            assert (source.url, source.backbone, source.alpha) == (member.url, name, 1.0)
            assert source.sha256 == member.url.rpartition("-")[2].removesuffix(".pth")


def test_a_file_under_a_known_name_is_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("MNVISION_CACHE", str(tmp_path))
    (tmp_path / "weights").mkdir()
    path = tmp_path / "weights" / "mobilenet_v3_small-047dcff4.pth"
    torch.save({"features.0.0.weight": torch.ones(1)}, path)
    with pytest.raises(UserError, match=r"has SHA-256 [0-9a-f]{64}, expected 047dcff4"):
        read_weights("torchvision_mobilenet_v3_small")


def test_our_own_checkpoint_brings_taps_and_tail(tmp_path):
    from mnvision.checkpoint import save_model

    arguments = {"backbone": "mobilenet_v3_small", "alpha": 0.35, "num_classes": 2, "image_size": 64}
    options = {"taps": "expansions", "reduced_tail": True}
    torch.manual_seed(0)
    model = create_model("ssd", **arguments, backbone_options=options)
    save_model(model, tmp_path / "v3.ckpt")
    again = create_model("ssd", **arguments, weights=str(tmp_path / "v3.ckpt"))
    assert (again.backbone.taps, again.spec.backbone_options["reduced_tail"]) == ("expansions", True)
    state = again.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    part = create_model("ssd", **arguments, backbone_weights=str(tmp_path / "v3.ckpt"))
    assert (part.backbone.taps, part.spec.backbone_options["reduced_tail"]) == ("stages", True)
