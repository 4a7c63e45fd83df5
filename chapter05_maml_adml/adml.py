"""Adversarial meta-learning: initial weights whose adapted network withstands attacks on its input.

Chengxiang Yin, Jian Tang, Zhiyuan Xu, Yanzhi Wang (2018), arXiv:1806.03316. S is a task's support
set and Q its query set; S' and Q' are the same images, attacked by FGSM with epsilon.

    theta_a = theta - alpha dL(theta; S')/dtheta       inner step on the adversarial images
    theta_c = theta - alpha dL(theta; S)/dtheta        inner step on the clean ones, apart
    theta  <- theta - beta d/dtheta [L(theta_a; Q) + L(theta_c; Q')]        outer step: crossed

What was adapted to attacked images answers for clean ones, and the reverse, so that neither kind
of adaptation may lose sight of the other. With epsilon 0 both halves are MAML's meta-loss.

At which weights is an image attacked? The support set at theta, which the inner step starts from.
The queries at theta_c, where they are asked, or with `--attack-at initial` at theta, where the
labels of a task mean nothing yet. In the test, each learner's queries are attacked at its own
adapted weights; an attack made for others would flatter it.

Differences from the paper, or choices where it leaves one:

1. Both outer gradients are taken at the same theta, in one step of Adam on the mean of both losses,
   so that the outer rate means what it means to MAML. alpha and beta are one number for both kinds.
2. The images are dark characters on white, not photographs: epsilon is 0.1 of a pixel's range.
3. The attacked images count as constants in both loops; the meta-gradient is otherwise exact.
4. The test also attacks by PGD, which training never does: a network can learn to turn its
   gradient away from where one step of FGSM looks, and be no more robust for it.

Batch normalisation uses the statistics of the images at hand, in an attack as in prediction (see
`maml.py`), and keeps no averages: an attack leaves nothing behind in the network. The queries of a
task are attacked together, for one loss.

An outer step, with two inner loops and two attacks, takes about twice as long as MAML's.
`python chapter05_maml_adml/adml.py` trains ADML and MAML on printed characters and compares them.
With `--dataset omniglot-random --steps 6000` ADML has 97.4 ± 0.5 % on 5-way 1-shot tasks of unseen
characters and MAML 97.4 ± 0.5; under FGSM 92.0 against 69.6, under PGD 83.3 against 49.8, seed 0.
"""

from dataclasses import dataclass, replace

from chapter05_maml_adml import maml
from chapter05_maml_adml.maml import MAML
from common import attack_experiment, attacks, command, experiment, training
from common.errors import UserError
from common.settings import RunSettings, one_of, positive

import keras
import tensorflow as tf


@dataclass(frozen=True)
class Config(maml.Config):
    """Settings of the script; the defaults are those of the printed characters."""

    epsilon: float = 0.1
    """The most that an attack in training may change a pixel, whose range is 0 to 1."""
    attack_at: str = "adapted"
    """Weights at which queries are attacked in training: adapted or initial."""
    test_epsilons: tuple[float, ...] = (0.05, 0.15, 0.2)
    """Strengths of the attacks in the test, besides 0 and `epsilon`."""
    pgd_steps: int = 10
    """Steps of PGD, the stronger attack in the test."""

    n_way: int = 5
    k_shot: int = 1
    n_query: int = 1
    rotations: bool = True
    inner_lr: float = 0.5
    test_steps: int = 3
    outer_lr: float = 0.003
    outer_decay: bool = True
    meta_batch_size: int = 32
    eval_episodes: int = 1000
    baseline_steps: int = 0
    """Must be 0 here: the baseline is MAML, with as many steps."""
    run: RunSettings = RunSettings(steps=2000, dataset="glyphs")

    def __post_init__(self):
        super().__post_init__()
        attacks.check_epsilon(self.epsilon, "--epsilon")
        for epsilon in self.test_epsilons:
            attacks.check_epsilon(epsilon, "--test-epsilons")
        one_of(self, "attack_at", ("adapted", "initial"))
        positive(self, "pgd_steps")
        if self.run.dataset.startswith("sine"):
            raise UserError(
                "expected --dataset to have images, whose pixels an attack can change, found "
                f"{self.run.dataset}; choose glyphs, omniglot, faces or folder:PATH"
            )

    @classmethod
    def for_dataset(cls, dataset):
        """MAML's settings for a data set, on Omniglot with fewer steps, as each costs more."""
        config = replace(super().for_dataset(dataset), baseline_steps=0)
        steps = 8000 if dataset.startswith("omniglot") else config.run.steps
        return replace(config, run=replace(config.run, steps=steps))

    @classmethod
    def smoke(cls, dataset="glyphs"):
        """The whole script in seconds."""
        small = {"test_epsilons": (0.2,), "pgd_steps": 3, "baseline_steps": 0}
        return replace(super().smoke(dataset), **small)


