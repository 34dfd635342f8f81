from __future__ import annotations

import dataclasses
import logging

import pytest
import torch
from torch import nn

from mnvision.backbones.weights import read_weights
from mnvision.checkpoint import save_model
from mnvision.errors import UserError
from mnvision.models import create
from mnvision.models.base import ModelSpec
from mnvision.models.classifier import Classifier
from mnvision.models.create import build_model, create_model
from mnvision.models.preprocessing import resolve_preprocessing
from mnvision.models.ssd import SSD
from mnvision.types import Preprocessing
from tests.runs import state

TENSORFLOW = {"padding": "same", "activation": "relu6", "norm_eps": 1e-5}


@pytest.fixture
def ssd_weights(tmp_path) -> str:
    """An SSD that was trained with settings that are nobody's default."""
    model = create_model(
        "ssd",
        alpha=0.25,
        image_size=64,
        classes=["cat", "dog", "bird"],
        task_options={"form": "lite", "loss": "sigmoid"},
        backbone_options=TENSORFLOW,
    )
    save_model(model, tmp_path / "ssd.ckpt")
    return str(tmp_path / "ssd.ckpt")


@pytest.fixture
def classifier_weights(tmp_path) -> str:
    model = create_model("classify", alpha=0.25, classes=["cat", "dog"], backbone_options=TENSORFLOW)
    save_model(model, tmp_path / "classifier.ckpt")
    return str(tmp_path / "classifier.ckpt")


def options_of(model) -> tuple:
    return tuple(getattr(model.backbone.options, name) for name in ("padding", "activation", "norm_eps"))


def test_defaults():
    model = create_model("ssd", num_classes=3)
    assert isinstance(model, SSD)
    assert model.training
    assert model.preprocessing == Preprocessing(300)
    assert (model.form, model.loss) == ("paper", "softmax")
    assert options_of(model) == ("symmetric", "relu", 1e-3)
    assert model.spec.classes == ("class 1", "class 2", "class 3")
    assert model.spec.category_ids == (1, 2, 3)
    assert model.backbone.alpha == 1.0


def test_a_classifier():
    model = create_model("classify", alpha=0.25, num_classes=5)
    assert isinstance(model, Classifier)
    assert model.preprocessing.size == 224
    assert model.eval()(torch.zeros(2, 3, 64, 64)).shape == (2, 5)


def test_every_option_arrives():
    model = create_model(
        "ssd",
        alpha=0.5,
        rho=0.5,
        image_size=128,
        classes=["a", "b"],
        category_ids=[7, 90],
        task_options={"form": "lite", "nms_iou": 0.45, "max_detections": 7, "negative_ratio": 2.0, "loss": None},
        backbone_options={"variant": "shallow", "norm_momentum": 0.01, "freeze": 1, "norm": "freeze"},
    )
    assert model.preprocessing.size == 64
    assert (model.form, model.loss, model.nms_iou, model.max_detections) == ("lite", "softmax", 0.45, 7)
    assert model.negative_ratio == 2.0
    assert model.spec.category_ids == (7, 90)
    assert model.backbone.alpha == 0.5
    assert len(model.backbone.blocks) == 8
    assert {part.momentum for part in model.modules() if isinstance(part, nn.BatchNorm2d)} == {0.01}
    assert not any(part.training for part in model.backbone.modules() if isinstance(part, nn.BatchNorm2d))
    assert not model.backbone.stem.conv.weight.requires_grad


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({}, 300),
        ({"rho": 0.5}, 160),  # 150, to whole strides
        ({"preferred_size": 224}, 224),
        ({"preferred_size": 224, "rho": 0.857}, 192),
        ({"preferred_size": 224, "image_size": 128}, 128),
        ({"preferred_size": 224, "image_size": 128, "rho": 0.5}, 64),
    ],
)
@pytest.mark.parametrize("with_weights", [False, True])
def test_who_decides_on_the_input_size(known, expected, with_weights, tmp_path):
    weights = None
    if with_weights:
        weights = str(tmp_path / "ssd.ckpt")
        save_model(create_model("ssd", alpha=0.25, image_size=192, rho=0.5, num_classes=2), weights)
        if "image_size" not in known:
            expected = 96  # as they were trained, whatever the data are
        if "image_size" not in known and "rho" in known:
            with pytest.raises(UserError, match="would change nothing: the input of 96 pixels comes with the weights"):
                resolve_preprocessing("ssd", weights=weights, **{"image_size": None, "preferred_size": None, **known})
            return
    known = {"image_size": None, "preferred_size": None, "rho": 1.0, **known}
    assert resolve_preprocessing("ssd", weights=weights, **known).size == expected
    model = create_model("ssd", alpha=0.25, weights=weights, num_classes=2, **known)
    assert model.preprocessing.size == model.spec.preprocessing.size == expected


def test_weights_of_unknown_size_leave_it_to_the_data(tmp_path):
    model = create_model("ssd", alpha=0.25, image_size=64, num_classes=2)
    torch.save(model.state_dict(), tmp_path / "bare.pt")
    again = create_model("ssd", alpha=0.25, weights=str(tmp_path / "bare.pt"), num_classes=2, preferred_size=96)
    assert again.preprocessing.size == 96


def test_weights_of_a_backbone_leave_the_input_size_open(classifier_weights):
    assert create_model("ssd", alpha=0.25, num_classes=2, backbone_weights=classifier_weights).preprocessing.size == 300


def test_a_spec_builds_the_same_model_again():
    model = create_model("ssd", alpha=0.25, image_size=97, classes=["a", "b"], task_options={"form": "lite"})
    again = build_model(model.spec)
    assert again.spec == model.spec
    assert {name: tensor.shape for name, tensor in again.state_dict().items()} == {
        name: tensor.shape for name, tensor in model.state_dict().items()
    }
    again.load_state_dict(model.state_dict())
    images = torch.randint(0, 256, (1, 3, 97, 97), dtype=torch.uint8)
    assert torch.equal(model.eval()(images).logits, again.eval()(images).logits)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "sdd"}, "unknown task 'sdd'; did you mean ssd?"),
        ({"task": "xyz"}, "unknown task 'xyz'; known: attributes, classify, embed, faster_rcnn, geolocate, ssd"),
        ({"task_options": {"nms_iuo": 0.5}}, "task ssd has no option 'nms_iuo'; did you mean nms_iou"),
        ({"task_options": {"num_classes": 5}}, "task ssd has no option 'num_classes'"),
        (
            {"backbone_options": {"paddin": "same"}},
            "backbone mobilenet_v1 has no option 'paddin'; did you mean padding?",
        ),
        ({"backbone": "mobilnet_v1"}, "unknown backbone 'mobilnet_v1'; did you mean mobilenet_v1"),
        ({"backbone_options": {"padding": "full"}}, "padding must be one of symmetric, same; got 'full'"),
        ({"task_options": {"min_scale": 0.97}}, "min_scale 0.97 of the anchors must be less than max_scale 0.95"),
        ({"alpha": 0.0}, "alpha must be above 0"),
        ({"num_classes": None}, "needs classes or num_classes, or weights that name their classes"),
        ({"num_classes": 0}, "at least one class"),
        ({"classes": ["a", "b"]}, "2 classes, 2 category_ids and num_classes=3"),
        ({"category_ids": [1, 2]}, "3 classes, 2 category_ids and num_classes=3"),
    ],
)
def test_wrong_arguments_name_the_right_ones(arguments, message):
    arguments = {"task": "ssd", "alpha": 0.25, "image_size": 64, "num_classes": 3, **arguments}
    with pytest.raises(UserError) as raised:
        create_model(arguments.pop("task"), **arguments)
    assert message in str(raised.value)


