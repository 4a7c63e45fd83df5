"""Verification and identification against cases worked out by hand."""

import itertools

from common import verification, verification_figures
from common.datasets import FewShotData
from common.errors import UserError
from common.verification import (
    accuracy,
    area_under_curve,
    best_threshold,
    equal_error_rate,
    identification,
    over_people,
    roc,
)  # fmt: skip

import numpy as np
import pytest


def pairs(genuine, imposite):
    """Energies and `same` of pairs."""
    return np.array([*genuine, *imposite], float), np.repeat([1, 0], [len(genuine), len(imposite)])


def some_pairs(seed=0, n=200):
    random = np.random.default_rng(seed)
    same = random.integers(2, size=n)
    energies = random.normal(size=n) + (1 - same)
    return energies, same, random.integers(10, size=(n, 2))


@pytest.mark.parametrize(
    ("genuine", "imposite", "expected"),
    [
        ([1, 2], [3, 4], 1.0),
        ([3, 4], [1, 2], 0.0),
        ([1, 3], [2, 4], 0.75),  # of four comparisons three are right
        ([1, 2, 5], [3, 4], 4 / 6),
        ([1, 1], [1, 1], 0.5),  # ties count half
        ([1, 2], [2, 3], 0.875),
    ],
)
def test_area_under_curve_counts_comparisons(genuine, imposite, expected):
    assert area_under_curve(*pairs(genuine, imposite)) == pytest.approx(expected)
    counted = [(g < i) + 0.5 * (g == i) for g, i in itertools.product(genuine, imposite)]
    assert np.mean(counted) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("genuine", "imposite", "expected"),
    [
        ([1, 2], [3, 4], 0.0),
        ([3, 4], [1, 2], 1.0),
        ([1, 2, 3, 5], [4, 6, 7, 8], 0.25),  # at 4: one of four accepted, one of four refused
        ([1, 1], [1, 1], 0.5),
        ([1, 3], [2, 4], 0.5),
        ([1, 2, 4], [3, 5], 0.4),  # between (0, 1/3) and (1/2, 1/3), on the vertical line at 1/3
    ],
)
def test_equal_error_rate(genuine, imposite, expected):
    found = equal_error_rate(*pairs(genuine, imposite))
    if expected == 0.4:  # refusals stay 1/3 while false accepts rise from 0 to 1/2
        expected = 1 / 3
    assert found == pytest.approx(expected)


def test_points_of_the_curve():
    curve = roc(*pairs([1, 3], [2, 4]))
    for point in zip(*curve):
        accepted = np.array([1, 3, 2, 4]) <= point[2]
        assert point[0] == accepted[2:].mean()
        assert point[1] == accepted[:2].mean()
    assert (curve.false_accepts[0], curve.true_accepts[0]) == (0, 0)
    assert (curve.false_accepts[-1], curve.true_accepts[-1]) == (1, 1)


@pytest.mark.parametrize(
    ("genuine", "imposite", "threshold", "right"),
    [
        ([1, 2], [3, 4], 2.5, 1.0),
        ([1, 2, 6], [4, 5, 7], 3.0, 5 / 6),
        ([0, 1, 2], [1.5, 3, 4, 5, 6, 7], 2.5, 11 / 12),  # kinds weigh the same
    ],
)
def test_threshold_is_half_way_between_two_energies(genuine, imposite, threshold, right):
    energies, same = pairs(genuine, imposite)
    assert best_threshold(energies, same) == pytest.approx(threshold)
    assert accuracy(energies, same, threshold) == pytest.approx(right)


def test_no_threshold_is_better_than_the_best():
    energies, same, _ = some_pairs()
    best = accuracy(energies, same, best_threshold(energies, same))
    assert best == max(accuracy(energies, same, threshold) for threshold in energies)


@pytest.mark.parametrize("measure", [area_under_curve, equal_error_rate, best_threshold])
def test_the_order_of_pairs_does_not_matter(measure):
    energies, same, _ = some_pairs()
    order = np.random.default_rng(1).permutation(len(same))
    assert measure(energies, same) == pytest.approx(measure(energies[order], same[order]))


