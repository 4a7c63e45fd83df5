"""What the scripts of the metric learners share: data, baselines, measurement, figures."""

from dataclasses import replace

from chapter03_protonets import protonet
from chapter03_protonets.protonet import Config, ProtoNet
from common import metric_experiment
from common.described_tasks import DescribedTasks
from common.results import Result
from common.settings import RunSettings

import keras
import numpy as np
import pytest


def small(**changes):
    config = replace(Config.smoke(), filters=4, test_query=2, eval_episodes=3)
    return replace(config, run=replace(config.run, steps=2), **changes)


@pytest.fixture(scope="module", params=[False, True], ids=["shown", "described"])
def small_run(request):
    config = small(zero_shot=request.param, test_ways=(3, 4))
    return config, protonet.run(config)


def test_settings_follow_the_data():
    glyphs, omniglot = Config.for_dataset("glyphs"), Config.for_dataset("omniglot-random")
    assert (glyphs.run.steps, omniglot.run.steps) == (1000, 12000)
    assert glyphs.n_way == omniglot.n_way == 60
    assert glyphs.rotations
    own = Config.for_dataset("folder:own")
    assert (own.n_way, own.test_ways, own.rotations) == (5, (5,), False)
    assert own.run.dataset == "folder:own"
    assert Config.smoke("folder:own").run.smoke


def test_training_and_test_share_no_class_and_each_way_has_a_name():
    config = small(test_ways=(5, 9), k_shot=3, rotations=False)
    train, tests = metric_experiment.samplers(config)
    assert (train.n_way, train.k_shot, train.n_query) == (5, 3, config.n_query)
    assert list(tests) == ["5_way_3_shot", "9_way_3_shot"]
    for sampler, n_way in zip(tests.values(), (5, 9), strict=True):
        assert (sampler.n_way, sampler.k_shot, sampler.n_query) == (n_way, 3, 2)
        assert not set(sampler.data.class_names) & set(train.data.class_names)
    assert metric_experiment.shapes(train) == ((28, 28, 1),)


def test_descriptions_instead_of_images():
    train, tests = metric_experiment.samplers(small(zero_shot=True, test_ways=(10,), k_shot=5))
    assert list(tests) == ["10_way_zero_shot"]
    assert isinstance(train.data, DescribedTasks)
    shape, n_attributes = metric_experiment.shapes(train)
    assert shape == (28, 28, 1)
    assert train.episode(0).support_x.shape == (5, n_attributes)
    test = tests["10_way_zero_shot"].data
    assert test.n_way == 10
    assert not set(test.data.class_names) & set(train.data.data.class_names)


def test_the_seed_decides_the_weights():
    config = small()
    other = replace(config, run=replace(config.run, seed=1))
    first, again, third = (
        metric_experiment.conv4_embedding(c, (28, 28, 1)).get_weights()[0]
        for c in (config, config, other)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - third).max() > 0.01
    assert metric_experiment.conv4_embedding(config, (28, 28, 1), 7).output_shape == (None, 7)


def test_baselines_are_pixels_and_the_network_at_its_start():
    config = small()
    learner = protonet.new_learner(config, (28, 28, 1))
    start = learner.get_weights()
    for weight in learner.network.trainable_variables:  # as if it had been trained
        weight.assign_add(np.ones(weight.shape))
    found = metric_experiment.baselines(ProtoNet, learner, config)
    assert list(found) == ["untrained", "pixels"]
    for ours, theirs in zip(found["untrained"].get_weights(), start, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    images = np.random.default_rng(0).uniform(size=(3, 28, 28, 1)).astype(np.float32)
    np.testing.assert_array_equal(found["pixels"].network(images), images.reshape(3, -1))


def test_all_learners_are_measured(small_run):
    config, result = small_run
    task, baseline = ("zero", "nearest_image") if config.zero_shot else ("1", "pixels")
    accuracies = [name for name in result.metrics if "accuracy" in name]
    assert accuracies == [
        f"{name}_accuracy_{n_way}_way_{task}_shot"
        for name in ("protonet", "untrained", baseline)
        for n_way in (3, 4)
    ]
    assert all(estimate.n == 3 for estimate in result.metrics.values())
    assert result.history["step"] == [1, 2]
    _, tests = metric_experiment.samplers(config)
    for name, sampler in tests.items():
        again = result.learner.evaluate_episodes(sampler.fixed(3, 1))
        np.testing.assert_allclose(again, result.metrics[f"protonet_accuracy_{name}"], rtol=1e-5)
    episode = next(iter(tests.values())).episode(0)
    predictions = result.learner.predict_task(*episode[:3])
    np.testing.assert_allclose(result.extra["predictions"], predictions, atol=1e-4)


def test_figures_of_a_run(small_run, tmp_path):
    config, result = small_run
    metric_experiment.draw(result, config, tmp_path)
    names = {"episode.png", "learning_curve.png"}
    if not config.zero_shot:
        names.add("prototypes.png")
    assert {path.name for path in tmp_path.iterdir()} == names
    result.save(tmp_path / "result.json")
    (tmp_path / "again").mkdir()
    metric_experiment.draw(Result.load(tmp_path / "result.json"), config, tmp_path / "again")
    assert {path.name for path in (tmp_path / "again").iterdir()} == names - {"prototypes.png"}


def test_training_moves_the_weights_and_nothing_else_decides_them():
    def trained():
        config = replace(small(), run=RunSettings(steps=2, dataset="glyphs"))
        keras.utils.set_random_seed(0)
        sampler, _ = metric_experiment.samplers(config)
        learner = protonet.new_learner(config, (28, 28, 1))
        before = learner.get_weights()
        history = metric_experiment.train(learner, sampler, config)
        return before, learner.get_weights(), history

    (before, after, history), (_, again, _) = trained(), trained()
    assert history["step"] == [1, 2]
    assert all(np.any(a != b) for a, b in zip(before, after, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(after, again, strict=True))
