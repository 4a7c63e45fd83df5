"""Training steps of a neural Turing machine: ours, ours without XLA, and plain PyTorch.

    python -m tests.benchmarks.ntm_step [--rounds 5] [--only NAME ...] [--json PATH]

Copying 20 elements of 8 bits (41 time steps), 16 sequences a step, a memory of 128 x 20, one read
head and one write head, an LSTM of 100 units, Adam. The contestants take turns in every round, so
that whatever else the machine does falls on all alike. Before that, their losses and gradients are
compared, from the same weights. What compiling takes is measured apart.
"""

import argparse
import json
import os
import platform
import time
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from chapter04_ntm_mann import ntm
from common.bit_sequences import Sequences
from common.copy_tasks import CopyTask
from common.sequence_learner import SequenceLearner, bits_per_sequence

import keras
import numpy as np
import tensorflow as tf

LENGTH, BATCH, ROWS, WIDTH, UNITS, LR = 20, 16, 128, 20, 100, 0.001
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def sequences():
    task = CopyTask(LENGTH, LENGTH)
    return Sequences(*(part.numpy() for part in task.sample((0, 0), BATCH)))


def network():
    cell = ntm.NTMCell(ROWS, WIDTH, units=UNITS)
    inputs = keras.Input((2 * LENGTH + 1, 9))
    hidden = keras.layers.RNN(cell, return_sequences=True)(inputs)
    kernel = keras.initializers.GlorotUniform(seed=0)  # the same weights for all contestants
    return keras.Model(inputs, keras.layers.Dense(8, kernel_initializer=kernel)(hidden))


# The contestants: each takes a batch and returns two functions without arguments, one training step
# that returns its loss, and the loss with the gradients, in the order of the Keras weights.


def ours(batch):
    """As the script trains."""
    return _train_step(network(), batch, jit=True)


def ours_plain(batch):
    """The loop of the graph without XLA."""
    return _train_step(network(), batch, jit=False)


def torch_loop(batch):
    """The same in PyTorch: a Python loop over time steps, eager."""
    import torch
    from torch.nn import functional as F

    torch.set_num_threads(CORES)
    weights = [torch.tensor(v.numpy()).requires_grad_() for v in network().trainable_variables]
    optimizer = torch.optim.Adam(weights, LR)
    inputs, targets, mask = (torch.tensor(part) for part in batch)
    sizes = [2 * WIDTH, 2, 2, 6, 2, WIDTH, WIDTH]

    def logits():
        first_w, first_read, kernel, recurrent, bias, heads, heads_bias, out, out_bias = weights
        memory = torch.full((BATCH, ROWS, WIDTH), 1e-6)
        w = torch.softmax(first_w, -1)[None].expand(BATCH, -1, -1)
        r = first_read[None].expand(BATCH, -1, -1)
        h = c = torch.zeros(BATCH, UNITS)
        said = []
        for x in inputs.unbind(1):
            gates = torch.cat([x, r.flatten(1)], 1) @ kernel + h @ recurrent + bias
            i, f, new, o = gates.chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(new)
            h = torch.sigmoid(o) * torch.tanh(c)
            key, beta, g, s, gamma, erase, add = (h @ heads + heads_bias).split(sizes, 1)
            key = torch.tanh(key).view(BATCH, 2, WIDTH)
            rows = F.normalize(memory, dim=-1, eps=1e-3)
            cosine = F.normalize(key, dim=-1, eps=1e-3) @ rows.transpose(1, 2)
            content = torch.softmax(F.softplus(beta)[..., None] * cosine, -1)
            g = torch.sigmoid(g)[..., None]
            mixed = g * content + (1 - g) * w
            s = torch.softmax(s.view(BATCH, 2, 3), -1)
            shifted = sum(s[..., k, None] * mixed.roll(k - 1, -1) for k in range(3))
            powers = shifted ** (1 + F.softplus(gamma)[..., None])
            w = powers / powers.sum(-1, keepdim=True)
            writing = w[:, 1, :, None]
            memory = memory * (1 - writing * torch.sigmoid(erase)[:, None])
            memory = memory + writing * torch.tanh(add)[:, None]
            r = w[:, :1] @ memory
            said.append(torch.cat([h, r.flatten(1)], 1))
        return torch.stack(said, 1) @ out + out_bias

    def gradients():
        optimizer.zero_grad()
        nats = F.binary_cross_entropy_with_logits(logits(), targets, reduction="none")
        loss = (nats * mask[..., None]).sum((1, 2)).mean() / np.log(2)
        loss.backward()
        return loss.item(), [w.grad.numpy() for w in weights]

    def train_step():
        loss, _ = gradients()
        optimizer.step()
        return loss

    return train_step, gradients


