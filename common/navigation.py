"""Navigation in the plane: the point robot of Finn et al. (2017), section 5.3.

A task is a goal, hidden from the agent, which sees its position only and is paid for being near
the goal. All tasks and all trajectories are walked at once: their states are one tensor, and a
whole set of trajectories is one TensorFlow graph. `common.navigation_env` shows one task to
programs that know Gymnasium.
"""

from dataclasses import dataclass
from typing import NamedTuple

from common.errors import UserError

import tensorflow as tf


class Paths(NamedTuple):
    """What happened on the way: `(tasks, trajectories, horizon, ...)`, float32.

    Attributes:
        observations: The positions before each move, `(..., 2)`.
        actions: What the policy chose, before scaling and clipping, `(..., 2)`.
        rewards: Minus the distance to the goal after each move, `(...)`; 0 after the end.
        alive: 1 for each move that was made, 0 after the goal was reached, `(...)`.
    """

    observations: tf.Tensor
    actions: tf.Tensor
    rewards: tf.Tensor
    alive: tf.Tensor

    def returns(self):
        """The undiscounted return of every trajectory, `(tasks, trajectories)`."""
        return tf.reduce_sum(self.rewards, axis=-1)


@dataclass(frozen=True)
class Navigation:
    """The distribution of tasks, and the world they are in.

    Args:
        goal_range: A goal's coordinates are drawn uniformly from this range; the start is (0, 0).
        max_move: Largest move along either axis; also the scale of the policy's actions, so that
            an action of 1 is a move of this length.
        done_within: A trajectory ends when both coordinates are nearer to the goal than this.
        horizon: Moves at most.

    Raises:
        UserError: If the range is empty or a number is not positive.
    """

    goal_range: tuple[float, float] = (-0.5, 0.5)
    max_move: float = 0.1
    done_within: float = 0.01
    horizon: int = 100

    def __post_init__(self):
        object.__setattr__(self, "goal_range", tuple(self.goal_range))  # a list when loaded
        low, high = self.goal_range
        if not low <= high:
            raise UserError(f"goal_range must be (low, high) with low <= high, got {low}, {high}")
        for name in ("max_move", "done_within", "horizon"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be greater than 0, got {getattr(self, name)}")

    def goals(self, seed, n_tasks):
        """Draws the goals of `n_tasks` tasks, `(n_tasks, 2)`; the same for the same seed."""
        return tf.random.stateless_uniform((n_tasks, 2), seed, *self.goal_range, alg="philox")

    def move(self, positions, displacements, goals):
        """One move of every agent: `(..., 2)` each.

        Returns:
            Positions after it, rewards `(...)`, and whether the goal is reached, bool `(...)`.
        """
        positions += tf.clip_by_value(displacements, -self.max_move, self.max_move)
        away = positions - goals
        rewards = -tf.norm(away, axis=-1)
        return positions, rewards, tf.reduce_all(tf.abs(away) < self.done_within, axis=-1)

    def rollout(self, policy, goals, trajectories, seed):
        """Walks all trajectories of all tasks.

        Args:
            policy: From positions `(tasks, trajectories, 2)` to the mean and the logarithm of the
                standard deviation of a Gaussian over actions, `(tasks, trajectories, 4)`.
            goals: `(tasks, 2)`.
            trajectories: Number of trajectories in each task.
            seed: Pair of integers: the same seed and policy give the same paths.

        Returns:
            `Paths`.
        """
        shape = (goals.shape[0], trajectories)
        noise = tf.random.stateless_normal((self.horizon, *shape, 2), seed, alg="philox")

        def walk(before, noise):
            observations, *_, alive, done = before
            mean, log_std = tf.split(policy(observations), 2, axis=-1)
            actions = mean + tf.exp(log_std) * noise
            alive = tf.where(done, 0.0, alive)
            displacements = self.max_move * actions
            positions, rewards, reached = self.move(observations, displacements, goals[:, None])
            done |= reached
            return positions, observations, actions, alive * rewards, alive, done

        points = tf.zeros((*shape, 2))
        start = (points, points, points, tf.zeros(shape), tf.ones(shape), tf.zeros(shape, tf.bool))
        _, *walked, alive, _ = tf.scan(walk, noise, start)  # (horizon, tasks, trajectories, ...)
        return Paths(*(tf.einsum("htn...->tnh...", part) for part in (*walked, alive)))


class NavigationSampler:
    """Draws tasks for training and for the test, as `common.episodes.EpisodeSampler` does.

    Args:
        world: The distribution of tasks.
        seed: All that is drawn depends on it; from 0 to 2**30 - 1.
    """

    def __init__(self, world, seed=0):
        self.world, self.seed = world, seed

    def dataset(self, meta_batch_size, start_step=0):
        """Endless batches `(goals, seed)` for training; batch s depends on `(seed, s)` only."""

        def batch(step):
            seed = tf.stack([2 * self.seed, tf.cast(step, tf.int32)])
            seeds = tf.random.split(seed, 2, alg="philox")
            return self.world.goals(seeds[0], meta_batch_size), seeds[1]

        return tf.data.Dataset.counter(start_step).map(batch).prefetch(2)

    def fixed(self, n_tasks):
        """`(goals, seed)` for the test: the same every time, and none of those for training."""
        seeds = tf.random.split((2 * self.seed + 1, 0), 2, alg="philox")
        return self.world.goals(seeds[0], n_tasks), seeds[1]
