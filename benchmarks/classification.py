"""Speed of MobileNet V1 1.0 at 224x224 here beside timm's mobilenetv1_100 in float32 and contiguous memory, in one run.

The same network on both sides: 569 M mult-adds, 1,000 classes. Each side in a process of its own; ours with its own
defaults (channels-last memory, a fused optimiser, freed memory kept, bfloat16 where the processor is fast at it).

    python benchmarks/classification.py          # about three minutes on two cores
    python benchmarks/classification.py --quick  # fewer turns
"""

from __future__ import annotations

import argparse
import platform

import torch
from sides import Action, Side, compare
from torch import Tensor
from torch.nn import functional as F

from mnvision import create_model
from mnvision.hardware import fast_bfloat16
from mnvision.inference import for_inference
from mnvision.module import VisionModule
from mnvision.types import Labels

BATCH, SIDE, CLASSES = 32, 224, 1000
TESTS = {
    "step": (f"whole training step, batch {BATCH}", 12),
    "predict": ("prediction of a decoded picture, batch 1", 60),
}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a third of the turns")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads")
    sides = [Side(theirs, keep_memory=False), Side(ours, keep_memory=True)]
    compare(sides, TESTS, quick=options.quick, them="timm")


def ours() -> dict[str, Action]:
    """Our side of each test."""
    model = create_model("classify", image_size=SIDE, num_classes=CLASSES).to(memory_format=torch.channels_last)
    quick = for_inference(model)
    groups = VisionModule(model.train()).parameter_groups()
    optimizer = torch.optim.SGD(groups, lr=1e-3, momentum=0.9, weight_decay=4e-5, fused=True)
    images = pictures().contiguous(memory_format=torch.channels_last)
    targets = Labels(labels(), torch.arange(BATCH))
    mixed = fast_bfloat16("cpu")

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            total = sum(model.losses(images, targets).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()

    return {"step": step, "predict": lambda: quick.predict(images[:1])}


def theirs() -> dict[str, Action]:
    """Their side of each test: timm's."""
    import timm

    model = timm.create_model("mobilenetv1_100", num_classes=CLASSES).train()
    quick = timm.create_model("mobilenetv1_100", num_classes=CLASSES).eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=4e-5)
    images, wanted = pictures(), labels()

    def normalised(batch: Tensor) -> Tensor:
        return (batch.float() - 127.5) / 127.5

    def step() -> None:
        loss = F.cross_entropy(model(normalised(images)), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def predict() -> None:
        quick(normalised(images[:1])).softmax(-1)

    return {"step": step, "predict": predict}


def pictures() -> Tensor:
    """A batch, uint8 [32, 3, 224, 224]."""
    return torch.randint(0, 256, (BATCH, 3, SIDE, SIDE), dtype=torch.uint8)


def labels() -> Tensor:
    """Its classes, int64 [32]."""
    return torch.randint(0, CLASSES, (BATCH,))


if __name__ == "__main__":
    main()
