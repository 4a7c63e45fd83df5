"""One table of learners of a family, each relative to the first: what it gains, and what it costs.

`results/learners.toml` says what each column and each row is; the numbers come from files alone:

    table = "gradient-family"            # between `<!-- results:gradient-family -->` and its end

    [[gain]]
    key = "waves"                        # the field of a learner that names its metric
    title = "waves, error less MAML's"
    scale = 1
    unit = ""

    [[cost]]
    title = "outer step, waves"
    result = "variants_sine"             # results/variants_sine.json, of tests.benchmarks.variants

    [[learner]]
    name = "CAML"
    idea = "adapts a context, not the weights"
    benchmark = "CAML"                   # its name in the files of costs
    waves = ["caml_sine", "CAML_less_MAML_mean_squared_error_after_1_steps"]

Before the name of a metric that was taken the other way round stands a minus: `"-MAML_less_CAML"`.
A learner without a metric for a column, or without a time in a file, has an empty cell.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.results import Result, read_json

FIELDS = {"name", "idea", "benchmark"}  # of a learner, beside the keys of the gains


def learner_tables(root: Path) -> dict[str, str]:
    """The Markdown of the table in `results/learners.toml`, by name; `{}` without that file.

    Raises:
        UserError: The file is not as told above, or what it names is not there.
    """
    path = root / "results" / "learners.toml"
    if not path.exists():
        return {}
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        gains, costs = content["gain"], content["cost"]
        known = FIELDS | {gain["key"] for gain in gains}
        titles = [column["title"] for column in (*gains, *costs)]
        lines = [
            "| " + " | ".join(("learner", "what is its own", *titles)) + " |",
            "|---" * (2 + len(titles)) + "|",
        ]
        for learner in content["learner"]:
            if wrong := learner.keys() - known:
                raise UserError(f"a learner of {path} must not have: {', '.join(sorted(wrong))}")
            cells = [learner["name"], learner["idea"]]
            cells += [_gain(root, gain, learner.get(gain["key"])) for gain in gains]
            cells += [_cost(root, cost["result"], learner.get("benchmark")) for cost in costs]
            lines.append("| " + " | ".join(cells) + " |")
        return {content["table"]: "\n".join(lines)}
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except KeyError as error:
        raise UserError(f"{path} lacks {error}") from None
    except ValueError as error:
        raise UserError(f"{path} must be TOML: {error}") from None


def _gain(root: Path, column: Mapping[str, Any], source: tuple[str, str] | None) -> str:
    """The cell of a metric `(result, metric)`, with its interval."""
    if source is None:
        return ""
    name, metric = source
    sign, metric = (-1, metric[1:]) if metric.startswith("-") else (1, metric)
    path = root / "results" / f"{name}.json"
    metrics = Result.load(path).metrics
    if metric not in metrics:
        raise UserError(f"{path} has no metric {metric!r}; it has {', '.join(metrics)}")
    return metrics[metric].text(sign * column.get("scale", 1), column.get("unit", ""))


def _cost(root: Path, name: str, learner: str | None) -> str:
    """Seconds of the learner relative to those of the first in the file: `0.49`."""
    rows = read_json(root / "results" / f"{name}.json", "a benchmark's file")["rows"]
    seconds = {row["learner"]: row["seconds"] for row in rows}
    if learner not in seconds:
        return ""
    first = rows[0]["seconds"]
    if learner == rows[0]["learner"]:
        return f"{1000 * first:,.{0 if first > 0.01 else 1}f} ms"
    return f"{seconds[learner] / first:.2f}"
