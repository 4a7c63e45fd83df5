"""Siamese network: twins with the same weights see two items, an energy says how far apart.

Bromley et al. (1993); the losses are those of Hadsell, Chopra, LeCun (2006), of Koch, Zemel,
Salakhutdinov (2015) and of Schroff, Kalenichenko, Philbin (2015, arXiv:1503.03832).

    h1 = f(x1), h2 = f(x2)                      the twins share all weights                    (1)
    E = |h1 - h2|                               Euclidean, or another of `ENERGIES`            (2)
    L = Y E^2 + (1 - Y) max(m - E, 0)^2         contrastive loss; Y = 1: of the same class     (3)
    p = s(sum_j a_j |h1_j - h2_j| + b)          Koch et al.: learned weights, s the sigmoid    (4)
    L = -Y log p - (1 - Y) log(1 - p)           cross-entropy on it                            (5)
    L = max(d(a, p) - d(a, n) + m, 0)           triplet loss, d the squared Euclidean distance (6)

Differences from the papers:

1. Equation 3 is as the book writes it: Hadsell et al. (equation 4) have a factor of 1/2, and Y = 0
   for similar pairs.
2. An energy is low for items of one class, so that of Koch et al. is the negative argument of the
   sigmoid, and p = s(-E). It has a bias, without which p is at most 1/2 if all a_j are negative;
   the a_j start at -1, so that an untrained network already measures a distance.
3. The triplets of (6) are all pairs of one class in a batch of tens, not thousands, each with the
   nearest negative that is farther away than the positive (semi-hard, equation 4 of Schroff et
   al.); where there is none, with the farthest negative.

`face.py` and `audio.py` train it: `python chapter02_siamese/face.py`.
"""

from common.errors import UserError

import keras
import tensorflow as tf
from keras import layers

PACKAGE = "meta_learning"
TINY = 1e-12  # below it a squared distance counts as zero: the root has a finite gradient there


@keras.saving.register_keras_serializable(PACKAGE)
class Euclidean(layers.Layer):
    """E = |h1 - h2|, equation 2; pairs `(..., d)` and `(..., d)` give energies `(...)`."""

    def call(self, pair):
        return tf.sqrt(tf.maximum(squared_distance(*pair), TINY))


@keras.saving.register_keras_serializable(PACKAGE)
class SquaredEuclidean(layers.Layer):
    """E = |h1 - h2|^2."""

    def call(self, pair):
        return squared_distance(*pair)


@keras.saving.register_keras_serializable(PACKAGE)
class Manhattan(layers.Layer):
    """E = sum_j |h1_j - h2_j|."""

    def call(self, pair):
        return tf.reduce_sum(tf.abs(precise(pair[0]) - precise(pair[1])), axis=-1)


@keras.saving.register_keras_serializable(PACKAGE)
class Cosine(layers.Layer):
    """E = 1 - cos(h1, h2), from 0 to 2: a distance, not the similarity."""

    def call(self, pair):
        first, second = (tf.math.l2_normalize(precise(h), -1, TINY) for h in pair)
        return 1.0 - tf.reduce_sum(first * second, axis=-1)


@keras.saving.register_keras_serializable(PACKAGE)
class LearnedL1(layers.Layer):
    """E = -(sum_j a_j |h1_j - h2_j| + b), with p = s(-E): equation 4."""

    def build(self, shapes):
        minus_one = keras.initializers.Constant(-1.0)
        self.a = self.add_weight(name="a", shape=(shapes[0][-1],), initializer=minus_one)
        self.b = self.add_weight(name="b", shape=(), initializer="zeros")

    def call(self, pair):
        weighted = precise(self.a) * tf.abs(precise(pair[0]) - precise(pair[1]))
        return -(tf.reduce_sum(weighted, axis=-1) + precise(self.b))


ENERGIES = {
    "euclidean": Euclidean,
    "squared_euclidean": SquaredEuclidean,
    "manhattan": Manhattan,
    "cosine": Cosine,
    "learned": LearnedL1,
}


@keras.saving.register_keras_serializable(PACKAGE)
class ContrastiveLoss(keras.losses.Loss):
    """Equation 3: pulls similar pairs together, and pushes others apart up to the margin.

    Args:
        margin: m; a pair of two classes whose energy is larger does not count.
    """

    def __init__(self, margin=1.0, name="contrastive_loss", **options):
        super().__init__(name=name, **options)
        self.margin = margin

    def call(self, same, energies):
        """The loss of each pair `(pairs,)`; `same` is 1 for pairs of one class, else 0."""
        return same * energies**2 + (1.0 - same) * tf.maximum(self.margin - energies, 0.0) ** 2

    def get_config(self):
        return {**super().get_config(), "margin": self.margin}


@keras.saving.register_keras_serializable(PACKAGE)
class EnergyCrossEntropy(keras.losses.Loss):
    """Equation 5 of each pair, the cross-entropy of p = s(-E); for the energy `LearnedL1`."""

    def call(self, same, energies):
        return same * tf.nn.softplus(energies) + (1.0 - same) * tf.nn.softplus(-energies)


@keras.saving.register_keras_serializable(PACKAGE)
class TripletLoss(keras.losses.Loss):
    """Equation 6, the mean over all pairs of one class in a batch, with semi-hard negatives.

    Args:
        margin: m, by how much farther than the positive a negative should be.
    """

    def __init__(self, margin=0.2, name="triplet_loss", **options):
        super().__init__(name=name, **options)
        self.margin = margin

    def call(self, labels, embeddings):
        """The loss of a batch, a scalar, from labels `(items,)` and embeddings `(items, d)`."""
        labels = tf.reshape(labels, [-1])
        distances = squared_distance(embeddings[:, None], embeddings[None])  # (items, items)
        same = labels[:, None] == labels
        positive = same & ~tf.eye(tf.shape(labels)[0], dtype=tf.bool)
        farther = ~same[:, None, :] & (distances[:, None, :] > distances[:, :, None])  # (a, p, n)
        nearest = tf.reduce_min(tf.where(farther, distances[:, None, :], distances.dtype.max), -1)
        farthest = tf.reduce_max(tf.where(same, 0.0, distances), -1, keepdims=True)
        negative = tf.where(tf.reduce_any(farther, -1), nearest, farthest)  # (a, p)
        losses = tf.maximum(distances - negative + self.margin, 0.0)
        counted = tf.cast(positive, losses.dtype)
        return tf.math.divide_no_nan(tf.reduce_sum(counted * losses), tf.reduce_sum(counted))

    def get_config(self):
        return {**super().get_config(), "margin": self.margin}


@keras.saving.register_keras_serializable(PACKAGE)
class SiameseNetwork(keras.Model):
    """Two items through the same network, and the energy between what comes out.

    It is fitted like any Keras model: with `ContrastiveLoss` or `EnergyCrossEntropy` to batches
    `((x1, x2), same)`, with `TripletLoss` to batches `(x, labels)`.

    Args:
        network: A built Keras model f from items to embeddings `(items, d)`.
        energy: A name in `ENERGIES`, or a layer like those.

    Raises:
        UserError: If there is no energy of that name.
    """

    def __init__(self, network, energy="euclidean", **options):
        super().__init__(**options)
        if isinstance(energy, str) and energy not in ENERGIES:
            raise UserError(f"--energy must be one of {', '.join(ENERGIES)}; got {energy!r}")
        self.network = network
        self.energy = ENERGIES[energy]() if isinstance(energy, str) else energy
        if not self.energy.built:
            self.energy.build([network.output_shape, network.output_shape])
        self.built = True  # the weights are the network's and the energy's, which exist

    def call(self, inputs, training=False):
        """Energies `(pairs,)` of pairs `(x1, x2)`, or the embeddings of items that come alone."""
        if not isinstance(inputs, (tuple, list)):
            return precise(self.network(inputs, training=training))
        first, second = (self.network(x, training=training) for x in inputs)  # equation 1
        return self.energy([first, second])

    def get_config(self):
        save = keras.saving.serialize_keras_object
        parts = {"network": save(self.network), "energy": save(self.energy)}
        return {**super().get_config(), **parts}

    @classmethod
    def from_config(cls, config):
        parts = [config.pop(name) for name in ("network", "energy")]
        return cls(*map(keras.saving.deserialize_keras_object, parts), **config)


def squared_distance(first, second):
    return tf.reduce_sum(tf.square(precise(first) - precise(second)), axis=-1)


def precise(values):
    """In mixed precision embeddings come in 16 bits, too few for the difference of close ones."""
    return tf.cast(values, keras.backend.result_type(values.dtype, "float32"))
