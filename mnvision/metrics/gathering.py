"""What metrics share: the arrays of all processes as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed

from mnvision.ops.processes import rank_and_size


def gather_columns(shard: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """Each array of this process followed by those of the others, in the order of the processes."""
    shards: list[Any] = [shard]
    _, size = rank_and_size()
    if size > 1:
        # One collective, whatever a process holds: an empty shard must not leave the others waiting.
        shards = shards * size
        distributed.all_gather_object(shards, shard)
    return tuple(np.concatenate(column) for column in zip(*shards, strict=True))


def joined(tensors: Sequence[Tensor], *, empty: np.ndarray) -> np.ndarray:
    """The tensors of all batches as one array; ``empty`` where there were none."""
    return torch.cat(list(tensors)).cpu().numpy() if tensors else empty
