"""Outer steps of second-order MAML: ours, two ways of plain TensorFlow, and PyTorch.

    python -m tests.benchmarks.outer_step [--rounds 10] [--memory] [--json PATH]

5-way 1-shot, strided conv4-64 with batch normalisation, one inner step, Adam, 32 tasks a step,
random images; 5 and 75 queries a task. The contestants take turns in every round, so that
whatever else the machine does falls on all alike. Before that, their losses and meta-gradients
are compared.

The bound is how often a second the multiplications of a task fit into this machine's rate for
one large float32 matrix product:

    forward  = 2 * sum over layers of (places * kernel * kernel * channels * filters)
    task     = forward * (9 * supports + 3 * queries)
    bound    = rate / task

since a query costs a forward pass and the two products of its backward pass, and a support item
besides these three their six derivatives.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

from chapter05_maml_adml.maml import MAML
from common import task_convolution
from common.episodes import Episode
from common.networks import conv4

import keras
import numpy as np
import tensorflow as tf

N_TASKS, N_WAY, FILTERS, INNER_LR, OUTER_LR = 32, 5, 64, 0.01, 0.001
QUERIES = (5, 75)  # n_query of 1 and 15
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def random_episode(n_queries):
    random = np.random.default_rng(0)

    def items(n):  # patterns of black and white squares
        x = random.integers(0, 2, (N_TASKS, n, 7, 7, 1)).repeat(4, axis=2).repeat(4, axis=3)
        return x.astype(np.float32), np.tile(np.arange(n, dtype=np.int32) % N_WAY, (N_TASKS, 1))

    return Episode(*items(N_WAY), *items(n_queries))


# The contestants: each takes an episode and returns two functions without arguments, one outer
# step that returns its loss, and the loss with the meta-gradient, in the layout of `conv4`.


def ours(episode):
    """`MAML` as it is."""
    return _outer_step(_learner(MAML), episode)


def ours_patches(episode):
    """Without grouped convolutions: patches times filters."""
    with mock.patch.object(task_convolution, "grouped_convolution_works", return_value=False):
        return _outer_step(_learner(MAML), episode)


def ours_not_shared(episode):
    """Also in the first inner step as if every task had filters of its own."""
    with mock.patch.object(task_convolution, "shared_form", return_value=None):
        return _outer_step(_learner(MAML), episode)


def map_fn(episode):
    """The ordinary Keras network, one task after the other in a loop of the graph."""
    learner = _learner(PlainMAML)
    learner.map_tasks = lambda f, tasks: tf.map_fn(f, tasks, fn_output_signature=tf.float32)
    with mock.patch.object(tf.nn, "moments", exact_moments):
        return _outer_step(learner, episode)


def vectorized_map(episode):
    """The ordinary Keras network, vectorised by TensorFlow."""
    learner = _learner(PlainMAML)
    learner.map_tasks = lambda f, tasks: tf.vectorized_map(f, tasks, warn=False)
    with mock.patch.object(tf.nn, "moments", exact_moments):
        return _outer_step(learner, episode)


class PlainMAML(MAML):
    """MAML written for one task with the network's own `stateless_call`."""

    def meta_loss(self, episode, training=True):
        return tf.reduce_mean(self.map_tasks(self.task_loss, tuple(episode)))

    def task_loss(self, task):
        support_x, support_y, query_x, query_y = task
        weights = [tf.convert_to_tensor(v) for v in self.network.trainable_variables]
        with tf.GradientTape() as tape:
            tape.watch(weights)
            support_loss = self.loss_with(weights, support_x, support_y)
        gradients = tape.gradient(support_loss, weights)
        fast_weights = [w - self.inner_lr * g for w, g in zip(weights, gradients)]
        return self.loss_with(fast_weights, query_x, query_y)

    def loss_with(self, weights, x, y):
        state = self.network.non_trainable_variables
        logits, _ = self.network.stateless_call(weights, state, x, training=True)
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))


def exact_moments(x, axes, shift=None, keepdims=False, name=None):
    """`tf.nn.moments` without its stopped gradient, which makes second derivatives wrong."""
    mean = tf.reduce_mean(x, axes, keepdims=True)
    variance = tf.reduce_mean(tf.square(x - mean), axes, keepdims=keepdims)
    return (mean if keepdims else tf.squeeze(mean, axes)), variance


