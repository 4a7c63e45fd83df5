"""What the scripts of the metric learners share: data, training, baselines, measurement.

Their `Config`s are `common.metric_settings.MetricSettings`.
"""

from common import attention_figures, metric_figures, networks, plots, training
from common.datasets import load
from common.described_tasks import DescribedTasks, NearestDescription, described_splits
from common.episodes import EpisodeSampler
from common.results import Result

import keras
import numpy as np

BASELINE_EPISODES = 200  # of each kind: their intervals need not be as narrow


def samplers(config):
    """The episodes for meta-training, and by name (`"5_way_1_shot"`) those for meta-test.

    With `config.zero_shot` their support sets are descriptions (`"10_way_zero_shot"`).
    """
    if getattr(config, "zero_shot", False):
        return described_samplers(config)
    settings = config.run
    options = {"rotations": config.rotations, "seed": settings.seed}
    train = load(settings.dataset, "train", settings.data_dir)
    test = load(settings.dataset, "test", settings.data_dir)
    return EpisodeSampler(train, config.n_way, config.k_shot, config.n_query, **options), {
        f"{n_way}_way_{config.k_shot}_shot": EpisodeSampler(
            test, n_way, config.k_shot, config.test_query, **options
        )
        for n_way in config.test_ways
    }


def described_samplers(config):
    """`samplers` of tasks whose classes are described, of all classes of the data set."""
    settings = config.run
    data = described_splits(settings.dataset, settings.data_dir)

    def sampler(split, n_way, n_query):
        tasks = DescribedTasks(data[split], n_way)
        return EpisodeSampler(tasks, 1, k_shot=1, n_query=n_query, seed=settings.seed)

    return sampler("train", config.n_way, config.n_query), {
        f"{n_way}_way_zero_shot": sampler("test", n_way, config.test_query)
        for n_way in config.test_ways
    }


def shapes(sampler):
    """The shape of an item, and where classes are described the number of attributes: a tuple."""
    if isinstance(sampler.data, DescribedTasks):
        return sampler.data.data.items.shape[1:], sampler.data.data.attributes.shape[1]
    return (sampler.data.items.shape[1:],)


def conv4_embedding(config, input_shape, outputs=None):
    """The papers' convolutional network, pooled; with `outputs`, a linear layer at its end."""
    return networks.conv4(
        input_shape, outputs, filters=config.filters, strided=False, norm=config.norm,
        seed=config.run.seed,
    )  # fmt: skip


def train(learner, sampler, config, directory=None, progress=False):
    """Compiles the learner and trains it as `config` says; returns its learning curves."""
    learner.compile(training.outer_optimizer(config), jit_compile=config.run.jit)
    return training.train(
        learner, sampler, steps=config.run.steps, meta_batch_size=config.meta_batch_size,
        directory=directory, progress=progress,
    )  # fmt: skip


def baselines(kind, learner, config):
    """What any embedding must beat: distances of pixels, and the network as it was at the start.

    Args:
        kind: Class of a learner that is made from an embedding alone, as `ProtoNet` is.
        learner: The learner, for its network's shape.
        config: The script's `Config`.

    Returns:
        Untrained learners by name.
    """
    images = keras.Input(learner.network.input_shape[1:])
    pixels = keras.Model(images, keras.layers.Flatten()(images), name="pixels")
    keras.utils.set_random_seed(config.run.seed)
    untrained = keras.models.clone_model(learner.network)
    return {"untrained": kind(untrained), "pixels": kind(pixels)}


def described_baselines(untrained, sampler):
    """What any reader of descriptions must beat.

    Args:
        untrained: A learner with the weights that it starts from.
        sampler: The sampler of the meta-training episodes, from `described_samplers`.

    Returns:
        Learners by name.
    """
    return {"untrained": untrained, "nearest_image": NearestDescription(sampler.data.data)}


def measure(learners, samplers, config, history):
    """Accuracies of all learners on the same fixed episodes, and what the figures need.

    Args:
        learners: Learners by name, the one that the script is about first; the others are
            baselines and meet the first `BASELINE_EPISODES` of its episodes.
        samplers: Samplers of the meta-test split by name, from `samplers`.
        config: The script's `Config`.
        history: Learning curves of the first learner.

    Returns:
        A `Result`; its metrics are called like `protonet_accuracy_5_way_1_shot`.
    """
    metrics, first = {}, next(iter(learners))
    for name, learner in learners.items():
        most = config.eval_episodes if name == first else BASELINE_EPISODES
        for task, sampler in samplers.items():
            episodes = sampler.fixed(min(most, config.eval_episodes), 1)
            metrics[f"{name}_accuracy_{task}"] = learner.evaluate_episodes(episodes)
    episode = next(iter(samplers.values())).episode(0)
    asked = (episode.support_x, episode.support_y, episode.query_x)
    extra = {"predictions": learners[first].predict_task(*asked).round(4).tolist()}
    return Result(metrics, history=history, extra=extra, learner=learners[first])


def draw(result, config, directory):
    """Saves the figures of a run: a test episode, its embedding in the plane, learning curve."""
    _, test_samplers = samplers(config)
    sampler = next(iter(test_samplers.values()))
    episode, names = sampler.episode(0), None
    if isinstance(sampler.data, DescribedTasks):  # descriptions are told in words
        (names,) = sampler.data.class_names(sampler.seed_of(0))
        episode = episode._replace(support_x=[], support_y=[])
    predictions = np.array(result.extra["predictions"])
    figure = plots.draw_episode(*episode, predictions=predictions, class_names=names)
    plots.save(figure, directory / "episode.png")
    if names is None and hasattr(result.learner, "prototypes"):
        figure = metric_figures.draw_prototypes(result.learner, episode)
        plots.save(figure, directory / "prototypes.png")
    if hasattr(result.learner, "log_attention"):
        steps = attention_figures.attention_steps(result.learner, episode)
        figure = attention_figures.draw_attention(steps, episode)
        plots.save(figure, directory / "attention.png")
    figure, axis = plots.figure(size=(5.6, 3.2))
    plots.learning_curve(axis, result.history["step"], result.history["loss"])
    axis.set(xlabel="outer step", ylabel="loss in training")
    axis.xaxis.get_major_locator().set_params(integer=True)
    plots.save(figure, directory / "learning_curve.png")
