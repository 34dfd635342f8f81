"""Batches of P identities with K pictures each."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from mnvision.data.identity_sampler import IdentitySampler
from mnvision.errors import UserError

# 530 pictures of one, 1 of most: as uneven as LFW.
LABELS = np.repeat(np.arange(40), [90, 41, 17, 8, *[4] * 6, *[2] * 10, *[1] * 20])


def batches(sampler: IdentitySampler, size: int) -> list[list[int]]:
    rows = list(sampler)
    assert len(rows) == len(sampler)
    assert len(rows) % size == 0
    return [[index for _, index, _ in rows[start : start + size]] for start in range(0, len(rows), size)]


@pytest.mark.parametrize("labels", [LABELS, np.random.default_rng(0).permutation(LABELS)])
def test_every_batch_has_p_identities_with_k_pictures(labels):
    sampler = IdentitySampler(labels, batch_size=16, per_identity=4, seed=3)
    found = batches(sampler, 16)
    assert len(found) > 10
    for batch in found:
        assert sorted(Counter(labels[batch].tolist()).values()) == [4, 4, 4, 4]
    # The few pictures of an identity are all used before one is repeated.
    for batch in found:
        for label, rows in Counter(labels[batch].tolist()).items():
            there = int((labels == label).sum())
            assert len({row for row in batch if labels[row] == label}) == min(rows, there)


def test_repeats_of_a_picture_are_told_apart():
    rows = list(IdentitySampler(LABELS, batch_size=16, per_identity=4, seed=3))
    assert len({(index, repeat) for _, index, repeat in rows}) == len(rows)
    often = Counter(index for _, index, _ in rows)
    lone = [index for index in often if (LABELS[index] == LABELS).sum() == 1]
    assert lone
    assert all(sorted(repeat for _, row, repeat in rows if row == index) == [0, 1, 2, 3] for index in lone)
    assert {repeat for _, index, repeat in rows if (LABELS[index] == LABELS).sum() == 8} == {0}  # two whole groups


def test_epochs_differ_and_repeat():
    def rows(epoch: int, seed: int = 0) -> list:
        sampler = IdentitySampler(LABELS, batch_size=16, per_identity=4, seed=seed)
        sampler.set_epoch(epoch)
        return [index for _, index, _ in sampler]

    assert rows(0) == rows(0)
    assert rows(0) != rows(1)
    assert rows(0) != rows(0, seed=1)
    sampler = IdentitySampler(LABELS, batch_size=16, per_identity=4)
    sampler.set_epoch(7)
    assert {epoch for epoch, *_ in sampler} == {7}
    seen = set().union(*(rows(epoch) for epoch in range(40)))
    assert seen == set(range(len(LABELS)))


def test_ranks_share_an_epoch():
    alone = IdentitySampler(LABELS, batch_size=8, per_identity=2)
    parts = [IdentitySampler(LABELS, batch_size=8, per_identity=2, ranks=2, rank=rank) for rank in range(2)]
    found = [batches(part, 8) for part in parts]
    assert len(found[0]) == len(found[1]) == len(batches(alone, 8)) // 2
    rows = [(index, repeat) for part in parts for _, index, repeat in part]
    assert len(set(rows)) == len(rows)  # no rank has what another one has
    for batch in (*found[0], *found[1]):
        assert sorted(Counter(LABELS[batch].tolist()).values()) == [2, 2, 2, 2]


def test_unknown_identities_are_left_out():
    labels = np.where(np.arange(len(LABELS)) % 3 == 0, -1, LABELS)
    found = batches(IdentitySampler(labels, batch_size=8, per_identity=2), 8)
    assert (labels[np.concatenate(found)] >= 0).all()


@pytest.mark.parametrize(
    ("labels", "size", "message"),
    [
        (LABELS, 18, "data.batch_size=18; give a multiple of 4"),
        (LABELS, 4, "at least two identities"),
        (np.array([0, 0, 1, 1]), 16, "need 4 identities each, and the training pictures have 2"),
        (np.full(9, -1), 16, "have 0"),
    ],
)
def test_too_few(labels, size, message):
    with pytest.raises(UserError, match=message):
        IdentitySampler(labels, batch_size=size, per_identity=4)
