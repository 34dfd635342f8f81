from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DistributedSampler

from mnvision.data.datamodule import DetectionDataModule, collate
from mnvision.data.loaders import auto_workers
from mnvision.data.shapes import make_shapes, shapes_folder_name
from mnvision.errors import UserError
from mnvision.types import Batch, Preprocessing

PREPROCESSING = Preprocessing(size=48)
SHAPES = {"shapes_seed": 1, "train_count": 22, "val_count": 10, "canvas": 64}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A COCO data set: 22 + 10 generated scenes."""
    folder = tmp_path_factory.mktemp("data") / "coco"
    return make_shapes(folder, seed=1, train_images=22, val_images=10, image_size=64)


def module(root: Path | None, **options) -> DetectionDataModule:
    defaults = {"name": "coco", "preprocessing": PREPROCESSING, "batch_size": 4, "num_workers": 0}
    return DetectionDataModule(root=root, **{**defaults, **options})


def digest(loader, epoch: int) -> dict[int, str]:
    """A hash of the pixels and boxes of every picture of an epoch."""
    loader.sampler.set_epoch(epoch)
    found = {}
    for batch in loader:
        for i, image_id in enumerate(batch.targets.image_ids.tolist()):
            content = batch.images[i].numpy().tobytes() + batch.targets.boxes[i].numpy().tobytes().rstrip(b"\0")
            found[image_id] = hashlib.sha256(content).hexdigest()
    return found


def test_batches_of_both_splits(root):
    data = module(root)
    data.setup()
    batches = list(data.train_dataloader())
    assert len(batches) == 5  # the last two of 22 pictures wait for another epoch
    for batch in batches:
        assert isinstance(batch, Batch)
        assert batch.images.shape == (4, 3, 48, 48)
        assert batch.images.dtype == torch.uint8
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert batch.targets.boxes.shape == (*batch.targets.labels.shape, 4)
        real = batch.targets.labels > 0
        assert (batch.targets.boxes[~real] == 0).all()
        assert (batch.targets.boxes[real][:, 2:] > batch.targets.boxes[real][:, :2]).all()
    val = list(data.val_dataloader())
    assert [len(batch.images) for batch in val] == [4, 4, 2]
    ids = torch.cat([batch.targets.image_ids for batch in val])
    assert ids.tolist() == data.val_annotations.image_ids.tolist()
    assert data.classes == data.train_annotations.classes
    assert data.category_ids[-1] == 19
    assert [len(b.images) for b in data.evaluation_dataloader("train")] == [4] * 5 + [2]


def test_same_seed_and_epoch_give_the_same_pixels_whatever_the_workers(root):
    found = {}
    for seed in (0, 1):
        for workers in (0, 2):
            data = module(root, num_workers=workers, seed=seed, batch_size=11)
            data.setup()
            loader = data.train_dataloader()
            for epoch in (0, 1):  # the workers persist over both
                found[seed, workers, epoch] = digest(loader, epoch)
    for seed in (0, 1):
        for epoch in (0, 1):
            assert len(found[seed, 0, epoch]) == 22
            assert found[seed, 0, epoch] == found[seed, 2, epoch]
    variants = [found[seed, 0, epoch] for seed in (0, 1) for epoch in (0, 1)]
    for i, a in enumerate(variants):
        for b in variants[:i]:
            assert sum(a[k] == b[k] for k in a) <= 2
    # Nor does the batch that a picture falls into matter.
    data = module(root, seed=1, batch_size=2)
    data.setup()
    assert digest(data.train_dataloader(), 1) == found[1, 0, 1]


@pytest.mark.parametrize(("batch_size", "batches"), [(30, [22]), (22, [22]), (21, [21])])
def test_the_only_training_batch_is_kept(root, batch_size, batches):
    data = module(root, batch_size=batch_size)
    data.setup()
    assert [len(batch.images) for batch in data.train_dataloader()] == batches


def test_a_batch_of_empty_pictures(root):
    data = module(root)
    data.setup()
    dataset = data.val_dataloader().dataset
    image, target = dataset[0]
    target.boxes, target.labels, target.crowd = target.boxes[:0], target.labels[:0], target.crowd[:0]
    batch = collate([(image, target)] * 2)
    assert batch.targets.boxes.shape == (2, 0, 4)
    assert batch.targets.labels.shape == (2, 0)


class Recorder(pl.LightningModule):
    """Records what it is fed; the fed images carry no gradient, a lone weight does."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: dict[int, list[str]] = {}

    def training_step(self, batch: Batch) -> torch.Tensor:
        content = batch.images.contiguous().numpy().tobytes()
        self.seen.setdefault(self.current_epoch, []).append(hashlib.sha256(content).hexdigest())
        return self.weight * 0.0

    def validation_step(self, batch: Batch) -> None:
        self.log("x", torch.zeros(()), batch_size=len(batch.images))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_goes_on_with_the_next_epoch(root, tmp_path, workers):
    def fit(epochs: int, *, folder: str, checkpoint: Path | None = None) -> dict[int, list[str]]:
        recorder = Recorder()
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            # Saved after validation, as a checkpoint of the best epoch is: Lightning has not closed the epoch then.
            callbacks=[pl.callbacks.ModelCheckpoint(tmp_path / folder, save_top_k=-1, filename="{epoch}", monitor="x")],
        )
        trainer.fit(recorder, datamodule=module(root, num_workers=workers, batch_size=8), ckpt_path=checkpoint)
        return recorder.seen

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    whole = fit(4, folder="whole")
    assert len({batch for epoch in whole.values() for batch in epoch}) == 4 * 2  # every epoch is new
    rest = fit(4, folder="rest", checkpoint=tmp_path / "whole" / "epoch=1.ckpt")
    assert rest == {epoch: whole[epoch] for epoch in (2, 3)}


def test_lightning_leaves_the_sampler_alone(root):
    data = module(root)
    data.setup()
    for loader in (data.train_dataloader(), data.val_dataloader()):
        assert isinstance(loader.sampler, DistributedSampler)


def test_skipped_pictures_are_counted_across_workers(tmp_path, caplog):
    folder = make_shapes(tmp_path / "coco", seed=1, train_images=8, val_images=2, image_size=64)
    names = sorted(path.name for path in (folder / "train").iterdir())
    for name in names[1:4]:
        (folder / "train" / name).write_bytes(b"broken")
    data = module(folder, num_workers=2, bad_images="skip", batch_size=2)
    data.setup()
    loader = data.train_dataloader()
    for epoch in range(2):
        caplog.clear()
        assert len(digest(loader, epoch)) <= 5
        assert "3 of 8 pictures skipped (replaced by others)" in caplog.text
    data = module(folder)
    data.setup()
    with pytest.raises(UserError, match="|".join(names[1:4])):
        digest(data.train_dataloader(), 0)


def test_error_in_a_worker_keeps_its_message(tmp_path):
    folder = make_shapes(tmp_path / "coco", seed=1, train_images=2, val_images=2, image_size=64)
    for path in (folder / "val").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    data = module(folder, num_workers=1)
    data.setup("validate")
    with pytest.raises(UserError, match="cut short"):
        list(data.val_dataloader())


def test_shapes_are_made_when_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("MNVISION_CACHE", str(tmp_path / "cache"))
    for root in (None, tmp_path / "mine"):
        data = module(root, name="shapes", **SHAPES)
        data.prepare_data()
        data.setup("fit")
        name = shapes_folder_name(seed=1, train_images=22, val_images=10, image_size=64)
        base = tmp_path / "cache" / "shapes" if root is None else root
        assert [path.name for path in base.iterdir()] == [name]
        assert len(data.train_annotations) == 22
        assert data.image_folder("train") == base / name / "train"
        assert next(iter(data.train_dataloader())).images.shape == (4, 3, 48, 48)


def test_validation_needs_no_training_files(root, tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "val.json").write_bytes((root / "annotations" / "val.json").read_bytes())
    (tmp_path / "val").symlink_to(root / "val")
    data = module(tmp_path)
    data.setup("validate")
    assert len(data.classes) == 8
    assert len(list(data.val_dataloader())) == 3
    with pytest.raises(UserError, match=r"annotation file not found: .*train.json"):
        data.setup("fit")


def test_what_is_missing_is_named_before_anything_starts(root, tmp_path):
    with pytest.raises(UserError, match="data.root is not set.*data.root=FOLDER"):
        module(None)
    with pytest.raises(UserError, match=r"annotation file not found: .*annotations/train.json.*check data.root"):
        module(tmp_path).setup("fit")
    with pytest.raises(UserError, match=r"picture folder not found: .*pictures"):
        module(root, train_images="pictures").setup("fit")
    with pytest.raises(UserError, match="is no class 'sqare'.*nearest: square"):
        module(root, classes=["sqare"]).setup("fit")
    empty = json.loads((root / "annotations" / "train.json").read_text())
    (tmp_path / "empty.json").write_text(json.dumps({**empty, "annotations": []}))
    with pytest.raises(UserError, match="holds no box to learn from"):
        module(root, train_annotations=str(tmp_path / "empty.json")).setup("fit")
    (tmp_path / "none.json").write_text(json.dumps({**empty, "annotations": [], "images": []}))
    with pytest.raises(UserError, match="lists no images"):
        module(root, val_annotations=str(tmp_path / "none.json")).setup("validate")


def test_splits_share_one_table_of_classes(root, tmp_path):
    content = json.loads((root / "annotations" / "val.json").read_text())
    kept = [c for c in content["categories"] if c["name"] not in ("circle", "star")]
    ids = {c["id"] for c in kept}
    rows = [a for a in content["annotations"] if a["category_id"] in ids]
    (tmp_path / "val.json").write_text(json.dumps({**content, "categories": kept, "annotations": rows}))
    data = module(root, val_annotations=str(tmp_path / "val.json"))
    data.setup()
    assert data.val_annotations.classes == data.train_annotations.classes
    assert [data.category_ids[k - 1] for k in data.val_annotations.labels] == [
        a["category_id"] for image in content["images"] for a in rows if a["image_id"] == image["id"]
    ]
    table = (("moon", "ring", "heart", "cross", "star", "triangle", "square", "circle"), (19, 11, 17, 13, 7, 5, 3, 2))
    data = module(root, val_annotations=str(tmp_path / "val.json"), class_table=table)
    data.setup("validate")
    assert data.classes == table[0]
    renamed = [{**c, "name": c["name"].upper()} for c in content["categories"]]
    (tmp_path / "val.json").write_text(json.dumps({**content, "categories": renamed}))
    with pytest.raises(UserError, match="is called 'circle' among the classes"):
        module(root, val_annotations=str(tmp_path / "val.json")).setup()


def test_class_subset_reaches_both_splits(root):
    data = module(root, classes=["star", "circle"])
    data.setup()
    assert data.classes == ("star", "circle")
    assert set(data.train_annotations.labels) == set(data.val_annotations.labels) == {1, 2}
    assert len(data.train_annotations) == 22


def test_auto_workers(monkeypatch):
    for processors, expected in ((1, 1), (2, 1), (4, 3), (64, 4)):
        monkeypatch.setattr("os.sched_getaffinity", lambda pid, n=processors: set(range(n)), raising=False)
        assert auto_workers(1000) == expected
        assert auto_workers(99) == 0


def test_real_data(shared_data: Path):
    folder = shared_data / "coco128"
    data = module(
        folder,
        train_images="train2017",
        train_annotations="annotations/instances_train2017.json",
        val_images="val2017",
        val_annotations="annotations/instances_val2017.json",
        preprocessing=Preprocessing(300),
        batch_size=16,
    )
    data.setup()
    boxes = 0
    for batch in data.train_dataloader():
        real = batch.targets.labels > 0
        boxes += int(real.sum())
        found = batch.targets.boxes[real]
        assert (found >= 0).all()
        assert (found <= 300).all()
        assert (found[:, 2:] > found[:, :2]).all()
    assert 300 < boxes < 929  # crops lose some
    kept = sum(int((batch.targets.labels > 0).sum()) for batch in data.val_dataloader())
    assert kept == 898
