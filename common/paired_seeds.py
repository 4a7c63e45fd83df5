"""Two learners trained side by side with several seeds, and their difference with its intervals.

What one seed shows may be luck: of the weights, of the order of the tasks. Scripts whose `Config`
has `n_seeds` train and compare here; everything else is `common.experiment`'s.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common import experiment, plots, training
from common.results import Estimate

import numpy as np


@dataclass
class SeedRun:
    """What one seed left: trained learners, their test episodes, learning curves and scores."""

    learners: dict[str, Any]
    sampler: Any
    history: dict[str, list[float]]
    scores: dict[str, np.ndarray]  # (tasks, steps + 1) for each learner
    seed: int


def train(new_learners: Callable, config: Any, directory=None, progress=False) -> list[SeedRun]:
    """Trains and tests learners with `config.n_seeds` seeds, from `config.run.seed` on.

    A seed decides the weights, the tasks of meta-training and those of meta-test; the learners of
    one seed meet the same tasks.

    Args:
        new_learners: `new_learners(config, sampler)` gives untrained learners by name, the one
            that the script is about first. One called `pooled` is trained on all tasks as if they
            were one, for `config.baseline_steps`.
        config: The script's `Config`.
        directory: Folder of the run, or None. The files of seeds after the first lie in folders
            of their own there.
        progress: Whether to show a progress bar.
    """
    runs = []
    for index in range(config.n_seeds):
        seed = config.run.seed + index
        one = replace(config, run=replace(config.run, seed=seed))
        if progress and config.n_seeds > 1:
            print(f"seed {seed}", flush=True)
        training.prepare(one.run)
        sampler, test_sampler = experiment.samplers(one)
        learners = new_learners(one, sampler)
        place = directory if directory is None or not index else Path(directory) / f"seed-{seed}"
        trained = {name: learner for name, learner in learners.items() if name != "pooled"}
        history = experiment.train(trained, sampler, one, place, progress)
        if "pooled" in learners:
            experiment.train_pooled(learners["pooled"].network, sampler, one, progress)
        scores = experiment.scores_by_step(learners, test_sampler, one)
        runs.append(SeedRun(learners, test_sampler, history, scores, seed))
    return runs


def measure(runs, config):
    """The scores over all tasks of all seeds; the difference of the first two learners twice.

    Returns:
        A `Result` as of `experiment.measure`. `TAML_less_MAML_accuracy_after_1_steps` is over
        tasks, as if the seeds were fixed; with `_over_seeds` at its end the seeds' means are the
        values (n is their number), and its interval says what another seed may give.
        `extra["seeds"]` has the first one seed by seed, after `config.test_steps` steps.
    """
    first = runs[0]
    scores = {name: np.concatenate([r.scores[name] for r in runs]) for name in first.scores}
    result = experiment.measure(first.learners, first.sampler, config, first.history, scores)
    ours, theirs = list(first.scores)[:2]
    with np.errstate(invalid="ignore"):
        differences = np.stack([r.scores[ours] - r.scores[theirs] for r in runs]).astype(float)
    score = result.extra["score"]
    for step in sorted({0, 1, 3, 5, 10, config.test_steps}):
        name = f"{ours}_less_{theirs}_{score}_after_{step}_steps_over_seeds"
        result.metrics[name] = Estimate.from_seeds(differences[:, :, step].mean(axis=1))
    at_test = differences[:, :, config.test_steps]
    result.extra["seeds"] = {
        "names": [ours, theirs],
        "step": config.test_steps,
        "seed": [r.seed for r in runs],
        "difference": [Estimate.from_values(values) for values in at_test],
        "over_tasks": Estimate.from_values(at_test),
        "over_seeds": Estimate.from_seeds(at_test.mean(axis=1)),
    }
    return result


def draw_differences(found, score):
    """The difference of two learners seed by seed, and its mean with both intervals.

    Args:
        found: `extra["seeds"]` of the result of `measure`.
        score: What is measured, for the label of the axis.

    Returns:
        The matplotlib figure.
    """
    ours, theirs = found["names"]
    seeds = [Estimate.restored(entry) for entry in found["difference"]]
    rows = [(f"seed {s}", e, plots.role("after")) for s, e in zip(found["seed"], seeds)]
    for name in ("over_tasks", "over_seeds"):
        label = f"all, interval {name.replace('_', ' ')}"
        rows.append((label, Estimate.restored(found[name]), plots.role("baseline")))
    figure, axis = plots.figure(size=(5.6, 1.3 + 0.32 * len(rows)))
    axis.axvline(0, color="black", linewidth=0.8)
    for row, (_, estimate, look) in enumerate(rows):
        spread = 0 if np.isnan(estimate.ci95) else estimate.ci95
        axis.errorbar(
            estimate.mean, row, xerr=spread, fmt="o", color=look["color"], capsize=3, markersize=6
        )
    axis.set_yticks(range(len(rows)), [label for label, _, _ in rows])
    axis.invert_yaxis()
    steps = f"{found['step']} step{'s' * (found['step'] != 1)}"
    axis.set_xlabel(f"{score} of {ours} less {theirs}, after {steps}")
    return figure


def draw(result, directory):
    """Saves the figure of the differences as `differences.png`."""
    score = result.extra["score"].replace("_", " ")
    plots.save(draw_differences(result.extra["seeds"], score), directory / "differences.png")