def test_weights_bring_their_settings_and_classes(ssd_weights, caplog):
    model = create_model(
        "ssd",
        alpha=0.25,
        image_size=64,
        weights=ssd_weights,
        task_options={"form": None, "loss": None, "nms_iou": 0.5},
        backbone_options=dict.fromkeys(("padding", "activation", "norm_eps")),
    )
    assert options_of(model) == ("same", "relu6", 1e-5)
    assert (model.form, model.loss, model.nms_iou) == ("lite", "sigmoid", 0.5)
    assert model.spec.classes == ("cat", "dog", "bird")
    assert model.spec.task_options == {
        "form": "lite",
        "loss": "sigmoid",
        "focal_alpha": 0.25,
        "focal_gamma": 2.0,
        "min_scale": 0.2,
        "max_scale": 0.95,
        "nms_iou": 0.5,
    }
    assert {key: model.spec.backbone_options[key] for key in TENSORFLOW} == TENSORFLOW
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_anchors_and_focal_loss_come_from_the_weights(tmp_path, caplog):
    trained = {"loss": "focal", "focal_alpha": 0.6, "focal_gamma": 1.5, "min_scale": 0.1, "max_scale": 0.8}
    first = create_model("ssd", alpha=0.25, image_size=64, num_classes=2, task_options=trained)
    save_model(first, tmp_path / "ssd.ckpt")
    arguments = {"alpha": 0.25, "num_classes": 2, "weights": str(tmp_path / "ssd.ckpt")}
    again = create_model("ssd", **arguments, task_options=dict.fromkeys(trained))
    assert torch.equal(again.anchors, first.anchors)
    assert not torch.equal(again.anchors, create_model("ssd", alpha=0.25, image_size=64, num_classes=2).anchors)
    assert (again.loss, again.focal_alpha, again.focal_gamma) == ("focal", 0.6, 1.5)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    create_model("ssd", **arguments, task_options={"min_scale": 0.2})
    assert "min_scale=0.2 was asked for; the weights were trained with min_scale=0.1" in caplog.text


def test_anchors_that_were_left_to_the_default_are_known_too(ssd_weights, caplog):
    create_model("ssd", alpha=0.25, weights=ssd_weights, task_options={"max_scale": 0.9})
    assert "max_scale=0.9 was asked for; the weights were trained with max_scale=0.95" in caplog.text


def test_what_is_asked_for_stands_with_a_warning(ssd_weights, caplog):
    model = create_model(
        "ssd",
        alpha=0.25,
        image_size=64,
        weights=ssd_weights,
        task_options={"loss": "focal"},
        backbone_options={"padding": "symmetric", "activation": "relu6"},
    )
    assert model.loss == "focal"
    assert options_of(model) == ("symmetric", "relu6", 1e-5)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == [
        "loss=focal was asked for; the weights were trained with loss=sigmoid",
        "padding=symmetric was asked for; the weights were trained with padding=same",
    ]


def test_weights_of_the_whole_model_are_loaded(ssd_weights):
    torch.manual_seed(1)
    first = create_model("ssd", alpha=0.25, image_size=64, weights=ssd_weights)
    torch.manual_seed(2)
    second = create_model("ssd", alpha=0.25, image_size=64, weights=ssd_weights)
    assert all(torch.equal(tensor, second.state_dict()[name]) for name, tensor in state(first).items())


def test_classes_given_take_their_columns_by_name(ssd_weights):
    full = create_model("ssd", alpha=0.25, image_size=64, weights=ssd_weights)
    part = create_model("ssd", alpha=0.25, image_size=64, weights=ssd_weights, classes=["bird", "fish", "Cat"])
    anchors = 3
    whole = full.heads[0].classes.pointwise.weight.view(anchors, 4, -1)
    mixed = part.heads[0].classes.pointwise.weight.view(anchors, 4, -1)
    assert torch.equal(mixed[:, [0, 1, 3]], whole[:, [0, 3, 1]])  # background, bird, cat
    assert not torch.equal(mixed[:, 2], whole[:, 2])
    assert part.spec.classes == ("bird", "fish", "Cat")


