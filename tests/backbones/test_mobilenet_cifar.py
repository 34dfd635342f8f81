"""MobileNet for 28x28 against its documents: parameters as Keras counts them, mult-adds, layers, steps of training."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mnvision import create_model, load_model
from mnvision.backbones import create_backbone
from mnvision.backbones.weights import load_weights, read_weights
from mnvision.checkpoint import save_model
from mnvision.errors import UserError
from mnvision.profiler import profile


def classifier(*, alpha: float = 1.0, **options):
    return create_model(
        "classify", backbone="mobilenet_cifar", alpha=alpha, image_size=28, num_classes=10, backbone_options=options
    )


@pytest.mark.parametrize(
    ("blocks", "alpha", "total", "trainable", "weights", "mult_adds"),
    [
        (11, 1.0, 3_150_538, 3_130_250, 3_109_952, 452_058_368),
        (10, 1.0, 2_879_690, 2_861_450, 2_843_200, 399_774_976),
        (11, 0.75, 1_789_594, 1_774_378, 1_759_152, 255_576_000),
    ],
)
def test_costs_of_the_documents(blocks, alpha, total, trainable, weights, mult_adds):
    with torch.device("meta"):
        found = profile(classifier(alpha=alpha, blocks=blocks))
    assert (found.total, found.trainable, found.parameters, found.mult_adds) == (total, trainable, weights, mult_adds)
    stem = found.layers[0]
    assert stem[:3] == ("backbone.stem.conv", "conv 3x3", (int(32 * alpha), 14, 14))
    assert [layer.output[1:] for layer in found.layers[-3:-1]] == [(7, 7), (7, 7)]
    assert found.layers[-1].kind == "fully connected"


def test_the_stem_is_a_bare_convolution():
    backbone = create_backbone("mobilenet_cifar")
    assert {key for key in backbone.state_dict() if key.startswith("stem.")} == {"stem.conv.weight"}
    assert backbone.stem.conv.weight.numel() == 864
    images = torch.randn(1, 3, 28, 28)
    assert torch.equal(backbone.stem(images), backbone.stem.conv(images))
    assert (backbone.stem(images) < 0).any()  # no activation either
    assert sum(isinstance(part, nn.BatchNorm2d) for part in backbone.modules()) == 22


@pytest.mark.parametrize("blocks", [10, 11])
def test_levels_and_stages(blocks):
    backbone = create_backbone("mobilenet_cifar", alpha=0.5, blocks=blocks, freeze=1)
    assert backbone.levels == [(512, 2), (512, 4)]
    assert [features.shape[1:] for features in backbone(torch.randn(2, 3, 28, 28))] == [(512, 14, 14), (512, 7, 7)]
    trained = {key.split(".")[1] for key, value in backbone.named_parameters() if value.requires_grad}
    assert trained == {str(blocks - 1)}


def test_options_reach_the_layers():
    backbone = create_backbone("mobilenet_cifar", alpha=0.25, padding="same", activation="relu6", norm_eps=1e-5)
    assert isinstance(backbone.blocks[0].depthwise.activation, nn.ReLU6)
    assert backbone.blocks[0].depthwise.norm.eps == 1e-5
    # On an even side SAME pads below and right alone: the stem's first window begins at the first pixel.
    nn.init.zeros_(backbone.stem.conv.weight)
    backbone.stem.conv.weight.data[0, 0, 0, 0] = 1
    images = torch.randn(1, 3, 28, 28)
    assert torch.equal(backbone.stem(images)[0, 0], images[0, 0, ::2, ::2])


@pytest.mark.parametrize("blocks", [9, "11", 12])
def test_another_depth_is_refused(blocks):
    with pytest.raises(UserError, match="backbone.blocks of mobilenet_cifar must be one of 11, 10; got"):
        create_backbone("mobilenet_cifar", blocks=blocks)


@pytest.mark.parametrize("blocks", [10, 11])
def test_a_step_of_training_and_a_checkpoint(blocks, tmp_path):
    torch.manual_seed(0)
    model = classifier(alpha=0.25, blocks=blocks).train()
    images = torch.randint(0, 256, (4, 3, 28, 28), dtype=torch.uint8)
    before = {key: value.clone() for key, value in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    logits = model(images)
    nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    optimizer.step()
    assert logits.shape == (4, 10)
    assert sum(torch.equal(value, before[key]) for key, value in model.named_parameters()) == 0
    save_model(model, tmp_path / "small.ckpt")
    again = load_model(tmp_path / "small.ckpt")
    assert again.spec.backbone_options["blocks"] == blocks
    assert torch.equal(again.eval()(images), model.eval()(images))


def test_weights_tell_their_depth_and_width(tmp_path):
    torch.save(classifier(alpha=0.75, blocks=10).state_dict(), tmp_path / "ten.pt")
    given = read_weights(tmp_path / "ten.pt")
    assert given.settings == {"name": "mobilenet_cifar", "alpha": 0.75, "blocks": 10}
    model = create_model(
        "classify", backbone="mobilenet_cifar", alpha=0.75, image_size=28, num_classes=10, weights=str(given.file)
    )
    assert len(model.backbone.blocks) == 10
    with pytest.raises(UserError, match=r"weights are of blocks 10, the model has blocks 11: set backbone\.blocks=10"):
        load_weights(classifier(alpha=0.75), given)
    with pytest.raises(UserError, match=r"alpha 0\.75 \(conv stem 24 channels\), the model has alpha 0\.5"):
        load_weights(classifier(alpha=0.5, blocks=10), given)
    with pytest.raises(UserError, match="weights are of mobilenet_cifar, the model's backbone is mobilenet_v1"):
        load_weights(create_backbone("mobilenet_v1", alpha=0.75), given)
