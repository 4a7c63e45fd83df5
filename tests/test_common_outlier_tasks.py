"""Outliers are as frequent as asked, marked, strange in the way they should be, and repeatable."""

from dataclasses import replace

from common.datasets import load
from common.episodes import EpisodeSampler
from common.errors import UserError
from common.outlier_tasks import OutlierTasks, with_outliers
from common.sine import SineTasks
from common.tasks import ClassificationTasks, Episode

import numpy as np
import pytest
import tensorflow as tf

SEED = (0, 3)


def sample(tasks, n_tasks=400, k_shot=4, n_query=3, seed=SEED):
    drawn = tasks.sample(tf.constant(seed), n_tasks, k_shot, n_query)
    return drawn._make(part.numpy() for part in drawn)


def test_as_many_outliers_as_asked_and_all_else_as_without():
    ordinary = sample(SineTasks())
    before = np.zeros(400, bool)
    for proportion in (0.0, 0.2, 0.4, 1.0):
        episode = sample(OutlierTasks(SineTasks(), proportion))
        assert episode.outlier.dtype == bool
        assert episode.outlier.mean() == pytest.approx(proportion, abs=0.07)
        assert np.all(episode.outlier[before])  # who is an outlier stays one
        before = episode.outlier
        for part, same in zip(episode, ordinary):
            np.testing.assert_array_equal(part[~before], same[~before])


def test_shuffled_targets_are_the_same_numbers_elsewhere():
    ordinary, episode = sample(SineTasks()), sample(OutlierTasks(SineTasks(), 1.0))
    for x, y, same_x, same_y in (
        (episode.support_x, episode.support_y, ordinary.support_x, ordinary.support_y),
        (episode.query_x, episode.query_y, ordinary.query_x, ordinary.query_y),
    ):
        np.testing.assert_array_equal(x, same_x)
        np.testing.assert_array_equal(np.sort(y, axis=1), np.sort(same_y, axis=1))
        assert np.mean(y != same_y) > 0.5


def test_shuffled_labels_are_balanced_and_say_nothing():
    tasks = ClassificationTasks(load("glyphs", "train"), 4)
    ordinary = sample(tasks, n_tasks=100, k_shot=5)
    episode = sample(OutlierTasks(tasks, 1.0), n_tasks=100, k_shot=5)
    assert episode.support_y.dtype == np.int32
    counts = [np.bincount(labels, minlength=4) for labels in episode.support_y]
    np.testing.assert_array_equal(counts, np.full((100, 4), 5))
    for labels, true in (
        (episode.support_y, ordinary.support_y),
        (episode.query_y, ordinary.query_y),
    ):
        assert np.mean(labels == true) == pytest.approx(0.25, abs=0.05)


def test_outliers_may_come_from_elsewhere():
    other = replace(SineTasks(), frequency=(2.0, 3.0))
    episode = sample(OutlierTasks(SineTasks(), 0.5, other))
    strange, ordinary = sample(other), sample(SineTasks())
    for part, there, here in zip(episode, strange, ordinary):
        np.testing.assert_array_equal(part[episode.outlier], there[episode.outlier])
        np.testing.assert_array_equal(part[~episode.outlier], here[~episode.outlier])


def test_a_sampler_keeps_its_seeds_and_says_which_tasks_are_outliers():
    plain = EpisodeSampler(SineTasks(), 1, 4, 3, seed=5)
    marked = with_outliers(plain, 0.3)
    assert isinstance(plain.episode(0), Episode)
    first, again = (next(iter(marked.dataset(6, start_step=2))) for _ in range(2))
    assert first.outlier.shape == (6,)
    for part, same in zip(first, again):
        np.testing.assert_array_equal(part, same)
    without = next(iter(plain.dataset(6, start_step=2)))
    keep = ~first.outlier.numpy()
    np.testing.assert_array_equal(first.query_y.numpy()[keep], without.query_y.numpy()[keep])
    batches = list(marked.fixed(5, 2))
    assert [len(batch.outlier) for batch in batches] == [2, 2, 1]


@pytest.mark.parametrize("proportion", [-0.1, 1.5, float("nan")])
def test_impossible_proportions_are_refused(proportion):
    with pytest.raises(UserError, match=f"0..1, found {proportion}"):
        OutlierTasks(SineTasks(), proportion)
