"""What a policy gradient needs: a Gaussian policy, a baseline, advantages, and the losses.

Everything has a task axis in front. A policy's outputs `(tasks, examples, 2 * actions)` are the
means of its actions and the logarithms of their standard deviations.
"""

import math

from common import networks
from common.task_batching import TWINS
from common.task_layers import TaskLayer

import keras
import tensorflow as tf

LOG_STD_FLOOR = math.log(1e-6)


@keras.saving.register_keras_serializable("meta_learning")
class WithLogStd(keras.layers.Layer):
    """Puts a vector of weights, equal for all inputs and at first 0, behind the means."""

    def build(self, shape):
        self.log_std = self.add_weight(shape=shape[-1:], initializer="zeros", name="log_std")

    def call(self, means):
        return _join(means, self.log_std)

    def compute_output_shape(self, shape):
        return (*shape[:-1], 2 * shape[-1])


class TaskWithLogStd(TaskLayer):
    """`WithLogStd` with a vector for each task."""

    def call(self, means):
        return _join(means, self.weight("log_std")[:, None])


def _join(means, log_std):
    log_std = tf.maximum(log_std, LOG_STD_FLOOR)
    return tf.concat([means, tf.broadcast_to(log_std, tf.shape(means))], axis=-1)


TWINS[WithLogStd] = TaskWithLogStd


def gaussian_policy(observations=2, actions=2, hidden=(100, 100), seed=0):
    """A multilayer perceptron for the means, and standard deviations that depend on no input.

    Args:
        observations: Number of inputs.
        actions: Number of actions.
        hidden: Units of each hidden layer, with ReLU.
        seed: Seed of the initial weights.

    Returns:
        A `keras.Model` from `(examples, observations)` to `(examples, 2 * actions)`.
    """
    means = networks.mlp(observations, hidden, actions, seed=seed)
    outputs = WithLogStd(name="with_log_std")(means.output)
    return keras.Model(means.input, outputs, name="policy")


def log_probability(outputs, actions):
    """ln pi(action) of a Gaussian policy, summed over the actions' axes: `(...)`."""
    mean, log_std = tf.split(outputs, 2, axis=-1)
    z = (actions - mean) * tf.exp(-log_std)
    return -tf.reduce_sum(z**2 / 2 + log_std + math.log(2 * math.pi) / 2, axis=-1)


def kl_divergence(old, new):
    """KL(old || new) of two Gaussian policies, summed over the actions' axes: `(...)`."""
    (mean, log_std), (new_mean, new_log_std) = (tf.split(p, 2, axis=-1) for p in (old, new))
    spread = tf.exp(2 * log_std) + (mean - new_mean) ** 2
    each = new_log_std - log_std + spread * tf.exp(-2 * new_log_std) / 2 - 1 / 2
    return tf.reduce_sum(each, axis=-1)


def discounted_sums(values, discount):
    """values_t + discount * values_(t+1) + discount^2 * values_(t+2) + ... along the last axis."""
    time = tf.range(values.shape[-1])
    power = tf.cast(time[:, None] - time[None, :], values.dtype)  # (later, t)
    factors = tf.where(power >= 0, tf.cast(discount, values.dtype) ** tf.maximum(power, 0), 0)
    return tf.tensordot(values, factors, 1)


def linear_baseline(observations, returns, alive):
    """The returns that a linear function of position and time expects, fitted to each task.

    Duan et al. (2016), arXiv:1604.06778: least squares on the features o, o^2, t/100, (t/100)^2,
    (t/100)^3 and 1, with 1e-5 on the diagonal. Fitted and used on the same trajectories.

    Args:
        observations: `(tasks, trajectories, horizon, d)`; clipped to -10..10.
        returns: `(tasks, trajectories, horizon)`, what to fit.
        alive: `(tasks, trajectories, horizon)`, 1 for what counts.

    Returns:
        `(tasks, trajectories, horizon)`, float32; 0 where not alive.
    """
    position = tf.clip_by_value(tf.cast(observations, tf.float64), -10, 10)
    time = tf.range(returns.shape[-1], dtype=tf.float64)[:, None] / 100
    of_time = tf.concat([time, time**2, time**3, tf.ones_like(time)], axis=-1)
    of_time = tf.broadcast_to(of_time, [*returns.shape, 4])
    features = tf.concat([position, position**2, of_time], axis=-1)
    features *= tf.cast(alive, tf.float64)[..., None]
    rows = tf.reshape(features, [returns.shape[0], -1, features.shape[-1]])  # (tasks, moves, f)
    target = tf.reshape(tf.cast(returns * alive, tf.float64), [returns.shape[0], -1, 1])
    square = tf.matmul(rows, rows, transpose_a=True)
    square += 1e-5 * tf.eye(rows.shape[-1], dtype=tf.float64)
    weights = tf.linalg.solve(square, tf.matmul(rows, target, transpose_a=True))
    return tf.cast(tf.reshape(rows @ weights, returns.shape), tf.float32)


