"""Figures of machines with a memory: what they answer, and where they write and read."""

from common import plots

import numpy as np
import tensorflow as tf
from matplotlib.ticker import LogFormatter, MaxNLocator, StrMethodFormatter


def trace(network, inputs):
    """What a neural Turing machine does with one sequence, step by step.

    Args:
        network: A Keras model of an RNN with an `NTMCell` and a dense layer behind it.
        inputs: `(steps, inputs)`.

    Returns:
        A dictionary of NumPy arrays, all `(steps, ...)`: `outputs` in 0..1; `write` and `read`,
        the weightings `(steps, N)` summed over heads; `adds` and `reads`, what is added and read,
        `(steps, M)`, likewise.
    """
    recurrent, dense = network.layers[-2:]
    cell = recurrent.cell
    states = cell.get_initial_state(1)
    found = {name: [] for name in ("outputs", "write", "read", "adds", "reads")}
    for x in tf.convert_to_tensor(inputs):
        output, states = cell(x[None], states)
        _, weightings = cell.unpacked(states)
        reads = tf.reshape(states[2], [1, cell.read_heads, cell.width])
        adds = cell.head_parameters(output[:, : cell.units])[-1]
        now = {
            "outputs": tf.sigmoid(dense(output)),
            "write": tf.reduce_sum(weightings[:, cell.read_heads :], axis=1),
            "read": tf.reduce_sum(weightings[:, : cell.read_heads], axis=1),
            "adds": tf.reduce_sum(adds, axis=1),
            "reads": tf.reduce_sum(reads, axis=1),
        }
        for name, value in now.items():
            found[name].append(value[0].numpy())
    return {name: np.stack(values) for name, values in found.items()}


def draw_answers(examples):
    """Target, output and error of some sequences, at the steps that count.

    Args:
        examples: `{title: {"targets": (steps, bits), "outputs": (steps, bits)}}`.

    Returns:
        The matplotlib figure.
    """
    widths = [max(len(example["targets"]), 12) for example in examples.values()]
    figure, axes = plots.figure(
        3, len(examples), size=(11 / len(examples), 1.0), squeeze=False, width_ratios=widths
    )
    for column, (title, example) in enumerate(examples.items()):
        targets, outputs = (np.asarray(example[name]).T for name in ("targets", "outputs"))
        error = np.abs(targets - outputs)
        for axis, bits in zip(axes[:, column], (targets, outputs, error)):
            axis.imshow(bits, cmap="gray_r", vmin=0, vmax=1, aspect="auto", interpolation="none")
            axis.set(xticks=[], yticks=[])
            axis.grid(False)
        wrong = int(np.sum((outputs > 0.5) != (targets > 0.5)))
        axes[0, column].set_title(f"{title.replace('_', ' ')}: {wrong} of {targets.size} wrong",
                                  fontsize=9)  # fmt: skip
        axes[2, column].set_xlabel("time step")
    for axis, name in zip(axes[:, 0], ("target", "output", "error")):
        axis.set_ylabel(name)
    return figure


def draw_memory(found, inputs, rows=None):
    """The picture of the paper: what is written and where, what is read and from where, over time.

    Args:
        found: What `trace` returned of one sequence.
        inputs: `(steps, inputs)`, the sequence.
        rows: Range of the rows of the memory to show; by default those that are used.

    Returns:
        The matplotlib figure: inputs, adds and write weightings at the left; outputs, reads and
        read weightings at the right.
    """
    write, read = (np.asarray(found[name]) for name in ("write", "read"))
    low, high = used_rows(write + read) if rows is None else rows
    figure, axes = plots.figure(
        3, 2, size=(5.2, 1.9), squeeze=False, height_ratios=(1, 1.4, 2.4), sharex=True
    )
    left = {"inputs": inputs, "adds": found["adds"], "write weightings": write}
    right = {"outputs": found["outputs"], "reads": found["reads"], "read weightings": read}
    for column, panels in enumerate((left, right)):
        for axis, (title, values) in zip(axes[:, column], panels.items()):
            values = np.asarray(values).T
            options = {"aspect": "auto", "interpolation": "none", "cmap": "gray_r"}
            if "weightings" in title:
                values, extent = (
                    values[low:high],
                    (-0.5, values.shape[1] - 0.5, high - 0.5, low - 0.5),
                )
                drawn = axis.imshow(values, vmin=0, vmax=1, extent=extent, **options)
                axis.set(ylabel="row of the memory", xlabel="time step")
                axis.yaxis.set_major_locator(MaxNLocator(integer=True, steps=(1, 2, 5, 10)))
            elif title in ("adds", "reads") or values.min() < 0:  # a count may be negative
                limit = max(np.abs(values).max(), 1e-6)
                axis.imshow(values, vmin=-limit, vmax=limit, **{**options, "cmap": "RdBu_r"})
                axis.set_yticks([])
            else:
                axis.imshow(values, vmin=0, vmax=1, **options)
                axis.set_yticks([])
            axis.set_title(title, fontsize=10)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True, steps=(1, 2, 5, 10)))
            axis.grid(False)
    figure.colorbar(drawn, ax=axes[2, 1], label="weight", pad=0.02)
    return figure


