"""How far a query may be from a class before the answer is "unknown": calibrated distances.

The distance of a query from a class is minus its logit, for prototypical networks the squared
Euclidean distance from the prototype. Accepted are queries nearer to some class than 95 % of the
genuine ones, of classes that training never saw, are to their own.
"""

from common.datasets import load
from common.episodes import EpisodeSampler
from common.learner import Episode
from common.results import Estimate

import numpy as np
import tensorflow as tf

GENUINE = 0.95  # share of the genuine queries that are accepted
SHOTS = (1, 5)  # support items of a class, for each of which there is a distance
N_WAY, N_QUERY, EPISODES = 5, 5, 100


def calibrate(learner, validation, seed=0, n_episodes=EPISODES):
    """What is needed to refuse strangers, from the classes of validation.

    Args:
        learner: A trained classifying `MetaLearner`.
        validation: A `FewShotData` of classes on which it was not trained.
        seed: Of the episodes.
        n_episodes: Number of episodes.

    Returns:
        A dictionary for `result.json`: the shape of an item (`input_shape`), whether items are
        `drawn`, light on black, and by number of shots (`"1"`, `"5"`) the distance `accepted`.
    """
    most = min(np.bincount(validation.labels)) - 1  # shots that leave a query in each class
    accepted = {}
    for k_shot in (shots for shots in SHOTS if shots <= most):
        genuine, _ = distances(learner, validation, k_shot, seed, n_episodes)
        accepted[str(k_shot)] = float(np.quantile(genuine, GENUINE))
    edge = np.concatenate([validation.items[:, 0].ravel(), validation.items[:, -1].ravel()])
    return {
        "input_shape": list(validation.items.shape[1:]),
        "drawn": bool(np.median(edge) == 0),
        "accepted": accepted,
    }


def distances(learner, data, k_shot, seed=0, n_episodes=EPISODES):
    """Distances of known queries and of strangers.

    Of the classes of an episode, half (at most 5) are in the support set; the others' items are
    the strangers.

    Returns:
        `(genuine, strangers)`, each `(episodes, queries)`: the distance of a query from its own
        class, and that of a stranger from the class nearest to it.
    """
    n_way = min(N_WAY, len(data.class_names) // 2)
    n_query = min(N_QUERY, min(np.bincount(data.labels)) - k_shot)
    sampler = EpisodeSampler(data, 2 * n_way, k_shot, n_query, seed=seed)
    predict = tf.function(learner.query_predictions)
    genuine, strangers = [], []
    for episode in sampler.fixed(n_episodes, 1):
        episode = Episode(*(part[0].numpy() for part in episode))
        known = episode.support_y < n_way
        shown = (episode.support_x[known], episode.support_y[known], *episode[2:])
        logits = predict(Episode(*(tf.constant(part)[None] for part in shown)))[0].numpy()
        is_known = episode.query_y < n_way
        genuine.append(-logits[is_known, episode.query_y[is_known]])
        strangers.append(-logits[~is_known].max(axis=1))
    return np.array(genuine), np.array(strangers)


def accepted_distance(recognition, k_shot):
    """The calibrated distance for so many shots, or None if there is none."""
    fitting = [int(shots) for shots in recognition["accepted"] if int(shots) <= k_shot]
    return recognition["accepted"][str(max(fitting))] if fitting else None


def add_to(result, config):
    """Calibrates the learner of a `Result`, and measures it on the classes of meta-test.

    Adds to `result.extra` what `calibrate` returns as `recognition`, and to its metrics how many
    known queries are `accepted` and how many `strangers_refused`.

    Args:
        result: A `Result` with its learner; its metrics' names begin with that of the learner.
        config: The script's `Config`.

    Returns:
        The same `Result`.
    """
    settings, n_episodes = config.run, min(EPISODES, config.eval_episodes)
    data = {
        split: load(settings.dataset, split, settings.data_dir) for split in ("validation", "test")
    }
    options = {"seed": settings.seed, "n_episodes": n_episodes}
    recognition = calibrate(result.learner, data["validation"], **options)
    result.extra["recognition"] = recognition
    limit = accepted_distance(recognition, config.k_shot)
    if limit is not None and min(np.bincount(data["test"].labels)) > config.k_shot:
        genuine, strangers = distances(result.learner, data["test"], config.k_shot, **options)
        name = next(iter(result.metrics)).partition("_")[0]
        task = f"{min(N_WAY, len(data['test'].class_names) // 2)}_way_{config.k_shot}_shot"
        shares = {"accepted": genuine <= limit, "strangers_refused": strangers > limit}
        for what, share in shares.items():
            estimate = Estimate.from_values(np.mean(share, axis=1))
            result.metrics[f"{name}_{what}_{task}"] = estimate
    return result
