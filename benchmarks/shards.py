"""Speed of a classifier's training pictures out of tar shards beside the same pictures as single files.

Both sides are the data modules of ``task=classify`` with the same transform, batches and number of loading processes,
over the same JPEGs: file or tar member -> decode -> random crop -> batch of uint8. The shards are written first, to a
temporary folder. Rounds alternate between the sides, file cache warm; the figure is the median of the rounds' seconds.

    python benchmarks/shards.py --folder pictures/            # all JPEGs below a folder
    python benchmarks/shards.py --folder pictures/ --size 96 --workers 0 2
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from torch.utils.data import DataLoader

from mnvision.data.class_datamodule import ClassDataModule
from mnvision.data.shard_datamodule import ShardDataModule
from mnvision.data.shard_items import shards_from
from mnvision.hardware import keep_freed_memory
from mnvision.types import Preprocessing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="of JPEGs")
    parser.add_argument("--size", type=int, default=224, help="side of the input in pixels")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="loading processes")
    parser.add_argument("--augment", default="light", help="as data.augment")
    parser.add_argument("--pictures", type=int, default=1000, help="at most so many, evenly spread")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    files = sorted(options.folder.rglob("*.jpg"))
    files = files[:: max(-(-len(files) // options.pictures), 1)]
    if not files:
        parser.error(f"no .jpg below {options.folder}")
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        print(f"{len(files)} pictures at {options.size}x{options.size}, data.augment={options.augment}\n")
        print(f"{'loading processes':20}{'files/s':>12}{'shards/s':>12}{'ratio':>8}")
        sides = make_sides(files, Path(folder), root=options.folder, size=options.size, augment=options.augment)
        for workers in options.workers:
            single, shards = measure(sides, workers=workers, rounds=options.rounds)
            print(f"{workers:<20}{single:12,.0f}{shards:12,.0f}{shards / single:8.2f}", flush=True)


def make_sides(
    files: list[Path], folder: Path, *, root: Path, size: int, augment: str
) -> tuple[ClassDataModule, ClassDataModule]:
    """The data module of a list of the files, and that of their shards."""
    rows = (f'"{file.relative_to(root)}",{("even", "odd")[row % 2]}' for row, file in enumerate(files))  # any labels
    (folder / "train.csv").write_text("\n".join(["file,label", *rows]))
    shared: dict[str, Any] = {"preprocessing": Preprocessing(size=size), "augment": augment, "batch_size": 64}
    lists = {"images": str(root.resolve()), "train": "train.csv", "val": "train.csv", "test": None}
    columns = {"file_column": "file", "label_column": "label", "split_column": None}
    listed = ClassDataModule(name="picture_list", root=folder, **shared, options={**lists, **columns})
    shards_from(listed.load_split("train"), listed.image_folder("train"), folder, name="train")
    streams = {"train": "train-*.tar", "val": None, "test": None}
    reading = {"shuffle": 1000, "resample": False, "epoch_length": None, "label_from": None, "keep_shards": False}
    return listed, ShardDataModule(name="shards", root=folder, **shared, options={**streams, **reading})


def measure(sides: tuple[ClassDataModule, ClassDataModule], *, workers: int, rounds: int) -> list[float]:
    """Pictures a second of each side; one round before them warms everything up and starts the processes."""
    loaders = []
    for side in sides:
        side.num_workers = workers
        loaders.append(side.train_dataloader())
    seconds: list[list[float]] = [[], []]
    for turn in range(rounds + 1):
        for loader, kept in zip(loaders, seconds, strict=True):
            found = epoch(loader)
            if turn > 0:
                kept.append(found)
    return [1 / median(kept) for kept in seconds]


def epoch(loader: DataLoader) -> float:
    """Seconds a picture of one epoch."""
    started = time.perf_counter()
    count = sum(len(batch.images) for batch in loader)
    return (time.perf_counter() - started) / count


if __name__ == "__main__":
    main()
