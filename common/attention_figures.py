"""Figures of attention: which support items a query looks at, as a matrix with pictures."""

from common import plots

import numpy as np
import tensorflow as tf
from matplotlib.patches import Rectangle

MARGIN = 1.25  # of the pictures, in cells


def by_class(labels, most=None):
    """Numbers of the items, class after class, at most `most` of each."""
    classes = range(int(labels.max()) + 1)
    return np.concatenate([np.flatnonzero(labels == label)[:most] for label in classes])


def attention_steps(learner, episode):
    """What the queries of an episode attend to, from the first look to the last.

    Args:
        learner: A learner with `embeddings` and `log_attention`, such as `MatchingNetwork`.
        episode: An `Episode` without task axis.

    Returns:
        A dictionary from title to `(queries, supports)`: what full-context embeddings, if it has
        them, read first (r_0), then (r_1) and last, and the attention that decides.
    """
    parts = (tf.convert_to_tensor(part)[None] for part in (episode.support_x, episode.query_x))
    query, support, readings = learner.embeddings(*parts)
    shown = sorted({0, min(1, len(readings) - 1), len(readings) - 1}) if readings else []
    steps = {f"reading $r_{k}$": readings[k] for k in shown}
    steps["attention $a(x, x_i)$"] = tf.exp(learner.log_attention(query, support))
    return {title: matrix[0].numpy() for title, matrix in steps.items()}


def draw_attention(steps, episode, most=2, size=0.38):
    """Matrices of attention: a row for each query, a column for each support item, by class.

    The items of a query's own class are framed: there the weight should be.

    Args:
        steps: Dictionary from title to `(queries, supports)`, weights from 0 to 1.
        episode: The `Episode` of images, without task axis.
        most: How many queries of a class are shown.
        size: Of a cell, in inches.
    """
    rows, columns = by_class(episode.query_y, most), by_class(episode.support_y)
    height, width = len(rows), len(columns)
    grid = (1, len(steps)) if width <= 10 else (len(steps), 1)
    inches = (size * (width + MARGIN), size * (height + MARGIN + 1))
    figure, axes = plots.figure(*grid, inches, squeeze=False)
    for axis, (title, matrix) in zip(axes.flat, steps.items(), strict=True):
        shown, extent = matrix[np.ix_(rows, columns)], (0, width, height, 0)
        drawn = axis.imshow(shown, cmap="Blues", vmin=0, vmax=1, extent=extent)
        _picture_margins(axis, episode.query_x[rows], episode.support_x[columns])
        for label in range(int(episode.support_y.max()) + 1):
            down = np.flatnonzero(episode.query_y[rows] == label)
            across = np.flatnonzero(episode.support_y[columns] == label)
            corner = (across[0], down[0])
            axis.add_patch(Rectangle(corner, len(across), len(down), fill=False, linewidth=1.6))
        axis.set(xlim=(-MARGIN, width + 0.05), ylim=(height + 0.05, -MARGIN), title=title)
        axis.axis("off")
    figure.colorbar(drawn, ax=axes, fraction=0.04, pad=0.01, label="weight")
    return figure


def _picture_margins(axis, queries, supports):
    """Pictures of the queries at the left of a matrix, and of the support items above it."""
    places = [(-1.15, row, image) for row, image in enumerate(queries)]
    places += [(column, -1.15, image) for column, image in enumerate(supports)]
    for x, y, image in places:
        shown = np.squeeze(image)
        colors = {"cmap": "gray_r", "vmin": 0, "vmax": 1} if shown.ndim == 2 else {}
        axis.imshow(shown, extent=(x + 0.04, x + 0.96, y + 0.96, y + 0.04), **colors)
