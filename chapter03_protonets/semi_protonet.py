"""Semi-supervised prototypical networks: items without labels refine the prototypes.

Ren, Triantafillou, Ravi, Snell, Swersky, Tenenbaum, Larochelle, Zemel (2018), arXiv:1803.00676,
its equations as numbered in the submission; d is squared Euclidean, h_j the embedding of item j.

    z_jc = softmax_c(-d(h_j, p_c));  p~_c is the mean of all h with weights z   (4) soft k-means
    z_jc ~ exp(-d(h_j, p_c) / r_c^2 - A(r_c)),  A(r) = ln(2 pi) / 2 + ln r      (5, 6) one more
        cluster, N + 1, at 0, for the distractors; r_1 = ... = r_N = 1, r_{N+1} is learned
    d~_jc = d_jc / mean_j d_jc                                                  (7) masked
    [b_c, g_c] = MLP(min, max, variance, skewness, kurtosis of d~_jc over j)    (8)
    m_jc = sigmoid(-g_c (d~_jc - b_c)), and z_jc m_jc stands for z_jc in (4)    (9)

In every class, of the test too, 10 % of the items are labelled (of data other than characters, with
fewer items a class, 40 %); the others serve without label.
With `--distractors 5`, as many of them come from 5 classes that the task is not about.

Differences from the paper, or from its code where the paper leaves a choice:

1. The code halves d / r^2; the paper does not, nor do we. The learned r starts at 3, in the code at
   100, where cluster N + 1 owns nearly all items of an untrained network.
2. Queries are never of cluster N + 1, which stays at 0; in the code it moves and can win them.
3. The mask counts once; in the code twice (z m^2). As there, b and g are exponentials, and the MLP
   (5 -> 20 tanh -> 2) starts near b = g = 1 and lets no gradient through to its inputs.
4. The code stops the gradient at plain soft k-means' z; here it flows, as in the other two.
5. A step has several episodes, Adam's rate falls along a cosine, and there is no weight decay. Of
   20 drawings 2 are labelled, so 18 are left in testing, where the paper has M = 20.

`python chapter03_protonets/semi_protonet.py` trains on printed characters. On Omniglot
(`--dataset omniglot-random`, seed 0, 17 minutes on two busy cores) the items without labels add
2.8 ± 0.5 (soft), 3.0 ± 0.5 (cluster) and 3.2 ± 0.5 points (masked) to 95.8 % on 5-way 1-shot tasks;
with `--distractors 5 --steps 3000` 2.0, 3.3 and 3.3 ± 0.6 to 95.1 %.
"""

from dataclasses import dataclass, replace

from chapter03_protonets.protonet import ProtoNet
from common import command, networks, semi_experiment, training
from common.embedding import distance_statistics, embed, squared_distances
from common.errors import UserError
from common.settings import RunSettings, at_least, non_negative, positive

import keras
import numpy as np
import tensorflow as tf


@dataclass(frozen=True)
class Config:
    """Settings of the script; the defaults are those of the printed characters."""

    n_way: int = 5
    """Classes with labels in an episode."""
    k_shot: int = 1
    """Support items of each class."""
    n_query: int = 1
    """Query items of each class, labelled items as well."""
    labelled: float = 0.1
    """Share of the items of each class that are labelled."""
    n_unlabelled: int = 5
    """M: unlabelled items of each class in training."""
    test_unlabelled: int = 20
    """M in testing, or as many as the smallest class has."""
    distractors: int = 0
    """H: classes of which an episode has unlabelled items only, in training and testing."""
    rotations: bool = True
    """Count each 90-degree rotation of a class of images as a class of its own."""
    methods: tuple[str, ...] = ("soft", "cluster", "masked")
    """What to train beside the supervised network: soft, cluster, masked."""
    filters: int = 64
    """Filters of each convolution."""
    outer_lr: float = 0.001
    """Rate of the outer steps (Adam)."""
    outer_decay: bool = True
    """Let the outer rate fall to zero along a cosine."""
    meta_batch_size: int = 4
    """Episodes in an outer step."""
    eval_episodes: int = 1000
    """Meta-test episodes."""
    run: RunSettings = RunSettings(steps=1000, dataset="glyphs")

    def __post_init__(self):
        positive(self, "k_shot", "n_query", "labelled", "n_unlabelled", "test_unlabelled")
        positive(self, "filters", "outer_lr", "meta_batch_size")
        non_negative(self, "distractors")
        at_least(2, self, "eval_episodes", "n_way")
        if unknown := sorted(set(self.methods) - set(METHODS)):
            raise UserError(f"--methods must be among {' '.join(METHODS)}, got {unknown[0]}")

    @classmethod
    def for_dataset(cls, dataset):
        """The settings for a data set, after the paper's; the docstring above says what differs."""
        return replace(cls(), **semi_experiment.settings_for(dataset))

    @classmethod
    def smoke(cls, dataset="glyphs"):
        """The whole script in seconds."""
        return replace(cls.for_dataset(dataset), **semi_experiment.smoke_settings(dataset))


