"""Faster R-CNN: the paper's costs, torchvision's results on the same weights, and learning."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn

from mnvision import create_backbone, create_model, profile
from mnvision.backbones.layouts_torchvision import from_torchvision
from mnvision.checkpoint import save_model
from mnvision.inference import for_inference
from mnvision.models import faster_rcnn
from mnvision.models.faster_rcnn import FasterRCNN
from mnvision.ops import region_losses
from mnvision.ops import regions as ops_regions
from mnvision.types import Preprocessing, Target, UserError, pad_targets
from tests.runs import batch

SIZE = 320
IMAGENET = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}


def make(form="c4", *, size=96, num_classes=3, alpha=0.25, **options):
    torch.manual_seed(0)
    backbone = create_backbone("mobilenet_v1", alpha=alpha)
    return FasterRCNN(backbone, num_classes=num_classes, preprocessing=Preprocessing(size), form=form, **options)


@pytest.mark.parametrize(("size", "mult_adds", "anchors"), [(300, 25_224_412_096, 4332), (600, 30_493_700_224, 17328)])
def test_costs_of_the_paper(size, mult_adds, anchors):
    model = FasterRCNN(create_backbone("mobilenet_v1"), num_classes=90, preprocessing=Preprocessing(size), form="c4")
    found = profile(model)
    assert (found.mult_adds, found.parameters, len(model.anchors)) == (mult_adds, 6_043_072, anchors)


def blobs(count):
    """Pictures [count, 3, S, S] in 0..1 with something to see in every corner."""
    colours = torch.rand(count, 3, 12, 12, generator=torch.Generator().manual_seed(count))
    return nn.functional.interpolate(colours, size=SIZE, mode="bicubic").clamp(0, 1)


@pytest.fixture(scope="module")
def twins():
    """torchvision's detector and ours, with the same random weights."""
    torch.manual_seed(0)
    theirs = fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=6,
        min_size=SIZE,
        box_score_thresh=0.02,
        box_detections_per_img=750,
    ).eval()
    with torch.no_grad():
        for part in theirs.modules():
            if isinstance(part, nn.BatchNorm2d):
                nn.init.uniform_(part.weight, 0.5, 1.5)
                nn.init.normal_(part.bias, std=0.2)
                part.momentum = 1.0
        # Statistics of real activations: with others every cell looks the same, and equal scores have no order.
        theirs.backbone.train()(blobs(8) * 4 - 2)
        theirs.rpn.head.conv[0][0].weight.mul_(10)
        theirs.roi_heads.box_predictor.cls_score.weight.mul_(4)
        for part in theirs.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_var.clamp_(min=0.05)  # a dead channel would magnify the rounding
    theirs.eval()
    backbone = create_backbone("mobilenet_v3_large", taps="strided", norm_eps=1e-5)  # theirs, in a detector
    ours = FasterRCNN(
        backbone, num_classes=5, preprocessing=Preprocessing(SIZE, **IMAGENET), score_threshold=0.02, max_detections=750
    )
    state = theirs.state_dict()
    new = {f"backbone.{name}": value for name, value in _backbone(state, backbone).items()}
    for index in range(2):
        new |= {f"pyramid.lateral.{index}.{p}": state[f"backbone.fpn.inner_blocks.{index}.0.{p}"] for p in PARTS}
        new |= {f"pyramid.smooth.{index}.{p}": state[f"backbone.fpn.layer_blocks.{index}.0.{p}"] for p in PARTS}
        new |= {f"box_head.hidden.{index}.{p}": state[f"roi_heads.box_head.fc{6 + index}.{p}"] for p in PARTS}
    for mine, other in (("conv", "conv.0.0"), ("objectness", "cls_logits"), ("offsets", "bbox_pred")):
        new |= {f"rpn.{mine}.{p}": state[f"rpn.head.{other}.{p}"] for p in PARTS}
    new |= {f"box_head.classes.{p}": state[f"roi_heads.box_predictor.cls_score.{p}"] for p in PARTS}
    # theirs has a box for background, too
    new |= {f"box_head.boxes.{p}": state[f"roi_heads.box_predictor.bbox_pred.{p}"][4:] for p in PARTS}
    ours.load_state_dict(new)
    return theirs, ours.eval()


PARTS = ("weight", "bias")


