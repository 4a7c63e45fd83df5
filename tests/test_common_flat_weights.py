"""The weights of many tasks as rows of numbers."""

from common.flat_weights import flatten, unflatten

import keras
import numpy as np
import tensorflow as tf


def test_there_and_back():
    variables = [keras.Variable(np.zeros(shape)) for shape in ((2, 3), (), (4,))]
    tensors = [tf.random.normal((5, *v.shape)) for v in variables]
    rows = flatten(tensors)
    assert rows.shape == (5, 2 * 3 + 1 + 4)
    np.testing.assert_array_equal(rows[1, :6], np.ravel(tensors[0][1]))  # a task a row
    for ours, theirs in zip(unflatten(rows, variables), tensors, strict=True):
        np.testing.assert_array_equal(ours, theirs)
