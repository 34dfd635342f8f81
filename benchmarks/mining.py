"""Semi-hard mining of a batch: ours, a loop over pairs in NumPy, and a plain loop over triplets; equal triplets.

python benchmarks/mining.py            FaceNet's batch: 1,800 pictures, 40 of each of 45 identities
python benchmarks/mining.py --quick    without the plain loop
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional as F

from mnvision.ops.embedding_losses import Triplets, semi_hard_triplets, squared_distances

MARGIN = 0.2
Found = list[tuple[int, int, int]]


def ours(distances: torch.Tensor, labels: torch.Tensor) -> Triplets:
    """The vectorised mining."""
    return semi_hard_triplets(distances, labels, margin=MARGIN)


def by_pairs(distances: torch.Tensor, labels: torch.Tensor) -> Found:
    """A loop over anchors and positives; the negatives of a pair as one array."""
    table, names = distances.numpy(), labels.numpy()
    found = []
    for anchor, row in enumerate(table):
        negatives = np.flatnonzero(names != names[anchor])
        far = row[negatives]
        for positive in np.flatnonzero(names == names[anchor]):
            near = row[positive]
            allowed = (far > near) & (far < near + np.float32(MARGIN))
            if positive != anchor and allowed.any():
                found.append((anchor, int(positive), int(negatives[np.where(allowed, far, np.inf).argmin()])))
    return found


def by_triplets(distances: torch.Tensor, labels: torch.Tensor) -> Found:
    """A plain loop over every triplet."""
    table, names = distances.tolist(), labels.tolist()
    limit = torch.tensor(MARGIN)
    found = []
    for anchor, row in enumerate(table):
        negatives = [place for place, name in enumerate(names) if name != names[anchor]]
        for positive, name in enumerate(names):
            if name != names[anchor] or positive == anchor:
                continue
            near, most = row[positive], float(distances[anchor, positive] + limit)
            best, place = most, -1
            for negative in negatives:
                if near < row[negative] < best:
                    best, place = row[negative], negative
            if place >= 0:
                found.append((anchor, positive, place))
    return found


def main() -> None:
    """Time all of them on the same batch and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="leave out the plain loop over triplets")
    quick = parser.parse_args().quick
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(45).repeat_interleave(40)
    centres = torch.randn(45, 128, generator=generator)
    embeddings = F.normalize(centres[labels] + 1.5 * torch.randn(1800, 128, generator=generator), dim=1)
    distances = squared_distances(embeddings, embeddings)
    sides: dict[str, Callable[[torch.Tensor, torch.Tensor], Found | Triplets]] = {
        "vectorised": ours,
        "loop over pairs": by_pairs,
    }
    if not quick:
        sides["loop over triplets"] = by_triplets
    results: dict[str, Found] = {}
    seconds: dict[str, float] = {}
    for name, mine in sides.items():
        rounds = 5 if name == "vectorised" else 1
        times = []
        for _ in range(rounds):
            started = time.perf_counter()
            mined = mine(distances, labels)
            times.append(time.perf_counter() - started)
        if isinstance(mined, Triplets):
            mined = list(zip(*(rows.tolist() for rows in mined), strict=True))
        results[name] = mined
        seconds[name] = min(times)
    first = results["vectorised"]
    print(f"{len(labels):,} embeddings of 45 identities, {len(first):,} semi-hard triplets")
    print(f"{'':20}{'seconds':>10}{'ratio':>9}  same triplets")
    for name, value in seconds.items():
        same = "yes" if results[name] == first else "NO"
        print(f"{name:20}{value:>10.3f}{value / seconds['vectorised']:>8.1f}x  {same}")


if __name__ == "__main__":
    main()
