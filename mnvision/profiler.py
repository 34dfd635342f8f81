"""Exact mult-adds and parameters of a model, layer by layer, counted as the MobileNet paper counts them."""

from __future__ import annotations

import copy
import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from mnvision.backbones.layers import is_depthwise
from mnvision.files import csv_text
from mnvision.types import Preprocessing, UserError

LEFT_OUT = "biases, BatchNorm, activations, pooling and post-processing"
ATTENTION = "attention"
FULLY_CONNECTED = "fully connected"


@runtime_checkable
class CountsItself(Protocol):
    """What a layer without weights of its own offers to be counted.

    Attributes:
        kind: Its row among the layer types.
    """

    kind: str

    def mult_adds(self, *inputs: Tensor) -> int:
        """Multiply-accumulate operations for these inputs of its ``forward``."""


class Layer(NamedTuple):
    """One convolution, fully connected layer or layer that counts itself.

    Attributes:
        name: Its path in the model.
        kind: ``conv 1x1``, ``conv dw 3x3``, ``conv 3x3`` and so on, ``fully connected``: the rows of Table 2; or the
            ``kind`` of a layer that counts itself, such as ``attention``.
        output: Shape of its output without the batch.
        mult_adds: Multiply-accumulate operations for one image.
        parameters: Weights, without bias; 0 where the layer ran before, as one that levels share does.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    mult_adds: int
    parameters: int


@dataclass(frozen=True)
class Profile:
    """What a model costs at one input size.

    Counted: the multiplications of convolutions, fully connected layers and our own attention's matrix products, and
    the weights. Left out, as in the paper: biases, BatchNorm, activations, pooling and post-processing; and of a
    backbone that is timm's what its attention multiplies.

    Attributes:
        layers: In the order of execution.
        trainable: Elements of all parameters, with biases, gamma and beta.
        total: ``trainable`` plus BatchNorm's running mean and variance (the total of a Keras summary).
        image_size: Side of the input in pixels.
    """

    layers: tuple[Layer, ...]
    trainable: int
    total: int
    image_size: int

    @property
    def mult_adds(self) -> int:
        """Multiply-accumulate operations for one image."""
        return sum(layer.mult_adds for layer in self.layers)

    @property
    def parameters(self) -> int:
        """Weights of convolutions and fully connected layers; a layer that runs twice counts once."""
        return sum(layer.parameters for layer in self.layers)

    def part(self, prefix: str) -> Profile:
        """The layers below one module, ``part("backbone")``; ``trainable`` and ``total`` stay those of the model."""
        kept = tuple(layer for layer in self.layers if layer.name == prefix or layer.name.startswith(prefix + "."))
        return Profile(kept, self.trainable, self.total, self.image_size)

    def by_kind(self) -> dict[str, tuple[int, int]]:
        """Mult-adds and parameters of each layer type, as in the paper's Table 2."""
        kinds: dict[str, tuple[int, int]] = {}
        for layer in self.layers:
            mult_adds, parameters = kinds.get(layer.kind, (0, 0))
            kinds[layer.kind] = (mult_adds + layer.mult_adds, parameters + layer.parameters)
        return kinds

    def table(self) -> str:
        """All layers as text, then the layer types and the totals."""
        rows: list[tuple[str, ...]] = [("layer", "type", "output", "mult-adds", "parameters")]
        rows += [
            (layer.name, layer.kind, "x".join(map(str, layer.output)), f"{layer.mult_adds:,}", f"{layer.parameters:,}")
            for layer in self.layers
        ]
        return f"{_align(rows, left=3)}\n\n{self.summary()}"

    def summary(self) -> str:
        """The share of each layer type, and the totals."""
        rows: list[tuple[str, ...]] = [("type", "mult-adds", "share", "parameters", "share")]
        for kind, (mult_adds, parameters) in self.by_kind().items():
            shares = 100 * mult_adds / self.mult_adds, 100 * parameters / self.parameters
            rows.append((kind, f"{mult_adds:,}", f"{shares[0]:.2f} %", f"{parameters:,}", f"{shares[1]:.2f} %"))
        rows.append(("all", f"{self.mult_adds:,}", "100.00 %", f"{self.parameters:,}", "100.00 %"))
        size = f"{self.image_size}x{self.image_size}"
        with_attention = ", fully connected layers and attention's matrix products"
        counted = "convolutions" + (with_attention if ATTENTION in self.by_kind() else " and fully connected layers")
        note = (
            f"Counted: {counted}, for one picture of {size}.\n"
            f"Left out: {LEFT_OUT}.\n"
            f"All parameters, with biases, gamma and beta: {self.trainable:,}; "
            f"with BatchNorm's mean and variance: {self.total:,}."
        )
        return f"{_align(rows, left=1)}\n\n{note}"

    def csv(self) -> str:
        """All layers as CSV with a header."""
        rows = [
            (one.name, one.kind, "x".join(map(str, one.output)), one.mult_adds, one.parameters) for one in self.layers
        ]
        return csv_text([("layer", "type", "output", "mult_adds", "parameters"), *rows])