def torch_vmap(episode):
    """The same in PyTorch: `torch.func.vmap` over tasks of `grad` of the support loss."""
    import torch
    from torch.nn import functional as F

    torch.set_num_threads(CORES)
    weights = [
        torch.tensor(to_torch(v.numpy())).requires_grad_() for v in _network().trainable_variables
    ]
    optimizer = torch.optim.Adam(weights, OUTER_LR)
    to_channels_first = (0, 1, 4, 2, 3)
    tensors = [
        torch.tensor(part.transpose(to_channels_first) if part.ndim == 5 else part)
        for part in episode
    ]
    support_x, support_y, query_x, query_y = (
        t if t.is_floating_point() else t.long() for t in tensors
    )

    def loss_with(weights, x, y):
        for block in range(4):
            kernel, gamma, beta = weights[3 * block : 3 * block + 3]
            before = int(x.shape[-1] % 2)  # TensorFlow pads an even image at its end alone
            x = F.conv2d(F.pad(x, (before, 1, before, 1)), kernel, stride=2)
            x = F.relu(F.batch_norm(x, None, None, gamma, beta, training=True, eps=1e-3))
        kernel, bias = weights[-2:]
        return F.cross_entropy(x.permute(0, 2, 3, 1).flatten(1) @ kernel + bias, y)

    def task_loss(weights, support_x, support_y, query_x, query_y):
        gradients = torch.func.grad(loss_with)(weights, support_x, support_y)
        fast_weights = [w - INNER_LR * g for w, g in zip(weights, gradients)]
        return loss_with(fast_weights, query_x, query_y)

    def meta_loss():
        losses = torch.func.vmap(task_loss, in_dims=(None, 0, 0, 0, 0))(
            weights, support_x, support_y, query_x, query_y
        )
        loss = losses.mean()
        loss.backward()
        return loss.item()

    def outer_step():
        optimizer.zero_grad()
        loss = meta_loss()
        optimizer.step()
        return loss

    def meta_gradient():
        optimizer.zero_grad()
        loss = meta_loss()
        return loss, [to_keras(w.grad.numpy()) for w in weights]

    return outer_step, meta_gradient


def to_torch(weight):  # (height, width, channels, filters) -> (filters, channels, height, width)
    return np.ascontiguousarray(weight.transpose(3, 2, 0, 1)) if weight.ndim == 4 else weight


def to_keras(weight):
    return weight.transpose(2, 3, 1, 0) if weight.ndim == 4 else weight


CONTESTANTS = {
    "ours": ours,
    "ours, patches": ours_patches,
    "ours, not shared": ours_not_shared,
    "tf.map_fn": map_fn,
    "tf.vectorized_map": vectorized_map,
    "torch.func.vmap": torch_vmap,
}
REFERENCE = "torch.func.vmap"


def _network():
    return conv4((28, 28, 1), N_WAY, filters=FILTERS)


def _learner(kind):
    learner = kind(_network(), INNER_LR)
    learner.compile(optimizer=keras.optimizers.Adam(OUTER_LR))
    learner.optimizer.build(learner.trainable_variables)
    return learner


def _outer_step(learner, episode):
    """The two functions of a contestant, traced."""
    episode = Episode(*(tf.constant(part) for part in episode))
    train_step = tf.function(learner.train_step).get_concrete_function(episode)

    @tf.function
    def gradient():
        weights = [v.value for v in learner.network.trainable_variables]
        with tf.GradientTape() as tape:
            loss = learner.meta_loss(episode)
        return loss, tape.gradient(loss, weights)

    gradient = gradient.get_concrete_function()

    def outer_step():
        return float(train_step(*episode)["loss"])

    def meta_gradient():
        loss, gradients = gradient()
        return float(loss), [g.numpy() for g in gradients]

    return outer_step, meta_gradient


def matrix_product(size=2048):
    """One step of it is one large product; see `bound`."""
    matrix = tf.random.stateless_uniform((size, size), (0, 0))
    product = tf.function(lambda matrix: tf.reduce_sum(matrix @ matrix))
    return lambda: float(product(matrix))


def flops_of_product(size=2048):
    return 2 * size**3


