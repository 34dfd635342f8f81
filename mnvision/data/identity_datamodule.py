"""The data of an embedding run: identities to learn, and pairs of pictures of other identities to measure on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from mnvision.annotations import LabelledPictures, PairedPictures, Pairs
from mnvision.data.class_datamodule import ClassDataModule
from mnvision.data.class_dataset import ClassDataset
from mnvision.data.class_formats import Request
from mnvision.data.folders import SplitFolders, class_names, read_classes
from mnvision.data.identities import hold_out_identities, present_alone
from mnvision.data.identity_sampler import IdentitySampler
from mnvision.data.labelled import adopt_labels, refuse_shared
from mnvision.data.landmarks import read_landmarks
from mnvision.data.lfw import FOLDS, read_lfw
from mnvision.data.lists import Columns, read_list
from mnvision.data.pairs import make_pairs, read_pair_list, refuse_shared_identities
from mnvision.data.splits import Split
from mnvision.errors import UserError
from mnvision.ops.processes import rank_and_size
from mnvision.wording import noun_of

log = logging.getLogger(__name__)


class IdentityDataModule(ClassDataModule):
    """Pictures of identities, see `ClassDataModule`; identities of training are not measured on.

    Its ``options``, beside those of the format:

    - ``per_identity``: pictures of an identity in a batch, see `IdentitySampler`; None for any order.
    - ``val_pairs``, ``test_pairs``: lists of the pairs to measure on, see `read_pair_list`; None: pairs are made. Not
      of data that bring their own.
    - ``pair_count``: pairs to make, half of them same and half different, where the data bring none.
    - ``allow_overlap``: measure on identities that were trained on.
    - ``known``: names of further identities that the network knows, such as its teacher's.
    - ``landmarks``: list of five landmarks a picture, see `read_landmarks`, by which faces are aligned; or None.
    """

    noun = noun_of("embed")

    def load_split(self, split: Split) -> LabelledPictures:
        """The pictures of a split, those to measure on with pairs; read when first asked for.

        Raises:
            UserError: A file or folder is missing or wrong, or an identity is in training and in another split.
        """
        if split not in self._splits:
            beside = self._folder().parent if self.root is None else self.root.parent
            options = {**self._options, "beside": beside}
            asked = Request(self._folder(), split, self._classes, self._val_share, self._split_seed, options)
            pictures = READERS[self.format](asked)
            name = f"{self._folder()} ({split})"
            if split != "train":
                self._refuse_known(self._trained(), pictures, split)
                if not isinstance(pictures, PairedPictures):
                    pictures = PairedPictures(**vars(pictures), pairs=self._pairs(pictures, split, name=name))
            elif self._class_table is not None:  # against which all other splits are checked
                pictures = adopt_labels(pictures, classes=self._class_table[0], name=name)
            else:
                for other, measured in self._splits.items():  # read before anyone knew who is trained on
                    self._refuse_known(pictures.classes, measured, other)
            self._keep(split, pictures)
        return self._splits[split]

    def _refuse_known(self, known: Sequence[str], measured: LabelledPictures, split: Split) -> None:
        """Refuse, or where the user allows it warn, that a split has identities that are trained on."""
        name, allowed = f"{self._folder()} ({split})", self._options["allow_overlap"]
        refuse_shared_identities(known, measured, allowed=allowed, name=name)

    def _pairs(self, pictures: LabelledPictures, split: Split, *, name: str) -> Pairs:
        """The pairs of a split that brings none: those of a list where one is given, else made."""
        option, key = f"{split}_pairs", f"data.{split}_pairs"
        if (file := self._options.get(option)) is None:
            count, seed = self._options["pair_count"], self._split_seed
            instead = key if option in self._options else None
            return make_pairs(pictures.labels, count=count, seed=seed, name=name, instead=instead)
        try:
            pairs = read_pair_list(self._folder() / file, pictures)
        except UserError as error:
            raise UserError(f"{key}: {error}") from error
        log.info("%s: %d pairs of %s, in %d folds", split, len(pairs), file, len(np.unique(pairs.folds)))
        return pairs

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the identities of the training, or where there is none, of what is measured on."""
        return self._trained() or next(iter(self._splits.values())).classes

    def _trained(self) -> tuple[str, ...]:
        """The identities that a checkpoint or this run knows; none where weights are measured as they are.

        First those of the training, then those that its teacher and the weights that it starts from were trained on.
        """
        if self._class_table is not None:
            return tuple(self._class_table[0])
        own = self._splits["train"].classes if "train" in self._splits else ()
        return tuple(dict.fromkeys((*own, *self._options.get("known", ()))))

    def dataset(self, split: Split, *, training: bool) -> ClassDataset:
        """The pictures of a split, aligned where their landmarks are known, and augmented in training."""
        dataset = super().dataset(split, training=training)
        file = self._options["landmarks"]
        if self.preprocessing.aligned != (file is not None):
            log.warning(
                "the model was trained on %s pictures, and these are %s: the numbers are lower for it. %s",
                *(("aligned", "not", "Give data.landmarks=FILE") if file is None else ("whole", "aligned", "")),
            )
        if file is not None:
            names = dataset.pictures.file_names
            dataset.landmarks = read_landmarks(self._folder() / file).of(names)
            unknown = int(np.isnan(dataset.landmarks).any(axis=(1, 2)).sum())
            if unknown == len(names):
                raise UserError(
                    f"data.landmarks: {file} names none of the {len(names)} pictures of {split}, such as "
                    f"{dataset.pictures.file_name(0)}. Expected their file names as the data set has them"
                )
            if unknown:
                log.warning("%s: %d of %d pictures have no landmarks and are taken whole", split, unknown, len(names))
        return dataset

    @property
    def train_size(self) -> int:
        """Pictures of an epoch, of all processes together; in batches of identities some come twice."""
        sampler = self._sampler()
        return super().train_size if sampler is None else len(sampler) * rank_and_size()[1]

    def _sampler(self) -> IdentitySampler | None:
        """What deals out batches of identities; None where the order is free."""
        if self._options["per_identity"] is None:
            return None
        rank, ranks = rank_and_size()
        return IdentitySampler(
            self.load_split("train").labels,
            batch_size=self.batch_size,
            per_identity=self._options["per_identity"],
            seed=self.seed,
            ranks=ranks,
            rank=rank,
        )


