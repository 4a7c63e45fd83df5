"""The figures of attention."""

from chapter03_protonets.matching_network import MatchingNetwork
from common import attention_figures
from common.episodes import Episode

import keras
import numpy as np
import pytest


def episode(k_shot=1, channels=1):
    """Two classes, two queries of each, in mixed order."""
    random = np.random.default_rng(0)
    shape = (8, 8, channels)
    support_y = np.repeat([1, 0], k_shot).astype(np.int32)
    query_y = np.array([1, 0, 0, 1], np.int32)
    support_x = random.uniform(size=(2 * k_shot, *shape)).astype(np.float32)
    return Episode(support_x, support_y, random.uniform(size=(4, *shape)).astype("f"), query_y)


def flat_learner(fce_steps=0, channels=1):
    layers = [keras.Input((8, 8, channels)), keras.layers.Flatten(), keras.layers.Dense(4)]
    return MatchingNetwork(keras.Sequential(layers), fce_steps=fce_steps)


def matrices(figure):
    """The images as large as a matrix, not the pictures beside it."""
    return [
        next(image for image in axis.images if image.cmap.name == "Blues")
        for axis in figure.axes
        if axis.images
    ]


def test_items_are_ordered_by_class():
    order = attention_figures.by_class(np.array([1, 0, 2, 1, 0, 1]), most=2)
    assert order.tolist() == [1, 4, 0, 3, 2]


@pytest.mark.parametrize(("fce_steps", "n_steps"), [(0, 1), (1, 2), (2, 3), (5, 4)])
def test_first_and_last_readings_are_shown(fce_steps, n_steps):
    steps = attention_figures.attention_steps(flat_learner(fce_steps), episode())
    assert len(steps) == n_steps
    for matrix in steps.values():
        assert matrix.shape == (4, 2)
        np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=1e-5)
    if fce_steps:  # nothing is known when the support set is read for the first time
        np.testing.assert_allclose(steps["reading $r_0$"], 0.5, rtol=1e-5)


@pytest.mark.parametrize(("k_shot", "channels"), [(1, 1), (2, 3), (6, 1)])
def test_a_matrix_is_drawn_for_each_step(k_shot, channels):
    one = episode(k_shot, channels)
    steps = attention_figures.attention_steps(flat_learner(2, channels), one)
    drawn = matrices(attention_figures.draw_attention(steps, one))
    assert len(drawn) == len(steps) == 3
    rows, columns = [1, 2, 0, 3], np.argsort(one.support_y, kind="stable")
    for image, matrix in zip(drawn, steps.values()):
        np.testing.assert_allclose(image.get_array(), matrix[np.ix_(rows, columns)])
