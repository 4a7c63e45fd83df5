"""Steps of a learned optimiser in its training: ours, and the same in PyTorch.

    python -m tests.benchmarks.learned_optimizer [--functions 64] [--rounds 5] [--json PATH]

An unroll of 20 steps on random quadratics in 10 dimensions, with the meta-gradient of a two-layer
LSTM of 20 units and a step of Adam; a step counts once for every function. `one by one` follows a
single function, as most re-implementations do, `torch` as many as ours at once with
`torch.nn.LSTMCell` and a Python loop. The contestants take turns in every round, so that whatever
else the machine does falls on all alike, and the best round of each counts. Before that, their
losses and meta-gradients are compared.
"""

import argparse
import json
from importlib.util import find_spec
from pathlib import Path

from chapter01_intro.learning_to_learn import LearnedOptimizer, minimise
from common.optimisees import Quadratics
from tests.benchmarks.outer_step import CORES, compare, measure, versions

import keras
import numpy as np
import tensorflow as tf

UNROLL, DIMENSIONS, OUTER_LR, OUTPUT_SCALE = 20, 10, 0.001, 0.1


def new_learner(optimisees):
    options = {"train_steps": UNROLL, "unroll": UNROLL, "output_scale": OUTPUT_SCALE}
    return LearnedOptimizer(**options, optimisees=optimisees)


# The contestants: each takes a batch and returns two functions without arguments, one that trains
# for an unroll and returns its loss, and one for the loss with the meta-gradient.


def ours(batch, jit=False):
    """`LearnedOptimizer` as it is."""
    optimisees = Quadratics(DIMENSIONS)
    learner = new_learner(optimisees)
    learner.compile(keras.optimizers.Adam(OUTER_LR))
    learner.optimizer.build(learner.trainable_variables)
    train_step = tf.function(learner.train_step, jit_compile=jit, autograph=False)
    theta, data = batch

    @tf.function(autograph=False)
    def gradient():
        with tf.GradientTape() as tape:
            state = learner.initial_state(theta)
            losses = minimise(learner, optimisees, theta, state, data, 0, UNROLL)[2]
            loss = tf.reduce_sum(tf.reduce_mean(losses[1:], axis=1))
        return loss, tape.gradient(loss, [v.value for v in learner.trainable_variables])

    def loss_and_gradient():
        loss, gradients = gradient()
        return float(loss), [g.numpy() for g in gradients]

    return lambda: float(train_step(batch)["loss"]), loss_and_gradient


def ours_xla(batch):
    """The same compiled with XLA."""
    return ours(batch, jit=True)


def torch_cells(batch):
    """The same in PyTorch."""
    import torch
    from torch import nn

    start, matrix, target = (torch.tensor(part.numpy()) for part in (batch[0], *batch[1]))
    n_tasks = len(start)
    learner = new_learner(None)
    cells = nn.ModuleList(nn.LSTMCell(n, 20) for n in (1, 20))
    head = nn.Linear(20, 1)
    for cell, found in zip(cells, learner.network.cells):
        for name, weight in zip(("ih", "hh"), (found.kernel, found.recurrent_kernel)):
            getattr(cell, f"weight_{name}").data = _swapped(torch.tensor(weight.numpy().T))
        cell.bias_ih.data = _swapped(torch.tensor(found.bias.numpy()))
        cell.bias_hh = nn.Parameter(torch.zeros(80), requires_grad=False)
    head.weight.data = torch.tensor(learner.head.kernel.numpy().T)
    head.bias.data = torch.tensor(learner.head.bias.numpy())
    weights = [p for p in (*cells.parameters(), *head.parameters()) if p.requires_grad]
    optimizer = torch.optim.Adam(weights, OUTER_LR)

    def backward():
        optimizer.zero_grad()
        theta, total = start, 0.0
        states = [(torch.zeros(n_tasks * DIMENSIONS, 20),) * 2 for _ in cells]
        for _ in range(UNROLL):
            seen = theta.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(losses(seen).sum(), seen)
            values = gradient.reshape(-1, 1)
            for layer, cell in enumerate(cells):
                states[layer] = cell(values, states[layer])
                values = states[layer][0]
            theta = theta + OUTPUT_SCALE * head(values).reshape(theta.shape)
            total = total + losses(theta).mean()
        total.backward()
        return total.item()

    def losses(theta):
        return ((torch.einsum("nij,nj->ni", matrix, theta) - target) ** 2).sum(1)

    def step():
        loss = backward()
        optimizer.step()
        return loss

    def loss_and_gradient():
        loss = backward()
        found = []
        for cell in cells:
            found += [_swapped(cell.weight_ih.grad).T, _swapped(cell.weight_hh.grad).T]
            found.append(_swapped(cell.bias_ih.grad))
        return loss, [g.numpy() for g in (*found, head.weight.grad.T, head.bias.grad)]

    return step, loss_and_gradient


def _swapped(gates):
    """Rows of the gates i, f, o, z as those of PyTorch i, f, z, o, and the other way round."""
    import torch

    i, f, o, z = gates.chunk(4)
    return torch.cat([i, f, z, o])


CONTESTANTS = {
    "ours": (ours, False),
    "ours, XLA": (ours_xla, False),
    "ours, one by one": (ours, True),
    "torch": (torch_cells, False),
    "torch, one by one": (torch_cells, True),
}
SLOW_TO_COMPILE = "ours, XLA"


def main() -> None:
    parser = argparse.ArgumentParser(description="Steps of a learned optimiser in its training.")
    parser.add_argument("--functions", type=int, default=64, help="functions followed at once")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every contestant")
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, help="some of the contestants")
    parser.add_argument("--json", type=Path, help="where to write the table")
    options = parser.parse_args()
    names = options.only or [name for name in CONTESTANTS if name != SLOW_TO_COMPILE]
    if find_spec("torch") is None:
        print("torch is not installed: without it (pip install torch)")
        names = [name for name in names if not name.startswith("torch")]
    print(f"{CORES} cores; {', '.join(f'{k} {v}' for k, v in versions().items())}")
    print(f"{options.functions} quadratics in {DIMENSIONS} dimensions, unrolls of {UNROLL} steps")

    batch = Quadratics(DIMENSIONS).sample((0, 0), options.functions, UNROLL)
    single = tf.nest.map_structure(lambda part: part[:1], batch)
    made, count = {}, {}
    for alone in (False, True):
        group = {name: CONTESTANTS[name][0] for name in names if CONTESTANTS[name][1] == alone}
        found = {name: make(single if alone else batch) for name, make in group.items()}
        if found:
            compare({name: gradient for name, (_, gradient) in found.items()})
        made |= {name: step for name, (step, _) in found.items()}
        count |= dict.fromkeys(found, (1 if alone else options.functions) * UNROLL)
    times = measure(made, options.rounds)
    rows = []
    print(f"  {'':20}{'steps/s best':>14}{'median':>12}{'of the first':>14}")
    for name in made:
        best, median = (count[name] / f(times[name]) for f in (min, np.median))
        rows.append(
            {"contestant": name, "steps_per_second": best, "median_steps_per_second": float(median)}
        )
        ratio = best / rows[0]["steps_per_second"]
        rows[-1]["ratio_to_first"] = ratio
        print(f"  {name:20}{best:14,.0f}{median:12,.0f}{ratio:14.3f}", flush=True)
    if options.json:
        settings = {"functions": options.functions, "unroll": UNROLL, "dimensions": DIMENSIONS}
        content = {**settings, "cores": CORES, "versions": versions(), "rows": rows}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
