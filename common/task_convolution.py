"""Convolutions in which every task has a filter of its own.

TensorFlow has no such operation, but its operations can be made to do it:

- `grouped_convolution`: lay the tasks side by side in the channel axis, the *folded* layout;
  then it is one grouped convolution, with a group of channels for each task.
- `patch_convolution`: cut out the patches under the filter, then one batched matrix product;
  where grouped convolutions do not work (float64, or a machine without oneDNN).
- `shared_convolution`: in the first inner step all tasks have the same filters still. Then it is
  one ordinary convolution over the images of all tasks, and only the gradient of the filters
  differs from task to task. Of the nine products that a support item costs in an outer step, four
  are ordinary.

    plain layout     (tasks, examples, height, width, channels)
    folded layout    (examples, height, width, tasks * channels)

Where layer follows layer in the folded layout nothing is moved, since poolings and batch
normalisations treat every channel by itself. A tensor carries its folded form with it, and repeated
filters the ones that were repeated; an operation that drops these costs time, nothing else.
`tests/benchmarks/outer_step.py` measures the ways against each other.
"""

from functools import cache

import numpy as np
import tensorflow as tf

FEW_EXAMPLES = 25  # up to so many a task, the gradient of shared filters is taken by patches


def task_convolution(inputs, kernel, strides, padding, dilations, groups=1):
    """Convolve the examples of each task with the task's own filters.

    Args:
        inputs: `(tasks, examples, height, width, channels)`.
        kernel: `(tasks, kernel_height, kernel_width, channels // groups, filters)`.
        strides: Two integers.
        padding: `"valid"` or `"same"`.
        dilations: Two integers.
        groups: Groups of channels within each task; more than one needs grouped convolutions.

    Returns:
        `(tasks, examples, new_height, new_width, filters)`.
    """
    options = (tuple(strides), padding.upper(), tuple(dilations))
    shared = shared_form(kernel)
    if shared is not None and groups == 1 and max(dilations) == 1:
        if shared_for_good(kernel) is not None:
            merged = tf.reshape(inputs, [-1, *inputs.shape[2:]])
            maps = tf.nn.conv2d(merged, shared, *options[:2])
            return tf.reshape(maps, [kernel.shape[0], -1, *maps.shape[1:]])
        return shared_convolution(inputs, kernel, shared, *options[:2])
    dilated = max(dilations) > 1  # TensorFlow cannot differentiate these on a CPU
    if groups == 1 and (dilated or not grouped_convolution_works(kernel.dtype)):
        return patch_convolution(inputs, kernel, *options)
    folded = grouped_convolution(fold(inputs), kernel, *options)
    return unfold(folded, kernel.shape[0])


def patch_convolution(inputs, kernel, strides, padding, dilations):
    """`task_convolution` as patches times filters, in the plain layout."""
    n_tasks, filters = kernel.shape[0], kernel.shape[-1]
    patches, places = patches_of(inputs, kernel.shape[1:3], strides, padding, dilations)
    outputs = patches @ tf.reshape(kernel, [n_tasks, -1, filters])
    outputs = tf.reshape(outputs, [n_tasks, -1, places[0] * places[1] + 1, filters])
    return tf.reshape(outputs[:, :, :-1], [n_tasks, -1, *places, filters])


def shared_convolution(inputs, kernel, shared, strides, padding):
    """`task_convolution` where all tasks still have the same filters: one ordinary convolution.

    Only the gradient of the filters differs from task to task. So it is in the first inner step.

    Args:
        kernel: `(tasks, kernel_height, kernel_width, channels, filters)`, `shared` repeated.
        shared: `(kernel_height, kernel_width, channels, filters)`.
    """
    n_tasks = inputs.shape[0]
    options = {"strides": [1, *strides, 1], "padding": padding}

    def merge(maps):
        return tf.reshape(maps, [-1, *maps.shape[2:]])

    def split(maps):
        return tf.reshape(maps, [n_tasks, -1, *maps.shape[1:]])

    image_shape = tf.shape(merge(inputs))

    # Each of the two is the other's transpose, so any order of derivative stays within them, and
    # every derivative in the filters is told task by task.

    @tf.custom_gradient
    def convolve(inputs, kernel):
        def gradient(outputs_gradient):
            to_kernel = filter_gradient(inputs, outputs_gradient, kernel.shape, strides, padding)
            return transpose(outputs_gradient, kernel), to_kernel

        return split(tf.nn.conv2d(merge(inputs), shared, **options)), gradient

    @tf.custom_gradient
    def transpose(outputs, kernel):
        images = tf.raw_ops.Conv2DBackpropInput(
            input_sizes=image_shape, filter=shared, out_backprop=merge(outputs), **options
        )
        images.set_shape([None, *inputs.shape[2:]])

        def gradient(images_gradient):
            to_kernel = filter_gradient(images_gradient, outputs, kernel.shape, strides, padding)
            return convolve(images_gradient, kernel), to_kernel

        return split(images), gradient

    return convolve(inputs, kernel)


