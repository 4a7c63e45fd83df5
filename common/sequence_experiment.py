"""What a script about sequences of bits needs: its baseline, training, measurement, figures.

Its `Config` has the fields of `chapter04_ntm_mann.ntm.Config`.
"""

from common import memory_figures, plots, training
from common.algorithmic_tasks import harder, new_task, sampler
from common.results import Estimate, Result
from common.sequence_learner import SequenceLearner

import keras
import numpy as np
import tensorflow as tf

BATCH = 50  # sequences that are evaluated at once
SHOWN_STEPS = 90  # of a sequence, at most, whose memory is drawn


def new_lstm(config, task):
    """The untrained baseline: LSTM layers one on the other, of the paper's size by default."""
    inputs = x = keras.Input((None, task.inputs))
    for _ in range(config.lstm_layers):
        # cuDNN's kernel cannot be compiled by XLA.
        cudnn = False if config.run.jit else "auto"
        x = keras.layers.LSTM(config.lstm_units, return_sequences=True, use_cudnn=cudnn)(x)
    return SequenceLearner(keras.Model(inputs, keras.layers.Dense(task.outputs)(x), name="lstm"))


def train(learners, config, optimizer, directory=None, progress=False):
    """Compiles and trains each of the learners on sequences of its own seed.

    Args:
        learners: `{name: (seed, steps, learner)}`. The first one's files lie in the directory,
            those of each other in a folder with its name there.
        config: The script's `Config`.
        optimizer: Makes a new optimizer for a number of steps.
        directory: Folder of the run, or None.
        progress: Whether to show a progress bar.

    Returns:
        `{"<name>_step": [...], "<name>_loss": [...], "<name>_wrong_bits": [...]}`.
    """
    # Each learner's training step is traced once, of which TensorFlow warns if they are many.
    tf.get_logger().setLevel("ERROR")
    curves, task = {}, new_task(config.run.dataset, config.longest)
    for name, (seed, steps, learner) in learners.items():
        if progress and len(learners) > 1:
            print(f"training {name}: {steps} steps", flush=True)
        learner.compile(optimizer(steps), jit_compile=config.run.jit)
        history = training.train(
            learner, sampler(task, seed), steps=steps, meta_batch_size=config.meta_batch_size,
            directory=directory if directory is None or not curves else directory / name,
            progress=progress,
        )  # fmt: skip
        curves |= {f"{name}_{what}": values for what, values in history.items()}
    return curves


def measure(groups, learners, config, history):
    """Scores of all learners on the same sequences, as in training and harder, and the figures'.

    Args:
        groups: `{label: names}`, the trainings of one kind of learner with different seeds.
        learners: `{name: learner}`; the first one is drawn.
        config: The script's `Config`.
        history: What `train` returned.

    Returns:
        A `Result`. Its metrics are called like `NTM_bits_per_sequence`, of the best seed of a
        group, `NTM_bits_per_sequence_of_seed_1`, and `NTM_bit_error_at_length_40`, the share of
        wrong bits of that best one. Which is the best is decided on sequences of their own.
    """
    chosen = config.run.dataset, config.longest
    tests = {"": new_task(*chosen), **harder(*chosen)}
    batches = {
        what: sampler(task, config.run.seed).fixed(config.eval_sequences, BATCH)
        for what, task in tests.items()
    }
    # Fixed sequences of another seed: these are neither trained on nor reported.
    choice = sampler(tests[""], config.run.seed + 1).fixed(config.eval_sequences, BATCH)
    metrics, errors, best = {}, {}, {}
    for label, names in groups.items():
        bits = {name: learners[name].sequence_scores(choice)[:, 0].mean() for name in names}
        best[label] = min(names, key=bits.get)
        scores = {name: learners[name].sequence_scores(batches[""]) for name in names}
        bits, wrong, _ = scores[best[label]].T
        metrics[f"{label}_bits_per_sequence"] = Estimate.from_values(bits)
        metrics[f"{label}_wrong_bits_per_sequence"] = Estimate.from_values(wrong)
        for name in names if len(names) > 1 else ():
            number = name.rpartition("_")[2]
            found = Estimate.from_values(scores[name][:, 0])
            metrics[f"{label}_bits_per_sequence_of_seed_{number}"] = found
        errors[label] = {}
        for what in list(tests)[1:]:
            _, wrong, asked = learners[best[label]].sequence_scores(batches[what]).T
            errors[label][what] = Estimate.from_values(wrong / asked)
            metrics[f"{label}_bit_error_at_{what}"] = errors[label][what]
    first = best[next(iter(groups))]
    extra = {"errors": errors, "best": best, **examples(learners[first], tests, config)}
    return Result(metrics, history=history, extra=extra, learner=learners[first])


def examples(learner, tests, config):
    """What the figures show of one machine: answers to some tests, and the memory in one of them.

    Returns:
        `{"answers": {test: {"targets", "outputs"}}, "memory": {"inputs", ...}}`, lists of numbers.
    """
    answers, memory = {}, None
    for what in [name for name in tests if name][:3]:
        sequences = sampler(tests[what], config.run.seed).episode(0)
        found = memory_figures.trace(learner.network, sequences.inputs)
        asked = sequences.mask > 0
        answers[what] = {
            "targets": sequences.targets[asked], "outputs": found["outputs"][asked].round(3)
        }  # fmt: skip
        if memory is None:
            shown = min(int(np.flatnonzero(asked)[-1]) + 1, SHOWN_STEPS)
            found = {name: values[:shown].round(3) for name, values in found.items()}
            memory = {"inputs": sequences.inputs[:shown], **found}
    return {"answers": answers, "memory": memory}


def draw(result, config, directory):
    """Saves the figures of a run: answers, memory, learning curves, harder and harder tests."""
    extra = result.extra
    figures = {
        "answers": memory_figures.draw_answers(extra["answers"]),
        "memory": memory_figures.draw_memory(extra["memory"], extra["memory"]["inputs"]),
        "learning_curve": draw_learning(result, config),
        "generalisation": draw_generalisation(result),
    }
    for name, figure in figures.items():
        plots.save(figure, directory / f"{name}.png")


def draw_learning(result, config):
    """The learning curves of all learners, and what a machine that knows nothing pays."""
    names = [name.removesuffix("_loss") for name in result.history if name.endswith("_loss")]
    task = new_task(config.run.dataset, config.longest)
    _, _, mask = task.sample((0, 0), 1000)
    nothing = float(np.sum(mask)) / 1000 * task.outputs
    return memory_figures.draw_learning(result.history, names, config.meta_batch_size, nothing)


def draw_generalisation(result):
    """The share of wrong bits of the best learner of each group at each test."""
    errors = {
        label: {what: Estimate.restored(e) for what, e in found.items()}
        for label, found in result.extra["errors"].items()
    }
    return memory_figures.draw_generalisation(errors)
