"""What the data of every kind of run offer: loaders of their splits, and a report of pictures that were skipped."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from mnvision.data.dataset import PictureDataset
from mnvision.data.splits import Split
from mnvision.types import Preprocessing


class PictureDataModule(LightningDataModule):
    """Training, validation and test pictures, whatever their targets are.

    Args:
        preprocessing: How pictures are fitted to the input.
    """

    def __init__(self, *, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.preprocessing = preprocessing
        self._datasets: list[PictureDataset] = []  # not the loaders: that would keep their workers alive

    @abstractmethod
    def load_split(self, split: Split) -> Any:
        """What is known of the pictures of a split, read when first asked for."""

    @abstractmethod
    def image_folder(self, split: Split) -> Path:
        """The folder that the file names of a split are relative to."""

    @abstractmethod
    def _loader(self, split: Split, *, training: bool) -> DataLoader:
        """The loader of a split, which is noted among ``_datasets``."""

    @property
    def task_options(self) -> dict[str, Any]:
        """Arguments of the task's network that follow from the data, as plain values."""
        return {}

    @property
    def train_size(self) -> int:
        """Training pictures."""
        return len(self.load_split("train"))

    def setup(self, stage: str | None = None) -> None:
        """Read what is known of the pictures: of both splits to fit, else of validation alone."""
        if stage in (None, "fit"):
            self.load_split("train")
        self.load_split("val")

    def train_dataloader(self) -> DataLoader:
        """Shuffled and augmented; the last, smaller batch is dropped unless it is the only one."""
        return self._loader("train", training=True)

    def val_dataloader(self) -> DataLoader:
        """In file order, as evaluation sees pictures."""
        return self._loader("val", training=False)

    def evaluation_dataloader(self, split: Split) -> DataLoader:
        """Any split as validation sees it."""
        return self._loader(split, training=False)

    def picture_folders(self, split: Split) -> set[Path]:
        """All folders in which the pictures of a split are."""
        return {self.image_folder(split)}

    def teardown(self, stage: str | None = None) -> None:
        """Report the pictures that were skipped since the last report."""
        for dataset in self._datasets:
            dataset.report_bad_images()
        self._datasets.clear()
