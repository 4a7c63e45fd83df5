"""Learning to learn: an optimiser that is itself a network, trained by gradient descent.
Its `--dataset` is `quadratics`, or `digits` or `mnist`, for networks that learn to read these.

Marcin Andrychowicz, Misha Denil, Sergio Gomez, Matthew W. Hoffman, David Pfau, Tom Schaul,
Brendan Shillingford, Nando de Freitas (2016), arXiv:1606.04474.

    theta_{t+1} = theta_t + g_t                                       equation 2
    [g_t, h_{t+1}] = m(grad_t, h_t, phi),   grad_t = d f(theta_t) / d theta
    L(phi) = E_f [ sum_t w_t f(theta_t) ],  w_t = 1                   equation 3

f, the optimisee, is drawn at random; m, the optimiser, is an LSTM of two layers. It sees one
coordinate of theta at a time: its weights phi are shared by all coordinates, its state h is not, so
one optimiser fits functions of any size. phi is trained by backpropagation through unrolls of 20
of the 100 steps, theta and h being carried from one to the next. As in the paper, grad_t counts as
a constant there, unless `--second-derivatives` is given: the optimisee is differentiated once.

Differences from the paper:

1. An outer step follows a batch of functions, computed as the rows of one tensor, through all 100
   steps, and phi moves after every 20. The meta-loss is the mean over the batch.
2. Far fewer outer steps, at a rate of Adam that starts higher and falls along a cosine.
3. The small data set is scikit-learn's digits of 8 x 8 pixels (`--dataset digits`); `mnist` is the
   paper's. The networks at meta-test learn from images that meta-training never saw.
4. The hand-made optimisers are tuned anew for every kind of function that they are measured on,
   which the learned one is not. Validation functions choose their rates, and among the weights of
   the learned one, those of the best of 20 epochs.

`python chapter01_intro/learning_to_learn.py` trains on random quadratics in 10 dimensions and
compares with SGD, Nesterov's gradient, RMSprop and Adam: losses on 600 new functions, summed over
100 steps, are 48.1 ± 5.1, with Nesterov's gradient, the best of these, 80.3 ± 7.5 (seed 0).
"""

import math
from dataclasses import dataclass, replace

from common import command, optimizer_experiment, training
from common.coordinate_lstm import CoordinateLSTM, preprocess_gradients
from common.errors import UserError
from common.settings import RunSettings, at_least, non_negative, one_of, positive

import keras
import tensorflow as tf


@dataclass(frozen=True)
class Config:
    """Settings of the script; the defaults are those of the quadratics."""

    dimensions: int = 10
    """Coordinates of the quadratics."""
    hidden: int = 20
    """Sigmoid units of the networks that learn digits."""
    batch_size: int = 128
    """Images in a minibatch of theirs."""

    units: tuple[int, ...] = (20, 20)
    """Units of each layer of the optimiser."""
    preprocess: bool = False
    """Give it size and sign of each gradient (Appendix A), not the gradient itself."""
    output_scale: float = 0.1
    """Factor on what its last layer says."""
    second_derivatives: bool = False
    """Keep the second derivatives of the optimisees, which the paper drops."""

    train_steps: int = 100
    """Steps for which a function is minimised in meta-training."""
    unroll: int = 20
    """Steps through which the meta-gradient is taken."""
    outer_lr: float = 0.006
    """Rate at which the optimiser is trained (Adam)."""
    outer_decay: bool = True
    """Let it fall to zero along a cosine."""
    meta_batch_size: int = 16
    """Functions in an outer step."""

    eval_episodes: int = 600
    """Functions to test on."""
    validation_episodes: int = 3000
    """Functions that choose the hand-made optimisers' rates and the learned one's best epoch."""
    run: RunSettings = RunSettings(steps=1500, dataset="quadratics")

    def __post_init__(self):
        one_of(self.run, "dataset", ("quadratics", "digits", "mnist"))
        positive(self, "dimensions", "hidden", "batch_size", "output_scale", "train_steps")
        positive(self, "unroll", "outer_lr", "meta_batch_size", "validation_episodes")
        at_least(2, self, "eval_episodes")
        non_negative(self.run, "seed")
        if not self.units or min(self.units) < 1:
            raise UserError(f"--units must be numbers of at least 1, got {self.units}")
        check_steps(self.train_steps, self.unroll)
        if self.run.mixed_precision:
            raise UserError("--mixed-precision is too coarse for optimisers; leave it out")

    @classmethod
    def for_dataset(cls, dataset):
        """The settings for quadratics, digits or mnist."""
        if dataset == "quadratics":
            return cls()
        n_tasks, steps = (1, 500) if dataset == "mnist" else (2, 300)
        return cls(
            preprocess=True, outer_lr=0.005, meta_batch_size=n_tasks, eval_episodes=100,
            validation_episodes=10, run=RunSettings(steps=steps, dataset=dataset),
        )  # fmt: skip

    @classmethod
    def smoke(cls, dataset="quadratics"):
        """The whole script in seconds."""
        tried = RunSettings(steps=4, dataset=dataset, smoke=True)
        small = {"train_steps": 20, "unroll": 5, "eval_episodes": 4, "validation_episodes": 2}
        few = {"meta_batch_size": min(cls.for_dataset(dataset).meta_batch_size, 8)}
        return replace(cls.for_dataset(dataset), run=tried, **small, **few)