def filter_gradient(inputs, outputs_gradient, kernel_shape, strides, padding):
    """Gradient of every task's filters, `kernel_shape`, from that of the outputs."""
    n_tasks, height, width, depth, filters = kernel_shape
    few = inputs.shape[1] is not None and inputs.shape[1] <= FEW_EXAMPLES
    if not few and grouped_convolution_works(inputs.dtype):
        side_by_side = tf.raw_ops.Conv2DBackpropFilter(
            input=fold(inputs),
            filter_sizes=[height, width, depth, n_tasks * filters],
            out_backprop=fold(outputs_gradient),
            strides=[1, *strides, 1],
            padding=padding,
        )
        split = tf.reshape(side_by_side, [height, width, depth, n_tasks, filters])
        return tf.transpose(split, [3, 0, 1, 2, 4])
    patches, places = patches_of(inputs, kernel_shape[1:3], strides, padding, (1, 1))
    columns = tf.reshape(outputs_gradient, [n_tasks, -1, places[0] * places[1], filters])
    columns = tf.pad(columns, [[0, 0], [0, 0], [0, 1], [0, 0]])  # nothing from the extra patch
    columns = tf.reshape(columns, [n_tasks, -1, filters])
    return tf.reshape(tf.matmul(patches, columns, transpose_a=True), kernel_shape)


def patches_of(inputs, kernel_size, strides, padding, dilations):
    """All patches under a filter.

    Returns:
        The patches, `(tasks, examples * (places + 1), height * width * channels)`, with one more
        for each example, to be ignored (see `gather_patches`), and the rows and columns of places.
    """
    n_tasks, _, height, width, channels = inputs.shape
    (kernel_height, kernel_width) = kernel_size
    rows, row_pads = _window((height, kernel_height, strides[0], dilations[0]), padding)
    columns, column_pads = _window((width, kernel_width, strides[1], dilations[1]), padding)
    images = tf.reshape(inputs, [-1, height, width, channels])
    images = tf.pad(images, [[0, 0], row_pads, column_pads, [0, 0]])
    padded_width = images.shape[2]
    # The pixels under the filter, for every place of it: (rows, columns, tall, wide).
    pixels = rows[:, None, :, None] * padded_width + columns[None, :, None, :]
    pixels = pixels.reshape(-1, kernel_height * kernel_width)
    patches = gather_patches(
        tf.reshape(images, [-1, images.shape[1] * padded_width, channels]), pixels
    )
    return tf.reshape(patches, [n_tasks, -1, patches.shape[-1]]), (len(rows), len(columns))


def gather_patches(images, pixels):
    """Patches of images, with a gradient that is gathered, too, instead of scattered.

    Each of the two is the other's transpose, so any order of derivative stays within them. There
    is one patch more than asked for, which the caller must throw away. Its gradient then is zero,
    and a pixel that lies in fewer patches than others takes it in place of those it lacks.

    Args:
        images: `(images, pixels, channels)`.
        pixels: NumPy integers `(patches, size)`, the pixels of each patch.

    Returns:
        `(images, patches + 1, size * channels)`, the last patch to be ignored.
    """
    n_patches, size = pixels.shape
    n_pixels, channels = images.shape[1:]
    indices = np.append(pixels.ravel(), [0] * size)
    uses = _uses_of_pixels(tuple(pixels.ravel().tolist()), n_pixels)  # (most uses, pixels)

    @tf.custom_gradient
    def gather(images):
        gathered = tf.gather(images, indices, axis=1)
        return tf.reshape(gathered, [-1, n_patches + 1, size * channels]), transpose

    @tf.custom_gradient
    def transpose(patches):
        pieces = tf.reshape(patches, [-1, (n_patches + 1) * size, channels])
        return tf.add_n([tf.gather(pieces, use, axis=1) for use in uses]), gather

    return gather(images)


