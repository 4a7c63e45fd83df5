"""Memory-augmented network: it is told once what a thing is called, and knows it the next time.

Adam Santoro, Sergey Bartunov, Matthew Botvinick, Daan Wierstra, Timothy Lillicrap (2016),
arXiv:1605.06065. An episode is a sequence of images x_t of a few classes, with labels y_t that are
dealt anew in each episode. The input at step t is (x_t, y_{t-1}): an image is to be named before
its label is shown. An LSTM with state h makes, for each of n heads, a key k and a gate alpha, and

    K(k, M(i)) = cosine of k and row i of the memory               equation 17
    w_r = softmax(K),  r = sum_i w_r(i) M(i)                       equation 18, read
    w_u = gamma w_u' + w_r + w_w                                   equation 20, usage
    w_lu(i) = 1 for the n rows of least usage, else 0              a rule without gradient
    w_w = sigmoid(alpha) w_r' + (1 - sigmoid(alpha)) w_lu'         equation 22, write
    M(i) = M'(i) + w_w(i) k,  rows with w_lu'(i) = 1 zeroed first  equation 23

where ' is of step t-1, and w_u and M sum over heads. [h, r] is what the answer is made of.

Differences from the paper, and what we chose where it leaves room:

1. Cosines are multiplied by `--strength` before the softmax. With the paper's 1 no row can get more
   than e^2 times the weight of another, and of 128 rows none stands out.
2. The read comes before the write of the same step: after it, a key would find itself. All n
   least-used rows are zeroed. Reads are an input of the next step's LSTM; keys pass a tanh.
3. A turned class is a class of its own, which may meet the unturned one in an episode. As in the
   paper, every image is then turned by up to pi/16 and shifted by up to 10 of 105 pixels.
4. Adam, its rate falling along a cosine, and gradients cut to a norm.

`python chapter04_ntm_mann/mann.py` trains on printed characters; `--dataset omniglot-random` on
handwritten ones, where the second instance of a class is named rightly in 80.3 ± 1.4 % and the
fifth in 92.9 ± 0.9 % of cases (seed 0); `--strings --n-way 15` has labels of five letters.
"""

from dataclasses import dataclass, replace

from chapter04_ntm_mann.addressing import cosine_similarity, read
from chapter04_ntm_mann.ntm import NTMCell, flat
from common import command, experiment, instance_experiment, training
from common.errors import UserError
from common.settings import RunSettings, at_least, fraction, positive

import keras
import tensorflow as tf

BASELINES = ("LSTM", "NTM")


@dataclass(frozen=True)
class Config:
    """Settings of the script; the defaults are those of the printed characters."""

    n_way: int = 5
    """Classes in an episode."""
    instances: int = 10
    """Items of each class in an episode."""
    strings: bool = False
    """Labels are strings of five letters out of five, and not numbers of classes."""
    rotations: bool = True
    """Count each 90-degree rotation of a class of images as a class of its own."""
    jitter: bool = True
    """Turn and shift every image a little, at random."""
    image_size: int = 20
    """Height and width that images are brought to."""

    units: int = 200
    """Units of the LSTM."""
    slots: int = 128
    """Rows of the memory."""
    width: int = 40
    """Numbers in a row."""
    reads: int = 4
    """n: heads, each of which reads and writes."""
    usage_decay: float = 0.99
    """gamma: what is left of the usage of a row after a step."""
    strength: float = 10.0
    """Factor on cosines before the softmax; the paper's is 1."""

    outer_lr: float = 0.005
    """Rate of the training steps (Adam)."""
    outer_decay: bool = True
    """Let the rate fall to zero along a cosine."""
    clip_norm: float = 10.0
    """What the norm of a gradient is cut to."""
    meta_batch_size: int = 16
    """Episodes in a training step."""

    eval_episodes: int = 600
    """Meta-test episodes."""
    baselines: tuple[str, ...] = BASELINES
    """What else to train on the same episodes: LSTM, without memory, and NTM, which is slow."""
    run: RunSettings = RunSettings(steps=3000, dataset="glyphs", jit=True)

    def __post_init__(self):
        positive(self, "units", "slots", "width", "reads", "strength", "outer_lr", "clip_norm")
        positive(self, "meta_batch_size")
        fraction(self, "usage_decay")
        at_least(2, self, "n_way", "instances", "image_size", "eval_episodes")
        if set(self.baselines) - {*BASELINES} or len({*self.baselines}) < len(self.baselines):
            known = " and ".join(BASELINES)
            raise UserError(f"--baselines must be among {known}; got {' '.join(self.baselines)}")
        if self.reads > self.slots:
            raise UserError(f"--reads must be at most --slots, {self.slots}; got {self.reads}")

    @classmethod
    def for_dataset(cls, dataset):
        """The settings for a data set."""
        steps = 12000 if dataset.startswith("omniglot") else cls().run.steps
        return cls(run=RunSettings(steps=steps, dataset=dataset, jit=True))

    @classmethod
    def smoke(cls, dataset="glyphs"):
        """The whole script in seconds."""
        tried = RunSettings(steps=20, dataset=dataset, smoke=True)
        small = {"units": 16, "slots": 16, "width": 8, "reads": 2, "eval_episodes": 20}
        return replace(cls.for_dataset(dataset), **small, meta_batch_size=4, run=tried)


