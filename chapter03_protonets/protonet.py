"""Prototypical networks: a class is the mean of its embedded examples, and the nearest mean wins.

Jake Snell, Kevin Swersky, Richard Zemel (2017), arXiv:1703.05175, Algorithm 1.

    c_k = mean of f(x_i) over the support items of class k               equation 1
    p(y = k | x) = softmax_k(-d(f(x), c_k))                              equation 2
    J = mean of -log p(y | x) over classes and queries                   Algorithm 1

with d the squared Euclidean distance. Training sees more classes in an episode (60) than testing
(5 or 20): the harder task makes the better embedding (section 3.1). At test time each image is
embedded by itself: batch normalisation uses its moving averages.

With `--zero-shot`, a class is told in words instead of shown (sections 2.7 and 3.3): its prototype
is c_k = g(v_k) / |g(v_k)|, where v_k says which words are in its Unicode name and g is linear.

Differences from the paper and its code:

1. The rate falls along a cosine instead of being halved every 2,000 episodes, over a fixed number
   of episodes instead of until the validation loss stops falling.
2. The network starts from Keras's usual (Glorot) weights, and its convolutions have no bias, which
   batch normalisation would subtract again.
3. With `--distance cosine`, cosines are multiplied by `--scale` before the softmax; the paper does
   not scale them, with which no answer can be surer than e^2 to 1.
4. Zero-shot, f is the convolutional network and a linear layer, trained together with g; the
   paper's f is a linear layer on features of GoogLeNet, which stay as they are. Characters take
   the place of birds, the words of their names that of 312 attributes, and there is no weight
   decay.

`python chapter03_protonets/protonet.py` trains on printed characters; then
`python chapter03_protonets/protonet.py --support DIR --query FILE...` recognises your own images.
"""

from dataclasses import dataclass
from pathlib import Path

from common import calibration, metric_experiment, networks, own_images, training
from common.embedding import class_shares, cosine_similarities, embed, squared_distances
from common.errors import UserError
from common.learner import MetaLearner
from common.metric_settings import MetricSettings
from common.settings import positive

import keras
import tensorflow as tf

DISTANCES = ("euclidean", "cosine")


@dataclass(frozen=True)
class Config(MetricSettings):
    """Settings of the script; the defaults are those of the printed characters."""

    distance: str = "euclidean"
    """Distance to the prototypes: euclidean (squared) or cosine."""
    scale: float = 10.0
    """Factor on cosines before the softmax."""
    zero_shot: bool = False
    """Learn classes from their descriptions, without a single image; k_shot has no meaning."""

    support: Path | None = None
    """Recognise your own images: folder with a folder of images, or an image, for each class."""
    query: tuple[Path, ...] = ()
    """The images to recognise."""
    weights: Path | None = None
    """Folder of the run to recognise with; by default the newest, or a training comes first."""

    def __post_init__(self):
        own_images.check(self)
        super().__post_init__()
        positive(self, "scale")


@keras.saving.register_keras_serializable("meta_learning")
class ProtoNet(MetaLearner):
    """Classifies a query by the nearest prototype (Snell et al. 2017).

    Args:
        network: The embedding f, a built Keras model from `(items, ...)` to `(items, features)`.
        distance: `"euclidean"` (squared) or `"cosine"`.
        scale: Factor on cosines.
        train_way: Number of classes in training, if it is always the same; only XLA (`--jit`)
            must know it. At test time any number will do.

    Raises:
        UserError: If the distance is neither.
    """

    def __init__(self, network, distance="euclidean", scale=10.0, train_way=None, **options):
        super().__init__(network, **options)
        if distance not in DISTANCES:
            raise UserError(f"distance must be one of {', '.join(DISTANCES)}; got {distance!r}.")
        self.distance, self.scale, self.train_way = distance, scale, train_way

    def query_predictions(self, episode, training=False):
        """Logits of the queries, `(tasks, queries, n_way)`; any number of classes and shots."""
        support, query = embed(
            self.network, episode.support_x, episode.query_x, training=training
        )  # (tasks, supports, features), (tasks, queries, features)
        n_way = self.n_way(episode.support_y, training)
        return self.logits(query, self.prototypes(support, episode.support_y, n_way))

    def n_way(self, support_y, training=False):
        """The number of classes in the episodes."""
        if training and self.train_way is not None:
            return self.train_way
        return tf.reduce_max(support_y) + 1

    def prototypes(self, support, support_y, n_way):
        """Equation 1: the mean embedding of each class.

        Args:
            support: `(tasks, supports, features)`.
            support_y: int `(tasks, supports)`, 0..n_way-1, each class at least once.
            n_way: Number of classes.

        Returns:
            `(tasks, n_way, features)`.
        """
        return tf.matmul(class_shares(support_y, n_way, support.dtype), support)

    def logits(self, query, prototypes):
        """Equation 2 before its softmax: -d(f(x), c_k), or scaled cosines.

        Args:
            query: `(tasks, queries, features)`.
            prototypes: `(tasks, n_way, features)`.

        Returns:
            `(tasks, queries, n_way)`.
        """
        if self.distance == "cosine":
            return self.scale * cosine_similarities(query, prototypes)
        return -squared_distances(query, prototypes)

    def get_config(self):
        names = ("distance", "scale", "train_way")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable("meta_learning")
class ZeroShotProtoNet(ProtoNet):
    """Prototypes of classes that are described instead of shown: sections 2.7 and 3.3.

    Args:
        network: The embedding f of images, as for `ProtoNet`.
        describer: The embedding g of descriptions, from `(classes, attributes)`.
    """

    def __init__(self, network, describer, **options):
        super().__init__(network, **options)
        self.describer = describer

    def query_predictions(self, episode, training=False):
        """Logits of the queries; `support_x` are descriptions `(tasks, n_way, attributes)`."""
        (query,) = embed(self.network, episode.query_x, training=training)
        (described,) = embed(self.describer, episode.support_x, training=training)
        unit = tf.math.l2_normalize(described, -1)  # c_k = g(v_k) / |g(v_k)|, in the rows' order
        n_way = self.n_way(episode.support_y, training)
        return self.logits(query, self.prototypes(unit, episode.support_y, n_way))

    def get_config(self):
        describer = keras.saving.serialize_keras_object(self.describer)
        return {**super().get_config(), "describer": describer}

    @classmethod
    def from_config(cls, config):
        config["describer"] = keras.saving.deserialize_keras_object(config["describer"])
        return super().from_config(config)


def run(config, directory=None, progress=False):
    """Trains prototypical networks, and measures them on classes never seen.

    Returns:
        A `Result` with the accuracy of the learner and its baselines, for each of `test_ways`.
    """
    training.prepare(config.run)
    sampler, test_samplers = metric_experiment.samplers(config)
    shapes = metric_experiment.shapes(sampler)
    learner = new_learner(config, *shapes)
    if config.zero_shot:
        untrained = new_learner(config, *shapes)
        baselines = metric_experiment.described_baselines(untrained, sampler)
    else:
        baselines = metric_experiment.baselines(ProtoNet, learner, config)
    history = metric_experiment.train(learner, sampler, config, directory, progress)
    learners = {"protonet": learner, **baselines}
    result = metric_experiment.measure(learners, test_samplers, config, history)
    return result if config.zero_shot else calibration.add_to(result, config)


def new_learner(config, input_shape, n_attributes=None):
    """An untrained learner, zero-shot if classes have attributes; the seed decides its weights."""
    options = {"distance": config.distance, "scale": config.scale, "train_way": config.n_way}
    if n_attributes is None:
        return ProtoNet(metric_experiment.conv4_embedding(config, input_shape), **options)
    network = metric_experiment.conv4_embedding(config, input_shape, config.filters)
    linear = networks.mlp(n_attributes, (), config.filters, seed=config.run.seed + 100)
    return ZeroShotProtoNet(network, linear, **options)


def main():
    """The command line: see `--help`."""
    own_images.main(Config, run, metric_experiment.draw, new_learner)


if __name__ == "__main__":
    main()
