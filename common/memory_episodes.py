"""Episodes as sequences: items of a few classes, one after the other, each asked before it is told.

`sampler` draws them with `EpisodeSampler`, so that an episode depends on its seed alone. All of
its items are queries first and support a step later: both halves of an `Episode` are the sequence.
"""

import math

from common.datasets import FewShotData
from common.episodes import EpisodeSampler
from common.errors import UserError
from common.tasks import ClassificationTasks, Episode

import numpy as np
import tensorflow as tf

LETTERS = 5  # in a string, and in its alphabet
JITTER = {"angle": math.pi / 16, "shift": 10 / 105}  # at most: radians, parts of a side


class SequenceTasks:
    """The task distribution of label sequences: a class gets a new label in every episode.

    Args:
        data: A `FewShotData` of square images.
        n_way: Number of classes in a sequence.
        strings: Whether a label is a string of five letters a to e, all strings of a sequence
            different, and not the number of a class.
        rotations: Whether each 90-degree rotation of a class is a class of its own.
        size: Height and width of the images that come out.
        jitter: Whether each image is turned and shifted a little, at random.

    Raises:
        UserError: The data has too few classes.
    """

    def __init__(
        self,
        data: FewShotData,
        n_way: int,
        strings: bool = False,
        rotations: bool = True,
        size: int = 20,
        jitter: bool = True,
    ):
        self.data, self.strings, self.size, self.jitter = data, strings, size, jitter
        self.tasks = ClassificationTasks(data, n_way, rotations)

    @property
    def label_shape(self) -> tuple[int, int]:
        """Places of a label and symbols at each of them: `(1, n_way)`, or `(5, 5)` for strings."""
        return (LETTERS, LETTERS) if self.strings else (1, self.tasks.n_way)

    def sample(self, seed: tf.Tensor, n_tasks: int, k_shot: int, n_query: int = 0) -> Episode:
        """Draws sequences with `k_shot` items of each class, in random order.

        Args:
            seed: int32 of shape (2,).
            n_tasks: Number of sequences.
            k_shot: Number of items of each class.
            n_query: Not used, for all items are queries as well.

        Returns:
            An `Episode`: x float32 `(n_tasks, steps, size, size, channels)` in 0..1, y int32
            `(n_tasks, steps)` in 0..n_way-1, or with strings `(n_tasks, steps, 5)` in 0..4. Support
            and query are the same, steps = n_way * k_shot.
        """
        seeds = tf.random.split(seed, 3, alg="philox")
        drawn = self.tasks.sample(seeds[0], n_tasks, k_shot, 0)
        x, y = self._placed(seeds[1], drawn.support_x), drawn.support_y
        if self.strings:
            y = tf.gather(self._strings(seeds[2], n_tasks), y, batch_dims=1)
        return Episode(x, y, x, y)

    def _placed(self, seed, images):
        """The images at their final size, each turned and shifted by its own random amount."""
        n_tasks, steps, side, _, channels = images.shape
        images = tf.reshape(images, (-1, side, side, channels))
        images = tf.image.resize(images, (self.size, self.size), "area")
        if self.jitter:
            images = self._jittered(seed, images)
        images = tf.clip_by_value(images, 0.0, 1.0)  # averages may pass 1 in the last digit
        return tf.reshape(images, (n_tasks, steps, self.size, self.size, channels))

    def _jittered(self, seed, images):
        """Each image turned about the middle, then shifted: pixels are looked up the way back."""
        noise = tf.random.stateless_uniform((3, images.shape[0]), seed, -1, 1, alg="philox")
        angle, shift = JITTER["angle"] * noise[0], JITTER["shift"] * self.size * noise[1:]
        cos, sin, zero = tf.cos(angle), tf.sin(angle), tf.zeros_like(angle)
        middle = (self.size - 1) / 2
        x, y = tf.unstack(middle + shift)
        from_x, from_y = middle - cos * x + sin * y, middle - sin * x - cos * y
        return tf.raw_ops.ImageProjectiveTransformV3(
            images=images,
            transforms=tf.stack((cos, -sin, from_x, sin, cos, from_y, zero, zero), axis=1),
            output_shape=images.shape[1:3], fill_value=0.0, interpolation="BILINEAR",
            fill_mode="CONSTANT",
        )  # fmt: skip

    def _strings(self, seed, n_tasks):
        """A string for each class, no two alike, `(n_tasks, n_way, 5)`."""
        shape = (n_tasks, LETTERS**LETTERS)
        ranks = tf.random.stateless_uniform(shape, seed, 0, 2**31 - 1, tf.int32, alg="philox")
        numbers = tf.math.top_k(ranks, self.tasks.n_way).indices
        return numbers[..., None] // LETTERS ** tf.range(LETTERS) % LETTERS


def sampler(
    data: FewShotData, n_way: int, instances: int, seed: int = 0, **options
) -> EpisodeSampler:
    """The sampler of sequences with `instances` items of each of `n_way` classes.

    Args:
        data: A `FewShotData` of square images.
        n_way: Number of classes in a sequence.
        instances: Number of items of each.
        seed: All that is drawn depends on it.
        options: Those of `SequenceTasks`.

    Raises:
        UserError: The data are no square images, or cannot give such sequences.
    """
    shape = getattr(getattr(data, "items", None), "shape", None)
    if shape is None or len(shape) != 4 or shape[1] != shape[2]:
        found = f"items of shape {shape[1:]}" if shape else "a distribution of regression tasks"
        name = getattr(data, "name", "this data set")
        raise UserError(
            f"expected square images, found {found} in {name}; choose another --dataset"
        )
    counts = np.bincount(data.labels)
    if min(counts) < instances:
        raise UserError(
            f"expected at least {instances} items in every class of {data.name} ({data.split}), "
            f"found {min(counts)} in class {data.class_names[np.argmin(counts)]!r}; lower "
            "--instances or add items"
        )
    return EpisodeSampler(SequenceTasks(data, n_way, **options), 1, instances, instances, seed=seed)


def instance_numbers(labels: np.ndarray) -> np.ndarray:
    """How often each item's class has been shown so far, itself included: 1 the first time.

    Args:
        labels: `(tasks, steps)` or `(tasks, steps, places)`.

    Returns:
        int `(tasks, steps)`.
    """
    labels = np.reshape(labels, (*np.shape(labels)[:2], -1))
    same = (labels[:, :, None] == labels[:, None]).all(axis=-1)  # (tasks, steps, steps)
    return np.tril(same).sum(axis=-1)