def grouped_convolution(folded, kernel, strides, padding, dilations):
    """`task_convolution` in the folded layout, `(examples, height, width, tasks * channels)`."""
    n_tasks, height, width, depth, filters = kernel.shape
    side_by_side = tf.transpose(kernel, [1, 2, 3, 0, 4])
    side_by_side = tf.reshape(side_by_side, [height, width, depth, n_tasks * filters])
    return tf.nn.conv2d(folded, side_by_side, strides, padding, dilations=dilations)


@cache
def grouped_convolution_works(dtype=tf.float32) -> bool:
    """Whether this machine differentiates grouped convolutions of that type.

    A CPU does with oneDNN, in float32 but not in float64. Tried once, on a tiny one.
    """
    shape, kernel_shape = [1, 3, 3, 4], [3, 3, 2, 4]  # two groups
    with tf.init_scope():  # at once, also where a graph is being made
        maps, kernel = tf.ones(shape, dtype), tf.ones(kernel_shape, dtype)
        options = {"out_backprop": maps, "strides": [1, 1, 1, 1], "padding": "SAME"}
        try:
            tf.raw_ops.Conv2DBackpropInput(input_sizes=shape, filter=kernel, **options)
            tf.raw_ops.Conv2DBackpropFilter(input=maps, filter_sizes=kernel_shape, **options)
        except (tf.errors.OpError, NotImplementedError):
            return False
        return True


def fold(plain):
    """From the plain to the folded layout; free for what `unfold` returned."""
    folded = folded_form(plain)
    if folded is None:
        _, _, height, width, _ = plain.shape
        moved = tf.transpose(plain, [1, 2, 3, 0, 4])
        folded = tf.reshape(moved, [-1, height, width, plain.shape[0] * plain.shape[4]])
    return folded


def unfold(folded, n_tasks):
    """From the folded to the plain layout; the result remembers its folded form."""
    _, height, width, channels = folded.shape
    split = tf.reshape(folded, [-1, height, width, n_tasks, channels // n_tasks])
    plain = tf.transpose(split, [3, 0, 1, 2, 4])
    plain._folded_form = folded
    return plain


def folded_form(plain):
    """The folded maps that `plain` was unfolded from, or None."""
    return getattr(plain, "_folded_form", None)


def share(weight, n_tasks, for_good=False):
    """The weight once for every task, `(n_tasks, *shape)`; the result remembers it.

    Args:
        weight: Tensor of any shape.
        n_tasks: Number of tasks.
        for_good: Whether nobody will ask for derivatives by the weight of a single task. What
            computes with the weight may then take the one instead of the many.
    """
    repeated = tf.broadcast_to(weight, (n_tasks, *weight.shape))
    repeated._shared_form, repeated._shared_for_good = weight, for_good
    return repeated


def shared_form(repeated):
    """The one weight that `repeated` consists of, or None."""
    return getattr(repeated, "_shared_form", None)


def shared_for_good(repeated):
    """The one weight that `repeated` consists of, if that may stand in its place, or None."""
    return shared_form(repeated) if getattr(repeated, "_shared_for_good", False) else None


def _window(axis, padding):
    """Indices under the filter along one padded axis, `(places, kernel)`, and the padding."""
    size, kernel, stride, dilation = axis
    reach = (kernel - 1) * dilation + 1
    if padding == "SAME":
        places = -(-size // stride)
        missing = max((places - 1) * stride + reach - size, 0)
    else:
        places, missing = (size - reach) // stride + 1, 0
    indices = np.arange(places)[:, None] * stride + np.arange(kernel)[None, :] * dilation
    return indices, (missing // 2, missing - missing // 2)


@cache
def _uses_of_pixels(pixels, n_pixels):
    """Where in `pixels` each pixel stands, filled up with `len(pixels)`: (most, n_pixels)."""
    uses = [[] for _ in range(n_pixels)]
    for place, pixel in enumerate(pixels):
        uses[pixel].append(place)
    most = max(len(places) for places in uses)
    filled = [places + [len(pixels)] * (most - len(places)) for places in uses]
    return np.array(filled, np.int32).T
