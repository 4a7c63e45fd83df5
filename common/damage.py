"""Damaged images among the whole ones: episodes in which some images have lost their detail."""

from common.errors import UserError
from common.tasks import Episode, whole_number

import tensorflow as tf

_STREAM = 0x0DA  # folded into the seeds of episodes, so that damage is drawn apart from them


class DamagedSampler:
    """Episodes of another sampler in which each image is damaged with a given probability.

    A damaged image is reduced and enlarged again, as in Fort (2017): its detail is gone, its size
    stays. Which images are damaged is drawn in the `tf.data` graph from a stateless seed: it is
    the same in every process, and episode i without its damage is episode i of the `sampler`.

    Args:
        sampler: An `EpisodeSampler` of images.
        share: Probability that an image is damaged, 0..1.
        factor: How many times smaller an image gets on the way; 4 makes 28 pixels 7.
        queries: Whether queries are damaged too, or only support images.

    Raises:
        UserError: If `share` or `factor` is out of range, or the items are no images.
    """

    def __init__(self, sampler, share, factor=4, queries=True):
        if not 0 <= share <= 1:
            raise UserError(f"the share of damaged images must be between 0 and 1, got {share}")
        shape = getattr(sampler.data, "items", None)
        shape = () if shape is None else shape.shape[1:]
        if len(shape) != 3:
            raise UserError(
                f"only images (height, width, channels) can be damaged, found items of shape "
                f"{shape}; choose a data set of images or a share of 0"
            )
        self.sampler, self.data, self.seed = sampler, sampler.data, sampler.seed
        self.share, self.queries = share, queries
        self.factor = whole_number("factor", factor, minimum=1, maximum=min(shape[:2]))

    def dataset(self, meta_batch_size, start_step=0):
        """As `EpisodeSampler.dataset`: batch number s depends on `(seed, s)` only."""
        steps = tf.data.Dataset.counter(start_step)
        batches = self.sampler.dataset(meta_batch_size, start_step)
        return self._damaged(steps, 2 * self.seed, batches)

    def fixed(self, n_episodes, meta_batch_size):
        """As `EpisodeSampler.fixed`: the damage of episode i depends on `(seed, i)` only."""
        numbers = tf.data.Dataset.range(whole_number("n_episodes", n_episodes, minimum=1))
        single = self.sampler.fixed(n_episodes, 1)
        damaged = self._damaged(numbers, 2 * self.seed + 1, single)
        if meta_batch_size == 1:
            return damaged
        every_batch_full = n_episodes % meta_batch_size == 0
        return damaged.unbatch().batch(meta_batch_size, every_batch_full)

    def episode(self, index):
        """Fixed episode number `index` as NumPy arrays without the task axis, to look at."""
        episode = self.sampler.episode(index)
        support, query = (tf.constant(mask[None]) for mask in self.masks(index))
        support_x = _where_damaged(support, episode.support_x[None], self.factor)[0].numpy()
        query_x = _where_damaged(query, episode.query_x[None], self.factor)[0].numpy()
        return episode._replace(support_x=support_x, query_x=query_x)

    def masks(self, index):
        """Which images of fixed episode `index` are damaged: bool `(supports,)`, `(queries,)`."""
        episode = self.sampler.episode(index)
        sizes = [(1, len(part)) for part in (episode.support_y, episode.query_y)]
        seed = tf.stack([2 * self.seed + 1, index])
        return tuple(mask.numpy()[0] for mask in self._draw(seed, *sizes))

    def _draw(self, seed, *shapes):
        """Masks of the support and of the query images, of the given shapes."""
        seed = tf.random.experimental.stateless_fold_in(seed, _STREAM, alg="philox")
        seeds = tf.unstack(tf.random.split(seed, len(shapes), alg="philox"))
        shares = (self.share, self.share if self.queries else 0.0)
        return [
            tf.random.stateless_uniform(shape, own, alg="philox") < share
            for shape, own, share in zip(shapes, seeds, shares, strict=True)
        ]

    def _damaged(self, numbers, stream, episodes):
        @tf.autograph.experimental.do_not_convert
        def damage(number, episode):
            episode = Episode(*episode)
            seed = tf.stack([tf.cast(stream, tf.int32), tf.cast(number, tf.int32)])
            support, query = self._draw(seed, episode.support_y.shape, episode.query_y.shape)
            return episode._replace(
                support_x=_where_damaged(support, episode.support_x, self.factor),
                query_x=_where_damaged(query, episode.query_x, self.factor),
            )

        pairs = tf.data.Dataset.zip((numbers, episodes))
        mapped = pairs.map(damage, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return mapped.prefetch(tf.data.AUTOTUNE)


def damaged_images(images, factor=4):
    """Images `(n, height, width, channels)` reduced `factor` times and enlarged again.

    Reduced by averaging, enlarged bilinearly; float32 in the range that they had.
    """
    size = images.shape[1:3]
    small = [max(1, round(side / factor)) for side in size]
    return tf.image.resize(tf.image.resize(images, small, method="area"), size)


def _where_damaged(mask, images, factor):
    """Damages the images `(tasks, items, height, width, channels)` where the mask says so."""
    flat = tf.reshape(images, [-1, *images.shape[2:]])
    damaged = tf.reshape(damaged_images(flat, factor), tf.shape(images))
    return tf.where(mask[..., None, None, None], damaged, images)
