"""Pairs of items, genuine (of one class) and imposite (of two), and batches of whole classes.

What training sees is drawn in the `tf.data` graph with stateless random numbers, as in
`common.episodes`: batch number s depends on `(seed, s)` only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from common.datasets import FewShotData
from common.episodes import EpisodeSampler
from common.errors import UserError
from common.tasks import whole_number

import numpy as np
import tensorflow as tf

Augment = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]  # from items and a seed to changed items
MOST_PAIRED = 1500  # items among which all pairs are listed; of more, as many are drawn


class Pairs(NamedTuple):
    """Pairs by the numbers of their items: int `(pairs,)`, `(pairs,)`, and 1 or 0 `(pairs,)`."""

    first: np.ndarray
    second: np.ndarray
    same: np.ndarray

    def part(self, chosen: np.ndarray) -> Pairs:
        """The pairs at the positions `chosen`."""
        return Pairs(*(values[chosen] for values in self))


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
        EpisodeSampler(data, 2, self.n_items - 1, 1, seed=seed)  # says what is wrong

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


def fixed_pairs(labels: np.ndarray, n_pairs: int, seed: int = 0) -> Pairs:
    """Distinct pairs for evaluation, the same every time: half genuine, half imposite.

    Args:
        labels: Class of each item, `(n,)`.
        n_pairs: Number of pairs; if there are not so many of one kind, fewer of both.
        seed: Chooses the pairs.

    Returns:
        `Pairs`, in random order.

    Raises:
        UserError: If no two items are of one class, or all are.
    """
    labels, generator = np.asarray(labels), np.random.default_rng([seed, 1])
    kept = np.arange(len(labels))
    if len(kept) > MOST_PAIRED:
        kept = np.sort(generator.choice(kept, MOST_PAIRED, replace=False))
    rows, columns = np.triu_indices(len(kept), 1)
    first, second = kept[rows], kept[columns]
    same = labels[first] == labels[second]
    kinds = [np.flatnonzero(same), np.flatnonzero(~same)]
    half = min(n_pairs // 2, *map(len, kinds))
    if not half:
        missing = "two items of one class" if not len(kinds[0]) else "items of two classes"
        raise UserError(f"expected {missing} to make pairs of, found none among {len(labels)}")
    chosen = np.concatenate([generator.choice(kind, half, replace=False) for kind in kinds])
    chosen = generator.permutation(chosen)
    return Pairs(first[chosen], second[chosen], same[chosen].astype(np.int32))


def split_pairs(pairs: Pairs, shares: Sequence[float] = (0.6, 0.15, 0.25)) -> list[Pairs]:
    """Splits pairs, not classes: what the book does.

    All parts hold pairs of the same people, even of the same pictures, so that a score on the
    last of them does not tell how the network does with people it has not seen.

    Args:
        pairs: Pairs in random order.
        shares: The share of each part: training, validation, test.
    """
    ends = np.cumsum(np.round(np.array(shares[:-1]) * len(pairs.same))).astype(int)
    return [pairs.part(chosen) for chosen in np.split(np.arange(len(pairs.same)), ends)]


def merged(parts: Sequence[FewShotData]) -> FewShotData:
    """All classes of the splits of a data set in one; a class that several have becomes one."""
    names = sorted({name for part in parts for name in part.class_names})
    number = {name: index for index, name in enumerate(names)}
    groups = {n: g for part in parts for n, g in zip(part.class_names, part.class_groups)}
    labels = [np.array([number[n] for n in part.class_names])[part.labels] for part in parts]
    return FewShotData(
        items=np.concatenate([part.items for part in parts]),
        labels=np.concatenate(labels).astype(np.int32),
        class_names=tuple(names),
        class_groups=tuple(groups[name] for name in names),
        name=parts[0].name,
        split="all",
    )
