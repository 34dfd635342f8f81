"""The data of an embedding run: identities to learn, and pairs of pictures of other identities to measure on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from mnvision.data.class_datamodule import ClassDataModule
from mnvision.data.class_dataset import ClassCollate
from mnvision.data.folders import SplitFolders, class_names, read_classes
from mnvision.data.identities import hold_out_identities, present_alone, refuse_known_identities
from mnvision.data.identity_sampler import IdentitySampler
from mnvision.data.lists import Columns, read_list
from mnvision.data.loaders import make_loader
from mnvision.data.pairs import make_pairs
from mnvision.data.splits import Split
from mnvision.errors import UserError
from mnvision.ops.processes import rank_and_size
from mnvision.types import LabelledPictures, PairedPictures


class IdentityDataModule(ClassDataModule):
    """Pictures of identities, see `ClassDataModule`; identities of training are not measured on.

    Its ``options``, beside those of the format:

    - ``per_identity``: pictures of an identity in a batch, see `IdentitySampler`; None for any order.
    - ``pair_count``: pairs to make, half of them same and half different, where the data bring none.
    - ``allow_overlap``: measure on identities that were trained on.
    """

    def load_split(self, split: Split) -> LabelledPictures:
        """The pictures of a split, those to measure on with pairs; read when first asked for.

        Raises:
            UserError: A file or folder is missing or wrong, or an identity is in training and in another split.
        """
        if split not in self._splits:
            pictures = READERS[self.format](
                self._folder(), split, share=self._val_share, seed=self._split_seed, options=self._options
            )
            if split != "train":
                refuse_known_identities(
                    self._trained(),
                    pictures.classes,
                    name=f"{self.root} ({split})",
                    allowed=self._options["allow_overlap"],
                )
                if not isinstance(pictures, PairedPictures):
                    pictures = make_pairs(pictures, count=self._options["pair_count"], seed=self._split_seed)
            self._keep(split, pictures)
        return self._splits[split]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the identities of the training, or where there is none, of what is measured on."""
        return self._trained() or next(iter(self._splits.values())).classes

    def _trained(self) -> tuple[str, ...]:
        """The identities that a checkpoint or this run is trained on; none where weights are measured as they are."""
        if self._class_table is not None:
            return tuple(self._class_table[0])
        return self._splits["train"].classes if "train" in self._splits else ()

    def _loader(self, split: Split, *, training: bool) -> DataLoader:
        dataset = self.dataset(split, training=training)
        self._datasets.append(dataset)
        sampler = None
        if training and self._options["per_identity"] is not None:
            rank, ranks = rank_and_size()
            sampler = IdentitySampler(
                dataset.pictures.labels,
                batch_size=self.batch_size,
                per_identity=self._options["per_identity"],
                seed=self.seed,
                ranks=ranks,
                rank=rank,
            )
        return make_loader(
            dataset,
            training=training,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            seed=self.seed,
            collate=ClassCollate(),
            sampler=sampler,
        )
