"""Which keys stand at the top of each command's configuration; see ``schema``."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from mnvision.value_types import Count, FilePath, Fraction, Limits, Natural, Positive


@dataclasses.dataclass
class Command:
    """Keys at the top of every command's configuration."""

    seed: Natural


@dataclasses.dataclass
class Writing(Command):
    """Keys at the top of the commands that write a folder."""

    output_dir: FilePath | None


@dataclasses.dataclass
class Train(Writing):
    """Keys at the top of ``train``."""

    resume: FilePath | None


@dataclasses.dataclass
class Eval(Writing):
    """Keys at the top of ``eval``."""

    ckpt: FilePath | None
    split: Literal["val", "test", "train"]


@dataclasses.dataclass
class Predict(Writing):
    """Keys at the top of ``predict``."""

    ckpt: FilePath | None
    source: FilePath
    score_threshold: Fraction
    top_k: Count
    batch_size: Count


@dataclasses.dataclass
class Profile(Command):
    """Keys at the top of ``profile``."""

    ckpt: FilePath | None
    num_classes: Count
    csv: FilePath | None


@dataclasses.dataclass
class WriteShards(Command):
    """Keys at the top of ``shards``."""

    output_dir: FilePath
    split: Literal["train", "val", "test"]
    pictures_per_shard: Count
    max_megabytes: Positive | None


@dataclasses.dataclass
class Tables:
    """Keys of ``tables``."""

    format: Literal["markdown", "csv"]
    output: FilePath | None
    runs: FilePath | None
    results: FilePath | None
    record: FilePath | None
    row: Annotated[str, "the key of a row"] | None


@dataclasses.dataclass
class Search:
    """Keys of ``search``."""

    ckpt: FilePath
    index: FilePath
    source: FilePath
    top_k: Count
    backend: Literal["numpy", "faiss"]
    batch_size: Count
    accelerator: Literal["auto", "cpu", "gpu", "mps"]
    output_dir: FilePath | None


@dataclasses.dataclass
class Verify:
    """Keys of ``verify``."""

    ckpt: FilePath
    first: FilePath
    second: FilePath
    threshold: Annotated[float, Limits(low=0, high=4)] | None
    accelerator: Literal["auto", "cpu", "gpu", "mps"]


COMMANDS: dict[str, type] = {
    "train": Train,
    "eval": Eval,
    "predict": Predict,
    "profile": Profile,
    "tables": Tables,
    "shards": WriteShards,
    "search": Search,
    "verify": Verify,
}
WITHOUT_SECTIONS = ("tables", "search", "verify")  # commands that build no model of a configuration