def advantages(paths, discount=0.99, gae_lambda=1.0):
    """How much better each action was than the baseline expects, standardised within its task.

    Generalised advantage estimation (Schulman et al. 2015, arXiv:1506.02438):
    delta_t = r_t + discount * b(s_(t+1)) - b(s_t), A_t = sum_l (discount * lambda)^l delta_(t+l).
    With lambda = 1 that is return less baseline.

    Args:
        paths: `common.navigation.Paths`.
        discount: gamma, 0..1.
        gae_lambda: lambda, 0..1.

    Returns:
        `(tasks, trajectories, horizon)`, of mean 0 and standard deviation 1 in each task; 0 where
        a trajectory had ended.
    """
    returns = discounted_sums(paths.rewards, discount)
    baseline = linear_baseline(paths.observations, returns, paths.alive)
    following = tf.concat([baseline[..., 1:], tf.zeros_like(baseline[..., :1])], axis=-1)
    surprise = paths.rewards + discount * following - baseline
    found = discounted_sums(surprise, discount * gae_lambda)
    moves = tf.reduce_sum(paths.alive, axis=(1, 2), keepdims=True)
    mean = tf.reduce_sum(found * paths.alive, axis=(1, 2), keepdims=True) / moves
    away = (found - mean) * paths.alive
    variance = tf.reduce_sum(away**2, axis=(1, 2), keepdims=True) / moves
    return away / (tf.sqrt(variance) + 1e-8)


def as_examples(paths, discount=0.99, gae_lambda=1.0):
    """All moves of a task as examples to learn from: `(x, y)`, as a `MetaLearner` takes them.

    Returns:
        x: The observations of all trajectories, `(tasks, moves, d)`.
        y: For each of them the action, its advantage, and its share in a mean: 0 where the
            trajectory had ended, otherwise what makes the mean over all rows one over those
            moves that were made; `(tasks, moves, actions + 2)`.
    """
    n_tasks, trajectories, horizon = paths.alive.shape
    share = paths.alive / tf.reduce_mean(paths.alive, axis=(1, 2), keepdims=True)
    advantage = advantages(paths, discount, gae_lambda)
    y = tf.concat([paths.actions, advantage[..., None], share[..., None]], axis=-1)
    x, y = (
        tf.reshape(part, [n_tasks, trajectories * horizon, part.shape[-1]])
        for part in (paths.observations, y)
    )
    return x, y


@keras.saving.register_keras_serializable("meta_learning")
def policy_gradient_loss(y, outputs):
    """-ln pi(a) A of each move, whose gradient is the policy gradient (Finn et al., equation 4).

    Args:
        y: As `as_examples` gives it.
        outputs: The policy's outputs at its `x`.

    Returns:
        `(tasks, moves)`.
    """
    return -log_probability(outputs, y[..., :-2]) * y[..., -2] * y[..., -1]


def surrogate_loss(y, old, new):
    """The mean over tasks and moves of -pi_new(a) / pi_old(a) A, a scalar.

    At the old policy it has the gradient of `policy_gradient_loss`, and with standardised
    advantages the value 0.

    Args:
        y: As `as_examples` gives it.
        old, new: Outputs of the policy that walked and of another, `(tasks, moves, ...)`.
    """
    actions, advantage, share = y[..., :-2], y[..., -2], y[..., -1]
    ratio = tf.exp(log_probability(new, actions) - log_probability(old, actions))
    return -tf.reduce_mean(ratio * advantage * share)


def mean_divergence(y, old, new):
    """The mean over tasks and moves of KL(old || new), a scalar; arguments as above."""
    return tf.reduce_mean(kl_divergence(old, new) * y[..., -1])
