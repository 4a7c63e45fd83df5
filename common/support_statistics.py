"""Batch normalisation that never looks at the queries: it normalises them as the support set.

Statistics of the queries' own batch are transductive: the answer for one query then depends on
the others. Those of the support set are known before the first query comes.
"""

from common.task_batching import TaskBatchedNetwork

import keras
import tensorflow as tf


class SupportNormalizedNetwork(TaskBatchedNetwork):
    """A network with the weights of many tasks, whose batch normalisation knows the support set.

    Other layers, and networks without batch normalisation, are as in `TaskBatchedNetwork`.

    Args:
        network: The built Keras model.
    """

    batch_statistics = False

    def __init__(self, network):
        # With momentum 0 the moving averages are those of the last batch: of the support set.
        super().__init__(keras.models.clone_model(network, clone_function=_without_memory))

    def __call__(self, weights, support_x, inputs, *, training=False):
        """Outputs for the inputs, normalised by the statistics of the support set.

        Args:
            weights: List of `(tasks, *shape)`, aligned with `network.trainable_variables`.
            support_x: `(tasks, supports, ...)`.
            inputs: `(tasks, examples, ...)`.

        Returns:
            `(tasks, examples, outputs)`.
        """
        twin = self._twin(weights[0].shape[0])
        state = [tf.convert_to_tensor(v) for v in twin.non_trainable_variables]
        _, state = twin.stateless_call(weights, state, support_x, training=True)
        return twin.stateless_call(weights, state, inputs, training=False)[0]


class SupportNormalized:
    """Makes a gradient-based learner inductive: no query of meta-test helps another.

    To be named before the learner's class: `class Learner(SupportNormalized, MAML)`. In training
    the queries are still normalised by their own statistics.
    """

    def __init__(self, network, *args, **options):
        super().__init__(network, *args, **options)
        self.support_normalized = SupportNormalizedNetwork(network)

    def query_predictions(self, episode, training=False):
        """The queries seen through the weights adapted to the support set."""
        fast_weights = self.adapt(episode.support_x, episode.support_y, training=training)
        if training:
            return self.predict_with(fast_weights, episode.query_x, training, self.inner_steps)
        return self.predict_queries(fast_weights, episode)

    def predict_queries(self, fast_weights, episode):
        """Outputs for the queries of meta-test, `(tasks, queries, outputs)`; what `inner_step`
        returns behind the fast weights is left aside."""
        weights = list(fast_weights[: len(self.network.trainable_variables)])
        return self.support_normalized(weights, episode.support_x, episode.query_x)


def _without_memory(layer):
    config = layer.get_config()
    if isinstance(layer, keras.layers.BatchNormalization):
        config["momentum"] = 0.0
    return type(layer).from_config(config)
