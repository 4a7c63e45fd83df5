"""One task of navigation for programs that know Gymnasium: `NavigationEnv`.

Gymnasium is needed here only: python -m pip install gymnasium.
"""

from common.errors import UserError
from common.navigation import Navigation

import numpy as np

try:
    import gymnasium
except ImportError:
    raise UserError(
        "The Gymnasium interface needs the package gymnasium, which is not installed: "
        "python -m pip install gymnasium. Training does not need it."
    ) from None


class NavigationEnv(gymnasium.Env):
    """The world of `common.navigation.Navigation`, one agent and one goal at a time.

    Observations are positions. Actions are displacements, clipped to the largest move; a policy
    trained by the book's scripts chooses multiples of that move, so scale its actions first.

    Args:
        goal: The goal, two numbers; by default each `reset` draws another. A `reset` with
            `options={"goal": ...}` counts more.
        world: The `Navigation` that sets the rules.

    Raises:
        UserError: If the goal is not two finite numbers.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - Gymnasium's own form

    def __init__(self, goal=None, world=None):
        self.world = Navigation() if world is None else world
        self.fixed_goal = None if goal is None else _as_goal(goal)
        reach = np.float32(self.world.max_move)
        self.action_space = gymnasium.spaces.Box(-reach, reach, (2,), np.float32)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        """Back to (0, 0), with a goal: `(observation, {"goal": ...})`."""
        super().reset(seed=seed)
        drawn = self.np_random.uniform(*self.world.goal_range, size=2).astype(np.float32)
        self.goal = drawn if self.fixed_goal is None else self.fixed_goal
        if options and "goal" in options:
            self.goal = _as_goal(options["goal"])
        self.position, self.moves = np.zeros(2, np.float32), 0
        return self.position.copy(), {"goal": self.goal.copy()}

    def step(self, action):
        """One move: observation, reward, whether the goal is reached, whether time is over."""
        moved = self.world.move(self.position, np.asarray(action, np.float32), self.goal)
        self.position, reward, reached = (np.array(part) for part in moved)
        self.moves += 1
        late = self.moves >= self.world.horizon
        info = {"goal": self.goal.copy()}
        return self.position.copy(), float(reward), bool(reached), late, info


def _as_goal(goal):
    goal = np.array(goal, np.float32)
    if goal.shape != (2,) or not np.isfinite(goal).all():
        raise UserError(f"a goal must be two finite numbers, got {goal.tolist()}")
    return goal
