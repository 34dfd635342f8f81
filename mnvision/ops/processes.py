"""The processes of a distributed run."""

from __future__ import annotations

from torch import distributed


def rank_and_size() -> tuple[int, int]:
    """This process and how many there are; (0, 1) without torch.distributed."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1
