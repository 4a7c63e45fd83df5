"""Functions to minimise, drawn at random: the tasks of an optimiser that learns.

A distribution of them has `sample(seed, n_tasks, steps, split)`, which gives the starting points
`(n_tasks, coordinates)` and the data of the functions, and `losses(theta, data, step)`, the value
of each function at its theta, `(n_tasks,)`. Many functions are computed together: their parameters
are the rows of one tensor.
"""

import itertools
import math
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from common.datasets import data_folder
from common.errors import UserError

import keras
import numpy as np
import tensorflow as tf

SPLITS = ("train", "validation", "test")
MNIST = {
    "x_train": (60000, 28, 28), "y_train": (60000,), "x_test": (10000, 28, 28), "y_test": (10000,),
}  # fmt: skip
PARTS = (0.6, 0.2, 0.2)  # of the images, to train on, to choose by and to test on


def _split(seed: tf.Tensor, n: int) -> list[tf.Tensor]:
    return tf.unstack(tf.random.split(seed, n, alg="philox"))


def _normal(seed: tf.Tensor, shape: Sequence[int], scale: float = 1.0) -> tf.Tensor:
    return scale * tf.random.stateless_normal(shape, seed, alg="philox")


class Quadratics:
    """f(theta) = |W theta - y|^2, the numbers in W and y standard normal.

    Args:
        dimensions: Length of theta and of y.
        start_scale: Standard deviation of the numbers in theta_0.
    """

    def __init__(self, dimensions: int = 10, start_scale: float = 0.01):
        self.dimensions, self.start_scale = dimensions, start_scale

    def sample(
        self, seed: tf.Tensor, n_tasks: int, steps: int, split: str = "train"
    ) -> tuple[tf.Tensor, Any]:
        """Starting points, and `(W, y)` of each function."""
        matrix_seed, target_seed, start_seed = _split(seed, 3)
        d = self.dimensions
        theta = _normal(start_seed, (n_tasks, d), self.start_scale)
        return theta, (_normal(matrix_seed, (n_tasks, d, d)), _normal(target_seed, (n_tasks, d)))

    def losses(self, theta: tf.Tensor, data: Any, step: tf.Tensor) -> tf.Tensor:
        """The functions do not change with the step."""
        matrix, target = data
        return tf.reduce_sum((tf.linalg.matvec(matrix, theta) - target) ** 2, axis=-1)


class Images(NamedTuple):
    """Images as rows of numbers in 0..1, `(n, pixels)`, and their classes `(n,)`."""

    x: np.ndarray
    y: np.ndarray


class Classifiers:
    """Networks that learn to classify images: f_t(theta) is the cross-entropy on minibatch t.

    The functions differ in their starting points, whose kernels are normal with a variance of one
    over the number of inputs and whose biases are 0, and in their minibatches.

    Args:
        images: The images of each split, from which minibatches are drawn with replacement.
        hidden: Units of each hidden layer.
        activation: What follows each of these, a name that Keras knows.
        batch_size: Images in a minibatch.
    """

    def __init__(
        self,
        images: dict[str, Images],
        hidden: Sequence[int] = (20,),
        activation: str = "sigmoid",
        batch_size: int = 128,
    ):
        x, y = (np.concatenate(parts) for parts in zip(*images.values()))
        self.x, self.y = tf.constant(x, tf.float32), tf.constant(y, tf.int32)
        ends = np.cumsum([len(part.y) for part in images.values()])
        self.ranges = {name: (end - len(images[name].y), end) for name, end in zip(images, ends)}
        sizes = (x.shape[1], *hidden, int(max(y)) + 1)
        self.layer_sizes = list(itertools.pairwise(sizes))
        self.activation = keras.activations.get(activation)
        self.batch_size = batch_size

    def sample(
        self, seed: tf.Tensor, n_tasks: int, steps: int, split: str = "train"
    ) -> tuple[tf.Tensor, Any]:
        """Starting points, and which images each step sees, `(n_tasks, steps + 1, batch_size)`."""
        image_seed, *seeds = _split(seed, 1 + len(self.layer_sizes))
        parts = []
        for (n_in, n_out), layer_seed in zip(self.layer_sizes, seeds):
            parts += [_normal(layer_seed, (n_tasks, n_in * n_out), 1 / math.sqrt(n_in))]
            parts += [tf.zeros((n_tasks, n_out))]
        shape = (n_tasks, steps + 1, self.batch_size)
        first, end = self.ranges[split]
        chosen = tf.random.stateless_uniform(shape, image_seed, first, end, tf.int32, alg="philox")
        return tf.concat(parts, axis=1), chosen

    def losses(self, theta: tf.Tensor, data: Any, step: tf.Tensor) -> tf.Tensor:
        """Mean cross-entropy of each network on its minibatch of that step."""
        chosen = data[:, step]
        values, labels = tf.gather(self.x, chosen), tf.gather(self.y, chosen)
        end = 0
        for index, (n_in, n_out) in enumerate(self.layer_sizes):
            values = self.activation(values) if index else values
            start, middle, end = end, end + n_in * n_out, end + (n_in + 1) * n_out
            kernel = tf.reshape(theta[:, start:middle], (-1, n_in, n_out))
            values = values @ kernel + theta[:, tf.newaxis, middle:end]  # (tasks, images, n_out)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, values)
        return tf.reduce_mean(losses, axis=1)


class OptimiseeSampler:
    """Draws functions for training, validation and test, a function of the seed alone.

    Args:
        optimisees: A distribution, as this module describes.
        steps: How many steps the functions are minimised for.
        seed: From 0 to 2**30 - 1.
    """

    def __init__(self, optimisees: Any, steps: int, seed: int = 0):
        self.optimisees, self.steps, self.seed = optimisees, steps, seed

    def dataset(self, meta_batch_size: int, start_step: int = 0) -> tf.data.Dataset:
        """Endless batches `(theta, data)`; batch s depends on `(seed, s)` only."""

        def batch(step):
            seed = tf.stack([2 * self.seed, tf.cast(step, tf.int32)])
            return self.optimisees.sample(seed, meta_batch_size, self.steps)

        return tf.data.Dataset.counter(start_step).map(batch).prefetch(2)

    def fixed(self, n_tasks: int, batch_size: int, split: str = "test") -> Iterator[Any]:
        """Batches of `n_tasks` functions in all: the same every time, and never seen in training.

        Args:
            n_tasks: How many functions.
            batch_size: How many at once; the last batch may have fewer.
            split: `"validation"` or `"test"`, which share no function.
        """
        first = 2**30 * (split == "validation")
        for index, done in enumerate(range(0, n_tasks, batch_size)):
            seed = tf.constant([2 * self.seed + 1, first + index])
            n = min(batch_size, n_tasks - done)
            yield self.optimisees.sample(seed, n, self.steps, split)


def load_images(name: str, data_dir: Path | None = None) -> dict[str, Images]:
    """Handwritten digits in three disjoint parts.

    Args:
        name: `"digits"`, 1,796 of the 1,797 of 8 x 8 pixels inside scikit-learn (one is left over
            by the division), or `"mnist"`, 70,000 of 28 x 28 pixels; its last 10,000 are the test.
        data_dir: Where to look first for `mnist.npz`, before the folder that `META_LEARNING_DATA`
            names. If it is nowhere, Keras downloads it once.

    Returns:
        `Images` by the names in `SPLITS`.

    Raises:
        UserError: If there is no folder `data_dir`, or if MNIST is damaged, or neither there nor
            can be downloaded.
    """
    if name == "mnist":
        x, y = _mnist(data_dir)
        counts = (50000, 10000, 10000)
    else:
        from sklearn.datasets import load_digits

        digits = load_digits()
        order = np.random.default_rng(0).permutation(len(digits.target))
        x, y = digits.data[order] / 16, digits.target[order]
        counts = [round(part * len(y)) for part in PARTS]
    ends = np.cumsum(counts)
    return {
        split: Images(x[end - n : end].astype(np.float32), y[end - n : end].astype(np.int32))
        for split, n, end in zip(SPLITS, counts, ends)
    }


def _mnist(data_dir):
    from common.omniglot_archives import find_archive

    path = find_archive("mnist.npz", data_folder(data_dir), folders=("mnist",))
    parts = _downloaded_mnist() if path is None else _read_mnist(path)
    x = np.concatenate(parts[::2])
    return x.reshape(len(x), -1) / np.float32(255), np.concatenate(parts[1::2])


def _read_mnist(path):
    """The arrays of a `mnist.npz`, in the order of `MNIST`."""
    advice = "delete it, and it is downloaded again, or put a whole copy there"
    try:
        with np.load(path) as arrays:
            found = {name: arrays[name] for name in MNIST}
    except Exception as error:  # damaged in any of the ways that a zip archive can be
        reason = _one_line(error) if zipfile.is_zipfile(path) else "no zip archive"
        raise UserError(
            f"{path} is damaged, or not MNIST: expected an archive of {', '.join(MNIST)}, "
            f"found {reason}; {advice}"
        ) from None
    for name, shape in MNIST.items():
        if found[name].shape != shape:
            raise UserError(
                f"{path} is damaged, or not MNIST: expected {name} of shape {shape}, found "
                f"{found[name].shape}; {advice}"
            )
    return list(found.values())


def _downloaded_mnist():
    try:
        return [part for pair in keras.datasets.mnist.load_data() for part in pair]
    except Exception as error:  # what Keras raises for any failure of a download
        raise UserError(
            "expected MNIST from Keras's server, or as mnist.npz in a folder that --data-dir or "
            f"META_LEARNING_DATA names, found neither ({_one_line(error)}); --dataset digits needs "
            "no download"
        ) from None


def _one_line(error):
    return " ".join(f"{error}".split())[:120].rstrip(".") or type(error).__name__
