"""Speed of SSD here beside torchvision's SSDLite320, side by side in one run: prints times and ratios.

Both sides run their own code on the same data, in turns, so that whatever else the machine does falls on both. The
figure is the median of the turns; the ratio is torchvision's over ours.

    python benchmarks/detection.py            # about four minutes on two cores
    python benchmarks/detection.py --quick    # fewer turns
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from torchvision.models.detection.image_list import ImageList

from mnvision import create_model, profile
from mnvision.backbones.folding import fold_batchnorm
from mnvision.hardware import fast_bfloat16, keep_freed_memory
from mnvision.models.ssd import SSD, SSDOutput
from mnvision.module import VisionModule
from mnvision.ops.boxes import to_centers
from mnvision.types import Targets

COLUMNS = 91  # 90 classes and background
SIDE = 320
CANDIDATES = 300  # (anchor, class) pairs above the threshold in the whole-predict test


class Row(NamedTuple):
    """One line of the table: seconds of both sides."""

    name: str
    theirs: float
    ours: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a third of the turns")
    parser.add_argument("--plain-memory", action="store_true", help="leave glibc's allocator as it is")
    options = parser.parse_args()
    turns = 3 if options.quick else 9
    tuned = not options.plain_memory and keep_freed_memory()
    print(
        f"torch {torch.__version__}, torchvision {torchvision.__version__}, {torch.get_num_threads()} threads, "
        f"{platform.processor() or platform.machine()}, fast bfloat16: {fast_bfloat16('cpu')}, "
        f"freed memory kept for both: {tuned}"
    )
    torch.manual_seed(0)
    ours = create_model("ssd", alpha=0.75, image_size=SIDE, num_classes=COLUMNS - 1, task_options={"form": "lite"})
    theirs = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=COLUMNS)
    costs = profile(ours).mult_adds, torchvision_mult_adds(theirs)
    print(
        f"mult-adds at {SIDE}x{SIDE}: ours (SSDLite, MobileNet V1 alpha 0.75) {costs[0] / 1e6:,.0f} M, "
        f"torchvision (SSDLite, MobileNet V3 large) {costs[1] / 1e6:,.0f} M\n"
    )
    rows = [
        matching_and_loss(ours, theirs, turns=3 * turns),
        post_processing(ours, theirs, turns=turns),
        whole_predict(ours, theirs, turns=3 * turns),
        training_step(ours, theirs, turns=turns),
    ]
    print(f"{'':48}{'torchvision':>13}{'ours':>11}{'ratio':>8}")
    for row in rows:
        print(f"{row.name:48}{1e3 * row.theirs:10.1f} ms{1e3 * row.ours:8.1f} ms{row.theirs / row.ours:7.1f}x")


def matching_and_loss(ours: SSD, theirs: nn.Module, *, turns: int) -> Row:
    """From boxes and raw output to gradients of the output: 32 pictures of 8 boxes."""
    batch, count = 32, 8
    anchors = torchvision_anchors(theirs, batch=batch)
    logits = torch.randn(batch, len(anchors[0]), COLUMNS)
    offsets = torch.randn(batch, len(anchors[0]), 4)
    targets = random_targets(batch, count=count)
    lists = as_lists(targets)

    def run_theirs() -> None:
        output = {"cls_logits": logits.requires_grad_(), "bbox_regression": offsets.requires_grad_()}
        matched = [
            theirs.proposal_matcher(torchvision.ops.box_iou(target["boxes"], own))
            for target, own in zip(lists, anchors, strict=True)
        ]
        losses = theirs.compute_loss(lists, output, anchors, matched)
        torch.autograd.grad(sum(losses.values()), (logits, offsets))

    with SameAnchors(ours, anchors[0]):

        def run_ours() -> None:
            output = SSDOutput(logits.requires_grad_(), offsets.requires_grad_())
            losses = ours.losses(None, targets, output=output)
            torch.autograd.grad(sum(losses.values()), (logits, offsets))

        return compare("matching + loss, batch 32, 8 boxes, 91 columns", run_theirs, run_ours, turns=turns)


def post_processing(ours: SSD, theirs: nn.Module, *, turns: int) -> Row:
    """From busy logits, of which hundreds of thousands pass the threshold, to boxes; both keep 300."""
    batch = 1
    anchors = torchvision_anchors(theirs, batch=batch)
    logits = torch.randn(batch, len(anchors[0]), COLUMNS) * 3
    offsets = torch.randn(batch, len(anchors[0]), 4)
    images = torch.zeros(batch, 3, SIDE, SIDE)
    settings = {"score_threshold": theirs.score_thresh, "nms_iou": theirs.nms_thresh, "max_detections": 300}
    before = {name: getattr(ours, name) for name in settings}
    vars(ours).update(settings)

    def run_theirs() -> None:
        output = {"cls_logits": logits, "bbox_regression": offsets}
        theirs.postprocess_detections(output, anchors, [(SIDE, SIDE)] * batch)

    with torch.no_grad(), SameAnchors(ours, anchors[0]):
        row = compare(
            "post-processing of busy logits, batch 1",
            run_theirs,
            lambda: ours.predict(images, output=SSDOutput(logits, offsets)),
            turns=turns,
        )
    vars(ours).update(before)
    return row


def whole_predict(ours: SSD, theirs: nn.Module, *, turns: int) -> Row:
    """From a decoded 640x480 picture to boxes, batch 1, with the same number of candidates on both sides."""
    picture = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    ours.eval()
    theirs.eval()
    quick = fold_batchnorm(ours).to(memory_format=torch.channels_last)

    def run_theirs() -> None:
        theirs([torch.from_numpy(picture).permute(2, 0, 1).float() / 255])

    with torch.no_grad():
        theirs.score_thresh = quick.score_threshold
        # Untrained heads find everything or nothing: shift background until as many pairs pass as in a busy street.
        settle_background(quick, [head.classes.pointwise for head in quick.heads], lambda: quick.predict([picture]))
        settle_background(theirs, [part[1] for part in theirs.head.classification_head.module_list], run_theirs)
        return compare(
            "whole predict of a 640x480 picture, batch 1", run_theirs, lambda: quick.predict([picture]), turns=turns
        )


def training_step(ours: SSD, theirs: nn.Module, *, turns: int) -> Row:
    """Forward, loss, backward and optimiser step on 16 pictures of 320x320."""
    batch = 16
    images = torch.randint(0, 256, (batch, 3, SIDE, SIDE), dtype=torch.uint8)
    floats = list(images.float() / 255)
    targets = random_targets(batch, count=8)
    lists = as_lists(targets)
    module = VisionModule(ours.train())
    packed = images.contiguous(memory_format=torch.channels_last)
    our_optimizer = torch.optim.SGD(module.parameter_groups(), lr=1e-4, momentum=0.9, weight_decay=4e-5, fused=True)
    theirs.train()
    their_optimizer = torch.optim.SGD(theirs.parameters(), lr=1e-4, momentum=0.9, weight_decay=4e-5)
    mixed = fast_bfloat16("cpu")

    def run_theirs() -> None:
        loss = sum(theirs(floats, lists).values())
        their_optimizer.zero_grad()
        loss.backward()
        their_optimizer.step()

    def run_ours() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            loss = sum(ours.losses(packed, targets).values())
        our_optimizer.zero_grad()
        loss.backward()
        our_optimizer.step()

    return compare("whole training step, batch 16", run_theirs, run_ours, turns=turns)


def compare(name: str, theirs: Callable[[], object], ours: Callable[[], object], *, turns: int) -> Row:
    """Run both in turns after two rounds of warm-up; the medians."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(turns + 2):
        for side, run in zip(times, (theirs, ours), strict=True):
            started = time.perf_counter()
            run()
            if turn >= 2:
                side.append(time.perf_counter() - started)
    return Row(name, median(times[0]), median(times[1]))


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


def torchvision_mult_adds(theirs: nn.Module) -> int:
    """Counted by our profiler's rule, over the layers that run for one 320x320 picture."""
    total = 0

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        nonlocal total
        total += output.numel() * module.weight[0].numel()

    hooks = [m.register_forward_hook(count) for m in theirs.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    theirs.eval()
    with torch.no_grad():
        theirs([torch.zeros(3, SIDE, SIDE)])
    for hook in hooks:
        hook.remove()
    return total


def settle_background(model: nn.Module, predictors: list[nn.Conv2d], run: Callable[[], object]) -> None:
    """Shift the background bias so that ``CANDIDATES`` pairs pass the score threshold on the picture of ``run``."""
    seen: list[Tensor] = []
    hooks = [
        p.register_forward_hook(lambda _, __, out: seen.append(out.permute(0, 2, 3, 1).reshape(-1, COLUMNS)))
        for p in predictors
    ]
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


class SameAnchors:
    """Within the block, our model works on torchvision's anchors: both sides then have the same amount of work."""

    def __init__(self, model: SSD, corners: Tensor) -> None:
        self.model, self.anchors = model, to_centers(corners)

    def __enter__(self) -> None:
        """Swap."""
        self.model.anchors, self.anchors = self.anchors, self.model.anchors

    def __exit__(self, *_: object) -> None:
        """Swap back."""
        self.__enter__()


if __name__ == "__main__":
    main()
