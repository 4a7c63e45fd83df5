"""Sine waves to regress: the tasks of Finn et al. (2017), section 5.1, and their relatives."""

from __future__ import annotations

import math
from dataclasses import dataclass

from common.episodes import Episode
from common.errors import UserError

import tensorflow as tf

SPLITS = ("train", "validation", "test")
FAMILIES = {  # by the name of the data set
    "sine": {},
    "sine-frequency": {"frequency": (0.8, 1.2)},  # Li et al. (2017), section 4.1
    "sine-phase": {"phase": (0.0, 2 * math.pi)},  # Nichol et al. (2018), section 4
}


@dataclass(frozen=True)
class SineTasks:
    """The distribution of waves y = A sin(frequency x - phase), each number drawn uniformly.

    With the default ranges, to predict 0 costs a mean squared error of E[A^2] / 2 = 4.25; the
    best single function for all tasks, -1.62 cos(x), costs 3.01. A lower error before adaptation
    is a mistake. Phases from the whole circle leave no better answer than 0.

    Args:
        amplitude: Range of A, both ends at least 0.
        phase: Range of the phase, in radians.
        frequency: Range of the frequency, both ends at least 0.
        x_range: Range of the inputs.
        split: `train`, `validation` or `test`. All splits have the same distribution; they
            differ in their stream of random numbers only, so the same seed gives other waves.

    Raises:
        UserError: A range is empty or not finite, or the split is unknown.
    """

    amplitude: tuple[float, float] = (0.1, 5.0)
    phase: tuple[float, float] = (0.0, math.pi)
    frequency: tuple[float, float] = (1.0, 1.0)
    x_range: tuple[float, float] = (-5.0, 5.0)
    split: str = "train"

    def __post_init__(self):
        _check_range("amplitude", self.amplitude, lowest=0.0)
        _check_range("phase", self.phase)
        _check_range("frequency", self.frequency, lowest=0.0)
        _check_range("x_range", self.x_range)
        if self.x_range[0] == self.x_range[1]:
            raise UserError(f"expected x_range to have a width, found {self.x_range}; widen it")
        if self.split not in SPLITS:
            raise UserError(f"expected a split of {SPLITS}, found {self.split!r}; choose one")

    def parameters(self, seed: tf.Tensor, n_tasks: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The amplitudes, phases and frequencies, each `(n_tasks,)`, of the waves in `sample`.

        Args:
            seed: An int32 tensor or pair, as in `sample`.
            n_tasks: Number of waves.
        """
        amplitude_seed, phase_seed, _, _ = self._seeds(seed)
        frequency_seed = tf.random.fold_in(phase_seed, 1)
        return (
            _uniform(amplitude_seed, (n_tasks,), self.amplitude),
            _uniform(phase_seed, (n_tasks,), self.phase),
            _uniform(frequency_seed, (n_tasks,), self.frequency),
        )

    def sample(self, seed: tf.Tensor, n_tasks: int, k_shot: int, n_query: int) -> Episode:
        """Draws tasks, and points of each.

        Args:
            seed: An int32 tensor or pair: the same seed gives the same episodes.
            n_tasks: Number of waves.
            k_shot: Number of support points of each wave.
            n_query: Number of query points of each wave.

        Returns:
            An `Episode` of float32 tensors `(n_tasks, points, 1)`.
        """
        wave = [p[:, None, None] for p in self.parameters(seed, n_tasks)]
        _, _, support_seed, query_seed = self._seeds(seed)
        support_x = _uniform(support_seed, (n_tasks, k_shot, 1), self.x_range)
        query_x = _uniform(query_seed, (n_tasks, n_query, 1), self.x_range)
        return Episode(support_x, self.wave(*wave, support_x), query_x, self.wave(*wave, query_x))

    @staticmethod
    def wave(amplitude, phase, frequency, x) -> tf.Tensor:
        """The wave A sin(frequency x - phase) at the points x, as the arguments broadcast."""
        return amplitude * tf.sin(frequency * x - phase)

    def _seeds(self, seed):
        """Seeds for amplitude, phase, support and query: four of the split's own."""
        seeds = tf.random.split(seed, 4 * len(SPLITS), alg="philox")
        return tf.unstack(tf.reshape(seeds, (len(SPLITS), 4, 2))[SPLITS.index(self.split)])


def _uniform(seed, shape, limits):
    return tf.random.stateless_uniform(shape, seed, *limits, alg="philox")


def _check_range(name, limits, lowest=-math.inf):
    low, high = limits if len(limits) == 2 else (math.nan, math.nan)
    if not (lowest <= low <= high and math.isfinite(low) and math.isfinite(high)):
        at_least = "" if lowest == -math.inf else f" of at least {lowest}"
        raise UserError(
            f"expected {name} to be (low, high) with finite low <= high{at_least}, "
            f"found {limits}; change {name}"
        )
