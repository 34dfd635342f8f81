"""How well distances tell pairs of the same from pairs of different ones: the protocol of LFW, as pure functions.

Distances are squared L2 distances of unit vectors, 0..4; a pair counts as the same where its distance is less than a
threshold. The threshold of each fold is chosen on the other ones, never on the pairs that it is tested on (G. Huang et
al., "Labeled Faces in the Wild", 2007, view 2; the thresholds and VAL at FAR as in FaceNet, arXiv:1503.03832, section
4, and its open implementation).

What is counted for all thresholds and folds at once is a histogram of the distances between the thresholds.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

ACCURACY_THRESHOLDS = np.arange(0, 4, 0.01)
VAL_THRESHOLDS = np.arange(0, 4, 0.001)
FARS = {"1e-3": 1e-3, "1e-4": 1e-4}  # the false accept rates that FaceNet and the MobileNet paper report
VERIFICATION_NUMBERS = (
    *("accuracy", "accuracy_std", "accuracy_se", "threshold", "auc", "eer"),
    *(f"{name}{end}" for name in (f"val_at_far_{far}" for far in FARS) for end in ("", "_std", "_measured_far")),
)


class JudgedPairs(NamedTuple):
    """Pairs and how far apart they are.

    Attributes:
        distances: float64 [P]; infinite, or -1, where nothing may tell a pair the right way.
        same: bool [P].
        folds: int64 [P].
    """

    distances: np.ndarray
    same: np.ndarray
    folds: np.ndarray


class Verification(NamedTuple):
    """The share of pairs that are told right, by fold.

    Attributes:
        folds: int64 [F], the numbers of the folds, rising.
        accuracies: float64 [F].
        thresholds: float64 [F], that each fold was tested with.
    """

    folds: np.ndarray
    accuracies: np.ndarray
    thresholds: np.ndarray

    @property
    def accuracy(self) -> float:
        """Mean over the folds."""
        return float(self.accuracies.mean())

    @property
    def std(self) -> float:
        """Standard deviation over the folds (of the population, as everybody reports it)."""
        return float(self.accuracies.std())

    @property
    def standard_error(self) -> float:
        """Of the mean: the sample's standard deviation over the root of the number of folds; 0 of one fold."""
        count = len(self.accuracies)
        return float(self.accuracies.std(ddof=1) / np.sqrt(count)) if count > 1 else 0.0


class ValidationRate(NamedTuple):
    """The share of same pairs accepted (VAL) where about a given share of different ones is (FAR), by fold.

    Attributes:
        rates: float64 [F], VAL of each fold.
        false_rates: float64 [F], the FAR that each fold came to.
        thresholds: float64 [F]; 0 where the other folds never reach the FAR asked for.
    """

    rates: np.ndarray
    false_rates: np.ndarray
    thresholds: np.ndarray


class Roc(NamedTuple):
    """The curve of all thresholds, from the one that accepts no pair to one that accepts all.

    Attributes:
        far: float64 [N], share of different pairs accepted, from 0 to 1.
        val: float64 [N], share of same pairs accepted, from 0 to 1.
        thresholds: float64 [N]; the pairs up to this distance are accepted.
    """

    far: np.ndarray
    val: np.ndarray
    thresholds: np.ndarray