def _backbone(state, backbone):
    """The entries of torchvision's backbone under our names."""
    body = {n.replace("backbone.body.", "features."): t for n, t in state.items() if n.startswith("backbone.body.")}
    found = from_torchvision(body)
    tensors = {n.removeprefix("backbone."): t for n, t in found.tensors.items() if n.startswith("backbone.")}
    counters = {n: t for n, t in backbone.state_dict().items() if n.endswith("num_batches_tracked")}
    return tensors | counters


@pytest.fixture
def images():
    return (255 * blobs(2)).to(torch.uint8)


def test_proposals_and_detections_are_torchvisions(twins, images, monkeypatch):
    theirs, ours = twins
    seen = []
    hook = theirs.rpn.register_forward_hook(lambda module, inputs, output: seen.append(output[0]))
    with torch.no_grad():
        expected = theirs(list(images.float() / 255))
        output = ours(images)
    hook.remove()
    for row, boxes in enumerate(seen[0]):
        count = int((output.proposal_scores[row] > 0).sum())
        assert count == len(boxes) > 20
        assert_same_boxes(output.proposals[row, :count], boxes)
    for detections, other in zip(ours.predict(images, output=output), expected, strict=True):
        assert len(other["boxes"]) > 10
        torch.testing.assert_close(detections.scores, other["scores"], rtol=0, atol=1e-4)
        # A label moves a box a picture further, so that only boxes of one class can be the same.
        assert_same_boxes(
            detections.boxes + SIZE * detections.labels[:, None], other["boxes"] + SIZE * other["labels"][:, None]
        )


def assert_same_boxes(ours, theirs):
    """One to one, to a thousandth of a pixel, in whatever order equal scores have."""
    assert ours.shape == theirs.shape
    apart = (ours[:, None] - theirs).abs().amax(-1)
    assert apart.amin(0).max() < 1e-3
    assert apart.amin(1).max() < 1e-3


def first_ones(labels, *, count, positive_share, generator=None):
    """A sample without chance: the first positive ones, then the first others."""
    chosen = torch.zeros_like(labels, dtype=torch.bool)
    for row, answer in enumerate(labels):
        positive = (answer > 0).nonzero().squeeze(1)[: int(count * positive_share)]
        chosen[row, positive] = True
        chosen[row, (answer == 0).nonzero().squeeze(1)[: count - len(positive)]] = True
    return chosen


class FirstOnes:
    """The same for torchvision, which lists positives and negatives apart."""

    def __init__(self, count, share):
        self.count, self.share = count, share

    def __call__(self, labels):
        chosen = [first_ones(one[None].long(), count=self.count, positive_share=self.share)[0] for one in labels]
        pairs = list(zip(chosen, labels, strict=True))
        return [c & (one > 0) for c, one in pairs], [c & (one == 0) for c, one in pairs]


def test_losses_are_torchvisions_given_the_same_sampling(twins, images, monkeypatch):
    theirs, ours = twins
    for stage in (region_losses, faster_rcnn):
        monkeypatch.setattr(stage, "sample", first_ones)
    monkeypatch.setattr(theirs.rpn, "fg_bg_sampler", FirstOnes(256, 0.5))
    monkeypatch.setattr(theirs.roi_heads, "fg_bg_sampler", FirstOnes(512, 0.25))
    boxes = torch.tensor([[20.0, 30, 120, 200], [150, 40, 300, 310], [10, 200, 60, 280]])
    labels = torch.tensor([1, 3, 5])
    targets = [
        Target(boxes, labels, torch.zeros(3, dtype=torch.bool), 0, (SIZE, SIZE)),
        Target(boxes[1:2] - 9, labels[1:2], torch.zeros(1, dtype=torch.bool), 1, (SIZE, SIZE)),
    ]
    for part in (theirs.rpn, theirs.roi_heads, theirs):
        part.training = True  # and BatchNorm as it is
    try:
        expected = theirs(
            list(images.float() / 255), [{"boxes": target.boxes, "labels": target.labels} for target in targets]
        )
    finally:
        theirs.eval()
    found = ours.losses(images, pad_targets(targets))
    names = {
        "objectness_loss": "loss_objectness",
        "proposal_loss": "loss_rpn_box_reg",
        "class_loss": "loss_classifier",
        "box_loss": "loss_box_reg",
    }
    for mine, other in names.items():
        torch.testing.assert_close(found[mine], expected[other], rtol=1e-4, atol=1e-4)
        assert expected[other] > 0.001


@pytest.mark.parametrize("form", ["c4", "fpn"])
def test_every_parameter_learns(form):
    model = make(form)
    made = batch(size=96)
    sum(model.losses(made.images, made.targets).values()).backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert silent == []
    assert sum(bool(p.grad.any()) for p in model.parameters()) > 0.9 * len(list(model.parameters()))


