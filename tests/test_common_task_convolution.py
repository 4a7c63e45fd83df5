"""Every way to convolve with a filter for each task equals `tf.nn.conv2d`, one task at a time."""

from common import task_convolution as ours
from common.task_convolution import FEW_EXAMPLES, fold, folded_form, unfold

import numpy as np
import pytest
import tensorflow as tf

TASKS = 3
# height, width, kernel, strides, padding, dilations, channels, filters
SHAPES = {
    "even, strided": (6, 8, (3, 3), (2, 2), "same", (1, 1), 2, 4),
    "odd, strided": (7, 5, (3, 3), (2, 2), "same", (1, 1), 2, 4),
    "odd and even": (7, 6, (3, 3), (1, 1), "same", (1, 1), 1, 3),
    "valid": (6, 7, (3, 2), (1, 1), "valid", (1, 1), 2, 2),
    "valid, strided": (8, 9, (2, 3), (2, 3), "valid", (1, 1), 2, 3),
    "one pixel": (4, 5, (1, 1), (2, 2), "same", (1, 1), 3, 2),
    "even kernel": (5, 6, (4, 2), (1, 2), "same", (1, 1), 2, 2),
    "larger than the image": (2, 2, (3, 3), (2, 2), "same", (1, 1), 2, 2),
    "dilated": (9, 8, (3, 3), (1, 1), "same", (2, 2), 2, 3),
    "dilated, valid": (9, 8, (3, 2), (1, 1), "valid", (2, 3), 2, 3),
    "dilated, strided": (9, 8, (3, 3), (2, 2), "same", (2, 2), 2, 3),
}


def loop(inputs, kernel, strides, padding, dilations):
    """`tf.nn.conv2d` for each task; its filter is dilated by hand, which any device can do."""
    tasks, height, width, channels, filters = kernel.shape
    spread = kernel[:, :, None, :, None]
    zeros = [[0, 0], [0, 0], [0, dilations[0] - 1], [0, 0], [0, dilations[1] - 1], [0, 0], [0, 0]]
    height, width = height * dilations[0], width * dilations[1]
    spread = tf.reshape(tf.pad(spread, zeros), [tasks, height, width, channels, filters])
    spread = spread[:, : height - dilations[0] + 1, : width - dilations[1] + 1]
    return tf.stack(
        [tf.nn.conv2d(inputs[t], spread[t], strides, padding.upper()) for t in range(len(inputs))]
    )


def patches(inputs, kernel, strides, padding, dilations):
    return ours.patch_convolution(inputs, kernel, strides, padding.upper(), dilations)


def groups(inputs, kernel, strides, padding, dilations):
    folded = ours.grouped_convolution(fold(inputs), kernel, strides, padding.upper(), dilations)
    return unfold(folded, TASKS)


def drawn(shape, examples=4, dtype="float64"):
    height, width, kernel, *_, channels, filters = shape
    random = np.random.default_rng(0)
    inputs = random.normal(size=(TASKS, examples, height, width, channels))
    kernels = random.normal(size=(TASKS, *kernel, channels, filters)) / channels
    return tf.constant(inputs, dtype), tf.constant(kernels, dtype)


def derivatives(convolve, tensors, options):
    """The output, its gradients in input and filter, and theirs."""
    with tf.GradientTape() as outer:
        outer.watch(tensors)
        with tf.GradientTape() as inner:
            inner.watch(tensors)
            output = convolve(*tensors, *options)
            value = tf.reduce_sum(tf.sin(output))
        first = inner.gradient(value, tensors)
        value = tf.add_n([tf.reduce_sum(tf.sin(gradient)) for gradient in first])
    return [output, *first, *outer.gradient(value, tensors)]


