"""Figures of what an episode is, and of what learners answer."""

from common import plots

import numpy as np
from matplotlib.patches import FancyBboxPatch

GAP = 1.12  # from an image to the next; an image has size 1
EPISODES, QUERIES = 2, 3  # drawn of each split; queries of an episode
ROLES = ("baseline", "random", "before", "after")
GROUPS = {"DIGIT": "digits"}  # what others are called by the scripts' own names


def draw_splits(samplers, n_episodes=EPISODES, n_queries=QUERIES, max_support=5):
    """Episodes of each split: the classes of one split are in no other.

    Args:
        samplers: An `EpisodeSampler` for each split by name.
        n_episodes: Episodes to draw of each.
        n_queries: Queries to draw of each episode.
        max_support: Support items to draw of each episode, one for each class at most.

    Returns:
        The matplotlib figure.
    """
    n_way = min(max_support, next(iter(samplers.values())).n_way)
    card = (n_way + n_queries + 0.9) * GAP
    width, row = n_episodes * (card + 0.5), 2.75
    bottom = row * len(samplers) + 0.25
    figure, axis = plots.figure(size=(0.62 * width, 0.62 * (bottom + 0.55)))
    axis.set(xlim=(-0.4, width - 0.3), ylim=(bottom, -0.55), aspect="equal")
    axis.axis("off")
    kinds = (
        ("support: with labels, to learn from", plots.BLUE, 0),
        ("queries: to be labelled, to be judged by", plots.VERMILLION, (n_way + 0.7) * GAP),
    )
    for words, color, x in kinds:
        axis.text(x, bottom - 0.35, words, color=color, fontsize=9)
    for number, (split, sampler) in enumerate(samplers.items()):
        top = number * row
        axis.text(-0.2, top - 0.12, f"meta-{split}", fontweight="bold", fontsize=10)
        axis.text(2.9, top - 0.12, _classes(sampler.data), fontsize=9, color="#444444")
        for index in range(n_episodes):
            _draw_card(axis, sampler.episode(index), index * (card + 0.5), top + 0.35, n_way,
                       n_queries, card)  # fmt: skip
    return figure


def _classes(data):
    groups = sorted(set(data.class_groups))
    names = ", ".join(GROUPS.get(group, group.capitalize()) for group in groups)
    of = f" of {names}" if 1 < len(groups) <= 3 else ""
    return f"{len(data.class_names)} classes{of}"


def _draw_card(axis, episode, left, top, n_way, n_queries, width):
    box = {
        "boxstyle": "round,pad=0.12",
        "facecolor": "#F4F4F4",
        "edgecolor": "#BBBBBB",
        "zorder": -1,
    }
    axis.add_patch(FancyBboxPatch((left - 0.1, top - 0.02), width - 0.1, 1.62, **box))
    for label in range(n_way):
        first = np.flatnonzero(episode.support_y == label)[0]
        x = left + label * GAP
        plots.draw_image(axis, episode.support_x[first], x, top, plots.BLUE, 1.4)
        axis.text(x + 0.5, top + 1.33, str(label), ha="center", va="center", fontsize=9)
    for column in range(min(n_queries, len(episode.query_y))):
        x = left + (n_way + column + 0.7) * GAP
        plots.draw_image(axis, episode.query_x[column], x, top, plots.VERMILLION, 1.4)
        axis.text(x + 0.5, top + 1.33, "?", ha="center", va="center", fontsize=9)


def draw_answers(episode, answers, n_queries=10):
    """What each learner answers: under a query stands an item of the class that it is taken for.

    Args:
        episode: An `Episode` of images without task axis.
        answers: By learner the labels of the queries, `(queries,)`.
        n_queries: How many queries to draw, the same number of each class as far as possible.

    Returns:
        The matplotlib figure.
    """
    query_y = np.asarray(episode.query_y)
    shown = _some_of_each(query_y, n_queries)
    names, left, row = list(answers), 4.3, 1.5
    height = row * (len(names) + 1) + 0.1
    width = left + len(shown) * GAP + 1.6
    figure, axis = plots.figure(size=(0.62 * width, 0.62 * height))
    axis.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    axis.axis("off")
    axis.text(left - 0.3, 0.5, "query", ha="right", va="center", fontweight="bold")
    axis.text(width - 0.2, 0.5, "right, of all", ha="right", va="center", fontsize=9)
    for column, index in enumerate(shown):
        plots.draw_image(axis, episode.query_x[index], left + column * GAP, 0.02, plots.BLACK, 1.2)
    for number, name in enumerate(names):
        top, found = (number + 1) * row, np.asarray(answers[name])
        axis.text(left - 0.3, top + 0.5, name.replace("_", " "), ha="right", va="center")
        for column, index in enumerate(shown):
            right = found[index] == query_y[index]
            color, sign = (plots.GREEN, "✓") if right else (plots.VERMILLION, "✗")
            item = episode.support_x[np.flatnonzero(episode.support_y == found[index])[0]]
            x = left + column * GAP
            plots.draw_image(axis, item, x, top, color, 2.2)
            axis.text(x + 0.5, top + 1.2, sign, ha="center", va="center", color=color)
        share = f"{100 * np.mean(found == query_y):.0f} %"
        axis.text(width - 0.2, top + 0.5, share, ha="right", va="center")
    return figure


def _some_of_each(labels, n_items):
    """Positions of the first items of each class in turn, sorted by class."""
    rank = np.array([np.sum(labels[:i] == label) for i, label in enumerate(labels)])
    first = np.lexsort((labels, rank))[:n_items]
    return first[np.argsort(labels[first], kind="stable")]


def draw_by_shots(shots, curves, n_way):
    """Accuracy against the number of support items of each class, with 95 % intervals.

    Args:
        shots: Numbers of support items of each class.
        curves: By learner an `Estimate` of its accuracy for each of them.
        n_way: Number of classes, for the line of guessing.

    Returns:
        The matplotlib figure.
    """
    figure, axis = plots.figure(size=(5.8, 3.8))
    for index, (name, estimates) in enumerate(curves.items()):
        line = plots.role(ROLES[index % len(ROLES)])
        plots.interval_line(axis, shots, estimates, label=name.replace("_", " "), **line)
    axis.axhline(1 / n_way, color="#888888", linewidth=1)
    axis.annotate("guessing", (max(shots), 1 / n_way), ha="right", va="bottom", color="#666666")
    axis.set(xlabel="k, support items of each class", ylabel=f"{n_way}-way accuracy")
    axis.set(xscale="log", xticks=shots, ylim=(0, 1))
    axis.set_xticklabels([str(k) for k in shots])
    axis.minorticks_off()
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure
