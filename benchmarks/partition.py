"""Divide the earth by the coordinates in a CSV file: how many cells there are, how long it takes, and their map.

python benchmarks/partition.py coordinates.csv --latitude LAT --longitude LON --limits 1000/50 500/20 --output maps
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from mnvision.data.places import PlaceColumns, read_places
from mnvision.figures import save
from mnvision.ops.partition import adaptive_cells
from mnvision.ops.s2 import cell_levels, leaf_cells
from mnvision.place_figures import partition_map


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", type=Path, help="a line of titles, then a place a line")
    parser.add_argument("--latitude", default="lat", help="title of the column of latitudes")
    parser.add_argument("--longitude", default="lon", help="title of the column of longitudes")
    parser.add_argument("--limits", nargs="+", default=["1000/50"], help="max_photos/min_photos")
    parser.add_argument("--min-level", type=int, default=2)
    parser.add_argument("--max-level", type=int, default=30)
    parser.add_argument("--output", type=Path, help="folder for the maps")
    args = parser.parse_args()

    columns = PlaceColumns(file=None, latitude=args.latitude, longitude=args.longitude)
    started = time.perf_counter()
    places = read_places(args.csv, columns=columns).pictures.coordinates
    read = time.perf_counter()
    leaves = leaf_cells(places)
    found = time.perf_counter()
    print(f"{len(places):,} places, read in {read - started:.2f} s, their finest cells found in {found - read:.2f} s")
    for limits in args.limits:
        most, least = map(int, limits.split("/"))
        started = time.perf_counter()
        cells, counts = adaptive_cells(
            leaves, max_photos=most, min_photos=least, min_level=args.min_level, max_level=args.max_level
        )
        seconds = time.perf_counter() - started
        lost = len(places) - counts.sum()
        print(
            f"\nat most {most:,}, more than {least}: {len(cells):,} cells in {seconds:.3f} s, {counts.min()} to "
            f"{counts.max():,} places each; {lost:,} places ({lost / len(places):.1%}) in dropped cells"
        )
        print("level cells places")
        levels = cell_levels(cells)
        for level in np.unique(levels):
            print(f"{level:>5} {(levels == level).sum():>5} {counts[levels == level].sum():>6}")
        if args.output:
            paths = save(partition_map(cells, counts=counts, places=places), args.output / f"cells_{most}_{least}")
            print(f"map: {paths[1]}")


if __name__ == "__main__":
    main()
