"""Tasks with an unlabelled set, for semi-supervised few-shot learning (Ren et al. 2018, section 4).

The items of every class are split once, at random, into labelled and unlabelled ones. Support and
query sets come from the former; of the latter no learner ever sees a label.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from common.errors import UserError
from common.tasks import ClassificationTasks, _highest, _random_ranks, _shuffle, _split

import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    from common.datasets import FewShotData


class SemiSupervisedEpisode(NamedTuple):
    """An `Episode` with unlabelled items; the first axis of each array is the task.

    `unlabelled_x` is `(tasks, unlabelled, ...)`. `unlabelled_y`, int32 `(tasks, unlabelled)`, is
    for figures and checks: what the labels would be, and -1 for an item of a distractor class. A
    learner must not look at it.
    """

    support_x: Any
    support_y: Any
    query_x: Any
    query_y: Any
    unlabelled_x: Any
    unlabelled_y: Any


class SemiSupervisedTasks(ClassificationTasks):
    """The distribution of tasks with unlabelled items, over a labelled data set.

    It goes into an `EpisodeSampler` as a distribution, with n_way=1 there:

        EpisodeSampler(SemiSupervisedTasks(data, 5, 5, distractors=5), 1, k_shot=1, n_query=1)

    Args:
        data: A `FewShotData`.
        n_way: Number of classes with labels in a task.
        n_unlabelled: Number of unlabelled items of each class, distractor classes included.
        distractors: Number of classes in a task of which there are unlabelled items only.
        labelled: Share of the items of each class that are labelled (rounded).
        rotations: See `ClassificationTasks`. An item is labelled, or not, in all four positions.
        seed: Decides which items are labelled.

    Raises:
        UserError: The data has too few classes or unlabelled items, or the share is not in 0..1.
    """

    def __init__(
        self,
        data: FewShotData,
        n_way: int,
        n_unlabelled: int,
        *,
        distractors: int = 0,
        labelled: float = 0.1,
        rotations: bool = False,
        seed: int = 0,
    ):
        if not 0 < labelled < 1:
            raise UserError(f"labelled must be a share between 0 and 1, got {labelled}")
        available = len(data.class_names) * (4 if rotations else 1)
        if available < n_way + distractors:
            raise UserError(
                f"expected at least {n_way + distractors} classes (n_way={n_way} + "
                f"distractors={distractors}), found {available} in {data.name} ({data.split}); "
                "lower n_way or distractors, or add classes"
            )
        order = np.random.default_rng(seed).permutation(len(data.labels))  # the first are labelled
        shuffled = replace(data, items=data.items[order], labels=data.labels[order])
        super().__init__(shuffled, n_way + distractors, rotations)
        self.item_shape = data.items.shape[1:]
        self.n_labels, self.n_unlabelled, self.share = n_way, n_unlabelled, labelled
        n_labelled, fewest_unlabelled = split_sizes(data, labelled)
        self.fewest_labelled = int(min(n_labelled))
        with tf.device("CPU:0"):
            self._n_labelled = tf.constant(np.repeat(n_labelled, 4 if rotations else 1), tf.int32)
        if fewest_unlabelled < 1:
            raise UserError(
                f"expected unlabelled items in every class, found none in the smallest of "
                f"{data.name} ({data.split}) with a labelled share of {labelled}; lower it"
            )
        if not 1 <= n_unlabelled <= fewest_unlabelled:
            raise UserError(
                f"expected from 1 to {fewest_unlabelled} unlabelled items of a class, as the "
                f"smallest class of {data.name} ({data.split}) has, found {n_unlabelled}; lower "
                "n_unlabelled or the labelled share"
            )

    def sample(
        self, seed: tf.Tensor, n_tasks: int, k_shot: int, n_query: int
    ) -> SemiSupervisedEpisode:
        """Draws `n_tasks` episodes from one seed.

        Raises:
            UserError: If a class has fewer than k_shot + n_query labelled items.
        """
        self.check(k_shot, n_query)
        seeds = tf.unstack(_split(seed, 5))
        classes = self._draw_classes(seeds[0], n_tasks)  # (tasks, n_labels + distractors)
        counts = tf.gather(self._counts, classes)[..., tf.newaxis]
        starts = tf.gather(self._starts, classes)[..., tf.newaxis]
        ranks = _random_ranks(seeds[1], (*classes.shape, self._most_items))
        place = tf.range(self._most_items)
        has_label = place < tf.gather(self._n_labelled, classes)[..., tf.newaxis]
        labelled = starts + _highest(ranks, k_shot + n_query, has_label)
        unlabelled = starts + _highest(ranks, self.n_unlabelled, ~has_label & (place < counts))

        labelled = tf.gather(self._by_class, labelled[:, : self.n_labels])  # no distractors
        support, query = tf.split(labelled, [k_shot, n_query], axis=2)
        support_x, support_y = _shuffle(seeds[2], support)
        query_x, query_y = _shuffle(seeds[3], query)
        unlabelled_x, hidden = _shuffle(seeds[4], tf.gather(self._by_class, unlabelled))
        return SemiSupervisedEpisode(
            self._look_up(support_x), support_y, self._look_up(query_x), query_y,
            self._look_up(unlabelled_x), tf.where(hidden < self.n_labels, hidden, -1),
        )  # fmt: skip

    def check(self, k_shot: int, n_query: int) -> None:
        """Raises `UserError` unless every class has labelled items for support and query."""
        if self.fewest_labelled < k_shot + n_query:
            raise UserError(
                f"expected at least {k_shot + n_query} labelled items in every class "
                f"(k_shot={k_shot} + n_query={n_query}), found {self.fewest_labelled} in the "
                f"smallest with a labelled share of {self.share}; raise labelled, or lower k_shot "
                "or n_query"
            )


def split_sizes(data: FewShotData, labelled: float) -> tuple[np.ndarray, int]:
    """How many items of each class are labelled, and the fewest that are not in any class."""
    n_items = np.bincount(data.labels)
    n_labelled = np.floor(n_items * labelled + 0.5).astype(int)
    return n_labelled, int(min(n_items - n_labelled))
