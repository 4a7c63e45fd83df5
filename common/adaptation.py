"""Gradient-based learners watched step by step.

Everything here asks of a learner what `chapter05_maml_adml.maml.MAML` and its variants offer:
`adapt`, `inner_step` and `predict_with`.
"""

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

    @tf.function
    def scores(episode):
        return tf.stack(
            [
                learner.task_scores(episode.query_y, predictions)
                for predictions in _predictions(learner, episode, steps)
            ],
            axis=1,
        )

    return np.concatenate([scores(episode) for episode in episodes])


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
            fast_weights = learner.inner_step(fast_weights, episode.support_x, episode.support_y)
        yield learner.predict_with(fast_weights, episode.query_x)
