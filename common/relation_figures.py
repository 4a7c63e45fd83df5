"""Figures of relation networks: the score of every query with every class, as a matrix."""

from common import metric_experiment, metric_figures, plots

import numpy as np
import tensorflow as tf

MOST_PICTURES = 8  # classes that there is room for


def scores(learner, episode):
    """The relation scores of an episode without task axis: NumPy `(queries, n_way)`."""
    parts = type(episode)(*(tf.convert_to_tensor(part)[None] for part in episode))
    return learner.query_predictions(parts)[0].numpy()


def draw_scores(matrices, episode):
    """Score matrices of one episode beside the one that training aims at (equation 2).

    Args:
        matrices: Scores `(queries, n_way)` by title, such as `{"trained": ...}`.
        episode: The `Episode`, without task axis. Its rows are sorted by class; where the support
            set has images of few classes, the first of each stands over its column.
    """
    order = np.argsort(episode.query_y, kind="stable")
    labels = np.asarray(episode.query_y)[order]
    n_way = int(labels.max()) + 1
    ideal = np.eye(n_way)[np.asarray(episode.query_y)]
    shown = {**matrices, "ideal: 1 if the same class, else 0": ideal}
    pictures = np.ndim(episode.support_x) == 4 and n_way <= MOST_PICTURES
    figure, axes = plots.figure(1, len(shown), size=(3.4, 4.6), sharey=True)
    for axis, (title, values) in zip(axes, shown.items(), strict=True):
        image = axis.imshow(
            values[order], cmap="cividis", vmin=0, vmax=1, aspect="auto", interpolation="nearest"
        )
        for first in np.flatnonzero(np.diff(labels)) + 0.5:
            axis.axhline(first, color="white", linewidth=0.8)
        axis.set_xlabel("class of the support set")
        axis.set_title(title, pad=36 if pictures else 6)
        axis.set_xticks(range(0, n_way, 1 + n_way // 15))
        axis.grid(visible=False)
        if pictures:
            for k in range(n_way):
                example = episode.support_x[np.asarray(episode.support_y) == k][0]
                metric_figures.picture(axis, example, (k, -0.5), "#BBBBBB", 0.75, (0, 17))
    middles = [np.flatnonzero(labels == k).mean() for k in range(n_way)]
    axes[0].set_yticks(middles, [f"{k}" for k in range(n_way)])
    axes[0].set_ylabel("queries, sorted by their class")
    figure.colorbar(image, ax=axes, label="relation score r", shrink=0.8)
    return figure


def draw(result, config, directory):
    """Saves the figures of a run: those of all metric learners, and the scores of an episode."""
    metric_experiment.draw(result, config, directory)
    _, test_samplers = metric_experiment.samplers(config)
    episode = next(iter(test_samplers.values())).episode(0)
    figure = draw_scores({"relation scores": scores(result.learner, episode)}, episode)
    plots.save(figure, directory / "relation_scores.png")
