"""Episodes: small tasks with a support set to learn from and a query set to be judged on.

`EpisodeSampler` feeds them to training (`dataset`) and evaluation (`fixed`). Everything is drawn
inside the `tf.data` graph with stateless random numbers: an episode is a function of its seed,
so that it is the same in every process, and a run resumed at step s meets the batches that the
unbroken run would have met.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.errors import UserError
from common.tasks import ClassificationTasks, Episode, TaskDistribution, whole_number

import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    from common.datasets import FewShotData


class EpisodeSampler:
    """Draws episodes for training and for evaluation.

    Classes of an episode, and items of a class, are drawn without replacement; support and query
    are disjoint; which class gets which label is random, and so is the order of the rows.

    Args:
        data: A `FewShotData`, or a task distribution such as `SineTasks`.
        n_way: Number of classes in an episode; 1 for a task distribution.
        k_shot: Number of support items per class.
        n_query: Number of query items per class.
        rotations: See `ClassificationTasks`.
        within_group: See `ClassificationTasks`.
        seed: All that is drawn depends on it; from 0 to 2**30 - 1.

    Raises:
        UserError: The data cannot give such episodes, or a number is out of range.
    """

    def __init__(
        self,
        data: FewShotData | TaskDistribution,
        n_way: int,
        k_shot: int,
        n_query: int,
        *,
        rotations: bool = False,
        within_group: bool = False,
        seed: int = 0,
    ):
        self.data = data
        self.n_way = whole_number("n_way", n_way, minimum=1)
        self.k_shot = whole_number("k_shot", k_shot, minimum=1)
        self.n_query = whole_number("n_query", n_query, minimum=1)
        self.seed = whole_number("seed", seed, minimum=0, maximum=2**30 - 1)
        if not hasattr(data, "sample"):
            self.tasks = ClassificationTasks(data, n_way, rotations, within_group)
            _check_items(data, self.k_shot, self.n_query)
        elif n_way != 1 or rotations or within_group:
            given = {"n_way": n_way if n_way != 1 else 0, "rotations": rotations}
            given["within_group"] = within_group
            found = ", ".join(f"{name}={value}" for name, value in given.items() if value)
            raise UserError(
                "expected n_way=1, no rotations and no groups for a distribution of regression "
                f"tasks, found {found}; leave it out or choose a data set with classes"
            )
        else:
            self.tasks = data

    def dataset(self, meta_batch_size: int, start_step: int = 0) -> tf.data.Dataset:
        """Endless batches for training; batch number s depends on `(seed, s)` only.

        Args:
            meta_batch_size: Number of tasks in a batch.
            start_step: Number of the first batch: the step at which training goes on.

        Returns:
            A prefetched `tf.data.Dataset` of `Episode`.
        """
        n_tasks = whole_number("meta_batch_size", meta_batch_size, minimum=1)
        steps = tf.data.Dataset.counter(whole_number("start_step", start_step, minimum=0))
        return steps.map(
            lambda step: self._sample(_seed(2 * self.seed, step), n_tasks),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        ).prefetch(tf.data.AUTOTUNE)

    def fixed(self, n_episodes: int, meta_batch_size: int) -> tf.data.Dataset:
        """The same episodes every time, for evaluation; episode i depends on `(seed, i)` only.

        None of them comes from the seeds that `dataset` uses.

        Args:
            n_episodes: Number of episodes in all.
            meta_batch_size: Number of tasks in a batch; the last batch may be smaller.

        Returns:
            A prefetched `tf.data.Dataset` of `Episode` with known cardinality.
        """
        n_tasks = whole_number("meta_batch_size", meta_batch_size, minimum=1)
        numbers = tf.data.Dataset.range(whole_number("n_episodes", n_episodes, minimum=1))
        episodes = numbers.map(
            self._fixed_episode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )
        every_batch_full = n_episodes % n_tasks == 0  # then the task axis is known to the graph
        return episodes.batch(n_tasks, every_batch_full).prefetch(tf.data.AUTOTUNE)

    def episode(self, index: int) -> Episode:
        """Fixed episode number `index` as NumPy arrays without the task axis, to look at."""
        with tf.device("CPU:0"):
            episode = self._fixed_episode(index)
            return episode._make(part.numpy() for part in episode)

    def seed_of(self, index: int) -> tf.Tensor:
        """The seed of fixed episode number `index`: what a task distribution's `sample` gets.

        `SineTasks.parameters(sampler.seed_of(3), 1)` are the amplitude, the phase
        and the frequency of `sampler.episode(3)`.
        """
        return _seed(2 * self.seed + 1, index)

    @tf.autograph.experimental.do_not_convert  # nothing to convert, and traced twice as fast
    def _fixed_episode(self, index):
        episode = self._sample(self.seed_of(index), n_tasks=1)
        return episode._make(part[0] for part in episode)  # an `Episode`, or one with more parts

    @tf.autograph.experimental.do_not_convert
    def _sample(self, seed, n_tasks):
        return self.tasks.sample(seed, n_tasks, self.k_shot, self.n_query)


def _seed(stream, index):
    """Training batches have the even streams, fixed episodes the odd ones."""
    return tf.stack([tf.cast(stream, tf.int32), tf.cast(index, tf.int32)])


def _check_items(data, k_shot, n_query):
    counts = np.bincount(data.labels, minlength=len(data.class_names))
    needed, smallest = k_shot + n_query, np.argmin(counts)
    if counts[smallest] < needed:
        raise UserError(
            f"expected at least {needed} items in every class (k_shot={k_shot} + "
            f"n_query={n_query}), found {counts[smallest]} in class {data.class_names[smallest]!r} "
            f"({np.sum(counts < needed)} of {len(counts)} classes have too few); "
            "lower k_shot or n_query, or add items"
        )
