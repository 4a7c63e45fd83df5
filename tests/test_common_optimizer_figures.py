"""Figures of optimisers: numbers that can be read, and lines that can be told apart."""

from common import optimizer_figures
from common.hand_made_optimizers import HAND_MADE
from common.results import Estimate

import numpy as np
from matplotlib.colors import to_hex

NAMES = ("learned", *HAND_MADE)


def marks(figure, axis):
    """What stands at the ticks of both axes that are in sight."""
    figure.canvas.draw()
    found = []
    for one in (axis.xaxis, axis.yaxis):
        low, high = sorted(one.get_view_interval())
        ticks = zip(one.get_ticklocs(), one.get_majorticklabels(), strict=True)
        ticks = [*ticks, *zip(one.get_ticklocs(minor=True), one.get_minorticklabels())]
        found.append([label.get_text() for at, label in ticks if low <= at <= high])
    return found


def learning(steps, losses):
    history = {"step": steps, "loss": losses, "val_loss": losses}
    metrics = {f"{name}_loss_sum": Estimate(80.0 + len(name), 1.0, 9) for name in NAMES}
    return optimizer_figures.draw_learning(history, metrics)


def test_learning_is_marked_with_plain_numbers_and_whole_steps():
    figure = learning([1, 2, 3, 4], [170, 90, 60, 55])
    x, y = marks(figure, figure.axes[0])
    assert "100" in y
    assert "60" in y
    assert not any("10^" in label for label in y)
    assert all(label.isdecimal() for label in x)


def test_every_line_of_learning_looks_another_way():
    (axis,) = learning([1, 2, 3], [170, 90, 60]).axes
    lines = axis.get_lines()
    assert len(lines) == 2 + len(HAND_MADE)
    assert len({to_hex(line.get_color()) for line in lines}) == len(lines)


def losses_down_to(last, steps):
    curves = np.geomspace(10, last, steps + 1)[np.newaxis]
    found = {"curves": dict.fromkeys(NAMES, optimizer_figures.curve(curves))}
    return optimizer_figures.draw_losses({"these": found | {"rates": {"Adam": 0.1}}})


def test_losses_are_marked_with_plain_numbers_where_these_are_short():
    figure = losses_down_to(0.1, steps=3)
    x, y = marks(figure, figure.axes[0])
    assert {"0.1", "1", "10"} <= set(y)
    assert all(label.isdecimal() for label in x)
    figure = losses_down_to(1e-7, steps=3)
    assert any("10^{-6}" in label for label in marks(figure, figure.axes[0])[1])


def test_updates_have_whole_steps():
    gradients = {"constant": [0.1, 0.1, 0.1], "turning": [0.1, -0.1, -0.1]}
    figure = optimizer_figures.draw_updates(
        {"gradients": gradients, "updates": dict.fromkeys(NAMES, gradients)}
    )
    assert all(label.isdecimal() for label in marks(figure, figure.axes[-2])[0])
