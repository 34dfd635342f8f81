from __future__ import annotations

import re

import numpy as np
import pytest

from mnvision.annotations import LabelledPictures
from mnvision.data.pairs import make_pairs, read_pair_list, refuse_shared_identities, shared_identities
from mnvision.errors import UserError

LABELS = np.repeat(np.arange(60), np.arange(60) % 7 + 1)
GOLDEN = [
    (67, 69, True),
    (215, 216, True),
    (222, 63, False),
    (0, 112, False),
    (133, 134, True),
    (88, 89, True),
    (34, 142, False),
    (47, 141, False),
]


def pictures(labels, classes):
    names = np.array([f"{i}.jpg".encode() for i in range(len(labels))])
    return LabelledPictures(names, np.array(labels), tuple(classes))


def together(pairs):
    return list(zip(pairs.first.tolist(), pairs.second.tolist(), pairs.same.tolist(), strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_made_pairs_say_what_the_labels_say(seed):
    labels = np.random.default_rng(seed).permutation(np.append(LABELS, [-1, -1]))
    pairs = make_pairs(labels, count=400, folds=5, seed=seed)
    assert (pairs.first.dtype, pairs.same.dtype, pairs.folds.dtype) == (np.int64, np.bool_, np.int64)
    np.testing.assert_array_equal(labels[pairs.first] == labels[pairs.second], pairs.same)
    assert (pairs.first != pairs.second).all()
    assert (labels[pairs.first] >= 0).all()
    assert len({frozenset(pair[:2]) for pair in together(pairs)}) == len(pairs)
    for fold in range(5):
        assert pairs.same[pairs.folds == fold].sum() == (~pairs.same[pairs.folds == fold]).sum() == 40
    # nobody is in two folds
    folds_of = {}
    for places in (pairs.first, pairs.second):
        for place, fold in zip(places.tolist(), pairs.folds.tolist(), strict=True):
            folds_of.setdefault(labels[place], set()).add(fold)
    assert set(map(len, folds_of.values())) == {1}
    assert len(folds_of) > 50


def test_the_same_pairs_everywhere():
    """These were drawn once: another machine, or another version of NumPy, has to draw them again."""
    pairs = make_pairs(LABELS, count=8, folds=2, seed=0)
    assert together(pairs) == together(make_pairs(LABELS, count=8, folds=2, seed=0))
    assert together(pairs) != together(make_pairs(LABELS, count=8, folds=2, seed=1))
    assert together(pairs) == GOLDEN


def test_there_are_no_more_pairs_than_there_are():
    """Two people of two pictures and one of three: folds of one and two of them."""
    labels = np.array([0, 0, 1, 1, 2, 2, 2])
    pairs = make_pairs(labels, count=1000, folds=1)
    # five same pairs in all: 1 + 1 + 3; of different ones there are more
    assert (pairs.same.sum(), (~pairs.same).sum()) == (5, 5)
    assert make_pairs(labels, count=6, folds=10).folds.max() == 0  # two folds would need four people
    assert len(make_pairs(np.repeat(np.arange(500), 20), count=100_000)) == 100_000


def test_who_has_many_pictures_is_in_no_more_pairs():
    labels = np.concatenate([np.zeros(500, np.int64), np.repeat(np.arange(1, 41), 20)])
    pairs = make_pairs(labels, count=2000, folds=1)
    of_first = (labels[pairs.first[pairs.same]] == 0).mean()
    assert of_first == pytest.approx(1 / 41, abs=0.015)


@pytest.mark.parametrize("labels", [[], [0, 1, 2], [0, 0, 0], [-1, -1, 0, 0]])
def test_no_pairs_can_be_made(labels):
    with pytest.raises(UserError, match=r"my data: no pairs can be made of \d identities, of which \d have two"):
        make_pairs(np.array(labels, np.int64), name="my data")


# lists

TWO = pictures([0, 0, 1, 1], ["a", "b"])


def test_reads_a_list(tmp_path):
    file = tmp_path / "pairs.csv"
    file.write_text("same;first;second;fold\n1;0.jpg;1.jpg;3\nno;2.jpg;1.jpg;3\nSame;3.jpg;2.jpg;7\n0;0.jpg;3.jpg;7\n")
    pairs = read_pair_list(file, TWO)
    assert together(pairs) == [(0, 1, True), (2, 1, False), (3, 2, True), (0, 3, False)]
    assert pairs.folds.tolist() == [0, 0, 1, 1]
    file.write_text("﻿first,second,same\n0.jpg,1.jpg,1\n3.jpg,2.jpg,1\n2.jpg,1.jpg,0\n\n0.jpg,3.jpg,0\n")
    assert read_pair_list(file, TWO).folds.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "first,second\n",
            "has no column 'same' in its first line, a header. Its columns: first, second. Expected first, second, s",
        ),
        ("first,second,same\n", "names no pair below its first line"),
        ("first,second,same\n0.jpg,1.jpg,1\n0.jpg,9.jpg,1\n", "line 3 names '9.jpg', which is no picture of the split"),
        ("first,second,same\n0.jpg,0.jpg,1\n", "line 2 pairs '0.jpg' with itself"),
        ("first,second,same\n0.jpg,1.jpg,maybe\n", "line 2 has 'maybe' for same; expected 1 or 0"),
        ("first,second,same\n0.jpg,1.jpg\n", "line 2 has 2 cells, expected 3"),
        ("first,second,same,fold\n0.jpg,1.jpg,1,x\n", "line 2 has the fold 'x'; expected a whole number"),
        (
            "first,second,same,fold\n0.jpg,1.jpg,1,1\n2.jpg,1.jpg,0,1\n1.jpg,0.jpg,1,2\n",
            "line 4 lists the pair of line 2 again. Expected every pair once",
        ),
        ("first,second,same\n0.jpg,1.jpg,1\n2.jpg,3.jpg,1\n", "calls every pair same. Expected different ones as well"),
        ("first,second,same\n0.jpg,2.jpg,0\n", "calls every pair different. Expected same ones as well"),
    ],
)
def test_what_is_wrong_with_a_list(tmp_path, text, message):
    file = tmp_path / "pairs.csv"
    file.write_text(text)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        read_pair_list(file, TWO)
    assert str(error.value).startswith(str(file))


def test_a_list_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="list of pairs not found"):
        read_pair_list(tmp_path / "none.csv", TWO)


# who is in two splits


def test_shared_identities_are_found_by_name(caplog):
    assert shared_identities(["Ann Veneman", "Zico"], ["ann_veneman", "Zico ", "Zoe"]) == ["ann_veneman", "Zico "]
    train = ("Ann_Veneman", "Zico")
    test = pictures([0, 1, 2, 2], ["Woody Allen", "zico", "Zoe", "Ann Veneman"])  # of whom there is no picture
    with pytest.raises(UserError, match=r"faces: 1 of its 3 identities were trained on, such as zico\..*allow_overlap"):
        refuse_shared_identities(train, test, name="my faces")
    refuse_shared_identities(train, test, name="my faces", allowed=True)
    assert "1 of its 3 identities" in caplog.text
    refuse_shared_identities(["Woody_Harrelson"], test, name="my faces")
