"""The weights of the best epoch, also when a run is resumed."""

from common.best_weights import BestWeights
from common.errors import UserError

import keras
import numpy as np
import pytest


def a_network(value=0.0):
    network = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    network.set_weights([np.full((1, 1), value)])
    return network


def epochs(best, history, network, losses):
    best.set_model(network)
    for value, loss in losses:
        network.set_weights([np.full((1, 1), value)])
        best.on_epoch_end(0, {"val_loss": loss})
        history.setdefault("val_loss", []).append(loss)


def test_ends_with_the_lowest_validation_loss(tmp_path):
    history, network = {}, a_network()
    best = BestWeights(history, tmp_path)
    epochs(best, history, network, [(1, 5.0), (2, np.nan), (3, 4.0), (4, 4.5)])
    best.restore(network)
    assert network.get_weights()[0] == 3

    resumed = BestWeights(history, tmp_path)  # another process
    epochs(resumed, history, network, [(5, 4.2)])
    resumed.restore(network)
    assert network.get_weights()[0] == 3
    epochs(resumed, history, network, [(6, 3.0)])
    resumed.restore(network)
    assert network.get_weights()[0] == 6


def test_without_a_finite_loss_the_weights_stay():
    history, network = {}, a_network()
    best = BestWeights(history)
    epochs(best, history, network, [(1, np.nan), (2, np.nan)])
    best.restore(network)
    assert network.get_weights()[0] == 2


def test_damaged_file_is_told(tmp_path):
    (tmp_path / "best.npz").write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"best.npz is damaged"):
        BestWeights({}, tmp_path).restore(a_network())
