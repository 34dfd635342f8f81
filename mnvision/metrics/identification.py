"""How well a picture finds those of its own identity among all others: a gallery in which each is asked for in turn."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mnvision.metrics.gathering import gather_columns
from mnvision.ops.processes import rank_and_size

_CELLS = 16_000_000  # similarities in memory at a time: 64 MB


class Identification(NamedTuple):
    """What was found, over the queries: the pictures whose identity has another picture.

    Attributes:
        queries: How many there are.
        rank1: Share of the queries whose nearest neighbour is of their identity; NaN without queries.
        mean_average_precision: Mean over the queries of the average precision; likewise.
    """

    queries: int
    rank1: float
    mean_average_precision: float


def identify(embeddings: np.ndarray, labels: np.ndarray, *, cells: int = _CELLS) -> Identification:
    """Leave one out: each picture with a companion is looked for among all other pictures.

    The average precision of a query is the mean, over the n pictures of its identity, of the share of its identity
    among all pictures that come no later. Of equal similarities those of another identity come first, so that a network
    that says the same of all pictures finds nothing.

    With several processes all must call it, with the same embeddings: each looks for a part of the queries, and all get
    the same numbers.

    Args:
        embeddings: float32 [I, D] of unit length; one that is not finite finds nothing, and is found last.
        labels: int64 [I], the identities; pictures of -1 take no part.
        cells: The most similarities to keep in memory.

    Returns:
        Rank 1 and mean average precision.
    """
    known = np.flatnonzero(labels >= 0)
    order = known[np.argsort(labels[known], kind="stable")]  # the pictures of an identity stand together
    vectors, labels = embeddings[order], labels[order]
    finite = np.isfinite(vectors).all(axis=1)
    vectors = np.where(finite[:, None], vectors, 0)
    _, starts, counts = np.unique(labels, return_index=True, return_counts=True)
    first, count = np.repeat(starts, counts), np.repeat(counts, counts)  # [I]: of the identity of each picture
    queries = np.flatnonzero(count > 1)
    if not len(queries):
        return Identification(0, float("nan"), float("nan"))
    rank, ranks = rank_and_size()
    mine = np.array_split(queries, ranks)[rank]
    nearest, precisions = np.zeros(len(mine), bool), np.zeros(len(mine))  # of each query
    step = max(1, cells // len(vectors))
    for start in range(0, len(mine), step):
        rows = mine[start : start + step]
        similar = vectors[rows] @ vectors.T  # [Q, I]
        similar[:, ~finite] = -2.0
        similar[np.arange(len(rows)), rows] = -np.inf  # a picture does not find itself
        own = [similar[i, first[row] : first[row] + count[row]].copy() for i, row in enumerate(rows.tolist())]
        similar.sort(axis=1)
        for i, row in enumerate(rows.tolist()):
            if not finite[row]:
                continue
            wanted = np.sort(own[i])[:0:-1]  # best first, without the query itself
            # How many are at least as near as each: of all pictures, and of the identity's own.
            all_before = len(vectors) - np.searchsorted(similar[i], wanted)
            own_before = len(wanted) - np.searchsorted(wanted[::-1], wanted)
            rank_of = np.arange(1, len(wanted) + 1)
            precision = rank_of / (rank_of + all_before - own_before)
            nearest[start + i], precisions[start + i] = precision[0] == 1, precision.mean()
    nearest, precisions = gather_columns((nearest, precisions))
    return Identification(len(queries), float(nearest.mean()), float(precisions.mean()))
