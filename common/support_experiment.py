"""Learners that see support sets only, compared on the same episodes at several numbers of shots.

The `Config` has the fields of `chapter01_intro.episodes.Config`.
"""

from functools import partial

from common import episode_figures, plots
from common.datasets import SPLITS, load
from common.episodes import EpisodeSampler
from common.errors import UserError
from common.results import Estimate, Result

import numpy as np
import tensorflow as tf

TASKS = 25  # computed at once; no result depends on it


def check_shots(shots):
    """Raises `UserError` unless these are numbers of support items."""
    if not shots or min(shots) < 1:
        raise UserError(f"--shots must be numbers of at least 1, got {shots}")


def samplers(config, k_shot=None):
    """The episodes by split, of disjoint classes.

    Raises:
        UserError: If the data set has no classes, or too few classes or items.
    """
    settings = config.run
    data = {split: load(settings.dataset, split, settings.data_dir) for split in SPLITS}
    if not all(hasattr(each, "items") for each in data.values()):
        raise UserError(
            f"expected a data set with classes, found {settings.dataset}; choose another --dataset"
        )

    def sampler(data, k_shot):
        return EpisodeSampler(data, config.n_way, k_shot, config.n_query, seed=settings.seed)

    for each in data.values():
        sampler(each, max(config.k_shot, *config.shots))  # too few items come out before training
    return {split: sampler(each, k_shot or config.k_shot) for split, each in data.items()}


def answers_of(learner):
    """A `MetaLearner` as a function from an `Episode` to labels `(tasks, queries)`, compiled."""
    compiled = tf.function(partial(_answers, learner))  # `partial`: see `common.adaptation`
    return lambda episode: compiled(episode).numpy()


def _answers(learner, episode):
    return tf.argmax(learner.query_predictions(episode), -1)


def scores(answers, episodes):
    """Accuracy on each episode, `(n_episodes,)`.

    Args:
        answers: From an `Episode` with task axis to labels `(tasks, queries)`.
        episodes: Batches of `Episode`.
    """
    found = [np.mean(answers(batch) == batch.query_y, axis=1) for batch in episodes]
    return np.concatenate(found)


def choose(candidates, sampler, n_episodes):
    """Which of several ways to set a learner is best on meta-validation episodes.

    Args:
        candidates: Functions as `scores` takes them, by what they are called.
        sampler: The `EpisodeSampler` of the meta-validation split.
        n_episodes: How many episodes to compare on.

    Returns:
        `(name, {name: accuracy})`; nothing is computed where there is no choice.
    """
    if len(candidates) == 1:
        return next(iter(candidates)), {}
    episodes = list(sampler.fixed(n_episodes, TASKS))
    found = {name: float(scores(each, episodes).mean()) for name, each in candidates.items()}
    return max(found, key=found.get), found


def measure(learners, config, progress=False):
    """Chooses how each learner is set, and measures it, at each number of shots.

    Args:
        learners: For each learner by name its `candidates`, as `choose` takes them.
        config: The script's `Config`.
        progress: Whether to say how far it is.

    Returns:
        A `Result` with metrics like `logistic_regression_accuracy_5_way_1_shot`, and in `extra`:
        `shots`; `curves`, for each learner an `Estimate` for each of them; `chosen`, by learner
        and number of shots; `tried`, the accuracies on meta-validation episodes; `answers` for the
        queries of meta-test episode 0 at `config.k_shot`, by learner.
    """
    shots = sorted({config.k_shot, *config.shots})
    every = {k: samplers(config, k) for k in shots}
    extra = {"shots": shots, "curves": {}, "chosen": {}, "tried": {}, "answers": {}}
    metrics = {}
    for name, candidates in learners.items():
        curve, chosen, tried = [], {}, {}
        for k, sampler in every.items():
            if progress:
                print(f"{name.replace('_', ' ')}: {k} shot", flush=True)
            best, found = choose(candidates, sampler["validation"], config.choice_episodes)
            chosen[str(k)], tried[str(k)] = best, found
            episodes = list(sampler["test"].fixed(config.eval_episodes, TASKS))
            curve.append(Estimate.from_values(scores(candidates[best], episodes)))
            metrics[f"{name}_accuracy_{config.n_way}_way_{k}_shot"] = curve[-1]
            if k == config.k_shot:
                extra["answers"][name] = candidates[best](episodes[0])[0].tolist()
        extra["curves"][name] = curve
        if any(tried.values()):
            extra["chosen"][name], extra["tried"][name] = chosen, tried
    return Result(metrics, extra=extra)


def draw(result, config, directory):
    """Saves the figures of a run: episodes of each split, one with answers, accuracy by shots."""
    every, extra = samplers(config), result.extra
    plots.save(episode_figures.draw_splits(every), directory / "splits.png")
    episode = every["test"].episode(0)
    plots.save(plots.draw_episode(*episode), directory / "episode.png")
    figure = episode_figures.draw_answers(episode, extra["answers"])
    plots.save(figure, directory / "answers.png")
    figure = episode_figures.draw_by_shots(extra["shots"], extra["curves"], config.n_way)
    plots.save(figure, directory / "by_shots.png")
    figure, axis = plots.figure(size=(5.6, 3.2))
    plots.learning_curve(axis, result.history["step"], result.history["loss"])
    axis.set(xlabel="outer step", ylabel="loss of the prototypical network")
    axis.xaxis.get_major_locator().set_params(integer=True)
    plots.save(figure, directory / "learning_curve.png")
