"""Tasks to learn: what an episode is, and the distribution of n-way classification tasks.

Everything is drawn inside the graph with stateless random numbers, so that a task is a function
of its seed, the same in every process.
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
        self.n_way = whole_number("n_way", n_way, minimum=2)
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
            where = f"in {data.name} ({data.split})"
            if within_group:
                where = f"in the largest of {len(group_sizes)} groups {where}"
            turned = ", turned ones counted" if rotations else ""
            raise UserError(
                f"expected at least n_way={n_way} classes, found {largest} {where}{turned}; "
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


def whole_number(name: str, value: Any, minimum: int, maximum: int = 2**31 - 1) -> int:
    """`value` as an integer; a `UserError` names it if it is none, or out of range."""
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
