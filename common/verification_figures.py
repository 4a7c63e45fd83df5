"""Figures of verification: pairs and their energies, ROC curves, embeddings, sounds."""

from collections.abc import Callable, Mapping, Sequence

from common import plots
from common.verification import Roc

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

GENUINE, IMPOSITE = plots.BLUE, plots.VERMILLION
MARKERS = "osD^vP"
MOST_CLASSES = 12  # that the figure of embeddings shows: as many as can be told apart


def show_photo(axis: Axes, item: np.ndarray) -> None:
    """One picture, light where it is bright."""
    grey = {"cmap": "gray", "vmin": 0, "vmax": 255 if item.dtype == np.uint8 else 1}
    axis.imshow(np.squeeze(item), **(grey if item.shape[-1] == 1 else {}))


def show_features(axis: Axes, item: np.ndarray) -> None:
    """Features of one sound, `(frames, bands, 1)`: time to the right, low bands below."""
    pixels = {"cmap": "cividis", "interpolation": "nearest"}
    axis.imshow(item[..., 0].T, origin="lower", aspect="auto", **pixels)


def examples(energies: np.ndarray, same: np.ndarray, n: int = 5) -> np.ndarray:
    """Positions of `n` genuine and `n` imposite pairs, from the lowest energy to the highest."""
    chosen = []
    for kind in (True, False):
        of_kind = np.flatnonzero(np.asarray(same, bool) == kind)
        order = of_kind[np.argsort(np.asarray(energies)[of_kind])]
        chosen.append(order[np.linspace(0, len(order) - 1, min(n, len(order))).astype(int)])
    return np.concatenate(chosen)


def draw_pairs(
    first: np.ndarray,
    second: np.ndarray,
    energies: np.ndarray,
    same: np.ndarray,
    threshold: float,
    show: Callable[[Axes, np.ndarray], None] = show_photo,
) -> Figure:
    """Pairs one above the other, genuine ones in the upper half, with their energies.

    The sign says whether the threshold gets the pair right.

    Args:
        first, second: Items `(pairs, ...)`.
        energies, same: `(pairs,)`.
        threshold: Up to it a pair counts as genuine.
        show: Draws one item.
    """
    same = np.asarray(same, bool)
    kinds = [np.flatnonzero(same), np.flatnonzero(~same)]
    columns = max(map(len, kinds))
    rows = {"gridspec_kw": {"height_ratios": (1, 1, 0.12, 1, 1)}}
    figure, axes = plots.figure(5, columns, size=(1.3, 1.4), squeeze=False, **rows)
    for axis in axes.flat:
        axis.set_axis_off()
    for row, kind, name in zip((0, 3), kinds, ("same", "different")):
        for column, pair in enumerate(kind):
            above, below = axes[row, column], axes[row + 1, column]
            show(above, first[pair])
            show(below, second[pair])
            right = (energies[pair] <= threshold) == same[pair]
            color, sign = (plots.GREEN, "✓") if right else (plots.VERMILLION, "✗")
            above.set_title(f"{sign} {energies[pair]:.2f}", color=color, fontsize=11)
        axes[row, 0].text(
            -0.15, 0, name, rotation=90, ha="right", va="center", fontsize=11,
            transform=axes[row, 0].transAxes,
        )  # fmt: skip
    figure.suptitle(f"energies of pairs; threshold {threshold:.2f}", fontsize=11)
    return figure


def draw_energies(energies: np.ndarray, same: np.ndarray, threshold: float) -> Figure:
    """Histograms of the energies of genuine and of imposite pairs, and the threshold."""
    energies, same = np.asarray(energies), np.asarray(same, bool)
    figure, axis = plots.figure(size=(5.6, 3.2))
    bins = np.linspace(energies.min(), max(energies.max(), energies.min() + 1e-6), 41)
    for kind, color, name in ((same, GENUINE, "same"), (~same, IMPOSITE, "different")):
        hatch = None if name == "same" else "////"
        axis.hist(
            energies[kind], bins, weights=np.full(kind.sum(), 1 / kind.sum()), label=name,
            histtype="stepfilled", edgecolor=color, facecolor=(color, 0.25), hatch=hatch,
        )  # fmt: skip
    axis.axvline(threshold, color=plots.BLACK, linestyle="--", linewidth=1.2, label="threshold")
    axis.set(xlabel="energy", ylabel="share of pairs")
    with plots.style():
        axis.legend()
    return figure


