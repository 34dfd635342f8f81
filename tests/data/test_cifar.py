from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from mnvision.data.cifar import read_cifar10, read_cifar100
from mnvision.errors import UserError


def records(labels: list[tuple[int, ...]], *, seed: int) -> tuple[bytes, np.ndarray]:
    """A binary file, and its pictures uint8 [N, 32, 32, 3]."""
    pixels = np.random.default_rng(seed).integers(0, 256, (len(labels), 32, 32, 3), dtype=np.uint8)
    content = b""
    for label, picture in zip(labels, pixels, strict=True):
        content += bytes(label) + b"".join(picture[:, :, channel].tobytes() for channel in range(3))
    return content, pixels


def write10(root: Path) -> list[np.ndarray]:
    root.mkdir(parents=True, exist_ok=True)
    (root / "batches.meta.txt").write_text("plane\ncar\n\n")
    pixels = []
    for i, name in enumerate([f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]):
        content, picture = records([(0,), (1,)], seed=i)
        (root / name).write_bytes(content)
        pixels.append(picture)
    return pixels


def test_cifar10(tmp_path):
    pixels = write10(tmp_path / "cifar-10-batches-bin")
    test = read_cifar10(tmp_path, "test")
    assert (test.classes, test.labels.tolist()) == (("plane", "car"), [0, 1])
    assert (test.pixels.dtype, test.pixels.flags.c_contiguous) == (np.uint8, True)
    np.testing.assert_array_equal(test.pixels, pixels[5])
    train, val = (read_cifar10(tmp_path / "cifar-10-batches-bin", part, val_share=0.2) for part in ("train", "val"))
    assert (np.bincount(train.labels).tolist(), np.bincount(val.labels).tolist()) == ([4, 4], [1, 1])
    whole = {f"data_batch_{i + 1}/{j:05d}": pixels[i][j] for i in range(5) for j in range(2)}
    seen = {part.file_name(i): part.pixels[i] for part in (train, val) for i in range(len(part))}
    assert seen.keys() == whole.keys()
    for name, picture in seen.items():
        np.testing.assert_array_equal(picture, whole[name])
    assert read_cifar10(tmp_path, "test", classes=["car"]).pixels.shape == (1, 32, 32, 3)


def test_cifar100(tmp_path):
    content, pixels = records([(1, 2), (0, 0)], seed=0)
    (tmp_path / "train.bin").write_bytes(content)
    (tmp_path / "test.bin").write_bytes(content)
    (tmp_path / "fine_label_names.txt").write_text("apple\nbear\ncrab\n")
    (tmp_path / "coarse_label_names.txt").write_text("fruit\nanimal\n")
    fine, coarse = (read_cifar100(tmp_path, "test", coarse=coarse) for coarse in (False, True))
    assert [fine.classes[k] for k in fine.labels] == ["crab", "apple"]
    assert [coarse.classes[k] for k in coarse.labels] == ["animal", "fruit"]
    np.testing.assert_array_equal(fine.pixels, pixels)


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was opened",))


@pytest.mark.parametrize("name", ["data_batch_1", "cifar-10-batches-py/data_batch_1"])
def test_pickles_are_never_opened(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(
        UserError, match=r"Python version, whose files are pickles; .*runs whatever code.*cifar-10-binary"
    ):
        read_cifar10(tmp_path, "train")


def test_what_is_missing_or_broken(tmp_path):
    with pytest.raises(UserError, match="data_batch_1.bin is not there, nor in cifar-10-batches-bin/"):
        read_cifar10(tmp_path, "train")
    write10(tmp_path)
    (tmp_path / "data_batch_3.bin").write_bytes(bytes(3073 + 5))
    with pytest.raises(UserError, match="data_batch_3.bin: has 3078 bytes. Expected a multiple of 3073"):
        read_cifar10(tmp_path, "train")
    (tmp_path / "data_batch_3.bin").write_bytes(b"\2" + bytes(3072))
    with pytest.raises(UserError, match="the label of data_batch_3/00000 is 2. Expected 0 to 1"):
        read_cifar10(tmp_path, "train")
    (tmp_path / "data_batch_3.bin").unlink()
    with pytest.raises(UserError, match="data_batch_3.bin is missing"):
        read_cifar10(tmp_path, "train")
