"""Meta-SGD: MAML whose inner rate is a vector, one number for each weight, and is learned too.

Zhenguo Li, Fengwei Zhou, Fei Chen, Hang Li (2017), arXiv:1707.09835, Algorithm 1 (supervised).

    theta_i' = theta - alpha o d L_S(theta) / d theta        inner step of task i; o: elementwise
    (theta, alpha) <- (theta, alpha) - beta * d/d(theta, alpha) mean_i L_Q(theta_i')   outer step

With g_S and g_Q the gradients of the support loss at theta and of the query loss at theta', and
H_S the curvature of the support loss, one inner step has the meta-gradients

    d alpha = -g_S o g_Q(theta')        a rate grows where both gradients have the same sign
    d theta = (I - H_S diag(alpha)) g_Q(theta')

alpha is free: a rate may turn negative, and then climbs the support loss along its weight. With
all rates equal and kept so, this is MAML; it is trained beside, on the same tasks.

Differences from the paper:

1. The meta-loss is the mean over tasks and queries, not the sum.
2. Fewer outer steps by default, of more tasks: 8,000 of 25 waves each.
3. On images the outer rate decays along a cosine, as in `maml.py`.
4. Several inner steps are allowed, all with the same rates; the paper takes one. Rates that were
   trained for one step can be far too large for the next ones: some waves then run away.

`python chapter06_metasgd_reptile/meta_sgd.py` trains on sine waves and draws the learned rates:
mean squared error 0.241 ± 0.029 after one inner step on 10 points of 600 unseen waves, MAML's
0.435 ± 0.045, seed 0, in 2 minutes. `--dataset sine-frequency` takes the paper's waves, whose
frequency varies, and 5 points: 0.739 ± 0.073, MAML's 1.007 ± 0.094. With
`--dataset omniglot-random --steps 3000` it has 98.1 ± 0.5 % on 5-way 1-shot tasks of unseen
characters, MAML 95.4 ± 0.6.
"""

from dataclasses import dataclass, replace

from chapter05_maml_adml import maml
from chapter05_maml_adml.maml import MAML
from common import command, experiment, plots, rate_figures, training
from common.errors import UserError
from common.settings import RunSettings, at_least, positive

import keras


@dataclass(frozen=True)
class Config(maml.Config):
    """Settings of the script; the defaults are those of the sine waves."""

    inner_lr: float = 0.01
    """Inner rate of MAML, the learner to compare with; that of Meta-SGD is alpha."""
    alpha_min: float = 0.005
    """Each element of alpha is drawn from here ..."""
    alpha_max: float = 0.1
    """... to here; equal ends make a constant of it."""
    baseline_steps: int = 0
    """Training steps of a baseline that pools all tasks; 0 leaves it out."""
    run: RunSettings = RunSettings(steps=8000, dataset="sine")

    def __post_init__(self):
        super().__post_init__()
        positive(self, "alpha_min", "inner_steps")
        at_least(self.alpha_min, self, "alpha_max")

    @classmethod
    def for_dataset(cls, dataset):
        """MAML's settings for a data set; five points for waves of the paper's own family."""
        config = replace(super().for_dataset(dataset), baseline_steps=cls.baseline_steps)
        if dataset == "sine-frequency":
            return replace(config, k_shot=5)
        return config


@keras.saving.register_keras_serializable("meta_learning")
class MetaSGD(MAML):
    """Meta-learns the initial weights of a network and a rate for each of them (Li et al. 2017).

    Args:
        network: A built Keras model; its trainable weights are theta.
        inner_lr: `(low, high)`: each element of alpha starts between them, drawn uniformly. A
            number is where all of them start.
        inner_steps, order, loss, test_steps, later_lr_factor: As for `MAML`. With `order=1` the
            gradient with respect to alpha is exact after one inner step all the same.
        seed: Seed of the drawn rates.

    Raises:
        UserError: If low is negative or above high, or an option of `MAML` is out of range.
    """

    def __init__(self, network, inner_lr=(0.005, 0.1), *args, seed=0, **options):
        low, high = inner_lr if isinstance(inner_lr, tuple | list) else (inner_lr, inner_lr)
        if not low <= high < float("inf"):
            raise UserError(
                f"inner_lr must be a number, or two with low <= high, got {inner_lr!r}."
            )
        super().__init__(network, low, *args, **options)
        self.inner_lr, self.seed = inner_lr, seed
        self.alpha = [  # of theta's shape; variables of the learner, and so meta-learned with it
            self.add_weight(
                v.shape, keras.initializers.RandomUniform(low, high, seed + index), v.dtype,
                name=f"alpha_{index}",
            )
            for index, v in enumerate(network.trainable_variables)
        ]  # fmt: skip

    def inner_update(self, weights, gradients):
        """theta' = theta - alpha o gradient; alpha has no task axis: all tasks share it."""
        return [w - a * g for w, a, g in zip(weights, self.alpha, gradients, strict=True)]

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}


def run(config, directory=None, progress=False):
    """Meta-trains Meta-SGD and MAML on the same tasks, and measures both on tasks never seen.

    Returns:
        A `Result` with the score of each learner after 0, 1, 3, 5 and 10 inner steps; its
        `extra["rates"]` summarises alpha, variable by variable.
    """
    training.prepare(config.run)
    sampler, test_sampler = experiment.samplers(config)
    learners = {
        "Meta-SGD": new_learner(config, sampler),
        "MAML": maml.new_learner(config, sampler),
    }
    history = experiment.train(learners, sampler, config, directory, progress)
    if config.baseline_steps:
        learners["pooled"] = maml.new_learner(config, sampler)
        experiment.train_pooled(learners["pooled"].network, sampler, config, progress)
    result = experiment.measure(learners, test_sampler, config, history)
    result.extra["rates"] = rate_figures.summary(learners["Meta-SGD"])
    return result


def new_learner(config, sampler):
    """An untrained Meta-SGD, its weights and rates decided by the seed."""
    network, loss = experiment.new_network(config, sampler)
    return MetaSGD(
        network, (config.alpha_min, config.alpha_max), config.inner_steps, config.order, loss,
        config.test_steps, config.later_lr_factor, seed=config.run.seed,
    )  # fmt: skip


def draw(result, config, directory):
    """Saves the figures of a run: MAML's, and the learned rates."""
    experiment.draw(result, config, directory)
    figure = rate_figures.draw_rates(result.extra["rates"], (config.alpha_min, config.alpha_max))
    plots.save(figure, directory / "rates.png")


def main():
    """The command line: see `--help`."""
    command.main(Config, run, draw)


if __name__ == "__main__":
    main()
