"""Golden numbers: mult-adds and parameters that a reader can recompute from the paper's tables by hand."""

from __future__ import annotations

import csv

import pytest
from torch import nn

from mnvision.backbones import create_backbone
from mnvision.models.classifier import Classifier
from mnvision.models.ssd import SSD
from mnvision.profiler import profile
from mnvision.types import Preprocessing


def classifier(*, alpha=1.0, variant="standard", num_classes=1000):
    backbone = create_backbone("mobilenet_v1", alpha=alpha, variant=variant)
    return Classifier(backbone, num_classes=num_classes, preprocessing=Preprocessing(224))


def ssd(*, alpha=1.0, form="paper", num_classes=90, size=300):
    backbone = create_backbone("mobilenet_v1", alpha=alpha)
    return SSD(backbone, num_classes=num_classes, preprocessing=Preprocessing(size), form=form)


@pytest.mark.parametrize(
    ("alpha", "mult_adds", "parameters"),
    [
        (1.0, (568_740_352, 418_121_728, 290_675_200, 186_400_768), (3_185_088, 4_209_088, 4_231_976, 4_253_864)),
        (0.75, (325_400_448, 239_273_472, 166_396_800, 106_770_432), (1_800_144, 2_568_144, 2_585_560, 2_601_976)),
        (0.5, (149_497_088, 109_970_432, 76_524_800, 49_160_192), (807_648, 1_319_648, 1_331_592, 1_342_536)),
        (0.25, (41_030_272, 30_212_608, 21_059_200, 13_570_048), (207_600, 463_600, 470_072, 475_544)),
    ],
)
def test_the_sixteen_models_of_the_paper(alpha, mult_adds, parameters):
    model = classifier(alpha=alpha)
    assert tuple(profile(model, image_size=size).mult_adds for size in (224, 192, 160, 128)) == mult_adds
    found = profile(model)
    assert (found.part("backbone").parameters, found.parameters, found.trainable, found.total) == parameters


@pytest.mark.parametrize(
    ("num_classes", "expected"),
    [
        (10, (567_726_592, 3_195_328, 3_217_226, 3_239_114)),
        (40, (567_757_312, 3_226_048, 3_247_976, 3_269_864)),
        (120, (567_839_232, 3_307_968, 3_329_976, 3_351_864)),
        (1001, (568_741_376, 4_210_112, 4_233_001, 4_254_889)),
    ],
)
def test_other_numbers_of_classes(num_classes, expected):
    found = profile(classifier(num_classes=num_classes))
    assert (found.mult_adds, found.parameters, found.trainable, found.total) == expected


def test_shallow_and_full_convolution_variants():
    shallow = profile(classifier(variant="shallow"))
    assert (shallow.mult_adds, shallow.parameters, shallow.trainable) == (307_323_392, 2_875_328, 2_887_976)
    full = profile(classifier(variant="full_conv"))
    assert (full.mult_adds, full.part("backbone").mult_adds) == (4_867_293_184, 4_866_269_184)
    assert (full.parameters, full.trainable) == (29_281_120, 29_294_088)
    weights = [layer.parameters for layer in full.part("backbone").layers]
    assert weights == [864, 18_432, 73_728, 147_456, 294_912, 589_824, 1_179_648] + [2_359_296] * 5 + [
        4_718_592,
        9_437_184,
    ]


@pytest.mark.parametrize(
    ("alpha", "form", "total", "weights", "trainable", "parts"),
    [
        (
            1.0,
            "paper",
            1_237_129_408,
            6_791_360,
            6_819_839,
            ((1_055_206_336, 3_185_088), (61_612_032, 2_220_032), (120_311_040, 1_386_240)),
        ),
        (
            0.75,
            "paper",
            728_036_496,
            4_088_592,
            4_110_735,
            ((603_146_448, 1_800_144), (34_656_768, 1_248_768), (90_233_280, 1_039_680)),
        ),
        (
            1.0,
            "lite",
            1_212_977_536,
            5_206_528,
            5_246_911,
            ((1_055_206_336, 3_185_088), (31_997_376, 586_816), (125_773_824, 1_434_624)),
        ),
    ],
)
def test_ssd300(alpha, form, total, weights, trainable, parts):
    model = ssd(alpha=alpha, form=form)
    found = profile(model)
    assert (found.mult_adds, found.parameters, found.trainable) == (total, weights, trainable)
    named = [found.part(name) for name in ("backbone", "extras", "heads")]
    assert tuple((part.mult_adds, part.parameters) for part in named) == parts
    assert len(model.anchors) == 1917


