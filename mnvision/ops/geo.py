"""Places on the earth, taken as a sphere: distances, means, and the constant answers that a geolocator has to beat.

A place is its latitude and longitude in degrees, in this order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

EARTH_RADIUS = 6371.0  # km
FARTHEST = float(np.pi) * EARTH_RADIUS  # km, half way around
# Street, city, region, country and continent, in km: the distances of Im2GPS and PlaNet (arXiv:1602.05314, section 4).
DISTANCES = (1, 25, 200, 750, 2500)
_CANDIDATES, _JUDGES = 2_000, 20_000  # of ``best_constants``


def haversine(places: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Great-circle distances in km between places [..., 2] and others [..., 2], broadcast against each other.

    >>> round(float(haversine(np.array([0.0, 0.0]), np.array([0.0, 1.0]))), 6)
    111.194927
    """
    first, second = np.radians(places), np.radians(others)
    half = np.sin((second - first) / 2) ** 2  # [..., 2]
    inner = half[..., 0] + np.cos(first[..., 0]) * np.cos(second[..., 0]) * half[..., 1]
    return 2 * EARTH_RADIUS * np.arcsin(np.sqrt(np.minimum(inner, 1.0)))


def haversine_tensor(places: Tensor, others: Tensor) -> Tensor:
    """``haversine`` of tensors, on their device."""
    first, second = torch.deg2rad(places), torch.deg2rad(others)
    half = torch.sin((second - first) / 2) ** 2
    inner = half[..., 0] + torch.cos(first[..., 0]) * torch.cos(second[..., 0]) * half[..., 1]
    return 2 * EARTH_RADIUS * torch.arcsin(inner.clamp(0.0, 1.0).sqrt())


def to_vectors(places: np.ndarray) -> np.ndarray:
    """Unit vectors [..., 3] of places [..., 2]."""
    latitude, longitude = np.radians(places[..., 0]), np.radians(places[..., 1])
    columns = (np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude))
    return np.stack(columns, axis=-1)


def to_places(vectors: np.ndarray) -> np.ndarray:
    """Places [..., 2] of vectors [..., 3] of any length but 0; longitudes from -180 to 180."""
    x, y, z = np.moveaxis(vectors, -1, 0)
    return np.degrees(np.stack((np.arctan2(z, np.hypot(x, y)), np.arctan2(y, x)), axis=-1))


def mean_places(places: np.ndarray, groups: np.ndarray, *, count: int) -> np.ndarray:
    """The mean on the sphere of each group of places: the direction of the sum of their unit vectors.

    Unlike a mean of degrees it holds across the 180th meridian and at the poles.

    Args:
        places: [N, 2].
        groups: int [N], 0..count-1; -1 for places that are in none.
        count: Groups.

    Returns:
        float64 [count, 2]; NaN where a group is empty, or its places cancel each other out.

    >>> mean_places(np.array([[0.0, 179.0], [0.0, -177.0]]), np.array([0, 0]), count=1).round(3).tolist()
    [[0.0, -179.0]]
    """
    kept = groups >= 0
    vectors = to_vectors(places[kept])
    sums = np.stack([np.bincount(groups[kept], weights=column, minlength=count) for column in vectors.T], axis=-1)
    sums[np.linalg.norm(sums, axis=-1) < 1e-9] = np.nan
    return to_places(sums)


def best_constants(places: np.ndarray, *, distances: Sequence[float] = DISTANCES, seed: int = 0) -> np.ndarray:
    """For each distance, the one place that most of the places are within: what to beat without looking at pictures.

    Best among at most 2,000 of the places themselves, judged on at most 20,000 of them, both drawn by the seed: an
    approximation from below where there are more. The order in which they are given does not matter.

    Args:
        places: [N, 2], N at least 1; those of the training pictures.
        distances: D of them, in km.
        seed: See above.

    Returns:
        float64 [D, 2].
    """
    places = places[np.lexsort(places.T)]
    order = np.random.default_rng(seed).permutation(len(places))
    candidates, judges = places[order[:_CANDIDATES]], places[order[:_JUDGES]]
    vectors = to_vectors(judges).T  # [3, J]
    # On the unit sphere, nearer than d km means a scalar product above cos(d / R); the smallest, 1 - 1.2e-8, fits.
    limits = np.cos(np.minimum(np.array(distances) / EARTH_RADIUS, np.pi))
    counts = np.zeros((len(distances), len(candidates)), dtype=np.int64)
    for start in range(0, len(candidates), 200):
        products = to_vectors(candidates[start : start + 200]) @ vectors  # [200, J]
        for row, limit in enumerate(limits):
            counts[row, start : start + 200] = (products >= limit).sum(axis=1)
    return candidates[counts.argmax(axis=1)]
