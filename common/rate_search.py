"""The best rate of gradient descent from a given start: what a learned optimiser has to beat."""

import math

from common import adaptation
from common.datasets import load
from common.episodes import EpisodeSampler
from common.errors import UserError
from common.results import Estimate


def check_rates(rates):
    """Raises `UserError` unless there are rates, all above 0."""
    if not rates or not all(0 < rate < math.inf for rate in rates):
        given = " ".join(map(str, rates)) or "none"
        raise UserError(f"--sgd-rates must be numbers greater than 0, got {given}")


def best(new_learner, rates, config):
    """Tries rates on tasks of the validation classes, which are neither trained nor tested on.

    Args:
        new_learner: `new_learner(rate)` gives a gradient-based learner.
        rates: The rates to try.
        config: The script's `Config`, with `rate_episodes`.

    Returns:
        A dictionary for JSON: `best`, the rate with the best mean score after `config.test_steps`
        inner steps, and `tried`, each rate as text with its `Estimate`.
    """
    settings = config.run
    data = load(settings.dataset, "validation", settings.data_dir)
    shots = config.test_k_shot or config.k_shot
    options = {"rotations": config.rotations, "seed": settings.seed}
    sampler = EpisodeSampler(data, config.n_way, shots, config.n_query, **options)
    episodes = sampler.fixed(config.rate_episodes, config.meta_batch_size)
    tried, signs = {}, {}
    for rate in rates:
        learner = new_learner(rate)
        scores = adaptation.scores_by_step(learner, episodes, config.test_steps)
        tried[rate] = Estimate.from_values(scores[:, config.test_steps])
        signs[rate] = 1 if learner.classifies else -1  # an error is best where it is lowest
    chosen = max(
        (r for r in tried if math.isfinite(tried[r].mean)), key=lambda r: signs[r] * tried[r].mean
    )
    return {"best": chosen, "tried": {str(rate): estimate for rate, estimate in tried.items()}}
