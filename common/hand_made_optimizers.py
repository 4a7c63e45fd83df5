"""Optimisers that people invented, as update rules: the same steps as Keras's classes of the name.

A rule has `initial_state(theta)` and `update(gradient, state)`, which returns what to add to theta
and the state after it. Tensors may have any shape, so that many functions are minimised at once,
and the rate may be a tensor.
"""

from dataclasses import dataclass
from typing import Any

import tensorflow as tf


@dataclass(frozen=True)
class SGD:
    """Gradient descent: -rate * gradient."""

    rate: Any

    def initial_state(self, theta):
        return ()

    def update(self, gradient, state):
        return -self.rate * gradient, state


@dataclass(frozen=True)
class Nesterov:
    """Nesterov's accelerated gradient: v' = m v - rate * gradient, then m v' - rate * gradient."""

    rate: Any
    momentum: float = 0.9

    def initial_state(self, theta):
        return (tf.zeros_like(theta),)

    def update(self, gradient, state):
        velocity = self.momentum * state[0] - self.rate * gradient
        return self.momentum * velocity - self.rate * gradient, (velocity,)


@dataclass(frozen=True)
class RMSprop:
    """Each gradient over the root of the running mean of its squares (Tieleman and Hinton 2012)."""

    rate: Any
    decay: float = 0.9
    epsilon: float = 1e-7

    def initial_state(self, theta):
        return (tf.zeros_like(theta),)

    def update(self, gradient, state):
        square = self.decay * state[0] + (1 - self.decay) * gradient**2
        return -self.rate * gradient * tf.math.rsqrt(square + self.epsilon), (square,)


@dataclass(frozen=True)
class Adam:
    """Running mean of the gradients over that of their size (Kingma and Ba 2015)."""

    rate: Any
    mean_decay: float = 0.9
    square_decay: float = 0.999
    epsilon: float = 1e-7

    def initial_state(self, theta):
        return tf.zeros((), theta.dtype), tf.zeros_like(theta), tf.zeros_like(theta)

    def update(self, gradient, state):
        count, mean, square = state
        count += 1
        mean = self.mean_decay * mean + (1 - self.mean_decay) * gradient
        square = self.square_decay * square + (1 - self.square_decay) * gradient**2
        # Both means start from zero.
        unbiased = tf.sqrt(1 - self.square_decay**count) / (1 - self.mean_decay**count)
        update = -self.rate * unbiased * mean / (tf.sqrt(square) + self.epsilon)
        return update, (count, mean, square)


HAND_MADE = {"SGD": SGD, "Nesterov": Nesterov, "RMSprop": RMSprop, "Adam": Adam}
