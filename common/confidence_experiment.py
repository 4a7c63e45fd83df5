"""A learner with confidences beside one without: same episodes, some images damaged, paired scores.

The `Config`s have the fields of `chapter03_protonets.gaussian_protonet.Config`.
"""

from common import confidence_figures, metric_experiment, plots
from common.damage import DamagedSampler
from common.results import Estimate, Result

import numpy as np
import tensorflow as tf
from sklearn.metrics import roc_auc_score

SORTED_EPISODES = 50  # in which confidences are compared


def samplers(config):
    """The episodes for meta-training, and by name those for meta-test.

    Those for training have damaged images; those for testing come twice, as
    `"5_way_5_shot_clean"` and, the same with some images damaged, `"5_way_5_shot_damaged"`.
    """
    train, tests = metric_experiment.samplers(config)
    damage = (config.damage, config.damage_factor, config.damage_queries)
    both = {}
    for task, sampler in tests.items():
        both[f"{task}_clean"] = sampler
        both[f"{task}_damaged"] = DamagedSampler(sampler, *damage)
    return DamagedSampler(train, *damage), both


def train(learners, sampler, config, directory=None, progress=False):
    """Trains each of the learners in turn on the same episodes; returns all learning curves.

    Args:
        learners: Learners by name. The first one's files lie in the directory, those of each
            other in a folder with its name there.
        sampler: From `samplers`.
        config: The script's `Config`.
        directory: Folder of the run, or None.
        progress: Whether to show a progress bar.

    Returns:
        `{"step": [...], "loss": [...], "<name>_loss": [...]}`, `loss` being the first one's.
    """
    curves = {}
    for name, learner in learners.items():
        if progress:
            print(f"training {name}", flush=True)
        own = directory if directory is None or not curves else directory / name
        history = metric_experiment.train(learner, sampler, config, own, progress)
        curves |= {f"{name}_loss": history["loss"]} if curves else history
    return curves


def measure(learners, samplers, config, history):
    """Accuracies of two learners on the same fixed episodes, and their paired difference.

    Args:
        learners: By name, the one with confidences first, then the one to compare it with.
        samplers: Samplers of the meta-test split by name, from `samplers`.
        config: The script's `Config`.
        history: Learning curves.

    Returns:
        A `Result`; its metrics are called like `protonet_accuracy_5_way_5_shot_clean` and
        `gain_5_way_5_shot_clean`, the mean over episodes of the first accuracy less the second.
    """
    learner = next(iter(learners.values()))
    metrics, gains = {}, {}
    for task, sampler in samplers.items():
        scores = [
            each.episode_scores(sampler.fixed(config.eval_episodes, 1))
            for each in learners.values()
        ]
        for name, values in zip(learners, scores, strict=True):
            metrics[f"{name}_accuracy_{task}"] = Estimate.from_values(values)
        gains[f"gain_{task}"] = Estimate.from_values(scores[0] - scores[1])
    metrics |= gains
    shown = shown_sampler(samplers)
    if 0 < config.damage < 1 and learner.confidence != "none":
        metrics["pairs_sorted_by_confidence"] = pairs_sorted(learner, shown)
    episode = shown.episode(0)
    asked = (episode.support_x, episode.support_y, episode.query_x)
    extra = {"predictions": learner.predict_task(*asked).round(4).tolist()}
    return Result(metrics, history=history, extra=extra, learner=learner)


def shown_sampler(samplers):
    """The first sampler of damaged episodes: what the figures show."""
    return next(each for task, each in samplers.items() if task.endswith("damaged"))


def confidences(learner, images):
    """The mean over features of S of each image, NumPy `(images,)`."""
    embeddings = tf.cast(learner.network(images, training=False), tf.float32)  # not bfloat16
    return learner.points(embeddings)[1].numpy().mean(-1)


def pairs_sorted(learner, sampler, n_episodes=SORTED_EPISODES):
    """How many pairs of a whole and a damaged support image have the whole one surer.

    Args:
        learner: A learner with `points`, such as `GaussianProtoNet`.
        sampler: A `DamagedSampler`.
        n_episodes: How many fixed episodes to look at.

    Returns:
        An `Estimate` over episodes; 0.5 is chance, NaN if no episode has images of both kinds.
    """
    shares = []
    for index in range(n_episodes):
        damaged = sampler.masks(index)[0]
        if 0 < damaged.sum() < len(damaged):
            sure = confidences(learner, sampler.episode(index).support_x)
            shares.append(roc_auc_score(~damaged, sure))
    return Estimate.from_values(shares or [np.nan])


def draw(result, config, directory):
    """Saves the figures of a run: a damaged episode, its radii, its images sorted, curves."""
    sampler, learner = shown_sampler(samplers(config)[1]), result.learner
    episode, (damaged, _) = sampler.episode(0), sampler.masks(0)
    predictions = np.array(result.extra["predictions"])
    figure = plots.draw_episode(*episode, predictions=predictions)
    plots.save(figure, directory / "episode.png")
    figure = confidence_figures.draw_gaussians(learner, episode, damaged)
    plots.save(figure, directory / "gaussians.png")
    sure = confidences(learner, episode.support_x)
    figure = confidence_figures.draw_sorted(episode.support_x, sure, damaged)
    plots.save(figure, directory / "confidences.png")
    figure, axis = plots.figure(size=(5.6, 3.2))
    for name, curve in result.history.items():
        if name.endswith("loss"):
            label = "with confidences" if name == "loss" else name.removesuffix("_loss")
            plots.learning_curve(axis, result.history["step"], curve, label)
    axis.set(xlabel="outer step", ylabel="loss in training")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend()
    plots.save(figure, directory / "learning_curve.png")
