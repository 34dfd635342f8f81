"""Loaders of a split: who gets which picture in which epoch, by how many processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from mnvision.ops.processes import rank_and_size
from mnvision.types import Batch

_TINY = 100  # pictures; below this, starting workers takes longer than they save


def make_loader(
    dataset: Dataset,
    *,
    training: bool,
    batch_size: int,
    num_workers: int | None,
    seed: int,
    collate: Callable[[Any], Batch],
    weights: np.ndarray | None = None,
    sampler: DistributedSampler | None = None,
) -> DataLoader:
    """The loader of a data set whose items are asked for by ``(epoch, index)``.

    Args:
        dataset: Has a length, and ``report_bad_images()``.
        training: Shuffled, and the last, smaller batch is dropped unless it is the only one; else in file order.
        batch_size: Pictures in a batch, on each process.
        num_workers: Processes that load; None picks one less than there are processors, at least 1 and at most 4, and
            none for a tiny data set.
        seed: Of the order.
        collate: From items to a batch.
        weights: float [I], how often each picture is drawn in training, in relation to the others; None: each once.
        sampler: Who gets which picture, ``(epoch, index)``; None takes an `EpochSampler`.
    """
    count = len(dataset)  # type: ignore[arg-type]
    if sampler is None:
        rank, ranks = rank_and_size()
        shares = weights if training else None
        sampler = EpochSampler(count, shuffle=training, seed=seed, ranks=ranks, rank=rank, weights=shares)
    workers = auto_workers(count) if num_workers is None else num_workers
    return Loader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        drop_last=training and len(sampler) > batch_size,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        worker_init_fn=start_worker,
    )


class EpochSampler(DistributedSampler):
    """Indices together with their epoch: yields ``(epoch, index)``, each rank its own part.

    Sending the epoch with each index reaches persistent workers without any shared state. The order is drawn from
    (seed, epoch). It derives from `DistributedSampler` because Lightning leaves such a sampler alone and tells it the
    epoch.

    Args:
        size: Number of pictures.
        shuffle: True, for training: a new order every epoch, and ranks get equal parts without overlap (the last few
            pictures that cannot be dealt out evenly wait for another epoch). False, for evaluation: file order, every
            picture at least once, a few twice so that ranks get equally many.
        seed: Of the order.
        ranks: Number of processes that share the pictures.
        rank: This process.
        weights: float [size], not negative: pictures are drawn with replacement in these proportions instead, as many
            as there are.
    """

    def __init__(
        self,
        size: int,
        *,
        shuffle: bool,
        seed: int = 0,
        ranks: int = 1,
        rank: int = 0,
        weights: np.ndarray | None = None,
    ):
        super().__init__(
            range(size),  # type: ignore[arg-type]
            num_replicas=ranks,
            rank=rank,
            shuffle=shuffle,
            seed=seed,
            drop_last=shuffle and size >= ranks,
        )
        self.size = size
        self.shares = None if weights is None else weights / weights.sum()

    def __iter__(self) -> Iterator[tuple[int, int]]:
        size, epoch = self.size, self.epoch
        rng = np.random.default_rng((self.seed, epoch))
        if self.shares is not None:
            order = rng.choice(size, size=size, p=self.shares)
        else:
            order = rng.permutation(size) if self.shuffle else np.arange(size)
        dealt = np.resize(order, self.total_size)[self.rank :: self.num_replicas]
        return iter([(epoch, index) for index in dealt.tolist()])


class Loader(DataLoader):
    """A loader that starts to prefetch when the first batch is asked for, and reports skipped pictures at the end.

    Lightning makes the iterator of the first epoch after a resume before it has told the sampler which epoch that is;
    workers that prefetch at once would repeat an old epoch.
    """

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        try:
            yield from super().__iter__()
        finally:
            self.dataset.report_bad_images()  # type: ignore[attr-defined]


def auto_workers(pictures: int) -> int:
    """How many loading processes suit this machine and data set: one processor is left for the training itself."""
    if pictures < _TINY:
        return 0
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(4, max(1, available - 1))


def start_worker(worker: int) -> None:
    """One thread a worker: OpenCV's own pool would fight over the processors and can hang after a fork."""
    cv2.setNumThreads(0)
