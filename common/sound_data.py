"""Few-shot data whose items are features of sounds, and whose waveforms can be heard."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from common import audio
from common.audio import SoundFormat
from common.datasets import FewShotData
from common.files import cached_arrays

import numpy as np


@dataclass(frozen=True, eq=False, repr=False)
class SoundData(FewShotData):
    """A `FewShotData` of sounds: items are float32 `(n, frames, bands, 1)`.

    Attributes:
        sound_format: What the sounds were made into.
        item_names: One name for each item: "7_jackson_32", a file's name, ...
        item_groups: The group of each item: its speaker, or "" where nothing is known.
        read: Gives item `i`'s waveform, float32 `(samples,)` at `sound_format.rate`.
        content: Digest of the sounds and the format, for caches of what is made from them.
    """

    sound_format: SoundFormat = field(default_factory=SoundFormat)
    item_names: tuple[str, ...] = ()
    item_groups: tuple[str, ...] = ()
    read: Callable[[int], np.ndarray] | None = None
    content: str = ""

    @property
    def rate(self) -> int:
        """Samples a second of the waveforms."""
        return self.sound_format.rate

    def waveform(self, index: int) -> np.ndarray:
        """Item `index` as it was recorded: float32 `(samples,)`, of any length."""
        return self.read(int(index))


def digest(*parts: object) -> str:
    """A short digest of the `repr` of all that something depends on."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def cached_features(
    name: str, content: object, waves: Callable[[], Iterable[np.ndarray]], sound_format: SoundFormat
) -> np.ndarray:
    """Features of many sounds, from the cache if neither they nor the format changed.

    Args:
        name: Start of the cache file's name.
        content: All that the sounds depend on; its `repr` counts.
        waves: Gives the waveforms; called only if the cache has no features of them.
        sound_format: What to make of them.

    Returns:
        float32 `(n, *sound_format.shape)`.
    """
    key = (sound_format.key, content)
    build = lambda: {"features": audio.features(waves(), sound_format)}  # noqa: E731
    return cached_arrays(f"{name}-{sound_format.kind}", key, build)["features"]