def squared_distances(embeddings: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Squared L2 distances of pairs of rows, at most 8,192 pairs at a time.

    Args:
        embeddings: float [I, D].
        first: int64 [P].
        second: int64 [P].

    Returns:
        float64 [P].

    >>> squared_distances(np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]), np.array([0, 0]), np.array([1, 2]))
    array([2., 4.])
    """
    found = np.empty(len(first), dtype=np.float64)
    for start in range(0, len(first), 8192):
        rows = slice(start, start + 8192)
        apart = embeddings[first[rows]].astype(np.float64) - embeddings[second[rows]]
        found[rows] = np.einsum("pd,pd->p", apart, apart)
    return found


def verify(pairs: JudgedPairs, *, threshold_from: JudgedPairs | None = None) -> Verification:
    """Accuracy by fold, each with the threshold that tells the most pairs of the other folds right.

    Of thresholds that are as good, the least. The thresholds are 0, 0.01 ... 3.99.

    Args:
        pairs: What is tested; two folds at least where they choose each other's thresholds.
        threshold_from: Pairs of other pictures that choose one threshold for all folds instead.

    Raises:
        ValueError: There is no pair, or one fold alone has nothing to choose its threshold by.
    """
    grid = ACCURACY_THRESHOLDS
    names, accepted, totals = _accepted_by_fold(pairs, grid)
    # Right are the same pairs that are accepted and the different ones that are not: [F, T]
    right = accepted[1] - accepted[0] + totals[0][:, None]
    if threshold_from is not None:
        _, other, _ = _accepted_by_fold(threshold_from, grid)
        elsewhere = np.broadcast_to((other[1] - other[0]).sum(axis=0), right.shape)
    else:
        _refuse_one_fold(names)
        elsewhere = right.sum(axis=0) - right
    best = elsewhere.argmax(axis=1)
    rows = np.arange(len(names))
    return Verification(names, right[rows, best] / totals.sum(axis=0), grid[best])


def validation_rate(pairs: JudgedPairs, *, far: float, threshold_from: JudgedPairs | None = None) -> ValidationRate:
    """VAL by fold, each at the threshold where the other folds reach a false accept rate.

    The thresholds 0, 0.001 ... 3.999 have rising FARs; between the last one that does not exceed the FAR asked for and
    the next one the threshold is interpolated linearly. Where none of them reaches it, it is 0.

    A fold of LFW has 300 different pairs, so that its own FAR is a multiple of 1/300: at 1e-3 or 1e-4 the nine others,
    2,700 pairs, allow two pairs or not even one, and the spread over the folds says how much that means.

    Args:
        pairs: What is tested; two folds at least where they choose each other's thresholds.
        far: The false accept rate, 0..1.
        threshold_from: Pairs of other pictures that choose one threshold for all folds instead.

    Returns:
        Rates by fold; NaN where a fold has no pair of a kind.

    Raises:
        ValueError: As of ``verify``.
    """
    grid = VAL_THRESHOLDS
    names, accepted, totals = _accepted_by_fold(pairs, grid)
    if threshold_from is not None:
        _, other, other_totals = _accepted_by_fold(threshold_from, grid)
        wrong = np.broadcast_to(other[0].sum(axis=0), accepted[0].shape)
        wrong_totals = np.broadcast_to(other_totals[0].sum(), len(names))
    else:
        _refuse_one_fold(names)
        wrong = accepted[0].sum(axis=0) - accepted[0]
        wrong_totals = totals[0].sum() - totals[0]
    thresholds = np.zeros(len(names))
    for fold, count in enumerate(wrong_totals):
        rates = wrong[fold] / max(count, 1)
        if count and rates[-1] >= far:
            thresholds[fold] = np.interp(far, rates, grid)
    rates = np.full((2, len(names)), np.nan)
    for kind in (0, 1):
        less = (pairs.distances < thresholds[_places(names, pairs.folds)]) & (pairs.same == bool(kind))
        counts = np.bincount(_places(names, pairs.folds)[less], minlength=len(names))
        np.divide(counts, totals[kind], out=rates[kind], where=totals[kind] > 0)
    return ValidationRate(rates[1], rates[0], thresholds)


def roc_curve(pairs: JudgedPairs) -> Roc:
    """FAR and VAL at every distance that occurs, over all pairs whatever their fold.

    Where folds are of equal size and kind, as LFW's are, that is the mean of the folds' curves.

    Raises:
        ValueError: There is no same pair, or no different one.
    """
    totals = np.array([(~pairs.same).sum(), pairs.same.sum()])
    if not totals.all():
        raise ValueError(f"a curve needs same and different pairs, got {totals[1]} and {totals[0]}")
    distances, places = np.unique(pairs.distances, return_inverse=True)
    counts = [np.bincount(places[pairs.same == bool(kind)], minlength=len(distances)) for kind in (0, 1)]
    far, val = (np.concatenate([[0], counts[kind].cumsum()]) / totals[kind] for kind in (0, 1))
    return Roc(far, val, np.concatenate([[-np.inf], distances]))


def area_under_curve(curve: Roc) -> float:
    """Area under VAL by FAR: the chance that a same pair is nearer than a different one, ties counting half."""
    return float((np.diff(curve.far) * (curve.val[1:] + curve.val[:-1])).sum() / 2)


def equal_error_rate(curve: Roc) -> float:
    """The error where as many different pairs are accepted as same ones refused: 1 - x = VAL(x), x the FAR.

    Between two points of the curve it runs straight.
    """
    ahead = 1 - curve.far - curve.val  # falls from 1 to -1
    last = len(ahead) - 1 - int(np.argmax(ahead[::-1] >= 0))
    share = ahead[last] / (ahead[last] - ahead[last + 1])
    return float(curve.far[last] + share * (curve.far[last + 1] - curve.far[last]))


def verification_numbers(pairs: JudgedPairs, *, threshold_from: JudgedPairs | None = None) -> dict[str, float]:
    """Those of ``VERIFICATION_NUMBERS`` that are defined.

    ``threshold`` is the mean of those of the folds; ``..._measured_far`` the mean of the shares of different pairs that
    the folds accepted at their thresholds for a FAR.

    Args:
        pairs: What is tested.
        threshold_from: As of ``verify``.
    """
    numbers: dict[str, float] = {}
    if 0 < pairs.same.sum() < len(pairs.same):
        curve = roc_curve(pairs)
        numbers |= {"auc": area_under_curve(curve), "eer": equal_error_rate(curve)}
    if not is_testable(pairs, threshold_from=threshold_from):
        return numbers
    verified = verify(pairs, threshold_from=threshold_from)
    numbers |= {"accuracy": verified.accuracy, "threshold": float(verified.thresholds.mean())}
    several = len(verified.folds) > 1  # one fold says nothing of the spread
    if several:
        numbers |= {"accuracy_std": verified.std, "accuracy_se": verified.standard_error}
    for name, far in FARS.items():
        rate = validation_rate(pairs, far=far, threshold_from=threshold_from)
        for end, values in (("", rate.rates), ("_measured_far", rate.false_rates)):
            if (known := values[np.isfinite(values)]).size:
                numbers[f"val_at_far_{name}{end}"] = float(known.mean())
        if several and (known := rate.rates[np.isfinite(rate.rates)]).size:
            numbers[f"val_at_far_{name}_std"] = float(known.std())
    return numbers


def is_testable(pairs: JudgedPairs, *, threshold_from: JudgedPairs | None = None) -> bool:
    """Whether there are pairs to test, and others to choose their threshold by."""
    return len(np.unique(pairs.folds)) >= (2 if threshold_from is None else 1)


def _accepted_by_fold(pairs: JudgedPairs, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Folds [F]; pairs nearer than each threshold, int64 [2, F, T], and all, int64 [2, F]: different, then same."""
    if not len(pairs.same):
        raise ValueError("verification needs at least one pair, got none")
    names = np.unique(pairs.folds)
    # distance < grid[k] where k is at least the number of thresholds up to the distance
    bins = np.searchsorted(grid, pairs.distances, side="right")
    cells = (pairs.same * len(names) + _places(names, pairs.folds)) * (len(grid) + 1) + bins
    counts = np.bincount(cells, minlength=2 * len(names) * (len(grid) + 1)).reshape(2, len(names), -1)
    return names, counts.cumsum(axis=2)[:, :, :-1], counts.sum(axis=2)


def _places(names: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """The folds numbered from 0 on without a gap."""
    return np.searchsorted(names, folds)


def _refuse_one_fold(names: np.ndarray) -> None:
    if len(names) < 2:
        raise ValueError("one fold has no other ones to choose its threshold: give threshold_from, or two folds")
