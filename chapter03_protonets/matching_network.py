"""Matching networks: attention over the support items, whose weights add up to their classes'.

Oriol Vinyals, Charles Blundell, Timothy Lillicrap, Koray Kavukcuoglu, Daan Wierstra (2016),
arXiv:1606.04080, sections 2.1 and 2.2, and appendix A for `--fce`.

    p(y | x, S) = sum_i a(x, x_i) y_i                                    equation 1
    a(x, x_i) = softmax over all support items i of cos(f(x), g(x_i))    section 2.1.1
    J = mean of -log p(y | x, S) over the queries                        equation 2

Full-context embeddings (`--fce`) see the whole support set S; f' = g' is the plain embedding:

    g(x_i, S) = h_fwd + h_bwd + g'(x_i), of a bidirectional LSTM over S
    h^_k, c_k = LSTM(f'(x), [h_k-1, r_k-1], c_k-1)                       equation 3
    h_k = h^_k + f'(x),  h_0 = c_0 = 0,  f(x, S) = h_K                   equation 4
    r_k-1 = sum_i a(h_k-1, g(x_i)) g(x_i)                                equation 5
    a(h_k-1, g(x_i)) = softmax over i of h_k-1 . g(x_i)                  equation 6

Differences from the paper:

1. Cosines are multiplied by `--scale`, here 20. With the paper's `--scale 1`, p cannot pass 0.65
   for 5 classes (0.40 where features are never negative, as after ReLU), and learning is slow.
2. Training sees 60 classes in an episode; the paper trains with as many as it tests with.
3. Adam, its rate falling along a cosine, where the paper names no optimiser. At test time batch
   normalisation uses its moving averages: an image is embedded by itself, but for FCE.

`python chapter03_protonets/matching_network.py` trains on printed characters; with
`--dataset omniglot-random` it reaches 99.00 ± 0.14 % on 5-way and 96.60 ± 0.14 % on 20-way 1-shot
tasks of characters never seen (1,000 each, seed 0) after 12,000 steps, in 37 minutes (busy cores).
"""

from dataclasses import dataclass
from functools import partial

from common import command, metric_experiment, networks, training
from common.embedding import cosine_similarities, embed
from common.learner import MetaLearner
from common.metric_settings import MetricSettings
from common.settings import at_least, positive

import keras
import tensorflow as tf


@dataclass(frozen=True)
class Config(MetricSettings):
    """Settings of the script; the defaults are those of the printed characters."""

    scale: float = 20.0
    """Factor on cosines before the softmax; the paper's is 1."""
    fce: bool = False
    """Embed every item in the context of the support set (full-context embeddings)."""
    fce_steps: int = 5
    """With --fce: how often a query reads the support set, K."""

    def __post_init__(self):
        super().__post_init__()
        positive(self, "scale", "fce_steps")


