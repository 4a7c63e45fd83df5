"""Relation networks: how alike two images are is not a distance, but learned by a network as well.

Flood Sung, Yongxin Yang, Li Zhang, Tao Xiang, Philip Torr, Timothy Hospedales (2018),
arXiv:1711.06025, section 3.

    r_ij = g(C(f(x_i), f(x_j)))                                          equation 1
    J = mean over queries j and classes i of (r_ij - 1[y_i = y_j])^2     equation 2
    r_ij = g(C(f_1(v_i), f_2(x_j)))                                      equation 3

f makes maps of an image, C lays the maps of two on one another, g judges the pair, and the class of
the highest r wins. The maps of a class's examples are added (section 3.2); with `--zero-shot` it
has none, and f_1 makes its maps from a description v_i.

Differences from the paper and its code:

1. Equation 2 is a mean, as in the code; the paper writes a sum.
2. At test time batch normalisation uses its moving averages, so that a query is judged by itself;
   the code takes the statistics of the batch, to which the other queries and classes belong.
3. The rate starts at 0.003, in the code at 0.001, and falls along a cosine; the weights start as
   Keras's do, and gradients are not clipped: the code clips their norms at 0.5, which these hardly
   ever reach.
4. Training shows 20 classes and 5 queries of each, and the network serves every number of classes;
   the paper trains one for 5 classes, with 19 queries of each, and one for 20, with 10.
5. Zero-shot: f_1 makes maps; the paper joins vectors, the images' from a network for ImageNet.

`python chapter03_protonets/relation_network.py` trains on printed characters; with
`--dataset omniglot-random` it reaches 99.26 ± 0.14 % on 5-way and 97.81 ± 0.12 % on 20-way 1-shot
tasks of characters never seen (1,000 each, seed 0) after 25,000 steps, in 25 minutes (2 cores).
"""

from dataclasses import dataclass
from typing import ClassVar

from chapter03_protonets.protonet import ProtoNet
from common import command, metric_experiment, relation_figures, training
from common.embedding import embed
from common.learner import MetaLearner
from common.metric_settings import MetricSettings
from common.relation_modules import description_module, embedding_module, relation_module

import keras
import tensorflow as tf
from keras import layers


@dataclass(frozen=True)
class Config(MetricSettings):
    """Settings of the script; the defaults are those of the printed characters."""

    OMNIGLOT_STEPS: ClassVar[int] = 25000

    n_way: int = 20
    """Classes in an episode of training."""
    outer_lr: float = 0.003
    """Rate of the outer steps (Adam)."""
    zero_shot: bool = False
    """Learn classes from their descriptions, without a single image; k_shot has no meaning."""


@keras.saving.register_keras_serializable("meta_learning")
class RelationNetwork(MetaLearner):
    """Classifies a query by its learned relation to each class (Sung et al. 2018).

    Args:
        network: f, a built Keras model from images to maps `(items, height, width, channels)`.
        relation: g, a built Keras model such as `relation_modules.relation_module`.
        describer: f_1, from descriptions to maps of the same size; None where classes are shown.
        train_way: Number of classes in training, if always the same; only XLA (`--jit`) must know.
    """

    def __init__(self, network, relation, describer=None, train_way=None, **options):
        super().__init__(network, **options)
        self.relation, self.describer, self.train_way = relation, describer, train_way

    def query_predictions(self, episode, training=False):
        """Relation scores of the queries in 0..1, `(tasks, queries, n_way)`."""
        support_x, support_y, query_x, _ = episode
        if self.describer is None:
            support, query = embed(self.network, support_x, query_x, training=training)
        else:
            (support,) = embed(self.describer, support_x, training=training)
            (query,) = embed(self.network, query_x, training=training)
        n_way = (training and self.train_way) or tf.reduce_max(support_y) + 1
        return self.scores(self.class_maps(support, support_y, n_way), query, training)

    def class_maps(self, support, support_y, n_way):
        """Section 3.2: each class's sum `(tasks, n_way, ...)` of maps `(tasks, supports, ...)`,
        of which `support_y` `(tasks, supports)` gives the classes 0..n_way-1."""
        belongs = tf.one_hot(support_y, n_way, dtype=support.dtype)  # (tasks, supports, n_way)
        return tf.einsum("tik,tihwc->tkhwc", belongs, support)

    def scores(self, classes, query, training=False):
        """Equations 1 and 3: r of every class i with every query j, `(tasks, queries, n_way)`.

        Both are maps, `(tasks, n_way, height, width, channels)` and `(tasks, queries, ...)`.
        """
        scores = self.relation([classes, query], training=training)  # (tasks * queries * n_way, 1)
        tasks, n_way = tf.unstack(tf.shape(classes)[:2])
        return tf.reshape(tf.cast(scores, query.dtype), [tasks, query.shape[1], n_way])

    def task_losses(self, labels, scores):
        """Equation 2, averaged over the pairs of each task: `(tasks,)`."""
        same = tf.one_hot(labels, tf.shape(scores)[-1], dtype=scores.dtype)  # 1[y_i = y_j]
        return tf.reduce_mean((scores - same) ** 2, axis=[1, 2])

    def probabilities(self, scores):
        """Scores divided by their sum: what `predict_task` gives, though nothing calibrates it."""
        scores = scores + keras.backend.epsilon()
        return scores / tf.reduce_sum(scores, axis=-1, keepdims=True)

    def get_config(self):
        parts = {"relation": self.relation, "describer": self.describer}
        saved = {name: keras.saving.serialize_keras_object(part) for name, part in parts.items()}
        return {**super().get_config(), **saved, "train_way": self.train_way}

    @classmethod
    def from_config(cls, config):
        for name in ("relation", "describer"):
            config[name] = keras.saving.deserialize_keras_object(config[name])
        return super().from_config(config)


def run(config, directory=None, progress=False):
    """Trains relation networks, and measures them on classes never seen.

    Returns:
        A `Result` with the accuracy of the learner and its baselines, for each of `test_ways`.
    """
    training.prepare(config.run)
    sampler, test_samplers = metric_experiment.samplers(config)
    data = sampler.data.data if config.zero_shot else sampler.data
    learner = new_learner(config, data)
    if config.zero_shot:
        baselines = metric_experiment.described_baselines(new_learner(config, data), sampler)
    else:
        baselines = metric_experiment.baselines(nearest_maps, learner, config)
    history = metric_experiment.train(learner, sampler, config, directory, progress)
    learners = {"relation": learner, **baselines}
    return metric_experiment.measure(learners, test_samplers, config, history)


def new_learner(config, data):
    """An untrained relation network for a `FewShotData`, its weights decided by the seed."""
    keras.utils.set_random_seed(config.run.seed)
    network = embedding_module(data.items.shape[1:], config.filters, config.norm)
    map_shape, describer = network.output_shape[1:], None
    relation = relation_module(map_shape, config.filters, config.norm)
    if config.zero_shot:
        describer = description_module(len(data.attribute_names), map_shape, config.filters)
    return RelationNetwork(network, relation, describer, train_way=config.n_way)


def nearest_maps(network):
    """The baseline that compares by distance: a prototypical network on the maps of f."""
    return ProtoNet(keras.Model(network.input, layers.Flatten()(network.output)))


def main():
    """The command line: see `--help`."""
    command.main(Config, run, relation_figures.draw)


if __name__ == "__main__":
    main()
