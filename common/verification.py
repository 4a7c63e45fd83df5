"""How well energies tell pairs of one class from pairs of two: verification and identification.

An energy is low for items of one class. "Accepted" is a pair whose energy is at most a threshold.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from common.episodes import EpisodeSampler
from common.results import Estimate

import numpy as np
from sklearn.metrics import roc_curve

if TYPE_CHECKING:
    from common.datasets import FewShotData

REPEATS = 200  # samples of people that give an interval


class Roc(NamedTuple):
    """The curve that a threshold runs through, arrays `(points,)` of rising false accepts.

    Attributes:
        false_accepts: Share of imposite pairs that are accepted.
        true_accepts: Share of genuine pairs that are accepted.
        thresholds: The largest energy that is accepted; -inf accepts none.
    """

    false_accepts: np.ndarray
    true_accepts: np.ndarray
    thresholds: np.ndarray


def roc(energies: np.ndarray, same: np.ndarray, weights: np.ndarray | None = None) -> Roc:
    """The receiver operating characteristic of pairs.

    Args:
        energies: `(pairs,)`.
        same: 1 or True for genuine pairs, `(pairs,)`.
        weights: How much each pair counts, `(pairs,)`.
    """
    false_accepts, true_accepts, scores = roc_curve(
        np.asarray(same).astype(int), -np.asarray(energies, np.float64), sample_weight=weights
    )
    return Roc(false_accepts, true_accepts, -scores)


def area_under_curve(energies, same, weights=None) -> float:
    """Probability that a genuine pair has a lower energy than an imposite one; ties count half."""
    curve = roc(energies, same, weights)
    return float(np.trapezoid(curve.true_accepts, curve.false_accepts))


def equal_error_rate(energies, same, weights=None) -> float:
    """The error where as large a share of imposite pairs is accepted as of genuine ones refused.

    Between two points of the curve it is where the straight line between them has it.
    """
    curve = roc(energies, same, weights)
    # From -1 (all refused) to 1 (all accepted): the false accepts less the false refusals.
    difference = curve.false_accepts + curve.true_accepts - 1
    return float(np.interp(0.0, difference, curve.false_accepts))


def best_threshold(energies: np.ndarray, same: np.ndarray) -> float:
    """The threshold with the most pairs right, genuine and imposite ones weighing the same.

    It lies half-way between two energies. Choose it on other people than those it is used on.
    """
    curve = roc(energies, same)
    correct = curve.true_accepts - curve.false_accepts
    accepted = curve.thresholds[np.argmax(correct)]
    values = np.asarray(energies, np.float64)
    if not np.isfinite(accepted):  # no threshold is better than to refuse all
        return float(np.nextafter(values.min(), -np.inf))
    above = values[values > accepted]
    return float((accepted + above.min()) / 2 if above.size else accepted)


def accuracy(energies, same, threshold, weights=None) -> float:
    """Share of pairs that the threshold gets right, genuine and imposite ones weighing the same."""
    same = np.asarray(same, bool)
    weights = np.ones(len(same)) if weights is None else np.asarray(weights)
    correct = (np.asarray(energies) <= threshold) == same
    return float(np.mean([np.average(correct[k], weights=weights[k]) for k in (same, ~same)]))


def over_people(
    measure: Callable[..., float],
    energies: np.ndarray,
    same: np.ndarray,
    people: np.ndarray,
    seed: int = 0,
) -> Estimate:
    """A measure of pairs with its interval over people (a bootstrap).

    Pairs share people and are not independent. So people are drawn with replacement, and a pair
    counts as often as both of its people were drawn: half of the interval is 1.96 standard
    deviations of the measure over `REPEATS` such draws.

    Args:
        measure: `measure(energies, same, weights=...)`, such as `area_under_curve`.
        energies: `(pairs,)`.
        same: `(pairs,)`.
        people: The classes of both items of each pair, `(pairs, 2)`.
        seed: Chooses the draws.

    Returns:
        An `Estimate` whose n is the number of people.
    """
    names, people = np.unique(people, return_inverse=True)
    people = people.reshape(-1, 2)
    same = np.asarray(same, bool)
    generator, values = np.random.default_rng([seed, 2]), []
    for _ in range(REPEATS):
        counts = np.bincount(generator.integers(len(names), size=len(names)), minlength=len(names))
        weights = np.where(same, counts[people[:, 0]], counts[people].prod(axis=1)).astype(float)
        if weights[same].any() and weights[~same].any():
            used = weights > 0
            values.append(measure(energies[used], same[used], weights=weights[used]))
    spread = 1.96 * np.std(values, ddof=1) if len(values) > 1 else np.nan
    return Estimate(measure(energies, same), float(spread), len(names))


def identification(
    data: "FewShotData",
    embeddings: np.ndarray,
    energy: Callable,
    *,
    n_way: int,
    k_shot: int = 1,
    n_query: int = 1,
    n_episodes: int = 600,
    seed: int = 0,
) -> Estimate:
    """Who is it? The share of queries whose class has the lowest energy, over fixed episodes.

    Args:
        data: The classes to draw from; their labels count, not their items.
        embeddings: What the energy compares, `(items, d)`.
        energy: From `[(tasks, queries, 1, d), (tasks, 1, supports, d)]` to energies
            `(tasks, queries, supports)`.
        n_way: Classes in an episode.
        k_shot: Known items of each class; a class has the mean energy of its items.
        n_query: Unknown items of each class.
        n_episodes: Number of episodes.
        seed: Chooses the episodes.

    Returns:
        An `Estimate` over episodes.

    Raises:
        UserError: If there are too few classes or items.
    """
    embedded = replace(data, items=np.asarray(embeddings, np.float32))
    sampler = EpisodeSampler(embedded, n_way, k_shot, n_query, seed=seed)
    scores = []
    for episode in sampler.fixed(n_episodes, 50):
        energies = energy([episode.query_x[:, :, None], episode.support_x[:, None]])
        classes = np.eye(n_way)[episode.support_y] / k_shot  # (tasks, supports, n_way)
        by_class = np.asarray(energies) @ classes  # (tasks, queries, n_way)
        scores.append(np.mean(by_class.argmin(-1) == episode.query_y, axis=1))
    return Estimate.from_values(np.concatenate(scores))


def pair_energies(energy: Callable, embeddings: np.ndarray, pairs: Sequence) -> np.ndarray:
    """The energies of `common.pair_lists.Pairs`, `(pairs,)`."""
    first, second = embeddings[pairs.first], embeddings[pairs.second]
    return np.asarray(energy([first, second]), np.float64)
