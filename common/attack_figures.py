"""Figures of attacks on images: what one changes, and what it does to a learner's accuracy."""

from common import plots
from common.results import Estimate

import numpy as np
from matplotlib.colors import TwoSlopeNorm

TITLES = {"fgsm": "FGSM", "pgd": "PGD"}
ROLES = ("after", "baseline", "random")  # of the learners, in the order in which they come
SHOWN = {"queries": "queries attacked", "both": "support set and queries attacked"}


def draw_attacks(example, learners):
    """Queries of one task: image, and for each learner perturbation, attacked image, predictions.

    Args:
        example: What `attack_experiment.example` returns.
        learners: Names of the learners, a group of columns each.

    Returns:
        The matplotlib figure. A frame, a sign and the predicted class under an image say whether
        the prediction is right. A perturbation is red where it adds ink and blue where it takes
        ink away.
    """
    images, labels = np.asarray(example["image"]), np.asarray(example["label"])
    columns = 1 + 3 * len(learners)
    figure, axes = plots.figure(len(labels), columns, size=(1.35, 1.5), squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
        axis.spines[:].set_visible(True)
    for row, image, label in zip(axes, images, labels, strict=True):
        _show(row[0], image)
        row[0].set_ylabel(f"class {label}")
    axes[0, 0].set_title("image", fontsize=9)
    for index, name in enumerate(learners):
        found = {key: np.asarray(value) for key, value in example[name].items()}
        group = axes[:, 1 + 3 * index : 4 + 3 * index]
        heads = (f"{name}\nclean", "perturbation", f"{name}\nattacked")
        for axis, head in zip(group[0], heads, strict=True):
            axis.set_title(head, fontsize=9)
        for number, (clean, change, attacked) in enumerate(group):
            _show(clean, images[number])
            _verdict(clean, found["before"][number], labels[number])
            _show_change(change, found["attacked"][number] - images[number], example["epsilon"])
            _show(attacked, found["attacked"][number])
            _verdict(attacked, found["after"][number], labels[number])
    return figure


def _show(axis, image):
    image = image[..., 0] if image.shape[-1] == 1 else image
    colors = {"cmap": "gray_r", "vmin": 0, "vmax": 1} if image.ndim == 2 else {}
    axis.imshow(np.clip(image, 0, 1), **colors)


def _show_change(axis, change, epsilon):
    scale = TwoSlopeNorm(0, -max(epsilon, 1e-9), max(epsilon, 1e-9))
    axis.imshow(change.mean(axis=-1), cmap="RdBu_r", norm=scale)


def _verdict(axis, probabilities, label):
    predicted = int(np.argmax(probabilities))
    color, sign = (plots.GREEN, "✓") if predicted == label else (plots.VERMILLION, "✗")
    text = f"{sign} {predicted} ({100 * probabilities[predicted]:.0f} %)"
    axis.set_xlabel(text, color=color, fontsize=9, labelpad=2)
    axis.spines[:].set(color=color, linewidth=2)


def draw_epsilons(epsilons, curves, trained=None):
    """Accuracy of each learner against epsilon, under each attack.

    Args:
        epsilons: The strengths of the attacks.
        curves: `{learner: {attack: {case: [Estimate at each epsilon]}}}`.
        trained: Optional epsilon of training, marked by a line.

    Returns:
        The matplotlib figure: a column for each attack, a row for what is attacked.
    """
    attacks = list(next(iter(curves.values())))
    figure, axes = plots.figure(
        len(SHOWN), len(attacks), size=(3.9, 2.7), squeeze=False, sharex=True, sharey=True
    )
    for row, (case, title) in zip(axes, SHOWN.items(), strict=True):
        row[0].set_ylabel("meta-test accuracy")
        for axis, attack in zip(row, attacks, strict=True):
            for name, role in zip(curves, ROLES, strict=False):
                cases = curves[name][attack]
                line = plots.role(role)
                estimates = [Estimate.restored(value) for value in cases[case]]
                plots.interval_line(axis, epsilons, estimates, f"{name}, adapted", **line)
                before = [Estimate.restored(value).mean for value in cases["queries_before"]]
                faint = {**line, "linewidth": 0.9, "linestyle": ":"}
                axis.plot(epsilons, before, label=f"{name}, before adaptation", **faint)
            if trained:
                axis.axvline(trained, color="#888888", linewidth=0.8)
            axis.set_title(f"{TITLES.get(attack, attack)}: {title}", fontsize=10)
            axis.set_ylim(0, 1.02)
    if trained:
        axes[0, 0].annotate(
            " epsilon of training",
            (trained, 0.98),
            ha="left",
            va="top",
            fontsize=8,
            color="#666666",
        )
    for axis in axes[-1]:
        axis.set_xlabel("epsilon")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return figure
