"""The data of a run on attributes: finds, unpacks or makes the files, reads what is known of each picture."""

from __future__ import annotations

import logging

import numpy as np

from mnvision.annotations import LabelledPictures
from mnvision.data.attribute_formats import Request, read_attributes
from mnvision.data.attribute_values import adopt_attributes, describe_attributes, warn_of_constant
from mnvision.data.class_datamodule import ClassDataModule
from mnvision.data.labelled import shorten
from mnvision.data.splits import Split
from mnvision.errors import UserError
from mnvision.wording import noun_of

log = logging.getLogger(__name__)


class AttributeDataModule(ClassDataModule):
    """Training, validation and test pictures with attributes, see `ClassDataModule`; ``classes`` are their names.

    Labels of a batch are float32 [B, A]: 1, 0, or NaN where it is not known. Pictures are neither mixed nor balanced.
    """

    noun = noun_of("attributes")

    @property
    def counts(self) -> np.ndarray:
        """Training pictures that are known to have each attribute, and those known to lack it: int64 [2, A]."""
        labels = self.load_split("train").labels
        return np.stack([(labels == 1).sum(axis=0), (labels == 0).sum(axis=0)])

    def load_split(self, split: Split) -> LabelledPictures:
        """The pictures of a split, read when first asked for.

        Raises:
            UserError: A file or folder is missing or wrong, nothing is known, the attributes of the splits disagree,
                there is no such split, or pictures are to be mixed or balanced.
        """
        if self.mixing is not None or self.balanced:
            raise UserError(
                "data.mixup, data.cutmix, data.balanced: pictures with attributes are neither mixed nor balanced; "
                "leave them out, or give task.positive_weights=balanced for attributes that are rare"
            )
        if split not in self._splits:
            known = None if self._class_table is None else self._class_table[0]
            asked = Request(
                self._folder(), split, self._classes, self._val_share, self._split_seed, self._options, known=known
            )
            pictures = read_attributes(self.format, asked)
            if known is not None:
                where, forget = f"{self.root} ({split})", not self._labels_needed
                if forget and split != "train" and not set(known) & set(pictures.classes):
                    raise UserError(  # without labels the table is the teacher's, see `mnvision.run.train`
                        f"{where}: of its attributes ({shorten(pictures.classes)}) none is the same as one of those to "
                        f"learn ({shorten(known)}), which are the teacher's. Expected one at least, to measure by: "
                        "rename the columns, or take another teacher"
                    )
                pictures = adopt_attributes(pictures, names=known, where=where, forget=forget)
            self._keep(split, pictures)
        return self._splits[split]

    def _keep(self, split: Split, pictures: LabelledPictures) -> None:
        log.info("%s: %s", split, describe_attributes(pictures))
        if not np.isfinite(pictures.labels).any() and (split != "train" or self._labels_needed):
            raise UserError(
                f"{self.root} ({split}): no picture has a known attribute. Expected values; check the data keys"
            )
        warn_of_constant(pictures, name=f"{self.root or self.format} ({split})")
        self._splits[split] = pictures
