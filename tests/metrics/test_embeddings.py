"""The numbers of embeddings: by hand, beside a plain reference, in several processes, and of broken ones."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch

from mnvision.annotations import LabelledPictures, PairedPictures, Pairs
from mnvision.metrics import identification
from mnvision.metrics.embeddings import IDENTIFICATION_NUMBERS, EmbeddingMetric
from mnvision.metrics.identification import identify
from mnvision.metrics.verification import VERIFICATION_NUMBERS
from mnvision.types import Labels, UserError


def names(count):
    return np.array([f"{i}.jpg".encode() for i in range(count)])


def split(labels, pairs=None):
    labels = np.array(labels, np.int64)
    classes = tuple(f"person {i}" for i in range(labels.max(initial=-1) + 1))
    if pairs is not None:
        columns = list(zip(*pairs, strict=True))
        first, second, folds = (np.array(columns[i], np.int64) for i in (0, 1, 3))
        pairs = Pairs(first, second, np.array(columns[2], bool), folds)
    return PairedPictures(names(len(labels)), labels, classes, pairs=pairs)


def fed(truth, embeddings, *, batch=3, threshold_from=None):
    metric = EmbeddingMetric(truth)
    metric.threshold_from = threshold_from
    for start in range(0, len(embeddings), batch):
        ids = torch.arange(start, min(start + batch, len(embeddings)))
        rows = torch.as_tensor(embeddings[start : start + batch], dtype=torch.float32)
        metric.update(rows, Labels(torch.as_tensor(truth.labels)[ids], ids))
    return metric


def on_circle(*degrees):
    angle = np.deg2rad(np.array(degrees, float))
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def random_problem(seed, *, people=12, most=5, width=6):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(people), rng.integers(1, most + 1, people))
    labels = np.append(labels, [-1, -1])
    centres = rng.normal(size=(people + 1, width))
    vectors = centres[labels] + rng.normal(size=(len(labels), width))
    order = rng.permutation(len(labels))
    return labels[order], vectors[order] / np.linalg.norm(vectors[order], axis=1, keepdims=True)


def slow_identify(vectors, labels):
    """Sort all others by similarity, walk down the list."""
    hits, precisions = [], []
    for query in range(len(labels)):
        others = [i for i in range(len(labels)) if i != query and labels[i] >= 0]
        if labels[query] < 0 or not any(labels[i] == labels[query] for i in others):
            continue
        others.sort(key=lambda i: (-float(vectors[query] @ vectors[i]), labels[i] == labels[query]))
        found, precision = 0, []
        for rank, i in enumerate(others, start=1):
            if labels[i] == labels[query]:
                found += 1
                precision.append(found / rank)
        hits.append(labels[others[0]] == labels[query])
        precisions.append(np.mean(precision))
    return len(hits), np.mean(hits), np.mean(precisions)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("cells", [1, 100, 10**6])
def test_identification_is_that_of_the_slow_reference(seed, cells):
    labels, vectors = random_problem(seed)
    vectors = vectors.astype(np.float32)
    found = identify(vectors, labels, cells=cells)
    queries, rank1, precision = slow_identify(vectors.astype(np.float64), labels)
    assert found.queries == queries
    assert found.rank1 == pytest.approx(rank1)
    assert found.mean_average_precision == pytest.approx(precision)
    assert 0.1 < rank1 < 1


def test_identification_by_hand():
    """Person 0 at 0, 10 and 50 degrees, person 1 at 40 and 48, person 2 at 200 alone."""
    found = identify(on_circle(0, 10, 50, 40, 48, 200).astype(np.float32), np.array([0, 0, 0, 1, 1, 2]))
    assert found.queries == 5
    # nearest: 0 -> 10, 10 -> 0, 50 -> 48 (wrong), 40 -> 48, 48 -> 50 (wrong)
    assert found.rank1 == pytest.approx(3 / 5)
    precisions = [(1 + 2 / 4) / 2, (1 + 2 / 4) / 2, (1 / 3 + 2 / 4) / 2, 1, 1 / 2]
    assert found.mean_average_precision == pytest.approx(np.mean(precisions))


@pytest.mark.parametrize("ranks", [2, 5, 100])
def test_processes_share_the_queries(monkeypatch, ranks):
    """Each looks for about as many, and all together give the numbers of one."""
    labels, vectors = random_problem(1)
    vectors = vectors.astype(np.float32)
    parts, alone = [], identify(vectors, labels)

    def gather(shard):
        parts.append(shard)
        return shard if len(parts[-1][0]) else (np.ones(1), np.ones(1))

    monkeypatch.setattr(identification, "gather_columns", gather)
    for rank in range(ranks):
        monkeypatch.setattr(identification, "rank_and_size", lambda rank=rank: (rank, ranks))
        assert identify(vectors, labels).queries == alone.queries
    sizes = [len(nearest) for nearest, _ in parts]
    assert sum(sizes) == alone.queries
    assert max(sizes) - min(sizes) <= 1
    nearest, precisions = (np.concatenate(column) for column in zip(*parts, strict=True))
    assert nearest.mean() == pytest.approx(alone.rank1)
    assert precisions.mean() == pytest.approx(alone.mean_average_precision)


def test_a_network_that_says_one_thing_finds_nothing():
    labels = np.repeat(np.arange(5), 2)
    found = identify(np.tile(np.float32([1, 0]), (10, 1)), labels)
    assert found.rank1 == 0
    assert found.mean_average_precision == pytest.approx(1 / 9)  # eight others come before the one


def test_nobody_to_find():
    found = identify(on_circle(0, 10).astype(np.float32), np.array([0, 1]))
    assert found.queries == 0
    assert fed(split([0, 1]), on_circle(0, 10)).compute() == {"rank1": -1.0, "map": -1.0}


# pairs

# squared distances of unit vectors: 2 - 2 cos; of 30 degrees 0.268, of 60 degrees 1, of 70 degrees 1.316
CIRCLE = on_circle(0, 30, 90, 120, 180, 250)
PEOPLE = [0, 0, 1, 1, 2, 2]
PAIRS = [
    *((0, 1, True, 0), (1, 2, False, 0)),
    *((2, 3, True, 1), (0, 4, False, 1)),
    *((4, 5, True, 2), (3, 4, False, 2)),
]


def test_verification_by_hand():
    metric = fed(split(PEOPLE, PAIRS), CIRCLE)
    numbers = metric.compute()
    assert tuple(numbers) == (*VERIFICATION_NUMBERS, *IDENTIFICATION_NUMBERS)
    # Folds 1 and 2 (same .268, 1.316; different 4, 1): 3 of 4 are right from .27 to 1, and fold 0 is right at .27.
    # Folds 0 and 2: .27 again, and fold 1 is right. Folds 0 and 1: .27, where fold 2's same pair at 1.316 is refused.
    assert numbers["accuracy"] == pytest.approx((1 + 1 + 0.5) / 3)
    assert numbers["accuracy_std"] == pytest.approx(np.std([1, 1, 0.5]))
    assert numbers["threshold"] == pytest.approx(0.27)
    # same .268 .268 1.316, different 1 4 1: nine comparisons, two of them wrong
    assert numbers["auc"] == pytest.approx(7 / 9)
    [wrong] = metric.hardest_pairs(10)
    assert wrong[:3] == (4, 5, True)
    assert (wrong.distance, wrong.threshold) == (pytest.approx(1.31596), pytest.approx(0.27))
    rows = metric.results()
    assert rows[0] == {"first": "0.jpg", "second": "1.jpg", "same": True, "distance": 0.267949, "fold": 1}
    json.dumps(rows)


def test_length_does_not_matter():
    one = fed(split(PEOPLE, PAIRS), CIRCLE).compute()
    other = fed(split(PEOPLE, PAIRS), CIRCLE * np.array([[1], [2], [0.1], [30], [1e-8], [1e8]])).compute()
    assert one == pytest.approx(other, abs=1e-6)


def test_the_worst_pairs_come_first():
    """Same pairs at 60, 120 and 180 degrees are wrong by more and more; nothing else is."""
    vectors = on_circle(0, 60, 0, 120, 0, 180, *[0, 5] * 8, *[0, 50] * 8)
    labels = np.arange(len(vectors)) // 2
    pairs = [(i, i + 1, i < 22, i // 2 % 2) for i in range(0, len(vectors), 2)]
    found = fed(split(labels, pairs), vectors).hardest_pairs(2)
    assert [(one.first, one.same) for one in found] == [(4, True), (2, True)]


def test_without_pairs_there_is_identification_alone():
    numbers = fed(split(PEOPLE), CIRCLE).compute()
    assert tuple(numbers) == IDENTIFICATION_NUMBERS
    plain = LabelledPictures(names(6), np.array(PEOPLE), ("a", "b", "c"))
    assert fed(plain, CIRCLE).compute() == numbers
    with pytest.raises(RuntimeError, match="no pairs"):
        fed(plain, CIRCLE).judged()


def test_one_fold_is_cut_in_order_or_judged_from_elsewhere():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(40), 2)
    vectors = rng.normal(size=(40, 8))[labels] + 0.6 * rng.normal(size=(80, 8))
    same = [(2 * i, 2 * i + 1, True, 9) for i in range(40)]
    different = [(2 * i, (2 * i + 2) % 80, False, 9) for i in range(40)]
    alone = fed(split(labels, same + different), vectors)
    ten = [(*pair[:3], i % 40 // 4) for i, pair in enumerate(same + different)]
    cut = fed(split(labels, ten), vectors)
    assert alone.compute() == cut.compute()
    assert 0.7 < alone.compute()["accuracy"] < 1
    other = fed(split(PEOPLE, PAIRS), CIRCLE)
    found = fed(split(labels, same + different), vectors, threshold_from=other.judged()).compute()
    # the threshold that suits the six pairs of the circle best
    assert found["threshold"] == pytest.approx(0.27)
    distances = alone.judged().distances
    assert found["accuracy"] == pytest.approx(((distances < 0.27) == alone.judged().same).mean())
    assert (found["accuracy_std"], found["accuracy_se"]) == (-1, -1)  # of one fold nobody knows
    # Of the circle's different pairs, at 1, 1 and 4, none is nearer than 1, and two of three are at 1.001: FAR 1e-3 is
    # reached at 1 + 0.001 * 1e-3 / (2 / 3) or hardly more.
    same = alone.judged().same
    assert found["val_at_far_1e-3"] == pytest.approx((distances[same] < 1.0000015).mean())
    assert found["val_at_far_1e-3_measured_far"] == pytest.approx((distances[~same] < 1.0000015).mean())
    assert alone.one_fold
    assert not cut.one_fold
    assert not fed(split(labels), vectors).one_fold


@pytest.mark.parametrize("broken", [np.nan, np.inf, 0.0])
def test_a_broken_embedding_is_wrong_in_every_pair(broken, caplog):
    vectors = CIRCLE.copy()
    vectors[4] = broken
    metric = fed(split(PEOPLE, PAIRS), vectors)
    numbers = metric.compute()
    # the pairs of picture 4, (0, 4), (4, 5) and (3, 4), are wrong whatever the threshold
    assert numbers["accuracy"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert all(0 <= value <= 4 for value in numbers.values())
    assert "1 of 6 embeddings are not finite, or zero, and count as wrong" in caplog.text
    worst = metric.hardest_pairs(10)
    assert {(one.first, one.second) for one in worst} == {(0, 4), (4, 5), (3, 4)}
    assert np.isnan(worst[0].distance)
    assert metric.results()[3]["distance"] is None
    # neither 4 nor 5 finds the other
    assert numbers["rank1"] == pytest.approx(4 / 6)


def test_all_broken_is_nothing_right():
    numbers = fed(split(PEOPLE, PAIRS), np.full((6, 2), np.nan)).compute()
    assert (numbers["accuracy"], numbers["auc"], numbers["eer"]) == (0, 0, 1)
    assert (numbers["rank1"], numbers["map"]) == (0, 0)


def test_what_did_not_arrive_is_left_out(caplog):
    metric = fed(split(PEOPLE, PAIRS), CIRCLE[:4])
    metric.compute()
    assert "4 pictures of 6: the others were not predicted, and 3 pairs are left out" in caplog.text
    assert len(metric.judged().same) == 3
    caplog.clear()
    metric.compute()
    assert caplog.text == ""  # once
    with caplog.at_level(logging.WARNING):
        empty = EmbeddingMetric(split(PEOPLE, PAIRS)).compute()
    assert set(empty.values()) == {-1.0}
    assert "0 pictures of 6" in caplog.text


def test_a_picture_counts_once():
    metric = fed(split(PEOPLE, PAIRS), CIRCLE)
    before = metric.compute()
    metric.update(torch.ones(1, 2), Labels(torch.tensor([0]), torch.tensor([0])))
    assert metric.compute() == before
    metric.reset()
    assert metric.embeddings()[0].tolist() == []


def test_what_cannot_be_embeddings_of_the_split():
    metric = EmbeddingMetric(split(PEOPLE))
    with pytest.raises(UserError, match=r"shape \[2, 4\], expected \[1, D\]"):
        metric.update(torch.ones(2, 4), Labels(torch.zeros(1), torch.zeros(1)))
    metric.update(torch.ones(1, 4), Labels(torch.zeros(1), torch.tensor([6])))
    with pytest.raises(UserError, match=r"image id 6 is outside 0\.\.5"):
        metric.compute()
    metric.reset()
    metric.update(torch.ones(1, 4), Labels(torch.zeros(1), torch.tensor([0])))
    metric.update(torch.ones(1, 3), Labels(torch.zeros(1), torch.tensor([1])))
    with pytest.raises(UserError, match=r"different widths, \[3, 4\]"):
        metric.compute()


def test_half_precision_is_read():
    metric = EmbeddingMetric(split(PEOPLE, PAIRS))
    metric.update(torch.as_tensor(CIRCLE).bfloat16(), Labels(torch.zeros(6), torch.arange(6)))
    assert metric.compute()["accuracy"] == pytest.approx((1 + 1 + 0.5) / 3)
    assert metric.embeddings()[1].dtype == np.float32


# several processes


def _work(rank, size, store, shards, folder):
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    metric = EmbeddingMetric(split(PEOPLE, PAIRS))
    ids = torch.tensor(shards[rank], dtype=torch.int64)
    if len(ids):
        metric.update(torch.as_tensor(CIRCLE[ids], dtype=torch.float32), Labels(torch.zeros(len(ids)), ids))
    early = ""
    try:
        metric.hardest_pairs(1)
    except RuntimeError as error:
        early = str(error)
    found = {"numbers": metric.compute(), "hardest": metric.hardest_pairs(3), "early": early}
    (folder / f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("shards", [[[0, 2, 4], [1, 3, 5]], [[0, 1, 2, 3, 4, 5], []], [[3, 5, 0, 0], [1, 2, 4, 3]]])
def test_two_processes_give_the_numbers_of_one(tmp_path, shards):
    torch.multiprocessing.spawn(_work, args=(2, tmp_path / "store", shards, tmp_path), nprocs=2)
    metric = fed(split(PEOPLE, PAIRS), CIRCLE)
    expected = {"numbers": metric.compute(), "hardest": [list(one) for one in metric.hardest_pairs(3)]}
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert "call compute() on every process first" in found.pop("early")
        assert found == expected


def test_taking_pictures_keeps_their_pairs():
    truth = split(PEOPLE, PAIRS)
    part = truth.take(np.array([5, 4, 1, 0]))
    assert type(part) is PairedPictures
    assert part.labels.tolist() == [2, 2, 0, 0]
    pairs = part.pairs
    assert list(zip(pairs.first.tolist(), pairs.second.tolist(), pairs.same.tolist(), strict=True)) == [
        (3, 2, True),
        (3, 1, False),
        (1, 0, True),
    ]
    assert pairs.folds.tolist() == [0, 1, 2]
    assert len(truth.take(np.array([True, True, False, False, True, True])).pairs) == 3
    assert truth.take(np.arange(2)).pairs.second.tolist() == [1]
    assert split(PEOPLE).take(np.arange(2)).pairs is None
