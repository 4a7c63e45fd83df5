"""Gradient agreement: tasks count by how well their gradients agree with those of the others.

Amir Erfan Eshratifar, David Eigen, Massoud Pedram (2018), arXiv:1810.08178.

    g_i   = theta - theta_i                    what the inner steps did, with MAML or Reptile
    w_i   = g_i . G / sum_k |g_k . G|          with G = sum_j g_j
    theta <- theta - beta * sum_i w_i m_i      instead of 1/T sum_i m_i

where m_i is the meta-gradient of task i, or with Reptile again theta - theta_i.

A task whose gradient points against the others' has a negative weight: theta is moved away from
it. The weights are constants, nothing is differentiated through them, and the gradients of all
variables are one vector. The absolute weights sum to 1, so that identical tasks weigh 1/T each,
and the outer step is that of the base algorithm. Where the gradients sum to zero, so does every
numerator; the weights then are 1/T.

Differences from the paper:

1. With MAML agreement may also be measured by the meta-gradients, the very vectors that are
   weighted: `--agree-on gradient`.
2. The tasks are waves or characters with outliers among them in training, never in the test:
   tasks with shuffled labels, or waves of two to three times the frequency.

Note that g_i . G contains |g_i|^2. A task weighs more not only when it agrees but also when its
gradient is long, and an outlier that nobody can learn goes on having a long one. With m_i = g_i the
step is (sum_i g_i g_i^T) G over a number: where gradients scatter, it is the scatter that grows.
That step is zero only if G is: agreement changes the way to where a batch pulls, not the goal.

`python chapter07_gradient_agreement/gradient_agreement.py` trains MAML with and without agreement,
from equal weights on equal tasks, over several seeds: on ordinary waves the mean squared error of
agreement is higher than MAML's by 0.57 ± 0.26, 0.90 ± 0.28 and 1.22 ± 0.32 with 0, 20 and 40 % of
outliers in training (seeds 0 to 4). `--base reptile` does so with Reptile: with `--outliers 0.2 0.4
--steps 500` agreement's is higher by 0.16 ± 0.05 and 0.19 ± 0.14.
"""

from dataclasses import dataclass, replace

from chapter05_maml_adml import maml
from chapter05_maml_adml.maml import MAML
from chapter06_metasgd_reptile import reptile
from chapter06_metasgd_reptile.reptile import Reptile
from common import agreement_experiment, command, experiment
from common.errors import UserError
from common.learner import as_episode
from common.settings import RunSettings, at_least, one_of, positive

import keras
import tensorflow as tf


@dataclass(frozen=True)
class Config:
    """Settings of the script; what is None is as the base algorithm has it for the data set."""

    base: str = "maml"
    """The algorithm that agreement is added to: maml or reptile."""
    agree_on: str = "displacement"
    """What agrees: the displacement theta - theta_i, or (maml only) the meta-gradient."""
    outliers: tuple[float, ...] = (0.0, 0.2, 0.4)
    """Proportions of outlier tasks in training."""
    outlier_kind: str = "shuffled"
    """shuffled labels or targets; or, of waves, two to three times the frequency."""
    n_seeds: int = 5
    """Trainings of each learner at each proportion, each with weights and tasks of its own."""

    inner_lr: float | None = None
    """alpha: rate of the inner steps."""
    inner_steps: int | None = None
    """Inner steps in training."""
    test_steps: int | None = None
    """Inner steps at test time."""
    outer_lr: float | None = None
    """beta: rate of the outer steps."""
    meta_batch_size: int = 25
    """Tasks in an outer step."""
    filters: int = 32
    """Filters of each convolution; the network for waves has none."""

    eval_episodes: int = 600
    """Meta-test tasks of each training."""
    run: RunSettings = RunSettings(steps=2000, dataset="sine")

    def __post_init__(self):
        one_of(self, "base", tuple(ALGORITHMS))
        kinds = ("shuffled", "frequency") if self.run.dataset.startswith("sine") else ("shuffled",)
        one_of(self, "outlier_kind", kinds, f" with --dataset {self.run.dataset}")
        ways = ("displacement", "gradient") if self.base == "maml" else ("displacement",)
        one_of(self, "agree_on", ways, f" with --base {self.base}")
        if not self.outliers or not all(0 <= share <= 1 for share in self.outliers):
            raise UserError(f"--outliers must be numbers between 0 and 1, got {self.outliers}")
        if len({*self.outliers}) < len(self.outliers):
            raise UserError(f"--outliers must be different numbers, got {self.outliers}")
        positive(self, "n_seeds", "filters")
        at_least(2, self, "meta_batch_size")  # one task always agrees with itself
        positive(self, *(name for name in OF_THE_BASE if getattr(self, name) is not None))
        at_least(2, self, "eval_episodes")

    @classmethod
    def for_dataset(cls, dataset):
        """The settings for a data set; on images an outer step takes about ten times as long."""
        if dataset.startswith("sine"):
            return cls(run=RunSettings(steps=cls().run.steps, dataset=dataset))
        return cls(meta_batch_size=10, run=RunSettings(steps=500, dataset=dataset))

    @classmethod
    def smoke(cls, dataset="sine"):
        """The whole script in seconds."""
        tried = RunSettings(steps=4, dataset=dataset, smoke=True)
        small = {"inner_steps": 1, "test_steps": 1, "meta_batch_size": 4, "filters": 8}
        return cls(outliers=(0.0, 0.4), n_seeds=2, eval_episodes=8, run=tried, **small)


OF_THE_BASE = ("inner_lr", "inner_steps", "test_steps", "outer_lr")


def agreement_weights(gradients):
    """The weight of every task in the outer step: w_i = g_i . G / sum_k |g_k . G|.

    Args:
        gradients: The gradients g_i of all tasks: one tensor `(tasks, *shape)` for each variable.

    Returns:
        `(tasks,)`, a constant: absolute values sum to 1, or all are 1 / tasks where G is zero.
    """
    n_tasks = gradients[0].shape[0]
    vectors = tf.concat([tf.reshape(g, [n_tasks, -1]) for g in gradients], axis=1)
    products = tf.linalg.matvec(vectors, tf.reduce_sum(vectors, axis=0))  # g_i . G
    total = tf.reduce_sum(tf.abs(products))
    weights = tf.where(total > 0, tf.math.divide_no_nan(products, total), 1 / n_tasks)
    return tf.stop_gradient(weights)


class Agreement:
    """The outer step of gradient agreement, for a learner that has `task_gradients`.

    Args:
        agree_on: `"displacement"`, theta - theta_i, or `"gradient"`, what the outer step follows.
        arguments, options: Those of the base algorithm.
    """

    def __init__(self, *arguments, agree_on="displacement", **options):
        super().__init__(*arguments, **options)
        self.agree_on = agree_on
        names = ("ordinary_weight", "outlier_weight")
        self.weight_metrics = [keras.metrics.Mean(name=name) for name in names]

    def train_step(self, episode):
        """theta <- theta - beta * sum_i w_i g_i, by the optimizer."""
        episode = as_episode(episode)
        gradients, losses, *displacements = self.task_gradients(episode)
        weights = self.weigh(gradients, *displacements)
        agreed = [tf.tensordot(weights, gradient, 1) for gradient in gradients]
        agreed = [self.optimizer.scale_loss(gradient) for gradient in agreed]
        self.optimizer.apply(agreed, self.network.trainable_variables)
        self.loss_metric.update_state(losses)
        outlier = tf.cast(getattr(episode, "outlier", tf.zeros_like(weights)), weights.dtype)
        for metric, chosen in zip(self.weight_metrics, (1 - outlier, outlier)):
            metric.update_state(weights, sample_weight=chosen)
        return {metric.name: metric.result() for metric in (self.loss_metric, *self.weight_metrics)}

    def weigh(self, gradients, displacements=None):
        """The weights of the tasks, `(tasks,)`, from what `task_gradients` returned."""
        by_gradient = displacements is None or self.agree_on == "gradient"
        return agreement_weights(gradients if by_gradient else displacements)

    def get_config(self):
        return {**super().get_config(), "agree_on": self.agree_on}

    @property
    def metrics(self):
        return [*super().metrics, *self.weight_metrics]


