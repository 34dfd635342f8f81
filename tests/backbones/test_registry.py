"""What every backbone of the registry promises, whatever its family."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from mnvision import create_model, schema
from mnvision.backbones import Backbone, create_backbone, list_backbones, register_backbone
from mnvision.backbones.base import COMMON_OPTIONS, common_options, family_options
from mnvision.backbones.folding import fold_batchnorm
from mnvision.backbones.layers import PADDINGS, LayerOptions, parameters_without_decay
from mnvision.backbones.weights import load_weights, read_weights
from mnvision.errors import UserError
from mnvision.inference import PackedConv, can_pack, for_inference
from mnvision.models.base import TaskModel
from mnvision.ops.resolution import stride_of

NAMES = list_backbones()
ALPHAS = [0.25, 0.5]
# For classification alone: a map may have fewer than ceil(S / stride) cells.
ROUNDED = [name for name in NAMES if name != "squeezenet"]
WITHOUT_NORM = WITHOUT_DEPTHWISE = ("squeezenet",)
PADDED = [(name, padding) for name in NAMES if "padding" in common_options(name) for padding in PADDINGS]
PADDED += [(name, None) for name in NAMES if "padding" not in common_options(name)]
TAPS = [(name, taps) for name in NAMES if "taps" in family_options(name) for taps in ("expansions", "strided")]
every = pytest.mark.parametrize("name", NAMES)
wide = pytest.mark.parametrize("alpha", ALPHAS)


def images(size: int, *, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


def pictures(size: int = 64, *, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, generator=generator)


@torch.no_grad()
def classifier(name: str, *, alpha: float, **options) -> TaskModel:
    """With norms that are not the identity, and statistics that fit: others make a deep network magnify rounding."""
    torch.manual_seed(0)
    model = create_model("classify", backbone=name, alpha=alpha, image_size=64, num_classes=3, backbone_options=options)
    for norm in (part for part in model.modules() if isinstance(part, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.8, 1.5)
        nn.init.normal_(norm.bias, std=0.2)
        norm.momentum = 1.0
    model(pictures(batch=8))
    return model


def check_levels(backbone: Backbone, size: int) -> None:
    strides = [level.stride for level in backbone.levels]
    assert strides == sorted(strides)
    maps = backbone(images(size, batch=1))
    larger = backbone(images(size + strides[-1], batch=1))
    for level, features, more in zip(backbone.levels, maps, larger, strict=True):
        side = features.shape[-1]
        assert features.shape == (1, level.channels, side, side)
        assert side == -(-size // level.stride) or (not backbone.rounds_up and 0 < side < -(-size // level.stride))
        assert more.shape[-1] == side + strides[-1] // level.stride  # the stride is that of the cells
        assert torch.isfinite(features).all()
        assert features.std() > 0


@pytest.mark.parametrize(("name", "padding"), PADDED)
@wide
@torch.no_grad()
def test_channels_and_strides_are_the_real_ones(name, alpha, padding):
    backbone = create_backbone(name, alpha=alpha, padding=padding).eval()
    assert (backbone.name, backbone.alpha, backbone.options.padding) == (name, alpha, padding or "symmetric")
    assert backbone.rounds_up == (name in ROUNDED)
    assert backbone.levels[-1].stride == stride_of(name)
    for size in (64, 65, 97):
        check_levels(backbone, size)


@pytest.mark.parametrize(("name", "options"), [(name, {}) for name in NAMES] + [(n, {"taps": t}) for n, t in TAPS])
@torch.no_grad()
def test_sequential_says_whether_the_stages_give_the_maps(name, options):
    backbone = create_backbone(name, alpha=0.25, **options).eval()
    features, found = images(64, batch=1), []
    for stage in backbone.stages:
        for part in stage:
            features = part(features)
        found.append(features)
    maps = backbone(images(64, batch=1))
    same = len(maps) == len(found) and all(torch.equal(*pair) for pair in zip(maps, found, strict=True))
    assert backbone.sequential == same


@pytest.mark.parametrize(("name", "taps"), TAPS)
@torch.no_grad()
def test_channels_and_strides_of_other_taps(name, taps):
    for size in (64, 97):
        check_levels(create_backbone(name, alpha=0.25, taps=taps).eval(), size)


@wide
@every
def test_every_parameter_gets_a_gradient(name, alpha):
    model = classifier(name, alpha=alpha).train()
    maps: list[Tensor] = []
    model.backbone.register_forward_hook(lambda *given: maps.extend(given[-1]))
    loss = model(pictures()).square().mean()
    (loss + sum(features.mean() for features in maps)).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key


@every
def test_the_stages_are_the_backbone(name):
    with torch.device("meta"):
        backbone = create_backbone(name, alpha=0.25)
    found = [parameter for stage in backbone.stages for part in stage for parameter in part.parameters()]
    assert len(found) == len(set(found))
    assert set(found) == set(backbone.parameters())
    assert all(backbone.stages)


@pytest.mark.parametrize("stages", [1, 2, 5])
@every
def test_a_step_changes_nothing_that_is_frozen(name, stages):
    with torch.device("meta"):
        stages = min(stages, len(create_backbone(name, alpha=0.25).stages))
    backbone = create_backbone(name, alpha=0.25, freeze=stages).train()
    frozen = nn.ModuleList(part for stage in backbone.stages[:stages] for part in stage)
    free = nn.ModuleList(part for stage in backbone.stages[stages:] for part in stage)
    before, loose = copy.deepcopy(frozen.state_dict()), copy.deepcopy(free.state_dict())
    trained = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    assert (trained == []) == (free.state_dict() == {})
    maps = backbone.train()(images(64))
    if trained:
        optimizer = torch.optim.SGD(trained, lr=0.1, weight_decay=0.1)
        sum(features.square().mean() for features in maps).backward()
        optimizer.step()
    assert all(torch.equal(tensor, before[key]) for key, tensor in frozen.state_dict().items())
    moved = [key for key, tensor in free.state_dict().items() if not torch.equal(tensor, loose[key])]
    assert len(moved) >= 0.9 * len(loose)


@pytest.mark.parametrize("norm", ["freeze_statistics", "freeze"])
@every
def test_norms_hold_what_their_policy_says(name, norm):
    if name in WITHOUT_NORM:
        assert not any(isinstance(part, nn.BatchNorm2d) for part in create_backbone(name, alpha=0.25).modules())
        with pytest.raises(UserError, match=f"backbone {name} has no option 'norm'; "):
            create_backbone(name, alpha=0.25, norm=norm)
        return
    backbone = create_backbone(name, alpha=0.25, norm=norm).train()
    before = copy.deepcopy(backbone.state_dict())
    norms = {key: part for key, part in backbone.named_modules() if isinstance(part, nn.BatchNorm2d)}
    sum(features.square().mean() for features in backbone(images(64))).backward()
    assert norms
    for key, part in norms.items():
        assert torch.equal(part.running_mean, before[f"{key}.running_mean"]), key
        assert torch.equal(part.running_var, before[f"{key}.running_var"]), key
        assert (part.weight.grad is None) == (part.bias.grad is None) == (norm == "freeze"), key
    assert all(part.weight.grad is not None for part in backbone.modules() if isinstance(part, nn.Conv2d))


def holds(module: nn.Module) -> bool:
    """Whether a convolution is followed by a norm in the module."""
    return isinstance(getattr(module, "conv", None), nn.Conv2d) and hasattr(module, "norm")


@pytest.mark.parametrize(("name", "padding"), PADDED)
@torch.no_grad()
def test_folded_and_packed_networks_compute_the_same(name, padding):
    model = classifier(name, alpha=0.25, padding=padding).eval()
    folded, packed = fold_batchnorm(model), for_inference(model)
    assert not any(isinstance(part.norm, nn.BatchNorm2d) for part in folded.modules() if holds(part))
    if can_pack():
        convolutions = [part for part in packed.modules() if isinstance(part, nn.Conv2d)]
        assert len(convolutions) == sum(isinstance(part, PackedConv) for part in packed.modules())
    for size in (64, 97):
        batch = images(size)
        expected = model.backbone(batch)
        for network in (folded, packed):
            for found, wanted in zip(network.backbone(batch), expected, strict=True):
                scale = wanted.abs().max()
                torch.testing.assert_close(found / scale, wanted / scale, rtol=1e-3, atol=1e-4)
    batch = pictures()
    for network in (folded, packed):
        torch.testing.assert_close(network(batch), model(batch), rtol=1e-3, atol=1e-3)


@every
def test_depthwise_filters_are_spared_weight_decay(name):
    with torch.device("meta"):
        backbone = create_backbone(name, alpha=0.25)
    spared = parameters_without_decay(backbone)
    filters = [part.weight for part in backbone.modules() if isinstance(part, nn.Conv2d)]
    depthwise = [weight for weight in filters if weight.shape[1] == 1]
    assert bool(depthwise) == (name not in WITHOUT_DEPTHWISE)
    assert set(depthwise) <= spared
    assert not spared & {weight for weight in filters if weight.shape[1] > 1}


@every
def test_weights_go_to_a_file_and_back(name, tmp_path):
    torch.manual_seed(0)
    first = create_backbone(name, alpha=0.25)
    torch.save(first.state_dict(), tmp_path / "body.pt")
    again = create_backbone(name, alpha=0.25)
    given = read_weights(tmp_path / "body.pt")
    assert given.settings.get("name", name) == name
    report = load_weights(again, given)
    assert report.used == report.total
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in first.state_dict().items())


@every
def test_the_configuration_offers_all_that_the_family_has(name):
    keys = set(schema.fields(schema.SECTIONS["backbone"][name]))
    own = {"weights", "narrow_weights", "rho", "name", "alpha"}  # of the configuration, not of a builder
    assert keys == own | family_options(name) | common_options(name)
    highest = schema.fields(schema.SECTIONS["backbone"][name])["freeze"].__metadata__[0].high
    with torch.device("meta"):
        assert len(create_backbone(name, alpha=0.25).stages) == highest


@pytest.mark.parametrize(
    ("name", "option"),
    [(name, option) for name in NAMES for option in sorted({*COMMON_OPTIONS} - common_options(name))],
)
def test_options_that_mean_nothing_to_a_family_are_refused(name, option):
    value = {"padding": "same", "norm": "freeze"}.get(option, 0.5)
    with pytest.raises(UserError, match=f"backbone {name} has no option '{option}'"):
        create_backbone(name, **{option: value})


@pytest.mark.parametrize("task", ["ssd", "faster_rcnn"])
@every
def test_detectors_take_what_has_their_strides_and_refuse_the_others(name, task):
    with torch.device("meta"):
        fit = {16, 32} <= {level.stride for level in create_backbone(name, alpha=0.25).levels}
    assert fit == (name not in ("mobilenet_cifar", "squeezenet"))
    if not fit:
        with pytest.raises(UserError, match=rf"maps at strides \(16, 32\); {name} has "):
            create_model(task, backbone=name, alpha=0.25, image_size=64, num_classes=2)


@every
def test_a_misspelt_name_is_told_the_right_one(name):
    with pytest.raises(UserError, match=rf"unknown backbone 'x{name}'; did you mean .*\b{name}\b"):
        create_backbone(f"x{name}")


def test_an_unlike_name_is_told_all():
    with pytest.raises(UserError, match=f"known: {', '.join(NAMES)}$"):
        create_backbone("zzz")


@every
def test_names_are_taken_once(name):
    assert NAMES.count(name) == 1
    with pytest.raises(ValueError, match=f"'{name}' is registered already"):
        register_backbone(name, options=LayerOptions())(lambda **_: None)
