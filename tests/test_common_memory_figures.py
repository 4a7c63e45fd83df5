"""What a machine does with its memory, step by step, and the figures of it."""

from chapter04_ntm_mann.ntm import NTMCell
from common import memory_figures, plots
from common.copy_tasks import CopyTask
from common.results import Estimate

import keras
import numpy as np
import pytest
import tensorflow as tf


@pytest.fixture(scope="module")
def network():
    cell = NTMCell(12, 3, read_heads=1, write_heads=2, units=5)
    inputs = keras.Input((None, 9))
    recurrent = keras.layers.RNN(cell, return_sequences=True)(inputs)
    return keras.Model(inputs, keras.layers.Dense(8)(recurrent))


@pytest.fixture(scope="module")
def sequences():
    return [part.numpy() for part in CopyTask(3, 3).sample((0, 0), 2)]


def test_trace_is_what_the_network_does(network, sequences):
    inputs, _, _ = sequences
    found = memory_figures.trace(network, inputs[0])
    np.testing.assert_allclose(found["outputs"], tf.sigmoid(network(inputs))[0], rtol=1e-4)
    assert found["write"].shape == found["read"].shape == (7, 12)
    assert found["adds"].shape == found["reads"].shape == (7, 3)
    np.testing.assert_allclose(found["write"].sum(axis=1), 2, rtol=1e-4)  # of two heads
    np.testing.assert_allclose(found["read"].sum(axis=1), 1, rtol=1e-4)


def test_figures_of_a_sequence(network, sequences):
    inputs, targets, mask = sequences
    found = memory_figures.trace(network, inputs[0])
    figure = memory_figures.draw_memory(found, inputs[0])
    titles = [axis.get_title() for axis in figure.axes]
    assert titles[:6] == [
        "inputs", "outputs", "adds", "reads", "write weightings", "read weightings",
    ]  # fmt: skip
    asked = mask[0] > 0
    example = {"targets": targets[0][asked], "outputs": targets[0][asked]}
    wrong = {**example, "outputs": 1 - example["outputs"]}
    figure = memory_figures.draw_answers({"length_3": example, "wrong": wrong})
    titles = [axis.get_title() for axis in figure.axes[:2]]
    assert titles == ["length 3: 0 of 24 wrong", "wrong: 24 of 24 wrong"]


@pytest.mark.parametrize(
    ("places", "expected"), [((5,), (3, 8)), ((0, 19), (0, 20)), ((), (0, 20))]
)
def test_rows_that_are_used(places, expected):
    weightings = np.full((4, 20), 0.01)
    weightings[2, list(places)] = 0.8
    assert memory_figures.used_rows(weightings) == expected


def test_curves():
    history = {"NTM_step": [1, 2], "NTM_loss": [80.0, 0.0], "LSTM_step": [1], "LSTM_loss": [81.0]}
    figure = memory_figures.draw_learning(history, ["NTM", "LSTM"], 16, nothing=84)
    ntm, lstm, nothing = figure.axes[0].lines
    assert ntm.get_xdata().tolist() == [16, 32]
    assert lstm.get_ydata().tolist() == [81]
    assert nothing.get_ydata()[0] == 84
    errors = {name: {"length_3": Estimate(0.1, 0.01, 5)} for name in ("NTM", "LSTM")}
    figure = memory_figures.draw_generalisation(errors)
    assert figure.axes[0].lines[0].get_ydata() == pytest.approx([10])
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["length 3"]


def test_a_color_for_each_kind_and_a_line_for_each_seed():
    names = ["NTM_constant_0", "NTM_constant_1", "NTM_random_0", "NTM_random_1", "LSTM"]
    found = memory_figures.line_styles(names)
    assert list(found) == names
    assert found["LSTM"] == plots.role("baseline")
    looks = {(line["color"], line["linestyle"]) for line in found.values()}
    assert len(looks) == 5
    assert found["NTM_random_0"]["color"] == found["NTM_random_1"]["color"]
    assert found["NTM_random_0"]["linestyle"] == found["NTM_constant_0"]["linestyle"]


def test_negative_inputs_can_be_seen():
    inputs = np.zeros((6, 3))
    inputs[2, 2] = -1.5  # how often, standardised
    found = {name: np.zeros((6, 4)) for name in ("outputs", "adds", "reads", "write", "read")}
    figure = memory_figures.draw_memory(found, inputs)
    low, high = figure.axes[0].images[0].get_clim()
    assert (low, high) == (-1.5, 1.5)