def used_rows(weightings, margin=2):
    """First and last (excluded) row with a weight above 0.1 somewhere, and a margin around."""
    used = np.flatnonzero(np.asarray(weightings).max(axis=0) > 0.1)
    n_rows = np.shape(weightings)[1]
    if not used.size:
        return 0, n_rows
    return max(used[0] - margin, 0), min(used[-1] + margin + 1, n_rows)


def line_styles(names):
    """How to draw machines: a colour for each kind, a line for each seed of it, the baseline's own.

    Args:
        names: Called like `NTM`, `NTM_random` or, the seed at the end, `NTM_random_2`; and `LSTM`.

    Returns:
        `{name: keyword arguments of a line}`.
    """
    seeds = {name: name.rpartition("_")[2] for name in names}
    kinds = {n: n.rpartition("_")[0] if seed.isdigit() else n for n, seed in seeds.items()}
    order = [kind for kind in dict.fromkeys(kinds.values()) if kind != "LSTM"]
    colors = [color for color in plots.COLORS if color != plots.role("baseline")["color"]]
    styles = {"LSTM": plots.role("baseline")}
    for kind in order:
        color = colors[order.index(kind) % len(colors)]
        mine = [name for name in names if kinds[name] == kind]
        for number, name in enumerate(mine):
            styles[name] = {"color": color, "linestyle": ("-", "--", ":", "-.")[number % 4]}
    return {name: styles[name] for name in names}


def draw_learning(history, names, meta_batch_size, nothing=None):
    """Bits per sequence against the number of sequences seen.

    Args:
        history: `<name>_step` and `<name>_loss` of every learner.
        names: Which to draw.
        meta_batch_size: Sequences in a step.
        nothing: What knowing nothing costs, a line; None for no line.

    Returns:
        The matplotlib figure.
    """
    figure, axis = plots.figure(size=(6.6, 3.4))
    for name, line in line_styles(names).items():
        seen = np.array(history[f"{name}_step"]) * meta_batch_size
        values = np.maximum(history[f"{name}_loss"], 1e-4)
        axis.plot(seen, values, label=name.replace("_", " "), **line)
    if nothing:
        axis.axhline(nothing, color="#888888", linewidth=1, label="knowing nothing")
    axis.set(xlabel="sequences seen", ylabel="bits per sequence", yscale="log")
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def draw_generalisation(errors):
    """The share of wrong bits at tests that are harder and harder.

    Args:
        errors: `{learner: {test: Estimate}}`, tests called like `length_40`.

    Returns:
        The matplotlib figure.
    """
    figure, axis = plots.figure(size=(6.2, 3.2))
    for name, line in line_styles(list(errors)).items():
        found = errors[name].values()
        percent = [e._replace(mean=100 * e.mean, ci95=100 * e.ci95) for e in found]
        plots.interval_line(axis, range(len(found)), percent, name.replace("_", " "), **line)
    tests = list(next(iter(errors.values())))
    axis.set_xticks(range(len(tests)), [test.replace("_", " ") for test in tests])
    axis.axhline(50, color="#888888", linewidth=1)
    axis.text(0, 50, "guessing", va="bottom", fontsize=9, color="#666666")
    axis.set(ylabel="wrong bits, %", ylim=(-2, 58))
    axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure
