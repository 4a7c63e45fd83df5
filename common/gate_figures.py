"""The gates of an LSTM meta-learner, layer by layer and step by step: recorded, and drawn."""

from collections import Counter

from common import plots

import numpy as np

QUARTILES = (25, 75)
MARKERS = "osD^vPX"


def record(learner, episodes, steps):
    """The gates that a learner opens while it learns tasks.

    Args:
        learner: A learner with `inner_step` and `gates`, such as `LSTMMetaLearner`.
        episodes: Batches of `Episode`.
        steps: Inner steps.

    Returns:
        A dictionary for JSON: `layers`, their names; `forget` and `input`, for each layer the mean
        over its weights and the tasks in every step, `(layers, steps)`; and `forget_quartiles`
        and `input_quartiles`, `(layers, steps, 2)`.
    """
    groups = _layers(learner.network)
    gates = [[[] for _ in range(steps)] for _ in groups]  # of each layer and step, the batches'
    for episode in episodes:
        state = learner.adapt(episode.support_x, episode.support_y, steps=0)
        for step in range(steps):
            state = learner.inner_step(state, episode.support_x, episode.support_y, step=step)
            both = learner.gates(state)
            for index, members in enumerate(groups.values()):
                values = [np.concatenate([np.ravel(gate[m]) for m in members]) for gate in both]
                gates[index][step].append(values)
    found = [[np.concatenate(batches, axis=-1) for batches in layer] for layer in gates]
    record = {"layers": list(groups)}
    for number, name in enumerate(("forget", "input")):
        of_gate = [[values[number] for values in layer] for layer in found]
        record[name] = [[float(np.mean(v)) for v in layer] for layer in of_gate]
        record[f"{name}_quartiles"] = [
            [np.percentile(v, QUARTILES).tolist() for v in layer] for layer in of_gate
        ]
    return record


def _layers(network):
    """Positions of the trainable variables by layer: `convolution 2`; normalisations are one."""
    kinds = {"Conv2D": "convolution", "Dense": "linear layer"}
    places = {id(v): place for place, v in enumerate(network.trainable_variables)}
    groups, counts = {}, Counter()
    for layer in network.layers:
        members = [places[id(v)] for v in layer.trainable_variables if id(v) in places]
        if not members:
            continue
        kind = type(layer).__name__
        counts[kind] += 1
        if "Normalization" in kind:
            name = "normalisations"
        else:
            name = f"{kinds.get(kind, kind)} {counts[kind]}"
        groups.setdefault(name, []).extend(members)
    return groups


def draw(found):
    """Both gates against the inner steps: a mark for each layer, a bar from quartile to quartile.

    Layers stand beside one another within a step, or they would hide each other where they agree.

    Args:
        found: What `record` returned.

    Returns:
        The matplotlib figure.
    """
    figure, axes = plots.figure(1, 2, size=(4.6, 3.4))
    layers = found["layers"]
    shifts = np.linspace(-0.3, 0.3, len(layers)) if len(layers) > 1 else [0.0]
    for axis, gate, title in zip(axes, ("forget", "input"), ("forget gate f", "input gate i")):
        for index, (layer, shift) in enumerate(zip(layers, shifts)):
            mean = np.array(found[gate][index])
            steps = np.arange(1, len(mean) + 1) + shift
            color = plots.COLORS[index % len(plots.COLORS)]
            axis.vlines(
                steps, *np.transpose(found[f"{gate}_quartiles"][index]), color=color, alpha=0.45,
                linewidth=4,
            )  # fmt: skip
            marker = MARKERS[index % len(MARKERS)]
            axis.plot(steps, mean, marker, color=color, markersize=5, label=layer)
        axis.set(xlabel="inner step", title=title, xticks=np.arange(1, len(mean) + 1))
        axis.grid(visible=False, axis="x")
    axes[0].set_ylabel("mean and middle half")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure
