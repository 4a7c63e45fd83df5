"""The weights of the best epoch, for training that ends with them rather than with the last."""

from pathlib import Path

from common.errors import UserError
from common.files import atomic_path

import keras
import numpy as np


class BestWeights(keras.callbacks.Callback):
    """Remembers the weights of the epoch with the lowest `val_loss`, also over a resume.

    Args:
        history: The learning curves, in which `val_loss` has the epochs before this one.
        folder: Where to keep the weights as well, or None.
    """

    def __init__(self, history: dict[str, list[float]], folder: Path | None = None):
        super().__init__()
        self.history, self.weights = history, None
        self.path = None if folder is None else Path(folder) / "best.npz"

    def on_epoch_end(self, epoch, logs=None):
        earlier = [loss for loss in self.history.get("val_loss", []) if np.isfinite(loss)]
        # Not above, as an epoch that a resumed run repeats has the same loss again.
        if not logs["val_loss"] <= min(earlier, default=np.inf):
            return
        self.weights = [v.numpy() for v in self.model.trainable_variables]
        if self.path is not None:
            with atomic_path(self.path) as temporary:
                np.savez(temporary, *self.weights)

    def restore(self, learner: keras.Model) -> None:
        """Gives the learner the best weights; without a finite `val_loss` it keeps its own.

        Raises:
            UserError: If their file is damaged.
        """
        weights = self.weights
        if weights is None and self.path is not None and self.path.is_file():
            try:
                with np.load(self.path) as archive:
                    weights = list(archive.values())
            except Exception as error:  # any of the ways that a zip archive can be damaged
                raise UserError(
                    f"{self.path} is damaged ({error}). Run without --resume to start again."
                ) from None
        for variable, weight in zip(learner.trainable_variables, weights or []):
            variable.assign(weight)
