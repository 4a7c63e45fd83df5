"""One style for all figures: legible, and clear to colour-blind readers and in grey.

Each role has one colour (Okabe and Ito's) and one line style in every figure of the book's code:

    figure, axes = plots.figure(1, 2)
    axes[0].plot(x, y, label="truth", **plots.role("truth"))
    plots.save(figure, directory / "waves.png")

Figures are matplotlib's, made without `pyplot`: no global state, no window, no display needed. In
a notebook a figure is shown when it is the last expression of a cell or given to `display`.
"""

import io
import textwrap
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import atomic_path
from common.results import Estimate

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

BLACK, ORANGE, SKY_BLUE, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILLION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
COLORS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY_BLUE, BLACK)  # in the order of use

_ROLES = {
    "truth": {"color": BLACK, "linestyle": "-", "linewidth": 1.2},
    "support": {"color": VERMILLION, "linestyle": "none", "marker": "^", "zorder": 4},
    "before": {"color": ORANGE, "linestyle": ":"},
    "after": {"color": BLUE, "linestyle": "-"},
    "baseline": {"color": PURPLE, "linestyle": "--"},
    "random": {"color": GREEN, "linestyle": "-."},
}
_STYLE = {
    "figure.dpi": 100,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.prop_cycle": matplotlib.cycler(color=COLORS),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "lines.linewidth": 1.8,
    "lines.markersize": 7,
    "legend.frameon": False,
    "legend.fontsize": 9,
}
_FRAMES = {True: (GREEN, "✓"), False: (VERMILLION, "✗")}


class _NotebookFigure(Figure):
    """A figure that a notebook shows, whether `pyplot` was imported there or not."""

    def _repr_png_(self) -> bytes:
        picture = io.BytesIO()
        self.savefig(picture, format="png", dpi=100, bbox_inches="tight")
        return picture.getvalue()


def style() -> AbstractContextManager:
    """A context in which whatever is drawn has this style; `figure` already uses it for axes."""
    return matplotlib.rc_context(_STYLE)


def figure(
    rows: int = 1,
    columns: int = 1,
    size: tuple[float, float] = (4.2, 3.0),
    **options: Any,
) -> tuple[Figure, Any]:
    """A figure with a grid of axes, each `size` inches; arguments as those of `plt.subplots`.

    Returns:
        The figure, and its axes: one, or an array of them if there are several.
    """
    with style():
        drawing = _NotebookFigure(figsize=(columns * size[0], rows * size[1]), layout="constrained")
        return drawing, drawing.subplots(rows, columns, **options)


def role(name: str) -> dict[str, Any]:
    """How to plot one part of the story: truth, support, before, after, baseline or random."""
    return dict(_ROLES[name])


def shades(name: str, n: int) -> list[str]:
    """`n` shades of a role's colour, light to full: for instance after 1, 5 and 10 steps."""
    color = np.array(to_rgb(_ROLES[name]["color"]))
    return [to_hex(1 - (1 - color) * strength) for strength in np.linspace(1, 0.4, n)[::-1]]


def save(figure: Figure, path: Path) -> Path:
    """Writes a figure at 150 dots per inch, whole or not at all; returns the path."""
    path = Path(path)
    with atomic_path(path) as temporary:
        kind = path.suffix.lstrip(".") or "png"
        figure.savefig(temporary, format=kind, dpi=150, bbox_inches="tight")
    return path


def interval_line(
    axis: Axes, x: Sequence[float], estimates: Sequence[Estimate], label: str, **line: Any
) -> None:
    """A line through the means of `estimates`, in a band as wide as their 95 % intervals."""
    mean = np.array([estimate.mean for estimate in estimates])
    ci95 = np.array([estimate.ci95 for estimate in estimates])
    (drawn,) = axis.plot(x, mean, label=label, **{"marker": "o", "markersize": 3.5} | line)
    axis.fill_between(x, mean - ci95, mean + ci95, color=drawn.get_color(), alpha=0.2, linewidth=0)


def learning_curve(
    axis: Axes,
    steps: Sequence[float],
    values: Sequence[float],
    label: str | None = None,
    smoothing: float = 0.05,
    **line: Any,
) -> None:
    """The values faintly, and boldly their moving average over a `smoothing` part of the curve."""
    values = np.asarray(values, dtype=np.float64)
    window = np.ones(max(1, round(smoothing * len(values))))
    known = np.isfinite(values)
    weight = np.convolve(known, window, mode="same")
    total = np.convolve(np.where(known, values, 0.0), window, mode="same")
    average = np.divide(total, weight, out=np.full_like(total, np.nan), where=weight > 0)
    (drawn,) = axis.plot(steps, average, label=label, zorder=3, **line)
    axis.plot(steps, values, color=drawn.get_color(), alpha=0.25, linewidth=0.8)


