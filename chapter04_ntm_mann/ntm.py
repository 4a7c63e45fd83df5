"""Neural Turing machine: a network that reads and writes an external memory by soft attention.

Alex Graves, Greg Wayne, Ivo Danihelka (2014), arXiv:1410.5401. A head looks at the N rows M(i) of
the memory with weights w(i) that sum to 1. At each time step the controller, a network, says for
each head a key k, its strength beta, a gate g, shares s of shifts, and gamma; then

    w_c(i) = softmax_i(beta K[k, M(i)])                 content: K is the cosine        (5), (6)
    w_g    = g w_c + (1 - g) w_{t-1}                    or stay where the head was      (7)
    w~(i)  = sum_j w_g(j) s(i - j)                      and move, around the end        (8)
    w(i)   = w~(i)^gamma / sum_j w~(j)^gamma            sharpened                       (9)
    M(i)  <- M(i) [1 - w(i) e] + w(i) a                 a write head erases and adds    (3), (4)
    r      = sum_i w(i) M(i)                            a read head reads               (2)

Differences from the paper, and what it leaves open:

1. All heads are addressed by the memory M_{t-1}. Then the write heads write, and the read heads
   read the new memory.
2. w_0 is learned, as a softmax; at first all heads are at row 0. What was read before the first
   step is learned, the LSTM starts from zeros, and the memory is as `--memory` says.
3. Keys and adds go through tanh.
4. Adam, its rate falling along a cosine, with the gradient clipped by its norm, instead of RMSProp
   with each number clipped.

`python chapter04_ntm_mann/ntm.py` learns to copy; after `--steps 8000`, 64,000 sequences, the best
of three seeds pays 0.024 ± 0.002 bits a sequence, and 0.3 ± 0.5 % of its bits are wrong at length
40. `--dataset repeat-copy` and `--dataset recall` are the paper's other tasks;
`--memory constant learned random --n-seeds 3` compares first memories.
"""

from dataclasses import dataclass, replace
from functools import partial

from chapter04_ntm_mann.addressing import address, read, write
from common import command, sequence_experiment, training
from common.algorithmic_tasks import new_task
from common.errors import UserError
from common.sequence_learner import SequenceLearner
from common.settings import RunSettings, at_least, non_negative, one_of, positive

import keras
import numpy as np
import tensorflow as tf

CONTROLLERS, MEMORIES = ("lstm", "feedforward"), ("constant", "learned", "random")


@dataclass(frozen=True)
class Config:
    """Settings of the script; the defaults are those of the copy task."""

    longest: int | None = None
    """Greatest length in training (for recall: number of items); by default the paper's."""

    rows: int = 128
    """N, rows of the memory."""
    width: int = 20
    """M, numbers in a row."""
    read_heads: int = 1
    """Heads that read."""
    write_heads: int = 1
    """Heads that write."""
    controller: str = "lstm"
    """lstm or feedforward."""
    units: int = 100
    """Units of the controller."""
    reach: int = 1
    """The farthest that a head may move in a step."""
    memory: tuple[str, ...] = ("constant",)
    """What a sequence finds in the memory: constant, learned or random; several are compared."""
    n_seeds: int = 1
    """Trainings of each machine, with weights and sequences of their own; each has its folder."""

    outer_lr: float = 0.001
    """Rate of the optimizer (Adam)."""
    outer_decay: bool = True
    """Let it fall to zero along a cosine."""
    meta_batch_size: int = 8
    """Sequences in a step."""

    lstm_layers: int = 3
    """Layers of the baseline."""
    lstm_units: int = 256
    """Units of each of them."""
    baseline_steps: int = 3000
    """Training steps of the baseline; 0 leaves it out."""
    eval_sequences: int = 200
    """Sequences of each test."""
    run: RunSettings = RunSettings(steps=3000, dataset="copy", jit=True)

    def __post_init__(self):
        new_task(self.run.dataset, self.longest)
        positive(self, "rows", "width", "read_heads", "write_heads", "units", "n_seeds")
        positive(self, "outer_lr", "meta_batch_size", "lstm_layers", "lstm_units")
        non_negative(self, "reach", "baseline_steps")
        at_least(2, self, "eval_sequences")
        one_of(self, "controller", CONTROLLERS)
        kinds, known = {*self.memory}, ", ".join(MEMORIES)
        if not kinds or kinds - {*MEMORIES} or len(kinds) < len(self.memory):
            raise UserError(f"--memory must be different ones of {known}; got {self.memory}")
        if 2 * self.reach >= self.rows:
            most = (self.rows - 1) // 2
            raise UserError(f"--reach must be at most {most} with these rows, got {self.reach}")
        if self.run.mixed_precision:
            raise UserError("--mixed-precision has too few bits to sharpen with; leave it out")

    @classmethod
    def for_dataset(cls, dataset):
        """The settings for a task."""
        return cls(run=replace(cls().run, dataset=dataset))

    @classmethod
    def smoke(cls, dataset="copy"):
        """The whole script in seconds."""
        tried = RunSettings(steps=4, dataset=dataset, smoke=True)
        small = {"rows": 16, "width": 4, "units": 8, "meta_batch_size": 4, "eval_sequences": 4}
        return cls(longest=3, lstm_layers=1, lstm_units=8, baseline_steps=4, run=tried, **small)


