"""Two learners trained on tasks with outliers among them, over several seeds, and compared.

The scripts' `Config`s have the fields of
`chapter07_gradient_agreement.gradient_agreement.Config`.
"""

from dataclasses import replace

from common import experiment, plots, training
from common.outlier_tasks import with_outliers
from common.results import Estimate, Result

import numpy as np

FREQUENCIES = (2.0, 3.0)  # of waves of another kind
SHOWN_BATCHES = 20  # whose weights the histogram shows


def run(config, new_learners, directory=None, progress=False):
    """Trains both learners at every proportion of outliers with every seed; tests without outliers.

    Args:
        config: The script's `Config`.
        new_learners: Makes of `(config, seed)` the settings of the training, the samplers for
            training and for test, and the untrained learners by name, the script's own first.
        directory: Folder of the run, or None.
        progress: Whether to show progress.

    Returns:
        A `Result`; its metrics are called like `MAML_mean_squared_error_at_20_percent`, and
        `agreement_less_MAML_...` the mean over seeds of the difference.
    """
    scores, curves, weights = {}, {}, {}
    for share in config.outliers:
        for number in range(config.n_seeds):
            training.prepare(replace(config.run, seed=config.run.seed + number))
            made = new_learners(config, config.run.seed + number)
            settings, sampler, test_sampler, learners = made
            sampler = with_outliers(sampler, share, _strange(config, sampler))
            place = directory and directory / f"outliers_{100 * share:g}" / f"seed_{number}"
            if progress:
                print(f"{100 * share:g} % outliers, seed {number}", flush=True)
            history = experiment.train(learners, sampler, settings, place, progress)
            episodes = test_sampler.fixed(config.eval_episodes, config.meta_batch_size)
            for name, learner in learners.items():
                found = learner.episode_scores(episodes).mean()
                scores.setdefault(name, {}).setdefault(share, []).append(found)
            curves.setdefault(share, []).append(history)
            own = next(iter(learners.values()))
            if number == 0:
                weights[share] = _weights(own, sampler, config)
    first, second = scores
    scores[f"{first}_less_{second}"] = {
        share: np.subtract(scores[first][share], scores[second][share]) for share in config.outliers
    }
    metrics = {
        f"{name}_{own.score_name}_at_{100 * share:g}_percent": Estimate.from_seeds(values)
        for name, of_shares in scores.items()
        for share, values in of_shares.items()
    }
    history = {
        f"{name}_at_{100 * share:g}_percent": np.mean([curve[name] for curve in found], axis=0)
        for share, found in curves.items()
        for name in ("loss", "ordinary_weight", "outlier_weight")
    }
    history = {name: np.asarray(values).tolist() for name, values in history.items()}
    history = {"step": curves[config.outliers[0]][0]["step"], **history}
    extra = {"score": own.score_name, "learners": [first, second], "weights": weights}
    return Result(metrics, history=history, extra=extra, learner=own)


def _strange(config, sampler):
    """The distribution of the outliers; None for shuffled labels."""
    if config.outlier_kind == "shuffled":
        return None
    return replace(sampler.data, frequency=FREQUENCIES)


def _weights(learner, sampler, config):
    """Weights of the tasks of some training batches, `{"ordinary": [...], "outlier": [...]}`."""
    found = {"ordinary": [], "outlier": []}
    for episode in sampler.dataset(config.meta_batch_size).take(SHOWN_BATCHES):
        gradients, _, *displacements = learner.task_gradients(episode)
        found_now = learner.weigh(gradients, *displacements).numpy()
        for weight, outlier in zip(found_now, episode.outlier.numpy()):
            found["outlier" if outlier else "ordinary"].append(round(float(weight), 5))
    return found


def draw(result, config, directory):
    """Saves the figure of a run: weights along training and at its end, score by proportion."""
    plots.save(draw_agreement(result, config), directory / "agreement.png")


def draw_agreement(result, config):
    """Weights of ordinary and of outlier tasks, and the score against the share of outliers.

    Args:
        result: What `run` returned, or what was loaded from its `result.json`.
        config: The script's `Config`.

    Returns:
        The matplotlib figure.
    """
    figure, (left, middle, right) = plots.figure(1, 3, size=(3.9, 3.1))
    roles = {"ordinary": plots.role("after"), "outlier": plots.role("before")}
    share = max(config.outliers)
    equal = 1 / config.meta_batch_size
    steps = result.history["step"]
    for name, line in roles.items():
        values = result.history[f"{name}_weight_at_{100 * share:g}_percent"]
        left.plot(steps, np.array(values) / equal, label=f"{name} tasks", **line)
    left.axhline(1, color="#888888", linewidth=1)
    left.set(xlabel="outer step", ylabel="mean weight × tasks", title=f"{100 * share:g} % outliers")

    weights = result.extra["weights"]
    weights = weights.get(share, weights.get(str(share)))
    values = {name: np.array(found) / equal for name, found in weights.items()}
    together = np.concatenate(list(values.values()))
    bins = np.linspace(*np.quantile(together, (0.01, 0.99)), 25)
    for name, line in roles.items():
        if len(values[name]):
            options = {"color": line["color"], "linestyle": line["linestyle"], "linewidth": 1.8}
            clipped = np.clip(values[name], bins[0], bins[-1])
            middle.hist(clipped, bins, density=True, histtype="step", **options)
    middle.axvline(1, color="#888888", linewidth=1)
    middle.set(xlabel="weight × tasks at the end", ylabel="density", title="of single tasks")

    score = result.extra["score"]
    for name, role in zip(result.extra["learners"], ("after", "baseline")):
        found = [result.metrics[f"{name}_{score}_at_{100 * p:g}_percent"] for p in config.outliers]
        plots.interval_line(right, config.outliers, found, label=name, **plots.role(role))
    right.set(xlabel="proportion of outliers", ylabel=f"meta-test {score.replace('_', ' ')}")
    right.set(title=f"{config.n_seeds} seeds")
    handles = [*left.get_legend_handles_labels()[0], *right.get_legend_handles_labels()[0]]
    labels = [handle.get_label() for handle in handles]
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure
