"""Figures of the metric learners: embedded items of an episode in the plane."""

from common import plots
from common.embedding import embed

import numpy as np
import tensorflow as tf
from matplotlib.colors import Normalize
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from sklearn.decomposition import PCA

MARKERS = "osD^vP*X<>"


def plane_of(points, *others):
    """Projects points to the plane in which `points` vary most.

    Args:
        points: `(n, features)`, those that decide the plane.
        others: More points `(m, features)`.

    Returns:
        A list of arrays `(n, 2)`, for `points` and each of the `others`.
    """
    plane = PCA(2).fit(points)
    return [plane.transform(each) for each in (points, *others)]


def class_colors(n_way):
    """Colour and marker of each class, so that no reader needs the colours alone."""
    colors = plots.COLORS
    return [(colors[k % len(colors)], MARKERS[k % len(MARKERS)]) for k in range(n_way)]


def embedded(learner, episode):
    """Embeds an episode of one task: NumPy `(supports, features)` and `(queries, features)`."""
    parts = (tf.convert_to_tensor(part)[None] for part in (episode.support_x, episode.query_x))
    return [part[0].numpy() for part in embed(learner.network, *parts)]


def draw_prototypes(learner, episode, title=None):
    """The embedding of one episode: queries as points, prototypes as large signs with pictures.

    Args:
        learner: A learner with `network` and `prototypes`, such as `ProtoNet`.
        episode: An `Episode` without task axis.
        title: Title of the figure.
    """
    support, query = embedded(learner, episode)
    n_way = int(episode.support_y.max()) + 1
    prototypes = learner.prototypes(support[None], episode.support_y[None], n_way)[0].numpy()
    query, prototypes = plane_of(query, prototypes)
    figure, axis = plots.figure(size=(5.2, 4.4))
    for k, (color, marker) in enumerate(class_colors(n_way)):
        own = query[episode.query_y == k]
        axis.scatter(*own.T, s=28, color=color, marker=marker, alpha=0.55, linewidth=0)
        axis.scatter(
            *prototypes[k], s=170, color=color, marker=marker, edgecolor="black", linewidth=1.4,
            zorder=3, label=f"class {k}",
        )  # fmt: skip
        if np.ndim(episode.support_x) == 4:
            picture(axis, episode.support_x[episode.support_y == k][0], prototypes[k], color)
    note = "large: prototypes, small: queries"
    axis.set(xlabel="first principal component", ylabel="second", title=title or note)
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    axis.margins(0.12)
    axis.locator_params(nbins=6)
    return figure


def picture(axis, image, position, color, zoom=0.9, offset=(26, 22)):
    """A small picture beside a point."""
    shown = np.squeeze(image)
    options = {"cmap": "gray_r", "norm": Normalize(0, 1)} if shown.ndim == 2 else {}
    box = OffsetImage(shown, zoom=zoom * 28 / max(shown.shape[:2]), **options)
    frame = {"edgecolor": color, "linewidth": 1.5}
    place = {"xybox": offset, "boxcoords": "offset points", "pad": 0.1, "zorder": 4}
    axis.add_artist(AnnotationBbox(box, position, bboxprops=frame, **place))
