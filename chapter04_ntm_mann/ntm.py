"""Neural Turing machine: a network that reads and writes an external memory by soft attention.

Alex Graves, Greg Wayne, Ivo Danihelka (2014), arXiv:1410.5401.
"""

from common.errors import UserError

import keras
import tensorflow as tf

# Addressing. `memory` is (batch, N, M): N rows of width M. `weightings` are (batch, heads, N).


def cosine_similarity(memory, keys):
    """K[k, M(i)], equation 6: the cosine of the angle between key and row.

    A row or key shorter than 0.001 counts as shorter still: its cosine goes to 0 with its length,
    where the equation has 0 / 0, and the gradient stays finite.

    Args:
        memory: `(batch, N, M)`.
        keys: `(batch, heads, M)`.

    Returns:
        `(batch, heads, N)`, from -1 to 1.
    """
    rows, keys = (tf.math.l2_normalize(part, -1, epsilon=1e-6) for part in (memory, keys))
    return tf.matmul(keys, rows, transpose_b=True)


def content_weightings(memory, keys, strengths):
    """w_c, equation 5: a softmax of the similarities, sharper the greater the strength beta.

    Args:
        memory: `(batch, N, M)`.
        keys: k, `(batch, heads, M)`.
        strengths: beta, `(batch, heads)`, not negative.

    Returns:
        `(batch, heads, N)`; rows sum to 1.
    """
    return tf.nn.softmax(strengths[..., None] * cosine_similarity(memory, keys))


def interpolate(content, previous, gates):
    """w_g = g w_c + (1 - g) w_{t-1}, equation 7; `gates` g are `(batch, heads)` in 0..1."""
    return gates[..., None] * content + (1 - gates[..., None]) * previous


def shift(weightings, shifts):
    """w~(i) = sum_j w_g(j) s(i - j), equation 8, around the end: a circular convolution.

    Args:
        weightings: `(batch, heads, N)`.
        shifts: s, `(batch, heads, 2 r + 1)`: the shares of the shifts -r, ..., 0, ..., r.

    Returns:
        `(batch, heads, N)`.
    """
    reach = shifts.shape[-1] // 2
    moved = [tf.roll(weightings, offset, axis=-1) for offset in range(-reach, reach + 1)]
    return sum(shifts[..., k, None] * one for k, one in enumerate(moved))


def sharpen(weightings, gammas):
    """w(i) = w~(i)^gamma / sum_j w~(j)^gamma, equation 9.

    Computed as a softmax of gamma ln w~: neither a sum of powers that are all 0 in float32 nor
    the gradient of 0^gamma can then give NaN.

    Args:
        weightings: `(batch, heads, N)`, not negative.
        gammas: gamma, `(batch, heads)`, at least 1.

    Returns:
        `(batch, heads, N)`; rows sum to 1.
    """
    return tf.nn.softmax(gammas[..., None] * tf.math.log(tf.maximum(weightings, 1e-30)))


def write(memory, weightings, erase, add):
    """M(i) = M~(i) + w(i) a, equation 4, after M~(i) = M(i) [1 - w(i) e], equation 3.

    Args:
        memory: `(batch, N, M)`.
        weightings: Of the write heads, `(batch, heads, N)`.
        erase: e, `(batch, heads, M)` in 0..1.
        add: a, `(batch, heads, M)`.

    Returns:
        The memory after all heads have erased, and then all have added; `(batch, N, M)`.
    """
    for head in range(weightings.shape[1]):
        memory *= 1 - weightings[:, head, :, None] * erase[:, head, None, :]
    return memory + tf.matmul(weightings, add, transpose_a=True)


def read(memory, weightings):
    """r = sum_i w(i) M(i), equation 2: `(batch, heads, M)`."""
    return tf.matmul(weightings, memory)


