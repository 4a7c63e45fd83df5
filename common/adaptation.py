"""Gradient-based learners watched step by step.

Everything here asks of a learner what `chapter05_maml_adml.maml.MAML` and its variants offer:
`adapt`, `inner_step` and `predict_with`; and `predict_queries(fast_weights, episode)` of one that
does not see all queries in one batch. What `inner_step` returns is handed to the next one whole.
"""

from functools import partial

import numpy as np
import tensorflow as tf


def scores_by_step(learner, episodes, steps=10):
    """The score of every task after 0, 1, ..., `steps` inner steps.

    Args:
        learner: A gradient-based `MetaLearner`.
        episodes: Batches of `Episode`, such as `sampler.fixed(600, 25)`.
        steps: The largest number of inner steps.

    Returns:
        NumPy `(n_episodes, steps + 1)`.
    """
    # Graphs of one step and of its scores: one of all steps takes seconds to make. `partial`,
    # because TensorFlow warns if it meets the same function again, with every learner.
    inner_step = tf.function(partial(learner.inner_step))
    task_scores = tf.function(partial(_task_scores, learner))

    def scores(episode):
        fast_weights = learner.adapt(episode.support_x, episode.support_y, steps=0)
        found = [task_scores(fast_weights, episode)]
        for step in range(steps):
            later = min(step, 1)  # all later steps are alike, and share one graph
            fast_weights = inner_step(
                fast_weights, episode.support_x, episode.support_y, step=later
            )
            found.append(task_scores(fast_weights, episode))
        return np.stack(found, axis=1)

    return np.concatenate([scores(episode) for episode in episodes])


def _task_scores(learner, fast_weights, episode):
    predictions = _predict_queries(learner, fast_weights, episode)
    return learner.task_scores(episode.query_y, predictions)


def _predict_queries(learner, fast_weights, episode):
    """Outputs for the queries, by the learner's own way to batch them if it has one."""
    if hasattr(learner, "predict_queries"):
        return learner.predict_queries(fast_weights, episode)
    return learner.predict_with(fast_weights, episode.query_x)


def predictions_by_step(learner, episode, steps=10):
    """Predictions for the queries of one task after 0, 1, ..., `steps` inner steps.

    Args:
        learner: A gradient-based `MetaLearner`.
        episode: An `Episode` of NumPy arrays without task axis; its `query_y` is not looked at.
        steps: The largest number of inner steps.

    Returns:
        NumPy `(steps + 1, queries, outputs)`.
    """
    tensors = [tf.convert_to_tensor(part)[None] for part in episode]
    found = _predictions(learner, type(episode)(*tensors), steps)
    return np.stack([tf.cast(predictions[0], tf.float32) for predictions in found])


def _predictions(learner, episode, steps):
    fast_weights = learner.adapt(episode.support_x, episode.support_y, steps=0)
    for step in range(steps + 1):
        if step:
            fast_weights = learner.inner_step(
                fast_weights, episode.support_x, episode.support_y, step=step - 1
            )
        yield _predict_queries(learner, fast_weights, episode)
