"""Navigation against a plain loop, closed forms, and Gymnasium's own check."""

import math

from common.errors import UserError
from common.navigation import Navigation, NavigationSampler

import numpy as np
import pytest
import tensorflow as tf


def towards(target, std=1e-6, world=None):
    """A policy that heads straight for a point: one for each task, `(tasks, 2)`."""
    world = world or Navigation()

    def policy(positions):
        means = (np.asarray(target, np.float32)[:, None] - positions) / world.max_move
        return tf.concat([means, tf.fill(means.shape, math.log(std))], axis=-1)

    return policy


def still(positions):
    return tf.concat([0 * positions, 0 * positions - 20], axis=-1)


def walk_by_loop(actions, goal):
    """One trajectory of given actions: positions before each move, rewards, moves made."""
    position, positions, rewards, alive = np.zeros(2), [], [], []
    done = False
    for action in actions:
        positions.append(position)
        position = position + np.clip(0.1 * action, -0.1, 0.1)
        x, y = position - goal
        alive.append(0.0 if done else 1.0)
        rewards.append(0.0 if done else -math.sqrt(x**2 + y**2))
        done = done or (abs(x) < 0.01 and abs(y) < 0.01)
    return positions, rewards, alive


def test_dynamics_rewards_and_ends_equal_those_of_a_plain_loop():
    world = Navigation()
    goals = tf.constant([[0.3, -0.2], [-0.45, 0.1], [0.05, 0.0]])
    paths = world.rollout(towards(goals, std=0.3), goals, trajectories=5, seed=(0, 1))
    assert paths.observations.shape == (3, 5, 100, 2)
    assert paths.rewards.shape == (3, 5, 100)
    for task in range(3):
        for number in range(5):
            goal = goals[task].numpy().astype(np.float64)
            positions, rewards, alive = walk_by_loop(paths.actions[task, number].numpy(), goal)
            ours = [part[task, number] for part in paths]
            np.testing.assert_allclose(ours[0], positions, atol=1e-5)
            np.testing.assert_allclose(ours[2], rewards, atol=1e-5)
            np.testing.assert_array_equal(ours[3], alive)
            np.testing.assert_allclose(paths.returns()[task, number], sum(rewards), rtol=1e-4)
    lengths = np.sum(paths.alive, axis=-1)
    assert 0 < lengths.min() < lengths.max() <= 100  # some reached it


def test_actions_are_drawn_from_the_policy():
    def policy(positions):
        return tf.broadcast_to(
            [0.5, -1.0, math.log(0.2), math.log(2.0)], [*positions.shape[:-1], 4]
        )

    goals = tf.fill((2, 2), 100.0)  # nobody gets there
    actions = Navigation().rollout(policy, goals, 200, (3, 4)).actions.numpy().reshape(-1, 2)
    np.testing.assert_allclose(actions.mean(axis=0), [0.5, -1.0], atol=0.05)
    np.testing.assert_allclose(actions.std(axis=0), [0.2, 2.0], rtol=0.02)
    assert abs(np.corrcoef(actions.T)[0, 1]) < 0.02
    assert abs(np.corrcoef(actions[1:, 0], actions[:-1, 0])[0, 1]) < 0.02  # new noise every move


def test_standing_still_costs_a_hundred_mean_distances():
    # The mean distance from the middle of a unit square: (sqrt 2 + ln(1 + sqrt 2)) / 6 = 0.3826
    mean = (math.sqrt(2) + math.log(1 + math.sqrt(2))) / 6
    assert -100 * mean == pytest.approx(-38.26, abs=0.005)
    world = Navigation()
    goals = world.goals((0, 1), 4000)
    returns = world.rollout(still, goals, 1, (0, 2)).returns()
    assert float(tf.reduce_mean(returns)) == pytest.approx(-38.26, abs=0.7)
    away = np.linalg.norm(goals, axis=1)
    far = away > 0.02  # so near that standing still is being there, is another story
    np.testing.assert_allclose(returns[:, 0].numpy()[far], -100 * away[far], rtol=1e-3)


def test_heading_straight_for_the_goal_is_hard_to_beat():
    world = Navigation()
    goals = world.goals((0, 1), 2000)
    paths = world.rollout(towards(goals), goals, 1, (0, 2))
    assert float(tf.reduce_mean(paths.returns())) == pytest.approx(-0.506, abs=0.03)
    moves = np.ceil(np.abs(goals).max(axis=1) / 0.1 - 0.1)  # a box of 0.01 around the goal
    np.testing.assert_allclose(np.sum(paths.alive, axis=(1, 2)), np.maximum(moves, 1), atol=1)