@keras.saving.register_keras_serializable("meta_learning")
class ADML(MAML):
    """Meta-learns initial weights on clean and on attacked images, crosswise (Yin et al. 2018).

    Only the outer loss differs from `MAML`: `adapt` and `predict_with` are the same.

    Args:
        network: A built Keras model of images with pixels in 0..1.
        inner_lr: alpha, for clean and attacked support sets.
        epsilon: The most that an attack changes a pixel.
        attack_at: `"adapted"` attacks the queries at theta_c, `"initial"` at theta.
        bounds: The range of the inputs; None if they have none.
        options: Those of `MAML`.

    Raises:
        UserError: If epsilon is not in 0..1, or an option is out of range.
    """

    def __init__(self, network, inner_lr, *args, epsilon=0.1, attack_at="adapted",
                 bounds=attacks.PIXELS, **options):  # fmt: skip
        super().__init__(network, inner_lr, *args, **options)
        attacks.check_epsilon(epsilon)
        if attack_at not in ("adapted", "initial"):
            raise UserError(f"attack_at must be adapted or initial; got {attack_at!r}.")
        self.epsilon, self.attack_at, self.bounds = epsilon, attack_at, bounds

    def meta_loss(self, episode, training=True):
        """Clean queries after the attacked support set, attacked queries after the clean one."""
        support_x, support_y, query_x, query_y = episode
        theta = self.adapt(support_x, support_y, steps=0)
        attacked_support = self.attack(theta, support_x, support_y)  # S'
        theta_a = self.adapt(attacked_support, support_y, training=training)
        theta_c = self.adapt(support_x, support_y, training=training)

        at = theta_c if self.attack_at == "adapted" else theta
        attacked_query = self.attack(at, query_x, query_y)  # Q'
        crossed = ((theta_a, query_x), (theta_c, attacked_query))
        losses = [
            self.task_losses(query_y, self.predict_with(weights, x, training, self.inner_steps))
            for weights, x in crossed
        ]
        return tf.reduce_mean(losses)  # over both kinds and all tasks

    def attack(self, fast_weights, x, y):
        """FGSM on the images `(tasks, examples, ...)` of every task, at the task's own weights."""

        def loss(x):
            return self.task_losses(y, self.predict_with(fast_weights, x))

        return attacks.fgsm(loss, x, self.epsilon, self.bounds)

    def get_config(self):
        names = ("epsilon", "attack_at", "bounds")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def run(config, directory=None, progress=False):
    """Meta-trains ADML and MAML on the same episodes, and attacks both on tasks never seen.

    Returns:
        A `Result` with the accuracy of both, clean and under FGSM and PGD, before and after
        adaptation; `common.attack_experiment.measure` says which is which.
    """
    if config.baseline_steps:
        raise UserError(
            "--baseline-steps must be 0 here, where MAML is what to compare with, got "
            f"{config.baseline_steps}; leave it out"
        )
    training.prepare(config.run)
    sampler, test_sampler = experiment.samplers(config)
    attack_experiment.check_images(sampler.data)
    learners = {"ADML": new_learner(config, sampler), "MAML": maml.new_learner(config, sampler)}
    history = experiment.train(learners, sampler, config, directory, progress)
    return attack_experiment.measure(learners, test_sampler, config, history)


def new_learner(config, sampler):
    """An untrained ADML, its weights decided by the seed and the same as MAML's."""
    network, loss = experiment.new_network(config, sampler)
    rates = (config.inner_lr, config.inner_steps, config.order)
    return ADML(
        network, *rates, loss, config.test_steps, config.later_lr_factor,
        epsilon=config.epsilon, attack_at=config.attack_at,
    )  # fmt: skip


def main():
    """The command line: see `--help`."""
    command.main(Config, run, attack_experiment.draw)


if __name__ == "__main__":
    main()
