"""The types of a configuration's values: what they accept, and how they are called in a message.

They are Python's own annotations: ``Annotated[int, Limits(low=1)]``, ``Literal["a", "b"]``, ``X | None``, ``list[X]``.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from typing import Annotated, Any, Literal


@dataclasses.dataclass(frozen=True)
class Limits:
    """Bounds of a number: greater than ``above``, at least ``low``, at most ``high``."""

    above: float = -math.inf
    low: float = -math.inf
    high: float = math.inf

    def allow(self, value: float) -> bool:
        """Whether a number lies within the bounds; infinity and NaN never do."""
        return math.isfinite(value) and self.above < value and self.low <= value <= self.high

    def __str__(self) -> str:
        bounds = [f"> {self.above:g}"] if math.isfinite(self.above) else []
        bounds += [f">= {self.low:g}"] if math.isfinite(self.low) else []
        bounds += [f"<= {self.high:g}"] if math.isfinite(self.high) else []
        return " and ".join(bounds)


Positive = Annotated[float, Limits(above=0)]
NotNegative = Annotated[float, Limits(low=0)]
Fraction = Annotated[float, Limits(low=0, high=1)]
Share = Annotated[float, Limits(above=0, high=1)]
Count = Annotated[int, Limits(low=1)]
Natural = Annotated[int, Limits(low=0)]
Pixels = Annotated[int, Limits(low=32)]
SmallPixels = Annotated[int, Limits(low=8)]  # a network of small strides takes pictures of a few pixels
FilePath = Annotated[str, "a path"]
Weights = Annotated[str, "a name or a path of weights"]


def accepts(annotation: Any, value: Any) -> bool:
    """Whether a value has a type and lies within its limits. An integer is also a number; a bool is neither.

    >>> accepts(Positive, 1), accepts(Positive, 0), accepts(Count, 1.5), accepts(Count | None, None)
    (True, False, False, True)
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        limits = arguments[1]
        return accepts(arguments[0], value) and (not isinstance(limits, Limits) or limits.allow(value))
    if origin in (typing.Union, types.UnionType):
        return any(accepts(member, value) for member in arguments)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in arguments)
    if origin is list:
        return isinstance(value, list) and all(accepts(arguments[0], item) for item in value)
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if annotation is str:
        return isinstance(value, str) and value.strip() != ""
    return isinstance(value, annotation)


def describe(annotation: Any, *, plural: bool = False) -> str:
    """A type in words, as in "expected ...".

    >>> describe(Count), describe(Positive | None), describe(list[Natural]), describe(Literal["val", "train"])
    ('an integer >= 1', 'a number > 0 or null', 'a list of integers >= 0', 'val or train')
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        extra = arguments[1]
        return extra if isinstance(extra, str) else f"{describe(arguments[0], plural=plural)} {extra}"
    if origin in (typing.Union, types.UnionType):
        return _join([word for member in arguments for word in _words(member)])
    if origin is Literal:
        return _join(_words(annotation))
    if origin is list:
        return f"a list of {describe(arguments[0], plural=True)}"
    one, many = {float: ("a number", "numbers"), int: ("an integer", "integers"), str: ("a text", "texts")}.get(
        annotation, ("true or false", "true or false")
    )
    return many if plural else one


def choices(annotation: Any) -> list[str]:
    """The words that a type allows, where it lists them."""
    if typing.get_origin(annotation) is Literal:
        return _words(annotation)
    return [word for member in typing.get_args(annotation) if not isinstance(member, str) for word in choices(member)]


def _words(annotation: Any) -> list[str]:
    if annotation is types.NoneType:
        return ["null"]
    if typing.get_origin(annotation) is Literal:
        return [str(choice) for choice in typing.get_args(annotation)]
    return [describe(annotation)]


def _join(words: list[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
