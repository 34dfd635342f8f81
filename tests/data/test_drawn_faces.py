from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

from mnvision.data.drawn_faces import ATTRIBUTES, faces_folder_name, make_faces
from mnvision.data.face_parts import Identity, Shot, draw_face
from mnvision.errors import UserError

FEW = {"seed": 3, "train_identities": 3, "val_identities": 2, "pictures": 5}


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "attributes.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    return make_faces(tmp_path_factory.mktemp("faces") / faces_folder_name(**FEW), **FEW)


def test_people_have_folders_and_pictures_have_rows(faces):
    assert faces.name == "v1-seed3-3+2x5"
    people = {path.parent.relative_to(faces).as_posix() for path in faces.rglob("*.jpg")}
    assert people == {*(f"train/train{n:04d}" for n in range(3)), *(f"val/val{n:04d}" for n in range(2))}
    rows = table(faces)
    assert [row["file"] for row in rows] == sorted(name for name in files(faces) if name.endswith(".jpg"))
    assert len(rows) == 3 * 5 + 2 * 3
    assert list(rows[0]) == ["file", *ATTRIBUTES]
    assert {value for row in rows for name, value in row.items() if name != "file"} == {"0", "1", ""}
    assert cv2.imread(str(faces / rows[0]["file"])).shape == (112, 112, 3)


def test_the_same_parameters_give_the_same_bytes_and_less_is_the_beginning_of_more(faces, tmp_path):
    again, more, other = tmp_path / "again", tmp_path / "more", tmp_path / "other"
    assert files(make_faces(again, **FEW)) == files(faces)
    make_faces(more, **FEW | {"train_identities": 4, "pictures": 6})
    name = "train/train0001/03.jpg"
    assert (more / name).read_bytes() == (faces / name).read_bytes()
    make_faces(other, **FEW | {"seed": 4})
    assert (other / name).read_bytes() != (faces / name).read_bytes()
    with pytest.raises(UserError, match="holds .*expected drawn_faces made with"):
        make_faces(other, **FEW)


def test_what_a_hat_hides_is_not_known_and_little_else_is_unknown(tmp_path):
    rows = table(make_faces(tmp_path / "x", seed=0, train_identities=40, val_identities=1, pictures=6))
    under = [row for row in rows if row["hat"] == "1"]
    assert 20 < len(under) < 90
    assert {row[name] for row in under for name in ("bald", "fringe")} == {""}
    others = [value for row in rows for name, value in row.items() if name not in ("file", "bald", "fringe")]
    assert np.mean([value == "" for value in others]) == pytest.approx(0.03, abs=0.01)
    # What belongs to a person is the same in all of his pictures, where it is known.
    for person in {row["file"].split("/")[1] for row in rows}:
        own = [row for row in rows if row["file"].split("/")[1] == person]
        for name in ("beard", "freckles", "moustache", "thick_brows"):
            assert len({row[name] for row in own} - {""}) == 1
    assert all({"0", "1"} <= {row[name] for row in rows} for name in ATTRIBUTES)


def test_attributes_of_a_picture_are_seen_where_they_belong():
    """Pictures that differ in one attribute alone differ where it is."""
    person = Identity.draw(np.random.default_rng(5))
    shot = Shot(0.32, (0.5, 0.53), 0.0, 0.0, *[False] * 6)

    def changed(**values: bool) -> np.ndarray:
        one, other = (draw_face(person, two, np.random.default_rng(0)) for two in (shot, shot._replace(**values)))
        rows, columns = np.nonzero(np.abs(one.astype(int) - other).max(axis=2) > 25)
        return np.array([rows.min(), rows.max(), columns.min(), columns.max()]) / 112

    top, bottom, left, right = changed(smiling=True)
    assert 0.6 < top < bottom < 0.8
    assert left < 0.5 < right
    assert changed(hat=True)[0] < 0.2
    assert 0.4 < changed(closed_eyes=True)[0] < changed(closed_eyes=True)[1] < 0.6


@pytest.mark.parametrize("wrong", [{"train_identities": 0}, {"val_identities": 0}, {"pictures": 1}])
def test_too_few_are_refused(wrong, tmp_path):
    with pytest.raises(UserError, match=r"at least one person in each split .* and two pictures"):
        make_faces(tmp_path / "x", **FEW | wrong)
    assert not (tmp_path / "x").exists()
