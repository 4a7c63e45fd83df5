"""Pairs of items, genuine (of one class) and imposite (of two), and batches of whole classes.

What training sees, drawn anew for every step; `common.pair_lists` has pairs that stay the same. All
is drawn in the `tf.data` graph with stateless random numbers, as in
`common.episodes`: batch number s depends on `(seed, s)` only.
"""

from __future__ import annotations

from collections.abc import Callable

from common.datasets import FewShotData
from common.episodes import EpisodeSampler
from common.errors import UserError
from common.pair_lists import Pairs
from common.tasks import whole_number

import numpy as np
import tensorflow as tf

Augment = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]  # from items and a seed to changed items


class PairSampler:
    """Draws balanced batches of pairs, anew for every step of training.

    A batch is made of episodes of two classes: an item of one of them forms the genuine pair
    with another item of its class, and the imposite pair with an item of the other class.

    Args:
        data: A `FewShotData` with two items or more in each class.
        augment: None, or a function that changes items in training, `augment(items, seed)`.
        pairs: Draw from these `Pairs` only, both kinds equally often; by default from all.
        seed: All that is drawn depends on it; from 0 to 2**30 - 1.

    Raises:
        UserError: If there are fewer than two classes or a class has a single item.
    """

    def __init__(
        self,
        data: FewShotData,
        *,
        augment: Augment | None = None,
        pairs: Pairs | None = None,
        seed: int = 0,
    ):
        self.data, self.augment, self.seed = data, augment, seed
        self._episodes = EpisodeSampler(data, 2, 1, 1, seed=seed)
        with tf.device("CPU:0"):
            self._items = tf.constant(data.items)
            if pairs is None:
                self._lists = None
            else:
                both = np.stack([pairs.first, pairs.second], axis=-1).astype(np.int32)
                self._lists = [tf.constant(both[pairs.same == same]) for same in (1, 0)]

    def dataset(self, n_pairs: int, start_step: int = 0) -> tf.data.Dataset:
        """Endless batches for training.

        Args:
            n_pairs: Number of pairs in a batch, even.
            start_step: Number of the first batch: the step at which training goes on.

        Returns:
            A prefetched `tf.data.Dataset` of `((x1, x2), same)`: the first half of `same`, float32
            `(n_pairs,)`, is 1, the second 0.
        """
        half, odd = divmod(whole_number("pairs", n_pairs, minimum=2), 2)
        if odd:
            raise UserError(f"expected an even number of pairs in a batch, found {n_pairs}")
        return _batches(self.seed, start_step, lambda seeds: self._batch(seeds, half))

    def _batch(self, seeds, half):
        first, second = (self._drawn if self._lists is None else self._listed)(seeds, half)
        x = as_floats(tf.gather(self._items, tf.concat([first, second], 0)))
        if self.augment is not None:
            x = self.augment(x, seeds[1])
        same = tf.concat([tf.ones(half), tf.zeros(half)], 0)
        return (x[: 2 * half], x[2 * half :]), same

    def _drawn(self, seeds, half):
        """Item numbers `(pairs,)` and `(pairs,)`, the genuine pairs first."""
        _, drawn = self._episodes.tasks.indices(seeds[0], half, 1, 1)  # (half, 2) each
        of_class = tf.argsort(drawn.query_y, axis=-1)  # where the query of label 0, 1 is
        same = tf.gather(of_class, drawn.support_y[:, :1], batch_dims=1)
        others = tf.gather(of_class, 1 - drawn.support_y[:, :1], batch_dims=1)
        anchors = drawn.support_x[:, 0]
        partners = [tf.gather(drawn.query_x, at, batch_dims=1)[:, 0] for at in (same, others)]
        return tf.concat([anchors, anchors], 0), tf.concat(partners, 0)

    def _listed(self, seeds, half):
        """The same from the lists of genuine and of imposite pairs."""
        chosen = []
        for number, pairs in enumerate(self._lists):
            limits = {"minval": 0, "maxval": len(pairs), "dtype": tf.int32, "alg": "philox"}
            seed = seeds[0] + tf.constant([0, number * 2**30])
            chosen.append(tf.gather(pairs, tf.random.stateless_uniform([half], seed, **limits)))
        return tf.unstack(tf.concat(chosen, 0), axis=-1)


class ClassSampler:
    """Draws batches of whole classes for the triplet loss: some classes, several items of each.

    Args:
        data: A `FewShotData`.
        n_items: Items of each class in a batch, two or more.
        augment: None, or a function that changes items in training, `augment(items, seed)`.
        seed: All that is drawn depends on it; from 0 to 2**30 - 1.

    Raises:
        UserError: If there are fewer than two classes or a class has too few items.
    """

    def __init__(
        self, data: FewShotData, n_items: int = 4, *, augment: Augment | None = None, seed: int = 0
    ):
        self.data, self.augment, self.seed = data, augment, seed
        self.n_items = whole_number("items", n_items, minimum=2)
        counts = np.bincount(data.labels, minlength=len(data.class_names))
        if counts.min() < self.n_items:
            raise UserError(
                f"expected at least {self.n_items} items in every class of {data.name}, as many "
                f"as --items, found {counts.min()} in {data.class_names[counts.argmin()]!r}; lower "
                "--items or add items"
            )
        EpisodeSampler(data, 2, self.n_items - 1, 1, seed=seed)  # refuses a single class

    def dataset(self, n_classes: int, start_step: int = 0) -> tf.data.Dataset:
        """Endless batches for training.

        Args:
            n_classes: Number of classes in a batch; all of them if there are fewer.
            start_step: Number of the first batch: the step at which training goes on.

        Returns:
            A prefetched `tf.data.Dataset` of `(x, labels)`, the labels int32 `(items,)`.
        """
        n_classes = min(n_classes, len(self.data.class_names))
        episodes = EpisodeSampler(self.data, n_classes, self.n_items - 1, 1, seed=self.seed)

        def batch(seeds):
            drawn = episodes.tasks.sample(seeds[0], 1, self.n_items - 1, 1)
            x = tf.concat([drawn.support_x[0], drawn.query_x[0]], 0)
            x = x if self.augment is None else self.augment(x, seeds[1])
            return x, tf.concat([drawn.support_y[0], drawn.query_y[0]], 0)

        return _batches(self.seed, start_step, batch)


def _batches(seed, start_step, batch):
    """Maps `batch` over pairs of seeds, one for what is drawn and one for how it is changed."""

    def at(step):
        step = tf.cast(step, tf.int32)
        return batch([tf.stack([2 * seed + stream, step]) for stream in (0, 1)])

    steps = tf.data.Dataset.counter(whole_number("start_step", start_step, minimum=0))
    batches = steps.map(
        tf.autograph.experimental.do_not_convert(at),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    return batches.prefetch(tf.data.AUTOTUNE)


def as_floats(items):
    """As `EpisodeSampler` gives them: bytes as float32 in 0..1, others as they are."""
    return tf.cast(items, tf.float32) / 255.0 if items.dtype == tf.uint8 else items