def test_ssd_on_a_pyramid():
    model = ssd(form="fpn", size=640)
    found = profile(model)
    fine, added = 80**2 + 40**2 + 20**2, 10**2 + 5**2
    conv, predictors = 9 * 256 * 256, 9 * 256 * 6 * (91 + 4)  # six anchors a cell
    parts = {  # laterals, smoothing, added levels; eight convolutions of the two towers
        "backbone": (567_716_352 * 640**2 // 224**2, 3_185_088),
        "extras": (
            256 * (256 * 80**2 + 512 * 40**2 + 1024 * 20**2) + conv * fine + conv * added,
            256 * (256 + 512 + 1024) + 3 * conv + 2 * conv,
        ),
        "heads": ((8 * conv + predictors) * (fine + added), 8 * conv + predictors),
    }
    assert {name: (found.part(name).mult_adds, found.part(name).parameters) for name in parts} == parts
    assert (found.mult_adds, found.parameters) == (61_818_380_800, 12_624_832)
    assert sum(parameters for _, parameters in found.by_kind().values()) == found.parameters
    assert sum(int(row["parameters"]) for row in csv.DictReader(found.csv().splitlines())) == found.parameters
    biases = 8 * 256 + 6 * (91 + 4)
    norms = 21_888 + 8 * 5 * 2 * 256  # gamma and beta, of the backbone, and of each level behind each convolution
    assert (found.trainable, found.total) == (found.parameters + biases + norms, found.parameters + biases + 2 * norms)
    assert len(model.anchors) == 51_150


def test_ssd_other_sizes_and_classes():
    assert profile(ssd(num_classes=80)).mult_adds == 1_224_465_088
    assert profile(ssd(num_classes=20)).parameters == 5_769_920
    larger = ssd(size=320)
    assert (profile(larger).mult_adds, len(larger.anchors)) == (1_346_218_752, 2034)


def test_the_shares_of_table_2():
    found = profile(classifier())
    shares = {
        kind: (round(100 * m / found.mult_adds, 3), round(100 * p / found.parameters, 3))
        for kind, (m, p) in found.by_kind().items()
    }
    assert shares == {
        "conv 3x3": (1.906, 0.021),
        "conv dw 3x3": (3.057, 1.061),
        "conv 1x1": (94.857, 74.591),
        "fully connected": (0.180, 24.328),
    }


def test_layers_in_order_as_table_and_csv():
    found = profile(classifier(alpha=0.25), image_size=128)
    assert len(found.layers) == 28
    assert found.layers[0][:3] == ("backbone.stem.conv", "conv 3x3", (8, 64, 64))
    assert found.layers[1][:3] == ("backbone.blocks.0.depthwise.conv", "conv dw 3x3", (8, 64, 64))
    rows = list(csv.DictReader(found.csv().splitlines()))
    assert sum(int(row["mult_adds"]) for row in rows) == 13_570_048
    table = found.table()
    assert "13,570,048" in table
    assert "BatchNorm" in table  # says what it leaves out


class Product(nn.Module):
    """A layer without weights that counts itself."""

    kind = "product"

    def forward(self, left, right):
        return left @ right

    def mult_adds(self, left, right):
        return left.numel() * right.shape[-1]


class Squared(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1, bias=False)
        self.product = Product()

    def forward(self, images):
        features = self.conv(images)
        return self.product(features, features)


def test_a_layer_can_count_itself():
    found = profile(Squared(), image_size=8)
    assert [layer[:2] for layer in found.layers] == [("conv", "conv 1x1"), ("product", "product")]
    assert found.by_kind() == {"conv 1x1": (2 * 3 * 8 * 8, 6), "product": (2 * 8 * 8 * 8, 0)}


def test_a_model_without_a_size_of_its_own_needs_one():
    with pytest.raises(ValueError, match="image_size"):
        profile(create_backbone("mobilenet_v1"))