@pytest.mark.parametrize("form", ["c4", "fpn"])
def test_bfloat16_on_the_cpu_trains_and_keeps_regions_in_float32(form, monkeypatch):
    model, made, crops = make(form), batch(size=96), []

    def crop_regions(*args, **options):
        crops.append(ops_regions.crop_regions(*args, **options))
        return crops[-1]

    monkeypatch.setattr(faster_rcnn, "crop_regions", crop_regions)
    with torch.autocast("cpu", torch.bfloat16):
        losses = model.losses(made.images, made.targets)
    assert {found.dtype for found in crops} == {torch.float32}
    assert all(value.dtype == torch.float32 and value.isfinite() for value in losses.values())
    sum(losses.values()).backward()
    assert model.rpn.conv.weight.grad.isfinite().all()


@pytest.mark.parametrize("form", ["c4", "fpn"])
def test_pictures_without_objects(form):
    model = make(form)
    made = batch(size=96, counts=(0, 0))
    losses = model.losses(made.images, made.targets)
    assert all(torch.isfinite(value) for value in losses.values())
    assert losses["box_loss"] == losses["proposal_loss"] == 0
    sum(losses.values()).backward()


@pytest.mark.parametrize("form", ["c4", "fpn"])
@pytest.mark.parametrize("size", [64, 97, 128])
def test_shapes_of_the_output_at_any_size(form, size):
    model = make(form, size=size, proposals=20).eval()
    images = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    with torch.no_grad():
        output = model(images)
    assert output.objectness.shape == (2, len(model.anchors))
    assert output.proposals.shape == (2, 20, 4)
    assert output.logits.shape == (2, 20, 4)
    assert output.offsets.shape == (2, 20, 3, 4)
    for detections in model.predict(images, output=output, score_threshold=0.0):
        assert len(detections.scores) <= model.max_detections
        assert (detections.boxes >= 0).all()
        assert (detections.boxes <= size).all()


@pytest.mark.parametrize("form", ["c4", "fpn"])
def test_losses_in_evaluation_share_the_forward_pass(form):
    model = make(form).eval()
    made = batch(size=96)
    with torch.no_grad():
        output = model(made.images)
        losses = model.losses(made.images, made.targets, output=output)
    assert set(losses) == {"objectness_loss", "proposal_loss", "class_loss", "box_loss"}
    assert all(torch.isfinite(value) for value in losses.values())


@pytest.mark.parametrize("form", ["c4", "fpn"])
@torch.no_grad()
def test_losses_in_evaluation_draw_the_same_samples_every_time(form):
    model = make(form).eval()
    made = batch(size=96)
    output = model(made.images)
    state = torch.random.get_rng_state()
    first, second = (model.losses(made.images, made.targets, output=output) for _ in range(2))
    assert first == second
    assert torch.equal(torch.random.get_rng_state(), state)
    drawn = [model.losses(made.images, made.targets)["objectness_loss"].item() for _ in range(5)]
    assert len(set(drawn)) > 1  # in training they differ


