"""What a run finds out: `Estimate`, a number with its interval, and `Result`, all of them."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from common.errors import UserError
from common.files import atomic_path

import numpy as np


class Estimate(NamedTuple):
    """A mean over `n` values (episodes, mostly) with the half-width of its 95 % interval."""

    mean: float
    ci95: float
    n: int

    @classmethod
    def from_values(cls, values: Any) -> "Estimate":
        """The mean of `values` and 1.96 standard errors; a single value has no interval (NaN).

        Where a value is not finite, neither are the mean and the interval.
        """
        values = np.asarray(values, dtype=np.float64).reshape(-1)
        if not values.size:
            raise ValueError("an estimate needs at least one value, got none")
        with np.errstate(invalid="ignore", over="ignore"):
            spread = values.std(ddof=1) if values.size > 1 else math.nan
            return cls(float(values.mean()), float(1.96 * spread / values.size**0.5), values.size)

    @classmethod
    def from_seeds(cls, values: Any) -> "Estimate":
        """The mean of one value a seed with the 95 % interval of Student's t, as seeds are few.

        A single value has no interval (NaN).
        """
        from scipy.stats import t  # takes a second to import

        estimate = cls.from_values(values)
        if estimate.n < 2:
            return estimate
        return estimate._replace(ci95=float(estimate.ci95 / 1.96 * t.ppf(0.975, estimate.n - 1)))

    @classmethod
    def restored(cls, value: Any) -> "Estimate":
        """An estimate as it is, or as it comes back from a result file: `null` becomes NaN."""
        if isinstance(value, Mapping):
            return cls(_number(value["mean"]), _number(value["ci95"]), value["n"])
        return value

    def text(self, scale: float = 1.0, unit: str = "") -> str:
        """For people, to two digits of the interval: `text(100, "%")` gives `98.70 ± 0.31 %`."""
        mean, ci95 = self.mean * scale, self.ci95 * abs(scale)
        if math.isfinite(ci95) and ci95 > 0:
            decimals = min(max(1 - math.floor(math.log10(ci95)), 0), 8)
            words = f"{mean:.{decimals}f} ± {ci95:.{decimals}f}"
        else:
            words = f"{mean:.4g}" + (" ± 0" if ci95 == 0 else "")
        return f"{words} {unit}".rstrip()


@dataclass
class Result:
    """What `run(config)` returns.

    Attributes:
        metrics: What was measured, by name.
        seconds: Wall time of the run with data loading and evaluation, set by `command.main`. Of
            a resumed run it is the sum over its parts; what a part did after it last wrote a file
            does not count, for it is done again.
        history: Learning curves, by name.
        extra: Whatever else JSON can hold, for example what the figures need.
        learner: The trained model; not saved here.
        seed, command, versions, device, config: How the result came about, set by `command.main`
            without the places of files; only a data set `folder:PATH` is told as it was given.
    """

    metrics: dict[str, Estimate]
    seconds: float = 0.0
    history: dict[str, list[float]] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    learner: Any = None
    seed: int | None = None
    command: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    device: str = ""
    config: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Writes all but the learner as JSON; a number that is not finite becomes `null`."""
        content = {name: value for name, value in vars(self).items() if name != "learner"}
        for long in ("history", "extra"):  # last, so that a reader meets the rest first
            content[long] = content.pop(long)
        write_json(path, content)

    @classmethod
    def load(cls, path: Path) -> "Result":
        """Reads what `save` wrote; `null` among the metrics and in the history becomes NaN."""
        content = read_json(path, "a result file")
        try:
            metrics = {
                name: Estimate(_number(entry["mean"]), _number(entry["ci95"]), entry["n"])
                for name, entry in content.pop("metrics").items()
            }
            history = {
                name: [_number(value) for value in values]
                for name, values in content.pop("history", {}).items()
            }
            return cls(metrics, history=history, **content)
        except (AttributeError, KeyError, TypeError) as error:
            raise UserError(f"expected a result file, but {path} lacks or adds: {error}") from None


def jsonable(value: Any) -> Any:
    """`value` in the types of JSON: arrays as lists, estimates as objects, NaN as null."""
    if isinstance(value, Estimate):
        return jsonable(value._asdict())
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if hasattr(value, "numpy"):  # a tensor
        value = value.numpy()
    if hasattr(value, "tolist"):  # a NumPy array or number
        return jsonable(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON object, whole or not at all."""
    text = json.dumps(jsonable(content), indent=2, allow_nan=False, ensure_ascii=False)
    # One line for a list of numbers.
    text = re.sub(r'\[\n[^\[\]{}"]*\]', lambda match: " ".join(match[0].split()), text)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Reads a JSON object; a `UserError` says of `what` it is that cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {what}, {path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged: expected a JSON object")
    return content
