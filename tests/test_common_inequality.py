"""Inequality measures against hand values, their axioms, and the identities between them."""

import math

from common import inequality
from common.errors import UserError
from common.inequality import MEASURES, atkinson, generalised_entropy, gini, theil, variance_of_logs

import numpy as np
import pytest
import tensorflow as tf

LOSSES = (1.0, 2.0, 3.0, 4.0)
ALL = [
    *MEASURES.values(),
    lambda values: generalised_entropy(values, 0),
    lambda values: generalised_entropy(values, -1.5),
    lambda values: atkinson(values, 1),
    lambda values: atkinson(values, 2.5),
]
every_measure = pytest.mark.parametrize("measure", ALL)


def some(n=7, seed=0):
    return tf.constant(np.random.default_rng(seed).uniform(0.2, 5, n))


def gradient(measure, values):
    values = tf.constant(values, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(values)
        index = measure(values)
    return tape.gradient(index, values).numpy()


@pytest.mark.parametrize(
    ("measure", "options", "expected"),
    [
        (theil, {}, 0.10644),
        (generalised_entropy, {"a": 0}, 0.12178),
        (generalised_entropy, {}, 0.1),
        (generalised_entropy, {"a": 2}, 0.1),
        (generalised_entropy, {"a": 1}, 0.10644),
        (atkinson, {}, 0.05559),
        (atkinson, {"e": 1}, 0.11465),
        (gini, {}, 0.25),
        (variance_of_logs, {}, 0.27105),
    ],
)
def test_of_one_to_four(measure, options, expected):
    assert float(measure(LOSSES, **options)) == pytest.approx(expected, abs=5e-6)
    assert float(measure(LOSSES[::-1], **options)) == pytest.approx(expected, abs=5e-6)


# Axioms


@every_measure
def test_zero_where_all_are_equal_and_only_there(measure):
    assert float(measure(tf.fill([5], tf.constant(2.7, tf.float64)))) == pytest.approx(0, abs=1e-14)
    assert float(measure(tf.constant([2.7], tf.float64))) == pytest.approx(0, abs=1e-14)
    assert float(measure(tf.constant([1, 1, 1.05], tf.float64))) > 1e-5


@every_measure
def test_a_factor_on_all_values_changes_nothing(measure):
    for factor in (1e-3, 40.0):
        assert float(measure(factor * some())) == pytest.approx(float(measure(some())), rel=1e-12)


@every_measure
def test_order_and_copies_change_nothing(measure):
    values = some()
    for other in (values[::-1], tf.concat([values, values], 0)):
        assert float(measure(other)) == pytest.approx(float(measure(values)), rel=1e-12)


@every_measure
def test_giving_from_the_largest_to_the_smallest_lowers_it(measure):
    values = np.sort(some())
    given = values + 0.3 * np.eye(len(values))[0] - 0.3 * np.eye(len(values))[-1]
    assert float(measure(given)) < float(measure(values))


# Identities


def test_measures_are_related():
    values = some()
    r = values / tf.reduce_mean(values)
    assert float(generalised_entropy(values)) == pytest.approx(float(np.var(r) / 2))
    assert float(atkinson(values, 1)) == pytest.approx(
        1 - math.exp(-float(generalised_entropy(values, 0)))
    )
    for limit, near in ((0, 1e-6), (1, 1 + 1e-6)):
        assert float(generalised_entropy(values, near)) == pytest.approx(
            float(generalised_entropy(values, limit)), rel=1e-4
        )
    assert float(atkinson(values, 1 + 1e-6)) == pytest.approx(float(atkinson(values, 1)), rel=1e-4)


def test_largest_values():
    alone = tf.constant([0, 0, 0, 8.0])  # one task has all of the loss
    assert float(theil(alone)) == pytest.approx(math.log(4), abs=1e-5)
    assert float(gini(alone)) == pytest.approx(0.75, abs=1e-5)
    assert float(atkinson(alone, 1)) == pytest.approx(1, abs=1e-5)


@every_measure
def test_gradient_is_orthogonal_to_the_values_and_that_of_a_difference_quotient(measure):
    values = some().numpy()
    found = gradient(measure, values)
    assert found @ values == pytest.approx(0, abs=1e-12)  # a common factor changes nothing
    for index in range(len(values)):
        step = 1e-6 * np.eye(len(values))[index]
        expected = float(measure(values + step) - measure(values - step)) / 2e-6
        assert found[index] == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_gradient_of_theil_by_hand():
    # (ln r_i - Theil) / (M mean)
    found = gradient(theil, LOSSES)
    np.testing.assert_allclose(found, (-0.1023, -0.0330, 0.0076, 0.0364), atol=5e-5)


@every_measure
def test_equal_values_are_not_moved(measure):
    np.testing.assert_allclose(gradient(measure, (2.0, 2.0, 2.0)), 0, atol=1e-14)


def test_ties_add_nothing_to_the_gradient_of_gini():
    # Of l = (1, 1, 4): G = 2 |l_1 - l_3| + 2 |l_2 - l_3| over 2 * 3 * 6, the tie left out;
    # d G / d l_1 = (-2 - 12 / 6) / 36, d G / d l_3 = (4 - 12 / 6) / 36.
    np.testing.assert_allclose(gradient(gini, (1, 1, 4)), (-1 / 9, -1 / 9, 1 / 18))


# Entropy


def test_entropy_in_nats():
    logits = tf.math.log([[0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 1e-30, 1e-30], [1, 0, 0, 0]])
    expected = (math.log(4), math.log(2), 0)
    np.testing.assert_allclose(inequality.entropy(logits[:2]), expected[:2], atol=1e-6)
    assert float(inequality.entropy(tf.constant([200.0, 0, 0, 0]))) == pytest.approx(0)
    half = tf.zeros([2, 3, 5], tf.float16)
    assert inequality.entropy(half).shape == (2, 3)
    assert inequality.entropy(half).dtype == tf.float32


def test_theil_is_the_entropy_that_is_missing():
    shares = np.array(LOSSES) / np.sum(LOSSES)
    missing = math.log(4) - float(inequality.entropy(tf.math.log(tf.constant(shares))))
    assert float(theil(LOSSES)) == pytest.approx(missing, abs=1e-6)


# The Lorenz curve


def test_lorenz_curve():
    curve = inequality.lorenz_curve([4.0, 1.0, 3.0, 2.0], points=5)
    np.testing.assert_allclose(curve, (0, 0.1, 0.3, 0.6, 1), rtol=1e-6)
    np.testing.assert_allclose(inequality.lorenz_curve([2.0] * 3, 7), np.linspace(0, 1, 7), 1e-6)
    curve = inequality.lorenz_curve([1.0, 3.0], points=5)  # between two values a straight line
    np.testing.assert_allclose(curve, (0, 0.125, 0.25, 0.625, 1), rtol=1e-6)


@pytest.mark.parametrize("n", [1, 4, 9, 600])
def test_gini_is_twice_the_area_between_the_curve_and_the_diagonal(n):
    values = some(n)
    curve = inequality.lorenz_curve(values, n + 1).numpy()
    area = np.sum(curve[1:] + curve[:-1]) / (2 * n)
    assert float(gini(values)) == pytest.approx(1 - 2 * area, abs=1e-5)


# Numbers at the edge, and bad input


@pytest.mark.parametrize("measure", MEASURES.values())
def test_a_loss_of_zero_gives_numbers(measure):
    assert float(measure([0.0, 0.0, 0.0])) == pytest.approx(0, abs=1e-6)
    assert np.isfinite(float(measure([0.0, 1.0, 2.0])))
    assert np.all(np.isfinite(gradient(measure, (0.0, 1.0, 2.0))))


def test_measures_work_in_a_graph():
    for measure in MEASURES.values():
        inside = tf.function(measure)(tf.constant(LOSSES))
        assert float(inside) == pytest.approx(float(measure(LOSSES)))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([1.0, -2.0], "at least 0, found -2.0"),
        ([[1.0, 2.0]], r"shape \(M,\), found \(1, 2\)"),
        ([], r"shape \(M,\), found \(0,\)"),
        (3.0, r"shape \(M,\), found \(\)"),
    ],
)
def test_what_has_no_inequality_is_refused(values, words):
    for measure in MEASURES.values():
        with pytest.raises(UserError, match=words):
            measure(tf.constant(values))


def test_negative_aversion_is_refused():
    with pytest.raises(UserError, match="at least 0, got -1"):
        atkinson(LOSSES, -1)
