"""The coordinate-wise LSTM against a transcription in NumPy, and its gradient preprocessing."""

from common.coordinate_lstm import CoordinateLSTM, LSTMCell, preprocess_gradients
from common.errors import UserError

import keras
import numpy as np
import pytest
import tensorflow as tf


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def numpy_step(weights, x, hidden, cell):
    """One coordinate, one layer, gate by gate."""
    kernel, recurrent, bias = weights
    rows = x @ kernel + hidden @ recurrent + bias
    i, f, o, z = np.split(rows, 4)
    cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(z)
    return sigmoid(o) * np.tanh(cell), cell


def a_stack(units=(4, 3), n_inputs=2, **options):
    stack = CoordinateLSTM(units, seed=3, **options)
    stack.build((None, n_inputs))
    return stack


@pytest.mark.parametrize(
    ("p", "gradient", "expected"),
    [
        # Appendix A by hand: ln(0.01) / 10, e^10 * 1e-5, ln(0.01) / 5
        (10, 0.01, (-0.460517, 1.0)),
        (10, -0.01, (-0.460517, -1.0)),
        (10, 1e-5, (-1.0, 0.220265)),
        (10, -1e-5, (-1.0, -0.220265)),
        (5, 0.01, (-0.921034, 1.0)),
        (10, 1.0, (0.0, 1.0)),
        (10, 0.0, (-1.0, 0.0)),
    ],
)
def test_preprocessing_by_hand(p, gradient, expected):
    np.testing.assert_allclose(preprocess_gradients(gradient, p), expected, rtol=1e-5)


def test_preprocessing_is_continuous_where_its_cases_meet():
    corner = np.exp(-10.0)
    below, above = preprocess_gradients(np.array([corner * 0.9999, corner * 1.0001]))
    np.testing.assert_allclose(below, above, atol=2e-4)
    assert preprocess_gradients(tf.ones((2, 3, 4))).shape == (2, 3, 4, 2)


def test_one_step_equals_a_transcription_in_numpy():
    stack = a_stack()
    random = np.random.default_rng(0)
    x = random.normal(size=2).astype(np.float32)
    states = [
        type(state)(*random.normal(size=(2, 1, *state.hidden.shape[1:])).astype(np.float32))
        for state in stack.initial_state([1])
    ]
    output, after = stack(x[None], states)
    for cell, (hidden, memory), new in zip(stack.cells, states, after):
        weights = [w.numpy() for w in cell.weights]
        x, memory = numpy_step(weights, x, hidden[0], memory[0])
        np.testing.assert_allclose(new.hidden[0], x, rtol=1e-5)
        np.testing.assert_allclose(new.cell[0], memory, rtol=1e-5)
    np.testing.assert_allclose(output[0], x, rtol=1e-5)


def test_weights_are_counted_and_start_as_told():
    # 4 * 20 * (1 + 20 + 1) + 4 * 20 * (20 + 20 + 1); a second input adds 80
    assert [a_stack((20, 20), n).count_params() for n in (1, 2)] == [5040, 5120]
    cell = LSTMCell(3, forget_bias=2.5, scale=0.01, seed=0)
    cell.build((None, 2))
    np.testing.assert_array_equal(cell.bias, [0] * 3 + [2.5] * 3 + [0] * 6)
    kernel = cell.kernel.numpy()
    assert 0.005 < np.abs(kernel).max() <= 0.01
    first, second = a_stack((4, 4)).cells
    assert not np.allclose(first.recurrent_kernel, second.recurrent_kernel)


def test_coordinates_do_not_meet_whatever_their_axes():
    stack = a_stack()
    x = np.random.default_rng(1).normal(size=(6, 2)).astype(np.float32)
    flat, _ = stack(x, stack.initial_state([6]))
    shaped, after = stack(x.reshape(2, 3, 2), stack.initial_state([2, 3]))
    assert after[0].cell.shape == (2, 3, 4)
    np.testing.assert_allclose(tf.reshape(shaped, (6, 3)), flat, rtol=1e-5)
    order = [3, 0, 5, 1, 4, 2]
    permuted, _ = stack(x[order], stack.initial_state([6]))
    np.testing.assert_allclose(permuted, flat.numpy()[order], rtol=1e-5)


def test_second_derivative_matches_finite_differences():
    stack = a_stack(dtype="float64")

    def slope(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            output, states = stack(x, stack.initial_state([1]))
            output, _ = stack(x**2, states)
            total = tf.reduce_sum(output)
        return tf.reduce_sum(tape.gradient(total, x))

    x, step = np.array([[0.3, -0.7]]), 1e-5
    with tf.GradientTape() as tape:
        at = tf.constant(x)
        tape.watch(at)
        first = slope(at)
    second = tape.gradient(first, at)
    for index in range(2):
        moved = np.eye(2)[index] * step
        difference = (slope(tf.constant(x + moved)) - slope(tf.constant(x - moved))) / (2 * step)
        np.testing.assert_allclose(second[0, index], difference, rtol=1e-6)


def test_comes_back_from_its_config():
    stack = a_stack(forget_bias=0.5, scale=0.1)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(stack))
    assert (again.units, again.forget_bias, again.scale, again.seed) == ((4, 3), 0.5, 0.1, 3)


def test_sizes_that_make_no_sense_are_refused():
    with pytest.raises(UserError, match="units must be at least 1; got 0"):
        LSTMCell(0)
    with pytest.raises(UserError, match="a number for each layer"):
        CoordinateLSTM(())
    with pytest.raises(UserError, match="units must be at least 1; got 0"):
        CoordinateLSTM((20, 0))
