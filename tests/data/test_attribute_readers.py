"""Attributes read from CelebA's lists, CSV files and UTKFace's names, and held out by groups."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from mnvision.annotations import LabelledPictures
from mnvision.data.attribute_datamodule import AttributeDataModule
from mnvision.data.attribute_lists import AttributeColumns, read_attribute_list
from mnvision.data.attribute_values import adopt_attributes, describe_attributes, held_out, keep_attributes
from mnvision.data.celeba import read_celeba
from mnvision.data.utkface import ATTRIBUTES, labels_of, parse_name, read_utkface
from mnvision.errors import UserError
from mnvision.types import Preprocessing

NAN = np.nan


def same(labels: np.ndarray, expected: list) -> None:
    assert labels.dtype == np.float32
    np.testing.assert_array_equal(labels, np.array(expected, np.float32))


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


# CelebA

ATTR = """4
Bald Eyeglasses Smiling
000001.jpg -1  1  1
000002.jpg -1 -1 -1
000003.jpg  1 -1  1
000004.jpg -1 -1  1
"""
PARTS = "000001.jpg 0\n000002.jpg 1\n000003.jpg 0\n000004.jpg 2\n"


def celeba(root: Path, *, table: str = ATTR, parts: str = PARTS, published: bool = False) -> Path:
    folders = ("Anno", "Eval", "Img") if published else ("", "", "")
    for folder, name, text in zip(
        folders, ("list_attr_celeba.txt", "list_eval_partition.txt"), (table, parts), strict=False
    ):
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / name).write_text(text, encoding="utf-8")
    touch(root / folders[2] / "img_align_celeba", *(f"{n:06d}.jpg" for n in range(1, 5)))
    return root


@pytest.mark.parametrize("published", [False, True])
def test_celeba(tmp_path, published):
    root = celeba(tmp_path, published=published)
    train = read_celeba(root, "train")
    prefix = "Img/img_align_celeba" if published else "img_align_celeba"
    assert [train.file_name(row) for row in range(2)] == [f"{prefix}/000001.jpg", f"{prefix}/000003.jpg"]
    assert train.classes == ("Bald", "Eyeglasses", "Smiling")
    same(train.labels, [[0, 1, 1], [1, 0, 1]])
    same(read_celeba(root, "val").labels, [[0, 0, 0]])
    same(read_celeba(root, "test").labels, [[0, 0, 1]])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"table": ATTR.replace("4\n", "5\n", 1)}, r"says that it has 5 pictures, and has 4\. Was it copied in full"),
        ({"table": ATTR.replace("-1 -1 -1", "-1 -1")}, "line 4 has 2 values, expected 3"),
        ({"table": ATTR.replace("-1 -1 -1", "-1 0 -1")}, "line 4 has '0' for Eyeglasses. Expected 1 or -1"),
        ({"table": "Bald Smiling\n" + ATTR}, "begins with 'Bald Smiling' and 1 words"),
        ({"parts": PARTS.replace("000003.jpg 0\n", "")}, "names 000003.jpg, which list_eval_partition.txt lacks"),
        ({"parts": PARTS.replace("jpg 2", "jpg 3")}, "line 4 is '000004.jpg 3'. Expected NAME and 0, 1 or 2"),
        ({"parts": PARTS + "000001.jpg 1\n"}, "line 5 lists 000001.jpg again"),
        ({"table": ATTR.replace("000003", "000001")}, "attr_celeba.txt: line 5 lists 000001.jpg again"),
        ({"table": ATTR.replace("4\n", "\u00b2\n", 1)}, "begins with '\u00b2' and 3 words"),
        (
            {"parts": PARTS + "000006.jpg 1\n000005.jpg 1\n"},
            r"attr_celeba\.txt: lacks 2 pictures that list_eval_partition\.txt names, such as 000005\.jpg",
        ),
        ({"parts": PARTS.replace("jpg 0", "jpg 1")}, "no picture of the part 0, which is train"),
    ],
)
def test_broken_files_of_celeba(tmp_path, files, message):
    with pytest.raises(UserError, match=message):
        read_celeba(celeba(tmp_path, **files), "train")


@pytest.mark.parametrize("name", ["list_attr_celeba.txt", "list_eval_partition.txt"])
def test_lists_of_celeba_that_are_no_text(tmp_path, name):
    root = celeba(tmp_path)
    file = root / name
    text = file.read_bytes()
    file.write_bytes(b"\xef\xbb\xbf" + text)  # a byte order mark
    same(read_celeba(root, "train").labels, [[0, 1, 1], [1, 0, 1]])
    file.write_bytes(text.replace(b"000003", b"\xff00003"))
    with pytest.raises(UserError, match=rf"{name}: line \d is not UTF-8 text"):
        read_celeba(root, "train")
    file.unlink()
    file.mkdir()
    with pytest.raises(UserError, match=rf"not found: .*{name}\. Expected img_align_celeba/.* check data\.root"):
        read_celeba(root, "train")


def test_missing_files_of_celeba(tmp_path):
    with pytest.raises(UserError, match=r"not found: .*list_attr_celeba\.txt, nor in Anno/.* check data\.root"):
        read_celeba(tmp_path, "train")
    root = celeba(tmp_path)
    (root / "img_align_celeba" / "000003.jpg").unlink()
    with pytest.raises(UserError, match="picture not found"):
        read_celeba(root, "train")


# CSV files

LIST = """file,who,part,hat,beard
a.jpg,ann,train,1,0
b.jpg,ann,train,0,
c.jpg,bob,val,1,1
d.jpg,eve,test,true,0.0
"""


def listed(folder: Path, text: str = LIST, **options) -> LabelledPictures:
    touch(folder, *(f"{name}.jpg" for name in "abcd"))
    (folder / "list.csv").write_text(text)
    return read_attribute_list(folder / "list.csv", **options)


def test_a_list(tmp_path):
    columns = AttributeColumns(split="part", group="who")
    pictures = listed(tmp_path, split="train", columns=columns)
    assert pictures.classes == ("hat", "beard")
    same(pictures.labels, [[1, 0], [0, NAN]])
    same(listed(tmp_path, split="val", columns=columns).labels, [[1, 1]])
    same(listed(tmp_path, split="test", columns=columns, attributes=["beard", "hat"]).labels, [[0, 1]])
    same(listed(tmp_path, LIST.replace(",", ";"), columns=columns).labels, [[1, 0], [0, NAN], [1, 1], [1, 0]])


def test_what_minus_one_means_has_to_be_said(tmp_path):
    text = "file,hat\na.jpg,-1\nb.jpg,1\n"
    same(listed(tmp_path, text, minus_one="no").labels, [[0], [1]])
    same(listed(tmp_path, text, minus_one="unknown").labels, [[NAN], [1]])
    with pytest.raises(UserError, match=r"line 2 has '-1' for hat\. .*give data\.minus_one=no or data\.minus_one=unkn"):
        listed(tmp_path, text)
    with pytest.raises(UserError, match="data.minus_one is 'maybe'"):
        listed(tmp_path, text, minus_one="maybe")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,hat\na.jpg,1\n", "has no column 'file' in its first line"),
        ("file,hat\na.jpg,2\n", "line 2 has '2' for hat. Expected 1, 0, or nothing"),
        ("file,hat\na.jpg,1,0\n", "line 2 has 3 cells, expected 2"),
        ("file,hat\na.jpg,1\n\nb.jpg,0\na.jpg,1\n", "line 5 lists 'a.jpg' again, first in line 2"),
        ("file,hat\n,1\n", "line 2 names the picture ''"),
        ("file,hat,hat\na.jpg,1,0\n", "has two columns 'hat' in its first line"),
        ("file\na.jpg\n", "there is no attribute"),
        ("file,hat\n", "names no picture below its first line"),
        ("file,hat\nz.jpg,1\n", "picture not found"),
        ('file,hat\n"a.jpg,1\n', "is not CSV"),
    ],
)
def test_broken_lists(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        listed(tmp_path, text)


def test_a_list_that_is_not_there_and_a_group_in_two_splits(tmp_path):
    with pytest.raises(UserError, match="list of attributes not found"):
        read_attribute_list(tmp_path / "no.csv")
    shared = LIST.replace("c.jpg,bob", "c.jpg,ann")
    with pytest.raises(UserError, match="1 groups are in both splits 'train' and 'val', the first is 'ann'"):
        listed(tmp_path, shared, split="train", columns=AttributeColumns(split="part", group="who"))
    with pytest.raises(UserError, match="has no picture of the split 'test'"):
        listed(
            tmp_path, LIST.replace("test", "train"), split="test", columns=AttributeColumns(split="part", group="who")
        )
    with pytest.raises(UserError, match="there is no test split"):
        listed(tmp_path, LIST, split="test", columns=AttributeColumns(group="who"), attributes=["hat"])


def test_a_group_may_be_in_rows_that_are_left_out(tmp_path):
    columns = AttributeColumns(split="part", group="who")
    text = LIST.replace("b.jpg,ann,train", "b.jpg,ann,unused")
    same(listed(tmp_path, text, split="train", columns=columns).labels, [[1, 0]])
    same(listed(tmp_path, text, split="val", columns=columns).labels, [[1, 1]])


def test_words_that_name_no_split_are_told(tmp_path, caplog):
    columns = AttributeColumns(split="part", group="who")
    assert len(listed(tmp_path, LIST.replace("eve,test", "eve,valid"), split="train", columns=columns)) == 2
    assert (
        "list.csv: of no split and left out: 1 of 4 rows, most of which say 'valid'; did you mean val?" in caplog.text
    )


def test_a_group_that_nobody_knows_is_none(tmp_path):
    columns = AttributeColumns(split="part", group="who")
    unknown = LIST.replace("ann", "").replace("bob", "")
    same(listed(tmp_path, unknown, split="train", columns=columns).labels, [[1, 0], [0, NAN]])


# Held out


def test_groups_are_held_out_whole():
    groups = np.repeat(["a", "b", "c", "d", "e"], [4, 1, 3, 2, 10])
    for seed in range(20):
        held = held_out(groups, share=0.2, seed=seed)
        assert {len(set(held[groups == name].tolist())) for name in "abcde"} == {1}
        assert 4 <= held.sum() < 20
    mixed = np.random.default_rng(0).permutation(len(groups))
    np.testing.assert_array_equal(
        held_out(groups[mixed], share=0.2, seed=3), held_out(groups, share=0.2, seed=3)[mixed]
    )
    assert not np.array_equal(held_out(groups, share=0.2, seed=3), held_out(groups, share=0.2, seed=4))


def test_each_by_itself_is_the_share_to_the_picture():
    assert held_out(np.arange(4002), share=0.2, seed=0).sum() == 801  # at least a fifth
    assert held_out(np.arange(10), share=0.2, seed=0).sum() == 2
    assert held_out(np.arange(2), share=0.9, seed=0).sum() == 1  # one is left
    with pytest.raises(UserError, match="in 1 group: nothing can be held out"):
        held_out(np.zeros(5), share=0.2, seed=0)
    with pytest.raises(UserError, match="data.val_share is 1"):
        held_out(np.arange(5), share=1, seed=0)
    with pytest.raises(UserError, match="seed"):
        held_out(np.arange(5), share=0.5, seed=-1)


# UTKFace


def test_names_of_utkface():
    assert parse_name("26_1_0_20170116174525125.jpg.chip.jpg")[:3] == (26, 1, 0)
    assert parse_name("61_3_20170109150557335.jpg.chip.jpg")[:3] == (61, None, 3)
    assert parse_name("61_1_20170109142408075.jpg.chip.jpg")[:3] == (61, None, None)  # gender or race
    assert parse_name("39_1_20170116174525125.jpg")[:3] == (39, None, None)
    assert parse_name("24_3_9_20170116174525125.jpg")[:3] == (24, None, None)
    # Three of the whole set's names.
    assert parse_name("53__0_20170116184028385.jpg") == (53, None, 0, "20170116184028385")
    assert parse_name("55_0_0_20170116232725357jpg.chip.jpg") == (55, 0, 0, "20170116232725357")
    assert parse_name("24_0_1_20170116220224657 .jpg") == (24, 0, 1, "20170116220224657")
    assert parse_name("53_1__20170116184028385.jpg")[:3] == (53, 1, None)
    assert parse_name("53__20170116184028385.jpg")[:3] == (53, None, None)
    assert parse_name("__0_20170116174525125.jpg") is None
    assert parse_name("20_1_0_20170116174525125_2.jpg") is None
    assert parse_name("portrait.jpg") is None


def test_attributes_of_utkface():
    assert len(ATTRIBUTES) == 15
    assert ATTRIBUTES[1], ATTRIBUTES[9] == ("age_0_9", "age_80_up")
    rows = {ATTRIBUTES[place] for place in np.flatnonzero(labels_of(parse_name("9_0_4_20170116174525125.jpg")) == 1)}
    assert rows == {"age_0_9", "other_race"}
    rows = {ATTRIBUTES[place] for place in np.flatnonzero(labels_of(parse_name("116_1_2_20170116174525125.jpg")) == 1)}
    assert rows == {"female", "age_80_up", "asian"}
    same(labels_of(parse_name("61_1_20170109142408075.jpg")), [NAN, *np.eye(9)[6], *[NAN] * 5])
    same(labels_of(parse_name("61_3_20170109142408075.jpg")), [NAN, *np.eye(9)[6], *np.eye(5)[3]])


def test_pictures_of_one_date_stay_together_and_malformed_names_are_reported(tmp_path, caplog):
    dates = [f"2017010900000000{n}" for n in range(5)]
    touch(tmp_path, *(f"{age}_0_0_{date}.jpg" for age in (20, 30) for date in dates))
    touch(tmp_path, "40_2_20170109000000009.jpg", "nobody.jpg")
    with caplog.at_level(logging.WARNING):
        val = read_utkface(tmp_path, "val", val_share=0.4, seed=1)
    assert [record.getMessage() for record in caplog.records] == [
        "1 malformed names (left out, no age and date in the name): nobody.jpg",
        "1 malformed names (kept, with gender or race unknown, which the name lacks): 40_2_20170109000000009.jpg",
    ]
    train = read_utkface(tmp_path, "train", val_share=0.4, seed=1)
    one, other = ({names.file_name(row).rpartition("_")[2] for row in range(len(names))} for names in (train, val))
    assert one & other == set()
    assert len(train) + len(val) == 11
    with pytest.raises(UserError, match="there is no test split"):
        read_utkface(tmp_path, "test", val_share=0.4, seed=1)
    touch(tmp_path / "other", "a.jpg")
    with pytest.raises(UserError, match="no picture is called AGE_GENDER_RACE_DATE"):
        read_utkface(tmp_path / "other", "train", val_share=0.4, seed=1)


def test_the_real_utkface(shared_data, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("MNVISION_CACHE", str(tmp_path))
    module = AttributeDataModule(
        name="utkface",
        root=shared_data / "utkface.tar",
        preprocessing=Preprocessing(112),
        batch_size=8,
        num_workers=0,
        val_share=0.2,
    )
    with caplog.at_level(logging.WARNING):
        module.setup("fit")
    assert "2 malformed names (kept" in caplog.text
    assert "61_1_20170109142408075.jpg.chip.jpg, 61_3_20170109150557335.jpg.chip.jpg" in caplog.text
    train, val = module.load_split("train"), module.load_split("val")
    assert len(train) + len(val) == 4002
    assert 800 <= len(val) <= 810
    whole = np.concatenate([train.labels, val.labels])
    assert [int(count) for count in np.nansum(whole[:, :1], axis=0)] == [2224]
    assert np.nansum(whole[:, 10:], axis=0).tolist() == [2144, 150, 640, 600, 467]
    assert np.nansum(whole[:, 1:10]) == 4002
    assert np.isnan(whole).sum() == 2 + 5
    batch = next(iter(module.val_dataloader()))
    assert batch.images.shape == (8, 3, 112, 112)
    np.testing.assert_array_equal(batch.targets.labels.numpy(), val.labels[:8])
    assert batch.targets.image_ids.tolist() == list(range(8))


# Tables of attributes and the data module


def test_choosing_and_adopting_attributes():
    pictures = LabelledPictures(np.array([b"a"]), np.array([[1, 0, NAN]], np.float32), ("x", "y", "z"))
    same(keep_attributes(pictures, names=["z", "x"], file=Path("f")).labels, [[NAN, 1]])
    with pytest.raises(UserError, match="there is no class 'q'"):
        keep_attributes(pictures, names=["q"], file=Path("f"))
    adopted = adopt_attributes(pictures, names=["z", "new", "y", "x"], where="f")
    assert adopted.classes == ("z", "new", "y", "x")
    same(adopted.labels, [[NAN, NAN, 0, 1]])
    with pytest.raises(UserError, match="'z' is not among the 2 classes"):
        adopt_attributes(pictures, names=["x", "y"], where="f")
    same(adopt_attributes(pictures, names=["y", "x"], where="f", forget=True).labels, [[0, 1]])


def test_a_line_on_a_split():
    labels = np.array([[1, 0, NAN], [1, 1, NAN]], np.float32)
    pictures = LabelledPictures(np.array([b"a", b"b"]), labels, ("x", "y", "z"))
    assert describe_attributes(pictures) == (
        "2 pictures, 3 attributes, from 50% (y) to 100% (x) positive, 33.3% of the values unknown"
    )


def faces(tmp_path, **options) -> AttributeDataModule:
    own = {"seed": 0, "train_identities": 4, "val_identities": 2, "pictures": 4}
    return AttributeDataModule(
        name="drawn_attributes",
        root=tmp_path,
        preprocessing=Preprocessing(32),
        batch_size=4,
        num_workers=0,
        options=own,
        **options,
    )


def test_generated_faces(tmp_path):
    module = faces(tmp_path)
    module.prepare_data()
    module.setup("fit")
    assert (module.train_size, len(module.load_split("val")), len(module.classes)) == (16, 4, 14)
    assert module.category_ids == tuple(range(1, 15))
    labels = module.load_split("train").labels
    np.testing.assert_array_equal(module.counts, [(labels == 1).sum(axis=0), (labels == 0).sum(axis=0)])
    batch = next(iter(module.train_dataloader()))
    assert batch.targets.labels.shape == (4, 14)
    assert [path.name for path in module.picture_folders("val")] == ["val0000", "val0001"] or len(
        module.picture_folders("val")
    ) == 2
    chosen = faces(tmp_path, classes=["smiling", "hat"])
    chosen.setup("fit")
    assert chosen.classes == ("smiling", "hat")
    np.testing.assert_array_equal(chosen.load_split("train").labels[:, 1], labels[:, module.classes.index("hat")])
    with pytest.raises(UserError, match="the splits train, val"):
        module.load_split("test")


@pytest.mark.parametrize("wrong", [{"mixup": 0.2}, {"cutmix": 1.0}, {"balanced": True}])
def test_neither_mixed_nor_balanced(tmp_path, wrong):
    with pytest.raises(UserError, match="neither mixed nor balanced"):
        faces(tmp_path, **wrong).setup("fit")


def test_lists_of_training_and_validation(tmp_path):
    touch(tmp_path, *(f"{name}.jpg" for name in "abcd"))
    (tmp_path / "train.csv").write_text("file,hat,beard\na.jpg,1,0\nb.jpg,0,1\n")
    (tmp_path / "val.csv").write_text("beard,file,hat\n1,c.jpg,0\n")
    own = {"images": ".", "train": "train.csv", "val": "val.csv", "test": None, "minus_one": None}
    own |= {"file_column": "file", "split_column": None, "group_column": None}

    def module(**changed) -> AttributeDataModule:
        return AttributeDataModule(
            name="attribute_list",
            root=tmp_path,
            preprocessing=Preprocessing(32),
            batch_size=2,
            num_workers=0,
            options=own | changed,
        )

    data = module()
    data.setup("fit")
    same(data.load_split("train").labels, [[1, 0], [0, 1]])
    same(data.load_split("val").labels, [[0, 1]])  # in the columns' order of the training list
    (tmp_path / "val.csv").write_text("file,hat,beard\na.jpg,1,0\n")
    with pytest.raises(UserError, match="1 pictures are in both splits 'train' and 'val'"):
        module().load_split("val")
    with pytest.raises(UserError, match="data.split_column=part says what is measured on, and so do"):
        module(split_column="part").load_split("train")
    (tmp_path / "train.csv").write_text("file,hat,beard\na.jpg,,\nb.jpg,,\n")
    with pytest.raises(UserError, match="no picture has a known attribute"):
        module().load_split("train")


def test_what_is_measured_on_needs_no_training_list(tmp_path):
    """A checkpoint knows the attributes and their order; a column that it does not know is passed over."""
    touch(tmp_path, *(f"{name}.jpg" for name in "abcd"))
    (tmp_path / "val.csv").write_text("beard,file,hat,scar\n1,c.jpg,0,1\n,d.jpg,1,1\n")
    own = {"images": ".", "train": "train.csv", "val": "val.csv", "test": "val.csv", "minus_one": None}
    own |= {"file_column": "file", "split_column": None, "group_column": None}

    def load(split: str, *, known: list[str] | None, **changed) -> LabelledPictures:
        data = AttributeDataModule(
            name="attribute_list",
            root=tmp_path,
            preprocessing=Preprocessing(32),
            batch_size=2,
            num_workers=0,
            class_table=None if known is None else (known, range(1, len(known) + 1)),
            options=own | changed,
        )
        return data.load_split(split)

    for split in ("val", "test"):
        same(load(split, known=["hat", "beard"]).labels, [[0, 1], [1, NAN]])
    assert load("val", known=None).classes == ("beard", "hat", "scar")
    with pytest.raises(
        UserError, match=r"val\.csv: has no column 'hats' .*did you mean hat\. Every list .* data\.classes"
    ):
        load("val", known=["hats"])
    with pytest.raises(UserError, match=r"list of attributes not found: .*train\.csv"):
        load("train", known=["hat", "beard"])
    # Once the training list is there, it is compared: nobody is measured on what was trained on.
    (tmp_path / "train.csv").write_text("file,hat,beard\na.jpg,1,0\nd.jpg,1,0\n")
    with pytest.raises(UserError, match="1 pictures are in both splits 'train' and 'val', the first is d.jpg"):
        load("val", known=["hat", "beard"])
