"""Figures of gradient-based learners: what a few inner steps do to a prediction."""

from common import plots

import numpy as np

SHOWN_STEPS = (0, 1, 5, 10)


def draw_waves(waves, learners, steps=SHOWN_STEPS):
    """Regression tasks: the truth, the support points, and the predictions after some steps.

    Args:
        waves: One dictionary a task (a column of the figure): `x` and `truth` `(points,)`,
            `support_x` and `support_y`, and for every learner by its name the predictions after
            0, 1, ... inner steps, `(steps, points)`.
        learners: Names of the learners, a row of the figure each.
        steps: The numbers of inner steps to draw; 0 is before adaptation.

    Returns:
        The matplotlib figure.
    """
    figure, axes = plots.figure(
        len(learners), len(waves), size=(3.6, 2.6), squeeze=False, sharex="col", sharey="col"
    )
    colors = plots.shades("after", len(steps) - 1)
    for row, name in zip(axes, learners, strict=True):
        for axis, wave in zip(row, waves, strict=True):
            axis.plot(wave["x"], wave["truth"], label="true wave", **plots.role("truth"))
            for step, color in zip(steps, [None, *colors], strict=True):
                line = {**plots.role("after"), "color": color} if step else plots.role("before")
                label = f"after {step} step{'s' * (step > 1)}" if step else "before adaptation"
                axis.plot(wave["x"], np.asarray(wave[name])[step], label=label, **line)
            axis.plot(
                wave["support_x"], wave["support_y"], label="support points",
                **plots.role("support"),
            )  # fmt: skip
        row[0].set_ylabel(f"{name}\n\ny")
    for axis, wave in zip(axes[-1], waves, strict=True):
        axis.set_xlabel("x")
        usual = [wave["truth"], *(np.asarray(wave[name])[0] for name in learners)]
        most = 2 * np.max(np.abs(np.stack([np.ravel(line) for line in usual])))
        axis.set_ylim(np.clip(axis.get_ylim(), -most, most))  # a line that runs away leaves
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure


def draw_steps(curves, score, reference=None):
    """Score against the number of inner steps, with 95 % intervals.

    Where a learner's steps run away, its line leaves the figure at the top.

    Args:
        curves: For each learner by name its `Estimate` after 0, 1, ... inner steps.
        score: What is measured: the label of the axis.
        reference: Optional `(value, name)` of a line to compare with, such as guessing.

    Returns:
        The matplotlib figure.
    """
    roles = ("after", "baseline", "random", "before")
    start = max(estimates[0].mean for estimates in curves.values())
    high = max(1, 3 * start)  # an accuracy is at most 1
    runs_away = not all(e.mean <= high for estimates in curves.values() for e in estimates)
    figure, axis = plots.figure(size=(5.6, 3.6))
    for index, (name, estimates) in enumerate(curves.items()):
        estimates = [e if e.mean <= high else e._replace(ci95=np.nan) for e in estimates]
        line = plots.role(roles[index]) if index < len(roles) else {"color": plots.COLORS[index]}
        plots.interval_line(axis, range(len(estimates)), estimates, label=name, **line)
    if reference is not None:
        value, name = reference
        axis.axhline(value, color="#888888", linewidth=1)
        axis.annotate(name, (len(estimates) - 1, value), ha="right", va="bottom", color="#666666")
    axis.set(xlabel="inner steps at test time", ylabel=score)
    axis.set_ylim(bottom=0)
    if runs_away:
        axis.set_ylim(top=1.5 * start)
    figure.legend(loc="outside upper center", ncols=len(curves), frameon=False)
    return figure


def draw_learning(history, names):
    """The meta-loss in training against the outer steps, of all learners that have a curve.

    Args:
        history: Learning curves, as `common.experiment.train` gives them.
        names: Names of the learners; `loss` is the first one's, `<name>_loss` that of another.

    Returns:
        The matplotlib figure.
    """
    keys = {name: f"{name}_loss" if index else "loss" for index, name in enumerate(names)}
    keys = {name: key for name, key in keys.items() if key in history}
    figure, axis = plots.figure(size=(5.6, 3.2))
    if len(keys) == 1:
        plots.learning_curve(axis, history["step"], history["loss"])
    else:
        for (name, key), role in zip(keys.items(), ("after", "baseline", "random")):
            plots.learning_curve(axis, history["step"], history[key], name, **plots.role(role))
        axis.legend()
    axis.set(xlabel="outer step", ylabel="meta-loss in training")
    axis.xaxis.get_major_locator().set_params(integer=True)
    return figure
