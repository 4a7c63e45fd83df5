"""Figures of semi-supervised learners: an episode, k-means round by round, masks, effect of M."""

from common import plots
from common.embedding import embed, squared_distances
from common.metric_figures import class_colors, plane_of

import numpy as np
import tensorflow as tf
from matplotlib.colors import to_rgb

NOBODYS = "#DDDDDD"  # colour of what belongs to no class


def draw_episode(episode, max_images=8, max_rows=4):
    """Support, query and unlabelled items, a row for each class; distractor classes are last.

    The unlabelled items stand in the rows of their classes for the reader: a learner meets them
    in random order.

    Args:
        episode: A `SemiSupervisedEpisode` of images, without task axis.
        max_images: How many unlabelled items a row shows at most.
        max_rows: How many rows of distractors are shown at most.
    """
    n_way = int(episode.support_y.max()) + 1
    height, width, channels = episode.support_x.shape[1:]
    down, right = height + 3, width + 3  # from one image to the next
    rows = [
        [part_x[part_y == label][:most] for part_x, part_y, most in (
            (episode.support_x, episode.support_y, 5), (episode.query_x, episode.query_y, 5),
            (episode.unlabelled_x, episode.unlabelled_y, max_images),
        )]
        for label in range(n_way)
    ]  # fmt: skip
    strangers = episode.unlabelled_x[episode.unlabelled_y == -1]
    nothing = episode.support_x[:0]
    rows += [
        [nothing, nothing, strangers[start : start + max_images]]
        for start in range(0, min(len(strangers), max_rows * max_images), max_images)
    ]
    widths = [max(len(row[part]) for row in rows) for part in range(3)]
    starts = np.cumsum([0, widths[0] + 0.5, widths[1] + 0.5]) * right
    shape = (len(rows) * down, int(starts[2] + widths[2] * right))
    page = np.full((*shape, channels), channels == 3, np.float32)
    figure, axis = plots.figure(size=(shape[1] / 55, shape[0] / 55))
    for number, row in enumerate(rows):
        for start, images in zip(starts, row):
            for place, image in enumerate(images):
                x, y = int(start) + place * right, number * down
                page[y : y + height, x : x + width] = image
        name = str(number) if number < n_way else "?"
        axis.text(-5, (number + 0.45) * down, name, ha="right", va="center")
    for start, heading in zip(starts, ("support", "query", "unlabelled")):
        axis.text(start, -5, heading, fontweight="bold", fontsize=8)
    axis.imshow(np.squeeze(np.clip(page, 0, 1)), cmap="gray_r", vmin=0, vmax=1)
    axis.axis("off")
    return figure


def rounds(learner, episode, n_rounds):
    """K-means round by round, in the plane in which the first prototypes vary most.

    Args:
        learner: A learner with `refine` and `assignments`, such as `SoftKMeans`.
        episode: A `SemiSupervisedEpisode` without task axis.
        n_rounds: Number of steps of k-means.

    Returns:
        A list with a dictionary of lists for each round from 0 on: `unlabelled` `(n, 2)`,
        `prototypes` `(n_way, 2)`, `assignments` `(n, n_way)`; of masked ones also `relative`
        distances and `mask`, `(n, n_way)`.
    """
    sets = (tf.convert_to_tensor(x)[None] for x in (episode.support_x, episode.unlabelled_x))
    support, unlabelled = embed(learner.network, *sets)
    labels = episode.support_y[None]
    prototypes = start = learner.prototypes(support, labels, int(labels.max()) + 1)
    found = []
    for _ in range(n_rounds + 1):
        _, at, centres = plane_of(
            *(points[0].numpy() for points in (start, unlabelled, prototypes))
        )
        values = {"unlabelled": at, "prototypes": centres}
        values["assignments"] = learner.assignments(unlabelled, prototypes)[0].numpy()
        if hasattr(learner, "mask"):
            distances = squared_distances(unlabelled, prototypes)
            values["mask"] = learner.mask(distances)[0].numpy()
            values["relative"] = (distances / tf.reduce_mean(distances, 1, True))[0].numpy()
        found.append({name: value.round(4).tolist() for name, value in values.items()})
        prototypes = learner.refine(prototypes, support, labels, unlabelled)
    return found


