"""Training steps of prototypical networks: ours, and the same in PyTorch.

    python -m tests.benchmarks.protonet_step [--rounds 10] [--json PATH]

One episode a step, 20-way 5-shot with 15 queries of each class, 28 x 28 random images; Conv4-64
with batch normalisation and pooling, squared Euclidean distances, Adam. PyTorch computes once in
its usual order of axes and once with channels last, with as many threads as it chooses. The
contestants take turns in every round, so that whatever else the machine does falls on all alike.
Before that, their losses and gradients are compared.
"""

import argparse
import json
from importlib.util import find_spec
from pathlib import Path

from chapter03_protonets.protonet import ProtoNet
from common.episodes import Episode
from common.networks import conv4
from tests.benchmarks.outer_step import CORES, compare, measure, to_keras, to_torch, versions

import keras
import numpy as np
import tensorflow as tf

N_WAY, K_SHOT, N_QUERY, FILTERS, OUTER_LR = 20, 5, 15, 64, 0.001


def random_episode():
    random = np.random.default_rng(0)

    def items(points):  # all pixels differ, or pooling would have ties to break
        n = N_WAY * points
        x = random.uniform(size=(1, n, 28, 28, 1))
        return x.astype(np.float32), np.tile(np.arange(n, dtype=np.int32) % N_WAY, (1, 1))

    return Episode(*items(K_SHOT), *items(N_QUERY))


# The contestants: each takes an episode and returns two functions without arguments, one training
# step that returns its loss, and the loss with the gradient, in the layout of `conv4`.


def ours(episode, norm="fused"):
    """`ProtoNet` as it is."""
    network = conv4((28, 28, 1), None, filters=FILTERS, strided=False, norm=norm)
    learner = ProtoNet(network, train_way=N_WAY)
    learner.compile(optimizer=keras.optimizers.Adam(OUTER_LR))
    learner.optimizer.build(learner.trainable_variables)
    episode = Episode(*(tf.constant(part) for part in episode))
    train_step = tf.function(learner.train_step).get_concrete_function(episode)

    @tf.function
    def gradient():
        with tf.GradientTape() as tape:
            loss = learner.meta_loss(episode)
        return loss, tape.gradient(loss, [v.value for v in network.trainable_variables])

    def loss_and_gradient():
        loss, gradients = gradient()
        return float(loss), [g.numpy() for g in gradients]

    return lambda: float(train_step(*episode)["loss"]), loss_and_gradient


def ours_batch(episode):
    """With Keras's batch normalisation instead of the fused kernel."""
    return ours(episode, norm="batch")


def torch_usual(episode, channels_last=False):
    """The same in PyTorch."""
    import torch
    from torch import nn

    layout = torch.channels_last if channels_last else torch.contiguous_format
    weights = conv4((28, 28, 1), None, filters=FILTERS, strided=False).trainable_variables
    layers, channels = [], 1
    for block in range(4):
        convolution = nn.Conv2d(channels, FILTERS, 3, padding=1, bias=False)
        convolution.weight.data = torch.tensor(to_torch(weights[3 * block].numpy()))
        norm = nn.BatchNorm2d(FILTERS, eps=1e-3)
        layers += [convolution, norm, nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        channels = FILTERS
    network = nn.Sequential(*layers, nn.Flatten()).to(memory_format=layout)
    optimizer = torch.optim.Adam(network.parameters(), OUTER_LR)
    support, query = (
        torch.tensor(part[0].transpose(0, 3, 1, 2)) for part in (episode.support_x, episode.query_x)
    )
    support_y, query_y = (torch.tensor(y[0]).long() for y in episode[1::2])

    def backward():
        optimizer.zero_grad()
        items = torch.cat([support, query]).contiguous(memory_format=layout)
        supports, queries = network(items).split([len(support), len(query)])
        belongs = nn.functional.one_hot(support_y, N_WAY).float()
        prototypes = (belongs / belongs.sum(0)).T @ supports  # (n_way, features)
        squares = (queries**2).sum(1)[:, None] + (prototypes**2).sum(1)
        logits = 2 * queries @ prototypes.T - squares
        loss = nn.functional.cross_entropy(logits, query_y)
        loss.backward()
        return loss.item()

    def step():
        loss = backward()
        optimizer.step()
        return loss

    def loss_and_gradient():
        loss = backward()
        return loss, [to_keras(w.grad.contiguous().numpy()) for w in network.parameters()]

    return step, loss_and_gradient


def torch_channels_last(episode):
    """The same with channels last."""
    return torch_usual(episode, channels_last=True)


CONTESTANTS = {
    "ours": ours,
    "ours, Keras's norm": ours_batch,
    "torch": torch_usual,
    "torch channels_last": torch_channels_last,
}
PEERS = ("torch", "torch channels_last")


def main() -> None:
    parser = argparse.ArgumentParser(description="Training steps of prototypical networks.")
    parser.add_argument("--rounds", type=int, default=10, help="turns of every contestant")
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, help="some of the contestants")
    parser.add_argument("--json", type=Path, help="where to write the table")
    options = parser.parse_args()
    names = options.only or list(CONTESTANTS)
    if find_spec("torch") is None:
        print("torch is not installed: without it (pip install torch)")
        names = [name for name in names if name not in PEERS]
    print(f"{CORES} cores; {', '.join(f'{k} {v}' for k, v in versions().items())}")
    print(f"{N_WAY}-way {K_SHOT}-shot, {N_QUERY} queries of each class", flush=True)

    episode = random_episode()
    made = {name: CONTESTANTS[name](episode) for name in names}
    compare({name: gradient for name, (_, gradient) in made.items()})
    times = measure({name: step for name, (step, _) in made.items()}, options.rounds)
    best = {name: 1 / min(values) for name, values in times.items()}
    median = {name: 1 / np.median(values) for name, values in times.items()}
    peers = [name for name in PEERS if name in names]
    print(f"  {'':20}{'episodes/s best':>16}{'median':>9}{'x torch best':>14}{'median':>9}")
    rows = []
    for name in names:
        ratios = [
            rate[name] / max(rate[peer] for peer in peers) if peers else None
            for rate in (best, median)
        ]
        shown = "".join(f"{r:{w}.2f}" if r else f"{'-':>{w}}" for r, w in zip(ratios, (14, 9)))
        print(f"  {name:20}{best[name]:16.2f}{median[name]:9.2f}{shown}", flush=True)
        rows.append(
            {
                "contestant": name, "episodes_per_second": best[name],
                "median_episodes_per_second": median[name], "ratio_to_torch": ratios[0],
                "median_ratio_to_torch": ratios[1], "steps_timed": len(times[name]),
            }
        )  # fmt: skip
    if options.json:
        content = {"cores": CORES, "versions": versions(), "rows": rows}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
