"""Speed of SSD here beside torchvision's SSDLite320, side by side in one run: prints times and ratios.

Each side runs its own code in a process of its own, as it is used by default, on the same data and in turns, so that
whatever else the machine does falls on both. The figure is the median of the turns; the ratio is torchvision's over
ours. What the defaults differ in: ours keeps freed memory (see ``mnvision.hardware``), holds feature maps channels
last, trains in bfloat16 where the processor is fast at it, steps with the fused optimiser, and predicts with
``mnvision.for_inference``; torchvision's has none of these.

    python benchmarks/detection.py                # about three minutes on two cores
    python benchmarks/detection.py --quick        # fewer turns
    python benchmarks/detection.py --keep-memory  # torchvision's process keeps freed memory too
"""

from __future__ import annotations

import argparse
import functools
import platform
from collections.abc import Callable

import numpy as np
import torch
import torchvision
from sides import Action, Side, compare, torchvision_mult_adds
from torch import Tensor, nn
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from torchvision.models.detection.image_list import ImageList

from mnvision import create_model, profile
from mnvision.hardware import fast_bfloat16
from mnvision.inference import for_inference
from mnvision.models.ssd import SSD, SSDOutput
from mnvision.module import VisionModule
from mnvision.ops.boxes import to_centers
from mnvision.types import Targets

COLUMNS = 91  # 90 classes and background
SIDE = 320
ALPHA = 0.625  # of our backbone: about as many mult-adds as torchvision's MobileNet V3 large
CANDIDATES = 300  # (anchor, class) pairs above the threshold in the whole-predict test
TESTS = {  # name: title, turns
    "loss": ("matching + loss, batch 32, 8 boxes, 91 columns", 25),
    "post": ("post-processing of busy logits, batch 1", 15),
    "predict": ("whole predict of a 640x480 picture, batch 1", 40),
    "step": ("whole training step, batch 16", 9),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a third of the turns")
    parser.add_argument("--keep-memory", action="store_true", help="tune the allocator of torchvision's process too")
    options = parser.parse_args()
    print(
        f"torch {torch.__version__}, torchvision {torchvision.__version__}, {torch.get_num_threads()} threads, "
        f"{platform.processor() or platform.machine()}; training steps: ours "
        f"{'bfloat16' if fast_bfloat16('cpu') else 'float32'}, torchvision float32; "
        f"freed memory kept: ours{' and torchvision' if options.keep_memory else ''}"
    )
    print(
        f"mult-adds at {SIDE}x{SIDE}: "
        f"SSDLite on MobileNet V1 alpha {ALPHA} {profile(our_model()).mult_adds / 1e6:,.0f} M, "
        f"torchvision's SSDLite on MobileNet V3 large {torchvision_mult_adds(their_model(), side=SIDE) / 1e6:,.0f} M\n"
    )
    sides = [Side(theirs, keep_memory=options.keep_memory), Side(ours, keep_memory=True)]
    compare(sides, TESTS, quick=options.quick)


def our_model() -> SSD:
    """SSDLite on MobileNet V1."""
    return create_model("ssd", alpha=ALPHA, image_size=SIDE, num_classes=COLUMNS - 1, task_options={"form": "lite"})


def their_model() -> nn.Module:
    """SSDLite320 on MobileNet V3 large."""
    return ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=COLUMNS)


def ours() -> dict[str, Action]:
    """Our side of each test."""
    model = our_model().eval()
    trained = our_model().to(memory_format=torch.channels_last)
    module = VisionModule(trained.train())
    optimizer = torch.optim.SGD(module.parameter_groups(), lr=1e-4, momentum=0.9, weight_decay=4e-5, fused=True)
    mixed = fast_bfloat16("cpu")
    corners = torchvision_anchors(their_model(), batch=1)[0]
    raw, busy = raw_output(32, len(corners)), raw_output(1, len(corners), scale=3.0)
    boxes, step_boxes = random_targets(32, count=8), random_targets(16, count=8)
    images = step_images().contiguous(memory_format=torch.channels_last)
    empty = torch.zeros(1, 3, SIDE, SIDE)
    # Untrained heads find everything or nothing: shift background until as many pairs pass as in a busy street.
    settle_background(model, [head.classes.pointwise for head in model.heads], lambda: model.predict([picture()]))
    quick = for_inference(model)
    model.anchors = to_centers(corners)  # for loss and post-processing: the same anchors on both sides
    model.score_threshold, model.nms_iou, model.max_detections = 0.001, 0.55, 300  # torchvision's

    def loss() -> None:
        output = SSDOutput(*(part.requires_grad_() for part in raw))
        torch.autograd.grad(sum(model.losses(None, boxes, output=output).values()), output)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            total = sum(trained.losses(images, step_boxes).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()

    return {
        "loss": loss,
        "post": lambda: model.predict(empty, output=SSDOutput(*busy)),
        "predict": lambda: quick.predict([picture()]),
        "step": step,
    }


def theirs() -> dict[str, Action]:
    """Their side of each test: torchvision's."""
    model, trained = their_model().eval(), their_model().train()
    optimizer = torch.optim.SGD(trained.parameters(), lr=1e-4, momentum=0.9, weight_decay=4e-5)
    anchors, one = torchvision_anchors(model, batch=32), torchvision_anchors(model, batch=1)
    raw, busy = raw_output(32, len(one[0])), raw_output(1, len(one[0]), scale=3.0)
    boxes, step_boxes = as_lists(random_targets(32, count=8)), as_lists(random_targets(16, count=8))
    images = list(step_images().float() / 255)
    quick = their_model().eval()
    quick.score_thresh = 0.01

    def loss() -> None:
        logits, offsets = (part.requires_grad_() for part in raw)
        matched = [
            model.proposal_matcher(torchvision.ops.box_iou(target["boxes"], own))
            for target, own in zip(boxes, anchors, strict=True)
        ]
        losses = model.compute_loss(boxes, {"cls_logits": logits, "bbox_regression": offsets}, anchors, matched)
        torch.autograd.grad(sum(losses.values()), (logits, offsets))

    @torch.no_grad()
    def post() -> None:
        output = {"cls_logits": busy[0], "bbox_regression": busy[1]}
        model.postprocess_detections(output, one, [(SIDE, SIDE)])

    @torch.no_grad()
    def predict() -> None:
        quick([torch.from_numpy(picture()).permute(2, 0, 1).float() / 255])

    def step() -> None:
        total = sum(trained(images, step_boxes).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()

    settle_background(quick, [part[1] for part in quick.head.classification_head.module_list], predict)
    return {"loss": loss, "post": post, "predict": predict, "step": step}


@functools.cache
def picture() -> np.ndarray:
    """A decoded picture, uint8 [480, 640, 3]."""
    return np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)


def step_images() -> Tensor:
    """A training batch, uint8 [16, 3, 320, 320]."""
    return torch.randint(0, 256, (16, 3, SIDE, SIDE), dtype=torch.uint8)


def raw_output(batch: int, anchors: int, *, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Random logits and offsets."""
    return torch.randn(batch, anchors, COLUMNS) * scale, torch.randn(batch, anchors, 4)


def random_targets(batch: int, *, count: int) -> Targets:
    """``count`` boxes a picture, of 10 to 150 pixels a side."""
    low = torch.rand(batch, count, 2) * (SIDE - 150)
    boxes = torch.cat((low, low + 10 + torch.rand(batch, count, 2) * 140), dim=-1)
    return Targets(
        boxes=boxes,
        labels=torch.randint(1, COLUMNS, (batch, count)),
        crowd=torch.zeros(batch, count, dtype=torch.bool),
        image_ids=torch.arange(batch),
        original_sizes=torch.full((batch, 2), SIDE),
    )


def as_lists(targets: Targets) -> list[dict[str, Tensor]]:
    """The same ground truth as torchvision takes it."""
    return [{"boxes": boxes, "labels": labels} for boxes, labels in zip(targets.boxes, targets.labels, strict=True)]


def torchvision_anchors(theirs: nn.Module, *, batch: int) -> list[Tensor]:
    """The 3,234 default boxes of SSDLite320, xyxy, once a picture."""
    maps = [torch.zeros(batch, 1, side, side) for side in (20, 10, 5, 3, 2, 1)]
    return theirs.anchor_generator(ImageList(torch.zeros(batch, 3, SIDE, SIDE), [(SIDE, SIDE)] * batch), maps)


def settle_background(model: nn.Module, predictors: list[nn.Conv2d], run: Callable[[], object]) -> None:
    """Shift the background bias so that ``CANDIDATES`` pairs pass the score threshold on the picture of ``run``."""
    seen: list[Tensor] = []
    hooks = [
        p.register_forward_hook(lambda _, __, out: seen.append(out.permute(0, 2, 3, 1).reshape(-1, COLUMNS)))
        for p in predictors
    ]
    with torch.no_grad():
        run()
    for hook in hooks:
        hook.remove()
    logits = torch.cat(seen)
    threshold = model.score_threshold if isinstance(model, SSD) else model.score_thresh
    low, high = 0.0, 30.0
    for _ in range(30):
        middle = (low + high) / 2
        shifted = logits.clone()
        shifted[:, 0] += middle
        passing = int((shifted.softmax(-1)[:, 1:] > threshold).sum())
        low, high = (middle, high) if passing > CANDIDATES else (low, middle)
    for predictor in predictors:
        predictor.bias.data.view(-1, COLUMNS)[:, 0] += high


if __name__ == "__main__":
    main()
