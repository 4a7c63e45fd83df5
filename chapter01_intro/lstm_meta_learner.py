"""LSTM meta-learner: the weights of a network are the cell of an LSTM, whose gates train it.

Sachin Ravi and Hugo Larochelle (2017), "Optimization as a model for few-shot learning", ICLR;
Algorithm 1. Gradient descent is an LSTM cell with a forget gate of 1 and a rate for input gate:

    theta_t = f_t o theta_{t-1} - i_t o grad_t        o: elementwise; grad_t of the support loss L_t
    h_t     = LSTM([grad_t, L_t], h_{t-1})            the same weights for every coordinate
    i_t     = sigmoid(W_I [h_t, theta_{t-1}, i_{t-1}] + b_I)        f_t likewise, with f_{t-1}

Meta-learned from the query loss at theta_T: the LSTM, W and b, and theta_0, where the cell starts.
As in the paper, grad_t and L_t count as given (`--order 1`): no derivative goes through them, and
so no second derivative of the network is taken. `--order 2` lets it through.

Batch normalisation is the paper's as well: in meta-training, support and query set are normalised
by their own statistics; at meta-test the queries by those of the support set, so that no query
helps another (not transductive). SGD and MAML, which are compared, are treated alike.

Differences from the authors' code:

1. At meta-test the statistics are those of the support set in the adapted network; theirs are
   running averages over the inner steps.
2. Fewer outer steps, of several tasks each, at a rate that starts higher and decays along a cosine;
   half their filters, strides instead of pooling, and fewer inner steps.
3. grad_t is that of the mean loss; the authors divide it by the number of support items once more.
4. The small LSTM starts from Glorot's weights, its forget gate with a bias of 1. W starts within
   0.01 of zero, as all of theirs do. i_{t-1} and f_{t-1} enter before their sigmoid, as theirs.

`python chapter01_intro/lstm_meta_learner.py` trains on printed characters, compares with MAML and
with SGD from the same theta_0 at the best of several rates, and draws the gates. With
`--dataset omniglot-random --steps 6000` the LSTM has 89.3 ± 0.5 %, SGD 86.8 ± 0.5 %, seed 0.
"""

from dataclasses import dataclass

from chapter05_maml_adml.maml import MAML
from common import command, experiment, gate_figures, plots, rate_search, training
from common.coordinate_lstm import LSTMCell, LSTMState, preprocess_gradients
from common.errors import UserError
from common.flat_weights import flatten, unflatten
from common.settings import RunSettings, at_least, one_of, positive
from common.support_statistics import SupportNormalized

import keras
import tensorflow as tf


@dataclass(frozen=True)
class Config:
    """Settings of the script; the defaults are those of the printed characters."""

    n_way: int = 5
    """Classes in a task."""
    k_shot: int = 1
    """Support items of each class."""
    n_query: int = 15
    """Query items of each class."""
    test_k_shot: int | None = None
    """Support items of each class at meta-test; as many as in training unless given."""
    rotations: bool = True
    """Count each 90-degree rotation of a class of images as a class of its own."""

    filters: int = 16
    """Filters of each convolution."""
    norm: str = "batch"
    """Normalisation after each of them: batch, layer or none."""
    units: int = 20
    """Units of the LSTM."""

    inner_steps: int = 5
    """T: steps that the LSTM takes in training."""
    test_steps: int = 5
    """Steps at test time, of all learners."""
    order: int = 1
    """1: gradients count as given, as in the paper; 2: the derivative goes through them too."""
    sgd_rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    """Rates of SGD from the same start, of which the best on validation classes is taken."""
    rate_episodes: int = 200
    """Validation tasks on which it is chosen."""

    outer_lr: float = 0.005
    """Rate of the outer steps (Adam)."""
    outer_decay: bool = True
    """Let the outer rate fall to zero along a cosine."""
    meta_batch_size: int = 4
    """Tasks in an outer step."""

    maml: bool = True
    """Train MAML as well, with as many outer steps."""
    inner_lr: float = 0.5
    """Rate of MAML's inner steps; it takes one in training."""
    eval_episodes: int = 600
    """Meta-test tasks."""
    run: RunSettings = RunSettings(steps=3000, dataset="glyphs")

    def __post_init__(self):
        positive(self, "n_way", "k_shot", "n_query", "filters", "units", "inner_lr", "outer_lr")
        positive(self, "meta_batch_size", *["test_k_shot"] * (self.test_k_shot is not None))
        positive(self, "inner_steps", "test_steps")
        at_least(2, self, "eval_episodes", "rate_episodes")
        one_of(self, "norm", ("batch", "layer", "none"))
        if self.order not in (1, 2):
            raise UserError(f"--order must be 1 (as in the paper) or 2 (exact); got {self.order}")
        rate_search.check_rates(self.sgd_rates)

    @classmethod
    def for_dataset(cls, dataset):
        """The settings for a data set: longer training for Omniglot, and more tasks to test on."""
        if dataset.startswith("omniglot"):
            return cls(eval_episodes=1000, run=RunSettings(steps=12000, dataset=dataset))
        return cls(run=RunSettings(steps=cls().run.steps, dataset=dataset))

    @classmethod
    def smoke(cls, dataset="glyphs"):
        """The whole script in seconds."""
        small = {"filters": 4, "inner_steps": 2, "test_steps": 2, "sgd_rates": (0.1, 1.0)}
        tried = RunSettings(steps=5, dataset=dataset, smoke=True)
        return cls(**small, n_query=3, rate_episodes=8, eval_episodes=8, run=tried)