def minimise(rule, optimisees, theta, state, data, first_step, steps, second_derivatives=False):
    """Minimises functions by an update rule, learned or not, for some steps: equation 2.

    Args:
        rule: Has `update(gradient, state)`, which returns g_t and the state after it.
        optimisees: The distribution that the functions were drawn from.
        theta: Where they stand, `(tasks, coordinates)`.
        state: The rule's state.
        data: What `optimisees.sample` drew of the functions.
        first_step: t of the first step, an integer tensor.
        steps: How many steps.
        second_derivatives: Whether outer gradients flow through the gradients of the functions.

    Returns:
        `(theta, state, losses)` after them; the losses f(theta_t) are `(steps + 1, tasks)`.
    """
    values = tf.TensorArray(theta.dtype, steps + 1, element_shape=theta.shape[:1])

    def step(k, theta, state, values):
        with tf.GradientTape() as tape:
            tape.watch(theta)
            losses = optimisees.losses(theta, data, first_step + k)  # f(theta_t)
        gradient = tape.gradient(losses, theta)  # of each function by its own theta
        if not second_derivatives:
            gradient = tf.stop_gradient(gradient)
        update, state = rule.update(gradient, state)
        return k + 1, theta + update, state, values.write(k, losses)

    _, theta, state, values = tf.while_loop(
        lambda k, *_: k < steps, step, (0, theta, state, values), maximum_iterations=steps
    )
    values = values.write(steps, optimisees.losses(theta, data, first_step + steps))
    return theta, state, values.stack()


def check_steps(train_steps, unroll):
    """Raises `UserError` unless the steps of training are a whole number of unrolls."""
    if min(train_steps, unroll) < 1 or train_steps % unroll:
        raise UserError(
            "expected train_steps to be a multiple of unroll, both at least 1, got "
            f"{train_steps} and {unroll}"
        )


