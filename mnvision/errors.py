"""The errors that a user can cause; nothing here imports torch, so a typo is answered before it is loaded."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path

Problem = tuple[str, str]  # a dotted key of the configuration, and what is wrong with it


class UserError(ValueError):
    """Bad input: one message that says what, where, got, expected and what to do; shown without a traceback."""


class ConfigError(UserError):
    """The configuration is wrong: one message that lists every problem found in it."""


def file_error(file: Path, message: str) -> UserError:
    """What is wrong with a file, to be raised."""
    return UserError(f"{file}: {message}")


def line_error(file: Path, line: int, message: str) -> UserError:
    """What is wrong with a line of a list, to be raised."""
    return file_error(file, f"line {line} {message}")


def problem_list(problems: Sequence[Problem]) -> str:
    """The message of a ``ConfigError``: how many problems there are, and a line for each."""
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''} in the configuration:"
    return "\n".join([count, *(f"  {key}: {problem}" for key, problem in problems)])


def did_you_mean(word: object, words: Iterable[str], *, most: int = 1, known: bool = False) -> str:
    """``; did you mean X or Y?`` for the words nearest to a misspelt one.

    Where none is near it is ``; known: X, Y, Z`` with all of the words if ``known`` asks for that, else nothing.

    >>> did_you_mean("adam", ["sgd", "adamw"]), did_you_mean("adam", ["sgd", "muon"], known=True)
    ('; did you mean adamw?', '; known: muon, sgd')
    """
    words = sorted(words)
    near = difflib.get_close_matches(word, words, n=most) if isinstance(word, str) else []
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return f"; known: {', '.join(words)}" if known else ""
