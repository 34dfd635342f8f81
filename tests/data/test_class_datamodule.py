from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from mnvision.data.class_datamodule import ClassDataModule
from mnvision.data.class_dataset import ClassCollate
from mnvision.data.mixing import Mixing
from mnvision.data.shard_datamodule import StreamCollate, StreamDecode
from mnvision.errors import UserError
from mnvision.types import Preprocessing

LIST = {"images": ".", "train": "all.csv", "val": None, "test": None}
COLUMNS = {"file_column": "file", "label_column": "label", "split_column": None}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six grey pictures in a folder of their own, and a list: the brightness tells the class and the number."""
    (tmp_path / "photos").mkdir()
    rows = ["file,label,part"]
    for number in range(6):
        name = "dark" if number < 3 else "light"
        cv2.imwrite(str(tmp_path / "photos" / f"{number}.png"), np.full((20, 30, 3), 40 * number, np.uint8))
        rows.append(f"{number}.png,{name},{('train', 'train', 'test')[number % 3]}")
    (tmp_path / "all.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def module(root: Path, *, name: str = "picture_list", **given) -> ClassDataModule:
    options = {**LIST, **COLUMNS, **{key: given.pop(key) for key in list(given) if key in {**LIST, **COLUMNS}}}
    settings = {"preprocessing": Preprocessing(8, fit="crop"), "batch_size": 2, "num_workers": 0, "augment": "none"}
    return ClassDataModule(name=name, root=root, options=options, **{**settings, **given})


def brightness(data: ClassDataModule, split: str) -> list[tuple[int, int]]:
    """Label and brightness, as the loader gives them."""
    batches = list(data.evaluation_dataloader(split))
    return sorted(
        (label, round(mean))
        for batch in batches
        for label, mean in zip(
            batch.targets.labels.tolist(), batch.images.float().mean(dim=(1, 2, 3)).tolist(), strict=True
        )
    )


def test_a_list_beside_a_folder_of_pictures(photos):
    data = module(photos, images="photos", val_share=0.34)
    train, val = brightness(data, "train"), brightness(data, "val")
    assert sorted(train + val) == [(0, 0), (0, 40), (0, 80), (1, 120), (1, 160), (1, 200)]
    assert len(val) == 2
    assert data.picture_folders("train") == {photos / "photos"}


def test_a_column_that_says_the_split(photos):
    data = module(photos, images="photos", split_column="part")
    assert brightness(data, "test") == [(0, 80), (1, 200)]
    assert len(brightness(data, "train")) == len(brightness(data, "val")) == 2
    with pytest.raises(UserError, match="has no column 'parts'.*did you mean part"):
        module(photos, images="photos", split_column="parts").load_split("train")
    with pytest.raises(UserError, match="give one"):
        module(photos, images="photos", split_column="part", val="all.csv").load_split("train")


def test_pictures_without_any_class_are_refused(photos):
    (photos / "bare.txt").write_text("photos/0.png\nphotos/1.png\nphotos/2.png\n")
    with pytest.raises(UserError, match="no picture has a known class"):
        module(photos, train="bare.txt").load_split("train")


def test_rare_classes_cannot_be_drawn_more_often_where_no_class_is_known(photos):
    (photos / "bare.txt").write_text("photos/0.png\nphotos/1.png\n")
    data = module(photos, train="bare.txt", val="all.csv", images=".", balanced=True, labels_needed=False)
    with pytest.raises(UserError, match="no training picture has a class; give data.balanced=false"):
        data.train_dataloader()


def test_unlabelled_training_pictures_beside_a_labelled_list(photos):
    (photos / "bare.txt").write_text("photos/0.png\nphotos/4.png\n")
    (photos / "val.txt").write_text("photos/2.png dark\nphotos/5.png light\n")
    table = (("light", "dark"), (1, 2))
    data = module(photos, train="bare.txt", val="val.txt", labels_needed=False, class_table=table)
    assert data.load_split("train").labels.tolist() == [-1, -1]
    assert data.load_split("val").labels.tolist() == [1, 0]


def test_lists_that_share_a_picture_are_refused(photos):
    (photos / "val.csv").write_text("file,label\n2.png,dark\n3.png,light\n")
    (photos / "train.csv").write_text("file,label\n0.png,dark\n3.png,light\n")
    data = module(photos, images="photos", train="train.csv", val="val.csv")
    with pytest.raises(UserError, match=r"1 pictures are in both splits 'train' and 'val', the first is 3\.png"):
        data.load_split("val")


def test_workers_can_be_started_anew():
    """As on systems that do not fork: what a loader needs can be sent to them."""
    view = module(Path("."), images=".").view(training=True)
    for part in (ClassCollate(Mixing(mixup=0.2)), StreamCollate(None), StreamDecode(view)):
        assert type(pickle.loads(pickle.dumps(part))) is type(part)
