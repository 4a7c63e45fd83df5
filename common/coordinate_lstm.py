"""An LSTM for numbers that each have a state of their own: the core of learned optimisers.

It treats every coordinate alike: the weights are shared, and all leading axes of its input are
coordinates. It is written with two matrix products and nothing else, so that it has second
derivatives on every device; the fused kernel behind Keras's layer has none on a GPU.
"""

import math
from typing import NamedTuple

from common.errors import UserError

import keras
import tensorflow as tf


class LSTMState(NamedTuple):
    """What an LSTM remembers of each coordinate, both `(..., units)`."""

    hidden: tf.Tensor
    cell: tf.Tensor


def preprocess_gradients(gradients, p=10.0):
    """Size and sign of each gradient, as two numbers in -1..1 or near.

    Andrychowicz et al. (2016), Appendix A, which is continuous where its two cases meet:

        (log|g| / p, sign(g))   if |g| >= e^-p
        (-1, e^p g)             otherwise

    Args:
        gradients: `(...)`, gradients or losses.
        p: Sizes below e^-p count as small; positive.

    Returns:
        `(..., 2)`.
    """
    gradients = tf.convert_to_tensor(gradients)
    smallest = tf.constant(math.exp(-p), gradients.dtype)
    size = tf.math.log(tf.maximum(tf.abs(gradients), smallest)) / p  # -1 where it is small
    sign = tf.clip_by_value(gradients / smallest, -1, 1)
    return tf.stack([size, sign], axis=-1)


@keras.saving.register_keras_serializable("meta_learning")
class LSTMCell(keras.layers.Layer):
    """One LSTM layer, one step:

        (i, f, o, z) = x W + h U + b
        c' = sigmoid(f) c + sigmoid(i) tanh(z)        h' = sigmoid(o) tanh(c')

    Args:
        units: Numbers in the hidden state and in the cell.
        forget_bias: Where the bias of the forget gate starts; the others start at 0.
        scale: The weights start uniform in -scale..scale; None for Glorot's bound.
        seed: Seed of the initial weights.

    Raises:
        UserError: If there are no units.
    """

    def __init__(self, units, forget_bias=1.0, scale=None, seed=None, **options):
        super().__init__(**options)
        if units < 1:
            raise UserError(f"units must be at least 1; got {units}.")
        self.units, self.forget_bias, self.scale, self.seed = units, forget_bias, scale, seed

    def build(self, input_shape):
        weights = {"kernel": input_shape[-1], "recurrent_kernel": self.units}
        for index, (name, n_inputs) in enumerate(weights.items()):
            bound = math.sqrt(6 / (n_inputs + self.units)) if self.scale is None else self.scale
            seed = None if self.seed is None else 2 * self.seed + index
            initializer = keras.initializers.RandomUniform(-bound, bound, seed)
            weight = self.add_weight(
                shape=(n_inputs, 4 * self.units), initializer=initializer, name=name
            )
            setattr(self, name, weight)
        self.bias = self.add_weight(
            shape=(4 * self.units,), initializer=self.initial_bias, name="bias"
        )

    def initial_bias(self, shape, dtype=None):
        """Zeros, but for the forget gate."""
        gates = tf.constant([0.0, self.forget_bias, 0.0, 0.0], dtype)
        return tf.repeat(gates, self.units)

    def initial_state(self, leading_shape):
        """Zeros for coordinates `leading_shape`, an `LSTMState`."""
        zeros = tf.zeros([*leading_shape, self.units], self.compute_dtype)
        return LSTMState(zeros, zeros)

    def call(self, x, state):
        """One step.

        Args:
            x: `(..., d)`.
            state: `LSTMState` of `(..., units)`.

        Returns:
            The state after it; its `hidden` is the output.
        """
        hidden, cell = state
        # One long list of coordinates: a product of two matrices, whatever the leading axes are.
        rows = tf.reshape(x, [-1, x.shape[-1]]) @ self.kernel
        rows += tf.reshape(hidden, [-1, self.units]) @ self.recurrent_kernel + self.bias
        gates = tf.reshape(rows, tf.concat([tf.shape(cell)[:-1], [4 * self.units]], 0))
        gates.set_shape([*cell.shape[:-1], 4 * self.units])
        input_gate, forget_gate, output_gate, candidate = tf.split(gates, 4, axis=-1)
        cell = tf.sigmoid(forget_gate) * cell + tf.sigmoid(input_gate) * tf.tanh(candidate)
        return LSTMState(tf.sigmoid(output_gate) * tf.tanh(cell), cell)

    def get_config(self):
        names = ("units", "forget_bias", "scale", "seed")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable("meta_learning")
class CoordinateLSTM(keras.layers.Layer):
    """A stack of `LSTMCell`s with the same weights and a state of its own for every coordinate.

    Args:
        units: Units of each layer, a tuple.
        forget_bias, scale, seed: As for `LSTMCell`; the layers' seeds differ.

    Raises:
        UserError: If there is no layer, or one without units.
    """

    def __init__(self, units=(20, 20), forget_bias=1.0, scale=None, seed=None, **options):
        super().__init__(**options)
        if not units:
            raise UserError("units must have a number for each layer; got none.")
        self.units, self.forget_bias, self.scale, self.seed = tuple(units), forget_bias, scale, seed
        self.cells = [
            LSTMCell(n, forget_bias, scale, None if seed is None else len(units) * seed + index,
                     dtype=self.dtype_policy)
            for index, n in enumerate(self.units)
        ]  # fmt: skip

    def build(self, input_shape):
        for n_inputs, cell in zip((input_shape[-1], *self.units), self.cells):
            cell.build((None, n_inputs))

    def initial_state(self, leading_shape):
        """Zeros for coordinates `leading_shape`, one `LSTMState` a layer."""
        return [cell.initial_state(leading_shape) for cell in self.cells]

    def call(self, x, states):
        """One step of all layers.

        Args:
            x: `(..., d)`.
            states: One `LSTMState` a layer, `(..., units)`.

        Returns:
            `(output, states)`: the last layer's output `(..., units)`, and the states after it.
        """
        after = []
        for cell, state in zip(self.cells, states, strict=True):
            after.append(cell(x, state))
            x = after[-1].hidden
        return x, after

    def get_config(self):
        names = ("units", "forget_bias", "scale", "seed")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
