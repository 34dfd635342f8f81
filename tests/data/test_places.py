"""Lists of places, the drawn earth, and the data module that makes cells of them."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest

from mnvision.data import place_datamodule
from mnvision.data.drawn_places import draw_coordinates, make_places
from mnvision.data.place_datamodule import PlaceDataModule
from mnvision.data.place_scenes import World, draw_place
from mnvision.data.places import PlaceColumns, read_places
from mnvision.errors import UserError
from mnvision.ops.geo import haversine, mean_places
from mnvision.ops.s2 import cell_centers, find_cells, leaf_cells, read_tokens
from mnvision.types import Preprocessing

PARTITION = {"max_photos": 4, "min_photos": 1, "min_level": 4, "max_level": 13, "answer": "mean"}
LIST = {"images": ".", "train": "train.csv", "val": None, "test": None}
COLUMNS = {"file_column": "file", "latitude_column": "lat", "longitude_column": "lon", "split_column": None}
PARIS, SYDNEY = (48.85, 2.35), (-33.86, 151.21)


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


# Lists


def test_a_list_of_places(tmp_path):
    file = write(tmp_path / "a.csv", "lon;file;part;lat", "2.5;a.jpg;train;48", "-74;b/c.jpg;val;40.5")
    rows = read_places(file, columns=PlaceColumns(split="part"))
    assert rows.pictures.coordinates.tolist() == [[48, 2.5], [40.5, -74]]
    assert [rows.pictures.file_name(row) for row in range(2)] == ["a.jpg", "b/c.jpg"]
    assert rows.splits == ["train", "val"]
    assert rows.pictures.take(np.array([1])).coordinates.tolist() == [[40.5, -74]]


def test_places_without_pictures(shared_data):
    columns = PlaceColumns(file=None, latitude="LAT", longitude="LON")
    found = read_places(shared_data / "geo" / "coordinates_100k.csv", columns=columns).pictures
    assert found.coordinates.shape == (100_000, 2)
    assert found.coordinates[0].tolist() == [-50.943392, -72.935664]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["file,lat,lon", "a,48,99", "b,91,2"], "line 3 has the latitude '91'; expected -90 to 90 degrees. Correct"),
        (["file,lat,lon", "a,48,200"], "the longitude '200'; expected -180 to 180 degrees, west being negative"),
        (
            ["file,lat,lon", "a,2,48", "b,151.2,-33.9"],
            "has the latitude '151.2'; expected -90 to 90 degrees. Correct the line; or, since all lines would be"
            " right with the two columns swapped, give data.latitude_column=lon data.longitude_column=lat",
        ),
        (["file,lat,lon", "a,48,"], "line 2 has the place ['48', '']; expected two numbers, in degrees with a decimal"),
        (["file,lat,lon", "a,1,2", "b,1_0,2"], "line 3 has the place ['1_0', '2']; expected two numbers, in degrees"),
        (["file,lat,lon", "a,nan,2"], "line 2 has the latitude 'nan'; expected -90 to 90"),
        (["file,lat,lon", "a,48"], "line 2 has 2 cells, expected 3"),
        (["file,lat,lon", "a,1,2", "a,1,3"], "line 3 lists 'a' again, first in line 2; expected every picture once"),
        (["file,lat,lon", ",1,2"], "line 2 names the picture ''"),
        (["file,lat,lon"], "names no place below its first line"),
        (["file,latitude,lon", "a,1,2"], "has no column 'lat' in its first line, a header. Its columns: file"),
        (["file,lat,long", "a,1,2"], "Name it in data.longitude_column"),
        (['file,lat,lon', '"a,1,2'], "is not CSV"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_list(tmp_path, lines, expected):
    with pytest.raises(UserError) as error:
        read_places(write(tmp_path / "a.csv", *lines))
    assert expected in str(error.value)
    assert "a.csv" in str(error.value)


def test_a_list_that_is_not_there(tmp_path):
    write(tmp_path / "b.csv", "file,lat,lon")
    with pytest.raises(UserError, match=r"list of places not found: .*a\.csv.*the lists there: b\.csv"):
        read_places(tmp_path / "a.csv")
    (tmp_path / "c.csv").write_bytes(b"file,lat,lon\n\xff\xfe,1,2\n")
    with pytest.raises(UserError, match="is not UTF-8 text"):
        read_places(tmp_path / "c.csv")


# The data module


def module(root: Path | None, *, name: str = "place_list", **given) -> PlaceDataModule:
    known = {**LIST, **COLUMNS, **PARTITION}
    own = known | {key: given.pop(key) for key in list(given) if key in known}
    if name == "drawn_places":
        own = PARTITION | {key: given.pop(key) for key in ("seed", "train_count", "val_count", "canvas")}
    settings = {"preprocessing": Preprocessing(8, fit="crop"), "batch_size": 4, "num_workers": 0, "augment": "none"}
    return PlaceDataModule(name=name, root=root, options=own, **{**settings, **given})


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Grey pictures of Paris and Sydney and one at sea, whose brightness tells the number."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(15):
        place = np.array((PARIS, SYDNEY)[number % 2]) + rng.normal(scale=0.02, size=2) if number < 14 else (0.0, -30.0)
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((10, 12, 3), 10 * number, np.uint8))
        rows.append(f"{number}.png,{place[0]:.5f},{place[1]:.5f}")
    write(tmp_path / "train.csv", "file,lat,lon", *rows[:10], rows[14])
    write(tmp_path / "val.csv", "file,lat,lon", *rows[10:14])
    write(
        tmp_path / "all.csv",
        "file,lat,lon,part",
        *(f"{row},{'val' if i % 3 else 'train'}" for i, row in enumerate(rows)),
    )
    return tmp_path


def test_cells_follow_from_the_training_pictures(photos):
    data = module(photos, val="val.csv")
    train, val = data.load_split("train"), data.load_split("val")
    assert train.classes == val.classes == data.classes
    cells = read_tokens(data.classes)
    assert train.labels.tolist() == find_cells(leaf_cells(train.coordinates), cells).tolist()
    counts = np.bincount(train.labels[train.labels >= 0], minlength=len(cells))
    assert (counts > 1).all()
    assert (counts <= 4).all()
    assert train.labels[10] == -1  # at sea, alone in its cell
    assert data.counts.tolist() == counts.tolist()
    means = mean_places(train.coordinates, train.labels, count=len(cells))
    np.testing.assert_allclose(data.task_options["places"], means)
    np.testing.assert_allclose(
        module(photos, val="val.csv", answer="center").task_options["places"], cell_centers(cells)
    )
    # The best constants are training places: one of the towns, which holds five of them, within 25 km.
    near = haversine(val.constants[1], train.coordinates) <= 25
    assert near.sum() == 5


def test_batches_have_cells_and_the_places_of_pictures(photos):
    data = module(photos, val="val.csv")
    batch = next(iter(data.val_dataloader()))
    assert batch.images.shape == (4, 3, 8, 8)
    assert batch.targets.labels.tolist() == data.load_split("val").labels.tolist()
    assert batch.targets.image_ids.tolist() == [0, 1, 2, 3]
    assert batch.images[:, 0, 0, 0].tolist() == [100, 110, 120, 130]


def test_the_split_is_said_or_held_out(photos):
    said = module(photos, train="all.csv", split_column="part")
    assert (len(said.load_split("train")), len(said.load_split("val"))) == (5, 10)
    held = module(photos, val_share=0.3)
    names = [{held.load_split(split).file_name(row) for row in range(n)} for split, n in (("train", 8), ("val", 3))]
    assert len(names[0] | names[1]) == 11
    with pytest.raises(UserError, match="there is no test split"):
        held.load_split("test")
    with pytest.raises(UserError, match=r"data\.split_column=part says what is measured on, and so do data\.val"):
        module(photos, train="all.csv", split_column="part", val="val.csv").load_split("train")
    write(photos / "again.csv", "file,lat,lon", "3.png,1,1")
    with pytest.raises(UserError, match="1 pictures are in both splits 'train' and 'val'"):
        module(photos, val="again.csv").load_split("val")
    write(photos / "gone.csv", "file,lat,lon", "x.png,1,1")
    with pytest.raises(UserError, match=r"picture not found: .*x\.png"):
        module(photos, val="gone.csv").load_split("val")


def test_cells_may_be_given(photos):
    tokens = ("47e4", "6b14")
    data = module(photos, classes=tokens, val="val.csv")
    data.setup()
    assert data.classes == tokens
    table = module(photos, class_table=(tokens[::-1], (1, 2)), val="val.csv")
    assert table.load_split("val").labels.tolist() == (1 - data.load_split("val").labels).tolist()
    with pytest.raises(UserError, match=r"data\.classes: 'Paris' is no S2 cell"):
        module(photos, classes=["Paris"]).load_split("train")
    with pytest.raises(UserError, match="no picture lies in one of the 1 cells"):
        module(photos, classes=["89c25"]).load_split("train")
    # Of pictures to measure on none needs to lie in a cell: their distances count.
    assert module(photos, class_table=(("89c25",), (1,)), val="val.csv").load_split("val").labels.tolist() == [-1] * 4


def test_without_the_training_list_there_is_no_constant_answer(photos, caplog):
    (photos / "train.csv").unlink()
    data = module(photos, class_table=(("47e4", "6b14"), (1, 2)), val="val.csv")
    with caplog.at_level(logging.INFO):
        assert data.load_split("val").constants is None
    assert "no constant answers to compare with: list of places not found" in caplog.text


def test_full_cells_of_the_last_level_are_told(photos, caplog, monkeypatch):
    for limit, level in ((0.05, logging.WARNING), (0.99, logging.INFO)):  # the full cell holds a share between these
        monkeypatch.setattr(place_datamodule, "_CROWDED", limit)
        caplog.clear()
        with caplog.at_level(logging.INFO):
            module(photos, max_level=4).load_split("train")
        [told] = [record for record in caplog.records if "max_level" in record.getMessage()]
        assert "1 cell of task.max_level=4 with more than task.max_photos=4 pictures, " in told.getMessage()
        assert told.levelno == level


# The drawn earth


def test_drawn_places_are_the_same_again_and_a_smaller_set_is_the_beginning(tmp_path):
    settings = {"seed": 1, "val_images": 2, "image_size": 48}
    one = make_places(tmp_path / "one", train_images=6, **settings)
    two = make_places(tmp_path / "two", train_images=4, **settings)
    rows = [list(csv.DictReader((folder / "places.csv").open(newline=""))) for folder in (one, two)]
    assert len(rows[0]) == 8
    assert [row for row in rows[0] if row["split"] == "val"] == [row for row in rows[1] if row["split"] == "val"]
    for row in rows[1]:
        assert row in rows[0]
        assert (one / row["file"]).read_bytes() == (two / row["file"]).read_bytes()
    assert cv2.imread(str(one / rows[0][0]["file"])).shape == (48, 48, 3)
    assert make_places(tmp_path / "one", train_images=6, **settings) == one
    with pytest.raises(UserError, match="expected drawn_places made with"):
        make_places(tmp_path / "one", train_images=5, **settings)
    with pytest.raises(UserError, match=r"expected at least one in each split.*data\.canvas"):
        make_places(tmp_path / "three", train_images=0, **settings)


def test_most_pictures_are_taken_in_towns():
    places = np.array([draw_coordinates(np.random.default_rng(i), seed=0) for i in range(400)])
    near = (haversine(places[:, None], places[None]) < 60).sum(axis=1) - 1
    assert 0.65 < (near >= 3).mean() < 0.85
    assert np.abs(places[:, 0]).max() < 76


def test_scenes_look_alike_nearby_and_different_far_away():
    """Appearance is smooth in the place: without noise, a step of 1 km changes less than one of 100 km, that less..."""
    world = World(0)
    changes = []
    for kilometres in (0.1, 5, 200, 5000):
        steps = []
        for start in np.random.default_rng(2).uniform(-50, 50, size=(20, 2)):
            there = start + [kilometres / 111.2, 0]
            one, other = world.at(start), world.at(there)
            steps.append(np.mean([np.abs(one[name] - other[name]).mean() for name in one]))
        changes.append(np.mean(steps))
    assert changes[0] < changes[1] < changes[2] < changes[3]
    assert changes[0] < 0.02
    image = draw_place(np.array(PARIS), world=world, rng=np.random.default_rng(0), size=64)
    assert image.shape == (64, 64, 3)
    assert image.dtype == np.uint8


def test_the_generated_data_need_no_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MNVISION_CACHE", str(tmp_path))
    data = module(None, name="drawn_places", seed=0, train_count=40, val_count=8, canvas=32)
    data.prepare_data()
    data.setup()
    assert len(data.load_split("train")) == 40
    assert len(data.load_split("val")) == 8
    assert (tmp_path / "places" / "v1-seed0-40+8-32px" / "train").is_dir()
    with pytest.raises(UserError, match="has no picture of the split 'test'"):
        data.load_split("test")
