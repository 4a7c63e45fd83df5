"""What learners of label sequences share: data, network, measurement by instance, figures.

Their `Config`s have the fields of `chapter04_ntm_mann.mann.Config`.
"""

from common import adaptation_figures, instance_figures, memory_episodes, plots
from common.datasets import load
from common.late_labels import LateLabelLearner
from common.results import Estimate, Result

import keras
import numpy as np
import tensorflow as tf

SHOWN = (1, 2, 3, 4, 5, 10)  # instances that are told in numbers


def samplers(config):
    """The sequences for meta-training and those for meta-test, of disjoint classes."""
    settings = config.run
    options = {"strings": config.strings, "rotations": config.rotations, "jitter": config.jitter}
    options["size"] = config.image_size
    return [
        memory_episodes.sampler(
            load(settings.dataset, split, settings.data_dir),
            config.n_way, config.instances, settings.seed, **options,
        )
        for split in ("train", "test")
    ]  # fmt: skip


def sequence_learner(cell, sampler, config):
    """A learner whose network is a Keras RNN of the cell, and a linear layer behind it."""
    label_shape = sampler.data.label_shape
    channels = sampler.data.data.items.shape[-1]
    labels = int(np.prod(label_shape))
    network = keras.Sequential(
        [
            keras.Input((None, config.image_size**2 * channels + labels)),
            keras.layers.RNN(cell, return_sequences=True, dtype="float32"),
            keras.layers.Dense(labels, dtype="float32"),
        ],
        name=type(cell).__name__,
    )
    return LateLabelLearner(network, label_shape, config.clip_norm)


def instance_accuracies(learner, episodes):
    """The share of classes named rightly at their first, second, ... instance.

    Args:
        learner: A `LateLabelLearner`.
        episodes: Batches of sequences, such as `sampler.fixed(600, 100)`.

    Returns:
        NumPy `(episodes, instances)`.
    """
    compiled = tf.function(lambda e: learner.hits(e.query_y, learner.query_predictions(e)))
    found = []
    for episode in episodes:
        hits, number = compiled(episode).numpy(), memory_episodes.instance_numbers(episode.query_y)
        asked = number[..., None] == np.arange(1, number.max() + 1)  # (episodes, steps, instances)
        found.append((asked & hits[..., None]).sum(axis=1) / asked.sum(axis=1))
    return np.concatenate(found)


def first_instance_ceiling(n_way):
    """The best accuracy at first instances for one who never repeats a label: H(n_way) / n_way.

    Whoever does better on many episodes has seen labels too early.
    """
    return float(np.mean(1 / np.arange(1, n_way + 1)))


def measure(learners, sampler, config, history):
    """Accuracies by instance of all learners on the same fixed episodes, and what figures need.

    Args:
        learners: `LateLabelLearner`s by name, the one that the script is about first.
        sampler: The sampler of the meta-test split.
        config: The script's `Config`.
        history: Learning curves of the first learner.

    Returns:
        A `Result`; its metrics are called like `MANN_accuracy_instance_2`, and
        `MANN_less_LSTM_accuracy_instance_2` the mean of the differences, episode by episode.
    """
    episodes = sampler.fixed(config.eval_episodes, min(100, config.eval_episodes))
    scores = {name: instance_accuracies(learner, episodes) for name, learner in learners.items()}
    first, *others = scores
    shown = [k for k in SHOWN if k <= config.instances]
    metrics = {
        f"{name}_accuracy_instance_{k}": Estimate.from_values(found[:, k - 1])
        for name, found in scores.items()
        for k in shown
    }
    for other in others:
        difference = Estimate.from_values(scores[first][:, 1] - scores[other][:, 1])
        metrics[f"{first}_less_{other}_accuracy_instance_2"] = difference
    curves = {
        name: [Estimate.from_values(values) for values in found.T] for name, found in scores.items()
    }
    return Result(metrics, history=history, extra={"curves": curves}, learner=learners[first])


def states_along(learner, episode):
    """The states of a learner's cell after every step of one episode.

    Args:
        learner: A learner whose network begins with an RNN of a cell that has `state_names`.
        episode: An `Episode` without task axis.

    Returns:
        NumPy arrays by name, `(steps, ...)`.
    """
    cell = learner.network.layers[0].cell
    inputs = learner.inputs(episode.query_x[None], episode.query_y[None])
    states = tf.scan(
        lambda states, x: cell.call(x, states)[1],
        tf.transpose(inputs, (1, 0, 2)),
        cell.get_initial_state(1),
    )
    return {name: state[:, 0].numpy() for name, state in zip(cell.state_names, states, strict=True)}


def draw(result, config, directory):
    """Saves the figures of a run: accuracy by instance, an episode, its memory, learning curve."""
    curves = {
        name: [Estimate.restored(e) for e in curve]
        for name, curve in result.extra["curves"].items()
    }
    ceiling = first_instance_ceiling(config.n_way) if not config.strings else None
    figure = instance_figures.draw_instances(curves, ceiling)
    plots.save(figure, directory / "instances.png")
    _, sampler = samplers(config)
    episode = sampler.episode(0)
    answers = result.learner.query_predictions(episode._make(part[None] for part in episode))
    answers = np.argmax(result.learner.symbol_logits(answers)[0], axis=-1)
    figure = instance_figures.draw_sequence(episode.query_x, episode.query_y, answers)
    plots.save(figure, directory / "episode.png")
    states = states_along(result.learner, episode)
    figure = instance_figures.draw_memory(states, episode.query_y)
    plots.save(figure, directory / "memory.png")
    figure = adaptation_figures.draw_learning(result.history, list(curves))
    plots.save(figure, directory / "learning_curve.png")
