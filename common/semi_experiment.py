"""What a run of semi-supervised learners is made of: episodes, training, measurement, figures.

The `Config` has the fields of `chapter03_protonets.semi_protonet.Config`.
"""

from common import metric_experiment, plots, semi_figures
from common.datasets import load
from common.episodes import EpisodeSampler
from common.errors import UserError
from common.results import Estimate, Result
from common.semi_supervised import SemiSupervisedTasks, split_sizes
from common.settings import RunSettings

STEPS = {"glyphs": 1000, "omniglot": 4000, "omniglot-random": 4000}
CURVE_EPISODES = 200  # for each number of unlabelled items
ROUNDS = 4  # of k-means, in the figure


def settings_for(dataset):
    """What a `Config` changes for a data set.

    Only characters are turned to make classes; of others, which may have 10 items of a class, 40 %
    are labelled, as in the paper's miniImageNet.
    """
    run = RunSettings(steps=STEPS.get(dataset, 1000), dataset=dataset)
    return {"run": run} if dataset in STEPS else {"run": run, "rotations": False, "labelled": 0.4}


def smoke_settings(dataset):
    """What a `Config` changes to run the whole script in seconds."""
    tried = RunSettings(steps=10, dataset=dataset, smoke=True)
    return {"filters": 8, "meta_batch_size": 1, "eval_episodes": 20, "run": tried}


def samplers(config):
    """The episodes for meta-training and those for meta-test, of disjoint classes."""
    settings = config.run
    data = [load(settings.dataset, split, settings.data_dir) for split in ("train", "test")]
    if not all(hasattr(each, "items") for each in data):
        raise UserError(
            f"expected a data set with classes, found {settings.dataset}; choose another --dataset"
        )
    return (
        sampler_of(data[0], config, config.n_unlabelled),
        sampler_of(data[1], config, unlabelled_in_test(data[1], config)),
    )


def sampler_of(data, config, n_unlabelled):
    """Episodes of `data` with `n_unlabelled` unlabelled items of each class."""
    tasks = SemiSupervisedTasks(
        data, config.n_way, n_unlabelled, distractors=config.distractors,
        labelled=config.labelled, rotations=config.rotations, seed=config.run.seed,
    )  # fmt: skip
    tasks.check(config.k_shot, config.n_query)
    return EpisodeSampler(tasks, 1, config.k_shot, config.n_query, seed=config.run.seed)


def unlabelled_in_test(data, config):
    """As many unlabelled items of a class as are asked for, or as the smallest class has."""
    return min(config.test_unlabelled, split_sizes(data, config.labelled)[1])


def train(learners, sampler, config, directory=None, progress=False):
    """Trains the learners one after the other, on the same episodes.

    Args:
        learners: Untrained learners by name.
        sampler: Their episodes.
        config: The script's `Config`.
        directory: Folder of the run, in which each learner gets its own, or None.
        progress: Whether to tell how far it is.

    Returns:
        Learning curves by name.
    """
    histories = {}
    for name, learner in learners.items():
        if progress:
            print(f"training {name}", flush=True)
        folder = directory and directory / name
        histories[name] = metric_experiment.train(learner, sampler, config, folder, progress)
    return histories


def measure(learners, sampler, config, histories):
    """Accuracies on the same fixed episodes, gains over `supervised`, and what the figures need.

    Args:
        learners: Trained learners by name, `supervised` and `inference` among them.
        sampler: The sampler of the meta-test episodes.
        config: The script's `Config`.
        histories: Learning curves by name.

    Returns:
        A `Result`; its metrics are called like `soft_accuracy` and `soft_gain`; its learner is the
        last of the `methods`, and its `extra` has the curves by number of unlabelled items.
    """
    episodes = list(sampler.fixed(config.eval_episodes, 1))
    scores = {name: learner.episode_scores(episodes) for name, learner in learners.items()}
    metrics = {f"{name}_accuracy": Estimate.from_values(values) for name, values in scores.items()}
    for name in learners:
        if name != "supervised":
            gain = scores[name] - scores["supervised"]
            metrics[f"{name}_gain"] = Estimate.from_values(gain)
    trained = {name: learners[name] for name in config.methods}
    most = sampler.data.n_unlabelled
    episode = example(config)
    numbers = sorted({number for number in (1, 2, 5, 10) if number < most} | {most})
    extra = {
        "n_unlabelled": numbers,
        "by_unlabelled": accuracy_by_unlabelled(learners, config, numbers),
        "rounds": {
            name: semi_figures.rounds(learner, episode, ROUNDS) for name, learner in trained.items()
        },
    }
    history = {"step": histories["supervised"]["step"]}
    history |= {name: curve["loss"] for name, curve in histories.items()}
    main = list(learners.values())[len(trained)]
    return Result(metrics, history=history, extra=extra, learner=main)


def example(config):
    """A meta-test episode for figures, with as many unlabelled items as in training."""
    data = load(config.run.dataset, "test", config.run.data_dir)
    most = unlabelled_in_test(data, config)
    return sampler_of(data, config, min(config.n_unlabelled, most)).episode(0)


def accuracy_by_unlabelled(learners, config, numbers):
    """Accuracies by name, a list with an `Estimate` for each number of unlabelled items.

    Support and query sets are the same for all numbers.
    """
    settings = config.run
    data = load(settings.dataset, "test", settings.data_dir)
    n_episodes = min(CURVE_EPISODES, config.eval_episodes)
    curves = {name: [] for name in learners}
    for number in numbers:
        episodes = list(sampler_of(data, config, number).fixed(n_episodes, 1))
        for name, learner in learners.items():
            curves[name].append(learner.evaluate_episodes(episodes))
    return curves


def draw(result, config, directory):
    """Saves the figures of a run: an episode, rounds of k-means, masks, effect of M, losses."""
    episode, extra = example(config), result.extra
    plots.save(semi_figures.draw_episode(episode), directory / "episode.png")
    for name, rounds in extra["rounds"].items():
        figure = semi_figures.draw_rounds(rounds, episode.unlabelled_y)
        plots.save(figure, directory / f"rounds_{name}.png")
    if "masked" in extra["rounds"]:
        figure = semi_figures.draw_masks(extra["rounds"]["masked"][0], episode.unlabelled_y)
        plots.save(figure, directory / "masks.png")
    figure = semi_figures.draw_by_unlabelled(extra["n_unlabelled"], extra["by_unlabelled"])
    plots.save(figure, directory / "by_unlabelled.png")
    figure, axis = plots.figure(size=(5.6, 3.2))
    for name, losses in result.history.items():
        if name != "step":
            plots.learning_curve(axis, result.history["step"], losses, label=name)
    axis.set(xlabel="outer step", ylabel="loss in training")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend()
    plots.save(figure, directory / "learning_curves.png")