def assert_equal_to_loop(convolve, shape, tolerance, **options):
    tensors = drawn(shape, **options)
    found = derivatives(convolve, tensors, shape[3:6])
    expected = derivatives(loop, tensors, shape[3:6])
    names = ("output", "d input", "d filter", "dd input", "dd filter")
    for name, a, b in zip(names, found, expected):
        scale = np.abs(b).max()
        np.testing.assert_allclose(a / scale, b / scale, rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("name", SHAPES)
def test_patches_equal_a_loop(name):
    assert_equal_to_loop(patches, SHAPES[name], 1e-11)


@pytest.mark.parametrize("name", [name for name in SHAPES if "dilated" not in name])
def test_groups_equal_a_loop(name):
    if not ours.grouped_convolution_works():
        pytest.skip("this machine cannot differentiate grouped convolutions")
    assert_equal_to_loop(groups, SHAPES[name], 1e-4, dtype="float32")


def derivatives_of_shared(repeat, convolve, inputs, kernel, options):
    """As in an inner step: every task's gradient of one kernel, and its derivative in that one."""
    with tf.GradientTape() as outer:
        outer.watch([inputs, kernel])
        repeated = repeat(kernel, TASKS)
        with tf.GradientTape() as inner:
            inner.watch([inputs, repeated])
            output = convolve(inputs, repeated, *options)
            value = tf.reduce_sum(tf.sin(output))
        first = inner.gradient(value, [inputs, repeated])
        # The kernel is used again in the next step, each task's on its own way.
        moved = convolve(inputs, repeated - 0.1 * first[1], *options)
        value = tf.add_n([tf.reduce_sum(tf.sin(tensor)) for tensor in (*first, moved)])
    return [output, *first, *outer.gradient(value, [inputs, kernel])]


@pytest.mark.parametrize("works", [True, False], ids=["groups", "no groups"])
@pytest.mark.parametrize("examples", [1, 4, FEW_EXAMPLES + 1])
@pytest.mark.parametrize("name", SHAPES)
def test_shared_filters_equal_a_loop(name, examples, works, monkeypatch):
    if not (works and ours.grouped_convolution_works()):
        monkeypatch.setattr(ours, "grouped_convolution_works", lambda *_: False)
    inputs, kernels = drawn(SHAPES[name], examples, "float32")
    options = SHAPES[name][3:6]
    in_graph = tf.function(
        lambda *tensors: derivatives_of_shared(ours.share, ours.task_convolution, *tensors, options)
    )
    found = in_graph(inputs, kernels[0])

    def repeat(kernel, n_tasks):
        return tf.stack([kernel] * n_tasks)

    expected = derivatives_of_shared(repeat, loop, inputs, kernels[0], options)
    names = ("output", "d input", "d filters", "dd input", "dd filter")
    for part, a, b in zip(names, found, expected):
        scale = np.abs(b).max()
        np.testing.assert_allclose(a / scale, b / scale, rtol=0, atol=1e-4, err_msg=part)


@pytest.mark.parametrize("name", ["odd, strided", "valid", "even kernel"])
def test_shared_filters_as_if_each_task_had_its_own(name):
    """Derivatives in the repeated filters themselves are each task's own, of any order."""
    inputs, kernels = drawn(SHAPES[name], dtype="float64")
    repeated = ours.share(kernels[0], TASKS)
    apart = repeated + 0.0
    assert ours.shared_form(apart) is None
    options = SHAPES[name][3:6]
    found = derivatives(ours.task_convolution, [inputs, repeated], options)
    expected = derivatives(loop, [inputs, apart], options)
    for a, b in zip(found, expected):
        np.testing.assert_allclose(a, b, atol=1e-10)


@pytest.mark.parametrize("works", [True, False])
@pytest.mark.parametrize("examples", [1, FEW_EXAMPLES, FEW_EXAMPLES + 1])
@pytest.mark.parametrize("name", ["odd, strided", "valid", "dilated"])
def test_choice_does_not_change_the_result(name, examples, works, monkeypatch):
    if not (works and ours.grouped_convolution_works()):
        monkeypatch.setattr(ours, "grouped_convolution_works", lambda *_: False)
    assert_equal_to_loop(
        ours.task_convolution, SHAPES[name], 1e-4, examples=examples, dtype="float32"
    )


@pytest.mark.parametrize("name", ["even, strided", "valid", "dilated, strided"])
def test_patches_against_finite_differences(name):
    """Independently of any derivative of TensorFlow's, along a random direction."""
    tensors, options = drawn(SHAPES[name], examples=2), SHAPES[name][3:6]
    random = np.random.default_rng(1)
    directions = [tf.constant(random.normal(size=tensor.shape)) for tensor in tensors]
    step = 1e-5

    def moved(sign):
        return [tensor + sign * step * d for tensor, d in zip(tensors, directions)]

    def value(tensors):
        return tf.reduce_sum(tf.sin(patches(*tensors, *options)))

    def gradients(tensors):
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            result = value(tensors)
        return tape.gradient(result, tensors)

    def slope(gradients):
        return tf.add_n([tf.reduce_sum(g * d) for g, d in zip(gradients, directions)])

    difference = (value(moved(1)) - value(moved(-1))) / (2 * step)
    np.testing.assert_allclose(slope(gradients(tensors)), difference, rtol=1e-6)
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        first = slope(gradients(tensors))
    for exact, ahead, behind in zip(
        tape.gradient(first, tensors), gradients(moved(1)), gradients(moved(-1))
    ):
        np.testing.assert_allclose(exact, (ahead - behind) / (2 * step), atol=1e-6)


def test_groups_within_a_task():
    if not ours.grouped_convolution_works():
        pytest.skip("this machine cannot differentiate grouped convolutions")
    random = np.random.default_rng(0)
    inputs = tf.constant(random.normal(size=(TASKS, 2, 5, 5, 4)), tf.float32)
    kernel = tf.constant(random.normal(size=(TASKS, 3, 3, 2, 6)), tf.float32)
    found = ours.task_convolution(inputs, kernel, (1, 1), "same", (1, 1), groups=2)
    halves = [
        loop(inputs[..., 2 * g : 2 * g + 2], kernel[..., 3 * g : 3 * g + 3], (1, 1), "same", (1, 1))
        for g in range(2)
    ]
    np.testing.assert_allclose(found, tf.concat(halves, -1), atol=1e-5)


def test_number_of_examples_may_be_unknown():
    inputs, kernel = drawn(SHAPES["odd, strided"], examples=5, dtype="float32")
    options = SHAPES["odd, strided"][3:6]
    open_inputs = tf.TensorSpec((TASKS, None, *inputs.shape[2:]), tf.float32)

    @tf.function(input_signature=[open_inputs, tf.TensorSpec(kernel.shape)])
    def convolve(inputs, kernel):
        return ours.task_convolution(inputs, kernel, *options)

    np.testing.assert_allclose(convolve(inputs, kernel), loop(inputs, kernel, *options), atol=1e-5)


def test_fold_and_unfold_are_inverse():
    plain = tf.constant(np.random.default_rng(0).normal(size=(TASKS, 4, 2, 5, 7)))
    folded = fold(plain)
    assert folded.shape == (4, 2, 5, TASKS * 7)
    np.testing.assert_array_equal(folded[1, 0, 2, 7:14], plain[1, 1, 0, 2])  # task 1 comes second
    again = unfold(folded, TASKS)
    np.testing.assert_array_equal(again, plain)
    assert folded_form(plain) is None
    assert folded_form(again) is folded
    assert fold(again) is folded