@keras.saving.register_keras_serializable("meta_learning")
class NTMCell(keras.layers.Layer):
    """One time step of a neural Turing machine, to be used in `keras.layers.RNN`.

    Its output is `(batch, units + read_heads * width)`: what the controller says, and what was
    read; a `Dense` layer behind the RNN makes the machine's outputs of them. States, each flat
    `(batch, n)`: the memory, the weightings (those of read heads first; `unpacked` gives both their
    shapes), what was read, and the two states of an LSTM controller.

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
        if controller not in CONTROLLERS:
            raise UserError(f"controller must be {' or '.join(CONTROLLERS)}; got {controller!r}.")
        if memory not in MEMORIES:
            raise UserError(f"memory must be {' or '.join(MEMORIES)}; got {memory!r}.")
        self.settings = {**numbers, "controller": controller, "reach": reach, "memory": memory,
                         "seed": seed}  # fmt: skip
        self.rows, self.width, self.units, self.reach = rows, width, units, reach
        self.read_heads, self.write_heads = read_heads, write_heads
        heads = read_heads + write_heads
        # Of every head: key, beta, g, s, gamma; then erase and add of the write heads.
        self.sizes = [heads * n for n in (width, 1, 1, 2 * reach + 1, 1)]
        self.sizes += 2 * [write_heads * width]
        kernel, head_kernel = (keras.initializers.GlorotUniform(10 * seed + i) for i in range(2))
        made = {"kernel_initializer": kernel, "dtype": self.dtype_policy}
        if controller == "lstm":
            recurrent = keras.initializers.Orthogonal(seed=10 * seed + 2)
            self.controller = keras.layers.LSTMCell(units, recurrent_initializer=recurrent, **made)
        else:
            self.controller = keras.layers.Dense(units, "tanh", **made)
        made = {**made, "kernel_initializer": head_kernel}
        self.heads = keras.layers.Dense(sum(self.sizes), **made)
        self.state_size = [rows * width, heads * rows, read_heads * width]
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
            name="weightings", shape=(heads, self.rows),  # at first all heads are at row 0
            initializer=keras.initializers.Constant(10 * np.eye(1, self.rows)),
        )  # fmt: skip
        self.first_read = self.add_weight(
            name="read", shape=(self.read_heads, self.width),
            initializer=keras.initializers.RandomNormal(stddev=0.1, seed=seed + 5),
        )  # fmt: skip
        self.built = True

    def get_initial_state(self, batch_size=None):
        """What every sequence begins with: learned biases."""
        first = [self.first_memory, tf.nn.softmax(self.first_logits), self.first_read]
        states = [tf.tile(tf.reshape(one, [1, -1]), [batch_size, 1]) for one in first]
        return states + [tf.zeros([batch_size, n]) for n in self.state_size[3:]]

    def unpacked(self, states):
        """The memory `(batch, N, M)` and the weightings `(batch, heads, N)` among the states."""
        memory, weightings, *_ = states
        memory = tf.reshape(memory, [-1, self.rows, self.width])
        return memory, tf.reshape(weightings, [-1, self.read_heads + self.write_heads, self.rows])

    def call(self, x, states):
        """`(output, new states)` of one time step with inputs x `(batch, inputs)`."""
        memory, weightings = self.unpacked(states)
        _, _, reads, *hidden = states
        x = tf.concat([x, reads], axis=-1)
        if hidden:
            h, hidden = self.controller(x, hidden)
        else:
            h = self.controller(x)
        *addressing, erase, add = self.head_parameters(h)
        weightings = address(memory, weightings, *addressing)
        reading, writing = tf.split(weightings, [self.read_heads, self.write_heads], axis=1)
        memory = write(memory, writing, erase, add)
        reads = flat(read(memory, reading))
        output = tf.concat([h, reads], axis=-1)
        return output, [flat(memory), flat(weightings), reads, *hidden]

    def head_parameters(self, h):
        """What the heads do, from the controller's output h `(batch, units)`.

        Returns:
            k `(batch, heads, M)`; beta and g `(batch, heads)`; s `(batch, heads, 2 reach + 1)`;
            gamma `(batch, heads)`; e and a `(batch, write_heads, M)`. Read heads come first.
        """
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


def flat(parts):
    """`(batch, n, m)` as `(batch, n * m)`."""
    return tf.reshape(parts, [-1, parts.shape[1] * parts.shape[2]])


def run(config, directory=None, progress=False):
    """Trains neural Turing machines and an LSTM on one task, and tests them on harder ones too.

    Returns:
        A `Result` with bits per sequence and shares of wrong bits.
    """
    task = new_task(config.run.dataset, config.longest)
    groups, learners = {}, {}
    for memory in config.memory:
        label = "NTM" if len(config.memory) == 1 else f"NTM_{memory}"
        for seed in range(config.run.seed, config.run.seed + config.n_seeds):
            training.prepare(replace(config.run, seed=seed))
            name = label if config.n_seeds == 1 else f"{label}_{seed}"
            learners[name] = (seed, config.run.steps, new_learner(config, task, memory, seed))
            groups.setdefault(label, []).append(name)
    if config.baseline_steps:
        training.prepare(config.run)
        lstm = sequence_experiment.new_lstm(config, task)
        learners["LSTM"] = (config.run.seed, config.baseline_steps, lstm)
        groups["LSTM"] = ["LSTM"]
    optimizer = partial(new_optimizer, config)
    history = sequence_experiment.train(learners, config, optimizer, directory, progress)
    learners = {name: learner for name, (_, _, learner) in learners.items()}
    return sequence_experiment.measure(groups, learners, config, history)


def new_learner(config, task, memory="constant", seed=0):
    """An untrained machine for a task, its weights decided by the seed."""
    cell = NTMCell(
        config.rows, config.width, read_heads=config.read_heads, write_heads=config.write_heads,
        controller=config.controller, units=config.units, reach=config.reach, memory=memory,
        seed=seed,
    )  # fmt: skip
    inputs = keras.Input((None, task.inputs))
    said = keras.layers.RNN(cell, return_sequences=True)(inputs)
    kernel = keras.initializers.GlorotUniform(seed=seed)
    logits = keras.layers.Dense(task.outputs, kernel_initializer=kernel)(said)
    return SequenceLearner(keras.Model(inputs, logits, name="ntm"))


def new_optimizer(config, steps):
    """Adam for so many steps, with gradients clipped to a norm of 10."""
    rate = config.outer_lr
    if config.outer_decay:
        rate = keras.optimizers.schedules.CosineDecay(rate, steps)
    return keras.optimizers.Adam(rate, global_clipnorm=10.0)


def main():
    """The command line: see `--help`."""
    command.main(Config, run, sequence_experiment.draw)


if __name__ == "__main__":
    main()
