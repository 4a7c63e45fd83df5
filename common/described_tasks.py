"""Zero-shot tasks: a class is given by a description, its queries are images.

`described_splits` divides the classes of a data set with attributes anew: whatever is said of a
class held out is also said of some class in training, or nobody could know what it means.
"""

import hashlib

from common.datasets import SPLITS, FewShotData, load
from common.errors import UserError
from common.learner import MetaLearner
from common.tasks import ClassificationTasks, Episode

import keras
import numpy as np
import tensorflow as tf

HELD_OUT = 0.15  # of the classes, for validation and as many for test


class DescribedTasks:
    """The distribution of n-way tasks whose support set is one description of each class.

    It goes into `EpisodeSampler(DescribedTasks(data, n_way=10), n_way=1, k_shot=1, n_query=5)`.

    Args:
        data: A `FewShotData` with attributes.
        n_way: Number of classes in a task.

    Raises:
        UserError: If the data has no attributes or too few classes.
    """

    def __init__(self, data: FewShotData, n_way: int):
        check_described(data)
        self.data, self.n_way = data, n_way
        self.tasks = ClassificationTasks(data, n_way)
        with tf.device("CPU:0"):
            self._attributes = tf.constant(data.attributes, tf.float32)

    def sample(self, seed: tf.Tensor, n_tasks: int, k_shot: int, n_query: int) -> Episode:
        """Draws tasks: descriptions and images of the same classes.

        Args:
            seed: An int32 tensor or pair: the same seed gives the same episodes.
            n_tasks: Number of tasks.
            k_shot: 1, as a class has one description.
            n_query: Number of images of each class.

        Returns:
            An `Episode` with support_x float32 `(n_tasks, n_way, attributes)`, one row a class
            in random order, and as query_x images `(n_tasks, n_way * n_query, ...)`.
        """
        if k_shot != 1:
            raise UserError(f"expected k_shot=1: a class has one description; found {k_shot}")
        classes, drawn = self.tasks.indices(seed, n_tasks, 1, n_query)
        described = tf.gather(classes, drawn.support_y, batch_dims=1)  # in place of an image of it
        x = tf.gather(self.data.items, drawn.query_x)
        return drawn._replace(
            support_x=tf.gather(self._attributes, described),
            query_x=tf.cast(x, tf.float32) / 255.0 if x.dtype == tf.uint8 else x,
        )

    def class_names(self, seed: tf.Tensor, n_tasks: int = 1) -> list[list[str]]:
        """The names of the classes 0, 1, ... of each task that `sample` draws with this seed."""
        classes, _ = self.tasks.indices(seed, n_tasks, 1, 1)
        return [[self.data.class_names[c] for c in task] for task in classes.numpy()]


def check_described(data) -> None:
    """Raises `UserError` unless the data has attributes."""
    if getattr(data, "attributes", None) is None:
        raise UserError(
            f"expected a data set whose classes are described by attributes, such as glyphs; "
            f"found none in {getattr(data, 'name', 'a distribution of regression tasks')}: "
            "choose another --dataset or leave out --zero-shot"
        )


def described_splits(dataset: str, data_dir=None, seed: int = 0) -> dict[str, FewShotData]:
    """The classes of all splits of a data set, divided anew for learning from descriptions.

    A class is held out only if each of its attributes (those above 0) occurs in a class that is
    kept for training, and no other class has the same description. Which classes these are is
    decided by a hash of their names.

    Args:
        dataset: Name of a data set whose classes have attributes.
        data_dir: Where to look for data.
        seed: Another seed holds out other classes.

    Returns:
        A `FewShotData` for each of `"train"`, `"validation"`, `"test"`.

    Raises:
        UserError: If the classes have no attributes, or too few can be held out.
    """
    parts = [load(dataset, split, data_dir) for split in SPLITS]
    for part in parts:
        check_described(part)
    names = sum((part.class_names for part in parts), ())
    attributes = np.concatenate([part.attributes for part in parts])
    held_out = _held_out(names, attributes > 0, seed)
    wanted = round(HELD_OUT * len(names))
    if len(held_out) < 4:
        raise UserError(
            f"expected at least 4 of the {len(names)} classes of {dataset} to be described by "
            f"what other classes have, too; found {len(held_out)}: choose another data set"
        )
    n_test = min(wanted, len(held_out) // 2)
    split_of = np.full(len(names), "train", object)
    split_of[held_out[:n_test]] = "test"
    split_of[held_out[n_test : 2 * n_test]] = "validation"
    return {split: _classes_of(parts, split_of == split, split) for split in SPLITS}


def _held_out(names, has, seed):
    """Numbers of classes to hold out, the first ones for the test."""
    _, group, sizes = np.unique(has, axis=0, return_inverse=True, return_counts=True)
    unique = sizes[group.reshape(-1)] == 1
    digests = [hashlib.sha256(f"{seed} {name}".encode()).hexdigest() for name in names]
    left = has.sum(axis=0)  # classes in training with each attribute
    chosen = []
    for number in np.argsort(digests):
        if len(chosen) == 2 * round(HELD_OUT * len(names)):
            break
        if unique[number] and has[number].any() and (left[has[number]] > 1).all():
            left -= has[number]
            chosen.append(number)
    return np.array(chosen, int)


def _classes_of(parts, chosen, split):
    """One data set of the chosen classes of several."""
    offsets = np.cumsum([0, *(len(part.class_names) for part in parts)])
    labels = np.concatenate([p.labels + start for p, start in zip(parts, offsets, strict=False)])
    rows = np.flatnonzero(chosen[labels])
    new_label = np.cumsum(chosen) - 1
    names, groups = (
        np.array(sum((getattr(part, name) for part in parts), ()))[chosen]
        for name in ("class_names", "class_groups")
    )
    return FewShotData(
        np.concatenate([part.items for part in parts])[rows],
        new_label[labels[rows]].astype(np.int32),
        tuple(map(str, names)),
        tuple(map(str, groups)),
        name=parts[0].name,
        split=split,
        attributes=np.concatenate([part.attributes for part in parts])[chosen],
        attribute_names=parts[0].attribute_names,
    )


class NearestDescription(MetaLearner):
    """A baseline that learns nothing: finds the most similar training image, and answers with the
    description that is most like (by its cosine) that of the image's class.

    Args:
        data: The `FewShotData` of the training classes, with attributes.
    """

    def __init__(self, data: FewShotData):
        super().__init__(keras.Sequential([keras.Input(data.items.shape[1:])]))
        self._data, self._scale = data, 255.0 if data.items.dtype == np.uint8 else 1.0

    def query_predictions(self, episode, training=False):
        """Cosines of the descriptions, `(tasks, queries, n_way)`, in the order of the labels."""
        known = self._data.items.reshape(len(self._data.items), -1)
        known = tf.constant(known, tf.float32) / self._scale  # (items, pixels)
        queries = tf.reshape(episode.query_x, [*episode.query_x.shape[:2], known.shape[1]])
        squared = tf.reduce_sum(known**2, -1) - 2 * tf.matmul(queries, known, transpose_b=True)
        nearest = tf.gather(self._data.labels, tf.argmin(squared, -1))  # (tasks, queries)
        described = tf.gather(tf.constant(self._data.attributes, tf.float32), nearest)
        in_order = tf.gather(episode.support_x, tf.argsort(episode.support_y), batch_dims=1)
        described, in_order = (tf.math.l2_normalize(a, -1) for a in (described, in_order))
        return tf.matmul(described, in_order, transpose_b=True)
