"""Learning to answer sequences of bits: what is counted, and that it learns."""

import math

from common.algorithmic_tasks import sampler
from common.bit_sequences import Sequences
from common.copy_tasks import CopyTask
from common.sequence_learner import SequenceLearner, bits_per_sequence, wrong_bits

import keras
import numpy as np
import pytest
import tensorflow as tf


def example():
    targets = tf.constant([[[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]])
    return Sequences(tf.zeros((1, 3, 1)), targets, tf.constant([[1.0, 1.0, 0.0]]))


def test_scores_by_hand():
    # Of four bits that count: certain and right; 1/2; 3/4 for the truth; 3/4 for the opposite.
    logits = tf.constant([[[50.0, 0.0], [math.log(3), -math.log(3)], [9.0, -9.0]]])
    bits = 0 + 1 + math.log2(4 / 3) + 2
    assert bits_per_sequence(example(), logits).numpy() == pytest.approx([bits], rel=1e-5)
    assert wrong_bits(example(), logits).numpy().tolist() == [1]


def test_steps_that_do_not_count_have_no_gradient():
    logits = tf.Variable(np.random.default_rng(0).normal(size=(1, 3, 2)), dtype=tf.float32)
    with tf.GradientTape() as tape:
        loss = bits_per_sequence(example(), logits)
    gradient = tape.gradient(loss, logits).numpy()
    assert not gradient[:, 2].any()
    assert gradient[:, :2].all()


def small_learner(task):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((None, task.inputs))
    hidden = keras.layers.LSTM(16, return_sequences=True, use_cudnn=False)(inputs)
    return SequenceLearner(keras.Model(inputs, keras.layers.Dense(task.outputs)(hidden)))


def test_scores_of_all_sequences_and_lengths():
    task = CopyTask(1, 3)
    learner = small_learner(task)
    scores = learner.sequence_scores(sampler(task).fixed(10, 4))
    assert scores.shape == (10, 3)
    assert set(scores[:, 2]) <= {8, 16, 24}
    longer = learner.sequence_scores(sampler(CopyTask(5, 5)).fixed(4, 4))
    assert longer[:, 2].tolist() == [40] * 4
    sequences = sampler(task).episode(3)
    logits = learner(sequences.inputs[None])
    one = Sequences(*(part[None] for part in sequences))
    np.testing.assert_allclose(scores[3, 0], bits_per_sequence(one, logits)[0], rtol=1e-4)
    np.testing.assert_allclose(scores[3, 1], wrong_bits(one, logits)[0])


@pytest.mark.slow
def test_an_lstm_learns_to_copy_one_element():
    task = CopyTask(1, 1, bits=2)
    learner = small_learner(task)
    learner.compile(keras.optimizers.Adam(0.02), jit_compile=False)
    before = learner.sequence_scores(sampler(task).fixed(50, 50))
    history = learner.fit(sampler(task).dataset(16), steps_per_epoch=150, epochs=1, verbose=0)
    after = learner.sequence_scores(sampler(task).fixed(50, 50))
    assert before[:, 0].mean() == pytest.approx(2, abs=0.5)
    assert after[:, 0].mean() < 0.3
    assert set(history.history) == {"loss", "wrong_bits"}


def test_saved_and_loaded_whole(tmp_path):
    task = CopyTask(1, 2)
    learner = small_learner(task)
    learner.save(tmp_path / "learner.keras")
    loaded = keras.models.load_model(tmp_path / "learner.keras")
    inputs = task.sample((0, 0), 2).inputs
    np.testing.assert_allclose(loaded(inputs), learner(inputs), rtol=1e-5)
