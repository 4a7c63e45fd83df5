"""`LateLabelLearner`: reads a task item by item, and is told each label one step late."""

from common.learner import MetaLearner
from common.tasks import Episode

import keras
import numpy as np
import tensorflow as tf


@keras.saving.register_keras_serializable("meta_learning")
class LateLabelLearner(MetaLearner):
    """Names each item of a sequence before its label is shown (Santoro et al. 2016, section 2).

    At step t the network's input is (x_t, y_{t-1}), and y_0 is null: what it knows of the labels
    of an episode it must have stored itself. It starts every episode from the same state.

    Args:
        network: A Keras model from `(tasks, steps, pixels + places * symbols)` to logits
            `(tasks, steps, places * symbols)`, each step seeing no later one.
        label_shape: Places of a label, and symbols at each of them: `(1, 5)` for five classes.
        clip_norm: What the norm of a training step's gradient is cut to.
    """

    def __init__(self, network, label_shape, clip_norm=10.0, **options):
        super().__init__(network, **options)
        self.label_shape, self.clip_norm = tuple(label_shape), clip_norm

    def query_predictions(self, episode, training=False):
        """Logits at every step, `(tasks, steps, places * symbols)`."""
        return self.network(self.inputs(episode.query_x, episode.query_y), training=training)

    def inputs(self, x, y):
        """What the network sees: pixels, and beside them the label of the step before.

        Args:
            x: Images `(tasks, steps, ...)`.
            y: Their labels, int `(tasks, steps)` or `(tasks, steps, places)`; the last label is
                not used.

        Returns:
            `(tasks, steps, pixels + places * symbols)`.
        """
        x, y = tf.convert_to_tensor(x), tf.convert_to_tensor(y)
        pixels = tf.reshape(x, (-1, x.shape[1], int(np.prod(x.shape[2:]))))
        codes = tf.one_hot(self.by_place(y), self.label_shape[1], dtype=pixels.dtype)
        codes = tf.reshape(codes, (-1, x.shape[1], int(np.prod(self.label_shape))))
        late = tf.pad(codes[:, :-1], ((0, 0), (1, 0), (0, 0)))  # y_{t-1}, and y_0 = 0
        return tf.concat([pixels, late], axis=-1)

    def task_losses(self, labels, predictions):
        """Cross-entropy of each task, the mean over its steps and the places of a label."""
        return super().task_losses(self.by_place(labels), self.symbol_logits(predictions))

    def task_scores(self, labels, predictions):
        """Accuracy of each task over all of its steps, `(tasks,)`."""
        return tf.reduce_mean(tf.cast(self.hits(labels, predictions), tf.float32), axis=1)

    def hits(self, labels, predictions):
        """Whether each item was named rightly, at all of its places: bool `(tasks, steps)`."""
        named = tf.argmax(self.symbol_logits(predictions), -1, tf.int32)
        return tf.reduce_all(named == self.by_place(labels), axis=-1)

    def by_place(self, labels):
        """Labels as `(tasks, steps, places)`."""
        return tf.reshape(labels, (-1, labels.shape[1], self.label_shape[0]))

    def symbol_logits(self, predictions):
        """Logits as `(tasks, steps, places, symbols)`."""
        return tf.reshape(predictions, (-1, predictions.shape[1], *self.label_shape))

    def predict_task(self, support_x, support_y, query_x):
        """Shows a support set, item by item in its order, and then asks for a query.

        Every query is asked after the support set alone.

        Args:
            support_x: `(supports, ...)`.
            support_y: `(supports,)` or `(supports, places)`.
            query_x: `(queries, ...)`.

        Returns:
            NumPy probabilities `(queries, symbols)`, or `(queries, places, symbols)` where a
            label has several places.
        """
        x = np.stack([np.concatenate([support_x, query[None]]) for query in np.asarray(query_x)])
        x = x.astype(np.float32) / (255 if x.dtype == np.uint8 else 1)
        y = np.asarray(support_y, np.int32)
        y = np.stack([np.concatenate([y, y[:1]])] * len(x))  # the last one is not used
        logits = self.symbol_logits(self.query_predictions(Episode(x, y, x, y)))[:, -1]
        probabilities = tf.nn.softmax(logits).numpy()
        return probabilities[:, 0] if self.label_shape[0] == 1 else probabilities

    def outer_optimizer(self, config):
        """Adam with the script's `outer_lr`, its gradients cut to a norm of `clip_norm`."""
        rate = config.outer_lr
        if config.outer_decay:
            rate = keras.optimizers.schedules.CosineDecay(rate, config.run.steps)
        return keras.optimizers.Adam(rate, global_clipnorm=self.clip_norm)

    def get_config(self):
        own = {"label_shape": self.label_shape, "clip_norm": self.clip_norm}
        return {**super().get_config(), **own}