def flops_of_task(n_queries):
    """Floating-point operations of one task's matrix products; see the formula above."""
    forward, places, channels = 0, 28, 1
    for _ in range(4):
        places = -(-places // 2)
        forward += 2 * places**2 * 9 * channels * FILTERS
        channels = FILTERS
    forward += 2 * places**2 * channels * N_WAY
    return forward * (9 * N_WAY + 3 * n_queries)


def compare(functions):
    """Ends the program unless all contestants have the loss and meta-gradient of the first."""
    first, *others = functions
    loss, gradients = functions[first]()
    for name in others:
        other_loss, other_gradients = functions[name]()
        difference = norm([a - b for a, b in zip(gradients, other_gradients)]) / norm(gradients)
        print(f"  {name:20} loss {other_loss:.6f}, meta-gradient differs by {difference:.1e}")
        # Not by rounding alone: a ReLU at its kink may fall to either side.
        if abs(other_loss - loss) > 1e-4 or difference > 5e-3:
            raise SystemExit(f"{name} computes something else than {first} (loss {loss:.6f})")


def norm(gradients):
    return np.sqrt(sum(np.sum(np.square(g, dtype=np.float64)) for g in gradients))


def measure(steps, rounds, seconds=0.5):
    """Seconds of each single step: `{name: [...]}`; every round gives each about `seconds`."""
    repeats, times = {}, {name: [] for name in steps}
    for name, step in steps.items():
        step()
        start = time.perf_counter()
        step()
        repeats[name] = max(1, round(seconds / (time.perf_counter() - start)))
    for _ in range(rounds):
        for name, step in steps.items():
            for _ in range(repeats[name]):
                start = time.perf_counter()
                step()
                times[name].append(time.perf_counter() - start)
    return times


def benchmark(n_queries, names, rounds):
    """Prints the table for one number of queries and returns its rows."""
    print(f"\n{N_TASKS} tasks, {N_WAY} supports and {n_queries} queries each", flush=True)
    episode = random_episode(n_queries)
    made = {name: CONTESTANTS[name](episode) for name in names}
    compare({name: meta_gradient for name, (_, meta_gradient) in made.items()})
    steps = {name: outer_step for name, (outer_step, _) in made.items()}
    times = measure({**steps, "matrix product": matrix_product()}, rounds)

    rate = flops_of_product() / min(times.pop("matrix product"))
    bound = rate / flops_of_task(n_queries)
    print(
        f"  bound: {rate / 1e9:.0f} GFLOP/s / {flops_of_task(n_queries) / 1e6:.0f} MFLOP"
        f" = {bound:.0f} tasks a second\n"
        f"  {'':20}{'tasks/s best':>13}{'median':>9}{'steps/s':>9}{'x torch':>9}{'/ bound':>9}"
    )
    best = {name: N_TASKS / min(values) for name, values in times.items()}
    rows = []
    for name, values in times.items():
        median = N_TASKS / np.median(values)
        ratio = best[name] / best[REFERENCE] if REFERENCE in best else None
        print(
            f"  {name:20}{best[name]:13.1f}{median:9.1f}{best[name] / N_TASKS:9.2f}"
            f"{f'{ratio:9.2f}' if ratio else '        -'}{best[name] / bound:9.2f}",
            flush=True,
        )
        rows.append(
            {
                "queries": n_queries, "contestant": name, "tasks_per_second": best[name],
                "median_tasks_per_second": median, "ratio_to_torch": ratio, "bound": bound,
                "steps_timed": len(values),
            }
        )  # fmt: skip
    return rows


def peak_memory(name, n_queries):
    """MiB that a process of its own grew by, from its imports to the end of three outer steps."""
    command = [sys.executable, "-m", __spec__.name, "--grow", name, "--queries", str(n_queries)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.split()[-1])


def print_growth(name, n_queries):
    """What `peak_memory` runs in its process."""
    if name == REFERENCE:
        import torch  # noqa: F401 - the library itself does not count
    before = _peak()
    outer_step, _ = CONTESTANTS[name](random_episode(n_queries))
    for _ in range(3):
        outer_step()
    print(_peak() - before)


def _peak():
    """The most memory that this process ever had, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux, where `ru_maxrss` begins with what the parent process had
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 2**10
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def versions():
    packages = ["tensorflow", "keras", "numpy"] + ["torch"] * bool(find_spec("torch"))
    found = {package: metadata.version(package) for package in packages}
    return {"python": platform.python_version(), **found}


def main() -> None:
    parser = argparse.ArgumentParser(description="Outer steps of MAML, ours and others'.")
    parser.add_argument("--rounds", type=int, default=10, help="turns of every contestant")
    parser.add_argument("--queries", type=int, nargs="+", default=QUERIES, help="queries a task")
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, help="some of the contestants")
    parser.add_argument("--memory", action="store_true", help="measure the peak memory, too")
    parser.add_argument("--json", type=Path, help="where to write the table")
    parser.add_argument("--grow", choices=CONTESTANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.grow:
        print_growth(options.grow, options.queries[0])
        return

    names = options.only or list(CONTESTANTS)
    if REFERENCE in names and find_spec("torch") is None:
        print("torch is not installed: without torch.func.vmap (pip install torch)")
        names.remove(REFERENCE)
    print(f"{CORES} cores; {', '.join(f'{k} {v}' for k, v in versions().items())}")
    rows = [row for n in options.queries for row in benchmark(n, names, options.rounds)]
    if options.memory:
        print("\npeak memory beyond the imports, MiB")
        for row in rows:
            row["peak_mib"] = peak_memory(row["contestant"], row["queries"])
            print(f"  {row['contestant']:20}{row['queries']:4} queries{row['peak_mib']:9.0f}")
    if options.json:
        content = {"cores": CORES, "versions": versions(), "rows": rows}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