@keras.saving.register_keras_serializable("meta_learning")
class MatchingNetwork(MetaLearner):
    """Classifies a query by attention over the support items (Vinyals et al. 2016).

    Args:
        network: The embedding f' = g', a Keras model from `(items, ...)` to `(items, features)`.
        scale: Factor on cosines before the softmax.
        fce_steps: K of the full-context embeddings; 0 leaves them out: f = f', g = g'.
        train_way: Number of classes in training, if always the same; only XLA (`--jit`) must know.

    Raises:
        UserError: If the scale or the steps are out of range.
    """

    def __init__(self, network, scale=20.0, fce_steps=0, train_way=None, **options):
        super().__init__(network, **options)
        self.scale, self.fce_steps, self.train_way = scale, fce_steps, train_way
        at_least(0, self, "scale", "fce_steps")
        if fce_steps:
            features = network.output_shape[-1]
            lstm = keras.layers.LSTM(features, return_sequences=True, dtype="float32")
            self.support_lstm = keras.layers.Bidirectional(lstm, merge_mode="sum", dtype="float32")
            self.query_cell = keras.layers.LSTMCell(features, dtype="float32")
            self.support_lstm.build((None, None, features))
            self.query_cell.build((None, 2 * features))

    def query_predictions(self, episode, training=False):
        """Log-probabilities, `(tasks, queries, n_way)`: logits of which the softmax is p itself."""
        query, support, _ = self.embeddings(episode.support_x, episode.query_x, training)
        n_way = (training and self.train_way) or tf.reduce_max(episode.support_y) + 1
        log_attention = self.log_attention(query, support)
        return self.class_log_probabilities(log_attention, episode.support_y, n_way)

    def embeddings(self, support_x, query_x, training=False):
        """f of the queries, g of the support items, and the attention of each reading (or [])."""
        support, query = embed(self.network, support_x, query_x, training=training)
        if not self.fce_steps:
            return query, support, []
        support = self.support_lstm(support) + support  # g reads S in the order of its rows
        query, attentions = self.read(query, support)
        return query, support, attentions

    def read(self, query, support):
        """From f' and g to f, `(tasks, queries, features)`, and to what each of K steps attends to,
        `(tasks, queries, supports)`."""
        flat = partial(tf.reshape, shape=[-1, query.shape[-1]])  # the cell knows no task axis
        h, c, attentions = tf.zeros_like(query), tf.zeros_like(flat(query)), []
        for _ in range(self.fce_steps):
            attention = tf.nn.softmax(tf.matmul(h, support, transpose_b=True))  # equation 6
            r = tf.matmul(attention, support)  # equation 5
            inputs = tf.concat([flat(query), flat(r)], -1)  # r beside f' or h: the same sum
            output, (_, c) = self.query_cell(inputs, [flat(h), c])  # equation 3
            h = tf.reshape(output, tf.shape(query)) + query  # equation 4
            attentions.append(attention)
        return h, attentions

    def log_attention(self, query, support):
        """log a(x, x_i), `(tasks, queries, supports)`; a sums to one over the support items."""
        return tf.nn.log_softmax(self.scale * cosine_similarities(query, support))

    def class_log_probabilities(self, log_attention, support_y, n_way):
        """Equation 1 in logarithms: the attention of each class's items, `(tasks, queries, n_way)`,
        from `(tasks, queries, supports)` and labels 0..n_way-1, `(tasks, supports)`."""
        belongs = tf.one_hot(support_y, n_way, axis=1, dtype=log_attention.dtype)
        own = log_attention[:, :, None] + tf.math.log(belongs)[:, None]  # -inf for other classes
        return tf.reduce_logsumexp(own, axis=-1)  # over supports

    def get_config(self):
        names = ("scale", "fce_steps", "train_way")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def run(config, directory=None, progress=False):
    """Trains matching networks, and measures them on classes never seen.

    Returns:
        A `Result` with the accuracy of the learner and its baselines, for each of `test_ways`.
    """
    training.prepare(config.run)
    sampler, test_samplers = metric_experiment.samplers(config)
    learner = new_learner(config, sampler.data.items.shape[1:])
    history = metric_experiment.train(learner, sampler, config, directory, progress)
    kind = partial(MatchingNetwork, scale=config.scale)
    learners = {"matching": learner, **metric_experiment.baselines(kind, learner, config)}
    return metric_experiment.measure(learners, test_samplers, config, history)


def new_learner(config, input_shape):
    """An untrained matching network; `keras.utils.set_random_seed` decides the LSTMs' weights."""
    options = {"filters": config.filters, "norm": config.norm, "seed": config.run.seed}
    network = networks.conv4(input_shape, None, strided=False, **options)
    fce_steps = config.fce_steps if config.fce else 0
    return MatchingNetwork(network, config.scale, fce_steps, train_way=config.n_way)


def main():
    """The command line: see `--help`."""
    command.main(Config, run, metric_experiment.draw)


if __name__ == "__main__":
    main()
