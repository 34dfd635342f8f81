"""Speed of a classifier's training input beside torchvision's two pipelines: pictures a second and core, and ratios.

File -> decode -> random resized crop (area 0.08..1, aspect 3/4..4/3) -> mirror -> uint8 pixels, on the same files in
one run, one thread, file cache warm. torchvision's are those of its classification references: PIL (open, convert,
``RandomResizedCrop`` with its default antialiasing, flip, ``PILToTensor``) and tensors (``read_image``, the same by
``transforms.v2``). Ours decodes a JPEG at a reduced scale where the crop is at least twice as large as the input, and
resizes bilinearly. Rounds alternate between the sides; the figure is the median of the rounds' CPU time.

    python benchmarks/input.py --folder pictures/            # all JPEGs below a folder
    python benchmarks/input.py --folder a/ --folder b/ --sizes 224 160 --parts
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import torch
import torchvision
from PIL import Image
from torchvision import transforms
from torchvision.io import ImageReadMode, read_image
from torchvision.transforms import v2

from mnvision.data.classification_transforms import ClassTransform
from mnvision.hardware import keep_freed_memory
from mnvision.ops.picture import Picture
from mnvision.types import Preprocessing

Load = Callable[[Path, np.random.Generator], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", action="append", type=Path, required=True, help="of JPEGs; can be given again")
    parser.add_argument("--sizes", nargs="+", type=int, default=[224, 160], help="sides of the input in pixels")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--pictures", type=int, default=200, help="at most so many of a folder, evenly spread")
    parser.add_argument("--parts", action="store_true", help="also time what our policies add")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    keep_freed_memory()
    print(f"torchvision {torchvision.__version__}, OpenCV {cv2.__version__}, Pillow {Image.__version__}, one thread")
    for folder in options.folder:
        files = sorted(folder.rglob("*.jpg"))
        files = files[:: max(-(-len(files) // options.pictures), 1)]
        if not files:
            parser.error(f"no .jpg below {folder}")
        for size in options.sizes:
            print(f"\n{folder.name}: {len(files)} pictures at {size}x{size}\n{'':24}{'pictures/s':>12}{'x':>9}")
            report(measure(sides(size, parts=options.parts), files, rounds=options.rounds))


def sides(size: int, *, parts: bool) -> dict[str, Load]:
    """The pipelines by name."""
    crop = transforms.RandomResizedCrop(size)
    pil = transforms.Compose([crop, transforms.RandomHorizontalFlip(), transforms.PILToTensor()])
    tensor = v2.Compose([v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()])

    def from_pil(file: Path, _: np.random.Generator) -> object:
        with file.open("rb") as stream:
            return pil(Image.open(stream).convert("RGB"))

    def from_tensor(file: Path, _: np.random.Generator) -> object:
        return tensor(read_image(str(file), mode=ImageReadMode.RGB))

    found: dict[str, Load] = {"torchvision, PIL": from_pil, "torchvision, tensors": from_tensor}
    plain = {"randaugment": 0, "erasing": 0}
    found["ours"] = ours(ClassTransform("strong", preprocessing=Preprocessing(size=size), **plain))
    if parts:
        preprocessing = Preprocessing(size=size, fit="crop", crop_share=0.875)
        for policy in ("none", "light", "strong"):
            found[f"ours, {policy}"] = ours(ClassTransform(policy, preprocessing=preprocessing))
    return found


def ours(transform: ClassTransform) -> Load:
    """Our pipeline."""
    return lambda file, rng: transform(Picture.from_path(file), rng)


def measure(loads: dict[str, Load], files: list[Path], *, rounds: int) -> dict[str, float]:
    """Seconds of CPU time a picture, the median of the rounds; one round before them warms everything up."""
    seconds: dict[str, list[float]] = {name: [] for name in loads}
    for turn in range(rounds + 1):
        for name, load in loads.items():
            torch.manual_seed(turn)
            rng = np.random.default_rng(turn)
            start = time.process_time()
            for file in files:
                load(file, rng)
            if turn > 0:
                seconds[name].append((time.process_time() - start) / len(files))
    return {name: median(times) for name, times in seconds.items()}


def report(seconds: dict[str, float]) -> None:
    """Print a line for each side; ``x`` is how many times as fast ours is."""
    for name, value in seconds.items():
        print(f"{name:24}{1 / value:12,.0f}{value / seconds['ours']:9.2f}", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
