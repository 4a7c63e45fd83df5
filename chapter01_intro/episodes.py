"""Episodes: small tasks to learn from and be judged on; and what they yield without meta-learning.

Oriol Vinyals, Charles Blundell, Timothy Lillicrap, Koray Kavukcuoglu, Daan Wierstra (2016),
arXiv:1606.04080, sections 2.2 and 4.1. The classes of a data set are split into those of
meta-train, meta-validation and meta-test. An n-way k-shot episode draws n classes from one of
these, and of each class k items for its support set S and others for its query set Q. A learner
sees S with its labels, answers for Q, and is judged by its accuracy there; the mean over 600
meta-test episodes is reported with its 95 % interval. Three learners that only ever see S:

    y^ = y_j,  j = argmin_i |x - x_i|^2 over S               nearest neighbour on pixels     (1)
    min_W,b  C sum_S -log softmax(W x + b)_y + |W|^2 / 2     logistic regression             (2)
    theta <- theta - alpha dL_S / dtheta, theta random       network trained from scratch    (3)

Meta-learning, in contrast, learns from meta-train how to use a support set (their equation 2):

    max_theta  E over episodes of sum_Q log p_theta(y | x, S)                                (4)

in one of three families, by what theta is:

- a metric: an embedding in which (1) works. Siamese networks (chapter 2 of the book, folder
  chapter02_siamese), prototypical networks (3), relation and matching networks (4; both in
  chapter03_protonets);
- an initialisation: a theta from which few steps of (3) suffice. MAML, ADML and CAML (6,
  chapter05_maml_adml), Meta-SGD and Reptile (7, chapter06_metasgd_reptile), gradient agreement (8,
  chapter07_gradient_agreement), TAML (9, chapter08_recent);
- an optimizer: a network that makes the update of (3). This chapter's `learning_to_learn.py` and
  `lstm_meta_learner.py`.

Memory-augmented networks (5, chapter04_ntm_mann) stand beside them: theta reads S into a memory.

A prototypical network, of the first family, is trained beside for a few hundred steps, to show
what is to be gained.

How the settings are found: C, and optimizer and rate of (3), are the best on episodes of
meta-validation classes, for each k anew. All networks of (3) start from the same random weights,
which the seed decides, and are trained at once on all support items (`common.task_batching`).

Differences from the paper: characters are not turned to make more classes; pixels are compared by
Euclidean distance, not by cosine.

`python chapter01_intro/episodes.py` compares all of these on printed characters (5-way 1-shot, seed
0: nearest neighbour 51.8 ± 0.8 %, network from scratch 56.4 ± 0.9 %, prototypical network
77.1 ± 0.8 %), `--dataset omniglot-random` on handwritten ones.
"""

from dataclasses import dataclass, replace
from functools import partial

from chapter03_protonets.protonet import ProtoNet
from common import command, metric_experiment, networks, support_experiment, training
from common.embedding import squared_distances
from common.errors import UserError
from common.inner_adam import adam_updates
from common.learner import MetaLearner
from common.settings import RunSettings, at_least, one_of, positive
from common.task_batching import TaskBatchedNetwork

import keras
import numpy as np
import tensorflow as tf
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

PENALTIES = (0.01, 1.0, 100.0)  # C of logistic regression, to choose from
RATES = {"sgd": (0.1, 0.3), "adam": (0.001, 0.003)}  # alpha of the network, to choose from


@dataclass(frozen=True)
class Config:
    """Settings of the script; the defaults are those of the printed characters."""

    n_way: int = 5
    """Classes in an episode."""
    k_shot: int = 1
    """Support items of each class, in the episode drawn and in meta-training."""
    n_query: int = 10
    """Query items of each class."""
    shots: tuple[int, ...] = (1, 2, 5, 10)
    """Numbers of support items to compare at, beside k_shot."""

    filters: int = 32
    """Filters of each convolution of the network trained from scratch."""
    norm: str = "none"
    """Its normalisation: batch (transductive: queries share statistics), layer or none."""
    scratch_steps: int = 20
    """Its training steps on a support set."""

    outer_lr: float = 0.001
    """Rate of the outer steps of meta-training (Adam)."""
    outer_decay: bool = True
    """Let it fall to zero along a cosine."""
    meta_batch_size: int = 4
    """Episodes in an outer step."""

    choice_episodes: int = 50
    """Meta-validation episodes to choose settings by."""
    eval_episodes: int = 600
    """Meta-test episodes."""
    run: RunSettings = RunSettings(steps=300, dataset="glyphs")

    def __post_init__(self):
        positive(self, "k_shot", "n_query", "filters", "scratch_steps", "outer_lr")
        positive(self, "meta_batch_size", "choice_episodes")
        at_least(2, self, "n_way", "eval_episodes")
        one_of(self, "norm", ("batch", "layer", "none"))
        support_experiment.check_shots(self.shots)

    @classmethod
    def for_dataset(cls, dataset):
        """The settings for a data set: only characters have 20 items of each class."""
        config = replace(cls(), run=replace(cls().run, dataset=dataset))
        if dataset.startswith(("glyphs", "omniglot")):
            return config
        return replace(config, n_way=4 if dataset == "fsdd" else 5, n_query=5, shots=(1, 2, 5))

    @classmethod
    def smoke(cls, dataset="glyphs"):
        """The whole script in seconds."""
        tried = RunSettings(steps=5, dataset=dataset, smoke=True)
        small = {"shots": (1, 2), "n_query": 2, "filters": 4, "scratch_steps": 2}
        few = {"choice_episodes": 4, "eval_episodes": 8}
        return replace(cls.for_dataset(dataset), **small, **few, run=tried)


def nearest_neighbour(episode):
    """Equation 1: the label of the support item whose pixels are nearest, `(tasks, queries)`."""
    support, query = pixels(episode.support_x), pixels(episode.query_x)
    nearest = tf.argmin(squared_distances(query, support), axis=-1)  # (tasks, queries)
    return tf.gather(episode.support_y, nearest, batch_dims=1).numpy()


def logistic_regression(episode, penalty=1.0):
    """Equation 2 for each task by itself, by scikit-learn: labels `(tasks, queries)`."""
    support, query = pixels(episode.support_x).numpy(), pixels(episode.query_x).numpy()
    answers = []
    with threadpool_limits(1):  # so small a problem is only slowed down by several threads
        for x, y, asked in zip(support, np.asarray(episode.support_y), query, strict=True):
            model = LogisticRegression(C=penalty, max_iter=1000).fit(x, y)
            answers.append(model.predict(asked))
    return np.stack(answers)


def pixels(images):
    """Each image as a row of numbers: `(tasks, images, pixels)`."""
    return tf.reshape(images, [*images.shape[:2], -1])


@keras.saving.register_keras_serializable("meta_learning")
class FromScratch(MetaLearner):
    """Equation 3: trains a network on the support set of each task, from random weights.

    Args:
        network: A built Keras model from items to logits; its weights are theta of every task.
        optimizer: `"sgd"` or `"adam"` (without momentum).
        rate: alpha, on the mean cross-entropy over the support set.
        steps: Number of steps, each on the whole support set.

    Raises:
        UserError: If a number is not positive, or the optimizer none of the two.
    """

    def __init__(self, network, optimizer="adam", rate=0.003, steps=20, **options):
        super().__init__(network, **options)
        if optimizer not in RATES or rate <= 0 or steps < 1:
            raise UserError(
                "expected the optimizer sgd or adam, a rate above 0 and at least 1 step, found "
                f"{optimizer!r}, {rate} and {steps}"
            )
        self.optimizer_name, self.steps = optimizer, steps
        self.rate = tf.Variable(rate, dtype=tf.float32)  # so that a new one needs no new graph
        self.batched_network = TaskBatchedNetwork(network)

    def adapt(self, support_x, support_y, steps=None):
        """The trained weights of every task: a list of `(tasks, *shape)`, aligned with theta."""
        steps = self.steps if steps is None else steps
        state = self.batched_network.repeated_weights(support_x.shape[0])
        if steps:  # the first step by itself: all tasks still share their weights, which is faster
            state = tf.while_loop(
                lambda *state: state[-1] < steps,
                lambda *state: tuple(self.inner_step(state, support_x, support_y)),
                tuple(self.inner_step(state, support_x, support_y)),
            )
        return list(state[: len(self.network.trainable_variables)])

    def inner_step(self, state, support_x, support_y, step=0):
        """One step of every task: weights, then Adam's running squares, and the steps so far."""
        n_weights = len(self.network.trainable_variables)
        weights, rest = list(state[:n_weights]), state[n_weights:]
        *squares, count = rest or [*map(tf.zeros_like, weights), tf.constant(0)]
        with tf.GradientTape() as tape:
            tape.watch(weights)
            losses = self.task_losses(support_y, self.predict_with(weights, support_x))  # (tasks,)
        gradients, count = tape.gradient(losses, weights), count + 1
        rate = tf.convert_to_tensor(self.rate)
        if self.optimizer_name == "sgd":
            updates = [rate * gradient for gradient in gradients]
        else:
            updates, squares = adam_updates(gradients, squares, count, rate)
        return [*(w - u for w, u in zip(weights, updates, strict=True)), *squares, count]

    def query_predictions(self, episode, training=False):
        """Logits of the queries from the trained weights, `(tasks, queries, n_way)`."""
        return self.predict_with(self.adapt(episode.support_x, episode.support_y), episode.query_x)

    def predict_with(self, state, inputs):
        """Logits `(tasks, items, n_way)` with the tasks' own weights, which `state` begins with."""
        return self.batched_network(state[: len(self.network.trainable_variables)], inputs)

    def get_config(self):
        own = {"optimizer": self.optimizer_name, "rate": float(self.rate), "steps": self.steps}
        return {**super().get_config(), **own}


def run(config, directory=None, progress=False):
    """Measures the three learners, and a meta-trained one, on the same meta-test episodes.

    Returns:
        A `Result` with the accuracy of each at each number of shots, as
        `support_experiment.measure` tells it; its learner is the prototypical network.
    """
    training.prepare(config.run)
    train_sampler = support_experiment.samplers(config)["train"]
    protonet = new_protonet(config, train_sampler)
    history = metric_experiment.train(protonet, train_sampler, config, directory, progress)
    learners = {
        "nearest_neighbour": {"": nearest_neighbour},
        "logistic_regression": {
            f"C = {penalty:g}": partial(logistic_regression, penalty=penalty)
            for penalty in PENALTIES
        },
        "network_from_scratch": networks_from_scratch(config, train_sampler),
        "prototypical_network": {"": support_experiment.answers_of(protonet)},
    }
    result = support_experiment.measure(learners, config, progress)
    return replace(result, history=history, learner=protonet)


def networks_from_scratch(config, sampler):
    """For each optimizer and rate, a function from an `Episode` to the labels of its queries."""
    candidates = {}
    for optimizer, rates in RATES.items():
        learner = new_from_scratch(config, sampler, optimizer)
        answers = support_experiment.answers_of(learner)
        for rate in rates:
            candidates[f"{optimizer}, rate {rate:g}"] = partial(at_rate, learner, answers, rate)
    return candidates


def at_rate(learner, answers, rate, episode):
    """What `answers` says when its learner trains at this rate."""
    learner.rate.assign(rate)
    return answers(episode)


def new_from_scratch(config, sampler, optimizer="adam"):
    """The learner of equation 3, its random weights decided by the seed."""
    network = networks.conv4(
        sampler.data.items.shape[1:], config.n_way, filters=config.filters, norm=config.norm,
        seed=config.run.seed,
    )  # fmt: skip
    return FromScratch(network, optimizer, steps=config.scratch_steps)


def new_protonet(config, sampler):
    """An untrained prototypical network, its weights decided by the seed."""
    shape = sampler.data.items.shape[1:]
    return ProtoNet(
        networks.conv4(shape, None, norm="fused", seed=config.run.seed), train_way=config.n_way
    )


def main():
    """The command line: see `--help`."""
    command.main(Config, run, support_experiment.draw)


if __name__ == "__main__":
    main()
