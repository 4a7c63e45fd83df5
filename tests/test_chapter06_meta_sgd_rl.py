"""Meta-SGD for reinforcement learning: MAML where the rates are equal, and rates that learn."""

import json

from chapter05_maml_adml import maml_rl
from chapter06_metasgd_reptile import meta_sgd_rl
from chapter06_metasgd_reptile.meta_sgd_rl import Config, PolicyMetaSGD
from common import command
from common.navigation import Navigation
from common.policy_gradient import gaussian_policy
from common.settings import RunSettings
from common.trust_region import TrustRegion

import keras
import numpy as np
import pytest
import tensorflow as tf

SEED = (0, 7)


def small_learner(inner_lr, Learner=PolicyMetaSGD, **options):
    options = {"trajectories": 4, "world": Navigation(horizon=6), **options}
    return Learner(gaussian_policy(hidden=(8,), seed=2), inner_lr, **options)


def test_with_equal_rates_it_is_maml():
    ours, maml = small_learner(0.3), small_learner(0.3, maml_rl.PolicyMAML)
    goals = ours.world.goals((0, 1), 3)
    walked, expected = (learner.walk(goals, SEED, steps=2) for learner in (ours, maml))
    for mine, theirs in zip(walked[0], expected[0], strict=True):
        np.testing.assert_allclose(mine.actions, theirs.actions, rtol=1e-4, atol=1e-5)
    for mine, theirs in zip(walked[1], expected[1], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-6)


def test_inner_update_takes_the_rate_of_each_weight():
    learner = small_learner((0.1, 0.5))
    fast_weights = [tf.ones((3, *v.shape)) for v in learner.network.trainable_variables]
    updated = learner.inner_update(fast_weights, [2 * w for w in fast_weights])
    for new, alpha in zip(updated, learner.alpha, strict=True):
        np.testing.assert_allclose(new, np.stack([1 - 2 * alpha.numpy()] * 3), rtol=1e-6)


def test_an_outer_step_moves_weights_and_rates_within_the_bound():
    learner = small_learner(0.3)
    learner.compile(TrustRegion(), jit_compile=False)
    learner.optimizer.build(learner.trainable_variables)
    assert len(learner.trainable_variables) == 2 * len(learner.network.trainable_variables)
    report = learner.train_step((learner.world.goals((0, 1), 3), SEED))
    assert float(report["accepted"]) == 1
    assert 0 < float(report["kl"]) <= 0.01
    assert float(report["loss"]) < 0
    for alpha in learner.alpha:
        rates = alpha.numpy()
        assert np.isfinite(rates).all()
        assert np.abs(rates - 0.3).max() > 0
    spread = np.concatenate([alpha.numpy().ravel() for alpha in learner.alpha])
    assert len(np.unique(spread.round(7))) > 10  # each has gone its own way


def test_it_is_saved_and_loaded_whole(tmp_path):
    learner = small_learner((0.1, 0.5), seed=3)
    learner.save(tmp_path / "learner.keras")
    again = keras.models.load_model(tmp_path / "learner.keras")
    assert type(again) is PolicyMetaSGD
    for ours, theirs in zip(learner.alpha, again.alpha, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


@pytest.mark.slow
def test_smoke_run_leaves_all_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command.main(Config, meta_sgd_rl.run, meta_sgd_rl.draw, ["--smoke"])
    (folder,) = (tmp_path / "outputs" / "meta_sgd_rl").iterdir()
    names = {path.name for path in folder.iterdir()}
    figures = {"trajectories.png", "inner_steps.png", "learning_curve.png", "rates.png"}
    assert names >= figures | {"result.json", "learner.weights.h5", "MAML"}
    content = json.loads((folder / "result.json").read_text())
    assert content["command"] == "python chapter06_metasgd_reptile/meta_sgd_rl.py --smoke"
    assert "Meta-SGD_less_MAML_return_after_1_steps" in content["metrics"]


@pytest.mark.slow
def test_one_gradient_step_finds_unseen_goals():
    config = Config(
        trajectories=10, hidden=(32, 32), meta_batch_size=10, compare=False, test_steps=1,
        run=RunSettings(steps=15, dataset="navigation"),
    )  # fmt: skip
    result = meta_sgd_rl.run(config)
    means = {name: estimate.mean for name, estimate in result.metrics.items()}
    gained = means["Meta-SGD_return_after_1_steps"] - means["Meta-SGD_return_after_0_steps"]
    assert gained > 12, means
    assert means["Meta-SGD_return_after_1_steps"] > -30, means
    assert any(row["percentiles"][0] != row["percentiles"][-1] for row in result.extra["rates"])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--alpha-min", "0"], "--alpha-min must be greater than 0"),
        (["--alpha-max", "0.1"], "--alpha-max must be at least 0.5, got 0.1"),
        (["--dataset", "glyphs"], "--dataset must be navigation"),
    ],
)
def test_bad_settings_are_refused(tmp_path, monkeypatch, capfd, flags, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        command.main(Config, meta_sgd_rl.run, meta_sgd_rl.draw, ["--smoke", *flags])
    assert stop.value.code == 2
    assert words in capfd.readouterr().err
