"""Learned rates of the inner loop: their summary, variable by variable, and its figure."""

from collections import Counter

from common import plots

import numpy as np

SHOWN = (5, 25, 50, 75, 95)  # percentiles


def summary(learner):
    """How the rates of a learner are distributed within each variable that they belong to.

    Args:
        learner: A learner with `network` and `alpha`, a list of variables aligned with
            `network.trainable_variables`, such as `MetaSGD`.

    Returns:
        One dictionary a variable, in order: `name` (like `Dense 1 kernel`), `size`, `percentiles`
        (those in `SHOWN`), `negative` (the share of rates below 0). All of it JSON can hold.
    """
    names = _names(learner.network)
    found = []
    for variable, alpha in zip(learner.network.trainable_variables, learner.alpha, strict=True):
        rates = alpha.numpy().astype(np.float64).reshape(-1)
        found.append(
            {
                "name": names.get(id(variable), variable.path),
                "size": rates.size,
                "percentiles": np.percentile(rates, SHOWN).round(6).tolist(),
                "negative": round(float(np.mean(rates < 0)), 4),
            }
        )
    return found


def _names(network):
    """Names of the variables by their id, layers counted by kind: `Conv2D 2 kernel`."""
    names, counts = {}, Counter()
    for layer in network.layers:
        if layer.trainable_variables:
            kind = type(layer).__name__.replace("Normalization", "Norm")
            counts[kind] += 1
            for variable in layer.trainable_variables:
                names[id(variable)] = f"{kind} {counts[kind]} {variable.name}"
    return names


def draw_rates(rates, start):
    """Where the rates of each variable lie, negative ones apart, and how many those are.

    Args:
        rates: What `summary` returned.
        start: `(low, high)`: the range in which the rates began, drawn as a band.

    Returns:
        The matplotlib figure.
    """
    figure, (left, right) = plots.figure(
        1, 2, size=(4.2, 1.1 + 0.27 * len(rates)), sharey=True, width_ratios=(2.4, 1)
    )
    left.axvspan(*start, color="#BBBBBB", alpha=0.5, linewidth=0, label="where they began")
    if start[0] == start[1]:
        left.axvline(start[0], color="#BBBBBB", linewidth=3)
    left.axvline(0, color="black", linewidth=0.8)
    for row, entry in enumerate(rates):
        p5, p25, p50, p75, p95 = entry["percentiles"]
        for low, high, width in ((p5, p95, 2), (p25, p75, 7)):
            for sign, color in ((1, plots.BLUE), (-1, plots.VERMILLION)):
                ends = np.clip((low, high), *((0, np.inf) if sign > 0 else (-np.inf, 0)))
                if ends[0] < ends[1]:
                    left.plot(ends, (row, row), color=color, linewidth=width, **_BUTT)
        left.plot(p50, row, "o", color="white", markeredgecolor="black", markersize=5, zorder=4)
    for color, name in ((plots.BLUE, "positive"), (plots.VERMILLION, "negative")):
        left.plot([], [], color=color, linewidth=5, label=f"{name} rates")
    left.plot([], [], "o", color="white", markeredgecolor="black", markersize=5, label="median")
    shares = [100 * entry["negative"] for entry in rates]
    right.barh(range(len(rates)), shares, height=0.55, color=plots.VERMILLION)
    for row, share in enumerate(shares):
        right.annotate(f" {share:.0f}", (share, row), va="center", fontsize=8)
    left.set_yticks(range(len(rates)), [entry["name"] for entry in rates])
    left.invert_yaxis()
    left.set_xlabel("rate: middle half (thick), 5th to 95th percentile")
    right.set(xlabel="negative rates, %", xlim=(0, max(10, 1.25 * max(shares))))
    figure.legend(loc="outside upper center", ncols=4, frameon=False)
    return figure


_BUTT = {"solid_capstyle": "butt"}
