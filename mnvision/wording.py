"""Words for what is said of numbers: one noun for each kind of task, in the singular or the plural."""

from __future__ import annotations

# What a model tells apart, by its task; those of all others are classes.
_NOUNS = {"embed": "identity", "attributes": "attribute", "geolocate": "cell"}


def noun_of(task: str) -> str:
    """What a model of a task tells apart, in the singular."""
    return _NOUNS.get(task, "class")


def counted(number: int, noun: str) -> str:
    """A number and its noun, whose plural ends in s, es or ies.

    >>> counted(1, "class"), counted(0, "class"), counted(1200, "identity"), counted(2, "fold")
    ('1 class', '0 classes', '1,200 identities', '2 folds')
    """
    if number != 1:
        noun = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {noun}"
