"""The fused layer against Keras's own."""

from common.fused_normalization import FusedBatchNormalization

import keras
import numpy as np
import pytest
import tensorflow as tf


@pytest.fixture
def images():
    random = np.random.default_rng(0)
    return tf.constant(random.normal(2.0, 3.0, size=(6, 5, 4, 3)), tf.float32)


def pair(**options):
    """Keras's layer and ours, with the same gain and offset."""
    layers = keras.layers.BatchNormalization(**options), FusedBatchNormalization(**options)
    random = np.random.default_rng(1)
    for layer in layers:
        layer.build((None, 5, 4, 3))
    values = [random.uniform(0.5, 1.5, 3) for _ in layers[0].trainable_variables]
    for layer in layers:
        for variable, value in zip(layer.trainable_variables, values, strict=True):
            variable.assign(value)
    return layers


def outputs_and_gradients(layer, images):
    with tf.GradientTape() as tape:
        tape.watch(images)
        outputs = layer(images, training=True)
        loss = tf.reduce_sum(tf.sin(outputs))
    sources = [images, *(v.value for v in layer.trainable_variables)]
    return [outputs, *tape.gradient(loss, sources)]


@pytest.mark.parametrize("options", [{}, {"scale": False}, {"center": False}, {"epsilon": 0.1}])
def test_same_outputs_and_gradients(images, options):
    theirs, ours = (outputs_and_gradients(layer, images) for layer in pair(**options))
    assert len(ours) == len(theirs)
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(our, their, rtol=1e-4, atol=1e-4)


def test_moving_averages_take_in_the_unbiased_variance(images):
    theirs, ours = pair(momentum=0.9)
    for layer in (theirs, ours):
        layer(images, training=True)
    np.testing.assert_allclose(ours.moving_mean, theirs.moving_mean, rtol=1e-5)
    flat = images.numpy().reshape(-1, 3)
    expected = 0.9 * 1 + 0.1 * flat.var(axis=0, ddof=1)
    np.testing.assert_allclose(ours.moving_variance, expected, rtol=1e-5)


def test_outside_training_it_is_kerass_layer(images):
    theirs, ours = pair()
    for layer in (theirs, ours):
        layer.moving_mean.assign([1.0, 2.0, 3.0])
        layer.moving_variance.assign([4.0, 5.0, 6.0])
    np.testing.assert_allclose(ours(images), theirs(images), rtol=1e-6)
    ours.trainable = False
    np.testing.assert_allclose(ours(images, training=True), theirs(images), rtol=1e-6)


def test_saved_and_loaded_layers_agree(images, tmp_path):
    inputs = keras.Input((5, 4, 3))
    model = keras.Model(inputs, FusedBatchNormalization(momentum=0.9)(inputs))
    model(images, training=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.layers[-1].momentum == 0.9
    np.testing.assert_allclose(loaded(images), model(images), rtol=1e-6)


def test_fewer_bits(images):
    exact = FusedBatchNormalization()(images, training=True)
    coarse = FusedBatchNormalization(dtype="mixed_bfloat16")(images, training=True)
    assert coarse.dtype == tf.bfloat16
    np.testing.assert_allclose(tf.cast(coarse, tf.float32), exact, atol=0.05)
