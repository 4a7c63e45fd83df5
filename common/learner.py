"""`MetaLearner`: what all meta-learners share. One outer step is one step of `Model.fit`."""

from common.episodes import Episode
from common.results import Estimate

import keras
import numpy as np
import tensorflow as tf


class MetaLearner(keras.Model):
    """A model that learns from episodes: compiled and fitted like any Keras model.

    A subclass says in `query_predictions` how it gets from a support set to predictions for the
    queries, and may override `meta_loss`. `fit`, `evaluate`, callbacks, `steps_per_execution`,
    `jit_compile`, mixed precision, saving and loading are Keras's own:

        learner.compile(optimizer=keras.optimizers.Adam(1e-3))
        learner.fit(sampler.dataset(32), epochs=10, steps_per_epoch=500)

    Args:
        network: A built Keras model, the weights theta that are meta-learned.
        loss: None for cross-entropy on integer labels and logits, otherwise any Keras loss (a
            name, a function or an instance).
    """

    def __init__(self, network, loss=None, **options):
        super().__init__(**options)
        self.network = network
        self.loss_function = None if loss is None else keras.losses.get(loss)
        self.loss_metric = keras.metrics.Mean(name="loss")
        self.score_metric = keras.metrics.Mean(name=self.score_name)
        self._compiled_scores = None
        self.built = True  # the weights are the network's, which exist

    @property
    def classifies(self) -> bool:
        """Whether the labels are classes, and the loss is cross-entropy."""
        return self.loss_function is None

    @property
    def score_name(self) -> str:
        """What `task_scores` measures: `"accuracy"`, or the name of the loss of a regression."""
        if self.classifies:
            return "accuracy"
        return getattr(self.loss_function, "name", None) or self.loss_function.__name__

    def query_predictions(self, episode, training=False):
        """Predictions for the queries of each task, made after seeing its support set.

        Args:
            episode: An `Episode` of tensors, first axis tasks.
            training: Whether this is part of an outer step.

        Returns:
            `(tasks, queries, outputs)`: logits, or the values of a regression.
        """
        raise TypeError(f"{type(self).__name__} must define query_predictions(episode, training).")

    def meta_loss(self, episode, training=True):
        """The loss of an outer step: the mean query loss over tasks, a scalar."""
        predictions = self.query_predictions(episode, training=training)
        return tf.reduce_mean(self.task_losses(episode.query_y, predictions))

    def task_losses(self, labels, predictions):
        """The mean loss of each task.

        Args:
            labels: int `(tasks, examples)` for classes, `(tasks, examples, outputs)` otherwise.
            predictions: `(tasks, examples, outputs)`.

        Returns:
            `(tasks,)`, float32 or float64.
        """
        precise = keras.backend.result_type(predictions.dtype, "float32")
        predictions = tf.cast(predictions, precise)
        if self.classifies:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, predictions)
        else:
            function = getattr(self.loss_function, "call", self.loss_function)
            losses = function(labels, predictions)  # (tasks, examples)
        return tf.reduce_mean(tf.reshape(losses, [tf.shape(losses)[0], -1]), axis=1)

    def task_scores(self, labels, predictions):
        """What is reported of each task, `(tasks,)`: accuracy, or the loss of a regression."""
        if not self.classifies:
            return self.task_losses(labels, predictions)
        hits = tf.argmax(predictions, -1, tf.int32) == tf.cast(labels, tf.int32)
        return tf.reduce_mean(tf.cast(hits, tf.float32), axis=1)

    @property
    def metrics(self):
        return [self.loss_metric, self.score_metric]

    def call(self, episode, training=False):
        return self.query_predictions(as_episode(episode), training=training)

    def train_step(self, episode):
        """One outer step: theta <- theta - beta * d meta_loss / d theta, by the optimizer."""
        episode = as_episode(episode)
        with tf.GradientTape() as tape:
            loss = self.meta_loss(episode)
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, [v.value for v in self.trainable_variables])
        self.optimizer.apply(gradients, self.trainable_variables)
        self.loss_metric.update_state(loss)
        return {"loss": self.loss_metric.result()}

    def test_step(self, episode):
        """Loss and score of one batch of episodes, for `evaluate` and `validation_data`."""
        episode = as_episode(episode)
        predictions = self._map_predictions(episode)
        self.loss_metric.update_state(self.task_losses(episode.query_y, predictions))
        self.score_metric.update_state(self.task_scores(episode.query_y, predictions))
        return {metric.name: metric.result() for metric in self.metrics}

    def evaluate_episodes(self, episodes) -> Estimate:
        """Mean score over episodes with its 95 % interval, 1.96 standard errors over tasks.

        Args:
            episodes: Batches of `Episode`, such as `sampler.fixed(1000, 32)`; an interval worth
                quoting wants 600 episodes or more.

        Returns:
            `Estimate(mean, ci95, n)`, with n the number of tasks.
        """
        return Estimate.from_values(self.episode_scores(episodes))

    def episode_scores(self, episodes) -> np.ndarray:
        """The score of every task, `(n_episodes,)`."""
        if self._compiled_scores is None:
            self._compiled_scores = tf.function(
                lambda episode: self.task_scores(episode.query_y, self._map_predictions(episode))
            )
        return np.concatenate([self._compiled_scores(as_episode(batch)) for batch in episodes])

    def predict_task(self, support_x, support_y, query_x) -> np.ndarray:
        """Learn one task and predict its queries.

        Args:
            support_x: `(supports, ...)`.
            support_y: `(supports,)` labels 0..n_way-1, or `(supports, outputs)`.
            query_x: `(queries, ...)`.

        Returns:
            NumPy `(queries, n_way)` class probabilities, or `(queries, outputs)`.
        """
        label_type = np.int32 if self.classifies else np.float32
        support_x, query_x = _as_sampled(support_x), _as_sampled(query_x)
        support_y = np.asarray(support_y, label_type)
        no_labels = np.zeros((len(query_x), *support_y.shape[1:]), label_type)
        episode = Episode(support_x, support_y, query_x, no_labels)
        episode = Episode(*(tf.convert_to_tensor(part)[None] for part in episode))
        predictions = tf.cast(self.query_predictions(episode, training=False)[0], tf.float32)
        return (self.probabilities(predictions) if self.classifies else predictions).numpy()

    def probabilities(self, predictions):
        """Class probabilities from the predictions of a classifier, `(..., n_way)`: a softmax."""
        return tf.nn.softmax(predictions)

    def _map_predictions(self, episode):
        """`query_predictions`; task by task where their number is known only at run time."""
        if episode.support_x.shape[0] is not None:
            return self.query_predictions(episode, training=False)
        return tf.map_fn(
            lambda one: tf.cast(
                self.query_predictions(one._make(part[None] for part in one), False)[0], tf.float32
            ),
            episode,
            fn_output_signature=tf.float32,
        )

    def get_config(self):
        loss = self.loss_function
        return {
            **super().get_config(),
            "network": keras.saving.serialize_keras_object(self.network),
            "loss": None if loss is None else keras.losses.serialize(loss),
        }

    @classmethod
    def from_config(cls, config):
        network = keras.saving.deserialize_keras_object(config.pop("network"))
        return cls(network, **config)


def as_episode(parts):
    """The parts of an episode as an `Episode`; one of another kind, with more parts, stays so."""
    return parts if hasattr(parts, "support_x") else Episode(*parts)


def _as_sampled(values):
    """As `EpisodeSampler` gives them: bytes as 0..1, numbers as float32, other integers kept."""
    values = np.asarray(values)
    if values.dtype == np.uint8:
        return values.astype(np.float32) / 255
    return values if np.issubdtype(values.dtype, np.integer) else values.astype(np.float32)