@keras.saving.register_keras_serializable("meta_learning")
class SoftKMeans(ProtoNet):
    """Prototypes refined by soft k-means; everything else is as in `ProtoNet`."""

    refinements = 1  # steps of k-means

    def query_predictions(self, episode, training=False):
        """Logits of the queries; without unlabelled items those of `ProtoNet`."""
        if not hasattr(episode, "unlabelled_x") or episode.unlabelled_x.shape[1] == 0:
            return super().query_predictions(episode, training)
        sets = (episode.support_x, episode.query_x, episode.unlabelled_x)
        support, query, unlabelled = embed(self.network, *sets, training=training)
        n_way = self.n_way(episode.support_y, training)
        prototypes = self.prototypes(support, episode.support_y, n_way)
        for _ in range(self.refinements):
            prototypes = self.refine(prototypes, support, episode.support_y, unlabelled)
        return self.logits(query, prototypes)

    def refine(self, prototypes, support, support_y, unlabelled):
        """Equation 4, from old to new prototypes, both `(tasks, n_way, features)`."""
        z_u = self.assignments(unlabelled, prototypes)  # (tasks, unlabelled, n_way)
        z_s = tf.one_hot(support_y, tf.shape(prototypes)[1], dtype=z_u.dtype)
        z, items = tf.concat([z_s, z_u], axis=1), tf.concat([support, unlabelled], axis=1)
        total = tf.reduce_sum(z, axis=1)[..., tf.newaxis]  # (tasks, n_way, 1); at least 1
        return tf.matmul(z, items, transpose_a=True) / total

    def assignments(self, unlabelled, prototypes):
        """z_jc: the weight of every unlabelled item in each class."""
        return tf.nn.softmax(self.logits(unlabelled, prototypes))


@keras.saving.register_keras_serializable("meta_learning")
class ClusterSoftKMeans(SoftKMeans):
    """Soft k-means with a cluster at 0 for distractors, whose radius is learned: (5, 6)."""

    def __init__(self, network, **options):
        super().__init__(network, **options)
        start = keras.initializers.Constant(np.log(3.0))
        self.log_radius = self.add_weight(shape=(), initializer=start, name="log_radius")

    def assignments(self, unlabelled, prototypes):
        """z_jc of the N classes; what they lack to a sum of 1 belongs to cluster N + 1."""
        log_r = tf.cast(self.log_radius, unlabelled.dtype)
        distances = tf.reduce_sum(unlabelled**2, axis=-1, keepdims=True)  # to 0
        # ln(2 pi) / 2 is in A(1) and A(r) alike: the softmax does not see it.
        cluster = -distances / tf.exp(2 * log_r) - log_r
        logits = tf.concat([self.logits(unlabelled, prototypes), cluster], axis=-1)
        return tf.nn.softmax(logits)[..., :-1]


@keras.saving.register_keras_serializable("meta_learning")
class MaskedSoftKMeans(SoftKMeans):
    """Soft k-means with masks for what is far from a prototype, compared to the others: (7-9)."""

    def __init__(self, network, **options):
        super().__init__(network, **options)
        small = keras.initializers.RandomNormal(stddev=0.01, seed=0)
        hidden = keras.layers.Dense(20, "tanh", kernel_initializer=small, dtype="float32")
        last = keras.layers.Dense(2, kernel_initializer=small, dtype="float32")
        self.mlp = keras.Sequential([keras.Input((None, 5)), hidden, last], name="mlp")

    def assignments(self, unlabelled, prototypes):
        """z_jc m_jc."""
        z = super().assignments(unlabelled, prototypes)
        return z * self.mask(squared_distances(unlabelled, prototypes))

    def mask(self, distances):
        """m_jc from d_jc, both `(tasks, unlabelled, n_way)`."""
        mean = tf.reduce_mean(distances, axis=1, keepdims=True)
        relative = distances / tf.maximum(mean, 1e-6)  # (7)
        inputs = tf.stop_gradient(distance_statistics(relative))  # (tasks, n_way, 5)
        b, g = tf.unstack(tf.exp(self.mlp(inputs))[:, tf.newaxis], axis=-1)  # (8)
        return tf.sigmoid(-g * (relative - b))  # (9)


METHODS = {"soft": SoftKMeans, "cluster": ClusterSoftKMeans, "masked": MaskedSoftKMeans}


def run(config, directory=None, progress=False):
    """Trains the supervised network and `methods` alike, and measures them on unseen classes.

    Returns:
        A `Result` with accuracies and, episode by episode, gains over the supervised network, which
        has soft k-means in testing only as `inference`.
    """
    training.prepare(config.run)
    sampler, test_sampler = semi_experiment.samplers(config)
    shape = sampler.data.item_shape
    learners = {name: new_learner(config, name, shape) for name in ("supervised", *config.methods)}
    histories = semi_experiment.train(learners, sampler, config, directory, progress)
    learners["inference"] = SoftKMeans(learners["supervised"].network)
    return semi_experiment.measure(learners, test_sampler, config, histories)


def new_learner(config, name, input_shape):
    """An untrained learner, `supervised` or one of `METHODS`; the seed decides its weights."""
    network = networks.conv4(
        input_shape, None, filters=config.filters, strided=False, norm="fused", seed=config.run.seed
    )
    return {"supervised": ProtoNet, **METHODS}[name](network, train_way=config.n_way)


def main():
    """The command line: see `--help`."""
    command.main(Config, run, semi_experiment.draw)


if __name__ == "__main__":
    main()
