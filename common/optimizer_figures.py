"""Figures of optimisers: losses by step, updates made of a history of gradients, learning."""

from common import plots
from common.results import Estimate

import numpy as np
from matplotlib.ticker import LogFormatterSciNotation

LINES = {
    "learned": {"color": plots.BLUE, "linewidth": 2.4, "zorder": 4},
    "SGD": {"color": plots.BLACK, "linestyle": ":"},
    "Nesterov": {"color": plots.GREEN, "linestyle": "-."},
    "RMSprop": {"color": plots.ORANGE, "linestyle": (0, (5, 1, 1, 1, 1, 1))},
    "Adam": {"color": plots.VERMILLION, "linestyle": "--"},
}
TRAINING = {"color": plots.PURPLE, "linestyle": (0, (1, 1))}


class PlainNumbers(LogFormatterSciNotation):
    """60 where matplotlib writes 6 x 10^1, unless the axis reaches below 0.0001 or above 10,000."""

    def __call__(self, x, pos=None):
        words = super().__call__(x, pos)  # none where there is no room
        low, high = sorted(self.axis.get_view_interval())
        return f"{x:g}" if words and low >= 1e-4 and high <= 1e4 else words


def log_scale(axis):
    """Makes the y-axis of a panel logarithmic, with plain numbers where they are short."""
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(PlainNumbers())
    axis.yaxis.set_minor_formatter(PlainNumbers())


def whole_steps(axis):
    """Marks whole numbers only on the x-axis of a panel: there is no half a step."""
    axis.xaxis.get_major_locator().set_params(integer=True)


def curve(losses, spread=(10, 90)):
    """What a figure shows of losses `(tasks, steps + 1)`: their mean and percentiles by step."""
    with np.errstate(over="ignore", invalid="ignore"):
        low, high = np.percentile(losses, spread, axis=0)
        found = {"mean": losses.mean(axis=0), "low": low, "high": high}
    return {name: [float(f"{v:.5g}") for v in values] for name, values in found.items()}


def draw_losses(conditions):
    """Mean loss against step, on a panel for each kind of functions, with the spread over them.

    Args:
        conditions: For each kind by name `rates`, those of the hand-made optimisers, and `curves`,
            for each optimiser what `curve` returned.

    Returns:
        The matplotlib figure.
    """
    columns = min(len(conditions), 2)
    rows = -(-len(conditions) // columns)
    figure, axes = plots.figure(rows, columns, size=(5.2, 3.6), squeeze=False)
    for axis in axes.flat[len(conditions) :]:
        axis.set_axis_off()
    for axis, (kind, found) in zip(axes.flat, conditions.items()):
        top = 0.0
        for name, values in found["curves"].items():
            mean, low, high = (np.array(values[k], float) for k in ("mean", "low", "high"))
            rate = found["rates"].get(name)
            label = name if rate is None else f"{name}, rate {rate:g}"
            steps = np.arange(len(mean))
            axis.plot(steps, mean, label=label, **LINES[name])
            if name in ("learned", "Adam"):
                axis.fill_between(steps, low, high, color=LINES[name]["color"], alpha=0.13, lw=0)
            top = max(top, mean[0])
        log_scale(axis)
        whole_steps(axis)
        axis.set(xlabel="step t", title=kind)
        axis.set_ylabel(r"$f(\theta_t)$: mean, and 10 to 90 % shaded")
        axis.set_ylim(top=3 * top)
        axis.legend(fontsize=8)
    return figure


def draw_updates(found):
    """What each optimiser adds to a coordinate that has seen a history of gradients.

    Args:
        found: `gradients[history]` and `updates[optimiser][history]`, lists by step.

    Returns:
        The matplotlib figure.
    """
    histories = list(found["gradients"])
    figure, axes = plots.figure(2, len(histories), size=(3.0, 2.4), sharex=True, sharey="row")
    for (upper, lower), history in zip(axes.T, histories):
        gradients = found["gradients"][history]
        upper.plot(gradients, color=plots.PURPLE, marker=".", markersize=4, linewidth=1)
        upper.set_title(f"{history} gradient")
        for name in found["updates"]:
            lower.plot(found["updates"][name][history], label=name, **LINES[name])
        lower.set_xlabel("step")
        whole_steps(lower)
    axes[0, 0].set_ylabel("gradient")
    axes[1, 0].set_ylabel("update")
    handles, labels = axes[1, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure


def draw_learning(history, metrics):
    """The summed loss against outer steps, with the hand-made optimisers' as lines.

    Args:
        history: Learning curves `step`, `loss` and `val_loss`.
        metrics: Those of the run.

    Returns:
        The matplotlib figure.
    """
    figure, axis = plots.figure(size=(5.6, 3.6))
    steps, losses = history["step"], history["loss"] + history["val_loss"]
    axis.plot(steps, history["loss"], label="learned, meta-training", **TRAINING)
    axis.plot(steps, history["val_loss"], label="learned, validation", **plots.role("after"))
    highest = 2 * np.nanmax(losses)
    for name, line in LINES.items():
        total = Estimate.restored(metrics[f"{name}_loss_sum"]).mean
        if name != "learned" and total < highest:  # one that diverged would flatten the rest
            axis.axhline(total, label=f"{name}, meta-test", **line | {"linewidth": 1.2})
    axis.set(xlabel="outer step", ylabel="loss summed over the steps")
    log_scale(axis)
    whole_steps(axis)
    axis.set_ylim(top=highest)
    axis.legend(fontsize=8)
    return figure