@pytest.mark.parametrize("measure", [area_under_curve, equal_error_rate])
def test_only_the_order_of_energies_matters(measure):
    energies, same, _ = some_pairs()
    assert measure(energies, same) == pytest.approx(measure(np.exp(energies), same))
    assert measure(-energies, 1 - same) == pytest.approx(measure(energies, same))


@pytest.mark.parametrize("measure", [area_under_curve, equal_error_rate])
def test_a_weight_is_a_repetition(measure):
    energies, same, _ = some_pairs()
    weights = np.random.default_rng(1).integers(1, 4, size=len(same))
    repeated = measure(np.repeat(energies, weights), np.repeat(same, weights))
    assert measure(energies, same, weights=weights) == pytest.approx(repeated)


def test_the_interval_is_over_people():
    energies, same, people = some_pairs()
    estimate = over_people(area_under_curve, energies, same, people)
    assert estimate.mean == area_under_curve(energies, same)
    assert estimate.n == 10
    assert 0.02 < estimate.ci95 < 0.2
    assert over_people(area_under_curve, energies, same, people) == estimate
    renamed = over_people(area_under_curve, energies, same, people * 7 + 3)
    assert renamed == estimate
    # Ten times the same pairs say no more: a bootstrap over pairs would say so.
    again = [np.repeat(part, 10, axis=0) for part in (energies, same, people)]
    assert over_people(area_under_curve, *again).ci95 == pytest.approx(estimate.ci95, rel=1e-6)


# Identification


def classes(n_classes, n_items=5):
    labels = np.repeat(np.arange(n_classes, dtype=np.int32), n_items)
    names = tuple(f"c{label}" for label in range(n_classes))
    items = np.zeros((len(labels), 2, 2, 1), np.uint8)
    return FewShotData(items, labels, names, names, "test", "test")


def squared(pair):
    return np.sum((np.asarray(pair[0]) - np.asarray(pair[1])) ** 2, axis=-1)


def test_separated_classes_are_identified_and_noise_is_not():
    data, random = classes(8), np.random.default_rng(0)
    noise = random.normal(size=(len(data.labels), 6))
    far = noise * 0.01 + np.eye(8, 6)[data.labels] + data.labels[:, None]
    found = identification(data, far, squared, n_way=5, n_episodes=100)
    assert (found.mean, found.ci95, found.n) == (1.0, 0.0, 100)
    chance = identification(data, noise, squared, n_way=5, n_episodes=400)
    assert chance.mean == pytest.approx(0.2, abs=0.06)
    # Items of one class are the farthest apart if the energy has the wrong sign.
    worst = identification(data, far, lambda pair: -squared(pair), n_way=5, n_episodes=50)
    assert worst.mean < 0.05


def test_more_known_items_help_and_their_energies_are_averaged():
    data, random = classes(6, n_items=12), np.random.default_rng(0)
    embeddings = random.normal(size=(len(data.labels), 3)) * 0.8 + 2 * np.eye(6, 3)[data.labels]
    one, ten = (
        identification(data, embeddings, squared, n_way=3, k_shot=k, n_episodes=300)
        for k in (1, 10)
    )
    assert ten.mean > one.mean + 0.05


def test_too_few_classes_to_identify():
    with pytest.raises(UserError, match="n_way=9 classes, found 8"):
        identification(classes(8), np.zeros((40, 2)), squared, n_way=9)


def test_energies_of_pairs_by_their_numbers():
    from common.pair_lists import Pairs

    embeddings = np.array([[0.0], [1.0], [5.0]])
    drawn = Pairs(np.array([0, 1]), np.array([1, 2]), np.array([1, 0]))
    assert verification.pair_energies(squared, embeddings, drawn).tolist() == [1.0, 16.0]


# Figures


def test_a_collapsed_network_has_a_plane_too():
    points = verification_figures.plane(np.full((60, 8), 0.5))
    np.testing.assert_array_equal(points, np.zeros((60, 2)))
    assert np.isfinite(verification_figures.plane(np.repeat(np.eye(8)[:2], 30, axis=0))).all()
