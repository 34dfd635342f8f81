"""Data of identities: who is learnt, and who is measured on."""

from __future__ import annotations

import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from mnvision import build
from mnvision.data.class_formats import Request
from mnvision.data.identity_datamodule import READERS, IdentityDataModule
from mnvision.errors import UserError
from mnvision.ops.alignment import TEMPLATE_112
from mnvision.types import Preprocessing
from tests.runs import configure

NAMES = ["ann", "bob", "cat", "dan", "eve", "fay", "gus", "hal"]


def draw(folder: Path, names: list[str], *, pictures: int = 3) -> None:
    """Grey pictures whose brightness tells the identity."""
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(pictures):
            image = np.full((12, 12, 3), 30 * NAMES.index(name) + number, np.uint8)
            cv2.imwrite(str(folder / name / f"{number}.png"), image)


def module(root: Path, *, name: str = "faces", **given) -> IdentityDataModule:
    options = {"per_identity": None, "pair_count": 20, "allow_overlap": False, "landmarks": None}
    if name == "identity_list":
        options |= {"images": ".", "train": "train.csv", "val": None, "test": None}
        options |= {"file_column": "file", "label_column": "label", "split_column": None}
    if name == "lfw":
        options |= {"pairs": "pairs.txt", "test_folds": None}
    options |= {key: given.pop(key) for key in list(given) if key in options}
    settings = {"preprocessing": Preprocessing(8, fit="crop"), "batch_size": 4, "num_workers": 0, "augment": "none"}
    return IdentityDataModule(name=name, root=root, options=options, **{**settings, **given})


def people(data: IdentityDataModule, split: str) -> set[str]:
    """By the brightness of their pictures, as the loader gives them."""
    found = set()
    pictures = data.load_split(split)
    for batch in data.evaluation_dataloader(split):
        for image, label in zip(batch.images.float(), batch.targets.labels.tolist(), strict=True):
            name = NAMES[int(image.mean().round()) // 30]
            assert pictures.classes[label] == name
            found.add(name)
    assert found == set(pictures.classes)
    return found


def test_without_a_split_identities_are_held_out(tmp_path):
    draw(tmp_path, NAMES)
    data = module(tmp_path, val_share=0.25)
    train, val = people(data, "train"), people(data, "val")
    assert (len(train), len(val)) == (6, 2)
    assert train | val == set(NAMES)
    assert people(module(tmp_path, val_share=0.25, split_seed=0), "val") == val
    assert any(people(module(tmp_path, val_share=0.25, split_seed=seed), "val") != val for seed in range(1, 4))
    pairs = data.load_split("val").pairs
    assert pairs.same.sum() == (~pairs.same).sum() > 0
    labels = data.load_split("val").labels
    assert ((labels[pairs.first] == labels[pairs.second]) == pairs.same).all()
    with pytest.raises(UserError, match="there is no test split"):
        data.load_split("test")


def test_folders_of_their_own(tmp_path):
    draw(tmp_path / "train", NAMES[:5])
    draw(tmp_path / "test", NAMES[5:])
    data = module(tmp_path, val_share=0.4)
    assert people(data, "train") | people(data, "val") == set(NAMES[:5])
    assert people(data, "test") == set(NAMES[5:])
    draw(tmp_path / "val", NAMES[:2])
    data = module(tmp_path)
    assert people(data, "train") == set(NAMES[:5])
    with pytest.raises(UserError, match=r"2 of its 2 identities were trained on, such as ann, bob"):
        data.load_split("val")
    data = module(tmp_path, allow_overlap=True)
    data.load_split("train")
    assert people(data, "val") == {"ann", "bob"}


def test_identities_beside_a_split_are_no_training(tmp_path):
    """They would be learnt together with one called val, who has the pictures of all that are measured on."""
    draw(tmp_path, NAMES[:4])
    draw(tmp_path / "val", NAMES[4:])
    message = (
        r"val holds identities to measure on, .*Expected them in \S+/train: move them there.*data.val another name"
    )
    with pytest.raises(UserError, match=message):
        module(tmp_path).load_split("train")
    data = module(tmp_path)
    assert people(data, "val") == set(NAMES[4:])  # without a training they can be measured on
    with pytest.raises(UserError, match=message):
        data.load_split("train")
    (tmp_path / "val").rename(tmp_path / "test")
    for split in ("train", "val"):
        with pytest.raises(UserError, match="test holds identities to measure on"):
            module(tmp_path).load_split(split)


def test_whom_a_training_knows_is_refused_in_any_order(tmp_path, caplog):
    draw(tmp_path / "train", NAMES[:5])
    draw(tmp_path / "val", NAMES[4:])
    data = module(tmp_path)
    data.load_split("val")
    for _ in range(2):  # and is not kept
        with pytest.raises(UserError, match=r"\(val\): 1 of its 4 identities were trained on, such as eve"):
            data.load_split("train")
    data = module(tmp_path, allow_overlap=True)
    data.load_split("val")
    data.load_split("train")
    assert "(val): 1 of its 4 identities were trained on, such as eve: the numbers are those of" in caplog.text


def test_a_picture_is_in_one_list(tmp_path):
    """Though it is given other names."""
    draw(tmp_path, NAMES)
    for file, some in (("train.csv", NAMES[:5]), ("val.csv", NAMES[4:])):
        rows = [f"{name}/{number}.png,{file[0]}-{name}" for name in some for number in range(3)]
        (tmp_path / file).write_text("\n".join(["file,label", *rows]))
    with pytest.raises(UserError, match="3 pictures are in both splits 'train' and 'val', the first is eve/0.png"):
        module(tmp_path, name="identity_list", val="val.csv").load_split("val")
    data = module(tmp_path, name="identity_list", val="val.csv", allow_overlap=True)
    assert len(data.load_split("val")) == 12
    (tmp_path / "train.csv").unlink()  # nobody was trained on it
    assert len(module(tmp_path, name="identity_list", val="val.csv").load_split("val")) == 12


@pytest.mark.parametrize("column", [True, False])
def test_numbers_are_names_of_identities(tmp_path, column):
    draw(tmp_path, NAMES)
    numbers = dict(zip(NAMES, ["1", "01", "30000000", "99999999999999999999", "7", "-1", "8", "9"], strict=True))
    rows = [f"{name}/{k}.png,{numbers[name]},{'train' if name < 'g' else 'val'}" for name in NAMES for k in range(3)]
    (tmp_path / "train.csv").write_text("\n".join(["file,label,part", *rows]))
    column = {"split_column": "part"} if column else {"val": "val.csv"}
    if "val" in column:
        for file, some in (("val.csv", rows[18:]), ("train.csv", rows[:18])):
            (tmp_path / file).write_text("\n".join(["file,label,part", *some]))
    data = module(tmp_path, name="identity_list", **column)
    assert set(data.load_split("train").classes) == {"1", "01", "30000000", "99999999999999999999", "7"}
    assert (data.load_split("train").labels == -1).sum() == 3  # of fay, who is not known
    assert data.load_split("val").classes == ("8", "9")


def test_a_checkpoint_knows_whom_it_was_trained_on(tmp_path):
    draw(tmp_path / "train", NAMES[:4])
    draw(tmp_path / "val", NAMES[4:])
    table = (["Eve", "zoe"], [1, 2])
    with pytest.raises(UserError, match="1 of its 4 identities"):
        module(tmp_path, class_table=table).load_split("val")
    data = module(tmp_path, class_table=(["zoe"], [1]))
    assert people(data, "val") == set(NAMES[4:])
    assert data.classes == ("zoe",)
    data = module(tmp_path, class_table=(["ann", "bob"], [1, 2]))
    with pytest.raises(UserError, match=r"'cat' \(and 1 more\)"):  # whom the checkpoint does not know
        data.load_split("train")
    # Weights that are measured as they are were trained on nobody here.
    data = module(tmp_path)
    assert people(data, "val") == set(NAMES[4:])
    assert data.classes == tuple(NAMES[4:])


@pytest.mark.parametrize("column", [True, False])
def test_lists(tmp_path, column):
    draw(tmp_path, NAMES)
    rows = [f"{name}/{number}.png,{name},{'train' if name < 'f' else 'val'}" for name in NAMES for number in range(3)]
    (tmp_path / "train.csv").write_text("\n".join(["file,label,part", *rows]))
    if column:
        data = module(tmp_path, name="identity_list", split_column="part")
        assert people(data, "train") == set(NAMES[:5])
        assert people(data, "val") == set(NAMES[5:])
    else:
        data = module(tmp_path, name="identity_list", val_share=0.25)
        assert len(people(data, "val")) == 2
        for file, some in (("val.csv", rows[:6]), ("rest.csv", rows[6:])):
            (tmp_path / file).write_text("\n".join(["file,label", *(row.rpartition(",")[0] for row in some)]))
        data = module(tmp_path, name="identity_list", train="rest.csv", val="val.csv")
        assert people(data, "val") == {"ann", "bob"}
        assert people(data, "train") == set(NAMES[2:])


def test_a_column_without_val_holds_identities_out(tmp_path):
    draw(tmp_path, NAMES)
    rows = [f"{name}/{number}.png,{name},{'train' if name < 'g' else 'test'}" for name in NAMES for number in range(3)]
    (tmp_path / "train.csv").write_text("\n".join(["file,label,part", *rows]))
    data = module(tmp_path, name="identity_list", split_column="part", val_share=0.34)
    train, val = people(data, "train"), people(data, "val")
    assert (len(train), len(val), train | val) == (4, 2, set(NAMES[:6]))
    assert people(data, "test") == {"gus", "hal"}
    some = sorted(train)[:3]
    assert people(
        module(tmp_path, name="identity_list", split_column="part", val_share=0.34, classes=some), "train"
    ) == set(some)
    with pytest.raises(UserError, match="data.split_column=part says what is measured on, and so do"):
        module(tmp_path, name="identity_list", split_column="part", val="val.csv").load_split("train")


def test_both_kinds_of_identities_are_held_out(tmp_path):
    """Of those with one picture, no pair of the same can be made."""
    draw(tmp_path, NAMES[:4], pictures=1)
    draw(tmp_path, NAMES[4:], pictures=2)
    for seed in range(6):
        val = people(module(tmp_path, val_share=0.25, split_seed=seed), "val")
        assert len(val & set(NAMES[:4])) == len(val & set(NAMES[4:])) == 1


def test_lfw_out_of_an_archive_with_its_pairs_beside_it(tmp_path, monkeypatch):
    monkeypatch.setenv("MNVISION_CACHE", str(tmp_path / "cache"))
    for name in NAMES:
        (tmp_path / "lfw" / name).mkdir(parents=True)
        for number in (1, 2):
            cv2.imwrite(str(tmp_path / "lfw" / name / f"{name}_000{number}.jpg"), np.full((12, 12, 3), 9, np.uint8))
    with tarfile.open(tmp_path / "lfw.tar", "w") as tar:
        tar.add(tmp_path / "lfw", arcname="lfw")
    (tmp_path / "pairs.txt").write_text("2\t1\nann\t1\t2\nann\t1\tbob\t1\ncat\t1\t2\ncat\t1\tdan\t1\n")
    data = module(tmp_path / "lfw.tar", name="lfw", pairs="pairs.txt", test_folds=[2], val_share=0.4, pair_count=6)
    assert len(data.load_split("test").pairs) == 2
    assert set(data.load_split("train").classes) | set(data.load_split("val").classes) == set(NAMES) - {"cat", "dan"}
    assert len(data.load_split("val").pairs) <= 6
    some = {"ann", "eve", "fay", "gus"}
    data = module(
        *(tmp_path / "lfw.tar",), name="lfw", pairs="pairs.txt", test_folds=[2], val_share=0.5, classes=sorted(some)
    )
    assert set(data.load_split("train").classes) | set(data.load_split("val").classes) == some
    assert set(data.load_split("test").classes) == {"cat", "dan"}


def test_boxes_of_a_list(tmp_path):
    """What a face detector found: a bright square in a dark picture."""
    rows = ["file,label,xmin,ymin,xmax,ymax"]
    for number, name in enumerate(NAMES[:4]):
        image = np.zeros((40, 40, 3), np.uint8)
        image[10:20, 5 + number : 15 + number] = 200
        cv2.imwrite(str(tmp_path / f"{name}.png"), image)
        rows.append(f"{name}.png,{name},{5 + number},10,{15 + number},20")
    (tmp_path / "train.csv").write_text("\n".join(rows))
    data = module(tmp_path, name="identity_list", val_share=0.5, crop_to_box=True, box_margin=0.0)
    for split in ("train", "val"):
        data._splits[split] = READERS["identity_list"](
            Request(tmp_path, split, None, 0.5, 0, data._options)
        )  # without pairs, of which single pictures make none
        for batch in data.evaluation_dataloader(split):
            assert (batch.images == 200).all()
    assert not (
        next(iter(module(tmp_path, name="identity_list", val_share=0.5).train_dataloader())).images == 200
    ).all()


def test_batches_of_identities(tmp_path):
    draw(tmp_path, NAMES)
    data = module(tmp_path, val_share=0.25, batch_size=6, per_identity=3)
    batches = list(data.train_dataloader())
    assert len(batches) == 3
    assert data.train_size == 18
    for batch in batches:
        counts = np.bincount(batch.targets.labels.numpy())
        assert sorted(counts[counts > 0].tolist()) == [3, 3]


def test_losses_within_a_batch_get_batches_of_identities(tmp_path):
    def per_identity(*words: str):
        cfg = configure("train", "task=embed", "data=faces", f"data.root={tmp_path}", *words)
        return build.build_data(cfg, preprocessing=Preprocessing(8))._options["per_identity"]

    assert per_identity() is None
    assert per_identity("task.loss=triplet") == 4
    assert per_identity("task.loss=contrastive", "data.per_identity=2") == 2


def test_messages_speak_of_identities(tmp_path, caplog):
    with pytest.raises(UserError, match=r"Expected one for each identity, with its pictures, such as .*/ann; check"):
        module(tmp_path).load_split("train")
    draw(tmp_path, NAMES[:1])
    with pytest.raises(UserError, match=r": 1 identity\. Expected four"):
        module(tmp_path).load_split("train")
    draw(tmp_path, NAMES[1:])
    (tmp_path / "empty").mkdir()
    with caplog.at_level("INFO"):
        module(tmp_path, val_share=0.25).load_split("train")
    assert "no picture of 1 of 9 identities: empty" in caplog.text
    assert "train: 21 pictures, 7 identities, 3 of each" in caplog.text  # 9 * 0.25 are two


def test_too_few_identities(tmp_path):
    draw(tmp_path, NAMES[:3])
    with pytest.raises(UserError, match="3 identities. Expected four or more"):
        module(tmp_path).load_split("train")
    with pytest.raises(UserError, match="above 0 and below 1"):
        module(tmp_path, val_share=1.0).load_split("train")


def test_faces_are_aligned_by_their_landmarks(tmp_path, caplog):
    """A face whose landmarks lie where the template has them, but moved by (5, 3), is moved back."""
    draw(tmp_path, NAMES[:4], pictures=2)
    rng = np.random.default_rng(0)
    face = cv2.GaussianBlur(rng.integers(0, 256, (140, 140, 3), dtype=np.uint8), (9, 9), 0)
    cv2.imwrite(str(tmp_path / "ann" / "0.png"), face[..., ::-1])
    points = (TEMPLATE_112 + (5, 3)).ravel().tolist()
    (tmp_path / "points.csv").write_text("ann/0.png," + ",".join(map(str, points)) + "\n")
    aligned = Preprocessing(112, fit="crop", aligned=True)
    where = next(
        split for split in ("train", "val") if "ann" in module(tmp_path, val_share=0.5).load_split(split).classes
    )
    data = module(tmp_path, landmarks="points.csv", preprocessing=aligned, val_share=0.5)
    dataset = data.dataset(where, training=False)
    place = data.load_split(where).file_names.tolist().index(b"ann/0.png")
    pixels, *_ = dataset[0, place]
    assert np.abs(pixels.astype(int) - face[3:115, 5:117]).max() <= 2
    assert "3 of 4 pictures have no landmarks" in caplog.text
    whole = module(tmp_path, landmarks="points.csv", preprocessing=Preprocessing(112), val_share=0.5)
    whole.dataset(where, training=False)
    assert "trained on whole pictures, and these are aligned" in caplog.text
    (tmp_path / "points.csv").write_text("nobody.png," + ",".join(map(str, points)) + "\n")
    data = module(tmp_path, landmarks="points.csv", preprocessing=aligned, val_share=0.5)
    with pytest.raises(UserError, match="names none of the 4 pictures of train"):
        data.dataset("train", training=True)
