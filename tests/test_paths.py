from __future__ import annotations

from pathlib import Path

import pytest

from mnvision.errors import ConfigError
from mnvision.paths import absolute_paths, check_files


def test_paths_are_relative_to_where_the_command_was_started(tmp_path):
    (tmp_path / "here.pth").touch()
    cfg = {
        "ckpt": "runs/best.ckpt",
        "resume": "/else/last.ckpt",
        "source": "photos/*.jpg",
        "output_dir": None,
        "task": {"weights": "here.pth", "name": "ssd"},
        "backbone": {"weights": "imagenet"},
        "data": {"root": "../data/./coco", "train_images": "train2017"},
    }
    assert absolute_paths(cfg, start=tmp_path) == {
        "ckpt": f"{tmp_path}/runs/best.ckpt",
        "resume": "/else/last.ckpt",
        "source": f"{tmp_path}/photos/*.jpg",
        "output_dir": None,
        "task": {"weights": f"{tmp_path}/here.pth", "name": "ssd"},
        "backbone": {"weights": "imagenet"},  # no such file: perhaps the name of known weights
        "data": {"root": f"{tmp_path.parent}/data/coco", "train_images": "train2017"},
    }
    assert cfg["ckpt"] == "runs/best.ckpt"


def test_home_and_addresses(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    cfg = {"ckpt": "~/best.ckpt", "backbone": {"weights": "https://x.org/w.pth"}}
    assert absolute_paths(cfg, start=Path("/start")) == {**cfg, "ckpt": f"{tmp_path}/best.ckpt"}


def test_files_that_are_not_there(tmp_path):
    cfg = {"ckpt": str(tmp_path / "a.ckpt"), "resume": None, "data": {"name": "coco", "root": str(tmp_path / "coco")}}
    with pytest.raises(ConfigError) as error:
        check_files(cfg)
    assert str(error.value) == (
        "2 problems in the configuration:\n"
        f"  ckpt: no such file or folder: {tmp_path}/a.ckpt\n"
        f"  data.root: no such file or folder: {tmp_path}/coco"
    )
    (tmp_path / "a.ckpt").touch()
    check_files({**cfg, "data": {"name": "shapes", "root": None}})


@pytest.mark.parametrize("section", ["task", "backbone"])
def test_weights_that_are_not_there(tmp_path, section):
    def check(weights):
        check_files({"data": {"name": "shapes"}, section: {"weights": str(weights)}})

    for missing in (tmp_path / "weights", "mine.npz", "mine.CKPT"):
        with pytest.raises(ConfigError, match=rf"{section}\.weights: no such file or folder: .*{Path(missing).name}"):
            check(missing)
    (tmp_path / "weights").touch()
    for right in (tmp_path / "weights", "https://x.org/w.npz", "mobilenet_v1_0.25_224"):
        check(right)
