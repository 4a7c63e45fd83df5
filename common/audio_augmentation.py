"""Sounds changed a little, for training only: shifted, stretched, noisy, partly hidden.

`augment` changes features inside a `tf.data` graph, anew at every step. `with_copies` changes the
waveforms themselves through librosa, once, and keeps the features of the changed copies.
"""

from dataclasses import replace

from common import audio
from common.errors import UserError
from common.files import cached_arrays
from common.sound_data import SoundData, digest

import numpy as np
import tensorflow as tf


def augment(
    features: tf.Tensor,
    seed: tf.Tensor,
    shift: float = 0.05,
    stretch: float = 0.1,
    warp: float = 0.05,
    noise: float = 0.1,
    mask: float = 0.1,
) -> tf.Tensor:
    """Changes each sound's features in its own way; a function of the seed alone.

    Time is shifted and stretched about its middle, and mel bands are stretched about the lowest,
    as another throat would: all by linear interpolation, and what comes from beyond an edge is
    the edge. Then noise is added, and one stretch of time and one of bands are set to zero, the
    mean (SpecAugment, Park et al. 2019, arXiv:1904.08779). For MFCC features take `warp=0`.

    Args:
        features: float32 `(..., frames, bands, 1)`.
        seed: int32 `(2,)`.
        shift: Largest shift, as a share of the frames.
        stretch: Tempo changes by a factor between `1 - stretch` and `1 + stretch`.
        warp: Bands move by a factor between `1 - warp` and `1 + warp`.
        noise: Largest standard deviation of the noise; features have about 1.
        mask: Largest share of frames, and of bands, that is hidden.

    Returns:
        float32, of the shape of `features`.
    """
    shape = tf.shape(features)
    frames, bands = features.shape[-3], features.shape[-2]
    x = tf.reshape(tf.cast(features, tf.float32), [-1, frames, bands])
    n = tf.shape(x)[0]
    seeds = tf.unstack(tf.random.experimental.stateless_split(seed, 9))

    def draw(low: float, high: float) -> tf.Tensor:  # one number for each sound, (n, 1)
        return tf.random.stateless_uniform([n, 1], seeds.pop(), low, high)

    middle = (frames - 1) / 2
    times = tf.range(frames, dtype=tf.float32)[tf.newaxis]  # (1, frames)
    times = middle + (times - middle) * draw(1 - stretch, 1 + stretch)
    x = _interpolated(x, times + frames * draw(-shift, shift), axis=1)
    places = tf.range(bands, dtype=tf.float32)[tf.newaxis] * draw(1 - warp, 1 + warp)
    x = _interpolated(x, places, axis=2)

    level = draw(0.0, noise)[..., tf.newaxis]
    x += level * tf.random.stateless_normal(tf.shape(x), seeds.pop())
    for axis, length in ((1, frames), (2, bands)):
        begin, size = draw(0.0, 1.0), draw(0.0, mask)
        along = tf.range(length, dtype=tf.float32)[tf.newaxis] / length
        hidden = (along >= begin * (1 - size)) & (along < begin * (1 - size) + size)
        x = tf.where(tf.expand_dims(hidden, 3 - axis), 0.0, x)
    return tf.ensure_shape(tf.reshape(x, shape), features.shape)


def with_copies(data: SoundData, n_copies: int, seed: int = 0) -> SoundData:
    """Adds changed copies of every sound of a training split, cached.

    Args:
        data: The training split.
        n_copies: Copies of each sound besides itself.
        seed: Decides the changes.

    Returns:
        The data with `n_copies` times as many items more; a copy's name ends in "'".

    Raises:
        UserError: if it is another split, or the number is negative.
    """
    if data.split != "train" or n_copies < 0:
        raise UserError(
            "Expected a number of copies of 0 or above and the split train: sounds are changed in "
            f"training only. Received: {n_copies} copies, split {data.split!r}."
        )
    if n_copies == 0:
        return data
    numbers = [(copy, index) for copy in range(n_copies) for index in range(len(data.items))]

    def changed(copy: int, index: int) -> np.ndarray:
        random = np.random.default_rng([seed, copy, index])
        return changed_waveform(data.waveform(index), data.rate, random)

    key = digest(data.content, n_copies, seed)
    copies = cached_arrays(
        f"{data.name.partition(':')[0]}-copies",
        key,
        lambda: {"features": audio.features((changed(*i) for i in numbers), data.sound_format)},
    )["features"]

    def read(index: int) -> np.ndarray:
        index = range(len(data.items) * (1 + n_copies))[index]
        if index < len(data.items):
            return data.waveform(index)
        return changed(*numbers[index - len(data.items)])

    return replace(
        data,
        items=np.concatenate([data.items, copies]),
        labels=np.tile(data.labels, 1 + n_copies),
        item_names=data.item_names + tuple(f"{data.item_names[i]}'" for _, i in numbers),
        item_groups=data.item_groups * (1 + n_copies),
        read=read,
        content=key,
    )


def changed_waveform(wave: np.ndarray, rate: int, random: np.random.Generator) -> np.ndarray:
    """A waveform played faster or slower, at another pitch, later, and with noise.

    Tempo changes by up to 20 %, pitch by up to two semitones, up to a tenth of a second of
    silence comes before it, and noise is 20 to 40 decibels below the loudest sample.
    """
    from librosa import effects

    wave = effects.time_stretch(wave, rate=random.uniform(0.8, 1.25), n_fft=512)
    wave = effects.pitch_shift(wave, sr=rate, n_steps=random.uniform(-2, 2), n_fft=512)
    wave = np.pad(wave, (int(random.uniform(0, 0.1) * rate), 0))
    level = 10 ** random.uniform(-2.0, -1.0) * np.abs(wave).max()
    return (wave + level * random.normal(0, 1 / 3, len(wave))).astype(np.float32)


def _interpolated(x: tf.Tensor, places: tf.Tensor, axis: int) -> tf.Tensor:
    """Each sound of `x`, `(n, frames, bands)`, at places of its own along an axis."""
    length = x.shape[axis]
    places = tf.clip_by_value(places, 0.0, length - 1.0)  # (n, length)
    below = tf.cast(tf.minimum(tf.floor(places), length - 2.0), tf.int32)
    weight = tf.expand_dims(places - tf.cast(below, tf.float32), 3 - axis)
    low = tf.gather(x, below, axis=axis, batch_dims=1)
    return low + weight * (tf.gather(x, below + 1, axis=axis, batch_dims=1) - low)
