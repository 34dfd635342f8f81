"""The search of ``index.nearest`` by FAISS: the same results from all processors, for large indices."""

from __future__ import annotations

import numpy as np

from mnvision.errors import UserError


def nearest(vectors: np.ndarray, queries: np.ndarray, *, count: int) -> tuple[np.ndarray, np.ndarray]:
    """See ``mnvision.index.nearest``; the index is copied into memory.

    Raises:
        UserError: FAISS is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise UserError(
            "backend=faiss needs the package faiss-cpu: pip install mnvision[search], or take backend=numpy"
        ) from error
    count = min(count, len(vectors))
    searched = faiss.IndexFlatIP(vectors.shape[1])
    searched.add(np.ascontiguousarray(vectors, dtype=np.float32))
    similar, places = searched.search(np.ascontiguousarray(queries, dtype=np.float32), count)
    return similar, places.astype(np.int64)
