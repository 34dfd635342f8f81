"""Pairs of pictures for verification: made from identities, or read from a list; and who is in two splits."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mnvision.annotations import LabelledPictures, Pairs
from mnvision.data.csv_rows import CsvTable, open_list, plain_path
from mnvision.errors import UserError, did_you_mean, file_error, line_error
from mnvision.ops.folds import folds_in_order

log = logging.getLogger(__name__)

_ROUNDS = 8  # of drawing, each of twice as many pairs as are wanted; then there are as many as there are
_COLUMNS = ("first", "second", "same")
_SAID = dict.fromkeys(("1", "true", "yes", "same"), True) | dict.fromkeys(("0", "false", "no", "different"), False)


def make_pairs(
    labels: np.ndarray,
    *,
    count: int = 6000,
    folds: int = 10,
    seed: int = 0,
    name: str = "pairs",
    instead: str | None = None,
) -> Pairs:
    """Draw pairs where no protocol names any: as many of the same as of different identities, the same everywhere.

    Identities are dealt to the folds, so that none is in two. For a pair of the same, first an identity is drawn, then
    two of its pictures; for one of different ones two identities, then a picture of each: who has many pictures is not
    in more pairs. No pair is drawn twice. Where a fold has not so many, it gets fewer, of both kinds alike.

    Args:
        labels: int64 [I], the identities; pictures of -1 are in no pair.
        count: The most pairs, of all folds.
        folds: The most folds; fewer where there are too few identities, each needing two, and one with two pictures.
        seed: Of what is drawn, by numbers that do not depend on the machine.
        name: What to call the pictures in an error.
        instead: The key of a list of pairs that could be given instead, for the error; None where there is none.

    Raises:
        UserError: No identity has two pictures, or there is only one.
    """
    identities, counts = np.unique(labels[labels >= 0], return_counts=True)
    several = int((counts > 1).sum())
    folds = min(folds, several, len(identities) // 2, count // 2)
    if folds < 1:
        raise UserError(
            f"{name}: no pairs can be made of {len(identities)} identities, of which {several} have two pictures or"
            " more. Expected two identities at least, one of them with two pictures, and two pairs: give more pictures"
            f" of each{f', or a list of pairs as {instead}' if instead else ''}"
        )
    rng = np.random.default_rng(seed)
    # Dealt to and fro, those with most pictures first: every fold gets about as many, and of large ones, too.
    dealt = identities[np.lexsort((rng.random(len(identities)), -counts))]
    turn, fold_of = np.divmod(np.arange(len(dealt)), folds)
    fold_of = np.where(turn % 2, folds - 1 - fold_of, fold_of)
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], identities)
    rows_of = {int(who): order[start : start + n] for who, start, n in zip(identities, starts, counts, strict=True)}
    wanted = count // (2 * folds)
    found = []
    for fold in range(folds):
        groups = [rows_of[int(who)] for who in dealt[fold_of == fold]]
        same = _draw_same([rows for rows in groups if len(rows) > 1], wanted, rng=rng)
        different = _draw_different(groups, wanted, rng=rng)
        each = min(len(same), len(different))
        found += [(pair, True, fold) for pair in same[:each]] + [(pair, False, fold) for pair in different[:each]]
    places = np.array([pair for pair, _, _ in found], dtype=np.int64).reshape(-1, 2)
    pairs = Pairs(
        first=places[:, 0],
        second=places[:, 1],
        same=np.array([same for _, same, _ in found], dtype=bool),
        folds=np.array([fold for _, _, fold in found], dtype=np.int64),
    )
    log.info("%s: %d pairs made, in %d folds", name, len(pairs), folds)
    return pairs


def read_pair_list(file: str | Path, pictures: LabelledPictures) -> Pairs:
    """Read a CSV file of pairs: its header names ``first``, ``second`` and ``same``, and may name ``fold``.

    Args:
        file: UTF-8; cells set apart by commas, semicolons or tabs. ``first`` and ``second`` are file names of pictures,
            ``same`` is 1 or 0 (or true or false, yes or no, same or different), ``fold`` a whole number, which
            only tells the folds apart: they are counted in their order. Without folds the same and the different
            pairs, each in their order, are cut into ten.
        pictures: The split, whose file names the list uses.

    Raises:
        UserError: The file is missing or lacks a column; a line (given by its number) has an unknown picture, the same
            one twice, a value that cannot be read, or says of two pictures what their identities do not; a pair is
            listed twice; there is no pair, or none that is the same, or none that is different.
    """
    file = Path(file)
    place_of = {pictures.file_name(i): i for i in range(len(pictures))}
    rows: list[tuple[int, int, bool, int]] = []
    lines: list[int] = []
    with open_list(file, of="pairs", check="the path") as text:
        table = CsvTable(text, file=file)
        for column in _COLUMNS:
            table.require(column, f"Expected {', '.join(_COLUMNS)}, and fold if there is one")
        folded = "fold" in table.header
        for cells in table.rows([*_COLUMNS, "fold" if folded else None], of="pair"):
            rows.append(_pair(cells, place_of=place_of, table=table, folded=folded))
            lines.append(table.line)
    first, second, same, folds = np.array(rows, dtype=np.int64).T
    same = same.astype(bool)
    pairs = Pairs(first, second, same, np.unique(folds, return_inverse=True)[1] if folded else folds_in_order(same))
    _refuse_contradictions(pairs, pictures, lines=lines, file=file)
    _refuse_repeats(pairs, lines=lines, file=file)
    if same.all() or not same.any():
        there, missing = ("same", "different") if same.all() else ("different", "same")
        raise file_error(
            file,
            f"calls every pair {there}. Expected {missing} ones as well, as any network tells one kind right: add some",
        )
    return pairs


def _refuse_repeats(pairs: Pairs, *, lines: Sequence[int], file: Path) -> None:
    """Refuse a pair that is listed twice, in whichever order: one fold would choose the threshold of its own pair."""
    seen: dict[tuple[int, int], int] = {}
    for one, other, line in zip(pairs.first.tolist(), pairs.second.tolist(), lines, strict=True):
        before = seen.setdefault((min(one, other), max(one, other)), line)
        if before != line:
            raise line_error(file, line, f"lists the pair of line {before} again. Expected every pair once")


def shared_identities(training: Sequence[str], protocol: Sequence[str]) -> list[str]:
    """The identities of a protocol that are among those of a training, by their names, in the protocol's order.

    Capitals and what stands between the words of a name make no difference.

    >>> shared_identities(["George W Bush", "Ann Veneman"], ["Zico", "george_w_bush"])
    ['george_w_bush']
    """
    known = {_plain(name) for name in training}
    return [name for name in protocol if _plain(name) in known]


def refuse_shared_identities(
    known: Sequence[str], measured: LabelledPictures, *, name: str, allowed: bool = False
) -> None:
    """Refuse to measure on people that were trained on: that is no verification of people never seen.

    Args:
        known: Names of the identities of the training.
        measured: What is measured on; of its identities those that have a picture count.
        name: What to call it in the message.
        allowed: Warn instead.

    Raises:
        UserError: They share identities; names some.
    """
    there = _present(measured)
    shared = shared_identities(known, there)
    if not shared:
        return
    some = ", ".join(shared[:5]) + (", ..." if len(shared) > 5 else "")
    message = f"{name}: {len(shared)} of its {len(there)} identities were trained on, such as {some}"
    if not allowed:
        raise UserError(
            f"{message}. Expected none, as a test of people that the network has seen says too much: take them out of"
            " one side, or give data.allow_overlap=true to measure all the same"
        )
    log.warning("%s: the numbers are those of people that the network has seen", message)


def _pair(
    cells: Sequence[str], *, place_of: Mapping[str, int], table: CsvTable, folded: bool
) -> tuple[int, int, bool, int]:
    """A row of a list: places of the two pictures, whether they are the same, and the fold."""
    first, second, said, fold = plain_path(cells[0]), plain_path(cells[1]), *cells[2:]
    for name in (first, second):
        if name not in place_of:
            near = did_you_mean(name, place_of).rstrip("?") if len(place_of) < 10_000 else ""
            raise table.wrong(
                f"names {name!r}, which is no picture of the split, such as {next(iter(place_of), None)!r}{near}"
            )
    if first == second:
        raise table.wrong(f"pairs {first!r} with itself; expected two pictures")
    same = _SAID.get(said.lower())
    if same is None:
        raise table.wrong(f"has {said!r} for same; expected 1 or 0")
    if folded and not re.fullmatch(r"[0-9]{1,9}", fold):
        raise table.wrong(f"has the fold {fold!r}; expected a whole number")
    return place_of[first], place_of[second], same, int(fold or 0)


def _refuse_contradictions(pairs: Pairs, pictures: LabelledPictures, *, lines: Sequence[int], file: Path) -> None:
    """Refuse pairs that say of two pictures what their identities do not."""
    one, other = pictures.labels[pairs.first], pictures.labels[pairs.second]
    known = (one >= 0) & (other >= 0)
    wrong = known & (pairs.same != (one == other))
    if wrong.any():
        row = int(np.argmax(wrong))
        names = " and ".join(repr(pictures.classes[label]) for label in (one[row], other[row]))
        what = "the same" if pairs.same[row] else "different"
        all_of_them = "; so is every line: are 1 and 0 swapped?" if wrong[known].all() else ""
        raise line_error(
            file,
            lines[row],
            f"calls a pair {what} whose identities are {names}{all_of_them}. Correct the line, or the identities",
        )


def _draw_same(groups: Sequence[np.ndarray], wanted: int, *, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Up to so many different pairs of two places of one group."""
    sizes = np.array([len(rows) for rows in groups])
    found: dict[tuple[int, int], None] = {}
    for _ in range(_ROUNDS):
        who = _whole(rng.random(2 * wanted), len(groups))
        one = _whole(rng.random(2 * wanted), sizes[who])
        other = (one + 1 + _whole(rng.random(2 * wanted), sizes[who] - 1)) % sizes[who]
        for k, i, j in zip(who.tolist(), one.tolist(), other.tolist(), strict=True):
            found[int(groups[k][min(i, j)]), int(groups[k][max(i, j)])] = None
        if len(found) >= wanted:
            break
    return list(found)[:wanted]


def _draw_different(groups: Sequence[np.ndarray], wanted: int, *, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Up to so many different pairs of places of two groups."""
    sizes = np.array([len(rows) for rows in groups])
    found: dict[tuple[int, int], None] = {}
    for _ in range(_ROUNDS):
        one = _whole(rng.random(2 * wanted), len(groups))
        other = (one + 1 + _whole(rng.random(2 * wanted), len(groups) - 1)) % len(groups)
        one, other = np.minimum(one, other), np.maximum(one, other)
        i, j = (_whole(rng.random(2 * wanted), sizes[who]) for who in (one, other))
        for a, b, k, m in zip(one.tolist(), other.tolist(), i.tolist(), j.tolist(), strict=True):
            found[int(groups[a][k]), int(groups[b][m])] = None
        if len(found) >= wanted:
            break
    return list(found)[:wanted]


def _whole(share: np.ndarray, below: np.ndarray | int) -> np.ndarray:
    """Whole numbers from 0 on, below a limit, from numbers in 0..1; the same on every machine."""
    return np.minimum((share * below).astype(np.int64), np.asarray(below) - 1)


def _present(pictures: LabelledPictures) -> list[str]:
    return [pictures.classes[label] for label in np.unique(pictures.labels[pictures.labels >= 0]).tolist()]


def _plain(name: str) -> str:
    return " ".join(re.split(r"[\s_.\-]+", name.casefold())).strip()
