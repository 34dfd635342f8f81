"""The search of ``index`` by FAISS: the same results from all processors, for many pictures looked for at once."""

from __future__ import annotations

from typing import Any

import numpy as np

from mnvision.errors import UserError


def prepare(vectors: np.ndarray) -> Any:
    """Vectors float32 [I, D] as ``nearest`` takes them: copied into memory.

    Raises:
        UserError: FAISS is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise UserError(
            "backend=faiss needs the package faiss-cpu: pip install mnvision[search], or take backend=numpy"
        ) from error
    prepared = faiss.IndexFlatIP(vectors.shape[1])
    prepared.add(np.ascontiguousarray(vectors, dtype=np.float32))
    return prepared


def nearest(prepared: Any, queries: np.ndarray, *, count: int) -> tuple[np.ndarray, np.ndarray]:
    """See ``mnvision.index.nearest``."""
    count = min(count, prepared.ntotal)
    similar, places = prepared.search(np.ascontiguousarray(queries, dtype=np.float32), count)
    return similar, places.astype(np.int64)
