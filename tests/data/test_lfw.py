"""LFW's files: read right, split without anybody in two parts, and refused with the line where they are wrong."""

from __future__ import annotations

import re
import tarfile

import numpy as np
import pytest

from mnvision.data.lfw import list_faces, read_lfw, read_pairs
from mnvision.errors import UserError

PEOPLE = {"Ann": 3, "Bob": 2, "Cid": 2, "Dan_O": 2, "Eve": 3, "Fay": 1, "Gus": 2, "Hal": 4, "Ida": 1, "Joe": 2}
PAIRS = """2\t2
Ann\t1\t3
Bob\t1\t2
Ann\t2\tBob\t1
Cid\t1\tAnn\t3
Dan_O\t1\t2
Eve\t2\t3
Dan_O\t1\tEve\t1
Eve\t3\tFay\t1
"""


@pytest.fixture
def lfw(tmp_path):
    for name, count in PEOPLE.items():
        (tmp_path / "lfw" / name).mkdir(parents=True)
        for number in range(1, count + 1):
            (tmp_path / "lfw" / name / f"{name}_{number:04d}.jpg").touch()
    (tmp_path / "lfw" / "readme.txt").touch()
    (tmp_path / "lfw" / "Ann" / "notes.jpg").touch()
    (tmp_path / "pairs.txt").write_text(PAIRS)
    return tmp_path / "lfw", tmp_path / "pairs.txt"


def told(pictures):
    """The pairs by file name."""
    name, pairs = pictures.file_name, pictures.pairs
    columns = (pairs.first.tolist(), pairs.second.tolist(), pairs.same.tolist(), pairs.folds.tolist())
    return [(name(a), name(b), same, fold) for a, b, same, fold in zip(*columns, strict=True)]


def test_reads_the_protocol(lfw):
    protocol = read_pairs(lfw[1])
    assert [tuple(map(str, pair)) for pair in protocol.pairs[:3]] == [
        ("Ann/Ann_0001", "Ann/Ann_0003"),
        ("Bob/Bob_0001", "Bob/Bob_0002"),
        ("Ann/Ann_0002", "Bob/Bob_0001"),
    ]
    assert protocol.same.tolist() == [True, True, False, False] * 2
    assert protocol.folds.tolist() == [0] * 4 + [1] * 4
    assert protocol.lines.tolist() == list(range(2, 10))


def test_one_fold_has_one_number_in_its_first_line(lfw):
    lines = PAIRS.splitlines()
    lfw[1].write_text("\n".join(["2", *lines[1:5]]))
    protocol = read_pairs(lfw[1])
    assert (len(protocol.pairs), set(protocol.folds.tolist())) == (4, {0})


def test_the_test_split_has_the_pairs_of_the_folds(lfw):
    whole = read_lfw(*lfw, "test", test_folds=(1, 2))
    assert told(whole)[0] == ("Ann/Ann_0001.jpg", "Ann/Ann_0003.jpg", True, 0)
    assert told(whole)[-1] == ("Eve/Eve_0003.jpg", "Fay/Fay_0001.jpg", False, 1)
    second = read_lfw(*lfw, "test", test_folds=[2])
    assert told(second) == told(whole)[4:]
    assert second.classes == ("Dan_O", "Eve", "Fay")
    assert [second.file_name(i) for i in range(len(second))] == [
        *("Dan_O/Dan_O_0001.jpg", "Dan_O/Dan_O_0002.jpg"),
        *("Eve/Eve_0001.jpg", "Eve/Eve_0002.jpg", "Eve/Eve_0003.jpg", "Fay/Fay_0001.jpg"),
    ]
    assert second.labels.tolist() == [0, 0, 1, 1, 1, 2]


def test_nobody_is_in_two_splits(lfw):
    splits = [read_lfw(*lfw, split, test_folds=[2], val_share=0.4) for split in ("train", "val", "test")]
    people = [set(split.classes) for split in splits]
    assert people[0] | people[1] == {"Ann", "Bob", "Cid", "Gus", "Hal", "Ida", "Joe"}
    assert people[2] == {"Dan_O", "Eve", "Fay"}
    assert not people[0] & people[1]
    assert len(people[1]) == 2  # 0.4 of the six with several pictures, rounded; the last one alone is never held out
    train, val, _ = splits
    assert train.pairs is None
    # all pictures of each, not those in pairs alone
    assert {name: int((train.labels == k).sum()) for k, name in enumerate(train.classes)} == {
        name: PEOPLE[name] for name in train.classes
    }
    assert len(val.pairs) >= 2
    np.testing.assert_array_equal(val.labels[val.pairs.first] == val.labels[val.pairs.second], val.pairs.same)
    other = read_lfw(*lfw, "val", test_folds=[2], val_share=0.4, seed=1)
    assert told(other) != told(val)
    assert told(read_lfw(*lfw, "val", test_folds=[2], val_share=0.4)) == told(val)


def test_some_people_are_trained_on(lfw):
    chosen = ["Ann", "Bob", "Gus", "Hal"]
    splits = [read_lfw(*lfw, split, test_folds=[2], classes=chosen, val_share=0.5) for split in ("train", "val")]
    assert sorted(name for split in splits for name in split.classes) == chosen
    assert read_lfw(*lfw, "test", test_folds=[2], classes=chosen).classes == ("Dan_O", "Eve", "Fay")
    with pytest.raises(UserError, match="there is no class 'Anne', which data.classes asks for. The nearest: Ann"):
        read_lfw(*lfw, "train", test_folds=[2], classes=["Anne", "Bob"])
    with pytest.raises(
        UserError, match="data.classes: Eve is in pairs of the test folds 2. Expected people who are not"
    ):
        read_lfw(*lfw, "train", test_folds=[2], classes=["Ann", "Bob", "Eve"])


def test_the_whole_protocol_leaves_those_in_no_pair(lfw):
    assert set(read_lfw(*lfw, "train", test_folds=(1, 2), val_share=0.5).classes) <= {"Gus", "Hal", "Ida", "Joe"}
    lfw[1].write_text("1\t2\nAnn\t1\t2\nBob\t1\t2\nAnn\t1\tBob\t1\nAnn\t1\tBob\t2\n")
    for name in set(PEOPLE) - {"Ann", "Bob", "Ida"}:
        for file in (lfw[0] / name).iterdir():
            file.unlink()
    with pytest.raises(UserError, match="1 of the 3 people in .*lfw are in no pair of the test folds 1, so that there"):
        read_lfw(*lfw, "train", test_folds=[1])


def test_reads_an_archive(lfw, tmp_path, monkeypatch):
    monkeypatch.setenv("MNVISION_CACHE", str(tmp_path / "cache"))
    with tarfile.open(tmp_path / "lfw.tar", "w") as tar:
        for name in PEOPLE:
            tar.add(lfw[0] / name, arcname=name)
    folder, pictures = list_faces(tmp_path / "lfw.tar")
    assert folder != lfw[0]
    assert len(pictures) == sum(PEOPLE.values())
    assert told(read_lfw(tmp_path / "lfw.tar", lfw[1], "test", test_folds=[1])) == told(
        read_lfw(*lfw, "test", test_folds=[1])
    )


def changed(lfw, line, text):
    lines = PAIRS.splitlines()
    lines[line - 1 : line] = [] if text is None else [text]
    lfw[1].write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        (1, "", "line 1 is ''. Expected the number of folds"),
        (1, "ten\t2", "line 1 is 'ten\\t2'. Expected the number of folds"),
        (1, "2\t1", "line 3 is a same pair where different ones are due (fold 1, the different pairs): 'Bob\\t1\\t2'"),
        (1, "3\t2", "has 8 pairs, its first line promises 12 (3 folds of 2 same and 2 different ones). Was it copied"),
        (1, "1\t2", "has 8 pairs, its first line promises 4 (1 folds of 2 same and 2 different ones). Take out"),
        (2, "Ann\t1\tBob\t3", "line 2 is a different pair where same ones are due (fold 1, the same pairs)"),
        (8, "Dan_O\t1\t2", "line 8 is a same pair where different ones are due (fold 2, the different pairs)"),
        (8, "Dan_O\t1\tDan_O\t2", "line 8 pairs two pictures of one person as different"),
        (3, "Bob\t2\t2", "line 3 pairs a picture with itself"),
        (3, "Bob\t1", "line 3 has 2 words, expected NAME NUMBER NUMBER (fold 1, the same pairs): 'Bob\\t1'"),
        (3, "Bob\t1\tx", "line 3 is 'Bob\\t1\\tx', expected NAME NUMBER NUMBER, numbers from 1 on"),
        (3, "Bob\t0\t1", "line 3 is 'Bob\\t0\\t1', expected NAME NUMBER NUMBER, numbers from 1 on"),
        (9, "Eve\t3\tFay\tone", "line 9 is 'Eve\\t3\\tFay\\tone', expected NAME NUMBER OTHER_NAME NUMBER"),
        (9, None, "has 7 pairs, its first line promises 8"),
        (9, "Eve\t3\tFay\t1\nEve\t2\tFay\t1", "has 9 pairs, its first line promises 8"),
        (6, "", "line 6 has 0 words"),
    ],
)
def test_a_wrong_line_is_named(lfw, line, text, message):
    changed(lfw, line, text)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        read_pairs(lfw[1])
    assert str(error.value).startswith(f"{lfw[1]}: ")


def test_swapped_blocks_are_found_in_their_first_line(lfw):
    lines = PAIRS.splitlines()
    lfw[1].write_text("\n".join([lines[0], *lines[3:5], *lines[1:3], *lines[7:9], *lines[5:7]]))
    with pytest.raises(UserError, match="line 2 is a different pair where same ones are due"):
        read_pairs(lfw[1])


def test_a_missing_picture_is_named_with_its_line(lfw):
    (lfw[0] / "Ann" / "Ann_0003.jpg").unlink()
    (lfw[0] / "Bob" / "Bob_0001.jpg").unlink()
    with pytest.raises(UserError, match=r"pairs.txt: line 2 names Ann/Ann_0003.jpg, which is not in .*lfw; 1 more pic"):
        read_lfw(*lfw, "test", test_folds=[1])
    read_lfw(*lfw, "test", test_folds=[2])  # these are in fold 1 alone


def test_other_errors(lfw, tmp_path):
    with pytest.raises(UserError, match="LFW's pairs not found"):
        read_lfw(lfw[0], tmp_path / "none.txt", "test")
    with pytest.raises(UserError, match="folder not found"):
        read_lfw(tmp_path / "none", lfw[1], "test", test_folds=[1])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"there is no picture NAME/NAME_0001\.jpg"):
        read_lfw(tmp_path / "empty", lfw[1], "test", test_folds=[1])
    with pytest.raises(UserError, match=r"the test folds are \[3\]. Expected numbers from 1 to 2"):
        read_lfw(*lfw, "test", test_folds=[3])


# the real files


@pytest.fixture(scope="module")
def real(shared_data, tmp_path_factory):
    if not (shared_data / "lfw" / "lfw.tar").is_file():
        pytest.skip("LFW is not on this machine")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MNVISION_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield list_faces(shared_data / "lfw" / "lfw.tar")[0], shared_data / "lfw" / "pairs.txt"


def test_the_real_protocol(real):
    protocol = read_pairs(real[1])
    assert np.bincount(protocol.folds).tolist() == [600] * 10
    assert protocol.same.sum() == 3000
    assert tuple(map(str, protocol.pairs[0])) == ("Abel_Pacheco/Abel_Pacheco_0001", "Abel_Pacheco/Abel_Pacheco_0004")
    test = read_lfw(*real, "test")
    assert (len(test), len(test.pairs)) == (7701, 6000)  # the pictures that the protocol uses
    np.testing.assert_array_equal(test.labels[test.pairs.first] == test.labels[test.pairs.second], test.pairs.same)


@pytest.mark.parametrize("fold", [1, 10])
def test_the_real_study(real, fold):
    splits = [read_lfw(*real, split, test_folds=[fold]) for split in ("train", "val", "test")]
    people = [set(split.classes) for split in splits]
    assert not people[0] & people[1]
    assert not (people[0] | people[1]) & people[2]
    assert set(splits[2].pairs.folds.tolist()) == {fold - 1}
    assert sum(map(len, splits[:2])) + len(people[2]) <= 11_817
    assert len(splits[0]) > 9000
    assert len(splits[1].pairs) > 3000