def draw_episode(
    support_x: np.ndarray,
    support_y: np.ndarray,
    query_x: np.ndarray,
    query_y: np.ndarray,
    predictions: np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
    max_images: int = 5,
) -> Figure:
    """One task of images: a row for each class, support at the left and queries at the right.

    Under a frame and a sign, both of which say right or wrong, a query shows the predicted class
    by its row's number.

    Args:
        support_x, query_x: Images `(n, height, width)` or `(n, height, width, channels)`; those
            with one channel are drawn as dark ink.
        support_y, query_y: Labels `(n,)` in 0..n_way-1; the support set may be empty.
        predictions: Of the queries, labels `(n,)` or logits or probabilities `(n, n_way)`.
        class_names: Names of the labels.
        max_images: How many images a class shows at most in either half.
    """
    support_y, query_y = np.asarray(support_y), np.asarray(query_y)
    if len(support_x) != len(support_y) or len(query_x) != len(query_y):
        raise UserError(
            f"expected one label for each image, got {len(support_x)} support images with "
            f"{len(support_y)} labels and {len(query_x)} queries with {len(query_y)}"
        )
    if predictions is not None and np.ndim(predictions) == 2:
        predictions = np.argmax(predictions, axis=-1)
    n_way = int(max([*support_y, *query_y])) + 1
    shown = [
        (np.flatnonzero(support_y == label), np.flatnonzero(query_y == label))
        for label in range(n_way)
    ]
    left = min(max_images, max(len(support) for support, _ in shown))
    right = min(max_images, max(len(query) for _, query in shown))
    step = 1.15 if predictions is None else 1.45  # room for the sign under a query
    names = 2.8 if class_names is not None else 0.5

    width, height = names + (left + right + 0.5) * 1.15, n_way * step + 0.35
    drawing = _NotebookFigure(figsize=(0.8 * width, 0.8 * height), dpi=100)
    axis = drawing.add_axes((0, 0, 1, 1))
    axis.set(xlim=(-names, width - names), ylim=(n_way * step - 0.1, -0.45), aspect="equal")
    axis.axis("off")
    queries_from = (left + 0.5) * 1.15
    if left:
        axis.text(0, -0.12, "support", fontweight="bold")
    axis.text(queries_from, -0.12, "queries", fontweight="bold")
    for label, (support, query) in enumerate(shown):
        top = label * step
        name = textwrap.fill(str(class_names[label]), 22) if class_names is not None else ""
        axis.text(-0.2, top + 0.5, str(label), ha="right", va="center", fontweight="bold")
        axis.text(-0.65, top + 0.5, name, ha="right", va="center", fontsize=8)
        for column, index in enumerate(support[:left]):
            draw_image(axis, support_x[index], column * 1.15, top)
        for column, index in enumerate(query[:right]):
            x = queries_from + column * 1.15
            if predictions is None:
                draw_image(axis, query_x[index], x, top)
                continue
            color, sign = _FRAMES[bool(predictions[index] == label)]
            draw_image(axis, query_x[index], x, top, color, 2.5)
            verdict = f"{sign} {predictions[index]}"
            axis.text(x + 0.5, top + 1.2, verdict, ha="center", va="center", color=color)
    return drawing


def draw_image(
    axis: Axes, image: Any, x: float, y: float, color: str = "#BBBBBB", line: float = 0.8
) -> None:
    """Draws `image` with a frame in the unit square below and right of (x, y)."""
    image = np.asarray(image, dtype=np.float32)
    if image.ndim == 3 and image.shape[-1] == 1:
        image = image[..., 0]
    image = image / (255.0 if image.max() > 1 else 1.0)
    colors = {"cmap": "gray_r", "vmin": 0, "vmax": 1} if image.ndim == 2 else {}
    axis.imshow(np.clip(image, 0, 1), extent=(x, x + 1, y + 1, y), aspect="equal", **colors)
    axis.add_patch(Rectangle((x, y), 1, 1, fill=False, edgecolor=color, linewidth=line))
