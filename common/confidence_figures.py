"""Figures of learners with confidences: radii in the plane, images sorted by confidence."""

from common import plots
from common.embedding import embed
from common.metric_figures import class_colors

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse
from matplotlib.ticker import MaxNLocator
from sklearn.decomposition import PCA


def draw_gaussians(learner, episode, damaged=None, title=None):
    """The prototypes of one episode in the plane, with their radii and their support points.

    A cross is the plain mean of a class, from which the weights pull its prototype. The ellipses of
    all classes lie at the same distance d from their prototypes: the smaller one is, the surer is
    its class. The area of a support point grows with its confidence.

    Args:
        learner: A learner with `points` and `prototypes`, such as `GaussianProtoNet`.
        episode: An `Episode` without task axis.
        damaged: Which support images are damaged, bool `(supports,)`; those are drawn hollow.
        title: Title of the figure.
    """
    damaged = np.zeros(len(episode.support_y), bool) if damaged is None else np.asarray(damaged)
    n_way = int(episode.support_y.max()) + 1
    shown, asked = embed(learner.network, episode.support_x[None], episode.query_x[None])
    points, sure = (part.numpy()[0] for part in learner.points(shown))
    prototypes, precisions = (
        part[0].numpy()
        for part in learner.prototypes(points[None], sure[None], episode.support_y[None], n_way)
    )
    query = learner.points(asked)[0].numpy()[0]
    plane = PCA(2).fit(query)
    points, query, centers = (plane.transform(each) for each in (points, query, prototypes))
    variances = np.broadcast_to(1 / precisions, prototypes.shape)
    reach = 0.1 * np.ptp(query, axis=0).mean() / np.sqrt(variances.mean())
    sizes = sure.mean(-1)
    sizes = 18 + 90 * (sizes - sizes.min()) / max(np.ptp(sizes), 1e-6)
    figure, axis = plots.figure(size=(5.6, 4.6))
    for k, (color, marker) in enumerate(class_colors(n_way)):
        own = query[episode.query_y == k]
        axis.scatter(*own.T, s=16, color=color, alpha=0.6, linewidth=0)
        mean = points[episode.support_y == k].mean(0)
        axis.scatter(*mean, s=42, marker="x", color=color, linewidth=1.8, zorder=4)
        _draw_ellipse(axis, centers[k], plane.components_, variances[k], reach, color)
        for hollow in (False, True):
            chosen = (episode.support_y == k) & (damaged == hollow)
            axis.scatter(
                *points[chosen].T, s=sizes[chosen], marker=marker, edgecolor=color, linewidth=1.3,
                facecolor="white" if hollow else color, zorder=3,
            )  # fmt: skip
        axis.scatter(
            *centers[k], s=110, marker="*", color=color, edgecolor="black", linewidth=0.9, zorder=5
        )
    axis.set(xlabel="first principal component", ylabel="second", aspect="equal", title=title)
    axis.legend(handles=_signs(bool(damaged.any())), loc="center left", bbox_to_anchor=(1.0, 0.5))
    axis.margins(0.1)
    return figure


def _draw_ellipse(axis, center, components, variances, reach, color):
    """Where d = reach around a prototype, projected to the plane of the two components."""
    spread, axes = np.linalg.eigh((components * variances) @ components.T)
    width, height = 2 * reach * np.sqrt(np.maximum(spread, 0))
    angle = np.degrees(np.arctan2(axes[1, 0], axes[0, 0]))
    options = {"edgecolor": color, "linewidth": 1.6, "zorder": 2}
    axis.add_patch(Ellipse(center, width, height, angle=angle, fill=False, **options))


def _signs(with_damage):
    """The legend of `draw_gaussians`."""
    black = {"linestyle": "none", "color": "black"}
    signs = [
        Line2D([], [], marker="*", markersize=11, label="prototype", **black),
        Line2D([], [], marker="x", markersize=7, label="plain mean", **black),
        Line2D([], [], marker="o", markersize=8, label="support; large: sure", **black),
        Line2D([], [], marker=".", markersize=8, label="query", **black),
        Line2D([], [], color="black", label="equal distance d"),
    ]
    hollow = Line2D([], [], marker="o", markersize=8, label="damaged", fillstyle="none", **black)
    return signs[:3] + [hollow] * with_damage + signs[3:]


def draw_sorted(images, confidences, damaged, rows=2, columns=12):
    """Images in the order of their confidence, and the confidences of all in two histograms.

    Args:
        images: `(n, height, width, channels)`; if they are more than fit, every so manieth of
            the sorted ones is shown.
        confidences: `(n,)`.
        damaged: Which ones are damaged, bool `(n,)`; they have a frame and a cross.
        rows, columns: How many images to show.
    """
    damaged = np.asarray(damaged)
    shown = min(len(images), rows * columns)
    ranks = np.linspace(0, len(images) - 1, shown).round().astype(int)
    order = np.argsort(confidences)[ranks]
    figure, (strip, histogram) = plots.figure(
        2, 1, size=(0.75 * columns, 0.95 * rows + 0.6),
        gridspec_kw={"height_ratios": [1.1 * rows, 1.6]},
    )  # fmt: skip
    for position, index in enumerate(order):
        row, column = divmod(position, columns)
        color = plots.VERMILLION if damaged[index] else "#BBBBBB"
        line = 2.2 if damaged[index] else 0.8
        plots.draw_image(strip, images[index], 1.12 * column, 1.42 * row, color, line)
        text = f"{confidences[index]:.2f}" + (" ✗" if damaged[index] else "")
        place = (1.12 * column + 0.5, 1.42 * row + 1.2)
        strip.text(*place, text, ha="center", va="center", fontsize=7.5)
    strip.set(xlim=(-0.1, 1.12 * columns), ylim=(1.42 * rows, -0.1), aspect="equal")
    strip.set_title("least sure first; framed and ✗: damaged")
    strip.axis("off")
    bins = np.histogram_bin_edges(confidences, 24)
    for chosen, label, color, style in (
        (~damaged, "whole", plots.BLUE, "stepfilled"),
        (damaged, "damaged", plots.VERMILLION, "step"),
    ):
        options = {"histtype": style, "color": color, "linewidth": 2, "label": label}
        histogram.hist(confidences[chosen], bins, **options)
    histogram.set(xlabel="confidence S", ylabel="images")
    histogram.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    histogram.legend()
    return figure
