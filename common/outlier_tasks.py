"""Tasks among which some do not belong: to learn how a meta-learner bears them.

    sampler = with_outliers(sampler, 0.2)          # a fifth of the tasks with shuffled labels

Which tasks are outliers is drawn in the graph from the episode's seed, and the episode says so.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

from common.episodes import EpisodeSampler
from common.errors import UserError
from common.tasks import Episode, TaskDistribution

import tensorflow as tf


class MarkedEpisode(NamedTuple):
    """An `Episode` that says of each task whether it is an outlier, bool `(tasks,)`."""

    support_x: Any
    support_y: Any
    query_x: Any
    query_y: Any
    outlier: Any


class OutlierTasks:
    """A task distribution of which each task is, with some probability, an outlier.

    The outlier is a task of `other`; or, if that is None, the ordinary task with its labels or
    targets dealt out anew among the examples, in the support set and in the query set by
    themselves: they look as usual, and say nothing about the inputs.

    All else is drawn as without outliers: tasks that are none are the same for every proportion,
    and an outlier at one proportion is one at every larger proportion.

    Args:
        tasks: The ordinary tasks, for instance `SineTasks` or `ClassificationTasks`.
        proportion: Probability of an outlier, in 0..1.
        other: The distribution of outliers, of the same shapes, or None.

    Raises:
        UserError: The proportion is out of range.
    """

    def __init__(
        self, tasks: TaskDistribution, proportion: float, other: TaskDistribution | None = None
    ):
        if not 0 <= proportion <= 1:
            raise UserError(
                f"expected a proportion of outliers in 0..1, found {proportion}; change it"
            )
        self.tasks, self.proportion, self.other = tasks, float(proportion), other

    def sample(self, seed: tf.Tensor, n_tasks: int, k_shot: int, n_query: int) -> MarkedEpisode:
        """Draws `n_tasks` tasks as `TaskDistribution` asks, and marks the outliers."""
        ordinary = self.tasks.sample(seed, n_tasks, k_shot, n_query)
        chance = _uniform(tf.random.fold_in(seed, 1), (n_tasks,))
        outlier = chance < self.proportion
        if self.other is None:
            strange = ordinary._replace(
                support_y=_dealt_anew(ordinary.support_y, tf.random.fold_in(seed, 2)),
                query_y=_dealt_anew(ordinary.query_y, tf.random.fold_in(seed, 3)),
            )
        else:
            strange = self.other.sample(seed, n_tasks, k_shot, n_query)
        return MarkedEpisode(*_choose(outlier, strange, ordinary), outlier)


def with_outliers(
    sampler: EpisodeSampler, proportion: float, other: TaskDistribution | None = None
) -> EpisodeSampler:
    """A sampler like the one given, whose tasks are `OutlierTasks`; arguments as there."""
    marked = copy.copy(sampler)
    marked.tasks = OutlierTasks(sampler.tasks, proportion, other)
    return marked


def _choose(outlier: tf.Tensor, strange: Episode, ordinary: Episode) -> list[tf.Tensor]:
    """Task by task the part of one episode or of the other."""
    return [
        tf.where(tf.reshape(outlier, [-1] + [1] * (there.shape.rank - 1)), there, here)
        for there, here in zip(strange, ordinary, strict=True)
    ]


def _dealt_anew(labels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """The labels `(tasks, examples, ...)` of each task in another order."""
    order = tf.argsort(_uniform(seed, labels.shape[:2]), axis=1)
    return tf.gather(labels, order, batch_dims=1)


def _uniform(seed: tf.Tensor, shape: tuple[int, ...]) -> tf.Tensor:
    return tf.random.stateless_uniform(shape, seed, alg="philox")
