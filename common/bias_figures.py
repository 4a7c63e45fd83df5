"""What weights prefer before they are adapted: losses, entropies, and how uneven the losses are."""

from functools import partial

from common import inequality, plots
from common.results import Estimate

import numpy as np
import tensorflow as tf


def before_and_after(learner, episodes):
    """Loss and entropy on the queries of every task, before adaptation and after `test_steps`.

    Args:
        learner: A gradient-based `MetaLearner`.
        episodes: Batches of `Episode`.

    Returns:
        `{"loss": (tasks, 2), "entropy": (tasks, 2)}`, NumPy; entropy in nats, and only of a
        learner that classifies.
    """
    look = tf.function(partial(_look, learner))
    found = [look(episode) for episode in episodes]
    return {name: np.concatenate([batch[name] for batch in found]) for name in found[0]}


def _look(learner, episode):
    found = {"loss": [], "entropy": []}
    for steps in (0, learner.test_steps):
        weights = learner.adapt(episode.support_x, episode.support_y, steps=steps)
        outputs = learner.predict_with(weights, episode.query_x)
        found["loss"].append(learner.task_losses(episode.query_y, outputs))
        if learner.classifies:
            found["entropy"].append(tf.reduce_mean(inequality.entropy(outputs), axis=1))
    return {name: tf.stack(values, axis=1) for name, values in found.items() if values}


def add(result, runs, measure=inequality.theil):
    """Adds to a result how biased the learners of all seeds are, before adaptation and after it.

    Args:
        result: From `paired_seeds.measure`; its metrics get `TAML_entropy_before` (over tasks) and
            `TAML_inequality_before` (over seeds), and so on; its `extra["bias"]` what the figure
            needs.
        runs: From `paired_seeds.train`.
        measure: A function of `common.inequality`.

    Returns:
        The result.
    """
    result.extra["bias"] = {}
    for name in runs[0].learners:
        found = [before_and_after(r.learners[name], _episodes(r)) for r in runs]
        bias = {}
        for kind in found[0]:
            values = np.concatenate([entry[kind] for entry in found])
            bias[kind] = [Estimate.from_values(column) for column in values.T]
        losses = [entry["loss"].T for entry in found]  # for each seed (2, tasks)
        finite = [np.nan_to_num(loss, posinf=1e30, nan=1e30) for loss in losses]
        bias["inequality"] = [
            Estimate.from_seeds([float(measure(loss[at])) for loss in finite]) for at in (0, 1)
        ]
        curves = [[inequality.lorenz_curve(tasks).numpy() for tasks in loss] for loss in finite]
        bias["lorenz"] = np.mean(curves, axis=0).round(4).tolist()
        result.extra["bias"][name] = bias
        for kind in ("loss", "entropy", "inequality"):
            for at, when in enumerate(("before", "after")):
                if kind in bias:
                    result.metrics[f"{name}_{kind}_{when}"] = bias[kind][at]
    return result


def _episodes(run):
    return run.sampler.fixed(len(next(iter(run.scores.values()))), 25)


def draw_bias(bias):
    """Loss and entropy before and after adaptation, and the Lorenz curves of the tasks' losses.

    Args:
        bias: `extra["bias"]` as `add` left it.

    Returns:
        The matplotlib figure.
    """
    kinds = [kind for kind in ("loss", "entropy") if kind in next(iter(bias.values()))]
    figure, axes = plots.figure(1, len(kinds) + 1, size=(3.3, 3.0))
    looks = (plots.role("after"), plots.role("baseline"))
    labels = {"loss": "mean query loss", "entropy": "mean entropy, nats"}
    for axis, kind in zip(axes, kinds):
        for (name, entry), look in zip(bias.items(), looks):
            estimates = [Estimate.restored(e) for e in entry[kind]]
            plots.interval_line(axis, (0, 1), estimates, label=name, **look)
        axis.set_xticks((0, 1), ("before", "after"))
        axis.set(xlim=(-0.25, 1.25), ylabel=labels[kind], xlabel="adaptation")
        axis.set_ylim(bottom=0)
    last = axes[-1]
    for (name, entry), look in zip(bias.items(), looks):
        before = entry["lorenz"][0]
        index = Estimate.restored(entry["inequality"][0]).mean
        last.plot(
            np.linspace(0, 1, len(before)), before, label=f"{name}: index {index:.3f}", **look
        )
    last.plot((0, 1), (0, 1), color="#888888", linewidth=1)
    last.annotate("equal losses", (0.5, 0.53), rotation=40, ha="center", color="#666666")
    last.set(xlabel="share of tasks, easiest first", ylabel="share of all loss before")
    last.legend(loc="upper left", fontsize=8)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=2, frameon=False)
    return figure


def draw(result, directory):
    """Saves the figure of the bias as `bias.png`."""
    plots.save(draw_bias(result.extra["bias"]), directory / "bias.png")