def _read_folders(asked: Request) -> LabelledPictures:
    """A folder for each identity, in folders for the splits or in the root."""
    root, split, classes, share, seed, options = asked
    folders = SplitFolders(*(options.get(part, part) for part in ("train", "val", "test")))
    train, wanted = root / folders.train, root / getattr(folders, split)
    read = partial(read_classes, root, noun=IdentityDataModule.noun, example="ann")
    apart = train.is_dir() and bool(class_names(train))
    # What is measured on may be there without what was trained on.
    if split != "train" and wanted.is_dir() and (apart or class_names(wanted)):
        return present_alone(read(part=getattr(folders, split)))
    if not apart:
        _refuse_splits_among_identities(root, folders)
    pictures = read(part=folders.train if apart else "", classes=classes)
    if split == "train" and apart and (root / folders.val).is_dir():
        return present_alone(pictures)
    return hold_out_identities(pictures, split, share=share, seed=seed, name=str(train if apart else root))


def _refuse_splits_among_identities(root: Path, folders: SplitFolders) -> None:
    """Refuse a root of identities with the folder of a split among them: all whom it holds would be one of them."""
    for key in ("val", "test"):
        folder = root / getattr(folders, key)
        if folder.is_dir() and class_names(folder):
            raise UserError(
                f"{folder} holds identities to measure on, and those to train on are beside it in {root}, or missing. "
                f"Expected them in {root / folders.train}: move them there. (If {folder.name} is a person, give "
                f"data.{key} another name)"
            )


def _read_lists(asked: Request) -> LabelledPictures:
    """A list of pictures and their identities, or one for each split, or with a column that says which."""
    root, split, classes, share, seed, options = asked
    columns = Columns(file=options["file_column"], label=options["label_column"], split=options["split_column"])
    if columns.split is not None and (options["val"] or options["test"]):
        raise UserError(
            f"data.split_column={columns.split} says what is measured on, and so do data.val and data.test; give one"
        )
    folder, own = root / options["images"], options[split]
    if own is not None and split != "train":
        found = read_list(root / own, folder=folder, columns=columns, numbers=False)
        if (root / options["train"]).is_file() and not options["allow_overlap"]:  # it need not be there to measure
            trained = read_list(root / options["train"], folder=folder, columns=columns, numbers=False)
            refuse_shared({"train": trained, split: found}, name=str(root))
        return present_alone(found)
    if columns.split is not None:
        learnt = classes if split == "train" else None
        found = read_list(
            root / options["train"],
            split=split,
            folder=folder,
            columns=columns,
            numbers=False,
            classes=learnt,
            val_share=share,
            seed=seed,
            hold_out=hold_out_identities,
        )
        return present_alone(found)
    pictures = read_list(root / options["train"], folder=folder, columns=columns, numbers=False, classes=classes)
    if split == "train" and options["val"] is not None:
        return present_alone(pictures)
    return hold_out_identities(pictures, split, share=share, seed=seed, name=str(root / options["train"]))


def _read_lfw(asked: Request) -> LabelledPictures:
    """LFW with its protocol, whose file is in the folder of the pictures or beside it, or beside their archive."""
    root, split, classes, share, seed, options = asked
    places = [folder / options["pairs"] for folder in (root, root.parent, options["beside"])]
    file = next((file for file in places if file.is_file()), places[-1])
    folds = options["test_folds"] or FOLDS
    pairs = options["pair_count"]
    return read_lfw(root, file, split, test_folds=folds, classes=classes, val_share=share, val_pairs=pairs, seed=seed)


READERS: dict[str, Callable[[Request], LabelledPictures]] = {
    "drawn_faces": _read_folders,
    "faces": _read_folders,
    "identity_list": _read_lists,
    "lfw": _read_lfw,
}
