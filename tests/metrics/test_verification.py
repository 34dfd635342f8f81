"""The protocol of LFW: by hand, on distances with known answers, and beside a slow plain reference."""

from __future__ import annotations

import numpy as np
import pytest

from mnvision.metrics.verification import (
    JudgedPairs,
    area_under_curve,
    equal_error_rate,
    roc_curve,
    squared_distances,
    validation_rate,
    verify,
)
from mnvision.ops.folds import folds_in_order


def judged(distances, same, folds=None):
    same = np.array(same, bool)
    folds = np.zeros(len(same), np.int64) if folds is None else np.array(folds)
    return JudgedPairs(np.array(distances, np.float64), same, folds)


def random_pairs(seed, *, count=200, folds=10, same_mean=0.8, spread=0.35):
    """Balanced in every fold; some distances fall on thresholds exactly, and some are equal."""
    rng = np.random.default_rng(seed)
    same = np.tile([True, False], count // 2)
    distances = np.clip(rng.normal(np.where(same, same_mean, 1.4), spread), 0, 3.9999)
    distances[::7] = np.round(distances[::7], 2)
    distances[3::11] = distances[3]
    return JudgedPairs(distances, same, np.repeat(np.arange(folds), count // folds))


# the slow plain reference: loops over folds, thresholds and pairs, as the protocol is told


def slow_accuracy(pairs, threshold, rows):
    right = [(pairs.distances[i] < threshold) == pairs.same[i] for i in rows]
    return sum(right) / len(right)


def slow_rate(pairs, threshold, rows, *, same):
    of_kind = [i for i in rows if pairs.same[i] == same]
    return sum(pairs.distances[i] < threshold for i in of_kind) / len(of_kind)


def slow_verify(pairs):
    accuracies, thresholds = [], []
    for fold in sorted(set(pairs.folds.tolist())):
        train = [i for i in range(len(pairs.same)) if pairs.folds[i] != fold]
        test = [i for i in range(len(pairs.same)) if pairs.folds[i] == fold]
        best, chosen = -1.0, None
        for threshold in np.arange(0, 4, 0.01):
            accuracy = slow_accuracy(pairs, threshold, train)
            if accuracy > best:
                best, chosen = accuracy, threshold
        accuracies.append(slow_accuracy(pairs, chosen, test))
        thresholds.append(chosen)
    return accuracies, thresholds


def slow_validation_rate(pairs, far):
    rates, false_rates, thresholds = [], [], []
    grid = np.arange(0, 4, 0.001)
    for fold in sorted(set(pairs.folds.tolist())):
        train = [i for i in range(len(pairs.same)) if pairs.folds[i] != fold]
        test = [i for i in range(len(pairs.same)) if pairs.folds[i] == fold]
        fars = [slow_rate(pairs, threshold, train, same=False) for threshold in grid]
        chosen = 0.0
        if max(fars) >= far:
            below = max(k for k in range(len(grid)) if fars[k] <= far)
            chosen = grid[below]
            if below + 1 < len(grid):
                share = (far - fars[below]) / (fars[below + 1] - fars[below])
                chosen += share * (grid[below + 1] - grid[below])
        rates.append(slow_rate(pairs, chosen, test, same=True))
        false_rates.append(slow_rate(pairs, chosen, test, same=False))
        thresholds.append(chosen)
    return rates, false_rates, thresholds


@pytest.mark.parametrize("seed", range(3))
def test_accuracy_is_that_of_the_slow_reference(seed):
    pairs = random_pairs(seed)
    found = verify(pairs)
    accuracies, thresholds = slow_verify(pairs)
    np.testing.assert_allclose(found.accuracies, accuracies, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(found.thresholds, thresholds)
    assert 0.7 < found.accuracy < 0.95


@pytest.mark.parametrize(("seed", "far"), [(0, 0.1), (1, 0.02), (3, 1e-3)])
def test_validation_rate_is_that_of_the_slow_reference(seed, far):
    pairs = random_pairs(seed, count=90, folds=3)
    found = validation_rate(pairs, far=far)
    for one, other in zip(found, slow_validation_rate(pairs, far), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)
    assert np.ptp(found.thresholds) > 0


# distances with known answers


def test_pairs_that_a_threshold_parts_are_all_told_right():
    folds = np.repeat(np.arange(10), 4)
    pairs = judged(np.tile([0.2, 0.5, 1.5005, 3.0], 10), np.tile([1, 1, 0, 0], 10), folds)
    found = verify(pairs)
    assert (found.accuracy, found.std, found.standard_error) == (1.0, 0.0, 0.0)
    # the least of the thresholds that are as good: the first one above 0.5
    np.testing.assert_allclose(found.thresholds, 0.51)
    rate = validation_rate(pairs, far=1e-3)
    np.testing.assert_array_equal(rate.rates, 1.0)
    np.testing.assert_array_equal(rate.false_rates, 0.0)
    # No different pair is accepted at 1.5, half are at 1.501: 1e-3 / 0.5 of the way to it
    np.testing.assert_allclose(rate.thresholds, 1.5 + 0.001 * 1e-3 / 0.5)
    curve = roc_curve(pairs)
    assert (area_under_curve(curve), equal_error_rate(curve)) == (1.0, 0.0)


def test_less_is_same_and_equal_is_not():
    """A pair at 0.5 is the same at the threshold 0.51 alone."""
    pairs = judged([0.5, 0.5, 0.51, 0.51], [1, 1, 0, 0], [0, 1, 0, 1])
    found = verify(pairs)
    np.testing.assert_allclose(found.thresholds, 0.51)
    assert found.accuracy == 1.0


def test_the_threshold_comes_from_the_other_folds():
    """Fold 1's distances are twice fold 0's: each fold is tested with the threshold that suits the other."""
    distances = [0.2, 0.3, 0.5, 0.6, 0.4, 0.6, 1.0, 1.2]
    found = verify(judged(distances, [1, 1, 0, 0] * 2, [0] * 4 + [1] * 4))
    np.testing.assert_allclose(found.thresholds, [0.61, 0.31])
    # at 0.61 all of fold 0 are the same: two of four right; at 0.31 none of fold 1 is: two of four
    np.testing.assert_array_equal(found.accuracies, [0.5, 0.5])


def test_mean_deviation_and_error_are_those_of_the_folds():
    pairs = judged([0.1, 1.0] * 3 + [1.0, 0.1], [1, 0] * 4, np.repeat(np.arange(4), 2))
    found = verify(pairs)
    np.testing.assert_array_equal(found.accuracies, [1, 1, 1, 0])
    assert found.accuracy == 0.75
    assert found.std == pytest.approx(np.sqrt(0.1875))
    assert found.standard_error == pytest.approx(0.25)  # sqrt(0.25 / 4), the sample's variance being 0.25


def test_distances_without_meaning_give_chance():
    rng = np.random.default_rng(0)
    pairs = random_pairs(0, count=6000)._replace(distances=rng.uniform(0, 4, 6000))
    assert verify(pairs).accuracy == pytest.approx(0.5, abs=0.03)
    curve = roc_curve(pairs)
    assert area_under_curve(curve) == pytest.approx(0.5, abs=0.02)
    assert equal_error_rate(curve) == pytest.approx(0.5, abs=0.02)


def test_swapped_flags_turn_the_curve_over():
    pairs = random_pairs(1)
    swapped = pairs._replace(same=~pairs.same)
    areas = [area_under_curve(roc_curve(some)) for some in (pairs, swapped)]
    assert areas[0] > 0.85
    assert sum(areas) == pytest.approx(1)
    # nothing is better than to call all of them the same, or none
    assert verify(swapped).accuracy == pytest.approx(0.5)


def test_a_rate_that_is_never_reached_has_the_threshold_0():
    pairs = judged([0.1, 4.0, 0.2, 4.0], [1, 0, 1, 0], [0, 0, 1, 1])
    found = validation_rate(pairs, far=1e-3)
    for some in found:
        np.testing.assert_array_equal(some, 0.0)


def test_a_rate_that_the_last_threshold_just_reaches():
    """Half of the different pairs are nearer than 3.999, and no more: it is the last threshold of that rate."""
    pairs = judged([0.1, 1.0, 4.0] * 2, [1, 0, 0] * 2, [0] * 3 + [1] * 3)
    found = validation_rate(pairs, far=0.5)
    np.testing.assert_allclose(found.thresholds, 3.999)
    for some, expected in ((found.rates, 1.0), (found.false_rates, 0.5)):
        np.testing.assert_array_equal(some, expected)


def test_300_different_pairs_a_fold_are_coarse():
    """At 1e-3 nine folds of 300 allow two pairs; at 1e-4 not one, and the threshold stops before the nearest."""
    folds = np.repeat(np.arange(10), 600)
    same = np.tile(np.repeat([True, False], 300), 10)
    distances = np.where(same, 0.5, 2.0005)
    different = np.flatnonzero(~same)
    distances[different[:4]] = [0.3005, 0.4, 0.6005, 0.7]  # all four in the first fold
    pairs = JudgedPairs(distances, same, folds)
    at_3, at_4 = (validation_rate(pairs, far=far) for far in (1e-3, 1e-4))
    # Fold 0 is judged by the others, which have none nearer than 2: all four are accepted, 13 times the FAR asked for
    assert at_3.false_rates.tolist() == [4 / 300] + [0.0] * 9
    # The others see 4 of 2,700: 2 at the threshold 0.6, 3 at 0.601, and 1e-3 is 2.7
    np.testing.assert_allclose(at_3.thresholds[1:], 0.6 + 0.001 * (1e-3 * 2700 - 2))
    np.testing.assert_array_equal(at_3.rates, 1.0)
    # 1e-4 is 0.27 of a pair: between 0.3 and 0.301, and no same pair is as near
    np.testing.assert_allclose(at_4.thresholds[1:], 0.3 + 0.001 * 0.27)
    assert at_4.rates.tolist() == [1.0] + [0.0] * 9


def test_a_threshold_from_other_pairs():
    other = judged([0.2, 0.3, 0.5, 0.6], [1, 1, 0, 0])
    pairs = judged([0.25, 0.4, 0.35, 0.9], [1, 1, 0, 0], [9, 9, 9, 9])
    found = verify(pairs, threshold_from=other)
    assert found.folds.tolist() == [9]
    np.testing.assert_allclose(found.thresholds, [0.31])
    assert found.accuracies.tolist() == [0.75]  # 0.4 is refused
    rate = validation_rate(pairs, far=0.25, threshold_from=other)
    # of the other different pairs none is nearer than 0.5, half are at 0.501: half way there
    np.testing.assert_allclose(rate.thresholds, 0.5005)
    assert (rate.rates.tolist(), rate.false_rates.tolist()) == ([1.0], [0.5])


def test_one_fold_alone_is_refused():
    for run in (verify, lambda pairs: validation_rate(pairs, far=0.1)):
        with pytest.raises(ValueError, match="threshold_from"):
            run(judged([0.1, 1.0], [1, 0]))
    with pytest.raises(ValueError, match="got none"):
        verify(judged([], []))
    with pytest.raises(ValueError, match="got 2 and 0"):
        roc_curve(judged([0.1, 1.0], [1, 1]))


# the curve


def test_area_counts_ordered_pairs_and_ties_half():
    """Mann and Whitney: of 3 x 3 comparisons 6 are right and 2 ties."""
    pairs = judged([0.1, 0.3, 0.7, 0.3, 0.7, 0.9], [1, 1, 1, 0, 0, 0])
    curve = roc_curve(pairs)
    wins = sum((s < d) + 0.5 * (s == d) for s in (0.1, 0.3, 0.7) for d in (0.3, 0.7, 0.9))
    assert area_under_curve(curve) == pytest.approx(wins / 9)
    np.testing.assert_allclose(curve.far, [0, 0, 1 / 3, 2 / 3, 1])
    np.testing.assert_allclose(curve.val, [0, 1 / 3, 2 / 3, 1, 1])
    # from (1/3, 2/3), where both errors are 1/3
    assert equal_error_rate(curve) == pytest.approx(1 / 3)


def test_equal_errors_between_two_points():
    # points (0, 0), (0, 1/2), (1, 1): 1 - x = 1/2 + x/2 at x = 1/3
    curve = roc_curve(judged([0.1, 0.5, 0.5], [1, 1, 0]))
    assert equal_error_rate(curve) == pytest.approx(1 / 3)


def test_the_area_is_that_of_the_mean_curve_on_fine_thresholds():
    """The protocol's own form: the mean over the folds of VAL and FAR at each threshold, joined by straight lines."""
    pairs = random_pairs(2)
    fars, vals = [], []
    for threshold in np.arange(0, 4.01, 0.01):
        of = [
            [slow_rate(pairs, threshold, np.flatnonzero(pairs.folds == fold).tolist(), same=same) for fold in range(10)]
            for same in (False, True)
        ]
        fars.append(np.mean(of[0]))
        vals.append(np.mean(of[1]))
    area = sum((fars[k + 1] - fars[k]) * (vals[k + 1] + vals[k]) / 2 for k in range(len(fars) - 1))
    assert area_under_curve(roc_curve(pairs)) == pytest.approx(area, abs=2e-3)


def test_distances_are_squared():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(50, 8)).astype(np.float32)
    first, second = rng.integers(0, 50, (2, 20_000))
    expected = ((vectors[first].astype(np.float64) - vectors[second]) ** 2).sum(axis=1)
    np.testing.assert_allclose(squared_distances(vectors, first, second), expected, rtol=1e-12)


def test_folds_in_order():
    same = np.repeat([True, False], [300, 300])
    folds = folds_in_order(same)
    assert np.bincount(folds[:300]).tolist() == np.bincount(folds[300:]).tolist() == [30] * 10
    assert (np.diff(folds[:300]) >= 0).all()
    assert folds_in_order(np.ones(3, bool)).tolist() == [0, 1, 2]
    assert folds_in_order(np.zeros(0, bool)).tolist() == []