@keras.saving.register_keras_serializable("meta_learning")
class MANNCell(keras.layers.Layer):
    """One time step of a network with least-recently-used access, for `keras.layers.RNN`.

    Its output is `[h, r]`, `(batch, units + reads * width)`. States, zero at the start of a
    sequence: memory M `(batch, slots, width)`, read weights w_r `(batch, reads, slots)`, usage w_u
    `(batch, slots)`, what was read `(batch, reads, width)`, and the LSTM's two `(batch, units)`.

    Args:
        units: Units of the LSTM.
        slots: Rows of the memory.
        width: Numbers in a row.
        reads: n, the heads.
        decay: gamma of the usage.
        strength: Factor on cosines before the softmax.

    Raises:
        UserError: If a number is out of its range, or there are more heads than rows.
    """

    state_names = ("memory", "read_weights", "usage", "reads", "h", "c")

    def __init__(
        self, units=200, slots=128, width=40, reads=4, decay=0.99, strength=1.0, **options
    ):
        super().__init__(**options)
        for name, value in {"units": units, "slots": slots, "width": width, "reads": reads}.items():
            if value < 1:
                raise UserError(f"{name} must be at least 1; got {value}.")
        if reads > slots:
            raise UserError(f"reads must be at most slots, {slots}; got {reads}.")
        self.units, self.slots, self.width, self.reads = units, slots, width, reads
        self.decay, self.strength = decay, strength
        self.controller = keras.layers.LSTMCell(units, dtype=self.dtype_policy)
        self.heads = keras.layers.Dense(reads * (width + 1), dtype=self.dtype_policy)
        self.state_size = [(slots, width), (reads, slots), slots, (reads, width), units, units]
        self.output_size = units + reads * width

    def build(self, shape):
        self.controller.build((shape[0], shape[-1] + self.reads * self.width))
        self.heads.build((shape[0], self.units))

    def get_initial_state(self, batch_size=None):
        """The same for every sequence: nothing written, nothing read."""
        shapes = (size if isinstance(size, tuple) else (size,) for size in self.state_size)
        return [tf.zeros((batch_size, *shape), self.compute_dtype) for shape in shapes]

    def call(self, x, states):
        """`(output, new states)` of one time step with inputs x `(batch, inputs)`."""
        memory, w_r, usage, reads, *hidden = states
        h, hidden = self.controller(tf.concat([x, flat(reads)], axis=-1), hidden)
        keys, gates = self.head_parameters(h)
        w_lu = least_used(usage, self.reads)
        w_w = write_weights(gates, w_r, w_lu)  # with w_r and w_lu of the step before
        w_r = tf.nn.softmax(self.strength * cosine_similarity(memory, keys))  # (17), (18)
        reads = read(memory, w_r)
        memory = write(memory, w_w, w_lu, keys)
        usage = new_usage(usage, w_r, w_w, self.decay)
        return tf.concat([h, flat(reads)], axis=-1), [memory, w_r, usage, reads, *hidden]

    def head_parameters(self, h):
        """Keys k `(batch, reads, width)` and gates sigmoid(alpha) `(batch, reads)`."""
        keys, alpha = tf.split(self.heads(h), [self.reads * self.width, self.reads], axis=-1)
        return tf.tanh(tf.reshape(keys, (-1, self.reads, self.width))), tf.sigmoid(alpha)

    def get_config(self):
        names = ("units", "slots", "width", "reads", "decay", "strength")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def least_used(usage, n):
    """w_lu: 1 at the n rows of least usage, exactly n, among equals the first ones.

    Args:
        usage: w_u, `(batch, slots)`.
        n: How many.

    Returns:
        `(batch, slots)` of zeros and ones, without gradient.
    """
    mine, other = usage[:, :, None], usage[:, None]  # (batch, slots, slots)
    slot = tf.range(usage.shape[1])
    goes_first = (other < mine) | ((other == mine) & (slot < slot[:, None]))
    rank = tf.reduce_sum(tf.cast(goes_first, tf.int32), axis=-1)  # faster than to sort
    return tf.cast(rank < n, usage.dtype)