def test_goals_lie_in_their_range_and_a_seed_decides_them():
    world = Navigation()
    goals = world.goals((0, 1), 5000).numpy()
    assert goals.shape == (5000, 2)
    assert -0.5 <= goals.min() < -0.49 < 0.49 < goals.max() <= 0.5
    np.testing.assert_array_equal(world.goals((0, 1), 5000), goals)
    assert (world.goals((0, 2), 5000).numpy() != goals).all()
    first, again, other = (
        world.rollout(towards(goals[:2], 1.0), goals[:2], 3, seed).actions
        for seed in ((0, 1), (0, 1), (0, 2))
    )
    np.testing.assert_array_equal(first, again)
    assert (first.numpy() != other.numpy()).all()


def test_batch_number_s_depends_on_seed_and_s_only():
    batches = list(NavigationSampler(Navigation(), seed=3).dataset(4).take(5))
    (goals, seed), *_ = NavigationSampler(Navigation(), seed=3).dataset(4, start_step=3).take(1)
    np.testing.assert_array_equal(goals, batches[3][0])
    np.testing.assert_array_equal(seed, batches[3][1])
    (other, _), *_ = NavigationSampler(Navigation(), seed=4).dataset(4).take(1)
    tests, _ = NavigationSampler(Navigation(), seed=3).fixed(4)
    everything = np.concatenate([other, tests, *(goals for goals, _ in batches)])
    assert len(np.unique(everything, axis=0)) == len(everything)
    np.testing.assert_array_equal(NavigationSampler(Navigation(), seed=3).fixed(4)[0], tests)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"goal_range": (1, 0)}, "goal_range must be .* got 1, 0"),
        ({"max_move": 0.0}, "max_move must be greater than 0, got 0.0"),
        ({"done_within": -1}, "done_within"),
        ({"horizon": 0}, "horizon"),
    ],
)
def test_impossible_worlds_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        Navigation(**options)


# Gymnasium.


@pytest.fixture
def environments():
    pytest.importorskip("gymnasium")
    from common import navigation_env

    return navigation_env


@pytest.mark.filterwarnings("ignore::UserWarning")  # the check warns that positions are unbounded
def test_environment_passes_the_check_of_gymnasium(environments):
    from gymnasium.utils.env_checker import check_env

    check_env(environments.NavigationEnv(), skip_render_check=True)


def test_environment_walks_like_the_tensors(environments):
    goals = np.array([[0.3, -0.2]], np.float32)
    paths = Navigation().rollout(towards(goals, std=0.3), goals, 1, (0, 1))
    environment = environments.NavigationEnv(goal=goals[0])
    position, info = environment.reset(seed=0)
    np.testing.assert_array_equal(info["goal"], goals[0])
    for t in range(100):
        np.testing.assert_allclose(position, paths.observations[0, 0, t], atol=1e-6)
        move = 0.1 * paths.actions[0, 0, t].numpy()
        position, reward, reached, late, _ = environment.step(move)
        assert reward == pytest.approx(float(paths.rewards[0, 0, t]), abs=1e-6)
        assert late == (t == 99)
        if reached:
            break
    assert reached
    assert t + 1 == int(np.sum(paths.alive))


def test_environment_draws_or_takes_a_goal(environments):
    environment = environments.NavigationEnv()
    goals = [environment.reset(seed=seed)[1]["goal"] for seed in (1, 1, 2)]
    np.testing.assert_array_equal(goals[0], goals[1])
    assert (goals[0] != goals[2]).all()
    _, info = environment.reset(options={"goal": (0.1, 0.2)})
    np.testing.assert_allclose(info["goal"], [0.1, 0.2], rtol=1e-6)
    for goal in ((1, 2, 3), (np.nan, 0)):
        with pytest.raises(UserError, match="two finite numbers"):
            environments.NavigationEnv(goal=goal)
    assert environment.action_space.contains(np.array([0.1, -0.1], np.float32))


def test_without_gymnasium_a_message_says_what_to_do(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "gymnasium", None)
    monkeypatch.delitem(sys.modules, "common.navigation_env", raising=False)
    with pytest.raises(UserError, match="pip install gymnasium"):
        import common.navigation_env  # noqa: F401
