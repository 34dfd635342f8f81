"""Weights into networks: all or nothing, class columns by name, and the report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mnvision.backbones.loading import narrowed
from mnvision.backbones.weights import (
    load_weights,
    read_weights,
    to_keras_arrays,
)
from mnvision.errors import UserError
from mnvision.models.ssd import SSD
from tests.backbones.networks import classifier, detector, same, snapshot

ANIMALS = ("cat", "dog", "zebra")


def load(model: nn.Module, path: Path) -> nn.Module:
    load_weights(model, read_weights(path))
    return model


def test_loading_keras_weights_fills_the_classifier(keras_file):
    model = classifier(seed=1)
    report = load_weights(model, read_weights(keras_file))
    assert str(report) == f"loaded 137 of 137 arrays from {keras_file} (Keras layout, alpha 0.25, 10 classes)"
    back = to_keras_arrays(model.state_dict())
    with np.load(keras_file) as archive:
        assert all(np.array_equal(back[name], archive[name]) for name in archive.files)
    assert model.backbone.stem.norm.num_batches_tracked == 0


def test_other_classes_get_a_fresh_head(keras_file):
    model = classifier(classes=3, seed=1)
    head = model.head.weight.detach().clone()
    report = load_weights(model, read_weights(keras_file), classes=ANIMALS)
    assert str(report).endswith("(Keras layout, alpha 0.25, 10 classes); class head re-initialised: 10 -> 3 classes")
    assert (report.used, report.initialised) == (135, ("head.weight", "head.bias"))
    assert torch.equal(model.head.weight, head)
    assert same(model, load(classifier(seed=2), keras_file), but=lambda name: name.startswith("head"))


def test_a_detector_takes_the_backbone_of_a_classifier(keras_file):
    model = detector(seed=1)
    before = snapshot(model)
    report = load_weights(model.backbone, read_weights(keras_file))
    assert same(model.backbone, load(classifier(seed=2), keras_file).backbone)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items() if not n.startswith("backbone."))
    assert report.dropped == ("head.weight", "head.bias")
    assert "into the backbone alone: 2 arrays of the classifier not used" in str(report)


def columns(model: SSD, head: int) -> Tensor:
    """Class weights of a head [anchors, K + 1, channels]."""
    predictor = model.heads[head].classes.pointwise
    return predictor.weight.detach().reshape(-1, model.num_classes + 1, predictor.in_channels)


def file_columns(path: Path, head: int) -> Tensor:
    with np.load(path) as archive:
        weight = torch.from_numpy(archive[f"head{head}/class/weight"])
    return weight.reshape(-1, 5, weight.shape[1])


@pytest.mark.parametrize("head", [0, 5])
def test_class_columns_follow_the_names(ssd_file, head):
    model = detector(classes=3, seed=1)
    fresh = columns(model, head).clone()
    report = load_weights(model, read_weights(ssd_file), classes=("Dog", "zebra", "CAT"))
    got, given = columns(model, head), file_columns(ssd_file, head)
    assert torch.equal(got[:, 0], given[:, 0])  # background
    assert torch.equal(got[:, 1], given[:, 3])
    assert torch.equal(got[:, 2], fresh[:, 2])
    assert torch.equal(got[:, 3], given[:, 1])
    assert str(report).endswith(
        "class head: 2 of 3 classes taken by name, 1 re-initialised (zebra), 2 of the file's 4 slots not used"
    )
    assert len(report.initialised) == 12
    assert report.used == report.total == 94


def test_slots_without_a_class_are_dropped(ssd_file):
    model = detector(classes=3, seed=1)
    report = load_weights(model, read_weights(ssd_file), classes=("cat", "dog", "bird"))
    assert torch.equal(columns(model, 2), file_columns(ssd_file, 2)[:, [0, 1, 3, 4]])
    assert report.initialised == ()
    assert "3 of 3 classes taken by name, 1 of the file's 4 slots not used" in str(report)


def test_names_differ_by_case_and_underscores_at_most(ssd_file):
    given = replace(read_weights(ssd_file), classes=("Traffic Light", None, "stop sign", "bird"))
    report = load_weights(detector(classes=2), given, classes=("traffic_light", "STOP  SIGN"))
    assert "2 of 2 classes taken by name" in str(report)


def test_no_class_in_common_keeps_the_box_head(ssd_file):
    model = detector(classes=2, seed=1)
    fresh, bias = columns(model, 0).clone(), model.heads[0].classes.pointwise.bias.detach().clone()
    report = load_weights(model, read_weights(ssd_file), classes=("cell", "platelet"))
    assert torch.equal(columns(model, 0), fresh)
    assert torch.equal(model.heads[0].classes.pointwise.bias, bias)
    assert "class head re-initialised: none of the 2 classes is among the file's 3" in str(report)
    assert report.used == 94 - 12
    with np.load(ssd_file) as archive:  # (ty, tx, th, tw) of each anchor became (tx, ty, tw, th)
        boxes = torch.from_numpy(archive["head1/box/weight"]).reshape(6, 4, -1)
    assert torch.equal(model.heads[1].boxes.pointwise.weight.detach().reshape(6, 4, -1), boxes[:, [1, 0, 3, 2]])


def test_unnamed_classes_match_by_position_where_their_numbers_agree(ssd_file):
    model = detector(classes=4, seed=1)
    load_weights(model, read_weights(ssd_file))
    assert torch.equal(columns(model, 3), file_columns(ssd_file, 3))
    report = load_weights(model, replace(read_weights(ssd_file), classes=None), classes=("a", "b", "c", "d"))
    assert "class head taken by position: the file does not name its classes" in str(report)


def test_folded_layers_become_exact_identities(ssd_file):
    model = detector(seed=1)
    load_weights(model, read_weights(ssd_file), classes=ANIMALS)
    with np.load(ssd_file) as archive:
        bias = torch.from_numpy(archive["extra1/expand/bias"])
    norm = model.extras[0].expand.norm
    assert torch.equal(norm.bias, bias)
    assert torch.equal((norm.running_var + norm.eps).sqrt(), torch.ones(128))
    values = torch.randn(2, 128, 3, 3)
    assert torch.equal(norm(values), values + bias[:, None, None])


def test_a_wider_network_is_a_start(keras_file):
    wide, model = load(classifier(), keras_file).backbone, classifier(alpha=0.125, seed=1).backbone
    with pytest.raises(UserError) as whole:  # not of a whole network, for which there is no such key
        load_weights(classifier(alpha=0.125), read_weights(keras_file))
    assert "narrow_weights" not in str(whole.value)
    assert "narrowed" not in str(load_weights(classifier().backbone, read_weights(keras_file), narrow=True))
    with pytest.raises(UserError, match="choose other weights, or, to start from some of their channels, backbone.nar"):
        load_weights(model, read_weights(keras_file))
    report = load_weights(model, read_weights(keras_file), narrow=True)
    # The smallest width is 8 channels: those of the stem and of its first depthwise layer stay, the others are halved.
    assert "125 arrays narrowed" in str(report)
    assert torch.equal(model.stem.conv.weight, wide.stem.conv.weight)
    first, second = wide.blocks[0], wide.blocks[1]
    assert torch.equal(model.blocks[0].pointwise.conv.weight, first.pointwise.conv.weight[::2])
    assert torch.equal(model.blocks[0].pointwise.norm.running_var, first.pointwise.norm.running_var[::2])
    # The channels that one layer gives are those that the next one takes.
    assert torch.equal(model.blocks[1].depthwise.conv.weight, second.depthwise.conv.weight[::2])
    assert torch.equal(model.blocks[1].pointwise.conv.weight, second.pointwise.conv.weight[::2, ::2])
    # Neither a multiple: 3 of 8 channels are 0, 2, 5.
    assert narrowed({"a": torch.arange(8.0)}, {"a": torch.zeros(3)})["a"].tolist() == [0, 2, 5]
    before = snapshot(model)
    with pytest.raises(UserError, match=r"weights are of alpha 0\.25.*the model has alpha 0\.5"):
        load_weights(classifier(alpha=0.5), read_weights(keras_file), narrow=True)
    same_again = classifier(seed=1)
    load_weights(same_again, read_weights(keras_file), narrow=True)
    assert same(same_again, load(classifier(seed=2), keras_file))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: classifier(alpha=0.5),
            r"weights are of alpha 0\.25 \(conv stem 8 channels\), the model has alpha 0\.5 \(conv stem 16 channels\): "
            r"set backbone\.alpha=0\.25",
        ),
        (lambda: classifier(variant="shallow"), r"of variant standard, the model has variant shallow: set backbone\.v"),
        (
            lambda: detector(),
            r"these weights are of a classifier, the model is a ssd: load them into its backbone alone",
        ),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_loaded(keras_file, make, message):
    model = make()
    before = snapshot(model)
    with pytest.raises(UserError, match=message):
        load_weights(model, read_weights(keras_file))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_another_form_of_ssd_is_refused(ssd_file):
    with pytest.raises(UserError, match=r"weights are of form paper, the model has form lite: set task\.form=paper"):
        load_weights(detector(form="lite"), read_weights(ssd_file), classes=ANIMALS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("backbone.blocks.3.depthwise.norm.bias"), r"lacks backbone\.blocks\.3\.depthwise\.norm\.bias"),
        (lambda t: t.update(surplus=torch.ones(1)), "has arrays that the model lacks: surplus; nothing was loaded"),
        (
            lambda t: t.update({"backbone.blocks.12.pointwise.norm.bias": torch.ones(5)}),
            r"norm\.bias has shape \[5\], the model expects \[256\]",
        ),
        (lambda t: t.update({"head.weight": torch.ones(10, 7)}), r"head\.weight has shape \[10, 7\]"),
    ],
)
def test_nothing_is_loaded_by_half(keras_file, change, message):
    given, model = read_weights(keras_file), classifier(seed=1)
    change(given.tensors)
    before = snapshot(model)
    with pytest.raises(UserError, match=message):
        load_weights(model, given)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_wrong_number_of_names_is_refused(ssd_file):
    with pytest.raises(UserError, match="the model has 3 classes, but 2 class names were given"):
        load_weights(detector(classes=3), read_weights(ssd_file), classes=("cat", "dog"))


def test_settings_that_differ_are_pointed_out(keras_file, ssd_file):
    report = load_weights(classifier(padding="symmetric", norm_eps=1e-5), read_weights(keras_file))
    assert report.notes == (
        "note: trained with padding same, the model has symmetric",
        "note: trained with norm_eps 0.001, the model has 1e-05",
    )
    folded = detector(loss="softmax", norm_eps=1e-5)  # any epsilon suits an identity
    assert load_weights(folded, read_weights(ssd_file), classes=("cat", "dog", "bird")).notes[1:] == (
        "note: trained with loss focal, the model has softmax",
    )
