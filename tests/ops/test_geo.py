from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mnvision.ops.geo import best_constants, haversine, haversine_tensor, mean_places, to_places, to_vectors

PARIS, NEW_YORK, SYDNEY = [48.8584, 2.2945], [40.6892, -74.0445], [-33.8568, 151.2153]


def test_golden_distances():
    """FACTS: the earth as a sphere of 6371 km."""
    found = haversine(np.array(PARIS), np.array([NEW_YORK, SYDNEY]))
    assert found.tolist() == pytest.approx([5837.415829, 16963.859436], abs=1e-6)
    assert haversine(np.zeros(2), np.array([0.0, 1.0])) == pytest.approx(2 * math.pi * 6371 / 360)
    assert haversine(np.zeros(2), np.array([0.0, 180.0])) == pytest.approx(math.pi * 6371)
    assert haversine(np.array([90.0, 17.0]), np.array([-90.0, 3.0])) == pytest.approx(math.pi * 6371)
    assert haversine(np.array(PARIS), np.array(PARIS)) == 0


def test_distances_are_angles_between_vectors():
    rng = np.random.default_rng(0)
    one, other = (to_places(rng.normal(size=(200, 3))) for _ in range(2))
    angles = np.arccos((to_vectors(one) * to_vectors(other)).sum(-1).clip(-1, 1))
    np.testing.assert_allclose(haversine(one, other), 6371 * angles, rtol=1e-9)
    tensors = haversine_tensor(torch.from_numpy(one), torch.from_numpy(other))
    np.testing.assert_allclose(tensors.numpy(), haversine(one, other), rtol=1e-12)


def test_places_become_vectors_and_back():
    assert to_vectors(np.array([[0.0, 0.0], [0.0, 90.0], [90.0, 5.0]])).round(12).tolist() == [
        [1, 0, 0],
        [0, 1, 0],
        [0, 0, 1],
    ]
    places = np.array([PARIS, NEW_YORK, SYDNEY, [-89.9, -179.9]])
    np.testing.assert_allclose(to_places(7 * to_vectors(places)), places, atol=1e-9)


def test_means_hold_across_the_180th_meridian_and_at_the_pole():
    places = np.array([[0.0, 179.0], [0.0, -179.0], [80.0, 0.0], [80.0, 120.0], [80.0, -120.0], [5.0, 5.0]])
    means = mean_places(places, np.array([0, 0, 1, 1, 1, -1]), count=3)
    assert abs(means[0, 1]) == pytest.approx(180)
    assert means[0, 0] == pytest.approx(0)
    assert means[1, 0] == pytest.approx(90)
    assert np.isnan(means[2]).all()  # an empty group
    assert np.isnan(mean_places(np.array([[0.0, 0.0], [0.0, 180.0]]), np.zeros(2, int), count=1)).all()


def test_the_best_constants_are_those_of_a_slow_search():
    rng = np.random.default_rng(3)
    town = np.array([10.0, 20.0]) + rng.normal(scale=0.05, size=(30, 2))  # some 5 km
    land = np.array([50.0, 100.0]) + rng.normal(scale=6.0, size=(90, 2))  # some 700 km
    places = np.concatenate((town, land))
    for distance, answer in zip((25, 2500), best_constants(places, distances=(25, 2500)), strict=True):
        most = max((haversine(one, places) <= distance).sum() for one in places)
        assert (haversine(answer, places) <= distance).sum() == most
    small, large = best_constants(places, distances=(25, 2500))
    assert haversine(small, np.array([10.0, 20.0])) < 30  # the town is the best of short distances alone
    assert haversine(large, np.array([50.0, 100.0])) < 2500


def test_the_best_constants_do_not_depend_on_the_order():
    rng = np.random.default_rng(5)
    places = rng.uniform((-60, -180), (70, 180), size=(2500, 2))  # more than are tried
    found = best_constants(places)
    for _ in range(3):
        assert best_constants(rng.permutation(places)).tolist() == found.tolist()


def test_a_kilometre_is_told_from_more():
    """A town of three and one of two pictures; the first stretches over 1.9 km, 0.95 km on each side of its middle."""
    places = np.array([[0.0, 0.0], [0.0, 0.0085], [0.0, 0.017], [30.0, 30.0], [30.0, 30.001]])
    assert best_constants(places, distances=(1,)).tolist() == [[0.0, 0.0085]]
    wider = places * [1, 1.1]  # now 1.04 km on each side
    assert haversine(best_constants(wider, distances=(1,)), wider[3]) < 0.2