@keras.saving.register_keras_serializable("meta_learning")
class NTMCell(keras.layers.Layer):
    """One time step of a neural Turing machine, to be used in `keras.layers.RNN`.

    Its output is `(batch, units + read_heads * width)`: what the controller says, and what was
    read; a `Dense` layer behind the RNN makes the machine's outputs of them. States: memory
    `(batch, N, M)`, weightings `(batch, heads, N)` (those of read heads first), what was read
    `(batch, read_heads, M)`, and the two states of an LSTM controller.

    Args:
        rows: N, rows of the memory.
        width: M, numbers in a row.
        read_heads, write_heads: Number of heads.
        controller: `"lstm"` or `"feedforward"`.
        units: Units of the controller.
        reach: Greatest shift of a head in one step, r.
        memory: What each sequence begins with: `"constant"` (every number 1e-6), `"learned"`, or
            `"random"` (drawn once and kept).
        seed: Seed of the initial weights.

    Raises:
        UserError: If a number is out of its range or a name unknown.
    """

    def __init__(
        self, rows=128, width=20, *, read_heads=1, write_heads=1, controller="lstm", units=100,
        reach=1, memory="constant", seed=0, **options,
    ):  # fmt: skip
        super().__init__(**options)
        numbers = {"rows": rows, "width": width, "read_heads": read_heads,
                   "write_heads": write_heads, "units": units}  # fmt: skip
        for name, value in numbers.items():
            if value < 1:
                raise UserError(f"{name} must be at least 1; got {value}.")
        if not 0 <= 2 * reach < rows:
            raise UserError(f"reach must be from 0 to {(rows - 1) // 2} ({rows=}); got {reach}.")
        for name, value, known in (
            ("controller", controller, ("lstm", "feedforward")),
            ("memory", memory, ("constant", "learned", "random")),
        ):
            if value not in known:
                raise UserError(f"{name} must be one of {', '.join(known)}; got {value!r}.")
        self.settings = {**numbers, "controller": controller, "reach": reach, "memory": memory,
                         "seed": seed}  # fmt: skip
        self.rows, self.width, self.units, self.reach = rows, width, units, reach
        self.read_heads, self.write_heads = read_heads, write_heads
        heads = read_heads + write_heads
        # Of every head: key, beta, g, s, gamma; then erase and add of the write heads.
        self.sizes = [heads * n for n in (width, 1, 1, 2 * reach + 1, 1)]
        self.sizes += 2 * [write_heads * width]
        seeds = (keras.initializers.GlorotUniform(seed=10 * seed + i) for i in range(2))
        kernel, head_kernel = seeds
        if controller == "lstm":
            self.controller = keras.layers.LSTMCell(
                units, kernel_initializer=kernel,
                recurrent_initializer=keras.initializers.Orthogonal(seed=10 * seed + 2),
            )  # fmt: skip
        else:
            self.controller = keras.layers.Dense(units, "tanh", kernel_initializer=kernel)
        self.heads = keras.layers.Dense(sum(self.sizes), kernel_initializer=head_kernel)
        self.state_size = [(rows, width), (heads, rows), (read_heads, width)]
        self.state_size += [units, units] if controller == "lstm" else []
        self.output_size = units + read_heads * width

    def build(self, shape):
        heads, seed = self.read_heads + self.write_heads, 10 * self.settings["seed"]
        self.controller.build((shape[0], shape[-1] + self.read_heads * self.width))
        self.heads.build((shape[0], self.units))
        kind = self.settings["memory"]
        spread = 1 / (self.rows + self.width) ** 0.5
        self.first_memory = self.add_weight(
            name="memory", shape=(self.rows, self.width), trainable=kind == "learned",
            initializer=keras.initializers.Constant(1e-6) if kind == "constant"
            else keras.initializers.RandomUniform(-spread, spread, seed=seed + 3),
        )  # fmt: skip
        self.first_logits = self.add_weight(
            name="weightings", shape=(heads, self.rows),
            initializer=keras.initializers.RandomNormal(stddev=1.0, seed=seed + 4),
        )  # fmt: skip
        self.first_read = self.add_weight(
            name="read", shape=(self.read_heads, self.width),
            initializer=keras.initializers.RandomNormal(stddev=0.1, seed=seed + 5),
        )  # fmt: skip
        self.built = True

    def get_initial_state(self, batch_size=None):
        """What every sequence begins with: learned biases."""
        first = [self.first_memory, tf.nn.softmax(self.first_logits), self.first_read]
        states = [tf.tile(tf.convert_to_tensor(one)[None], [batch_size, 1, 1]) for one in first]
        return states + [tf.zeros((batch_size, n)) for n in self.state_size[3:]]

    def call(self, x, states):
        """`(output, new states)` of one time step with inputs x `(batch, inputs)`."""
        memory, weightings, reads, *hidden = states
        x = tf.concat([x, flat(reads)], axis=-1)
        if hidden:
            h, hidden = self.controller(x, hidden)
        else:
            h = self.controller(x)
        *addressing, erase, add = self.head_parameters(h)
        weightings = address(memory, weightings, *addressing)
        reading, writing = tf.split(weightings, [self.read_heads, self.write_heads], axis=1)
        memory = write(memory, writing, erase, add)
        reads = read(memory, reading)
        return tf.concat([h, flat(reads)], axis=-1), [memory, weightings, reads, *hidden]

    def head_parameters(self, h):
        """What the heads do, from the controller's output: k, beta, g, s, gamma, e, a."""
        heads = self.read_heads + self.write_heads
        key, beta, gate, shifts, gamma, erase, add = tf.split(self.heads(h), self.sizes, axis=-1)
        of_all, of_writers = ([-1, n, self.width] for n in (heads, self.write_heads))
        return (
            tf.tanh(tf.reshape(key, of_all)),
            tf.nn.softplus(beta),
            tf.sigmoid(gate),
            tf.nn.softmax(tf.reshape(shifts, [-1, heads, 2 * self.reach + 1])),
            1 + tf.nn.softplus(gamma),
            tf.sigmoid(tf.reshape(erase, of_writers)),
            tf.tanh(tf.reshape(add, of_writers)),
        )

    def get_config(self):
        return {**super().get_config(), **self.settings}


def address(memory, previous, keys, strengths, gates, shifts, gammas):
    """Where the heads look: equations 5 to 9 one after the other; `(batch, heads, N)`."""
    content = content_weightings(memory, keys, strengths)  # (5), (6)
    return sharpen(shift(interpolate(content, previous, gates), shifts), gammas)  # (7) to (9)


def flat(parts):
    """`(batch, n, m)` as `(batch, n * m)`."""
    return tf.reshape(parts, [-1, parts.shape[1] * parts.shape[2]])
