"""The networks of the chapters: plain Keras models, to be read, changed and replaced."""

from common.context import AppendContext, FiLM
from common.errors import UserError
from common.fused_normalization import FusedBatchNormalization

import keras
from keras import layers


def mlp(
    inputs=1, hidden=(40, 40), outputs=1, *, initializer="glorot_uniform", context_size=0, seed=0
):
    """A multilayer perceptron with ReLU between its layers.

    With its defaults it is the sine network of MAML (Finn et al. 2017, section 5.1): 1-40-40-1,
    1,761 parameters.

    Args:
        inputs: Number of input features.
        hidden: Units of each hidden layer.
        outputs: Number of outputs; they stay linear.
        initializer: Name of the Keras initialiser of the kernels, or an instance.
        context_size: Numbers of context to append to the inputs (`common.context`); 0 for none.
        seed: Seed of the initial weights.

    Returns:
        A `keras.Model` from `(examples, inputs)` to `(examples, outputs)`.
    """
    x = features = keras.Input((inputs,))
    if context_size:
        x = AppendContext(context_size)(x)
    for index, units in enumerate(hidden):
        kernel = _initializer(initializer, seed + index)
        x = layers.Dense(units, activation="relu", kernel_initializer=kernel)(x)
    kernel = _initializer(initializer, seed + len(hidden))
    return keras.Model(features, layers.Dense(outputs, kernel_initializer=kernel)(x), name="mlp")


def conv4(
    input_shape=(28, 28, 1), outputs=5, *, filters=64, strided=True, norm="batch", blocks=4,
    context_size=0, seed=0,
):  # fmt: skip
    """Four blocks of 3 x 3 convolution, normalisation and ReLU, then a linear layer.

    The network of nearly all few-shot papers, in its two forms: `strided` (MAML on Omniglot,
    Finn et al. 2017, section 5.2: stride 2, no pooling) and with 2 x 2 max-pooling after each
    block (Vinyals et al. 2016, Snell et al. 2017, MAML on miniImageNet).

    Args:
        input_shape: `(height, width, channels)` of an image.
        outputs: Number of logits; None leaves the linear layer out: an embedding.
        filters: Filters of each convolution.
        strided: Stride 2 instead of max-pooling.
        norm: `"batch"`, `"fused"` (the same by a kernel that takes half the time, for learners
            without inner steps), `"layer"` (each image by itself, so that the examples of a batch
            do not influence one another) or `"none"`.
        blocks: Number of blocks.
        context_size: Numbers of context that scale and shift the maps of the third block, or of
            the last if there are fewer (`common.context.FiLM`); 0 for none.
        seed: Seed of the initial weights.

    Returns:
        A `keras.Model` from `(examples, height, width, channels)` to `(examples, outputs)`.

    Raises:
        UserError: If `norm` is none of these, or the image is too small to pool it so often.
    """
    if not strided and min(input_shape[:2]) < 2**blocks:
        raise UserError(
            f"An image must have at least {2**blocks} x {2**blocks} pixels to be pooled {blocks} "
            f"times; got {input_shape[0]} x {input_shape[1]}. Use strided=True or larger images."
        )
    x = images = keras.Input(input_shape)
    for block in range(blocks):
        kernel = _initializer("glorot_uniform", seed + block)
        stride = 2 if strided else 1
        x = layers.Conv2D(
            filters, 3, stride, padding="same", kernel_initializer=kernel,
            use_bias=norm not in ("batch", "fused"),  # its mean would be subtracted again
        )(x)  # fmt: skip
        x = normalization(norm)(x)
        if context_size and block == min(2, blocks - 1):
            kernel = _initializer("glorot_uniform", seed + blocks + 1)
            x = FiLM(context_size, kernel_initializer=kernel)(x)
        x = layers.ReLU()(x)
        if not strided:
            x = layers.MaxPooling2D()(x)
    x = layers.Flatten()(x)
    if outputs is not None:
        kernel = _initializer("glorot_uniform", seed + blocks)
        x = layers.Dense(outputs, kernel_initializer=kernel)(x)
    return keras.Model(images, x, name="conv4")


def normalization(norm):
    """A new layer of the kind that `conv4` calls `norm`.

    Raises:
        UserError: If there is no such kind.
    """
    norms = {
        "batch": layers.BatchNormalization,
        "fused": lambda: FusedBatchNormalization(momentum=0.9),  # PyTorch's, as in the papers' code
        "layer": lambda: layers.LayerNormalization(axis=(-3, -2, -1)),
        "none": layers.Identity,
    }
    if norm not in norms:
        raise UserError(f"norm must be one of {', '.join(norms)}; got {norm!r}.")
    return norms[norm]()


def with_linear(network, outputs, *, name=None, seed=0):
    """The network with normalised linear functions of its features behind them.

    Batch normalisation gives them a spread of 1 from the start.

    Args:
        network: A built Keras model to `(examples, features)`.
        outputs: Number of linear functions.
        name: Name of the new layer.
        seed: Seed of its initial weights.

    Returns:
        A `keras.Model` to `(examples, features + outputs)`.
    """
    kernel = _initializer("glorot_uniform", seed)
    linear = layers.Dense(outputs, use_bias=False, kernel_initializer=kernel, name=name)
    normalised = layers.BatchNormalization(momentum=0.9)(linear(network.output))
    joined = layers.Concatenate()([network.output, normalised])
    return keras.Model(network.input, joined, name=network.name)


def _initializer(initializer, seed):
    """A seeded initialiser, so that the same seed gives the same network."""
    if not isinstance(initializer, str):
        return initializer
    return keras.initializers.get({"class_name": initializer, "config": {"seed": seed}})