def draw_rounds(found, hidden_labels, shown=(0, 1, 4)):
    """Soft assignments round by round; the colour of an item is a mixture of its classes' colours.

    Args:
        found: What `rounds` returned.
        hidden_labels: int `(n,)`, which class an unlabelled item is of, -1 for none.
        shown: Which rounds.
    """
    shown = [number for number in shown if number < len(found)]
    figure, axes = plots.figure(1, len(shown), size=(3.3, 3.3), sharex=True, sharey=True)
    start = np.array(found[0]["prototypes"])
    looks = class_colors(len(start))
    colors = np.array([to_rgb(color) for color, _ in looks])
    for axis, number in zip(np.atleast_1d(axes), shown):
        at, centres = (np.array(found[number][name]) for name in ("unlabelled", "prototypes"))
        z = np.array(found[number]["assignments"])
        z = z / np.maximum(z.sum(axis=1, keepdims=True), 1)  # no more than rounding
        mixed = z @ colors + (1 - z.sum(axis=1, keepdims=True)) * np.array(to_rgb(NOBODYS))
        for label in np.unique(hidden_labels):
            own = hidden_labels == label
            marker = looks[label][1] if label >= 0 else "x"
            axis.scatter(
                *at[own].T, s=26, marker=marker, color=mixed[own].clip(0, 1),
                linewidth=1.6 if label < 0 else 0,
            )  # fmt: skip
        for k, (color, marker) in enumerate(looks):
            axis.plot(*np.stack([start[k], centres[k]]).T, color="black", linewidth=1, zorder=3)
            axis.scatter(
                *centres[k], s=150, color=color, marker=marker, edgecolor="black", linewidth=1.4,
                zorder=4, label=f"class {k}",
            )  # fmt: skip
        if np.any(hidden_labels < 0):
            axis.scatter([], [], marker="x", color="#999999", label="distractor")
        steps = f"after {number} step{'s' * (number > 1)}"
        axis.set(title=steps if number else "before", xlabel="first component")
        axis.margins(0.1)
    first = np.atleast_1d(axes)[0]
    first.set_ylabel("second component")
    figure.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=6)
    return figure


def draw_masks(start, hidden_labels):
    """The masks of all classes: which items count how much, by their relative distance.

    Args:
        start: The first entry of what `rounds` returned.
        hidden_labels: int `(n,)`, which class an unlabelled item is of, -1 for none.
    """
    mask, relative, z = (np.array(start[name]) for name in ("mask", "relative", "assignments"))
    n_way = mask.shape[1]
    figure, axes = plots.figure(1, n_way, size=(2.1, 2.5), sharey=True)
    for k, axis in enumerate(axes):
        order = np.argsort(relative[:, k])
        axis.plot(relative[order, k], mask[order, k], color="#999999", linewidth=1)
        for name, own, color, marker in (
            ("of another class", (hidden_labels != k) & (hidden_labels >= 0), plots.ORANGE, "s"),
            ("distractor", hidden_labels < 0, plots.VERMILLION, "x"),
            ("of this class", hidden_labels == k, plots.BLUE, "o"),
        ):
            if own.any():
                axis.scatter(relative[own, k], mask[own, k], s=22, color=color, marker=marker,
                             label=name, zorder=3)  # fmt: skip
        kept = z[hidden_labels == k, k].sum(), z[hidden_labels != k, k].sum()
        axis.set(title=f"class {k}\n{kept[0]:.1f} own, {kept[1]:.1f} others", xlabel="distance",
                 ylim=(-0.03, 1.03))  # fmt: skip
    axes[0].set_ylabel("mask")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def draw_by_unlabelled(numbers, curves):
    """Accuracy by the number of unlabelled items of each class.

    Args:
        numbers: Numbers of unlabelled items.
        curves: By name, an `Estimate` for each of them; `supervised` does not use the items.
    """
    figure, axis = plots.figure(size=(5.2, 3.2))
    styles = {"supervised": plots.role("baseline"), "inference": plots.role("before")}
    for name, estimates in curves.items():
        plots.interval_line(axis, numbers, estimates, label=name, **styles.get(name, {}))
    axis.set(xlabel="unlabelled items of each class (M)", ylabel="accuracy")
    axis.set_xscale("log")
    axis.set_xticks(numbers, [str(number) for number in numbers], minor=False)
    axis.set_xticks([], minor=True)
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