def draw_roc(curves: Mapping[str, Roc]) -> Figure:
    """ROC curves by name, the first one boldest, with the line of equal errors."""
    figure, axis = plots.figure(size=(4.4, 4.0))
    for curve, name, role in zip(curves.values(), curves, ("after", "random", "baseline")):
        axis.plot(curve.false_accepts, curve.true_accepts, label=name, **plots.role(role))
    axis.plot([0, 1], [1, 0], color="#999999", linewidth=0.8, label="equal errors")
    axis.set(
        xlabel="imposite pairs accepted", ylabel="genuine pairs accepted", aspect="equal",
        xlim=(-0.01, 1.01), ylim=(-0.01, 1.01),
    )  # fmt: skip
    with plots.style():
        axis.legend(loc="lower right")
    return figure


def plane(embeddings: np.ndarray, seed: int = 0) -> np.ndarray:
    """Embeddings in two dimensions, `(items, 2)`: t-SNE, or PCA of fewer than 20 items."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if not np.ptp(embeddings, axis=0).any():  # a network that collapsed; t-SNE would crash Python
        return np.zeros((len(embeddings), 2), np.float32)
    if len(embeddings) < 20:
        return PCA(2).fit_transform(embeddings)
    neighbours = min(30, len(embeddings) // 4)
    tsne = TSNE(2, perplexity=neighbours, init="pca", random_state=seed)
    return tsne.fit_transform(np.asarray(embeddings, np.float32))


def draw_plane(points: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> Figure:
    """Embeddings in the plane, a colour and a marker for each class.

    Args:
        points: `(items, 2)`, such as `plane` gives.
        labels: `(items,)`, indices into `names`.
        names: Of the classes; of many classes the first `MOST_CLASSES` are drawn.
    """
    colors = [plots.BLUE, plots.VERMILLION, plots.GREEN, plots.PURPLE, plots.ORANGE, plots.BLACK]
    figure, axis = plots.figure(size=(5.6, 4.2))
    for number, label in enumerate(np.unique(labels)[:MOST_CLASSES]):
        chosen = labels == label
        axis.scatter(
            *points[chosen].T, s=28, label=names[label], linewidths=0.5, edgecolors="white",
            color=colors[number % len(colors)], marker=MARKERS[number // len(colors) * 3 % 6],
        )  # fmt: skip
    axis.set(xticks=[], yticks=[])
    with plots.style():
        axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def draw_sounds(
    waves: Sequence[np.ndarray], rate: int, features: Sequence[np.ndarray], names: Sequence[str]
) -> Figure:
    """Sounds in columns: the waveform, and below it the features.

    Args:
        waves: Waveforms `(samples,)` of any length.
        rate: Samples a second.
        features: Of each sound, `(frames, coefficients, 1)`: MFCC, or log-mel.
        names: Of the sounds.
    """
    figure, axes = plots.figure(2, len(waves), size=(2.6, 1.8), squeeze=False, sharey="row")
    for (above, below), wave, values, name in zip(axes.T, waves, features, names):
        above.plot(np.arange(len(wave)) / rate, wave, linewidth=0.5, color=plots.BLUE)
        above.set_title(name)
        above.set_xlabel("seconds")
        show_features(below, values)
        below.set_xlabel("frame")
        below.grid(False)
    axes[0, 0].set_ylabel("pressure")
    axes[1, 0].set_ylabel("MFCC")
    return figure
