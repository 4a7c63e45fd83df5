"""CAML: a few context parameters learn a task, and the rest of the network is shared by all tasks.

Luisa Zintgraf, Kyriacos Shiarlis, Vitaly Kurin, Katja Hofmann, Shimon Whiteson, "CAML" in 2018 and
"CAVIA" since, arXiv:1810.03642, for supervised tasks. With theta the shared weights and phi
the context:

    phi_i = phi_0 - alpha * d L_S(phi_0, theta) / d phi       inner step of task i, from phi_0 = 0
    theta <- theta - beta * d/dtheta mean_i L_Q(phi_i, theta)      outer step, through phi_i(theta)

phi_0 is 0 for every task and is not learned: what phi means lies in the weights behind it, W. They
must not start at 0, or neither phi nor W would ever have a gradient. And (c W, alpha / c^2) makes
the same predictions as (W, alpha), so training can set the effective rate of the inner step itself.
For waves phi is appended to the inputs; for images it scales and shifts the maps of a convolution
(FiLM). `common/context.py` has both layers. MAML is trained beside, on the same tasks.

Differences from the authors' code:

1. Waves: fewer outer steps by default, at an outer rate that starts higher and decays along a
   cosine; the meta-gradient is not clipped.
2. Images: the network and the steps are those of `maml.py`; FiLM starts as the identity, and acts
   on the third of four strided blocks.
3. The weights start from Keras's usual (Glorot) ones.

`python chapter05_maml_adml/caml.py` trains on sine waves and draws the plane of contexts: mean
squared error 0.203 ± 0.025 after one inner step on 10 points of 600 unseen waves, MAML's
0.378 ± 0.039, seed 0, in 3 minutes. `--context-size 2` makes it a plane without projection.
"""

from dataclasses import dataclass, replace

from chapter05_maml_adml import maml
from chapter05_maml_adml.maml import MAML
from common import command, context_figures, experiment, plots, training
from common.errors import UserError
from common.settings import RunSettings, positive
from common.task_batching import TaskBatchedNetwork

import keras


@dataclass(frozen=True)
class Config(maml.Config):
    """Settings of the script; the defaults are those of the sine waves."""

    context_size: int = 5
    """Numbers in the context phi."""
    inner_lr: float = 1.0
    """alpha: rate of the inner steps of CAML, on the mean loss over the support set."""
    maml_inner_lr: float = 0.01
    """The same of MAML, which moves all weights."""
    outer_lr: float = 0.002
    """beta: rate of the outer steps (Adam)."""
    outer_decay: bool = True
    """Let the outer rate fall to zero along a cosine."""
    baseline_steps: int = 0
    """Training steps of a baseline that pools all tasks; 0 leaves it out."""
    run: RunSettings = RunSettings(steps=15000, dataset="sine")

    def __post_init__(self):
        super().__post_init__()
        positive(self, "context_size", "inner_steps", "maml_inner_lr")

    @classmethod
    def for_dataset(cls, dataset):
        """MAML's settings for a data set, with more numbers in the context for images."""
        config = replace(super().for_dataset(dataset), baseline_steps=cls.baseline_steps)
        if dataset.startswith("sine"):
            return config
        return replace(config, context_size=100, inner_lr=1.0, maml_inner_lr=config.inner_lr)


@keras.saving.register_keras_serializable("meta_learning")
class CAML(MAML):
    """Meta-learns shared weights, and adapts nothing but a context (Zintgraf et al. 2018).

    Args:
        network: A built Keras model with one layer of `common.context`. Its weight `context` is
            phi; its other trainable weights are theta.
        inner_lr: alpha, the rate of the inner steps, on the mean loss of a task's support set.
        inner_steps, order, loss, test_steps, later_lr_factor: As for `MAML`.

    Raises:
        UserError: If the network has no context, or an option of `MAML` is out of range.
    """

    def __init__(self, network, inner_lr, *args, **options):
        super().__init__(network, inner_lr, *args, **options)
        self.is_context = [v.name == "context" for v in network.trainable_variables]
        if sum(self.is_context) != 1:
            raise UserError(
                "The network must have one layer with a context, such as those of common.context; "
                f"{network.name!r} has {sum(self.is_context)}."
            )
        # Theta gets no task axis in what is computed: the tasks form one long batch.
        self.batched_network = TaskBatchedNetwork(network, adapted="context")

    def inner_update(self, weights, gradients):
        """phi' = phi - alpha * gradient; theta stays as it is."""
        return [
            w - self.inner_lr * g if is_context else w
            for w, g, is_context in zip(weights, gradients, self.is_context, strict=True)
        ]

    def context(self, fast_weights):
        """phi of every task, `(tasks, context_size)`, among the weights that `adapt` returned."""
        return fast_weights[self.is_context.index(True)]

    @property
    def trainable_variables(self):
        """What the outer step moves: theta. phi starts from 0 in every task."""
        return [v for v in super().trainable_variables if v.name != "context"]


def run(config, directory=None, progress=False):
    """Meta-trains CAML and MAML on the same tasks, and measures both on tasks never seen.

    Returns:
        A `Result` with the score of each learner after 0, 1, 3, 5 and 10 inner steps; of waves,
        `extra["plane"]` has what `context_figures` draws.
    """
    training.prepare(config.run)
    sampler, test_sampler = experiment.samplers(config)
    usual = replace(config, inner_lr=config.maml_inner_lr)
    learners = {"CAML": new_learner(config, sampler), "MAML": maml.new_learner(usual, sampler)}
    history = experiment.train(learners, sampler, config, directory, progress)
    if config.baseline_steps:
        learners["pooled"] = maml.new_learner(usual, sampler)
        experiment.train_pooled(learners["pooled"].network, sampler, config, progress)
    result = experiment.measure(learners, test_sampler, config, history)
    if not learners["CAML"].classifies:
        result.extra["plane"] = context_figures.plane(learners["CAML"], test_sampler)
    return result


def new_learner(config, sampler):
    """An untrained CAML, its weights decided by the seed."""
    network, loss = experiment.new_network(config, sampler, context_size=config.context_size)
    rates = (config.inner_lr, config.inner_steps, config.order)
    return CAML(network, *rates, loss, config.test_steps, config.later_lr_factor)


def draw(result, config, directory):
    """Saves the figures of a run: MAML's, and the plane of contexts."""
    experiment.draw(result, config, directory)
    if "plane" in result.extra:
        figure = context_figures.draw_plane(result.extra["plane"])
        plots.save(figure, directory / "context_plane.png")
        figure = context_figures.draw_traversal(result.extra["plane"])
        plots.save(figure, directory / "context_traversal.png")


def main():
    """The command line: see `--help`."""
    command.main(Config, run, draw)


if __name__ == "__main__":
    main()
