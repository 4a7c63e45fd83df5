"""Episodes: small tasks with a support set to learn from and a query set to be judged on.

`EpisodeSampler` feeds them to training (`dataset`) and evaluation (`fixed`). Everything is drawn
inside the `tf.data` graph with stateless random numbers: an episode is a function of its seed,
so that it is the same in every process, and a run resumed at step s meets the batches that the
unbroken run would have met.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from common.errors import UserError

import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    from common.datasets import FewShotData


class Episode(NamedTuple):
    """Support and query sets; the first axis of each array is the task.

    Classification: x `(tasks, n_way * points, ...)`, y int32 `(tasks, n_way * points)` in
    0..n_way-1, rows shuffled. Regression: x and y float32 `(tasks, points, d)`.
    """

    support_x: Any
    support_y: Any
    query_x: Any
    query_y: Any


class TaskDistribution(Protocol):
    """Anything that draws episodes in the graph from a seed, an int32 tensor of shape (2,)."""

    def sample(self, seed: tf.Tensor, n_tasks: int, k_shot: int, n_query: int) -> Episode: ...


class ClassificationTasks:
    """The task distribution of n-way classification over a labelled data set.

    Args:
        data: A `FewShotData`. Items of type uint8 come out as float32 in 0..1, others as they
            are.
        n_way: Number of classes in a task.
        rotations: Whether each 90-degree rotation of a class is a class of its own: class
            `4 * c + r` shows class `c` turned counter-clockwise `r` times. A class and its own
            rotation may meet in one task, as in Snell et al. (2017) and Reptile. The turned
            images are kept, which takes four times the memory.
        within_group: Whether all classes of a task come from one group (alphabet, script).
            Groups with fewer than `n_way` classes (turned ones counted) are left out. A group
            is drawn in proportion to its number of classes, so that every class that is left
            is equally frequent.

    Raises:
        UserError: The data has too few classes, or its images cannot be rotated.
    """

    def __init__(
        self, data: FewShotData, n_way: int, rotations: bool = False, within_group: bool = False
    ):
        self.n_way = _integer("n_way", n_way, minimum=2)
        items, labels = data.items, np.asarray(data.labels)
        groups = np.asarray(data.class_groups if within_group else ["all"] * len(data.class_names))
        if rotations:
            _check_square(items)
            items = np.concatenate([np.rot90(items, r, axes=(1, 2)) for r in range(4)])
            labels = np.concatenate([4 * labels + r for r in range(4)])
            groups = np.repeat(groups, 4)
        _, groups, group_sizes = np.unique(groups, return_inverse=True, return_counts=True)
        largest = max(group_sizes, default=0)
        if largest < n_way:
            where = f" in the largest of {len(group_sizes)} groups" if within_group else ""
            raise UserError(
                f"expected at least n_way={n_way} classes, found {largest}{where}; "
                "lower n_way or add classes"
            )
        counts = np.bincount(labels, minlength=len(groups))
        self._most_items = int(max(counts))
        with tf.device("CPU:0"):  # one copy, which the graphs of all datasets refer to
            self._items = tf.constant(items)
            self._by_class = tf.constant(np.argsort(labels, kind="stable"), tf.int32)
            self._counts = tf.constant(counts, tf.int32)
            self._starts = tf.constant(np.cumsum(counts) - counts, tf.int32)
            self._groups = tf.constant(groups, tf.int32)
            self._eligible = tf.constant(group_sizes[groups] >= n_way)

    def indices(
        self, seed: tf.Tensor, n_tasks: int, k_shot: int, n_query: int
    ) -> tuple[tf.Tensor, Episode]:
        """Draws what `sample` draws, as the numbers of classes and items.

        Returns:
            `(classes, episode)`: the class that each label stands for, int32 `(n_tasks, n_way)`,
            and an `Episode` whose x are item numbers, int32 `(n_tasks, n_way * points)`. With
            rotations, item number `r * len(data.items) + i` is item `i` turned `r` times.
        """
        class_seed, item_seed, support_seed, query_seed = tf.unstack(_split(seed, 4))
        classes = self._draw_classes(class_seed, n_tasks)
        counts = tf.gather(self._counts, classes)[..., tf.newaxis]
        starts = tf.gather(self._starts, classes)[..., tf.newaxis]
        ranks = _random_ranks(item_seed, (n_tasks, self.n_way, self._most_items))
        exists = tf.range(self._most_items) < counts
        items = tf.gather(self._by_class, starts + _highest(ranks, k_shot + n_query, exists))
        support, query = tf.split(items, [k_shot, n_query], axis=2)  # (tasks, n_way, points)
        return classes, Episode(*_shuffle(support_seed, support), *_shuffle(query_seed, query))

    def sample(self, seed: tf.Tensor, n_tasks: int, k_shot: int, n_query: int) -> Episode:
        """Draws `n_tasks` episodes from one seed, as `TaskDistribution` asks."""
        _, drawn = self.indices(seed, n_tasks, k_shot, n_query)
        return drawn._replace(
            support_x=self._look_up(drawn.support_x), query_x=self._look_up(drawn.query_x)
        )

    def _draw_classes(self, seed, n_tasks):
        """The highest-ranked class decides the group, whose n_way highest make the task."""
        ranks = _random_ranks(seed, (n_tasks, len(self._counts)))
        first = _highest(ranks, 1, self._eligible)  # (tasks, 1)
        return _highest(ranks, self.n_way, tf.gather(self._groups, first) == self._groups)

    def _look_up(self, items):
        x = tf.gather(self._items, items)  # (tasks, rows, ...)
        return tf.cast(x, tf.float32) / 255.0 if x.dtype == tf.uint8 else x


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
        self.n_way = _integer("n_way", n_way, minimum=1)
        self.k_shot = _integer("k_shot", k_shot, minimum=1)
        self.n_query = _integer("n_query", n_query, minimum=1)
        self.seed = _integer("seed", seed, minimum=0, maximum=2**30 - 1)
        if not hasattr(data, "sample"):
            self.tasks = ClassificationTasks(data, n_way, rotations, within_group)
            _check_items(data, self.k_shot, self.n_query)
        elif n_way != 1 or rotations or within_group:
            raise UserError(
                "expected n_way=1, no rotations and no groups for a distribution of regression "
                f"tasks, found n_way={n_way}, rotations={rotations}, within_group={within_group}; "
                "leave them out or choose a data set with classes"
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
        n_tasks = _integer("meta_batch_size", meta_batch_size, minimum=1)
        steps = tf.data.Dataset.counter(_integer("start_step", start_step, minimum=0))
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
        n_tasks = _integer("meta_batch_size", meta_batch_size, minimum=1)
        numbers = tf.data.Dataset.range(_integer("n_episodes", n_episodes, minimum=1))
        episodes = numbers.map(
            self._fixed_episode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )
        every_batch_full = n_episodes % n_tasks == 0  # then the task axis is known to the graph
        return episodes.batch(n_tasks, every_batch_full).prefetch(tf.data.AUTOTUNE)

    def episode(self, index: int) -> Episode:
        """Fixed episode number `index` as NumPy arrays without the task axis, to look at."""
        with tf.device("CPU:0"):
            return Episode(*(part.numpy() for part in self._fixed_episode(index)))

    def seed_of(self, index: int) -> tf.Tensor:
        """The seed of fixed episode number `index`: what a task distribution's `sample` gets.

        `SineTasks.parameters(sampler.seed_of(3), 1)` are the amplitude and the phase of
        `sampler.episode(3)`.
        """
        return _seed(2 * self.seed + 1, index)

    @tf.autograph.experimental.do_not_convert  # nothing to convert, and traced twice as fast
    def _fixed_episode(self, index):
        return Episode(*(part[0] for part in self._sample(self.seed_of(index), n_tasks=1)))

    @tf.autograph.experimental.do_not_convert
    def _sample(self, seed, n_tasks):
        return self.tasks.sample(seed, n_tasks, self.k_shot, self.n_query)


def _seed(stream, index):
    """Training batches have the even streams, fixed episodes the odd ones."""
    return tf.stack([tf.cast(stream, tf.int32), tf.cast(index, tf.int32)])


def _split(seed, n_seeds):
    """`n_seeds` independent seeds; with the algorithm named, the same on every device."""
    return tf.random.split(seed, n_seeds, alg="philox")


def _random_ranks(seed, shape):
    return tf.random.stateless_uniform(shape, seed, 0, tf.int32.max, tf.int32, alg="philox")


def _highest(ranks, n_chosen, allowed=True):
    """Positions on the last axis of the highest ranks that are allowed: distinct, random order."""
    return tf.math.top_k(tf.where(allowed, ranks, -1), n_chosen).indices


def _shuffle(seed, items):
    """Shuffled rows and their labels `(tasks, n_way * points)` from `(tasks, n_way, points)`."""
    n_tasks, n_way, points = items.shape
    order = _highest(_random_ranks(seed, (n_tasks, n_way * points)), n_way * points)
    items = tf.reshape(items, (n_tasks, n_way * points))
    return tf.gather(items, order, batch_dims=1), order // points


def _check_square(items):
    if items.ndim < 3 or items.shape[1] != items.shape[2]:
        raise UserError(
            "expected square images (n, size, size, ...) for rotations=True, "
            f"found items of shape {items.shape}; resize them or leave rotations out"
        )


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


def _integer(name, value, minimum, maximum=2**31 - 1):
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or not minimum <= number <= maximum:
        raise UserError(
            f"expected {name} to be an integer from {minimum} to {maximum}, found {value!r}; "
            f"change {name}"
        )
    return number