CONTESTANTS = {
    "ours": ours,
    "ours, without XLA": ours_plain,
    "torch, eager": torch_loop,
}
REFERENCE = "torch, eager"


def _train_step(model, batch, jit):
    """The two functions of a contestant, traced."""
    learner = SequenceLearner(model)
    learner.compile(optimizer=keras.optimizers.Adam(LR))
    learner.optimizer.build(learner.trainable_variables)
    batch = Sequences(*(tf.constant(part) for part in batch))
    step = tf.function(learner.train_step, jit_compile=jit, autograph=False)

    @tf.function(jit_compile=jit, autograph=False)
    def gradient():
        weights = [v.value for v in model.trainable_variables]
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(bits_per_sequence(batch, model(batch.inputs)))
        return loss, tape.gradient(loss, weights)

    def gradients():
        loss, found = gradient()
        return float(loss), [g.numpy() for g in found]

    return lambda: float(step(batch)["loss"]), gradients


def compare(functions):
    """Ends the program unless all contestants have the loss and the gradients of the first."""
    first = next(iter(functions))
    loss, gradients = functions[first]()
    for name, function in functions.items():
        other_loss, other_gradients = function()
        difference = norm([a - b for a, b in zip(gradients, other_gradients)]) / norm(gradients)
        print(
            f"  {name:20} loss {other_loss:.5f}, gradient differs by {difference:.1e}", flush=True
        )
        if abs(other_loss - loss) > 1e-3 or difference > 1e-3:
            raise SystemExit(f"{name} computes something else than {first} (loss {loss:.5f})")


def norm(gradients):
    return np.sqrt(sum(np.sum(np.square(g, dtype=np.float64)) for g in gradients))


def measure(steps, rounds, seconds=1.0):
    """Seconds of each single step and of the first: `{name: [...]}`, `{name: first}`."""
    repeats, first, times = {}, {}, {name: [] for name in steps}
    for name, step in steps.items():
        start = time.perf_counter()
        step()
        first[name] = time.perf_counter() - start
        start = time.perf_counter()
        step()
        repeats[name] = max(1, round(seconds / (time.perf_counter() - start)))
    for _ in range(rounds):
        for name, step in steps.items():
            for _ in range(repeats[name]):
                start = time.perf_counter()
                step()
                times[name].append(time.perf_counter() - start)
    return times, first


def versions():
    packages = ["tensorflow", "keras", "numpy"] + ["torch"] * bool(find_spec("torch"))
    found = {package: metadata.version(package) for package in packages}
    return {"python": platform.python_version(), **found}


def main() -> None:
    parser = argparse.ArgumentParser(description="Training steps of an NTM, ours and others'.")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every contestant")
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, help="some of the contestants")
    parser.add_argument("--json", type=Path, help="where to write the table")
    options = parser.parse_args()
    names = options.only or list(CONTESTANTS)
    if REFERENCE in names and find_spec("torch") is None:
        print("torch is not installed: without its contestant (pip install torch)")
        names.remove(REFERENCE)
    print(f"{CORES} cores; {', '.join(f'{k} {v}' for k, v in versions().items())}")
    batch = sequences()
    made = {name: CONTESTANTS[name](batch) for name in names}
    compare({name: gradients for name, (_, gradients) in made.items()})
    times, first = measure({name: step for name, (step, _) in made.items()}, options.rounds)
    print(f"  {'':20}{'sequences/s best':>17}{'median':>9}{'x torch':>9}{'first step, s':>15}")
    best = {name: BATCH / min(values) for name, values in times.items()}
    rows = []
    for name, values in times.items():
        ratio = best[name] / best[REFERENCE] if REFERENCE in best else None
        median = BATCH / float(np.median(values))
        print(
            f"  {name:20}{best[name]:17.1f}{median:9.1f}"
            f"{f'{ratio:9.2f}' if ratio else '        -'}{first[name]:15.1f}"
        )
        rows.append(
            {
                "contestant": name, "sequences_per_second": best[name],
                "median_sequences_per_second": median, "ratio_to_torch": ratio,
                "first_step_seconds": first[name], "steps_timed": len(values),
            }
        )  # fmt: skip
    if options.json:
        content = {"cores": CORES, "versions": versions(), "rows": rows}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
