"""`SequenceLearner`: learns to answer sequences of bits with sequences of bits."""

import math
from functools import partial

from common.bit_sequences import Sequences

import keras
import numpy as np
import tensorflow as tf


@keras.saving.register_keras_serializable("meta_learning")
class SequenceLearner(keras.Model):
    """A recurrent network that is compiled and fitted to batches of `Sequences`.

    Args:
        network: A built Keras model from `(sequences, steps, inputs)` to logits
            `(sequences, steps, outputs)`.
    """

    def __init__(self, network, **options):
        super().__init__(**options)
        self.network = network
        self.loss_metric = keras.metrics.Mean(name="loss")
        self.wrong_metric = keras.metrics.Mean(name="wrong_bits")
        self._compiled_scores = None
        self.built = True  # the weights are the network's, which exist

    @property
    def metrics(self):
        return [self.loss_metric, self.wrong_metric]

    def call(self, inputs, training=False):
        return self.network(inputs, training=training)

    def train_step(self, sequences):
        """One step of the optimizer on the mean over sequences of the bits per sequence."""
        sequences = Sequences(*sequences)
        with tf.GradientTape() as tape:
            logits = self.network(sequences.inputs, training=True)
            loss = tf.reduce_mean(bits_per_sequence(sequences, logits))
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, [v.value for v in self.trainable_variables])
        self.optimizer.apply(gradients, self.trainable_variables)
        self.loss_metric.update_state(loss)
        self.wrong_metric.update_state(wrong_bits(sequences, logits))
        return {metric.name: metric.result() for metric in self.metrics}

    def sequence_scores(self, batches):
        """Scores of every sequence: bits, wrong bits, and how many bits were asked for.

        Args:
            batches: Batches of `Sequences`, such as `sampler.fixed(1000, 100)`.

        Returns:
            NumPy `(sequences, 3)`.
        """
        if self._compiled_scores is None:
            self._compiled_scores = tf.function(partial(self._scores), autograph=False)
        return np.concatenate([self._compiled_scores(*batch) for batch in batches])

    def _scores(self, *sequences):
        sequences = Sequences(*sequences)
        logits = self.network(sequences.inputs, training=False)
        asked = tf.reduce_sum(sequences.mask, axis=1) * sequences.targets.shape[-1]
        scores = bits_per_sequence(sequences, logits), wrong_bits(sequences, logits), asked
        return tf.stack(scores, axis=1)

    def get_config(self):
        network = keras.saving.serialize_keras_object(self.network)
        return {**super().get_config(), "network": network}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config.pop("network")), **config)


def bits_per_sequence(sequences, logits):
    """The cross-entropy in bits, summed over the steps that count: `(sequences,)`.

    One bit for each bit that is asked for if the machine knows nothing and says so.
    """
    logits = tf.cast(logits, tf.float32)
    nats = tf.nn.sigmoid_cross_entropy_with_logits(sequences.targets, logits)
    return tf.reduce_sum(nats * sequences.mask[..., None], axis=(1, 2)) / math.log(2)


def wrong_bits(sequences, logits):
    """How many of the bits that count are wrong if the likelier value is said: `(sequences,)`."""
    wrong = tf.cast((logits > 0) != (sequences.targets > 0.5), tf.float32)
    return tf.reduce_sum(wrong * sequences.mask[..., None], axis=(1, 2))