def test_weights_of_a_backbone_say_nothing_of_the_head(ssd_weights, classifier_weights):
    arguments = {"alpha": 0.25, "image_size": 64, "classes": ["cat", "dog", "bird"]}
    torch.manual_seed(1)
    other = create_model("ssd", backbone_weights=classifier_weights, **arguments)
    torch.manual_seed(2)
    model = create_model("ssd", backbone_weights=ssd_weights, **arguments)
    assert (model.form, model.loss) == (other.form, other.loss) == ("paper", "softmax")
    assert options_of(model) == options_of(other) == ("same", "relu6", 1e-5)
    source = create_model("ssd", weights=ssd_weights, alpha=0.25, image_size=64)
    assert torch.equal(model.backbone.stem.conv.weight, source.backbone.stem.conv.weight)
    same_shape = "heads.0.boxes.pointwise.bias", "extras.0.reduce.conv.weight"
    assert not torch.equal(model.state_dict()[same_shape[1]], source.state_dict()[same_shape[1]])


def test_a_backbone_does_not_bring_classes(classifier_weights):
    with pytest.raises(UserError, match="needs classes or num_classes"):
        create_model("ssd", alpha=0.25, image_size=64, backbone_weights=classifier_weights)


def test_weights_of_the_whole_model_and_of_the_backbone_exclude_each_other(ssd_weights, classifier_weights):
    with pytest.raises(UserError, match=r"together.*leave out task\.weights or backbone\.weights"):
        create_model("ssd", alpha=0.25, weights=ssd_weights, backbone_weights=classifier_weights)


def test_category_ids_come_from_the_weights_with_their_classes(tmp_path):
    trained = create_model("ssd", alpha=0.25, image_size=64, classes=["cat", "dog"], category_ids=[17, 18])
    save_model(trained, tmp_path / "ssd.ckpt")
    arguments = {"alpha": 0.25, "weights": str(tmp_path / "ssd.ckpt")}
    assert create_model("ssd", **arguments).spec.category_ids == (17, 18)
    assert create_model("ssd", **arguments, category_ids=[5, 9]).spec.category_ids == (5, 9)
    assert create_model("ssd", **arguments, classes=["dog"]).spec.category_ids == (1,)
    with pytest.raises(UserError, match="2 classes, 1 category_ids"):
        create_model("ssd", **arguments, category_ids=[5])


def test_category_ids_that_weights_do_not_tell_are_the_labels(tmp_path, monkeypatch):
    save_model(create_model("ssd", alpha=0.25, image_size=64, num_classes=3), tmp_path / "ssd.ckpt")
    known = dataclasses.replace(read_weights(tmp_path / "ssd.ckpt"), classes=("cat", None, "dog"))
    for ids, expected in ((None, (1, 3)), ((None, None, 44), (1, 44))):
        told = dataclasses.replace(known, category_ids=ids)
        monkeypatch.setattr(create, "read_weights", lambda path, told=told: told)
        model = create_model("ssd", alpha=0.25, weights="some.ckpt")
        assert (model.spec.classes, model.spec.category_ids) == (("cat", "dog"), expected)


def test_published_weights(shared_weights):
    path = str(shared_weights / "ssd_mobilenet_v1_0.75_300_coco.npz")
    model = create_model("ssd", alpha=0.75, weights=path)
    assert len(model.spec.classes) == 80
    assert model.spec.classes[:2] == ("person", "bicycle")
    assert model.spec.category_ids[-1] == 90  # COCO's own ids, which leave some out
    assert model.loss == read_weights(path).settings["loss"] != "softmax"
    assert options_of(model)[:2] == ("same", "relu6")
    with pytest.raises(UserError, match=r"set backbone\.alpha=0\.75"):
        create_model("ssd", alpha=0.5, weights=path)


def test_plain_values_in_the_spec():
    import numpy as np

    spec = create_model(
        "ssd", alpha=0.25, image_size=64, classes=np.array(["a"]), category_ids=np.array([5], dtype=np.int64)
    ).spec
    assert type(spec) is ModelSpec
    assert (type(spec.classes[0]), type(spec.category_ids[0])) == (str, int)


def test_weights_with_a_number_of_classes_alone(tmp_path):
    known = create_model("ssd", alpha=0.25, image_size=64, classes=["cat", "dog"])
    save_model(known, tmp_path / "pets.ckpt")
    model = create_model("ssd", alpha=0.25, num_classes=2, weights=str(tmp_path / "pets.ckpt"))
    for name, value in model.state_dict().items():
        assert torch.equal(value, known.state_dict()[name]), name