@pytest.mark.parametrize("form", ["c4", "fpn"])
def test_crops_in_chunks_give_the_same(form, monkeypatch):
    model = make(form, proposals=20, rpn_score_threshold=0.0).eval()
    images = torch.randint(0, 256, (3, 3, 96, 96), dtype=torch.uint8)
    sizes = []
    model.box_head.register_forward_pre_hook(lambda head, inputs: sizes.append(len(inputs[0])))
    with torch.no_grad():
        whole = model(images)
        monkeypatch.setattr(faster_rcnn, "CROPS_AT_ONCE", 16)
        parts = model(images)
        profile(model)
        model.train()(images)
    model.eval()(images)  # with a gradient
    assert sizes == [60, 16, 16, 16, 12, 20, 60, 60]
    assert whole.logits.std() > 0
    for one, other in zip(parts, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", ["c4", "fpn"])
@torch.no_grad()
def test_the_second_stage_sees_only_what_was_proposed(form):
    model = make(form, proposals=20).eval()
    images = batch(counts=(1, 1), size=96).images
    model.rpn_score_threshold = model(images).proposal_scores.median().item()  # leaves half of them
    seen = []
    model.box_head.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    output = model(images)
    real = output.proposal_scores > 0
    assert 0 < sum(seen) == int(real.sum()) < real.numel()
    assert not output.logits[~real].any()
    assert not output.offsets[~real].any()
    maps, where = model._features(images), real.nonzero(as_tuple=True)
    logits, offsets = model._classify(maps, output.proposals[where], where[0])
    torch.testing.assert_close(output.logits[where], logits)
    torch.testing.assert_close(output.offsets[where], offsets)
    nothing = make(form, rpn_score_threshold=1.0).eval()
    assert all(len(found.scores) == 0 for found in nothing.predict(images, score_threshold=0.0))
    assert all(len(found.scores) == 0 for found in for_inference(nothing).predict(images, score_threshold=0.0))


def test_anchor_sizes(tmp_path):
    options = {"form": "c4", "anchor_sizes": [16.0, 48.0]}
    model = create_model("faster_rcnn", alpha=0.25, image_size=96, classes=["a", "b"], task_options=options)
    assert model.anchors.shape == (6 * 6 * 6, 4)  # a grid of 6x6, three shapes of each size
    areas = model.anchors[:, 2:].prod(1).sqrt()
    torch.testing.assert_close(areas.unique(sorted=True).round(decimals=3).unique(), torch.tensor([16.0, 48.0]))
    save_model(model, tmp_path / "model.ckpt")
    tuned = create_model("faster_rcnn", alpha=0.25, classes=["a", "b"], weights=str(tmp_path / "model.ckpt"))
    assert tuned.spec.task_options["anchor_sizes"] == [16.0, 48.0]
    torch.testing.assert_close(tuned.anchors, model.anchors)
    for wrong in ([], [32.0, 16.0], [16.0, 16.0], [-1.0, 16.0]):
        with pytest.raises(UserError, match="rising numbers of pixels"):
            make(anchor_sizes=wrong)


def test_crowds_teach_nothing():
    model = make("fpn")
    made = batch(size=96, counts=(2,))
    made.targets.crowd[:] = True
    losses = model.losses(made.images, made.targets)
    assert losses["box_loss"] == losses["proposal_loss"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "c5"}, "c4, fpn; got 'c5'"),
        ({"num_classes": 0}, "at least one class besides background"),
        ({"rpn_low": 0.8}, "rpn_low 0.8 must not be above task.rpn_high 0.7"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(UserError, match=message):
        make(**{"form": "c4", **options})


@pytest.mark.parametrize("taps", ["expansions", "strided"])
@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small"])
def test_c4_needs_levels_at_the_ends_of_stages(name, taps):
    backbone = create_backbone(name, alpha=0.25, taps=taps)
    with pytest.raises(UserError, match=f"stages one by one, .*{name}.*; take backbone.taps=stages, or task.form=fpn"):
        FasterRCNN(backbone, num_classes=1, preprocessing=Preprocessing(64), form="c4")
    FasterRCNN(backbone, num_classes=1, preprocessing=Preprocessing(64), form="fpn")


def test_c4_refuses_a_backbone_whose_forward_it_does_not_know():
    pytest.importorskip("timm")
    backbone = create_backbone("mobilenetv4_conv_small_035", library="timm")
    with pytest.raises(UserError, match=r"take a backbone of list_backbones\(\), or task.form=fpn"):
        FasterRCNN(backbone, num_classes=1, preprocessing=Preprocessing(64), form="c4")
    FasterRCNN(backbone, num_classes=1, preprocessing=Preprocessing(64), form="fpn")


def test_by_name():
    model = create_model("faster_rcnn", alpha=0.25, num_classes=2, task_options={"form": "c4"})
    assert model.spec.task == "faster_rcnn"
    assert model.preprocessing.size == 320


def test_classes_are_taken_by_name(tmp_path):
    torch.manual_seed(1)
    known = create_model("faster_rcnn", alpha=0.25, image_size=64, classes=["cat", "dog", "owl"])
    save_model(known, tmp_path / "pets.ckpt")
    torch.manual_seed(2)
    model = create_model("faster_rcnn", alpha=0.25, classes=["owl", "fox"], weights=str(tmp_path / "pets.ckpt"))
    new, old = model.state_dict(), known.state_dict()
    assert model.preprocessing.size == 64
    for name, value in new.items():
        if not name.startswith(("box_head.classes", "box_head.boxes")):
            assert torch.equal(value, old[name]), name
    assert torch.equal(new["box_head.classes.weight"][:2], old["box_head.classes.weight"][[0, 3]])
    assert torch.equal(new["box_head.boxes.weight"][:4], old["box_head.boxes.weight"][8:])
    assert not torch.equal(new["box_head.boxes.weight"][4:], old["box_head.boxes.weight"][4:8])
