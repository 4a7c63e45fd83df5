"""What the scripts of meta reinforcement learning share: training, measurement, figures.

Their `Config`s have the fields of `chapter05_maml_adml.maml_rl.Config`, and their learners the
methods of `PolicyMAML` there.
"""

from functools import partial

from common import navigation_figures, plots, training
from common.errors import UserError
from common.navigation import NavigationSampler
from common.results import Estimate, Result
from common.trust_region import TrustRegion

import numpy as np
import tensorflow as tf

EXAMPLE_GOALS, EXAMPLE_TRAJECTORIES = 3, 4


def check(config):
    """Raises `UserError` if a setting that all scripts share is of no use here."""
    if config.run.jit or config.run.mixed_precision:
        name = "--jit" if config.run.jit else "--mixed-precision"
        raise UserError(
            f"{name} does not work with trust-region steps, whose second derivatives are exact; "
            f"leave {name} out"
        )
    if not config.hidden or min(config.hidden) < 1:
        raise UserError(f"--hidden must be numbers of at least 1, got {config.hidden}")


def train(learners, config, directory=None, progress=False):
    """Trains each of the learners on the same tasks as the others, by trust-region steps.

    Args:
        learners: Learners by name. The first one's files lie in the directory, those of each
            other in a folder with its name there.
        config: The script's `Config`.
        directory: Folder of the run, or None.
        progress: Whether to show a progress bar.

    Returns:
        `{"step": [...], "return_before": [...], "<name>_return_before": [...], ...}`, the plain
        names being those of the first one.
    """
    curves = {}
    for name, learner in learners.items():
        if progress and len(learners) > 1:
            print(f"training {name}", flush=True)
        learner.compile(TrustRegion(config.max_kl), jit_compile=False)
        history = training.train(
            learner, NavigationSampler(learner.world, config.run.seed), steps=config.run.steps,
            meta_batch_size=config.meta_batch_size,
            directory=directory if directory is None or not curves else directory / name,
            progress=progress,
        )  # fmt: skip
        others = {f"{name}_{key}": values for key, values in history.items() if key != "step"}
        curves = history if not curves else {**curves, **others}
    return curves


def paths_by_step(learner, goals, seed, steps, trajectories=None):
    """The `Paths` to the goals before each inner step and after the last, a list."""
    # `partial`, because TensorFlow warns if it meets the same function again, with every learner.
    return tf.function(partial(learner.walk), autograph=False)(
        goals, seed, steps=steps, trajectories=trajectories
    )[0]


def measure(learners, config, history):
    """Returns of all learners on the same unseen goals, and what the figures need.

    Args:
        learners: Learners by name, the one that the script is about first and the one to
            compare it with second.
        config: The script's `Config`.
        history: Learning curves, as `train` gives them.

    Returns:
        A `Result`; its metrics are called like `MAML_return_after_3_steps`, the mean over goals
        of the mean return of a goal's trajectories, and `MAML_less_random_return_after_3_steps`,
        the mean of the differences goal by goal.
    """
    names, first = list(learners), next(iter(learners.values()))
    goals, seed = NavigationSampler(first.world, config.run.seed).fixed(config.eval_episodes)
    walked = {
        name: paths_by_step(learner, goals, seed, config.test_steps, config.test_trajectories)
        for name, learner in learners.items()
    }
    scores = {
        name: np.stack([np.mean(paths.returns(), axis=1) for paths in found], axis=1)
        for name, found in walked.items()
    }  # (goals, steps + 1)
    scores[f"{names[0]}_less_{names[1]}"] = scores[names[0]] - scores[names[1]]
    curves = {
        name: [Estimate.from_values(values) for values in found.T] for name, found in scores.items()
    }
    metrics = {
        f"{name}_return_after_{step}_steps": estimate
        for name, curve in curves.items()
        for step, estimate in enumerate(curve)
    }
    shown = range(min(EXAMPLE_GOALS, config.eval_episodes))
    examples = [example(walked[names[0]], goals, task) for task in shown]
    extra = {"curves": {name: curves[name] for name in names}, "examples": examples}
    return Result(metrics, history=history, extra=extra, learner=first)


def example(walked, goals, task):
    """What `navigation_figures.draw_paths` draws of one task."""
    paths = []
    for step in walked:
        moves = np.sum(step.alive[task, :EXAMPLE_TRAJECTORIES], axis=1).astype(int)
        positions = step.observations[task].numpy().round(3)
        paths.append([positions[number, :end].tolist() for number, end in enumerate(moves)])
    return {"goal": goals[task].numpy().tolist(), "paths": paths}


def draw(result, config, directory):
    """Saves the figures of a run: trajectories, return by inner steps, learning curve."""
    examples, curves = result.extra["examples"], result.extra["curves"]
    plots.save(navigation_figures.draw_paths(examples), directory / "trajectories.png")
    curves = {name: [Estimate.restored(e) for e in curve] for name, curve in curves.items()}
    figure = navigation_figures.draw_returns(curves, config.horizon)
    plots.save(figure, directory / "inner_steps.png")
    figure = navigation_figures.draw_learning(result.history, list(curves)[:-1])
    plots.save(figure, directory / "learning_curve.png")
