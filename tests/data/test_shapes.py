from __future__ import annotations

import json
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from mnvision.cache import cache_dir
from mnvision.data import scenes
from mnvision.data.coco import read_coco
from mnvision.data.scenes import CLASSES, draw_scene
from mnvision.data.shapes import CATEGORY_IDS, make_shapes, shapes_folder_name
from mnvision.errors import UserError
from mnvision.ops.image import read_image

SMALL = {"seed": 3, "train_images": 6, "val_images": 3, "image_size": 96}


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_same_parameters_same_bytes_and_made_once(tmp_path: Path):
    first, second = (make_shapes(tmp_path / name, **SMALL) for name in "ab")
    content = files(first)
    assert content == files(second)
    assert len(content) == 6 + 3 + 2 + 1
    times = {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    assert make_shapes(first, **SMALL) == first
    assert times == {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]  # no temporary folder stays


def test_a_smaller_set_is_the_beginning_of_a_larger_one_and_seeds_differ(tmp_path: Path):
    small = files(make_shapes(tmp_path / "small", **SMALL))
    large = files(make_shapes(tmp_path / "large", **{**SMALL, "train_images": 8}))
    other = files(make_shapes(tmp_path / "other", **{**SMALL, "seed": 4}))
    pictures = [name for name in small if name.endswith(".jpg")]
    assert all(small[name] == large[name] != other[name] for name in pictures)
    assert len({small[name] for name in pictures}) == 9  # validation repeats no training scene


def test_it_reads_as_coco_with_gaps(tmp_path: Path):
    root = make_shapes(tmp_path / "shapes", **{**SMALL, "train_images": 40})
    got = read_coco(root / "annotations" / "train.json", image_folder=root / "train")
    val = read_coco(root / "annotations" / "val.json", image_folder=root / "val")
    assert got.classes == val.classes == CLASSES
    assert got.category_ids == val.category_ids == CATEGORY_IDS
    assert np.diff(CATEGORY_IDS).max() > 1
    assert got.image_ids.min() > 0
    assert not set(got.image_ids) & set(val.image_ids)
    assert got.usable.all()
    assert (got.boxes >= 0).all()
    assert (got.boxes <= 96).all()
    counts = np.diff(got.offsets)
    assert counts.min() == 0
    assert 3 < counts.max() <= 8
    assert read_image(root / "train" / got.file_name(0)).shape == (96, 96, 3)
    assert (got.areas > 0).all()
    assert (got.areas <= (got.boxes[:, 2:] - got.boxes[:, :2]).prod(axis=1)).all()


def test_other_parameters_or_content_are_not_overwritten(tmp_path: Path):
    root = make_shapes(tmp_path / "shapes", **SMALL)
    with pytest.raises(UserError, match="expected shapes made with.*Choose another folder with data.root"):
        make_shapes(root, **{**SMALL, "seed": 4})
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match="holds something else"):
        make_shapes(tmp_path / "photos", **SMALL)
    assert (tmp_path / "photos" / "me.jpg").exists()
    assert shapes_folder_name(**SMALL) != shapes_folder_name(**{**SMALL, "seed": 4})
    (tmp_path / "empty").mkdir()
    assert files(make_shapes(tmp_path / "empty", **SMALL)) == files(root)


def test_an_interrupted_maker_leaves_nothing(tmp_path: Path, monkeypatch):
    calls = []

    def power_cut(rng, *, size):
        calls.append(size)
        if len(calls) == 8:  # in the middle of the second split
            raise KeyboardInterrupt
        return draw_scene(rng, size=size)

    monkeypatch.setattr("mnvision.data.shapes.draw_scene", power_cut)
    with pytest.raises(KeyboardInterrupt):
        make_shapes(tmp_path / "shapes", **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_makers_at_once_do_not_clash(tmp_path: Path):
    results: list[Path | Exception] = []

    def work():
        try:
            results.append(make_shapes(tmp_path / "shapes", **SMALL))
        except Exception as error:
            results.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [tmp_path / "shapes"] * 4
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]
    assert files(tmp_path / "shapes") == files(make_shapes(tmp_path / "alone", **SMALL))


def test_unwritable_place_and_senseless_numbers(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write the shapes data set .*MNVISION_CACHE"):
        make_shapes(tmp_path / "file" / "shapes", **SMALL)
    with pytest.raises(UserError, match="data.train_count"):
        make_shapes(tmp_path / "none", **{**SMALL, "train_images": 0})
    for wrong in ({"val_images": 0}, {"image_size": 31}, {"seed": -1}):
        with pytest.raises(UserError, match=r"cannot draw .* from seed .* \(data\.seed\)"):
            make_shapes(tmp_path / "none", **SMALL | wrong)
    assert not (tmp_path / "none").exists()


def test_boxes_are_the_extent_of_visible_pixels(monkeypatch):
    """Each shape is painted in a colour of its own on black, so the picture itself tells where each is seen."""
    painted = []

    def paint(image, shape, *, rng):
        cover, seen = scenes._clip(shape.cover, shape.corner, size=len(image))
        painted.append(shape)
        image[seen][cover >= 0.5] = 25 * len(painted)

    monkeypatch.setattr(scenes, "_ground", lambda rng, *, size: np.zeros((size, size, 3), np.float32))
    monkeypatch.setattr(scenes, "_photograph", lambda image, *, rng: image.astype(np.uint8))
    monkeypatch.setattr(scenes, "_paint", paint)
    hidden = 0
    for k in range(40):
        painted.clear()
        scene = draw_scene(np.random.default_rng(k), size=160)
        assert len(painted) == len(scene.labels)
        for i, shape in enumerate(painted):
            mask = scene.image[..., 0] == 25 * (i + 1)
            np.testing.assert_array_equal(scene.boxes[i], cv2.boundingRect(mask.astype(np.uint8)))
            assert scene.areas[i] == mask.sum()
            whole = (shape.cover >= 0.5).sum()
            assert mask.sum() >= 0.79 * 0.59 * whole
            hidden += mask.sum() < 0.95 * whole
    assert hidden > 10  # there is occlusion to learn from


def test_shapes_stand_out_and_forms_differ():
    for name in CLASSES:
        outline = np.concatenate(scenes._outlines(name))
        assert 0.85 <= np.abs(outline).max() <= 1.0001
    # As silhouettes no two forms come close to each other, even tilted: best overlap over all tilts.
    canvas = {}
    for name in CLASSES:
        mask = np.zeros((128, 128), np.uint8)
        cv2.fillPoly(mask, [np.round(64 + 60 * points).astype(np.int32) for points in scenes._outlines(name)], 1)
        canvas[name] = mask
    for a in CLASSES:
        for b in CLASSES:
            if a < b:
                best = 0.0
                for tilt in range(-60, 61, 6):
                    turn = cv2.getRotationMatrix2D((64, 64), tilt, 1)
                    turned = cv2.warpAffine(canvas[b], turn, (128, 128))
                    best = max(best, (canvas[a] & turned).sum() / (canvas[a] | turned).sum())
                assert best < 0.9, (a, b, best)


def test_cache_folder(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("MNVISION_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("MNVISION_CACHE")
    assert cache_dir() == Path.home() / ".cache" / "mnvision"


def test_stamp_records_the_parameters(tmp_path: Path):
    stamp = json.loads((make_shapes(tmp_path / "shapes", **SMALL) / "shapes.json").read_text())
    assert {**stamp, "format": 0} == {**SMALL, "format": 0}
