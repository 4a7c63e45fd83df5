"""Figures of contexts: what a learner that adapts a few numbers finds out about a wave."""

from common import plots

import numpy as np
import tensorflow as tf
from matplotlib import colormaps
from sklearn.decomposition import PCA

SHOWN = 7  # values along an axis of the plane


def plane(learner, sampler, n_tasks=500, steps=None):
    """The contexts of many waves, projected to a plane, and the curves along its two axes.

    The plane is that of the two numbers of the context if there are two, and otherwise that of
    the two principal components of the contexts. A single number makes a line of it.

    Args:
        learner: A learner with a `context(fast_weights)`, such as `CAML`.
        sampler: An `EpisodeSampler` of sine waves.
        n_tasks: Number of waves.
        steps: Inner steps; by default those that the learner takes at test time.

    Returns:
        A dictionary for JSON: `places` `(n_tasks, axes)`, `start` (the place of a context of
        zeros), `axes` (their names), `wave` (the waves' amplitude, phase and so on by name, as
        far as they vary), `x` `(points,)`, and for each axis `along` (the values, `(SHOWN,)`) and
        `curves` `(SHOWN, points)`.
    """
    seed = sampler.seed_of(0)
    episode = sampler.data.sample(seed, n_tasks, sampler.k_shot, 1)
    contexts = _contexts(learner, episode, steps).numpy()
    names = ("amplitude", "phase", "frequency")
    numbers = [values.numpy() for values in sampler.data.parameters(seed, n_tasks)]
    wave = {name: v.tolist() for name, v in zip(names, numbers, strict=True) if np.ptp(v) > 0}

    origin, directions, axes = _directions(contexts)
    places = (contexts - origin) @ directions.T
    along = [np.linspace(*np.percentile(column, (2, 98)), SHOWN) for column in places.T]
    x = np.linspace(*sampler.data.x_range, 200, dtype=np.float32)
    middle = np.median(places, axis=0)
    curves = []
    for axis, values in enumerate(along):
        moved = np.tile(middle, (SHOWN, 1))
        moved[:, axis] = values
        curves.append(_curves(learner, origin + moved @ directions, x))
    return {
        "places": places.round(4).tolist(), "start": (-origin @ directions.T).tolist(),
        "axes": axes, "wave": wave, "x": x.tolist(),
        "along": [values.tolist() for values in along],
        "curves": np.array(curves).round(4).tolist(),
    }  # fmt: skip


def _contexts(learner, episode, steps):
    adapt = tf.function(lambda x, y: learner.context(learner.adapt(x, y, steps=steps)))
    return adapt(episode.support_x, episode.support_y)


def _directions(contexts):
    """The origin and the axes of the plane in the space of contexts, and their names."""
    size = contexts.shape[1]
    if size <= 2:
        return np.zeros(size), np.eye(size), [f"context number {i + 1}" for i in range(size)]
    found = PCA(2).fit(contexts)
    parts = found.explained_variance_ratio_
    names = [f"component {i + 1}, {100 * part:.0f} % of variance" for i, part in enumerate(parts)]
    return found.mean_, found.components_, names


def _curves(learner, contexts, x):
    """The network's outputs `(contexts, points)` with each of the contexts."""
    weights = learner.batched_network.repeated_weights(len(contexts))
    index = next(i for i, weight in enumerate(weights) if weight is learner.context(weights))
    weights[index] = tf.constant(contexts, tf.float32)
    inputs = tf.tile(tf.constant(x)[None, :, None], (len(contexts), 1, 1))
    return np.squeeze(tf.cast(learner.predict_with(weights, inputs), tf.float32), -1)


def draw_plane(found):
    """Every wave at its place in the plane of contexts, coloured by each of its own numbers.

    A cross marks the context of zeros, where all of them started.

    Args:
        found: What `plane` returned. Where the context is one number, the wave's number is the
            other axis.

    Returns:
        The matplotlib figure.
    """
    places, wave, start = np.array(found["places"]), found["wave"], found["start"]
    figure, axes = plots.figure(1, len(wave), size=(4.4, 3.6), squeeze=False)
    for axis, (name, values) in zip(axes[0], wave.items(), strict=True):
        across = places[:, 1] if places.shape[1] > 1 else values
        drawn = axis.scatter(places[:, 0], across, c=values, s=14, cmap="viridis", linewidths=0)
        figure.colorbar(drawn, ax=axis, label=name)
        axis.set(xlabel=found["axes"][0], ylabel=[*found["axes"], name][1], title=f"by {name}")
        if places.shape[1] > 1:
            axis.plot(*start, "+", color=plots.VERMILLION, markersize=12, markeredgewidth=2.5)
    return figure


def draw_traversal(found):
    """What each axis of the plane does: predictions along it, the other one at its median.

    Args:
        found: What `plane` returned.

    Returns:
        The matplotlib figure.
    """
    n_axes = len(found["axes"])
    figure, axes = plots.figure(1, n_axes, size=(4.4, 3.2), squeeze=False, sharey=True)
    for i, axis in enumerate(axes[0]):
        values = found["along"][i]
        colors = colormaps["viridis"](np.linspace(0, 0.9, len(values)))
        for value, curve, color in zip(values, found["curves"][i], colors, strict=True):
            axis.plot(found["x"], curve, color=color, label=f"{round(value, 2) + 0:.2f}")
        axis.set(xlabel="x", title=f"along {found['axes'][i].partition(',')[0]}")
        axis.legend(loc="upper left", bbox_to_anchor=(1, 1), title="value", frameon=False)
    axes[0, 0].set_ylabel("prediction")
    return figure
