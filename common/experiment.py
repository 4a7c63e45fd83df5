"""What the scripts of the gradient-based family share: data, network, baselines, measurement.

Their `Config`s have the fields of `chapter05_maml_adml.maml.Config`.
"""

from common import adaptation, adaptation_figures, networks, plots, training
from common.datasets import load
from common.episodes import EpisodeSampler
from common.results import Estimate, Result

import keras
import numpy as np
import tensorflow as tf

EXAMPLE_TASKS = 4
TASK_BLIND_ERROR = 3.0057  # of -1.62 cos(x), the best answer to a sine wave that nobody has seen


def samplers(config):
    """The episodes for meta-training and those for meta-test, of disjoint classes."""
    settings = config.run
    options = {"rotations": config.rotations, "seed": settings.seed}
    shots = {"train": config.k_shot, "test": config.test_k_shot or config.k_shot}
    data = {split: load(settings.dataset, split, settings.data_dir) for split in shots}
    return [
        EpisodeSampler(data[split], config.n_way, k_shot, config.n_query, **options)
        for split, k_shot in shots.items()
    ]


def new_network(config, sampler, **options):
    """The paper's network for the data, and the loss: `(keras.Model, loss)`.

    The options are those of `networks.mlp` and `networks.conv4`.
    """
    if not hasattr(sampler.data, "items"):  # waves to regress
        hidden = getattr(config, "hidden", (40, 40))
        return networks.mlp(hidden=hidden, seed=config.run.seed, **options), "mse"
    network = networks.conv4(
        sampler.data.items.shape[1:], config.n_way, filters=config.filters, norm=config.norm,
        seed=config.run.seed, **options,
    )  # fmt: skip
    return network, None


def train_pooled(network, sampler, config, progress=False):
    """Trains the network on all meta-training tasks as if they were one; in place.

    Regression: on the points of all tasks at once, so that it learns their average. Images: to
    tell all classes of the split apart, with a last layer of its own; the network's last layer
    then starts at zero, to be fitted to a task together with the rest.
    """
    if progress:
        print(f"training the pooled baseline: {config.baseline_steps} steps", flush=True)
    model, batches, loss = network, _points(sampler, config), "mse"
    if hasattr(sampler.data, "items"):
        head = network.layers[-1]
        n_classes = len(sampler.data.class_names) * (4 if config.rotations else 1)
        model = keras.Model(network.input, keras.layers.Dense(n_classes)(head.input))
        batches = _images(sampler.data, config)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        for weight in head.weights:
            weight.assign(tf.zeros_like(weight))
    model.compile(keras.optimizers.Adam(config.outer_lr), loss)
    model.fit(batches, steps_per_epoch=config.baseline_steps, verbose=0)


def _points(sampler, config):
    """Batches of the query points of many tasks, without saying which is of which."""
    return sampler.dataset(config.meta_batch_size).map(
        lambda episode: (
            tf.reshape(episode.query_x, [-1, *episode.query_x.shape[2:]]),
            tf.reshape(episode.query_y, [-1, *episode.query_y.shape[2:]]),
        )
    )


def _images(data, config, batch_size=128):
    """Endless batches of images and the numbers of their classes, turned ones counted apart."""
    generator = np.random.default_rng(config.run.seed)
    scale = 255.0 if data.items.dtype == np.uint8 else 1.0
    turns = 4 if config.rotations else 1
    while True:
        chosen = generator.integers(len(data.items), size=batch_size)
        turned = generator.integers(turns, size=batch_size)
        images = [np.rot90(data.items[i], r) for i, r in zip(chosen, turned, strict=True)]
        yield np.stack(images).astype(np.float32) / scale, data.labels[chosen] * turns + turned


def train(learners, sampler, config, directory=None, progress=False):
    """Compiles each of the learners and trains it on the same episodes as the others.

    Args:
        learners: Learners by name. The first one's files lie in the directory, those of each
            other in a folder with its name there.
        sampler: The `EpisodeSampler` of the meta-training split.
        config: The script's `Config`.
        directory: Folder of the run, or None.
        progress: Whether to show a progress bar.

    Returns:
        `{"step": [...], "loss": [...], "<name>_loss": [...]}`, `loss` being the first one's.
    """
    curves = {}
    for name, learner in learners.items():
        if progress and len(learners) > 1:
            print(f"training {name}", flush=True)
        optimizer = getattr(learner, "outer_optimizer", training.outer_optimizer)(config)
        learner.compile(optimizer, jit_compile=config.run.jit)
        history = training.train(
            learner, sampler, steps=config.run.steps, meta_batch_size=config.meta_batch_size,
            directory=directory if directory is None or not curves else directory / name,
            progress=progress,
        )  # fmt: skip
        curves |= {f"{name}_loss": history["loss"]} if curves else history
    return curves


