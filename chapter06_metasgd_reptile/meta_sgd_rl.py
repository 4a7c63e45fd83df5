"""Meta-SGD for reinforcement learning: MAML's policy, with a learned rate for each weight.

Zhenguo Li, Fengwei Zhou, Fei Chen, Hang Li (2017), arXiv:1707.09835, Algorithm 2.

    theta_i' = theta - alpha o d/dtheta mean(-ln pi(a | s) A)         inner step; o: elementwise
    (theta, alpha) <- a trust-region step on the mean over tasks of   outer step, over both
                      mean(-pi_theta_i'(a | s) / pi_old(a | s) A)

There is nothing new to write: the inner update is that of `meta_sgd.py`, all else that of
`chapter05_maml_adml/maml_rl.py`, which is trained beside, on the same tasks.

Differences from the paper:

1. Tasks, trajectories and outer steps are those of `maml_rl.py`.
2. All rates start equal, at MAML's 0.5, so that both learners start as one and the difference is
   what the rates learn; `--alpha-min` and `--alpha-max` draw them as in the supervised script.
3. From the second inner step on, at test time, the rates are halved; the paper takes one step.

`python chapter06_metasgd_reptile/meta_sgd_rl.py` trains both and draws the learned rates: returns
-38.2 ± 3.1, -8.0 ± 1.6, -3.9 ± 1.1 and -4.8 ± 1.1 after 0 to 3 steps on 40 unseen goals, seed 0, in
7 minutes on two busy cores. After one step that is MAML's less 0.4 ± 0.6, goal by goal.
"""

from dataclasses import dataclass

from chapter05_maml_adml import maml_rl
from chapter05_maml_adml.maml_rl import PolicyMAML
from chapter06_metasgd_reptile.meta_sgd import MetaSGD
from common import command, navigation_experiment, plots, rate_figures, training
from common.settings import at_least, positive

import keras


@dataclass(frozen=True)
class Config(maml_rl.Config):
    """Settings of the script."""

    inner_lr: float = 0.5
    """Inner rate of MAML, the learner to compare with; that of Meta-SGD is alpha."""
    alpha_min: float = 0.5
    """Each element of alpha is drawn from here ..."""
    alpha_max: float = 0.5
    """... to here; equal ends make a constant of it."""
    compare: bool = True
    """Train the learner to compare with, too: MAML."""

    def __post_init__(self):
        super().__post_init__()
        positive(self, "alpha_min")
        at_least(self.alpha_min, self, "alpha_max")


@keras.saving.register_keras_serializable("meta_learning")
class PolicyMetaSGD(MetaSGD, PolicyMAML):
    """Meta-learns the initial weights of a policy and a rate for each (Li et al., Algorithm 2).

    The inner update and alpha are `MetaSGD`'s; trajectories, losses and the outer step are
    `PolicyMAML`'s. Arguments as theirs.
    """


def run(config, directory=None, progress=False):
    """Meta-trains Meta-SGD and MAML on the same goals, and measures both on unseen ones.

    Returns:
        A `Result` with the mean return of each, and of random weights, after 0, 1, ...
        `test_steps` inner steps; its `extra["rates"]` summarises alpha, variable by variable.
    """
    training.prepare(config.run)
    learners = {"Meta-SGD": new_learner(config)}
    if config.compare:
        learners[maml_rl.name_of(config)] = maml_rl.new_learner(config)
    history = navigation_experiment.train(learners, config, directory, progress)
    learners["random"] = maml_rl.new_learner(config)
    result = navigation_experiment.measure(learners, config, history)
    result.extra["rates"] = rate_figures.summary(learners["Meta-SGD"])
    return result


def new_learner(config):
    """An untrained Meta-SGD, its weights and rates decided by the seed."""
    rates = (config.alpha_min, config.alpha_max)
    return maml_rl.new_learner(config, PolicyMetaSGD, inner_lr=rates, seed=config.run.seed)


def draw(result, config, directory):
    """Saves the figures of a run: MAML's, and the learned rates."""
    navigation_experiment.draw(result, config, directory)
    figure = rate_figures.draw_rates(result.extra["rates"], (config.alpha_min, config.alpha_max))
    plots.save(figure, directory / "rates.png")


def main():
    """The command line: see `--help`."""
    command.main(Config, run, draw)


if __name__ == "__main__":
    main()