@keras.saving.register_keras_serializable("meta_learning")
class AgreementMAML(Agreement, MAML):
    """MAML with gradient agreement (Eshratifar et al. 2018); arguments as those of `MAML`."""

    def task_gradients(self, episode):
        """The meta-gradient of each task by itself, in one pass.

        Every task starts from its own copy of theta, and its query loss depends on no other copy:
        the gradient of the sum of losses with respect to the copies is that of each.

        Returns:
            `(gradients, losses, displacements)`: a list aligned with
            `network.trainable_variables`, each `(tasks, *shape)`; the query losses after
            adaptation, `(tasks,)`; and theta - theta_i, aligned like the gradients.
        """
        theta = self.batched_network.repeated_weights(episode.support_x.shape[0])
        with tf.GradientTape() as tape:
            tape.watch(theta)
            fast_weights = theta
            for step in range(self.inner_steps):
                fast_weights = self.inner_step(
                    fast_weights, episode.support_x, episode.support_y, True, step
                )
            predictions = self.predict_with(fast_weights, episode.query_x, True, self.inner_steps)
            losses = self.task_losses(episode.query_y, predictions)
        zero = tf.UnconnectedGradients.ZERO
        gradients = tape.gradient(losses, theta, unconnected_gradients=zero)
        return gradients, losses, [w - fast for w, fast in zip(theta, fast_weights, strict=True)]


@keras.saving.register_keras_serializable("meta_learning")
class AgreementReptile(Agreement, Reptile):
    """Reptile with gradient agreement: `Reptile.task_gradients` gives g_i = theta - theta_i."""


ALGORITHMS = {"maml": (maml, AgreementMAML), "reptile": (reptile, AgreementReptile)}


def run(config, directory=None, progress=False):
    """Trains the base algorithm with and without agreement, and tests both on ordinary tasks.

    Returns:
        A `Result`: for every proportion of outliers the score of both learners and their paired
        difference, each a mean over seeds.
    """
    return agreement_experiment.run(config, new_learners, directory, progress)


def base_config(config, seed):
    """The settings of the base algorithm for one training."""
    algorithm, _ = ALGORITHMS[config.base]
    given = {name: getattr(config, name) for name in OF_THE_BASE}
    given = {name: value for name, value in given.items() if value is not None}
    return replace(
        algorithm.Config.for_dataset(config.run.dataset), **given, filters=config.filters,
        meta_batch_size=config.meta_batch_size, run=replace(config.run, seed=seed),
    )  # fmt: skip


def new_learners(config, seed):
    """`(base settings, sampler for training, for the test, learners)`, of equal weights."""
    algorithm, with_agreement = ALGORITHMS[config.base]
    settings = base_config(config, seed)
    sampler, test_sampler = getattr(algorithm, "samplers", experiment.samplers)(settings)
    plain = algorithm.new_learner(settings, sampler)
    options = {"name": "agreement", "agree_on": config.agree_on}
    agreeing = with_agreement.from_config(plain.get_config() | options)
    agreeing.network.set_weights(plain.network.get_weights())
    learners = {"agreement": agreeing, type(plain).__name__: plain}
    return settings, sampler, test_sampler, learners


def main():
    """The command line: see `--help`."""
    command.main(Config, run, agreement_experiment.draw)


if __name__ == "__main__":
    main()