@keras.saving.register_keras_serializable("meta_learning")
class InductiveMAML(SupportNormalized, MAML):
    """MAML without transduction; with `order=1` its `adapt` is plain gradient descent."""


@keras.saving.register_keras_serializable("meta_learning")
class LSTMMetaLearner(SupportNormalized, MAML):
    """Meta-learns an LSTM that trains a network, and where it starts (Ravi and Larochelle 2017).

    Args:
        network: A built Keras model; its trainable weights are theta_0.
        inner_steps: T, the steps that the LSTM takes in training.
        loss: None for cross-entropy on integer labels and logits, otherwise any Keras loss.
        test_steps: Steps outside training; by default as many as in training.
        order: 1 for the paper's assumption that gradients do not depend on what is learned.
        units: Units of the LSTM.
        seed: Seed of its weights.

    Raises:
        UserError: If a number is out of its range.
    """

    def __init__(
        self,
        network,
        inner_steps=1,
        loss=None,
        test_steps=None,
        order=1,
        units=20,
        seed=0,
        **options,
    ):
        super().__init__(network, 0.0, inner_steps, order, loss, test_steps, **options)
        self.units, self.seed = units, seed
        uniform, dtype = keras.initializers.RandomUniform, network.trainable_variables[0].dtype
        self.lstm = LSTMCell(units, seed=seed, dtype=dtype)
        self.lstm.build((None, 4))
        # W: a row for each number in [h, theta, the gate before]; its columns belong to f and i.
        self.kernel = self.add_weight(
            (units + 2, 2), uniform(-0.01, 0.01, seed), dtype, name="gate_kernel"
        )
        self.bias = self.add_weight((2,), uniform(4, 5, seed + 1), dtype, name="gate_bias")
        self.bias.assign(self.bias * [1, -1])  # b_F in 4..5: f near 1; b_I in -5..-4: i near 0.01

    def adapt(self, support_x, support_y, steps=None, training=False):
        """From theta_0 to every task's theta_T: arguments and fast weights as in MAML."""
        state = super().adapt(support_x, support_y, steps, training)
        return state[: len(self.network.trainable_variables)]

    def inner_step(self, fast_weights, support_x, support_y, training=False, step=0):
        """One step of the LSTM for every weight of every task: the loop of Algorithm 1.

        Args:
            fast_weights: Fast weights to start from; or what this method returned, to go on.
            support_x, support_y, training, step: As in MAML.

        Returns:
            A list: the new fast weights, then h, the LSTM's own cell, and both gates before their
            sigmoid, `(tasks, coordinates, 2)`.
        """
        variables = self.network.trainable_variables
        weights, state = list(fast_weights[: len(variables)]), fast_weights[len(variables) :]
        with tf.GradientTape() as tape:
            tape.watch(weights)
            logits = self.predict_with(weights, support_x, training, step)
            losses = self.task_losses(support_y, logits)  # (tasks,)
        gradients = tape.gradient(
            losses, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        theta, gradient = flatten(weights), flatten(gradients)  # (tasks, coordinates)
        if self.order == 1:  # the paper's independence assumption
            gradient, losses = tf.stop_gradient(gradient), tf.stop_gradient(losses)
        theta, *state = self.update(theta, gradient, losses, *state)
        return [*unflatten(theta, variables), *state]

    def update(self, theta, gradient, losses, hidden=None, cell=None, gates=None):
        """theta_t = f_t o theta_{t-1} - i_t o gradient, with the gates of the LSTM.

        Args:
            theta, gradient: `(tasks, coordinates)`.
            losses: `(tasks,)`.
            hidden, cell: `(tasks, coordinates, units)`; zeros in the first step.
            gates: f and i before their sigmoid, `(tasks, coordinates, 2)`; zeros likewise.

        Returns:
            theta, hidden, cell and gates after the step.
        """
        if hidden is None:
            hidden, cell = self.lstm.initial_state(theta.shape)
            gates = tf.zeros([*theta.shape, 2], theta.dtype)
        loss = tf.broadcast_to(preprocess_gradients(losses)[:, None], [*theta.shape, 2])
        seen = tf.concat([preprocess_gradients(gradient), loss], axis=-1)
        hidden, cell = self.lstm(seen, LSTMState(hidden, cell))
        gates = (
            hidden @ self.kernel[:-2] + theta[..., None] * self.kernel[-2] + gates * self.kernel[-1]
        ) + self.bias
        forget, write = tf.unstack(tf.sigmoid(gates), axis=-1)  # f_t and i_t
        return forget * theta - write * gradient, hidden, cell, gates

    def gates(self, state):
        """f and i of the step that returned `state`: two lists aligned with the fast weights."""
        variables = self.network.trainable_variables
        return [unflatten(g, variables) for g in tf.unstack(tf.sigmoid(state[-1]), axis=-1)]

    @staticmethod
    def outer_optimizer(config):
        """Adam as for MAML, its gradient cut to a length of 0.25 as the authors do."""
        optimizer = training.outer_optimizer(config)
        optimizer.global_clipnorm = 0.25
        return optimizer

    def get_config(self):
        config = {**super().get_config(), "units": self.units, "seed": self.seed}
        del config["inner_lr"], config["later_lr_factor"]  # MAML's
        return config


def run(config, directory=None, progress=False):
    """Meta-trains the LSTM and MAML, and measures them and SGD on tasks never seen.

    Returns:
        A `Result` with the score of each learner after 0, 1, 3, 5, 10 and `test_steps` steps;
        `extra["gates"]` has what `gate_figures` draws, `extra["sgd"]` how SGD's rate was chosen.
    """
    training.prepare(config.run)
    sampler, test_sampler = experiment.samplers(config)
    learners = new_learners(config, sampler)
    history = experiment.train(learners, sampler, config, directory, progress)
    lstm = learners["LSTM"]

    def descent(rate):
        """SGD from the theta_0 that was learned for the LSTM."""
        return InductiveMAML(lstm.network, rate, config.inner_steps, 1, None, config.test_steps)

    found = rate_search.best(descent, config.sgd_rates, config)
    learners = {"LSTM": lstm, "SGD": descent(found["best"]), **learners}
    result = experiment.measure(learners, test_sampler, config, history)
    episodes = test_sampler.fixed(16, 4)
    result.extra["sgd"] = found
    result.extra["gates"] = gate_figures.record(lstm, episodes, config.test_steps)
    return result


def new_learners(config, sampler):
    """Untrained learners by name, their weights decided by the seed and the same at first."""
    network, loss = experiment.new_network(config, sampler)
    steps = (config.inner_steps, loss, config.test_steps)
    learners = {
        "LSTM": LSTMMetaLearner(network, *steps, config.order, config.units, config.run.seed)
    }
    if config.maml:
        network, _ = experiment.new_network(config, sampler)
        learners["MAML"] = InductiveMAML(network, config.inner_lr, 1, 2, loss, config.test_steps)
    return learners


def draw(result, config, directory):
    """Saves the figures of a run: MAML's, and the gates against the inner steps."""
    experiment.draw(result, config, directory)
    plots.save(gate_figures.draw(result.extra["gates"]), directory / "gates.png")


def main():
    """The command line: see `--help`."""
    command.main(Config, run, draw)


if __name__ == "__main__":
    main()