def profile(model: nn.Module, *, image_size: int | None = None) -> Profile:
    """Count a model's operations and weights exactly, without computing anything.

    The model runs once on the ``meta`` device, which knows shapes only; the given model is not touched.

    Args:
        model: A backbone, or a task's model.
        image_size: Side of the input in pixels; by default the model's own.

    Raises:
        ValueError: If there is no size to take.
    """
    if image_size is None:
        own = getattr(model, "preprocessing", None)
        if not isinstance(own, Preprocessing):
            raise ValueError("profile() needs image_size for a model that does not state its own")
        image_size = own.size
    ghost = copy.deepcopy(model).to("meta").eval()
    layers: list[Layer] = []
    seen: set[str] = set()

    def record(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        if isinstance(module, nn.Conv2d | nn.Linear):
            kind, mult_adds, parameters = _kind(module), _mult_adds(module, output), module.weight.numel()
        elif isinstance(module, CountsItself):
            kind, mult_adds, parameters = module.kind, module.mult_adds(*inputs), 0
        else:
            return
        parameters = 0 if name in seen else parameters
        seen.add(name)
        layers.append(Layer(name, kind, tuple(output.shape[1:]), mult_adds, parameters))

    hooks = [
        module.register_forward_hook(lambda module, inputs, output, name=name: record(name, module, inputs, output))
        for name, module in ghost.named_modules()
    ]
    with torch.no_grad():
        ghost(torch.zeros(1, 3, image_size, image_size, device="meta"))
    for hook in hooks:
        hook.remove()
    trainable = sum(parameter.numel() for parameter in model.parameters())
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    statistics = sum(2 * norm.num_features for norm in norms)
    return Profile(tuple(layers), trainable, trainable + statistics, image_size)


def read_costs(path: Path, *, part: str = "") -> tuple[int, int]:
    """Mult-adds and parameters of a run's ``profile.csv``; a layer that runs twice has its parameters once.

    Args:
        path: The file.
        part: Start of the names of the layers that are counted.

    Raises:
        UserError: The file is not there, or no such table.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["layer"].startswith(part)]
        mult_adds = sum(int(row["mult_adds"]) for row in rows)
        once: dict[str, int] = {}
        for row in rows:  # of a layer that levels share, only one row counts its weights
            once[row["layer"]] = max(once.get(row["layer"], 0), int(row["parameters"]))
        parameters = sum(once.values())
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}); mnvision train and eval write it") from error
    except (KeyError, TypeError, ValueError, AttributeError, csv.Error) as error:
        raise UserError(f"{path} is no table of layers, as mnvision train and eval write it") from error
    return mult_adds, parameters


def read_layer_names(path: Path) -> set[str]:
    """The layers that a run's ``profile.csv``, which ``read_costs`` has found to be one, is about."""
    with path.open(newline="", encoding="utf-8") as file:
        return {row["layer"] for row in csv.DictReader(file)}


def _mult_adds(module: nn.Conv2d | nn.Linear, output: Tensor) -> int:
    """Each output element is a sum over the weights of its filter."""
    return output.numel() * module.weight[0].numel()


def _kind(module: nn.Conv2d | nn.Linear) -> str:
    if isinstance(module, nn.Linear):
        return FULLY_CONNECTED
    size = "x".join(map(str, module.kernel_size))
    return f"conv dw {size}" if is_depthwise(module) else f"conv {size}"


def _align(rows: Iterable[tuple[str, ...]], *, left: int) -> str:
    """Text columns of equal width: the first ``left`` flush left, the others flush right."""
    rows = list(rows)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i < left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