def write_weights(gates, w_r, w_lu):
    """w_w, equation 22: to the rows that the head read last, or to those of least use.

    Args:
        gates: sigmoid(alpha), `(batch, reads)`.
        w_r: Read weights of the step before, `(batch, reads, slots)`.
        w_lu: `(batch, slots)`.

    Returns:
        `(batch, reads, slots)`; the weights of a head sum to gate + (1 - gate) n, once it has read.
    """
    return gates[..., None] * w_r + (1 - gates[..., None]) * w_lu[:, None]


def write(memory, w_w, w_lu, keys):
    """Equation 23: zeroes the least-used rows, and adds w_w(i) k of every head to every row.

    Args:
        memory: `(batch, slots, width)`.
        w_w: `(batch, reads, slots)`.
        w_lu: `(batch, slots)`.
        keys: k, `(batch, reads, width)`.

    Returns:
        The memory after it, `(batch, slots, width)`.
    """
    return memory * (1 - w_lu[..., None]) + tf.matmul(w_w, keys, transpose_a=True)


def new_usage(usage, w_r, w_w, decay):
    """w_u, equation 20, summed over the heads; without gradient, as only its order matters.

    Args:
        usage: w_u of the step before, `(batch, slots)`.
        w_r, w_w: `(batch, reads, slots)`.
        decay: gamma.

    Returns:
        `(batch, slots)`.
    """
    return tf.stop_gradient(decay * usage + tf.reduce_sum(w_r + w_w, axis=1))


def run(config, directory=None, progress=False):
    """Trains the network and its baselines, and measures them on classes never seen.

    Returns:
        A `Result` with each one's accuracy on the first, second, ... instance of a class.
    """
    training.prepare(config.run)
    sampler, test_sampler = instance_experiment.samplers(config)
    learners = {name: new_learner(config, sampler, name) for name in ("MANN", *config.baselines)}
    history = experiment.train(learners, sampler, config, directory, progress)
    return instance_experiment.measure(learners, test_sampler, config, history)


def new_learner(config, sampler, name="MANN"):
    """An untrained MANN, or a baseline with the same controller: `"LSTM"` or `"NTM"`."""
    keras.utils.set_random_seed(config.run.seed)
    size = {"width": config.width, "units": config.units, "dtype": "float32"}
    if name == "MANN":
        cell = MANNCell(slots=config.slots, reads=config.reads, decay=config.usage_decay,
                        strength=config.strength, **size)  # fmt: skip
    elif name == "NTM":
        heads = {"read_heads": config.reads, "write_heads": config.reads}
        cell = NTMCell(config.slots, **heads, seed=config.run.seed, **size)
    else:
        cell = keras.layers.LSTMCell(config.units, dtype="float32")
    return instance_experiment.sequence_learner(cell, sampler, config)


def main():
    """The command line: see `--help`."""
    command.main(Config, run, instance_experiment.draw)


if __name__ == "__main__":
    main()
