"""Figures of navigation: the trajectories themselves, returns, learning curves."""

from common import plots

import numpy as np

MEAN_DISTANCE = 0.3826  # from the start to a goal: what never moving costs each time


def draw_paths(examples, size=2.3):
    """Trajectories to some goals, a row each, before adaptation and after each inner step.

    Args:
        examples: One dictionary a goal: `goal` `(2,)`, and `paths[step][trajectory]`, each
            `(moves, 2)`.
        size: Width of each picture, in inches.

    Returns:
        The matplotlib figure.
    """
    steps = len(examples[0]["paths"])
    figure, axes = plots.figure(
        len(examples), steps, size=(size, size), squeeze=False, sharex=True, sharey=True
    )
    colors = [plots.role("before")["color"], *plots.shades("after", max(steps - 1, 1))]
    ends = [np.abs(path).max() for e in examples for paths in e["paths"] for path in paths if path]
    reach = min(max(0.6, 1.05 * max(ends)), 1.0)  # of those that go astray, the beginning
    for row, example in zip(axes, examples, strict=True):
        for step, (axis, paths) in enumerate(zip(row, example["paths"], strict=True)):
            for path in paths:
                axis.plot(*np.transpose(path), color=colors[step], linewidth=1, alpha=0.8)
            axis.plot(0, 0, "o", color=plots.BLACK, markersize=5, label="start", zorder=4)
            line = {"color": plots.VERMILLION, "markeredgecolor": plots.BLACK}
            axis.plot(*example["goal"], "*", markersize=13, label="goal, unseen", zorder=5, **line)
            axis.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    for step, axis in enumerate(axes[0]):
        axis.set_title(f"after {step} step{'s' * (step > 1)}" if step else "before adaptation")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return figure


def draw_returns(curves, horizon=100):
    """Mean return against the number of inner steps, with 95 % intervals over goals.

    Args:
        curves: For each learner by name its `Estimate` after 0, 1, ... inner steps.
        horizon: Moves of a trajectory; a line says what standing still as long earns.

    Returns:
        The matplotlib figure.
    """
    still = -MEAN_DISTANCE * horizon
    figure, axis = plots.figure(size=(5.6, 3.6))
    for name, estimates, line in zip(curves, curves.values(), _lines(curves)):
        label = name.replace("_", " ")
        plots.interval_line(axis, range(len(estimates)), estimates, label=label, **line)
    axis.axhline(still, color="#888888", linewidth=1)
    axis.annotate(
        "standing still", (len(estimates) - 1, still), (0, 2),
        textcoords="offset points", ha="right", va="bottom", color="#666666",
    )  # fmt: skip
    axis.set(xlabel="inner steps at test time", ylabel="mean return, unseen goals")
    axis.set_xticks(range(len(estimates)))
    figure.legend(loc="outside upper center", ncols=len(curves), frameon=False)
    return figure


def draw_learning(history, names):
    """Return in training against the outer steps, before and after the inner steps.

    Args:
        history: Learning curves as `common.navigation_experiment.train` gives them.
        names: Names of the trained learners.

    Returns:
        The matplotlib figure.
    """
    figure, axis = plots.figure(size=(5.6, 3.4))
    for index, (name, line) in enumerate(zip(names, _lines(names))):
        for when, style in (("after", "-"), ("before", ":")):
            key = f"{name}_return_{when}" if index else f"return_{when}"
            line = {**line, "linestyle": style}
            label = f"{name.replace('_', ' ')}, {when} the inner step"
            axis.plot(history["step"], history[key], label=label, **line)
    axis.set(xlabel="outer step", ylabel="mean return in training")
    axis.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


def _lines(names):
    """A style for each learner; the one with random weights comes last, if there."""
    names = list(names)
    trained = [plots.role("after"), plots.role("baseline"), plots.role("before")]
    return [plots.role("random") if name == "random" else trained.pop(0) for name in names]