@keras.saving.register_keras_serializable("meta_learning")
class LearnedOptimizer(keras.Model):
    """A coordinate-wise LSTM as update rule (Andrychowicz et al. 2016, section 2.1).

    Args:
        units: Units of each LSTM layer.
        preprocess: Whether it sees size and sign of a gradient (Appendix A) or the number itself.
        output_scale: Factor on the output of the last layer.
        train_steps: Steps for which a function is minimised in an outer step.
        unroll: Steps through which the meta-gradient is taken.
        second_derivatives: Whether the optimisees' second derivatives belong to it.
        seed: Seed of the initial weights.
        optimisees: The distribution of functions to train on; not saved with the optimiser, which
            fits others as well.

    Raises:
        UserError: If a number is not positive, or `train_steps` no multiple of `unroll`.
    """

    def __init__(
        self,
        units=(20, 20),
        preprocess=False,
        output_scale=0.1,
        train_steps=100,
        unroll=20,
        second_derivatives=False,
        seed=0,
        optimisees=None,
        **options,
    ):
        super().__init__(**options)
        check_steps(train_steps, unroll)
        if not 0 < output_scale < math.inf:
            raise UserError(f"output_scale must be greater than 0; got {output_scale}.")
        self.units, self.preprocess, self.output_scale = tuple(units), preprocess, output_scale
        self.train_steps, self.unroll = train_steps, unroll
        self.second_derivatives, self.seed, self.optimisees = second_derivatives, seed, optimisees
        self.network = CoordinateLSTM(self.units, seed=seed, name="optimiser")
        self.network.build((None, 2 if preprocess else 1))
        initializer = keras.initializers.GlorotUniform(seed)
        self.head = keras.layers.Dense(1, kernel_initializer=initializer)
        self.head.build((None, self.units[-1]))
        self.loss_metric = keras.metrics.Mean(name="loss")
        self.built = True

    def initial_state(self, theta):
        """h_0, zeros for every coordinate."""
        return self.network.initial_state(theta.shape)

    def update(self, gradient, state):
        """[g_t, h_{t+1}] = m(grad_t, h_t, phi), for each coordinate on its own."""
        inputs = preprocess_gradients(gradient) if self.preprocess else gradient[..., tf.newaxis]
        output, state = self.network(inputs, state)  # (tasks, coordinates, units)
        return self.output_scale * tf.squeeze(self.head(output), -1), state

    @property
    def updates_per_step(self):
        """How often phi moves in an outer step."""
        return self.train_steps // self.unroll

    @property
    def metrics(self):
        return [self.loss_metric]

    def train_step(self, batch):
        """One outer step: follows a batch of functions, and improves phi after every unroll."""
        theta, data = batch

        def segment(first_step, theta, state, total):
            with tf.GradientTape() as tape:
                theta, state, losses = minimise(
                    self, self.optimisees, theta, state, data, first_step, self.unroll,
                    self.second_derivatives,
                )  # fmt: skip
                # Equation 3 for these steps; where they begin does not depend on phi any more.
                meta_loss = tf.reduce_sum(tf.reduce_mean(losses[1:], axis=1))
            gradients = tape.gradient(meta_loss, [v.value for v in self.trainable_variables])
            self.optimizer.apply(gradients, self.trainable_variables)
            return first_step + self.unroll, theta, state, total + meta_loss

        *_, total = tf.while_loop(
            lambda first_step, *_: first_step < self.train_steps,
            segment,
            (0, theta, self.initial_state(theta), 0.0),
            maximum_iterations=self.updates_per_step,
        )
        self.loss_metric.update_state(total)
        return {"loss": self.loss_metric.result()}

    def test_step(self, batch):
        """The loss summed over steps 1 to `train_steps`, for `validation_data`."""
        theta, data = batch
        state = self.initial_state(theta)
        losses = minimise(self, self.optimisees, theta, state, data, 0, self.train_steps)[2]
        self.loss_metric.update_state(tf.reduce_sum(losses[1:], axis=0))
        return {"loss": self.loss_metric.result()}

    def get_config(self):
        names = ("units", "preprocess", "output_scale", "train_steps", "unroll")
        names += ("second_derivatives", "seed")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def run(config, directory=None, progress=False):
    """Trains an optimiser, and compares it with hand-made ones on functions never seen.

    Returns:
        A `Result`; its metrics are the losses summed over steps 1 to 100, mean over functions.
    """
    training.prepare(config.run)
    sampler = optimizer_experiment.new_sampler(config)
    learner = new_learner(config, sampler.optimisees)
    history = optimizer_experiment.train(learner, sampler, config, directory, progress)
    return optimizer_experiment.measure(learner, minimise, config, history, progress)


def new_learner(config, optimisees):
    """An untrained optimiser, its weights decided by the seed."""
    names = ("units", "preprocess", "output_scale", "train_steps", "unroll", "second_derivatives")
    options = {name: getattr(config, name) for name in names}
    return LearnedOptimizer(**options, seed=config.run.seed, optimisees=optimisees)


def main():
    """The command line: see `--help`."""
    command.main(Config, run, optimizer_experiment.draw)


if __name__ == "__main__":
    main()