def scores_by_step(learners, sampler, config):
    """Scores by learner on the same fixed episodes: `(eval_episodes, steps + 1)` for each name."""
    episodes = sampler.fixed(config.eval_episodes, config.meta_batch_size)
    most = max(10, config.test_steps)
    return {
        name: adaptation.scores_by_step(learner, episodes, most)
        for name, learner in learners.items()
    }


def measure(learners, sampler, config, history, scores=None):
    """Scores of all learners on the same fixed episodes, and what the figures need.

    Args:
        learners: Gradient-based learners by name, the one that the script is about first and
            the one to compare it with second.
        sampler: The `EpisodeSampler` of the meta-test split.
        config: The script's `Config`.
        history: Learning curves of the first learner.
        scores: What `scores_by_step` found, if it has been called already.

    Returns:
        A `Result`; its metrics are called like `MAML_accuracy_after_3_steps`, and
        `MAML_less_pooled_accuracy_after_3_steps` the mean of the differences, task by task.
    """
    first = next(iter(learners.values()))
    shown = sorted({0, 1, 3, 5, 10, config.test_steps})
    scores = dict(scores_by_step(learners, sampler, config) if scores is None else scores)
    names = list(learners)
    if len(names) > 1:
        with np.errstate(invalid="ignore"):  # both may be infinite, many steps too far
            scores[f"{names[0]}_less_{names[1]}"] = scores[names[0]] - scores[names[1]]
    curves = {
        name: [Estimate.from_values(values) for values in found.T] for name, found in scores.items()
    }
    metrics = {
        f"{name}_{first.score_name}_after_{step}_steps": curve[step]
        for name, curve in curves.items()
        for step in shown
    }
    curves = {name: curves[name] for name in names}
    extra = {"curves": curves, "score": first.score_name}
    if first.classifies:
        probabilities = first.predict_task(*sampler.episode(0)[:3])
        extra["predictions"] = probabilities.argmax(-1).tolist()
    else:
        extra["waves"] = [_wave(learners, sampler, i) for i in range(EXAMPLE_TASKS)]
    return Result(metrics, history=history, extra=extra, learner=first)


def _wave(learners, sampler, index):
    """What `adaptation_figures.draw_waves` draws of fixed episode number `index`."""
    parameters = sampler.data.parameters(sampler.seed_of(index), 1)
    episode = sampler.episode(index)
    x = np.linspace(*sampler.data.x_range, 200, dtype=np.float32)[:, None]
    wave = {
        "x": x,
        "truth": sampler.data.wave(*parameters, x).numpy(),
        "support_x": episode.support_x,
        "support_y": episode.support_y,
    }
    for name, learner in learners.items():
        wave[name] = adaptation.predictions_by_step(learner, episode._replace(query_x=x))
    return {name: np.squeeze(values, -1).round(4).tolist() for name, values in wave.items()}


def draw(result, config, directory):
    """Saves the figures of a run: example tasks, score by inner steps, learning curve."""
    extra, names = result.extra, list(result.extra["curves"])
    curves = {
        name: [Estimate.restored(e) for e in curve] for name, curve in extra["curves"].items()
    }
    if "waves" in extra:
        figure = adaptation_figures.draw_waves(extra["waves"], names[:2])
        plots.save(figure, directory / "waves.png")
        known = config.run.dataset == "sine" and len(names) > 1
        floor = (TASK_BLIND_ERROR, "best function for all waves") if known else None
    else:
        _, sampler = samplers(config)
        episode = sampler.episode(0)
        figure = plots.draw_episode(*episode, predictions=np.array(extra["predictions"]))
        plots.save(figure, directory / "episode.png")
        floor = (1 / config.n_way, "guessing")
    score = extra["score"].replace("_", " ")
    figure = adaptation_figures.draw_steps(curves, f"meta-test {score}", floor)
    plots.save(figure, directory / "inner_steps.png")
    figure = adaptation_figures.draw_learning(result.history, names)
    plots.save(figure, directory / "learning_curve.png")
