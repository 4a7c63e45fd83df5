"""MAML for reinforcement learning: a policy that finds a hidden goal after one policy gradient.

Chelsea Finn, Pieter Abbeel, Sergey Levine (2017), arXiv:1703.03400, Algorithm 3 and section 5.3.

    theta_i' = theta - alpha * d/dtheta mean(-ln pi(a | s) A)       inner step, lines 5 to 7
    theta   <- a trust-region step on the mean over tasks of        outer step, lines 8 and 10
               mean(-pi_theta_i'(a | s) / pi_old(a | s) A)

A task is a goal in the plane. The agent sees only its position; what it learns of the goal, it
learns from the rewards of the trajectories that it walks with theta: they are what it adapts to.
The class below inherits the inner step of MAML: moves are the examples, -ln pi A is the loss.

Where paper and authors' code differ, and where this script differs from both:

1. The reward is minus the distance, as in the code (paper: its square), alpha is 0.5 as in the
   code (paper: 0.1), and 100 outer steps are made (paper: at most 500).
2. Each outer step has 20 tasks, as in the paper (code: 40). A task has 20 trajectories, and 40 at
   test time as in the paper, whatever their length: those that reach the goal end early.
3. An action of 1 is a move of 0.1, as in the code, so that a standard deviation of 1 explores in
   moves of the right size. Moves are clipped to 0.1 along each axis.
4. The logarithms of the standard deviations are weights like any others, adapted in the inner loop.
5. The curvature of the divergence is computed exactly, not by finite differences.
6. As in the code, the derivative of the inner step takes the trajectories as given: how theta
   changes what is walked is left out of it.
7. From the second inner step on alpha is halved, as in the code; training takes one step.

`python chapter05_maml_adml/maml_rl.py` trains both orders of MAML, and draws how they walk: returns
-38.2 ± 3.0, -7.7 ± 1.7, -4.5 ± 1.0 and -4.5 ± 0.8 after 0 to 3 steps on 40 unseen goals,
first-order MAML -38.4, -9.9, -4.5 and -3.8, seed 0, in 5 minutes on two busy cores.
"""

from dataclasses import asdict, dataclass, replace

from chapter05_maml_adml.maml import MAML
from common import command, navigation_experiment, training
from common.navigation import Navigation
from common.policy_gradient import (
    as_examples,
    gaussian_policy,
    mean_divergence,
    policy_gradient_loss,
    surrogate_loss,
)
from common.settings import RunSettings, at_least, fraction, non_negative, one_of, positive

import keras
import tensorflow as tf


@dataclass(frozen=True)
class Config:
    """Settings of the script."""

    trajectories: int = 20
    """Trajectories of a task before each inner step, and after the last."""
    test_trajectories: int = 40
    """The same, at test time."""
    horizon: int = 100
    """Moves of a trajectory, unless it reaches the goal."""

    hidden: tuple[int, ...] = (100, 100)
    """Units of each hidden layer of the policy."""

    inner_lr: float = 0.5
    """alpha: rate of the inner steps, on the mean loss over the moves of a task."""
    inner_steps: int = 1
    """Inner steps in training."""
    test_steps: int = 3
    """Inner steps at test time."""
    later_lr_factor: float = 0.5
    """Factor on the inner rate from the second inner step on."""
    order: int = 2
    """2: exact derivative of the inner step; 1: first-order MAML."""
    discount: float = 0.99
    """gamma: what a reward is worth, compared with the same reward a move earlier."""
    gae_lambda: float = 1.0
    """lambda of generalised advantage estimation; 1: return less baseline."""

    max_kl: float = 0.01
    """delta: how far an outer step may change the adapted policies (mean KL divergence)."""
    meta_batch_size: int = 20
    """Tasks in an outer step."""

    eval_episodes: int = 40
    """Goals at meta-test."""
    compare: bool = True
    """Train the learner to compare with, too: first-order MAML, unless `--order 1` is that."""
    run: RunSettings = RunSettings(steps=100, dataset="navigation")

    def __post_init__(self):
        positive(self, "trajectories", "horizon", "inner_lr", "later_lr_factor", "max_kl")
        positive(self, "test_trajectories", "meta_batch_size")
        non_negative(self, "inner_steps", "test_steps")
        fraction(self, "discount", "gae_lambda")
        at_least(2, self, "eval_episodes")
        one_of(self.run, "dataset", ["navigation"], when=" for reinforcement learning")
        navigation_experiment.check(self)

    @classmethod
    def smoke(cls):
        """The whole script in seconds."""
        tried = RunSettings(steps=2, dataset="navigation", smoke=True)
        small = {"meta_batch_size": 3, "eval_episodes": 5, "hidden": (8,), "run": tried}
        return cls(trajectories=4, test_trajectories=4, horizon=20, **small)


@keras.saving.register_keras_serializable("meta_learning")
class PolicyMAML(MAML):
    """Meta-learns the initial weights of a policy (Finn et al. 2017, Algorithm 3).

    Args:
        network: The policy, such as `common.policy_gradient.gaussian_policy()`.
        inner_lr: alpha, the rate of the inner steps.
        inner_steps, order, test_steps, later_lr_factor: See `MAML`.
        world: The `Navigation` to walk in.
        trajectories: Trajectories of a task before each inner step, and after the last.
        discount: gamma.
        gae_lambda: lambda of generalised advantage estimation.

    Raises:
        UserError: As `MAML` does.
    """

    def __init__(
        self, network, inner_lr, world=None, trajectories=20, discount=0.99, gae_lambda=1.0,
        **options,
    ):  # fmt: skip
        super().__init__(network, inner_lr, loss=policy_gradient_loss, **options)
        self.world = Navigation() if world is None else world
        self.trajectories, self.discount, self.gae_lambda = trajectories, discount, gae_lambda
        self.report = {
            name: keras.metrics.Mean(name=name)
            for name in ("loss", "kl", "accepted", "return_before", "return_after")
        }

    def walk(self, goals, seed, steps=None, training=False, trajectories=None):
        """Lines 4 to 8 of Algorithm 3: walks and adapts in turn, all tasks at once.

        Args:
            goals: The tasks, `(tasks, 2)`.
            seed: Pair of integers that decides the actions.
            steps: Number of inner steps; by default `test_steps`, or `inner_steps` in training.
            training: Whether this is part of an outer step.
            trajectories: Of each task, each time; by default as many as in training.

        Returns:
            `Paths` before each inner step and after the last, a list, and the fast weights.
        """
        if steps is None:
            steps = self.inner_steps if training else self.test_steps
        fast_weights, walked = self.batched_network.repeated_weights(goals.shape[0]), []
        for step in range(steps + 1):
            paths = self.world.rollout(
                lambda positions, weights=fast_weights: self.predict_with(weights, positions),
                goals, trajectories or self.trajectories, tf.random.fold_in(seed, step),
            )  # fmt: skip
            walked.append(paths)  # line 5, and line 8 at last
            if step < steps:
                support = self.examples(paths)
                fast_weights = self.inner_step(fast_weights, *support, training, step)
        return walked, fast_weights

    def examples(self, paths):
        """The moves in the form of a support set: `(x, y)` of `common.policy_gradient`."""
        return as_examples(paths, self.discount, self.gae_lambda)

    def train_step(self, batch):
        """One outer step, lines 3 to 10 of Algorithm 3; the optimizer is a `TrustRegion`."""
        goals, seed = batch
        walked, fast_weights = self.walk(goals, seed, training=True)
        *supports, (query_x, query_y) = [self.examples(paths) for paths in walked]
        old = self.predict_with(fast_weights, query_x)  # who walked the query trajectories

        def adapted():  # pi_theta' there, as a function of theta
            fast_weights = self.batched_network.repeated_weights(goals.shape[0])
            for step, support in enumerate(supports):
                fast_weights = self.inner_step(fast_weights, *support, True, step)
            return self.predict_with(fast_weights, query_x)

        taken = self.optimizer.step(
            outputs=adapted,
            loss=lambda new: surrogate_loss(query_y, old, new),
            divergence=lambda new: mean_divergence(query_y, old, new),
            variables=self.trainable_variables,
        )
        before, after = (tf.reduce_mean(walked[i].returns()) for i in (0, -1))
        taken |= {"return_before": before, "return_after": after}
        for name, metric in self.report.items():
            metric.update_state(taken[name])
        return {name: metric.result() for name, metric in self.report.items()}

    @property
    def metrics(self):
        return list(self.report.values())

    def get_config(self):
        config = {name: value for name, value in super().get_config().items() if name != "loss"}
        names = ("trajectories", "discount", "gae_lambda")
        config |= {name: getattr(self, name) for name in names}
        return {**config, "world": asdict(self.world)}

    @classmethod
    def from_config(cls, config):
        return super().from_config({**config, "world": Navigation(**config["world"])})


def run(config, directory=None, progress=False):
    """Meta-trains MAML, and measures it, first-order MAML and random weights on unseen goals.

    Returns:
        A `Result` with the mean return of each after 0, 1, ... `test_steps` inner steps.
    """
    training.prepare(config.run)
    learners = {name_of(config): new_learner(config)}
    if config.compare and config.order == 2:
        first_order = replace(config, order=1)
        learners[name_of(first_order)] = new_learner(first_order)
    history = navigation_experiment.train(learners, config, directory, progress)
    return navigation_experiment.measure(
        {**learners, "random": new_learner(config)}, config, history
    )


def name_of(config):
    """What the results call the learner."""
    return "MAML" if config.order == 2 else "first_order_MAML"


def new_learner(config, Learner=PolicyMAML, **options):
    """An untrained learner, its weights decided by the seed; `options` replace the settings."""
    network = gaussian_policy(hidden=config.hidden, seed=config.run.seed)
    names = (
        "inner_lr", "inner_steps", "order", "test_steps", "later_lr_factor", "trajectories",
        "discount", "gae_lambda",
    )  # fmt: skip
    settings = {name: getattr(config, name) for name in names}
    return Learner(network, world=Navigation(horizon=config.horizon), **{**settings, **options})


def main():
    """The command line: see `--help`."""
    command.main(Config, run, navigation_experiment.draw)


if __name__ == "__main__":
    main()
