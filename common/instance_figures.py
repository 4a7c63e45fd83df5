"""Figures of label sequences: an episode as the network sees it, what it gets right, its memory."""

from common import plots
from common.memory_episodes import instance_numbers

import numpy as np

STYLES = {"MANN": "after", "LSTM": "baseline", "NTM": "random"}
COLUMNS = 10  # of images
MOST_LABELS = 25  # that an axis has room for


def draw_instances(curves, ceiling=None):
    """Accuracy at the first, second, ... instance of a class, a line with a band for each learner.

    Args:
        curves: By name, one `Estimate` for each instance.
        ceiling: Best accuracy at a first instance without knowing its label; not drawn if None.

    Returns:
        The matplotlib figure.
    """
    figure, axis = plots.figure(size=(5.8, 3.6))
    for name, curve in curves.items():
        x = np.arange(1, len(curve) + 1)
        plots.interval_line(axis, x, curve, label=name, **plots.role(STYLES.get(name, "truth")))
    if ceiling is not None:
        label = "best blind guess"
        axis.plot([0.75, 1.25], 2 * [ceiling], color=plots.BLACK, linewidth=2, label=label)
    axis.set(xlabel="instance of a class", ylabel="meta-test accuracy", ylim=(0, 1.02), xticks=x)
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def text_of(label):
    """A label as it is drawn: a number, or a string of letters."""
    letters = np.atleast_1d(label)
    return str(letters[0]) if len(letters) == 1 else "".join("abcde"[letter] for letter in letters)


def draw_sequence(images, labels, answers=None, most=30):
    """The first steps of an episode, in reading order, as the network sees it.

    Above an image stands what the network is told at that step, the label of the image before;
    below it the answer, with a sign for right or wrong, or the true label if there are none.

    Args:
        images: `(steps, size, size, channels)`.
        labels: `(steps,)` or `(steps, places)`.
        answers: What a network said, of the same shape as the labels with places.
        most: How many steps are drawn.

    Returns:
        The matplotlib figure.
    """
    steps = min(most, len(images))
    rows = -(-steps // COLUMNS)
    figure, axis = plots.figure(size=(8.6, 1.35 * rows + 0.15))
    axis.set(xlim=(-0.1, COLUMNS * 1.15), ylim=(rows * 1.9 - 0.15, -0.45), aspect="equal")
    axis.axis("off")
    numbers = instance_numbers(labels[None])[0]
    for step in range(steps):
        x, y = step % COLUMNS * 1.15, step // COLUMNS * 1.9
        told = text_of(labels[step - 1]) if step else "–"
        axis.text(x + 0.5, y - 0.17, told, ha="center", va="center", color=plots.BLUE)
        if answers is None:
            verdict, color, width = text_of(labels[step]), plots.BLACK, 0.8
        else:
            right = bool(np.all(np.atleast_1d(answers[step]) == np.atleast_1d(labels[step])))
            color, sign = (plots.GREEN, "✓") if right else (plots.VERMILLION, "✗")
            verdict, width = f"{sign} {text_of(answers[step])}", 2.0
        first = numbers[step] == 1
        plots.draw_image(
            axis, images[step], x, y, color if answers is not None else "#BBBBBB", width
        )
        weight = "bold" if first else "normal"
        axis.text(x + 0.5, y + 1.18, verdict, ha="center", va="center", color=color, weight=weight)
    return figure


def draw_memory(states, labels):
    """Usage and read weights of every row of the memory along an episode.

    Args:
        states: NumPy arrays by name: `usage` `(steps, slots)`, `read_weights`
            `(steps, reads, slots)`.
        labels: `(steps,)` or `(steps, places)`.

    Returns:
        The matplotlib figure.
    """
    figure, axes = plots.figure(1, 2, size=(4.6, 4.0), sharey=True)
    usage = ("usage $w^u$", states["usage"], "viridis")
    reads = ("mean read weight $w^r$", states["read_weights"].mean(axis=1), "magma")
    for axis, (title, values, colors) in zip(axes, (usage, reads), strict=True):
        extent = (0.5, len(values) + 0.5, values.shape[1] - 0.5, -0.5)
        options = {"aspect": "auto", "interpolation": "nearest", "extent": extent}
        drawn = axis.imshow(values.T, cmap=colors, **options)
        figure.colorbar(drawn, ax=axis, fraction=0.05, pad=0.02)
        axis.set(xlabel="step", title=title)
        axis.grid(False)
        axis.yaxis.get_major_locator().set_params(integer=True)
        if len(values) <= MOST_LABELS:
            axis.set_xticks(np.arange(len(values)) + 1, [text_of(label) for label in labels])
            axis.set_xlabel("label of the image at each step")
    axes[0].set_ylabel("row of the memory")
    return figure
