"""Speed of Faster R-CNN here beside torchvision's fasterrcnn_mobilenet_v3_large_320_fpn, in one run.

The same network on both sides, so the same mult-adds: MobileNet V3 large with a feature pyramid at 320x320, 90 classes,
150 proposals in prediction, 512 regions of a picture in training. Then ours with 128 regions, and ours as it is by
default on MobileNet V1 alpha 0.75. Each side in a process of its own with its own defaults, in turns; see
``benchmarks/detection.py`` for what these differ in.

    python benchmarks/faster_rcnn.py          # about ten minutes on two cores
    python benchmarks/faster_rcnn.py --quick  # fewer turns
"""

from __future__ import annotations

import argparse
import functools
import platform

import numpy as np
import torch
import torchvision
from sides import Action, Side, compare, torchvision_mult_adds
from torch import Tensor, nn
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn

from mnvision import create_model, profile
from mnvision.hardware import fast_bfloat16
from mnvision.inference import for_inference
from mnvision.models.faster_rcnn import FasterRCNN
from mnvision.module import VisionModule
from mnvision.types import Targets

CLASSES = 90
SIDE = 320
BATCH = 8
TESTS = {  # name: title, turns
    "predict": ("whole predict of a 480x480 picture, batch 1", 30),
    "step": (f"whole training step, batch {BATCH}", 7),
}
OURS: dict[str, dict] = {
    "the same network": {"backbone": "mobilenet_v3_large", "backbone_options": {"taps": "strided", "norm_eps": 1e-5}},
    "the same network, 128 regions": {
        "backbone": "mobilenet_v3_large",
        "backbone_options": {"taps": "strided", "norm_eps": 1e-5},
        "task_options": {"roi_batch": 128},
    },
    "MobileNet V1 alpha 0.75": {"alpha": 0.75},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a third of the turns")
    options = parser.parse_args()
    print(
        f"torch {torch.__version__}, torchvision {torchvision.__version__}, {torch.get_num_threads()} threads, "
        f"{platform.processor() or platform.machine()}; training steps: ours "
        f"{'bfloat16' if fast_bfloat16('cpu') else 'float32'}, torchvision float32"
    )
    settled = their_model().eval()
    settle_proposals(settled.rpn.head.cls_logits)
    print(f"torchvision: {torchvision_mult_adds(settled, side=SIDE) / 1e6:,.0f} M mult-adds with all proposals")
    for name in OURS:
        print(f"\nours: {name}, {profile(our_model(name)).mult_adds / 1e6:,.0f} M mult-adds with all proposals")
        sides = [Side(theirs, keep_memory=False), Side(functools.partial(ours, name), keep_memory=True)]
        compare(sides, TESTS, quick=options.quick)


def our_model(name: str) -> FasterRCNN:
    """One of ``OURS``."""
    return create_model("faster_rcnn", image_size=SIDE, num_classes=CLASSES, **OURS[name])


def their_model() -> nn.Module:
    """Torchvision's detector."""
    return fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None, num_classes=CLASSES + 1)


def ours(name: str) -> dict[str, Action]:
    """Our side of each test."""
    model, trained = our_model(name).eval(), our_model(name).to(memory_format=torch.channels_last)
    settle_proposals(model.rpn.objectness)
    quick = for_inference(model)
    optimizer = torch.optim.SGD(
        VisionModule(trained.train()).parameter_groups(), lr=1e-4, momentum=0.9, weight_decay=4e-5, fused=True
    )
    images, targets = step_images().contiguous(memory_format=torch.channels_last), random_targets()
    mixed = fast_bfloat16("cpu")

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            total = sum(trained.losses(images, targets).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()

    return {"predict": lambda: quick.predict([picture()]), "step": step}


def theirs() -> dict[str, Action]:
    """Their side of each test: torchvision's."""
    model, trained = their_model().eval(), their_model().train()
    settle_proposals(model.rpn.head.cls_logits)
    optimizer = torch.optim.SGD(trained.parameters(), lr=1e-4, momentum=0.9, weight_decay=4e-5)
    images, boxes = list(step_images().float() / 255), random_targets()
    targets = [{"boxes": rows, "labels": labels} for rows, labels in zip(boxes.boxes, boxes.labels, strict=True)]

    @torch.no_grad()
    def predict() -> None:
        model([picture_tensor()])

    def step() -> None:
        total = sum(trained(images, targets).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()

    return {"predict": predict, "step": step}


def picture() -> np.ndarray:
    """A decoded picture, uint8 [480, 480, 3]: square, so that both networks see 320x320."""
    return np.random.default_rng(0).integers(0, 256, (480, 480, 3), dtype=np.uint8)


def picture_tensor() -> Tensor:
    """The same as torchvision takes it."""
    return torch.from_numpy(picture()).permute(2, 0, 1).float() / 255


def step_images() -> Tensor:
    """A training batch, uint8 [8, 3, 320, 320]."""
    return torch.randint(0, 256, (BATCH, 3, SIDE, SIDE), dtype=torch.uint8)


def random_targets(*, count: int = 8) -> Targets:
    """``count`` boxes a picture, of 10 to 150 pixels a side."""
    low = torch.rand(BATCH, count, 2) * (SIDE - 150)
    boxes = torch.cat((low, low + 10 + torch.rand(BATCH, count, 2) * 140), dim=-1)
    return Targets(
        boxes=boxes,
        labels=torch.randint(1, CLASSES + 1, (BATCH, count)),
        crowd=torch.zeros(BATCH, count, dtype=torch.bool),
        image_ids=torch.arange(BATCH),
        original_sizes=torch.full((BATCH, 2), SIDE),
    )


@torch.no_grad()
def settle_proposals(objectness: nn.Conv2d) -> None:
    """Give an untrained region proposal network spread-out scores that all pass its threshold: 150 proposals."""
    nn.init.normal_(objectness.weight, std=1.0)
    nn.init.constant_(objectness.bias, 5.0)


if __name__ == "__main__":
    main()
