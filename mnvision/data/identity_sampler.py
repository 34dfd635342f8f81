"""Batches of P identities with K pictures each, so that every picture meets others of its identity."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import DistributedSampler

from mnvision.errors import UserError


class IdentitySampler(DistributedSampler):
    """Indices with their epoch, ``(epoch, index, repeat)``, whose every ``batch_size`` in a row are P identities.

    In an epoch the pictures of each identity are dealt out in groups of K; the last group of an identity is filled up
    with more of its pictures, the same ones again where there are fewer than K. ``repeat`` counts these, from 0 on, so
    that each can be augmented by itself: a picture and its exact copy would teach nothing (a training that shows a few
    views in turn, ``task.teacher_views``, has no batches of identities for that). No identity comes twice in a
    batch: of one that has more groups than there are batches, some pictures wait for another epoch, as do a few last
    groups that make no whole batch. Pictures without an identity are left out. The order is drawn from (seed, epoch).
    Each rank gets batches of its own, equally many.

    Args:
        labels: int64 [I], the identity of each picture; -1 is not known.
        batch_size: P * K, on each rank.
        per_identity: K.
        seed: Of the order.
        ranks: Number of processes that share the pictures.
        rank: This process.

    Raises:
        UserError: If the batch is no multiple of K, or there are too few identities for it.
    """

    def __init__(
        self, labels: np.ndarray, *, batch_size: int, per_identity: int, seed: int = 0, ranks: int = 1, rank: int = 0
    ) -> None:
        super().__init__(range(len(labels)), num_replicas=ranks, rank=rank, seed=seed)  # type: ignore[arg-type]
        if batch_size % per_identity or batch_size < 2 * per_identity:
            raise UserError(
                f"data.per_identity={per_identity}: expected batches of at least two identities with so many pictures "
                f"each, got data.batch_size={batch_size}; give a multiple of {per_identity} as data.batch_size"
            )
        order = np.argsort(labels, kind="stable")
        order = order[labels[order] >= 0]
        starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
        self.identities = np.split(order, starts[1:]) if len(order) else []
        self.at_once, self.per_identity = batch_size // per_identity, per_identity
        groups = np.array([-(-len(rows) // per_identity) for rows in self.identities], dtype=np.int64)
        batches = int(groups.sum()) // self.at_once
        while batches and (most := int(np.minimum(groups, batches).sum()) // self.at_once) < batches:
            batches = most
        self.batches = batches // ranks  # of each rank
        if not self.batches:
            raise UserError(
                f"data.per_identity={per_identity}: batches of {batch_size} pictures on {ranks} processes need "
                f"{self.at_once} identities each, and the training pictures have {len(self.identities)}; give a "
                "smaller data.batch_size"
            )

    def __len__(self) -> int:
        """Pictures of an epoch on this rank."""
        return self.batches * self.at_once * self.per_identity

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        everywhere = self.batches * self.num_replicas
        groups: list[np.ndarray] = []
        for identity in rng.permutation(len(self.identities)).tolist():
            rows = rng.permutation(self.identities[identity])
            whole = -(-len(rows) // self.per_identity)
            places = np.arange(whole * self.per_identity)
            repeats, turns = np.divmod(places, len(rows))
            groups += np.split(np.stack((rows[turns], repeats), axis=1), whole)[:everywhere]
        # Dealt out like cards: an identity's groups, at most as many as there are batches, go to different ones.
        batches = [groups[place : everywhere * self.at_once : everywhere] for place in range(everywhere)]
        mine = rng.permutation(everywhere)[self.rank :: self.num_replicas].tolist()
        rows = np.concatenate([group for place in mine for group in batches[place]])
        return iter([(self.epoch, index, repeat) for index, repeat in rows.tolist()])
