"""The gates of an LSTM meta-learner: what is recorded, and what is drawn."""

import json

from common import gate_figures, networks
from common.episodes import Episode

import numpy as np
import tensorflow as tf


class TwoStepLearner:
    """Its forget gate is 0.9, then 0.8; its input gate is the number of the variable."""

    def __init__(self):
        self.network = networks.conv4((8, 8, 1), 3, filters=2, blocks=2)

    def adapt(self, support_x, support_y, steps):
        return 0

    def inner_step(self, state, support_x, support_y, step):
        return state + 1

    def gates(self, state):
        shapes = [(4, *v.shape) for v in self.network.trainable_variables]
        forget = [np.full(shape, 1 - 0.1 * state) for shape in shapes]
        return forget, [np.full(shape, 1.0 * i) for i, shape in enumerate(shapes)]


def test_gates_are_told_layer_by_layer_and_step_by_step():
    episodes = [Episode(*(tf.zeros((4, 2)),) * 4)] * 2
    found = gate_figures.record(TwoStepLearner(), episodes, steps=2)
    names = ["convolution 1", "normalisations", "convolution 2", "linear layer 1"]
    assert found["layers"] == names
    np.testing.assert_allclose(found["forget"], [[0.9, 0.8]] * 4)
    # Variables: kernel 0, gain 1, offset 2, kernel 3, gain 4, offset 5, kernel 6 of 8 x 3, bias 7
    np.testing.assert_allclose(np.array(found["input"])[:3, 0], [0, 3, 3])
    np.testing.assert_allclose(found["input"][3], [(24 * 6 + 3 * 7) / 27] * 2)
    np.testing.assert_allclose(found["input_quartiles"][1], [[1.75, 4.25]] * 2)
    assert json.loads(json.dumps(found)) == found
    figure = gate_figures.draw(found)
    for axis in figure.axes:
        assert len(axis.lines) == len(names)
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), [0.9, 0.8])
